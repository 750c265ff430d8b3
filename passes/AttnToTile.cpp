//===- AttnToTile.cpp - Functions of attn ops become tile programs --------===//

#include "passes/AttnKernels.h"
#include "passes/Passes.h"
#include "passes/ScheduleChoice.h"

#include "mlir/AsmParser/AsmParser.h"
#include "mlir/Dialect/Affine/Utils.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/Matchers.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/ADT/TypeSwitch.h"

namespace attnc {
#define GEN_PASS_DEF_ATTNTOTILE
#include "passes/Passes.h.inc"
} // namespace attnc

using namespace mlir;
using namespace attnc;

//===----------------------------------------------------------------------===//
// What a schedule is chosen for
//===----------------------------------------------------------------------===//

/// What the loop over keys of a fused op holds besides its products.
static void countLoopValues(attn::FusedOp op, tile::ScheduleProblem &problem) {
  problem.unevenKeys = !op.getMasks().empty();
  // A softmax carries a maximum and a sum.
  problem.rowReductions = op.getNormalize() == attn::Normalize::Softmax ? 2
                          : op.getNormalize() == attn::Normalize::L1    ? 1
                                                                        : 0;
  auto count = [&](Value value, AffineMap map) {
    if (!isa<RankedTensorType>(value.getType()) || !map.isFunctionOfDim(3))
      return;
    if (map.isFunctionOfDim(2))
      ++problem.positionValues;
    else
      ++problem.keyValues;
  };
  for (auto [value, map] :
       llvm::zip_equal(op.getScoreCaptures(), op.getScoreMaps()))
    count(value, cast<AffineMapAttr>(map).getValue());
  for (Value mask : op.getMasks())
    for (const attn::Capture &capture :
         cast<attn::MaskOpInterface>(mask.getDefiningOp()).getMaskCaptures())
      count(capture.value, capture.map);
  // Functions of the position hold distances: a few numbers a key.
  Region &scores = op.getScoreMod();
  constexpr unsigned kRowArgument = 3, kColumnArgument = 4;
  if (!scores.empty() && (!scores.getArgument(kRowArgument).use_empty() ||
                          !scores.getArgument(kColumnArgument).use_empty()))
    problem.keyValues += 2;
}

/// The same for gradients: queries pass in one kernel, keys in another. What
/// belongs to the rows that stay is read once.
static void countPairValues(attn::BackwardOp op,
                            tile::ScheduleProblem &problem) {
  unsigned passing = problem.queriesStay ? 3 : 2;
  auto count = [&](Value value, AffineMap map) {
    if (!isa<RankedTensorType>(value.getType()))
      return;
    if (attn::getCaptureKind(map) == attn::CaptureKind::Positions)
      ++problem.positionValues;
    else if (map.isFunctionOfDim(passing))
      ++problem.keyValues;
  };
  for (auto [value, map] : llvm::zip_equal(
           op.getCaptures(), op.getMaps().getAsValueRange<AffineMapAttr>()))
    count(value, map);
  for (Value mask : op.getMasks())
    for (const attn::Capture &capture :
         cast<attn::MaskOpInterface>(mask.getDefiningOp()).getMaskCaptures())
      count(capture.value, capture.map);
}

/// What the gradients' regions need beside weight and logit gradient: positions
/// and, where queries stay, gradients that are summed over keys.
static void countRegions(attn::BackwardOp op, tile::ScheduleProblem &problem) {
  constexpr unsigned kRow = 3, kColumn = 4;
  auto count = [&](Region &region, unsigned tiles) {
    unsigned row = tiles - 1 + kRow, column = tiles - 1 + kColumn;
    problem.positions |= !region.getArgument(row).use_empty() ||
                         !region.getArgument(column).use_empty();
  };
  count(op.getWeight(), 1);
  count(op.getGradient(), 3);
  Block &gradient = op.getGradient().front();
  problem.logits =
      !gradient.getArgument(0).use_empty() &&
      llvm::any_of(gradient.without_terminator(), [](Operation &inner) {
        return !isa<arith::ArithDialect>(inner.getDialect());
      });
  if (!problem.queriesStay)
    return;
  for (auto [number, index] : llvm::enumerate(op.getOf())) {
    AffineMap map = cast<AffineMapAttr>(op.getMaps()[index]).getValue();
    Region &region = op.getCaptureGradients()[number];
    if (attn::getCaptureKind(map) != attn::CaptureKind::Queries ||
        op.getDcaptures()[number].use_empty())
      continue;
    count(region, 3);
    problem.summed += !OperationEquivalence::isRegionEquivalentTo(
        &region, &op.getGradient(), OperationEquivalence::IgnoreLocations);
  }
}

/// Keys are split where there are at least so many for each row of queries:
/// adding up what the ranges gave takes time for each row.
static constexpr int64_t kKeysPerSplitRow = 2;

tile::ScheduleProblem attnc::getScheduleProblem(Operation *op, bool anyLayout,
                                                bool queriesStay) {
  auto fused = dyn_cast<attn::FusedOp>(op);
  Value query = fused ? fused.getQuery() : op->getOperand(0);
  Value value = fused ? fused.getValue() : query;
  bool gradients = isa<attn::BackwardOp, attn::RowSumsOp>(op);
  if (gradients)
    value = op->getOperand(2);
  auto type = cast<RankedTensorType>(query.getType());
  tile::ScheduleProblem problem = {
      type.getShape().back(),
      cast<RankedTensorType>(value.getType()).getShape().back(),
      type.getElementType()};
  // A row's products take as many registers as the sums of a block.
  problem.gradients = gradients || isa<attn::RowDotOp>(op);
  problem.queriesStay = queriesStay || isa<attn::RowSumsOp>(op);
  if (fused) {
    countLoopValues(fused, problem);
    int64_t dim = attn::getLayoutDims(fused.getLayout()).h;
    auto key = cast<RankedTensorType>(fused.getKey().getType());
    problem.hasGroups = type.isDynamicDim(dim) || key.isDynamicDim(dim) ||
                        type.getDimSize(dim) != key.getDimSize(dim);
  }
  if (auto backward = dyn_cast<attn::BackwardOp>(op)) {
    countPairValues(backward, problem);
    problem.oneKernel = !queriesStay && mayUseOneKernel(backward);
    problem.unevenKeys = !backward.getMasks().empty();
    countRegions(backward, problem);
  }
  // Dense rows that are no multiple of 16 bytes are no operands of bulk copies.
  int64_t bits = problem.elementType.getIntOrFloatBitWidth();
  problem.cooperative = anyLayout || problem.headDim * bits % 128 ||
                        problem.valueHeadDim * bits % 128;
  return problem;
}

// Statistics of a row of the output need all of its columns.
bool attnc::canSplitKeys(attn::FusedOp op) { return op.getStats().empty(); }

