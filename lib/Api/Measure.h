//===- Measure.h - Which of several programs is faster ----------*- C++ -*-===//

#ifndef ATTNC_LIB_API_MEASURE_H
#define ATTNC_LIB_API_MEASURE_H

#include "lib/Api/Runnable.h"
#include "lib/Frontend/Attention.h"

namespace attnc {

/// A tensor's sizes in logical order; none for a scalar.
struct ArgumentShape {
  std::string name;
  std::vector<int64_t> sizes;
};

/// The arguments of an attention whose sizes are all known; the error names
/// one that is not.
llvm::Expected<std::vector<ArgumentShape>>
shapesOf(AttentionDescription description);

/// Times calls on data of its own, where the programs run.
class Stopwatch {
public:
  /// All programs must take these arguments as `like` does.
  static llvm::Expected<std::unique_ptr<Stopwatch>>
  create(const RunnableProgram &like, const std::vector<ArgumentShape> &shapes,
         int device);

  /// Seconds of one call, from as many as it takes to last a while.
  llvm::Expected<double> time(const RunnableProgram &program);

private:
  Stopwatch() = default;
  llvm::Error addTensor(const ParameterInfo &parameter,
                        llvm::ArrayRef<int64_t> sizes);
  void addScalar(const ParameterInfo &parameter);
  llvm::Error call(const RunnableProgram &program);

  std::unique_ptr<ProgramMemory> memory;
  std::vector<Argument> arguments;
  uint64_t id = 0;
  void *workspace = nullptr;
  int64_t workspaceBytes = 0, longest = 1, features = 1;
  int device = 0, callsAtOnce = 1;
};

double medianOf(std::vector<double> values);
/// Half of the width that the middle half of the values has, relative to the
/// median.
double spreadOf(std::vector<double> values);

} // namespace attnc

#endif // ATTNC_LIB_API_MEASURE_H
