//===- HopperToLLVM.cpp - Hopper kernels become LLVM and PTX --------------===//
//
// One walk over a hopper kernel that emits an llvm.func: a fragment becomes
// the scalars that a thread holds of it, structured control flow becomes
// branches, and what has no intrinsic becomes inline PTX. Scalar arith and
// math ops are copied and converted at the end by the upstream patterns.
//
// Rules that keep ptxas from serialising wgmma: one asm for each product with
// its accumulators tied, a wait that ties what it makes readable, and no
// reads in between.
//
//===----------------------------------------------------------------------===//

#include "dialects/hopper/Hopper.h"
#include "dialects/hopper/Layout.h"
#include "dialects/tile/Tile.h"
#include "passes/Passes.h"

#include "mlir/Conversion/ArithCommon/AttrToLLVMConverter.h"
#include "mlir/Conversion/ArithToLLVM/ArithToLLVM.h"
#include "mlir/Conversion/LLVMCommon/ConversionTarget.h"
#include "mlir/Conversion/LLVMCommon/TypeConverter.h"
#include "mlir/Conversion/MathToLLVM/MathToLLVM.h"
#include "mlir/Dialect/Arith/Transforms/Passes.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/ADT/TypeSwitch.h"
#include "llvm/Support/SaveAndRestore.h"
#include <deque>
#include <map>

namespace attnc {
#define GEN_PASS_DEF_HOPPERTOLLVM
#include "passes/Passes.h.inc"
} // namespace attnc

using namespace mlir;
using namespace attnc;
using namespace attnc::hopper;

namespace {

constexpr StringLiteral kSharedName = "attnc_shared";
/// Address spaces of NVPTX.
constexpr unsigned kGlobalSpace = 1, kSharedSpace = 3, kClusterSpace = 7;
/// Slices of a speculation whose guards are begun before a formula is chosen.
constexpr size_t kSlicesAhead = 2;
/// Named barriers: turns use 1..4, single warpgroups 8..11.
constexpr int64_t kFirstGroupBarrier = 8;

using Values = SmallVector<Value>;

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

class KernelLowering {
public:
  KernelLowering(KernelOp kernel, LaunchOrder order)
      : kernel(kernel), order(order), b(kernel), loc(kernel.getLoc()) {
    i32 = b.getI32Type();
    i64 = b.getI64Type();
    f32 = b.getF32Type();
  }

  LogicalResult run();

private:
  // Constants, intrinsics, asm.
  Value constant(int64_t value, Type type = {}) {
    type = type ? type : i32;
    return arith::ConstantOp::create(
        b, loc, cast<TypedAttr>(b.getIntegerAttr(type, value)));
  }
  Value intrinsic(StringRef name, Type result, ValueRange args) {
    StringAttr id = b.getStringAttr(name);
    if (!result) {
      LLVM::CallIntrinsicOp::create(b, loc, id, args);
      return {};
    }
    return LLVM::CallIntrinsicOp::create(b, loc, result, id, args)
        ->getResult(0);
  }
  Values assembly(StringRef text, StringRef constraints, TypeRange results,
                  ValueRange operands, bool effects = true);
  Value add(Value x, Value y) { return arith::AddIOp::create(b, loc, x, y); }
  Value add(Value x, int64_t y) {
    return y ? add(x, constant(y, x.getType())) : x;
  }
  Value mul(Value x, Value y) { return arith::MulIOp::create(b, loc, x, y); }
  Value mul(Value x, int64_t y) { return mul(x, constant(y, x.getType())); }
  Value andi(Value x, Value y) { return arith::AndIOp::create(b, loc, x, y); }
  Value compare(arith::CmpIPredicate predicate, Value x, Value y) {
    return arith::CmpIOp::create(b, loc, predicate, x, y);
  }
  Value equals(Value x, int64_t y) {
    return compare(arith::CmpIPredicate::eq, x, constant(y, x.getType()));
  }
  Value extend(Value x) { return arith::ExtSIOp::create(b, loc, i64, x); }

  // Parameters.
  Value getParam(ParamKind kind, unsigned arg, int64_t dim = 0);
  Value getSize(Value view, int64_t dim);
  Value getStride(Value view, int64_t dim);
  void finishSignature();

  // Control flow.
  Block *newBlock(TypeRange arguments = {}) {
    Block *block = new Block();
    func.getBody().push_back(block);
    for (Type type : arguments)
      block->addArgument(type, loc);
    return block;
  }
  void branch(Block *to, ValueRange args = {}) {
    LLVM::BrOp::create(b, loc, args, to);
  }
  void branchIf(Value condition, Block *yes, Block *no, ValueRange yesArgs = {},
                ValueRange noArgs = {}) {
    LLVM::CondBrOp::create(b, loc, condition, yes, yesArgs, no, noArgs);
  }
  /// Into a block that is seldom reached; it lies at the end of the function.
  void branchSeldom(Value condition, Block *seldom, Block *often,
                    ValueRange oftenArgs) {
    LLVM::CondBrOp::create(b, loc, condition, seldom, ValueRange(), often,
                           oftenArgs, std::pair<uint32_t, uint32_t>(1, 2000));
  }
  /// Blocks lie in the order in which they are filled.
  void at(Block *block) {
    if (block != entry)
      block->moveBefore(&func.getBody(), func.getBody().end());
    b.setInsertionPointToEnd(block);
  }

  // The frame of a kernel.
  void layOutSharedMemory();
  void emitEntry(Block *produce, Block *consume);
  LogicalResult emitProducer(ProducerOp role);
  LogicalResult emitConsumers(ConsumersOp role);

  /// Where an element of a view is.
  struct Access {
    Value offset;   // elements, i64
    Value inBounds; // i1, may be null: always
  };

  // Ops.
  LogicalResult lowerBlock(Block &block);
  LogicalResult lower(Operation *op);
  LogicalResult lowerScalar(Operation *op, DenseMap<Value, Value> *local = {});
  LogicalResult lowerFor(scf::ForOp op);
  LogicalResult lowerIf(scf::IfOp op);
  void lowerNext(NextOp op);
  std::pair<Value, Value> splitCursor(const RingInfo &ring, Value cursor);
  Value isMine(const RingInfo &ring, Value cursor);
  void lowerAcquire(AcquireOp op);
  void lowerCopy(CopyOp op);
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
  void copyAsync(const Part &part, int64_t bytes, bool shifted);
  Values loadEnds(const Part &part);
  void storeEnds(const Part &part, ArrayRef<Value> ends);
  void shiftRows(Part part, int64_t phase);
  void shiftPanel(const Part &part, int64_t panel, Value own,
                  ArrayRef<Value> selectors, Values &nexts);
  Values loadChunk(const Part &part, Value row, Value number);
  void copySingly(const Part &part);
  void copyRows(const Part &part);
  void lowerAwait(AwaitOp op);
  void lowerPut(PutOp op);
  void lowerZeroRows(ZeroRowsOp op);
  Value getPrefetched(Value scratch, Value slot);
  void lowerPrefetch(PrefetchOp op);
  Values fetch(FetchOp op, int64_t first, int64_t count);
  void lowerFetch(FetchOp op);
  void arriveOnce(Value address);
  void arriveEverywhere(Value address);
  void lowerRelease(ReleaseOp op);
  LogicalResult lowerWgmma(WgmmaOp op);
  void lowerWait(WaitOp op);
  void lowerTurn(Operation *op, Value consumer);
  void lowerPin(PinOp op);
  LogicalResult lowerStore(StoreOp op);
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
  LogicalResult lowerReduce(ReduceOp op);
  void lowerConvert(ConvertOp op);
  LogicalResult lowerMath(Operation *op, ValueRange operands, Value &result);

  // Elements of fragments.
  LogicalResult lowerElements(Operation *op);
  LogicalResult emitElements(Value frag, ArrayRef<int64_t> indices,
                             Values &results);
  LogicalResult emitElementsOf(Operation *op, ArrayRef<int64_t> indices,
                               Values &results);
  LogicalResult emitLoads(LoadOp op, ArrayRef<int64_t> indices,
                          Values &results);
  LogicalResult emitMap(MapOp op, ArrayRef<int64_t> indices, Values &results);
  void fetchFor(MapOp op, FragOffset offset);
  LogicalResult emitRowScaling(MapOp op, Values &results);
  LogicalResult emitMask(MaskOp op, ArrayRef<int64_t> indices, Values &results);
  Value convertElement(Value value, Type element);
  Value combine(tile::Reduction kind, Values parts);
  Value joinLanes(tile::Reduction kind, Value value);
  Value withoutTail(tile::Reduction kind, Value part, FragType type,
                    FragOffset offset);

  // Helpers of ops.
  Value get(Value value) { return getAll(value).front(); }
  ArrayRef<Value> getAll(Value value);
  void set(Value value, Values lowered) {
    values[value.getAsOpaquePointer()] = std::move(lowered);
  }
  Type convertType(Type type) { return type.isIndex() ? Type(i32) : type; }
  SmallVector<Type> convertTypes(TypeRange types);
  Value sharedPointer(Value address);
  Value barrier(const RingInfo &ring, int64_t first, Value stage);
  void waitBarrier(Value address, Value parity);
  FragOffset offsetOf(FragType type, int64_t index);
  Value broadcast(Value frag, FragOffset offset);
  /// The same value, but no invariant of loops.
  Value refreshed(Value value) {
    return assembly("mov.b32 $0, $1;", "=r,r", i32, value)[0];
  }
  Values refreshedAll(ValueRange values) {
    return llvm::map_to_vector(
        values, [&](Value value) { return refreshed(get(value)); });
  }
  void refreshPosition(Region &region, unsigned row);
  Value getRow(FragType type, FragOffset offset);
  Value getCol(FragType type, FragOffset offset);
  LogicalResult inlineBody(Region &region, ArrayRef<Value> arguments,
                           Values &results);
  Value evaluate(AffineExpr expr, Value row, Value col,
                 ArrayRef<Value> symbols);
  Access getAccess(Value view, AffineMap map, ArrayRef<Value> symbols,
                   Value rows, Value row, Value col);
  Value elementPointer(Value view, Value offset);
  void storeDense(Value pointer, int64_t col, Value low, Value high,
                  Type element);
  Value storeStep(Value pointer, Value value, Type element, Value step);
  void storeColumns(StoreOp op, int64_t colDim, bool dense, int64_t begin,
                    Value pointer, ArrayRef<Value> elements, Block *outside);
  LogicalResult storeRows(StoreOp op, int64_t colDim, Value pairs);
  Value joinPair(Value low, Value high, Type element);
  /// Squares of 8 x 8 that a warp writes to shared memory.
  struct Squares {
    Value rows, key;
    int64_t panel;
  };
  Squares getSquares(Value rows, int64_t panel);
  void storeSquares(const Squares &squares, int64_t col, ArrayRef<Value> words);
  LogicalResult stage(StoreOp op, Value rows, int64_t panel);
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
  void unstageWords(StoreOp op, int64_t colDim, Value rows, int64_t panel);
  Values loadWords(Value rows, Value row, Value low, int64_t panels,
                   int64_t panel);
  void storeWords(Value address, ArrayRef<Value> words, Value first, Value end,
                  Value inBounds);
  void unstageElements(StoreOp op, int64_t colDim, Value rows, int64_t panel,
                       Value pairs);
  LogicalResult storeThrough(StoreOp op, int64_t colDim, Value wide,
                             Value pairs);
  LogicalResult storeElements(StoreOp op);
  Value emitLoad(Type element, Value pointer, Value inBounds);
  void emitStore(Value value, Value pointer, Value inBounds);
  Value packPair(Value low, Value high, Type element);

  KernelOp kernel;
  LaunchOrder order;
  OpBuilder b;
  Location loc;
  Type i32, i64, f32;
  LLVM::LLVMFuncOp func;
  Block *entry = nullptr, *exit = nullptr;
  /// References to what is in it stay valid.
  std::map<const void *, Values> values;
  llvm::MapVector<Value, RingInfo> rings;
  /// Where in shared memory each begins.
  DenseMap<Value, int64_t> scratches;
  int64_t sharedBytes = 0;
  /// Of accesses: see findSteps.
  DenseMap<std::pair<AffineMap, Type>, std::vector<SmallVector<int64_t>>> steps;

  llvm::MapVector<std::tuple<ParamKind, unsigned, int64_t>, Value> params;
  SmallVector<DictionaryAttr> paramAttrs;
  SmallVector<Attribute> recipes;

