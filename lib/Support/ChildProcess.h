//===- ChildProcess.h - Programs run on the side ----------------*- C++ -*-===//
//
// In a process group of its own, with a deadline, whatever the host does with
// signals: SIGCHLD may be ignored, children may be reaped by others, and a
// child that goes away early must not send us SIGPIPE.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_LIB_SUPPORT_CHILDPROCESS_H
#define ATTNC_LIB_SUPPORT_CHILDPROCESS_H

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

#include <string>

namespace attnc {

struct ChildResult {
  /// Nobody could tell: the host reaped the child.
  static constexpr int unknown = -1;
  /// The exit status, 128 + n for signal n, or `unknown`.
  int status = unknown;
  bool timedOut = false;
  std::string output, errors;
};

/// Runs a program to its end with `input` on standard input, collecting what
/// it writes; the group is killed after `timeoutSeconds`. The environment is
/// ours, with those of `defaults` ("NAME=value") that it lacks. Fails only if
/// the program cannot be started.
llvm::Expected<ChildResult> runChild(llvm::ArrayRef<std::string> arguments,
                                     llvm::StringRef input,
                                     double timeoutSeconds,
                                     llvm::ArrayRef<std::string> defaults = {});

/// From now on children stay in this process's group: what ends it ends them.
void keepChildrenInGroup();

/// "signal 6 (Aborted)" or "status 1".
std::string describeStatus(int status);

} // namespace attnc

#endif // ATTNC_LIB_SUPPORT_CHILDPROCESS_H
