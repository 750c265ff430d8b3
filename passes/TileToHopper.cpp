//===- TileToHopper.cpp - Schedules tile kernels on Hopper ----------------===//
//
// A tile kernel says what a block of queries does; this pass decides who does
// it and when, as its #tile.schedule asks:
//
// - Loads that feed products become copies by the producer: into rings inside
//   the loop over keys, into a buffer of one slot outside it. Copies are bulk
//   copies (TMA) where the view allows them, else all threads of the producer
//   copy element by element.
// - Everything else goes to the consumer warpgroups, 64 rows each.
// - Index arithmetic is done by both roles; what a role does not use, a
//   clean-up removes.
// - Order `serial` waits for each product at once. Order `overlap` splits the
//   loop body in two stages: the second is what depends on the accumulators
//   that the loop carries, the first is the rest. The products of the next
//   block's first stage are started before the products of this block's
//   second stage are waited for, so elementwise work runs beside them.
// - Order `two_tiles` has the same stages of two blocks at a time: a group of
//   products is the second stage of one block and the first of the block two
//   further on, and is in flight during the elementwise work of the block
//   between, whose group comes next. Only for full blocks, and only where the
//   second stage is nothing but products: what is added up is never read.
// - Order `deferred` starts a product where it stands and waits for it where
//   its result is first read. A product of transposed weights needs those of
//   all consumers: they are exchanged in shared memory, and what depends on
//   them is done one block late, so that consumers need not keep in step. What
//   a block reads in each column is copied to shared memory one block early.
// - Thread blocks of a cluster take neighbours along the last dim of the items,
//   of the same head, and copy the keys that any of them needs once for all.
//
// Nothing here knows what the elementwise work is.
//
//===----------------------------------------------------------------------===//

#include "dialects/hopper/Hopper.h"
#include "dialects/hopper/Layout.h"
#include "dialects/tile/Tile.h"
#include "passes/LaunchItems.h"
#include "passes/Passes.h"

#include "mlir/Dialect/Affine/IR/AffineOps.h"
#include "mlir/Dialect/Affine/Utils.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/ADT/TypeSwitch.h"
#include "llvm/Support/SaveAndRestore.h"

namespace attnc {
#define GEN_PASS_DEF_TILETOHOPPER
#include "passes/Passes.h.inc"
} // namespace attnc

using namespace mlir;
using namespace attnc;

