//===- AttnCombineKernel.cpp - Adds what ranges of keys gave --------------===//
//
// The second kernel of an attention whose keys are split. An item is 64
// columns of one query row: in its tiles a row is a column d of the output and
// a column is a range of keys, so that what all ranges gave is in flight at
// once and is added in one reduction, in an order that nothing changes
// (S-bits).
//
//===----------------------------------------------------------------------===//

#include "passes/AttnKernelParts.h"

#include <limits>

using namespace mlir;
using namespace attnc;

namespace {

constexpr int64_t kColumns = 64;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// On a GPU one warpgroup for 64 columns; as many thread blocks as fit.
tile::ScheduleAttr getSchedule(tile::ScheduleAttr split) {
  bool isGpu = split.getConsumers() > 0;
  auto schedule = tile::ScheduleAttr::get(
      split.getContext(), kColumns, tile::kMostSplits, isGpu, 0,
      tile::Order::Serial, false, false, false, 1, 0, false);
  return schedule.withSplit(0, 0, isGpu ? 4 : 1, false);
}

/// Whole groups of columns of a fragment; what no range fills reads as 0.
int64_t columnsFor(tile::ScheduleAttr split) {
  return llvm::alignTo(split.getSplits(), 16);
}

class CombineKernel {
public:
  CombineKernel(ImplicitLocOpBuilder &builder, StringRef name, attn::FusedOp op,
                const ViewOrders &orders, tile::ScheduleAttr schedule,
                const SplitSums &sums)
      : op(op), sums(sums), b(builder),
        frame(builder, name, orders, getSchedule(schedule)),
        all(tileType(kColumns, columnsFor(schedule), builder.getF32Type())),
        each(tileType(1, all.getCols(), builder.getF32Type())),
        row(withCols(all, 1)) {}

  AttnKernel build() {
    for (Value view : sums.all())
      frame.view(view);
    for (Value result : op->getResults())
      frame.view(result);
    openItems();
    Value output = load(all, sums.output, /*byColumn=*/true);
    if (sums.sum)
      output = weigh(output);
    else
      output = add(output);
    storeOutput(output);
    if (op.getLse())
      storeLse();
    return frame.finish();
  }

private:
  void openItems() {
    attn::LayoutDims dims = attn::getLayoutDims(op.getLayout());
    auto type = cast<RankedTensorType>(op.getOutput().getType());
    int64_t chunks = llvm::divideCeil(type.getShape().back(), kColumns);
    Value count = frame.dim(op.getOutput(), dims.s);
    ranges = toI32(b, tile::DimOp::create(b, frame.view(sums.output), 0));
    SmallVector<Value> at = frame.openItems({frame.dim(op.getOutput(), dims.b),
                                             frame.dim(op.getOutput(), dims.h),
                                             count, constantIndex(b, chunks)});
    batch = at[0];
    h = at[1];
    i = at[2];
    chunk = at[3];
    d0 = arith::MulIOp::create(b, chunk, constantIndex(b, kColumns));
  }

  /// One element a range, and with `byColumn` a column of the output. What no
  /// range gave is 0.
  Value load(tile::TileType type, Value view, bool byColumn) {
    MLIRContext *context = b.getContext();
    AffineExpr r, c, bb, hh, ii, d;
    bindDims(context, r, c);
    bindSymbols(context, bb, hh, ii, d);
    SmallVector<AffineExpr> results = {c, bb, hh, ii};
    SmallVector<Value> at = {batch, h, i};
    if (byColumn) {
      results.push_back(d + r);
      at.push_back(d0);
    }
    return loadTile(b, type, frame.view(view), at,
                    AffineMap::get(2, at.size(), results, context));
  }

  Value add(Value tile) {
    return tile::ReduceOp::create(b, row, tile::Reduction::Add, tile);
  }

  /// One number a range as a row of every column.
  Value spread(Value numbers) {
    return buildMap(b, all, numbers,
                    [](ImplicitLocOpBuilder &, ValueRange e, Value, Value) {
                      return e[0];
                    });
  }

  /// The largest of all ranges' maxima; -inf where no range had a key.
  Value largest(Value maxima) {
    Value known = buildMap(
        b, each, maxima,
        [&](ImplicitLocOpBuilder &b, ValueRange e, Value, Value c) -> Value {
          Value exists =
              arith::CmpIOp::create(b, arith::CmpIPredicate::slt, c, ranges);
          return arith::SelectOp::create(b, exists, e[0],
                                         constantF32(b, -kInfinity));
        });
    maximum =
        tile::ReduceOp::create(b, row, tile::Reduction::Max, spread(known));
    return known;
  }

  /// log2(e) times the maximum, rounded once as in the online softmax.
  Value shiftOf(Value maxima) {
    return buildMap(
        b, cast<tile::TileType>(maxima.getType()), maxima,
        [](ImplicitLocOpBuilder &b, ValueRange e, Value, Value) -> Value {
          constexpr float log2e = 1.44269504f;
          return arith::MulFOp::create(b, e[0], constantF32(b, log2e));
        });
  }

