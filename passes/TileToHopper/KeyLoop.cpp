//===- KeyLoop.cpp - The loop over keys of a consumer ---------------------===//
//
// What the orders have in common: full blocks run without a mask or a test for
// one, what the loop carries is the iteration arguments of the tile loop
// followed by cursors. Order `serial`, which waits for each product at once,
// needs no more than that.
//
//===----------------------------------------------------------------------===//

#include "passes/TileToHopper/Scheduler.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::scheduling;

/// Positions in rings and, in the loop over keys, what speculations carry.
SmallVector<Value> Scheduler::getCursors(Role &role, bool inLoop) {
  SmallVector<Value> values;
  for (auto &[load, cursor] : role.cursors)
    if (isInLoop(load) == inLoop)
      values.push_back(cursor);
  if (inLoop)
    for (auto &[op, missed] : role.missed)
      values.push_back(missed);
  return values;
}

void Scheduler::setCursors(Role &role, ValueRange values, bool inLoop) {
  for (auto &[load, cursor] : role.cursors)
    if (isInLoop(load) == inLoop) {
      cursor = values.front();
      values = values.drop_front();
    }
  if (inLoop)
    for (auto [pair, value] : llvm::zip(role.missed, values))
      pair.second = value;
}

/// What the loop starts with, in the layout that it carries.
Value Scheduler::getInit(Role &role, Value init, BlockArgument arg) {
  Value value = role.map.lookup(init);
  auto splat = value.getDefiningOp<hopper::SplatOp>();
  if (!splat || !accumulators.contains(arg))
    return value;
  auto type = cast<hopper::FragType>(value.getType());
  type = hopper::FragType::get(b.getContext(), type.getRows(), type.getCols(),
                               type.getElementType(), hopper::Layout::Acc);
  return hopper::SplatOp::create(b, loc, type, splat.getValue());
}

/// What the loop begins with; cursors come after it.
SmallVector<Value> Scheduler::getInits(Role &role) {
  SmallVector<Value> inits;
  for (auto [init, arg] : llvm::zip(loop.getInits(), loop.getIterArgs()))
    inits.push_back(getInit(role, init, arg));
  return inits;
}

/// Begins to emit for the block of keys at `key`, which is or is not full.
void Scheduler::beginBlock(Role &role, Value key, std::optional<bool> isFull) {
  role.map.map(loop.getKey(), key);
  role.isFull = isFull;
  if (isFull)
    return;
  Value end = arith::AddIOp::create(b, loc, key, constant(loop.getStep()));
  Value above = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::sge, key,
                                      role.fullLo);
  Value below = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::sle, end,
                                      role.fullHi);
  role.full = arith::AndIOp::create(b, loc, above, below);
}

FailureOr<SmallVector<Value>> Scheduler::emitPart(const Part &part, Value step,
                                                  SmallVector<Value> carried,
                                                  PartBody body) {
  auto each = scf::ForOp::create(b, loc, part.begin, part.end, step, carried);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(each.getBody());
  SmallVector<Value> next;
  if (failed(body(each.getInductionVar(), part.isFull, each.getRegionIterArgs(),
                  next)))
    return failure();
  scf::YieldOp::create(b, loc, next);
  return SmallVector<Value>(each.getResults());
}

/// Full blocks run without a mask or a test for one. What is in flight stays so
/// across the parts.
FailureOr<SmallVector<Value>> Scheduler::emitParts(Role &role, Range range,
                                                   Value from,
                                                   SmallVector<Value> carried,
                                                   PartBody body) {
  for (const Part &part : getParts(role, range, from)) {
    auto results = emitPart(part, range.step, carried, body);
    if (failed(results))
      return failure();
    carried = *results;
  }
  return carried;
}

