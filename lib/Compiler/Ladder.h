//===- Ladder.h - Plainer schedules where machine code is not clean -------===//

#ifndef ATTNC_LIB_COMPILER_LADDER_H
#define ATTNC_LIB_COMPILER_LADDER_H

#include "lib/Compiler/Compiler.h"

namespace attnc {

/// Takes an artifact at phase `fused` to machine code: `attempt` does, with
/// the schedules that stand in attributes of the attn ops. A kernel that spills
/// or whose products the assembler serialises gets the next of its ladder of
/// schedules, until all are clean or the ladder ends. What was rejected is in
/// the artifact's warnings. Schedules that the input itself has stay.
llvm::Error climbLadder(Artifact &artifact, const CompileOptions &options,
                        llvm::function_ref<llvm::Error(Artifact &)> attempt);

} // namespace attnc

#endif // ATTNC_LIB_COMPILER_LADDER_H
