//===- Measure.cpp - Which of several programs is faster ------------------===//

#include "lib/Api/Measure.h"

#include "lib/Compiler/Compiler.h"
#include "lib/Program/PlanCode.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/BuiltinTypes.h"
#include "llvm/ADT/APFloat.h"
#include "llvm/ADT/StringSwitch.h"

#include <algorithm>
#include <atomic>
#include <cmath>

using namespace attnc;
using namespace mlir;
using llvm::Error;
using llvm::Expected;

double attnc::medianOf(std::vector<double> values) {
  if (values.empty())
    return 0;
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double attnc::spreadOf(std::vector<double> values) {
  if (values.size() < 4)
    return 0;
  std::sort(values.begin(), values.end());
  size_t quarter = values.size() / 4;
  double median = values[values.size() / 2];
  return (values[values.size() - 1 - quarter] - values[quarter]) / 2 / median;
}

//===----------------------------------------------------------------------===//
// Shapes
//===----------------------------------------------------------------------===//

static Error addShape(StringAttr name, Type type,
                      std::vector<ArgumentShape> &shapes) {
  ArgumentShape shape;
  shape.name = name ? name.str() : "";
  if (auto tensor = dyn_cast<RankedTensorType>(type))
    shape.sizes.assign(tensor.getShape().begin(), tensor.getShape().end());
  if (llvm::is_contained(shape.sizes, ShapedType::kDynamic))
    return llvm::createStringError(
        "the sizes of '" + shape.name +
        "' are not all known; expected batch, heads and seq");
  shapes.push_back(std::move(shape));
  return Error::success();
}

Expected<std::vector<ArgumentShape>>
attnc::shapesOf(AttentionDescription description) {
  // Logical order is that of this layout.
  description.layout = "bhsd";
  auto ir = writeAttention(description, "", "attnc_attention.");
  if (!ir)
    return ir.takeError();
  auto context = makeContext();
  CompileOptions options;
  auto artifact = parseArtifact(*ir, "<ir>", *context, options);
  if (!artifact)
    return artifact.takeError();
  // Gradients are arguments that differentiation adds.
  if (!description.backward.empty()) {
    registerAllPasses();
    if (Error error = compile(*artifact, options, Phase::Fused))
      return std::move(error);
  }
  std::vector<ArgumentShape> shapes;
  for (auto function : artifact->module->getOps<func::FuncOp>()) {
    for (unsigned k = 0; k < function.getNumArguments(); ++k)
      if (Error error =
              addShape(function.getArgAttrOfType<StringAttr>(k, "attn.name"),
                       function.getArgumentTypes()[k], shapes))
        return std::move(error);
    for (unsigned k = 0; k < function.getNumResults(); ++k)
      if (Error error =
              addShape(function.getResultAttrOfType<StringAttr>(k, "attn.name"),
                       function.getResultTypes()[k], shapes))
        return std::move(error);
  }
  return shapes;
}

//===----------------------------------------------------------------------===//
// Arguments
//===----------------------------------------------------------------------===//

Expected<std::unique_ptr<Stopwatch>>
Stopwatch::create(const RunnableProgram &like,
                  const std::vector<ArgumentShape> &shapes, int device) {
  // Bound calls are kept by their numbers, and this one is no number of a
  // pointer, size or scalar.
  static std::atomic<uint64_t> count{0};
  std::unique_ptr<Stopwatch> watch(new Stopwatch);
  watch->id = ~uint64_t(0) - ++count;
  watch->device = device;
  auto memory = like.memory(device);
  if (!memory)
    return memory.takeError();
  watch->memory = std::move(*memory);
  for (const ArgumentShape &shape : shapes)
    if (shape.name == "key" && shape.sizes.size() == 4) {
      watch->longest = std::max<int64_t>(shape.sizes[2], 1);
      watch->features = std::max<int64_t>(shape.sizes[3], 1);
    }
  for (const ParameterInfo &parameter : like.parameters()) {
    auto shape = llvm::find_if(shapes, [&](const ArgumentShape &shape) {
      return shape.name == parameter.name;
    });
    if (shape == shapes.end())
      return llvm::createStringError("there is no shape for argument '" +
                                     parameter.name + "'");
    if (parameter.kind == ParameterInfo::Kind::Tensor) {
      if (Error error = watch->addTensor(parameter, shape->sizes))
        return std::move(error);
    } else {
      watch->addScalar(parameter);
    }
  }
  return watch;
}

namespace {
/// What the elements of a tensor are, as bytes to repeat.
struct Filling {
  std::vector<char> bytes;
  int64_t elementBytes;
};
} // namespace

/// About N(mean, 1), the same each time. A GPU's clocks fall with the bits that
/// change, so that constants would be timed at clocks that nobody sees.
static Filling randomNumbers(const llvm::fltSemantics &type, float mean) {
  constexpr int count = 65521; // a prime: rows do not repeat
  Filling pattern{{}, int64_t(llvm::APFloat::getSizeInBits(type)) / 8};
  uint32_t state = 1;
  for (int k = 0; k < count; ++k) {
    float sum = 0; // of four uniform numbers, of variance 1 after scaling
    for (int part = 0; part < 4; ++part) {
      state = state * 1664525u + 1013904223u;
      sum += float(state >> 8) * 0x1p-24f - 0.5f;
    }
    llvm::APFloat value(sum * 1.7320508f + mean);
    bool inexact;
    value.convert(type, llvm::APFloat::rmNearestTiesToEven, &inexact);
    uint64_t bits = value.bitcastToAPInt().getZExtValue();
    const char *raw = reinterpret_cast<const char *>(&bits);
    pattern.bytes.insert(pattern.bytes.end(), raw, raw + pattern.elementBytes);
  }
  return pattern;
}

/// Every key for lengths, true for masks, else random numbers.
static std::optional<Filling> patternOf(llvm::StringRef type, int32_t longest,
                                        float mean) {
  if (type == "i1")
    return Filling{{1}, 1};
  if (type == "i32") {
    const char *raw = reinterpret_cast<const char *>(&longest);
    return Filling{{raw, raw + sizeof(longest)}, sizeof(longest)};
  }
  auto *semantics = llvm::StringSwitch<const llvm::fltSemantics *>(type)
                        .Case("f32", &llvm::APFloat::IEEEsingle())
                        .Case("f16", &llvm::APFloat::IEEEhalf())
                        .Case("bf16", &llvm::APFloat::BFloat())
                        .Default(nullptr);
  if (!semantics)
    return std::nullopt;
  return randomNumbers(*semantics, mean);
}

Error Stopwatch::addTensor(const ParameterInfo &parameter,
                           llvm::ArrayRef<int64_t> sizes) {
  int64_t count = 1;
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t k = sizes.size(); k-- > 0; count *= sizes[k])
    strides[k] = count;
  // What a softmax's gradients are handed, so that weights add to about 1.
  float mean = parameter.name == "lse" ? std::log(float(longest)) : 0;
  auto pattern = patternOf(parameter.elementType, int32_t(longest), mean);
  if (!pattern)
    return llvm::createStringError("argument '" + parameter.name +
                                   "' has elements of " +
                                   parameter.elementType);
  std::vector<char> data(size_t(count * pattern->elementBytes));
  for (size_t at = 0; at < data.size(); at += pattern->bytes.size())
    memcpy(data.data() + at, pattern->bytes.data(),
           std::min(pattern->bytes.size(), data.size() - at));
  auto place = memory->allocate(data.size());
  if (!place)
    return place.takeError();
  if (Error error = memory->write(*place, data.data(), data.size()))
    return error;
  ViewArgument view;
  view.data = *place;
  view.sizes.assign(sizes.begin(), sizes.end());
  view.strides.assign(strides.begin(), strides.end());
  arguments.push_back(std::move(view));
  return Error::success();
}

