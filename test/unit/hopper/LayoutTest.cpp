//===- LayoutTest.cpp - Panels, descriptors, fragments --------------------===//

#include "dialects/hopper/Layout.h"

#include "gtest/gtest.h"

#include <set>

using namespace attnc::hopper;

namespace {

TEST(Layout, SlotsHoldWholePanels) {
  EXPECT_EQ(panelCount(1), 1);
  EXPECT_EQ(panelCount(64), 1);
  EXPECT_EQ(panelCount(80), 2);
  EXPECT_EQ(panelCount(256), 4);
  EXPECT_EQ(slotBytes(128, 64), 128 * 128);
  EXPECT_EQ(slotBytes(128, 80), 2 * 128 * 128);
  EXPECT_EQ(slotBytes(16, 8) % kAtomBytes, 0);
}

TEST(Layout, SwizzlePermutesTheChunksOfARow) {
  // Row 0 stays, row 1 exchanges neighbours, row 8 is like row 0.
  EXPECT_EQ(swizzle128(16), 16);
  EXPECT_EQ(swizzle128(128), 128 + 16);
  EXPECT_EQ(swizzle128(128 + 16), 128);
  EXPECT_EQ(swizzle128(7 * 128), 7 * 128 + 7 * 16);
  EXPECT_EQ(swizzle128(1024 + 32), 1024 + 32);
  std::set<int64_t> seen;
  for (int64_t offset = 0; offset < kAtomBytes; offset += 16) {
    EXPECT_EQ(swizzle128(offset) / kPanelBytes, offset / kPanelBytes);
    EXPECT_EQ(swizzle128(swizzle128(offset)), offset);
    seen.insert(swizzle128(offset));
  }
  EXPECT_EQ(seen.size(), 64u);
}

TEST(Layout, ElementsOfASlotAreDistinct) {
  std::set<int64_t> seen;
  for (int64_t row = 0; row < 16; ++row)
    for (int64_t col = 0; col < 128; ++col)
      seen.insert(slotOffset(16, row, col));
  EXPECT_EQ(seen.size(), 16u * 128);
  EXPECT_EQ(*seen.rbegin(), slotBytes(16, 128) - 2);
  EXPECT_EQ(slotOffset(16, 3, 64), 16 * 128 + slotOffset(16, 3, 0));
}

TEST(Layout, DescriptorBits) {
  // Swizzle 1 in bits 62..63, stride in 32..45, leading in 16..29; units 16.
  EXPECT_EQ(descriptorBase(16, 1024), 0x4000004000010000u);
  EXPECT_EQ(kMajorDescriptor(), descriptorBase(16, 1024));
  EXPECT_EQ(mnMajorDescriptor(128) >> 16 & 0x3fff, 128u * 128 / 16);
  EXPECT_EQ(mnMajorDescriptor(128) >> 32 & 0x3fff, 1024u / 16);
}

TEST(Layout, StepsAlongK) {
  // Four steps of 32 bytes a panel, then the next panel.
  EXPECT_EQ(kMajorStep(128, 0), 0);
  EXPECT_EQ(kMajorStep(128, 1), 32);
  EXPECT_EQ(kMajorStep(128, 3), 96);
  EXPECT_EQ(kMajorStep(128, 4), 128 * 128);
  EXPECT_EQ(kMajorStep(192, 5), 192 * 128 + 32);
  for (int64_t step = 0; step < 8; ++step)
    EXPECT_EQ(kMajorStep(64, step),
              slotOffset(64, 0, step * kWgmmaK)); // Row 0 is not swizzled.
  // 16 rows.
  EXPECT_EQ(mnMajorStep(3), 3 * 16 * 128);
  EXPECT_EQ(mnMajorStep(1), slotOffset(64, 16, 0));
}

TEST(Layout, AccumulatorsCoverTheTileOnce) {
  const int64_t cols = 80;
  std::set<std::pair<int64_t, int64_t>> seen;
  for (int64_t warp = 0; warp < 4; ++warp)
    for (int64_t lane = 0; lane < 32; ++lane)
      for (int64_t i = 0; i < accCount(cols); ++i) {
        FragOffset offset = accOffset(i);
        seen.insert(
            {threadRow(warp, lane) + offset.row, threadCol(lane) + offset.col});
        EXPECT_EQ(accIndex(offset), i);
      }
  EXPECT_EQ(seen.size(), 64u * cols);
  EXPECT_EQ(seen.rbegin()->first, 63);
  EXPECT_EQ(seen.rbegin()->second, cols - 1);
}

TEST(Layout, PackedAccumulatorsAreAnAOperand) {
  // A of m64k16: a0 = (g, 2q), a1 = (g + 8, 2q), a2 = (g, 2q + 8), a3 = both,
  // each with the next column in its high half.
  const int64_t expected[4][2] = {{0, 0}, {8, 0}, {0, 8}, {8, 8}};
  for (int64_t step = 0; step < 4; ++step)
    for (int64_t r = 0; r < 4; ++r) {
      FragOffset low = accOffset(2 * (4 * step + r));
      FragOffset high = accOffset(2 * (4 * step + r) + 1);
      EXPECT_EQ(low.row, expected[r][0]);
      EXPECT_EQ(low.col, 16 * step + expected[r][1]);
      EXPECT_EQ(high.row, low.row);
      EXPECT_EQ(high.col, low.col + 1);
    }
}

} // namespace
