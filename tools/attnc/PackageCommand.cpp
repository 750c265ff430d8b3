//===- PackageCommand.cpp - attnc package ---------------------------------===//
//
// Programs of a build, in one file that production reads and never writes.
//
//===----------------------------------------------------------------------===//

#include "tools/attnc/Requests.h"

#include "lib/Api/Session.h"
#include "lib/Runtime/Package.h"
#include "lib/Support/File.h"
#include "lib/Target/CPU/CpuFeatures.h"

#include "llvm/Support/raw_ostream.h"

using namespace attnc;
using namespace llvm;

namespace {
class PackageCommand : public Command {
public:
  PackageCommand() {
    flags.positional("IR.mlir... | verify FILE", words, 1000,
                     "Programs as IR; or a package to look at.");
    flags.text("o", "FILE", output, "Where the package goes.");
    flags.list("attention", "'FLAGS'", attentions,
               "A program as flags of 'attnc gen', in one word.");
    flags.text("from-events", "FILE", events,
               "Every program that a run with ATTNC_EVENTS=FILE missed.");
    target.addTo(flags);
  }
  OptionTable &table() override { return flags; }
  Expected<int> run() override;

private:
  Expected<std::vector<ProgramRequest>> requests();
  Expected<int> write();
  Expected<int> verify(StringRef path);

  TargetFlags target;
  OptionTable flags{
      "package [IR.mlir...] -o FILE [options]",
      "Compiles programs into one file. Set ATTNC_PACKAGE=FILE, or call\n"
      "attnc_load_package, and they are found there: nothing is compiled,\n"
      "nothing is written, ptxas is not needed. 'attnc package verify FILE'\n"
      "says what a package needs, and whether it is sound and of this "
      "compiler.",
      "  attnc package a.mlir b.mlir --target=sm_90a -o programs.attnc\n"
      "  attnc package --attention='--score=softmax --dtype=bf16' "
      "--target=sm_90a \\\n      -o programs.attnc\n"
      "  ATTNC_EVENTS=staging.jsonl ./server ...; \\\n"
      "      attnc package --from-events=staging.jsonl -o programs.attnc"};
  std::vector<std::string> words, attentions;
  std::string output, events;
};
} // namespace

Expected<std::vector<ProgramRequest>> PackageCommand::requests() {
  std::vector<ProgramRequest> result;
  for (const std::string &path : words) {
    auto buffer = readInput(path);
    if (!buffer)
      return buffer.takeError();
    result.push_back(requestFor(target, (*buffer)->getBuffer().str()));
  }
  for (const std::string &attention : attentions) {
    auto request = requestFromAttention(target, attention);
    if (!request)
      return request.takeError();
    result.push_back(std::move(*request));
  }
  if (events.empty())
    return result;
  auto missed = requestsFromEvents(events);
  if (!missed)
    return missed.takeError();
  for (ProgramRequest &request : *missed)
    result.push_back(std::move(request));
  return result;
}

Expected<int> PackageCommand::write() {
  if (output.empty())
    return makeError("package: expected -o FILE, got none");
  auto wanted = requests();
  if (!wanted)
    return wanted.takeError();
  if (wanted->empty())
    return makeError("package: expected files of IR, --attention or "
                     "--from-events with misses in it, got no program");
  std::vector<Entry> entries;
  for (const ProgramRequest &request : *wanted) {
    auto entry = Session::instance().entryOf(request);
    if (!entry)
      return toError(entry.failure());
    if (none_of(entries,
                [&](const Entry &other) { return other.key == entry->key; }))
      entries.push_back(std::move(*entry));
  }
  std::string bytes = Package::serialize(compilerFingerprint(), entries);
  if (Error error = writeOutput(output, bytes))
    return std::move(error);
  outs() << output << ": " << entries.size() << " programs, "
         << sizeText(bytes.size()) << '\n';
  return 0;
}

Expected<int> PackageCommand::verify(StringRef path) {
  auto package = Package::open(FileOps::system(), path.str());
  if (!package)
    return toError(package.failure());
  size_t bad = 0;
  for (const Package::Item &item : (*package)->items()) {
    outs() << item.key << '\n';
    auto entry = (*package)->load(item);
    if (!entry) {
      ++bad;
      outs() << "  unsound: " << entry.failure().message << '\n';
      continue;
    }
    outs() << "  size " << sizeText(item.size) << '\n';
    for (auto &[name, value] : entry->metadata)
      outs() << "  " << name << ' ' << value << '\n';
    if (entry->metadata["target"] != "cpu")
      continue;
    std::string missing = missingFeatures(entry->metadata["requires.features"]);
    if (!missing.empty())
      outs() << "  this machine lacks " << missing << '\n';
  }
  bool ours = (*package)->compiler() == compilerFingerprint();
  outs() << "compiler " << (*package)->compiler()
         << (ours ? ", as this one"
                  : std::string(", which this one (") + compilerFingerprint() +
                        ") does not use")
         << '\n'
         << (*package)->items().size() - bad << " programs are sound, " << bad
         << " are not\n";
  return bad || !ours ? 1 : 0;
}

Expected<int> PackageCommand::run() {
  if (!words.empty() && words[0] == "verify") {
    if (words.size() != 2)
      return makeError("package verify: expected one file, got " +
                       Twine(words.size() - 1));
    return verify(words[1]);
  }
  return write();
}

std::unique_ptr<Command> attnc::makePackageCommand() {
  return std::make_unique<PackageCommand>();
}
