//===- Parameters.cpp - What a kernel is launched with --------------------===//

#include "lib/Runtime/Cuda/Parameters.h"

#include "mlir/IR/BuiltinTypes.h"
#include "llvm/Support/MathExtras.h"

#include <cstring>
#include <memory>
#include <optional>

using namespace mlir;

namespace attnc {

std::optional<int> tensorMapType(Type type) {
  if (type.isInteger(8) || type.isInteger(1))
    return 0;
  if (type.isInteger(32))
    return 3;
  if (type.isF16())
    return 6;
  if (type.isF32())
    return 7;
  if (type.isBF16())
    return 9;
  return std::nullopt;
}

int swizzleCode(unsigned bytes) {
  return bytes == 0 ? 0 : llvm::Log2_32(bytes) - 4;
}

namespace {

constexpr int promote256Bytes = 3, zeroFill = 0, notInterleaved = 0;
/// The bulk copy engine's rule for addresses and strides.
constexpr int64_t copyAlignment = 16;

class Packer {
public:
  Packer(const CudaDriver &driver, const KernelRecipe &recipe,
         const Launch &launch, ArrayRef<Type> elementTypes, char *workspace,
         CuPointer placeholder)
      : driver(driver), recipe(recipe), launch(launch),
        elementTypes(elementTypes), workspace(workspace),
        placeholder(placeholder) {}

  llvm::Expected<ParameterBlock> run() {
    for (const KernelParameter &parameter : recipe.parameters)
      if (llvm::Error error = pack(parameter))
        return std::move(error);
    return std::move(block);
  }

private:
  llvm::Error fail(unsigned argument, const llvm::Twine &message) const {
    return llvm::createStringError("kernel '" + recipe.name + "', argument " +
                                   llvm::Twine(argument) + ": " + message);
  }

  llvm::Error pack(const KernelParameter &parameter) {
    using Kind = KernelParameter::Kind;
    if (parameter.kind == Kind::Items) {
      block.add(static_cast<uint64_t>(launch.items));
      return llvm::Error::success();
    }
    if (parameter.argument >= launch.arguments.size())
      return fail(parameter.argument, "the launch has only " +
                                          llvm::Twine(launch.arguments.size()) +
                                          " arguments");
    const LaunchArgument &argument = launch.arguments[parameter.argument];
    auto *view = std::get_if<PlannedView>(&argument);
    if (parameter.kind == Kind::Scalar)
      return view ? fail(parameter.argument, "expected a scalar, got a view")
                  : packScalar(argument);
    if (!view)
      return fail(parameter.argument, "expected a view, got a scalar");
    if (parameter.kind == Kind::Pointer) {
      block.add(address(*view));
      return llvm::Error::success();
    }
    if (parameter.kind == Kind::TensorMap)
      return packTensorMap(parameter, *view);
    if (parameter.dim >= view->sizes.size())
      return fail(parameter.argument,
                  "there is no dim " + llvm::Twine(parameter.dim));
    block.add(static_cast<uint64_t>(parameter.kind == Kind::Size
                                        ? view->sizes[parameter.dim]
                                        : view->strides[parameter.dim]));
    return llvm::Error::success();
  }

  llvm::Error packScalar(const LaunchArgument &argument) {
    uint64_t bits = 0;
    if (auto *real = std::get_if<float>(&argument))
      memcpy(&bits, real, sizeof(*real));
    else if (auto *integer = std::get_if<int32_t>(&argument))
      memcpy(&bits, integer, sizeof(*integer));
    else
      bits = static_cast<uint64_t>(std::get<int64_t>(argument));
    block.add(bits);
    return llvm::Error::success();
  }

  uint64_t address(const PlannedView &view) const {
    return reinterpret_cast<uint64_t>(view.inWorkspace ? workspace + view.offset
                                                       : view.data);
  }

