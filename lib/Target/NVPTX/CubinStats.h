//===- CubinStats.h - What machine code consists of -------------*- C++ -*-===//
//
// Counts of instructions, read from the cubin itself: an unexpected move in
// the loop or a matrix product gone missing shows in a test without a GPU and
// without the vendor's disassembler.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_LIB_TARGET_NVPTX_CUBINSTATS_H
#define ATTNC_LIB_TARGET_NVPTX_CUBINSTATS_H

#include "lib/Target/NVPTX/Ptxas.h"

#include "llvm/Support/raw_ostream.h"

#include <map>

namespace attnc {

/// Instructions by name (HGMMA, MUFU, ...); what has no name here is "other".
using InstructionCounts = std::map<std::string, int64_t>;

struct KernelCode {
  std::string kernel;
  InstructionCounts counts; // without the padding after the end
  /// Of the smallest loop that holds a matrix instruction; empty if there is
  /// none.
  InstructionCounts loop;
};

llvm::Expected<std::vector<KernelCode>> readCubin(llvm::StringRef image);

/// One JSON object: resources, remarks and counts of each kernel, in a stable
/// order.
void printStatsJson(llvm::raw_ostream &os, const PtxasLog &log,
                    const std::vector<KernelCode> &code);

} // namespace attnc

#endif // ATTNC_LIB_TARGET_NVPTX_CUBINSTATS_H
