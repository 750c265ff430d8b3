//===- KernelEmitter.h - Turns a tile.kernel into loops ---------*- C++ -*-===//
//
// Every tile lives in a buffer of per-thread scratch memory, floats as f32
// and integers as i32 (Formats.h), in one of two layouts:
//
//   Panels   rows are vector lanes: element (r, c) of an R x C tile is at
//            ((r / L) * C + c) * L + r % L, with L lanes a vector. Row
//            reductions are vertical, masks vary along lanes, a product
//            streams over panels that are contiguous.
//   Rows     row-major, padded to whole vectors: how memory has it. The
//            right operand of a product is read one scalar at a time, so it
//            stays as loaded.
//
// Each tile is made in the layout that its uses ask for; where uses differ
// it is converted.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_PASSES_TILETOCPU_KERNELEMITTER_H
#define ATTNC_PASSES_TILETOCPU_KERNELEMITTER_H

#include "dialects/tile/Tile.h"
#include "passes/TileToCpu/Code.h"
#include "passes/TileToCpu/Formats.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/IRMapping.h"
#include "llvm/ADT/DenseMap.h"
#include "llvm/Support/MathExtras.h"

#include <map>

namespace attnc::cpu {

/// What code generation needs to know of the processor.
struct VectorUnit {
  int64_t lanes;     ///< f32 numbers in a vector register
  int64_t registers; ///< vector registers
};

enum class Layout { Panels, Rows };

/// A tile value in scratch memory. `offset` is in bytes.
struct Buffer {
  tile::TileType type;
  Layout layout = Layout::Panels;
  int64_t offset = 0;
};

/// Where the element (r, c) is that a load or store accesses; see Access.cpp.
struct RowAccess {
  Value pointer;      ///< of column 0, even if that is outside
  Value columnStride; ///< elements
  Value begin, end;   ///< the columns inside the view
};

class KernelEmitter {
public:
  KernelEmitter(tile::KernelOp kernel, VectorUnit unit,
                mlir::SymbolTable &symbols);

  /// Makes the function; the kernel is left as it was.
  mlir::FailureOr<mlir::func::FuncOp> emit();

private:
  struct View {
    Value pointer;
    Values sizes, strides; // i64
    Type element;
  };

  // KernelEmitter.cpp: arguments, control flow.
  void unpackArguments(mlir::func::FuncOp function);
  Values delinearise(Value item, ValueRange counts);
  mlir::LogicalResult checkTiles();
  mlir::LogicalResult emitBlock(Code &code, mlir::Block &block);
  mlir::LogicalResult emitOp(Code &code, mlir::Operation *op);
  mlir::LogicalResult emitForKeys(Code &code, tile::ForKeysOp op);
  mlir::LogicalResult emitFor(Code &code, mlir::scf::ForOp op);
  mlir::LogicalResult emitIf(Code &code, mlir::scf::IfOp op);
  mlir::LogicalResult emitScalar(Code &code, mlir::Operation *op);
  /// The common part of the two loops.
  mlir::LogicalResult
  emitLoop(Code &code, mlir::Operation *op, Value lower, Value upper,
           Value step, ValueRange inits,
           llvm::function_ref<void(Code &, Value)> bindIndex);
  void moveTiles(Code &code, ValueRange from, mlir::ArrayRef<Buffer> to);

  // Buffers.cpp.
  int64_t bytes(tile::TileType type, Layout layout) const;
  Buffer allocate(tile::TileType type, Layout layout);
  void release(const Buffer &buffer);
  void define(Value value, const Buffer &buffer) { tiles[value] = buffer; }
  /// The tile as it is.
  const Buffer &get(Value value) const { return tiles.at(value); }
  /// The tile in `layout`: itself, or a copy that lives until the op ends.
  Buffer get(Code &code, Value value, Layout layout);
  /// A buffer that holds the tile and may be overwritten: the tile's own
  /// where `user` is its only remaining use, else a copy.
  Buffer consume(Code &code, Value value, Layout layout, mlir::Operation *user);
  /// A buffer for an elementwise result: that of an input of the same shape
  /// that dies here, else a new one.
  Buffer reuse(ValueRange inputs, mlir::Operation *user, tile::TileType type,
               Layout layout);
  bool diesAt(Value value, mlir::Operation *user) const;
  void findLastUses(mlir::Block &block);
  void releaseDying(mlir::Operation *op);
  Layout wantedLayout(Value value);
  void copy(Code &code, const Buffer &from, const Buffer &to);
  void panelsToRows(Code &code, const Buffer &from, const Buffer &to);
  void rowsToPanels(Code &code, const Buffer &from, const Buffer &to);
  Values transposeBlock(Code &code, Values rows);

