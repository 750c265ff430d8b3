//===- TuneTest.cpp - Schedules, measured by a clock of the test's --------===//

#include "lib/Api/Tune.h"

#include "lib/Api/ScheduleModel.h"
#include "lib/Compiler/Compiler.h"

#include "mlir/AsmParser/AsmParser.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/MemoryBuffer.h"

#include "gtest/gtest.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>

using namespace attnc;

namespace {
class TuneTest : public ::testing::Test {
protected:
  void SetUp() override {
    char name[] = "/tmp/attnc-tune-XXXXXX";
    directory = mkdtemp(name);
    options.problem = "p";
    options.journal = directory + "/journal";
    options.budgetSeconds = 1000;
    options.now = [this] { return clock; };
    options.time = [this](size_t k) -> llvm::Expected<double> {
      ++timed;
      clock += 1;
      if (times[k] < 0)
        return llvm::createStringError("it does not run");
      // A spread of `noise` around the time.
      return times[k] * (1 + noise * (int(timed % 5) - 2));
    };
  }
  void TearDown() override {
    std::error_code ignored;
    std::filesystem::remove_all(directory, ignored);
  }

  std::vector<TuneCandidate> candidates() const {
    std::vector<TuneCandidate> result;
    for (size_t k = 0; k < times.size(); ++k)
      result.push_back({k ? "s" + std::to_string(k) : "", {}, ""});
    return result;
  }
  size_t run() {
    auto all = candidates();
    EXPECT_FALSE(bool(race(all, options)));
    return winnerOf(all);
  }

  std::string directory;
  TuneOptions options;
  std::vector<double> times;
  double noise = 0, clock = 0;
  size_t timed = 0;
};
} // namespace

TEST_F(TuneTest, OnlyWhatIsFasterBeyondDoubtReplaces) {
  times = {1.0, 0.99, 1.2};
  EXPECT_EQ(run(), 0u);
  times = {1.0, 0.98, 0.97};
  options.problem = "q";
  EXPECT_EQ(run(), 2u);
  // 3 % faster, and the times spread as far.
  noise = 0.02;
  options.problem = "r";
  EXPECT_EQ(run(), 0u);
  times = {1.0, 0.5, -1};
  options.problem = "s";
  EXPECT_EQ(run(), 1u);
}

/// One program for several sizes: better on the whole and worse at none.
TEST_F(TuneTest, SeveralSizesAreDecidedOnTogether) {
  auto race = [](std::vector<double> times) {
    std::vector<TuneCandidate> candidates;
    for (double time : times)
      candidates.push_back({"", {time, time, time, time}, ""});
    return candidates;
  };
  EXPECT_EQ(winnerOf({race({1, 0.9, 0.98}), race({2, 2.02, 1.96})}), 2u);
  EXPECT_EQ(winnerOf({race({1, 0.98}), race({2, 2})}), 0u);
  EXPECT_EQ(winnerOf({race({1, 0.96}), race({2, 2})}), 1u);
  EXPECT_NEAR(gainOf({race({1, 0.5}), race({2, 2})}, 1), std::sqrt(2), 1e-12);
  auto broken = race({2, 1});
  broken[1].problem = "it does not run";
  EXPECT_EQ(winnerOf({race({1, 0.5}), broken}), 0u);
}

TEST_F(TuneTest, TheSlowAreNotTimedOn) {
  times = {1.0, 2.0, 0.9};
  auto all = candidates();
  ASSERT_FALSE(bool(race(all, options)));
  EXPECT_EQ(all[0].seconds.size(), size_t(tuneRounds));
  EXPECT_EQ(all[1].seconds.size(), 3u);
  EXPECT_NE(all[1].problem, "");
  EXPECT_EQ(all[2].seconds.size(), size_t(tuneRounds));
}

TEST_F(TuneTest, ABudgetEndsItAndTheJournalGoesOn) {
  times = {1.0, 0.9};
  options.budgetSeconds = 11;
  run();
  EXPECT_EQ(timed, 11u);
  std::ofstream(options.journal, std::ios::app) << "{\"problem\": \"p";
  options.budgetSeconds = 1000;
  EXPECT_EQ(run(), 1u);
  EXPECT_EQ(timed, size_t(2 * tuneRounds));
  EXPECT_EQ(run(), 1u); // all is known
  EXPECT_EQ(timed, size_t(2 * tuneRounds));
  options.problem = "another";
  run();
  EXPECT_EQ(timed, size_t(4 * tuneRounds));
}

