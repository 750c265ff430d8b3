//===- Elementwise.cpp - Everything but products, on fragments ------------===//
//
// Tiles become fragments: what a consumer has of them in registers, 64 rows of
// those that are as tall as the block. Their ops keep their regions; nothing
// here knows what the elementwise work is.
//
//===----------------------------------------------------------------------===//

#include "passes/TileToHopper/Scheduler.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::scheduling;

/// `expr` with sums as they are read from text: from the left. Else a
/// program that starts again from text would add in another order.
static AffineExpr sumFromLeft(AffineExpr expr) {
  auto binary = dyn_cast<AffineBinaryOpExpr>(expr);
  if (!binary)
    return expr;
  AffineExpr lhs = sumFromLeft(binary.getLHS());
  AffineExpr rhs = sumFromLeft(binary.getRHS());
  auto sum = dyn_cast<AffineBinaryOpExpr>(rhs);
  if (binary.getKind() == AffineExprKind::Add && sum &&
      sum.getKind() == AffineExprKind::Add)
    return sumFromLeft(lhs + sum.getLHS()) + sum.getRHS();
  return getAffineBinaryOpExpr(binary.getKind(), lhs, rhs);
}

AffineMap scheduling::simplified(AffineMap map) {
  map = simplifyAffineMap(map);
  return AffineMap::get(map.getNumDims(), map.getNumSymbols(),
                        llvm::map_to_vector(map.getResults(), sumFromLeft),
                        map.getContext());
}

/// Tiles as tall as the block are split by rows among the consumers; those
/// of one row are the same for all.
FailureOr<hopper::FragType> Scheduler::getFragType(Value tile) {
  auto type = cast<tile::TileType>(tile.getType());
  int64_t rows = hopper::kWgmmaRows;
  hopper::Layout layout = hopper::Layout::Acc;
  if (type.getRows() == 1) {
    rows = 1;
    layout = hopper::Layout::Col;
  } else if (type.getRows() != schedule.getBlockM()) {
    return kernel.emitError()
           << "a tile in registers has one row or the " << schedule.getBlockM()
           << " of block_m, got " << type;
  } else if (type.getCols() == 1 && !accumulators.contains(tile)) {
    layout = hopper::Layout::Row;
  }
  return hopper::FragType::get(b.getContext(), rows, type.getCols(),
                               type.getElementType(), layout);
}

/// Whether each consumer has its own rows of such a fragment.
static bool isSplit(hopper::FragType type) {
  return type.getLayout() != hopper::Layout::Col;
}

/// In a fragment, rows count from the consumer's first one.
std::pair<AffineMap, SmallVector<Value>>
Scheduler::shiftRows(Role &role, AffineMap map, OperandRange coordinates,
                     bool split) {
  SmallVector<Value> symbols;
  for (Value coordinate : coordinates)
    symbols.push_back(role.map.lookup(coordinate));
  if (!split)
    return {map, symbols};
  MLIRContext *context = b.getContext();
  AffineExpr first = getAffineSymbolExpr(map.getNumSymbols(), context);
  // Where parts of the row's number are looked at, that it begins at a multiple
  // of 64 matters.
  bool isLinear = llvm::all_of(map.getResults(), [](AffineExpr expr) {
    return expr.isPureAffine() &&
           !expr.walk([](AffineExpr inner) {
                  auto binary = dyn_cast<AffineBinaryOpExpr>(inner);
                  bool divides = binary &&
                                 binary.getKind() != AffineExprKind::Add &&
                                 binary.getKind() != AffineExprKind::Mul;
                  return divides ? WalkResult::interrupt()
                                 : WalkResult::advance();
                })
                .wasInterrupted();
  });
  symbols.push_back(isLinear ? firstRow : consumer);
  AffineExpr row = getAffineDimExpr(0, context) +
                   (isLinear ? first : first * hopper::kWgmmaRows);
  SmallVector<AffineExpr> identity;
  for (unsigned i = 0; i < map.getNumSymbols(); ++i)
    identity.push_back(getAffineSymbolExpr(i, context));
  map = map.replaceDimsAndSymbols({row, getAffineDimExpr(1, context)}, identity,
                                  2, map.getNumSymbols() + 1);
  return {isLinear ? map : simplified(map), symbols};
}

Value Scheduler::shiftCount(Role &role, Value rows, bool split) {
  if (!rows)
    return {};
  rows = role.map.lookup(rows);
  return split ? Value(arith::SubIOp::create(b, loc, rows, firstRow)) : rows;
}

/// Copies an elementwise region, whose last arguments are row and column.
void Scheduler::cloneBody(Role &role, Region &from, Region &to,
                          bool splitRows) {
  OpBuilder::InsertionGuard guard(b);
  Block &source = from.front();
  Block &block = to.emplaceBlock();
  IRMapping map = role.map;
  for (BlockArgument argument : source.getArguments())
    map.map(argument, block.addArgument(argument.getType(), loc));
  b.setInsertionPointToStart(&block);
  // A mask has (row, column, captured...), the others (..., row, column).
  unsigned rowNumber =
      isa<tile::MaskOp>(from.getParentOp()) ? 0 : source.getNumArguments() - 2;
  Value row = source.getArgument(rowNumber);
  if (splitRows && !row.use_empty())
    map.map(row, arith::AddIOp::create(b, loc, block.getArgument(rowNumber),
                                       firstRowI32));
  for (Operation &op : source.without_terminator())
    b.clone(op, map);
  SmallVector<Value> values;
  for (Value value : source.getTerminator()->getOperands())
    values.push_back(map.lookupOrDefault(value));
  hopper::YieldOp::create(b, loc, values);
}

