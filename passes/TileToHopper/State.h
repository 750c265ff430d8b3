//===- State.h - What the Hopper scheduler keeps track of -------*- C++ -*-===//
//
// What was found before any code is made, and what a role has emitted so far.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_PASSES_TILETOHOPPER_STATE_H
#define ATTNC_PASSES_TILETOHOPPER_STATE_H

#include "dialects/hopper/Hopper.h"
#include "dialects/tile/Tile.h"

#include "mlir/IR/IRMapping.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/ADT/SmallPtrSet.h"

#include <optional>

namespace attnc::scheduling {

using mlir::IRMapping;
using mlir::Operation;
using mlir::SmallVector;
using mlir::Value;

/// A load that feeds products: a ring and how to fill it.
struct Copy {
  tile::LoadOp load;
  bool inLoop;
  /// View dims, the fastest first: that of columns, that of rows, the others.
  SmallVector<int64_t> order;
  /// By TMA, else element by element.
  bool bulk;
  /// The copy leaves rows that the load must not read: they are zeroed.
  bool zeroRows;
  /// The same for all thread blocks of a cluster: each copies a part to all.
  bool shared;
  Value ring, map;
};

/// A product that was started.
struct Started {
  tile::DotOp dot;
  Value pending;
};

/// A slot that products in flight read, and that nobody else will.
struct HeldSlot {
  Value ring, cursor;
};

/// Order `two_tiles`: a block whose first stage's products were started.
struct StartedBlock {
  Value key;
  SmallVector<Started> products;
  SmallVector<HeldSlot> slots;
};

/// What stands for the values of the tile program.
struct Stage {
  IRMapping map;
  /// In the loop over keys: whether the block is full, where that is known
  /// here, else as a value. Outside the loop, every mask applies.
  std::optional<bool> isFull = false;
  Value full;
};

/// What one role has emitted so far, and its position in each ring.
struct Role : Stage {
  llvm::MapVector<Operation *, Value> cursors;
  /// Of speculations in the loop over keys: whether the last block missed.
  llvm::MapVector<Operation *, Value> missed;
  /// Slots that were awaited and not yet released.
  llvm::MapVector<Operation *, Value> slots;
  /// Order `deferred`: products that were not waited for, the oldest first, and
  /// elementwise work done meanwhile.
  SmallVector<Started> inFlight;
  SmallVector<Operation *> beside;
  /// The first block of an item goes from the cheapest formula to the exact
  /// one: others would be much code for one block.
  bool isFirst = false;
  /// Keys between these need no mask.
  Value fullLo, fullHi;
  /// The producer's: whether keys are read once; may be null.
  Value readOnce;
};

/// Order `deferred`: the product that reads weights of all consumers.
struct Exchange {
  tile::DotOp dot;
  /// It and all that depends on it.
  llvm::SetVector<Operation *> late;
  Value ring;
  /// Through which sums are added, if there is room.
  Value scratch;
};

/// Of exchanged weights: those of one block are read while the next are made.
inline constexpr int64_t kExchangeSlots = 2;

/// Order `deferred`: what blocks read in each column, and the shared memory
/// into which it is copied while the block before is worked on.
using Prefetches = llvm::MapVector<Operation *, Value>;

/// The ops of a stage: its first products with what stands before them, and
/// what depends on a product or stands after the last of those.
struct StageParts {
  SmallVector<Operation *> start, rest;
};

/// A stage whose first products were started: what was emitted before them and
/// what remains.
struct Progress {
  llvm::SmallPtrSet<Operation *, 4> prepared;
  SmallVector<Started> started;
  SmallVector<Operation *> rest;
};

} // namespace attnc::scheduling

#endif // ATTNC_PASSES_TILETOHOPPER_STATE_H
