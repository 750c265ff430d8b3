//===- Passes.h - Every pass of the compiler --------------------*- C++ -*-===//

#ifndef ATTNC_PASSES_PASSES_H
#define ATTNC_PASSES_PASSES_H

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Pass/Pass.h"
#include "mlir/Pass/PassRegistry.h"

namespace attnc {

#define GEN_PASS_DECL
#include "passes/Passes.h.inc"

/// `registerPasses()` makes all of them known to a command line.
#define GEN_PASS_REGISTRATION
#include "passes/Passes.h.inc"

} // namespace attnc

#endif // ATTNC_PASSES_PASSES_H
