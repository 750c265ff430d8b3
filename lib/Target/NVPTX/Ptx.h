//===- Ptx.h - From LLVM IR to PTX text -------------------------*- C++ -*-===//
//
// The last step inside this process. What follows (ptxas, see Ptxas.h) runs
// as a program of its own.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_LIB_TARGET_NVPTX_PTX_H
#define ATTNC_LIB_TARGET_NVPTX_PTX_H

#include "mlir/IR/BuiltinOps.h"
#include "llvm/IR/Module.h"
#include "llvm/Support/Error.h"

#include <string>

namespace attnc {

struct PtxOptions {
  std::string chip = "sm_90a";
  /// The lowest PTX version that has all we use, so that a driver older than
  /// the assembler can still read the text.
  std::string features = "+ptx84";
};

/// PTX of the functions and globals of the LLVM dialect in `module`; other
/// top-level ops (the host's plan) are left out. The module is not changed.
llvm::Expected<std::string> compileToPtx(mlir::ModuleOp module,
                                         const PtxOptions &options = {});

/// The same from LLVM IR. The module is optimised in place. A failure of the
/// backend becomes an error; the module must not be used after one.
llvm::Expected<std::string> compileToPtx(llvm::Module &module,
                                         const PtxOptions &options = {});

} // namespace attnc

#endif // ATTNC_LIB_TARGET_NVPTX_PTX_H
