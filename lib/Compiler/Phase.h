//===- Phase.h - The stations on the way down -------------------*- C++ -*-===//
//
// One table names every phase of every target: --emit, --dump-to, messages,
// the help and the tests all read it.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_LIB_COMPILER_PHASE_H
#define ATTNC_LIB_COMPILER_PHASE_H

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

#include <optional>
#include <string>

namespace attnc {

struct Artifact;
struct CompileOptions;

enum class Target { CPU, SM90a };

llvm::StringRef targetName(Target target);
std::optional<Target> parseTarget(llvm::StringRef name);

enum class Phase {
  Attn,
  Fused,
  Tile,
  Formula,
  Vector,
  Hopper,
  LLVM,
  Asm,
  PTX,
  Cubin,
  Stats,
};

/// How one target gets to one phase.
struct PhaseStep {
  Phase phase;
  llvm::StringLiteral name;
  llvm::StringLiteral description;
  /// The passes that lead here from the phase before, as attnc-opt takes
  /// them; nothing for a phase that is no longer MLIR.
  llvm::Expected<std::string> (*pipeline)(const CompileOptions &options);
  /// What leads here otherwise: sets the artifact's text.
  llvm::Error (*translate)(Artifact &artifact, const CompileOptions &options);
};

/// The phases of a target, in order. The first one is the input.
llvm::ArrayRef<PhaseStep> phasesOf(Target target);

/// Looks a name up among a target's phases; the error lists them.
llvm::Expected<const PhaseStep *> findPhase(Target target,
                                            llvm::StringRef name);
const PhaseStep *findPhase(Target target, Phase phase);

} // namespace attnc

#endif // ATTNC_LIB_COMPILER_PHASE_H
