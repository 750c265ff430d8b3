//===- TwoTiles.cpp - Order two_tiles: two blocks of keys in turn ---------===//
//
// The stages are those of order `overlap`, of two blocks at a time: a group of
// products is the second stage of one block and the first of the block two
// further on, and is in flight during the elementwise work of the block
// between, whose group comes next. Only for full blocks, and only where the
// second stage is nothing but products: what is added up is never read.
//
// A pair of blocks, A and the one after it, B. The loop carries A's operands of
// the second stage and what B's first products gave:
//
//   start {second stage of A, first products of the next A}
//   the rest of B's first stage
//   start {second stage of B, first products of the next B}
//   wait for the first group; the rest of the next A's first stage
//   wait for the second group
//
// so that a group is in flight during all elementwise work. ptxas wants no
// product in flight where the loop goes back.
//
//===----------------------------------------------------------------------===//

#include "passes/TileToHopper/Scheduler.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::scheduling;

LogicalResult Scheduler::checkPairs() {
  if (schedule.getPingpong() || schedule.getPin())
    return kernel.emitError("schedule: order two_tiles takes no turns and pins "
                            "nothing; try order = overlap");
  // Those of one block are read while those of the next are awaited.
  if (schedule.getStages() < 2)
    return kernel.emitError() << "schedule: order two_tiles needs stages = 2 "
                                 "or more, got "
                              << schedule.getStages();
  bool productsOnly = llvm::all_of(secondStage, [&](Operation *op) {
    return isa<tile::DotOp>(op) || isScalar(op);
  });
  bool startsAtOnce =
      llvm::none_of(splitStage(/*first=*/true).rest,
                    [](Operation *op) { return isa<tile::DotOp>(op); });
  if (productsOnly && startsAtOnce)
    return success();
  return loop.emitError("order two_tiles needs sums that only products read, "
                        "and one group of products before them: not a softmax, "
                        "which rescales its sums; try order = overlap");
}

/// Slots whose last reader was started are counted as read from now on, and
/// given back after the wait: the next block needs slots before that.
void Scheduler::holdSlots(Role &role, ArrayRef<Started> started,
                          SmallVectorImpl<HeldSlot> &slots) {
  llvm::SetVector<Operation *> loads;
  for (const Started &product : started)
    for (Value operand : product.dot->getOperands())
      if (Operation *load = operand.getDefiningOp();
          role.slots.count(load) && isInLoop(load))
        loads.insert(load);
  for (Operation *load : loads) {
    Value ring = copies.find(load)->second.ring;
    Value &cursor = role.cursors[load];
    slots.push_back({ring, cursor});
    cursor = hopper::NextOp::create(b, loc, cursor, ring);
    role.slots.erase(load);
  }
}

void Scheduler::giveBack(ArrayRef<HeldSlot> slots) {
  for (const HeldSlot &slot : slots)
    hopper::ReleaseOp::create(b, loc, slot.ring, slot.cursor);
}

/// Starts the products among `ops`. Where they are read meanwhile, by others
/// that add to them, they are still in flight.
LogicalResult Scheduler::startDots(Role &role, ArrayRef<Operation *> ops,
                                   SmallVectorImpl<Started> &started) {
  for (Operation *op : ops) {
    if (isScalar(op))
      b.clone(*op, role.map);
    auto dot = dyn_cast<tile::DotOp>(op);
    if (!dot)
      continue;
    FailureOr<Started> product = startDot(role, dot);
    if (failed(product))
      return failure();
    role.map.map(dot.getResult(), product->pending);
    started.push_back(*product);
  }
  return success();
}

/// Starts the first products of the block at `key`, without a commit.
FailureOr<StartedBlock> Scheduler::startBlock(Role &role, Value key) {
  StartedBlock block;
  block.key = key;
  beginBlock(role, key, /*isFull=*/true);
  if (failed(startDots(role, splitStage(/*first=*/true).start, block.products)))
    return failure();
  holdSlots(role, block.products, block.slots);
  return block;
}

/// What its first products gave.
SmallVector<Value> Scheduler::waitForBlock(Role &role,
                                           const StartedBlock &block) {
  waitFor(role, block.products);
  giveBack(block.slots);
  return llvm::map_to_vector(block.products, [&](const Started &product) {
    tile::DotOp dot = product.dot;
    return role.map.lookup(dot.getResult());
  });
}

