//===- Producer.cpp - The warpgroup that copies ---------------------------===//
//
// The producer walks through the items and their blocks of keys and fills the
// rings, as far ahead of the consumers as there are slots.
//
//===----------------------------------------------------------------------===//

#include "passes/TileToHopper/Scheduler.h"

#include "mlir/Dialect/Affine/Utils.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::scheduling;

void Scheduler::emitCopy(Role &role, Copy &copy) {
  tile::LoadOp load = copy.load;
  SmallVector<Value> symbols;
  for (Value coordinate : load.getCoordinates())
    symbols.push_back(role.map.lookup(coordinate));
  Value &cursor = role.cursors[load];
  hopper::AcquireOp::create(b, loc, copy.ring, cursor);
  if (copy.bulk) {
    Value zero = constant(0), row = zero;
    if (copy.shared)
      row = arith::MulIOp::create(
          b, loc, rank, constant(load.getTile().getType().getRows() / cluster));
    SmallVector<Value> coordinates;
    for (int64_t dim : copy.order)
      coordinates.push_back(affine::expandAffineExpr(
          b, loc, load.getMap().getResult(dim), {row, zero}, symbols));
    hopper::CopyOp::create(b, loc, copy.map, coordinates, copy.ring, cursor,
                           copy.shared ? rank : Value(),
                           copy.inLoop ? role.readOnce : Value());
  } else {
    Value rows = load.getRows() ? role.map.lookup(load.getRows()) : Value();
    hopper::CopyElementsOp::create(b, loc, role.map.lookup(load.getView()),
                                   symbols, load.getMap(), rows, copy.ring,
                                   cursor);
  }
  cursor = hopper::NextOp::create(b, loc, cursor, copy.ring);
}

/// Whether an item's copy has to wait for the end of the item before it: then
/// the first keys are to be on their way at that time.
bool Scheduler::followsFirstKeys(const Copy &copy) {
  return schedule.getPersistent() && loop && !copy.inLoop &&
         cast<hopper::RingType>(copy.ring.getType()).getStages() == 1 &&
         copy.load->getBlock() == loop->getBlock() &&
         copy.load->isBeforeInBlock(loop);
}

LogicalResult Scheduler::emitProducerBlock(Role &role, Block &block) {
  SmallVector<Copy *> late;
  for (Operation &op : block) {
    if (isScalar(&op)) {
      b.clone(op, role.map);
    } else if (auto found = copies.find(&op); found != copies.end()) {
      if (followsFirstKeys(found->second))
        late.push_back(&found->second);
      else
        emitCopy(role, found->second);
    } else if (isa<tile::ForKeysOp>(op)) {
      if (failed(emitProducerLoop(role, late)))
        return failure();
    }
  }
  return success();
}

/// The copies of the first block, that at `key`, then `late`. Gives the rest.
LogicalResult Scheduler::emitFirstKeys(Role &role, ArrayRef<Copy *> late,
                                       Value key, Range &range) {
  scf::IfOp choice;
  {
    OpBuilder::InsertionGuard guard(b);
    choice =
        ifAnyKeys(range.begin, range.end, getCursors(role, /*inLoop=*/true));
    role.map.map(loop.getKey(), key);
    if (failed(emitProducerBlock(role, *loop.getBody())))
      return failure();
    scf::YieldOp::create(b, loc, getCursors(role, /*inLoop=*/true));
  }
  setCursors(role, choice.getResults(), /*inLoop=*/true);
  for (Copy *copy : late)
    emitCopy(role, *copy);
  range.begin = arith::AddIOp::create(b, loc, range.begin, range.step);
  return success();
}

/// Where keys are split, whether those of this item are read by no other, or by
/// others at the same time: over a short range, items that began together stay
/// together. Null elsewhere: blocks of queries come one after the other.
Value Scheduler::isReadOnce(Role &role, const Range &range) {
  if (!schedule.getSplits())
    return {};
  // Measured with two blocks of queries: 0.5 MiB an item gain 6 %, 1 MiB
  // lose 2.
  constexpr int64_t kShortBytes = 768 * 1024;
  int64_t bytes = 0;
  for (auto &[op, copy] : copies)
    if (copy.inLoop) {
      auto ring = cast<hopper::RingType>(copy.ring.getType());
      bytes +=
          ring.getCols() * ring.getElementType().getIntOrFloatBitWidth() / 8;
    }
  Value blocks = role.map.lookup(items.getCounts().back());
  Value alone = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ule, blocks,
                                      constant(1));
  Value keys = arith::SubIOp::create(b, loc, range.end, range.begin);
  Value isShort = arith::CmpIOp::create(
      b, loc, arith::CmpIPredicate::sle, keys,
      constant(kShortBytes / std::max<int64_t>(bytes, 1)));
  return arith::OrIOp::create(b, loc, alone, isShort);
}

LogicalResult Scheduler::emitProducerLoop(Role &role, ArrayRef<Copy *> late) {
  Range range = getItemRange(role);
  role.readOnce = isReadOnce(role, range);
  Value lastKey = beginsWithLast() ? getLastKey(range) : Value();
  Value first = range.begin;
  if (!late.empty() &&
      failed(emitFirstKeys(role, late, lastKey ? lastKey : first, range)))
    return failure();
  auto each = scf::ForOp::create(b, loc, range.begin, range.end, range.step,
                                 getCursors(role, /*inLoop=*/true));
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(each.getBody());
  setCursors(role, each.getRegionIterArgs(), /*inLoop=*/true);
  Value key = each.getInductionVar();
  if (lastKey) {
    Value isFirst =
        arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, key, first);
    Value earlier = arith::SubIOp::create(b, loc, key, range.step);
    key = arith::SelectOp::create(b, loc, isFirst, lastKey, earlier);
  }
  role.map.map(loop.getKey(), key);
  if (failed(emitProducerBlock(role, *loop.getBody())))
    return failure();
  scf::YieldOp::create(b, loc, getCursors(role, /*inLoop=*/true));
  setCursors(role, each.getResults(), /*inLoop=*/true);
  return success();
}
