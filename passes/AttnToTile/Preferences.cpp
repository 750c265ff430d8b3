//===- Preferences.cpp - Calls for which another program is faster --------===//
//
// Sizes are known when a program is called: the launch plan itself predicts the
// clocks of other schedules, and says which of them to take instead.
//
//===----------------------------------------------------------------------===//

#include "passes/AttnToTile/ProgramBuilder.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::programs;

//===----------------------------------------------------------------------===//
// Numbers of a launch plan
//===----------------------------------------------------------------------===//

namespace attnc::programs {

/// A number of a launch plan; what predictClocks computes with.
struct PlanNumber {
  ImplicitLocOpBuilder *b;
  Value value;

  PlanNumber of(int64_t number) const {
    return {b, arith::ConstantIndexOp::create(*b, number)};
  }
  template <typename Op> PlanNumber with(PlanNumber other) const {
    return {b, Op::create(*b, value, other.value)};
  }
  Value isLess(PlanNumber other) const {
    return arith::CmpIOp::create(*b, arith::CmpIPredicate::ult, value,
                                 other.value);
  }
};
static PlanNumber operator+(PlanNumber x, PlanNumber y) {
  return x.with<arith::AddIOp>(y);
}
static PlanNumber operator+(PlanNumber x, int64_t y) { return x + x.of(y); }
static PlanNumber operator*(PlanNumber x, PlanNumber y) {
  return x.with<arith::MulIOp>(y);
}
static PlanNumber operator*(PlanNumber x, int64_t y) { return x * x.of(y); }
static PlanNumber ceilDiv(PlanNumber x, int64_t y) {
  return x.with<arith::CeilDivUIOp>(x.of(y));
}
static PlanNumber ceilDiv(PlanNumber x, PlanNumber y) {
  return x.with<arith::CeilDivUIOp>(y);
}
static PlanNumber larger(PlanNumber x, PlanNumber y) {
  return x.with<arith::MaxUIOp>(y);
}
static PlanNumber smaller(PlanNumber x, PlanNumber y) {
  return x.with<arith::MinUIOp>(y);
}
static PlanNumber ifAtMost(PlanNumber x, int64_t most, int64_t then,
                           int64_t other) {
  Value any = x.isLess(x.of(most + 1));
  return {x.b, arith::SelectOp::create(*x.b, any, x.of(then).value,
                                       x.of(other).value)};
}

} // namespace attnc::programs

//===----------------------------------------------------------------------===//
// Predictions
//===----------------------------------------------------------------------===//

/// Whether an op stands in a program of gradients, which has as many queries as
/// keys and much else to compile.
static bool hasGradients(attn::FusedOp op) {
  return llvm::any_of(*op->getBlock(), [](Operation &other) {
    return isa<attn::BackwardOp, attn::RowSumsOp, attn::RowDotOp>(other);
  });
}

/// How many keys the block of rows at `row` attends. Masks whose range depends
/// on values of the call are taken to leave all of them.
Value ProgramBuilder::countKeys(attn::FusedOp op, tile::ScheduleAttr schedule,
                                Value row, const ProblemSizes &sizes) {
  Location loc = b.getLoc();
  Value zero = arith::ConstantIndexOp::create(b, 0);
  Value count = arith::ConstantIndexOp::create(b, schedule.getBlockM());
  Value keys = sizes.keys.size;
  attn::KeyRange range = {zero, zero, keys, keys};
  attn::QueryRows rows = {zero, zero, row, count, sizes.rows.size, keys};
  for (Value mask : op.getMasks())
    if (mask.getDefiningOp()->getNumOperands() == 0)
      range = attn::intersect(b, loc, range,
                              cast<attn::MaskOpInterface>(mask.getDefiningOp())
                                  .buildKeyRange(b, loc, rows));
  Value left = arith::SubIOp::create(b, range.hi, range.lo);
  return arith::MaxSIOp::create(b, left, zero);
}

