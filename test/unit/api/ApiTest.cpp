//===- ApiTest.cpp - The C interface and its C++ wrapper ------------------===//

#include "attnc/attnc.hpp"

#include "gtest/gtest.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace {

/// Sigmoid attention of f32 tensors, head dim 16, any sizes otherwise.
std::string sigmoidIr(const std::string &comment = "") {
  return "// " + comment + R"(
!q = tensor<?x?x?x16xf32>
!s = tensor<?x?x?x?xf32>
func.func @attention(%query: !q {attn.name = "query"},
                     %key: !q {attn.name = "key"},
                     %value: !q {attn.name = "value"},
                     %bias: f32 {attn.name = "bias"})
    -> (!q {attn.name = "output"}) {
  %scores = attn.scores %query, %key : !q, !q -> !s
  %biased = attn.bias %scores, %bias map affine_map<(b, h, i, j) -> ()>
    : !s, f32
  %weights = attn.activation %biased {
  ^bb0(%x: f32):
    %p = attn.logistic %x : f32
    attn.yield %p : f32
  } : !s
  %o = attn.apply %weights, %value : !s, !q -> !q
  return %o : !q
}
)";
}

/// All tests share one cache directory, which is gone afterwards.
class Surroundings : public ::testing::Environment {
public:
  void SetUp() override {
    char name[] = "/tmp/attnc-api-XXXXXX";
    directory = mkdtemp(name);
    setenv("ATTNC_CACHE_DIR", (directory + "/cache").c_str(), 1);
    setenv("ATTNC_LOG", "off", 1);
  }
  void TearDown() override {
    std::error_code ignored;
    std::filesystem::remove_all(directory, ignored);
  }
  static std::string directory;
};
std::string Surroundings::directory;
[[maybe_unused]] auto *surroundings =
    ::testing::AddGlobalTestEnvironment(new Surroundings);

attnc_counters counters() {
  attnc_counters current{};
  current.struct_size = sizeof(current);
  EXPECT_EQ(attnc_get_counters(&current), ATTNC_OK);
  return current;
}

attnc::Program sigmoid() {
  attnc::Program program;
  attnc::Status status = attnc::Program::fromIr(sigmoidIr(), program);
  EXPECT_TRUE(status) << status.message();
  return program;
}

/// Numbers in (-1, 1) that repeat from run to run.
std::vector<float> numbers(size_t count, unsigned seed) {
  std::vector<float> values(count);
  for (float &value : values) {
    seed = seed * 1664525u + 1013904223u;
    value = float(seed >> 8) / float(1 << 23) - 1;
  }
  return values;
}

/// The definition, for tensors (b, h, s, 16) in row-major memory.
std::vector<float> reference(const std::vector<float> &q,
                             const std::vector<float> &k,
                             const std::vector<float> &v, int heads, int rows,
                             int keys, float bias) {
  std::vector<float> o(size_t(heads) * rows * 16);
  for (int h = 0; h < heads; ++h)
    for (int i = 0; i < rows; ++i)
      for (int j = 0; j < keys; ++j) {
        double dot = 0;
        for (int d = 0; d < 16; ++d)
          dot +=
              double(q[(h * rows + i) * 16 + d]) * k[(h * keys + j) * 16 + d];
        double p = 1 / (1 + std::exp(-(dot / 4 + bias)));
        for (int d = 0; d < 16; ++d)
          o[(h * rows + i) * 16 + d] += float(p * v[(h * keys + j) * 16 + d]);
      }
  return o;
}

void expectNear(const std::vector<float> &got,
                const std::vector<float> &expected) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t k = 0; k < got.size(); ++k)
    ASSERT_NEAR(got[k], expected[k], 1e-4) << k;
}

