//===- DiskCache.h - Compiled programs in a directory -----------*- C++ -*-===//
//
// Nothing here fails a request: what cannot be read is a miss with a reason,
// what cannot be written is a reason. The directory is opened and its owner
// checked anew for each operation, so that a removed or replaced directory is
// noticed and no descriptor is held in between.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_LIB_RUNTIME_DISKCACHE_H
#define ATTNC_LIB_RUNTIME_DISKCACHE_H

#include "lib/Runtime/Entry.h"
#include "lib/Runtime/FileOps.h"
#include "lib/Runtime/Key.h"

#include <atomic>
#include <optional>

namespace attnc {

/// An open directory or file; closed when it goes, whatever close returns.
class Descriptor {
public:
  Descriptor(FileOps &ops, int fd) : ops(&ops), fd(fd) {}
  Descriptor(Descriptor &&other) : ops(other.ops), fd(other.release()) {}
  Descriptor(const Descriptor &) = delete;
  ~Descriptor() {
    if (fd >= 0)
      ops->close(fd);
  }
  explicit operator bool() const { return fd >= 0; }
  int get() const { return fd; }
  int error() const { return fd < 0 ? -fd : 0; }
  int release() {
    int released = fd;
    fd = -1;
    return released;
  }

private:
  FileOps *ops;
  int fd;
};

class DiskCache {
public:
  /// `directory` must be absolute.
  DiskCache(FileOps &ops, std::string directory, std::string compiler,
            uint64_t sizeLimit = 0)
      : ops(ops), directory(std::move(directory)),
        compiler(std::move(compiler)), sizeLimit(sizeLimit) {}

  const std::string &path() const { return directory; }
  std::string pathOf(const RequestKey &key) const {
    return directory + "/" + key.entryName(compiler);
  }

  struct Loaded {
    std::optional<Entry> entry; ///< Empty: a miss.
    std::string reason;         ///< Why it is a miss.
    bool directoryUnusable = false;
  };
  Loaded load(const RequestKey &key);

  /// Writes an entry: staged beside its destination, synchronised, published
  /// by one rename. Returns why it could not, or nothing. `entry.key` and
  /// `entry.compiler` name the destination.
  std::optional<std::string> publish(const Entry &entry);

  /// The lock of one key among the processes of a machine. Keys share 256
  /// lock files, which stay.
  class Lock {
  public:
    enum class State {
      Held,
      Busy,        ///< Another process has it.
      Unavailable, ///< There are no locks here: go on without.
    };
    Lock(FileOps &ops, Descriptor file, std::string path)
        : ops(ops), file(std::move(file)), path(std::move(path)) {}
    Lock(Lock &&) = default;
    ~Lock() { release(); }
    State tryAcquire();
    void release();
    const std::string &lockPath() const { return path; }

  private:
    FileOps &ops;
    Descriptor file;
    std::string path;
    bool held = false;
  };
  Lock openLock(const RequestKey &key);

  struct Listed {
    std::string name;
    uint64_t size = 0;
    int64_t used = 0; ///< Last use in seconds since 1970, to about an hour.
    std::optional<EntryHeader> header;
    std::string problem; ///< Why there is no header.
  };
  /// The entries, those used last first. Reads headers only.
  Result<std::vector<Listed>> list();

  /// Checks one entry by name as a load does, except for its key; returns
  /// what is wrong with it.
  std::optional<std::string> verify(const std::string &name);

  struct Removed {
    uint64_t entries = 0, bytes = 0;         ///< Gone.
    uint64_t entriesLeft = 0, bytesLeft = 0; ///< Still there.
  };
  /// Removes the entries unused for longest until `limit` bytes are left, and
  /// files that writers left behind long ago. A `limit` of 0 is no limit.
  Result<Removed> prune(uint64_t limit);
  /// Removes all entries.
  Result<Removed> clear();

  /// Whether what was written since the last pruning calls for one.
  bool wantsPruning() const;
  uint64_t limit() const { return sizeLimit; }

private:
  struct Opened {
    Descriptor directory;
    std::string problem;
    bool missing = false;
  };
  Opened open(bool create);
  std::optional<std::string> makeDirectories();
  Result<std::string> readAll(int directory, const std::string &name,
                              FileInfo &info, bool &absent);
  Result<Removed> removeUntil(uint64_t limit, bool everything);

  FileOps &ops;
  std::string directory, compiler;
  uint64_t sizeLimit;
  std::atomic<uint64_t> writtenSincePrune{UINT64_MAX};
};

/// Why a file of that owner and mode is not used, as what it holds runs as
/// code: only we may have written it, or root, who could anyway.
std::optional<std::string> distrust(const FileInfo &info, uint32_t us,
                                    const std::string &what);

/// "No such file or directory" and the like.
std::string errorText(int error);

/// The directory that the environment asks for, absolute; the failure says
/// why there is none.
Result<std::string> cacheDirectoryFromEnvironment(FileOps &ops);

} // namespace attnc

#endif // ATTNC_LIB_RUNTIME_DISKCACHE_H