/// The clocks of a call with a schedule, of `ranges` each if keys are split.
PlanNumber ProgramBuilder::predict(attn::FusedOp op,
                                   tile::ScheduleAttr schedule,
                                   const ProblemSizes &sizes, Value ranges) {
  auto number = [&](Value value) { return PlanNumber{&b, value}; };
  PlanNumber items = number(countItems(schedule, sizes));
  PlanNumber keys = number(sizes.keys.size), longest = keys, average = keys;
  if (!op.getMasks().empty()) {
    // The first block, one in the middle and the last.
    Value m = arith::ConstantIndexOp::create(b, schedule.getBlockM());
    Value one = arith::ConstantIndexOp::create(b, 1);
    Value two = arith::ConstantIndexOp::create(b, 2);
    Value rows = arith::MaxUIOp::create(b, sizes.rows.size, one);
    Value last =
        arith::DivUIOp::create(b, arith::SubIOp::create(b, rows, one), m);
    Value zero = arith::ConstantIndexOp::create(b, 0);
    Value middle = arith::DivUIOp::create(b, last, two);
    SmallVector<PlanNumber> counts;
    for (Value block : {zero, middle, last}) {
      Value row = arith::MulIOp::create(b, block, m);
      counts.push_back(number(countKeys(op, schedule, row, sizes)));
    }
    longest = larger(larger(counts[0], counts[1]), counts[2]);
    average = ceilDiv(counts[0] + counts[1] * 4 + counts[2], 6);
  }
  tile::ScheduleProblem problem = getScheduleProblem(op, anyLayout);
  tile::ItemClocks clocks = tile::getItemClocks(problem, schedule);
  if (!ranges)
    return tile::predictClocks(clocks, items, longest, average);
  PlanNumber count = number(ranges);
  PlanNumber rows = number(sizes.rows.size) * number(sizes.heads.size) *
                    number(sizes.sequences.size);
  int64_t perRow =
      llvm::divideCeil(problem.valueHeadDim, 64) *
      (problem.rowReductions ? tile::kWeighClocks : tile::kAddClocks);
  return tile::predictClocks(clocks, items * count, ceilDiv(longest, count),
                             ceilDiv(average, count)) +
         rows * perRow + tile::kCombineClocks;
}

/// Whether `time` is worth a program of its own.
static Value isFaster(PlanNumber time, PlanNumber than) {
  Value byShare = (time * 11).isLess(than * 10);
  Value byClocks = (time + tile::kLeastSavedClocks).isLess(than);
  return arith::AndIOp::create(*time.b, byShare, byClocks);
}

/// Says for which calls the cost model would take another schedule: keys split
/// among items, or less tall blocks.
void ProgramBuilder::preferOthers(attn::FusedOp op, const ProblemSizes &sizes) {
  bool isOwn = op->hasAttr(kScheduleAttr) && !op->hasAttr(kSteppedAttr);
  if (override || isOwn || !choice.empty() || target != "sm_90a" ||
      hasGradients(op))
    return;
  tile::ScheduleProblem problem = getScheduleProblem(op, anyLayout);
  auto few = tile::chooseFewItemsSchedule(b.getContext(), target, problem);
  PlanNumber taller = predict(op, scheduleFor(op), sizes);
  PlanNumber shorter = predict(op, few, sizes);
  if (canSplitKeys(op)) {
    auto split = tile::chooseSplitSchedule(b.getContext(), target, problem);
    Value ranges = countRanges(split, sizes);
    Value one = arith::ConstantIndexOp::create(b, 1);
    PlanNumber ofRanges =
        predict(op, split, sizes, arith::MaxUIOp::create(b, ranges, one));
    Value pays = isFaster(ofRanges, smaller(taller, shorter));
    Value several =
        arith::CmpIOp::create(b, arith::CmpIPredicate::ugt, ranges, one);
    Value waits = haveFewQueries(sizes);
    tile::PreferOp::create(
        b, tile::kFewQueries,
        arith::AndIOp::create(b, arith::OrIOp::create(b, waits, pays),
                              several));
  }
  tile::PreferOp::create(b, tile::kFewItems, isFaster(shorter, taller));
}
