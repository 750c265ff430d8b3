//===- Npy.h - NumPy's array files ------------------------------*- C++ -*-===//
//
// Versions 1 and 2 of the .npy format: a magic string, a Python dict that
// says element type, order and shape, then the elements.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_LIB_SUPPORT_NPY_H
#define ATTNC_LIB_SUPPORT_NPY_H

#include "lib/Support/HostTensor.h"

#include "llvm/Support/Error.h"

namespace attnc {

/// Reads f2, f4, f8, i1, u1, b1, u2, i4, i8 (little-endian) and the two-byte
/// void type that bfloat16 arrays are saved with. Fortran order becomes
/// strides. `name` stands in messages.
llvm::Expected<HostTensor> parseNpy(llvm::StringRef contents,
                                    llvm::StringRef name);
llvm::Expected<HostTensor> readNpy(llvm::StringRef path);

/// The file of a tensor, row-major whatever its strides. NumPy has no
/// bfloat16: such a tensor is written as f4, which is exact.
std::string formatNpy(const HostTensor &tensor);
llvm::Error writeNpy(llvm::StringRef path, const HostTensor &tensor);

} // namespace attnc

#endif // ATTNC_LIB_SUPPORT_NPY_H
