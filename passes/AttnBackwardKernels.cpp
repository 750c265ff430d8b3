//===- AttnBackwardKernels.cpp - The tile kernels of gradients ------------===//
//
// A block of queries meets a block of keys in every one of them: the rows of
// a tile are the block that stays, its columns those of the block that passes
// by. Each kernel owns what it writes and sums in one order (S-bits):
//
//   query gradients     queries stay, keys pass: dQ, and sums over j
//   key gradients       keys stay, queries of each head of the group pass:
//                       dK and dV
//   key sums            keys stay, queries of one head pass: sums over i
//   position gradients  both stay: one element for each pair of positions
//   diagonal gradients  both pass, at one distance: sums over equal i - j
//
// With `one_kernel` there is none for dQ: the keys' kernel adds its share to
// sums in workspace, which are cleared before and rounded after. Several blocks
// of keys add to one sum, in no fixed order.
//
//===----------------------------------------------------------------------===//

#include "passes/AttnKernelParts.h"
#include "passes/ScheduleChoice.h"

#include "mlir/Dialect/SCF/IR/SCF.h"

#include <cmath>

using namespace mlir;
using namespace attnc;

namespace {

//===----------------------------------------------------------------------===//
// Pairs of a query and a key block
//===----------------------------------------------------------------------===//

/// What attn.backward and attn.row_sums have in common.
struct PairOperands {
  template <typename Op>
  explicit PairOperands(Op op)
      : query(op.getQuery()), key(op.getKey()), value(op.getValue()),
        doutput(op.getDoutput()), scale(op.getScale()), qLen(op.getQLen()),
        kLen(op.getKLen()), captures(pairUp(op.getCaptures(), op.getMaps())),
        weight(op.getWeight()), layout(op.getLayout()) {
    for (Value mask : op.getMasks())
      masks.push_back(cast<attn::MaskOpInterface>(mask.getDefiningOp()));
  }

