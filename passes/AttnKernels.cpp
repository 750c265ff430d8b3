//===- AttnKernels.cpp - The tile kernels of attn ops ---------------------===//

#include "passes/AttnKernels.h"
#include "passes/AttnKernelParts.h"

#include <cmath>
#include <limits>

using namespace mlir;
using namespace attnc;

//===----------------------------------------------------------------------===//
// View orders
//===----------------------------------------------------------------------===//

void ViewOrders::setLayout(Value tensor, attn::Layout layout) {
  orders.try_emplace(tensor, attn::getLayoutPermutation(layout));
}

SmallVector<int64_t> ViewOrders::get(Value tensor) const {
  if (auto it = orders.find(tensor); it != orders.end())
    return it->second;
  auto view = dyn_cast<tile::ViewType>(tensor.getType());
  int64_t rank = view ? view.getRank()
                      : cast<RankedTensorType>(tensor.getType()).getRank();
  return llvm::to_vector(llvm::seq<int64_t>(0, rank));
}

tile::ViewType ViewOrders::getViewType(Value tensor) const {
  if (auto view = dyn_cast<tile::ViewType>(tensor.getType()))
    return view;
  auto type = cast<RankedTensorType>(tensor.getType());
  return tile::ViewType::get(tensor.getContext(),
                             toView(tensor, type.getShape()),
                             type.getElementType());
}

//===----------------------------------------------------------------------===//
// Statistics of rows
//===----------------------------------------------------------------------===//

static Value mapTile(ImplicitLocOpBuilder &b, Value x,
                     function_ref<Value(ImplicitLocOpBuilder &, Value)> fn) {
  return buildMap(b, cast<tile::TileType>(x.getType()), x,
                  [&](ImplicitLocOpBuilder &b, ValueRange e, Value,
                      Value) -> Value { return fn(b, e[0]); });
}

static Value squareTile(ImplicitLocOpBuilder &b, Value x) {
  return mapTile(b, x, [](ImplicitLocOpBuilder &b, Value x) -> Value {
    return arith::MulFOp::create(b, x, x);
  });
}

static Value reduceRows(ImplicitLocOpBuilder &b, tile::Reduction how, Value x) {
  auto row = withCols(cast<tile::TileType>(x.getType()), 1);
  return tile::ReduceOp::create(b, row, how, x);
}

/// Of rows of f32.
static Value rowStat(ImplicitLocOpBuilder &b, attn::RowStat stat, Value x) {
  if (stat == attn::RowStat::AbsMax)
    return reduceRows(
        b, tile::Reduction::Max,
        mapTile(b, x, [](ImplicitLocOpBuilder &b, Value x) -> Value {
          return math::AbsFOp::create(b, x);
        }));
  float inverse =
      1.0f / static_cast<float>(cast<tile::TileType>(x.getType()).getCols());
  if (stat == attn::RowStat::MeanSquare)
    x = squareTile(b, x);
  return mapTile(b, reduceRows(b, tile::Reduction::Add, x),
                 [&](ImplicitLocOpBuilder &b, Value sum) -> Value {
                   return arith::MulFOp::create(b, sum,
                                                constantF32(b, inverse));
                 });
}

namespace {

//===----------------------------------------------------------------------===//
// attn.fused
//===----------------------------------------------------------------------===//

class FusedKernel {
public:
  FusedKernel(ImplicitLocOpBuilder &builder, StringRef name, attn::FusedOp op,
              const ViewOrders &orders, tile::ScheduleAttr schedule,
              const SplitSums &sums)
      : op(op), sums(sums), b(builder), frame(builder, name, orders, schedule),
        blockM(schedule.getBlockM()), blockN(schedule.getBlockN()),
        isShared(schedule.getConsumers() > 1),
        isPacked(schedule.getPackGroups()), keyCaptures(frame, blockM, blockN),
        scores(tileType(blockM, blockN, builder.getF32Type())),
        output(tileType(blockM, dimSize(op.getValue()), builder.getF32Type())),
        row(withCols(scores, 1)) {}

