//===- AttnOps.cpp - Verifiers of the attn ops ----------------------------===//

#include "dialects/attn/Attn.h"

#include "mlir/IR/OpImplementation.h"
#include "mlir/IR/TypeUtilities.h"
#include "llvm/ADT/StringSet.h"

#define GET_OP_CLASSES
#include "dialects/attn/AttnOps.cpp.inc"

using namespace mlir;
using namespace attnc::attn;

//===----------------------------------------------------------------------===//
// Sizes
//===----------------------------------------------------------------------===//

namespace {
/// A size that a type states, and in words whose it is: "query heads".
struct Size {
  int64_t value;
  std::string what;
};

/// The sizes of a 4-D tensor by their logical names.
struct Sizes4 {
  Size b, h, s, d;
};

/// The sizes of the positions (b, h, i, j) or (b, h, i, d).
using Positions = std::array<Size, 4>;
} // namespace

static Sizes4 getSizes(Value tensor, Layout layout, StringRef name) {
  ArrayRef<int64_t> shape = cast<RankedTensorType>(tensor.getType()).getShape();
  LayoutDims dims = getLayoutDims(layout);
  auto size = [&](unsigned dim, StringRef unit) {
    return Size{shape[dim], (name + " " + unit).str()};
  };
  return {size(dims.b, "sequences"), size(dims.h, "heads"),
          size(dims.s, "rows"), size(dims.d, "columns")};
}

/// The sizes of logits, (B, Hq, Sq, Sk), or of a statistic, (B, Hq, Sq).
static SmallVector<Size> getLogitSizes(Value tensor, StringRef name) {
  static constexpr StringLiteral units[] = {" sequences", " heads", " rows",
                                            " keys"};
  SmallVector<Size> sizes;
  for (auto [dim, size] :
       llvm::enumerate(cast<RankedTensorType>(tensor.getType()).getShape()))
    sizes.push_back({size, (name + units[dim]).str()});
  return sizes;
}

static LogicalResult verifySame(Operation *op, const Size &a, const Size &b) {
  if (a.value == b.value || ShapedType::isDynamic(a.value) ||
      ShapedType::isDynamic(b.value))
    return success();
  return op->emitOpError() << "sizes differ: " << a.value << " " << a.what
                           << " but " << b.value << " " << b.what;
}

static LogicalResult verifySame(Operation *op,
                                ArrayRef<std::pair<Size, Size>> pairs) {
  for (const auto &[a, b] : pairs)
    if (failed(verifySame(op, a, b)))
      return failure();
  return success();
}

/// A tile has static columns, so the head dim is static.
static LogicalResult verifyHeadDim(Operation *op, const Size &size) {
  if (ShapedType::isDynamic(size.value))
    return op->emitOpError() << "needs a static head dim: the number of "
                             << size.what << " is dynamic";
  if (size.value < 1)
    return op->emitOpError() << "needs a head dim of at least 1, got "
                             << size.value << " " << size.what;
  // Far beyond what becomes code, and far below what takes minutes to refuse.
  if (size.value > 1 << 16)
    return op->emitOpError() << "needs a head dim of at most 65536, got "
                             << size.value << " " << size.what;
  return success();
}

/// S-gqa: any integer ratio.
static LogicalResult verifyGroups(Operation *op, const Size &heads,
                                  const Size &keyHeads) {
  if (ShapedType::isDynamic(heads.value) ||
      ShapedType::isDynamic(keyHeads.value))
    return success();
  bool divides =
      keyHeads.value ? heads.value % keyHeads.value == 0 : heads.value == 0;
  if (divides)
    return success();
  return op->emitOpError() << heads.value << " " << heads.what
                           << " are not a multiple of " << keyHeads.value << " "
                           << keyHeads.what;
}

static LogicalResult verifyLengths(Operation *op, Value lengths, StringRef name,
                                   const Size &sequences) {
  if (!lengths)
    return success();
  int64_t count = cast<RankedTensorType>(lengths.getType()).getDimSize(0);
  return verifySame(op, {count, (name + " entries").str()}, sequences);
}

//===----------------------------------------------------------------------===//
// Captured operands
//===----------------------------------------------------------------------===//

