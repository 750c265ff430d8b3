//===- FakeDriver.h - A CUDA driver without a GPU ---------------*- C++ -*-===//
//
// A shared library with the driver's symbols whose "device memory" is host
// memory and whose launches call back into the test.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_TEST_UNIT_CUDA_FAKEDRIVER_H
#define ATTNC_TEST_UNIT_CUDA_FAKEDRIVER_H

#include "lib/Runtime/Cuda/DriverTypes.h"

struct FakeContext {
  int device = 0;
  unsigned long long id = 0;
};

struct FakeDriver {
  int devices = 1, version = 13000;
  int major = 9, minor = 0, multiprocessors = 132, sharedPerBlock = 232448;
  int blocksPerMultiprocessor = 1;
  /// What making a tensor map returns.
  int encodeStatus = 0;
  int allocations = 0, contextDepth = 0, retained = 0, launches = 0;
  int pushes = 0, encodes = 0, replaces = 0, moduleLoads = 0, moduleUnloads = 0;
  /// What cuStreamIsCapturing says of every stream.
  int capturing = 0;
  /// Of every stream that is not a default one; null: device 0's.
  FakeContext *streamContext = nullptr;
  /// The primary contexts.
  FakeContext primary[4] = {{0, 1}, {1, 2}, {2, 3}, {3, 4}};
  /// Current at the last launch.
  FakeContext *launchContext = nullptr;
  void (*onLaunch)(const attnc::CuLaunchConfig &, void **) = nullptr;
};

/// What an encoded map holds here, in place of the hardware's format.
struct FakeTensorMap {
  static constexpr uint64_t isMap = 0x6d6170206d617020;
  /// Tells a map from a scalar among a launch's parameters.
  uint64_t mark;
  uint64_t address;
  uint64_t sizes[4], strides[3];
  uint8_t box[4];
  uint8_t rank, type, swizzle;
};
static_assert(sizeof(FakeTensorMap) <= sizeof(attnc::CuTensorMap));

#endif // ATTNC_TEST_UNIT_CUDA_FAKEDRIVER_H
