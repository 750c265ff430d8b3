//===- Formulas.cpp - What targets make of the elementwise functions ------===//
//
// Everything rests on 2^x, which is one instruction on a GPU and a polynomial
// on a CPU, on division, and on integer arithmetic with the bits of a float.
// No formula branches: both sides of a case are computed and one selected.
// Coefficients are minimax fits of the named function on the named interval.
//
//===----------------------------------------------------------------------===//

#include "lib/OpTable/Formulas.h"
#include "lib/OpTable/Emit.h"

#include "mlir/IR/Matchers.h"

#include <cmath>
#include <limits>

using namespace mlir;
using namespace attnc;

static constexpr double kLog2e = 1.4426950408889634;
/// ln 2 in two parts, the first short enough that n * kLn2High is exact.
static constexpr double kLn2High = 0.693359375, kLn2Low = -2.12194440e-4;
/// Adding this rounds to an integer, which the low bits then hold.
static constexpr double kRounder = 12582912;
static constexpr double kInf = std::numeric_limits<double>::infinity();
static constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

Value formulas::div(FormulaBuilder &at, ValueRange x) {
  return Emit(at, x).div(x[0], x[1]);
}

Value formulas::exp2(FormulaBuilder &at, ValueRange x) {
  return Emit(at, x).exp2(x[0]);
}

namespace {
/// x = n ln2 + r with |r| <= ln2 / 2. `half` is 2^n / 2, so that it does not
/// overflow before a result does; `tail` is e^r - 1.
struct ReducedExponential {
  Value half, tail;
};
} // namespace

/// `x` is inside [-87.5, 89].
static ReducedExponential reduceExponential(Emit &e, Value x) {
  Value rounder = e.constant(kRounder);
  Value shifted = e.mulAdd(x, e.constant(kLog2e), rounder);
  Value n = e.sub(shifted, rounder);
  Value r = e.mulAdd(n, e.constant(-kLn2High), x);
  r = e.mulAdd(n, e.constant(-kLn2Low), r);
  Value cubic = e.polynomial(
      r, {0.5, 0.16666542, 0.0416662768, 0.00836677011, 0.00139467698});
  // 126 << 23 are the bits of 1/2.
  Value half = e.fromBits(
      e.addInt(e.shiftLeft(e.bits(shifted), 23), e.integer(126u << 23)));
  return {half, e.mulAdd(e.mul(r, r), cubic, r)};
}

// A GPU has an instruction for 2^x, and a factor of x takes log2(e) with it. On
// a CPU 2^x is a polynomial anyway, and reducing x itself saves the error of
// the product, which is larger than that of everything else.
Value formulas::exp(FormulaBuilder &at, ValueRange x) {
  Emit e(at, x);
  if (at.target == FormulaTarget::Sm90a)
    return e.exp2(e.mul(x[0], kLog2e));
  ReducedExponential y =
      reduceExponential(e, e.atMost(e.atLeast(x[0], -87.5), 89));
  Value result = e.mulAdd(y.half, y.tail, y.half);
  return e.add(result, result);
}

// e^x - 1 = 2^n (e^r - 1) + (2^n - 1).
Value formulas::expm1(FormulaBuilder &at, ValueRange x) {
  Emit e(at, x);
  ReducedExponential y =
      reduceExponential(e, e.atMost(e.atLeast(x[0], -18), 89));
  Value result = e.mulAdd(y.half, y.tail, e.sub(y.half, e.constant(0.5)));
  return e.add(result, result);
}

namespace {
/// x = 2^exponent * (1 + f), sqrt(1/2) <= 1 + f < sqrt(2).
struct Decomposed {
  Value exponent, f;
};
} // namespace

/// `x` is positive and finite.
static Decomposed decompose(Emit &e, Value x) {
  // Too small for a normalised mantissa.
  Value tiny = e.less(x, e.constant(std::ldexp(1, -126)));
  x = e.select(tiny, e.mul(x, std::ldexp(1, 23)), x);
  Value bits = e.bits(x);
  // The bits of sqrt(1/2): above it the exponent field is one more.
  Value n = e.shiftRight(e.subInt(bits, e.integer(0x3F3504F3)), 23);
  Value mantissa = e.fromBits(e.subInt(bits, e.shiftLeft(n, 23)));
  Value exponent = e.toFloat(n);
  exponent = e.select(tiny, e.sub(exponent, e.constant(23)), exponent);
  return {exponent, e.sub(mantissa, e.constant(1))};
}

