//===- HopperDialect.cpp - Registration, types and attributes -------------===//

#include "dialects/hopper/Hopper.h"
#include "dialects/hopper/Layout.h"

#include "mlir/IR/DialectImplementation.h"
#include "llvm/ADT/TypeSwitch.h"

#include "dialects/hopper/HopperDialect.cpp.inc"
#include "dialects/hopper/HopperEnums.cpp.inc"

#define GET_TYPEDEF_CLASSES
#include "dialects/hopper/HopperTypes.cpp.inc"
#define GET_ATTRDEF_CLASSES
#include "dialects/hopper/HopperAttrs.cpp.inc"

using namespace mlir;
using namespace attnc::hopper;

void HopperDialect::initialize() {
  addTypes<
#define GET_TYPEDEF_LIST
#include "dialects/hopper/HopperTypes.cpp.inc"
      >();
  addAttributes<
#define GET_ATTRDEF_LIST
#include "dialects/hopper/HopperAttrs.cpp.inc"
      >();
  addOperations<
#define GET_OP_LIST
#include "dialects/hopper/HopperOps.cpp.inc"
      >();
}

//===----------------------------------------------------------------------===//
// Attributes
//===----------------------------------------------------------------------===//

/// Registers a thread has at entry: its share of 64K, at most 255, in units
/// of 8.
static int64_t entryRegisters(int64_t consumers, int64_t resident) {
  int64_t threads = 128 * (consumers + 1) * resident;
  return std::min<int64_t>(65536 / threads, 255) / 8 * 8;
}

LogicalResult RolesAttr::verify(function_ref<InFlightDiagnostic()> emitError,
                                int64_t consumers, int64_t producer,
                                int64_t consumer, bool persistent,
                                int64_t resident, int64_t cluster) {
  if (resident < 1 || resident > 4)
    return emitError() << "roles: expected 1 to 4 resident thread blocks, got "
                       << resident;
  if (cluster != 1 && cluster != 2 && cluster != 4)
    return emitError() << "roles: expected a cluster of 1, 2 or 4 thread "
                          "blocks, got "
                       << cluster;
  if (consumers < 1 || consumers > 4)
    return emitError() << "roles: expected 1 to 4 consumers, got " << consumers;
  for (int64_t registers : {producer, consumer})
    if (registers % 8 || registers < 24 || registers > 240)
      return emitError() << "roles: registers must be a multiple of 8 from 24 "
                            "to 240, got "
                         << registers;
  int64_t sum = producer + consumers * consumer;
  int64_t pool = entryRegisters(consumers, resident) * (consumers + 1);
  if (sum > pool)
    return emitError() << "roles: one producer of " << producer << " and "
                       << consumers << " consumers of " << consumer
                       << " registers need " << sum
                       << " a lane, more than the pool of " << pool;
  return success();
}

RolesAttr attnc::hopper::getDefaultRoles(MLIRContext *context,
                                         int64_t consumers, bool persistent,
                                         bool cooperative, int64_t resident,
                                         int64_t cluster) {
  int64_t pool = entryRegisters(consumers, resident) * (consumers + 1);
  // One thread that starts copies needs few, some more for its place in a
  // cluster; many that load need more.
  int64_t producer = consumers == 3 || cluster > 1 ? 32 : 24;
  if (cooperative)
    producer = 56;
  int64_t consumer =
      std::min<int64_t>((pool - producer) / consumers / 8 * 8, 240);
  return RolesAttr::get(context, consumers, producer, consumer, persistent,
                        resident, cluster);
}

//===----------------------------------------------------------------------===//
// Types
//===----------------------------------------------------------------------===//

int64_t FragType::getCount() const {
  switch (getLayout()) {
  case Layout::Acc:
    return accCount(getCols());
  case Layout::A:
    return accCount(getCols()) / 2;
  case Layout::Row:
    return 2;
  case Layout::Col:
    return getCols() == 1 ? 1 : accCount(getCols()) / 2;
  }
  return 0;
}

