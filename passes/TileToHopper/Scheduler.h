//===- Scheduler.h - Decides who does what of a tile kernel -----*- C++ -*-===//
//
// Turns one tile.kernel into a hopper.kernel as its #tile.schedule asks. First
// it finds what is to be done (Analysis.cpp, Rings.cpp, Clusters.cpp and, of
// single orders, Overlap.cpp and Deferred.cpp) and refuses what cannot be; then
// it emits the producer and the consumers, which walk through the same items
// and blocks of keys (Roles.cpp, Items.cpp, KeyRange.cpp).
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_PASSES_TILETOHOPPER_SCHEDULER_H
#define ATTNC_PASSES_TILETOHOPPER_SCHEDULER_H

#include "dialects/hopper/Layout.h"
#include "passes/TileToHopper/State.h"

#include "mlir/Dialect/SCF/IR/SCF.h"

namespace attnc::scheduling {

using mlir::AffineMap;
using mlir::ArrayRef;
using mlir::Block;
using mlir::BlockArgument;
using mlir::FailureOr;
using mlir::LogicalResult;
using mlir::Region;
using mlir::SmallVectorImpl;
using mlir::ValueRange;

bool isTile(mlir::Type type);

/// Neither takes nor gives tiles: index arithmetic and scalar loads.
bool isScalar(Operation *op);

/// A map that prints and reads back as itself.
AffineMap simplified(AffineMap map);

class Scheduler {
public:
  Scheduler(tile::KernelOp kernel, bool anyLayout)
      : anyLayout(anyLayout), kernel(kernel), schedule(*kernel.getSchedule()),
        b(kernel), loc(kernel.getLoc()) {}

  /// Makes the hopper.kernel; the tile.kernel is left as it was. (Roles.cpp)
  LogicalResult run();

  /// Thread blocks that share copies.
  int64_t getCluster() const { return cluster; }

private:
  /// Of the loop over keys.
  struct Range {
    Value begin, end, step, fullLo, fullHi;
  };
  /// Blocks of keys of which all or none are full.
  struct Part {
    Value begin, end;
    bool isFull;
  };
  /// Emits one block: its key, whether it is full, what is carried in and out.
  using PartBody = llvm::function_ref<LogicalResult(Value, bool, ValueRange,
                                                    SmallVectorImpl<Value> &)>;
  /// The same where what is carried is bound: its key.
  using BlockBody = llvm::function_ref<LogicalResult(Value)>;
  /// Of a persistent grid.
  struct Visits {
    Value grid, count;
  };

  // Analysis.cpp.
  LogicalResult analyse();
  bool dependsOnLast(ValueRange values);
  void findAccumulators();
  void findDeferredSums();

  // Rings.cpp.
  LogicalResult findCopies(Block &block, bool inLoop);
  LogicalResult addCopy(tile::LoadOp load, bool inLoop);
  int64_t getStages(const Copy &copy);
  int64_t getScratchBytes();
  int64_t getSharedBytes();
  LogicalResult checkBudgets();
  void makeRing(Copy &copy);

  // Clusters.cpp.
  LogicalResult findShared();
  Range getClusterRange(Role &role);
  void awaitCluster(Role &role);

  // Roles.cpp: the kernel, the producer and the consumers.
  LogicalResult emitRole(bool producer);

  // Items.cpp.
  bool keysGrowWithLast();
  Value getGrid();
  Value countLast(Role &role);
  Visits planVisits(Role &role, Value block);
  Value getPlace(const Visits &visits, Value block, Value round);
  Value getVisited(const Visits &visits, Value block, Value round);
  std::pair<Value, Value> splitItem(Role &role, Value item);
  LogicalResult emitItem(Role &role, bool producer, Value item);
  void releaseItemSlots(Role &role);

  // Producer.cpp.
  void emitCopy(Role &role, Copy &copy);
  bool followsFirstKeys(const Copy &copy);
  LogicalResult emitProducerBlock(Role &role, Block &block);
  LogicalResult emitFirstKeys(Role &role, ArrayRef<Copy *> late, Value key,
                              Range &range);
  Value isReadOnce(Role &role, const Range &range);
  LogicalResult emitProducerLoop(Role &role, ArrayRef<Copy *> late);

