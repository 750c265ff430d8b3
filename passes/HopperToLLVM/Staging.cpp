//===- Staging.cpp - Fragments through shared memory ----------------------===//
//
// What a warp holds of its 16 rows is written to shared memory by stmatrix: for
// products of others, or to be stored along rows as wide as the view allows.
//
//===----------------------------------------------------------------------===//

#include "passes/HopperToLLVM/KernelLowering.h"

#include "llvm/Support/SaveAndRestore.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::hopper;
using namespace attnc::hopper::lowering;

//===----------------------------------------------------------------------===//
// To shared memory
//===----------------------------------------------------------------------===//

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

//===----------------------------------------------------------------------===//
// On to global memory
//===----------------------------------------------------------------------===//

/// Whether rows end inside a chunk of 16 bytes, so that in a dense tensor they
/// begin inside one too.
bool lowering::isPartial(FragType type) { return type.getCols() % kChunk; }

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
    std::string text = "{\n.reg .b16 l, h;\nld.shared.b16 l, [$1";
    text += at + "ld.shared.b16 h, [$2" + at + "mov.b32 $0, {l, h};\n}";
    words.push_back(
        assembly(text, "=r,r,r", i32, {p ? before : lowAt, highAt})[0]);
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
    std::string text = "{\n.reg .pred l, h, both, one;\n.reg .b16 x, y;\n"
                       "setp.ne.b32 l, $2, 0;\nsetp.ne.b32 h, $3, 0;\n"
                       "and.pred both, l, h;\nxor.pred one, l, h;\n"
                       "and.pred l, l, one;\nand.pred h, h, one;\n"
                       "mov.b32 {x, y}, $1;\n";
    text += "@both st.global.b32 [$0+" + at + "], $1;\n";
    text += "@l st.global.b16 [$0+" + at + "], x;\n";
    text += "@h st.global.b16 [$0+" + last + "], y;\n}";
    assembly(text, "l,r,r,r", {}, {address, words[p], inside(0), inside(1)});
  }
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
