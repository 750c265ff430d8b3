//===- ScheduleChoice.h - A schedule for a problem --------------*- C++ -*-===//
//
// The cost model behind the default schedules. It knows sizes and targets,
// never a score function.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_PASSES_SCHEDULECHOICE_H
#define ATTNC_PASSES_SCHEDULECHOICE_H

#include "dialects/attn/Attn.h"
#include "dialects/tile/Tile.h"

namespace attnc::tile {

/// What the choice may depend on: properties of the types, not of a call.
struct ScheduleProblem {
  int64_t headDim;
  int64_t valueHeadDim;
  mlir::Type elementType;
  /// What the loop over keys reads besides: values with one element a key,
  /// and values with one a (query, key) position. Where keys stay and queries
  /// pass, with one element a query.
  int64_t keyValues = 0;
  int64_t positionValues = 0;
  /// Whether functions of the position are computed in it.
  bool positions = false;
  /// Whether the logit's gradient has functions of the logit: what they have in
  /// common with the weight is kept.
  bool logits = false;
  /// Of gradients: functions of a position besides that of the logit, each of
  /// which is summed.
  int64_t summed = 0;
  /// Some operands are copied by ordinary loads, which take the producer's
  /// threads more registers than bulk copies.
  bool cooperative = false;
  /// Statistics of rows that it carries: a softmax has two.
  int64_t rowReductions = 0;
  /// A mask may give some queries fewer keys than others.
  bool unevenKeys = false;
  /// Gradients: a block of two operands stays while one of two others passes,
  /// and up to two sums of its rows are kept.
  bool gradients = false;
  /// Of those, only the sum of the queries is kept.
  bool queriesStay = false;
  /// Several query heads may share a key head.
  bool hasGroups = false;
  /// One kernel may make all of them, in no fixed order.
  bool oneKernel = false;
};

/// Why a schedule was chosen, for `attnc explain`.
struct ScheduleFootprint {
  /// CPU: bytes of all tiles of one work item. sm_90a: shared memory.
  int64_t bytes;
  int64_t budget;
  /// sm_90a: accumulator registers a thread holds; 0 on the CPU.
  int64_t registers;
};

/// What the loop over keys computes for each logit: instructions of the special
/// function unit, and all that a thread issues.
struct ElementCost {
  double functions, issued;
};

/// Clocks of one SM for one key block of one work item on sm_90a, each pipe on
/// its own. The largest bounds the speed from below; the sum of those of
/// elements and products is what a schedule without overlap would take.
struct PipeClocks {
  double tensor, functions, issue, sharedMemory, cache;
};

PipeClocks getPipeClocks(const ScheduleProblem &problem, ScheduleAttr schedule,
                         ElementCost cost);

/// Where keys are split, blocks of keys that a range is worth.
inline constexpr int64_t kLeastBlocks = 2;

/// The names `chooseSchedule` accepts.
bool isKnownTarget(llvm::StringRef target);

/// Columns that one speculation on sm_90a decides on, of `blockN`; 0 if that is
/// no multiple of 8. The guards of two slices are on their way while one is
/// decided on: wide slices need registers, narrow ones branch more.
int64_t getWidestSlice(int64_t blockN);

/// What was measured to be the fastest, else the cost model's. `target` must be
/// known.
ScheduleAttr chooseSchedule(mlir::MLIRContext *context, llvm::StringRef target,
                            const ScheduleProblem &problem);

/// Whether it was measured.
bool isScheduleMeasured(mlir::MLIRContext *context, llvm::StringRef target,
                        const ScheduleProblem &problem);

/// The cost model's alone.
ScheduleAttr modelSchedule(mlir::MLIRContext *context, llvm::StringRef target,
                           const ScheduleProblem &problem);

/// For few queries and many keys, whose ranges are split among items: blocks
/// of 64 rows, of which most may be empty, that do nothing but wait for keys.
ScheduleAttr chooseSplitSchedule(mlir::MLIRContext *context,
                                 llvm::StringRef target,
                                 const ScheduleProblem &problem);

/// For few work items: blocks of 64 rows, as many as can be, two thread blocks
/// of which share a multiprocessor where they fit.
ScheduleAttr chooseFewItemsSchedule(mlir::MLIRContext *context,
                                    llvm::StringRef target,
                                    const ScheduleProblem &problem);

/// What an item of a schedule takes on sm_90a, see predictClocks: clocks for
/// each key where it has a multiprocessor for itself, and that many share one
/// otherwise, where all of them take `together`.
struct ItemClocks {
  int64_t alone, together, resident;
};
ItemClocks getItemClocks(const ScheduleProblem &problem, ScheduleAttr schedule);

/// On an H200.
inline constexpr int64_t kMultiprocessors = 132;
/// Of each round of items beside its keys: queries on their way, results.
inline constexpr int64_t kRoundClocks = 3500;

/// How long `items` take whose rows attend so many keys at most and on average,
/// the longest first. Numbers may be values of a launch plan.
template <typename Number>
Number predictClocks(const ItemClocks &clocks, Number items, Number longest,
                     Number average) {
  Number rounds = ceilDiv(items, kMultiprocessors * clocks.resident);
  Number rate =
      ifAtMost(items, kMultiprocessors, clocks.alone, clocks.together);
  return rounds * kRoundClocks +
         larger(longest * clocks.alone, rounds * average * rate);
}

/// Adding up what ranges of keys gave: the second launch, and 64 columns of a
/// row, which are weighted first where rows have statistics.
inline constexpr int64_t kCombineClocks = 3500, kAddClocks = 2,
                         kWeighClocks = 4;

/// Another program must be faster by a tenth and by so many clocks: it has to
/// be compiled, and predictions are off by as much.
inline constexpr int64_t kLeastSavedClocks = 4000;

/// `first` and ever plainer schedules, for when the assembler cannot keep one
/// in registers: narrower key blocks, then fewer consumers, then no overlap of
/// the products, at last one consumer that does one thing at a time. All fit.
llvm::SmallVector<ScheduleAttr>
getScheduleLadder(llvm::StringRef target, const ScheduleProblem &problem,
                  ScheduleAttr first);

/// For a loop in which both blocks of a kernel of gradients pass, made of the
/// schedule of one in which keys stay: blocks of keys divide those of queries.
ScheduleAttr getPassingSchedule(const ScheduleProblem &problem,
                                ScheduleAttr schedule);

ScheduleFootprint getFootprint(llvm::StringRef target,
                               const ScheduleProblem &problem,
                               ScheduleAttr schedule);

} // namespace attnc::tile

