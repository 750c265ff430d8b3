//===- Results.cpp - From gradients to what the function returns ----------===//
//
// Gradients of captured operands are summed over what their maps drop, and the
// function gets its new results, names and type.
//
//===----------------------------------------------------------------------===//

#include "passes/AttnDifferentiate/Differentiation.h"

#include "mlir/Interfaces/SideEffectInterfaces.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::gradients;

/// What is not returned is not rounded.
Type Differentiation::gradientType(Value of) {
  if (of.getDefiningOp<attn::RowNormOp>())
    return of.getType();
  if (auto tensor = dyn_cast<RankedTensorType>(of.getType()))
    return elementType ? tensor.clone(elementType) : tensor;
  return RankedTensorType::get({}, elementType ? elementType : of.getType());
}

/// What the gradient of a captured operand is before `sumCapture`; `last` is
/// the number of keys or columns.
Type Differentiation::stateGradientType(const Captured &captured,
                                        int64_t last) {
  RankedTensorType stat = getStatType(fused);
  attn::CaptureKind kind = attn::getCaptureKind(captured.map);
  if (kind == attn::CaptureKind::Positions)
    return gradientType(captured.value);
  if (kind == attn::CaptureKind::Queries)
    return stat;
  return RankedTensorType::get({stat.getDimSize(0), stat.getDimSize(1), last},
                               stat.getElementType());
}

/// The sums over dropped dims that a gradient leaves.
Value Differentiation::sumCapture(const Captured &captured, Value partial) {
  attn::CaptureKind kind = attn::getCaptureKind(captured.map);
  Type type = gradientType(captured.value);
  if (kind == attn::CaptureKind::Positions)
    return partial;
  // From (b, h, i, j) to (b, h, x).
  AffineExpr b, h, x;
  bindDims(function.getContext(), b, h, x);
  AffineMap map = captured.map.replaceDimsAndSymbols(
      {b, h, x, x}, {}, /*numResultDims=*/3, /*numResultSyms=*/0);
  if (map.isIdentity() && partial.getType() == type)
    return partial;
  // Dims that are summed completely go one by one, the last first: each of
  // these sums has many elements, which are computed at the same time.
  for (unsigned rank = 3; rank > 1 && !map.isFunctionOfDim(rank - 1); --rank) {
    auto shape = cast<RankedTensorType>(partial.getType()).getShape();
    map = AffineMap::get(rank - 1, 0, map.getResults(), map.getContext());
    if (map.isIdentity())
      break;
    partial = attn::SumOp::create(
        builder, loc,
        RankedTensorType::get(shape.drop_back(), builder.getF32Type()), partial,
        Value(),
        AffineMap::getMultiDimIdentityMap(rank, map.getContext())
            .dropResult(rank - 1));
  }
  bool isTensor = isa<RankedTensorType>(captured.value.getType());
  unsigned rank = cast<RankedTensorType>(partial.getType()).getRank();
  map = AffineMap::get(rank, 0, map.getResults(), map.getContext());
  return attn::SumOp::create(builder, loc, type, partial,
                             isTensor ? captured.value : Value(), map);
}

LogicalResult Differentiation::addResult(Value captured, Value gradient) {
  // One operand may be captured twice, by different maps.
  if (!results.try_emplace(captured, gradient).second)
    return function.emitError()
           << "argument '" << nameOf(captured)
           << "' asks for its gradient but is captured twice";
  return success();
}

/// The forward goes; the function gets its new type and names.
void Differentiation::finish() {
  SmallVector<Value> returned;
  SmallVector<Attribute> resultAttrs;
  for (BlockArgument argument : wanted) {
    returned.push_back(results.lookup(argument));
    resultAttrs.push_back(builder.getDictionaryAttr({builder.getNamedAttr(
        attn::kNameAttr, builder.getStringAttr("d" + nameOf(argument)))}));
  }
  SmallVector<Attribute> attrs;
  for (unsigned k = 0; k < function.getNumArguments(); ++k) {
    NamedAttrList list(function.getArgAttrDict(k));
    list.erase(attn::kGradientAttr);
    attrs.push_back(list.getDictionary(function.getContext()));
  }
  llvm::append_range(attrs, argumentAttrs);
  Operation *terminator = function.front().getTerminator();
  terminator->setOperands(returned);
  if (epilogue)
    epilogue.erase();
  // Norms that it read.
  for (Operation *user : llvm::make_early_inc_range(fused->getUsers()))
    if (isOpTriviallyDead(user))
      user->erase();
  fused.erase();
  function->removeAttr(attn::kDifferentiateAttr);
  function->removeAttr(attn::kDeterministicAttr);
  function.setFunctionType(builder.getFunctionType(
      function.front().getArgumentTypes(), ValueRange(returned).getTypes()));
  function.setArgAttrsAttr(builder.getArrayAttr(attrs));
  function.setResAttrsAttr(builder.getArrayAttr(resultAttrs));
}

LogicalResult Differentiation::run() {
  if (failed(findForward()) || failed(readType()) || failed(findWanted()) ||
      failed(checkCaptures()))
    return failure();
  // Behind all that an epilogue reads.
  builder.setInsertionPoint(function.front().getTerminator());
  captureScale();
  gatherCaptures();
  if (failed(normaliseRows()) || failed(buildBackward()))
    return failure();
  for (BlockArgument argument : wanted)
    if (!results.count(argument))
      return function.emitError()
             << "argument '" << nameOf(argument)
             << "' asks for its gradient, but nothing depends on it";
  finish();
  return success();
}
