//===- Driver.cpp - The CUDA driver, opened at run time -------------------===//

#include "lib/Runtime/Cuda/Driver.h"

#include "lib/Support/StatusError.h"

#include "llvm/ADT/Twine.h"

#include <atomic>
#include <dlfcn.h>

namespace attnc {

static uint64_t nextDriverId() {
  static std::atomic<uint64_t> count{0};
  return ++count;
}

CudaDriver::CudaDriver() : id(nextDriverId()) {}

llvm::Expected<std::unique_ptr<CudaDriver>>
CudaDriver::open(const std::string &library) {
  void *handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle)
    return llvm::createStringError(
        "no CUDA driver: " + std::string(dlerror()) +
        "; the target sm_90a needs a machine with an NVIDIA Hopper GPU and "
        "its driver, the target cpu runs everywhere");
  std::unique_ptr<CudaDriver> driver(new CudaDriver);
  std::string missing;
#define ATTNC_CUDA_RESOLVE(name, symbol, parameters)                           \
  driver->name =                                                               \
      reinterpret_cast<CuStatus(*) parameters>(dlsym(handle, symbol));         \
  if (!driver->name)                                                           \
    missing += std::string(" ") + symbol;
  ATTNC_CUDA_FUNCTIONS(ATTNC_CUDA_RESOLVE)
#undef ATTNC_CUDA_RESOLVE
  if (!missing.empty())
    return llvm::createStringError(
        library + " is too old: it lacks" + missing +
        "; a driver of CUDA 12.0 or later (525.60) is needed");
  if (llvm::Error error = driver->check(driver->init(0), "starting the driver"))
    return std::move(error);
  return driver;
}

llvm::Expected<CudaDriver *> CudaDriver::get() {
  static std::mutex mutex;
  static CudaDriver *opened = nullptr;
  std::lock_guard<std::mutex> lock(mutex);
  if (!opened) {
    auto driver = open();
    if (!driver)
      return driver.takeError();
    opened = driver->release();
  }
  return opened;
}

llvm::Error CudaDriver::check(CuStatus status, const llvm::Twine &doing) const {
  if (status == 0)
    return llvm::Error::success();
  const char *name = nullptr, *text = nullptr;
  getErrorName(status, &name);
  getErrorString(status, &text);
  return llvm::createStringError(
      "CUDA: " + doing + ": " + (text ? text : "unknown error") + " (" +
      (name ? std::string(name) : std::to_string(status)) + ")");
}

llvm::Expected<CudaDeviceInfo> describeDevice(const CudaDriver &driver,
                                              int ordinal) {
  int count = 0;
  if (llvm::Error error =
          driver.check(driver.deviceGetCount(&count), "counting devices"))
    return std::move(error);
  if (ordinal < 0 || ordinal >= count)
    return llvm::createStringError("CUDA device " + llvm::Twine(ordinal) +
                                   " does not exist: there are " +
                                   llvm::Twine(count));
  CudaDeviceInfo info;
  char name[256] = "";
  CuStatus status = driver.deviceGet(&info.device, ordinal);
  if (!status)
    status = driver.deviceGetName(name, sizeof(name) - 1, info.device);
  for (auto [attribute, value] :
       {std::pair(cu::deviceCapabilityMajor, &info.major),
        std::pair(cu::deviceCapabilityMinor, &info.minor),
        std::pair(cu::deviceMultiprocessors, &info.multiprocessors),
        std::pair(cu::deviceSharedPerBlock, &info.sharedPerBlock)})
    if (!status)
      status = driver.deviceGetAttribute(value, attribute, info.device);
  if (llvm::Error error = driver.check(status, "describing a device"))
    return std::move(error);
  info.name = name;
  return info;
}

llvm::Error checkDevice(const CudaDeviceInfo &info, int ordinal) {
  if (info.major == 9 && info.minor == 0)
    return llvm::Error::success();
  return makeStatusError(
      Status::Unsupported,
      "device " + llvm::Twine(ordinal) + " is a " + info.name +
          " of compute capability " + llvm::Twine(info.major) + "." +
          llvm::Twine(info.minor) +
          "; the target sm_90a runs on 9.0 (H100, H200, GH200) "
          "only, the target cpu runs everywhere");
}

llvm::Expected<CuContext> CudaDriver::primaryContext(CuDevice device) const {
  std::lock_guard<std::mutex> lock(mutex);
  CuContext &context = primaries[device];
  if (!context)
    if (llvm::Error error =
            check(primaryRetain(&context, device), "making a context"))
      return std::move(error);
  return context;
}

llvm::Expected<CudaContextScope>
CudaContextScope::enter(const CudaDriver &driver, CuContext context) {
  CuContext current = nullptr;
  if (driver.contextGetCurrent(&current) == 0 && current == context)
    return CudaContextScope(nullptr);
  if (llvm::Error error =
          driver.check(driver.contextPush(context), "entering the context"))
    return std::move(error);
  return CudaContextScope(&driver);
}

CudaContextScope::~CudaContextScope() {
  CuContext previous;
  if (driver)
    driver->contextPop(&previous);
}

/// 0, 1 and 2 are not streams but names of default streams.
static bool isDefaultStream(CuStream stream) {
  return reinterpret_cast<uintptr_t>(stream) <= 2;
}

llvm::Expected<CuContext> contextOfCall(const CudaDriver &driver,
                                        CuStream stream, int ordinal) {
  CuContext context = nullptr;
  if (!isDefaultStream(stream)) {
    if (llvm::Error error = driver.check(
            driver.streamGetContext(stream, &context), "asking for the context "
                                                       "of argument 'stream'"))
      return std::move(error);
    return context;
  }
  CuDevice device = 0, current = 0;
  if (llvm::Error error =
          driver.check(driver.deviceGet(&device, ordinal),
                       "finding device " + llvm::Twine(ordinal)))
    return std::move(error);
  if (driver.contextGetCurrent(&context) == 0 && context &&
      driver.contextGetDevice(&current) == 0 && current == device)
    return context;
  return driver.primaryContext(device);
}

} // namespace attnc
