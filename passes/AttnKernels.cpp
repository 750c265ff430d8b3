//===- AttnKernels.cpp - The tile kernels of attn ops ---------------------===//

#include "passes/AttnKernels.h"

#include "mlir/Dialect/Affine/Utils.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/IR/Iterators.h"
#include "mlir/IR/Matchers.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"
#include "mlir/Transforms/LoopInvariantCodeMotionUtils.h"

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
  return llvm::to_vector(llvm::seq<int64_t>(
      0, cast<RankedTensorType>(tensor.getType()).getRank()));
}

tile::ViewType ViewOrders::getViewType(Value tensor) const {
  auto type = cast<RankedTensorType>(tensor.getType());
  return tile::ViewType::get(tensor.getContext(),
                             toView(tensor, type.getShape()),
                             type.getElementType());
}

namespace {

//===----------------------------------------------------------------------===//
// Small builders
//===----------------------------------------------------------------------===//

Value constantIndex(ImplicitLocOpBuilder &builder, int64_t value) {
  return arith::ConstantIndexOp::create(builder, value);
}

Value constantF32(ImplicitLocOpBuilder &builder, float value) {
  return arith::ConstantOp::create(builder, builder.getF32FloatAttr(value));
}

Value toI32(ImplicitLocOpBuilder &builder, Value index) {
  return arith::IndexCastOp::create(builder, builder.getI32Type(), index);
}

tile::TileType tileType(int64_t rows, int64_t cols, Type element) {
  return tile::TileType::get(element.getContext(), rows, cols, element);
}

tile::TileType withCols(tile::TileType type, int64_t cols) {
  return tileType(type.getRows(), cols, type.getElementType());
}

Value splat(ImplicitLocOpBuilder &builder, tile::TileType type, float value) {
  return tile::SplatOp::create(builder, type, constantF32(builder, value));
}

/// S-round: the one place where a tile changes its float type; no op where it
/// does not.
Value castTile(ImplicitLocOpBuilder &builder, Value tile, Type element) {
  auto type = cast<tile::TileType>(tile.getType());
  if (type.getElementType() == element)
    return tile;
  return tile::CastOp::create(
      builder, tileType(type.getRows(), type.getCols(), element), tile);
}

using ElementFn = function_ref<Value(ImplicitLocOpBuilder &,
                                     ValueRange elements, Value r, Value c)>;

/// Fills the region of a tile.map or tile.mask: one scalar for each input
/// (before r and c in a map, after them in a mask).
void buildElementRegion(ImplicitLocOpBuilder &builder, Region &region,
                        ValueRange inputs, bool positionFirst, ElementFn fn) {
  OpBuilder::InsertionGuard guard(builder);
  SmallVector<Type> types;
  for (Value input : inputs)
    types.push_back(cast<tile::TileType>(input.getType()).getElementType());
  types.insert(positionFirst ? types.begin() : types.end(), 2,
               builder.getI32Type());
  SmallVector<Location> locs(types.size(), builder.getLoc());
  Block *block = builder.createBlock(&region, {}, types, locs);
  ValueRange arguments = block->getArguments();
  ValueRange elements =
      positionFirst ? arguments.drop_front(2) : arguments.drop_back(2);
  ValueRange position =
      positionFirst ? arguments.take_front(2) : arguments.take_back(2);
  tile::YieldOp::create(builder,
                        fn(builder, elements, position[0], position[1]));
}

Value buildMap(ImplicitLocOpBuilder &builder, tile::TileType type,
               ValueRange inputs, ElementFn fn) {
  auto map = tile::MapOp::create(builder, type, inputs);
  buildElementRegion(builder, map.getBody(), inputs, false, fn);
  return map;
}

Value buildMask(ImplicitLocOpBuilder &builder, Value input, ValueRange captured,
                float fill, ElementFn fn) {
  auto mask =
      tile::MaskOp::create(builder, input, captured, llvm::APFloat(fill));
  buildElementRegion(builder, mask.getBody(), captured, true, fn);
  return mask;
}

/// Copies the body of `region` with `arguments` for its arguments; what it
/// yields. An empty region is the identity of its first argument.
Value inlineRegion(OpBuilder &builder, Region &region, ValueRange arguments) {
  if (region.empty())
    return arguments.front();
  IRMapping mapping;
  mapping.map(region.getArguments(), arguments);
  for (Operation &op : region.front().without_terminator())
    builder.clone(op, mapping);
  return mapping.lookupOrDefault(region.front().getTerminator()->getOperand(0));
}

//===----------------------------------------------------------------------===//
// A kernel under construction
//===----------------------------------------------------------------------===//

/// Gathers the arguments of a kernel as its body asks for them. The body may
/// use scalars of the function directly until `finish`.
class KernelFrame {
public:
  KernelFrame(ImplicitLocOpBuilder &builder, StringRef name,
              const ViewOrders &orders, tile::ScheduleAttr schedule)
      : builder(builder), orders(orders) {
    kernel =
        tile::KernelOp::create(builder, name, builder.getFunctionType({}, {}),
                               nullptr, nullptr, schedule);
    entry = &kernel.getBody().emplaceBlock();
    builder.setInsertionPointToStart(entry);
  }

