//===- AttnEpilogueKernels.cpp - Elementwise kernels on outputs -----------===//
//
// An epilogue on its own and the gradients of epilogues: a function of single
// elements (b, h, i, d), stored as they are or summed over dims that a map
// drops, always in one order (S-bits).
//
//===----------------------------------------------------------------------===//

#include "passes/AttnKernelParts.h"

#include "mlir/Dialect/SCF/IR/SCF.h"

using namespace mlir;
using namespace attnc;

namespace {

class ElementKernel {
public:
  /// `inputs` are tensors of (b, h, i, d) in the op's layout, the first
  /// arguments of the region.
  template <typename Op>
  ElementKernel(ImplicitLocOpBuilder &builder, StringRef name, Op op,
                ValueRange inputs, Region &region, const ViewOrders &orders,
                tile::ScheduleAttr schedule,
                BlockRows rows = BlockRows::Queries)
      : b(builder), frame(builder, name, orders, schedule), region(region),
        count(inputs.size()), rows(rows),
        tile(tileType(schedule.getBlockM(), kColumns, builder.getF32Type())),
        loader(frame, tile.getRows(), tile.getCols(), rows),
        dims(attn::getLayoutDims(op.getLayout())), input(inputs.front()),
        qLen(op.getQLen()) {
    AffineMap map = layoutMap(op.getLayout());
    for (Value tensor : inputs) {
      frame.view(tensor);
      read.push_back({tensor, map});
    }
    llvm::append_range(read, pairUp(op.getCaptures(), op.getMaps()));
  }

  /// From (b, h, i, d) to the dims of a tensor of this layout.
  AffineMap layoutMap(attn::Layout layout) {
    SmallVector<AffineExpr> results(4);
    for (auto [logical, dim] :
         llvm::enumerate(attn::getLayoutPermutation(layout)))
      results[dim] = b.getAffineDimExpr(logical);
    return AffineMap::get(4, 0, results, b.getContext());
  }

  /// One element of `result` for each that `map` leads to, which keeps i and d:
  /// the sum over the sequences and heads that it drops.
  AttnKernel write(Value result, AffineMap map) {
    frame.view(result);
    bool perSequence = map.isFunctionOfDim(0), perHead = map.isFunctionOfDim(1);
    int64_t perElement = *attn::getHeadsPerElement(map);
    Value one = constantIndex(b, 1), zero = constantIndex(b, 0);
    Value sequences = frame.dim(input, dims.b);
    Value heads = frame.dim(input, dims.h);
    SmallVector<Value> at = frame.openItems(
        {perSequence ? sequences : one,
         perHead ? headElements(frame, result, map, heads) : one,
         blocks(dims.s, rowCount()), blocks(dims.d, columnCount())});
    i0 = times(at[2], rowCount());
    d0 = times(at[3], columnCount());
    auto ofSequence = [&](Value sequence, Value sum) -> Value {
      batch = sequence;
      auto ofHead = [&](Value head, Value sum) -> Value {
        h = head;
        return sum ? addTiles(b, sum, element()) : element();
      };
      if (perHead && perElement == 1)
        return ofHead(at[1], sum);
      Value first = perHead ? times(at[1], perElement) : zero;
      Value end = heads;
      if (perHead)
        end = arith::AddIOp::create(
            b, first, headsOfElement(b, first, heads, perElement));
      return accumulate(b, first, end, 1, sum ? sum : splat(b, tile, 0),
                        ofHead);
    };
    Value sum = perSequence ? ofSequence(at[0], Value())
                            : accumulate(b, zero, sequences, 1,
                                         splat(b, tile, 0), ofSequence);
    SmallVector<Value> coordinates;
    AffineMap to = loader.blockMap({result, attn::getMapOfGroups(map)},
                                   {at[0], at[1], i0, d0}, coordinates);
    Type type = cast<RankedTensorType>(result.getType()).getElementType();
    tile::StoreOp::create(b, castTile(b, sum, type), frame.view(result),
                          coordinates, to, Value());
    return frame.finish();
  }

  /// Sums over d, or with keys as rows over i: (B, H, i) or (B, H, d).
  AttnKernel sum(Value result) {
    frame.view(result);
    bool overColumns = rows == BlockRows::Queries;
    int64_t kept = overColumns ? dims.s : dims.d;
    int64_t dropped = overColumns ? dims.d : dims.s;
    SmallVector<Value> at =
        frame.openItems({frame.dim(input, dims.b), frame.dim(input, dims.h),
                         blocks(kept, tile.getRows())});
    batch = at[0];
    h = at[1];
    Value first = times(at[2], tile.getRows());
    (overColumns ? i0 : d0) = first;
    tile::TileType row = withCols(tile, 1);
    Value sum = accumulate(
        b, constantIndex(b, 0), frame.dim(input, dropped), kColumns,
        splat(b, row, 0), [&](Value next, Value sum) {
          (overColumns ? d0 : i0) = next;
          return addTiles(
              b, sum,
              tile::ReduceOp::create(b, row, tile::Reduction::Add, element()));
        });
    tile::StoreOp::create(b, sum, frame.view(result),
                          ValueRange{batch, h, first}, statMap(b.getContext()),
                          Value());
    return frame.finish();
  }

private:
  /// As many as a warpgroup's thread has registers for, a few times.
  static constexpr int64_t kColumns = 64;

