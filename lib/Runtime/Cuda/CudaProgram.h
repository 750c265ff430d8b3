//===- CudaProgram.h - A program on a GPU -----------------------*- C++ -*-===//

#ifndef ATTNC_LIB_RUNTIME_CUDA_CUDAPROGRAM_H
#define ATTNC_LIB_RUNTIME_CUDA_CUDAPROGRAM_H

#include "lib/Program/Program.h"
#include "lib/Runtime/Cuda/Driver.h"
#include "lib/Runtime/Cuda/KernelRecipe.h"
#include "lib/Runtime/Cuda/Parameters.h"

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/OwningOpRef.h"

#include <atomic>
#include <map>
#include <mutex>

namespace attnc {

/// Machine code and its launch plan, as bytes to keep.
struct CudaImage {
  std::string cubin;
  /// MLIR text: the tile.program and a declaration of each kernel.
  std::string plan;
  /// The release of the assembler, such as 13.0.88; empty: unknown.
  std::string toolkit;
};

/// What goes on a stream: everything but the stream is decided.
class CudaCall {
public:
  llvm::Error launch(CuStream stream) const;

private:
  friend class CudaModule;
  struct One {
    CuFunction function;
    const KernelRecipe *recipe;
    unsigned grid;
    ParameterBlock parameters;
  };
  explicit CudaCall(const CudaDriver &driver) : driver(driver) {}
  const CudaDriver &driver;
  std::vector<One> launches;
};

struct CudaKernel {
  KernelRecipe recipe;
  /// Of the views among a launch's arguments; null for scalars.
  std::vector<mlir::Type> elementTypes;
};
using CudaKernels = std::map<std::string, CudaKernel>;

/// A program's machine code in one context. Its kernels must outlive it.
class CudaModule {
public:
  /// The context must be current.
  static llvm::Expected<std::unique_ptr<CudaModule>>
  load(const CudaDriver &driver, CuContext context, llvm::StringRef cubin,
       const CudaKernels &kernels);
  /// Unloads; the code of programs that stay (those of the C interface) is
  /// never unloaded.
  ~CudaModule();

  const CudaDeviceInfo &device() const { return info; }

  /// Everything of a call but its stream. The context must be current.
  llvm::Expected<CudaCall> bind(const LaunchPlan &plan, void *workspace,
                                int64_t workspaceBytes) const;

private:
  friend class CudaProgram;
  struct Placed {
    const CudaKernel *kernel = nullptr;
    CuFunction function = nullptr;
    int blocksPerMultiprocessor = 1;
  };

  CudaModule(const CudaDriver &driver, CuContext context)
      : driver(driver), context(context) {}
  llvm::Error describe();
  llvm::Error place(const CudaKernel &kernel);
  llvm::Error bindOne(const Launch &launch, char *workspace,
                      CudaCall &call) const;
  unsigned gridSize(const Placed &placed, int64_t items) const;

  const CudaDriver &driver;
  CuContext context;
  unsigned long long contextId = 0;
  CudaDeviceInfo info;
  CuModule module = nullptr;
  /// What a tensor map of an empty tensor points to.
  CuPointer placeholder = 0;
  std::map<std::string, Placed> placed;
  /// The program's next module.
  CudaModule *next = nullptr;
};

/// A program for GPUs: loaded into a context at the first call there. Any
/// function may be called from several threads.
class CudaProgram {
public:
  /// Takes the plan and the recipes from `module` (phase `llvm` of sm_90a, or
  /// the plan of a CudaImage), whose context must outlive the program. Needs
  /// no GPU.
  static llvm::Expected<std::unique_ptr<CudaProgram>>
  create(mlir::ModuleOp module, std::string cubin, std::string toolkit = "");

  /// The same, loaded on a device; what follows uses that device.
  static llvm::Expected<std::unique_ptr<CudaProgram>>
  load(const CudaDriver &driver, mlir::ModuleOp module, llvm::StringRef image,
       int device = 0);
  ~CudaProgram();

  /// The text of an image's plan.
  static std::string printPlan(mlir::ModuleOp module);

  tile::ProgramOp programOp() const { return program; }

  /// Makes sure that the program is loaded where calls on `stream` run, or
  /// fails with Status::Cold when that stream is being captured. The context
  /// must be current.
  llvm::Expected<const CudaModule *>
  moduleIn(const CudaDriver &driver, CuContext context, CuStream stream);

  /// Bytes of workspace that a call with these arguments needs.
  llvm::Expected<int64_t> workspaceBytes(llvm::ArrayRef<Argument> arguments);

  /// Launches on a stream and does not wait. Data and workspace are on the
  /// device, the workspace aligned to kWorkspaceAlignment.
  llvm::Error launch(llvm::ArrayRef<Argument> arguments, CuStream stream,
                     void *workspace, int64_t workspaceBytes);

  /// The whole call on data in host memory: copies every tensor to the
  /// device, launches, waits, and copies the results back.
  llvm::Error runOnHostData(llvm::ArrayRef<Argument> arguments);

private:
  CudaProgram(std::string cubin, std::string toolkit)
      : cubin(std::move(cubin)), toolkit(std::move(toolkit)) {}
  llvm::Error readModule(mlir::ModuleOp module);
  llvm::Error checkDriver(const CudaDriver &driver) const;
  const CudaModule *find(unsigned long long contextId) const;

  std::string cubin, toolkit;
  mlir::OwningOpRef<mlir::ModuleOp> plan;
  tile::ProgramOp program;
  CudaKernels kernels;
  /// What `load` chose.
  const CudaDriver *driver = nullptr;
  int device = 0;

  // A list that only grows, read without a lock.
  std::atomic<CudaModule *> modules{nullptr};
  std::mutex loading;
};

/// The release of CUDA that a driver's version number stands for: "12.4".
std::string cudaRelease(int version);

} // namespace attnc

#endif // ATTNC_LIB_RUNTIME_CUDA_CUDAPROGRAM_H
