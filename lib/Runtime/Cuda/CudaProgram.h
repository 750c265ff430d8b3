//===- CudaProgram.h - A program on a GPU -----------------------*- C++ -*-===//

#ifndef ATTNC_LIB_RUNTIME_CUDA_CUDAPROGRAM_H
#define ATTNC_LIB_RUNTIME_CUDA_CUDAPROGRAM_H

#include "lib/Program/PlanCode.h"
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

/// What goes on a stream: everything but the stream is decided. May be bound
/// anew, in the memory that it has.
class CudaCall {
public:
  llvm::Error launch(CuStream stream) const;

private:
  friend class CudaModule;
  struct One {
    CuFunction function = nullptr;
    const KernelRecipe *recipe = nullptr;
    unsigned grid = 0;
    ParameterBlock parameters;
  };
  const CudaDriver *driver = nullptr;
  /// The first `count` of them; the others are memory for later.
  std::vector<One> launches;
  size_t count = 0;
};

/// A launch of a plan, and how its parameters are made.
struct CudaLaunch {
  const KernelRecipe *recipe;
  unsigned items;
  ParameterCode parameters;
};

/// What the modules of a program share.
struct CudaKernels {
  std::map<std::string, KernelRecipe> recipes;
  std::vector<CudaLaunch> launches;
};

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

  /// Everything of a call but its stream, from an evaluated plan. The context
  /// must be current.
  llvm::Error bind(const PlanValues &values, void *workspace,
                   int64_t workspaceBytes, CudaCall &call) const;

private:
  friend class CudaProgram;
  struct Placed {
    CuFunction function = nullptr;
    int blocksPerMultiprocessor = 1;
  };

  CudaModule(const CudaDriver &driver, CuContext context,
             const CudaKernels &kernels)
      : driver(driver), context(context), kernels(kernels) {}
  llvm::Error describe();
  llvm::Error place(const KernelRecipe &recipe);
  llvm::Error bindOne(const CudaLaunch &launch, const Placed &kernel,
                      const PlanValues &values, char *workspace,
                      CudaCall &call) const;
  unsigned gridSize(const KernelRecipe &recipe, const Placed &placed,
                    int64_t items) const;

  const CudaDriver &driver;
  CuContext context;
  const CudaKernels &kernels;
  unsigned long long contextId = 0;
  CudaDeviceInfo info;
  CuModule module = nullptr;
  /// What a tensor map of an empty tensor points to.
  CuPointer placeholder = 0;
  std::map<std::string, Placed> placed;
  /// Of the plan's launches.
  std::vector<const Placed *> launched;
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

  /// The schedule with which the program is faster for these arguments; empty:
  /// this one's.
  llvm::Expected<std::string>
  preferredSchedule(llvm::ArrayRef<Argument> arguments) const;

  /// Bytes of workspace that a call with these arguments needs.
  llvm::Expected<int64_t>
  workspaceBytes(llvm::ArrayRef<Argument> arguments) const;

  /// Decides on everything but the stream of a call in a module of this
  /// program, whose context must be current.
  llvm::Error bind(llvm::ArrayRef<Argument> arguments, const CudaModule &module,
                   void *workspace, int64_t workspaceBytes,
                   CudaCall &call) const;

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
  llvm::Error translateLaunches();
  llvm::Error checkDriver(const CudaDriver &driver) const;
  const CudaModule *find(unsigned long long contextId) const;

  std::string cubin, toolkit;
  mlir::OwningOpRef<mlir::ModuleOp> plan;
  tile::ProgramOp program;
  PlanCode code;
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
