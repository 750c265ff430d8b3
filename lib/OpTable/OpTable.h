//===- OpTable.h - The elementwise functions, one row each ------*- C++ -*-===//
//
// What the compiler knows about each function that a score region may use: its
// name for users, its meaning, what each target makes of it and how well, and
// its derivative. Adding a function is adding a row (docs/semantics.md). No
// code outside lib/OpTable tests for a particular function.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_LIB_OPTABLE_OPTABLE_H
#define ATTNC_LIB_OPTABLE_OPTABLE_H

#include "mlir/IR/PatternMatch.h"

namespace attnc {

enum class FormulaTarget { Cpu, Sm90a };

/// Where a formula puts its ops. Types follow its operands: f32 or vectors of
/// f32, so the same formula serves scalar regions and vectorised code.
struct FormulaBuilder {
  mlir::OpBuilder &builder;
  mlir::Location loc;
  FormulaTarget target;
};

/// The accuracy that a formula promises for arguments inside [lo, hi]:
/// |result - exact| <= relative * |exact| + absolute.
struct ErrorContract {
  double relative = 0, absolute = 0;
  double lo = -1e30, hi = 1e30;
};

/// Issue slots of one element on a GPU. sm_90a retires 16 mufu, 128 fma and 64
/// alu slots a clock and SM.
struct Slots {
  double mufu = 0, fma = 0, alu = 0;
};

/// What a target makes of a function. Without `build` the op stays as it is:
/// it selects, and is exact or correctly rounded.
struct Expansion {
  using Build = mlir::Value (*)(FormulaBuilder &, mlir::ValueRange operands);
  Build build = nullptr;
  ErrorContract error = {};
  Slots slots = {};
};

/// Cheap formulas that are right where a guard is small, and the exact one for
/// elsewhere; they become the regions of `tile.speculate`. The guard is shared
/// between all of them.
struct CheckedForm {
  using Build = mlir::Value (*)(FormulaBuilder &, mlir::Value);
  struct Formula {
    /// It holds where the guard is at most this.
    float limit = 0;
    /// From the guards of `width` elements, their results.
    llvm::SmallVector<mlir::Value> (*build)(FormulaBuilder &,
                                            mlir::ValueRange) = nullptr;
    /// Where it holds.
    ErrorContract error = {};
    /// Of one element.
    Slots slots = {};
    unsigned width = 1;
  };
  /// guard(x), exact(guard).
  Build guard = nullptr, exact = nullptr;
  /// The cheapest first, with rising limits.
  Formula formulas[3] = {};

  llvm::ArrayRef<Formula> getFormulas() const {
    return llvm::ArrayRef(formulas).take_while(
        [](const Formula &formula) { return formula.build != nullptr; });
  }
};

struct OpTableRow {
  /// Its name in the tracer, and the op.
  llvm::StringLiteral name, op;
  unsigned arity;
  /// The function itself.
  double (*oracle)(const double *operands);
  Expansion cpu, sm90a;
  /// The gradients of the operands from the op's operands and result and the
  /// gradient of the result; a null value where there is none. Null if the
  /// function has no derivative anywhere.
  using Derive = llvm::SmallVector<mlir::Value> (*)(FormulaBuilder &,
                                                    mlir::ValueRange operands,
                                                    mlir::Value result,
                                                    mlir::Value gradient);
  Derive derive = nullptr;
  /// What `derive` gives where the derivative does not exist.
  llvm::StringLiteral kinks = "";
  /// By default none.
  CheckedForm checked = {};

  const Expansion &get(FormulaTarget target) const {
    return target == FormulaTarget::Cpu ? cpu : sm90a;
  }
};

/// All rows, in the order of docs/semantics.md.
llvm::ArrayRef<OpTableRow> getOpTable();

/// The row of an op, or null.
const OpTableRow *lookupOpTable(mlir::Operation *op);
const OpTableRow *lookupOpTable(llvm::StringRef opName);

/// Replaces `op` by its target's formula, made of arithmetic that the target
/// selects and of math.exp2 with `afn`, which the CPU target turns into a
/// polynomial. Gives false if there was nothing to do.
bool expandByOpTable(mlir::RewriterBase &rewriter, mlir::Operation *op,
                     FormulaTarget target);

/// Whether an op must be expanded before `target` can select it.
bool needsExpansion(mlir::Operation *op, FormulaTarget target);

} // namespace attnc

#endif // ATTNC_LIB_OPTABLE_OPTABLE_H
