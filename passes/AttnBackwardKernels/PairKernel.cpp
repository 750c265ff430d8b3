//===- PairKernel.cpp - A block of queries meets one of keys --------------===//
//
// Rows of a tile are the block that stays, columns the block that passes by;
// which of them are queries is asked wherever it matters, and only here.
//
//===----------------------------------------------------------------------===//

#include "passes/AttnBackwardKernels/PairKernel.h"

#include <cmath>

using namespace mlir;
using namespace attnc;
using namespace attnc::backward;

SmallVector<CaptureGradient> backward::gradientsOf(attn::BackwardOp op,
                                                   attn::CaptureKind kind) {
  SmallVector<CaptureGradient> gradients;
  for (auto [number, index] : llvm::enumerate(op.getOf())) {
    AffineMap map = cast<AffineMapAttr>(op.getMaps()[index]).getValue();
    Value result = op.getDcaptures()[number];
    if (attn::getCaptureKind(map) == kind && !result.use_empty())
      gradients.push_back({&op.getCaptureGradients()[number], result});
  }
  return gradients;
}

PairKernel::PairKernel(ImplicitLocOpBuilder &builder, StringRef name,
                       const PairOperands &op, const ViewOrders &orders,
                       tile::ScheduleAttr schedule, BlockRows rows)
    : op(op), b(builder), frame(builder, name, orders, schedule), rows(rows),
      blockRows(schedule.getBlockM()), blockCols(schedule.getBlockN()),
      loader(frame, blockRows, blockCols, rows),
      scores(tileType(blockRows, blockCols, builder.getF32Type())),
      row(withCols(scores, 1)), dims(attn::getLayoutDims(op.layout)) {
  // The order of the kernel's arguments.
  for (Value tensor : {op.query, op.key, op.value, op.doutput})
    frame.view(tensor);
  for (attn::MaskOpInterface mask : op.masks) {
    maskCaptures.push_back(mask.getMaskCaptures());
    maskElements.emplace_back(maskCaptures.back().size());
  }
  elements.resize(op.captures.size());
}

//===----------------------------------------------------------------------===//
// Where the block is
//===----------------------------------------------------------------------===//

int64_t PairKernel::dimSize(Value tensor) const {
  return cast<RankedTensorType>(tensor.getType()).getShape().back();
}

Type PairKernel::elementType(Value tensor) const {
  return cast<RankedTensorType>(tensor.getType()).getElementType();
}

Value PairKernel::blocksOf(Value tensor, int64_t size) {
  return arith::CeilDivUIOp::create(b, frame.dim(tensor, dims.s),
                                    constantIndex(b, size));
}

Value PairKernel::groupSize() {
  Value keyHeads =
      arith::MaxUIOp::create(b, frame.dim(op.key, dims.h), constantIndex(b, 1));
  return arith::DivUIOp::create(b, frame.dim(op.query, dims.h), keyHeads);
}

Value PairKernel::length(Value lengths, Value tensor) {
  Value size = frame.dim(tensor, dims.s);
  if (!lengths)
    return size;
  Value own =
      tile::LoadScalarOp::create(b, b.getI32Type(), frame.view(lengths), batch);
  own = arith::IndexCastOp::create(b, b.getIndexType(), own);
  own = arith::MaxSIOp::create(b, own, constantIndex(b, 0));
  return arith::MinSIOp::create(b, own, size);
}

void PairKernel::setSequence(Value sequence) {
  batch = sequence;
  qLen = length(op.qLen, op.query);
  kLen = length(op.kLen, op.key);
  b32 = toI32(b, batch);
  qLen32 = toI32(b, qLen);
  kLen32 = toI32(b, kLen);
}

void PairKernel::setHead(Value head) {
  h = head;
  h32 = toI32(b, h);
}

void PairKernel::setQueries(Value first) {
  i0 = first;
  i032 = toI32(b, i0);
  qLeft = arith::SubIOp::create(b, qLen, i0);
}

void PairKernel::setKeys(Value first) {
  j0 = first;
  j032 = toI32(b, j0);
  kLeft = arith::SubIOp::create(b, kLen, j0);
}

