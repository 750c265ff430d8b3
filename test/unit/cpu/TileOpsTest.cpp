//===- TileOpsTest.cpp - Each tile op on the CPU --------------------------===//

#include "test/unit/cpu/CpuTest.h"

#include "llvm/ADT/APFloat.h"

using namespace attnc;
using namespace attnc::test;

namespace {

std::string number(int64_t value) { return std::to_string(value); }

//===----------------------------------------------------------------------===//
// tile.dot
//===----------------------------------------------------------------------===//

const char *const dotText = R"(
#whole = affine_map<(r, c) -> (r, c)>
tile.program @program(%a: !tile.view<?x?xf32>, %b: !tile.view<?x?xf32>,
                      %o: !tile.view<?x?xf32>) {
  tile.launch @kernel(%a, %b, %o) : !tile.view<?x?xf32>, !tile.view<?x?xf32>,
                                    !tile.view<?x?xf32>
}
tile.kernel @kernel(%a: !tile.view<?x?xf32>, %b: !tile.view<?x?xf32>,
                    %o: !tile.view<?x?xf32>) {
  tile.items () in () {
    %x = tile.load %a[] by #whole : !tile.view<?x?xf32> -> !tile.tile<$A$xf32>
    %y = tile.load %b[] by #whole : !tile.view<?x?xf32> -> !tile.tile<$B$xf32>
    %s = tile.dot %x, %y $TA$ $TB$
        : !tile.tile<$A$xf32>, !tile.tile<$B$xf32> -> !tile.tile<$O$xf32>
    // Used twice: the sum may not overwrite it.
    %t = tile.dot %x, %y acc %s : !tile.tile<$O$xf32> $TA$ $TB$
        : !tile.tile<$A$xf32>, !tile.tile<$B$xf32> -> !tile.tile<$O$xf32>
    %u = tile.map(%s, %t : !tile.tile<$O$xf32>, !tile.tile<$O$xf32>) {
    ^bb0(%p: f32, %q: f32, %r: i32, %c: i32):
      %z = arith.addf %p, %q : f32
      tile.yield %z : f32
    } : !tile.tile<$O$xf32>
    tile.store %u, %o[] by #whole : !tile.tile<$O$xf32>, !tile.view<?x?xf32>
  }
}
)";

void checkDot(int64_t m, int64_t n, int64_t k, bool ta, bool tb,
              const std::string &cpu) {
  SCOPED_TRACE(number(m) + "x" + number(n) + "x" + number(k) +
               (ta ? " ta" : "") + (tb ? " tb" : "") + " " + cpu);
  Tensor<float> a = randomTensor(ta ? std::vector{k, m} : std::vector{m, k}, 1);
  Tensor<float> b = randomTensor(tb ? std::vector{n, k} : std::vector{k, n}, 2);
  Tensor<float> o({m, n});
  auto shape = [](int64_t r, int64_t c) { return number(r) + "x" + number(c); };
  std::string text = substitute(dotText, {{"A", ta ? shape(k, m) : shape(m, k)},
                                          {"B", tb ? shape(n, k) : shape(k, n)},
                                          {"O", shape(m, n)},
                                          {"TA", ta ? "transpose_a" : ""},
                                          {"TB", tb ? "transpose_b" : ""}});
  if (!runText(text, {a.view(), b.view(), o.view()}, {cpu, "", 0}))
    return;
  std::vector<double> expected(m * n);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j)
      for (int64_t l = 0; l < k; ++l)
        expected[i * n + j] +=
            3.0 * (ta ? a(l, i) : a(i, l)) * (tb ? b(j, l) : b(l, j));
  EXPECT_LT(relativeError(o.data, expected), 1e-6);
}

TEST(TileOps, Dot) {
  std::vector<std::string> cpus = testedCpus();
  int64_t shapes[][3] = {{1, 1, 1},   {3, 5, 7},    {16, 16, 16}, {33, 17, 40},
                         {64, 64, 8}, {100, 13, 3}, {7, 96, 31},  {128, 2, 64}};
  int which = 0;
  for (auto &[m, n, k] : shapes) {
    checkDot(m, n, k, which & 1, which & 2, cpus[which % cpus.size()]);
    ++which;
  }
  for (const std::string &cpu : cpus)
    for (int transposes = 0; transposes < 4; ++transposes)
      checkDot(18, 11, 9, transposes & 1, transposes & 2, cpu);
}

