//===- ExplainCommand.cpp - attnc explain ---------------------------------===//
//
// Which schedule a program gets on each target, what it costs in memory and
// registers, and what its speed is bound by on paper.
//
//===----------------------------------------------------------------------===//

#include "tools/attnc/Commands.h"

#include "dialects/attn/Attn.h"
#include "lib/Compiler/Compiler.h"
#include "lib/Program/PlanCode.h"
#include "lib/Support/File.h"
#include "lib/Target/CPU/CpuFeatures.h"
#include "passes/ScheduleChoice.h"
#include "tools/attnc/Signature.h"

#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/IR/MLIRContext.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/raw_ostream.h"

#include <cmath>

using namespace attnc;
using namespace llvm;

namespace {
/// A machine on paper.
struct Machine {
  std::string description;
  /// Of both products, per second.
  double flops;
  double bytes;
  /// Elements that one slow function (exp2, division, ...) is computed for.
  double functions;
};

/// One attn.fused and the kernel made of it.
struct Kernel {
  std::string name;
  tile::ScheduleProblem problem;
  tile::ScheduleAttr schedule = nullptr;
  /// In the loop over keys, for each logit.
  double functions = 0, arithmetic = 0, issued = 0;
  bool hasMask = false;
};

class ExplainCommand : public Command {
public:
  ExplainCommand();
  OptionTable &table() override { return options; }
  Expected<int> run() override;

private:
  Error explain(StringRef contents, Target target);
  Error setSizes();
  void print(const Kernel &kernel, Target target);
  Error printPreference(tile::ProgramOp program, Signature signature);
  const char *reasonFor(const Kernel &kernel, Target target);
  void printFootprint(const Kernel &kernel, Target target);
  void printClocks(const Kernel &kernel);
  void printLadder(const Kernel &kernel, Target target);
  void printCost(const Kernel &kernel, Target target);

  OptionTable options{
      "explain IN.mlir [--sizes B=1,H=8,S=2048] [options]",
      "Says which schedule a program gets and why: the sizes of its tiles, "
      "the\n"
      "memory they take, and, for given sizes, operations, bytes and what\n"
      "bounds the time on paper.",
      "  attnc explain a.mlir\n"
      "  attnc explain a.mlir --sizes B=4,H=16,S=8192 --target=sm_90a\n"
      "  attnc explain a.mlir --schedule=block_m=64,block_n=32"};
  std::vector<std::string> files;
  std::string target = "all", sizeText, schedule;
  Sizes sizes;
};
} // namespace

ExplainCommand::ExplainCommand() {
  options.positional("IN.mlir", files, 1,
                     "A program at phase attn or fused; - is standard input.");
  options.section("options");
  options.choice("target", {"all", "cpu", "sm_90a"}, target,
                 "For which target; all by default.");
  options.assignments("sizes", "SIZES", sizeText,
                      "Run-time sizes like B=1,H=8,S=2048; these by default.");
  options.text("schedule", "KEY=N,...", schedule,
               "Explains this schedule instead of the cost model's.");
}

Error ExplainCommand::setSizes() {
  SmallVector<StringRef> parts;
  StringRef(sizeText).split(parts, ',', -1, false);
  for (StringRef part : parts) {
    auto [name, text] = part.split('=');
    int64_t size;
    bool known = any_of(sizeMeanings(), [&, name = name](const SizeMeaning &m) {
      return m.name == name;
    });
    if (!known || text.getAsInteger(10, size) || size < 0)
      return makeError("--sizes: expected sizes like B=1,H=8,S=2048, got '" +
                       part + "'");
    if (Error error = sizes.set(name, size))
      return error;
  }
  auto otherwise = [&](StringRef name, int64_t size) -> Error {
    return sizes.get(name) ? Error::success() : sizes.set(name, size);
  };
  for (auto [name, size] :
       {std::pair<StringRef, int64_t>{"B", 1}, {"H", 8}, {"S", 2048}})
    if (Error error = otherwise(name, size))
      return error;
  if (Error error = otherwise("Hkv", *sizes.get("H")))
    return error;
  return otherwise("Skv", *sizes.get("S"));
}

//===----------------------------------------------------------------------===//
// Reading the program
//===----------------------------------------------------------------------===//

static int64_t product(ArrayRef<int64_t> sizes) {
  int64_t all = 1;
  for (int64_t size : sizes)
    all *= size;
  return all;
}

