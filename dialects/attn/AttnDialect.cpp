//===- AttnDialect.cpp - Registration and layout helpers ------------------===//

#include "dialects/attn/Attn.h"

#include "mlir/IR/DialectImplementation.h"
#include "mlir/IR/TypeUtilities.h"
#include "llvm/ADT/SmallBitVector.h"
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

/// Reads `expr`, a function of i - j alone, as the dim of a Diagonals.
static std::optional<Diagonals> readDifference(AffineExpr expr, unsigned dim) {
  MLIRContext *context = expr.getContext();
  AffineExpr b, h, i, j;
  bindDims(context, b, h, i, j);
  auto at = [&](AffineExpr of, AffineExpr query, AffineExpr key) {
    return simplifyAffineExpr(of.replaceDims({b, h, query, key}), 4, 0);
  };
  Diagonals found = {dim, 1, 0, 1};
  // (x + c) floordiv n is printed as x floordiv n + c / n where it can be.
  int64_t outside = 0;
  if (auto sum = dyn_cast<AffineBinaryOpExpr>(expr);
      sum && sum.getKind() == AffineExprKind::Add)
    if (auto constant = dyn_cast<AffineConstantExpr>(sum.getRHS())) {
      outside = constant.getValue();
      expr = sum.getLHS();
    }
  if (auto quotient = dyn_cast<AffineBinaryOpExpr>(expr);
      quotient && quotient.getKind() == AffineExprKind::FloorDiv) {
    auto divisor = dyn_cast<AffineConstantExpr>(quotient.getRHS());
    if (!divisor || divisor.getValue() < 1)
      return std::nullopt;
    found.divisor = divisor.getValue();
    expr = quotient.getLHS();
  }
  AffineExpr zero = getAffineConstantExpr(0, context);
  auto offset = dyn_cast<AffineConstantExpr>(at(expr, zero, zero));
  if (!offset)
    return std::nullopt;
  found.offset = offset.getValue() + outside * found.divisor;
  for (int64_t sign : {1, -1})
    if (at(expr - (i - j) * sign, i, j) == offset) {
      found.sign = sign;
      return found;
    }
  return std::nullopt;
}

std::optional<Diagonals> attnc::attn::getDiagonals(AffineMap map) {
  std::optional<Diagonals> found;
  llvm::SmallBitVector used(2);
  for (auto [dim, expr] : llvm::enumerate(map.getResults())) {
    if (auto position = dyn_cast<AffineDimExpr>(expr);
        position && position.getPosition() < 2 &&
        !used[position.getPosition()]) {
      used.set(position.getPosition());
      continue;
    }
    if (found || !(found = readDifference(expr, dim)))
      return std::nullopt;
  }
  return found;
}

std::optional<RowStat> attnc::attn::getRowStat(RowNorm norm) {
  switch (norm) {
  case RowNorm::SquaredL2:
  case RowNorm::InverseL2:
    return std::nullopt;
  case RowNorm::Mean:
    return RowStat::Mean;
  case RowNorm::MeanSquare:
    return RowStat::MeanSquare;
  case RowNorm::AbsMax:
    return RowStat::AbsMax;
  }
  llvm_unreachable("not a norm");
}

RowNorm attnc::attn::getRowNorm(RowStat stat) {
  switch (stat) {
  case RowStat::Mean:
    return RowNorm::Mean;
  case RowStat::MeanSquare:
    return RowNorm::MeanSquare;
  case RowStat::AbsMax:
    return RowNorm::AbsMax;
  }
  llvm_unreachable("not a statistic");
}

/// N of h floordiv N.
static std::optional<int64_t> readGroup(AffineExpr expr) {
  auto quotient = dyn_cast<AffineBinaryOpExpr>(expr);
  if (!quotient || quotient.getKind() != AffineExprKind::FloorDiv ||
      quotient.getLHS() != getAffineDimExpr(1, expr.getContext()))
    return std::nullopt;
  auto divisor = dyn_cast<AffineConstantExpr>(quotient.getRHS());
  if (!divisor || divisor.getValue() < 1)
    return std::nullopt;
  return divisor.getValue();
}

AffineMap attnc::attn::getMapOfGroups(AffineMap map) {
  AffineExpr h = getAffineDimExpr(1, map.getContext());
  SmallVector<AffineExpr> results;
  for (AffineExpr expr : map.getResults())
    results.push_back(readGroup(expr) ? h : expr);
  return AffineMap::get(map.getNumDims(), 0, results, map.getContext());
}

std::optional<int64_t> attnc::attn::getHeadsPerElement(AffineMap map) {
  if (!getMapOfGroups(map).isProjectedPermutation())
    return std::nullopt;
  for (AffineExpr expr : map.getResults())
    if (std::optional<int64_t> heads = readGroup(expr))
      return heads;
  return 1;
}
