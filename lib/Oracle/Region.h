//===- Region.h - An interpreter of elementwise regions ---------*- C++ -*-===//

#ifndef ATTNC_LIB_ORACLE_REGION_H
#define ATTNC_LIB_ORACLE_REGION_H

#include "lib/Oracle/Oracle.h"

#include <functional>

namespace attnc::oracle {

/// A value at every position of a row, or one number if it is the same at all.
/// Integers and booleans are float64 too: i32 is exact in it.
using Lanes = std::vector<double>;

/// One scalar op: its operands' values to its result's.
using ScalarFunction = std::function<double(const double *)>;

/// What `op` computes at `precision`; an error if it is not an op of regions.
llvm::Expected<ScalarFunction> getScalarFunction(mlir::Operation *op,
                                                 Precision precision);

/// The partial derivatives of a scalar op for each operand.
using ScalarPartials = std::function<void(const double *, double *)>;

/// Null where the op is constant almost everywhere.
ScalarPartials getScalarPartials(mlir::Operation *op);

/// Values and their derivatives in one direction.
struct DualLanes {
  Lanes x, t;
};

/// The single block of a region, ready to be run.
class RegionProgram {
public:
  /// `scalars` are the values of the enclosing function.
  static llvm::Expected<RegionProgram>
  compile(mlir::Block &block, Precision precision,
          const llvm::DenseMap<mlir::Value, double> &scalars);

  /// The value that the block yields; `arguments` are the block's.
  Lanes run(std::vector<Lanes> arguments) const;

  /// The same with dual numbers (forward differentiation). `direction` is a
  /// scalar of the enclosing function to differentiate by, or null.
  DualLanes runDual(std::vector<DualLanes> arguments,
                    mlir::Value direction) const;

private:
  struct Step {
    ScalarFunction function;
    ScalarPartials partials;
    llvm::SmallVector<unsigned, 3> operands;
  };
  /// Values are numbered: block arguments, captured scalars, then one a step.
  unsigned numArguments = 0;
  bool plain = false;
  std::vector<double> captured;
  std::vector<mlir::Value> capturedValues;
  std::vector<Step> steps;
  unsigned yielded = 0;
};

} // namespace attnc::oracle

#endif // ATTNC_LIB_ORACLE_REGION_H
