//===- AttnRaiseIdioms.cpp - Names for spelled-out functions --------------===//

#include "dialects/attn/Attn.h"
#include "passes/Passes.h"

#include "mlir/IR/Matchers.h"
#include "mlir/IR/PatternMatch.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"

namespace attnc {
#define GEN_PASS_DEF_ATTNRAISEIDIOMS
#include "passes/Passes.h.inc"
} // namespace attnc

using namespace mlir;
using namespace attnc;

namespace {

//===----------------------------------------------------------------------===//
// Matching
//===----------------------------------------------------------------------===//

std::optional<double> constantOf(Value value) {
  FloatAttr attr;
  if (!matchPattern(value, m_Constant(&attr)))
    return std::nullopt;
  return attr.getValueAsDouble();
}

bool isConstant(Value value, double wanted) {
  std::optional<double> constant = constantOf(value);
  return constant && *constant == wanted;
}

/// The other operand, if one of the two of a commutative `Op` is `wanted`.
template <typename Op> Value otherThan(Value value, double wanted) {
  auto op = value.getDefiningOp<Op>();
  if (!op)
    return {};
  if (isConstant(op.getLhs(), wanted))
    return op.getRhs();
  if (isConstant(op.getRhs(), wanted))
    return op.getLhs();
  return {};
}

/// x, if `value` is -x.
Value negated(Value value) {
  if (auto neg = value.getDefiningOp<arith::NegFOp>())
    return neg.getOperand();
  if (auto sub = value.getDefiningOp<arith::SubFOp>())
    if (isConstant(sub.getLhs(), 0.0))
      return sub.getRhs();
  return otherThan<arith::MulFOp>(value, -1.0);
}

/// x, if `value` is exp(x).
Value exponent(Value value) {
  if (auto exp = value.getDefiningOp<math::ExpOp>())
    return exp.getOperand();
  return {};
}

/// x, if `value` is 1 + exp(x).
Value onePlusExponent(Value value) {
  Value exp = otherThan<arith::AddFOp>(value, 1.0);
  return exp ? exponent(exp) : Value();
}

/// x, if `value` is tanh(0.5 * x) or tanh(x / 2).
Value halfTanh(Value value) {
  auto tanh = value.getDefiningOp<math::TanhOp>();
  if (!tanh)
    return {};
  if (Value x = otherThan<arith::MulFOp>(tanh.getOperand(), 0.5))
    return x;
  if (auto div = tanh.getOperand().getDefiningOp<arith::DivFOp>())
    if (isConstant(div.getRhs(), 2.0))
      return div.getLhs();
  return {};
}

//===----------------------------------------------------------------------===//
// Patterns
//===----------------------------------------------------------------------===//

Value logisticOf(PatternRewriter &rewriter, Location loc, Value x) {
  return attn::LogisticOp::create(rewriter, loc, x);
}

Value negate(PatternRewriter &rewriter, Location loc, Value x) {
  if (Value inner = negated(x))
    return inner;
  return arith::NegFOp::create(rewriter, loc, x);
}

/// a / (1 + exp(x)): a * logistic(-x), and exp(x) / (1 + exp(x)).
struct RaiseQuotient : OpRewritePattern<arith::DivFOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(arith::DivFOp op,
                                PatternRewriter &rewriter) const override {
    Value x = onePlusExponent(op.getRhs());
    if (!x)
      return failure();
    Location loc = op.getLoc();
    if (exponent(op.getLhs()) == x) {
      rewriter.replaceOp(op, logisticOf(rewriter, loc, x));
      return success();
    }
    Value logistic = logisticOf(rewriter, loc, negate(rewriter, loc, x));
    if (isConstant(op.getLhs(), 1.0))
      rewriter.replaceOp(op, logistic);
    else
      rewriter.replaceOpWithNewOp<arith::MulFOp>(op, op.getLhs(), logistic);
    return success();
  }
};

/// 0.5 * tanh(x / 2) + 0.5
struct RaiseTanhSum : OpRewritePattern<arith::AddFOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(arith::AddFOp op,
                                PatternRewriter &rewriter) const override {
    Value product = otherThan<arith::AddFOp>(op, 0.5);
    Value tanh = product ? otherThan<arith::MulFOp>(product, 0.5) : Value();
    Value x = tanh ? halfTanh(tanh) : Value();
    if (!x)
      return failure();
    rewriter.replaceOp(op, logisticOf(rewriter, op.getLoc(), x));
    return success();
  }
};

/// 0.5 * (tanh(x / 2) + 1)
struct RaiseTanhProduct : OpRewritePattern<arith::MulFOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(arith::MulFOp op,
                                PatternRewriter &rewriter) const override {
    Value sum = otherThan<arith::MulFOp>(op, 0.5);
    Value tanh = sum ? otherThan<arith::AddFOp>(sum, 1.0) : Value();
    Value x = tanh ? halfTanh(tanh) : Value();
    if (!x)
      return failure();
    rewriter.replaceOp(op, logisticOf(rewriter, op.getLoc(), x));
    return success();
  }
};

