//===- attention.cpp - Sigmoid attention against a BLAS on the CPU --------===//
//
//   attention-cpu [--threads N] [--repeats N] [--json FILE]
//   attention-cpu --memory N
//
// The first form measures sigmoid attention, full and causal, f32, B1 H8
// n2048, d64 and d128, and OpenBLAS's sgemm of 2048^3 in turns, A-B-A-B, in
// one process with as many threads. A ratio is the median of attention's
// useful FLOP/s over that of sgemm. On a machine that others use, wall time
// says little; the ratios of the calling thread's CPU time say what the code
// would do alone. The second form runs one head of length N and prints the
// peak memory beside inputs and outputs.
//
//===----------------------------------------------------------------------===//

#include "lib/Compiler/Compiler.h"
#include "lib/Target/CPU/CpuTarget.h"

#include "llvm/ADT/SmallString.h"
#include "llvm/Support/CommandLine.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/MemoryBuffer.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <dlfcn.h>
#include <random>
#include <vector>

using namespace attnc;
using namespace llvm;

static cl::opt<int> threadsOption("threads", cl::init(2),
                                  cl::desc("threads of both"));
static cl::opt<int> repeats("repeats", cl::init(9),
                            cl::desc("pairs of measurements"));
static cl::opt<std::string> jsonFile("json", cl::desc("where results go"));
static cl::opt<int64_t> memoryLength("memory", cl::init(0),
                                     cl::desc("measure memory at this n"));
static cl::opt<std::string> cpu("mcpu", cl::desc("processor to compile for"));

