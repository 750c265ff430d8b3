//===- Diagnostics.h - MLIR's diagnostics as one-line errors ----*- C++ -*-===//

#ifndef ATTNC_LIB_COMPILER_DIAGNOSTICS_H
#define ATTNC_LIB_COMPILER_DIAGNOSTICS_H

#include "mlir/IR/Diagnostics.h"
#include "llvm/Support/Error.h"

#include <string>

namespace attnc {

/// Captures the diagnostics of a context while it lives.
class DiagnosticCapture {
public:
  /// `name` is what a diagnostic without a location is about.
  DiagnosticCapture(mlir::MLIRContext &context, llvm::StringRef name);

  bool hasErrors() const { return errors != 0; }

  /// The first error as `file:line:col: error: message`, its notes appended,
  /// and how many more there were; `otherwise` if none was captured.
  llvm::Error takeError(llvm::StringRef otherwise);

  /// The warnings, a line each.
  std::string takeWarnings();

private:
  std::string format(mlir::Diagnostic &diagnostic, llvm::StringRef severity);

  std::string name;
  std::string firstError, warnings;
  unsigned errors = 0;
  mlir::ScopedDiagnosticHandler handler;
};

} // namespace attnc

#endif // ATTNC_LIB_COMPILER_DIAGNOSTICS_H
