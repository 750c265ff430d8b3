//===- Runnable.cpp - Programs of the C interface, loaded -----------------===//

#include "lib/Api/Runnable.h"

#include "lib/Program/PlanCode.h"
#include "lib/Runtime/Cuda/CudaProgram.h"
#include "lib/Support/StatusError.h"
#include "lib/Target/CPU/CpuTarget.h"

#include "mlir/Parser/Parser.h"

using namespace attnc;
using namespace mlir;
using llvm::Error;
using llvm::Expected;

//===----------------------------------------------------------------------===//
// Parameters
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

RunnableProgram::RunnableProgram(tile::ProgramOp program) {
  for (unsigned k = 0; k < program.getArgumentTypes().size(); ++k)
    parameterInfos.push_back(describe(program, k));
}

const RunnableProgram &RunnableProgram::withSchedule(StringRef schedule) const {
  if (schedule.empty() || !get)
    return *this;
  std::lock_guard<std::mutex> lock(othersMutex);
  auto [found, isNew] = others.try_emplace(schedule.str(), nullptr);
  if (isNew)
    found->second = get(found->first);
  return found->second ? *found->second : *this;
}

std::vector<const RunnableProgram *> RunnableProgram::madeOthers() const {
  std::vector<const RunnableProgram *> made;
  std::lock_guard<std::mutex> lock(othersMutex);
  for (auto &[schedule, other] : others)
    if (other)
      made.push_back(other);
  return made;
}

//===----------------------------------------------------------------------===//
// Calls that come again
//===----------------------------------------------------------------------===//

namespace {
/// The bound calls of this thread, found by all their numbers. A model makes
/// the same calls over and over; a miss costs one evaluation of the plan.
template <typename Call> class CallTable {
public:
  static CallTable &ofThread() {
    // Made at a thread's first call.
    thread_local CallTable table;
    return table;
  }

  /// The call with these numbers; if there is none, `bind` makes it of
  /// another, whose memory it may use.
  template <typename Bind>
  Expected<const Call *> get(ArrayRef<uint64_t> numbers, Bind bind) {
    Slot &slot = slots[hashOf(numbers) % count];
    if (ArrayRef<uint64_t>(slot.numbers) == numbers)
      return &slot.call;
    slot.numbers.clear(); // no call has no numbers
    if (Error error = bind(slot.call))
      return std::move(error);
    slot.numbers.assign(numbers.begin(), numbers.end());
    return &slot.call;
  }

private:
  static constexpr size_t count = 128;
  struct Slot {
    std::vector<uint64_t> numbers;
    Call call;
  };

  static uint64_t hashOf(ArrayRef<uint64_t> numbers) {
    uint64_t hash = numbers.size();
    for (uint64_t number : numbers)
      hash = (hash ^ number) * 0x9e3779b97f4a7c15u;
    return hash >> 32;
  }

  std::unique_ptr<Slot[]> slots{new Slot[count]};
};
} // namespace

//===----------------------------------------------------------------------===//
// On the CPU
//===----------------------------------------------------------------------===//

ProgramMemory::~ProgramMemory() = default;

namespace {
class HostMemory : public ProgramMemory {
public:
  ~HostMemory() override {
    for (void *block : blocks)
      std::free(block);
  }
  Expected<void *> allocate(size_t bytes) override {
    void *block =
        std::aligned_alloc(64, llvm::alignTo(std::max<size_t>(bytes, 1), 64));
    if (!block)
      return llvm::createStringError("out of memory");
    blocks.push_back(block);
    return block;
  }
  Error write(void *to, const void *from, size_t bytes) override {
    memcpy(to, from, bytes);
    return Error::success();
  }
  Error finish() override { return Error::success(); }

private:
  std::vector<void *> blocks;
};

class CpuRunnable : public RunnableProgram {
public:
  explicit CpuRunnable(std::unique_ptr<CpuProgram> program)
      : RunnableProgram(program->program()), program(std::move(program)) {}

  const char *target() const override { return "cpu"; }
  Expected<int64_t>
  workspaceBytes(ArrayRef<Argument> arguments) const override {
    return program->workspaceBytes(arguments);
  }
  Error warmUp(int) const override { return Error::success(); }
  Error run(const RunRequest &request) const override;
  Expected<std::unique_ptr<ProgramMemory>> memory(int) const override {
    return std::make_unique<HostMemory>();
  }

private:
  std::unique_ptr<CpuProgram> program;
};
} // namespace

