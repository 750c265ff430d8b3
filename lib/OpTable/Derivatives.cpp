//===- Derivatives.cpp - Gradients of the elementwise functions -----------===//
//
// In terms of the table's own functions, which are expanded later like any
// other op, and of the result where that saves work.
//
//===----------------------------------------------------------------------===//

#include "lib/OpTable/Derivatives.h"
#include "lib/OpTable/Emit.h"

#include "mlir/Dialect/Math/IR/Math.h"

using namespace mlir;
using namespace attnc;
using Values = SmallVector<Value>;

static constexpr double kLn2 = 0.6931471805599453;

Values derivatives::add(FormulaBuilder &, ValueRange, Value, Value g) {
  return {g, g};
}

Values derivatives::sub(FormulaBuilder &at, ValueRange x, Value, Value g) {
  return {g, Emit(at, x).neg(g)};
}

Values derivatives::mul(FormulaBuilder &at, ValueRange x, Value, Value g) {
  Emit e(at, x);
  return {e.mul(g, x[1]), e.mul(g, x[0])};
}

Values derivatives::div(FormulaBuilder &at, ValueRange x, Value r, Value g) {
  Emit e(at, x);
  Value left = e.div(g, x[1]);
  return {left, e.neg(e.mul(left, r))};
}

Values derivatives::neg(FormulaBuilder &at, ValueRange x, Value, Value g) {
  return {Emit(at, x).neg(g)};
}

/// Only a first operand that wins has a gradient; a tie goes to the second,
/// so that max(x, 0) has derivative 0 at 0.
static Values choose(Emit &e, Value firstWins, Value g) {
  Value zero = e.constant(0);
  return {e.select(firstWins, g, zero), e.select(firstWins, zero, g)};
}

Values derivatives::min(FormulaBuilder &at, ValueRange x, Value, Value g) {
  Emit e(at, x);
  return choose(e, e.less(x[0], x[1]), g);
}

Values derivatives::max(FormulaBuilder &at, ValueRange x, Value, Value g) {
  Emit e(at, x);
  return choose(e, e.greater(x[0], x[1]), g);
}

Values derivatives::abs(FormulaBuilder &at, ValueRange x, Value, Value g) {
  Emit e(at, x);
  Value zero = e.constant(0);
  Value down = e.select(e.less(x[0], zero), e.neg(g), zero);
  return {e.select(e.greater(x[0], zero), g, down)};
}

Values derivatives::exp(FormulaBuilder &at, ValueRange x, Value r, Value g) {
  return {Emit(at, x).mul(g, r)};
}

Values derivatives::exp2(FormulaBuilder &at, ValueRange x, Value r, Value g) {
  Emit e(at, x);
  return {e.mul(e.mul(g, r), kLn2)};
}

Values derivatives::log(FormulaBuilder &at, ValueRange x, Value, Value g) {
  return {Emit(at, x).div(g, x[0])};
}

Values derivatives::log2(FormulaBuilder &at, ValueRange x, Value, Value g) {
  Emit e(at, x);
  return {e.div(g, e.mul(x[0], kLn2))};
}

Values derivatives::log1p(FormulaBuilder &at, ValueRange x, Value, Value g) {
  Emit e(at, x);
  return {e.div(g, e.add(x[0], e.constant(1)))};
}

Values derivatives::expm1(FormulaBuilder &at, ValueRange x, Value r, Value g) {
  Emit e(at, x);
  return {e.mul(g, e.add(r, e.constant(1)))};
}

Values derivatives::tanh(FormulaBuilder &at, ValueRange x, Value r, Value g) {
  Emit e(at, x);
  return {e.mul(g, e.mulAdd(e.neg(r), r, e.constant(1)))};
}

Values derivatives::logistic(FormulaBuilder &at, ValueRange x, Value r,
                             Value g) {
  Emit e(at, x);
  return {e.mul(g, e.mulAdd(e.neg(r), r, r))};
}

Values derivatives::sqrt(FormulaBuilder &at, ValueRange x, Value r, Value g) {
  Emit e(at, x);
  return {e.div(e.mul(g, 0.5), r)};
}

Values derivatives::rsqrt(FormulaBuilder &at, ValueRange x, Value r, Value g) {
  Emit e(at, x);
  return {e.mul(e.mul(g, -0.5), e.mul(r, e.mul(r, r)))};
}

Values derivatives::pow(FormulaBuilder &at, ValueRange x, Value r, Value g) {
  Emit e(at, x);
  Value less = math::PowFOp::create(at.builder, at.loc, x[0],
                                    e.sub(x[1], e.constant(1)));
  Value base = e.mul(g, e.mul(x[1], less));
  Value log = math::LogOp::create(at.builder, at.loc, x[0]);
  Value exponent = e.select(e.greater(x[0], e.constant(0)),
                            e.mul(g, e.mul(r, log)), e.constant(0));
  return {base, exponent};
}

Values derivatives::erf(FormulaBuilder &at, ValueRange x, Value, Value g) {
  Emit e(at, x);
  // 2 / sqrt(pi) e^(-x^2)
  Value bell =
      math::ExpOp::create(at.builder, at.loc, e.neg(e.mul(x[0], x[0])));
  return {e.mul(e.mul(g, 1.1283791670955126), bell)};
}

Values derivatives::sin(FormulaBuilder &at, ValueRange x, Value, Value g) {
  return {Emit(at, x).mul(g, math::CosOp::create(at.builder, at.loc, x[0]))};
}

Values derivatives::cos(FormulaBuilder &at, ValueRange x, Value, Value g) {
  Emit e(at, x);
  return {e.neg(e.mul(g, math::SinOp::create(at.builder, at.loc, x[0])))};
}

Values derivatives::select(FormulaBuilder &at, ValueRange x, Value, Value g) {
  Emit e(at, g.getType());
  Values branches = choose(e, x[0], g);
  return {Value(), branches[0], branches[1]};
}

Values derivatives::fma(FormulaBuilder &at, ValueRange x, Value, Value g) {
  Emit e(at, x);
  return {e.mul(g, x[1]), e.mul(g, x[0]), g};
}
