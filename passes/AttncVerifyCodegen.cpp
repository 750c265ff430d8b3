//===- AttncVerifyCodegen.cpp - What is known to become machine code ------===//
//
// Behind this pass stands a backend that ends the process where it cannot
// select an instruction, so everything unknown is refused here, by name.
//
//===----------------------------------------------------------------------===//

#include "passes/Passes.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "llvm/IR/Intrinsics.h"

namespace attnc {
#define GEN_PASS_DEF_ATTNCVERIFYCODEGEN
#include "passes/Passes.h.inc"
} // namespace attnc

using namespace mlir;

namespace {

/// Types that live in registers, and vectors and structs of them.
bool hasRegisters(Type type) {
  if (auto vector = dyn_cast<VectorType>(type))
    return vector.getRank() == 1 && vector.getNumElements() <= 4 &&
           hasRegisters(vector.getElementType());
  if (auto record = dyn_cast<LLVM::LLVMStructType>(type))
    return llvm::all_of(record.getBody(), hasRegisters);
  if (auto integer = dyn_cast<IntegerType>(type))
    return llvm::is_contained({1u, 8u, 16u, 32u, 64u}, integer.getWidth());
  return type.isF16() || type.isBF16() || type.isF32() ||
         isa<LLVM::LLVMPointerType>(type);
}

/// Intrinsics of LLVM that become instructions; what is not here would become
/// a call of a library that a GPU does not have.
bool isKnownIntrinsic(StringRef name) {
  static constexpr StringLiteral known[] = {
      "abs",       "bitreverse", "ceil",   "copysign", "ctlz",    "ctpop",
      "cttz",      "fabs",       "floor",  "fma",      "fmuladd", "fshl",
      "fshr",      "maximum",    "maxnum", "minimum",  "minnum",  "rint",
      "nearbyint", "roundeven",  "smax",   "smin",     "trunc",   "umax",
      "umin",      "is.fpclass"};
  return llvm::is_contained(known, name);
}

LogicalResult verifyOp(Operation *op) {
  if (!isa<LLVM::LLVMDialect>(op->getDialect()))
    return op->emitError("is not lowered: no code can be made of this op");
  for (Type type : op->getResultTypes())
    if (!hasRegisters(type))
      return op->emitError() << "no register holds " << type;
  if (auto call = dyn_cast<LLVM::CallIntrinsicOp>(op)) {
    if (llvm::Intrinsic::lookupIntrinsicID(call.getIntrin()) ==
        llvm::Intrinsic::not_intrinsic)
      return op->emitError() << "there is no intrinsic " << call.getIntrin();
    return success();
  }
  StringRef name = op->getName().stripDialect();
  if (name.consume_front("intr.") && !isKnownIntrinsic(name))
    return op->emitError() << "llvm." << name
                           << " has no instruction on a GPU; formulas are "
                              "chosen by tile-select-formula";
  if (isa<LLVM::CallOp, LLVM::InvokeOp, LLVM::AllocaOp, LLVM::FRemOp>(op))
    return op->emitError("a kernel calls nothing and has no stack");
  return success();
}

struct AttncVerifyCodegenPass
    : public attnc::impl::AttncVerifyCodegenBase<AttncVerifyCodegenPass> {
  void runOnOperation() override {
    for (auto function : getOperation().getOps<LLVM::LLVMFuncOp>()) {
      auto result = function.walk([&](Operation *op) {
        bool known = op == function || succeeded(verifyOp(op));
        return known ? WalkResult::advance() : WalkResult::interrupt();
      });
      if (result.wasInterrupted())
        return signalPassFailure();
    }
  }
};

} // namespace