/// Ops the hardware computes far fewer of than multiply-adds.
static bool isSlowFunction(mlir::Operation *op) {
  return isa<mlir::math::Exp2Op, mlir::math::SqrtOp, mlir::math::RsqrtOp,
             mlir::math::TanhOp, mlir::arith::DivFOp>(op);
}

/// Instructions that a GPU issues for an op on one element.
static int issuedFor(mlir::Operation *op) {
  if (op->hasTrait<mlir::OpTrait::IsTerminator>() ||
      op->hasTrait<mlir::OpTrait::ConstantLike>() ||
      isa<mlir::arith::NegFOp>(op)) // a sign of an operand
    return 0;
  auto mul = dyn_cast<mlir::arith::MulFOp>(op);
  bool fused =
      mul && mul->hasOneUse() &&
      isa<mlir::arith::AddFOp, mlir::arith::SubFOp>(*mul->user_begin()) &&
      bitEnumContainsAll(mul.getFastmath(),
                         mlir::arith::FastMathFlags::contract);
  // A quotient is a product with an inverse.
  return fused ? 0 : isa<mlir::arith::DivFOp>(op) ? 2 : 1;
}

/// Counts what the loop over keys computes for each logit.
static void countElementwise(tile::KernelOp op, Kernel &kernel) {
  op.walk([&](tile::ForKeysOp loop) {
    loop.walk([&](tile::MapOp map) {
      auto type = map.getResult().getType();
      // Row statistics cost little: one element a row.
      if (type.getCols() == 1)
        return;
      double share = 1.0 / map.getWidth();
      map.getBody().walk([&](mlir::Operation *inner) {
        kernel.issued += share * issuedFor(inner);
        if (isSlowFunction(inner))
          kernel.functions += share;
        else if (!inner->hasTrait<mlir::OpTrait::IsTerminator>() &&
                 !inner->hasTrait<mlir::OpTrait::ConstantLike>())
          kernel.arithmetic += share;
      });
    });
    loop.walk([&](tile::SpeculateOp op) {
      for (mlir::Region *region : {&op.getCommon(), &op.getFast().front()})
        region->walk([&](mlir::Operation *inner) {
          kernel.issued += issuedFor(inner);
          if (isSlowFunction(inner))
            ++kernel.functions;
          else if (!inner->hasTrait<mlir::OpTrait::IsTerminator>())
            ++kernel.arithmetic;
        });
    });
    // A maximum of guards takes three, a rounding two elements at once.
    loop.walk([&](tile::SpeculateOp) { kernel.issued += 0.5; });
    loop.walk([&](tile::CastOp) { kernel.issued += 0.5; });
    loop.walk([&](tile::ReduceOp) { kernel.issued += 1; });
    loop.walk([&](tile::MaskOp) { kernel.hasMask = true; });
  });
}

Error ExplainCommand::explain(StringRef contents, Target target) {
  auto context = makeContext();
  CompileOptions compileOptions;
  compileOptions.target = target;
  compileOptions.schedule = schedule;
  StringRef name = files[0] == "-" ? "<stdin>" : StringRef(files[0]);
  auto artifact = parseArtifact(contents, name, *context, compileOptions);
  if (!artifact)
    return artifact.takeError();
  if (artifact->phase > Phase::Fused)
    return makeError("expected a program at phase attn or fused, got phase " +
                     findPhase(target, artifact->phase)->name);
  if (Error error = compile(*artifact, compileOptions, Phase::Fused))
    return error;
  std::vector<Kernel> kernels;
  std::vector<Signature> signatures;
  for (auto function : artifact->module->getOps<mlir::func::FuncOp>()) {
    if (function.isExternal())
      continue;
    signatures.push_back(readSignature(function));
    for (const Parameter &parameter : signatures.back().parameters)
      if (Error error = sizes.bindStatic(parameter))
        return error;
  }
  artifact->module->walk([&](attn::FusedOp op) {
    kernels.emplace_back();
    kernels.back().problem = getScheduleProblem(op, /*anyLayout=*/false);
  });
  bool hasGradients = false;
  artifact->module->walk([&](attn::BackwardOp) { hasGradients = true; });
  if (kernels.empty() && hasGradients)
    return makeError("expected an attention, the file has the gradients of "
                     "one; explain it without attn.differentiate (gen without "
                     "--backward), and see --emit=tile for the schedules of "
                     "gradients");
  if (kernels.empty())
    return makeError("expected an attention, the file has none");
  if (Error error = setSizes())
    return error;
  if (Error error = compile(*artifact, compileOptions, Phase::Formula))
    return error;
  size_t next = 0;
  // Kernels without a loop over keys (row norms) have no schedule to explain.
  for (auto op : artifact->module->getOps<tile::KernelOp>()) {
    bool attends = false;
    op->walk([&](tile::ForKeysOp) { attends = true; });
    if (!attends || next == kernels.size())
      continue;
    Kernel &kernel = kernels[next++];
    kernel.name = op.getName().str();
    kernel.schedule = op.getScheduleAttr();
    countElementwise(op, kernel);
  }
  for (const Kernel &kernel : ArrayRef(kernels).take_front(next))
    print(kernel, target);
  for (auto program : artifact->module->getOps<tile::ProgramOp>())
    for (const Signature &signature : signatures)
      if (signature.function == program.getName())
        if (Error error = printPreference(program, signature))
          return error;
  return Error::success();
}

