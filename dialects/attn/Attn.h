//===- Attn.h - The attn dialect --------------------------------*- C++ -*-===//
//
// What an attention computes, without saying how. AttnOps.td documents each
// op; docs/semantics.md defines the labels (S-...) used in comments.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_DIALECTS_ATTN_ATTN_H
#define ATTNC_DIALECTS_ATTN_ATTN_H

#include "mlir/Bytecode/BytecodeOpInterface.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Dialect.h"
#include "mlir/IR/OpDefinition.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/Interfaces/InferTypeOpInterface.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

namespace attnc::attn {

/// A tensor or scalar operand read elementwise: `map` leads from the position
/// (b, h, i, j), or (b, h, i, d) in an epilogue, to its dims (S-bias).
struct Capture {
  mlir::Value value;
  mlir::AffineMap map;
};

/// One position, all i32: sequence, query head, query row, key row, and the
/// lengths of this sequence.
struct MaskPosition {
  mlir::Value b, h, i, j, qLen, kLen;
};

/// A block of query rows of one sequence and head; all index values. Rows at
/// or beyond `qLen` are inside `count` but need not be looked at.
struct QueryRows {
  mlir::Value b, h, i0, count, qLen, kLen;
};

/// Keys outside [lo, hi) are attended by no row of the block, keys inside
/// [fullLo, fullHi) by every row. Index values; an empty full part may have
/// fullLo > fullHi.
struct KeyRange {
  mlir::Value lo, fullLo, fullHi, hi;
};

/// A block of keys of one sequence and query head; as QueryRows.
struct KeyRows {
  mlir::Value b, h, j0, count, qLen, kLen;
};

/// As KeyRange, of queries.
using QueryRange = KeyRange;

/// The range of a mask that can say nothing: [0, kLen), no full part.
KeyRange unknownKeyRange(mlir::OpBuilder &builder, mlir::Location loc,
                         const QueryRows &rows);

QueryRange unknownQueryRange(mlir::OpBuilder &builder, mlir::Location loc,
                             const KeyRows &keys);

/// Composes two masks: lo and fullLo by max, hi and fullHi by min.
KeyRange intersect(mlir::OpBuilder &builder, mlir::Location loc,
                   const KeyRange &a, const KeyRange &b);

} // namespace attnc::attn

#include "dialects/attn/AttnDialect.h.inc"
#include "dialects/attn/AttnEnums.h.inc"
#include "dialects/attn/AttnInterfaces.h.inc"

#define GET_TYPEDEF_CLASSES
#include "dialects/attn/AttnTypes.h.inc"

#define GET_OP_CLASSES
#include "dialects/attn/AttnOps.h.inc"

namespace attnc::attn {

/// Positions of the logical dims (b, h, s, d) in a tensor of this layout.
struct LayoutDims {
  unsigned b, h, s, d;
};
LayoutDims getLayoutDims(Layout layout);

/// The permutation that leads from logical dims (b, h, s, d) to tensor dims.
llvm::SmallVector<int64_t> getLayoutPermutation(Layout layout);

/// What a region gets for one element of a captured operand: f32 for a float,
/// i32 for an integer.
mlir::Type getElementScalarType(mlir::Type captured);

/// On a function: the pass attn-differentiate makes it its own gradient. A unit
/// attribute, or the element type of the gradients.
inline constexpr llvm::StringLiteral kDifferentiateAttr = "attn.differentiate";
/// On the same function: the gradients are bit-identical from run to run.
inline constexpr llvm::StringLiteral kDeterministicAttr = "attn.deterministic";
/// On its arguments: those whose gradients are asked for.
inline constexpr llvm::StringLiteral kGradientAttr = "attn.gradient";
/// The name of an argument or result for callers.
inline constexpr llvm::StringLiteral kNameAttr = "attn.name";

/// Along which of a block's positions the elements of a captured operand lie,
/// which decides how its gradient is summed.
enum class CaptureKind { Queries, Keys, Positions };
CaptureKind getCaptureKind(mlir::AffineMap map);

/// Of a map that reads i and j as nothing but their difference, such as that of
/// a table of relative positions: `dim` of the operand is
/// (sign * (i - j) + offset) floordiv divisor, others are b and h.
struct Diagonals {
  unsigned dim;
  int64_t sign, offset, divisor;
};
std::optional<Diagonals> getDiagonals(mlir::AffineMap map);

/// The statistic that a norm is, if it is one.
std::optional<RowStat> getRowStat(RowNorm norm);
RowNorm getRowNorm(RowStat stat);

/// Of a map that permutes some of the positions, where h floordiv N may stand
/// for h: that N, or 1.
std::optional<int64_t> getHeadsPerElement(mlir::AffineMap map);
/// That map with h for h floordiv N.
mlir::AffineMap getMapOfGroups(mlir::AffineMap map);

} // namespace attnc::attn

#endif // ATTNC_DIALECTS_ATTN_ATTN_H