  Value query, key, value, doutput, scale, qLen, kLen;
  SmallVector<attn::Capture> captures;
  SmallVector<attn::MaskOpInterface> masks;
  Region &weight;
  attn::Layout layout;
};

class PairKernel {
protected:
  PairKernel(ImplicitLocOpBuilder &builder, StringRef name,
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

  //===--------------------------------------------------------------------===//
  // Where the block is
  //===--------------------------------------------------------------------===//

  bool ofQueries() const { return rows == BlockRows::Queries; }
  int64_t queryBlock() const { return ofQueries() ? blockRows : blockCols; }
  int64_t keyBlock() const { return ofQueries() ? blockCols : blockRows; }

  /// The head dim, static by the verifier.
  int64_t dimSize(Value tensor) const {
    return cast<RankedTensorType>(tensor.getType()).getShape().back();
  }
  Type elementType(Value tensor) const {
    return cast<RankedTensorType>(tensor.getType()).getElementType();
  }

  Value blocksOf(Value tensor, int64_t size) {
    return arith::CeilDivUIOp::create(b, frame.dim(tensor, dims.s),
                                      constantIndex(b, size));
  }

  /// S-gqa; a call without key heads has no item, but divides.
  Value groupSize() {
    Value keyHeads = arith::MaxUIOp::create(b, frame.dim(op.key, dims.h),
                                            constantIndex(b, 1));
    return arith::DivUIOp::create(b, frame.dim(op.query, dims.h), keyHeads);
  }

  /// A sequence's own length: at most the size of the tensor, whatever the
  /// caller says, and not negative.
  Value length(Value lengths, Value tensor) {
    Value size = frame.dim(tensor, dims.s);
    if (!lengths)
      return size;
    Value own = tile::LoadScalarOp::create(b, b.getI32Type(),
                                           frame.view(lengths), batch);
    own = arith::IndexCastOp::create(b, b.getIndexType(), own);
    own = arith::MaxSIOp::create(b, own, constantIndex(b, 0));
    return arith::MinSIOp::create(b, own, size);
  }

  void setSequence(Value sequence) {
    batch = sequence;
    qLen = length(op.qLen, op.query);
    kLen = length(op.kLen, op.key);
    b32 = toI32(b, batch);
    qLen32 = toI32(b, qLen);
    kLen32 = toI32(b, kLen);
  }
  void setHead(Value head) {
    h = head;
    h32 = toI32(b, h);
  }
  void setQueries(Value first) {
    i0 = first;
    i032 = toI32(b, i0);
    qLeft = arith::SubIOp::create(b, qLen, i0);
  }
  void setKeys(Value first) {
    j0 = first;
    j032 = toI32(b, j0);
    kLeft = arith::SubIOp::create(b, kLen, j0);
  }

  Value i(ImplicitLocOpBuilder &b, Value r, Value c) {
    return arith::AddIOp::create(b, i032, ofQueries() ? r : c);
  }
  Value j(ImplicitLocOpBuilder &b, Value r, Value c) {
    return arith::AddIOp::create(b, j032, ofQueries() ? c : r);
  }

  /// S-beyond: rows at or beyond the length are never read.
  Value loadQueries(Value tensor) {
    return loadRows(tensor, h, i0, queryBlock(), op.qLen ? qLeft : Value());
  }
  Value loadKeys(Value tensor, Value head) {
    return loadRows(tensor, head, j0, keyBlock(), op.kLen ? kLeft : Value());
  }
  Value loadRows(Value tensor, Value head, Value first, int64_t count,
                 Value left) {
    return loadTile(b, tileType(count, dimSize(tensor), elementType(tensor)),
                    frame.view(tensor), {batch, head, first},
                    rowMap(frame, tensor, op.layout), left);
  }

  /// Captured operands that change along the columns, or those that do not.
  void loadCaptures(bool byColumn) {
    loadCapturesIf([&](const attn::Capture &capture) {
      return loader.usesColumns(capture) == byColumn;
    });
  }
  void loadCapturesIf(function_ref<bool(const attn::Capture &)> wanted) {
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

  //===--------------------------------------------------------------------===//
  // One pair
  //===--------------------------------------------------------------------===//

  Value scale() {
    if (op.scale)
      return op.scale;
    return constantF32(
        b, static_cast<float>(
               1.0 / std::sqrt(static_cast<double>(dimSize(op.query)))));
  }

  /// The products of one pair, and the weight that follows from them.
  struct Pair {
    Value dots, dweights, weights;
  };

  /// `stays` and `passes` are queries and keys, or the other way round; so are
  /// `dstays` and `dpasses` of dO and V.
  /// Without `dstays` the weight only.
  Pair makePair(Value stays, Value passes, Value dstays, Value dpasses) {
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

  /// The gradient that a region makes of a pair.
  Value gradientOf(const Pair &pair, Region &region) {
    return mask(map(region, {pair.dots, pair.weights, pair.dweights}));
  }

  /// A region of (s, ..., positions, captured...) on tiles; the first is q . k.
  /// What it does not read is not kept for it.
  Value map(Region &region, ArrayRef<Value> tiles) {
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
          llvm::append_range(arguments,
                             scalarsOf(b, read, e.drop_front(count)));
          return inlineRegion(b, region, arguments);
        });
  }

  /// Whether some block may hold positions that are masked or outside; static
  /// sizes can say no.
  bool needsMask() {
    Value passing = ofQueries() ? op.key : op.query;
    int64_t size = cast<RankedTensorType>(passing.getType()).getDimSize(dims.s);
    return bothBounded || !op.masks.empty() || op.qLen || op.kLen ||
           ShapedType::isDynamic(size) || size % blockCols != 0;
  }

  /// S-mask-zero: masked weights and their gradients are exactly 0. Rows of
  /// the block beyond the sequence only reach what they themselves own, which
  /// is masked at the end.
  Value mask(Value x) {
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
            return arith::CmpIOp::create(b, arith::CmpIPredicate::slt, at,
                                         left);
          };
          // S-beyond: nothing at or beyond a length.
          Value keep = inside(c, colsLeft);
          if (bothBounded)
            keep = arith::AndIOp::create(b, keep, inside(r, rowsLeft));
          return keepByMasks(
              b, keep, e, {b32, h32, i(b, r, c), j(b, r, c), qLen32, kLen32});
        });
  }

  Value keepByMasks(ImplicitLocOpBuilder &b, Value keep, ValueRange e,
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

  /// S-round: once, to the type that the other operand of the product has.
  Value accumulate(Value weights, Value rows, Value tensor, Value sum) {
    return tile::DotOp::create(b, cast<tile::TileType>(sum.getType()),
                               castTile(b, weights, elementType(tensor)), rows,
                               sum);
  }

  //===--------------------------------------------------------------------===//
  // Loops
  //===--------------------------------------------------------------------===//

  /// The loop over the blocks that pass by; `body` gets where one starts and
  /// the carried values and gives their next ones.
  SmallVector<Value>
  loop(const attn::KeyRange &range, ArrayRef<Value> inits,
       function_ref<SmallVector<Value>(Value, ValueRange)> body) {
    return loop(range, inits, blockCols, body);
  }
  SmallVector<Value>
  loop(const attn::KeyRange &range, ArrayRef<Value> inits, int64_t step,
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

  /// Nothing passes by a block that lies beyond its sequence.
  attn::KeyRange unlessBeyond(attn::KeyRange range, Value lengths, Value first,
                              Value length) {
    if (!lengths)
      return range;
    Value any =
        arith::CmpIOp::create(b, arith::CmpIPredicate::slt, first, length);
    range.hi = arith::SelectOp::create(b, any, range.hi, constantIndex(b, 0));
    return range;
  }

  /// The keys that the block of queries attends.
  attn::KeyRange keyRange() {
    Value zero = constantIndex(b, 0);
    attn::KeyRange range = {zero, zero, kLen, kLen};
    attn::QueryRows block = {batch, h,   i0, constantIndex(b, blockRows),
                             qLen,  kLen};
    for (attn::MaskOpInterface mask : op.masks)
      range = attn::intersect(b, b.getLoc(), range,
                              mask.buildKeyRange(b, b.getLoc(), block));
    return unlessBeyond(range, op.qLen, i0, qLen);
  }

  /// The queries that attend the block of keys.
  attn::QueryRange queryRange() {
    Value zero = constantIndex(b, 0);
    attn::QueryRange range = {zero, zero, qLen, qLen};
    attn::KeyRows block = {batch, h,   j0, constantIndex(b, blockRows),
                           qLen,  kLen};
    for (attn::MaskOpInterface mask : op.masks)
      range = attn::intersect(b, b.getLoc(), range,
                              mask.buildQueryRange(b, b.getLoc(), block));
    return unlessBeyond(range, op.kLen, j0, kLen);
  }

  //===--------------------------------------------------------------------===//
  // Results
  //===--------------------------------------------------------------------===//

  Value zeros(Value tensor) {
    return splat(b, tileType(blockRows, dimSize(tensor), b.getF32Type()), 0);
  }

  Value times(Value x, Value factor) {
    return buildMap(b, cast<tile::TileType>(x.getType()), x,
                    [&](ImplicitLocOpBuilder &b, ValueRange e, Value, Value) {
                      return arith::MulFOp::create(b, e[0], factor);
                    });
  }

  /// Rows at or beyond a length get exactly 0.
  Value maskRows(Value tile) {
    if (ofQueries() ? !op.qLen : !op.kLen)
      return tile;
    Value left = toI32(b, ofQueries() ? qLeft : kLeft);
    return buildMask(
        b, tile, {}, 0,
        [&](ImplicitLocOpBuilder &b, ValueRange, Value r, Value) -> Value {
          return arith::CmpIOp::create(b, arith::CmpIPredicate::slt, r, left);
        });
  }

  void storeRows(Value tile, Value result, Value head) {
    tile = castTile(b, maskRows(tile), elementType(result));
    tile::StoreOp::create(b, tile, frame.view(result),
                          ValueRange{batch, head, ofQueries() ? i0 : j0},
                          rowMap(frame, result, op.layout), Value());
  }
  /// f32 sums of dQ lie as a tensor core has them: 16 rows and 8 columns
  /// together, of which 32 threads have four each, those of two rows and
  /// columns.
  AffineMap sumsMap() {
    AffineExpr r, c, sequence, head, band;
    bindDims(b.getContext(), r, c);
    bindSymbols(b.getContext(), sequence, head, band);
    AffineExpr thread = r % 8 * 4 + (c % 8).floorDiv(2);
    AffineExpr part = (r % 16).floorDiv(8) * 2 + c % 2;
    return AffineMap::get(2, 3,
                          {sequence, head, band + r.floorDiv(16), c.floorDiv(8),
                           thread * 4 + part},
                          b.getContext());
  }
  SmallVector<Value> sumsAt() {
    return {batch, h, arith::DivUIOp::create(b, i0, constantIndex(b, 16))};
  }
  void storeStat(Value tile, Value result) {
    tile::StoreOp::create(b, maskRows(tile), frame.view(result),
                          ValueRange{batch, h, ofQueries() ? i0 : j0},
                          statMap(b.getContext()), Value());
  }

  PairOperands op;
  ImplicitLocOpBuilder &b;
  KernelFrame frame;
  BlockRows rows;
  int64_t blockRows, blockCols;
  CaptureLoader loader;
  /// blockRows x blockCols and blockRows x 1, f32.
  tile::TileType scores, row;
  attn::LayoutDims dims;
  /// Whether the block that stays may reach into results of others too.
  bool bothBounded = false;

  Value batch, h, i0, j0, qLen, kLen, qLeft, kLeft;
  Value b32, h32, i032, j032, qLen32, kLen32;
  SmallVector<Element> elements;
  SmallVector<SmallVector<attn::Capture>> maskCaptures;
  SmallVector<SmallVector<Element>> maskElements;
};

/// A captured operand's gradient: the region that makes it and where it goes.
struct CaptureGradient {
  Region *region;
  Value result;
};

/// Those of one kind that somebody reads.
SmallVector<CaptureGradient> gradientsOf(attn::BackwardOp op,
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

int64_t headDim(Value tensor) {
  return cast<RankedTensorType>(tensor.getType()).getShape().back();
}

/// Whether two regions compute the same: a bias' gradient is that of the
/// logit.
bool isSameRegion(Region &a, Region &b) {
  return OperationEquivalence::isRegionEquivalentTo(
      &a, &b, OperationEquivalence::IgnoreLocations);
}

//===----------------------------------------------------------------------===//
// Queries stay
//===----------------------------------------------------------------------===//

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

  Value addReduced(Value sum, Value tile) {
    return addTiles(b, sum,
                    tile::ReduceOp::create(b, row, tile::Reduction::Add, tile));
  }

  Value hk, query, doutput;
};

//===----------------------------------------------------------------------===//
// Keys stay
//===----------------------------------------------------------------------===//

class KeyKernel : public PairKernel {
public:
  /// What the kernel writes of the gradients that are used.
  enum Part { OfKey = 1, OfValue = 2, All = 3 };

  KeyKernel(ImplicitLocOpBuilder &builder, StringRef name, attn::BackwardOp op,
            const ViewOrders &orders, tile::ScheduleAttr schedule, Part part,
            Value querySums = Value())
      : PairKernel(builder, name, PairOperands(op), orders, schedule,
                   BlockRows::Keys),
        backward(op), querySums(querySums),
        wantsKey((part & OfKey) && !op.getDkey().use_empty()),
        wantsValue((part & OfValue) && !op.getDvalue().use_empty()) {}

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
      next.push_back(
          addTiles(b, before,
                   tile::ReduceOp::create(b, row, tile::Reduction::Add,
                                          gradientOf(pair, *sum.region))));
    return next;
  }

  SmallVector<CaptureGradient> sums;
  Value key, value;
};

