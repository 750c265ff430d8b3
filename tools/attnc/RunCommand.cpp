//===- RunCommand.cpp - attnc run -----------------------------------------===//

#include "tools/attnc/Commands.h"

#include "dialects/attn/Attn.h"
#include "lib/Compiler/Compiler.h"
#include "lib/Oracle/Oracle.h"
#include "lib/Support/File.h"
#include "lib/Support/Npy.h"
#include "tools/attnc/Check.h"
#include "tools/attnc/Executor.h"
#include "tools/attnc/Inputs.h"

#include "mlir/IR/MLIRContext.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/raw_ostream.h"

#include <chrono>
#include <cmath>

using namespace attnc;
using namespace llvm;

namespace {
class RunCommand : public Command {
public:
  RunCommand();
  OptionTable &table() override { return options; }
  Expected<int> run() override;

private:
  Error findFunction(Artifact &artifact);
  Error differentiate(Artifact &artifact, StringRef name);
  Error handOver(Call &call);
  Error runReference(Call &call);
  Error runTarget(Artifact &artifact, Call &call);
  Error bench(Executor &executor, Call &call);
  Expected<bool> check(Call &call);
  Error writeResults(Call &call);
  void printResults(Call &call);

  OptionTable options{
      "run IN.mlir [--input FILE.npy ...] [-o OUT.npy ...] [options]",
      "Compiles a program, calls it, and says what came out.",
      "  attnc run a.mlir --random B=1,H=8,S=1024 --check --bench\n"
      "  attnc run a.mlir --input q.npy k.npy v.npy -o o.npy\n"
      "  attnc run a.mlir --input query=q.npy key=k.npy value=v.npy "
      "--scalar bias=-7\n"
      "  attnc run a.mlir --random --target=reference"};
  std::vector<std::string> files, outputs;
  InputRequest request;
  std::optional<int64_t> seed;
  bool wantsCheck = false, wantsBench = false;
  std::string functionName;
  TargetFlags flags;

  std::unique_ptr<mlir::MLIRContext> context;
  /// Whether what is called are the gradients of the function.
  bool isGradient() {
    return function && function->hasAttr(attn::kDifferentiateAttr);
  }
  /// The attn function, kept for the oracle; none for tile programs.
  mlir::OwningOpRef<mlir::ModuleOp> referenceModule;
  mlir::func::FuncOp function;
  Signature signature;
};
} // namespace

RunCommand::RunCommand() {
  options.positional("IN.mlir", files, 1,
                     "The program, at any phase up to formula; - is standard "
                     "input.");
  options.section("arguments");
  options.list("input", "FILE.npy", request.files,
               "The tensors, in order, or NAME=FILE.npy. Float files are "
               "rounded to the argument's type; bfloat16 may come as its "
               "bits in u2.");
  options.list("scalar", "NAME=X", request.scalars,
               "Scalars that have no default or another value.");
  options.assignments(
      "random", "SIZES", request.random,
      "Makes up tensors without a file: normal numbers, of sizes "
      "like B=1,H=8,Hkv=2,S=1024,Skv=2048.");
  options.integer("seed", seed, 0, INT64_MAX, "Of the random numbers; 0.");
  options.text("function", "NAME", functionName,
               "Which function to call, if the file has several.");
  options.section("results");
  options.list("o", "OUT.npy", outputs, "Where the results go, in order.");
  options.flag("check", wantsCheck,
               "Compares with a float64 reference; status 1 if the error is "
               "larger than docs/semantics.md allows.");
  options.flag("bench", wantsBench, "Calls it repeatedly and prints rates.");
  flags.addTo(options, /*reference=*/true);
}

/// Finds what to call, and keeps a copy at the attn level for the oracle.
Error RunCommand::findFunction(Artifact &artifact) {
  if (!artifact.module)
    return makeError(
        "expected a program that is still MLIR, got phase " +
        findPhase(*parseTarget(flags.target), artifact.phase)->name);
  SmallVector<mlir::func::FuncOp> functions;
  SmallVector<tile::ProgramOp> programs;
  SmallVector<StringRef> names;
  auto matches = [&](StringRef name) {
    names.push_back(name);
    return functionName.empty() || functionName == name;
  };
  for (auto op : artifact.module->getOps<mlir::func::FuncOp>())
    if (!op.isExternal() && matches(op.getName()))
      functions.push_back(op);
  for (auto op : artifact.module->getOps<tile::ProgramOp>())
    if (matches(op.getName()))
      programs.push_back(op);
  size_t found = functions.size() + programs.size();
  if (found == 0)
    return makeError("expected a function or program" +
                     (functionName.empty() ? "" : " '" + functionName + "'") +
                     ", the file has " +
                     (names.empty() ? "none" : join(names, ", ")));
  if (found > 1)
    return makeError("the file has several functions; expected --function=" +
                     join(names, "|"));
  if (functions.empty()) {
    signature = readSignature(programs.front());
    return Error::success();
  }
  std::string name = functions.front().getName().str();
  referenceModule = artifact.module.get().clone();
  function = referenceModule->lookupSymbol<mlir::func::FuncOp>(name);
  if (isGradient())
    return differentiate(artifact, name);
  signature = readSignature(function);
  return Error::success();
}

