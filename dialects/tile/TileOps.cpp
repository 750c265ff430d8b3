//===- TileOps.cpp - Syntax and verifiers of the tile ops -----------------===//

#include "dialects/tile/Tile.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/Interfaces/FunctionImplementation.h"

#define GET_OP_CLASSES
#include "dialects/tile/TileOps.cpp.inc"

using namespace mlir;
using namespace attnc::tile;

//===----------------------------------------------------------------------===//
// Names: what a person sees instead of %0, %1, ...
//===----------------------------------------------------------------------===//

/// The `tile.name` of a view that is an argument, or "".
static StringRef getViewName(Value view) {
  auto argument = dyn_cast<BlockArgument>(view);
  if (!argument)
    return "";
  auto function =
      dyn_cast<FunctionOpInterface>(argument.getOwner()->getParentOp());
  if (!function)
    return "";
  auto name =
      function.getArgAttrOfType<StringAttr>(argument.getArgNumber(), kNameAttr);
  return name ? name.getValue() : "";
}

static void nameArguments(Region &region, OpAsmSetValueNameFn setName) {
  for (BlockArgument argument : region.getArguments())
    if (StringRef name = getViewName(argument); !name.empty())
      setName(argument, name);
}

void ProgramOp::getAsmBlockArgumentNames(Region &region,
                                         OpAsmSetValueNameFn setName) {
  nameArguments(region, setName);
}
void KernelOp::getAsmBlockArgumentNames(Region &region,
                                        OpAsmSetValueNameFn setName) {
  nameArguments(region, setName);
}
void ItemsOp::getAsmBlockArgumentNames(Region &region,
                                       OpAsmSetValueNameFn setName) {
  for (BlockArgument argument : region.getArguments())
    setName(argument, "item");
}
void ForKeysOp::getAsmBlockArgumentNames(Region &region,
                                         OpAsmSetValueNameFn setName) {
  setName(region.getArgument(0), "key");
  for (BlockArgument argument : region.getArguments().drop_front())
    setName(argument, "carried");
}

void DimOp::getAsmResultNames(OpAsmSetValueNameFn setName) {
  StringRef view = getViewName(getView());
  if (!view.empty())
    setName(getSize(), (view + "_dim" + Twine(getDim())).str());
}
void LoadOp::getAsmResultNames(OpAsmSetValueNameFn setName) {
  StringRef view = getViewName(getView());
  setName(getTile(), view.empty() ? "tile" : (view + "_tile").str());
}
void SplatOp::getAsmResultNames(OpAsmSetValueNameFn setName) {
  setName(getTile(), "splat");
}
void DotOp::getAsmResultNames(OpAsmSetValueNameFn setName) {
  setName(getResult(), "dot");
}
void MapOp::getAsmResultNames(OpAsmSetValueNameFn setName) {
  setName(getResult(), "map");
}
void SpeculateOp::getAsmResultNames(OpAsmSetValueNameFn setName) {
  setName(getResult(), "speculated");
}
void MaskOp::getAsmResultNames(OpAsmSetValueNameFn setName) {
  setName(getResult(), "masked");
}

/// Elements first, then the position, as in tile.map.
static void nameElements(Region &region, OpAsmSetValueNameFn setName) {
  unsigned count = region.getNumArguments();
  if (count < 2)
    return;
  for (BlockArgument argument : region.getArguments().drop_back(2))
    setName(argument, "x");
  setName(region.getArgument(count - 2), "row");
  setName(region.getArgument(count - 1), "col");
}