  AttnKernel build() {
    // The order of the kernel's arguments.
    for (Value tensor : {op.getQuery(), op.getKey(), op.getValue()})
      frame.view(tensor);
    for (Value result : isSplit() ? sums.all() : results())
      frame.view(result);
    openItems();
    setPositions();
    hoistCaptures();
    Value query = loadQuery();
    Carried result = keyLoop(query);
    isSplit() ? storeSums(result) : storeOutput(result);
    return frame.finish();
  }

private:
  /// Whether an item takes one of several ranges of keys.
  bool isSplit() const { return sums.output != nullptr; }
  SmallVector<Value> results() { return op->getResults(); }

  /// The head dim, static by the verifier.
  int64_t dimSize(Value tensor) const {
    return cast<RankedTensorType>(tensor.getType()).getShape().back();
  }
  bool isSoftmax() { return op.getNormalize() == attn::Normalize::Softmax; }
  bool hasRowSum() { return op.getNormalize() != attn::Normalize::None; }

  void openItems() {
    attn::LayoutDims dims = attn::getLayoutDims(op.getLayout());
    Value heads = frame.dim(op.getQuery(), dims.h);
    Value rows = frame.dim(op.getQuery(), dims.s);
    Value size = constantIndex(b, blockM), blocks;
    if (!isPacked)
      blocks = arith::CeilDivUIOp::create(b, rows, size);
    // S-empty: without sequences, heads or rows there is no item. S-gqa: a
    // call without key heads has none either, but divides.
    Value one = constantIndex(b, 1);
    Value keyHeads =
        arith::MaxUIOp::create(b, frame.dim(op.getKey(), dims.h), one);
    Value group = groupSize(heads, keyHeads);
    if (isPacked) {
      packed = group;
      rows = arith::MulIOp::create(b, rows, group);
      heads = frame.dim(op.getKey(), dims.h);
      blocks = arith::CeilDivUIOp::create(b, rows, size);
    }
    SmallVector<Value> counts = {frame.dim(op.getQuery(), dims.b), heads,
                                 blocks};
    // Items of the same range come together: heads of a group share keys.
    if (isSplit()) {
      ranges =
          tile::DimOp::create(b, frame.view(sums.output), SplitSums::kRangeDim);
      counts.insert(counts.begin() + 1, ranges);
    }
    SmallVector<Value> at = frame.openItems(counts);
    batch = at[0];
    if (isSplit())
      split = at[1];
    h = hk = at[at.size() - 2];
    if (isPacked)
      h = arith::MulIOp::create(b, hk, group);
    else
      hk = arith::DivUIOp::create(b, h, group);
    i0 = arith::MulIOp::create(b, at.back(), size);
  }

  /// Query heads of a key head: a constant where the types say so.
  Value groupSize(Value heads, Value keyHeads) {
    int64_t dim = attn::getLayoutDims(op.getLayout()).h;
    auto query = cast<RankedTensorType>(op.getQuery().getType());
    auto key = cast<RankedTensorType>(op.getKey().getType());
    if (isPacked && !query.isDynamicDim(dim) && !key.isDynamicDim(dim) &&
        key.getDimSize(dim))
      return constantIndex(
          b, std::max<int64_t>(query.getDimSize(dim) / key.getDimSize(dim), 1));
    Value group = arith::DivUIOp::create(b, heads, keyHeads);
    // Nothing is divided by 0 where there are no heads.
    return isPacked
               ? Value(arith::MaxUIOp::create(b, group, constantIndex(b, 1)))
               : group;
  }

  /// Where the rows of this item begin.
  BlockOrigin origin(Value x0 = {}) { return {batch, h, i0, x0, packed}; }

  /// The position of a row of the item.
  Value positionOf(Value row) {
    return packed ? Value(arith::DivUIOp::create(b, row, packed)) : row;
  }

  /// A sequence's own length: at most the size of the tensor, whatever the
  /// caller says, and not negative.
  Value length(Value lengths, Value tensor) {
    Value size = frame.dim(tensor, attn::getLayoutDims(op.getLayout()).s);
    if (!lengths)
      return size;
    Value own = tile::LoadScalarOp::create(b, b.getI32Type(),
                                           frame.view(lengths), batch);
    own = arith::IndexCastOp::create(b, b.getIndexType(), own);
    own = arith::MaxSIOp::create(b, own, constantIndex(b, 0));
    return arith::MinSIOp::create(b, own, size);
  }

  void setPositions() {
    qLen = length(op.getQLen(), op.getQuery());
    kLen = length(op.getKLen(), op.getKey());
    qLen32 = toI32(b, qLen);
    kLen32 = toI32(b, kLen);
    b32 = toI32(b, batch);
    h32 = toI32(b, h);
    i032 = toI32(b, i0);
    if (packed)
      packed32 = toI32(b, packed);
  }