/// A function of gradients is called with what the compiler makes of it; the
/// reference keeps the forward.
Error RunCommand::differentiate(Artifact &artifact, StringRef name) {
  auto compileOptions = flags.get();
  if (!compileOptions)
    return compileOptions.takeError();
  if (Error error = compile(artifact, *compileOptions, Phase::Fused))
    return error;
  signature =
      readSignature(artifact.module->lookupSymbol<mlir::func::FuncOp>(name));
  return Error::success();
}

/// Of random arguments, what the forward hands over must be what it makes of
/// the others.
Error RunCommand::handOver(Call &call) {
  size_t count = function.getNumArguments();
  auto results = oracle::evaluate(
      function, ArrayRef(call.referenceArguments()).take_front(count));
  if (!results)
    return results.takeError();
  // All arguments but the last, which are gradients of results.
  size_t last = 0, gradients = 1;
  while (last < signature.parameters.size() &&
         !signature.parameters[last].isResult)
    ++last;
  for (unsigned k = 0; k < function.getNumResults(); ++k)
    if (function.getResultAttr(k, attn::kGradientAttr))
      ++gradients;
  for (size_t k = count; k + gradients < last; ++k) {
    if (call.isGiven(k))
      continue;
    if (k - count >= results->size())
      return makeError("--random: '" + signature.parameters[k].name +
                       "' is not returned by the forward; return it, or pass "
                       "--input " +
                       signature.parameters[k].name + "=FILE.npy");
    const oracle::Tensor &result = (*results)[k - count];
    for (int64_t at = 0; at < call.tensor(k).elements(); ++at)
      call.tensor(k).set(at, result.data[at]);
  }
  return Error::success();
}

Error RunCommand::runReference(Call &call) {
  if (!function)
    return makeError("--target=reference: expected a function of attn ops; "
                     "the reference evaluates phases attn and fused");
  auto arguments = call.referenceArguments();
  auto results = isGradient() ? oracle::differentiate(function, arguments)
                              : oracle::evaluate(function, arguments);
  if (!results)
    return results.takeError();
  size_t next = 0;
  for (size_t k = 0; k < signature.parameters.size(); ++k) {
    if (!signature.parameters[k].isResult)
      continue;
    const oracle::Tensor &result = (*results)[next++];
    HostTensor &tensor = call.tensor(k);
    if (tensor.sizes() != ArrayRef(result.shape))
      return makeError("'" + signature.parameters[k].name + "': expected " +
                       formatSizes(tensor.sizes()) + ", the reference has " +
                       formatSizes(result.shape));
    for (int64_t at = 0; at < tensor.elements(); ++at)
      tensor.set(at, result.data[at]);
  }
  return Error::success();
}

static double secondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
      .count();
}

/// The products of a call that visits every key, in 10^9 operations.
static double gigaFlops(const Sizes &sizes) {
  auto of = [&](StringRef name) -> double {
    return sizes.get(name).value_or(0);
  };
  return 2e-9 * of("B") * of("H") * of("S") * of("Skv") * (of("D") + of("Dv"));
}

Error RunCommand::bench(Executor &executor, Call &call) {
  auto arguments = call.programArguments();
  std::vector<double> seconds;
  double total = 0;
  while (seconds.size() < 5 || (total < 1 && seconds.size() < 1000)) {
    auto start = std::chrono::steady_clock::now();
    if (Error error = executor.run(arguments))
      return error;
    seconds.push_back(secondsSince(start));
    total += seconds.back();
  }
  sort(seconds);
  double best = seconds.front(), median = seconds[seconds.size() / 2];
  StringRef note = executor.timingNote();
  outs() << "bench: " << seconds.size() << " calls"
         << (note.empty() ? "" : " (" + note.str() + ")") << '\n'
         << "              best    median\n"
         << format("  ms      %8.3f  %8.3f\n", best * 1e3, median * 1e3);
  // A mask saves work that this rate counts.
  if (double work = gigaFlops(call.sizes()))
    outs() << format("  GFLOP/s %8.1f  %8.1f", work / best, work / median)
           << "  (both products, every key)\n";
  return Error::success();
}

