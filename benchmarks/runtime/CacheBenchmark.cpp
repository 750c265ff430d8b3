//===- CacheBenchmark.cpp - What the kernel cache itself costs ------------===//
//
// Hits in memory, hits on disk, and listing 10,000 entries, with a stub for a
// compiler. Prints the median of several rounds; a directory may be given.
//
//===----------------------------------------------------------------------===//

#include "lib/Runtime/KernelCache.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <sys/stat.h>
#include <unistd.h>

using namespace attnc;

namespace {
struct Stub : ProgramBuilder {
  Result<Entry> compile(PhaseTimes &) override {
    Entry entry;
    entry.sections.emplace_back("object", std::string(100000, 'x'));
    return entry;
  }
  Result<std::unique_ptr<LoadedProgram>> load(const Entry &) override {
    return std::make_unique<LoadedProgram>();
  }
  std::string commandToAdd() const override { return ""; }
};
} // namespace

static double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

static RequestKey keyOf(int number) {
  return KeyBuilder()
      .add("d", 64)
      .add("dtype", "bf16")
      .add("ir", "0123456789abcdef0123456789abcdef")
      .add("number", number)
      .add("target", "sm_90a")
      .build();
}

static double memoryHit(KernelCache &cache) {
  Stub stub;
  RequestKey key = keyOf(0);
  (void)cache.get(key, stub);
  std::vector<double> rounds;
  constexpr int count = 100000;
  for (int round = 0; round < 11; ++round) {
    double start = monotonicSeconds();
    for (int k = 0; k < count; ++k)
      (void)cache.find(key);
    rounds.push_back((monotonicSeconds() - start) / count);
  }
  return median(rounds);
}

static double diskHit(const KernelCacheOptions &options) {
  std::vector<double> rounds;
  for (int round = 0; round < 51; ++round) {
    KernelCache cache(options, EventSink(EventSink::Level::Off));
    Stub stub;
    double start = monotonicSeconds();
    (void)cache.get(keyOf(0), stub);
    rounds.push_back(monotonicSeconds() - start);
  }
  return median(rounds);
}

static double listing(const KernelCacheOptions &options, size_t &found) {
  std::string directory = options.directory + "-list";
  DiskCache disk(FileOps::system(), directory, "c");
  Entry entry;
  entry.compiler = "c";
  entry.sections.emplace_back("object", std::string(4000, 'x'));
  std::vector<double> rounds;
  // Copies written directly: publishing would synchronise each.
  std::filesystem::create_directories(directory);
  std::filesystem::permissions(directory, std::filesystem::perms::owner_all);
  for (int k = 0; k < 10000; ++k) {
    entry.key = keyOf(k).text();
    std::string bytes = entry.serialize();
    if (FILE *file = std::fopen(disk.pathOf(keyOf(k)).c_str(), "wb")) {
      std::fwrite(bytes.data(), 1, bytes.size(), file);
      std::fclose(file);
    }
  }
  for (int round = 0; round < 7; ++round) {
    double start = monotonicSeconds();
    auto entries = disk.list();
    rounds.push_back(monotonicSeconds() - start);
    found = entries ? entries->size() : 0;
  }
  return median(rounds);
}

int main(int argc, char **argv) {
  char name[] = "/tmp/attnc-bench-XXXXXX";
  std::string root = argc > 1 ? argv[1] : mkdtemp(name);
  umask(077);
  KernelCacheOptions options;
  options.directory = root + "/cache";
  options.compiler = "c";
  KernelCache cache(options, EventSink(EventSink::Level::Off));
  std::printf("memory hit          %8.1f ns\n", memoryHit(cache) * 1e9);
  std::printf("disk hit, 100 kB    %8.3f ms\n", diskHit(options) * 1e3);
  size_t found = 0;
  double seconds = listing(options, found);
  std::printf("listing %6zu       %8.1f ms (limit 100)\n", found,
              seconds * 1e3);
  if (argc == 1) {
    std::error_code ignored;
    std::filesystem::remove_all(root, ignored);
  }
  return found == 10000 && seconds <= 0.1 ? 0 : 1;
}
