//===- Emit.cpp - Shorthand for writing formulas as IR --------------------===//

#include "lib/OpTable/Emit.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"

using namespace mlir;
using namespace attnc;

static constexpr arith::FastMathFlags kContract =
    arith::FastMathFlags::contract;

Emit::Emit(FormulaBuilder &at, Type type)
    : builder(at.builder), loc(at.loc), target(at.target), type(type) {
  intType = builder.getI32Type();
  if (auto shaped = dyn_cast<VectorType>(type))
    intType = shaped.clone(intType);
}

static Value splat(OpBuilder &builder, Location loc, Type type,
                   TypedAttr value) {
  if (auto shaped = dyn_cast<VectorType>(type))
    value = DenseElementsAttr::get(shaped, Attribute(value));
  return arith::ConstantOp::create(builder, loc, value);
}

Value Emit::constant(double value) {
  return splat(builder, loc, type, builder.getF32FloatAttr(value));
}
Value Emit::integer(uint32_t value) {
  return splat(builder, loc, intType,
               builder.getI32IntegerAttr(static_cast<int32_t>(value)));
}

Value Emit::add(Value a, Value b) {
  return arith::AddFOp::create(builder, loc, a, b);
}
Value Emit::sub(Value a, Value b) {
  return arith::SubFOp::create(builder, loc, a, b);
}
Value Emit::mul(Value a, Value b) {
  return arith::MulFOp::create(builder, loc, a, b);
}
Value Emit::neg(Value a) { return arith::NegFOp::create(builder, loc, a); }
Value Emit::abs(Value a) { return math::AbsFOp::create(builder, loc, a); }
Value Emit::mulAdd(Value a, Value b, Value c) {
  Value product = arith::MulFOp::create(builder, loc, a, b, kContract);
  return arith::AddFOp::create(builder, loc, product, c, kContract);
}

Value Emit::div(Value a, Value b) {
  arith::FastMathFlags flags = arith::FastMathFlags::none;
  if (target == FormulaTarget::Sm90a)
    flags = arith::FastMathFlags::arcp | arith::FastMathFlags::afn;
  return arith::DivFOp::create(builder, loc, a, b, flags);
}
Value Emit::sqrt(Value a) {
  arith::FastMathFlags flags = target == FormulaTarget::Sm90a
                                   ? arith::FastMathFlags::afn
                                   : arith::FastMathFlags::none;
  return math::SqrtOp::create(builder, loc, a, flags);
}
Value Emit::exp2(Value a) {
  return math::Exp2Op::create(builder, loc, a, arith::FastMathFlags::afn);
}

Value Emit::polynomial(Value x, ArrayRef<double> coefficients) {
  Value sum = constant(coefficients.back());
  for (double c : llvm::reverse(coefficients.drop_back()))
    sum = mulAdd(sum, x, constant(c));
  return sum;
}

Value Emit::atLeast(Value a, double bound) {
  Value limit = constant(bound);
  return select(greater(limit, a), limit, a);
}
Value Emit::atMost(Value a, double bound) {
  Value limit = constant(bound);
  return select(less(limit, a), limit, a);
}

Value Emit::less(Value a, Value b) {
  return arith::CmpFOp::create(builder, loc, arith::CmpFPredicate::OLT, a, b);
}
Value Emit::equal(Value a, Value b) {
  return arith::CmpFOp::create(builder, loc, arith::CmpFPredicate::OEQ, a, b);
}
Value Emit::greater(Value a, Value b) {
  return arith::CmpFOp::create(builder, loc, arith::CmpFPredicate::OGT, a, b);
}
Value Emit::select(Value condition, Value a, Value b) {
  return arith::SelectOp::create(builder, loc, condition, a, b);
}

Value Emit::bits(Value a) {
  return arith::BitcastOp::create(builder, loc, intType, a);
}
Value Emit::fromBits(Value i) {
  return arith::BitcastOp::create(builder, loc, type, i);
}
Value Emit::addInt(Value a, Value b) {
  return arith::AddIOp::create(builder, loc, a, b);
}
Value Emit::subInt(Value a, Value b) {
  return arith::SubIOp::create(builder, loc, a, b);
}
Value Emit::andInt(Value a, Value b) {
  return arith::AndIOp::create(builder, loc, a, b);
}
Value Emit::orInt(Value a, Value b) {
  return arith::OrIOp::create(builder, loc, a, b);
}
Value Emit::xorInt(Value a, Value b) {
  return arith::XOrIOp::create(builder, loc, a, b);
}
Value Emit::shiftLeft(Value a, unsigned count) {
  return arith::ShLIOp::create(builder, loc, a, integer(count));
}
Value Emit::shiftRight(Value a, unsigned count) {
  return arith::ShRSIOp::create(builder, loc, a, integer(count));
}
Value Emit::isZero(Value i) {
  return arith::CmpIOp::create(builder, loc, arith::CmpIPredicate::eq, i,
                               integer(0));
}
Value Emit::toFloat(Value i) {
  return arith::SIToFPOp::create(builder, loc, type, i);
}
Value Emit::copySign(Value a, Value b) {
  Value sign = andInt(bits(b), integer(0x80000000u));
  return fromBits(orInt(bits(abs(a)), sign));
}
