//===- Clusters.cpp - Thread blocks that share copies ---------------------===//
//
// Thread blocks of a cluster take neighbours along the last dim of the items,
// of the same head, and copy the keys that any of them needs once for all: each
// copies a part, to every block. So all of them walk through the same blocks of
// keys.
//
//===----------------------------------------------------------------------===//

#include "passes/TileToHopper/Scheduler.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::scheduling;

/// Says why the schedule cannot have the cluster that it asks for.
static InFlightDiagnostic
refuseCluster(Operation *at, tile::ScheduleAttr schedule, const Twine &why) {
  return at->emitError() << "schedule: cluster = " << schedule.getCluster()
                         << " " << why << "; try cluster = 1";
}

/// What a schedule with a cluster may ask for besides.
static LogicalResult checkCluster(tile::KernelOp kernel,
                                  tile::ScheduleAttr schedule) {
  int64_t size = schedule.getCluster();
  if (size != 2 && size != 4)
    return refuseCluster(kernel, schedule,
                         "is none of the sizes 1, 2 and 4 that are built");
  if (schedule.getOrder() == tile::Order::TwoTiles)
    return refuseCluster(kernel, schedule,
                         "cannot be combined with order = two_tiles");
  if (schedule.getOrder() == tile::Order::Deferred)
    return refuseCluster(kernel, schedule,
                         "cannot be combined with order = deferred, whose "
                         "consumers exchange weights");
  if (schedule.getResident() != 1 || schedule.getSplits() ||
      schedule.getPackGroups())
    return refuseCluster(kernel, schedule,
                         "needs thread blocks with an SM each and rows of one "
                         "head: resident = 1, splits = 0, pack_groups = "
                         "false");
  // The swizzle of a part begins anew after 8 rows.
  int64_t rows = hopper::kAtomBytes / hopper::kPanelBytes * size;
  if (schedule.getBlockN() % rows)
    return refuseCluster(kernel, schedule,
                         "needs a block_n that is a multiple of " +
                             Twine(rows) + ", got " +
                             Twine(schedule.getBlockN()));
  WalkResult adds = kernel.walk([&](tile::StoreOp store) {
    return store.getAdd() ? WalkResult::interrupt() : WalkResult::advance();
  });
  if (adds.wasInterrupted())
    return refuseCluster(kernel, schedule,
                         "cannot be combined with sums that other items add "
                         "to, too");
  return success();
}

/// What the thread blocks of a cluster share: copies in the loop over keys that
/// are the same for all items that differ in the last coordinate only. A kernel
/// without such a loop has no cluster.
LogicalResult Scheduler::findShared() {
  if (schedule.getCluster() == 1)
    return success();
  if (failed(checkCluster(kernel, schedule)))
    return failure();
  // A block beyond the last one takes part, and must not read for it.
  for (auto load : items.getBody().getOps<tile::LoadScalarOp>())
    if (dependsOnLast(load.getCoordinates()))
      return refuseCluster(load, schedule,
                           "cannot share work that depends on a number read "
                           "for each block of queries");
  for (auto &[op, copy] : copies) {
    if (!copy.bulk)
      return refuseCluster(op, schedule,
                           "shares bulk copies, and this operand is copied by "
                           "threads");
    copy.shared = copy.inLoop && !items.getCounts().empty() &&
                  !dependsOnLast(copy.load.getCoordinates());
    if (copy.shared)
      cluster = schedule.getCluster();
  }
  if (cluster == 1)
    return refuseCluster(kernel, schedule,
                         "has nothing to share: no operand of a product in the "
                         "loop over keys is the same for neighbours");
  return success();
}

/// From the first to the last block that an item of the cluster needs.
Scheduler::Range Scheduler::getClusterRange(Role &role) {
  Block &body = items.getBody().front();
  Value none = constant(INT32_MAX), zero = constant(0);
  bool sameBegin = !dependsOnLast(loop.getLo());
  Range all;
  for (int64_t r = 0; r < cluster; ++r) {
    IRMapping map = role.map;
    map.map(body.getArguments().back(),
            arith::AddIOp::create(b, loc, firstLast, constant(r)));
    for (Operation &op : llvm::make_range(body.begin(), loop->getIterator()))
      if (isScalar(&op) && dependsOnLast(op.getOperands()))
        b.clone(op, map);
    Range one =
        getRange(map.lookup(loop.getLo()), {}, {}, map.lookup(loop.getHi()));
    if (!sameBegin) {
      // An item without keys begins nowhere.
      Value any = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::slt,
                                        one.begin, one.end);
      one.begin = arith::SelectOp::create(b, loc, any, one.begin, none);
      one.end = arith::SelectOp::create(b, loc, any, one.end, zero);
    }
    if (r && !sameBegin)
      one.begin = arith::MinSIOp::create(b, loc, all.begin, one.begin);
    if (r)
      one.end = arith::MaxSIOp::create(b, loc, all.end, one.end);
    all = one;
  }
  return all;
}

/// Waits until every slot that the cluster filled is empty. Then no thread
/// block signals a barrier of this one any more, and the parts that this one
/// copied have come everywhere: it may end, and its shared memory with it. What
/// others copied to it was awaited by its consumers.
void Scheduler::awaitCluster(Role &role) {
  for (auto &[op, copy] : copies) {
    if (!copy.shared)
      continue;
    Value &cursor = role.cursors[op];
    for (int64_t s = 0; s < getStages(copy); ++s) {
      hopper::AcquireOp::create(b, loc, copy.ring, cursor);
      cursor = hopper::NextOp::create(b, loc, cursor, copy.ring);
    }
  }
}
