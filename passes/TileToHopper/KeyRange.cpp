//===- KeyRange.cpp - Which blocks of keys a loop visits ------------------===//
//
// The producer copies the blocks that any row of the item needs; a consumer
// reads those that its own rows need, gives the others back, and masks where it
// must.
//
//===----------------------------------------------------------------------===//

#include "passes/TileToHopper/Scheduler.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::scheduling;

/// for_keys begins at a multiple of its step, and is empty where lo >= hi.
Scheduler::Range Scheduler::getRange(Value lo, Value fullLo, Value fullHi,
                                     Value hi) {
  Value step = constant(loop.getStep());
  APInt known;
  if (matchPattern(lo, m_ConstantInt(&known)) &&
      known.getSExtValue() % static_cast<int64_t>(loop.getStep()) == 0)
    return {lo, hi, step, fullLo, fullHi};
  Value begin = arith::MulIOp::create(
      b, loc, arith::DivUIOp::create(b, loc, lo, step), step);
  Value any = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::slt, lo, hi);
  return {begin, arith::SelectOp::create(b, loc, any, hi, begin), step, fullLo,
          fullHi};
}

/// The blocks that are copied for an item: all that some thread block of the
/// cluster needs, so that all of them walk through the same ones.
Scheduler::Range Scheduler::getItemRange(Role &role) {
  if (cluster > 1 && dependsOnLast({loop.getLo(), loop.getHi()}))
    return getClusterRange(role);
  return getRange(
      role.map.lookup(loop.getLo()), role.map.lookup(loop.getFullLo()),
      role.map.lookup(loop.getFullHi()), role.map.lookup(loop.getHi()));
}

/// First and last key of a consumer's rows, and between which no mask applies.
SmallVector<Value> Scheduler::getOwnBounds(Role &role) {
  if (loop.getRows().empty()) {
    // All rows of the item have the same. There may be no such item: of a
    // cluster, some thread block may have none left.
    Value count = role.map.lookup(items.getCounts().back());
    Value last = role.map.lookup(items.getBody().front().getArguments().back());
    Value any =
        arith::CmpIOp::create(b, loc, arith::CmpIPredicate::slt, last, count);
    Value lo = role.map.lookup(loop.getLo()),
          hi = role.map.lookup(loop.getHi());
    return {lo, role.map.lookup(loop.getFullLo()),
            role.map.lookup(loop.getFullHi()),
            arith::SelectOp::create(b, loc, any, hi, lo)};
  }
  Region &rows = loop.getRows().front();
  IRMapping map = role.map;
  map.map(rows.getArgument(0), firstRow);
  map.map(rows.getArgument(1), constant(hopper::kWgmmaRows));
  for (Operation &op : rows.front().without_terminator())
    b.clone(op, map);
  return llvm::map_to_vector(
      rows.front().getTerminator()->getOperands(),
      [&](Value value) { return map.lookupOrDefault(value); });
}

/// The blocks that this consumer's rows need, of those of the item; where it
/// needs none, they begin and end where the item's begin. The end is that of a
/// block.
Scheduler::Range Scheduler::getOwnRange(Role &role, const Range &item) {
  SmallVector<Value> bounds = getOwnBounds(role);
  Range own = getRange(bounds[0], bounds[1], bounds[2], bounds[3]);
  own.begin = arith::MaxSIOp::create(b, loc, own.begin, item.begin);
  own.end = arith::MinSIOp::create(b, loc, own.end, item.end);
  Value any = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::slt,
                                    own.begin, own.end);
  own.begin = arith::SelectOp::create(b, loc, any, own.begin, item.begin);
  Value keys = arith::SubIOp::create(b, loc, own.end, own.begin);
  keys = arith::SelectOp::create(b, loc, any, keys, constant(0));
  keys = arith::CeilDivUIOp::create(b, loc, keys, own.step);
  keys = arith::MulIOp::create(b, loc, keys, own.step);
  own.end = arith::AddIOp::create(b, loc, own.begin, keys);
  return own;
}

