//===- CpuTarget.h - Compiles and runs programs in this process -*- C++ -*-===//

#ifndef ATTNC_LIB_TARGET_CPU_CPUTARGET_H
#define ATTNC_LIB_TARGET_CPU_CPUTARGET_H

#include "dialects/tile/Tile.h"
#include "lib/Program/Argument.h"
#include "lib/Target/CPU/CpuFeatures.h"

#include "mlir/IR/BuiltinOps.h"
#include "llvm/ADT/ArrayRef.h"
#include "llvm/Support/Error.h"

#include <memory>

namespace attnc {

/// Machine code of a program and its launch plan, as bytes to keep.
struct CpuImage {
  std::string object; ///< An object file.
  /// MLIR text: the tile.program and a declaration of each kernel.
  std::string plan;
};

/// A call of a program whose arguments are decided. Cheap to run again.
class CpuCall {
public:
  /// Of nothing; only to be assigned to.
  CpuCall();
  CpuCall(CpuCall &&);
  CpuCall &operator=(CpuCall &&);
  ~CpuCall();

  /// Runs all launches and returns when they are done.
  llvm::Error run() const;

private:
  friend class CpuProgram;
  struct Implementation;
  explicit CpuCall(std::unique_ptr<Implementation> implementation);
  std::unique_ptr<Implementation> implementation;
};

/// A program as machine code. Its MLIR context must outlive it. `run` may be
/// called from several threads at once.
class CpuProgram {
public:
  /// From a module at phase 'formula', 'vector' or 'llvm' that holds one
  /// tile.program; the module is left as it was.
  static llvm::Expected<std::unique_ptr<CpuProgram>>
  compile(mlir::ModuleOp module, const CpuOptions &options = {});

  /// The same in two steps, the first one of which takes the time.
  static llvm::Expected<CpuImage> emit(mlir::ModuleOp module,
                                       const CpuOptions &options = {});
  /// The context must know the dialects of a plan (`registerPlanDialects`).
  static llvm::Expected<std::unique_ptr<CpuProgram>>
  load(const CpuImage &image, mlir::MLIRContext &context, int threads = 0);
  static void registerPlanDialects(mlir::DialectRegistry &registry);

  ~CpuProgram();

  tile::ProgramOp program() const;

  /// Runs all launches and returns when they are done.
  llvm::Error run(llvm::ArrayRef<Argument> arguments);

  /// The same with a workspace of the caller's, aligned to
  /// kWorkspaceAlignment; an error if it is too small.
  llvm::Error run(llvm::ArrayRef<Argument> arguments, void *workspace,
                  int64_t workspaceBytes);
  /// The same without running; the program must outlive the call.
  llvm::Expected<CpuCall> bind(llvm::ArrayRef<Argument> arguments,
                               void *workspace, int64_t workspaceBytes);
  llvm::Expected<int64_t>
  workspaceBytes(llvm::ArrayRef<Argument> arguments) const;

private:
  struct Implementation;
  explicit CpuProgram(std::unique_ptr<Implementation> implementation);
  std::unique_ptr<Implementation> implementation;
};

} // namespace attnc

#endif // ATTNC_LIB_TARGET_CPU_CPUTARGET_H
