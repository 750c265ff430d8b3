//===- Overlap.cpp - Order overlap: products beside elementwise work ------===//
//
// The body of the loop is split in two stages: the second is what depends on
// the accumulators that the loop carries, the first is the rest. The products
// of the next block's first stage are started before the products of this
// block's second stage are waited for, so elementwise work runs beside them.
//
// What the loop carries, in this order: the iteration arguments of the tile
// loop, the values that cross from the first stage to the second, cursors.
//
//===----------------------------------------------------------------------===//

#include "passes/TileToHopper/Scheduler.h"

#include "llvm/Support/SaveAndRestore.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::scheduling;

//===----------------------------------------------------------------------===//
// The stages
//===----------------------------------------------------------------------===//

/// The second stage: products that add to what the loop carries, and all that
/// depends on them, through the loop too.
LogicalResult Scheduler::findStages() {
  auto args = loop.getIterArgs();
  secondArgs.assign(args.size(), false);
  SmallVector<Value> work;
  auto reach = [&](Operation *op) {
    if (isa<tile::YieldOp>(op)) {
      for (auto [index, value] : llvm::enumerate(op->getOperands()))
        if (llvm::is_contained(work, value) && !secondArgs[index]) {
          secondArgs[index] = true;
          work.push_back(args[index]);
        }
    } else if (secondStage.insert(op)) {
      llvm::append_range(work, op->getResults());
    }
  };
  for (auto dot : loop.getBody()->getOps<tile::DotOp>())
    if (dot.getAcc())
      reach(dot);
  for (size_t i = 0; i < work.size(); ++i)
    for (Operation *user : work[i].getUsers())
      reach(loop.getBody()->findAncestorOpInBlock(*user));
  bool anyFirst = false;
  for (auto dot : loop.getBody()->getOps<tile::DotOp>())
    anyFirst |= isFirstStage(dot);
  if (secondStage.empty() || !anyFirst)
    return loop.emitError()
           << "order " << tile::stringifyOrder(schedule.getOrder())
           << " needs a product that does not depend on "
              "carried accumulators and one that does; try "
              "order = serial";
  // Scalars and copies are made anew in each stage, so only tiles cross.
  llvm::SetVector<Value> values;
  for (Operation *op : secondStage)
    op->walk([&](Operation *inner) {
      for (Value operand : inner->getOperands()) {
        Operation *def = operand.getDefiningOp();
        auto argument = dyn_cast<BlockArgument>(operand);
        bool fromFirst = def ? def->getBlock() == loop.getBody() &&
                                   isFirstStage(def) && !copies.contains(def)
                             : argument.getOwner() == loop.getBody() &&
                                   !secondArgs[argument.getArgNumber() - 1];
        if (isTile(operand.getType()) && fromFirst)
          values.insert(operand);
      }
    });
  crossing = values.takeVector();
  for (auto &entry : copies) {
    Operation *op = entry.first;
    if (entry.second.inLoop &&
        llvm::any_of(op->getUsers(), [&](Operation *user) {
          return isFirstStage(user) != isFirstStage(*op->user_begin());
        }))
      return op->emitError()
             << "order " << tile::stringifyOrder(schedule.getOrder())
             << " cannot read one copy in both stages; try order = serial";
  }
  return success();
}

/// The ops of a stage, in order; both have all scalars.
SmallVector<Operation *> Scheduler::getOps(bool first) {
  SmallVector<Operation *> ops;
  for (Operation &op : loop.getBody()->without_terminator())
    if (isScalar(&op) || isFirstStage(&op) == first)
      ops.push_back(&op);
  return ops;
}

/// The products of a stage that depend on no other product of it, with what
/// stands before them, and the rest.
StageParts Scheduler::splitStage(bool first) {
  SmallVector<Operation *> ops = getOps(first);
  llvm::SmallPtrSet<Operation *, 16> blocked;
  auto isBlocked = [&](Operation *op) {
    return llvm::any_of(op->getOperands(), [&](Value operand) {
      return blocked.contains(operand.getDefiningOp());
    });
  };
  size_t end = 0;
  for (auto [index, op] : llvm::enumerate(ops)) {
    if (isBlocked(op)) {
      blocked.insert(op);
    } else if (isa<tile::DotOp>(op)) {
      blocked.insert(op);
      end = index + 1;
    }
  }
  StageParts parts;
  for (auto [index, op] : llvm::enumerate(ops))
    (index >= end || isBlocked(op) ? parts.rest : parts.start).push_back(op);
  return parts;
}

