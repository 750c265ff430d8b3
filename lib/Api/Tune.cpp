//===- Tune.cpp - Schedules, measured -------------------------------------===//

#include "lib/Api/Tune.h"

#include "dialects/attn/Attn.h"
#include "lib/Api/Measure.h"
#include "lib/Api/ScheduleModel.h"
#include "lib/Compiler/Compiler.h"
#include "lib/Runtime/Sha256.h"
#include "lib/Support/File.h"
#include "passes/ScheduleChoice.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/JSON.h"

#include <cerrno>
#include <cmath>
#include <cstring>
#include <fcntl.h>
#include <tuple>
#include <unistd.h>

using namespace attnc;
using llvm::Error;
using llvm::Expected;

std::string attnc::irHashOf(const std::string &ir) {
  return Sha256::hexOf(ir).substr(0, 32);
}

//===----------------------------------------------------------------------===//
// Candidates
//===----------------------------------------------------------------------===//

namespace {
/// Collects the schedules that fit every attention of a program.
class Collector {
public:
  Collector(llvm::StringRef target, mlir::MLIRContext *context,
            std::vector<tile::ScheduleProblem> problems)
      : target(target), context(context), problems(std::move(problems)) {}

  TuneSpace run() {
    tile::ScheduleAttr first =
        tile::chooseSchedule(context, target, problems.front());
    chosen = spellSchedule(first);
    if (target == "cpu")
      collectCpu();
    else if (problems.front().gradients)
      collectGradients(first);
    else
      collectSm90a();
    // The likeliest winners first: fewer may be tried.
    llvm::sort(found, [](const Found &a, const Found &b) {
      return std::tie(a.relativeTime, a.schedule) <
             std::tie(b.relativeTime, b.schedule);
    });
    TuneSpace space{{""}, std::move(chosen)};
    for (Found &each : found)
      space.schedules.push_back(std::move(each.schedule));
    return space;
  }

private:
  void add(tile::ScheduleAttr schedule) {
    std::string text = spellSchedule(schedule);
    bool known = llvm::any_of(
        found, [&](const Found &each) { return each.schedule == text; });
    if (known || text == chosen)
      return;
    // The model was fitted to attentions on a GPU; the rest stays in the order
    // it came.
    bool modelled = target != "cpu" && !problems.front().gradients;
    double time =
        modelled
            ? predictScheduleTime(scheduleFeatures(problems.front(), schedule),
                                  shippedScheduleWeights())
            : double(found.size());
    found.push_back({std::move(text), time});
  }

  bool fits(tile::ScheduleAttr schedule, int64_t bytesFactor,
            int64_t registers) const {
    return llvm::all_of(problems, [&](const tile::ScheduleProblem &problem) {
      auto footprint = tile::getFootprint(target, problem, schedule);
      return footprint.bytes <= footprint.budget * bytesFactor &&
             footprint.registers <= registers;
    });
  }

  /// The budget there is a rule of thumb: what is twice as large may be best.
  void collectCpu() {
    for (int64_t blockM : {16, 32, 64, 128, 256})
      for (int64_t blockN : {16, 32, 64, 128}) {
        auto schedule = tile::ScheduleAttr::get(context, blockM, blockN, 0, 0,
                                                tile::Order::Serial, false,
                                                false, false, 1, 0, false);
        if (fits(schedule, 2, INT64_MAX))
          add(schedule);
      }
  }

  /// What a compile would step to, among them one kernel for all gradients,
  /// then narrower blocks and products one after the other. One schedule is
  /// for all kernels of the program.
  void collectGradients(tile::ScheduleAttr first) {
    for (tile::ScheduleAttr next :
         tile::getScheduleLadder(target, problems.front(), first))
      add(next);
    for (int64_t consumers : {3, 2, 1})
      for (int64_t blockN : {128, 96, 80, 64, 48, 32})
        for (int64_t stages : {3, 2})
          addGradients(consumers, blockN, stages);
  }

