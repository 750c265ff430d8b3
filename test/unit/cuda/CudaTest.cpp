//===- CudaTest.cpp - Programs on a driver that has no GPU ----------------===//

#include "FakeDriver.h"

#include "lib/Runtime/Cuda/CudaProgram.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/Parser/Parser.h"

#include "gtest/gtest.h"

#include <array>
#include <cstring>
#include <dlfcn.h>
#include <vector>

using namespace attnc;

namespace {

std::string message(llvm::Error error) {
  return llvm::toString(std::move(error));
}

/// A program of one launch: `items` work items, the given recipe.
std::string moduleText(const std::string &recipe,
                       const std::string &signature) {
  return R"(
tile.program @f(%x: !tile.view<?x?xbf16> {tile.name = "x"},
                %y: !tile.view<?x?xbf16> {tile.name = "y", tile.result},
                %s: f32 {tile.name = "s"}) {
  %n = tile.dim %x, 0 : !tile.view<?x?xbf16>
  %w = tile.workspace(%n) : !tile.view<?xf32>
  tile.launch @k(%x, %y, %w, %s) items %n : !tile.view<?x?xbf16>, !tile.view<?x?xbf16>, !tile.view<?xf32>, f32
}
llvm.func @k()" +
         signature + R"() attributes {attnc.kernel = )" + recipe + R"(} {
  llvm.return
})";
}

const char fullRecipe[] =
    R"({threads = 384 : i64, smem = 1024 : i64, cluster = 2 : i64, params = [
    {kind = "tensor_map", arg = 0 : i64, order = [1, 0], box = [64, 128], swizzle = "128B"},
    {kind = "pointer", arg = 1 : i64}, {kind = "pointer", arg = 2 : i64},
    {kind = "size", arg = 0 : i64, dim = 1 : i64},
    {kind = "stride", arg = 1 : i64, dim = 0 : i64},
    {kind = "scalar", arg = 3 : i64}, {kind = "items"}]})";
const char fullSignature[] = "%0: !llvm.ptr, %1: !llvm.ptr<1>, "
                             "%2: !llvm.ptr<1>, %3: i64, %4: i64, %5: f32, "
                             "%6: i64";

struct Seen {
  CuLaunchConfig config;
  CuLaunchAttribute attribute;
  FakeTensorMap map;
  uint64_t bits[6];
};
Seen seen;

class CudaTest : public testing::Test {
protected:
  void SetUp() override {
    void *library = dlopen(FAKE_DRIVER, RTLD_NOW);
    ASSERT_TRUE(library) << dlerror();
    fake = static_cast<FakeDriver *>(dlsym(library, "fakeDriver"));
    ASSERT_TRUE(fake);
    *fake = FakeDriver();
    auto opened = CudaDriver::open(FAKE_DRIVER);
    ASSERT_TRUE(bool(opened)) << message(opened.takeError());
    driver = std::move(*opened);
    context.loadDialect<tile::TileDialect, mlir::LLVM::LLVMDialect,
                        mlir::arith::ArithDialect>();
    seen = Seen();
  }

  llvm::Expected<std::unique_ptr<CudaProgram>>
  load(const std::string &recipe = fullRecipe,
       const std::string &signature = fullSignature) {
    module = mlir::parseSourceString<mlir::ModuleOp>(
        moduleText(recipe, signature), &context);
    if (!module)
      return llvm::createStringError("the test's IR does not parse");
    return CudaProgram::load(*driver, *module, "image");
  }

  mlir::MLIRContext context;
  mlir::OwningOpRef<mlir::ModuleOp> module;
  FakeDriver *fake = nullptr;
  std::unique_ptr<CudaDriver> driver;
};

ViewArgument view(void *data, int64_t rows, int64_t cols, int64_t stride) {
  return {data, {rows, cols}, {stride, 1}};
}

void record(const CuLaunchConfig &config, void **parameters) {
  seen.config = config;
  if (config.attributeCount)
    seen.attribute = *config.attributes;
  memcpy(&seen.map, parameters[0], sizeof(seen.map));
  for (int i = 0; i < 6; ++i)
    memcpy(&seen.bits[i], parameters[i + 1], i == 4 ? 4 : 8);
}

alignas(256) char memory[1 << 16];

