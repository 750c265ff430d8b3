//===- DiskCache.cpp - Compiled programs in a directory -------------------===//

#include "lib/Runtime/DiskCache.h"

#include "lib/Environment/Environment.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <unistd.h>

using namespace attnc;

/// A use is recorded at most this often, so that hits rarely write.
static constexpr int64_t useGranularity = 3600;
/// A temporary file older than this was left behind by a killed process.
static constexpr int64_t abandonedAfter = 3600;
/// No entry is this large; a larger file is not read.
static constexpr int64_t largestEntry = int64_t(1) << 30;
static constexpr std::string_view suffix = ".attnc";
static constexpr std::string_view temporaryPrefix = ".tmp-";

std::string attnc::errorText(int error) {
  char buffer[128];
  return strerror_r(error, buffer, sizeof(buffer));
}

static bool isEntryName(std::string_view name) {
  if (name.size() != 32 + suffix.size() || name.substr(32) != suffix)
    return false;
  return name.find_first_not_of("0123456789abcdef") == 32;
}

Result<std::string> attnc::cacheDirectoryFromEnvironment(FileOps &ops) {
  std::string chosen;
  if (auto dir = environment(Variable::CacheDir))
    chosen = *dir;
  else if (auto xdg = environment(Variable::XdgCacheHome);
           xdg && xdg->front() == '/')
    chosen = *xdg + "/attnc";
  else if (auto home = environment(Variable::Home); home && *home != "/")
    chosen = *home + "/.cache/attnc";
  else
    return Failure{Status::InvalidArgument,
                   "there is no home directory to keep a cache in"};
  if (chosen.front() == '/')
    return chosen;
  std::string current;
  if (int error = ops.currentDirectory(current))
    return Failure{Status::InvalidArgument,
                   "the cache directory '" + chosen +
                       "' is relative and the working directory cannot be "
                       "found: " +
                       errorText(-error)};
  return current + "/" + chosen;
}

//===----------------------------------------------------------------------===//
// The directory
//===----------------------------------------------------------------------===//

std::optional<std::string> DiskCache::makeDirectories() {
  int first = 0;
  for (size_t slash = directory.find('/', 1);;
       slash = directory.find('/', slash + 1)) {
    int error = ops.makeDirectory(directory.substr(0, slash));
    // A parent may exist and yet answer EROFS or EACCES: what counts is
    // whether the last one works, and then the first error explains most.
    if (!first && error != -EEXIST)
      first = error;
    if (slash != std::string::npos)
      continue;
    if (error < 0 && error != -EEXIST)
      return "cannot make '" + directory + "': " + errorText(-first);
    return std::nullopt;
  }
}

std::optional<std::string> attnc::distrust(const FileInfo &info, uint32_t us,
                                           const std::string &what) {
  if (info.owner != us && info.owner != 0)
    return what + " belongs to user " + std::to_string(info.owner) +
           ", not to user " + std::to_string(us) +
           ": what it holds would run as code";
  if (info.mode & 022)
    return what + " can be written by others: what it holds would run as "
                  "code; run chmod go-w on it";
  return std::nullopt;
}

DiskCache::Opened DiskCache::open(bool create) {
  int fd = ops.openDirectory(directory);
  if (fd == -ENOENT && create) {
    if (auto problem = makeDirectories())
      return {Descriptor(ops, -EACCES), *problem};
    fd = ops.openDirectory(directory);
  }
  Descriptor opened(ops, fd);
  if (!opened) {
    int error = opened.error();
    return {std::move(opened),
            "cannot open '" + directory + "': " + errorText(error),
            error == ENOENT};
  }
  FileInfo info;
  if (int error = ops.info(opened.get(), info))
    return {Descriptor(ops, error),
            "cannot look at '" + directory + "': " + errorText(-error)};
  if (auto why = distrust(info, ops.userId(), "'" + directory + "'"))
    return {Descriptor(ops, -EPERM), *why};
  return {std::move(opened), {}};
}