//===----------------------------------------------------------------------===//
// One tile in, one tile out
//===----------------------------------------------------------------------===//

const char *const oneTileText = R"(
#whole = affine_map<(r, c) -> (r, c)>
$DEFS$
tile.program @program(%a: !tile.view<?x?x$IN$>, %o: !tile.view<?x?x$OUT$>) {
  tile.launch @kernel(%a, %o)
      : !tile.view<?x?x$IN$>, !tile.view<?x?x$OUT$>
}
tile.kernel @kernel(%a: !tile.view<?x?x$IN$>, %o: !tile.view<?x?x$OUT$>) {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %f0 = arith.constant 0.0 : f32
  %height = tile.dim %a, 0 : !tile.view<?x?x$IN$>
  tile.items () in () {
    %x = tile.load %a[] by #whole
        : !tile.view<?x?x$IN$> -> !tile.tile<$R$x$C$x$IN$>
    $BODY$
    tile.store %y, %o[] by #whole
        : !tile.tile<$RO$x$CO$x$OUT$>, !tile.view<?x?x$OUT$>
  }
}
)";

struct OneTile {
  int64_t rows, cols;
  std::string body;
  std::string in = "f32", out = "f32";
  int64_t outRows = 0, outCols = 0;
  std::string definitions = "";

  std::string text() const {
    return substitute(oneTileText, {{"BODY", body},
                                    {"DEFS", definitions},
                                    {"IN", in},
                                    {"OUT", out},
                                    {"RO", number(outRows ? outRows : rows)},
                                    {"CO", number(outCols ? outCols : cols)},
                                    {"R", number(rows)},
                                    {"C", number(cols)}});
  }
};

template <typename Expected>
void checkOneTile(const OneTile &test, Expected expected) {
  int64_t outRows = test.outRows ? test.outRows : test.rows;
  int64_t outCols = test.outCols ? test.outCols : test.cols;
  for (const std::string &cpu : testedCpus()) {
    SCOPED_TRACE(cpu);
    Tensor<float> a = randomTensor({test.rows, test.cols}, 5);
    Tensor<float> o({outRows, outCols}, NAN);
    if (!runText(test.text(), {a.view(), o.view()}, {cpu, "", 0}))
      return;
    for (int64_t r = 0; r < outRows; ++r)
      for (int64_t c = 0; c < outCols; ++c)
        ASSERT_NEAR(o(r, c), expected(a, r, c), 1e-5) << r << ", " << c;
  }
}

TEST(TileOps, MapOfWidth) {
  checkOneTile({19, 12, R"(
    %y = tile.map(%x : !tile.tile<19x12xf32>) width 2 {
    ^bb0(%p: f32, %q: f32, %r: i32, %c: i32):
      %s = arith.sitofp %c : i32 to f32
      %t = arith.sitofp %r : i32 to f32
      %u = arith.mulf %p, %s : f32
      %v = arith.addf %q, %t : f32
      tile.yield %v, %u : f32, f32
    } : !tile.tile<19x12xf32>)"},
               [](Tensor<float> &a, int64_t r, int64_t c) {
                 return c % 2 == 0 ? a(r, c + 1) + r : a(r, c - 1) * (c - 1);
               });
}

TEST(TileOps, BroadcastAndReduce) {
  checkOneTile({21, 9, R"(
    %sum = tile.reduce add %x : !tile.tile<21x9xf32> -> !tile.tile<21x1xf32>
    %max = tile.reduce max %x : !tile.tile<21x9xf32> -> !tile.tile<21x1xf32>
    %first = tile.load %a[] by #whole
        : !tile.view<?x?xf32> -> !tile.tile<1x9xf32>
    %corner = tile.load %a[] by #whole
        : !tile.view<?x?xf32> -> !tile.tile<1x1xf32>
    %y = tile.map(%x, %sum, %max, %first, %corner : !tile.tile<21x9xf32>,
        !tile.tile<21x1xf32>, !tile.tile<21x1xf32>, !tile.tile<1x9xf32>,
        !tile.tile<1x1xf32>) {
    ^bb0(%p: f32, %s: f32, %m: f32, %f: f32, %k: f32, %r: i32, %c: i32):
      %0 = arith.mulf %p, %s : f32
      %1 = arith.addf %0, %m : f32
      %2 = arith.mulf %f, %k : f32
      %3 = arith.subf %1, %2 : f32
      tile.yield %3 : f32
    } : !tile.tile<21x9xf32>)"},
               [](Tensor<float> &a, int64_t r, int64_t c) {
                 double sum = 0, max = -INFINITY;
                 for (int64_t i = 0; i < 9; ++i) {
                   sum += a(r, i);
                   max = std::max<double>(max, a(r, i));
                 }
                 return a(r, c) * sum + max - double(a(0, c)) * a(0, 0);
               });
}