//===----------------------------------------------------------------------===//
// Printing
//===----------------------------------------------------------------------===//

/// This processor at a clock that most reach: two multiply-adds a cycle, and
/// a slow function for about as long as eight of them.
static Machine thisProcessor() {
  int lanes = 4;
  if (auto features = getVectorFeatures({}))
    lanes = features->lanes;
  else
    consumeError(features.takeError());
  double threads = getAvailableThreads(), clock = 2.5e9;
  double multiplyAdds = threads * clock * 2 * lanes;
  std::string text;
  raw_string_ostream(text) << int(threads)
                           << " threads, each 2 multiply-adds of " << lanes
                           << " f32 a cycle at 2.5 GHz, 10 GB/s";
  return {text, 2 * multiplyAdds, threads * 10e9, multiplyAdds / 8};
}

/// What is assumed of a target.
static Machine machineOf(Target target, mlir::Type element) {
  if (target == Target::CPU)
    return thisProcessor();
  // Tensor cores of one H200, its memory, 16 functions a cycle of each SM.
  bool half = element.isF16() || element.isBF16();
  return {"one H200: 990 TFLOP/s of f16 or bf16, 4.8 TB/s, 132 SMs at 1.83 GHz",
          half ? 990e12 : 495e12, 4.8e12, 132 * 16 * 1.83e9};
}

void ExplainCommand::printFootprint(const Kernel &kernel, Target target) {
  tile::ScheduleFootprint footprint =
      tile::getFootprint(targetName(target), kernel.problem, kernel.schedule);
  int64_t m = kernel.schedule.getBlockM(), n = kernel.schedule.getBlockN();
  outs() << "  tiles       query " << m << " x " << kernel.problem.headDim
         << ", key " << n << " x " << kernel.problem.headDim << ", value " << n
         << " x " << kernel.problem.valueHeadDim << ", logits " << m << " x "
         << n << '\n';
  outs() << "  memory      " << footprint.bytes << " of " << footprint.budget
         << " bytes ("
         << (target == Target::CPU ? "half a second-level cache"
                                   : "shared memory of a block")
         << format(", %.0f %%)\n", 100.0 * footprint.bytes / footprint.budget);
  if (footprint.registers)
    outs() << "  registers   " << footprint.registers
           << " a thread for logits, weights and output\n";
  if (target == Target::SM90a)
    printClocks(kernel);
}

/// What each pipe of an SM is busy for, from the model that chooses schedules.
void ExplainCommand::printClocks(const Kernel &kernel) {
  tile::PipeClocks clocks = tile::getPipeClocks(
      kernel.problem, kernel.schedule, {kernel.functions, kernel.issued});
  outs() << format("  clocks      %.0f products, %.0f functions, %.0f issue, "
                   "%.0f shared memory, %.0f second-\n"
                   "              level cache: of one SM for %d queries by %d "
                   "keys, each pipe alone\n",
                   clocks.tensor, clocks.functions, clocks.issue,
                   clocks.sharedMemory, clocks.cache,
                   int(kernel.schedule.getBlockM()),
                   int(kernel.schedule.getBlockN()));
}

