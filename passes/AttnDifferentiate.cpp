//===- AttnDifferentiate.cpp - A function becomes that of its gradients ---===//
//
// The attention's own part, what follows from o = sum_j p_j v_j, is written
// down here once. What its regions do is differentiated in reverse by the op
// table, op by op; nothing here knows a score function.
//
//===----------------------------------------------------------------------===//

#include "dialects/attn/Attn.h"
#include "lib/OpTable/OpTable.h"
#include "passes/Passes.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/IR/Iterators.h"
#include "mlir/IR/TypeUtilities.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"
#include "llvm/ADT/SmallBitVector.h"

#include <limits>

namespace attnc {
#define GEN_PASS_DEF_ATTNDIFFERENTIATE
#include "passes/Passes.h.inc"
} // namespace attnc

using namespace mlir;
using namespace attnc;

static Value constantF32(OpBuilder &builder, Location loc, float value) {
  return arith::ConstantOp::create(builder, loc,
                                   builder.getF32FloatAttr(value));
}

namespace {

//===----------------------------------------------------------------------===//
// Reverse differentiation of straight-line code
//===----------------------------------------------------------------------===//

/// Copies regions into a block and differentiates the copy. All at the end of
/// the block.
class Tape {
public:
  Tape(Block *block, Location loc)
      : builder(OpBuilder::atBlockEnd(block)), loc(loc) {}

  /// Uses of `outer` in the regions become uses of `inside`.
  void replace(Value outer, Value inside) { outside.map(outer, inside); }

  /// The value that a copy of `region` yields; an empty one is the identity.
  Value copy(Region &region, ValueRange arguments);

  /// Adds to the gradient of a value.
  void addGradient(Value value, Value gradient);

  /// Carries gradients from what was copied to `input`; the gradient of input.
  /// Fails with an error at an op on the way that has no derivative.
  FailureOr<Value> differentiate(Value input);

  OpBuilder builder;
  Location loc;

private:
  LogicalResult findActive(Value input);
  void reverse(Operation *op);

  IRMapping outside;
  SmallVector<Operation *> ops;
  DenseSet<Value> active;
  DenseMap<Value, Value> gradients;
};

Value Tape::copy(Region &region, ValueRange arguments) {
  if (region.empty())
    return arguments.front();
  IRMapping mapping = outside;
  mapping.map(region.getArguments(), arguments);
  for (Operation &op : region.front().without_terminator())
    ops.push_back(builder.clone(op, mapping));
  return mapping.lookupOrDefault(region.front().getTerminator()->getOperand(0));
}

void Tape::addGradient(Value value, Value gradient) {
  Value &sum = gradients[value];
  sum = sum ? Value(arith::AddFOp::create(builder, loc, sum, gradient))
            : gradient;
}

/// Values that change with `input`. Where one goes into an op that the op table
/// does not know, there would be a wrong gradient.
LogicalResult Tape::findActive(Value input) {
  active = {input};
  for (Operation *op : ops) {
    if (llvm::none_of(op->getOperands(),
                      [&](Value operand) { return active.contains(operand); }))
      continue;
    const OpTableRow *row = lookupOpTable(op);
    if (!row)
      return op->emitOpError(
          "has no derivative rule in the op table (docs/semantics.md, The op "
          "table): its function cannot be differentiated; use ops of the "
          "table");
    // A comparison has no gradient: the branches have.
    if (row->derive)
      active.insert(op->getResult(0));
  }
  return success();
}

void Tape::reverse(Operation *op) {
  Value result = op->getResult(0);
  Value gradient = gradients.lookup(result);
  if (!gradient || !active.contains(result))
    return;
  FormulaBuilder at{builder, op->getLoc(), FormulaTarget::Cpu};
  SmallVector<Value> parts =
      lookupOpTable(op)->derive(at, op->getOperands(), result, gradient);
  for (auto [operand, part] : llvm::zip_equal(op->getOperands(), parts))
    if (part && active.contains(operand))
      addGradient(operand, part);
}

FailureOr<Value> Tape::differentiate(Value input) {
  if (failed(findActive(input)))
    return failure();
  for (Operation *op : llvm::reverse(ops))
    reverse(op);
  if (Value gradient = gradients.lookup(input))
    return gradient;
  return constantF32(builder, loc, 0);
}

/// What the derivative did not need after all.
void eraseDead(Block *block) {
  for (Operation &op : llvm::make_early_inc_range(llvm::reverse(*block)))
    if (isOpTriviallyDead(&op))
      op.erase();
}

//===----------------------------------------------------------------------===//
// One function
//===----------------------------------------------------------------------===//

/// A captured operand of the gradients, and the argument of the function that
/// asks for its gradient, if one does.
struct Captured {
  Value value;
  AffineMap map;
  bool wanted = false;
};

/// A norm of rows, its gradient, and how many elements of the row are the
/// largest, if that matters.
struct Through {
  Value norm, gradient, count;
};

class Differentiation {
public:
  explicit Differentiation(func::FuncOp function)
      : function(function), builder(function.getContext()),
        loc(function.getLoc()) {}

  LogicalResult run();

private:
  LogicalResult findForward();
  LogicalResult findEpilogue(ValueRange returned);
  void captureScale();
  LogicalResult readType();
  LogicalResult checkCaptures();
  LogicalResult findWanted();
  LogicalResult checkWanted(BlockArgument argument);
  void gatherCaptures();
  std::string nameOf(Value value);
  bool asksForGradient(Value result);
  Value addArgument(Type type, const std::string &name);
  Type gradientType(Value of);

