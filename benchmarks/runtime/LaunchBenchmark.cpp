//===- LaunchBenchmark.cpp - What a launch costs beside the driver's part -===//
//
//   bench-launch              # on a machine with a Hopper GPU
//   bench-launch libFake.so   # anywhere, with the fake driver of the tests
//
// Compares a repeated attnc_program_run with the bare cuLaunchKernelEx of the
// same kernel and parameters, and with the request for the program before it;
// then calls whose numbers are new, and what the driver takes to make a tensor
// map.
//
//===----------------------------------------------------------------------===//

#include "include/attnc/attnc.hpp"
#include "lib/Runtime/Cuda/Driver.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <dlfcn.h>

using namespace attnc;

namespace {
/// The last launch, as the driver was given it.
struct Recorded {
  CuLaunchConfig config;
  CuLaunchAttribute attribute;
  CuFunction function = nullptr;
  void **parameters = nullptr;
} recorded;
decltype(CudaDriver::launchKernel) realLaunch;

/// Calls on an idle stream, so that it never fills up.
template <typename Call>
double medianNanoseconds(CudaDriver &driver, Call call) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> rounds;
  constexpr int rounds_ = 41, count = 200;
  for (int round = 0; round < rounds_; ++round) {
    driver.streamSynchronize(nullptr);
    auto start = Clock::now();
    for (int k = 0; k < count; ++k)
      call();
    std::chrono::duration<double, std::nano> taken = Clock::now() - start;
    rounds.push_back(taken.count() / count);
  }
  std::sort(rounds.begin(), rounds.end());
  return rounds[rounds_ / 2];
}

int fail(const std::string &message) {
  std::fprintf(stderr, "bench-launch: %s\n", message.c_str());
  return 1;
}
} // namespace

int main(int argc, char **argv) {
  if (argc > 1 && !dlopen(argv[1], RTLD_NOW))
    return fail(dlerror());
  auto opened = CudaDriver::get();
  if (!opened)
    return fail(llvm::toString(opened.takeError()));
  CudaDriver &driver = **opened;

  attnc_attention attention = attnc::attention("sigmoid");
  attention.dtype = ATTNC_DTYPE_BF16;
  Options options;
  options.target = "cuda";
  Program program;
  if (Status status = Program::fromAttention(attention, program, options);
      !status)
    return fail(status.message());
  if (Status status = program.warmUp(); !status)
    return fail(status.message());
  auto context = contextOfCall(driver, nullptr, 0);
  if (!context)
    return fail(llvm::toString(context.takeError()));
  auto scope = CudaContextScope::enter(driver, *context);
  if (!scope)
    return fail(llvm::toString(scope.takeError()));
  CuPointer data = 0;
  // Room for tensors of up to 72 rows at many places.
  constexpr size_t bytes = 4 << 20;
  if (driver.memAlloc(&data, bytes))
    return fail("no device memory");
  auto tensor = [&](int index) {
    auto *start = reinterpret_cast<char *>(data) + index * 64 * 64 * 2;
    return Tensor::contiguous<void>(start, {1, 1, 64, 64}, ATTNC_DTYPE_BF16);
  };
  const std::vector<Argument> kept = {tensor(0), tensor(1), tensor(2), -4.0f,
                                      tensor(3)};
  std::vector<attnc_argument> arguments;
  for (const Argument &argument : kept)
    arguments.push_back(argument.get());
  auto run = [&] {
    return attnc_program_run(program.get(), arguments.data(), arguments.size(),
                             nullptr, 0, nullptr);
  };
  realLaunch = driver.launchKernel;
  driver.launchKernel = [](const CuLaunchConfig *config, CuFunction function,
                           void **parameters, void **extra) {
    recorded.config = *config;
    if (config->attributeCount)
      recorded.attribute = *config->attributes;
    recorded.config.attributes = &recorded.attribute;
    recorded.function = function;
    recorded.parameters = parameters;
    return realLaunch(config, function, parameters, extra);
  };
  if (run())
    return fail(attnc_last_error());
  driver.launchKernel = realLaunch;
  if (driver.streamSynchronize(nullptr))
    return fail("the kernel failed");

  double bare = medianNanoseconds(driver, [&] {
    realLaunch(&recorded.config, recorded.function, recorded.parameters,
               nullptr);
  });
  double launch = medianNanoseconds(driver, run);
  attnc_options raw = options.get();
  double both = medianNanoseconds(driver, [&] {
    attnc_program *found = nullptr;
    attnc_program_from_attention(&attention, &raw, &found);
    attnc_program_run(found, arguments.data(), arguments.size(), nullptr, 0,
                      nullptr);
    attnc_program_release(found);
  });
  double changing = medianNanoseconds(driver, [&] {
    arguments[3].as.f32 += 0.001f;
    run();
  });
  // No two calls alike, so that nothing that is kept of them helps.
  unsigned turn = 0;
  auto move = [&](int64_t rows) {
    ++turn;
    for (size_t k : {0, 1, 2, 4}) {
      attnc_tensor &tensor = arguments[k].as.tensor;
      tensor.data =
          reinterpret_cast<char *>(data) + k * (72 << 7) + turn % 4096 * 256;
      const_cast<int64_t *>(tensor.sizes)[2] = rows;
    }
  };
  double moving = medianNanoseconds(driver, [&] {
    move(64);
    run();
  });
  double growing = medianNanoseconds(driver, [&] {
    move(1 + turn % 64);
    run();
  });
  size_t workspace = 0;
  double asking = medianNanoseconds(driver, [&] {
    attnc_program_workspace_size(program.get(), arguments.data(),
                                 arguments.size(), &workspace);
  });
  CuTensorMap map = {}, moved = {};
  const uint64_t sizes[] = {64, 64, 1, 1}, strides[] = {128, 8192, 8192};
  const uint32_t box[] = {64, 64, 1, 1}, steps[] = {1, 1, 1, 1};
  auto encode = [&](CuTensorMap &map, CuPointer address) {
    return driver.tensorMapEncode(&map, 9, 4, reinterpret_cast<void *>(address),
                                  sizes, strides, box, steps, 0, 3, 3, 0);
  };
  double encoding = medianNanoseconds(driver, [&] { encode(map, data + 256); });
  encode(moved, data);
  double replacing = medianNanoseconds(driver, [&] {
    driver.tensorMapReplaceAddress(&moved,
                                   reinterpret_cast<void *>(data + 256));
  });
  if (std::memcmp(&map, &moved, sizeof(map)))
    return fail("a map with another address is not that of the address");
  std::printf("bare cuLaunchKernelEx        %8.0f ns\n"
              "attnc_program_run            %8.0f ns  (+%.0f)\n"
              "the same, another scalar     %8.0f ns  (+%.0f)\n"
              "request by struct, and run   %8.0f ns  (+%.0f)\n",
              bare, launch, launch - bare, changing, changing - bare, both,
              both - bare);
  std::printf("other pointers               %8.0f ns  (+%.0f)\n"
              "other pointers and sizes     %8.0f ns  (+%.0f)\n"
              "attnc_program_workspace_size %8.0f ns\n"
              "cuTensorMapEncodeTiled       %8.0f ns\n"
              "cuTensorMapReplaceAddress    %8.0f ns\n",
              moving, moving - bare, growing, growing - bare, asking, encoding,
              replacing);
  return driver.streamSynchronize(nullptr) ? fail("a kernel failed") : 0;
}
