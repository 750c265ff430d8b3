//===- Ptxas.cpp - From PTX to machine code -------------------------------===//

#include "lib/Target/NVPTX/Ptxas.h"

#include "lib/Environment/Environment.h"
#include "lib/Support/ChildProcess.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/SmallString.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/Process.h"
#include "llvm/Support/Program.h"
#include "llvm/Support/Regex.h"
#include "llvm/Support/raw_ostream.h"

#include <chrono>
#include <dlfcn.h>
#include <map>
#include <mutex>

#include <unistd.h>

namespace attnc {
namespace {

using llvm::SmallString;
using llvm::StringRef;

llvm::Error failure(const llvm::Twine &message) {
  return llvm::createStringError(message);
}

constexpr StringRef temporaryPrefix = "attnc";
/// No ptxas of ours runs as long: it is ended before.
constexpr std::chrono::hours abandonedAfter(1);

/// A temporary file that goes away with the object. Not with a process that is
/// killed: see removeLeftFiles.
class TemporaryFile {
public:
  static llvm::Expected<TemporaryFile> create(StringRef suffix) {
    TemporaryFile file;
    if (std::error_code code = llvm::sys::fs::createTemporaryFile(
            temporaryPrefix, suffix, file.path))
      return failure("cannot make a temporary file: " + code.message());
    return std::move(file);
  }
  TemporaryFile(TemporaryFile &&other) : path(other.path) {
    other.path.clear();
  }
  ~TemporaryFile() {
    if (!path.empty())
      llvm::sys::fs::remove(path);
  }
  const char *name() { return path.c_str(); }

