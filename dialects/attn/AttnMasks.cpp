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

QueryRange attnc::attn::unknownQueryRange(OpBuilder &builder, Location loc,
                                          const KeyRows &keys) {
  Value zero = arith::ConstantIndexOp::create(builder, loc, 0);
  return {zero, keys.qLen, zero, keys.qLen};
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

/// The queries on whose diagonal the first and the last key of a block lie;
/// keys beyond the sequence do not count.
static DiagonalSpan buildSpan(OpBuilder &builder, Location loc, Align align,
                              const KeyRows &keys) {
  Value end = arith::AddIOp::create(builder, loc, keys.j0, keys.count);
  end = arith::MinSIOp::create(builder, loc, end, keys.kLen);
  Value one = arith::ConstantIndexOp::create(builder, loc, 1);
  Value lastKey = arith::SubIOp::create(builder, loc, end, one);
  Value shift = buildShift(builder, loc, align, keys.qLen, keys.kLen);
  return {arith::SubIOp::create(builder, loc, keys.j0, shift),
          arith::SubIOp::create(builder, loc, lastKey, shift)};
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

QueryRange CausalMaskOp::buildQueryRange(OpBuilder &builder, Location loc,
                                         const KeyRows &keys) {
  // From the first key's diagonal on a query attends some, from the last's all.
  DiagonalSpan span = buildSpan(builder, loc, getAlign(), keys);
  return {span.first, span.last, keys.qLen, keys.qLen};
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

namespace {
/// The run-time widths of a window as bounds of index values.
class WindowBounds {
public:
  WindowBounds(OpBuilder &builder, Location loc, WindowMaskOp op)
      : builder(builder), loc(loc), op(op) {
    Type index = builder.getIndexType();
    left = arith::IndexCastOp::create(builder, loc, index, op.getLeft());
    right = arith::IndexCastOp::create(builder, loc, index, op.getRight());
    zero = arith::ConstantIndexOp::create(builder, loc, 0);
  }

  /// at - width, or 0 where the width is unlimited.
  Value below(Value at, bool byLeft) {
    Value bound =
        arith::SubIOp::create(builder, loc, at, byLeft ? left : right);
    return limited(byLeft, bound, zero);
  }

  /// One past at + width, or `open` where the width is unlimited.
  Value above(Value at, bool byLeft, Value open) {
    Value bound =
        arith::AddIOp::create(builder, loc, at, byLeft ? left : right);
    return limited(byLeft, plusOne(builder, loc, bound), open);
  }

private:
  Value limited(bool byLeft, Value bound, Value open) {
    Value any = compare(builder, loc, arith::CmpIPredicate::slt,
                        byLeft ? left : right, zero);
    return arith::SelectOp::create(builder, loc, any, open, bound);
  }

  OpBuilder &builder;
  Location loc;
  WindowMaskOp op;
  Value left, right, zero;
};
} // namespace

KeyRange WindowMaskOp::buildKeyRange(OpBuilder &builder, Location loc,
                                     const QueryRows &rows) {
  DiagonalSpan span = buildSpan(builder, loc, getAlign(), rows);
  WindowBounds window(builder, loc, *this);
  return {window.below(span.first, /*byLeft=*/true),
          window.below(span.last, /*byLeft=*/true),
          window.above(span.first, /*byLeft=*/false, rows.kLen),
          window.above(span.last, /*byLeft=*/false, rows.kLen)};
}

QueryRange WindowMaskOp::buildQueryRange(OpBuilder &builder, Location loc,
                                         const KeyRows &keys) {
  // A key is attended from `right` queries before its diagonal to `left` after.
  DiagonalSpan span = buildSpan(builder, loc, getAlign(), keys);
  WindowBounds window(builder, loc, *this);
  return {window.below(span.first, /*byLeft=*/false),
          window.below(span.last, /*byLeft=*/false),
          window.above(span.first, /*byLeft=*/true, keys.qLen),
          window.above(span.last, /*byLeft=*/true, keys.qLen)};
}

//===----------------------------------------------------------------------===//
// Masks that know no range
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