/// 1 - logistic(x) cancels; logistic(-x) does not.
struct RaiseComplement : OpRewritePattern<arith::SubFOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(arith::SubFOp op,
                                PatternRewriter &rewriter) const override {
    auto logistic = op.getRhs().getDefiningOp<attn::LogisticOp>();
    if (!logistic || !isConstant(op.getLhs(), 1.0))
      return failure();
    Value x = negate(rewriter, op.getLoc(), logistic.getX());
    rewriter.replaceOp(op, logisticOf(rewriter, op.getLoc(), x));
    return success();
  }
};

/// max(x, 0) + log1p(exp(-|x|)), which overflows nowhere.
Value stableSoftplus(PatternRewriter &rewriter, Location loc, Value x) {
  Value zero = arith::ConstantOp::create(
      rewriter, loc, rewriter.getFloatAttr(x.getType(), 0.0));
  Value positive = arith::MaximumFOp::create(rewriter, loc, x, zero);
  Value abs = math::AbsFOp::create(rewriter, loc, x);
  Value neg = arith::NegFOp::create(rewriter, loc, abs);
  Value exp = math::ExpOp::create(rewriter, loc, neg);
  Value log = math::Log1pOp::create(rewriter, loc, exp);
  return arith::AddFOp::create(rewriter, loc, positive, log);
}

/// log(1 + exp(x)), and log(logistic(x)) = -softplus(-x).
struct RaiseLog : OpRewritePattern<math::LogOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(math::LogOp op,
                                PatternRewriter &rewriter) const override {
    Location loc = op.getLoc();
    if (Value x = onePlusExponent(op.getOperand())) {
      rewriter.replaceOp(op, stableSoftplus(rewriter, loc, x));
      return success();
    }
    if (auto logistic = op.getOperand().getDefiningOp<attn::LogisticOp>()) {
      Value x = negate(rewriter, loc, logistic.getX());
      Value softplus = stableSoftplus(rewriter, loc, x);
      rewriter.replaceOpWithNewOp<arith::NegFOp>(op, softplus);
      return success();
    }
    return failure();
  }
};

/// log1p(exp(x)), unless x = -|y| already.
struct RaiseLog1p : OpRewritePattern<math::Log1pOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(math::Log1pOp op,
                                PatternRewriter &rewriter) const override {
    Value x = exponent(op.getOperand());
    if (!x)
      return failure();
    if (Value positive = negated(x);
        positive && positive.getDefiningOp<math::AbsFOp>())
      return failure();
    rewriter.replaceOp(op, stableSoftplus(rewriter, op.getLoc(), x));
    return success();
  }
};

/// A product is cheaper than a quotient. Only where the reciprocal is a normal
/// number, so that nothing but one rounding changes.
struct RaiseDivision : OpRewritePattern<arith::DivFOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(arith::DivFOp op,
                                PatternRewriter &rewriter) const override {
    FloatAttr divisor;
    if (!matchPattern(op.getRhs(), m_Constant(&divisor)))
      return failure();
    llvm::APFloat reciprocal(divisor.getValue().getSemantics(), 1);
    reciprocal.divide(divisor.getValue(), llvm::APFloat::rmNearestTiesToEven);
    if (!reciprocal.isNormal() || !divisor.getValue().isNormal())
      return failure();
    Value factor = arith::ConstantOp::create(
        rewriter, op.getLoc(), FloatAttr::get(op.getType(), reciprocal));
    rewriter.replaceOpWithNewOp<arith::MulFOp>(op, op.getLhs(), factor);
    return success();
  }
};

struct RaiseSquare : OpRewritePattern<math::PowFOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(math::PowFOp op,
                                PatternRewriter &rewriter) const override {
    if (!isConstant(op.getRhs(), 2.0))
      return failure();
    rewriter.replaceOpWithNewOp<arith::MulFOp>(op, op.getLhs(), op.getLhs());
    return success();
  }
};

//===----------------------------------------------------------------------===//
// The pass
//===----------------------------------------------------------------------===//

/// Counts applied patterns.
struct CountReplacements : RewriterBase::Listener {
  unsigned count = 0;
  void notifyOperationReplaced(Operation *op, ValueRange) override {
    if (!op->hasTrait<OpTrait::ConstantLike>())
      ++count;
  }
};

struct AttnRaiseIdioms : attnc::impl::AttnRaiseIdiomsBase<AttnRaiseIdioms> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add<RaiseQuotient, RaiseTanhSum, RaiseTanhProduct, RaiseComplement,
                 RaiseLog, RaiseLog1p, RaiseDivision, RaiseSquare>(
        &getContext());
    CountReplacements counter;
    GreedyRewriteConfig config;
    config.setListener(&counter);
    // Folding could fold a user's expression before a pattern names it.
    config.enableFolding(false);
    if (failed(
            applyPatternsGreedily(getOperation(), std::move(patterns), config)))
      return signalPassFailure();
    numRaised += counter.count;
  }
};

} // namespace