namespace {

ExitOnError check("attention-cpu: ");

double seconds(clockid_t clock) {
  timespec time;
  clock_gettime(clock, &time);
  return double(time.tv_sec) + 1e-9 * double(time.tv_nsec);
}

/// Elapsed and CPU time of the calling thread, for one call.
struct Timing {
  double wall, own;
};

template <typename Function> Timing measure(Function function) {
  double wall = seconds(CLOCK_MONOTONIC);
  double own = seconds(CLOCK_THREAD_CPUTIME_ID);
  function();
  return {seconds(CLOCK_MONOTONIC) - wall,
          seconds(CLOCK_THREAD_CPUTIME_ID) - own};
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

std::vector<float> randomNumbers(int64_t count, unsigned seed) {
  std::vector<float> numbers(count);
  std::minstd_rand engine(seed);
  std::uniform_real_distribution<float> uniform(-1, 1);
  for (float &number : numbers)
    number = uniform(engine);
  return numbers;
}

//===----------------------------------------------------------------------===//
// Attention
//===----------------------------------------------------------------------===//

const char *const source = R"(
func.func @attention(
    %query: tensor<?x?x?x{0}xf32>, %key: tensor<?x?x?x{0}xf32>,
    %value: tensor<?x?x?x{0}xf32>, %bias: f32)
    -> (tensor<?x?x?x{0}xf32> {{attn.name = "output"}) {{
  %scores = attn.scores %query, %key : tensor<?x?x?x{0}xf32>,
      tensor<?x?x?x{0}xf32> -> tensor<?x?x?x?xf32>
  %biased = attn.bias %scores, %bias map affine_map<(b, h, i, j) -> ()>
      : tensor<?x?x?x?xf32>, f32
  {1}
  %weights = attn.activation %masked {{
  ^bb0(%x: f32):
    %p = attn.logistic %x : f32
    attn.yield %p : f32
  } : tensor<?x?x?x?xf32>
  %o = attn.apply %weights, %value : tensor<?x?x?x?xf32>,
      tensor<?x?x?x{0}xf32> -> tensor<?x?x?x{0}xf32>
  return %o : tensor<?x?x?x{0}xf32>
}
)";

std::string sourceFor(int64_t d, bool causal) {
  const char *mask = causal ? "%mask = attn.causal_mask\n"
                              "  %masked = attn.mask %biased by %mask "
                              ": tensor<?x?x?x?xf32>"
                            : "";
  std::string text = formatv(source, d, mask).str();
  if (!causal)
    for (size_t at; (at = text.find("%masked")) != std::string::npos;)
      text.replace(at, 7, "%biased");
  return text;
}

struct Compiled {
  std::unique_ptr<mlir::MLIRContext> context;
  std::unique_ptr<CpuProgram> program;
};

Compiled compileAttention(int64_t d, bool causal) {
  Compiled result;
  registerAllPasses();
  result.context = makeContext();
  CompileOptions options;
  options.cpu = cpu;
  Artifact artifact = check(parseArtifact(sourceFor(d, causal), "attention",
                                          *result.context, options));
  check(compile(artifact, options, Phase::Formula));
  result.program =
      check(CpuProgram::compile(*artifact.module, {cpu, "", threadsOption}));
  return result;
}

/// (1, h, n, d) tensors of random numbers.
struct Problem {
  int64_t heads, length, d;
  std::vector<float> q, k, v, o;

  Problem(int64_t heads, int64_t length, int64_t d)
      : heads(heads), length(length), d(d),
        q(randomNumbers(heads * length * d, 1)),
        k(randomNumbers(heads * length * d, 2)),
        v(randomNumbers(heads * length * d, 3)), o(heads * length * d) {}

  Argument view(std::vector<float> &data) {
    return ViewArgument{data.data(),
                        {1, heads, length, d},
                        {heads * length * d, length * d, d, 1}};
  }
  void run(CpuProgram &program) {
    check(program.run({view(q), view(k), view(v),
                       float(-std::log(double(length))), view(o)}));
  }
  double flops(bool causal) const {
    double all = 4.0 * double(heads) * double(length) * double(length) * d;
    return causal ? all / 2 : all;
  }
};

//===----------------------------------------------------------------------===//
// The BLAS
//===----------------------------------------------------------------------===//

class Blas {
public:
  static constexpr int n = 2048;
  static constexpr double flops = 2.0 * n * n * n;

  explicit Blas(int threads) {
    void *library = dlopen("libopenblas.so.0", RTLD_NOW);
    if (!library)
      check(createStringError("libopenblas.so.0 is missing; install "
                              "libopenblas0"));
    find(library, "cblas_sgemm", gemm);
    find(library, "openblas_get_config", config);
    find(library, "openblas_get_corename", core);
    void (*setThreads)(int);
    find(library, "openblas_set_num_threads", setThreads);
    setThreads(threads);
  }

  void run() {
    gemm(101, 111, 111, n, n, n, 1, a.data(), n, b.data(), n, 0, c.data(), n);
  }
  std::string name() const { return std::string(config()) + " core " + core(); }

private:
  template <typename T>
  static void find(void *library, const char *symbol, T &function) {
    function = reinterpret_cast<T>(dlsym(library, symbol));
    if (!function)
      check(createStringError("libopenblas.so.0 has no %s", symbol));
  }

  void (*gemm)(int, int, int, int, int, int, float, const float *, int,
               const float *, int, float, float *, int);
  char *(*config)();
  char *(*core)();
  std::vector<float> a = randomNumbers(int64_t(n) * n, 4);
  std::vector<float> b = randomNumbers(int64_t(n) * n, 5);
  std::vector<float> c = std::vector<float>(size_t(n) * n);
};

//===----------------------------------------------------------------------===//
// Measurements
//===----------------------------------------------------------------------===//

std::string lineOf(const char *file, StringRef key) {
  auto buffer = MemoryBuffer::getFileAsStream(file);
  if (!buffer)
    return "";
  SmallVector<StringRef> lines;
  (*buffer)->getBuffer().split(lines, '\n');
  for (StringRef line : lines)
    if (line.starts_with(key))
      return line.split(':').second.trim().str();
  return "";
}

json::Object measureCase(int64_t d, bool causal, Blas &blas) {
  Compiled compiled;
  Timing compileTime = measure([&] { compiled = compileAttention(d, causal); });
  Problem problem(8, 2048, d);
  problem.run(*compiled.program);
  blas.run();
  std::vector<double> wall, own, blasWall, blasOwn;
  for (int i = 0; i < repeats; ++i) {
    Timing a = measure([&] { problem.run(*compiled.program); });
    Timing b = measure([&] { blas.run(); });
    wall.push_back(problem.flops(causal) / a.wall / 1e9);
    own.push_back(problem.flops(causal) / a.own / threadsOption / 1e9);
    blasWall.push_back(Blas::flops / b.wall / 1e9);
    blasOwn.push_back(Blas::flops / b.own / threadsOption / 1e9);
  }
  json::Object row{{"d", d},
                   {"causal", causal},
                   {"gflops", median(wall)},
                   {"sgemm_gflops", median(blasWall)},
                   {"ratio", median(wall) / median(blasWall)},
                   {"ratio_cpu_time", median(own) / median(blasOwn)},
                   {"compile_ms", compileTime.wall * 1e3},
                   {"compile_cpu_ms", compileTime.own * 1e3}};
  outs() << formatv("{0,-6} d{1,-4} {2,8:F1} {3,8:F1} {4,7:F2} {5,9:F2} "
                    "{6,8:F0} {7,8:F0}\n",
                    causal ? "causal" : "full", d, median(wall),
                    median(blasWall), median(wall) / median(blasWall),
                    median(own) / median(blasOwn), compileTime.wall * 1e3,
                    compileTime.own * 1e3);
  outs().flush();
  return row;
}

void measureMemory() {
  Compiled compiled = compileAttention(64, /*causal=*/true);
  Problem problem(1, memoryLength, 64);
  problem.run(*compiled.program);
  double tensors = 4.0 * problem.q.size() * sizeof(float);
  double peak = 0;
  if (StringRef(lineOf("/proc/self/status", "VmHWM"))
          .split(' ')
          .first.getAsDouble(peak))
    check(createStringError("/proc/self/status has no VmHWM"));
  outs() << formatv("n {0}: peak {1:F1} MB, of it tensors {2:F1} MB, "
                    "the rest {3:F1} MB\n",
                    memoryLength, peak / 1024, tensors / 0x1p20,
                    peak / 1024 - tensors / 0x1p20);
}

} // namespace

int main(int argc, char **argv) {
  cl::ParseCommandLineOptions(argc, argv, "attention on the CPU\n");
  if (memoryLength) {
    measureMemory();
    return 0;
  }
  Blas blas(threadsOption);
  outs() << "mask   d      GFLOP/s  sgemm   ratio  CPU time  compile  CPU ms\n";
  json::Array rows;
  for (int64_t d : {64, 128})
    for (bool causal : {false, true})
      rows.push_back(measureCase(d, causal, blas));
  if (jsonFile.empty())
    return 0;
  time_t now = std::time(nullptr);
  char date[32];
  std::strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%SZ", std::gmtime(&now));
  std::string command;
  for (int i = 0; i < argc; ++i)
    command += (i ? " " : "") +
               (i ? std::string(argv[i]) : std::string("attention-cpu"));
  json::Value result = json::Object{
      {"date", date},
      {"cpu", lineOf("/proc/cpuinfo", "model name")},
      {"load", (*check(errorOrToExpected(
                    MemoryBuffer::getFileAsStream("/proc/loadavg"))))
                   .getBuffer()
                   .rtrim()
                   .str()},
      {"llvm", LLVM_VERSION_STRING},
      {"blas", blas.name()},
      {"threads", int(threadsOption)},
      {"command", command},
      {"problem", "f32, B1 H8 n2048"},
      {"rows", std::move(rows)}};
  std::error_code failure;
  raw_fd_ostream file(jsonFile, failure);
  if (failure)
    check(createStringError(failure, "cannot write " + jsonFile));
  file << formatv("{0:2}\n", result);
  return 0;
}
