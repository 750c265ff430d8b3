//===- HopperOps.cpp - Syntax and verifiers of the hopper ops -------------===//

#include "dialects/hopper/Hopper.h"
#include "dialects/hopper/Layout.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/Interfaces/FunctionImplementation.h"

namespace attnc::hopper {
using tile::parseLimits;
using tile::printLimits;
} // namespace attnc::hopper

#define GET_OP_CLASSES
#include "dialects/hopper/HopperOps.cpp.inc"

using namespace mlir;
using namespace attnc::hopper;

//===----------------------------------------------------------------------===//
// Kernels and roles
//===----------------------------------------------------------------------===//

/// `@name(%arg: type, ...) roles(#hopper.roles<...>) { ... }`
ParseResult KernelOp::parse(OpAsmParser &parser, OperationState &result) {
  StringAttr name;
  SmallVector<OpAsmParser::Argument> arguments;
  RolesAttr roles;
  if (parser.parseSymbolName(name, SymbolTable::getSymbolAttrName(),
                             result.attributes) ||
      parser.parseArgumentList(arguments, OpAsmParser::Delimiter::Paren,
                               /*allowType=*/true, /*allowAttrs=*/true) ||
      parser.parseKeyword("roles") || parser.parseLParen() ||
      parser.parseAttribute(roles) || parser.parseRParen())
    return failure();
  Builder &builder = parser.getBuilder();
  SmallVector<Type> types;
  SmallVector<DictionaryAttr> argAttrs;
  for (OpAsmParser::Argument &argument : arguments) {
    types.push_back(argument.type);
    argAttrs.push_back(argument.attrs ? argument.attrs
                                      : builder.getDictionaryAttr({}));
  }
  result.addAttribute(getFunctionTypeAttrName(result.name),
                      TypeAttr::get(builder.getFunctionType(types, {})));
  result.addAttribute(getRolesAttrName(result.name), roles);
  call_interface_impl::addArgAndResultAttrs(builder, result, argAttrs, {},
                                            getArgAttrsAttrName(result.name),
                                            getResAttrsAttrName(result.name));
  if (parser.parseOptionalAttrDictWithKeyword(result.attributes))
    return failure();
  return parser.parseRegion(*result.addRegion(), arguments);
}

void KernelOp::print(OpAsmPrinter &printer) {
  auto function = cast<FunctionOpInterface>(getOperation());
  printer << ' ';
  printer.printSymbolName(getName());
  printer << '(';
  for (BlockArgument argument : getArguments()) {
    if (argument.getArgNumber())
      printer << ", ";
    printer.printRegionArgument(argument,
                                function.getArgAttrs(argument.getArgNumber()));
  }
  printer << ") roles(" << getRoles() << ')';
  printer.printOptionalAttrDictWithKeyword(
      (*this)->getAttrs(), {SymbolTable::getSymbolAttrName(), "function_type",
                            "arg_attrs", "res_attrs", "roles"});
  printer << ' ';
  printer.printRegion(getBody(), /*printEntryBlockArgs=*/false);
}

LogicalResult KernelOp::verifyRegions() {
  Block &body = getBody().front();
  if (llvm::range_size(body.getOps<ProducerOp>()) != 1 ||
      llvm::range_size(body.getOps<ConsumersOp>()) != 1)
    return emitOpError("must have one hopper.producer and one "
                       "hopper.consumers");
  return success();
}

ParseResult ConsumersOp::parse(OpAsmParser &parser, OperationState &result) {
  OpAsmParser::Argument argument;
  argument.type = parser.getBuilder().getIndexType();
  if (parser.parseLParen() || parser.parseArgument(argument) ||
      parser.parseRParen() || parser.parseRegion(*result.addRegion(), argument))
    return failure();
  return parser.parseOptionalAttrDict(result.attributes);
}

void ConsumersOp::print(OpAsmPrinter &printer) {
  printer << " (" << getBody().getArgument(0) << ") ";
  printer.printRegion(getBody(), /*printEntryBlockArgs=*/false);
  printer.printOptionalAttrDict((*this)->getAttrs());
}

LogicalResult ConsumersOp::verifyRegions() {
  if (getBody().getNumArguments() != 1 ||
      !getBody().getArgument(0).getType().isIndex())
    return emitOpError("has one argument, the index of the consumer");
  return success();
}

//===----------------------------------------------------------------------===//
// Rings and copies
//===----------------------------------------------------------------------===//

