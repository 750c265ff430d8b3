//===- HopperToLLVM.cpp - Hopper kernels become LLVM and PTX --------------===//
//
// One walk over a hopper kernel that emits an llvm.func: a fragment becomes
// the scalars that a thread holds of it, structured control flow becomes
// branches, and what has no intrinsic becomes inline PTX. Scalar arith and
// math ops are copied and converted at the end. HopperToLLVM/ holds the walk.
//
//===----------------------------------------------------------------------===//

#include "passes/HopperToLLVM/KernelLowering.h"
#include "passes/Passes.h"

#include "llvm/ADT/StringMap.h"
#include "llvm/ADT/StringSet.h"

namespace attnc {
#define GEN_PASS_DEF_HOPPERTOLLVM
#include "passes/Passes.h.inc"
} // namespace attnc

using namespace mlir;
using namespace attnc;
using namespace attnc::hopper;
using namespace attnc::hopper::lowering;

namespace {

struct HopperToLLVMPass
    : public attnc::impl::HopperToLLVMBase<HopperToLLVMPass> {
  void runOnOperation() override {
    ModuleOp module = getOperation();
    SmallVector<KernelOp> kernels(module.getOps<KernelOp>());
    if (kernels.empty())
      return;
    declareSharedMemory(module);
    llvm::StringMap<LaunchOrder> orders = findOrders(module);
    for (KernelOp kernel : kernels) {
      LaunchOrder order = orders.lookup(kernel.getSymName());
      if (failed(KernelLowering(kernel, order).run()))
        return signalPassFailure();
      kernel.erase();
      ++numLowered;
    }
    for (auto func : module.getOps<LLVM::LLVMFuncOp>())
      if (failed(lowering::convertScalars(func)))
        return signalPassFailure();
  }

  /// Kernels of which several blocks fit on a multiprocessor are short: that
  /// they begin beside the end of the launch before them counts.
  llvm::StringMap<LaunchOrder> findOrders(ModuleOp module) {
    llvm::StringSet<> firsts;
    SmallVector<std::pair<StringRef, StringRef>> neighbours;
    for (auto program : module.getOps<tile::ProgramOp>()) {
      StringRef before;
      for (auto launch : program.getBody().getOps<tile::LaunchOp>()) {
        if (before.empty())
          firsts.insert(launch.getKernel());
        else
          neighbours.emplace_back(before, launch.getKernel());
        before = launch.getKernel();
      }
    }
    llvm::StringMap<LaunchOrder> orders;
    for (auto kernel : module.getOps<KernelOp>())
      orders[kernel.getSymName()].follows =
          kernel.getRoles().getResident() > 1 &&
          !firsts.contains(kernel.getSymName());
    for (auto [before, after] : neighbours)
      if (orders.lookup(after).follows)
        orders[before].leads = true;
    return orders;
  }

  /// All dynamic shared memory; kernels use it one at a time.
  void declareSharedMemory(ModuleOp module) {
    auto b = OpBuilder::atBlockBegin(module.getBody());
    auto type = LLVM::LLVMArrayType::get(b.getI8Type(), 0);
    LLVM::GlobalOp::create(b, module.getLoc(), type, /*isConstant=*/false,
                           LLVM::Linkage::External, kSharedName, Attribute(),
                           kAtomBytes, kSharedSpace);
  }
};

} // namespace