/// A launch for the rows of `x` and one, which follows, for those of `y`.
std::string moduleOfTwo() {
  return R"(
tile.program @f(%x: !tile.view<?x?xbf16> {tile.name = "x"},
                %y: !tile.view<?x?xbf16> {tile.name = "y", tile.result}) {
  %n = tile.dim %x, 0 : !tile.view<?x?xbf16>
  %m = tile.dim %y, 0 : !tile.view<?x?xbf16>
  tile.launch @a(%x) items %n : !tile.view<?x?xbf16>
  tile.launch @b(%y) items %m : !tile.view<?x?xbf16>
}
llvm.func @a(%0: !llvm.ptr<1>) attributes {attnc.kernel = {threads = 128 : i64,
    smem = 0 : i64, params = [{kind = "pointer", arg = 0 : i64}]}} {
  llvm.return
}
llvm.func @b(%0: !llvm.ptr<1>) attributes {attnc.kernel = {threads = 256 : i64,
    smem = 0 : i64, follows, params = [{kind = "pointer", arg = 0 : i64}]}} {
  llvm.return
})";
}

// A kernel that follows may begin beside the end of the launch before it, not
// of what others put on the stream.
TEST_F(CudaTest, OnlyAfterALaunchOfItsOwnAKernelFollows) {
  module = mlir::parseSourceString<mlir::ModuleOp>(moduleOfTwo(), &context);
  ASSERT_TRUE(module);
  auto program = CudaProgram::load(*driver, *module, "image");
  ASSERT_TRUE(bool(program)) << message(program.takeError());
  static std::vector<std::array<int, 4>> launches;
  fake->onLaunch = [](const CuLaunchConfig &config, void **) {
    bool any = config.attributeCount > 0;
    launches.push_back({int(config.block[0]), int(config.attributeCount),
                        any ? config.attributes[0].id : 0,
                        any ? config.attributes[0].allowed : 0});
  };
  using Launches = std::vector<std::array<int, 4>>;
  for (auto [rows, wanted] :
       {std::pair(7, Launches{{128, 0, 0, 0}, {256, 1, 6, 1}}),
        std::pair(0, Launches{{256, 0, 0, 0}})}) {
    launches.clear();
    std::vector<Argument> arguments{view(memory, rows, 8, 8),
                                    view(memory + 4096, 7, 8, 8)};
    llvm::Error error = (*program)->launch(arguments, nullptr, memory, 0);
    ASSERT_FALSE(bool(error)) << message(std::move(error));
    EXPECT_EQ(launches, wanted);
  }
}

TEST_F(CudaTest, ALaunchFollowsItsRecipe) {
  auto program = load();
  ASSERT_TRUE(bool(program)) << message(program.takeError());
  fake->onLaunch = record;
  std::vector<Argument> arguments{view(memory, 7, 96, 104),
                                  view(memory + 4096, 7, 96, 96), 2.5f};
  auto bytes = (*program)->workspaceBytes(arguments);
  ASSERT_TRUE(bool(bytes));
  EXPECT_EQ(*bytes, 28);
  char *workspace = memory + 8192;
  auto stream = reinterpret_cast<CuStream>(&seen);
  llvm::Error error = (*program)->launch(arguments, stream, workspace, *bytes);
  ASSERT_FALSE(bool(error)) << message(std::move(error));
  EXPECT_EQ(seen.config.grid[0], 8u); // 7 items, a multiple of the cluster
  EXPECT_EQ(seen.config.block[0], 384u);
  EXPECT_EQ(seen.config.sharedBytes, 1024u);
  EXPECT_EQ(seen.config.stream, stream);
  ASSERT_EQ(seen.config.attributeCount, 1u);
  EXPECT_EQ(seen.attribute.id, 4);
  EXPECT_EQ(seen.attribute.cluster[0], 2u);
  EXPECT_EQ(seen.map.address, uint64_t(memory));
  EXPECT_EQ(seen.map.rank, 2);
  EXPECT_EQ(seen.map.type, 9);
  EXPECT_EQ(seen.map.swizzle, 3);
  EXPECT_EQ(seen.map.sizes[0], 96u);
  EXPECT_EQ(seen.map.sizes[1], 7u);
  EXPECT_EQ(seen.map.strides[0], 208u);
  EXPECT_EQ(seen.map.box[0], 64);
  EXPECT_EQ(seen.map.box[1], 128);
  EXPECT_EQ(seen.bits[0], uint64_t(memory + 4096));
  EXPECT_EQ(seen.bits[1], uint64_t(workspace));
  EXPECT_EQ(seen.bits[2], 96u);
  EXPECT_EQ(seen.bits[3], 96u);
  float scalar;
  memcpy(&scalar, &seen.bits[4], sizeof(scalar));
  EXPECT_EQ(scalar, 2.5f);
  EXPECT_EQ(seen.bits[5], 7u);
  error = (*program)->launch(arguments, stream, workspace, 27);
  EXPECT_NE(message(std::move(error)).find("needs 28 bytes of workspace"),
            std::string::npos);
  EXPECT_EQ(fake->launches, 1);
  EXPECT_EQ(fake->contextDepth, 0);
}