/// Whether an op stands in a program of gradients, which has as many queries as
/// keys and much else to compile.
static bool hasGradients(attn::FusedOp op) {
  return llvm::any_of(*op->getBlock(), [](Operation &other) {
    return isa<attn::BackwardOp, attn::RowSumsOp, attn::RowDotOp>(other);
  });
}

bool attnc::isScheduleChoice(StringRef text) {
  return text.empty() || text == tile::kFewQueries || text == tile::kFewItems;
}

tile::ScheduleAttr attnc::chooseScheduleOf(Operation *op, StringRef target,
                                           bool anyLayout, StringRef choice) {
  if (auto own = op->getAttrOfType<tile::ScheduleAttr>(kScheduleAttr))
    return own;
  tile::ScheduleProblem problem = getScheduleProblem(op, anyLayout);
  auto fused = dyn_cast<attn::FusedOp>(op);
  if (choice == tile::kFewQueries && fused && canSplitKeys(fused))
    return tile::chooseSplitSchedule(op->getContext(), target, problem);
  if (choice == tile::kFewItems && fused)
    return tile::chooseFewItemsSchedule(op->getContext(), target, problem);
  return tile::chooseSchedule(op->getContext(), target, problem);
}

namespace {

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
PlanNumber operator+(PlanNumber x, PlanNumber y) {
  return x.with<arith::AddIOp>(y);
}
PlanNumber operator+(PlanNumber x, int64_t y) { return x + x.of(y); }
PlanNumber operator*(PlanNumber x, PlanNumber y) {
  return x.with<arith::MulIOp>(y);
}
PlanNumber operator*(PlanNumber x, int64_t y) { return x * x.of(y); }
PlanNumber ceilDiv(PlanNumber x, int64_t y) {
  return x.with<arith::CeilDivUIOp>(x.of(y));
}
PlanNumber ceilDiv(PlanNumber x, PlanNumber y) {
  return x.with<arith::CeilDivUIOp>(y);
}
PlanNumber larger(PlanNumber x, PlanNumber y) {
  return x.with<arith::MaxUIOp>(y);
}
PlanNumber smaller(PlanNumber x, PlanNumber y) {
  return x.with<arith::MinUIOp>(y);
}
PlanNumber ifAtMost(PlanNumber x, int64_t most, int64_t then, int64_t other) {
  Value any = x.isLess(x.of(most + 1));
  return {x.b, arith::SelectOp::create(*x.b, any, x.of(then).value,
                                       x.of(other).value)};
}

/// A size the call must agree on, and in words whose it is.
struct Extent {
  Value size;
  std::string what;
};

//===----------------------------------------------------------------------===//
// One program
//===----------------------------------------------------------------------===//

class ProgramBuilder {
public:
  ProgramBuilder(func::FuncOp function, StringRef target, bool anyLayout,
                 tile::ScheduleAttr override, StringRef choice)
      : function(function), target(target), anyLayout(anyLayout),
        override(override), choice(choice),
        b(function.getLoc(), function.getContext()) {}

  LogicalResult build();

  unsigned kernels = 0, workspaces = 0;

private:
  LogicalResult checkFunction();
  LogicalResult checkResults();
  void chooseLayouts();
  void chooseNames();
  void openProgram();
  std::string uniqueName(StringRef wanted);
  std::string kernelName(StringRef suffix);

  Value dimOf(Value tensor, int64_t tensorDim);
  Extent extent(Value tensor, int64_t tensorDim, StringRef unit);
  void checkEqual(const Extent &a, const Extent &b);
  struct ProblemSizes;
  template <typename Op> ProblemSizes checkOperands(Op op);
  void checkCaptures(ValueRange values, ArrayAttr maps,
                     ArrayRef<Extent> extents);
  void checkMasks(ValueRange masks, ArrayRef<Extent> extents);
  ProblemSizes checkShapes(attn::FusedOp op);
  template <typename Op> ProblemSizes checkBackwardOperands(Op op);
  template <typename Op> SmallVector<Extent> checkEpilogueOperands(Op op);
  SmallVector<Extent> sizesOf(Value tensor);
  template <typename Op>
  void provideCaptureGradients(Op op, ArrayRef<Extent> positions);
  void provideLike(Value result, Value like);
  Value standFor(Operation *op, ArrayRef<int64_t> shape);
  Value provideQuerySums(attn::BackwardOp op, const ProblemSizes &sizes);
  SmallVector<Value> provideDiagonalSums(attn::BackwardOp op,
                                         const ProblemSizes &sizes,
                                         tile::ScheduleAttr schedule);
  void checkCapture(const attn::Capture &capture, ArrayRef<Extent> extents);
  void checkGroups(const Extent &heads, const Extent &keyHeads);
  void provideResult(Value result, ArrayRef<Extent> sizes);

  tile::ScheduleAttr scheduleFor(Operation *op, bool queriesStay = false);
  Value countItems(tile::ScheduleAttr schedule, const ProblemSizes &sizes);
  Value countRanges(tile::ScheduleAttr schedule, const ProblemSizes &sizes);
  Value haveFewQueries(const ProblemSizes &sizes);
  SplitSums provideSums(attn::FusedOp op, Value ranges,
                        const ProblemSizes &sizes);
  void lowerSplit(attn::FusedOp op, tile::ScheduleAttr schedule,
                  const ProblemSizes &sizes);
  Value countKeys(attn::FusedOp op, tile::ScheduleAttr schedule, Value row,
                  const ProblemSizes &sizes);
  PlanNumber predict(attn::FusedOp op, tile::ScheduleAttr schedule,
                     const ProblemSizes &sizes, Value ranges = {});
  void preferOthers(attn::FusedOp op, const ProblemSizes &sizes);
  void launch(const AttnKernel &kernel);
  void lower(attn::FusedOp op);
  void lower(attn::RowNormOp op);
  void lower(attn::BackwardOp op);
  void lower(attn::RowSumsOp op);
  void lower(attn::RowDotOp op);
  void lower(attn::SumOp op);
  void lower(attn::EpilogueOp op);
  void lower(attn::EpilogueGradientOp op);
  tile::ScheduleAttr elementSchedule();
  /// Makes a kernel in front of the function and launches it.
  void launchNew(Operation *op,
                 function_ref<AttnKernel(ImplicitLocOpBuilder &)> build);

