//===- QueryKernels.cpp - Gradients whose queries stay --------------------===//
//
// Blocks of keys pass by a block of queries: its own gradient and sums over j,
// or the sums of rows that softmax needs before any gradient. Where the keys'
// kernel adds up the queries' gradients instead, what comes before and after
// it.
//
//===----------------------------------------------------------------------===//

#include "passes/AttnBackwardKernels/Kernels.h"
#include "passes/AttnBackwardKernels/PairKernel.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::backward;

/// Whether two regions compute the same: a bias' gradient is that of the
/// logit.
static bool isSameRegion(Region &a, Region &b) {
  return OperationEquivalence::isRegionEquivalentTo(
      &a, &b, OperationEquivalence::IgnoreLocations);
}

//===----------------------------------------------------------------------===//
// Keys pass
//===----------------------------------------------------------------------===//

namespace {
class QueryKernel : public PairKernel {
public:
  template <typename Op>
  QueryKernel(ImplicitLocOpBuilder &builder, StringRef name, Op op,
              const ViewOrders &orders, tile::ScheduleAttr schedule)
      : PairKernel(builder, name, PairOperands(op), orders, schedule,
                   BlockRows::Queries) {}

  AttnKernel build(attn::BackwardOp backward) {
    SmallVector<CaptureGradient> sums =
        gradientsOf(backward, attn::CaptureKind::Queries);
    Value result = backward.getDquery();
    bool wantsQuery = !result.use_empty();
    if (wantsQuery)
      frame.view(result);
    for (const CaptureGradient &sum : sums)
      frame.view(sum.result);
    open();
    SmallVector<Value> inits(sums.size(), splat(b, row, 0));
    if (wantsQuery)
      inits.insert(inits.begin(), zeros(op.query));
    SmallVector<Value> ends =
        keyLoop(inits, [&](const Pair &pair, Value key, ValueRange carried) {
          SmallVector<Value> next;
          Value ds = gradientOf(pair, backward.getGradient());
          if (wantsQuery)
            next.push_back(accumulate(ds, key, op.key, carried[0]));
          for (auto [sum, before] :
               llvm::zip_equal(sums, carried.drop_front(wantsQuery))) {
            Value d = isSameRegion(*sum.region, backward.getGradient())
                          ? ds
                          : gradientOf(pair, *sum.region);
            next.push_back(addReduced(before, d));
          }
          return next;
        });
    if (wantsQuery)
      storeRows(times(ends[0], scale()), result, h);
    for (auto [sum, end] :
         llvm::zip_equal(sums, ArrayRef(ends).drop_front(wantsQuery)))
      storeStat(end, sum.result);
    return frame.finish();
  }

  AttnKernel build(attn::RowSumsOp sums) {
    for (Value result : sums->getResults())
      frame.view(result);
    open();
    SmallVector<Value> inits(2, splat(b, row, 0));
    SmallVector<Value> ends =
        keyLoop(inits, [&](const Pair &pair, Value, ValueRange carried) {
          Value product = mulTiles(b, pair.weights, pair.dweights);
          return SmallVector<Value>{addReduced(carried[0], pair.weights),
                                    addReduced(carried[1], product)};
        });
    // S-mask-zero: a row without weight has gradient 0, not 0 / 0.
    Value inverse = buildMap(
        b, row, ends[0],
        [](ImplicitLocOpBuilder &b, ValueRange e, Value, Value) -> Value {
          Value zero = constantF32(b, 0), one = constantF32(b, 1);
          Value empty =
              arith::CmpFOp::create(b, arith::CmpFPredicate::OEQ, e[0], zero);
          Value quotient = arith::DivFOp::create(b, one, e[0]);
          return arith::SelectOp::create(b, empty, zero, quotient);
        });
    storeStat(inverse, sums.getInverse());
    storeStat(mulTiles(b, inverse, ends[1]), sums.getDelta());
    return frame.finish();
  }

private:
  void open() {
    Value heads = frame.dim(op.query, dims.h);
    Value group = groupSize();
    SmallVector<Value> at = frame.openItems(
        {frame.dim(op.query, dims.b), heads, blocksOf(op.query, blockRows)});
    setSequence(at[0]);
    setHead(at[1]);
    hk = arith::DivUIOp::create(b, h, group);
    setQueries(arith::MulIOp::create(b, at[2], constantIndex(b, blockRows)));
    loadCaptures(/*byColumn=*/false);
    query = loadQueries(op.query);
    doutput = loadQueries(op.doutput);
  }