  void addGradients(int64_t consumers, int64_t blockN, int64_t stages) {
    for (auto order : {tile::Order::Deferred, tile::Order::Serial}) {
      auto schedule = tile::ScheduleAttr::get(
          context, 64 * consumers, blockN, consumers, stages, order, false,
          false, false, 1, tile::getWidestSlice(blockN), /*staged=*/true);
      // The more warpgroups, the fewer registers each has. One alone, only
      // where two do not fit.
      if (!fits(schedule, 1, consumers == 3 ? 128 : 216) ||
          (consumers == 1 && !found.empty()))
        continue;
      add(schedule);
    }
  }

  /// The widest key blocks that fit, and with each all that may pay: one
  /// consumer alone, only where two do not fit.
  void collectSm90a() {
    bool two = false;
    for (int64_t consumers : {3, 2})
      two |= collectConsumers(consumers);
    if (!two)
      collectConsumers(1);
  }

  bool collectConsumers(int64_t consumers) {
    int64_t blockN = 192;
    while (blockN >= 32 && !stagesFor(consumers, blockN))
      blockN -= 16;
    if (blockN < 32)
      return false;
    for (int64_t less : {0, 16, 32, 64})
      if (blockN - less >= 32)
        addWidth(consumers, blockN - less);
    return true;
  }

  tile::ScheduleAttr make(int64_t consumers, int64_t blockN, int64_t stages,
                          bool pingpong, bool persistent) const {
    return tile::ScheduleAttr::get(context, 64 * consumers, blockN, consumers,
                                   stages, tile::Order::Overlap, pingpong,
                                   false, persistent, 1,
                                   tile::getWidestSlice(blockN),
                                   /*staged=*/true);
  }

  /// As many stages as there is memory for; 0: not even two.
  int64_t stagesFor(int64_t consumers, int64_t blockN) const {
    // What is left of the registers for tiles; see ScheduleChoice.
    int64_t registers = consumers == 3 ? 128 : 216;
    for (int64_t stages : {4, 3, 2})
      if (fits(make(consumers, blockN, stages, false, false), 1, registers))
        return stages;
    return 0;
  }

  void addWidth(int64_t consumers, int64_t blockN) {
    int64_t stages = stagesFor(consumers, blockN);
    for (bool pingpong : {true, false})
      for (bool persistent : {false, true})
        if (consumers == 2 || !pingpong)
          add(make(consumers, blockN, stages, pingpong, persistent));
  }

  llvm::StringRef target;
  mlir::MLIRContext *context;
  std::vector<tile::ScheduleProblem> problems;
  struct Found {
    std::string schedule;
    double relativeTime;
  };
  std::vector<Found> found;
  std::string chosen;
};
} // namespace

std::string attnc::spellSchedule(tile::ScheduleAttr schedule) {
  std::string text;
  llvm::raw_string_ostream(text) << mlir::Attribute(schedule);
  llvm::StringRef inside = text;
  inside.consume_front("#tile.schedule<");
  inside.consume_back(">");
  std::string result;
  llvm::copy_if(inside, std::back_inserter(result),
                [](char each) { return each != ' '; });
  return result;
}

Expected<std::vector<tile::ScheduleProblem>>
attnc::scheduleProblems(const ProgramRequest &request,
                        mlir::MLIRContext &context) {
  registerAllPasses();
  context.loadDialect<tile::TileDialect>();
  CompileOptions options;
  options.target = *parseTarget(request.target);
  auto artifact = parseArtifact(request.ir, "<ir>", context, options);
  if (!artifact)
    return artifact.takeError();
  if (artifact->phase > Phase::Fused)
    return makeError("<ir>: error: expected a program at phase attn or fused");
  if (Error error = compile(*artifact, options, Phase::Fused))
    return std::move(error);
  std::vector<tile::ScheduleProblem> problems, queries;
  artifact->module->walk([&](mlir::Operation *op) {
    if (mlir::isa<attn::FusedOp, attn::BackwardOp>(op))
      problems.push_back(getScheduleProblem(op, request.anyLayout));
    // Of gradients, a kernel in which queries stay is one more.
    if (mlir::isa<attn::BackwardOp, attn::RowSumsOp>(op))
      queries.push_back(getScheduleProblem(op, request.anyLayout,
                                           /*queriesStay=*/true));
  });
  if (problems.empty())
    return makeError("<ir>: error: expected an attention, got none");
  llvm::append_range(problems, queries);
  return problems;
}

