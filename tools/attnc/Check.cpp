//===- Check.cpp - Results against the oracle -----------------------------===//

#include "tools/attnc/Check.h"

#include "dialects/attn/Attn.h"
#include "lib/Oracle/Oracle.h"

#include <cmath>

using namespace attnc;
using namespace llvm;

/// The elements of a result in row-major order.
static std::vector<double> elementsOf(const HostTensor &tensor) {
  std::vector<double> elements(tensor.elements());
  for (int64_t k = 0; k < tensor.elements(); ++k)
    elements[k] = tensor.at(k); // Results are made row-major.
  return elements;
}

/// Query rows to evaluate: all of a short sequence; of a long one the first,
/// the last and some between, so that the oracle takes seconds at most.
static std::optional<std::vector<int64_t>> sampleRows(const Sizes &sizes,
                                                      int64_t &count) {
  auto of = [&](StringRef name) { return sizes.get(name).value_or(1); };
  int64_t queries = of("S");
  double work = double(of("B")) * of("H") * of("Skv") * (of("D") + of("Dv"));
  constexpr double budget = 1e9;
  count = std::clamp<int64_t>(budget / std::max(work, 1.0), 8, 1 << 20);
  if (count >= queries) {
    count = queries;
    return std::nullopt;
  }
  std::vector<int64_t> rows;
  for (int64_t k = 0; k < count; ++k)
    rows.push_back(k * (queries - 1) / (count - 1));
  return rows;
}

namespace {
/// Sums of one result's errors; elements the oracle left out are NaN in all
/// of its tensors. Of them a result says nothing either, unless it is NaN: no
/// arguments that the oracle can follow make that.
struct ErrorSum {
  double squared = 0, norm = 0;
  int64_t mismatches = 0, skipped = 0;

  void add(double value, double exact) {
    if (std::isfinite(exact)) {
      if (!std::isfinite(value)) {
        ++mismatches;
        return;
      }
      squared += (value - exact) * (value - exact);
      norm += exact * exact;
    } else if (std::isnan(exact)) {
      ++(std::isnan(value) ? mismatches : skipped);
    } else if (value != exact) {
      ++mismatches;
    }
  }
  double error() const {
    return norm > 0 ? std::sqrt(squared / norm) : std::sqrt(squared);
  }
};
} // namespace

static ResultCheck compareResult(const Parameter &parameter,
                                 const HostTensor &result, bool half,
                                 bool isGradient, const oracle::Tensor &exact,
                                 const oracle::Tensor &other) {
  std::vector<double> elements = elementsOf(result);
  ErrorSum kernel, reference;
  for (size_t k = 0; k < elements.size(); ++k) {
    kernel.add(elements[k], exact.data[k]);
    // The model is compared with the rounding that the kernel's output has.
    reference.add(oracle::roundToType(other.data[k], parameter.type),
                  exact.data[k]);
  }
  ResultCheck check;
  check.name = parameter.name;
  check.error = kernel.error();
  check.mismatches = kernel.mismatches;
  check.skipped = kernel.skipped;
  check.reference = reference.error();
  check.rule = half ? StringLiteral("A-half") : StringLiteral("A-f32");
  check.limit = half ? (isGradient ? 1.15 : 1.10) * check.reference + 0x1p-20
                     : 1.5 * check.reference;
  return check;
}

/// Whether products are of f16 or bf16 operands.
static bool hasHalfOperands(const Signature &signature) {
  return any_of(signature.parameters, [](const Parameter &parameter) {
    return parameter.isTensor && !parameter.isResult &&
           (parameter.type.isF16() || parameter.type.isBF16());
  });
}

Expected<std::vector<ResultCheck>>
attnc::checkResults(mlir::func::FuncOp function, const Signature &signature,
                    Call &call, int64_t &rows) {
  oracle::Options options;
  auto arguments = call.referenceArguments();
  // A gradient of keys needs all rows.
  bool isGradient = function->hasAttr(attn::kDifferentiateAttr);
  if (!isGradient)
    options.rows = sampleRows(call.sizes(), rows);
  auto evaluate = [&] {
    return isGradient ? oracle::differentiate(function, arguments, options)
                      : oracle::evaluate(function, arguments, options);
  };
  auto exact = evaluate();
  if (!exact)
    return exact.takeError();
  bool half = hasHalfOperands(signature);
  options.precision =
      half ? oracle::Precision::Model : oracle::Precision::PlainF32;
  auto other = evaluate();
  if (!other)
    return other.takeError();
  std::vector<ResultCheck> checks;
  for (size_t k = 0, result = 0; k < signature.parameters.size(); ++k) {
    const Parameter &parameter = signature.parameters[k];
    if (!parameter.isResult)
      continue;
    checks.push_back(compareResult(parameter, call.tensor(k), half, isGradient,
                                   (*exact)[result], (*other)[result]));
    if (options.rows)
      checks.back().skipped = 0; // Rows that were not asked for are NaN, too.
    ++result;
  }
  return checks;
}