TEST(TileOps, MaskOutsideOfLoops) {
  checkOneTile({10, 20, R"(
    %col = tile.load %a[] by #whole
        : !tile.view<?x?xf32> -> !tile.tile<10x1xf32>
    %y = tile.mask %x captured(%col : !tile.tile<10x1xf32>) fill -2.0 {
    ^bb0(%r: i32, %c: i32, %v: f32):
      %below = arith.cmpi sle, %c, %r : i32
      %positive = arith.cmpf ogt, %v, %f0 : f32
      %keep = arith.andi %below, %positive : i1
      tile.yield %keep : i1
    } : !tile.tile<10x20xf32>)"},
               [](Tensor<float> &a, int64_t r, int64_t c) {
                 return c <= r && a(r, 0) > 0 ? a(r, c) : -2.0f;
               });
}

/// A block is full where it lies in [fullLo, fullHi): the mask, which would
/// zero everything, must not act there, and must elsewhere.
TEST(TileOps, FullBlocks) {
  checkOneTile({8, 4, R"(
    %lo = arith.constant 5 : index
    %fullLo = arith.constant 8 : index
    %fullHi = arith.constant 19 : index
    %hi = arith.constant 22 : index
    %init = tile.splat %f0 : f32 -> !tile.tile<8x4xf32>
    %y = tile.for_keys %j in (%lo, %fullLo, %fullHi, %hi) step 4
        iter_args(%acc = %init) -> (!tile.tile<8x4xf32>) {
      %j32 = arith.index_cast %j : index to i32
      %jf = arith.sitofp %j32 : i32 to f32
      %keys = tile.splat %jf : f32 -> !tile.tile<8x4xf32>
      %masked = tile.mask %keys fill 1000.0 {
      ^bb0(%r: i32, %c: i32):
        %never = arith.constant false
        tile.yield %never : i1
      } : !tile.tile<8x4xf32>
      %next = tile.map(%acc, %masked
          : !tile.tile<8x4xf32>, !tile.tile<8x4xf32>) {
      ^bb0(%s: f32, %k: f32, %r: i32, %c: i32):
        %t = arith.addf %s, %k : f32
        tile.yield %t : f32
      } : !tile.tile<8x4xf32>
      tile.yield %next : !tile.tile<8x4xf32>
    })"},
               [](Tensor<float> &, int64_t, int64_t) {
                 // 4 masked, 8 and 12 full, 16 and 20 masked.
                 return 1000 + 8 + 12 + 1000 + 1000;
               });
}

/// lo >= hi: no iteration, although lo's block begins before hi.
TEST(TileOps, EmptyRangeOfKeys) {
  checkOneTile({5, 3, R"(
    %lo = arith.constant 7 : index
    %hi = arith.constant 6 : index
    %y = tile.for_keys %j in (%lo, %lo, %lo, %hi) step 4
        iter_args(%acc = %x) -> (!tile.tile<5x3xf32>) {
      %bad = tile.splat %f0 : f32 -> !tile.tile<5x3xf32>
      tile.yield %bad : !tile.tile<5x3xf32>
    })"},
               [](Tensor<float> &a, int64_t r, int64_t c) { return a(r, c); });
}