TEST_F(TuneTest, TurnsAreInterleaved) {
  times = {1.0, 0.9, 0.95};
  std::vector<size_t> order;
  auto time = options.time;
  options.time = [&](size_t k) {
    order.push_back(k);
    return time(k);
  };
  run();
  for (size_t k = 0; k < order.size(); ++k)
    EXPECT_EQ(order[k], k % 3);
}

TEST_F(TuneTest, AJournalThatCannotBeWrittenIsAnError) {
  times = {1.0, 0.9};
  options.journal = directory + "/none/journal";
  auto all = candidates();
  llvm::Error error = race(all, options);
  EXPECT_NE(llvm::toString(std::move(error)).find("cannot write the journal"),
            std::string::npos);
}

TEST_F(TuneTest, CandidatesFit) {
  ProgramRequest request;
  AttentionDescription description;
  description.dtype = "bf16";
  for (int64_t headDim : {64, 128, 256}) {
    description.headDim = headDim;
    request.ir = llvm::cantFail(writeAttention(description, ""));
    for (const char *target : {"cpu", "sm_90a"}) {
      request.target = target;
      auto space = candidateSchedules(request);
      ASSERT_TRUE(bool(space)) << llvm::toString(space.takeError());
      EXPECT_EQ(space->schedules.front(), "");
      EXPECT_FALSE(llvm::is_contained(space->schedules, space->chosen));
      EXPECT_GT(space->schedules.size(), 4u) << target << headDim;
      EXPECT_LT(space->schedules.size(), 40u) << target << headDim;
    }
  }
}

/// One schedule is for all kernels of the gradients, of which there may be one.
TEST_F(TuneTest, CandidatesOfGradientsFit) {
  ProgramRequest request;
  AttentionDescription description;
  description.dtype = "bf16";
  description.backward = "operands";
  auto spaceOf = [&](const char *target) {
    request.target = target;
    request.ir = llvm::cantFail(writeAttention(description, ""));
    return llvm::cantFail(candidateSchedules(request));
  };
  auto ofOneKernel = [](llvm::StringRef schedule) {
    return schedule.contains("one_kernel=true");
  };
  for (const char *score : {"sigmoid", "softmax", "silu"})
    for (int64_t headDim : {64, 128, 256}) {
      description.score = score;
      description.headDim = headDim;
      for (const char *target : {"cpu", "sm_90a"}) {
        TuneSpace space = spaceOf(target);
        EXPECT_EQ(space.schedules.front(), "");
        EXPECT_FALSE(llvm::is_contained(space.schedules, space.chosen));
        EXPECT_GT(space.schedules.size(), 4u) << target << score << headDim;
        EXPECT_LT(space.schedules.size(), 60u) << target << score << headDim;
      }
    }
  // Where one kernel is the default, others are tried; and the other way around
  // where it may be none.
  description.score = "sigmoid";
  description.headDim = 64;
  TuneSpace space = spaceOf("sm_90a");
  EXPECT_TRUE(ofOneKernel(space.chosen)) << space.chosen;
  EXPECT_TRUE(llvm::any_of(space.schedules, ofOneKernel));
  EXPECT_FALSE(llvm::all_of(llvm::drop_begin(space.schedules), ofOneKernel));
  description.headDim = 256;
  EXPECT_TRUE(llvm::none_of(spaceOf("sm_90a").schedules, ofOneKernel));
}

/// In the kernel in which queries stay, a softmax's LSE and delta do too.
TEST_F(TuneTest, ProblemsOfGradientsAreThoseOfTheirKernels) {
  ProgramRequest request;
  AttentionDescription description;
  description.dtype = "bf16";
  description.score = "softmax";
  description.backward = "operands";
  request.target = "sm_90a";
  request.ir = llvm::cantFail(writeAttention(description, ""));
  auto context = makeContext();
  auto problems = llvm::cantFail(scheduleProblems(request, *context));
  ASSERT_EQ(problems.size(), 2u);
  EXPECT_FALSE(problems[0].queriesStay);
  EXPECT_TRUE(problems[0].oneKernel);
  EXPECT_EQ(problems[0].keyValues, 2);
  EXPECT_TRUE(problems[1].queriesStay);
  EXPECT_FALSE(problems[1].oneKernel);
  EXPECT_EQ(problems[1].keyValues, 0);
}

