//===- CudaApiTest.cpp - GPU programs through the C interface -------------===//
//
// Compiled for sm_90a as ever, run on a driver that has no GPU and tells what
// it was asked for.
//
//===----------------------------------------------------------------------===//

#include "attnc/attnc.hpp"
#include "test/unit/cuda/FakeDriver.h"

#include "gtest/gtest.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <filesystem>
#include <mutex>
#include <string>
#include <thread>

namespace {

FakeDriver *fake;
std::string directory;

class Surroundings : public ::testing::Environment {
public:
  void SetUp() override {
    // dlopen("libcuda.so.1") gives what carries that name already.
    void *library = dlopen(FAKE_DRIVER, RTLD_NOW | RTLD_GLOBAL);
    ASSERT_TRUE(library) << dlerror();
    fake = static_cast<FakeDriver *>(dlsym(library, "fakeDriver"));
    ASSERT_TRUE(fake);
    char name[] = "/tmp/attnc-cuda-XXXXXX";
    directory = mkdtemp(name);
    setenv("ATTNC_CACHE_DIR", (directory + "/cache").c_str(), 1);
    setenv("ATTNC_LOG", "off", 1);
  }
  void TearDown() override {
    std::error_code ignored;
    std::filesystem::remove_all(directory, ignored);
  }
};
[[maybe_unused]] auto *surroundings =
    ::testing::AddGlobalTestEnvironment(new Surroundings);

alignas(256) char memory[1 << 20];

/// Tests run one after the other in one process, whose programs stay: each
/// counts from where it starts.
class CudaApi : public ::testing::Test {
protected:
  void SetUp() override {
    *fake = FakeDriver();
    // Other contexts than the test's before: nothing is loaded in them.
    static unsigned long long nextId = 100;
    for (FakeContext &context : fake->primary)
      context.id = nextId++;
    attention = attnc::attention("softmax");
    attention.dtype = ATTNC_DTYPE_BF16;
    options.target = "sm_90a";
  }

  attnc::Program make() {
    attnc::Program program;
    attnc::Status status =
        attnc::Program::fromAttention(attention, program, options);
    EXPECT_TRUE(status) << status.message();
    return program;
  }

  static attnc::Tensor tensor(int number, int64_t rows) {
    return attnc::Tensor::contiguous<void>(memory + number * (1 << 16),
                                           {1, 2, rows, 64}, ATTNC_DTYPE_BF16);
  }
  static attnc::Status run(const attnc::Program &program, int64_t rows,
                           void *stream = nullptr) {
    return program.run(
        {tensor(0, rows), tensor(1, rows), tensor(2, rows), tensor(3, rows)},
        memory + (1 << 19), 1 << 19, stream);
  }

  attnc_attention attention;
  attnc::Options options;
  void *const stream = memory + 64;
};

attnc_counters counters() {
  attnc_counters current{};
  current.struct_size = sizeof(current);
  EXPECT_EQ(attnc_get_counters(&current), ATTNC_OK);
  return current;
}

} // namespace

TEST_F(CudaApi, CompilesWithoutADevice) {
  fake->devices = 0;
  attnc::Program program = make();
  EXPECT_EQ(program.target(), "sm_90a");
  EXPECT_NE(program.key().find("ptxas="), std::string::npos);
  EXPECT_EQ(program.parameters().size(), 4u);
  EXPECT_EQ(fake->moduleLoads, 0);
  attnc::Status status = program.warmUp();
  EXPECT_EQ(status.code(), ATTNC_INVALID_ARGUMENT);
  EXPECT_EQ(status.message(), "CUDA device 0 does not exist: there are 0");
}

TEST_F(CudaApi, ARepeatedCallIsOnlyALaunch) {
  attnc::Program program = make();
  ASSERT_TRUE(run(program, 128, stream));
  EXPECT_EQ(fake->moduleLoads, 1);
  int encodes = fake->encodes, launches = fake->launches;
  EXPECT_GT(launches, 0);
  for (int k = 0; k < 3; ++k)
    ASSERT_TRUE(run(program, 128, stream));
  EXPECT_EQ(fake->encodes, encodes);
  EXPECT_EQ(fake->launches, 4 * launches);
  EXPECT_EQ(fake->moduleLoads, 1);
  EXPECT_EQ(fake->contextDepth, 0);
}