/// Carried tiles exchange places, one of them also carries a scalar along.
TEST(TileOps, LoopsAndBranches) {
  checkOneTile({6, 5, R"(
    %three = arith.constant 3 : index
    %z = tile.splat %f0 : f32 -> !tile.tile<6x5xf32>
    %p, %q, %n = scf.for %i = %zero to %three step %one
        iter_args(%s = %x, %t = %z, %k = %f0)
        -> (!tile.tile<6x5xf32>, !tile.tile<6x5xf32>, f32) {
      %f1 = arith.constant 1.0 : f32
      %k1 = arith.addf %k, %f1 : f32
      %u = tile.map(%t : !tile.tile<6x5xf32>) {
      ^bb0(%v: f32, %r: i32, %c: i32):
        %w = arith.addf %v, %k1 : f32
        tile.yield %w : f32
      } : !tile.tile<6x5xf32>
      scf.yield %u, %s, %k1 : !tile.tile<6x5xf32>, !tile.tile<6x5xf32>, f32
    }
    %many = arith.cmpi sgt, %height, %three : index
    %y = scf.if %many -> (!tile.tile<6x5xf32>) {
      %d = tile.map(%p, %q : !tile.tile<6x5xf32>, !tile.tile<6x5xf32>) {
      ^bb0(%v: f32, %w: f32, %r: i32, %c: i32):
        %h = arith.constant 100.0 : f32
        %e = arith.mulf %w, %h : f32
        %g = arith.addf %v, %e : f32
        tile.yield %g : f32
      } : !tile.tile<6x5xf32>
      scf.yield %d : !tile.tile<6x5xf32>
    } else {
      scf.yield %z : !tile.tile<6x5xf32>
    })"},
               [](Tensor<float> &a, int64_t r, int64_t c) {
                 // (x, 0) -> (1, x) -> (x + 2, 1) -> (4, x + 2)
                 return 4 + 100 * (a(r, c) + 2);
               });
}

/// Which formula is taken depends on the slice; they are told apart here, so
/// the test allows each where its limit holds for the element. The second one
/// computes two elements at once.
TEST(TileOps, Speculate) {
  const char *body = R"(
    %y = tile.speculate(%x : !tile.tile<32x8xf32>) slice 4 limits [$LIMIT$]
    common {
    ^bb0(%v: f32, %r: i32, %c: i32):
      %guard = math.absf %v : f32
      %w = arith.addf %v, %v : f32
      tile.yield %guard, %w : f32, f32
    } fast {
    ^bb0(%w: f32, %r: i32, %c: i32):
      %f1 = arith.constant 1.0 : f32
      %z = arith.addf %w, %f1 : f32
      tile.yield %z : f32
    }, {
    ^bb0(%w: f32, %w2: f32, %r: i32, %c: i32):
      %f3 = arith.constant 3.0 : f32
      %z = arith.addf %w, %f3 : f32
      %z2 = arith.addf %w2, %f3 : f32
      tile.yield %z, %z2 : f32, f32
    } exact {
    ^bb0(%w: f32, %r: i32, %c: i32):
      %f2 = arith.constant 2.0 : f32
      %z = arith.addf %w, %f2 : f32
      tile.yield %z : f32
    } : !tile.tile<32x8xf32>)";
  for (auto [low, high] : {std::pair(0.0, 1.5), {1.2, 2.0}, {100.0, 200.0}}) {
    std::string limits = std::to_string(low) + ", " + std::to_string(high);
    OneTile test{32, 8, substitute(body, {{"LIMIT", limits}})};
    Tensor<float> a = randomTensor({32, 8}, 5), o({32, 8});
    ASSERT_TRUE(runText(test.text(), {a.view(), o.view()}));
    for (int64_t r = 0; r < 32; ++r)
      for (int64_t c = 0; c < 8; ++c) {
        bool first = o(r, c) == 2 * a(r, c) + 1;
        bool second = o(r, c) == 2 * a(r, c) + 3;
        bool exact = o(r, c) == 2 * a(r, c) + 2;
        EXPECT_TRUE(first || second || exact);
        EXPECT_TRUE(!first || std::abs(a(r, c)) <= low);
        EXPECT_TRUE(!second || std::abs(a(r, c)) <= high);
        EXPECT_TRUE(low < 100 || first);
      }
  }
  // A NaN guard takes the exact way.
  OneTile test{32, 8, substitute(body, {{"LIMIT", "1.0e29, 1.0e30"}})};
  Tensor<float> a({32, 8}, 1.0f), o({32, 8});
  a(3, 2) = NAN;
  ASSERT_TRUE(runText(test.text(), {a.view(), o.view()}));
  EXPECT_EQ(o(3, 3), 4.0f);
}

//===----------------------------------------------------------------------===//
// Affine maps
//===----------------------------------------------------------------------===//