//===----------------------------------------------------------------------===//
// Reading
//===----------------------------------------------------------------------===//

/// Reads up to `size` bytes: fewer only at the end of the file.
static int64_t readFully(FileOps &ops, int fd, char *data, size_t size) {
  size_t done = 0;
  while (done < size) {
    int64_t got = ops.read(fd, data + done, size - done);
    if (got == -EINTR)
      continue;
    if (got < 0)
      return got;
    if (got == 0)
      break;
    done += size_t(got);
  }
  return int64_t(done);
}

Result<std::string> DiskCache::readAll(int directory, const std::string &name,
                                       FileInfo &info, bool &absent) {
  auto fail = [](std::string message) {
    return Failure{Status::LoadFailed, std::move(message)};
  };
  Descriptor file(ops, ops.openFile(directory, name));
  absent = file.error() == ENOENT;
  if (absent)
    return fail("not in the cache");
  if (!file)
    return fail("cannot open the entry: " + errorText(file.error()));
  if (int error = ops.info(file.get(), info))
    return fail("cannot look at the entry: " + errorText(-error));
  if (!info.isRegular || info.size > largestEntry)
    return fail("the entry is not a file of a sane size");
  if (auto why = distrust(info, ops.userId(), "the entry"))
    return fail(*why);
  std::string bytes(size_t(info.size), '\0');
  int64_t got = readFully(ops, file.get(), bytes.data(), bytes.size());
  if (got < 0)
    return fail("cannot read the entry: " + errorText(int(-got)));
  bytes.resize(size_t(got));
  // A use well in the future would keep an entry for ever: set it right. A
  // little ahead is how clocks are: the kernel stamps files with a finer clock
  // than now() reads, so a file just written may be of the next second.
  int64_t age = ops.now() - info.modified;
  if (age > useGranularity || age < -useGranularity)
    ops.touch(file.get());
  return bytes;
}

DiskCache::Loaded DiskCache::load(const RequestKey &key) {
  auto miss = [](std::string reason, bool unusable = false) {
    return Loaded{std::nullopt, std::move(reason), unusable};
  };
  Opened opened = open(/*create=*/false);
  if (!opened.directory)
    return opened.missing ? miss("not in the cache")
                          : miss(opened.problem, true);
  FileInfo info;
  bool absent;
  Result<std::string> bytes =
      readAll(opened.directory.get(), key.entryName(compiler), info, absent);
  if (!bytes)
    return miss(bytes.failure().message);
  Result<Entry> entry = parseEntry(*bytes);
  if (!entry)
    return miss("the entry is " + entry.failure().message);
  if (entry->compiler != compiler)
    return miss("the entry is of another compiler (" + entry->compiler + ")");
  if (entry->key != key.text())
    return miss("the entry is of another program (" + entry->key + ")");
  return {std::move(*entry), {}, false};
}

std::optional<std::string> DiskCache::verify(const std::string &name) {
  Opened opened = open(/*create=*/false);
  if (!opened.directory)
    return opened.problem;
  FileInfo info;
  bool absent;
  Result<std::string> bytes =
      readAll(opened.directory.get(), name, info, absent);
  if (!bytes)
    return bytes.failure().message;
  Result<Entry> entry = parseEntry(*bytes);
  if (!entry)
    return entry.failure().message;
  if (RequestKey(entry->key).entryName(entry->compiler) != name)
    return "the entry lies under the name of another";
  return std::nullopt;
}

//===----------------------------------------------------------------------===//
// Writing
//===----------------------------------------------------------------------===//

/// Writes it all, or returns a negative errno.
static int64_t writeFully(FileOps &ops, int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    int64_t written = ops.write(fd, bytes.data(), bytes.size());
    if (written == -EINTR)
      continue;
    if (written < 0)
      return written;
    if (written == 0)
      return -ENOSPC;
    bytes.remove_prefix(size_t(written));
  }
  return 0;
}

