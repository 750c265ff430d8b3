//===- SemanticsTest.cpp - Every feature of semantics.md, run -------------===//

#include "test/unit/numerics/Attention.h"

#include "gtest/gtest.h"

#include <cmath>

using namespace attnc;
using namespace attnc::numerics;

namespace {

constexpr double kInf = HUGE_VAL;

RunOptions onTarget(Target target) {
  RunOptions options;
  options.target = target;
  return options;
}

void checkBoth(const Attention &attention) {
  Problem problem = attention.build();
  check(problem);
  if (attention.dtype != Dtype::F32)
    check(problem, onTarget(Target::SM90a));
}

//===----------------------------------------------------------------------===//
// Score functions and masks
//===----------------------------------------------------------------------===//

class EveryScore : public testing::TestWithParam<int> {};

// S-causal, S-window, S-bool, S-slots: every mask with every score function.
TEST_P(EveryScore, WithEveryMask) {
  for (Mask mask : getMasks()) {
    Attention a;
    a.score = getScores()[GetParam()];
    a.mask = mask;
    a.queries = 70;
    a.keys = 83;
    a.seed = 10 + GetParam();
    // Both types for each function; which one depends on the mask.
    a.dtype = (int(mask) + GetParam()) % 2 ? Dtype::BF16 : Dtype::F32;
    SCOPED_TRACE(a.score.name + " " + getName(mask));
    checkBoth(a);
  }
}

INSTANTIATE_TEST_SUITE_P(Semantics, EveryScore,
                         testing::Range(0, int(getScores().size())),
                         [](const testing::TestParamInfo<int> &info) {
                           return getScores()[info.param].name;
                         });

// S-causal: where there are more queries than keys, the first have none.
TEST(Semantics, MoreQueriesThanKeys) {
  for (const char *score : {"sigmoid", "softmax", "softplus"})
    for (Mask mask : {Mask::Causal, Mask::CausalTopLeft, Mask::Window}) {
      Attention a;
      a.score = getScore(score);
      a.mask = mask;
      a.queries = 100;
      a.keys = 37;
      a.dtype = mask == Mask::Window ? Dtype::F32 : Dtype::BF16;
      a.lse = a.score.activation.empty();
      checkBoth(a);
    }
}

//===----------------------------------------------------------------------===//
// Captured operands, layouts, heads
//===----------------------------------------------------------------------===//

// S-bias, S-alibi, S-runtime
TEST(Semantics, CapturedOperandsOfEveryKind) {
  for (Capture capture :
       {Capture::Scalar, Capture::H, Capture::BH, Capture::I, Capture::J,
        Capture::Diagonal, Capture::Full, Capture::Alibi})
    for (const char *score : {"sigmoid", "softmax"}) {
      Attention a;
      a.score = getScore(score);
      a.capture = capture;
      a.batch = 2;
      a.queries = 33;
      a.keys = 47;
      // A half type runs with the schedules of both targets.
      a.dtype = capture == Capture::Full ? Dtype::F16
                : a.score.lengthBias     ? Dtype::BF16
                                         : Dtype::F32;
      a.mask = capture == Capture::Alibi ? Mask::Causal : Mask::None;
      SCOPED_TRACE(int(capture));
      checkBoth(a);
    }
}

// S-gqa
TEST(Semantics, GroupedHeadsInBothLayoutsAndStridedViews) {
  for (auto [heads, keyHeads] :
       {std::pair<int, int>(6, 2), std::pair<int, int>(4, 1)})
    for (bool bshd : {false, true})
      for (int64_t gap : {0, 5}) {
        Attention a;
        a.score = getScore(bshd ? "sigmoid" : "softmax");
        a.heads = heads;
        a.keyHeads = keyHeads;
        a.bshd = bshd;
        a.gap = gap;
        a.batch = 2;
        a.queries = 40;
        a.keys = 50;
        a.dim = 24;
        a.valueDim = 40;
        a.dtype = gap ? Dtype::BF16 : Dtype::F32;
        a.lse = !bshd;
        checkBoth(a);
      }
}

// A schedule for clusters changes who copies, not what a block of queries does.
TEST(Semantics, SchedulesOfClusters) {
  for (Mask mask : {Mask::None, Mask::Causal, Mask::Window}) {
    Attention a;
    a.score = getScore(mask == Mask::Causal ? "softmax" : "sigmoid");
    a.mask = mask;
    a.queries = 300;
    a.keys = 330;
    a.heads = a.keyHeads = 1;
    a.dtype = Dtype::BF16;
    RunOptions options = onTarget(Target::SM90a);
    options.schedule = "block_m=128,block_n=64,consumers=2,stages=2,"
                       "order=overlap,cluster=2";
    SCOPED_TRACE(getName(mask));
    Problem problem = a.build();
    check(problem, options);
  }
}

// S-runtime: another scale needs no other program, and may be negative.
TEST(Semantics, ScaleIsARunTimeScalar) {
  for (float scale : {0.5f, -0.7f, 0.0f})
    for (const char *score : {"sigmoid", "softmax"}) {
      Attention a;
      a.score = getScore(score);
      a.scale = scale;
      a.dim = 16;
      checkBoth(a);
    }
}

TEST(Semantics, HeadDims) {
  int count = 0;
  for (auto [dim, valueDim] :
       {std::pair<int, int>(1, 1), std::pair<int, int>(2, 3),
        std::pair<int, int>(7, 8), std::pair<int, int>(31, 31),
        std::pair<int, int>(40, 40), std::pair<int, int>(59, 64),
        std::pair<int, int>(96, 96), std::pair<int, int>(111, 80),
        std::pair<int, int>(128, 128), std::pair<int, int>(192, 128),
        std::pair<int, int>(255, 255), std::pair<int, int>(256, 256)}) {
    Attention a;
    a.score = getScore(++count % 2 ? "sigmoid" : "softmax");
    a.dim = dim;
    a.valueDim = valueDim;
    a.queries = 50;
    a.keys = 70;
    a.mask = Mask::Causal;
    a.dtype = count % 3 ? Dtype::BF16 : Dtype::F32;
    SCOPED_TRACE(dim);
    checkBoth(a);
  }
}

//===----------------------------------------------------------------------===//
// Lengths
//===----------------------------------------------------------------------===//

// S-beyond, S-empty: NaN lies beyond each sequence's length.
TEST(Semantics, LengthsOfEachSequence) {
  for (const char *score : {"sigmoid", "softmax", "softplus", "rela", "gate"})
    for (Mask mask : {Mask::None, Mask::Causal, Mask::Window}) {
      Attention a;
      a.score = getScore(score);
      a.mask = mask;
      a.batch = 5;
      a.queries = 80;
      a.keys = 90;
      a.queryLengths = {80, 0, 17, 33, 64};
      a.keyLengths = {90, 90, 0, 31, 65};
      a.bshd = mask == Mask::Causal;
      a.lse = a.score.activation.empty();
      a.dtype = mask == Mask::Window ? Dtype::BF16 : Dtype::F32;
      SCOPED_TRACE(score);
      checkBoth(a);
    }
}

// S-empty
TEST(Semantics, ZeroSizes) {
  for (const char *score : {"sigmoid", "softmax"})
    for (int zero = 0; zero < 4; ++zero) {
      Attention a;
      a.score = getScore(score);
      a.queries = zero == 0 ? 0 : 9;
      a.keys = zero == 1 ? 0 : 9;
      a.batch = zero == 2 ? 0 : 2;
      if (zero == 3)
        a.heads = a.keyHeads = 0;
      SCOPED_TRACE(zero);
      Problem problem = a.build();
      std::vector<int64_t> shape = {a.batch, a.heads, a.queries, 32};
      auto results = run(problem, {}, {shape});
      ASSERT_EQ(results.size(), 1u);
      for (double x : results[0].data)
        EXPECT_EQ(x, 0);
    }
}

//===----------------------------------------------------------------------===//
// Rows without keys, infinities, NaN
//===----------------------------------------------------------------------===//

// S-mask-zero, S-lse: exactly 0 and -inf, whatever the function.
TEST(Semantics, RowsWithoutKeysAreExactlyZero) {
  for (const Score &score : getScores())
    for (Target target : {Target::CPU, Target::SM90a}) {
      Attention a;
      a.score = score;
      a.mask = Mask::Document; // the first three queries have no key
      a.dtype = Dtype::BF16;
      a.lse = score.activation.empty();
      Problem problem = a.build();
      std::vector<std::vector<int64_t>> shapes = {{1, 2, 65, 32}};
      if (a.lse)
        shapes.push_back({1, 2, 65});
      auto results = run(problem, onTarget(target), shapes);
      ASSERT_EQ(results.size(), shapes.size());
      for (int64_t h = 0; h < 2; ++h)
        for (int64_t k = 0; k < 3 * 32; ++k)
          ASSERT_EQ(results[0].data[h * 65 * 32 + k], 0) << score.name;
      if (a.lse)
        for (int64_t i = 0; i < 3; ++i)
          ASSERT_EQ(results[1].data[i], -kInf) << score.name;
    }
}

/// Fills a float bias of every (i, j).
Problem withFullBias(Attention &a, std::function<double(int64_t)> value) {
  a.capture = Capture::Full;
  Problem problem = a.build();
  for (Parameter &parameter : problem.parameters)
    if (parameter.name == "table") {
      Buffer &table = std::get<Buffer>(parameter.value);
      for (int64_t k = 0; k < table.count(); ++k)
        table.set(k, value(k));
    }
  return problem;
}

// S-bool: a float mask is added to the logit; -inf removes the key.
TEST(Semantics, MinusInfinityInABiasRemovesTheKey) {
  for (const char *score : {"sigmoid", "softmax"}) {
    Attention a;
    a.score = getScore(score);
    a.heads = a.keyHeads = 1;
    a.queries = a.keys = 40;
    a.lse = a.score.activation.empty();
    // Row 2 loses all keys, the others every third.
    Problem problem = withFullBias(
        a, [](int64_t k) { return k / 40 == 2 || k % 3 == 0 ? -kInf : 0.5; });
    check(problem);
    std::vector<std::vector<int64_t>> shapes = {{1, 1, 40, 32}};
    if (a.lse)
      shapes.push_back({1, 1, 40});
    auto results = run(problem, {}, shapes);
    ASSERT_EQ(results.size(), shapes.size());
    for (int64_t d = 0; d < 32; ++d)
      EXPECT_EQ(results[0].data[2 * 32 + d], 0) << score;
  }
}

// Extreme logits: weights saturate, nothing becomes NaN. Far outside the grid
// of A-f32, where two f32 evaluations of one logit already differ by more than
// the weights forgive.
TEST(Semantics, ExtremeLogits) {
  for (const char *score : {"sigmoid", "softmax", "softcap", "silu"}) {
    SCOPED_TRACE(score);
    Attention a;
    a.score = getScore(score);
    a.std = 1000;
    Problem problem = a.build();
    auto results = run(problem, {}, {{1, 2, 65, 32}});
    ASSERT_EQ(results.size(), 1u);
    for (double x : results[0].data)
      ASSERT_TRUE(std::isfinite(x));
    a.dtype = Dtype::BF16;
    a.std = 30;
    checkBoth(a);
  }
}

// S-beyond: a NaN in a row of K or V that a mask removes inside the length
// stays in the rows that may not see it; keys beyond the causal diagonal of a
// whole block are not even read.
TEST(Semantics, NanBehindTheCausalDiagonalOfABlockIsNotRead) {
  Attention a;
  a.score = getScore("sigmoid");
  a.mask = Mask::Causal;
  a.queries = a.keys = 600;
  a.heads = a.keyHeads = 1;
  Problem problem = a.build();
  auto clean = run(problem, {}, {{1, 1, 600, 32}});
  for (const char *name : {"k", "v"})
    for (Parameter &parameter : problem.parameters)
      if (parameter.name == name)
        std::get<Buffer>(parameter.value).set(599 * 32 + 3, NAN);
  auto poisoned = run(problem, {}, {{1, 1, 600, 32}});
  ASSERT_EQ(poisoned.size(), 1u);
  for (int64_t k = 0; k < 256 * 32; ++k)
    ASSERT_EQ(poisoned[0].data[k], clean[0].data[k]);
}

// S-round: a weight between two bf16 numbers is rounded once, to nearest.
TEST(Semantics, WeightsAreRoundedOnceToTheTypeOfV) {
  for (Target target : {Target::CPU, Target::SM90a}) {
    Attention a;
    a.score = getScore("linear");
    a.score.value = 1;
    a.score.perKey = false;
    a.dtype = Dtype::BF16;
    a.heads = a.keyHeads = 1;
    a.queries = 1;
    a.keys = 1;
    a.dim = 2;
    a.valueDim = 1;
    a.scale = 1.0f;
    Problem problem = a.build();
    Buffer &q = std::get<Buffer>(problem.parameters[0].value);
    Buffer &k = std::get<Buffer>(problem.parameters[1].value);
    std::get<Buffer>(problem.parameters[2].value).set(0, 1);
    k.set(0, 1);
    k.set(1, 1);
    q.set(0, 1);
    for (auto [low, rounded] :
         {std::pair<double, double>(0x1p-8, 1),
          std::pair<double, double>(0x1.8p-8, 1 + 0x1p-7),
          std::pair<double, double>(0x1.8p-7, 1 + 0x1p-6)}) {
      q.set(1, low);
      auto results = run(problem, onTarget(target), {{1, 1, 1, 1}});
      ASSERT_EQ(results.size(), 1u);
      EXPECT_EQ(results[0].data[0], rounded);
    }
  }
}

// A second test of A-half: the output rounded once more, and nothing else.
TEST(Semantics, HalfOutputsAreTheF32OutputsRoundedOnce) {
  for (Dtype dtype : {Dtype::BF16, Dtype::F16}) {
    Attention a;
    a.score = getScore("sigmoid");
    a.dtype = dtype;
    Problem wide = a.build(), narrow = a.build();
    size_t at = narrow.head.find("!o = tensor<?x?x?x32xf32>");
    ASSERT_NE(at, std::string::npos);
    narrow.head.replace(
        at, 25, std::string("!o = tensor<?x?x?x32x") + getName(dtype) + ">");
    narrow.resultType = dtype;
    auto exactly = run(wide, {}, {{1, 2, 65, 32}});
    auto rounded = run(narrow, {}, {{1, 2, 65, 32}});
    ASSERT_EQ(exactly.size(), 1u);
    ASSERT_EQ(rounded.size(), 1u);
    Buffer once = Buffer::make(dtype, {1});
    for (size_t k = 0; k < exactly[0].data.size(); ++k) {
      once.set(0, exactly[0].data[k]);
      ASSERT_EQ(rounded[0].data[k], once.get(0));
    }
  }
}

} // namespace
