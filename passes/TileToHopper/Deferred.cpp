//===- Deferred.cpp - Order deferred: late waits, exchanged weights -------===//
//
// A product is started where it stands and waited for where its result is first
// read. A product of transposed weights needs those of all consumers: they are
// exchanged in shared memory, and what depends on them is done one block late,
// so that consumers need not keep in step. What a block reads in each column is
// copied to shared memory one block early.
//
//===----------------------------------------------------------------------===//

#include "passes/TileToHopper/Scheduler.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::scheduling;

//===----------------------------------------------------------------------===//
// What is exchanged and prefetched
//===----------------------------------------------------------------------===//

bool Scheduler::splitsColumns() {
  return schedule.getConsumers() > 1 &&
         schedule.getBlockN() == hopper::kWgmmaRows;
}

/// How many columns of the exchanged product a consumer has: all, a panel, or
/// a part of the only one.
int64_t Scheduler::getShare() {
  int64_t cols = exchange->dot.getN();
  if (!splitsColumns())
    return cols;
  if (cols > hopper::kPanelColumns)
    return hopper::kPanelColumns;
  return hopper::roundUp(cols, hopper::kWgmmaK) / schedule.getConsumers();
}

/// The product of transposed weights, if there is one, and what follows it.
LogicalResult Scheduler::findExchange() {
  for (auto dot : loop.getBody()->getOps<tile::DotOp>()) {
    if (!dot.getTransposeA())
      continue;
    if (exchange || !isDeferred())
      return dot.emitError("one product with transpose_a can be scheduled on "
                           "Hopper, with order = deferred");
    exchange.emplace();
    exchange->dot = dot;
  }
  if (!exchange)
    return success();
  tile::DotOp dot = exchange->dot;
  exchange->late.insert(dot);
  for (size_t i = 0; i < exchange->late.size(); ++i)
    for (Operation *user : exchange->late[i]->getUsers())
      exchange->late.insert(user);
  auto store = exchange->late.size() == 2
                   ? dyn_cast<tile::StoreOp>(exchange->late[1])
                   : tile::StoreOp();
  if (!store || store.getRows())
    return dot.emitError("a product with transpose_a can only be stored, once "
                         "and all its rows");
  auto keys = copies.find(dot.getRhs().getDefiningOp());
  if (keys == copies.end() || keys->second.inLoop || !keys->second.bulk ||
      dot.getAcc() || !dot.getLhs().getDefiningOp<tile::CastOp>())
    return dot.emitError("a product with transpose_a takes rounded weights and "
                         "a block that stays, by bulk copies");
  int64_t consumers = schedule.getConsumers();
  int64_t panels = hopper::panelCount(dot.getN()), share = getShare();
  bool fits = panels == 1 ? share % hopper::kWgmmaK == 0 &&
                                hopper::kPanelColumns % share == 0
                          : panels == consumers;
  if (splitsColumns() ? !fits : dot.getM() != consumers * hopper::kWgmmaRows)
    return dot.emitError()
           << "schedule: " << consumers << " consumers share a product of "
           << dot.getM() << " x " << dot.getN()
           << " by 64 rows each, or, if it has 64 rows, by 64 columns or equal "
              "parts of 64; try another block_n";
  return success();
}

/// The ring of weights and what sums go through, if there is room.
void Scheduler::makeExchange() {
  exchange->ring = hopper::RingOp::create(
      b, loc,
      hopper::RingType::get(b.getContext(), kExchangeSlots,
                            schedule.getBlockM(), schedule.getBlockN(),
                            exchange->dot.getLhs().getType().getElementType()),
      "weights", /*multicast=*/false);
  int64_t scratch = getScratchBytes();
  if (scratch && getSharedBytes() + scratch <= hopper::kSharedMemoryLimit)
    exchange->scratch = hopper::ScratchOp::create(
        b, loc,
        hopper::SmemType::get(b.getContext(), hopper::kWgmmaRows, getShare(),
                              b.getF32Type()),
        "sums");
}

/// Values of 32 bits, one a column.
void Scheduler::findPrefetches() {
  for (auto load : loop.getBody()->getOps<tile::LoadOp>()) {
    tile::TileType type = load.getTile().getType();
    Type element = type.getElementType();
    if (type.getRows() == 1 && type.getCols() > 1 && !load.getPageTable() &&
        (element.isF32() || element.isInteger(32)))
      prefetches[load] = Value();
  }
}