/// Gives back the blocks of [begin, end), which this consumer does not read,
/// once they have come: before, the slots may still hold earlier ones.
void Scheduler::skipBlocks(Role &role, Value begin, Value end, Value step) {
  auto each = scf::ForOp::create(b, loc, begin, end, step,
                                 getCursors(role, /*inLoop=*/true));
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(each.getBody());
  setCursors(role, each.getRegionIterArgs(), /*inLoop=*/true);
  // Turns go round: who has nothing to start passes them on.
  if (isOverlap() && schedule.getPingpong()) {
    hopper::TurnWaitOp::create(b, loc, consumer);
    hopper::TurnPassOp::create(b, loc, consumer);
  }
  for (auto &[op, copy] : copies) {
    if (!copy.inLoop)
      continue;
    auto ring = cast<hopper::RingType>(copy.ring.getType());
    auto type = hopper::SmemType::get(b.getContext(), ring.getRows(),
                                      ring.getCols(), ring.getElementType());
    Value &cursor = role.cursors[op];
    hopper::AwaitOp::create(b, loc, type, copy.ring, cursor);
    hopper::ReleaseOp::create(b, loc, copy.ring, cursor);
    cursor = hopper::NextOp::create(b, loc, cursor, copy.ring);
  }
  scf::YieldOp::create(b, loc, getCursors(role, /*inLoop=*/true));
  setCursors(role, each.getResults(), /*inLoop=*/true);
}

/// Where only the last block may need a mask, it goes first: the first block,
/// which stands before the loop, can be masked at no cost in the loop, and a
/// loop for masked blocks is not needed. Full loops are half of a kernel's
/// code, which the assembler takes its time for.
bool Scheduler::beginsWithLast() {
  if (!isOverlap() || loop.getBody()->getOps<tile::MaskOp>().empty() ||
      !matchPattern(loop.getLo(), m_Zero()) ||
      !matchPattern(loop.getFullLo(), m_Zero()) ||
      loop.getFullHi() != loop.getHi() ||
      (cluster > 1 && dependsOnLast(loop.getHi())))
    return false;
  if (loop.getRows().empty())
    return true;
  // Of a consumer: all blocks or none.
  auto own = loop.getRows().front().front().getTerminator()->getOperands();
  auto choice = own[3].getDefiningOp<arith::SelectOp>();
  bool isWhole = own[3] == loop.getHi() ||
                 (choice && choice.getTrueValue() == loop.getHi() &&
                  matchPattern(choice.getFalseValue(), m_Zero()));
  return isWhole && matchPattern(own[0], m_Zero()) &&
         matchPattern(own[1], m_Zero()) && own[2] == loop.getHi();
}

/// The last block begins a whole number of steps after the first.
Value Scheduler::getLastKey(const Range &range) {
  Value last = arith::SubIOp::create(
      b, loc, arith::SubIOp::create(b, loc, range.end, constant(1)),
      range.begin);
  last = arith::MulIOp::create(
      b, loc, arith::DivUIOp::create(b, loc, last, range.step), range.step);
  return arith::AddIOp::create(b, loc, range.begin, last);
}

/// What follows is for keys in [begin, end); without any, `values` are the
/// results.
scf::IfOp Scheduler::ifAnyKeys(Value begin, Value end, ValueRange values) {
  Value any =
      arith::CmpIOp::create(b, loc, arith::CmpIPredicate::slt, begin, end);
  auto choice =
      scf::IfOp::create(b, loc, values.getTypes(), any, /*withElse=*/true);
  b.setInsertionPointToStart(choice.elseBlock());
  scf::YieldOp::create(b, loc, values);
  b.setInsertionPointToStart(choice.thenBlock());
  return choice;
}

/// The blocks from `from` to the end of the range: those before the full ones,
/// the full ones, and those after.
SmallVector<Scheduler::Part> Scheduler::getParts(Role &role, const Range &range,
                                                 Value from) {
  SmallVector<Part> parts;
  auto smaller = [&](Value x, Value y) -> Value {
    return arith::MinSIOp::create(b, loc, x, y);
  };
  auto larger = [&](Value x, Value y) -> Value {
    return arith::MaxSIOp::create(b, loc, x, y);
  };
  auto toStep = [&](Value x) -> Value {
    x = arith::DivUIOp::create(b, loc, larger(x, constant(0)), range.step);
    return arith::MulIOp::create(b, loc, x, range.step);
  };
  if (loop.getBody()->getOps<tile::MaskOp>().empty() || beginsWithLast()) {
    parts.push_back({from, range.end, true});
    return parts;
  }
  Value begin = from;
  if (!matchPattern(role.fullLo, m_Zero())) {
    Value up = arith::AddIOp::create(b, loc, role.fullLo,
                                     constant(loop.getStep() - 1));
    Value end = smaller(toStep(up), range.end);
    parts.push_back({from, end, false});
    begin = larger(from, end);
  }
  Value end = smaller(toStep(role.fullHi), range.end);
  parts.push_back({begin, end, true});
  parts.push_back({larger(begin, end), range.end, false});
  return parts;
}
