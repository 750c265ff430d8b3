//===- Quads.cpp - Fragments whose quads are neighbours in memory ---------===//
//
// Sums of gradients are kept in memory in the order of fragments: what a thread
// holds of eight columns and two rows are 16 bytes. They are loaded, stored and
// added so, or by the copy engine, many at a time.
//
//===----------------------------------------------------------------------===//

#include "passes/HopperToLLVM/KernelLowering.h"

#include "llvm/Support/SaveAndRestore.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::hopper;
using namespace attnc::hopper::lowering;

//===----------------------------------------------------------------------===//
// Where values lie
//===----------------------------------------------------------------------===//

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
  if (!type.getElementType().isF32())
    return false;
  ArrayRef<SmallVector<int64_t>> deltas = findSteps(map, type);
  for (size_t i = 0; i < deltas.size(); ++i)
    for (size_t dim = 0; dim < deltas[i].size(); ++dim) {
      int64_t next = dim + 1 == deltas[i].size() ? i % 4 : 0;
      if (deltas[i][dim] - deltas[i - i % 4][dim] != next)
        return false;
    }
  return !deltas.empty();
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

//===----------------------------------------------------------------------===//
// Stores
//===----------------------------------------------------------------------===//

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

//===----------------------------------------------------------------------===//
// Loads
//===----------------------------------------------------------------------===//

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
