//===- CompileCommand.cpp - attnc IN.mlir ---------------------------------===//

#include "tools/attnc/Commands.h"

#include "lib/Compiler/Compiler.h"
#include "lib/Runtime/Cuda/CLauncher.h"
#include "lib/Support/File.h"
#include "lib/Support/HugePages.h"

#include "mlir/IR/MLIRContext.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/raw_ostream.h"

using namespace attnc;
using namespace llvm;

void TargetFlags::addTo(OptionTable &table, bool reference) {
  table.section("target");
  SmallVector<StringRef> targets{"cpu", "sm_90a"};
  if (reference)
    targets.push_back("reference");
  table.choice("target", targets, target,
               reference ? "What to run on; cpu by default. reference is a "
                           "slow float64 evaluation."
                         : "What to compile for; cpu by default.");
  table.text("schedule", "KEY=N,...", schedule,
             "Overrides the cost model's choice, for example "
             "block_m=64,block_n=128; few_queries: what it would choose for "
             "few queries and many keys, few_items: for few queries in all. "
             "See 'attnc explain'.");
  table.flag("any-layout", anyLayout,
             "sm_90a: operands may have any strides and alignment, which bulk "
             "copies cannot read; slower.");
  table.text("mcpu", "NAME", cpu,
             "The CPU to generate code for, as LLVM names it (x86-64, "
             "x86-64-v3, znver4, ...); by default the one this runs on.");
  table.text("mattr", "+F,-F", features,
             "CPU features to add or remove, for example -avx512f.");
}

Expected<CompileOptions> TargetFlags::get() const {
  CompileOptions options;
  // The reference compiles nothing.
  options.target = parseTarget(target).value_or(Target::CPU);
  options.schedule = schedule;
  options.anyLayout = anyLayout;
  options.cpu = cpu;
  options.features = features;
  return options;
}

namespace {
class CompileCommand : public Command {
public:
  CompileCommand() {
    options.positional("IN.mlir", inputs, 1,
                       "The program, at any phase; - is standard input.");
    options.section("output");
    options.text("o", "OUT", output,
                 "Where the result goes; standard output by default.");
    options.text("emit", "PHASE", emit,
                 "How far to compile; the last phase by default. 'attnc help "
                 "phases' lists them. c-launcher, for sm_90a, is a C file "
                 "that holds the machine code and launches it.");
    options.text("dump-to", "DIR", dumpDirectory,
                 "Also writes every phase on the way to a numbered file.");
    options.flag("timing", timing,
                 "Prints what each phase took to standard error.");
    flags.addTo(options);
  }

  OptionTable &table() override { return options; }
  Expected<int> run() override;

private:
  Error dump(const PhaseStep &step, const Artifact &artifact);

  OptionTable options{
      "compile IN.mlir [-o OUT] [options]",
      "Takes a program from the phase it is at to another. Whatever phase is\n"
      "emitted in between, going on from it gives the same result.",
      "  attnc a.mlir --emit=tile            # the blocked program\n"
      "  attnc a.mlir --emit=tile | attnc - --emit=formula\n"
      "  attnc a.mlir --dump-to=phases -o /dev/null"};
  std::vector<std::string> inputs;
  std::string output = "-", emit, dumpDirectory;
  bool timing = false;
  TargetFlags flags;
};
} // namespace

Error CompileCommand::dump(const PhaseStep &step, const Artifact &artifact) {
  if (auto code = sys::fs::create_directories(dumpDirectory))
    return makeError("cannot make directory '" + dumpDirectory +
                     "': " + code.message() +
                     "; expected --dump-to=DIR in a writable directory");
  ArrayRef<PhaseStep> steps = phasesOf(*parseTarget(flags.target));
  size_t number = &step - steps.data();
  std::string file;
  raw_string_ostream(file) << format("%02zu-", number) << step.name
                           << (artifact.text.empty() ? ".mlir" : ".txt");
  SmallString<128> path(dumpDirectory);
  sys::path::append(path, file);
  return writeOutput(path, artifact.print());
}

Expected<int> CompileCommand::run() {
  useHugePages();
  if (inputs.empty())
    return makeError("expected an input, got none; usage: attnc IN.mlir "
                     "[-o OUT] [--emit=PHASE], or 'attnc help'");
  auto compileOptions = flags.get();
  if (!compileOptions)
    return compileOptions.takeError();
  Target target = compileOptions->target;
  const PhaseStep *last = &phasesOf(target).back();
  bool launcher = emit == "c-launcher";
  if (launcher && target == Target::CPU)
    return makeError("--emit=c-launcher: expected --target=sm_90a, got "
                     "--target=cpu");
  if (launcher) {
    last = findPhase(target, Phase::Cubin);
  } else if (!emit.empty()) {
    auto found = findPhase(target, emit);
    if (!found)
      return makeError("--emit: " + toString(found.takeError()));
    last = *found;
  }
  auto buffer = readInput(inputs[0]);
  if (!buffer)
    return buffer.takeError();
  registerAllPasses();
  auto context = makeContext();
  StringRef name = inputs[0] == "-" ? "<stdin>" : StringRef(inputs[0]);
  auto artifact =
      parseArtifact((*buffer)->getBuffer(), name, *context, *compileOptions);
  if (!artifact)
    return artifact.takeError();

  auto observe = [&](const PhaseStep &step, const Artifact &artifact,
                     double seconds) -> Error {
    if (timing)
      errs() << format("%8.2f ms  ", seconds * 1e3) << step.name << '\n';
    return dumpDirectory.empty() ? Error::success() : dump(step, artifact);
  };
  if (Error error = compile(*artifact, *compileOptions, last->phase, observe))
    return std::move(error);
  std::string text = artifact->print();
  if (launcher) {
    if (!artifact->module)
      return makeError(name + ": error: --emit=c-launcher needs the launch "
                              "plan, which the input has left behind; expected "
                              "phase llvm or an earlier one");
    auto written = writeCLauncher(*artifact->module, text);
    if (!written)
      return written.takeError();
    text = std::move(*written);
  }
  if (Error error = writeOutput(output, text))
    return std::move(error);
  errs() << artifact->warnings;
  return 0;
}

std::unique_ptr<Command> attnc::makeCompileCommand() {
  return std::make_unique<CompileCommand>();
}
