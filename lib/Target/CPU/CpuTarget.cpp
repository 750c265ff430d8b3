//===- CpuTarget.cpp - Compiles and runs programs in this process ---------===//

#include "lib/Target/CPU/CpuTarget.h"

#include "lib/Program/PlanCode.h"
#include "lib/Target/CPU/CpuCodegen.h"
#include "passes/Passes.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/IR/OwningOpRef.h"
#include "mlir/Parser/Parser.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Transforms/Passes.h"
#include "llvm/ExecutionEngine/Orc/AbsoluteSymbols.h"
#include "llvm/ExecutionEngine/Orc/LLJIT.h"
#include "llvm/Support/ThreadPool.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <pthread.h>

using namespace attnc;
using namespace mlir;
using llvm::Error;
using llvm::Expected;

namespace {

/// `arguments` and `scratch` as tile-to-cpu defines them.
using KernelFunction = void (*)(const int64_t *arguments, int64_t item,
                                void *scratch);

struct Kernel {
  KernelFunction function = nullptr;
  int64_t scratchBytes = 0;
};

struct FreeDeleter {
  void operator()(void *memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<char, FreeDeleter>;

Expected<Memory> allocate(int64_t bytes) {
  size_t size = llvm::alignTo(std::max<int64_t>(bytes, 1), 64);
  void *memory = std::aligned_alloc(64, size);
  if (!memory)
    return llvm::createStringError("out of memory: the program needs " +
                                   std::to_string(bytes) +
                                   " bytes beside its arguments");
  return Memory(static_cast<char *>(memory));
}

/// Set in a forked child, which has none of the pool's threads.
std::atomic<bool> forked{false};

/// One pool for the process: its threads sleep between launches. Never
/// destroyed, since a forked child would wait for threads that it has not.
llvm::DefaultThreadPool &getPool() {
  static llvm::DefaultThreadPool *pool = [] {
    pthread_atfork(nullptr, nullptr, [] { forked = true; });
    llvm::ThreadPoolStrategy strategy;
    strategy.ThreadsRequested = std::max(getAvailableThreads() - 1, 1);
    return new llvm::DefaultThreadPool(strategy);
  }();
  return *pool;
}

} // namespace

struct CpuProgram::Implementation {
  OwningOpRef<ModuleOp> module;
  tile::ProgramOp program;
  std::unique_ptr<llvm::orc::LLJIT> jit;
  llvm::StringMap<Kernel> kernels;
  PlanCode plan;
  /// Of the plan's launches.
  std::vector<const Kernel *> launched;
  int threads = 1;

  Error lower(const CpuOptions &options);
  Error findProgram();
  Error link(std::unique_ptr<llvm::MemoryBuffer> object);
  void useThreads(int wanted);
  Error translatePlan();
  CpuCall bind(const PlanValues &values, char *workspace);
};

struct CpuCall::Implementation {
  struct One {
    const Kernel *kernel;
    int64_t items;
    std::vector<int64_t> slots;
  };
  int threads;
  std::vector<One> launches;

