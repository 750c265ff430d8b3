//===- Rings.cpp - What is copied to shared memory, and how ---------------===//
//
// Loads that feed products become copies into rings. Which of them the copy
// engine (TMA) can do is decided here, from what is known of the view, and
// whether all rings fit in shared memory.
//
//===----------------------------------------------------------------------===//

#include "passes/TileToHopper/Scheduler.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::scheduling;

/// The dim of the map that is `dim` plus something independent of it, if the
/// other dims do not depend on it; else -1.
static int64_t findUnitDim(AffineMap map, AffineExpr dim) {
  int64_t found = -1;
  unsigned position = cast<AffineDimExpr>(dim).getPosition();
  MLIRContext *context = map.getContext();
  for (auto [index, expr] : llvm::enumerate(map.getResults())) {
    if (!expr.isFunctionOfDim(position))
      continue;
    AffineExpr rest = expr.replace(dim, getAffineConstantExpr(0, context));
    AffineExpr difference = simplifyAffineExpr(
        expr - rest - dim, map.getNumDims(), map.getNumSymbols());
    if (found >= 0 || difference != getAffineConstantExpr(0, context))
      return -1;
    found = index;
  }
  return found;
}

namespace {
/// A dim of a kernel's argument.
using ArgumentDim = std::pair<unsigned, uint64_t>;

/// Dims that every program that launches `kernel` checks to be equal.
class EqualDims {
public:
  explicit EqualDims(tile::KernelOp kernel) {
    bool first = true;
    kernel->getParentOfType<ModuleOp>().walk([&](tile::LaunchOp launch) {
      if (launch.getKernel() != kernel.getSymName())
        return;
      auto found = collect(launch);
      if (first)
        pairs = found;
      pairs.remove_if([&](const Pair &pair) { return !found.contains(pair); });
      first = false;
    });
  }

  bool areEqual(tile::DimOp dim, unsigned argument, uint64_t otherDim) const {
    auto view = dyn_cast<BlockArgument>(dim.getView());
    if (!view)
      return false;
    ArgumentDim x = {view.getArgNumber(), dim.getDim()};
    ArgumentDim y = {argument, otherDim};
    return x == y || pairs.contains({x, y}) || pairs.contains({y, x});
  }

private:
  using Pair = std::pair<ArgumentDim, ArgumentDim>;

  static llvm::SmallSetVector<Pair, 8> collect(tile::LaunchOp launch) {
    llvm::SmallSetVector<Pair, 8> found;
    auto program = launch->getParentOfType<tile::ProgramOp>();
    for (auto check : program.getBody().getOps<tile::CheckOp>()) {
      auto compare = check.getCondition().getDefiningOp<arith::CmpIOp>();
      if (!compare || compare.getPredicate() != arith::CmpIPredicate::eq)
        continue;
      auto x = compare.getLhs().getDefiningOp<tile::DimOp>();
      auto y = compare.getRhs().getDefiningOp<tile::DimOp>();
      if (!x || !y)
        continue;
      for (auto [i, left] : llvm::enumerate(launch.getArgs()))
        for (auto [j, right] : llvm::enumerate(launch.getArgs()))
          if (left == x.getView() && right == y.getView())
            found.insert({{i, x.getDim()}, {j, y.getDim()}});
    }
    return found;
  }

  llvm::SmallSetVector<Pair, 8> pairs;
};
} // namespace

/// Whether `rows` only repeats the size of the view: rows = size - first row.
/// Beyond its size, a bulk copy gives zeros by itself.
static bool rowsEndView(tile::LoadOp load, int64_t rowDim,
                        const EqualDims &equal) {
  if (!load.getRows())
    return true;
  auto left = load.getRows().getDefiningOp<arith::SubIOp>();
  auto view = dyn_cast<BlockArgument>(load.getView());
  if (!left || !view)
    return false;
  auto size = left.getLhs().getDefiningOp<tile::DimOp>();
  AffineMap map = load.getMap();
  AffineExpr row = getAffineDimExpr(0, load.getContext());
  auto first = dyn_cast<AffineSymbolExpr>(simplifyAffineExpr(
      map.getResult(rowDim) - row, map.getNumDims(), map.getNumSymbols()));
  return size && first && equal.areEqual(size, view.getArgNumber(), rowDim) &&
         load.getCoordinates()[first.getPosition()] == left.getRhs();
}

/// Whether TMA can read the view where its columns are dense: the stride of its
/// rows is then a multiple of the columns, and must be one of 16 bytes.
static bool fitsBulkCopy(tile::LoadOp load, int64_t colDim) {
  tile::ViewType view = load.getView().getType();
  int64_t columns = view.getShape()[colDim];
  int64_t bytes = view.getElementType().getIntOrFloatBitWidth() / 8;
  return ShapedType::isDynamic(columns) || columns * bytes % 16 == 0;
}

/// Whether every use is as an operand of a product.
static bool feedsProducts(tile::LoadOp load) {
  return !load->use_empty() &&
         llvm::all_of(load->getUses(), [](OpOperand &use) {
           auto dot = dyn_cast<tile::DotOp>(use.getOwner());
           return dot && use.get() != dot.getAcc();
         });
}