/// S-bias: the map leads from the four positions to the operand's dims.
static LogicalResult verifyCaptureMap(Operation *op, Type type, AffineMap map,
                                      StringRef name, StringRef positions) {
  auto tensor = dyn_cast<RankedTensorType>(type);
  unsigned rank = tensor ? tensor.getRank() : 0;
  if (map.getNumDims() == 4 && map.getNumSymbols() == 0 &&
      map.getNumResults() == rank)
    return success();
  return op->emitOpError() << name << " of type " << type
                           << " needs a map from (" << positions << ") to its "
                           << rank << " dims, got " << AffineMapAttr::get(map);
}

static LogicalResult verifyCaptures(Operation *op, ValueRange captures,
                                    ArrayAttr maps, StringRef name,
                                    StringRef positions) {
  if (captures.size() != maps.size())
    return op->emitOpError() << "has " << captures.size() << " " << name
                             << "s but " << maps.size() << " maps";
  for (auto [index, value, map] : llvm::enumerate(captures, maps))
    if (failed(verifyCaptureMap(op, value.getType(),
                                cast<AffineMapAttr>(map).getValue(),
                                (name + " " + Twine(index)).str(), positions)))
      return failure();
  return success();
}

/// A dim that is one of the positions has its size.
static LogicalResult verifyExtent(Operation *op, const Capture &capture,
                                  const Positions &sizes, StringRef name) {
  auto type = dyn_cast<RankedTensorType>(capture.value.getType());
  // The capture of a mask may not be verified yet.
  if (!type || capture.map.getNumDims() != sizes.size() ||
      capture.map.getNumResults() != static_cast<unsigned>(type.getRank()))
    return success();
  for (auto [dim, expr] : llvm::enumerate(capture.map.getResults())) {
    auto position = dyn_cast<AffineDimExpr>(expr);
    if (!position)
      continue;
    Size own = {type.getDimSize(dim),
                (name + " elements in dim " + Twine(dim)).str()};
    if (failed(verifySame(op, own, sizes[position.getPosition()])))
      return failure();
  }
  return success();
}

static LogicalResult verifyExtents(Operation *op, ValueRange captures,
                                   ArrayAttr maps, const Positions &sizes,
                                   StringRef name) {
  for (auto [index, value, map] : llvm::enumerate(captures, maps))
    if (failed(verifyExtent(op, {value, cast<AffineMapAttr>(map).getValue()},
                            sizes, (name + " " + Twine(index)).str())))
      return failure();
  return success();
}

static Positions getLogitPositions(Value logits) {
  SmallVector<Size> sizes = getLogitSizes(logits, "logit");
  return {sizes[0], sizes[1], sizes[2], sizes[3]};
}

//===----------------------------------------------------------------------===//
// Regions
//===----------------------------------------------------------------------===//

/// The ops of the op table and what positions and masks need: elementwise,
/// without effects, known to the oracle and to every target.
static bool isElementOp(Operation *op) {
  static const llvm::StringSet<> names = {
      "arith.addf",     "arith.subf",     "arith.mulf",     "arith.divf",
      "arith.negf",     "arith.minimumf", "arith.maximumf", "arith.minnumf",
      "arith.maxnumf",  "arith.cmpf",     "arith.cmpi",     "arith.select",
      "arith.addi",     "arith.subi",     "arith.muli",     "arith.divsi",
      "arith.divui",    "arith.remsi",    "arith.remui",    "arith.minsi",
      "arith.maxsi",    "arith.minui",    "arith.maxui",    "arith.andi",
      "arith.ori",      "arith.xori",     "arith.shli",     "arith.shrsi",
      "arith.shrui",    "arith.sitofp",   "arith.uitofp",   "arith.fptosi",
      "arith.extsi",    "arith.extui",    "arith.trunci",   "arith.bitcast",
      "arith.constant", "math.absf",      "math.absi",      "math.exp",
      "math.exp2",      "math.expm1",     "math.log",       "math.log2",
      "math.log1p",     "math.tanh",      "math.sqrt",      "math.rsqrt",
      "math.powf",      "math.erf",       "math.sin",       "math.cos",
      "math.floor",     "math.ceil",      "math.fma",       "attn.logistic"};
  return names.contains(op->getName().getStringRef());
}

static bool isElementType(Type type) {
  return type.isF32() || type.isInteger(32) || type.isInteger(1);
}

static LogicalResult verifyElementOp(Operation *op, StringRef region) {
  if (isa<YieldOp>(op))
    return success();
  if (!isElementOp(op))
    return op->emitOpError()
           << "is not allowed in '" << region
           << "': use the elementwise ops of the op table (docs/semantics.md)";
  for (Type type : op->getResultTypes())
    if (!isElementType(type))
      return op->emitOpError()
             << "in '" << region << "' must give f32, i32 or i1, got " << type;
  return success();
}

