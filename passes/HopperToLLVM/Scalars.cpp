//===- Scalars.cpp - Scalar arith and math ops become LLVM's --------------===//
//
// Most of a kernel is scalar ops of few kinds, which are converted one by one;
// what is left goes through the upstream patterns.
//
//===----------------------------------------------------------------------===//

#include "passes/HopperToLLVM/KernelLowering.h"

#include "mlir/Conversion/ArithCommon/AttrToLLVMConverter.h"
#include "mlir/Conversion/ArithToLLVM/ArithToLLVM.h"
#include "mlir/Conversion/LLVMCommon/ConversionTarget.h"
#include "mlir/Conversion/LLVMCommon/TypeConverter.h"
#include "mlir/Conversion/MathToLLVM/MathToLLVM.h"
#include "mlir/Dialect/Arith/Transforms/Passes.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::hopper;
using namespace attnc::hopper::lowering;

/// An op of the same operands, without flags.
template <typename To> Value plain(OpBuilder &b, Operation *op) {
  return To::create(b, op->getLoc(), op->getResultTypes(), op->getOperands())
      ->getResult(0);
}

template <typename To, typename From>
Value unlessOverflow(OpBuilder &b, From op) {
  bool flags = op.getOverflowFlags() != arith::IntegerOverflowFlags::none;
  return flags ? Value() : plain<To>(b, op);
}

template <typename To, typename From> Value unlessExact(OpBuilder &b, From op) {
  return op.getIsExact() ? Value() : plain<To>(b, op);
}

template <typename To, typename From> Value fast(OpBuilder &b, From op) {
  Operation *made =
      To::create(b, op.getLoc(), op->getResultTypes(), op->getOperands());
  cast<To>(made).setFastmathFlags(
      arith::convertArithFastMathFlagsToLLVM(op.getFastmath()));
  return made->getResult(0);
}

static Value convertComparison(OpBuilder &b, Operation *op) {
  if (auto compare = dyn_cast<arith::CmpIOp>(op))
    return LLVM::ICmpOp::create(
        b, op->getLoc(),
        static_cast<LLVM::ICmpPredicate>(compare.getPredicate()),
        compare.getLhs(), compare.getRhs());
  auto compare = cast<arith::CmpFOp>(op);
  auto made = LLVM::FCmpOp::create(
      b, op->getLoc(), static_cast<LLVM::FCmpPredicate>(compare.getPredicate()),
      compare.getLhs(), compare.getRhs());
  made.setFastmathFlags(
      arith::convertArithFastMathFlagsToLLVM(compare.getFastmath()));
  return made;
}

