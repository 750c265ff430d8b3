//===- CpuToLLVM.cpp - CPU kernels to the LLVM dialect --------------------===//
//
// One conversion of every function of the module, after scf has become
// branches. The launch plan (tile.program) stays as it is: it is evaluated
// on the host.
//
//===----------------------------------------------------------------------===//

#include "passes/Passes.h"

#include "mlir/Conversion/ArithToLLVM/ArithToLLVM.h"
#include "mlir/Conversion/ControlFlowToLLVM/ControlFlowToLLVM.h"
#include "mlir/Conversion/FuncToLLVM/ConvertFuncToLLVM.h"
#include "mlir/Conversion/LLVMCommon/ConversionTarget.h"
#include "mlir/Conversion/LLVMCommon/TypeConverter.h"
#include "mlir/Conversion/MathToLLVM/MathToLLVM.h"
#include "mlir/Conversion/SCFToControlFlow/SCFToControlFlow.h"
#include "mlir/Conversion/UBToLLVM/UBToLLVM.h"
#include "mlir/Conversion/VectorToLLVM/ConvertVectorToLLVM.h"
#include "mlir/Dialect/Arith/Transforms/Passes.h"
#include "mlir/Dialect/ControlFlow/IR/ControlFlowOps.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Transforms/DialectConversion.h"
#include "mlir/Transforms/WalkPatternRewriteDriver.h"

namespace attnc {
#define GEN_PASS_DEF_CPUTOLLVM
#include "passes/Passes.h.inc"
} // namespace attnc

using namespace mlir;
using namespace attnc;

static LogicalResult lowerControlFlow(func::FuncOp function) {
  MLIRContext *context = function.getContext();
  RewritePatternSet patterns(context);
  populateSCFToControlFlowConversionPatterns(patterns);
  arith::populateCeilFloorDivExpandOpsPatterns(patterns);
  ConversionTarget target(*context);
  target.addIllegalDialect<scf::SCFDialect>();
  target.addIllegalOp<arith::CeilDivSIOp, arith::CeilDivUIOp,
                      arith::FloorDivSIOp>();
  target.markUnknownOpDynamicallyLegal([](Operation *) { return true; });
  return applyPartialConversion(function, target, std::move(patterns));
}

static LogicalResult lowerToLLVM(ArrayRef<Operation *> functions) {
  MLIRContext *context = functions.front()->getContext();
  LowerToLLVMOptions options(context);
  LLVMTypeConverter converter(context, options);
  RewritePatternSet patterns(context);
  populateVectorToLLVMConversionPatterns(converter, patterns);
  populateMathToLLVMConversionPatterns(converter, patterns);
  arith::populateArithToLLVMConversionPatterns(converter, patterns);
  cf::populateControlFlowToLLVMConversionPatterns(converter, patterns);
  ub::populateUBToLLVMConversionPatterns(converter, patterns);
  populateFuncToLLVMConversionPatterns(converter, patterns);
  LLVMConversionTarget target(*context);
  return applyFullConversion(functions, target, std::move(patterns));
}

namespace {
struct CpuToLLVM : attnc::impl::CpuToLLVMBase<CpuToLLVM> {
  using CpuToLLVMBase::CpuToLLVMBase;

  void runOnOperation() override {
    SmallVector<Operation *> functions;
    for (auto function : getOperation().getOps<func::FuncOp>()) {
      if (failed(lowerControlFlow(function)))
        return signalPassFailure();
      functions.push_back(function);
    }
    if (!functions.empty() && failed(lowerToLLVM(functions)))
      return signalPassFailure();
  }
};
} // namespace