  llvm::Error write(StringRef content) {
    std::error_code code;
    llvm::raw_fd_ostream stream(path, code);
    stream << content;
    stream.close();
    if (code || stream.has_error()) {
      stream.clear_error();
      return failure("cannot write " + path);
    }
    return llvm::Error::success();
  }
  llvm::Expected<std::string> read() {
    auto buffer = llvm::MemoryBuffer::getFile(path);
    if (!buffer)
      return failure("cannot read " + path + ": " +
                     buffer.getError().message());
    return (*buffer)->getBuffer().str();
  }

private:
  TemporaryFile() = default;
  SmallString<128> path;
};

/// An assembler touches 70 MB once: with huge pages it takes a tenth less time,
/// if its heap does not grow by less than one.
constexpr StringRef hugePages = "GLIBC_TUNABLES=glibc.malloc.hugetlb=1:"
                                "glibc.malloc.top_pad=67108864";

/// Runs an assembler; what it says comes back as text.
llvm::Expected<ChildResult> runProgram(llvm::ArrayRef<std::string> arguments,
                                       double timeoutSeconds) {
  auto result = runChild(arguments, "", timeoutSeconds, hugePages.str());
  if (result && result->timedOut)
    return failure(llvm::formatv("{0} did not finish in {1} s and was ended",
                                 arguments[0], timeoutSeconds));
  return result;
}

/// Whether a program came to a good end, as far as one can know.
bool succeeded(const ChildResult &result) {
  return result.status == 0 || result.status == ChildResult::unknown;
}

constexpr int oldestMajor = 12, oldestMinor = 4;

/// The version of a program; an error if it is not a ptxas that we can use.
llvm::Expected<std::string> versionOf(const std::string &program) {
  auto result = runProgram({program, "--version"}, 20);
  if (!result)
    return result.takeError();
  llvm::SmallVector<StringRef> match;
  int major = 0, minor = 0;
  if (!succeeded(*result) ||
      !llvm::Regex("release ([0-9]+)\\.([0-9]+), V([0-9.]+)")
           .match(result->output, &match) ||
      match[1].getAsInteger(10, major) || match[2].getAsInteger(10, minor))
    return failure("'" + program + " --version' is not that of a ptxas");
  if (std::pair(major, minor) < std::pair(oldestMajor, oldestMinor))
    return failure(llvm::formatv("{0} is of release {1}.{2}; {3}.{4} or later "
                                 "is needed",
                                 program, major, minor, oldestMajor,
                                 oldestMinor));
  return match[3].str();
}

/// A usable assembler and its version.
struct Found {
  std::string program, version;
};

/// The folder of the library or program that this is part of.
SmallString<256> ownFolder() {
  Dl_info info;
  SmallString<256> path;
  if (dladdr(reinterpret_cast<void *>(&ownFolder), &info) && info.dli_fname)
    path = info.dli_fname;
  llvm::sys::path::remove_filename(path);
  return path;
}

/// Where an assembler may be, best first. The nvidia packages of a Python
/// environment lie in <prefix>/lib/python3.N/site-packages/nvidia/*/bin; those
/// of a wheel, whose interpreter may be anywhere, beside its own.
std::vector<std::string> candidates() {
  std::vector<std::string> found;
  auto add = [&](const llvm::Twine &path) {
    SmallString<256> text;
    path.toVector(text);
    if (llvm::sys::fs::can_execute(text))
      found.push_back(text.str().str());
  };
  auto addNvidia = [&](const llvm::Twine &packages) {
    std::error_code code;
    for (llvm::sys::fs::directory_iterator i(packages + "/nvidia", code), end;
         !code && i != end; i.increment(code))
      add(i->path() + "/bin/ptxas");
  };
  auto addPackages = [&](StringRef prefix) {
    std::error_code code;
    SmallString<256> lib(prefix);
    llvm::sys::path::append(lib, "lib");
    for (llvm::sys::fs::directory_iterator i(lib, code), end; !code && i != end;
         i.increment(code))
      if (llvm::sys::path::filename(i->path()).starts_with("python3"))
        addNvidia(i->path() + "/site-packages");
  };
  std::string self = llvm::sys::fs::getMainExecutable(
      nullptr, reinterpret_cast<void *>(&candidates));
  SmallString<256> folder(llvm::sys::path::parent_path(self));
  add(folder + "/ptxas");
  addPackages(llvm::sys::path::parent_path(folder));
  if (SmallString<256> own = ownFolder(); !own.empty())
    addNvidia(own + "/..");
  if (auto packages = environment(Variable::VirtualEnv))
    addPackages(*packages);
  if (auto onPath = llvm::sys::findProgramByName("ptxas"))
    add(*onPath);
  for (Variable variable : {Variable::CudaHome, Variable::CudaPath})
    if (auto home = environment(variable))
      add(*home + "/bin/ptxas");
  add("/usr/local/cuda/bin/ptxas");
  return found;
}

llvm::Expected<Found> searchPtxas() {
  std::string rejected;
  for (const std::string &program : candidates()) {
    auto version = versionOf(program);
    if (version)
      return Found{program, *version};
    rejected += "\n  " + llvm::toString(version.takeError());
  }
  return failure("no usable ptxas: looked beside this program, in "
                 "$VIRTUAL_ENV, on PATH, in $CUDA_HOME and /usr/local/cuda. "
                 "Install the PyPI package nvidia-cuda-nvcc (13.0) or a CUDA "
                 "toolkit >= 12.4, or set ATTNC_PTXAS" +
                 rejected);
}

llvm::Expected<Found> chosenPtxas(const std::string &chosen) {
  auto version = versionOf(chosen);
  if (!version)
    return failure("ATTNC_PTXAS: " + llvm::toString(version.takeError()));
  return Found{chosen, *version};
}

/// Looks once for each value of ATTNC_PTXAS: it runs programs.
llvm::Expected<Found> findAssembler() {
  static std::mutex mutex;
  static std::map<std::string, Found> known;
  std::string chosen = environment(Variable::Ptxas).value_or("");
  std::lock_guard<std::mutex> lock(mutex);
  auto at = known.find(chosen);
  if (at != known.end())
    return at->second;
  auto found = chosen.empty() ? searchPtxas() : chosenPtxas(chosen);
  if (found)
    known[chosen] = *found;
  return found;
}

int64_t toInt(StringRef text) {
  int64_t value = 0;
  text.getAsInteger(10, value);
  return value;
}

/// "Used 168 registers, used 1 barriers, 1024 bytes smem"
void parseUsage(StringRef line, KernelResources &kernel) {
  llvm::SmallVector<StringRef> match;
  if (llvm::Regex("Used ([0-9]+) registers").match(line, &match))
    kernel.registers = toInt(match[1]);
  if (llvm::Regex("used ([0-9]+) barriers").match(line, &match))
    kernel.barriers = toInt(match[1]);
  if (llvm::Regex("([0-9]+) bytes smem").match(line, &match))
    kernel.sharedBytes = toInt(match[1]);
}

} // namespace

llvm::Expected<std::string> findPtxas() {
  auto found = findAssembler();
  if (!found)
    return found.takeError();
  return found->program;
}

/// The one that is tried first.
static std::string firstCandidate() {
  if (auto chosen = environment(Variable::Ptxas))
    return *chosen;
  std::vector<std::string> found = candidates();
  return found.empty() ? "" : found.front();
}

std::string ptxasIdentity() {
  std::string program = firstCandidate();
  llvm::sys::fs::file_status status;
  if (program.empty() || llvm::sys::fs::status(program, status) ||
      status.type() != llvm::sys::fs::file_type::regular_file)
    return "";
  return llvm::formatv(
      "{0} {1} {2}.{3}", program, status.getSize(),
      status.getLastModificationTime().time_since_epoch().count(),
      status.getUniqueID().getFile());
}

bool isPtxasTheFirst() {
  auto found = findPtxas();
  if (!found) {
    llvm::consumeError(found.takeError());
    return false;
  }
  return *found == firstCandidate();
}

llvm::Expected<std::string> ptxasVersion() {
  auto found = findAssembler();
  if (!found)
    return found.takeError();
  return found->version;
}

PtxasLog parsePtxasLog(StringRef text) {
  PtxasLog log;
  log.text = text.str();
  llvm::Regex entry("Compiling entry function '([^']+)'");
  llvm::Regex frame("([0-9]+) bytes stack frame, ([0-9]+) bytes spill "
                    "stores, ([0-9]+) bytes spill loads");
  llvm::Regex numbered("\\((C[0-9]+)\\) *(.*)");
  llvm::SmallVector<StringRef> lines, match;
  text.split(lines, '\n', -1, /*KeepEmpty=*/false);
  for (StringRef line : lines) {
    if (entry.match(line, &match)) {
      log.kernels.emplace_back();
      log.kernels.back().kernel = match[1].str();
    } else if (numbered.match(line, &match)) {
      log.remarks.push_back({match[1].str(), match[2].rtrim().str()});
    } else if (!log.kernels.empty() && frame.match(line, &match)) {
      KernelResources &kernel = log.kernels.back();
      kernel.stackBytes = toInt(match[1]);
      kernel.spillStoreBytes = toInt(match[2]);
      kernel.spillLoadBytes = toInt(match[3]);
    } else if (!log.kernels.empty() && line.contains("Used ")) {
      parseUsage(line, log.kernels.back());
    }
  }
  return log;
}

/// A spill or a stack frame, in words; empty if there is none.
static std::string describeSpill(const KernelResources &kernel) {
  if (!kernel.stackBytes && !kernel.spillStoreBytes && !kernel.spillLoadBytes)
    return {};
  return llvm::formatv("{0} bytes of stack, {1} of spill stores, {2} of spill "
                       "loads ({3} registers at entry)",
                       kernel.stackBytes, kernel.spillStoreBytes,
                       kernel.spillLoadBytes, kernel.registers);
}

static bool isOffence(const PtxasRemark &remark) {
  return StringRef(remark.code).starts_with("C75");
}

std::vector<std::string> findOffences(const PtxasLog &log, StringRef kernel) {
  std::vector<std::string> offences;
  for (const KernelResources &resources : log.kernels)
    if (resources.kernel == kernel)
      if (std::string spill = describeSpill(resources); !spill.empty())
        offences.push_back(spill);
  for (const PtxasRemark &remark : log.remarks) {
    auto names = [&](StringRef name) {
      return StringRef(remark.text).contains(("'" + name + "'").str());
    };
    bool named = llvm::any_of(log.kernels, [&](const KernelResources &each) {
      return names(each.kernel);
    });
    if (isOffence(remark) && (!named || names(kernel)))
      offences.push_back(remark.code + ": " + remark.text);
  }
  return offences;
}

llvm::Error checkClean(const PtxasLog &log) {
  std::string offences;
  for (const KernelResources &kernel : log.kernels)
    if (std::string spill = describeSpill(kernel); !spill.empty())
      offences += "\n  " + kernel.kernel + ": " + spill;
  for (const PtxasRemark &remark : log.remarks)
    if (isOffence(remark))
      offences += "\n  " + remark.code + ": " + remark.text;
  if (offences.empty())
    return llvm::Error::success();
  return failure("the machine code is not clean:" + offences);
}

/// As createTemporaryFile names them: attnc-0123ab.ptx.
static bool isOurs(StringRef name) {
  static const llvm::Regex pattern(
      ("^" + temporaryPrefix + "-[0-9a-f]{6}\\.(ptx|cubin)$").str());
  return pattern.match(name);
}

unsigned removeLeftFiles(StringRef folder) {
  unsigned removed = 0;
  auto now = std::chrono::system_clock::now();
  std::error_code code;
  for (llvm::sys::fs::directory_iterator i(folder, code, /*follow=*/false), end;
       !code && i != end; i.increment(code)) {
    llvm::sys::fs::file_status status;
    if (!isOurs(llvm::sys::path::filename(i->path())) ||
        llvm::sys::fs::status(i->path(), status, /*follow=*/false) ||
        status.type() != llvm::sys::fs::file_type::regular_file ||
        status.getUser() != geteuid())
      continue;
    // Clocks go wrong: from well into the future is as abandoned as old.
    auto age = now - status.getLastModificationTime();
    if (age > abandonedAfter || age < -abandonedAfter)
      removed += !llvm::sys::fs::remove(i->path());
  }
  return removed;
}

unsigned removeLeftFiles() {
  SmallString<128> folder;
  llvm::sys::path::system_temp_directory(/*ErasedOnReboot=*/true, folder);
  return removeLeftFiles(folder);
}

static llvm::Expected<Cubin> assembleWith(const std::string &program,
                                          StringRef ptx,
                                          const PtxasOptions &options) {
  auto input = TemporaryFile::create("ptx");
  if (!input)
    return input.takeError();
  auto output = TemporaryFile::create("cubin");
  if (!output)
    return output.takeError();
  if (llvm::Error error = input->write(ptx))
    return std::move(error);
  auto result = runProgram({program, "-v", "-arch=" + options.chip, "-O3",
                            input->name(), "-o", output->name()},
                           options.timeoutSeconds);
  if (!result)
    return result.takeError();
  std::string text = result->errors + result->output;
  if (!succeeded(*result))
    return failure(llvm::formatv("ptxas failed ({0}):\n{1}",
                                 describeStatus(result->status), text));
  auto image = output->read();
  if (!image)
    return image.takeError();
  if (!StringRef(*image).starts_with("\x7f"
                                     "ELF"))
    return failure(llvm::formatv("ptxas ended with {0}, but what it wrote is "
                                 "not machine code ({1} bytes):\n{2}",
                                 describeStatus(result->status), image->size(),
                                 text));
  return Cubin{std::move(*image), parsePtxasLog(text)};
}

llvm::Expected<Cubin> assemble(StringRef ptx, const PtxasOptions &options) {
  static std::once_flag once;
  std::call_once(once, [] { removeLeftFiles(); });
  if (!options.program.empty())
    return assembleWith(options.program, ptx, options);
  // Asking a program for its release takes a twentieth of an assembly's time,
  // and what is too old refuses our PTX.
  std::string first = firstCandidate();
  if (first.empty())
    return findPtxas().takeError();
  llvm::Expected<Cubin> cubin = assembleWith(first, ptx, options);
  if (cubin)
    return cubin;
  llvm::Expected<std::string> found = findPtxas();
  if (found && *found == first)
    return cubin;
  llvm::consumeError(cubin.takeError());
  if (!found)
    return found.takeError();
  return assembleWith(*found, ptx, options);
}

} // namespace attnc
