//===- TuneCommand.cpp - attnc tune ---------------------------------------===//

#include "tools/attnc/Requests.h"

#include "lib/Api/Measure.h"
#include "lib/Api/Session.h"
#include "lib/Api/Tune.h"
#include "lib/Runtime/Package.h"
#include "lib/Support/File.h"
#include "lib/Target/CPU/CpuFeatures.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/raw_ostream.h"

#include <atomic>
#include <thread>
#include <unistd.h>

using namespace attnc;
using namespace llvm;

namespace {
class TuneCommand : public Command {
public:
  TuneCommand() {
    flags.list("attention", "'FLAGS'", attentions,
               "What to tune, as flags of 'attnc gen' in one word, with "
               "--batch, --heads and --seq to measure at.");
    flags.text("o", "TABLE.json", output,
               "The table to add what was found to; ATTNC_TUNED=TABLE.json "
               "makes compiles use it.");
    flags.text("journal", "FILE", journal,
               "Where times are kept; TABLE.json.journal by default. A run "
               "that was ended goes on from it.");
    flags.number("budget", budget, "Seconds to measure for; 60 by default.");
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
  struct Task {
    AttentionDescription description;
    /// Of the program for any sizes.
    ProgramRequest request;
    std::vector<std::string> schedules;
  };
  Expected<Task> prepare(StringRef attention);
  Error tune(const Task &task, TunedTable &table);
  Error writePackage(ArrayRef<Task> tasks);
  std::vector<const RunnableProgram *>
  compileAll(const Task &task, std::vector<TuneCandidate> &candidates);
  void report(const std::vector<TuneCandidate> &candidates, size_t winner);

  TargetFlags target;
  OptionTable flags{
      "tune --attention='FLAGS' -o TABLE.json [options]",
      "Measures the schedules that fit and keeps one that is faster than the\n"
      "cost model's by 1.5 % and by twice the spread of the times.",
      "  attnc tune --attention='--score=softmax --batch=1 --heads=8 "
      "--seq=1024' \\\n      -o tuned.json\n"
      "  ATTNC_TUNED=tuned.json ./program"};
  std::vector<std::string> attentions;
  std::string output, journal, package;
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

Expected<TuneCommand::Task> TuneCommand::prepare(StringRef attention) {
  auto description = parseAttention(attention);
  if (!description)
    return description.takeError();
  if (auto shapes = shapesOf(*description); !shapes)
    return makeError("--attention='" + attention +
                     "': " + toString(shapes.takeError()));
  Task task;
  task.description = *description;
  AttentionDescription general = withoutSizes(*description);
  std::string gen = flagsOf(general);
  auto ir = writeAttention(general, gen);
  if (!ir)
    return ir.takeError();
  task.request = requestFor(target, std::move(*ir), gen);
  auto schedules = candidateSchedules(task.request);
  if (!schedules)
    return schedules.takeError();
  task.schedules = std::move(*schedules);
  if (most && size_t(*most) < task.schedules.size())
    task.schedules.resize(size_t(*most));
  return task;
}

/// Each in a worker of its own, as many at once as there are processors.
std::vector<const RunnableProgram *>
TuneCommand::compileAll(const Task &task,
                        std::vector<TuneCandidate> &candidates) {
  std::vector<const RunnableProgram *> programs(candidates.size());
  std::atomic<size_t> next{0}, done{0};
  ProgressBar bar("compiling");
  auto work = [&](bool shows) {
    for (size_t k; (k = next.fetch_add(1)) < candidates.size();) {
      ProgramRequest request = task.request;
      request.schedule = candidates[k].schedule;
      request.tuned = false;
      RequestKey key;
      auto program = Session::instance().get(request, key);
      if (program)
        programs[k] = *program;
      else
        candidates[k].problem = program.failure().message;
      ++done;
      if (shows)
        bar.set(done, candidates.size());
    }
  };
  std::vector<std::thread> threads;
  for (int k = 1; k < getAvailableThreads(); ++k)
    threads.emplace_back(work, false);
  work(true);
  for (std::thread &thread : threads)
    thread.join();
  return programs;
}

void TuneCommand::report(const std::vector<TuneCandidate> &candidates,
                         size_t winner) {
  for (auto [k, candidate] : enumerate(candidates)) {
    outs() << (k == winner ? "* " : "  ");
    if (candidate.seconds.empty())
      outs() << "         -        ";
    else
      outs() << format("%9.3f us +-%4.1f %%", 1e6 * medianOf(candidate.seconds),
                       100 * spreadOf(candidate.seconds));
    outs() << "  "
           << (candidate.schedule.empty() ? "(the cost model's)"
                                          : candidate.schedule);
    if (!candidate.problem.empty())
      outs() << "  (" << StringRef(candidate.problem).split('\n').first << ")";
    outs() << '\n';
  }
}

Error TuneCommand::tune(const Task &task, TunedTable &table) {
  std::vector<TuneCandidate> candidates;
  for (const std::string &schedule : task.schedules)
    candidates.push_back({schedule, {}, ""});
  auto programs = compileAll(task, candidates);
  if (!programs[0])
    return makeError(candidates[0].problem);
  auto shapes = shapesOf(task.description);
  if (!shapes)
    return shapes.takeError();
  auto watch =
      Stopwatch::create(*programs[0], *shapes, int(device.value_or(0)));
  if (!watch)
    return watch.takeError();
  ProgressBar bar("measuring");
  TuneOptions options;
  options.problem = std::string(compilerFingerprint()) + " " +
                    task.request.target + flagsOf(task.description);
  options.journal = journal;
  options.budgetSeconds = budget;
  options.time = [&](size_t k) { return (*watch)->time(*programs[k]); };
  options.now = monotonicSeconds;
  options.progress = [&](size_t done, size_t all) { bar.set(done, all); };
  if (Error error = race(candidates, options))
    return error;
  size_t winner = winnerOf(candidates);
  outs() << "attnc gen" << flagsOf(task.description) << ", "
         << task.request.target << ", " << candidates.size() << " candidates\n";
  report(candidates, winner);
  if (!winner)
    return Error::success();
  double gain =
      medianOf(candidates[0].seconds) / medianOf(candidates[winner].seconds);
  table.set({task.request.target, irHashOf(task.request.ir),
             candidates[winner].schedule, "attnc gen" + task.request.genFlags,
             gain});
  return Error::success();
}

Error TuneCommand::writePackage(ArrayRef<Task> tasks) {
  std::vector<Entry> entries;
  for (const Task &task : tasks)
    for (const std::string &schedule : task.schedules) {
      ProgramRequest request = task.request;
      request.schedule = schedule;
      request.tuned = false;
      auto entry = Session::instance().entryOf(request);
      if (entry)
        entries.push_back(std::move(*entry));
      else
        errs() << "left out: " << schedule << ": "
               << StringRef(entry.failure().message).split('\n').first << '\n';
    }
  outs() << package << ": " << entries.size() << " candidates\n";
  return writeOutput(package,
                     Package::serialize(compilerFingerprint(), entries));
}

Expected<int> TuneCommand::run() {
  if (attentions.empty())
    return makeError("tune: expected --attention='FLAGS', got none");
  if (output.empty() && package.empty())
    return makeError("tune: expected -o TABLE.json, got none");
  if (!target.schedule.empty())
    return makeError("tune: --schedule is what it looks for; leave it out");
  if (journal.empty())
    journal = output + ".journal";
  std::vector<Task> tasks;
  for (const std::string &attention : attentions) {
    auto task = prepare(attention);
    if (!task)
      return task.takeError();
    tasks.push_back(std::move(*task));
  }
  if (!package.empty()) {
    if (Error error = writePackage(tasks))
      return std::move(error);
    return 0;
  }
  auto table = TunedTable::read(output);
  if (!table)
    return table.takeError();
  for (const Task &task : tasks) {
    if (Error error = tune(task, *table))
      return std::move(error);
    // After each, so that nothing is lost.
    if (Error error = table->write(output))
      return std::move(error);
  }
  outs() << output << ": " << table->rows().size() << " schedules\n";
  return 0;
}

std::unique_ptr<Command> attnc::makeTuneCommand() {
  return std::make_unique<TuneCommand>();
}
