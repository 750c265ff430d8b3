//===- TuneCommand.cpp - attnc tune ---------------------------------------===//

#include "tools/attnc/Requests.h"
#include "tools/attnc/TuneSizes.h"

#include "lib/Api/Measure.h"
#include "lib/Api/Session.h"
#include "lib/Api/Tune.h"
#include "lib/Runtime/Package.h"
#include "lib/Support/File.h"
#include "lib/Target/CPU/CpuFeatures.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/raw_ostream.h"

#include <atomic>
#include <cmath>
#include <thread>
#include <unistd.h>

using namespace attnc;
using namespace llvm;

namespace {
class TuneCommand : public Command {
public:
  TuneCommand() {
    flags.positional("IR.mlir...", files, 1000,
                     "What to tune, as IR; measured at --sizes.");
    flags.list("attention", "'FLAGS'", attentions,
               "What to tune, as flags of 'attnc gen' in one word, with "
               "--batch, --heads and --seq to measure at.");
    flags.text("from-events", "FILE", events,
               "What to tune: every program that a run with ATTNC_EVENTS=FILE "
               "missed, such as one of Python; measured at --sizes.");
    flags.list("sizes", "B=N,H=N,S=N", sizes,
               "Sizes to measure IR at: Hkv, Skv and Dv too, and "
               "ARGUMENT.DIM=N for others.");
    flags.text("o", "TABLE.json", output,
               "The table to add what was found to; ATTNC_TUNED=TABLE.json "
               "makes compiles use it.");
    flags.text("journal", "FILE", journal,
               "Where times are kept; TABLE.json.journal by default. A run "
               "that was ended goes on from it.");
    flags.text("times", "FILE.json", times,
               "Also writes down what each schedule took.");
    flags.number("budget", budget,
                 "Seconds to measure for, for each program and its sizes; 60 "
                 "by default.");
    flags.integer("most", most, 1, 1000,
                  "Tries no more schedules than this; by default all that "
                  "fit.");
    flags.integer("device", device, 0, 1 << 20, "The GPU to measure on.");
    flags.text("package", "FILE", package,
               "Only compiles the candidates, into a package: for a machine "
               "with a GPU, where ATTNC_PACKAGE=FILE attnc tune finds them.");
    target.addTo(flags);
  }
  OptionTable &table() override { return flags; }
  Expected<int> run() override;

private:
  /// Sizes to measure at, and what they are called.
  struct Place {
    std::string title;
    std::vector<ArgumentShape> shapes;
  };
  /// One program, and where to measure it.
  struct Task {
    std::string title;
    std::vector<Place> places;
    /// Of the program for any sizes.
    ProgramRequest request;
    TuneSpace space;
  };
  using Programs = std::vector<const RunnableProgram *>;
  using Race = std::vector<TuneCandidate>;
  Error add(StringRef attention, std::vector<Task> &tasks);
  Error add(const std::string &title, ProgramRequest request,
            std::vector<Task> &tasks);
  Error addFiles(std::vector<Task> &tasks);
  Error addEvents(std::vector<Task> &tasks);
  Error findSpace(Task &task);
  Error tune(const Task &task, TunedTable &table, json::Array &measured);
  Expected<Race> measure(const Task &task, const Place &place,
                         const Programs &programs, Race candidates);
  Error writePackage(ArrayRef<Task> tasks);
  Programs compileAll(const Task &task, Race &candidates);
  void report(const Task &task, const Place &place, const Race &candidates,
              size_t winner);

