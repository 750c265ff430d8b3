//===- Tape.h - Reverse differentiation of regions --------------*- C++ -*-===//
//
// Straight-line code only. What an op's derivative is, the op table knows.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_PASSES_ATTNDIFFERENTIATE_TAPE_H
#define ATTNC_PASSES_ATTNDIFFERENTIATE_TAPE_H

#include "mlir/IR/Builders.h"
#include "mlir/IR/IRMapping.h"
#include "llvm/ADT/DenseMap.h"
#include "llvm/ADT/DenseSet.h"

namespace attnc::gradients {

using mlir::Value;
using mlir::ValueRange;

Value constantF32(mlir::OpBuilder &builder, mlir::Location loc, float value);

/// Copies regions into a block and differentiates the copy. All at the end of
/// the block.
class Tape {
public:
  Tape(mlir::Block *block, mlir::Location loc)
      : builder(mlir::OpBuilder::atBlockEnd(block)), loc(loc) {}

  /// Uses of `outer` in the regions become uses of `inside`.
  void replace(Value outer, Value inside) { outside.map(outer, inside); }

  /// The value that a copy of `region` yields; an empty one is the identity.
  Value copy(mlir::Region &region, ValueRange arguments);

  /// Adds to the gradient of a value.
  void addGradient(Value value, Value gradient);

  /// Carries gradients from what was copied to `input`; the gradient of input.
  /// Fails with an error at an op on the way that has no derivative.
  mlir::FailureOr<Value> differentiate(Value input);

  mlir::OpBuilder builder;
  mlir::Location loc;

private:
  mlir::LogicalResult findActive(Value input);
  void reverse(mlir::Operation *op);

  mlir::IRMapping outside;
  mlir::SmallVector<mlir::Operation *> ops;
  mlir::DenseSet<Value> active;
  mlir::DenseMap<Value, Value> gradients;
};

/// What the derivative did not need after all.
void eraseDead(mlir::Block *block);

} // namespace attnc::gradients

#endif // ATTNC_PASSES_ATTNDIFFERENTIATE_TAPE_H
