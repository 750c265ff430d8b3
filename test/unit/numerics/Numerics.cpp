//===- Numerics.cpp - Programs against the oracle -------------------------===//

#include "test/unit/numerics/Numerics.h"

#include "dialects/tile/Tile.h"
#include "lib/Target/CPU/CpuTarget.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "llvm/ADT/APFloat.h"
#include "llvm/ADT/STLExtras.h"
#include "gtest/gtest.h"

#include <cmath>
#include <cstring>
#include <map>

using namespace attnc;
using namespace attnc::numerics;
using namespace mlir;

//===----------------------------------------------------------------------===//
// Buffers
//===----------------------------------------------------------------------===//

const char *numerics::getName(Dtype dtype) {
  switch (dtype) {
  case Dtype::F32:
    return "f32";
  case Dtype::F16:
    return "f16";
  case Dtype::BF16:
    return "bf16";
  case Dtype::I32:
    return "i32";
  case Dtype::I8:
    return "i8";
  case Dtype::I1:
    return "i1";
  }
  return "";
}

static int64_t sizeOf(Dtype dtype) {
  switch (dtype) {
  case Dtype::F32:
  case Dtype::I32:
    return 4;
  case Dtype::F16:
  case Dtype::BF16:
    return 2;
  case Dtype::I8:
  case Dtype::I1:
    return 1;
  }
  return 0;
}

Buffer Buffer::make(Dtype dtype, std::vector<int64_t> shape, int64_t gap) {
  Buffer buffer;
  buffer.dtype = dtype;
  buffer.shape = shape;
  buffer.strides.resize(shape.size());
  int64_t stride = 1;
  for (size_t dim = shape.size(); dim-- > 0;) {
    buffer.strides[dim] = stride;
    stride = stride * shape[dim] + gap;
  }
  // All ones: NaN in every float type, -1 in integers.
  buffer.bytes.assign((stride + gap) * sizeOf(dtype), char(0xFF));
  for (int64_t k = 0; k < buffer.count(); ++k)
    buffer.set(k, 0);
  return buffer;
}

int64_t Buffer::count() const {
  int64_t count = 1;
  for (int64_t size : shape)
    count *= size;
  return count;
}

int64_t Buffer::offsetOf(int64_t position) const {
  int64_t offset = 0;
  for (size_t dim = shape.size(); dim-- > 0; position /= shape[dim])
    offset += position % shape[dim] * strides[dim];
  return offset * sizeOf(dtype);
}

template <typename T> static void store(char *at, T value) {
  std::memcpy(at, &value, sizeof value);
}

static uint16_t encodeHalf(double value, const llvm::fltSemantics &semantics) {
  llvm::APFloat x(value);
  bool lost;
  x.convert(semantics, llvm::APFloat::rmNearestTiesToEven, &lost);
  return x.bitcastToAPInt().getZExtValue();
}

void Buffer::set(int64_t position, double value) {
  char *at = bytes.data() + offsetOf(position);
  switch (dtype) {
  case Dtype::F32:
    return store(at, float(value));
  case Dtype::F16:
    return store(at, encodeHalf(value, llvm::APFloat::IEEEhalf()));
  case Dtype::BF16:
    return store(at, encodeHalf(value, llvm::APFloat::BFloat()));
  case Dtype::I32:
    return store(at, int32_t(value));
  case Dtype::I8:
  case Dtype::I1:
    return store(at, int8_t(value));
  }
}

double Buffer::get(int64_t position) const {
  const char *at = bytes.data() + offsetOf(position);
  float f;
  int32_t i;
  uint16_t h;
  switch (dtype) {
  case Dtype::F32:
    std::memcpy(&f, at, sizeof f);
    return f;
  case Dtype::I32:
    std::memcpy(&i, at, sizeof i);
    return i;
  case Dtype::F16:
  case Dtype::BF16: {
    std::memcpy(&h, at, sizeof h);
    llvm::APFloat x(dtype == Dtype::F16 ? llvm::APFloat::IEEEhalf()
                                        : llvm::APFloat::BFloat(),
                    llvm::APInt(16, h));
    return x.convertToFloat();
  }
  case Dtype::I8:
  case Dtype::I1:
    return *reinterpret_cast<const int8_t *>(at);
  }
  return 0;
}

