//===- Formats.cpp - Narrow element types as f32 numbers ------------------===//

#include "passes/TileToCpu/Formats.h"

#include "mlir/Dialect/Math/IR/Math.h"

using namespace mlir;
using namespace attnc::cpu;

namespace {
/// sign | exponent | mantissa, as IEEE except that f8E4M3FN has no infinity:
/// its largest exponent holds numbers, and only all ones is NaN.
struct Format {
  int bits, mantissa, bias;
  bool infinity;
  double largest;

  int magnitudeMask() const { return (1 << (bits - 1)) - 1; }
  int smallestExponent() const { return 1 - bias; }
  /// The field of the first number that is infinite or NaN.
  int specialField() const {
    return infinity ? magnitudeMask() & ~((1 << mantissa) - 1)
                    : magnitudeMask();
  }
};
} // namespace

static Format formatOf(Type type) {
  if (type.isBF16())
    return {16, 7, 127, true, 0x1.fep127};
  if (type.isF16())
    return {16, 10, 15, true, 65504.0};
  if (isa<Float8E5M2Type>(type))
    return {8, 2, 15, true, 57344.0};
  return {8, 3, 7, false, 448.0};
}

bool attnc::cpu::isNarrowFloat(Type type) {
  return isa<FloatType>(type) && type.getIntOrFloatBitWidth() < 32;
}

Type attnc::cpu::storageType(Type element) {
  MLIRContext *context = element.getContext();
  if (isa<FloatType>(element))
    return Float32Type::get(context);
  return IntegerType::get(context, 32);
}

int64_t attnc::cpu::memoryBytes(Type element) {
  return (element.getIntOrFloatBitWidth() + 7) / 8;
}

Type attnc::cpu::memoryType(Type element) {
  if (element.isF32())
    return element;
  return IntegerType::get(element.getContext(), memoryBytes(element) * 8);
}

//===----------------------------------------------------------------------===//
// Bit patterns
//===----------------------------------------------------------------------===//

namespace {
/// i32 / f32 arithmetic on scalars or vectors alike.
struct Lanes {
  Code &code;
  Type real, whole;

  Lanes(Code &code, Type like)
      : code(code), real(code.withElement(like, code.getF32Type())),
        whole(code.withElement(like, code.getI32Type())) {}

  Value i(int64_t value) { return code.integer(whole, value); }
  Value f(double value) { return code.real(real, value); }
  Value bits(Value x) { return arith::BitcastOp::create(code, whole, x); }
  Value number(Value x) { return arith::BitcastOp::create(code, real, x); }
  Value land(Value a, int64_t b) {
    return arith::AndIOp::create(code, a, i(b));
  }
  Value lor(Value a, Value b) { return arith::OrIOp::create(code, a, b); }
  Value shl(Value a, int by) { return arith::ShLIOp::create(code, a, i(by)); }
  Value shr(Value a, int by) { return arith::ShRUIOp::create(code, a, i(by)); }
  Value abs(Value x) { return number(land(bits(x), 0x7fffffff)); }
  Value sign(Value x) { return land(bits(x), 0x80000000); }
};
} // namespace

static Value decodeFloat(Code &code, Value bits, const Format &format) {
  Lanes lanes(code, bits.getType());
  Value wide = arith::ExtUIOp::create(code, lanes.whole, bits);
  if (format.bits == 16 && format.mantissa == 7)
    return lanes.number(lanes.shl(wide, 16));
  Value field = lanes.land(wide, format.magnitudeMask());
  Value sign =
      lanes.shl(lanes.land(wide, 1 << (format.bits - 1)), 32 - format.bits);
  // The exponent is rebased by a multiplication, which is exact and turns
  // subnormals of the narrow type into normal numbers.
  int shift = 23 - format.mantissa;
  Value scaled =
      arith::MulFOp::create(code, lanes.number(lanes.shl(field, shift)),
                            lanes.f(std::ldexp(1.0, 127 - format.bias)));
  Value special = lanes.lor(lanes.shl(field, shift), lanes.i(0x7f800000));
  Value isSpecial = arith::CmpIOp::create(
      code, arith::CmpIPredicate::sge, field, lanes.i(format.specialField()));
  Value magnitude =
      arith::SelectOp::create(code, isSpecial, special, lanes.bits(scaled));
  return lanes.number(lanes.lor(magnitude, sign));
}

