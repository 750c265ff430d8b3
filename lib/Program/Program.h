//===- Program.h - Evaluates a launch plan for given arguments --*- C++ -*-===//
//
// A `tile.program` is evaluated on the host for each call: its arguments are
// checked against their declared types, index arithmetic is computed, the
// workspace is laid out, and what remains is a list of launches that the CPU
// and the GPU runtime execute alike.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_LIB_PROGRAM_PROGRAM_H
#define ATTNC_LIB_PROGRAM_PROGRAM_H

#include "dialects/tile/Tile.h"
#include "lib/Program/Argument.h"

#include "llvm/ADT/SmallVector.h"
#include "llvm/Support/Error.h"

#include <cstdint>
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

/// Offsets in the workspace are multiples of this.
inline constexpr int64_t kWorkspaceAlignment = 64;

/// Checks count, kinds, ranks and static sizes; errors name the argument.
llvm::Error checkArguments(tile::ProgramOp program,
                           llvm::ArrayRef<Argument> arguments);

/// Evaluates `program`, whose launches must carry `items`
/// (tile-plan-launches). A failed `tile.check` becomes its message.
llvm::Expected<LaunchPlan> planProgram(tile::ProgramOp program,
                                       llvm::ArrayRef<Argument> arguments);

/// What the caller calls argument `index`: its `tile.name`, else argN.
std::string getArgumentName(tile::ProgramOp program, unsigned index);

} // namespace attnc

#endif // ATTNC_LIB_PROGRAM_PROGRAM_H
