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

} // namespace
