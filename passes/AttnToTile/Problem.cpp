//===- Problem.cpp - What a schedule is chosen for ------------------------===//
//
// Gathers what the cost model goes by from an op: sizes that its types state,
// and what its loop holds beside the products. Other parts of the compiler ask
// for it, too.
//
//===----------------------------------------------------------------------===//

#include "passes/AttnKernels.h"
#include "passes/ScheduleChoice.h"

using namespace mlir;
using namespace attnc;

/// What the loop over keys of a fused op holds besides its products.
static void countLoopValues(attn::FusedOp op, tile::ScheduleProblem &problem) {
  problem.unevenKeys = !op.getMasks().empty();
  // A softmax carries a maximum and a sum.
  problem.rowReductions = op.getNormalize() == attn::Normalize::Softmax ? 2
                          : op.getNormalize() == attn::Normalize::L1    ? 1
                                                                        : 0;
  auto count = [&](Value value, AffineMap map) {
    if (!isa<RankedTensorType>(value.getType()) || !map.isFunctionOfDim(3))
      return;
    if (map.isFunctionOfDim(2))
      ++problem.positionValues;
    else
      ++problem.keyValues;
  };
  for (auto [value, map] :
       llvm::zip_equal(op.getScoreCaptures(), op.getScoreMaps()))
    count(value, cast<AffineMapAttr>(map).getValue());
  for (Value mask : op.getMasks())
    for (const attn::Capture &capture :
         cast<attn::MaskOpInterface>(mask.getDefiningOp()).getMaskCaptures())
      count(capture.value, capture.map);
  // Functions of the position hold distances: a few numbers a key.
  Region &scores = op.getScoreMod();
  constexpr unsigned kRowArgument = 3, kColumnArgument = 4;
  if (!scores.empty() && (!scores.getArgument(kRowArgument).use_empty() ||
                          !scores.getArgument(kColumnArgument).use_empty()))
    problem.keyValues += 2;
}

/// The same for gradients: queries pass in one kernel, keys in another. What
/// belongs to the rows that stay is read once.
static void countPairValues(attn::BackwardOp op,
                            tile::ScheduleProblem &problem) {
  unsigned passing = problem.queriesStay ? 3 : 2;
  auto count = [&](Value value, AffineMap map) {
    if (!isa<RankedTensorType>(value.getType()))
      return;
    if (attn::getCaptureKind(map) == attn::CaptureKind::Positions)
      ++problem.positionValues;
    else if (map.isFunctionOfDim(passing))
      ++problem.keyValues;
  };
  for (auto [value, map] : llvm::zip_equal(
           op.getCaptures(), op.getMaps().getAsValueRange<AffineMapAttr>()))
    count(value, map);
  for (Value mask : op.getMasks())
    for (const attn::Capture &capture :
         cast<attn::MaskOpInterface>(mask.getDefiningOp()).getMaskCaptures())
      count(capture.value, capture.map);
}

/// What the gradients' regions need beside weight and logit gradient: positions
/// and, where queries stay, gradients that are summed over keys.
static void countRegions(attn::BackwardOp op, tile::ScheduleProblem &problem) {
  constexpr unsigned kRow = 3, kColumn = 4;
  auto count = [&](Region &region, unsigned tiles) {
    unsigned row = tiles - 1 + kRow, column = tiles - 1 + kColumn;
    problem.positions |= !region.getArgument(row).use_empty() ||
                         !region.getArgument(column).use_empty();
  };
  count(op.getWeight(), 1);
  count(op.getGradient(), 3);
  Block &gradient = op.getGradient().front();
  problem.logits =
      !gradient.getArgument(0).use_empty() &&
      llvm::any_of(gradient.without_terminator(), [](Operation &inner) {
        return !isa<arith::ArithDialect>(inner.getDialect());
      });
  if (!problem.queriesStay)
    return;
  for (auto [number, index] : llvm::enumerate(op.getOf())) {
    AffineMap map = cast<AffineMapAttr>(op.getMaps()[index]).getValue();
    Region &region = op.getCaptureGradients()[number];
    if (attn::getCaptureKind(map) != attn::CaptureKind::Queries ||
        op.getDcaptures()[number].use_empty())
      continue;
    count(region, 3);
    problem.summed += !OperationEquivalence::isRegionEquivalentTo(
        &region, &op.getGradient(), OperationEquivalence::IgnoreLocations);
  }
}

tile::ScheduleProblem attnc::getScheduleProblem(Operation *op, bool anyLayout,
                                                bool queriesStay) {
  auto fused = dyn_cast<attn::FusedOp>(op);
  Value query = fused ? fused.getQuery() : op->getOperand(0);
  Value value = fused ? fused.getValue() : query;
  bool gradients = isa<attn::BackwardOp, attn::RowSumsOp>(op);
  if (gradients)
    value = op->getOperand(2);
  auto type = cast<RankedTensorType>(query.getType());
  tile::ScheduleProblem problem = {
      type.getShape().back(),
      cast<RankedTensorType>(value.getType()).getShape().back(),
      type.getElementType()};
  // A row's products take as many registers as the sums of a block.
  problem.gradients = gradients || isa<attn::RowDotOp>(op);
  problem.queriesStay = queriesStay || isa<attn::RowSumsOp>(op);
  if (fused) {
    countLoopValues(fused, problem);
    int64_t dim = attn::getLayoutDims(fused.getLayout()).h;
    auto key = cast<RankedTensorType>(fused.getKey().getType());
    problem.hasGroups = type.isDynamicDim(dim) || key.isDynamicDim(dim) ||
                        type.getDimSize(dim) != key.getDimSize(dim);
  }
  if (auto backward = dyn_cast<attn::BackwardOp>(op)) {
    countPairValues(backward, problem);
    problem.oneKernel = !queriesStay && mayUseOneKernel(backward);
    problem.unevenKeys = !backward.getMasks().empty();
    countRegions(backward, problem);
  }
  // Dense rows that are no multiple of 16 bytes are no operands of bulk copies.
  int64_t bits = problem.elementType.getIntOrFloatBitWidth();
  problem.cooperative = anyLayout || problem.headDim * bits % 128 ||
                        problem.valueHeadDim * bits % 128;
  return problem;
}

// Statistics of a row of the output need all of its columns.
bool attnc::canSplitKeys(attn::FusedOp op) { return op.getStats().empty(); }

bool attnc::isScheduleChoice(StringRef text) {
  return text.empty() || text == tile::kFewQueries || text == tile::kFewItems;
}

tile::ScheduleAttr attnc::chooseScheduleOf(Operation *op, StringRef target,
                                           bool anyLayout, StringRef choice) {
  if (auto own = op->getAttrOfType<tile::ScheduleAttr>(kScheduleAttr))
    return own;
  tile::ScheduleProblem problem = getScheduleProblem(op, anyLayout);
  auto fused = dyn_cast<attn::FusedOp>(op);
  if (choice == tile::kFewQueries && fused && canSplitKeys(fused))
    return tile::chooseSplitSchedule(op->getContext(), target, problem);
  if (choice == tile::kFewItems && fused)
    return tile::chooseFewItemsSchedule(op->getContext(), target, problem);
  return tile::chooseSchedule(op->getContext(), target, problem);
}