  bool isSoftmax() { return fused.getNormalize() == attn::Normalize::Softmax; }
  bool isL1() { return fused.getNormalize() == attn::Normalize::L1; }
  bool isWanted(Value value) { return llvm::is_contained(wanted, value); }
  /// Whether it is a norm through which query, key or value get gradients.
  bool isNorm(Value value) {
    auto norm = value.getDefiningOp<attn::RowNormOp>();
    return norm && isWanted(norm.getInput()) &&
           norm.getLayout() == fused.getLayout() &&
           llvm::is_contained(
               {fused.getQuery(), fused.getKey(), fused.getValue()},
               norm.getInput());
  }
  /// Whether it is one of the output, which an epilogue reads.
  bool isOutputNorm(Value value) {
    auto norm = value.getDefiningOp<attn::RowNormOp>();
    return norm &&
           (norm.getInput() == fused.getOutput() || norm.getInput() == output);
  }
  /// Whether its gradient also has a part that comes through a norm.
  bool hasNorm(Value operand) {
    auto isOf = [&](Value value) {
      return isNorm(value) &&
             value.getDefiningOp<attn::RowNormOp>().getInput() == operand;
    };
    return llvm::any_of(captures,
                        [&](const Captured &c) { return isOf(c.value); }) ||
           llvm::any_of(norms, [&](const auto &n) { return isOf(n.first); });
  }
  LogicalResult checkNorm(Value value);
  LogicalResult checkMap(Operation *op, unsigned index, AffineMap map,
                         StringRef last, bool mayDiffer);

  LogicalResult normaliseRows();
  SmallVector<Value> captureValues();
  ArrayAttr captureMaps();
  Block *openRegion(Region &region, unsigned floats);
  Value copyLogit(Tape &tape, Block *block, unsigned floats);
  Value captureArgument(Block *block, Value value);
  void buildWeight(Region &region, bool normalised);
  LogicalResult buildGradient(Region &region, Value of);
  LogicalResult buildBackward();
  void addThroughNorms();
  void addThroughNorm(const Through &norm, bool isLast);
  Value countLargest(attn::RowNormOp norm, Value lengths);
  Value sumCapture(const Captured &captured, Value partial);
  LogicalResult addResult(Value captured, Value gradient);
  FailureOr<SmallVector<Captured>> gatherEpilogueCaptures();
  LogicalResult buildEpilogueGradient(Region &region,
                                      ArrayRef<Captured> captured, Value of,
                                      ArrayRef<Through> through = {});
  LogicalResult addThroughOutputNorms(attn::EpilogueGradientOp first,
                                      ArrayRef<Captured> captured,
                                      ArrayRef<Through> through);
  LogicalResult differentiateEpilogue();
  Type stateGradientType(const Captured &captured, int64_t last);
  void finish();

