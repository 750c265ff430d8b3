//===- AttentionTest.cpp - Attention kernels, written by hand -------------===//

#include "test/unit/cpu/CpuTest.h"

using namespace attnc;
using namespace attnc::test;

namespace {

/// Sigmoid attention with a causal mask if CAUSAL is 1. The views have
/// logical dims (b, h, s, d).
const char *const sigmoidText = R"(
#row = affine_map<(r, c)[b, h, i] -> (b, h, i + r, c)>
!view = !tile.view<?x?x?x$D$x$T$>
tile.program @sigmoid(
    %q: !view {tile.name = "query"}, %k: !view {tile.name = "key"},
    %v: !view {tile.name = "value"},
    %o: !view {tile.name = "output", tile.result},
    %scale: f32 {tile.name = "scale"}) {
  %bq = tile.dim %q, 0 : !view
  %bk = tile.dim %k, 0 : !view
  %same = arith.cmpi eq, %bq, %bk : index
  tile.check %same, "query has {0} sequences but key {1}"(%bq, %bk)
  tile.launch @kernel(%q, %k, %v, %o, %scale) : !view, !view, !view, !view, f32
}
tile.kernel @kernel(%q: !view, %k: !view, %v: !view, %o: !view, %scale: f32)
    schedule(#tile.schedule<block_m = $M$, block_n = $N$>) {
  %bm = arith.constant $M$ : index
  %bn = arith.constant $N$ : index
  %zero = arith.constant 0 : index
  %causal = arith.constant $CAUSAL$ : i1
  %f0 = arith.constant 0.0 : f32
  %log2e = arith.constant -1.44269504088896 : f32
  %factor = arith.mulf %scale, %log2e : f32
  %nb = tile.dim %q, 0 : !view
  %nh = tile.dim %q, 1 : !view
  %sq = tile.dim %q, 2 : !view
  %sk = tile.dim %k, 2 : !view
  %nm = arith.ceildivui %sq, %bm : index
  tile.items (%b, %h, %m) in (%nb, %nh, %nm) {
    %i0 = arith.muli %m, %bm : index
    %shift = arith.subi %sk, %sq : index
    %i1 = arith.addi %i0, %bm : index
    %last = arith.addi %i1, %shift : index
    %first = arith.addi %i0, %shift : index
    %hiCausal0 = arith.minsi %last, %sk : index
    %hiCausal = arith.maxsi %hiCausal0, %zero : index
    %hi = arith.select %causal, %hiCausal, %sk : index
    %one = arith.constant 1 : index
    %firstKeys = arith.addi %first, %one : index
    %fullCausal = arith.minsi %firstKeys, %sk : index
    %full = arith.select %causal, %fullCausal, %sk : index
    %qt = tile.load %q[%b, %h, %i0] by #row : !view -> !tile.tile<$M$x$D$x$T$>
    %acc0 = tile.splat %f0 : f32 -> !tile.tile<$M$x$D$xf32>
    %shift32 = arith.index_cast %first : index to i32
    %acc = tile.for_keys %j in (%zero, %zero, %full, %hi) step $N$
        iter_args(%a = %acc0) -> (!tile.tile<$M$x$D$xf32>) {
      %left = arith.subi %sk, %j : index
      %kt = tile.load %k[%b, %h, %j] by #row rows %left
          : !view -> !tile.tile<$N$x$D$x$T$>
      %s = tile.dot %qt, %kt transpose_b
          : !tile.tile<$M$x$D$x$T$>, !tile.tile<$N$x$D$x$T$>
          -> !tile.tile<$M$x$N$xf32>
      %one32 = arith.constant 1.0 : f32
      %p = tile.map(%s : !tile.tile<$M$x$N$xf32>) {
      ^bb0(%x: f32, %r: i32, %c: i32):
        %y = arith.mulf %x, %factor : f32
        %e = math.exp2 %y fastmath<afn> : f32
        %d = arith.addf %e, %one32 : f32
        %z = arith.divf %one32, %d fastmath<arcp,afn> : f32
        tile.yield %z : f32
      } : !tile.tile<$M$x$N$xf32>
      %left32 = arith.index_cast %left : index to i32
      %j32 = arith.index_cast %j : index to i32
      %pm = tile.mask %p fill 0.0 {
      ^bb0(%r: i32, %c: i32):
        %inside = arith.cmpi slt, %c, %left32 : i32
        %jc = arith.addi %j32, %c : i32
        %ir = arith.addi %shift32, %r : i32
        %below = arith.cmpi sle, %jc, %ir : i32
        %true = arith.constant true
        %free = arith.xori %causal, %true : i1
        %ok = arith.ori %below, %free : i1
        %keep = arith.andi %inside, %ok : i1
        tile.yield %keep : i1
      } : !tile.tile<$M$x$N$xf32>
      %pc = tile.cast %pm : !tile.tile<$M$x$N$xf32> -> !tile.tile<$M$x$N$x$T$>
      %vt = tile.load %v[%b, %h, %j] by #row rows %left
          : !view -> !tile.tile<$N$x$D$x$T$>
      %next = tile.dot %pc, %vt acc %a : !tile.tile<$M$x$D$xf32>
          : !tile.tile<$M$x$N$x$T$>, !tile.tile<$N$x$D$x$T$>
          -> !tile.tile<$M$x$D$xf32>
      tile.yield %next : !tile.tile<$M$x$D$xf32>
    }
    %out = tile.cast %acc : !tile.tile<$M$x$D$xf32> -> !tile.tile<$M$x$D$x$T$>
    tile.store %out, %o[%b, %h, %i0] by #row : !tile.tile<$M$x$D$x$T$>, !view
  }
}
)";

