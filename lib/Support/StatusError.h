//===- StatusError.h - An llvm::Error that knows its status -----*- C++ -*-===//

#ifndef ATTNC_LIB_SUPPORT_STATUSERROR_H
#define ATTNC_LIB_SUPPORT_STATUSERROR_H

#include "lib/Runtime/Result.h"

#include "llvm/Support/Error.h"

namespace attnc {

/// A failure whose kind a caller of the C interface should be able to tell.
class StatusError : public llvm::ErrorInfo<StatusError> {
public:
  static char ID;
  StatusError(Status status, std::string message)
      : failure{status, std::move(message)} {}

  void log(llvm::raw_ostream &os) const override { os << failure.message; }
  std::error_code convertToErrorCode() const override {
    return llvm::inconvertibleErrorCode();
  }

  const Failure failure;
};

inline llvm::Error makeStatusError(Status status, const llvm::Twine &message) {
  return llvm::make_error<StatusError>(status, message.str());
}

/// An error as a failure of the runtime, `otherwise` being its status if it
/// has none of its own.
Failure toFailure(Status otherwise, llvm::Error error);

} // namespace attnc

#endif // ATTNC_LIB_SUPPORT_STATUSERROR_H