  func::FuncOp function;
  OpBuilder builder;
  Location loc;
  attn::FusedOp fused;
  /// What the function makes of the output at last, or null.
  attn::EpilogueOp epilogue;
  Type elementType;
  SmallVector<BlockArgument> wanted;
  SmallVector<Captured> captures;
  /// What came before an epilogue, if that or a softmax needs it; the gradient
  /// of the same.
  Value output, doutput;
  /// One value a row: softmax's LSE or l1's inverse norm, and dO . o.
  Value rowNorm, delta;
  /// The gradient of the LSE, if the forward's result asks for one.
  Value dlse;
  DenseMap<Value, Value> results;
  /// Norms and their gradients.
  SmallVector<std::pair<Value, Value>> norms;
  SmallVector<DictionaryAttr> argumentAttrs;
};

LogicalResult Differentiation::findForward() {
  auto all = llvm::to_vector(function.getOps<attn::FusedOp>());
  if (all.size() != 1)
    return function.emitError()
           << "'" << function.getName()
           << "' cannot be differentiated: expected one attn.fused, got "
           << all.size();
  fused = all.front();
  auto returned = function.front().getTerminator()->getOperands();
  if (!llvm::is_contained(returned, fused.getOutput()))
    return function.emitError()
           << "'" << function.getName()
           << "' cannot be differentiated: it does not return its output";
  if (!fused.getEpilogue().empty())
    return fused.emitOpError("has an epilogue, whose gradient reads what is "
                             "before it: return the result of the attn.apply, "
                             "then that of the attn.epilogue");
  if (failed(findEpilogue(returned)))
    return failure();
  for (auto [index, value] : llvm::enumerate(returned))
    if (function.getResultAttr(index, attn::kGradientAttr) &&
        value != fused.getLse())
      return function.emitError()
             << "'" << function.getName()
             << "' cannot be differentiated: attn.gradient on result " << index
             << ", expected it on an LSE only; the gradient of the output is "
                "always handed over";
  if (fused.getQuery() == fused.getKey() ||
      fused.getKey() == fused.getValue() ||
      fused.getQuery() == fused.getValue())
    return fused.emitOpError("takes one tensor twice as query, key or value: "
                             "to differentiate, pass it in two arguments");
  return success();
}

/// An epilogue that was left on its own.
LogicalResult Differentiation::findEpilogue(ValueRange returned) {
  for (auto op : function.getOps<attn::EpilogueOp>()) {
    if (epilogue)
      return op.emitOpError("cannot be differentiated: expected one epilogue");
    epilogue = op;
    if (op.getInput() != fused.getOutput() ||
        op.getLayout() != fused.getLayout())
      return op.emitOpError("cannot be differentiated: expected the output of "
                            "the attn.fused, in its layout");
    if (!op.getStats().empty())
      return op.emitOpError("reads row statistics, which attn-fuse makes "
                            "attn.row_norm: run it before");
    if (!llvm::is_contained(returned, op.getOutput()))
      return function.emitError()
             << "'" << function.getName()
             << "' cannot be differentiated: it does not return what its "
                "epilogue makes";
  }
  return success();
}

/// A scale whose gradient is asked for is a factor that the scores capture.
void Differentiation::captureScale() {
  Value scale = fused.getScale();
  if (!scale || !isWanted(scale))
    return;
  Region &region = fused.getScoreMod();
  bool isEmpty = region.empty();
  OpBuilder::InsertionGuard guard(builder);
  if (isEmpty) {
    SmallVector<Type> types = {builder.getF32Type()};
    types.append(6, builder.getI32Type());
    builder.createBlock(&region, {}, types,
                        SmallVector<Location>(types.size(), loc));
  }
  Block &block = region.front();
  builder.setInsertionPointToStart(&block);
  Value dots = block.getArgument(0);
  auto scaled = arith::MulFOp::create(builder, loc, dots, scale);
  dots.replaceAllUsesExcept(scaled, scaled);
  if (isEmpty)
    attn::YieldOp::create(builder, loc, scaled);
  builder.setInsertionPoint(fused);
  fused.getScaleMutable().assign(constantF32(builder, loc, 1));
}

/// Whether sums over the positions that a map drops are those that `attn.sum`
/// makes.
static bool isSummable(AffineMap map) {
  llvm::SmallBitVector used(map.getNumDims());
  for (AffineExpr expr : map.getResults()) {
    if (auto quotient = dyn_cast<AffineBinaryOpExpr>(expr);
        quotient && quotient.getKind() == AffineExprKind::FloorDiv &&
        isa<AffineConstantExpr>(quotient.getRHS()))
      expr = quotient.getLHS();
    auto position = dyn_cast<AffineDimExpr>(expr);
    if (!position || used.test(position.getPosition()))
      return false;
    used.set(position.getPosition());
  }
  return true;
}

/// Of a map of b, h, i and `last` that an operand is captured by.
LogicalResult Differentiation::checkMap(Operation *op, unsigned index,
                                        AffineMap map, StringRef last,
                                        bool mayDiffer) {
  if (attn::getCaptureKind(map) != attn::CaptureKind::Positions) {
    if (isSummable(map))
      return success();
    return op->emitOpError()
           << "gradient of capture " << index
           << ": each dim of a map may be a position or its quotient by a "
              "constant, each position once, got "
           << AffineMapAttr::get(map)
           << "; gather the operand's elements before";
  }
  if (attn::getHeadsPerElement(map) || (mayDiffer && attn::getDiagonals(map)))
    return success();
  return op->emitOpError() << "gradient of capture " << index
                           << ": a map that reads i and " << last
                           << " may only permute positions, h floordiv N for h"
                           << (mayDiffer ? ", or read i - j in one dim" : "")
                           << ", got " << AffineMapAttr::get(map);
}

LogicalResult Differentiation::checkNorm(Value value) {
  auto norm = value.getDefiningOp<attn::RowNormOp>();
  if (norm && isWanted(norm.getInput()) && !isNorm(value))
    return norm.emitOpError("is captured, and its gradient is not supported: "
                            "expected the norm of the query, the key or the "
                            "value, in their layout");
  return success();
}

/// Of captures that have a gradient of their own, or whose gradient could not
/// be summed.
LogicalResult Differentiation::checkCaptures() {
  for (auto [index, value, map] :
       llvm::enumerate(fused.getScoreCaptures(),
                       fused.getScoreMaps().getAsValueRange<AffineMapAttr>())) {
    if (failed(checkNorm(value)))
      return failure();
    if ((isWanted(value) || isNorm(value)) &&
        failed(checkMap(fused, index, map, "j", /*mayDiffer=*/true)))
      return failure();
  }
  return success();
}

/// The attribute on the function may name a type.
LogicalResult Differentiation::readType() {
  auto type = function->getAttrOfType<TypeAttr>(attn::kDifferentiateAttr);
  if (!type)
    return success();
  elementType = type.getValue();
  if (!elementType.isF32() && !elementType.isF16() && !elementType.isBF16())
    return function.emitError() << "attn.differentiate = " << elementType
                                << ": gradients are f32, f16 or bf16";
  return success();
}

LogicalResult Differentiation::checkWanted(BlockArgument argument) {
  if (llvm::is_contained({fused.getQuery(), fused.getKey(), fused.getValue()},
                         argument))
    return success();
  auto complain = [&]() {
    return function.emitError() << "argument '" << nameOf(argument)
                                << "' asks for its gradient, but ";
  };
  if (!isa<FloatType>(getElementTypeOrSelf(argument.getType())))
    return complain() << "it is of type " << argument.getType();
  return success();
}

LogicalResult Differentiation::findWanted() {
  for (BlockArgument argument : function.getArguments())
    if (function.getArgAttr(argument.getArgNumber(), attn::kGradientAttr))
      wanted.push_back(argument);
  if (wanted.empty())
    for (BlockArgument argument : function.getArguments())
      if (llvm::is_contained(
              {fused.getQuery(), fused.getKey(), fused.getValue()}, argument))
        wanted.push_back(argument);
  for (BlockArgument argument : wanted)
    if (failed(checkWanted(argument)))
      return failure();
  return success();
}

/// Of the forward's captures, and of scalars that regions use directly where
/// their gradient is asked for.
void Differentiation::gatherCaptures() {
  for (auto [value, map] :
       llvm::zip_equal(fused.getScoreCaptures(),
                       fused.getScoreMaps().getAsValueRange<AffineMapAttr>()))
    captures.push_back({value, map, isWanted(value) || isNorm(value)});
  for (Region *region : {&fused.getScoreMod(), &fused.getActivation()})
    region->walk([&](Operation *op) {
      for (Value operand : op->getOperands()) {
        bool known = llvm::any_of(
            captures, [&](const Captured &c) { return c.value == operand; });
        if (isWanted(operand) && !known)
          captures.push_back(
              {operand, AffineMap::get(4, 0, {}, function.getContext()), true});
      }
    });
}

/// What callers call an argument or result of the forward.
std::string Differentiation::nameOf(Value value) {
  if (auto argument = dyn_cast<BlockArgument>(value)) {
    unsigned number = argument.getArgNumber();
    if (auto name =
            function.getArgAttrOfType<StringAttr>(number, attn::kNameAttr))
      return name.str();
    if (value == fused.getQuery())
      return "query";
    if (value == fused.getKey())
      return "key";
    if (value == fused.getValue())
      return "value";
    return ("arg" + Twine(number)).str();
  }
  auto returned = function.front().getTerminator()->getOperands();
  for (auto [index, other] : llvm::enumerate(returned))
    if (other == value)
      if (auto name =
              function.getResultAttrOfType<StringAttr>(index, attn::kNameAttr))
        return name.str();
  if (value == fused.getLse())
    return "lse";
  return epilogue && value == fused.getOutput() ? "ungated" : "output";
}

/// Whether the gradient of a result is handed over, too.
bool Differentiation::asksForGradient(Value result) {
  auto returned = function.front().getTerminator()->getOperands();
  for (auto [index, other] : llvm::enumerate(returned))
    if (other == result && function.getResultAttr(index, attn::kGradientAttr))
      return true;
  return false;
}

Value Differentiation::addArgument(Type type, const std::string &name) {
  argumentAttrs.push_back(builder.getDictionaryAttr(
      {builder.getNamedAttr(attn::kNameAttr, builder.getStringAttr(name))}));
  return function.front().addArgument(type, loc);
}

/// What is not returned is not rounded.
Type Differentiation::gradientType(Value of) {
  if (of.getDefiningOp<attn::RowNormOp>())
    return of.getType();
  if (auto tensor = dyn_cast<RankedTensorType>(of.getType()))
    return elementType ? tensor.clone(elementType) : tensor;
  return RankedTensorType::get({}, elementType ? elementType : of.getType());
}

//===----------------------------------------------------------------------===//
// Rows
//===----------------------------------------------------------------------===//

/// The type of one f32 for each row of the queries.
static RankedTensorType getStatType(attn::FusedOp op) {
  auto query = cast<RankedTensorType>(op.getQuery().getType());
  attn::LayoutDims dims = attn::getLayoutDims(op.getLayout());
  ArrayRef<int64_t> shape = query.getShape();
  return RankedTensorType::get({shape[dims.b], shape[dims.h], shape[dims.s]},
                               Float32Type::get(op.getContext()));
}

/// Adds the arguments that the forward hands over, and computes what the
/// normalisation needs of each row.
LogicalResult Differentiation::normaliseRows() {
  Type stat = getStatType(fused);
  Type outputType = fused.getOutput().getType();
  std::string output = nameOf(fused.getOutput());
  AffineMap rows =
      AffineMap::getMultiDimMapWithTargets(4, {0, 1, 2}, function.getContext());
  if (isSoftmax() || epilogue)
    this->output = addArgument(outputType, output);
  if (isSoftmax())
    rowNorm =
        addArgument(stat, fused.getLse() ? nameOf(fused.getLse()) : "lse");
  if (fused.getLse() && asksForGradient(fused.getLse()))
    dlse = addArgument(stat, "d" + nameOf(fused.getLse()));
  if (!epilogue)
    doutput = addArgument(outputType, "d" + output);
  else if (failed(differentiateEpilogue()))
    return failure();
  if (isSoftmax())
    delta = attn::RowDotOp::create(builder, loc, stat, doutput, this->output,
                                   fused.getLayout());
  if (isL1()) {
    auto sums = attn::RowSumsOp::create(
        builder, loc, stat, stat, fused.getQuery(), fused.getKey(),
        fused.getValue(), doutput, fused.getScale(), fused.getQLen(),
        fused.getKLen(), captureValues(), fused.getMasks(), captureMaps(),
        fused.getLayout());
    buildWeight(sums.getWeight(), /*normalised=*/false);
    rowNorm = sums.getInverse();
    delta = sums.getDelta();
  }
  if (dlse)
    captures.push_back({dlse, rows});
  if (rowNorm) {
    captures.push_back({rowNorm, rows});
    captures.push_back({delta, rows});
  }
  return success();
}

SmallVector<Value> Differentiation::captureValues() {
  SmallVector<Value> values;
  for (const Captured &captured : captures)
    values.push_back(captured.value);
  return values;
}

ArrayAttr Differentiation::captureMaps() {
  SmallVector<AffineMap> maps;
  for (const Captured &captured : captures)
    maps.push_back(captured.map);
  return builder.getAffineMapArrayAttr(maps);
}

//===----------------------------------------------------------------------===//
// Regions
//===----------------------------------------------------------------------===//

/// `floats` f32 arguments, six positions, the captures.
Block *Differentiation::openRegion(Region &region, unsigned floats) {
  SmallVector<Type> types(floats, builder.getF32Type());
  types.append(6, builder.getI32Type());
  for (const Captured &captured : captures)
    types.push_back(attn::getElementScalarType(captured.value.getType()));
  OpBuilder::InsertionGuard guard(builder);
  return builder.createBlock(&region, {}, types,
                             SmallVector<Location>(types.size(), loc));
}

/// The last captures of a value are the row's.
Value Differentiation::captureArgument(Block *block, Value value) {
  unsigned first = block->getNumArguments() - captures.size();
  for (auto [index, captured] : llvm::enumerate(captures))
    if (captured.value == value)
      return block->getArgument(first + index);
  return {};
}

/// x = score_mod(s, ...), from a region with `floats` f32 arguments.
Value Differentiation::copyLogit(Tape &tape, Block *block, unsigned floats) {
  for (const Captured &captured : captures)
    if (!isa<RankedTensorType>(captured.value.getType()))
      tape.replace(captured.value, captureArgument(block, captured.value));
  SmallVector<Value> arguments = {block->getArgument(0)};
  llvm::append_range(arguments, block->getArguments().slice(floats, 6));
  llvm::append_range(
      arguments,
      block->getArguments().slice(floats + 6, fused.getScoreCaptures().size()));
  return tape.copy(fused.getScoreMod(), arguments);
}

/// p from s.
void Differentiation::buildWeight(Region &region, bool normalised) {
  Block *block = openRegion(region, 1);
  Tape tape(block, loc);
  OpBuilder &b = tape.builder;
  Value p = copyLogit(tape, block, 1);
  if (isSoftmax()) {
    // S-mask-zero: exp(x - inf) is 0, where exp(-inf + inf) would be NaN.
    float inf = std::numeric_limits<float>::infinity();
    auto constant = [&](float x) { return constantF32(b, loc, x); };
    Value lse = captureArgument(block, rowNorm);
    Value empty = arith::CmpFOp::create(b, loc, arith::CmpFPredicate::OEQ, lse,
                                        constant(-inf));
    lse = arith::SelectOp::create(b, loc, empty, constant(inf), lse);
    p = math::ExpOp::create(b, loc, arith::SubFOp::create(b, loc, p, lse));
  } else {
    p = tape.copy(fused.getActivation(), p);
    if (normalised && isL1())
      p = arith::MulFOp::create(b, loc, p, captureArgument(block, rowNorm));
  }
  attn::YieldOp::create(b, loc, p);
  eraseDead(block);
}

/// The gradient of s, or of the captured operand `of`.
LogicalResult Differentiation::buildGradient(Region &region, Value of) {
  Block *block = openRegion(region, 3);
  Tape tape(block, loc);
  OpBuilder &b = tape.builder;
  Value p = block->getArgument(1), dp = block->getArgument(2);
  Value x = copyLogit(tape, block, 3), weight;
  // dp - dO . o: normalised weights sum to 1 whatever the logits.
  if (delta)
    dp = arith::SubFOp::create(b, loc, dp, captureArgument(block, delta));
  // An LSE changes with a logit by its weight.
  if (dlse)
    dp = arith::AddFOp::create(b, loc, dp, captureArgument(block, dlse));
  if (isSoftmax()) {
    tape.addGradient(x, arith::MulFOp::create(b, loc, p, dp));
  } else {
    weight = tape.copy(fused.getActivation(), x);
    if (isL1())
      dp = arith::MulFOp::create(b, loc, dp, captureArgument(block, rowNorm));
    tape.addGradient(weight, dp);
  }
  Value input = of ? captureArgument(block, of) : block->getArgument(0);
  FailureOr<Value> gradient = tape.differentiate(input);
  if (failed(gradient))
    return failure();
  attn::YieldOp::create(b, loc, *gradient);
  // The weight is there already: a sigmoid's p (1 - p) needs nothing else.
  if (weight && !isL1() && weight.getDefiningOp())
    weight.replaceAllUsesWith(p);
  eraseDead(block);
  return success();
}

//===----------------------------------------------------------------------===//
// The whole
//===----------------------------------------------------------------------===//

/// The sums over dropped dims that a gradient leaves.
Value Differentiation::sumCapture(const Captured &captured, Value partial) {
  attn::CaptureKind kind = attn::getCaptureKind(captured.map);
  Type type = gradientType(captured.value);
  if (kind == attn::CaptureKind::Positions)
    return partial;
  // From (b, h, i, j) to (b, h, x).
  AffineExpr b, h, x;
  bindDims(function.getContext(), b, h, x);
  AffineMap map = captured.map.replaceDimsAndSymbols(
      {b, h, x, x}, {}, /*numResultDims=*/3, /*numResultSyms=*/0);
  if (map.isIdentity() && partial.getType() == type)
    return partial;
  // Dims that are summed completely go one by one, the last first: each of
  // these sums has many elements, which are computed at the same time.
  for (unsigned rank = 3; rank > 1 && !map.isFunctionOfDim(rank - 1); --rank) {
    auto shape = cast<RankedTensorType>(partial.getType()).getShape();
    map = AffineMap::get(rank - 1, 0, map.getResults(), map.getContext());
    if (map.isIdentity())
      break;
    partial = attn::SumOp::create(
        builder, loc,
        RankedTensorType::get(shape.drop_back(), builder.getF32Type()), partial,
        Value(),
        AffineMap::getMultiDimIdentityMap(rank, map.getContext())
            .dropResult(rank - 1));
  }
  bool isTensor = isa<RankedTensorType>(captured.value.getType());
  unsigned rank = cast<RankedTensorType>(partial.getType()).getRank();
  map = AffineMap::get(rank, 0, map.getResults(), map.getContext());
  return attn::SumOp::create(builder, loc, type, partial,
                             isTensor ? captured.value : Value(), map);
}

/// What the gradient of a captured operand is before `sumCapture`; `last` is
/// the number of keys or columns.
Type Differentiation::stateGradientType(const Captured &captured,
                                        int64_t last) {
  RankedTensorType stat = getStatType(fused);
  attn::CaptureKind kind = attn::getCaptureKind(captured.map);
  if (kind == attn::CaptureKind::Positions)
    return gradientType(captured.value);
  if (kind == attn::CaptureKind::Queries)
    return stat;
  return RankedTensorType::get({stat.getDimSize(0), stat.getDimSize(1), last},
                               stat.getElementType());
}

LogicalResult Differentiation::addResult(Value captured, Value gradient) {
  // One operand may be captured twice, by different maps.
  if (!results.try_emplace(captured, gradient).second)
    return function.emitError()
           << "argument '" << nameOf(captured)
           << "' asks for its gradient but is captured twice";
  return success();
}

LogicalResult Differentiation::buildBackward() {
  SmallVector<int64_t> of;
  auto sumType = [&](Value operand) -> Type {
    Type type = gradientType(operand);
    if (!hasNorm(operand))
      return type;
    return cast<RankedTensorType>(type).clone(builder.getF32Type());
  };
  SmallVector<Type> types = {sumType(fused.getQuery()), sumType(fused.getKey()),
                             sumType(fused.getValue())};
  auto key = cast<RankedTensorType>(fused.getKey().getType());
  int64_t keys = key.getDimSize(attn::getLayoutDims(fused.getLayout()).s);
  for (auto [index, captured] : llvm::enumerate(captures)) {
    if (!captured.wanted)
      continue;
    of.push_back(index);
    types.push_back(stateGradientType(captured, keys));
  }
  auto backward = attn::BackwardOp::create(
      builder, loc, types, fused.getQuery(), fused.getKey(), fused.getValue(),
      doutput, fused.getScale(), fused.getQLen(), fused.getKLen(),
      captureValues(), fused.getMasks(), captureMaps(), fused.getLayout(),
      builder.getDenseI64ArrayAttr(of),
      function->hasAttr(attn::kDeterministicAttr),
      /*numCaptureGradients=*/of.size());
  backward->setDiscardableAttrs(fused->getDiscardableAttrDictionary());
  buildWeight(backward.getWeight(), /*normalised=*/true);
  if (failed(buildGradient(backward.getGradient(), Value())))
    return failure();
  results[fused.getQuery()] = backward.getDquery();
  results[fused.getKey()] = backward.getDkey();
  results[fused.getValue()] = backward.getDvalue();
  for (auto [number, index] : llvm::enumerate(of)) {
    Value captured = captures[index].value;
    if (failed(buildGradient(backward.getCaptureGradients()[number], captured)))
      return failure();
    Value sum = sumCapture(captures[index], backward.getDcaptures()[number]);
    if (isNorm(captured))
      norms.emplace_back(captured, sum);
    else if (failed(addResult(captured, sum)))
      return failure();
  }
  addThroughNorms();
  return success();
}

//===----------------------------------------------------------------------===//
// Norms
//===----------------------------------------------------------------------===//

/// (b, h, i) of (b, h, i, d).
static AffineMap getRowsMap(MLIRContext *context) {
  return AffineMap::getMultiDimMapWithTargets(4, {0, 1, 2}, context);
}

/// The part of the gradient of an element x that comes through the norm n of
/// its row of `width`: |x|^2 has the gradient 2x, and n = 1 / |x| has -n^3 x.
/// `count` elements that are the largest share its gradient.
static Value passThrough(OpBuilder &builder, Location loc, attn::RowNorm norm,
                         int64_t width, Value x, Value n, Value gradient,
                         Value count) {
  auto constant = [&](float value) { return constantF32(builder, loc, value); };
  auto times = [&](Value a, Value c) -> Value {
    return arith::MulFOp::create(builder, loc, a, c);
  };
  auto compare = [&](arith::CmpFPredicate how, Value a, Value c) -> Value {
    return arith::CmpFOp::create(builder, loc, how, a, c);
  };
  auto select = [&](Value which, Value a, Value c) -> Value {
    return arith::SelectOp::create(builder, loc, which, a, c);
  };
  switch (norm) {
  case attn::RowNorm::SquaredL2:
    return times(times(constant(2), gradient), x);
  case attn::RowNorm::InverseL2: {
    Value cube = times(n, times(n, n));
    return times(times(times(constant(-1), cube), gradient), x);
  }
  case attn::RowNorm::Mean:
    return times(constant(1.0f / width), gradient);
  case attn::RowNorm::MeanSquare:
    return times(times(constant(2.0f / width), gradient), x);
  case attn::RowNorm::AbsMax:
    break;
  }
  Value zero = constant(0);
  Value sign = select(compare(arith::CmpFPredicate::OLT, x, zero), constant(-1),
                      constant(1));
  sign = select(compare(arith::CmpFPredicate::OEQ, x, zero), zero, sign);
  Value size = math::AbsFOp::create(builder, loc, x);
  Value share =
      arith::DivFOp::create(builder, loc, times(gradient, sign), count);
  return select(compare(arith::CmpFPredicate::OEQ, size, n), share, zero);
}

/// How many elements of each row have the absolute value that is its norm, or
/// none for other norms.
Value Differentiation::countLargest(attn::RowNormOp norm, Value lengths) {
  if (norm.getKind() != attn::RowNorm::AbsMax)
    return {};
  Value x = norm.getInput();
  auto rows = AffineMapAttr::get(getRowsMap(builder.getContext()));
  auto op = attn::EpilogueGradientOp::create(
      builder, loc, TypeRange{x.getType(), norm.getType()}, x, x, lengths,
      ValueRange{norm}, builder.getArrayAttr({rows}), norm.getLayout(),
      builder.getDenseI64ArrayAttr({0}), /*captureGradientsCount=*/1);
  Type f32 = builder.getF32Type(), i32 = builder.getI32Type();
  SmallVector<Type> types = {f32, f32, i32, i32, i32, i32, f32};
  SmallVector<Location> locs(types.size(), loc);
  OpBuilder::InsertionGuard guard(builder);
  Block *unused = builder.createBlock(&op.getGradient(), {}, types, locs);
  attn::YieldOp::create(builder, loc, unused->getArgument(0));
  Block *block =
      builder.createBlock(&op.getCaptureGradients()[0], {}, types, locs);
  Value size = math::AbsFOp::create(builder, loc, block->getArgument(0));
  Value isLargest = arith::CmpFOp::create(
      builder, loc, arith::CmpFPredicate::OEQ, size, block->getArgument(6));
  attn::YieldOp::create(builder, loc,
                        arith::SelectOp::create(builder, loc, isLargest,
                                                constantF32(builder, loc, 1),
                                                constantF32(builder, loc, 0)));
  return op.getDcaptures()[0];
}

void Differentiation::addThroughNorms() {
  auto inputOf = [](const auto &norm) {
    return norm.first.template getDefiningOp<attn::RowNormOp>().getInput();
  };
  for (auto [number, norm] : llvm::enumerate(norms)) {
    Value input = inputOf(norm);
    bool isLast = llvm::none_of(
        ArrayRef(norms).drop_front(number + 1),
        [&](const auto &later) { return inputOf(later) == input; });
    addThroughNorm({norm.first, norm.second, {}}, isLast);
  }
}

/// Adds to the gradient of x the part that comes through a norm of x. Rounded
/// at last; exactly 0 beyond a length (S-beyond).
void Differentiation::addThroughNorm(const Through &through, bool isLast) {
  auto norm = through.norm.getDefiningOp<attn::RowNormOp>();
  Value x = norm.getInput();
  Value &sum = results[x];
  auto type = cast<RankedTensorType>(gradientType(x));
  if (!isLast)
    type = type.clone(builder.getF32Type());
  attn::LayoutDims dims = attn::getLayoutDims(norm.getLayout());
  SmallVector<unsigned> order(4);
  order[dims.b] = 0;
  order[dims.h] = 1;
  order[dims.s] = 2;
  order[dims.d] = 3;
  AffineMap rows = getRowsMap(builder.getContext());
  auto elements =
      AffineMap::getMultiDimMapWithTargets(4, order, builder.getContext());
  Value lengths = x == fused.getQuery() ? fused.getQLen() : fused.getKLen();
  SmallVector<Value> captured = {x, norm, through.gradient};
  SmallVector<AffineMap> maps = {elements, rows, rows};
  if (Value count = countLargest(norm, lengths)) {
    captured.push_back(count);
    maps.push_back(rows);
  }
  auto add =
      attn::EpilogueOp::create(builder, loc, type, sum, lengths, captured,
                               builder.getAffineMapArrayAttr(maps),
                               builder.getArrayAttr({}), norm.getLayout());
  Type f32 = builder.getF32Type(), i32 = builder.getI32Type();
  SmallVector<Type> types = {f32, i32, i32, i32, i32};
  types.append(captured.size(), f32);
  OpBuilder::InsertionGuard guard(builder);
  Block *block = builder.createBlock(&add.getBody(), {}, types,
                                     SmallVector<Location>(types.size(), loc));
  auto arguments = block->getArguments().drop_front(5);
  Value part = passThrough(
      builder, loc, norm.getKind(), type.getDimSize(dims.d), arguments[0],
      arguments[1], arguments[2], captured.size() > 3 ? arguments[3] : Value());
  attn::YieldOp::create(
      builder, loc,
      arith::AddFOp::create(builder, loc, block->getArgument(0), part));
  sum = add.getOutput();
}

//===----------------------------------------------------------------------===//
// Epilogues
//===----------------------------------------------------------------------===//

/// The epilogue's captures, and scalars that it uses directly where their
/// gradient is asked for.
FailureOr<SmallVector<Captured>> Differentiation::gatherEpilogueCaptures() {
  SmallVector<Captured> all;
  for (auto [index, value, map] :
       llvm::enumerate(epilogue.getCaptures(),
                       epilogue.getMaps().getAsValueRange<AffineMapAttr>())) {
    if (isOutputNorm(value)) {
      // Of the output as it was handed over.
      auto norm = value.getDefiningOp<attn::RowNormOp>();
      auto again = attn::RowNormOp::create(builder, loc, norm.getType(), output,
                                           norm.getKind(), norm.getLayout());
      all.push_back({again, map, true});
      continue;
    }
    if (failed(checkNorm(value)))
      return failure();
    all.push_back({value, map, isWanted(value) || isNorm(value)});
    if ((isWanted(value) || isNorm(value)) &&
        failed(checkMap(epilogue, index, map, "d", /*mayDiffer=*/false)))
      return failure();
  }
  epilogue.getBody().walk([&](Operation *op) {
    for (Value operand : op->getOperands()) {
      bool known = llvm::any_of(
          all, [&](const Captured &c) { return c.value == operand; });
      if (isWanted(operand) && !known)
        all.push_back(
            {operand, AffineMap::get(4, 0, {}, function.getContext()), true});
    }
  });
  return all;
}

/// The gradient of o, or of the captured operand `of`, from o and that of what
/// the epilogue made of it; with what comes `through` norms of o, whose
/// gradients and counts are captured after the others.
LogicalResult
Differentiation::buildEpilogueGradient(Region &region,
                                       ArrayRef<Captured> captured, Value of,
                                       ArrayRef<Through> through) {
  SmallVector<Type> types(2, builder.getF32Type());
  types.append(4, builder.getI32Type());
  for (const Captured &c : captured)
    types.push_back(attn::getElementScalarType(c.value.getType()));
  for (const Through &norm : through)
    types.append(norm.count ? 2 : 1, builder.getF32Type());
  OpBuilder::InsertionGuard guard(builder);
  Block *block = builder.createBlock(&region, {}, types,
                                     SmallVector<Location>(types.size(), loc));
  Tape tape(block, loc);
  auto arguments = block->getArguments();
  Value input = of ? Value() : arguments[0];
  for (auto [c, argument] : llvm::zip(captured, arguments.drop_front(6))) {
    if (!isa<RankedTensorType>(c.value.getType()))
      tape.replace(c.value, argument);
    if (of == c.value)
      input = argument;
  }
  SmallVector<Value> read = {arguments[0]};
  llvm::append_range(read,
                     arguments.slice(2, 4 + epilogue.getCaptures().size()));
  tape.addGradient(tape.copy(epilogue.getBody(), read), arguments[1]);
  FailureOr<Value> gradient = tape.differentiate(input);
  if (failed(gradient))
    return failure();
  ValueRange rows = arguments.drop_front(6 + captured.size());
  for (const Through &norm : through) {
    const auto *place = llvm::find_if(
        captured, [&](const Captured &c) { return c.value == norm.norm; });
    auto op = norm.norm.getDefiningOp<attn::RowNormOp>();
    int64_t width = cast<RankedTensorType>(output.getType()).getShape().back();
    Value part =
        passThrough(tape.builder, loc, op.getKind(), width, arguments[0],
                    arguments[6 + (place - captured.begin())], rows[0],
                    norm.count ? rows[1] : Value());
    rows = rows.drop_front(norm.count ? 2 : 1);
    gradient =
        arith::AddFOp::create(tape.builder, loc, *gradient, part).getResult();
  }
  attn::YieldOp::create(tape.builder, loc, *gradient);
  eraseDead(block);
  return success();
}

/// Makes dO of the gradient of what the epilogue makes, and the gradients of
/// what it captures.
LogicalResult Differentiation::differentiateEpilogue() {
  auto captured = gatherEpilogueCaptures();
  if (failed(captured))
    return failure();
  Value given = addArgument(epilogue.getOutput().getType(),
                            "d" + nameOf(epilogue.getOutput()));
  auto outputType = cast<RankedTensorType>(output.getType());
  auto valueType = cast<RankedTensorType>(fused.getValue().getType());
  // Rounded to what products take.
  SmallVector<Type> types = {outputType.clone(valueType.getElementType())};
  SmallVector<Value> values;
  SmallVector<AffineMap> maps;
  SmallVector<int64_t> of;
  for (auto [index, c] : llvm::enumerate(*captured)) {
    values.push_back(c.value);
    maps.push_back(c.map);
    if (!c.wanted)
      continue;
    of.push_back(index);
    types.push_back(stateGradientType(c, outputType.getShape().back()));
  }
  auto op = attn::EpilogueGradientOp::create(
      builder, loc, types, output, given, fused.getQLen(), values,
      builder.getAffineMapArrayAttr(maps), fused.getLayout(),
      builder.getDenseI64ArrayAttr(of), /*captureGradientsCount=*/of.size());
  if (failed(buildEpilogueGradient(op.getGradient(), *captured, Value())))
    return failure();
  doutput = op.getDinput();
  SmallVector<Through> through;
  for (auto [number, index] : llvm::enumerate(of)) {
    const Captured &c = (*captured)[index];
    Region &region = op.getCaptureGradients()[number];
    if (failed(buildEpilogueGradient(region, *captured, c.value)))
      return failure();
    Value sum = sumCapture(c, op.getDcaptures()[number]);
    if (isOutputNorm(c.value))
      through.push_back({c.value, sum,
                         countLargest(c.value.getDefiningOp<attn::RowNormOp>(),
                                      fused.getQLen())});
    else if (isNorm(c.value))
      norms.emplace_back(c.value, sum);
    else if (failed(addResult(c.value, sum)))
      return failure();
  }
  if (through.empty())
    return success();
  return addThroughOutputNorms(op, *captured, through);
}

/// What changes with a norm of o is known after a pass over the whole row: the
/// gradient of o is computed again, with that.
LogicalResult
Differentiation::addThroughOutputNorms(attn::EpilogueGradientOp first,
                                       ArrayRef<Captured> captured,
                                       ArrayRef<Through> through) {
  SmallVector<Value> values(first.getCaptures());
  SmallVector<Attribute> maps(first.getMaps().getValue());
  auto rows = AffineMapAttr::get(getRowsMap(builder.getContext()));
  for (const Through &norm : through)
    for (Value value : {norm.gradient, norm.count})
      if (value) {
        values.push_back(value);
        maps.push_back(rows);
      }
  auto last = attn::EpilogueGradientOp::create(
      builder, loc, first.getDinput().getType(), first.getInput(),
      first.getDoutput(), first.getQLen(), values, builder.getArrayAttr(maps),
      first.getLayout(), builder.getDenseI64ArrayAttr({}),
      /*captureGradientsCount=*/0);
  doutput = last.getDinput();
  return buildEpilogueGradient(last.getGradient(), captured, Value(), through);
}

/// The forward goes; the function gets its new type and names.
void Differentiation::finish() {
  SmallVector<Value> returned;
  SmallVector<Attribute> resultAttrs;
  for (BlockArgument argument : wanted) {
    returned.push_back(results.lookup(argument));
    resultAttrs.push_back(builder.getDictionaryAttr({builder.getNamedAttr(
        attn::kNameAttr, builder.getStringAttr("d" + nameOf(argument)))}));
  }
  SmallVector<Attribute> attrs;
  for (unsigned k = 0; k < function.getNumArguments(); ++k) {
    NamedAttrList list(function.getArgAttrDict(k));
    list.erase(attn::kGradientAttr);
    attrs.push_back(list.getDictionary(function.getContext()));
  }
  llvm::append_range(attrs, argumentAttrs);
  Operation *terminator = function.front().getTerminator();
  terminator->setOperands(returned);
  if (epilogue)
    epilogue.erase();
  // Norms that it read.
  for (Operation *user : llvm::make_early_inc_range(fused->getUsers()))
    if (isOpTriviallyDead(user))
      user->erase();
  fused.erase();
  function->removeAttr(attn::kDifferentiateAttr);
  function->removeAttr(attn::kDeterministicAttr);
  function.setFunctionType(builder.getFunctionType(
      function.front().getArgumentTypes(), ValueRange(returned).getTypes()));
  function.setArgAttrsAttr(builder.getArrayAttr(attrs));
  function.setResAttrsAttr(builder.getArrayAttr(resultAttrs));
}

LogicalResult Differentiation::run() {
  if (failed(findForward()) || failed(readType()) || failed(findWanted()) ||
      failed(checkCaptures()))
    return failure();
  // Behind all that an epilogue reads.
  builder.setInsertionPoint(function.front().getTerminator());
  captureScale();
  gatherCaptures();
  if (failed(normaliseRows()) || failed(buildBackward()))
    return failure();
  for (BlockArgument argument : wanted)
    if (!results.count(argument))
      return function.emitError()
             << "argument '" << nameOf(argument)
             << "' asks for its gradient, but nothing depends on it";
  finish();
  return success();
}

//===----------------------------------------------------------------------===//
// The pass
//===----------------------------------------------------------------------===//

struct AttnDifferentiate
    : attnc::impl::AttnDifferentiateBase<AttnDifferentiate> {
  void runOnOperation() override {
    func::FuncOp function = getOperation();
    if (!function->hasAttr(attn::kDifferentiateAttr))
      return;
    if (function.isExternal()) {
      function.emitError() << "'" << function.getName()
                           << "' has no body to differentiate";
      return signalPassFailure();
    }
    if (failed(Differentiation(function).run()))
      return signalPassFailure();
    ++numDifferentiated;
  }
};

} // namespace
