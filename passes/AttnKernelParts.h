//===- AttnKernelParts.h - What kernels of attn ops are made of -*- C++ -*-===//
//
// Small builders, the frame of a kernel under construction and the loading of
// captured operands: shared by the kernels of the forward and the backward.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_PASSES_ATTNKERNELPARTS_H
#define ATTNC_PASSES_ATTNKERNELPARTS_H

#include "passes/AttnKernels.h"

namespace attnc {

using mlir::ArrayRef;
using mlir::ImplicitLocOpBuilder;
using mlir::SmallVector;
using mlir::StringRef;
using mlir::Value;
using mlir::ValueRange;

//===----------------------------------------------------------------------===//
// Small builders
//===----------------------------------------------------------------------===//

Value constantIndex(ImplicitLocOpBuilder &builder, int64_t value);
Value constantF32(ImplicitLocOpBuilder &builder, float value);
Value toI32(ImplicitLocOpBuilder &builder, Value index);

/// `sum` carried through a loop: body(index, sum) gives the next one.
Value accumulate(ImplicitLocOpBuilder &builder, Value from, Value to,
                 int64_t step, Value sum,
                 llvm::function_ref<Value(Value, Value)> body);

tile::TileType tileType(int64_t rows, int64_t cols, mlir::Type element);
tile::TileType withCols(tile::TileType type, int64_t cols);
Value splat(ImplicitLocOpBuilder &builder, tile::TileType type, float value);

/// S-round: the one place where a tile changes its float type; no op where it
/// does not.
Value castTile(ImplicitLocOpBuilder &builder, Value tile, mlir::Type element);

using ElementFn = llvm::function_ref<Value(
    ImplicitLocOpBuilder &, ValueRange elements, Value r, Value c)>;

Value buildMap(ImplicitLocOpBuilder &builder, tile::TileType type,
               ValueRange inputs, ElementFn fn);
Value buildMask(ImplicitLocOpBuilder &builder, Value input, ValueRange captured,
                float fill, ElementFn fn);
/// a + b and a * b of tiles, b broadcast.
Value addTiles(ImplicitLocOpBuilder &builder, Value a, Value b);
Value mulTiles(ImplicitLocOpBuilder &builder, Value a, Value b);

/// 1 / sum, or 0 where nothing was attended (S-mask-zero).
Value invertSums(ImplicitLocOpBuilder &builder, Value sums);
/// S-lse: natural log; -inf where nothing was attended, never NaN.
Value logSumExp(ImplicitLocOpBuilder &builder, Value maxima, Value sums);

/// Copies the body of `region` with `arguments` for its arguments; what it
/// yields. An empty region is the identity of its first argument.
Value inlineRegion(mlir::OpBuilder &builder, mlir::Region &region,
                   ValueRange arguments);

//===----------------------------------------------------------------------===//
// A kernel under construction
//===----------------------------------------------------------------------===//

/// Gathers the arguments of a kernel as its body asks for them. The body may
/// use scalars of the function directly until `finish`.
class KernelFrame {
public:
  KernelFrame(ImplicitLocOpBuilder &builder, StringRef name,
              const ViewOrders &orders, tile::ScheduleAttr schedule);

  /// The kernel's view of a tensor of the function.
  Value view(Value tensor);
  Value dim(Value tensor, int64_t tensorDim);

  /// Opens the work items; the coordinates.
  SmallVector<Value> openItems(ValueRange counts);

  /// `perTensorDim`, functions of (r, c)[symbols], as the map of an access.
  mlir::AffineMap accessMap(Value tensor, unsigned symbols,
                            ArrayRef<mlir::AffineExpr> perTensorDim);

  AttnKernel finish();

  ImplicitLocOpBuilder &builder;
  const ViewOrders &orders;

private:
  void isolate();

