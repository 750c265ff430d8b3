//===- OracleTest.cpp - The reference against hand-computed values --------===//

#include "lib/Oracle/Oracle.h"

#include "dialects/attn/Attn.h"

#include "mlir/Parser/Parser.h"
#include "gtest/gtest.h"

#include <cmath>
#include <limits>
#include <random>

using namespace mlir;
using namespace attnc;
using namespace attnc::oracle;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// A dense tensor and its argument.
template <typename T> struct Buffer {
  Buffer(std::vector<int64_t> shape, std::vector<T> data)
      : shape(std::move(shape)), data(std::move(data)) {}
  Argument argument() {
    ViewArgument view;
    view.data = data.data();
    view.sizes.assign(shape.begin(), shape.end());
    view.strides.resize(shape.size());
    int64_t stride = 1;
    for (size_t dim = shape.size(); dim-- > 0; stride *= shape[dim])
      view.strides[dim] = stride;
    return view;
  }
  std::vector<int64_t> shape;
  std::vector<T> data;
};

Buffer<float> randomBuffer(std::vector<int64_t> shape, unsigned seed) {
  int64_t count = 1;
  for (int64_t size : shape)
    count *= size;
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> data(count);
  for (float &x : data)
    x = normal(generator);
  return {std::move(shape), std::move(data)};
}

class OracleTest : public testing::Test {
protected:
  OracleTest() { context.loadDialect<attn::AttnDialect, func::FuncDialect>(); }

  std::vector<Tensor> evaluate(StringRef text, std::vector<Argument> arguments,
                               const Options &options = {}) {
    module = parseSourceString<ModuleOp>(text, &context);
    EXPECT_TRUE(module);
    auto function = *module->getOps<func::FuncOp>().begin();
    auto result = oracle::evaluate(function, arguments, options);
    if (!result) {
      message = llvm::toString(result.takeError());
      return {};
    }
    return std::move(*result);
  }

  MLIRContext context;
  OwningOpRef<ModuleOp> module;
  std::string message;
};

/// `!t` has the head dim d, `!v` the head dim dv, `!s` are logits.
std::string withTypes(const std::string &body, int d = 1, int dv = 1) {
  return "!t = tensor<?x?x?x" + std::to_string(d) + "xf32>\n" +
         "!v = tensor<?x?x?x" + std::to_string(dv) + "xf32>\n" +
         "!s = tensor<?x?x?x?xf32>\n!l = tensor<?xi32>\n" + body;
}

/// One head, D = Dv = 1, scale 1: logits are q_i * k_j.
struct Simple {
  Simple(std::vector<float> q, std::vector<float> k, std::vector<float> v)
      : query({1, 1, (int64_t)q.size(), 1}, q),
        key({1, 1, (int64_t)k.size(), 1}, k),
        value({1, 1, (int64_t)v.size(), 1}, v) {}
  std::vector<Argument> arguments() {
    return {query.argument(), key.argument(), value.argument()};
  }
  Buffer<float> query, key, value;
};

double logistic(double x) { return 1 / (1 + std::exp(-x)); }

TEST_F(OracleTest, FusedAndUnfusedSigmoidAgreeWithTheFormula) {
  Simple in({2, -1}, {0.5, 3, -2}, {1, 10, 100});
  auto unfused = evaluate(withTypes(R"(
    func.func @f(%q: !t, %k: !t, %v: !t) -> !t {
      %s = attn.scores %q, %k : !t, !t -> !s
      %p = attn.activation %s {
      ^bb0(%x: f32):
        %y = attn.logistic %x : f32
        attn.yield %y : f32
      } : !s
      %o = attn.apply %p, %v : !s, !t -> !t
      return %o : !t
    })"),
                          in.arguments());
  ASSERT_EQ(unfused.size(), 1u);
  auto fused = evaluate(withTypes(R"(
    func.func @f(%q: !t, %k: !t, %v: !t) -> !t {
      %o = attn.fused %q, %k, %v activation {
      ^bb0(%x: f32):
        %y = attn.logistic %x : f32
        attn.yield %y : f32
      } : !t, !t, !t -> !t
      return %o : !t
    })"),
                        in.arguments());
  ASSERT_EQ(fused.size(), 1u);
  for (int i = 0; i < 2; ++i) {
    double expected = 0;
    for (int j = 0; j < 3; ++j)
      expected += logistic(double(in.query.data[i]) * in.key.data[j]) *
                  in.value.data[j];
    EXPECT_NEAR(unfused[0].data[i], expected, 1e-12);
    EXPECT_NEAR(fused[0].data[i], expected, 1e-12);
  }
}

