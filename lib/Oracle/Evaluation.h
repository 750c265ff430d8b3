//===- Evaluation.h - One function of attn ops, evaluated -------*- C++ -*-===//
//
// Shared by the forward (Oracle.cpp) and the gradients (Gradient.cpp) of the
// reference; not for others.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_LIB_ORACLE_EVALUATION_H
#define ATTNC_LIB_ORACLE_EVALUATION_H

#include "dialects/attn/Attn.h"
#include "lib/Oracle/Region.h"

#include <cmath>
#include <limits>

namespace attnc::oracle {

using mlir::AffineMap;
using mlir::ArrayAttr;
using mlir::ArrayRef;
using mlir::Operation;
using mlir::Region;
using mlir::SmallVector;
using mlir::Value;
using mlir::ValueRange;

inline constexpr double kInf = std::numeric_limits<double>::infinity();
inline constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

//===----------------------------------------------------------------------===//
// Tensors
//===----------------------------------------------------------------------===//

Tensor makeTensor(ArrayRef<int64_t> shape, double value);
Tensor readTensor(const ViewArgument &view, mlir::Type elementType);

/// The element at `index`, 0 outside.
double readOrZero(const Tensor &tensor, ArrayRef<int64_t> index);

int64_t evaluateAffine(mlir::AffineExpr expr, ArrayRef<int64_t> dims);

/// A 4-D tensor in the order of its layout, seen as (b, h, s, d).
struct Heads {
  Heads(const Tensor &tensor, attn::Layout layout)
      : data(tensor.data.data()), bshd(layout == attn::Layout::BSHD),
        batch(tensor.shape[0]), heads(tensor.shape[bshd ? 2 : 1]),
        length(tensor.shape[bshd ? 1 : 2]), width(tensor.shape[3]) {}

  const double *row(int64_t b, int64_t h, int64_t s) const {
    int64_t index =
        bshd ? (b * length + s) * heads + h : (b * heads + h) * length + s;
    return data + index * width;
  }

  const double *data;
  bool bshd;
  int64_t batch, heads, length, width;
};

inline llvm::SmallVector<int64_t> shapeOf(attn::Layout layout, int64_t b,
                                          int64_t h, int64_t s, int64_t d) {
  if (layout == attn::Layout::BSHD)
    return {b, s, h, d};
  return {b, h, s, d};
}

//===----------------------------------------------------------------------===//
// Rows
//===----------------------------------------------------------------------===//

/// Where a row of logits or of outputs lies.
struct Position {
  int64_t b, h, i;
};

/// One row of logits or weights: the keys inside the sequence only (S-beyond).
/// A weight is x / divisor.
struct Row {
  int64_t qLen = 0, kLen = 0, keyHead = 0;
  Lanes x;
  std::vector<bool> keep;
  double divisor = 1;

  /// Whether the query is inside its sequence.
  bool exists(Position p) const { return p.i < qLen; }
};

/// 0, 1, ..., count - 1
Lanes countUp(int64_t count);

/// Results that are the same everywhere, spread over `count` lanes.
Lanes spread(Lanes lanes, int64_t count);

template <typename T>
double dot(const double *a, const double *b, int64_t count) {
  T sum = 0;
  for (int64_t i = 0; i < count; ++i)
    sum += T(a[i]) * T(b[i]);
  return sum;
}

/// acc += weight * values
template <typename T>
void accumulate(std::vector<double> &acc, double weight, const double *values) {
  for (size_t d = 0; d < acc.size(); ++d)
    acc[d] = T(T(acc[d]) + T(T(weight) * T(values[d])));
}

//===----------------------------------------------------------------------===//
// The function
//===----------------------------------------------------------------------===//

class Evaluation {
public:
  Evaluation(mlir::func::FuncOp function, const Options &options)
      : function(function), options(options),
        plain(options.precision == Precision::PlainF32) {}

  llvm::Expected<std::vector<Tensor>> run(ArrayRef<Argument> arguments);

protected:
  llvm::Error bind(ArrayRef<Argument> arguments);
  llvm::Error compileRegions();
  llvm::Error evaluate(Operation &op);
  llvm::Error checkLogits(Value value) const;

  void evaluateApply(attn::ApplyOp op);
  void evaluateEpilogue(attn::EpilogueOp op);
  void evaluateLse(attn::LseOp op);
  void evaluateRowNorm(attn::RowNormOp op);
  void evaluateFused(attn::FusedOp op);

  Row getRow(Value logits, Position p) const;
  template <typename Op> Row getScores(Op op, Position p) const;
  void addBias(Row &row, attn::BiasOp op, Position p) const;
  void modify(Row &row, Region &region, ValueRange captures, ArrayAttr maps,
              Position p) const;
  void mask(Row &row, ValueRange masks, Position p) const;
  Lanes getMask(Operation *op, const Row &row, Position p) const;
  void activate(Row &row, Region &region) const;
  double softmax(Row &row) const;
  std::vector<double> apply(const Row &row, Value value,
                            attn::Normalize normalize, attn::Layout layout,
                            Position p) const;
  void finish(std::vector<double> &output, Region &region, ValueRange captures,
              ArrayAttr maps, ArrayAttr stats, Position p) const;
  double getNorm(attn::RowNorm norm, ArrayRef<double> row) const;
  double getStat(attn::RowStat stat, ArrayRef<double> row) const;
  Lanes getCapture(Value value, AffineMap map, Position p, int64_t count) const;

  /// Query row sizes (B, Hq, Sq) that a value of logits has.
  SmallVector<int64_t, 3> getRowShape(Value logits) const;
  int64_t getLength(Value lengths, int64_t b, int64_t all) const;
  int64_t getQueryLength(attn::EpilogueOp op, int64_t b, int64_t all) const;
  void forRows(ArrayRef<int64_t> rowShape, bool all,
               llvm::function_ref<void(Position)> body) const;

  double round(double x) const { return plain ? float(x) : x; }

  mlir::func::FuncOp function;
  Options options;
  bool plain;
  llvm::DenseMap<Value, Tensor> tensors;
  llvm::DenseMap<Value, double> scalars;
  llvm::DenseMap<Region *, RegionProgram> programs;
};

} // namespace attnc::oracle

#endif // ATTNC_LIB_ORACLE_EVALUATION_H