TEST_F(TuneTest, ATableIsReadAsItWasWritten) {
  std::string path = directory + "/table.json";
  auto none = TunedTable::read(path);
  ASSERT_TRUE(bool(none));
  EXPECT_TRUE(none->rows().empty());
  none->set({"cpu", "abc", "block_m=32,block_n=16", "note", 1.25});
  none->set({"cpu", "abc", "block_m=64,block_n=16", "later", 1.5});
  none->set({"sm_90a", "abc", "block_m=64,block_n=64", "", 2});
  ASSERT_FALSE(bool(none->write(path)));
  auto table = TunedTable::read(path);
  ASSERT_TRUE(bool(table)) << llvm::toString(table.takeError());
  EXPECT_EQ(table->rows().size(), 2u);
  ASSERT_NE(table->find("cpu", "abc"), nullptr);
  EXPECT_EQ(table->find("cpu", "abc")->schedule, "block_m=64,block_n=16");
  EXPECT_EQ(table->find("cpu", "abd"), nullptr);
  for (const char *bad : {"no", "{}", "[{}]", "[1]"}) {
    std::ofstream(path) << bad;
    auto broken = TunedTable::read(path);
    EXPECT_FALSE(bool(broken)) << bad;
    llvm::consumeError(broken.takeError());
  }
}

//===----------------------------------------------------------------------===//
// The measurements that ship
//===----------------------------------------------------------------------===//

namespace {
/// What one schedule took at several sizes: medians and spreads.
struct Raced {
  std::vector<double> times, spreads;
  size_t fewestRounds = SIZE_MAX;
};

/// A program that was raced.
struct Measured {
  int64_t headDim;
  tile::ScheduleProblem problem;
  size_t races = 0;
  /// By schedule, as it was spelled.
  std::map<std::string, Raced> schedules;

  /// The geometric mean over the races.
  static double timeOf(const Raced &raced) {
    double sum = 0;
    for (double time : raced.times)
      sum += std::log(time);
    return std::exp(sum / double(raced.times.size()));
  }
};

class MeasuredTest : public ::testing::Test {
protected:
  void SetUp() override {
    context = makeContext();
    context->loadDialect<tile::TileDialect>();
    auto buffer = llvm::MemoryBuffer::getFile(ATTNC_TIMES);
    ASSERT_TRUE(bool(buffer)) << ATTNC_TIMES;
    auto value = llvm::json::parse((*buffer)->getBuffer());
    ASSERT_TRUE(bool(value)) << llvm::toString(value.takeError());
    for (const llvm::json::Value &race : *value->getAsArray())
      read(*race.getAsObject());
    ASSERT_GE(measured.size(), 20u);
  }

  void read(const llvm::json::Object &race) {
    ProgramRequest request;
    request.target = "sm_90a";
    AttentionDescription description;
    description.dtype = "bf16";
    llvm::SmallVector<llvm::StringRef> words;
    race.getString("attention")->split(words, ' ');
    for (llvm::StringRef word : words) {
      auto [flag, text] = word.split('=');
      int64_t number = 0;
      if (flag == "--score")
        description.score = text.str();
      else if (flag == "--causal")
        description.causal = "bottom_right";
      else if (flag == "--head-dim" && !text.getAsInteger(10, number))
        description.headDim = number;
    }
    request.ir = llvm::cantFail(writeAttention(description, ""));
    Measured &program = measured[request.ir];
    if (!program.races++) {
      program.headDim = *description.headDim;
      program.problem =
          llvm::cantFail(scheduleProblems(request, *context)).front();
    }
    for (const llvm::json::Value &each : *race.getArray("times")) {
      const llvm::json::Array &row = *each.getAsArray();
      Raced &raced = program.schedules[row[0].getAsString()->str()];
      raced.times.push_back(*row[1].getAsNumber());
      raced.spreads.push_back(*row[2].getAsNumber());
      raced.fewestRounds =
          std::min(raced.fewestRounds, size_t(*row[3].getAsInteger()));
    }
  }