  SmallVector<Value> keyLoop(
      ArrayRef<Value> inits,
      function_ref<SmallVector<Value>(const Pair &, Value, ValueRange)> body) {
    return loop(keyRange(), inits, [&](Value first, ValueRange carried) {
      setKeys(first);
      Value key = loadKeys(op.key, hk), value = loadKeys(op.value, hk);
      loadCaptures(/*byColumn=*/true);
      return body(makePair(query, key, doutput, value), key, carried);
    });
  }

  Value hk, query, doutput;
};
} // namespace

AttnKernel backward::buildQueryGradient(ImplicitLocOpBuilder &builder,
                                        StringRef name, attn::BackwardOp op,
                                        const ViewOrders &orders,
                                        tile::ScheduleAttr schedule) {
  return QueryKernel(builder, name, op, orders, schedule).build(op);
}

AttnKernel attnc::buildRowSumsKernel(ImplicitLocOpBuilder &builder,
                                     StringRef name, attn::RowSumsOp op,
                                     const ViewOrders &orders,
                                     tile::ScheduleAttr schedule) {
  OpBuilder::InsertionGuard guard(builder);
  return QueryKernel(builder, name, op, orders, schedule).build(op);
}

//===----------------------------------------------------------------------===//
// Sums of queries' gradients in workspace
//===----------------------------------------------------------------------===//

namespace {
class QuerySumsKernel : public PairKernel {
public:
  QuerySumsKernel(ImplicitLocOpBuilder &builder, StringRef name,
                  attn::BackwardOp op, const ViewOrders &orders,
                  tile::ScheduleAttr schedule, Value sums)
      : PairKernel(builder, name, PairOperands(op), orders, schedule,
                   BlockRows::Queries),
        sums(sums), result(op.getDquery()) {
    frame.view(sums);
  }

  AttnKernel clear() {
    open();
    tile::StoreOp::create(b, zeros(op.query), frame.view(sums), sumsAt(),
                          sumsMap(), Value(), /*add=*/false);
    return frame.finish();
  }

  AttnKernel round() {
    frame.view(result);
    open();
    tile::TileType type =
        tileType(blockRows, dimSize(op.query), b.getF32Type());
    Value tile = loadTile(b, type, frame.view(sums), sumsAt(), sumsMap());
    storeRows(times(tile, scale()), result, h);
    return frame.finish();
  }

private:
  void open() {
    SmallVector<Value> at = frame.openItems({frame.dim(op.query, dims.b),
                                             frame.dim(op.query, dims.h),
                                             blocksOf(op.query, blockRows)});
    setSequence(at[0]);
    setHead(at[1]);
    setQueries(arith::MulIOp::create(b, at[2], constantIndex(b, blockRows)));
  }

  Value sums, result;
};
} // namespace

AttnKernel backward::clearQuerySums(ImplicitLocOpBuilder &builder,
                                    StringRef name, attn::BackwardOp op,
                                    const ViewOrders &orders,
                                    tile::ScheduleAttr schedule, Value sums) {
  return QuerySumsKernel(builder, name, op, orders, schedule, sums).clear();
}

AttnKernel backward::roundQuerySums(ImplicitLocOpBuilder &builder,
                                    StringRef name, attn::BackwardOp op,
                                    const ViewOrders &orders,
                                    tile::ScheduleAttr schedule, Value sums) {
  return QuerySumsKernel(builder, name, op, orders, schedule, sums).round();
}
