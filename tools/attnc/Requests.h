//===- Requests.h - Programs asked for, from files --------------*- C++ -*-===//

#ifndef ATTNC_TOOLS_ATTNC_REQUESTS_H
#define ATTNC_TOOLS_ATTNC_REQUESTS_H

#include "lib/Api/CompileRequest.h"
#include "tools/attnc/Commands.h"

namespace attnc {

/// What the flags say, for this IR.
ProgramRequest requestFor(const TargetFlags &flags, std::string ir,
                          std::string genFlags = "");

/// The request of a description, given as flags of `attnc gen`.
llvm::Expected<ProgramRequest> requestFromAttention(const TargetFlags &flags,
                                                    llvm::StringRef attention);

/// The requests that the misses in a file of events name, each once.
llvm::Expected<std::vector<ProgramRequest>>
requestsFromEvents(llvm::StringRef path);

/// A failure of the runtime as an error of the tool.
llvm::Error toError(const Failure &failure);

/// "12.3 KB".
std::string sizeText(uint64_t bytes);

} // namespace attnc

#endif // ATTNC_TOOLS_ATTNC_REQUESTS_H
