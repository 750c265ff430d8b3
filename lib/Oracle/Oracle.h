//===- Oracle.h - What attention should have computed -----------*- C++ -*-===//
//
// A slow float64 evaluation of a function of attn ops, straight from
// docs/semantics.md. It shares no code with the passes, the masks' predicates
// or the op table, so that a mistake in one of them cannot hide in the other.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_LIB_ORACLE_ORACLE_H
#define ATTNC_LIB_ORACLE_ORACLE_H

#include "lib/Program/Argument.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "llvm/Support/Error.h"

#include <optional>
#include <vector>

namespace attnc::oracle {

/// A dense row-major tensor of float64.
struct Tensor {
  llvm::SmallVector<int64_t> shape;
  std::vector<double> data;
};

/// Whose errors a result has (docs/semantics.md, Accuracy).
enum class Precision {
  /// float64 throughout.
  Exact,
  /// P is rounded once to V's type, everything else is float64 (S-round).
  Model,
  /// Every operation rounded to f32, exact functions, sequential sums. P is
  /// rounded to V's type.
  PlainF32,
};

struct Options {
  Precision precision = Precision::Exact;
  /// Query rows to evaluate, of every sequence and head; the rows of results
  /// that are left out are NaN. By default all.
  std::optional<std::vector<int64_t>> rows;
  /// 0: as many as the machine has.
  unsigned threads = 0;
};

/// Evaluates `function`, whose body is attn ops, unfused or fused, and scalar
/// arithmetic. There is one argument for each of the function's, a view for a
/// tensor, its sizes and strides in the order of the tensor's dims (not in the
/// logical order of tile programs); the element type is the function's, an i1
/// is a byte. Results are in the order of the tensor's dims too, not rounded.
///
/// Where semantics.md leaves a choice: an element of a captured operand outside
/// its sizes is 0, the LSE of rows at or beyond q_len is -inf, and these rows
/// of an output are 0 even after an epilogue.
llvm::Expected<std::vector<Tensor>> evaluate(mlir::func::FuncOp function,
                                             llvm::ArrayRef<Argument> arguments,
                                             const Options &options = {});

/// The gradients of a function that has the attribute `attn.differentiate`, by
/// dual numbers and sums in float64: no code of the compiler's derivatives.
/// Arguments are those of the program that `attn-differentiate` makes of it;
/// what that is handed of the forward is computed anew. Results are the
/// gradients in its order.
///
/// Model rounds P, dS and a softmax's output once. `options.rows` must not be
/// set.
llvm::Expected<std::vector<Tensor>>
differentiate(mlir::func::FuncOp function, llvm::ArrayRef<Argument> arguments,
              const Options &options = {});

/// `x` rounded to nearest even in a float type; f32, f16 and bf16.
double roundToType(double x, mlir::Type type);

/// |a - b| / |b| over all elements that are not NaN in b; |a - b| if b is 0.
double relativeError(llvm::ArrayRef<double> a, llvm::ArrayRef<double> b);

} // namespace attnc::oracle

#endif // ATTNC_LIB_ORACLE_ORACLE_H
