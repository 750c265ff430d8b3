//===- Mutate.cpp - Mutations that keep IR looking like IR ----------------===//
//
// Flipped bytes rarely get past a parser. These changes work on the tokens and
// lines of the text instead: most results are read, many are valid, and the
// passes behind the parser see them.
//
//===----------------------------------------------------------------------===//

#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringRef.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>

using llvm::SmallVector;
using llvm::StringRef;

extern "C" size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t maxSize);

namespace {

using Random = std::minstd_rand;

size_t below(Random &random, size_t bound) { return random() % bound; }

/// Splits `text` into words, numbers, spaces and single other characters,
/// which joined are the text again.
SmallVector<StringRef> tokens(StringRef text) {
  auto isWord = [](char c) {
    return llvm::isAlnum(c) || c == '_' || c == '.' || c == '%' || c == '@';
  };
  SmallVector<StringRef> result;
  while (!text.empty()) {
    size_t size = 1;
    if (isWord(text[0]))
      size = text.take_while(isWord).size();
    else if (llvm::isSpace(text[0]))
      size = text.take_while(llvm::isSpace).size();
    result.push_back(text.take_front(size));
    text = text.drop_front(size);
  }
  return result;
}

SmallVector<StringRef> lines(StringRef text) {
  SmallVector<StringRef> result;
  while (!text.empty()) {
    size_t size = std::min(text.find('\n'), text.size() - 1) + 1;
    result.push_back(text.take_front(size));
    text = text.drop_front(size);
  }
  return result;
}

std::string join(llvm::ArrayRef<StringRef> parts) {
  return llvm::join(parts.begin(), parts.end(), "");
}

/// Another spelling of the same kind of thing: a number for a number, a type
/// for a type, else any token of the text.
StringRef replacement(StringRef token, llvm::ArrayRef<StringRef> all,
                      Random &random) {
  static const StringRef numbers[] = {
      "0",  "1",  "-1", "2",    "3",          "7",
      "16", "64", "?",  "4097", "2147483647", "9223372036854775807"};
  static const StringRef types[] = {"f32", "f16", "bf16", "f64",  "i1",
                                    "i8",  "i32", "i64",  "index"};
  if (llvm::isDigit(token[0]))
    return numbers[below(random, std::size(numbers))];
  if (llvm::is_contained(types, token))
    return types[below(random, std::size(types))];
  return all[below(random, all.size())];
}

/// Removes, repeats, swaps or moves one of the parts.
void rearrange(SmallVector<StringRef> &parts, Random &random) {
  size_t i = below(random, parts.size()), j = below(random, parts.size());
  switch (below(random, 4)) {
  case 0:
    parts.erase(parts.begin() + i);
    return;
  case 1:
    parts.insert(parts.begin() + j, parts[i]);
    return;
  case 2:
    std::swap(parts[i], parts[j]);
    return;
  default:
    StringRef moved = parts[i];
    parts.erase(parts.begin() + i);
    parts.insert(parts.begin() + std::min(j, parts.size()), moved);
  }
}

size_t store(const std::string &text, uint8_t *data, size_t maxSize) {
  size_t size = std::min(text.size(), maxSize);
  std::memcpy(data, text.data(), size);
  return size;
}

} // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size,
                                          size_t maxSize, unsigned seed) {
  Random random(seed);
  std::string text(reinterpret_cast<char *>(data), size);
  unsigned kind = below(random, 8);
  if (text.empty() || kind == 0)
    return LLVMFuzzerMutate(data, size, maxSize);
  if (kind <= 2) {
    SmallVector<StringRef> parts = lines(text);
    rearrange(parts, random);
    return store(join(parts), data, maxSize);
  }
  SmallVector<StringRef> parts = tokens(text);
  if (kind == 3) {
    rearrange(parts, random);
  } else {
    StringRef &token = parts[below(random, parts.size())];
    token = replacement(token, parts, random);
  }
  return store(join(parts), data, maxSize);
}

/// Puts some lines of the second text into the first.
extern "C" size_t LLVMFuzzerCustomCrossOver(const uint8_t *data1, size_t size1,
                                            const uint8_t *data2, size_t size2,
                                            uint8_t *out, size_t maxSize,
                                            unsigned seed) {
  Random random(seed);
  StringRef text1(reinterpret_cast<const char *>(data1), size1);
  StringRef text2(reinterpret_cast<const char *>(data2), size2);
  SmallVector<StringRef> into = lines(text1), from = lines(text2);
  if (into.empty() || from.empty())
    return store(text1.str(), out, maxSize);
  size_t first = below(random, from.size());
  size_t count = 1 + below(random, std::min<size_t>(4, from.size() - first));
  into.insert(into.begin() + below(random, into.size() + 1),
              from.begin() + first, from.begin() + first + count);
  return store(join(into), out, maxSize);
}
