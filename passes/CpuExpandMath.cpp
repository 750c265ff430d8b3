//===- CpuExpandMath.cpp - Elementary functions as arithmetic -------------===//
//
// No call of a math library may remain in a kernel: it would cost more than
// the products. exp, exp2, sin, cos and powf are expanded here, each pattern
// says how; log, log1p, expm1, tanh and erf take MLIR's approximations. An
// op that is left and would become a call is an error.
//
// Polynomials are minimax fits; their errors are relative unless said
// otherwise.
//
//===----------------------------------------------------------------------===//

#include "passes/Passes.h"
#include "passes/TileToCpu/Code.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Math/Transforms/Passes.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"
#include "llvm/ADT/StringSet.h"

#include <cmath>

namespace attnc {
#define GEN_PASS_DEF_CPUEXPANDMATH
#include "passes/Passes.h.inc"
} // namespace attnc

using namespace mlir;
using namespace attnc;

//===----------------------------------------------------------------------===//
// Arithmetic
//===----------------------------------------------------------------------===//

namespace {

/// Arithmetic on a float type, f32 or f64, scalar or vector.
struct Real {
  cpu::Code &code;
  Type real, whole;

  Real(cpu::Code &code, Type type)
      : code(code), real(type),
        whole(code.withElement(
            type, code.getIntegerType(
                      getElementTypeOrSelf(type).getIntOrFloatBitWidth()))) {}

  Value f(double value) { return code.real(real, value); }
  Value i(int64_t value) { return code.integer(whole, value); }
  Value add(Value a, Value b) { return arith::AddFOp::create(code, a, b); }
  Value sub(Value a, Value b) { return arith::SubFOp::create(code, a, b); }
  Value mul(Value a, Value b) { return arith::MulFOp::create(code, a, b); }
  Value div(Value a, Value b) { return arith::DivFOp::create(code, a, b); }
  Value neg(Value a) { return arith::NegFOp::create(code, a); }
  /// a * b + c, fused where the processor can.
  Value fma(Value a, Value b, Value c) {
    return LLVM::FMulAddOp::create(code, a, b, c);
  }
  Value polynomial(Value x, ArrayRef<double> highestFirst) {
    Value sum = f(highestFirst.front());
    for (double coefficient : highestFirst.drop_front())
      sum = fma(sum, x, f(coefficient));
    return sum;
  }
  Value bits(Value x) { return arith::BitcastOp::create(code, whole, x); }
  Value number(Value x) { return arith::BitcastOp::create(code, real, x); }
  Value iadd(Value a, Value b) { return arith::AddIOp::create(code, a, b); }
  Value land(Value a, int64_t b) {
    return arith::AndIOp::create(code, a, i(b));
  }
  Value shl(Value a, int by) { return arith::ShLIOp::create(code, a, i(by)); }
  Value sar(Value a, int by) { return arith::ShRSIOp::create(code, a, i(by)); }
  Value less(Value a, double b) {
    return compare(arith::CmpFPredicate::OLT, a, f(b));
  }
  Value atLeast(Value a, double b) {
    return compare(arith::CmpFPredicate::OGE, a, f(b));
  }
  Value equal(Value a, Value b) {
    return compare(arith::CmpFPredicate::OEQ, a, b);
  }
  Value isNan(Value a) { return compare(arith::CmpFPredicate::UNO, a, a); }
  Value isSet(Value a) {
    return arith::CmpIOp::create(code, arith::CmpIPredicate::ne, a, i(0));
  }
  Value compare(arith::CmpFPredicate predicate, Value a, Value b) {
    return arith::CmpFOp::create(code, predicate, a, b);
  }
  Value select(Value condition, Value a, Value b) {
    return arith::SelectOp::create(code, condition, a, b);
  }
  Value land(Value a, Value b) { return arith::AndIOp::create(code, a, b); }

