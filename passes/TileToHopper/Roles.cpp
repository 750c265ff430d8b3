//===- Roles.cpp - The kernel and its roles -------------------------------===//
//
// Makes the hopper.kernel with its rings and, in it, the code of the producer
// and that of the consumers: both walk through the same items. Index arithmetic
// is emitted for both; what a role does not use is removed at its end.
//
//===----------------------------------------------------------------------===//

#include "passes/TileToHopper/Scheduler.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::scheduling;

/// Users come after what they use, so one pass from the end finds all.
static void eraseUnused(Block &block) {
  for (Operation &op : llvm::make_early_inc_range(llvm::reverse(block))) {
    for (Region &region : op.getRegions())
      for (Block &inner : region)
        eraseUnused(inner);
    if (isOpTriviallyDead(&op))
      op.erase();
  }
}

LogicalResult Scheduler::run() {
  if (failed(analyse()) || failed(checkBudgets()))
    return failure();
  auto roles = hopper::getDefaultRoles(
      b.getContext(), schedule.getConsumers(), schedule.getPersistent(),
      isCooperative(), schedule.getResident(), cluster);
  b.setInsertionPoint(kernel);
  out = hopper::KernelOp::create(
      b, loc, kernel.getSymName(), kernel.getFunctionType(),
      kernel.getArgAttrsAttr(), kernel.getResAttrsAttr(), roles);
  Block *body = &out.getBody().emplaceBlock();
  for (BlockArgument argument : kernel.getArguments())
    kernelMap.map(argument, body->addArgument(argument.getType(), loc));
  b.setInsertionPointToStart(body);
  for (Operation &op : kernel.getBody().front().without_terminator())
    if (!isa<tile::ItemsOp>(op))
      b.clone(op, kernelMap);
  for (auto &[op, copy] : copies)
    makeRing(copy);
  if (exchange)
    makeExchange();
  makePrefetchScratch();
  if (failed(emitRole(/*producer=*/true)) ||
      failed(emitRole(/*producer=*/false))) {
    out.erase();
    return failure();
  }
  return success();
}

LogicalResult Scheduler::emitRole(bool producer) {
  OpBuilder::InsertionGuard guard(b);
  Role role;
  role.map = kernelMap;
  Operation *op;
  if (producer) {
    auto roleOp = hopper::ProducerOp::create(b, loc, isCooperative());
    b.setInsertionPointToStart(&roleOp.getBody().emplaceBlock());
    op = roleOp;
  } else {
    auto roleOp = hopper::ConsumersOp::create(b, loc);
    Block &block = roleOp.getBody().emplaceBlock();
    consumer = block.addArgument(b.getIndexType(), loc);
    b.setInsertionPointToStart(&block);
    firstRow =
        arith::MulIOp::create(b, loc, consumer, constant(hopper::kWgmmaRows));
    firstRowI32 = arith::IndexCastOp::create(b, loc, b.getI32Type(), firstRow);
    if (schedule.getPingpong())
      hopper::TurnInitOp::create(b, loc, consumer);
    op = roleOp;
  }
  for (auto &[load, copy] : copies)
    role.cursors[load] = hopper::StartOp::create(b, loc);
  if (exchange && !producer)
    for (Operation *op : {getPutter(), getReader()})
      role.cursors[op] = hopper::StartOp::create(b, loc);
  // Who takes an item, from here on: a cluster, if there are any.
  Value block = hopper::BlockOp::create(b, loc);
  if (cluster > 1)
    block = arith::DivUIOp::create(b, loc, block, constant(cluster));
  if (!schedule.getPersistent()) {
    if (failed(emitItem(role, producer, block)))
      return failure();
  } else {
    Visits visits = planVisits(role, block);
    SmallVector<Value> carried = llvm::to_vector(
        llvm::map_range(role.cursors, [](auto &p) { return p.second; }));
    auto each = scf::ForOp::create(b, loc, constant(0), visits.count,
                                   constant(1), carried);
    for (auto [pair, value] : llvm::zip(role.cursors, each.getRegionIterArgs()))
      pair.second = value;
    b.setInsertionPointToStart(each.getBody());
    Value item = getVisited(visits, block, each.getInductionVar());
    if (failed(emitItem(role, producer, item)))
      return failure();
    SmallVector<Value> ends = llvm::to_vector(
        llvm::map_range(role.cursors, [](auto &p) { return p.second; }));
    // A loop that carries nothing has its end already.
    if (!ends.empty())
      scf::YieldOp::create(b, loc, ends);
    b.setInsertionPointAfter(each);
    for (auto [pair, value] : llvm::zip(role.cursors, each.getResults()))
      pair.second = value;
  }
  if (producer)
    awaitCluster(role);
  // Both roles emit all index arithmetic; remove what each does not use.
  eraseUnused(op->getRegion(0).front());
  return success();
}
