//===- Attention.h - Problems of every kind ---------------------*- C++ -*-===//

#ifndef ATTNC_TEST_UNIT_NUMERICS_ATTENTION_H
#define ATTNC_TEST_UNIT_NUMERICS_ATTENTION_H

#include "test/unit/numerics/Numerics.h"

namespace attnc::numerics {

/// How logits become weights: region bodies of %s and %x that define %y and
/// %p. Without activation: softmax.
struct Score {
  std::string name;
  std::string modifier, activation;
  std::string normalize;
  /// A run-time scalar that the regions may use; `perKey` is divided by the
  /// number of keys.
  std::string scalar;
  double value = 0;
  bool perKey = false;
  /// attn.row_norm kind that the modifier gets as %qn and %kn; no scale then.
  std::string rowNorm;
  bool rmsNorm = false, gate = false;
  /// The row statistic that `rmsNorm` divides by a function of: mean, mean
  /// square or the largest absolute value.
  int statistic = 1;
  bool hasEpilogue() const { return rmsNorm || gate; }
  /// A scalar bias of -ln(keys).
  bool lengthBias = false;
};

/// The score functions that the project ships.
const std::vector<Score> &getScores();
const Score &getScore(const std::string &name);

enum class Mask {
  None,
  Causal,
  CausalTopLeft,
  Window,
  Document,
  Dilated,
  Tensor,
  Predicate,
  CausalAndWindow
};
const std::vector<Mask> &getMasks();
const char *getName(Mask mask);

/// A captured operand that is added to the logits: the dims it has.
enum class Capture {
  None,
  Scalar,
  H,
  BH,
  I,
  J,
  Diagonal,
  DiagonalOfHead,
  DiagonalBuckets,
  Pairs,
  PairsOfGroups,
  Full,
  Alibi
};

/// What an epilogue's gate has an element for.
enum class Gate { Full, Rows, Columns, Shared, Scalar };

struct Attention {
  int64_t batch = 1, heads = 2, keyHeads = 2;
  int64_t queries = 65, keys = 65;
  int64_t dim = 32, valueDim = 32;
  Dtype dtype = Dtype::F32;
  bool bshd = false;
  /// Elements between rows and heads that belong to nobody.
  int64_t gap = 0;
  Score score;
  Mask mask = Mask::None;
  Capture capture = Capture::None;
  Gate gate = Gate::Full;
  /// Empty: the tensor's sizes. NaN lies beyond.
  std::vector<int32_t> queryLengths, keyLengths;
  std::optional<float> scale;
  bool lse = false;
  /// The gradient of the LSE is an operand of the gradients.
  bool lseGradient = false;
  /// For `checkGradients`: the output has the operands' type, and the
  /// parameters named here (none: q, k and v) ask for their gradients.
  bool gradients = false;
  std::vector<std::string> wanted;
  /// Of the data.
  double std = 1, valueMean = 0;
  bool heavyTails = false;
  unsigned seed = 1;
  /// Added to the logits; NaN: the score function's own.
  std::optional<double> bias;
  /// Instead of the score's own: region bodies for a generated test.
  std::string randomModifier;

  Problem build() const;
};

} // namespace attnc::numerics

#endif // ATTNC_TEST_UNIT_NUMERICS_ATTENTION_H
