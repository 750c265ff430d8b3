//===- TileSelectFormula.cpp - A formula for each elementwise function ----===//
//
// What a function becomes, and how well it does, stands in the op table
// (lib/OpTable); nothing here knows any of them by name.
//
//===----------------------------------------------------------------------===//

#include "dialects/tile/Tile.h"
#include "lib/OpTable/OpTable.h"
#include "passes/Passes.h"

#include "mlir/IR/Iterators.h"
#include "mlir/IR/Matchers.h"

namespace attnc {
#define GEN_PASS_DEF_TILESELECTFORMULA
#include "passes/Passes.h.inc"
} // namespace attnc

using namespace mlir;
using namespace attnc;

namespace {

//===----------------------------------------------------------------------===//
// Checked formulas
//===----------------------------------------------------------------------===//

/// The function that makes a map's result, if it has a checked form.
Operation *getCheckedRoot(tile::MapOp map) {
  if (map.getWidth() != 1)
    return nullptr;
  Operation *yield = map.getBody().front().getTerminator();
  Operation *root = yield->getOperand(0).getDefiningOp();
  if (!root || root->getBlock() != yield->getBlock())
    return nullptr;
  const OpTableRow *row = lookupOpTable(root);
  return row && !row->checked.getFormulas().empty() ? root : nullptr;
}

/// A block of `region` with (shared, r, c) that yields formula(shared), for
/// `width` elements at once.
void buildFormula(
    OpBuilder &builder, Location loc, Region &region, unsigned width,
    llvm::function_ref<SmallVector<Value>(FormulaBuilder &, ValueRange)>
        formula) {
  OpBuilder::InsertionGuard guard(builder);
  SmallVector<Type> types(width, builder.getF32Type());
  types.append(2, builder.getI32Type());
  SmallVector<Location> locs(types.size(), loc);
  Block *block = builder.createBlock(&region, {}, types, locs);
  FormulaBuilder at{builder, loc, FormulaTarget::Sm90a};
  tile::YieldOp::create(builder, loc,
                        formula(at, block->getArguments().take_front(width)));
}

void speculate(tile::MapOp map, Operation *root, int64_t slice) {
  const CheckedForm &form = lookupOpTable(root)->checked;
  OpBuilder builder(map);
  Location loc = map.getLoc();
  SmallVector<float> limits = llvm::map_to_vector(
      form.getFormulas(), [](const auto &formula) { return formula.limit; });
  auto speculation = tile::SpeculateOp::create(
      builder, loc, map.getResult().getType(), map.getInputs(),
      builder.getI64IntegerAttr(slice), builder.getDenseF32ArrayAttr(limits),
      limits.size());
  // The map's own body up to the function's argument, then the guard.
  speculation.getCommon().takeBody(map.getBody());
  Operation *yield = speculation.getCommon().front().getTerminator();
  builder.setInsertionPoint(yield);
  FormulaBuilder at{builder, root->getLoc(), FormulaTarget::Sm90a};
  Value guard = form.guard(at, root->getOperand(0));
  tile::YieldOp::create(builder, loc, ValueRange{guard, guard});
  yield->erase();
  root->erase();
  for (auto [region, formula] :
       llvm::zip_equal(speculation.getFast(), form.getFormulas()))
    buildFormula(builder, loc, region, formula.width, formula.build);
  buildFormula(builder, loc, speculation.getExact(), 1,
               [&](FormulaBuilder &at, ValueRange guards) {
                 return SmallVector<Value>{form.exact(at, guards[0])};
               });
  map.replaceAllUsesWith(speculation.getResult());
  map.erase();
}

//===----------------------------------------------------------------------===//
// Constant factors
//===----------------------------------------------------------------------===//

/// Multiplies expressions of a region by a constant where that costs nothing:
/// a factor from outside the region takes the constant with it.
class FactorFolder {
public:
  FactorFolder(Region &region, float factor) : region(region), factor(factor) {}

  /// Whether `value` has a factor to spare on every path.
  bool isFree(Value value) const {
    if (isUniform(value))
      return true;
    Operation *op = value.getDefiningOp();
    if (!op || !value.hasOneUse())
      return false;
    if (isa<arith::MulFOp>(op))
      return isUniform(op->getOperand(0)) || isUniform(op->getOperand(1));
    if (isa<arith::NegFOp>(op))
      return isFree(op->getOperand(0));
    return isa<arith::AddFOp, arith::SubFOp>(op) && isFree(op->getOperand(0)) &&
           isFree(op->getOperand(1));
  }

  /// factor * value, for a free value.
  Value scale(OpBuilder &builder, Value value) const {
    if (isUniform(value))
      return scaleUniform(builder, value);
    Operation *op = value.getDefiningOp();
    SmallVector<Value> operands(op->getOperands());
    if (isa<arith::MulFOp>(op)) {
      Value &uniform = isUniform(operands[0]) ? operands[0] : operands[1];
      uniform = scale(builder, uniform);
    } else {
      for (Value &operand : operands)
        operand = scale(builder, operand);
    }
    Operation *scaled = builder.clone(*op);
    scaled->setOperands(operands);
    return scaled->getResult(0);
  }

private:
  bool isUniform(Value value) const {
    return matchPattern(value, m_Constant()) ||
           !region.isAncestor(value.getParentRegion());
  }