LogicalResult FragType::verify(function_ref<InFlightDiagnostic()> emitError,
                               int64_t rows, int64_t cols, Type elementType,
                               Layout layout) {
  auto shape = [&](bool fits, StringRef expected) -> LogicalResult {
    if (fits)
      return success();
    return emitError() << "a fragment of layout '" << stringifyLayout(layout)
                       << "' " << expected << ", got " << rows << "x" << cols
                       << "x" << elementType;
  };
  switch (layout) {
  case Layout::Acc:
    return shape(rows == kWgmmaRows && cols > 0, "has 64 rows");
  case Layout::A:
    return shape(rows == kWgmmaRows && cols > 0 && cols % kWgmmaK == 0 &&
                     elementType.isIntOrFloat() &&
                     elementType.getIntOrFloatBitWidth() == 16,
                 "has 64 rows and a multiple of 16 columns of 16 bits");
  case Layout::Row:
    return shape(rows == kWgmmaRows && cols == 1, "is 64x1");
  case Layout::Col:
    return shape(rows == 1 && cols > 0, "has one row");
  }
  return failure();
}

/// `<64x128xf32` without the end.
static ParseResult parseShaped(AsmParser &parser, unsigned rank,
                               SmallVectorImpl<int64_t> &shape,
                               Type &elementType) {
  SMLoc loc = parser.getCurrentLocation();
  if (parser.parseLess() || parser.parseDimensionList(shape, false) ||
      parser.parseType(elementType))
    return failure();
  if (shape.size() != rank)
    return parser.emitError(loc)
           << "expected " << rank << " dims, got " << shape.size();
  return success();
}

Type FragType::parse(AsmParser &parser) {
  SmallVector<int64_t> shape;
  Type elementType;
  SMLoc loc = parser.getCurrentLocation();
  StringRef keyword;
  if (parseShaped(parser, 2, shape, elementType) || parser.parseComma() ||
      parser.parseKeyword(&keyword) || parser.parseGreater())
    return {};
  auto layout = symbolizeLayout(keyword);
  if (!layout) {
    parser.emitError(loc) << "expected a layout acc, a, row or col, got '"
                          << keyword << "'";
    return {};
  }
  return parser.getChecked<FragType>(loc, parser.getContext(), shape[0],
                                     shape[1], elementType, *layout);
}

void FragType::print(AsmPrinter &printer) const {
  printer << '<' << getRows() << 'x' << getCols() << 'x' << getElementType()
          << ", " << stringifyLayout(getLayout()) << '>';
}

Type PendingType::parse(AsmParser &parser) {
  SmallVector<int64_t> shape;
  Type elementType;
  SMLoc loc = parser.getCurrentLocation();
  if (parseShaped(parser, 2, shape, elementType) || parser.parseGreater())
    return {};
  if (!elementType.isF32()) {
    parser.emitError(loc) << "products accumulate in f32, got " << elementType;
    return {};
  }
  return get(parser.getContext(), shape[0], shape[1]);
}

void PendingType::print(AsmPrinter &printer) const {
  printer << '<' << getRows() << 'x' << getCols() << "xf32>";
}

Type SmemType::parse(AsmParser &parser) {
  SmallVector<int64_t> shape;
  Type elementType;
  if (parseShaped(parser, 2, shape, elementType) || parser.parseGreater())
    return {};
  return get(parser.getContext(), shape[0], shape[1], elementType);
}

void SmemType::print(AsmPrinter &printer) const {
  printer << '<' << getRows() << 'x' << getCols() << 'x' << getElementType()
          << '>';
}

LogicalResult RingType::verify(function_ref<InFlightDiagnostic()> emitError,
                               int64_t stages, int64_t rows, int64_t cols,
                               Type elementType) {
  if (stages < 1 || rows < 1 || rows > 256 || rows % 8 || cols < 1)
    return emitError() << "a ring needs a stage, rows a multiple of 8 up to "
                          "256, and a column, got "
                       << stages << "x" << rows << "x" << cols;
  if (!elementType.isIntOrFloat() || elementType.getIntOrFloatBitWidth() != 16)
    return emitError() << "a ring holds 16-bit elements, got " << elementType;
  return success();
}

Type RingType::parse(AsmParser &parser) {
  SmallVector<int64_t> shape;
  Type elementType;
  SMLoc loc = parser.getCurrentLocation();
  if (parseShaped(parser, 3, shape, elementType) || parser.parseGreater())
    return {};
  return parser.getChecked<RingType>(loc, parser.getContext(), shape[0],
                                     shape[1], shape[2], elementType);
}

void RingType::print(AsmPrinter &printer) const {
  printer << '<' << getStages() << 'x' << getRows() << 'x' << getCols() << 'x'
          << getElementType() << '>';
}
