//===- Executor.h - Runs a compiled program ---------------------*- C++ -*-===//

#ifndef ATTNC_TOOLS_ATTNC_EXECUTOR_H
#define ATTNC_TOOLS_ATTNC_EXECUTOR_H

#include "lib/Compiler/Compiler.h"
#include "lib/Program/Argument.h"

#include <memory>

namespace attnc {

/// A program ready to be called on one target.
class Executor {
public:
  virtual ~Executor() = default;
  virtual llvm::Error run(llvm::ArrayRef<Argument> arguments) = 0;
  /// What a measured time includes beside the computation.
  virtual llvm::StringRef timingNote() const { return ""; }

  /// Takes the artifact on to what the target runs.
  static llvm::Expected<std::unique_ptr<Executor>>
  make(Artifact &artifact, const CompileOptions &options,
       PhaseObserver observer);
};

} // namespace attnc

#endif // ATTNC_TOOLS_ATTNC_EXECUTOR_H
