//===- CacheCommands.cpp - attnc cache ... --------------------------------===//
//
// Looks after the directory of compiled programs. Works on what is there,
// whatever made it; only `add` compiles.
//
//===----------------------------------------------------------------------===//

#include "tools/attnc/Requests.h"

#include "lib/Api/Session.h"
#include "lib/Runtime/KernelCache.h"
#include "lib/Support/File.h"
#include "lib/Target/NVPTX/Ptxas.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/raw_ostream.h"

#include <ctime>

using namespace attnc;
using namespace llvm;

static constexpr StringLiteral actions[] = {"add",   "list",   "show", "path",
                                            "prune", "verify", "clear"};

namespace {
class CacheCommand : public Command {
public:
  CacheCommand() {
    flags.positional("ACTION [NAME]", words, 2,
                     "add, list, show, path, prune, verify or clear; add takes "
                     "a file of IR (- is standard input), show takes "
                     "the first letters of a name that list prints.");
    flags.text("dir", "DIR", directory,
               "The cache directory; by default where programs look.");
    flags.text("from-events", "FILE", events,
               "add: every program that a run with ATTNC_EVENTS=FILE missed.");
    flags.text("limit", "SIZE", limit,
               "prune: how much may stay, such as 500M; by default "
               "ATTNC_CACHE_SIZE.");
    target.addTo(flags);
  }
  OptionTable &table() override { return flags; }
  Expected<int> run() override;

private:
  Expected<int> add();
  Expected<std::vector<ProgramRequest>> requests();
  Expected<int> list(DiskCache &cache);
  Expected<int> show(DiskCache &cache);
  Expected<int> verify(DiskCache &cache);
  Expected<int> remove(DiskCache &cache, uint64_t bytes, bool everything);
  Error printEntry(const DiskCache &cache, const DiskCache::Listed &entry);

  TargetFlags target;
  OptionTable flags{
      "cache ACTION [NAME] [options]",
      "Looks after compiled programs on disk: adds one before it is needed,\n"
      "lists them, shows one in full, checks them all, removes those unused\n"
      "for longest, or all.",
      "  attnc gen --score=sigmoid | attnc cache add -\n"
      "  attnc cache list\n"
      "  attnc cache show 3f2a\n"
      "  attnc cache prune --limit=100M"};
  std::vector<std::string> words;
  std::string directory, limit, events;
};
} // namespace

static std::string timeText(int64_t seconds) {
  time_t when = time_t(seconds);
  tm parts;
  char text[32] = "?";
  if (localtime_r(&when, &parts))
    std::strftime(text, sizeof(text), "%Y-%m-%d %H:%M", &parts);
  return text;
}

Expected<int> CacheCommand::list(DiskCache &cache) {
  auto entries = cache.list();
  if (!entries)
    return toError(entries.failure());
  uint64_t total = 0;
  std::string text;
  raw_string_ostream os(text);
  for (const DiskCache::Listed &entry : *entries) {
    total += entry.size;
    os << entry.name.substr(0, 12) << "  "
       << right_justify(sizeText(entry.size), 9) << "  " << timeText(entry.used)
       << "  " << (entry.header ? entry.header->key : "! " + entry.problem)
       << '\n';
  }
  outs() << text << entries->size() << " entries, " << sizeText(total) << ", "
         << cache.path() << '\n';
  return 0;
}

Error CacheCommand::printEntry(const DiskCache &cache,
                               const DiskCache::Listed &entry) {
  outs() << "file      " << cache.path() << '/' << entry.name << '\n'
         << "size      " << sizeText(entry.size) << '\n'
         << "used      " << timeText(entry.used) << '\n';
  if (!entry.header)
    return makeError("the entry has no readable header: " + entry.problem);
  const EntryHeader &header = *entry.header;
  outs() << "created   " << timeText(header.created) << '\n'
         << "compiler  " << header.compiler << '\n'
         << "content   " << header.content << '\n'
         << "key\n";
  SmallVector<StringRef> values;
  StringRef(header.key).split(values, ' ');
  for (StringRef value : values)
    outs() << "  " << value << '\n';
  for (auto &[name, value] : header.metadata)
    outs() << name << "  " << value << '\n';
  for (auto &[name, size] : header.sections)
    outs() << "section " << name << "  " << sizeText(size) << '\n';
  return Error::success();
}

