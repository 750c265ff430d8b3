//===- Key.cpp - What a compiled program is filed under -------------------===//

#include "lib/Runtime/Key.h"

#include "lib/Runtime/Sha256.h"

using namespace attnc;

/// Whether a byte would make a key ambiguous, or break a line of a listing.
static bool needsEscape(unsigned char c) {
  return c <= ' ' || c == '=' || c == '%' || c == 0x7f;
}

static std::string escape(std::string_view text) {
  static const char digits[] = "0123456789ABCDEF";
  std::string out;
  for (unsigned char c : text) {
    if (!needsEscape(c)) {
      out += char(c);
      continue;
    }
    out += '%';
    out += digits[c >> 4];
    out += digits[c & 15];
  }
  return out;
}

/// FNV-1a over 8 bytes at a time, with a final mix so that the low bits,
/// which index the table, depend on all of them.
static uint64_t hashOf(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325u ^ text.size();
  while (!text.empty()) {
    uint64_t word = 0;
    size_t take = text.size() < 8 ? text.size() : 8;
    for (size_t i = 0; i < take; ++i)
      word |= uint64_t(uint8_t(text[i])) << (8 * i);
    hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 32;
    text.remove_prefix(take);
  }
  return hash;
}

RequestKey::RequestKey(std::string text)
    : canonical(std::move(text)), quickHash(hashOf(canonical)) {}

std::string RequestKey::entryName(std::string_view compiler) const {
  Sha256 hash;
  hash.update(compiler);
  hash.update("\n");
  hash.update(canonical);
  return toHex(hash.finish()).substr(0, 32) + ".attnc";
}

KeyBuilder &KeyBuilder::add(std::string_view name, std::string_view value) {
  values[escape(name)] = escape(value);
  return *this;
}

RequestKey KeyBuilder::build() const {
  std::string text;
  for (auto &[name, value] : values) {
    if (!text.empty())
      text += ' ';
    text += name + '=' + value;
  }
  return RequestKey(std::move(text));
}
