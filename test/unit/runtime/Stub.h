//===- Stub.h - A compiler that compiles nothing ----------------*- C++ -*-===//
//
// What the tests of the kernel cache share: a program builder whose code is a
// function of its key, temporary directories, and processes to try things in.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_TEST_UNIT_RUNTIME_STUB_H
#define ATTNC_TEST_UNIT_RUNTIME_STUB_H

#include "lib/Runtime/KernelCache.h"
#include "lib/Runtime/Sha256.h"

#include "gtest/gtest.h"

#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <functional>
#include <sys/stat.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace attnc {

class StubProgram : public LoadedProgram {
public:
  explicit StubProgram(std::string code) : code(std::move(code)) {}
  const std::string code;
};

/// The right code of a key: about 9 kB.
inline std::string codeOf(const std::string &key) {
  std::string code;
  for (int i = 0; i < 144; ++i)
    code += Sha256::hexOf(key + std::to_string(i));
  return code;
}

/// An entry as a build of packages makes it.
inline Entry stubEntry(const std::string &key,
                       const std::string &compiler = "stub-1") {
  Entry entry;
  entry.key = key;
  entry.compiler = compiler;
  entry.metadata["requires.cpu"] = "any";
  entry.sections.emplace_back("code", codeOf(key));
  return entry;
}

class StubBuilder : public ProgramBuilder {
public:
  explicit StubBuilder(std::string key, std::string tally = {},
                       double seconds = 0)
      : key(std::move(key)), tally(std::move(tally)), seconds(seconds) {}

  Result<Entry> compile(PhaseTimes &times) override {
    if (!tally.empty()) {
      // One byte per compile, of whichever process.
      int fd = open(tally.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0666);
      ssize_t written = write(fd, "x", 1);
      (void)written;
      close(fd);
    }
    while (until && !*until)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    if (seconds)
      std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
    if (fails)
      return Failure{Status::CompileFailed, "the stub was told to fail"};
    times.emplace_back("stub", seconds);
    Entry entry;
    entry.metadata["requires.cpu"] = "any";
    entry.sections.emplace_back("code", codeOf(key));
    return entry;
  }
  Result<std::unique_ptr<LoadedProgram>> load(const Entry &entry) override {
    const std::string *code = entry.section("code");
    if (!code)
      return Failure{Status::LoadFailed, "there is no section 'code'"};
    return std::unique_ptr<LoadedProgram>(new StubProgram(*code));
  }
  std::optional<std::string> unusable(const Entry &entry) override {
    auto found = entry.metadata.find("requires.cpu");
    if (found == entry.metadata.end() || found->second != "any")
      return "it needs another cpu";
    return std::nullopt;
  }
  std::string commandToAdd() const override {
    return "attnc cache add '" + key + "'";
  }

  std::string key, tally;
  double seconds;
  /// A compile goes on until this is true.
  const std::atomic<bool> *until = nullptr;
  bool fails = false;
};

/// Whether the cache gives the right code for the key.
inline bool givesRightCode(KernelCache &cache, const std::string &key,
                           StubBuilder &builder) {
  auto program = cache.get(RequestKey(key), builder);
  return program &&
         static_cast<const StubProgram *>(*program)->code == codeOf(key);
}

inline bool givesRightCode(KernelCache &cache, const std::string &key) {
  StubBuilder builder(key);
  return givesRightCode(cache, key, builder);
}

inline KernelCacheOptions optionsFor(const std::string &directory,
                                     double lockTimeout = 20) {
  KernelCacheOptions options;
  options.directory = directory;
  options.compiler = "stub-1";
  options.lockTimeout = lockTimeout;
  return options;
}

inline EventSink quiet() { return EventSink(EventSink::Level::Off); }

/// Collects events by callback.
struct Recorder {
  std::vector<Event> events;
  void listen(KernelCache &cache) {
    cache.eventSink().setCallback(
        [](const Event &event, void *self) {
          static_cast<Recorder *>(self)->events.push_back(event);
        },
        this);
  }
  int count(EventKind kind) const {
    int found = 0;
    for (const Event &event : events)
      found += event.kind == kind;
    return found;
  }
  std::string reasonOf(EventKind kind) const {
    for (const Event &event : events)
      if (event.kind == kind)
        return event.reason;
    return "";
  }
};

/// A directory of the test's own, gone with all in it afterwards.
class TemporaryDirectory {
public:
  TemporaryDirectory() {
    // In memory where possible: fsync on a busy disk takes its time, a
    // thousand times over.
    char memory[] = "/dev/shm/attnc-test-XXXXXX",
         disk[] = "/tmp/attnc-test-XXXXXX";
    path = mkdtemp(memory) ? memory : mkdtemp(disk);
  }
  ~TemporaryDirectory() {
    std::error_code error;
    if (std::filesystem::remove_all(path, error), !error)
      return;
    // Tests make parts of it unwritable.
    std::string command = "chmod -R u+rwx " + path + " && rm -rf " + path;
    int status = std::system(command.c_str());
    (void)status;
  }
  std::string path;
  std::string operator/(const std::string &name) const {
    return path + "/" + name;
  }
};

/// Runs `body` in a forked process and returns its exit status: 0 when the
/// body returned true, 1 when false, 128 + n when signal n ended it.
inline int statusOf(pid_t pid) {
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
    ;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
inline pid_t start(const std::function<bool()> &body) {
  std::fflush(nullptr);
  pid_t pid = fork();
  if (pid == 0)
    _exit(body() ? 0 : 1);
  return pid;
}
inline int inProcess(const std::function<bool()> &body) {
  return statusOf(start(body));
}

inline std::string contents(const std::string &path) {
  std::string bytes;
  if (FILE *file = std::fopen(path.c_str(), "rb")) {
    char buffer[4096];
    size_t got;
    while ((got = std::fread(buffer, 1, sizeof(buffer), file)))
      bytes.append(buffer, got);
    std::fclose(file);
  }
  return bytes;
}

inline void overwrite(const std::string &path, const std::string &bytes) {
  FILE *file = std::fopen(path.c_str(), "wb");
  ASSERT_NE(file, nullptr) << path;
  std::fwrite(bytes.data(), 1, bytes.size(), file);
  std::fclose(file);
}

/// Sets a file's modification time relative to now.
inline void setAge(const std::string &path, int64_t seconds) {
  timespec times[2];
  times[0].tv_sec = times[1].tv_sec = time(nullptr) - seconds;
  times[0].tv_nsec = times[1].tv_nsec = 0;
  ASSERT_EQ(utimensat(AT_FDCWD, path.c_str(), times, 0), 0) << path;
}

inline std::vector<std::string> namesIn(const std::string &directory) {
  std::vector<std::string> names;
  FileOps &ops = FileOps::system();
  int fd = ops.openDirectory(directory);
  if (fd >= 0) {
    ops.list(fd, names);
    ops.close(fd);
  }
  return names;
}

} // namespace attnc

#endif // ATTNC_TEST_UNIT_RUNTIME_STUB_H
