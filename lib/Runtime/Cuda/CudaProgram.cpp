//===- CudaProgram.cpp - A program on a GPU -------------------------------===//

#include "lib/Runtime/Cuda/CudaProgram.h"

#include "lib/Runtime/Cuda/Parameters.h"

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
  DeviceBuffer(const CudaDriver &driver) : driver(&driver) {}
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

llvm::Expected<std::unique_ptr<CudaProgram>>
CudaProgram::load(const CudaDriver &driver, ModuleOp module,
                  llvm::StringRef image, int device) {
  std::unique_ptr<CudaProgram> program(new CudaProgram(driver));
  if (llvm::Error error = program->openDevice(device))
    return std::move(error);
  auto scope = CudaContextScope::enter(driver, program->context);
  if (!scope)
    return scope.takeError();
  if (llvm::Error error = program->readModule(module))
    return std::move(error);
  if (llvm::Error error = program->loadImage(image))
    return std::move(error);
  return std::move(program);
}

CudaProgram::~CudaProgram() {
  if (!context)
    return;
  {
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
  driver.primaryRelease(info.device);
}

llvm::Error CudaProgram::openDevice(int ordinal) {
  auto described = describeDevice(driver, ordinal);
  if (!described)
    return described.takeError();
  info = *described;
  if (info.major != 9 || info.minor != 0)
    return failure("device " + llvm::Twine(ordinal) + " is a " + info.name +
                   " of compute capability " + llvm::Twine(info.major) + "." +
                   llvm::Twine(info.minor) +
                   "; the target sm_90a runs on 9.0 (H100, H200, GH200) "
                   "only, the target cpu runs everywhere");
  if (llvm::Error error = driver.check(
          driver.primaryRetain(&context, info.device), "making a context"))
    return error;
  auto scope = CudaContextScope::enter(driver, context);
  if (!scope)
    return scope.takeError();
  return driver.check(driver.memAlloc(&placeholder, 256), "allocating memory");
}

llvm::Error CudaProgram::readModule(ModuleOp source) {
  for (auto kernel : source.getOps<LLVM::LLVMFuncOp>()) {
    if (!kernel->hasAttr(kKernelAttr))
      continue;
    auto recipe = readKernelRecipe(kernel);
    if (!recipe)
      return recipe.takeError();
    std::string name = recipe->name;
    kernels[name].recipe = std::move(*recipe);
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
  for (auto launch : program.getBody().front().getOps<tile::LaunchOp>()) {
    auto found = kernels.find(launch.getKernel().str());
    if (found == kernels.end())
      return failure("the program launches '" + launch.getKernel() +
                     "', which the module does not hold");
    std::vector<Type> types;
    for (Value argument : launch.getArgs()) {
      auto view = dyn_cast<tile::ViewType>(argument.getType());
      types.push_back(view ? view.getElementType() : Type());
    }
    found->second.elementTypes = std::move(types);
  }
  return llvm::Error::success();
}

llvm::Error CudaProgram::loadImage(llvm::StringRef image) {
  // The driver wants the image aligned.
  std::vector<uint64_t> aligned((image.size() + 7) / 8);
  memcpy(aligned.data(), image.data(), image.size());
  if (llvm::Error error =
          driver.check(driver.moduleLoadData(&module, aligned.data()),
                       "loading machine code on the " + info.name))
    return error;
  for (auto &[name, kernel] : kernels)
    if (llvm::Error error = prepare(kernel))
      return error;
  return llvm::Error::success();
}

llvm::Error CudaProgram::prepare(Kernel &kernel) {
  const KernelRecipe &recipe = kernel.recipe;
  if (recipe.sharedBytes > unsigned(info.sharedPerBlock))
    return failure("kernel '" + recipe.name + "' needs " +
                   llvm::Twine(recipe.sharedBytes) +
                   " bytes of shared memory; a block on the " + info.name +
                   " has " + llvm::Twine(info.sharedPerBlock));
  CuStatus status =
      driver.moduleGetFunction(&kernel.function, module, recipe.name.c_str());
  if (!status)
    status = driver.functionSetAttribute(
        kernel.function, cu::functionDynamicShared, recipe.sharedBytes);
  if (!status && recipe.cluster > 8)
    status = driver.functionSetAttribute(kernel.function,
                                         cu::functionLargeClusters, 1);
  if (!status && recipe.persistent)
    status = driver.occupancy(&kernel.blocksPerMultiprocessor, kernel.function,
                              recipe.threads, recipe.sharedBytes);
  return driver.check(status, "preparing kernel '" + recipe.name + "'");
}

llvm::Expected<int64_t>
CudaProgram::workspaceBytes(llvm::ArrayRef<Argument> arguments) {
  auto planned = planProgram(program, arguments);
  if (!planned)
    return planned.takeError();
  return planned->workspaceBytes;
}

unsigned CudaProgram::gridSize(const Kernel &kernel, int64_t items) const {
  int64_t blocks = items;
  if (kernel.recipe.persistent)
    blocks = std::min<int64_t>(items,
                               int64_t(info.multiprocessors) *
                                   std::max(1, kernel.blocksPerMultiprocessor));
  return llvm::alignTo(blocks, kernel.recipe.cluster);
}

llvm::Error CudaProgram::launch(llvm::ArrayRef<Argument> arguments,
                                CuStream stream, void *workspace,
                                int64_t workspaceBytes) {
  auto planned = planProgram(program, arguments);
  if (!planned)
    return planned.takeError();
  if (planned->workspaceBytes > workspaceBytes)
    return failure("this call needs " + llvm::Twine(planned->workspaceBytes) +
                   " bytes of workspace, got " + llvm::Twine(workspaceBytes));
  auto scope = CudaContextScope::enter(driver, context);
  if (!scope)
    return scope.takeError();
  for (const Launch &launch : planned->launches)
    if (llvm::Error error =
            launchOne(launch, stream, static_cast<char *>(workspace)))
      return error;
  return llvm::Error::success();
}

llvm::Error CudaProgram::launchOne(const Launch &launch, CuStream stream,
                                   char *workspace) {
  if (launch.items <= 0)
    return llvm::Error::success();
  if (launch.items > INT32_MAX)
    return failure("kernel '" + launch.kernel +
                   "': " + llvm::Twine(launch.items) +
                   " work items are more than one launch can hold");
  const Kernel &kernel = kernels.at(launch.kernel);
  const KernelRecipe &recipe = kernel.recipe;
  auto parameters = packParameters(driver, recipe, launch, kernel.elementTypes,
                                   workspace, placeholder);
  if (!parameters)
    return parameters.takeError();
  CuLaunchAttribute cluster = {};
  cluster.id = cu::launchClusterDimension;
  cluster.cluster[0] = recipe.cluster;
  cluster.cluster[1] = cluster.cluster[2] = 1;
  CuLaunchConfig config = {};
  config.grid[0] = gridSize(kernel, launch.items);
  config.block[0] = recipe.threads;
  config.grid[1] = config.grid[2] = config.block[1] = config.block[2] = 1;
  config.sharedBytes = recipe.sharedBytes;
  config.stream = stream;
  config.attributes = &cluster;
  config.attributeCount = recipe.cluster > 1 ? 1 : 0;
  return driver.check(driver.launchKernel(&config, kernel.function,
                                          parameters->pointers(), nullptr),
                      "launching kernel '" + launch.kernel + "'");
}

llvm::Error CudaProgram::runOnHostData(llvm::ArrayRef<Argument> arguments) {
  if (llvm::Error error = checkArguments(program, arguments))
    return error;
  auto scope = CudaContextScope::enter(driver, context);
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
