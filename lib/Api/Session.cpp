//===- Session.cpp - Requests for programs, served by the cache -----------===//

#include "lib/Api/Session.h"

#include "lib/Api/Tune.h"
#include "lib/Api/Worker.h"
#include "lib/Environment/Environment.h"
#include "lib/Runtime/Cuda/Driver.h"
#include "lib/Runtime/Sha256.h"
#include "lib/Support/StatusError.h"
#include "lib/Target/CPU/CpuTarget.h"
#include "lib/Target/NVPTX/Ptxas.h"

#include "llvm/Target/TargetMachine.h"

#include <map>
#include <mutex>

using namespace attnc;
using namespace mlir;

//===----------------------------------------------------------------------===//
// What the cache asks for
//===----------------------------------------------------------------------===//

namespace attnc {
/// Compiles and loads one request.
class RequestBuilder : public ProgramBuilder {
public:
  RequestBuilder(Session &session, const ProgramRequest &request)
      : session(session), wanted(request) {}

  Result<Entry> compile(PhaseTimes &times) override;
  Result<std::unique_ptr<LoadedProgram>> load(const Entry &entry) override;
  std::optional<std::string> unusable(const Entry &entry) override;
  std::string commandToAdd() const override;
  std::vector<std::pair<std::string, std::string>> request() const override;

private:
  Session &session;
  const ProgramRequest &wanted;
};
} // namespace attnc

Result<Entry> RequestBuilder::compile(PhaseTimes &times) {
  std::string note;
  Result<Entry> entry = compileAside(wanted, times, note);
  if (!note.empty())
    session.cache.eventSink().emit({EventKind::Warning, "", note, "", {}, {}});
  return entry;
}

Result<std::unique_ptr<LoadedProgram>>
RequestBuilder::load(const Entry &entry) {
  std::lock_guard<std::mutex> lock(session.planMutex);
  auto program = loadRunnable(entry, session.plans);
  if (!program)
    return toFailure(Status::LoadFailed, program.takeError());
  (*program)->setGet([&session = session,
                      request = wanted](const std::string &schedule) mutable {
    return session.getOther(request, schedule);
  });
  return std::unique_ptr<LoadedProgram>(std::move(*program));
}

static std::string valueOf(const Entry &entry, const char *name) {
  auto found = entry.metadata.find(name);
  return found == entry.metadata.end() ? "" : found->second;
}

/// An entry of a package may be for another machine than this one.
std::optional<std::string> RequestBuilder::unusable(const Entry &entry) {
  if (wanted.target != "cpu")
    return std::nullopt; // a driver is asked when the code is loaded
  if (!wanted.cpu.empty() || !wanted.features.empty()) {
    auto key = session.keyOf(wanted);
    if (!key || key->text() != entry.key)
      return "it is for another processor than the one asked for";
    return std::nullopt;
  }
  std::string missing = missingFeatures(valueOf(entry, "requires.features"));
  if (missing.empty())
    return std::nullopt;
  return "this machine lacks " + missing;
}

std::vector<std::pair<std::string, std::string>>
RequestBuilder::request() const {
  std::vector<std::pair<std::string, std::string>> values = {
      {"target", wanted.target}};
  auto add = [&](const char *name, const std::string &value) {
    if (!value.empty())
      values.emplace_back(name, value);
  };
  add("schedule", wanted.schedule);
  add("cpu", wanted.cpu);
  add("features", wanted.features);
  add("layout", wanted.anyLayout ? "any" : "");
  add("gen", wanted.genFlags);
  add("ir", wanted.ir);
  return values;
}

std::string RequestBuilder::commandToAdd() const {
  // The event of this miss, which has the request, was just written there.
  if (auto file = environment(Variable::Events))
    return "attnc cache add --from-events='" + *file + "'";
  bool known = !wanted.genFlags.empty();
  std::string command =
      known ? "attnc gen" + wanted.genFlags + " | attnc cache add -"
            : std::string("attnc cache add IR.mlir");
  command += " --target=" + wanted.target;
  if (wanted.anyLayout)
    command += " --any-layout";
  if (!wanted.schedule.empty())
    command += " --schedule=" + wanted.schedule;
  if (!wanted.cpu.empty())
    command += " --mcpu=" + wanted.cpu;
  if (!wanted.features.empty())
    command += " --mattr=" + wanted.features;
  return known ? command
               : command + " (IR.mlir: the text of the request); or set "
                           "ATTNC_EVENTS=misses.jsonl, do this again, and run: "
                           "attnc cache add --from-events=misses.jsonl";
}