LogicalResult TensorMapOp::verify() {
  auto view = cast<attnc::tile::ViewType>(getView().getType());
  size_t rank = view.getRank();
  if (getOrder().size() != rank || getBox().size() != rank || rank < 2 ||
      rank > 5)
    return emitOpError() << "needs one entry of order and box for each of 2 "
                            "to 5 dims, got "
                         << getOrder().size() << " and " << getBox().size()
                         << " for " << view;
  SmallVector<bool> seen(rank);
  for (int64_t dim : getOrder())
    if (dim < 0 || dim >= static_cast<int64_t>(rank) || seen[dim])
      return emitOpError("order must name each dim of the view once");
    else
      seen[dim] = true;
  if (getBox()[0] != kPanelColumns)
    return emitOpError() << "a box row is one panel of " << kPanelColumns
                         << " columns, got " << getBox()[0];
  for (int64_t size : getBox())
    if (size < 1 || size > 256)
      return emitOpError() << "a box has 1 to 256 elements a dim, got " << size;
  return success();
}

/// Thread blocks that run together.
static int64_t getCluster(Operation *op) {
  auto kernel = op->getParentOfType<KernelOp>();
  return kernel ? kernel.getRoles().getCluster() : 1;
}

LogicalResult RankOp::verify() {
  if (getCluster(*this) == 1)
    return emitOpError("needs a kernel whose roles have a cluster");
  return success();
}

LogicalResult RingOp::verify() {
  if (!getMulticast())
    return success();
  int64_t cluster = getCluster(*this);
  if (cluster == 1)
    return emitOpError("is multicast in a cluster only, and the kernel's roles "
                       "have none");
  // Parts begin where the swizzle does.
  int64_t rows = getRing().getType().getRows();
  if (rows % (kAtomBytes / kPanelBytes * cluster))
    return emitOpError() << "is filled in " << cluster
                         << " parts of a multiple of 8 rows, got " << rows;
  for (Operation *user : getRing().getUsers())
    if (isa<CopyElementsOp, PutOp>(user))
      return emitOpError("is filled by bulk copies only where it is multicast");
  return success();
}

LogicalResult CopyOp::verify() {
  auto ring = getRing().getDefiningOp<RingOp>();
  if (!ring)
    return success();
  if (ring.getMulticast() != static_cast<bool>(getPart()))
    return emitOpError(ring.getMulticast()
                           ? "to a multicast ring needs a part"
                           : "has a part, and the ring is not multicast");
  auto map = getMap().getDefiningOp<TensorMapOp>();
  int64_t rows = getRing().getType().getRows();
  if (ring.getMulticast())
    rows /= getCluster(*this);
  if (map && map.getBox()[1] != rows)
    return emitOpError() << "fills " << rows
                         << " rows of the ring, got a box of "
                         << map.getBox()[1];
  return success();
}

static bool is32Bits(SmemType type) {
  Type element = type.getElementType();
  return element.isF32() || element.isInteger(32);
}

/// Two rows for each warp, a whole number of elements for each lane.
static bool isPrefetchScratch(SmemType type) {
  return type.getRows() == kPrefetchRows && type.getCols() % 32 == 0 &&
         is32Bits(type);
}

LogicalResult ScratchOp::verify() {
  SmemType slot = getSlot().getType();
  bool isSums = slot.getRows() == kWgmmaRows && slot.getElementType().isF32();
  bool isPrefetched = slot.getRows() == kPrefetchRows && is32Bits(slot);
  if (slot.getCols() % 8 || !(isSums || isPrefetched))
    return emitOpError() << "has 64 rows of f32, or 8 of 32 bits, in a "
                            "multiple of 8 columns, got "
                         << slot;
  return success();
}

LogicalResult PrefetchOp::verify() {
  SmemType scratch = getScratch().getType();
  if (!isPrefetchScratch(scratch) ||
      getView().getType().getElementType() != scratch.getElementType())
    return emitOpError() << "takes elements of 32 bits to 8 rows of a multiple "
                            "of 32 columns, got "
                         << getView().getType() << " and " << scratch;
  return success();
}

LogicalResult FetchOp::verify() {
  SmemType scratch = getScratch().getType();
  FragType frag = getFrag().getType();
  if (!isPrefetchScratch(scratch) || frag.getLayout() != Layout::Col ||
      frag.getCols() > scratch.getCols() || frag.getCols() % 8 ||
      frag.getElementType() != scratch.getElementType())
    return emitOpError() << "gives at most the columns of the scratch, got "
                         << frag << " of " << scratch;
  return success();
}

