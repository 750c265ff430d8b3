//===- PackageTest.cpp - Compiled programs in one file --------------------===//

#include "test/unit/runtime/Stub.h"

using namespace attnc;

namespace {
class PackageTest : public ::testing::Test {
protected:
  TemporaryDirectory temporary;
  std::string path = temporary / "package";

  void write(const std::vector<Entry> &entries,
             const std::string &compiler = "stub-1") {
    overwrite(path, Package::serialize(compiler, entries));
    ASSERT_EQ(chmod(path.c_str(), 0644), 0);
  }
  KernelCacheOptions options(JitPolicy jit = JitPolicy::Forbid) {
    KernelCacheOptions result = optionsFor("");
    result.packages = {path};
    result.jit = jit;
    return result;
  }
  /// Why the package cannot be used.
  std::string problem() {
    auto opened = Package::open(FileOps::system(), path);
    return opened ? "" : opened.failure().message;
  }
};
} // namespace

TEST_F(PackageTest, ServesWithoutCompilingOrADirectory) {
  write({stubEntry("a"), stubEntry("b")});
  KernelCache cache(options(), quiet());
  Recorder recorder;
  recorder.listen(cache);
  EXPECT_TRUE(givesRightCode(cache, "a"));
  EXPECT_TRUE(givesRightCode(cache, "b"));
  EXPECT_TRUE(givesRightCode(cache, "a"));
  EXPECT_EQ(recorder.count(EventKind::PackageHit), 2);
  EXPECT_EQ(cache.counters().packageHits, 2u);
  StubBuilder builder("c");
  auto missing = cache.get(RequestKey("c"), builder);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.failure().status, Status::JitForbidden);
}

TEST_F(PackageTest, IsLookedIntoBeforeTheDirectory) {
  std::string directory = temporary / "cache";
  {
    KernelCache cache(optionsFor(directory), quiet());
    ASSERT_TRUE(givesRightCode(cache, "a"));
  }
  write({stubEntry("a")});
  KernelCacheOptions both = options();
  both.directory = directory;
  KernelCache cache(both, quiet());
  EXPECT_TRUE(givesRightCode(cache, "a"));
  EXPECT_EQ(cache.counters().packageHits, 1u);
  EXPECT_EQ(cache.counters().diskHits, 0u);
}

TEST_F(PackageTest, AMachineFindsWhatRunsOnIt) {
  EXPECT_EQ(packageKeyOf("cpu=x features=1 ir=7 ptxas=13.0 target=t"),
            "ir=7 target=t");
  EXPECT_EQ(packageKeyOf("cpu=x"), "");
  Entry other = stubEntry("cpu=other ir=7"), any = stubEntry("cpu=any ir=7");
  other.metadata["requires.cpu"] = "other";
  write({other, any});
  KernelCache cache(options(), quiet());
  StubBuilder builder("cpu=any ir=7");
  EXPECT_TRUE(cache.isPackaged(RequestKey("cpu=mine ir=7")));
  EXPECT_FALSE(cache.isPackaged(RequestKey("cpu=mine ir=8")));
  auto program = cache.get(RequestKey("cpu=mine ir=7"), builder);
  ASSERT_TRUE(program);
  EXPECT_EQ(static_cast<const StubProgram *>(*program)->code,
            codeOf("cpu=any ir=7"));
}

TEST_F(PackageTest, AnotherCompilersIsRefused) {
  write({stubEntry("a", "stub-0")}, "stub-0");
  KernelCache cache(optionsFor(""), quiet());
  auto failure = cache.addPackage(path);
  ASSERT_TRUE(failure);
  EXPECT_NE(failure->message.find("made by another compiler (stub-0, this one "
                                  "is stub-1)"),
            std::string::npos);
  KernelCache warned(options(JitPolicy::Allow), quiet());
  EXPECT_TRUE(givesRightCode(warned, "a"));
  EXPECT_EQ(warned.counters().compiles, 1u);
}

TEST_F(PackageTest, EveryCorruptionIsNoticed) {
  write({stubEntry("a"), stubEntry("b")});
  const std::string good = contents(path);
  for (size_t at = 0; at < good.size(); at += at < 400 ? 3 : 397) {
    std::string bad = good;
    bad[at] ^= 1;
    overwrite(path, bad);
    KernelCache cache(options(JitPolicy::Allow), quiet());
    EXPECT_TRUE(givesRightCode(cache, "a")) << at;
    EXPECT_TRUE(givesRightCode(cache, "b")) << at;
    EXPECT_GE(cache.counters().compiles, 1u) << at;
  }
  for (size_t size = 0; size < good.size(); size += 797) {
    overwrite(path, good.substr(0, size));
    KernelCache cache(options(JitPolicy::Allow), quiet());
    EXPECT_TRUE(givesRightCode(cache, "a")) << size;
    EXPECT_TRUE(givesRightCode(cache, "b")) << size;
    EXPECT_GE(cache.counters().compiles, 1u) << size;
  }
}

TEST_F(PackageTest, OnlyATrustedFileIsUsed) {
  write({stubEntry("a")});
  EXPECT_EQ(problem(), "");
  ASSERT_EQ(chmod(path.c_str(), 0664), 0);
  EXPECT_NE(problem().find("can be written by others"), std::string::npos);
  ASSERT_EQ(chmod(path.c_str(), 0444), 0);
  EXPECT_EQ(problem(), "");
  std::string link = temporary / "link";
  ASSERT_EQ(symlink(path.c_str(), link.c_str()), 0);
  path = link;
  EXPECT_NE(problem(), "");
  path = temporary.path;
  EXPECT_NE(problem(), "");
  path = temporary / "none";
  EXPECT_NE(problem().find("No such file"), std::string::npos);
}

TEST_F(PackageTest, TheEnvironmentNamesSeveral) {
  write({stubEntry("a")});
  EXPECT_EQ(
      inProcess([&] {
        setenv("ATTNC_PACKAGE", (":" + path + "::/nowhere").c_str(), 1);
        auto read = KernelCacheOptions::fromEnvironment("stub-1", quiet());
        return read.packages == std::vector<std::string>{path, "/nowhere"};
      }),
      0);
}
