//===- DiskCacheTest.cpp - Entries in a directory -------------------------===//

#include "test/unit/runtime/Stub.h"

#include <sys/time.h>

using namespace attnc;

namespace {
class DiskCacheTest : public ::testing::Test {
protected:
  Entry entryOf(const std::string &key, const std::string &compiler = "c") {
    Entry entry;
    entry.key = key;
    entry.compiler = compiler;
    entry.sections.emplace_back("code", codeOf(key));
    return entry;
  }
  std::string publish(const std::string &key) {
    EXPECT_EQ(cache.publish(entryOf(key)), std::nullopt);
    return cache.pathOf(RequestKey(key));
  }
  std::string reasonOf(const std::string &key) {
    auto loaded = cache.load(RequestKey(key));
    return loaded.entry ? "hit" : loaded.reason;
  }

  TemporaryDirectory temporary;
  DiskCache cache{FileOps::system(), temporary / "a/b/cache", "c"};
};
} // namespace

TEST_F(DiskCacheTest, PublishesAndLoads) {
  EXPECT_EQ(reasonOf("k"), "not in the cache");
  publish("k");
  auto loaded = cache.load(RequestKey("k"));
  ASSERT_TRUE(loaded.entry) << loaded.reason;
  EXPECT_EQ(*loaded.entry->section("code"), codeOf("k"));
  struct stat status;
  ASSERT_EQ(stat(cache.path().c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0700u);
  ASSERT_EQ(stat(cache.pathOf(RequestKey("k")).c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
}

TEST_F(DiskCacheTest, DamagedEntriesAreMissesThatSayWhy) {
  std::string path = publish("k"), whole = contents(path);
  overwrite(path, whole.substr(0, whole.size() / 2));
  EXPECT_NE(reasonOf("k").find("truncated"), std::string::npos);
  overwrite(path, "");
  EXPECT_NE(reasonOf("k").find("truncated"), std::string::npos);
  std::string flipped = whole;
  flipped[whole.size() / 2] ^= 4;
  overwrite(path, flipped);
  EXPECT_NE(reasonOf("k").find("checksum"), std::string::npos);
  overwrite(path, "#!/bin/sh\nrm -rf ~\n");
  EXPECT_NE(reasonOf("k").find("not an attnc cache entry"), std::string::npos);
  overwrite(path, whole);
  EXPECT_EQ(reasonOf("k"), "hit");
}

TEST_F(DiskCacheTest, PlantedEntriesAreMissesThatSayWhy) {
  std::string path = publish("k");
  // Another program's sound entry under this name.
  overwrite(path, entryOf("other").serialize());
  EXPECT_NE(reasonOf("k").find("another program"), std::string::npos);
  // Another compiler's.
  overwrite(path, entryOf("k", "older").serialize());
  EXPECT_NE(reasonOf("k").find("another compiler"), std::string::npos);
  // One that others may write.
  overwrite(path, entryOf("k").serialize());
  ASSERT_EQ(chmod(path.c_str(), 0666), 0);
  EXPECT_NE(reasonOf("k").find("written by others"), std::string::npos);
  ASSERT_EQ(chmod(path.c_str(), 0600), 0);
  EXPECT_EQ(reasonOf("k"), "hit");
  if (geteuid() == 0) {
    ASSERT_EQ(chown(path.c_str(), 65534, 65534), 0);
    EXPECT_NE(reasonOf("k").find("belongs to user 65534"), std::string::npos);
  }
}

TEST_F(DiskCacheTest, LinksPipesAndDirectoriesAreMisses) {
  std::string path = publish("k");
  ASSERT_EQ(rename(path.c_str(), (temporary / "moved").c_str()), 0);
  ASSERT_EQ(symlink((temporary / "moved").c_str(), path.c_str()), 0);
  EXPECT_NE(reasonOf("k"), "hit");
  ASSERT_EQ(unlink(path.c_str()), 0);
  // Opening a pipe for reading would wait for a writer.
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  EXPECT_NE(reasonOf("k"), "hit");
  ASSERT_EQ(unlink(path.c_str()), 0);
  ASSERT_EQ(mkdir(path.c_str(), 0700), 0);
  EXPECT_NE(reasonOf("k"), "hit");
  EXPECT_NE(cache.publish(entryOf("k")), std::nullopt);
}

TEST_F(DiskCacheTest, ADirectoryOthersCanWriteIsNotUsed) {
  publish("k");
  ASSERT_EQ(chmod(cache.path().c_str(), 0777), 0);
  auto loaded = cache.load(RequestKey("k"));
  EXPECT_FALSE(loaded.entry);
  EXPECT_TRUE(loaded.directoryUnusable);
  EXPECT_NE(loaded.reason.find("written by others"), std::string::npos);
  EXPECT_NE(cache.publish(entryOf("k")), std::nullopt);
  if (geteuid() == 0) {
    ASSERT_EQ(chmod(cache.path().c_str(), 0700), 0);
    ASSERT_EQ(chown(cache.path().c_str(), 65534, 65534), 0);
    EXPECT_NE(cache.load(RequestKey("k")).reason.find("belongs to user"),
              std::string::npos);
  }
}

TEST_F(DiskCacheTest, TwoCompilersLiveSideBySide) {
  DiskCache newer(FileOps::system(), cache.path(), "newer");
  publish("k");
  EXPECT_EQ(newer.load(RequestKey("k")).reason, "not in the cache");
  EXPECT_EQ(newer.publish(entryOf("k", "newer")), std::nullopt);
  EXPECT_TRUE(newer.load(RequestKey("k")).entry);
  EXPECT_EQ(reasonOf("k"), "hit");
}

TEST_F(DiskCacheTest, ListsEntriesAndNothingElse) {
  publish("one");
  std::string two = publish("two");
  setAge(two, 5000);
  overwrite(cache.path() + "/.tmp-1-2", "unfinished");
  overwrite(cache.path() + "/notes.txt", "mine");
  overwrite(cache.path() + "/0123456789abcdef0123456789abcdef.attnc", "junk");
  setAge(cache.path() + "/0123456789abcdef0123456789abcdef.attnc", 9000);
  auto entries = cache.list();
  ASSERT_TRUE(entries);
  ASSERT_EQ(entries->size(), 3u);
  EXPECT_EQ((*entries)[0].header->key, "one");
  EXPECT_EQ((*entries)[1].header->key, "two");
  EXPECT_FALSE((*entries)[2].header);
  EXPECT_EQ((*entries)[2].problem, "not an attnc cache entry");
  EXPECT_EQ(cache.verify((*entries)[0].name), std::nullopt);
  EXPECT_NE(cache.verify((*entries)[2].name), std::nullopt);
}

TEST_F(DiskCacheTest, ListsEntriesWithLongHeaders) {
  std::string key(100000, 'x');
  publish(key);
  auto entries = cache.list();
  ASSERT_TRUE(entries);
  ASSERT_EQ(entries->size(), 1u);
  ASSERT_TRUE((*entries)[0].header) << (*entries)[0].problem;
  EXPECT_EQ((*entries)[0].header->key, key);
}

TEST_F(DiskCacheTest, PruningRemovesWhatWasUnusedLongest) {
  uint64_t size = entryOf("key-0").serialize().size();
  for (int i = 0; i < 5; ++i)
    setAge(publish("key-" + std::to_string(i)), 1000 * (i + 1));
  auto removed = cache.prune(2 * size);
  ASSERT_TRUE(removed);
  EXPECT_EQ(removed->entries, 3u);
  EXPECT_EQ(removed->bytes, 3 * size);
  EXPECT_EQ(removed->entriesLeft, 2u);
  EXPECT_EQ(reasonOf("key-0"), "hit");
  EXPECT_EQ(reasonOf("key-1"), "hit");
  EXPECT_EQ(reasonOf("key-2"), "not in the cache");
}

TEST_F(DiskCacheTest, AHitCountsAsAUse) {
  uint64_t size = entryOf("key-0").serialize().size();
  setAge(publish("key-0"), 90000);
  setAge(publish("key-1"), 50000);
  EXPECT_EQ(reasonOf("key-0"), "hit");
  ASSERT_TRUE(cache.prune(size));
  EXPECT_EQ(reasonOf("key-0"), "hit");
  EXPECT_EQ(reasonOf("key-1"), "not in the cache");
}

TEST_F(DiskCacheTest, TimesInTheFutureKeepNothingForEver) {
  uint64_t size = entryOf("key-0").serialize().size();
  std::string future = publish("key-0");
  setAge(future, -10 * 365 * 86400);
  std::string temporaryFile = cache.path() + "/.tmp-9-9";
  overwrite(temporaryFile, "x");
  setAge(temporaryFile, -10 * 365 * 86400);
  // A use sets the time right, after which the entry ages as others do.
  EXPECT_EQ(reasonOf("key-0"), "hit");
  struct stat status;
  ASSERT_EQ(stat(future.c_str(), &status), 0);
  EXPECT_LE(status.st_mtime, time(nullptr) + 2);
  setAge(future, -86400);
  ASSERT_TRUE(cache.prune(size / 2));
  EXPECT_EQ(reasonOf("key-0"), "not in the cache");
  EXPECT_NE(access(temporaryFile.c_str(), F_OK), 0);
}

// The clock of files runs a little ahead of time(): a fresh entry may be of the
// next second. A read must not write because of that.
TEST_F(DiskCacheTest, ATimeJustAheadIsLeftAlone) {
  std::string ahead = publish("key-0");
  setAge(ahead, -2);
  struct stat before, after;
  ASSERT_EQ(stat(ahead.c_str(), &before), 0);
  EXPECT_EQ(reasonOf("key-0"), "hit");
  ASSERT_EQ(stat(ahead.c_str(), &after), 0);
  EXPECT_EQ(after.st_mtime, before.st_mtime);
}

TEST_F(DiskCacheTest, PruningLeavesYoungTemporaryFilesAndLocks) {
  publish("k");
  {
    cache.openLock(RequestKey("k")).tryAcquire();
  }
  overwrite(cache.path() + "/.tmp-1-young", "x");
  overwrite(cache.path() + "/.tmp-1-old", "x");
  setAge(cache.path() + "/.tmp-1-old", 7200);
  ASSERT_TRUE(cache.prune(1 << 30));
  size_t young = 0, old = 0, locks = 0;
  for (auto &name : namesIn(cache.path())) {
    young += name == ".tmp-1-young";
    old += name == ".tmp-1-old";
    locks += name.rfind(".lock-", 0) == 0;
  }
  EXPECT_EQ(young, 1u);
  EXPECT_EQ(old, 0u);
  EXPECT_EQ(locks, 1u);
  EXPECT_EQ(reasonOf("k"), "hit");
}

TEST_F(DiskCacheTest, ClearRemovesEntriesAndKeepsLockFiles) {
  publish("one");
  publish("two");
  {
    cache.openLock(RequestKey("one")).tryAcquire();
  }
  overwrite(cache.path() + "/notes.txt", "mine");
  auto removed = cache.clear();
  ASSERT_TRUE(removed);
  EXPECT_EQ(removed->entries, 2u);
  auto names = namesIn(cache.path());
  EXPECT_EQ(names.size(), 2u);
}

TEST_F(DiskCacheTest, LocksExcludeAndAreReleased) {
  using State = DiskCache::Lock::State;
  auto first = cache.openLock(RequestKey("k"));
  auto second = cache.openLock(RequestKey("k"));
  EXPECT_EQ(first.tryAcquire(), State::Held);
  EXPECT_EQ(second.tryAcquire(), State::Busy);
  first.release();
  EXPECT_EQ(second.tryAcquire(), State::Held);
}

TEST_F(DiskCacheTest, ARemovedDirectoryIsMadeAgain) {
  publish("k");
  std::string command = "rm -rf " + (temporary / "a");
  ASSERT_EQ(std::system(command.c_str()), 0);
  EXPECT_EQ(reasonOf("k"), "not in the cache");
  publish("k");
  EXPECT_EQ(reasonOf("k"), "hit");
}

TEST_F(DiskCacheTest, AFileInPlaceOfTheDirectoryIsAReason) {
  overwrite(temporary / "file", "x");
  DiskCache blocked(FileOps::system(), temporary / "file/cache", "c");
  EXPECT_FALSE(blocked.load(RequestKey("k")).entry);
  auto problem = blocked.publish(entryOf("k"));
  ASSERT_TRUE(problem);
  EXPECT_NE(problem->find("Not a directory"), std::string::npos) << *problem;
}
