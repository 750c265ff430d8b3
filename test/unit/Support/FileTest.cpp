//===- FileTest.cpp - Whole files or nothing ------------------------------===//

#include "lib/Support/File.h"

#include "llvm/ADT/SmallString.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"
#include "gtest/gtest.h"

using namespace attnc;

namespace {

class File : public testing::Test {
protected:
  File() { llvm::sys::fs::createUniqueDirectory("attnc-file", directory); }
  ~File() override { llvm::sys::fs::remove_directories(directory); }

  std::string path(llvm::StringRef name) {
    llvm::SmallString<128> full(directory);
    llvm::sys::path::append(full, name);
    return full.str().str();
  }
  int entries() {
    std::error_code code;
    int count = 0;
    for (llvm::sys::fs::directory_iterator it(directory, code), end;
         it != end && !code; it.increment(code))
      ++count;
    return count;
  }

  llvm::SmallString<128> directory;
};

TEST_F(File, WritesAndReplaces) {
  std::string name = path("a");
  for (llvm::StringRef contents : {"one", "second", ""}) {
    EXPECT_FALSE(bool(writeOutput(name, contents)));
    auto read = readInput(name);
    ASSERT_TRUE(bool(read));
    EXPECT_EQ((*read)->getBuffer(), contents);
  }
  EXPECT_EQ(entries(), 1);
}

TEST_F(File, FailureLeavesNothing) {
  llvm::Error error = writeOutput(path("none/a"), "text");
  ASSERT_TRUE(bool(error));
  EXPECT_EQ(llvm::toString(std::move(error)),
            "cannot write '" + path("none/a") +
                "': No such file or directory; expected a path in a writable "
                "directory");
  EXPECT_NE(llvm::toString(writeOutput(directory, "text")).find("directory"),
            std::string::npos);
  EXPECT_EQ(entries(), 0);
}

TEST_F(File, FullDisk) {
  llvm::Error error = writeOutput("/dev/full", "text");
  EXPECT_NE(llvm::toString(std::move(error)).find("No space left"),
            std::string::npos);
}

TEST_F(File, MissingInput) {
  auto read = readInput(path("none"));
  ASSERT_FALSE(bool(read));
  EXPECT_NE(llvm::toString(read.takeError()).find("cannot read"),
            std::string::npos);
}

} // namespace