TEST_F(CudaTest, APersistentGridIsWhatFits) {
  std::string recipe = fullRecipe;
  recipe.insert(1, "persistent = true, ");
  fake->multiprocessors = 3;
  fake->blocksPerMultiprocessor = 2;
  auto program = load(recipe);
  ASSERT_TRUE(bool(program)) << message(program.takeError());
  fake->onLaunch = record;
  for (auto [rows, blocks] : {std::pair(100, 6u), std::pair(5, 6u),
                              std::pair(3, 4u), std::pair(0, 0u)}) {
    seen = Seen();
    llvm::Error error = (*program)->launch(
        {view(memory, rows, 64, 64), view(memory, rows, 64, 64), 1.0f}, nullptr,
        memory, sizeof(memory));
    ASSERT_FALSE(bool(error)) << message(std::move(error));
    EXPECT_EQ(seen.config.grid[0], blocks) << rows << " items";
  }
}

TEST_F(CudaTest, AnEmptyTensorHasAMapToo) {
  auto program = load();
  ASSERT_TRUE(bool(program)) << message(program.takeError());
  fake->onLaunch = record;
  llvm::Error error = (*program)->launch(
      {view(nullptr, 4, 0, 0), view(memory, 4, 64, 64), 1.0f}, nullptr, memory,
      sizeof(memory));
  ASSERT_FALSE(bool(error)) << message(std::move(error));
  EXPECT_NE(seen.map.address, 0u);
  EXPECT_EQ(seen.map.sizes[0], 1u);
  EXPECT_EQ(seen.bits[2], 0u); // the kernel hears the true size
}

TEST_F(CudaTest, WhatTheCopyEngineCannotReadIsRefused) {
  auto program = load();
  ASSERT_TRUE(bool(program)) << message(program.takeError());
  auto refusal = [&](ViewArgument x) {
    return message(
        (*program)->launch({std::move(x), view(memory, 4, 64, 64), 1.0f},
                           nullptr, memory, sizeof(memory)));
  };
  EXPECT_NE(refusal(view(memory + 2, 4, 64, 64)).find("multiples of 16"),
            std::string::npos);
  EXPECT_NE(refusal(view(memory, 4, 64, 65)).find("multiples of 16"),
            std::string::npos);
  EXPECT_NE(refusal({memory, {4, 64}, {1, 4}}).find("a stride of 4"),
            std::string::npos);
  EXPECT_EQ(fake->launches, 0);
  // A stride that is never stepped over does not matter.
  EXPECT_EQ(refusal({memory, {1, 64}, {65, 1}}), "");
  fake->encodeStatus = 1;
  EXPECT_NE(refusal(view(memory, 4, 64, 64))
                .find("describing argument 0 of kernel 'k' to the copy engine: "
                      "a fake error (FAKE_ERROR)"),
            std::string::npos);
}

TEST_F(CudaTest, HostDataGoesThereAndBack) {
  auto program = load();
  ASSERT_TRUE(bool(program)) << message(program.takeError());
  fake->onLaunch = [](const CuLaunchConfig &, void **parameters) {
    FakeTensorMap map;
    memcpy(&map, parameters[0], sizeof(map));
    void *to;
    memcpy(&to, parameters[1], sizeof(to));
    memcpy(to, reinterpret_cast<void *>(map.address), 2 * 64 * 2);
  };
  uint16_t x[128], y[128] = {};
  for (int i = 0; i < 128; ++i)
    x[i] = i * 7 + 1;
  int before = fake->allocations;
  llvm::Error error =
      (*program)->runOnHostData({view(x, 2, 64, 64), view(y, 2, 64, 64), 1.0f});
  ASSERT_FALSE(bool(error)) << message(std::move(error));
  EXPECT_EQ(memcmp(x, y, sizeof(x)), 0);
  EXPECT_EQ(fake->allocations, before);
  program->reset();
  EXPECT_EQ(fake->allocations, 0);
  EXPECT_EQ(fake->retained, 1); // a primary context is never given back
  EXPECT_EQ(fake->contextDepth, 0);
}

