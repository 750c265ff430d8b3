//===- MaskTest.cpp - Predicates and key ranges against brute force -------===//
//
// A key range may be conservative, never wrong: no attended key outside
// [lo, hi), every row of the block attends all of [fullLo, fullHi). Causal and
// window masks are also exact, which is what skips their empty blocks.
//
//===----------------------------------------------------------------------===//

#include "dialects/attn/Attn.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/OwningOpRef.h"
#include "mlir/Parser/Parser.h"

#include "gtest/gtest.h"

#include <functional>

using namespace mlir;
using namespace attnc::attn;

namespace {

/// The numbers of one call.
struct Call {
  int64_t qLen, kLen, left, right;
};

using Keep = std::function<bool(const Call &, int64_t i, int64_t j)>;

struct Range {
  int64_t lo, fullLo, fullHi, hi;
};

/// What a mask emits, evaluated by folding.
class Evaluator {
public:
  explicit Evaluator(StringRef mask) {
    context.loadDialect<AttnDialect, func::FuncDialect>();
    std::string text =
        ("func.func @f(%l: i32, %r: i32) {\n%m = " + mask + "\nreturn\n}")
            .str();
    module = parseSourceString<ModuleOp>(text, &context);
    if (!module)
      return;
    auto function = *module->getOps<func::FuncOp>().begin();
    left = function.getArgument(0);
    right = function.getArgument(1);
    for (Operation &op : function.front())
      if (auto found = dyn_cast<MaskOpInterface>(op))
        emit(found);
  }

  bool isValid() const { return keep != nullptr; }

  bool keeps(const Call &call, int64_t i, int64_t j) {
    start(call);
    set(position.i, i);
    set(position.j, j);
    return get(keep);
  }

  Range range(const Call &call, int64_t i0, int64_t count) {
    start(call);
    set(rows.i0, i0);
    set(rows.count, count);
    return {get(keys.lo), get(keys.fullLo), get(keys.fullHi), get(keys.hi)};
  }

  Range queryRange(const Call &call, int64_t j0, int64_t count) {
    start(call);
    set(keyRows.j0, j0);
    set(keyRows.count, count);
    return {get(queries.lo), get(queries.fullLo), get(queries.fullHi),
            get(queries.hi)};
  }

private:
  void emit(MaskOpInterface mask) {
    OpBuilder builder(&context);
    Location loc = builder.getUnknownLoc();
    auto argument = [&](Type type) { return block.addArgument(type, loc); };
    Type i32 = builder.getI32Type(), index = builder.getIndexType();
    position = {argument(i32), argument(i32), argument(i32),
                argument(i32), argument(i32), argument(i32)};
    rows = {argument(index), argument(index), argument(index),
            argument(index), argument(index), argument(index)};
    keyRows = {argument(index), argument(index), argument(index),
               argument(index), argument(index), argument(index)};
    builder.setInsertionPointToEnd(&block);
    keep = mask.buildPredicate(builder, loc, position, {});
    // What every kernel starts from: the keys of the sequence.
    Value zero = arith::ConstantIndexOp::create(builder, loc, 0);
    KeyRange all = {zero, zero, rows.kLen, rows.kLen};
    keys = intersect(builder, loc, all, mask.buildKeyRange(builder, loc, rows));
    all = {zero, zero, keyRows.qLen, keyRows.qLen};
    queries = intersect(builder, loc, all,
                        mask.buildQueryRange(builder, loc, keyRows));
  }

  void start(const Call &call) {
    known.clear();
    set(left, call.left);
    set(right, call.right);
    set(position.b, 0);
    set(position.h, 0);
    set(position.qLen, call.qLen);
    set(position.kLen, call.kLen);
    set(rows.qLen, call.qLen);
    set(rows.kLen, call.kLen);
    set(keyRows.qLen, call.qLen);
    set(keyRows.kLen, call.kLen);
  }

  void set(Value value, int64_t number) {
    known[value] = IntegerAttr::get(value.getType(), number);
  }

  int64_t get(Value value) {
    auto number = dyn_cast_or_null<IntegerAttr>(evaluate(value));
    EXPECT_TRUE(number) << "does not fold";
    if (!number)
      return 0;
    return value.getType().isInteger(1) ? number.getValue().getBoolValue()
                                        : number.getInt();
  }

