//===- StatusError.cpp - An llvm::Error that knows its status -------------===//

#include "lib/Support/StatusError.h"

using namespace attnc;

char StatusError::ID = 0;

Failure attnc::toFailure(Status otherwise, llvm::Error error) {
  if (!error.isA<StatusError>())
    return {otherwise, llvm::toString(std::move(error))};
  Failure failure{otherwise, ""};
  llvm::handleAllErrors(
      std::move(error),
      [&](const StatusError &known) { failure = known.failure; },
      [&](const llvm::ErrorInfoBase &other) {
        failure.message = other.message();
      });
  return failure;
}
