//===- Suggest.cpp - What was meant by a mistyped word --------------------===//

#include "lib/Support/Suggest.h"

#include <algorithm>

using namespace attnc;
using namespace llvm;

StringRef attnc::nearest(StringRef word, ArrayRef<StringRef> candidates) {
  StringRef best;
  // Two letters that changed places are two edits: even of four, then.
  unsigned least = (word.size() + 2) / 3 + 1;
  for (StringRef candidate : candidates) {
    unsigned distance = word.edit_distance(candidate, true, least);
    if (distance < least) {
      least = distance;
      best = candidate;
    }
  }
  return best;
}

std::string attnc::didYouMean(StringRef word, ArrayRef<StringRef> candidates) {
  StringRef best = nearest(word, candidates);
  return best.empty() ? "" : "; did you mean '" + best.str() + "'?";
}
