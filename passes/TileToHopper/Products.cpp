//===- Products.cpp - Products: to start them and to wait -----------------===//
//
// A product reads slots of rings or registers, and runs beside what follows
// until it is waited for. Then its result may be read, and slots whose last
// reader it was go back to the producer.
//
//===----------------------------------------------------------------------===//

#include "passes/TileToHopper/Scheduler.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::scheduling;

/// The slot of a copied load, awaited at its first use.
Value Scheduler::getSlot(Role &role, tile::LoadOp load) {
  Value &slot = role.slots[load];
  if (slot)
    return slot;
  Copy &copy = copies.find(load)->second;
  auto ring = cast<hopper::RingType>(copy.ring.getType());
  auto type = hopper::SmemType::get(b.getContext(), ring.getRows(),
                                    ring.getCols(), ring.getElementType());
  slot = hopper::AwaitOp::create(b, loc, type, copy.ring, role.cursors[load]);
  if (copy.zeroRows) {
    Value rows = role.map.lookup(load.getRows());
    Value partial = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::slt,
                                          rows, constant(ring.getRows()));
    auto zero = scf::IfOp::create(b, loc, partial, /*withElse=*/false);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(zero.thenBlock());
    hopper::ZeroRowsOp::create(b, loc, slot, rows);
  }
  return slot;
}

/// A register operand of a product.
FailureOr<Value> Scheduler::getPacked(Role &role, Value tile) {
  auto type = cast<tile::TileType>(tile.getType());
  Value source = tile;
  if (auto cast = tile.getDefiningOp<tile::CastOp>())
    if (!role.map.contains(tile))
      source = cast.getInput();
  Value frag = role.map.lookup(source);
  if (cast<hopper::FragType>(frag.getType()).getLayout() == hopper::Layout::A)
    return frag;
  auto packed = hopper::FragType::getChecked(
      [&] { return kernel.emitError("product operand: "); }, b.getContext(),
      hopper::kWgmmaRows, type.getCols(), type.getElementType(),
      hopper::Layout::A);
  if (!packed)
    return failure();
  return Value(hopper::ConvertOp::create(b, loc, packed, frag));
}

FailureOr<Started> Scheduler::startDot(Role &role, tile::DotOp dot) {
  if (dot.getTransposeA())
    return dot.emitError("a product with transpose_a is scheduled in the loop "
                         "only");
  auto rhs = dot.getRhs().getDefiningOp<tile::LoadOp>();
  if (!rhs || !copies.contains(rhs))
    return dot.emitError("the right operand of a product must be a load that "
                         "only feeds products");
  if (dot.getM() != schedule.getBlockM())
    return dot.emitError() << "a product has the " << schedule.getBlockM()
                           << " rows of block_m, got " << dot.getM();
  if (dot.getN() > 256 || dot.getK() > 256)
    return dot.emitError() << "a product takes at most 256 columns and an "
                              "inner size of 256 (head dims up to 256), got "
                           << dot.getN() << " and " << dot.getK();
  Value lhs;
  auto load = dot.getLhs().getDefiningOp<tile::LoadOp>();
  if (load && copies.contains(load)) {
    Value slot = getSlot(role, load);
    auto type = cast<hopper::SmemType>(slot.getType());
    lhs = hopper::RowsOp::create(
        b, loc,
        hopper::SmemType::get(b.getContext(), hopper::kWgmmaRows,
                              type.getCols(), type.getElementType()),
        slot, consumer);
  } else {
    FailureOr<Value> packed = getPacked(role, dot.getLhs());
    if (failed(packed))
      return failure();
    lhs = *packed;
    // For the next product that reads it.
    if (isDeferred())
      role.map.map(dot.getLhs(), lhs);
  }
  Value acc = dot.getAcc() ? role.map.lookup(dot.getAcc()) : Value();
  auto type =
      hopper::PendingType::get(b.getContext(), hopper::kWgmmaRows, dot.getN());
  Value slot = getSlot(role, rhs);
  auto wgmma =
      hopper::WgmmaOp::create(b, loc, type, lhs, slot, acc,
                              /*transpose_a=*/false, dot.getTransposeB());
  return Started{dot, wgmma};
}

/// Slots of the loop whose last reader was `dot` go back to the producer.
void Scheduler::release(Role &role, tile::DotOp dot) {
  for (Value operand : {dot.getLhs(), dot.getRhs()}) {
    auto load = operand.getDefiningOp<tile::LoadOp>();
    auto found = copies.find(load);
    if (!load || found == copies.end() || !found->second.inLoop ||
        !role.slots.count(load))
      continue;
    bool last = llvm::all_of(load->getUsers(), [&](Operation *user) {
      return user == dot || user->isBeforeInBlock(dot);
    });
    if (!last)
      continue;
    Value &cursor = role.cursors[load];
    hopper::ReleaseOp::create(b, loc, found->second.ring, cursor);
    cursor = hopper::NextOp::create(b, loc, cursor, found->second.ring);
    role.slots.erase(load);
  }
}

void Scheduler::waitFor(Role &role, ArrayRef<Started> started) {
  SmallVector<Value> pendings;
  SmallVector<Type> types;
  for (const Started &product : started) {
    pendings.push_back(product.pending);
    types.push_back(hopper::FragType::get(
        b.getContext(), hopper::kWgmmaRows,
        cast<hopper::PendingType>(product.pending.getType()).getCols(),
        b.getF32Type(), hopper::Layout::Acc));
  }
  auto wait = hopper::WaitOp::create(b, loc, types, pendings);
  for (auto [product, result] : llvm::zip(started, wait.getResults())) {
    tile::DotOp dot = product.dot;
    role.map.map(dot.getResult(), result);
    release(role, dot);
  }
}