/// Runs with heads, rows and keys as given and checks the result.
void check(const attnc::Program &program, int heads, int rows, int keys,
           float bias) {
  using attnc::Tensor;
  auto q = numbers(heads * rows * 16, 1), k = numbers(heads * keys * 16, 2),
       v = numbers(heads * keys * 16, 3);
  std::vector<float> o(q.size(), NAN);
  attnc::Status status =
      program.run({Tensor::contiguous(q.data(), {1, heads, rows, 16}),
                   Tensor::contiguous(k.data(), {1, heads, keys, 16}),
                   Tensor::contiguous(v.data(), {1, heads, keys, 16}), bias,
                   Tensor::contiguous(o.data(), {1, heads, rows, 16})});
  ASSERT_TRUE(status) << status.message();
  expectNear(o, reference(q, k, v, heads, rows, keys, bias));
}

} // namespace

TEST(Api, Versions) {
  EXPECT_EQ(attnc_api_version(), ATTNC_API_VERSION);
  EXPECT_EQ(std::strlen(attnc_compiler_fingerprint()), 32u);
  EXPECT_STRNE(attnc_version(), "");
}

TEST(Api, DescribesItsParameters) {
  attnc::Program program = sigmoid();
  auto parameters = program.parameters();
  ASSERT_EQ(parameters.size(), 5u);
  const char *names[] = {"query", "key", "value", "bias", "output"};
  for (int k = 0; k < 5; ++k)
    EXPECT_STREQ(parameters[k].name, names[k]);
  EXPECT_EQ(parameters[0].dtype, ATTNC_DTYPE_F32);
  EXPECT_EQ(parameters[0].rank, 4);
  EXPECT_EQ(parameters[0].sizes[0], -1);
  EXPECT_EQ(parameters[0].sizes[3], 16);
  EXPECT_EQ(parameters[3].kind, ATTNC_F32);
  EXPECT_TRUE(parameters[4].is_result);
  EXPECT_FALSE(parameters[0].is_result);
}

TEST(Api, OneProgramServesAllSizesAndScalars) {
  attnc::Program program = sigmoid();
  uint64_t before = counters().compiles;
  for (int keys : {1, 5, 33, 100})
    for (float bias : {0.0f, -2.5f})
      check(program, 2, 7, keys, bias);
  for (int length = 1; length <= 20; ++length)
    check(sigmoid(), 1, 1, length, 0.5f);
  EXPECT_EQ(counters().compiles, before);
}

/// Asked for anew each time, as code that describes each of its calls does.
TEST(Api, LengthsBiasesAndScalesCompileOneProgram) {
  static int compiles;
  compiles = 0;
  attnc_set_event_callback(
      [](const char *json, void *) {
        compiles += std::strstr(json, "\"event\":\"compile\"") != nullptr;
      },
      nullptr);
  attnc_attention attention = attnc::attention("silu");
  attention.head_dim = 16;
  attention.bias = "scalar";
  attention.scale = 1;
  std::vector<float> ones(50 * 16, 1.0f), output(16);
  auto query = attnc::Tensor::contiguous(ones.data(), {1, 1, 1, 16});
  auto result = attnc::Tensor::contiguous(output.data(), {1, 1, 1, 16});
  for (int64_t length = 1; length <= 50; ++length) {
    auto keys = attnc::Tensor::contiguous(ones.data(), {1, 1, length, 16});
    for (int bias = 0; bias < 50; ++bias)
      for (float scale : {0.1f, 0.2f, 0.3f, 0.4f, 0.5f}) {
        attention.seq = 1;
        attention.kv_seq = length;
        attnc::Program program;
        ASSERT_TRUE(attnc::Program::fromAttention(attention, program));
        attnc::Status status =
            program.run({query, keys, keys, scale, 1.0f, float(bias), result});
        ASSERT_TRUE(status) << status.message();
        float x = 16 * scale + float(bias);
        ASSERT_NEAR(output[0], float(length) * x / (1 + std::exp(-x)),
                    1e-4f * float(length) * x);
      }
  }
  attnc_set_event_callback(nullptr, nullptr);
  EXPECT_EQ(compiles, 1);
}