  // KeyRange.cpp.
  Range getRange(Value lo, Value fullLo, Value fullHi, Value hi);
  Range getItemRange(Role &role);
  SmallVector<Value> getOwnBounds(Role &role);
  Range getOwnRange(Role &role, const Range &item);
  void skipBlocks(Role &role, Value begin, Value end, Value step);
  bool beginsWithLast();
  Value getLastKey(const Range &range);
  mlir::scf::IfOp ifAnyKeys(Value begin, Value end, ValueRange values);
  SmallVector<Part> getParts(Role &role, const Range &range, Value from);

  // KeyLoop.cpp: what the orders have in common, and order `serial`.
  SmallVector<Value> getCursors(Role &role, bool inLoop);
  void setCursors(Role &role, ValueRange values, bool inLoop);
  Value getInit(Role &role, Value init, BlockArgument arg);
  SmallVector<Value> getInits(Role &role);
  void beginBlock(Role &role, Value key, std::optional<bool> isFull);
  FailureOr<SmallVector<Value>> emitPart(const Part &part, Value step,
                                         SmallVector<Value> carried,
                                         PartBody body);
  FailureOr<SmallVector<Value>> emitParts(Role &role, Range range, Value from,
                                          SmallVector<Value> carried,
                                          PartBody body);
  LogicalResult emitOneBlock(Role &role, Value key, bool isFull,
                             ValueRange args, SmallVectorImpl<Value> &next,
                             BlockBody block);
  LogicalResult emitBlocks(Role &role, Range range, BlockBody block);
  bool productsEndWithLoop();
  LogicalResult emitConsumerBlock(Role &role, Block &block);
  LogicalResult emitSerialLoop(Role &role, Range range);
  LogicalResult emitOwnLoop(Role &role);

  // Elementwise.cpp.
  FailureOr<hopper::FragType> getFragType(Value tile);
  std::pair<AffineMap, SmallVector<Value>>
  shiftRows(Role &role, AffineMap map, mlir::OperandRange coordinates,
            bool split);
  Value shiftCount(Role &role, Value rows, bool split);
  void cloneBody(Role &role, Region &from, Region &to, bool splitRows);
  Value emitMask(Role &role, tile::MaskOp op, Value input);
  void beginSpeculations(Role &role);
  Value emitSpeculate(Role &role, tile::SpeculateOp op, hopper::FragType type,
                      ValueRange inputs, bool split);
  tile::LoadOp findStaging(tile::StoreOp store);
  Value getStaging(Role &role, tile::StoreOp store);
  LogicalResult emitStore(Role &role, tile::StoreOp store);
  FailureOr<Value> emitLoad(Role &role, tile::LoadOp load,
                            hopper::FragType type);
  FailureOr<Value> emitTile(Role &role, Operation *op);
  LogicalResult emitFor(Role &role, mlir::scf::ForOp op);
  LogicalResult emitOp(Role &role, Operation *op);

  // Products.cpp.
  Value getSlot(Role &role, tile::LoadOp load);
  FailureOr<Value> getPacked(Role &role, Value tile);
  FailureOr<Started> startDot(Role &role, tile::DotOp dot);
  void release(Role &role, tile::DotOp dot);
  void waitFor(Role &role, ArrayRef<Started> started);

  // Overlap.cpp: order `overlap`, and the stages of `two_tiles`.
  LogicalResult findStages();
  bool isFirstStage(Operation *op) { return !secondStage.contains(op); }
  SmallVector<Operation *> getOps(bool first);
  StageParts splitStage(bool first);
  bool isLongTurn();
  bool needsPreparing(bool first);
  LogicalResult prepareStage(Role &role, bool first, Progress &progress);
  LogicalResult startStage(Role &role, bool first, Progress &progress);
  LogicalResult finishStage(Role &role, Progress &progress);
  LogicalResult getCrossing(Role &role, SmallVectorImpl<Value> &out);
  LogicalResult emitFirst(Role &role, Value key, SmallVectorImpl<Value> &out);
  void bindSecond(Stage &stage, ValueRange carried);
  LogicalResult emitSteady(Role &role, Value key, Value before, bool isFull,
                           ValueRange carried, SmallVectorImpl<Value> &out);
  LogicalResult emitLast(Role &role, Value key, ValueRange carried,
                         SmallVectorImpl<Value> &out);
  LogicalResult emitOverlapLoop(Role &role, Range range);