Value PairKernel::i(ImplicitLocOpBuilder &b, Value r, Value c) {
  return arith::AddIOp::create(b, i032, ofQueries() ? r : c);
}

Value PairKernel::j(ImplicitLocOpBuilder &b, Value r, Value c) {
  return arith::AddIOp::create(b, j032, ofQueries() ? c : r);
}

Value PairKernel::loadQueries(Value tensor) {
  return loadRows(tensor, h, i0, queryBlock(), op.qLen ? qLeft : Value());
}

Value PairKernel::loadKeys(Value tensor, Value head) {
  return loadRows(tensor, head, j0, keyBlock(), op.kLen ? kLeft : Value());
}

Value PairKernel::loadRows(Value tensor, Value head, Value first, int64_t count,
                           Value left) {
  return loadTile(b, tileType(count, dimSize(tensor), elementType(tensor)),
                  frame.view(tensor), {batch, head, first},
                  rowMap(frame, tensor, op.layout), left);
}

void PairKernel::loadCaptures(bool byColumn) {
  loadCapturesIf([&](const attn::Capture &capture) {
    return loader.usesColumns(capture) == byColumn;
  });
}

void PairKernel::loadCapturesIf(
    function_ref<bool(const attn::Capture &)> wanted) {
  BlockOrigin at = {batch, h, i0, j0};
  auto load = [&](ArrayRef<attn::Capture> captures,
                  MutableArrayRef<Element> loaded) {
    for (auto [capture, element] : llvm::zip_equal(captures, loaded))
      if (wanted(capture))
        element = loader.load(capture, at);
  };
  load(op.captures, elements);
  for (auto [captures, loaded] : llvm::zip_equal(maskCaptures, maskElements))
    load(captures, loaded);
}

//===----------------------------------------------------------------------===//
// One pair
//===----------------------------------------------------------------------===//

Value PairKernel::scale() {
  if (op.scale)
    return op.scale;
  return constantF32(b, static_cast<float>(1.0 / std::sqrt(static_cast<double>(
                                                     dimSize(op.query)))));
}

PairKernel::Pair PairKernel::makePair(Value stays, Value passes, Value dstays,
                                      Value dpasses) {
  auto product = [&](Value a, Value c) -> Value {
    return tile::DotOp::create(b, scores, a, c, Value(),
                               /*transpose_a=*/false, /*transpose_b=*/true);
  };
  Pair pair;
  pair.dots = product(stays, passes);
  if (dstays)
    pair.dweights = product(dstays, dpasses);
  pair.weights = mask(map(op.weight, {pair.dots}));
  return pair;
}

Value PairKernel::gradientOf(const Pair &pair, Region &region) {
  return mask(map(region, {pair.dots, pair.weights, pair.dweights}));
}

Value PairKernel::gradientOfBlocks(Region &region, Value group) {
  Value hk = arith::DivUIOp::create(b, h, group);
  loadCaptures(/*byColumn=*/false);
  loadCaptures(/*byColumn=*/true);
  Pair pair = makePair(loadQueries(op.query), loadKeys(op.key, hk),
                       loadQueries(op.doutput), loadKeys(op.value, hk));
  return gradientOf(pair, region);
}

Value PairKernel::map(Region &region, ArrayRef<Value> tiles) {
  Value factor = scale();
  SmallVector<Value> inputs;
  for (auto [index, tile] : llvm::enumerate(tiles))
    if (!region.getArgument(index).use_empty())
      inputs.push_back(tile);
  size_t count = inputs.size(), first = tiles.size() + 6;
  SmallVector<Element> read = elements;
  for (auto [index, element] : llvm::enumerate(read))
    if (region.getArgument(first + index).use_empty())
      element = {factor, nullptr};
  llvm::append_range(inputs, tilesOf(read));
  return buildMap(
      b, scores, inputs,
      [&](ImplicitLocOpBuilder &b, ValueRange e, Value r, Value c) {
        SmallVector<Value> arguments;
        ValueRange rest = e.take_front(count);
        for (size_t index = 0; index < tiles.size(); ++index) {
          bool isRead = !region.getArgument(index).use_empty();
          arguments.push_back(isRead ? rest.front() : factor);
          rest = rest.drop_front(isRead);
        }
        arguments[0] = arith::MulFOp::create(b, arguments[0], factor);
        llvm::append_range(arguments, ValueRange{b32, h32, i(b, r, c),
                                                 j(b, r, c), qLen32, kLen32});
        llvm::append_range(arguments, scalarsOf(b, read, e.drop_front(count)));
        return inlineRegion(b, region, arguments);
      });
}