void MapOp::getAsmBlockArgumentNames(Region &region,
                                     OpAsmSetValueNameFn setName) {
  nameElements(region, setName);
}
void SpeculateOp::getAsmBlockArgumentNames(Region &region,
                                           OpAsmSetValueNameFn setName) {
  nameElements(region, setName);
}
void MaskOp::getAsmBlockArgumentNames(Region &region,
                                      OpAsmSetValueNameFn setName) {
  for (auto [index, argument] : llvm::enumerate(region.getArguments()))
    setName(argument, index == 0 ? "row" : index == 1 ? "col" : "x");
}
void ReduceOp::getAsmResultNames(OpAsmSetValueNameFn setName) {
  setName(getResult(), ("row_" + stringifyReduction(getKind())).str());
}
void CastOp::getAsmResultNames(OpAsmSetValueNameFn setName) {
  setName(getResult(), "cast");
}
void SoftmaxStepOp::getAsmResultNames(OpAsmSetValueNameFn setName) {
  setName(getWeights(), "weights");
  setName(getAlpha(), "alpha");
  setName(getNewMax(), "max");
  setName(getNewSum(), "sum");
}

//===----------------------------------------------------------------------===//
// Programs and kernels
//===----------------------------------------------------------------------===//

/// Types may say that no call is meant.
LogicalResult PreferOp::canonicalize(PreferOp op, PatternRewriter &rewriter) {
  if (!matchPattern(op.getCondition(), m_Zero()))
    return failure();
  rewriter.eraseOp(op);
  return success();
}

/// `@name(%arg: type {attrs}, ...) [schedule(#tile.schedule<...>)] { ... }`
template <typename OpTy>
static ParseResult parseFunctionLike(OpAsmParser &parser,
                                     OperationState &result,
                                     StringAttr scheduleName) {
  StringAttr name;
  SmallVector<OpAsmParser::Argument> arguments;
  if (parser.parseSymbolName(name, SymbolTable::getSymbolAttrName(),
                             result.attributes) ||
      parser.parseArgumentList(arguments, OpAsmParser::Delimiter::Paren,
                               /*allowType=*/true, /*allowAttrs=*/true))
    return failure();
  Builder &builder = parser.getBuilder();
  SmallVector<Type> types;
  SmallVector<DictionaryAttr> argAttrs;
  for (OpAsmParser::Argument &argument : arguments) {
    types.push_back(argument.type);
    argAttrs.push_back(argument.attrs ? argument.attrs
                                      : builder.getDictionaryAttr({}));
  }
  result.addAttribute(OpTy::getFunctionTypeAttrName(result.name),
                      TypeAttr::get(builder.getFunctionType(types, {})));
  call_interface_impl::addArgAndResultAttrs(
      builder, result, argAttrs, {}, OpTy::getArgAttrsAttrName(result.name),
      OpTy::getResAttrsAttrName(result.name));
  if (scheduleName && succeeded(parser.parseOptionalKeyword("schedule"))) {
    ScheduleAttr schedule;
    if (parser.parseLParen() || parser.parseAttribute(schedule) ||
        parser.parseRParen())
      return failure();
    result.addAttribute(scheduleName, schedule);
  }
  if (parser.parseOptionalAttrDictWithKeyword(result.attributes))
    return failure();
  return parser.parseRegion(*result.addRegion(), arguments);
}

static void printFunctionLike(OpAsmPrinter &printer,
                              FunctionOpInterface function,
                              ScheduleAttr schedule) {
  printer << ' ';
  printer.printSymbolName(function.getName());
  printer << '(';
  for (BlockArgument argument : function.getArguments()) {
    if (argument.getArgNumber())
      printer << ", ";
    printer.printRegionArgument(argument,
                                function.getArgAttrs(argument.getArgNumber()));
  }
  printer << ')';
  if (schedule)
    printer << " schedule(" << schedule << ')';
  printer.printOptionalAttrDictWithKeyword(
      function->getAttrs(), {SymbolTable::getSymbolAttrName(), "function_type",
                             "arg_attrs", "res_attrs", "schedule"});
  printer << ' ';
  printer.printRegion(function.getFunctionBody(), /*printEntryBlockArgs=*/false,
                      /*printBlockTerminators=*/true);
}

ParseResult ProgramOp::parse(OpAsmParser &parser, OperationState &result) {
  return parseFunctionLike<ProgramOp>(parser, result, {});
}
void ProgramOp::print(OpAsmPrinter &printer) {
  printFunctionLike(printer, *this, {});
}

