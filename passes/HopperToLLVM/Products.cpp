//===- Products.cpp - Products as wgmma -----------------------------------===//
//
// Rules that keep ptxas from serialising wgmma: one asm for each product with
// its accumulators tied, a wait that ties what it makes readable, and no reads
// in between.
//
//===----------------------------------------------------------------------===//

#include "passes/HopperToLLVM/KernelLowering.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::hopper;
using namespace attnc::hopper::lowering;

/// A descriptor of an operand in shared memory.
Value KernelLowering::describe(Value slot, uint64_t bits) {
  Value low = arith::ShRUIOp::create(b, loc, slot, constant(4));
  // In a cluster, addresses of shared memory have the rank of their block from
  // bit 24 on, which a descriptor has no place for.
  if (kernel.getRoles().getCluster() > 1)
    low = andi(low, constant(kDescriptorAddresses));
  Value wide = arith::ExtUIOp::create(b, loc, i64, low);
  return arith::OrIOp::create(b, loc, wide,
                              constant(static_cast<int64_t>(bits), i64));
}

/// The rows that the panels of an operand have in shared memory.
static int64_t rowsOfPanels(Value operand) {
  auto rows = operand.getDefiningOp<RowsOp>();
  return rows ? rows.getSlot().getType().getRows()
              : cast<SmemType>(operand.getType()).getRows();
}

/// The instructions of all K steps. A descriptor's start address never carries
/// into its high word, so 32-bit additions step it.
static std::string writeSteps(WgmmaOp op, int64_t outs) {
  bool packed = isa<FragType>(op.getLhs().getType());
  bool kMajor = op.getTransposeB(), transposed = op.getTransposeA();
  int64_t lhsRows = packed ? 0 : rowsOfPanels(op.getLhs());
  int64_t rhsRows = op.getRhs().getType().getRows();
  std::string element = op.getOperandElementType().isBF16() ? "bf16" : "f16";
  std::string shape = "wgmma.mma_async.sync.aligned.m64n" +
                      std::to_string(2 * outs) + "k16.f32." + element + "." +
                      element + " {" + operandList(0, outs) + "}, ";
  // Whether operands in shared memory are transposed.
  std::string modes = packed ? "" : transposed ? ", 1" : ", 0";
  modes += kMajor ? ", 0" : ", 1";
  std::string text;
  for (int64_t step = 0; step < roundUp(op.getK(), kWgmmaK) / kWgmmaK; ++step) {
    std::string left = "da";
    if (packed) {
      left = "{" + operandList(outs + 1 + 4 * step, 4) + "}";
    } else {
      int64_t bytes =
          transposed ? mnMajorStep(step) : kMajorStep(lhsRows, step);
      text += "add.u32 x, al, " + std::to_string(bytes >> 4) +
              ";\nmov.b64 da, {x, ah};\n";
    }
    int64_t bytes = kMajor ? kMajorStep(rhsRows, step) : mnMajorStep(step);
    text += "add.u32 x, bl, " + std::to_string(bytes >> 4) +
            ";\nmov.b64 db, {x, bh};\n" + shape + left + ", db, " +
            (op.getAcc() || step ? "1" : "0") + ", 1, 1" + modes + ";\n";
  }
  return text;
}

/// One asm for all K steps. Operands: the right descriptor, then the left one
/// or its registers, then the accumulators tied to the results.
void KernelLowering::lowerWgmma(WgmmaOp op) {
  int64_t outs = roundUp(op.getN(), 8) / 2;
  int64_t rhsRows = op.getRhs().getType().getRows();
  Values operands = {describe(get(op.getRhs()),
                              op.getTransposeB() ? kMajorDescriptor()
                                                 : mnMajorDescriptor(rhsRows))};
  std::string constraints;
  repeat(constraints, "=f", outs);
  constraints += ",l";
  std::string setUp = "{\n.reg .b64 da, db;\n.reg .b32 al, ah, bl, bh, x;\n"
                      "mov.b64 {bl, bh}, $" +
                      std::to_string(outs) + ";\n";
  if (isa<FragType>(op.getLhs().getType())) {
    ArrayRef<Value> registers = getAll(op.getLhs());
    llvm::append_range(operands, registers);
    repeat(constraints, "r", registers.size());
  } else {
    int64_t lhsRows = rowsOfPanels(op.getLhs());
    operands.push_back(describe(get(op.getLhs()),
                                op.getTransposeA() ? mnMajorDescriptor(lhsRows)
                                                   : kMajorDescriptor()));
    constraints += ",l";
    setUp += "mov.b64 {al, ah}, $" + std::to_string(outs + 1) + ";\n";
  }
  if (op.getAcc()) {
    llvm::append_range(operands, getAll(op.getAcc()));
    for (int64_t i = 0; i < outs; ++i)
      constraints += "," + std::to_string(i);
  }
  SmallVector<Type> types(outs, f32);
  set(op.getResult(), assembly(setUp + "wgmma.fence.sync.aligned;\n" +
                                   writeSteps(op, outs) + "}",
                               constraints, types, operands));
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