/// A relative-position table: columns run against the dim, and most elements
/// lie outside.
TEST(TileOps, NegativeCoefficient) {
  checkOneTile({12, 16, R"(
    %y = tile.load %a[] by #relative
        : !tile.view<?x?xf32> -> !tile.tile<12x16xf32>)",
                "f32", "f32", 0, 0,
                "#relative = affine_map<(r, c) -> (3, r - 2 * c + 5)>"},
               [](Tensor<float> &a, int64_t r, int64_t c) {
                 int64_t at = r - 2 * c + 5;
                 return at >= 0 && at < 16 ? a(3, at) : 0;
               });
}

TEST(TileOps, NonlinearMap) {
  checkOneTile({12, 16, R"(
    %y = tile.load %a[] by #folded
        : !tile.view<?x?xf32> -> !tile.tile<12x16xf32>)",
                "f32", "f32", 0, 0,
                "#folded = affine_map<(r, c) -> (r floordiv 2 + c mod 3 - 1, "
                "c floordiv 2)>"},
               [](Tensor<float> &a, int64_t r, int64_t c) {
                 int64_t row = r / 2 + c % 3 - 1;
                 return row >= 0 && row < 12 ? a(row, c / 2) : 0;
               });
}

TEST(TileOps, RowsLimit) {
  checkOneTile({12, 16, R"(
    %seven = arith.constant 7 : index
    %y = tile.load %a[] by #whole rows %seven
        : !tile.view<?x?xf32> -> !tile.tile<12x16xf32>)"},
               [](Tensor<float> &a, int64_t r, int64_t c) {
                 return r < 7 ? a(r, c) : 0;
               });
}

//===----------------------------------------------------------------------===//
// Element types
//===----------------------------------------------------------------------===//

const llvm::fltSemantics &semanticsOf(const std::string &type) {
  if (type == "bf16")
    return llvm::APFloat::BFloat();
  if (type == "f16")
    return llvm::APFloat::IEEEhalf();
  if (type == "f8E5M2")
    return llvm::APFloat::Float8E5M2();
  return llvm::APFloat::Float8E4M3FN();
}

/// Every bit pattern is read as the number that it stands for.
template <typename Bits> void checkDecode(const std::string &type) {
  SCOPED_TRACE(type);
  int64_t count = int64_t(1) << (8 * sizeof(Bits));
  int64_t rows = count / 64;
  Tensor<Bits> a({rows, 64});
  for (int64_t i = 0; i < count; ++i)
    a.data[i] = Bits(i);
  Tensor<float> o({rows, 64});
  OneTile test{rows, 64,
               "%y = tile.cast %x : !tile.tile<" + number(rows) + "x64x" +
                   type + "> -> !tile.tile<" + number(rows) + "x64xf32>",
               type, "f32"};
  ASSERT_TRUE(runText(test.text(), {a.view(), o.view()}));
  for (int64_t i = 0; i < count; ++i) {
    llvm::APFloat value(semanticsOf(type), llvm::APInt(8 * sizeof(Bits), i));
    if (value.isNaN())
      ASSERT_TRUE(std::isnan(o.data[i])) << i;
    else
      ASSERT_EQ(o.data[i], value.convertToFloat()) << i;
  }
}

/// Numbers of all sizes are rounded to nearest even and written so.
template <typename Bits> void checkRound(const std::string &type) {
  SCOPED_TRACE(type);
  int64_t rows = 512, count = rows * 64;
  Tensor<float> a({rows, 64});
  std::mt19937 engine(9);
  int exponent;
  for (float &value : a.data) {
    uint32_t bits = engine();
    // Half of them near the middle between two numbers.
    if (engine() & 1)
      bits = (bits & 0xfffff000) + (engine() & 1 ? 0x800 : 0);
    std::memcpy(&value, &bits, 4);
    // Keep most in the range of the narrow types.
    if (engine() & 3)
      value = std::ldexp(std::frexp(value, &exponent), int(engine() % 48) - 28);
  }
  Tensor<Bits> o({rows, 64});
  OneTile test{rows, 64,
               "%y = tile.cast %x : !tile.tile<512x64xf32> -> "
               "!tile.tile<512x64x" +
                   type + ">",
               "f32", type};
  ASSERT_TRUE(runText(test.text(), {a.view(), o.view()}));
  for (int64_t i = 0; i < count; ++i) {
    llvm::APFloat value(a.data[i]);
    bool loses;
    value.convert(semanticsOf(type), llvm::APFloat::rmNearestTiesToEven,
                  &loses);
    uint64_t expected = value.bitcastToAPInt().getZExtValue();
    llvm::APFloat actual(semanticsOf(type),
                         llvm::APInt(8 * sizeof(Bits), o.data[i]));
    if (value.isNaN())
      ASSERT_TRUE(actual.isNaN()) << a.data[i];
    else
      ASSERT_EQ(uint64_t(o.data[i]), expected) << a.data[i];
  }
}

