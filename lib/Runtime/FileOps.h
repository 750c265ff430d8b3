//===- FileOps.h - Every file operation of the cache ------------*- C++ -*-===//
//
// The cache touches files through this interface alone, so that a test can
// fail each operation in turn. Every function returns a value >= 0, or the
// negative of an errno. Files are named relative to an open directory, whose
// owner and mode were checked on that same descriptor.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_LIB_RUNTIME_FILEOPS_H
#define ATTNC_LIB_RUNTIME_FILEOPS_H

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace attnc {

struct FileInfo {
  bool isRegular = false;
  uint32_t owner = 0;
  uint32_t mode = 0; ///< Permission bits.
  int64_t size = 0;
  int64_t modified = 0; ///< Seconds since 1970; may lie in the future.
};

class FileOps {
public:
  virtual ~FileOps();

  /// The operating system's.
  static FileOps &system();

  virtual int openDirectory(const std::string &path);
  /// Mode 0700. -EEXIST is for the caller to accept.
  virtual int makeDirectory(const std::string &path);
  virtual int currentDirectory(std::string &path);

  /// Read-only; a symbolic link is refused (-ELOOP).
  virtual int openFile(int directory, const std::string &name);
  /// Write-only, mode 0600, must not exist.
  virtual int createFile(int directory, const std::string &name);
  /// The file is made when missing, and stays.
  virtual int openLock(int directory, const std::string &name);

  virtual int info(int fd, FileInfo &info);
  virtual int infoAt(int directory, const std::string &name, FileInfo &info);
  virtual int64_t read(int fd, void *data, size_t size);
  virtual int64_t readAt(int fd, void *data, size_t size, uint64_t offset);
  virtual int64_t write(int fd, const void *data, size_t size);
  virtual int sync(int fd);
  virtual int close(int fd);
  virtual int rename(int directory, const std::string &from,
                     const std::string &to);
  virtual int remove(int directory, const std::string &name);
  /// Names in the directory, without "." and "..".
  virtual int list(int directory, std::vector<std::string> &names);
  /// Sets the modification time to now.
  virtual int touch(int fd);
  /// -EWOULDBLOCK when another open file holds the lock.
  virtual int tryLock(int fd);
  virtual int unlock(int fd);

  /// Seconds since 1970.
  virtual int64_t now();
  virtual uint32_t userId();
};

} // namespace attnc

#endif // ATTNC_LIB_RUNTIME_FILEOPS_H
