//===- attention.cpp - Sigmoid attention from C++ -------------------------===//
//
//   attnc gen --score=sigmoid --head-dim=64 -o sigmoid.mlir
//   ./attention sigmoid.mlir
//
// One program serves every batch, number of heads, length and bias: it is
// compiled once and called with growing sizes.
//
//===----------------------------------------------------------------------===//

#include "attnc/attnc.hpp"

#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>

int main(int argc, char **argv) {
  std::ifstream file(argc == 2 ? argv[1] : "");
  std::string ir{std::istreambuf_iterator<char>(file), {}};
  attnc::Program program;
  if (attnc::Status status = attnc::Program::fromIr(ir, program); !status) {
    std::fprintf(stderr, "compile: %s\n", status.message().c_str());
    return 1;
  }
  std::printf("%s\n", program.key().c_str());
  constexpr int64_t headDim = 64;
  for (int64_t length : {1, 7, 64, 300}) {
    std::vector<int64_t> sizes = {2, 3, length, headDim};
    std::vector<float> ones(2 * 3 * length * headDim, 1.0f),
        output(ones.size());
    float bias = -std::log(float(length));
    auto tensor = attnc::Tensor::contiguous(ones.data(), sizes);
    auto result = attnc::Tensor::contiguous(output.data(), sizes);
    attnc::Status status = program.run({tensor, tensor, tensor, bias, result});
    if (!status) {
      std::fprintf(stderr, "run: %s\n", status.message().c_str());
      return 1;
    }
    double weight = 1 / (1 + std::exp(-(std::sqrt(headDim) + bias)));
    double expected = double(length) * weight;
    std::printf("length %3d: %.6f, expected %.6f\n", int(length), output[0],
                expected);
    if (std::fabs(output[0] - expected) > 1e-4 * expected)
      return 1;
  }
  return 0;
}
