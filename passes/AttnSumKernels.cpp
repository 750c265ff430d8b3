//===- AttnSumKernels.cpp - The tile kernels of attn.row_dot and attn.sum -===//
//
// They add up what kernels of gradients need or leave: products along rows, and
// elements of a tensor that a captured operand has once.
//
//===----------------------------------------------------------------------===//

#include "passes/AttnKernelParts.h"

using namespace mlir;
using namespace attnc;

//===----------------------------------------------------------------------===//
// attn.row_dot
//===----------------------------------------------------------------------===//

AttnKernel attnc::buildRowDotKernel(ImplicitLocOpBuilder &b, StringRef name,
                                    attn::RowDotOp op, const ViewOrders &orders,
                                    tile::ScheduleAttr schedule) {
  OpBuilder::InsertionGuard guard(b);
  KernelFrame frame(b, name, orders, schedule);
  attn::LayoutDims dims = attn::getLayoutDims(op.getLayout());
  int64_t blockRows = schedule.getBlockM();
  for (Value tensor : {op.getLhs(), op.getRhs(), op.getResult()})
    frame.view(tensor);
  Value size = constantIndex(b, blockRows);
  Value blocks =
      arith::CeilDivUIOp::create(b, frame.dim(op.getLhs(), dims.s), size);
  SmallVector<Value> at = frame.openItems(
      {frame.dim(op.getLhs(), dims.b), frame.dim(op.getLhs(), dims.h), blocks});
  at[2] = arith::MulIOp::create(b, at[2], size);
  // Not more columns at a time than a thread of a GPU has registers for.
  constexpr int64_t mostColumns = 128;
  auto load = [&](Value tensor, int64_t first, int64_t columns) {
    auto type = cast<RankedTensorType>(tensor.getType());
    AffineExpr r = b.getAffineDimExpr(0), c = b.getAffineDimExpr(1);
    AffineMap map = rowMap(frame, tensor, op.getLayout());
    map = map.replaceDimsAndSymbols({r, c + first}, {}, 2, 3);
    Value tile =
        loadTile(b, tileType(blockRows, columns, type.getElementType()),
                 frame.view(tensor), at, map);
    return castTile(b, tile, b.getF32Type());
  };
  Value sum;
  int64_t width =
      cast<RankedTensorType>(op.getLhs().getType()).getShape().back();
  tile::TileType row = tileType(blockRows, 1, b.getF32Type());
  for (int64_t first = 0; first < width; first += mostColumns) {
    int64_t columns = std::min(mostColumns, width - first);
    Value products = mulTiles(b, load(op.getLhs(), first, columns),
                              load(op.getRhs(), first, columns));
    Value part = tile::ReduceOp::create(b, row, tile::Reduction::Add, products);
    sum = sum ? addTiles(b, sum, part) : part;
  }
  tile::StoreOp::create(b, sum, frame.view(op.getResult()), at,
                        statMap(b.getContext()), Value());
  return frame.finish();
}

//===----------------------------------------------------------------------===//
// attn.sum
//===----------------------------------------------------------------------===//

namespace {

/// One element of the result for each item, or a block of them along the last
/// dim of the input.
class SumKernel {
public:
  SumKernel(ImplicitLocOpBuilder &builder, StringRef name, attn::SumOp op,
            const ViewOrders &orders, tile::ScheduleAttr schedule)
      : op(op), b(builder), frame(builder, name, orders, schedule),
        block(std::max<int64_t>(schedule.getBlockM(), 64)),
        rank(op.getMap().getNumDims()), last(rank - 1), places(rank) {
    frame.view(op.getInput());
    frame.view(op.getResult());
    for (unsigned k = 0; k < rank; ++k)
      for (auto [dim, expr] : llvm::enumerate(op.getMap().getResults()))
        if (expr.isFunctionOfDim(k))
          places[k] = {static_cast<int64_t>(dim), divisorOf(expr)};
  }

  AttnKernel build() {
    SmallVector<Value> counts;
    Value size = constantIndex(b, block);
    for (unsigned k = 0; k < rank; ++k) {
      Value count = places[k] ? frame.dim(op.getResult(), places[k]->dim)
                              : constantIndex(b, 1);
      if (k == last && places[k])
        count = arith::CeilDivUIOp::create(b, count, size);
      counts.push_back(count);
    }
    SmallVector<Value> at = frame.openItems(counts);
    if (places[last])
      at[last] = arith::MulIOp::create(b, at[last], size);
    tile::TileType column =
        tileType(places[last] ? block : 1, 1, b.getF32Type());
    store(over(0, at, splat(b, column, 0)), at);
    return frame.finish();
  }

private:
  struct Place {
    int64_t dim, divisor;
  };

