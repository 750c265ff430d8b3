//===- Differentiation.h - One function and its gradients -------*- C++ -*-===//
//
// The forward that a function holds is found and checked, its gradients are
// built behind it from what the forward hands over, and the forward goes.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_PASSES_ATTNDIFFERENTIATE_DIFFERENTIATION_H
#define ATTNC_PASSES_ATTNDIFFERENTIATE_DIFFERENTIATION_H

#include "dialects/attn/Attn.h"
#include "passes/AttnDifferentiate/Tape.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"

namespace attnc::gradients {

using mlir::ArrayRef;
using mlir::FailureOr;
using mlir::LogicalResult;
using mlir::SmallVector;
using mlir::StringRef;
using mlir::Type;

/// A captured operand of the gradients, and the argument of the function that
/// asks for its gradient, if one does.
struct Captured {
  Value value;
  mlir::AffineMap map;
  bool wanted = false;
};

/// A norm of rows, its gradient, and how many elements of the row are the
/// largest, if that matters.
struct Through {
  Value norm, gradient, count;
};

/// (b, h, i) of (b, h, i, d).
mlir::AffineMap getRowsMap(mlir::MLIRContext *context);

/// The type of one f32 for each row of the queries.
mlir::RankedTensorType getStatType(attn::FusedOp op);

/// The part of the gradient of an element x that comes through the norm n of
/// its row of `width`.
Value passThrough(mlir::OpBuilder &builder, mlir::Location loc,
                  attn::RowNorm norm, int64_t width, Value x, Value n,
                  Value gradient, Value count);

class Differentiation {
public:
  explicit Differentiation(mlir::func::FuncOp function)
      : function(function), builder(function.getContext()),
        loc(function.getLoc()) {}

  /// The function becomes that of its gradients. (Results.cpp)
  LogicalResult run();

private:
  // Forward.cpp: what is asked for, and whether it can be had.
  LogicalResult findForward();
  LogicalResult findEpilogue(ValueRange returned);
  LogicalResult readType();
  LogicalResult checkWanted(mlir::BlockArgument argument);
  LogicalResult findWanted();
  LogicalResult checkMap(mlir::Operation *op, unsigned index,
                         mlir::AffineMap map, StringRef last, bool mayDiffer);
  LogicalResult checkNorm(Value value);
  LogicalResult checkCaptures();
  std::string nameOf(Value value);
  bool asksForGradient(Value result);
  bool isSoftmax() { return fused.getNormalize() == attn::Normalize::Softmax; }
  bool isL1() { return fused.getNormalize() == attn::Normalize::L1; }
  bool isWanted(Value value) { return llvm::is_contained(wanted, value); }

  // Attention.cpp.
  void captureScale();
  void gatherCaptures();
  Value addArgument(Type type, const std::string &name);
  LogicalResult normaliseRows();
  SmallVector<Value> captureValues();
  mlir::ArrayAttr captureMaps();
  mlir::Block *openRegion(mlir::Region &region, unsigned floats);
  Value copyLogit(Tape &tape, mlir::Block *block, unsigned floats);
  Value captureArgument(mlir::Block *block, Value value);
  void buildWeight(mlir::Region &region, bool normalised);
  LogicalResult buildGradient(mlir::Region &region, Value of);
  LogicalResult buildBackward();

  // Results.cpp.
  Type gradientType(Value of);
  Type stateGradientType(const Captured &captured, int64_t last);
  Value sumCapture(const Captured &captured, Value partial);
  LogicalResult addResult(Value captured, Value gradient);
  void finish();

  // Norms.cpp.
  bool isNorm(Value value);
  bool isOutputNorm(Value value);
  bool hasNorm(Value operand);
  Value countLargest(attn::RowNormOp norm, Value lengths);
  void addThroughNorms();
  void addThroughNorm(const Through &norm, bool isLast);

  // Epilogues.cpp.
  FailureOr<SmallVector<Captured>> gatherEpilogueCaptures();
  LogicalResult buildEpilogueGradient(mlir::Region &region,
                                      ArrayRef<Captured> captured, Value of,
                                      ArrayRef<Through> through = {});
  LogicalResult addThroughOutputNorms(attn::EpilogueGradientOp first,
                                      ArrayRef<Captured> captured,
                                      ArrayRef<Through> through);
  LogicalResult differentiateEpilogue();

  mlir::func::FuncOp function;
  mlir::OpBuilder builder;
  mlir::Location loc;
  attn::FusedOp fused;
  /// What the function makes of the output at last, or null.
  attn::EpilogueOp epilogue;
  Type elementType;
  SmallVector<mlir::BlockArgument> wanted;
  SmallVector<Captured> captures;
  /// What came before an epilogue, if that or a softmax needs it; the gradient
  /// of the same.
  Value output, doutput;
  /// One value a row: softmax's LSE or l1's inverse norm, and dO . o.
  Value rowNorm, delta;
  /// The gradient of the LSE, if the forward's result asks for one.
  Value dlse;
  mlir::DenseMap<Value, Value> results;
  /// Norms and their gradients.
  SmallVector<std::pair<Value, Value>> norms;
  SmallVector<mlir::DictionaryAttr> argumentAttrs;
};

} // namespace attnc::gradients

#endif // ATTNC_PASSES_ATTNDIFFERENTIATE_DIFFERENTIATION_H