ParseResult KernelOp::parse(OpAsmParser &parser, OperationState &result) {
  return parseFunctionLike<KernelOp>(parser, result,
                                     getScheduleAttrName(result.name));
}
void KernelOp::print(OpAsmPrinter &printer) {
  printFunctionLike(printer, *this, getScheduleAttr());
}

LogicalResult ProgramOp::verifyRegions() {
  for (auto [index, type] : llvm::enumerate(getArgumentTypes()))
    if (!isa<ViewType>(type) && !type.isF32() && !type.isInteger(32))
      return emitOpError() << "argument " << index
                           << " must be a view, f32 or i32, got " << type;
  return success();
}

LogicalResult KernelOp::verifyRegions() {
  for (auto [index, type] : llvm::enumerate(getArgumentTypes()))
    if (!isa<ViewType>(type) && !type.isF32() && !type.isInteger(32) &&
        !type.isIndex())
      return emitOpError() << "argument " << index
                           << " must be a view, f32, i32 or index, got "
                           << type;
  Block &body = getBody().front();
  if (body.empty() || !isa<ItemsOp>(body.back()))
    return emitOpError("must end in one tile.items");
  if (llvm::range_size(body.getOps<ItemsOp>()) != 1)
    return emitOpError("has more than one tile.items");
  return success();
}

ItemsOp KernelOp::getItems() { return cast<ItemsOp>(getBody().front().back()); }

LogicalResult LaunchOp::verifySymbolUses(SymbolTableCollection &symbols) {
  Operation *symbol = symbols.lookupNearestSymbolFrom(*this, getKernelAttr());
  if (!symbol)
    return emitOpError() << "no kernel named " << getKernelAttr();
  // A lowered kernel has the parameters its target chose.
  auto kernel = dyn_cast<KernelOp>(symbol);
  if (!kernel)
    return success();
  if (kernel.getArgumentTypes() !=
      ArrayRef<Type>(llvm::to_vector(getArgs().getTypes())))
    return emitOpError() << "operand types do not match "
                         << kernel.getFunctionType();
  return success();
}

LogicalResult WorkspaceOp::verify() {
  size_t dynamic =
      llvm::count_if(getView().getType().getShape(), ShapedType::isDynamic);
  if (dynamic != getSizes().size())
    return emitOpError() << "needs one size for each dynamic dim: expected "
                         << dynamic << ", got " << getSizes().size();
  return success();
}

//===----------------------------------------------------------------------===//
// Items and loops
//===----------------------------------------------------------------------===//

ParseResult ItemsOp::parse(OpAsmParser &parser, OperationState &result) {
  SmallVector<OpAsmParser::Argument> arguments;
  SmallVector<OpAsmParser::UnresolvedOperand> counts;
  Type index = parser.getBuilder().getIndexType();
  if (parser.parseArgumentList(arguments, OpAsmParser::Delimiter::Paren) ||
      parser.parseKeyword("in") ||
      parser.parseOperandList(counts, OpAsmParser::Delimiter::Paren) ||
      parser.parseOptionalAttrDictWithKeyword(result.attributes) ||
      parser.resolveOperands(counts, index, result.operands))
    return failure();
  for (OpAsmParser::Argument &argument : arguments)
    argument.type = index;
  Region &body = *result.addRegion();
  if (parser.parseRegion(body, arguments))
    return failure();
  if (body.empty())
    body.emplaceBlock();
  return success();
}

void ItemsOp::print(OpAsmPrinter &printer) {
  printer << " (";
  llvm::interleaveComma(getBody().getArguments(), printer,
                        [&](Value value) { printer.printOperand(value); });
  printer << ") in (" << getCounts() << ")";
  printer.printOptionalAttrDictWithKeyword((*this)->getAttrs());
  printer << ' ';
  printer.printRegion(getBody(), /*printEntryBlockArgs=*/false);
}

LogicalResult ItemsOp::verifyRegions() {
  if (getBody().getNumArguments() != getCounts().size())
    return emitOpError() << "has " << getCounts().size() << " counts but "
                         << getBody().getNumArguments() << " coordinates";
  return success();
}

