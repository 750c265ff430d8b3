//===- Executor.cpp - Runs a compiled program -----------------------------===//

#include "tools/attnc/Executor.h"

#include "lib/Compiler/VerifyCode.h"
#include "lib/Runtime/Cuda/CudaProgram.h"
#include "lib/Support/File.h"
#include "lib/Target/CPU/CpuTarget.h"

using namespace attnc;
using namespace llvm;

namespace {
class CpuExecutor : public Executor {
public:
  explicit CpuExecutor(std::unique_ptr<CpuProgram> program)
      : program(std::move(program)) {}
  Error run(ArrayRef<Argument> arguments) override {
    return program->run(arguments);
  }

private:
  std::unique_ptr<CpuProgram> program;
};
} // namespace

static Expected<std::unique_ptr<Executor>>
makeCpuExecutor(Artifact &artifact, const CompileOptions &options,
                PhaseObserver observer) {
  if (Error error = compile(artifact, options, Phase::LLVM, observer))
    return std::move(error);
  if (Error error = verifyCpuCode(*artifact.module))
    return std::move(error);
  auto program =
      CpuProgram::compile(*artifact.module, {options.cpu, options.features, 0});
  if (!program)
    return program.takeError();
  return std::make_unique<CpuExecutor>(std::move(*program));
}

namespace {
class CudaExecutor : public Executor {
public:
  explicit CudaExecutor(std::unique_ptr<CudaProgram> program)
      : program(std::move(program)) {}
  Error run(ArrayRef<Argument> arguments) override {
    return program->runOnHostData(arguments);
  }
  StringRef timingNote() const override {
    return "with the copies to the GPU and back";
  }

private:
  std::unique_ptr<CudaProgram> program;
};
} // namespace

static Expected<std::unique_ptr<Executor>>
makeCudaExecutor(Artifact &artifact, const CompileOptions &options,
                 PhaseObserver observer) {
  // Before seconds go into a compile: is there a GPU at all?
  auto driver = CudaDriver::get();
  if (!driver)
    return makeError("--target=sm_90a: " + toString(driver.takeError()));
  if (Error error = compile(artifact, options, Phase::Cubin, observer))
    return std::move(error);
  auto program = CudaProgram::load(**driver, *artifact.module, artifact.text);
  if (!program)
    return program.takeError();
  return std::make_unique<CudaExecutor>(std::move(*program));
}

Expected<std::unique_ptr<Executor>>
Executor::make(Artifact &artifact, const CompileOptions &options,
               PhaseObserver observer) {
  return options.target == Target::CPU
             ? makeCpuExecutor(artifact, options, observer)
             : makeCudaExecutor(artifact, options, observer);
}