  func::FuncOp function;
  StringRef target;
  bool anyLayout;
  tile::ScheduleAttr override;
  /// What the cost model chooses for.
  StringRef choice;
  ImplicitLocOpBuilder b;
  ViewOrders orders;
  /// Values of the function: returned ones first, then arguments' names.
  llvm::MapVector<Value, std::string> names;
  llvm::StringSet<> usedNames;
  /// What stands for a value of the function in the program.
  DenseMap<Value, Value> inProgram;
  DenseSet<Value> inWorkspace;
  tile::ProgramOp program;
};

/// Ops that become kernels.
static bool isKernelOp(Operation *op) {
  return isa<attn::FusedOp, attn::RowNormOp, attn::BackwardOp, attn::RowSumsOp,
             attn::RowDotOp, attn::SumOp, attn::EpilogueOp,
             attn::EpilogueGradientOp>(op);
}

/// What is asked of the schedule of an op.
static LogicalResult checkSchedule(Operation *op, tile::ScheduleAttr override) {
  Attribute own = op->getAttr(kScheduleAttr);
  if (own && !isa<tile::ScheduleAttr>(own))
    return op->emitOpError("'tile.schedule' must be a #tile.schedule, got ")
           << own;
  tile::ScheduleAttr schedule =
      override ? override : cast_or_null<tile::ScheduleAttr>(own);
  auto fused = dyn_cast<attn::FusedOp>(op);
  if (schedule && schedule.getSplits() && fused && !canSplitKeys(fused))
    return op->emitOpError("has an epilogue of row statistics, which are not "
                           "known before all ranges of keys are added; try a "
                           "schedule with splits = 0");
  return success();
}

LogicalResult ProgramBuilder::checkFunction() {
  for (BlockArgument argument : function.getArguments()) {
    Type type = argument.getType();
    if (!isa<RankedTensorType>(type) && !type.isF32() && !type.isInteger(32))
      return function.emitError()
             << "argument " << argument.getArgNumber() << " of '"
             << function.getName() << "' is " << type
             << "; a program takes ranked tensors, f32 and i32";
  }
  if (!function.getBody().hasOneBlock())
    return function.emitError()
           << "'" << function.getName()
           << "' has control flow; attention is straight-line code";
  for (Operation &op : function.front().without_terminator()) {
    if (auto epilogue = dyn_cast<attn::EpilogueOp>(op);
        epilogue && !epilogue.getStats().empty())
      return op.emitOpError(
          "reads row statistics, which only a fused epilogue does: run "
          "attn-fuse before attn-to-tile");
    if (isKernelOp(&op) && failed(checkSchedule(&op, override)))
      return failure();
    if (isKernelOp(&op) || isa<attn::MaskOpInterface>(op))
      continue;
    if (isa<attn::AttnDialect>(op.getDialect()))
      return op.emitOpError("is not fused: run attn-fuse before attn-to-tile");
    bool scalar =
        llvm::none_of(op.getResultTypes(), llvm::IsaPred<ShapedType>) &&
        llvm::none_of(op.getOperandTypes(), llvm::IsaPred<ShapedType>);
    if (!scalar || !isPure(&op) || op.getNumRegions())
      return op.emitOpError("is not allowed here: a function of attn ops may "
                            "hold attn ops and scalar arithmetic only");
  }
  return checkResults();
}

LogicalResult ProgramBuilder::checkResults() {
  auto results = function.front().getTerminator()->getOperands();
  if (results.empty())
    return function.emitError()
           << "'" << function.getName() << "' returns nothing";
  DenseSet<Value> seen;
  for (auto [index, value] : llvm::enumerate(results)) {
    if (!value.getDefiningOp() || !isKernelOp(value.getDefiningOp()))
      return function.emitError()
             << "result " << index << " of '" << function.getName()
             << "' is not the result of an attn.fused or attn.row_norm";
    if (!seen.insert(value).second)
      return function.emitError()
             << "result " << index << " of '" << function.getName()
             << "' is returned twice";
  }
  return success();
}

void ProgramBuilder::chooseLayouts() {
  for (Operation &op : function.front()) {
    if (auto fused = dyn_cast<attn::FusedOp>(op))
      for (Value tensor : {fused.getQuery(), fused.getKey(), fused.getValue(),
                           fused.getOutput()})
        orders.setLayout(tensor, fused.getLayout());
    else if (auto norm = dyn_cast<attn::RowNormOp>(op))
      orders.setLayout(norm.getInput(), norm.getLayout());
    else if (auto back = dyn_cast<attn::BackwardOp>(op))
      for (Value tensor :
           {back.getQuery(), back.getKey(), back.getValue(), back.getDoutput(),
            back.getDquery(), back.getDkey(), back.getDvalue()})
        orders.setLayout(tensor, back.getLayout());
    else if (auto epilogue = dyn_cast<attn::EpilogueOp>(op))
      for (Value tensor : {epilogue.getInput(), epilogue.getOutput()})
        orders.setLayout(tensor, epilogue.getLayout());
    else if (auto gradient = dyn_cast<attn::EpilogueGradientOp>(op))
      for (Value tensor :
           {gradient.getInput(), gradient.getDoutput(), gradient.getDinput()})
        orders.setLayout(tensor, gradient.getLayout());
    else if (auto sums = dyn_cast<attn::RowSumsOp>(op))
      for (Value tensor :
           {sums.getQuery(), sums.getKey(), sums.getValue(), sums.getDoutput()})
        orders.setLayout(tensor, sums.getLayout());
    else if (auto dot = dyn_cast<attn::RowDotOp>(op))
      for (Value tensor : {dot.getLhs(), dot.getRhs()})
        orders.setLayout(tensor, dot.getLayout());
  }
}

std::string ProgramBuilder::uniqueName(StringRef wanted) {
  std::string name = wanted.str();
  for (unsigned k = 1; !usedNames.insert(name).second; ++k)
    name = (wanted + Twine(k)).str();
  return name;
}

void ProgramBuilder::chooseNames() {
  DenseMap<Value, std::string> wanted;
  for (Operation &op : function.front()) {
    if (auto fused = dyn_cast<attn::FusedOp>(op)) {
      wanted.try_emplace(fused.getQuery(), "query");
      wanted.try_emplace(fused.getKey(), "key");
      wanted.try_emplace(fused.getValue(), "value");
      wanted.try_emplace(fused.getOutput(), "output");
      if (fused.getLse())
        wanted.try_emplace(fused.getLse(), "lse");
    } else if (auto epilogue = dyn_cast<attn::EpilogueOp>(op)) {
      wanted.try_emplace(epilogue.getOutput(), "output");
    } else if (auto norm = dyn_cast<attn::RowNormOp>(op)) {
      wanted.try_emplace(norm.getResult(), "norm");
    } else if (auto back = dyn_cast<attn::BackwardOp>(op)) {
      wanted.try_emplace(back.getQuery(), "query");
      wanted.try_emplace(back.getKey(), "key");
      wanted.try_emplace(back.getValue(), "value");
      wanted.try_emplace(back.getDoutput(), "doutput");
      wanted.try_emplace(back.getDquery(), "dquery");
      wanted.try_emplace(back.getDkey(), "dkey");
      wanted.try_emplace(back.getDvalue(), "dvalue");
    }
  }
  for (BlockArgument argument : function.getArguments()) {
    unsigned number = argument.getArgNumber();
    if (auto user =
            function.getArgAttrOfType<StringAttr>(number, attn::kNameAttr))
      wanted[argument] = user.getValue().str();
    wanted.try_emplace(argument, ("arg" + Twine(number)).str());
    names[argument] = uniqueName(wanted[argument]);
  }
  for (auto [index, value] :
       llvm::enumerate(function.front().getTerminator()->getOperands())) {
    if (auto user =
            function.getResultAttrOfType<StringAttr>(index, attn::kNameAttr))
      wanted[value] = user.getValue().str();
    names[value] = uniqueName(wanted[value]);
  }
}

/// The program's arguments: the function's, then its results.
void ProgramBuilder::openProgram() {
  SmallVector<Type> types;
  SmallVector<Attribute> attrs;
  for (auto &[value, name] : names) {
    NamedAttrList list;
    list.append(tile::kNameAttr, b.getStringAttr(name));
    Type type = value.getType();
    if (isa<RankedTensorType>(type)) {
      type = orders.getViewType(value);
      list.append(tile::kDimsAttr, b.getI64ArrayAttr(orders.get(value)));
    }
    if (!isa<BlockArgument>(value))
      list.append(tile::kResultAttr, b.getUnitAttr());
    types.push_back(type);
    attrs.push_back(list.getDictionary(b.getContext()));
  }
  b.setInsertionPoint(function);
  program = tile::ProgramOp::create(b, function.getName(),
                                    b.getFunctionType(types, {}),
                                    b.getArrayAttr(attrs), nullptr);
  Block &body = program.getBody().emplaceBlock();
  for (auto &[value, name] : names)
    inProgram[value] =
        body.addArgument(types[body.getNumArguments()], value.getLoc());
  b.setInsertionPointToStart(&body);
}

//===----------------------------------------------------------------------===//
// Shapes
//===----------------------------------------------------------------------===//

Value ProgramBuilder::dimOf(Value tensor, int64_t tensorDim) {
  auto type = cast<RankedTensorType>(tensor.getType());
  if (!type.isDynamicDim(tensorDim))
    return arith::ConstantIndexOp::create(b, type.getDimSize(tensorDim));
  SmallVector<int64_t> order = orders.get(tensor);
  return tile::DimOp::create(b, inProgram.lookup(tensor),
                             llvm::find(order, tensorDim) - order.begin());
}

/// "query has {0} rows": the number is filled in by checkEqual.
Extent ProgramBuilder::extent(Value tensor, int64_t tensorDim, StringRef unit) {
  std::string name = names.lookup(tensor);
  if (name.empty())
    name = "an intermediate";
  return {dimOf(tensor, tensorDim), (name + " has {} " + unit).str()};
}

/// Replaces the placeholder of Extent::what by the number of a value.
static std::string numbered(const std::string &what, unsigned number) {
  size_t at = what.find("{}");
  return what.substr(0, at) + "{" + std::to_string(number) + "}" +
         what.substr(at + 2);
}

/// Sizes that the types state agree already, by the ops' verifiers.
static bool isStatic(const Extent &extent) {
  return matchPattern(extent.size, m_Constant());
}

void ProgramBuilder::checkEqual(const Extent &a, const Extent &c) {
  if (a.size == c.size || (isStatic(a) && isStatic(c)))
    return;
  Value same =
      arith::CmpIOp::create(b, arith::CmpIPredicate::eq, a.size, c.size);
  tile::CheckOp::create(b, same,
                        numbered(a.what, 0) + " but " + numbered(c.what, 1),
                        ValueRange{a.size, c.size});
}

/// S-gqa: any integer ratio; no key heads only if there are no query heads.
void ProgramBuilder::checkGroups(const Extent &heads, const Extent &keyHeads) {
  if (isStatic(heads) && isStatic(keyHeads))
    return;
  Value zero = arith::ConstantIndexOp::create(b, 0);
  Value one = arith::ConstantIndexOp::create(b, 1);
  Value divisor = arith::MaxUIOp::create(b, keyHeads.size, one);
  Value rest = arith::RemUIOp::create(b, heads.size, divisor);
  Value divides =
      arith::CmpIOp::create(b, arith::CmpIPredicate::eq, rest, zero);
  Value some =
      arith::CmpIOp::create(b, arith::CmpIPredicate::ne, keyHeads.size, zero);
  Value none =
      arith::CmpIOp::create(b, arith::CmpIPredicate::eq, heads.size, zero);
  Value fits = arith::OrIOp::create(b, some, none);
  tile::CheckOp::create(b, arith::AndIOp::create(b, divides, fits),
                        numbered(heads.what, 0) +
                            ", which is not a multiple of the " +
                            "{1} key heads",
                        ValueRange{heads.size, keyHeads.size});
}

/// Whether the largest value of `expr` is at the largest of its dims.
static bool isMonotonic(AffineExpr expr) {
  if (isa<AffineDimExpr>(expr))
    return true;
  if (auto constant = dyn_cast<AffineConstantExpr>(expr))
    return constant.getValue() >= 0;
  auto binary = dyn_cast<AffineBinaryOpExpr>(expr);
  return binary && binary.getKind() != AffineExprKind::Mod &&
         isMonotonic(binary.getLHS()) && isMonotonic(binary.getRHS());
}

/// S-bias: a captured operand must have exactly the elements that the
/// positions ask for, as far as the map lets that be known.
void ProgramBuilder::checkCapture(const attn::Capture &capture,
                                  ArrayRef<Extent> extents) {
  if (!isa<RankedTensorType>(capture.value.getType()) ||
      inWorkspace.contains(capture.value))
    return;
  for (auto [dim, expr] : llvm::enumerate(capture.map.getResults())) {
    std::string unit = ("elements in dim " + Twine(dim)).str();
    Extent own = extent(capture.value, dim, unit);
    if (auto position = dyn_cast<AffineDimExpr>(expr)) {
      checkEqual(own, extents[position.getPosition()]);
      continue;
    }
    if (!isMonotonic(expr))
      continue;
    Value one = arith::ConstantIndexOp::create(b, 1);
    SmallVector<Value> last;
    for (const Extent &e : extents)
      last.push_back(arith::SubIOp::create(b, e.size, one));
    Value needed = affine::expandAffineExpr(b, b.getLoc(), expr, last, {});
    needed = arith::AddIOp::create(b, needed, one);
    Value enough =
        arith::CmpIOp::create(b, arith::CmpIPredicate::sge, own.size, needed);
    tile::CheckOp::create(
        b, enough, numbered(own.what, 0) + " but the positions reach {1}",
        ValueRange{own.size, needed});
  }
}

/// The sizes of a fused op and its gradients.
struct ProgramBuilder::ProblemSizes {
  Extent sequences, heads, rows, keyHeads, keys, columns, valueColumns;