/// Fills the temporary file and closes it.
static std::optional<std::string> stage(FileOps &ops, int fd,
                                        std::string_view bytes) {
  Descriptor file(ops, fd);
  if (int64_t error = writeFully(ops, fd, bytes))
    return "cannot write the entry: " + errorText(int(-error));
  if (int error = ops.sync(fd))
    return "cannot synchronise the entry: " + errorText(-error);
  // A network file system may report a failed write only here.
  if (int error = ops.close(file.release()))
    return "cannot close the entry: " + errorText(-error);
  return std::nullopt;
}

/// A name no other writer has, in this process or another: several machines,
/// or containers with equal process ids, may share the directory.
static std::string temporaryName() {
  static std::atomic<unsigned> count{0};
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return std::string(temporaryPrefix) + std::to_string(getpid()) + "-" +
         std::to_string(now.tv_sec) + "." + std::to_string(now.tv_nsec) + "-" +
         std::to_string(count.fetch_add(1));
}

std::optional<std::string> DiskCache::publish(const Entry &entry) {
  Opened opened = open(/*create=*/true);
  if (!opened.directory)
    return opened.problem;
  int directory = opened.directory.get();
  std::string bytes = entry.serialize(), temporary;
  int file = -EEXIST;
  for (int attempt = 0; attempt < 8 && file == -EEXIST; ++attempt) {
    temporary = temporaryName();
    file = ops.createFile(directory, temporary);
  }
  if (file < 0)
    return "cannot create a file: " + errorText(-file);
  std::optional<std::string> problem = stage(ops, file, bytes);
  if (!problem) {
    std::string name = RequestKey(entry.key).entryName(entry.compiler);
    if (int error = ops.rename(directory, temporary, name))
      problem = "cannot publish the entry: " + errorText(-error);
  }
  if (problem) {
    ops.remove(directory, temporary);
    return problem;
  }
  // Published. Only a power failure could still undo the rename, and then the
  // entry is whole or absent: a failure here is not one of the request.
  ops.sync(directory);
  uint64_t written = writtenSincePrune.load();
  if (written != UINT64_MAX)
    writtenSincePrune.store(written + bytes.size());
  return std::nullopt;
}

//===----------------------------------------------------------------------===//
// Locks
//===----------------------------------------------------------------------===//

DiskCache::Lock DiskCache::openLock(const RequestKey &key) {
  std::string name = ".lock-" + key.entryName(compiler).substr(0, 2);
  Opened opened = open(/*create=*/true);
  int fd =
      opened.directory ? ops.openLock(opened.directory.get(), name) : -EACCES;
  return Lock(ops, Descriptor(ops, fd), directory + "/" + name);
}

DiskCache::Lock::State DiskCache::Lock::tryAcquire() {
  if (!file)
    return State::Unavailable;
  int error = ops.tryLock(file.get());
  if (error == -EWOULDBLOCK || error == -EINTR)
    return State::Busy;
  if (error)
    return State::Unavailable;
  held = true;
  return State::Held;
}

void DiskCache::Lock::release() {
  // Unlocked before it is closed: a forked child may share the open file.
  if (held)
    ops.unlock(file.get());
  held = false;
}

//===----------------------------------------------------------------------===//
// Listing and pruning
//===----------------------------------------------------------------------===//

/// Reads the header, which nearly always lies within the first read.
static void readHeader(FileOps &ops, int directory, DiskCache::Listed &listed) {
  Descriptor file(ops, ops.openFile(directory, listed.name));
  if (!file) {
    listed.problem = "cannot open: " + errorText(file.error());
    return;
  }
  std::string bytes;
  for (size_t want = 2048;; want *= 8) {
    size_t had = bytes.size();
    bytes.resize(want);
    int64_t got =
        readFully(ops, file.get(), bytes.data() + had, bytes.size() - had);
    if (got < 0) {
      listed.problem = "cannot read: " + errorText(int(-got));
      return;
    }
    bytes.resize(had + size_t(got));
    Result<EntryHeader> header = parseEntryHeader(bytes);
    if (!header && bytes.size() == want && want < (size_t(1) << 24))
      continue;
    if (header)
      listed.header = std::move(*header);
    else
      listed.problem = header.failure().message;
    return;
  }
}

