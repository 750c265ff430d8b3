//===- ProgramBuilder.h - A function of attn ops as a program ---*- C++ -*-===//
//
// Builds one tile.program: checks of a call's sizes, memory for what ops make,
// launches of their kernels, and for which calls another program is better. The
// kernels' bodies are others' work (AttnKernels.h).
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_PASSES_ATTNTOTILE_PROGRAMBUILDER_H
#define ATTNC_PASSES_ATTNTOTILE_PROGRAMBUILDER_H

#include "passes/AttnKernels.h"
#include "passes/ScheduleChoice.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "llvm/ADT/DenseSet.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/StringSet.h"

namespace attnc::programs {

using mlir::ArrayRef;
using mlir::ImplicitLocOpBuilder;
using mlir::LogicalResult;
using mlir::Operation;
using mlir::SmallVector;
using mlir::StringRef;
using mlir::Value;
using mlir::ValueRange;

/// A size the call must agree on, and in words whose it is.
struct Extent {
  Value size;
  std::string what;
};

/// The sizes of a fused op and its gradients.
struct ProblemSizes {
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

/// A number of a launch plan. (Preferences.cpp)
struct PlanNumber;

class ProgramBuilder {
public:
  ProgramBuilder(mlir::func::FuncOp function, StringRef target, bool anyLayout,
                 tile::ScheduleAttr override, StringRef choice)
      : function(function), target(target), anyLayout(anyLayout),
        override(override), choice(choice),
        b(function.getLoc(), function.getContext()) {}

  /// The function becomes a program and kernels.
  LogicalResult build();

  unsigned kernels = 0, workspaces = 0;

private:
  // Program.cpp.
  LogicalResult checkFunction();
  LogicalResult checkResults();
  void chooseLayouts();
  void chooseNames();
  void openProgram();
  std::string uniqueName(StringRef wanted);
  std::string kernelName(StringRef suffix);
  tile::ScheduleAttr scheduleFor(Operation *op, bool queriesStay = false);
  tile::ScheduleAttr elementSchedule();
  void launch(const AttnKernel &kernel);
  /// Makes a kernel in front of the function and launches it.
  void launchNew(Operation *op,
                 llvm::function_ref<AttnKernel(ImplicitLocOpBuilder &)> build);

  // Shapes.cpp.
  Value dimOf(Value tensor, int64_t tensorDim);
  Extent extent(Value tensor, int64_t tensorDim, StringRef unit);
  SmallVector<Extent> sizesOf(Value tensor);
  void checkEqual(const Extent &a, const Extent &b);
  void checkGroups(const Extent &heads, const Extent &keyHeads);
  void checkCapture(const attn::Capture &capture, ArrayRef<Extent> extents);
  void checkCaptures(ValueRange values, mlir::ArrayAttr maps,
                     ArrayRef<Extent> extents);
  void checkMasks(ValueRange masks, ArrayRef<Extent> extents);
  template <typename Op> ProblemSizes checkOperands(Op op);
  template <typename Op> ProblemSizes checkBackwardOperands(Op op);
  template <typename Op> SmallVector<Extent> checkEpilogueOperands(Op op);
  ProblemSizes checkShapes(attn::FusedOp op);
  ProblemSizes checkShapes(attn::BackwardOp op);
  ProblemSizes checkShapes(attn::RowSumsOp op);
  SmallVector<Extent> checkShapes(attn::EpilogueOp op);
  SmallVector<Extent> checkShapes(attn::EpilogueGradientOp op);
  void provideResult(Value result, ArrayRef<Extent> sizes);
  void provideLike(Value result, Value like);
  template <typename Op>
  void provideCaptureGradients(Op op, ArrayRef<Extent> positions);

  // Split.cpp.
  Value countItems(tile::ScheduleAttr schedule, const ProblemSizes &sizes);
  Value countRanges(tile::ScheduleAttr schedule, const ProblemSizes &sizes);
  Value haveFewQueries(const ProblemSizes &sizes);
  SplitSums provideSums(attn::FusedOp op, Value ranges,
                        const ProblemSizes &sizes);
  void lowerSplit(attn::FusedOp op, tile::ScheduleAttr schedule,
                  const ProblemSizes &sizes);

  // Preferences.cpp.
  Value countKeys(attn::FusedOp op, tile::ScheduleAttr schedule, Value row,
                  const ProblemSizes &sizes);
  PlanNumber predict(attn::FusedOp op, tile::ScheduleAttr schedule,
                     const ProblemSizes &sizes, Value ranges = {});
  void preferOthers(attn::FusedOp op, const ProblemSizes &sizes);

  // Ops.cpp.
  Value standFor(Operation *op, ArrayRef<int64_t> shape);
  Value provideQuerySums(attn::BackwardOp op, const ProblemSizes &sizes);
  SmallVector<Value> provideDiagonalSums(attn::BackwardOp op,
                                         const ProblemSizes &sizes,
                                         tile::ScheduleAttr schedule);
  void lower(attn::FusedOp op);
  void lower(attn::RowNormOp op);
  void lower(attn::BackwardOp op);
  void lower(attn::RowSumsOp op);
  void lower(attn::RowDotOp op);
  void lower(attn::SumOp op);
  void lower(attn::EpilogueOp op);
  void lower(attn::EpilogueGradientOp op);

  mlir::func::FuncOp function;
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
  llvm::DenseMap<Value, Value> inProgram;
  llvm::DenseSet<Value> inWorkspace;
  tile::ProgramOp program;
};

} // namespace attnc::programs

#endif // ATTNC_PASSES_ATTNTOTILE_PROGRAMBUILDER_H
