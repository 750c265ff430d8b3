//===- CollectEnvCommand.cpp - attnc collect-env --------------------------===//
//
// What a bug report needs to say of the machine. Works without a GPU, a
// driver or ptxas: what is missing is said to be missing.
//
//===----------------------------------------------------------------------===//

#include "tools/attnc/Commands.h"

#include "lib/Api/CompileRequest.h"
#include "lib/Environment/Environment.h"
#include "lib/Runtime/Cuda/Driver.h"
#include "lib/Runtime/KernelCache.h"
#include "lib/Target/CPU/CpuFeatures.h"
#include "lib/Target/NVPTX/Ptxas.h"

#include "llvm/Config/llvm-config.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/raw_ostream.h"
#include "llvm/TargetParser/Host.h"

#include <dlfcn.h>
#include <sys/utsname.h>
#include <thread>

using namespace attnc;
using namespace llvm;

namespace {
class CollectEnvCommand : public Command {
public:
  CollectEnvCommand() { flags.flag("json", asJson, "Writes JSON."); }
  OptionTable &table() override { return flags; }
  Expected<int> run() override;

private:
  OptionTable flags{"collect-env [--json]",
                    "Describes this machine and its settings, for a bug "
                    "report.",
                    "  attnc collect-env --json"};
  bool asJson = false;
};

/// Name and value, in the order of the report.
using Report = std::vector<std::pair<std::string, std::string>>;
} // namespace

static std::string systemText() {
  utsname name;
  if (uname(&name))
    return "unknown";
  return (Twine(name.sysname) + " " + name.release + " " + name.machine).str();
}

static std::string ptxasText() {
  auto found = findPtxas();
  if (found) {
    auto version = ptxasVersion();
    return *found + ", release " +
           (version ? *version : toString(version.takeError()));
  }
  // The first line says it; the rest lists where it looked.
  std::string text = toString(found.takeError());
  return "not found: " + text.substr(0, text.find('\n'));
}

/// The version of the driver as libcuda tells it, without a context.
static std::string driverText() {
  void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library)
    return "not found";
  using Function = int (*)(int *);
  int version = 0;
  auto driver =
      reinterpret_cast<Function>(dlsym(library, "cuDriverGetVersion"));
  std::string text = "libcuda.so.1 without cuDriverGetVersion";
  if (driver && driver(&version) == 0)
    text = std::to_string(version / 1000) + "." +
           std::to_string(version % 1000 / 10);
  dlclose(library);
  return text;
}

/// One line a GPU; none where there is no driver.
static void addGpus(Report &report) {
  auto driver = CudaDriver::get();
  if (!driver) {
    consumeError(driver.takeError());
    return;
  }
  int count = 0;
  (*driver)->deviceGetCount(&count);
  for (int ordinal = 0; ordinal < count; ++ordinal) {
    auto info = describeDevice(**driver, ordinal);
    report.emplace_back("gpu " + std::to_string(ordinal),
                        info ? info->name + ", compute capability " +
                                   std::to_string(info->major) + "." +
                                   std::to_string(info->minor) + ", " +
                                   std::to_string(info->multiprocessors) +
                                   " multiprocessors"
                             : toString(info.takeError()));
  }
}

/// A line for each GPU, when there is a driver.
static void addDevices(Report &report) {
  auto driver = CudaDriver::get();
  int count = 0;
  if (!driver) {
    consumeError(driver.takeError());
    return;
  }
  (*driver)->deviceGetCount(&count);
  for (int k = 0; k < count; ++k) {
    auto info = describeDevice(**driver, k);
    std::string text = info ? info->name + ", compute capability " +
                                  std::to_string(info->major) + "." +
                                  std::to_string(info->minor)
                            : toString(info.takeError());
    report.emplace_back("gpu " + std::to_string(k), text);
  }
}

static void addCache(Report &report) {
  EventSink quiet(EventSink::Level::Off);
  KernelCacheOptions options = KernelCacheOptions::fromEnvironment("", quiet);
  if (options.directory.empty()) {
    report.emplace_back("cache", "in memory only " + options.noDirectoryReason);
    return;
  }
  report.emplace_back("cache", options.directory);
  auto entries = DiskCache(FileOps::system(), options.directory, "").list();
  if (!entries) {
    report.emplace_back("cache entries", entries.failure().message);
    return;
  }
  uint64_t bytes = 0;
  for (const DiskCache::Listed &entry : *entries)
    bytes += entry.size;
  report.emplace_back("cache entries", std::to_string(entries->size()) + ", " +
                                           std::to_string(bytes) + " bytes");
}

static Report collect() {
  Report report;
  report.emplace_back("attnc", ATTNC_VERSION);
  report.emplace_back("compiler", compilerFingerprint());
  report.emplace_back("llvm", LLVM_VERSION_STRING);
  report.emplace_back("system", systemText());
  report.emplace_back("cpu", sys::getHostCPUName().str());
  report.emplace_back("processors",
                      std::to_string(std::thread::hardware_concurrency()) +
                          ", usable " + std::to_string(getAvailableThreads()));
  std::string features;
  for (auto &feature : sys::getHostCPUFeatures())
    if (feature.second)
      features += (features.empty() ? "" : ",") + feature.first().str();
  report.emplace_back("cpu features", features);
  report.emplace_back("cuda driver", driverText());
  addGpus(report);
  addDevices(report);
  report.emplace_back("ptxas", ptxasText());
  addCache(report);
  for (const VariableInfo &info : environmentVariables())
    if (auto value = environment(info.variable))
      report.emplace_back(info.name, *value);
  return report;
}

Expected<int> CollectEnvCommand::run() {
  Report report = collect();
  if (asJson) {
    json::OStream out(outs(), 2);
    out.object([&] {
      for (auto &[name, value] : report)
        out.attribute(name, json::fixUTF8(value));
    });
    outs() << '\n';
    return 0;
  }
  for (auto &[name, value] : report)
    outs() << left_justify(name, 18) << value << '\n';
  return 0;
}

std::unique_ptr<Command> attnc::makeCollectEnvCommand() {
  return std::make_unique<CollectEnvCommand>();
}
