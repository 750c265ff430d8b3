//===- Parameters.h - What a kernel is launched with ------------*- C++ -*-===//

#ifndef ATTNC_LIB_RUNTIME_CUDA_PARAMETERS_H
#define ATTNC_LIB_RUNTIME_CUDA_PARAMETERS_H

#include "lib/Program/Program.h"
#include "lib/Runtime/Cuda/Driver.h"
#include "lib/Runtime/Cuda/KernelRecipe.h"

#include "mlir/IR/Types.h"

#include <deque>
#include <optional>
#include <type_traits>

namespace attnc {

/// The parameters of one launch, as the driver takes them.
class ParameterBlock {
public:
  ParameterBlock() = default;
  // A copy's addresses would be those of the original.
  ParameterBlock(const ParameterBlock &) = delete;
  ParameterBlock(ParameterBlock &&) = default;

  /// As the driver wants them; it only reads.
  void **pointers() const { return const_cast<void **>(addresses.data()); }
  size_t size() const { return addresses.size(); }

  void add(const CuTensorMap &map) {
    maps.push_back(map);
    addresses.push_back(&maps.back());
  }
  void add(uint64_t bits) {
    scalars.push_back(bits);
    addresses.push_back(&scalars.back());
  }

private:
  // A deque does not move what is in it.
  std::deque<CuTensorMap> maps;
  std::deque<uint64_t> scalars;
  std::vector<void *> addresses;
};

/// The driver's CUtensorMapDataType.
std::optional<int> tensorMapType(mlir::Type type);
/// The driver's CUtensorMapSwizzle for rows of so many bytes.
int swizzleCode(unsigned bytes);

/// Everything that a tensor map is made of; no two that differ share one.
struct TensorMapKey {
  uint64_t base = 0, sizes[5] = {}, strides[5] = {};
  uint32_t box[5] = {};
  int32_t type = 0, rank = 0, swizzle = 0;
  /// Compared as bytes: nothing may be left unset.
  int32_t padding[2] = {};
};

static_assert(std::has_unique_object_representations_v<TensorMapKey>);

/// The tensor map of a key: kept for each thread, since models repeat their
/// calls and the driver takes its time to encode one.
llvm::Error encodeTensorMap(const CudaDriver &driver, const TensorMapKey &key,
                            CuTensorMap &map, const llvm::Twine &what);

/// Follows a recipe. `elementTypes` are those of the launch's views;
/// `placeholder` is some device memory that empty views point to.
llvm::Expected<ParameterBlock>
packParameters(const CudaDriver &driver, const KernelRecipe &recipe,
               const Launch &launch, llvm::ArrayRef<mlir::Type> elementTypes,
               char *workspace, CuPointer placeholder);

} // namespace attnc

#endif // ATTNC_LIB_RUNTIME_CUDA_PARAMETERS_H
