//===- FakeDriver.cpp - A CUDA driver without a GPU -----------------------===//

#include "FakeDriver.h"

#include <cstdlib>
#include <cstring>

using namespace attnc;

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT FakeDriver fakeDriver;
FakeDriver fakeDriver;

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
  *version = 13000;
  return 0;
}
EXPORT int cuDeviceGetCount(int *count) {
  *count = 1;
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
EXPORT int cuDevicePrimaryCtxRetain(void **context, int) {
  ++fakeDriver.retained;
  *context = &fakeDriver;
  return 0;
}
EXPORT int cuDevicePrimaryCtxRelease_v2(int) {
  --fakeDriver.retained;
  return 0;
}
EXPORT int cuCtxPushCurrent_v2(void *) {
  ++fakeDriver.contextDepth;
  return 0;
}
EXPORT int cuCtxPopCurrent_v2(void **) {
  --fakeDriver.contextDepth;
  return 0;
}
EXPORT int cuStreamSynchronize(void *) { return 0; }
EXPORT int cuModuleLoadData(void **module, const void *) {
  *module = &fakeDriver;
  return 0;
}
EXPORT int cuModuleUnload(void *) { return 0; }
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
  if (fakeDriver.contextDepth <= 0)
    return 201; // no context is current
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