/// Only a layout that is new is encoded; other memory is another address.
TEST_F(CudaApi, OtherMemoryOfTheSameLayoutIsOnlyAnAddress) {
  attnc::Program program = make();
  static std::vector<uint64_t> seen;
  fake->onLaunch = [](const attnc::CuLaunchConfig &, void **parameters) {
    for (; seen.size() < 3; ++parameters) {
      FakeTensorMap map;
      std::memcpy(&map, *parameters, sizeof(map.mark));
      if (map.mark != FakeTensorMap::isMap)
        continue;
      std::memcpy(&map, *parameters, sizeof(map));
      seen.push_back(map.address);
    }
  };
  auto launch = [&](int first) {
    seen.clear();
    attnc::Status status =
        program.run({tensor(first, 48), tensor(first + 1, 48),
                     tensor(first + 2, 48), tensor(first + 3, 48)},
                    memory + (1 << 19), 1 << 19, stream);
    EXPECT_TRUE(status) << status.message();
  };
  auto address = [](int number) { return uint64_t(memory + (number << 16)); };
  launch(0);
  int encodes = fake->encodes, replaces = fake->replaces;
  launch(4);
  EXPECT_EQ(seen, (std::vector<uint64_t>{address(4), address(5), address(6)}));
  launch(1);
  EXPECT_EQ(seen, (std::vector<uint64_t>{address(1), address(2), address(3)}));
  EXPECT_EQ(fake->encodes, encodes);
  EXPECT_GT(fake->replaces, replaces);
  replaces = fake->replaces;
  launch(0); // all is known
  launch(4);
  EXPECT_EQ(seen, (std::vector<uint64_t>{address(4), address(5), address(6)}));
  EXPECT_EQ(fake->replaces, replaces);
}

/// The map of each field of the query that may differ is made anew.
TEST_F(CudaApi, EveryFieldOfATensorCounts) {
  attnc::Program program = make();
  static FakeTensorMap seen;
  fake->onLaunch = [](const attnc::CuLaunchConfig &, void **parameters) {
    // The first map is the query's; what stands before are scalars.
    uint64_t mark = 0;
    while (mark != FakeTensorMap::isMap)
      std::memcpy(&mark, *parameters++, sizeof(mark));
    std::memcpy(&seen, parameters[-1], sizeof(seen));
  };
  auto launch = [&](attnc::Tensor query) {
    attnc::Tensor output = query;
    output.data = memory + (1 << 18);
    attnc::Status status =
        program.run({query, tensor(1, 64), tensor(2, 64), output},
                    memory + (1 << 19), 1 << 19, nullptr);
    EXPECT_TRUE(status) << status.message();
    return seen;
  };
  attnc::Tensor query = tensor(0, 64);
  FakeTensorMap first = launch(query);
  EXPECT_EQ(first.address, uint64_t(memory));
  query.data = memory + 4096;
  EXPECT_EQ(launch(query).address, uint64_t(memory + 4096));
  query.sizes[2] = 63;
  FakeTensorMap shorter = launch(query);
  EXPECT_NE(std::memcmp(&first, &shorter, sizeof(first)), 0);
  query.strides[1] += 64;
  FakeTensorMap strided = launch(query);
  query.data = memory;
  EXPECT_EQ(launch(query).address, uint64_t(memory));
  EXPECT_EQ(launch(tensor(0, 64)).address, first.address);
  query.data = memory + 4096;
  FakeTensorMap again = launch(query);
  EXPECT_EQ(std::memcmp(&strided, &again, sizeof(again)), 0);
}

TEST_F(CudaApi, AStreamBringsItsContext) {
  fake->devices = 2;
  attnc::Program program = make();
  fake->streamContext = &fake->primary[1];
  ASSERT_TRUE(run(program, 64, stream));
  EXPECT_EQ(fake->launchContext, &fake->primary[1]);
  EXPECT_EQ(fake->retained, 0); // it had a context, none was made
  ASSERT_TRUE(run(program, 64));
  EXPECT_EQ(fake->launchContext, &fake->primary[0]);
  EXPECT_EQ(fake->moduleLoads, 2); // once a context
  fake->streamContext = nullptr;
  options.device = 1;
  attnc::Program second = make();
  EXPECT_EQ(second.key(), program.key());
  ASSERT_TRUE(run(second, 64));
  EXPECT_EQ(fake->launchContext, &fake->primary[1]);
  EXPECT_EQ(fake->moduleLoads, 2);
  EXPECT_EQ(fake->contextDepth, 0);
}

