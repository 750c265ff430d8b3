//===- Session.h - Requests for programs, served by the cache ---*- C++ -*-===//
//
// The one place that knows the compiler, the targets and the runtime: a
// request becomes a key, the cache finds or compiles its program.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_LIB_API_SESSION_H
#define ATTNC_LIB_API_SESSION_H

#include "lib/Program/Argument.h"
#include "lib/Runtime/KernelCache.h"
#include "lib/Target/CPU/CpuTarget.h"

#include "mlir/IR/MLIRContext.h"

namespace attnc {

/// A hash of the compiler's sources and of LLVM's version.
const char *compilerFingerprint();

struct ProgramRequest {
  std::string ir;
  std::string target = "cpu", schedule, cpu, features;
};

struct ParameterInfo {
  enum class Kind { Tensor, F32, I32 };
  std::string name, elementType; ///< As MLIR spells the type: f32, bf16, i1.
  Kind kind = Kind::Tensor;
  bool isResult = false;
  std::vector<int64_t> sizes; ///< -1: any.
};

/// A program ready to run.
class RunnableProgram : public LoadedProgram {
public:
  RunnableProgram(std::unique_ptr<CpuProgram> cpu);

  const std::vector<ParameterInfo> &parameters() const {
    return parameterInfos;
  }
  CpuProgram &cpuProgram() const { return *cpu; }

private:
  std::unique_ptr<CpuProgram> cpu;
  std::vector<ParameterInfo> parameterInfos;
};

/// The process's cache of programs, made at the first use.
class Session {
public:
  static Session &instance();

  /// The key, without running a pass.
  Result<RequestKey> keyOf(const ProgramRequest &request);
  Result<const RunnableProgram *> get(const ProgramRequest &request,
                                      RequestKey &key);
  KernelCache &kernelCache() { return cache; }

private:
  friend class RequestBuilder;
  Session();

  KernelCache cache;
  // Launch plans live in one context, which may be used by several threads;
  // parsing into it is serial, since diagnostics are the context's.
  mlir::MLIRContext plans;
  std::mutex planMutex;
};

} // namespace attnc

#endif // ATTNC_LIB_API_SESSION_H