  /// What each range's sums are to be multiplied by.
  Value factors() {
    Value maxima = largest(load(each, sums.max, false));
    return buildMap(
        b, all, {maxima, shiftOf(maxima), shiftOf(maximum)},
        [](ImplicitLocOpBuilder &b, ValueRange e, Value, Value) -> Value {
          Value none = arith::CmpFOp::create(b, arith::CmpFPredicate::OEQ, e[0],
                                             constantF32(b, -kInfinity));
          Value factor =
              math::Exp2Op::create(b, arith::SubFOp::create(b, e[1], e[2]),
                                   arith::FastMathFlags::afn);
          return arith::SelectOp::create(b, none, constantF32(b, 0), factor);
        });
  }

  /// The output of all ranges, divided by the sum of their weights.
  Value weigh(Value output) {
    Value weights = load(each, sums.sum, false);
    if (sums.max) {
      Value factor = factors();
      sum = add(mulTiles(b, factor, weights));
      output = add(mulTiles(b, output, factor));
    } else {
      sum = add(spread(weights));
      output = add(output);
    }
    return mulTiles(b, output, invertSums(b, sum));
  }

  Value epilogue(Value o) {
    if (op.getEpilogue().empty())
      return o;
    CaptureLoader loader(frame, kColumns, 1, BlockRows::Keys);
    SmallVector<Element> elements;
    for (const attn::Capture &capture :
         pairUp(op.getEpilogueCaptures(), op.getEpilogueMaps()))
      elements.push_back(loader.load(capture, {batch, h, i, d0}));
    SmallVector<Value> inputs = {o};
    llvm::append_range(inputs, tilesOf(elements));
    Value b32 = toI32(b, batch), h32 = toI32(b, h), i32 = toI32(b, i);
    Value d32 = toI32(b, d0);
    return buildMap(
        b, row, inputs,
        [&](ImplicitLocOpBuilder &b, ValueRange e, Value r, Value) {
          Value d = arith::AddIOp::create(b, d32, r);
          SmallVector<Value> arguments = {e.front(), b32, h32, i32, d};
          llvm::append_range(arguments, scalarsOf(b, elements, e.drop_front()));
          return inlineRegion(b, op.getEpilogue(), arguments);
        });
  }

  /// A row at or beyond q_len holds nothing.
  Value maskRow(Value tile, float fill) {
    if (!op.getQLen())
      return tile;
    Value length = tile::LoadScalarOp::create(b, b.getI32Type(),
                                              frame.view(op.getQLen()), batch);
    Value inside = arith::CmpIOp::create(b, arith::CmpIPredicate::slt,
                                         toI32(b, i), length);
    return buildMap(
        b, row, tile,
        [&](ImplicitLocOpBuilder &b, ValueRange e, Value, Value) -> Value {
          return arith::SelectOp::create(b, inside, e[0], constantF32(b, fill));
        });
  }

  void storeOutput(Value o) {
    o = maskRow(epilogue(o), 0);
    auto type = cast<RankedTensorType>(op.getOutput().getType());
    o = castTile(b, o, type.getElementType());
    MLIRContext *context = b.getContext();
    AffineExpr r, c, bb, hh, ii, d;
    bindDims(context, r, c);
    bindSymbols(context, bb, hh, ii, d);
    AffineExpr logical[] = {bb, hh, ii, d + r};
    SmallVector<AffineExpr> perTensorDim(4);
    for (auto [expr, dim] :
         llvm::zip_equal(logical, attn::getLayoutPermutation(op.getLayout())))
      perTensorDim[dim] = expr;
    tile::StoreOp::create(
        b, o, frame.view(op.getOutput()), ValueRange{batch, h, i, d0},
        frame.accessMap(op.getOutput(), 4, perTensorDim), Value());
  }

  /// Every row has the same LSE; one item of a query writes one of them.
  void storeLse() {
    Value lse = maskRow(logSumExp(b, maximum, sum), -kInfinity);
    Value first = arith::CmpIOp::create(b, arith::CmpIPredicate::eq, chunk,
                                        constantIndex(b, 0));
    Value rows = arith::SelectOp::create(b, first, constantIndex(b, 1),
                                         constantIndex(b, 0));
    tile::StoreOp::create(b, lse, frame.view(op.getLse()),
                          ValueRange{batch, h, i}, statMap(b.getContext()),
                          rows);
  }

  attn::FusedOp op;
  SplitSums sums;
  ImplicitLocOpBuilder &b;
  KernelFrame frame;
  /// One element for each column and range, for each range, for each column.
  tile::TileType all, each, row;
  Value batch, h, i, chunk, d0, ranges;
  Value maximum, sum;
};

} // namespace

AttnKernel attnc::buildCombineKernel(ImplicitLocOpBuilder &builder,
                                     StringRef name, attn::FusedOp op,
                                     const ViewOrders &orders,
                                     tile::ScheduleAttr schedule,
                                     const SplitSums &sums) {
  OpBuilder::InsertionGuard guard(builder);
  return CombineKernel(builder, name, op, orders, schedule, sums).build();
}