  // TwoTiles.cpp: order `two_tiles`.
  LogicalResult checkPairs();
  void holdSlots(Role &role, ArrayRef<Started> started,
                 SmallVectorImpl<HeldSlot> &slots);
  void giveBack(ArrayRef<HeldSlot> slots);
  LogicalResult startDots(Role &role, ArrayRef<Operation *> ops,
                          SmallVectorImpl<Started> &started);
  FailureOr<StartedBlock> startBlock(Role &role, Value key);
  SmallVector<Value> waitForBlock(Role &role, const StartedBlock &block);
  LogicalResult finishBlock(Role &role, Value key, ValueRange products,
                            SmallVectorImpl<Value> &args,
                            SmallVectorImpl<Value> &crossed);
  FailureOr<SmallVector<Started>> addBlock(Role &role, Value key,
                                           ValueRange crossed,
                                           SmallVectorImpl<Value> &args,
                                           SmallVectorImpl<HeldSlot> &slots);
  void waitForSums(Role &role, ArrayRef<Started> started,
                   SmallVectorImpl<Value> &args);
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

  // Deferred.cpp: order `deferred`.
  LogicalResult findExchange();
  void findPrefetches();
  void makeExchange();
  void makePrefetchScratch();
  /// Whether each consumer has some columns of an exchanged product, which has
  /// no more than 64 rows; else each has 64 rows.
  bool splitsColumns();
  int64_t getShare();
  /// Those ops stand for the positions in the ring of exchanged weights.
  Operation *getPutter() { return exchange->dot.getLhs().getDefiningOp(); }
  Operation *getReader() { return exchange->dot; }
  Stage beginOther(Role &role, Value key);
  Value getPrefetchSlot(Value key);
  void prefetch(Role &role, Value key);
  bool readsPrefetched(Operation &op);
  void fetch(Role &role, Operation &op, Value key);
  void pinBefore(Role &role, Operation &op);
  void settle(Role &role, Value tile);
  void settleAll(Role &role);
  void put(Role &role, Value packed);
  LogicalResult putWeights(Role &role);
  void putZeros(Role &role);
  LogicalResult startLate(Role &role);
  LogicalResult storeLate(Role &role, Stage &late, tile::StoreOp store,
                          Value any);
  LogicalResult finishLate(Role &role, Value key, Value any);
  LogicalResult finishBefore(Role &role, Value begin, Value key);
  LogicalResult exchangeWeights(Role &role, Operation &dot);
  LogicalResult emitDeferredOp(Role &role, Operation &op, Value key);
  LogicalResult emitDeferredBlock(Role &role, Value begin, Value key);
  LogicalResult emitDeferredLoop(Role &role, Range range);

  // Small things.
  Value constant(int64_t value);
  bool isOverlap() { return schedule.getOrder() == tile::Order::Overlap; }
  bool isDeferred() { return schedule.getOrder() == tile::Order::Deferred; }
  bool isTwoTiles() { return schedule.getOrder() == tile::Order::TwoTiles; }
  /// Whether that is no copy of an item, which is made once.
  bool isInLoop(Operation *op) {
    auto found = copies.find(op);
    return found == copies.end() || found->second.inLoop;
  }
  /// Whether all threads of the producer copy.
  bool isCooperative() {
    return llvm::any_of(copies, [](auto &copy) { return !copy.second.bulk; });
  }

  /// No bulk copies: views may have any strides and alignment.
  bool anyLayout;
  tile::KernelOp kernel;
  tile::ScheduleAttr schedule;
  mlir::OpBuilder b;
  mlir::Location loc;
  hopper::KernelOp out;
  tile::ItemsOp items;
  tile::ForKeysOp loop;
  llvm::MapVector<Operation *, Copy> copies;
  /// Slots for what is copied outside the loop over keys.
  int64_t itemStages = 1;
  IRMapping kernelMap;
  /// Tiles of one column that have the layout of accumulators.
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

  // Orders `overlap` and `two_tiles`: the ops of the second stage, which of the
  // loop's arguments belong to it, and what crosses from the first to it.
  llvm::SetVector<Operation *> secondStage;
  SmallVector<bool> secondArgs;
  SmallVector<Value> crossing;
};

} // namespace attnc::scheduling

#endif // ATTNC_PASSES_TILETOHOPPER_SCHEDULER_H