  /// Query rows of this block inside the sequence; null if only the tensor
  /// bounds them.
  Value qLeft() {
    if (!op.getQLen())
      return {};
    Value rows = packed ? Value(arith::MulIOp::create(b, qLen, packed)) : qLen;
    return arith::SubIOp::create(b, rows, i0);
  }

  tile::TileType typeOfRows(Value tensor, int64_t count) {
    return tileType(count, dimSize(tensor),
                    cast<RankedTensorType>(tensor.getType()).getElementType());
  }

  /// The access to this item's rows of a (b, h, s, d) tensor.
  AffineMap queryMap(Value tensor, SmallVectorImpl<Value> &coordinates) {
    coordinates.push_back(batch);
    RowExprs row = rowExprs(b, origin(), coordinates);
    AffineExpr logical[] = {b.getAffineSymbolExpr(0), row.head, row.position,
                            b.getAffineDimExpr(1)};
    SmallVector<AffineExpr> perTensorDim(4);
    for (auto [expr, dim] :
         llvm::zip_equal(logical, attn::getLayoutPermutation(op.getLayout())))
      perTensorDim[dim] = expr;
    return frame.accessMap(tensor, coordinates.size(), perTensorDim);
  }

  Value loadQuery() {
    SmallVector<Value> at;
    AffineMap map = queryMap(op.getQuery(), at);
    return loadTile(b, typeOfRows(op.getQuery(), blockM),
                    frame.view(op.getQuery()), at, map, qLeft());
  }

  /// Rows row0, row0 + 1, ... of the keys or values.
  Value loadKeys(Value tensor, Value row0, Value rows) {
    return loadTile(b, typeOfRows(tensor, blockN), frame.view(tensor),
                    {batch, hk, row0}, rowMap(frame, tensor, op.getLayout()),
                    rows);
  }

  //===--------------------------------------------------------------------===//
  // Captures: what the key does not change is loaded once
  //===--------------------------------------------------------------------===//

  void hoistCaptures() {
    scoreCaptures = pairUp(op.getScoreCaptures(), op.getScoreMaps());
    for (Value mask : op.getMasks()) {
      auto interface = cast<attn::MaskOpInterface>(mask.getDefiningOp());
      masks.push_back(interface);
      maskCaptures.push_back(interface.getMaskCaptures());
      maskElements.emplace_back(maskCaptures.back().size());
    }
    scoreElements.resize(scoreCaptures.size());
    loadCaptures(/*byKey=*/false, origin());
  }

  void loadCaptures(bool byKey, const BlockOrigin &at) {
    auto load = [&](ArrayRef<attn::Capture> captures,
                    MutableArrayRef<Element> elements) {
      for (auto [capture, element] : llvm::zip_equal(captures, elements))
        if (keyCaptures.usesColumns(capture) == byKey)
          element = keyCaptures.load(capture, at);
    };
    load(scoreCaptures, scoreElements);
    for (auto [captures, elements] :
         llvm::zip_equal(maskCaptures, maskElements))
      load(captures, elements);
  }

  //===--------------------------------------------------------------------===//
  // The loop over key blocks
  //===--------------------------------------------------------------------===//

  /// The keys that `count` rows from `row` on attend: what all masks leave of
  /// [0, kLen).
  attn::KeyRange keyRange(Value row, Value count) {
    Value zero = constantIndex(b, 0);
    Value first = positionOf(row);
    if (packed) {
      Value one = constantIndex(b, 1);
      Value last =
          arith::SubIOp::create(b, arith::AddIOp::create(b, row, count), one);
      count = arith::SubIOp::create(b, positionOf(last), first);
      count = arith::AddIOp::create(b, count, one);
    }
    attn::KeyRange range = {zero, zero, kLen, kLen};
    attn::QueryRows rows = {batch, h, first, count, qLen, kLen};
    for (attn::MaskOpInterface mask : masks)
      range = attn::intersect(b, b.getLoc(), range,
                              mask.buildKeyRange(b, b.getLoc(), rows));
    if (op.getQLen() || row != i0) {
      // Rows beyond the sequence attend nothing.
      Value any =
          arith::CmpIOp::create(b, arith::CmpIPredicate::slt, first, qLen);
      range.hi = arith::SelectOp::create(b, any, range.hi, zero);
    }
    return range;
  }

