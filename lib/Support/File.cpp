//===- File.cpp - Whole files, read and written safely --------------------===//

#include "lib/Support/File.h"

#include "llvm/ADT/SmallString.h"
#include "llvm/Support/Errno.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"

#include <cerrno>
#include <unistd.h>

using namespace attnc;
using namespace llvm;

Error attnc::makeError(const Twine &message) {
  return createStringError(inconvertibleErrorCode(), message);
}

Expected<std::unique_ptr<MemoryBuffer>> attnc::readInput(StringRef path) {
  auto buffer = MemoryBuffer::getFileOrSTDIN(path, /*IsText=*/false,
                                             /*RequiresNullTerminator=*/true);
  if (buffer)
    return std::move(*buffer);
  return makeError("cannot read '" + path +
                   "': " + buffer.getError().message() +
                   "; expected a readable file, or - for standard input");
}

/// Writes everything to a descriptor; errno tells what went wrong. (A
/// raw_fd_ostream would end the process on a full disk.)
static bool writeAll(int fd, StringRef contents) {
  while (!contents.empty()) {
    ssize_t count = sys::RetryAfterSignal(-1, ::write, fd, contents.data(),
                                          contents.size());
    if (count < 0)
      return false;
    contents = contents.drop_front(count);
  }
  return true;
}

static Error writeFailure(StringRef path, std::error_code code) {
  return makeError("cannot write '" + path + "': " + code.message() +
                   "; expected a path in a writable directory");
}

static std::error_code lastError() {
  return std::error_code(errno, std::generic_category());
}

Error attnc::writeOutput(StringRef path, StringRef contents) {
  return writeOutput(path, [&](Sink sink) { return sink(contents); });
}

Error attnc::writeOutput(StringRef path, function_ref<bool(Sink)> produce) {
  auto produceTo = [&](int fd) {
    return produce([fd](StringRef bytes) { return writeAll(fd, bytes); });
  };
  if (path == "-")
    return produceTo(STDOUT_FILENO)
               ? Error::success()
               : writeFailure("standard output", lastError());

  // A device or a pipe cannot be replaced by a rename.
  sys::fs::file_status status;
  bool exists = !sys::fs::status(path, status);
  if (exists && sys::fs::is_directory(status))
    return writeFailure(path, std::make_error_code(std::errc::is_a_directory));
  bool special = exists && !sys::fs::is_regular_file(status);
  int fd = -1;
  SmallString<128> temporary(path);
  if (special) {
    if (auto code =
            sys::fs::openFileForWrite(path, fd, sys::fs::CD_OpenExisting))
      return writeFailure(path, code);
  } else {
    // A file that may not be written stays as it is, although its directory
    // would allow to replace it.
    if (exists && sys::fs::access(path, sys::fs::AccessMode::Write))
      return writeFailure(path,
                          std::make_error_code(std::errc::permission_denied));
    if (auto code = sys::fs::createUniqueFile(
            path + ".%%%%%%.tmp", fd, temporary, sys::fs::OF_None, 0644))
      return writeFailure(path, code);
  }

  bool written = produceTo(fd);
  std::error_code code = written ? std::error_code() : lastError();
  if (::close(fd) != 0 && !code)
    code = lastError();
  if (!special && !code)
    code = sys::fs::rename(temporary, path);
  if (!special && code)
    sys::fs::remove(temporary);
  return code ? writeFailure(path, code) : Error::success();
}