TEST(Api, StridesAreHonoured) {
  // The query as (b, s, h, d) in memory, the value backwards along keys.
  attnc::Program program = sigmoid();
  const int heads = 2, rows = 3, keys = 9;
  auto q = numbers(heads * rows * 16, 4), k = numbers(heads * keys * 16, 5),
       v = numbers(heads * keys * 16, 6);
  std::vector<float> qMoved(q.size()), vMoved(v.size()), o(q.size());
  for (int h = 0; h < heads; ++h) {
    for (int i = 0; i < rows; ++i)
      std::copy_n(&q[(h * rows + i) * 16], 16, &qMoved[(i * heads + h) * 16]);
    for (int j = 0; j < keys; ++j)
      std::copy_n(&v[(h * keys + j) * 16], 16,
                  &vMoved[(h * keys + keys - 1 - j) * 16]);
  }
  attnc::Tensor query = {qMoved.data(),
                         ATTNC_DTYPE_F32,
                         {1, heads, rows, 16},
                         {heads * rows * 16, 16, heads * 16, 1}};
  attnc::Tensor value = {&vMoved[(keys - 1) * 16],
                         ATTNC_DTYPE_F32,
                         {1, heads, keys, 16},
                         {heads * keys * 16, keys * 16, -16, 1}};
  attnc::Status status = program.run(
      {query, attnc::Tensor::contiguous(k.data(), {1, heads, keys, 16}), value,
       0.25f, attnc::Tensor::contiguous(o.data(), {1, heads, rows, 16})});
  ASSERT_TRUE(status) << status.message();
  expectNear(o, reference(q, k, v, heads, rows, keys, 0.25f));
}

TEST(Api, EmptySizesAreLegal) {
  attnc::Program program = sigmoid();
  check(program, 2, 3, 0, 0.0f); // zeros
  check(program, 2, 0, 3, 0.0f);
  check(program, 0, 3, 3, 0.0f);
}

/// The message of a run with one argument replaced.
static std::string messageWith(size_t index, attnc_argument replacement,
                               size_t count = 5) {
  attnc::Program program = sigmoid();
  static float data[16];
  static const int64_t sizes[] = {1, 1, 1, 16}, strides[] = {16, 16, 16, 1};
  attnc_argument arguments[6] = {};
  for (int k : {0, 1, 2, 4})
    arguments[k].as.tensor = {data, ATTNC_DTYPE_F32, 4, sizes, strides};
  arguments[3].kind = ATTNC_F32;
  if (index < 5)
    arguments[index] = replacement;
  attnc_status status =
      attnc_program_run(program.get(), arguments, count, nullptr, 0, nullptr);
  EXPECT_EQ(status, ATTNC_INVALID_ARGUMENT);
  return attnc_last_error();
}

TEST(Api, MessagesNameArgumentExpectedAndGot) {
  static float data[16];
  const int64_t wrong[] = {1, 1, 1, 8}, sizes[] = {1, 1, 1, 16},
                strides[] = {16, 16, 16, 1};
  attnc_argument scalar{};
  scalar.kind = ATTNC_F32;
  EXPECT_EQ(messageWith(1, scalar),
            "argument 'key': expected a tensor, got an f32");
  attnc_argument half{};
  half.as.tensor = {data, ATTNC_DTYPE_F16, 4, sizes, strides};
  EXPECT_EQ(messageWith(0, half),
            "argument 'query': expected elements of f32, got f16");
  attnc_argument narrow{};
  narrow.as.tensor = {data, ATTNC_DTYPE_F32, 4, wrong, strides};
  EXPECT_NE(messageWith(2, narrow).find("argument 'value': dim 3 must be 16, "
                                        "got 8"),
            std::string::npos);
  attnc_argument flat{};
  flat.as.tensor = {data, ATTNC_DTYPE_F32, 1, sizes, strides};
  EXPECT_NE(messageWith(0, flat).find("expected a tensor of rank 4, got rank "
                                      "1"),
            std::string::npos);
  attnc_argument null{};
  null.as.tensor = {nullptr, ATTNC_DTYPE_F32, 4, sizes, strides};
  EXPECT_NE(messageWith(0, null).find("'query': the data pointer is null"),
            std::string::npos);
  // Positions in a kernel are i32.
  int64_t many[] = {1, 1, 4, 16};
  attnc_argument tall{};
  tall.as.tensor = {data, ATTNC_DTYPE_F32, 4, many, strides};
  many[2] = int64_t{1} << 31;
  EXPECT_NE(messageWith(1, tall).find("'key': dim 2 has size 2147483648"),
            std::string::npos);
  many[0] = many[1] = many[2] = INT32_MAX;
  EXPECT_NE(messageWith(1, tall).find("pass it in parts"), std::string::npos);
  attnc_argument noStrides{};
  noStrides.as.tensor = {data, ATTNC_DTYPE_F32, 4, sizes, nullptr};
  EXPECT_NE(messageWith(0, noStrides).find("strides is null"),
            std::string::npos);
  EXPECT_NE(messageWith(9, {}, 4).find("takes 5 arguments (query, key, value, "
                                       "bias, output), got 4"),
            std::string::npos);
}

