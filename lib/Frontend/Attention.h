//===- Attention.h - Attention as IR, from a description --------*- C++ -*-===//
//
// Writes the steps of the textbook, one op each, with comments. What a score
// function is stands in one table row. `attnc gen` and the C interface share
// it.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_LIB_FRONTEND_ATTENTION_H
#define ATTNC_LIB_FRONTEND_ATTENTION_H

#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace attnc {

/// What `attnc gen` takes as flags. Sizes that are not given are run-time
/// sizes.
struct AttentionDescription {
  std::string score = "sigmoid";
  /// Empty: what is usual for the score function.
  std::string bias;
  std::string dtype = "f32";
  /// Empty: as `dtype`.
  std::string outDtype;
  std::string layout = "bhsd";
  /// bottom_right or top_left; empty: not causal.
  std::string causal;
  /// "L,R", what `attnc run` passes; empty: no window.
  std::string window;
  /// Of documents, dilated[:STRIDE] and tensor.
  std::vector<std::string> masks;
  std::optional<int64_t> headDim, valueHeadDim, heads, kvHeads, batch, seq,
      kvSeq;
  bool gate = false, alibi = false, qLen = false, kvLen = false, lse = false,
       scale = false;
  /// "operands" or "all": the function is to be its own gradient; empty: not.
  std::string backward;
};

/// The names that `score` may have.
llvm::SmallVector<llvm::StringRef> scoreNames();

/// The flags of `attnc gen` for a description, each after a space, in the
/// order of its help.
std::string flagsOf(const AttentionDescription &description);

/// The description of a program for all sizes: only those stay that the IR
/// cannot do without.
AttentionDescription withoutSizes(const AttentionDescription &description);

/// The IR. `flags` is what its comment says it was written from; errors name
/// the part of the description behind `prefix`: "--kv-heads" behind "--",
/// else "attention.kv_heads" behind "attention.".
llvm::Expected<std::string> writeAttention(AttentionDescription description,
                                           llvm::StringRef flags,
                                           llvm::StringRef prefix = "--");

} // namespace attnc

#endif // ATTNC_LIB_FRONTEND_ATTENTION_H
