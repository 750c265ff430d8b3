//===- CpuFeatures.cpp - Which processor to compile for -------------------===//

#include "lib/Target/CPU/CpuFeatures.h"

#include "lib/Environment/Environment.h"

#include "llvm-c/Target.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/MC/MCSubtargetInfo.h"
#include "llvm/MC/TargetRegistry.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Target/TargetMachine.h"
#include "llvm/Target/TargetOptions.h"
#include "llvm/TargetParser/Host.h"

#include <algorithm>
#include <mutex>
#include <sched.h>

using namespace attnc;
using namespace llvm;

//===----------------------------------------------------------------------===//
// Code generation
//===----------------------------------------------------------------------===//

static void initializeX86() {
  static std::once_flag once;
  std::call_once(once, [] {
    LLVMInitializeX86TargetInfo();
    LLVMInitializeX86Target();
    LLVMInitializeX86TargetMC();
    LLVMInitializeX86AsmPrinter();
  });
}

static std::string hostFeatures() {
  SmallVector<std::string> features;
  for (const auto &feature : sys::getHostCPUFeatures())
    features.push_back((feature.second ? "+" : "-") + feature.first().str());
  // The order of a map must not show in what is compiled.
  llvm::sort(features);
  return join(features, ",");
}

/// LLVM only prints a warning for a feature that it does not know.
static Error checkFeatures(const MCSubtargetInfo &subtarget,
                           StringRef features) {
  for (StringRef feature : split(features, ',')) {
    if (feature.empty())
      continue;
    StringRef name = feature.drop_front();
    bool known = (feature[0] == '+' || feature[0] == '-') &&
                 llvm::any_of(subtarget.getAllProcessorFeatures(),
                              [&](const SubtargetFeatureKV &entry) {
                                return name == entry.Key;
                              });
    if (!known)
      return createStringError("unknown x86 feature '" + feature.str() +
                               "'; expected a list such as '+avx2,-avx512f'");
  }
  return Error::success();
}

Expected<std::unique_ptr<TargetMachine>>
attnc::createCpuTargetMachine(const CpuOptions &options) {
  initializeX86();
  Triple triple(sys::getDefaultTargetTriple());
  if (triple.getArch() != Triple::x86_64)
    return createStringError("the CPU target generates code for x86-64, and "
                             "this machine is " +
                             triple.str());
  std::string message;
  const llvm::Target *target = TargetRegistry::lookupTarget(triple, message);
  if (!target)
    return createStringError("no code generator for " + triple.str() + ": " +
                             message);
  bool isHost = options.cpu.empty() || options.cpu == "native";
  std::string cpu = isHost ? sys::getHostCPUName().str() : options.cpu;
  std::string features = isHost ? hostFeatures() : "";
  std::unique_ptr<MCSubtargetInfo> subtarget(
      target->createMCSubtargetInfo(triple, "x86-64", ""));
  if (!subtarget->isCPUStringValid(cpu))
    return createStringError("unknown x86 processor '" + cpu +
                             "'; try x86-64, x86-64-v3, x86-64-v4, znver4 or "
                             "native");
  if (Error error = checkFeatures(*subtarget, options.features))
    return std::move(error);
  if (!options.features.empty())
    features += (features.empty() ? "" : ",") + options.features;
  return std::unique_ptr<TargetMachine>(target->createTargetMachine(
      triple, cpu, features, TargetOptions(), Reloc::PIC_, std::nullopt,
      CodeGenOptLevel::Default, /*JIT=*/false));
}

Expected<VectorFeatures> attnc::getVectorFeatures(const CpuOptions &options) {
  auto machine = createCpuTargetMachine(options);
  if (!machine)
    return machine.takeError();
  const MCSubtargetInfo &subtarget = *(*machine)->getMCSubtargetInfo();
  bool fma = subtarget.checkFeatures("+fma");
  if (subtarget.checkFeatures("+avx512f"))
    return VectorFeatures{16, 32, true};
  if (subtarget.checkFeatures("+avx2"))
    return VectorFeatures{8, 16, fma};
  return VectorFeatures{4, 16, fma};
}

Expected<std::string> attnc::requiredFeatures(const CpuOptions &options) {
  auto machine = createCpuTargetMachine(options);
  if (!machine)
    return machine.takeError();
  const MCSubtargetInfo &subtarget = *(*machine)->getMCSubtargetInfo();
  std::vector<std::string> names;
  for (auto &feature : sys::getHostCPUFeatures())
    if (subtarget.checkFeatures(("+" + feature.first()).str()))
      names.push_back(feature.first().str());
  llvm::sort(names);
  return join(names, ",");
}

std::string attnc::missingFeatures(StringRef required) {
  static const auto *host = new StringMap<bool>(sys::getHostCPUFeatures());
  SmallVector<StringRef> names, missing;
  required.split(names, ',', -1, /*KeepEmpty=*/false);
  for (StringRef name : names)
    if (!host->lookup(name))
      missing.push_back(name);
  return join(missing, ",");
}

//===----------------------------------------------------------------------===//
// Threads
//===----------------------------------------------------------------------===//

static std::string readFile(const std::string &path) {
  auto buffer = MemoryBuffer::getFile(path, /*IsText=*/false,
                                      /*RequiresNullTerminator=*/false,
                                      /*IsVolatile=*/true);
  return buffer ? (*buffer)->getBuffer().str() : "";
}

/// The path of this process in the hierarchy that `controller` names; empty
/// for the second version of control groups.
static std::string controlGroup(StringRef controller) {
  for (StringRef line : split(readFile("/proc/self/cgroup"), '\n')) {
    auto [id, rest] = line.split(':');
    auto [controllers, path] = rest.split(':');
    if (controller.empty() ? controllers.empty()
                           : is_contained(split(controllers, ','), controller))
      return path == "/" ? "" : path.str();
  }
  return "";
}

/// Processors that the quota amounts to, rounded up; 0 if there is none.
static int quotaThreads(double quota, double period) {
  return quota > 0 && period > 0
             ? static_cast<int>((quota + period - 1) / period)
             : 0;
}

static int controlGroupThreads() {
  double quota = 0, period = 0;
  // A container sees its own group at the root, a process of the host sees
  // its path.
  for (std::string group : {controlGroup(""), std::string()}) {
    std::string text = readFile("/sys/fs/cgroup" + group + "/cpu.max");
    auto [first, second] = StringRef(text).trim().split(' ');
    if (!first.getAsDouble(quota) && !second.getAsDouble(period))
      return quotaThreads(quota, period);
  }
  for (std::string group : {controlGroup("cpu"), std::string()}) {
    std::string folder = "/sys/fs/cgroup/cpu" + group;
    std::string first = readFile(folder + "/cpu.cfs_quota_us");
    std::string second = readFile(folder + "/cpu.cfs_period_us");
    if (!StringRef(first).trim().getAsDouble(quota) &&
        !StringRef(second).trim().getAsDouble(period))
      return quotaThreads(quota, period);
  }
  return 0;
}

int attnc::getAvailableThreads() {
  int threads = 1;
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0)
    threads = CPU_COUNT(&set);
  if (int quota = controlGroupThreads())
    threads = std::min(threads, quota);
  int wanted = 0;
  auto text = environment(Variable::NumThreads);
  if (text && !StringRef(*text).getAsInteger(10, wanted) && wanted > 0)
    threads = std::min(threads, wanted);
  return std::max(threads, 1);
}