TEST(Api, BadRequestsAreRefusedWithAMessage) {
  attnc_program *program = nullptr;
  EXPECT_EQ(attnc_program_from_ir(nullptr, 0, nullptr, &program),
            ATTNC_INVALID_ARGUMENT);
  EXPECT_EQ(attnc_program_from_ir("func.func @", 11, nullptr, &program),
            ATTNC_COMPILE_FAILED);
  EXPECT_EQ(program, nullptr);
  EXPECT_NE(std::string(attnc_last_error()).find("<ir>:1"), std::string::npos)
      << attnc_last_error();
  attnc_options options{};
  EXPECT_EQ(attnc_program_from_ir("", 0, &options, &program),
            ATTNC_INVALID_ARGUMENT);
  EXPECT_NE(std::string(attnc_last_error()).find("struct_size"),
            std::string::npos);
  options.struct_size = sizeof(options);
  options.target = "abacus";
  EXPECT_EQ(attnc_program_from_ir("", 0, &options, &program),
            ATTNC_UNSUPPORTED);
  options.target = "cpu";
  options.cpu = "abacus";
  std::string ir = sigmoidIr();
  EXPECT_EQ(attnc_program_from_ir(ir.data(), ir.size(), &options, &program),
            ATTNC_INVALID_ARGUMENT);
  attnc_program_release(nullptr);
}

TEST(Api, ADescriptionIsWhatGenWrites) {
  attnc_attention attention = attnc::attention("softcap");
  attention.bias = "head";
  attention.causal = "bottom_right";
  attention.masks = "documents, dilated:3";
  attention.layout = "bshd";
  attention.dtype = ATTNC_DTYPE_BF16;
  attention.out_dtype = ATTNC_DTYPE_F32;
  attention.head_dim = 32;
  attention.heads = 4;
  attention.kv_heads = 2;
  attention.window = attention.scale = attention.kv_len = attention.lse = 1;
  size_t length = 0;
  ASSERT_EQ(attnc_attention_ir(&attention, nullptr, 0, &length), ATTNC_OK)
      << attnc_last_error();
  std::string ir(length + 1, 'x'), start(10, 'x');
  ASSERT_EQ(attnc_attention_ir(&attention, ir.data(), ir.size(), &length),
            ATTNC_OK);
  ASSERT_EQ(attnc_attention_ir(&attention, start.data(), 10, &length),
            ATTNC_OK);
  EXPECT_STREQ(start.c_str(), ir.substr(0, 9).c_str());
  std::string command =
      ATTNC_BINARY_DIR "/bin/attnc gen --score=softcap --bias=head --scale "
                       "--lse --causal --window=-1,-1 --mask=documents "
                       "--mask=dilated:3 --kv-len --head-dim=32 --heads=4 "
                       "--kv-heads=2 --dtype=bf16 --out-dtype=f32 "
                       "--layout=bshd";
  FILE *gen = popen(command.c_str(), "r");
  ASSERT_NE(gen, nullptr);
  std::string expected(length + 100, 0);
  expected.resize(fread(expected.data(), 1, expected.size(), gen));
  EXPECT_EQ(pclose(gen), 0);
  ir.resize(length);
  EXPECT_EQ(ir, expected);
}

