//===- KernelCache.cpp - From a request to a loaded program ---------------===//

#include "lib/Runtime/KernelCache.h"

#include "lib/Environment/Environment.h"

#include <algorithm>
#include <chrono>
#include <pthread.h>
#include <thread>

using namespace attnc;

LoadedProgram::~LoadedProgram() = default;
ProgramBuilder::~ProgramBuilder() = default;

std::optional<std::string> ProgramBuilder::unusable(const Entry &) {
  return std::nullopt;
}

std::vector<std::pair<std::string, std::string>>
ProgramBuilder::request() const {
  return {};
}

/// One compile of one key under way in this process.
struct KernelCache::Flight {
  std::condition_variable landed;
  std::optional<Program> result; ///< Guarded by the cache's mutex.
};

//===----------------------------------------------------------------------===//
// Options
//===----------------------------------------------------------------------===//

std::optional<uint64_t> attnc::parseByteCount(const std::string &text) {
  uint64_t value = 0;
  size_t i = 0;
  for (; i < text.size() && text[i] >= '0' && text[i] <= '9'; ++i) {
    if (value > UINT64_MAX / 10 - 1)
      return std::nullopt;
    value = value * 10 + uint64_t(text[i] - '0');
  }
  if (i == 0)
    return std::nullopt;
  if (i == text.size())
    return value;
  size_t unit = std::string("KMG").find(text[i]);
  if (unit == std::string::npos || i + 1 != text.size() ||
      value > UINT64_MAX >> 40)
    return std::nullopt;
  return value << (10 * (unit + 1));
}

namespace {
/// Reads variables and reports the values it cannot understand.
struct Reader {
  const EventSink &events;

  void reject(const char *name, const std::string &value,
              const char *expected) const {
    events.emit({EventKind::Warning,
                 "",
                 std::string(name) + " is '" + value + "'; expected " +
                     expected + "; using the default",
                 "",
                 {}});
  }
};
} // namespace

KernelCacheOptions KernelCacheOptions::fromEnvironment(std::string compiler,
                                                       const EventSink &events,
                                                       FileOps &ops) {
  Reader reader{events};
  KernelCacheOptions options;
  options.compiler = std::move(compiler);
  bool useDisk = true;
  if (auto cache = environment(Variable::Cache)) {
    useDisk = *cache != "memory";
    if (useDisk && *cache != "disk")
      reader.reject("ATTNC_CACHE", *cache, "disk or memory");
  }
  if (useDisk) {
    Result<std::string> directory = cacheDirectoryFromEnvironment(ops);
    if (directory)
      options.directory = *directory;
    else
      options.noDirectoryReason = directory.failure().message;
  }
  std::string packages = environment(Variable::Package).value_or("");
  for (size_t at = 0; at < packages.size();) {
    size_t end = std::min(packages.find(':', at), packages.size());
    if (end != at)
      options.packages.push_back(packages.substr(at, end - at));
    at = end + 1;
  }
  if (auto size = environment(Variable::CacheSize)) {
    if (auto bytes = parseByteCount(*size))
      options.sizeLimit = *bytes;
    else
      reader.reject("ATTNC_CACHE_SIZE", *size,
                    "a number of bytes, or one with K, M or G");
  }
  if (auto timeout = environment(Variable::LockTimeout)) {
    auto seconds = parseByteCount(*timeout);
    if (seconds && *seconds <= 86400)
      options.lockTimeout = double(*seconds);
    else
      reader.reject("ATTNC_LOCK_TIMEOUT", *timeout,
                    "a whole number of seconds, at most 86400");
  }
  if (auto jit = environment(Variable::Jit)) {
    if (*jit == "forbid")
      options.jit = JitPolicy::Forbid;
    else if (*jit == "warn")
      options.jit = JitPolicy::Warn;
    else if (*jit != "allow")
      reader.reject("ATTNC_JIT", *jit, "allow, warn or forbid");
  }
  return options;
}

//===----------------------------------------------------------------------===//
// Forks
//===----------------------------------------------------------------------===//

/// Keeps every cache usable in a forked child: the child must not inherit a
/// mutex held by a thread that it does not have, nor wait for a compile that
/// nobody does.
struct KernelCache::ForkGuard {
  std::mutex mutex;
  std::vector<KernelCache *> caches;

  static ForkGuard &instance() {
    static ForkGuard *guard = [] {
      auto *made = new ForkGuard;
      pthread_atfork(prepare, parent, child);
      return made;
    }();
    return *guard;
  }