  /// This item's share of a range: whole blocks, as many as others have or one
  /// less.
  attn::KeyRange partOf(attn::KeyRange range) {
    Value zero = constantIndex(b, 0), size = constantIndex(b, blockN);
    Value begin = arith::DivUIOp::create(b, range.lo, size);
    Value end = arith::CeilDivUIOp::create(
        b, arith::MaxSIOp::create(b, range.hi, zero), size);
    Value blocks =
        arith::MaxSIOp::create(b, arith::SubIOp::create(b, end, begin), zero);
    auto bound = [&](Value number) -> Value {
      Value share = arith::MulIOp::create(b, blocks, number);
      share = arith::DivUIOp::create(b, share, ranges);
      share = arith::AddIOp::create(b, begin, share);
      return arith::MulIOp::create(b, share, size);
    };
    Value next = arith::AddIOp::create(b, split, constantIndex(b, 1));
    range.lo = arith::MaxSIOp::create(b, range.lo, bound(split));
    range.hi = arith::MinSIOp::create(b, range.hi, bound(next));
    return range;
  }

  /// The key range of some rows of the block, where several workers share it:
  /// of all keys, since the loop is cut into ranges as the whole block needs
  /// them.
  void addRows(tile::ForKeysOp loop) {
    if (loop.getRows().empty())
      return;
    OpBuilder::InsertionGuard guard(b);
    Type index = b.getIndexType();
    Block *block = b.createBlock(&loop.getRows().front(), {}, {index, index},
                                 {b.getLoc(), b.getLoc()});
    Value first = arith::AddIOp::create(b, i0, block->getArgument(0));
    attn::KeyRange range = keyRange(first, block->getArgument(1));
    tile::YieldOp::create(
        b, ValueRange{range.lo, range.fullLo, range.fullHi, range.hi});
  }

  /// What the loop carries: the output, then the row sum, then the row
  /// maximum.
  struct Carried {
    Value output, sum, max;
  };

  SmallVector<Value> pack(const Carried &carried) {
    SmallVector<Value> values = {carried.output};
    if (hasRowSum())
      values.push_back(carried.sum);
    if (isSoftmax())
      values.push_back(carried.max);
    return values;
  }

  Carried unpack(ValueRange values) {
    return {values[0], hasRowSum() ? values[1] : Value(),
            isSoftmax() ? values[2] : Value()};
  }

  Carried keyLoop(Value query) {
    Carried start = {splat(b, output, 0), {}, {}};
    if (hasRowSum())
      start.sum = splat(b, row, 0);
    if (isSoftmax())
      start.max = splat(b, row, -std::numeric_limits<float>::infinity());
    SmallVector<Value> inits = pack(start);
    attn::KeyRange range = keyRange(i0, constantIndex(b, blockM));
    if (isSplit())
      range = partOf(range);
    auto loop = tile::ForKeysOp::create(b, TypeRange(ValueRange(inits)),
                                        range.lo, range.fullLo, range.fullHi,
                                        range.hi, static_cast<uint64_t>(blockN),
                                        inits, static_cast<unsigned>(isShared));
    addRows(loop);
    OpBuilder::InsertionGuard guard(b);
    SmallVector<Type> types = {b.getIndexType()};
    llvm::append_range(types, ValueRange(inits).getTypes());
    SmallVector<Location> locs(types.size(), b.getLoc());
    b.createBlock(&loop.getRegion(), {}, types, locs);
    Carried next =
        keyBlock(query, loop.getKey(),
                 unpack(llvm::to_vector_of<Value>(loop.getIterArgs())));
    tile::YieldOp::create(b, pack(next));
    return unpack(loop.getResults());
  }