// S-lse, S-mask-zero
TEST_F(OracleTest, SoftmaxGivesZeroAndMinusInfinityForAnEmptyRow) {
  Simple in({1, 1, 1}, {0.5, 3}, {1, 10});
  // S-causal: with q_len 3 and k_len 2, query 0 sees no key.
  auto out = evaluate(withTypes(R"(
    func.func @f(%q: !t, %k: !t, %v: !t) -> (!t, tensor<?x?x?xf32>) {
      %m = attn.causal_mask
      %o, %lse = attn.fused %q, %k, %v masks(%m) normalize softmax
        : !t, !t, !t -> !t, tensor<?x?x?xf32>
      return %o, %lse : !t, tensor<?x?x?xf32>
    })"),
                      in.arguments());
  ASSERT_EQ(out.size(), 2u);
  EXPECT_EQ(out[0].data[0], 0);
  EXPECT_EQ(out[1].data[0], -std::numeric_limits<double>::infinity());
  EXPECT_DOUBLE_EQ(out[0].data[1], 1);
  EXPECT_DOUBLE_EQ(out[1].data[1], 0.5);
  double a = std::exp(0.5), b = std::exp(3);
  EXPECT_DOUBLE_EQ(out[0].data[2], (a + 10 * b) / (a + b));
  EXPECT_DOUBLE_EQ(out[1].data[2], std::log(a + b));
}

// S-mask-zero
TEST_F(OracleTest, SoftmaxTakesARowOfSmallestNumbersForAnEmptyOne) {
  Simple in({-3e38f, -2.3e38f}, {1, 1}, {1, 10});
  auto out = evaluate(withTypes(R"(
    func.func @f(%q: !t, %k: !t, %v: !t) -> (!t, tensor<?x?x?xf32>) {
      %o, %lse = attn.fused %q, %k, %v normalize softmax
        : !t, !t, !t -> !t, tensor<?x?x?xf32>
      return %o, %lse : !t, tensor<?x?x?xf32>
    })"),
                      in.arguments());
  ASSERT_EQ(out.size(), 2u) << message;
  EXPECT_EQ(out[0].data[0], 0);
  EXPECT_EQ(out[1].data[0], -std::numeric_limits<double>::infinity());
  EXPECT_DOUBLE_EQ(out[0].data[1], 5.5);
}

// S-window
TEST_F(OracleTest, WindowIsInclusiveAndMinusOneIsNoLimit) {
  Simple in({1, 1, 1, 1}, {1, 1, 1, 1}, {1, 10, 100, 1000});
  const char *text = R"(
    func.func @f(%q: !t, %k: !t, %v: !t, %l: i32, %r: i32) -> !t {
      %m = attn.window_mask %l, %r
      %o = attn.fused %q, %k, %v masks(%m) : !t, !t, !t -> !t
      return %o : !t
    })";
  auto window = [&](int left, int right) {
    std::vector<Argument> arguments = in.arguments();
    arguments.push_back(left);
    arguments.push_back(right);
    return evaluate(withTypes(text), arguments).at(0).data;
  };
  EXPECT_EQ(window(1, 0), (std::vector<double>{1, 11, 110, 1100}));
  EXPECT_EQ(window(-1, 1), (std::vector<double>{11, 111, 1111, 1111}));
  EXPECT_EQ(window(0, -1), (std::vector<double>{1111, 1110, 1100, 1000}));
}

