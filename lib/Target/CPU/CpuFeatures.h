//===- CpuFeatures.h - Which processor to compile for -----------*- C++ -*-===//

#ifndef ATTNC_LIB_TARGET_CPU_CPUFEATURES_H
#define ATTNC_LIB_TARGET_CPU_CPUFEATURES_H

#include "llvm/Support/Error.h"

#include <memory>
#include <string>

namespace llvm {
class TargetMachine;
} // namespace llvm

namespace attnc {

/// Empty strings mean the machine this runs on; 0 threads mean as many as
/// the process may use.
struct CpuOptions {
  /// As LLVM names it: x86-64, x86-64-v3, znver4, ...
  std::string cpu;
  /// `+avx2,-avx512f`, on top of the processor's.
  std::string features;
  int threads = 0;
};

/// What the passes need to know of a processor.
struct VectorFeatures {
  int lanes;     ///< f32 numbers in a vector register
  int registers; ///< vector registers
  bool fma;
};

/// Fails with one line if there is no such processor or feature. Static
/// tools link the x86 code generator alone; it is initialised here.
llvm::Expected<std::unique_ptr<llvm::TargetMachine>>
createCpuTargetMachine(const CpuOptions &options);

llvm::Expected<VectorFeatures> getVectorFeatures(const CpuOptions &options);

/// The features that code for a processor may use, of those that a machine can
/// be asked for, with commas between.
llvm::Expected<std::string> requiredFeatures(const CpuOptions &options);
/// Which of such a list this machine lacks; empty: none.
std::string missingFeatures(llvm::StringRef required);

/// The smallest of the processors in the affinity mask, the control group's
/// quota and ATTNC_NUM_THREADS; at least 1.
int getAvailableThreads();

} // namespace attnc

#endif // ATTNC_LIB_TARGET_CPU_CPUFEATURES_H
