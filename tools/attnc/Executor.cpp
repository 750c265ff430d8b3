//===- Executor.cpp - Runs a compiled program -----------------------------===//

#include "tools/attnc/Executor.h"

#include "lib/Support/File.h"

using namespace attnc;
using namespace llvm;

Expected<std::unique_ptr<Executor>>
Executor::make(Artifact &artifact, const CompileOptions &options,
               PhaseObserver observer) {
  return makeError("target " + targetName(options.target) +
                   " cannot run programs here; pass --target=reference");
}
