//===- Tile.h - The tile dialect --------------------------------*- C++ -*-===//
//
// The blocked program, target-neutral. TileOps.td documents each op.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_DIALECTS_TILE_TILE_H
#define ATTNC_DIALECTS_TILE_TILE_H

#include "mlir/Bytecode/BytecodeOpInterface.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Dialect.h"
#include "mlir/IR/OpDefinition.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/IR/SymbolTable.h"
#include "mlir/Interfaces/ControlFlowInterfaces.h"
#include "mlir/Interfaces/FunctionInterfaces.h"
#include "mlir/Interfaces/InferTypeOpInterface.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

#include "dialects/tile/TileDialect.h.inc"
#include "dialects/tile/TileEnums.h.inc"

#define GET_TYPEDEF_CLASSES
#include "dialects/tile/TileTypes.h.inc"

#define GET_ATTRDEF_CLASSES
#include "dialects/tile/TileAttrs.h.inc"

namespace attnc::tile {
class ItemsOp;

/// Attributes of program arguments; see `tile.program`.
inline constexpr llvm::StringLiteral kNameAttr = "tile.name";
/// What stands in place of a schedule where the cost model is to choose one for
/// few queries and many keys, or for so few items that taller ones would leave
/// multiprocessors without work.
inline constexpr llvm::StringLiteral kFewQueries = "few_queries";
inline constexpr llvm::StringLiteral kFewItems = "few_items";
/// What one item can add up: the columns of a tile.
inline constexpr int64_t kMostSplits = 64;
inline constexpr llvm::StringLiteral kDimsAttr = "tile.dims";
inline constexpr llvm::StringLiteral kResultAttr = "tile.result";
} // namespace attnc::tile

#define GET_OP_CLASSES
#include "dialects/tile/TileOps.h.inc"

namespace attnc::tile {
/// Of a speculation with `formulas` fast regions.
llvm::LogicalResult verifyLimits(mlir::Operation *op,
                                 llvm::ArrayRef<float> limits, size_t formulas);

/// Those limits with as many digits as it takes to read the same floats again.
mlir::ParseResult parseLimits(mlir::OpAsmParser &parser,
                              mlir::DenseF32ArrayAttr &limits);
void printLimits(mlir::OpAsmPrinter &printer, mlir::Operation *op,
                 mlir::DenseF32ArrayAttr limits);

/// How many elements a formula of a speculation computes at once.
int64_t getFormulaWidth(mlir::Region &formula);

/// What a formula of this width gets and gives, for elements that share
/// `shared`.
struct FormulaTypes {
  llvm::SmallVector<mlir::Type> arguments, yields;
};
FormulaTypes getFormulaTypes(mlir::TypeRange shared, mlir::Type element,
                             int64_t width);
} // namespace attnc::tile

#endif // ATTNC_DIALECTS_TILE_TILE_H
