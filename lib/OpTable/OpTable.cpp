//===- OpTable.cpp - The elementwise functions, one row each --------------===//

#include "lib/OpTable/OpTable.h"
#include "lib/OpTable/Derivatives.h"
#include "lib/OpTable/Formulas.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "llvm/ADT/StringMap.h"

#include <cmath>

using namespace mlir;
using namespace attnc;

namespace {

namespace f = attnc::formulas;
namespace d = attnc::derivatives;

constexpr double kUlp = 0x1p-24;

/// The op selects as it is and rounds correctly; `fma` or `alu` of one slot.
constexpr Expansion onFma() { return {nullptr, {}, {0, 1, 0}}; }
constexpr Expansion onAlu() { return {nullptr, {}, {0, 0, 1}}; }
constexpr Expansion exact() { return {}; }

constexpr Expansion makeExpansion(Expansion::Build build, ErrorContract error,
                                  Slots slots = {}) {
  return {build, error, slots};
}

double logistic(const double *x) { return 1 / (1 + std::exp(-x[0])); }

// Errors are of the formula in f32 with exact 2^x and division; a GPU adds
// 2^-22 for each of the two. With |x| <= 32 the argument of 2^x is rounded to
// 2^-19, which is what the relative error of exp is made of.
const OpTableRow kRows[] = {
    {"add", "arith.addf", 2, [](const double *x) { return x[0] + x[1]; },
     exact(), onFma(), d::add},
    {"sub", "arith.subf", 2, [](const double *x) { return x[0] - x[1]; },
     exact(), onFma(), d::sub},
    {"mul", "arith.mulf", 2, [](const double *x) { return x[0] * x[1]; },
     exact(), onFma(), d::mul},
    {"div", "arith.divf", 2, [](const double *x) { return x[0] / x[1]; },
     exact(), makeExpansion(f::div, {2 * kUlp, 0, 1e-30, 1e30}, {1, 1, 0}),
     d::div},
    {"neg", "arith.negf", 1, [](const double *x) { return -x[0]; }, exact(),
     onFma(), d::neg},
    {"min", "arith.minimumf", 2,
     [](const double *x) { return std::fmin(x[0], x[1]); }, exact(), onAlu(),
     d::min, "a tie gives the gradient to the second operand"},
    {"max", "arith.maximumf", 2,
     [](const double *x) { return std::fmax(x[0], x[1]); }, exact(), onAlu(),
     d::max, "a tie gives the gradient to the second operand"},
    {"abs", "math.absf", 1, [](const double *x) { return std::fabs(x[0]); },
     exact(), onAlu(), d::abs, "0 at 0"},
    {"exp", "math.exp", 1, [](const double *x) { return std::exp(x[0]); },
     makeExpansion(f::exp, {3 * kUlp, 0, -86, 88}),
     makeExpansion(f::exp, {40 * kUlp, 0, -32, 32}, {1, 1, 0}), d::exp},
    {"exp2", "math.exp2", 1, [](const double *x) { return std::exp2(x[0]); },
     makeExpansion(f::exp2, {2 * kUlp, 0, -125, 127}),
     makeExpansion(f::exp2, {2 * kUlp, 0, -125, 127}, {1, 0, 0}), d::exp2},
    {"log", "math.log", 1, [](const double *x) { return std::log(x[0]); },
     makeExpansion(f::log, {3 * kUlp, 0, 1e-37, 1e37}),
     makeExpansion(f::log, {3 * kUlp, 0, 1e-37, 1e37}, {0, 18, 12}), d::log,
     "infinite at 0"},
    {"log2", "math.log2", 1, [](const double *x) { return std::log2(x[0]); },
     makeExpansion(f::log2, {4 * kUlp, 0, 1e-37, 1e37}),
     makeExpansion(f::log2, {4 * kUlp, 0, 1e-37, 1e37}, {0, 17, 12}), d::log2,
     "infinite at 0"},
    {"log1p", "math.log1p", 1, [](const double *x) { return std::log1p(x[0]); },
     makeExpansion(f::log1p, {4 * kUlp, 0, -0.9999, 1e37}),
     makeExpansion(f::log1p, {4 * kUlp, 0, -0.9999, 1e37}, {1, 22, 14}),
     d::log1p, "infinite at -1"},
    {"expm1", "math.expm1", 1, [](const double *x) { return std::expm1(x[0]); },
     makeExpansion(f::expm1, {4 * kUlp, 0, -80, 80}),
     makeExpansion(f::expm1, {4 * kUlp, 0, -80, 80}, {0, 13, 6}), d::expm1},
    {"tanh", "math.tanh", 1, [](const double *x) { return std::tanh(x[0]); },
     makeExpansion(f::tanh, {4 * kUlp, 0, -100, 100}),
     makeExpansion(f::tanh, {4 * kUlp, 0, -100, 100}, {2, 11, 6}), d::tanh},
    {"logistic",
     "attn.logistic",
     1,
     logistic,
     makeExpansion(f::logistic, {5 * kUlp, 0, -86, 86}),
     makeExpansion(f::logistic, {40 * kUlp, 0, -32, 80}, {2, 2, 0}),
     d::logistic,
     "",
     // What is left of the series at the limit, and exp's own error. The
     // limits keep A-half: a mean over values does not forgive that all
     // weights near the limit err to the same side.
     {f::logisticGuard,
      f::logisticExact,
      {{0x1p-6f,
        f::logisticSquare,
        {0x1p-12 + 40 * kUlp, 0, -32, -4.16},
        {1, 2, 0.5}},
       {0x1p-4f,
        f::logisticCube,
        {0x1p-12 + 40 * kUlp, 0, -32, -2.78},
        {1, 3, 0.5}},
       // Below 2^30, and short in decimal: IR that is read again keeps it.
       {1e9f,
        f::logisticOfFour,
        {48 * kUlp, 0, -32, 20.72},
        {1.25, 4.75, 0.5},
        4}}}},
    {"sqrt", "math.sqrt", 1, [](const double *x) { return std::sqrt(x[0]); },
     exact(), makeExpansion(f::sqrt, {2 * kUlp, 0, 1e-30, 1e30}, {1, 1, 0}),
     d::sqrt, "infinite at 0"},
    {"rsqrt", "math.rsqrt", 1,
     [](const double *x) { return 1 / std::sqrt(x[0]); },
     makeExpansion(f::rsqrt, {3 * kUlp, 0, 1e-30, 1e30}),
     makeExpansion(f::rsqrt, {3 * kUlp, 0, 1e-30, 1e30}, {1, 0, 0}), d::rsqrt,
     "infinite at 0"},
    // For |y log2 x| <= 100.
    {"pow", "math.powf", 2,
     [](const double *x) { return std::pow(x[0], x[1]); },
     makeExpansion(f::pow, {16 * kUlp, 0, 0.01, 14}),
     makeExpansion(f::pow, {16 * kUlp, 0, 0.01, 14}, {2, 30, 25}), d::pow,
     "for x <= 0 the gradient of y is 0"},
    {"erf", "math.erf", 1, [](const double *x) { return std::erf(x[0]); },
     makeExpansion(f::erf, {4 * kUlp, 0, -10, 10}),
     makeExpansion(f::erf, {4 * kUlp, 0, -10, 10}, {1, 16, 5}), d::erf},
    {"sin", "math.sin", 1, [](const double *x) { return std::sin(x[0]); },
     makeExpansion(f::sin, {0, 4 * kUlp, -1e4, 1e4}),
     makeExpansion(f::sin, {0, 4 * kUlp, -1e4, 1e4}, {0, 14, 6}), d::sin},
    {"cos", "math.cos", 1, [](const double *x) { return std::cos(x[0]); },
     makeExpansion(f::cos, {0, 4 * kUlp, -1e4, 1e4}),
     makeExpansion(f::cos, {0, 4 * kUlp, -1e4, 1e4}, {0, 14, 7}), d::cos},
    {"select", "arith.select", 3,
     [](const double *x) { return x[0] ? x[1] : x[2]; }, exact(), onAlu(),
     d::select, "the branch taken, also where the condition changes"},
    {"compare", "arith.cmpf", 2,
     [](const double *x) -> double { return x[0] < x[1]; }, exact(), onAlu(),
     nullptr, "a comparison has no gradient"},
    {"fma", "math.fma", 3, [](const double *x) { return x[0] * x[1] + x[2]; },
     exact(), onFma(), d::fma},
};

/// A canonical op carries the flag that lets its target take the fast form.
bool isCanonical(Operation *op) {
  auto flags = dyn_cast<arith::ArithFastMathInterface>(op);
  if (!flags)
    return false;
  auto attribute = flags.getFastMathFlagsAttr();
  return attribute &&
         bitEnumContainsAll(attribute.getValue(), arith::FastMathFlags::afn);
}

} // namespace

ArrayRef<OpTableRow> attnc::getOpTable() { return kRows; }

const OpTableRow *attnc::lookupOpTable(StringRef opName) {
  static const llvm::StringMap<const OpTableRow *> byName = [] {
    llvm::StringMap<const OpTableRow *> map;
    for (const OpTableRow &row : kRows)
      map[row.op] = &row;
    return map;
  }();
  return byName.lookup(opName);
}

const OpTableRow *attnc::lookupOpTable(Operation *op) {
  return lookupOpTable(op->getName().getStringRef());
}

bool attnc::needsExpansion(Operation *op, FormulaTarget target) {
  const OpTableRow *row = lookupOpTable(op);
  return row && row->get(target).build && !isCanonical(op) &&
         getElementTypeOrSelf(op->getResult(0)).isF32();
}

bool attnc::expandByOpTable(RewriterBase &rewriter, Operation *op,
                            FormulaTarget target) {
  if (!needsExpansion(op, target))
    return false;
  OpBuilder::InsertionGuard guard(rewriter);
  rewriter.setInsertionPoint(op);
  FormulaBuilder at{rewriter, op->getLoc(), target};
  rewriter.replaceOp(
      op, lookupOpTable(op)->get(target).build(at, op->getOperands()));
  return true;
}