Value Scheduler::emitMask(Role &role, tile::MaskOp op, Value input) {
  SmallVector<Value> captured;
  for (Value value : op.getCaptured())
    captured.push_back(role.map.lookup(value));
  auto type = cast<hopper::FragType>(input.getType());
  auto apply = [&]() -> Value {
    auto mask =
        hopper::MaskOp::create(b, loc, type, input, captured, op.getFillAttr());
    cloneBody(role, op.getBody(), mask.getBody(), isSplit(type));
    return mask;
  };
  if (role.isFull)
    return *role.isFull ? input : apply();
  auto choice = scf::IfOp::create(b, loc, type, role.full, /*withElse=*/true);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(choice.thenBlock());
  scf::YieldOp::create(b, loc, input);
  b.setInsertionPointToStart(choice.elseBlock());
  Value masked = apply();
  scf::YieldOp::create(b, loc, masked);
  return choice.getResult(0);
}

/// Each item begins with the cheapest formula, so that its results depend on
/// its own data only.
void Scheduler::beginSpeculations(Role &role) {
  // Measured (benchmarks/journal.md, 33): data that needs no other formula pays
  // 1 % for the choice, and 2 % with four consumers, which have few registers,
  // while there only 2 % are gained elsewhere.
  if (!isOverlap() || schedule.getConsumers() > 3)
    return;
  for (auto op : loop.getBody()->getOps<tile::SpeculateOp>())
    if (op.getFast().size() > 1)
      role.missed[op] = arith::ConstantOp::create(b, loc, b.getBoolAttr(false));
}

Value Scheduler::emitSpeculate(Role &role, tile::SpeculateOp op,
                               hopper::FragType type, ValueRange inputs,
                               bool split) {
  auto found = role.missed.find(op);
  bool carries = found != role.missed.end() && !role.isFirst;
  size_t count = role.isFirst ? 1 : op.getFast().size();
  auto made = hopper::SpeculateOp::create(
      b, loc, type, carries ? b.getI1Type() : Type(), inputs,
      carries ? found->second : Value(), op.getSliceAttr(),
      b.getDenseF32ArrayAttr(op.getLimits().take_front(count)), count);
  cloneBody(role, op.getCommon(), made.getCommon(), split);
  cloneBody(role, op.getExact(), made.getExact(), split);
  for (auto [from, to] : llvm::zip(op.getFast(), made.getFast()))
    cloneBody(role, from, to, split);
  if (carries)
    found->second = made.getMisses();
  return made.getResult();
}

/// The copied load whose slot a store may go through: as many rows, at least
/// as many panels, and read by no product any more. Null if there is none.
/// Left operands only: the rows of right ones are read by all consumers.
tile::LoadOp Scheduler::findStaging(tile::StoreOp store) {
  tile::TileType type = store.getTile().getType();
  if (!schedule.getStaged() || !loop || loop->getBlock() != store->getBlock() ||
      store->isBeforeInBlock(loop) || !productsEndWithLoop() ||
      type.getElementType().getIntOrFloatBitWidth() != 16 ||
      type.getRows() != schedule.getBlockM() || type.getCols() == 1)
    return {};
  for (auto &[op, copy] : copies) {
    tile::TileType slot = copy.load.getTile().getType();
    bool isOwn = llvm::all_of(op->getUses(), [](OpOperand &use) {
      return use.getOperandNumber() == 0;
    });
    if (!copy.inLoop && isOwn && slot.getRows() == type.getRows() &&
        hopper::panelCount(slot.getCols()) >=
            hopper::panelCount(type.getCols()))
      return copy.load;
  }
  return {};
}

/// This consumer's rows of that slot.
Value Scheduler::getStaging(Role &role, tile::StoreOp store) {
  tile::LoadOp load = findStaging(store);
  if (!load)
    return {};
  Value slot = getSlot(role, load);
  auto type = cast<hopper::SmemType>(slot.getType());
  type = hopper::SmemType::get(b.getContext(), hopper::kWgmmaRows,
                               type.getCols(), type.getElementType());
  return hopper::RowsOp::create(b, loc, type, slot, consumer);
}

LogicalResult Scheduler::emitStore(Role &role, tile::StoreOp store) {
  FailureOr<hopper::FragType> type = getFragType(store.getTile());
  if (failed(type))
    return failure();
  bool split = isSplit(*type);
  auto [map, coordinates] =
      shiftRows(role, store.getMap(), store.getCoordinates(), split);
  Value rows = shiftCount(role, store.getRows(), split);
  hopper::StoreOp::create(b, loc, role.map.lookup(store.getTile()),
                          role.map.lookup(store.getView()), coordinates, map,
                          rows, getStaging(role, store), store.getAdd());
  return success();
}

