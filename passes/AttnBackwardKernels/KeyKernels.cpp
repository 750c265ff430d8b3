//===- KeyKernels.cpp - Gradients whose keys stay -------------------------===//
//
// Blocks of queries pass by a block of keys: of each head of the group for the
// gradients of keys and values, of one head for sums over i.
//
//===----------------------------------------------------------------------===//

#include "passes/AttnBackwardKernels/Kernels.h"
#include "passes/AttnBackwardKernels/PairKernel.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::backward;

namespace {
class KeyKernel : public PairKernel {
public:
  KeyKernel(ImplicitLocOpBuilder &builder, StringRef name, attn::BackwardOp op,
            const ViewOrders &orders, tile::ScheduleAttr schedule, KeyPart part,
            Value querySums = Value())
      : PairKernel(builder, name, PairOperands(op), orders, schedule,
                   BlockRows::Keys),
        backward(op), querySums(querySums),
        wantsKey(part != KeyPart::OfValue && !op.getDkey().use_empty()),
        wantsValue(part != KeyPart::OfKey && !op.getDvalue().use_empty()) {}

  AttnKernel build() {
    if (querySums)
      frame.view(querySums);
    if (wantsKey)
      frame.view(backward.getDkey());
    if (wantsValue)
      frame.view(backward.getDvalue());
    open();
    SmallVector<Value> inits;
    if (wantsKey)
      inits.push_back(zeros(op.key));
    if (wantsValue)
      inits.push_back(zeros(op.value));
    SmallVector<Value> ends = allHeads(inits);
    if (wantsKey)
      storeRows(times(ends.front(), scale()), backward.getDkey(), hk);
    if (wantsValue)
      storeRows(ends.back(), backward.getDvalue(), hk);
    return frame.finish();
  }

private:
  void open() {
    Value keyHeads = frame.dim(op.key, dims.h);
    group = groupSize();
    Value blocks = blocksOf(op.key, blockRows);
    SmallVector<Value> at =
        frame.openItems({frame.dim(op.key, dims.b), keyHeads, blocks});
    setSequence(at[0]);
    hk = at[1];
    // Under a mask, later keys have fewer queries: ranges shall grow with the
    // last coordinate, so that targets find the long items where they look.
    Value block = at[2];
    if (!op.masks.empty()) {
      Value last = arith::SubIOp::create(b, blocks, constantIndex(b, 1));
      block = arith::SubIOp::create(b, last, block);
    }
    setKeys(arith::MulIOp::create(b, block, constantIndex(b, blockRows)));
    key = loadKeys(op.key, hk);
    if (wantsKey)
      value = loadKeys(op.value, hk);
  }

  Value firstHead() { return arith::MulIOp::create(b, hk, group); }

  /// S-gqa: one loop over the blocks that attend, each of all heads, so that
  /// the full ones lie together.
  SmallVector<Value> allHeads(ArrayRef<Value> inits) {
    Value first = firstHead(), step = constantIndex(b, blockCols);
    setHead(first);
    auto perHead = [&](const attn::Capture &capture) {
      return loader.usesColumns(capture) || capture.map.isFunctionOfDim(1);
    };
    loadCapturesIf(
        [&](const attn::Capture &capture) { return !perHead(capture); });
    attn::QueryRange range = queryRange();
    auto times = [&](Value x, Value y) -> Value {
      return arith::MulIOp::create(b, x, y);
    };
    auto minus = [&](Value x, Value y) -> Value {
      return arith::SubIOp::create(b, x, y);
    };
    Value zero = constantIndex(b, 0), one = constantIndex(b, 1);
    // A key range may start before 0 where nothing attends.
    Value lo = arith::MaxSIOp::create(b, range.lo, zero);
    Value start = times(arith::DivUIOp::create(b, lo, step), step);
    Value rows = arith::MaxSIOp::create(b, minus(range.hi, start), zero);
    auto blocks = [&](Value rows) {
      return times(arith::DivUIOp::create(b, rows, step), step);
    };
    auto clamped = [&](Value bound) -> Value {
      return arith::MaxSIOp::create(b, minus(bound, start), zero);
    };
    Value up = arith::AddIOp::create(b, clamped(range.fullLo),
                                     constantIndex(b, blockCols - 1));
    attn::QueryRange flat = {
        zero, times(blocks(up), group),
        times(blocks(clamped(range.fullHi)), group),
        times(times(arith::CeilDivUIOp::create(b, rows, step), step), group)};
    Value heads = arith::MaxUIOp::create(b, group, one);
    return loop(flat, inits, [&](Value at, ValueRange carried) {
      Value number = arith::DivUIOp::create(b, at, step);
      Value g = arith::RemUIOp::create(b, number, heads);
      setHead(arith::AddIOp::create(b, first, g));
      loadCapturesIf([&](const attn::Capture &capture) {
        return perHead(capture) && !loader.usesColumns(capture);
      });
      Value within = times(arith::DivUIOp::create(b, number, heads), step);
      return oneBlock(arith::AddIOp::create(b, start, within), carried);
    });
  }

