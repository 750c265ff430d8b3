//===- KernelCacheTest.cpp - From a request to a loaded program -----------===//

#include "test/unit/runtime/Stub.h"

#include <atomic>

using namespace attnc;

namespace {
class KernelCacheTest : public ::testing::Test {
protected:
  TemporaryDirectory temporary;
  std::string directory = temporary / "cache";
  std::string tally = temporary / "tally";
  int compiles() { return int(contents(tally).size()); }
};
} // namespace

TEST_F(KernelCacheTest, MemoryThenDiskThenCompile) {
  Recorder recorder;
  {
    KernelCache cache(optionsFor(directory), quiet());
    recorder.listen(cache);
    StubBuilder builder("k", tally);
    EXPECT_EQ(cache.find(RequestKey("k")), nullptr);
    EXPECT_TRUE(givesRightCode(cache, "k", builder));
    EXPECT_TRUE(givesRightCode(cache, "k", builder));
    EXPECT_NE(cache.find(RequestKey("k")), nullptr);
    EXPECT_EQ(cache.counters().compiles, 1u);
    EXPECT_EQ(cache.counters().memoryHits, 2u);
  }
  EXPECT_EQ(recorder.reasonOf(EventKind::Miss), "not in the cache");
  EXPECT_EQ(recorder.count(EventKind::Compile), 1);
  EXPECT_EQ(recorder.count(EventKind::Publish), 1);
  EXPECT_EQ(recorder.count(EventKind::Warning), 0);
  KernelCache second(optionsFor(directory), quiet());
  StubBuilder builder("k", tally);
  EXPECT_TRUE(givesRightCode(second, "k", builder));
  EXPECT_EQ(second.counters().diskHits, 1u);
  EXPECT_EQ(second.counters().compiles, 0u);
  EXPECT_EQ(compiles(), 1);
}

TEST_F(KernelCacheTest, EventsTellThePhases) {
  KernelCache cache(optionsFor(directory), quiet());
  Recorder recorder;
  recorder.listen(cache);
  EXPECT_TRUE(givesRightCode(cache, "k"));
  for (const Event &event : recorder.events) {
    if (event.kind != EventKind::Compile)
      continue;
    ASSERT_EQ(event.seconds.size(), 2u);
    EXPECT_EQ(event.seconds[0].first, "stub");
    EXPECT_EQ(event.seconds[1].first, "total");
    EXPECT_EQ(event.key, "k");
  }
}

TEST_F(KernelCacheTest, AnEntryThatCannotBeUsedHereIsAMiss) {
  DiskCache disk(FileOps::system(), directory, "stub-1");
  Entry entry;
  entry.key = "k";
  entry.compiler = "stub-1";
  entry.metadata["requires.cpu"] = "other";
  entry.sections.emplace_back("code", "wrong");
  ASSERT_EQ(disk.publish(entry), std::nullopt);
  KernelCache cache(optionsFor(directory), quiet());
  Recorder recorder;
  recorder.listen(cache);
  EXPECT_TRUE(givesRightCode(cache, "k"));
  EXPECT_NE(recorder.reasonOf(EventKind::Miss).find("needs another cpu"),
            std::string::npos);
}

TEST_F(KernelCacheTest, AnEntryThatDoesNotLoadIsAMissAndIsReplaced) {
  DiskCache disk(FileOps::system(), directory, "stub-1");
  Entry entry;
  entry.key = "k";
  entry.compiler = "stub-1";
  entry.metadata["requires.cpu"] = "any";
  entry.sections.emplace_back("cord", "a typing error");
  ASSERT_EQ(disk.publish(entry), std::nullopt);
  {
    KernelCache cache(optionsFor(directory), quiet());
    EXPECT_TRUE(givesRightCode(cache, "k"));
  }
  KernelCache next(optionsFor(directory), quiet());
  EXPECT_TRUE(givesRightCode(next, "k"));
  EXPECT_EQ(next.counters().compiles, 0u);
}

