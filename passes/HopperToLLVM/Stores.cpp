//===- Stores.cpp - How a fragment is stored ------------------------------===//
//
// How wide stores are is chosen at run time, when base and strides are known:
// by elements, by pairs along rows, by quads (Quads.cpp) or through shared
// memory (Staging.cpp).
//
//===----------------------------------------------------------------------===//

#include "passes/HopperToLLVM/KernelLowering.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::hopper;
using namespace attnc::hopper::lowering;

/// What to round to the elements of `frag`, so that each way to store rounds
/// what it needs: rounded values that wait for it would take registers.
Value lowering::getUnrounded(Value frag) {
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