std::string sigmoid(int64_t d, int64_t m, int64_t n, bool causal = false,
                    std::string type = "f32") {
  return substitute(sigmoidText, {{"D", std::to_string(d)},
                                  {"M", std::to_string(m)},
                                  {"N", std::to_string(n)},
                                  {"CAUSAL", causal ? "1" : "0"},
                                  {"T", std::move(type)}});
}

/// The same in double, one element at a time.
Tensor<double> sigmoidReference(Tensor<float> &q, Tensor<float> &k,
                                Tensor<float> &v, double scale, bool causal) {
  int64_t nb = q.sizes[0], nh = q.sizes[1], sq = q.sizes[2], d = q.sizes[3];
  int64_t sk = k.sizes[2];
  Tensor<double> o({nb, nh, sq, d});
  for (int64_t b = 0; b < nb; ++b)
    for (int64_t h = 0; h < nh; ++h)
      for (int64_t i = 0; i < sq; ++i)
        for (int64_t j = 0; j < sk; ++j) {
          if (causal && j > i + sk - sq)
            continue;
          double s = 0;
          for (int64_t c = 0; c < d; ++c)
            s += double(q(b, h, i, c)) * k(b, h, j, c);
          double p = 1 / (1 + std::exp(-scale * s));
          for (int64_t c = 0; c < d; ++c)
            o(b, h, i, c) += p * v(b, h, j, c);
        }
  return o;
}

void checkSigmoid(int64_t nb, int64_t nh, int64_t sq, int64_t sk, int64_t d,
                  int64_t m, int64_t n, bool causal,
                  const CpuOptions &options = {}) {
  SCOPED_TRACE("b" + std::to_string(nb) + " h" + std::to_string(nh) + " sq" +
               std::to_string(sq) + " sk" + std::to_string(sk) + " d" +
               std::to_string(d) + " block " + std::to_string(m) + "x" +
               std::to_string(n) + " cpu " + options.cpu);
  Tensor<float> q = randomTensor({nb, nh, sq, d}, 1);
  Tensor<float> k = randomTensor({nb, nh, sk, d}, 2);
  Tensor<float> v = randomTensor({nb, nh, sk, d}, 3);
  Tensor<float> o({nb, nh, sq, d}, NAN);
  float scale = 1 / std::sqrt(float(d));
  if (!runText(sigmoid(d, m, n, causal),
               {q.view(), k.view(), v.view(), o.view(), scale}, options))
    return;
  Tensor<double> expected = sigmoidReference(q, k, v, scale, causal);
  EXPECT_LT(relativeError(o.data, expected.data), 2e-6);
}

TEST(Attention, FullSigmoid) {
  for (const std::string &cpu : testedCpus())
    checkSigmoid(1, 2, 200, 150, 64, 64, 64, false, {cpu, "", 0});
}

TEST(Attention, CausalSigmoid) {
  for (const std::string &cpu : testedCpus())
    checkSigmoid(2, 1, 130, 190, 32, 48, 32, true, {cpu, "", 0});
  // More queries than keys: the first rows see no key.
  checkSigmoid(1, 1, 70, 40, 16, 32, 16, true);
}

