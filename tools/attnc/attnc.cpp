//===- attnc.cpp - The compiler's command line ----------------------------===//

#include "lib/Api/Worker.h"
#include "lib/Compiler/Compiler.h"
#include "lib/OpTable/OpTable.h"
#include "tools/attnc/Commands.h"
#include "tools/attnc/Tool.h"

#include "llvm/ADT/SmallVector.h"
#include "llvm/Support/ErrorHandling.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/WithColor.h"
#include "llvm/Support/raw_ostream.h"

#include <new>
#include <unistd.h>

using namespace attnc;
using namespace llvm;

static constexpr CommandInfo commands[] = {
    {"compile", "takes a program from one phase to another (the default)",
     makeCompileCommand},
    {"gen", "writes attention from flags, as IR", makeGenCommand},
    {"run", "compiles a program and calls it, checks and times it",
     makeRunCommand},
    {"explain", "says which schedule is chosen and what bounds the time",
     makeExplainCommand},
    {"cache", "looks after compiled programs on disk", makeCacheCommand},
    {"package", "compiles programs into one file for production",
     makePackageCommand},
    {"tune", "measures schedules and keeps the faster ones", makeTuneCommand},
    {"collect-env", "describes this machine, for a bug report",
     makeCollectEnvCommand},
};

static int fail(const Twine &message) {
  std::string text = message.str();
  // Messages about a place in a file say so themselves.
  if (!StringRef(text).contains(": error: "))
    WithColor(errs(), HighlightColor::Error) << "attnc: error: ";
  errs() << text << '\n';
  return 1;
}

static void printPhases(raw_ostream &os) {
  for (Target target : {Target::CPU, Target::SM90a}) {
    os << "phases of --target=" << targetName(target) << ":\n";
    for (const PhaseStep &step : phasesOf(target))
      os << "  " << left_justify(step.name, 9) << ' ' << step.description
         << '\n';
  }
}

/// What leads to each phase, so that attnc-opt can do the same by hand.
static int printPasses(raw_ostream &os) {
  for (Target target : {Target::CPU, Target::SM90a}) {
    CompileOptions options;
    options.target = target;
    os << "passes of --target=" << targetName(target)
       << ", for attnc-opt --pass-pipeline='builtin.module(...)':\n";
    for (const PhaseStep &step : phasesOf(target)) {
      if (!step.pipeline)
        continue;
      auto pipeline = step.pipeline(options);
      if (!pipeline)
        return fail(toString(pipeline.takeError()));
      if (!pipeline->empty())
        os << "  " << left_justify(step.name, 9) << ' ' << *pipeline << '\n';
    }
  }
  return 0;
}

/// The error of a formula, in units of the last place of f32.
static std::string describeError(const Expansion &expansion) {
  if (!expansion.build)
    return "rounded";
  const ErrorContract &error = expansion.error;
  std::string text;
  raw_string_ostream(text) << format(
      error.relative ? "%.0f x 2^-24" : "%.0f x 2^-24 abs",
      (error.relative ? error.relative : error.absolute) * 0x1p24);
  return text;
}

/// What a region of a score function may hold.
static void printOps(raw_ostream &os) {
  os << "ops of score functions, on f32, with the largest relative error of "
        "their formula\n(abs: absolute; rounded: the op's own). Regions may "
        "also "
        "hold arith's integer ops on\npositions (i32) and conditions (i1), and "
        "conversions.\n";
  auto row = [&](StringRef name, StringRef op, StringRef cpu, StringRef gpu,
                 StringRef derivative) {
    os << "  " << left_justify(name, 10) << left_justify(op, 16)
       << left_justify(cpu, 17) << left_justify(gpu, 17) << derivative << '\n';
  };
  row("Python", "op", "cpu", "sm_90a", "derivative");
  for (const OpTableRow &op : getOpTable())
    row(op.name, op.op, describeError(op.cpu), describeError(op.sm90a),
        !op.derive         ? StringRef("none")
        : op.kinks.empty() ? StringRef("everywhere")
                           : StringRef(op.kinks));
}

