//===- ProgramsTest.cpp - The programs of test/programs, by numbers -------===//
//
// What the surface syntax does not reach yet but a tile program can say. Each
// is compared with plain loops in double, on every kind of vector unit.
//
//===----------------------------------------------------------------------===//

#include "test/unit/cpu/CpuTest.h"

#include "llvm/ADT/APFloat.h"
#include "llvm/Support/MemoryBuffer.h"

using namespace attnc;
using namespace attnc::test;

namespace {

std::string readProgram(const std::string &name) {
  auto buffer = llvm::MemoryBuffer::getFile(ATTNC_PROGRAMS "/" + name);
  return buffer ? (*buffer)->getBuffer().str() : "";
}

double dotRows(const float *a, const float *b, int64_t d) {
  double sum = 0;
  for (int64_t c = 0; c < d; ++c)
    sum += double(a[c]) * b[c];
  return sum;
}

/// Runs the program on each processor and compares what `output` then holds.
void check(const std::string &name, std::vector<Argument> arguments,
           Tensor<float> &output, const Tensor<double> &expected,
           double tolerance = 2e-6) {
  std::string text = readProgram(name);
  for (const std::string &cpu : testedCpus()) {
    SCOPED_TRACE(name + " " + cpu);
    std::fill(output.data.begin(), output.data.end(), NAN);
    ASSERT_TRUE(runText(text, arguments, {cpu, "", 0}));
    EXPECT_LT(relativeError(output.data, expected.data), tolerance);
  }
}

TEST(Programs, Packed) {
  int64_t nh = 2, d = 32;
  // One sequence is empty, one ends in the middle of every block.
  std::vector<int32_t> lengths{21, 0, 16, 5};
  Tensor<int32_t> starts({5});
  std::vector<int32_t> items;
  for (int32_t s = 0; s < 4; ++s) {
    starts(s + 1) = starts(s) + lengths[s];
    for (int32_t i = 0; i < lengths[s]; i += 16)
      items.insert(items.end(), {s, i});
  }
  Tensor<int32_t> work({int64_t(items.size()) / 2, 2});
  work.data = items;
  int64_t total = starts(4);
  Tensor<float> q = randomTensor({nh, total, d}, 1);
  Tensor<float> k = randomTensor({nh, total, d}, 2);
  Tensor<float> v = randomTensor({nh, total, d}, 3);
  Tensor<float> o({nh, total, d});
  Tensor<double> expected({nh, total, d});
  for (int64_t h = 0; h < nh; ++h)
    for (int64_t s = 0; s < 4; ++s)
      for (int64_t i = starts(s); i < starts(s + 1); ++i)
        for (int64_t j = starts(s); j < starts(s + 1); ++j) {
          double p = std::max(0.0, 0.25 * dotRows(&q(h, i, 0), &k(h, j, 0), d));
          for (int64_t c = 0; c < d; ++c)
            expected(h, i, c) += p * v(h, j, c);
        }
  check("packed.mlir",
        {q.view(), k.view(), v.view(), work.view(), starts.view(), o.view(),
         0.25f},
        o, expected);
}

TEST(Programs, Paged) {
  int64_t nb = 3, nh = 2, d = 32, page = 16, pages = 9;
  Tensor<float> q = randomTensor({nb, nh, 4, d}, 1);
  // Pages that no table names hold NaN.
  Tensor<float> k({pages, nh, page, d}, NAN), v({pages, nh, page, d}, NAN);
  Tensor<int32_t> table({nb, 4}, -1), lengths({nb});
  lengths.data = {50, 16, 7};
  int32_t given[3][4] = {{7, 2, 0, 5}, {3, -1, -1, -1}, {8, -1, -1, -1}};
  Tensor<float> kIn = randomTensor({nb, nh, 64, d}, 2);
  Tensor<float> vIn = randomTensor({nb, nh, 64, d}, 3);
  for (int64_t b = 0; b < nb; ++b)
    for (int64_t x = 0; x < lengths(b); ++x) {
      int64_t at = table(b, x / page) = given[b][x / page];
      for (int64_t h = 0; h < nh; ++h)
        for (int64_t c = 0; c < d; ++c) {
          k(at, h, x % page, c) = kIn(b, h, x, c);
          v(at, h, x % page, c) = vIn(b, h, x, c);
        }
    }
  Tensor<float> o({nb, nh, 4, d});
  Tensor<double> expected({nb, nh, 4, d});
  for (int64_t b = 0; b < nb; ++b)
    for (int64_t h = 0; h < nh; ++h)
      for (int64_t i = 0; i < 4; ++i)
        for (int64_t j = 0; j < lengths(b); ++j) {
          double s = 0.25 * dotRows(&q(b, h, i, 0), &kIn(b, h, j, 0), d);
          for (int64_t c = 0; c < d; ++c)
            expected(b, h, i, c) += s * s * vIn(b, h, j, c);
        }
  check("paged.mlir",
        {q.view(), k.view(), v.view(), table.view(), lengths.view(), o.view(),
         0.25f},
        o, expected);
}

TEST(Programs, SplitKeys) {
  int64_t nb = 1, nh = 2, sq = 21, sk = 45, d = 16;
  Tensor<float> q = randomTensor({nb, nh, sq, d}, 1);
  Tensor<float> k = randomTensor({nb, nh, sk, d}, 2);
  Tensor<float> v = randomTensor({nb, nh, sk, d}, 3);
  Tensor<float> o({nb, nh, sq, d});
  Tensor<double> expected({nb, nh, sq, d});
  for (int64_t h = 0; h < nh; ++h)
    for (int64_t i = 0; i < sq; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < sk; ++j)
        sum += std::exp(0.5 * dotRows(&q(0, h, i, 0), &k(0, h, j, 0), d));
      for (int64_t j = 0; j < sk; ++j) {
        double p = std::exp(0.5 * dotRows(&q(0, h, i, 0), &k(0, h, j, 0), d));
        for (int64_t c = 0; c < d; ++c)
          expected(0, h, i, c) += p / sum * v(0, h, j, c);
      }
    }
  // 60 splits: some have no key at all.
  for (int32_t splits : {1, 3, 60})
    check("split-kv.mlir",
          {q.view(), k.view(), v.view(), o.view(), 0.5f, splits}, o, expected);

