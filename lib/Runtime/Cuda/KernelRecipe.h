//===- KernelRecipe.h - How a lowered kernel is launched --------*- C++ -*-===//
//
// The attribute `attnc.kernel` of a lowered kernel, read. It says how the
// parameters of the machine code are made of the arguments of a launch.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_LIB_RUNTIME_CUDA_KERNELRECIPE_H
#define ATTNC_LIB_RUNTIME_CUDA_KERNELRECIPE_H

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/Support/Error.h"

#include <string>
#include <vector>

namespace attnc {

inline constexpr llvm::StringLiteral kKernelAttr = "attnc.kernel";

struct KernelParameter {
  enum class Kind { TensorMap, Pointer, Size, Stride, Scalar, Items };
  Kind kind = Kind::Scalar;
  /// The launch argument it is made of; not of Items.
  unsigned argument = 0;
  /// Size, Stride: the dim of the view.
  unsigned dim = 0;
  /// TensorMap: view dims, fastest first, the box over them, and the bytes of
  /// one swizzled row (0: none).
  llvm::SmallVector<unsigned, 5> order;
  llvm::SmallVector<uint32_t, 5> box;
  unsigned swizzleBytes = 0;
};

struct KernelRecipe {
  std::string name;
  unsigned threads = 0;
  unsigned sharedBytes = 0;
  unsigned cluster = 1;
  /// The grid is what fits on the device at once, not one block an item.
  bool persistent = false;
  /// It may begin while the launch before it ends: it waits by itself for what
  /// that one stores.
  bool follows = false;
  std::vector<KernelParameter> parameters;
};

/// Reads the recipe off a lowered kernel; the error says what is wrong in it.
llvm::Expected<KernelRecipe> readKernelRecipe(mlir::LLVM::LLVMFuncOp kernel);

} // namespace attnc

#endif // ATTNC_LIB_RUNTIME_CUDA_KERNELRECIPE_H
