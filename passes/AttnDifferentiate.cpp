//===- AttnDifferentiate.cpp - A function becomes that of its gradients ---===//
//
// The attention's own part, what follows from o = sum_j p_j v_j, is written
// down once (AttnDifferentiate/Attention.cpp). What its regions do is
// differentiated in reverse by the op table, op by op; nothing here knows a
// score function.
//
//===----------------------------------------------------------------------===//

#include "passes/AttnDifferentiate/Differentiation.h"
#include "passes/Passes.h"

namespace attnc {
#define GEN_PASS_DEF_ATTNDIFFERENTIATE
#include "passes/Passes.h.inc"
} // namespace attnc

using namespace mlir;
using namespace attnc;

namespace {
struct AttnDifferentiate
    : attnc::impl::AttnDifferentiateBase<AttnDifferentiate> {
  void runOnOperation() override {
    func::FuncOp function = getOperation();
    if (!function->hasAttr(attn::kDifferentiateAttr))
      return;
    if (function.isExternal()) {
      function.emitError() << "'" << function.getName()
                           << "' has no body to differentiate";
      return signalPassFailure();
    }
    if (failed(gradients::Differentiation(function).run()))
      return signalPassFailure();
    ++numDifferentiated;
  }
};

} // namespace
