//===- TileOnlineSoftmax.cpp - Expands tile.softmax_step ------------------===//
//
// With c = log2(e), a row whose running maximum is m keeps t = c * m rounded
// once. A weight is 2^(c x - t) and alpha 2^(t - t') of the same rounded
// numbers, so that the rounding of t is in all weights of a row alike and
// leaves no trace in o. The weight of the maximum itself is exactly 1; a target
// that fuses c x - t (tile-select-formula) gives that up for an instruction.
//
// Where the logits are x = s * y with a constant s > 0, maxima are taken of y
// and multiplied by s once a row, and the weights are 2^(c s y - t): a product
// less for each logit. The maximum's own weight is then 1 but for a rounding.
//
//===----------------------------------------------------------------------===//

#include "dialects/tile/Tile.h"
#include "passes/Passes.h"

#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "mlir/IR/Matchers.h"

namespace attnc {
#define GEN_PASS_DEF_TILEONLINESOFTMAX
#include "passes/Passes.h.inc"
} // namespace attnc

using namespace mlir;
using namespace attnc;

namespace {

constexpr float kLog2e = 1.44269504f;

/// The factor s of a map that is y -> s * y with a constant s > 0, else none.
std::optional<float> getScale(tile::MapOp map) {
  if (!map || map.getInputs().size() != 1 || map.getWidth() != 1)
    return std::nullopt;
  Block &body = map.getBody().front();
  auto product =
      body.getTerminator()->getOperand(0).getDefiningOp<arith::MulFOp>();
  FloatAttr constant;
  if (!product || product.getLhs() != body.getArgument(0) ||
      !matchPattern(product.getRhs(), m_Constant(&constant)))
    return std::nullopt;
  float scale = constant.getValue().convertToFloat();
  // Infinite products of finite logits would no longer be ordered alike.
  if (!(scale > 0) || !std::isfinite(scale * kLog2e))
    return std::nullopt;
  return scale;
}

/// Takes a constant factor > 0 out of `logits`, which may be masked with -inf:
/// the map, which nothing but the step may read then, after which `logits` are
/// what it multiplied; else null.
tile::MapOp takeScale(Value &logits) {
  tile::MaskOp mask = logits.getDefiningOp<tile::MaskOp>();
  bool isMinusInfinity =
      mask && mask.getFill().isInfinity() && mask.getFill().isNegative();
  Value scaled = isMinusInfinity ? mask.getInput() : logits;
  auto map = scaled.getDefiningOp<tile::MapOp>();
  if (!getScale(map) || !logits.hasOneUse() || !scaled.hasOneUse())
    return {};
  if (isMinusInfinity)
    mask.getInputMutable().assign(map.getInputs()[0]);
  else
    logits = map.getInputs()[0];
  return map;
}

class StepExpansion {
public:
  explicit StepExpansion(tile::SoftmaxStepOp step)
      : step(step), b(step.getLoc(), step), logits(step.getInput()) {}

  void run() {
    tile::MapOp scaling = takeScale(logits);
    scale = scaling ? *getScale(scaling) : 1;
    Value max = newMax();
    Value shift = newShift(max);
    Value p = weights(shift);
    Value factor = alpha(max, shift);
    Value sum = newSum(factor, p);
    step.replaceAllUsesWith(ValueRange{p, factor, max, sum});
    step.erase();
    if (scaling)
      scaling.erase();
  }

private:
  using Body =
      llvm::function_ref<Value(ImplicitLocOpBuilder &, ValueRange elements)>;

  Value map(Type type, ValueRange inputs, Body body) {
    auto map = tile::MapOp::create(b, type, inputs, uint64_t(1));
    SmallVector<Type> arguments(inputs.size(), b.getF32Type());
    arguments.append(2, b.getI32Type());
    SmallVector<Location> locs(arguments.size(), b.getLoc());
    OpBuilder::InsertionGuard guard(b);
    Block *block = b.createBlock(&map.getBody(), {}, arguments, locs);
    tile::YieldOp::create(
        b, body(b, ValueRange(block->getArguments()).drop_back(2)));
    return map;
  }

