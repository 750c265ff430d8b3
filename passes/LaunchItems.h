//===- LaunchItems.h - How many work items a launch has ---------*- C++ -*-===//

#ifndef ATTNC_PASSES_LAUNCHITEMS_H
#define ATTNC_PASSES_LAUNCHITEMS_H

#include "dialects/tile/Tile.h"

namespace attnc {

/// The product of the kernel's counts, at the builder's place in the program of
/// the launch. Where `cluster` thread blocks take neighbours along the last
/// dim, that count is rounded up to a multiple of them.
mlir::Value countItems(mlir::OpBuilder &builder, tile::LaunchOp launch,
                       tile::KernelOp kernel, int64_t cluster = 1);

} // namespace attnc

#endif // ATTNC_PASSES_LAUNCHITEMS_H