ParseResult ForKeysOp::parse(OpAsmParser &parser, OperationState &result) {
  Builder &builder = parser.getBuilder();
  Type index = builder.getIndexType();
  OpAsmParser::Argument key;
  SmallVector<OpAsmParser::UnresolvedOperand> bounds, inits;
  SmallVector<OpAsmParser::Argument> arguments;
  SmallVector<Type> types;
  int64_t step;
  key.type = index;
  if (parser.parseArgument(key) || parser.parseKeyword("in") ||
      parser.parseOperandList(bounds, 4, OpAsmParser::Delimiter::Paren) ||
      parser.parseKeyword("step") || parser.parseInteger(step))
    return failure();
  SMLoc loc = parser.getCurrentLocation();
  if (succeeded(parser.parseOptionalKeyword("iter_args"))) {
    if (parser.parseAssignmentList(arguments, inits) ||
        parser.parseArrowTypeList(types))
      return failure();
    if (types.size() != arguments.size())
      return parser.emitError(loc) << "expected " << arguments.size()
                                   << " types, got " << types.size();
  }
  for (auto [argument, type] : llvm::zip_equal(arguments, types))
    argument.type = type;
  if (parser.parseOptionalAttrDictWithKeyword(result.attributes) ||
      parser.resolveOperands(bounds, index, result.operands) ||
      parser.resolveOperands(inits, types, loc, result.operands))
    return failure();
  arguments.insert(arguments.begin(), key);
  if (parser.parseRegion(*result.addRegion(), arguments))
    return failure();
  ensureTerminator(*result.regions.front(), builder, result.location);
  if (succeeded(parser.parseOptionalKeyword("rows")) &&
      parser.parseRegion(*result.addRegion()))
    return failure();
  auto &properties = result.getOrAddProperties<Properties>();
  properties.step = builder.getI64IntegerAttr(step);
  result.addTypes(types);
  return success();
}

void ForKeysOp::print(OpAsmPrinter &printer) {
  printer << ' ' << getKey() << " in (" << getLo() << ", " << getFullLo()
          << ", " << getFullHi() << ", " << getHi() << ") step " << getStep();
  if (!getInits().empty()) {
    printer << " iter_args(";
    llvm::interleaveComma(
        llvm::zip(getIterArgs(), getInits()), printer, [&](auto pair) {
          printer << std::get<0>(pair) << " = " << std::get<1>(pair);
        });
    printer << ") -> (" << getInits().getTypes() << ')';
  }
  printer.printOptionalAttrDictWithKeyword((*this)->getAttrs(), {"step"});
  printer << ' ';
  printer.printRegion(getRegion(), /*printEntryBlockArgs=*/false,
                      /*printBlockTerminators=*/!getInits().empty());
  for (Region &rows : getRows()) {
    printer << " rows ";
    printer.printRegion(rows);
  }
}

/// `rows` takes two index values and yields four.
static LogicalResult verifyRows(ForKeysOp op) {
  if (op.getRows().empty())
    return success();
  auto areIndices = [](TypeRange types, size_t count) {
    return types.size() == count &&
           llvm::all_of(types, llvm::IsaPred<IndexType>);
  };
  Block &block = op.getRows().front().front();
  if (op.getRows().size() > 1 || !areIndices(block.getArgumentTypes(), 2) ||
      !areIndices(block.getTerminator()->getOperandTypes(), 4))
    return op.emitOpError("rows must be one region that takes the first row "
                          "and the count and yields lo, fullLo, fullHi and "
                          "hi, all of type index");
  return success();
}

LogicalResult ForKeysOp::verifyRegions() {
  if (getBody()->getNumArguments() != getInits().size() + 1)
    return emitOpError() << "body must have the key and " << getInits().size()
                         << " iteration arguments";
  auto same = [&](TypeRange types) {
    return llvm::equal(types, getInits().getTypes());
  };
  if (!same(getResultTypes()) || !same(ValueRange(getIterArgs()).getTypes()) ||
      !same(getYielded().getTypes()))
    return emitOpError("initial values, iteration arguments, yielded values "
                       "and results must have the same types");
  return verifyRows(*this);
}