/// A region computes one scalar from scalars; values of the function that it
/// uses are scalars too.
static LogicalResult verifyRegion(Operation *op, Region &region, StringRef name,
                                  ArrayRef<Type> arguments, Type yielded) {
  if (!region.hasOneBlock())
    return op->emitOpError() << "region '" << name << "' must be one block";
  if (!llvm::equal(region.getArgumentTypes(), arguments))
    return op->emitOpError()
           << "region '" << name << "' must have arguments of types ("
           << arguments << "), got (" << region.getArgumentTypes() << ")";
  Block &block = region.front();
  auto yield = block.empty() ? YieldOp() : dyn_cast<YieldOp>(block.back());
  if (!yield || !llvm::equal(yield->getOperandTypes(), ArrayRef(yielded)))
    return op->emitOpError() << "region '" << name
                             << "' must end in an attn.yield of " << yielded;
  for (Operation &inner : block) {
    if (failed(verifyElementOp(&inner, name)))
      return failure();
    for (Value operand : inner.getOperands())
      if (!isElementType(operand.getType()))
        return inner.emitOpError()
               << "in '" << name << "' uses a value of " << operand.getType()
               << "; capture tensors with an affine map";
  }
  return success();
}

/// f32, then `positions` i32, then a scalar for each capture.
static SmallVector<Type>
getRegionTypes(MLIRContext *context, unsigned positions, ValueRange captures) {
  SmallVector<Type> types = {Float32Type::get(context)};
  types.append(positions, IntegerType::get(context, 32));
  for (Value value : captures)
    types.push_back(getElementScalarType(value.getType()));
  return types;
}

// What follows may look at ops that are not verified yet: those of a region
// are verified after their parent, dominance after all.

static Attribute getConstant(Value value) {
  auto constant = value.getDefiningOp<arith::ConstantOp>();
  return constant ? constant.getValueAttr() : Attribute();
}

/// Whether -inf, written as a constant, can be the value. There may be cycles.
static bool mayBeMinusInfinity(Value value) {
  SmallVector<Value> work = {value};
  DenseSet<Value> seen;
  while (!work.empty()) {
    Value next = work.pop_back_val();
    auto constant = dyn_cast_or_null<FloatAttr>(getConstant(next));
    if (constant && constant.getValue().isInfinity() &&
        constant.getValue().isNegative())
      return true;
    Operation *def = next.getDefiningOp();
    if (seen.insert(next).second &&
        isa_and_nonnull<arith::SelectOp, arith::AddFOp, arith::SubFOp,
                        arith::MinimumFOp, arith::MinNumFOp>(def))
      llvm::append_range(work, def->getOperands());
  }
  return false;
}

/// S-slots: a score_mod acts on the logit; structure goes into the mask slot.
static LogicalResult verifyScoreMod(Operation *op, Region &region,
                                    ValueRange captures) {
  SmallVector<Type> types = getRegionTypes(op->getContext(), 6, captures);
  if (failed(verifyRegion(op, region, "score_mod", types, types.front())))
    return failure();
  Operation *yield = region.front().getTerminator();
  if (mayBeMinusInfinity(yield->getOperand(0)))
    return op->emitOpError(
        "region 'score_mod' may return -inf, which is no mask for activations "
        "other than softmax: use the mask slot, for example "
        "attn.predicate_mask");
  return success();
}

static LogicalResult verifyActivation(Operation *op, Region &region) {
  Type f32 = Float32Type::get(op->getContext());
  return verifyRegion(op, region, "activation", {f32}, f32);
}

static LogicalResult verifyEpilogue(Operation *op, Region &region,
                                    ArrayAttr stats, ValueRange captures) {
  SmallVector<Type> types = getRegionTypes(op->getContext(), 4, {});
  types.append(stats.size(), types.front());
  for (Value value : captures)
    types.push_back(getElementScalarType(value.getType()));
  return verifyRegion(op, region, "epilogue", types, types.front());
}

//===----------------------------------------------------------------------===//
// Masks
//===----------------------------------------------------------------------===//