/// For as many as there is room for.
void Scheduler::makePrefetchScratch() {
  int64_t cols = hopper::roundUp(schedule.getBlockN(), 32);
  int64_t each = 4 * hopper::kPrefetchRows * cols * schedule.getConsumers();
  int64_t bytes = getSharedBytes() +
                  (exchange && exchange->scratch ? getScratchBytes() : 0);
  Prefetches fitting;
  for (auto &[op, scratch] : prefetches) {
    bytes += each;
    if (bytes > hopper::kSharedMemoryLimit)
      break;
    auto type = cast<tile::TileType>(op->getResult(0).getType());
    fitting[op] = hopper::ScratchOp::create(
        b, loc,
        hopper::SmemType::get(b.getContext(), hopper::kPrefetchRows, cols,
                              type.getElementType()),
        "columns");
  }
  prefetches = std::move(fitting);
}

/// Scalars for the block at `key`, of which a part is to be emitted in another.
Stage Scheduler::beginOther(Role &role, Value key) {
  Stage other = role;
  other.map.map(loop.getKey(), key);
  for (Operation &op : loop.getBody()->without_terminator())
    if (isScalar(&op))
      b.clone(op, other.map);
  return other;
}

/// Blocks take the two slots in turn.
Value Scheduler::getPrefetchSlot(Value key) {
  Value number = arith::DivUIOp::create(b, loc, key, constant(loop.getStep()));
  return arith::RemUIOp::create(b, loc, number, constant(2));
}

/// Starts to copy what the block at `key` reads in each column, if there is
/// such a block: beyond the last one, the range of the view may end.
void Scheduler::prefetch(Role &role, Value key) {
  Stage next = beginOther(role, key);
  for (auto &[op, scratch] : prefetches) {
    auto load = cast<tile::LoadOp>(op);
    auto coordinates =
        llvm::map_to_vector(load.getCoordinates(), [&](Value coordinate) {
          return next.map.lookup(coordinate);
        });
    Value rows = load.getRows() ? next.map.lookup(load.getRows()) : Value();
    hopper::PrefetchOp::create(b, loc, next.map.lookup(load.getView()),
                               coordinates, load.getMap(), rows, scratch,
                               getPrefetchSlot(key));
  }
}

bool Scheduler::readsPrefetched(Operation &op) {
  return llvm::any_of(op.getOperands(), [&](Value operand) {
    return prefetches.contains(operand.getDefiningOp());
  });
}

/// What `op` of the block at `key` reads and was prefetched. Reads are done at
/// the first use: before, registers hold other things.
void Scheduler::fetch(Role &role, Operation &op, Value key) {
  for (Value operand : op.getOperands()) {
    auto found = prefetches.find(operand.getDefiningOp());
    if (found == prefetches.end() || role.map.contains(operand))
      continue;
    auto type = cast<tile::TileType>(operand.getType());
    auto frag =
        hopper::FragType::get(b.getContext(), 1, type.getCols(),
                              type.getElementType(), hopper::Layout::Col);
    role.map.map(operand, hopper::FetchOp::create(b, loc, frag, found->second,
                                                  getPrefetchSlot(key)));
  }
}

//===----------------------------------------------------------------------===//
// Products in flight
//===----------------------------------------------------------------------===//

/// Whether no branch holds where `frag` is made.
static bool mayMove(Value frag) {
  if (auto mask = frag.getDefiningOp<hopper::MaskOp>())
    return mayMove(mask.getInput());
  return frag.getDefiningOp<hopper::MapOp>() != nullptr;
}

/// Whether `op` waits for a product.
static bool waits(Role &role, Operation &op) {
  return llvm::any_of(op.getOperands(), [&](Value operand) {
    if (auto cast = operand.getDefiningOp<tile::CastOp>())
      operand = cast.getInput();
    return llvm::any_of(role.inFlight, [&](Started &started) {
      return started.dot.getResult() == operand;
    });
  });
}

/// Holds elementwise work that was done beside a product where it is, if `op`
/// waits for that product: compilers move arithmetic to where it is used, and
/// keep in registers what it takes.
void Scheduler::pinBefore(Role &role, Operation &op) {
  if (!schedule.getPin() || !waits(role, op))
    return;
  llvm::SetVector<Value> frags;
  for (Operation *made : role.beside) {
    Value frag = role.map.lookupOrNull(made->getResult(0));
    bool isRead = llvm::any_of(made->getUsers(), [&](Operation *user) {
      return !user->isBeforeInBlock(&op);
    });
    if (frag && isRead && mayMove(frag))
      frags.insert(frag);
  }
  for (Value frag : frags)
    hopper::PinOp::create(b, loc, frag);
  role.beside.clear();
}

