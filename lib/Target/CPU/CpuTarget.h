//===- CpuTarget.h - Compiles and runs programs in this process -*- C++ -*-===//

#ifndef ATTNC_LIB_TARGET_CPU_CPUTARGET_H
#define ATTNC_LIB_TARGET_CPU_CPUTARGET_H

#include "lib/Program/Argument.h"
#include "lib/Target/CPU/CpuFeatures.h"

#include "mlir/IR/BuiltinOps.h"
#include "llvm/ADT/ArrayRef.h"
#include "llvm/Support/Error.h"

#include <memory>

namespace attnc {

/// A program as machine code. Its MLIR context must outlive it. `run` may be
/// called from several threads at once.
class CpuProgram {
public:
  /// From a module at phase 'formula', 'vector' or 'llvm' that holds one
  /// tile.program; the module is left as it was.
  static llvm::Expected<std::unique_ptr<CpuProgram>>
  compile(mlir::ModuleOp module, const CpuOptions &options = {});

  ~CpuProgram();

  /// Runs all launches and returns when they are done.
  llvm::Error run(llvm::ArrayRef<Argument> arguments);

private:
  struct Implementation;
  explicit CpuProgram(std::unique_ptr<Implementation> implementation);
  std::unique_ptr<Implementation> implementation;
};

} // namespace attnc

#endif // ATTNC_LIB_TARGET_CPU_CPUTARGET_H
