//===- Split.cpp - Keys split in ranges -----------------------------------===//
//
// Few queries and many keys: each item takes a range of the keys, and another
// kernel adds what the ranges gave.
//
//===----------------------------------------------------------------------===//

#include "passes/AttnToTile/ProgramBuilder.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::programs;

/// Keys are split where there are at least so many for each row of queries:
/// adding up what the ranges gave takes time for each row.
static constexpr int64_t kKeysPerSplitRow = 2;

/// Items of one range of keys each, one at least.
Value ProgramBuilder::countItems(tile::ScheduleAttr schedule,
                                 const ProblemSizes &sizes) {
  auto number = [&](int64_t value) -> Value {
    return arith::ConstantIndexOp::create(b, value);
  };
  Value rows = sizes.rows.size, heads = sizes.heads.size;
  if (schedule.getPackGroups()) {
    heads = arith::MaxUIOp::create(b, sizes.keyHeads.size, number(1));
    Value group = arith::DivUIOp::create(b, sizes.heads.size, heads);
    rows = arith::MulIOp::create(b, rows, group);
  }
  Value items =
      arith::CeilDivUIOp::create(b, rows, number(schedule.getBlockM()));
  for (Value size : {heads, sizes.sequences.size})
    items = arith::MulIOp::create(b, items, size);
  return arith::MaxUIOp::create(b, items, number(1));
}

/// How many ranges the keys of a call are split in: as many as its queries
/// leave items for, while each has some blocks.
Value ProgramBuilder::countRanges(tile::ScheduleAttr schedule,
                                  const ProblemSizes &sizes) {
  auto number = [&](int64_t value) -> Value {
    return arith::ConstantIndexOp::create(b, value);
  };
  Value most = number(schedule.getSplits());
  if (!schedule.getFill())
    return most;
  Value items = countItems(schedule, sizes);
  Value wanted = arith::DivUIOp::create(b, number(schedule.getFill()), items);
  Value blocks = arith::DivUIOp::create(
      b, sizes.keys.size, number(schedule.getBlockN() * tile::kLeastBlocks));
  Value ranges = arith::MinUIOp::create(b, most, wanted);
  return arith::MinUIOp::create(b, ranges, blocks);
}

/// Whether a call does little but wait for keys.
Value ProgramBuilder::haveFewQueries(const ProblemSizes &sizes) {
  Value rows = sizes.rows.size;
  for (Value size : {sizes.heads.size, sizes.sequences.size})
    rows = arith::MulIOp::create(b, rows, size);
  Value keys = arith::MulIOp::create(
      b, rows, arith::ConstantIndexOp::create(b, kKeysPerSplitRow));
  return arith::CmpIOp::create(b, arith::CmpIPredicate::ule, keys,
                               sizes.keys.size);
}

SplitSums ProgramBuilder::provideSums(attn::FusedOp op, Value ranges,
                                      const ProblemSizes &sizes) {
  auto provide = [&](ArrayRef<int64_t> columns) -> Value {
    SmallVector<int64_t> shape(4, ShapedType::kDynamic);
    llvm::append_range(shape, columns);
    ++workspaces;
    return tile::WorkspaceOp::create(
        b, tile::ViewType::get(b.getContext(), shape, b.getF32Type()),
        ValueRange{sizes.sequences.size, sizes.heads.size, sizes.rows.size,
                   ranges});
  };
  SplitSums sums;
  sums.output = provide(
      cast<RankedTensorType>(op.getOutput().getType()).getShape().back());
  if (op.getNormalize() != attn::Normalize::None)
    sums.sum = provide({});
  if (op.getNormalize() == attn::Normalize::Softmax)
    sums.max = provide({});
  return sums;
}

/// What ranges of keys give, and their sums.
void ProgramBuilder::lowerSplit(attn::FusedOp op, tile::ScheduleAttr schedule,
                                const ProblemSizes &sizes) {
  Value one = arith::ConstantIndexOp::create(b, 1);
  Value ranges = arith::MaxUIOp::create(b, countRanges(schedule, sizes), one);
  SplitSums sums = provideSums(op, ranges, sizes);
  launchNew(op, [&](ImplicitLocOpBuilder &at) {
    return buildFusedKernel(at, kernelName("attention_ranges"), op, orders,
                            schedule, sums);
  });
  for (const CombineShape &shape : getCombineShapes(schedule))
    launchNew(op, [&](ImplicitLocOpBuilder &at) {
      return buildCombineKernel(at,
                                kernelName(shape.moreThan
                                               ? "attention_combine_many"
                                               : "attention_combine"),
                                op, orders, schedule, sums, shape);
    });
}
