//===- ProcessTest.cpp - Several processes, forks, and poor surroundings --===//

#include "test/unit/runtime/Stub.h"

#include <csignal>
#include <grp.h>
#include <sys/resource.h>

using namespace attnc;

namespace {
class ProcessTest : public ::testing::Test {
protected:
  TemporaryDirectory temporary;
  std::string directory = temporary / "cache";
  std::string tally = temporary / "tally";
  int compiles() { return int(contents(tally).size()); }

  /// Sets a variable in this process; tests call it in children.
  static void set(const char *name, const std::string &value) {
    setenv(name, value.c_str(), 1);
  }
  static void clearEnvironment() {
    for (const char *name : {"ATTNC_CACHE", "ATTNC_CACHE_DIR", "ATTNC_JIT",
                             "ATTNC_CACHE_SIZE", "XDG_CACHE_HOME", "HOME"})
      unsetenv(name);
    set("ATTNC_LOG", "off");
  }
  /// A cache as the environment describes it, and what it said.
  struct FromEnvironment {
    Recorder recorder;
    KernelCache cache;
    FromEnvironment()
        : cache(KernelCacheOptions::fromEnvironment("stub-1", quiet()),
                quiet()) {
      recorder.listen(cache);
    }
  };
};
} // namespace

TEST_F(ProcessTest, SixteenProcessesWithOneColdKeyCompileOnce) {
  int gate[2];
  ASSERT_EQ(pipe(gate), 0);
  std::vector<pid_t> children;
  for (int i = 0; i < 16; ++i)
    children.push_back(start([&] {
      close(gate[1]);
      char byte;
      ssize_t got = read(gate[0], &byte, 1); // until the gate closes
      (void)got;
      KernelCache cache(optionsFor(directory), quiet());
      StubBuilder builder("k", tally, 0.1);
      return givesRightCode(cache, "k", builder);
    }));
  close(gate[0]);
  close(gate[1]);
  for (pid_t child : children)
    EXPECT_EQ(statusOf(child), 0);
  EXPECT_EQ(compiles(), 1);
}

TEST_F(ProcessTest, TheLockOfAKilledProcessIsFree) {
  pid_t child = start([&] {
    KernelCache cache(optionsFor(directory), quiet());
    StubBuilder builder("k", tally, 600);
    return givesRightCode(cache, "k", builder);
  });
  while (compiles() == 0)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  kill(child, SIGKILL);
  EXPECT_EQ(statusOf(child), 128 + SIGKILL);
  KernelCache cache(optionsFor(directory), quiet());
  Recorder recorder;
  recorder.listen(cache);
  EXPECT_TRUE(givesRightCode(cache, "k"));
  EXPECT_EQ(recorder.count(EventKind::Warning), 0); // it did not time out
}

TEST_F(ProcessTest, ALockThatIsNeverReleasedIsWaitedForSoLong) {
  pid_t child = start([&] {
    KernelCache cache(optionsFor(directory), quiet());
    StubBuilder builder("k", tally, 600);
    return givesRightCode(cache, "k", builder);
  });
  while (compiles() == 0)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  KernelCache cache(optionsFor(directory, 0.2), quiet());
  Recorder recorder;
  recorder.listen(cache);
  EXPECT_TRUE(givesRightCode(cache, "k"));
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, WNOHANG), 0); // it holds the lock yet
  EXPECT_EQ(recorder.count(EventKind::Warning), 1);
  for (const Event &event : recorder.events)
    if (event.kind == EventKind::Warning)
      EXPECT_EQ(event.path.rfind(directory + "/.lock-", 0), 0u) << event.path;
  kill(child, SIGKILL);
  statusOf(child);
}

TEST_F(ProcessTest, AnInterruptedCompileLeavesAWorkingCache) {
  pid_t child = start([&] {
    signal(SIGINT, SIG_DFL);
    KernelCache cache(optionsFor(directory), quiet());
    StubBuilder builder("k", tally, 600);
    return givesRightCode(cache, "k", builder);
  });
  while (compiles() == 0)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  kill(child, SIGINT);
  EXPECT_EQ(statusOf(child), 128 + SIGINT);
  KernelCache cache(optionsFor(directory), quiet());
  EXPECT_TRUE(givesRightCode(cache, "k"));
}