static Value encodeFloat(Code &code, Value number, const Format &format) {
  Lanes lanes(code, number.getType());
  Type narrow =
      code.withElement(number.getType(), code.getIntegerType(format.bits));
  Value all = lanes.bits(number);
  if (format.bits == 16 && format.mantissa == 7)
    return arith::TruncIOp::create(code, narrow, lanes.shr(all, 16));
  Value magnitude = lanes.abs(number);
  int shift = 23 - format.mantissa;
  // The inverse of the multiplication in decodeFloat: exact, and subnormals
  // of the narrow type become f32 subnormals with the right field.
  Value scaled = arith::MulFOp::create(
      code, magnitude, lanes.f(std::ldexp(1.0, format.bias - 127)));
  Value field = lanes.shr(lanes.bits(scaled), shift);
  Value isInfinity = arith::CmpFOp::create(code, arith::CmpFPredicate::OGT,
                                           magnitude, lanes.f(format.largest));
  Value isNan = arith::CmpFOp::create(code, arith::CmpFPredicate::UNO,
                                      magnitude, magnitude);
  field = arith::SelectOp::create(code, isInfinity,
                                  lanes.i(format.specialField()), field);
  int quietNan = format.infinity
                     ? format.specialField() | (1 << (format.mantissa - 1))
                     : format.specialField();
  field = arith::SelectOp::create(code, isNan, lanes.i(quietNan), field);
  Value sign = lanes.shr(lanes.sign(number), 32 - format.bits);
  return arith::TruncIOp::create(code, narrow, lanes.lor(field, sign));
}

Value attnc::cpu::roundTo(Code &code, Value number, Type element) {
  Format format = formatOf(element);
  Lanes lanes(code, number.getType());
  Value sign = lanes.sign(number);
  Value magnitude = lanes.abs(number), bits = lanes.bits(magnitude);
  // Add half an ulp less one, plus one where the kept part is odd.
  int drop = 23 - format.mantissa;
  Value odd = lanes.land(lanes.shr(bits, drop), 1);
  Value biased = arith::AddIOp::create(
      code, arith::AddIOp::create(code, bits, lanes.i((1 << (drop - 1)) - 1)),
      odd);
  Value rounded = lanes.land(biased, ~((int64_t(1) << drop) - 1));
  if (format.bias != 127) {
    // Below the smallest normal number the spacing is constant: adding and
    // subtracting a number with that spacing rounds.
    double magic =
        std::ldexp(1.0, format.smallestExponent() - format.mantissa + 23);
    Value shifted = arith::AddFOp::create(code, magnitude, lanes.f(magic));
    Value small =
        lanes.bits(arith::SubFOp::create(code, shifted, lanes.f(magic)));
    Value isSmall = arith::CmpFOp::create(
        code, arith::CmpFPredicate::OLT, magnitude,
        lanes.f(std::ldexp(1.0, format.smallestExponent())));
    rounded = arith::SelectOp::create(code, isSmall, small, rounded);
    Value tooLarge =
        arith::CmpFOp::create(code, arith::CmpFPredicate::OGT,
                              lanes.number(rounded), lanes.f(format.largest));
    rounded = arith::SelectOp::create(
        code, tooLarge, lanes.i(format.infinity ? 0x7f800000 : 0x7fc00000),
        rounded);
  }
  Value isNan = arith::CmpFOp::create(code, arith::CmpFPredicate::UNO,
                                      magnitude, magnitude);
  rounded = arith::SelectOp::create(code, isNan, lanes.i(0x7fc00000), rounded);
  return lanes.number(lanes.lor(rounded, sign));
}

//===----------------------------------------------------------------------===//
// All element types
//===----------------------------------------------------------------------===//

Value attnc::cpu::decode(Code &code, Value bits, Type element) {
  if (element.isF32() || element.isInteger(32))
    return bits;
  if (isNarrowFloat(element))
    return decodeFloat(code, bits, formatOf(element));
  Type whole = code.withElement(bits.getType(), code.getI32Type());
  if (!element.isInteger(1))
    return arith::ExtSIOp::create(code, whole, bits);
  // Any non-zero byte is true.
  Value isSet = arith::CmpIOp::create(code, arith::CmpIPredicate::ne, bits,
                                      code.integer(bits.getType(), 0));
  return arith::ExtUIOp::create(code, whole, isSet);
}

Value attnc::cpu::encode(Code &code, Value number, Type element) {
  if (element.isF32() || element.isInteger(32))
    return number;
  if (isNarrowFloat(element))
    return encodeFloat(code, number, formatOf(element));
  Type narrow = code.withElement(number.getType(), memoryType(element));
  return arith::TruncIOp::create(code, narrow, number);
}