/// Waits for the product that makes `tile`, if it is in flight, and for those
/// started before.
void Scheduler::settle(Role &role, Value tile) {
  for (size_t i = 0; i < role.inFlight.size(); ++i) {
    if (role.inFlight[i].dot.getResult() != tile)
      continue;
    waitFor(role, ArrayRef(role.inFlight).take_front(i + 1));
    role.inFlight.erase(role.inFlight.begin(), role.inFlight.begin() + i + 1);
    return;
  }
}

void Scheduler::settleAll(Role &role) {
  if (!role.inFlight.empty())
    settle(role, role.inFlight.back().dot.getResult());
}

//===----------------------------------------------------------------------===//
// The late product
//===----------------------------------------------------------------------===//

void Scheduler::put(Role &role, Value packed) {
  Value &cursor = role.cursors[getPutter()];
  hopper::AcquireOp::create(b, loc, exchange->ring, cursor);
  hopper::PutOp::create(b, loc, packed, exchange->ring, cursor, consumer);
  cursor = hopper::NextOp::create(b, loc, cursor, exchange->ring);
}

LogicalResult Scheduler::putWeights(Role &role) {
  Value weights = exchange->dot.getLhs();
  FailureOr<Value> packed = getPacked(role, weights);
  if (failed(packed))
    return failure();
  // For the next product that reads them.
  role.map.map(weights, *packed);
  put(role, *packed);
  return success();
}

/// What the first block finds of the block before it.
void Scheduler::putZeros(Role &role) {
  auto ring = cast<hopper::RingType>(exchange->ring.getType());
  auto type =
      hopper::FragType::get(b.getContext(), hopper::kWgmmaRows, ring.getCols(),
                            b.getF32Type(), hopper::Layout::Acc);
  Value zero = arith::ConstantOp::create(b, loc, b.getF32FloatAttr(0));
  Value frag = hopper::SplatOp::create(b, loc, type, zero);
  type =
      hopper::FragType::get(b.getContext(), hopper::kWgmmaRows, ring.getCols(),
                            ring.getElementType(), hopper::Layout::A);
  put(role, hopper::ConvertOp::create(b, loc, type, frag));
}

/// Starts the product of the weights that were put last.
LogicalResult Scheduler::startLate(Role &role) {
  tile::DotOp dot = exchange->dot;
  auto ring = cast<hopper::RingType>(exchange->ring.getType());
  auto smem = [&](int64_t rows, int64_t cols) {
    return hopper::SmemType::get(b.getContext(), rows, cols,
                                 ring.getElementType());
  };
  auto columns = [&](Value slot, int64_t cols) -> Value {
    auto type = cast<hopper::SmemType>(slot.getType());
    return hopper::ColumnsOp::create(b, loc, smem(type.getRows(), cols), slot,
                                     consumer);
  };
  Value weights =
      hopper::AwaitOp::create(b, loc, smem(ring.getRows(), ring.getCols()),
                              exchange->ring, role.cursors[getReader()]);
  Value keys = getSlot(role, dot.getRhs().getDefiningOp<tile::LoadOp>());
  if (splitsColumns())
    keys = columns(keys, getShare());
  else if (schedule.getConsumers() > 1)
    weights = columns(weights, hopper::kPanelColumns);
  auto type =
      hopper::PendingType::get(b.getContext(), hopper::kWgmmaRows, getShare());
  Value pending = hopper::WgmmaOp::create(b, loc, type, weights, keys, Value(),
                                          /*transpose_a=*/true,
                                          /*transpose_b=*/false);
  hopper::CommitOp::create(b, loc);
  role.inFlight.push_back({dot, pending});
  return success();
}

LogicalResult Scheduler::storeLate(Role &role, Stage &late, tile::StoreOp store,
                                   Value any) {
  MLIRContext *context = b.getContext();
  SmallVector<Value> symbols;
  SmallVector<AffineExpr> identity;
  for (Value coordinate : store.getCoordinates()) {
    identity.push_back(getAffineSymbolExpr(symbols.size(), context));
    symbols.push_back(late.map.lookup(coordinate));
  }
  // In the fragment, rows or columns count from the consumer's first one.
  AffineExpr row = getAffineDimExpr(0, context);
  AffineExpr col = getAffineDimExpr(1, context);
  AffineExpr number = getAffineSymbolExpr(symbols.size(), context);
  if (splitsColumns())
    col = number * getShare() + col;
  else
    row = number * hopper::kWgmmaRows + row;
  symbols.push_back(consumer);
  AffineMap map = simplified(store.getMap().replaceDimsAndSymbols(
      {row, col}, identity, 2, symbols.size()));
  auto choice = scf::IfOp::create(b, loc, any, /*withElse=*/false);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(choice.thenBlock());
  hopper::StoreOp::create(b, loc, role.map.lookup(store.getTile()),
                          late.map.lookup(store.getView()), symbols, map,
                          Value(), store.getAdd() ? exchange->scratch : Value(),
                          store.getAdd());
  return success();
}

