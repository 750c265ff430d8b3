//===- Prefetch.cpp - Values of columns that are copied a block early -----===//
//
// Each warp of a consumer copies what it reads of the next block to a scratch
// of its own, while it works on this one.
//
//===----------------------------------------------------------------------===//

#include "passes/HopperToLLVM/KernelLowering.h"

#include "llvm/Support/SaveAndRestore.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::hopper;
using namespace attnc::hopper::lowering;

/// Of what is prefetched.
static constexpr int64_t kPrefetchBytes = 4;

/// This warp's slot of a scratch.
Value KernelLowering::getPrefetched(Value scratch, Value slot) {
  int64_t bytes = kPrefetchBytes * cast<SmemType>(scratch.getType()).getCols();
  // The consumers' first warp is warp 4.
  Value number = add(mul(add(warp, -4), 2), get(slot));
  return add(mul(number, bytes), add(base, scratches.lookup(scratch)));
}

void KernelLowering::lowerPrefetch(PrefetchOp op) {
  // Computed here: as invariants, addresses would fill registers in the loop.
  llvm::SaveAndRestore keepWarp(warp);
  warp = refreshed(warp);
  Value col = refreshed(lane);
  Values symbols = refreshedAll(op.getCoordinates());
  Value rows = op.getRows() ? get(op.getRows()) : Value();
  Value to = add(getPrefetched(op.getScratch(), op.getSlot()),
                 mul(col, kPrefetchBytes));
  int64_t cols = op.getScratch().getType().getCols();
  for (int64_t first = 0; first < cols; first += 32) {
    Access access = getAccess(op.getView(), op.getMap(), symbols, rows,
                              constant(0), add(col, first));
    Value pointer = elementPointer(op.getView(), access.offset);
    assembly("{\n.reg .b32 s;\nselp.b32 s, 4, 0, $2;\n"
             "cp.async.ca.shared.global [$0+" +
                 std::to_string(first * kPrefetchBytes) + "], [$1], 4, s;\n}",
             "r,l,b", {}, {to, pointer, access.inBounds});
  }
}

/// Values `first` and following of what was prefetched.
Values KernelLowering::fetch(FetchOp op, int64_t first, int64_t count) {
  FragType type = op.getFrag().getType();
  Value from = add(getPrefetched(op.getScratch(), op.getSlot()),
                   mul(firstCol, kPrefetchBytes));
  bool isFloat = type.getElementType().isF32();
  std::string text, constraints;
  repeat(constraints, isFloat ? "=f" : "=r", count);
  constraints += ",r";
  for (int64_t i = 0; i < count; i += 2)
    text += "ld.shared.v2.b32 {" + operandList(i, 2) + "}, [$" +
            std::to_string(count) + "+" +
            std::to_string(offsetOf(type, first + i).col * kPrefetchBytes) +
            "];\n";
  return assembly(text, constraints,
                  SmallVector<Type>(count, type.getElementType()), {from});
}

void KernelLowering::lowerFetch(FetchOp op) {
  if (!isFetchedByUsers(op.getFrag()))
    set(op.getFrag(), fetch(op, 0, op.getFrag().getType().getCount()));
}
