//===- Inputs.cpp - The arguments of one call -----------------------------===//

#include "tools/attnc/Inputs.h"

#include "lib/Support/File.h"
#include "lib/Support/Npy.h"
#include "tools/attnc/Options.h"

#include "mlir/IR/BuiltinAttributes.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSwitch.h"
#include "llvm/Support/FileSystem.h"

#include <cmath>

using namespace attnc;
using namespace mlir;
using llvm::Error;
using llvm::Expected;

//===----------------------------------------------------------------------===//
// Files
//===----------------------------------------------------------------------===//

/// Turns what a file holds into what an argument is, if that loses nothing
/// but precision.
static Expected<HostTensor> adapt(HostTensor tensor, const Parameter &parameter,
                                  std::string &notes) {
  ElementKind have = tensor.kind(), want = *elementKindOf(parameter.type);
  if (have == want)
    return std::move(tensor);
  auto isFloat = [](ElementKind kind) {
    return kind == ElementKind::F16 || kind == ElementKind::BF16 ||
           kind == ElementKind::F32 || kind == ElementKind::F64;
  };
  // NumPy has no bfloat16: its bits travel as u2.
  if (want == ElementKind::BF16 && have == ElementKind::U16) {
    tensor.reinterpret(want);
    return std::move(tensor);
  }
  bool toFloat = isFloat(have) && isFloat(want);
  bool toBoolean = (want == ElementKind::I1 || want == ElementKind::I8) &&
                   (have == ElementKind::I1 || have == ElementKind::I8);
  bool toInteger = want == ElementKind::I32 && have == ElementKind::I64;
  if (!toFloat && !toBoolean && !toInteger)
    return makeError("'" + parameter.name + "': expected " +
                     describe(parameter) + ", the file holds " +
                     elementName(have) +
                     "; convert with array.astype(...) before numpy.save");
  if (toInteger)
    for (int64_t k = 0; k < tensor.elements(); ++k)
      if (double value = tensor.at(k); value != int32_t(value))
        return makeError("'" + parameter.name +
                         "': expected numbers of 32 "
                         "bits, got " +
                         llvm::Twine(int64_t(value)));
  if (toFloat && elementBytes(want) <= elementBytes(have))
    notes += "note: '" + parameter.name + "' is rounded from " +
             elementName(have).str() + " to " + elementName(want).str() + "\n";
  return tensor.convert(want);
}

/// `text` is NAME=FILE with a name that nothing has, unless it names a file.
static Error unknownInput(const Signature &signature, llvm::StringRef text) {
  auto [name, file] = text.split('=');
  if (file.empty() || llvm::sys::fs::exists(text))
    return Error::success();
  llvm::SmallVector<llvm::StringRef> known;
  for (const Parameter &parameter : signature.parameters)
    if (parameter.isTensor && !parameter.isResult)
      known.push_back(parameter.name);
  return makeError("--input: expected NAME=FILE.npy with a tensor of '" +
                   signature.function + "' (" + llvm::join(known, ", ") +
                   "), got '" + text + "'" + didYouMean(name, known));
}

Error Call::readFiles(const InputRequest &request) {
  size_t next = 0;
  for (const std::string &text : request.files) {
    size_t index = 0;
    llvm::StringRef path = text;
    auto [name, file] = path.split('=');
    if (!file.empty() && signature->find(name)) {
      index = signature->find(name) - signature->parameters.data();
      path = file;
    } else if (Error error = unknownInput(*signature, text)) {
      return error;
    } else {
      while (next < signature->parameters.size() &&
             (!signature->parameters[next].isTensor || given[next]))
        ++next;
      index = next;
    }
    if (index >= signature->parameters.size() ||
        signature->parameters[index].isResult)
      return makeError("--input: '" + text + "' is one file too many; '" +
                       signature->function + "' takes " + signature->inputs());
    const Parameter &parameter = signature->parameters[index];
    if (!parameter.isTensor || given[index])
      return makeError("--input: '" + parameter.name +
                       (given[index] ? "' is given twice"
                                     : "' is a scalar; pass --scalar " +
                                           parameter.name + "=VALUE"));
    auto read = readNpy(path);
    if (!read)
      return read.takeError();
    auto adapted = adapt(std::move(*read), parameter, noteText);
    if (!adapted)
      return adapted.takeError();
    if (Error error = named.bind(parameter, adapted->sizes()))
      return error;
    tensors[index] = std::move(*adapted);
    given[index] = true;
  }
  return Error::success();
}

//===----------------------------------------------------------------------===//
// Sizes
//===----------------------------------------------------------------------===//

