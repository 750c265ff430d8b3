//===- Forward.cpp - What a function's gradients are asked of -------------===//
//
// Finds the attention and its epilogue, the operands whose gradients are
// wanted, and says what cannot be differentiated before anything is changed.
//
//===----------------------------------------------------------------------===//

#include "passes/AttnDifferentiate/Differentiation.h"

#include "mlir/IR/TypeUtilities.h"
#include "llvm/ADT/SmallBitVector.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::gradients;

LogicalResult Differentiation::findForward() {
  auto all = llvm::to_vector(function.getOps<attn::FusedOp>());
  if (all.size() != 1)
    return function.emitError()
           << "'" << function.getName()
           << "' cannot be differentiated: expected one attn.fused, got "
           << all.size();
  fused = all.front();
  auto returned = function.front().getTerminator()->getOperands();
  if (!llvm::is_contained(returned, fused.getOutput()))
    return function.emitError()
           << "'" << function.getName()
           << "' cannot be differentiated: it does not return its output";
  if (!fused.getEpilogue().empty())
    return fused.emitOpError("has an epilogue, whose gradient reads what is "
                             "before it: return the result of the attn.apply, "
                             "then that of the attn.epilogue");
  if (failed(findEpilogue(returned)))
    return failure();
  for (auto [index, value] : llvm::enumerate(returned))
    if (function.getResultAttr(index, attn::kGradientAttr) &&
        value != fused.getLse())
      return function.emitError()
             << "'" << function.getName()
             << "' cannot be differentiated: attn.gradient on result " << index
             << ", expected it on an LSE only; the gradient of the output is "
                "always handed over";
  if (fused.getQuery() == fused.getKey() ||
      fused.getKey() == fused.getValue() ||
      fused.getQuery() == fused.getValue())
    return fused.emitOpError("takes one tensor twice as query, key or value: "
                             "to differentiate, pass it in two arguments");
  return success();
}

/// An epilogue that was left on its own.
LogicalResult Differentiation::findEpilogue(ValueRange returned) {
  for (auto op : function.getOps<attn::EpilogueOp>()) {
    if (epilogue)
      return op.emitOpError("cannot be differentiated: expected one epilogue");
    epilogue = op;
    if (op.getInput() != fused.getOutput() ||
        op.getLayout() != fused.getLayout())
      return op.emitOpError("cannot be differentiated: expected the output of "
                            "the attn.fused, in its layout");
    if (!op.getStats().empty())
      return op.emitOpError("reads row statistics, which attn-fuse makes "
                            "attn.row_norm: run it before");
    if (!llvm::is_contained(returned, op.getOutput()))
      return function.emitError()
             << "'" << function.getName()
             << "' cannot be differentiated: it does not return what its "
                "epilogue makes";
  }
  return success();
}

/// The attribute on the function may name a type.
LogicalResult Differentiation::readType() {
  auto type = function->getAttrOfType<TypeAttr>(attn::kDifferentiateAttr);
  if (!type)
    return success();
  elementType = type.getValue();
  if (!elementType.isF32() && !elementType.isF16() && !elementType.isBF16())
    return function.emitError() << "attn.differentiate = " << elementType
                                << ": gradients are f32, f16 or bf16";
  return success();
}

LogicalResult Differentiation::checkWanted(BlockArgument argument) {
  if (llvm::is_contained({fused.getQuery(), fused.getKey(), fused.getValue()},
                         argument))
    return success();
  auto complain = [&]() {
    return function.emitError() << "argument '" << nameOf(argument)
                                << "' asks for its gradient, but ";
  };
  if (!isa<FloatType>(getElementTypeOrSelf(argument.getType())))
    return complain() << "it is of type " << argument.getType();
  return success();
}

LogicalResult Differentiation::findWanted() {
  for (BlockArgument argument : function.getArguments())
    if (function.getArgAttr(argument.getArgNumber(), attn::kGradientAttr))
      wanted.push_back(argument);
  if (wanted.empty())
    for (BlockArgument argument : function.getArguments())
      if (llvm::is_contained(
              {fused.getQuery(), fused.getKey(), fused.getValue()}, argument))
        wanted.push_back(argument);
  for (BlockArgument argument : wanted)
    if (failed(checkWanted(argument)))
      return failure();
  return success();
}

