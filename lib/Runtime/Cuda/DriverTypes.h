//===- DriverTypes.h - What the CUDA driver's functions take ----*- C++ -*-===//

#ifndef ATTNC_LIB_RUNTIME_CUDA_DRIVERTYPES_H
#define ATTNC_LIB_RUNTIME_CUDA_DRIVERTYPES_H

#include <cstddef>
#include <cstdint>

namespace attnc {

using CuStatus = int;
using CuDevice = int;
using CuContext = struct CuContextOpaque *;
using CuModule = struct CuModuleOpaque *;
using CuFunction = struct CuFunctionOpaque *;
using CuStream = struct CuStreamOpaque *;
using CuPointer = unsigned long long;

struct alignas(128) CuTensorMap {
  uint64_t words[16];
};

struct CuLaunchAttribute {
  int id;
  int padding;
  union {
    char bytes[64];
    unsigned cluster[3];
    int allowed;
  };
};

struct CuLaunchConfig {
  unsigned grid[3];
  unsigned block[3];
  unsigned sharedBytes;
  CuStream stream;
  CuLaunchAttribute *attributes;
  unsigned attributeCount;
};

/// Numbers of the driver's enumerations that are used here.
namespace cu {
constexpr int deviceMultiprocessors = 16;
constexpr int deviceCapabilityMajor = 75;
constexpr int deviceCapabilityMinor = 76;
constexpr int deviceSharedPerBlock = 97;
constexpr int functionDynamicShared = 8;
constexpr int functionLargeClusters = 14;
constexpr int launchClusterDimension = 4;
constexpr int launchProgrammaticSerialization = 6;
constexpr int captureModeRelaxed = 2;
} // namespace cu

} // namespace attnc

#endif // ATTNC_LIB_RUNTIME_CUDA_DRIVERTYPES_H
