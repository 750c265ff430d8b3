//===- AttnBackwardKernels.cpp - The tile kernels of gradients ------------===//
//
// A block of queries meets a block of keys in every one of them: the rows of
// a tile are the block that stays, its columns those of the block that passes
// by. Each kernel owns what it writes and sums in one order (S-bits):
//
//   query gradients     queries stay, keys pass: dQ, and sums over j
//   key gradients       keys stay, queries of each head of the group pass:
//                       dK and dV
//   key sums            keys stay, queries of one head pass: sums over i
//   position gradients  both stay: one element for each pair of positions
//   diagonal gradients  both pass, at one distance: sums over equal i - j
//
// With `one_kernel` there is none for dQ: the keys' kernel adds its share to
// sums in workspace, which are cleared before and rounded after. Several blocks
// of keys add to one sum, in no fixed order. AttnBackwardKernels/ holds them.
//
//===----------------------------------------------------------------------===//

#include "passes/AttnBackwardKernels/Kernels.h"
#include "passes/AttnBackwardKernels/PairKernel.h"
#include "passes/ScheduleChoice.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::backward;

bool attnc::mayUseOneKernel(attn::BackwardOp op) {
  return !op.getDeterministic() && !op.getDquery().use_empty() &&
         !op.getDkey().use_empty() && !op.getDvalue().use_empty() &&
         llvm::all_of(op.getDcaptures(),
                      [](Value gradient) { return gradient.use_empty(); });
}

bool attnc::hasQueryKernel(attn::BackwardOp op, tile::ScheduleAttr schedule) {
  if (schedule.getOneKernel() && mayUseOneKernel(op))
    return false;
  return !op.getDquery().use_empty() ||
         !gradientsOf(op, attn::CaptureKind::Queries).empty();
}

static int64_t headDim(Value tensor) {
  return cast<RankedTensorType>(tensor.getType()).getShape().back();
}

SmallVector<AttnKernel>
attnc::buildBackwardKernels(ImplicitLocOpBuilder &builder,
                            function_ref<std::string(StringRef)> name,
                            attn::BackwardOp op, const ViewOrders &orders,
                            const BackwardSchedules &schedules, Value querySums,
                            ArrayRef<Value> diagonalSums) {
  tile::ScheduleAttr schedule = schedules.keysStay;
  SmallVector<AttnKernel> kernels;
  auto add = [&](auto &&make) {
    OpBuilder::InsertionGuard guard(builder);
    kernels.push_back(make());
  };
  auto addKeyKernel = [&](StringRef what, KeyPart part) {
    add([&] {
      return buildKeyGradients(builder, name(what), op, orders, schedule, part,
                               querySums);
    });
  };
  if (querySums) {
    add([&] {
      return clearQuerySums(builder, name("clear"), op, orders, schedule,
                            querySums);
    });
    addKeyKernel("gradients", KeyPart::All);
    add([&] {
      return roundQuerySums(builder, name("query_gradient"), op, orders,
                            schedule, querySums);
    });
    return kernels;
  }
  if (hasQueryKernel(op, schedule))
    add([&] {
      return buildQueryGradient(builder, name("query_gradient"), op, orders,
                                schedules.queriesStay);
    });
  bool key = !op.getDkey().use_empty();
  bool value = !op.getDvalue().use_empty();
  if (key && value &&
      splitsKeyGradients(schedule, headDim(op.getQuery()),
                         headDim(op.getValue()))) {
    addKeyKernel("key_gradient", KeyPart::OfKey);
    addKeyKernel("value_gradient", KeyPart::OfValue);
  } else if (key || value) {
    addKeyKernel("key_gradient", KeyPart::All);
  }
  if (!gradientsOf(op, attn::CaptureKind::Keys).empty())
    add([&] {
      return buildKeySums(builder, name("key_sums"), op, orders, schedule);
    });
  for (auto [number, index] : llvm::enumerate(op.getOf())) {
    AffineMap map = cast<AffineMapAttr>(op.getMaps()[index]).getValue();
    if (attn::getCaptureKind(map) == attn::CaptureKind::Positions &&
        !op.getDcaptures()[number].use_empty() && !diagonalSums[number])
      add([&, number = number] {
        bool stays = map.isFunctionOfDim(0) && map.isFunctionOfDim(1);
        return buildPositionGradient(builder, name("position_gradient"), op,
                                     number, orders,
                                     stays ? schedule : schedules.bothPass);
      });
  }
  for (auto [number, sums] : llvm::enumerate(diagonalSums)) {
    if (!sums)
      continue;
    add([&, number = number, sums = sums] {
      return buildDiagonalGradient(builder, name("diagonal_gradient"), op,
                                   number, orders, schedules.bothPass, sums);
    });
    add([&, number = number, sums = sums] {
      return buildDiagonalSum(builder, name("diagonal_sum"), op, number, orders,
                              schedules.sums, sums);
    });
  }
  return kernels;
}
