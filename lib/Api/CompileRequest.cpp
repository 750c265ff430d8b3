//===- CompileRequest.cpp - From a request to an entry --------------------===//

#include "lib/Api/CompileRequest.h"

#include "lib/Compiler/Compiler.h"
#include "lib/Compiler/VerifyCode.h"
#include "lib/Runtime/Cuda/CudaProgram.h"
#include "lib/Support/StatusError.h"
#include "lib/Target/CPU/CpuTarget.h"
#include "lib/Target/NVPTX/Ptxas.h"

#include "mlir/IR/MLIRContext.h"

using namespace attnc;
using namespace mlir;

static llvm::Error addCpuCode(Artifact &artifact, const CompileOptions &options,
                              Entry &entry) {
  // LLVM's way to say no is to end the process.
  if (llvm::Error error = verifyCpuCode(*artifact.module))
    return error;
  auto image =
      CpuProgram::emit(*artifact.module, {options.cpu, options.features, 0});
  if (!image)
    return image.takeError();
  auto features = requiredFeatures({options.cpu, options.features, 0});
  if (!features)
    return features.takeError();
  entry.metadata["requires.features"] = *features;
  entry.sections.emplace_back("plan", std::move(image->plan));
  entry.sections.emplace_back("object", std::move(image->object));
  return llvm::Error::success();
}

static llvm::Error addCudaCode(Artifact &artifact, Entry &entry) {
  auto version = ptxasVersion();
  if (!version)
    return version.takeError();
  entry.metadata["ptxas"] = *version;
  // Of a schedule that was asked for and is not clean.
  if (!artifact.warnings.empty())
    entry.metadata["remark"] =
        llvm::StringRef(artifact.warnings).split('\n').first.str();
  entry.metadata["requires.driver"] =
      version->substr(0, version->find('.')) + ".0";
  entry.sections.emplace_back("plan", CudaProgram::printPlan(*artifact.module));
  entry.sections.emplace_back("cubin", std::move(artifact.text));
  return llvm::Error::success();
}

static CompileOptions optionsOf(const ProgramRequest &request) {
  CompileOptions options;
  options.target = *parseTarget(request.target);
  options.schedule = request.schedule;
  options.cpu = request.cpu;
  options.features = request.features;
  options.anyLayout = request.anyLayout;
  registerAllPasses();
  return options;
}

Result<std::string> attnc::emitRequest(const ProgramRequest &request,
                                       llvm::StringRef phase) {
  auto failed = [](Status status, llvm::Error error) {
    return toFailure(status, std::move(error));
  };
  CompileOptions options = optionsOf(request);
  auto step = findPhase(options.target, phase);
  if (!step)
    return failed(Status::InvalidArgument, step.takeError());
  auto context = makeContext();
  auto artifact = parseArtifact(request.ir, "<ir>", *context, options);
  if (!artifact)
    return failed(Status::CompileFailed, artifact.takeError());
  if (llvm::Error error = attnc::compile(*artifact, options, (*step)->phase))
    return failed(Status::CompileFailed, std::move(error));
  return artifact->print();
}

Result<Entry> attnc::compileRequest(const ProgramRequest &request,
                                    PhaseTimes &times) {
  auto failed = [](llvm::Error error) {
    return toFailure(Status::CompileFailed, std::move(error));
  };
  CompileOptions options = optionsOf(request);
  auto context = makeContext();
  double start = monotonicSeconds();
  auto artifact = parseArtifact(request.ir, "<ir>", *context, options);
  if (!artifact)
    return failed(artifact.takeError());
  if (!artifact->module)
    return Failure{Status::CompileFailed,
                   "<ir>: the input has left MLIR; expected phase llvm or an "
                   "earlier one"};
  times.emplace_back("parse", monotonicSeconds() - start);
  auto observe = [&](const PhaseStep &step, const Artifact &,
                     double seconds) -> llvm::Error {
    times.emplace_back(step.name.str(), seconds);
    return llvm::Error::success();
  };
  bool cuda = options.target == Target::SM90a;
  if (llvm::Error error = attnc::compile(
          *artifact, options, cuda ? Phase::Cubin : Phase::LLVM, observe))
    return failed(std::move(error));
  Entry entry;
  entry.metadata["target"] = request.target;
  start = monotonicSeconds();
  if (llvm::Error error = cuda ? addCudaCode(*artifact, entry)
                               : addCpuCode(*artifact, options, entry))
    return failed(std::move(error));
  times.emplace_back(cuda ? "plan" : "object", monotonicSeconds() - start);
  return entry;
}
