//===- Layout.h - Where bytes and values lie on Hopper ----------*- C++ -*-===//
//
// Shared-memory panels, swizzles, wgmma descriptors and register fragments.
// Plain arithmetic: unit-tested, shared by the passes.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_DIALECTS_HOPPER_LAYOUT_H
#define ATTNC_DIALECTS_HOPPER_LAYOUT_H

#include <cstdint>

namespace attnc::hopper {

//===----------------------------------------------------------------------===//
// Shared memory: panels of 128 bytes a row
//===----------------------------------------------------------------------===//

/// Bytes of one row of a panel, the unit of the 128B swizzle.
inline constexpr int64_t kPanelBytes = 128;
/// Bytes of a swizzle atom: 8 rows of a panel. Slots are aligned to it.
inline constexpr int64_t kAtomBytes = 1024;
/// Columns of 16-bit elements in a panel.
inline constexpr int64_t kPanelColumns = 64;
/// What a wgmma instruction takes of K, in 16-bit elements.
inline constexpr int64_t kWgmmaK = 16;
/// The rows that one warpgroup multiplies.
inline constexpr int64_t kWgmmaRows = 64;
/// Of what a warpgroup prefetches: two for each warp.
inline constexpr int64_t kPrefetchRows = 8;

inline constexpr int64_t roundUp(int64_t x, int64_t to) {
  return (x + to - 1) / to * to;
}

/// Panels of a tile of `cols` 16-bit columns.
int64_t panelCount(int64_t cols);

/// Bytes of a slot: whole panels, one after the other.
int64_t slotBytes(int64_t rows, int64_t cols);

/// Where the 128B swizzle puts the byte at `offset` from an aligned atom:
/// bits 4..6 are exchanged with the row in bits 7..9.
int64_t swizzle128(int64_t offset);

/// The byte of element (row, col) of a slot of `rows` rows, after swizzling.
int64_t slotOffset(int64_t rows, int64_t row, int64_t col);

//===----------------------------------------------------------------------===//
// wgmma descriptors
//===----------------------------------------------------------------------===//

/// The start address of a descriptor, in units of 16 bytes: bits 0..13.
inline constexpr int64_t kDescriptorAddresses = (1 << 14) - 1;

/// A descriptor of 128B-swizzled shared memory without its start address.
/// `leading` and `stride` are byte offsets.
uint64_t descriptorBase(int64_t leading, int64_t stride);

/// K contiguous in memory: rows of the tile are rows of the operand. The
/// offset of K step `step` (16 elements) from the start of the tile.
int64_t kMajorStep(int64_t rows, int64_t step);
uint64_t kMajorDescriptor();

/// K down the rows: columns of the tile are columns of the operand.
int64_t mnMajorStep(int64_t step);
uint64_t mnMajorDescriptor(int64_t rows);

//===----------------------------------------------------------------------===//
// Fragments
//===----------------------------------------------------------------------===//

/// Where value `index` of a thread lies relative to the thread's first row
/// (16 * warp + lane / 4) and first column (2 * (lane mod 4)).
struct FragOffset {
  int64_t row, col;
};

/// Values a thread holds of an accumulator of `cols` columns.
int64_t accCount(int64_t cols);
FragOffset accOffset(int64_t index);

/// The value that holds element (+row, +col) of `accOffset`.
int64_t accIndex(FragOffset offset);

inline constexpr int64_t threadRow(int64_t warp, int64_t lane) {
  return 16 * warp + lane / 4;
}
inline constexpr int64_t threadCol(int64_t lane) { return 2 * (lane % 4); }

} // namespace attnc::hopper

#endif // ATTNC_DIALECTS_HOPPER_LAYOUT_H
