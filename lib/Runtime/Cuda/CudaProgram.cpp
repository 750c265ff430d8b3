//===- CudaProgram.cpp - A program on a GPU -------------------------------===//

#include "lib/Runtime/Cuda/CudaProgram.h"

#include "lib/Support/StatusError.h"

#include "mlir/IR/Builders.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;

namespace attnc {
namespace {

llvm::Error failure(const llvm::Twine &message) {
  return llvm::createStringError(message);
}

constexpr int64_t elementBytes(unsigned bits) { return (bits + 7) / 8; }

/// Bytes from the first to the last element of a view.
llvm::Expected<int64_t> spanBytes(const ViewArgument &view, Type elementType,
                                  const std::string &name) {
  int64_t last = 0;
  for (auto [size, stride] : llvm::zip_equal(view.sizes, view.strides)) {
    if (size == 0)
      return 0;
    if (stride < 0)
      return failure("argument '" + name + "' has a negative stride");
    last += (size - 1) * stride;
  }
  return (last + 1) * elementBytes(elementType.getIntOrFloatBitWidth());
}

/// Device memory that is freed with the object.
class DeviceBuffer {
public:
  explicit DeviceBuffer(const CudaDriver &driver) : driver(&driver) {}
  DeviceBuffer(DeviceBuffer &&other)
      : driver(other.driver), pointer(other.pointer) {
    other.pointer = 0;
  }
  ~DeviceBuffer() {
    if (pointer)
      driver->memFree(pointer);
  }
  llvm::Error allocate(int64_t bytes) {
    return driver->check(
        driver->memAlloc(&pointer, std::max<int64_t>(bytes, 1)),
        "allocating " + llvm::Twine(bytes) + " bytes on the device");
  }
  CuPointer address() const { return pointer; }
  void *data() const { return reinterpret_cast<void *>(pointer); }

private:
  const CudaDriver *driver;
  CuPointer pointer = 0;
};

} // namespace

//===----------------------------------------------------------------------===//
// Loading
//===----------------------------------------------------------------------===//

std::string cudaRelease(int version) {
  return std::to_string(version / 1000) + "." +
         std::to_string(version % 1000 / 10);
}

llvm::Expected<std::unique_ptr<CudaModule>>
CudaModule::load(const CudaDriver &driver, CuContext context,
                 llvm::StringRef cubin, const CudaKernels &kernels) {
  std::unique_ptr<CudaModule> result(new CudaModule(driver, context, kernels));
  if (llvm::Error error = result->describe())
    return std::move(error);
  // The driver wants the image aligned.
  std::vector<uint64_t> aligned((cubin.size() + 7) / 8);
  memcpy(aligned.data(), cubin.data(), cubin.size());
  if (llvm::Error error =
          driver.check(driver.moduleLoadData(&result->module, aligned.data()),
                       "loading machine code on the " + result->info.name))
    return std::move(error);
  for (auto &[name, recipe] : kernels.recipes)
    if (llvm::Error error = result->place(recipe))
      return std::move(error);
  for (const CudaLaunch &launch : kernels.launches)
    result->launched.push_back(&result->placed.at(launch.recipe->name));
  return std::move(result);
}

CudaModule::~CudaModule() {
  auto scope = CudaContextScope::enter(driver, context);
  if (!scope) {
    llvm::consumeError(scope.takeError());
    return;
  }
  if (placeholder)
    driver.memFree(placeholder);
  if (module)
    driver.moduleUnload(module);
}

llvm::Error CudaModule::describe() {
  CuDevice device = 0;
  if (llvm::Error error = driver.check(driver.contextGetDevice(&device),
                                       "asking for the context's device"))
    return error;
  auto described = describeDevice(driver, device);
  if (!described)
    return described.takeError();
  info = *described;
  if (llvm::Error error = driver.check(driver.contextGetId(context, &contextId),
                                       "naming the context"))
    return error;
  if (llvm::Error error = checkDevice(info, device))
    return error;
  return driver.check(driver.memAlloc(&placeholder, 256), "allocating memory");
}

llvm::Error CudaModule::place(const KernelRecipe &recipe) {
  if (recipe.sharedBytes > unsigned(info.sharedPerBlock))
    return failure("kernel '" + recipe.name + "' needs " +
                   llvm::Twine(recipe.sharedBytes) +
                   " bytes of shared memory; a block on the " + info.name +
                   " has " + llvm::Twine(info.sharedPerBlock));
  Placed &entry = placed[recipe.name];
  CuStatus status =
      driver.moduleGetFunction(&entry.function, module, recipe.name.c_str());
  if (!status)
    status = driver.functionSetAttribute(
        entry.function, cu::functionDynamicShared, recipe.sharedBytes);
  if (!status && recipe.cluster > 8)
    status = driver.functionSetAttribute(entry.function,
                                         cu::functionLargeClusters, 1);
  if (!status && recipe.persistent)
    status = driver.occupancy(&entry.blocksPerMultiprocessor, entry.function,
                              recipe.threads, recipe.sharedBytes);
  return driver.check(status, "preparing kernel '" + recipe.name + "'");
}

llvm::Expected<std::unique_ptr<CudaProgram>>
CudaProgram::create(ModuleOp module, std::string cubin, std::string toolkit) {
  std::unique_ptr<CudaProgram> program(
      new CudaProgram(std::move(cubin), std::move(toolkit)));
  if (llvm::Error error = program->readModule(module))
    return std::move(error);
  return std::move(program);
}

llvm::Expected<std::unique_ptr<CudaProgram>>
CudaProgram::load(const CudaDriver &driver, ModuleOp module,
                  llvm::StringRef image, int device) {
  auto described = describeDevice(driver, device);
  if (!described)
    return described.takeError();
  if (llvm::Error error = checkDevice(*described, device))
    return std::move(error);
  auto program = create(module, image.str());
  if (!program)
    return program.takeError();
  (*program)->driver = &driver;
  (*program)->device = device;
  auto context = driver.primaryContext(described->device);
  if (!context)
    return context.takeError();
  auto scope = CudaContextScope::enter(driver, *context);
  if (!scope)
    return scope.takeError();
  auto loaded = (*program)->moduleIn(driver, *context, nullptr);
  if (!loaded)
    return loaded.takeError();
  return program;
}

CudaProgram::~CudaProgram() {
  for (CudaModule *module = modules; module;) {
    CudaModule *next = module->next;
    delete module;
    module = next;
  }
}

llvm::Error CudaProgram::readModule(ModuleOp source) {
  for (auto kernel : source.getOps<LLVM::LLVMFuncOp>()) {
    if (!kernel->hasAttr(kKernelAttr))
      continue;
    auto recipe = readKernelRecipe(kernel);
    if (!recipe)
      return recipe.takeError();
    std::string name = recipe->name;
    kernels.recipes[name] = std::move(*recipe);
  }
  plan = ModuleOp::create(source.getLoc());
  for (auto op : source.getOps<tile::ProgramOp>()) {
    if (program)
      return failure("the module holds more than one program");
    program = cast<tile::ProgramOp>(op->clone());
    plan->getBody()->push_back(program);
  }
  if (!program)
    return failure("the module holds no tile.program to run");
  return translateLaunches();
}

llvm::Error CudaProgram::translateLaunches() {
  auto translated = PlanCode::translate(program);
  if (!translated)
    return translated.takeError();
  code = std::move(*translated);
  auto ops = program.getBody().front().getOps<tile::LaunchOp>();
  for (auto [op, launch] : llvm::zip(ops, code.launches())) {
    auto found = kernels.recipes.find(launch.kernel);
    if (found == kernels.recipes.end())
      return failure("the program launches '" + launch.kernel +
                     "', which the module does not hold");
    auto parameters =
        ParameterCode::create(found->second, launch, op.getArgs().getTypes());
    if (!parameters)
      return parameters.takeError();
    kernels.launches.push_back(
        {&found->second, launch.items, std::move(*parameters)});
  }
  return llvm::Error::success();
}

std::string CudaProgram::printPlan(ModuleOp module) {
  OwningOpRef<ModuleOp> plan = ModuleOp::create(module.getLoc());
  OpBuilder builder(plan->getBodyRegion());
  for (Operation &op : module.getOps()) {
    auto kernel = dyn_cast<LLVM::LLVMFuncOp>(op);
    if (isa<tile::ProgramOp>(op)) {
      builder.clone(op);
    } else if (kernel && kernel->hasAttr(kKernelAttr)) {
      Operation *copy = builder.cloneWithoutRegions(op);
      cast<LLVM::LLVMFuncOp>(copy).setLinkage(LLVM::Linkage::External);
    }
  }
  std::string text;
  llvm::raw_string_ostream stream(text);
  plan->print(stream);
  return text;
}

/// Machine code runs on drivers of the assembler's major release and later.
llvm::Error CudaProgram::checkDriver(const CudaDriver &driver) const {
  int version = 0, needed = 0;
  llvm::StringRef(toolkit).split('.').first.getAsInteger(10, needed);
  if (llvm::Error error = driver.check(driver.driverGetVersion(&version),
                                       "asking for the driver's version"))
    return error;
  if (version / 1000 >= needed)
    return llvm::Error::success();
  return makeStatusError(
      Status::LoadFailed,
      "the program was assembled by ptxas " + toolkit +
          ", but this machine's driver is of CUDA " + cudaRelease(version) +
          "; update the driver to one of CUDA " + llvm::Twine(needed) +
          ".0 or later, or set ATTNC_PTXAS to a ptxas of CUDA " +
          llvm::Twine(version / 1000) + " and compile anew");
}

const CudaModule *CudaProgram::find(unsigned long long contextId) const {
  CudaModule *module = modules.load(std::memory_order_acquire);
  while (module && module->contextId != contextId)
    module = module->next;
  return module;
}

namespace {
/// Lets this thread load code while another one captures a graph.
class RelaxedCapture {
public:
  explicit RelaxedCapture(const CudaDriver &driver) : driver(driver) {
    driver.exchangeCaptureMode(&mode);
  }
  ~RelaxedCapture() { driver.exchangeCaptureMode(&mode); }

private:
  const CudaDriver &driver;
  int mode = cu::captureModeRelaxed;
};
} // namespace

llvm::Expected<const CudaModule *>
CudaProgram::moduleIn(const CudaDriver &driver, CuContext context,
                      CuStream stream) {
  unsigned long long id = 0;
  if (llvm::Error error =
          driver.check(driver.contextGetId(context, &id), "naming the context"))
    return std::move(error);
  if (const CudaModule *found = find(id))
    return found;
  int capturing = 0;
  if (driver.streamIsCapturing(stream, &capturing) || capturing)
    return makeStatusError(
        Status::Cold,
        "the program is not loaded on this device yet, and the stream is "
        "being captured into a graph; warm up first: run once with these "
        "sizes, or call attnc_program_warm_up, before the capture");
  std::lock_guard<std::mutex> lock(loading);
  if (const CudaModule *found = find(id))
    return found;
  if (llvm::Error error = checkDriver(driver))
    return std::move(error);
  RelaxedCapture relaxed(driver);
  auto loaded = CudaModule::load(driver, context, cubin, kernels);
  if (!loaded)
    return loaded.takeError();
  (*loaded)->next = modules.load();
  CudaModule *module = loaded->release();
  modules.store(module, std::memory_order_release);
  return module;
}

//===----------------------------------------------------------------------===//
// Calls
//===----------------------------------------------------------------------===//

/// Kept by each thread: a call allocates nothing for them.
static PlanValues &valuesOfThread() {
  thread_local PlanValues values;
  return values;
}

llvm::Expected<std::string>
CudaProgram::preferredSchedule(llvm::ArrayRef<Argument> arguments) const {
  PlanValues &values = valuesOfThread();
  if (llvm::Error error = code.evaluate(arguments, values))
    return std::move(error);
  return code.preferredSchedule(values).str();
}

llvm::Expected<int64_t>
CudaProgram::workspaceBytes(llvm::ArrayRef<Argument> arguments) const {
  PlanValues &values = valuesOfThread();
  if (llvm::Error error = code.evaluate(arguments, values))
    return std::move(error);
  return values.workspaceBytes;
}

llvm::Error CudaProgram::bind(llvm::ArrayRef<Argument> arguments,
                              const CudaModule &module, void *workspace,
                              int64_t workspaceBytes, CudaCall &call) const {
  PlanValues &values = valuesOfThread();
  if (llvm::Error error = code.evaluate(arguments, values))
    return error;
  return module.bind(values, workspace, workspaceBytes, call);
}

unsigned CudaModule::gridSize(const KernelRecipe &recipe, const Placed &placed,
                              int64_t items) const {
  int64_t blocks = items;
  if (recipe.persistent)
    blocks = std::min<int64_t>(items,
                               int64_t(info.multiprocessors) *
                                   std::max(1, placed.blocksPerMultiprocessor));
  return llvm::alignTo(blocks, recipe.cluster);
}

llvm::Error CudaModule::bind(const PlanValues &values, void *workspace,
                             int64_t workspaceBytes, CudaCall &call) const {
  if (values.workspaceBytes > workspaceBytes)
    return failure("this call needs " + llvm::Twine(values.workspaceBytes) +
                   " bytes of workspace, got " + llvm::Twine(workspaceBytes));
  if (values.workspaceBytes &&
      reinterpret_cast<uintptr_t>(workspace) % kWorkspaceAlignment)
    return failure("the workspace must be aligned to " +
                   llvm::Twine(kWorkspaceAlignment) + " bytes, and is not");
  call.driver = &driver;
  call.count = 0;
  for (auto [launch, kernel] : llvm::zip_equal(kernels.launches, launched))
    if (llvm::Error error = bindOne(launch, *kernel, values,
                                    static_cast<char *>(workspace), call))
      return error;
  return llvm::Error::success();
}

llvm::Error CudaModule::bindOne(const CudaLaunch &launch, const Placed &kernel,
                                const PlanValues &values, char *workspace,
                                CudaCall &call) const {
  int64_t items = values.slots[launch.items];
  if (items <= 0)
    return llvm::Error::success();
  if (items > INT32_MAX)
    return failure("kernel '" + launch.recipe->name +
                   "': " + llvm::Twine(items) +
                   " work items are more than one launch can hold");
  if (call.count == call.launches.size())
    call.launches.emplace_back();
  CudaCall::One &one = call.launches[call.count];
  if (llvm::Error error = launch.parameters.fill(driver, values, workspace,
                                                 placeholder, one.parameters))
    return error;
  one.function = kernel.function;
  one.recipe = launch.recipe;
  one.grid = gridSize(*launch.recipe, kernel, items);
  ++call.count;
  return llvm::Error::success();
}

llvm::Error CudaCall::launch(CuStream stream) const {
  for (const One &one : llvm::ArrayRef(launches).take_front(count)) {
    CuLaunchAttribute attributes[2] = {};
    CuLaunchConfig config = {};
    auto add = [&](int id) -> CuLaunchAttribute & {
      CuLaunchAttribute &attribute = attributes[config.attributeCount++];
      attribute.id = id;
      return attribute;
    };
    if (one.recipe->cluster > 1) {
      CuLaunchAttribute &cluster = add(cu::launchClusterDimension);
      cluster.cluster[0] = one.recipe->cluster;
      cluster.cluster[1] = cluster.cluster[2] = 1;
    }
    // Not beside what others put on the stream.
    if (one.recipe->follows && &one != launches.data())
      add(cu::launchProgrammaticSerialization).allowed = 1;
    config.grid[0] = one.grid;
    config.block[0] = one.recipe->threads;
    config.grid[1] = config.grid[2] = config.block[1] = config.block[2] = 1;
    config.sharedBytes = one.recipe->sharedBytes;
    config.stream = stream;
    config.attributes = attributes;
    CuStatus status = driver->launchKernel(&config, one.function,
                                           one.parameters.pointers(), nullptr);
    if (status)
      return driver->check(status,
                           "launching kernel '" + one.recipe->name + "'");
  }
  return llvm::Error::success();
}

llvm::Error CudaProgram::launch(llvm::ArrayRef<Argument> arguments,
                                CuStream stream, void *workspace,
                                int64_t workspaceBytes) {
  auto context = contextOfCall(*driver, stream, device);
  if (!context)
    return context.takeError();
  auto scope = CudaContextScope::enter(*driver, *context);
  if (!scope)
    return scope.takeError();
  auto module = moduleIn(*driver, *context, stream);
  if (!module)
    return module.takeError();
  CudaCall call;
  if (llvm::Error error =
          bind(arguments, **module, workspace, workspaceBytes, call))
    return error;
  return call.launch(stream);
}

llvm::Error CudaProgram::runOnHostData(llvm::ArrayRef<Argument> arguments) {
  if (llvm::Error error = code.check(arguments))
    return error;
  const CudaDriver &driver = *this->driver;
  auto context = contextOfCall(driver, nullptr, device);
  if (!context)
    return context.takeError();
  auto scope = CudaContextScope::enter(driver, *context);
  if (!scope)
    return scope.takeError();
  std::vector<Argument> onDevice(arguments.begin(), arguments.end());
  std::vector<DeviceBuffer> buffers;
  std::vector<int64_t> sizes;
  for (auto [index, argument] : llvm::enumerate(onDevice)) {
    buffers.emplace_back(driver);
    sizes.push_back(0);
    auto *view = std::get_if<ViewArgument>(&argument);
    if (!view)
      continue;
    auto type = cast<tile::ViewType>(program.getArgumentTypes()[index]);
    auto bytes = spanBytes(*view, type.getElementType(),
                           getArgumentName(program, index));
    if (!bytes)
      return bytes.takeError();
    sizes.back() = *bytes;
    if (llvm::Error error = buffers.back().allocate(*bytes))
      return error;
    if (llvm::Error error = driver.check(
            *bytes ? driver.memcpyToDevice(buffers.back().address(), view->data,
                                           *bytes)
                   : 0,
            "copying to the device"))
      return error;
    view->data = buffers.back().data();
  }
  auto needed = workspaceBytes(onDevice);
  if (!needed)
    return needed.takeError();
  DeviceBuffer workspace(driver);
  if (llvm::Error error = workspace.allocate(*needed))
    return error;
  if (llvm::Error error = launch(onDevice, nullptr, workspace.data(), *needed))
    return error;
  if (llvm::Error error =
          driver.check(driver.streamSynchronize(nullptr), "running"))
    return error;
  for (auto [index, argument] : llvm::enumerate(arguments))
    if (sizes[index] && program.getArgAttr(index, tile::kResultAttr))
      if (llvm::Error error = driver.check(
              driver.memcpyToHost(std::get<ViewArgument>(argument).data,
                                  buffers[index].address(), sizes[index]),
              "copying a result to the host"))
        return error;
  return llvm::Error::success();
}

} // namespace attnc