  TargetFlags target;
  OptionTable flags{
      "tune [IR.mlir...] -o TABLE.json [options]",
      "Measures the schedules that fit and keeps one that is faster than the\n"
      "cost model's by 1.5 % and by twice the spread of the times.",
      "  attnc tune --attention='--score=softmax --batch=1 --heads=8 "
      "--seq=1024' \\\n      -o tuned.json\n"
      "  ATTNC_TUNED=tuned.json ./program\n"
      "  ATTNC_EVENTS=run.jsonl python train.py; \\\n"
      "      attnc tune --from-events=run.jsonl --sizes=B=8,H=16,S=2048 "
      "-o tuned.json"};
  std::vector<std::string> files, attentions, sizes;
  std::string output, journal, package, times, events;
  double budget = 60;
  std::optional<int64_t> device, most;
};

/// A bar on a terminal, nothing elsewhere.
class ProgressBar {
public:
  explicit ProgressBar(StringRef what)
      : what(what), shown(isatty(STDERR_FILENO)) {}
  void set(size_t done, size_t all) {
    if (!shown || all == 0)
      return;
    constexpr size_t width = 30;
    size_t filled = std::min(width * done / all, width);
    errs() << '\r' << what << " [" << std::string(filled, '#')
           << std::string(width - filled, ' ') << "] " << done << '/' << all;
    errs().flush();
  }
  ~ProgressBar() {
    if (shown)
      errs() << '\r' << std::string(70, ' ') << '\r';
  }

private:
  StringRef what;
  bool shown;
};
} // namespace

/// Attentions that only differ in their sizes are one task.
Error TuneCommand::add(StringRef attention, std::vector<Task> &tasks) {
  auto description = parseAttention(attention);
  if (!description)
    return description.takeError();
  auto shapes = shapesOf(*description);
  if (!shapes)
    return makeError("--attention='" + attention +
                     "': " + toString(shapes.takeError()));
  Place place{"attnc gen" + flagsOf(*description), std::move(*shapes)};
  AttentionDescription general = withoutSizes(*description);
  std::string gen = flagsOf(general);
  for (Task &task : tasks)
    if (task.request.genFlags == gen) {
      task.places.push_back(std::move(place));
      return Error::success();
    }
  Task task;
  task.title = "attnc gen" + gen;
  task.places.push_back(std::move(place));
  auto ir = writeAttention(general, gen);
  if (!ir)
    return ir.takeError();
  task.request = requestFor(target, std::move(*ir), gen);
  if (Error error = findSpace(task))
    return error;
  tasks.push_back(std::move(task));
  return Error::success();
}

Error TuneCommand::add(const std::string &title, ProgramRequest request,
                       std::vector<Task> &tasks) {
  Task task;
  task.title = title;
  task.request = std::move(request);
  for (const std::string &each : sizes) {
    auto shapes = shapesOfIr(task.request, each);
    if (!shapes)
      return shapes.takeError();
    task.places.push_back({title + ", " + each, std::move(*shapes)});
  }
  if (Error error = findSpace(task))
    return error;
  tasks.push_back(std::move(task));
  return Error::success();
}

Error TuneCommand::addFiles(std::vector<Task> &tasks) {
  for (const std::string &path : files) {
    auto buffer = readInput(path);
    if (!buffer)
      return buffer.takeError();
    if (Error error =
            add(path, requestFor(target, (*buffer)->getBuffer().str()), tasks))
      return makeError(path + ": " + toString(std::move(error)));
  }
  return Error::success();
}

/// A run misses more than what can be measured at these sizes.
Error TuneCommand::addEvents(std::vector<Task> &tasks) {
  if (events.empty())
    return Error::success();
  auto requests = requestsFromEvents(events);
  if (!requests)
    return requests.takeError();
  for (auto [k, request] : enumerate(*requests)) {
    std::string title =
        request.genFlags.empty()
            ? "program " + std::to_string(k + 1) + " of " + events
            : "attnc gen" + request.genFlags;
    Error error = request.schedule.empty() ? add(title, request, tasks)
                                           : makeError("its schedule is given");
    if (error)
      errs() << "left out: " << title << ": " << toString(std::move(error))
             << '\n';
  }
  if (tasks.empty())
    return makeError("tune: expected misses in '" + events +
                     "' that can be measured, got none");
  return Error::success();
}

/// The schedules to try.
Error TuneCommand::findSpace(Task &task) {
  auto space = candidateSchedules(task.request);
  if (!space)
    return space.takeError();
  task.space = std::move(*space);
  if (most && size_t(*most) < task.space.schedules.size())
    task.space.schedules.resize(size_t(*most));
  return Error::success();
}

