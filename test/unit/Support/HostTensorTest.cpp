//===- HostTensorTest.cpp - Element conversions and sizes -----------------===//

#include "lib/Support/HostTensor.h"

#include "llvm/ADT/APFloat.h"
#include "gtest/gtest.h"

#include <cmath>

using namespace attnc;

namespace {

/// LLVM's own arithmetic is the reference.
uint16_t roundedBits(float value, const llvm::fltSemantics &semantics) {
  llvm::APFloat number(value);
  bool exact;
  number.convert(semantics, llvm::APFloat::rmNearestTiesToEven, &exact);
  return number.bitcastToAPInt().getZExtValue();
}

TEST(HostTensor, EveryHalfWidensAndComesBack) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    llvm::APFloat number(llvm::APFloat::IEEEhalf(), llvm::APInt(16, bits));
    float value = halfToFloat(bits);
    if (number.isNaN()) {
      EXPECT_TRUE(std::isnan(value)) << bits;
      EXPECT_TRUE(std::isnan(halfToFloat(floatToHalf(value)))) << bits;
      continue;
    }
    EXPECT_EQ(value, number.convertToFloat()) << bits;
    EXPECT_EQ(floatToHalf(value), bits);
    float wide = bfloatToFloat(bits);
    if (!std::isnan(wide))
      EXPECT_EQ(floatToBFloat(wide), bits);
  }
}

TEST(HostTensor, RoundsToNearestEven) {
  // Around every half and bfloat: just below, at and just above the middle
  // between it and its neighbour, and numbers spread over all exponents.
  for (uint32_t k = 0; k < (1u << 20); ++k) {
    uint32_t bits = k << 12 | (k & 1 ? 0xfff : k & 2 ? 0x001 : 0);
    float value;
    static_assert(sizeof(value) == sizeof(bits));
    std::memcpy(&value, &bits, sizeof(value));
    if (std::isnan(value))
      continue;
    ASSERT_EQ(floatToHalf(value), roundedBits(value, llvm::APFloat::IEEEhalf()))
        << value;
    ASSERT_EQ(floatToBFloat(value), roundedBits(value, llvm::APFloat::BFloat()))
        << value;
  }
}

TEST(HostTensor, NaNStaysNaN) {
  // A payload in the low bits only must not become infinity.
  uint32_t bits = 0x7f800001;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  EXPECT_TRUE(std::isnan(bfloatToFloat(floatToBFloat(value))));
  EXPECT_TRUE(std::isnan(halfToFloat(floatToHalf(value))));
}

TEST(HostTensor, CountsElements) {
  EXPECT_EQ(countElements({}), 1);
  EXPECT_EQ(countElements({2, 3, 4}), 24);
  EXPECT_EQ(countElements({int64_t(1) << 40, int64_t(1) << 40, 0}), 0);
  EXPECT_EQ(countElements({int64_t(1) << 40, int64_t(1) << 40}), std::nullopt);
  EXPECT_EQ(countElements({-1}), std::nullopt);
}

TEST(HostTensor, RefusesWhatDoesNotFit) {
  auto tensor = HostTensor::make(ElementKind::F32, {int64_t(1) << 43});
  ASSERT_FALSE(bool(tensor));
  EXPECT_EQ(llvm::toString(tensor.takeError()),
            "a tensor of 8796093022208 f32 does not fit in memory; expected "
            "smaller sizes");
}

TEST(HostTensor, PermutesWithoutMoving) {
  HostTensor tensor =
      llvm::cantFail(HostTensor::make(ElementKind::F32, {2, 3, 4}));
  tensor.permute({2, 0, 1});
  EXPECT_EQ(tensor.sizes(), (llvm::ArrayRef<int64_t>{4, 2, 3}));
  EXPECT_EQ(tensor.strides(), (llvm::ArrayRef<int64_t>{1, 12, 4}));
}

TEST(HostTensor, Converts) {
  HostTensor tensor = llvm::cantFail(HostTensor::make(ElementKind::F32, {3}));
  tensor.set(0, 1.5);
  tensor.set(1, -2.0);
  HostTensor half = llvm::cantFail(tensor.convert(ElementKind::F16));
  EXPECT_EQ(half.at(0), 1.5);
  EXPECT_EQ(half.at(1), -2.0);
  EXPECT_EQ(llvm::cantFail(tensor.convert(ElementKind::I32)).at(1), -2);
  EXPECT_EQ(llvm::cantFail(tensor.convert(ElementKind::I1)).at(1), 1);
  EXPECT_EQ(llvm::cantFail(tensor.convert(ElementKind::I1)).at(2), 0);
}

} // namespace