  static void prepare() {
    instance().mutex.lock();
    for (KernelCache *cache : instance().caches)
      cache->mutex.lock();
  }
  static void parent() {
    for (KernelCache *cache : instance().caches)
      cache->mutex.unlock();
    instance().mutex.unlock();
  }
  static void child() {
    for (KernelCache *cache : instance().caches) {
      // Left alone, not destroyed: threads of the parent wait on them in the
      // copied memory.
      for (auto &flight : cache->flights)
        new std::shared_ptr<Flight>(std::move(flight.second));
      cache->flights.clear();
      cache->mutex.unlock();
    }
    instance().mutex.unlock();
  }
};

KernelCache::KernelCache(KernelCacheOptions given, EventSink sink, FileOps &ops)
    : options(std::move(given)), ops(ops), events(std::move(sink)) {
  for (const std::string &path : options.packages)
    if (auto failure = addPackage(path))
      warn(RequestKey(), failure->message, path);
  if (!options.directory.empty())
    disk.emplace(ops, options.directory, options.compiler, options.sizeLimit);
  else if (!options.noDirectoryReason.empty())
    warnOnce(warnedDirectory, RequestKey(),
             "compiled programs are kept in memory only: " +
                 options.noDirectoryReason +
                 "; set ATTNC_CACHE_DIR to a directory you can write, or "
                 "ATTNC_CACHE=memory if this is meant");
  ForkGuard &guard = ForkGuard::instance();
  std::lock_guard<std::mutex> lock(guard.mutex);
  guard.caches.push_back(this);
}

KernelCache::~KernelCache() {
  ForkGuard &guard = ForkGuard::instance();
  std::lock_guard<std::mutex> lock(guard.mutex);
  guard.caches.erase(std::find(guard.caches.begin(), guard.caches.end(), this));
}

//===----------------------------------------------------------------------===//
// One compile per key in this process
//===----------------------------------------------------------------------===//

KernelCache::Program KernelCache::getSlow(const RequestKey &key,
                                          ProgramBuilder &builder) {
  std::unique_lock<std::mutex> lock(mutex);
  if (const LoadedProgram *found = table.find(key))
    return found;
  auto [at, first] = flights.try_emplace(key.text());
  if (!first)
    return wait(key, builder, at->second, std::move(lock));
  auto flight = std::make_shared<Flight>();
  at->second = flight;
  lock.unlock();

  Program result = obtain(key, builder);

  lock.lock();
  flight->result = result;
  // In a child forked meanwhile the table of flights was cleared.
  auto mine = flights.find(key.text());
  if (mine != flights.end() && mine->second == flight)
    flights.erase(mine);
  flight->landed.notify_all();
  return result;
}

KernelCache::Program KernelCache::wait(const RequestKey &key,
                                       ProgramBuilder &builder,
                                       std::shared_ptr<Flight> flight,
                                       std::unique_lock<std::mutex> lock) {
  waits.fetch_add(1, std::memory_order_relaxed);
  auto deadline = std::chrono::steady_clock::now() +
                  std::chrono::duration_cast<std::chrono::nanoseconds>(
                      std::chrono::duration<double>(options.lockTimeout));
  bool landed = flight->landed.wait_until(
      lock, deadline, [&] { return flight->result.has_value(); });
  if (landed)
    return *flight->result;
  lock.unlock();
  warn(key, "waited " + std::to_string(int(options.lockTimeout)) +
                " s for another thread that compiles the same program; "
                "compiling it here too");
  if (options.jit == JitPolicy::Forbid)
    return forbid(key, builder, "another thread did not finish");
  return compileHere(key, builder, "another thread did not finish");
}

//===----------------------------------------------------------------------===//
// Disk and other processes
//===----------------------------------------------------------------------===//

/// A program from disk, or nothing and the reason.
std::optional<KernelCache::Program>
KernelCache::fromDisk(const RequestKey &key, ProgramBuilder &builder,
                      std::string &reason) {
  double start = monotonicSeconds();
  DiskCache::Loaded loaded = disk->load(key);
  if (loaded.directoryUnusable)
    warnOnce(warnedDirectory, key,
             "compiled programs are kept in memory only: " + loaded.reason +
                 "; set ATTNC_CACHE_DIR to a directory of yours");
  if (!loaded.entry) {
    reason = loaded.reason;
    return std::nullopt;
  }
  if (auto why = builder.unusable(*loaded.entry)) {
    reason = "the entry cannot be used here: " + *why;
    return std::nullopt;
  }
  double read = monotonicSeconds();
  Program program = adopt(key, *loaded.entry, builder);
  if (!program) {
    // Sound by its checksum and yet not loadable: compile anew.
    reason = "the entry does not load: " + program.failure().message;
    return std::nullopt;
  }
  diskHits.fetch_add(1, std::memory_order_relaxed);
  events.emit({EventKind::DiskHit,
               key.text(),
               "",
               disk->pathOf(key),
               {{"read", read - start}, {"load", monotonicSeconds() - read}}});
  return program;
}