  // Of this thread.
  Value base, tid, warp, lane, never, groupNumber;
  bool cooperative = false;
  Value firstRow, firstCol;
  /// Where shared memory begins in the block that this lane signals.
  Value peerBase;
};

//===----------------------------------------------------------------------===//
// Parameters
//===----------------------------------------------------------------------===//

Value KernelLowering::getParam(ParamKind kind, unsigned arg, int64_t dim) {
  Value &param = params[{kind, arg, dim}];
  if (param)
    return param;
  MLIRContext *context = b.getContext();
  auto recipe = [&](StringRef name, bool hasArg, bool hasDim) {
    NamedAttrList list;
    list.set("kind", b.getStringAttr(name));
    if (hasArg)
      list.set("arg", b.getI64IntegerAttr(arg));
    if (hasDim)
      list.set("dim", b.getI64IntegerAttr(dim));
    recipes.push_back(list.getDictionary(context));
    paramAttrs.push_back(b.getDictionaryAttr({}));
  };
  Type type = i64;
  switch (kind) {
  case ParamKind::Pointer:
    type = LLVM::LLVMPointerType::get(context, kGlobalSpace);
    recipe("pointer", true, false);
    break;
  case ParamKind::Size:
    recipe("size", true, true);
    break;
  case ParamKind::Stride:
    recipe("stride", true, true);
    break;
  case ParamKind::Items:
    recipe("items", false, false);
    break;
  case ParamKind::Scalar:
    type = kernel.getArgumentTypes()[arg];
    type = type.isIndex() ? i64 : type;
    recipe("scalar", true, false);
    break;
  case ParamKind::TensorMap:
    break; // Made where the recipe is known.
  }
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(entry);
  param = entry->addArgument(type, loc);
  // Sizes and indices are computed with 32 bits, strides with 64.
  if (kind == ParamKind::Size || (kind == ParamKind::Scalar && type == i64))
    param = arith::TruncIOp::create(b, loc, i32, param);
  return param;
}

/// What `value` was lowered to; scalar arguments become parameters when used.
ArrayRef<Value> KernelLowering::getAll(Value value) {
  Values &lowered = values[value.getAsOpaquePointer()];
  if (lowered.empty())
    lowered.push_back(
        getParam(ParamKind::Scalar, cast<BlockArgument>(value).getArgNumber()));
  return lowered;
}

static unsigned argumentNumber(Value view) {
  return cast<BlockArgument>(view).getArgNumber();
}

Value KernelLowering::getSize(Value view, int64_t dim) {
  int64_t size = cast<tile::ViewType>(view.getType()).getShape()[dim];
  if (!ShapedType::isDynamic(size))
    return constant(size);
  return getParam(ParamKind::Size, argumentNumber(view), dim);
}

Value KernelLowering::getStride(Value view, int64_t dim) {
  return getParam(ParamKind::Stride, argumentNumber(view), dim);
}

void KernelLowering::finishSignature() {
  auto type =
      LLVM::LLVMFunctionType::get(LLVM::LLVMVoidType::get(b.getContext()),
                                  llvm::to_vector(entry->getArgumentTypes()));
  func.setFunctionType(type);
  func.setAllArgAttrs(paramAttrs);
  RolesAttr roles = kernel.getRoles();
  NamedAttrList recipe;
  recipe.set("threads", b.getI64IntegerAttr(128 * (roles.getConsumers() + 1)));
  recipe.set("smem", b.getI64IntegerAttr(sharedBytes));
  recipe.set("cluster", b.getI64IntegerAttr(roles.getCluster()));
  recipe.set("persistent", b.getBoolAttr(roles.getPersistent()));
  if (order.follows)
    recipe.set("follows", b.getUnitAttr());
  recipe.set("params", b.getArrayAttr(recipes));
  func->setAttr("attnc.kernel", recipe.getDictionary(b.getContext()));
}

//===----------------------------------------------------------------------===//
// The frame
//===----------------------------------------------------------------------===//

Values KernelLowering::assembly(StringRef text, StringRef constraints,
                                TypeRange results, ValueRange operands,
                                bool effects) {
  Type type;
  if (results.size() == 1)
    type = results[0];
  else if (results.size() > 1)
    type = LLVM::LLVMStructType::getLiteral(b.getContext(),
                                            llvm::to_vector(results));
  std::string all = constraints.str();
  if (effects)
    all += all.empty() ? "~{memory}" : ",~{memory}";
  auto op = LLVM::InlineAsmOp::create(
      b, loc, type ? TypeRange(type) : TypeRange(), operands, text, all,
      effects, /*is_align_stack=*/false, LLVM::tailcallkind::TailCallKind::None,
      /*asm_dialect=*/LLVM::AsmDialectAttr(), /*operand_attrs=*/ArrayAttr());
  Values out;
  if (results.size() == 1)
    out.push_back(op.getRes());
  else
    for (size_t i = 0; i < results.size(); ++i)
      out.push_back(LLVM::ExtractValueOp::create(b, loc, op.getRes(),
                                                 static_cast<int64_t>(i)));
  return out;
}

SmallVector<Type> KernelLowering::convertTypes(TypeRange types) {
  SmallVector<Type> out;
  for (Type type : types) {
    if (auto frag = dyn_cast<FragType>(type))
      out.append(frag.getCount(),
                 frag.getLayout() == Layout::A ? i32 : frag.getElementType());
    else if (isa<CursorType>(type))
      out.push_back(i32);
    else
      out.push_back(convertType(type));
  }
  return out;
}

/// Slots first, each aligned to a swizzle atom; then the barriers.
void KernelLowering::layOutSharedMemory() {
  int64_t offset = 0;
  kernel->walk([&](RingOp op) {
    RingType type = op.getRing().getType();
    int64_t slot = slotBytes(type.getRows(), type.getCols());
    // A warp waits for what it copied: with several slots, the others go on.
    Filler filler = Filler::Bulk;
    if (llvm::any_of(op.getRing().getUsers(), llvm::IsaPred<CopyElementsOp>))
      filler = type.getStages() > 1 ? Filler::OneWarp : Filler::AllWarps;
    else if (llvm::any_of(op.getRing().getUsers(), llvm::IsaPred<PutOp>))
      filler = Filler::Consumers;
    int64_t number = rings.size();
    rings[op.getRing()] =
        RingInfo{offset, slot, 0, 0, filler, number, type, op.getMulticast()};
    offset += slot * type.getStages();
  });
  kernel->walk([&](ScratchOp op) {
    SmemType type = op.getSlot().getType();
    scratches[op.getSlot()] = offset;
    offset +=
        4 * type.getRows() * type.getCols() * kernel.getRoles().getConsumers();
  });
  for (auto &[value, ring] : rings) {
    ring.full = offset;
    offset += 8 * ring.type.getStages();
    ring.empty = offset;
    offset += 8 * ring.type.getStages();
  }
  sharedBytes = offset;
}

Value KernelLowering::sharedPointer(Value address) {
  return LLVM::IntToPtrOp::create(
      b, loc, LLVM::LLVMPointerType::get(b.getContext(), kSharedSpace),
      address);
}

void KernelLowering::emitEntry(Block *produce, Block *consume) {
  auto pointer = LLVM::LLVMPointerType::get(b.getContext(), kSharedSpace);
  Value shared = LLVM::AddressOfOp::create(b, loc, pointer, kSharedName);
  base = LLVM::PtrToIntOp::create(b, loc, i32, shared);
  tid = intrinsic("llvm.nvvm.read.ptx.sreg.tid.x", i32, {});
  // The same in all lanes, and ptxas can see it.
  Value number = arith::ShRUIOp::create(b, loc, tid, constant(5));
  warp = intrinsic("llvm.nvvm.shfl.sync.idx.i32", i32,
                   {constant(-1), number, constant(0), constant(31)});
  lane = andi(tid, constant(31));
  Value group = arith::ShRUIOp::create(b, loc, warp, constant(2));
  groupNumber = arith::SubIOp::create(b, loc, group, constant(1));
  Block *init = newBlock(), *ready = newBlock();
  branchIf(equals(tid, 0), init, ready);
  at(init);
  // A kernel that others follow is short: what its first copies need comes
  // while barriers are made.
  if (order.leads)
    for (TensorMapOp map : kernel.getBody().getOps<TensorMapOp>())
      assembly("prefetch.tensormap [$0];", "l", {}, {get(map)});
  int64_t arrivals = 4 * kernel.getRoles().getConsumers();
  int64_t cluster = kernel.getRoles().getCluster();
  for (auto &[value, ring] : rings)
    for (int64_t s = 0; s < ring.type.getStages(); ++s)
      for (auto [offset, count] :
           {std::pair(ring.full, ring.producers(arrivals / 4)),
            std::pair(ring.empty,
                      ring.multicast ? arrivals * cluster : arrivals)})
        intrinsic("llvm.nvvm.mbarrier.init.shared", {},
                  {sharedPointer(add(base, offset + 8 * s)), constant(count)});
  intrinsic("llvm.nvvm.fence.mbarrier_init.release.cluster", {}, {});
  branch(ready);
  at(ready);
  if (cluster == 1)
    intrinsic("llvm.nvvm.barrier.cta.sync.aligned.all", {}, {constant(0)});
  else // Nobody signals a barrier of another block before it is made.
    assembly("barrier.cluster.arrive.relaxed.aligned;\n"
             "barrier.cluster.wait.acquire.aligned;",
             "", {}, {});
  // What the kernels before this one wrote is there from here on. Barriers are
  // made beside their end; no load is in this block.
  if (order.follows)
    assembly("griddepcontrol.wait;", "", {}, {});
  branchIf(equals(group, 0), produce, consume);
}

LogicalResult KernelLowering::emitProducer(ProducerOp role) {
  intrinsic("llvm.nvvm.setmaxnreg.dec.sync.aligned.u32", {},
            {constant(kernel.getRoles().getProducerRegisters())});
  cooperative = role.getCooperative();
  if (!cooperative) {
    Block *one = newBlock(), *elected = newBlock();
    branchIf(equals(warp, 0), one, exit);
    at(one);
    auto pair =
        LLVM::LLVMStructType::getLiteral(b.getContext(), {i32, b.getI1Type()});
    Value result = intrinsic("llvm.nvvm.elect.sync", pair, {constant(-1)});
    branchIf(LLVM::ExtractValueOp::create(b, loc, result, 1), elected, exit);
    at(elected);
  }
  if (failed(lowerBlock(role.getBody().front())))
    return failure();
  branch(exit);
  return success();
}

LogicalResult KernelLowering::emitConsumers(ConsumersOp role) {
  intrinsic("llvm.nvvm.setmaxnreg.inc.sync.aligned.u32", {},
            {constant(kernel.getRoles().getConsumerRegisters())});
  set(role.getBody().getArgument(0), {groupNumber});
  // Lane r signals block r of the cluster; other lanes, which do not signal,
  // have an address that exists, too.
  if (int64_t cluster = kernel.getRoles().getCluster(); cluster > 1)
    peerBase = assembly("mapa.shared::cluster.u32 $0, $1, $2;", "=r,r,r", i32,
                        {base, andi(lane, constant(cluster - 1))},
                        /*effects=*/false)[0];
  // ptxas cannot know the size of dynamic shared memory.
  Value size = assembly("mov.u32 $0, %dynamic_smem_size;", "=r", i32, {},
                        /*effects=*/false)[0];
  never = equals(size, -1);
  // Of the four warps of a group, this one's first row; see accOffset.
  Value inGroup = andi(warp, constant(3));
  firstRow =
      add(mul(inGroup, 16), arith::ShRUIOp::create(b, loc, lane, constant(2)));
  firstCol = mul(andi(lane, constant(3)), 2);
  if (failed(lowerBlock(role.getBody().front())))
    return failure();
  // Copies read the shared memory of this thread block until they are done.
  if (!scratches.empty())
    assembly("cp.async.bulk.wait_group 0;", "", {}, {});
  branch(exit);
  return success();
}

LogicalResult KernelLowering::run() {
  b.setInsertionPoint(kernel);
  auto type =
      LLVM::LLVMFunctionType::get(LLVM::LLVMVoidType::get(b.getContext()), {});
  std::string name = kernel.getSymName().str();
  func = LLVM::LLVMFuncOp::create(b, loc, name, type);
  func->setAttr("nvvm.kernel", b.getUnitAttr());
  int32_t threads = 128 * (kernel.getRoles().getConsumers() + 1);
  func->setAttr("nvvm.reqntid", b.getDenseI32ArrayAttr({threads}));
  func->setAttr("nvvm.minctasm",
                b.getI32IntegerAttr(kernel.getRoles().getResident()));
  if (int32_t cluster = kernel.getRoles().getCluster(); cluster > 1)
    func->setAttr("nvvm.cluster_dim", b.getDenseI32ArrayAttr({cluster}));
  entry = newBlock();
  exit = newBlock();
  at(entry);
  if (order.leads)
    assembly("griddepcontrol.launch_dependents;", "", {}, {});
  layOutSharedMemory();
  Block *produce = newBlock(), *consume = newBlock();
  // All threads compute what the kernel's body computes.
  ProducerOp producer;
  ConsumersOp consumers;
  for (Operation &op : kernel.getBody().front()) {
    if (auto role = dyn_cast<ProducerOp>(op))
      producer = role;
    else if (auto role = dyn_cast<ConsumersOp>(op))
      consumers = role;
    else if (failed(lower(&op)))
      return failure();
  }
  emitEntry(produce, consume);
  at(produce);
  if (failed(emitProducer(producer)))
    return failure();
  at(consume);
  if (failed(emitConsumers(consumers)))
    return failure();
  at(exit);
  LLVM::ReturnOp::create(b, loc, ValueRange());
  finishSignature();
  return success();
}

//===----------------------------------------------------------------------===//
// Structured control flow
//===----------------------------------------------------------------------===//

LogicalResult KernelLowering::lowerBlock(Block &block) {
  for (Operation &op : block) {
    if (isa<scf::YieldOp>(op))
      continue;
    if (failed(lower(&op)))
      return failure();
  }
  return success();
}

/// Tested at the end, so that the body is one block for ptxas where it can be.
LogicalResult KernelLowering::lowerFor(scf::ForOp op) {
  Values init = {get(op.getLowerBound())};
  for (Value value : op.getInitArgs())
    llvm::append_range(init, getAll(value));
  SmallVector<Type> types(ValueRange(init).getTypes());
  SmallVector<Type> resultTypes(llvm::drop_begin(types));
  Block *body = newBlock(types), *done = newBlock(resultTypes);
  Value end = get(op.getUpperBound()), step = get(op.getStep());
  auto rest = [](Values &values) { return ValueRange(values).drop_front(); };
  branchIf(compare(arith::CmpIPredicate::slt, init[0], end), body, done, init,
           rest(init));
  at(body);
  set(op.getInductionVar(), {body->getArgument(0)});
  auto arguments = body->getArguments().drop_front();
  for (auto arg : op.getRegionIterArgs()) {
    size_t count = convertTypes(arg.getType()).size();
    set(arg, Values(arguments.take_front(count)));
    arguments = arguments.drop_front(count);
  }
  if (failed(lowerBlock(*op.getBody())))
    return failure();
  Values next = {add(body->getArgument(0), step)};
  for (Value value : op.getBody()->getTerminator()->getOperands())
    llvm::append_range(next, getAll(value));
  branchIf(compare(arith::CmpIPredicate::slt, next[0], end), body, done, next,
           rest(next));
  at(done);
  auto results = done->getArguments();
  for (Value result : op.getResults()) {
    size_t count = convertTypes(result.getType()).size();
    set(result, Values(results.take_front(count)));
    results = results.drop_front(count);
  }
  return success();
}

LogicalResult KernelLowering::lowerIf(scf::IfOp op) {
  SmallVector<Type> types = convertTypes(op.getResultTypes());
  Block *yes = newBlock(), *done = newBlock(types);
  Block *no = op.elseBlock() ? newBlock() : done;
  branchIf(get(op.getCondition()), yes, no);
  for (auto [block, from] :
       {std::pair(yes, op.thenBlock()), std::pair(no, op.elseBlock())}) {
    if (!from)
      continue;
    at(block);
    if (failed(lowerBlock(*from)))
      return failure();
    Values out;
    for (Value value : from->getTerminator()->getOperands())
      llvm::append_range(out, getAll(value));
    branch(done, out);
  }
  at(done);
  auto results = done->getArguments();
  for (Value result : op.getResults()) {
    size_t count = convertTypes(result.getType()).size();
    set(result, Values(results.take_front(count)));
    results = results.drop_front(count);
  }
  return success();
}

//===----------------------------------------------------------------------===//
// Scalars
//===----------------------------------------------------------------------===//

/// Functions with one instruction on the special function unit. The flags of
/// the op decide between that and the exact form where there is one.
LogicalResult KernelLowering::lowerMath(Operation *op, ValueRange operands,
                                        Value &result) {
  auto unary = [&](StringRef name) {
    result = intrinsic(name, f32, operands[0]);
    return success();
  };
  if (op->getNumResults() != 1 || !op->getResult(0).getType().isF32())
    return failure();
  if (isa<math::Exp2Op>(op))
    return unary("llvm.nvvm.ex2.approx.ftz.f32");
  if (isa<math::Log2Op>(op))
    return unary("llvm.nvvm.lg2.approx.ftz.f");
  if (isa<math::RsqrtOp>(op))
    return unary("llvm.nvvm.rsqrt.approx.ftz.f");
  if (isa<math::SqrtOp>(op))
    return unary("llvm.nvvm.sqrt.approx.ftz.f");
  if (auto divide = dyn_cast<arith::DivFOp>(op)) {
    auto flags = arith::FastMathFlags::afn;
    bool fast = arith::bitEnumContainsAll(divide.getFastmath(), flags);
    // Correct rounding would take a subroutine call; two units in the last
    // place do not.
    if (!fast) {
      result = assembly("div.full.f32 $0, $1, $2;", "=f,f,f", f32, operands,
                        /*effects=*/false)[0];
      return success();
    }
    Value inverse = intrinsic("llvm.nvvm.rcp.approx.ftz.f", f32, operands[1]);
    APFloat one(1.0f);
    bool isOne = matchPattern(divide.getLhs(), m_ConstantFloat(&one)) &&
                 one.isExactlyValue(1.0);
    result = isOne ? inverse
                   : Value(arith::MulFOp::create(b, loc, operands[0], inverse));
    return success();
  }
  return failure();
}

/// Copies an op on scalars; `index` has 32 bits.
LogicalResult KernelLowering::lowerScalar(Operation *op,
                                          DenseMap<Value, Value> *local) {
  auto lookup = [&](Value value) -> Value {
    if (local)
      if (auto found = local->find(value); found != local->end())
        return found->second;
    return get(value);
  };
  auto store = [&](Value value, Value lowered) {
    if (local)
      (*local)[value] = lowered;
    else
      set(value, {lowered});
  };
  if (auto constantOp = dyn_cast<arith::ConstantOp>(op)) {
    TypedAttr value = constantOp.getValue();
    if (constantOp.getType().isIndex())
      value = b.getIntegerAttr(i32, cast<IntegerAttr>(value).getInt());
    store(constantOp, arith::ConstantOp::create(b, loc, value));
    return success();
  }
  Values operands;
  for (Value operand : op->getOperands())
    operands.push_back(lookup(operand));
  if (isa<arith::IndexCastOp, arith::IndexCastUIOp>(op)) {
    auto from = cast<IntegerType>(operands[0].getType());
    auto to = cast<IntegerType>(convertType(op->getResult(0).getType()));
    Value result = operands[0];
    if (from.getWidth() > to.getWidth())
      result = arith::TruncIOp::create(b, loc, to, result);
    else if (from.getWidth() < to.getWidth())
      result = isa<arith::IndexCastOp>(op)
                   ? Value(arith::ExtSIOp::create(b, loc, to, result))
                   : Value(arith::ExtUIOp::create(b, loc, to, result));
    store(op->getResult(0), result);
    return success();
  }
  Value result;
  if (succeeded(lowerMath(op, operands, result))) {
    store(op->getResult(0), result);
    return success();
  }
  StringRef dialect = op->getName().getDialectNamespace();
  if (op->getNumRegions() || (dialect != "arith" && dialect != "math"))
    return op->emitError("has no lowering to a GPU thread; formulas are "
                         "chosen by tile-select-formula");
  OperationState state(loc, op->getName());
  state.addOperands(operands);
  state.addTypes(convertTypes(op->getResultTypes()));
  state.addAttributes(op->getAttrs());
  if (op->getPropertiesStorage())
    state.propertiesAttr = op->getPropertiesAsAttribute();
  Operation *made = b.create(state);
  for (auto [old, value] : llvm::zip(op->getResults(), made->getResults()))
    store(old, value);
  return success();
}

//===----------------------------------------------------------------------===//
// Rings
//===----------------------------------------------------------------------===//

Value KernelLowering::barrier(const RingInfo &ring, int64_t first,
                              Value stage) {
  return add(add(base, mul(stage, 8)), first);
}

void KernelLowering::waitBarrier(Value address, Value parity) {
  Value pointer = sharedPointer(address);
  Block *spin = newBlock(), *done = newBlock();
  branch(spin);
  at(spin);
  Value ok = intrinsic("llvm.nvvm.mbarrier.try.wait.parity.scope.cta.space.cta",
                       b.getI1Type(), {pointer, parity});
  branchIf(ok, done, spin);
  at(done);
}

/// A cursor is one number, to save registers: the slot, plus the number of
/// slots in odd phases.
void KernelLowering::lowerNext(NextOp op) {
  int64_t stages = op.getRing().getType().getStages();
  Value next = add(get(op.getCursor()), 1);
  set(op.getNext(), {arith::SelectOp::create(b, loc, equals(next, 2 * stages),
                                             constant(0), next)});
}

/// Slot and phase.
std::pair<Value, Value> KernelLowering::splitCursor(const RingInfo &ring,
                                                    Value cursor) {
  Value position = get(cursor);
  int64_t stages = ring.type.getStages();
  Value odd = compare(arith::CmpIPredicate::sge, position, constant(stages));
  Value stage =
      arith::SelectOp::create(b, loc, odd, add(position, -stages), position);
  return {stage, arith::ExtUIOp::create(b, loc, i32, odd)};
}

/// The dim of a view that is the column, if no other depends on it; else -1.
static int64_t findColumnDim(AffineMap map) {
  int64_t found = -1;
  for (auto [dim, expr] : llvm::enumerate(map.getResults())) {
    if (!expr.isFunctionOfDim(1))
      continue;
    if (found >= 0 || expr != getAffineDimExpr(1, map.getContext()))
      return -1;
    found = dim;
  }
  return found;
}

/// Whether this warp of a cooperative producer fills the slot. All warps see
/// the same cursors. Consecutive copies go to different warps, so that they are
/// in flight together: each waits only for its own.
Value KernelLowering::isMine(const RingInfo &ring, Value cursor) {
  if (ring.filler == Filler::Bulk)
    return equals(warp, 0);
  if (ring.filler == Filler::AllWarps)
    return constant(1, b.getI1Type());
  int64_t turns = llvm::count_if(
      rings, [](auto &r) { return r.second.filler == Filler::OneWarp; });
  Value turn = add(mul(get(cursor), turns), ring.number);
  return compare(arith::CmpIPredicate::eq, andi(turn, constant(3)), warp);
}

/// Only who fills a slot waits for it: others may be more than a phase behind,
/// where a parity says nothing.
void KernelLowering::lowerAcquire(AcquireOp op) {
  const RingInfo &ring = rings.find(op.getRing())->second;
  Block *done = nullptr;
  if (cooperative && ring.filler != Filler::Consumers) {
    Block *mine = newBlock();
    done = newBlock();
    branchIf(isMine(ring, op.getCursor()), mine, done);
    at(mine);
  }
  // A fresh barrier counts as "phase 1 done": the first round passes.
  auto [stage, phase] = splitCursor(ring, op.getCursor());
  Value parity = arith::XOrIOp::create(b, loc, phase, constant(1));
  waitBarrier(barrier(ring, ring.empty, stage), parity);
  if (done) {
    branch(done);
    at(done);
  }
}

void KernelLowering::lowerCopy(CopyOp op) {
  const RingInfo &ring = rings.find(op.getRing())->second;
  Block *done = nullptr;
  if (cooperative) {
    Block *one = newBlock();
    done = newBlock();
    branchIf(equals(tid, 0), one, done);
    at(one);
  }
  Value stage = splitCursor(ring, op.getCursor()).first;
  Value full = sharedPointer(barrier(ring, ring.full, stage));
  int64_t panel = ring.type.getRows() * kPanelBytes;
  int64_t panels = panelCount(ring.type.getCols());
  // Bytes that are outside the tensor count too. Those of a multicast slot come
  // from all blocks, which do not wait for each other here: where a part comes
  // first, its bytes count below 0, and the slot is not full before this
  // arrival. It is not the last round's either: every consumer here has seen
  // that one full before it released it.
  intrinsic("llvm.nvvm.mbarrier.arrive.expect.tx.scope.cta.space.cta", i64,
            {full, constant(panels * panel)});
  Value slot = add(add(base, mul(stage, ring.slot)), ring.base);
  int64_t blocks = ring.multicast ? kernel.getRoles().getCluster() : 1;
  if (ring.multicast)
    slot = add(slot, mul(get(op.getPart()), panel / blocks));
  Value mask = constant(ring.multicast ? (1 << blocks) - 1 : 0, b.getI16Type());
  auto cluster = LLVM::LLVMPointerType::get(b.getContext(), kClusterSpace);
  std::string name = "llvm.nvvm.cp.async.bulk.tensor.g2s.tile." +
                     std::to_string(op.getCoordinates().size()) + "d";
  Value isMulticast = constant(ring.multicast, b.getI1Type());
  auto copyPanels = [&](Value policy) {
    Value hasPolicy = constant(bool(policy), b.getI1Type());
    for (int64_t p = 0; p < panels; ++p) {
      Value to = LLVM::AddrSpaceCastOp::create(
          b, loc, cluster, sharedPointer(add(slot, p * panel)));
      Values args = {to, full, get(op.getMap())};
      for (auto [k, coordinate] : llvm::enumerate(op.getCoordinates()))
        args.push_back(k ? get(coordinate)
                         : add(get(coordinate), p * kPanelColumns));
      args.append({mask, policy ? policy : constant(0, i64), isMulticast,
                   hasPolicy, constant(0)});
      intrinsic(name, {}, args);
    }
  };
  if (op.getOnce()) {
    // Any policy but this one, the usual one too, is slower than none.
    Block *once = newBlock(), *usual = newBlock(), *copied = newBlock();
    branchIf(get(op.getOnce()), once, usual);
    at(once);
    copyPanels(assembly("createpolicy.fractional.L2::evict_first.b64 $0, 1.0;",
                        "=l", i64, {}, /*effects=*/false)[0]);
    branch(copied);
    at(usual);
    copyPanels({});
    branch(copied);
    at(copied);
  } else {
    copyPanels({});
  }
  if (done) {
    branch(done);
    at(done);
  }
}

//===----------------------------------------------------------------------===//
// Cooperative copies
//===----------------------------------------------------------------------===//

// A warp copies whole rows. Where the elements of a row are neighbours, how
// wide they can be read is known when the kernel runs: a base and strides that
// are multiples of 16, 8 or 4 bytes let ordinary asynchronous copies work
// (cp.async: no registers, any number in flight). Where rows begin at odd
// elements, the aligned words within each row are copied that way and moved by
// an element in shared memory. Else it is one by one. No byte outside a row is
// ever read.

/// Elements of a chunk, which is what the swizzle moves as a whole.
static constexpr int64_t kChunk = 8;

/// A value that is made again for each copy: what follows from it would be
/// hoisted out of the loop over slots and fill the registers of the producer.
Value KernelLowering::afresh(Value value) {
  bool wide = value.getType() == i64;
  return assembly(wide ? "mov.b64 $0, $1;" : "mov.b32 $0, $1;",
                  wide ? "=l,l" : "=r,r", value.getType(), value)[0];
}

KernelLowering::Part KernelLowering::getPart(CopyElementsOp op,
                                             const RingInfo &ring, Value slot) {
  int64_t rows = ring.type.getRows();
  Part part;
  part.op = op;
  part.view = op.getView();
  part.map = op.getMap();
  part.type = ring.type;
  part.slot = slot;
  part.lane = afresh(lane);
  part.step = stepOfRows(op);
  part.group = rows % 16 ? 8 : 16;
  part.count = rows;
  part.first = constant(0);
  part.end = constant(rows);
  if (ring.filler == Filler::AllWarps) {
    // The first warp goes on to the bulk copies, if there are any.
    bool isBusy = llvm::any_of(
        rings, [](auto &r) { return r.second.filler == Filler::Bulk; });
    int64_t warps = isBusy ? 3 : 4;
    Value number = isBusy ? andi(add(warp, 3), constant(3)) : warp;
    part.count = roundUp((rows + warps - 1) / warps, part.group);
    part.first = mul(number, part.count);
    part.end =
        arith::MinSIOp::create(b, loc, add(part.first, part.count), part.end);
  }
  return part;
}

Value KernelLowering::stepOfRows(CopyElementsOp op) {
  AffineMap map = op.getMap();
  AffineExpr row = getAffineDimExpr(0, map.getContext());
  Value step = constant(0, i64);
  for (auto [dim, expr] : llvm::enumerate(map.getResults())) {
    if (!expr.isFunctionOfDim(0))
      continue;
    AffineExpr rest = simplifyAffineExpr(expr - row, 2, map.getNumSymbols());
    if (rest.isFunctionOfDim(0))
      return {};
    step = add(step, mul(afresh(getStride(op.getView(), dim)), 2));
  }
  return step;
}

/// `body` gets the first of `group` rows.
void KernelLowering::forRows(const Part &part,
                             llvm::function_ref<void(Value)> body) {
  Block *loop = newBlock(i32), *done = newBlock();
  branchIf(compare(arith::CmpIPredicate::slt, part.first, part.end), loop, done,
           part.first);
  at(loop);
  body(loop->getArgument(0));
  Value next = add(loop->getArgument(0), part.group);
  Value more = compare(arith::CmpIPredicate::slt, next, part.end);
  // A group is enough to overlap.
  branchAgain(more, loop, next, done);
  at(done);
}

/// The end of a loop that is not to be unrolled.
void KernelLowering::branchAgain(Value more, Block *loop, ValueRange args,
                                 Block *done) {
  auto again =
      LLVM::CondBrOp::create(b, loc, more, loop, args, done, ValueRange());
  MLIRContext *context = b.getContext();
  auto rolled = LLVM::LoopUnrollAttr::get(context, b.getBoolAttr(true), {}, {},
                                          {}, {}, {}, {});
  again.setLoopAnnotationAttr(LLVM::LoopAnnotationAttr::get(
      context, {}, {}, {}, rolled, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}));
}

