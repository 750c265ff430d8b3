//===- NvptxTest.cpp - The assembler as a child process -------------------===//

#include "lib/Target/NVPTX/CubinStats.h"
#include "lib/Target/NVPTX/Ptxas.h"

#include "llvm/ADT/SmallString.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/raw_ostream.h"

#include "gtest/gtest.h"

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <string>
#include <thread>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

using namespace attnc;

namespace {

std::string message(llvm::Error error) {
  return llvm::toString(std::move(error));
}

TEST(PtxasTest, RemovesWhatKilledProcessesLeft) {
  llvm::SmallString<128> folder;
  ASSERT_FALSE(llvm::sys::fs::createUniqueDirectory("attnc-left", folder));
  auto make = [&](const char *name, int hours) {
    std::string path = (folder + "/" + name).str();
    int file = open(path.c_str(), O_CREAT | O_WRONLY, 0600);
    EXPECT_GE(file, 0);
    timespec when = {time(nullptr) + hours * 3600, 0};
    timespec times[] = {when, when};
    EXPECT_EQ(futimens(file, times), 0);
    close(file);
    return path;
  };
  std::string old = make("attnc-0123ab.ptx", -2),
              future = make("attnc-0123ac.cubin", 30),
              fresh = make("attnc-0123ad.ptx", 0),
              longer = make("attnc-0123abc.ptx", -2),
              foreign = make("attnc-0123ae.o", -2),
              link = (folder + "/attnc-0123af.ptx").str(),
              others = make("attnc-0123b0.ptx", -2);
  ASSERT_EQ(symlink(foreign.c_str(), link.c_str()), 0);
  timespec longAgo[] = {{1, 0}, {1, 0}};
  ASSERT_EQ(utimensat(AT_FDCWD, link.c_str(), longAgo, AT_SYMLINK_NOFOLLOW), 0);
  bool canGiveAway = chown(others.c_str(), 12345, -1) == 0;
  EXPECT_EQ(removeLeftFiles(folder), canGiveAway ? 2u : 3u);
  for (const std::string &path : {old, future})
    EXPECT_NE(access(path.c_str(), F_OK), 0) << path;
  for (const std::string &path : {fresh, longer, foreign, link})
    EXPECT_EQ(access(path.c_str(), F_OK), 0) << path;
  EXPECT_EQ(access(others.c_str(), F_OK) == 0, canGiveAway);
  llvm::sys::fs::remove_directories(folder);
}

TEST(PtxasLogTest, ReadsResourcesOfEachKernel) {
  PtxasLog log = parsePtxasLog(
      "ptxas info    : 0 bytes gmem\n"
      "ptxas info    : Compiling entry function 'a' for 'sm_90a'\n"
      "ptxas info    : Function properties for a\n"
      "    160 bytes stack frame, 240 bytes spill stores, 244 bytes spill "
      "loads\n"
      "ptxas info    : Used 166 registers, used 3 barriers, 160 bytes "
      "cumulative stack size\n"
      "ptxas info    : Compiling entry function 'b' for 'sm_90a'\n"
      "ptxas info    : Function properties for b\n"
      "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
      "ptxas info    : Used 24 registers, used 1 barriers, 64 bytes smem\n");
  ASSERT_EQ(log.kernels.size(), 2u);
  EXPECT_EQ(log.kernels[0].kernel, "a");
  EXPECT_EQ(log.kernels[0].registers, 166);
  EXPECT_EQ(log.kernels[0].stackBytes, 160);
  EXPECT_EQ(log.kernels[0].spillStoreBytes, 240);
  EXPECT_EQ(log.kernels[0].spillLoadBytes, 244);
  EXPECT_EQ(log.kernels[0].barriers, 3);
  EXPECT_EQ(log.kernels[1].registers, 24);
  EXPECT_EQ(log.kernels[1].sharedBytes, 64);
  std::string text = message(checkClean(log));
  EXPECT_NE(text.find("a: 160 bytes of stack, 240 of spill stores"),
            std::string::npos)
      << text;
  EXPECT_EQ(text.find("b:"), std::string::npos) << text;
}

TEST(PtxasLogTest, SerialisationIsNotClean) {
  PtxasLog log = parsePtxasLog(
      "ptxas info    : (C7512) Potential Performance Loss: "
      "wgmma.mma_async instructions are serialized due to insufficient "
      "register resources for the function 'f'\n");
  ASSERT_EQ(log.remarks.size(), 1u);
  EXPECT_EQ(log.remarks[0].code, "C7512");
  EXPECT_NE(message(checkClean(log)).find("insufficient register"),
            std::string::npos);
  EXPECT_FALSE(bool(checkClean(parsePtxasLog("ptxas info: fine\n"))));
}

TEST(PtxasLogTest, OffencesAreThoseOfOneKernel) {
  PtxasLog log = parsePtxasLog(
      "ptxas info    : Compiling entry function 'a' for 'sm_90a'\n"
      "    8 bytes stack frame, 8 bytes spill stores, 8 bytes spill loads\n"
      "ptxas info    : Compiling entry function 'b' for 'sm_90a'\n"
      "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
      "ptxas info    : (C7510) serialized in the function 'b'\n"
      "ptxas info    : (C7508) setmaxnreg ignored\n"
      "ptxas info    : (C6001) something else in 'b'\n");
  auto a = findOffences(log, "a"), b = findOffences(log, "b");
  ASSERT_EQ(a.size(), 2u);
  EXPECT_NE(a[0].find("8 bytes of stack"), std::string::npos) << a[0];
  EXPECT_EQ(a[1], "C7508: setmaxnreg ignored");
  ASSERT_EQ(b.size(), 2u);
  EXPECT_EQ(b[0], "C7510: serialized in the function 'b'");
  EXPECT_EQ(b[1], "C7508: setmaxnreg ignored");
}

/// A program that stands in for ptxas.
class FakePtxas {
public:
  explicit FakePtxas(const std::string &script) {
    llvm::sys::fs::createTemporaryFile("fake-ptxas", "sh", path);
    std::error_code code;
    llvm::raw_fd_ostream stream(path, code);
    stream << "#!/bin/sh\n" << script;
    stream.close();
    llvm::sys::fs::setPermissions(path, llvm::sys::fs::owner_all);
  }
  ~FakePtxas() { llvm::sys::fs::remove(path); }
  std::string name() { return path.str().str(); }

private:
  llvm::SmallString<128> path;
};

TEST(PtxasTest, AFailureCarriesItsOutput) {
  FakePtxas program("echo 'line 7: no such register'; exit 3\n");
  PtxasOptions options;
  options.program = program.name();
  auto cubin = assemble("", options);
  ASSERT_FALSE(bool(cubin));
  std::string text = message(cubin.takeError());
  EXPECT_NE(text.find("status 3"), std::string::npos) << text;
  EXPECT_NE(text.find("no such register"), std::string::npos) << text;
}

/// What a program says of the variable that asks for huge pages.
static std::string tunablesOfPtxas() {
  FakePtxas program("echo \"tunables $GLIBC_TUNABLES.\"; exit 3\n");
  PtxasOptions options;
  options.program = program.name();
  auto cubin = assemble(".version 8.4", options);
  return cubin ? "" : llvm::toString(cubin.takeError());
}

TEST(PtxasTest, HugePagesAreADefault) {
  ::unsetenv("GLIBC_TUNABLES");
  EXPECT_NE(tunablesOfPtxas().find("tunables glibc.malloc.hugetlb=1:"),
            std::string::npos);
  ::setenv("GLIBC_TUNABLES", "glibc.malloc.check=0", 1);
  EXPECT_NE(tunablesOfPtxas().find("tunables glibc.malloc.check=0."),
            std::string::npos);
  ::unsetenv("GLIBC_TUNABLES");
}

TEST(PtxasTest, TheDeadlineEndsTheWholeGroup) {
  llvm::SmallString<128> pidFile;
  llvm::sys::fs::createTemporaryFile("grandchild", "pid", pidFile);
  FakePtxas program("sleep 30 & echo $! > " + pidFile.str().str() + "; wait\n");
  PtxasOptions options;
  options.program = program.name();
  options.timeoutSeconds = 0.5;
  auto begin = std::chrono::steady_clock::now();
  auto cubin = assemble("", options);
  ASSERT_FALSE(bool(cubin));
  EXPECT_NE(message(cubin.takeError()).find("did not finish in 0.5"),
            std::string::npos);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(25));
  FILE *file = fopen(pidFile.c_str(), "r");
  ASSERT_TRUE(file);
  int grandchild = 0;
  EXPECT_EQ(fscanf(file, "%d", &grandchild), 1);
  fclose(file);
  llvm::sys::fs::remove(pidFile);
  // Ended, though whoever inherits it may not have reaped it yet.
  bool gone = false;
  for (int i = 0; i < 100 && !gone; ++i) {
    std::string path = "/proc/" + std::to_string(grandchild) + "/stat";
    FILE *stat = fopen(path.c_str(), "r");
    char state = 'X';
    if (stat) {
      EXPECT_EQ(fscanf(stat, "%*d (%*[^)]) %c", &state), 1);
      fclose(stat);
    }
    gone = state == 'X' || state == 'Z';
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_TRUE(gone);
}

TEST(PtxasTest, TheSettingIsCheckedAndNamed) {
  FakePtxas old("echo 'Cuda compilation tools, release 11.8, V11.8.89'\n");
  const char *before = getenv("ATTNC_PTXAS");
  std::string saved = before ? before : "";
  setenv("ATTNC_PTXAS", old.name().c_str(), 1);
  auto tooOld = findPtxas();
  setenv("ATTNC_PTXAS", "/nonexistent/ptxas", 1);
  auto missing = findPtxas();
  if (before)
    setenv("ATTNC_PTXAS", saved.c_str(), 1);
  else
    unsetenv("ATTNC_PTXAS");
  ASSERT_FALSE(bool(tooOld));
  std::string text = message(tooOld.takeError());
  EXPECT_NE(text.find("ATTNC_PTXAS: "), std::string::npos) << text;
  EXPECT_NE(text.find("release 11.8; 12.4 or later"), std::string::npos)
      << text;
  ASSERT_FALSE(bool(missing));
  text = message(missing.takeError());
  EXPECT_NE(text.find("/nonexistent/ptxas"), std::string::npos) << text;
}

/// A program that counts how often it is asked for its release.
static std::string askedFor(llvm::StringRef log, llvm::StringRef release) {
  return ("if [ \"$1\" = --version ]; then echo asked >> " + log +
          "; echo 'release " + release + "'; exit; fi\n")
      .str();
}

TEST(PtxasTest, ItsReleaseMattersWhereItFails) {
  llvm::SmallString<128> log;
  llvm::sys::fs::createTemporaryFile("asked", "log", log);
  auto asked = [&] {
    uint64_t size = 0;
    llvm::sys::fs::file_size(log, size);
    return size > 0;
  };
  const char *before = getenv("ATTNC_PTXAS");
  std::string saved = before ? before : "";
  FakePtxas good(askedFor(log, "13.0, V13.0.88") +
                 "for file; do :; done\nprintf '\\177ELF' > \"$file\"\n");
  setenv("ATTNC_PTXAS", good.name().c_str(), 1);
  auto cubin = assemble(".version 8.4");
  ASSERT_TRUE(bool(cubin)) << llvm::toString(cubin.takeError());
  EXPECT_FALSE(asked());
  FakePtxas old(askedFor(log, "11.8, V11.8.89") + "exit 3\n");
  setenv("ATTNC_PTXAS", old.name().c_str(), 1);
  auto tooOld = assemble(".version 8.4");
  EXPECT_TRUE(asked());
  FakePtxas wrong(askedFor(log, "13.0, V13.0.88") + "echo no such register\n" +
                  "exit 3\n");
  setenv("ATTNC_PTXAS", wrong.name().c_str(), 1);
  auto refused = assemble(".version 8.4");
  if (before)
    setenv("ATTNC_PTXAS", saved.c_str(), 1);
  else
    unsetenv("ATTNC_PTXAS");
  llvm::sys::fs::remove(log);
  ASSERT_FALSE(bool(tooOld));
  std::string text = message(tooOld.takeError());
  EXPECT_NE(text.find("release 11.8; 12.4 or later"), std::string::npos)
      << text;
  ASSERT_FALSE(bool(refused));
  text = message(refused.takeError());
  EXPECT_NE(text.find("no such register"), std::string::npos) << text;
}

TEST(CubinTest, WhatIsNoCubinIsAnError) {
  for (const char *bytes : {"", "not an ELF file at all, but long enough to "
                                "hold a header of one if it were"}) {
    auto code = readCubin(bytes);
    EXPECT_FALSE(bool(code));
    llvm::consumeError(code.takeError());
  }
}

} // namespace
