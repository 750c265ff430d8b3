//===- Compiler.cpp - From one phase to another ---------------------------===//

#include "lib/Compiler/Compiler.h"

#include "dialects/attn/Attn.h"
#include "dialects/hopper/Hopper.h"
#include "dialects/tile/Tile.h"
#include "lib/Compiler/Diagnostics.h"
#include "lib/Compiler/Ladder.h"
#include "lib/Support/File.h"
#include "lib/Target/CPU/CpuCodegen.h"
#include "passes/Passes.h"
#include "passes/ScheduleChoice.h"

#include "mlir/Dialect/Affine/IR/AffineOps.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/AsmState.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/IR/Verifier.h"
#include "mlir/Parser/Parser.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"
#include "mlir/Transforms/Passes.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/SourceMgr.h"

#include <chrono>
#include <mutex>

using namespace attnc;
using namespace mlir;
using llvm::Error;
using llvm::Expected;

std::unique_ptr<MLIRContext> attnc::makeContext() {
  DialectRegistry registry;
  registry.insert<attn::AttnDialect, tile::TileDialect, hopper::HopperDialect,
                  func::FuncDialect, affine::AffineDialect, NVVM::NVVMDialect,
                  tensor::TensorDialect, vector::VectorDialect,
                  memref::MemRefDialect, LLVM::LLVMDialect>();
  registerCpuTranslations(registry);
  // One thread: modules are small, and order must not depend on timing.
  return std::make_unique<MLIRContext>(registry,
                                       MLIRContext::Threading::DISABLED);
}

void attnc::registerAllPasses() {
  static std::once_flag registered;
  std::call_once(registered, [] {
    registerPasses();
    registerCanonicalizerPass();
    registerCSEPass();
  });
}

//===----------------------------------------------------------------------===//
// Reading
//===----------------------------------------------------------------------===//

/// The parser recurses with the nesting of the text; refuses what would
/// exhaust the stack. Returns the line of the first bracket too deep, or 0.
static size_t findDeepNesting(llvm::StringRef contents) {
  constexpr int deepest = 256;
  int depth = 0;
  size_t line = 1;
  bool inString = false, inComment = false;
  int unary = 0;
  for (size_t k = 0; k < contents.size(); ++k) {
    char c = contents[k];
    if (c == '\n') {
      ++line;
      inString = inComment = false;
      continue;
    }
    if (inComment)
      continue;
    if (c == '"' && (k == 0 || contents[k - 1] != '\\'))
      inString = !inString;
    if (inString)
      continue;
    inComment = c == '/' && k + 1 < contents.size() && contents[k + 1] == '/';
    // Affine expressions nest without brackets too: - - - - d0.
    unary = c == '-' ? unary + 1 : llvm::isSpace(c) ? unary : 0;
    if (llvm::StringRef("([{<").contains(c))
      ++depth;
    bool arrow = c == '>' && k > 0 && contents[k - 1] == '-';
    if (llvm::StringRef(")]}>").contains(c) && !arrow)
      depth = std::max(depth - 1, 0);
    if (depth > deepest || unary > deepest)
      return line;
  }
  return 0;
}

/// Splits `// attnc.phase = ptx, attnc.target = sm_90a` off a text. The
/// comment sign is whatever the text's language has.
static bool parseTextHeader(llvm::StringRef contents, llvm::StringRef &phase,
                            llvm::StringRef &target) {
  llvm::StringRef line = contents.take_until([](char c) { return c == '\n'; });
  size_t at = line.find("attnc.phase = ");
  if (at == llvm::StringRef::npos || line.contains("module"))
    return false;
  line = line.drop_front(at + 14);
  std::tie(phase, line) = line.split(", attnc.target = ");
  target = line.trim();
  return !target.empty();
}

std::string attnc::textHeader(llvm::StringRef comment, llvm::StringRef phase,
                              Target target) {
  return (comment + " attnc.phase = " + phase +
          ", attnc.target = " + targetName(target) + "\n")
      .str();
}

/// Where a module without `attnc.phase` stands: hand-written programs have
/// no such attribute.
static Phase guessPhase(ModuleOp module) {
  bool hasTile = llvm::any_of(module.getOps(), [](Operation &op) {
    return isa<tile::ProgramOp, tile::KernelOp>(op);
  });
  return hasTile ? Phase::Tile : Phase::Attn;
}