/// log(1 + f) - f.
static Value logTail(Emit &e, Value f) {
  Value square = e.mul(f, f);
  Value cubic =
      e.polynomial(f, {0.333333164, -0.250008106, 0.200022861, -0.166245535,
                       0.141811967, -0.131287679, 0.128816217, -0.0785954595});
  return e.mulAdd(e.mul(square, f), cubic, e.mul(square, -0.5));
}

static Value logOfPositive(Emit &e, Value x) {
  Decomposed d = decompose(e, x);
  Value low = e.mulAdd(d.exponent, e.constant(kLn2Low), logTail(e, d.f));
  return e.mulAdd(d.exponent, e.constant(kLn2High), e.add(low, d.f));
}

/// `value`, or the logarithm's limit where x is 0, negative, infinite or NaN.
static Value logSpecials(Emit &e, Value x, Value value) {
  value = e.select(e.less(x, e.constant(kInf)), value, x);
  Value limit =
      e.select(e.equal(x, e.constant(0)), e.constant(-kInf), e.constant(kNan));
  return e.select(e.greater(x, e.constant(0)), value, limit);
}

Value formulas::log(FormulaBuilder &at, ValueRange x) {
  Emit e(at, x);
  return logSpecials(e, x[0], logOfPositive(e, x[0]));
}

Value formulas::log2(FormulaBuilder &at, ValueRange x) {
  Emit e(at, x);
  Decomposed d = decompose(e, x[0]);
  Value mantissa = e.add(d.f, logTail(e, d.f));
  return logSpecials(e, x[0],
                     e.mulAdd(mantissa, e.constant(kLog2e), d.exponent));
}

// With u = 1 + x rounded, log(1 + x) = log(u) + (x - (u - 1)) / u: the second
// term is what rounding u lost.
Value formulas::log1p(FormulaBuilder &at, ValueRange x) {
  Emit e(at, x);
  Value u = e.add(x[0], e.constant(1));
  Value lost = e.sub(x[0], e.sub(u, e.constant(1)));
  // Not where u is infinite.
  lost = e.select(e.equal(lost, lost), lost, e.constant(0));
  Value value = e.add(logOfPositive(e, u), e.div(lost, u));
  return logSpecials(e, u, value);
}

// Below 0.55 a polynomial, for the relative accuracy of small results, above
// 1 - 2 / (e^2x + 1).
Value formulas::tanh(FormulaBuilder &at, ValueRange x) {
  Emit e(at, x);
  Value square = e.mul(x[0], x[0]);
  Value tail = e.polynomial(square, {-0.333333135, 0.133324802, -0.0538405217,
                                     0.0210205596, -0.00619872939});
  Value small = e.mulAdd(e.mul(square, x[0]), tail, x[0]);
  Value magnitude = e.abs(x[0]);
  Value power = e.exp2(e.mul(magnitude, 2 * kLog2e));
  Value large =
      e.sub(e.constant(1), e.div(e.constant(2), e.add(power, e.constant(1))));
  return e.select(e.less(magnitude, e.constant(0.55)), small,
                  e.copySign(large, x[0]));
}

Value formulas::logistic(FormulaBuilder &at, ValueRange x) {
  Emit e(at, x);
  // The sign is free in the constant.
  Value power = at.target == FormulaTarget::Sm90a ? e.exp2(e.mul(x[0], -kLog2e))
                                                  : exp(at, e.neg(x[0]));
  return e.div(e.constant(1), e.add(power, e.constant(1)));
}

Value formulas::logisticGuard(FormulaBuilder &at, Value x) {
  Emit e(at, x);
  return e.exp2(e.mul(x, kLog2e));
}

// e / (1 + e) = e - e^2 + e^3 - ...
SmallVector<Value> formulas::logisticSquare(FormulaBuilder &at,
                                            ValueRange powers) {
  Emit e(at, powers);
  Value power = powers[0];
  return {e.mulAdd(e.neg(power), power, power)};
}

