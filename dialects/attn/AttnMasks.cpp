//===- AttnMasks.cpp - The masks: predicates and key ranges ---------------===//

#include "dialects/attn/Attn.h"

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

SmallVector<Capture> CausalMaskOp::getMaskCaptures() { return {}; }
Value CausalMaskOp::buildPredicate(OpBuilder &builder, Location loc,
                                   const MaskPosition &pos,
                                   ValueRange captured) {
  // S-causal: j <= i + k_len - q_len.
  Value diagonal = pos.i;
  if (getAlign() == Align::BottomRight) {
    Value shift = arith::SubIOp::create(builder, loc, pos.kLen, pos.qLen);
    diagonal = arith::AddIOp::create(builder, loc, pos.i, shift);
  }
  return arith::CmpIOp::create(builder, loc, arith::CmpIPredicate::sle, pos.j,
                               diagonal);
}
KeyRange CausalMaskOp::buildKeyRange(OpBuilder &builder, Location loc,
                                     const QueryRows &rows) {
  return unknownKeyRange(builder, loc, rows);
}

SmallVector<Capture> WindowMaskOp::getMaskCaptures() { return {}; }
Value WindowMaskOp::buildPredicate(OpBuilder &builder, Location loc,
                                   const MaskPosition &pos,
                                   ValueRange captured) {
  return {};
}
KeyRange WindowMaskOp::buildKeyRange(OpBuilder &builder, Location loc,
                                     const QueryRows &rows) {
  return unknownKeyRange(builder, loc, rows);
}

SmallVector<Capture> DocumentMaskOp::getMaskCaptures() { return {}; }
Value DocumentMaskOp::buildPredicate(OpBuilder &builder, Location loc,
                                     const MaskPosition &pos,
                                     ValueRange captured) {
  return {};
}

SmallVector<Capture> DilatedMaskOp::getMaskCaptures() { return {}; }
Value DilatedMaskOp::buildPredicate(OpBuilder &builder, Location loc,
                                    const MaskPosition &pos,
                                    ValueRange captured) {
  return {};
}

SmallVector<Capture> TensorMaskOp::getMaskCaptures() { return {}; }
Value TensorMaskOp::buildPredicate(OpBuilder &builder, Location loc,
                                   const MaskPosition &pos,
                                   ValueRange captured) {
  return {};
}

SmallVector<Capture> PredicateMaskOp::getMaskCaptures() { return {}; }
Value PredicateMaskOp::buildPredicate(OpBuilder &builder, Location loc,
                                      const MaskPosition &pos,
                                      ValueRange captured) {
  return {};
}