/// Whether the products of a turn take long beside the elementwise work of the
/// others, who then have time left before theirs. For each logit, products cost
/// as much as the columns they add up over and those of the sums. With 512 of
/// them preparing before the turn gains 2 %, with 384 it loses 2 %
/// (benchmarks/journal.md, 36).
bool Scheduler::isLongTurn() {
  constexpr int64_t kLongTurn = 512;
  int64_t columns = 0;
  for (auto dot : loop.getBody()->getOps<tile::DotOp>()) {
    tile::TileType type =
        isFirstStage(dot) ? dot.getLhs().getType() : dot.getResult().getType();
    columns += type.getCols();
  }
  return columns >= kLongTurn;
}

/// Whether elementwise work stands before the first products of a stage.
bool Scheduler::needsPreparing(bool first) {
  return llvm::any_of(splitStage(first).start, [&](Operation *op) {
    return !isa<tile::DotOp>(op) && !isScalar(op) && !copies.contains(op);
  });
}

/// Emits what stands before the first products of a stage.
LogicalResult Scheduler::prepareStage(Role &role, bool first,
                                      Progress &progress) {
  for (Operation *op : splitStage(first).start) {
    if (isa<tile::DotOp>(op))
      continue;
    if (failed(emitOp(role, op)))
      return failure();
    progress.prepared.insert(op);
  }
  return success();
}

/// Starts the products that depend on no other product of the stage, in one
/// group, and emits what they need unless it was prepared.
LogicalResult Scheduler::startStage(Role &role, bool first,
                                    Progress &progress) {
  StageParts parts = splitStage(first);
  progress.rest = parts.rest;
  for (Operation *op : parts.start) {
    if (progress.prepared.contains(op))
      continue;
    if (auto dot = dyn_cast<tile::DotOp>(op)) {
      FailureOr<Started> started = startDot(role, dot);
      if (failed(started))
        return failure();
      progress.started.push_back(*started);
    } else if (failed(emitOp(role, op))) {
      return failure();
    }
  }
  hopper::CommitOp::create(b, loc);
  return success();
}

/// Waits for what was started and emits the rest.
LogicalResult Scheduler::finishStage(Role &role, Progress &progress) {
  waitFor(role, progress.started);
  for (Operation *op : progress.rest)
    if (failed(emitOp(role, op)))
      return failure();
  return success();
}

/// Operands of products cross packed. They are packed here and not earlier:
/// a product in flight may still read the registers.
LogicalResult Scheduler::getCrossing(Role &role, SmallVectorImpl<Value> &out) {
  for (Value value : crossing) {
    if (role.map.contains(value)) {
      out.push_back(role.map.lookup(value));
      continue;
    }
    FailureOr<Value> packed = getPacked(role, value);
    if (failed(packed))
      return failure();
    out.push_back(*packed);
  }
  return success();
}

//===----------------------------------------------------------------------===//
// The loop
//===----------------------------------------------------------------------===//

/// The first stage of the block at `key`, whose iteration arguments are
/// bound. Gives what the loop carries, with the second stage's as they were.
LogicalResult Scheduler::emitFirst(Role &role, Value key,
                                   SmallVectorImpl<Value> &out) {
  beginBlock(role, key, std::nullopt);
  llvm::SaveAndRestore isFirst(role.isFirst, true);
  Progress progress;
  if (schedule.getPingpong())
    hopper::TurnWaitOp::create(b, loc, consumer);
  if (failed(startStage(role, /*first=*/true, progress)))
    return failure();
  if (schedule.getPingpong())
    hopper::TurnPassOp::create(b, loc, consumer);
  if (failed(finishStage(role, progress)))
    return failure();
  for (auto [index, value] : llvm::enumerate(loop.getYielded()))
    out.push_back(role.map.lookup(
        secondArgs[index] ? Value(loop.getIterArgs()[index]) : value));
  return getCrossing(role, out);
}

void Scheduler::bindSecond(Stage &stage, ValueRange carried) {
  for (auto [arg, value] : llvm::zip(loop.getIterArgs(), carried))
    stage.map.map(arg, value);
  for (auto [value, bound] :
       llvm::zip(crossing, carried.drop_front(loop.getIterArgs().size())))
    stage.map.map(value, bound);
}