//===----------------------------------------------------------------------===//
// Memory
//===----------------------------------------------------------------------===//

LogicalResult DimOp::verify() {
  if (getDim() >= static_cast<uint64_t>(getView().getType().getRank()))
    return emitOpError() << "dim " << getDim() << " is not in a view of rank "
                         << getView().getType().getRank();
  return success();
}

OpFoldResult DimOp::fold(FoldAdaptor) {
  int64_t size = getView().getType().getShape()[getDim()];
  if (ShapedType::isDynamic(size))
    return {};
  return IntegerAttr::get(IndexType::get(getContext()), size);
}

static LogicalResult verifyAccess(Operation *op, AffineMap map, ViewType view,
                                  TileType tile, size_t coordinates) {
  if (map.getNumDims() != 2 || map.getNumSymbols() != coordinates ||
      map.getNumResults() != static_cast<unsigned>(view.getRank()))
    return op->emitOpError()
           << "needs a map from (row, column) and one symbol for each of the "
           << coordinates << " coordinates to the " << view.getRank()
           << " dims of the view, got " << AffineMapAttr::get(map);
  if (tile.getElementType() != view.getElementType())
    return op->emitOpError()
           << "element types differ: " << tile.getElementType() << " and "
           << view.getElementType();
  return success();
}

LogicalResult LoadOp::verify() {
  bool paged = getPageTable() != nullptr;
  if (paged != getPageDim().has_value() || paged != getSeqDim().has_value() ||
      paged != (getPageRow() != nullptr) || paged != (getPageSize() != nullptr))
    return emitOpError("a paged load needs a table, a row, a size and dims");
  if (paged) {
    auto table = cast<ViewType>(getPageTable().getType());
    if (table.getRank() != 2 || !table.getElementType().isInteger(32))
      return emitOpError() << "the page table must be a view of rank 2 of "
                              "i32, got "
                           << table;
    uint64_t rank = getView().getType().getRank();
    if (*getPageDim() >= rank || *getSeqDim() >= rank ||
        *getPageDim() == *getSeqDim())
      return emitOpError() << "page and sequence dims must be two dims of the "
                              "view, got "
                           << *getPageDim() << " and " << *getSeqDim();
  }
  return verifyAccess(*this, getMap(), getView().getType(), getTile().getType(),
                      getCoordinates().size());
}

LogicalResult StoreOp::verify() {
  if (getAdd() && !getTile().getType().getElementType().isF32())
    return emitOpError() << "adds f32 elements only, got "
                         << getTile().getType();
  return verifyAccess(*this, getMap(), getView().getType(), getTile().getType(),
                      getCoordinates().size());
}

LogicalResult LoadScalarOp::verify() {
  auto view = cast<ViewType>(getView().getType());
  if (view.getRank() != static_cast<int64_t>(getCoordinates().size()))
    return emitOpError() << "needs " << view.getRank() << " coordinates, got "
                         << getCoordinates().size();
  bool isFloat = isa<FloatType>(view.getElementType());
  if (isFloat != getValue().getType().isF32())
    return emitOpError() << "a view of " << view.getElementType() << " gives "
                         << (isFloat ? "f32" : "i32") << ", got "
                         << getValue().getType();
  return success();
}

//===----------------------------------------------------------------------===//
// Arithmetic on tiles
//===----------------------------------------------------------------------===//

LogicalResult SplatOp::verify() {
  if (getValue().getType() != getTile().getType().getElementType())
    return emitOpError() << "value and tile differ: " << getValue().getType()
                         << " and " << getTile().getType();
  return success();
}