KernelLowering::Access KernelLowering::getAccessOf(const Part &part, Value row,
                                                   Value col) {
  CopyElementsOp op = part.op;
  Values symbols;
  for (Value coordinate : op.getCoordinates())
    symbols.push_back(get(coordinate));
  Value rows = op.getRows() ? get(op.getRows()) : Value();
  return getAccess(op.getView(), op.getMap(), symbols, rows, row, col);
}

/// Where the swizzle has the byte `inner` of row `row` in the first panel: see
/// slotOffset.
Value KernelLowering::swizzledAddress(const Part &part, Value row,
                                      Value inner) {
  Value flips = mul(andi(row, constant(7)), 16);
  return add(add(part.slot, mul(row, kPanelBytes)),
             Value(arith::XOrIOp::create(b, loc, inner, flips)));
}

Value KernelLowering::addressOf(const Part &part, Access access) {
  Value pointer = elementPointer(part.view, access.offset);
  return LLVM::PtrToIntOp::create(b, loc, i64, pointer);
}

/// 2 if a row begins in the middle of a word, else 0.
Value KernelLowering::isOdd(Value address) {
  return andi(arith::TruncIOp::create(b, loc, i32, address), constant(2));
}

/// Bits that are 0 in the addresses of all rows: of the base and of strides
/// that are stepped over.
Value KernelLowering::findAlignment(Value view, int64_t colDim) {
  auto type = cast<tile::ViewType>(view.getType());
  int64_t bytes = type.getElementType().getIntOrFloatBitWidth() / 8;
  Value bits = LLVM::PtrToIntOp::create(
      b, loc, i64, getParam(ParamKind::Pointer, argumentNumber(view)));
  for (int64_t dim = 0; dim < type.getRank(); ++dim) {
    if (dim == colDim)
      continue;
    Value stride = mul(getStride(view, dim), bytes);
    Value stepped =
        compare(arith::CmpIPredicate::ugt, getSize(view, dim), constant(1));
    stride = arith::SelectOp::create(b, loc, stepped, stride, constant(0, i64));
    bits = arith::OrIOp::create(b, loc, bits, stride);
  }
  return bits;
}

/// Of each 8 rows of a group from `row` on, the first `apart`: how far it is,
/// its address and whether it is to be read.
void KernelLowering::forAddresses(const Part &part, Value row, int64_t apart,
                                  RowBody body) {
  Value address;
  int64_t last = 0;
  for (int64_t k = 0; k < part.group; ++k) {
    if (k % 8 >= apart)
      continue;
    Access access = getAccessOf(part, add(row, k), constant(0));
    address = k && part.step ? add(address, mul(part.step, k - last))
                             : addressOf(part, access);
    last = k;
    body(k, address, access.inBounds);
  }
}

/// Whether a row has all of the `bytes` at `begin` + `inner`, of `width` that
/// lanes copy at once; null if it does. A row that is `odd` is copied from the
/// word that it begins in.
Value KernelLowering::covers(const Part &part, int64_t begin, int64_t width,
                             Value inner, Value odd) {
  Value valid;
  if (odd && begin == 0)
    valid = compare(arith::CmpIPredicate::sge, inner, mul(odd, 2));
  int64_t left = part.type.getCols() * 2 - begin;
  if (left >= width)
    return valid;
  // Of an odd number of columns, an odd row has one word more.
  Value limit = constant(left / 4 * 4);
  if (left % 4)
    limit = add(limit, mul(odd, 2));
  Value below = compare(arith::CmpIPredicate::slt, inner, limit);
  return valid ? andi(valid, below) : below;
}

/// Asynchronous copies of `bytes` bytes each, which write zeros for what is not
/// to be read: rows outside, and what a product reads beyond the last column.
/// Where `shifted`, these are the words of each row, at the place of the word
/// that has their second half; a word that is partly outside is zeros for now.
void KernelLowering::copyAsync(const Part &part, int64_t bytes, bool shifted) {
  // Lanes have parts of a row, or of 2 or 4 rows that differ in their swizzle.
  // Half a panel of words: what is computed for a row serves more copies then.
  int64_t lanes = std::min<int64_t>(kPanelBytes / bytes, 16);
  int64_t apart = 8 * lanes / 32, width = lanes * bytes;
  int64_t panel = part.type.getRows() * kPanelBytes;
  int64_t end = roundUp(part.type.getCols(), kWgmmaK) * 2;
  std::string size = std::to_string(bytes);
  std::string text = "{\n.reg .b32 s;\nselp.b32 s, " + size +
                     ", 0, $2;\ncp.async." + (bytes == 16 ? "cg" : "ca") +
                     ".shared.global [$0+";
  Value inner = mul(andi(part.lane, constant(lanes - 1)), bytes);
  Value mine = arith::DivUIOp::create(b, loc, part.lane, constant(lanes));
  Value from = arith::ExtUIOp::create(b, loc, i64, inner);
  forRows(part, [&](Value first) {
    Value row = add(first, mul(mine, apart));
    Value to = swizzledAddress(part, row, inner);
    forAddresses(part, row, apart, [&](int64_t k, Value address, Value inside) {
      Value odd = shifted ? isOdd(address) : Value();
      if (shifted)
        address = andi(address, constant(~int64_t(3), i64));
      address = add(address, from);
      for (int64_t at = 0; at < end; at += width) {
        Value valid = covers(part, at, width, inner, odd);
        Value flips = constant(k % 8 * 16 + at % kPanelBytes);
        Value place = arith::XOrIOp::create(b, loc, to, flips);
        int64_t further = k * kPanelBytes + at / kPanelBytes * panel;
        assembly(text + std::to_string(further) + "], [$1+" +
                     std::to_string(at) + "], " + size + ", s;\n}",
                 "r,l,b", {},
                 {place, address, valid ? andi(inside, valid) : inside});
      }
    });
  });
}

/// The first and the last element of rows, one row a lane, as the halves of a
/// register: of words, rows may have no more than that.
Values KernelLowering::loadEnds(const Part &part) {
  std::string last = std::to_string(2 * (part.type.getCols() - 1));
  std::string text = "{\n.reg .pred p;\n.reg .b16 f, l;\nsetp.ne.b32 p, $2, 0;"
                     "\nmov.b16 f, 0;\nmov.b16 l, 0;\n"
                     "@p ld.global.b16 f, [$1];\n@p ld.global.b16 l, [$1+" +
                     last + "];\nmov.b32 $0, {f, l};\n}";
  Values ends;
  for (int64_t k = 0; k < part.count; k += 32) {
    Value row = add(add(part.first, k), part.lane);
    Access access = getAccessOf(part, row, constant(0));
    Value copied = compare(arith::CmpIPredicate::slt, row, part.end);
    Value inside =
        arith::ExtUIOp::create(b, loc, i32, andi(access.inBounds, copied));
    Value pointer = elementPointer(part.view, access.offset);
    ends.push_back(assembly(text, "=r,l,r", i32, {pointer, inside})[0]);
  }
  return ends;
}

void KernelLowering::storeEnds(const Part &part, ArrayRef<Value> ends) {
  int64_t last = 2 * (part.type.getCols() - 1);
  int64_t panel = last / kPanelBytes * part.type.getRows() * kPanelBytes;
  // Beside an odd last column a product reads another one.
  std::string store = part.type.getCols() % 2
                          ? "cvt.u32.u16 w, l;\n@p st.shared.b32 [$1], w;\n"
                          : "@p st.shared.b16 [$1], l;\n";
  std::string text = "{\n.reg .pred p;\n.reg .b16 f, l;\n.reg .b32 w;\n"
                     "setp.ne.b32 p, $3, 0;\nmov.b32 {f, l}, $2;\n"
                     "@p st.shared.b16 [$0], f;\n" +
                     store + "}";
  for (auto [k, both] : llvm::enumerate(ends)) {
    Value row = add(add(part.first, 32 * k), part.lane);
    Value copied = compare(arith::CmpIPredicate::slt, row, part.end);
    copied = arith::ExtUIOp::create(b, loc, i32, copied);
    Value first = swizzledAddress(part, row, constant(0));
    Value end = swizzledAddress(part, row, constant(last % kPanelBytes));
    assembly(text, "r,r,r,r", {}, {first, add(end, panel), both, copied});
  }
}

/// Moves those of every second row that are odd down by an element: each chunk
/// with the first word of the next. Rows are a warp's own; eight lanes have
/// one, and panels go from right to left, which leaves that word in registers:
/// reading it from shared memory again would take as long as the chunk.
void KernelLowering::shiftRows(Part part, int64_t phase) {
  part.group = part.type.getRows() % 32 || part.count % 32 ? part.group : 32;
  Block *shift = newBlock(), *done = newBlock();
  // Rows that are evenly apart are all odd or none.
  Value odd = constant(1, b.getI1Type());
  if (part.step) {
    Access access = getAccessOf(part, add(part.first, phase), constant(0));
    odd = compare(arith::CmpIPredicate::ne, isOdd(addressOf(part, access)),
                  constant(0));
  }
  branchIf(odd, shift, done);
  at(shift);
  Value inner = mul(andi(part.lane, constant(7)), 16);
  Value mine = arith::ShRUIOp::create(b, loc, part.lane, constant(3));
  mine = add(mul(mine, 2), phase);
  forRows(part, [&](Value first) {
    Value row = add(first, mine);
    Value own = swizzledAddress(part, row, inner);
    // Bytes 0 to 3 of two words, or 2 to 5.
    Values selectors;
    forAddresses(part, row, 1, [&](int64_t, Value address, Value) {
      selectors.push_back(part.step ? constant(0x5432)
                                    : add(mul(isOdd(address), 0x1111), 0x3210));
    });
    // The last chunk of all has no next; see storeEnds.
    Values nexts(selectors.size(), constant(0));
    for (int64_t p = panelCount(part.type.getCols()); p--;)
      shiftPanel(part, p, own, selectors, nexts);
  });
  branch(done);
  at(done);
}

/// One chunk a lane in every eighth row. `nexts`: of the panel to the right in
/// the first lane of each eight, then of this one.
void KernelLowering::shiftPanel(const Part &part, int64_t panel, Value own,
                                ArrayRef<Value> selectors, Values &nexts) {
  int64_t begin = panel * part.type.getRows() * kPanelBytes;
  auto at = [&](int64_t k) {
    return "+" + std::to_string(begin + 8 * k * kPanelBytes) + "]";
  };
  SmallVector<Values> words;
  for (size_t k = 0; k < selectors.size(); ++k)
    words.push_back(
        assembly("ld.shared.v4.b32 {$0, $1, $2, $3}, [$4" + at(k) + ";",
                 "=r,=r,=r,=r,r", {i32, i32, i32, i32}, own));
  Value place = andi(part.lane, constant(7));
  Value right =
      add(andi(part.lane, constant(24)), andi(add(part.lane, 1), constant(7)));
  for (auto [k, selector] : llvm::enumerate(selectors)) {
    Value given = arith::SelectOp::create(b, loc, equals(place, 0), nexts[k],
                                          words[k][0]);
    nexts[k] = words[k][0];
    words[k].push_back(intrinsic("llvm.nvvm.shfl.sync.idx.i32", i32,
                                 {constant(-1), given, right, constant(31)}));
    Values operands = {own};
    for (int w = 0; w < 4; ++w)
      operands.push_back(intrinsic("llvm.nvvm.prmt", i32,
                                   {words[k][w], words[k][w + 1], selector}));
    assembly("st.shared.v4.b32 [$0" + at(k) + ", {$1, $2, $3, $4};",
             "r,r,r,r,r", {}, operands);
  }
}

/// A chunk as four registers. Where the columns lie in one dim of the view,
/// each address follows from the last: all at once would not fit in a
/// producer's registers.
Values KernelLowering::loadChunk(const Part &part, Value row, Value number) {
  CopyElementsOp op = part.op;
  Value view = op.getView();
  int64_t colDim = findColumnDim(op.getMap());
  Value cols = constant(op.getRing().getType().getCols());
  Value begin = mul(number, kChunk);
  Value pointer = elementPointer(view, getAccessOf(part, row, begin).offset);
  Value step = colDim < 0 ? Value() : mul(getStride(view, colDim), 2);
  Values words;
  for (int64_t k = 0; k < kChunk; ++k) {
    Value at = add(begin, k);
    Access access = getAccessOf(part, row, at);
    Value inside =
        andi(access.inBounds, compare(arith::CmpIPredicate::slt, at, cols));
    if (!step)
      pointer = elementPointer(view, access.offset);
    Value half = emitLoad(b.getI16Type(), pointer, inside);
    half = arith::ExtUIOp::create(b, loc, i32, half);
    if (step)
      pointer = assembly("add.s64 $0, $1, $2;", "=l,l,l", pointer.getType(),
                         {pointer, step}, /*effects=*/false)[0];
    if (k % 2 == 0)
      words.push_back(half);
    else
      words.back() = arith::OrIOp::create(
          b, loc, words.back(),
          arith::ShLIOp::create(b, loc, half, constant(16)));
  }
  return words;
}

/// Element by element; a lane has a chunk at a time.
void KernelLowering::copySingly(const Part &part) {
  RingType type = part.type;
  int64_t count = roundUp(type.getCols(), kWgmmaK) / kChunk;
  Value begin = add(mul(part.first, count), part.lane);
  Value end = mul(part.end, count);
  Block *loop = newBlock(i32), *done = newBlock();
  branchIf(compare(arith::CmpIPredicate::slt, begin, end), loop, done, begin);
  at(loop);
  Value index = loop->getArgument(0);
  Value row = arith::DivUIOp::create(b, loc, index, constant(count));
  Value number = arith::RemUIOp::create(b, loc, index, constant(count));
  Value panel = arith::ShRUIOp::create(b, loc, number, constant(3));
  Value inner = mul(andi(number, constant(kPanelBytes / 16 - 1)), 16);
  Value to = add(swizzledAddress(part, row, inner),
                 mul(panel, type.getRows() * kPanelBytes));
  Values operands = {to};
  llvm::append_range(operands, loadChunk(part, row, number));
  assembly("st.shared.v4.b32 [$0], {$1, $2, $3, $4};", "r,r,r,r,r", {},
           operands);
  Value next = add(index, 32);
  branchIf(compare(arith::CmpIPredicate::slt, next, end), loop, done, next);
  at(done);
}

void KernelLowering::lowerCopyElements(CopyElementsOp op) {
  const RingInfo &ring = rings.find(op.getRing())->second;
  Block *mine = newBlock(), *done = newBlock();
  branchIf(isMine(ring, op.getCursor()), mine, done);
  at(mine);
  Value stage = splitCursor(ring, op.getCursor()).first;
  Value slot = add(add(base, mul(stage, ring.slot)), ring.base);
  copyRows(getPart(op, ring, slot));
  // wgmma reads through another proxy.
  assembly("fence.proxy.async.shared::cta;", "", {}, {});
  intrinsic("llvm.nvvm.bar.warp.sync", {}, {constant(-1)});
  arriveOnce(barrier(ring, ring.full, stage));
  branch(done);
  at(done);
}