TEST_F(KernelCacheTest, ADamagedEntryIsReplaced) {
  {
    KernelCache cache(optionsFor(directory), quiet());
    EXPECT_TRUE(givesRightCode(cache, "k"));
  }
  DiskCache disk(FileOps::system(), directory, "stub-1");
  std::string path = disk.pathOf(RequestKey("k")), whole = contents(path);
  overwrite(path, whole.substr(0, 100));
  {
    KernelCache cache(optionsFor(directory), quiet());
    EXPECT_TRUE(givesRightCode(cache, "k"));
    EXPECT_EQ(cache.counters().compiles, 1u);
  }
  KernelCache cache(optionsFor(directory), quiet());
  EXPECT_TRUE(givesRightCode(cache, "k"));
  EXPECT_EQ(cache.counters().compiles, 0u);
}

TEST_F(KernelCacheTest, ForbidNamesTheKeyAndTheCommand) {
  KernelCacheOptions options = optionsFor(directory);
  options.jit = JitPolicy::Forbid;
  KernelCache cache(options, quiet());
  Recorder recorder;
  recorder.listen(cache);
  StubBuilder builder("d=64 dtype=bf16", tally);
  auto program = cache.get(RequestKey("d=64 dtype=bf16"), builder);
  ASSERT_FALSE(program);
  EXPECT_EQ(program.failure().status, Status::JitForbidden);
  EXPECT_NE(program.failure().message.find("d=64 dtype=bf16"),
            std::string::npos);
  EXPECT_NE(program.failure().message.find("attnc cache add"),
            std::string::npos);
  EXPECT_EQ(compiles(), 0);
  EXPECT_EQ(recorder.count(EventKind::Forbidden), 1);
  // What is on disk may be used.
  {
    KernelCache other(optionsFor(directory), quiet());
    EXPECT_TRUE(givesRightCode(other, "d=64 dtype=bf16"));
  }
  EXPECT_TRUE(givesRightCode(cache, "d=64 dtype=bf16", builder));
}

TEST_F(KernelCacheTest, WarnCompilesAndSaysSo) {
  KernelCacheOptions options = optionsFor(directory);
  options.jit = JitPolicy::Warn;
  KernelCache cache(options, quiet());
  Recorder recorder;
  recorder.listen(cache);
  EXPECT_TRUE(givesRightCode(cache, "k"));
  EXPECT_EQ(recorder.count(EventKind::Warning), 1);
  EXPECT_NE(recorder.reasonOf(EventKind::Warning).find("attnc cache add"),
            std::string::npos);
}

TEST_F(KernelCacheTest, AFailedCompileIsReportedAndTriedAnew) {
  KernelCache cache(optionsFor(directory), quiet());
  StubBuilder builder("k", tally);
  builder.fails = true;
  auto program = cache.get(RequestKey("k"), builder);
  ASSERT_FALSE(program);
  EXPECT_EQ(program.failure().message, "the stub was told to fail");
  builder.fails = false;
  EXPECT_TRUE(givesRightCode(cache, "k", builder));
  EXPECT_EQ(compiles(), 2);
}

TEST_F(KernelCacheTest, RequestsWithOneContentShareOneProgram) {
  KernelCache cache(optionsFor(directory), quiet());
  StubBuilder builder("same");
  auto one = cache.get(RequestKey("one"), builder);
  auto two = cache.get(RequestKey("two"), builder);
  ASSERT_TRUE(one && two);
  EXPECT_EQ(*one, *two);
  EXPECT_EQ(cache.counters().shared, 1u);
}

TEST_F(KernelCacheTest, ThreadsWithOneColdKeyCompileOnce) {
  KernelCache cache(optionsFor(directory), quiet());
  std::atomic<int> right{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 16; ++i)
    threads.emplace_back([&] {
      StubBuilder builder("k", tally, 0.05);
      right += givesRightCode(cache, "k", builder);
    });
  for (std::thread &thread : threads)
    thread.join();
  EXPECT_EQ(right, 16);
  EXPECT_EQ(compiles(), 1);
}

