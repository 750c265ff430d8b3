//===- Program.h - A launch plan for given arguments ------------*- C++ -*-===//
//
// What a `tile.program` comes to for given arguments, spelled out: checks and
// index arithmetic are done, the workspace is laid out, and what remains is a
// list of launches. The runtimes take it from the slots of PlanCode instead.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_LIB_PROGRAM_PROGRAM_H
#define ATTNC_LIB_PROGRAM_PROGRAM_H

#include "lib/Program/PlanCode.h"

#include <string>
#include <variant>
#include <vector>

namespace attnc {

/// A view that a launch reads or writes: the caller's memory, or, with
/// `inWorkspace`, `offset` bytes into the workspace of the call.
struct PlannedView {
  void *data = nullptr;
  bool inWorkspace = false;
  int64_t offset = 0;
  llvm::SmallVector<int64_t> sizes, strides;
};

/// int64_t is an index.
using LaunchArgument = std::variant<PlannedView, float, int32_t, int64_t>;

struct Launch {
  std::string kernel;
  std::vector<LaunchArgument> arguments;
  int64_t items = 0;
};

struct LaunchPlan {
  int64_t workspaceBytes = 0;
  std::vector<Launch> launches;
};

/// Translates and evaluates `program`.
llvm::Expected<LaunchPlan> planProgram(tile::ProgramOp program,
                                       llvm::ArrayRef<Argument> arguments);

} // namespace attnc

#endif // ATTNC_LIB_PROGRAM_PROGRAM_H
