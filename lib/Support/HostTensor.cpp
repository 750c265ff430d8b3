//===- HostTensor.cpp - A tensor in host memory ---------------------------===//

#include "lib/Support/HostTensor.h"
#include "lib/Support/File.h"

#include "mlir/IR/BuiltinTypes.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/bit.h"
#include "llvm/Support/raw_ostream.h"

#include <cmath>
#include <cstring>
#include <unistd.h>

using namespace attnc;
using namespace llvm;

int64_t attnc::elementBytes(ElementKind kind) {
  switch (kind) {
  case ElementKind::I1:
  case ElementKind::I8:
    return 1;
  case ElementKind::F16:
  case ElementKind::BF16:
  case ElementKind::U16:
    return 2;
  case ElementKind::F32:
  case ElementKind::I32:
    return 4;
  case ElementKind::F64:
  case ElementKind::I64:
    return 8;
  }
  return 0;
}

StringRef attnc::elementName(ElementKind kind) {
  switch (kind) {
  case ElementKind::F16:
    return "f16";
  case ElementKind::BF16:
    return "bf16";
  case ElementKind::F32:
    return "f32";
  case ElementKind::F64:
    return "f64";
  case ElementKind::I1:
    return "i1";
  case ElementKind::I8:
    return "i8";
  case ElementKind::U16:
    return "ui16";
  case ElementKind::I32:
    return "i32";
  case ElementKind::I64:
    return "i64";
  }
  return "";
}

std::optional<ElementKind> attnc::elementKindOf(mlir::Type type) {
  if (type.isF16())
    return ElementKind::F16;
  if (type.isBF16())
    return ElementKind::BF16;
  if (type.isF32())
    return ElementKind::F32;
  if (type.isF64())
    return ElementKind::F64;
  if (type.isSignlessInteger(1))
    return ElementKind::I1;
  if (type.isSignlessInteger(8))
    return ElementKind::I8;
  if (type.isSignlessInteger(32))
    return ElementKind::I32;
  if (type.isSignlessInteger(64))
    return ElementKind::I64;
  return std::nullopt;
}

uint16_t attnc::floatToBFloat(float value) {
  uint32_t bits = bit_cast<uint32_t>(value);
  if (std::isnan(value))
    return (bits >> 16) | 0x40; // Stays a NaN whatever the low bits were.
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

float attnc::bfloatToFloat(uint16_t bits) {
  return bit_cast<float>(uint32_t(bits) << 16);
}

uint16_t attnc::floatToHalf(float value) {
  uint32_t bits = bit_cast<uint32_t>(value);
  uint16_t sign = (bits >> 16) & 0x8000;
  uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000)
    return sign | 0x7e00;
  if (magnitude >= 0x477ff000) // 65520 and above round to infinity.
    return sign | 0x7c00;
  if (magnitude < 0x38800000) {
    // Below 2^-14 the result counts units of 2^-24; adding 0.5 puts the
    // rounded count into the low bits.
    float shifted = bit_cast<float>(magnitude) + 0.5f;
    return sign | (bit_cast<uint32_t>(shifted) - 0x3f000000);
  }
  uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
  return sign | ((rounded - 0x38000000) >> 13);
}

float attnc::halfToFloat(uint16_t bits) {
  uint32_t sign = uint32_t(bits & 0x8000) << 16;
  uint32_t exponent = (bits >> 10) & 31, mantissa = bits & 0x3ff;
  float magnitude;
  if (exponent == 31)
    magnitude = bit_cast<float>(0x7f800000 | (mantissa << 13));
  else if (exponent == 0)
    magnitude = std::ldexp(float(mantissa), -24);
  else
    magnitude = bit_cast<float>(((exponent + 112) << 23) | (mantissa << 13));
  return bit_cast<float>(bit_cast<uint32_t>(magnitude) | sign);
}

