//===- Argument.h - What a caller passes to a program -----------*- C++ -*-===//

#ifndef ATTNC_LIB_PROGRAM_ARGUMENT_H
#define ATTNC_LIB_PROGRAM_ARGUMENT_H

#include "llvm/ADT/SmallVector.h"

#include <cstdint>
#include <variant>

namespace attnc {

/// A caller's tensor: dims in logical order (after `tile.dims`), strides in
/// elements.
struct ViewArgument {
  void *data = nullptr;
  llvm::SmallVector<int64_t> sizes;
  llvm::SmallVector<int64_t> strides;
};

using Argument = std::variant<ViewArgument, float, int32_t>;

} // namespace attnc

#endif // ATTNC_LIB_PROGRAM_ARGUMENT_H