static Expected<Phase> phaseNamed(llvm::StringRef phase, llvm::StringRef target,
                                  llvm::StringRef input,
                                  CompileOptions &options) {
  auto known = parseTarget(target);
  if (!known)
    return makeError(input + ": error: the input was made for target '" +
                     target + "'; expected cpu or sm_90a");
  auto step = findPhase(*known, phase);
  if (!step)
    return makeError(input + ": error: " + toString(step.takeError()));
  // Up to fusion nothing depends on the target.
  if (*known != options.target && (*step)->phase > Phase::Fused)
    return makeError(input + ": error: the input was made for target " +
                     target + ", expected " + targetName(options.target) +
                     "; pass --target=" + target +
                     " or start from an earlier phase");
  return (*step)->phase;
}

/// What a front end says of an argument or result, by attributes that another
/// kind of value would silently switch off.
static LogicalResult checkAttribute(FunctionOpInterface function,
                                    const llvm::Twine &of,
                                    NamedAttribute attribute) {
  auto refuse = [&](const char *expected) {
    return function.emitError()
           << of << " of '" << function.getName()
           << "': " << attribute.getName() << " is " << attribute.getValue()
           << "; expected " << expected;
  };
  auto text = dyn_cast<StringAttr>(attribute.getValue());
  if (attribute.getName() == attn::kNameAttr && (!text || text.empty()))
    return refuse("a string that is not empty, such as \"query\"");
  if (attribute.getName() == attn::kGradientAttr &&
      !isa<UnitAttr>(attribute.getValue()))
    return refuse("no value: leave the attribute out where no gradient is "
                  "wanted");
  return success();
}

static LogicalResult checkAttributes(ModuleOp module) {
  LogicalResult result = success();
  module.walk([&](FunctionOpInterface function) {
    auto check = [&](const llvm::Twine &of, ArrayRef<NamedAttribute> all) {
      for (NamedAttribute attribute : all)
        if (failed(checkAttribute(function, of, attribute)))
          result = failure();
    };
    for (unsigned k = 0; k < function.getNumArguments(); ++k)
      check("argument " + llvm::Twine(k), function.getArgAttrs(k));
    for (unsigned k = 0; k < function.getNumResults(); ++k)
      check("result " + llvm::Twine(k), function.getResultAttrs(k));
  });
  return result;
}

Expected<Artifact> attnc::parseArtifact(llvm::StringRef contents,
                                        llvm::StringRef name,
                                        MLIRContext &context,
                                        CompileOptions &options) {
  Artifact artifact;
  llvm::StringRef phase, target;
  if (parseTextHeader(contents, phase, target)) {
    auto found = phaseNamed(phase, target, name, options);
    if (!found)
      return found.takeError();
    artifact.phase = *found;
    artifact.text = contents.str();
    return std::move(artifact);
  }
  if (contents.starts_with("\x7f"
                           "ELF"))
    return makeError(name + ": error: the input is machine code, the end of "
                            "the way; expected MLIR or PTX");
  if (size_t line = findDeepNesting(contents))
    return makeError(name + ":" + llvm::Twine(line) +
                     ":1: error: brackets nest too deeply; expected at most "
                     "256 levels");
  DiagnosticCapture capture(context, name);
  llvm::SourceMgr sources;
  sources.AddNewSourceBuffer(
      llvm::MemoryBuffer::getMemBufferCopy(contents, name), llvm::SMLoc());
  artifact.module = parseSourceFile<ModuleOp>(sources, &context);
  if (!artifact.module)
    return capture.takeError("expected MLIR, got nothing that parses");
  ModuleOp module = *artifact.module;
  if (failed(checkAttributes(module)))
    return capture.takeError("the names of arguments must be strings");
  for (llvm::StringRef attribute : {kPhaseAttr, kTargetAttr})
    if (module->hasAttr(attribute) &&
        !module->getAttrOfType<StringAttr>(attribute))
      return makeError(name + ": error: '" + attribute +
                       "' of the module must be a string, such as \"cpu\" "
                       "for a target or \"tile\" for a phase");
  auto phaseAttr = module->getAttrOfType<StringAttr>(kPhaseAttr);
  auto targetAttr = module->getAttrOfType<StringAttr>(kTargetAttr);
  if (!phaseAttr) {
    artifact.phase = guessPhase(*artifact.module);
    return std::move(artifact);
  }
  auto found = phaseNamed(phaseAttr,
                          targetAttr ? targetAttr.getValue()
                                     : targetName(options.target),
                          name, options);
  if (!found)
    return found.takeError();
  artifact.phase = *found;
  return std::move(artifact);
}

//===----------------------------------------------------------------------===//
// Going on
//===----------------------------------------------------------------------===//

std::string Artifact::print() const {
  if (!text.empty())
    return text;
  std::string out;
  llvm::raw_string_ostream stream(out);
  ModuleOp op = module.get();
  op->print(stream);
  stream << '\n';
  return out;
}