TEST_F(CudaApi, TheCallersContextOfTheSameDeviceIsUsed) {
  using Push = int (*)(FakeContext *);
  using Pop = int (*)(FakeContext **);
  void *library = dlopen("libcuda.so.1", RTLD_NOW);
  auto push = reinterpret_cast<Push>(dlsym(library, "cuCtxPushCurrent_v2"));
  auto pop = reinterpret_cast<Pop>(dlsym(library, "cuCtxPopCurrent_v2"));
  fake->devices = 2;
  FakeContext mine{0, 900}, other{1, 901}, *popped;
  attnc::Program program = make();
  push(&mine);
  int pushes = fake->pushes;
  ASSERT_TRUE(run(program, 64));
  EXPECT_EQ(fake->launchContext, &mine);
  EXPECT_EQ(fake->pushes, pushes);
  push(&other);
  ASSERT_TRUE(run(program, 64));
  EXPECT_EQ(fake->launchContext, &fake->primary[0]);
  pop(&popped);
  EXPECT_EQ(popped, &other);
  pop(&popped);
  EXPECT_EQ(popped, &mine);
}

TEST_F(CudaApi, AColdProgramIsNotCaptured) {
  attnc::Program program = make();
  fake->capturing = 1;
  attnc::Status status = run(program, 64, stream);
  EXPECT_EQ(status.code(), ATTNC_COLD);
  EXPECT_NE(status.message().find("warm up first"), std::string::npos)
      << status.message();
  EXPECT_EQ(fake->moduleLoads, 0);
  EXPECT_EQ(fake->launches, 0);
  fake->capturing = 0;
  ASSERT_TRUE(program.warmUp());
  EXPECT_EQ(fake->moduleLoads, 1);
  fake->capturing = 1;
  int allocations = fake->allocations;
  EXPECT_TRUE(run(program, 64, stream));
  EXPECT_EQ(fake->allocations, allocations);
  EXPECT_GT(fake->launches, 0);
}

/// Few queries and many keys take a second program, made when it is needed, and
/// few rows of queries in all a third.
TEST_F(CudaApi, FewQueriesTakeAProgramOfTheirOwn) {
  attnc::Program program = make();
  uint64_t compiles = counters().compiles;
  auto call = [&](int64_t rows, int64_t keys, size_t *bytes) {
    std::vector<attnc::Argument> arguments = {tensor(0, rows), tensor(1, keys),
                                              tensor(2, keys), tensor(3, rows)};
    *bytes = 1;
    attnc::Status status = program.workspaceSize(arguments, *bytes);
    EXPECT_TRUE(status) << status.message();
    return program.run(arguments, memory + (1 << 19), *bytes, stream);
  };
  size_t bytes;
  ASSERT_TRUE(call(128, 128, &bytes));
  EXPECT_EQ(bytes, 0u);
  EXPECT_EQ(counters().compiles, compiles);
  EXPECT_EQ(fake->moduleLoads, 1);
  int launches = fake->launches;
  ASSERT_TRUE(call(1, 4096, &bytes));
  EXPECT_EQ(counters().compiles, compiles + 1);
  // 2 heads, 2 * 132 items, 4096 / 256 ranges; f32 sums of 64 and a maximum
  // and a sum.
  EXPECT_EQ(bytes, 2 * 16 * (64 + 1 + 1) * sizeof(float));
  EXPECT_EQ(fake->moduleLoads, 2);
  EXPECT_EQ(fake->launches, launches + 2);
  // Other sizes are served by the same two.
  ASSERT_TRUE(call(3, 5001, &bytes));
  ASSERT_TRUE(call(1, 100, &bytes));
  EXPECT_EQ(bytes, 0u);
  EXPECT_EQ(fake->launches, launches + 5);
  EXPECT_EQ(counters().compiles, compiles + 1);
  EXPECT_EQ(fake->moduleLoads, 2);
  ASSERT_TRUE(call(2048, 2048, &bytes));
  EXPECT_EQ(bytes, 0u);
  EXPECT_EQ(fake->launches, launches + 6);
  EXPECT_EQ(counters().compiles, compiles + 2);
  EXPECT_EQ(fake->moduleLoads, 3);
}

