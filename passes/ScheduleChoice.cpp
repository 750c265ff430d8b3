//===- ScheduleChoice.cpp - A schedule for a problem ----------------------===//

#include "passes/ScheduleChoice.h"

using namespace mlir;
using namespace attnc::tile;

namespace {

constexpr StringLiteral kCpu = "cpu";
constexpr StringLiteral kSm90a = "sm_90a";

/// Half of a core's second-level cache on small server cores: the rest is for
/// the next blocks of keys and values on their way in.
constexpr int64_t kCpuCacheBudget = 256 * 1024;

/// Shared memory one block may have, less the barriers.
constexpr int64_t kSharedMemory = 227 * 1024 - 1024;
constexpr int64_t kRowsPerConsumer = 64;
/// Of 64 rows of f32 sums, in half the registers of a thread.
constexpr int64_t kMostGradientColumns = 256;

/// What an SM does a clock. The last is the share of an SM of what the second-
/// level cache of an H200 delivers to all at once.
constexpr double kFlopsPerClock = 4096, kFunctionsPerClock = 16,
                 kIssuedPerClock = 128, kSharedBytesPerClock = 128,
                 kCacheBytesPerClock = 25;

int64_t bytesOf(Type type) { return (type.getIntOrFloatBitWidth() + 7) / 8; }
int64_t roundUp(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

/// Query, key and value tiles, the logits and weights, the f32 output.
int64_t cpuBytes(const ScheduleProblem &p, int64_t blockM, int64_t blockN) {
  int64_t element = bytesOf(p.elementType);
  return blockM * p.headDim * element +
         blockN * (p.headDim + p.valueHeadDim) * element +
         blockM * blockN * (4 + element) + blockM * p.valueHeadDim * 4;
}

/// Keys and values are read once for each query block, so a tall block saves
/// the most traffic: take the tallest that fits, then the widest.
ScheduleAttr chooseCpu(MLIRContext *context, const ScheduleProblem &p) {
  for (int64_t blockM : {128, 64, 32, 16})
    for (int64_t blockN : {64, 32, 16})
      if (cpuBytes(p, blockM, blockN) <= kCpuCacheBudget)
        return ScheduleAttr::get(context, blockM, blockN, 0, 0, Order::Serial,
                                 false, false, false, 1, 0, false);
  return ScheduleAttr::get(context, 16, 16, 0, 0, Order::Serial, false, false,
                           false, 1, 0, false);
}

/// Registers of one thread for logits, weights and output of 64 rows: a
/// warpgroup spreads 64 x n f32 over 128 threads.
int64_t sm90Registers(const ScheduleProblem &p, int64_t blockN) {
  return blockN / 2 + blockN / 4 + roundUp(p.valueHeadDim, 16) / 2 +
         p.keyValues * blockN / 4 + p.positionValues * blockN / 2;
}

/// What is left of the register file for the above (two consumers get 240 of
/// which 24 are addresses and counters, three get 160, four 112; beside a
/// producer that copies by itself 224 and 152).
int64_t sm90RegisterBudget(const ScheduleProblem &p, int64_t consumers) {
  if (consumers == 4)
    return p.cooperative ? 0 : 80;
  if (consumers == 3)
    return p.cooperative ? 120 : 128;
  return p.cooperative ? 192 : 216;
}

int64_t sm90Bytes(const ScheduleProblem &p, int64_t blockM, int64_t blockN,
                  int64_t stages) {
  int64_t element = bytesOf(p.elementType);
  // Rows lie in shared memory as panels of 128 bytes.
  int64_t panel = 128 / element;
  int64_t d = roundUp(p.headDim, panel), dv = roundUp(p.valueHeadDim, panel);
  return (blockM * d + stages * blockN * (d + dv)) * element;
}

/// Beside threads that copy, blocks that are no wider leave three consumers
/// four more registers: at head dim 128 80 keys in place of 64 gain up to 0.04.
constexpr int64_t kNarrowOfThree = 80;

/// The widest key block that registers and two stages of shared memory allow.
int64_t sm90BlockN(const ScheduleProblem &p, int64_t consumers) {
  int64_t blockM = consumers * kRowsPerConsumer, blockN = 128;
  auto fits = [&] {
    bool hasMore = p.cooperative && consumers == 3 && blockN <= kNarrowOfThree;
    int64_t budget = sm90RegisterBudget(p, consumers) + (hasMore ? 4 : 0);
    return sm90Registers(p, blockN) <= budget &&
           sm90Bytes(p, blockM, blockN, 2) <= kSharedMemory;
  };
  while (blockN > 16 && !fits())
    blockN -= 16;
  return blockN;
}

/// The narrowest key block that three consumers are worth: products of 64 x 80
/// still feed the tensor cores from shared memory. Copies by threads feed them
/// more slowly, and a third fewer copies are worth a narrower block: 0.56 in
/// place of 0.49 of bulk copies at head dim 128.
int64_t narrowestOfThree(const ScheduleProblem &p) {
  return p.cooperative ? 64 : 80;
}

/// Threads that copy fill four slots at once, which want to be others than
/// those that are read: a third stage is worth blocks down to this many keys.
constexpr int64_t kNarrowestOfThreads = 48;

/// Threads that copy lose 2 % with a fourth stage where it needs more shared
/// memory than this. Perhaps since the words of a line are copied one after the
/// other, and what is left of that memory caches the line meanwhile.
constexpr int64_t kMostOfFourStages = 200 * 1024;

/// As many stages as fit, up to four, beside `slots` slots for queries; 1 if
/// not even two do.
int64_t sm90Stages(const ScheduleProblem &p, int64_t blockM, int64_t blockN,
                   int64_t slots) {
  int64_t extra = sm90Bytes(p, blockM, 0, 0) * (slots - 1);
  int64_t stages = 4;
  auto bytes = [&] { return sm90Bytes(p, blockM, blockN, stages) + extra; };
  if (p.cooperative && bytes() > kMostOfFourStages)
    --stages;
  while (stages > 1 && bytes() > kSharedMemory)
    --stages;
  return stages;
}

/// The widest key block, up to `blockN`, beside which two slots for queries
/// fit, if tensor cores can be fed with it; else 0.
int64_t blockNOfTwoSlots(const ScheduleProblem &p, int64_t blockM,
                         int64_t blockN) {
  int64_t narrowest = narrowestOfThree(p);
  while (blockN >= narrowest && sm90Stages(p, blockM, blockN, /*slots=*/2) < 2)
    blockN -= 16;
  return blockN >= narrowest ? blockN : 0;
}

/// `blockN`, or the widest narrower block with three stages.
int64_t blockNOfThreads(const ScheduleProblem &p, int64_t blockM,
                        int64_t blockN) {
  int64_t narrower = blockN;
  while (narrower > kNarrowestOfThreads &&
         sm90Stages(p, blockM, narrower, /*slots=*/1) < 3)
    narrower -= 16;
  return sm90Stages(p, blockM, narrower, /*slots=*/1) < 3 ? blockN : narrower;
}

/// Whether guards of wide slices would be spilled: those of three consumers
/// whose sums fill their registers, beside the positions of masks, and those of
/// four with wide blocks of keys, where the first block is also the masked one.
bool leavesNoneForSlices(const ScheduleProblem &p, int64_t consumers,
                         int64_t blockN) {
  if (consumers == 4)
    return !p.unevenKeys && getWidestSlice(blockN) > 32;
  return consumers == 3 && !p.rowReductions && p.unevenKeys &&
         sm90Registers(p, blockN) >= sm90RegisterBudget(p, consumers);
}

/// More consumers hide more of the elementwise work and reuse keys more, as
/// long as that leaves a key block wide enough to feed the tensor cores.
ScheduleAttr chooseSm90a(MLIRContext *context, const ScheduleProblem &p,
                         int64_t mostConsumers = 4) {
  int64_t consumers = 1;
  // Measured on an H200 (benchmarks/journal.md, 18 to 24). A softmax reduces
  // its rows for each block, which wants blocks wider than four leave.
  if (mostConsumers >= 4 && !p.rowReductions && sm90BlockN(p, 4) >= 64)
    consumers = 4;
  else if (sm90BlockN(p, 3) >= narrowestOfThree(p))
    consumers = 3;
  else if (sm90BlockN(p, 2) >= 64)
    consumers = 2;
  int64_t blockM = consumers * kRowsPerConsumer;
  int64_t blockN = sm90BlockN(p, consumers);
  if (p.cooperative)
    blockN = blockNOfThreads(p, blockM, blockN);
  // Two consumers take turns: one multiplies while the other does elementwise
  // work. Turns give a softmax at head dim 128 up to a fifth.
  bool pingpong = consumers == 2;
  // Then the exponentials of a softmax must come before the wait for the
  // product beside them; ptxas would move them.
  bool pin = pingpong && p.rowReductions;
  // Three wait for each other, unless all rows have the same keys: then turns
  // gave a softmax 3 to 4 % at n = 2k, and from -3 to 3 % at n = 16k.
  if (consumers == 3 && p.rowReductions && !p.unevenKeys)
    pingpong = true;
  // In a persistent grid the next item's copies run during this one's end, if
  // there are slots for the queries of both: 3 to 16 % at n = 2k and within 3 %
  // at n = 16k. It takes registers from a speculation, whose schedule with a
  // short ring has none to spare where some blocks are masked.
  int64_t stages = sm90Stages(p, blockM, blockN, /*slots=*/2);
  bool isTight = p.unevenKeys && !p.rowReductions;
  bool persistent =
      consumers >= 3 && !p.cooperative && stages >= (isTight ? 4 : 3);
  if (!persistent)
    stages = std::max<int64_t>(sm90Stages(p, blockM, blockN, /*slots=*/1), 2);
  // For a masked softmax of two consumers they are worth a narrower block: at
  // head dim 192 5 % at n = 2k for 4 % at n = 16k. Where they do not fit, the
  // first keys still arrive during that end: at head dim 256 3 % for 7 %, with
  // blocks of 64 keys as with 80, for which a window's bounds have no register.
  if (consumers == 2 && p.rowReductions > 1 && p.unevenKeys && !p.cooperative) {
    int64_t narrower = blockNOfTwoSlots(p, blockM, blockN);
    blockN = narrower ? narrower : std::min<int64_t>(blockN, 64);
    stages = sm90Stages(p, blockM, blockN, /*slots=*/narrower ? 2 : 1);
    persistent = true;
    pin = false;
  }
  int64_t slice = getWidestSlice(blockN);
  if (leavesNoneForSlices(p, consumers, blockN))
    slice = std::min<int64_t>(slice, 16);
  return ScheduleAttr::get(context, blockM, blockN, consumers, stages,
                           Order::Overlap, pingpong, pin, persistent, 1, slice,
                           /*staged=*/true);
}

struct MeasuredSchedule {
  int64_t headDim, valueHeadDim;
  bool rowReductions, unevenKeys;
  int64_t consumers, blockN, stages;
  bool pingpong, persistent;
};

constexpr MeasuredSchedule kMeasured[] = {
#define ATTNC_MEASURED(...) {__VA_ARGS__},
#include "passes/MeasuredSchedules.def"
};

/// The schedule that won a race for this problem; null if there was none.
ScheduleAttr findMeasured(MLIRContext *context, const ScheduleProblem &p) {
  if (bytesOf(p.elementType) != 2 || p.keyValues || p.positionValues ||
      p.cooperative || p.gradients)
    return nullptr;
  for (const MeasuredSchedule &row : kMeasured)
    if (row.headDim == p.headDim && row.valueHeadDim == p.valueHeadDim &&
        row.rowReductions == (p.rowReductions > 0) &&
        row.unevenKeys == p.unevenKeys)
      return ScheduleAttr::get(
          context, row.consumers * kRowsPerConsumer, row.blockN, row.consumers,
          row.stages, Order::Overlap, row.pingpong, false, row.persistent, 1,
          getWidestSlice(row.blockN), /*staged=*/true);
  return nullptr;
}

/// `s` with key blocks of at most `blockN` keys and a check for every 16
/// columns at most.
ScheduleAttr narrow(ScheduleAttr s, int64_t blockN) {
  blockN = std::max<int64_t>(std::min(s.getBlockN(), blockN), 16);
  int64_t slice = std::min<int64_t>(s.getSlice(), 16);
  return ScheduleAttr::get(s.getContext(), s.getBlockM(), blockN,
                           s.getConsumers(), s.getStages(), s.getOrder(),
                           s.getPingpong(), s.getPin(), s.getPersistent(),
                           s.getCluster(), slice, s.getStaged())
      .withSplitOf(s);
}

/// `s` with this many consumers, for which it was not made.
ScheduleAttr withConsumers(ScheduleAttr s, int64_t consumers) {
  return ScheduleAttr::get(s.getContext(), consumers * kRowsPerConsumer,
                           s.getBlockN(), consumers, s.getStages(),
                           s.getOrder(), /*pingpong=*/consumers == 2, false,
                           s.getPersistent(), s.getCluster(), s.getSlice(),
                           s.getStaged())
      .withSplitOf(s);
}

/// `s` with one product after the other, and nothing else at the same time.
ScheduleAttr serialised(ScheduleAttr s) {
  return ScheduleAttr::get(s.getContext(), s.getBlockM(), s.getBlockN(),
                           s.getConsumers(),
                           std::min<int64_t>(s.getStages(), 2), Order::Serial,
                           false, false, false, 1, s.getSlice(), s.getStaged())
      .withSplitOf(s);
}

/// Registers for what is read or computed beside the products. Values of a
/// column come from shared memory where they are used, but beside positions, of
/// masks or of functions, a set of them does not. A function that is summed is
/// made while the logit's gradient, packed too, waits for its product.
int64_t sm90GradientExtras(const ScheduleProblem &p, int64_t blockN) {
  int64_t columns = (p.keyValues > 0 && p.unevenKeys) + p.positions;
  return columns * blockN / 4 + (p.positionValues + p.logits) * blockN / 2 +
         p.summed * (blockN + blockN / 4);
}

/// Registers for two products of 64 rows, whose place the weights take, and the
/// sums.
int64_t sm90GradientRegisters(const ScheduleProblem &p, int64_t blockN) {
  int64_t d = roundUp(p.headDim, 16), dv = roundUp(p.valueHeadDim, 16);
  bool split = d + dv > kMostGradientColumns;
  int64_t columns = p.queriesStay ? d : split ? std::max(d, dv) : d + dv;
  return columns / 2 + blockN + sm90GradientExtras(p, blockN);
}

/// Of two consumers: beside packed weights and addresses. One value a column
/// fits too if the block is not wide.
int64_t sm90GradientBudget(const ScheduleProblem &p, int64_t consumers) {
  int64_t budget = sm90RegisterBudget(p, consumers);
  if (consumers < 3)
    budget += (p.keyValues || p.positions ? 16 : 0) - 24;
  return budget;
}

/// Shared memory for values of a column, of this block and the next: each warp
/// has its own.
int64_t sm90PrefetchBytes(const ScheduleProblem &p, int64_t consumers,
                          int64_t blockN) {
  return p.keyValues * consumers * 4 * 2 * 4 * roundUp(blockN, 32);
}

/// Shared memory for the operands that stay and those that pass.
int64_t sm90GradientBytes(const ScheduleProblem &p, int64_t blockM,
                          int64_t blockN, int64_t stages) {
  int64_t element = bytesOf(p.elementType), panel = 128 / element;
  int64_t columns = roundUp(p.headDim, panel) + roundUp(p.valueHeadDim, panel);
  return (blockM + stages * blockN) * columns * element;
}

bool sm90GradientsFit(const ScheduleProblem &p, int64_t consumers,
                      int64_t blockN, int64_t stages) {
  return sm90GradientRegisters(p, blockN) <= sm90GradientBudget(p, consumers) &&
         sm90GradientBytes(p, consumers * kRowsPerConsumer, blockN, stages) +
                 sm90PrefetchBytes(p, consumers, blockN) <=
             kSharedMemory;
}

/// One kernel for all gradients, if there is one that fits: two sums and two
/// products of 64 rows in registers; in shared memory besides the operands the
/// exchanged weights of two blocks, and what their product adds. Both consumers
/// read the weights whole and share their product, by 64 rows or by columns.
ScheduleAttr chooseOneKernel(MLIRContext *context, const ScheduleProblem &p,
                             int64_t widest = 128) {
  constexpr int64_t consumers = 2, blockM = consumers * kRowsPerConsumer;
  constexpr int64_t stages = 2, panel = 64;
  int64_t d = roundUp(p.headDim, panel), dv = roundUp(p.valueHeadDim, panel);
  // Measured (results/2026-11-28-h100-backward): loads in the loop, of a bias,
  // take from it what it gains.
  if (!p.oneKernel || p.cooperative || d > consumers * panel ||
      p.positionValues)
    return {};
  int64_t element = bytesOf(p.elementType);
  for (int64_t blockN : {blockM, panel}) {
    int64_t share = roundUp(p.headDim, 16) / consumers;
    bool shares = blockN == blockM || d == consumers * panel ||
                  (share % 16 == 0 && panel % share == 0);
    int64_t registers =
        (roundUp(p.headDim, 16) + roundUp(p.valueHeadDim, 16)) / 2 + blockN +
        sm90GradientExtras(p, blockN);
    int64_t bytes = element * ((blockM + stages * blockN) * (d + dv) +
                               2 * blockM * blockN) +
                    (blockN == blockM ? 0 : 4 * blockN * d) +
                    sm90PrefetchBytes(p, consumers, blockN);
    // Weights are made before the wait for the other product where values of a
    // column do not fit beside both; it costs 4 % where they do
    // (benchmarks/journal.md, 11).
    int64_t budget = sm90GradientBudget(p, consumers);
    bool pin = p.keyValues && registers + blockN / 4 > budget;
    if (blockN <= widest && shares && bytes <= kSharedMemory &&
        registers <= budget)
      return ScheduleAttr::get(context, blockM, blockN, consumers, stages,
                               Order::Deferred, false, pin, false, 1,
                               getWidestSlice(blockN), /*staged=*/true,
                               /*one_kernel=*/true, /*splits=*/0, /*fill=*/0,
                               /*resident=*/1, /*pack_groups=*/false);
  }
  return {};
}

/// Where heads are narrow, elementwise work takes longer than the products: a
/// third consumer hides more of it. Else the widest blocks that fit.
ScheduleAttr chooseSm90aGradients(MLIRContext *context,
                                  const ScheduleProblem &p) {
  if (ScheduleAttr one = chooseOneKernel(context, p))
    return one;
  auto widest = [&](int64_t consumers) {
    int64_t blockN = 128;
    while (blockN > 0 && !sm90GradientsFit(p, consumers, blockN, 2))
      blockN -= 16;
    return blockN;
  };
  int64_t consumers = 2;
  if (roundUp(p.headDim, 16) + roundUp(p.valueHeadDim, 16) <= 128 &&
      widest(3) >= 64)
    consumers = 3;
  else if (widest(2) == 0)
    consumers = 1;
  int64_t blockN = std::max<int64_t>(widest(consumers), 16), stages = 2;
  while (stages < 3 && sm90GradientsFit(p, consumers, blockN, stages + 1))
    ++stages;
  return ScheduleAttr::get(context, consumers * kRowsPerConsumer, blockN,
                           consumers, stages, Order::Deferred, false, false,
                           false, 1, getWidestSlice(blockN), /*staged=*/true);
}

/// Shared memory of each of two thread blocks on a multiprocessor.
constexpr int64_t kHalf = (228 * 1024) / 2 - 2 * 1024;

/// Keys of a block for 64 rows, with which two thread blocks should fit on an
/// SM: one waits while the other computes.
int64_t blockNOfTwo(const ScheduleProblem &p) {
  return std::max(p.headDim, p.valueHeadDim) <= 64 ? 128 : 64;
}

/// Whether they do. The sums of one product must fit in the registers that two
/// leave each other.
bool fitsTwice(const ScheduleProblem &p, int64_t blockN) {
  return p.valueHeadDim <= 192 &&
         sm90Bytes(p, kRowsPerConsumer, blockN, /*stages=*/2) <= kHalf;
}

/// `blockN`, or fewer keys for which so many registers are enough.
int64_t narrowForRegisters(const ScheduleProblem &p, int64_t blockN,
                           int64_t registers) {
  while (blockN > 16 && sm90Registers(p, blockN) > registers)
    blockN -= 16;
  return blockN;
}

/// As many stages beside 64 rows as fit, of 2 to `most`.
int64_t stagesOfOne(const ScheduleProblem &p, int64_t blockN, bool isHalf,
                    int64_t most) {
  int64_t budget = isHalf ? kHalf : kSharedMemory, stages = 2;
  while (stages < most &&
         sm90Bytes(p, kRowsPerConsumer, blockN, stages + 1) <= budget)
    ++stages;
  return stages;
}

/// One thread block on an SM has the registers of two consumers.
ScheduleAttr fewItemsSm90a(MLIRContext *context, const ScheduleProblem &p) {
  int64_t blockN = blockNOfTwo(p);
  bool isHalf = fitsTwice(p, blockN);
  int64_t resident = isHalf ? 2 : 1, registers = p.cooperative ? 112 : 128;
  if (!isHalf) {
    registers = sm90RegisterBudget(p, /*consumers=*/2);
    blockN = 128;
    while (blockN > 16 &&
           sm90Bytes(p, kRowsPerConsumer, blockN, 2) > kSharedMemory)
      blockN -= 16;
  }
  blockN = narrowForRegisters(p, blockN, registers);
  int64_t stages = stagesOfOne(p, blockN, isHalf, /*most=*/4);
  auto schedule = ScheduleAttr::get(context, kRowsPerConsumer, blockN, 1,
                                    stages, Order::Overlap, false, false, false,
                                    1, getWidestSlice(blockN), /*staged=*/true);
  return schedule.withSplit(0, 0, resident, false);
}

ScheduleAttr splitSm90a(MLIRContext *context, const ScheduleProblem &p) {
  int64_t blockN = blockNOfTwo(p);
  bool isHalf = fitsTwice(p, blockN);
  int64_t resident = isHalf ? 2 : 1;
  // Rows of several heads are not what a bulk copy reads.
  bool copiesByThreads = p.cooperative || (p.hasGroups && isHalf);
  blockN = narrowForRegisters(p, blockN, copiesByThreads ? 152 : 200);
  int64_t stages = stagesOfOne(p, blockN, isHalf, /*most=*/6);
  // Beside a softmax the next product is started: 2 to 7 % at head dims 64 and
  // 128. Without maxima of rows it gains 2 % at 128, and at 64 nothing where
  // many key heads keep the GPU busy.
  int64_t widest = std::max(p.headDim, p.valueHeadDim);
  bool overlaps = widest <= 128 && (p.rowReductions > 1 || widest > 64);
  auto schedule =
      ScheduleAttr::get(context, kRowsPerConsumer, blockN, 1, stages,
                        overlaps ? Order::Overlap : Order::Serial, false, false,
                        false, 1, getWidestSlice(blockN), /*staged=*/false);
  return schedule.withSplit(kMostSplits, kMultiprocessors * resident, resident,
                            p.hasGroups);
}

} // namespace

int64_t attnc::tile::getWidestSlice(int64_t blockN) {
  int64_t slice = 40;
  while (slice && blockN % slice)
    slice -= 8;
  return slice;
}

PipeClocks attnc::tile::getPipeClocks(const ScheduleProblem &p,
                                      ScheduleAttr schedule, ElementCost cost) {
  double m = schedule.getBlockM(), n = schedule.getBlockN();
  double d = roundUp(p.headDim, 16), dv = roundUp(p.valueHeadDim, 16);
  double element = bytesOf(p.elementType);
  // An instruction multiplies 64 rows by 16 of K. The left operand of the first
  // product comes from shared memory, that of the second from registers; each
  // warpgroup reads the right operand anew. The copies write it once; the cache
  // reads it once for all blocks of a cluster.
  double first = d / 16 * (64 + n) * 16 * element;
  double second = n / 16 * dv * 16 * element;
  double copied = n * (d + dv) * element;
  double read = m / kRowsPerConsumer * (first + second);
  // A row statistic rescales the accumulators once a block.
  double rescaled = p.rowReductions ? m * dv : 0;
  return {2 * m * n * (d + dv) / kFlopsPerClock,
          m * n * cost.functions / kFunctionsPerClock,
          (m * n * cost.issued + rescaled) / kIssuedPerClock,
          (read + copied) / kSharedBytesPerClock,
          copied / kCacheBytesPerClock / schedule.getCluster()};
}

/// Clocks for a key and 64 rows on a multiprocessor whose other rows keep it
/// busy. The two pipes overlap but for a part of the shorter one
/// (benchmarks/journal.md, few items).
static double getRowClocks(const ScheduleProblem &p) {
  double d = roundUp(p.headDim, 16), dv = roundUp(p.valueHeadDim, 16);
  double products = 2 * kRowsPerConsumer * (d + dv) / kFlopsPerClock;
  double functions = kRowsPerConsumer / kFunctionsPerClock;
  double longer = std::max(products, functions);
  double shorter = std::min(products, functions);
  return 1.1 * longer + 0.55 * shorter * shorter / longer;
}

ItemClocks attnc::tile::getItemClocks(const ScheduleProblem &p,
                                      ScheduleAttr schedule) {
  double rows = getRowClocks(p);
  int64_t resident = schedule.getResident();
  auto round = [](double x) { return static_cast<int64_t>(x + 0.5); };
  if (schedule.getConsumers() != 1) {
    int64_t all = round(rows * schedule.getBlockM() / kRowsPerConsumer);
    return {all, all * resident, resident};
  }
  // One consumer waits for what it does itself; two thread blocks fill each
  // other's waits. Both read keys for fewer rows than a taller block.
  if (resident > 1)
    return {round(1.8 * rows), round(1.3 * resident * rows), resident};
  return {round(1.6 * rows), round(1.6 * rows), resident};
}

bool attnc::tile::isKnownTarget(StringRef target) {
  return target == kCpu || target == kSm90a;
}

ScheduleAttr attnc::tile::chooseSchedule(MLIRContext *context, StringRef target,
                                         const ScheduleProblem &problem) {
  if (target == kSm90a)
    if (ScheduleAttr measured = findMeasured(context, problem))
      return measured;
  return modelSchedule(context, target, problem);
}

bool attnc::tile::isScheduleMeasured(MLIRContext *context, StringRef target,
                                     const ScheduleProblem &problem) {
  return target == kSm90a && findMeasured(context, problem);
}

ScheduleAttr attnc::tile::modelSchedule(MLIRContext *context, StringRef target,
                                        const ScheduleProblem &problem) {
  if (target == kSm90a && problem.gradients)
    return chooseSm90aGradients(context, problem);
  return target == kSm90a ? chooseSm90a(context, problem)
                          : chooseCpu(context, problem);
}

ScheduleAttr attnc::tile::chooseSplitSchedule(MLIRContext *context,
                                              StringRef target,
                                              const ScheduleProblem &problem) {
  if (target == kSm90a)
    return splitSm90a(context, problem);
  // A core of a CPU takes an item.
  constexpr int64_t kItems = 64;
  return chooseCpu(context, problem)
      .withSplit(kMostSplits, kItems, 1, problem.hasGroups);
}

ScheduleAttr
attnc::tile::chooseFewItemsSchedule(MLIRContext *context, StringRef target,
                                    const ScheduleProblem &problem) {
  if (target == kSm90a && !problem.gradients)
    return fewItemsSm90a(context, problem);
  return chooseSchedule(context, target, problem);
}

llvm::SmallVector<ScheduleAttr>
attnc::tile::getScheduleLadder(StringRef target, const ScheduleProblem &problem,
                               ScheduleAttr first) {
  llvm::SmallVector<ScheduleAttr> ladder = {first};
  if (target != kSm90a || first.getConsumers() == 0)
    return ladder;
  auto add = [&](ScheduleAttr next) {
    if (!llvm::is_contained(ladder, next) &&
        getFootprint(target, problem, next).bytes <= kSharedMemory)
      ladder.push_back(next);
  };
  if (first.getOneKernel()) {
    if (ScheduleAttr narrower =
            chooseOneKernel(first.getContext(), problem, first.getBlockN() - 1))
      add(narrower);
    ScheduleProblem many = problem;
    many.oneKernel = false;
    first = chooseSm90aGradients(first.getContext(), many);
    add(first);
  }
  // Four have so few registers that narrower blocks would not help.
  if (first.getConsumers() == 4 && !problem.gradients) {
    llvm::append_range(
        ladder, getScheduleLadder(target, problem,
                                  chooseSm90a(first.getContext(), problem,
                                              /*mostConsumers=*/3)));
    return ladder;
  }
  int64_t blockN = first.getBlockN();
  add(narrow(first, blockN - 16));
  add(narrow(first, roundUp(blockN / 2, 16)));
  // One has no more registers than each of two.
  if (problem.gradients && first.getConsumers() <= 2)
    add(narrow(first, 32));
  // Fewer consumers have more registers each, so the block may be wide again.
  int64_t fewer = std::max<int64_t>(first.getConsumers() - 1, 1);
  ScheduleAttr base = narrow(withConsumers(first, fewer), blockN - 16);
  add(base);
  base = serialised(narrow(base, 64));
  add(base);
  add(narrow(withConsumers(base, 1), 32));
  return ladder;
}

/// The largest divisor of `m` up to `n` that is a multiple of what tensor cores
/// multiply at a time, if `m` is.
static int64_t divisorUpTo(int64_t m, int64_t n) {
  int64_t unit = m % 16 ? 1 : 16;
  n = std::max(std::min(m, n) / unit * unit, unit);
  while (m % n)
    n -= unit;
  return n;
}

ScheduleAttr attnc::tile::getPassingSchedule(const ScheduleProblem &p,
                                             ScheduleAttr s) {
  int64_t m = s.getBlockM(), consumers = s.getConsumers();
  int64_t n = s.getBlockN(), stages = s.getStages();
  if (consumers > 0) {
    // Two products and their sum, and what is read at each position.
    if (consumers > 2 && m == consumers * kRowsPerConsumer) {
      consumers = 2;
      m = consumers * kRowsPerConsumer;
    }
    auto bytes = [&] {
      return stages * sm90GradientBytes(p, m, n, /*stages=*/1);
    };
    n = divisorUpTo(m, std::min<int64_t>(n, 64));
    while (stages > 1 && bytes() > kSharedMemory)
      --stages;
    while (n > 16 && bytes() > kSharedMemory)
      n = divisorUpTo(m, n - 16);
  }
  n = divisorUpTo(m, n);
  return ScheduleAttr::get(
      s.getContext(), m, n, consumers, stages, s.getOrder(), s.getPingpong(),
      s.getPin(), s.getPersistent(), s.getCluster(),
      std::min<int64_t>(s.getSlice(), getWidestSlice(n)), s.getStaged());
}

ScheduleFootprint attnc::tile::getFootprint(StringRef target,
                                            const ScheduleProblem &problem,
                                            ScheduleAttr schedule) {
  int64_t m = schedule.getBlockM(), n = schedule.getBlockN();
  if (target != kSm90a)
    return {cpuBytes(problem, m, n), kCpuCacheBudget, 0};
  int64_t stages = std::max<int64_t>(schedule.getStages(), 1);
  if (problem.gradients)
    return {sm90GradientBytes(problem, m, n, stages), kSharedMemory,
            sm90GradientRegisters(problem, n)};
  int64_t bytes = sm90Bytes(problem, m, n, stages);
  // A second slot for queries is taken where it fits.
  int64_t slot = schedule.getPersistent() ? sm90Bytes(problem, m, 0, 0) : 0;
  if (bytes + slot <= kSharedMemory)
    bytes += slot;
  return {bytes, kSharedMemory, sm90Registers(problem, n)};
}

bool attnc::splitsKeyGradients(tile::ScheduleAttr schedule, int64_t headDim,
                               int64_t valueHeadDim) {
  return schedule.getConsumers() > 0 &&
         roundUp(headDim, 16) + roundUp(valueHeadDim, 16) >
             kMostGradientColumns;
}
