//===- Dot.cpp - tile.dot as register-blocked loops -----------------------===//
//
// The rows of the result are vector lanes: one vector of the left operand
// meets one broadcast scalar of the right one. A block of `panels` vectors x
// `cols` columns is held in registers over the whole inner dim. Blocks of the
// same panels follow each other, so that the left panels stay in the first
// cache while the right operand streams.
//
//===----------------------------------------------------------------------===//

#include "passes/TileToCpu/KernelEmitter.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::cpu;

namespace {
struct RegisterBlock {
  int64_t panels, cols;
};

/// A product without its tiles: strides in elements of scratch memory.
struct Product {
  Buffer lhs, rhs, result;
  bool accumulate;
  int64_t lhsPanel, lhsInner, rhsInner, rhsCol;
  int64_t panels, cols, inner;
};
} // namespace

/// Cycles of a block for one step of the inner loop, as multiples of half a
/// multiply-add: those, or the loads that feed them, whichever are more.
static int64_t stepCost(int64_t panels, int64_t cols) {
  int64_t products = panels * cols, loads = panels + cols;
  // Fewer than eight independent sums do not hide the latency.
  return std::max({2 * products, 2 * loads, int64_t(16)}) + 1;
}

/// The block that covers panels x cols at least cost and fits in registers:
/// sums, a column of the left operand and one broadcast.
static RegisterBlock chooseBlock(int64_t panels, int64_t cols,
                                 int64_t registers) {
  RegisterBlock best{1, 1};
  int64_t bestCost = INT64_MAX;
  for (int64_t p = 1; p <= std::min<int64_t>(panels, 4); ++p) {
    for (int64_t c = 1; c <= std::min<int64_t>(cols, 24); ++c) {
      if (p * c + p + 1 > registers)
        break;
      auto covered = [&](int64_t rows) {
        int64_t rest = cols % c;
        return (cols / c) * stepCost(rows, c) +
               (rest ? stepCost(rows, rest) : 0);
      };
      int64_t cost = (panels / p) * covered(p);
      if (panels % p)
        cost += covered(panels % p);
      // Code size: a remainder needs a loop of its own.
      cost += (panels % p ? cols : 0) + (cols % c ? panels : 0);
      if (cost < bestCost) {
        bestCost = cost;
        best = {p, c};
      }
    }
  }
  return best;
}

namespace {
class DotEmitter {
public:
  DotEmitter(const Product &product, int64_t lanes,
             llvm::function_ref<Value(Code &, const Buffer &, Value)> address)
      : product(product), lanes(lanes), address(address) {}

  void emit(Code &code, RegisterBlock block);

private:
  void emitColumns(Code &code, Value panel, RegisterBlock block);
  void emitBlock(Code &code, Value panel, Value col, RegisterBlock block);
  Value resultAt(Code &code, Value panel, Value col, int64_t p, int64_t c);

  const Product &product;
  int64_t lanes;
  llvm::function_ref<Value(Code &, const Buffer &, Value)> address;
};
} // namespace

void DotEmitter::emit(Code &code, RegisterBlock block) {
  int64_t whole = product.panels / block.panels * block.panels;
  code.loop(code.i64(0), code.i64(whole), block.panels,
            [&](Code &c, Value panel) { emitColumns(c, panel, block); });
  if (int64_t rest = product.panels - whole)
    emitColumns(code, code.i64(whole), {rest, block.cols});
}

void DotEmitter::emitColumns(Code &code, Value panel, RegisterBlock block) {
  int64_t whole = product.cols / block.cols * block.cols;
  code.loop(code.i64(0), code.i64(whole), block.cols,
            [&](Code &c, Value col) { emitBlock(c, panel, col, block); });
  if (int64_t rest = product.cols - whole)
    emitBlock(code, panel, code.i64(whole), {block.panels, rest});
}

Value DotEmitter::resultAt(Code &code, Value panel, Value col, int64_t p,
                           int64_t c) {
  Value column =
      code.add(code.mul(code.add(panel, p), product.cols), code.add(col, c));
  return address(code, product.result, code.mul(column, lanes));
}

void DotEmitter::emitBlock(Code &code, Value panel, Value col,
                           RegisterBlock block) {
  unsigned align = lanes * 4;
  Type vector = code.vectorOf(code.getF32Type(), lanes);
  Values sums;
  for (int64_t c = 0; c < block.cols; ++c)
    for (int64_t p = 0; p < block.panels; ++p)
      sums.push_back(
          product.accumulate
              ? code.load(vector, resultAt(code, panel, col, p, c), align)
              : code.real(vector, 0));
  sums = code.loop(
      code.i64(0), code.i64(product.inner), 1, sums,
      [&](Code &k, Value index, ValueRange carried) {
        Values left, next;
        for (int64_t p = 0; p < block.panels; ++p) {
          Value at = k.add(k.mul(k.add(panel, p), product.lhsPanel),
                           k.mul(index, product.lhsInner));
          left.push_back(k.load(vector, address(k, product.lhs, at), align));
        }
        for (int64_t c = 0; c < block.cols; ++c) {
          Value at = k.add(k.mul(k.add(col, c), product.rhsCol),
                           k.mul(index, product.rhsInner));
          Value right = k.broadcast(
              vector, k.load(k.getF32Type(), address(k, product.rhs, at), 4));
          // Fused where the processor can, never a library call.
          for (int64_t p = 0; p < block.panels; ++p)
            next.push_back(LLVM::FMulAddOp::create(
                k, right, left[p], carried[c * block.panels + p]));
        }
        return next;
      });
  for (int64_t c = 0; c < block.cols; ++c)
    for (int64_t p = 0; p < block.panels; ++p)
      code.store(sums[c * block.panels + p], resultAt(code, panel, col, p, c),
                 align);
}

LogicalResult KernelEmitter::emitDot(Code &code, tile::DotOp op) {
  if (!isa<FloatType>(op.getLhs().getType().getElementType()) ||
      !isa<FloatType>(op.getRhs().getType().getElementType()))
    return op.emitOpError("on the CPU needs float operands; cast integers "
                          "first");
  bool ta = op.getTransposeA(), tb = op.getTransposeB();
  Product product;
  product.lhs = get(code, op.getLhs(), ta ? Layout::Rows : Layout::Panels);
  product.rhs = get(code, op.getRhs(), Layout::Rows);
  product.accumulate = op.getAcc() != nullptr;
  product.result = op.getAcc()
                       ? consume(code, op.getAcc(), Layout::Panels, op)
                       : allocate(op.getResult().getType(), Layout::Panels);
  int64_t lanes = unit.lanes;
  product.inner = op.getK();
  product.cols = op.getN();
  product.panels = panels(op.getResult().getType());
  product.lhsPanel = ta ? lanes : product.inner * lanes;
  product.lhsInner = ta ? paddedCols(product.lhs.type) : lanes;
  product.rhsInner = tb ? 1 : paddedCols(product.rhs.type);
  product.rhsCol = tb ? paddedCols(product.rhs.type) : 1;

  auto place = [&](Code &c, const Buffer &buffer, Value elements) {
    return address(c, buffer, elements);
  };
  DotEmitter(product, lanes, place)
      .emit(code, chooseBlock(product.panels, product.cols, unit.registers));
  define(op.getResult(), product.result);
  return success();
}
