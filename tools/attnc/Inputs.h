//===- Inputs.h - The arguments of one call ---------------------*- C++ -*-===//

#ifndef ATTNC_TOOLS_ATTNC_INPUTS_H
#define ATTNC_TOOLS_ATTNC_INPUTS_H

#include "lib/Program/Argument.h"
#include "lib/Support/HostTensor.h"
#include "tools/attnc/Signature.h"

namespace attnc {

/// What the command line says about arguments.
struct InputRequest {
  /// FILE.npy in order, or NAME=FILE.npy.
  std::vector<std::string> files;
  /// NAME=VALUE.
  std::vector<std::string> scalars;
  /// SIZE=N,...; tensors without a file are random.
  std::string random;
  bool useRandom = false;
  int64_t seed = 0;
};

/// Arguments and results, and the memory they are in.
class Call {
public:
  static llvm::Expected<Call> make(const Signature &signature,
                                   const InputRequest &request);

  /// Inputs only, in the order of the tensors' dims.
  std::vector<Argument> referenceArguments();
  /// Inputs and results, in the order of the views' dims.
  std::vector<Argument> programArguments();

  const Sizes &sizes() const { return named; }
  /// Whether a file was given for it.
  bool isGiven(size_t parameter) const { return given[parameter]; }
  HostTensor &tensor(size_t parameter) { return tensors[parameter]; }
  /// Conversions that were made, a line each.
  const std::string &notes() const { return noteText; }

private:
  explicit Call(const Signature &signature) : signature(&signature) {}

  llvm::Error readFiles(const InputRequest &request);
  llvm::Error bindSizes(const InputRequest &request);
  llvm::Error setScalars(const InputRequest &request);
  llvm::Error setDefault(size_t index);
  llvm::Error fillTensors(const InputRequest &request);
  llvm::Error makeResults();
  void fillRandom(size_t index, uint64_t seed);
  std::optional<double> evaluate(llvm::StringRef expression) const;

  const Signature *signature;
  Sizes named;
  std::vector<HostTensor> tensors;
  std::vector<Argument> scalars;
  std::vector<bool> given;
  std::string noteText;
};

} // namespace attnc

#endif // ATTNC_TOOLS_ATTNC_INPUTS_H