FailureOr<Value> Scheduler::emitLoad(Role &role, tile::LoadOp load,
                                     hopper::FragType type) {
  if (load.getPageTable())
    return load->emitError("paged loads are not implemented on Hopper");
  bool split = isSplit(type);
  auto [map, coordinates] =
      shiftRows(role, load.getMap(), load.getCoordinates(), split);
  return Value(hopper::LoadOp::create(
      b, loc, type, role.map.lookup(load.getView()), coordinates, map,
      shiftCount(role, load.getRows(), split)));
}

/// An op whose result is one tile.
FailureOr<Value> Scheduler::emitTile(Role &role, Operation *op) {
  FailureOr<hopper::FragType> type = getFragType(op->getResult(0));
  if (failed(type))
    return failure();
  if (auto load = dyn_cast<tile::LoadOp>(op))
    return emitLoad(role, load, *type);
  bool split = isSplit(*type);
  SmallVector<Value> inputs;
  for (Value operand : op->getOperands())
    inputs.push_back(role.map.lookup(operand));
  if (isa<tile::SplatOp>(op))
    return Value(hopper::SplatOp::create(b, loc, *type, inputs[0]));
  if (auto map = dyn_cast<tile::MapOp>(op)) {
    auto made =
        hopper::MapOp::create(b, loc, *type, inputs, map.getWidthAttr());
    cloneBody(role, map.getBody(), made.getBody(), split);
    return made.getResult();
  }
  if (auto guess = dyn_cast<tile::SpeculateOp>(op))
    return emitSpeculate(role, guess, *type, inputs, split);
  if (auto mask = dyn_cast<tile::MaskOp>(op))
    return emitMask(role, mask, inputs[0]);
  if (auto reduce = dyn_cast<tile::ReduceOp>(op)) {
    bool partial = llvm::any_of(
        deferredSums, [&](auto &entry) { return entry.second == reduce; });
    return Value(hopper::ReduceOp::create(b, loc, *type, reduce.getKind(),
                                          inputs[0], partial));
  }
  if (isa<tile::CastOp>(op))
    return Value(hopper::ConvertOp::create(b, loc, *type, inputs[0]));
  return op->emitOpError("cannot be scheduled on Hopper");
}

/// A loop without products, which the producer knows nothing of.
LogicalResult Scheduler::emitFor(Role &role, scf::ForOp op) {
  auto found = op->walk([](Operation *inner) {
    return isa<tile::DotOp, tile::ForKeysOp>(inner) ? WalkResult::interrupt()
                                                    : WalkResult::advance();
  });
  if (found.wasInterrupted())
    return op.emitOpError("cannot be scheduled on Hopper, where products stand "
                          "in tile.for_keys or in no loop");
  SmallVector<Value> bounds, inits;
  for (Value bound : {op.getLowerBound(), op.getUpperBound(), op.getStep()})
    bounds.push_back(role.map.lookup(bound));
  for (Value init : op.getInitArgs())
    inits.push_back(role.map.lookup(init));
  auto each =
      scf::ForOp::create(b, loc, bounds[0], bounds[1], bounds[2], inits);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(each.getBody());
  role.map.map(op.getInductionVar(), each.getInductionVar());
  role.map.map(op.getRegionIterArgs(), each.getRegionIterArgs());
  for (Operation &inner : op.getBody()->without_terminator())
    if (failed(emitOp(role, &inner)))
      return failure();
  SmallVector<Value> next;
  for (Value value : op.getYieldedValues())
    next.push_back(role.map.lookup(value));
  if (!next.empty())
    scf::YieldOp::create(b, loc, next);
  role.map.map(op.getResults(), each.getResults());
  return success();
}

LogicalResult Scheduler::emitOp(Role &role, Operation *op) {
  if (isScalar(op)) {
    b.clone(*op, role.map);
    return success();
  }
  if (auto found = copies.find(op); found != copies.end()) {
    // In the loop, the product that reads it waits for it.
    if (!found->second.inLoop)
      getSlot(role, found->second.load);
    return success();
  }
  if (auto dot = dyn_cast<tile::DotOp>(op)) {
    FailureOr<Started> started = startDot(role, dot);
    if (failed(started))
      return failure();
    hopper::CommitOp::create(b, loc);
    waitFor(role, *started);
    return success();
  }
  if (auto store = dyn_cast<tile::StoreOp>(op))
    return emitStore(role, store);
  if (auto each = dyn_cast<scf::ForOp>(op))
    return emitFor(role, each);
  if (op->getNumResults() != 1)
    return op->emitOpError("cannot be scheduled on Hopper");
  // Only ever read by products: packed when it is read.
  if (isa<tile::CastOp>(op) && llvm::all_of(op->getUses(), [](OpOperand &use) {
        auto dot = dyn_cast<tile::DotOp>(use.getOwner());
        return dot && use.get() == dot.getLhs();
      }))
    return success();
  FailureOr<Value> result = emitTile(role, op);
  if (failed(result))
    return failure();
  role.map.map(op->getResult(0), *result);
  return success();
}