  /// (b, h, s, d) in the order of a layout's dims.
  static SmallVector<Extent> order(attn::Layout layout, const Extent &b,
                                   const Extent &h, const Extent &s,
                                   const Extent &d) {
    attn::LayoutDims dims = attn::getLayoutDims(layout);
    SmallVector<Extent> sizes(4);
    sizes[dims.b] = b;
    sizes[dims.h] = h;
    sizes[dims.s] = s;
    sizes[dims.d] = d;
    return sizes;
  }
};

/// Query, key, value, lengths and masks.
template <typename Op>
ProgramBuilder::ProblemSizes ProgramBuilder::checkOperands(Op op) {
  attn::LayoutDims d = attn::getLayoutDims(op.getLayout());
  ProblemSizes sizes = {extent(op.getQuery(), d.b, "sequences"),
                        extent(op.getQuery(), d.h, "heads"),
                        extent(op.getQuery(), d.s, "rows"),
                        extent(op.getKey(), d.h, "heads"),
                        extent(op.getKey(), d.s, "rows"),
                        extent(op.getQuery(), d.d, "columns"),
                        extent(op.getValue(), d.d, "columns")};
  checkEqual(sizes.sequences, extent(op.getKey(), d.b, "sequences"));
  checkEqual(sizes.sequences, extent(op.getValue(), d.b, "sequences"));
  checkEqual(sizes.keyHeads, extent(op.getValue(), d.h, "heads"));
  checkEqual(sizes.keys, extent(op.getValue(), d.s, "rows"));
  checkGroups(sizes.heads, sizes.keyHeads);
  for (Value lengths : {op.getQLen(), op.getKLen()})
    if (lengths)
      checkEqual(extent(lengths, 0, "lengths"), sizes.sequences);
  return sizes;
}

void ProgramBuilder::checkCaptures(ValueRange values, ArrayAttr maps,
                                   ArrayRef<Extent> extents) {
  for (auto [value, map] : llvm::zip_equal(values, maps))
    checkCapture({value, cast<AffineMapAttr>(map).getValue()}, extents);
}

void ProgramBuilder::checkMasks(ValueRange masks, ArrayRef<Extent> extents) {
  for (Value mask : masks)
    for (const attn::Capture &capture :
         cast<attn::MaskOpInterface>(mask.getDefiningOp()).getMaskCaptures())
      checkCapture(capture, extents);
}

ProgramBuilder::ProblemSizes ProgramBuilder::checkShapes(attn::FusedOp op) {
  ProblemSizes sizes = checkOperands(op);
  auto &[sequences, heads, rows, keyHeads, keys, columns, valueColumns] = sizes;
  checkCaptures(op.getScoreCaptures(), op.getScoreMaps(),
                {sequences, heads, rows, keys});
  checkCaptures(op.getEpilogueCaptures(), op.getEpilogueMaps(),
                {sequences, heads, rows, valueColumns});
  checkMasks(op.getMasks(), {sequences, heads, rows, keys});
  provideResult(op.getOutput(), ProblemSizes::order(op.getLayout(), sequences,
                                                    heads, rows, valueColumns));
  if (op.getLse())
    provideResult(op.getLse(), {sequences, heads, rows});
  return sizes;
}

/// What attn.backward and attn.row_sums have in common.
template <typename Op>
ProgramBuilder::ProblemSizes ProgramBuilder::checkBackwardOperands(Op op) {
  ProblemSizes sizes = checkOperands(op);
  attn::LayoutDims d = attn::getLayoutDims(op.getLayout());
  checkEqual(sizes.sequences, extent(op.getDoutput(), d.b, "sequences"));
  checkEqual(sizes.heads, extent(op.getDoutput(), d.h, "heads"));
  checkEqual(sizes.rows, extent(op.getDoutput(), d.s, "rows"));
  SmallVector<Extent> positions = {sizes.sequences, sizes.heads, sizes.rows,
                                   sizes.keys};
  checkCaptures(op.getCaptures(), op.getMaps(), positions);
  checkMasks(op.getMasks(), positions);
  return sizes;
}

/// Sums over j or i have a shape of their own, other gradients that of what
/// they are the gradient of.
template <typename Op>
void ProgramBuilder::provideCaptureGradients(Op op,
                                             ArrayRef<Extent> positions) {
  for (auto [number, index] : llvm::enumerate(op.getOf())) {
    Value result = op.getDcaptures()[number];
    if (result.use_empty())
      continue;
    AffineMap map = cast<AffineMapAttr>(op.getMaps()[index]).getValue();
    switch (attn::getCaptureKind(map)) {
    case attn::CaptureKind::Queries:
      provideResult(result, {positions[0], positions[1], positions[2]});
      break;
    case attn::CaptureKind::Keys:
      provideResult(result, {positions[0], positions[1], positions[3]});
      break;
    case attn::CaptureKind::Positions:
      provideLike(result, op.getCaptures()[index]);
      break;
    }
  }
}

void ProgramBuilder::provideLike(Value result, Value like) {
  provideResult(result, sizesOf(like));
}

/// A returned result is the caller's memory, whose sizes are checked; another
/// one is workspace. `sizes` are of the tensor's dims.
void ProgramBuilder::provideResult(Value result, ArrayRef<Extent> sizes) {
  if (inProgram.contains(result)) {
    for (auto [dim, size] : llvm::enumerate(sizes))
      checkEqual(extent(result, dim, "elements in dim " + std::to_string(dim)),
                 size);
    return;
  }
  tile::ViewType type = orders.getViewType(result);
  SmallVector<Value> dynamic;
  SmallVector<int64_t> order = orders.get(result);
  for (auto [viewDim, tensorDim] : llvm::enumerate(order))
    if (ShapedType::isDynamic(type.getShape()[viewDim]))
      dynamic.push_back(sizes[tensorDim].size);
  inProgram[result] = tile::WorkspaceOp::create(b, type, dynamic);
  inWorkspace.insert(result);
  ++workspaces;
}

//===----------------------------------------------------------------------===//
// Kernels
//===----------------------------------------------------------------------===//

tile::ScheduleAttr ProgramBuilder::scheduleFor(Operation *op,
                                               bool queriesStay) {
  if (override)
    return override;
  if (!queriesStay)
    return chooseScheduleOf(op, target, anyLayout, choice);
  if (auto step = op->getAttrOfType<tile::ScheduleAttr>(kQueryScheduleAttr))
    return step;
  auto own = op->getAttrOfType<tile::ScheduleAttr>(kScheduleAttr);
  if (own && !op->hasAttr(kSteppedAttr))
    return own;
  return tile::chooseSchedule(b.getContext(), target,
                              getScheduleProblem(op, anyLayout, queriesStay));
}

std::string ProgramBuilder::kernelName(StringRef suffix) {
  auto module = function->getParentOfType<ModuleOp>();
  std::string wanted = (function.getName() + "_" + suffix).str(), name = wanted;
  for (unsigned k = 1; module.lookupSymbol(name); ++k)
    name = (wanted + Twine(k)).str();
  return name;
}

void ProgramBuilder::launch(const AttnKernel &kernel) {
  SmallVector<Value> arguments;
  tile::KernelOp op = kernel.kernel;
  for (auto [index, outer] : llvm::enumerate(kernel.arguments)) {
    // Workspace that no value of the function stands for is the program's.
    Value inner = inProgram.lookup(outer);
    arguments.push_back(inner ? inner : outer);
    // Names travel down, so that a reader of the kernel's IR sees them.
    auto argument = dyn_cast<BlockArgument>(arguments.back());
    if (Attribute name = argument ? program.getArgAttr(argument.getArgNumber(),
                                                       tile::kNameAttr)
                                  : Attribute())
      op.setArgAttr(index, tile::kNameAttr, name);
  }
  tile::LaunchOp::create(b, op.getName(), arguments, Value());
  ++kernels;
}

void ProgramBuilder::launchNew(
    Operation *op, function_ref<AttnKernel(ImplicitLocOpBuilder &)> build) {
  ImplicitLocOpBuilder at(op->getLoc(), b.getContext());
  at.setInsertionPoint(function);
  launch(build(at));
}

//===----------------------------------------------------------------------===//
// Splitting keys
//===----------------------------------------------------------------------===//

/// Items of one range of keys each, one at least.
Value ProgramBuilder::countItems(tile::ScheduleAttr schedule,
                                 const ProblemSizes &sizes) {
  auto number = [&](int64_t value) -> Value {
    return arith::ConstantIndexOp::create(b, value);
  };
  Value rows = sizes.rows.size, heads = sizes.heads.size;
  if (schedule.getPackGroups()) {
    heads = arith::MaxUIOp::create(b, sizes.keyHeads.size, number(1));
    Value group = arith::DivUIOp::create(b, sizes.heads.size, heads);
    rows = arith::MulIOp::create(b, rows, group);
  }
  Value items =
      arith::CeilDivUIOp::create(b, rows, number(schedule.getBlockM()));
  for (Value size : {heads, sizes.sequences.size})
    items = arith::MulIOp::create(b, items, size);
  return arith::MaxUIOp::create(b, items, number(1));
}

/// How many ranges the keys of a call are split in: as many as its queries
/// leave items for, while each has some blocks.
Value ProgramBuilder::countRanges(tile::ScheduleAttr schedule,
                                  const ProblemSizes &sizes) {
  auto number = [&](int64_t value) -> Value {
    return arith::ConstantIndexOp::create(b, value);
  };
  Value most = number(schedule.getSplits());
  if (!schedule.getFill())
    return most;
  Value items = countItems(schedule, sizes);
  Value wanted = arith::DivUIOp::create(b, number(schedule.getFill()), items);
  Value blocks = arith::DivUIOp::create(
      b, sizes.keys.size, number(schedule.getBlockN() * tile::kLeastBlocks));
  Value ranges = arith::MinUIOp::create(b, most, wanted);
  return arith::MinUIOp::create(b, ranges, blocks);
}

/// Whether a call does little but wait for keys.
Value ProgramBuilder::haveFewQueries(const ProblemSizes &sizes) {
  Value rows = sizes.rows.size;
  for (Value size : {sizes.heads.size, sizes.sequences.size})
    rows = arith::MulIOp::create(b, rows, size);
  Value keys = arith::MulIOp::create(
      b, rows, arith::ConstantIndexOp::create(b, kKeysPerSplitRow));
  return arith::CmpIOp::create(b, arith::CmpIPredicate::ule, keys,
                               sizes.keys.size);
}

SplitSums ProgramBuilder::provideSums(attn::FusedOp op, Value ranges,
                                      const ProblemSizes &sizes) {
  auto provide = [&](ArrayRef<int64_t> columns) -> Value {
    SmallVector<int64_t> shape(4, ShapedType::kDynamic);
    llvm::append_range(shape, columns);
    ++workspaces;
    return tile::WorkspaceOp::create(
        b, tile::ViewType::get(b.getContext(), shape, b.getF32Type()),
        ValueRange{sizes.sequences.size, sizes.heads.size, sizes.rows.size,
                   ranges});
  };
  SplitSums sums;
  sums.output = provide(
      cast<RankedTensorType>(op.getOutput().getType()).getShape().back());
  if (op.getNormalize() != attn::Normalize::None)
    sums.sum = provide({});
  if (op.getNormalize() == attn::Normalize::Softmax)
    sums.max = provide({});
  return sums;
}

/// What ranges of keys give, and their sums.
void ProgramBuilder::lowerSplit(attn::FusedOp op, tile::ScheduleAttr schedule,
                                const ProblemSizes &sizes) {
  Value one = arith::ConstantIndexOp::create(b, 1);
  Value ranges = arith::MaxUIOp::create(b, countRanges(schedule, sizes), one);
  SplitSums sums = provideSums(op, ranges, sizes);
  launchNew(op, [&](ImplicitLocOpBuilder &at) {
    return buildFusedKernel(at, kernelName("attention_ranges"), op, orders,
                            schedule, sums);
  });
  for (const CombineShape &shape : getCombineShapes(schedule))
    launchNew(op, [&](ImplicitLocOpBuilder &at) {
      return buildCombineKernel(at,
                                kernelName(shape.moreThan
                                               ? "attention_combine_many"
                                               : "attention_combine"),
                                op, orders, schedule, sums, shape);
    });
}

//===----------------------------------------------------------------------===//
// Calls for which another program is faster
//===----------------------------------------------------------------------===//

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

void ProgramBuilder::lower(attn::FusedOp op) {
  ProblemSizes sizes = checkShapes(op);
  tile::ScheduleAttr schedule = scheduleFor(op);
  if (schedule.getSplits())
    return lowerSplit(op, schedule, sizes);
  preferOthers(op, sizes);
  launchNew(op, [&](ImplicitLocOpBuilder &at) {
    return buildFusedKernel(at, kernelName("attention"), op, orders, schedule);
  });
}

void ProgramBuilder::lower(attn::RowNormOp op) {
  attn::LayoutDims d = attn::getLayoutDims(op.getLayout());
  provideResult(op.getResult(), {extent(op.getInput(), d.b, "sequences"),
                                 extent(op.getInput(), d.h, "heads"),
                                 extent(op.getInput(), d.s, "rows")});
  tile::ScheduleAttr schedule = scheduleFor(op);
  launchNew(op, [&](ImplicitLocOpBuilder &at) {
    return buildRowNormKernel(at, kernelName("row_norm"), op, orders, schedule);
  });
}

/// What stands for f32 workspace in the function, which goes with it.
Value ProgramBuilder::standFor(Operation *op, ArrayRef<int64_t> shape) {
  OpBuilder at(op);
  return UnrealizedConversionCastOp::create(
             at, op->getLoc(), RankedTensorType::get(shape, b.getF32Type()),
             ValueRange())
      .getResult(0);
}

/// f32 sums of the queries' gradients in workspace, bands of 16 rows by groups
/// of 8 columns.
Value ProgramBuilder::provideQuerySums(attn::BackwardOp op,
                                       const ProblemSizes &sizes) {
  constexpr int64_t rows = 16, columns = 8;
  auto query = cast<RankedTensorType>(op.getQuery().getType());
  attn::LayoutDims d = attn::getLayoutDims(op.getLayout());
  int64_t groups = llvm::divideCeil(query.getDimSize(d.d), columns);
  Value sums = standFor(op, {query.getDimSize(d.b), query.getDimSize(d.h),
                             ShapedType::kDynamic, groups, rows * columns});
  Extent bands = sizes.rows;
  bands.size = arith::CeilDivUIOp::create(
      b, bands.size, arith::ConstantIndexOp::create(b, rows));
  provideResult(sums, {sizes.sequences, sizes.heads, bands, {}, {}});
  return sums;
}

/// For gradients of tables of relative positions: a block's f32 sums for each
/// diagonal that blocks lie on.
SmallVector<Value>
ProgramBuilder::provideDiagonalSums(attn::BackwardOp op,
                                    const ProblemSizes &sizes,
                                    tile::ScheduleAttr schedule) {
  SmallVector<Value> all(op.getOf().size());
  int64_t m = schedule.getBlockM(), n = schedule.getBlockN();
  auto query = cast<RankedTensorType>(op.getQuery().getType());
  attn::LayoutDims d = attn::getLayoutDims(op.getLayout());
  auto constant = [&](int64_t value) -> Value {
    return arith::ConstantIndexOp::create(b, value);
  };
  for (auto [number, index] : llvm::enumerate(op.getOf())) {
    AffineMap map = cast<AffineMapAttr>(op.getMaps()[index]).getValue();
    if (op.getDcaptures()[number].use_empty() || map.isProjectedPermutation() ||
        !attn::getDiagonals(map))
      continue;
    // See DiagonalKernel.
    Extent count = sizes.rows, one = {constant(1), "one"};
    Value rows = arith::CeilDivUIOp::create(b, sizes.rows.size, constant(m));
    Value keys = arith::CeilDivUIOp::create(b, sizes.keys.size, constant(n));
    count.size = arith::AddIOp::create(
        b, keys, arith::MulIOp::create(b, rows, constant(m / n)));
    bool perSequence = map.isFunctionOfDim(0), perHead = map.isFunctionOfDim(1);
    all[number] = standFor(op, {perSequence ? query.getDimSize(d.b) : 1,
                                perHead ? query.getDimSize(d.h) : 1,
                                ShapedType::kDynamic, m, n});
    provideResult(all[number], {perSequence ? sizes.sequences : one,
                                perHead ? sizes.heads : one,
                                count,
                                {},
                                {}});
  }
  return all;
}

void ProgramBuilder::lower(attn::BackwardOp op) {
  ProblemSizes sizes = checkBackwardOperands(op);
  auto provide = [&](Value result, const Extent &h, const Extent &s,
                     const Extent &d) {
    if (!result.use_empty())
      provideResult(result, ProblemSizes::order(op.getLayout(), sizes.sequences,
                                                h, s, d));
  };
  provide(op.getDquery(), sizes.heads, sizes.rows, sizes.columns);
  provide(op.getDkey(), sizes.keyHeads, sizes.keys, sizes.columns);
  provide(op.getDvalue(), sizes.keyHeads, sizes.keys, sizes.valueColumns);
  provideCaptureGradients(
      op, {sizes.sequences, sizes.heads, sizes.rows, sizes.keys});
  tile::ScheduleAttr schedule = scheduleFor(op);
  ImplicitLocOpBuilder at(op.getLoc(), b.getContext());
  Value sums;
  if (schedule.getOneKernel() && mayUseOneKernel(op))
    sums = provideQuerySums(op, sizes);
  BackwardSchedules schedules = {
      schedule, scheduleFor(op, /*queriesStay=*/true),
      tile::getPassingSchedule(getScheduleProblem(op, anyLayout), schedule),
      elementSchedule()};
  SmallVector<Value> diagonalSums =
      provideDiagonalSums(op, sizes, schedules.bothPass);
  at.setInsertionPoint(function);
  auto name = [&](StringRef what) { return kernelName(what); };
  for (const AttnKernel &kernel : buildBackwardKernels(
           at, name, op, orders, schedules, sums, diagonalSums))
    launch(kernel);
}

void ProgramBuilder::lower(attn::RowSumsOp op) {
  ProblemSizes sizes = checkBackwardOperands(op);
  for (Value result : op->getResults())
    provideResult(result, {sizes.sequences, sizes.heads, sizes.rows});
  tile::ScheduleAttr schedule = scheduleFor(op, /*queriesStay=*/true);
  launchNew(op, [&](ImplicitLocOpBuilder &at) {
    return buildRowSumsKernel(at, kernelName("row_sums"), op, orders, schedule);
  });
}

void ProgramBuilder::lower(attn::RowDotOp op) {
  attn::LayoutDims d = attn::getLayoutDims(op.getLayout());
  auto all = [&](Value tensor) {
    return SmallVector<Extent>{extent(tensor, d.b, "sequences"),
                               extent(tensor, d.h, "heads"),
                               extent(tensor, d.s, "rows")};
  };
  SmallVector<Extent> sizes = all(op.getLhs());
  for (auto [a, c] : llvm::zip_equal(sizes, all(op.getRhs())))
    checkEqual(a, c);
  provideResult(op.getResult(), sizes);
  tile::ScheduleAttr schedule = scheduleFor(op);
  launchNew(op, [&](ImplicitLocOpBuilder &at) {
    return buildRowDotKernel(at, kernelName("row_dot"), op, orders, schedule);
  });
}

void ProgramBuilder::lower(attn::SumOp op) {
  if (op.getLike()) {
    provideLike(op.getResult(), op.getLike());
  } else {
    SmallVector<Extent> sizes;
    for (AffineExpr expr : op.getMap().getResults())
      sizes.push_back(extent(
          op.getInput(), cast<AffineDimExpr>(expr).getPosition(), "elements"));
    provideResult(op.getResult(), sizes);
  }
  tile::ScheduleAttr schedule = elementSchedule();
  launchNew(op, [&](ImplicitLocOpBuilder &at) {
    return buildSumKernel(at, kernelName("sum"), op, orders, schedule);
  });
}

/// Of kernels without products: only the number of rows matters.
tile::ScheduleAttr ProgramBuilder::elementSchedule() {
  if (override)
    return override;
  tile::ScheduleProblem problem = {64, 64, b.getF32Type()};
  problem.gradients = true;
  return tile::chooseSchedule(b.getContext(), target, problem);
}

/// The sizes of a tensor, as they are.
SmallVector<Extent> ProgramBuilder::sizesOf(Value tensor) {
  SmallVector<Extent> sizes;
  int64_t rank = cast<RankedTensorType>(tensor.getType()).getRank();
  for (int64_t dim = 0; dim < rank; ++dim)
    sizes.push_back(
        extent(tensor, dim, "elements in dim " + std::to_string(dim)));
  return sizes;
}

/// What an epilogue and its gradients read: (b, h, i, d) of the input.
template <typename Op>
SmallVector<Extent> ProgramBuilder::checkEpilogueOperands(Op op) {
  attn::LayoutDims d = attn::getLayoutDims(op.getLayout());
  SmallVector<Extent> positions = {extent(op.getInput(), d.b, "sequences"),
                                   extent(op.getInput(), d.h, "heads"),
                                   extent(op.getInput(), d.s, "rows"),
                                   extent(op.getInput(), d.d, "columns")};
  checkCaptures(op.getCaptures(), op.getMaps(), positions);
  if (op.getQLen())
    checkEqual(extent(op.getQLen(), 0, "lengths"), positions[0]);
  return positions;
}

void ProgramBuilder::lower(attn::EpilogueOp op) {
  checkEpilogueOperands(op);
  provideResult(op.getOutput(), sizesOf(op.getInput()));
  launchNew(op, [&](ImplicitLocOpBuilder &at) {
    return buildEpilogueKernel(at, kernelName("epilogue"), op, orders,
                               elementSchedule());
  });
}

void ProgramBuilder::lower(attn::EpilogueGradientOp op) {
  SmallVector<Extent> positions = checkEpilogueOperands(op);
  for (auto [a, c] :
       llvm::zip_equal(sizesOf(op.getInput()), sizesOf(op.getDoutput())))
    checkEqual(a, c);
  if (!op.getDinput().use_empty())
    provideResult(op.getDinput(), sizesOf(op.getInput()));
  provideCaptureGradients(op, positions);
  ImplicitLocOpBuilder at(op.getLoc(), b.getContext());
  at.setInsertionPoint(function);
  auto name = [&](StringRef what) { return kernelName(what); };
  for (const AttnKernel &kernel :
       buildEpilogueGradientKernels(at, name, op, orders, elementSchedule()))
    launch(kernel);
}

/// Calls `fn` with the op as what it is.
template <typename Fn> static void visitKernelOp(Operation *op, Fn fn) {
  llvm::TypeSwitch<Operation *>(op)
      .Case<attn::FusedOp, attn::RowNormOp, attn::BackwardOp, attn::RowSumsOp,
            attn::RowDotOp, attn::SumOp, attn::EpilogueOp,
            attn::EpilogueGradientOp>(fn)
      .Default([](Operation *) {});
}

LogicalResult ProgramBuilder::build() {
  if (failed(checkFunction()))
    return failure();
  chooseLayouts();
  chooseNames();
  openProgram();
  for (Operation &op : function.front()) {
    b.setLoc(op.getLoc());
    visitKernelOp(&op, [&](auto kernelOp) { lower(kernelOp); });
  }
  function.erase();
  return success();
}

//===----------------------------------------------------------------------===//
// The pass
//===----------------------------------------------------------------------===//

struct AttnToTile : attnc::impl::AttnToTileBase<AttnToTile> {
  using AttnToTileBase::AttnToTileBase;