/// Calls work(k) for each k below `count`, as many at once as there are
/// processors.
static void forAll(size_t count, StringRef what,
                   function_ref<void(size_t)> work) {
  std::atomic<size_t> next{0}, done{0};
  ProgressBar bar(what);
  auto take = [&](bool shows) {
    for (size_t k; (k = next.fetch_add(1)) < count;) {
      work(k);
      ++done;
      if (shows)
        bar.set(done, count);
    }
  };
  std::vector<std::thread> threads;
  for (int k = 1; k < getAvailableThreads(); ++k)
    threads.emplace_back(take, false);
  take(true);
  for (std::thread &thread : threads)
    thread.join();
}

/// Each in a worker of its own.
TuneCommand::Programs TuneCommand::compileAll(const Task &task,
                                              Race &candidates) {
  Programs programs(candidates.size());
  forAll(candidates.size(), "compiling", [&](size_t k) {
    ProgramRequest request = task.request;
    request.schedule = candidates[k].schedule;
    request.tuned = false;
    RequestKey key;
    auto program = Session::instance().get(request, key);
    if (program)
      programs[k] = *program;
    // What spills is out, unless it is what a compile makes anyway.
    if (!program)
      candidates[k].problem = program.failure().message;
    else if (k && !(*program)->remark().empty())
      candidates[k].problem = (*program)->remark();
  });
  return programs;
}

void TuneCommand::report(const Task &task, const Place &place,
                         const Race &candidates, size_t winner) {
  outs() << place.title << ", " << task.request.target << ", "
         << candidates.size() << " candidates\n";
  for (auto [k, candidate] : enumerate(candidates)) {
    outs() << (k == winner ? "* " : "  ");
    if (candidate.seconds.empty())
      outs() << "         -        ";
    else
      outs() << format("%9.3f us +-%4.1f %%", 1e6 * medianOf(candidate.seconds),
                       100 * spreadOf(candidate.seconds));
    outs() << "  "
           << (candidate.schedule.empty()
                   ? "(the default: " + task.space.chosen + ")"
                   : candidate.schedule);
    if (!candidate.problem.empty())
      outs() << "  (" << StringRef(candidate.problem).split('\n').first << ")";
    outs() << '\n';
  }
}

Expected<TuneCommand::Race> TuneCommand::measure(const Task &task,
                                                 const Place &place,
                                                 const Programs &programs,
                                                 Race candidates) {
  auto watch =
      Stopwatch::create(*programs[0], place.shapes, int(device.value_or(0)));
  if (!watch)
    return watch.takeError();
  ProgressBar bar("measuring");
  TuneOptions options;
  options.problem = std::string(compilerFingerprint()) + " " +
                    task.request.target + " " + irHashOf(task.request.ir) +
                    " " + place.title;
  options.journal = journal;
  options.budgetSeconds = budget;
  options.time = [&](size_t k) { return (*watch)->time(*programs[k]); };
  options.now = monotonicSeconds;
  options.progress = [&](size_t done, size_t all) { bar.set(done, all); };
  if (Error error = race(candidates, options))
    return std::move(error);
  return candidates;
}

/// What `--times` keeps of a race: medians and spreads.
static json::Object timesOf(const std::string &target, StringRef title,
                            const std::string &chosen,
                            const std::vector<TuneCandidate> &candidates) {
  json::Array all;
  for (const TuneCandidate &candidate : candidates)
    if (!candidate.seconds.empty())
      all.push_back(
          json::Array{candidate.schedule.empty() ? chosen : candidate.schedule,
                      std::round(1e9 * medianOf(candidate.seconds)) / 1e3,
                      std::round(1e4 * spreadOf(candidate.seconds)) / 1e4,
                      int64_t(candidate.seconds.size())});
  title.consume_front("attnc gen ");
  return json::Object{{"attention", title.str()},
                      {"target", target},
                      {"times", std::move(all)}};
}