//===----------------------------------------------------------------------===//
// Sums of queries' gradients in workspace
//===----------------------------------------------------------------------===//

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

//===----------------------------------------------------------------------===//
// Both stay
//===----------------------------------------------------------------------===//

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
      sum = onePair();
    } else {
      // The sequences and heads that are summed pass one by one.
      Value repeated = perHead ? one : heads;
      if (perElement > 1)
        repeated = headsOfElement(b, head, heads, perElement);
      Value count =
          arith::MulIOp::create(b, repeated, perSequence ? one : sequences);
      Value divisor = arith::MaxUIOp::create(b, repeated, one);
      attn::KeyRange range = {zero, zero, zero, count};
      sum = loop(range, splat(b, scores, 0), 1,
                 [&](Value number, ValueRange carried) -> SmallVector<Value> {
                   Value other = arith::DivUIOp::create(b, number, divisor);
                   Value within = arith::RemUIOp::create(b, number, divisor);
                   if (perHead)
                     within = arith::AddIOp::create(b, head, within);
                   stay(perSequence ? at[0] : other, within);
                   return {addTiles(b, carried[0], onePair())};
                 })[0];
    }
    store(sum, {at[0], at[1], firstQuery, firstKey});
    return frame.finish();
  }

private:
  Value onePair() {
    Value hk = arith::DivUIOp::create(b, h, group);
    loadCaptures(/*byColumn=*/false);
    loadCaptures(/*byColumn=*/true);
    Pair pair = makePair(loadQueries(op.query), loadKeys(op.key, hk),
                         loadQueries(op.doutput), loadKeys(op.value, hk));
    return gradientOf(pair, region);
  }

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