TEST_F(ProcessTest, PruningUnderReadersNeverGivesAWrongProgram) {
  std::vector<pid_t> readers;
  for (int reader = 0; reader < 3; ++reader)
    readers.push_back(start([&] {
      for (int round = 0; round < 60; ++round) {
        KernelCache cache(optionsFor(directory), quiet());
        for (int key = 0; key < 4; ++key)
          if (!givesRightCode(cache, "key-" + std::to_string(key)))
            return false;
      }
      return true;
    }));
  DiskCache disk(FileOps::system(), directory, "stub-1");
  for (int round = 0; round < 200; ++round) {
    auto removed = round % 2 ? disk.clear() : disk.prune(20000);
    EXPECT_TRUE(removed);
    std::this_thread::sleep_for(std::chrono::microseconds(500));
  }
  for (pid_t reader : readers)
    EXPECT_EQ(statusOf(reader), 0);
}

TEST_F(ProcessTest, AForkedChildUsesWhatItHasAndCompilesWhatItHasNot) {
  KernelCache cache(optionsFor(directory), quiet());
  ASSERT_TRUE(givesRightCode(cache, "before"));
  // Another thread compiles while this one forks: the child must not wait for
  // a thread that it does not have.
  StubBuilder slow("slow", tally, 1.0);
  std::thread compiling([&] { givesRightCode(cache, "slow", slow); });
  while (compiles() == 0)
    std::this_thread::yield();
  pid_t child = start([&] {
    alarm(30); // hanging is failing
    if (!cache.find(RequestKey("before")))
      return false;
    return givesRightCode(cache, "after") && givesRightCode(cache, "before");
  });
  EXPECT_EQ(statusOf(child), 0);
  child = start([&] {
    alarm(30);
    return givesRightCode(cache, "slow");
  });
  EXPECT_EQ(statusOf(child), 0);
  compiling.join();
  EXPECT_TRUE(givesRightCode(cache, "slow"));
}

TEST_F(ProcessTest, LowLimitOfOpenFiles) {
  {
    KernelCache cache(optionsFor(directory), quiet());
    ASSERT_TRUE(givesRightCode(cache, "old"));
  }
  for (int spare = 0; spare < 6; ++spare)
    EXPECT_EQ(inProcess([&] {
                int next = open("/dev/null", O_RDONLY);
                close(next);
                rlimit limit{rlim_t(next + spare), rlim_t(next + spare)};
                if (setrlimit(RLIMIT_NOFILE, &limit))
                  return false;
                KernelCache cache(optionsFor(directory), quiet());
                return givesRightCode(cache, "old") &&
                       givesRightCode(cache, "new" + std::to_string(spare));
              }),
              0)
        << spare;
}

TEST_F(ProcessTest, DeletedWorkingDirectory) {
  std::string gone = temporary / "gone";
  ASSERT_EQ(mkdir(gone.c_str(), 0700), 0);
  auto inDeleted = [&](const std::string &cacheDirectory, bool expectDisk) {
    return inProcess([&] {
      mkdir(gone.c_str(), 0700);
      if (chdir(gone.c_str()) || rmdir(gone.c_str()))
        return false;
      clearEnvironment();
      set("ATTNC_CACHE_DIR", cacheDirectory);
      FromEnvironment state;
      bool onDisk = state.cache.diskCache() != nullptr;
      return givesRightCode(state.cache, "k") && onDisk == expectDisk;
    });
  };
  EXPECT_EQ(inDeleted(directory, true), 0);
  EXPECT_EQ(inDeleted("relative", false), 0);
}

TEST_F(ProcessTest, ARelativeDirectoryIsTakenFromWhereTheCacheWasMade) {
  EXPECT_EQ(inProcess([&] {
              if (chdir(temporary.path.c_str()))
                return false;
              clearEnvironment();
              set("ATTNC_CACHE_DIR", "here");
              FromEnvironment state;
              return !chdir("/") && givesRightCode(state.cache, "k") &&
                     state.recorder.count(EventKind::Publish) == 1;
            }),
            0);
  EXPECT_EQ(access((temporary / "here").c_str(), F_OK), 0);
}

