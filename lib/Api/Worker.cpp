//===- Worker.cpp - Compiles in another process ---------------------------===//

#include "lib/Api/Worker.h"

#include "lib/Environment/Environment.h"
#include "lib/Support/ChildProcess.h"
#include "lib/Support/HugePages.h"

#include "llvm/ADT/SmallString.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"

#include <csignal>
#include <dlfcn.h>
#include <sys/prctl.h>
#include <unistd.h>

using namespace attnc;

//===----------------------------------------------------------------------===//
// What goes over the wire: entries, which check themselves
//===----------------------------------------------------------------------===//

static std::string writeRequest(const ProgramRequest &request) {
  Entry entry;
  entry.compiler = compilerFingerprint();
  entry.metadata = {{"target", request.target},
                    {"schedule", request.schedule},
                    {"cpu", request.cpu},
                    {"features", request.features},
                    {"layout", request.anyLayout ? "any" : ""}};
  entry.sections.emplace_back("ir", request.ir);
  return entry.serialize();
}

static std::string writeReply(const Result<Entry> &result,
                              const PhaseTimes &times) {
  Entry reply;
  reply.compiler = compilerFingerprint();
  std::string lines;
  for (auto &[phase, seconds] : times)
    lines += phase + " " + std::to_string(seconds) + "\n";
  reply.sections.emplace_back("times", lines);
  if (result) {
    reply.sections.emplace_back("entry", result->serialize());
  } else {
    reply.metadata["status"] = std::to_string(int(result.failure().status));
    reply.sections.emplace_back("message", result.failure().message);
  }
  return reply.serialize();
}

static Result<Entry> readReply(const Entry &reply, PhaseTimes &times) {
  if (const std::string *lines = reply.section("times")) {
    llvm::SmallVector<llvm::StringRef> split;
    llvm::StringRef(*lines).split(split, '\n', -1, /*KeepEmpty=*/false);
    for (llvm::StringRef line : split) {
      auto [phase, text] = line.split(' ');
      double seconds = 0;
      if (!text.getAsDouble(seconds))
        times.emplace_back(phase.str(), seconds);
    }
  }
  if (const std::string *entry = reply.section("entry"))
    return parseEntry(*entry);
  const std::string *message = reply.section("message");
  auto status = reply.metadata.find("status");
  int number = int(Status::Internal);
  if (status != reply.metadata.end())
    llvm::StringRef(status->second).getAsInteger(10, number);
  return Failure{Status(number), message ? *message : "nothing was said"};
}

//===----------------------------------------------------------------------===//
// The host's side
//===----------------------------------------------------------------------===//

/// The tool beside this library (a wheel has it there), else in the bin folder
/// beside the library's own.
static std::string findWorker() {
  if (auto chosen = environment(Variable::Worker))
    return *chosen == "off" ? "" : *chosen;
  Dl_info info;
  if (!dladdr(reinterpret_cast<void *>(&compilerFingerprint), &info) ||
      !info.dli_fname)
    return "";
  llvm::SmallString<256> path(info.dli_fname);
  // A program that is found on PATH is known by its bare name.
  if (!llvm::StringRef(path).contains('/'))
    path = llvm::sys::fs::getMainExecutable(nullptr, nullptr);
  llvm::StringRef folder = llvm::sys::path::parent_path(path);
  for (std::string candidate :
       {(folder + "/attnc").str(), (folder + "/../bin/attnc").str()})
    if (llvm::sys::fs::can_execute(candidate))
      return candidate;
  return "";
}

static double compileTimeout() {
  unsigned seconds = 0;
  auto text = environment(Variable::CompileTimeout);
  if (text && !llvm::StringRef(*text).getAsInteger(10, seconds) && seconds)
    return seconds;
  return 600;
}

/// How a worker that gave no answer ended.
static Failure describeEnd(const ChildResult &child, double timeout) {
  std::string message;
  if (child.timedOut)
    message = "the compiler did not finish in " + std::to_string(int(timeout)) +
              " s (ATTNC_COMPILE_TIMEOUT) and was ended";
  else
    message = "the compiler's process ended with " +
              describeStatus(child.status) + " and no answer";
  llvm::StringRef said =
      llvm::StringRef(child.errors).trim().take_front(500).split('\n').first;
  if (!said.empty())
    message += ": " + said.str();
  return {Status::CompileFailed,
          message + "; this is a bug in attnc, please report it with the IR"};
}

Result<Entry> attnc::compileAside(const ProgramRequest &request,
                                  PhaseTimes &times, std::string &note) {
  std::string worker = findWorker();
  if (worker.empty())
    return compileRequest(request, times);
  double timeout = compileTimeout();
  auto child = runChild({worker, "worker"}, writeRequest(request), timeout);
  if (!child) {
    note = "compiling in this process: " + llvm::toString(child.takeError());
    return compileRequest(request, times);
  }
  Result<Entry> reply = parseEntry(child->output);
  if (!reply || (!reply->section("entry") && !reply->section("message")))
    return describeEnd(*child, timeout);
  if (reply->compiler == compilerFingerprint())
    return readReply(*reply, times);
  note = "compiling in this process: " + worker +
         " is of another version than the library";
  return compileRequest(request, times);
}

//===----------------------------------------------------------------------===//
// The worker's side
//===----------------------------------------------------------------------===//

static bool readAll(int fd, std::string &bytes) {
  char buffer[65536];
  for (;;) {
    ssize_t got = ::read(fd, buffer, sizeof(buffer));
    if (got == 0)
      return true;
    if (got < 0 && errno != EINTR)
      return false;
    bytes.append(buffer, size_t(std::max<ssize_t>(got, 0)));
  }
}

static void writeAll(int fd, llvm::StringRef bytes) {
  while (!bytes.empty()) {
    ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno != EINTR)
      return;
    bytes = bytes.drop_front(size_t(std::max<ssize_t>(written, 0)));
  }
}

int attnc::runWorker() {
  // Nobody waits for what a process that is gone asked for.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  keepChildrenInGroup();
  useHugePages();
  std::string bytes;
  if (!readAll(STDIN_FILENO, bytes))
    return 1;
  PhaseTimes times;
  auto answer = [&](Result<Entry> result) {
    writeAll(STDOUT_FILENO, writeReply(result, times));
    return 0;
  };
  Result<Entry> read = parseEntry(bytes);
  if (!read)
    return answer(
        Failure{Status::Internal, "the request is " + read.failure().message});
  if (read->compiler != compilerFingerprint())
    return answer(Failure{Status::Internal, "of another version"});
  ProgramRequest request;
  if (const std::string *ir = read->section("ir"))
    request.ir = *ir;
  request.target = read->metadata["target"];
  request.schedule = read->metadata["schedule"];
  request.cpu = read->metadata["cpu"];
  request.features = read->metadata["features"];
  request.anyLayout = read->metadata["layout"] == "any";
  return answer(compileRequest(request, times));
}
