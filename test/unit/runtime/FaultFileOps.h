//===- FaultFileOps.h - File operations that go wrong -----------*- C++ -*-===//
//
// Counts the operations of a run and makes one of them (or all from it on)
// fail, be cut short, or end the process. Lists what it saw, so that a test
// can tell that every operation had its turn.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_TEST_UNIT_RUNTIME_FAULTFILEOPS_H
#define ATTNC_TEST_UNIT_RUNTIME_FAULTFILEOPS_H

#include "lib/Runtime/FileOps.h"

#include <cerrno>
#include <set>
#include <unistd.h>

namespace attnc {

enum class Fault {
  None,
  ReadOnly,    ///< EROFS
  NoSpace,     ///< ENOSPC
  InputOutput, ///< EIO
  Short,       ///< Half of a read or write; other operations fail with EIO.
  KillBefore,
  KillAfter,
};

constexpr int killedByFault = 77;

class FaultFileOps : public FileOps {
public:
  /// The operation number `at` (from 0) goes wrong; with `onwards`, so do all
  /// after it.
  FaultFileOps(Fault fault = Fault::None, int at = -1, bool onwards = false)
      : fault(fault), at(at), onwards(onwards) {}

  int count() const { return counted; }
  bool reached() const { return at >= 0 && counted > at; }
  const std::set<std::string> &seen() const { return names; }

  int openDirectory(const std::string &path) override {
    return inject("openDirectory",
                  [&] { return FileOps::openDirectory(path); });
  }
  int makeDirectory(const std::string &path) override {
    return inject("makeDirectory",
                  [&] { return FileOps::makeDirectory(path); });
  }
  int currentDirectory(std::string &path) override {
    return inject("currentDirectory",
                  [&] { return FileOps::currentDirectory(path); });
  }
  int openFile(int directory, const std::string &name) override {
    return inject("openFile",
                  [&] { return FileOps::openFile(directory, name); });
  }
  int createFile(int directory, const std::string &name) override {
    return inject("createFile",
                  [&] { return FileOps::createFile(directory, name); });
  }
  int openLock(int directory, const std::string &name) override {
    return inject("openLock",
                  [&] { return FileOps::openLock(directory, name); });
  }
  int info(int fd, FileInfo &info) override {
    return inject("info", [&] { return FileOps::info(fd, info); });
  }
  int infoAt(int directory, const std::string &name, FileInfo &info) override {
    return inject("infoAt",
                  [&] { return FileOps::infoAt(directory, name, info); });
  }
  int64_t read(int fd, void *data, size_t size) override {
    return inject(
        "read", [&] { return FileOps::read(fd, data, size); },
        [&] { return FileOps::read(fd, data, (size + 1) / 2); });
  }
  int64_t readAt(int fd, void *data, size_t size, uint64_t offset) override {
    return inject(
        "readAt", [&] { return FileOps::readAt(fd, data, size, offset); },
        [&] { return FileOps::readAt(fd, data, (size + 1) / 2, offset); });
  }
  int64_t write(int fd, const void *data, size_t size) override {
    return inject(
        "write", [&] { return FileOps::write(fd, data, size); },
        [&] { return FileOps::write(fd, data, (size + 1) / 2); });
  }
  int sync(int fd) override {
    return inject("sync", [&] { return FileOps::sync(fd); });
  }
  int close(int fd) override {
    // Linux closes a descriptor even when close reports an error.
    bool faulty = wouldFail();
    int result = inject("close", [&] { return FileOps::close(fd); });
    if (faulty && result < 0)
      FileOps::close(fd);
    return result;
  }
  int rename(int directory, const std::string &from,
             const std::string &to) override {
    return inject("rename",
                  [&] { return FileOps::rename(directory, from, to); });
  }
  int remove(int directory, const std::string &name) override {
    return inject("remove", [&] { return FileOps::remove(directory, name); });
  }
  int list(int directory, std::vector<std::string> &names) override {
    return inject("list", [&] { return FileOps::list(directory, names); });
  }
  int touch(int fd) override {
    return inject("touch", [&] { return FileOps::touch(fd); });
  }
  int tryLock(int fd) override {
    return inject("tryLock", [&] { return FileOps::tryLock(fd); });
  }
  int unlock(int fd) override {
    return inject("unlock", [&] { return FileOps::unlock(fd); });
  }

private:
  bool wouldFail() const {
    return at >= 0 && (counted == at || (onwards && counted > at)) &&
           fault != Fault::KillBefore && fault != Fault::KillAfter &&
           fault != Fault::None;
  }

  template <typename Call>
  auto inject(const char *name, Call call) -> decltype(call()) {
    return inject(name, call, [] { return decltype(call())(-EIO); });
  }

  template <typename Call, typename Shorter>
  auto inject(const char *name, Call call, Shorter shorter)
      -> decltype(call()) {
    using Number = decltype(call());
    names.insert(name);
    int number = counted++;
    if (at < 0 || !(number == at || (onwards && number > at)))
      return call();
    switch (fault) {
    case Fault::None:
      return call();
    case Fault::ReadOnly:
      return Number(-EROFS);
    case Fault::NoSpace:
      return Number(-ENOSPC);
    case Fault::InputOutput:
      return Number(-EIO);
    case Fault::Short:
      return shorter();
    case Fault::KillBefore:
      _exit(killedByFault);
    case Fault::KillAfter:
      call();
      _exit(killedByFault);
    }
    return call();
  }

  Fault fault;
  int at, counted = 0;
  bool onwards;
  std::set<std::string> names;
};

} // namespace attnc

#endif // ATTNC_TEST_UNIT_RUNTIME_FAULTFILEOPS_H