Error RunCommand::runTarget(Artifact &artifact, Call &call) {
  auto compileOptions = flags.get();
  if (!compileOptions)
    return compileOptions.takeError();
  auto start = std::chrono::steady_clock::now();
  auto observe = [&](const PhaseStep &step, const Artifact &artifact,
                     double seconds) -> Error {
    if (step.phase == Phase::Tile && artifact.module)
      for (auto program : artifact.module.get().getOps<tile::ProgramOp>())
        if (program.getName() == signature.function)
          addOrders(signature, program);
    return Error::success();
  };
  auto executor = Executor::make(artifact, *compileOptions, observe);
  if (!executor)
    return executor.takeError();
  double compiled = secondsSince(start);
  start = std::chrono::steady_clock::now();
  if (Error error = (*executor)->run(call.programArguments()))
    return error;
  outs() << format("compiled in %.1f ms, first call %.3f ms\n", compiled * 1e3,
                   secondsSince(start) * 1e3);
  return wantsBench ? bench(**executor, call) : Error::success();
}

Expected<bool> RunCommand::check(Call &call) {
  if (!function)
    return makeError("--check: expected a function of attn ops to compare "
                     "with; start from phase attn or fused");
  int64_t rows = 0;
  auto checks = checkResults(function, signature, call, rows);
  if (!checks)
    return checks.takeError();
  outs() << "check against float64 ("
         << (isGradient() ? "all rows"
                          : std::to_string(rows) + " rows of each head")
         << "):\n"
         << "  result        error  reference      limit\n";
  bool passes = true;
  for (const ResultCheck &check : *checks) {
    outs() << format("  %-8s %10.3g %10.3g %10.3g", check.name.c_str(),
                     check.error, check.reference, check.limit)
           << "  " << check.rule << ' ' << (check.passes() ? "ok" : "FAILED");
    if (check.mismatches)
      outs() << " (" << check.mismatches << " elements are NaN or infinite)";
    if (check.skipped)
      outs() << " (" << check.skipped
             << " elements not compared: NaN in the reference)";
    outs() << '\n';
    passes &= check.passes();
  }
  return passes;
}

void RunCommand::printResults(Call &call) {
  for (size_t k = 0; k < signature.parameters.size(); ++k) {
    const Parameter &parameter = signature.parameters[k];
    if (!parameter.isResult)
      continue;
    const HostTensor &tensor = call.tensor(k);
    double squares = 0;
    for (int64_t at = 0; at < tensor.elements(); ++at)
      squares += tensor.at(at) * tensor.at(at);
    double mean = squares / std::max<int64_t>(tensor.elements(), 1);
    outs() << parameter.name << ": " << formatSizes(tensor.sizes()) << ' '
           << elementName(tensor.kind())
           << format(", root mean square %.4g\n",
                     std::sqrt(std::fabs(mean))); // NaN may have a sign.
  }
}

Error RunCommand::writeResults(Call &call) {
  size_t next = 0;
  for (size_t k = 0; k < signature.parameters.size(); ++k) {
    if (!signature.parameters[k].isResult || next == outputs.size())
      continue;
    if (Error error = writeNpy(outputs[next++], call.tensor(k)))
      return error;
  }
  return Error::success();
}

Expected<int> RunCommand::run() {
  if (files.empty())
    return makeError("expected a program, got none; usage: attnc run IN.mlir "
                     "--random");
  auto compileOptions = flags.get();
  if (!compileOptions)
    return compileOptions.takeError();
  auto buffer = readInput(files[0]);
  if (!buffer)
    return buffer.takeError();
  registerAllPasses();
  context = makeContext();
  StringRef name = files[0] == "-" ? "<stdin>" : StringRef(files[0]);
  auto artifact =
      parseArtifact((*buffer)->getBuffer(), name, *context, *compileOptions);
  if (!artifact)
    return artifact.takeError();
  if (Error error = findFunction(*artifact))
    return std::move(error);
  size_t results = count_if(signature.parameters,
                            [](const Parameter &p) { return p.isResult; });
  if (outputs.size() > results)
    return makeError("-o: expected at most " + Twine(results) +
                     " files, one a result, got " + Twine(outputs.size()));
  request.seed = seed.value_or(0);
  request.useRandom = options.has("random");
  auto call = Call::make(signature, request);
  if (!call)
    return call.takeError();
  errs() << call->notes();
  if (isGradient())
    if (Error error = handOver(*call))
      return std::move(error);
  bool reference = flags.target == "reference";
  if (Error error =
          reference ? runReference(*call) : runTarget(*artifact, *call))
    return std::move(error);
  printResults(*call);
  if (Error error = writeResults(*call))
    return std::move(error);
  if (!wantsCheck)
    return 0;
  auto passes = check(*call);
  if (!passes)
    return passes.takeError();
  return *passes ? 0 : 1;
}

std::unique_ptr<Command> attnc::makeRunCommand() {
  return std::make_unique<RunCommand>();
}