Result<std::vector<DiskCache::Listed>> DiskCache::list() {
  Opened opened = open(/*create=*/false);
  if (!opened.directory) {
    if (opened.missing)
      return std::vector<Listed>();
    return Failure{Status::LoadFailed, opened.problem};
  }
  std::vector<std::string> names;
  if (int error = ops.list(opened.directory.get(), names))
    return Failure{Status::LoadFailed,
                   "cannot list '" + directory + "': " + errorText(-error)};
  std::vector<Listed> entries;
  for (std::string &name : names) {
    FileInfo info;
    if (!isEntryName(name) ||
        ops.infoAt(opened.directory.get(), name, info) < 0)
      continue;
    Listed listed{name, uint64_t(info.size), info.modified, {}, {}};
    readHeader(ops, opened.directory.get(), listed);
    entries.push_back(std::move(listed));
  }
  std::sort(entries.begin(), entries.end(),
            [](const Listed &a, const Listed &b) {
              return a.used != b.used ? a.used > b.used : a.name < b.name;
            });
  return entries;
}

Result<DiskCache::Removed> DiskCache::prune(uint64_t limit) {
  return removeUntil(limit ? limit : UINT64_MAX, /*everything=*/false);
}

Result<DiskCache::Removed> DiskCache::clear() {
  return removeUntil(0, /*everything=*/true);
}

bool DiskCache::wantsPruning() const {
  return sizeLimit && writtenSincePrune.load() > sizeLimit / 16;
}

namespace {
struct Candidate {
  std::string name;
  uint64_t size;
  int64_t used;
};
} // namespace

Result<DiskCache::Removed> DiskCache::removeUntil(uint64_t limit,
                                                  bool everything) {
  writtenSincePrune.store(0);
  Opened opened = open(/*create=*/false);
  if (!opened.directory) {
    if (opened.missing)
      return Removed();
    return Failure{Status::LoadFailed, opened.problem};
  }
  int fd = opened.directory.get();
  std::vector<std::string> names;
  if (int error = ops.list(fd, names))
    return Failure{Status::LoadFailed,
                   "cannot list '" + directory + "': " + errorText(-error)};
  Removed removed;
  std::vector<Candidate> candidates;
  int64_t now = ops.now();
  for (std::string &name : names) {
    bool temporary =
        name.compare(0, temporaryPrefix.size(), temporaryPrefix) == 0;
    FileInfo info;
    if ((!temporary && !isEntryName(name)) || ops.infoAt(fd, name, info) < 0)
      continue;
    // Clocks go wrong: a file from well into the future is as abandoned as
    // an old one, and a use in the future counts as one now.
    int64_t age = now - info.modified;
    if (temporary) {
      if (everything || age > abandonedAfter || age < -abandonedAfter)
        ops.remove(fd, name);
      continue;
    }
    candidates.push_back(
        {name, uint64_t(info.size), std::min(info.modified, now)});
    removed.bytesLeft += uint64_t(info.size);
  }
  removed.entriesLeft = candidates.size();
  std::sort(candidates.begin(), candidates.end(),
            [](const Candidate &a, const Candidate &b) {
              return a.used != b.used ? a.used < b.used : a.name < b.name;
            });
  for (Candidate &candidate : candidates) {
    if (!everything && removed.bytesLeft <= limit)
      break;
    // Readers hold the file open and read on; another pruner may have been
    // faster.
    int error = ops.remove(fd, candidate.name);
    if (error && error != -ENOENT)
      continue;
    ++removed.entries, --removed.entriesLeft;
    removed.bytes += candidate.size;
    removed.bytesLeft -= candidate.size;
  }
  return removed;
}
