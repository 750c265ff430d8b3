//===- File.h - Whole files, read and written safely ------------*- C++ -*-===//

#ifndef ATTNC_LIB_SUPPORT_FILE_H
#define ATTNC_LIB_SUPPORT_FILE_H

#include "llvm/ADT/STLFunctionalExtras.h"
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

/// Takes the next bytes of a file; false if they cannot be written.
using Sink = llvm::function_ref<bool(llvm::StringRef)>;

/// The same for contents that are made piece by piece; `produce` stops and
/// returns false as soon as the sink does.
llvm::Error writeOutput(llvm::StringRef path,
                        llvm::function_ref<bool(Sink)> produce);

} // namespace attnc

#endif // ATTNC_LIB_SUPPORT_FILE_H