//===----------------------------------------------------------------------===//
// The session
//===----------------------------------------------------------------------===//

static DialectRegistry planDialects() {
  DialectRegistry registry;
  registerPlanDialects(registry);
  return registry;
}

Session::Session()
    : cache(KernelCacheOptions::fromEnvironment(compilerFingerprint(),
                                                EventSink::fromEnvironment()),
            EventSink::fromEnvironment()),
      // No threads of its own: a forked child would wait for its parent's.
      plans(planDialects(), MLIRContext::Threading::DISABLED) {
  plans.loadAllAvailableDialects();
}

Session &Session::instance() {
  // Never destroyed: code stays loaded while threads may run it.
  static Session *session = new Session;
  return *session;
}

//===----------------------------------------------------------------------===//
// Keys
//===----------------------------------------------------------------------===//

/// What code depends on: the processor and the exact list of its features, or
/// a shared home directory would bring code that this machine cannot run.
static llvm::Expected<std::pair<std::string, std::string>>
processorOf(const ProgramRequest &request) {
  auto machine = createCpuTargetMachine({request.cpu, request.features, 0});
  if (!machine)
    return machine.takeError();
  return std::pair<std::string, std::string>(
      (*machine)->getTargetCPU().str(),
      Sha256::hexOf(
          std::string_view((*machine)->getTargetFeatureString().data(),
                           (*machine)->getTargetFeatureString().size()))
          .substr(0, 16));
}

static std::optional<Failure> addCpuParts(const ProgramRequest &request,
                                          KeyBuilder &key) {
  // The machine does not change while the process lives. (Asking an Expected
  // whether it holds a value writes to it: once, under the static's lock.)
  static auto *host = [] {
    auto *found = new auto(processorOf(ProgramRequest()));
    (void)bool(*found);
    return found;
  }();
  std::pair<std::string, std::string> processor;
  if (request.cpu.empty() && request.features.empty() && *host) {
    processor = **host;
  } else {
    auto found = processorOf(request);
    if (!found)
      return toFailure(Status::InvalidArgument, found.takeError());
    processor = *found;
  }
  key.add("cpu", processor.first).add("features", processor.second);
  return std::nullopt;
}

static std::optional<Failure> addCudaParts(const ProgramRequest &request,
                                           KeyBuilder &key) {
  for (auto &[name, value] : {std::pair("cpu", &request.cpu),
                              std::pair("features", &request.features)})
    if (!value->empty())
      return Failure{Status::InvalidArgument,
                     std::string(name) + " is '" + *value +
                         "'; expected nothing for target sm_90a"};
  key.add("layout", request.anyLayout ? "any" : "aligned");
  return std::nullopt;
}

/// The schedule that a table has for this request; "" if none. The table is
/// read once.
static std::string tunedSchedule(const ProgramRequest &request,
                                 EventSink &events) {
  static TunedTable *table = [&] {
    auto *read = new TunedTable;
    auto path = environment(Variable::Tuned);
    if (!path)
      return read;
    if (auto found = TunedTable::read(*path))
      *read = std::move(*found);
    else
      events.emit({EventKind::Warning,
                   "",
                   "ATTNC_TUNED: " + llvm::toString(found.takeError()),
                   *path,
                   {}});
    return read;
  }();
  if (!request.tuned || !request.schedule.empty() || table->rows().empty())
    return "";
  auto *row = table->find(request.target, irHashOf(request.ir));
  return row ? row->schedule : "";
}

/// The assembler's version. Asking it takes longer than a hit on disk may, so
/// that it is kept in the cache, filed under the file that was asked: its path,
/// size and time. A compile asks anew.
static llvm::Expected<std::string> assemblerVersion(DiskCache *disk) {
  static std::mutex mutex;
  static std::map<std::string, std::string> known;
  std::string identity = ptxasIdentity();
  if (identity.empty() || !disk)
    return ptxasVersion();
  std::lock_guard<std::mutex> lock(mutex);
  std::string &version = known[identity];
  if (!version.empty())
    return version;
  RequestKey key =
      KeyBuilder().add("tool", "ptxas").add("file", identity).build();
  if (auto entry = disk->load(key).entry)
    version = valueOf(*entry, "version");
  if (!version.empty())
    return version;
  auto asked = ptxasVersion();
  if (!asked || !isPtxasTheFirst())
    return asked;
  version = *asked;
  Entry entry;
  entry.key = key.text();
  entry.compiler = compilerFingerprint();
  entry.created = int64_t(time(nullptr));
  entry.metadata["version"] = version;
  (void)disk->publish(entry); // else the next process asks again
  return version;
}