TEST_F(KernelCacheTest, ThreadsWithManyKeysFindTheirOwn) {
  // The table grows several times under its readers.
  KernelCache cache(optionsFor(""), quiet());
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 8; ++thread)
    threads.emplace_back([&, thread] {
      for (int round = 0; round < 400; ++round) {
        std::string key = "key-" + std::to_string((round * 7 + thread) % 300);
        wrong += !givesRightCode(cache, key);
      }
    });
  for (std::thread &thread : threads)
    thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(cache.counters().compiles, 300u);
}

TEST_F(KernelCacheTest, AThreadThatWaitsTooLongCompilesItself) {
  KernelCache cache(optionsFor("", 0.1), quiet());
  Recorder recorder;
  // The holder is not done before the waiter is.
  std::atomic<bool> done{false};
  StubBuilder slow("k", tally);
  slow.until = &done;
  std::thread holder([&] { givesRightCode(cache, "k", slow); });
  while (compiles() == 0)
    std::this_thread::yield();
  StubBuilder quick("k", tally);
  EXPECT_TRUE(givesRightCode(cache, "k", quick));
  done = true;
  holder.join();
  EXPECT_EQ(compiles(), 2);
}

TEST_F(KernelCacheTest, TheCacheKeepsItsSizeLimit) {
  KernelCacheOptions options = optionsFor(directory);
  options.sizeLimit = 50000; // five entries
  KernelCache cache(options, quiet());
  Recorder recorder;
  recorder.listen(cache);
  for (int i = 0; i < 20; ++i)
    EXPECT_TRUE(givesRightCode(cache, "key-" + std::to_string(i)));
  EXPECT_GT(recorder.count(EventKind::Prune), 0);
  uint64_t bytes = 0;
  auto entries = cache.diskCache()->list();
  ASSERT_TRUE(entries);
  for (auto &entry : *entries)
    bytes += entry.size;
  EXPECT_LE(bytes, 50000u);
  EXPECT_GE(entries->size(), 3u);
}

TEST_F(KernelCacheTest, WithoutADirectoryItWarnsOnceAndWorks) {
  // A regular file stands where the directory should be.
  overwrite(temporary / "file", "x");
  KernelCache cache(optionsFor(temporary / "file/cache"), quiet());
  Recorder recorder;
  recorder.listen(cache);
  for (int i = 0; i < 5; ++i)
    EXPECT_TRUE(givesRightCode(cache, "key-" + std::to_string(i)));
  EXPECT_GE(recorder.count(EventKind::Warning), 1);
  EXPECT_LE(recorder.count(EventKind::Warning), 2);
  EXPECT_NE(recorder.reasonOf(EventKind::Warning).find("ATTNC_CACHE_DIR"),
            std::string::npos);
}

TEST(Event, LinesOfJsonAreWellFormed) {
  Event event{EventKind::Compile,
              "a=\"1\"\n",
              "why\\not",
              "/tmp/x",
              {{"passes", 0.25}, {"total", 1.5}}};
  std::string line = toJson(event);
  EXPECT_NE(line.find("\"event\":\"compile\""), std::string::npos);
  EXPECT_NE(line.find("\"key\":\"a=\\\"1\\\"\\u000a\""), std::string::npos);
  EXPECT_NE(line.find("\"reason\":\"why\\\\not\""), std::string::npos);
  EXPECT_NE(line.find("\"seconds\":{\"passes\":0.250000,\"total\":1.500000}"),
            std::string::npos);
  EXPECT_EQ(line.find('\n'), std::string::npos);
}

TEST(Event, TheFileGetsALinePerEvent) {
  TemporaryDirectory temporary;
  EventSink sink(EventSink::Level::Off, temporary / "events");
  sink.emit({EventKind::Miss, "k", "not in the cache", "", {}});
  sink.emit({EventKind::Compile, "k", "", "", {{"total", 1}}});
  std::string text = contents(temporary / "events");
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2);
}