  llvm::Error packTensorMap(const KernelParameter &parameter,
                            const PlannedView &view) {
    unsigned index = parameter.argument;
    Type type = index < elementTypes.size() ? elementTypes[index] : Type();
    std::optional<int> code = type ? tensorMapType(type) : std::nullopt;
    if (!code)
      return fail(index, "the bulk copy engine has no such element type");
    int64_t bytes = (type.getIntOrFloatBitWidth() + 7) / 8;
    TensorMapKey key;
    key.type = *code;
    key.rank = parameter.order.size();
    key.swizzle = swizzleCode(parameter.swizzleBytes);
    bool empty = false;
    for (auto [k, dim] : llvm::enumerate(parameter.order)) {
      if (dim >= view.sizes.size())
        return fail(index, "there is no dim " + llvm::Twine(dim));
      // The engine knows no empty tensors; nothing of one is ever read.
      empty |= view.sizes[dim] == 0;
      key.sizes[k] = std::max<int64_t>(view.sizes[dim], 1);
      key.strides[k] = view.strides[dim] * bytes;
      if (view.sizes[dim] <= 1) // never stepped over
        key.strides[k] = k == 0 ? bytes : copyAlignment;
      key.box[k] = parameter.box[k];
    }
    key.base = empty ? placeholder : address(view);
    if (llvm::Error error = checkLayout(index, key.base, bytes,
                                        ArrayRef(key.strides, key.rank)))
      return error;
    CuTensorMap map = {};
    if (llvm::Error error = encodeTensorMap(
            driver, key, map,
            "describing argument " + llvm::Twine(index) + " of kernel '" +
                recipe.name + "' to the copy engine"))
      return error;
    block.add(map);
    return llvm::Error::success();
  }

  llvm::Error checkLayout(unsigned index, uint64_t base, int64_t bytes,
                          ArrayRef<uint64_t> strides) const {
    if (strides[0] != uint64_t(bytes))
      return fail(index, "the bulk copy engine needs neighbouring elements in "
                         "its fastest dim, got a stride of " +
                             llvm::Twine(strides[0] / bytes) +
                             "; compile with --any-layout");
    bool aligned = base % copyAlignment == 0;
    for (uint64_t stride : strides.drop_front())
      aligned &= stride % copyAlignment == 0;
    if (!aligned)
      return fail(index, "the bulk copy engine needs an address and strides "
                         "that are multiples of 16 bytes; compile with "
                         "--any-layout");
    return llvm::Error::success();
  }

  const CudaDriver &driver;
  const KernelRecipe &recipe;
  const Launch &launch;
  ArrayRef<Type> elementTypes;
  char *workspace;
  CuPointer placeholder;
  ParameterBlock block;
};

} // namespace

llvm::Error encodeTensorMap(const CudaDriver &driver, const TensorMapKey &key,
                            CuTensorMap &map, const llvm::Twine &what) {
  struct Kept {
    uint64_t driver = 0;
    TensorMapKey key;
    CuTensorMap map;
  };
  constexpr size_t count = 64;
  // Made at a thread's first use.
  thread_local std::unique_ptr<Kept[]> table;
  if (!table)
    table.reset(new Kept[count]);
  uint64_t words[sizeof(key) / 8], hash = 0;
  static_assert(sizeof(key) % 8 == 0);
  memcpy(words, &key, sizeof(key));
  for (uint64_t word : words)
    hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
  Kept &kept = table[(hash >> 32) % count];
  if (kept.driver == driver.id && !memcmp(&kept.key, &key, sizeof(key))) {
    map = kept.map;
    return llvm::Error::success();
  }
  uint32_t steps[5] = {1, 1, 1, 1, 1};
  CuStatus status = driver.tensorMapEncode(
      &map, key.type, key.rank, reinterpret_cast<void *>(key.base), key.sizes,
      key.strides + 1, key.box, steps, notInterleaved, key.swizzle,
      promote256Bytes, zeroFill);
  if (status)
    return driver.check(status, what);
  kept = {driver.id, key, map};
  return llvm::Error::success();
}

llvm::Expected<ParameterBlock>
packParameters(const CudaDriver &driver, const KernelRecipe &recipe,
               const Launch &launch, ArrayRef<Type> elementTypes,
               char *workspace, CuPointer placeholder) {
  return Packer(driver, recipe, launch, elementTypes, workspace, placeholder)
      .run();
}

} // namespace attnc
