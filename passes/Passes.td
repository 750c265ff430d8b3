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

def AttnRaiseIdioms : Pass<"attn-raise-idioms"> {
  let summary = "Spelled-out functions become the ops that name them";
  let description = [{
    Finds a function however it was written, so that later passes choose a
    formula for it:

        1 / (1 + exp(-x)), exp(x) / (1 + exp(x)),
        0.5 * tanh(0.5 * x) + 0.5, 1 - logistic(-x)  ->  attn.logistic
        log(1 + exp(x)), log1p(exp(x))  ->  max(x, 0) + log1p(exp(-|x|))
        x / c                           ->  x * (1 / c)
        pow(x, 2)                       ->  x * x

    The softplus on the right overflows nowhere.
  }];
  let dependentDialects = ["::attnc::attn::AttnDialect"];
  let statistics = [
    Statistic<"numRaised", "raised", "idioms replaced">];
}

def AttnFuse : Pass<"attn-fuse", "::mlir::func::FuncOp"> {
  let summary = "A chain of steps becomes one attn.fused";
  let description = [{
    attn.scores, then any of attn.bias, attn.score_mod and attn.mask, then
    attn.activation or attn.softmax (neither: the weights are the logits), then
    attn.apply and at most one attn.epilogue become one attn.fused; an attn.lse
    of the softmax's logits becomes its second result. Attributes of attn.apply
    move to the fused op. A step that is left over is an error: an n x n value
    never exists.
  }];
  let dependentDialects = ["::attnc::attn::AttnDialect"];
  let statistics = [
    Statistic<"numFused", "fused", "chains fused">];
}

def AttnDifferentiate : Pass<"attn-differentiate", "::mlir::func::FuncOp"> {
  let summary = "A function becomes the function of its gradients";
  let description = [{
    Rewrites a function with the attribute `attn.differentiate` that holds one
    `attn.fused`. Its arguments stay and others follow: for a softmax the
    forward's `output` and `lse`, and the gradient of the LSE if that result
    has the attribute `attn.gradient`, then the gradient of the output. It
    returns the gradients of the arguments that have this attribute, in their
    order; if none has it, of query, key and value. An argument x gives a
    result named dx. `attn.differentiate = f32` gives all gradients that type;
    else each has its argument's. An `attn.row_norm` hands its gradient on.

    Regions are differentiated in reverse by the derivatives of the op table.
    An op that has none there is an error.
  }];
  let dependentDialects = ["::attnc::attn::AttnDialect",
                           "::mlir::arith::ArithDialect",
                           "::mlir::math::MathDialect"];
  let statistics = [
    Statistic<"numDifferentiated", "differentiated",
              "functions differentiated">];
}

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
                           "::mlir::math::MathDialect",
                           "::mlir::scf::SCFDialect"];
  let options = [
    Option<"target", "target", "std::string", /*default=*/"\"cpu\"",
           "whose cost model chooses schedules: cpu or sm_90a">,
    Option<"schedule", "schedule", "std::string", /*default=*/"\"\"",
           "a #tile.schedule<...>, or what stands between its brackets">,
    Option<"anyLayout", "any-layout", "bool", "false",
           "choose for operands of any strides and alignment">];
  let statistics = [
    Statistic<"numKernels", "kernels", "kernels made">,
    Statistic<"numWorkspaces", "workspaces",
              "intermediate results kept in workspace">];
}

//===----------------------------------------------------------------------===//
// tile -> tile: TileOnlineSoftmax, TileSelectFormula
//===----------------------------------------------------------------------===//

def TileOnlineSoftmax : Pass<"tile-online-softmax", "::mlir::ModuleOp"> {
  let summary = "Expands tile.softmax_step";
  let description = [{
    Into reductions and maps. Exponentials are powers of 2: the maximum is
    multiplied by log2(e) once a row, so that a weight costs a product, a
    difference and one exp2. A row that has seen no key yet has weights 0 and
    alpha 1, never NaN.
  }];
  let dependentDialects = ["::attnc::tile::TileDialect",
                           "::mlir::arith::ArithDialect",
                           "::mlir::math::MathDialect"];
  let statistics = [Statistic<"numSteps", "steps", "softmax steps expanded">];
}

def TileSelectFormula : Pass<"tile-select-formula", "::mlir::ModuleOp"> {
  let summary = "Chooses a formula for each elementwise function";
  let description = [{
    Replaces the elementwise functions in kernels by the formulas of the op
    table: arithmetic, integer arithmetic on the bits of floats, division,
    math.sqrt and math.exp2 with `afn`. Constant factors of exponents are
    folded into run-time scalars, which leaves one multiply-add for scale and
    bias of a logit; for sm_90a, products and the sums that read them may be
    fused.

    Where the schedule has a `slice`, a map that ends in a function with a
    checked form becomes `tile.speculate`.
  }];
  let dependentDialects = ["::attnc::tile::TileDialect",
                           "::mlir::arith::ArithDialect",
                           "::mlir::math::MathDialect"];
  let options = [
    Option<"target", "target", "std::string", /*default=*/"\"cpu\"",
           "whose formulas: cpu or sm_90a">,
    Option<"formula", "formula", "std::string", /*default=*/"\"checked\"",
           "checked: cheap formulas behind a check where the schedule has a "
           "slice; exact: none of them">];
  let statistics = [
    Statistic<"numExpanded", "expanded", "functions replaced by formulas">,
    Statistic<"numFolded", "folded", "constant factors folded">,
    Statistic<"numFused", "fused", "multiplications fused with an addition">,
    Statistic<"numSpeculated", "speculated", "maps with a checked formula">];
}

