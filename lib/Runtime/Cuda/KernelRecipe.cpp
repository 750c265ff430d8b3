//===- KernelRecipe.cpp - How a lowered kernel is launched ----------------===//

#include "lib/Runtime/Cuda/KernelRecipe.h"

#include "llvm/ADT/StringSwitch.h"

#include <optional>

using namespace mlir;

namespace attnc {
namespace {

/// Reads entries of a dictionary; the first thing wrong is remembered.
class Reader {
public:
  Reader(DictionaryAttr dictionary, const std::string &where)
      : dictionary(dictionary), where(where) {}

  int64_t integer(StringRef key, std::optional<int64_t> absent, int64_t least,
                  int64_t most) {
    Attribute attr = dictionary.get(key);
    if (!attr && absent)
      return *absent;
    auto value = dyn_cast_or_null<IntegerAttr>(attr);
    if (!value || value.getInt() < least || value.getInt() > most) {
      complain(key, "an integer from " + std::to_string(least) + " to " +
                        std::to_string(most));
      return least;
    }
    return value.getInt();
  }

  bool boolean(StringRef key) {
    Attribute attr = dictionary.get(key);
    if (auto value = dyn_cast_or_null<BoolAttr>(attr))
      return value.getValue();
    if (attr && !isa<UnitAttr>(attr))
      complain(key, "true or false");
    return attr != nullptr;
  }

  StringRef string(StringRef key, StringRef what) {
    if (auto value = dictionary.getAs<StringAttr>(key))
      return value.getValue();
    complain(key, what);
    return "";
  }

  template <typename T>
  llvm::SmallVector<T, 5> integers(StringRef key, int64_t least, int64_t most) {
    llvm::SmallVector<T, 5> result;
    auto add = [&](int64_t value) {
      if (value < least || value > most)
        complain(key, "integers from " + std::to_string(least) + " to " +
                          std::to_string(most));
      result.push_back(value);
    };
    Attribute attr = dictionary.get(key);
    if (auto array = dyn_cast_or_null<DenseI64ArrayAttr>(attr)) {
      for (int64_t value : array.asArrayRef())
        add(value);
    } else if (auto array = dyn_cast_or_null<ArrayAttr>(attr)) {
      for (Attribute element : array) {
        if (auto value = dyn_cast<IntegerAttr>(element))
          add(value.getInt());
        else
          complain(key, "integers");
      }
    } else {
      complain(key, "an array of integers");
    }
    return result;
  }

  void complain(StringRef key, const llvm::Twine &expected) {
    if (!message.empty())
      return;
    std::string got;
    llvm::raw_string_ostream stream(got);
    if (Attribute attr = dictionary.get(key))
      stream << attr;
    else
      stream << "nothing";
    message =
        (where + ": '" + key + "' must be " + expected + ", got " + got).str();
  }

  llvm::Error takeError() {
    return message.empty() ? llvm::Error::success()
                           : llvm::createStringError(message);
  }

private:
  DictionaryAttr dictionary;
  std::string where, message;
};

constexpr int64_t maxRank = 5, maxBox = 256, maxArguments = 1 << 16;

void readTensorMap(Reader &reader, KernelParameter &parameter) {
  parameter.order = reader.integers<unsigned>("order", 0, maxArguments);
  parameter.box = reader.integers<uint32_t>("box", 1, maxBox);
  if (parameter.order.empty() || parameter.order.size() > maxRank)
    reader.complain("order", "of 1 to 5 dims");
  if (parameter.box.size() != parameter.order.size())
    reader.complain("box", "as long as 'order'");
  StringRef swizzle =
      reader.string("swizzle", "\"none\", \"32B\", \"64B\" or \"128B\"");
  int bytes = llvm::StringSwitch<int>(swizzle)
                  .Case("none", 0)
                  .Case("32B", 32)
                  .Case("64B", 64)
                  .Case("128B", 128)
                  .Default(-1);
  if (bytes < 0)
    reader.complain("swizzle", "\"none\", \"32B\", \"64B\" or \"128B\"");
  parameter.swizzleBytes = bytes < 0 ? 0 : bytes;
}

llvm::Expected<KernelParameter> readParameter(Attribute attr,
                                              const std::string &where) {
  auto dictionary = dyn_cast<DictionaryAttr>(attr);
  if (!dictionary)
    return llvm::createStringError(where + " must be a dictionary");
  Reader reader(dictionary, where);
  using Kind = KernelParameter::Kind;
  const char *kinds = "tensor_map, pointer, size, stride, scalar or items";
  auto kind =
      llvm::StringSwitch<std::optional<Kind>>(reader.string("kind", kinds))
          .Case("tensor_map", Kind::TensorMap)
          .Case("pointer", Kind::Pointer)
          .Case("size", Kind::Size)
          .Case("stride", Kind::Stride)
          .Case("scalar", Kind::Scalar)
          .Case("items", Kind::Items)
          .Default(std::nullopt);
  KernelParameter parameter;
  if (!kind) {
    reader.complain("kind", kinds);
    return reader.takeError();
  }
  parameter.kind = *kind;
  if (*kind != Kind::Items)
    parameter.argument = reader.integer("arg", std::nullopt, 0, maxArguments);
  if (*kind == Kind::Size || *kind == Kind::Stride)
    parameter.dim = reader.integer("dim", std::nullopt, 0, maxArguments);
  if (*kind == Kind::TensorMap)
    readTensorMap(reader, parameter);
  if (llvm::Error error = reader.takeError())
    return std::move(error);
  return parameter;
}

} // namespace

llvm::Expected<KernelRecipe> readKernelRecipe(LLVM::LLVMFuncOp kernel) {
  KernelRecipe recipe;
  recipe.name = kernel.getSymName().str();
  std::string where = "kernel '" + recipe.name + "'";
  auto dictionary = kernel->getAttrOfType<DictionaryAttr>(kKernelAttr);
  if (!dictionary)
    return llvm::createStringError(where + " has no dictionary '" +
                                   kKernelAttr + "'");
  Reader reader(dictionary, where);
  recipe.threads = reader.integer("threads", std::nullopt, 1, 1024);
  recipe.sharedBytes = reader.integer("smem", std::nullopt, 0, 1 << 20);
  recipe.cluster = reader.integer("cluster", 1, 1, 16);
  recipe.persistent = reader.boolean("persistent");
  recipe.follows = reader.boolean("follows");
  auto parameters = dictionary.getAs<ArrayAttr>("params");
  if (!parameters)
    reader.complain("params", "an array of dictionaries");
  if (llvm::Error error = reader.takeError())
    return std::move(error);
  for (Attribute attr : parameters) {
    auto parameter =
        readParameter(attr, where + ", parameter " +
                                std::to_string(recipe.parameters.size()));
    if (!parameter)
      return parameter.takeError();
    recipe.parameters.push_back(std::move(*parameter));
  }
  if (recipe.parameters.size() != kernel.getNumArguments())
    return llvm::createStringError(where + " takes " +
                                   llvm::Twine(kernel.getNumArguments()) +
                                   " parameters, but its recipe makes " +
                                   llvm::Twine(recipe.parameters.size()));
  return recipe;
}

} // namespace attnc
