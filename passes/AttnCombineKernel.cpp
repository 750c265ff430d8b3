//===- AttnCombineKernel.cpp - Adds what ranges of keys gave --------------===//
//
// The second kernel of an attention whose keys are split. An item is 64
// columns of one query row, or of some where ranges are few: in its tiles a row
// is a column d of the output and a column is a range of keys, so that what all
// ranges gave is in flight at once and is added in one reduction, in an order
// that nothing changes (S-bits).
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

class CombineKernel {
public:
  CombineKernel(ImplicitLocOpBuilder &builder, StringRef name, attn::FusedOp op,
                const ViewOrders &orders, tile::ScheduleAttr schedule,
                const SplitSums &sums, CombineShape shape)
      : op(op), sums(sums), shape(shape), b(builder),
        frame(builder, name, orders, getSchedule(schedule)),
        all(tileType(kColumns, shape.ranges, builder.getF32Type())),
        each(tileType(1, all.getCols(), builder.getF32Type())),
        row(withCols(all, 1)) {}

  AttnKernel build() {
    for (Value view : sums.all())
      frame.view(view);
    for (Value result : op->getResults())
      frame.view(result);
    openItems();
    // What all rows load is on its way before anything is stored.
    SmallVector<Loaded> loaded;
    for (int64_t k = 0; k < shape.rows; ++k) {
      setRow(k);
      loaded.push_back(loadRow());
    }
    SmallVector<Value> outputs, lses;
    for (int64_t k = 0; k < shape.rows; ++k) {
      setRow(k);
      Value output = sums.sum ? weigh(loaded[k]) : add(loaded[k].output);
      outputs.push_back(finishOutput(output));
      if (op.getLse())
        lses.push_back(maskRow(logSumExp(b, maximum, sum), -kInfinity));
    }
    for (int64_t k = 0; k < shape.rows; ++k) {
      setRow(k);
      storeOutput(outputs[k]);
      if (op.getLse())
        storeLse(lses[k]);
    }
    return frame.finish();
  }

private:
  void openItems() {
    attn::LayoutDims dims = attn::getLayoutDims(op.getLayout());
    auto type = cast<RankedTensorType>(op.getOutput().getType());
    int64_t chunks = llvm::divideCeil(type.getShape().back(), kColumns);
    Value heads = frame.dim(op.getOutput(), dims.h);
    Value perHead = frame.dim(op.getOutput(), dims.s);
    Value count = arith::MulIOp::create(b, heads, perHead);
    count = arith::CeilDivUIOp::create(b, count, constantIndex(b, shape.rows));
    Value rangeCount =
        tile::DimOp::create(b, frame.view(sums.output), SplitSums::kRangeDim);
    ranges = toI32(b, rangeCount);
    // The other kernels add other numbers of ranges.
    Value more = arith::CmpIOp::create(b, arith::CmpIPredicate::ugt, rangeCount,
                                       constantIndex(b, shape.moreThan));
    Value fits = arith::CmpIOp::create(b, arith::CmpIPredicate::ule, rangeCount,
                                       constantIndex(b, shape.ranges));
    Value mine = arith::AndIOp::create(b, more, fits);
    count = arith::SelectOp::create(b, mine, count, constantIndex(b, 0));
    SmallVector<Value> at = frame.openItems(
        {frame.dim(op.getOutput(), dims.b), count, constantIndex(b, chunks)});
    batch = at[0];
    chunk = at[2];
    d0 = arith::MulIOp::create(b, chunk, constantIndex(b, kColumns));
    Value one = constantIndex(b, 1);
    perHead = arith::MaxUIOp::create(b, perHead, one);
    for (int64_t k = 0; k < shape.rows; ++k) {
      Value row = arith::MulIOp::create(b, at[1], constantIndex(b, shape.rows));
      row = arith::AddIOp::create(b, row, constantIndex(b, k));
      rowHeads.push_back(arith::DivUIOp::create(b, row, perHead));
      rowPositions.push_back(arith::RemUIOp::create(b, row, perHead));
    }
  }

