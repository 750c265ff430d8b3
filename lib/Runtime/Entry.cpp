//===- Entry.cpp - One compiled program as it lies on disk ----------------===//

#include "lib/Runtime/Entry.h"

#include "lib/Runtime/Sha256.h"

#include <cstdio>

using namespace attnc;

static constexpr std::string_view magic = "attnc-entry ";
static constexpr std::string_view firstLine = "attnc-entry 1\n";
static constexpr size_t checksumSize = 32;

/// Header values are one line each.
static std::string oneLine(std::string_view text) {
  std::string out;
  for (char c : text)
    out += c == '\n' || c == '\r' || c == '\0' ? ' ' : c;
  return out;
}

/// Names stand before a colon.
static std::string nameText(std::string_view text) {
  std::string out = oneLine(text);
  for (char &c : out)
    if (c == ':' || c == ' ')
      c = '_';
  return out;
}

const std::string *Entry::section(std::string_view name) const {
  for (auto &[found, bytes] : sections)
    if (found == name)
      return &bytes;
  return nullptr;
}

static std::string describe(const Entry &entry) {
  std::string text;
  for (auto &[name, value] : entry.metadata)
    text += "meta " + nameText(name) + ": " + oneLine(value) + "\n";
  for (auto &[name, bytes] : entry.sections)
    text += "section " + nameText(name) + ": " + std::to_string(bytes.size()) +
            "\n";
  return text;
}

std::string Entry::contentKey() const {
  Sha256 hash;
  hash.update(describe(*this));
  for (auto &[name, bytes] : sections)
    hash.update(bytes);
  return toHex(hash.finish());
}

std::string Entry::serialize() const {
  std::string rest =
      "compiler: " + oneLine(compiler) + "\nkey: " + oneLine(key) +
      "\ncreated: " + std::to_string(created) + "\ncontent: " + contentKey() +
      "\n" + describe(*this) + "\n";
  // "size: " and 20 digits and a newline come first.
  uint64_t size = firstLine.size() + 27 + rest.size() + checksumSize;
  for (auto &[name, bytes] : sections)
    size += bytes.size();
  char line[32];
  std::snprintf(line, sizeof(line), "size: %020llu\n",
                (unsigned long long)size);
  std::string file;
  file.reserve(size);
  file += firstLine;
  file += line;
  file += rest;
  for (auto &[name, bytes] : sections)
    file += bytes;
  Sha256::Digest checksum = Sha256::of(file);
  file.append(reinterpret_cast<const char *>(checksum.data()), checksumSize);
  return file;
}

/// Parses a decimal number of at most 20 digits; false on anything else.
static bool parseNumber(std::string_view text, uint64_t &value) {
  if (text.empty() || text.size() > 20)
    return false;
  value = 0;
  for (char c : text) {
    if (c < '0' || c > '9' || value > (UINT64_MAX - 9) / 10)
      return false;
    value = value * 10 + uint64_t(c - '0');
  }
  return true;
}

static Failure malformed(std::string message) {
  return {Status::LoadFailed, std::move(message)};
}

/// Takes one "name: value" line into the header; false when it makes no sense.
static bool parseLine(std::string_view line, EntryHeader &header) {
  size_t colon = line.find(": ");
  if (colon == std::string_view::npos)
    return false;
  std::string_view name = line.substr(0, colon);
  std::string value(line.substr(colon + 2));
  uint64_t number = 0;
  if (name == "size")
    return parseNumber(value, header.size);
  if (name == "compiler")
    return header.compiler = std::move(value), true;
  if (name == "key")
    return header.key = std::move(value), true;
  if (name == "content")
    return header.content = std::move(value), true;
  if (name == "created") {
    if (!parseNumber(value, number))
      return false;
    header.created = int64_t(number);
    return true;
  }
  if (name.substr(0, 5) == "meta ") {
    header.metadata[std::string(name.substr(5))] = std::move(value);
    return true;
  }
  if (name.substr(0, 8) == "section ") {
    if (!parseNumber(value, number))
      return false;
    header.sections.emplace_back(name.substr(8), number);
    return true;
  }
  return false;
}

Result<EntryHeader> attnc::parseEntryHeader(std::string_view bytes) {
  if (bytes.substr(0, firstLine.size()) != firstLine) {
    if (bytes.size() < firstLine.size() &&
        firstLine.substr(0, bytes.size()) == bytes)
      return malformed("truncated");
    if (bytes.substr(0, magic.size()) == magic)
      return malformed("written in another version of the entry format");
    return malformed("not an attnc cache entry");
  }
  EntryHeader header;
  size_t at = firstLine.size();
  while (true) {
    size_t end = bytes.find('\n', at);
    if (end == std::string_view::npos)
      return malformed("truncated");
    std::string_view line = bytes.substr(at, end - at);
    at = end + 1;
    if (line.empty())
      break;
    if (!parseLine(line, header))
      return malformed("corrupt: header line '" + std::string(line) + "'");
  }
  header.headerSize = at;
  return header;
}

Result<Entry> attnc::parseEntry(std::string_view bytes) {
  Result<EntryHeader> header = parseEntryHeader(bytes);
  if (!header)
    return header.failure();
  if (bytes.size() != header->size)
    return malformed("truncated: " + std::to_string(bytes.size()) + " of " +
                     std::to_string(header->size) + " bytes");
  if (bytes.size() < header->headerSize + checksumSize)
    return malformed("truncated");
  std::string_view covered = bytes.substr(0, bytes.size() - checksumSize);
  Sha256::Digest checksum = Sha256::of(covered);
  std::string_view stored(reinterpret_cast<const char *>(checksum.data()),
                          checksumSize);
  if (bytes.substr(covered.size()) != stored)
    return malformed("corrupt: the checksum does not match");
  Entry entry{
      header->compiler, header->key, header->created, header->metadata, {}};
  size_t at = header->headerSize;
  for (auto &[name, size] : header->sections) {
    if (size > covered.size() - at)
      return malformed("corrupt: section '" + name + "' leaves the file");
    entry.sections.emplace_back(name, covered.substr(at, size));
    at += size;
  }
  if (at != covered.size())
    return malformed("corrupt: bytes beyond the last section");
  if (entry.contentKey() != header->content)
    return malformed("corrupt: metadata of another entry");
  entry.verifiedContent = header->content;
  return entry;
}