//===----------------------------------------------------------------------===//
// Both pass, at one distance
//===----------------------------------------------------------------------===//

/// The gradient of a captured operand that reads i - j. Blocks at one distance
/// are added element by element, since element (r, c) of each has the same
/// i - j: what is left is one block for each distance, which
/// `DiagonalSumKernel` sums up along its diagonals.
///
/// With blocks of M queries and N keys, and M a multiple of N, distances are
/// multiples of N: block p is that of i0 - j0 = (p + 1 - key blocks) N.
class DiagonalKernel : public PairKernel {
public:
  DiagonalKernel(ImplicitLocOpBuilder &builder, StringRef name,
                 attn::BackwardOp op, unsigned number, const ViewOrders &orders,
                 tile::ScheduleAttr schedule, Value sums)
      : PairKernel(builder, name, PairOperands(op), orders, schedule,
                   BlockRows::Queries),
        region(op.getCaptureGradients()[number]), sums(sums),
        map(cast<AffineMapAttr>(op.getMaps()[op.getOf()[number]]).getValue()) {
    bothBounded = true;
  }

  AttnKernel build() {
    frame.view(sums);
    Value one = constantIndex(b, 1), zero = constantIndex(b, 0);
    Value sequences = frame.dim(op.query, dims.b);
    Value heads = frame.dim(op.query, dims.h);
    group = groupSize();
    bool perSequence = map.isFunctionOfDim(0), perHead = map.isFunctionOfDim(1);
    SmallVector<Value> at =
        frame.openItems({perSequence ? sequences : one, perHead ? heads : one,
                         frame.dim(sums, 2)});
    placeBlocks(at[2]);
    // The blocks at this distance pass for each sequence and head.
    Value repeated = perHead ? one : heads;
    Value pairs =
        times(times(repeated, perSequence ? one : sequences), blocksHere);
    Value blocks = atLeastOne(blocksHere), others = atLeastOne(repeated);
    attn::KeyRange range = {zero, zero, zero, pairs};
    Value sum =
        loop(range, splat(b, scores, 0), 1,
             [&](Value number, ValueRange carried) -> SmallVector<Value> {
               Value rest = arith::DivUIOp::create(b, number, blocks);
               Value within = arith::RemUIOp::create(b, number, blocks);
               Value other = arith::DivUIOp::create(b, rest, others);
               Value head = arith::RemUIOp::create(b, rest, others);
               setSequence(perSequence ? at[0] : other);
               setHead(perHead ? at[1] : head);
               return {addTiles(b, carried[0], onePair(within))};
             })[0];
    AffineExpr r = b.getAffineDimExpr(0), c = b.getAffineDimExpr(1);
    SmallVector<AffineExpr> place;
    for (unsigned k = 0; k < 3; ++k)
      place.push_back(b.getAffineSymbolExpr(k));
    llvm::append_range(place, ArrayRef{r, c});
    tile::StoreOp::create(b, sum, frame.view(sums), at,
                          AffineMap::get(2, 3, place, b.getContext()), Value());
    return frame.finish();
  }

private:
  Value times(Value x, Value y) { return arith::MulIOp::create(b, x, y); }
  Value plus(Value x, Value y) { return arith::AddIOp::create(b, x, y); }
  Value minus(Value x, Value y) { return arith::SubIOp::create(b, x, y); }
  Value atLeastOne(Value x) {
    return arith::MaxUIOp::create(b, x, constantIndex(b, 1));
  }
  Value notNegative(Value x) {
    return arith::MaxSIOp::create(b, x, constantIndex(b, 0));
  }