Argument Buffer::argument() {
  ViewArgument view;
  view.data = bytes.data();
  view.sizes.assign(shape.begin(), shape.end());
  view.strides.assign(strides.begin(), strides.end());
  return view;
}

//===----------------------------------------------------------------------===//
// Compiling
//===----------------------------------------------------------------------===//

static std::string typeOf(const ArgumentValue &value) {
  if (std::holds_alternative<float>(value))
    return "f32";
  if (std::holds_alternative<int32_t>(value))
    return "i32";
  const Buffer &buffer = std::get<Buffer>(value);
  std::string type = "tensor<";
  // The head dim is static, all else dynamic.
  for (size_t dim = 0; dim < buffer.shape.size(); ++dim)
    type += (buffer.shape.size() == 4 && dim == 3
                 ? std::to_string(buffer.shape[dim])
                 : std::string("?")) +
            "x";
  return type + getName(buffer.dtype) + ">";
}

std::string Problem::getText(bool gradients) const {
  std::string text = head + "\nfunc.func @f(";
  for (auto [k, parameter] : llvm::enumerate(parameters)) {
    text += std::string(k ? ", " : "") + "%" + parameter.name + ": " +
            typeOf(parameter.value);
    if (gradients && llvm::is_contained(wanted, parameter.name))
      text += " {attn.gradient}";
  }
  text += ") -> (";
  for (auto [k, result] : llvm::enumerate(results))
    text += std::string(k ? ", " : "") + result +
            (gradients && lseGradient && k == 1 ? " {attn.gradient}" : "");
  // Compared before they are rounded.
  if (gradients)
    return text + ") attributes {attn.differentiate = f32} {\n" + body + "}\n";
  return text + ") {\n" + body + "}\n";
}

namespace {
struct Compiled {
  std::unique_ptr<MLIRContext> context;
  Artifact artifact;
  std::unique_ptr<CpuProgram> program;
  /// For each argument of the program, the tensor dim of each view dim.
  std::vector<std::vector<int64_t>> orders;
};
} // namespace

static Compiled *fail(const Problem &problem, llvm::Error error) {
  ADD_FAILURE() << llvm::toString(std::move(error)) << "\nof\n"
                << problem.getText();
  return nullptr;
}

static void readOrders(Compiled &compiled) {
  auto program = *compiled.artifact.module->getOps<tile::ProgramOp>().begin();
  for (BlockArgument argument : program.getBody().getArguments()) {
    std::vector<int64_t> order;
    if (auto dims = program.getArgAttrOfType<ArrayAttr>(argument.getArgNumber(),
                                                        tile::kDimsAttr))
      for (auto dim : dims.getAsRange<IntegerAttr>())
        order.push_back(dim.getInt());
    else if (auto view = dyn_cast<tile::ViewType>(argument.getType()))
      for (int64_t dim = 0; dim < view.getRank(); ++dim)
        order.push_back(dim);
    compiled.orders.push_back(order);
  }
}

static Compiled *compileProblem(const Problem &problem, const std::string &text,
                                const RunOptions &options) {
  static std::map<std::string, std::unique_ptr<Compiled>> cache;
  registerAllPasses();
  std::string key =
      targetName(options.target).str() + options.schedule + "\n" + text;
  std::unique_ptr<Compiled> &entry = cache[key];
  if (entry)
    return entry.get();
  auto compiled = std::make_unique<Compiled>();
  compiled->context = makeContext();
  CompileOptions compileOptions;
  compileOptions.target = options.target;
  compileOptions.schedule = options.schedule;
  auto artifact =
      parseArtifact(text, "problem", *compiled->context, compileOptions);
  if (!artifact)
    return fail(problem, artifact.takeError());
  compiled->artifact = std::move(*artifact);
  if (llvm::Error error =
          compile(compiled->artifact, compileOptions, Phase::Formula))
    return fail(problem, std::move(error));
  readOrders(*compiled);
  auto program = CpuProgram::compile(*compiled->artifact.module);
  if (!program)
    return fail(problem, program.takeError());
  compiled->program = std::move(*program);
  entry = std::move(compiled);
  return entry.get();
}