/// Waits for that product, gives its slot back and stores the result for the
/// block at `key` unless there is none: not `any`.
LogicalResult Scheduler::finishLate(Role &role, Value key, Value any) {
  settle(role, exchange->dot.getResult());
  Value &cursor = role.cursors[getReader()];
  hopper::ReleaseOp::create(b, loc, exchange->ring, cursor);
  cursor = hopper::NextOp::create(b, loc, cursor, exchange->ring);
  // Scalars are computed here and not earlier, to save registers.
  Stage late = beginOther(role, key);
  return storeLate(role, late, cast<tile::StoreOp>(exchange->late[1]), any);
}

/// The late part of the block before that at `key`, if there is one.
LogicalResult Scheduler::finishBefore(Role &role, Value begin, Value key) {
  Value any =
      arith::CmpIOp::create(b, loc, arith::CmpIPredicate::slt, begin, key);
  Value before = arith::SubIOp::create(b, loc, key, constant(loop.getStep()));
  before = arith::SelectOp::create(b, loc, any, before, begin);
  return finishLate(role, before, any);
}

//===----------------------------------------------------------------------===//
// The loop
//===----------------------------------------------------------------------===//

/// Puts the weights that other consumers multiply, too, and starts the product
/// of those of the block before.
LogicalResult Scheduler::exchangeWeights(Role &role, Operation &dot) {
  pinBefore(role, dot);
  // Once put, the weights take half the registers.
  settle(role, dot.getOperand(0).getDefiningOp<tile::CastOp>().getInput());
  if (failed(putWeights(role)))
    return failure();
  return startLate(role);
}

/// An op of the block at `key` once its operands are there. A product is only
/// started.
LogicalResult Scheduler::emitDeferredOp(Role &role, Operation &op, Value key) {
  pinBefore(role, op);
  for (Value operand : op.getOperands()) {
    settle(role, operand);
    if (auto cast = operand.getDefiningOp<tile::CastOp>())
      settle(role, cast.getInput());
  }
  // What a full block does not mask reads nothing.
  if (!isa<tile::MaskOp>(op) || role.isFull != true)
    fetch(role, op, key);
  auto dot = dyn_cast<tile::DotOp>(op);
  if (!dot) {
    if (failed(emitOp(role, &op)))
      return failure();
    if (isa<tile::MapOp, tile::MaskOp>(op) && !role.inFlight.empty())
      role.beside.push_back(&op);
    return success();
  }
  FailureOr<Started> started = startDot(role, dot);
  if (failed(started))
    return failure();
  hopper::CommitOp::create(b, loc);
  role.inFlight.push_back(*started);
  return success();
}

/// The block whose scalars and iteration arguments are bound, and the late
/// part of the block before it, if there is one.
LogicalResult Scheduler::emitDeferredBlock(Role &role, Value begin, Value key) {
  Block &block = *loop.getBody();
  // Packed operands are of one block.
  for (auto cast : block.getOps<tile::CastOp>())
    role.map.erase(cast.getResult());
  for (auto &[load, scratch] : prefetches)
    role.map.erase(load->getResult(0));
  // Beside the first products.
  bool isAhead = prefetches.empty();
  auto lookAhead = [&] {
    if (!isAhead) {
      hopper::PrefetchedOp::create(b, loc);
      prefetch(role,
               arith::AddIOp::create(b, loc, key, constant(loop.getStep())));
    }
    isAhead = true;
  };
  for (Operation &op : block.without_terminator()) {
    if (prefetches.contains(&op))
      continue;
    if (exchange && exchange->late.contains(&op)) {
      if (failed(isa<tile::DotOp>(op) ? exchangeWeights(role, op)
                                      : finishBefore(role, begin, key)))
        return failure();
      continue;
    }
    if (waits(role, op) || readsPrefetched(op))
      lookAhead();
    if (failed(emitDeferredOp(role, op, key)))
      return failure();
  }
  lookAhead();
  settleAll(role);
  role.beside.clear();
  return success();
}

LogicalResult Scheduler::emitDeferredLoop(Role &role, Range range) {
  if (failed(emitBlocks(role, range, [&](Value key) {
        return emitDeferredBlock(role, range.begin, key);
      })))
    return failure();
  // What was begun for a block after the last.
  if (!prefetches.empty())
    hopper::PrefetchedOp::create(b, loc);
  if (!exchange)
    return success();
  Value any = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::slt,
                                    range.begin, range.end);
  if (failed(startLate(role)))
    return failure();
  return finishLate(role, getLastKey(range), any);
}