LogicalResult DocumentMaskOp::verify() {
  auto sequences = [](Value ids, StringRef name) {
    return Size{cast<RankedTensorType>(ids.getType()).getDimSize(0),
                (name + " sequences").str()};
  };
  return verifySame(*this, sequences(getQIds(), "q_ids"),
                    sequences(getKIds(), "k_ids"));
}

LogicalResult DilatedMaskOp::verify() {
  auto stride = dyn_cast_or_null<IntegerAttr>(getConstant(getStride()));
  if (stride && stride.getInt() < 1)
    return emitOpError() << "needs a stride of at least 1, got "
                         << stride.getInt();
  return success();
}

LogicalResult WindowMaskOp::verify() {
  // S-window: -1 = unlimited.
  for (Value width : {getLeft(), getRight()}) {
    auto constant = dyn_cast_or_null<IntegerAttr>(getConstant(width));
    if (constant && constant.getInt() < -1)
      return emitOpError() << "needs widths of at least 0, or -1 for "
                              "unlimited, got "
                           << constant.getInt();
  }
  return success();
}

LogicalResult TensorMaskOp::verify() {
  return verifyCaptureMap(*this, getTensor().getType(), getMap(), "tensor",
                          "b, h, i, j");
}

LogicalResult PredicateMaskOp::verify() {
  if (failed(verifyCaptures(*this, getCaptures(), getMaps(), "capture",
                            "b, h, i, j")))
    return failure();
  SmallVector<Type> types = getRegionTypes(getContext(), 4, getCaptures());
  return verifyRegion(*this, getBody(), "predicate",
                      ArrayRef<Type>(types).drop_front(),
                      IntegerType::get(getContext(), 1));
}

/// Masks are descriptions: an op made them, here.
static LogicalResult verifyMasks(Operation *op, ValueRange masks) {
  for (auto [index, mask] : llvm::enumerate(masks)) {
    Operation *def = mask.getDefiningOp();
    if (!isa_and_nonnull<MaskOpInterface>(def) ||
        def->getBlock() != op->getBlock() || !def->isBeforeInBlock(op))
      return op->emitOpError() << "mask " << index
                               << " is not the result of a mask op; masks "
                                  "cannot be passed to a function";
  }
  return success();
}

LogicalResult MaskLogitsOp::verify() { return verifyMasks(*this, getMasks()); }

//===----------------------------------------------------------------------===//
// The steps of the textbook
//===----------------------------------------------------------------------===//

static LogicalResult verifyQueryKey(Operation *op, const Sizes4 &query,
                                    const Sizes4 &key, Value queryTensor,
                                    Value keyTensor) {
  if (failed(verifyHeadDim(op, query.d)) || failed(verifyHeadDim(op, key.d)) ||
      failed(verifySame(op, {{query.b, key.b}, {query.d, key.d}})) ||
      failed(verifyGroups(op, query.h, key.h)))
    return failure();
  Type queryType = getElementTypeOrSelf(queryTensor),
       keyType = getElementTypeOrSelf(keyTensor);
  if (queryType != keyType)
    return op->emitOpError()
           << "query and key differ in element type: " << queryType << " and "
           << keyType;
  return success();
}

LogicalResult ScoresOp::verify() {
  Sizes4 query = getSizes(getQuery(), getLayout(), "query");
  Sizes4 key = getSizes(getKey(), getLayout(), "key");
  SmallVector<Size> logits = getLogitSizes(getLogits(), "logit");
  if (failed(verifyQueryKey(*this, query, key, getQuery(), getKey())) ||
      failed(verifyLengths(*this, getQLen(), "q_len", query.b)) ||
      failed(verifyLengths(*this, getKLen(), "k_len", query.b)))
    return failure();
  return verifySame(*this, {{logits[0], query.b},
                            {logits[1], query.h},
                            {logits[2], query.s},
                            {logits[3], key.s}});
}

LogicalResult BiasOp::verify() {
  // S-bool: a boolean tensor is a mask; a float one is added.
  if (!isa<FloatType>(getElementTypeOrSelf(getBias().getType())))
    return emitOpError() << "bias must be of floats, got "
                         << getBias().getType()
                         << "; for booleans use attn.tensor_mask";
  if (failed(verifyCaptureMap(*this, getBias().getType(), getMap(), "bias",
                              "b, h, i, j")))
    return failure();
  return verifyExtent(*this, {getBias(), getMap()},
                      getLogitPositions(getLogits()), "bias");
}