/// By the widest copies that base and strides allow.
void KernelLowering::copyRows(const Part &part) {
  Value view = part.view;
  int64_t colDim = findColumnDim(part.map);
  int64_t cols = part.type.getCols();
  // Every column of the tile is one of the view.
  if (colDim < 0 ||
      cast<tile::ViewType>(view.getType()).getShape()[colDim] < cols)
    return copySingly(part);
  Block *done = newBlock();
  auto otherwise = [&](Value condition, llvm::function_ref<void()> copy) {
    Block *yes = newBlock(), *no = newBlock();
    branchIf(condition, yes, no);
    at(yes);
    copy();
    branch(done);
    at(no);
  };
  Value apart = compare(arith::CmpIPredicate::ne, getStride(view, colDim),
                        constant(1, i64));
  otherwise(apart, [&] { copySingly(part); });
  Value bits = findAlignment(view, colDim);
  for (int64_t bytes : {16, 8, 4})
    if (cols * 2 % bytes == 0)
      otherwise(equals(andi(bits, constant(bytes - 1, i64)), 0), [&] {
        copyAsync(part, bytes, /*shifted=*/false);
        assembly("cp.async.wait_all;", "", {}, {});
      });
  copyAsync(part, 4, /*shifted=*/true);
  Values ends = loadEnds(part);
  assembly("cp.async.wait_all;", "", {}, {});
  intrinsic("llvm.nvvm.bar.warp.sync", {}, {constant(-1)});
  for (int64_t phase : {0, 1})
    shiftRows(part, phase);
  intrinsic("llvm.nvvm.bar.warp.sync", {}, {constant(-1)});
  storeEnds(part, ends);
  branch(done);
  at(done);
}

/// One arrival for each warp.
void KernelLowering::arriveOnce(Value address) {
  Value leader = arith::ExtUIOp::create(b, loc, i32, equals(lane, 0));
  assembly("{\n.reg .pred p;\nsetp.ne.b32 p, $1, 0;\n"
           "@p mbarrier.arrive.shared::cta.b64 _, [$0];\n}",
           "r,r", {}, {address, leader});
}

/// One arrival for each warp in each block of the cluster: lane r tells block
/// r, in whose shared memory its `address` is. It says that a slot may be
/// written, and publishes nothing that was written: its products are done, so
/// what they read was read. A release in the scope of the cluster would wait
/// for all stores of the thread to arrive in memory.
void KernelLowering::arriveEverywhere(Value address) {
  std::string blocks = std::to_string(kernel.getRoles().getCluster());
  assembly("{\n.reg .pred p;\nsetp.lt.u32 p, $1, " + blocks +
               ";\n@p mbarrier.arrive.shared::cluster.b64 _, [$0];\n}",
           "r,r", {}, {address, lane});
}

void KernelLowering::lowerAwait(AwaitOp op) {
  const RingInfo &ring = rings.find(op.getRing())->second;
  auto [stage, phase] = splitCursor(ring, op.getCursor());
  waitBarrier(barrier(ring, ring.full, stage), phase);
  set(op.getSlot(), {add(add(base, mul(stage, ring.slot)), ring.base)});
}

void KernelLowering::lowerRelease(ReleaseOp op) {
  const RingInfo &ring = rings.find(op.getRing())->second;
  Value stage = splitCursor(ring, op.getCursor()).first;
  if (ring.multicast)
    arriveEverywhere(add(add(peerBase, mul(stage, 8)), ring.empty));
  else
    arriveOnce(barrier(ring, ring.empty, stage));
}

/// 16 bytes at a time: row r of panel p begins at (p * rows + r) * 128, and
/// swizzling only permutes the bytes within a row.
void KernelLowering::lowerZeroRows(ZeroRowsOp op) {
  SmemType type = op.getSlot().getType();
  int64_t chunks = kPanelBytes / 16;
  Value slot = get(op.getSlot());
  Value first = arith::MaxSIOp::create(b, loc, get(op.getFirst()), constant(0));
  Value thread = andi(tid, constant(127));
  Value begin = add(mul(first, chunks), thread);
  Value end = constant(type.getRows() * chunks);
  Value zero = constant(0);
  Block *body = newBlock(i32), *done = newBlock();
  branchIf(compare(arith::CmpIPredicate::slt, begin, end), body, done, begin);
  at(body);
  Value chunk = body->getArgument(0);
  for (int64_t p = 0; p < panelCount(type.getCols()); ++p)
    assembly("st.shared.v4.b32 [$0], {$1, $1, $1, $1};", "r,r", {},
             {add(add(slot, mul(chunk, 16)), p * type.getRows() * kPanelBytes),
              zero});
  Value next = add(chunk, 128);
  branchIf(compare(arith::CmpIPredicate::slt, next, end), body, done, next);
  at(done);
  // wgmma reads through another proxy, and reads what all four warps wrote.
  assembly("fence.proxy.async.shared::cta;", "", {}, {});
  intrinsic("llvm.nvvm.barrier.cta.sync.aligned.count", {},
            {add(groupNumber, kFirstGroupBarrier), constant(128)});
}

/// Barrier 1 + c is the turn of consumer c; two warpgroups meet in it: the
/// one that waits and the one that passes the turn on.
void KernelLowering::lowerTurn(Operation *op, Value consumer) {
  int64_t last = kernel.getRoles().getConsumers() - 1;
  if (last == 0)
    return; // Alone, it is always its turn.
  Value index = get(consumer);
  if (isa<TurnWaitOp>(op)) {
    intrinsic("llvm.nvvm.barrier.cta.sync.aligned.count", {},
              {add(index, 1), constant(256)});
    return;
  }
  Value isLast = equals(index, last);
  if (isa<TurnPassOp>(op)) {
    Value next =
        arith::SelectOp::create(b, loc, isLast, constant(1), add(index, 2));
    intrinsic("llvm.nvvm.barrier.cta.arrive.aligned.count", {},
              {next, constant(256)});
    return;
  }
  Block *first = newBlock(), *done = newBlock();
  branchIf(isLast, first, done);
  at(first);
  intrinsic("llvm.nvvm.barrier.cta.arrive.aligned.count", {},
            {constant(1), constant(256)});
  branch(done);
  at(done);
}

//===----------------------------------------------------------------------===//
// Products
//===----------------------------------------------------------------------===//

/// `$first,$first+1,...`
static std::string operandList(int64_t first, int64_t count) {
  std::string text;
  for (int64_t i = 0; i < count; ++i)
    text += (i ? ",$" : "$") + std::to_string(first + i);
  return text;
}

static void repeat(std::string &text, StringRef what, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    text += (text.empty() ? "" : ",") + what.str();
}

/// One asm for all K steps. A descriptor's start address never carries into
/// its high word, so 32-bit additions step it.
LogicalResult KernelLowering::lowerWgmma(WgmmaOp op) {
  bool packed = isa<FragType>(op.getLhs().getType());
  SmemType rhs = op.getRhs().getType();
  int64_t n = roundUp(op.getN(), 8), steps = roundUp(op.getK(), kWgmmaK) / 16;
  int64_t outs = n / 2;
  bool accumulates = op.getAcc() != nullptr;
  StringRef element = op.getOperandElementType().isBF16() ? "bf16" : "f16";

  // Operands: the right descriptor, then the left one or its registers, then
  // the accumulators tied to the results.
  auto descriptor = [&](Value slot, uint64_t bits) -> Value {
    Value low = arith::ShRUIOp::create(b, loc, slot, constant(4));
    // In a cluster, addresses of shared memory have the rank of their block
    // from bit 24 on, which a descriptor has no place for.
    if (kernel.getRoles().getCluster() > 1)
      low = andi(low, constant(kDescriptorAddresses));
    Value wide = arith::ExtUIOp::create(b, loc, i64, low);
    return arith::OrIOp::create(b, loc, wide,
                                constant(static_cast<int64_t>(bits), i64));
  };
  bool kMajor = op.getTransposeB();
  Values operands = {
      descriptor(get(op.getRhs()), kMajor ? kMajorDescriptor()
                                          : mnMajorDescriptor(rhs.getRows()))};
  std::string constraints;
  repeat(constraints, "=f", outs);
  constraints += ",l";
  std::string setUp = "{\n.reg .b64 da, db;\n.reg .b32 al, ah, bl, bh, x;\n"
                      "mov.b64 {bl, bh}, $" +
                      std::to_string(outs) + ";\n";
  // The rows that the panels of the left operand have in shared memory.
  int64_t lhsRows = 0;
  bool transposed = false;
  if (packed) {
    ArrayRef<Value> registers = getAll(op.getLhs());
    llvm::append_range(operands, registers);
    repeat(constraints, "r", registers.size());
  } else {
    transposed = op.getTransposeA();
    auto rows = op.getLhs().getDefiningOp<RowsOp>();
    lhsRows = rows ? rows.getSlot().getType().getRows()
                   : cast<SmemType>(op.getLhs().getType()).getRows();
    operands.push_back(
        descriptor(get(op.getLhs()), transposed ? mnMajorDescriptor(lhsRows)
                                                : kMajorDescriptor()));
    constraints += ",l";
    setUp += "mov.b64 {al, ah}, $" + std::to_string(outs + 1) + ";\n";
  }
  if (accumulates) {
    ArrayRef<Value> acc = getAll(op.getAcc());
    llvm::append_range(operands, acc);
    for (int64_t i = 0; i < outs; ++i)
      constraints += "," + std::to_string(i);
  }

  std::string text = setUp + "wgmma.fence.sync.aligned;\n";
  std::string shape = "wgmma.mma_async.sync.aligned.m64n" + std::to_string(n) +
                      "k16.f32." + element.str() + "." + element.str() + " {" +
                      operandList(0, outs) + "}, ";
  for (int64_t step = 0; step < steps; ++step) {
    int64_t right =
        (kMajor ? kMajorStep(rhs.getRows(), step) : mnMajorStep(step)) >> 4;
    std::string scale = accumulates || step ? "1" : "0";
    std::string left;
    if (packed) {
      left = "{" + operandList(outs + 1 + 4 * step, 4) + "}";
    } else {
      left = "da";
      text += "add.u32 x, al, " +
              std::to_string((transposed ? mnMajorStep(step)
                                         : kMajorStep(lhsRows, step)) >>
                             4) +
              ";\nmov.b64 da, {x, ah};\n";
    }
    text += "add.u32 x, bl, " + std::to_string(right) +
            ";\nmov.b64 db, {x, bh};\n" + shape + left + ", db, " + scale +
            ", 1, 1" +
            (packed       ? ""
             : transposed ? ", 1"
                          : ", 0") +
            (kMajor ? ", 0" : ", 1") + ";\n";
  }
  text += "}";
  SmallVector<Type> types(outs, f32);
  set(op.getResult(), assembly(text, constraints, types, operands));
  return success();
}

/// Reads of the accumulators depend on the asm, so none can move above it.
void KernelLowering::lowerWait(WaitOp op) {
  Values operands;
  for (Value pending : op.getPendings())
    llvm::append_range(operands, getAll(pending));
  std::string constraints;
  repeat(constraints, "=f", operands.size());
  for (size_t i = 0; i < operands.size(); ++i)
    constraints += "," + std::to_string(i);
  SmallVector<Type> types(operands.size(), f32);
  Values results = assembly("wgmma.wait_group.sync.aligned " +
                                std::to_string(op.getInFlight()) + ";",
                            constraints, types, operands);
  ArrayRef<Value> rest = results;
  for (Value result : op.getResults()) {
    size_t count = cast<FragType>(result.getType()).getCount();
    set(result, Values(rest.take_front(count)));
    rest = rest.drop_front(count);
  }
}

void KernelLowering::lowerPin(PinOp op) {
  Block *cold = newBlock(), *done = newBlock();
  branchIf(never, cold, done);
  at(cold);
  Value pointer = sharedPointer(base);
  for (Value value : getAll(op.getFrag()))
    LLVM::StoreOp::create(b, loc, value, pointer, /*alignment=*/0,
                          /*isVolatile=*/true);
  branch(done);
  at(done);
}

//===----------------------------------------------------------------------===//
// Elementwise
//===----------------------------------------------------------------------===//

/// Whether all lanes of a row hold the same.
static bool isColumnless(FragType type) {
  return type.getLayout() == Layout::Row ||
         (type.getLayout() == Layout::Col && type.getCols() == 1);
}

/// Where value `index` lies from the thread's first row and column.
FragOffset KernelLowering::offsetOf(FragType type, int64_t index) {
  switch (type.getLayout()) {
  case Layout::Row:
    return {index * 8, 0};
  case Layout::Col:
    return {0, index / 2 * 8 + index % 2};
  default:
    return accOffset(index);
  }
}

/// The value of `frag` for the element of another fragment at `offset`.
Value KernelLowering::broadcast(Value frag, FragOffset offset) {
  auto type = cast<FragType>(frag.getType());
  ArrayRef<Value> all = getAll(frag);
  if (type.getLayout() == Layout::Row)
    return all[offset.row / 8];
  if (type.getLayout() == Layout::Col)
    return all.size() == 1 ? all[0] : all[offset.col / 8 * 2 + offset.col % 2];
  return all[accIndex(offset)];
}

Value KernelLowering::getRow(FragType type, FragOffset offset) {
  return type.getLayout() == Layout::Col ? constant(0)
                                         : add(firstRow, offset.row);
}

Value KernelLowering::getCol(FragType type, FragOffset offset) {
  return isColumnless(type) ? constant(0) : add(firstCol, offset.col);
}

/// Positions of a region are this op's own: as invariants, one for each column
/// a thread holds, they would be hoisted out of loops and fill registers.
void KernelLowering::refreshPosition(Region &region, unsigned row) {
  Block &block = region.front();
  if (!block.getArgument(row).use_empty())
    firstRow = refreshed(firstRow);
  if (!block.getArgument(row + 1).use_empty())
    firstCol = refreshed(firstCol);
}

LogicalResult KernelLowering::inlineBody(Region &region,
                                         ArrayRef<Value> arguments,
                                         Values &results) {
  DenseMap<Value, Value> local;
  Block &block = region.front();
  for (auto [from, to] : llvm::zip_equal(block.getArguments(), arguments))
    local[from] = to;
  for (Operation &op : block.without_terminator())
    if (failed(lowerScalar(&op, &local)))
      return failure();
  for (Value value : block.getTerminator()->getOperands()) {
    auto found = local.find(value);
    results.push_back(found == local.end() ? get(value) : found->second);
  }
  return success();
}

//===----------------------------------------------------------------------===//
// Elements of fragments, all at once or in groups
//===----------------------------------------------------------------------===//

/// Elements that are computed together where an op is streamed: what is loaded
/// for them is in flight at once.
static constexpr int64_t kStreamed = 16;

static Value getStreamable(Operation *op) {
  if (!isa<LoadOp, MapOp, MaskOp, ConvertOp>(op))
    return {};
  Value frag = op->getResult(0);
  auto map = dyn_cast<MapOp>(op);
  // Wider functions take elements of two rows.
  if (map && map.getWidth() > 2)
    return {};
  return cast<FragType>(frag.getType()).getLayout() == Layout::Acc ? frag
                                                                   : Value();
}

/// Whether the elements of `frag` are computed where its only user needs them,
/// a few at a time. All at once, beside the output's, they would not fit in
/// registers. Where products are started, the order of ops is the schedule's.
static bool isStreamed(Value frag) {
  Operation *op = frag.getDefiningOp();
  if (!op || !getStreamable(op) || !frag.hasOneUse() ||
      !op->getBlock()->getOps<WgmmaOp>().empty())
    return false;
  Operation *user = *frag.user_begin();
  if (user->getBlock() != op->getBlock())
    return false;
  if (!isa<StoreOp, ReduceOp>(user) &&
      !(getStreamable(user) && !isa<LoadOp>(user)))
    return false;
  // Not past a store: what it writes may be what is loaded.
  for (Operation *next = op; next != user; next = next->getNextNode())
    if (isa<StoreOp>(next))
      return false;
  return true;
}

/// Whether each user fetches what it needs, two columns at a time: all at once
/// would take registers. Others branch, and have it before.
static bool isFetchedByUsers(Value frag) {
  return frag.getDefiningOp<FetchOp>() &&
         llvm::all_of(frag.getUsers(), [](Operation *user) {
           auto map = dyn_cast<MapOp>(user);
           return map && map.getWidth() <= 2;
         });
}

/// The elements of `frag` at `indices`.
LogicalResult KernelLowering::emitElements(Value frag,
                                           ArrayRef<int64_t> indices,
                                           Values &results) {
  if (isStreamed(frag))
    return emitElementsOf(frag.getDefiningOp(), indices, results);
  ArrayRef<Value> all = getAll(frag);
  for (int64_t i : indices)
    results.push_back(all[i]);
  return success();
}

LogicalResult KernelLowering::emitElementsOf(Operation *op,
                                             ArrayRef<int64_t> indices,
                                             Values &results) {
  if (auto load = dyn_cast<LoadOp>(op))
    return emitLoads(load, indices, results);
  if (auto map = dyn_cast<MapOp>(op))
    return emitMap(map, indices, results);
  if (auto mask = dyn_cast<MaskOp>(op))
    return emitMask(mask, indices, results);
  auto convert = cast<ConvertOp>(op);
  Values inputs;
  if (failed(emitElements(convert.getInput(), indices, inputs)))
    return failure();
  Type element = convert.getResult().getType().getElementType();
  for (Value input : inputs)
    results.push_back(convertElement(input, element));
  return success();
}

/// Whether `op` multiplies accumulators by a factor for each row.
static bool isRowScaling(Operation *op) {
  auto map = dyn_cast<MapOp>(op);
  if (!map || map.getInputs().size() != 2 || map.getWidth() != 1 ||
      map.getResult().getType() != map.getInputs()[0].getType() ||
      cast<FragType>(map.getInputs()[1].getType()).getLayout() != Layout::Row)
    return false;
  Block &body = map.getBody().front();
  auto product =
      body.getTerminator()->getOperand(0).getDefiningOp<arith::MulFOp>();
  return product && product.getLhs() == body.getArgument(0) &&
         product.getRhs() == body.getArgument(1);
}

/// Factors of sums that go on are seldom other than 1, which changes nothing:
/// one vote of the warp then takes the place of the products of its 8 rows that
/// a factor of each lane serves.
LogicalResult KernelLowering::emitRowScaling(MapOp op, Values &results) {
  FragType type = op.getResult().getType();
  Value one = arith::ConstantOp::create(b, loc, b.getF32FloatAttr(1));
  results = llvm::to_vector(getAll(op.getInputs()[0]));
  for (auto [half, factor] : llvm::enumerate(getAll(op.getInputs()[1]))) {
    SmallVector<int64_t> indices;
    Values same;
    for (auto [index, value] : llvm::enumerate(results))
      if (offsetOf(type, index).row / 8 == int64_t(half)) {
        indices.push_back(index);
        same.push_back(value);
      }
    Value changes =
        arith::CmpFOp::create(b, loc, arith::CmpFPredicate::UNE, factor, one);
    changes = intrinsic("llvm.nvvm.vote.any.sync", b.getI1Type(),
                        {constant(-1), changes});
    SmallVector<Type> types(ValueRange(same).getTypes());
    Block *scale = newBlock(), *done = newBlock(types);
    branchIf(changes, scale, done, {}, same);
    at(scale);
    Values scaled;
    if (failed(emitMap(op, indices, scaled)))
      return failure();
    branch(done, scaled);
    at(done);
    for (auto [index, value] : llvm::zip(indices, done->getArguments()))
      results[index] = value;
  }
  return success();
}

