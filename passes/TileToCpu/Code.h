//===- Code.h - Short names for the code that tile-to-cpu emits -*- C++ -*-===//
//
// Everything below the tile level is i64 arithmetic, pointers and one-
// dimensional vectors. Code wraps a builder with exactly that vocabulary;
// constants fold as they are built, so static shapes leave no arithmetic.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_PASSES_TILETOCPU_CODE_H
#define ATTNC_PASSES_TILETOCPU_CODE_H

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"

namespace attnc::cpu {

using mlir::Type;
using mlir::Value;
using mlir::ValueRange;
using Values = mlir::SmallVector<Value>;

class Code : public mlir::ImplicitLocOpBuilder {
public:
  using ImplicitLocOpBuilder::ImplicitLocOpBuilder;

  // Constants.
  Value i64(int64_t value);
  Value i32(int32_t value);
  Value flag(bool value);
  /// Of a scalar or vector type of f32 / an integer.
  Value real(Type type, double value);
  Value integer(Type type, int64_t value);
  Type i64Type() { return getI64Type(); }
  Type vectorOf(Type element, int64_t lanes);
  /// `type` itself, or with its element type replaced.
  Type withElement(Type type, Type element);

  // i64 arithmetic.
  Value add(Value a, Value b);
  Value sub(Value a, Value b);
  Value mul(Value a, Value b);
  Value add(Value a, int64_t b) { return add(a, i64(b)); }
  Value mul(Value a, int64_t b) { return mul(a, i64(b)); }
  Value min(Value a, Value b);
  Value max(Value a, Value b);
  Value floorDiv(Value a, int64_t b);
  Value compare(mlir::arith::CmpIPredicate predicate, Value a, Value b);
  Value both(Value a, Value b);
  Value either(Value a, Value b);
  Value select(Value condition, Value a, Value b);
  Value toI64(Value indexOrInteger);
  Value toIndex(Value i64Value);
  Value toI32(Value i64Value);

  // Memory.
  /// The address of element `index` of an array of `element`.
  Value at(Type element, Value pointer, Value index);
  Value load(Type type, Value pointer, unsigned alignment = 0);
  void store(Value value, Value pointer, unsigned alignment = 0);

  // Vectors.
  Value broadcast(Type vectorType, Value scalar);
  /// 0, 1, ... as i32.
  Value lanesIota(int64_t lanes);

  // Control flow.
  using LoopBody =
      llvm::function_ref<Values(Code &, Value index, ValueRange carried)>;
  Values loop(Value lower, Value upper, int64_t step, ValueRange inits,
              LoopBody body);
  void loop(Value lower, Value upper, int64_t step,
            llvm::function_ref<void(Code &, Value)> body);
  void loop(int64_t count, llvm::function_ref<void(Code &, Value)> body) {
    loop(i64(0), i64(count), 1, body);
  }
  void onlyIf(Value condition, llvm::function_ref<void(Code &)> then);
  Values choose(Value condition, mlir::TypeRange types,
                llvm::function_ref<Values(Code &)> then,
                llvm::function_ref<Values(Code &)> otherwise);
};

} // namespace attnc::cpu

#endif // ATTNC_PASSES_TILETOCPU_CODE_H