  Carried keyBlock(Value query, Value j0, Carried carried) {
    // S-beyond: rows at or beyond the length are never read.
    Value left = arith::SubIOp::create(b, kLen, j0);
    Value j032 = toI32(b, j0);
    Value key = loadKeys(op.getKey(), j0, left);
    loadCaptures(/*byKey=*/true, origin(j0));
    Value logits = tile::DotOp::create(b, scores, query, key, Value(),
                                       /*transpose_a=*/false,
                                       /*transpose_b=*/true);
    Value weights = mask(scoreMap(logits, j032), j032, toI32(b, left));
    if (isSoftmax()) {
      auto step =
          tile::SoftmaxStepOp::create(b, weights, carried.max, carried.sum);
      weights = step.getWeights();
      carried.output =
          buildMap(b, output, {carried.output, step.getAlpha()},
                   [](ImplicitLocOpBuilder &b, ValueRange e, Value, Value) {
                     return arith::MulFOp::create(b, e[0], e[1]);
                   });
      carried.sum = step.getNewSum();
      carried.max = step.getNewMax();
    } else if (hasRowSum()) {
      // The unrounded weights.
      Value sum = tile::ReduceOp::create(b, row, tile::Reduction::Add, weights);
      carried.sum =
          buildMap(b, row, {carried.sum, sum},
                   [](ImplicitLocOpBuilder &b, ValueRange e, Value, Value) {
                     return arith::AddFOp::create(b, e[0], e[1]);
                   });
    }
    // S-round: P is rounded once, to V's type; the sum is f32.
    Type element =
        cast<RankedTensorType>(op.getValue().getType()).getElementType();
    Value rounded = castTile(b, weights, element);
    Value value = loadKeys(op.getValue(), j0, left);
    carried.output =
        tile::DotOp::create(b, output, rounded, value, carried.output);
    return carried;
  }

  /// The position and the head of row `r` of a tile.
  Value i(ImplicitLocOpBuilder &b, Value r) {
    Value row = arith::AddIOp::create(b, i032, r);
    return packed ? Value(arith::DivUIOp::create(b, row, packed32)) : row;
  }
  Value head(ImplicitLocOpBuilder &b, Value r) {
    if (!packed)
      return h32;
    Value row = arith::AddIOp::create(b, i032, r);
    return arith::AddIOp::create(b, h32,
                                 arith::RemUIOp::create(b, row, packed32));
  }

  Value scale() {
    if (op.getScale())
      return op.getScale();
    return constantF32(
        b, static_cast<float>(
               1.0 / std::sqrt(static_cast<double>(dimSize(op.getQuery())))));
  }

  /// x = score_mod(scale * s), p = activation(x), in one map.
  Value scoreMap(Value logits, Value j032) {
    Value factor = scale();
    SmallVector<Value> inputs = {logits};
    llvm::append_range(inputs, tilesOf(scoreElements));
    return buildMap(
        b, scores, inputs,
        [&](ImplicitLocOpBuilder &b, ValueRange e, Value r, Value c) {
          Value s = arith::MulFOp::create(b, e.front(), factor);
          // S-alibi: positions and both lengths, so that the whole distance
          // to the diagonal can be had.
          Value j = arith::AddIOp::create(b, j032, c);
          SmallVector<Value> arguments = {s, b32,    head(b, r), i(b, r),
                                          j, qLen32, kLen32};
          llvm::append_range(arguments,
                             scalarsOf(b, scoreElements, e.drop_front()));
          Value x = inlineRegion(b, op.getScoreMod(), arguments);
          return inlineRegion(b, op.getActivation(), x);
        });
  }

  /// Whether some block may hold keys that are not attended: static sizes can
  /// say no.
  bool needsMask() {
    auto key = cast<RankedTensorType>(op.getKey().getType());
    int64_t keys = key.getDimSize(attn::getLayoutDims(op.getLayout()).s);
    return !masks.empty() || op.getKLen() || ShapedType::isDynamic(keys) ||
           keys % blockN != 0;
  }

  /// S-mask-zero: after the activation the fill is the weight 0; before the
  /// softmax it is -inf, whose weight is exactly 0.
  Value mask(Value x, Value j032, Value left32) {
    if (!needsMask())
      return x;
    SmallVector<Value> captured;
    for (ArrayRef<Element> elements : maskElements)
      llvm::append_range(captured, tilesOf(elements));
    float fill = isSoftmax() ? -std::numeric_limits<float>::infinity() : 0.0f;
    return buildMask(
        b, x, captured, fill,
        [&](ImplicitLocOpBuilder &b, ValueRange e, Value r, Value c) {
          // S-beyond: no weight at or beyond the key length.
          Value keep =
              arith::CmpIOp::create(b, arith::CmpIPredicate::slt, c, left32);
          if (masks.empty())
            return keep;
          attn::MaskPosition pos = {b32,     head(b, r),
                                    i(b, r), arith::AddIOp::create(b, j032, c),
                                    qLen32,  kLen32};
          for (auto [mask, elements] : llvm::zip_equal(masks, maskElements)) {
            size_t count = tilesOf(elements).size();
            SmallVector<Value> scalars =
                scalarsOf(b, elements, e.take_front(count));
            e = e.drop_front(count);
            keep = arith::AndIOp::create(
                b, keep, mask.buildPredicate(b, b.getLoc(), pos, scalars));
          }
          return keep;
        });
  }

