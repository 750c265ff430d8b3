//===- TileOnlineSoftmax.cpp - Expands tile.softmax_step ------------------===//
//
// With c = log2(e), a row whose running maximum is m keeps t = c * m rounded
// once. A weight is 2^(c x - t) and alpha 2^(t - t') of the same rounded
// numbers, so that the rounding of t is in all weights of a row alike and
// leaves no trace in o. The weight of the maximum itself is exactly 1; a target
// that fuses c x - t (tile-select-formula) gives that up for an instruction.
//
//===----------------------------------------------------------------------===//

#include "dialects/tile/Tile.h"
#include "passes/Passes.h"

#include "mlir/IR/ImplicitLocOpBuilder.h"

namespace attnc {
#define GEN_PASS_DEF_TILEONLINESOFTMAX
#include "passes/Passes.h.inc"
} // namespace attnc

using namespace mlir;
using namespace attnc;

namespace {

constexpr float kLog2e = 1.44269504f;

class StepExpansion {
public:
  explicit StepExpansion(tile::SoftmaxStepOp step)
      : step(step), b(step.getLoc(), step) {}

  void run() {
    Value max = newMax();
    Value shift = newShift(max);
    Value p = weights(shift);
    Value factor = alpha(max, shift);
    Value sum = newSum(factor, p);
    step.replaceAllUsesWith(ValueRange{p, factor, max, sum});
    step.erase();
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
        tile::ReduceOp::create(b, row(), tile::Reduction::Max, step.getInput());
    return map(row(), {step.getMax(), block},
               [](ImplicitLocOpBuilder &b, ValueRange e) -> Value {
                 return arith::MaximumFOp::create(b, e[0], e[1]);
               });
  }

  /// t, or 0 where no key has been seen: -inf - -inf would be NaN.
  Value newShift(Value max) {
    return map(row(), max, [](ImplicitLocOpBuilder &b, ValueRange e) -> Value {
      Value shift = arith::MulFOp::create(b, e[0], real(b, kLog2e));
      Value empty = arith::CmpFOp::create(b, arith::CmpFPredicate::OEQ, e[0],
                                          minusInfinity(b));
      return arith::SelectOp::create(b, empty, real(b, 0), shift);
    });
  }

  Value weights(Value shift) {
    return map(step.getInput().getType(), {step.getInput(), shift},
               [](ImplicitLocOpBuilder &b, ValueRange e) {
                 Value y = arith::MulFOp::create(b, e[0], real(b, kLog2e));
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