  /// Which blocks of queries have a block of keys at distance `p`.
  void placeBlocks(Value p) {
    Value m = constantIndex(b, blockRows), n = constantIndex(b, blockCols);
    Value keyBlocks = blocksOf(op.key, blockCols);
    Value before = minus(keyBlocks, constantIndex(b, 1));
    distance = times(minus(p, before), n);
    firstBlock = arith::CeilDivUIOp::create(b, notNegative(distance), m);
    Value end = notNegative(plus(frame.dim(op.key, dims.s), distance));
    end = arith::CeilDivUIOp::create(b, end, m);
    end = arith::MinUIOp::create(b, end, blocksOf(op.query, blockRows));
    blocksHere = notNegative(minus(end, firstBlock));
  }

  Value onePair(Value number) {
    Value first = times(plus(firstBlock, number), constantIndex(b, blockRows));
    setQueries(first);
    setKeys(minus(first, distance));
    Value hk = arith::DivUIOp::create(b, h, group);
    loadCaptures(/*byColumn=*/false);
    loadCaptures(/*byColumn=*/true);
    Pair pair = makePair(loadQueries(op.query), loadKeys(op.key, hk),
                         loadQueries(op.doutput), loadKeys(op.value, hk));
    return gradientOf(pair, region);
  }

  Region &region;
  Value sums;
  AffineMap map;
  Value group, distance, firstBlock, blocksHere;
};