  tile::KernelOp kernel;
  mlir::Block *entry;
  llvm::DenseMap<Value, Value> views;
  SmallVector<Value> arguments;
};

/// How many elements of `tensor`, captured by `map`, lie along heads: each may
/// be that of several.
Value headElements(KernelFrame &frame, Value tensor, mlir::AffineMap map,
                   Value heads);
/// How many of `heads` an element of the tensor has whose first is `head`.
Value headsOfElement(ImplicitLocOpBuilder &builder, Value head, Value heads,
                     int64_t perElement);

/// (r, c)[b, h, s] -> (b, h, s + r, c), for a tensor of this layout.
mlir::AffineMap rowMap(KernelFrame &frame, Value tensor, attn::Layout layout);

/// (r, c)[b, h, s] -> (b, h, s + r): one value a row.
mlir::AffineMap statMap(mlir::MLIRContext *context);

/// The tile of a view at `coordinates` by `map`; what is at or beyond `rows`
/// reads as 0.
Value loadTile(ImplicitLocOpBuilder &builder, tile::TileType type, Value view,
               ValueRange coordinates, mlir::AffineMap map,
               Value rows = Value());

//===----------------------------------------------------------------------===//
// Captured operands
//===----------------------------------------------------------------------===//

/// Where a block of positions (b, h, i0 + r, x0 + c) starts: x is the key j, or
/// d in an epilogue. All index values. With `group`, the block's rows are those
/// of several heads: row r is head h + (i0 + r) mod group at position (i0 + r)
/// floordiv group.
struct BlockOrigin {
  Value b, h, i0, x0, group = {};
};

/// Head and position of row r, functions of (r, c)[symbols].
struct RowExprs {
  mlir::AffineExpr head, position;
};

/// The same for queries of a block; `symbols` get what is read of `at`.
RowExprs rowExprs(ImplicitLocOpBuilder &builder, const BlockOrigin &at,
                  llvm::SmallVectorImpl<Value> &symbols);

/// What a region reads of a captured operand: one scalar for the whole block,
/// or a tile with one element a row, a column or a position.
struct Element {
  Value scalar, tile;
};

/// Which of a position's i and x the rows of a tile are.
enum class BlockRows { Queries, Keys };

/// S-bias: the capture's map composed with the block's origin, so that each
/// element is read where it stands and broadcast dims are not repeated.
class CaptureLoader {
public:
  CaptureLoader(KernelFrame &frame, int64_t rows, int64_t cols,
                BlockRows orientation = BlockRows::Queries)
      : frame(frame), rows(rows), cols(cols), orientation(orientation) {}

  /// Whether the element changes along the rows or columns of the block.
  bool usesRows(const attn::Capture &capture, const BlockOrigin &at) const {
    return capture.map.isFunctionOfDim(rowDim()) ||
           (at.group && capture.map.isFunctionOfDim(1));
  }
  bool usesColumns(const attn::Capture &capture) const {
    return capture.map.isFunctionOfDim(columnDim());
  }

  Element load(const attn::Capture &capture, const BlockOrigin &at);

  /// The map of an access to the elements of a block with `at` as origin,
  /// whose symbols are `coordinates`.
  mlir::AffineMap blockMap(const attn::Capture &capture, const BlockOrigin &at,
                           llvm::SmallVectorImpl<Value> &coordinates);

private:
  unsigned rowDim() const { return orientation == BlockRows::Queries ? 2 : 3; }
  unsigned columnDim() const { return 5 - rowDim(); }
  Value loadScalar(const attn::Capture &capture, const BlockOrigin &at);
  Value loadBlock(const attn::Capture &capture, const BlockOrigin &at,
                  int64_t tileRows, int64_t tileCols);

  KernelFrame &frame;
  int64_t rows, cols;
  BlockRows orientation;
};

SmallVector<Value> tilesOf(ArrayRef<Element> elements);

/// The scalars a region gets for `elements`, given the elements of their
/// tiles. Integers are widened to i32.
SmallVector<Value> scalarsOf(ImplicitLocOpBuilder &builder,
                             ArrayRef<Element> elements, ValueRange fromTiles);

SmallVector<attn::Capture> pairUp(ValueRange values, mlir::ArrayAttr maps);

} // namespace attnc

#endif // ATTNC_PASSES_ATTNKERNELPARTS_H