/// An elementwise op, all of it.
LogicalResult KernelLowering::lowerElements(Operation *op) {
  Value frag = op->getResult(0);
  if (isStreamed(frag))
    return success();
  if (auto convert = dyn_cast<ConvertOp>(op))
    if (!isStreamed(convert.getInput()))
      return lowerConvert(convert), success();
  auto type = cast<FragType>(frag.getType());
  auto indices = llvm::to_vector(llvm::seq<int64_t>(0, type.getCount()));
  Values results;
  if (failed(isRowScaling(op) ? emitRowScaling(cast<MapOp>(op), results)
                              : emitElementsOf(op, indices, results)))
    return failure();
  set(frag, results);
  return success();
}

LogicalResult KernelLowering::emitMap(MapOp op, ArrayRef<int64_t> indices,
                                      Values &results) {
  FragType type = op.getResult().getType();
  size_t width = op.getWidth();
  SmallVector<Values> streamed(op.getInputs().size());
  for (auto [input, elements] : llvm::zip(op.getInputs(), streamed))
    if (isStreamed(input) && failed(emitElements(input, indices, elements)))
      return failure();
  llvm::SaveAndRestore keepRow(firstRow), keepCol(firstCol), keepWarp(warp);
  for (Value input : op.getInputs())
    if (isFetchedByUsers(input)) {
      set(input, Values(cast<FragType>(input.getType()).getCount()));
      warp = refreshed(warp);
    }
  refreshPosition(op.getBody(), op.getBody().getNumArguments() - 2);
  for (size_t i = 0; i < indices.size(); i += width) {
    fetchFor(op, offsetOf(type, indices[i]));
    Values arguments;
    for (auto [input, elements] : llvm::zip(op.getInputs(), streamed))
      for (size_t k = i; k < i + width; ++k)
        arguments.push_back(elements.empty()
                                ? broadcast(input, offsetOf(type, indices[k]))
                                : elements[k]);
    arguments.push_back(getRow(type, offsetOf(type, indices[i])));
    arguments.push_back(getCol(type, offsetOf(type, indices[i])));
    if (failed(inlineBody(op.getBody(), arguments, results)))
      return failure();
  }
  return success();
}

/// What the elements at `offset` and next to it read and was prefetched.
void KernelLowering::fetchFor(MapOp op, FragOffset offset) {
  for (Value input : op.getInputs()) {
    if (!isFetchedByUsers(input))
      continue;
    int64_t first = offset.col / 8 * 2;
    Values all = llvm::to_vector(getAll(input));
    if (all[first])
      continue;
    Values pair = fetch(input.getDefiningOp<FetchOp>(), first, 2);
    std::copy(pair.begin(), pair.end(), all.begin() + first);
    set(input, all);
  }
}

LogicalResult KernelLowering::emitMask(MaskOp op, ArrayRef<int64_t> indices,
                                       Values &results) {
  FragType type = op.getResult().getType();
  if (!type.getElementType().isF32())
    return op.emitError() << "masks f32 only, got " << type;
  Value fill =
      arith::ConstantOp::create(b, loc, FloatAttr::get(f32, op.getFill()));
  SmallVector<Value> inputs = {op.getInput()};
  llvm::append_range(inputs, op.getCaptured());
  SmallVector<Values> streamed(inputs.size());
  for (auto [input, elements] : llvm::zip(inputs, streamed))
    if (isStreamed(input) && failed(emitElements(input, indices, elements)))
      return failure();
  llvm::SaveAndRestore keepRow(firstRow), keepCol(firstCol);
  refreshPosition(op.getBody(), 0);
  for (auto [number, index] : llvm::enumerate(indices)) {
    FragOffset offset = offsetOf(type, index);
    Values arguments = {getRow(type, offset), getCol(type, offset)}, keep;
    Values elements;
    for (auto [input, some] : llvm::zip(inputs, streamed))
      elements.push_back(some.empty() ? broadcast(input, offset)
                                      : some[number]);
    arguments.append(elements.begin() + 1, elements.end());
    if (failed(inlineBody(op.getBody(), arguments, keep)))
      return failure();
    results.push_back(
        arith::SelectOp::create(b, loc, keep[0], elements[0], fill));
  }
  return success();
}

/// The common part of values [first, first + slice).
LogicalResult KernelLowering::emitCommon(SpeculateOp op, int64_t first,
                                         int64_t slice, Guarded &out) {
  FragType type = op.getResult().getType();
  for (int64_t i = first; i < first + slice; ++i) {
    FragOffset offset = offsetOf(type, i);
    Values arguments, common;
    for (Value input : op.getInputs())
      arguments.push_back(broadcast(input, offset));
    arguments.push_back(getRow(type, offset));
    arguments.push_back(getCol(type, offset));
    if (failed(inlineBody(op.getCommon(), arguments, common)))
      return failure();
    out.guards.push_back(common[0]);
    Values rest(llvm::drop_begin(common));
    rest.append(arguments.end() - 2, arguments.end());
    out.shared.push_back(rest);
  }
  return success();
}

/// The bits of the largest guard of this thread. Guards are never negative, so
/// their bits order like unsigned integers; a NaN orders above everything and
/// so chooses `exact`. Four chains of three-operand maxima, for latency.
Value KernelLowering::getLargest(ArrayRef<Value> guards) {
  Values tops;
  for (auto [i, guard] : llvm::enumerate(guards)) {
    Value bits = arith::BitcastOp::create(b, loc, i32, guard);
    if (tops.size() < 4)
      tops.push_back(bits);
    else
      tops[i % 4] = arith::MaxUIOp::create(b, loc, tops[i % 4], bits);
  }
  while (tops.size() > 1) {
    Value last = tops.pop_back_val();
    tops.back() = arith::MaxUIOp::create(b, loc, tops.back(), last);
  }
  return tops[0];
}

LogicalResult KernelLowering::applyFormula(Region &formula,
                                           const Guarded &guarded,
                                           Values &results) {
  size_t width = tile::getFormulaWidth(formula);
  ArrayRef<Values> rest = guarded.shared;
  for (; !rest.empty(); rest = rest.drop_front(width)) {
    Values arguments;
    for (size_t i = 0; i + 2 < rest.front().size(); ++i)
      for (const Values &element : rest.take_front(width))
        arguments.push_back(element[i]);
    arguments.append(rest.front().end() - 2, rest.front().end());
    if (failed(inlineBody(formula, arguments, results)))
      return failure();
  }
  return success();
}

/// Whether a thread of the warp has a guard above `limit`.
Value KernelLowering::exceeds(Value largest, float limit) {
  Value high = compare(arith::CmpIPredicate::ugt, largest,
                       constant(llvm::bit_cast<uint32_t>(limit)));
  return intrinsic("llvm.nvvm.vote.any.sync", b.getI1Type(),
                   {constant(-1), high});
}

/// A formula for one slice. The first one is computed before its vote is known,
/// in the shadow of the next slice's guards; a branch that is seldom taken
/// leads to the others, each behind a vote of its own. Who missed before goes
/// to the last of these at once. Who `asks` gets as last result whether the
/// formulas but the last one would have missed.
LogicalResult KernelLowering::emitChoice(SpeculateOp op, const Guarded &guarded,
                                         bool asks, Values &results) {
  size_t count = op.getFast().size(), last = count - 1;
  Value largest = getLargest(guarded.guards);
  Value missed = op.getMissed();
  bool isOpen = missed && !matchPattern(missed, m_Zero());
  Block *settled = isOpen ? newBlock() : nullptr;
  Values out;
  auto apply = [&](size_t number) {
    Region &formula = number < count ? op.getFast()[number] : op.getExact();
    out.clear();
    if (failed(applyFormula(formula, guarded, out)))
      return failure();
    if (asks && isOpen && number == last)
      out.push_back(exceeds(largest, op.getLimits()[last - 1]));
    else if (asks)
      out.push_back(constant(number >= last, b.getI1Type()));
    return success();
  };
  if (isOpen) {
    Block *guess = newBlock();
    branchSeldom(get(missed), settled, guess, {});
    at(guess);
  }
  if (failed(apply(0)))
    return failure();
  SmallVector<Type> types(ValueRange(out).getTypes());
  Block *done = newBlock(types), *next = newBlock();
  branchSeldom(exceeds(largest, op.getLimits()[0]), next, done, out);
  for (size_t number = 1; number < count; ++number) {
    at(next);
    if (isOpen && number == last) {
      branch(settled);
      at(settled);
    }
    Block *holds = newBlock();
    next = newBlock();
    branchIf(exceeds(largest, op.getLimits()[number]), next, holds);
    at(holds);
    if (failed(apply(number)))
      return failure();
    branch(done, out);
  }
  at(next);
  if (failed(apply(count)))
    return failure();
  branch(done, out);
  at(done);
  llvm::append_range(results, done->getArguments());
  return success();
}

/// The guards of the next slices are begun before this one's formula is chosen,
/// so that the special function unit works while the warp votes. They take the
/// registers of their operands. If the op gives it, the last result says
/// whether the last slice missed.
LogicalResult KernelLowering::emitSlices(SpeculateOp op, Values &results) {
  int64_t slice = accCount(op.getSlice());
  int64_t count = op.getResult().getType().getCount();
  std::deque<Guarded> begun;
  int64_t next = 0;
  while (next < count || !begun.empty()) {
    while (next < count && begun.size() <= kSlicesAhead) {
      if (failed(emitCommon(op, next, slice, begun.emplace_back())))
        return failure();
      next += slice;
    }
    bool asks = op.getMisses() && next == count && begun.size() == 1;
    if (failed(emitChoice(op, begun.front(), asks, results)))
      return failure();
    begun.pop_front();
  }
  return success();
}

LogicalResult KernelLowering::lowerSpeculate(SpeculateOp op) {
  llvm::SaveAndRestore keepRow(firstRow), keepCol(firstCol);
  refreshPosition(op.getCommon(), op.getCommon().getNumArguments() - 2);
  Values results;
  if (failed(emitSlices(op, results)))
    return failure();
  if (op.getMissed())
    set(op.getMisses(), {results.pop_back_val()});
  set(op.getResult(), results);
  return success();
}

/// Neighbours first, for latency.
Value KernelLowering::combine(tile::Reduction kind, Values parts) {
  auto pair = [&](Value x, Value y) -> Value {
    if (kind == tile::Reduction::Add)
      return arith::AddFOp::create(b, loc, x, y);
    return arith::MaxNumFOp::create(b, loc, x, y);
  };
  while (parts.size() > 1) {
    Values next;
    for (size_t i = 0; i + 1 < parts.size(); i += 2)
      next.push_back(pair(parts[i], parts[i + 1]));
    if (parts.size() % 2)
      next.push_back(parts.back());
    parts = next;
  }
  return parts[0];
}

/// Combines the four lanes of a row.
Value KernelLowering::joinLanes(tile::Reduction kind, Value value) {
  for (int64_t distance : {1, 2}) {
    Value other =
        intrinsic("llvm.nvvm.shfl.sync.bfly.f32", f32,
                  {constant(-1), value, constant(distance), constant(31)});
    value = combine(kind, {value, other});
  }
  return value;
}

/// `part`, or what changes no result where some lane's column is behind the
/// last one of a type with an odd number of columns.
Value KernelLowering::withoutTail(tile::Reduction kind, Value part,
                                  FragType type, FragOffset offset) {
  // The four lanes of a row hold two columns each.
  if (isColumnless(type) || offset.col / 8 * 8 + 8 <= type.getCols())
    return part;
  bool isSum = kind == tile::Reduction::Add;
  Value neutral = arith::ConstantOp::create(
      b, loc,
      b.getF32FloatAttr(isSum ? 0 : -std::numeric_limits<float>::infinity()));
  Value inside =
      arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ult,
                            getCol(type, offset), constant(type.getCols()));
  return arith::SelectOp::create(b, loc, inside, part, neutral);
}

LogicalResult KernelLowering::lowerReduce(ReduceOp op) {
  FragType type = op.getInput().getType();
  if (!type.getElementType().isF32())
    return op.emitError() << "reduces f32, got " << type;
  if (type.getLayout() == Layout::Row) {
    Values rows;
    for (Value part : getAll(op.getInput()))
      rows.push_back(joinLanes(op.getKind(), part));
    set(op.getResult(), rows);
    return success();
  }
  size_t group = isStreamed(op.getInput()) ? kStreamed : type.getCount();
  SmallVector<int64_t> rows = {0, 8};
  if (type.getLayout() == Layout::Col)
    rows = {0};
  Values results;
  for (int64_t row : rows) {
    auto indices = llvm::to_vector(llvm::make_filter_range(
        llvm::seq<int64_t>(0, type.getCount()),
        [&](int64_t i) { return offsetOf(type, i).row == row; }));
    Values sums;
    for (ArrayRef<int64_t> rest = indices; !rest.empty();
         rest = rest.drop_front(std::min(group, rest.size()))) {
      Values parts;
      if (failed(emitElements(op.getInput(), rest.take_front(group), parts)))
        return failure();
      for (auto [part, index] : llvm::zip(parts, rest))
        part = withoutTail(op.getKind(), part, type, offsetOf(type, index));
      sums.push_back(combine(op.getKind(), parts));
    }
    Value value = combine(op.getKind(), sums);
    results.push_back(op.getPartial() ? value : joinLanes(op.getKind(), value));
  }
  set(op.getResult(), results);
  return success();
}

/// Two f32 as a register of two 16-bit elements, the first one low.
Value KernelLowering::packPair(Value low, Value high, Type element) {
  StringRef name =
      element.isBF16() ? "llvm.nvvm.ff2bf16x2.rn" : "llvm.nvvm.ff2f16x2.rn";
  return intrinsic(name, VectorType::get(2, element), {high, low});
}

Value KernelLowering::convertElement(Value value, Type element) {
  Type type = value.getType();
  if (type == element)
    return value;
  if (isa<IntegerType>(type))
    return arith::SIToFPOp::create(b, loc, element, value);
  if (type.getIntOrFloatBitWidth() < element.getIntOrFloatBitWidth())
    return arith::ExtFOp::create(b, loc, element, value);
  return arith::TruncFOp::create(b, loc, element, value);
}

void KernelLowering::lowerConvert(ConvertOp op) {
  FragType from = op.getInput().getType(), to = op.getResult().getType();
  ArrayRef<Value> input = getAll(op.getInput());
  Type element = to.getElementType();
  Values results;
  bool pairs = from.getElementType().isF32() &&
               (element.isBF16() || element.isF16()) && input.size() % 2 == 0;
  for (size_t i = 0; pairs && i < input.size(); i += 2) {
    Value pair = packPair(input[i], input[i + 1], element);
    if (to.getLayout() == Layout::A)
      results.push_back(LLVM::BitcastOp::create(b, loc, i32, pair));
    else
      for (int64_t k : {0, 1})
        results.push_back(
            LLVM::ExtractElementOp::create(b, loc, pair, constant(k)));
  }
  if (!pairs)
    for (Value value : input)
      results.push_back(convertElement(value, element));
  set(op.getResult(), results);
}

//===----------------------------------------------------------------------===//
// Global memory
//===----------------------------------------------------------------------===//

Value KernelLowering::evaluate(AffineExpr expr, Value row, Value col,
                               ArrayRef<Value> symbols) {
  if (auto constantExpr = dyn_cast<AffineConstantExpr>(expr))
    return constant(constantExpr.getValue());
  if (auto dim = dyn_cast<AffineDimExpr>(expr))
    return dim.getPosition() ? col : row;
  if (auto symbol = dyn_cast<AffineSymbolExpr>(expr))
    return symbols[symbol.getPosition()];
  auto binary = cast<AffineBinaryOpExpr>(expr);
  Value x = evaluate(binary.getLHS(), row, col, symbols);
  Value y = evaluate(binary.getRHS(), row, col, symbols);
  switch (expr.getKind()) {
  case AffineExprKind::Add:
    return add(x, y);
  case AffineExprKind::Mul:
    return mul(x, y);
  case AffineExprKind::Mod: {
    Value floor = arith::FloorDivSIOp::create(b, loc, x, y);
    return arith::SubIOp::create(b, loc, x, mul(floor, y));
  }
  case AffineExprKind::CeilDiv:
    return arith::CeilDivSIOp::create(b, loc, x, y);
  default:
    return arith::FloorDivSIOp::create(b, loc, x, y);
  }
}

/// The element that (row, col) stands for, and whether it may be touched. A
/// negative position is a large unsigned one.
KernelLowering::Access KernelLowering::getAccess(Value view, AffineMap map,
                                                 ArrayRef<Value> symbols,
                                                 Value rows, Value row,
                                                 Value col) {
  Access access = {constant(0, i64), {}};
  auto require = [&](Value condition) {
    access.inBounds =
        access.inBounds ? andi(access.inBounds, condition) : condition;
  };
  if (rows)
    require(compare(arith::CmpIPredicate::slt, row, rows));
  for (auto [dim, expr] : llvm::enumerate(map.getResults())) {
    Value position = evaluate(expr, row, col, symbols);
    require(compare(arith::CmpIPredicate::ult, position, getSize(view, dim)));
    access.offset =
        add(access.offset, mul(extend(position), getStride(view, dim)));
  }
  if (!access.inBounds)
    access.inBounds = constant(1, b.getI1Type());
  return access;
}

Value KernelLowering::elementPointer(Value view, Value offset) {
  Type element = cast<tile::ViewType>(view.getType()).getElementType();
  if (element.isInteger(1))
    element = b.getI8Type();
  Value pointer = getParam(ParamKind::Pointer, argumentNumber(view));
  return LLVM::GEPOp::create(b, loc, pointer.getType(), element, pointer,
                             ArrayRef<LLVM::GEPArg>{offset});
}

/// A load under a predicate: 0 elsewhere, without a branch.
Value KernelLowering::emitLoad(Type element, Value pointer, Value inBounds) {
  unsigned bits = std::max(element.getIntOrFloatBitWidth(), 8u);
  std::string width = "b" + std::to_string(bits);
  std::string reg = bits == 32 ? "b32" : "b16";
  Type raw = bits == 32 ? i32 : Type(b.getI16Type());
  std::string text = "{\n.reg .pred p;\nsetp.ne.b32 p, $2, 0;\nmov." + reg +
                     " $0, 0;\n@p ld.global." + width + " $0, [$1];\n}";
  Value predicate = arith::ExtUIOp::create(b, loc, i32, inBounds);
  Value value = assembly(text, bits == 32 ? "=r,l,r" : "=h,l,r", raw,
                         {pointer, predicate}, /*effects=*/false)[0];
  if (bits == 8)
    value = arith::TruncIOp::create(b, loc, b.getI8Type(), value);
  if (element.isInteger(1))
    return compare(arith::CmpIPredicate::ne, value, constant(0, b.getI8Type()));
  return isa<FloatType>(element)
             ? Value(LLVM::BitcastOp::create(b, loc, element, value))
             : value;
}

