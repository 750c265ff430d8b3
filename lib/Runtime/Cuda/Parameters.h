//===- Parameters.h - What a kernel is launched with ------------*- C++ -*-===//

#ifndef ATTNC_LIB_RUNTIME_CUDA_PARAMETERS_H
#define ATTNC_LIB_RUNTIME_CUDA_PARAMETERS_H

#include "lib/Program/PlanCode.h"
#include "lib/Runtime/Cuda/Driver.h"
#include "lib/Runtime/Cuda/KernelRecipe.h"

#include "mlir/IR/Types.h"

#include <optional>
#include <type_traits>

namespace attnc {

/// The parameters of one launch, as the driver takes them. Its memory is used
/// again when it is filled anew.
class ParameterBlock {
public:
  ParameterBlock() = default;
  // A copy's addresses would be those of the original.
  ParameterBlock(const ParameterBlock &) = delete;
  ParameterBlock(ParameterBlock &&) = default;

  /// As the driver wants them; it only reads.
  void **pointers() const { return const_cast<void **>(addresses.data()); }
  size_t size() const { return addresses.size(); }

  /// Empties it and makes room: nothing that is added later moves.
  void reset(size_t mapCount, size_t wordCount) {
    maps.clear();
    words.clear();
    addresses.clear();
    maps.reserve(mapCount);
    words.reserve(wordCount);
    addresses.reserve(mapCount + wordCount);
  }
  CuTensorMap &addMap() {
    maps.emplace_back();
    addresses.push_back(&maps.back());
    return maps.back();
  }
  void add(uint64_t bits) {
    words.push_back(bits);
    addresses.push_back(&words.back());
  }

private:
  std::vector<CuTensorMap> maps;
  std::vector<uint64_t> words;
  std::vector<void *> addresses;
};

/// The driver's CUtensorMapDataType.
std::optional<int> tensorMapType(mlir::Type type);
/// The driver's CUtensorMapSwizzle for rows of so many bytes.
int swizzleCode(unsigned bytes);

/// Everything that a tensor map is made of; no two that differ share one.
struct TensorMapKey {
  uint64_t sizes[5] = {}, strides[5] = {};
  uint32_t box[5] = {};
  int32_t type = 0, rank = 0, swizzle = 0;
  uint64_t base = 0;
};

// Compared as bytes: nothing may be left unset.
static_assert(std::has_unique_object_representations_v<TensorMapKey>);

/// The tensor map of a key: kept for each thread, since models repeat their
/// calls and the driver takes its time to encode one. One that differs from a
/// kept one in its address only is made of that.
llvm::Error encodeTensorMap(const CudaDriver &driver, const TensorMapKey &key,
                            CuTensorMap &map, const llvm::Twine &what);

/// How the parameters of one launch of a plan are made, decided when it is
/// loaded.
class ParameterCode {
public:
  /// Follows a recipe; `types` are those of the launch's arguments.
  static llvm::Expected<ParameterCode> create(const KernelRecipe &recipe,
                                              const PlanLaunch &launch,
                                              mlir::TypeRange types);

  /// `placeholder` is some device memory that empty views point to.
  llvm::Error fill(const CudaDriver &driver, const PlanValues &values,
                   char *workspace, CuPointer placeholder,
                   ParameterBlock &block) const;

private:
  struct Map {
    /// All but base, sizes and strides.
    TensorMapKey key;
    int64_t elementBytes = 0;
    unsigned order[5] = {};
  };
  struct Step {
    enum class Kind : uint8_t { Map, Pointer, Word, HalfWord };
    Kind kind = Kind::Word;
    /// In the launch, for messages.
    unsigned argument = 0;
    /// Of a word its slot alone counts.
    PlanPlace place;
    unsigned map = 0;
  };

  llvm::Error add(const KernelParameter &parameter, const PlanLaunch &launch,
                  mlir::TypeRange types);
  llvm::Error addMap(const KernelParameter &parameter, const PlanPlace &view,
                     mlir::Type type);
  llvm::Error makeMap(const CudaDriver &driver, const Step &step,
                      const PlanValues &values, char *workspace,
                      CuPointer placeholder, CuTensorMap &result) const;
  llvm::Error checkLayout(unsigned argument, const TensorMapKey &key,
                          int64_t elementBytes) const;
  llvm::Error fail(unsigned argument, const llvm::Twine &message) const;

  std::string kernel;
  std::vector<Step> steps;
  std::vector<Map> maps;
};

} // namespace attnc

#endif // ATTNC_LIB_RUNTIME_CUDA_PARAMETERS_H
