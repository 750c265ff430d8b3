//===- Runnable.h - Programs of the C interface, loaded ---------*- C++ -*-===//

#ifndef ATTNC_LIB_API_RUNNABLE_H
#define ATTNC_LIB_API_RUNNABLE_H

#include "dialects/tile/Tile.h"
#include "lib/Program/Argument.h"
#include "lib/Runtime/KernelCache.h"

#include "mlir/IR/MLIRContext.h"
#include "llvm/ADT/STLFunctionalExtras.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/Support/Error.h"

#include <functional>
#include <map>
#include <mutex>

namespace attnc {

struct ParameterInfo {
  enum class Kind { Tensor, F32, I32 };
  std::string name, elementType; ///< As MLIR spells the type: f32, bf16, i1.
  Kind kind = Kind::Tensor;
  bool isResult = false;
  std::vector<int64_t> sizes; ///< -1: any.
};

/// The numbers that a call is made of, in order: a call with the same numbers
/// is the same call.
using CallNumbers = llvm::SmallVector<uint64_t, 64>;

struct RunRequest {
  CallNumbers &numbers;
  /// Converts and checks the arguments; asked only for a call that is new.
  llvm::function_ref<llvm::Expected<llvm::ArrayRef<Argument>>()> arguments;
  void *workspace;
  int64_t workspaceBytes;
  void *stream;
  int device;
};

/// Memory that a program reads and writes; freed with the object.
class ProgramMemory {
public:
  virtual ~ProgramMemory();
  virtual llvm::Expected<void *> allocate(size_t bytes) = 0;
  virtual llvm::Error write(void *to, const void *from, size_t bytes) = 0;
  /// Waits for what was put on the null stream.
  virtual llvm::Error finish() = 0;
};

/// A program ready to run. All functions may be called from several threads.
class RunnableProgram : public LoadedProgram {
public:
  const std::vector<ParameterInfo> &parameters() const {
    return parameterInfos;
  }
  /// What the assembler could not do well; empty: nothing.
  const std::string &remark() const { return assemblerRemark; }
  virtual const char *target() const = 0;
  virtual llvm::Expected<int64_t>
  workspaceBytes(llvm::ArrayRef<Argument> arguments) const = 0;
  virtual llvm::Error warmUp(int device) const = 0;
  virtual llvm::Error run(const RunRequest &request) const = 0;
  virtual llvm::Expected<std::unique_ptr<ProgramMemory>>
  memory(int device) const = 0;

  /// How to get the same program with another schedule, for calls that are
  /// faster with it (`tile.prefer`); null if it cannot be had. Before any call.
  using Get = std::function<const RunnableProgram *(const std::string &)>;
  void setGet(Get function) { get = std::move(function); }

protected:
  explicit RunnableProgram(tile::ProgramOp program);
  /// The program with this schedule, made at the first call that asks; this
  /// one if there is no schedule or no such program.
  const RunnableProgram &withSchedule(llvm::StringRef schedule) const;
  /// Those that were made.
  std::vector<const RunnableProgram *> madeOthers() const;
  std::string assemblerRemark;

private:
  std::vector<ParameterInfo> parameterInfos;
  Get get;
  /// By schedule; null: cannot be had. What is there stays.
  mutable std::map<std::string, const RunnableProgram *, std::less<>> others;
  mutable std::mutex othersMutex;
};

/// Makes an entry of the cache runnable. `plans` must know the dialects of
/// `registerPlanDialects` and outlive the program; one thread at a time.
llvm::Expected<std::unique_ptr<RunnableProgram>>
loadRunnable(const Entry &entry, mlir::MLIRContext &plans);
void registerPlanDialects(mlir::DialectRegistry &registry);

} // namespace attnc

#endif // ATTNC_LIB_API_RUNNABLE_H
