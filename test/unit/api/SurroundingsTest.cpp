//===- SurroundingsTest.cpp - The library in a poor host ------------------===//
//
// Each test runs in processes of its own: the library is first used there,
// under whatever the test arranged. What counts is the outcome: the right
// result or a clear error, the host alive, and no hang.
//
//===----------------------------------------------------------------------===//

#include "attnc/attnc.hpp"

#include "gtest/gtest.h"

#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

class SurroundingsTest : public ::testing::Test {
protected:
  void SetUp() override {
    char name[] = "/tmp/attnc-host-XXXXXX";
    directory = mkdtemp(name);
    events = directory + "/events";
    setenv("ATTNC_CACHE_DIR", (directory + "/cache").c_str(), 1);
    setenv("ATTNC_EVENTS", events.c_str(), 1);
    setenv("ATTNC_LOG", "off", 1);
    for (const char *variable : {"ATTNC_WORKER", "ATTNC_COMPILE_TIMEOUT"})
      unsetenv(variable);
  }
  void TearDown() override {
    std::error_code ignored;
    std::filesystem::remove_all(directory, ignored);
  }

  static std::string contents(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  int count(const std::string &what) const {
    std::string text = contents(events);
    int found = 0;
    for (size_t at = text.find(what); at != std::string::npos;
         at = text.find(what, at + 1))
      ++found;
    return found;
  }
  int compiles() const { return count("\"event\":\"compile\""); }

  /// A program in place of the worker or ptxas.
  std::string script(const std::string &name, const std::string &body) {
    std::string path = directory + "/" + name;
    std::ofstream(path) << "#!/bin/sh\n" << body;
    chmod(path.c_str(), 0755);
    return path;
  }

  static pid_t start(const std::function<bool()> &body) {
    std::fflush(nullptr);
    pid_t pid = fork();
    if (pid)
      return pid;
    alarm(240); // hanging is failing
    _exit(body() ? 0 : 1);
  }
  static int statusOf(pid_t pid) {
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
      ;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  static int inProcess(const std::function<bool()> &body) {
    return statusOf(start(body));
  }

  std::string directory, events;
};

attnc_status make(attnc::Program &program, const char *target = "cpu") {
  attnc_attention attention = attnc::attention("relu");
  attention.head_dim = 16;
  if (!std::strcmp(target, "sm_90a"))
    attention.dtype = ATTNC_DTYPE_BF16;
  attnc::Options options;
  options.target = target;
  return attnc::Program::fromAttention(attention, program, options).code();
}

/// Whether ReLU attention of ones is right: o = n q.k / sqrt(d).
bool isRight(const attnc::Program &program) {
  float ones[3 * 16], output[3 * 16] = {};
  for (float &one : ones)
    one = 1;
  auto tensor = attnc::Tensor::contiguous(ones, {1, 1, 3, 16});
  auto result = attnc::Tensor::contiguous(output, {1, 1, 3, 16});
  if (!program.run({tensor, tensor, tensor, result}))
    return false;
  for (float value : output)
    if (std::fabs(value - 12) > 1e-4)
      return false;
  return true;
}
bool works() {
  attnc::Program program;
  return make(program) == ATTNC_OK && isRight(program);
}

bool fails(attnc_status status, const char *part, const char *target = "cpu") {
  attnc::Program program;
  attnc_status got = make(program, target);
  bool right = got == status && std::strstr(attnc_last_error(), part);
  if (!right)
    std::fprintf(stderr, "expected '%s', got status %d: %s\n", part, int(got),
                 attnc_last_error());
  return right;
}

} // namespace

//===----------------------------------------------------------------------===//
// Many processes
//===----------------------------------------------------------------------===//

TEST_F(SurroundingsTest, SixteenProcessesCompileOnce) {
  int gate[2];
  ASSERT_EQ(pipe(gate), 0);
  std::vector<pid_t> children;
  for (int k = 0; k < 16; ++k)
    children.push_back(start([&] {
      close(gate[1]);
      char byte;
      ssize_t got = read(gate[0], &byte, 1); // until the gate closes
      (void)got;
      return works();
    }));
  close(gate[0]);
  close(gate[1]);
  for (pid_t child : children)
    EXPECT_EQ(statusOf(child), 0);
  EXPECT_EQ(compiles(), 1);
}

/// Another version is this one with another fingerprint in its bytes.
TEST_F(SurroundingsTest, TwoVersionsSideBySide) {
  if (dlsym(RTLD_DEFAULT, "__asan_init"))
    GTEST_SKIP() << "the address sanitizer wants each library once";
  std::string bytes = contents(ATTNC_BINARY_DIR "/lib/libattnc.so");
  std::string mine = attnc_compiler_fingerprint(), other(32, 'e');
  size_t at = bytes.find(mine);
  ASSERT_NE(at, std::string::npos);
  for (; at != std::string::npos; at = bytes.find(mine, at))
    bytes.replace(at, 32, other);
  std::string path = directory + "/libother.so";
  std::ofstream(path, std::ios::binary) << bytes;
  auto withOther = [&] {
    void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library)
      return false;
    auto fingerprint = reinterpret_cast<decltype(&attnc_compiler_fingerprint)>(
        dlsym(library, "attnc_compiler_fingerprint"));
    auto get = reinterpret_cast<decltype(&attnc_program_from_attention)>(
        dlsym(library, "attnc_program_from_attention"));
    attnc_attention attention = attnc::attention("relu");
    attention.head_dim = 16;
    attnc_program *program = nullptr;
    return fingerprint() == other &&
           get(&attention, nullptr, &program) == ATTNC_OK;
  };
  EXPECT_EQ(inProcess([&] { return works() && withOther() && works(); }), 0);
  EXPECT_EQ(compiles(), 2); // one each
  EXPECT_EQ(inProcess([&] { return withOther() && works(); }), 0);
  EXPECT_EQ(compiles(), 2); // each found its own
  // A worker of another version is noticed.
  setenv("ATTNC_WORKER", ATTNC_BINARY_DIR "/bin/attnc", 1);
  setenv("ATTNC_CACHE", "memory", 1);
  EXPECT_EQ(inProcess(withOther), 0);
  unsetenv("ATTNC_CACHE");
  EXPECT_EQ(count("is of another version than the library"), 1);
}