  /// Rounds to the nearest integer: adding this leaves it in the low bits.
  double roundingNumber() const {
    return getElementTypeOrSelf(real).isF32() ? 0x1.8p23 : 0x1.8p52;
  }
  int mantissaBits() const {
    return getElementTypeOrSelf(real).isF32() ? 23 : 52;
  }
  /// x * 2^n for n in the low bits of `shifted`, a sum with roundingNumber:
  /// n goes to the exponent, which must not leave its range.
  Value scaleByPowerOfTwo(Value x, Value shifted) {
    return number(iadd(bits(x), shl(bits(shifted), mantissaBits())));
  }
};

bool isF32(Type type) { return getElementTypeOrSelf(type).isF32(); }

//===----------------------------------------------------------------------===//
// Exponentials
//===----------------------------------------------------------------------===//

/// 2^x = 2^n * 2^f with n the nearest integer to x, |f| <= 1/2 and a
/// polynomial (2.6e-9) for 2^f. Below 2^-126 the result is 0.
struct ExpandExp2 : OpRewritePattern<math::Exp2Op> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(math::Exp2Op op,
                                PatternRewriter &rewriter) const override {
    if (!isF32(op.getType()))
      return failure();
    cpu::Code code(op.getLoc(), rewriter);
    Real r(code, op.getType());
    Value x = op.getOperand();
    Value shifted = r.add(x, r.f(r.roundingNumber()));
    Value fraction = r.sub(x, r.sub(shifted, r.f(r.roundingNumber())));
    Value power = r.polynomial(fraction, {0.000155946770151, 0.00134066438475,
                                          0.00961769297614, 0.0555031055121,
                                          0.240226527829, 0.693147214968, 1.0});
    Value result = r.scaleByPowerOfTwo(power, shifted);
    result = r.select(r.less(x, -126.0), r.f(0), result);
    result = r.select(r.atLeast(x, 128.0), r.f(INFINITY), result);
    rewriter.replaceOp(op, result);
    return success();
  }
};

/// e^x = 2^n * e^f with n the nearest integer to x / ln 2; f is computed with
/// ln 2 in two parts, the first of which has few bits. Polynomial: 2.6e-9.
struct ExpandExp : OpRewritePattern<math::ExpOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(math::ExpOp op,
                                PatternRewriter &rewriter) const override {
    if (!isF32(op.getType()))
      return failure();
    cpu::Code code(op.getLoc(), rewriter);
    Real r(code, op.getType());
    Value x = op.getOperand();
    Value shifted = r.fma(x, r.f(1.4426950408889634), r.f(r.roundingNumber()));
    Value n = r.sub(shifted, r.f(r.roundingNumber()));
    Value fraction = r.fma(n, r.f(-0.693359375), x);
    fraction = r.fma(n, r.f(2.12194440054690581e-4), fraction);
    Value power =
        r.polynomial(fraction, {0.0014061239909908656, 0.0083790111263181424,
                                0.041664777302839558, 0.16666365441893731,
                                0.50000004343746517, 1.0000000496401639, 1.0});
    Value result = r.scaleByPowerOfTwo(power, shifted);
    // The exponents of 2^-126 and of the largest number.
    result = r.select(r.less(x, -87.33654), r.f(0), result);
    result = r.select(r.atLeast(x, 88.722847), r.f(INFINITY), result);
    rewriter.replaceOp(op, result);
    return success();
  }
};

//===----------------------------------------------------------------------===//
// Trigonometry
//===----------------------------------------------------------------------===//

/// Subtracts the nearest multiple of pi / 2 in double: `rest` is f32 and at
/// most pi / 4, the low bits of `quadrant` (i32) count quarter turns.
struct Quadrant {
  Value rest, quadrant;

  Quadrant(cpu::Code &code, Value x) {
    Type wide = code.withElement(x.getType(), code.getF64Type());
    Real r(code, wide);
    Value turned = arith::ExtFOp::create(code, wide, x);
    Value shifted =
        r.fma(turned, r.f(0.63661977236758134), r.f(r.roundingNumber()));
    Value n = r.sub(shifted, r.f(r.roundingNumber()));
    turned = r.fma(n, r.f(-0x1.921fb544p0), turned);
    turned = r.fma(n, r.f(-0x1.0b4611a626331p-34), turned);
    rest = arith::TruncFOp::create(code, x.getType(), turned);
    quadrant = arith::TruncIOp::create(
        code, code.withElement(x.getType(), code.getI32Type()),
        r.bits(shifted));
  }
};

/// sin (shift 0) and cos (shift 1), by polynomials on [-pi/4, pi/4] with
/// absolute errors of 1e-8 and 1e-9. For |x| beyond 2^30 the argument itself
/// is not known to a quarter turn.
Value expandSine(cpu::Code &code, Value x, int shift) {
  Real r(code, x.getType());
  Quadrant turn(code, x);
  Value square = r.mul(turn.rest, turn.rest);
  Value sine =
      r.polynomial(square, {-0.00019588008863624596, 0.0083327489984849007,
                            -0.16666664667928347});
  sine = r.fma(r.mul(sine, square), turn.rest, turn.rest);
  Value cosine =
      r.polynomial(square, {2.4548040543429152e-5, -0.0013888303643320301,
                            0.041666664664187804});
  cosine =
      r.fma(cosine, r.mul(square, square), r.fma(square, r.f(-0.5), r.f(1)));
  Value quadrant = r.iadd(turn.quadrant, r.i(shift));
  Value result = r.select(r.isSet(r.land(quadrant, 1)), cosine, sine);
  Value negative = r.isSet(r.land(quadrant, 2));
  return r.select(negative, r.neg(result), result);
}

