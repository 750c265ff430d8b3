//===- SplitTest.cpp - Keys split in ranges -------------------------------===//

#include "test/unit/numerics/Attention.h"

#include "gtest/gtest.h"

using namespace attnc;
using namespace attnc::numerics;

namespace {

RunOptions onCpu(int splits) {
  RunOptions options;
  options.schedule = "block_m=16,block_n=16,splits=" + std::to_string(splits);
  return options;
}

/// The schedule that is made for few queries, on the CPU.
RunOptions onHopper(int splits) {
  RunOptions options;
  options.target = Target::SM90a;
  options.schedule = "block_m=64,block_n=32,consumers=1,stages=2,slice=32,"
                     "resident=2,splits=" +
                     std::to_string(splits);
  return options;
}

Attention ofHalves(const std::string &score, int queries, int keys) {
  Attention a;
  a.score = getScore(score);
  a.queries = queries;
  a.keys = keys;
  a.dtype = Dtype::BF16;
  return a;
}

/// Two key heads, each for three heads.
Attention ofGroups(const std::string &score, int queries, int keys) {
  Attention a = ofHalves(score, queries, keys);
  a.heads = 6;
  a.keyHeads = 2;
  return a;
}

/// Calls `check` with operands of every kind captured in turn.
void forEveryCapture(Attention a,
                     llvm::function_ref<void(const Attention &)> check) {
  for (Capture capture :
       {Capture::Scalar, Capture::H, Capture::BH, Capture::I, Capture::J,
        Capture::Diagonal, Capture::Pairs, Capture::Full, Capture::Alibi}) {
    a.score = getScore(int(capture) % 2 ? "sigmoid" : "softmax");
    a.capture = capture;
    a.batch = 2;
    SCOPED_TRACE(int(capture));
    check(a);
  }
}

void checkSplit(const Attention &attention, int splits) {
  Problem problem = attention.build();
  check(problem, onCpu(splits));
  if (attention.dtype != Dtype::F32)
    check(problem, onHopper(splits));
}

class SplitScore : public testing::TestWithParam<int> {};

// Ranges lie within what a mask leaves; some are empty, some are cut by it.
TEST_P(SplitScore, WithEveryMask) {
  const Score &score = getScores()[GetParam()];
  if (score.rmsNorm)
    return; // its rows need all columns: refused, see schedule-splits.test
  for (Mask mask : getMasks()) {
    // A third of the pairs: each mask meets a third of the functions.
    if ((int(mask) + GetParam()) % 3)
      continue;
    Attention a;
    a.score = score;
    a.mask = mask;
    a.queries = 21;
    a.keys = 99;
    a.seed = 30 + GetParam();
    a.dtype = (int(mask) + GetParam()) % 2 ? Dtype::BF16 : Dtype::F32;
    a.lse = score.normalize.find("softmax") != std::string::npos;
    SCOPED_TRACE(score.name + " " + getName(mask));
    checkSplit(a, 3);
  }
}

INSTANTIATE_TEST_SUITE_P(Split, SplitScore,
                         testing::Range(0, int(getScores().size())),
                         [](const testing::TestParamInfo<int> &info) {
                           return getScores()[info.param].name;
                         });

// S-beyond, S-empty: each sequence's keys are split by its own length, down to
// none; more ranges than blocks.
TEST(Split, LengthsOfEachSequence) {
  for (const char *score : {"sigmoid", "softmax", "softplus", "gate"})
    for (Mask mask : {Mask::None, Mask::Causal, Mask::Window}) {
      Attention a;
      a.score = getScore(score);
      a.mask = mask;
      a.batch = 5;
      a.queries = 20;
      a.keys = 190;
      a.queryLengths = {20, 0, 17, 3, 1};
      a.keyLengths = {190, 190, 0, 131, 65};
      a.bshd = mask == Mask::Causal;
      a.lse = a.score.activation.empty();
      a.dtype = mask == Mask::Window ? Dtype::F32 : Dtype::BF16;
      SCOPED_TRACE(score);
      checkSplit(a, mask == Mask::None ? 64 : 5);
    }
}

TEST(Split, OddSizesAndGroups) {
  int count = 0;
  for (auto [dim, valueDim] :
       {std::pair<int, int>(1, 1), std::pair<int, int>(31, 33),
        std::pair<int, int>(64, 64), std::pair<int, int>(80, 200)}) {
    Attention a;
    a.score = getScore(++count % 2 ? "softmax" : "sigmoid");
    a.heads = 6;
    a.keyHeads = 2;
    a.batch = 2;
    a.gap = 3;
    a.queries = count;
    a.keys = 257;
    a.dim = dim;
    a.valueDim = valueDim;
    a.mask = Mask::Causal;
    a.dtype = Dtype::BF16;
    SCOPED_TRACE(dim);
    checkSplit(a, 7);
  }
}

TEST(Split, CapturedOperandsOfEveryKind) {
  forEveryCapture(ofHalves("softmax", 3, 130),
                  [](const Attention &a) { checkSplit(a, 4); });
}

// The ranges' maxima differ by more than a half can hold.
TEST(Split, ExtremeLogits) {
  for (const char *score : {"sigmoid", "softmax"}) {
    Attention a = ofHalves(score, 4, 150);
    a.std = 30;
    checkSplit(a, 5);
  }
}

// S-bits: the same call gives the same bits; ranges are added in their order.
TEST(Split, RunsAreBitIdentical) {
  Attention a = ofHalves("softmax", 5, 500);
  Problem problem = a.build();
  for (const RunOptions &options : {onCpu(9), onHopper(9)}) {
    auto first = run(problem, options, {{1, 2, 5, 32}});
    auto second = run(problem, options, {{1, 2, 5, 32}});
    ASSERT_EQ(first.size(), 1u);
    EXPECT_EQ(first[0].data, second[0].data);
  }
}

//===----------------------------------------------------------------------===//
// Rows of several heads
//===----------------------------------------------------------------------===//

/// The rows of all heads of a key head are one block: in one kernel and split,
/// among one and two consumers, as many of the schedules as are asked for.
void checkPacked(const Attention &attention, size_t count = 4) {
  static const char *const schedules[] = {
      "block_m=64,block_n=32,consumers=1,stages=2,slice=32,splits=3",
      "block_m=128,block_n=32,consumers=2,stages=2,slice=32,splits=2",
      "block_m=16,block_n=16", "block_m=16,block_n=16,splits=3"};
  Problem problem = attention.build();
  for (size_t k = 0; k < count; ++k) {
    RunOptions options;
    options.schedule = std::string(schedules[k]) + ",pack_groups=true";
    if (k < 2)
      options.target = Target::SM90a;
    check(problem, options);
  }
}

// Each row has its own head, position and key range: 1 to 16 queries of groups
// of any size, in blocks that begin within a position.
TEST(Packed, GroupsOfAnySizeAndFewQueries) {
  for (auto [group, queries] :
       {std::pair<int, int>(1, 5), std::pair<int, int>(2, 16),
        std::pair<int, int>(3, 1), std::pair<int, int>(3, 7),
        std::pair<int, int>(5, 13), std::pair<int, int>(8, 16),
        std::pair<int, int>(7, 40)}) {
    Attention a;
    a.score = getScore(group % 2 ? "softmax" : "sigmoid");
    a.heads = 2 * group;
    a.keyHeads = 2;
    a.batch = 2;
    a.queries = queries;
    a.keys = 99;
    a.dim = 16;
    a.valueDim = 24;
    a.bshd = group == 3;
    a.gap = group == 5 ? 3 : 0;
    a.mask = Mask::Causal;
    a.lse = a.score.activation.empty();
    a.dtype = Dtype::BF16;
    SCOPED_TRACE(std::to_string(group) + " heads, " + std::to_string(queries));
    checkPacked(a);
  }
}

TEST(Packed, EveryMask) {
  for (Mask mask : getMasks()) {
    Attention a = ofGroups(int(mask) % 2 ? "softmax" : "sigmoid", 9, 70);
    a.mask = mask;
    SCOPED_TRACE(getName(mask));
    checkPacked(a, 2);
  }
}

// S-bias: what has an element a head has one a row here.
TEST(Packed, CapturedOperandsOfEveryKind) {
  forEveryCapture(ofGroups("softmax", 5, 70),
                  [](const Attention &a) { checkPacked(a); });
}

// Epilogues run where rows are packed, and where they are added up.
TEST(Packed, Epilogues) {
  for (Gate gate : {Gate::Full, Gate::Rows, Gate::Columns, Gate::Scalar}) {
    Attention a = ofGroups("gate", 5, 40);
    a.gate = gate;
    SCOPED_TRACE(int(gate));
    checkPacked(a);
  }
}

// S-empty: lengths of each sequence, down to none.
TEST(Packed, LengthsOfEachSequence) {
  for (const char *score : {"sigmoid", "softmax"}) {
    Attention a = ofGroups(score, 20, 90);
    a.mask = Mask::Causal;
    a.batch = 5;
    a.queryLengths = {20, 0, 17, 3, 1};
    a.keyLengths = {90, 90, 0, 61, 35};
    a.lse = a.score.activation.empty();
    checkPacked(a);
  }
}

// What the cost model makes for few queries is right for all sizes: for few
// and many keys, and for more queries than a block has.
TEST(Split, TheScheduleForFewQueries) {
  for (const char *score : {"sigmoid", "softmax"})
    for (auto [queries, keys] :
         {std::pair<int64_t, int64_t>(2, 63), {2, 1100}, {70, 300}}) {
      Attention a = ofHalves(score, int(queries), int(keys));
      a.mask = Mask::Causal;
      a.lse = a.score.activation.empty();
      Problem problem = a.build();
      for (Target target : {Target::CPU, Target::SM90a}) {
        RunOptions options;
        options.target = target;
        options.schedule = "few_queries";
        check(problem, options);
      }
    }
}

// The same for few rows of queries in all, with and without a mask.
TEST(Split, TheScheduleForFewItems) {
  for (const char *score : {"sigmoid", "softmax", "relu"})
    for (Mask mask : {Mask::None, Mask::Causal, Mask::Window}) {
      Attention a = ofHalves(score, 150, 210);
      a.mask = mask;
      a.dim = 72;
      a.lse = a.score.activation.empty();
      SCOPED_TRACE(score);
      RunOptions options;
      options.target = Target::SM90a;
      options.schedule = "few_items";
      Problem problem = a.build();
      check(problem, options);
    }
}

} // namespace