TEST(Api, ADescriptionNeedsNoSizes) {
  attnc_attention attention = attnc::attention();
  attention.head_dim = 16;
  attnc::Program general, sized, exact;
  ASSERT_TRUE(attnc::Program::fromAttention(attention, general));
  check(general, 2, 7, 9, -1.0f);
  attention.batch = 1;
  attention.heads = attention.kv_heads = 2;
  attention.seq = 7;
  attention.kv_seq = 9;
  uint64_t before = counters().compiles;
  ASSERT_TRUE(attnc::Program::fromAttention(attention, sized));
  EXPECT_EQ(sized.key(), general.key());
  EXPECT_EQ(counters().compiles, before);
  attnc::Options options;
  options.policy = "strange";
  EXPECT_EQ(attnc::Program::fromAttention(attention, exact, options).code(),
            ATTNC_INVALID_ARGUMENT);
}

static attnc_attention sizedAttention() {
  attnc_attention attention = attnc::attention();
  attention.head_dim = 16;
  attention.batch = 1;
  attention.heads = 2;
  attention.seq = 7;
  attention.kv_seq = 9;
  return attention;
}

TEST(Api, ExactAndAutoServeOtherSizesToo) {
  attnc_attention attention = sizedAttention();
  for (const char *policy : {"exact", "auto"}) {
    attnc::Options options;
    options.policy = policy;
    attnc::Program program;
    attnc::Status status =
        attnc::Program::fromAttention(attention, program, options);
    ASSERT_TRUE(status) << status.message();
    ASSERT_TRUE(program.warmUp());
    check(program, 2, 7, 9, -1.0f);
    check(program, 3, 5, 11, -1.0f);
  }
  attnc::Options options;
  options.policy = "auto";
  attnc::Program program;
  setenv("ATTNC_DETERMINISTIC", "1", 1);
  EXPECT_EQ(attnc::Program::fromAttention(attention, program, options).code(),
            ATTNC_UNSUPPORTED);
  unsetenv("ATTNC_DETERMINISTIC");
}

/// Gradients by description: the arguments of docs/backward.md, and the same
/// numbers from the program for these sizes as from the one for any.
TEST(Api, GradientsAreDescribedToo) {
  attnc_attention attention = sizedAttention();
  attention.backward = "all";
  std::vector<float> q = numbers(2 * 7 * 16, 1), k = numbers(2 * 9 * 16, 2),
                     v = numbers(2 * 9 * 16, 3), o = numbers(2 * 7 * 16, 4);
  std::vector<std::vector<float>> found;
  for (const char *policy : {"dynamic", "exact", "auto"}) {
    attnc::Options options;
    options.policy = policy;
    attnc::Program program;
    attnc::Status status =
        attnc::Program::fromAttention(attention, program, options);
    ASSERT_TRUE(status) << status.message();
    ASSERT_TRUE(program.warmUp());
    std::vector<std::string> names;
    for (const attnc_argument_info &info : program.parameters())
      names.push_back(info.name);
    EXPECT_EQ(names, (std::vector<std::string>{"query", "key", "value", "bias",
                                               "doutput", "dquery", "dkey",
                                               "dvalue", "dbias"}));
    std::vector<float> dq(q.size()), dk(k.size()), dv(v.size()), dbias(1);
    auto tensor = [](std::vector<float> &data, int64_t rows) {
      return attnc::Tensor::contiguous(data.data(), {1, 2, rows, 16});
    };
    auto run =
        program.run({tensor(q, 7), tensor(k, 9), tensor(v, 9), -1.0f,
                     tensor(o, 7), tensor(dq, 7), tensor(dk, 9), tensor(dv, 9),
                     attnc::Tensor::contiguous(dbias.data(), {})});
    ASSERT_TRUE(run) << run.message();
    found.insert(found.end(), {dq, dk, dv, dbias});
  }
  // dV = P^T dO, in double.
  std::vector<float> expected(v.size());
  for (int h = 0; h < 2; ++h)
    for (int i = 0; i < 7; ++i)
      for (int j = 0; j < 9; ++j) {
        double dot = 0;
        for (int d = 0; d < 16; ++d)
          dot += double(q[(h * 7 + i) * 16 + d]) * k[(h * 9 + j) * 16 + d];
        double p = 1 / (1 + std::exp(-(dot / 4 - 1)));
        for (int d = 0; d < 16; ++d)
          expected[(h * 9 + j) * 16 + d] += float(p * o[(h * 7 + i) * 16 + d]);
      }
  expectNear(found[2], expected);
  for (size_t each = 4; each < found.size(); ++each)
    expectNear(found[each], found[each % 4]);
}