  /// Row `k` of the item is the current one; beyond the last it has a head that
  /// there is not.
  void setRow(int64_t k) {
    h = rowHeads[k];
    i = rowPositions[k];
  }

  /// What the ranges gave for a row.
  struct Loaded {
    Value output, sum, max;
  };
  Loaded loadRow() {
    Loaded row;
    if (sums.max)
      row.max = load(each, sums.max, false);
    if (sums.sum)
      row.sum = load(each, sums.sum, false);
    row.output = load(all, sums.output, /*byColumn=*/true);
    return row;
  }

  /// One element a range, and with `byColumn` a column of the output. What no
  /// range gave is 0.
  Value load(tile::TileType type, Value view, bool byColumn) {
    MLIRContext *context = b.getContext();
    AffineExpr r, c, bb, hh, ii, d;
    bindDims(context, r, c);
    bindSymbols(context, bb, hh, ii, d);
    SmallVector<AffineExpr> results = {bb, hh, ii, c};
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
  Value factors(Value maxima) {
    maxima = largest(maxima);
    return buildMap(
        b, all, {maxima, shiftOf(maxima), shiftOf(maximum)},
        [](ImplicitLocOpBuilder &b, ValueRange e, Value, Value) -> Value {
          Value none = arith::CmpFOp::create(b, arith::CmpFPredicate::OEQ, e[1],
                                             constantF32(b, -kInfinity));
          Value factor =
              math::Exp2Op::create(b, arith::SubFOp::create(b, e[1], e[2]),
                                   arith::FastMathFlags::afn);
          return arith::SelectOp::create(b, none, constantF32(b, 0), factor);
        });
  }

  /// The output of all ranges, divided by the sum of their weights.
  Value weigh(const Loaded &loaded) {
    Value output;
    if (sums.max) {
      Value factor = factors(loaded.max);
      sum = add(mulTiles(b, factor, loaded.sum));
      output = add(mulTiles(b, loaded.output, factor));
    } else {
      sum = add(spread(loaded.sum));
      output = add(loaded.output);
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

  Value finishOutput(Value o) {
    o = maskRow(epilogue(o), 0);
    auto type = cast<RankedTensorType>(op.getOutput().getType());
    return castTile(b, o, type.getElementType());
  }

  void storeOutput(Value o) {
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
  void storeLse(Value lse) {
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
  CombineShape shape;
  ImplicitLocOpBuilder &b;
  KernelFrame frame;
  /// One element for each column and range, for each range, for each column.
  tile::TileType all, each, row;
  Value batch, h, i, chunk, d0, ranges;
  SmallVector<Value> rowHeads, rowPositions;
  Value maximum, sum;
};

} // namespace

AttnKernel attnc::buildCombineKernel(ImplicitLocOpBuilder &builder,
                                     StringRef name, attn::FusedOp op,
                                     const ViewOrders &orders,
                                     tile::ScheduleAttr schedule,
                                     const SplitSums &sums,
                                     CombineShape shape) {
  OpBuilder::InsertionGuard guard(builder);
  return CombineKernel(builder, name, op, orders, schedule, sums, shape)
      .build();
}

SmallVector<CombineShape> attnc::getCombineShapes(tile::ScheduleAttr schedule) {
  // Where ranges are few, rows are many: an item takes several, to have as much
  // in flight.
  constexpr int64_t kFew = 16, kRows = 4;
  SmallVector<CombineShape> shapes = {{0, kFew, kRows}};
  // Whole groups of columns of a fragment; what no range fills reads as 0.
  if (schedule.getSplits() > kFew)
    shapes.push_back(
        {kFew, int64_t(llvm::alignTo(schedule.getSplits(), 16)), 1});
  return shapes;
}
