//===- FakeDriver.h - A CUDA driver without a GPU ---------------*- C++ -*-===//
//
// A shared library with the driver's symbols whose "device memory" is host
// memory and whose launches call back into the test.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_TEST_UNIT_CUDA_FAKEDRIVER_H
#define ATTNC_TEST_UNIT_CUDA_FAKEDRIVER_H

#include "lib/Runtime/Cuda/DriverTypes.h"

struct FakeDriver {
  int major = 9, minor = 0, multiprocessors = 132, sharedPerBlock = 232448;
  int blocksPerMultiprocessor = 1;
  /// What tensorMapEncode returns.
  int encodeStatus = 0;
  int allocations = 0, contextDepth = 0, retained = 0, launches = 0;
  void (*onLaunch)(const attnc::CuLaunchConfig &, void **) = nullptr;
};

/// What an encoded map holds here, in place of the hardware's format.
struct FakeTensorMap {
  uint64_t address;
  uint64_t sizes[4], strides[3];
  uint8_t box[4];
  uint8_t rank, type, swizzle;
};
static_assert(sizeof(FakeTensorMap) <= sizeof(attnc::CuTensorMap));

#endif // ATTNC_TEST_UNIT_CUDA_FAKEDRIVER_H