  /// The kernel's view of a tensor of the function.
  Value view(Value tensor) {
    Value &view = views[tensor];
    if (!view) {
      view = entry->addArgument(orders.getViewType(tensor), tensor.getLoc());
      arguments.push_back(tensor);
    }
    return view;
  }

  Value dim(Value tensor, int64_t tensorDim) {
    SmallVector<int64_t> order = orders.get(tensor);
    return tile::DimOp::create(builder, view(tensor),
                               llvm::find(order, tensorDim) - order.begin());
  }

  /// Opens the work items; the coordinates.
  SmallVector<Value> openItems(ValueRange counts) {
    auto items = tile::ItemsOp::create(builder, counts);
    Block &body = items.getBody().emplaceBlock();
    for (size_t i = 0; i < counts.size(); ++i)
      body.addArgument(builder.getIndexType(), builder.getLoc());
    builder.setInsertionPointToStart(&body);
    return llvm::to_vector_of<Value>(body.getArguments());
  }

  /// `perTensorDim`, functions of (r, c)[symbols], as the map of an access.
  AffineMap accessMap(Value tensor, unsigned symbols,
                      ArrayRef<AffineExpr> perTensorDim) {
    return simplifyAffineMap(AffineMap::get(
        2, symbols, orders.toView(tensor, perTensorDim), builder.getContext()));
  }

  AttnKernel finish();

  ImplicitLocOpBuilder &builder;
  const ViewOrders &orders;

private:
  void isolate();