TEST(Api, AWrongDescriptionIsNamed) {
  auto messageOf = [](attnc_attention attention) {
    attnc::Program program;
    attnc::Status status = attnc::Program::fromAttention(attention, program);
    EXPECT_EQ(status.code(), ATTNC_INVALID_ARGUMENT);
    return status.message();
  };
  EXPECT_EQ(messageOf(attnc::attention("sigmod")).substr(0, 45),
            "attnc_attention.score: expected one of sigmoi");
  attnc_attention attention = attnc::attention("cosine");
  attention.heads = 4;
  attention.kv_heads = 3;
  EXPECT_EQ(messageOf(attention),
            "attnc_attention.kv_heads: expected a divisor of "
            "attnc_attention.heads = 4, got 3");
  attention = attnc::attention();
  attention.dtype = ATTNC_DTYPE_I32;
  EXPECT_EQ(messageOf(attention), "attnc_attention.dtype is 4; expected "
                                  "ATTNC_DTYPE_F32, F16 or BF16");
  attention = attnc::attention();
  attention.backward = "query";
  EXPECT_EQ(messageOf(attention), "attnc_attention.backward: expected one of "
                                  "operands, all, got 'query'");
  attention = attnc::attention();
  attention.struct_size += 8;
  EXPECT_NE(messageOf(attention).find("attnc_attention.struct_size"),
            std::string::npos);
}

TEST(Api, ErrorsBelongToTheirThread) {
  attnc_program *program = nullptr;
  attnc_program_from_ir(nullptr, 0, nullptr, &program);
  std::string here = attnc_last_error();
  std::thread other([] { EXPECT_STREQ(attnc_last_error(), ""); });
  other.join();
  EXPECT_EQ(attnc_last_error(), here);
}

TEST(Api, TheSecondProcessLoadsFromDisk) {
  sigmoid(); // on disk now
  std::string script = "cd " + Surroundings::directory +
                       " && cat > again.mlir <<'EOF'\n" + sigmoidIr() +
                       "EOF\nATTNC_JIT=forbid " ATTNC_BINARY_DIR
                       "/bin/attnc cache add again.mlir";
  EXPECT_EQ(std::system(script.c_str()), 0);
}

TEST(Api, EventsReachTheCallback) {
  std::vector<std::string> events;
  attnc_set_event_callback(
      [](const char *json, void *list) {
        static_cast<std::vector<std::string> *>(list)->push_back(json);
      },
      &events);
  attnc::Program program;
  ASSERT_TRUE(attnc::Program::fromIr(sigmoidIr("not seen before"), program));
  attnc_set_event_callback(nullptr, nullptr);
  std::string all;
  for (const std::string &event : events)
    all += event + "\n";
  for (const char *part : {"\"event\":\"miss\"", "\"event\":\"compile\"",
                           "\"seconds\":{", "\"event\":\"publish\""})
    EXPECT_NE(all.find(part), std::string::npos) << part << " in\n" << all;
}

TEST(Api, ThreadsRunOneProgramAtOnce) {
  attnc::Program program = sigmoid();
  std::vector<std::thread> threads;
  for (int k = 0; k < 4; ++k)
    threads.emplace_back([&, k] { check(program, 2, 5 + k, 40 + k, -1.0f); });
  for (std::thread &thread : threads)
    thread.join();
}

