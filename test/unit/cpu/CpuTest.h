//===- CpuTest.h - Compiles and runs tile programs in tests -----*- C++ -*-===//

#ifndef ATTNC_TEST_UNIT_CPU_CPUTEST_H
#define ATTNC_TEST_UNIT_CPU_CPUTEST_H

#include "dialects/attn/Attn.h"
#include "dialects/tile/Tile.h"
#include "lib/Target/CPU/CpuTarget.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/Parser/Parser.h"
#include "gtest/gtest.h"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace attnc::test {

/// A dense row-major tensor with room to be viewed otherwise.
template <typename T> struct Tensor {
  std::vector<T> data;
  llvm::SmallVector<int64_t> sizes, strides;

  explicit Tensor(std::vector<int64_t> shape, T value = T())
      : sizes(shape.begin(), shape.end()), strides(shape.size(), 1) {
    int64_t count = 1;
    for (int64_t size : shape)
      count *= size;
    data.assign(count, value);
    for (int64_t dim = static_cast<int64_t>(shape.size()) - 1; dim > 0; --dim)
      strides[dim - 1] = strides[dim] * sizes[dim];
  }

  template <typename... Indices> T &operator()(Indices... indices) {
    int64_t offset = 0, dim = 0;
    ((offset += indices * strides[dim++]), ...);
    return data[offset];
  }

  /// View dim k is tensor dim dims[k].
  ViewArgument view(std::vector<int64_t> dims = {}) {
    ViewArgument result{data.data(), sizes, strides};
    for (size_t k = 0; k < dims.size(); ++k) {
      result.sizes[k] = sizes[dims[k]];
      result.strides[k] = strides[dims[k]];
    }
    return result;
  }
};

inline Tensor<float> randomTensor(std::vector<int64_t> shape, unsigned seed,
                                  float deviation = 1, float mean = 0) {
  Tensor<float> tensor(std::move(shape));
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(mean, deviation);
  for (float &value : tensor.data)
    value = normal(engine);
  return tensor;
}

inline mlir::MLIRContext &getContext() {
  static mlir::DialectRegistry registry = [] {
    mlir::DialectRegistry dialects;
    dialects.insert<attn::AttnDialect, tile::TileDialect,
                    mlir::func::FuncDialect, mlir::LLVM::LLVMDialect>();
    return dialects;
  }();
  static mlir::MLIRContext context(registry,
                                   mlir::MLIRContext::Threading::DISABLED);
  return context;
}

/// Every {name} of the text replaced.
inline std::string
substitute(std::string text,
           std::vector<std::pair<std::string, std::string>> names) {
  for (auto &[name, value] : names) {
    std::string hole = "$" + name + "$";
    for (size_t at = text.find(hole); at != std::string::npos;
         at = text.find(hole, at + value.size()))
      text.replace(at, hole.size(), value);
  }
  return text;
}

inline std::unique_ptr<CpuProgram> compileText(llvm::StringRef text,
                                               const CpuOptions &options = {}) {
  auto module = mlir::parseSourceString<mlir::ModuleOp>(text, &getContext());
  if (!module) {
    ADD_FAILURE() << "does not parse:\n" << text.str();
    return nullptr;
  }
  auto program = CpuProgram::compile(*module, options);
  if (!program) {
    ADD_FAILURE() << llvm::toString(program.takeError());
    return nullptr;
  }
  return std::move(*program);
}

/// Compiles and runs; reports errors as test failures.
inline bool runText(llvm::StringRef text, std::vector<Argument> arguments,
                    const CpuOptions &options = {}) {
  auto program = compileText(text, options);
  if (!program)
    return false;
  if (llvm::Error error = program->run(arguments)) {
    ADD_FAILURE() << llvm::toString(std::move(error));
    return false;
  }
  return true;
}

/// The processors whose code differs, as far as this machine runs them.
inline std::vector<std::string> testedCpus() {
  std::vector<std::string> cpus{"x86-64"};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    cpus.push_back("x86-64-v3");
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
    cpus.push_back("x86-64-v4");
  return cpus;
}

/// Largest |a - b| relative to the largest |b|.
template <typename A, typename B>
double relativeError(const std::vector<A> &a, const std::vector<B> &b) {
  double error = 0, largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    double difference = std::abs(double(a[i]) - double(b[i]));
    // NaN must not pass as a small error.
    error = difference <= error ? error : difference;
    largest = std::max(largest, std::abs(double(b[i])));
  }
  return error / std::max(largest, 1e-30);
}

} // namespace attnc::test

#endif // ATTNC_TEST_UNIT_CPU_CPUTEST_H
