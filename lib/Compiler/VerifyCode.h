//===- VerifyCode.h - What the CPU's code generator can take ----*- C++ -*-===//

#ifndef ATTNC_LIB_COMPILER_VERIFYCODE_H
#define ATTNC_LIB_COMPILER_VERIFYCODE_H

#include "mlir/IR/BuiltinOps.h"
#include "llvm/Support/Error.h"

namespace attnc {

/// Admits a module at phase 'llvm' only if LLVM is known to generate code for
/// all of it without calling a library: its way to say no is to end the
/// process.
llvm::Error verifyCpuCode(mlir::ModuleOp module);

} // namespace attnc

#endif // ATTNC_LIB_COMPILER_VERIFYCODE_H
