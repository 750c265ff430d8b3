//===- Rings.cpp - Slots of shared memory and their barriers --------------===//
//
// Each slot of a ring has a barrier that says it is full and one that says it
// is empty. Bulk copies, and the turns that consumers take to start products.
//
//===----------------------------------------------------------------------===//

#include "passes/HopperToLLVM/KernelLowering.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::hopper;
using namespace attnc::hopper::lowering;

/// Slot and phase.
std::pair<Value, Value> KernelLowering::splitCursor(const RingInfo &ring,
                                                    Value cursor) {
  Value position = get(cursor);
  int64_t stages = ring.type.getStages();
  Value odd = compare(arith::CmpIPredicate::sge, position, constant(stages));
  Value stage =
      arith::SelectOp::create(b, loc, odd, add(position, -stages), position);
  return {stage, arith::ExtUIOp::create(b, loc, i32, odd)};
}

/// A cursor is one number, to save registers: the slot, plus the number of
/// slots in odd phases.
void KernelLowering::lowerNext(NextOp op) {
  int64_t stages = op.getRing().getType().getStages();
  Value next = add(get(op.getCursor()), 1);
  set(op.getNext(), {arith::SelectOp::create(b, loc, equals(next, 2 * stages),
                                             constant(0), next)});
}

Value KernelLowering::barrier(const RingInfo &ring, int64_t first,
                              Value stage) {
  return add(add(base, mul(stage, 8)), first);
}

void KernelLowering::waitBarrier(Value address, Value parity) {
  Value pointer = sharedPointer(address);
  Block *spin = newBlock(), *done = newBlock();
  branch(spin);
  at(spin);
  Value ok = intrinsic("llvm.nvvm.mbarrier.try.wait.parity.scope.cta.space.cta",
                       b.getI1Type(), {pointer, parity});
  branchIf(ok, done, spin);
  at(done);
}

/// One arrival for each warp.
void KernelLowering::arriveOnce(Value address) {
  Value leader = arith::ExtUIOp::create(b, loc, i32, equals(lane, 0));
  assembly("{\n.reg .pred p;\nsetp.ne.b32 p, $1, 0;\n"
           "@p mbarrier.arrive.shared::cta.b64 _, [$0];\n}",
           "r,r", {}, {address, leader});
}

/// One arrival for each warp in each block of the cluster: lane r tells block
/// r, in whose shared memory its `address` is. It says that a slot may be
/// written, and publishes nothing that was written: its products are done, so
/// what they read was read. A release in the scope of the cluster would wait
/// for all stores of the thread to arrive in memory.
void KernelLowering::arriveEverywhere(Value address) {
  std::string blocks = std::to_string(kernel.getRoles().getCluster());
  assembly("{\n.reg .pred p;\nsetp.lt.u32 p, $1, " + blocks +
               ";\n@p mbarrier.arrive.shared::cluster.b64 _, [$0];\n}",
           "r,r", {}, {address, lane});
}

/// Whether this warp of a cooperative producer fills the slot. All warps see
/// the same cursors. Consecutive copies go to different warps, so that they are
/// in flight together: each waits only for its own. Of a ring a warp has every
/// second slot, however many rings there are: whoever filled one of s stages
/// saw slot k - s empty and awaits slot k + 2 - s next, which is no two rounds
/// further on, where a parity would say nothing.
Value KernelLowering::isMine(const RingInfo &ring, Value cursor) {
  if (ring.filler == Filler::Bulk)
    return equals(warp, 0);
  if (ring.filler == Filler::AllWarps)
    return constant(1, b.getI1Type());
  Value turn = add(mul(get(cursor), 2), ring.number);
  return compare(arith::CmpIPredicate::eq, andi(turn, constant(3)), warp);
}

/// Only who fills a slot waits for it: others may be more than a phase behind,
/// where a parity says nothing.
void KernelLowering::lowerAcquire(AcquireOp op) {
  const RingInfo &ring = rings.find(op.getRing())->second;
  Block *done = nullptr;
  if (cooperative && ring.filler != Filler::Consumers) {
    Block *mine = newBlock();
    done = newBlock();
    branchIf(isMine(ring, op.getCursor()), mine, done);
    at(mine);
  }
  // A fresh barrier counts as "phase 1 done": the first round passes.
  auto [stage, phase] = splitCursor(ring, op.getCursor());
  Value parity = arith::XOrIOp::create(b, loc, phase, constant(1));
  waitBarrier(barrier(ring, ring.empty, stage), parity);
  if (done) {
    branch(done);
    at(done);
  }
}

