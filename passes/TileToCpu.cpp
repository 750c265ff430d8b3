//===- TileToCpu.cpp - tile kernels to loops over vectors -----------------===//
//
// Each tile.kernel becomes
//
//   func.func @name(%arguments: !llvm.ptr, %item: i64, %scratch: !llvm.ptr)
//
// which computes one work item: `arguments` is an array of 64-bit slots (a
// view of rank r is a pointer, r sizes and r strides, anything else one
// slot), `scratch` is memory of this thread, 64-byte aligned and as large as
// the attribute `attnc.scratch` says. TileToCpu/ holds the emitter.
//
//===----------------------------------------------------------------------===//

#include "passes/Passes.h"
#include "passes/TileToCpu/KernelEmitter.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"

namespace attnc {
#define GEN_PASS_DEF_TILETOCPU
#include "passes/Passes.h.inc"
} // namespace attnc

using namespace mlir;
using namespace attnc;

namespace {
struct TileToCpu : attnc::impl::TileToCpuBase<TileToCpu> {
  using TileToCpuBase::TileToCpuBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    if (lanes != 4 && lanes != 8 && lanes != 16) {
      module.emitError() << "tile-to-cpu: lanes must be 4, 8 or 16, got "
                         << lanes.getValue();
      return signalPassFailure();
    }
    SymbolTable symbols(module);
    auto kernels = llvm::to_vector(module.getOps<tile::KernelOp>());
    for (tile::KernelOp kernel : kernels) {
      cpu::KernelEmitter emitter(kernel, {lanes, registers}, symbols);
      FailureOr<func::FuncOp> function = emitter.emit();
      if (failed(function))
        return signalPassFailure();
      symbols.remove(kernel);
      kernel.erase();
      symbols.insert(*function);
      ++numKernels;
    }
  }
};
} // namespace