  //===--------------------------------------------------------------------===//
  // After the loop
  //===--------------------------------------------------------------------===//

  /// S-bits: one item owns these rows and sums in the order of keys.
  void storeOutput(Carried result) {
    Value o = normalize(result);
    o = epilogue(o);
    o = maskRows(o, 0);
    auto type = cast<RankedTensorType>(op.getOutput().getType());
    o = castTile(b, o, type.getElementType());
    SmallVector<Value> at;
    AffineMap map = queryMap(op.getOutput(), at);
    tile::StoreOp::create(b, o, frame.view(op.getOutput()), at, map, Value());
    if (op.getLse())
      storeLse(result);
  }

  /// What a range of keys gives, as it is.
  void storeSums(const Carried &result) {
    MLIRContext *context = b.getContext();
    SmallVector<Value> at = {split, batch};
    RowExprs row = rowExprs(b, origin(), at);
    SmallVector<AffineExpr> each = {b.getAffineSymbolExpr(1), row.head,
                                    row.position, b.getAffineSymbolExpr(0)};
    AffineMap stat = AffineMap::get(2, at.size(), each, context);
    each.push_back(b.getAffineDimExpr(1));
    AffineMap wide = AffineMap::get(2, at.size(), each, context);
    auto store = [&](Value tile, Value view, AffineMap map) {
      if (view)
        tile::StoreOp::create(b, tile, frame.view(view), at, map, Value());
    };
    store(result.output, sums.output, wide);
    store(result.sum, sums.sum, stat);
    store(result.max, sums.max, stat);
  }

  /// S-mask-zero: a row without weight gives 0, not 0 / 0.
  Value normalize(const Carried &result) {
    if (!hasRowSum())
      return result.output;
    Value inverse = invertSums(b, result.sum);
    return buildMap(
        b, output, {result.output, inverse},
        [](ImplicitLocOpBuilder &b, ValueRange e, Value, Value) -> Value {
          return arith::MulFOp::create(b, e[0], e[1]);
        });
  }

  void storeLse(const Carried &result) {
    float inf = std::numeric_limits<float>::infinity();
    Value lse = logSumExp(b, result.max, result.sum);
    lse = maskRows(lse, -inf);
    SmallVector<Value> at = {batch};
    RowExprs row = rowExprs(b, origin(), at);
    AffineExpr each[] = {b.getAffineSymbolExpr(0), row.head, row.position};
    tile::StoreOp::create(b, lse, frame.view(op.getLse()), at,
                          AffineMap::get(2, at.size(), each, b.getContext()),
                          Value());
  }

  /// Rows at or beyond q_len hold nothing.
  Value maskRows(Value tile, float fill) {
    if (!op.getQLen())
      return tile;
    Value left = toI32(b, qLeft());
    return buildMask(
        b, tile, {}, fill,
        [&](ImplicitLocOpBuilder &b, ValueRange, Value r, Value) -> Value {
          return arith::CmpIOp::create(b, arith::CmpIPredicate::slt, r, left);
        });
  }

  Value epilogue(Value o) {
    if (op.getEpilogue().empty())
      return o;
    SmallVector<Value> inputs = {o};
    for (Attribute stat : op.getStats())
      inputs.push_back(rowStat(b, cast<attn::RowStatAttr>(stat).getValue(), o));
    size_t stats = op.getStats().size();
    CaptureLoader loader(frame, blockM, output.getCols());
    SmallVector<Element> elements;
    for (const attn::Capture &capture :
         pairUp(op.getEpilogueCaptures(), op.getEpilogueMaps()))
      elements.push_back(loader.load(capture, origin()));
    llvm::append_range(inputs, tilesOf(elements));
    return buildMap(
        b, output, inputs,
        [&](ImplicitLocOpBuilder &b, ValueRange e, Value r, Value c) {
          SmallVector<Value> arguments = {e.front(), b32, head(b, r), i(b, r),
                                          c};
          llvm::append_range(arguments, e.slice(1, stats));
          llvm::append_range(arguments,
                             scalarsOf(b, elements, e.drop_front(1 + stats)));
          return inlineRegion(b, op.getEpilogue(), arguments);
        });
  }

