//===- TileDialect.cpp - Registration, types and attributes ---------------===//

#include "dialects/tile/Tile.h"

#include "mlir/IR/DialectImplementation.h"
#include "llvm/ADT/TypeSwitch.h"

#include "dialects/tile/TileDialect.cpp.inc"
#include "dialects/tile/TileEnums.cpp.inc"

#define GET_TYPEDEF_CLASSES
#include "dialects/tile/TileTypes.cpp.inc"
#define GET_ATTRDEF_CLASSES
#include "dialects/tile/TileAttrs.cpp.inc"

using namespace mlir;
using namespace attnc::tile;

void TileDialect::initialize() {
  addTypes<
#define GET_TYPEDEF_LIST
#include "dialects/tile/TileTypes.cpp.inc"
      >();
  addAttributes<
#define GET_ATTRDEF_LIST
#include "dialects/tile/TileAttrs.cpp.inc"
      >();
  addOperations<
#define GET_OP_LIST
#include "dialects/tile/TileOps.cpp.inc"
      >();
}

static bool isElementType(Type type) {
  return type.isF32() || type.isF16() || type.isBF16() || type.isInteger(1) ||
         type.isInteger(8) || type.isInteger(32) ||
         isa<Float8E4M3FNType, Float8E5M2Type>(type);
}

//===----------------------------------------------------------------------===//
// Types
//===----------------------------------------------------------------------===//

LogicalResult TileType::verify(function_ref<InFlightDiagnostic()> emitError,
                               int64_t rows, int64_t cols, Type elementType) {
  if (rows < 1 || cols < 1)
    return emitError() << "a tile needs at least one row and one column, got "
                       << rows << " x " << cols;
  if (!isElementType(elementType))
    return emitError() << "a tile's elements are f32, f16, bf16, f8E4M3FN, "
                          "f8E5M2, i1, i8 or i32, got "
                       << elementType;
  return success();
}

Type TileType::parse(AsmParser &parser) {
  SmallVector<int64_t> shape;
  Type elementType;
  SMLoc loc = parser.getCurrentLocation();
  if (parser.parseLess() || parser.parseDimensionList(shape, false) ||
      parser.parseType(elementType) || parser.parseGreater())
    return {};
  if (shape.size() != 2) {
    parser.emitError(loc) << "a tile has two dims, got " << shape.size();
    return {};
  }
  return parser.getChecked<TileType>(loc, parser.getContext(), shape[0],
                                     shape[1], elementType);
}

void TileType::print(AsmPrinter &printer) const {
  printer << '<' << getRows() << 'x' << getCols() << 'x' << getElementType()
          << '>';
}

LogicalResult ViewType::verify(function_ref<InFlightDiagnostic()> emitError,
                               ArrayRef<int64_t> shape, Type elementType) {
  for (int64_t size : shape)
    if (size < 0 && !ShapedType::isDynamic(size))
      return emitError() << "a view's sizes are not negative, got " << size;
  if (!isElementType(elementType))
    return emitError() << "a view's elements are f32, f16, bf16, f8E4M3FN, "
                          "f8E5M2, i1, i8 or i32, got "
                       << elementType;
  return success();
}

Type ViewType::parse(AsmParser &parser) {
  SmallVector<int64_t> shape;
  Type elementType;
  SMLoc loc = parser.getCurrentLocation();
  if (parser.parseLess() || parser.parseDimensionList(shape, true) ||
      parser.parseType(elementType) || parser.parseGreater())
    return {};
  return parser.getChecked<ViewType>(loc, parser.getContext(), shape,
                                     elementType);
}

void ViewType::print(AsmPrinter &printer) const {
  printer << '<';
  printer.printDimensionList(getShape());
  if (!getShape().empty())
    printer << 'x';
  printer << getElementType() << '>';
}

//===----------------------------------------------------------------------===//
// Attributes
//===----------------------------------------------------------------------===//

LogicalResult ScheduleAttr::verify(function_ref<InFlightDiagnostic()> emitError,
                                   int64_t blockM, int64_t blockN,
                                   int64_t consumers, int64_t stages,
                                   Order order, bool pingpong, bool pin,
                                   bool persistent, int64_t cluster,
                                   int64_t slice, bool staged, bool oneKernel,
                                   int64_t splits, int64_t fill,
                                   int64_t resident, bool packGroups) {
  if (blockM < 1 || blockN < 1)
    return emitError() << "schedule: block_m and block_n must be at least 1, "
                          "got "
                       << blockM << " and " << blockN;
  if (consumers < 0 || stages < 0 || slice < 0 || cluster < 1)
    return emitError() << "schedule: consumers, stages and slice must not be "
                          "negative and cluster at least 1";
  if (splits < 0 || splits > kMostSplits || fill < 0)
    return emitError() << "schedule: splits must be 0 to " << kMostSplits
                       << " and fill not negative, got " << splits << " and "
                       << fill;
  if (resident < 1 || resident > 4)
    return emitError() << "schedule: resident must be 1 to 4, got " << resident;
  return success();
}