/// The rest of the first stage of the block at `key`. `args` are what the loop
/// carries.
LogicalResult Scheduler::finishBlock(Role &role, Value key, ValueRange products,
                                     SmallVectorImpl<Value> &args,
                                     SmallVectorImpl<Value> &crossed) {
  beginBlock(role, key, /*isFull=*/true);
  for (auto [arg, value] : llvm::zip(loop.getIterArgs(), args))
    role.map.map(arg, value);
  // Packed operands are of one block.
  for (auto cast : loop.getBody()->getOps<tile::CastOp>())
    role.map.erase(cast.getResult());
  for (Operation *op : getOps(/*first=*/true)) {
    if (auto dot = dyn_cast<tile::DotOp>(op)) {
      role.map.map(dot.getResult(), products.front());
      products = products.drop_front();
    } else if (failed(emitOp(role, op))) {
      return failure();
    }
  }
  for (auto [index, value] : llvm::enumerate(loop.getYielded()))
    if (!secondArgs[index])
      args[index] = role.map.lookup(value);
  crossed.clear();
  return getCrossing(role, crossed);
}

/// Starts the second stage of the block at `key`, without a commit. What the
/// sums become may be in flight, as may what they were.
FailureOr<SmallVector<Started>>
Scheduler::addBlock(Role &role, Value key, ValueRange crossed,
                    SmallVectorImpl<Value> &args,
                    SmallVectorImpl<HeldSlot> &slots) {
  beginBlock(role, key, /*isFull=*/true);
  for (auto [arg, value] : llvm::zip(loop.getIterArgs(), args))
    role.map.map(arg, value);
  for (auto [value, bound] : llvm::zip(crossing, crossed))
    role.map.map(value, bound);
  SmallVector<Started> all;
  if (failed(startDots(role, getOps(/*first=*/false), all)))
    return failure();
  holdSlots(role, all, slots);
  for (auto [index, value] : llvm::enumerate(loop.getYielded()))
    if (secondArgs[index])
      args[index] = role.map.lookup(value);
  return all;
}

/// Waits for sums in flight.
void Scheduler::waitForSums(Role &role, ArrayRef<Started> started,
                            SmallVectorImpl<Value> &args) {
  SmallVector<Started> last;
  for (const Started &product : started)
    if (llvm::is_contained(args, product.pending))
      last.push_back(product);
  waitFor(role, last);
  for (const Started &product : last) {
    tile::DotOp dot = product.dot;
    for (Value &arg : args)
      if (arg == product.pending)
        arg = role.map.lookup(dot.getResult());
  }
}

/// The pair at `key` is started, the one before it is finished but for what
/// emitLastPair does.
LogicalResult Scheduler::emitPair(Role &role, Value key,
                                  SmallVectorImpl<Value> &args,
                                  SmallVectorImpl<Value> &crossed,
                                  SmallVectorImpl<Value> &waiting) {
  Value step = constant(loop.getStep());
  Value a = arith::SubIOp::create(b, loc, key, constant(2 * loop.getStep()));
  Value next = arith::AddIOp::create(b, loc, key, step);
  Value between = arith::SubIOp::create(b, loc, key, step);
  StartedBlock blocks[2];
  SmallVector<Started> sums;
  for (int half = 0; half < 2; ++half) {
    SmallVector<HeldSlot> slots;
    auto added = addBlock(role, half ? between : a, crossed, args, slots);
    if (failed(added))
      return failure();
    auto started = startBlock(role, half ? next : key);
    if (failed(started))
      return failure();
    hopper::CommitOp::create(b, loc);
    llvm::append_range(started->slots, slots);
    blocks[half] = *started;
    sums = *added;
    if (half)
      waiting = waitForBlock(role, blocks[0]);
    if (failed(finishBlock(role, half ? key : between, waiting, args, crossed)))
      return failure();
  }
  waitForSums(role, sums, args);
  waiting = waitForBlock(role, blocks[1]);
  return success();
}

/// The pair at `key` is started; there is none before it.
LogicalResult Scheduler::emitFirstPair(Role &role, Value key,
                                       SmallVectorImpl<Value> &args,
                                       SmallVectorImpl<Value> &crossed,
                                       SmallVectorImpl<Value> &waiting) {
  auto first = startBlock(role, key);
  if (failed(first))
    return failure();
  hopper::CommitOp::create(b, loc);
  Value next = arith::AddIOp::create(b, loc, key, constant(loop.getStep()));
  auto second = startBlock(role, next);
  if (failed(second))
    return failure();
  hopper::CommitOp::create(b, loc);
  SmallVector<Value> products = waitForBlock(role, *first);
  if (failed(finishBlock(role, key, products, args, crossed)))
    return failure();
  waiting = waitForBlock(role, *second);
  return success();
}

