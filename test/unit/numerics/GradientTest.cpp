//===- GradientTest.cpp - Gradients against the oracle, and it ------------===//

#include "test/unit/numerics/Attention.h"
#include "test/unit/numerics/RegionGenerator.h"

#include "gtest/gtest.h"

#include <cmath>

using namespace attnc;
using namespace attnc::numerics;

namespace {

void checkBoth(const Attention &attention) {
  Problem problem = attention.build();
  checkGradients(problem);
  if (attention.dtype == Dtype::F32)
    return;
  RunOptions gpu;
  gpu.target = Target::SM90a;
  checkGradients(problem, gpu);
}

Attention make(const std::string &score) {
  Attention a;
  a.score = getScore(score);
  a.gradients = true;
  return a;
}

//===----------------------------------------------------------------------===//
// The oracle's gradients are those of the oracle's forward
//===----------------------------------------------------------------------===//

/// sum dO . o for parameters moved by `step` along `direction`.
double moved(const Attention &a, const std::string &name, double step,
             const std::vector<double> &direction,
             const std::vector<double> &doutput,
             const std::vector<double> &dlse) {
  Problem problem = a.build();
  for (Parameter &parameter : problem.parameters) {
    if (parameter.name != name)
      continue;
    if (auto *scalar = std::get_if<float>(&parameter.value)) {
      *scalar += step * direction[0];
      continue;
    }
    Buffer &buffer = std::get<Buffer>(parameter.value);
    for (int64_t k = 0; k < buffer.count(); ++k)
      buffer.set(k, buffer.get(k) + step * direction[k]);
  }
  auto output = evaluate(problem, oracle::Precision::Exact, std::nullopt);
  double sum = 0;
  for (size_t k = 0; k < doutput.size(); ++k)
    sum += doutput[k] * output[a.score.hasEpilogue() ? 1 : 0].data[k];
  for (size_t k = 0; k < dlse.size(); ++k)
    sum += dlse[k] * output[1].data[k];
  return sum;
}

/// Compares the oracle's gradient with central differences.
void checkByDifferences(Attention a, const std::string &name) {
  a.gradients = true;
  a.wanted = {name};
  a.queries = 9;
  a.keys = 11;
  a.dim = a.valueDim = 8;
  SCOPED_TRACE(a.score.name + " " + name);
  Problem problem = a.build();
  std::vector<double> doutput, dlse;
  auto gradients =
      differentiate(problem, oracle::Precision::Exact, &doutput, &dlse);
  ASSERT_EQ(gradients.size(), 1u);
  std::mt19937 random(7);
  std::vector<double> direction(gradients[0].data.size());
  double slope = 0;
  for (size_t k = 0; k < direction.size(); ++k) {
    direction[k] = random() % 2 ? 1 : -1;
    slope += direction[k] * gradients[0].data[k];
  }
  // Parameters are f32: a larger step loses less of it.
  const double step = std::ldexp(1, -9);
  double change = moved(a, name, step, direction, doutput, dlse) -
                  moved(a, name, -step, direction, doutput, dlse);
  EXPECT_NEAR(change / (2 * step), slope, 3e-3 * (1 + std::fabs(slope)));
}

TEST(Gradient, OracleAgreesWithDifferences) {
  for (const char *score :
       {"sigmoid", "softmax", "softcap", "silu", "softplus", "polynomial",
        "linear", "cosine", "gaussian", "gate", "rela"})
    for (const char *name : {"q", "k", "v"}) {
      Attention a = make(score);
      a.mask = Mask::Causal;
      checkByDifferences(a, name);
    }
  for (auto [capture, name] :
       {std::pair(Capture::Scalar, "extra"), std::pair(Capture::BH, "table"),
        std::pair(Capture::J, "table"), std::pair(Capture::Diagonal, "table"),
        std::pair(Capture::DiagonalOfHead, "table"),
        std::pair(Capture::DiagonalBuckets, "table"),
        std::pair(Capture::Full, "table"), std::pair(Capture::Alibi, "slopes")})
    for (const char *score : {"sigmoid", "softmax"}) {
      Attention a = make(score);
      a.capture = capture;
      checkByDifferences(a, name);
    }
  checkByDifferences(make("softcap"), "cap");
  checkByDifferences(make("silu"), "weight");
  checkByDifferences(make("gate"), "gate");
  Attention scaled = make("softmax");
  scaled.scale = 0.3;
  checkByDifferences(scaled, "scale");
  for (int statistic : {0, 2}) {
    Attention a = make("rela");
    a.score.statistic = statistic;
    checkByDifferences(a, "v");
  }
  for (const char *name : {"q", "k", "table"}) {
    Attention a = make("softmax");
    a.capture = Capture::J;
    a.lseGradient = true;
    checkByDifferences(a, name);
  }
}

//===----------------------------------------------------------------------===//
// Programs
//===----------------------------------------------------------------------===//

// Every score function, and every mask.
TEST(Gradient, ScoresAndMasks) {
  int count = 0;
  for (const Score &score : getScores())
    for (Mask mask : getMasks()) {
      bool wanted = score.name == "sigmoid" || mask == Mask::Window ||
                    (score.name == "softmax" && mask == Mask::Tensor);
      if (!wanted)
        continue;
      Attention a = make(score.name);
      a.mask = mask;
      a.queries = 70;
      a.keys = 163;
      a.seed = ++count;
      a.dtype = count % 3 ? Dtype::F32 : Dtype::BF16;
      SCOPED_TRACE(a.score.name + " " + getName(mask));
      checkBoth(a);
    }
}

TEST(Gradient, MoreQueriesThanKeys) {
  for (auto [score, mask] : {std::pair("sigmoid", Mask::Causal),
                             std::pair("softmax", Mask::CausalTopLeft),
                             std::pair("softplus", Mask::Window)}) {
    Attention a = make(score);
    a.mask = mask;
    a.queries = 200;
    a.keys = 37;
    checkBoth(a);
  }
}

// S-bias: the sum over the dims that the map drops.
TEST(Gradient, CapturedOperandsOfEveryKind) {
  for (Capture capture :
       {Capture::Scalar, Capture::H, Capture::BH, Capture::I, Capture::J,
        Capture::Pairs, Capture::Full, Capture::Alibi})
    for (const char *score : {"sigmoid", "softmax"}) {
      Attention a = make(score);
      // A softmax does not change with what is the same along a row.
      bool alongRow = capture == Capture::J || capture == Capture::Pairs ||
                      capture == Capture::Full || capture == Capture::Alibi;
      if (!alongRow && a.score.activation.empty())
        continue;
      a.capture = capture;
      a.batch = 2;
      a.queries = 133;
      a.keys = 75;
      // The error of a few sums is luck where it comes from the rounding of a
      // softmax's saved output.
      bool softmax = a.score.activation.empty();
      bool f32 = capture == Capture::Scalar || capture == Capture::I ||
                 (softmax && capture == Capture::Alibi);
      a.dtype = f32                        ? Dtype::F32
                : capture == Capture::Full ? Dtype::F16
                                           : Dtype::BF16;
      a.mask = capture == Capture::Alibi ? Mask::Causal : Mask::None;
      a.wanted = {"q", "v",
                  capture == Capture::Scalar  ? "extra"
                  : capture == Capture::Alibi ? "slopes"
                                              : "table"};
      SCOPED_TRACE(int(capture));
      checkBoth(a);
    }
}

// One element for several heads.
TEST(Gradient, PairsOfGroupsOfHeads) {
  for (int64_t heads : {3, 4}) {
    Attention a = make("sigmoid");
    a.capture = Capture::PairsOfGroups;
    a.wanted = {"table"};
    a.batch = 2;
    a.heads = a.keyHeads = heads;
    a.queries = 70;
    a.keys = 75;
    a.dtype = heads == 4 ? Dtype::BF16 : Dtype::F32;
    SCOPED_TRACE(heads);
    checkBoth(a);
  }
}

// Tables of relative positions: sums along diagonals, of every block that has
// some, and of sequences that end within one.
TEST(Gradient, RelativePositions) {
  int count = 0;
  for (Capture capture :
       {Capture::Diagonal, Capture::DiagonalOfHead, Capture::DiagonalBuckets})
    for (auto [queries, keys] : {std::pair(133, 275), std::pair(330, 70)}) {
      // The error of a small table is luck, above all that of a softmax.
      bool isSmall = capture != Capture::DiagonalOfHead;
      Attention a = make(++count % 2 || isSmall ? "sigmoid" : "softmax");
      a.capture = capture;
      a.batch = 2;
      a.queries = queries;
      a.keys = keys;
      a.wanted = {"q", "table"};
      bool isWhole = count % 3 == 0;
      if (!isWhole) {
        a.queryLengths = {queries, 31};
        a.keyLengths = {17, keys};
      }
      a.mask = isWhole ? Mask::None : Mask::Causal;
      a.dtype = isSmall ? Dtype::F32 : Dtype::BF16;
      SCOPED_TRACE(std::to_string(int(capture)) + " " +
                   std::to_string(queries));
      checkBoth(a);
    }
}

// Rounding errors cancel in a long sum, so that those of a formula would show.
TEST(Gradient, SumsOverManyPositions) {
  for (auto [score, name] :
       {std::pair("sigmoid", "bias"), std::pair("softplus", "extra")}) {
    Attention a = make(score);
    if (std::string(name) == "extra")
      a.capture = Capture::Scalar;
    a.wanted = {name};
    a.dtype = Dtype::BF16;
    a.queries = a.keys = 400;
    SCOPED_TRACE(score);
    checkBoth(a);
  }
}

// The output before the epilogue is handed over, as it is stored.
TEST(Gradient, Epilogues) {
  for (const char *base : {"sigmoid", "softmax", "softplus"})
    for (Gate gate :
         {Gate::Full, Gate::Rows, Gate::Columns, Gate::Shared, Gate::Scalar}) {
      bool isFull = gate == Gate::Full;
      if (std::string(base) != "sigmoid" && !isFull)
        continue;
      Attention a = make(base);
      a.score.gate = true;
      a.gate = gate;
      a.wanted = {"q", "k", "v", "gate"};
      a.batch = 2;
      a.heads = isFull ? 4 : 2;
      a.queries = 140;
      a.keys = 60;
      a.dim = 24;
      a.valueDim = 80;
      a.bshd = gate == Gate::Shared;
      // Of many elements; the error of a few is luck.
      a.dtype = isFull || gate == Gate::Shared ? Dtype::BF16 : Dtype::F32;
      if (isFull)
        a.queryLengths = {140, 77};
      SCOPED_TRACE(a.score.name + std::to_string(int(gate)));
      checkBoth(a);
    }
}

// What an epilogue reads of a row.
TEST(Gradient, RowStatistics) {
  for (int statistic : {0, 1, 2})
    for (const char *base : {"sigmoid", "softmax"}) {
      if (statistic == 2 && base[1] == 'o')
        continue;
      Attention a = make(base);
      a.score.rmsNorm = true;
      a.score.statistic = statistic;
      a.batch = 2;
      a.queries = 140;
      a.keys = 60;
      a.dim = 24;
      a.valueDim = 80;
      a.bshd = statistic == 0;
      bool isHalf = base[1] == 'i';
      a.dtype = isHalf ? Dtype::BF16 : Dtype::F32;
      if (isHalf)
        a.queryLengths = {140, 77};
      SCOPED_TRACE(a.score.name + std::to_string(statistic));
      checkBoth(a);
    }
}

// The LSE is a result like the output: what a sink outside makes of it.
TEST(Gradient, ThroughTheLse) {
  for (Mask mask : {Mask::None, Mask::Document}) {
    Attention a = make("softmax");
    a.lseGradient = true;
    a.mask = mask;
    a.capture = Capture::Full;
    a.wanted = {"q", "k", "v", "table"};
    a.queries = a.keys = 130;
    a.dtype = mask == Mask::None ? Dtype::BF16 : Dtype::F32;
    checkBoth(a);
  }
}

TEST(Gradient, Scales) {
  for (const char *score : {"sigmoid", "softmax", "softcap"}) {
    Attention a = make(score);
    a.scale = 0.3;
    a.wanted = {"q", "k", "scale"};
    a.mask = Mask::Causal;
    a.queries = 70;
    SCOPED_TRACE(score);
    checkBoth(a);
  }
}

// Scalars that a region uses directly.
TEST(Gradient, ScalarsOfRegions) {
  for (auto [score, name] :
       {std::pair("softcap", "cap"), std::pair("silu", "weight"),
        std::pair("sigmoid", "bias")}) {
    Attention a = make(score);
    a.wanted = {name};
    a.queries = a.keys = 150;
    SCOPED_TRACE(score);
    checkBoth(a);
  }
}

// S-gqa: the heads of a group add up.
TEST(Gradient, GroupedHeadsInBothLayoutsAndStridedViews) {
  for (bool bshd : {false, true})
    for (int64_t gap : {0, 5}) {
      Attention a = make(bshd ? "sigmoid" : "softmax");
      a.heads = gap ? 6 : 4;
      a.keyHeads = gap ? 2 : 1;
      a.bshd = bshd;
      a.gap = gap;
      a.batch = 2;
      a.queries = 40;
      a.keys = 50;
      a.dim = 24;
      a.valueDim = 40;
      a.dtype = gap ? Dtype::BF16 : Dtype::F32;
      checkBoth(a);
    }
}

TEST(Gradient, HeadDims) {
  int count = 0;
  for (auto [dim, valueDim] :
       {std::pair<int, int>(1, 1), std::pair<int, int>(7, 8),
        std::pair<int, int>(111, 80), std::pair<int, int>(128, 128),
        std::pair<int, int>(256, 256)}) {
    Attention a = make(++count % 2 ? "sigmoid" : "softmax");
    a.dim = dim;
    a.valueDim = valueDim;
    a.queries = 50;
    a.keys = 70;
    a.mask = Mask::Causal;
    a.dtype = count % 3 ? Dtype::F32 : Dtype::F16;
    SCOPED_TRACE(dim);
    checkBoth(a);
  }
}

// S-runtime
TEST(Gradient, ScaleIsARunTimeScalar) {
  for (float scale : {0.5f, -0.7f, 0.0f})
    for (const char *score : {"sigmoid", "softmax"}) {
      // With scale 0 all weights are one number: its rounding is luck.
      if (scale == 0 && score[1] == 'o')
        continue;
      Attention a = make(score);
      a.scale = scale;
      a.dim = 16;
      checkBoth(a);
    }
}

// S-beyond, S-mask-zero: NaN lies beyond each length, in the operands and in
// the gradient of the output; what belongs to it is exactly 0.
TEST(Gradient, LengthsOfEachSequence) {
  for (const char *score : {"sigmoid", "softmax", "softplus"})
    for (Mask mask : {Mask::None, Mask::Causal, Mask::Window}) {
      Attention a = make(score);
      if (score[1] != 'i' && mask != Mask::Causal)
        continue;
      a.mask = mask;
      a.batch = 5;
      a.queries = 80;
      a.keys = 90;
      a.queryLengths = {80, 0, 17, 33, 64};
      a.keyLengths = {90, 90, 0, 31, 65};
      a.bshd = mask == Mask::Causal;
      a.dtype = mask == Mask::Window ? Dtype::BF16 : Dtype::F32;
      a.capture = Capture::J;
      a.wanted = {"q", "k", "v", "table"};
      SCOPED_TRACE(score);
      checkBoth(a);
      Problem problem = a.build();
      auto results = runGradients(problem);
      ASSERT_EQ(results.size(), 4u);
      for (int which : {0, 1, 2})
        for (size_t k = 0; k < results[which].data.size(); ++k) {
          int64_t rows = which ? a.keys : a.queries;
          int64_t outer = k / 32, b = outer / (2 * rows);
          int64_t row = a.bshd ? outer / 2 % rows : outer % rows;
          if (row >= (which ? a.keyLengths : a.queryLengths)[b])
            ASSERT_EQ(results[which].data[k], 0) << which << " " << row;
        }
    }
}

// S-empty
TEST(Gradient, ZeroSizes) {
  for (const char *score : {"sigmoid", "softmax", "softplus"})
    for (int zero = 0; zero < 4; ++zero) {
      Attention a = make(score);
      a.queries = zero == 0 ? 0 : 9;
      a.keys = zero == 1 ? 0 : 9;
      a.batch = zero == 2 ? 0 : 2;
      if (zero == 3)
        a.heads = a.keyHeads = 0;
      a.capture = Capture::Scalar;
      a.wanted = {"q", "k", "v", "extra"};
      SCOPED_TRACE(zero);
      Problem problem = a.build();
      auto results = runGradients(problem);
      ASSERT_EQ(results.size(), 4u);
      for (const Result &result : results)
        for (double x : result.data)
          EXPECT_EQ(x, 0);
    }
}

// S-mask-zero: a row without keys has gradient 0, never NaN; keys that no
// query attends too.
TEST(Gradient, FullyMaskedRowsAndKeys) {
  for (const char *score : {"sigmoid", "softmax", "softplus", "softcap"}) {
    Attention a = make(score);
    a.mask = Mask::Document;
    a.queries = a.keys = 70;
    checkBoth(a);
    Problem problem = a.build();
    auto results = runGradients(problem);
    ASSERT_EQ(results.size(), 3u);
    // The first three queries and keys belong to no document.
    for (const Result &result : results)
      for (int64_t k = 0; k < 3 * 32; ++k)
        EXPECT_EQ(result.data[k], 0);
  }
}

// With one key the gradients of a softmax's logits are 0, up to rounding.
TEST(Gradient, SoftmaxOfOneKey) {
  Attention a = make("softmax");
  a.keys = 1;
  Problem problem = a.build();
  auto results = runGradients(problem);
  ASSERT_EQ(results.size(), 3u);
  for (int which : {0, 1})
    for (double x : results[which].data)
      EXPECT_LT(std::fabs(x), 1e-3);
}

// A-f32, A-half
void checkGrid(const std::string &score, Dtype dtype) {
  double worst = 0;
  for (int64_t n : {1, 17, 127, 300})
    for (double std : {1., 2., 4.})
      for (bool tails : {false, true}) {
        bool isSoftmax = score == "softmax";
        // The long ones take seconds; few saturated weights are luck.
        if ((std == 4 && tails) || (n > 127 && tails != (std == 2)) ||
            (n == 1 && isSoftmax))
          continue;
        Attention a = make(score);
        a.dtype = dtype;
        // Where tails are heavy a few rows make the error: take more of them.
        a.heads = a.keyHeads = std::max<int64_t>(1, 512 / n);
        a.queries = a.keys = n;
        a.dim = a.valueDim = 64;
        a.std = std;
        a.valueMean = std == 2;
        a.heavyTails = tails;
        a.seed = 1 + n;
        SCOPED_TRACE(testing::Message() << score << " n " << n << " std " << std
                                        << " tails " << tails);
        Problem problem = a.build();
        worst = std::max(worst, checkGradients(problem));
        if (dtype == Dtype::F32 || std != 2)
          continue;
        RunOptions gpu;
        gpu.target = Target::SM90a;
        worst = std::max(worst, checkGradients(problem, gpu));
      }
  std::printf("  worst error over its bound: %.3f\n", worst);
}

TEST(Gradient, SigmoidF32) { checkGrid("sigmoid", Dtype::F32); }
TEST(Gradient, SoftmaxF32) { checkGrid("softmax", Dtype::F32); }
TEST(Gradient, SigmoidBf16) { checkGrid("sigmoid", Dtype::BF16); }
TEST(Gradient, SoftmaxBf16) { checkGrid("softmax", Dtype::BF16); }
TEST(Gradient, SigmoidF16) { checkGrid("sigmoid", Dtype::F16); }
TEST(Gradient, SoftmaxF16) { checkGrid("softmax", Dtype::F16); }

TEST(Gradient, LongSequences) {
  for (const char *score : {"sigmoid", "softmax"}) {
    Attention a = make(score);
    a.dtype = Dtype::BF16;
    a.queries = a.keys = 1200;
    a.heads = a.keyHeads = 1;
    a.mask = Mask::Causal;
    Problem problem = a.build();
    checkGradients(problem);
  }
}

TEST(Gradient, RandomRegionsMasksAndHeadDims) {
  const unsigned seed = 20261127;
  std::printf("  seed %u\n", seed);
  std::mt19937 random(seed);
  RegionGenerator regions(random);
  for (int k = 0; k < 6; ++k) {
    const char *scores[] = {"sigmoid", "softmax", "linear", "softplus"};
    Attention a = make(scores[random() % 4]);
    a.randomModifier = regions.generate();
    a.mask = getMasks()[random() % getMasks().size()];
    a.dim = 1 + random() % 128;
    a.valueDim = random() % 2 ? a.dim : 1 + random() % 128;
    a.batch = 1 + random() % 2;
    a.keyHeads = 1 + random() % 2;
    a.heads = a.keyHeads * (1 + random() % 3);
    a.queries = 1 + random() % 90;
    a.keys = 1 + random() % 90;
    a.bshd = random() % 2;
    Dtype dtypes[] = {Dtype::F32, Dtype::F16, Dtype::BF16};
    a.dtype = dtypes[random() % 3];
    a.seed = random();
    SCOPED_TRACE(testing::Message() << "problem " << k);
    checkBoth(a);
  }
}

// S-bits
TEST(Gradient, TwoRunsAreBitIdentical) {
  for (const char *score : {"sigmoid", "softmax", "softplus"}) {
    Attention a = make(score);
    a.queries = a.keys = 300;
    a.heads = 4;
    a.keyHeads = 2;
    a.mask = Mask::Causal;
    a.capture = Capture::Scalar;
    a.wanted = {"q", "k", "v", "extra"};
    Problem problem = a.build();
    auto first = runGradients(problem), again = runGradients(problem);
    ASSERT_EQ(first.size(), again.size());
    for (size_t k = 0; k < first.size(); ++k)
      EXPECT_EQ(first[k].data, again[k].data);
  }
}

} // namespace