  tile::KernelOp kernel;
  Block *entry;
  DenseMap<Value, Value> views;
  SmallVector<Value> arguments;
};

/// (r, c)[b, h, s] -> (b, h, s + r, c), for a tensor of this layout.
AffineMap rowMap(KernelFrame &frame, Value tensor, attn::Layout layout) {
  MLIRContext *context = frame.builder.getContext();
  AffineExpr r, c, b, h, s;
  bindDims(context, r, c);
  bindSymbols(context, b, h, s);
  AffineExpr logical[] = {b, h, s + r, c};
  SmallVector<AffineExpr> perTensorDim(4);
  for (auto [expr, dim] :
       llvm::zip_equal(logical, attn::getLayoutPermutation(layout)))
    perTensorDim[dim] = expr;
  return frame.accessMap(tensor, 3, perTensorDim);
}

/// (r, c)[b, h, s] -> (b, h, s + r): one value a row.
AffineMap statMap(MLIRContext *context) {
  AffineExpr r, c, b, h, s;
  bindDims(context, r, c);
  bindSymbols(context, b, h, s);
  return AffineMap::get(2, 3, {b, h, s + r}, context);
}

/// Positions that no region asked for.
void eraseDead(tile::KernelOp kernel) {
  kernel.walk<WalkOrder::PostOrder, ReverseIterator>([](Operation *op) {
    if (isOpTriviallyDead(op))
      op->erase();
  });
}

/// Integer division traps on some hardware: by zero, and where the quotient
/// overflows. Here x / 0 and x mod 0 are 0, and -2^31 / -1 wraps.
void makeTotal(Operation *op) {
  bool isSigned = isa<arith::DivSIOp, arith::RemSIOp>(op);
  Value x = op->getOperand(0), divisor = op->getOperand(1);
  IntegerAttr constant;
  if (matchPattern(divisor, m_Constant(&constant)) &&
      !constant.getValue().isZero() && !constant.getValue().isAllOnes())
    return;
  ImplicitLocOpBuilder b(op->getLoc(), op);
  auto i32 = [&](int64_t value) -> Value {
    return arith::ConstantIntOp::create(b, value, 32);
  };
  auto isEqual = [&](Value value) -> Value {
    return arith::CmpIOp::create(b, arith::CmpIPredicate::eq, divisor, value);
  };
  Value zero = i32(0), isZero = isEqual(zero), replaced = isZero, isMinusOne;
  if (isSigned) {
    isMinusOne = isEqual(i32(-1));
    replaced = arith::OrIOp::create(b, isZero, isMinusOne);
  }
  op->setOperand(1, arith::SelectOp::create(b, replaced, i32(1), divisor));
  if (isa<arith::RemSIOp, arith::RemUIOp>(op))
    return;
  b.setInsertionPointAfter(op);
  Value quotient = op->getResult(0);
  Value total = arith::SelectOp::create(b, isZero, zero, quotient);
  Operation *first = total.getDefiningOp();
  if (isSigned) {
    Value negated = arith::SubIOp::create(b, zero, x);
    total = arith::SelectOp::create(b, isMinusOne, negated, total);
  }
  quotient.replaceAllUsesExcept(total, first);
}

/// Of the divisions that regions and the function's scalars ask for; those on
/// index values are ours.
void makeDivisionsTotal(tile::KernelOp kernel) {
  SmallVector<Operation *> divisions;
  kernel.walk([&](Operation *op) {
    if (isa<arith::DivSIOp, arith::DivUIOp, arith::RemSIOp, arith::RemUIOp>(
            op) &&
        op->getResult(0).getType().isInteger(32))
      divisions.push_back(op);
  });
  llvm::for_each(divisions, makeTotal);
}

/// Moves pure scalar work that is the same for every element out of element
/// regions and key loops: a mask's bounds, for example.
void hoistInvariants(tile::KernelOp kernel) {
  kernel.walk<WalkOrder::PostOrder>([](Operation *op) {
    if (!isa<tile::MapOp, tile::MaskOp, tile::ForKeysOp>(op))
      return;
    bool isLoop = isa<tile::ForKeysOp>(op);
    moveLoopInvariantCode(
        {&op->getRegion(0)},
        [&](Value value, Region *region) {
          return !region->isAncestor(value.getParentRegion());
        },
        [&](Operation *inner, Region *) {
          bool scalar = llvm::none_of(inner->getResultTypes(),
                                      llvm::IsaPred<tile::TileType>);
          return scalar && isPure(inner) &&
                 !inner->hasTrait<OpTrait::IsTerminator>() &&
                 (isLoop || inner->getNumRegions() == 0);
        },
        [&](Operation *inner, Region *) { inner->moveBefore(op); });
  });
}

/// Values of the function become arguments, or copies of their definitions.
void KernelFrame::isolate() {
  IRMapping mapping;
  OpBuilder top = OpBuilder::atBlockBegin(entry);
  std::function<Value(Value)> inside = [&](Value outer) -> Value {
    if (Value known = mapping.lookupOrNull(outer))
      return known;
    if (Operation *def = outer.getDefiningOp()) {
      for (Value operand : def->getOperands())
        inside(operand);
      top.clone(*def, mapping);
      return mapping.lookup(outer);
    }
    Value argument = entry->addArgument(outer.getType(), outer.getLoc());
    arguments.push_back(outer);
    mapping.map(outer, argument);
    return argument;
  };
  kernel.walk([&](Operation *op) {
    for (OpOperand &operand : op->getOpOperands())
      if (!kernel.getBody().isAncestor(operand.get().getParentRegion()))
        operand.set(inside(operand.get()));
  });
}

AttnKernel KernelFrame::finish() {
  isolate();
  eraseDead(kernel);
  makeDivisionsTotal(kernel);
  hoistInvariants(kernel);
  kernel.setFunctionType(
      builder.getFunctionType(entry->getArgumentTypes(), {}));
  return {kernel, arguments};
}

//===----------------------------------------------------------------------===//
// Captured operands
//===----------------------------------------------------------------------===//

/// Where a block of positions (b, h, i0 + r, x0 + c) starts: x is the key j, or
/// d in an epilogue. All index values.
struct BlockOrigin {
  Value b, h, i0, x0;
};

/// What a region reads of a captured operand: one scalar for the whole block,
/// or a tile with one element a row, a column or a position.
struct Element {
  Value scalar, tile;
};

/// S-bias: the capture's map composed with the block's origin, so that each
/// element is read where it stands and broadcast dims are not repeated.
class CaptureLoader {
public:
  CaptureLoader(KernelFrame &frame, int64_t rows, int64_t cols)
      : frame(frame), rows(rows), cols(cols) {}