  static Value real(ImplicitLocOpBuilder &b, float value) {
    return arith::ConstantOp::create(b, b.getF32FloatAttr(value));
  }
  static Value minusInfinity(ImplicitLocOpBuilder &b) {
    return real(b, -std::numeric_limits<float>::infinity());
  }
  static Value exp2(ImplicitLocOpBuilder &b, Value x) {
    return math::Exp2Op::create(b, x, arith::FastMathFlags::afn);
  }
  static Value mulAdd(ImplicitLocOpBuilder &b, Value x, Value y, Value z) {
    auto contract = arith::FastMathFlags::contract;
    Value product = arith::MulFOp::create(b, x, y, contract);
    return arith::AddFOp::create(b, product, z, contract);
  }

  Type row() { return step.getMax().getType(); }

  Value newMax() {
    Value block =
        tile::ReduceOp::create(b, row(), tile::Reduction::Max, logits);
    return map(row(), {step.getMax(), block},
               [&](ImplicitLocOpBuilder &b, ValueRange e) -> Value {
                 Value top = e[1];
                 if (scale != 1)
                   top = arith::MulFOp::create(b, top, real(b, scale));
                 return arith::MaximumFOp::create(b, e[0], top);
               });
  }

  /// t, or 0 where it is -inf: -inf - -inf would be NaN. No key has been seen
  /// then, or only logits that stand for -inf in users' masks (S-mask-zero).
  Value newShift(Value max) {
    return map(row(), max, [](ImplicitLocOpBuilder &b, ValueRange e) -> Value {
      Value shift = arith::MulFOp::create(b, e[0], real(b, kLog2e));
      Value empty = arith::CmpFOp::create(b, arith::CmpFPredicate::OEQ, shift,
                                          minusInfinity(b));
      return arith::SelectOp::create(b, empty, real(b, 0), shift);
    });
  }

  Value weights(Value shift) {
    return map(logits.getType(), {logits, shift},
               [&](ImplicitLocOpBuilder &b, ValueRange e) {
                 Value y =
                     arith::MulFOp::create(b, e[0], real(b, scale * kLog2e));
                 return exp2(b, arith::SubFOp::create(b, y, e[1]));
               });
  }

  /// 1 where the maximum stays, so also where it stays -inf.
  Value alpha(Value max, Value shift) {
    // In a map of its own: the product must be rounded as newShift's was.
    Value before =
        map(row(), step.getMax(), [](ImplicitLocOpBuilder &b, ValueRange e) {
          return arith::MulFOp::create(b, e[0], real(b, kLog2e));
        });
    return map(row(), {step.getMax(), max, before, shift},
               [](ImplicitLocOpBuilder &b, ValueRange e) -> Value {
                 Value factor = exp2(b, arith::SubFOp::create(b, e[2], e[3]));
                 Value stays = arith::CmpFOp::create(
                     b, arith::CmpFPredicate::OEQ, e[0], e[1]);
                 return arith::SelectOp::create(b, stays, real(b, 1), factor);
               });
  }

  Value newSum(Value factor, Value p) {
    Value block = tile::ReduceOp::create(b, row(), tile::Reduction::Add, p);
    return map(row(), {step.getSum(), factor, block},
               [](ImplicitLocOpBuilder &b, ValueRange e) {
                 return mulAdd(b, e[0], e[1], e[2]);
               });
  }

  tile::SoftmaxStepOp step;
  ImplicitLocOpBuilder b;
  /// The logits are `scale` times these.
  Value logits;
  float scale = 1;
};

struct TileOnlineSoftmax
    : attnc::impl::TileOnlineSoftmaxBase<TileOnlineSoftmax> {
  void runOnOperation() override {
    getOperation().walk([&](tile::SoftmaxStepOp step) {
      StepExpansion(step).run();
      ++numSteps;
    });
  }
};

} // namespace
