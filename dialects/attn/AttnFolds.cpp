//===- AttnFolds.cpp - Folds and canonical forms of the attn ops ----------===//

#include "dialects/attn/Attn.h"

#include "mlir/IR/PatternMatch.h"

using namespace mlir;
using namespace attnc::attn;

/// Whether a region gives back its first argument.
static bool isIdentity(Region &region) {
  return !region.empty() &&
         region.front().getTerminator()->getOperand(0) == region.getArgument(0);
}

/// Through the rewriter, whose work list may hold ops of the region.
static void clearRegion(PatternRewriter &rewriter, Region &region) {
  rewriter.eraseBlock(&region.front());
}

//===----------------------------------------------------------------------===//
// Folds of the single steps
//===----------------------------------------------------------------------===//

OpFoldResult ScoreModOp::fold(FoldAdaptor) {
  return isIdentity(getBody()) ? getLogits() : OpFoldResult();
}

OpFoldResult ActivationOp::fold(FoldAdaptor) {
  return isIdentity(getBody()) ? getLogits() : OpFoldResult();
}

OpFoldResult MaskLogitsOp::fold(FoldAdaptor) {
  return getMasks().empty() ? getLogits() : OpFoldResult();
}

OpFoldResult EpilogueOp::fold(FoldAdaptor) {
  bool same = getInput().getType() == getOutput().getType();
  return same && isIdentity(getBody()) ? getInput() : OpFoldResult();
}

//===----------------------------------------------------------------------===//
// Captures
//===----------------------------------------------------------------------===//

/// Of the captures whose region arguments start at `first`, those to keep.
/// Uses of a repeated capture go to its first occurrence.
static SmallVector<unsigned> findNeededCaptures(PatternRewriter &rewriter,
                                                Region &region, unsigned first,
                                                ValueRange captures,
                                                ArrayAttr maps) {
  SmallVector<unsigned> needed;
  for (unsigned k = 0; k < captures.size(); ++k) {
    BlockArgument argument = region.getArgument(first + k);
    auto *earlier = llvm::find_if(needed, [&](unsigned n) {
      return captures[n] == captures[k] && maps[n] == maps[k];
    });
    if (earlier != needed.end())
      rewriter.replaceAllUsesWith(argument,
                                  region.getArgument(first + *earlier));
    else if (!argument.use_empty())
      needed.push_back(k);
  }
  return needed;
}

/// Drops captures that nothing reads; whether there were any.
static bool dropCaptures(PatternRewriter &rewriter, Operation *op,
                         Region &region, unsigned first,
                         MutableOperandRange captures, ArrayAttr maps,
                         function_ref<void(ArrayAttr)> setMaps) {
  if (captures.empty())
    return false;
  ValueRange values = OperandRange(captures);
  SmallVector<unsigned> needed =
      findNeededCaptures(rewriter, region, first, values, maps);
  if (needed.size() == captures.size())
    return false;
  SmallVector<Value> keptValues;
  SmallVector<Attribute> keptMaps;
  BitVector dropped(region.getNumArguments());
  dropped.set(first, first + captures.size());
  for (unsigned k : needed) {
    keptValues.push_back(values[k]);
    keptMaps.push_back(maps[k]);
    dropped.reset(first + k);
  }
  rewriter.modifyOpInPlace(op, [&] {
    region.front().eraseArguments(dropped);
    captures.assign(keptValues);
    setMaps(rewriter.getArrayAttr(keptMaps));
  });
  return true;
}

/// Region arguments before the captures of a score_mod: s and six positions.
static constexpr unsigned kScorePositions = 7;
/// And of an epilogue, where statistics follow: o and four positions.
static constexpr unsigned kEpiloguePositions = 5;

namespace {

struct DropScoreModCaptures : OpRewritePattern<ScoreModOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(ScoreModOp op,
                                PatternRewriter &rewriter) const override {
    return success(dropCaptures(rewriter, op, op.getBody(), kScorePositions,
                                op.getCapturesMutable(), op.getMaps(),
                                [&](ArrayAttr maps) { op.setMapsAttr(maps); }));
  }
};

struct DropEpilogueCaptures : OpRewritePattern<EpilogueOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(EpilogueOp op,
                                PatternRewriter &rewriter) const override {
    return success(dropCaptures(rewriter, op, op.getBody(),
                                kEpiloguePositions + op.getStats().size(),
                                op.getCapturesMutable(), op.getMaps(),
                                [&](ArrayAttr maps) { op.setMapsAttr(maps); }));
  }
};

//===----------------------------------------------------------------------===//
// attn.fused
//===----------------------------------------------------------------------===//