  tile::ScheduleAttr parse(const std::string &schedule) {
    return llvm::cast<tile::ScheduleAttr>(mlir::parseAttribute(
        "#tile.schedule<" + schedule + ">", context.get()));
  }

  /// Its schedules in the order of the map, those that ran at all sizes.
  ScheduleTimes timesOf(const Measured &program,
                        std::vector<std::string> *names = nullptr) {
    ScheduleTimes times;
    for (auto &[schedule, raced] : program.schedules) {
      if (raced.times.size() != program.races)
        continue;
      times.features.push_back(
          scheduleFeatures(program.problem, parse(schedule)));
      times.times.push_back(Measured::timeOf(raced));
      if (names)
        names->push_back(schedule);
    }
    return times;
  }

  std::unique_ptr<mlir::MLIRContext> context;
  std::map<std::string, Measured> measured; // by IR
};
} // namespace

/// The model, fitted without a head dim, ranks that head dim's fastest schedule
/// among its first five.
TEST_F(MeasuredTest, WinnersOfOtherHeadDimsAreAmongTheFirstFive) {
  for (int64_t left : {64, 96, 128, 192, 256}) {
    std::vector<ScheduleTimes> others;
    for (auto &[ir, program] : measured)
      if (program.headDim != left)
        others.push_back(timesOf(program));
    ScheduleFeatures weights = fitScheduleWeights(others);
    int programs = 0;
    for (auto &[ir, program] : measured) {
      if (program.headDim != left)
        continue;
      ++programs;
      std::vector<std::string> names;
      ScheduleTimes times = timesOf(program, &names);
      size_t winner =
          size_t(std::min_element(times.times.begin(), times.times.end()) -
                 times.times.begin());
      auto predict = [&](size_t k) {
        return predictScheduleTime(times.features[k], weights);
      };
      size_t rank = 0; // what is as good comes before it
      for (size_t k = 0; k < names.size(); ++k)
        rank += predict(k) <= predict(winner);
      EXPECT_LE(rank, 5u) << "head dim " << left << ", " << names[winner]
                          << " of " << names.size() << "\n"
                          << ir;
      EXPECT_GE(names.size(), 12u);
    }
    EXPECT_GE(programs, 4);
  }
}

TEST_F(MeasuredTest, TheShippedWeightsAreThoseOfTheMeasurements) {
  std::vector<ScheduleTimes> all;
  for (auto &[ir, program] : measured)
    all.push_back(timesOf(program));
  ScheduleFeatures fitted = fitScheduleWeights(all),
                   shipped = shippedScheduleWeights();
  for (size_t k = 0; k < fitted.size(); ++k)
    EXPECT_NEAR(shipped[k], fitted[k], 1e-4 * std::fabs(fitted[k])) << k;
}

/// A row is the cost model's schedule, or one that beat it by the rule.
TEST_F(MeasuredTest, TheShippedTableIsWhatWasMeasured) {
  for (auto &[ir, program] : measured) {
    auto *raw = context.get();
    std::string model = spellSchedule(
                    tile::modelSchedule(raw, "sm_90a", program.problem)),
                chosen = spellSchedule(
                    tile::chooseSchedule(raw, "sm_90a", program.problem));
    if (chosen == model)
      continue;
    ASSERT_TRUE(program.schedules.count(model)) << ir;
    ASSERT_TRUE(program.schedules.count(chosen)) << ir;
    const Raced &before = program.schedules[model],
                &after = program.schedules[chosen];
    double spread = 0;
    for (size_t k = 0; k < program.races; ++k) {
      EXPECT_LE(after.times[k], before.times[k]) << ir;
      spread = std::max({spread, before.spreads[k], after.spreads[k]});
    }
    double gain = Measured::timeOf(before) / Measured::timeOf(after);
    EXPECT_GE(gain, tuneGain) << ir;
    EXPECT_GT(gain - 1, 2 * spread) << ir;
    EXPECT_GE(after.fewestRounds, 5u) << ir;
  }
}