void KernelLowering::emitStore(Value value, Value pointer, Value inBounds) {
  Type element = value.getType();
  if (element.isInteger(1)) {
    value = arith::ExtUIOp::create(b, loc, b.getI8Type(), value);
    element = value.getType();
  }
  unsigned bits = element.getIntOrFloatBitWidth();
  if (isa<FloatType>(element))
    value = LLVM::BitcastOp::create(b, loc, b.getIntegerType(bits), value);
  if (bits == 8)
    value = arith::ExtUIOp::create(b, loc, b.getI16Type(), value);
  Value predicate = arith::ExtUIOp::create(b, loc, i32, inBounds);
  assembly("{\n.reg .pred p;\nsetp.ne.b32 p, $2, 0;\n@p st.global.b" +
               std::to_string(bits) + " [$1], $0;\n}",
           bits == 32 ? "r,l,r" : "h,l,r", {}, {value, pointer, predicate});
}

/// Whether indices come as pairs of neighbours.
static bool arePairs(ArrayRef<int64_t> indices) {
  for (size_t i = 0; i < indices.size(); i += 2)
    if (i + 1 == indices.size() || indices[i] % 2 ||
        indices[i + 1] != indices[i] + 1)
      return false;
  return true;
}

LogicalResult KernelLowering::emitLoads(LoadOp op, ArrayRef<int64_t> indices,
                                        Values &results) {
  FragType type = op.getFrag().getType();
  Type element = type.getElementType();
  if (type.getLayout() == Layout::A)
    return op.emitError("loads no packed operands");
  if (arePairs(indices) && isQuads(op.getMap(), type) &&
      type.getCols() % 8 == 0)
    return loadQuads(op, indices, results);
  Values symbols;
  for (Value coordinate : op.getCoordinates())
    symbols.push_back(get(coordinate));
  Value rows = op.getRows() ? get(op.getRows()) : Value();
  for (int64_t i : indices) {
    FragOffset offset = offsetOf(type, i);
    Access access = getAccess(op.getView(), op.getMap(), symbols, rows,
                              getRow(type, offset), getCol(type, offset));
    // Columns that only padding has.
    if (type.getCols() % 8 && !isColumnless(type))
      access.inBounds =
          andi(access.inBounds,
               compare(arith::CmpIPredicate::slt, getCol(type, offset),
                       constant(type.getCols())));
    results.push_back(emitLoad(
        element, elementPointer(op.getView(), access.offset), access.inBounds));
  }
  return success();
}

/// What to round to the elements of `frag`, so that each way to store rounds
/// what it needs: rounded values that wait for it would take registers.
static Value getUnrounded(Value frag) {
  Type element = cast<FragType>(frag.getType()).getElementType();
  auto convert = frag.getDefiningOp<ConvertOp>();
  bool narrows = element.isBF16() || element.isF16();
  if (convert && narrows &&
      convert.getInput().getType().getElementType().isF32())
    return convert.getInput();
  return frag;
}

/// Two neighbours, rounded to `element` if they are not yet.
Value KernelLowering::joinPair(Value low, Value high, Type element) {
  if (low.getType() != element)
    return packPair(low, high, element);
  Value pair = LLVM::UndefOp::create(b, loc, VectorType::get(2, element));
  pair = LLVM::InsertElementOp::create(b, loc, pair, low, constant(0));
  return LLVM::InsertElementOp::create(b, loc, pair, high, constant(1));
}

/// Two neighbours in one store, where the columns of the view are dense.
void KernelLowering::storeDense(Value pointer, int64_t col, Value low,
                                Value high, Type element) {
  Value pair = joinPair(low, high, element);
  Value to =
      LLVM::GEPOp::create(b, loc, pointer.getType(), element, pointer,
                          ArrayRef<LLVM::GEPArg>{static_cast<int32_t>(col)});
  LLVM::StoreOp::create(b, loc, pair, to, element.getIntOrFloatBitWidth() / 4);
}

/// One element; the pointer to the next, `step` bytes on. The addresses form a
/// chain in asm, because all of them at once would not fit in registers.
Value KernelLowering::storeStep(Value pointer, Value value, Type element,
                                Value step) {
  if (value.getType() != element)
    value = arith::TruncFOp::create(b, loc, element, value);
  unsigned bits = element.getIntOrFloatBitWidth();
  value = LLVM::BitcastOp::create(b, loc, b.getIntegerType(bits), value);
  return assembly("st.global.b" + std::to_string(bits) +
                      " [$1], $2;\nadd.s64 $0, $1, $3;",
                  bits == 32 ? "=l,l,r,l" : "=l,l,h,l", pointer.getType(),
                  {pointer, value, step})[0];
}

/// Columns [begin, end) of a row whose columns lie in dim `colDim` of the view,
/// by pairs or one by one; to `outside` where the view has no more of them.
void KernelLowering::storeColumns(StoreOp op, int64_t colDim, bool dense,
                                  int64_t begin, Value pointer,
                                  ArrayRef<Value> elements, Block *outside) {
  Value view = op.getView();
  Type element = op.getFrag().getType().getElementType();
  Value size = getSize(view, colDim);
  int64_t known = op.getView().getType().getShape()[colDim];
  int64_t bytes = element.getIntOrFloatBitWidth() / 8;
  Value stride = mul(getStride(view, colDim), bytes);
  // From the second neighbour to the next group of eight columns.
  Value jump = mul(stride, 7);
  if (!dense && begin)
    pointer =
        LLVM::GEPOp::create(b, loc, pointer.getType(), b.getI8Type(), pointer,
                            ArrayRef<LLVM::GEPArg>{mul(stride, begin)});
  for (int64_t col = begin; !elements.empty(); col += 8) {
    auto inside = [&](int64_t next) {
      if (col + 8 <= known)
        return;
      Block *yes = newBlock();
      branchIf(
          compare(arith::CmpIPredicate::slt, add(firstCol, col + next), size),
          yes, outside);
      at(yes);
    };
    inside(0);
    if (dense) {
      storeDense(pointer, col, elements[0], elements[1], element);
    } else {
      pointer = storeStep(pointer, elements[0], element, stride);
      inside(1);
      pointer = storeStep(pointer, elements[1], element, jump);
    }
    elements = elements.drop_front(2);
  }
}

/// A store whose columns lie in one dim of the view, `colDim`: by pairs where
/// `pairs` says so. A streamed fragment comes in groups.
LogicalResult KernelLowering::storeRows(StoreOp op, int64_t colDim,
                                        Value pairs) {
  FragType type = op.getFrag().getType();
  Values symbols;
  for (Value coordinate : op.getCoordinates())
    symbols.push_back(get(coordinate));
  Value rows = op.getRows() ? get(op.getRows()) : Value();
  Value frag = getUnrounded(op.getFrag());
  int64_t end = roundUp(type.getCols(), 8);
  int64_t group = isStreamed(frag) ? 4 * kStreamed : end;
  for (int64_t row : {0, 8}) {
    Access access = getAccess(op.getView(), op.getMap(), symbols, rows,
                              add(firstRow, row), firstCol);
    // The check for the first column is that of the group below.
    access.inBounds = getAccess(op.getView(), op.getMap(), symbols, rows,
                                add(firstRow, row), constant(0))
                          .inBounds;
    Block *store = newBlock(), *done = newBlock();
    branchIf(access.inBounds, store, done);
    at(store);
    Value pointer = elementPointer(op.getView(), access.offset);
    for (int64_t begin = 0; begin < end; begin += group) {
      SmallVector<int64_t> indices;
      for (int64_t col = begin; col < std::min(begin + group, end); col += 8)
        indices.append({accIndex({row, col}), accIndex({row, col + 1})});
      Values elements;
      if (failed(emitElements(frag, indices, elements)))
        return failure();
      Block *dense = newBlock(), *any = newBlock(), *next = newBlock();
      branchIf(pairs, dense, any);
      for (auto [block, isDense] : {std::pair(dense, true), {any, false}}) {
        at(block);
        storeColumns(op, colDim, isDense, begin, pointer, elements, done);
        branch(next);
      }
      at(next);
    }
    branch(done);
    at(done);
  }
  return success();
}

static int64_t evaluateAt(AffineExpr expr, int64_t row, int64_t col) {
  if (auto constant = dyn_cast<AffineConstantExpr>(expr))
    return constant.getValue();
  if (auto dim = dyn_cast<AffineDimExpr>(expr))
    return dim.getPosition() ? col : row;
  auto binary = cast<AffineBinaryOpExpr>(expr);
  int64_t x = evaluateAt(binary.getLHS(), row, col);
  int64_t y = evaluateAt(binary.getRHS(), row, col);
  switch (expr.getKind()) {
  case AffineExprKind::Add:
    return x + y;
  case AffineExprKind::Mul:
    return x * y;
  case AffineExprKind::Mod:
    return llvm::mod(x, y);
  case AffineExprKind::CeilDiv:
    return llvm::divideCeilSigned(x, y);
  default:
    return llvm::divideFloorSigned(x, y);
  }
}

/// How far in each dim of the view a thread's values lie from its first one, if
/// that is the same for all threads whatever the symbols.
ArrayRef<SmallVector<int64_t>> KernelLowering::findSteps(AffineMap map,
                                                         FragType type) {
  auto [found, isNew] = steps.try_emplace({map, Type(type)});
  if (!isNew || type.getLayout() != Layout::Acc)
    return found->second;
  SmallVector<AffineExpr> zeros(map.getNumSymbols(),
                                getAffineConstantExpr(0, map.getContext()));
  AffineMap plain = map.replaceDimsAndSymbols({}, zeros, 2, 0);
  for (auto [expr, rest] : llvm::zip(map.getResults(), plain.getResults()))
    for (unsigned dim : {0, 1})
      if (simplifyAffineExpr(expr - rest, 2, map.getNumSymbols())
              .isFunctionOfDim(dim))
        return found->second;
  std::vector<SmallVector<int64_t>> all;
  for (int64_t thread = 0; thread < 128; ++thread) {
    FragOffset at = {threadRow(thread / 32, thread % 32),
                     threadCol(thread % 32)};
    for (int64_t i = 0; i < type.getCount(); ++i) {
      FragOffset offset = accOffset(i);
      SmallVector<int64_t> deltas;
      for (AffineExpr expr : plain.getResults())
        deltas.push_back(
            evaluateAt(expr, at.row + offset.row, at.col + offset.col) -
            evaluateAt(expr, at.row, at.col));
      if (thread == 0)
        all.push_back(deltas);
      else if (all[i] != deltas)
        return found->second;
    }
  }
  found->second = std::move(all);
  return found->second;
}

/// Whether four values of a thread after each other are neighbours in memory:
/// in the last dim of the view.
bool KernelLowering::isQuads(AffineMap map, FragType type) {
  ArrayRef<SmallVector<int64_t>> deltas = findSteps(map, type);
  for (size_t i = 0; i < deltas.size(); ++i)
    for (size_t dim = 0; dim < deltas[i].size(); ++dim) {
      int64_t next = dim + 1 == deltas[i].size() ? i % 4 : 0;
      if (deltas[i][dim] - deltas[i - i % 4][dim] != next)
        return false;
    }
  return !deltas.empty() && type.getElementType().isF32();
}

/// The bytes from a thread's first value to value `index`.
Value KernelLowering::stepTo(Value view, ArrayRef<int64_t> deltas) {
  Value offset = constant(0, i64);
  for (auto [dim, delta] : llvm::enumerate(deltas))
    if (delta)
      offset = add(offset, mul(getStride(view, dim), 4 * delta));
  return offset;
}

/// Whether all rows of 16 bytes begin at multiples of them.
Value KernelLowering::allowsQuads(Value view) {
  auto type = cast<tile::ViewType>(view.getType());
  Value bits = constant(0, i64);
  for (int64_t dim = 0; dim + 1 < type.getRank(); ++dim)
    bits = arith::OrIOp::create(b, loc, bits, getStride(view, dim));
  Value pointer = getParam(ParamKind::Pointer, argumentNumber(view));
  Value address = LLVM::PtrToIntOp::create(b, loc, i64, pointer);
  bits = arith::OrIOp::create(b, loc, mul(bits, 4), address);
  return andi(equals(andi(bits, constant(15, i64)), 0),
              equals(getStride(view, type.getRank() - 1), 1));
}

/// Stores or adds as many elements at each pointer, at once or, with a `step`
/// in bytes, one by one. One asm for one branch, since products may be in
/// flight.
void KernelLowering::emitQuads(ArrayRef<Value> elements,
                               ArrayRef<Value> pointers, Value step,
                               Value inBounds, bool adds) {
  Values operands = {arith::ExtUIOp::create(b, loc, i32, inBounds)};
  llvm::append_range(operands, pointers);
  llvm::append_range(operands, elements);
  std::string constraints = "r";
  repeat(constraints, "l", pointers.size());
  repeat(constraints, "f", elements.size());
  std::string what = adds ? "red.relaxed.gpu.global.add." : "st.global.";
  std::string text = "{\n.reg .pred p;\n.reg .b64 a;\nsetp.eq.b32 p, $0, 0;\n"
                     "@p bra DONE;\n";
  std::string by = "$" + std::to_string(operands.size());
  if (step) {
    operands.push_back(step);
    constraints += ",l";
  }
  int64_t count = elements.size() / pointers.size();
  int64_t next = 1 + pointers.size();
  for (size_t i = 0; i < pointers.size(); ++i, next += count) {
    std::string to = "$" + std::to_string(1 + i);
    if (!step) {
      text += what + (count == 4 ? "v4.f32 [" : "f32 [") + to + "], " +
              (count == 4 ? "{" + operandList(next, 4) + "}"
                          : operandList(next, 1)) +
              ";\n";
      continue;
    }
    text += "mov.b64 a, " + to + ";\n";
    for (int64_t k = 0; k < count; ++k)
      text += what + "f32 [a], " + operandList(next + k, 1) +
              ";\nadd.s64 a, a, " + by + ";\n";
  }
  assembly(text + "DONE:\n}", constraints, {}, operands);
}

/// Adds what this warp holds to one piece of memory, `groups` times 512 bytes
/// from the pointer of its first lane on. The copy engine does that later. One
/// asm, since products may be in flight.
void KernelLowering::addByCopy(StoreOp op, ArrayRef<Value> elements,
                               Value pointer, Value groups) {
  constexpr int64_t groupBytes = 512;
  int64_t count = elements.size() / 4;
  // The consumers' first warp is warp 4.
  Value from = add(mul(add(warp, -4), count * groupBytes),
                   add(base, scratches.lookup(op.getThrough())));
  Values operands = {lane, from, add(from, mul(lane, 16)), pointer,
                     mul(groups, groupBytes)};
  std::string constraints = "r,r,r,l,r";
  int64_t next = operands.size();
  llvm::append_range(operands, elements);
  repeat(constraints, "f", elements.size());
  // Who started the last copy waits until that has read its piece.
  std::string text = "{\n.reg .pred p;\nsetp.eq.b32 p, $0, 0;\n"
                     "@p cp.async.bulk.wait_group.read 0;\n"
                     "bar.warp.sync 0xffffffff;\n";
  for (int64_t i = 0; i < count; ++i)
    text += "st.shared.v4.f32 [$2+" + std::to_string(i * groupBytes) + "], {" +
            operandList(next + 4 * i, 4) + "};\n";
  text += "fence.proxy.async.shared::cta;\nbar.warp.sync 0xffffffff;\n"
          "setp.gt.and.s32 p, $4, 0, p;\n"
          "@p cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 "
          "[$3], [$1], $4;\n@p cp.async.bulk.commit_group;\n}";
  assembly(text, constraints, {}, operands);
}

/// Of what is prefetched.
static constexpr int64_t kPrefetchBytes = 4;

/// This warp's slot of a scratch.
Value KernelLowering::getPrefetched(Value scratch, Value slot) {
  int64_t bytes = kPrefetchBytes * cast<SmemType>(scratch.getType()).getCols();
  // The consumers' first warp is warp 4.
  Value number = add(mul(add(warp, -4), 2), get(slot));
  return add(mul(number, bytes), add(base, scratches.lookup(scratch)));
}

void KernelLowering::lowerPrefetch(PrefetchOp op) {
  // Computed here: as invariants, addresses would fill registers in the loop.
  llvm::SaveAndRestore keepWarp(warp);
  warp = refreshed(warp);
  Value col = refreshed(lane);
  Values symbols = refreshedAll(op.getCoordinates());
  Value rows = op.getRows() ? get(op.getRows()) : Value();
  Value to = add(getPrefetched(op.getScratch(), op.getSlot()),
                 mul(col, kPrefetchBytes));
  int64_t cols = op.getScratch().getType().getCols();
  for (int64_t first = 0; first < cols; first += 32) {
    Access access = getAccess(op.getView(), op.getMap(), symbols, rows,
                              constant(0), add(col, first));
    Value pointer = elementPointer(op.getView(), access.offset);
    assembly("{\n.reg .b32 s;\nselp.b32 s, 4, 0, $2;\n"
             "cp.async.ca.shared.global [$0+" +
                 std::to_string(first * kPrefetchBytes) + "], [$1], 4, s;\n}",
             "r,l,b", {}, {to, pointer, access.inBounds});
  }
}

/// Values `first` and following of what was prefetched.
Values KernelLowering::fetch(FetchOp op, int64_t first, int64_t count) {
  FragType type = op.getFrag().getType();
  Value from = add(getPrefetched(op.getScratch(), op.getSlot()),
                   mul(firstCol, kPrefetchBytes));
  bool isFloat = type.getElementType().isF32();
  std::string text, constraints;
  repeat(constraints, isFloat ? "=f" : "=r", count);
  constraints += ",r";
  for (int64_t i = 0; i < count; i += 2)
    text += "ld.shared.v2.b32 {" + operandList(i, 2) + "}, [$" +
            std::to_string(count) + "+" +
            std::to_string(offsetOf(type, first + i).col * kPrefetchBytes) +
            "];\n";
  return assembly(text, constraints,
                  SmallVector<Type>(count, type.getElementType()), {from});
}

void KernelLowering::lowerFetch(FetchOp op) {
  if (!isFetchedByUsers(op.getFrag()))
    set(op.getFrag(), fetch(op, 0, op.getFrag().getType().getCount()));
}