//===----------------------------------------------------------------------===//
// Running
//===----------------------------------------------------------------------===//

static Argument makeArgument(ArgumentValue &value) {
  if (auto *buffer = std::get_if<Buffer>(&value))
    return buffer->argument();
  if (auto *scalar = std::get_if<float>(&value))
    return *scalar;
  return std::get<int32_t>(value);
}

/// From the order of the tensor's dims to that of the view's.
static Argument reorder(Argument argument, llvm::ArrayRef<int64_t> order) {
  auto *view = std::get_if<ViewArgument>(&argument);
  if (!view)
    return argument;
  ViewArgument ordered;
  ordered.data = view->data;
  for (int64_t dim : order) {
    ordered.sizes.push_back(view->sizes[dim]);
    ordered.strides.push_back(view->strides[dim]);
  }
  return ordered;
}

/// Runs a program with `arguments` for its operands, in the order of the
/// tensors' dims; results of `shapes`.
static std::vector<Result>
runProgram(const Problem &problem, Compiled *compiled,
           std::vector<Argument> arguments, Dtype resultType,
           llvm::ArrayRef<std::vector<int64_t>> shapes) {
  if (!compiled)
    return {};
  std::vector<Buffer> outputs;
  for (const std::vector<int64_t> &shape : shapes) {
    // An LSE has three dims.
    bool isStat = resultType != Dtype::F32 && shape.size() == 3;
    outputs.push_back(Buffer::make(isStat ? Dtype::F32 : resultType, shape));
    // What is not written stays NaN.
    std::fill(outputs.back().bytes.begin(), outputs.back().bytes.end(),
              char(0xFF));
  }
  for (Buffer &output : outputs)
    arguments.push_back(output.argument());
  EXPECT_EQ(arguments.size(), compiled->orders.size());
  if (arguments.size() != compiled->orders.size())
    return {};
  for (auto [argument, order] : llvm::zip_equal(arguments, compiled->orders))
    argument = reorder(argument, order);
  if (llvm::Error error = compiled->program->run(arguments)) {
    fail(problem, std::move(error));
    return {};
  }
  std::vector<Result> results;
  for (const Buffer &output : outputs) {
    Result result{output.shape, std::vector<double>(output.count())};
    for (int64_t k = 0; k < output.count(); ++k)
      result.data[k] = output.get(k);
    results.push_back(std::move(result));
  }
  return results;
}

static std::vector<Argument> makeArguments(Problem &problem) {
  std::vector<Argument> arguments;
  for (Parameter &parameter : problem.parameters)
    arguments.push_back(makeArgument(parameter.value));
  return arguments;
}

std::vector<Result> numerics::run(Problem &problem, const RunOptions &options,
                                  llvm::ArrayRef<std::vector<int64_t>> shapes) {
  Compiled *compiled = compileProblem(problem, problem.getText(), options);
  return runProgram(problem, compiled, makeArguments(problem),
                    problem.resultType, shapes);
}

std::vector<oracle::Tensor>
numerics::evaluate(Problem &problem, oracle::Precision precision,
                   const std::optional<std::vector<int64_t>> &rows) {
  static std::unique_ptr<MLIRContext> context = makeContext();
  CompileOptions compileOptions;
  auto artifact =
      parseArtifact(problem.getText(), "problem", *context, compileOptions);
  if (!artifact) {
    fail(problem, artifact.takeError());
    return {};
  }
  std::vector<Argument> arguments;
  for (Parameter &parameter : problem.parameters)
    arguments.push_back(makeArgument(parameter.value));
  oracle::Options options;
  options.precision = precision;
  options.rows = rows;
  auto results = oracle::evaluate(
      *artifact->module->getOps<func::FuncOp>().begin(), arguments, options);
  if (results)
    return std::move(*results);
  fail(problem, results.takeError());
  return {};
}

