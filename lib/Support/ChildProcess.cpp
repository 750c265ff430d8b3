//===- ChildProcess.cpp - Programs run on the side ------------------------===//

#include "lib/Support/ChildProcess.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/ScopeExit.h"

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

extern char **environ;

namespace attnc {

static std::atomic<bool> childrenStay{false};

void keepChildrenInGroup() { childrenStay = true; }

std::string describeStatus(int status) {
  if (status == ChildResult::unknown)
    return "an unknown status";
  if (status > 128)
    return "signal " + std::to_string(status - 128) + " (" +
           strsignal(status - 128) + ")";
  return "status " + std::to_string(status);
}

namespace {
using Clock = std::chrono::steady_clock;

/// Closed with the object.
struct Fd {
  int value = -1;
  Fd() = default;
  Fd(const Fd &) = delete;
  ~Fd() { reset(); }
  void reset() {
    if (value >= 0)
      ::close(value);
    value = -1;
  }
};

class Child {
public:
  llvm::Error start(llvm::ArrayRef<std::string> arguments,
                    llvm::ArrayRef<std::string> defaults);
  void exchange(llvm::StringRef input, Clock::time_point deadline,
                ChildResult &result);
  void finish(Clock::time_point deadline, ChildResult &result);

private:
  void kill() { ::kill(ownGroup ? -pid : pid, SIGKILL); }
  bool readInto(Fd &from, std::string &text);

  pid_t pid = 0;
  bool ownGroup = true;
  Fd input, output, errors;
};

llvm::Error failure(const llvm::Twine &message) {
  return llvm::createStringError(message);
}

/// As execve wants them. The texts stay where they are.
std::vector<char *> pointersTo(llvm::ArrayRef<std::string> texts) {
  std::vector<char *> pointers;
  for (const std::string &text : texts)
    pointers.push_back(const_cast<char *>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

/// This process's own, and those of `defaults` ("NAME=VALUE") whose name it
/// does not set.
std::vector<char *> environmentWith(llvm::ArrayRef<std::string> defaults) {
  std::vector<char *> variables;
  for (char **variable = environ; variable && *variable; ++variable)
    variables.push_back(*variable);
  for (const std::string &added : defaults)
    if (llvm::none_of(variables, [&](llvm::StringRef own) {
          return own.starts_with(added.substr(0, added.find('=') + 1));
        }))
      variables.push_back(const_cast<char *>(added.c_str()));
  variables.push_back(nullptr);
  return variables;
}
} // namespace

llvm::Error Child::start(llvm::ArrayRef<std::string> arguments,
                         llvm::ArrayRef<std::string> defaults) {
  // A socket takes MSG_NOSIGNAL, which a pipe does not.
  int in[2], out[2], err[2];
  Fd childIn, childOut, childErr;
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, in))
    return failure(std::string("no socket for a child: ") + strerror(errno));
  input.value = in[0];
  childIn.value = in[1];
  if (::pipe2(out, O_CLOEXEC))
    return failure(std::string("no pipe for a child: ") + strerror(errno));
  output.value = out[0];
  childOut.value = out[1];
  if (::pipe2(err, O_CLOEXEC))
    return failure(std::string("no pipe for a child: ") + strerror(errno));
  errors.value = err[0];
  childErr.value = err[1];

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, childIn.value, 0);
  posix_spawn_file_actions_adddup2(&actions, childOut.value, 1);
  posix_spawn_file_actions_adddup2(&actions, childErr.value, 2);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  // The host's mask and ignored signals are no business of the child's.
  sigset_t none, usual;
  sigemptyset(&none);
  sigemptyset(&usual);
  for (int signal : {SIGCHLD, SIGPIPE, SIGINT, SIGTERM, SIGQUIT, SIGHUP})
    sigaddset(&usual, signal);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &usual);
  ownGroup = !childrenStay;
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                               (ownGroup ? POSIX_SPAWN_SETPGROUP : 0));
  llvm::scope_exit cleanup([&] {
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
  });
  std::vector<char *> argv = pointersTo(arguments);
  std::vector<char *> envp = environmentWith(defaults);
  if (int code = posix_spawn(&pid, argv[0], &actions, &attributes, argv.data(),
                             envp.data()))
    return failure("cannot run " + arguments[0] + ": " + strerror(code));
  return llvm::Error::success();
}

/// Takes what is there; closes at the end of the stream.
bool Child::readInto(Fd &from, std::string &text) {
  char buffer[65536];
  ssize_t got = ::read(from.value, buffer, sizeof(buffer));
  if (got < 0)
    return errno == EINTR || errno == EAGAIN;
  if (got == 0)
    from.reset();
  text.append(buffer, size_t(std::max<ssize_t>(got, 0)));
  return true;
}

void Child::exchange(llvm::StringRef rest, Clock::time_point deadline,
                     ChildResult &result) {
  ::fcntl(input.value, F_SETFL, O_NONBLOCK);
  while (output.value >= 0 || errors.value >= 0) {
    if (input.value >= 0 && rest.empty())
      input.reset();
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
                    deadline - Clock::now())
                    .count();
    if (left <= 0) {
      result.timedOut = true;
      kill();
      return;
    }
    pollfd polled[] = {{output.value, POLLIN, 0},
                       {errors.value, POLLIN, 0},
                       {input.value, POLLOUT, 0}};
    if (::poll(polled, 3, int(std::min<int64_t>(left, 1000))) <= 0)
      continue;
    if (polled[0].revents && !readInto(output, result.output))
      output.reset();
    if (polled[1].revents && !readInto(errors, result.errors))
      errors.reset();
    if (polled[2].revents) {
      ssize_t sent =
          ::send(input.value, rest.data(), rest.size(), MSG_NOSIGNAL);
      if (sent > 0)
        rest = rest.drop_front(size_t(sent));
      else if (sent < 0 && errno != EINTR && errno != EAGAIN)
        input.reset(); // it does not want to read on
    }
  }
}

void Child::finish(Clock::time_point deadline, ChildResult &result) {
  std::chrono::microseconds nap(200);
  for (;;) {
    int status = 0;
    pid_t ended = ::waitpid(pid, &status, WNOHANG);
    if (ended == pid) {
      result.status =
          WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      return;
    }
    if (ended < 0 && errno != EINTR)
      return; // the host reaped it, or ignores SIGCHLD
    if (!result.timedOut && Clock::now() > deadline) {
      result.timedOut = true;
      kill();
    }
    std::this_thread::sleep_for(nap);
    nap = std::min<std::chrono::microseconds>(nap * 2,
                                              std::chrono::milliseconds(5));
  }
}

llvm::Expected<ChildResult> runChild(llvm::ArrayRef<std::string> arguments,
                                     llvm::StringRef input,
                                     double timeoutSeconds,
                                     llvm::ArrayRef<std::string> defaults) {
  auto deadline =
      Clock::now() + std::chrono::duration_cast<Clock::duration>(
                         std::chrono::duration<double>(timeoutSeconds));
  Child child;
  if (llvm::Error error = child.start(arguments, defaults))
    return std::move(error);
  ChildResult result;
  child.exchange(input, deadline, result);
  child.finish(deadline, result);
  return result;
}

} // namespace attnc
