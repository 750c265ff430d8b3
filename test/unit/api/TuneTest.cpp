//===- TuneTest.cpp - Schedules, measured by a clock of the test's --------===//

#include "lib/Api/Tune.h"

#include "gtest/gtest.h"

#include <cmath>
#include <filesystem>
#include <fstream>

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