TEST_F(CudaTest, AnotherGpuIsNamed) {
  fake->major = 8;
  fake->minor = 6;
  std::string text = message(load().takeError());
  EXPECT_EQ(text, "device 0 is a Fake GPU of compute capability 8.6; the "
                  "target sm_90a runs on 9.0 (H100, H200, GH200) only, the "
                  "target cpu runs everywhere");
}

TEST_F(CudaTest, ABlockCannotHaveMoreSharedMemoryThanTheDevice) {
  fake->sharedPerBlock = 1000;
  std::string text = message(load().takeError());
  EXPECT_NE(text.find("needs 1024 bytes of shared memory; a block on the Fake "
                      "GPU has 1000"),
            std::string::npos)
      << text;
}

TEST_F(CudaTest, NoDriverIsAnError) {
  auto missing = CudaDriver::open("libnosuchdriver.so.1");
  ASSERT_FALSE(bool(missing));
  std::string text = message(missing.takeError());
  EXPECT_NE(text.find("no CUDA driver: libnosuchdriver.so.1"),
            std::string::npos)
      << text;
  auto other = CudaDriver::open("libm.so.6");
  ASSERT_FALSE(bool(other));
  text = message(other.takeError());
  EXPECT_NE(text.find("libm.so.6 is too old: it lacks cuInit"),
            std::string::npos)
      << text;
}

TEST_F(CudaTest, AWrongRecipeIsExplained) {
  struct Case {
    const char *recipe, *error;
  };
  for (const Case &test : {
           Case{"{smem = 0 : i64, params = []}",
                "'threads' must be an integer from 1 to 1024, got nothing"},
           Case{"{threads = 2048 : i64, smem = 0 : i64, params = []}",
                "'threads' must be an integer from 1 to 1024, got 2048"},
           Case{"{threads = 128 : i64, smem = 0 : i64}",
                "'params' must be an array of dictionaries, got nothing"},
           Case{"{threads = 128 : i64, smem = 0 : i64, params = [7 : i64]}",
                "parameter 0 must be a dictionary"},
           Case{"{threads = 128 : i64, smem = 0 : i64, params = [{kind = "
                "\"picture\"}]}",
                "'kind' must be tensor_map, pointer, size, stride, scalar or "
                "items, got \"picture\""},
           Case{"{threads = 128 : i64, smem = 0 : i64, params = [{kind = "
                "\"size\", arg = 0 : i64}]}",
                "parameter 0: 'dim' must be an integer"},
           Case{"{threads = 128 : i64, smem = 0 : i64, params = [{kind = "
                "\"tensor_map\", arg = 0 : i64, order = [1, 0], box = [64], "
                "swizzle = \"128B\"}]}",
                "'box' must be as long as 'order'"},
           Case{"{threads = 128 : i64, smem = 0 : i64, params = [{kind = "
                "\"tensor_map\", arg = 0 : i64, order = [1, 0], box = [64, "
                "300], swizzle = \"128B\"}]}",
                "'box' must be integers from 1 to 256"},
           Case{"{threads = 128 : i64, smem = 0 : i64, params = [{kind = "
                "\"tensor_map\", arg = 0 : i64, order = [1, 0], box = [64, "
                "8], swizzle = \"16B\"}]}",
                "'swizzle' must be \"none\", \"32B\", \"64B\" or \"128B\", got "
                "\"16B\""},
           Case{"{threads = 128 : i64, smem = 0 : i64, params = []}",
                "takes 1 parameters, but its recipe makes 0"},
       }) {
    std::string text = message(load(test.recipe, "%0: i64").takeError());
    EXPECT_NE(text.find(test.error), std::string::npos)
        << "expected " << test.error << "\ngot " << text;
  }
}

} // namespace