// S-beyond
TEST_F(OracleTest, RowsBeyondTheLengthsAreNeverRead) {
  Simple in({1, kNan}, {1, 2, kNan}, {1, 10, kNan});
  Buffer<int32_t> qLen({1}, {1}), kLen({1}, {2});
  std::vector<Argument> arguments = in.arguments();
  arguments.push_back(qLen.argument());
  arguments.push_back(kLen.argument());
  auto out = evaluate(withTypes(R"(
    func.func @f(%q: !t, %k: !t, %v: !t, %ql: !l, %kl: !l) -> !t {
      %o = attn.fused %q, %k, %v q_len %ql : !l k_len %kl : !l
        : !t, !t, !t -> !t
      return %o : !t
    })"),
                      arguments);
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(out[0].data, (std::vector<double>{21, 0}));
}

// S-gqa: heads 0, 1, 2 read key head 0, and 3, 4, 5 key head 1; Dv != D.
TEST_F(OracleTest, QueryHeadsShareKeyHeadsInBothLayouts) {
  const int64_t hq = 6, hkv = 2, n = 3, d = 2, dv = 3;
  Buffer<float> q = randomBuffer({1, n, hq, d}, 1);
  Buffer<float> k = randomBuffer({1, n, hkv, d}, 2);
  Buffer<float> v = randomBuffer({1, n, hkv, dv}, 3);
  float scale = 0.3f;
  auto out = evaluate(withTypes(R"(
    func.func @f(%q: !t, %k: !t, %v: !v, %scale: f32) -> !v {
      %o = attn.fused %q, %k, %v scale %scale layout bshd : !t, !t, !v -> !v
      return %o : !v
    })",
                                d, dv),
                      {q.argument(), k.argument(), v.argument(), scale});
  ASSERT_EQ(out.size(), 1u);
  ASSERT_EQ(out[0].shape, (SmallVector<int64_t>{1, n, hq, dv}));
  for (int64_t h = 0; h < hq; ++h)
    for (int64_t i = 0; i < n; ++i)
      for (int64_t e = 0; e < dv; ++e) {
        double expected = 0;
        for (int64_t j = 0; j < n; ++j) {
          double s = 0;
          for (int64_t c = 0; c < d; ++c)
            s += double(q.data[(i * hq + h) * d + c]) *
                 k.data[(j * hkv + h / 3) * d + c];
          expected += scale * s * v.data[(j * hkv + h / 3) * dv + e];
        }
        EXPECT_NEAR(out[0].data[(i * hq + h) * dv + e], expected, 1e-12);
      }
}

// S-bias, S-alibi, S-bool
TEST_F(OracleTest, CapturedOperandsFollowTheirMaps) {
  Simple in({1, 1}, {1, 1, 1}, {1, 10, 100});
  Buffer<float> table({4}, {0, 1, 2, 3});
  Buffer<uint8_t> keep({3}, {1, 0, 1});
  std::vector<Argument> arguments = in.arguments();
  arguments.push_back(table.argument());
  arguments.push_back(keep.argument());
  arguments.push_back(0.5f);
  auto out = evaluate(withTypes(R"(
    func.func @f(%q: !t, %k: !t, %v: !t, %table: tensor<?xf32>,
                 %keep: tensor<?xi1>, %slope: f32) -> !t {
      %s = attn.scores %q, %k : !t, !t -> !s
      %x = attn.bias %s, %table map affine_map<(b, h, i, j) -> (i - j + 2)>
        : !s, tensor<?xf32>
      %y = attn.score_mod %x {
      ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32):
        %0 = arith.addi %i, %kl : i32
        %1 = arith.subi %0, %ql : i32
        %2 = arith.subi %1, %j : i32
        %3 = math.absi %2 : i32
        %4 = arith.sitofp %3 : i32 to f32
        %5 = arith.mulf %4, %slope : f32
        %6 = arith.subf %e, %5 : f32
        attn.yield %6 : f32
      } : !s
      %m = attn.tensor_mask %keep map affine_map<(b, h, i, j) -> (j)>
        : tensor<?xi1>
      %z = attn.mask %y by %m : !s
      %o = attn.apply %z, %v : !s, !t -> !t
      return %o : !t
    })"),
                      arguments);
  ASSERT_EQ(out.size(), 1u) << message;
  // x_ij = 1 + table[i - j + 2] - 0.5 |i + 1 - j|
  EXPECT_EQ(out[0].data,
            (std::vector<double>{(1 + 2 - 0.5) + 100 * (1 + 0 - 0.5),
                                 (1 + 3 - 1) + 100 * (1 + 1 - 0.)}));
}