Error CpuRunnable::run(const RunRequest &request) const {
  if (request.stream)
    return llvm::createStringError("argument 'stream': expected null for "
                                   "target 'cpu', got a stream");
  auto call = CallTable<CpuCall>::ofThread().get(
      request.numbers, [&](CpuCall &call) -> Error {
        auto arguments = request.arguments();
        if (!arguments)
          return arguments.takeError();
        auto bound = program->bind(*arguments, request.workspace,
                                   request.workspaceBytes);
        if (!bound)
          return bound.takeError();
        call = std::move(*bound);
        return Error::success();
      });
  return call ? (*call)->run() : call.takeError();
}

//===----------------------------------------------------------------------===//
// On a GPU
//===----------------------------------------------------------------------===//

namespace {
class CudaRunnable : public RunnableProgram {
public:
  CudaRunnable(std::unique_ptr<CudaProgram> program, std::string remark)
      : RunnableProgram(program->programOp()), program(std::move(program)) {
    assemblerRemark = std::move(remark);
  }

  const char *target() const override { return "sm_90a"; }
  Expected<int64_t>
  workspaceBytes(ArrayRef<Argument> arguments) const override {
    auto chosen = programFor(arguments);
    return chosen ? (*chosen)->program->workspaceBytes(arguments)
                  : chosen.takeError();
  }
  Error warmUp(int device) const override;
  Error run(const RunRequest &request) const override;
  Expected<std::unique_ptr<ProgramMemory>> memory(int device) const override;

private:
  Expected<const CudaRunnable *> programFor(ArrayRef<Argument> arguments) const;
  Error bind(const RunRequest &request, const CudaDriver &driver,
             CuContext context, CudaCall &call) const;

  std::unique_ptr<CudaProgram> program;
};
} // namespace

/// Opened at the first call that needs it; a later try may succeed.
static Expected<CudaDriver *> openDriver() {
  static std::atomic<CudaDriver *> opened{nullptr};
  if (CudaDriver *driver = opened.load(std::memory_order_acquire))
    return driver;
  auto driver = CudaDriver::get();
  if (!driver)
    return makeStatusError(Status::Unsupported,
                           llvm::toString(driver.takeError()));
  opened = *driver;
  return driver;
}

namespace {
class DeviceMemory : public ProgramMemory {
public:
  DeviceMemory(const CudaDriver &driver, CuContext context)
      : driver(driver), context(context) {}
  ~DeviceMemory() override {
    auto scope = CudaContextScope::enter(driver, context);
    if (!scope) {
      llvm::consumeError(scope.takeError());
      return;
    }
    for (CuPointer block : blocks)
      driver.memFree(block);
  }
  Expected<void *> allocate(size_t bytes) override {
    auto scope = CudaContextScope::enter(driver, context);
    if (!scope)
      return scope.takeError();
    CuPointer block = 0;
    if (Error error =
            driver.check(driver.memAlloc(&block, std::max<size_t>(bytes, 1)),
                         "allocating memory"))
      return std::move(error);
    blocks.push_back(block);
    return reinterpret_cast<void *>(block);
  }
  Error write(void *to, const void *from, size_t bytes) override {
    auto scope = CudaContextScope::enter(driver, context);
    if (!scope)
      return scope.takeError();
    return driver.check(
        driver.memcpyToDevice(reinterpret_cast<CuPointer>(to), from, bytes),
        "copying to the device");
  }
  Error finish() override {
    auto scope = CudaContextScope::enter(driver, context);
    if (!scope)
      return scope.takeError();
    return driver.check(driver.streamSynchronize(nullptr), "running");
  }

private:
  const CudaDriver &driver;
  CuContext context;
  std::vector<CuPointer> blocks;
};
} // namespace

Expected<std::unique_ptr<ProgramMemory>>
CudaRunnable::memory(int device) const {
  auto driver = openDriver();
  if (!driver)
    return driver.takeError();
  auto context = contextOfCall(**driver, nullptr, device);
  if (!context)
    return context.takeError();
  return std::make_unique<DeviceMemory>(**driver, *context);
}

