//===- Check.h - Results against the oracle ---------------------*- C++ -*-===//

#ifndef ATTNC_TOOLS_ATTNC_CHECK_H
#define ATTNC_TOOLS_ATTNC_CHECK_H

#include "tools/attnc/Inputs.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"

namespace attnc {

/// The errors of one result; docs/semantics.md, Accuracy.
struct ResultCheck {
  std::string name;
  /// ||o - o64|| / ||o64|| of the kernel, of what it is measured against, and
  /// how large the first may be.
  double error = 0, reference = 0, limit = 0;
  /// A-half or A-f32.
  llvm::StringLiteral rule = "";
  /// Non-finite elements that are not what the oracle has.
  int64_t mismatches = 0;
  /// Elements that are NaN in the oracle's result, which says nothing of them.
  int64_t skipped = 0;

  bool passes() const {
    return error <= limit && mismatches == 0 && skipped == 0;
  }
};

/// Compares the results in `call` with the oracle's. Of long sequences a
/// sample of query rows is evaluated; `rows` says how many.
llvm::Expected<std::vector<ResultCheck>>
checkResults(mlir::func::FuncOp function, const Signature &signature,
             Call &call, int64_t &rows);

} // namespace attnc

#endif // ATTNC_TOOLS_ATTNC_CHECK_H