  static int64_t divisorOf(AffineExpr expr) {
    auto binary = dyn_cast<AffineBinaryOpExpr>(expr);
    return binary ? cast<AffineConstantExpr>(binary.getRHS()).getValue() : 1;
  }

  /// Adds the inputs that lead to the item's elements, from dim `k` on;
  /// `at` is where in the input they are, or begin.
  Value over(unsigned k, SmallVector<Value> at, Value sum) {
    if (k == last)
      return places[k] ? sumColumns(at, sum) : sumRow(at, sum);
    if (places[k] && places[k]->divisor == 1)
      return over(k + 1, at, sum);
    Value from = constantIndex(b, 0), to = frame.dim(op.getInput(), k);
    if (places[k]) {
      Value divisor = constantIndex(b, places[k]->divisor);
      from = arith::MulIOp::create(b, at[k], divisor);
      Value end = arith::AddIOp::create(b, from, divisor);
      to = arith::MinSIOp::create(b, to, end);
    }
    return accumulate(b, from, to, 1, sum, [&](Value index, Value sum) {
      at[k] = index;
      return over(k + 1, at, sum);
    });
  }

  /// (r, c)[at...] -> (at..., `element`), whose symbol `last` is at[last].
  AffineMap inputMap(unsigned symbols, AffineExpr element) {
    SmallVector<AffineExpr> exprs;
    for (unsigned k = 0; k < last; ++k)
      exprs.push_back(b.getAffineSymbolExpr(k));
    exprs.push_back(element);
    return AffineMap::get(2, symbols, exprs, b.getContext());
  }

  /// One element for each row of the block.
  Value sumColumns(ArrayRef<Value> at, Value sum) {
    AffineExpr row = b.getAffineDimExpr(0) + b.getAffineSymbolExpr(last);
    auto type = cast<tile::TileType>(sum.getType());
    int64_t divisor = places[last]->divisor;
    auto add = [&](Value sum, ValueRange at, AffineExpr element) {
      return addTiles(b, sum,
                      loadTile(b, type, frame.view(op.getInput()), at,
                               inputMap(at.size(), element)));
    };
    if (divisor == 1)
      return add(sum, at, row);
    return accumulate(b, constantIndex(b, 0), constantIndex(b, divisor), 1, sum,
                      [&](Value within, Value sum) {
                        SmallVector<Value> symbols(at);
                        symbols.push_back(within);
                        return add(sum, symbols,
                                   row * divisor + b.getAffineSymbolExpr(rank));
                      });
  }

  /// All along the last dim.
  Value sumRow(SmallVector<Value> at, Value sum) {
    constexpr int64_t columns = 256;
    AffineMap map =
        inputMap(rank, b.getAffineDimExpr(1) + b.getAffineSymbolExpr(last));
    Value size = frame.dim(op.getInput(), last);
    return accumulate(
        b, constantIndex(b, 0), size, columns, sum, [&](Value x, Value sum) {
          at[last] = x;
          Value values = loadTile(b, tileType(1, columns, b.getF32Type()),
                                  frame.view(op.getInput()), at, map);
          return addTiles(
              b, sum,
              tile::ReduceOp::create(b, cast<tile::TileType>(sum.getType()),
                                     tile::Reduction::Add, values));
        });
  }

  void store(Value sum, ArrayRef<Value> at) {
    SmallVector<Value> coordinates;
    SmallVector<AffineExpr> results(op.getMap().getNumResults());
    for (unsigned k = 0; k < rank; ++k) {
      if (!places[k])
        continue;
      AffineExpr expr = b.getAffineSymbolExpr(coordinates.size());
      coordinates.push_back(at[k]);
      results[places[k]->dim] = k == last ? expr + b.getAffineDimExpr(0) : expr;
    }
    auto type = cast<RankedTensorType>(op.getResult().getType());
    tile::StoreOp::create(
        b, castTile(b, sum, type.getElementType()), frame.view(op.getResult()),
        coordinates,
        AffineMap::get(2, coordinates.size(), results, b.getContext()),
        Value());
  }

  attn::SumOp op;
  ImplicitLocOpBuilder &b;
  KernelFrame frame;
  int64_t block;
  /// Dims of the input, and the last of them.
  unsigned rank, last;
  /// Where each of them is in the result, if it is.
  SmallVector<std::optional<Place>> places;
};

} // namespace

AttnKernel attnc::buildSumKernel(ImplicitLocOpBuilder &builder, StringRef name,
                                 attn::SumOp op, const ViewOrders &orders,
                                 tile::ScheduleAttr schedule) {
  OpBuilder::InsertionGuard guard(builder);
  return SumKernel(builder, name, op, orders, schedule).build();
}