  // Access.cpp.
  mlir::LogicalResult emitLoad(Code &code, tile::LoadOp op);
  mlir::LogicalResult emitStore(Code &code, tile::StoreOp op);
  mlir::LogicalResult emitLoadScalar(Code &code, tile::LoadScalarOp op);
  struct Access;
  RowAccess accessRow(Code &code, const Access &access, Value row,
                      Value column);
  Value lookUpPage(Code &code, const Access &access, Values &indices);
  mlir::func::FuncOp copyFunction(Type element, bool isStore);
  void buildReadRow(mlir::func::FuncOp function, Type element);
  void buildWriteRow(mlir::func::FuncOp function, Type element);

  // Dot.cpp.
  mlir::LogicalResult emitDot(Code &code, tile::DotOp op);

  // Elementwise.cpp.
  mlir::LogicalResult emitMap(Code &code, tile::MapOp op);
  mlir::LogicalResult emitMask(Code &code, tile::MaskOp op);
  struct Guarded;
  mlir::LogicalResult emitCommon(Code &code, tile::SpeculateOp op,
                                 const Values &arguments, Guarded &out);
  mlir::LogicalResult applyFormula(Code &code, mlir::Region &formula,
                                   mlir::ArrayRef<Values> shared, Type element,
                                   Values &results);
  mlir::LogicalResult emitSpeculate(Code &code, tile::SpeculateOp op);
  mlir::LogicalResult emitCast(Code &code, tile::CastOp op);
  mlir::LogicalResult emitSplat(Code &code, tile::SplatOp op);
  mlir::LogicalResult emitReduce(Code &code, tile::ReduceOp op);
  struct Traversal;
  void traverse(Code &code, const Traversal &traversal);
  Value element(Code &code, const Buffer &input, const Traversal &traversal,
                Value outer, Value inner);
  mlir::FailureOr<Values> cloneBody(Code &code, mlir::Block &block,
                                    ValueRange arguments);
  mlir::FailureOr<Value> cloneElementOp(Code &code, mlir::Operation *op,
                                        mlir::IRMapping &map);
  Value toRegion(Code &code, Value stored, Type element);
  Value fromRegion(Code &code, Value value, Type element);

  // Small things.
  int64_t panels(tile::TileType type) const {
    return llvm::divideCeil(type.getRows(), unit.lanes);
  }
  int64_t paddedCols(tile::TileType type) const {
    return llvm::alignTo(type.getCols(), unit.lanes);
  }
  Type vectorOf(Code &code, Type element) const {
    return code.vectorOf(storageType(element), unit.lanes);
  }
  Value address(Code &code, const Buffer &buffer, Value elements);
  Value scalar(Value value) const { return scalars.lookup(value); }
  Value index(Code &code, Value value) { return code.toI64(scalar(value)); }
  unsigned alignment() const { return unit.lanes * 4; }

  tile::KernelOp kernel;
  VectorUnit unit;
  mlir::SymbolTable &symbols;
  Value scratch;

  mlir::IRMapping scalars;
  llvm::DenseMap<Value, View> views;
  llvm::DenseMap<Value, Buffer> tiles;
  /// For each op, the tiles of its own block that it is the last to use.
  llvm::DenseMap<mlir::Operation *, mlir::SmallVector<Value, 2>> dying;
  llvm::DenseMap<Value, Layout> layouts;
  /// Free ranges of scratch memory by offset, and its size so far.
  std::map<int64_t, int64_t> freeRanges;
  int64_t scratchBytes = 0;
  /// Offsets that belong to that many loops around this point: not freed
  /// with the values they hold.
  llvm::DenseMap<int64_t, int> pins;
  mlir::SmallVector<Buffer> temporaries;
  /// In a tile.for_keys: whether this block of keys needs no mask.
  Value isFull;
};

} // namespace attnc::cpu

#endif // ATTNC_PASSES_TILETOCPU_KERNELEMITTER_H
