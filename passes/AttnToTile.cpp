//===- AttnToTile.cpp - Functions of attn ops become tile programs --------===//
//
// Each function with attention becomes a tile.program, which launches the
// kernels of its ops. AttnToTile/ holds what builds it.
//
//===----------------------------------------------------------------------===//

#include "passes/AttnToTile/ProgramBuilder.h"
#include "passes/Passes.h"

#include "mlir/AsmParser/AsmParser.h"

namespace attnc {
#define GEN_PASS_DEF_ATTNTOTILE
#include "passes/Passes.h.inc"
} // namespace attnc

using namespace mlir;
using namespace attnc;

namespace {
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
    programs::ProgramBuilder program(function, target, anyLayout, *override,
                                     isChoice ? StringRef(schedule)
                                              : StringRef());
    if (failed(program.build()))
      return signalPassFailure();
    numKernels += program.kernels;
    numWorkspaces += program.workspaces;
  }
}

} // namespace