  Error launch(const One &one) const;
};

CpuCall::CpuCall(std::unique_ptr<Implementation> implementation)
    : implementation(std::move(implementation)) {}
CpuCall::CpuCall() = default;
CpuCall::CpuCall(CpuCall &&) = default;
CpuCall &CpuCall::operator=(CpuCall &&) = default;
CpuCall::~CpuCall() = default;

CpuProgram::CpuProgram(std::unique_ptr<Implementation> implementation)
    : implementation(std::move(implementation)) {}
CpuProgram::~CpuProgram() = default;

//===----------------------------------------------------------------------===//
// Compiling
//===----------------------------------------------------------------------===//

/// Runs the passes and turns what they say into one error.
static Error runPipeline(ModuleOp module, const std::string &text) {
  registerPasses();
  registerCanonicalizerPass();
  registerCSEPass();
  std::string message;
  llvm::raw_string_ostream stream(message);
  ScopedDiagnosticHandler handler(
      module.getContext(), [&](Diagnostic &diagnostic) {
        if (message.empty())
          stream << diagnostic.getLocation() << ": " << diagnostic;
        return success();
      });
  PassManager manager(module.getContext());
  if (failed(parsePassPipeline(text, manager, stream)) ||
      failed(manager.run(module)))
    return llvm::createStringError("cannot compile for the CPU: " + message);
  return Error::success();
}

Error CpuProgram::Implementation::lower(const CpuOptions &options) {
  auto features = getVectorFeatures(options);
  if (!features)
    return features.takeError();
  if (!module->getOps<tile::KernelOp>().empty())
    if (Error error = runPipeline(*module, getTileToCpuPipeline(*features)))
      return error;
  if (!module->getOps<func::FuncOp>().empty())
    return runPipeline(*module, getCpuToLLVMPipeline());
  return Error::success();
}

Error CpuProgram::Implementation::findProgram() {
  auto programs = llvm::to_vector(module->getOps<tile::ProgramOp>());
  if (programs.size() != 1)
    return llvm::createStringError(
        "expected a module with one tile.program, got " +
        std::to_string(programs.size()));
  program = programs.front();
  return Error::success();
}

/// Kernels may call what LLVM makes of loops that fill or copy memory, and
/// nothing else.
static Error defineRuntime(llvm::orc::LLJIT &jit) {
  using namespace llvm::orc;
  auto symbol = [](auto *function) {
    return ExecutorSymbolDef(ExecutorAddr::fromPtr(function),
                             llvm::JITSymbolFlags::Exported |
                                 llvm::JITSymbolFlags::Callable);
  };
  SymbolMap symbols;
  symbols[jit.mangleAndIntern("memset")] = symbol(&memset);
  symbols[jit.mangleAndIntern("memcpy")] = symbol(&memcpy);
  symbols[jit.mangleAndIntern("memmove")] = symbol(&memmove);
  return jit.getMainJITDylib().define(absoluteSymbols(std::move(symbols)));
}

/// Links the object file and finds the kernels that the module declares.
Error CpuProgram::Implementation::link(
    std::unique_ptr<llvm::MemoryBuffer> object) {
  auto created = llvm::orc::LLJITBuilder()
                     .setLinkProcessSymbolsByDefault(false)
                     .setPlatformSetUp(llvm::orc::setUpInactivePlatform)
                     .create();
  if (!created)
    return created.takeError();
  jit = std::move(*created);
  if (Error error = defineRuntime(*jit))
    return error;
  if (Error error = jit->addObjectFile(std::move(object)))
    return error;
  for (auto function : module->getOps<LLVM::LLVMFuncOp>()) {
    auto scratch = function->getAttrOfType<IntegerAttr>("attnc.scratch");
    if (!scratch)
      continue;
    auto address = jit->lookup(function.getSymName());
    if (!address)
      return address.takeError();
    kernels[function.getSymName()] = {address->toPtr<KernelFunction>(),
                                      scratch.getInt()};
  }
  return Error::success();
}

void CpuProgram::Implementation::useThreads(int wanted) {
  int available = getAvailableThreads();
  threads = wanted > 0 ? std::min(wanted, available) : available;
}

/// A module's kernels as declarations: all that the launch plan needs of them
/// once there is an object file.
static OwningOpRef<ModuleOp> extractPlan(ModuleOp module) {
  OwningOpRef<ModuleOp> plan = ModuleOp::create(module.getLoc());
  OpBuilder builder(plan->getBodyRegion());
  for (Operation &op : module.getOps()) {
    auto function = dyn_cast<LLVM::LLVMFuncOp>(op);
    if (!function && !isa<tile::ProgramOp>(op))
      continue;
    if (function && !function->hasAttr("attnc.scratch"))
      continue;
    Operation *copy = function ? builder.cloneWithoutRegions(op) //
                               : builder.clone(op);
    if (function)
      cast<LLVM::LLVMFuncOp>(copy).setLinkage(LLVM::Linkage::External);
  }
  return plan;
}

Expected<CpuImage> CpuProgram::emit(ModuleOp module,
                                    const CpuOptions &options) {
  DialectRegistry registry;
  registerCpuTranslations(registry);
  module.getContext()->appendDialectRegistry(registry);
  Implementation work;
  work.module = module.clone();
  if (Error error = work.lower(options))
    return std::move(error);
  if (Error error = work.findProgram())
    return std::move(error);
  auto object = emitCpuObject(*work.module, options);
  if (!object)
    return object.takeError();
  CpuImage image;
  image.object = (*object)->getBuffer().str();
  llvm::raw_string_ostream stream(image.plan);
  extractPlan(*work.module)->print(stream);
  return image;
}

void CpuProgram::registerPlanDialects(DialectRegistry &registry) {
  registry.insert<tile::TileDialect, LLVM::LLVMDialect, arith::ArithDialect,
                  math::MathDialect>();
}

Expected<std::unique_ptr<CpuProgram>>
CpuProgram::load(const CpuImage &image, MLIRContext &context, int threads) {
  std::string message;
  ScopedDiagnosticHandler handler(&context, [&](Diagnostic &diagnostic) {
    message = diagnostic.str();
    return success();
  });
  auto implementation = std::make_unique<Implementation>();
  implementation->module = parseSourceString<ModuleOp>(image.plan, &context);
  if (!implementation->module)
    return llvm::createStringError("the launch plan does not parse: " +
                                   message);
  if (Error error = implementation->findProgram())
    return std::move(error);
  if (Error error = implementation->link(
          llvm::MemoryBuffer::getMemBufferCopy(image.object, "attnc")))
    return std::move(error);
  if (Error error = implementation->translatePlan())
    return std::move(error);
  implementation->useThreads(threads);
  return std::unique_ptr<CpuProgram>(new CpuProgram(std::move(implementation)));
}

Expected<std::unique_ptr<CpuProgram>>
CpuProgram::compile(ModuleOp module, const CpuOptions &options) {
  auto image = emit(module, options);
  if (!image)
    return image.takeError();
  DialectRegistry registry;
  registerPlanDialects(registry);
  module.getContext()->appendDialectRegistry(registry);
  return load(*image, *module.getContext(), options.threads);
}

//===----------------------------------------------------------------------===//
// Running
//===----------------------------------------------------------------------===//

/// The 64-bit slots of a launch; see TileToCpu.cpp.
static std::vector<int64_t> packArguments(const PlanLaunch &launch,
                                          const PlanValues &values,
                                          char *workspace) {
  std::vector<int64_t> slots;
  const int64_t *from = values.slots.data();
  for (const PlanPlace &place : launch.arguments) {
    if (place.kind != PlanPlace::Kind::View) {
      slots.push_back(from[place.slot]);
      continue;
    }
    slots.push_back(reinterpret_cast<intptr_t>(
        PlanCode::addressOf(values, place, workspace)));
    // Sizes and strides lie side by side there too.
    slots.insert(slots.end(), from + place.size(0),
                 from + place.stride(place.rank));
  }
  return slots;
}

Error CpuProgram::Implementation::translatePlan() {
  auto translated = PlanCode::translate(program);
  if (!translated)
    return translated.takeError();
  plan = std::move(*translated);
  for (const PlanLaunch &launch : plan.launches()) {
    auto it = kernels.find(launch.kernel);
    if (it == kernels.end())
      return llvm::createStringError("the program launches '" + launch.kernel +
                                     "', which is not a kernel of the module");
    launched.push_back(&it->second);
  }
  return Error::success();
}

CpuCall CpuProgram::Implementation::bind(const PlanValues &values,
                                         char *workspace) {
  auto call = std::make_unique<CpuCall::Implementation>();
  call->threads = threads;
  for (auto [launch, kernel] : llvm::zip_equal(plan.launches(), launched))
    if (int64_t items = values.slots[launch.items];
        items > 0) // S-empty: nothing to do is not a mistake.
      call->launches.push_back(
          {kernel, items, packArguments(launch, values, workspace)});
  return CpuCall(std::move(call));
}

Error CpuCall::Implementation::launch(const One &one) const {
  int64_t workers = forked ? 1 : std::min<int64_t>(threads, one.items);
  int64_t stride = llvm::alignTo(one.kernel->scratchBytes, 64);
  Expected<Memory> scratch = allocate(stride * workers);
  if (!scratch)
    return scratch.takeError();
  // Items differ in cost, under a causal mask by much: each thread takes the
  // next one when it is done. Which thread that is changes no bit (S-bits): an
  // item's result depends on nothing but the item.
  std::atomic<int64_t> next{0};
  auto work = [&](int64_t worker) {
    char *own = scratch->get() + worker * stride;
    for (int64_t item; (item = next.fetch_add(1)) < one.items;)
      one.kernel->function(one.slots.data(), item, own);
  };
  if (workers == 1) {
    work(0);
    return Error::success();
  }
  llvm::ThreadPoolTaskGroup group(getPool());
  for (int64_t worker = 1; worker < workers; ++worker)
    group.async(work, worker);
  work(0);
  group.wait();
  return Error::success();
}

Error CpuCall::run() const {
  for (const Implementation::One &one : implementation->launches)
    if (Error error = implementation->launch(one))
      return error;
  return Error::success();
}

tile::ProgramOp CpuProgram::program() const { return implementation->program; }

/// Kept by each thread: a call allocates nothing for them.
static PlanValues &valuesOfThread() {
  thread_local PlanValues values;
  return values;
}

Error CpuProgram::run(llvm::ArrayRef<Argument> arguments) {
  PlanValues &values = valuesOfThread();
  if (Error error = implementation->plan.evaluate(arguments, values))
    return error;
  Expected<Memory> workspace = allocate(values.workspaceBytes);
  if (!workspace)
    return workspace.takeError();
  return implementation->bind(values, workspace->get()).run();
}

Error CpuProgram::run(llvm::ArrayRef<Argument> arguments, void *workspace,
                      int64_t workspaceBytes) {
  auto call = bind(arguments, workspace, workspaceBytes);
  return call ? call->run() : call.takeError();
}

Expected<CpuCall> CpuProgram::bind(llvm::ArrayRef<Argument> arguments,
                                   void *workspace, int64_t workspaceBytes) {
  PlanValues &values = valuesOfThread();
  if (Error error = implementation->plan.evaluate(arguments, values))
    return std::move(error);
  if (values.workspaceBytes > workspaceBytes ||
      (values.workspaceBytes && !workspace))
    return llvm::createStringError(
        "the workspace must have " + std::to_string(values.workspaceBytes) +
        " bytes for these arguments, got " +
        std::to_string(workspace ? workspaceBytes : 0));
  if (reinterpret_cast<uintptr_t>(workspace) % kWorkspaceAlignment &&
      values.workspaceBytes)
    return llvm::createStringError("the workspace must be aligned to " +
                                   std::to_string(kWorkspaceAlignment) +
                                   " bytes, and is not");
  return implementation->bind(values, static_cast<char *>(workspace));
}

Expected<int64_t>
CpuProgram::workspaceBytes(llvm::ArrayRef<Argument> arguments) const {
  PlanValues &values = valuesOfThread();
  if (Error error = implementation->plan.evaluate(arguments, values))
    return std::move(error);
  return values.workspaceBytes;
}