//===----------------------------------------------------------------------===//
// A compiler that goes wrong
//===----------------------------------------------------------------------===//

TEST_F(SurroundingsTest, AnAbortInTheCompilerLeavesTheHostAlive) {
  setenv("ATTNC_WORKER",
         script("abort", "cat >/dev/null; echo why >&2; "
                         "kill -ABRT $$\n")
             .c_str(),
         1);
  EXPECT_EQ(inProcess([] {
              bool right = fails(ATTNC_COMPILE_FAILED, "signal 6") &&
                           std::strstr(attnc_last_error(), "why");
              unsetenv("ATTNC_WORKER");
              return right && works(); // a later request is served
            }),
            0);
}

TEST_F(SurroundingsTest, ACompilerThatNeverEndsIsEnded) {
  setenv("ATTNC_WORKER", script("loop", "while :; do :; done\n").c_str(), 1);
  setenv("ATTNC_COMPILE_TIMEOUT", "1", 1);
  EXPECT_EQ(inProcess([] {
              return fails(ATTNC_COMPILE_FAILED, "did not finish in 1 s");
            }),
            0);
}

TEST_F(SurroundingsTest, ACompilerThatTalksNonsense) {
  for (const char *body : {"echo nonsense\n", "cat\n", "exit 0\n",
                           "exec </dev/null; yes | head -c 3000000\n"}) {
    setenv("ATTNC_WORKER", script("nonsense", body).c_str(), 1);
    EXPECT_EQ(inProcess([] { return fails(ATTNC_COMPILE_FAILED, "answer"); }),
              0)
        << body;
  }
  setenv("ATTNC_WORKER", "/nowhere/attnc", 1);
  EXPECT_EQ(inProcess([] { return works(); }), 0);
  setenv("ATTNC_WORKER", "off", 1);
  setenv("ATTNC_CACHE", "memory", 1);
  EXPECT_EQ(inProcess([] { return works(); }), 0);
  unsetenv("ATTNC_CACHE");
}

/// The compile's own process does not outlive what asked for it.
TEST_F(SurroundingsTest, AnInterruptDuringACompile) {
  std::string pidFile = directory + "/pid";
  setenv("ATTNC_WORKER",
         script("slow", "echo $$ >" + pidFile + ".new; mv " + pidFile +
                            ".new " + pidFile + "; exec sleep 200\n")
             .c_str(),
         1);
  pid_t child = start([] {
    signal(SIGINT, SIG_DFL);
    return works();
  });
  while (contents(pidFile).empty())
    usleep(1000);
  kill(child, SIGINT);
  EXPECT_EQ(statusOf(child), 128 + SIGINT);
  kill(std::stoi(contents(pidFile)), SIGKILL);
  unsetenv("ATTNC_WORKER");
  EXPECT_EQ(inProcess([] { return works(); }), 0);
}

//===----------------------------------------------------------------------===//
// ptxas
//===----------------------------------------------------------------------===//

