//===- Attention.cpp - Gradients of the attention itself ------------------===//
//
// What follows from o = sum_j p_j v_j is written down here once: the regions of
// attn.backward, which make the weight of a pair again and its gradient.
//
//===----------------------------------------------------------------------===//

#include "passes/AttnDifferentiate/Differentiation.h"

#include <limits>

using namespace mlir;
using namespace attnc;
using namespace attnc::gradients;

//===----------------------------------------------------------------------===//
// What regions capture
//===----------------------------------------------------------------------===//

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
// Rows
//===----------------------------------------------------------------------===//

/// The type of one f32 for each row of the queries.
RankedTensorType gradients::getStatType(attn::FusedOp op) {
  auto query = cast<RankedTensorType>(op.getQuery().getType());
  attn::LayoutDims dims = attn::getLayoutDims(op.getLayout());
  ArrayRef<int64_t> shape = query.getShape();
  return RankedTensorType::get({shape[dims.b], shape[dims.h], shape[dims.s]},
                               Float32Type::get(op.getContext()));
}

Value Differentiation::addArgument(Type type, const std::string &name) {
  argumentAttrs.push_back(builder.getDictionaryAttr(
      {builder.getNamedAttr(attn::kNameAttr, builder.getStringAttr(name))}));
  return function.front().addArgument(type, loc);
}

/// Adds the arguments that the forward hands over, and computes what the
/// normalisation needs of each row.
LogicalResult Differentiation::normaliseRows() {
  Type stat = getStatType(fused);
  Type outputType = fused.getOutput().getType();
  std::string output = nameOf(fused.getOutput());
  AffineMap rows = getRowsMap(function.getContext());
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
// The op
//===----------------------------------------------------------------------===//

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
      /*capture_gradientsCount=*/of.size());
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