/// Bytes of memory this machine has, however much of it is in use.
static double physicalMemory() {
  return double(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
}

Expected<HostTensor> HostTensor::make(ElementKind kind,
                                      ArrayRef<int64_t> sizes) {
  auto count = countElements(sizes);
  double bytes = double(count.value_or(0)) * elementBytes(kind);
  HostTensor tensor;
  // calloc leaves pages untouched until they are written.
  if (count && bytes <= physicalMemory())
    tensor.storage.reset(static_cast<char *>(
        std::calloc(std::max<int64_t>(*count, 1), elementBytes(kind))));
  if (!tensor.storage)
    return makeError("a tensor of " + formatSizes(sizes) + " " +
                     elementName(kind) +
                     " does not fit in memory; expected smaller sizes");
  tensor.elementKind = kind;
  tensor.dimSizes.assign(sizes.begin(), sizes.end());
  tensor.dimStrides.resize(sizes.size());
  tensor.count = *count;
  int64_t stride = 1;
  for (size_t k = sizes.size(); k-- > 0; stride *= sizes[k])
    tensor.dimStrides[k] = stride;
  return std::move(tensor);
}

void HostTensor::setFortranOrder() {
  int64_t stride = 1;
  for (size_t k = 0; k < dimSizes.size(); ++k) {
    dimStrides[k] = stride;
    stride *= dimSizes[k];
  }
}

HostTensor &HostTensor::permute(ArrayRef<int64_t> dims) {
  SmallVector<int64_t> sizes, strides;
  for (int64_t dim : dims) {
    sizes.push_back(dimSizes[dim]);
    strides.push_back(dimStrides[dim]);
  }
  dimSizes = sizes;
  dimStrides = strides;
  return *this;
}

template <typename T> static T load(const char *data, int64_t position) {
  T value;
  std::memcpy(&value, data + position * sizeof(T), sizeof(T));
  return value;
}

template <typename T> static void store(char *data, int64_t position, T value) {
  std::memcpy(data + position * sizeof(T), &value, sizeof(T));
}

double HostTensor::at(int64_t position) const {
  const char *data = storage.get();
  switch (elementKind) {
  case ElementKind::F16:
    return halfToFloat(load<uint16_t>(data, position));
  case ElementKind::BF16:
    return bfloatToFloat(load<uint16_t>(data, position));
  case ElementKind::F32:
    return load<float>(data, position);
  case ElementKind::F64:
    return load<double>(data, position);
  case ElementKind::I1:
    return load<uint8_t>(data, position) != 0;
  case ElementKind::I8:
    return load<int8_t>(data, position);
  case ElementKind::U16:
    return load<uint16_t>(data, position);
  case ElementKind::I32:
    return load<int32_t>(data, position);
  case ElementKind::I64:
    return load<int64_t>(data, position);
  }
  return 0;
}

void HostTensor::set(int64_t position, double value) {
  char *data = storage.get();
  switch (elementKind) {
  case ElementKind::F16:
    return store<uint16_t>(data, position, floatToHalf(value));
  case ElementKind::BF16:
    return store<uint16_t>(data, position, floatToBFloat(value));
  case ElementKind::F32:
    return store<float>(data, position, value);
  case ElementKind::F64:
    return store<double>(data, position, value);
  case ElementKind::I1:
    return store<uint8_t>(data, position, value != 0);
  case ElementKind::I8:
    return store<int8_t>(data, position, value);
  case ElementKind::U16:
    return store<uint16_t>(data, position, value);
  case ElementKind::I32:
    return store<int32_t>(data, position, value);
  case ElementKind::I64:
    return store<int64_t>(data, position, value);
  }
}

Expected<HostTensor> HostTensor::convert(ElementKind to) const {
  auto result = make(to, dimSizes);
  if (!result)
    return result.takeError();
  result->dimStrides = dimStrides;
  if (to == elementKind)
    std::memcpy(result->storage.get(), storage.get(), bytes());
  else
    for (int64_t position = 0; position < count; ++position)
      result->set(position, at(position));
  return result;
}

std::optional<int64_t> attnc::countElements(ArrayRef<int64_t> sizes) {
  int64_t count = 1;
  bool tooLarge = false;
  for (int64_t size : sizes) {
    if (size < 0)
      return std::nullopt;
    if (size == 0)
      return 0; // Whatever the other sizes are.
    if (count > (int64_t(1) << 44) / size)
      tooLarge = true;
    else
      count *= size;
  }
  if (tooLarge)
    return std::nullopt;
  return count;
}

std::string attnc::formatSizes(ArrayRef<int64_t> sizes) {
  std::string text;
  raw_string_ostream stream(text);
  if (sizes.empty())
    return "a scalar";
  interleave(sizes, stream, [&](int64_t size) { stream << size; }, " x ");
  return text;
}