LogicalResult CopyElementsOp::verify() {
  auto producer = (*this)->getParentOfType<ProducerOp>();
  if (!producer || !producer.getCooperative())
    return emitOpError("needs a cooperative producer");
  if (getView().getType().getElementType() !=
      getRing().getType().getElementType())
    return emitOpError() << "element types differ: " << getView().getType()
                         << " and " << getRing().getType();
  return success();
}

LogicalResult AwaitOp::verify() {
  RingType ring = getRing().getType();
  SmemType slot = getSlot().getType();
  if (ring.getRows() != slot.getRows() || ring.getCols() != slot.getCols() ||
      ring.getElementType() != slot.getElementType())
    return emitOpError() << "slot and ring differ: " << slot << " and " << ring;
  return success();
}

LogicalResult RowsOp::verify() {
  SmemType slot = getSlot().getType(), result = getResult().getType();
  if (result.getRows() != kWgmmaRows || slot.getRows() % kWgmmaRows ||
      result.getCols() != slot.getCols() ||
      result.getElementType() != slot.getElementType())
    return emitOpError() << "gives 64 rows of " << slot << ", got " << result;
  return success();
}

LogicalResult PutOp::verify() {
  RingType ring = getRing().getType();
  FragType frag = getFrag().getType();
  if (frag.getLayout() != Layout::A || frag.getCols() != ring.getCols() ||
      ring.getRows() % kWgmmaRows ||
      frag.getElementType() != ring.getElementType())
    return emitOpError() << "puts a fragment of layout 'a' as wide as the "
                            "ring, got "
                         << frag << " and " << ring;
  return success();
}

LogicalResult ColumnsOp::verify() {
  SmemType slot = getSlot().getType(), result = getResult().getType();
  int64_t cols = result.getCols();
  bool part = panelCount(slot.getCols()) == 1 && cols > 0 &&
              cols % kWgmmaK == 0 && kPanelColumns % cols == 0;
  if (!(part || cols == kPanelColumns) || result.getRows() != slot.getRows() ||
      result.getElementType() != slot.getElementType())
    return emitOpError() << "gives 64 columns of " << slot
                         << ", or a part of them if there are no more; got "
                         << result;
  return success();
}

//===----------------------------------------------------------------------===//
// Products
//===----------------------------------------------------------------------===//

int64_t WgmmaOp::getK() {
  if (auto frag = dyn_cast<FragType>(getLhs().getType()))
    return frag.getCols();
  auto smem = cast<SmemType>(getLhs().getType());
  return getTransposeA() ? smem.getRows() : smem.getCols();
}

int64_t WgmmaOp::getN() { return getResult().getType().getCols(); }

LogicalResult WgmmaOp::verify() {
  Type lhs = getLhs().getType();
  SmemType rhs = getRhs().getType();
  PendingType result = getResult().getType();
  auto frag = dyn_cast<FragType>(lhs);
  if (frag && frag.getLayout() != Layout::A)
    return emitOpError() << "a register operand has layout 'a', got " << lhs;
  if (frag && getTransposeA())
    return emitOpError("transposes a left operand in shared memory only");
  auto smem = dyn_cast<SmemType>(lhs);
  int64_t rows = frag              ? frag.getRows()
                 : getTransposeA() ? smem.getCols()
                                   : smem.getRows();
  Type element =
      frag ? frag.getElementType() : cast<SmemType>(lhs).getElementType();
  int64_t k = getTransposeB() ? rhs.getCols() : rhs.getRows();
  int64_t n = getTransposeB() ? rhs.getRows() : rhs.getCols();
  if (element != rhs.getElementType() || !(element.isBF16() || element.isF16()))
    return emitOpError() << "operands must both be bf16 or both f16, got "
                         << lhs << " and " << rhs;
  if (k != getK())
    return emitOpError() << "inner sizes differ: " << getK() << " and " << k;
  if (!getTransposeB() && k % kWgmmaK)
    return emitOpError() << "rows of b must be a multiple of " << kWgmmaK
                         << ", got " << k;
  if (rows != kWgmmaRows || result.getRows() != rows || result.getCols() != n)
    return emitOpError() << "the result must be 64x" << n << ", got " << result;
  if (n > 256 || n < 1 || (getTransposeB() && n % 8))
    return emitOpError() << "N must be at most 256 (and a multiple of 8 with "
                            "transpose_b), got "
                         << n;
  if (getAcc()) {
    Type acc = getAcc().getType();
    auto frag = dyn_cast<FragType>(acc);
    bool fits = frag ? frag.getLayout() == Layout::Acc && frag.getCols() == n &&
                           frag.getElementType().isF32()
                     : acc == result;
    if (!fits)
      return emitOpError() << "acc must be 64x" << n
                           << "xf32 of layout 'acc', or a pending one, got "
                           << acc;
  }
  if (!getResult().hasOneUse())
    return emitOpError("the pending result has one use: the wait for it, or a "
                       "product that adds to it");
  return success();
}