/// Sums up the blocks of `DiagonalKernel` along their diagonals.
class DiagonalSumKernel {
public:
  DiagonalSumKernel(ImplicitLocOpBuilder &builder, StringRef name,
                    attn::BackwardOp op, unsigned number,
                    const ViewOrders &orders, tile::ScheduleAttr schedule,
                    Value sums)
      : b(builder), frame(builder, name, orders, schedule), key(op.getKey()),
        keyDim(attn::getLayoutDims(op.getLayout()).s),
        result(op.getDcaptures()[number]), sums(sums),
        map(cast<AffineMapAttr>(op.getMaps()[op.getOf()[number]]).getValue()),
        table(*attn::getDiagonals(map)), rows(schedule.getBlockM()),
        m(cast<RankedTensorType>(sums.getType()).getDimSize(3)),
        n(cast<RankedTensorType>(sums.getType()).getDimSize(4)) {
    frame.view(sums);
    frame.view(key);
    frame.view(result);
  }

  AttnKernel build() {
    Value size = constantIndex(b, rows);
    Value blocks =
        arith::CeilDivUIOp::create(b, frame.dim(result, table.dim), size);
    SmallVector<Value> at =
        frame.openItems({frame.dim(sums, 0), frame.dim(sums, 1), blocks});
    at[2] = arith::MulIOp::create(b, at[2], size);
    tile::TileType column = tileType(rows, 1, b.getF32Type());
    Value sum =
        accumulate(b, constantIndex(b, 0), constantIndex(b, table.divisor), 1,
                   splat(b, column, 0), [&](Value within, Value sum) {
                     return sumElements(at, within, sum);
                   });
    store(at, sum);
    return frame.finish();
  }

private:
  static constexpr int64_t kColumns = 64;

  Value plus(Value x, int64_t y) {
    return arith::AddIOp::create(b, x, constantIndex(b, y));
  }
  Value times(Value x, int64_t y) {
    return arith::MulIOp::create(b, x, constantIndex(b, y));
  }
  Value minus(Value x, Value y) { return arith::SubIOp::create(b, x, y); }

