//===- TileToHopper.cpp - Schedules tile kernels on Hopper ----------------===//
//
// A tile kernel says what a block of queries does; this pass decides who does
// it and when, as its #tile.schedule asks:
//
// - Loads that feed products become copies by the producer: into rings inside
//   the loop over keys, into one or two slots outside it. Copies are bulk
//   copies (TMA) where the view allows them, else all threads of the producer
//   copy element by element.
// - Everything else goes to the consumer warpgroups, 64 rows each.
// - Index arithmetic is done by both roles; what a role does not use, a
//   clean-up removes.
// - The order says when products are started and waited for: `serial` waits
//   for each at once; Overlap.cpp, TwoTiles.cpp and Deferred.cpp hold the
//   others.
//
// Nothing here knows what the elementwise work is. TileToHopper/ holds the
// scheduler.
//
//===----------------------------------------------------------------------===//

#include "passes/LaunchItems.h"
#include "passes/Passes.h"
#include "passes/TileToHopper/Scheduler.h"

#include "mlir/Dialect/Affine/IR/AffineOps.h"

namespace attnc {
#define GEN_PASS_DEF_TILETOHOPPER
#include "passes/Passes.h.inc"
} // namespace attnc

using namespace mlir;
using namespace attnc;

namespace {

struct TileToHopperPass
    : public attnc::impl::TileToHopperBase<TileToHopperPass> {
  using TileToHopperBase::TileToHopperBase;

  /// Each cluster of a launch has all its thread blocks, those whose items do
  /// not exist as well.
  void fillClusters(tile::KernelOp kernel, int64_t cluster) {
    getOperation().walk([&](tile::LaunchOp launch) {
      if (launch.getKernel() != kernel.getSymName())
        return;
      OpBuilder builder(launch);
      launch.getItemsMutable().assign(
          countItems(builder, launch, kernel, cluster));
    });
  }

  void runOnOperation() override {
    SmallVector<tile::KernelOp> kernels;
    for (auto kernel : getOperation().getOps<tile::KernelOp>())
      kernels.push_back(kernel);
    for (tile::KernelOp kernel : kernels) {
      auto schedule = kernel.getSchedule();
      if (!schedule || schedule->getConsumers() == 0) {
        kernel.emitError("has no schedule for a GPU: #tile.schedule with "
                         "consumers is needed");
        return signalPassFailure();
      }
      scheduling::Scheduler scheduler(kernel, anyLayout);
      if (failed(scheduler.run()))
        return signalPassFailure();
      if (scheduler.getCluster() > 1)
        fillClusters(kernel, scheduler.getCluster());
      kernel.erase();
      ++numScheduled;
    }
  }
};

} // namespace