//===----------------------------------------------------------------------===//
// Packages
//===----------------------------------------------------------------------===//

std::optional<Failure> KernelCache::addPackage(const std::string &path) {
  auto package = Package::open(ops, path);
  if (!package)
    return package.failure();
  if ((*package)->compiler() != options.compiler)
    return Failure{Status::LoadFailed, "the package '" + path +
                                           "' was made by another compiler (" +
                                           (*package)->compiler() +
                                           ", this one is " + options.compiler +
                                           "); make it anew with the attnc of "
                                           "this library"};
  std::lock_guard<std::mutex> lock(mutex);
  packages.push_back(std::move(*package));
  return std::nullopt;
}

bool KernelCache::isPackaged(const RequestKey &key) {
  std::lock_guard<std::mutex> lock(mutex);
  for (auto &package : packages)
    if (!package->find(key.text()).empty())
      return true;
  return false;
}

std::optional<KernelCache::Program>
KernelCache::fromPackages(const RequestKey &key, ProgramBuilder &builder) {
  std::vector<const Package *> known;
  {
    std::lock_guard<std::mutex> lock(mutex);
    for (auto &package : packages)
      known.push_back(package.get());
  }
  for (const Package *package : known)
    for (const Package::Item *item : package->find(key.text())) {
      double start = monotonicSeconds();
      Result<Entry> entry = package->load(*item);
      if (!entry) {
        warn(key, entry.failure().message, package->path());
        continue;
      }
      if (builder.unusable(*entry))
        continue;
      double read = monotonicSeconds();
      Program program = adopt(key, *entry, builder);
      if (!program) {
        warn(key,
             "an entry of the package does not load: " +
                 program.failure().message,
             package->path());
        continue;
      }
      packageHits.fetch_add(1, std::memory_order_relaxed);
      events.emit(
          {EventKind::PackageHit,
           key.text(),
           "",
           package->path(),
           {{"read", read - start}, {"load", monotonicSeconds() - read}},
           {}});
      return program;
    }
  return std::nullopt;
}

KernelCache::Program KernelCache::obtain(const RequestKey &key,
                                         ProgramBuilder &builder) {
  if (auto program = fromPackages(key, builder))
    return *program;
  std::string reason = "not in memory, and none are kept elsewhere";
  if (disk)
    if (auto program = fromDisk(key, builder, reason))
      return *program;
  events.emit({EventKind::Miss,
               key.text(),
               reason,
               disk ? disk->pathOf(key) : "",
               {},
               builder.request()});
  if (options.jit == JitPolicy::Forbid)
    return forbid(key, builder, reason);
  if (options.jit == JitPolicy::Warn)
    warn(key, "compiling, since ATTNC_JIT=warn and the program is " + reason +
                  "; to add it beforehand: " + builder.commandToAdd());
  return disk ? obtainLocked(key, builder, std::move(reason))
              : compileHere(key, builder, reason);
}

/// Takes the key's lock among processes and compiles; or loads what another
/// process published meanwhile.
KernelCache::Program KernelCache::obtainLocked(const RequestKey &key,
                                               ProgramBuilder &builder,
                                               std::string reason) {
  using State = DiskCache::Lock::State;
  DiskCache::Lock lock = disk->openLock(key);
  double start = monotonicSeconds(), pause = 0.001;
  State state = lock.tryAcquire();
  while (state == State::Busy) {
    if (pause == 0.001)
      waits.fetch_add(1, std::memory_order_relaxed);
    if (monotonicSeconds() - start >= options.lockTimeout) {
      warn(key,
           "waited " + std::to_string(int(options.lockTimeout)) +
               " s for another process that holds the lock; compiling here "
               "too (ATTNC_LOCK_TIMEOUT sets the wait)",
           lock.lockPath());
      return compileHere(key, builder, "another process did not finish");
    }
    std::this_thread::sleep_for(std::chrono::duration<double>(pause));
    pause = std::min(pause * 1.5, 0.05);
    std::string stillMissing;
    if (auto program = fromDisk(key, builder, stillMissing))
      return *program;
    state = lock.tryAcquire();
  }
  if (pause != 0.001)
    events.emit({EventKind::Wait,
                 key.text(),
                 "another process held the lock",
                 lock.lockPath(),
                 {{"wait", monotonicSeconds() - start}}});
  // The one that had the lock before may have published since the miss.
  if (state == State::Held)
    if (auto program = fromDisk(key, builder, reason))
      return *program;
  Program program = compileHere(key, builder, reason);
  lock.release();
  if (program)
    pruneIfDue();
  return program;
}

