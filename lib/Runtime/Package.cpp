//===- Package.cpp - Compiled programs in one file ------------------------===//

#include "lib/Runtime/Package.h"

#include "lib/Runtime/DiskCache.h"
#include "lib/Runtime/Sha256.h"

#include <cerrno>
#include <cinttypes>
#include <cstdio>

using namespace attnc;

static constexpr std::string_view firstLine = "attnc-package 1\n";
/// "size: ", 20 digits, newline.
static constexpr size_t sizeLine = 27;
/// No index or entry is larger.
static constexpr uint64_t largest = uint64_t(1) << 30;

std::string attnc::packageKeyOf(std::string_view key) {
  std::string result;
  while (!key.empty()) {
    std::string_view part = key.substr(0, key.find(' '));
    key.remove_prefix(std::min(part.size() + 1, key.size()));
    std::string_view name = part.substr(0, part.find('='));
    if (name == "cpu" || name == "features" || name == "ptxas")
      continue;
    if (!result.empty())
      result += ' ';
    result += part;
  }
  return result;
}

//===----------------------------------------------------------------------===//
// Writing
//===----------------------------------------------------------------------===//

std::string Package::serialize(const std::string &compiler,
                               const std::vector<Entry> &entries) {
  std::string bodies, lines = "compiler: " + compiler + "\n";
  for (const Entry &entry : entries) {
    std::string bytes = entry.serialize();
    lines += "entry " + std::to_string(bodies.size()) + " " +
             std::to_string(bytes.size()) + " " + entry.key + "\n";
    bodies += bytes;
  }
  // "index: ", 64 digits, a newline, and the empty line.
  uint64_t size = firstLine.size() + sizeLine + lines.size() + 7 + 64 + 1 + 1;
  char line[32];
  std::snprintf(line, sizeof(line), "size: %020" PRIu64 "\n", size);
  std::string index = std::string(firstLine) + line + lines;
  return index + "index: " + Sha256::hexOf(index) + "\n\n" + bodies;
}

//===----------------------------------------------------------------------===//
// Reading
//===----------------------------------------------------------------------===//

namespace {
/// An open package, or why not.
struct Opened {
  Descriptor file;
  std::string problem;
};
} // namespace

static Opened openFile(FileOps &ops, const std::string &path) {
  size_t slash = path.rfind('/');
  std::string folder = slash == std::string::npos ? "."
                       : slash == 0               ? "/"
                                                  : path.substr(0, slash);
  Descriptor directory(ops, ops.openDirectory(folder));
  if (!directory) {
    std::string problem = errorText(directory.error());
    return {std::move(directory), problem};
  }
  Descriptor opened(
      ops,
      ops.openFile(directory.get(),
                   slash == std::string::npos ? path : path.substr(slash + 1)));
  if (!opened) {
    std::string problem = errorText(opened.error());
    return {std::move(opened), problem};
  }
  FileInfo info;
  if (int error = ops.info(opened.get(), info))
    return {Descriptor(ops, error), errorText(-error)};
  if (!info.isRegular)
    return {Descriptor(ops, -EINVAL), "it is not a file"};
  if (auto why = distrust(info, ops.userId(), "it"))
    return {Descriptor(ops, -EPERM), *why};
  return {std::move(opened), {}};
}

/// `size` bytes at `offset`; fewer only at the end of the file.
static int64_t readAt(FileOps &ops, int fd, char *data, size_t size,
                      uint64_t offset) {
  size_t done = 0;
  while (done < size) {
    int64_t got = ops.readAt(fd, data + done, size - done, offset + done);
    if (got == -EINTR)
      continue;
    if (got < 0)
      return got;
    if (got == 0)
      break;
    done += size_t(got);
  }
  return int64_t(done);
}

Failure Package::fail(const std::string &what) const {
  return {Status::LoadFailed, "the package '" + file + "' " + what};
}

Result<std::unique_ptr<Package>> Package::open(FileOps &ops, std::string path) {
  std::unique_ptr<Package> package(new Package(ops, std::move(path)));
  if (auto failure = package->readIndex())
    return *failure;
  return package;
}

/// Takes "12 34 key" apart; false if that is not what it is.
static bool parseItem(std::string_view line, Package::Item &item) {
  std::string text(line);
  int key = 0;
  if (std::sscanf(text.c_str(), "%" SCNu64 " %" SCNu64 " %n", &item.offset,
                  &item.size, &key) != 2 ||
      key == 0 || item.size > largest || item.offset > (largest << 10))
    return false;
  item.key = text.substr(size_t(key));
  return true;
}

std::optional<Failure> Package::readIndex() {
  Opened opened = openFile(ops, file);
  if (!opened.file)
    return fail("cannot be used: " + opened.problem);
  std::string bytes(firstLine.size() + sizeLine, '\0');
  int64_t got = readAt(ops, opened.file.get(), bytes.data(), bytes.size(), 0);
  if (got < 0)
    return fail("cannot be read: " + errorText(int(-got)));
  if (got < int64_t(bytes.size()) || bytes.substr(0, 16) != firstLine)
    return fail("is not an attnc package of version 1");
  uint64_t size = 0;
  if (std::sscanf(bytes.c_str() + firstLine.size(), "size: %" SCNu64, &size) !=
          1 ||
      size < bytes.size() + 73 || size > largest)
    return fail("is corrupt: its first lines make no sense");
  size_t have = bytes.size();
  bytes.resize(size);
  got = readAt(ops, opened.file.get(), bytes.data() + have, size - have, have);
  if (got < 0)
    return fail("cannot be read: " + errorText(int(-got)));
  if (size_t(got) != size - have)
    return fail("is truncated");
  std::string index = bytes.substr(0, size - 73);
  if (bytes.substr(size - 73) != "index: " + Sha256::hexOf(index) + "\n\n")
    return fail("is corrupt: the checksum of its index does not match");
  std::string_view rest = std::string_view(index).substr(have);
  while (!rest.empty()) {
    std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(line.size() + 1, rest.size()));
    Item item;
    if (line.substr(0, 10) == "compiler: ") {
      fingerprint = line.substr(10);
    } else if (line.substr(0, 6) == "entry " &&
               parseItem(line.substr(6), item)) {
      byKey[packageKeyOf(item.key)].push_back(list.size());
      list.push_back(std::move(item));
    } else {
      return fail("is corrupt: line '" + std::string(line) + "'");
    }
  }
  start = size;
  return std::nullopt;
}

std::vector<const Package::Item *> Package::find(std::string_view key) const {
  std::vector<const Item *> found;
  auto at = byKey.find(packageKeyOf(key));
  if (at == byKey.end())
    return found;
  // One for exactly this machine is better than one that runs on it.
  for (bool exact : {true, false})
    for (size_t number : at->second)
      if ((list[number].key == key) == exact)
        found.push_back(&list[number]);
  return found;
}

Result<Entry> Package::load(const Item &item) const {
  Opened opened = openFile(ops, file);
  if (!opened.file)
    return fail("cannot be used: " + opened.problem);
  std::string bytes(item.size, '\0');
  int64_t got = readAt(ops, opened.file.get(), bytes.data(), bytes.size(),
                       start + item.offset);
  if (got < 0)
    return fail("cannot be read: " + errorText(int(-got)));
  bytes.resize(size_t(got));
  Result<Entry> entry = parseEntry(bytes);
  if (!entry)
    return fail("holds an entry that is " + entry.failure().message);
  if (entry->key != item.key || entry->compiler != fingerprint)
    return fail("holds another entry than its index says");
  return entry;
}