  SmallVector<Value> oneBlock(Value first, ValueRange carried) {
    setQueries(first);
    Value query = loadQueries(op.query), doutput = loadQueries(op.doutput);
    loadCaptures(/*byColumn=*/true);
    Pair pair = makePair(key, query, wantsKey ? value : Value(), doutput);
    // Where a product stands is when it starts: dV's at once, but beside dQ's,
    // whose results need the registers of P, as late as dK's.
    Value ds, dkey, dvalue, dquery;
    auto addValue = [&] {
      dvalue = accumulate(pair.weights, doutput, op.value, carried[wantsKey]);
    };
    if (wantsValue && !querySums)
      addValue();
    if (wantsKey)
      ds = gradientOf(pair, backward.getGradient());
    if (querySums)
      dquery = multiplyByKeys(ds);
    if (wantsValue && querySums)
      addValue();
    if (wantsKey)
      dkey = accumulate(ds, query, op.key, carried[0]);
    if (querySums)
      tile::StoreOp::create(b, dquery, frame.view(querySums), sumsAt(),
                            sumsMap(), Value(), /*add=*/true);
    SmallVector<Value> next;
    if (wantsKey)
      next.push_back(dkey);
    if (wantsValue)
      next.push_back(dvalue);
    return next;
  }

  /// The block's share of dQ, without the scale.
  Value multiplyByKeys(Value ds) {
    Value weights = castTile(b, ds, elementType(op.key));
    return tile::DotOp::create(
        b, tileType(blockCols, dimSize(op.key), b.getF32Type()), weights, key,
        Value(), /*transpose_a=*/true, /*transpose_b=*/false);
  }

  attn::BackwardOp backward;
  /// Where shares of dQ are added; null where they have a kernel of their own.
  Value querySums;
  bool wantsKey, wantsValue;
  Value group, hk, key, value;
};

/// The gradients of captured operands that read j and not i. Each head has
/// sums of its own, where the keys' gradients have one for each group.
class KeySumsKernel : public PairKernel {
public:
  KeySumsKernel(ImplicitLocOpBuilder &builder, StringRef name,
                attn::BackwardOp op, const ViewOrders &orders,
                tile::ScheduleAttr schedule)
      : PairKernel(builder, name, PairOperands(op), orders, schedule,
                   BlockRows::Keys),
        sums(gradientsOf(op, attn::CaptureKind::Keys)) {}

  AttnKernel build() {
    for (const CaptureGradient &sum : sums)
      frame.view(sum.result);
    Value group = groupSize();
    SmallVector<Value> at = frame.openItems({frame.dim(op.query, dims.b),
                                             frame.dim(op.query, dims.h),
                                             blocksOf(op.key, blockRows)});
    setSequence(at[0]);
    setHead(at[1]);
    setKeys(arith::MulIOp::create(b, at[2], constantIndex(b, blockRows)));
    Value hk = arith::DivUIOp::create(b, h, group);
    key = loadKeys(op.key, hk);
    value = loadKeys(op.value, hk);
    loadCaptures(/*byColumn=*/false);
    SmallVector<Value> inits(sums.size(), splat(b, row, 0));
    SmallVector<Value> ends =
        loop(queryRange(), inits, [&](Value first, ValueRange carried) {
          return oneBlock(first, carried);
        });
    for (auto [sum, end] : llvm::zip_equal(sums, ends))
      storeStat(end, sum.result);
    return frame.finish();
  }

private:
  SmallVector<Value> oneBlock(Value first, ValueRange carried) {
    setQueries(first);
    Value query = loadQueries(op.query), doutput = loadQueries(op.doutput);
    loadCaptures(/*byColumn=*/true);
    Pair pair = makePair(key, query, value, doutput);
    SmallVector<Value> next;
    for (auto [sum, before] : llvm::zip_equal(sums, carried))
      next.push_back(addReduced(before, gradientOf(pair, *sum.region)));
    return next;
  }

  SmallVector<CaptureGradient> sums;
  Value key, value;
};
} // namespace

AttnKernel backward::buildKeyGradients(ImplicitLocOpBuilder &builder,
                                       StringRef name, attn::BackwardOp op,
                                       const ViewOrders &orders,
                                       tile::ScheduleAttr schedule,
                                       KeyPart part, Value querySums) {
  return KeyKernel(builder, name, op, orders, schedule, part, querySums)
      .build();
}

AttnKernel backward::buildKeySums(ImplicitLocOpBuilder &builder, StringRef name,
                                  attn::BackwardOp op, const ViewOrders &orders,
                                  tile::ScheduleAttr schedule) {
  return KeySumsKernel(builder, name, op, orders, schedule).build();
}