TEST_F(OracleTest, DocumentDilatedAndPredicateMasks) {
  Simple in({1, 1, 1}, {1, 1, 1}, {1, 10, 100});
  Buffer<int32_t> ids({1, 3}, {7, 7, 9});
  std::vector<Argument> arguments = in.arguments();
  arguments.push_back(ids.argument());
  arguments.push_back(2);
  auto masked = [&](const std::string &mask) {
    return evaluate(withTypes(R"(
      func.func @f(%q: !t, %k: !t, %v: !t, %ids: tensor<?x?xi32>, %n: i32)
          -> !t {)" + mask +
                              R"(
        %o = attn.fused %q, %k, %v masks(%m) : !t, !t, !t -> !t
        return %o : !t
      })"),
                    arguments)
        .at(0)
        .data;
  };
  EXPECT_EQ(masked("%m = attn.document_mask %ids, %ids : tensor<?x?xi32>, "
                   "tensor<?x?xi32>"),
            (std::vector<double>{11, 11, 100}));
  EXPECT_EQ(masked("%m = attn.dilated_mask %n"),
            (std::vector<double>{101, 10, 101}));
  EXPECT_EQ(masked(R"(%m = attn.predicate_mask {
            ^bb0(%b: i32, %h: i32, %i: i32, %j: i32):
              %c = arith.cmpi ne, %i, %j : i32
              attn.yield %c : i1
            })"),
            (std::vector<double>{110, 101, 11}));
}

TEST_F(OracleTest, EpilogueSeesTheRowStatisticsAndL1DividesByTheSum) {
  Buffer<float> q({1, 1, 1, 1}, {1}), k({1, 1, 2, 1}, {1, 3});
  Buffer<float> v({1, 1, 2, 2}, {1, 2, 3, 4});
  auto out = evaluate(withTypes(R"(
    func.func @f(%q: !t, %k: !t, %v: !v) -> !v {
      %o = attn.fused %q, %k, %v normalize l1 stats [0 : i32, 2 : i32]
        epilogue {
        ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %d: i32, %mean: f32, %max: f32):
          %0 = arith.subf %e, %mean : f32
          %1 = arith.divf %0, %max : f32
          attn.yield %1 : f32
        } : !t, !t, !v -> !v
      return %o : !v
    })",
                                1, 2),
                      {q.argument(), k.argument(), v.argument()});
  ASSERT_EQ(out.size(), 1u) << message;
  // Weights 1 and 3: (1 + 9) / 4 and (2 + 12) / 4.
  EXPECT_DOUBLE_EQ(out[0].data[0], (2.5 - 3) / 3.5);
  EXPECT_DOUBLE_EQ(out[0].data[1], (3.5 - 3) / 3.5);
}

TEST_F(OracleTest, RowNormOfAZeroRowIsZero) {
  Buffer<float> x({1, 1, 2, 2}, {3, 4, 0, 0});
  auto out = evaluate(withTypes(R"(
    func.func @f(%x: !t) -> (tensor<?x?x?xf32>, tensor<?x?x?xf32>) {
      %a = attn.row_norm squared_l2 %x : !t -> tensor<?x?x?xf32>
      %b = attn.row_norm inverse_l2 %x : !t -> tensor<?x?x?xf32>
      return %a, %b : tensor<?x?x?xf32>, tensor<?x?x?xf32>
    })",
                                2),
                      {x.argument()});
  ASSERT_EQ(out.size(), 2u) << message;
  EXPECT_EQ(out[0].data, (std::vector<double>{25, 0}));
  EXPECT_EQ(out[1].data, (std::vector<double>{0.2, 0}));
}

