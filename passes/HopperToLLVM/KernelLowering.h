//===- KernelLowering.h - A hopper kernel becomes a function ----*- C++ -*-===//
//
// One walk over a hopper kernel that emits an llvm.func. A fragment becomes the
// scalars that a thread holds of it; see dialects/hopper/Layout.h for which.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_PASSES_HOPPERTOLLVM_KERNELLOWERING_H
#define ATTNC_PASSES_HOPPERTOLLVM_KERNELLOWERING_H

#include "dialects/hopper/Hopper.h"
#include "dialects/hopper/Layout.h"
#include "dialects/tile/Tile.h"
#include "passes/HopperToLLVM/Code.h"

#include "mlir/Dialect/SCF/IR/SCF.h"
#include "llvm/ADT/DenseMap.h"
#include "llvm/ADT/MapVector.h"

#include <map>

namespace attnc::hopper::lowering {

using mlir::AffineExpr;
using mlir::AffineMap;
using mlir::ArrayRef;
using mlir::LogicalResult;
using mlir::Operation;
using mlir::Region;
using mlir::SmallVector;

/// The name of all dynamic shared memory.
inline constexpr mlir::StringLiteral kSharedName = "attnc_shared";
/// Named barriers: turns use 1..4, single warpgroups 8..11.
inline constexpr int64_t kFirstGroupBarrier = 8;
/// Elements of 16 bytes.
inline constexpr int64_t kChunk = 8;
/// Elements that are computed together where an op is streamed: what is loaded
/// for them is in flight at once.
inline constexpr int64_t kStreamed = 16;

/// Where the launcher finds a parameter; the dictionary of `attnc.kernel`.
enum class ParamKind { Pointer, Size, Stride, Scalar, Items, TensorMap };

/// Who fills a slot.
enum class Filler {
  Bulk,     // one thread starts a bulk copy
  OneWarp,  // warps of the producer take slots in turn
  AllWarps, // warps of the producer share the rows of each slot
  Consumers // each puts its rows
};

struct RingInfo {
  int64_t base, slot, full, empty;
  Filler filler;
  int64_t number;
  RingType type;
  /// All thread blocks of the cluster fill it together.
  bool multicast;

  /// Arrivals that make a slot full, besides the bytes of bulk copies.
  int64_t producers(int64_t consumers) const {
    return filler == Filler::Consumers  ? 4 * consumers
           : filler == Filler::AllWarps ? 4
                                        : 1;
  }
};

/// How the launches of a kernel stand to those beside them in its programs.
struct LaunchOrder {
  /// It may begin while the launch before it ends, and waits for what that one
  /// stored.
  bool follows = false;
  /// Some that follows comes after it.
  bool leads = false;
};

/// Converts the scalar ops that the walk leaves. (Scalars.cpp)
LogicalResult convertScalars(mlir::LLVM::LLVMFuncOp func);

/// The number of the kernel's argument that `view` is.
unsigned argumentNumber(Value view);

/// The dim of a view that is the column, if no other depends on it; else -1.
int64_t findColumnDim(AffineMap map);

/// Whether all lanes of a row hold the same.
bool isColumnless(FragType type);

bool isStreamed(Value frag);
bool isFetchedByUsers(Value frag);
Value getUnrounded(Value frag);
bool isPartial(FragType type);

class KernelLowering : Code {
public:
  KernelLowering(KernelOp kernel, LaunchOrder order)
      : Code(kernel), kernel(kernel), order(order) {}

  /// Makes the function; the kernel is left as it was. (Frame.cpp)
  LogicalResult run();

private:
  /// Where an element of a view is.
  struct Access {
    Value offset;   // elements, i64
    Value inBounds; // i1, may be null: always
  };

  // Values of the kernel and what they were lowered to.
  Value get(Value value) { return getAll(value).front(); }
  ArrayRef<Value> getAll(Value value);
  /// `lowered` has what each of `values` became, one after the other.
  void setEach(ValueRange values, ValueRange lowered);
  void set(Value value, Values lowered) {
    values[value.getAsOpaquePointer()] = std::move(lowered);
  }
  Values refreshedAll(ValueRange values) {
    return llvm::map_to_vector(
        values, [&](Value value) { return refreshed(get(value)); });
  }
  Type convertType(Type type) { return type.isIndex() ? i32 : type; }
  SmallVector<Type> convertTypes(TypeRange types);

  // Frame.cpp: parameters, the entry, the roles.
  Value getParam(ParamKind kind, unsigned arg, int64_t dim = 0);
  Value getSize(Value view, int64_t dim);
  Value getStride(Value view, int64_t dim);
  void lowerTensorMap(TensorMapOp map);
  void finishSignature();
  void layOutSharedMemory();
  void emitEntry(Block *produce, Block *consume);
  LogicalResult emitProducer(ProducerOp role);
  LogicalResult emitConsumers(ConsumersOp role);

