//===- PairKernel.h - A block of queries meets one of keys ------*- C++ -*-===//
//
// What the kernels of gradients have in common: where their blocks are, what
// they load of them, the products of a pair and the gradient that follows, and
// the loop over the blocks that pass by.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_PASSES_ATTNBACKWARDKERNELS_PAIRKERNEL_H
#define ATTNC_PASSES_ATTNBACKWARDKERNELS_PAIRKERNEL_H

#include "passes/AttnKernelParts.h"

namespace attnc::backward {

/// What attn.backward and attn.row_sums have in common.
struct PairOperands {
  template <typename Op>
  explicit PairOperands(Op op)
      : query(op.getQuery()), key(op.getKey()), value(op.getValue()),
        doutput(op.getDoutput()), scale(op.getScale()), qLen(op.getQLen()),
        kLen(op.getKLen()), captures(pairUp(op.getCaptures(), op.getMaps())),
        weight(op.getWeight()), layout(op.getLayout()) {
    for (Value mask : op.getMasks())
      masks.push_back(mlir::cast<attn::MaskOpInterface>(mask.getDefiningOp()));
  }

  Value query, key, value, doutput, scale, qLen, kLen;
  SmallVector<attn::Capture> captures;
  SmallVector<attn::MaskOpInterface> masks;
  mlir::Region &weight;
  attn::Layout layout;
};

/// A kernel of which each item has one block that stays, its tiles' rows, while
/// blocks of the other kind pass by.
class PairKernel {
protected:
  PairKernel(ImplicitLocOpBuilder &builder, StringRef name,
             const PairOperands &op, const ViewOrders &orders,
             tile::ScheduleAttr schedule, BlockRows rows);

  // Where the block is.
  bool ofQueries() const { return rows == BlockRows::Queries; }
  int64_t queryBlock() const { return ofQueries() ? blockRows : blockCols; }
  int64_t keyBlock() const { return ofQueries() ? blockCols : blockRows; }
  /// The head dim, static by the verifier.
  int64_t dimSize(Value tensor) const;
  mlir::Type elementType(Value tensor) const;
  Value blocksOf(Value tensor, int64_t size);
  /// S-gqa; a call without key heads has no item, but divides.
  Value groupSize();
  /// A sequence's own length: at most the size of the tensor, whatever the
  /// caller says, and not negative.
  Value length(Value lengths, Value tensor);
  void setSequence(Value sequence);
  void setHead(Value head);
  void setQueries(Value first);
  void setKeys(Value first);
  Value i(ImplicitLocOpBuilder &b, Value r, Value c);
  Value j(ImplicitLocOpBuilder &b, Value r, Value c);
  /// S-beyond: rows at or beyond the length are never read.
  Value loadQueries(Value tensor);
  Value loadKeys(Value tensor, Value head);
  Value loadRows(Value tensor, Value head, Value first, int64_t count,
                 Value left);
  /// Captured operands that change along the columns, or those that do not.
  void loadCaptures(bool byColumn);
  void loadCapturesIf(llvm::function_ref<bool(const attn::Capture &)> wanted);

  // One pair.
  Value scale();

  /// The products of one pair, and the weight that follows from them.
  struct Pair {
    Value dots, dweights, weights;
  };
  /// `stays` and `passes` are queries and keys, or the other way round; so are
  /// `dstays` and `dpasses` of dO and V. Without `dstays` the weight only.
  Pair makePair(Value stays, Value passes, Value dstays, Value dpasses);
  /// The gradient that a region makes of a pair.
  Value gradientOf(const Pair &pair, mlir::Region &region);
  /// The same of the queries and keys that are set, which are loaded for it.
  Value gradientOfBlocks(mlir::Region &region, Value group);
  /// A region of (s, ..., positions, captured...) on tiles; the first is q . k.
  /// What it does not read is not kept for it.
  Value map(mlir::Region &region, ArrayRef<Value> tiles);
  /// Whether some block may hold positions that are masked or outside; static
  /// sizes can say no.
  bool needsMask();
  /// S-mask-zero: masked weights and their gradients are exactly 0. Rows of
  /// the block beyond the sequence only reach what they themselves own, which
  /// is masked at the end.
  Value mask(Value x);
  Value keepByMasks(ImplicitLocOpBuilder &b, Value keep, ValueRange e,
                    const attn::MaskPosition &pos);
  /// S-round: once, to the type that the other operand of the product has.
  Value accumulate(Value weights, Value rows, Value tensor, Value sum);

  // Loops.
  /// The loop over the blocks that pass by; `body` gets where one starts and
  /// the carried values and gives their next ones.
  SmallVector<Value>
  loop(const attn::KeyRange &range, ArrayRef<Value> inits,
       llvm::function_ref<SmallVector<Value>(Value, ValueRange)> body);
  SmallVector<Value>
  loop(const attn::KeyRange &range, ArrayRef<Value> inits, int64_t step,
       llvm::function_ref<SmallVector<Value>(Value, ValueRange)> body);
  /// Nothing passes by a block that lies beyond its sequence.
  attn::KeyRange unlessBeyond(attn::KeyRange range, Value lengths, Value first,
                              Value length);
  /// The keys that the block of queries attends.
  attn::KeyRange keyRange();
  /// The queries that attend the block of keys.
  attn::QueryRange queryRange();

  // Results.
  Value zeros(Value tensor);
  /// `sum` and the sums of the rows of `tile`.
  Value addReduced(Value sum, Value tile);
  Value times(Value x, Value factor);
  /// Rows at or beyond a length get exactly 0.
  Value maskRows(Value tile);
  void storeRows(Value tile, Value result, Value head);
  /// f32 sums of dQ lie as a tensor core has them: 16 rows and 8 columns
  /// together, of which 32 threads have four each, those of two rows and
  /// columns.
  mlir::AffineMap sumsMap();
  SmallVector<Value> sumsAt();
  void storeStat(Value tile, Value result);

  PairOperands op;
  ImplicitLocOpBuilder &b;
  KernelFrame frame;
  BlockRows rows;
  int64_t blockRows, blockCols;
  CaptureLoader loader;
  /// blockRows x blockCols and blockRows x 1, f32.
  tile::TileType scores, row;
  attn::LayoutDims dims;
  /// Whether the block that stays may reach into results of others too.
  bool bothBounded = false;

  Value batch, h, i0, j0, qLen, kLen, qLeft, kLeft;
  Value b32, h32, i032, j032, qLen32, kLen32;
  SmallVector<Element> elements;
  SmallVector<SmallVector<attn::Capture>> maskCaptures;
  SmallVector<SmallVector<Element>> maskElements;
};

/// A captured operand's gradient: the region that makes it and where it goes.
struct CaptureGradient {
  mlir::Region *region;
  Value result;
};

/// Those of one kind that somebody reads.
SmallVector<CaptureGradient> gradientsOf(attn::BackwardOp op,
                                         attn::CaptureKind kind);

} // namespace attnc::backward

#endif // ATTNC_PASSES_ATTNBACKWARDKERNELS_PAIRKERNEL_H