  FailureOr<tile::ScheduleAttr> parseSchedule();
  void runOnOperation() override;
};

FailureOr<tile::ScheduleAttr> AttnToTile::parseSchedule() {
  if (schedule.empty())
    return tile::ScheduleAttr();
  std::string text = schedule;
  if (text[0] != '#')
    text = "#tile.schedule<" + text + ">";
  std::string why; // its place in `text` says nothing to who wrote the option
  Attribute parsed;
  {
    ScopedDiagnosticHandler handler(&getContext(), [&](Diagnostic &diagnostic) {
      if (why.empty())
        why = ": " + diagnostic.str();
      return success();
    });
    parsed = parseAttribute(text, &getContext());
  }
  if (auto given = dyn_cast_or_null<tile::ScheduleAttr>(parsed))
    return given;
  return getOperation().emitError()
         << "schedule '" << schedule << "' is not a #tile.schedule<...>" << why
         << "; try 'block_m = 128, block_n = 64', few_queries or few_items; "
            "docs/reference/tile.md lists all keys";
}

bool hasAttention(func::FuncOp function) {
  return llvm::any_of(function.getBody().getOps(), [](Operation &op) {
    return isa<attn::AttnDialect>(op.getDialect());
  });
}

/// Functions of scalars may stay; tensors nothing later knows what to do with.
LogicalResult checkOther(func::FuncOp function) {
  auto isTensor = [](Type type) { return isa<TensorType>(type); };
  if (llvm::none_of(function.getArgumentTypes(), isTensor) &&
      llvm::none_of(function.getResultTypes(), isTensor))
    return success();
  return function.emitError()
         << "'" << function.getName()
         << "' has tensors, but no attention that its results depend on; "
            "expected it to return what attn.apply computes";
}

void AttnToTile::runOnOperation() {
  if (!tile::isKnownTarget(target)) {
    getOperation().emitError()
        << "unknown target '" << target << "': expected cpu or sm_90a";
    return signalPassFailure();
  }
  bool isChoice = isScheduleChoice(schedule);
  FailureOr<tile::ScheduleAttr> override =
      isChoice ? tile::ScheduleAttr() : parseSchedule();
  if (failed(override))
    return signalPassFailure();
  auto functions = llvm::to_vector(getOperation().getOps<func::FuncOp>());
  for (func::FuncOp function : functions) {
    if (!hasAttention(function)) {
      if (failed(checkOther(function)))
        return signalPassFailure();
      continue;
    }
    ProgramBuilder program(function, target, anyLayout, *override,
                           isChoice ? StringRef(schedule) : StringRef());
    if (failed(program.build()))
      return signalPassFailure();
    numKernels += program.kernels;
    numWorkspaces += program.workspaces;
  }
}

} // namespace