/// A store of a fragment whose quads are neighbours in memory. The groups of
/// eight columns lie in the dim before the last.
LogicalResult KernelLowering::storeQuads(StoreOp op) {
  FragType type = op.getFrag().getType();
  Value view = op.getView();
  auto viewType = cast<tile::ViewType>(view.getType());
  int64_t groups = type.getCount() / 4, groupDim = viewType.getRank() - 2;
  auto indices = llvm::to_vector(llvm::seq<int64_t>(0, type.getCount()));
  Values elements;
  if (failed(emitElements(op.getFrag(), indices, elements)))
    return failure();
  // Computed here: as invariants, addresses would fill registers in the loop.
  llvm::SaveAndRestore keepRow(firstRow), keepCol(firstCol);
  firstRow = refreshed(firstRow);
  firstCol = refreshed(firstCol);
  llvm::SaveAndRestore keepLane(lane), keepWarp(warp);
  Values symbols = refreshedAll(op.getCoordinates());
  Access access = getAccess(view, op.getMap(), symbols, {}, firstRow, firstCol);
  Value pointer = elementPointer(view, access.offset);
  Value begin =
      evaluate(op.getMap().getResult(groupDim), firstRow, firstCol, symbols);
  Value left = arith::SubIOp::create(b, loc, getSize(view, groupDim), begin);
  ArrayRef<SmallVector<int64_t>> deltas = findSteps(op.getMap(), type);
  Values pointers;
  for (int64_t i = 0; i < groups; ++i)
    pointers.push_back(LLVM::GEPOp::create(
        b, loc, pointer.getType(), b.getI8Type(), pointer,
        ArrayRef<LLVM::GEPArg>{stepTo(view, deltas[4 * i])}));
  Block *wide = newBlock(), *narrow = newBlock(), *done = newBlock();
  Value isWide = allowsQuads(view);
  if (op.getThrough()) {
    isWide = andi(isWide, equals(getStride(view, groupDim), 128));
    branchSeldom(equals(isWide, 0), narrow, wide, {});
    at(wide);
    lane = refreshed(lane);
    warp = refreshed(warp);
    Value count = arith::MinSIOp::create(b, loc, left, constant(groups));
    addByCopy(
        op, elements, pointer,
        arith::SelectOp::create(b, loc, access.inBounds, count, constant(0)));
  } else {
    // Where not all groups exist, half of them at a time may.
    Value all = compare(arith::CmpIPredicate::sge, left, constant(groups));
    branchSeldom(equals(andi(isWide, all), 0), narrow, wide, {});
    at(wide);
    emitQuads(elements, pointers, Value(), access.inBounds, op.getAdd());
  }
  branch(done);
  at(narrow);
  Value step = mul(getStride(view, viewType.getRank() - 1), 4);
  for (int64_t i = 0; i < groups; ++i)
    emitQuads(ArrayRef(elements).slice(4 * i, 4), pointers[i], step,
              andi(access.inBounds,
                   compare(arith::CmpIPredicate::sgt, left, constant(i))),
              op.getAdd());
  branch(done);
  at(done);
  return success();
}

/// Two neighbours in memory, each 0 where it does not exist; in one read where
/// `wide` says so.
Values KernelLowering::loadPair(Value pointer, Value step, Value wide,
                                Value inBounds) {
  auto flag = [&](Value value) {
    return arith::ExtUIOp::create(b, loc, i32, value);
  };
  return assembly("{\n.reg .pred p, q;\nmov.b32 $0, 0;\nmov.b32 $1, 0;\n"
                  ".reg .b64 a;\nadd.s64 a, $2, $3;\n"
                  "setp.ne.b32 p, $4, 0;\nsetp.ne.and.b32 q, $5, 0, p;\n"
                  "setp.eq.and.b32 p, $5, 0, p;\n"
                  "@q ld.global.v2.f32 {$0, $1}, [$2];\n"
                  "@p ld.global.f32 $0, [$2];\n@p ld.global.f32 $1, [a];\n}",
                  "=&f,=&f,l,l,r,r", {f32, f32},
                  {pointer, step, flag(inBounds), flag(wide)},
                  /*effects=*/false);
}

/// Pairs of a fragment whose quads are neighbours in memory.
LogicalResult KernelLowering::loadQuads(LoadOp op, ArrayRef<int64_t> indices,
                                        Values &results) {
  Value view = op.getView();
  auto viewType = cast<tile::ViewType>(view.getType());
  int64_t groupDim = viewType.getRank() - 2;
  Values symbols;
  for (Value coordinate : op.getCoordinates())
    symbols.push_back(get(coordinate));
  Value rows = op.getRows() ? get(op.getRows()) : Value();
  Access access = getAccess(view, op.getMap(), symbols, {}, firstRow, firstCol);
  Value pointer = elementPointer(view, access.offset);
  Value begin =
      evaluate(op.getMap().getResult(groupDim), firstRow, firstCol, symbols);
  Value left = arith::SubIOp::create(b, loc, getSize(view, groupDim), begin);
  Value step = mul(getStride(view, viewType.getRank() - 1), 4);
  Value wide = allowsQuads(view);
  ArrayRef<SmallVector<int64_t>> deltas =
      findSteps(op.getMap(), op.getFrag().getType());
  for (size_t i = 0; i < indices.size(); i += 2) {
    int64_t index = indices[i];
    Value from = LLVM::GEPOp::create(
        b, loc, pointer.getType(), b.getI8Type(), pointer,
        ArrayRef<LLVM::GEPArg>{stepTo(view, deltas[index])});
    Value inside =
        andi(access.inBounds, compare(arith::CmpIPredicate::sgt, left,
                                      constant(deltas[index][groupDim])));
    if (rows)
      inside = andi(inside, compare(arith::CmpIPredicate::slt,
                                    add(firstRow, accOffset(index).row), rows));
    llvm::append_range(results, loadPair(from, step, wide, inside));
  }
  return success();
}

LogicalResult KernelLowering::storeElements(StoreOp op) {
  FragType type = op.getFrag().getType();
  Values symbols;
  for (Value coordinate : op.getCoordinates())
    symbols.push_back(get(coordinate));
  Value rows = op.getRows() ? get(op.getRows()) : Value();
  for (int64_t i = 0; i < type.getCount(); ++i) {
    FragOffset offset = offsetOf(type, i);
    Value row = getRow(type, offset), col = getCol(type, offset);
    Access access =
        getAccess(op.getView(), op.getMap(), symbols, rows, row, col);
    Value mine = access.inBounds;
    // Threads that hold the same value: one of them writes.
    if (isColumnless(type))
      mine = andi(mine, equals(firstCol, 0));
    if (type.getLayout() == Layout::Col)
      mine = andi(mine, equals(firstRow, 0));
    if (type.getCols() % 8 && !isColumnless(type))
      mine = andi(mine, compare(arith::CmpIPredicate::slt, col,
                                constant(type.getCols())));
    Values value;
    if (failed(emitElements(op.getFrag(), i, value)))
      return failure();
    Value pointer = elementPointer(op.getView(), access.offset);
    if (op.getAdd())
      emitQuads(value, pointer, Value(), mine, true);
    else
      emitStore(value[0], pointer, mine);
  }
  return success();
}

/// Where this lane gives stmatrix a row of the 16 that its warp has of `rows`,
/// which are 64; panels are `panel` bytes apart. Squares of 8 x 8 lie in the
/// layout of accumulators: lanes from 16 on have the eight columns to the
/// right.
KernelLowering::Squares KernelLowering::getSquares(Value rows, int64_t panel) {
  Value right = arith::ShRUIOp::create(b, loc, lane, constant(4));
  Value key = arith::XOrIOp::create(b, loc, right, andi(lane, constant(7)));
  return {add(rows, mul(andi(lane, constant(15)), kPanelBytes)), mul(key, 16),
          panel};
}

/// Up to four squares: columns `col` and the next of 16 rows.
void KernelLowering::storeSquares(const Squares &squares, int64_t col,
                                  ArrayRef<Value> words) {
  int64_t chunk = col % kPanelColumns / 8;
  Value address =
      add(add(squares.rows,
              arith::XOrIOp::create(b, loc, squares.key, constant(16 * chunk))),
          col / kPanelColumns * squares.panel);
  Values operands = {address};
  llvm::append_range(operands, words);
  std::string constraints = "r";
  repeat(constraints, "r", words.size());
  assembly("stmatrix.sync.aligned.m8n8.x" + std::to_string(words.size()) +
               ".shared.b16 [$0], {" + operandList(1, words.size()) + "};",
           constraints, {}, operands);
}

/// Each warp writes its 16 rows and arrives.
void KernelLowering::lowerPut(PutOp op) {
  const RingInfo &ring = rings.find(op.getRing())->second;
  // In loops, addresses as invariants would fill registers.
  llvm::SaveAndRestore keepLane(lane), keepWarp(warp);
  lane = refreshed(lane);
  warp = refreshed(warp);
  Value stage = splitCursor(ring, op.getCursor()).first;
  Value slot = add(add(base, mul(stage, ring.slot)), ring.base);
  Value row = add(mul(get(op.getIndex()), kWgmmaRows),
                  mul(andi(warp, constant(3)), 16));
  Squares squares = getSquares(add(slot, mul(row, kPanelBytes)),
                               ring.type.getRows() * kPanelBytes);
  ArrayRef<Value> words = getAll(op.getFrag());
  for (int64_t col = 0; !words.empty(); col += kWgmmaK) {
    storeSquares(squares, col, words.take_front(4));
    words = words.drop_front(4);
  }
  // wgmma reads through another proxy.
  assembly("fence.proxy.async.shared::cta;", "", {}, {});
  intrinsic("llvm.nvvm.bar.warp.sync", {}, {constant(-1)});
  arriveOnce(barrier(ring, ring.full, stage));
}

/// Writes what this thread holds of 16 rows and all columns to `rows` of shared
/// memory, panel after panel, swizzled.
LogicalResult KernelLowering::stage(StoreOp op, Value rows, int64_t panel) {
  Type element = op.getFrag().getType().getElementType();
  Value frag = getUnrounded(op.getFrag());
  Squares squares = getSquares(rows, panel);
  int64_t end = roundUp(op.getFrag().getType().getCols(), 8);
  for (int64_t col = 0; col < end; col += 16) {
    int64_t count = std::min<int64_t>(end - col, 16) / 4;
    SmallVector<int64_t> indices;
    for (int64_t k = 0; k < 2 * count; ++k)
      indices.push_back(accIndex({0, col}) + k);
    Values elements, words;
    if (failed(emitElements(frag, indices, elements)))
      return failure();
    for (int64_t k = 0; k < 2 * count; k += 2) {
      Value pair = joinPair(elements[k], elements[k + 1], element);
      words.push_back(LLVM::BitcastOp::create(b, loc, i32, pair));
    }
    storeSquares(squares, col, words);
  }
  return success();
}

/// Whether rows end inside a chunk of 16 bytes, so that in a dense tensor they
/// begin inside one too.
static bool isPartial(FragType type) { return type.getCols() % kChunk; }

/// The rows of this warp, staged before, to global memory: 16 bytes a thread,
/// and eight threads for the 128 bytes of a row of a panel.
void KernelLowering::unstage(StoreOp op, int64_t colDim, Value rows,
                             int64_t panel) {
  FragType type = op.getFrag().getType();
  // Once an item: registers that the loop over keys needs more.
  llvm::SaveAndRestore keepLane(lane), keepWarp(warp);
  lane = refreshed(lane);
  warp = refreshed(warp);
  Value symbolRows = op.getRows() ? get(op.getRows()) : Value();
  Values symbols = refreshedAll(op.getCoordinates());
  Value inRow = andi(lane, constant(7));
  Value firstOfFour = arith::ShRUIOp::create(b, loc, lane, constant(3));
  Value col = mul(inRow, 8);
  Value key = arith::XOrIOp::create(b, loc, inRow, firstOfFour);
  Value end = arith::MinSIOp::create(b, loc, getSize(op.getView(), colDim),
                                     constant(type.getCols()));
  Value warpRow = mul(andi(warp, constant(3)), 16);
  Values from, inBounds, pointers;
  for (int64_t row = 0; row < 16; row += 4) {
    Value mine = add(firstOfFour, row);
    Access access = getAccess(op.getView(), op.getMap(), symbols, symbolRows,
                              add(warpRow, mine), col);
    // The columns have a check of their own.
    inBounds.push_back(getAccess(op.getView(), op.getMap(), symbols, symbolRows,
                                 add(warpRow, mine), constant(0))
                           .inBounds);
    pointers.push_back(elementPointer(op.getView(), access.offset));
    Value chunk = arith::XOrIOp::create(b, loc, key, constant(row & 7));
    from.push_back(add(rows, add(mul(mine, kPanelBytes), mul(chunk, 16))));
  }
  for (int64_t p = 0; p < panelCount(type.getCols()); ++p) {
    SmallVector<Values> chunks;
    for (Value address : from)
      chunks.push_back(assembly("ld.shared.v4.b32 {$0, $1, $2, $3}, [$4];",
                                "=r,=r,=r,=r,r", {i32, i32, i32, i32},
                                {add(address, p * panel)}));
    Value inside =
        compare(arith::CmpIPredicate::slt, add(col, p * kPanelColumns), end);
    for (auto [chunk, pointer, row] : llvm::zip(chunks, pointers, inBounds)) {
      Values operands = {LLVM::GEPOp::create(
          b, loc, pointer.getType(), type.getElementType(), pointer,
          ArrayRef<LLVM::GEPArg>{static_cast<int32_t>(p * kPanelColumns)})};
      operands.push_back(
          arith::ExtUIOp::create(b, loc, i32, andi(row, inside)));
      llvm::append_range(operands, chunk);
      assembly("{\n.reg .pred p;\nsetp.ne.b32 p, $1, 0;\n"
               "@p st.global.v4.b32 [$0], {$2, $3, $4, $5};\n}",
               "l,r,r,r,r,r", {}, operands);
    }
  }
}

/// Every 32nd word of a staged row, of which this lane's in a panel begins at
/// byte `low`: -2 is half a word that the panel before has.
Values KernelLowering::loadWords(Value rows, Value row, Value low,
                                 int64_t panels, int64_t panel) {
  Value flips = mul(andi(row, constant(7)), 16);
  Value from = add(rows, mul(row, kPanelBytes));
  auto place = [&](Value inner) {
    inner = andi(inner, constant(kPanelBytes - 1));
    return add(from, Value(arith::XOrIOp::create(b, loc, inner, flips)));
  };
  Value isBefore = compare(arith::CmpIPredicate::slt, low, constant(0));
  Value lowAt = place(low), highAt = place(add(low, 2));
  Value before =
      arith::SelectOp::create(b, loc, isBefore, add(lowAt, -panel), lowAt);
  Values words;
  for (int64_t p = 0; p < panels; ++p) {
    std::string at = "+" + std::to_string(p * panel) + "];\n";
    words.push_back(assembly("{\n.reg .b16 l, h;\nld.shared.b16 l, [$1" + at +
                                 "ld.shared.b16 h, [$2" + at +
                                 "mov.b32 $0, {l, h};\n}",
                             "=r,r,r", i32, {p ? before : lowAt, highAt})[0]);
  }
  return words;
}

/// Where the 16 rows of this warp go, with a lane and a warp of their own.
KernelLowering::OwnRows KernelLowering::findOwnRows(StoreOp op,
                                                    int64_t colDim) {
  OwnRows own;
  lane = refreshed(lane);
  warp = refreshed(warp);
  own.symbolRows = op.getRows() ? get(op.getRows()) : Value();
  own.symbols = refreshedAll(op.getCoordinates());
  own.end = arith::MinSIOp::create(b, loc, getSize(op.getView(), colDim),
                                   constant(op.getFrag().getType().getCols()));
  own.first = mul(andi(warp, constant(3)), 16);
  return own;
}

/// What follows is done for each of them.
void KernelLowering::beginOwnRow(StoreOp op, OwnRows &own) {
  own.loop = newBlock(i32);
  own.done = newBlock();
  branch(own.loop, constant(0));
  at(own.loop);
  own.row = own.loop->getArgument(0);
  own.access = getAccess(op.getView(), op.getMap(), own.symbols, own.symbolRows,
                         add(own.first, own.row), constant(0));
  own.address = LLVM::PtrToIntOp::create(
      b, loc, i64, elementPointer(op.getView(), own.access.offset));
}

void KernelLowering::endOwnRow(const OwnRows &own) {
  Value next = add(own.row, 1);
  branchAgain(compare(arith::CmpIPredicate::slt, next, constant(16)), own.loop,
              next, own.done);
  at(own.done);
}

/// As `unstage` where rows begin at any element: a row at a time, a word a
/// lane.
void KernelLowering::unstageWords(StoreOp op, int64_t colDim, Value rows,
                                  int64_t panel) {
  int64_t cols = op.getFrag().getType().getCols();
  llvm::SaveAndRestore keepLane(lane), keepWarp(warp);
  OwnRows own = findOwnRows(op, colDim);
  beginOwnRow(op, own);
  // Of an odd row, the first word is half another's.
  Value odd = isOdd(own.address);
  Value low = arith::SubIOp::create(b, loc, mul(lane, 4), odd);
  Values words = loadWords(rows, own.row, low, panelCount(cols), panel);
  Value to = add(andi(own.address, constant(-4, i64)),
                 Value(arith::ExtUIOp::create(b, loc, i64, mul(lane, 4))));
  storeWords(to, words, arith::ShRSIOp::create(b, loc, low, constant(1)),
             own.end, own.access.inBounds);
  endOwnRow(own);
}

/// Every 32nd word of a row from `address` on, which has the elements `first`
/// and the next: those of them that are in [0, `end`).
void KernelLowering::storeWords(Value address, ArrayRef<Value> words,
                                Value first, Value end, Value inBounds) {
  for (int64_t p = 0, panels = words.size(); p < panels; ++p) {
    auto inside = [&](int64_t k) -> Value {
      Value col = add(first, p * kPanelColumns + k);
      Value below = compare(arith::CmpIPredicate::ult, col, end);
      return arith::ExtUIOp::create(b, loc, i32, andi(inBounds, below));
    };
    std::string at = std::to_string(p * kPanelBytes);
    std::string last = std::to_string(p * kPanelBytes + 2);
    assembly("{\n.reg .pred l, h, both, one;\n.reg .b16 x, y;\n"
             "setp.ne.b32 l, $2, 0;\nsetp.ne.b32 h, $3, 0;\n"
             "and.pred both, l, h;\nxor.pred one, l, h;\n"
             "and.pred l, l, one;\nand.pred h, h, one;\n"
             "mov.b32 {x, y}, $1;\n@both st.global.b32 [$0+" +
                 at + "], $1;\n@l st.global.b16 [$0+" + at +
                 "], x;\n@h st.global.b16 [$0+" + last + "], y;\n}",
             "l,r,r,r", {}, {address, words[p], inside(0), inside(1)});
  }
}

/// As `unstage` for any view: a row at a time, two neighbours a lane, as a word
/// where `pairs` says so. A loop, since it is seldom needed.
void KernelLowering::unstageElements(StoreOp op, int64_t colDim, Value rows,
                                     int64_t panel, Value pairs) {
  int64_t cols = op.getFrag().getType().getCols();
  llvm::SaveAndRestore keepLane(lane), keepWarp(warp);
  OwnRows own = findOwnRows(op, colDim);
  Value first = mul(lane, 2);
  Value step = mul(getStride(op.getView(), colDim), 2);
  Value all = arith::ExtUIOp::create(b, loc, i32, pairs);
  beginOwnRow(op, own);
  Value inner = arith::XOrIOp::create(b, loc, mul(lane, 4),
                                      mul(andi(own.row, constant(7)), 16));
  Value from = add(add(rows, mul(own.row, kPanelBytes)), inner);
  for (int64_t p = 0; p < panelCount(cols); ++p) {
    Value col = add(first, p * kPanelColumns);
    Value to = add(own.address, mul(extend(col), step));
    Value left = arith::SelectOp::create(
        b, loc, own.access.inBounds,
        arith::SubIOp::create(b, loc, own.end, col), constant(0));
    assembly("{\n.reg .pred l, h, both;\n.reg .b32 w;\n.reg .b16 x, y;\n"
             ".reg .b64 t;\nld.shared.b32 w, [$0+" +
                 std::to_string(p * panel) +
                 "];\nadd.s64 t, $1, $2;\nsetp.gt.s32 l, $3, 0;\n"
                 "setp.gt.s32 h, $3, 1;\nsetp.ne.and.b32 both, $4, 0, h;\n"
                 "mov.b32 {x, y}, w;\n@both st.global.b32 [$1], w;\n"
                 "@both bra DONE;\n@l st.global.b16 [$1], x;\n"
                 "@h st.global.b16 [t], y;\nDONE:\n}",
             "r,l,l,r,r", {}, {from, to, step, left, all});
  }
  endOwnRow(own);
}