struct DropFusedCaptures : OpRewritePattern<FusedOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(FusedOp op,
                                PatternRewriter &rewriter) const override {
    bool scores =
        dropCaptures(rewriter, op, op.getScoreMod(), kScorePositions,
                     op.getScoreCapturesMutable(), op.getScoreMaps(),
                     [&](ArrayAttr maps) { op.setScoreMapsAttr(maps); });
    bool outputs =
        dropCaptures(rewriter, op, op.getEpilogue(),
                     kEpiloguePositions + op.getStats().size(),
                     op.getEpilogueCapturesMutable(), op.getEpilogueMaps(),
                     [&](ArrayAttr maps) { op.setEpilogueMapsAttr(maps); });
    return success(scores || outputs);
  }
};

/// An empty region is the identity. Its captures and statistics go with it.
struct DropIdentityRegions : OpRewritePattern<FusedOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(FusedOp op,
                                PatternRewriter &rewriter) const override {
    bool scoreMod = isIdentity(op.getScoreMod());
    bool activation = isIdentity(op.getActivation());
    bool epilogue = isIdentity(op.getEpilogue());
    if (!scoreMod && !activation && !epilogue)
      return failure();
    rewriter.modifyOpInPlace(op, [&] {
      ArrayAttr none = rewriter.getArrayAttr({});
      if (scoreMod) {
        clearRegion(rewriter, op.getScoreMod());
        op.getScoreCapturesMutable().clear();
        op.setScoreMapsAttr(none);
      }
      if (activation)
        clearRegion(rewriter, op.getActivation());
      if (epilogue) {
        clearRegion(rewriter, op.getEpilogue());
        op.getEpilogueCapturesMutable().clear();
        op.setEpilogueMapsAttr(none);
        op.setStatsAttr(none);
      }
    });
    return success();
  }
};

struct DropUnusedStatistics : OpRewritePattern<FusedOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(FusedOp op,
                                PatternRewriter &rewriter) const override {
    if (op.getEpilogue().empty())
      return failure();
    BitVector dropped(op.getEpilogue().getNumArguments());
    SmallVector<Attribute> kept;
    for (auto [index, stat] : llvm::enumerate(op.getStats())) {
      unsigned argument = kEpiloguePositions + index;
      if (op.getEpilogue().getArgument(argument).use_empty())
        dropped.set(argument);
      else
        kept.push_back(stat);
    }
    if (dropped.none())
      return failure();
    rewriter.modifyOpInPlace(op, [&] {
      op.getEpilogue().front().eraseArguments(dropped);
      op.setStatsAttr(rewriter.getArrayAttr(kept));
    });
    return success();
  }
};

/// Whether two masks are the same description.
bool isSameMask(Value a, Value b) {
  return a == b || OperationEquivalence::isEquivalentTo(
                       a.getDefiningOp(), b.getDefiningOp(),
                       OperationEquivalence::IgnoreLocations);
}

/// Intersecting a mask with itself changes nothing.
template <typename Op> struct DropRepeatedMasks : OpRewritePattern<Op> {
  using OpRewritePattern<Op>::OpRewritePattern;
  LogicalResult matchAndRewrite(Op op,
                                PatternRewriter &rewriter) const override {
    SmallVector<Value> kept;
    for (Value mask : op.getMasks())
      if (llvm::none_of(kept, [&](Value k) { return isSameMask(k, mask); }))
        kept.push_back(mask);
    if (kept.size() == op.getMasks().size())
      return failure();
    rewriter.modifyOpInPlace(op, [&] { op.getMasksMutable().assign(kept); });
    return success();
  }
};

struct DropUnusedLse : OpRewritePattern<FusedOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(FusedOp op,
                                PatternRewriter &rewriter) const override {
    if (!op.getLse() || !op.getLse().use_empty())
      return failure();
    auto without = FusedOp::create(rewriter, op.getLoc(),
                                   TypeRange(op.getOutput().getType()),
                                   op->getOperands(), op.getProperties(),
                                   llvm::to_vector(op->getDiscardableAttrs()));
    for (auto [to, from] :
         llvm::zip_equal(without->getRegions(), op->getRegions()))
      rewriter.inlineRegionBefore(from, to, to.end());
    rewriter.replaceAllUsesWith(op.getOutput(), without.getOutput());
    rewriter.eraseOp(op);
    return success();
  }
};

} // namespace

void ScoreModOp::getCanonicalizationPatterns(RewritePatternSet &patterns,
                                             MLIRContext *context) {
  patterns.add<DropScoreModCaptures>(context);
}

void EpilogueOp::getCanonicalizationPatterns(RewritePatternSet &patterns,
                                             MLIRContext *context) {
  patterns.add<DropEpilogueCaptures>(context);
}

void MaskLogitsOp::getCanonicalizationPatterns(RewritePatternSet &patterns,
                                               MLIRContext *context) {
  patterns.add<DropRepeatedMasks<MaskLogitsOp>>(context);
}

void FusedOp::getCanonicalizationPatterns(RewritePatternSet &patterns,
                                          MLIRContext *context) {
  patterns.add<DropFusedCaptures, DropIdentityRegions, DropUnusedStatistics,
               DropRepeatedMasks<FusedOp>, DropUnusedLse>(context);
}