Error CudaRunnable::warmUp(int device) const {
  auto driver = openDriver();
  if (!driver)
    return driver.takeError();
  auto described = describeDevice(**driver, device);
  if (!described)
    return makeStatusError(Status::InvalidArgument,
                           llvm::toString(described.takeError()));
  auto context = contextOfCall(**driver, nullptr, device);
  if (!context)
    return context.takeError();
  auto scope = CudaContextScope::enter(**driver, *context);
  if (!scope)
    return scope.takeError();
  if (Error error = program->moduleIn(**driver, *context, nullptr).takeError())
    return error;
  for (const RunnableProgram *other : madeOthers())
    if (Error error = other->warmUp(device))
      return error;
  return Error::success();
}

/// The program that is faster for these arguments.
Expected<const CudaRunnable *>
CudaRunnable::programFor(ArrayRef<Argument> arguments) const {
  auto schedule = program->preferredSchedule(arguments);
  if (!schedule)
    return schedule.takeError();
  return static_cast<const CudaRunnable *>(&withSchedule(*schedule));
}

Error CudaRunnable::bind(const RunRequest &request, const CudaDriver &driver,
                         CuContext context, CudaCall &call) const {
  auto arguments = request.arguments();
  if (!arguments)
    return arguments.takeError();
  auto chosen = programFor(*arguments);
  if (!chosen)
    return chosen.takeError();
  CudaProgram &own = *(*chosen)->program;
  auto module =
      own.moduleIn(driver, context, static_cast<CuStream>(request.stream));
  if (!module)
    return module.takeError();
  return own.bind(*arguments, **module, request.workspace,
                  request.workspaceBytes, call);
}

Error CudaRunnable::run(const RunRequest &request) const {
  auto driver = openDriver();
  if (!driver)
    return driver.takeError();
  auto stream = static_cast<CuStream>(request.stream);
  auto context = contextOfCall(**driver, stream, request.device);
  if (!context)
    return context.takeError();
  auto scope = CudaContextScope::enter(**driver, *context);
  if (!scope)
    return scope.takeError();
  auto module = program->moduleIn(**driver, *context, stream);
  if (!module)
    return module.takeError();
  request.numbers.push_back(reinterpret_cast<uintptr_t>(*module));
  auto call = CallTable<CudaCall>::ofThread().get(
      request.numbers, [&](CudaCall &call) -> Error {
        return bind(request, **driver, *context, call);
      });
  if (!call)
    return call.takeError();
  if (Error error = (*call)->launch(stream))
    return makeStatusError(Status::RunFailed, llvm::toString(std::move(error)));
  return Error::success();
}

//===----------------------------------------------------------------------===//
// Loading
//===----------------------------------------------------------------------===//

void attnc::registerPlanDialects(DialectRegistry &registry) {
  CpuProgram::registerPlanDialects(registry);
}

static Error missing(const char *sections) {
  return llvm::createStringError("expected the sections %s", sections);
}

static Expected<std::unique_ptr<RunnableProgram>> loadCpu(const Entry &entry,
                                                          MLIRContext &plans) {
  const std::string *plan = entry.section("plan");
  const std::string *object = entry.section("object");
  if (!plan || !object)
    return missing("'plan' and 'object'");
  auto program = CpuProgram::load({*object, *plan}, plans);
  if (!program)
    return program.takeError();
  return std::make_unique<CpuRunnable>(std::move(*program));
}

static Expected<std::unique_ptr<RunnableProgram>> loadCuda(const Entry &entry,
                                                           MLIRContext &plans) {
  const std::string *plan = entry.section("plan");
  const std::string *cubin = entry.section("cubin");
  if (!plan || !cubin)
    return missing("'plan' and 'cubin'");
  auto metadata = [&](const char *name) {
    auto found = entry.metadata.find(name);
    return found == entry.metadata.end() ? "" : found->second;
  };
  std::string message;
  ScopedDiagnosticHandler handler(&plans, [&](Diagnostic &diagnostic) {
    message = diagnostic.str();
    return success();
  });
  auto module = parseSourceString<ModuleOp>(*plan, &plans);
  if (!module)
    return llvm::createStringError("the launch plan does not parse: " +
                                   message);
  auto program = CudaProgram::create(*module, *cubin, metadata("ptxas"));
  if (!program)
    return program.takeError();
  return std::make_unique<CudaRunnable>(std::move(*program),
                                        metadata("remark"));
}

Expected<std::unique_ptr<RunnableProgram>>
attnc::loadRunnable(const Entry &entry, MLIRContext &plans) {
  auto target = entry.metadata.find("target");
  bool cuda = target != entry.metadata.end() && target->second == "sm_90a";
  return cuda ? loadCuda(entry, plans) : loadCpu(entry, plans);
}