void Stopwatch::addScalar(const ParameterInfo &parameter) {
  llvm::StringRef name = parameter.name;
  if (parameter.kind == ParameterInfo::Kind::I32)
    arguments.push_back(int32_t(name.starts_with("window") ? -1 : 2));
  else if (name == "bias")
    arguments.push_back(-std::log(float(longest)));
  else
    arguments.push_back(1 / std::sqrt(float(features)));
}

//===----------------------------------------------------------------------===//
// Calls
//===----------------------------------------------------------------------===//

Error Stopwatch::call(const RunnableProgram &program) {
  CallNumbers numbers = {reinterpret_cast<uintptr_t>(&program), id,
                         reinterpret_cast<uintptr_t>(workspace)};
  auto given = [&]() -> Expected<llvm::ArrayRef<Argument>> {
    return llvm::ArrayRef<Argument>(arguments);
  };
  RunRequest request{numbers,        given,   workspace,
                     workspaceBytes, nullptr, device};
  return program.run(request);
}

Expected<double> Stopwatch::time(const RunnableProgram &program) {
  auto bytes = program.workspaceBytes(arguments);
  if (!bytes)
    return bytes.takeError();
  if (*bytes > workspaceBytes) {
    auto place = memory->allocate(size_t(*bytes));
    if (!place)
      return place.takeError();
    workspace = *place;
    workspaceBytes = *bytes;
  }
  // The first call loads and warms up.
  if (Error error = call(program))
    return std::move(error);
  if (Error error = memory->finish())
    return std::move(error);
  constexpr double enough = 2e-3;
  for (;; callsAtOnce *= 2) {
    double start = monotonicSeconds();
    for (int k = 0; k < callsAtOnce; ++k)
      if (Error error = call(program))
        return std::move(error);
    if (Error error = memory->finish())
      return std::move(error);
    double taken = monotonicSeconds() - start;
    if (taken >= enough || callsAtOnce >= 4096)
      return taken / callsAtOnce;
  }
}