/// What the workspace was asked for is loaded by a warm-up as well.
TEST_F(CudaApi, AWarmUpLoadsTheProgramForFewQueriesToo) {
  attnc::Program program = make();
  std::vector<attnc::Argument> arguments = {tensor(0, 1), tensor(1, 4096),
                                            tensor(2, 4096), tensor(3, 1)};
  size_t bytes = 0;
  ASSERT_TRUE(program.workspaceSize(arguments, bytes));
  fake->capturing = 1;
  EXPECT_EQ(program.run(arguments, memory + (1 << 19), bytes, stream).code(),
            ATTNC_COLD);
  fake->capturing = 0;
  ASSERT_TRUE(program.warmUp());
  fake->capturing = 1;
  EXPECT_TRUE(program.run(arguments, memory + (1 << 19), bytes, stream));
  EXPECT_EQ(fake->launches, 2);
}

TEST_F(CudaApi, AnOldDriverIsNamedWithTheToolkit) {
  attnc::Program program = make();
  fake->version = 11080;
  attnc::Status status = program.warmUp();
  EXPECT_EQ(status.code(), ATTNC_LOAD_FAILED);
  for (const char *part : {"ptxas 1", "CUDA 11.8", "update the driver"})
    EXPECT_NE(status.message().find(part), std::string::npos)
        << status.message();
  EXPECT_EQ(fake->moduleLoads, 0);
}

TEST_F(CudaApi, CudaIsWhatTheDeviceIs) {
  options.target = "cuda";
  EXPECT_EQ(make().target(), "sm_90a");
  fake->major = 8;
  attnc::Program program;
  attnc::Status status =
      attnc::Program::fromAttention(attention, program, options);
  EXPECT_EQ(status.code(), ATTNC_UNSUPPORTED);
  EXPECT_NE(status.message().find("compute capability 8.0"), std::string::npos)
      << status.message();
}

TEST_F(CudaApi, ThreadsShareOneModule) {
  attnc::Program program = make();
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int k = 0; k < 4; ++k)
    threads.emplace_back([&, k] {
      for (int rows : {64, 128, 64 + k})
        wrong += !run(program, rows);
    });
  for (std::thread &thread : threads)
    thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(fake->moduleLoads, 1);
  EXPECT_EQ(fake->moduleUnloads, 0);
}

TEST_F(CudaApi, WrongArgumentsAreNamedBeforeAnyLaunch) {
  attnc::Program program = make();
  attnc::Tensor narrow = tensor(0, 64);
  narrow.sizes[3] = 32;
  attnc::Status status = program.run(
      {narrow, tensor(1, 64), tensor(2, 64), tensor(3, 64)}, memory, 0, stream);
  EXPECT_EQ(status.code(), ATTNC_INVALID_ARGUMENT);
  EXPECT_NE(status.message().find("argument 'query': dim 3 must be 64, got 32"),
            std::string::npos)
      << status.message();
  EXPECT_EQ(fake->launches, 0);
}

//===----------------------------------------------------------------------===//
// The C launcher
//===----------------------------------------------------------------------===//

namespace {
/// As the generated file declares it.
struct LauncherTensor {
  void *data;
  int64_t sizes[5], strides[5];
};

/// One launch, as numbers: grid, block, shared memory, and parameters.
struct Launched {
  std::vector<uint64_t> numbers;
  void **parameters = nullptr;
} launched;

void recordConfig(const attnc::CuLaunchConfig &config, void **parameters) {
  launched.numbers = {config.grid[0], config.block[0], config.sharedBytes,
                      config.attributeCount};
  launched.parameters = parameters;
}

/// Adds `count` parameters to the numbers; maps whole.
void addParameters(void **parameters, size_t count) {
  for (size_t k = 0; k < count; ++k) {
    uint64_t words[16] = {};
    std::memcpy(words, parameters[k], 8);
    if (words[0] == FakeTensorMap::isMap)
      std::memcpy(words, parameters[k], sizeof(FakeTensorMap));
    launched.numbers.insert(launched.numbers.end(), words, words + 16);
  }
}
} // namespace

/// Makes `library` of the launcher of an attention; 0 if nothing complains.
static int makeLauncher(const std::string &flags, const std::string &library) {
  std::string attnc = ATTNC_BINARY_DIR "/bin/attnc", source = library + ".c";
  return std::system((attnc + " gen --dtype=bf16 " + flags + " | " + attnc +
                      " - --target=sm_90a --emit=c-launcher -o " + source +
                      " && " ATTNC_CC " -std=c11 -Wall -Wextra -Werror -fPIC "
                      "-shared -o " +
                      library + " " + source)
                         .c_str());
}