LogicalResult ScoreModOp::verify() {
  if (failed(verifyCaptures(*this, getCaptures(), getMaps(), "capture",
                            "b, h, i, j")) ||
      failed(verifyExtents(*this, getCaptures(), getMaps(),
                           getLogitPositions(getLogits()), "capture")))
    return failure();
  return verifyScoreMod(*this, getBody(), getCaptures());
}

LogicalResult ActivationOp::verify() {
  return verifyActivation(*this, getBody());
}

LogicalResult LseOp::verify() {
  // S-lse: (B, H, Sq) in every layout.
  SmallVector<Size> logits = getLogitSizes(getLogits(), "logit");
  SmallVector<Size> lse = getLogitSizes(getLse(), "lse");
  return verifySame(
      *this, {{lse[0], logits[0]}, {lse[1], logits[1]}, {lse[2], logits[2]}});
}

LogicalResult ApplyOp::verify() {
  if (getNormalize() == Normalize::Softmax)
    return emitOpError("cannot normalise as softmax does: use attn.softmax "
                       "for the weights");
  SmallVector<Size> weights = getLogitSizes(getWeights(), "weight");
  Sizes4 value = getSizes(getValue(), getLayout(), "value");
  Sizes4 output = getSizes(getOutput(), getLayout(), "output");
  if (failed(verifyHeadDim(*this, value.d)) ||
      failed(verifyHeadDim(*this, output.d)) ||
      failed(verifyGroups(*this, weights[1], value.h)))
    return failure();
  return verifySame(*this, {{weights[0], value.b},
                            {weights[3], value.s},
                            {output.b, weights[0]},
                            {output.h, weights[1]},
                            {output.s, weights[2]},
                            {output.d, value.d}});
}

LogicalResult EpilogueOp::verify() {
  Sizes4 input = getSizes(getInput(), getLayout(), "input");
  Sizes4 output = getSizes(getOutput(), getLayout(), "output");
  if (failed(verifySame(*this, {{input.b, output.b},
                                {input.h, output.h},
                                {input.s, output.s},
                                {input.d, output.d}})) ||
      failed(verifyCaptures(*this, getCaptures(), getMaps(), "capture",
                            "b, h, i, d")) ||
      failed(verifyExtents(*this, getCaptures(), getMaps(),
                           {input.b, input.h, input.s, input.d}, "capture")))
    return failure();
  return verifyEpilogue(*this, getBody(), getStats(), getCaptures());
}

LogicalResult RowNormOp::verify() {
  Sizes4 input = getSizes(getInput(), getLayout(), "input");
  SmallVector<Size> result = getLogitSizes(getResult(), "result");
  if (failed(verifyHeadDim(*this, input.d)))
    return failure();
  return verifySame(
      *this,
      {{result[0], input.b}, {result[1], input.h}, {result[2], input.s}});
}

//===----------------------------------------------------------------------===//
// The whole
//===----------------------------------------------------------------------===//

/// What all ops of a whole attention have in common: both products and the
/// lengths fit the output, or its gradient.
template <typename Op>
static LogicalResult verifyProducts(Op op, const Sizes4 &query,
                                    const Sizes4 &key, const Sizes4 &value,
                                    const Sizes4 &output) {
  if (failed(verifyQueryKey(op, query, key, op.getQuery(), op.getKey())) ||
      failed(verifyHeadDim(op, value.d)) ||
      failed(verifySame(op, {{query.b, value.b},
                             {key.h, value.h},
                             {key.s, value.s},
                             {output.b, query.b},
                             {output.h, query.h},
                             {output.s, query.s},
                             {output.d, value.d}})) ||
      failed(verifyLengths(op, op.getQLen(), "q_len", query.b)) ||
      failed(verifyLengths(op, op.getKLen(), "k_len", query.b)))
    return failure();
  return success();
}

static LogicalResult verifyFusedShapes(FusedOp op, const Sizes4 &query,
                                       const Sizes4 &key, const Sizes4 &value) {
  Sizes4 output = getSizes(op.getOutput(), op.getLayout(), "output");
  if (failed(verifyProducts(op, query, key, value, output)))
    return failure();
  if (!op.getLse())
    return success();
  // S-lse: (B, H, Sq) in every layout.
  SmallVector<Size> lse = getLogitSizes(op.getLse(), "lse");
  return verifySame(op,
                    {{lse[0], query.b}, {lse[1], query.h}, {lse[2], query.s}});
}