Expected<TuneSpace> attnc::candidateSchedules(const ProgramRequest &request) {
  auto context = makeContext();
  auto problems = scheduleProblems(request, *context);
  if (!problems)
    return problems.takeError();
  return Collector(request.target, context.get(), std::move(*problems)).run();
}

//===----------------------------------------------------------------------===//
// The journal
//===----------------------------------------------------------------------===//

/// Takes the times of this problem from a journal. A line that was cut short,
/// when its process was killed, is left.
static void readJournal(std::vector<TuneCandidate> &candidates,
                        const TuneOptions &options) {
  auto buffer = llvm::MemoryBuffer::getFile(options.journal);
  if (!buffer)
    return;
  for (llvm::StringRef line : llvm::split((*buffer)->getBuffer(), '\n')) {
    auto value = llvm::json::parse(line);
    if (!value) {
      llvm::consumeError(value.takeError());
      continue;
    }
    auto *object = value->getAsObject();
    if (!object || object->getString("problem") != options.problem)
      continue;
    auto schedule = object->getString("schedule");
    auto seconds = object->getNumber("seconds");
    for (TuneCandidate &candidate : candidates)
      if (schedule == candidate.schedule && seconds)
        candidate.seconds.push_back(*seconds);
  }
}

static Error addToJournal(const TuneCandidate &candidate,
                          const TuneOptions &options) {
  if (options.journal.empty())
    return Error::success();
  // The line before may have been cut short.
  std::string line =
      llvm::formatv("\n{0}\n", llvm::json::Value(llvm::json::Object{
                                   {"problem", options.problem},
                                   {"schedule", candidate.schedule},
                                   {"seconds", candidate.seconds.back()}}))
          .str();
  int fd = ::open(options.journal.c_str(),
                  O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  ssize_t written = fd < 0 ? -1 : ::write(fd, line.data(), line.size());
  std::string reason = strerror(errno);
  if (fd >= 0)
    ::close(fd);
  if (written == ssize_t(line.size()))
    return Error::success();
  return makeError("cannot write the journal '" + options.journal +
                   "': " + reason);
}

//===----------------------------------------------------------------------===//
// The race
//===----------------------------------------------------------------------===//

/// After some rounds, what is far behind is not timed on.
static void dropSlow(std::vector<TuneCandidate> &candidates) {
  double best = 0;
  for (const TuneCandidate &candidate : candidates)
    if (candidate.problem.empty() && !candidate.seconds.empty()) {
      double median = medianOf(candidate.seconds);
      if (best == 0 || median < best)
        best = median;
    }
  for (TuneCandidate &candidate : llvm::drop_begin(candidates))
    if (candidate.problem.empty() && candidate.seconds.size() >= 3 &&
        medianOf(candidate.seconds) > 1.15 * best)
      candidate.problem = "slower by more than 15 %";
}

Error attnc::race(std::vector<TuneCandidate> &candidates,
                  const TuneOptions &options) {
  readJournal(candidates, options);
  double start = options.now();
  auto inRace = [](const TuneCandidate &candidate) {
    return candidate.problem.empty();
  };
  for (size_t round = 0; round < size_t(tuneRounds); ++round) {
    for (auto [k, candidate] : llvm::enumerate(candidates)) {
      if (!inRace(candidate) || candidate.seconds.size() > round)
        continue;
      if (options.now() - start >= options.budgetSeconds)
        return Error::success();
      auto seconds = options.time(k);
      if (!seconds) {
        candidate.problem = llvm::toString(seconds.takeError());
        continue;
      }
      candidate.seconds.push_back(*seconds);
      if (Error error = addToJournal(candidate, options))
        return error;
      if (options.progress) {
        size_t running = llvm::count_if(candidates, inRace);
        options.progress(round * running + k, tuneRounds * running);
      }
    }
    if (round >= 2)
      dropSlow(candidates);
  }
  return Error::success();
}

size_t attnc::winnerOf(const std::vector<TuneCandidate> &candidates) {
  return winnerOf(std::vector<std::vector<TuneCandidate>>{candidates});
}

double attnc::gainOf(const std::vector<std::vector<TuneCandidate>> &races,
                     size_t candidate) {
  double sum = 0;
  for (const std::vector<TuneCandidate> &race : races)
    sum +=
        std::log(medianOf(race[0].seconds) / medianOf(race[candidate].seconds));
  return std::exp(sum / double(races.size()));
}

/// Whether a candidate is faster than the first one beyond doubt.
static bool replaces(const std::vector<std::vector<TuneCandidate>> &races,
                     size_t candidate) {
  constexpr size_t enough = 3;
  double spread = 0;
  for (const std::vector<TuneCandidate> &race : races) {
    const TuneCandidate &first = race[0], &other = race[candidate];
    if (!first.problem.empty() || !other.problem.empty() ||
        first.seconds.size() < enough || other.seconds.size() < enough ||
        medianOf(other.seconds) > medianOf(first.seconds))
      return false;
    spread =
        std::max({spread, spreadOf(first.seconds), spreadOf(other.seconds)});
  }
  double gain = gainOf(races, candidate);
  return gain >= tuneGain && gain - 1 > 2 * spread;
}

size_t attnc::winnerOf(const std::vector<std::vector<TuneCandidate>> &races) {
  size_t winner = 0;
  double best = 1;
  for (size_t k = 1; k < races.front().size(); ++k)
    if (replaces(races, k) && gainOf(races, k) > best) {
      best = gainOf(races, k);
      winner = k;
    }
  return winner;
}

//===----------------------------------------------------------------------===//
// The table
//===----------------------------------------------------------------------===//

Expected<TunedTable> TunedTable::read(const std::string &path) {
  TunedTable result;
  if (!llvm::sys::fs::exists(path))
    return result;
  auto buffer = readInput(path);
  if (!buffer)
    return buffer.takeError();
  auto value = llvm::json::parse((*buffer)->getBuffer());
  auto *array = value ? value->getAsArray() : nullptr;
  if (!value)
    llvm::consumeError(value.takeError());
  if (!array)
    return makeError(path + ": error: expected a table that 'attnc tune' "
                            "made, got something else");
  for (const llvm::json::Value &element : *array) {
    auto *object = element.getAsObject();
    auto text = [&](llvm::StringRef name) {
      return object ? object->getString(name).value_or("").str()
                    : std::string();
    };
    Row row{text("target"), text("ir"), text("schedule"), text("note")};
    if (row.target.empty() || row.irHash.empty() || row.schedule.empty())
      return makeError(path + ": error: expected rows with target, ir and "
                              "schedule");
    row.gain = object->getNumber("gain").value_or(1);
    result.set(std::move(row));
  }
  return result;
}

Error TunedTable::write(const std::string &path) const {
  llvm::json::Array array;
  for (const Row &row : table)
    array.push_back(llvm::json::Object{{"target", row.target},
                                       {"ir", row.irHash},
                                       {"schedule", row.schedule},
                                       {"gain", row.gain},
                                       {"note", row.note}});
  return writeOutput(
      path,
      llvm::formatv("{0:2}\n", llvm::json::Value(std::move(array))).str());
}

void TunedTable::set(Row row) {
  llvm::erase_if(table, [&](const Row &other) {
    return other.target == row.target && other.irHash == row.irHash;
  });
  table.push_back(std::move(row));
}

const TunedTable::Row *TunedTable::find(const std::string &target,
                                        const std::string &irHash) const {
  for (const Row &row : table)
    if (row.target == target && row.irHash == irHash)
      return &row;
  return nullptr;
}