/// What a compile would try if the assembler rejected the schedule.
void ExplainCommand::printLadder(const Kernel &kernel, Target target) {
  auto ladder = tile::getScheduleLadder(targetName(target), kernel.problem,
                                        kernel.schedule);
  for (tile::ScheduleAttr next : drop_begin(ladder))
    outs() << (next == ladder[1] ? "  else        " : "              ")
           << mlir::Attribute(next) << '\n';
}

static std::string scaled(double value, StringRef unit) {
  static constexpr StringLiteral prefixes[] = {"", "k", "M", "G", "T", "P"};
  size_t prefix = 0;
  for (; value >= 1000 && prefix + 1 < std::size(prefixes); ++prefix)
    value /= 1000;
  std::string text;
  raw_string_ostream(text) << format("%.3g ", value) << prefixes[prefix]
                           << unit;
  return text;
}

namespace {
/// How the rows of queries of all heads are cut into work items.
struct ItemCount {
  /// Blocks of queries of one sequence, each of which reads all keys, and the
  /// ranges of keys that each becomes.
  double blocks, ranges;
};
} // namespace

/// As the launch plan counts them: with packed groups the rows of all heads of
/// a key head are cut together, and keys are split until the items are enough.
static ItemCount countItems(tile::ScheduleAttr schedule, double b, double h,
                            double hk, double s, double sk) {
  double group = schedule.getPackGroups() ? std::floor(h / hk) : 1;
  double blocks = h / group * std::ceil(s * group / schedule.getBlockM());
  double ranges = schedule.getSplits();
  if (schedule.getFill()) {
    double wanted = std::floor(schedule.getFill() / std::max(b * blocks, 1.0));
    double longest = tile::kLeastBlocks * schedule.getBlockN();
    ranges = std::min({ranges, wanted, std::floor(sk / longest)});
  }
  return {blocks, std::max(ranges, 1.0)};
}

void ExplainCommand::printCost(const Kernel &kernel, Target target) {
  auto of = [&](StringRef name) -> double { return *sizes.get(name); };
  double b = of("B"), h = of("H"), hk = of("Hkv"), s = of("S"), sk = of("Skv");
  double d = kernel.problem.headDim, dv = kernel.problem.valueHeadDim;
  double element = kernel.problem.elementType.getIntOrFloatBitWidth() / 8.0;
  ItemCount items = countItems(kernel.schedule, b, h, hk, s, sk);
  double logits = b * h * s * sk;
  double flops = 2 * logits * (d + dv);
  // Every operand once is the least; a cache may have to fetch keys and
  // values again for each query block.
  double least = element * (b * h * s * (d + dv) + b * hk * sk * (d + dv));
  double most =
      element * (b * h * s * (d + dv) + b * items.blocks * sk * (d + dv));
  Machine machine = machineOf(target, kernel.problem.elementType);
  double times[] = {flops / machine.flops, least / machine.bytes,
                    kernel.functions * logits / machine.functions};
  static constexpr StringLiteral names[] = {"the two products", "memory",
                                            "elementary functions"};
  outs() << "  sizes       B=" << int64_t(b) << " H=" << int64_t(h)
         << " Hkv=" << int64_t(hk) << " S=" << int64_t(s)
         << " Skv=" << int64_t(sk) << ": "
         << int64_t(b * items.blocks * items.ranges) << " work items\n"
         << "  operations  " << scaled(flops, "FLOP") << " in products, "
         << scaled(logits, "logits")
         << format(" of %.3g slow and %.3g plain operations", kernel.functions,
                   kernel.arithmetic)
         << (kernel.hasMask ? "; a mask may save some\n" : "\n")
         << "  bytes       " << scaled(least, "B") << " at least, "
         << scaled(most, "B")
         << " if nothing is kept: " << format("%.0f", flops / least)
         << " FLOP a byte\n";
  size_t slowest = std::max_element(times, times + 3) - times;
  outs() << "  bound       " << names[slowest]
         << format(": %.3g ms (", times[slowest] * 1e3);
  for (size_t k = 0; k < 3; ++k)
    outs() << (k ? ", " : "") << names[k] << format(" %.3g", times[k] * 1e3);
  outs() << ")\n              on " << machine.description << '\n';
}