//===----------------------------------------------------------------------===//
// Compiling
//===----------------------------------------------------------------------===//

KernelCache::Program KernelCache::compileHere(const RequestKey &key,
                                              ProgramBuilder &builder,
                                              const std::string &reason) {
  PhaseTimes times;
  double start = monotonicSeconds();
  compiles.fetch_add(1, std::memory_order_relaxed);
  Result<Entry> entry = builder.compile(times);
  times.emplace_back("total", monotonicSeconds() - start);
  events.emit({EventKind::Compile, key.text(),
               entry ? reason : "failed: " + entry.failure().message, "",
               times});
  if (!entry)
    return entry.failure();
  entry->key = key.text();
  entry->compiler = options.compiler;
  entry->created = int64_t(time(nullptr));
  Program program = adopt(key, *entry, builder);
  if (program && disk)
    publish(*entry);
  return program;
}

/// Loads an entry, or takes the program that another request with the same
/// content loaded, and puts it into the table.
KernelCache::Program KernelCache::adopt(const RequestKey &key,
                                        const Entry &entry,
                                        ProgramBuilder &builder) {
  std::string content = entry.verifiedContent.empty() ? entry.contentKey()
                                                      : entry.verifiedContent;
  {
    std::lock_guard<std::mutex> lock(mutex);
    auto known = byContent.find(content);
    if (known != byContent.end()) {
      if (const LoadedProgram *found = table.find(key))
        return found;
      shared.fetch_add(1, std::memory_order_relaxed);
      table.insert(key, known->second.get());
      return known->second.get();
    }
  }
  Result<std::unique_ptr<LoadedProgram>> loaded = builder.load(entry);
  if (!loaded)
    return loaded.failure();
  std::lock_guard<std::mutex> lock(mutex);
  // A thread that timed out may have been faster: then its program stays.
  if (const LoadedProgram *found = table.find(key))
    return found;
  auto [at, added] = byContent.try_emplace(content, std::move(*loaded));
  if (!added)
    shared.fetch_add(1, std::memory_order_relaxed);
  table.insert(key, at->second.get());
  return at->second.get();
}

void KernelCache::publish(const Entry &entry) {
  double start = monotonicSeconds();
  RequestKey key(entry.key);
  if (auto problem = disk->publish(entry)) {
    warnOnce(
        warnedPublish, key,
        "the compiled program is not kept for other processes: " + *problem +
            "; set ATTNC_CACHE_DIR to a directory you can write",
        disk->path());
    return;
  }
  events.emit({EventKind::Publish,
               entry.key,
               "",
               disk->pathOf(key),
               {{"publish", monotonicSeconds() - start}}});
}

void KernelCache::pruneIfDue() {
  if (!disk->wantsPruning())
    return;
  Result<DiskCache::Removed> removed = disk->prune(disk->limit());
  if (removed && removed->entries)
    events.emit({EventKind::Prune,
                 "",
                 std::to_string(removed->entries) + " entries of " +
                     std::to_string(removed->bytes) + " bytes removed, " +
                     std::to_string(removed->entriesLeft) + " left",
                 disk->path(),
                 {}});
}

Failure KernelCache::forbid(const RequestKey &key, ProgramBuilder &builder,
                            const std::string &reason) {
  std::string message =
      "ATTNC_JIT=forbid, and the program [" + key.text() + "] is " + reason +
      (disk ? " (" + disk->pathOf(key) + ")" : "") +
      "; to add it, unset ATTNC_JIT and run: " + builder.commandToAdd();
  events.emit({EventKind::Forbidden, key.text(), message, "", {}});
  return {Status::JitForbidden, std::move(message)};
}

//===----------------------------------------------------------------------===//
// Telling
//===----------------------------------------------------------------------===//

void KernelCache::warn(const RequestKey &key, std::string reason,
                       std::string path) {
  events.emit(
      {EventKind::Warning, key.text(), std::move(reason), std::move(path), {}});
}

void KernelCache::warnOnce(std::atomic<bool> &warned, const RequestKey &key,
                           std::string reason, std::string path) {
  if (!warned.exchange(true))
    warn(key, std::move(reason), std::move(path));
}

void KernelCache::countHit() {
  static std::atomic<unsigned> threads{0};
  thread_local unsigned mine = threads.fetch_add(1) % 16;
  hits[mine].count.fetch_add(1, std::memory_order_relaxed);
}

KernelCache::Counters KernelCache::counters() const {
  Counters counters;
  for (const HitCounter &hit : hits)
    counters.memoryHits += hit.count.load(std::memory_order_relaxed);
  counters.packageHits = packageHits;
  counters.diskHits = diskHits;
  counters.compiles = compiles;
  counters.waits = waits;
  counters.shared = shared;
  return counters;
}