  /// Outside the region, as far out as `value` is.
  Value scaleUniform(OpBuilder &builder, Value value) const {
    OpBuilder::InsertionGuard guard(builder);
    FloatAttr constant;
    if (matchPattern(value, m_Constant(&constant)))
      return arith::ConstantOp::create(
          builder, value.getLoc(),
          builder.getF32FloatAttr(factor *
                                  constant.getValue().convertToFloat()));
    builder.setInsertionPointAfterValue(value);
    Value by = arith::ConstantOp::create(builder, value.getLoc(),
                                         builder.getF32FloatAttr(factor));
    return arith::MulFOp::create(builder, value.getLoc(), value, by);
  }

  Region &region;
  float factor;
};

/// Folds `constant * value` where `value` is free.
bool foldFactor(arith::MulFOp product) {
  FloatAttr constant;
  Value value = product.getLhs();
  if (!matchPattern(product.getRhs(), m_Constant(&constant)) ||
      !product.getType().isF32() || matchPattern(value, m_Constant()))
    return false;
  FactorFolder folder(*product->getParentRegion(),
                      constant.getValue().convertToFloat());
  // A lone uniform value would only trade one product for another.
  if (!value.getDefiningOp() ||
      value.getParentRegion() != product->getParentRegion() ||
      !folder.isFree(value))
    return false;
  OpBuilder builder(product);
  product.replaceAllUsesWith(folder.scale(builder, value));
  product.erase();
  return true;
}

//===----------------------------------------------------------------------===//
// Multiply-adds
//===----------------------------------------------------------------------===//

/// Lets a product and the one sum that reads it become one instruction.
bool allowFusing(arith::MulFOp product, bool differences) {
  if (!product->hasOneUse())
    return false;
  Operation *user = *product->user_begin();
  if (!isa<arith::AddFOp>(user) && !(differences && isa<arith::SubFOp>(user)))
    return false;
  if (user->getBlock() != product->getBlock())
    return false;
  for (Operation *op : {product.getOperation(), user}) {
    auto flags = cast<arith::ArithFastMathInterface>(op);
    auto value = flags.getFastMathFlagsAttr().getValue() |
                 arith::FastMathFlags::contract;
    op->setAttr(flags.getFastMathAttrName(),
                arith::FastMathFlagsAttr::get(op->getContext(), value));
  }
  return true;
}

//===----------------------------------------------------------------------===//
// The pass
//===----------------------------------------------------------------------===//

struct TileSelectFormula
    : attnc::impl::TileSelectFormulaBase<TileSelectFormula> {
  using TileSelectFormulaBase::TileSelectFormulaBase;

  void runOnOperation() override {
    if (failed(checkOptions()))
      return signalPassFailure();
    for (auto kernel : getOperation().getOps<tile::KernelOp>())
      selectFormulas(kernel);
  }

private:
  LogicalResult checkOptions() {
    if (target != "cpu" && target != "sm_90a")
      return emitError(getOperation().getLoc())
             << "unknown target '" << target << "': expected cpu or sm_90a";
    if (formula != "checked" && formula != "exact")
      return emitError(getOperation().getLoc())
             << "unknown formula '" << formula
             << "': expected checked or exact";
    return success();
  }

  void selectFormulas(tile::KernelOp kernel) {
    speculateMaps(kernel);
    // Before formulas come in, which say themselves what may be fused. On a CPU
    // a difference stays as it is, so that equal numbers leave exactly 0; a GPU
    // has no slot to spare for that.
    bool differences = target == "sm_90a";
    kernel.walk([&](arith::MulFOp product) {
      numFused += isInMap(product) && allowFusing(product, differences);
    });
    expandFunctions(kernel);
    SmallVector<arith::MulFOp> products;
    kernel.walk([&](arith::MulFOp product) {
      if (isInMap(product))
        products.push_back(product);
    });
    for (arith::MulFOp product : products)
      numFolded += foldFactor(product);
    eraseUnused(kernel);
  }

  static bool isInMap(Operation *op) {
    return isa<tile::MapOp, tile::SpeculateOp>(op->getParentOp());
  }

  void speculateMaps(tile::KernelOp kernel) {
    tile::ScheduleAttr schedule = kernel.getScheduleAttr();
    if (target != "sm_90a" || formula != "checked" || !schedule ||
        schedule.getSlice() <= 0)
      return;
    int64_t slice = schedule.getSlice();
    SmallVector<tile::MapOp> maps;
    kernel.walk([&](tile::MapOp map) { maps.push_back(map); });
    for (tile::MapOp map : maps) {
      Operation *root = getCheckedRoot(map);
      // The products' tiles only: a check for a few columns is not worth it.
      if (!root || map.getResult().getType().getCols() % slice)
        continue;
      speculate(map, root, slice);
      ++numSpeculated;
    }
  }

  void expandFunctions(tile::KernelOp kernel) {
    FormulaTarget formulas =
        target == "cpu" ? FormulaTarget::Cpu : FormulaTarget::Sm90a;
    SmallVector<Operation *> functions;
    kernel.walk([&](Operation *op) {
      if (op->getNumResults() == 1 && needsExpansion(op, formulas))
        functions.push_back(op);
    });
    IRRewriter rewriter(&getContext());
    for (Operation *op : functions)
      numExpanded += expandByOpTable(rewriter, op, formulas);
  }

  /// What folding left behind.
  void eraseUnused(tile::KernelOp kernel) {
    kernel.walk<WalkOrder::PostOrder, ReverseIterator>([](Operation *op) {
      if (isOpTriviallyDead(op))
        op->erase();
    });
  }
};

} // namespace