  Attribute evaluate(Value value) {
    if (Attribute number = known.lookup(value))
      return number;
    Operation *op = value.getDefiningOp();
    if (!op)
      return {};
    SmallVector<Attribute> operands;
    for (Value operand : op->getOperands())
      operands.push_back(evaluate(operand));
    SmallVector<OpFoldResult> results;
    if (failed(op->fold(operands, results)) || results.empty())
      return {};
    Attribute number = dyn_cast<Attribute>(results[0]);
    if (!number)
      number = evaluate(cast<Value>(results[0]));
    known[value] = number;
    return number;
  }

  MLIRContext context;
  OwningOpRef<ModuleOp> module;
  Block block;
  Value left, right, keep;
  MaskPosition position;
  QueryRows rows;
  KeyRows keyRows;
  KeyRange keys;
  QueryRange queries;
  DenseMap<Value, Attribute> known;
};

/// Whether any and whether all positions of a block attend one of the other
/// side.
struct Attended {
  bool any = false, all = true;
  void add(bool keep) {
    any |= keep;
    all &= keep;
  }
};

/// That a block's range of `count` positions agrees with `attended(position)`;
/// `exact` also asks for the tightest range.
void compareRange(const Range &range, int64_t count, bool exact,
                  function_ref<Attended(int64_t)> attended) {
  int64_t first = count, last = -1;
  for (int64_t at = 0; at < count; ++at) {
    Attended block = attended(at);
    bool inside = range.lo <= at && at < range.hi;
    bool full = range.fullLo <= at && at < range.fullHi;
    ASSERT_TRUE(!block.any || inside) << "position " << at;
    ASSERT_TRUE(!full || block.all) << "position " << at;
    if (exact)
      ASSERT_EQ(full, block.all) << "position " << at;
    if (block.any) {
      first = std::min(first, at);
      last = at;
    }
  }
  if (exact && last >= 0) {
    ASSERT_EQ(range.lo, first);
    ASSERT_EQ(range.hi, last + 1);
  } else if (exact) {
    ASSERT_GE(range.lo, range.hi);
  }
  ASSERT_GE(range.lo, 0);
  ASSERT_LE(range.hi, count);
}

/// Every key of every row of every block, and every query of every block of
/// keys.
void compare(StringRef mask, const Keep &wanted, bool exact,
             ArrayRef<Call> calls) {
  Evaluator evaluator(mask);
  ASSERT_TRUE(evaluator.isValid()) << mask.str();
  constexpr int64_t block = 4;
  for (const Call &call : calls) {
    SCOPED_TRACE(testing::Message() << mask.str() << " q_len " << call.qLen
                                    << " k_len " << call.kLen << " left "
                                    << call.left << " right " << call.right);
    for (int64_t i = 0; i < call.qLen; ++i)
      for (int64_t j = 0; j < call.kLen; ++j)
        ASSERT_EQ(evaluator.keeps(call, i, j), wanted(call, i, j))
            << i << ", " << j;
    // Of the rows or keys from `first` on that make a block.
    auto attended = [&](int64_t first, int64_t length, auto wants) {
      Attended all;
      for (int64_t n = first; n < std::min(first + block, length); ++n)
        all.add(wants(n));
      return all;
    };
    for (int64_t i0 = 0; i0 < call.qLen; i0 += block) {
      SCOPED_TRACE(testing::Message() << "i0 " << i0);
      compareRange(
          evaluator.range(call, i0, block), call.kLen, exact, [&](int64_t j) {
            return attended(i0, call.qLen,
                            [&](int64_t i) { return wanted(call, i, j); });
          });
    }
    for (int64_t j0 = 0; j0 < call.kLen; j0 += block) {
      SCOPED_TRACE(testing::Message() << "j0 " << j0);
      compareRange(evaluator.queryRange(call, j0, block), call.qLen, exact,
                   [&](int64_t i) {
                     return attended(j0, call.kLen, [&](int64_t j) {
                       return wanted(call, i, j);
                     });
                   });
    }
  }
}

int64_t shift(const Call &call) { return call.kLen - call.qLen; }

/// Queries and keys of equal and of different numbers, fewer than a block too.
SmallVector<Call> makeCalls(ArrayRef<std::pair<int64_t, int64_t>> widths) {
  SmallVector<Call> calls;
  for (auto [qLen, kLen] :
       {std::pair(1, 1), {3, 9}, {9, 3}, {10, 10}, {6, 13}, {13, 6}, {5, 0}})
    for (auto [left, right] : widths)
      calls.push_back({qLen, kLen, left, right});
  return calls;
}

// S-causal
TEST(Mask, CausalBottomRight) {
  compare(
      "attn.causal_mask",
      [](const Call &call, int64_t i, int64_t j) {
        return j <= i + shift(call);
      },
      /*exact=*/true, makeCalls({{0, 0}}));
}

// S-causal
TEST(Mask, CausalTopLeft) {
  compare(
      "attn.causal_mask align top_left",
      [](const Call &, int64_t i, int64_t j) { return j <= i; },
      /*exact=*/true, makeCalls({{0, 0}}));
}

// S-window: inclusive on both sides, -1 = unlimited, however wide.
TEST(Mask, Window) {
  int64_t wide = std::numeric_limits<int32_t>::max();
  auto calls = makeCalls({{0, 0},
                          {2, 1},
                          {-1, 0},
                          {0, -1},
                          {-1, -1},
                          {5, 2},
                          {wide, 0},
                          {wide, wide}});
  auto inside = [](const Call &call, int64_t diagonal, int64_t j) {
    return (call.left < 0 || j >= diagonal - call.left) &&
           (call.right < 0 || j <= diagonal + call.right);
  };
  compare(
      "attn.window_mask %l, %r",
      [&](const Call &call, int64_t i, int64_t j) {
        return inside(call, i + shift(call), j);
      },
      /*exact=*/true, calls);
  compare(
      "attn.window_mask %l, %r align top_left",
      [&](const Call &call, int64_t i, int64_t j) {
        return inside(call, i, j);
      },
      /*exact=*/true, calls);
}

TEST(Mask, Dilated) {
  auto calls = makeCalls({{1, 0}, {2, 0}, {3, 0}});
  compare(
      "attn.dilated_mask %l",
      [](const Call &call, int64_t i, int64_t j) {
        return (i + shift(call) - j) % call.left == 0;
      },
      /*exact=*/false, calls);
  // A stride that is none does not divide by zero.
  compare(
      "attn.dilated_mask %l",
      [](const Call &, int64_t, int64_t) { return true; },
      /*exact=*/false, makeCalls({{0, 0}, {-3, 0}}));
}

TEST(Mask, Predicate) {
  compare(
      "attn.predicate_mask {\n^bb0(%b: i32, %h: i32, %i: i32, %j: i32):\n"
      "%s = arith.addi %i, %j : i32\n"
      "%c = arith.cmpi slt, %s, %l : i32\nattn.yield %c : i1\n}",
      [](const Call &call, int64_t i, int64_t j) { return i + j < call.left; },
      /*exact=*/false, makeCalls({{6, 0}}));
}

/// What a loop over blocks of `step` keys does with a range.
struct Blocks {
  int64_t visited = 0, unmasked = 0;
};

Blocks countBlocks(StringRef mask, const Call &call, int64_t blockM,
                   int64_t step) {
  Evaluator evaluator(mask);
  Blocks blocks;
  for (int64_t i0 = 0; i0 < call.qLen; i0 += blockM) {
    Range range = evaluator.range(call, i0, blockM);
    for (int64_t j = range.lo / step * step; j < range.hi; j += step) {
      ++blocks.visited;
      blocks.unmasked += range.fullLo <= j && j + step <= range.fullHi;
    }
  }
  return blocks;
}

// Of 8 x 16 blocks, a causal mask leaves the 72 on and below the diagonal; the
// 2 in each row of blocks that it crosses are tested.
TEST(Mask, BlocksOfCausal) {
  Blocks blocks = countBlocks("attn.causal_mask", {1024, 1024, 0, 0}, 128, 64);
  EXPECT_EQ(blocks.visited, 72);
  EXPECT_EQ(blocks.unmasked, 56);
}

// 256 keys back: a row of blocks sees 256 + 128 keys, whatever the length.
TEST(Mask, BlocksOfWindow) {
  Blocks blocks =
      countBlocks("attn.window_mask %l, %r", {4096, 4096, 256, 0}, 128, 64);
  // The first two of 32 rows of blocks see fewer: 2 and 4 instead of 6.
  EXPECT_EQ(blocks.visited, 30 * 6 + 2 + 4);
  EXPECT_EQ(blocks.unmasked, 30 * 2 + 2);
}

} // namespace