LogicalResult Scheduler::addCopy(tile::LoadOp load, bool inLoop) {
  if (load.getPageTable())
    return load.emitError("paged loads are not implemented on Hopper");
  MLIRContext *context = load.getContext();
  int64_t rowDim = findUnitDim(load.getMap(), getAffineDimExpr(0, context));
  int64_t colDim = findUnitDim(load.getMap(), getAffineDimExpr(1, context));
  tile::ViewType view = load.getView().getType();
  tile::TileType tileType = load.getTile().getType();
  if (tileType.getElementType().getIntOrFloatBitWidth() != 16)
    return load.emitError()
           << "products on Hopper take bf16 or f16 operands, got "
           << tileType.getElementType()
           << "; round queries, keys and values to bf16 or f16 (the output may "
              "stay f32), or compile for the CPU with --target=cpu";
  // One dim of the view follows the rows, one the columns.
  bool bulk = !anyLayout && rowDim >= 0 && colDim >= 0 && rowDim != colDim &&
              view.getRank() <= 5 && fitsBulkCopy(load, colDim);
  SmallVector<int64_t> order = {colDim, rowDim};
  for (int64_t dim = view.getRank() - 1; dim >= 0; --dim)
    if (dim != colDim && dim != rowDim)
      order.push_back(dim);
  bool zeroRows = bulk && !rowsEndView(load, rowDim, EqualDims(kernel));
  copies[load] = Copy{load, inLoop, order, bulk, zeroRows, false, {}, {}};
  return success();
}

LogicalResult Scheduler::findCopies(Block &block, bool inLoop) {
  for (auto load : block.getOps<tile::LoadOp>())
    if (feedsProducts(load) && failed(addCopy(load, inLoop)))
      return failure();
  return success();
}

/// Slots of the ring of `copy`.
int64_t Scheduler::getStages(const Copy &copy) {
  return copy.inLoop ? std::max<int64_t>(schedule.getStages(), 1) : itemStages;
}

/// Shared memory through which shares of the exchanged product go. Measured
/// (benchmarks/journal.md, backward, 6): blocks of 64 rows gain by it, a
/// product of which each consumer has 64 rows loses.
int64_t Scheduler::getScratchBytes() {
  return exchange && splitsColumns()
             ? 4 * schedule.getConsumers() * hopper::kWgmmaRows * getShare()
             : 0;
}

/// Shared memory for all rings and their barriers.
int64_t Scheduler::getSharedBytes() {
  int64_t bytes = 0;
  for (auto &entry : copies) {
    tile::TileType type = entry.second.load.getTile().getType();
    bytes += getStages(entry.second) *
             (hopper::slotBytes(type.getRows(), type.getCols()) + 16);
  }
  if (exchange)
    bytes +=
        kExchangeSlots *
        (hopper::slotBytes(schedule.getBlockM(), schedule.getBlockN()) + 16);
  return bytes;
}

/// Refuses what cannot fit, with the numbers, before any code is made.
LogicalResult Scheduler::checkBudgets() {
  for (auto &entry : copies) {
    Copy &copy = entry.second;
    tile::TileType type = copy.load.getTile().getType();
    if (type.getRows() > 256 || type.getRows() % 8)
      return copy.load.emitError()
             << "a bulk copy takes a multiple of 8 rows up to 256, got "
             << type.getRows();
  }
  // In a persistent grid the next item's operands arrive during this one's end,
  // if there is room for both.
  itemStages = schedule.getPersistent() ? 2 : 1;
  if (getSharedBytes() > hopper::kSharedMemoryLimit)
    itemStages = 1;
  int64_t bytes = getSharedBytes();
  if (bytes > hopper::kSharedMemoryLimit)
    return kernel.emitError() << "schedule: needs " << bytes
                              << " bytes of shared memory, a thread block has "
                              << hopper::kSharedMemoryLimit
                              << "; try fewer stages or a smaller block_n";
  // Of one product, with its operands.
  constexpr int64_t operands = 16;
  int64_t threads = 128 * (schedule.getConsumers() + 1);
  int64_t registers = 65536 / (threads * schedule.getResident());
  WalkResult fits = items.walk([&](tile::DotOp dot) {
    if (schedule.getResident() == 1 || dot.getN() / 2 + operands <= registers)
      return WalkResult::advance();
    kernel.emitError() << "schedule: with resident = " << schedule.getResident()
                       << " a thread has " << registers
                       << " registers, a product of " << dot.getN()
                       << " columns needs " << dot.getN() / 2 + operands
                       << "; try resident = 1";
    return WalkResult::interrupt();
  });
  return failure(fits.wasInterrupted());
}

void Scheduler::makeRing(Copy &copy) {
  tile::LoadOp load = copy.load;
  tile::TileType type = load.getTile().getType();
  auto argument = cast<BlockArgument>(load.getView());
  std::string name = "arg" + std::to_string(argument.getArgNumber());
  if (auto attr = kernel.getArgAttrOfType<StringAttr>(argument.getArgNumber(),
                                                      tile::kNameAttr))
    name = attr.str();
  if (copy.bulk) {
    SmallVector<int64_t> box(copy.order.size(), 1);
    box[0] = hopper::kPanelColumns;
    box[1] = type.getRows() / (copy.shared ? cluster : 1);
    Type mapType = hopper::TensorMapType::get(b.getContext());
    copy.map = hopper::TensorMapOp::create(
        b, loc, mapType, kernelMap.lookup(load.getView()), copy.order, box);
  }
  copy.ring = hopper::RingOp::create(
      b, loc,
      hopper::RingType::get(b.getContext(), getStages(copy), type.getRows(),
                            type.getCols(), type.getElementType()),
      name, copy.shared);
}
