//===- Hopper.h - The hopper dialect ----------------------------*- C++ -*-===//
//
// The scheduled program. HopperOps.td documents each op.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_DIALECTS_HOPPER_HOPPER_H
#define ATTNC_DIALECTS_HOPPER_HOPPER_H

#include "dialects/tile/Tile.h"

#include "dialects/hopper/HopperDialect.h.inc"
#include "dialects/hopper/HopperEnums.h.inc"

#define GET_TYPEDEF_CLASSES
#include "dialects/hopper/HopperTypes.h.inc"

#define GET_ATTRDEF_CLASSES
#include "dialects/hopper/HopperAttrs.h.inc"

#define GET_OP_CLASSES
#include "dialects/hopper/HopperOps.h.inc"

namespace attnc::hopper {
/// Shared memory that one thread block may have, in bytes.
inline constexpr int64_t kSharedMemoryLimit = 227 * 1024;

/// The roles attribute for a number of consumers, with the registers that
/// the pool of 64K allows. A cooperative producer needs more of them.
RolesAttr getDefaultRoles(mlir::MLIRContext *context, int64_t consumers,
                          bool persistent, bool cooperative = false,
                          int64_t resident = 1, int64_t cluster = 1);
} // namespace attnc::hopper

#endif // ATTNC_DIALECTS_HOPPER_HOPPER_H