/// What is left of the last pair, at `key`.
LogicalResult Scheduler::emitLastPair(Role &role, Value key,
                                      SmallVectorImpl<Value> &args,
                                      ValueRange crossed, ValueRange waiting) {
  SmallVector<HeldSlot> slots;
  if (failed(addBlock(role, key, crossed, args, slots)))
    return failure();
  hopper::CommitOp::create(b, loc);
  Value next = arith::AddIOp::create(b, loc, key, constant(loop.getStep()));
  SmallVector<Value> second;
  if (failed(finishBlock(role, next, waiting, args, second)))
    return failure();
  auto sums = addBlock(role, next, second, args, slots);
  if (failed(sums))
    return failure();
  hopper::CommitOp::create(b, loc);
  waitForSums(role, *sums, args);
  giveBack(slots);
  return success();
}

/// Full blocks in pairs: [begin, end) is a whole number of them. `carried` are
/// what the loop carries and cursors.
FailureOr<SmallVector<Value>> Scheduler::emitPairs(Role &role, Value begin,
                                                   Value end,
                                                   SmallVector<Value> carried) {
  size_t count = loop.getIterArgs().size();
  Stage outside = role;
  OpBuilder::InsertionGuard guard(b);
  scf::IfOp choice = ifAnyKeys(begin, end, carried);
  SmallVector<Value> args(ArrayRef(carried).take_front(count));
  SmallVector<Value> crossed, waiting;
  if (failed(emitFirstPair(role, begin, args, crossed, waiting)))
    return failure();
  size_t crosses = crossed.size(), waits = waiting.size();
  auto pack = [&](SmallVectorImpl<Value> &values) {
    values.assign(args.begin(), args.end());
    llvm::append_range(values, crossed);
    llvm::append_range(values, waiting);
    llvm::append_range(values, getCursors(role, /*inLoop=*/true));
  };
  auto unpack = [&](ValueRange values) {
    args.assign(values.begin(), values.begin() + count);
    values = values.drop_front(count);
    crossed.assign(values.begin(), values.begin() + crosses);
    values = values.drop_front(crosses);
    waiting.assign(values.begin(), values.begin() + waits);
    setCursors(role, values.drop_front(waits), /*inLoop=*/true);
  };
  Value two = constant(2 * loop.getStep());
  Part rest = {arith::AddIOp::create(b, loc, begin, two), end, true};
  SmallVector<Value> values;
  pack(values);
  auto ends =
      emitPart(rest, two, values,
               [&](Value key, bool, ValueRange in,
                   SmallVectorImpl<Value> &next) -> LogicalResult {
                 unpack(in);
                 if (failed(emitPair(role, key, args, crossed, waiting)))
                   return failure();
                 pack(next);
                 return success();
               });
  if (failed(ends))
    return failure();
  unpack(*ends);
  Value last = arith::SubIOp::create(b, loc, end, two);
  if (failed(emitLastPair(role, last, args, crossed, waiting)))
    return failure();
  llvm::append_range(args, getCursors(role, /*inLoop=*/true));
  scf::YieldOp::create(b, loc, args);
  static_cast<Stage &>(role) = outside;
  return SmallVector<Value>(choice.getResults());
}

/// Full blocks in pairs; the others, and a full one that is left, one by one.
LogicalResult Scheduler::emitTwoTilesLoop(Role &role, Range range) {
  SmallVector<Value> carried = getInits(role);
  size_t count = carried.size();
  llvm::append_range(carried, getCursors(role, /*inLoop=*/true));
  auto single = [&](Value key, bool isFull, ValueRange args,
                    SmallVectorImpl<Value> &next) {
    return emitOneBlock(role, key, isFull, args, next, [&](Value) {
      return emitConsumerBlock(role, *loop.getBody());
    });
  };
  for (Part part : getParts(role, range, range.begin)) {
    if (part.isFull) {
      Value two = constant(2 * loop.getStep());
      Value keys = arith::SubIOp::create(b, loc, part.end, part.begin);
      keys = arith::MaxSIOp::create(b, loc, keys, constant(0));
      Value end = arith::MulIOp::create(
          b, loc, arith::DivUIOp::create(b, loc, keys, two), two);
      end = arith::AddIOp::create(b, loc, part.begin, end);
      setCursors(role, ValueRange(carried).drop_front(count), /*inLoop=*/true);
      auto results = emitPairs(role, part.begin, end, carried);
      if (failed(results))
        return failure();
      carried = *results;
      part.begin = end;
    }
    auto results = emitPart(part, range.step, carried, single);
    if (failed(results))
      return failure();
    carried = *results;
  }
  for (auto [old, value] : llvm::zip(loop.getResults(), carried))
    role.map.map(old, value);
  setCursors(role, ValueRange(carried).drop_front(count), /*inLoop=*/true);
  role.isFull = false;
  return success();
}