namespace {

//===----------------------------------------------------------------------===//
// What is copied by TMA
//===----------------------------------------------------------------------===//

/// A load that feeds products: a ring and how to fill it.
struct Copy {
  tile::LoadOp load;
  bool inLoop;
  /// View dims, the fastest first: that of columns, that of rows, the others.
  SmallVector<int64_t> order;
  /// By TMA, else element by element.
  bool bulk;
  /// The copy leaves rows that the load must not read: they are zeroed.
  bool zeroRows;
  /// The same for all thread blocks of a cluster: each copies a part to all.
  bool shared;
  Value ring, map;
};

/// Heads whose items are ordered together, see splitItem: enough that the last
/// ones fill all SMs, few enough for the second-level cache.
constexpr int64_t kSectionHeads = 32;

bool isTile(Type type) { return isa<tile::TileType>(type); }

/// Neither takes nor gives tiles: index arithmetic and scalar loads.
bool isScalar(Operation *op) {
  return llvm::none_of(op->getOperandTypes(), isTile) &&
         llvm::none_of(op->getResultTypes(), isTile) &&
         !isa<tile::ForKeysOp, tile::StoreOp>(op) &&
         !op->hasTrait<OpTrait::IsTerminator>();
}

/// The dim of the map that is `dim` plus something independent of it, if the
/// other dims do not depend on it; else -1.
int64_t findUnitDim(AffineMap map, AffineExpr dim) {
  int64_t found = -1;
  unsigned position = cast<AffineDimExpr>(dim).getPosition();
  MLIRContext *context = map.getContext();
  for (auto [index, expr] : llvm::enumerate(map.getResults())) {
    if (!expr.isFunctionOfDim(position))
      continue;
    AffineExpr rest = expr.replace(dim, getAffineConstantExpr(0, context));
    AffineExpr difference = simplifyAffineExpr(
        expr - rest - dim, map.getNumDims(), map.getNumSymbols());
    if (found >= 0 || difference != getAffineConstantExpr(0, context))
      return -1;
    found = index;
  }
  return found;
}

/// The same, with sums as they are read from text: from the left. Else a
/// program that starts again from text would add in another order.
AffineExpr sumFromLeft(AffineExpr expr) {
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

AffineMap simplified(AffineMap map) {
  map = simplifyAffineMap(map);
  return AffineMap::get(map.getNumDims(), map.getNumSymbols(),
                        llvm::map_to_vector(map.getResults(), sumFromLeft),
                        map.getContext());
}

/// A dim of a kernel's argument.
using ArgumentDim = std::pair<unsigned, uint64_t>;

/// Dims that every program that launches `kernel` checks to be equal.
class EqualDims {
public:
  explicit EqualDims(tile::KernelOp kernel) {
    bool first = true;
    kernel->getParentOfType<ModuleOp>().walk([&](tile::LaunchOp launch) {
      if (launch.getKernel() != kernel.getSymName())
        return;
      auto found = collect(launch);
      if (first)
        pairs = found;
      pairs.remove_if([&](const Pair &pair) { return !found.contains(pair); });
      first = false;
    });
  }

  bool areEqual(tile::DimOp dim, unsigned argument, uint64_t otherDim) const {
    auto view = dyn_cast<BlockArgument>(dim.getView());
    if (!view)
      return false;
    ArgumentDim x = {view.getArgNumber(), dim.getDim()};
    ArgumentDim y = {argument, otherDim};
    return x == y || pairs.contains({x, y}) || pairs.contains({y, x});
  }

private:
  using Pair = std::pair<ArgumentDim, ArgumentDim>;

  static llvm::SmallSetVector<Pair, 8> collect(tile::LaunchOp launch) {
    llvm::SmallSetVector<Pair, 8> found;
    auto program = launch->getParentOfType<tile::ProgramOp>();
    for (auto check : program.getBody().getOps<tile::CheckOp>()) {
      auto compare = check.getCondition().getDefiningOp<arith::CmpIOp>();
      if (!compare || compare.getPredicate() != arith::CmpIPredicate::eq)
        continue;
      auto x = compare.getLhs().getDefiningOp<tile::DimOp>();
      auto y = compare.getRhs().getDefiningOp<tile::DimOp>();
      if (!x || !y)
        continue;
      for (auto [i, left] : llvm::enumerate(launch.getArgs()))
        for (auto [j, right] : llvm::enumerate(launch.getArgs()))
          if (left == x.getView() && right == y.getView())
            found.insert({{i, x.getDim()}, {j, y.getDim()}});
    }
    return found;
  }

  llvm::SmallSetVector<Pair, 8> pairs;
};

/// Whether `rows` only repeats the size of the view: rows = size - first row.
/// Beyond its size, a bulk copy gives zeros by itself.
bool rowsEndView(tile::LoadOp load, int64_t rowDim, const EqualDims &equal) {
  if (!load.getRows())
    return true;
  auto left = load.getRows().getDefiningOp<arith::SubIOp>();
  auto view = dyn_cast<BlockArgument>(load.getView());
  if (!left || !view)
    return false;
  auto size = left.getLhs().getDefiningOp<tile::DimOp>();
  AffineMap map = load.getMap();
  AffineExpr row = getAffineDimExpr(0, load.getContext());
  auto first = dyn_cast<AffineSymbolExpr>(simplifyAffineExpr(
      map.getResult(rowDim) - row, map.getNumDims(), map.getNumSymbols()));
  return size && first && equal.areEqual(size, view.getArgNumber(), rowDim) &&
         load.getCoordinates()[first.getPosition()] == left.getRhs();
}

/// Whether TMA can read the view where its columns are dense: the stride of its
/// rows is then a multiple of the columns, and must be one of 16 bytes.
bool fitsBulkCopy(tile::LoadOp load, int64_t colDim) {
  tile::ViewType view = load.getView().getType();
  int64_t columns = view.getShape()[colDim];
  int64_t bytes = view.getElementType().getIntOrFloatBitWidth() / 8;
  return ShapedType::isDynamic(columns) || columns * bytes % 16 == 0;
}

/// Whether every use is as an operand of a product.
bool feedsProducts(tile::LoadOp load) {
  return !load->use_empty() &&
         llvm::all_of(load->getUses(), [](OpOperand &use) {
           auto dot = dyn_cast<tile::DotOp>(use.getOwner());
           return dot && use.get() != dot.getAcc();
         });
}

/// Users come after what they use, so one pass from the end finds all.
void eraseUnused(Block &block) {
  for (Operation &op : llvm::make_early_inc_range(llvm::reverse(block))) {
    for (Region &region : op.getRegions())
      for (Block &inner : region)
        eraseUnused(inner);
    if (isOpTriviallyDead(&op))
      op.erase();
  }
}

//===----------------------------------------------------------------------===//
// The state of a role
//===----------------------------------------------------------------------===//

/// A product that was started.
struct Started {
  tile::DotOp dot;
  Value pending;
};

/// A slot that products in flight read, and that nobody else will.
struct HeldSlot {
  Value ring, cursor;
};

/// Order `two_tiles`: a block whose first stage's products were started.
struct StartedBlock {
  Value key;
  SmallVector<Started> products;
  SmallVector<HeldSlot> slots;
};

/// What stands for the values of the tile program.
struct Stage {
  IRMapping map;
  /// In the loop over keys: whether the block is full, where that is known
  /// here, else as a value. Outside the loop, every mask applies.
  std::optional<bool> isFull = false;
  Value full;
};

/// What one role has emitted so far, and its position in each ring.
struct Role : Stage {
  llvm::MapVector<Operation *, Value> cursors;
  /// Of speculations in the loop over keys: whether the last block missed.
  llvm::MapVector<Operation *, Value> missed;
  /// Slots that were awaited and not yet released.
  llvm::MapVector<Operation *, Value> slots;
  /// Order `deferred`: products that were not waited for, the oldest first, and
  /// elementwise work done meanwhile.
  SmallVector<Started> inFlight;
  SmallVector<Operation *> beside;
  /// The first block of an item goes from the cheapest formula to the exact
  /// one: others would be much code for one block.
  bool isFirst = false;
  /// Keys between these need no mask.
  Value fullLo, fullHi;
  /// The producer's: whether keys are read once; may be null.
  Value readOnce;
};

/// Order `deferred`: the product that reads weights of all consumers.
struct Exchange {
  tile::DotOp dot;
  /// It and all that depends on it.
  llvm::SetVector<Operation *> late;
  Value ring;
  /// Through which sums are added, if there is room.
  Value scratch;
};

/// Order `deferred`: what blocks read in each column, and the shared memory
/// into which it is copied while the block before is worked on.
using Prefetches = llvm::MapVector<Operation *, Value>;

/// The ops of a stage: its first products with what stands before them, and
/// what depends on a product or stands after the last of those.
struct StageParts {
  SmallVector<Operation *> start, rest;
};

/// A stage whose first products were started: what was emitted before them and
/// what remains.
struct Progress {
  llvm::SmallPtrSet<Operation *, 4> prepared;
  SmallVector<Started> started;
  SmallVector<Operation *> rest;
};

//===----------------------------------------------------------------------===//
// The scheduler
//===----------------------------------------------------------------------===//

/// Of exchanged weights: those of one block are read while the next are made.
constexpr int64_t kExchangeSlots = 2;

class Scheduler {
public:
  Scheduler(tile::KernelOp kernel, bool anyLayout)
      : anyLayout(anyLayout), kernel(kernel), schedule(*kernel.getSchedule()),
        b(kernel), loc(kernel.getLoc()) {}

  LogicalResult run();

  /// Thread blocks that share copies.
  int64_t getCluster() const { return cluster; }

private:
  /// Of the loop over keys.
  struct Range {
    Value begin, end, step, fullLo, fullHi;
  };

  // What is to be done.
  LogicalResult analyse();
  LogicalResult addCopy(tile::LoadOp load, bool inLoop);
  int64_t getStages(const Copy &copy);
  int64_t getScratchBytes();
  int64_t getSharedBytes();
  LogicalResult checkBudgets();
  LogicalResult findStages();
  LogicalResult findExchange();
  bool dependsOnLast(ValueRange values);
  LogicalResult findShared();
  void findPrefetches();
  void makePrefetchScratch();
  void findAccumulators();
  void findDeferredSums();
  Value getInit(Role &role, Value init, BlockArgument arg);

  // The kernel and its roles.
  void makeRing(Copy &copy);
  LogicalResult emitRole(bool producer);
  bool keysGrowWithLast();
  /// Of a persistent grid.
  struct Visits {
    Value grid, count;
  };
  Value getGrid();
  Value countLast(Role &role);
  Visits planVisits(Role &role, Value block);
  Value getPlace(const Visits &visits, Value block, Value round);
  Value getVisited(const Visits &visits, Value block, Value round);
  void releaseItemSlots(Role &role);
  void awaitCluster(Role &role);
  bool productsEndWithLoop();
  tile::LoadOp findStaging(tile::StoreOp store);
  Value getStaging(Role &role, tile::StoreOp store);
  std::pair<Value, Value> splitItem(Role &role, Value item);
  LogicalResult emitItem(Role &role, bool producer, Value item);

  // The producer.
  void emitCopy(Role &role, Copy &copy);
  LogicalResult emitProducerBlock(Role &role, Block &block);
  bool followsFirstKeys(const Copy &copy);
  Value isReadOnce(Role &role, const Range &range);
  scf::IfOp ifAnyKeys(Value begin, Value end, ValueRange values);
  LogicalResult emitFirstKeys(Role &role, ArrayRef<Copy *> late, Value key,
                              Range &range);
  LogicalResult emitProducerLoop(Role &role, ArrayRef<Copy *> late);

  // The consumers.
  LogicalResult emitConsumerBlock(Role &role, Block &block);
  LogicalResult emitBlocks(Role &role, Range range,
                           llvm::function_ref<LogicalResult(Value)> block);
  LogicalResult emitSerialLoop(Role &role, Range range);
  LogicalResult emitOverlapLoop(Role &role, Range range);
  LogicalResult emitDeferredLoop(Role &role, Range range);
  LogicalResult checkPairs();
  void holdSlots(Role &role, ArrayRef<Started> started,
                 SmallVectorImpl<HeldSlot> &slots);
  LogicalResult startDots(Role &role, ArrayRef<Operation *> ops,
                          SmallVectorImpl<Started> &started);
  FailureOr<StartedBlock> startBlock(Role &role, Value key);
  LogicalResult finishBlock(Role &role, Value key, ValueRange products,
                            SmallVectorImpl<Value> &args,
                            SmallVectorImpl<Value> &crossed);
  FailureOr<SmallVector<Started>> addBlock(Role &role, Value key,
                                           ValueRange crossed,
                                           SmallVectorImpl<Value> &args,
                                           SmallVectorImpl<HeldSlot> &slots);
  SmallVector<Value> waitForBlock(Role &role, const StartedBlock &block);
  void waitForSums(Role &role, ArrayRef<Started> started,
                   SmallVectorImpl<Value> &args);
  void giveBack(ArrayRef<HeldSlot> slots);
  LogicalResult emitPair(Role &role, Value key, SmallVectorImpl<Value> &args,
                         SmallVectorImpl<Value> &crossed,
                         SmallVectorImpl<Value> &waiting);
  LogicalResult emitFirstPair(Role &role, Value key,
                              SmallVectorImpl<Value> &args,
                              SmallVectorImpl<Value> &crossed,
                              SmallVectorImpl<Value> &waiting);
  LogicalResult emitLastPair(Role &role, Value key,
                             SmallVectorImpl<Value> &args, ValueRange crossed,
                             ValueRange waiting);
  FailureOr<SmallVector<Value>> emitPairs(Role &role, Value begin, Value end,
                                          SmallVector<Value> carried);
  LogicalResult emitTwoTilesLoop(Role &role, Range range);
  LogicalResult finishBefore(Role &role, Value begin, Value key);
  LogicalResult exchangeWeights(Role &role, Operation &dot);
  LogicalResult emitDeferredOp(Role &role, Operation &op, Value key);
  LogicalResult emitDeferredBlock(Role &role, Value begin, Value key);
  /// Those ops stand for the positions in the ring of exchanged weights.
  Operation *getPutter() { return exchange->dot.getLhs().getDefiningOp(); }
  Operation *getReader() { return exchange->dot; }
  Value getPrefetchSlot(Value key);
  void prefetch(Role &role, Value key);
  bool readsPrefetched(Operation &op) {
    return llvm::any_of(op.getOperands(), [&](Value operand) {
      return prefetches.contains(operand.getDefiningOp());
    });
  }
  void fetch(Role &role, Operation &op, Value key);
  void pinBefore(Role &role, Operation &op);
  void settle(Role &role, Value tile);
  void settleAll(Role &role);
  Stage beginOther(Role &role, Value key);
  LogicalResult putWeights(Role &role);
  void putZeros(Role &role);
  void put(Role &role, Value packed);
  LogicalResult startLate(Role &role);
  LogicalResult finishLate(Role &role, Value key, Value any);
  LogicalResult storeLate(Role &role, Stage &late, tile::StoreOp store,
                          Value any);
  bool beginsWithLast();
  Value getLastKey(const Range &range);
  LogicalResult emitOp(Role &role, Operation *op);
  LogicalResult emitFor(Role &role, scf::ForOp op);
  SmallVector<Operation *> getOps(bool first);
  StageParts splitStage(bool first);
  bool isLongTurn();
  bool needsPreparing(bool first);
  LogicalResult prepareStage(Role &role, bool first, Progress &progress);
  LogicalResult startStage(Role &role, bool first, Progress &progress);
  LogicalResult finishStage(Role &role, Progress &progress);
  LogicalResult emitFirst(Role &role, Value key, SmallVectorImpl<Value> &out);
  LogicalResult getCrossing(Role &role, SmallVectorImpl<Value> &out);
  LogicalResult emitSteady(Role &role, Value key, Value before, bool isFull,
                           ValueRange carried, SmallVectorImpl<Value> &out);
  LogicalResult emitLast(Role &role, Value key, ValueRange carried,
                         SmallVectorImpl<Value> &out);
  void bindSecond(Stage &stage, ValueRange carried);
  Value getSlot(Role &role, tile::LoadOp load);
  void release(Role &role, tile::DotOp dot);
  FailureOr<Started> startDot(Role &role, tile::DotOp dot);
  void waitFor(Role &role, ArrayRef<Started> started);
  FailureOr<Value> getPacked(Role &role, Value tile);
  FailureOr<hopper::FragType> getFragType(Value tile);
  Value emitMask(Role &role, tile::MaskOp op, Value input);
  void cloneBody(Role &role, Region &from, Region &to, bool splitRows);
  std::pair<AffineMap, SmallVector<Value>>
  shiftRows(Role &role, AffineMap map, OperandRange coordinates, bool split);
  Value shiftCount(Role &role, Value rows, bool split);
  void beginBlock(Role &role, Value key, std::optional<bool> isFull);

  // The loop over keys.
  Range getRange(Value lo, Value fullLo, Value fullHi, Value hi);
  Range getItemRange(Role &role);
  Range getClusterRange(Role &role);
  SmallVector<Value> getOwnBounds(Role &role);
  Range getOwnRange(Role &role, const Range &item);
  void skipBlocks(Role &role, Value begin, Value end, Value step);
  LogicalResult emitOwnLoop(Role &role);
  /// Emits one block: its key, whether it is full, what is carried in and out.
  using PartBody = llvm::function_ref<LogicalResult(Value, bool, ValueRange,
                                                    SmallVectorImpl<Value> &)>;
  /// Blocks of which all or none are full.
  struct Part {
    Value begin, end;
    bool isFull;
  };
  SmallVector<Part> getParts(Role &role, const Range &range, Value from);
  FailureOr<SmallVector<Value>> emitPart(const Part &part, Value step,
                                         SmallVector<Value> carried,
                                         PartBody body);
  FailureOr<SmallVector<Value>> emitParts(Role &role, Range range, Value from,
                                          SmallVector<Value> carried,
                                          PartBody body);
  SmallVector<Value> getInits(Role &role);
  LogicalResult emitOneBlock(Role &role, Value key, bool isFull,
                             ValueRange args, SmallVectorImpl<Value> &next,
                             llvm::function_ref<LogicalResult(Value)> block);
  void beginSpeculations(Role &role);
  Value emitSpeculate(Role &role, tile::SpeculateOp op, hopper::FragType type,
                      ValueRange inputs, bool split);
  SmallVector<Value> getCursors(Role &role, bool inLoop);
  void setCursors(Role &role, ValueRange values, bool inLoop);

  Value constant(int64_t value) {
    return arith::ConstantIndexOp::create(b, loc, value);
  }
  bool isOverlap() { return schedule.getOrder() == tile::Order::Overlap; }
  bool isDeferred() { return schedule.getOrder() == tile::Order::Deferred; }
  bool isTwoTiles() { return schedule.getOrder() == tile::Order::TwoTiles; }
  bool isFirstStage(Operation *op) { return !secondStage.contains(op); }
  bool isInLoop(Operation *op) {
    auto found = copies.find(op);
    return found == copies.end() || found->second.inLoop;
  }
  /// Whether each consumer has some columns of an exchanged product, which has
  /// no more than 64 rows; else each has 64 rows.
  bool splitsColumns() {
    return schedule.getConsumers() > 1 &&
           schedule.getBlockN() == hopper::kWgmmaRows;
  }
  /// How many: a panel, or a part of the only one.
  int64_t getShare() {
    int64_t cols = exchange->dot.getN();
    if (!splitsColumns())
      return cols;
    if (cols > hopper::kPanelColumns)
      return hopper::kPanelColumns;
    return hopper::roundUp(cols, hopper::kWgmmaK) / schedule.getConsumers();
  }
  bool isCooperative() {
    return llvm::any_of(copies, [](auto &copy) { return !copy.second.bulk; });
  }

  /// No bulk copies: views may have any strides and alignment.
  bool anyLayout;
  tile::KernelOp kernel;
  tile::ScheduleAttr schedule;
  OpBuilder b;
  Location loc;
  hopper::KernelOp out;
  tile::ItemsOp items;
  tile::ForKeysOp loop;
  llvm::MapVector<Operation *, Copy> copies;
  /// Slots for what is copied outside the loop over keys.
  int64_t itemStages = 1;
  IRMapping kernelMap;
  llvm::SmallSetVector<Value, 8> accumulators;
  /// By the number of what the loop carries.
  llvm::MapVector<size_t, tile::ReduceOp> deferredSums;

  /// Thread blocks that share copies, the number of this one among them, and
  /// the last coordinate of the first one's item.
  int64_t cluster = 1;
  Value rank, firstLast;

  // Of the consumers: their number as a value, their first row (index, i32).
  Value consumer, firstRow, firstRowI32;

  // Order `deferred`.
  std::optional<Exchange> exchange;
  Prefetches prefetches;

  // Order `overlap`.
  llvm::SetVector<Operation *> secondStage;
  SmallVector<bool> secondArgs;
  SmallVector<Value> crossing;
};

//===----------------------------------------------------------------------===//
// Analysis
//===----------------------------------------------------------------------===//

LogicalResult Scheduler::analyse() {
  items = kernel.getItems();
  int64_t consumers = schedule.getConsumers();
  if (consumers > 4 || schedule.getBlockM() != consumers * hopper::kWgmmaRows)
    return kernel.emitError()
           << "schedule: each consumer warpgroup owns 64 rows, so block_m must "
              "be 64 * consumers with 1 to 4 consumers, got block_m = "
           << schedule.getBlockM() << " and consumers = " << consumers;
  if (schedule.getBlockN() % hopper::kWgmmaK || schedule.getBlockN() > 256)
    return kernel.emitError()
           << "schedule: block_n must be a multiple of 16 up to 256, got "
           << schedule.getBlockN();
  auto loops = items.getBody().front().getOps<tile::ForKeysOp>();
  if (llvm::range_size(loops) > 1)
    return kernel.emitError("a kernel with more than one tile.for_keys cannot "
                            "be scheduled on Hopper");
  if (!loops.empty())
    loop = *loops.begin();
  for (auto load : items.getBody().front().getOps<tile::LoadOp>())
    if (feedsProducts(load) && failed(addCopy(load, false)))
      return failure();
  findAccumulators();
  if (!loop)
    return success();
  findDeferredSums();
  for (auto load : loop.getBody()->getOps<tile::LoadOp>())
    if (feedsProducts(load) && failed(addCopy(load, true)))
      return failure();
  if (failed(findExchange()))
    return failure();
  if (failed(findShared()))
    return failure();
  if (isDeferred())
    findPrefetches();
  if (!isOverlap() && !isTwoTiles())
    return success();
  if (failed(findStages()))
    return failure();
  return isTwoTiles() ? checkPairs() : success();
}

/// Whether any of the values depends on the last coordinate of an item.
bool Scheduler::dependsOnLast(ValueRange values) {
  if (items.getCounts().empty())
    return false;
  Value last = items.getBody().front().getArguments().back();
  SmallVector<Value> work(values);
  llvm::SmallPtrSet<Value, 16> seen;
  while (!work.empty()) {
    Value value = work.pop_back_val();
    if (value == last)
      return true;
    if (!seen.insert(value).second || !value.getDefiningOp())
      continue;
    llvm::append_range(work, value.getDefiningOp()->getOperands());
  }
  return false;
}

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

LogicalResult Scheduler::addCopy(tile::LoadOp load, bool inLoop) {
  if (load.getPageTable())
    return load.emitError("paged loads are not implemented on Hopper");
  MLIRContext *context = load.getContext();
  int64_t rowDim = findUnitDim(load.getMap(), getAffineDimExpr(0, context));
  int64_t colDim = findUnitDim(load.getMap(), getAffineDimExpr(1, context));
  tile::ViewType view = load.getView().getType();
  tile::TileType tileType = load.getTile().getType();
  if (tileType.getElementType().getIntOrFloatBitWidth() != 16)
    return load.emitError()
           << "products on Hopper take bf16 or f16 operands, got "
           << tileType.getElementType()
           << "; round queries, keys and values to bf16 or f16 (the output may "
              "stay f32), or compile for the CPU with --target=cpu";
  // One dim of the view follows the rows, one the columns.
  bool bulk = !anyLayout && rowDim >= 0 && colDim >= 0 && rowDim != colDim &&
              view.getRank() <= 5 && fitsBulkCopy(load, colDim);
  SmallVector<int64_t> order = {colDim, rowDim};
  for (int64_t dim = view.getRank() - 1; dim >= 0; --dim)
    if (dim != colDim && dim != rowDim)
      order.push_back(dim);
  bool zeroRows = bulk && !rowsEndView(load, rowDim, EqualDims(kernel));
  copies[load] = Copy{load, inLoop, order, bulk, zeroRows, false, {}, {}};
  return success();
}

/// Slots of the ring of `copy`.
int64_t Scheduler::getStages(const Copy &copy) {
  return copy.inLoop ? std::max<int64_t>(schedule.getStages(), 1) : itemStages;
}

/// Shared memory through which shares of the exchanged product go. Measured
/// (benchmarks/journal.md, backward, 6): blocks of 64 rows gain by it, a
/// product of which each consumer has 64 rows loses.
int64_t Scheduler::getScratchBytes() {
  return exchange && splitsColumns()
             ? 4 * schedule.getConsumers() * hopper::kWgmmaRows * getShare()
             : 0;
}

/// Shared memory for all rings and their barriers.
int64_t Scheduler::getSharedBytes() {
  int64_t bytes = 0;
  for (auto &entry : copies) {
    tile::TileType type = entry.second.load.getTile().getType();
    bytes += getStages(entry.second) *
             (hopper::slotBytes(type.getRows(), type.getCols()) + 16);
  }
  if (exchange)
    bytes +=
        kExchangeSlots *
        (hopper::slotBytes(schedule.getBlockM(), schedule.getBlockN()) + 16);
  return bytes;
}

/// Refuses what cannot fit, with the numbers, before any code is made.
LogicalResult Scheduler::checkBudgets() {
  for (auto &entry : copies) {
    Copy &copy = entry.second;
    tile::TileType type = copy.load.getTile().getType();
    if (type.getRows() > 256 || type.getRows() % 8)
      return copy.load.emitError()
             << "a bulk copy takes a multiple of 8 rows up to 256, got "
             << type.getRows();
  }
  // In a persistent grid the next item's operands arrive during this one's end,
  // if there is room for both.
  itemStages = schedule.getPersistent() ? 2 : 1;
  if (getSharedBytes() > hopper::kSharedMemoryLimit)
    itemStages = 1;
  int64_t bytes = getSharedBytes();
  if (bytes > hopper::kSharedMemoryLimit)
    return kernel.emitError() << "schedule: needs " << bytes
                              << " bytes of shared memory, a thread block has "
                              << hopper::kSharedMemoryLimit
                              << "; try fewer stages or a smaller block_n";
  // Of one product, with its operands.
  constexpr int64_t operands = 16;
  int64_t threads = 128 * (schedule.getConsumers() + 1);
  int64_t registers = 65536 / (threads * schedule.getResident());
  WalkResult fits = items.walk([&](tile::DotOp dot) {
    if (schedule.getResident() == 1 || dot.getN() / 2 + operands <= registers)
      return WalkResult::advance();
    kernel.emitError() << "schedule: with resident = " << schedule.getResident()
                       << " a thread has " << registers
                       << " registers, a product of " << dot.getN()
                       << " columns needs " << dot.getN() / 2 + operands
                       << "; try resident = 1";
    return WalkResult::interrupt();
  });
  return failure(fits.wasInterrupted());
}

/// Tiles of one column that products make or add to have the layout of
/// accumulators, others that of a value a row.
void Scheduler::findAccumulators() {
  SmallVector<Value> work;
  auto add = [&](Value value) {
    auto type = dyn_cast<tile::TileType>(value.getType());
    if (type && type.getCols() == 1 && type.getRows() == schedule.getBlockM() &&
        accumulators.insert(value))
      work.push_back(value);
  };
  items.walk([&](tile::DotOp dot) {
    add(dot.getResult());
    if (dot.getAcc())
      add(dot.getAcc());
  });
  while (!work.empty()) {
    Value value = work.pop_back_val();
    for (Operation *user : value.getUsers())
      if (isa<tile::MapOp, tile::MaskOp, tile::CastOp>(user))
        add(user->getResult(0));
    if (!loop)
      continue;
    for (auto [arg, yielded, result] :
         llvm::zip(loop.getIterArgs(), loop.getYielded(), loop.getResults()))
      if (value == arg || value == yielded)
        for (Value same : {Value(arg), Value(yielded), Value(result)})
          add(same);
  }
}

/// Whether `step` is argument -> argument * x + sum or argument + sum, with the
/// argument as number `position`; the number of the sum, else none.
static std::optional<unsigned> findSummand(tile::MapOp step,
                                           unsigned position) {
  Block &body = step.getBody().front();
  auto sum = body.getTerminator()->getOperand(0).getDefiningOp<arith::AddFOp>();
  if (!sum || step.getWidth() != 1)
    return std::nullopt;
  Value argument = body.getArgument(position);
  for (auto [kept, added] : {std::pair(sum.getLhs(), sum.getRhs()),
                             std::pair(sum.getRhs(), sum.getLhs())}) {
    auto product = kept.getDefiningOp<arith::MulFOp>();
    bool scales = product && (product.getLhs() == argument) !=
                                 (product.getRhs() == argument);
    auto summand = dyn_cast<BlockArgument>(added);
    if ((scales || kept == argument) && argument.hasOneUse() && summand &&
        summand.getOwner() == &body && summand.hasOneUse() &&
        summand.getArgNumber() < step.getInputs().size())
      return summand.getArgNumber();
  }
  return std::nullopt;
}

/// Sums of rows that the loop carries and does not read otherwise: each lane
/// adds up its own columns, and the lanes of a row are joined after the loop.
void Scheduler::findDeferredSums() {
  for (auto [index, arg] : llvm::enumerate(loop.getIterArgs())) {
    auto init = loop.getInits()[index].getDefiningOp<tile::SplatOp>();
    auto step = loop.getYielded()[index].getDefiningOp<tile::MapOp>();
    if (!init || !matchPattern(init.getValue(), m_AnyZeroFloat()) || !step ||
        !arg.hasOneUse() || *arg.user_begin() != step ||
        !step.getResult().hasOneUse() || accumulators.contains(arg))
      continue;
    auto summand = findSummand(step, arg.use_begin()->getOperandNumber());
    auto reduce =
        summand ? step.getInputs()[*summand].getDefiningOp<tile::ReduceOp>()
                : tile::ReduceOp();
    if (reduce && reduce.getKind() == tile::Reduction::Add &&
        reduce.getResult().hasOneUse() && reduce->getBlock() == loop.getBody())
      deferredSums[index] = reduce;
  }
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

//===----------------------------------------------------------------------===//
// The kernel and its roles
//===----------------------------------------------------------------------===//

void Scheduler::makeRing(Copy &copy) {
  tile::LoadOp load = copy.load;
  tile::TileType type = load.getTile().getType();
  auto argument = cast<BlockArgument>(load.getView());
  std::string name = "arg" + std::to_string(argument.getArgNumber());
  if (auto attr = kernel.getArgAttrOfType<StringAttr>(argument.getArgNumber(),
                                                      tile::kNameAttr))
    name = attr.str();
  if (copy.bulk) {
    SmallVector<int64_t> box(copy.order.size(), 1);
    box[0] = hopper::kPanelColumns;
    box[1] = type.getRows() / (copy.shared ? cluster : 1);
    Type mapType = hopper::TensorMapType::get(b.getContext());
    copy.map = hopper::TensorMapOp::create(
        b, loc, mapType, kernelMap.lookup(load.getView()), copy.order, box);
  }
  copy.ring = hopper::RingOp::create(
      b, loc,
      hopper::RingType::get(b.getContext(), getStages(copy), type.getRows(),
                            type.getCols(), type.getElementType()),
      name, copy.shared);
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
    exchange->ring = hopper::RingOp::create(
        b, loc,
        hopper::RingType::get(
            b.getContext(), kExchangeSlots, schedule.getBlockM(),
            schedule.getBlockN(),
            exchange->dot.getLhs().getType().getElementType()),
        "weights", /*multicast=*/false);
  int64_t scratch = getScratchBytes();
  if (scratch && getSharedBytes() + scratch <= hopper::kSharedMemoryLimit)
    exchange->scratch = hopper::ScratchOp::create(
        b, loc,
        hopper::SmemType::get(b.getContext(), hopper::kWgmmaRows, getShare(),
                              b.getF32Type()),
        "sums");
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

/// Whether the end of the key range depends on the last coordinate: later
/// queries then have more keys.
bool Scheduler::keysGrowWithLast() {
  return loop && dependsOnLast(loop.getHi());
}

/// How many take items: thread blocks, or clusters of them.
Value Scheduler::getGrid() {
  Value grid = hopper::GridOp::create(b, loc);
  return cluster == 1 ? grid
                      : arith::DivUIOp::create(b, loc, grid, constant(cluster));
}

/// How many items there are along the last dim, each with a place for every
/// thread block of a cluster.
Value Scheduler::countLast(Role &role) {
  Value count = role.map.lookup(items.getCounts().back());
  return cluster == 1
             ? count
             : arith::CeilDivUIOp::create(b, loc, count, constant(cluster));
}

/// How many items this thread block of a persistent grid visits.
Scheduler::Visits Scheduler::planVisits(Role &role, Value block) {
  Value total = constant(1);
  for (Value count : items.getCounts())
    total = arith::MulIOp::create(b, loc, total,
                                  count == items.getCounts().back()
                                      ? countLast(role)
                                      : role.map.lookup(count));
  Visits visits;
  visits.grid = getGrid();
  Value rounds = arith::DivUIOp::create(b, loc, total, visits.grid);
  Value left = arith::RemUIOp::create(b, loc, total, visits.grid);
  Value place = getPlace(visits, block, rounds);
  Value more =
      arith::CmpIOp::create(b, loc, arith::CmpIPredicate::slt, place, left);
  visits.count = arith::AddIOp::create(
      b, loc, rounds,
      arith::SelectOp::create(b, loc, more, constant(1), constant(0)));
  return visits;
}

/// The place of this thread block in a round. Where items differ in length and
/// come longest first, every other round runs backwards: who had the longest
/// item of one round has the shortest of the next, and the shares are equal.
/// Else each round begins one further on: the last item of a head may have
/// fewer rows, and where the items of a head have a factor in common with the
/// grid, always the same blocks would get it.
Value Scheduler::getPlace(const Visits &visits, Value block, Value round) {
  if (!keysGrowWithLast()) {
    Value turned = arith::AddIOp::create(b, loc, block, round);
    return arith::RemUIOp::create(b, loc, turned, visits.grid);
  }
  Value odd = arith::RemUIOp::create(b, loc, round, constant(2));
  odd =
      arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ne, odd, constant(0));
  Value back = arith::SubIOp::create(b, loc, visits.grid, constant(1));
  back = arith::SubIOp::create(b, loc, back, block);
  return arith::SelectOp::create(b, loc, odd, back, block);
}

/// The item that this thread block visits in a round.
Value Scheduler::getVisited(const Visits &visits, Value block, Value round) {
  Value place = getPlace(visits, block, round);
  return arith::AddIOp::create(
      b, loc, arith::MulIOp::create(b, loc, round, visits.grid), place);
}

/// Of item number `item`: the number made of all coordinates but the last, and
/// the last. Neighbours have the same head, so that they share keys. Where
/// later queries have more keys, the longest items of a section of heads come
/// first, so that what is long neither starts nor ends last; a section is small
/// enough that the second-level cache has the keys of its heads.
std::pair<Value, Value> Scheduler::splitItem(Role &role, Value item) {
  auto counts = items.getCounts();
  Value last = countLast(role);
  auto divide = [&](Value x, Value by) -> std::pair<Value, Value> {
    return {arith::DivUIOp::create(b, loc, x, by),
            arith::RemUIOp::create(b, loc, x, by)};
  };
  if (counts.size() == 1)
    return {constant(0), item};
  if (!keysGrowWithLast())
    return divide(item, last);
  Value heads = constant(1);
  for (Value count : counts.drop_back())
    heads = arith::MulIOp::create(b, loc, heads, role.map.lookup(count));
  Value size = constant(kSectionHeads);
  if (schedule.getPersistent()) {
    // Shares are fixed: they come out even where the longest and the shortest
    // items of a section are a whole number of rounds. A cluster takes as many
    // neighbours as it has blocks, so the number of heads is the same.
    size = arith::DivUIOp::create(b, loc, hopper::GridOp::create(b, loc),
                                  constant(4));
    size = arith::MaxUIOp::create(b, loc, size, constant(1));
  }
  auto [section, inSection] =
      divide(item, arith::MulIOp::create(b, loc, size, last));
  Value first = arith::MulIOp::create(b, loc, section, size);
  Value left = arith::SubIOp::create(b, loc, heads, first);
  auto [level, head] =
      divide(inSection, arith::MinUIOp::create(b, loc, size, left));
  Value longest = arith::SubIOp::create(b, loc, last, constant(1));
  return {arith::AddIOp::create(b, loc, first, head),
          arith::SubIOp::create(b, loc, longest, level)};
}

/// The coordinates of an item and its body.
LogicalResult Scheduler::emitItem(Role &role, bool producer, Value item) {
  Block &body = items.getBody().front();
  auto [rest, last] = splitItem(role, item);
  size_t dims = items.getCounts().size();
  if (cluster > 1) {
    rank = hopper::RankOp::create(b, loc);
    firstLast = arith::MulIOp::create(b, loc, last, constant(cluster));
    last = arith::AddIOp::create(b, loc, firstLast, rank);
  }
  role.map.map(body.getArgument(dims - 1), last);
  for (size_t k = dims - 1; k-- > 0;) {
    Value count = role.map.lookup(items.getCounts()[k]);
    Value coordinate =
        k ? Value(arith::RemUIOp::create(b, loc, rest, count)) : rest;
    if (k)
      rest = arith::DivUIOp::create(b, loc, rest, count);
    role.map.map(body.getArgument(k), coordinate);
  }
  if (producer)
    return emitProducerBlock(role, body);
  if (failed(emitConsumerBlock(role, body)))
    return failure();
  releaseItemSlots(role);
  return success();
}

/// What was read once an item is free for the next item.
void Scheduler::releaseItemSlots(Role &role) {
  for (auto &[load, slot] : role.slots) {
    Copy &copy = copies.find(load)->second;
    hopper::ReleaseOp::create(b, loc, copy.ring, role.cursors[load]);
    role.cursors[load] =
        hopper::NextOp::create(b, loc, role.cursors[load], copy.ring);
  }
  role.slots.clear();
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

/// Whether no product after the loop over keys reads what was copied.
bool Scheduler::productsEndWithLoop() {
  for (Operation *op = loop->getNextNode(); op; op = op->getNextNode())
    if (isa<tile::DotOp>(op))
      return false;
  return true;
}

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

/// for_keys begins at a multiple of its step, and is empty where lo >= hi.
Scheduler::Range Scheduler::getRange(Value lo, Value fullLo, Value fullHi,
                                     Value hi) {
  Value step = constant(loop.getStep());
  APInt known;
  if (matchPattern(lo, m_ConstantInt(&known)) &&
      known.getSExtValue() % static_cast<int64_t>(loop.getStep()) == 0)
    return {lo, hi, step, fullLo, fullHi};
  Value begin = arith::MulIOp::create(
      b, loc, arith::DivUIOp::create(b, loc, lo, step), step);
  Value any = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::slt, lo, hi);
  return {begin, arith::SelectOp::create(b, loc, any, hi, begin), step, fullLo,
          fullHi};
}

/// The blocks that are copied for an item: all that some thread block of the
/// cluster needs, so that all of them walk through the same ones.
Scheduler::Range Scheduler::getItemRange(Role &role) {
  if (cluster > 1 && dependsOnLast({loop.getLo(), loop.getHi()}))
    return getClusterRange(role);
  return getRange(
      role.map.lookup(loop.getLo()), role.map.lookup(loop.getFullLo()),
      role.map.lookup(loop.getFullHi()), role.map.lookup(loop.getHi()));
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

/// First and last key of a consumer's rows, and between which no mask applies.
SmallVector<Value> Scheduler::getOwnBounds(Role &role) {
  if (loop.getRows().empty()) {
    // All rows of the item have the same. There may be no such item: of a
    // cluster, some thread block may have none left.
    Value count = role.map.lookup(items.getCounts().back());
    Value last = role.map.lookup(items.getBody().front().getArguments().back());
    Value any =
        arith::CmpIOp::create(b, loc, arith::CmpIPredicate::slt, last, count);
    Value lo = role.map.lookup(loop.getLo()),
          hi = role.map.lookup(loop.getHi());
    return {lo, role.map.lookup(loop.getFullLo()),
            role.map.lookup(loop.getFullHi()),
            arith::SelectOp::create(b, loc, any, hi, lo)};
  }
  Region &rows = loop.getRows().front();
  IRMapping map = role.map;
  map.map(rows.getArgument(0), firstRow);
  map.map(rows.getArgument(1), constant(hopper::kWgmmaRows));
  for (Operation &op : rows.front().without_terminator())
    b.clone(op, map);
  return llvm::map_to_vector(
      rows.front().getTerminator()->getOperands(),
      [&](Value value) { return map.lookupOrDefault(value); });
}

/// The blocks that this consumer's rows need, of those of the item; where it
/// needs none, they begin and end where the item's begin. The end is that of a
/// block.
Scheduler::Range Scheduler::getOwnRange(Role &role, const Range &item) {
  SmallVector<Value> bounds = getOwnBounds(role);
  Range own = getRange(bounds[0], bounds[1], bounds[2], bounds[3]);
  own.begin = arith::MaxSIOp::create(b, loc, own.begin, item.begin);
  own.end = arith::MinSIOp::create(b, loc, own.end, item.end);
  Value any = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::slt,
                                    own.begin, own.end);
  own.begin = arith::SelectOp::create(b, loc, any, own.begin, item.begin);
  Value keys = arith::SubIOp::create(b, loc, own.end, own.begin);
  keys = arith::SelectOp::create(b, loc, any, keys, constant(0));
  keys = arith::CeilDivUIOp::create(b, loc, keys, own.step);
  keys = arith::MulIOp::create(b, loc, keys, own.step);
  own.end = arith::AddIOp::create(b, loc, own.begin, keys);
  return own;
}

/// Gives back the blocks of [begin, end), which this consumer does not read,
/// once they have come: before, the slots may still hold earlier ones.
void Scheduler::skipBlocks(Role &role, Value begin, Value end, Value step) {
  auto each = scf::ForOp::create(b, loc, begin, end, step,
                                 getCursors(role, /*inLoop=*/true));
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(each.getBody());
  setCursors(role, each.getRegionIterArgs(), /*inLoop=*/true);
  // Turns go round: who has nothing to start passes them on.
  if (isOverlap() && schedule.getPingpong()) {
    hopper::TurnWaitOp::create(b, loc, consumer);
    hopper::TurnPassOp::create(b, loc, consumer);
  }
  for (auto &[op, copy] : copies) {
    if (!copy.inLoop)
      continue;
    auto ring = cast<hopper::RingType>(copy.ring.getType());
    auto type = hopper::SmemType::get(b.getContext(), ring.getRows(),
                                      ring.getCols(), ring.getElementType());
    Value &cursor = role.cursors[op];
    hopper::AwaitOp::create(b, loc, type, copy.ring, cursor);
    hopper::ReleaseOp::create(b, loc, copy.ring, cursor);
    cursor = hopper::NextOp::create(b, loc, cursor, copy.ring);
  }
  scf::YieldOp::create(b, loc, getCursors(role, /*inLoop=*/true));
  setCursors(role, each.getResults(), /*inLoop=*/true);
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

//===----------------------------------------------------------------------===//
// The producer
//===----------------------------------------------------------------------===//

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

/// What follows is for keys in [begin, end); without any, `values` are the
/// results.
scf::IfOp Scheduler::ifAnyKeys(Value begin, Value end, ValueRange values) {
  Value any =
      arith::CmpIOp::create(b, loc, arith::CmpIPredicate::slt, begin, end);
  auto choice =
      scf::IfOp::create(b, loc, values.getTypes(), any, /*withElse=*/true);
  b.setInsertionPointToStart(choice.elseBlock());
  scf::YieldOp::create(b, loc, values);
  b.setInsertionPointToStart(choice.thenBlock());
  return choice;
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

//===----------------------------------------------------------------------===//
// The consumers: fragments
//===----------------------------------------------------------------------===//

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
    cloneBody(role, op.getBody(), mask.getBody(),
              type.getLayout() != hopper::Layout::Col);
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
  if (auto store = dyn_cast<tile::StoreOp>(op)) {
    FailureOr<hopper::FragType> type = getFragType(store.getTile());
    if (failed(type))
      return failure();
    bool split = type->getLayout() != hopper::Layout::Col;
    auto [map, coordinates] =
        shiftRows(role, store.getMap(), store.getCoordinates(), split);
    Value rows = shiftCount(role, store.getRows(), split);
    hopper::StoreOp::create(b, loc, role.map.lookup(store.getTile()),
                            role.map.lookup(store.getView()), coordinates, map,
                            rows, getStaging(role, store), store.getAdd());
    return success();
  }
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
  FailureOr<hopper::FragType> type = getFragType(op->getResult(0));
  if (failed(type))
    return failure();
  bool split = type->getLayout() != hopper::Layout::Col;
  SmallVector<Value> inputs;
  if (!isa<tile::LoadOp>(op))
    for (Value operand : op->getOperands())
      inputs.push_back(role.map.lookup(operand));
  Value result;
  if (auto load = dyn_cast<tile::LoadOp>(op)) {
    if (load.getPageTable())
      return op->emitError("paged loads are not implemented on Hopper");
    auto [map, coordinates] =
        shiftRows(role, load.getMap(), load.getCoordinates(), split);
    result = hopper::LoadOp::create(
        b, loc, *type, role.map.lookup(load.getView()), coordinates, map,
        shiftCount(role, load.getRows(), split));
  } else if (isa<tile::SplatOp>(op)) {
    result = hopper::SplatOp::create(b, loc, *type, inputs[0]);
  } else if (auto map = dyn_cast<tile::MapOp>(op)) {
    auto made =
        hopper::MapOp::create(b, loc, *type, inputs, map.getWidthAttr());
    cloneBody(role, map.getBody(), made.getBody(), split);
    result = made;
  } else if (auto guess = dyn_cast<tile::SpeculateOp>(op)) {
    result = emitSpeculate(role, guess, *type, inputs, split);
  } else if (auto mask = dyn_cast<tile::MaskOp>(op)) {
    result = emitMask(role, mask, inputs[0]);
  } else if (auto reduce = dyn_cast<tile::ReduceOp>(op)) {
    bool partial = llvm::any_of(
        deferredSums, [&](auto &entry) { return entry.second == reduce; });
    result = hopper::ReduceOp::create(b, loc, *type, reduce.getKind(),
                                      inputs[0], partial);
  } else if (isa<tile::CastOp>(op)) {
    result = hopper::ConvertOp::create(b, loc, *type, inputs[0]);
  } else {
    return op->emitOpError("cannot be scheduled on Hopper");
  }
  role.map.map(op->getResult(0), result);
  return success();
}

//===----------------------------------------------------------------------===//
// The consumers: products
//===----------------------------------------------------------------------===//

/// The slot of a copied load, awaited at its first use.
Value Scheduler::getSlot(Role &role, tile::LoadOp load) {
  Value &slot = role.slots[load];
  if (slot)
    return slot;
  Copy &copy = copies.find(load)->second;
  auto ring = cast<hopper::RingType>(copy.ring.getType());
  auto type = hopper::SmemType::get(b.getContext(), ring.getRows(),
                                    ring.getCols(), ring.getElementType());
  slot = hopper::AwaitOp::create(b, loc, type, copy.ring, role.cursors[load]);
  if (copy.zeroRows) {
    Value rows = role.map.lookup(load.getRows());
    Value partial = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::slt,
                                          rows, constant(ring.getRows()));
    auto zero = scf::IfOp::create(b, loc, partial, /*withElse=*/false);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(zero.thenBlock());
    hopper::ZeroRowsOp::create(b, loc, slot, rows);
  }
  return slot;
}

/// A register operand of a product.
FailureOr<Value> Scheduler::getPacked(Role &role, Value tile) {
  auto type = cast<tile::TileType>(tile.getType());
  Value source = tile;
  if (auto cast = tile.getDefiningOp<tile::CastOp>())
    if (!role.map.contains(tile))
      source = cast.getInput();
  Value frag = role.map.lookup(source);
  if (cast<hopper::FragType>(frag.getType()).getLayout() == hopper::Layout::A)
    return frag;
  auto packed = hopper::FragType::getChecked(
      [&] { return kernel.emitError("product operand: "); }, b.getContext(),
      hopper::kWgmmaRows, type.getCols(), type.getElementType(),
      hopper::Layout::A);
  if (!packed)
    return failure();
  return Value(hopper::ConvertOp::create(b, loc, packed, frag));
}

FailureOr<Started> Scheduler::startDot(Role &role, tile::DotOp dot) {
  if (dot.getTransposeA())
    return dot.emitError("a product with transpose_a is scheduled in the loop "
                         "only");
  auto rhs = dot.getRhs().getDefiningOp<tile::LoadOp>();
  if (!rhs || !copies.contains(rhs))
    return dot.emitError("the right operand of a product must be a load that "
                         "only feeds products");
  if (dot.getM() != schedule.getBlockM())
    return dot.emitError() << "a product has the " << schedule.getBlockM()
                           << " rows of block_m, got " << dot.getM();
  if (dot.getN() > 256 || dot.getK() > 256)
    return dot.emitError() << "a product takes at most 256 columns and an "
                              "inner size of 256 (head dims up to 256), got "
                           << dot.getN() << " and " << dot.getK();
  Value lhs;
  auto load = dot.getLhs().getDefiningOp<tile::LoadOp>();
  if (load && copies.contains(load)) {
    Value slot = getSlot(role, load);
    auto type = cast<hopper::SmemType>(slot.getType());
    lhs = hopper::RowsOp::create(
        b, loc,
        hopper::SmemType::get(b.getContext(), hopper::kWgmmaRows,
                              type.getCols(), type.getElementType()),
        slot, consumer);
  } else {
    FailureOr<Value> packed = getPacked(role, dot.getLhs());
    if (failed(packed))
      return failure();
    lhs = *packed;
    // For the next product that reads it.
    if (isDeferred())
      role.map.map(dot.getLhs(), lhs);
  }
  Value acc = dot.getAcc() ? role.map.lookup(dot.getAcc()) : Value();
  auto type =
      hopper::PendingType::get(b.getContext(), hopper::kWgmmaRows, dot.getN());
  Value slot = getSlot(role, rhs);
  auto wgmma =
      hopper::WgmmaOp::create(b, loc, type, lhs, slot, acc,
                              /*transpose_a=*/false, dot.getTransposeB());
  return Started{dot, wgmma};
}

/// Slots of the loop whose last reader was `dot` go back to the producer.
void Scheduler::release(Role &role, tile::DotOp dot) {
  for (Value operand : {dot.getLhs(), dot.getRhs()}) {
    auto load = operand.getDefiningOp<tile::LoadOp>();
    auto found = copies.find(load);
    if (!load || found == copies.end() || !found->second.inLoop ||
        !role.slots.count(load))
      continue;
    bool last = llvm::all_of(load->getUsers(), [&](Operation *user) {
      return user == dot || user->isBeforeInBlock(dot);
    });
    if (!last)
      continue;
    Value &cursor = role.cursors[load];
    hopper::ReleaseOp::create(b, loc, found->second.ring, cursor);
    cursor = hopper::NextOp::create(b, loc, cursor, found->second.ring);
    role.slots.erase(load);
  }
}

void Scheduler::waitFor(Role &role, ArrayRef<Started> started) {
  SmallVector<Value> pendings;
  SmallVector<Type> types;
  for (const Started &product : started) {
    pendings.push_back(product.pending);
    types.push_back(hopper::FragType::get(
        b.getContext(), hopper::kWgmmaRows,
        cast<hopper::PendingType>(product.pending.getType()).getCols(),
        b.getF32Type(), hopper::Layout::Acc));
  }
  auto wait = hopper::WaitOp::create(b, loc, types, pendings);
  for (auto [product, result] : llvm::zip(started, wait.getResults())) {
    tile::DotOp dot = product.dot;
    role.map.map(dot.getResult(), result);
    release(role, dot);
  }
}

//===----------------------------------------------------------------------===//
// The consumers: the loop over keys
//===----------------------------------------------------------------------===//

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

/// The blocks from `from` to the end of the range: those before the full ones,
/// the full ones, and those after.
SmallVector<Scheduler::Part> Scheduler::getParts(Role &role, const Range &range,
                                                 Value from) {
  SmallVector<Part> parts;
  auto smaller = [&](Value x, Value y) -> Value {
    return arith::MinSIOp::create(b, loc, x, y);
  };
  auto larger = [&](Value x, Value y) -> Value {
    return arith::MaxSIOp::create(b, loc, x, y);
  };
  auto toStep = [&](Value x) -> Value {
    x = arith::DivUIOp::create(b, loc, larger(x, constant(0)), range.step);
    return arith::MulIOp::create(b, loc, x, range.step);
  };
  if (loop.getBody()->getOps<tile::MaskOp>().empty() || beginsWithLast()) {
    parts.push_back({from, range.end, true});
    return parts;
  }
  Value begin = from;
  if (!matchPattern(role.fullLo, m_Zero())) {
    Value up = arith::AddIOp::create(b, loc, role.fullLo,
                                     constant(loop.getStep() - 1));
    Value end = smaller(toStep(up), range.end);
    parts.push_back({from, end, false});
    begin = larger(from, end);
  }
  Value end = smaller(toStep(role.fullHi), range.end);
  parts.push_back({begin, end, true});
  parts.push_back({larger(begin, end), range.end, false});
  return parts;
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

/// What the loop begins with; cursors come after it.
SmallVector<Value> Scheduler::getInits(Role &role) {
  SmallVector<Value> inits;
  for (auto [init, arg] : llvm::zip(loop.getInits(), loop.getIterArgs()))
    inits.push_back(getInit(role, init, arg));
  return inits;
}

LogicalResult
Scheduler::emitOneBlock(Role &role, Value key, bool isFull, ValueRange args,
                        SmallVectorImpl<Value> &next,
                        llvm::function_ref<LogicalResult(Value)> block) {
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
LogicalResult
Scheduler::emitBlocks(Role &role, Range range,
                      llvm::function_ref<LogicalResult(Value)> block) {
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

LogicalResult Scheduler::emitSerialLoop(Role &role, Range range) {
  return emitBlocks(role, range, [&](Value) {
    return emitConsumerBlock(role, *loop.getBody());
  });
}

//===----------------------------------------------------------------------===//
// The consumers: order `overlap`
//===----------------------------------------------------------------------===//

// What the loop carries, in this order: the iteration arguments of the tile
// loop, the values that cross from the first stage to the second, cursors.

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

/// Where only the last block may need a mask, it goes first: the first block,
/// which stands before the loop, can be masked at no cost in the loop, and a
/// loop for masked blocks is not needed. Full loops are half of a kernel's
/// code, which the assembler takes its time for.
bool Scheduler::beginsWithLast() {
  if (!isOverlap() || loop.getBody()->getOps<tile::MaskOp>().empty() ||
      !matchPattern(loop.getLo(), m_Zero()) ||
      !matchPattern(loop.getFullLo(), m_Zero()) ||
      loop.getFullHi() != loop.getHi() ||
      (cluster > 1 && dependsOnLast(loop.getHi())))
    return false;
  if (loop.getRows().empty())
    return true;
  // Of a consumer: all blocks or none.
  auto own = loop.getRows().front().front().getTerminator()->getOperands();
  auto choice = own[3].getDefiningOp<arith::SelectOp>();
  bool isWhole = own[3] == loop.getHi() ||
                 (choice && choice.getTrueValue() == loop.getHi() &&
                  matchPattern(choice.getFalseValue(), m_Zero()));
  return isWhole && matchPattern(own[0], m_Zero()) &&
         matchPattern(own[1], m_Zero()) && own[2] == loop.getHi();
}

/// The last block begins a whole number of steps after the first.
Value Scheduler::getLastKey(const Range &range) {
  Value last = arith::SubIOp::create(
      b, loc, arith::SubIOp::create(b, loc, range.end, constant(1)),
      range.begin);
  last = arith::MulIOp::create(
      b, loc, arith::DivUIOp::create(b, loc, last, range.step), range.step);
  return arith::AddIOp::create(b, loc, range.begin, last);
}

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

//===----------------------------------------------------------------------===//
// The consumers: order `two_tiles`
//===----------------------------------------------------------------------===//

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

//===----------------------------------------------------------------------===//
// The consumers: order `deferred`
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

/// The late part of the block before that at `key`, if there is one.
LogicalResult Scheduler::finishBefore(Role &role, Value begin, Value key) {
  Value any =
      arith::CmpIOp::create(b, loc, arith::CmpIPredicate::slt, begin, key);
  Value before = arith::SubIOp::create(b, loc, key, constant(loop.getStep()));
  before = arith::SelectOp::create(b, loc, any, before, begin);
  return finishLate(role, before, any);
}

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

//===----------------------------------------------------------------------===//
// The pass
//===----------------------------------------------------------------------===//

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
      Scheduler scheduler(kernel, anyLayout);
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