TEST(TileOps, Decode) {
  checkDecode<uint16_t>("bf16");
  checkDecode<uint16_t>("f16");
  checkDecode<uint8_t>("f8E5M2");
  checkDecode<uint8_t>("f8E4M3FN");
}

TEST(TileOps, Round) {
  checkRound<uint16_t>("bf16");
  checkRound<uint16_t>("f16");
  checkRound<uint8_t>("f8E5M2");
  checkRound<uint8_t>("f8E4M3FN");
}

TEST(TileOps, Integers) {
  Tensor<int8_t> a({20, 7});
  for (size_t i = 0; i < a.data.size(); ++i)
    a.data[i] = int8_t(i * 37);
  Tensor<int32_t> o({20, 7});
  OneTile test{20, 7, R"(
    %w = tile.cast %x : !tile.tile<20x7xi8> -> !tile.tile<20x7xf32>
    %y = tile.map(%x, %w : !tile.tile<20x7xi8>, !tile.tile<20x7xf32>) {
    ^bb0(%v: i8, %f: f32, %r: i32, %c: i32):
      %b = arith.constant 3 : i8
      %g = arith.muli %v, %b : i8
      %h = arith.extsi %g : i8 to i32
      %t = arith.fptosi %f : f32 to i32
      %s = arith.addi %h, %t : i32
      tile.yield %s : i32
    } : !tile.tile<20x7xi32>)",
               "i8", "i32"};
  ASSERT_TRUE(runText(test.text(), {a.view(), o.view()}));
  for (size_t i = 0; i < a.data.size(); ++i)
    ASSERT_EQ(o.data[i], int8_t(a.data[i] * 3) + a.data[i]);
}

//===----------------------------------------------------------------------===//
// Elementary functions
//===----------------------------------------------------------------------===//

/// The largest error in ulps of f32 over `values`, each exp or the like
/// computed in double.
void checkFunction(const std::string &op, double (*exact)(double), float from,
                   float to, double ulps) {
  SCOPED_TRACE(op);
  OneTile test{256, 64,
               substitute(R"(
    %y = tile.map(%x : !tile.tile<256x64xf32>) {
    ^bb0(%v: f32, %r: i32, %c: i32):
      %z = $OP$ %v : f32
      tile.yield %z : f32
    } : !tile.tile<256x64xf32>)",
                          {{"OP", op}})};
  Tensor<float> a({256, 64}), o({256, 64});
  size_t count = a.data.size();
  for (size_t i = 0; i < count; ++i)
    a.data[i] = from + (to - from) * float(i) / float(count - 1);
  // Small numbers and the special ones.
  for (size_t i = 0; i < 64; ++i)
    a.data[i * 7] = std::ldexp(i & 1 ? -1.3f : 1.7f, -int(i) / 2);
  float special[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN,
                     1.0f, -1.0f, 3e38f,    -3e38f};
  std::copy(std::begin(special), std::end(special), a.data.begin() + 1000);
  for (const std::string &cpu : testedCpus()) {
    SCOPED_TRACE(cpu);
    ASSERT_TRUE(runText(test.text(), {a.view(), o.view()}, {cpu, "", 0}));
    double worst = 0;
    float where = NAN;
    for (size_t i = 0; i < count; ++i) {
      double expected = exact(a.data[i]);
      bool isSine = op == "math.sin" || op == "math.cos";
      if (isSine && std::abs(a.data[i]) > 1e6)
        continue;
      if (std::isnan(expected)) {
        ASSERT_TRUE(std::isnan(o.data[i])) << a.data[i] << " " << o.data[i];
        continue;
      }
      if (std::isinf(float(expected))) {
        ASSERT_EQ(o.data[i], float(expected)) << a.data[i];
        continue;
      }
      // Denormal results may be zero.
      double size = std::max(std::abs(expected), 0x1p-126);
      double ulp = std::ldexp(1.0, std::ilogb(size) - 23);
      double error = std::abs(o.data[i] - expected) / ulp;
      if (std::abs(expected) < 0x1p-126 && std::abs(o.data[i]) < 0x1p-126)
        continue;
      if (!(error <= worst)) {
        worst = error;
        where = a.data[i];
      }
    }
    EXPECT_LT(worst, ulps) << "at " << where;
  }
}

