//===- AttnMasks.cpp - The masks: predicates and key ranges ---------------===//

#include "dialects/attn/Attn.h"

#include "mlir/IR/IRMapping.h"

#include <limits>

using namespace mlir;
using namespace attnc::attn;

KeyRange attnc::attn::unknownKeyRange(OpBuilder &builder, Location loc,
                                      const QueryRows &rows) {
  Value zero = arith::ConstantIndexOp::create(builder, loc, 0);
  return {zero, rows.kLen, zero, rows.kLen};
}

KeyRange attnc::attn::intersect(OpBuilder &builder, Location loc,
                                const KeyRange &a, const KeyRange &b) {
  auto max = [&](Value x, Value y) -> Value {
    return arith::MaxSIOp::create(builder, loc, x, y);
  };
  auto min = [&](Value x, Value y) -> Value {
    return arith::MinSIOp::create(builder, loc, x, y);
  };
  return {max(a.lo, b.lo), max(a.fullLo, b.fullLo), min(a.fullHi, b.fullHi),
          min(a.hi, b.hi)};
}

//===----------------------------------------------------------------------===//
// The diagonal
//===----------------------------------------------------------------------===//

/// How far the diagonal lies to the right of j = i: k_len - q_len, or 0.
static Value buildShift(OpBuilder &builder, Location loc, Align align,
                        Value qLen, Value kLen) {
  if (align == Align::BottomRight)
    return arith::SubIOp::create(builder, loc, kLen, qLen);
  if (kLen.getType().isIndex())
    return arith::ConstantIndexOp::create(builder, loc, 0);
  return arith::ConstantIntOp::create(builder, loc, 0, 32);
}

/// The key on the diagonal of query row `i`.
static Value buildDiagonal(OpBuilder &builder, Location loc, Align align,
                           Value i, Value qLen, Value kLen) {
  if (align == Align::TopLeft)
    return i;
  return arith::AddIOp::create(builder, loc, i,
                               buildShift(builder, loc, align, qLen, kLen));
}

namespace {
/// The keys on the diagonal of the first and the last row of a block; rows
/// beyond the sequence do not count.
struct DiagonalSpan {
  Value first, last;
};
} // namespace

static DiagonalSpan buildSpan(OpBuilder &builder, Location loc, Align align,
                              const QueryRows &rows) {
  Value end = arith::AddIOp::create(builder, loc, rows.i0, rows.count);
  end = arith::MinSIOp::create(builder, loc, end, rows.qLen);
  Value one = arith::ConstantIndexOp::create(builder, loc, 1);
  Value lastRow = arith::SubIOp::create(builder, loc, end, one);
  auto diagonal = [&](Value row) {
    return buildDiagonal(builder, loc, align, row, rows.qLen, rows.kLen);
  };
  return {diagonal(rows.i0), diagonal(lastRow)};
}

static Value compare(OpBuilder &builder, Location loc,
                     arith::CmpIPredicate predicate, Value a, Value b) {
  return arith::CmpIOp::create(builder, loc, predicate, a, b);
}

static Value plusOne(OpBuilder &builder, Location loc, Value index) {
  Value one = arith::ConstantIndexOp::create(builder, loc, 1);
  return arith::AddIOp::create(builder, loc, index, one);
}

//===----------------------------------------------------------------------===//
// Causal
//===----------------------------------------------------------------------===//

SmallVector<Capture> CausalMaskOp::getMaskCaptures() { return {}; }

Value CausalMaskOp::buildPredicate(OpBuilder &builder, Location loc,
                                   const MaskPosition &pos,
                                   ValueRange captured) {
  // S-causal: j <= i + k_len - q_len.
  Value diagonal =
      buildDiagonal(builder, loc, getAlign(), pos.i, pos.qLen, pos.kLen);
  return compare(builder, loc, arith::CmpIPredicate::sle, pos.j, diagonal);
}

KeyRange CausalMaskOp::buildKeyRange(OpBuilder &builder, Location loc,
                                     const QueryRows &rows) {
  // The last row reaches furthest; what the first row attends, all attend.
  DiagonalSpan span = buildSpan(builder, loc, getAlign(), rows);
  Value zero = arith::ConstantIndexOp::create(builder, loc, 0);
  return {zero, zero, plusOne(builder, loc, span.first),
          plusOne(builder, loc, span.last)};
}

//===----------------------------------------------------------------------===//
// Window
//===----------------------------------------------------------------------===//

SmallVector<Capture> WindowMaskOp::getMaskCaptures() { return {}; }