/// The group that holds `wgmma`: the first commit after it in its block.
static CommitOp getGroup(WgmmaOp wgmma) {
  for (Operation *op = wgmma->getNextNode(); op; op = op->getNextNode())
    if (auto commit = dyn_cast<CommitOp>(op))
      return commit;
  return {};
}

int64_t WaitOp::getInFlight() {
  // Groups retire in order, so the youngest one decides.
  Operation *youngest = nullptr;
  for (Value pending : getPendings()) {
    Operation *group = getGroup(pending.getDefiningOp<WgmmaOp>());
    if (!youngest || youngest->isBeforeInBlock(group))
      youngest = group;
  }
  int64_t count = 0;
  if (youngest)
    for (Operation *op = youngest->getNextNode(); op != getOperation();
         op = op->getNextNode())
      count += isa<CommitOp>(op);
  return count;
}

LogicalResult WaitOp::verify() {
  if (getPendings().size() != getNumResults())
    return emitOpError() << "gives one fragment for each of its "
                         << getPendings().size() << " operands, got "
                         << getNumResults();
  for (auto [pending, result] : llvm::zip(getPendings(), getResults())) {
    auto from = cast<PendingType>(pending.getType());
    auto to = cast<FragType>(result.getType());
    if (to.getLayout() != Layout::Acc || !to.getElementType().isF32() ||
        to.getCols() != from.getCols())
      return emitOpError() << from << " becomes 64x" << from.getCols()
                           << "xf32 of layout 'acc', got " << to;
    auto wgmma = pending.getDefiningOp<WgmmaOp>();
    if (!wgmma || wgmma->getBlock() != (*this)->getBlock())
      return emitOpError("waits for products started in the same block");
    CommitOp group = getGroup(wgmma);
    if (!group || !group->isBeforeInBlock(*this))
      return emitOpError("waits for a product that is not committed");
  }
  return success();
}

//===----------------------------------------------------------------------===//
// Fragments
//===----------------------------------------------------------------------===//

static bool broadcasts(FragType from, FragType to) {
  return (from.getRows() == to.getRows() || from.getRows() == 1) &&
         (from.getCols() == to.getCols() || from.getCols() == 1);
}

static LogicalResult verifyBroadcast(Operation *op, ValueRange inputs,
                                     FragType result) {
  if (result.getLayout() == Layout::A)
    return op->emitOpError("cannot compute on layout 'a': convert last");
  for (Value input : inputs) {
    auto type = cast<FragType>(input.getType());
    if (type.getLayout() == Layout::A || !broadcasts(type, result))
      return op->emitOpError() << "operand of type " << type
                               << " does not broadcast to " << result;
  }
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
           << "region '" << name << "' must end in a hopper.yield of ("
           << yields << ")";
  return success();
}

LogicalResult MapOp::verifyRegions() {
  FragType result = getResult().getType();
  int64_t width = static_cast<int64_t>(getWidth());
  if (width > 2 || result.getCols() % width ||
      (width == 2 && result.getLayout() == Layout::Row))
    return emitOpError() << "a thread holds 1 or 2 neighbours of " << result
                         << ", so the width cannot be " << width;
  if (failed(verifyBroadcast(*this, getInputs(), result)))
    return failure();
  SmallVector<Type> arguments;
  for (Value input : getInputs())
    arguments.append(width, cast<FragType>(input.getType()).getElementType());
  arguments.append(2, IntegerType::get(getContext(), 32));
  SmallVector<Type> yields(width, result.getElementType());
  return verifyElementRegion(*this, getBody(), arguments, yields, "map");
}