/// Head dims, blocks and lengths that are no multiples of anything.
TEST(Attention, OddSizes) {
  std::vector<std::string> cpus = testedCpus();
  int64_t dims[] = {1, 31, 40, 96, 111, 256};
  for (auto [index, d] : llvm::enumerate(dims)) {
    CpuOptions options{cpus[index % cpus.size()], "", 0};
    checkSigmoid(1, 1, 37, 45, d, 20, 9, index % 2, options);
  }
  checkSigmoid(1, 1, 1, 1, 8, 16, 16, true);
  checkSigmoid(1, 1, 17, 1023, 8, 1, 33, false);
}

/// Any strides: (b, s, h, d) tensors, a transposed tensor.
TEST(Attention, Strides) {
  int64_t nb = 2, nh = 3, s = 50, d = 16;
  Tensor<float> q = randomTensor({nb, nh, s, d}, 1);
  Tensor<float> k = randomTensor({nb, nh, s, d}, 2);
  Tensor<float> v = randomTensor({nb, nh, s, d}, 3);
  Tensor<float> qs({nb, s, nh, d}), kt({nb, nh, d, s}), vs({nb, s, nh, d});
  for (int64_t b = 0; b < nb; ++b)
    for (int64_t h = 0; h < nh; ++h)
      for (int64_t i = 0; i < s; ++i)
        for (int64_t c = 0; c < d; ++c) {
          qs(b, i, h, c) = q(b, h, i, c);
          kt(b, h, c, i) = k(b, h, i, c);
          vs(b, i, h, c) = v(b, h, i, c);
        }
  Tensor<float> plain({nb, nh, s, d}), strided({nb, d, s, nh});
  auto program = compileText(sigmoid(d, 32, 16));
  ASSERT_TRUE(program);
  ASSERT_FALSE(
      bool(program->run({q.view(), k.view(), v.view(), plain.view(), 0.25f})));
  ASSERT_FALSE(bool(program->run({qs.view({0, 2, 1, 3}), kt.view({0, 1, 3, 2}),
                                  vs.view({0, 2, 1, 3}),
                                  strided.view({0, 3, 2, 1}), 0.25f})));
  for (int64_t b = 0; b < nb; ++b)
    for (int64_t h = 0; h < nh; ++h)
      for (int64_t i = 0; i < s; ++i)
        for (int64_t c = 0; c < d; ++c)
          ASSERT_EQ(plain(b, h, i, c), strided(b, c, i, h));
}

/// Keys beyond the length may hold anything, and the memory before and after
/// a tensor is never touched.
TEST(Attention, NothingBeyond) {
  int64_t s = 37, sk = 45, d = 24, room = 64;
  float nan = std::numeric_limits<float>::quiet_NaN();
  Tensor<float> q = randomTensor({1, 1, s, d}, 1);
  Tensor<float> k({1, 1, sk + room, d}, nan), v({1, 1, sk + room, d}, nan);
  Tensor<float> o({1, 1, s + room, d}, 7.0f);
  Tensor<float> kIn = randomTensor({1, 1, sk, d}, 2);
  Tensor<float> vIn = randomTensor({1, 1, sk, d}, 3);
  std::copy(kIn.data.begin(), kIn.data.end(), k.data.begin());
  std::copy(vIn.data.begin(), vIn.data.end(), v.data.begin());
  ViewArgument kv = k.view(), vv = v.view(), ov = o.view();
  kv.sizes[2] = vv.sizes[2] = sk;
  ov.sizes[2] = s;
  for (const std::string &cpu : testedCpus()) {
    ASSERT_TRUE(runText(sigmoid(d, 32, 32), {q.view(), kv, vv, ov, 0.2f},
                        {cpu, "", 0}));
    Tensor<double> expected = sigmoidReference(q, kIn, vIn, 0.2f, false);
    std::vector<float> inside(o.data.begin(), o.data.begin() + s * d);
    EXPECT_LT(relativeError(inside, expected.data), 2e-6);
    for (size_t i = s * d; i < o.data.size(); ++i)
      ASSERT_EQ(o.data[i], 7.0f) << i;
  }
}

TEST(Attention, EmptySizes) {
  auto program = compileText(sigmoid(16, 32, 16));
  ASSERT_TRUE(program);
  Tensor<float> none({1, 1, 0, 16}), some = randomTensor({1, 1, 5, 16}, 1);
  Tensor<float> o({1, 1, 5, 16}, 3.0f);
  EXPECT_FALSE(bool(program->run(
      {none.view(), some.view(), some.view(), none.view(), 1.0f})));
  // No keys: the sum is 0.
  EXPECT_FALSE(bool(
      program->run({some.view(), none.view(), none.view(), o.view(), 1.0f})));
  for (float value : o.data)
    EXPECT_EQ(value, 0.0f);
}

