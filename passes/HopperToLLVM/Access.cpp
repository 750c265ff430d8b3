//===- Access.cpp - Single elements of global memory ----------------------===//
//
// Where an element of a view is and whether it exists, and reads and writes
// under that predicate, without a branch.
//
//===----------------------------------------------------------------------===//

#include "passes/HopperToLLVM/KernelLowering.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::hopper;
using namespace attnc::hopper::lowering;

/// The dim of a view that is the column, if no other depends on it; else -1.
int64_t lowering::findColumnDim(AffineMap map) {
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

/// The same number for all threads, as a region sees it.
void KernelLowering::lowerLoadScalar(tile::LoadScalarOp op) {
  Value view = op.getView();
  auto type = cast<tile::ViewType>(view.getType());
  MLIRContext *context = b.getContext();
  Values symbols;
  for (Value coordinate : op.getCoordinates())
    symbols.push_back(get(coordinate));
  AffineMap map = AffineMap::get(
      2, type.getRank(),
      llvm::map_to_vector(
          llvm::seq<unsigned>(0, type.getRank()),
          [&](unsigned i) { return getAffineSymbolExpr(i, context); }),
      context);
  Access access = getAccess(view, map, symbols, {}, {}, {});
  Type element = type.getElementType();
  Value value =
      emitLoad(element, elementPointer(view, access.offset), access.inBounds);
  if (isa<FloatType>(element) && !element.isF32())
    value = arith::ExtFOp::create(b, loc, f32, value);
  else if (element.isInteger(1))
    value = arith::ExtUIOp::create(b, loc, i32, value);
  else if (element.isInteger(8))
    value = arith::ExtSIOp::create(b, loc, i32, value);
  set(op, {value});
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
