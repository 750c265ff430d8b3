//===- AttnKernelParts.cpp - What kernels of attn ops are made of ---------===//

#include "passes/AttnKernelParts.h"

#include "mlir/Dialect/Affine/Utils.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/IR/Iterators.h"
#include "mlir/IR/Matchers.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"
#include "mlir/Transforms/LoopInvariantCodeMotionUtils.h"

using namespace mlir;
using namespace attnc;

//===----------------------------------------------------------------------===//
// Small builders
//===----------------------------------------------------------------------===//

Value attnc::constantIndex(ImplicitLocOpBuilder &builder, int64_t value) {
  return arith::ConstantIndexOp::create(builder, value);
}

Value attnc::constantF32(ImplicitLocOpBuilder &builder, float value) {
  return arith::ConstantOp::create(builder, builder.getF32FloatAttr(value));
}

Value attnc::toI32(ImplicitLocOpBuilder &builder, Value index) {
  return arith::IndexCastOp::create(builder, builder.getI32Type(), index);
}

Value attnc::accumulate(ImplicitLocOpBuilder &builder, Value from, Value to,
                        int64_t step, Value sum,
                        llvm::function_ref<Value(Value, Value)> body) {
  auto loop =
      scf::ForOp::create(builder, from, to, constantIndex(builder, step), sum);
  OpBuilder::InsertionGuard guard(builder);
  builder.setInsertionPointToStart(loop.getBody());
  scf::YieldOp::create(builder,
                       body(loop.getInductionVar(), loop.getRegionIterArg(0)));
  return loop.getResult(0);
}

tile::TileType attnc::tileType(int64_t rows, int64_t cols, Type element) {
  return tile::TileType::get(element.getContext(), rows, cols, element);
}

tile::TileType attnc::withCols(tile::TileType type, int64_t cols) {
  return tileType(type.getRows(), cols, type.getElementType());
}

Value attnc::splat(ImplicitLocOpBuilder &builder, tile::TileType type,
                   float value) {
  return tile::SplatOp::create(builder, type, constantF32(builder, value));
}

Value attnc::castTile(ImplicitLocOpBuilder &builder, Value tile, Type element) {
  auto type = cast<tile::TileType>(tile.getType());
  if (type.getElementType() == element)
    return tile;
  return tile::CastOp::create(
      builder, tileType(type.getRows(), type.getCols(), element), tile);
}