TEST_F(ProcessTest, TheDirectoryIsWhereTheEnvironmentSays) {
  auto directoryWith = [&](const char *cache, const char *xdg,
                           const char *home) {
    clearEnvironment();
    if (cache)
      set("ATTNC_CACHE_DIR", cache);
    if (xdg)
      set("XDG_CACHE_HOME", xdg);
    if (home)
      set("HOME", home);
    auto found = cacheDirectoryFromEnvironment(FileOps::system());
    return found ? *found : "none: " + found.failure().message;
  };
  EXPECT_EQ(
      inProcess([&] {
        return directoryWith("/c", "/x", "/h") == "/c" &&
               directoryWith(nullptr, "/x", "/h") == "/x/attnc" &&
               directoryWith("", "/x", "/h") == "/x/attnc" &&
               directoryWith(nullptr, "rel", "/h") == "/h/.cache/attnc" &&
               directoryWith(nullptr, nullptr, "/").rfind("none", 0) == 0 &&
               directoryWith(nullptr, nullptr, nullptr).rfind("none", 0) == 0;
      }),
      0);
}

TEST_F(ProcessTest, NoHomeMeansMemoryAndOneWarning) {
  EXPECT_EQ(inProcess([&] {
              clearEnvironment();
              set("ATTNC_LOG", "warn");
              set("ATTNC_EVENTS", temporary / "events");
              EventSink sink = EventSink::fromEnvironment();
              int null = open("/dev/null", O_WRONLY);
              dup2(null, STDERR_FILENO);
              KernelCache cache(
                  KernelCacheOptions::fromEnvironment("stub-1", sink),
                  EventSink::fromEnvironment());
              return givesRightCode(cache, "one") &&
                     givesRightCode(cache, "two") && !cache.diskCache();
            }),
            0);
  std::string events = contents(temporary / "events");
  size_t first = events.find("\"warning\"");
  ASSERT_NE(first, std::string::npos);
  EXPECT_EQ(events.find("\"warning\"", first + 1), std::string::npos);
}

/// Becomes a user without privileges if it is root; says whether it worked.
static bool dropPrivileges() {
  if (geteuid() != 0)
    return true;
  return setgroups(0, nullptr) == 0 && setgid(65534) == 0 && setuid(65534) == 0;
}

TEST_F(ProcessTest, UnprivilegedUserWithAReadOnlyDirectory) {
  {
    KernelCache cache(optionsFor(directory), quiet());
    ASSERT_TRUE(givesRightCode(cache, "old"));
  }
  // As an administrator lays out a shared cache: all may read, none write.
  std::string command = "chmod a+rx " + temporary.path + " && chmod a+r " +
                        directory + "/* && chmod 0555 " + directory;
  ASSERT_EQ(std::system(command.c_str()), 0);
  int status = inProcess([&] {
    if (!dropPrivileges())
      return false;
    clearEnvironment();
    set("HOME", "/nonexistent");
    set("ATTNC_CACHE_DIR", directory);
    FromEnvironment state;
    bool right = givesRightCode(state.cache, "old") &&
                 givesRightCode(state.cache, "new") &&
                 givesRightCode(state.cache, "newer");
    return right && state.cache.counters().diskHits == 1 &&
           state.cache.counters().compiles == 2 &&
           state.recorder.count(EventKind::Warning) == 1;
  });
  EXPECT_EQ(status, 0);
}

TEST_F(ProcessTest, UnprivilegedUserWithAnUnwritableHome) {
  if (geteuid() != 0)
    GTEST_SKIP() << "needs root, to become another user";
  ASSERT_EQ(chmod(temporary.path.c_str(), 0755), 0);
  EXPECT_EQ(inProcess([&] {
              if (!dropPrivileges())
                return false;
              clearEnvironment();
              set("HOME", temporary.path);
              FromEnvironment state;
              return givesRightCode(state.cache, "one") &&
                     givesRightCode(state.cache, "two") &&
                     state.recorder.count(EventKind::Warning) == 1;
            }),
            0);
  EXPECT_TRUE(namesIn(temporary.path).empty());
}

TEST_F(ProcessTest, AForeignHomeIsNotUsed) {
  if (geteuid() != 0)
    GTEST_SKIP() << "needs root, to own a directory as another user";
  std::string cacheDirectory = temporary / ".cache/attnc";
  std::string command =
      "mkdir -p " + cacheDirectory + " && chown -R 65534 " + temporary.path;
  ASSERT_EQ(std::system(command.c_str()), 0);
  EXPECT_EQ(inProcess([&] {
              clearEnvironment();
              set("HOME", temporary.path);
              FromEnvironment state;
              return givesRightCode(state.cache, "one") &&
                     state.recorder.count(EventKind::Publish) == 0 &&
                     state.recorder.count(EventKind::Warning) >= 1;
            }),
            0);
  EXPECT_TRUE(namesIn(cacheDirectory).empty());
}
