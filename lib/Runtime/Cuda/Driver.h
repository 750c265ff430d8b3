//===- Driver.h - The CUDA driver, opened at run time -----------*- C++ -*-===//
//
// One build serves machines with and without a GPU: libcuda is opened when
// it is first asked for, and the few declarations needed stand here (the
// driver's binary interface is stable).
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_LIB_RUNTIME_CUDA_DRIVER_H
#define ATTNC_LIB_RUNTIME_CUDA_DRIVER_H

#include "lib/Runtime/Cuda/DriverTypes.h"

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>

namespace attnc {

/// name, name of the symbol, parameters
#define ATTNC_CUDA_FUNCTIONS(F)                                                \
  F(init, "cuInit", (unsigned flags))                                          \
  F(getErrorName, "cuGetErrorName", (CuStatus status, const char **text))      \
  F(getErrorString, "cuGetErrorString", (CuStatus status, const char **text))  \
  F(driverGetVersion, "cuDriverGetVersion", (int *version))                    \
  F(deviceGetCount, "cuDeviceGetCount", (int *count))                          \
  F(deviceGet, "cuDeviceGet", (CuDevice * device, int ordinal))                \
  F(deviceGetName, "cuDeviceGetName",                                          \
    (char *name, int length, CuDevice device))                                 \
  F(deviceGetAttribute, "cuDeviceGetAttribute",                                \
    (int *value, int attribute, CuDevice device))                              \
  F(primaryRetain, "cuDevicePrimaryCtxRetain",                                 \
    (CuContext * context, CuDevice device))                                    \
  F(primaryRelease, "cuDevicePrimaryCtxRelease_v2", (CuDevice device))         \
  F(contextPush, "cuCtxPushCurrent_v2", (CuContext context))                   \
  F(contextPop, "cuCtxPopCurrent_v2", (CuContext * context))                   \
  F(contextGetCurrent, "cuCtxGetCurrent", (CuContext * context))               \
  F(contextGetDevice, "cuCtxGetDevice", (CuDevice * device))                   \
  F(contextGetId, "cuCtxGetId", (CuContext context, unsigned long long *id))   \
  F(streamGetContext, "cuStreamGetCtx",                                        \
    (CuStream stream, CuContext * context))                                    \
  F(streamIsCapturing, "cuStreamIsCapturing", (CuStream stream, int *status))  \
  F(exchangeCaptureMode, "cuThreadExchangeStreamCaptureMode", (int *mode))     \
  F(streamSynchronize, "cuStreamSynchronize", (CuStream stream))               \
  F(moduleLoadData, "cuModuleLoadData",                                        \
    (CuModule * module, const void *image))                                    \
  F(moduleUnload, "cuModuleUnload", (CuModule module))                         \
  F(moduleGetFunction, "cuModuleGetFunction",                                  \
    (CuFunction * function, CuModule module, const char *name))                \
  F(functionSetAttribute, "cuFuncSetAttribute",                                \
    (CuFunction function, int attribute, int value))                           \
  F(occupancy, "cuOccupancyMaxActiveBlocksPerMultiprocessor",                  \
    (int *blocks, CuFunction function, int threads, size_t sharedBytes))       \
  F(launchKernel, "cuLaunchKernelEx",                                          \
    (const CuLaunchConfig *config, CuFunction function, void **parameters,     \
     void **extra))                                                            \
  F(tensorMapEncode, "cuTensorMapEncodeTiled",                                 \
    (CuTensorMap * map, int type, uint32_t rank, void *address,                \
     const uint64_t *sizes, const uint64_t *strides, const uint32_t *box,      \
     const uint32_t *elementStrides, int interleave, int swizzle,              \
     int promotion, int fill))                                                 \
  F(tensorMapReplaceAddress, "cuTensorMapReplaceAddress",                      \
    (CuTensorMap * map, void *address))                                        \
  F(memAlloc, "cuMemAlloc_v2", (CuPointer * pointer, size_t bytes))            \
  F(memFree, "cuMemFree_v2", (CuPointer pointer))                              \
  F(memcpyToDevice, "cuMemcpyHtoD_v2",                                         \
    (CuPointer to, const void *from, size_t bytes))                            \
  F(memcpyToHost, "cuMemcpyDtoH_v2", (void *to, CuPointer from, size_t bytes))

class CudaDriver {
public:
  /// Opens and initialises a driver library; the default is the system's.
  static llvm::Expected<std::unique_ptr<CudaDriver>>
  open(const std::string &library = "libcuda.so.1");
  /// The system's, opened once. It is never closed.
  static llvm::Expected<CudaDriver *> get();

#define ATTNC_CUDA_DECLARE(name, symbol, parameters)                           \
  CuStatus(*name) parameters = nullptr;
  ATTNC_CUDA_FUNCTIONS(ATTNC_CUDA_DECLARE)
#undef ATTNC_CUDA_DECLARE

  /// The primary context of a device, retained once and never given back.
  llvm::Expected<CuContext> primaryContext(CuDevice device) const;

  /// Another number for each opened driver: what is kept of one is not taken
  /// for another's.
  const uint64_t id;

  /// An error that says what was being done, or success.
  llvm::Error check(CuStatus status, const llvm::Twine &doing) const;

private:
  CudaDriver();
  mutable std::mutex mutex;
  mutable std::map<CuDevice, CuContext> primaries;
};

struct CudaDeviceInfo {
  CuDevice device = 0;
  std::string name;
  int major = 0, minor = 0;
  int multiprocessors = 0;
  int sharedPerBlock = 0;
};

/// What device `ordinal` is.
llvm::Expected<CudaDeviceInfo> describeDevice(const CudaDriver &driver,
                                              int ordinal);

/// An error unless sm_90a code runs on it.
llvm::Error checkDevice(const CudaDeviceInfo &info, int ordinal);

/// Makes a context current as long as the object lives, if it is not already.
class CudaContextScope {
public:
  static llvm::Expected<CudaContextScope> enter(const CudaDriver &driver,
                                                CuContext context);
  CudaContextScope(CudaContextScope &&other) : driver(other.driver) {
    other.driver = nullptr;
  }
  ~CudaContextScope();

private:
  explicit CudaContextScope(const CudaDriver *driver) : driver(driver) {}
  /// Null: nothing to undo.
  const CudaDriver *driver;
};

/// The context that a call belongs to: that of its stream; on a default
/// stream the current one if it is of device `ordinal`, else the primary one.
llvm::Expected<CuContext> contextOfCall(const CudaDriver &driver,
                                        CuStream stream, int ordinal);

} // namespace attnc

#endif // ATTNC_LIB_RUNTIME_CUDA_DRIVER_H
