//===- Executor.cpp - Runs a compiled program -----------------------------===//

#include "tools/attnc/Executor.h"

#include "lib/Compiler/VerifyCode.h"
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

Expected<std::unique_ptr<Executor>>
Executor::make(Artifact &artifact, const CompileOptions &options,
               PhaseObserver observer) {
  if (options.target == Target::CPU)
    return makeCpuExecutor(artifact, options, observer);
  return makeError("--target=sm_90a: this attnc cannot launch on a GPU; use "
                   "'attnc IN.mlir --target=sm_90a --emit=stats' to compile, "
                   "or run with --target=cpu");
}