Error Call::bindSizes(const InputRequest &request) {
  llvm::SmallVector<llvm::StringRef> parts;
  llvm::StringRef(request.random).split(parts, ',', -1, false);
  for (llvm::StringRef part : parts) {
    auto [name, text] = part.split('=');
    llvm::SmallVector<llvm::StringRef> known;
    for (const SizeMeaning &meaning : sizeMeanings())
      known.push_back(meaning.name);
    int64_t size;
    if (!llvm::is_contained(known, name))
      return makeError("--random: expected sizes out of " +
                       llvm::join(known, ", ") + ", got '" + part +
                       "'; for example --random B=1,H=8,S=1024");
    if (text.getAsInteger(10, size) || size < 0)
      return makeError("--random: expected " + name +
                       "=N with N of 0 or more, got '" + part + "'");
    if (Error error = named.set(name, size))
      return error;
  }
  if (!request.useRandom)
    return Error::success();
  // What is not given follows the usual case; the rest is a small example.
  auto otherwise = [&](llvm::StringRef name, int64_t size) -> Error {
    return named.get(name) ? Error::success() : named.set(name, size);
  };
  auto valueOf = [&](llvm::StringRef name, int64_t size) {
    return named.get(name).value_or(size);
  };
  const std::pair<llvm::StringRef, int64_t> usual[] = {
      {"B", 1},
      {"H", valueOf("Hkv", 4)},
      {"Hkv", valueOf("H", valueOf("Hkv", 4))},
      {"S", valueOf("Skv", 256)},
      {"Skv", valueOf("S", valueOf("Skv", 256))},
      {"D", 64},
      {"Dv", valueOf("D", 64)}};
  for (auto [name, size] : usual)
    if (Error error = otherwise(name, size))
      return error;
  return Error::success();
}

//===----------------------------------------------------------------------===//
// Scalars
//===----------------------------------------------------------------------===//

/// The few expressions in sizes that `attn.default` may say.
std::optional<double> Call::evaluate(llvm::StringRef expression) const {
  double n = std::max<int64_t>(named.get("Skv").value_or(1), 1);
  double d = std::max<int64_t>(named.get("D").value_or(1), 1);
  return llvm::StringSwitch<std::optional<double>>(expression)
      .Case("-ln(n)", -std::log(n))
      .Case("1/n", 1 / n)
      .Case("1/sqrt(d)", 1 / std::sqrt(d))
      .Case("0.5/sqrt(d)", 0.5 / std::sqrt(d))
      .Default(std::nullopt);
}

Error Call::setDefault(size_t index) {
  const Parameter &parameter = signature->parameters[index];
  std::optional<double> value;
  if (auto number = dyn_cast_if_present<FloatAttr>(parameter.initial))
    value = number.getValueAsDouble();
  else if (auto number = dyn_cast_if_present<IntegerAttr>(parameter.initial))
    value = number.getInt();
  else if (auto text = dyn_cast_if_present<StringAttr>(parameter.initial))
    value = evaluate(text);
  if (!value)
    return makeError("scalar '" + parameter.name + "' (" + describe(parameter) +
                     ") is not given; pass --scalar " + parameter.name +
                     "=VALUE");
  if (parameter.type.isF32())
    scalars[index] = float(*value);
  else
    scalars[index] = int32_t(*value);
  return Error::success();
}

Error Call::setScalars(const InputRequest &request) {
  for (const std::string &text : request.scalars) {
    auto [name, number] = llvm::StringRef(text).split('=');
    const Parameter *parameter = signature->find(name);
    if (!parameter || parameter->isTensor) {
      llvm::SmallVector<llvm::StringRef> known;
      for (const Parameter &candidate : signature->parameters)
        if (!candidate.isTensor)
          known.push_back(candidate.name);
      return makeError(
          "--scalar: expected NAME=VALUE with a scalar of '" +
          signature->function + "' (" +
          (known.empty() ? "it has none" : llvm::join(known, ", ")) +
          "), got '" + text + "'" + didYouMean(name, known));
    }
    size_t index = parameter - signature->parameters.data();
    int32_t integer;
    double real;
    if (parameter->type.isInteger(32) && !number.getAsInteger(10, integer))
      scalars[index] = integer;
    else if (parameter->type.isF32() && !number.getAsDouble(real))
      scalars[index] = float(real);
    else
      return makeError("--scalar: '" + name + "' expects " +
                       describe(*parameter) + ", got '" + number + "'");
    given[index] = true;
  }
  for (size_t k = 0; k < signature->parameters.size(); ++k)
    if (!signature->parameters[k].isTensor && !given[k])
      if (Error error = setDefault(k))
        return error;
  return Error::success();
}

//===----------------------------------------------------------------------===//
// Random tensors
//===----------------------------------------------------------------------===//