/// The error against `exact`, where that has a finite value.
static double errorOf(llvm::ArrayRef<double> data,
                      const oracle::Tensor &exact) {
  return oracle::relativeError(data, exact.data);
}

double numerics::check(Problem &problem, const RunOptions &options) {
  Dtype dtype = std::get<Buffer>(problem.parameters[0].value).dtype;
  bool half = dtype != Dtype::F32;
  auto exact = evaluate(problem, oracle::Precision::Exact, options.rows);
  auto other = evaluate(
      problem, half ? oracle::Precision::Model : oracle::Precision::PlainF32,
      options.rows);
  std::vector<std::vector<int64_t>> shapes;
  for (const oracle::Tensor &tensor : exact) {
    shapes.emplace_back(tensor.shape.begin(), tensor.shape.end());
    // An oracle's NaN would excuse any result.
    EXPECT_TRUE(
        options.rows ||
        llvm::none_of(tensor.data, [](double x) { return std::isnan(x); }))
        << problem.getText();
  }
  std::vector<Result> results = run(problem, options, shapes);
  EXPECT_EQ(results.size(), problem.results.size());
  double worst = 0;
  for (size_t k = 0; k < results.size() && k < exact.size(); ++k) {
    double error = errorOf(results[k].data, exact[k]);
    double reference = errorOf(other[k].data, exact[k]);
    double bound =
        half ? 1.10 * reference + std::ldexp(1, -20) : 1.5 * reference;
    // A NaN error fails too.
    EXPECT_TRUE(error <= bound)
        << "result " << k << ": error " << error << ", bound " << bound
        << ", reference " << reference << "\ntarget "
        << targetName(options.target).str() << " " << options.schedule << "\n"
        << problem.getText();
    if (bound > 0)
      worst = std::max(worst, error / bound);
  }
  return worst;
}

//===----------------------------------------------------------------------===//
// Gradients
//===----------------------------------------------------------------------===//

static std::vector<std::vector<int64_t>>
shapesOf(llvm::ArrayRef<oracle::Tensor> tensors) {
  std::vector<std::vector<int64_t>> shapes;
  for (const oracle::Tensor &tensor : tensors)
    shapes.emplace_back(tensor.shape.begin(), tensor.shape.end());
  return shapes;
}

namespace {
/// A problem's gradients: what the program is called with, and the oracle.
class GradientProblem {
public:
  GradientProblem(Problem &problem, const RunOptions &runOptions)
      : problem(problem), runOptions(runOptions) {
    static std::unique_ptr<MLIRContext> context = makeContext();
    CompileOptions options;
    auto parsed = parseArtifact(problem.getText(/*gradients=*/true), "problem",
                                *context, options);
    if (!parsed) {
      fail(problem, parsed.takeError());
      return;
    }
    artifact = std::move(*parsed);
    makeOperands();
  }

  std::vector<Argument> arguments() {
    std::vector<Argument> all = makeArguments(problem);
    for (Buffer &buffer : handedOver)
      all.push_back(buffer.argument());
    return all;
  }

  std::vector<oracle::Tensor> evaluate(oracle::Precision precision) {
    oracle::Options options;
    options.precision = precision;
    if (!artifact.module)
      return {};
    auto results = oracle::differentiate(
        *artifact.module->getOps<func::FuncOp>().begin(), arguments(), options);
    if (results)
      return std::move(*results);
    fail(problem, results.takeError());
    return {};
  }

