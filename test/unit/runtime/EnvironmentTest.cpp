//===- EnvironmentTest.cpp - The registry of environment variables --------===//

#include "lib/Environment/Environment.h"
#include "test/unit/runtime/Stub.h"

using namespace attnc;

TEST(Environment, TheDocumentIsCurrent) {
  EXPECT_EQ(contents(ATTNC_SOURCE_DIR "/docs/environment.md"),
            environmentDocumentation())
      << "run: ninja docs-environment";
}

TEST(Environment, NothingElseReadsTheEnvironment) {
  TemporaryDirectory temporary;
  std::string found = temporary / "found";
  std::string command = "cd " ATTNC_SOURCE_DIR " && grep -rnE "
                        "'\\b(secure_)?getenv *\\(|GetEnv *\\(' "
                        "--exclude-dir='build*' lib passes dialects tools "
                        "--include='*.cpp' --include='*.h' "
                        "| grep -v '^lib/Environment/Environment.cpp:' > " +
                        found;
  int status = std::system(command.c_str());
  (void)status;
  EXPECT_EQ(contents(found), "") << "add the variable to Environment.def";
}

TEST(Environment, AnEmptyValueCountsAsUnset) {
  EXPECT_EQ(inProcess([] {
              setenv("ATTNC_JIT", "", 1);
              return environment(Variable::Jit) == std::nullopt &&
                     !setenv("ATTNC_JIT", "warn", 1) &&
                     environment(Variable::Jit) == "warn";
            }),
            0);
}

/// The options under one variable, and the number of complaints.
static bool gives(const char *name, const char *value,
                  bool (*expected)(const KernelCacheOptions &),
                  int complaints) {
  return inProcess([&] {
           for (const VariableInfo &info : environmentVariables())
             unsetenv(info.name);
           setenv("HOME", "/h", 1);
           setenv(name, value, 1);
           int heard = 0;
           EventSink sink(EventSink::Level::Off);
           sink.setCallback(
               [](const Event &, void *count) { ++*static_cast<int *>(count); },
               &heard);
           auto options = KernelCacheOptions::fromEnvironment("c", sink);
           return expected(options) && heard == complaints;
         }) == 0;
}

TEST(Environment, OptionsAndComplaints) {
  using Options = KernelCacheOptions;
  EXPECT_TRUE(gives(
      "ATTNC_JIT", "forbid",
      [](const Options &o) { return o.jit == JitPolicy::Forbid; }, 0));
  EXPECT_TRUE(gives(
      "ATTNC_JIT", "never",
      [](const Options &o) { return o.jit == JitPolicy::Allow; }, 1));
  EXPECT_TRUE(gives(
      "ATTNC_CACHE_SIZE", "64M",
      [](const Options &o) { return o.sizeLimit == 64 << 20; }, 0));
  EXPECT_TRUE(gives(
      "ATTNC_CACHE_SIZE", "-1",
      [](const Options &o) { return o.sizeLimit == 1 << 30; }, 1));
  EXPECT_TRUE(gives(
      "ATTNC_CACHE_SIZE", "99999999999999999999999",
      [](const Options &o) { return o.sizeLimit == 1 << 30; }, 1));
  EXPECT_TRUE(gives(
      "ATTNC_CACHE", "memory",
      [](const Options &o) { return o.directory.empty(); }, 0));
  EXPECT_TRUE(gives(
      "ATTNC_LOCK_TIMEOUT", "5",
      [](const Options &o) { return o.lockTimeout == 5; }, 0));
  EXPECT_TRUE(gives(
      "ATTNC_LOCK_TIMEOUT", "soon",
      [](const Options &o) { return o.lockTimeout == 60; }, 1));
}
