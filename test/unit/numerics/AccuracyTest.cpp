//===- AccuracyTest.cpp - A-f32 and A-half over the input grid ------------===//

#include "test/unit/numerics/Attention.h"

#include "gtest/gtest.h"

#include <array>
#include <cmath>

using namespace attnc;
using namespace attnc::numerics;

namespace {

struct Grid {
  int64_t n;
  bool zeroBias;
  double std, valueMean;
  bool heavyTails;
  unsigned seed;
};

/// All of semantics.md's inputs up to `n` = 2048, and a few at 8192.
std::vector<Grid> makeGrid() {
  std::vector<Grid> grid;
  for (int64_t n : {1, 17, 127, 1023, 2048, 8192})
    for (double std : {1., 2., 4.})
      for (double mean : {0., 1.})
        for (bool tails : {false, true})
          for (unsigned seed : {1, 2, 3}) {
            bool zero = (seed + int(std) + int(mean)) % 2;
            // The long ones take seconds: every value of each input, but not
            // every combination.
            if (n >= 2048 && (seed != 1 + unsigned(std) % 3 || tails != zero))
              continue;
            grid.push_back({n, zero, std, mean, tails, seed});
            if (n < 1000)
              grid.push_back({n, !zero, std, mean, tails, seed});
          }
  return grid;
}

Attention makeAttention(const Grid &grid, const std::string &score,
                        Dtype dtype) {
  Attention a;
  a.score = getScore(score);
  a.dtype = dtype;
  // At least 64 rows: the error is a mean over them.
  a.heads = a.keyHeads = std::max<int64_t>(1, 64 / grid.n);
  a.queries = a.keys = grid.n;
  a.dim = a.valueDim = 64;
  a.std = grid.std;
  a.valueMean = grid.valueMean;
  a.heavyTails = grid.heavyTails;
  a.seed = grid.seed;
  if (!a.score.activation.empty())
    a.bias = grid.zeroBias ? 0 : -std::log(double(grid.n));
  return a;
}

/// About 64 rows, the first and the last among them.
std::optional<std::vector<int64_t>> someRows(int64_t n) {
  if (n <= 128)
    return std::nullopt;
  std::vector<int64_t> rows;
  for (int64_t k = 0; k < 64; ++k)
    rows.push_back(k * (n - 1) / 63);
  return rows;
}

void checkGrid(const std::string &score, Dtype dtype, Target target) {
  double worst = 0;
  for (const Grid &grid : makeGrid()) {
    SCOPED_TRACE(testing::Message()
                 << score << " n " << grid.n << " zero bias " << grid.zeroBias
                 << " std " << grid.std << " mean " << grid.valueMean
                 << " tails " << grid.heavyTails << " seed " << grid.seed);
    Problem problem = makeAttention(grid, score, dtype).build();
    RunOptions options;
    options.target = target;
    options.rows = someRows(grid.n);
    worst = std::max(worst, check(problem, options));
  }
  std::printf("  worst error over its bound: %.3f\n", worst);
}

// A-f32
TEST(Accuracy, SigmoidF32) { checkGrid("sigmoid", Dtype::F32, Target::CPU); }
TEST(Accuracy, SoftmaxF32) { checkGrid("softmax", Dtype::F32, Target::CPU); }
// A-half
TEST(Accuracy, SigmoidBf16) { checkGrid("sigmoid", Dtype::BF16, Target::CPU); }
TEST(Accuracy, SoftmaxBf16) { checkGrid("softmax", Dtype::BF16, Target::CPU); }
TEST(Accuracy, SigmoidF16) { checkGrid("sigmoid", Dtype::F16, Target::CPU); }
TEST(Accuracy, SoftmaxF16) { checkGrid("softmax", Dtype::F16, Target::CPU); }
// A-half with the programs of sm_90a, checked formulas included.
TEST(Accuracy, SigmoidBf16WithTheSchedulesOfSm90a) {
  checkGrid("sigmoid", Dtype::BF16, Target::SM90a);
}
TEST(Accuracy, SoftmaxBf16WithTheSchedulesOfSm90a) {
  checkGrid("softmax", Dtype::BF16, Target::SM90a);
}

/// The mean of (p - exact p) / exact p. V is the identity, so the outputs are
/// the weights.
void checkMeanOfWeights(Target target) {
  Attention a;
  a.score = getScore("sigmoid");
  a.dtype = Dtype::BF16;
  a.heads = a.keyHeads = 4;
  a.queries = 512;
  a.keys = a.valueDim = 127;
  a.dim = 64;
  a.bias = -std::log(127.);
  Problem problem = a.build();
  Buffer &value = std::get<Buffer>(problem.parameters[2].value);
  for (int64_t k = 0; k < value.count(); ++k)
    value.set(k, k / 127 % 127 == k % 127);
  auto exact = evaluate(problem, oracle::Precision::Exact, std::nullopt);
  auto model = evaluate(problem, oracle::Precision::Model, std::nullopt);
  RunOptions options;
  options.target = target;
  auto results = run(problem, options, {{1, 4, 512, 127}});
  ASSERT_EQ(results.size(), 1u);
  double mean = 0, modelMean = 0, count = exact[0].data.size();
  for (size_t k = 0; k < count; ++k) {
    double p = exact[0].data[k];
    mean += (results[0].data[k] - p) / p / count;
    modelMean += (model[0].data[k] - p) / p / count;
  }
  // Rounding to bf16 has a relative error of 2^-9 / sqrt(3) and no bias; over
  // 260,000 weights their mean is below 2^-17 with near certainty.
  EXPECT_LT(std::fabs(modelMean), std::ldexp(1, -17));
  EXPECT_LT(std::fabs(mean), std::ldexp(1, -16)) << modelMean;
}

/// Keys whose logits need each formula of a speculation, in runs of all lengths
/// beside those of a slice.
TEST(Accuracy, BlocksOfKeysThatNeedOtherFormulas) {
  std::array<double, 4> factors = {1, 0.1, 30, 4};
  for (int64_t run : {3, 32, 64, 200})
    for (bool zero : {false, true}) {
      Attention a;
      a.score = getScore("sigmoid");
      a.dtype = Dtype::BF16;
      a.queries = 96;
      a.keys = 600;
      a.dim = 64;
      a.bias = zero ? 0 : -std::log(600.);
      a.seed = run;
      Problem problem = a.build();
      Buffer &key = std::get<Buffer>(problem.parameters[1].value);
      for (int64_t k = 0; k < key.count(); ++k)
        key.set(k, key.get(k) * factors[k / a.dim / run % factors.size()]);
      RunOptions options;
      options.target = Target::SM90a;
      check(problem, options);
    }
}

TEST(Accuracy, WeightsHaveNoBias) { checkMeanOfWeights(Target::CPU); }
TEST(Accuracy, WeightsHaveNoBiasWithTheSchedulesOfSm90a) {
  checkMeanOfWeights(Target::SM90a);
}

// S-bits
TEST(Accuracy, TwoRunsAreBitIdentical) {
  for (const char *score : {"sigmoid", "softmax"}) {
    Attention a;
    a.score = getScore(score);
    a.queries = a.keys = 300;
    a.mask = Mask::Causal;
    Problem problem = a.build();
    std::vector<int64_t> shape = {1, 2, 300, 32};
    auto first = run(problem, {}, {shape});
    for (int k = 0; k < 3; ++k) {
      auto again = run(problem, {}, {shape});
      ASSERT_EQ(first.size(), again.size());
      EXPECT_EQ(first[0].data, again[0].data);
    }
  }
}

} // namespace