TEST_F(SurroundingsTest, APtxasThatGoesWrong) {
  struct Case {
    const char *body, *expected;
  };
  const std::string version =
      "[ $1 != --version ] || { echo 'release 13.0, V13.0.88'; exit; }\n";
  for (const Case &test : {Case{"echo ptxas fatal: no >&2; exit 3\n", "no"},
                           Case{"exit 0\n", "is not machine code (0 bytes)"},
                           Case{"for last; do :; done; echo garbage >$last\n",
                                "is not machine code"},
                           Case{"kill -SEGV $$\n", "signal 11"}}) {
    setenv("ATTNC_PTXAS", script("ptxas", version + test.body).c_str(), 1);
    EXPECT_EQ(inProcess([&] {
                return fails(ATTNC_COMPILE_FAILED, test.expected, "sm_90a");
              }),
              0)
        << test.body;
  }
  for (const char *body : {"echo release what\n", "exit 1\n"}) {
    setenv("ATTNC_PTXAS", script("ptxas", body).c_str(), 1);
    EXPECT_EQ(inProcess([] {
                return fails(ATTNC_UNSUPPORTED, "not that of a ptxas",
                             "sm_90a");
              }),
              0)
        << body;
  }
  setenv("ATTNC_PTXAS", "/nowhere/ptxas", 1);
  EXPECT_EQ(inProcess([] {
              return fails(ATTNC_UNSUPPORTED, "/nowhere/ptxas", "sm_90a") &&
                     works(); // the CPU needs none
            }),
            0);
  // It hangs: the compile's time limit ends it with all its children.
  std::string pidFile = directory + "/grandchild";
  setenv(
      "ATTNC_PTXAS",
      script("ptxas", version + "sleep 300 & echo $! >" + pidFile + "; wait\n")
          .c_str(),
      1);
  setenv("ATTNC_COMPILE_TIMEOUT", "3", 1);
  EXPECT_EQ(inProcess([] {
              return fails(ATTNC_COMPILE_FAILED, "did not finish in 3 s",
                           "sm_90a");
            }),
            0);
  std::string grandchild = contents(pidFile);
  unsetenv("ATTNC_PTXAS");
  if (grandchild.empty()) // the machine was too busy to come that far
    return;
  auto alive = [&] {
    std::string stat =
        contents("/proc/" + std::to_string(std::stoi(grandchild)) + "/stat");
    size_t name = stat.rfind(") ");
    return name != std::string::npos && stat[name + 2] != 'Z';
  };
  for (int k = 0; k < 2000 && alive(); ++k)
    usleep(10000);
  EXPECT_FALSE(alive());
}

/// Which version it has is asked once for a file, not once a process.
TEST_F(SurroundingsTest, APtxasIsAskedOnceForItsVersion) {
  if (access(ATTNC_BINARY_DIR "/bin/ptxas", X_OK) != 0)
    GTEST_SKIP() << "set-up puts a ptxas beside the tools of one build only";
  std::string asked = directory + "/asked";
  std::string body = "[ $1 != --version ] || echo x >>" + asked +
                     "\nexec " ATTNC_BINARY_DIR "/bin/ptxas \"$@\"\n";
  setenv("ATTNC_PTXAS", script("ptxas", body).c_str(), 1);
  auto gets = [] {
    attnc::Program program;
    return make(program, "sm_90a") == ATTNC_OK;
  };
  EXPECT_EQ(inProcess(gets), 0);
  size_t first = contents(asked).size();
  EXPECT_GT(first, 0u);
  EXPECT_EQ(inProcess(gets), 0);
  EXPECT_EQ(contents(asked).size(), first);
  // Another file of the same name.
  script("ptxas", body + "# another\n");
  EXPECT_EQ(inProcess(gets), 0);
  EXPECT_GT(contents(asked).size(), first);
  unsetenv("ATTNC_PTXAS");
}

//===----------------------------------------------------------------------===//
// What a host may do
//===----------------------------------------------------------------------===//

TEST_F(SurroundingsTest, ChildrenAreIgnoredOrReapedByTheHost) {
  EXPECT_EQ(inProcess([] {
              signal(SIGCHLD, SIG_IGN);
              attnc::Program gpu;
              return works() && make(gpu, "sm_90a") == ATTNC_OK;
            }),
            0);
  std::filesystem::remove_all(directory + "/cache");
  EXPECT_EQ(inProcess([] {
              signal(SIGCHLD, [](int) {
                int saved = errno;
                while (waitpid(-1, nullptr, WNOHANG) > 0)
                  ;
                errno = saved;
              });
              return works();
            }),
            0);
}

TEST_F(SurroundingsTest, TheWorkingDirectoryIsGone) {
  std::string gone = directory + "/gone";
  EXPECT_EQ(inProcess([&] {
              return mkdir(gone.c_str(), 0700) == 0 &&
                     chdir(gone.c_str()) == 0 && rmdir(gone.c_str()) == 0 &&
                     works();
            }),
            0);
}

TEST_F(SurroundingsTest, FewOpenFiles) {
  for (int spare : {0, 1, 2, 4, 6, 8, 12})
    EXPECT_EQ(inProcess([&] {
                int next = open("/dev/null", O_RDONLY);
                close(next);
                rlimit limit, few;
                getrlimit(RLIMIT_NOFILE, &limit);
                few = {rlim_t(next + spare), limit.rlim_max};
                setrlimit(RLIMIT_NOFILE, &few);
                attnc::Program program;
                attnc_status status = make(program);
                // Right, or refused with a reason; and right afterwards.
                bool fine = status == ATTNC_OK ? isRight(program)
                                               : *attnc_last_error() != 0;
                setrlimit(RLIMIT_NOFILE, &limit);
                return fine && works();
              }),
              0)
        << spare;
}

TEST_F(SurroundingsTest, AClosedStandardOutput) {
  EXPECT_EQ(inProcess([] {
              for (int fd : {0, 1, 2})
                close(fd);
              return works();
            }),
            0);
}