SmallVector<Value> formulas::logisticCube(FormulaBuilder &at,
                                          ValueRange powers) {
  Emit e(at, powers);
  Value power = powers[0], minus = e.neg(power);
  return {e.mulAdd(minus, e.mulAdd(minus, power, power), power)};
}

// One division for four. Of two with powers a and b the quotients are a(1 + b)
// and b(1 + a) over (1 + a)(1 + b) = (1 + a) + b(1 + a), all sums of what is
// positive. Below 2^30 the product of four is finite.
SmallVector<Value> formulas::logisticOfFour(FormulaBuilder &at,
                                            ValueRange powers) {
  Emit e(at, powers);
  Value one = e.constant(1);
  struct Pair {
    Value first, second, over;
  };
  auto join = [&](Value a, Value b) -> Pair {
    Value first = e.mulAdd(a, b, a), second = e.mulAdd(a, b, b);
    return {first, second, e.add(e.add(a, one), second)};
  };
  Pair low = join(powers[0], powers[1]), high = join(powers[2], powers[3]);
  Value inverse = e.div(one, e.mul(low.over, high.over));
  Value lowInverse = e.mul(inverse, high.over);
  Value highInverse = e.mul(inverse, low.over);
  return {e.mul(low.first, lowInverse), e.mul(low.second, lowInverse),
          e.mul(high.first, highInverse), e.mul(high.second, highInverse)};
}

// An infinite power would give NaN; from 2^25 on the quotient is 1 anyway.
Value formulas::logisticExact(FormulaBuilder &at, Value power) {
  Emit e(at, power);
  Value bounded = e.atMost(power, std::ldexp(1, 40));
  return e.div(bounded, e.add(bounded, e.constant(1)));
}

Value formulas::sqrt(FormulaBuilder &at, ValueRange x) {
  return Emit(at, x).sqrt(x[0]);
}

Value formulas::rsqrt(FormulaBuilder &at, ValueRange x) {
  Emit e(at, x);
  return e.div(e.constant(1), e.sqrt(x[0]));
}

/// x^n by squaring.
static Value integerPower(Emit &e, Value x, unsigned n) {
  Value result;
  for (Value power = x; n; n >>= 1) {
    if (n & 1)
      result = result ? e.mul(result, power) : power;
    if (n > 1)
      power = e.mul(power, power);
  }
  return result ? result : e.constant(1);
}

/// |x|^y = 2^(y log2|x|). With log2|x| = n + l, y is split so that its upper
/// half times n is exact.
static Value powerOfMagnitude(Emit &e, Value x, Value y) {
  Decomposed d = decompose(e, x);
  Value l = e.mul(e.add(d.f, logTail(e, d.f)), kLog2e);
  Value high = e.fromBits(e.andInt(e.bits(y), e.integer(0xFFFFF000u)));
  Value rest = e.mulAdd(y, l, e.mul(e.sub(y, high), d.exponent));
  high = e.mul(high, d.exponent);
  Value total = e.atMost(e.atLeast(e.add(high, rest), -300), 300);
  Value rounder = e.constant(kRounder);
  Value whole = e.sub(e.add(total, rounder), rounder);
  Value fraction = e.add(e.sub(high, whole), rest);
  // Far outside the range of f32 the parts cancel no more.
  fraction = e.atMost(e.atLeast(fraction, -1), 1);
  return e.mul(e.exp2(whole), e.exp2(fraction));
}

/// The bit pattern whose sign bit says that y is an odd integer.
static Value oddInSign(Emit &e, Value y) {
  Value rounder = e.constant(kRounder);
  Value shifted = e.add(y, rounder);
  Value odd = e.shiftLeft(e.bits(shifted), 31);
  Value whole = e.equal(e.sub(shifted, rounder), y);
  // From 2^22 on, the rounder rounds no more; treat these as even.
  Value small = e.less(e.abs(y), e.constant(4194304));
  Value none = e.integer(0);
  return e.select(small, e.select(whole, odd, none), none);
}

static Value isInteger(Emit &e, Value y) {
  Value rounder = e.constant(kRounder);
  Value whole = e.equal(e.sub(e.add(y, rounder), rounder), y);
  Value large = e.greater(e.abs(y), e.constant(4194303.5));
  return e.select(large, large, whole);
}

