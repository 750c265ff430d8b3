//===- Speculate.cpp - Formulas that are chosen when a kernel runs --------===//
//
// A cheap formula holds for some range of its guards only. A warp votes, slice
// by slice of a fragment, whether all of its guards are in that range.
//
//===----------------------------------------------------------------------===//

#include "passes/HopperToLLVM/KernelLowering.h"

#include "llvm/Support/SaveAndRestore.h"
#include <deque>

using namespace mlir;
using namespace attnc;
using namespace attnc::hopper;
using namespace attnc::hopper::lowering;

/// Slices of a speculation whose guards are begun before a formula is chosen.
static constexpr size_t kSlicesAhead = 2;

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