// S-empty
TEST_F(OracleTest, EmptySizesGiveZeros) {
  Simple in({1, 2}, {}, {});
  auto out = evaluate(withTypes(R"(
    func.func @f(%q: !t, %k: !t, %v: !t) -> !t {
      %o = attn.fused %q, %k, %v normalize softmax : !t, !t, !t -> !t
      return %o : !t
    })"),
                      in.arguments());
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(out[0].data, (std::vector<double>{0, 0}));
}

// S-round
TEST_F(OracleTest, TheModelRoundsTheWeightsOnceAndTheRestNot) {
  Buffer<float> q({1, 1, 1, 1}, {1}), k({1, 1, 1, 1}, {1.01f});
  Buffer<uint16_t> v({1, 1, 1, 1}, {0x3f80}); // bf16 1.0
  const char *text = R"(
    func.func @f(%q: !t, %k: !t, %v: tensor<?x?x?x1xbf16>) -> !t {
      %o = attn.fused %q, %k, %v : !t, !t, tensor<?x?x?x1xbf16> -> !t
      return %o : !t
    })";
  std::vector<Argument> arguments = {q.argument(), k.argument(), v.argument()};
  Options model;
  model.precision = Precision::Model;
  EXPECT_EQ(evaluate(withTypes(text), arguments).at(0).data[0], double(1.01f));
  EXPECT_EQ(evaluate(withTypes(text), arguments, model).at(0).data[0],
            1 + 1. / 128);
}

TEST_F(OracleTest, ASubsetOfRowsIsTheSameRows) {
  Simple in({1, 2, 3}, {1, 2}, {1, 10});
  Options some;
  some.rows = {2};
  const char *text = R"(
    func.func @f(%q: !t, %k: !t, %v: !t) -> !t {
      %o = attn.fused %q, %k, %v : !t, !t, !t -> !t
      return %o : !t
    })";
  auto out = evaluate(withTypes(text), in.arguments(), some);
  ASSERT_EQ(out.size(), 1u);
  EXPECT_TRUE(std::isnan(out[0].data[0]));
  EXPECT_EQ(out[0].data[2], 63);
}

TEST_F(OracleTest, RoundingToTheTypesIsToNearestEven) {
  Type f16 = Float16Type::get(&context), bf16 = BFloat16Type::get(&context);
  EXPECT_EQ(roundToType(1 + 1. / 256, bf16), 1);
  EXPECT_EQ(roundToType(1 + 3. / 256, bf16), 1 + 4. / 256);
  EXPECT_EQ(roundToType(1 + 1. / 2048, f16), 1);
  EXPECT_EQ(roundToType(65519, f16), 65504);
  EXPECT_TRUE(std::isinf(roundToType(65520, f16)));
  EXPECT_EQ(roundToType(std::ldexp(1, -25), f16), 0);
  EXPECT_EQ(roundToType(std::ldexp(1.5, -25), f16), std::ldexp(1, -24));
  // Every f16 is itself.
  for (double x : {0.1, 1000.7, 3e-6})
    EXPECT_EQ(roundToType(roundToType(x, f16), f16), roundToType(x, f16));
}

TEST_F(OracleTest, WhatItCannotEvaluateIsAnError) {
  Simple in({1}, {1}, {1});
  evaluate(withTypes(R"(
    func.func @f(%q: !t, %k: !t, %v: !t) -> !s {
      %s = attn.scores %q, %k : !t, !t -> !s
      return %s : !s
    })"),
           in.arguments());
  EXPECT_NE(message.find("cannot return"), std::string::npos) << message;
  evaluate(withTypes("func.func @f(%q: !t) { return }"), in.arguments());
  EXPECT_EQ(message, "function 'f' has 1 arguments, got 3");
}

} // namespace