LogicalResult SpeculateOp::verifyRegions() {
  FragType result = getResult().getType();
  if (result.getLayout() != Layout::Acc || getSlice() % 8 ||
      result.getCols() % static_cast<int64_t>(getSlice()))
    return emitOpError() << "slice " << getSlice()
                         << " must be a multiple of 8 that divides the "
                         << result.getCols() << " columns of layout 'acc'";
  if (failed(verifyBroadcast(*this, getInputs(), result)))
    return failure();
  Type i32 = IntegerType::get(getContext(), 32);
  SmallVector<Type> arguments;
  for (Value input : getInputs())
    arguments.push_back(cast<FragType>(input.getType()).getElementType());
  arguments.append(2, i32);
  Block &common = getCommon().front();
  auto yield = common.empty() ? YieldOp() : dyn_cast<YieldOp>(common.back());
  if (!yield || yield.getNumOperands() < 2 ||
      !yield.getOperand(0).getType().isF32())
    return emitOpError("region 'common' must yield a guard (f32) and at least "
                       "one shared value");
  SmallVector<Type> yields(yield.getOperandTypes());
  if (failed(
          verifyElementRegion(*this, getCommon(), arguments, yields, "common")))
    return failure();
  SmallVector<Type> shared(llvm::drop_begin(yields));
  Type element = result.getElementType();
  // A thread has half as many elements of a slice as that has columns.
  int64_t elements = static_cast<int64_t>(getSlice()) / 2;
  for (Region &fast : getFast()) {
    int64_t width = tile::getFormulaWidth(fast);
    if (elements % width)
      return emitOpError() << "a formula of " << width
                           << " elements does not divide the " << elements
                           << " of a thread in a slice";
    auto types = tile::getFormulaTypes(shared, element, width);
    if (failed(verifyElementRegion(*this, fast, types.arguments, types.yields,
                                   "fast")))
      return failure();
  }
  if (failed(tile::verifyLimits(*this, getLimits(), getFast().size())))
    return failure();
  if (!getMissed() != !getMisses() || (getMissed() && getLimits().size() < 2))
    return emitOpError("takes and gives whether formulas missed, both or "
                       "neither, and with two limits or more only");
  auto types = tile::getFormulaTypes(shared, element, 1);
  return verifyElementRegion(*this, getExact(), types.arguments, types.yields,
                             "exact");
}

LogicalResult MaskOp::verifyRegions() {
  FragType result = getResult().getType();
  if (failed(verifyBroadcast(*this, getCaptured(), result)))
    return failure();
  SmallVector<Type> arguments(2, IntegerType::get(getContext(), 32));
  for (Value captured : getCaptured())
    arguments.push_back(cast<FragType>(captured.getType()).getElementType());
  return verifyElementRegion(*this, getBody(), arguments,
                             {IntegerType::get(getContext(), 1)}, "mask");
}

LogicalResult ReduceOp::verify() {
  FragType input = getInput().getType(), result = getResult().getType();
  // One row is the same in all threads, and so is what it sums to.
  Layout wanted = input.getLayout() == Layout::Col ? Layout::Col : Layout::Row;
  bool joins = input == result && wanted == Layout::Row && !getPartial();
  bool reducible = input.getLayout() == Layout::Acc ||
                   (input.getLayout() == Layout::Col && !getPartial()) || joins;
  if (!reducible || result.getLayout() != wanted || result.getCols() != 1 ||
      result.getElementType() != input.getElementType())
    return emitOpError() << "reduces layout 'acc' to 'row', 'col' to one "
                            "value, or the parts that the lanes of a 'row' "
                            "hold, got "
                         << input << " and " << result;
  return success();
}

LogicalResult ConvertOp::verify() {
  FragType input = getInput().getType(), result = getResult().getType();
  bool packs = result.getLayout() == Layout::A &&
               input.getLayout() == Layout::Acc &&
               input.getElementType().isF32();
  if (input.getRows() != result.getRows() ||
      input.getCols() != result.getCols() ||
      (input.getLayout() != result.getLayout() && !packs))
    return emitOpError() << "cannot convert " << input << " to " << result;
  return success();
}

LogicalResult StoreOp::verify() {
  if (getAdd() && !getFrag().getType().getElementType().isF32())
    return emitOpError() << "adds f32 elements only, got "
                         << getFrag().getType();
  if (!getThrough())
    return success();
  FragType frag = getFrag().getType();
  SmemType smem = getThrough().getType();
  if (getAdd()) {
    if (getThrough().getDefiningOp<ScratchOp>() &&
        frag.getLayout() == Layout::Acc && frag.getCols() == smem.getCols())
      return success();
    return emitOpError() << "adds through a hopper.scratch as wide, as a "
                            "fragment of layout 'acc', got "
                         << frag << " and " << smem;
  }
  auto rows = getThrough().getDefiningOp<RowsOp>();
  if (!rows || frag.getLayout() != Layout::Acc ||
      frag.getElementType().getIntOrFloatBitWidth() != 16 ||
      panelCount(frag.getCols()) > panelCount(smem.getCols()))
    return emitOpError() << "goes through the hopper.rows of a slot at least "
                            "as wide, as a fragment of layout 'acc' of 16-bit "
                            "elements, got "
                         << frag << " and " << smem;
  return success();
}