static void printOverview(raw_ostream &os) {
  os << "attnc compiles attention: any elementwise score function, or "
        "softmax.\n\n"
        "usage: attnc IN.mlir [-o OUT] [--target=cpu] [--emit=PHASE]\n"
        "       attnc COMMAND ...\n\ncommands:\n";
  for (const CommandInfo &command : commands)
    os << "  " << left_justify(command.name, 11) << ' ' << command.summary
       << '\n';
  os << "  help        explains a command, 'phases', 'passes' or 'ops'\n\n"
        "try:\n"
        "  attnc gen --score=sigmoid --causal -o a.mlir\n"
        "  attnc a.mlir --emit=fused\n";
}

static std::unique_ptr<Command> findCommand(StringRef name) {
  for (const CommandInfo &command : commands)
    if (command.name == name)
      return command.make();
  return nullptr;
}

static SmallVector<StringRef> commandNames() {
  SmallVector<StringRef> names;
  for (const CommandInfo &command : commands)
    names.push_back(command.name);
  return names;
}

/// A word that is no option and no file.
static bool isMistypedCommand(StringRef word) {
  return !word.starts_with("-") && !word.contains('.') && !word.contains('/') &&
         !sys::fs::exists(word);
}

static int help(ArrayRef<StringRef> arguments) {
  if (arguments.empty()) {
    printOverview(outs());
    return 0;
  }
  if (arguments[0] == "phases") {
    printPhases(outs());
    return 0;
  }
  if (arguments[0] == "passes")
    return printPasses(outs());
  if (arguments[0] == "ops") {
    printOps(outs());
    return 0;
  }
  if (auto command = findCommand(arguments[0])) {
    command->table().printHelp(outs());
    return 0;
  }
  SmallVector<StringRef> names = commandNames();
  names.append({"phases", "passes", "ops"});
  return fail("no help on '" + arguments[0] + "'; expected one of " +
              join(names, ", ") + didYouMean(arguments[0], names));
}

/// A failure inside LLVM ends here instead of in an abort.
static void onFatalError(void *, const char *reason, bool) {
  errs() << "attnc: error: the code generator gave up: " << reason
         << "; this is a bug in attnc, please report it with the input\n";
  errs().flush();
  _exit(1);
}

/// Exceptions are off: without this, a failing `new` would abort.
static void onOutOfMemory() {
  constexpr StringLiteral text =
      "attnc: error: out of memory; expected smaller sizes or a smaller file\n";
  (void)!::write(STDERR_FILENO, text.data(), text.size());
  _exit(1);
}

int attnc_run_tool(int argc, char **argv) {
  install_fatal_error_handler(onFatalError);
  std::set_new_handler(onOutOfMemory);
  SmallVector<StringRef> arguments(argv + 1, argv + argc);
  if (arguments.empty()) {
    printOverview(errs());
    return 1;
  }
  if (arguments[0] == "--version") {
    outs() << "attnc " ATTNC_VERSION " (LLVM " LLVM_VERSION_STRING ")\n";
    return 0;
  }
  if (arguments[0] == "--help" || arguments[0] == "-h")
    return help({});
  if (arguments[0] == "help")
    return help(ArrayRef(arguments).drop_front());

  if (arguments[0] == "worker") // not for people
    return runWorker();

  auto command = findCommand(arguments[0]);
  if (!command && isMistypedCommand(arguments[0]))
    return fail("unknown command '" + arguments[0] + "'; expected " +
                join(commandNames(), ", ") + " or a file" +
                didYouMean(arguments[0], commandNames()));
  if (command)
    arguments.erase(arguments.begin());
  else
    command = makeCompileCommand();
  if (is_contained(arguments, "--help") || is_contained(arguments, "-h")) {
    command->table().printHelp(outs());
    return 0;
  }
  if (Error error = command->table().parse(arguments))
    return fail(toString(std::move(error)));
  Expected<int> status = command->run();
  if (!status)
    return fail(toString(status.takeError()));
  return *status;
}
