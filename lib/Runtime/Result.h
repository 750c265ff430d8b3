//===- Result.h - A value or a message for a person -------------*- C++ -*-===//
//
// The runtime core links neither LLVM nor MLIR, so that sanitizer builds of it
// take seconds: this is the small part of llvm::Expected it needs.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_LIB_RUNTIME_RESULT_H
#define ATTNC_LIB_RUNTIME_RESULT_H

#include <string>
#include <utility>
#include <variant>

namespace attnc {

/// The kinds of failure a caller can tell apart; the C API has the same list.
enum class Status {
  Ok = 0,
  InvalidArgument = 1,
  Unsupported = 2,
  CompileFailed = 3,
  JitForbidden = 4,
  LoadFailed = 5,
  RunFailed = 6,
  Internal = 7,
  Cold = 8,
};

/// A failure: its message names the thing, what was expected, what was got
/// and what to try.
struct Failure {
  Status status;
  std::string message;
};

template <typename T> class Result {
public:
  Result(T value) : state(std::in_place_index<0>, std::move(value)) {}
  Result(Failure failure) : state(std::in_place_index<1>, std::move(failure)) {}

  explicit operator bool() const { return state.index() == 0; }
  T &operator*() { return *std::get_if<0>(&state); }
  const T &operator*() const { return *std::get_if<0>(&state); }
  T *operator->() { return std::get_if<0>(&state); }
  const T *operator->() const { return std::get_if<0>(&state); }
  const Failure &failure() const { return *std::get_if<1>(&state); }

private:
  std::variant<T, Failure> state;
};

} // namespace attnc

#endif // ATTNC_LIB_RUNTIME_RESULT_H