  static bool usesColumns(const attn::Capture &capture) {
    return capture.map.isFunctionOfDim(3);
  }

  Element load(const attn::Capture &capture, const BlockOrigin &at) {
    if (!isa<RankedTensorType>(capture.value.getType()))
      return {capture.value, nullptr};
    bool byRow = capture.map.isFunctionOfDim(2), byCol = usesColumns(capture);
    if (!byRow && !byCol)
      return {loadScalar(capture, at), nullptr};
    return {nullptr, loadTile(capture, at, byRow ? rows : 1, byCol ? cols : 1)};
  }

private:
  Value loadScalar(const attn::Capture &capture, const BlockOrigin &at) {
    ImplicitLocOpBuilder &builder = frame.builder;
    // The map uses neither i nor x.
    Value dims[] = {at.b, at.h, at.b, at.b};
    SmallVector<Value> coordinates;
    for (AffineExpr expr :
         frame.orders.toView(capture.value, capture.map.getResults()))
      coordinates.push_back(
          affine::expandAffineExpr(builder, builder.getLoc(), expr, dims, {}));
    auto type = cast<RankedTensorType>(capture.value.getType());
    Type result = isa<FloatType>(type.getElementType())
                      ? Type(builder.getF32Type())
                      : Type(builder.getI32Type());
    return tile::LoadScalarOp::create(builder, result,
                                      frame.view(capture.value), coordinates);
  }

  Value loadTile(const attn::Capture &capture, const BlockOrigin &at,
                 int64_t tileRows, int64_t tileCols) {
    ImplicitLocOpBuilder &builder = frame.builder;
    // Coordinates that the map does not use would be noise in the IR.
    SmallVector<Value> coordinates;
    SmallVector<AffineExpr> dims;
    Value origins[] = {at.b, at.h, at.i0, at.x0};
    for (unsigned k = 0; k < 4; ++k) {
      AffineExpr expr = builder.getAffineConstantExpr(0);
      if (capture.map.isFunctionOfDim(k)) {
        if (k >= 2)
          expr = builder.getAffineDimExpr(k - 2);
        if (origins[k]) {
          expr = expr + builder.getAffineSymbolExpr(coordinates.size());
          coordinates.push_back(origins[k]);
        }
      }
      dims.push_back(expr);
    }
    SmallVector<AffineExpr> results;
    for (AffineExpr result : capture.map.getResults())
      results.push_back(result.replaceDims(dims));
    Type element =
        cast<RankedTensorType>(capture.value.getType()).getElementType();
    AffineMap map = frame.accessMap(capture.value, coordinates.size(), results);
    Value loaded = tile::LoadOp::create(
        builder, tileType(tileRows, tileCols, element),
        frame.view(capture.value), coordinates, map, Value(), Value(), Value(),
        Value(), IntegerAttr(), IntegerAttr());
    return isa<FloatType>(element)
               ? castTile(builder, loaded, builder.getF32Type())
               : loaded;
  }

