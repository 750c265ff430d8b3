//===- Package.h - Compiled programs in one file ----------------*- C++ -*-===//
//
// What a build makes for machines that shall not compile. Read only, and found
// before the cache. An index of lines, then entries as the cache has them:
//
//   attnc-package 1
//   size: 00000000000000012345      (of the index up to the empty line)
//   compiler: <fingerprint>
//   entry <offset> <bytes> <key>    (any number; offsets count from the end
//   index: <SHA-256 of the above>    of the index)
//   <empty line>
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_LIB_RUNTIME_PACKAGE_H
#define ATTNC_LIB_RUNTIME_PACKAGE_H

#include "lib/Runtime/Entry.h"
#include "lib/Runtime/FileOps.h"

#include <memory>
#include <optional>

namespace attnc {

/// A request key less what a machine brings along: its processor, and which
/// assembler it has. Entries of a package say themselves what they need.
std::string packageKeyOf(std::string_view key);

class Package {
public:
  struct Item {
    std::string key;
    uint64_t offset = 0, size = 0;
  };

  /// Reads the index. The file is used only if it belongs to the user or root
  /// and no one else can write it.
  static Result<std::unique_ptr<Package>> open(FileOps &ops, std::string path);

  /// The bytes of a package; the entries must have their keys.
  static std::string serialize(const std::string &compiler,
                               const std::vector<Entry> &entries);

  const std::string &path() const { return file; }
  const std::string &compiler() const { return fingerprint; }
  const std::vector<Item> &items() const { return list; }

  /// The items for a request, best first.
  std::vector<const Item *> find(std::string_view key) const;
  Result<Entry> load(const Item &item) const;

private:
  Package(FileOps &ops, std::string path) : ops(ops), file(std::move(path)) {}
  std::optional<Failure> readIndex();
  Failure fail(const std::string &what) const;

  FileOps &ops;
  std::string file, fingerprint;
  std::vector<Item> list;
  std::map<std::string, std::vector<size_t>, std::less<>> byKey;
  uint64_t start = 0; ///< Where entries begin.
};

} // namespace attnc

#endif // ATTNC_LIB_RUNTIME_PACKAGE_H