  auto program = compileText(readProgram("split-kv.mlir"));
  ASSERT_TRUE(program);
  llvm::Error error =
      program->run({q.view(), k.view(), v.view(), o.view(), 0.5f, int32_t(0)});
  EXPECT_EQ(llvm::toString(std::move(error)),
            "expected at least one split, got 0");
}

TEST(Programs, Quantised) {
  int64_t nh = 2, sq = 35, sk = 29, d = 24;
  Tensor<float> q = randomTensor({nh, sq, d}, 1);
  Tensor<int8_t> k({nh, sk, d});
  Tensor<uint8_t> v({nh, sk, d});
  std::mt19937 engine(7);
  for (int8_t &value : k.data)
    value = int8_t(engine() % 255 - 127);
  for (uint8_t &value : v.data)
    value = uint8_t(engine() % 0x7f | (engine() & 0x80));
  Tensor<float> fk = randomTensor({nh, sk}, 4, 0.001f, 0.002f);
  Tensor<float> fv = randomTensor({nh, sk}, 5, 0.1f, 1);
  Tensor<float> o({nh, sq, d});
  Tensor<double> expected({nh, sq, d});
  for (int64_t h = 0; h < nh; ++h)
    for (int64_t i = 0; i < sq; ++i)
      for (int64_t j = 0; j < sk; ++j) {
        double s = 0;
        for (int64_t c = 0; c < d; ++c)
          s += double(q(h, i, c)) * k(h, j, c) * fk(h, j);
        for (int64_t c = 0; c < d; ++c) {
          llvm::APFloat value(llvm::APFloat::Float8E4M3FN(),
                              llvm::APInt(8, v(h, j, c)));
          expected(h, i, c) +=
              std::tanh(s) * fv(h, j) * double(value.convertToFloat());
        }
      }
  check("quantised.mlir",
        {q.view(), k.view(), v.view(), fk.view(), fv.view(), o.view()}, o,
        expected, 4e-6);
}

TEST(Programs, GroupedRows) {
  int64_t nb = 2, nh = 2, s = 27, d = 40;
  Tensor<float> q = randomTensor({nb, 4 * nh, s, d}, 1);
  Tensor<float> k = randomTensor({nb, nh, s, d}, 2);
  Tensor<float> v = randomTensor({nb, nh, s, d}, 3);
  Tensor<float> o({nb, 4 * nh, s, d});
  Tensor<double> expected({nb, 4 * nh, s, d});
  for (int64_t b = 0; b < nb; ++b)
    for (int64_t h = 0; h < 4 * nh; ++h)
      for (int64_t i = 0; i < s; ++i)
        for (int64_t j = 0; j <= i; ++j) {
          double x = dotRows(&q(b, h, i, 0), &k(b, h / 4, j, 0), d);
          double p = 1 / (1 + std::exp(-0.125 * x));
          for (int64_t c = 0; c < d; ++c)
            expected(b, h, i, c) += p * v(b, h / 4, j, c);
        }
  check("grouped-rows.mlir", {q.view(), k.view(), v.view(), o.view(), 0.125f},
        o, expected);
}

} // namespace
