//===- Items.cpp - Which thread block takes which items -------------------===//
//
// A thread block, or a cluster of them, takes one item or, in a persistent
// grid, one item a round. The order of items decides what the second-level
// cache holds and how even the shares are.
//
//===----------------------------------------------------------------------===//

#include "passes/TileToHopper/Scheduler.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::scheduling;

/// Heads whose items are ordered together, see splitItem: enough that the last
/// ones fill all SMs, few enough for the second-level cache.
static constexpr int64_t kSectionHeads = 32;

/// Whether the end of the key range depends on the last coordinate: later
/// queries then have more keys.
bool Scheduler::keysGrowWithLast() {
  return loop && dependsOnLast(loop.getHi());
}

/// How many take items: thread blocks, or clusters of them.
Value Scheduler::getGrid() {
  Value grid = hopper::GridOp::create(b, loc);
  return cluster == 1 ? grid
                      : arith::DivUIOp::create(b, loc, grid, constant(cluster));
}

/// How many items there are along the last dim, each with a place for every
/// thread block of a cluster.
Value Scheduler::countLast(Role &role) {
  Value count = role.map.lookup(items.getCounts().back());
  return cluster == 1
             ? count
             : arith::CeilDivUIOp::create(b, loc, count, constant(cluster));
}

/// The place of this thread block in a round. Where items differ in length and
/// come longest first, every other round runs backwards: who had the longest
/// item of one round has the shortest of the next, and the shares are equal.
/// Else each round begins one further on: the last item of a head may have
/// fewer rows, and where the items of a head have a factor in common with the
/// grid, always the same blocks would get it.
Value Scheduler::getPlace(const Visits &visits, Value block, Value round) {
  if (!keysGrowWithLast()) {
    Value turned = arith::AddIOp::create(b, loc, block, round);
    return arith::RemUIOp::create(b, loc, turned, visits.grid);
  }
  Value odd = arith::RemUIOp::create(b, loc, round, constant(2));
  odd =
      arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ne, odd, constant(0));
  Value back = arith::SubIOp::create(b, loc, visits.grid, constant(1));
  back = arith::SubIOp::create(b, loc, back, block);
  return arith::SelectOp::create(b, loc, odd, back, block);
}

/// How many items this thread block of a persistent grid visits.
Scheduler::Visits Scheduler::planVisits(Role &role, Value block) {
  Value total = constant(1);
  for (Value count : items.getCounts())
    total = arith::MulIOp::create(b, loc, total,
                                  count == items.getCounts().back()
                                      ? countLast(role)
                                      : role.map.lookup(count));
  Visits visits;
  visits.grid = getGrid();
  Value rounds = arith::DivUIOp::create(b, loc, total, visits.grid);
  Value left = arith::RemUIOp::create(b, loc, total, visits.grid);
  Value place = getPlace(visits, block, rounds);
  Value more =
      arith::CmpIOp::create(b, loc, arith::CmpIPredicate::slt, place, left);
  visits.count = arith::AddIOp::create(
      b, loc, rounds,
      arith::SelectOp::create(b, loc, more, constant(1), constant(0)));
  return visits;
}

/// The item that this thread block visits in a round.
Value Scheduler::getVisited(const Visits &visits, Value block, Value round) {
  Value place = getPlace(visits, block, round);
  return arith::AddIOp::create(
      b, loc, arith::MulIOp::create(b, loc, round, visits.grid), place);
}

/// Of item number `item`: the number made of all coordinates but the last, and
/// the last. Neighbours have the same head, so that they share keys. Where
/// later queries have more keys, the longest items of a section of heads come
/// first, so that what is long neither starts nor ends last; a section is small
/// enough that the second-level cache has the keys of its heads.
std::pair<Value, Value> Scheduler::splitItem(Role &role, Value item) {
  auto counts = items.getCounts();
  Value last = countLast(role);
  auto divide = [&](Value x, Value by) -> std::pair<Value, Value> {
    return {arith::DivUIOp::create(b, loc, x, by),
            arith::RemUIOp::create(b, loc, x, by)};
  };
  if (counts.size() == 1)
    return {constant(0), item};
  if (!keysGrowWithLast())
    return divide(item, last);
  Value heads = constant(1);
  for (Value count : counts.drop_back())
    heads = arith::MulIOp::create(b, loc, heads, role.map.lookup(count));
  Value size = constant(kSectionHeads);
  if (schedule.getPersistent()) {
    // Shares are fixed: they come out even where the longest and the shortest
    // items of a section are a whole number of rounds. A cluster takes as many
    // neighbours as it has blocks, so the number of heads is the same.
    size = arith::DivUIOp::create(b, loc, hopper::GridOp::create(b, loc),
                                  constant(4));
    size = arith::MaxUIOp::create(b, loc, size, constant(1));
  }
  auto [section, inSection] =
      divide(item, arith::MulIOp::create(b, loc, size, last));
  Value first = arith::MulIOp::create(b, loc, section, size);
  Value left = arith::SubIOp::create(b, loc, heads, first);
  auto [level, head] =
      divide(inSection, arith::MinUIOp::create(b, loc, size, left));
  Value longest = arith::SubIOp::create(b, loc, last, constant(1));
  return {arith::AddIOp::create(b, loc, first, head),
          arith::SubIOp::create(b, loc, longest, level)};
}

/// The coordinates of an item and its body.
LogicalResult Scheduler::emitItem(Role &role, bool producer, Value item) {
  Block &body = items.getBody().front();
  auto [rest, last] = splitItem(role, item);
  size_t dims = items.getCounts().size();
  if (cluster > 1) {
    rank = hopper::RankOp::create(b, loc);
    firstLast = arith::MulIOp::create(b, loc, last, constant(cluster));
    last = arith::AddIOp::create(b, loc, firstLast, rank);
  }
  role.map.map(body.getArgument(dims - 1), last);
  for (size_t k = dims - 1; k-- > 0;) {
    Value count = role.map.lookup(items.getCounts()[k]);
    Value coordinate =
        k ? Value(arith::RemUIOp::create(b, loc, rest, count)) : rest;
    if (k)
      rest = arith::DivUIOp::create(b, loc, rest, count);
    role.map.map(body.getArgument(k), coordinate);
  }
  if (producer)
    return emitProducerBlock(role, body);
  if (failed(emitConsumerBlock(role, body)))
    return failure();
  releaseItemSlots(role);
  return success();
}

/// What was read once an item is free for the next item.
void Scheduler::releaseItemSlots(Role &role) {
  for (auto &[load, slot] : role.slots) {
    Copy &copy = copies.find(load)->second;
    hopper::ReleaseOp::create(b, loc, copy.ring, role.cursors[load]);
    role.cursors[load] =
        hopper::NextOp::create(b, loc, role.cursors[load], copy.ring);
  }
  role.slots.clear();
}
