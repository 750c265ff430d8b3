//===- Session.h - Requests for programs, served by the cache ---*- C++ -*-===//
//
// A request becomes a key, the cache finds or compiles its program.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_LIB_API_SESSION_H
#define ATTNC_LIB_API_SESSION_H

#include "lib/Api/CompileRequest.h"
#include "lib/Api/Runnable.h"
#include "lib/Runtime/KernelTable.h"

#include "mlir/IR/MLIRContext.h"

namespace attnc {

/// The process's cache of programs, made at the first use.
class Session {
public:
  static Session &instance();

  /// The key, without running a pass.
  Result<RequestKey> keyOf(const ProgramRequest &request);
  Result<const RunnableProgram *> get(const ProgramRequest &request,
                                      RequestKey &key);

  /// The same program with another schedule, with which some calls are faster;
  /// null, after a warning, if it cannot be had.
  const RunnableProgram *getOther(ProgramRequest request,
                                  const std::string &schedule);

  /// The program that was got for the same words before, if it is there: a
  /// way around making IR and key anew.
  const RunnableProgram *recall(const RequestKey &words, RequestKey &key);
  void remember(const RequestKey &words, const RequestKey &key);

  /// The entry of a request, compiled if it is not on disk: for packages.
  Result<Entry> entryOf(const ProgramRequest &request);

  KernelCache &kernelCache() { return cache; }

private:
  friend class RequestBuilder;
  ProgramRequest withTuned(const ProgramRequest &request);
  Session();

  KernelCache cache;
  // Launch plans live in one context, which may be used by several threads;
  // parsing into it is serial, since diagnostics are the context's.
  mlir::MLIRContext plans;
  std::mutex planMutex;
  KernelTable<RequestKey> remembered;
  std::mutex rememberMutex;
};

/// `target`, "cuda" being replaced by what the GPU of that number is.
Result<std::string> resolveTarget(const std::string &target, int device);

} // namespace attnc

#endif // ATTNC_LIB_API_SESSION_H