static LogicalResult verifyFusedCaptures(FusedOp op, const Positions &scores,
                                         const Positions &outputs) {
  if (failed(verifyCaptures(op, op.getScoreCaptures(), op.getScoreMaps(),
                            "score capture", "b, h, i, j")) ||
      failed(verifyCaptures(op, op.getEpilogueCaptures(), op.getEpilogueMaps(),
                            "epilogue capture", "b, h, i, d")) ||
      failed(verifyExtents(op, op.getScoreCaptures(), op.getScoreMaps(), scores,
                           "score capture")) ||
      failed(verifyExtents(op, op.getEpilogueCaptures(), op.getEpilogueMaps(),
                           outputs, "epilogue capture")) ||
      failed(verifyMasks(op, op.getMasks())))
    return failure();
  for (auto [index, mask] : llvm::enumerate(op.getMasks()))
    for (const Capture &capture :
         mask.getDefiningOp<MaskOpInterface>().getMaskCaptures())
      if (failed(verifyExtent(op, capture, scores,
                              ("mask " + Twine(index)).str())))
        return failure();
  return success();
}

static LogicalResult verifyFusedRegions(FusedOp op) {
  if (!op.getScoreMod().empty()) {
    if (failed(verifyScoreMod(op, op.getScoreMod(), op.getScoreCaptures())))
      return failure();
  } else if (!op.getScoreCaptures().empty()) {
    return op.emitOpError("has score captures but no score_mod");
  }
  if (!op.getActivation().empty() &&
      failed(verifyActivation(op, op.getActivation())))
    return failure();
  if (!op.getEpilogue().empty())
    return verifyEpilogue(op, op.getEpilogue(), op.getStats(),
                          op.getEpilogueCaptures());
  if (!op.getEpilogueCaptures().empty() || !op.getStats().empty())
    return op.emitOpError(
        "has epilogue captures or statistics but no epilogue");
  return success();
}

LogicalResult FusedOp::verify() {
  // S-slots: an activation or a softmax, one of the two.
  bool softmax = getNormalize() == Normalize::Softmax;
  if (softmax && !getActivation().empty())
    return emitOpError("has an activation and normalize = softmax: the "
                       "softmax is the activation");
  if (getLse() && !softmax)
    return emitOpError("has an lse, which needs normalize = softmax");
  Sizes4 query = getSizes(getQuery(), getLayout(), "query");
  Sizes4 key = getSizes(getKey(), getLayout(), "key");
  Sizes4 value = getSizes(getValue(), getLayout(), "value");
  if (failed(verifyFusedShapes(*this, query, key, value)) ||
      failed(verifyFusedCaptures(*this, {query.b, query.h, query.s, key.s},
                                 {query.b, query.h, query.s, value.d})))
    return failure();
  return verifyFusedRegions(*this);
}

//===----------------------------------------------------------------------===//
// Gradients
//===----------------------------------------------------------------------===//

static LogicalResult verifySizes(Operation *op, const Sizes4 &a,
                                 const Sizes4 &b) {
  return verifySame(op, {{a.b, b.b}, {a.h, b.h}, {a.s, b.s}, {a.d, b.d}});
}

/// What attn.backward and attn.row_sums have in common.
template <typename Op>
static LogicalResult verifyBackwardOperands(Op op, const Sizes4 &query,
                                            const Sizes4 &key,
                                            const Sizes4 &value) {
  Sizes4 output = getSizes(op.getDoutput(), op.getLayout(), "doutput");
  Positions positions = {query.b, query.h, query.s, key.s};
  if (failed(verifyProducts(op, query, key, value, output)) ||
      failed(verifyCaptures(op, op.getCaptures(), op.getMaps(), "capture",
                            "b, h, i, j")) ||
      failed(verifyExtents(op, op.getCaptures(), op.getMaps(), positions,
                           "capture")) ||
      failed(verifyMasks(op, op.getMasks())))
    return failure();
  SmallVector<Type> types =
      getRegionTypes(op.getContext(), 6, op.getCaptures());
  return verifyRegion(op, op.getWeight(), "weight", types, types.front());
}

