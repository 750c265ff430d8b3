//===- AttnDialect.cpp - Registration and layout helpers ------------------===//

#include "dialects/attn/Attn.h"

#include "mlir/IR/DialectImplementation.h"
#include "mlir/IR/TypeUtilities.h"
#include "llvm/ADT/TypeSwitch.h"

#include "dialects/attn/AttnDialect.cpp.inc"
#include "dialects/attn/AttnEnums.cpp.inc"
#include "dialects/attn/AttnInterfaces.cpp.inc"
#define GET_TYPEDEF_CLASSES
#include "dialects/attn/AttnTypes.cpp.inc"

using namespace mlir;
using namespace attnc::attn;

void AttnDialect::initialize() {
  addTypes<
#define GET_TYPEDEF_LIST
#include "dialects/attn/AttnTypes.cpp.inc"
      >();
  addOperations<
#define GET_OP_LIST
#include "dialects/attn/AttnOps.cpp.inc"
      >();
}

LayoutDims attnc::attn::getLayoutDims(Layout layout) {
  switch (layout) {
  case Layout::BHSD:
    return {0, 1, 2, 3};
  case Layout::BSHD:
    return {0, 2, 1, 3};
  }
  llvm_unreachable("layout without dims");
}

SmallVector<int64_t> attnc::attn::getLayoutPermutation(Layout layout) {
  LayoutDims dims = getLayoutDims(layout);
  return {dims.b, dims.h, dims.s, dims.d};
}

Type attnc::attn::getElementScalarType(Type captured) {
  MLIRContext *context = captured.getContext();
  if (isa<FloatType>(getElementTypeOrSelf(captured)))
    return Float32Type::get(context);
  return IntegerType::get(context, 32);
}

CaptureKind attnc::attn::getCaptureKind(AffineMap map) {
  if (!map.isFunctionOfDim(3))
    return CaptureKind::Queries;
  return map.isFunctionOfDim(2) ? CaptureKind::Positions : CaptureKind::Keys;
}