Value formulas::pow(FormulaBuilder &at, ValueRange xy) {
  Emit e(at, xy);
  Value x = xy[0], y = xy[1];
  FloatAttr exponent;
  if (matchPattern(y, m_Constant(&exponent))) {
    double n = exponent.getValueAsDouble();
    if (n == std::floor(n) && std::fabs(n) <= 16) {
      Value power = integerPower(e, x, unsigned(std::fabs(n)));
      return n < 0 ? e.div(e.constant(1), power) : power;
    }
  }
  Value zero = e.constant(0), infinite = e.constant(kInf);
  Value magnitude = e.abs(x);
  Value value = powerOfMagnitude(e, magnitude, y);
  // 0 and infinity have no logarithm.
  Value grows = e.greater(y, zero);
  value = e.select(e.equal(magnitude, zero), e.select(grows, zero, infinite),
                   value);
  value = e.select(e.equal(magnitude, infinite),
                   e.select(grows, infinite, zero), value);
  Value negative = e.less(x, zero);
  Value sign = e.select(negative, oddInSign(e, y), e.integer(0));
  value = e.fromBits(e.xorInt(e.bits(value), sign));
  Value defined = e.select(isInteger(e, y), value, e.constant(kNan));
  value = e.select(negative, defined, value);
  return e.select(e.equal(y, zero), e.constant(1), value);
}

// Below 0.97 an odd polynomial, above 1 - 2^-q(x).
Value formulas::erf(FormulaBuilder &at, ValueRange x) {
  Emit e(at, x);
  Value square = e.mul(x[0], x[0]);
  Value small =
      e.mul(x[0], e.polynomial(square, {1.12837911, -0.37612626, 0.112835854,
                                        -0.0268538166, 0.00518833427,
                                        -0.000801024726, 7.85402517e-05}));
  Value magnitude = e.abs(x[0]);
  Value exponent = e.polynomial(e.atMost(magnitude, 4.1),
                                {-0.000264654111, 1.62960601, 0.913604856,
                                 0.156348437, -0.0363255739, 0.00605010241,
                                 -0.000633496675, 3.10123469e-05});
  Value large = e.sub(e.constant(1), e.exp2(e.neg(exponent)));
  return e.select(e.less(magnitude, e.constant(0.97)), small,
                  e.copySign(large, x[0]));
}

/// sin(x + quarters * pi/2): reduced by pi/2 in three parts, then one of two
/// polynomials on [-pi/4, pi/4], by the quadrant.
static Value sine(FormulaBuilder &at, Value x, unsigned quarters) {
  Emit e(at, x);
  Value rounder = e.constant(kRounder);
  Value shifted = e.mulAdd(x, e.constant(0.6366197723675814), rounder);
  Value n = e.sub(shifted, rounder);
  Value r = e.mulAdd(n, e.constant(-1.5703125), x);
  r = e.mulAdd(n, e.constant(-4.837512969970703e-4), r);
  r = e.mulAdd(n, e.constant(-7.549789948768648e-8), r);
  Value square = e.mul(r, r);
  Value odd = e.polynomial(
      square, {-1.6666654611e-1, 8.3321608736e-3, -1.9515295891e-4});
  odd = e.mulAdd(e.mul(square, r), odd, r);
  Value even =
      e.polynomial(square, {4.166664568298827e-2, -1.388731625493765e-3,
                            2.443315711809948e-5});
  even = e.mulAdd(e.mul(square, square), even,
                  e.mulAdd(square, e.constant(-0.5), e.constant(1)));
  Value quadrant = e.addInt(e.bits(shifted), e.integer(quarters));
  // Bit 0 chooses the polynomial, bit 1 the sign.
  Value first = e.isZero(e.andInt(quadrant, e.integer(1)));
  Value value = e.select(first, odd, even);
  Value sign = e.shiftLeft(e.andInt(quadrant, e.integer(2)), 30);
  return e.fromBits(e.xorInt(e.bits(value), sign));
}

Value formulas::sin(FormulaBuilder &at, ValueRange x) {
  return sine(at, x[0], 0);
}
Value formulas::cos(FormulaBuilder &at, ValueRange x) {
  return sine(at, x[0], 1);
}
