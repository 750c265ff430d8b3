//===- HostTensor.h - A tensor in host memory -------------------*- C++ -*-===//

#ifndef ATTNC_LIB_SUPPORT_HOSTTENSOR_H
#define ATTNC_LIB_SUPPORT_HOSTTENSOR_H

#include "mlir/IR/Types.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>

namespace attnc {

/// What one element is, in memory.
enum class ElementKind { F16, BF16, F32, F64, I1, I8, U16, I32, I64 };

/// Bytes of one element; an I1 takes a whole byte.
int64_t elementBytes(ElementKind kind);

/// The name that messages and MLIR types use: f32, bf16, i1, ...
llvm::StringRef elementName(ElementKind kind);

/// The kind of an MLIR element type, if a tensor of it can exist here.
std::optional<ElementKind> elementKindOf(mlir::Type type);

/// Rounding to nearest even, and exact widening.
uint16_t floatToHalf(float value);
float halfToFloat(uint16_t bits);
uint16_t floatToBFloat(float value);
float bfloatToFloat(uint16_t bits);

/// A tensor that owns its elements. Sizes and strides count elements, in the
/// order of the dims.
class HostTensor {
public:
  HostTensor() = default;
  /// A dense row-major tensor of zeros; an error if it is larger than this
  /// machine's memory.
  static llvm::Expected<HostTensor> make(ElementKind kind,
                                         llvm::ArrayRef<int64_t> sizes);

  ElementKind kind() const { return elementKind; }
  llvm::ArrayRef<int64_t> sizes() const { return dimSizes; }
  llvm::ArrayRef<int64_t> strides() const { return dimStrides; }
  int64_t elements() const { return count; }
  int64_t bytes() const { return count * elementBytes(elementKind); }
  char *data() { return storage.get(); }
  const char *data() const { return storage.get(); }

  /// The same elements in column-major order of dims.
  void setFortranOrder();
  /// The tensor with dims in another order: dim k becomes dims[k] of this.
  HostTensor &permute(llvm::ArrayRef<int64_t> dims);

  /// The same bytes as another kind of the same size.
  void reinterpret(ElementKind to) { elementKind = to; }

  /// Element at a memory position, widened; integers convert exactly as far
  /// as a double can hold them.
  double at(int64_t position) const;
  void set(int64_t position, double value);

  /// A copy with the same sizes and strides and another element kind.
  llvm::Expected<HostTensor> convert(ElementKind to) const;

private:
  struct Free {
    void operator()(char *memory) const { std::free(memory); }
  };

  ElementKind elementKind = ElementKind::F32;
  llvm::SmallVector<int64_t> dimSizes, dimStrides;
  int64_t count = 0;
  std::unique_ptr<char[], Free> storage;
};

/// The product of sizes; nothing if one is negative or the bytes of a tensor
/// of 8-byte elements would not fit in 2^47, what a process can address.
std::optional<int64_t> countElements(llvm::ArrayRef<int64_t> sizes);

/// "2 x 8 x 1024 x 64" for messages.
std::string formatSizes(llvm::ArrayRef<int64_t> sizes);

} // namespace attnc

#endif // ATTNC_LIB_SUPPORT_HOSTTENSOR_H