TEST(Api, AForkedChildRunsPrograms) {
  attnc::Program program = sigmoid();
  check(program, 4, 40, 40, 0.0f); // the pool exists now
  std::fflush(nullptr);
  pid_t pid = fork();
  if (pid == 0) {
    alarm(60); // hanging is failing
    check(program, 4, 40, 40, 0.0f);
    _exit(::testing::Test::HasFailure());
  }
  int status = 0;
  waitpid(pid, &status, 0);
  EXPECT_EQ(status, 0);
}

TEST(Api, AForkedChildCompilesAndLoadsPrograms) {
  attnc::Program program;
  ASSERT_TRUE(attnc::Program::fromIr(sigmoidIr("of the parent"), program));
  pid_t child = fork();
  if (!child) {
    alarm(100); // a hang is a failure, not a hang of the suite
    std::string ir = sigmoidIr("of the child");
    ir.replace(ir.find("attn.logistic %x"), 16, "arith.negf %x");
    attnc::Program other;
    _exit(attnc::Program::fromIr(ir, other) ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST(Api, EmitsWhatACompileMakes) {
  std::string ir = sigmoidIr();
  size_t length = 0;
  ASSERT_EQ(
      attnc_emit(ir.data(), ir.size(), nullptr, "fused", nullptr, 0, &length),
      ATTNC_OK)
      << attnc_last_error();
  std::string fused(length + 1, 'x');
  attnc_options options = {};
  options.struct_size = sizeof(options);
  options.target = "sm_90a";
  ASSERT_EQ(attnc_emit(ir.data(), ir.size(), nullptr, "fused", fused.data(),
                       fused.size(), &length),
            ATTNC_OK);
  EXPECT_NE(fused.find("attn.fused"), std::string::npos);
  EXPECT_EQ(fused[length], 0);
  EXPECT_EQ(
      attnc_emit(ir.data(), ir.size(), nullptr, "ptx", nullptr, 0, &length),
      ATTNC_INVALID_ARGUMENT);
  EXPECT_NE(std::strstr(attnc_last_error(), "fused"), nullptr);
  EXPECT_EQ(attnc_emit("nonsense", 8, nullptr, "fused", nullptr, 0, &length),
            ATTNC_COMPILE_FAILED);
  EXPECT_EQ(
      attnc_emit(ir.data(), ir.size(), &options, nullptr, nullptr, 0, &length),
      ATTNC_INVALID_ARGUMENT);
}

TEST(Api, TheLibraryExportsTheCInterfaceAlone) {
  std::string command =
      ATTNC_NM " -D --defined-only " ATTNC_BINARY_DIR "/lib/libattnc.so";
  FILE *symbols = popen(command.c_str(), "r");
  ASSERT_NE(symbols, nullptr);
  char line[512];
  int exported = 0;
  while (std::fgets(line, sizeof(line), symbols)) {
    const char *name = std::strrchr(line, ' ');
    ASSERT_NE(name, nullptr) << line;
    EXPECT_EQ(std::strncmp(name + 1, "attnc_", 6), 0) << line;
    ++exported;
  }
  EXPECT_EQ(pclose(symbols), 0);
  // What the header declares, and the command line of a wheel's program.
  EXPECT_EQ(exported, 20 + 1);
}

TEST(Api, TheExamplesRun) {
  for (const char *flags : {"--causal", ""}) {
    std::string ir = Surroundings::directory + "/example.mlir";
    std::string gen = std::string(ATTNC_BINARY_DIR "/bin/attnc gen "
                                                   "--score=sigmoid "
                                                   "--head-dim=64 ") +
                      flags + " -o " + ir;
    ASSERT_EQ(std::system(gen.c_str()), 0);
    // The last row of a causal mask attends every key too.
    std::string c = ATTNC_BINARY_DIR "/bin/example-c " + ir;
    EXPECT_EQ(std::system(c.c_str()), 0);
    if (!*flags) {
      std::string cpp = ATTNC_BINARY_DIR "/bin/example-cpp " + ir;
      EXPECT_EQ(std::system(cpp.c_str()), 0);
    }
  }
}
