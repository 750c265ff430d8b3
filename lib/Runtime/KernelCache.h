//===- KernelCache.h - From a request to a loaded program -------*- C++ -*-===//
//
// Memory, then disk, then a compile, of which there is one per key and machine
// at a time. The order and the reasons are told as events.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_LIB_RUNTIME_KERNELCACHE_H
#define ATTNC_LIB_RUNTIME_KERNELCACHE_H

#include "lib/Runtime/DiskCache.h"
#include "lib/Runtime/Event.h"
#include "lib/Runtime/KernelTable.h"
#include "lib/Runtime/Package.h"

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>

namespace attnc {

/// A program loaded into this process. A target derives from it. It stays
/// until the process ends.
class LoadedProgram {
public:
  virtual ~LoadedProgram();
};

/// Seconds per phase, in order.
using PhaseTimes = std::vector<std::pair<std::string, double>>;

/// What a target does for the cache. All functions may be called from several
/// threads at once.
class ProgramBuilder {
public:
  virtual ~ProgramBuilder();

  /// Compiles; fills in metadata and sections (key, compiler and time are the
  /// cache's).
  virtual Result<Entry> compile(PhaseTimes &times) = 0;

  /// Makes an entry runnable here.
  virtual Result<std::unique_ptr<LoadedProgram>> load(const Entry &entry) = 0;

  /// Why an entry, sound as it is, cannot be used on this machine (a driver
  /// too old, a CPU without a feature); nothing when it can.
  virtual std::optional<std::string> unusable(const Entry &entry);

  /// What a build needs to make this program, for events.
  virtual std::vector<std::pair<std::string, std::string>> request() const;

  /// The command that adds this program to the cache, for ATTNC_JIT=forbid.
  virtual std::string commandToAdd() const = 0;
};

enum class JitPolicy { Allow, Warn, Forbid };

struct KernelCacheOptions {
  /// Absolute; empty keeps programs in memory only.
  std::string directory;
  /// Why `directory` is empty, when that deserves a warning.
  std::string noDirectoryReason;
  /// Files of programs, looked into before the directory.
  std::vector<std::string> packages;
  /// Content fingerprint of the compiler.
  std::string compiler;
  uint64_t sizeLimit = uint64_t(1) << 30;
  double lockTimeout = 60;
  JitPolicy jit = JitPolicy::Allow;

  /// Reads the ATTNC_* variables; values that make no sense are reported to
  /// `events` and count as unset.
  static KernelCacheOptions fromEnvironment(std::string compiler,
                                            const EventSink &events,
                                            FileOps &ops = FileOps::system());
};

/// "512", "64K", "100M", "2G"; nothing when it is none of these.
std::optional<uint64_t> parseByteCount(const std::string &text);

class KernelCache {
public:
  KernelCache(KernelCacheOptions options, EventSink events,
              FileOps &ops = FileOps::system());
  ~KernelCache();

  /// The program of a key, from where it is nearest. Programs live as long as
  /// the cache. Any thread; lock-free when it is in memory.
  Result<const LoadedProgram *> get(const RequestKey &key,
                                    ProgramBuilder &builder) {
    if (const LoadedProgram *found = find(key))
      return found;
    return getSlow(key, builder);
  }

  /// The program if it is in memory, else null: for callers that may not
  /// compile now, such as one that captures a CUDA graph.
  const LoadedProgram *find(const RequestKey &key) {
    const LoadedProgram *found = table.find(key);
    if (found)
      countHit();
    return found;
  }

  /// Looks into a package from now on.
  std::optional<Failure> addPackage(const std::string &path);
  /// Whether a package has an entry for this key, or one like it.
  bool isPackaged(const RequestKey &key);

  struct Counters {
    uint64_t memoryHits = 0, packageHits = 0, diskHits = 0, compiles = 0,
             waits = 0,
             shared = 0; ///< Requests that got another request's program.
  };
  Counters counters() const;

  EventSink &eventSink() { return events; }
  /// Null when programs are kept in memory only.
  DiskCache *diskCache() { return disk ? &*disk : nullptr; }
  const KernelCacheOptions &currentOptions() const { return options; }

private:
  struct Flight;
  struct ForkGuard;
  using Program = Result<const LoadedProgram *>;

  Program getSlow(const RequestKey &key, ProgramBuilder &builder);
  Program wait(const RequestKey &key, ProgramBuilder &builder,
               std::shared_ptr<Flight> flight,
               std::unique_lock<std::mutex> lock);
  Program obtain(const RequestKey &key, ProgramBuilder &builder);
  std::optional<Program> fromPackages(const RequestKey &key,
                                      ProgramBuilder &builder);
  Program obtainLocked(const RequestKey &key, ProgramBuilder &builder,
                       std::string reason);
  std::optional<Program> fromDisk(const RequestKey &key,
                                  ProgramBuilder &builder, std::string &reason);
  Program compileHere(const RequestKey &key, ProgramBuilder &builder,
                      const std::string &reason);
  Program adopt(const RequestKey &key, const Entry &entry,
                ProgramBuilder &builder);
  void publish(const Entry &entry);
  void pruneIfDue();
  Failure forbid(const RequestKey &key, ProgramBuilder &builder,
                 const std::string &reason);
  void warn(const RequestKey &key, std::string reason, std::string path = {});
  void warnOnce(std::atomic<bool> &warned, const RequestKey &key,
                std::string reason, std::string path = {});
  void countHit();

  const KernelCacheOptions options;
  FileOps &ops;
  EventSink events;
  std::optional<DiskCache> disk;
  KernelTable<LoadedProgram> table;

  // Guards what follows and insertions into the table.
  std::mutex mutex;
  std::unordered_map<std::string, std::shared_ptr<Flight>> flights;
  std::unordered_map<std::string, std::unique_ptr<LoadedProgram>> byContent;
  std::vector<std::unique_ptr<Package>> packages; ///< Stay where they are.

  struct alignas(64) HitCounter {
    std::atomic<uint64_t> count{0};
  };
  HitCounter hits[16];
  std::atomic<uint64_t> diskHits{0}, packageHits{0}, compiles{0}, waits{0},
      shared{0};
  std::atomic<bool> warnedDirectory{false}, warnedPublish{false};
};

} // namespace attnc

#endif // ATTNC_LIB_RUNTIME_KERNELCACHE_H
