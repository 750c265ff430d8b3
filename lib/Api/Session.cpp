//===- Session.cpp - Requests for programs, served by the cache -----------===//

#include "lib/Api/Session.h"

#include "lib/Compiler/Compiler.h"
#include "lib/Program/Program.h"
#include "lib/Runtime/Sha256.h"

#include "llvm/Target/TargetMachine.h"

using namespace attnc;
using namespace mlir;

static Failure toFailure(Status status, llvm::Error error) {
  return {status, llvm::toString(std::move(error))};
}

//===----------------------------------------------------------------------===//
// Programs
//===----------------------------------------------------------------------===//

static ParameterInfo describe(tile::ProgramOp program, unsigned index) {
  ParameterInfo info;
  info.name = getArgumentName(program, index);
  info.isResult = bool(program.getArgAttr(index, tile::kResultAttr));
  Type type = program.getArgumentTypes()[index];
  if (auto view = dyn_cast<tile::ViewType>(type)) {
    for (int64_t size : view.getShape())
      info.sizes.push_back(ShapedType::isDynamic(size) ? -1 : size);
    type = view.getElementType();
  } else {
    info.kind =
        type.isF32() ? ParameterInfo::Kind::F32 : ParameterInfo::Kind::I32;
  }
  llvm::raw_string_ostream(info.elementType) << type;
  return info;
}

RunnableProgram::RunnableProgram(std::unique_ptr<CpuProgram> program)
    : cpu(std::move(program)) {
  tile::ProgramOp op = cpu->program();
  for (unsigned k = 0; k < op.getArgumentTypes().size(); ++k)
    parameterInfos.push_back(describe(op, k));
}

namespace attnc {
/// Compiles and loads one request.
class RequestBuilder : public ProgramBuilder {
public:
  RequestBuilder(Session &session, const ProgramRequest &request)
      : session(session), request(request) {}

  Result<Entry> compile(PhaseTimes &times) override;
  Result<std::unique_ptr<LoadedProgram>> load(const Entry &entry) override;
  std::string commandToAdd() const override;

private:
  Session &session;
  const ProgramRequest &request;
};
} // namespace attnc

Result<Entry> RequestBuilder::compile(PhaseTimes &times) {
  CompileOptions options;
  options.schedule = request.schedule;
  options.cpu = request.cpu;
  options.features = request.features;
  static std::once_flag registered;
  std::call_once(registered, [] { registerAllPasses(); });
  auto context = makeContext();
  double start = monotonicSeconds();
  auto artifact = parseArtifact(request.ir, "<ir>", *context, options);
  if (!artifact)
    return toFailure(Status::CompileFailed, artifact.takeError());
  times.emplace_back("parse", monotonicSeconds() - start);
  auto observe = [&](const PhaseStep &step, const Artifact &,
                     double seconds) -> llvm::Error {
    times.emplace_back(step.name.str(), seconds);
    return llvm::Error::success();
  };
  if (llvm::Error error =
          attnc::compile(*artifact, options, Phase::LLVM, observe))
    return toFailure(Status::CompileFailed, std::move(error));
  start = monotonicSeconds();
  CpuOptions cpu{request.cpu, request.features, 0};
  auto image = CpuProgram::emit(*artifact->module, cpu);
  if (!image)
    return toFailure(Status::CompileFailed, image.takeError());
  times.emplace_back("object", monotonicSeconds() - start);
  Entry entry;
  entry.metadata["target"] = request.target;
  entry.sections.emplace_back("plan", std::move(image->plan));
  entry.sections.emplace_back("object", std::move(image->object));
  return entry;
}

Result<std::unique_ptr<LoadedProgram>>
RequestBuilder::load(const Entry &entry) {
  const std::string *plan = entry.section("plan");
  const std::string *object = entry.section("object");
  if (!plan || !object)
    return Failure{Status::LoadFailed,
                   "expected the sections 'plan' and 'object'"};
  std::lock_guard<std::mutex> lock(session.planMutex);
  auto program = CpuProgram::load({*object, *plan}, session.plans);
  if (!program)
    return toFailure(Status::LoadFailed, program.takeError());
  return std::unique_ptr<LoadedProgram>(
      new RunnableProgram(std::move(*program)));
}

std::string RequestBuilder::commandToAdd() const {
  std::string command = "attnc cache add IR.mlir --target=" + request.target;
  if (!request.schedule.empty())
    command += " --schedule=" + request.schedule;
  if (!request.cpu.empty())
    command += " --mcpu=" + request.cpu;
  if (!request.features.empty())
    command += " --mattr=" + request.features;
  return command + " (IR.mlir: the text of the request)";
}

//===----------------------------------------------------------------------===//
// The session
//===----------------------------------------------------------------------===//

static DialectRegistry planDialects() {
  DialectRegistry registry;
  CpuProgram::registerPlanDialects(registry);
  return registry;
}

Session::Session()
    : cache(KernelCacheOptions::fromEnvironment(compilerFingerprint(),
                                                EventSink::fromEnvironment()),
            EventSink::fromEnvironment()),
      plans(planDialects()) {
  plans.loadAllAvailableDialects();
}

Session &Session::instance() {
  // Never destroyed: code stays loaded while threads may run it.
  static Session *session = new Session;
  return *session;
}

/// What code depends on: the processor and the exact list of its features, or
/// a shared home directory would bring code that this machine cannot run.
static llvm::Expected<std::pair<std::string, std::string>>
processorOf(const ProgramRequest &request) {
  auto machine = createCpuTargetMachine({request.cpu, request.features, 0});
  if (!machine)
    return machine.takeError();
  return std::pair<std::string, std::string>(
      (*machine)->getTargetCPU().str(),
      Sha256::hexOf(
          std::string_view((*machine)->getTargetFeatureString().data(),
                           (*machine)->getTargetFeatureString().size()))
          .substr(0, 16));
}

Result<RequestKey> Session::keyOf(const ProgramRequest &request) {
  if (request.target != "cpu")
    return Failure{Status::Unsupported,
                   "target is '" + request.target +
                       "'; this library runs programs on 'cpu'"};
  // The machine does not change while the process lives. (Asking an Expected
  // whether it holds a value writes to it: once, under the static's lock.)
  static auto *host = [] {
    auto *found = new auto(processorOf(ProgramRequest()));
    (void)bool(*found);
    return found;
  }();
  std::pair<std::string, std::string> processor;
  if (request.cpu.empty() && request.features.empty() && *host) {
    processor = **host;
  } else {
    auto found = processorOf(request);
    if (!found)
      return toFailure(Status::InvalidArgument, found.takeError());
    processor = *found;
  }
  return KeyBuilder()
      .add("ir", Sha256::hexOf(request.ir).substr(0, 32))
      .add("target", request.target)
      .add("cpu", processor.first)
      .add("features", processor.second)
      .add("schedule", request.schedule.empty() ? "auto" : request.schedule)
      .build();
}

Result<const RunnableProgram *> Session::get(const ProgramRequest &request,
                                             RequestKey &key) {
  Result<RequestKey> found = keyOf(request);
  if (!found)
    return found.failure();
  key = *found;
  RequestBuilder builder(*this, request);
  Result<const LoadedProgram *> program = cache.get(key, builder);
  if (!program)
    return program.failure();
  return static_cast<const RunnableProgram *>(*program);
}
