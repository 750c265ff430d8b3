//===- Tune.h - Schedules, measured -----------------------------*- C++ -*-===//
//
// Candidates come from what fits the target's memories and registers. They are
// timed in turns, so that what disturbs the machine disturbs all alike; every
// time goes to a journal, from which a later run goes on. A schedule replaces
// the cost model's only if it is faster beyond doubt.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_LIB_API_TUNE_H
#define ATTNC_LIB_API_TUNE_H

#include "lib/Api/CompileRequest.h"
#include "lib/Frontend/Attention.h"
#include "passes/ScheduleChoice.h"

#include <functional>
#include <optional>

namespace attnc {

/// A schedule replaces another if it is this much faster, and by more than
/// twice the spread of the times.
constexpr double tuneGain = 1.015;
constexpr int tuneRounds = 15;

struct TuneSpace {
  /// Schedules to try; the first, an empty one, is the default.
  std::vector<std::string> schedules;
  /// What the default is, spelled out.
  std::string chosen;
};

/// What the schedules of a program are chosen for, the one that `chosen` is of
/// first.
llvm::Expected<std::vector<tile::ScheduleProblem>>
scheduleProblems(const ProgramRequest &request, mlir::MLIRContext &context);

/// What to try for the IR of a request, the likeliest winners first.
llvm::Expected<TuneSpace> candidateSchedules(const ProgramRequest &request);

/// A schedule as `--schedule` takes it.
std::string spellSchedule(tile::ScheduleAttr schedule);

struct TuneCandidate {
  std::string schedule;
  std::vector<double> seconds;
  /// Why it is out of the race; empty: it is in.
  std::string problem;
};

struct TuneOptions {
  /// What the times are of: lines of the journal with another one are left.
  std::string problem;
  /// Where times are kept; empty: nowhere.
  std::string journal;
  double budgetSeconds = 60;
  /// Seconds of one call of candidate k.
  std::function<llvm::Expected<double>(size_t k)> time;
  std::function<double()> now;
  /// Called after each time with how many are done, of how many.
  std::function<void(size_t done, size_t all)> progress = nullptr;
};

/// Times the candidates until the budget is spent or all have their rounds.
/// Fails only if the journal cannot be written.
llvm::Error race(std::vector<TuneCandidate> &candidates,
                 const TuneOptions &options);

/// The candidate that replaces the first one, or 0.
size_t winnerOf(const std::vector<TuneCandidate> &candidates);

/// The same for one program that was timed at several sizes: it must be faster
/// over all of them, by the geometric mean, and slower at none.
size_t winnerOf(const std::vector<std::vector<TuneCandidate>> &races);

/// How many times as fast as the first one a candidate is over all races.
double gainOf(const std::vector<std::vector<TuneCandidate>> &races,
              size_t candidate);

/// Schedules that were found to be faster, by target and IR.
class TunedTable {
public:
  struct Row {
    std::string target, irHash, schedule, note;
    double gain = 1;
  };
  /// Reads a table; one that is not there is empty.
  static llvm::Expected<TunedTable> read(const std::string &path);
  llvm::Error write(const std::string &path) const;

  /// Replaces the row of the same target and IR.
  void set(Row row);
  const Row *find(const std::string &target, const std::string &irHash) const;
  const std::vector<Row> &rows() const { return table; }

private:
  std::vector<Row> table;
};

/// What a table files a request under.
std::string irHashOf(const std::string &ir);

} // namespace attnc

#endif // ATTNC_LIB_API_TUNE_H