LogicalResult DotOp::verify() {
  TileType lhs = getLhs().getType(), rhs = getRhs().getType(),
           result = getResult().getType();
  int64_t m = getTransposeA() ? lhs.getCols() : lhs.getRows();
  int64_t k = getTransposeA() ? lhs.getRows() : lhs.getCols();
  int64_t kRhs = getTransposeB() ? rhs.getCols() : rhs.getRows();
  int64_t n = getTransposeB() ? rhs.getRows() : rhs.getCols();
  if (k != kRhs)
    return emitOpError() << "inner sizes differ: " << k << " and " << kRhs;
  if (result.getRows() != m || result.getCols() != n ||
      !result.getElementType().isF32())
    return emitOpError() << "the result must be " << m << "x" << n
                         << "xf32, got " << result;
  if (getAcc() && getAcc().getType() != result)
    return emitOpError() << "acc must be of the result's type, got "
                         << getAcc().getType();
  return success();
}

static bool broadcasts(TileType from, TileType to) {
  return (from.getRows() == to.getRows() || from.getRows() == 1) &&
         (from.getCols() == to.getCols() || from.getCols() == 1);
}

static LogicalResult verifyBroadcast(Operation *op, ValueRange inputs,
                                     TileType result) {
  for (Value input : inputs)
    if (!broadcasts(cast<TileType>(input.getType()), result))
      return op->emitOpError() << "operand of type " << input.getType()
                               << " does not broadcast to " << result;
  return success();
}

static LogicalResult verifyElementRegion(Operation *op, Region &region,
                                         ArrayRef<Type> arguments,
                                         ArrayRef<Type> yields,
                                         StringRef name) {
  if (!region.hasOneBlock() ||
      !llvm::equal(region.getArgumentTypes(), arguments))
    return op->emitOpError()
           << "region '" << name << "' must have arguments of types ("
           << arguments << "), got (" << region.getArgumentTypes() << ")";
  Block &block = region.front();
  auto yield = block.empty() ? YieldOp() : dyn_cast<YieldOp>(block.back());
  if (!yield || !llvm::equal(yield.getOperandTypes(), yields))
    return op->emitOpError()
           << "region '" << name << "' must end in a tile.yield of (" << yields
           << ")";
  return success();
}

LogicalResult MapOp::verifyRegions() {
  TileType result = getResult().getType();
  int64_t width = static_cast<int64_t>(getWidth());
  if (result.getCols() % width)
    return emitOpError() << "width " << width << " does not divide the "
                         << result.getCols() << " columns";
  if (failed(verifyBroadcast(*this, getInputs(), result)))
    return failure();
  SmallVector<Type> arguments;
  for (Value input : getInputs())
    arguments.append(width, cast<TileType>(input.getType()).getElementType());
  arguments.append(2, IntegerType::get(getContext(), 32));
  SmallVector<Type> yields(width, result.getElementType());
  return verifyElementRegion(*this, getBody(), arguments, yields, "map");
}

ParseResult attnc::tile::parseLimits(OpAsmParser &parser,
                                     DenseF32ArrayAttr &limits) {
  SmallVector<float> values;
  auto parseOne = [&]() -> ParseResult {
    APFloat value(0.0f);
    if (parser.parseFloat(APFloat::IEEEsingle(), value))
      return failure();
    values.push_back(value.convertToFloat());
    return success();
  };
  if (parser.parseCommaSeparatedList(AsmParser::Delimiter::Square, parseOne))
    return failure();
  limits = parser.getBuilder().getDenseF32ArrayAttr(values);
  return success();
}

void attnc::tile::printLimits(OpAsmPrinter &printer, Operation *op,
                              DenseF32ArrayAttr limits) {
  printer << '[';
  llvm::interleaveComma(limits.asArrayRef(), printer, [&](float limit) {
    printer.printFloat(APFloat(limit));
  });
  printer << ']';
}

LogicalResult attnc::tile::verifyLimits(Operation *op, ArrayRef<float> limits,
                                        size_t formulas) {
  if (limits.empty() || limits.size() != formulas)
    return op->emitOpError()
           << "needs one limit for each 'fast' region and at "
              "least one, got "
           << limits.size() << " limits and " << formulas << " regions";
  // Written so that a NaN fails.
  if (!(limits.front() >= 0))
    return op->emitOpError("limits must not be negative");
  for (auto [lower, limit] : llvm::zip(limits, limits.drop_front()))
    if (!(lower < limit))
      return op->emitOpError("limits must rise");
  return success();
}