  attn::FusedOp op;
  SplitSums sums;
  ImplicitLocOpBuilder &b;
  KernelFrame frame;
  int64_t blockM, blockN;
  /// Several workers share the rows of a block.
  bool isShared;
  /// The rows of an item are those of all heads that share a key head.
  bool isPacked;
  CaptureLoader keyCaptures;
  /// blockM x blockN, blockM x Dv and blockM x 1, all f32.
  tile::TileType scores, output, row;

  /// Of the first row. Packed: its head is the key head's first, and row r is
  /// number i0 + r of all (position, head), of which `packed` share a position.
  Value batch, h, hk, i0, qLen, kLen, packed, packed32;
  /// Of the keys: this item's range and how many there are.
  Value split, ranges;
  Value b32, h32, i032, qLen32, kLen32;

  SmallVector<attn::Capture> scoreCaptures;
  SmallVector<Element> scoreElements;
  SmallVector<attn::MaskOpInterface> masks;
  SmallVector<SmallVector<attn::Capture>> maskCaptures;
  SmallVector<SmallVector<Element>> maskElements;
};

} // namespace

AttnKernel attnc::buildFusedKernel(ImplicitLocOpBuilder &builder,
                                   StringRef name, attn::FusedOp op,
                                   const ViewOrders &orders,
                                   tile::ScheduleAttr schedule,
                                   const SplitSums &sums) {
  OpBuilder::InsertionGuard guard(builder);
  return FusedKernel(builder, name, op, orders, schedule, sums).build();
}

//===----------------------------------------------------------------------===//
// attn.row_norm
//===----------------------------------------------------------------------===//

/// Of rows of f32. `inverse_l2` of a zero row is 0.
static Value rowNorm(ImplicitLocOpBuilder &b, attn::RowNorm kind, Value x) {
  if (std::optional<attn::RowStat> stat = attn::getRowStat(kind))
    return rowStat(b, *stat, x);
  Value sum = reduceRows(b, tile::Reduction::Add, squareTile(b, x));
  if (kind == attn::RowNorm::SquaredL2)
    return sum;
  return mapTile(b, sum, [](ImplicitLocOpBuilder &b, Value sum) -> Value {
    Value zero = constantF32(b, 0);
    Value empty =
        arith::CmpFOp::create(b, arith::CmpFPredicate::OEQ, sum, zero);
    Value inverse = math::RsqrtOp::create(b, sum);
    return arith::SelectOp::create(b, empty, zero, inverse);
  });
}

AttnKernel attnc::buildRowNormKernel(ImplicitLocOpBuilder &b, StringRef name,
                                     attn::RowNormOp op,
                                     const ViewOrders &orders,
                                     tile::ScheduleAttr schedule) {
  OpBuilder::InsertionGuard guard(b);
  KernelFrame frame(b, name, orders, schedule);
  Value input = op.getInput();
  auto type = cast<RankedTensorType>(input.getType());
  frame.view(input);
  frame.view(op.getResult());
  attn::LayoutDims dims = attn::getLayoutDims(op.getLayout());
  Value size = constantIndex(b, schedule.getBlockM());
  Value blocks = arith::CeilDivUIOp::create(b, frame.dim(input, dims.s), size);
  SmallVector<Value> at = frame.openItems(
      {frame.dim(input, dims.b), frame.dim(input, dims.h), blocks});
  at[2] = arith::MulIOp::create(b, at[2], size);
  Value x = tile::LoadOp::create(
      b,
      tileType(schedule.getBlockM(), type.getShape().back(),
               type.getElementType()),
      frame.view(input), at, rowMap(frame, input, op.getLayout()), Value(),
      Value(), Value(), Value(), IntegerAttr(), IntegerAttr());
  x = castTile(b, x, b.getF32Type());
  Value norm = rowNorm(b, op.getKind(), x);
  tile::StoreOp::create(b, norm, frame.view(op.getResult()), at,
                        statMap(b.getContext()), Value());
  return frame.finish();
}
