//===- CompileRequest.h - From a request to an entry ------------*- C++ -*-===//

#ifndef ATTNC_LIB_API_COMPILEREQUEST_H
#define ATTNC_LIB_API_COMPILEREQUEST_H

#include "lib/Runtime/KernelCache.h"

#include "llvm/ADT/StringRef.h"

namespace attnc {

/// A hash of the compiler's sources and of LLVM's version.
const char *compilerFingerprint();

struct ProgramRequest {
  std::string ir;
  std::string target = "cpu", schedule, cpu, features;
  bool anyLayout = false;
  /// Whether a table of tuned schedules is asked when there is no schedule.
  bool tuned = true;
  /// What `attnc gen` takes to make the IR, if that is known.
  std::string genFlags;
};

/// Compiles in this process: everything of the entry but key, compiler and
/// time.
Result<Entry> compileRequest(const ProgramRequest &request, PhaseTimes &times);

/// What the compile of a request has made after a phase, as `--emit` writes it.
Result<std::string> emitRequest(const ProgramRequest &request,
                                llvm::StringRef phase);

} // namespace attnc

#endif // ATTNC_LIB_API_COMPILEREQUEST_H