/// Fills the region of a tile.map or tile.mask: one scalar for each input
/// (before r and c in a map, after them in a mask).
static void buildElementRegion(ImplicitLocOpBuilder &builder, Region &region,
                               ValueRange inputs, bool positionFirst,
                               ElementFn fn) {
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

Value attnc::buildMap(ImplicitLocOpBuilder &builder, tile::TileType type,
                      ValueRange inputs, ElementFn fn) {
  auto map = tile::MapOp::create(builder, type, inputs);
  buildElementRegion(builder, map.getBody(), inputs, false, fn);
  return map;
}

Value attnc::buildMask(ImplicitLocOpBuilder &builder, Value input,
                       ValueRange captured, float fill, ElementFn fn) {
  auto mask =
      tile::MaskOp::create(builder, input, captured, llvm::APFloat(fill));
  buildElementRegion(builder, mask.getBody(), captured, true, fn);
  return mask;
}

Value attnc::addTiles(ImplicitLocOpBuilder &builder, Value a, Value b) {
  return buildMap(builder, cast<tile::TileType>(a.getType()), {a, b},
                  [](ImplicitLocOpBuilder &b, ValueRange e, Value, Value) {
                    return arith::AddFOp::create(b, e[0], e[1]);
                  });
}

Value attnc::mulTiles(ImplicitLocOpBuilder &builder, Value a, Value b) {
  return buildMap(builder, cast<tile::TileType>(a.getType()), {a, b},
                  [](ImplicitLocOpBuilder &b, ValueRange e, Value, Value) {
                    return arith::MulFOp::create(b, e[0], e[1]);
                  });
}

Value attnc::invertSums(ImplicitLocOpBuilder &builder, Value sums) {
  return buildMap(
      builder, cast<tile::TileType>(sums.getType()), sums,
      [](ImplicitLocOpBuilder &b, ValueRange e, Value, Value) -> Value {
        Value zero = constantF32(b, 0);
        Value one = constantF32(b, 1);
        Value empty =
            arith::CmpFOp::create(b, arith::CmpFPredicate::OEQ, e[0], zero);
        Value quotient = arith::DivFOp::create(b, one, e[0]);
        return arith::SelectOp::create(b, empty, zero, quotient);
      });
}

Value attnc::logSumExp(ImplicitLocOpBuilder &builder, Value maxima,
                       Value sums) {
  float inf = std::numeric_limits<float>::infinity();
  return buildMap(
      builder, cast<tile::TileType>(sums.getType()), {maxima, sums},
      [&](ImplicitLocOpBuilder &b, ValueRange e, Value, Value) -> Value {
        Value zero = constantF32(b, 0);
        Value empty =
            arith::CmpFOp::create(b, arith::CmpFPredicate::OEQ, e[1], zero);
        Value log = math::LogOp::create(b, e[1]);
        Value sum = arith::AddFOp::create(b, e[0], log);
        return arith::SelectOp::create(b, empty, constantF32(b, -inf), sum);
      });
}

Value attnc::inlineRegion(OpBuilder &builder, Region &region,
                          ValueRange arguments) {
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

KernelFrame::KernelFrame(ImplicitLocOpBuilder &builder, StringRef name,
                         const ViewOrders &orders, tile::ScheduleAttr schedule)
    : builder(builder), orders(orders) {
  kernel =
      tile::KernelOp::create(builder, name, builder.getFunctionType({}, {}),
                             nullptr, nullptr, schedule);
  entry = &kernel.getBody().emplaceBlock();
  builder.setInsertionPointToStart(entry);
}

Value KernelFrame::view(Value tensor) {
  Value &view = views[tensor];
  if (!view) {
    view = entry->addArgument(orders.getViewType(tensor), tensor.getLoc());
    arguments.push_back(tensor);
  }
  return view;
}

Value KernelFrame::dim(Value tensor, int64_t tensorDim) {
  SmallVector<int64_t> order = orders.get(tensor);
  return tile::DimOp::create(builder, view(tensor),
                             llvm::find(order, tensorDim) - order.begin());
}

SmallVector<Value> KernelFrame::openItems(ValueRange counts) {
  auto items = tile::ItemsOp::create(builder, counts);
  Block &body = items.getBody().emplaceBlock();
  for (size_t i = 0; i < counts.size(); ++i)
    body.addArgument(builder.getIndexType(), builder.getLoc());
  builder.setInsertionPointToStart(&body);
  return llvm::to_vector_of<Value>(body.getArguments());
}

AffineMap KernelFrame::accessMap(Value tensor, unsigned symbols,
                                 ArrayRef<AffineExpr> perTensorDim) {
  return simplifyAffineMap(AffineMap::get(
      2, symbols, orders.toView(tensor, perTensorDim), builder.getContext()));
}

Value attnc::headElements(KernelFrame &frame, Value tensor, AffineMap map,
                          Value heads) {
  for (auto [dim, expr] : llvm::enumerate(map.getResults()))
    if (!isa<AffineDimExpr>(expr) && expr.isFunctionOfDim(1))
      return frame.dim(tensor, dim);
  return heads;
}

Value attnc::headsOfElement(ImplicitLocOpBuilder &builder, Value head,
                            Value heads, int64_t perElement) {
  Value left = arith::SubIOp::create(builder, heads, head);
  left = arith::MaxSIOp::create(builder, left, constantIndex(builder, 0));
  return arith::MinSIOp::create(builder, left,
                                constantIndex(builder, perElement));
}

AffineMap attnc::rowMap(KernelFrame &frame, Value tensor, attn::Layout layout) {
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

AffineMap attnc::statMap(MLIRContext *context) {
  AffineExpr r, c, b, h, s;
  bindDims(context, r, c);
  bindSymbols(context, b, h, s);
  return AffineMap::get(2, 3, {b, h, s + r}, context);
}

Value attnc::loadTile(ImplicitLocOpBuilder &builder, tile::TileType type,
                      Value view, ValueRange coordinates, AffineMap map,
                      Value rows) {
  return tile::LoadOp::create(builder, type, view, coordinates, map, rows,
                              Value(), Value(), Value(), IntegerAttr(),
                              IntegerAttr());
}

/// Positions that no region asked for.
static void eraseDead(tile::KernelOp kernel) {
  kernel.walk<WalkOrder::PostOrder, ReverseIterator>([](Operation *op) {
    if (isOpTriviallyDead(op))
      op->erase();
  });
}

/// Integer division traps on some hardware: by zero, and where the quotient
/// overflows. Here x / 0 and x mod 0 are 0, and -2^31 / -1 wraps.
static void makeTotal(Operation *op) {
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
static void makeDivisionsTotal(tile::KernelOp kernel) {
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
static void hoistInvariants(tile::KernelOp kernel) {
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

RowExprs attnc::rowExprs(ImplicitLocOpBuilder &builder, const BlockOrigin &at,
                         SmallVectorImpl<Value> &symbols) {
  auto symbol = [&](Value value) {
    symbols.push_back(value);
    return builder.getAffineSymbolExpr(symbols.size() - 1);
  };
  AffineExpr head = symbol(at.h);
  AffineExpr row = symbol(at.i0) + builder.getAffineDimExpr(0);
  if (!at.group)
    return {head, row};
  IntegerAttr known;
  AffineExpr group = matchPattern(at.group, m_Constant(&known))
                         ? builder.getAffineConstantExpr(known.getInt())
                         : symbol(at.group);
  return {head + row % group, row.floorDiv(group)};
}

Element CaptureLoader::load(const attn::Capture &capture,
                            const BlockOrigin &at) {
  if (!isa<RankedTensorType>(capture.value.getType()))
    return {capture.value, nullptr};
  bool byRow = usesRows(capture, at);
  bool byCol = usesColumns(capture);
  if (!byRow && !byCol)
    return {loadScalar(capture, at), nullptr};
  return {nullptr, loadBlock(capture, at, byRow ? rows : 1, byCol ? cols : 1)};
}

Value CaptureLoader::loadScalar(const attn::Capture &capture,
                                const BlockOrigin &at) {
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
  return tile::LoadScalarOp::create(builder, result, frame.view(capture.value),
                                    coordinates);
}

AffineMap CaptureLoader::blockMap(const attn::Capture &capture,
                                  const BlockOrigin &at,
                                  SmallVectorImpl<Value> &coordinates) {
  ImplicitLocOpBuilder &builder = frame.builder;
  // Coordinates that the map does not use would be noise in the IR.
  SmallVector<AffineExpr> dims;
  Value origins[] = {at.b, at.h, at.i0, at.x0};
  RowExprs row;
  if (at.group &&
      (capture.map.isFunctionOfDim(1) || capture.map.isFunctionOfDim(2)))
    row = rowExprs(builder, at, coordinates);
  for (unsigned k = 0; k < 4; ++k) {
    if (row.head && (k == 1 || k == 2)) {
      dims.push_back(k == 1 ? row.head : row.position);
      continue;
    }
    AffineExpr expr = builder.getAffineConstantExpr(0);
    if (capture.map.isFunctionOfDim(k)) {
      if (k >= 2)
        expr = builder.getAffineDimExpr(k == rowDim() ? 0 : 1);
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
  return frame.accessMap(capture.value, coordinates.size(), results);
}

Value CaptureLoader::loadBlock(const attn::Capture &capture,
                               const BlockOrigin &at, int64_t tileRows,
                               int64_t tileCols) {
  ImplicitLocOpBuilder &builder = frame.builder;
  SmallVector<Value> coordinates;
  AffineMap map = blockMap(capture, at, coordinates);
  Type element =
      cast<RankedTensorType>(capture.value.getType()).getElementType();
  Value loaded = loadTile(builder, tileType(tileRows, tileCols, element),
                          frame.view(capture.value), coordinates, map);
  return isa<FloatType>(element)
             ? castTile(builder, loaded, builder.getF32Type())
             : loaded;
}

SmallVector<Value> attnc::tilesOf(ArrayRef<Element> elements) {
  SmallVector<Value> tiles;
  for (const Element &element : elements)
    if (element.tile)
      tiles.push_back(element.tile);
  return tiles;
}

SmallVector<Value> attnc::scalarsOf(ImplicitLocOpBuilder &builder,
                                    ArrayRef<Element> elements,
                                    ValueRange fromTiles) {
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

SmallVector<attn::Capture> attnc::pairUp(ValueRange values, ArrayAttr maps) {
  SmallVector<attn::Capture> captures;
  for (auto [value, map] : llvm::zip_equal(values, maps))
    captures.push_back({value, cast<AffineMapAttr>(map).getValue()});
  return captures;
}