Value WindowMaskOp::buildPredicate(OpBuilder &builder, Location loc,
                                   const MaskPosition &pos,
                                   ValueRange captured) {
  // S-window: -left <= j - diagonal <= right. Distances, not bounds, are
  // compared: a bound could overflow for a very wide window.
  auto i32 = [&](int64_t value) -> Value {
    return arith::ConstantIntOp::create(builder, loc, value, 32);
  };
  Value zero = i32(0), unlimited = i32(std::numeric_limits<int32_t>::max());
  auto limit = [&](Value width) -> Value {
    Value any = compare(builder, loc, arith::CmpIPredicate::slt, width, zero);
    return arith::SelectOp::create(builder, loc, any, unlimited, width);
  };
  Value left = limit(getLeft()), right = limit(getRight());
  Value diagonal =
      buildDiagonal(builder, loc, getAlign(), pos.i, pos.qLen, pos.kLen);
  Value before = arith::SubIOp::create(builder, loc, diagonal, pos.j);
  Value after = arith::SubIOp::create(builder, loc, pos.j, diagonal);
  Value inLeft = compare(builder, loc, arith::CmpIPredicate::sle, before, left);
  Value inRight =
      compare(builder, loc, arith::CmpIPredicate::sle, after, right);
  return arith::AndIOp::create(builder, loc, inLeft, inRight);
}

KeyRange WindowMaskOp::buildKeyRange(OpBuilder &builder, Location loc,
                                     const QueryRows &rows) {
  DiagonalSpan span = buildSpan(builder, loc, getAlign(), rows);
  Type index = builder.getIndexType();
  Value zero = arith::ConstantIndexOp::create(builder, loc, 0);
  // `bound` where the width is limited, else `open`.
  auto limited = [&](Value width, Value bound, Value open) -> Value {
    Value any = compare(builder, loc, arith::CmpIPredicate::slt, width, zero);
    return arith::SelectOp::create(builder, loc, any, open, bound);
  };
  Value left = arith::IndexCastOp::create(builder, loc, index, getLeft());
  Value right = arith::IndexCastOp::create(builder, loc, index, getRight());
  auto minusLeft = [&](Value diagonal) -> Value {
    return arith::SubIOp::create(builder, loc, diagonal, left);
  };
  auto plusRight = [&](Value diagonal) -> Value {
    return plusOne(builder, loc,
                   arith::AddIOp::create(builder, loc, diagonal, right));
  };
  return {limited(left, minusLeft(span.first), zero),
          limited(left, minusLeft(span.last), zero),
          limited(right, plusRight(span.first), rows.kLen),
          limited(right, plusRight(span.last), rows.kLen)};
}

//===----------------------------------------------------------------------===//
// Masks that know no key range
//===----------------------------------------------------------------------===//

/// (b, h, i, j) -> (dims...)
static AffineMap positionMap(MLIRContext *context, ArrayRef<unsigned> dims) {
  return AffineMap::getMultiDimMapWithTargets(4, dims, context);
}

SmallVector<Capture> DocumentMaskOp::getMaskCaptures() {
  return {{getQIds(), positionMap(getContext(), {0, 2})},
          {getKIds(), positionMap(getContext(), {0, 3})}};
}

Value DocumentMaskOp::buildPredicate(OpBuilder &builder, Location loc,
                                     const MaskPosition &pos,
                                     ValueRange captured) {
  return compare(builder, loc, arith::CmpIPredicate::eq, captured[0],
                 captured[1]);
}

SmallVector<Capture> DilatedMaskOp::getMaskCaptures() { return {}; }

Value DilatedMaskOp::buildPredicate(OpBuilder &builder, Location loc,
                                    const MaskPosition &pos,
                                    ValueRange captured) {
  // A stride below 1 means 1: division by zero has no place here.
  Value one = arith::ConstantIntOp::create(builder, loc, 1, 32);
  Value zero = arith::ConstantIntOp::create(builder, loc, 0, 32);
  Value stride = arith::MaxSIOp::create(builder, loc, getStride(), one);
  Value diagonal =
      buildDiagonal(builder, loc, getAlign(), pos.i, pos.qLen, pos.kLen);
  Value distance = arith::SubIOp::create(builder, loc, diagonal, pos.j);
  Value rest = arith::RemSIOp::create(builder, loc, distance, stride);
  return compare(builder, loc, arith::CmpIPredicate::eq, rest, zero);
}

SmallVector<Capture> TensorMaskOp::getMaskCaptures() {
  return {{getTensor(), getMap()}};
}

Value TensorMaskOp::buildPredicate(OpBuilder &builder, Location loc,
                                   const MaskPosition &pos,
                                   ValueRange captured) {
  // S-bool: True = attend.
  Value zero = arith::ConstantIntOp::create(builder, loc, 0, 32);
  return compare(builder, loc, arith::CmpIPredicate::ne, captured[0], zero);
}

SmallVector<Capture> PredicateMaskOp::getMaskCaptures() {
  SmallVector<Capture> captures;
  // A verifier of a user may ask before this op is verified.
  for (auto [value, map] : llvm::zip(getCaptures(), getMaps()))
    if (auto affine = dyn_cast<AffineMapAttr>(map))
      captures.push_back({value, affine.getValue()});
  return captures;
}

Value PredicateMaskOp::buildPredicate(OpBuilder &builder, Location loc,
                                      const MaskPosition &pos,
                                      ValueRange captured) {
  Block &body = getBody().front();
  IRMapping mapping;
  SmallVector<Value> arguments = {pos.b, pos.h, pos.i, pos.j};
  llvm::append_range(arguments, captured);
  mapping.map(body.getArguments(), arguments);
  for (Operation &op : body.without_terminator())
    builder.clone(op, mapping);
  return mapping.lookupOrDefault(body.getTerminator()->getOperand(0));
}
