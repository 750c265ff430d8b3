//===- Elements.cpp - Elementwise ops and reductions of fragments ---------===//
//
// A fragment becomes the scalars that a thread holds of it. Its elements are
// made all at once, or, where that would take too many registers, by the op
// that needs them, in groups: streamed.
//
//===----------------------------------------------------------------------===//

#include "passes/HopperToLLVM/KernelLowering.h"

#include "llvm/Support/SaveAndRestore.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::hopper;
using namespace attnc::hopper::lowering;

//===----------------------------------------------------------------------===//
// Where elements lie
//===----------------------------------------------------------------------===//

/// Whether all lanes of a row hold the same.
bool lowering::isColumnless(FragType type) {
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
// Elements, all at once or in groups
//===----------------------------------------------------------------------===//

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
bool lowering::isStreamed(Value frag) {
  Operation *op = frag.getDefiningOp();
  if (!op || !getStreamable(op) || !frag.hasOneUse() ||
      !op->getBlock()->getOps<WgmmaOp>().empty())
    return false;
  Operation *user = *frag.user_begin();
  if (user->getBlock() != op->getBlock())
    return false;
  if (!isa<StoreOp, ReduceOp>(user) &&
      (!getStreamable(user) || isa<LoadOp>(user)))
    return false;
  // Not past a store: what it writes may be what is loaded.
  for (Operation *next = op; next != user; next = next->getNextNode())
    if (isa<StoreOp>(next))
      return false;
  return true;
}

/// Whether each user fetches what it needs, two columns at a time: all at once
/// would take registers. Others branch, and have it before.
bool lowering::isFetchedByUsers(Value frag) {
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

//===----------------------------------------------------------------------===//
// Reductions
//===----------------------------------------------------------------------===//

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

//===----------------------------------------------------------------------===//
// Conversions
//===----------------------------------------------------------------------===//

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