/// Sums over j or i have a shape of their own, other gradients that of what
/// they are the gradient of.
template <typename Op>
static LogicalResult verifyCaptureGradient(Op op, unsigned index,
                                           const Positions &sizes) {
  int64_t capture = op.getOf()[index];
  std::string name = ("gradient of capture " + Twine(capture)).str();
  AffineMap map = cast<AffineMapAttr>(op.getMaps()[capture]).getValue();
  auto type = cast<RankedTensorType>(op.getDcaptures()[index].getType());
  Type element = getElementTypeOrSelf(op.getCaptures()[capture].getType());
  if (!isa<FloatType>(element))
    return op.emitOpError()
           << name << ": an operand of " << element << " has no gradient";
  CaptureKind kind = getCaptureKind(map);
  if (kind == CaptureKind::Positions) {
    // The captured operand's own sizes are checked with it.
    bool mayDiffer = std::is_same_v<Op, BackwardOp>;
    if (!getHeadsPerElement(map) && !(mayDiffer && getDiagonals(map)))
      return op.emitOpError()
             << name << ": a map that reads i and " << (mayDiffer ? "j" : "d")
             << " may only permute positions, h floordiv N for h"
             << (mayDiffer ? ", or read i - j in one dim" : "") << ", got "
             << AffineMapAttr::get(map);
    return verifyExtent(op, {op.getDcaptures()[index], map}, sizes, name);
  }
  if (type.getRank() != 3 || !type.getElementType().isF32())
    return op.emitOpError()
           << name << " must be a 3-D f32 tensor, got " << type;
  SmallVector<Size> own = getLogitSizes(op.getDcaptures()[index], name);
  const Size &last = sizes[kind == CaptureKind::Keys ? 3 : 2];
  return verifySame(op,
                    {{own[0], sizes[0]}, {own[1], sizes[1]}, {own[2], last}});
}

template <typename Op>
static LogicalResult verifyCaptureGradients(Op op, const Positions &sizes) {
  size_t count = op.getOf().size();
  if (op.getCaptureGradients().size() != count ||
      op.getDcaptures().size() != count)
    return op.emitOpError()
           << "has " << op.getCaptureGradients().size() << " regions and "
           << op.getDcaptures().size() << " results for the gradients of "
           << count << " captures";
  for (unsigned index = 0; index < count; ++index) {
    int64_t capture = op.getOf()[index];
    if (capture < 0 || capture >= static_cast<int64_t>(op.getCaptures().size()))
      return op.emitOpError()
             << "asks for the gradient of capture " << capture << ", but has "
             << op.getCaptures().size() << " captures";
    if (failed(verifyCaptureGradient(op, index, sizes)))
      return failure();
  }
  return success();
}

LogicalResult BackwardOp::verify() {
  Sizes4 query = getSizes(getQuery(), getLayout(), "query");
  Sizes4 key = getSizes(getKey(), getLayout(), "key");
  Sizes4 value = getSizes(getValue(), getLayout(), "value");
  auto gradient = [&](Value tensor, const Sizes4 &like, StringRef name) {
    return verifySizes(*this, getSizes(tensor, getLayout(), name), like);
  };
  if (failed(verifyBackwardOperands(*this, query, key, value)) ||
      failed(gradient(getDquery(), query, "dquery")) ||
      failed(gradient(getDkey(), key, "dkey")) ||
      failed(gradient(getDvalue(), value, "dvalue")) ||
      failed(verifyCaptureGradients(*this, {query.b, query.h, query.s, key.s})))
    return failure();
  Type f32 = Float32Type::get(getContext());
  SmallVector<Type> types = getRegionTypes(getContext(), 6, getCaptures());
  types.insert(types.begin(), 2, f32);
  if (failed(verifyRegion(*this, getGradient(), "gradient", types, f32)))
    return failure();
  for (Region &region : getCaptureGradients())
    if (failed(verifyRegion(*this, region, "capture_gradients", types, f32)))
      return failure();
  return success();
}

LogicalResult EpilogueGradientOp::verify() {
  Sizes4 input = getSizes(getInput(), getLayout(), "input");
  Positions sizes = {input.b, input.h, input.s, input.d};
  if (failed(verifySizes(*this, getSizes(getDoutput(), getLayout(), "doutput"),
                         input)) ||
      failed(verifySizes(*this, getSizes(getDinput(), getLayout(), "dinput"),
                         input)) ||
      failed(verifyCaptures(*this, getCaptures(), getMaps(), "capture",
                            "b, h, i, d")) ||
      failed(
          verifyExtents(*this, getCaptures(), getMaps(), sizes, "capture")) ||
      failed(verifyCaptureGradients(*this, sizes)))
    return failure();
  Type f32 = Float32Type::get(getContext());
  SmallVector<Type> types = getRegionTypes(getContext(), 4, getCaptures());
  types.insert(types.begin(), f32);
  if (failed(verifyRegion(*this, getGradient(), "gradient", types, f32)))
    return failure();
  for (Region &region : getCaptureGradients())
    if (failed(verifyRegion(*this, region, "capture_gradients", types, f32)))
      return failure();
  return success();
}

