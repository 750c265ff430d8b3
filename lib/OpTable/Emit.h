//===- Emit.h - Shorthand for writing formulas as IR ------------*- C++ -*-===//

#ifndef ATTNC_LIB_OPTABLE_EMIT_H
#define ATTNC_LIB_OPTABLE_EMIT_H

#include "lib/OpTable/OpTable.h"

namespace attnc {

/// Emits arithmetic on values of one type: f32 or a vector of f32, integers of
/// the same shape. `mulAdd` is a fused multiply-add where the target has one
/// and two roundings elsewhere; nothing else may be contracted.
class Emit {
public:
  Emit(FormulaBuilder &at, mlir::Type type);
  Emit(FormulaBuilder &at, mlir::ValueRange operands)
      : Emit(at, operands[0].getType()) {}

  mlir::Value constant(double value);
  mlir::Value integer(uint32_t value);

  mlir::Value add(mlir::Value a, mlir::Value b);
  mlir::Value sub(mlir::Value a, mlir::Value b);
  mlir::Value mul(mlir::Value a, mlir::Value b);
  mlir::Value mul(mlir::Value a, double b) { return mul(a, constant(b)); }
  mlir::Value neg(mlir::Value a);
  mlir::Value abs(mlir::Value a);
  /// a * b + c
  mlir::Value mulAdd(mlir::Value a, mlir::Value b, mlir::Value c);
  /// Correctly rounded on the CPU, within 2 ulp on a GPU.
  mlir::Value div(mlir::Value a, mlir::Value b);
  mlir::Value sqrt(mlir::Value a);
  /// 2^a with `afn`: one instruction on a GPU.
  mlir::Value exp2(mlir::Value a);
  /// coefficients[0] + coefficients[1] * x + ...
  mlir::Value polynomial(mlir::Value x, llvm::ArrayRef<double> coefficients);

  /// The larger, the smaller; `a` where it is NaN. One instruction on x86.
  mlir::Value atLeast(mlir::Value a, double bound);
  mlir::Value atMost(mlir::Value a, double bound);

  mlir::Value less(mlir::Value a, mlir::Value b);
  mlir::Value equal(mlir::Value a, mlir::Value b);
  mlir::Value greater(mlir::Value a, mlir::Value b);
  mlir::Value select(mlir::Value condition, mlir::Value a, mlir::Value b);

  mlir::Value bits(mlir::Value a);
  mlir::Value fromBits(mlir::Value i);
  mlir::Value addInt(mlir::Value a, mlir::Value b);
  mlir::Value subInt(mlir::Value a, mlir::Value b);
  mlir::Value andInt(mlir::Value a, mlir::Value b);
  mlir::Value orInt(mlir::Value a, mlir::Value b);
  mlir::Value xorInt(mlir::Value a, mlir::Value b);
  mlir::Value shiftLeft(mlir::Value a, unsigned count);
  mlir::Value shiftRight(mlir::Value a, unsigned count);
  mlir::Value isZero(mlir::Value i);
  mlir::Value toFloat(mlir::Value i);
  /// The magnitude of `a` with the sign of `b`.
  mlir::Value copySign(mlir::Value a, mlir::Value b);

private:
  mlir::OpBuilder &builder;
  mlir::Location loc;
  FormulaTarget target;
  mlir::Type type, intType;
};

} // namespace attnc

#endif // ATTNC_LIB_OPTABLE_EMIT_H