namespace attnc {

/// What the schedule of an op that becomes kernels is chosen for; `anyLayout`:
/// operands may have any strides. `queriesStay`: of gradients, the kernel that
/// needs no more than the queries' sums.
tile::ScheduleProblem getScheduleProblem(mlir::Operation *op, bool anyLayout,
                                         bool queriesStay = false);

/// Whether the kernel of an attention can split its keys.
bool canSplitKeys(attn::FusedOp op);

/// Whether the text stands in place of a schedule: nothing, tile::kFewQueries
/// or tile::kFewItems.
bool isScheduleChoice(llvm::StringRef text);

/// The schedule of the kernels that an op becomes: its own, else what the cost
/// model chooses, for the calls that `choice` says.
tile::ScheduleAttr chooseScheduleOf(mlir::Operation *op, llvm::StringRef target,
                                    bool anyLayout, llvm::StringRef choice);

/// Whether the gradients of key and value are two kernels: the sums of both do
/// not fit in the registers of a GPU's thread.
bool splitsKeyGradients(tile::ScheduleAttr schedule, int64_t headDim,
                        int64_t valueHeadDim);

/// The attribute of such an op that holds a schedule of its own, and one that
/// says that it is the cost model's after steps on the ladder. The kernel in
/// which queries stay has a ladder of its own, and an attribute for its step.
inline constexpr llvm::StringLiteral kScheduleAttr = "tile.schedule";
inline constexpr llvm::StringLiteral kSteppedAttr = "tile.stepped";
inline constexpr llvm::StringLiteral kQueryScheduleAttr = "tile.query_schedule";

/// Whether gradients have a kernel in which queries stay, and it is the first.
bool hasQueryKernel(attn::BackwardOp op, tile::ScheduleAttr schedule);

} // namespace attnc

#endif // ATTNC_PASSES_SCHEDULECHOICE_H
