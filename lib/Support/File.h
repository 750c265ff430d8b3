//===- File.h - Whole files, read and written safely ------------*- C++ -*-===//

#ifndef ATTNC_LIB_SUPPORT_FILE_H
#define ATTNC_LIB_SUPPORT_FILE_H

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"
#include "llvm/Support/MemoryBuffer.h"

#include <memory>

namespace attnc {

/// Makes an error of one line of text.
llvm::Error makeError(const llvm::Twine &message);

/// Reads a whole file; `-` is standard input.
llvm::Expected<std::unique_ptr<llvm::MemoryBuffer>>
readInput(llvm::StringRef path);

/// Writes a whole file or nothing: the bytes go to a temporary file beside
/// `path`, which one rename publishes. `-` is standard output.
llvm::Error writeOutput(llvm::StringRef path, llvm::StringRef contents);

} // namespace attnc

#endif // ATTNC_LIB_SUPPORT_FILE_H
