//===- CLauncher.h - A program as one C file --------------------*- C++ -*-===//
//
// Machine code and launch plan as C that needs the CUDA driver and nothing
// else: for those who cannot ship this library.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_LIB_RUNTIME_CUDA_CLAUNCHER_H
#define ATTNC_LIB_RUNTIME_CUDA_CLAUNCHER_H

#include "mlir/IR/BuiltinOps.h"
#include "llvm/Support/Error.h"

namespace attnc {

/// From a module at phase 'llvm' of sm_90a and its machine code. The error
/// names what the plan holds that has no C here.
llvm::Expected<std::string> writeCLauncher(mlir::ModuleOp module,
                                           llvm::StringRef cubin);

} // namespace attnc

#endif // ATTNC_LIB_RUNTIME_CUDA_CLAUNCHER_H