/// A line each, to be compared and read.
static Error writeTimes(StringRef path, const json::Array &measured) {
  std::string text = "[\n";
  raw_string_ostream stream(text);
  for (auto [k, race] : enumerate(measured))
    stream << race << (k + 1 < measured.size() ? ",\n" : "\n");
  stream << "]\n";
  return writeOutput(path, text);
}

Error TuneCommand::tune(const Task &task, TunedTable &table,
                        json::Array &measured) {
  Race candidates;
  for (const std::string &schedule : task.space.schedules)
    candidates.push_back({schedule, {}, ""});
  Programs programs = compileAll(task, candidates);
  if (!programs[0])
    return makeError(candidates[0].problem);
  std::vector<Race> races;
  for (const Place &place : task.places) {
    auto race = measure(task, place, programs, candidates);
    if (!race)
      return race.takeError();
    measured.push_back(
        timesOf(task.request.target, place.title, task.space.chosen, *race));
    races.push_back(std::move(*race));
  }
  size_t winner = winnerOf(races);
  for (auto [place, race] : zip_equal(task.places, races))
    report(task, place, race, winner);
  if (winner)
    table.set({task.request.target, irHashOf(task.request.ir),
               candidates[winner].schedule, task.title, gainOf(races, winner)});
  return Error::success();
}

Error TuneCommand::writePackage(ArrayRef<Task> tasks) {
  std::vector<ProgramRequest> requests;
  for (const Task &task : tasks)
    for (const std::string &schedule : task.space.schedules) {
      requests.push_back(task.request);
      requests.back().schedule = schedule;
      requests.back().tuned = false;
    }
  std::vector<std::optional<Result<Entry>>> made(requests.size());
  forAll(requests.size(), "compiling", [&](size_t k) {
    made[k].emplace(Session::instance().entryOf(requests[k]));
  });
  std::vector<Entry> entries;
  for (auto [request, entry] : zip_equal(requests, made))
    if (*entry)
      entries.push_back(std::move(**entry));
    else
      errs() << "left out: " << request.schedule << ": "
             << StringRef(entry->failure().message).split('\n').first << '\n';
  outs() << package << ": " << entries.size() << " candidates\n";
  return writeOutput(package,
                     Package::serialize(compilerFingerprint(), entries));
}

Expected<int> TuneCommand::run() {
  bool hasIr = !files.empty() || !events.empty();
  if (attentions.empty() && !hasIr)
    return makeError("tune: expected --attention='FLAGS', IR or --from-events, "
                     "got none");
  if (hasIr && sizes.empty() && package.empty())
    return makeError("tune: expected --sizes to measure IR at, got none; for "
                     "example --sizes=B=1,H=8,S=1024");
  if (output.empty() && package.empty())
    return makeError("tune: expected -o TABLE.json, got none");
  if (!target.schedule.empty())
    return makeError("tune: --schedule is what it looks for; leave it out");
  if (journal.empty())
    journal = output + ".journal";
  std::vector<Task> tasks;
  for (const std::string &attention : attentions)
    if (Error error = add(attention, tasks))
      return std::move(error);
  if (Error error = addFiles(tasks))
    return std::move(error);
  if (Error error = addEvents(tasks))
    return std::move(error);
  if (!package.empty()) {
    if (Error error = writePackage(tasks))
      return std::move(error);
    return 0;
  }
  auto table = TunedTable::read(output);
  if (!table)
    return table.takeError();
  json::Array measured;
  for (const Task &task : tasks) {
    if (Error error = tune(task, *table, measured))
      return std::move(error);
    // After each, so that nothing is lost.
    if (Error error = table->write(output))
      return std::move(error);
    if (!times.empty())
      if (Error error = writeTimes(times, measured))
        return std::move(error);
  }
  outs() << output << ": " << table->rows().size() << " schedules\n";
  return 0;
}

std::unique_ptr<Command> attnc::makeTuneCommand() {
  return std::make_unique<TuneCommand>();
}