  /// The blocks up to `x`, as a bound: floor(x / N) + 1, not negative.
  Value blocksUpTo(Value x) {
    x = arith::MaxSIOp::create(b, plus(x, n), constantIndex(b, 0));
    return arith::DivUIOp::create(b, x, constantIndex(b, n));
  }

  /// Row r of the item's is y = at[2] + r, of i - j = sign * (y * divisor +
  /// within - offset). In block p, with i - j = (p + 1 - key blocks) * N + row
  /// - column, it lies where column - row = p * N - origin - step * r.
  Value sumElements(ArrayRef<Value> at, Value within, Value sum) {
    Value keyBlocks = arith::CeilDivUIOp::create(b, frame.dim(key, keyDim),
                                                 constantIndex(b, n));
    Value place = arith::AddIOp::create(b, times(at[2], table.divisor), within);
    int64_t step = table.sign * table.divisor;
    Value origin = times(plus(place, -table.offset), table.sign);
    origin = arith::AddIOp::create(b, origin, plus(times(keyBlocks, n), -n));
    int64_t reach = step * (rows - 1);
    Value lowest = plus(origin, std::min<int64_t>(reach, 0) - (m - 1));
    Value highest = plus(origin, std::max<int64_t>(reach, 0) + n - 1);
    Value first = blocksUpTo(plus(lowest, -n));
    Value end =
        arith::MinUIOp::create(b, blocksUpTo(highest), frame.dim(sums, 2));
    return accumulate(b, first, end, 1, sum, [&](Value p, Value sum) {
      Value shift = minus(times(p, n), origin);
      return accumulate(b, constantIndex(b, 0), constantIndex(b, m), kColumns,
                        sum, [&](Value row, Value sum) {
                          return sumBlock({at[0], at[1], p, row, shift}, step,
                                          sum);
                        });
    });
  }

  /// What lies outside of the block is 0 (S-beyond).
  Value sumBlock(ArrayRef<Value> at, int64_t step, Value sum) {
    AffineExpr r = b.getAffineDimExpr(0), c = b.getAffineDimExpr(1);
    SmallVector<AffineExpr> s;
    for (unsigned k = 0; k < 5; ++k)
      s.push_back(b.getAffineSymbolExpr(k));
    AffineMap from = AffineMap::get(
        2, 5, {s[0], s[1], s[2], s[3] + c, s[3] + c + s[4] - r * step},
        b.getContext());
    Value values = loadTile(b, tileType(rows, kColumns, b.getF32Type()),
                            frame.view(sums), at, from);
    return addTiles(b, sum,
                    tile::ReduceOp::create(b,
                                           cast<tile::TileType>(sum.getType()),
                                           tile::Reduction::Add, values));
  }

  void store(ArrayRef<Value> at, Value sum) {
    SmallVector<Value> coordinates;
    SmallVector<AffineExpr> exprs;
    for (auto [dim, expr] : llvm::enumerate(map.getResults())) {
      AffineExpr place = b.getAffineSymbolExpr(coordinates.size());
      auto position = dyn_cast<AffineDimExpr>(expr);
      if (dim == table.dim)
        place = place + b.getAffineDimExpr(0);
      coordinates.push_back(at[dim == table.dim ? 2 : position.getPosition()]);
      exprs.push_back(place);
    }
    Type type = cast<RankedTensorType>(result.getType()).getElementType();
    tile::StoreOp::create(
        b, castTile(b, sum, type), frame.view(result), coordinates,
        AffineMap::get(2, coordinates.size(), exprs, b.getContext()), Value());
  }

  ImplicitLocOpBuilder &b;
  KernelFrame frame;
  Value key;
  int64_t keyDim;
  Value result, sums;
  AffineMap map;
  attn::Diagonals table;
  /// Elements of the result for each item; rows and columns of a block.
  int64_t rows, m, n;
};

} // namespace

bool attnc::mayUseOneKernel(attn::BackwardOp op) {
  return !op.getDeterministic() && !op.getDquery().use_empty() &&
         !op.getDkey().use_empty() && !op.getDvalue().use_empty() &&
         llvm::all_of(op.getDcaptures(),
                      [](Value gradient) { return gradient.use_empty(); });
}