  int64_t rowCount() const {
    return rows == BlockRows::Queries ? tile.getRows() : tile.getCols();
  }
  int64_t columnCount() const {
    return rows == BlockRows::Queries ? tile.getCols() : tile.getRows();
  }
  Value blocks(int64_t dim, int64_t size) {
    return arith::CeilDivUIOp::create(b, frame.dim(input, dim),
                                      constantIndex(b, size));
  }
  Value times(Value index, int64_t size) {
    return arith::MulIOp::create(b, index, constantIndex(b, size));
  }

  /// Rows of this sequence.
  Value length() {
    Value size = frame.dim(input, dims.s);
    if (!qLen)
      return size;
    Value own =
        tile::LoadScalarOp::create(b, b.getI32Type(), frame.view(qLen), batch);
    own = arith::IndexCastOp::create(b, b.getIndexType(), own);
    own = arith::MaxSIOp::create(b, own, constantIndex(b, 0));
    return arith::MinSIOp::create(b, own, size);
  }

  /// The function of the block at (batch, h, i0, d0); exactly 0 beyond the
  /// sequence (S-beyond).
  Value element() {
    SmallVector<Element> elements;
    for (const attn::Capture &capture : read)
      elements.push_back(loader.load(capture, {batch, h, i0, d0}));
    Value b32 = toI32(b, batch), h32 = toI32(b, h), i32 = toI32(b, i0),
          d32 = toI32(b, d0);
    bool isTurned = rows == BlockRows::Keys;
    Value x = buildMap(
        b, tile, tilesOf(elements),
        [&](ImplicitLocOpBuilder &b, ValueRange e, Value r, Value c) {
          SmallVector<Value> scalars = scalarsOf(b, elements, e);
          SmallVector<Value> arguments(scalars.begin(),
                                       scalars.begin() + count);
          arguments.append({b32, h32,
                            arith::AddIOp::create(b, i32, isTurned ? c : r),
                            arith::AddIOp::create(b, d32, isTurned ? r : c)});
          arguments.append(scalars.begin() + count, scalars.end());
          return inlineRegion(b, region, arguments);
        });
    Value left = toI32(b, arith::SubIOp::create(b, length(), i0));
    Value columns =
        toI32(b, arith::SubIOp::create(b, frame.dim(input, dims.d), d0));
    return buildMask(
        b, x, {}, 0,
        [&](ImplicitLocOpBuilder &b, ValueRange, Value r, Value c) -> Value {
          auto below = [&](Value at, Value end) -> Value {
            return arith::CmpIOp::create(b, arith::CmpIPredicate::slt, at, end);
          };
          return arith::AndIOp::create(b, below(isTurned ? c : r, left),
                                       below(isTurned ? r : c, columns));
        });
  }

  ImplicitLocOpBuilder &b;
  KernelFrame frame;
  Region &region;
  size_t count;
  BlockRows rows;
  tile::TileType tile;
  CaptureLoader loader;
  attn::LayoutDims dims;
  Value input, qLen;
  SmallVector<attn::Capture> read;
  Value batch, h, i0, d0;
};

} // namespace

AttnKernel attnc::buildEpilogueKernel(ImplicitLocOpBuilder &builder,
                                      StringRef name, attn::EpilogueOp op,
                                      const ViewOrders &orders,
                                      tile::ScheduleAttr schedule) {
  OpBuilder::InsertionGuard guard(builder);
  ElementKernel kernel(builder, name, op, op.getInput(), op.getBody(), orders,
                       schedule);
  return kernel.write(op.getOutput(), kernel.layoutMap(op.getLayout()));
}

SmallVector<AttnKernel> attnc::buildEpilogueGradientKernels(
    ImplicitLocOpBuilder &builder, function_ref<std::string(StringRef)> name,
    attn::EpilogueGradientOp op, const ViewOrders &orders,
    tile::ScheduleAttr schedule) {
  SmallVector<AttnKernel> kernels;
  Value inputs[] = {op.getInput(), op.getDoutput()};
  if (!op.getDinput().use_empty()) {
    OpBuilder::InsertionGuard guard(builder);
    ElementKernel kernel(builder, name("epilogue_gradient"), op, inputs,
                         op.getGradient(), orders, schedule);
    kernels.push_back(
        kernel.write(op.getDinput(), kernel.layoutMap(op.getLayout())));
  }
  for (auto [number, index] : llvm::enumerate(op.getOf())) {
    Value result = op.getDcaptures()[number];
    if (result.use_empty())
      continue;
    OpBuilder::InsertionGuard guard(builder);
    AffineMap map = cast<AffineMapAttr>(op.getMaps()[index]).getValue();
    attn::CaptureKind kind = attn::getCaptureKind(map);
    ElementKernel kernel(builder, name("epilogue_sums"), op, inputs,
                         op.getCaptureGradients()[number], orders, schedule,
                         kind == attn::CaptureKind::Keys ? BlockRows::Keys
                                                         : BlockRows::Queries);
    kernels.push_back(kind == attn::CaptureKind::Positions
                          ? kernel.write(result, map)
                          : kernel.sum(result));
  }
  return kernels;
}