template <typename Op, int shift> struct ExpandSine : OpRewritePattern<Op> {
  using OpRewritePattern<Op>::OpRewritePattern;

  LogicalResult matchAndRewrite(Op op,
                                PatternRewriter &rewriter) const override {
    if (!isF32(op.getType()))
      return failure();
    cpu::Code code(op.getLoc(), rewriter);
    rewriter.replaceOp(op, expandSine(code, op.getOperand(), shift));
    return success();
  }
};

//===----------------------------------------------------------------------===//
// Powers
//===----------------------------------------------------------------------===//

/// log2 of |x|, x a double that is an f32: exponent and mantissa m in
/// [sqrt(1/2), sqrt(2)), log2(m) = 2 / ln 2 * artanh((m - 1) / (m + 1)).
Value logarithm(Real &r, Value magnitude) {
  constexpr int64_t one = 0x3ff0000000000000, halfRoot = 0x3fe6a09e667f3bcd;
  Value above = r.iadd(r.bits(magnitude), r.i(one - halfRoot));
  Value exponent = r.iadd(r.sar(above, 52), r.i(-1023));
  Value mantissa =
      r.number(r.iadd(r.land(above, 0x000fffffffffffff), r.i(halfRoot)));
  Value t = r.div(r.sub(mantissa, r.f(1)), r.add(mantissa, r.f(1)));
  Value series = r.polynomial(
      r.mul(t, t), {1. / 13, 1. / 11, 1. / 9, 1. / 7, 1. / 5, 1. / 3, 1.});
  Value whole = arith::SIToFPOp::create(r.code, r.real, exponent);
  return r.fma(r.mul(t, r.f(2.8853900817779268)), series, whole);
}

/// 2^y in double, 2e-10, y clamped to where f32 is 0 or infinite.
Value power(Real &r, Value y) {
  y = r.select(r.less(y, -300), r.f(-300), y);
  y = r.select(r.atLeast(y, 300), r.f(300), y);
  Value shifted = r.add(y, r.f(r.roundingNumber()));
  Value fraction = r.mul(r.sub(y, r.sub(shifted, r.f(r.roundingNumber()))),
                         r.f(0.69314718055994531));
  Value result =
      r.polynomial(fraction, {1. / 40320, 1. / 5040, 1. / 720, 1. / 120,
                              1. / 24, 1. / 6, 1. / 2, 1., 1.});
  return r.scaleByPowerOfTwo(result, shifted);
}

/// |a|^b = 2^(b log2 |a|) in double; a negative a needs an integer b.
struct ExpandPow : OpRewritePattern<math::PowFOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(math::PowFOp op,
                                PatternRewriter &rewriter) const override {
    if (!isF32(op.getType()))
      return failure();
    cpu::Code code(op.getLoc(), rewriter);
    Type narrow = op.getType();
    Real r(code, code.withElement(narrow, code.getF64Type()));
    Value a = arith::ExtFOp::create(code, r.real, op.getLhs());
    Value b = arith::ExtFOp::create(code, r.real, op.getRhs());
    Value magnitude = math::AbsFOp::create(code, a);
    Value log = logarithm(r, magnitude);
    log = r.select(r.equal(magnitude, r.f(0)), r.f(-INFINITY), log);
    log = r.select(r.equal(magnitude, r.f(INFINITY)), r.f(INFINITY), log);
    Value exponent = r.mul(b, log);
    Value result = power(r, exponent);
    result = r.select(r.isNan(exponent), exponent, result);
    result = r.select(r.isNan(a), a, result);

    // An f32 of 2^24 or more is an even integer.
    Value shifted = r.add(b, r.f(r.roundingNumber()));
    Value rounded = r.sub(shifted, r.f(r.roundingNumber()));
    Value odd = r.isSet(r.land(r.bits(shifted), 1));
    Value small = r.less(math::AbsFOp::create(code, b), 0x1p24);
    Value isInteger = r.equal(rounded, b);
    Value signedResult =
        r.select(r.land(r.land(odd, small), isInteger), r.neg(result), result);
    Value allowed = arith::OrIOp::create(
        code, isInteger,
        arith::OrIOp::create(code, r.equal(magnitude, r.f(0)),
                             r.equal(magnitude, r.f(INFINITY))));
    Value hasSign = arith::CmpIOp::create(code, arith::CmpIPredicate::slt,
                                          r.bits(a), r.i(0));
    Value ofNegative = r.select(allowed, signedResult, r.f(NAN));
    result =
        r.select(r.land(hasSign, r.compare(arith::CmpFPredicate::ORD, a, a)),
                 ofNegative, result);
    result = r.select(r.equal(b, r.f(0)), r.f(1), result);
    result = r.select(r.equal(a, r.f(1)), r.f(1), result);
    rewriter.replaceOp(op, arith::TruncFOp::create(code, narrow, result));
    return success();
  }
};

