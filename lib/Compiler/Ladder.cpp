//===- Ladder.cpp - Plainer schedules where machine code is not clean -----===//

#include "lib/Compiler/Ladder.h"

#include "dialects/attn/Attn.h"
#include "lib/Target/NVPTX/Ptxas.h"
#include "passes/ScheduleChoice.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/raw_ostream.h"

using namespace attnc;
using namespace mlir;
using llvm::Error;

namespace {

/// What becomes a kernel, and the schedules to try for it: none if it has one
/// of its own.
struct Kernel {
  SmallVector<tile::ScheduleAttr> ladder;
  size_t rung = 0;
};

/// The ops that become kernels, in the order of the kernels.
SmallVector<Operation *> findKernelOps(ModuleOp module) {
  SmallVector<Operation *> ops;
  module.walk([&](Operation *op) {
    if (isa<attn::FusedOp, attn::RowNormOp>(op))
      ops.push_back(op);
  });
  return ops;
}

SmallVector<Kernel> makeLadders(ModuleOp module,
                                const CompileOptions &options) {
  StringRef name = targetName(options.target);
  module.getContext()->loadDialect<tile::TileDialect>();
  SmallVector<Kernel> kernels;
  for (Operation *op : findKernelOps(module)) {
    kernels.emplace_back();
    if (op->hasAttr(kScheduleAttr))
      continue;
    tile::ScheduleProblem problem = getScheduleProblem(op, options.anyLayout);
    kernels.back().ladder = tile::getScheduleLadder(
        name, problem,
        tile::chooseSchedule(module.getContext(), name, problem));
  }
  return kernels;
}

/// The names of the kernels that an attempt made.
SmallVector<StringRef> findKernelNames(const Artifact &artifact) {
  SmallVector<StringRef> names;
  ModuleOp module = artifact.module.get();
  for (auto function : module.getOps<LLVM::LLVMFuncOp>())
    if (function->hasAttr("nvvm.kernel"))
      names.push_back(function.getName());
  return names;
}

/// Takes a step on the ladder of each kernel that is not clean. What it says
/// of it is empty if no kernel could.
std::string takeSteps(MutableArrayRef<Kernel> kernels,
                      ArrayRef<StringRef> names, const PtxasLog &log) {
  std::string remarks;
  llvm::raw_string_ostream stream(remarks);
  for (auto [kernel, name] : llvm::zip(kernels, names)) {
    auto offences = findOffences(log, name);
    if (offences.empty() || kernel.rung + 1 >= kernel.ladder.size())
      continue;
    Attribute from = kernel.ladder[kernel.rung];
    Attribute to = kernel.ladder[++kernel.rung];
    stream << "remark: kernel '" << name << "': " << from
           << " is rejected: " << llvm::join(offences, "; ") << "; trying "
           << to << '\n';
  }
  return remarks;
}

} // namespace

Error attnc::climbLadder(Artifact &artifact, const CompileOptions &options,
                         llvm::function_ref<Error(Artifact &)> attempt) {
  OwningOpRef<ModuleOp> fused = std::move(artifact.module);
  SmallVector<Kernel> kernels = makeLadders(*fused, options);
  std::string said = artifact.warnings;
  Artifact best;
  for (bool first = true;; first = false) {
    Artifact next;
    next.phase = artifact.phase;
    next.module = fused->clone();
    for (auto [kernel, op] : llvm::zip(kernels, findKernelOps(*next.module)))
      if (kernel.rung)
        op->setAttr(kScheduleAttr, kernel.ladder[kernel.rung]);
    if (Error error = attempt(next)) {
      if (first)
        return error;
      // A plainer schedule that cannot be: what there is must do.
      said += "remark: " + toString(std::move(error)) + "\n";
      break;
    }
    best = std::move(next);
    SmallVector<StringRef> names = findKernelNames(best);
    std::string remarks;
    if (names.size() == kernels.size())
      remarks = takeSteps(kernels, names, parsePtxasLog(best.assemblerLog));
    if (remarks.empty())
      break;
    said += remarks;
  }
  artifact = std::move(best);
  artifact.warnings = said + artifact.warnings;
  return Error::success();
}
