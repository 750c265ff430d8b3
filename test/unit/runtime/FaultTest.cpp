//===- FaultTest.cpp - Every file operation of the cache goes wrong -------===//
//
// One scenario touches everything the cache does with files. It is run once
// to count its operations, then once for each operation and kind of fault.
//
//===----------------------------------------------------------------------===//

#include "test/unit/runtime/FaultFileOps.h"
#include "test/unit/runtime/Stub.h"

using namespace attnc;

namespace {
/// An hour goes by, so that what a killed process left counts as abandoned.
struct LaterFileOps : FileOps {
  int64_t now() override { return FileOps::now() + 2 * 3600; }
};

class FaultTest : public ::testing::Test {
protected:
  /// A cache that holds "old", last used a while ago, and a temporary file of
  /// a process that died: the run then has a use to record and something to
  /// clean up.
  static void prepare(const std::string &directory) {
    KernelCache cache(optionsFor(directory), quiet());
    ASSERT_TRUE(givesRightCode(cache, "old"));
    setAge(cache.diskCache()->pathOf(RequestKey("old")), 9000);
    overwrite(directory + "/.tmp-0-left", "x");
    setAge(directory + "/.tmp-0-left", 9000);
    overwrite(packageOf(directory),
              Package::serialize("stub-1", {stubEntry("packed")}));
  }
  static std::string packageOf(const std::string &directory) {
    return directory + "-package";
  }

  /// Finds "old" and compiles "new", lists, verifies, prunes. True when both
  /// programs were right, whatever happened to files.
  static bool scenario(const std::string &directory, FileOps &ops) {
    KernelCacheOptions options = optionsFor(directory, 0.2);
    options.sizeLimit = 1 << 20;
    options.packages = {packageOf(directory)};
    KernelCache cache(options, quiet(), ops);
    bool right = givesRightCode(cache, "old") && givesRightCode(cache, "new") &&
                 givesRightCode(cache, "packed");
    auto entries = cache.diskCache()->list();
    if (entries)
      for (auto &entry : *entries)
        cache.diskCache()->verify(entry.name);
    cache.diskCache()->prune(1 << 20);
    return right;
  }

  /// Afterwards, with files in order: nothing is lost, nothing is wrong, and
  /// nothing is left behind.
  static void check(const std::string &directory, bool prepared) {
    LaterFileOps later;
    KernelCache cache(optionsFor(directory), quiet(), later);
    EXPECT_TRUE(givesRightCode(cache, "old"));
    EXPECT_EQ(cache.counters().compiles,
              prepared ? 0u : cache.counters().compiles)
        << "an entry was lost";
    EXPECT_TRUE(givesRightCode(cache, "new"));
    auto entries = cache.diskCache()->list();
    ASSERT_TRUE(entries);
    // "packed" too is on disk when the package could not be read.
    EXPECT_GE(entries->size(), 2u);
    EXPECT_LE(entries->size(), 3u);
    for (auto &entry : *entries)
      EXPECT_EQ(cache.diskCache()->verify(entry.name), std::nullopt);
    ASSERT_TRUE(cache.diskCache()->prune(0));
    for (auto &name : namesIn(directory))
      EXPECT_NE(name.compare(0, 5, ".tmp-"), 0) << name;
  }

  static void failEach(Fault fault, bool onwards, bool prepared) {
    int total = 0;
    for (int at = -1; at < total; ++at) {
      SCOPED_TRACE("operation " + std::to_string(at));
      TemporaryDirectory temporary;
      std::string directory = temporary / "home/cache";
      if (prepared)
        prepare(directory);
      FaultFileOps ops(fault, at, onwards);
      EXPECT_TRUE(scenario(directory, ops));
      if (at < 0)
        total = ops.count();
      else
        EXPECT_TRUE(ops.reached());
      check(directory, prepared);
      if (HasFailure())
        return;
    }
    EXPECT_GT(total, prepared ? 40 : 30);
  }

  static void killEach(Fault fault, bool prepared) {
    int total = 0;
    for (int at = -1; at < total; ++at) {
      SCOPED_TRACE("operation " + std::to_string(at));
      TemporaryDirectory temporary;
      std::string directory = temporary / "home/cache";
      if (prepared)
        prepare(directory);
      if (at < 0) {
        FaultFileOps ops;
        EXPECT_TRUE(scenario(directory, ops));
        total = ops.count();
        continue;
      }
      int status = inProcess([&] {
        FaultFileOps ops(fault, at);
        return scenario(directory, ops);
      });
      EXPECT_EQ(status, killedByFault) << "the operation was not reached";
      check(directory, prepared);
      if (HasFailure())
        return;
    }
    EXPECT_GT(total, prepared ? 40 : 30);
  }
};
} // namespace

TEST_F(FaultTest, TheScenarioUsesEveryOperation) {
  TemporaryDirectory temporary;
  prepare(temporary / "cache");
  FaultFileOps used, fresh;
  EXPECT_TRUE(scenario(temporary / "cache", used));
  EXPECT_TRUE(scenario(temporary / "home/fresh", fresh));
  std::set<std::string> seen = used.seen();
  seen.insert(fresh.seen().begin(), fresh.seen().end());
  // currentDirectory is only for a relative ATTNC_CACHE_DIR (ProcessTest).
  std::set<std::string> all = {
      "openDirectory", "makeDirectory", "openFile", "createFile", "openLock",
      "info",          "infoAt",        "read",     "readAt",     "write",
      "sync",          "close",         "rename",   "remove",     "list",
      "touch",         "tryLock",       "unlock"};
  EXPECT_EQ(seen, all);
}

TEST_F(FaultTest, ReadOnlyOnce) { failEach(Fault::ReadOnly, false, true); }
TEST_F(FaultTest, ReadOnlyOnwards) { failEach(Fault::ReadOnly, true, true); }
TEST_F(FaultTest, NoSpaceOnce) { failEach(Fault::NoSpace, false, true); }
TEST_F(FaultTest, NoSpaceOnwards) { failEach(Fault::NoSpace, true, true); }
TEST_F(FaultTest, InputOutputOnce) {
  failEach(Fault::InputOutput, false, true);
}
TEST_F(FaultTest, InputOutputOnwards) {
  failEach(Fault::InputOutput, true, true);
}
TEST_F(FaultTest, ShortOnce) { failEach(Fault::Short, false, true); }
TEST_F(FaultTest, ShortOnwards) { failEach(Fault::Short, true, true); }
TEST_F(FaultTest, FreshDirectoryReadOnly) {
  failEach(Fault::ReadOnly, true, false);
}
TEST_F(FaultTest, FreshDirectoryNoSpace) {
  failEach(Fault::NoSpace, false, false);
}
TEST_F(FaultTest, KilledBefore) { killEach(Fault::KillBefore, true); }
TEST_F(FaultTest, KilledAfter) { killEach(Fault::KillAfter, true); }
TEST_F(FaultTest, FreshDirectoryKilledBefore) {
  killEach(Fault::KillBefore, false);
}
TEST_F(FaultTest, FreshDirectoryKilledAfter) {
  killEach(Fault::KillAfter, false);
}
