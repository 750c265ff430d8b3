//===- Worker.h - Compiles in another process -------------------*- C++ -*-===//
//
// LLVM's way to say no is to end the process, and a loop in it does not end at
// all: neither must happen to the host. `attnc worker` takes a request from
// standard input and gives an entry back.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_LIB_API_WORKER_H
#define ATTNC_LIB_API_WORKER_H

#include "lib/Api/CompileRequest.h"

namespace attnc {

/// Compiles in a worker, or in this process where there is none: `note` then
/// says why.
Result<Entry> compileAside(const ProgramRequest &request, PhaseTimes &times,
                           std::string &note);

/// The worker's side.
int runWorker();

} // namespace attnc

#endif // ATTNC_LIB_API_WORKER_H
