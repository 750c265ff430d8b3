//===- Layout.cpp - Where bytes and values lie on Hopper ------------------===//

#include "dialects/hopper/Layout.h"

using namespace attnc;

int64_t hopper::panelCount(int64_t cols) {
  return roundUp(cols, kPanelColumns) / kPanelColumns;
}

int64_t hopper::slotBytes(int64_t rows, int64_t cols) {
  return roundUp(panelCount(cols) * rows * kPanelBytes, kAtomBytes);
}

int64_t hopper::swizzle128(int64_t offset) {
  return offset ^ ((offset >> 7 & 7) << 4);
}

int64_t hopper::slotOffset(int64_t rows, int64_t row, int64_t col) {
  int64_t panel = col / kPanelColumns, inner = col % kPanelColumns;
  return panel * rows * kPanelBytes + swizzle128(row * kPanelBytes + inner * 2);
}

uint64_t hopper::descriptorBase(int64_t leading, int64_t stride) {
  constexpr uint64_t kSwizzle128 = 1;
  return kSwizzle128 << 62 | static_cast<uint64_t>(stride >> 4) << 32 |
         static_cast<uint64_t>(leading >> 4) << 16;
}

int64_t hopper::kMajorStep(int64_t rows, int64_t step) {
  constexpr int64_t kStepsPerPanel = kPanelColumns / kWgmmaK;
  return step / kStepsPerPanel * rows * kPanelBytes +
         step % kStepsPerPanel * kWgmmaK * 2;
}

// The leading offset means nothing to a swizzled K-major operand; 16 bytes is
// what others write there.
uint64_t hopper::kMajorDescriptor() { return descriptorBase(16, kAtomBytes); }

int64_t hopper::mnMajorStep(int64_t step) {
  return step * kWgmmaK * kPanelBytes;
}

// The leading offset leads to the next panel of 64 columns.
uint64_t hopper::mnMajorDescriptor(int64_t rows) {
  return descriptorBase(rows * kPanelBytes, kAtomBytes);
}

int64_t hopper::accCount(int64_t cols) { return roundUp(cols, 8) / 2; }

hopper::FragOffset hopper::accOffset(int64_t index) {
  return {index % 4 / 2 * 8, index / 4 * 8 + index % 2};
}

int64_t hopper::accIndex(FragOffset offset) {
  return offset.col / 8 * 4 + offset.row / 8 * 2 + offset.col % 2;
}
