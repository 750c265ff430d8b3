//===- Ladder.cpp - Plainer schedules where machine code is not clean -----===//

#include "lib/Compiler/Ladder.h"

#include "dialects/attn/Attn.h"
#include "lib/Target/NVPTX/Ptxas.h"
#include "passes/AttnKernels.h"
#include "passes/ScheduleChoice.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/raw_ostream.h"

using namespace attnc;
using namespace mlir;
using llvm::Error;

namespace {

/// Kernels that an op becomes, and the schedules to try for them: none if it
/// has one of its own.
struct Kernels {
  /// Of the ops that become kernels, and where the schedule goes.
  size_t op;
  StringRef attribute = kScheduleAttr;
  SmallVector<tile::ScheduleAttr> ladder;
  size_t rung = 0;
  /// One for each gradient that is used; several where keys are split.
  size_t count = 1;
  /// As many kernels as the others leave.
  bool isMany = false;
  /// Of the kernel in which queries stay: whose it is. The others come next.
  attn::BackwardOp backward;
};

/// The ops that become kernels, in the order of the kernels.
SmallVector<Operation *> findKernelOps(ModuleOp module) {
  SmallVector<Operation *> ops;
  module.walk([&](Operation *op) {
    if (isa<attn::FusedOp, attn::RowNormOp, attn::BackwardOp, attn::RowSumsOp,
            attn::RowDotOp, attn::SumOp, attn::EpilogueOp,
            attn::EpilogueGradientOp>(op))
      ops.push_back(op);
  });
  return ops;
}

/// Of gradients, the kernel in which queries stay.
Kernels makeQueryLadder(attn::BackwardOp op, size_t index,
                        const CompileOptions &options) {
  StringRef name = targetName(options.target);
  tile::ScheduleProblem problem =
      getScheduleProblem(op, options.anyLayout, /*queriesStay=*/true);
  Kernels kernels;
  kernels.op = index;
  kernels.attribute = kQueryScheduleAttr;
  kernels.backward = op;
  kernels.ladder = tile::getScheduleLadder(
      name, problem, tile::chooseSchedule(op->getContext(), name, problem));
  return kernels;
}

/// With one kernel for all gradients, there is none in which queries stay.
void countQueryKernels(MutableArrayRef<Kernels> all) {
  for (auto [index, kernels] : llvm::enumerate(all))
    if (kernels.backward) {
      const Kernels &others = all[index + 1];
      kernels.count =
          hasQueryKernel(kernels.backward, others.ladder[others.rung]);
    }
}

SmallVector<Kernels> makeLadders(ModuleOp module,
                                 const CompileOptions &options) {
  StringRef name = targetName(options.target);
  module.getContext()->loadDialect<tile::TileDialect>();
  SmallVector<Kernels> all;
  for (auto [index, op] : llvm::enumerate(findKernelOps(module))) {
    Kernels &kernels = all.emplace_back();
    kernels.op = index;
    kernels.isMany = isa<attn::BackwardOp>(op);
    if (isa<attn::EpilogueGradientOp>(op))
      kernels.count = llvm::count_if(
          op->getResults(), [](Value result) { return !result.use_empty(); });
    // Without products there is little that could be done in another way.
    if (op->hasAttr(kScheduleAttr) ||
        isa<attn::SumOp, attn::EpilogueOp, attn::EpilogueGradientOp>(op))
      continue;
    tile::ScheduleAttr first =
        chooseScheduleOf(op, name, options.anyLayout, options.schedule);
    kernels.count = first.getSplits() ? 1 + getCombineShapes(first).size() : 1;
    kernels.ladder = tile::getScheduleLadder(
        name, getScheduleProblem(op, options.anyLayout), first);
    if (auto backward = dyn_cast<attn::BackwardOp>(op))
      all.insert(all.end() - 1, makeQueryLadder(backward, index, options));
  }
  return all;
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

/// The names of each op's kernels; none where it cannot be known whose they
/// are.
SmallVector<ArrayRef<StringRef>> shareNames(ArrayRef<Kernels> all,
                                            ArrayRef<StringRef> names) {
  size_t many = 0, others = 0;
  for (const Kernels &kernels : all) {
    many += kernels.isMany;
    others += kernels.isMany ? 0 : kernels.count;
  }
  if (many > 1 || names.size() < many + others ||
      (many == 0 && names.size() != others))
    return {};
  SmallVector<ArrayRef<StringRef>> shares;
  size_t left = names.size() - others;
  for (const Kernels &kernels : all) {
    size_t count = kernels.isMany ? left : kernels.count;
    shares.push_back(names.take_front(count));
    names = names.drop_front(count);
  }
  return shares;
}

/// Takes a step on the ladder of each op with a kernel that is not clean. What
/// it says of them is empty if none could.
std::string takeSteps(MutableArrayRef<Kernels> all,
                      ArrayRef<ArrayRef<StringRef>> shares,
                      const PtxasLog &log) {
  std::string remarks;
  llvm::raw_string_ostream stream(remarks);
  for (auto [kernels, names] : llvm::zip(all, shares)) {
    if (kernels.rung + 1 >= kernels.ladder.size())
      continue;
    Attribute from = kernels.ladder[kernels.rung];
    Attribute to = kernels.ladder[kernels.rung + 1];
    bool isClean = true;
    for (StringRef name : names) {
      auto offences = findOffences(log, name);
      if (offences.empty())
        continue;
      isClean = false;
      stream << "remark: kernel '" << name << "': " << from
             << " is rejected: " << llvm::join(offences, "; ") << "; trying "
             << to << '\n';
    }
    kernels.rung += !isClean;
  }
  return remarks;
}

} // namespace

Error attnc::climbLadder(Artifact &artifact, const CompileOptions &options,
                         llvm::function_ref<Error(Artifact &)> attempt) {
  OwningOpRef<ModuleOp> fused = std::move(artifact.module);
  SmallVector<Kernels> kernels = makeLadders(*fused, options);
  std::string said = artifact.warnings;
  Artifact best;
  for (bool first = true;; first = false) {
    Artifact next;
    next.phase = artifact.phase;
    next.module = fused->clone();
    SmallVector<Operation *> ops = findKernelOps(*next.module);
    for (const Kernels &kernel : kernels)
      if (kernel.rung) {
        Operation *op = ops[kernel.op];
        op->setAttr(kernel.attribute, kernel.ladder[kernel.rung]);
        op->setAttr(kSteppedAttr, UnitAttr::get(op->getContext()));
      }
    if (Error error = attempt(next)) {
      if (first)
        return error;
      // A plainer schedule that cannot be: what there is must do.
      said += "remark: " + toString(std::move(error)) + "\n";
      break;
    }
    best = std::move(next);
    countQueryKernels(kernels);
    SmallVector<StringRef> names = findKernelNames(best);
    std::string remarks = takeSteps(kernels, shareNames(kernels, names),
                                    parsePtxasLog(best.assemblerLog));
    if (remarks.empty())
      break;
    said += remarks;
  }
  artifact = std::move(best);
  artifact.warnings = said + artifact.warnings;
  return Error::success();
}
