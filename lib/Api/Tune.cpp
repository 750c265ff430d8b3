//===- Tune.cpp - Schedules, measured -------------------------------------===//

#include "lib/Api/Tune.h"

#include "dialects/attn/Attn.h"
#include "lib/Api/Measure.h"
#include "lib/Compiler/Compiler.h"
#include "lib/Runtime/Sha256.h"
#include "lib/Support/File.h"
#include "passes/ScheduleChoice.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/JSON.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <mutex>
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

  std::vector<std::string> run() {
    target == "cpu" ? collectCpu() : collectSm90a();
    return std::move(found);
  }

private:
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
          found.push_back(
              llvm::formatv("block_m={0},block_n={1}", blockM, blockN).str());
      }
  }

  void collectSm90a() {
    for (int64_t consumers : {1, 2, 3}) {
      int widths = 0;
      for (int64_t blockN = 192; blockN >= 32 && widths < 4; blockN -= 16)
        widths += addWidth(consumers, blockN);
    }
  }

  /// All variants of one block; false if none fits.
  bool addWidth(int64_t consumers, int64_t blockN) {
    size_t before = found.size();
    int64_t slice = tile::getWidestSlice(blockN);
    // What is left of the registers for tiles; see ScheduleChoice.
    int64_t registers = consumers == 3 ? 128 : 216;
    for (int64_t stages : {2, 3, 4})
      for (bool pingpong : {false, true})
        for (bool persistent : {false, true}) {
          if (pingpong && consumers != 2)
            continue;
          auto schedule = tile::ScheduleAttr::get(
              context, 64 * consumers, blockN, consumers, stages,
              tile::Order::Overlap, pingpong, false, persistent, 1, slice,
              /*staged=*/true);
          if (!fits(schedule, 1, registers))
            continue;
          found.push_back(
              llvm::formatv("block_m={0},block_n={1},consumers={2},stages={3},"
                            "order=overlap,pingpong={4},persistent={5},"
                            "slice={6},staged=true",
                            64 * consumers, blockN, consumers, stages,
                            pingpong ? "true" : "false",
                            persistent ? "true" : "false", slice)
                  .str());
        }
    return found.size() > before;
  }

  llvm::StringRef target;
  mlir::MLIRContext *context;
  std::vector<tile::ScheduleProblem> problems;
  std::vector<std::string> found = {""};
};
} // namespace

Expected<std::vector<std::string>>
attnc::candidateSchedules(const ProgramRequest &request) {
  static std::once_flag registered;
  std::call_once(registered, [] { registerAllPasses(); });
  auto context = makeContext();
  context->loadDialect<tile::TileDialect>();
  CompileOptions options;
  options.target = *parseTarget(request.target);
  auto artifact = parseArtifact(request.ir, "<ir>", *context, options);
  if (!artifact)
    return artifact.takeError();
  if (artifact->phase > Phase::Fused)
    return makeError("<ir>: error: expected a program at phase attn or fused");
  if (Error error = compile(*artifact, options, Phase::Fused))
    return std::move(error);
  std::vector<tile::ScheduleProblem> problems;
  artifact->module->walk([&](attn::FusedOp op) {
    problems.push_back(getScheduleProblem(op, request.anyLayout));
  });
  return Collector(request.target, context.get(), std::move(problems)).run();
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
  constexpr size_t enough = 3;
  const TuneCandidate &first = candidates.front();
  if (!first.problem.empty() || first.seconds.size() < enough)
    return 0;
  double before = medianOf(first.seconds), best = before;
  size_t winner = 0;
  for (auto [k, candidate] : llvm::enumerate(candidates)) {
    if (!candidate.problem.empty() || candidate.seconds.size() < enough)
      continue;
    double median = medianOf(candidate.seconds), gain = before / median;
    double spread =
        std::max(spreadOf(first.seconds), spreadOf(candidate.seconds));
    if (median < best && gain >= tuneGain && gain - 1 > 2 * spread) {
      best = median;
      winner = k;
    }
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