  // Ops.cpp: each op, control flow, scalars.
  LogicalResult lowerBlock(Block &block);
  LogicalResult lower(Operation *op);
  LogicalResult lowerFor(mlir::scf::ForOp op);
  LogicalResult lowerIf(mlir::scf::IfOp op);
  LogicalResult lowerScalar(Operation *op,
                            mlir::DenseMap<Value, Value> *local = {});
  LogicalResult lowerMath(Operation *op, ValueRange operands, Value &result);
  void lowerColumns(ColumnsOp op);

  // Rings.cpp.
  Value barrier(const RingInfo &ring, int64_t first, Value stage);
  void waitBarrier(Value address, Value parity);
  void arriveOnce(Value address);
  void arriveEverywhere(Value address);
  std::pair<Value, Value> splitCursor(const RingInfo &ring, Value cursor);
  Value isMine(const RingInfo &ring, Value cursor);
  void lowerNext(NextOp op);
  void lowerAcquire(AcquireOp op);
  void lowerCopy(CopyOp op);
  void lowerAwait(AwaitOp op);
  void lowerRelease(ReleaseOp op);
  void lowerZeroRows(ZeroRowsOp op);
  void lowerTurn(Operation *op, Value consumer);

  // Copies.cpp: copies by threads.
  void lowerCopyElements(CopyElementsOp op);
  /// A slot, and the rows of it that this warp copies.
  struct Part {
    CopyElementsOp op;
    Value view;
    AffineMap map;
    RingType type;
    Value slot, lane, first, end;
    int64_t count, group;
    /// Bytes from one row to the next; null if that is not the same for all.
    Value step;
  };
  Value afresh(Value value);
  Part getPart(CopyElementsOp op, const RingInfo &ring, Value slot);
  Value stepOfRows(CopyElementsOp op);
  void branchAgain(Value more, Block *loop, ValueRange args, Block *done);
  void forRows(const Part &part, llvm::function_ref<void(Value)> body);
  Access getAccessOf(const Part &part, Value row, Value col);
  Value addressOf(const Part &part, Access access);
  Value isOdd(Value address);
  using RowBody = llvm::function_ref<void(int64_t, Value, Value)>;
  void forAddresses(const Part &part, Value row, int64_t apart, RowBody body);
  Value swizzledAddress(const Part &part, Value row, Value inner);
  Value findAlignment(Value view, int64_t colDim);
  Value covers(const Part &part, int64_t begin, int64_t width, Value inner,
               Value odd);
  static int64_t lanesOfRow(const Part &part);
  void copyAsync(const Part &part, int64_t bytes, bool shifted);
  Values loadEnds(const Part &part);
  void storeEnds(const Part &part, ArrayRef<Value> ends);
  void shiftRows(Part part, int64_t phase);
  void shiftPanel(const Part &part, int64_t panel, Value own,
                  ArrayRef<Value> selectors, Values &nexts);
  Values loadChunk(const Part &part, Value row, Value number);
  void copySingly(const Part &part);
  void copyRows(const Part &part);

  // Products.cpp.
  Value describe(Value slot, uint64_t bits);
  void lowerWgmma(WgmmaOp op);
  void lowerWait(WaitOp op);
  void lowerPin(PinOp op);

  // Elements.cpp: elementwise ops and reductions of fragments.
  FragOffset offsetOf(FragType type, int64_t index);
  Value broadcast(Value frag, FragOffset offset);
  Value getRow(FragType type, FragOffset offset);
  Value getCol(FragType type, FragOffset offset);
  void refreshPosition(Region &region, unsigned row);
  LogicalResult inlineBody(Region &region, ArrayRef<Value> arguments,
                           Values &results);
  LogicalResult emitElements(Value frag, ArrayRef<int64_t> indices,
                             Values &results);
  LogicalResult emitElementsOf(Operation *op, ArrayRef<int64_t> indices,
                               Values &results);
  LogicalResult emitRowScaling(MapOp op, Values &results);
  LogicalResult emitMap(MapOp op, ArrayRef<int64_t> indices, Values &results);
  void fetchFor(MapOp op, FragOffset offset);
  LogicalResult emitMask(MaskOp op, ArrayRef<int64_t> indices, Values &results);
  LogicalResult lowerElements(Operation *op);
  Value combine(tile::Reduction kind, Values parts);
  Value joinLanes(tile::Reduction kind, Value value);
  Value withoutTail(tile::Reduction kind, Value part, FragType type,
                    FragOffset offset);
  LogicalResult lowerReduce(ReduceOp op);
  Value packPair(Value low, Value high, Type element);
  Value convertElement(Value value, Type element);
  void lowerConvert(ConvertOp op);

  // Speculate.cpp.
  /// What a slice of a speculation shares between its formulas.
  struct Guarded {
    Values guards;
    SmallVector<Values> shared;
  };
  LogicalResult emitCommon(SpeculateOp op, int64_t first, int64_t slice,
                           Guarded &out);
  Value getLargest(ArrayRef<Value> guards);
  LogicalResult applyFormula(Region &formula, const Guarded &guarded,
                             Values &results);
  Value exceeds(Value largest, float limit);
  LogicalResult emitChoice(SpeculateOp op, const Guarded &guarded, bool asks,
                           Values &results);
  LogicalResult emitSlices(SpeculateOp op, Values &results);
  LogicalResult lowerSpeculate(SpeculateOp op);