Result<RequestKey> Session::keyOf(const ProgramRequest &request) {
  if (request.target != "cpu" && request.target != "sm_90a")
    return Failure{Status::Unsupported, "target is '" + request.target +
                                            "'; expected cpu, sm_90a or cuda"};
  KeyBuilder key;
  key.add("ir", Sha256::hexOf(request.ir).substr(0, 32))
      .add("target", request.target)
      .add("schedule", request.schedule.empty() ? "auto" : request.schedule);
  if (auto failure = request.target == "cpu" ? addCpuParts(request, key)
                                             : addCudaParts(request, key))
    return *failure;
  RequestKey partial = key.build();
  // What a package holds needs no assembler.
  if (request.target == "cpu" || cache.isPackaged(partial))
    return partial;
  auto version = assemblerVersion(cache.diskCache());
  if (!version)
    return toFailure(Status::Unsupported, version.takeError());
  return key.add("ptxas", *version).build();
}

Result<std::string> attnc::resolveTarget(const std::string &target,
                                         int device) {
  if (target != "cuda")
    return target;
  auto failed = [](llvm::Error error) {
    return Failure{Status::Unsupported,
                   "target is 'cuda': " + llvm::toString(std::move(error))};
  };
  auto driver = CudaDriver::get();
  if (!driver)
    return failed(driver.takeError());
  auto info = describeDevice(**driver, device);
  if (!info)
    return failed(info.takeError());
  if (llvm::Error error = checkDevice(*info, device))
    return failed(std::move(error));
  return std::string("sm_90a");
}

//===----------------------------------------------------------------------===//
// Requests
//===----------------------------------------------------------------------===//

ProgramRequest Session::withTuned(const ProgramRequest &request) {
  ProgramRequest result = request;
  std::string schedule = tunedSchedule(request, cache.eventSink());
  if (!schedule.empty())
    result.schedule = schedule;
  return result;
}

Result<const RunnableProgram *> Session::get(const ProgramRequest &given,
                                             RequestKey &key) {
  ProgramRequest request = withTuned(given);
  Result<RequestKey> found = keyOf(request);
  if (!found)
    return found.failure();
  key = *found;
  RequestBuilder builder(*this, request);
  Result<const LoadedProgram *> program = cache.get(key, builder);
  if (!program)
    return program.failure();
  return static_cast<const RunnableProgram *>(*program);
}

const RunnableProgram *Session::getOther(ProgramRequest request,
                                         const std::string &schedule) {
  request.schedule = schedule;
  RequestKey key;
  Result<const RunnableProgram *> found = get(request, key);
  if (found)
    return *found;
  cache.eventSink().emit(
      {EventKind::Warning,
       key.text(),
       "calls for which schedule " + schedule +
           " is faster stay with the default one: " + found.failure().message,
       "",
       {},
       {}});
  return nullptr;
}

Result<Entry> Session::entryOf(const ProgramRequest &given) {
  ProgramRequest request = withTuned(given);
  Result<RequestKey> key = keyOf(request);
  if (!key)
    return key.failure();
  DiskCache *disk = cache.diskCache();
  if (disk)
    if (auto found = disk->load(*key).entry)
      return std::move(*found);
  PhaseTimes times;
  std::string note;
  Result<Entry> entry = compileAside(request, times, note);
  if (!entry)
    return entry.failure();
  entry->key = key->text();
  entry->compiler = compilerFingerprint();
  entry->created = int64_t(time(nullptr));
  if (disk)
    (void)disk->publish(*entry); // the package has it regardless
  return entry;
}

const RunnableProgram *Session::recall(const RequestKey &words,
                                       RequestKey &key) {
  const RequestKey *known = remembered.find(words);
  if (!known)
    return nullptr;
  key = *known;
  return static_cast<const RunnableProgram *>(cache.find(key));
}

void Session::remember(const RequestKey &words, const RequestKey &key) {
  std::lock_guard<std::mutex> lock(rememberMutex);
  if (!remembered.find(words))
    remembered.insert(words, new RequestKey(key)); // never freed, as programs
}