static void setPhase(ModuleOp module, const PhaseStep &step, Target target) {
  MLIRContext *context = module.getContext();
  module->setAttr(kPhaseAttr, StringAttr::get(context, step.name));
  // Before a target is asked for, none is named.
  if (step.phase > Phase::Fused)
    module->setAttr(kTargetAttr, StringAttr::get(context, targetName(target)));
}

/// Runs the passes that lead to one phase.
static Error runPasses(ModuleOp module, const PhaseStep &step,
                       const CompileOptions &options) {
  auto pipeline = step.pipeline(options);
  if (!pipeline)
    return pipeline.takeError();
  DiagnosticCapture capture(*module.getContext(), "module");
  PassManager manager(module.getContext());
  // Once for all passes: after each it took a twentieth of the time to PTX.
  manager.enableVerifier(false);
  std::string complaint;
  llvm::raw_string_ostream stream(complaint);
  if (failed(parsePassPipeline(*pipeline, manager, stream)))
    return makeError("cannot build the passes of phase " + step.name + ": " +
                     llvm::StringRef(complaint).split('\n').first);
  if (failed(manager.run(module)) || failed(verify(module)))
    return capture.takeError("the passes of phase " + step.name.str() +
                             " failed");
  return Error::success();
}

/// Leaves MLIR; what it says on the way is more precise than the failure.
static Error runTranslation(Artifact &artifact, const PhaseStep &step,
                            const CompileOptions &options) {
  if (!artifact.module)
    return step.translate(artifact, options);
  DiagnosticCapture capture(*artifact.module->getContext(), "module");
  Error error = step.translate(artifact, options);
  if (!error)
    return Error::success();
  if (!capture.hasErrors())
    return error;
  consumeError(std::move(error));
  return capture.takeError("");
}

static Error takeStep(Artifact &artifact, const PhaseStep &step,
                      const CompileOptions &options) {
  if (step.translate) {
    if (Error error = runTranslation(artifact, step, options))
      return error;
  } else {
    if (Error error = runPasses(*artifact.module, step, options))
      return error;
    setPhase(*artifact.module, step, options.target);
  }
  artifact.phase = step.phase;
  return Error::success();
}

/// Takes the steps after `from` up to `to`.
static Error takeSteps(Artifact &artifact, const PhaseStep *from,
                       const PhaseStep *to, const CompileOptions &options,
                       PhaseObserver observer) {
  for (const PhaseStep *step = from + 1; step <= to; ++step) {
    auto start = std::chrono::steady_clock::now();
    if (Error error = takeStep(artifact, *step, options))
      return error;
    std::chrono::duration<double> taken =
        std::chrono::steady_clock::now() - start;
    if (observer)
      if (Error error = observer(*step, artifact, taken.count()))
        return error;
  }
  return Error::success();
}

bool CompileOptions::choosesSchedule() const {
  return isScheduleChoice(schedule);
}

Error attnc::compile(Artifact &artifact, const CompileOptions &options,
                     Phase upTo, PhaseObserver observer) {
  const PhaseStep *last = findPhase(options.target, upTo);
  const PhaseStep *from = findPhase(options.target, artifact.phase);
  if (!last || !from)
    return makeError("target " + targetName(options.target) +
                     " has no such phase; see 'attnc help phases'");
  if (from > last)
    return makeError("the input is at phase " + from->name +
                     " already, expected " + last->name +
                     " or an earlier one; a compile cannot go back");
  // The first phase is what was read, printed and named.
  if (from->phase == Phase::Attn && artifact.module)
    setPhase(*artifact.module, *from, options.target);
  if (observer)
    if (Error error = observer(*from, artifact, 0))
      return error;
  // Up to here no schedule is chosen; the assembler may reject one.
  const PhaseStep *fused = findPhase(options.target, Phase::Fused);
  const PhaseStep *code = findPhase(options.target, Phase::Cubin);
  if (code && last >= code && from <= fused && options.choosesSchedule()) {
    if (Error error = takeSteps(artifact, from, fused, options, observer))
      return error;
    auto attempt = [&](Artifact &attempted) {
      return takeSteps(attempted, fused, code, options, observer);
    };
    if (Error error = climbLadder(artifact, options, attempt))
      return error;
    from = code;
  }
  return takeSteps(artifact, from, last, options, observer);
}

Error attnc::compile(ModuleOp module, const CompileOptions &options,
                     Phase upTo) {
  Artifact artifact;
  artifact.phase = guessPhase(module);
  if (auto phase = module->getAttrOfType<StringAttr>(kPhaseAttr)) {
    auto step = findPhase(options.target, phase);
    if (!step)
      return step.takeError();
    artifact.phase = (*step)->phase;
  }
  // The caller keeps the module.
  artifact.module = OwningOpRef<ModuleOp>(module);
  Error error = compile(artifact, options, upTo);
  artifact.module.release();
  return error;
}
