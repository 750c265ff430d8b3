//===- Derivatives.h - Gradients of the elementwise functions ---*- C++ -*-===//
//
// The derivative column of the op table: OpTableRow::Derive.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_LIB_OPTABLE_DERIVATIVES_H
#define ATTNC_LIB_OPTABLE_DERIVATIVES_H

#include "lib/OpTable/OpTable.h"

namespace attnc::derivatives {

#define ATTNC_DERIVATIVE(name)                                                 \
  llvm::SmallVector<mlir::Value> name(FormulaBuilder &at, mlir::ValueRange x,  \
                                      mlir::Value result,                      \
                                      mlir::Value gradient);
ATTNC_DERIVATIVE(add)
ATTNC_DERIVATIVE(sub)
ATTNC_DERIVATIVE(mul)
ATTNC_DERIVATIVE(div)
ATTNC_DERIVATIVE(neg)
ATTNC_DERIVATIVE(min)
ATTNC_DERIVATIVE(max)
ATTNC_DERIVATIVE(abs)
ATTNC_DERIVATIVE(exp)
ATTNC_DERIVATIVE(exp2)
ATTNC_DERIVATIVE(log)
ATTNC_DERIVATIVE(log2)
ATTNC_DERIVATIVE(log1p)
ATTNC_DERIVATIVE(expm1)
ATTNC_DERIVATIVE(tanh)
ATTNC_DERIVATIVE(logistic)
ATTNC_DERIVATIVE(sqrt)
ATTNC_DERIVATIVE(rsqrt)
ATTNC_DERIVATIVE(pow)
ATTNC_DERIVATIVE(erf)
ATTNC_DERIVATIVE(sin)
ATTNC_DERIVATIVE(cos)
ATTNC_DERIVATIVE(select)
ATTNC_DERIVATIVE(fma)
#undef ATTNC_DERIVATIVE

} // namespace attnc::derivatives

#endif // ATTNC_LIB_OPTABLE_DERIVATIVES_H