/// What most of a kernel is made of, as the patterns of arith and math have it;
/// null for the rest. A dialect conversion of all takes a tenth of the time
/// that a kernel takes to become PTX.
static Value convertCommon(OpBuilder &b, Operation *op) {
  if (!llvm::all_of(op->getResultTypes(), [](Type type) {
        return type.isSignlessInteger() || isa<FloatType>(type);
      }))
    return {};
  return llvm::TypeSwitch<Operation *, Value>(op)
      .Case([&](arith::ConstantOp constant) -> Value {
        return LLVM::ConstantOp::create(b, op->getLoc(), constant.getType(),
                                        constant.getValue());
      })
      .Case([&](arith::AddIOp x) { return unlessOverflow<LLVM::AddOp>(b, x); })
      .Case([&](arith::SubIOp x) { return unlessOverflow<LLVM::SubOp>(b, x); })
      .Case([&](arith::MulIOp x) { return unlessOverflow<LLVM::MulOp>(b, x); })
      .Case([&](arith::ShLIOp x) { return unlessOverflow<LLVM::ShlOp>(b, x); })
      .Case([&](arith::ShRUIOp x) { return unlessExact<LLVM::LShrOp>(b, x); })
      .Case([&](arith::ShRSIOp x) { return unlessExact<LLVM::AShrOp>(b, x); })
      .Case([&](arith::DivUIOp x) { return unlessExact<LLVM::UDivOp>(b, x); })
      .Case([&](arith::DivSIOp x) { return unlessExact<LLVM::SDivOp>(b, x); })
      .Case([&](arith::RemUIOp) { return plain<LLVM::URemOp>(b, op); })
      .Case([&](arith::RemSIOp) { return plain<LLVM::SRemOp>(b, op); })
      .Case([&](arith::AndIOp) { return plain<LLVM::AndOp>(b, op); })
      .Case([&](arith::OrIOp) { return plain<LLVM::OrOp>(b, op); })
      .Case([&](arith::XOrIOp) { return plain<LLVM::XOrOp>(b, op); })
      .Case([&](arith::ExtUIOp) { return plain<LLVM::ZExtOp>(b, op); })
      .Case([&](arith::ExtSIOp) { return plain<LLVM::SExtOp>(b, op); })
      .Case([&](arith::SelectOp) { return plain<LLVM::SelectOp>(b, op); })
      .Case([&](arith::BitcastOp) { return plain<LLVM::BitcastOp>(b, op); })
      .Case([&](arith::MaxSIOp) { return plain<LLVM::SMaxOp>(b, op); })
      .Case([&](arith::MaxUIOp) { return plain<LLVM::UMaxOp>(b, op); })
      .Case([&](arith::MinSIOp) { return plain<LLVM::SMinOp>(b, op); })
      .Case([&](arith::MinUIOp) { return plain<LLVM::UMinOp>(b, op); })
      .Case([&](arith::TruncIOp x) {
        return unlessOverflow<LLVM::TruncOp>(b, x);
      })
      .Case([&](arith::TruncFOp x) {
        bool isPlain = !x.getRoundingmodeAttr() && !x.getFastmathAttr();
        return isPlain ? plain<LLVM::FPTruncOp>(b, op) : Value();
      })
      .Case([&](arith::NegFOp x) { return fast<LLVM::FNegOp>(b, x); })
      .Case<arith::CmpIOp, arith::CmpFOp>(
          [&](auto) { return convertComparison(b, op); })
      .Case([&](arith::AddFOp x) { return fast<LLVM::FAddOp>(b, x); })
      .Case([&](arith::SubFOp x) { return fast<LLVM::FSubOp>(b, x); })
      .Case([&](arith::MulFOp x) { return fast<LLVM::FMulOp>(b, x); })
      .Case([&](arith::DivFOp x) { return fast<LLVM::FDivOp>(b, x); })
      .Case([&](math::Exp2Op x) { return fast<LLVM::Exp2Op>(b, x); })
      .Case([&](math::FmaOp x) { return fast<LLVM::FMAOp>(b, x); })
      .Default([](Operation *) { return Value(); });
}

/// Whether other scalar ops are left.
static bool convertCommonScalars(LLVM::LLVMFuncOp func) {
  OpBuilder b(func);
  bool left = false;
  for (Block &block : func.getBody())
    for (Operation &op : llvm::make_early_inc_range(block)) {
      if (isa<LLVM::LLVMDialect>(op.getDialect()))
        continue;
      b.setInsertionPoint(&op);
      if (Value value = convertCommon(b, &op)) {
        op.getResult(0).replaceAllUsesWith(value);
        op.erase();
      } else {
        left = true;
      }
    }
  return left;
}

LogicalResult lowering::convertScalars(LLVM::LLVMFuncOp func) {
  if (!convertCommonScalars(func))
    return success();
  MLIRContext *context = func.getContext();
  LowerToLLVMOptions options(context);
  options.overrideIndexBitwidth(32);
  LLVMTypeConverter converter(context, options);
  RewritePatternSet patterns(context);
  arith::populateCeilFloorDivExpandOpsPatterns(patterns);
  arith::populateArithToLLVMConversionPatterns(converter, patterns);
  populateMathToLLVMConversionPatterns(converter, patterns);
  LLVMConversionTarget target(*context);
  target.addIllegalDialect<arith::ArithDialect, math::MathDialect>();
  return applyPartialConversion(func, target, std::move(patterns));
}