Expected<int> CacheCommand::show(DiskCache &cache) {
  if (words.size() < 2)
    return makeError("cache show: expected the first letters of a name that "
                     "'attnc cache list' prints, got none");
  auto entries = cache.list();
  if (!entries)
    return toError(entries.failure());
  SmallVector<const DiskCache::Listed *> found;
  for (const DiskCache::Listed &entry : *entries)
    if (StringRef(entry.name).starts_with(words[1]))
      found.push_back(&entry);
  if (found.size() != 1)
    return makeError("cache show: " + Twine(found.size()) +
                     " entries begin with '" + words[1] +
                     "', expected one; 'attnc cache list' prints them");
  if (Error error = printEntry(cache, *found[0]))
    return std::move(error);
  return 0;
}

Expected<int> CacheCommand::verify(DiskCache &cache) {
  auto entries = cache.list();
  if (!entries)
    return toError(entries.failure());
  size_t bad = 0;
  for (const DiskCache::Listed &entry : *entries)
    if (auto problem = cache.verify(entry.name)) {
      ++bad;
      outs() << entry.name << ": " << *problem << '\n';
    }
  outs() << entries->size() - bad << " entries are sound, " << bad << " are not"
         << (bad ? " and count as missing" : "") << '\n';
  return bad ? 1 : 0;
}

Expected<int> CacheCommand::remove(DiskCache &cache, uint64_t bytes,
                                   bool everything) {
  auto removed = everything ? cache.clear() : cache.prune(bytes);
  if (!removed)
    return toError(removed.failure());
  outs() << "removed " << removed->entries << " entries ("
         << sizeText(removed->bytes) << "), " << removed->entriesLeft
         << " left (" << sizeText(removed->bytesLeft) << ")\n";
  if (unsigned files = removeLeftFiles())
    outs() << "removed " << files << " temporary files of killed compiles\n";
  return 0;
}

Expected<std::vector<ProgramRequest>> CacheCommand::requests() {
  if (!events.empty())
    return requestsFromEvents(events);
  if (words.size() < 2)
    return makeError("cache add: expected a file of IR, got none; - is "
                     "standard input");
  auto buffer = readInput(words[1]);
  if (!buffer)
    return buffer.takeError();
  return std::vector<ProgramRequest>{
      requestFor(target, (*buffer)->getBuffer().str())};
}

Expected<int> CacheCommand::add() {
  if (!directory.empty())
    return makeError("cache add: --dir does not apply; set ATTNC_CACHE_DIR");
  auto wanted = requests();
  if (!wanted)
    return wanted.takeError();
  KernelCache &cache = Session::instance().kernelCache();
  for (const ProgramRequest &request : *wanted) {
    RequestKey key;
    uint64_t before = cache.counters().compiles;
    auto program = Session::instance().get(request, key);
    if (!program)
      return toError(program.failure());
    bool compiled = cache.counters().compiles > before;
    // For a call a program in memory will do; here it would be lost.
    DiskCache *disk = cache.diskCache();
    if (compiled && !(disk && disk->load(key).entry))
      return makeError("cache add: the program was compiled but could not be "
                       "kept; set ATTNC_CACHE_DIR to a directory of yours that "
                       "you can write");
    outs() << (compiled ? "compiled " : "already there: ") << key.text()
           << '\n';
  }
  return 0;
}

Expected<int> CacheCommand::run() {
  StringRef action = words.empty() ? StringRef() : StringRef(words[0]);
  SmallVector<StringRef> names(std::begin(actions), std::end(actions));
  if (!is_contained(names, action))
    return makeError("cache: expected one of " + join(names, ", ") +
                     (action.empty() ? std::string(", got nothing")
                                     : ", got '" + action.str() + "'" +
                                           didYouMean(action, names)));
  if (action == "add")
    return add();
  EventSink events = EventSink::fromEnvironment();
  KernelCacheOptions options = KernelCacheOptions::fromEnvironment("", events);
  if (!directory.empty())
    options.directory = directory;
  if (options.directory.empty())
    return makeError("there is no cache directory: " +
                     (options.noDirectoryReason.empty()
                          ? "ATTNC_CACHE=memory keeps programs in memory"
                          : options.noDirectoryReason) +
                     "; pass --dir=DIR or set ATTNC_CACHE_DIR");
  DiskCache cache(FileOps::system(), options.directory, options.compiler);
  if (action == "path") {
    outs() << cache.path() << '\n';
    return 0;
  }
  if (action == "list")
    return list(cache);
  if (action == "show")
    return show(cache);
  if (action == "verify")
    return verify(cache);
  uint64_t bytes = options.sizeLimit;
  if (!limit.empty()) {
    auto parsed = parseByteCount(limit);
    if (!parsed)
      return makeError("--limit is '" + limit +
                       "', expected a number of bytes, or one with K, M or G");
    bytes = *parsed;
  }
  return remove(cache, bytes, action == "clear");
}

std::unique_ptr<Command> attnc::makeCacheCommand() {
  return std::make_unique<CacheCommand>();
}
