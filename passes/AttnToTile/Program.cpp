//===- Program.cpp - One program: its arguments and launches --------------===//
//
// A function of attn ops is checked, its values get names and layouts, and the
// program begins. Then each op becomes kernels (Ops.cpp), which are launched in
// the order of the ops.
//
//===----------------------------------------------------------------------===//

#include "passes/AttnToTile/ProgramBuilder.h"

#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::programs;

//===----------------------------------------------------------------------===//
// Functions that can become programs
//===----------------------------------------------------------------------===//

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

//===----------------------------------------------------------------------===//
// Arguments
//===----------------------------------------------------------------------===//

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

/// Of kernels without products: only the number of rows matters.
tile::ScheduleAttr ProgramBuilder::elementSchedule() {
  if (override)
    return override;
  tile::ScheduleProblem problem = {64, 64, b.getF32Type()};
  problem.gradients = true;
  return tile::chooseSchedule(b.getContext(), target, problem);
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
