//===- Analysis.cpp - What a kernel has to schedule -----------------------===//
//
// Checks what a schedule asks for against the kernel, and finds what the rest
// of the scheduler goes by before any code is made. What only one order needs
// is found in its own file.
//
//===----------------------------------------------------------------------===//

#include "passes/TileToHopper/Scheduler.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::scheduling;

bool scheduling::isTile(Type type) { return isa<tile::TileType>(type); }

bool scheduling::isScalar(Operation *op) {
  return llvm::none_of(op->getOperandTypes(), isTile) &&
         llvm::none_of(op->getResultTypes(), isTile) &&
         !isa<tile::ForKeysOp, tile::StoreOp>(op) &&
         !op->hasTrait<OpTrait::IsTerminator>();
}

Value Scheduler::constant(int64_t value) {
  return arith::ConstantIndexOp::create(b, loc, value);
}

/// Whether any of the values depends on the last coordinate of an item.
bool Scheduler::dependsOnLast(ValueRange values) {
  if (items.getCounts().empty())
    return false;
  Value last = items.getBody().front().getArguments().back();
  SmallVector<Value> work(values);
  llvm::SmallPtrSet<Value, 16> seen;
  while (!work.empty()) {
    Value value = work.pop_back_val();
    if (value == last)
      return true;
    if (!seen.insert(value).second || !value.getDefiningOp())
      continue;
    llvm::append_range(work, value.getDefiningOp()->getOperands());
  }
  return false;
}

/// Tiles of one column that products make or add to have the layout of
/// accumulators, others that of a value a row.
void Scheduler::findAccumulators() {
  SmallVector<Value> work;
  auto add = [&](Value value) {
    auto type = dyn_cast<tile::TileType>(value.getType());
    if (type && type.getCols() == 1 && type.getRows() == schedule.getBlockM() &&
        accumulators.insert(value))
      work.push_back(value);
  };
  items.walk([&](tile::DotOp dot) {
    add(dot.getResult());
    if (dot.getAcc())
      add(dot.getAcc());
  });
  while (!work.empty()) {
    Value value = work.pop_back_val();
    for (Operation *user : value.getUsers())
      if (isa<tile::MapOp, tile::MaskOp, tile::CastOp>(user))
        add(user->getResult(0));
    if (!loop)
      continue;
    for (auto [arg, yielded, result] :
         llvm::zip(loop.getIterArgs(), loop.getYielded(), loop.getResults()))
      if (value == arg || value == yielded)
        for (Value same : {Value(arg), Value(yielded), Value(result)})
          add(same);
  }
}

/// Whether `step` is argument -> argument * x + sum or argument + sum, with the
/// argument as number `position`; the number of the sum, else none.
static std::optional<unsigned> findSummand(tile::MapOp step,
                                           unsigned position) {
  Block &body = step.getBody().front();
  auto sum = body.getTerminator()->getOperand(0).getDefiningOp<arith::AddFOp>();
  if (!sum || step.getWidth() != 1)
    return std::nullopt;
  Value argument = body.getArgument(position);
  for (auto [kept, added] : {std::pair(sum.getLhs(), sum.getRhs()),
                             std::pair(sum.getRhs(), sum.getLhs())}) {
    auto product = kept.getDefiningOp<arith::MulFOp>();
    bool scales = product && (product.getLhs() == argument) !=
                                 (product.getRhs() == argument);
    auto summand = dyn_cast<BlockArgument>(added);
    if ((scales || kept == argument) && argument.hasOneUse() && summand &&
        summand.getOwner() == &body && summand.hasOneUse() &&
        summand.getArgNumber() < step.getInputs().size())
      return summand.getArgNumber();
  }
  return std::nullopt;
}

/// Sums of rows that the loop carries and does not read otherwise: each lane
/// adds up its own columns, and the lanes of a row are joined after the loop.
void Scheduler::findDeferredSums() {
  for (auto [index, arg] : llvm::enumerate(loop.getIterArgs())) {
    auto init = loop.getInits()[index].getDefiningOp<tile::SplatOp>();
    auto step = loop.getYielded()[index].getDefiningOp<tile::MapOp>();
    if (!init || !matchPattern(init.getValue(), m_AnyZeroFloat()) || !step ||
        !arg.hasOneUse() || *arg.user_begin() != step ||
        !step.getResult().hasOneUse() || accumulators.contains(arg))
      continue;
    auto summand = findSummand(step, arg.use_begin()->getOperandNumber());
    auto reduce =
        summand ? step.getInputs()[*summand].getDefiningOp<tile::ReduceOp>()
                : tile::ReduceOp();
    if (reduce && reduce.getKind() == tile::Reduction::Add &&
        reduce.getResult().hasOneUse() && reduce->getBlock() == loop.getBody())
      deferredSums[index] = reduce;
  }
}

LogicalResult Scheduler::analyse() {
  items = kernel.getItems();
  int64_t consumers = schedule.getConsumers();
  if (consumers > 4 || schedule.getBlockM() != consumers * hopper::kWgmmaRows)
    return kernel.emitError()
           << "schedule: each consumer warpgroup owns 64 rows, so block_m must "
              "be 64 * consumers with 1 to 4 consumers, got block_m = "
           << schedule.getBlockM() << " and consumers = " << consumers;
  if (schedule.getBlockN() % hopper::kWgmmaK || schedule.getBlockN() > 256)
    return kernel.emitError()
           << "schedule: block_n must be a multiple of 16 up to 256, got "
           << schedule.getBlockN();
  auto loops = items.getBody().front().getOps<tile::ForKeysOp>();
  if (llvm::range_size(loops) > 1)
    return kernel.emitError("a kernel with more than one tile.for_keys cannot "
                            "be scheduled on Hopper");
  if (!loops.empty())
    loop = *loops.begin();
  if (failed(findCopies(items.getBody().front(), /*inLoop=*/false)))
    return failure();
  findAccumulators();
  if (!loop)
    return success();
  findDeferredSums();
  if (failed(findCopies(*loop.getBody(), /*inLoop=*/true)) ||
      failed(findExchange()) || failed(findShared()))
    return failure();
  if (isDeferred())
    findPrefetches();
  if (!isOverlap() && !isTwoTiles())
    return success();
  if (failed(findStages()))
    return failure();
  return isTwoTiles() ? checkPairs() : success();
}
