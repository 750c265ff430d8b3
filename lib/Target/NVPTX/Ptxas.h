//===- Ptxas.h - From PTX to machine code -----------------------*- C++ -*-===//
//
// ptxas runs as a child process: it is the only assembler that honours
// setmaxnreg (the in-process library drops it), and its failures stay outside
// of ours.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_LIB_TARGET_NVPTX_PTXAS_H
#define ATTNC_LIB_TARGET_NVPTX_PTXAS_H

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

#include <string>
#include <vector>

namespace attnc {

struct PtxasOptions {
  /// The program; empty: what findPtxas() finds, which is not called where the
  /// first candidate does.
  std::string program;
  std::string chip = "sm_90a";
  double timeoutSeconds = 120;
};

/// What ptxas says about one kernel.
struct KernelResources {
  std::string kernel;
  int64_t registers = 0;
  int64_t stackBytes = 0;
  int64_t spillStoreBytes = 0;
  int64_t spillLoadBytes = 0;
  int64_t barriers = 0;
  int64_t sharedBytes = 0;
};

/// A numbered remark such as C7510 ("wgmma serialized ...").
struct PtxasRemark {
  std::string code;
  std::string text;
};

struct PtxasLog {
  std::vector<KernelResources> kernels;
  std::vector<PtxasRemark> remarks;
  std::string text;
};

struct Cubin {
  std::string image;
  PtxasLog log;
};

/// The assembler: ATTNC_PTXAS, else one beside this program (bin/ptxas of a
/// build or of an environment's nvidia packages), else one on PATH or in the
/// CUDA toolkit. It must be of release 12.4 or later.
llvm::Expected<std::string> findPtxas();

/// The release of what findPtxas() finds, such as 13.0.88.
llvm::Expected<std::string> ptxasVersion();

/// What tells the assembler that would be tried first from any other file: its
/// path, size and time. Runs nothing; empty if there is none.
std::string ptxasIdentity();

/// Whether that is the one that findPtxas() finds.
bool isPtxasTheFirst();

/// Removes what processes of this user that were killed while ptxas ran left in
/// a folder of temporary files: an hour old or more, and named as ours are.
/// Returns how many. `assemble` does it once a process.
unsigned removeLeftFiles(llvm::StringRef folder);
/// The same in the folder that this process uses.
unsigned removeLeftFiles();

llvm::Expected<Cubin> assemble(llvm::StringRef ptx,
                               const PtxasOptions &options = {});

PtxasLog parsePtxasLog(llvm::StringRef text);

/// What is not clean about one kernel, as `checkClean` says it: empty if
/// nothing. A remark that names no kernel is about each.
std::vector<std::string> findOffences(const PtxasLog &log,
                                      llvm::StringRef kernel);

/// The postcondition of a compile: nothing spilled, no stack, and no remark
/// that says that the matrix pipeline was serialised or a register budget
/// ignored. The message names every offence.
llvm::Error checkClean(const PtxasLog &log);

} // namespace attnc

#endif // ATTNC_LIB_TARGET_NVPTX_PTXAS_H
