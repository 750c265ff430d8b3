//===- Compiler.h - From one phase to another -------------------*- C++ -*-===//
//
// Restart property: whatever phase P the input is at, going on from it gives
// byte for byte what a direct compile gives. Every artifact says its phase,
// MLIR in the module attributes `attnc.phase` and `attnc.target`, text in a
// first line that is a comment.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_LIB_COMPILER_COMPILER_H
#define ATTNC_LIB_COMPILER_COMPILER_H

#include "lib/Compiler/Phase.h"

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/OwningOpRef.h"
#include "llvm/ADT/STLFunctionalExtras.h"
#include "llvm/Support/MemoryBuffer.h"

#include <memory>
#include <string>

namespace attnc {

inline constexpr llvm::StringLiteral kPhaseAttr = "attnc.phase";
inline constexpr llvm::StringLiteral kTargetAttr = "attnc.target";

/// What a compile may depend on beside its input.
struct CompileOptions {
  Target target = Target::CPU;
  /// `block_m=64,block_n=128,...`; empty: the cost model chooses;
  /// `few_queries` or `few_items`: it chooses for such calls.
  std::string schedule;
  /// sm_90a: operands may have any strides and alignment; slower.
  bool anyLayout = false;
  /// CPU: as LLVM names them; empty: the machine this runs on.
  std::string cpu, features;

  /// Whether the cost model chooses, and may be made to choose again.
  bool choosesSchedule() const;
};

/// A program at one phase: MLIR, or text once MLIR is left behind.
struct Artifact {
  Phase phase = Phase::Attn;
  mlir::OwningOpRef<mlir::ModuleOp> module;
  std::string text;
  /// sm_90a: what the assembler said, once `text` is machine code.
  std::string assemblerLog;
  /// What a user should know although the compile went on, a line each.
  std::string warnings;

  /// What `--emit` writes.
  std::string print() const;
};

/// A context that knows every dialect and translation a phase may need.
std::unique_ptr<mlir::MLIRContext> makeContext();

/// Makes the passes of all phases known by name, at the first of all calls.
void registerAllPasses();

/// Reads MLIR or a later phase's text and finds out its phase. Fails if the
/// input was made for another target than `options` says.
llvm::Expected<Artifact> parseArtifact(llvm::StringRef contents,
                                       llvm::StringRef name,
                                       mlir::MLIRContext &context,
                                       CompileOptions &options);

/// The first line of a phase's text; `comment` starts a comment in it.
std::string textHeader(llvm::StringRef comment, llvm::StringRef phase,
                       Target target);

/// Called when a phase is reached, with the seconds it took.
using PhaseObserver = llvm::function_ref<llvm::Error(
    const PhaseStep &, const Artifact &, double seconds)>;

/// Takes the artifact on to phase `upTo`. Nothing happens if it is there; it
/// cannot go back. Where the cost model chose the schedule and the assembler
/// cannot make clean code of it, a compile from phase `fused` or before tries
/// plainer ones and calls the observer for each phase again; a schedule in the
/// options or in the input stays, with a warning. Errors are one line:
/// location, what was expected, what was found, what to try.
llvm::Error compile(Artifact &artifact, const CompileOptions &options,
                    Phase upTo, PhaseObserver observer = nullptr);

/// The same for a module that has not left MLIR and will not.
llvm::Error compile(mlir::ModuleOp module, const CompileOptions &options,
                    Phase upTo);

} // namespace attnc

#endif // ATTNC_LIB_COMPILER_COMPILER_H