LogicalResult Scheduler::emitOneBlock(Role &role, Value key, bool isFull,
                                      ValueRange args,
                                      SmallVectorImpl<Value> &next,
                                      BlockBody block) {
  size_t count = loop.getIterArgs().size();
  for (auto [arg, value] : llvm::zip(loop.getIterArgs(), args))
    role.map.map(arg, value);
  setCursors(role, args.drop_front(count), /*inLoop=*/true);
  beginBlock(role, key, isFull);
  if (failed(block(key)))
    return failure();
  for (Value value : loop.getYielded())
    next.push_back(role.map.lookup(value));
  llvm::append_range(next, getCursors(role, /*inLoop=*/true));
  return success();
}

/// One block after the other; what is in flight ends with its block.
LogicalResult Scheduler::emitBlocks(Role &role, Range range, BlockBody block) {
  SmallVector<Value> carried = getInits(role);
  if (exchange)
    putZeros(role);
  if (!prefetches.empty())
    prefetch(role, range.begin);
  size_t count = carried.size();
  llvm::append_range(carried, getCursors(role, /*inLoop=*/true));
  auto body = [&](Value key, bool isFull, ValueRange args,
                  SmallVectorImpl<Value> &next) {
    return emitOneBlock(role, key, isFull, args, next, block);
  };
  auto results = emitParts(role, range, range.begin, carried, body);
  if (failed(results))
    return failure();
  for (auto [old, value] : llvm::zip(loop.getResults(), *results))
    role.map.map(old, value);
  setCursors(role, ValueRange(*results).drop_front(count), /*inLoop=*/true);
  role.isFull = false;
  return success();
}

/// Whether no product after the loop over keys reads what was copied.
bool Scheduler::productsEndWithLoop() {
  for (Operation *op = loop->getNextNode(); op; op = op->getNextNode())
    if (isa<tile::DotOp>(op))
      return false;
  return true;
}

LogicalResult Scheduler::emitConsumerBlock(Role &role, Block &block) {
  for (Operation &op : block) {
    if (op.hasTrait<OpTrait::IsTerminator>())
      continue;
    if (isa<tile::ForKeysOp>(op)) {
      if (failed(emitOwnLoop(role)))
        return failure();
      // The producer fills the next item's slots during this one's epilogue.
      // A store that goes through such a slot needs it a little longer.
      bool isStaged =
          llvm::any_of(block.getOps<tile::StoreOp>(), [&](tile::StoreOp store) {
            return findStaging(store) != nullptr;
          });
      if (schedule.getPersistent() && productsEndWithLoop() && !isStaged)
        releaseItemSlots(role);
    } else if (failed(emitOp(role, &op))) {
      return failure();
    }
  }
  return success();
}

LogicalResult Scheduler::emitSerialLoop(Role &role, Range range) {
  return emitBlocks(role, range, [&](Value) {
    return emitConsumerBlock(role, *loop.getBody());
  });
}

/// The loop over keys of a consumer, whose rows may need fewer keys than those
/// of the others.
LogicalResult Scheduler::emitOwnLoop(Role &role) {
  auto emit = [&](const Range &range) -> LogicalResult {
    role.fullLo = range.fullLo;
    role.fullHi = range.fullHi;
    beginSpeculations(role);
    if (failed(isOverlap()    ? emitOverlapLoop(role, range)
               : isTwoTiles() ? emitTwoTilesLoop(role, range)
               : isDeferred() ? emitDeferredLoop(role, range)
                              : emitSerialLoop(role, range)))
      return failure();
    role.missed.clear();
    for (auto &[index, reduce] : deferredSums) {
      Value parts = role.map.lookup(loop.getResult(index));
      role.map.map(loop.getResult(index),
                   hopper::ReduceOp::create(b, loc, parts.getType(),
                                            tile::Reduction::Add, parts,
                                            /*partial=*/false));
    }
    return success();
  };
  Range item = getItemRange(role);
  // Weights that all consumers exchange have the blocks of the item.
  if ((loop.getRows().empty() && cluster == 1) || exchange)
    return emit(item);
  Range own = getOwnRange(role, item);
  if (item.begin != own.begin)
    skipBlocks(role, item.begin, own.begin, item.step);
  if (failed(emit(own)))
    return failure();
  skipBlocks(role, own.end, item.end, item.step);
  return success();
}