bool PairKernel::needsMask() {
  Value passing = ofQueries() ? op.key : op.query;
  int64_t size = cast<RankedTensorType>(passing.getType()).getDimSize(dims.s);
  return bothBounded || !op.masks.empty() || op.qLen || op.kLen ||
         ShapedType::isDynamic(size) || size % blockCols != 0;
}

Value PairKernel::mask(Value x) {
  if (!needsMask())
    return x;
  SmallVector<Value> captured;
  for (ArrayRef<Element> loaded : maskElements)
    llvm::append_range(captured, tilesOf(loaded));
  Value rowsLeft = toI32(b, ofQueries() ? qLeft : kLeft);
  Value colsLeft = toI32(b, ofQueries() ? kLeft : qLeft);
  return buildMask(
      b, x, captured, 0,
      [&](ImplicitLocOpBuilder &b, ValueRange e, Value r, Value c) {
        auto inside = [&](Value at, Value left) -> Value {
          return arith::CmpIOp::create(b, arith::CmpIPredicate::slt, at, left);
        };
        // S-beyond: nothing at or beyond a length.
        Value keep = inside(c, colsLeft);
        if (bothBounded)
          keep = arith::AndIOp::create(b, keep, inside(r, rowsLeft));
        return keepByMasks(b, keep, e,
                           {b32, h32, i(b, r, c), j(b, r, c), qLen32, kLen32});
      });
}

Value PairKernel::keepByMasks(ImplicitLocOpBuilder &b, Value keep, ValueRange e,
                              const attn::MaskPosition &pos) {
  for (auto [mask, loaded] : llvm::zip_equal(op.masks, maskElements)) {
    size_t count = tilesOf(loaded).size();
    SmallVector<Value> scalars = scalarsOf(b, loaded, e.take_front(count));
    e = e.drop_front(count);
    keep = arith::AndIOp::create(
        b, keep, mask.buildPredicate(b, b.getLoc(), pos, scalars));
  }
  return keep;
}

Value PairKernel::accumulate(Value weights, Value rows, Value tensor,
                             Value sum) {
  return tile::DotOp::create(b, cast<tile::TileType>(sum.getType()),
                             castTile(b, weights, elementType(tensor)), rows,
                             sum);
}

//===----------------------------------------------------------------------===//
// Loops
//===----------------------------------------------------------------------===//

SmallVector<Value>
PairKernel::loop(const attn::KeyRange &range, ArrayRef<Value> inits,
                 function_ref<SmallVector<Value>(Value, ValueRange)> body) {
  return loop(range, inits, blockCols, body);
}

SmallVector<Value>
PairKernel::loop(const attn::KeyRange &range, ArrayRef<Value> inits,
                 int64_t step,
                 function_ref<SmallVector<Value>(Value, ValueRange)> body) {
  auto loop = tile::ForKeysOp::create(
      b, TypeRange(ValueRange(inits)), range.lo, range.fullLo, range.fullHi,
      range.hi, static_cast<uint64_t>(step), inits, /*rowsCount=*/0);
  OpBuilder::InsertionGuard guard(b);
  SmallVector<Type> types = {b.getIndexType()};
  llvm::append_range(types, ValueRange(inits).getTypes());
  b.createBlock(&loop.getRegion(), {}, types,
                SmallVector<Location>(types.size(), b.getLoc()));
  SmallVector<Value> carried = llvm::to_vector_of<Value>(loop.getIterArgs());
  tile::YieldOp::create(b, body(loop.getKey(), carried));
  return llvm::to_vector(ValueRange(loop.getResults()));
}