  // Access.cpp: single elements of global memory.
  Value evaluate(AffineExpr expr, Value row, Value col,
                 ArrayRef<Value> symbols);
  Access getAccess(Value view, AffineMap map, ArrayRef<Value> symbols,
                   Value rows, Value row, Value col);
  Value elementPointer(Value view, Value offset);
  Value emitLoad(Type element, Value pointer, Value inBounds);
  void emitStore(Value value, Value pointer, Value inBounds);
  void lowerLoadScalar(tile::LoadScalarOp op);
  LogicalResult emitLoads(LoadOp op, ArrayRef<int64_t> indices,
                          Values &results);

  // Stores.cpp.
  Value joinPair(Value low, Value high, Type element);
  void storeDense(Value pointer, int64_t col, Value low, Value high,
                  Type element);
  Value storeStep(Value pointer, Value value, Type element, Value step);
  void storeColumns(StoreOp op, int64_t colDim, bool dense, int64_t begin,
                    Value pointer, ArrayRef<Value> elements, Block *outside);
  LogicalResult storeRows(StoreOp op, int64_t colDim, Value pairs);
  LogicalResult storeElements(StoreOp op);
  LogicalResult lowerStore(StoreOp op);

  // Quads.cpp.
  ArrayRef<SmallVector<int64_t>> findSteps(AffineMap map, FragType type);
  bool isQuads(AffineMap map, FragType type);
  Value stepTo(Value view, ArrayRef<int64_t> deltas);
  Value allowsQuads(Value view);
  void emitQuads(ArrayRef<Value> elements, ArrayRef<Value> pointers, Value step,
                 Value inBounds, bool adds);
  void addByCopy(StoreOp op, ArrayRef<Value> elements, Value pointer,
                 Value groups);
  LogicalResult storeQuads(StoreOp op);
  Values loadPair(Value pointer, Value step, Value wide, Value inBounds);
  LogicalResult loadQuads(LoadOp op, ArrayRef<int64_t> indices,
                          Values &results);

  // Prefetch.cpp.
  Value getPrefetched(Value scratch, Value slot);
  void lowerPrefetch(PrefetchOp op);
  Values fetch(FetchOp op, int64_t first, int64_t count);
  void lowerFetch(FetchOp op);

  // Staging.cpp: fragments through shared memory.
  /// Squares of 8 x 8 that a warp writes to shared memory.
  struct Squares {
    Value rows, key;
    int64_t panel;
  };
  Squares getSquares(Value rows, int64_t panel);
  void storeSquares(const Squares &squares, int64_t col, ArrayRef<Value> words);
  void lowerPut(PutOp op);
  LogicalResult stage(StoreOp op, Value rows, int64_t panel);
  void unstage(StoreOp op, int64_t colDim, Value rows, int64_t panel);
  /// The rows that a warp stores, one after the other: the first one, where the
  /// columns end, and of the row that is stored its number and its address.
  struct OwnRows {
    Value symbolRows, first, end, row, address;
    Values symbols;
    Access access;
    Block *loop = nullptr, *done = nullptr;
  };
  OwnRows findOwnRows(StoreOp op, int64_t colDim);
  void beginOwnRow(StoreOp op, OwnRows &own);
  void endOwnRow(const OwnRows &own);
  Values loadWords(Value rows, Value row, Value low, int64_t panels,
                   int64_t panel);
  void storeWords(Value address, ArrayRef<Value> words, Value first, Value end,
                  Value inBounds);
  void unstageWords(StoreOp op, int64_t colDim, Value rows, int64_t panel);
  void unstageElements(StoreOp op, int64_t colDim, Value rows, int64_t panel,
                       Value pairs);
  LogicalResult storeThrough(StoreOp op, int64_t colDim, Value wide,
                             Value pairs);

  KernelOp kernel;
  LaunchOrder order;
  Block *exit = nullptr;
  /// References to what is in it stay valid.
  std::map<const void *, Values> values;
  llvm::MapVector<Value, RingInfo> rings;
  /// Where in shared memory each begins.
  mlir::DenseMap<Value, int64_t> scratches;
  int64_t sharedBytes = 0;
  /// Of accesses: see findSteps.
  mlir::DenseMap<std::pair<AffineMap, Type>, std::vector<SmallVector<int64_t>>>
      steps;

  llvm::MapVector<std::tuple<ParamKind, unsigned, int64_t>, Value> params;
  SmallVector<mlir::DictionaryAttr> paramAttrs;
  SmallVector<mlir::Attribute> recipes;

  // Of this thread.
  Value base, tid, warp, lane, never, groupNumber;
  bool cooperative = false;
  Value firstRow, firstCol;
  /// Where shared memory begins in the block that this lane signals.
  Value peerBase;
};

} // namespace attnc::hopper::lowering

#endif // ATTNC_PASSES_HOPPERTOLLVM_KERNELLOWERING_H