LogicalResult RowSumsOp::verify() {
  Sizes4 query = getSizes(getQuery(), getLayout(), "query");
  if (failed(verifyBackwardOperands(
          *this, query, getSizes(getKey(), getLayout(), "key"),
          getSizes(getValue(), getLayout(), "value"))))
    return failure();
  for (Value result : getResults()) {
    SmallVector<Size> own = getLogitSizes(result, "result");
    if (failed(verifySame(
            *this, {{own[0], query.b}, {own[1], query.h}, {own[2], query.s}})))
      return failure();
  }
  return success();
}

LogicalResult RowDotOp::verify() {
  Sizes4 lhs = getSizes(getLhs(), getLayout(), "lhs");
  Sizes4 rhs = getSizes(getRhs(), getLayout(), "rhs");
  SmallVector<Size> result = getLogitSizes(getResult(), "result");
  if (failed(verifyHeadDim(*this, lhs.d)) ||
      failed(verifyHeadDim(*this, rhs.d)) ||
      failed(verifySizes(*this, lhs, rhs)))
    return failure();
  return verifySame(
      *this, {{result[0], lhs.b}, {result[1], lhs.h}, {result[2], lhs.s}});
}

/// Whether an expression is a dim, or the quotient of one by a constant.
static bool isPositionOrQuotient(AffineExpr expr) {
  if (auto binary = dyn_cast<AffineBinaryOpExpr>(expr);
      binary && binary.getKind() == AffineExprKind::FloorDiv) {
    auto divisor = dyn_cast<AffineConstantExpr>(binary.getRHS());
    return divisor && divisor.getValue() > 0 &&
           isa<AffineDimExpr>(binary.getLHS());
  }
  return isa<AffineDimExpr>(expr);
}

/// Without `like`, the sizes are those of the input's dims.
static LogicalResult verifySumSizes(SumOp op) {
  auto type = op.getResult().getType();
  auto input = cast<RankedTensorType>(op.getInput().getType());
  for (auto [index, expr] : llvm::enumerate(op.getMap().getResults())) {
    auto dim = dyn_cast<AffineDimExpr>(expr);
    if (!dim)
      return op.emitOpError("needs `like`: the sizes of the result are those "
                            "of that tensor");
    if (type.getDimSize(index) != input.getDimSize(dim.getPosition()))
      return op.emitOpError()
             << "dim " << index << " of the result must have the size of dim "
             << dim.getPosition() << " of " << input << ", got " << type;
  }
  return success();
}

LogicalResult SumOp::verify() {
  auto type = getResult().getType();
  unsigned rank = cast<RankedTensorType>(getInput().getType()).getRank();
  if (rank < 1 || rank > 3)
    return emitOpError() << "sums tensors of 1 to 3 dims, got "
                         << getInput().getType();
  AffineMap map = getMap();
  if (map.getNumDims() != rank || map.getNumSymbols() != 0 ||
      map.getNumResults() != static_cast<unsigned>(type.getRank()))
    return emitOpError() << "needs a map from the " << rank
                         << " dims of the input to the " << type.getRank()
                         << " dims of the result, got "
                         << AffineMapAttr::get(map);
  unsigned used = 0;
  for (AffineExpr expr : map.getResults()) {
    unsigned reads = 0;
    expr.walk([&](AffineExpr inner) {
      if (auto dim = dyn_cast<AffineDimExpr>(inner))
        reads |= 1u << dim.getPosition();
    });
    if (!isPositionOrQuotient(expr) || (used & reads))
      return emitOpError() << "maps each dim of the result to a dim of the "
                              "input or its quotient by a constant, got "
                           << AffineMapAttr::get(map);
    used |= reads;
  }
  if (!getLike())
    return verifySumSizes(*this);
  auto like = cast<RankedTensorType>(getLike().getType());
  if (like.getShape() != type.getShape())
    return emitOpError() << "the result must have the sizes of " << like
                         << ", got " << type;
  return success();
}