/// Each warp exchanges the elements of its own 16 rows. `wide` says whether
/// they can be stored in the widest way, else whether `pairs` can.
LogicalResult KernelLowering::storeThrough(StoreOp op, int64_t colDim,
                                           Value wide, Value pairs) {
  auto slot = op.getThrough().getDefiningOp<RowsOp>().getSlot();
  int64_t panel = slot.getType().getRows() * kPanelBytes;
  Value rows =
      add(get(op.getThrough()), mul(andi(warp, constant(3)), 16 * kPanelBytes));
  // Every warp's products have read the slot.
  intrinsic("llvm.nvvm.barrier.cta.sync.aligned.count", {},
            {add(groupNumber, kFirstGroupBarrier), constant(128)});
  if (failed(stage(op, rows, panel)))
    return failure();
  intrinsic("llvm.nvvm.bar.warp.sync", {}, {constant(-1)});
  Block *fast = newBlock(), *any = newBlock(), *done = newBlock();
  branchIf(wide, fast, any);
  at(fast);
  if (isPartial(op.getFrag().getType()))
    unstageWords(op, colDim, rows, panel);
  else
    unstage(op, colDim, rows, panel);
  branch(done);
  at(any);
  unstageElements(op, colDim, rows, panel, pairs);
  branch(done);
  at(done);
  // The next copy into the slot comes through another proxy.
  assembly("fence.proxy.async.shared::cta;", "", {}, {});
  return success();
}

/// How wide stores are is chosen at run time. Through shared memory where the
/// op gives some.
LogicalResult KernelLowering::lowerStore(StoreOp op) {
  FragType type = op.getFrag().getType();
  if (type.getLayout() == Layout::A)
    return op.emitError("stores no packed operands");
  if (!op.getRows() && type.getCols() % 8 == 0 && isQuads(op.getMap(), type))
    return storeQuads(op);
  int64_t colDim = findColumnDim(op.getMap());
  int64_t bits = type.getElementType().getIntOrFloatBitWidth();
  bool simple = colDim >= 0 && type.getLayout() == Layout::Acc && bits >= 16 &&
                !op.getAdd();
  if (!simple)
    return storeElements(op);
  Value steps =
      arith::ExtUIOp::create(b, loc, i64, getSize(op.getView(), colDim));
  for (int64_t dim = 0; dim < op.getView().getType().getRank(); ++dim)
    if (dim != colDim)
      steps = arith::OrIOp::create(b, loc, steps, getStride(op.getView(), dim));
  Value pointer = getParam(ParamKind::Pointer, argumentNumber(op.getView()));
  Value address = LLVM::PtrToIntOp::create(b, loc, i64, pointer);
  Value dense = equals(getStride(op.getView(), colDim), 1);
  // Whether rows begin at multiples of `count` elements.
  auto allows = [&](int64_t count) -> Value {
    Value odd = andi(steps, constant(count - 1, i64));
    Value unaligned = andi(address, constant(count * bits / 8 - 1, i64));
    return andi(equals(arith::OrIOp::create(b, loc, odd, unaligned), 0), dense);
  };
  // What comes in groups would be computed for each way.
  if (!op.getThrough() || isStreamed(getUnrounded(op.getFrag())))
    return storeRows(op, colDim, allows(2));
  return storeThrough(op, colDim, isPartial(type) ? dense : allows(128 / bits),
                      allows(2));
}

//===----------------------------------------------------------------------===//
// One op
//===----------------------------------------------------------------------===//

LogicalResult KernelLowering::lower(Operation *op) {
  MLIRContext *context = b.getContext();
  return TypeSwitch<Operation *, LogicalResult>(op)
      .Case<RingOp, ScratchOp>([&](auto) { return success(); })
      .Case<TensorMapOp>([&](TensorMapOp map) {
        NamedAttrList list;
        list.set("kind", b.getStringAttr("tensor_map"));
        list.set("arg", b.getI64IntegerAttr(argumentNumber(map.getView())));
        list.set("order", b.getI64ArrayAttr(map.getOrder()));
        list.set("box", b.getI64ArrayAttr(map.getBox()));
        list.set("swizzle", b.getStringAttr("128B"));
        recipes.push_back(list.getDictionary(context));
        // Without grid_constant the map would be copied to local memory,
        // where TMA cannot read it.
        auto bytes = LLVM::LLVMArrayType::get(b.getI8Type(), 128);
        paramAttrs.push_back(b.getDictionaryAttr(
            {b.getNamedAttr("llvm.byval", TypeAttr::get(bytes)),
             b.getNamedAttr("llvm.align", b.getI64IntegerAttr(64)),
             b.getNamedAttr("nvvm.grid_constant", b.getUnitAttr())}));
        set(map,
            {entry->addArgument(LLVM::LLVMPointerType::get(context), loc)});
        return success();
      })
      .Case<BlockOp>([&](BlockOp block) {
        set(block, {intrinsic("llvm.nvvm.read.ptx.sreg.ctaid.x", i32, {})});
        return success();
      })
      .Case<RankOp>([&](RankOp rank) {
        // Read where it is needed: it would be kept in a register.
        set(rank, assembly("mov.u32 $0, %cluster_ctarank;", "=r", i32, {}));
        return success();
      })
      .Case<GridOp>([&](GridOp grid) {
        set(grid, {intrinsic("llvm.nvvm.read.ptx.sreg.nctaid.x", i32, {})});
        return success();
      })
      .Case<StartOp>([&](StartOp start) {
        set(start, {constant(0)});
        return success();
      })
      .Case<AcquireOp>(
          [&](AcquireOp acquire) { return lowerAcquire(acquire), success(); })
      .Case<RowsOp>([&](RowsOp rows) {
        set(rows, {add(get(rows.getSlot()),
                       mul(get(rows.getIndex()), kWgmmaRows * kPanelBytes))});
        return success();
      })
      .Case<CommitOp>([&](CommitOp) {
        assembly("wgmma.commit_group.sync.aligned;", "", {}, {});
        return success();
      })
      .Case<SplatOp>([&](SplatOp splat) {
        set(splat, Values(splat.getFrag().getType().getCount(),
                          get(splat.getValue())));
        return success();
      })
      .Case<tile::DimOp>([&](tile::DimOp dim) {
        set(dim, {getSize(dim.getView(), dim.getDim())});
        return success();
      })
      .Case<tile::LoadScalarOp>([&](tile::LoadScalarOp load) {
        Value view = load.getView();
        auto type = cast<tile::ViewType>(view.getType());
        Values symbols;
        for (Value coordinate : load.getCoordinates())
          symbols.push_back(get(coordinate));
        AffineMap map = AffineMap::get(
            2, type.getRank(),
            llvm::map_to_vector(
                llvm::seq<unsigned>(0, type.getRank()),
                [&](unsigned i) { return getAffineSymbolExpr(i, context); }),
            context);
        Access access = getAccess(view, map, symbols, {}, {}, {});
        Type element = type.getElementType();
        Value value = emitLoad(element, elementPointer(view, access.offset),
                               access.inBounds);
        if (isa<FloatType>(element) && !element.isF32())
          value = arith::ExtFOp::create(b, loc, f32, value);
        else if (element.isInteger(1))
          value = arith::ExtUIOp::create(b, loc, i32, value);
        else if (element.isInteger(8))
          value = arith::ExtSIOp::create(b, loc, i32, value);
        set(load, {value});
        return success();
      })
      .Case<scf::ForOp>([&](scf::ForOp loop) { return lowerFor(loop); })
      .Case<scf::IfOp>([&](scf::IfOp choice) { return lowerIf(choice); })
      .Case<NextOp>([&](NextOp next) { return lowerNext(next), success(); })
      .Case<CopyOp>([&](CopyOp copy) { return lowerCopy(copy), success(); })
      .Case<CopyElementsOp>([&](CopyElementsOp copy) {
        return lowerCopyElements(copy), success();
      })
      .Case<AwaitOp>(
          [&](AwaitOp await) { return lowerAwait(await), success(); })
      .Case<ZeroRowsOp>(
          [&](ZeroRowsOp zero) { return lowerZeroRows(zero), success(); })
      .Case<PutOp>([&](PutOp put) { return lowerPut(put), success(); })
      .Case<PrefetchOp>([&](PrefetchOp prefetch) {
        return lowerPrefetch(prefetch), success();
      })
      .Case<PrefetchedOp>([&](PrefetchedOp) {
        assembly("cp.async.wait_all;\nbar.warp.sync 0xffffffff;", "", {}, {});
        return success();
      })
      .Case<FetchOp>(
          [&](FetchOp fetch) { return lowerFetch(fetch), success(); })
      .Case<ColumnsOp>([&](ColumnsOp columns) {
        // Within a panel, the swizzle follows the address.
        SmemType type = columns.getResult().getType();
        int64_t bytes = type.getCols() == kPanelColumns
                            ? type.getRows() * kPanelBytes
                            : type.getCols() * 2;
        set(columns,
            {add(get(columns.getSlot()), mul(get(columns.getIndex()), bytes))});
        return success();
      })
      .Case<ReleaseOp>(
          [&](ReleaseOp release) { return lowerRelease(release), success(); })
      .Case<WgmmaOp>([&](WgmmaOp wgmma) { return lowerWgmma(wgmma); })
      .Case<WaitOp>([&](WaitOp wait) { return lowerWait(wait), success(); })
      .Case<TurnInitOp, TurnWaitOp, TurnPassOp>([&](auto turn) {
        return lowerTurn(turn, turn.getConsumer()), success();
      })
      .Case<PinOp>([&](PinOp pin) { return lowerPin(pin), success(); })
      .Case<StoreOp>([&](StoreOp store) { return lowerStore(store); })
      .Case<LoadOp, MapOp, MaskOp, ConvertOp>(
          [&](auto each) { return lowerElements(each); })
      .Case<SpeculateOp>(
          [&](SpeculateOp guess) { return lowerSpeculate(guess); })
      .Case<ReduceOp>([&](ReduceOp reduce) { return lowerReduce(reduce); })
      .Default([&](Operation *other) { return lowerScalar(other); });
}

//===----------------------------------------------------------------------===//
// Scalars
//===----------------------------------------------------------------------===//

/// An op of the same operands, without flags.
template <typename To> Value plain(OpBuilder &b, Operation *op) {
  return To::create(b, op->getLoc(), op->getResultTypes(), op->getOperands())
      ->getResult(0);
}

template <typename To, typename From>
Value unlessOverflow(OpBuilder &b, From op) {
  bool flags = op.getOverflowFlags() != arith::IntegerOverflowFlags::none;
  return flags ? Value() : plain<To>(b, op);
}

template <typename To, typename From> Value unlessExact(OpBuilder &b, From op) {
  return op.getIsExact() ? Value() : plain<To>(b, op);
}

template <typename To, typename From> Value fast(OpBuilder &b, From op) {
  Operation *made =
      To::create(b, op.getLoc(), op->getResultTypes(), op->getOperands());
  cast<To>(made).setFastmathFlags(
      arith::convertArithFastMathFlagsToLLVM(op.getFastmath()));
  return made->getResult(0);
}

Value convertComparison(OpBuilder &b, Operation *op) {
  if (auto compare = dyn_cast<arith::CmpIOp>(op))
    return LLVM::ICmpOp::create(
        b, op->getLoc(),
        static_cast<LLVM::ICmpPredicate>(compare.getPredicate()),
        compare.getLhs(), compare.getRhs());
  auto compare = cast<arith::CmpFOp>(op);
  auto made = LLVM::FCmpOp::create(
      b, op->getLoc(), static_cast<LLVM::FCmpPredicate>(compare.getPredicate()),
      compare.getLhs(), compare.getRhs());
  made.setFastmathFlags(
      arith::convertArithFastMathFlagsToLLVM(compare.getFastmath()));
  return made;
}

/// What most of a kernel is made of, as the patterns of arith and math have it;
/// null for the rest. A dialect conversion of all takes a tenth of the time
/// that a kernel takes to become PTX.
Value convertCommon(OpBuilder &b, Operation *op) {
  if (!llvm::all_of(op->getResultTypes(), [](Type type) {
        return type.isSignlessInteger() || isa<FloatType>(type);
      }))
    return {};
  return llvm::TypeSwitch<Operation *, Value>(op)
      .Case([&](arith::ConstantOp constant) -> Value {
        return LLVM::ConstantOp::create(b, op->getLoc(), constant.getType(),
                                        constant.getValue());
      })
      .Case([&](arith::AddIOp x) { return unlessOverflow<LLVM::AddOp>(b, x); })
      .Case([&](arith::SubIOp x) { return unlessOverflow<LLVM::SubOp>(b, x); })
      .Case([&](arith::MulIOp x) { return unlessOverflow<LLVM::MulOp>(b, x); })
      .Case([&](arith::ShLIOp x) { return unlessOverflow<LLVM::ShlOp>(b, x); })
      .Case([&](arith::ShRUIOp x) { return unlessExact<LLVM::LShrOp>(b, x); })
      .Case([&](arith::ShRSIOp x) { return unlessExact<LLVM::AShrOp>(b, x); })
      .Case([&](arith::DivUIOp x) { return unlessExact<LLVM::UDivOp>(b, x); })
      .Case([&](arith::DivSIOp x) { return unlessExact<LLVM::SDivOp>(b, x); })
      .Case([&](arith::RemUIOp) { return plain<LLVM::URemOp>(b, op); })
      .Case([&](arith::RemSIOp) { return plain<LLVM::SRemOp>(b, op); })
      .Case([&](arith::AndIOp) { return plain<LLVM::AndOp>(b, op); })
      .Case([&](arith::OrIOp) { return plain<LLVM::OrOp>(b, op); })
      .Case([&](arith::XOrIOp) { return plain<LLVM::XOrOp>(b, op); })
      .Case([&](arith::ExtUIOp) { return plain<LLVM::ZExtOp>(b, op); })
      .Case([&](arith::ExtSIOp) { return plain<LLVM::SExtOp>(b, op); })
      .Case([&](arith::SelectOp) { return plain<LLVM::SelectOp>(b, op); })
      .Case([&](arith::BitcastOp) { return plain<LLVM::BitcastOp>(b, op); })
      .Case([&](arith::MaxSIOp) { return plain<LLVM::SMaxOp>(b, op); })
      .Case([&](arith::MaxUIOp) { return plain<LLVM::UMaxOp>(b, op); })
      .Case([&](arith::MinSIOp) { return plain<LLVM::SMinOp>(b, op); })
      .Case([&](arith::MinUIOp) { return plain<LLVM::UMinOp>(b, op); })
      .Case([&](arith::TruncIOp x) {
        return unlessOverflow<LLVM::TruncOp>(b, x);
      })
      .Case([&](arith::TruncFOp x) {
        bool isPlain = !x.getRoundingmodeAttr() && !x.getFastmathAttr();
        return isPlain ? plain<LLVM::FPTruncOp>(b, op) : Value();
      })
      .Case([&](arith::NegFOp x) { return fast<LLVM::FNegOp>(b, x); })
      .Case<arith::CmpIOp, arith::CmpFOp>(
          [&](auto) { return convertComparison(b, op); })
      .Case([&](arith::AddFOp x) { return fast<LLVM::FAddOp>(b, x); })
      .Case([&](arith::SubFOp x) { return fast<LLVM::FSubOp>(b, x); })
      .Case([&](arith::MulFOp x) { return fast<LLVM::FMulOp>(b, x); })
      .Case([&](arith::DivFOp x) { return fast<LLVM::FDivOp>(b, x); })
      .Case([&](math::Exp2Op x) { return fast<LLVM::Exp2Op>(b, x); })
      .Case([&](math::FmaOp x) { return fast<LLVM::FMAOp>(b, x); })
      .Default([](Operation *) { return Value(); });
}

/// Whether other scalar ops are left.
bool convertCommonScalars(LLVM::LLVMFuncOp func) {
  OpBuilder b(func);
  bool left = false;
  for (Block &block : func.getBody())
    for (Operation &op : llvm::make_early_inc_range(block)) {
      if (isa<LLVM::LLVMDialect>(op.getDialect()))
        continue;
      b.setInsertionPoint(&op);
      if (Value value = convertCommon(b, &op)) {
        op.getResult(0).replaceAllUsesWith(value);
        op.erase();
      } else {
        left = true;
      }
    }
  return left;
}

//===----------------------------------------------------------------------===//
// The pass
//===----------------------------------------------------------------------===//

struct HopperToLLVMPass
    : public attnc::impl::HopperToLLVMBase<HopperToLLVMPass> {
  void runOnOperation() override {
    ModuleOp module = getOperation();
    SmallVector<KernelOp> kernels(module.getOps<KernelOp>());
    if (kernels.empty())
      return;
    declareSharedMemory(module);
    llvm::StringMap<LaunchOrder> orders = findOrders(module);
    for (KernelOp kernel : kernels) {
      LaunchOrder order = orders.lookup(kernel.getSymName());
      if (failed(KernelLowering(kernel, order).run()))
        return signalPassFailure();
      kernel.erase();
      ++numLowered;
    }
    for (auto func : module.getOps<LLVM::LLVMFuncOp>())
      if (failed(convertScalars(func)))
        return signalPassFailure();
  }

  /// Kernels of which several blocks fit on a multiprocessor are short: that
  /// they begin beside the end of the launch before them counts.
  llvm::StringMap<LaunchOrder> findOrders(ModuleOp module) {
    llvm::StringSet<> firsts;
    SmallVector<std::pair<StringRef, StringRef>> neighbours;
    for (auto program : module.getOps<tile::ProgramOp>()) {
      StringRef before;
      for (auto launch : program.getBody().getOps<tile::LaunchOp>()) {
        if (before.empty())
          firsts.insert(launch.getKernel());
        else
          neighbours.emplace_back(before, launch.getKernel());
        before = launch.getKernel();
      }
    }
    llvm::StringMap<LaunchOrder> orders;
    for (auto kernel : module.getOps<KernelOp>())
      orders[kernel.getSymName()].follows =
          kernel.getRoles().getResident() > 1 &&
          !firsts.contains(kernel.getSymName());
    for (auto [before, after] : neighbours)
      if (orders.lookup(after).follows)
        orders[before].leads = true;
    return orders;
  }

  /// All dynamic shared memory; kernels use it one at a time.
  void declareSharedMemory(ModuleOp module) {
    auto b = OpBuilder::atBlockBegin(module.getBody());
    auto type = LLVM::LLVMArrayType::get(b.getI8Type(), 0);
    LLVM::GlobalOp::create(b, module.getLoc(), type, /*isConstant=*/false,
                           LLVM::Linkage::External, kSharedName, Attribute(),
                           kAtomBytes, kSharedSpace);
  }

  LogicalResult convertScalars(LLVM::LLVMFuncOp func) {
    if (!convertCommonScalars(func))
      return success();
    LowerToLLVMOptions options(&getContext());
    options.overrideIndexBitwidth(32);
    LLVMTypeConverter converter(&getContext(), options);
    RewritePatternSet patterns(&getContext());
    arith::populateCeilFloorDivExpandOpsPatterns(patterns);
    arith::populateArithToLLVMConversionPatterns(converter, patterns);
    populateMathToLLVMConversionPatterns(converter, patterns);
    LLVMConversionTarget target(getContext());
    target.addIllegalDialect<arith::ArithDialect, math::MathDialect>();
    return applyPartialConversion(func, target, std::move(patterns));
  }
};

} // namespace
