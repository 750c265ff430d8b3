//===- Ops.cpp - Each op as kernels ---------------------------------------===//
//
// What an op of the function makes gets memory and the kernels that compute it,
// in front of the function, are launched.
//
//===----------------------------------------------------------------------===//

#include "passes/AttnToTile/ProgramBuilder.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::programs;

//===----------------------------------------------------------------------===//
// Attention
//===----------------------------------------------------------------------===//

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

//===----------------------------------------------------------------------===//
// Gradients
//===----------------------------------------------------------------------===//

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
    // See AttnBackwardKernels/DiagonalKernels.cpp.
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
  ProblemSizes sizes = checkShapes(op);
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
  ProblemSizes sizes = checkShapes(op);
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

//===----------------------------------------------------------------------===//
// Epilogues
//===----------------------------------------------------------------------===//

void ProgramBuilder::lower(attn::EpilogueOp op) {
  checkShapes(op);
  provideResult(op.getOutput(), sizesOf(op.getInput()));
  launchNew(op, [&](ImplicitLocOpBuilder &at) {
    return buildEpilogueKernel(at, kernelName("epilogue"), op, orders,
                               elementSchedule());
  });
}

void ProgramBuilder::lower(attn::EpilogueGradientOp op) {
  SmallVector<Extent> positions = checkShapes(op);
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
