//===- Copies.cpp - Copies by the threads of the producer -----------------===//
//
// A warp copies whole rows. Where the elements of a row are neighbours, how
// wide they can be read is known when the kernel runs: a base and strides that
// are multiples of 16, 8 or 4 bytes let ordinary asynchronous copies work
// (cp.async: no registers, any number in flight). Where rows begin at odd
// elements, the aligned words within each row are copied that way and moved by
// an element in shared memory. Else it is one by one. No byte outside a row is
// ever read.
//
//===----------------------------------------------------------------------===//

#include "passes/HopperToLLVM/KernelLowering.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::hopper;
using namespace attnc::hopper::lowering;

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

/// How many lanes copy words of one row at once. Rows of one or two panels have
/// half a panel: what is computed for a row serves more copies then, 3 to 10 %
/// at head dim 128. Longer ones have enough, and gain 3 to 10 % from lines that
/// are read at once (benchmarks/journal.md, 51), unless each address takes more
/// than an addition.
int64_t KernelLowering::lanesOfRow(const Part &part) {
  return part.step && panelCount(part.type.getCols()) > 2 ? 32 : 16;
}

/// Asynchronous copies of `bytes` bytes each, which write zeros for what is not
/// to be read: rows outside, and what a product reads beyond the last column.
/// Where `shifted`, these are the words of each row, at the place of the word
/// that has their second half; a word that is partly outside is zeros for now.
void KernelLowering::copyAsync(const Part &part, int64_t bytes, bool shifted) {
  // Lanes have parts of a row, or of 2 or 4 rows that differ in their swizzle.
  int64_t lanes = std::min(kPanelBytes / bytes, lanesOfRow(part));
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
