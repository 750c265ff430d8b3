//===- ApiBenchmark.cpp - From a request to a result, through the C API ---===//
//
//   attnc gen --score=sigmoid --head-dim=64 -o sigmoid.mlir
//   bench-api sigmoid.mlir      # twice: a cold cache, then one on disk
//
// Prints what the first request of a process costs, what later ones cost, what
// a run of one row and one key costs, what a run of no rows does, and the
// memory of the process.
//
//===----------------------------------------------------------------------===//

#include "attnc/attnc.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <sys/resource.h>

static double now() {
  return std::chrono::duration<double>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

/// The median over rounds of the seconds one call takes.
template <typename Call> static double medianOf(Call call) {
  std::vector<double> rounds;
  constexpr int count = 2000;
  for (int round = 0; round < 11; ++round) {
    double start = now();
    for (int k = 0; k < count; ++k)
      call();
    rounds.push_back((now() - start) / count);
  }
  std::sort(rounds.begin(), rounds.end());
  return rounds[rounds.size() / 2];
}

int main(int argc, char **argv) {
  std::ifstream file(argc == 2 ? argv[1] : "");
  std::string ir{std::istreambuf_iterator<char>(file), {}};
  attnc::Program program;
  double start = now();
  attnc::Status status = attnc::Program::fromIr(ir, program);
  double first = now() - start;
  if (!status) {
    std::fprintf(stderr, "%s\n", status.message().c_str());
    return 1;
  }
  attnc_counters counters{};
  counters.struct_size = sizeof(counters);
  attnc_get_counters(&counters);
  std::printf("first request       %8.3f ms (%s)\n", first * 1e3,
              counters.compiles ? "compiled" : "from disk");
  std::printf("later request       %8.3f us\n",
              1e6 * medianOf([&] {
                attnc::Program again;
                (void)bool(attnc::Program::fromIr(ir, again));
              }));

  int64_t headDim = program.parameters()[0].sizes[3];
  auto count = static_cast<size_t>(headDim);
  std::vector<float> row(count, 1.0f), output(count);
  auto tensor = attnc::Tensor::contiguous(row.data(), {1, 1, 1, headDim});
  auto result = attnc::Tensor::contiguous(output.data(), {1, 1, 1, headDim});
  attnc_argument arguments[5];
  const attnc::Argument kept[5] = {tensor, tensor, tensor, 0.0f, result};
  for (int k = 0; k < 5; ++k)
    arguments[k] = kept[k].get();
  if (attnc_program_run(program.get(), arguments, 5, nullptr, 0, nullptr)) {
    std::fprintf(stderr, "%s\n", attnc_last_error());
    return 1;
  }
  std::printf("run, 1 row, 1 key   %8.3f us\n",
              1e6 * medianOf([&] {
                attnc_program_run(program.get(), arguments, 5, nullptr, 0,
                                  nullptr);
              }));
  // Nothing to compute: what is left is the interface.
  auto none = attnc::Tensor::contiguous(output.data(), {1, 1, 0, headDim});
  const attnc::Argument empty[2] = {none, none};
  arguments[0] = empty[0].get();
  arguments[4] = empty[1].get();
  std::printf("run, no rows        %8.3f us\n",
              1e6 * medianOf([&] {
                attnc_program_run(program.get(), arguments, 5, nullptr, 0,
                                  nullptr);
              }));
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  std::printf("process memory      %8.1f MB at most\n",
              double(usage.ru_maxrss) / 1024);
  return 0;
}
