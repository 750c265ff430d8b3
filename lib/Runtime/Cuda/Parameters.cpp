//===- Parameters.cpp - What a kernel is launched with --------------------===//

#include "lib/Runtime/Cuda/Parameters.h"

#include "mlir/IR/BuiltinTypes.h"
#include "llvm/Support/MathExtras.h"

#include <cstddef>
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
constexpr uint64_t copyAlignment = 16;
} // namespace

//===----------------------------------------------------------------------===//
// Deciding
//===----------------------------------------------------------------------===//

llvm::Error ParameterCode::fail(unsigned argument,
                                const llvm::Twine &message) const {
  return llvm::createStringError("kernel '" + kernel + "', argument " +
                                 llvm::Twine(argument) + ": " + message);
}

llvm::Expected<ParameterCode> ParameterCode::create(const KernelRecipe &recipe,
                                                    const PlanLaunch &launch,
                                                    TypeRange types) {
  ParameterCode code;
  code.kernel = recipe.name;
  for (const KernelParameter &parameter : recipe.parameters)
    if (llvm::Error error = code.add(parameter, launch, types))
      return std::move(error);
  return std::move(code);
}

llvm::Error ParameterCode::add(const KernelParameter &parameter,
                               const PlanLaunch &launch, TypeRange types) {
  using Kind = KernelParameter::Kind;
  Step step;
  step.argument = parameter.argument;
  if (parameter.kind == Kind::Items) {
    step.place.slot = launch.items;
    steps.push_back(step);
    return llvm::Error::success();
  }
  if (parameter.argument >= launch.arguments.size())
    return fail(parameter.argument, "the launch has only " +
                                        llvm::Twine(launch.arguments.size()) +
                                        " arguments");
  step.place = launch.arguments[parameter.argument];
  bool isView = step.place.kind == PlanPlace::Kind::View;
  if (isView != (parameter.kind != Kind::Scalar))
    return fail(parameter.argument, isView ? "expected a scalar, got a view"
                                           : "expected a view, got a scalar");
  switch (parameter.kind) {
  case Kind::TensorMap:
    return addMap(
        parameter, step.place,
        cast<tile::ViewType>(types[parameter.argument]).getElementType());
  case Kind::Pointer:
    step.kind = Step::Kind::Pointer;
    break;
  case Kind::Scalar:
    if (step.place.kind != PlanPlace::Kind::Index)
      step.kind = Step::Kind::HalfWord;
    break;
  default: // a size or a stride
    if (parameter.dim >= step.place.rank)
      return fail(parameter.argument,
                  "there is no dim " + llvm::Twine(parameter.dim));
    step.place.slot = parameter.kind == Kind::Size
                          ? step.place.size(parameter.dim)
                          : step.place.stride(parameter.dim);
    break;
  }
  steps.push_back(step);
  return llvm::Error::success();
}

llvm::Error ParameterCode::addMap(const KernelParameter &parameter,
                                  const PlanPlace &view, Type type) {
  std::optional<int> code = tensorMapType(type);
  if (!code)
    return fail(parameter.argument,
                "the bulk copy engine has no such element type");
  Map map;
  map.elementBytes = (type.getIntOrFloatBitWidth() + 7) / 8;
  map.key.type = *code;
  map.key.rank = parameter.order.size();
  map.key.swizzle = swizzleCode(parameter.swizzleBytes);
  for (auto [k, dim] : llvm::enumerate(parameter.order)) {
    if (dim >= view.rank)
      return fail(parameter.argument, "there is no dim " + llvm::Twine(dim));
    map.order[k] = dim;
    map.key.box[k] = parameter.box[k];
  }
  Step step;
  step.kind = Step::Kind::Map;
  step.argument = parameter.argument;
  step.place = view;
  step.map = maps.size();
  maps.push_back(map);
  steps.push_back(step);
  return llvm::Error::success();
}

//===----------------------------------------------------------------------===//
// Filling in
//===----------------------------------------------------------------------===//

llvm::Error ParameterCode::fill(const CudaDriver &driver,
                                const PlanValues &values, char *workspace,
                                CuPointer placeholder,
                                ParameterBlock &block) const {
  block.reset(maps.size(), steps.size() - maps.size());
  for (const Step &step : steps) {
    switch (step.kind) {
    case Step::Kind::Map:
      if (llvm::Error error = makeMap(driver, step, values, workspace,
                                      placeholder, block.addMap()))
        return error;
      break;
    case Step::Kind::Pointer:
      block.add(reinterpret_cast<uintptr_t>(
          PlanCode::addressOf(values, step.place, workspace)));
      break;
    case Step::Kind::Word:
      block.add(uint64_t(values.slots[step.place.slot]));
      break;
    case Step::Kind::HalfWord:
      block.add(uint32_t(values.slots[step.place.slot]));
      break;
    }
  }
  return llvm::Error::success();
}

