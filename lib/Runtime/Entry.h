//===- Entry.h - One compiled program as it lies on disk --------*- C++ -*-===//
//
// An entry is one file: what it was compiled from and for, what it needs, the
// code, and a checksum over all of it. The first part is lines of text:
//
//   attnc-entry 1
//   size: 00000000000000012345      (of the whole file)
//   compiler: <fingerprint>
//   key: <text of the request key>
//   created: <seconds since 1970>
//   content: <SHA-256 of metadata and sections>
//   meta <name>: <value>            (any number)
//   section <name>: <bytes>         (any number)
//   <empty line>
//
// then the sections' bytes one after another, then 32 bytes of SHA-256 over
// everything before.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_LIB_RUNTIME_ENTRY_H
#define ATTNC_LIB_RUNTIME_ENTRY_H

#include "lib/Runtime/Result.h"

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace attnc {

struct EntryHeader {
  uint64_t size = 0;
  std::string compiler, key, content;
  int64_t created = 0;
  std::map<std::string, std::string> metadata;
  std::vector<std::pair<std::string, uint64_t>> sections;
  uint64_t headerSize = 0; ///< Bytes up to and with the empty line.
};

struct Entry {
  std::string compiler, key;
  int64_t created = 0;
  /// What the code needs and says of itself, e.g. "requires.cpu".
  std::map<std::string, std::string> metadata;
  /// Named blobs, e.g. "object" and "plan".
  std::vector<std::pair<std::string, std::string>> sections;

  /// The content key of an entry that was parsed, which has verified it.
  std::string verifiedContent = {};

  /// The named section, or null.
  const std::string *section(std::string_view name) const;

  /// Two entries with one content key hold the same program.
  std::string contentKey() const;

  std::string serialize() const;
};

/// Parses the text part. `bytes` may hold more, or stop short of its end
/// (then the failure says "truncated").
Result<EntryHeader> parseEntryHeader(std::string_view bytes);

/// Parses and verifies a whole file. The failure's message is the reason.
Result<Entry> parseEntry(std::string_view bytes);

} // namespace attnc

#endif // ATTNC_LIB_RUNTIME_ENTRY_H