int64_t attnc::tile::getFormulaWidth(Region &formula) {
  if (!formula.hasOneBlock() || formula.front().empty())
    return 1;
  return std::max<int64_t>(formula.front().back().getNumOperands(), 1);
}

FormulaTypes attnc::tile::getFormulaTypes(TypeRange shared, Type element,
                                          int64_t width) {
  FormulaTypes types;
  for (Type type : shared)
    types.arguments.append(width, type);
  types.arguments.append(2, IntegerType::get(element.getContext(), 32));
  types.yields.append(width, element);
  return types;
}

LogicalResult SpeculateOp::verifyRegions() {
  TileType result = getResult().getType();
  if (result.getCols() % static_cast<int64_t>(getSlice()))
    return emitOpError() << "slice " << getSlice() << " does not divide the "
                         << result.getCols() << " columns";
  if (failed(verifyBroadcast(*this, getInputs(), result)))
    return failure();
  Type i32 = IntegerType::get(getContext(), 32);
  Type f32 = Float32Type::get(getContext());
  SmallVector<Type> arguments;
  for (Value input : getInputs())
    arguments.push_back(cast<TileType>(input.getType()).getElementType());
  arguments.append(2, i32);
  Block &common = getCommon().front();
  auto yield = common.empty() ? YieldOp() : dyn_cast<YieldOp>(common.back());
  if (!yield || yield.getNumOperands() < 2 ||
      yield.getOperand(0).getType() != f32)
    return emitOpError("region 'common' must yield a guard (f32) and at least "
                       "one shared value");
  SmallVector<Type> shared(llvm::drop_begin(yield.getOperandTypes()));
  SmallVector<Type> commonYields(yield.getOperandTypes());
  if (failed(verifyElementRegion(*this, getCommon(), arguments, commonYields,
                                 "common")))
    return failure();
  Type element = result.getElementType();
  for (Region &fast : getFast()) {
    int64_t width = getFormulaWidth(fast);
    if (static_cast<int64_t>(getSlice()) % width)
      return emitOpError() << "a formula of " << width
                           << " elements does not divide a slice of "
                           << getSlice() << " columns";
    FormulaTypes types = getFormulaTypes(shared, element, width);
    if (failed(verifyElementRegion(*this, fast, types.arguments, types.yields,
                                   "fast")))
      return failure();
  }
  if (failed(verifyLimits(*this, getLimits(), getFast().size())))
    return failure();
  FormulaTypes types = getFormulaTypes(shared, element, 1);
  return verifyElementRegion(*this, getExact(), types.arguments, types.yields,
                             "exact");
}

LogicalResult MaskOp::verifyRegions() {
  TileType result = getResult().getType();
  if (failed(verifyBroadcast(*this, getCaptured(), result)))
    return failure();
  SmallVector<Type> arguments(2, IntegerType::get(getContext(), 32));
  for (Value captured : getCaptured())
    arguments.push_back(cast<TileType>(captured.getType()).getElementType());
  return verifyElementRegion(*this, getBody(), arguments,
                             {IntegerType::get(getContext(), 1)}, "mask");
}

LogicalResult ReduceOp::verify() {
  TileType input = getInput().getType(), result = getResult().getType();
  if (result.getRows() != input.getRows() || result.getCols() != 1 ||
      result.getElementType() != input.getElementType())
    return emitOpError() << "the result must be " << input.getRows() << "x1x"
                         << input.getElementType() << ", got " << result;
  return success();
}

LogicalResult CastOp::verify() {
  TileType input = getInput().getType(), result = getResult().getType();
  if (input.getRows() != result.getRows() ||
      input.getCols() != result.getCols())
    return emitOpError() << "shapes differ: " << input << " and " << result;
  return success();
}

LogicalResult SoftmaxStepOp::verify() {
  TileType input = getInput().getType(), max = getMax().getType();
  if (max.getRows() != input.getRows() || max.getCols() != 1)
    return emitOpError() << "the running maximum must be " << input.getRows()
                         << "x1, got " << max;
  return success();
}
