//===- Code.h - Short names for what hopper-to-llvm emits -------*- C++ -*-===//
//
// Below the fragments everything is scalars, inline PTX and branches between
// blocks. Code wraps a builder with that vocabulary. Numbers have 32 bits
// unless a type says otherwise.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_PASSES_HOPPERTOLLVM_CODE_H
#define ATTNC_PASSES_HOPPERTOLLVM_CODE_H

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/IR/Builders.h"

namespace attnc::hopper::lowering {

using mlir::Block;
using mlir::StringRef;
using mlir::Type;
using mlir::TypeRange;
using mlir::Value;
using mlir::ValueRange;
using Values = mlir::SmallVector<Value>;

/// Address spaces of NVPTX.
inline constexpr unsigned kGlobalSpace = 1, kSharedSpace = 3, kClusterSpace = 7;

/// `$first,$first+1,...`
std::string operandList(int64_t first, int64_t count);

/// Appends constraints of an asm.
void repeat(std::string &text, StringRef what, int64_t count);

class Code {
protected:
  explicit Code(mlir::Operation *at);

  // Numbers.
  Value constant(int64_t value, Type type = {});
  Value add(Value x, Value y);
  Value add(Value x, int64_t y);
  Value mul(Value x, Value y);
  Value mul(Value x, int64_t y);
  Value andi(Value x, Value y);
  Value compare(mlir::arith::CmpIPredicate predicate, Value x, Value y);
  Value equals(Value x, int64_t y);
  Value extend(Value x);

  // What has no op.
  Value intrinsic(StringRef name, Type result, ValueRange args);
  /// Without effects, an asm may be moved and removed.
  Values assembly(StringRef text, StringRef constraints, TypeRange results,
                  ValueRange operands, bool effects = true);
  Value refreshed(Value value);
  Value sharedPointer(Value address);

  // Control flow.
  Block *newBlock(TypeRange arguments = {});
  /// What follows is in that block. Blocks lie in the order in which they are
  /// filled.
  void at(Block *block);
  void branch(Block *to, ValueRange args = {});
  void branchIf(Value condition, Block *yes, Block *no, ValueRange yesArgs = {},
                ValueRange noArgs = {});
  /// Into a block that is seldom reached; it lies at the end of the function.
  void branchSeldom(Value condition, Block *seldom, Block *often,
                    ValueRange oftenArgs);

  mlir::OpBuilder b;
  mlir::Location loc;
  Type i32, i64, f32;
  mlir::LLVM::LLVMFuncOp func;
  Block *entry = nullptr;
};

} // namespace attnc::hopper::lowering

#endif // ATTNC_PASSES_HOPPERTOLLVM_CODE_H
