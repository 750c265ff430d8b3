//===- FakeDriver.cpp - A CUDA driver without a GPU -----------------------===//

#include "FakeDriver.h"

#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

using namespace attnc;

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT FakeDriver fakeDriver;
FakeDriver fakeDriver;

constexpr int noContext = 201;

EXPORT int cuInit(unsigned) { return 0; }
EXPORT int cuGetErrorName(int, const char **text) {
  *text = "FAKE_ERROR";
  return 0;
}
EXPORT int cuGetErrorString(int, const char **text) {
  *text = "a fake error";
  return 0;
}
EXPORT int cuDriverGetVersion(int *version) {
  *version = fakeDriver.version;
  return 0;
}
EXPORT int cuDeviceGetCount(int *count) {
  *count = fakeDriver.devices;
  return 0;
}
EXPORT int cuDeviceGet(int *device, int ordinal) {
  *device = ordinal;
  return 0;
}
EXPORT int cuDeviceGetName(char *name, int length, int) {
  strncpy(name, "Fake GPU", length);
  return 0;
}
EXPORT int cuDeviceGetAttribute(int *value, int attribute, int) {
  *value = attribute == cu::deviceCapabilityMajor   ? fakeDriver.major
           : attribute == cu::deviceCapabilityMinor ? fakeDriver.minor
           : attribute == cu::deviceMultiprocessors ? fakeDriver.multiprocessors
                                                    : fakeDriver.sharedPerBlock;
  return 0;
}
EXPORT int cuDevicePrimaryCtxRetain(FakeContext **context, int device) {
  ++fakeDriver.retained;
  *context = &fakeDriver.primary[device];
  return 0;
}
EXPORT int cuDevicePrimaryCtxRelease_v2(int) {
  --fakeDriver.retained;
  return 0;
}

/// The thread's stack of contexts.
static thread_local std::vector<FakeContext *> contexts;

EXPORT int cuCtxPushCurrent_v2(FakeContext *context) {
  ++fakeDriver.pushes;
  ++fakeDriver.contextDepth;
  contexts.push_back(context);
  return 0;
}
EXPORT int cuCtxPopCurrent_v2(FakeContext **context) {
  --fakeDriver.contextDepth;
  *context = contexts.back();
  contexts.pop_back();
  return 0;
}
EXPORT int cuCtxGetCurrent(FakeContext **context) {
  *context = contexts.empty() ? nullptr : contexts.back();
  return 0;
}
EXPORT int cuCtxGetDevice(int *device) {
  if (contexts.empty())
    return noContext;
  *device = contexts.back()->device;
  return 0;
}
EXPORT int cuCtxGetId(FakeContext *context, unsigned long long *id) {
  *id = context->id;
  return 0;
}
EXPORT int cuStreamGetCtx(void *, FakeContext **context) {
  *context = fakeDriver.streamContext ? fakeDriver.streamContext
                                      : &fakeDriver.primary[0];
  return 0;
}
EXPORT int cuStreamIsCapturing(void *, int *status) {
  *status = fakeDriver.capturing;
  return 0;
}
EXPORT int cuThreadExchangeStreamCaptureMode(int *mode) {
  static thread_local int current = 0;
  std::swap(current, *mode);
  return 0;
}
EXPORT int cuStreamSynchronize(void *) { return 0; }
EXPORT int cuModuleLoadData(void **module, const void *) {
  if (contexts.empty())
    return noContext;
  ++fakeDriver.moduleLoads;
  *module = &fakeDriver;
  return 0;
}
EXPORT int cuModuleUnload(void *) {
  ++fakeDriver.moduleUnloads;
  return 0;
}
EXPORT int cuModuleGetFunction(void **function, void *, const char *) {
  *function = &fakeDriver;
  return 0;
}
EXPORT int cuFuncSetAttribute(void *, int, int) { return 0; }
EXPORT int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, void *, int,
                                                       size_t) {
  *blocks = fakeDriver.blocksPerMultiprocessor;
  return 0;
}
EXPORT int cuLaunchKernelEx(const CuLaunchConfig *config, void *,
                            void **parameters, void **) {
  ++fakeDriver.launches;
  if (contexts.empty())
    return noContext;
  fakeDriver.launchContext = contexts.back();
  if (fakeDriver.onLaunch)
    fakeDriver.onLaunch(*config, parameters);
  return 0;
}
EXPORT int cuTensorMapEncodeTiled(CuTensorMap *map, int type, unsigned rank,
                                  void *address, const uint64_t *sizes,
                                  const uint64_t *strides, const unsigned *box,
                                  const unsigned *, int, int swizzle, int,
                                  int) {
  FakeTensorMap fake = {};
  ++fakeDriver.encodes;
  fake.mark = FakeTensorMap::isMap;
  fake.address = reinterpret_cast<uint64_t>(address);
  fake.rank = rank;
  fake.type = type;
  fake.swizzle = swizzle;
  for (unsigned i = 0; i < rank && i < 4; ++i) {
    fake.sizes[i] = sizes[i];
    fake.box[i] = box[i];
    if (i + 1 < rank)
      fake.strides[i] = strides[i];
  }
  memcpy(map, &fake, sizeof(fake));
  return fakeDriver.encodeStatus;
}
EXPORT int cuTensorMapReplaceAddress(CuTensorMap *map, void *address) {
  ++fakeDriver.replaces;
  FakeTensorMap fake;
  memcpy(&fake, map, sizeof(fake));
  fake.address = reinterpret_cast<uint64_t>(address);
  memcpy(map, &fake, sizeof(fake));
  return fakeDriver.encodeStatus;
}
EXPORT int cuMemAlloc_v2(CuPointer *pointer, size_t bytes) {
  ++fakeDriver.allocations;
  *pointer = reinterpret_cast<CuPointer>(
      aligned_alloc(256, (bytes + 255) / 256 * 256));
  return 0;
}
EXPORT int cuMemFree_v2(CuPointer pointer) {
  --fakeDriver.allocations;
  free(reinterpret_cast<void *>(pointer));
  return 0;
}
EXPORT int cuMemcpyHtoD_v2(CuPointer to, const void *from, size_t bytes) {
  memcpy(reinterpret_cast<void *>(to), from, bytes);
  return 0;
}
EXPORT int cuMemcpyDtoH_v2(void *to, CuPointer from, size_t bytes) {
  memcpy(to, reinterpret_cast<void *>(from), bytes);
  return 0;
}
