//===- Formulas.h - What targets make of the elementwise functions --------===//
//
// Columns of the op table. Formulas.cpp says the method of each.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_LIB_OPTABLE_FORMULAS_H
#define ATTNC_LIB_OPTABLE_FORMULAS_H

#include "lib/OpTable/OpTable.h"

namespace attnc::formulas {

mlir::Value div(FormulaBuilder &at, mlir::ValueRange x);
mlir::Value exp(FormulaBuilder &at, mlir::ValueRange x);
mlir::Value exp2(FormulaBuilder &at, mlir::ValueRange x);
mlir::Value expm1(FormulaBuilder &at, mlir::ValueRange x);
mlir::Value log(FormulaBuilder &at, mlir::ValueRange x);
mlir::Value log2(FormulaBuilder &at, mlir::ValueRange x);
mlir::Value log1p(FormulaBuilder &at, mlir::ValueRange x);
mlir::Value tanh(FormulaBuilder &at, mlir::ValueRange x);
mlir::Value logistic(FormulaBuilder &at, mlir::ValueRange x);
mlir::Value sqrt(FormulaBuilder &at, mlir::ValueRange x);
mlir::Value rsqrt(FormulaBuilder &at, mlir::ValueRange x);
mlir::Value pow(FormulaBuilder &at, mlir::ValueRange xy);
mlir::Value erf(FormulaBuilder &at, mlir::ValueRange x);
mlir::Value sin(FormulaBuilder &at, mlir::ValueRange x);
mlir::Value cos(FormulaBuilder &at, mlir::ValueRange x);

/// The checked form of the logistic function.
mlir::Value logisticGuard(FormulaBuilder &at, mlir::Value x);
llvm::SmallVector<mlir::Value> logisticSquare(FormulaBuilder &at,
                                              mlir::ValueRange e);
llvm::SmallVector<mlir::Value> logisticCube(FormulaBuilder &at,
                                            mlir::ValueRange e);
llvm::SmallVector<mlir::Value> logisticOfFour(FormulaBuilder &at,
                                              mlir::ValueRange e);
mlir::Value logisticExact(FormulaBuilder &at, mlir::Value e);

} // namespace attnc::formulas

#endif // ATTNC_LIB_OPTABLE_FORMULAS_H
