//===- Numerics.h - Programs against the oracle -----------------*- C++ -*-===//
//
// A problem is a function of attn ops with its arguments. It is compiled and
// run in this process, its results poisoned before, and compared with the
// oracle by the bounds of docs/semantics.md, "Accuracy, defined once".
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_TEST_UNIT_NUMERICS_NUMERICS_H
#define ATTNC_TEST_UNIT_NUMERICS_NUMERICS_H

#include "lib/Compiler/Compiler.h"
#include "lib/Oracle/Oracle.h"

#include <functional>
#include <optional>
#include <random>
#include <string>
#include <vector>

namespace attnc::numerics {

enum class Dtype { F32, F16, BF16, I32, I8, I1 };

const char *getName(Dtype dtype);

/// A tensor in memory. `strides` count elements; they may leave gaps, which
/// are filled with NaN (or -1).
struct Buffer {
  Dtype dtype = Dtype::F32;
  std::vector<int64_t> shape, strides;
  std::vector<char> bytes;

  static Buffer make(Dtype dtype, std::vector<int64_t> shape, int64_t gap = 0);
  int64_t count() const;
  /// By position in row-major order, whatever the strides.
  void set(int64_t position, double value);
  double get(int64_t position) const;
  /// Sizes and strides, in the order of the tensor's dims.
  Argument argument();

private:
  int64_t offsetOf(int64_t position) const;
};

using ArgumentValue = std::variant<Buffer, float, int32_t>;

struct Parameter {
  std::string name;
  ArgumentValue value;
};

struct Problem {
  /// The function's text without its head.
  std::string head, body;
  std::vector<Parameter> parameters;
  /// Types of the results. Elements are f32 whatever the operands' type, which
  /// is what the bounds are about, or `resultType`.
  std::vector<std::string> results;
  Dtype resultType = Dtype::F32;
  /// The LSE, the second result, asks for its gradient.
  bool lseGradient = false;
  /// Names of the parameters whose gradients `checkGradients` asks for.
  std::vector<std::string> wanted;
  /// Fills what lies beyond a sequence's query length, in a gradient of the
  /// output, with NaN.
  std::function<void(Buffer &)> beyond;

  std::string getText(bool gradients = false) const;
};

struct RunOptions {
  Target target = Target::CPU;
  /// `block_m=64,...`; empty: the target's choice.
  std::string schedule;
  /// Rows that are compared; by default all.
  std::optional<std::vector<int64_t>> rows;
};

struct Result {
  std::vector<int64_t> shape;
  std::vector<double> data;
};

/// Compiles (once for each text, target and schedule) and runs. On failure
/// the results are empty and a gtest failure is recorded.
std::vector<Result> run(Problem &problem, const RunOptions &options,
                        llvm::ArrayRef<std::vector<int64_t>> shapes);

/// The oracle's results.
std::vector<oracle::Tensor>
evaluate(Problem &problem, oracle::Precision precision,
         const std::optional<std::vector<int64_t>> &rows);

/// Runs and checks A-f32 or A-half, by the type of the first argument:
/// A-f32: error <= 1.5 * that of plain f32.
/// A-half: error <= 1.10 * the model's + 2^-20.
/// Results with infinities must have them where the oracle has.
/// Returns the worst error over its bound.
double check(Problem &problem, const RunOptions &options = {});

/// The same for the program of its gradients: the forward's results by the
/// oracle, a random gradient of the output. A-half with 1.15. Returns the worst
/// error over its bound.
double checkGradients(Problem &problem, const RunOptions &options = {});

/// The oracle's gradients and, if asked for, those of the output and the LSE.
std::vector<oracle::Tensor>
differentiate(Problem &problem, oracle::Precision precision,
              std::vector<double> *doutput = nullptr,
              std::vector<double> *dlse = nullptr);

/// The gradients that the program gives, for tests of single elements.
std::vector<Result> runGradients(Problem &problem,
                                 const RunOptions &options = {});

} // namespace attnc::numerics

#endif // ATTNC_TEST_UNIT_NUMERICS_NUMERICS_H