namespace {
/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): the same numbers on every
/// machine, unlike the standard library's distributions.
class Random {
public:
  explicit Random(uint64_t seed) : state(seed) {}
  uint64_t bits() {
    uint64_t z = (state += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  /// In (0, 1).
  double uniform() { return ((bits() >> 11) + 0.5) * 0x1p-53; }
  double normal() {
    return std::sqrt(-2 * std::log(uniform())) *
           std::cos(6.283185307179586 * uniform());
  }

private:
  uint64_t state;
};
} // namespace

void Call::fillRandom(size_t index, uint64_t seed) {
  const Parameter &parameter = signature->parameters[index];
  HostTensor &tensor = tensors[index];
  auto text = dyn_cast_if_present<StringAttr>(parameter.initial);
  llvm::StringRef kind = text ? text.getValue() : "";
  // Query and key lengths are alike, so that diagonals are where they were.
  Random random(seed * 1000003 + (kind == "lengths" ? 0 : index));
  int64_t last = tensor.sizes().empty() ? 1 : tensor.sizes().back();
  bool ofKeys = llvm::StringRef(parameter.name).starts_with("k");
  int64_t longest = named.get(ofKeys ? "Skv" : "S").value_or(1);
  for (int64_t k = 0; k < tensor.elements(); ++k) {
    double value = random.normal();
    if (kind == "alibi") // 2^(-8 (h + 1) / H), as in the ALiBi paper.
      value = std::exp2(-8.0 * (k % last + 1) / last);
    else if (kind == "documents") // Four of one length, one after the other.
      value = k % last * 4 / last;
    else if (kind == "lengths") // From half the rows to all.
      value = longest - int64_t(random.bits() % (longest / 2 + 1));
    else if (tensor.kind() == ElementKind::I1 ||
             tensor.kind() == ElementKind::I8)
      value = random.bits() & 1;
    else if (tensor.kind() == ElementKind::I32)
      value = random.bits() % 8;
    tensor.set(k, value);
  }
}

Error Call::fillTensors(const InputRequest &request) {
  for (size_t k = 0; k < signature->parameters.size(); ++k) {
    const Parameter &parameter = signature->parameters[k];
    if (!parameter.isTensor || parameter.isResult || given[k])
      continue;
    if (!request.useRandom)
      return makeError("'" + parameter.name + "' (" + describe(parameter) +
                       ") is not given; pass --input " + parameter.name +
                       "=FILE.npy, or --random; '" + signature->function +
                       "' takes " + signature->inputs());
    auto shape = named.shapeOf(parameter);
    if (!shape)
      return shape.takeError();
    if (Error error = named.bind(parameter, *shape))
      return error;
    auto tensor = HostTensor::make(*elementKindOf(parameter.type), *shape);
    if (!tensor)
      return makeError("'" + parameter.name +
                       "': " + llvm::toString(tensor.takeError()));
    tensors[k] = std::move(*tensor);
    fillRandom(k, request.seed);
  }
  return Error::success();
}

//===----------------------------------------------------------------------===//
// The whole
//===----------------------------------------------------------------------===//

Error Call::makeResults() {
  for (size_t k = 0; k < signature->parameters.size(); ++k) {
    const Parameter &parameter = signature->parameters[k];
    if (!parameter.isResult)
      continue;
    auto shape = named.shapeOf(parameter);
    if (!shape)
      return shape.takeError();
    auto tensor = HostTensor::make(*elementKindOf(parameter.type), *shape);
    if (!tensor)
      return makeError("'" + parameter.name +
                       "': " + llvm::toString(tensor.takeError()));
    tensors[k] = std::move(*tensor);
  }
  return Error::success();
}

Expected<Call> Call::make(const Signature &signature,
                          const InputRequest &request) {
  for (const Parameter &parameter : signature.parameters)
    if (parameter.isTensor && !elementKindOf(parameter.type))
      return makeError("'" + parameter.name + "': " + describe(parameter) +
                       " cannot be passed from the command line");
  Call call(signature);
  call.tensors.resize(signature.parameters.size());
  call.scalars.resize(signature.parameters.size());
  call.given.resize(signature.parameters.size());
  if (Error error = call.readFiles(request))
    return std::move(error);
  for (const Parameter &parameter : signature.parameters)
    if (Error error = call.named.bindStatic(parameter))
      return std::move(error);
  if (Error error = call.bindSizes(request))
    return std::move(error);
  if (Error error = call.fillTensors(request))
    return std::move(error);
  if (Error error = call.setScalars(request))
    return std::move(error);
  if (Error error = call.makeResults())
    return std::move(error);
  return std::move(call);
}

static ViewArgument viewOf(HostTensor &tensor) {
  ViewArgument view;
  view.data = tensor.data();
  view.sizes = llvm::to_vector(tensor.sizes());
  view.strides = llvm::to_vector(tensor.strides());
  return view;
}

std::vector<Argument> Call::referenceArguments() {
  std::vector<Argument> arguments;
  for (size_t k = 0; k < signature->parameters.size(); ++k) {
    const Parameter &parameter = signature->parameters[k];
    if (parameter.isTensor && !parameter.isResult)
      arguments.push_back(viewOf(tensors[k]));
    else if (!parameter.isTensor)
      arguments.push_back(scalars[k]);
  }
  return arguments;
}

std::vector<Argument> Call::programArguments() {
  std::vector<Argument> arguments;
  for (size_t k = 0; k < signature->parameters.size(); ++k) {
    const Parameter &parameter = signature->parameters[k];
    if (!parameter.isTensor) {
      arguments.push_back(scalars[k]);
      continue;
    }
    ViewArgument tensor = viewOf(tensors[k]), view;
    view.data = tensor.data;
    for (int64_t dim : parameter.order) {
      view.sizes.push_back(tensor.sizes[dim]);
      view.strides.push_back(tensor.strides[dim]);
    }
    arguments.push_back(view);
  }
  return arguments;
}
