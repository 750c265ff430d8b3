//===- FileOps.cpp - Every file operation of the cache --------------------===//

#include "lib/Runtime/FileOps.h"

#include <cerrno>
#include <cstring>
#include <ctime>
#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

using namespace attnc;

template <typename Integer> static Integer checked(Integer result) {
  return result < 0 ? -errno : result;
}

static void fill(FileInfo &info, const struct stat &status) {
  info.isRegular = S_ISREG(status.st_mode);
  info.owner = status.st_uid;
  info.mode = status.st_mode & 07777;
  info.size = status.st_size;
  info.modified = status.st_mtime;
}

FileOps::~FileOps() = default;

FileOps &FileOps::system() {
  // Never destroyed: a thread may still compile while the process exits.
  static FileOps *ops = new FileOps;
  return *ops;
}

int FileOps::openDirectory(const std::string &path) {
  return checked(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}

int FileOps::makeDirectory(const std::string &path) {
  return checked(::mkdir(path.c_str(), 0700));
}

int FileOps::currentDirectory(std::string &path) {
  char *found = ::getcwd(nullptr, 0);
  if (!found)
    return -errno;
  path = found;
  ::free(found);
  return 0;
}

int FileOps::openFile(int directory, const std::string &name) {
  // O_NONBLOCK: a planted pipe must not hang the reader.
  return checked(::openat(directory, name.c_str(),
                          O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK));
}

int FileOps::createFile(int directory, const std::string &name) {
  return checked(::openat(directory, name.c_str(),
                          O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                          0600));
}

int FileOps::openLock(int directory, const std::string &name) {
  return checked(
      ::openat(directory, name.c_str(),
               O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600));
}

int FileOps::info(int fd, FileInfo &info) {
  struct stat status;
  if (::fstat(fd, &status) < 0)
    return -errno;
  fill(info, status);
  return 0;
}

int FileOps::infoAt(int directory, const std::string &name, FileInfo &info) {
  struct stat status;
  if (::fstatat(directory, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) < 0)
    return -errno;
  fill(info, status);
  return 0;
}

int64_t FileOps::read(int fd, void *data, size_t size) {
  return checked(int64_t(::read(fd, data, size)));
}

int64_t FileOps::readAt(int fd, void *data, size_t size, uint64_t offset) {
  return checked(int64_t(::pread(fd, data, size, off_t(offset))));
}

int64_t FileOps::write(int fd, const void *data, size_t size) {
  return checked(int64_t(::write(fd, data, size)));
}

int FileOps::sync(int fd) { return checked(::fsync(fd)); }

int FileOps::close(int fd) { return checked(::close(fd)); }

int FileOps::rename(int directory, const std::string &from,
                    const std::string &to) {
  return checked(::renameat(directory, from.c_str(), directory, to.c_str()));
}

int FileOps::remove(int directory, const std::string &name) {
  return checked(::unlinkat(directory, name.c_str(), 0));
}

int FileOps::list(int directory, std::vector<std::string> &names) {
  // fdopendir takes its descriptor over and moves its offset: give it its own.
  int own = ::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (own < 0)
    return -errno;
  DIR *stream = ::fdopendir(own);
  if (!stream) {
    int error = errno;
    ::close(own);
    return -error;
  }
  errno = 0;
  while (dirent *found = ::readdir(stream)) {
    if (std::strcmp(found->d_name, ".") && std::strcmp(found->d_name, ".."))
      names.push_back(found->d_name);
    errno = 0;
  }
  int error = errno;
  ::closedir(stream);
  return -error;
}

int FileOps::touch(int fd) { return checked(::futimens(fd, nullptr)); }

int FileOps::tryLock(int fd) { return checked(::flock(fd, LOCK_EX | LOCK_NB)); }

int FileOps::unlock(int fd) { return checked(::flock(fd, LOCK_UN)); }

int64_t FileOps::now() { return ::time(nullptr); }

uint32_t FileOps::userId() { return ::geteuid(); }
