//===- PositionKernels.cpp - Gradients of pairs of positions --------------===//
//
// Both blocks stay: each item owns a block of the gradient of a captured
// operand that has an element for each (i, j).
//
//===----------------------------------------------------------------------===//

#include "passes/AttnBackwardKernels/Kernels.h"
#include "passes/AttnBackwardKernels/PairKernel.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::backward;

namespace {
/// The gradient of a captured operand with one element for each (i, j): the
/// sum over the sequences and heads that its map drops.
class PositionKernel : public PairKernel {
public:
  PositionKernel(ImplicitLocOpBuilder &builder, StringRef name,
                 attn::BackwardOp op, unsigned number, const ViewOrders &orders,
                 tile::ScheduleAttr schedule)
      : PairKernel(builder, name, PairOperands(op), orders, schedule,
                   BlockRows::Queries),
        region(op.getCaptureGradients()[number]),
        result(op.getDcaptures()[number]),
        resultMap(
            cast<AffineMapAttr>(op.getMaps()[op.getOf()[number]]).getValue()) {
    bothBounded = true;
  }

  AttnKernel build() {
    frame.view(result);
    Value one = constantIndex(b, 1), zero = constantIndex(b, 0);
    Value sequences = frame.dim(op.query, dims.b);
    Value heads = frame.dim(op.query, dims.h);
    group = groupSize();
    bool perSequence = resultMap.isFunctionOfDim(0);
    bool perHead = resultMap.isFunctionOfDim(1);
    int64_t perElement = *attn::getHeadsPerElement(resultMap);
    SmallVector<Value> at = frame.openItems(
        {perSequence ? sequences : one,
         perHead ? headElements(frame, result, resultMap, heads) : one,
         blocksOf(op.query, blockRows), blocksOf(op.key, blockCols)});
    Value firstQuery =
        arith::MulIOp::create(b, at[2], constantIndex(b, blockRows));
    Value firstKey =
        arith::MulIOp::create(b, at[3], constantIndex(b, blockCols));
    Value sum;
    auto stay = [&](Value sequence, Value head) {
      setSequence(sequence);
      setQueries(firstQuery);
      setKeys(firstKey);
      setHead(head);
    };
    Value head = arith::MulIOp::create(b, at[1], constantIndex(b, perElement));
    if (perSequence && perHead && perElement == 1) {
      stay(at[0], at[1]);
      sum = gradientOfBlocks(region, group);
    } else {
      // The sequences and heads that are summed pass one by one.
      Value repeated = perHead ? one : heads;
      if (perElement > 1)
        repeated = headsOfElement(b, head, heads, perElement);
      Value count =
          arith::MulIOp::create(b, repeated, perSequence ? one : sequences);
      Value divisor = arith::MaxUIOp::create(b, repeated, one);
      attn::KeyRange range = {zero, zero, zero, count};
      sum = loop(
          range, splat(b, scores, 0), 1,
          [&](Value number, ValueRange carried) -> SmallVector<Value> {
            Value other = arith::DivUIOp::create(b, number, divisor);
            Value within = arith::RemUIOp::create(b, number, divisor);
            if (perHead)
              within = arith::AddIOp::create(b, head, within);
            stay(perSequence ? at[0] : other, within);
            return {addTiles(b, carried[0], gradientOfBlocks(region, group))};
          })[0];
    }
    store(sum, {at[0], at[1], firstQuery, firstKey});
    return frame.finish();
  }

private:
  void store(Value sum, const BlockOrigin &at) {
    SmallVector<Value> coordinates;
    AffineMap map = loader.blockMap({result, attn::getMapOfGroups(resultMap)},
                                    at, coordinates);
    tile::StoreOp::create(b, castTile(b, sum, elementType(result)),
                          frame.view(result), coordinates, map, Value());
  }

  Region &region;
  Value result;
  AffineMap resultMap;
  Value group;
};
} // namespace

AttnKernel backward::buildPositionGradient(ImplicitLocOpBuilder &builder,
                                           StringRef name, attn::BackwardOp op,
                                           unsigned number,
                                           const ViewOrders &orders,
                                           tile::ScheduleAttr schedule) {
  return PositionKernel(builder, name, op, number, orders, schedule).build();
}