struct ExpandRsqrt : OpRewritePattern<math::RsqrtOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(math::RsqrtOp op,
                                PatternRewriter &rewriter) const override {
    cpu::Code code(op.getLoc(), rewriter);
    Real r(code, op.getType());
    rewriter.replaceOp(
        op, r.div(r.f(1), math::SqrtOp::create(code, op.getOperand())));
    return success();
  }
};

//===----------------------------------------------------------------------===//
// What the processor has, spelled so that it is used
//===----------------------------------------------------------------------===//

struct ExpandFma : OpRewritePattern<math::FmaOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(math::FmaOp op,
                                PatternRewriter &rewriter) const override {
    rewriter.replaceOpWithNewOp<LLVM::FMulAddOp>(op, op.getA(), op.getB(),
                                                 op.getC());
    return success();
  }
};

/// Division may not become an approximate reciprocal with a Newton step:
/// that gives NaN, not 0, for 1 / infinity.
struct DivideExactly : OpRewritePattern<arith::DivFOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(arith::DivFOp op,
                                PatternRewriter &rewriter) const override {
    auto flags = op.getFastmath();
    auto kept =
        flags & ~(arith::FastMathFlags::arcp | arith::FastMathFlags::afn);
    if (kept == flags)
      return failure();
    rewriter.modifyOpInPlace(op, [&] { op.setFastmath(kept); });
    return success();
  }
};

//===----------------------------------------------------------------------===//
// The pass
//===----------------------------------------------------------------------===//

struct CpuExpandMath : attnc::impl::CpuExpandMathBase<CpuExpandMath> {
  using CpuExpandMathBase::CpuExpandMathBase;

  void runOnOperation() override {
    MLIRContext *context = &getContext();
    RewritePatternSet patterns(context);
    patterns.add<ExpandExp2, ExpandExp, ExpandSine<math::SinOp, 0>,
                 ExpandSine<math::CosOp, 1>, ExpandPow, ExpandRsqrt, ExpandFma,
                 DivideExactly>(context);
    llvm::StringSet<> upstream;
    for (StringRef name :
         {math::LogOp::getOperationName(), math::Log2Op::getOperationName(),
          math::Log1pOp::getOperationName(), math::ExpM1Op::getOperationName(),
          math::TanhOp::getOperationName(), math::ErfOp::getOperationName()})
      upstream.insert(name);
    populateMathPolynomialApproximationPatterns(
        patterns, [&](StringRef name) { return upstream.contains(name); });
    FrozenRewritePatternSet frozen(std::move(patterns));
    // Only what the patterns are about, and what they make of it: a kernel
    // is a thousand ops, few of them elementary functions.
    GreedyRewriteConfig config;
    config.setStrictness(GreedyRewriteStrictness::ExistingAndNewOps);
    for (auto function : getOperation().getOps<func::FuncOp>()) {
      SmallVector<Operation *> ops;
      function.walk([&](Operation *op) {
        if (isa<arith::DivFOp>(op) ||
            isa_and_nonnull<math::MathDialect>(op->getDialect()))
          ops.push_back(op);
      });
      if (failed(applyOpPatternsGreedily(ops, frozen, config)) ||
          failed(checkNoCalls(function)))
        return signalPassFailure();
    }
  }

  /// What is left must be instructions.
  static LogicalResult checkNoCalls(func::FuncOp function) {
    auto result = function.walk([](Operation *op) {
      bool isInstruction =
          !isa_and_nonnull<math::MathDialect>(op->getDialect()) ||
          isa<math::AbsFOp, math::SqrtOp, math::CopySignOp, math::AbsIOp>(op);
      if (isInstruction)
        return WalkResult::advance();
      op->emitOpError("has no expansion on the CPU and would call a math "
                      "library");
      return WalkResult::interrupt();
    });
    return failure(result.wasInterrupted());
  }
};

} // namespace