attn::KeyRange PairKernel::unlessBeyond(attn::KeyRange range, Value lengths,
                                        Value first, Value length) {
  if (!lengths)
    return range;
  Value any =
      arith::CmpIOp::create(b, arith::CmpIPredicate::slt, first, length);
  range.hi = arith::SelectOp::create(b, any, range.hi, constantIndex(b, 0));
  return range;
}

attn::KeyRange PairKernel::keyRange() {
  Value zero = constantIndex(b, 0);
  attn::KeyRange range = {zero, zero, kLen, kLen};
  attn::QueryRows block = {batch, h,   i0, constantIndex(b, blockRows),
                           qLen,  kLen};
  for (attn::MaskOpInterface mask : op.masks)
    range = attn::intersect(b, b.getLoc(), range,
                            mask.buildKeyRange(b, b.getLoc(), block));
  return unlessBeyond(range, op.qLen, i0, qLen);
}

attn::QueryRange PairKernel::queryRange() {
  Value zero = constantIndex(b, 0);
  attn::QueryRange range = {zero, zero, qLen, qLen};
  attn::KeyRows block = {batch, h, j0, constantIndex(b, blockRows), qLen, kLen};
  for (attn::MaskOpInterface mask : op.masks)
    range = attn::intersect(b, b.getLoc(), range,
                            mask.buildQueryRange(b, b.getLoc(), block));
  return unlessBeyond(range, op.kLen, j0, kLen);
}

//===----------------------------------------------------------------------===//
// Results
//===----------------------------------------------------------------------===//

Value PairKernel::zeros(Value tensor) {
  return splat(b, tileType(blockRows, dimSize(tensor), b.getF32Type()), 0);
}

Value PairKernel::addReduced(Value sum, Value tile) {
  return addTiles(b, sum,
                  tile::ReduceOp::create(b, row, tile::Reduction::Add, tile));
}

Value PairKernel::times(Value x, Value factor) {
  return buildMap(b, cast<tile::TileType>(x.getType()), x,
                  [&](ImplicitLocOpBuilder &b, ValueRange e, Value, Value) {
                    return arith::MulFOp::create(b, e[0], factor);
                  });
}

Value PairKernel::maskRows(Value tile) {
  if (ofQueries() ? !op.qLen : !op.kLen)
    return tile;
  Value left = toI32(b, ofQueries() ? qLeft : kLeft);
  return buildMask(
      b, tile, {}, 0,
      [&](ImplicitLocOpBuilder &b, ValueRange, Value r, Value) -> Value {
        return arith::CmpIOp::create(b, arith::CmpIPredicate::slt, r, left);
      });
}

void PairKernel::storeRows(Value tile, Value result, Value head) {
  tile = castTile(b, maskRows(tile), elementType(result));
  tile::StoreOp::create(b, tile, frame.view(result),
                        ValueRange{batch, head, ofQueries() ? i0 : j0},
                        rowMap(frame, result, op.layout), Value());
}

AffineMap PairKernel::sumsMap() {
  AffineExpr r, c, sequence, head, band;
  bindDims(b.getContext(), r, c);
  bindSymbols(b.getContext(), sequence, head, band);
  AffineExpr thread = r % 8 * 4 + (c % 8).floorDiv(2);
  AffineExpr part = (r % 16).floorDiv(8) * 2 + c % 2;
  return AffineMap::get(
      2, 3,
      {sequence, head, band + r.floorDiv(16), c.floorDiv(8), thread * 4 + part},
      b.getContext());
}

SmallVector<Value> PairKernel::sumsAt() {
  return {batch, h, arith::DivUIOp::create(b, i0, constantIndex(b, 16))};
}

void PairKernel::storeStat(Value tile, Value result) {
  tile::StoreOp::create(b, maskRows(tile), frame.view(result),
                        ValueRange{batch, h, ofQueries() ? i0 : j0},
                        statMap(b.getContext()), Value());
}
