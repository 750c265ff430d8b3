//===- AttnFuse.cpp - The steps of an attention become one op -------------===//

#include "dialects/attn/Attn.h"
#include "passes/Passes.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/IRMapping.h"

namespace attnc {
#define GEN_PASS_DEF_ATTNFUSE
#include "passes/Passes.h.inc"
} // namespace attnc

using namespace mlir;
using namespace attnc;

namespace {

//===----------------------------------------------------------------------===//
// The chain of steps behind one attn.apply
//===----------------------------------------------------------------------===//

/// What attn.fused is made of.
struct Chain {
  attn::ScoresOp scores;
  /// attn.bias and attn.score_mod, first to last.
  SmallVector<Operation *> logitSteps;
  SmallVector<Value> masks;
  /// None for the identity.
  attn::ActivationOp activation;
  attn::SoftmaxOp softmax;
  SmallVector<attn::LseOp> lses;
  attn::ApplyOp apply;
  attn::EpilogueOp epilogue;
};

/// Says of `op` that it is left over, and why.
InFlightDiagnostic cannotFuse(Operation *op) {
  return op->emitOpError(
      "makes an n x n intermediate that cannot be fused because ");
}

LogicalResult collectSoftmax(Chain &chain, Value &logits) {
  for (Operation *user : chain.softmax.getLogits().getUsers())
    if (auto lse = dyn_cast<attn::LseOp>(user))
      chain.lses.push_back(lse);
  logits = chain.softmax.getLogits();
  if (chain.apply.getNormalize() != attn::Normalize::None)
    return cannotFuse(chain.apply)
           << "softmax weights are normalised already: drop 'normalize "
           << attn::stringifyNormalize(chain.apply.getNormalize()) << "'";
  return success();
}

/// From the logits up to the scores.
LogicalResult collectLogits(Chain &chain, Value logits) {
  while (true) {
    Operation *def = logits.getDefiningOp();
    if (auto scores = dyn_cast_or_null<attn::ScoresOp>(def)) {
      chain.scores = scores;
      break;
    }
    if (auto mask = dyn_cast_or_null<attn::MaskLogitsOp>(def)) {
      // S-mask-zero: where in the chain a mask stands makes no difference.
      llvm::append_range(chain.masks, mask.getMasks());
      logits = mask.getLogits();
    } else if (isa_and_nonnull<attn::BiasOp, attn::ScoreModOp>(def)) {
      chain.logitSteps.push_back(def);
      logits = def->getOperand(0);
    } else if (def) {
      return cannotFuse(chain.apply)
             << "its logits come from '" << def->getName()
             << "'; expected attn.scores, attn.bias, attn.score_mod or "
                "attn.mask";
    } else {
      return cannotFuse(chain.apply)
             << "its logits are an argument of the function; start from "
                "attn.scores";
    }
  }
  std::reverse(chain.logitSteps.begin(), chain.logitSteps.end());
  return success();
}

/// Where an epilogue stays on its own, what it reads of a row is an operand
/// that it captures: then it is differentiated like others. The arguments of
/// statistics come before those of captured operands, as these do then.
void captureStats(attn::EpilogueOp epilogue) {
  if (epilogue.getStats().empty())
    return;
  OpBuilder builder(epilogue);
  Value input = epilogue.getInput();
  auto type = cast<RankedTensorType>(input.getType());
  attn::LayoutDims dims = attn::getLayoutDims(epilogue.getLayout());
  auto rows =
      RankedTensorType::get({type.getDimSize(dims.b), type.getDimSize(dims.h),
                             type.getDimSize(dims.s)},
                            builder.getF32Type());
  SmallVector<Value> captures;
  for (auto stat : epilogue.getStats().getAsRange<attn::RowStatAttr>())
    captures.push_back(attn::RowNormOp::create(
        builder, epilogue.getLoc(), rows, input,
        attn::getRowNorm(stat.getValue()), epilogue.getLayout()));
  auto map = AffineMapAttr::get(
      AffineMap::getMultiDimMapWithTargets(4, {0, 1, 2}, builder.getContext()));
  SmallVector<Attribute> maps(captures.size(), map);
  llvm::append_range(captures, epilogue.getCaptures());
  llvm::append_range(maps, epilogue.getMaps());
  epilogue.getCapturesMutable().assign(captures);
  epilogue.setMapsAttr(builder.getArrayAttr(maps));
  epilogue.setStatsAttr(builder.getArrayAttr({}));
}

LogicalResult collectEpilogue(Chain &chain) {
  Value output = chain.apply.getOutput();
  for (Operation *user : output.getUsers())
    if (auto epilogue = dyn_cast<attn::EpilogueOp>(user))
      if (epilogue.getInput() == output)
        chain.epilogue = epilogue;
  if (!chain.epilogue)
    return success();
  if (chain.epilogue.getLayout() != chain.apply.getLayout())
    return chain.epilogue.emitOpError()
           << "cannot be fused because its layout is "
           << attn::stringifyLayout(chain.epilogue.getLayout())
           << " and that of attn.apply "
           << attn::stringifyLayout(chain.apply.getLayout());
  // Who returns both asks for gradients, which read what the epilogue reads: it
  // stays on its own, and reads the output as it is stored.
  if (!output.hasOneUse()) {
    if (Value lengths = chain.scores.getQLen())
      chain.epilogue.getQLenMutable().assign(lengths);
    chain.epilogue = {};
  }
  return success();
}

/// The fused op stands where the last step stood.
Operation *lastStep(Chain &chain) {
  if (chain.epilogue)
    return chain.epilogue;
  return chain.apply;
}

/// Its second result does not exist before.
LogicalResult checkLseUses(Chain &chain) {
  Operation *last = lastStep(chain);
  for (attn::LseOp lse : chain.lses)
    for (Operation *user : lse->getUsers())
      if (user == last || user->isBeforeInBlock(last))
        return lse.emitOpError()
               << "cannot be fused because '" << user->getName()
               << "' uses it before the attention is complete";
  return success();
}

FailureOr<Chain> collectChain(attn::ApplyOp apply) {
  Chain chain;
  chain.apply = apply;
  Value logits = apply.getWeights();
  if (auto mask = logits.getDefiningOp<attn::MaskLogitsOp>()) {
    llvm::append_range(chain.masks, mask.getMasks());
    logits = mask.getLogits();
  }
  if (auto softmax = logits.getDefiningOp<attn::SoftmaxOp>()) {
    chain.softmax = softmax;
    // Masking after the division is another function.
    if (!chain.masks.empty())
      return cannotFuse(softmax)
             << "attn.mask follows it; mask the logits before attn.softmax";
    if (failed(collectSoftmax(chain, logits)))
      return failure();
  } else if (auto activation = logits.getDefiningOp<attn::ActivationOp>()) {
    chain.activation = activation;
    logits = activation.getLogits();
  }
  if (failed(collectLogits(chain, logits)) || failed(collectEpilogue(chain)))
    return failure();
  if (chain.scores.getLayout() != apply.getLayout())
    return cannotFuse(chain.scores)
           << "its layout is "
           << attn::stringifyLayout(chain.scores.getLayout())
           << " and that of attn.apply "
           << attn::stringifyLayout(apply.getLayout());
  if (failed(checkLseUses(chain)))
    return failure();
  return chain;
}

//===----------------------------------------------------------------------===//
// The fused op
//===----------------------------------------------------------------------===//

/// Inlines the one block of `from` at the builder; what it yields.
Value inlineBody(OpBuilder &builder, Region &from, ValueRange arguments) {
  IRMapping mapping;
  mapping.map(from.getArguments(), arguments);
  for (Operation &op : from.front().without_terminator())
    builder.clone(op, mapping);
  return mapping.lookupOrDefault(from.front().getTerminator()->getOperand(0));
}

/// The operands that all steps on the logits capture, in their order.
struct ScoreCaptures {
  SmallVector<Value> values;
  SmallVector<Attribute> maps;
};

ScoreCaptures gatherCaptures(const Chain &chain) {
  ScoreCaptures captures;
  for (Operation *step : chain.logitSteps) {
    if (auto bias = dyn_cast<attn::BiasOp>(step)) {
      captures.values.push_back(bias.getBias());
      captures.maps.push_back(bias.getMapAttr());
    } else {
      auto mod = cast<attn::ScoreModOp>(step);
      llvm::append_range(captures.values, mod.getCaptures());
      llvm::append_range(captures.maps, mod.getMaps());
    }
  }
  return captures;
}

/// One region that does all steps on the logits, one after the other.
void buildScoreMod(OpBuilder &builder, Chain &chain,
                   const ScoreCaptures &captures, Region &region) {
  if (chain.logitSteps.empty())
    return;
  OpBuilder::InsertionGuard guard(builder);
  Location loc = chain.scores.getLoc();
  SmallVector<Type> types = {builder.getF32Type()};
  types.append(6, builder.getI32Type());
  for (Value value : captures.values)
    types.push_back(attn::getElementScalarType(value.getType()));
  Block *block = builder.createBlock(&region, {}, types,
                                     SmallVector<Location>(types.size(), loc));
  Value x = block->getArgument(0);
  ValueRange positions = block->getArguments().slice(1, 6);
  ValueRange scalars = block->getArguments().drop_front(7);
  for (Operation *step : chain.logitSteps) {
    if (isa<attn::BiasOp>(step)) {
      x = arith::AddFOp::create(builder, step->getLoc(), x, scalars.front());
      scalars = scalars.drop_front();
      continue;
    }
    auto mod = cast<attn::ScoreModOp>(step);
    SmallVector<Value> arguments = {x};
    llvm::append_range(arguments, positions);
    size_t count = mod.getCaptures().size();
    llvm::append_range(arguments, scalars.take_front(count));
    scalars = scalars.drop_front(count);
    x = inlineBody(builder, mod.getBody(), arguments);
  }
  attn::YieldOp::create(builder, loc, x);
}

attn::FusedOp buildFused(OpBuilder &builder, Chain &chain) {
  ScoreCaptures captures = gatherCaptures(chain);
  Type lseType = chain.lses.empty() ? Type() : chain.lses[0].getLse().getType();
  attn::EpilogueOp epilogue = chain.epilogue;
  Type output = epilogue ? epilogue.getOutput().getType()
                         : chain.apply.getOutput().getType();
  attn::Normalize normalize =
      chain.softmax ? attn::Normalize::Softmax : chain.apply.getNormalize();
  auto fused = attn::FusedOp::create(
      builder, chain.apply.getLoc(), output, lseType, chain.scores.getQuery(),
      chain.scores.getKey(), chain.apply.getValue(), chain.scores.getScale(),
      chain.scores.getQLen(), chain.scores.getKLen(), captures.values,
      chain.masks, epilogue ? epilogue.getCaptures() : ValueRange(),
      builder.getArrayAttr(captures.maps),
      epilogue ? epilogue.getMaps() : builder.getArrayAttr({}),
      epilogue ? epilogue.getStats() : builder.getArrayAttr({}), normalize,
      chain.apply.getLayout());
  // The schedule and whatever else a front end hung on the product.
  fused->setDiscardableAttrs(chain.apply->getDiscardableAttrDictionary());
  buildScoreMod(builder, chain, captures, fused.getScoreMod());
  if (chain.activation)
    builder.cloneRegionBefore(chain.activation.getBody(), fused.getActivation(),
                              fused.getActivation().end());
  if (epilogue)
    builder.cloneRegionBefore(epilogue.getBody(), fused.getEpilogue(),
                              fused.getEpilogue().end());
  return fused;
}

void replaceChain(Chain &chain, attn::FusedOp fused) {
  for (attn::LseOp lse : chain.lses) {
    lse.getLse().replaceAllUsesWith(fused.getLse());
    lse.erase();
  }
  if (chain.epilogue) {
    chain.epilogue.getOutput().replaceAllUsesWith(fused.getOutput());
    chain.epilogue.erase();
  } else {
    chain.apply.getOutput().replaceAllUsesWith(fused.getOutput());
  }
  chain.apply.erase();
}

bool isStep(Operation *op) {
  return isa<attn::ScoresOp, attn::BiasOp, attn::ScoreModOp, attn::MaskLogitsOp,
             attn::ActivationOp, attn::SoftmaxOp, attn::LseOp, attn::ApplyOp,
             attn::EpilogueOp>(op);
}

//===----------------------------------------------------------------------===//
// The pass
//===----------------------------------------------------------------------===//

struct AttnFuse : attnc::impl::AttnFuseBase<AttnFuse> {
  void runOnOperation() override;
  LogicalResult fuseIn(func::FuncOp function);
  LogicalResult checkNothingLeft(func::FuncOp function);
};

LogicalResult AttnFuse::fuseIn(func::FuncOp function) {
  auto applies = llvm::to_vector(function.getOps<attn::ApplyOp>());
  for (attn::ApplyOp apply : applies) {
    FailureOr<Chain> chain = collectChain(apply);
    if (failed(chain))
      return failure();
    OpBuilder builder(lastStep(*chain));
    replaceChain(*chain, buildFused(builder, *chain));
    ++numFused;
  }
  for (auto epilogue : function.getOps<attn::EpilogueOp>())
    captureStats(epilogue);
  return checkNothingLeft(function);
}

/// A step without users goes; one with users would need an n x n value.
LogicalResult AttnFuse::checkNothingLeft(func::FuncOp function) {
  auto steps = llvm::to_vector(llvm::make_filter_range(
      llvm::make_pointer_range(function.getOps()), isStep));
  for (Operation *step : llvm::reverse(steps)) {
    if (step->use_empty()) {
      step->erase();
      continue;
    }
    if (isa<attn::EpilogueOp>(step) &&
        step->getOperand(0).getDefiningOp<attn::FusedOp>())
      continue;
    if (isa<attn::EpilogueOp>(step))
      return step->emitOpError("cannot be fused because its input is not the "
                               "result of an attn.apply");
    if (isa<attn::LseOp>(step))
      return cannotFuse(step)
             << "no attn.softmax that an attn.apply uses has these logits";
    return cannotFuse(step) << "'" << (*step->user_begin())->getName()
                            << "' uses it; only attn.apply makes weights into "
                               "an output";
  }
  return success();
}

void AttnFuse::runOnOperation() {
  if (failed(fuseIn(getOperation())))
    signalPassFailure();
}

} // namespace