bool attnc::hasQueryKernel(attn::BackwardOp op, tile::ScheduleAttr schedule) {
  if (schedule.getOneKernel() && mayUseOneKernel(op))
    return false;
  return !op.getDquery().use_empty() ||
         !gradientsOf(op, attn::CaptureKind::Queries).empty();
}

SmallVector<AttnKernel>
attnc::buildBackwardKernels(ImplicitLocOpBuilder &builder,
                            function_ref<std::string(StringRef)> name,
                            attn::BackwardOp op, const ViewOrders &orders,
                            const BackwardSchedules &schedules, Value querySums,
                            ArrayRef<Value> diagonalSums) {
  tile::ScheduleAttr schedule = schedules.keysStay;
  SmallVector<AttnKernel> kernels;
  auto add = [&](auto &&make) {
    OpBuilder::InsertionGuard guard(builder);
    kernels.push_back(make());
  };
  auto sumsKernel = [&](StringRef what) {
    return QuerySumsKernel(builder, name(what), op, orders, schedule,
                           querySums);
  };
  if (querySums) {
    add([&] { return sumsKernel("clear").clear(); });
    add([&] {
      return KeyKernel(builder, name("gradients"), op, orders, schedule,
                       KeyKernel::All, querySums)
          .build();
    });
    add([&] { return sumsKernel("query_gradient").round(); });
    return kernels;
  }
  if (hasQueryKernel(op, schedule))
    add([&] {
      return QueryKernel(builder, name("query_gradient"), op, orders,
                         schedules.queriesStay)
          .build(op);
    });
  bool key = !op.getDkey().use_empty();
  bool value = !op.getDvalue().use_empty();
  auto addKeyKernel = [&](StringRef what, KeyKernel::Part part) {
    add([&] {
      return KeyKernel(builder, name(what), op, orders, schedule, part).build();
    });
  };
  if (key && value &&
      splitsKeyGradients(schedule, headDim(op.getQuery()),
                         headDim(op.getValue()))) {
    addKeyKernel("key_gradient", KeyKernel::OfKey);
    addKeyKernel("value_gradient", KeyKernel::OfValue);
  } else if (key || value) {
    addKeyKernel("key_gradient", KeyKernel::All);
  }
  if (!gradientsOf(op, attn::CaptureKind::Keys).empty())
    add([&] {
      return KeySumsKernel(builder, name("key_sums"), op, orders, schedule)
          .build();
    });
  for (auto [number, index] : llvm::enumerate(op.getOf())) {
    AffineMap map = cast<AffineMapAttr>(op.getMaps()[index]).getValue();
    if (attn::getCaptureKind(map) == attn::CaptureKind::Positions &&
        !op.getDcaptures()[number].use_empty() && !diagonalSums[number])
      add([&, number = number] {
        bool stays = map.isFunctionOfDim(0) && map.isFunctionOfDim(1);
        return PositionKernel(builder, name("position_gradient"), op, number,
                              orders, stays ? schedule : schedules.bothPass)
            .build();
      });
  }
  for (auto [number, sums] : llvm::enumerate(diagonalSums)) {
    if (!sums)
      continue;
    add([&, number = number, sums = sums] {
      return DiagonalKernel(builder, name("diagonal_gradient"), op, number,
                            orders, schedules.bothPass, sums)
          .build();
    });
    add([&, number = number, sums = sums] {
      return DiagonalSumKernel(builder, name("diagonal_sum"), op, number,
                               orders, schedules.sums, sums)
          .build();
    });
  }
  return kernels;
}

AttnKernel attnc::buildRowSumsKernel(ImplicitLocOpBuilder &builder,
                                     StringRef name, attn::RowSumsOp op,
                                     const ViewOrders &orders,
                                     tile::ScheduleAttr schedule) {
  OpBuilder::InsertionGuard guard(builder);
  return QueryKernel(builder, name, op, orders, schedule).build(op);
}

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
  int64_t width = headDim(op.getLhs());
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
