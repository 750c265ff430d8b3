//===- TilePlanLaunches.cpp - Launches get their number of items ----------===//
//
// The grid of a kernel is arithmetic in the kernel. This pass repeats that
// arithmetic in the program, before each launch, so that the host knows how
// many items to run without reading a kernel that a target has lowered.
//
//===----------------------------------------------------------------------===//

#include "passes/LaunchItems.h"
#include "passes/Passes.h"

#include "mlir/IR/IRMapping.h"
#include "llvm/ADT/SetVector.h"

namespace attnc {
#define GEN_PASS_DEF_TILEPLANLAUNCHES
#include "passes/Passes.h.inc"
} // namespace attnc

using namespace mlir;
using namespace attnc;

/// The ops of the kernel's prologue that its counts depend on.
static llvm::DenseSet<Operation *> sliceOfCounts(tile::ItemsOp items) {
  llvm::DenseSet<Operation *> slice;
  SmallVector<Value> work(items.getCounts());
  while (!work.empty()) {
    Operation *op = work.pop_back_val().getDefiningOp();
    if (op && slice.insert(op).second)
      llvm::append_range(work, op->getOperands());
  }
  return slice;
}

Value attnc::countItems(OpBuilder &builder, tile::LaunchOp launch,
                        tile::KernelOp kernel, int64_t cluster) {
  tile::ItemsOp items = kernel.getItems();
  llvm::DenseSet<Operation *> slice = sliceOfCounts(items);
  IRMapping map;
  map.map(kernel.getBody().getArguments(), launch.getArgs());
  for (Operation &op : kernel.getBody().front())
    if (slice.contains(&op))
      builder.clone(op, map);
  Value product;
  for (auto [index, count] : llvm::enumerate(items.getCounts())) {
    Value factor = map.lookup(count);
    if (cluster > 1 && index + 1 == items.getCounts().size()) {
      Value size =
          arith::ConstantIndexOp::create(builder, launch.getLoc(), cluster);
      factor =
          arith::CeilDivUIOp::create(builder, launch.getLoc(), factor, size);
      factor = arith::MulIOp::create(builder, launch.getLoc(), factor, size);
    }
    product = product ? arith::MulIOp::create(builder, launch.getLoc(), product,
                                              factor)
                            .getResult()
                      : factor;
  }
  if (!product)
    product = arith::ConstantIndexOp::create(builder, launch.getLoc(), 1);
  return product;
}

namespace {
struct TilePlanLaunches : attnc::impl::TilePlanLaunchesBase<TilePlanLaunches> {
  using TilePlanLaunchesBase::TilePlanLaunchesBase;

  void runOnOperation() override {
    SymbolTable symbols(getOperation());
    getOperation().walk([&](tile::LaunchOp launch) {
      auto kernel = symbols.lookup<tile::KernelOp>(launch.getKernel());
      if (launch.getItems() || !kernel)
        return;
      OpBuilder builder(launch);
      launch.getItemsMutable().assign(countItems(builder, launch, kernel));
      ++numPlanned;
    });
  }
};
} // namespace
