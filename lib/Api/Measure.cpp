//===- Measure.cpp - Which of several programs is faster ------------------===//

#include "lib/Api/Measure.h"

#include "lib/Compiler/Compiler.h"
#include "lib/Program/Program.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/BuiltinTypes.h"
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

/// Ordinary numbers: 1/2 for queries and so on, every key for lengths, true
/// for masks. Time hardly depends on them.
Error Stopwatch::addTensor(const ParameterInfo &parameter,
                           llvm::ArrayRef<int64_t> sizes) {
  int64_t count = 1;
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t k = sizes.size(); k-- > 0; count *= sizes[k])
    strides[k] = count;
  struct Pattern {
    int64_t bytes;
    uint32_t bits;
  };
  Pattern pattern = llvm::StringSwitch<Pattern>(parameter.elementType)
                        .Case("f32", {4, 0x3f000000})
                        .Case("f16", {2, 0x3800})
                        .Case("bf16", {2, 0x3f00})
                        .Case("i32", {4, uint32_t(longest)})
                        .Case("i1", {1, 1})
                        .Default({0, 0});
  if (!pattern.bytes)
    return llvm::createStringError("argument '" + parameter.name +
                                   "' has elements of " +
                                   parameter.elementType);
  std::vector<char> data(size_t(count * pattern.bytes));
  for (int64_t k = 0; k < count; ++k)
    memcpy(data.data() + k * pattern.bytes, &pattern.bits,
           size_t(pattern.bytes));
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
  for (int count = 1;; count *= 2) {
    double start = monotonicSeconds();
    for (int k = 0; k < count; ++k)
      if (Error error = call(program))
        return std::move(error);
    if (Error error = memory->finish())
      return std::move(error);
    double taken = monotonicSeconds() - start;
    if (taken >= enough || count >= 4096)
      return taken / count;
  }
}