//===----------------------------------------------------------------------===//
// tile -> tile: TilePlanLaunches
//===----------------------------------------------------------------------===//

def TilePlanLaunches : Pass<"tile-plan-launches", "::mlir::ModuleOp"> {
  let summary = "Gives each launch its number of work items";
  let description = [{
    Repeats the arithmetic of a kernel's grid before each launch of it and
    sets the launch's `items` operand to the product of the counts.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect"];
  let statistics = [Statistic<"numPlanned", "num-planned",
                              "launches that got an item count">];
}

//===----------------------------------------------------------------------===//
// tile -> CPU
//===----------------------------------------------------------------------===//

def TileToCpu : Pass<"tile-to-cpu", "::mlir::ModuleOp"> {
  let summary = "Turns each tile kernel into loops over vectors";
  let description = [{
    A kernel becomes a function that computes one work item; tiles live in
    scratch memory of the thread, rows are vector lanes. Any valid tile
    program is accepted, whatever its schedule.
  }];
  let options = [
    Option<"lanes", "lanes", "int64_t", "8",
           "f32 numbers in a vector register: 4, 8 or 16">,
    Option<"registers", "registers", "int64_t", "16",
           "vector registers of the processor">];
  let dependentDialects = ["::mlir::arith::ArithDialect",
    "::mlir::func::FuncDialect", "::mlir::LLVM::LLVMDialect",
    "::mlir::math::MathDialect", "::mlir::scf::SCFDialect",
    "::mlir::vector::VectorDialect"];
  let statistics = [Statistic<"numKernels", "num-kernels",
                              "kernels that became functions">];
}

def CpuExpandMath : Pass<"cpu-expand-math", "::mlir::ModuleOp"> {
  let summary = "Expands elementary functions to arithmetic";
  let description = [{
    After this no function of the module calls a math library.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect",
    "::mlir::LLVM::LLVMDialect", "::mlir::math::MathDialect",
    "::mlir::vector::VectorDialect"];
}

def CpuToLLVM : Pass<"cpu-to-llvm", "::mlir::ModuleOp"> {
  let summary = "Converts CPU kernels to the LLVM dialect";
  let description = [{
    The launch plan stays as it is.
  }];
  let dependentDialects = ["::mlir::cf::ControlFlowDialect",
                           "::mlir::LLVM::LLVMDialect"];
}

//===----------------------------------------------------------------------===//
// tile -> hopper
//===----------------------------------------------------------------------===//

def TileToHopper : Pass<"tile-to-hopper", "::mlir::ModuleOp"> {
  let summary = "Schedules tile kernels on Hopper's roles, rings and wgmma";
  let description = [{
    Replaces each `tile.kernel` by a `hopper.kernel` of the same name, as its
    `#tile.schedule` asks. A schedule that does not fit is an error that says
    what is needed and what there is.
  }];
  let options = [
    Option<"anyLayout", "any-layout", "bool", "false",
           "Copies without TMA: operands may have any strides and alignment">];
  let statistics = [Statistic<"numScheduled", "num-scheduled",
                              "Number of kernels scheduled">];
  let dependentDialects = ["::attnc::hopper::HopperDialect",
                           "::mlir::affine::AffineDialect"];
}

//===----------------------------------------------------------------------===//
// hopper -> LLVM and NVVM
//===----------------------------------------------------------------------===//

def HopperToLLVM : Pass<"hopper-to-llvm", "::mlir::ModuleOp"> {
  let summary = "Lowers hopper kernels to LLVM, NVVM intrinsics and PTX";
  let description = [{
    Each `hopper.kernel` becomes an `llvm.func` of the same name with the
    attribute `attnc.kernel`, which tells a launcher the number of threads,
    the shared memory and where each parameter comes from. Short kernels that
    no program launches first `follow`: they may begin while the launch before
    them ends, and wait for it before they read anything.
  }];
  let statistics = [Statistic<"numLowered", "num-lowered",
                              "Number of kernels lowered">];
  let dependentDialects = ["::mlir::LLVM::LLVMDialect"];
}

def AttncVerifyCodegen : Pass<"attnc-verify-codegen", "::mlir::ModuleOp"> {
  let summary = "Admits only what is known to become machine code";
  let description = [{
    The backend ends the process where it cannot select an instruction. This
    pass looks at each kernel before it gets there: ops of the LLVM dialect
    that are known to select, intrinsics that exist, types that have
    registers. Anything else is an error.
  }];
}

#endif // ATTNC_PASSES_TD