llvm::Error ParameterCode::makeMap(const CudaDriver &driver, const Step &step,
                                   const PlanValues &values, char *workspace,
                                   CuPointer placeholder,
                                   CuTensorMap &result) const {
  const Map &map = maps[step.map];
  TensorMapKey key = map.key;
  bool empty = false;
  for (int32_t k = 0; k < key.rank; ++k) {
    int64_t size = values.slots[step.place.size(map.order[k])];
    // The engine knows no empty tensors; nothing of one is ever read.
    empty |= size == 0;
    key.sizes[k] = std::max<int64_t>(size, 1);
    key.strides[k] =
        values.slots[step.place.stride(map.order[k])] * map.elementBytes;
    if (size <= 1) // never stepped over
      key.strides[k] = k == 0 ? map.elementBytes : copyAlignment;
  }
  key.base = empty ? placeholder
                   : reinterpret_cast<uintptr_t>(
                         PlanCode::addressOf(values, step.place, workspace));
  if (llvm::Error error = checkLayout(step.argument, key, map.elementBytes))
    return error;
  return encodeTensorMap(driver, key, result,
                         "describing argument " + llvm::Twine(step.argument) +
                             " of kernel '" + kernel + "' to the copy engine");
}

llvm::Error ParameterCode::checkLayout(unsigned argument,
                                       const TensorMapKey &key,
                                       int64_t elementBytes) const {
  if (key.strides[0] != uint64_t(elementBytes))
    return fail(argument,
                "the bulk copy engine needs neighbouring elements in "
                "its fastest dim, got a stride of " +
                    llvm::Twine(int64_t(key.strides[0]) / elementBytes) +
                    "; compile with --any-layout");
  bool aligned = key.base % copyAlignment == 0;
  for (int32_t k = 1; k < key.rank; ++k)
    aligned &= key.strides[k] % copyAlignment == 0;
  if (!aligned)
    return fail(argument, "the bulk copy engine needs an address and strides "
                          "that are multiples of 16 bytes; compile with "
                          "--any-layout");
  return llvm::Error::success();
}

//===----------------------------------------------------------------------===//
// Tensor maps
//===----------------------------------------------------------------------===//

namespace {
/// The maps that a thread made last, each found by its whole key and by its
/// key without the address.
class TensorMapTable {
public:
  static TensorMapTable &ofThread() {
    // Made at a thread's first use.
    thread_local TensorMapTable table;
    return table;
  }

  CuStatus get(const CudaDriver &driver, const TensorMapKey &key,
               CuTensorMap &map) {
    uint64_t layout = hashOfLayout(key);
    Kept &same = slots[mix(layout ^ key.base) % count];
    if (matches(same, driver, key) && same.key.base == key.base) {
      map = same.map;
      return 0;
    }
    Kept &like = slots[count + layout % layouts];
    CuStatus status;
    if (matches(like, driver, key)) {
      map = like.map;
      status = driver.tensorMapReplaceAddress(
          &map, reinterpret_cast<void *>(key.base));
    } else {
      status = encode(driver, key, map);
      if (!status)
        like = {driver.id, key, map};
    }
    if (!status)
      same = {driver.id, key, map};
    return status;
  }

private:
  static constexpr size_t count = 128, layouts = 32;
  static constexpr size_t layoutBytes = offsetof(TensorMapKey, base);
  static_assert(layoutBytes % sizeof(uint64_t) == 0);
  struct Kept {
    uint64_t driver = 0;
    TensorMapKey key;
    CuTensorMap map;
  };

  static uint64_t mix(uint64_t hash) {
    hash *= 0x9e3779b97f4a7c15u;
    return hash ^ hash >> 32; // or high bits would never reach low ones
  }
  static uint64_t hashOfLayout(const TensorMapKey &key) {
    uint64_t words[layoutBytes / sizeof(uint64_t)], hash = 0;
    memcpy(words, &key, layoutBytes);
    for (uint64_t word : words)
      hash = mix(hash ^ word);
    return hash;
  }
  /// All but the address.
  static bool matches(const Kept &kept, const CudaDriver &driver,
                      const TensorMapKey &key) {
    return kept.driver == driver.id && !memcmp(&kept.key, &key, layoutBytes);
  }
  static CuStatus encode(const CudaDriver &driver, const TensorMapKey &key,
                         CuTensorMap &map) {
    uint32_t steps[5] = {1, 1, 1, 1, 1};
    return driver.tensorMapEncode(
        &map, key.type, key.rank, reinterpret_cast<void *>(key.base), key.sizes,
        key.strides + 1, key.box, steps, notInterleaved, key.swizzle,
        promote256Bytes, zeroFill);
  }

  std::unique_ptr<Kept[]> slots{new Kept[count + layouts]};
};
} // namespace

llvm::Error encodeTensorMap(const CudaDriver &driver, const TensorMapKey &key,
                            CuTensorMap &map, const llvm::Twine &what) {
  CuStatus status = TensorMapTable::ofThread().get(driver, key, map);
  return status ? driver.check(status, what) : llvm::Error::success();
}

} // namespace attnc
