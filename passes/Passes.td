//===- Passes.td - Every pass of the compiler, in pipeline order ----------===//
//
// One list. A pass lives in passes/<Name>.cpp and is tested in
// test/passes/<name>.mlir.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_PASSES_TD
#define ATTNC_PASSES_TD

include "mlir/Pass/PassBase.td"

//===----------------------------------------------------------------------===//
// attn -> attn
//===----------------------------------------------------------------------===//

//===----------------------------------------------------------------------===//
// attn -> tile
//===----------------------------------------------------------------------===//

def AttnToTile : Pass<"attn-to-tile", "::mlir::ModuleOp"> {
  let summary = "One tile.program for each function of attn ops";
  let description = [{
    Each `attn.fused` and `attn.row_norm` becomes a `tile.kernel`; the
    function becomes a `tile.program` that checks shapes and launches them.
    Results that only later ops read live in workspace. A block of queries
    visits the keys that its masks leave, and tests elements only where a mask
    may say no.

    The schedule of a kernel is, in this order: the option `schedule`, the
    op's attribute `tile.schedule`, the choice of the target's cost model.
  }];
  let dependentDialects = ["::attnc::tile::TileDialect",
                           "::mlir::arith::ArithDialect",
                           "::mlir::math::MathDialect"];
  let options = [
    Option<"target", "target", "std::string", /*default=*/"\"cpu\"",
           "whose cost model chooses schedules: cpu or sm_90a">,
    Option<"schedule", "schedule", "std::string", /*default=*/"\"\"",
           "a #tile.schedule<...>, or what stands between its brackets">];
  let statistics = [
    Statistic<"numKernels", "kernels", "kernels made">,
    Statistic<"numWorkspaces", "workspaces",
              "intermediate results kept in workspace">];
}

//===----------------------------------------------------------------------===//
// tile -> tile: TileOnlineSoftmax, TileSelectFormula
//===----------------------------------------------------------------------===//

//===----------------------------------------------------------------------===//
// tile -> tile: TilePlanLaunches
//===----------------------------------------------------------------------===//

//===----------------------------------------------------------------------===//
// tile -> CPU
//===----------------------------------------------------------------------===//

//===----------------------------------------------------------------------===//
// tile -> hopper
//===----------------------------------------------------------------------===//

//===----------------------------------------------------------------------===//
// hopper -> LLVM and NVVM
//===----------------------------------------------------------------------===//

#endif // ATTNC_PASSES_TD