  KernelFrame &frame;
  int64_t rows, cols;
};

SmallVector<Value> tilesOf(ArrayRef<Element> elements) {
  SmallVector<Value> tiles;
  for (const Element &element : elements)
    if (element.tile)
      tiles.push_back(element.tile);
  return tiles;
}

/// The scalars a region gets for `elements`, given the elements of their
/// tiles. Integers are widened to i32.
SmallVector<Value> scalarsOf(ImplicitLocOpBuilder &builder,
                             ArrayRef<Element> elements, ValueRange fromTiles) {
  SmallVector<Value> scalars;
  for (const Element &element : elements) {
    Value scalar = element.scalar;
    if (element.tile) {
      scalar = fromTiles.front();
      fromTiles = fromTiles.drop_front();
    }
    Type i32 = builder.getI32Type();
    if (scalar.getType().isInteger(1))
      scalar = arith::ExtUIOp::create(builder, i32, scalar);
    else if (scalar.getType().isInteger(8))
      scalar = arith::ExtSIOp::create(builder, i32, scalar);
    scalars.push_back(scalar);
  }
  return scalars;
}

SmallVector<attn::Capture> pairUp(ValueRange values, ArrayAttr maps) {
  SmallVector<attn::Capture> captures;
  for (auto [value, map] : llvm::zip_equal(values, maps))
    captures.push_back({value, cast<AffineMapAttr>(map).getValue()});
  return captures;
}

//===----------------------------------------------------------------------===//
// attn.fused
//===----------------------------------------------------------------------===//

class FusedKernel {
public:
  FusedKernel(ImplicitLocOpBuilder &builder, StringRef name, attn::FusedOp op,
              const ViewOrders &orders, tile::ScheduleAttr schedule)
      : op(op), b(builder), frame(builder, name, orders, schedule),
        blockM(schedule.getBlockM()), blockN(schedule.getBlockN()),
        keyCaptures(frame, blockM, blockN),
        scores(tileType(blockM, blockN, builder.getF32Type())),
        output(tileType(blockM, dimSize(op.getValue()), builder.getF32Type())),
        row(withCols(scores, 1)) {}

  AttnKernel build() {
    // The order of the kernel's arguments.
    for (Value tensor : {op.getQuery(), op.getKey(), op.getValue()})
      frame.view(tensor);
    for (Value result : op->getResults())
      frame.view(result);
    openItems();
    setPositions();
    hoistCaptures();
    Value query = loadRows(op.getQuery(), h, i0, qLeft());
    storeOutput(keyLoop(query));
    return frame.finish();
  }

private:
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
    Value size = constantIndex(b, blockM);
    Value blocks = arith::CeilDivUIOp::create(b, rows, size);
    // S-empty: without sequences, heads or rows there is no item. S-gqa: a
    // call without key heads has none either, but divides.
    Value one = constantIndex(b, 1);
    Value keyHeads =
        arith::MaxUIOp::create(b, frame.dim(op.getKey(), dims.h), one);
    Value group = arith::DivUIOp::create(b, heads, keyHeads);
    SmallVector<Value> at =
        frame.openItems({frame.dim(op.getQuery(), dims.b), heads, blocks});
    batch = at[0];
    h = at[1];
    hk = arith::DivUIOp::create(b, h, group);
    i0 = arith::MulIOp::create(b, at[2], size);
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
  }

  /// Query rows of this block inside the sequence; null if only the tensor
  /// bounds them.
  Value qLeft() {
    if (!op.getQLen())
      return {};
    return arith::SubIOp::create(b, qLen, i0);
  }

  /// Rows row0, row0 + 1, ... of one head of a (b, h, s, d) tensor.
  Value loadRows(Value tensor, Value head, Value row0, Value rows) {
    int64_t count = row0 == i0 ? blockM : blockN;
    Type element = cast<RankedTensorType>(tensor.getType()).getElementType();
    return tile::LoadOp::create(
        b, tileType(count, dimSize(tensor), element), frame.view(tensor),
        ValueRange{batch, head, row0}, rowMap(frame, tensor, op.getLayout()),
        rows, Value(), Value(), Value(), IntegerAttr(), IntegerAttr());
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
    loadCaptures(/*byKey=*/false, {batch, h, i0, {}});
  }