// Nothing needs a scalar before the launch; with an odd head dim, no kernel has
// a tensor map; with few heads nothing takes a remainder.
TEST_F(CudaApi, TheCLauncherHasNothingThatIsNotUsed) {
  EXPECT_EQ(makeLauncher("--score=sigmoid --causal", directory + "/s.so"), 0);
  EXPECT_EQ(makeLauncher("--head-dim=59", directory + "/odd.so"), 0);
  EXPECT_EQ(makeLauncher("--score=softmax --heads=4 --kv-heads=2",
                         directory + "/heads.so"),
            0);
}

TEST_F(CudaApi, TheCLauncherLaunchesTheSame) {
  std::string library = directory + "/launcher.so";
  ASSERT_EQ(makeLauncher("--score=softmax", library), 0);
  void *handle = dlopen(library.c_str(), RTLD_NOW);
  ASSERT_TRUE(handle) << dlerror();
  using Load = int (*)(void *);
  using Workspace =
      int (*)(const LauncherTensor *, const LauncherTensor *,
              const LauncherTensor *, const LauncherTensor *, int64_t *);
  using Launch = int (*)(const void *, const LauncherTensor *,
                         const LauncherTensor *, const LauncherTensor *,
                         const LauncherTensor *, void *, int64_t, void *);
  auto load = reinterpret_cast<Load>(dlsym(handle, "attention_load"));
  auto space =
      reinterpret_cast<Workspace>(dlsym(handle, "attention_workspace"));
  auto launch = reinterpret_cast<Launch>(dlsym(handle, "attention_launch"));
  auto message =
      reinterpret_cast<const char *(*)()>(dlsym(handle, "attention_error"));
  ASSERT_TRUE(load && space && launch && message);

  attnc::Program program = make();
  static void *last[64];
  static size_t count;
  fake->onLaunch = recordConfig;
  auto push = reinterpret_cast<int (*)(FakeContext *)>(
      dlsym(dlopen("libcuda.so.1", RTLD_NOW), "cuCtxPushCurrent_v2"));
  push(&fake->primary[0]);
  alignas(16) char loaded[256];
  ASSERT_EQ(load(loaded), 0) << message();
  for (int64_t rows : {64, 200}) {
    LauncherTensor tensors[4];
    for (int k = 0; k < 4; ++k) {
      attnc::Tensor from = tensor(k, rows);
      tensors[k].data = from.data;
      std::copy(from.sizes.begin(), from.sizes.end(), tensors[k].sizes);
      std::copy(from.strides.begin(), from.strides.end(), tensors[k].strides);
    }
    int64_t bytes = -1;
    ASSERT_EQ(space(tensors, tensors + 1, tensors + 2, tensors + 3, &bytes), 0)
        << message();
    // The launcher's list of parameters ends with a null, and lives as long
    // as the call: what they are is read while it is being launched.
    fake->onLaunch = [](const attnc::CuLaunchConfig &config,
                        void **parameters) {
      recordConfig(config, parameters);
      for (count = 0; parameters[count]; ++count)
        last[count] = parameters[count];
      addParameters(last, count);
    };
    ASSERT_EQ(launch(loaded, tensors, tensors + 1, tensors + 2, tensors + 3,
                     memory + (1 << 19), bytes, stream),
              0)
        << message();
    std::vector<uint64_t> fromLauncher = launched.numbers;
    fake->onLaunch = recordConfig;
    ASSERT_TRUE(run(program, rows, stream));
    addParameters(launched.parameters, count);
    EXPECT_EQ(launched.numbers, fromLauncher);
    tensors[1].sizes[2] += 1;
    EXPECT_EQ(launch(loaded, tensors, tensors + 1, tensors + 2, tensors + 3,
                     memory, bytes, stream),
              -1);
    EXPECT_NE(std::string(message()).find("key has " +
                                          std::to_string(rows + 1) + " rows"),
              std::string::npos)
        << message();
  }
  FakeContext *popped;
  reinterpret_cast<int (*)(FakeContext **)>(
      dlsym(dlopen("libcuda.so.1", RTLD_NOW), "cuCtxPopCurrent_v2"))(&popped);
}

TEST_F(CudaApi, OneCompileAndTwoForFewQueriesServedAllOfThis) {
  make();
  EXPECT_LE(counters().compiles, 3u);
}