//===----------------------------------------------------------------------===//
// Captured operands
//===----------------------------------------------------------------------===//

/// Whether sums over the positions that a map drops are those that `attn.sum`
/// makes.
static bool isSummable(AffineMap map) {
  llvm::SmallBitVector used(map.getNumDims());
  for (AffineExpr expr : map.getResults()) {
    if (auto quotient = dyn_cast<AffineBinaryOpExpr>(expr);
        quotient && quotient.getKind() == AffineExprKind::FloorDiv &&
        isa<AffineConstantExpr>(quotient.getRHS()))
      expr = quotient.getLHS();
    auto position = dyn_cast<AffineDimExpr>(expr);
    if (!position || used.test(position.getPosition()))
      return false;
    used.set(position.getPosition());
  }
  return true;
}

/// Of a map of b, h, i and `last` that an operand is captured by.
LogicalResult Differentiation::checkMap(Operation *op, unsigned index,
                                        AffineMap map, StringRef last,
                                        bool mayDiffer) {
  if (attn::getCaptureKind(map) != attn::CaptureKind::Positions) {
    if (isSummable(map))
      return success();
    return op->emitOpError()
           << "gradient of capture " << index
           << ": each dim of a map may be a position or its quotient by a "
              "constant, each position once, got "
           << AffineMapAttr::get(map)
           << "; gather the operand's elements before";
  }
  if (attn::getHeadsPerElement(map) || (mayDiffer && attn::getDiagonals(map)))
    return success();
  return op->emitOpError() << "gradient of capture " << index
                           << ": a map that reads i and " << last
                           << " may only permute positions, h floordiv N for h"
                           << (mayDiffer ? ", or read i - j in one dim" : "")
                           << ", got " << AffineMapAttr::get(map);
}

LogicalResult Differentiation::checkNorm(Value value) {
  auto norm = value.getDefiningOp<attn::RowNormOp>();
  if (norm && isWanted(norm.getInput()) && !isNorm(value))
    return norm.emitOpError("is captured, and its gradient is not supported: "
                            "expected the norm of the query, the key or the "
                            "value, in their layout");
  return success();
}

/// Of captures that have a gradient of their own, or whose gradient could not
/// be summed.
LogicalResult Differentiation::checkCaptures() {
  for (auto [index, value, map] :
       llvm::enumerate(fused.getScoreCaptures(),
                       fused.getScoreMaps().getAsValueRange<AffineMapAttr>())) {
    if (failed(checkNorm(value)))
      return failure();
    if ((isWanted(value) || isNorm(value)) &&
        failed(checkMap(fused, index, map, "j", /*mayDiffer=*/true)))
      return failure();
  }
  return success();
}

//===----------------------------------------------------------------------===//
// Names
//===----------------------------------------------------------------------===//

/// What callers call an argument or result of the forward.
std::string Differentiation::nameOf(Value value) {
  if (auto argument = dyn_cast<BlockArgument>(value)) {
    unsigned number = argument.getArgNumber();
    if (auto name =
            function.getArgAttrOfType<StringAttr>(number, attn::kNameAttr))
      return name.str();
    if (value == fused.getQuery())
      return "query";
    if (value == fused.getKey())
      return "key";
    if (value == fused.getValue())
      return "value";
    return ("arg" + Twine(number)).str();
  }
  auto returned = function.front().getTerminator()->getOperands();
  for (auto [index, other] : llvm::enumerate(returned))
    if (other == value)
      if (auto name =
              function.getResultAttrOfType<StringAttr>(index, attn::kNameAttr))
        return name.str();
  if (value == fused.getLse())
    return "lse";
  return epilogue && value == fused.getOutput() ? "ungated" : "output";
}

/// Whether the gradient of a result is handed over, too.
bool Differentiation::asksForGradient(Value result) {
  auto returned = function.front().getTerminator()->getOperands();
  for (auto [index, other] : llvm::enumerate(returned))
    if (other == result && function.getResultAttr(index, attn::kGradientAttr))
      return true;
  return false;
}
