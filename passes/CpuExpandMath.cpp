//===- CpuExpandMath.cpp - Elementary functions as polynomials ------------===//
//
// No call of a math library may remain in a kernel: it would cost more than
// the products. exp2, on which the formulas of the op table build, is
// expanded here; see each pattern for its method.
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

namespace attnc {
#define GEN_PASS_DEF_CPUEXPANDMATH
#include "passes/Passes.h.inc"
} // namespace attnc

using namespace mlir;
using namespace attnc;

namespace {

/// f32 arithmetic on a type, scalar or vector.
struct Real {
  cpu::Code &code;
  Type real, whole;

  Real(cpu::Code &code, Type type)
      : code(code), real(type),
        whole(code.withElement(type, code.getI32Type())) {}

  Value f(double value) { return code.real(real, value); }
  Value add(Value a, Value b) { return arith::AddFOp::create(code, a, b); }
  Value sub(Value a, Value b) { return arith::SubFOp::create(code, a, b); }
  Value mul(Value a, Value b) { return arith::MulFOp::create(code, a, b); }
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
};

bool isF32(Type type) { return getElementTypeOrSelf(type).isF32(); }

/// 2^x = 2^n * 2^f with n the nearest integer: adding 1.5 * 2^23 leaves n in
/// the low bits, |f| <= 1/2, and 2^n is added to the exponent. Below 2^-126
/// the result is 0. The polynomial's relative error is 6e-9.
struct ExpandExp2 : OpRewritePattern<math::Exp2Op> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(math::Exp2Op op,
                                PatternRewriter &rewriter) const override {
    if (!isF32(op.getType()))
      return failure();
    cpu::Code code(op.getLoc(), rewriter);
    Real r(code, op.getType());
    Value x = op.getOperand();
    Value shifted = r.add(x, r.f(0x1.8p23));
    Value fraction = r.sub(x, r.sub(shifted, r.f(0x1.8p23)));
    Value power = r.polynomial(
        fraction, {1.5403530393381609e-04, 1.3333558146428443e-03,
                   9.6181291076284772e-03, 5.5504108664821580e-02,
                   2.4022650695910071e-01, 6.9314718055994531e-01, 1.0});
    Value exponent =
        arith::ShLIOp::create(code, r.bits(shifted), code.integer(r.whole, 23));
    Value result =
        r.number(arith::AddIOp::create(code, r.bits(power), exponent));
    Value low =
        arith::CmpFOp::create(code, arith::CmpFPredicate::OLT, x, r.f(-126.0));
    Value high =
        arith::CmpFOp::create(code, arith::CmpFPredicate::OGE, x, r.f(128.0));
    result = arith::SelectOp::create(code, low, r.f(0.0), result);
    result = arith::SelectOp::create(code, high, r.f(INFINITY), result);
    rewriter.replaceOp(op, result);
    return success();
  }
};

struct ExpandFma : OpRewritePattern<math::FmaOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(math::FmaOp op,
                                PatternRewriter &rewriter) const override {
    rewriter.replaceOpWithNewOp<LLVM::FMulAddOp>(op, op.getA(), op.getB(),
                                                 op.getC());
    return success();
  }
};

struct CpuExpandMath : attnc::impl::CpuExpandMathBase<CpuExpandMath> {
  using CpuExpandMathBase::CpuExpandMathBase;

  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add<ExpandExp2, ExpandFma>(&getContext());
    populateMathPolynomialApproximationPatterns(
        patterns, MathPolynomialApproximationOptions());
    FrozenRewritePatternSet frozen(std::move(patterns));
    for (auto function : getOperation().getOps<func::FuncOp>())
      if (failed(applyPatternsGreedily(function, frozen)))
        return signalPassFailure();
  }
};

} // namespace