TEST(TileOps, Functions) {
  checkFunction(
      "math.exp2", [](double x) { return std::exp2(x); }, -130, 130, 2);
  checkFunction("math.exp", [](double x) { return std::exp(x); }, -90, 90, 2);
  checkFunction("math.log", [](double x) { return std::log(x); }, 0, 20, 4);
  checkFunction(
      "math.log1p", [](double x) { return std::log1p(x); }, -1, 20, 4);
  checkFunction(
      "math.expm1", [](double x) { return std::expm1(x); }, -20, 20, 5);
  checkFunction("math.tanh", [](double x) { return std::tanh(x); }, -10, 10, 5);
  checkFunction("math.erf", [](double x) { return std::erf(x); }, -5, 5, 5);
  checkFunction("math.sin", [](double x) { return std::sin(x); }, -100, 100, 3);
  checkFunction("math.cos", [](double x) { return std::cos(x); }, -100, 100, 3);
  checkFunction("math.sqrt", [](double x) { return std::sqrt(x); }, 0, 1e6, 1);
  checkFunction(
      "math.rsqrt", [](double x) { return 1 / std::sqrt(x); }, 0, 1e6, 2);
  checkFunction("math.absf", [](double x) { return std::abs(x); }, -9, 9, 0.1);
}

TEST(TileOps, Power) {
  OneTile test{64, 64, R"(
    %y = tile.map(%x : !tile.tile<64x64xf32>) {
    ^bb0(%v: f32, %r: i32, %c: i32):
      %k = arith.constant 20 : i32
      %d = arith.subi %c, %k : i32
      %e = arith.sitofp %d : i32 to f32
      %h = arith.constant 0.5 : f32
      %f = arith.mulf %e, %h : f32
      %z = math.powf %v, %f : f32
      tile.yield %z : f32
    } : !tile.tile<64x64xf32>)"};
  Tensor<float> a = randomTensor({64, 64}, 5, 3), o({64, 64});
  for (int64_t c = 0; c < 64; ++c) {
    a(0, c) = 0.0f;
    a(1, c) = -0.0f;
    a(2, c) = INFINITY;
    a(3, c) = -INFINITY;
    a(4, c) = NAN;
    a(5, c) = 1.0f;
    a(6, c) = -1.0f;
  }
  for (const std::string &cpu : testedCpus()) {
    SCOPED_TRACE(cpu);
    ASSERT_TRUE(runText(test.text(), {a.view(), o.view()}, {cpu, "", 0}));
    for (int64_t r = 0; r < 64; ++r)
      for (int64_t c = 0; c < 64; ++c) {
        float expected = std::pow(double(a(r, c)), (c - 20) * 0.5);
        if (std::isnan(expected))
          ASSERT_TRUE(std::isnan(o(r, c))) << a(r, c) << " ^ " << c - 20;
        else if (std::isinf(expected) || expected == 0)
          ASSERT_EQ(o(r, c), expected) << a(r, c) << " ^ " << (c - 20) * 0.5;
        else
          ASSERT_LT(std::abs(o(r, c) / expected - 1), 2e-7)
              << a(r, c) << " ^ " << (c - 20) * 0.5;
      }
  }
}

TEST(TileOps, UnsupportedOps) {
  OneTile test{8, 8, R"(
    %y = tile.map(%x : !tile.tile<8x8xf32>) {
    ^bb0(%v: f32, %r: i32, %c: i32):
      %z = attn.logistic %v : f32
      tile.yield %z : f32
    } : !tile.tile<8x8xf32>)"};
  auto module =
      mlir::parseSourceString<mlir::ModuleOp>(test.text(), &getContext());
  auto program = CpuProgram::compile(*module);
  ASSERT_FALSE(bool(program));
  std::string message = llvm::toString(program.takeError());
  EXPECT_NE(message.find("'attn.logistic' op"), std::string::npos) << message;
}

} // namespace