void KernelLowering::lowerCopy(CopyOp op) {
  const RingInfo &ring = rings.find(op.getRing())->second;
  Block *done = nullptr;
  if (cooperative) {
    Block *one = newBlock();
    done = newBlock();
    branchIf(equals(tid, 0), one, done);
    at(one);
  }
  Value stage = splitCursor(ring, op.getCursor()).first;
  Value full = sharedPointer(barrier(ring, ring.full, stage));
  int64_t panel = ring.type.getRows() * kPanelBytes;
  int64_t panels = panelCount(ring.type.getCols());
  // Bytes that are outside the tensor count too. Those of a multicast slot come
  // from all blocks, which do not wait for each other here: where a part comes
  // first, its bytes count below 0, and the slot is not full before this
  // arrival. It is not the last round's either: every consumer here has seen
  // that one full before it released it.
  intrinsic("llvm.nvvm.mbarrier.arrive.expect.tx.scope.cta.space.cta", i64,
            {full, constant(panels * panel)});
  Value slot = add(add(base, mul(stage, ring.slot)), ring.base);
  int64_t blocks = ring.multicast ? kernel.getRoles().getCluster() : 1;
  if (ring.multicast)
    slot = add(slot, mul(get(op.getPart()), panel / blocks));
  Value mask = constant(ring.multicast ? (1 << blocks) - 1 : 0, b.getI16Type());
  auto cluster = LLVM::LLVMPointerType::get(b.getContext(), kClusterSpace);
  std::string name = "llvm.nvvm.cp.async.bulk.tensor.g2s.tile." +
                     std::to_string(op.getCoordinates().size()) + "d";
  Value isMulticast = constant(ring.multicast, b.getI1Type());
  auto copyPanels = [&](Value policy) {
    Value hasPolicy = constant(bool(policy), b.getI1Type());
    for (int64_t p = 0; p < panels; ++p) {
      Value to = LLVM::AddrSpaceCastOp::create(
          b, loc, cluster, sharedPointer(add(slot, p * panel)));
      Values args = {to, full, get(op.getMap())};
      for (auto [k, coordinate] : llvm::enumerate(op.getCoordinates()))
        args.push_back(k ? get(coordinate)
                         : add(get(coordinate), p * kPanelColumns));
      args.append({mask, policy ? policy : constant(0, i64), isMulticast,
                   hasPolicy, constant(0)});
      intrinsic(name, {}, args);
    }
  };
  if (op.getOnce()) {
    // Any policy but this one, the usual one too, is slower than none.
    Block *once = newBlock(), *usual = newBlock(), *copied = newBlock();
    branchIf(get(op.getOnce()), once, usual);
    at(once);
    copyPanels(assembly("createpolicy.fractional.L2::evict_first.b64 $0, 1.0;",
                        "=l", i64, {}, /*effects=*/false)[0]);
    branch(copied);
    at(usual);
    copyPanels({});
    branch(copied);
    at(copied);
  } else {
    copyPanels({});
  }
  if (done) {
    branch(done);
    at(done);
  }
}

void KernelLowering::lowerAwait(AwaitOp op) {
  const RingInfo &ring = rings.find(op.getRing())->second;
  auto [stage, phase] = splitCursor(ring, op.getCursor());
  waitBarrier(barrier(ring, ring.full, stage), phase);
  set(op.getSlot(), {add(add(base, mul(stage, ring.slot)), ring.base)});
}

void KernelLowering::lowerRelease(ReleaseOp op) {
  const RingInfo &ring = rings.find(op.getRing())->second;
  Value stage = splitCursor(ring, op.getCursor()).first;
  if (ring.multicast)
    arriveEverywhere(add(add(peerBase, mul(stage, 8)), ring.empty));
  else
    arriveOnce(barrier(ring, ring.empty, stage));
}

/// 16 bytes at a time: row r of panel p begins at (p * rows + r) * 128, and
/// swizzling only permutes the bytes within a row.
void KernelLowering::lowerZeroRows(ZeroRowsOp op) {
  SmemType type = op.getSlot().getType();
  int64_t chunks = kPanelBytes / 16;
  Value slot = get(op.getSlot());
  Value first = arith::MaxSIOp::create(b, loc, get(op.getFirst()), constant(0));
  Value thread = andi(tid, constant(127));
  Value begin = add(mul(first, chunks), thread);
  Value end = constant(type.getRows() * chunks);
  Value zero = constant(0);
  Block *body = newBlock(i32), *done = newBlock();
  branchIf(compare(arith::CmpIPredicate::slt, begin, end), body, done, begin);
  at(body);
  Value chunk = body->getArgument(0);
  for (int64_t p = 0; p < panelCount(type.getCols()); ++p)
    assembly("st.shared.v4.b32 [$0], {$1, $1, $1, $1};", "r,r", {},
             {add(add(slot, mul(chunk, 16)), p * type.getRows() * kPanelBytes),
              zero});
  Value next = add(chunk, 128);
  branchIf(compare(arith::CmpIPredicate::slt, next, end), body, done, next);
  at(done);
  // wgmma reads through another proxy, and reads what all four warps wrote.
  assembly("fence.proxy.async.shared::cta;", "", {}, {});
  intrinsic("llvm.nvvm.barrier.cta.sync.aligned.count", {},
            {add(groupNumber, kFirstGroupBarrier), constant(128)});
}

/// Barrier 1 + c is the turn of consumer c; two warpgroups meet in it: the
/// one that waits and the one that passes the turn on.
void KernelLowering::lowerTurn(Operation *op, Value consumer) {
  int64_t last = kernel.getRoles().getConsumers() - 1;
  if (last == 0)
    return; // Alone, it is always its turn.
  Value index = get(consumer);
  if (isa<TurnWaitOp>(op)) {
    intrinsic("llvm.nvvm.barrier.cta.sync.aligned.count", {},
              {add(index, 1), constant(256)});
    return;
  }
  Value isLast = equals(index, last);
  if (isa<TurnPassOp>(op)) {
    Value next =
        arith::SelectOp::create(b, loc, isLast, constant(1), add(index, 2));
    intrinsic("llvm.nvvm.barrier.cta.arrive.aligned.count", {},
              {next, constant(256)});
    return;
  }
  Block *first = newBlock(), *done = newBlock();
  branchIf(isLast, first, done);
  at(first);
  intrinsic("llvm.nvvm.barrier.cta.arrive.aligned.count", {},
            {constant(1), constant(256)});
  branch(done);
  at(done);
}