/// P is rounded to the type of V before the second product, the result once.
TEST(Attention, BrainFloat) {
  int64_t s = 40, d = 32;
  auto toBits = [](float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  };
  auto toFloat = [](uint16_t x) {
    uint32_t bits = uint32_t(x) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
  };
  Tensor<float> q = randomTensor({1, 1, s, d}, 1);
  Tensor<float> k = randomTensor({1, 1, s, d}, 2);
  Tensor<float> v = randomTensor({1, 1, s, d}, 3);
  Tensor<uint16_t> qh({1, 1, s, d}), kh({1, 1, s, d}), vh({1, 1, s, d});
  Tensor<uint16_t> oh({1, 1, s, d});
  for (auto [wide, half] : {std::pair{&q, &qh}, {&k, &kh}, {&v, &vh}})
    for (size_t i = 0; i < wide->data.size(); ++i) {
      half->data[i] = toBits(wide->data[i]);
      wide->data[i] = toFloat(half->data[i]);
    }
  ASSERT_TRUE(runText(sigmoid(d, 16, 16, false, "bf16"),
                      {qh.view(), kh.view(), vh.view(), oh.view(), 0.2f}));
  std::vector<double> expected(s * d), actual(s * d);
  for (int64_t i = 0; i < s; ++i)
    for (int64_t j = 0; j < s; ++j) {
      double x = 0;
      for (int64_t c = 0; c < d; ++c)
        x += double(q(0, 0, i, c)) * k(0, 0, j, c);
      float p = toFloat(toBits(float(1 / (1 + std::exp(-double(0.2f) * x)))));
      for (int64_t c = 0; c < d; ++c)
        expected[i * d + c] += double(p) * v(0, 0, j, c);
    }
  double worst = 0, largest = 0;
  for (int64_t i = 0; i < s * d; ++i) {
    actual[i] = toFloat(oh.data[i]);
    worst = std::max(worst, std::abs(actual[i] - expected[i]));
    largest = std::max(largest, std::abs(expected[i]));
  }
  // Half an ulp of bf16, and P on the other side of a tie now and then.
  EXPECT_LT(worst / largest, 0x1p-8);
  EXPECT_GT(worst, 0);
}

std::string failureOf(CpuProgram &program, std::vector<Argument> arguments) {
  llvm::Error error = program.run(arguments);
  return error ? llvm::toString(std::move(error)) : "no error";
}

TEST(Attention, BadArguments) {
  auto program = compileText(sigmoid(16, 32, 16));
  ASSERT_TRUE(program);
  Tensor<float> good({1, 2, 5, 16}), wide({1, 2, 5, 17}), two({2, 2, 5, 16});
  Tensor<float> flat({5, 16});
  auto g = good.view();
  EXPECT_EQ(failureOf(*program, {g, g, g}),
            "program 'sigmoid' takes 5 arguments, got 3");
  EXPECT_EQ(failureOf(*program, {g, wide.view(), g, g, 1.0f}),
            "argument 'key': dim 3 must be 16, got 17; compile for this size "
            "or pass a tensor of that size");
  EXPECT_EQ(failureOf(*program, {g, flat.view(), g, g, 1.0f}),
            "argument 'key': expected a tensor of rank 4, got rank 2 with 2 "
            "strides");
  EXPECT_EQ(failureOf(*program, {g, g, g, g, int32_t(1)}),
            "argument 'scale': expected a scalar of type f32, got an i32");
  EXPECT_EQ(failureOf(*program, {g, g, 1.0f, g, 1.0f}),
            "argument 'value': expected a tensor of rank 4, got a scalar");
  EXPECT_EQ(failureOf(*program, {g, two.view(), two.view(), g, 1.0f}),
            "query has 1 sequences but key 2");
  ViewArgument null = g;
  null.data = nullptr;
  EXPECT_EQ(failureOf(*program, {g, g, g, null, 1.0f}),
            "argument 'output': the data pointer is null");
}

TEST(Attention, BadProcessor) {
  auto module = mlir::parseSourceString<mlir::ModuleOp>(sigmoid(8, 16, 16),
                                                        &getContext());
  auto program = CpuProgram::compile(*module, {"z80", "", 0});
  EXPECT_EQ(llvm::toString(program.takeError()),
            "unknown x86 processor 'z80'; try x86-64, x86-64-v3, x86-64-v4, "
            "znver4 or native");
  program = CpuProgram::compile(*module, {"", "+wings", 0});
  EXPECT_EQ(llvm::toString(program.takeError()),
            "unknown x86 feature '+wings'; expected a list such as "
            "'+avx2,-avx512f'");
}

} // namespace