/// The first stage of the block at `key` beside the second stage of the block
/// `before`.
LogicalResult Scheduler::emitSteady(Role &role, Value key, Value before,
                                    bool isFull, ValueRange carried,
                                    SmallVectorImpl<Value> &out) {
  Stage second = role;
  for (auto [arg, value] : llvm::zip(loop.getIterArgs(), carried))
    role.map.map(arg, value);
  beginBlock(role, key, isFull);
  auto swapStages = [&] { std::swap(static_cast<Stage &>(role), second); };

  Progress next, last;
  auto beginSecond = [&] {
    bindSecond(role, carried);
    beginBlock(role, before, std::nullopt);
  };
  // In a long turn only products: tensor cores would wait for anything else.
  bool prepares =
      schedule.getPingpong() && isLongTurn() && needsPreparing(/*first=*/false);
  if (prepares) {
    swapStages();
    beginSecond();
    if (failed(prepareStage(role, /*first=*/false, last)))
      return failure();
    swapStages();
  }
  if (schedule.getPingpong())
    hopper::TurnWaitOp::create(b, loc, consumer);
  if (failed(startStage(role, /*first=*/true, next)))
    return failure();
  swapStages();
  if (!prepares)
    beginSecond();
  if (failed(startStage(role, /*first=*/false, last)))
    return failure();
  if (schedule.getPingpong())
    hopper::TurnPassOp::create(b, loc, consumer);

  swapStages();
  if (failed(finishStage(role, next)))
    return failure();
  if (schedule.getPin())
    for (Value value : crossing)
      if (auto cast = value.getDefiningOp<tile::CastOp>())
        if (Value source = role.map.lookupOrNull(cast.getInput()))
          hopper::PinOp::create(b, loc, source);
  swapStages();
  if (failed(finishStage(role, last)))
    return failure();
  for (auto [index, value] : llvm::enumerate(loop.getYielded()))
    out.push_back(secondArgs[index] ? role.map.lookup(value)
                                    : second.map.lookup(value));
  swapStages();
  return getCrossing(role, out);
}

/// The second stage of the last block.
LogicalResult Scheduler::emitLast(Role &role, Value key, ValueRange carried,
                                  SmallVectorImpl<Value> &out) {
  bindSecond(role, carried);
  beginBlock(role, key, std::nullopt);
  Progress progress;
  if (failed(startStage(role, /*first=*/false, progress)) ||
      failed(finishStage(role, progress)))
    return failure();
  for (auto [index, value] : llvm::enumerate(loop.getYielded()))
    out.push_back(secondArgs[index] ? role.map.lookup(value) : carried[index]);
  return success();
}

LogicalResult Scheduler::emitOverlapLoop(Role &role, Range range) {
  SmallVector<Value> inits = getInits(role);
  size_t count = inits.size();
  llvm::append_range(inits, getCursors(role, /*inLoop=*/true));
  OpBuilder::InsertionGuard guard(b);
  scf::IfOp choice = ifAnyKeys(range.begin, range.end, inits);
  for (auto [arg, value] : llvm::zip(loop.getIterArgs(), inits))
    role.map.map(arg, value);
  SmallVector<Value> carried;
  Value lastKey = getLastKey(range);
  bool rotated = beginsWithLast();
  if (failed(emitFirst(role, rotated ? lastKey : range.begin, carried)))
    return failure();
  size_t values = carried.size();
  llvm::append_range(carried, getCursors(role, /*inLoop=*/true));
  // What was begun before the block at `key`.
  auto before = [&](Value key) -> Value {
    Value earlier = arith::SubIOp::create(b, loc, key, range.step);
    if (!rotated)
      return earlier;
    Value isFirst = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, key,
                                          range.begin);
    return arith::SelectOp::create(b, loc, isFirst, lastKey, earlier);
  };
  auto body = [&](Value key, bool isFull, ValueRange args,
                  SmallVectorImpl<Value> &next) -> LogicalResult {
    setCursors(role, args.drop_front(values), /*inLoop=*/true);
    if (failed(emitSteady(role, key, before(key), isFull,
                          args.take_front(values), next)))
      return failure();
    llvm::append_range(next, getCursors(role, /*inLoop=*/true));
    return success();
  };
  Range rest = range;
  Value second = range.begin;
  if (rotated)
    rest.end = lastKey;
  else
    second = arith::AddIOp::create(b, loc, second, range.step);
  auto ends = emitParts(role, rest, second, carried, body);
  if (failed(ends))
    return failure();
  setCursors(role, ValueRange(*ends).drop_front(values), /*inLoop=*/true);
  SmallVector<Value> out;
  if (failed(emitLast(role, rotated ? before(lastKey) : lastKey,
                      ValueRange(*ends).take_front(values), out)))
    return failure();
  llvm::append_range(out, getCursors(role, /*inLoop=*/true));
  scf::YieldOp::create(b, loc, out);
  role.isFull = false;
  for (auto [old, value] : llvm::zip(loop.getResults(), choice.getResults()))
    role.map.map(old, value);
  setCursors(role, choice.getResults().drop_front(count), /*inLoop=*/true);
  return success();
}
