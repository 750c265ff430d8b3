//===- CudaProgram.h - A program on a GPU -----------------------*- C++ -*-===//

#ifndef ATTNC_LIB_RUNTIME_CUDA_CUDAPROGRAM_H
#define ATTNC_LIB_RUNTIME_CUDA_CUDAPROGRAM_H

#include "lib/Program/Program.h"
#include "lib/Runtime/Cuda/Driver.h"
#include "lib/Runtime/Cuda/KernelRecipe.h"

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/OwningOpRef.h"

#include <map>

namespace attnc {

class CudaProgram {
public:
  /// Takes the plan and the recipes from `module` (phase `llvm` of sm_90a),
  /// whose context must outlive the program, and loads `image` on a device of
  /// compute capability 9.0.
  static llvm::Expected<std::unique_ptr<CudaProgram>>
  load(const CudaDriver &driver, mlir::ModuleOp module, llvm::StringRef image,
       int device = 0);
  ~CudaProgram();

  const CudaDeviceInfo &device() const { return info; }

  /// Bytes of workspace that a call with these arguments needs.
  llvm::Expected<int64_t> workspaceBytes(llvm::ArrayRef<Argument> arguments);

  /// Launches on a stream and does not wait. Data and workspace are on the
  /// device, the workspace aligned to 256 bytes.
  llvm::Error launch(llvm::ArrayRef<Argument> arguments, CuStream stream,
                     void *workspace, int64_t workspaceBytes);

  /// The whole call on data in host memory: copies every tensor to the
  /// device, launches, waits, and copies the results back.
  llvm::Error runOnHostData(llvm::ArrayRef<Argument> arguments);

private:
  struct Kernel {
    KernelRecipe recipe;
    CuFunction function = nullptr;
    /// Of the views among a launch's arguments; null for scalars.
    std::vector<mlir::Type> elementTypes;
    int blocksPerMultiprocessor = 1;
  };

  CudaProgram(const CudaDriver &driver) : driver(driver) {}
  llvm::Error openDevice(int ordinal);
  llvm::Error readModule(mlir::ModuleOp module);
  llvm::Error loadImage(llvm::StringRef image);
  llvm::Error prepare(Kernel &kernel);
  llvm::Error launchOne(const Launch &launch, CuStream stream, char *workspace);
  unsigned gridSize(const Kernel &kernel, int64_t items) const;

  const CudaDriver &driver;
  CudaDeviceInfo info;
  CuContext context = nullptr;
  CuModule module = nullptr;
  /// What a tensor map of an empty tensor points to.
  CuPointer placeholder = 0;
  mlir::OwningOpRef<mlir::ModuleOp> plan;
  tile::ProgramOp program;
  std::map<std::string, Kernel> kernels;
};

} // namespace attnc

#endif // ATTNC_LIB_RUNTIME_CUDA_CUDAPROGRAM_H