  void loadCaptures(bool byKey, const BlockOrigin &at) {
    auto load = [&](ArrayRef<attn::Capture> captures,
                    MutableArrayRef<Element> elements) {
      for (auto [capture, element] : llvm::zip_equal(captures, elements))
        if (CaptureLoader::usesColumns(capture) == byKey)
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

  /// The keys this block attends: what all masks leave of [0, kLen).
  attn::KeyRange keyRange() {
    Value zero = constantIndex(b, 0);
    attn::KeyRange range = {zero, zero, kLen, kLen};
    attn::QueryRows rows = {batch, h, i0, constantIndex(b, blockM), qLen, kLen};
    for (attn::MaskOpInterface mask : masks)
      range = attn::intersect(b, b.getLoc(), range,
                              mask.buildKeyRange(b, b.getLoc(), rows));
    if (op.getQLen()) {
      // A block beyond the sequence attends nothing.
      Value any = arith::CmpIOp::create(b, arith::CmpIPredicate::slt, i0, qLen);
      range.hi = arith::SelectOp::create(b, any, range.hi, zero);
    }
    return range;
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
    attn::KeyRange range = keyRange();
    auto loop = tile::ForKeysOp::create(
        b, TypeRange(ValueRange(inits)), range.lo, range.fullLo, range.fullHi,
        range.hi, static_cast<uint64_t>(blockN), inits);
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
    Value key = loadRows(op.getKey(), hk, j0, left);
    loadCaptures(/*byKey=*/true, {batch, h, i0, j0});
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
    Value value = loadRows(op.getValue(), hk, j0, left);
    carried.output =
        tile::DotOp::create(b, output, rounded, value, carried.output);
    return carried;
  }

  Value i(ImplicitLocOpBuilder &b, Value r) {
    return arith::AddIOp::create(b, i032, r);
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
          SmallVector<Value> arguments = {s, b32,    h32,   i(b, r),
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
          attn::MaskPosition pos = {b32,     h32,
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
    tile::StoreOp::create(
        b, o, frame.view(op.getOutput()), ValueRange{batch, h, i0},
        rowMap(frame, op.getOutput(), op.getLayout()), Value());
    if (op.getLse())
      storeLse(result);
  }

  /// S-mask-zero: a row without weight gives 0, not 0 / 0.
  Value normalize(const Carried &result) {
    if (!hasRowSum())
      return result.output;
    Value inverse = buildMap(
        b, row, result.sum,
        [](ImplicitLocOpBuilder &b, ValueRange e, Value, Value) -> Value {
          Value zero = constantF32(b, 0);
          Value one = constantF32(b, 1);
          Value empty =
              arith::CmpFOp::create(b, arith::CmpFPredicate::OEQ, e[0], zero);
          Value quotient = arith::DivFOp::create(b, one, e[0]);
          return arith::SelectOp::create(b, empty, zero, quotient);
        });
    return buildMap(
        b, output, {result.output, inverse},
        [](ImplicitLocOpBuilder &b, ValueRange e, Value, Value) -> Value {
          return arith::MulFOp::create(b, e[0], e[1]);
        });
  }

  /// S-lse: natural log; -inf where nothing was attended, never NaN.
  void storeLse(const Carried &result) {
    float inf = std::numeric_limits<float>::infinity();
    Value lse = buildMap(
        b, row, {result.max, result.sum},
        [&](ImplicitLocOpBuilder &b, ValueRange e, Value, Value) -> Value {
          Value zero = constantF32(b, 0);
          Value empty =
              arith::CmpFOp::create(b, arith::CmpFPredicate::OEQ, e[1], zero);
          Value log = math::LogOp::create(b, e[1]);
          Value sum = arith::AddFOp::create(b, e[0], log);
          return arith::SelectOp::create(b, empty, constantF32(b, -inf), sum);
        });
    lse = maskRows(lse, -inf);
    tile::StoreOp::create(b, lse, frame.view(op.getLse()),
                          ValueRange{batch, h, i0}, statMap(b.getContext()),
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

  Value rowStat(attn::RowStat stat, Value o) {
    auto unary = [&](auto fn) {
      return buildMap(b, output, o,
                      [&](ImplicitLocOpBuilder &b, ValueRange e, Value,
                          Value) -> Value { return fn(b, e[0]); });
    };
    if (stat == attn::RowStat::AbsMax)
      return tile::ReduceOp::create(
          b, row, tile::Reduction::Max,
          unary([](ImplicitLocOpBuilder &b, Value x) -> Value {
            return math::AbsFOp::create(b, x);
          }));
    if (stat == attn::RowStat::MeanSquare)
      o = unary([](ImplicitLocOpBuilder &b, Value x) -> Value {
        return arith::MulFOp::create(b, x, x);
      });
    Value sum = tile::ReduceOp::create(b, row, tile::Reduction::Add, o);
    float inverse = 1.0f / static_cast<float>(output.getCols());
    return buildMap(
        b, row, sum,
        [&](ImplicitLocOpBuilder &b, ValueRange e, Value, Value) -> Value {
          return arith::MulFOp::create(b, e[0], constantF32(b, inverse));
        });
  }

  Value epilogue(Value o) {
    if (op.getEpilogue().empty())
      return o;
    SmallVector<Value> inputs = {o};
    for (Attribute stat : op.getStats())
      inputs.push_back(rowStat(cast<attn::RowStatAttr>(stat).getValue(), o));
    size_t stats = op.getStats().size();
    CaptureLoader loader(frame, blockM, output.getCols());
    SmallVector<Element> elements;
    for (const attn::Capture &capture :
         pairUp(op.getEpilogueCaptures(), op.getEpilogueMaps()))
      elements.push_back(loader.load(capture, {batch, h, i0, {}}));
    llvm::append_range(inputs, tilesOf(elements));
    return buildMap(
        b, output, inputs,
        [&](ImplicitLocOpBuilder &b, ValueRange e, Value r, Value c) {
          SmallVector<Value> arguments = {e.front(), b32, h32, i(b, r), c};
          llvm::append_range(arguments, e.slice(1, stats));
          llvm::append_range(arguments,
                             scalarsOf(b, elements, e.drop_front(1 + stats)));
          return inlineRegion(b, op.getEpilogue(), arguments);
        });
  }

  attn::FusedOp op;
  ImplicitLocOpBuilder &b;
  KernelFrame frame;
  int64_t blockM, blockN;
  CaptureLoader keyCaptures;
  /// blockM x blockN, blockM x Dv and blockM x 1, all f32.
  tile::TileType scores, output, row;

  Value batch, h, hk, i0, qLen, kLen;
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
                                   tile::ScheduleAttr schedule) {
  OpBuilder::InsertionGuard guard(builder);
  return FusedKernel(builder, name, op, orders, schedule).build();
}

//===----------------------------------------------------------------------===//
// attn.row_norm
//===----------------------------------------------------------------------===//

/// |x|^2, or 1/|x| with 0 for a zero row.
static Value normOf(ImplicitLocOpBuilder &b, attn::RowNorm kind, Value sum) {
  if (kind == attn::RowNorm::SquaredL2)
    return sum;
  Value zero = constantF32(b, 0);
  Value empty = arith::CmpFOp::create(b, arith::CmpFPredicate::OEQ, sum, zero);
  Value inverse = math::RsqrtOp::create(b, sum);
  return arith::SelectOp::create(b, empty, zero, inverse);
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
  auto wide = cast<tile::TileType>(x.getType());
  Value squares = buildMap(
      b, wide, x, [](ImplicitLocOpBuilder &b, ValueRange e, Value, Value) {
        return arith::MulFOp::create(b, e[0], e[0]);
      });
  tile::TileType row = withCols(wide, 1);
  Value sum = tile::ReduceOp::create(b, row, tile::Reduction::Add, squares);
  Value norm = buildMap(b, row, sum,
                        [&](ImplicitLocOpBuilder &b, ValueRange e, Value,
                            Value) { return normOf(b, op.getKind(), e[0]); });
  tile::StoreOp::create(b, norm, frame.view(op.getResult()), at,
                        statMap(b.getContext()), Value());
  return frame.finish();
}
