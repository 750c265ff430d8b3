//===- AttnKernels.h - The tile kernels of attn ops -------------*- C++ -*-===//
//
// Plain functions that write the body of one tile.kernel for one attn op;
// `attn-to-tile` calls them and builds the program around them.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_PASSES_ATTNKERNELS_H
#define ATTNC_PASSES_ATTNKERNELS_H

#include "dialects/attn/Attn.h"
#include "dialects/tile/Tile.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "llvm/ADT/DenseMap.h"

namespace attnc {

/// Which tensor dim each dim of a tensor's view is: (b, h, s, d) for queries,
/// keys, values and outputs, whatever their layout; the identity otherwise.
class ViewOrders {
public:
  /// The first use of a tensor decides.
  void setLayout(mlir::Value tensor, attn::Layout layout);
  llvm::SmallVector<int64_t> get(mlir::Value tensor) const;
  tile::ViewType getViewType(mlir::Value tensor) const;

  /// Reorders what stands for each tensor dim into what stands for each view
  /// dim.
  template <typename T>
  llvm::SmallVector<T> toView(mlir::Value tensor,
                              llvm::ArrayRef<T> perTensorDim) const {
    llvm::SmallVector<T> perViewDim;
    for (int64_t dim : get(tensor))
      perViewDim.push_back(perTensorDim[dim]);
    return perViewDim;
  }

private:
  llvm::DenseMap<mlir::Value, llvm::SmallVector<int64_t>> orders;
};

/// A finished kernel and the values of the function that its arguments are.
struct AttnKernel {
  tile::KernelOp kernel;
  llvm::SmallVector<mlir::Value> arguments;
};

/// Views of workspace, values of the program: what each range of a query's
/// keys gives. (b, h, s, range, d) of its output, (b, h, s, range) of its row
/// sum and maximum, which are null where the attention has none. What is added
/// lies together.
struct SplitSums {
  static constexpr int64_t kRangeDim = 3;
  mlir::Value output, sum, max;

  llvm::SmallVector<mlir::Value> all() const {
    llvm::SmallVector<mlir::Value> views = {output};
    for (mlir::Value view : {sum, max})
      if (view)
        views.push_back(view);
    return views;
  }
};

/// With `sums`, the first of two kernels: an item takes one range of keys and
/// leaves there what it gives.
AttnKernel buildFusedKernel(mlir::ImplicitLocOpBuilder &builder,
                            llvm::StringRef name, attn::FusedOp op,
                            const ViewOrders &orders,
                            tile::ScheduleAttr schedule,
                            const SplitSums &sums = {});

/// What a kernel that adds ranges is made for: more ranges than `moreThan` and
/// at most `ranges`, and how many rows an item has.
struct CombineShape {
  int64_t moreThan, ranges, rows;
};

/// The kernels that one schedule needs; a call's number of ranges leaves items
/// to one of them.
llvm::SmallVector<CombineShape> getCombineShapes(tile::ScheduleAttr schedule);

/// The second: adds what the ranges gave, in their order, and finishes.
AttnKernel buildCombineKernel(mlir::ImplicitLocOpBuilder &builder,
                              llvm::StringRef name, attn::FusedOp op,
                              const ViewOrders &orders,
                              tile::ScheduleAttr schedule,
                              const SplitSums &sums, CombineShape shape);

AttnKernel buildRowNormKernel(mlir::ImplicitLocOpBuilder &builder,
                              llvm::StringRef name, attn::RowNormOp op,
                              const ViewOrders &orders,
                              tile::ScheduleAttr schedule);

/// Whether the kernel of the keys' gradients may also sum up those of the
/// queries.
bool mayUseOneKernel(attn::BackwardOp op);

/// An epilogue that is not fused.
AttnKernel buildEpilogueKernel(mlir::ImplicitLocOpBuilder &builder,
                               llvm::StringRef name, attn::EpilogueOp op,
                               const ViewOrders &orders,
                               tile::ScheduleAttr schedule);

llvm::SmallVector<AttnKernel> buildEpilogueGradientKernels(
    mlir::ImplicitLocOpBuilder &builder,
    llvm::function_ref<std::string(llvm::StringRef)> name,
    attn::EpilogueGradientOp op, const ViewOrders &orders,
    tile::ScheduleAttr schedule);

/// Of the kernels of gradients, by what stays while what passes; the last is of
/// those that only add up.
struct BackwardSchedules {
  tile::ScheduleAttr keysStay, queriesStay, bothPass, sums;
};

/// One to write each gradient that is used; `name` makes a kernel's name from
/// what it does. With `querySums`, f32 memory for the queries' gradients, these
/// have no kernel of their own. `diagonalSums` has for each number of a
/// capture's gradient the memory for sums of blocks at one distance, null where
/// it needs none.
llvm::SmallVector<AttnKernel>
buildBackwardKernels(mlir::ImplicitLocOpBuilder &builder,
                     llvm::function_ref<std::string(llvm::StringRef)> name,
                     attn::BackwardOp op, const ViewOrders &orders,
                     const BackwardSchedules &schedules, mlir::Value querySums,
                     llvm::ArrayRef<mlir::Value> diagonalSums);

AttnKernel buildRowSumsKernel(mlir::ImplicitLocOpBuilder &builder,
                              llvm::StringRef name, attn::RowSumsOp op,
                              const ViewOrders &orders,
                              tile::ScheduleAttr schedule);

AttnKernel buildRowDotKernel(mlir::ImplicitLocOpBuilder &builder,
                             llvm::StringRef name, attn::RowDotOp op,
                             const ViewOrders &orders,
                             tile::ScheduleAttr schedule);

AttnKernel buildSumKernel(mlir::ImplicitLocOpBuilder &builder,
                          llvm::StringRef name, attn::SumOp op,
                          const ViewOrders &orders,
                          tile::ScheduleAttr schedule);

} // namespace attnc

#endif // ATTNC_PASSES_ATTNKERNELS_H