  /// The gradient of the output.
  Buffer &doutput() { return handedOver.back(); }
  /// And of the LSE, if the problem has one.
  Buffer &dlse() { return handedOver[2]; }

private:
  /// A softmax's output and LSE, or what an epilogue is given, as the forward
  /// program makes them, then a random gradient of the output. Rows beyond a
  /// length are NaN.
  void makeOperands() {
    auto shapes = shapesOf(
        numerics::evaluate(problem, oracle::Precision::Exact, std::nullopt));
    if (shapes.empty())
      return;
    Dtype outputType = problem.resultType;
    std::vector<Result> results;
    if (shapes.size() > 1)
      results = numerics::run(problem, runOptions, shapes);
    // The last result of an epilogue is what the gradient is given for.
    if (!results.empty() && problem.results.back() == problem.results.front())
      results.pop_back();
    if (!results.empty())
      for (const Result &result : results) {
        bool isOutput = handedOver.empty();
        handedOver.push_back(
            Buffer::make(isOutput ? outputType : Dtype::F32, result.shape));
        for (int64_t k = 0; k < int64_t(result.data.size()); ++k)
          handedOver.back().set(k, result.data[k]);
        if (isOutput && problem.beyond)
          problem.beyond(handedOver.back());
      }
    if (problem.lseGradient)
      handedOver.push_back(randomOf(Dtype::F32, shapes[1]));
    handedOver.push_back(randomOf(outputType, shapes[0]));
    if (problem.beyond)
      problem.beyond(handedOver.back());
  }

  static Buffer randomOf(Dtype type, const std::vector<int64_t> &shape) {
    Buffer buffer = Buffer::make(type, shape);
    std::mt19937 random(99);
    std::normal_distribution<double> normal;
    for (int64_t k = 0; k < buffer.count(); ++k)
      buffer.set(k, normal(random));
    return buffer;
  }

  Problem &problem;
  RunOptions runOptions;
  Artifact artifact;
  std::vector<Buffer> handedOver;
};
} // namespace

std::vector<oracle::Tensor>
numerics::differentiate(Problem &problem, oracle::Precision precision,
                        std::vector<double> *doutput,
                        std::vector<double> *dlse) {
  GradientProblem gradients(problem, {});
  auto results = gradients.evaluate(precision);
  if (doutput && !results.empty())
    for (int64_t k = 0; k < gradients.doutput().count(); ++k)
      doutput->push_back(gradients.doutput().get(k));
  if (dlse && problem.lseGradient && !results.empty())
    for (int64_t k = 0; k < gradients.dlse().count(); ++k)
      dlse->push_back(gradients.dlse().get(k));
  return results;
}

static std::vector<Result>
runGradients(Problem &problem, GradientProblem &gradients,
             const RunOptions &options,
             llvm::ArrayRef<std::vector<int64_t>> shapes) {
  Compiled *compiled =
      compileProblem(problem, problem.getText(/*gradients=*/true), options);
  return runProgram(problem, compiled, gradients.arguments(), Dtype::F32,
                    shapes);
}

std::vector<Result> numerics::runGradients(Problem &problem,
                                           const RunOptions &options) {
  GradientProblem gradients(problem, options);
  auto exact = gradients.evaluate(oracle::Precision::Exact);
  return ::runGradients(problem, gradients, options, shapesOf(exact));
}

double numerics::checkGradients(Problem &problem, const RunOptions &options) {
  Dtype dtype = std::get<Buffer>(problem.parameters[0].value).dtype;
  bool half = dtype != Dtype::F32;
  GradientProblem gradients(problem, options);
  auto exact = gradients.evaluate(oracle::Precision::Exact);
  auto other = gradients.evaluate(half ? oracle::Precision::Model
                                       : oracle::Precision::PlainF32);
  auto results = ::runGradients(problem, gradients, options, shapesOf(exact));
  EXPECT_FALSE(results.empty());
  EXPECT_EQ(results.size(), exact.size());
  double worst = 0;
  for (size_t k = 0; k < results.size() && k < exact.size(); ++k) {
    // An oracle's NaN would excuse any result.
    EXPECT_TRUE(llvm::none_of(exact[k].data, [](double x) {
      return std::isnan(x);
    })) << problem.getText(true);
    double error = errorOf(results[k].data, exact[k]);
    double reference = errorOf(other[k].data, exact[k]);
    double bound =
        half ? 1.15 * reference + std::ldexp(1, -20) : 1.5 * reference;
    EXPECT_TRUE(error <= bound)
        << "gradient " << k << ": error " << error << ", bound " << bound
        << ", reference " << reference << "\ntarget "
        << targetName(options.target).str() << " " << options.schedule << "\n"
        << problem.getText(true);
    if (bound > 0)
      worst = std::max(worst, error / bound);
  }
  return worst;
}