const char *ExplainCommand::reasonFor(const Kernel &kernel, Target target) {
  if (schedule == tile::kFewItems && target == Target::SM90a)
    return "cost model, for few rows of queries in all: more items than taller "
           "blocks would make";
  if (schedule == tile::kFewQueries && kernel.schedule.getSplits())
    return "cost model, for few queries and many keys: what waits for keys and "
           "fills the GPU";
  if (!isScheduleChoice(schedule))
    return "--schedule";
  if (target == Target::CPU)
    return "cost model: the tallest query block whose tiles fit in half a "
           "cache, then the widest key block";
  if (tile::isScheduleMeasured(kernel.schedule.getContext(), targetName(target),
                               kernel.problem))
    return "measurement: what 'attnc tune' found on an H100 for this head dim";
  return "cost model: the most consumers that leave a wide key block, then the "
         "widest, then the most stages";
}

void ExplainCommand::print(const Kernel &kernel, Target target) {
  outs() << "target " << targetName(target) << ", kernel " << kernel.name
         << ": head dim " << kernel.problem.headDim << ", value head dim "
         << kernel.problem.valueHeadDim << ", " << kernel.problem.elementType
         << "\n  schedule    ";
  outs() << mlir::Attribute(kernel.schedule) << "\n  chosen by   "
         << reasonFor(kernel, target) << '\n';
  printFootprint(kernel, target);
  if (schedule.empty())
    printLadder(kernel, target);
  printCost(kernel, target);
}

/// Results have the layout of the query, or a number for each of its rows.
static void nameResultSizes(Signature &signature) {
  const Parameter *query = signature.find("query");
  for (Parameter &parameter : signature.parameters) {
    size_t rank = parameter.shape.size();
    if (!parameter.isResult || !query || query->shape.size() != 4)
      continue;
    for (size_t k = 0; k < rank; ++k)
      if (parameter.sizeNames[k].empty() && (rank == 3 || rank == 4))
        parameter.sizeNames[k] = rank == 3
                                     ? ArrayRef<StringRef>({"B", "H", "S"})[k]
                                     : query->sizeNames[k];
  }
}

/// Which other schedule the launch plan prefers for the sizes.
Error ExplainCommand::printPreference(tile::ProgramOp program,
                                      Signature signature) {
  if (program.getBody().getOps<tile::PreferOp>().empty())
    return Error::success();
  addOrders(signature, program);
  nameResultSizes(signature);
  std::vector<Argument> arguments;
  for (auto [index, type] : enumerate(program.getArgumentTypes())) {
    const Parameter *parameter =
        signature.find(getArgumentName(program, index));
    if (!parameter || !parameter->isTensor) {
      arguments.push_back(type.isF32() ? Argument(0.0f) : Argument(int32_t(0)));
      continue;
    }
    auto shape = sizes.shapeOf(*parameter);
    if (!shape) {
      // Sizes of its own: what a call prefers does not depend on them.
      consumeError(shape.takeError());
      return Error::success();
    }
    // Never read: all that counts are sizes.
    static char somewhere[16];
    ViewArgument view;
    view.data = somewhere;
    for (int64_t dim : parameter->order) {
      view.sizes.push_back((*shape)[dim]);
      view.strides.push_back(product(ArrayRef(*shape).drop_front(dim + 1)));
    }
    arguments.push_back(view);
  }
  auto plan = PlanCode::translate(program);
  if (!plan)
    return plan.takeError();
  PlanValues values;
  if (Error error = plan->evaluate(arguments, values))
    return error;
  StringRef preferred = plan->preferredSchedule(values);
  outs() << "program " << program.getName() << ": calls of these sizes take "
         << (preferred.empty() ? "this schedule"
                               : "--schedule=" + preferred.str())
         << '\n';
  return Error::success();
}

Expected<int> ExplainCommand::run() {
  if (files.empty())
    return makeError("expected a program, got none; usage: attnc explain "
                     "IN.mlir");
  auto buffer = readInput(files[0]);
  if (!buffer)
    return buffer.takeError();
  registerAllPasses();
  for (Target each : {Target::CPU, Target::SM90a}) {
    if (target != "all" && target != targetName(each))
      continue;
    sizes = Sizes();
    if (Error error = explain((*buffer)->getBuffer(), each))
      return std::move(error);
  }
  return 0;
}

std::unique_ptr<Command> attnc::makeExplainCommand() {
  return std::make_unique<ExplainCommand>();
}
