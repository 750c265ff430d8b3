//===- Key.h - What a compiled program is filed under -----------*- C++ -*-===//
//
// A request key is a pure function of plain integers and strings: what was
// asked for, never an object's address, a file's time or the history of a
// process. Its text is what listings and messages show.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_LIB_RUNTIME_KEY_H
#define ATTNC_LIB_RUNTIME_KEY_H

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <type_traits>

namespace attnc {

class RequestKey {
public:
  RequestKey() : RequestKey(std::string()) {}

  /// A key from its canonical text (as `KeyBuilder` or an entry spells it).
  explicit RequestKey(std::string text);

  const std::string &text() const { return canonical; }

  /// For tables in memory: fast, not for files.
  uint64_t hash() const { return quickHash; }

  /// The name of its entry on disk under a compiler: 32 hex digits of SHA-256
  /// over both and ".attnc". Two compilers never share an entry.
  std::string entryName(std::string_view compiler) const;

  bool operator==(const RequestKey &other) const {
    return quickHash == other.quickHash && canonical == other.canonical;
  }

private:
  std::string canonical;
  uint64_t quickHash;
};

/// Collects the named values of a request. The text lists them in the order
/// of their names, so the order of the calls does not matter.
class KeyBuilder {
public:
  KeyBuilder &add(std::string_view name, std::string_view value);
  KeyBuilder &add(std::string_view name, const char *value) {
    return add(name, std::string_view(value));
  }
  /// Integers and booleans. Floating-point values and pointers are refused at
  /// compile time: scalars are operands of a program, not part of what it is,
  /// and addresses mean nothing to the next process.
  template <typename Int, typename = std::enable_if_t<std::is_integral_v<Int>>>
  KeyBuilder &add(std::string_view name, Int value) {
    return add(name, std::string_view(std::to_string(int64_t(value))));
  }
  KeyBuilder &add(std::string_view, double) = delete;
  KeyBuilder &add(std::string_view, float) = delete;
  KeyBuilder &add(std::string_view, const void *) = delete;

  RequestKey build() const;

private:
  std::map<std::string, std::string, std::less<>> values;
};

} // namespace attnc

#endif // ATTNC_LIB_RUNTIME_KEY_H
