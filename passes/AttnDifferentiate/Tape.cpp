//===- Tape.cpp - Reverse differentiation of regions ----------------------===//
//
// Regions are copied op by op; then the copies are walked through backwards,
// and each op hands its gradient on to its operands.
//
//===----------------------------------------------------------------------===//

#include "passes/AttnDifferentiate/Tape.h"

#include "lib/OpTable/OpTable.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/Iterators.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::gradients;

Value gradients::constantF32(OpBuilder &builder, Location loc, float value) {
  return arith::ConstantOp::create(builder, loc,
                                   builder.getF32FloatAttr(value));
}

Value Tape::copy(Region &region, ValueRange arguments) {
  if (region.empty())
    return arguments.front();
  IRMapping mapping = outside;
  mapping.map(region.getArguments(), arguments);
  for (Operation &op : region.front().without_terminator())
    ops.push_back(builder.clone(op, mapping));
  return mapping.lookupOrDefault(region.front().getTerminator()->getOperand(0));
}

void Tape::addGradient(Value value, Value gradient) {
  Value &sum = gradients[value];
  sum = sum ? Value(arith::AddFOp::create(builder, loc, sum, gradient))
            : gradient;
}

/// Values that change with `input`. Where one goes into an op that the op table
/// does not know, there would be a wrong gradient.
LogicalResult Tape::findActive(Value input) {
  active = {input};
  for (Operation *op : ops) {
    if (llvm::none_of(op->getOperands(),
                      [&](Value operand) { return active.contains(operand); }))
      continue;
    const OpTableRow *row = lookupOpTable(op);
    if (!row)
      return op->emitOpError(
          "has no derivative rule in the op table (docs/semantics.md, The op "
          "table): its function cannot be differentiated; use ops of the "
          "table");
    // A comparison has no gradient: the branches have.
    if (row->derive)
      active.insert(op->getResult(0));
  }
  return success();
}

void Tape::reverse(Operation *op) {
  Value result = op->getResult(0);
  Value gradient = gradients.lookup(result);
  if (!gradient || !active.contains(result))
    return;
  FormulaBuilder at{builder, op->getLoc(), FormulaTarget::Cpu};
  SmallVector<Value> parts =
      lookupOpTable(op)->derive(at, op->getOperands(), result, gradient);
  for (auto [operand, part] : llvm::zip_equal(op->getOperands(), parts))
    if (part && active.contains(operand))
      addGradient(operand, part);
}

FailureOr<Value> Tape::differentiate(Value input) {
  if (failed(findActive(input)))
    return failure();
  for (Operation *op : llvm::reverse(ops))
    reverse(op);
  if (Value gradient = gradients.lookup(input))
    return gradient;
  return constantF32(builder, loc, 0);
}

void gradients::eraseDead(Block *block) {
  for (Operation &op : llvm::make_early_inc_range(llvm::reverse(*block)))
    if (isOpTriviallyDead(&op))
      op.erase();
}
