//===- Phase.cpp - The stations on the way down ---------------------------===//

#include "lib/Compiler/Phase.h"

#include "lib/Compiler/Compiler.h"
#include "lib/Compiler/VerifyCode.h"
#include "lib/Support/File.h"
#include "lib/Support/Suggest.h"
#include "lib/Target/CPU/CpuCodegen.h"
#include "lib/Target/NVPTX/CubinStats.h"
#include "lib/Target/NVPTX/Ptx.h"
#include "lib/Target/NVPTX/Ptxas.h"

#include "passes/Passes.h"

#include "mlir/Pass/PassManager.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSwitch.h"
#include "llvm/Support/raw_ostream.h"

using namespace attnc;
using namespace llvm;

StringRef attnc::targetName(Target target) {
  return target == Target::CPU ? "cpu" : "sm_90a";
}

std::optional<Target> attnc::parseTarget(StringRef name) {
  return StringSwitch<std::optional<Target>>(name)
      .Case("cpu", Target::CPU)
      .Case("sm_90a", Target::SM90a)
      .Default(std::nullopt);
}

//===----------------------------------------------------------------------===//
// The passes between phases
//===----------------------------------------------------------------------===//

using Pipeline = Expected<std::string>;

static Pipeline toAttn(const CompileOptions &) { return ""; }

static Pipeline toFused(const CompileOptions &) {
  return "attn-raise-idioms,canonicalize,cse,func.func(attn-fuse),canonicalize,"
         "cse,func.func(attn-differentiate),canonicalize,cse";
}

/// What stands between the brackets of #tile.schedule, fit for a pass option.
static Expected<std::string> scheduleText(StringRef schedule) {
  for (char c : schedule)
    if (!isAlnum(c) && !StringRef("_=, ").contains(c))
      return makeError(
          "--schedule: expected KEY=N,... such as "
          "block_m=64,block_n=128, few_queries or few_items, got '" +
          schedule + "'");
  return schedule.str();
}

static Pipeline toTile(const CompileOptions &options) {
  auto schedule = scheduleText(options.schedule);
  if (!schedule)
    return schedule.takeError();
  std::string pass = "attn-to-tile{target=" + targetName(options.target).str();
  if (!schedule->empty())
    pass += " schedule=\"" + *schedule + "\"";
  if (options.anyLayout)
    pass += " any-layout=true";
  return pass + "},canonicalize,cse";
}

static Pipeline toFormula(const CompileOptions &options) {
  return "tile-online-softmax,tile-select-formula{target=" +
         targetName(options.target).str() +
         "},canonicalize,cse,"
         "tile-plan-launches,canonicalize,cse";
}

static CpuOptions cpuOptions(const CompileOptions &options) {
  return {options.cpu, options.features, 0};
}

static Pipeline toVector(const CompileOptions &options) {
  auto features = getVectorFeatures(cpuOptions(options));
  if (!features)
    return features.takeError();
  return getTileToCpuPipeline(*features);
}

static Pipeline toLLVM(const CompileOptions &) {
  return getCpuToLLVMPipeline();
}

static Pipeline toHopper(const CompileOptions &options) {
  std::string pass = "tile-to-hopper";
  if (options.anyLayout)
    pass += "{any-layout=true}";
  return pass + ",canonicalize,cse";
}

static Pipeline toNvvm(const CompileOptions &) {
  // LLVM finds what is computed twice, for the same PTX.
  return "hopper-to-llvm,canonicalize{region-simplify=disabled "
         "max-iterations=1},attnc-verify-codegen";
}

//===----------------------------------------------------------------------===//
// What MLIR becomes
//===----------------------------------------------------------------------===//

static Error toAssembly(Artifact &artifact, const CompileOptions &options) {
  if (Error error = verifyCpuCode(*artifact.module))
    return error;
  auto assembly = emitCpuAssembly(*artifact.module, cpuOptions(options));
  if (!assembly)
    return assembly.takeError();
  artifact.text = textHeader("#", "asm", options.target) + *assembly;
  return Error::success();
}

static Error toPtx(Artifact &artifact, const CompileOptions &options) {
  // LLVM ends the process for what it has no instruction for.
  mlir::PassManager verifier(artifact.module->getContext());
  verifier.enableVerifier(false); // reading and the last phase did
  verifier.addPass(createAttncVerifyCodegen());
  if (failed(verifier.run(*artifact.module)))
    return makeError("the module is not code for sm_90a; expected phase llvm "
                     "as attnc makes it");
  auto ptx = compileToPtx(*artifact.module);
  if (!ptx)
    return ptx.takeError();
  artifact.text = textHeader("//", "ptx", options.target) + *ptx;
  return Error::success();
}

static Error toCubin(Artifact &artifact, const CompileOptions &options) {
  auto cubin = assemble(artifact.text);
  if (!cubin)
    return cubin.takeError();
  // The code is right all the same, only slower than it should be.
  if (Error unclean = checkClean(cubin->log)) {
    artifact.warnings += "warning: " + toString(std::move(unclean)) + "\n";
    if (!options.choosesSchedule())
      artifact.warnings += "  (the schedule was given; without --schedule a "
                           "plainer one would be tried)\n";
  }
  artifact.assemblerLog = cubin->log.text;
  artifact.text = std::move(cubin->image);
  return Error::success();
}

static Error toStats(Artifact &artifact, const CompileOptions &) {
  auto code = readCubin(artifact.text);
  if (!code)
    return code.takeError();
  artifact.text.clear();
  raw_string_ostream stream(artifact.text);
  printStatsJson(stream, parsePtxasLog(artifact.assemblerLog), *code);
  return Error::success();
}

//===----------------------------------------------------------------------===//
// The table
//===----------------------------------------------------------------------===//

static constexpr PhaseStep attnPhase = {
    Phase::Attn, "attn", "what to compute: the steps of the textbook, as read",
    toAttn, nullptr};
static constexpr PhaseStep fusedPhase = {
    Phase::Fused, "fused", "one attn.fused op; no n x n value exists", toFused,
    nullptr};
static constexpr PhaseStep tilePhase = {
    Phase::Tile, "tile", "the blocked program: what one block of queries does",
    toTile, nullptr};

static constexpr PhaseStep formulaPhase = {
    Phase::Formula, "formula",
    "the same with a formula chosen for each elementwise function", toFormula,
    nullptr};

static constexpr PhaseStep cpuPhases[] = {
    attnPhase,
    fusedPhase,
    tilePhase,
    formulaPhase,
    {Phase::Vector, "vector", "loops over vectors, one function a kernel",
     toVector, nullptr},
    {Phase::LLVM, "llvm", "the LLVM dialect", toLLVM, nullptr},
    {Phase::Asm, "asm", "assembly text of the processor", nullptr, toAssembly},
};

static constexpr PhaseStep sm90aPhases[] = {
    attnPhase,
    fusedPhase,
    tilePhase,
    formulaPhase,
    {Phase::Hopper, "hopper",
     "who does what when: roles, rings, asynchronous products", toHopper,
     nullptr},
    {Phase::LLVM, "llvm", "the LLVM dialect with NVVM intrinsics and PTX",
     toNvvm, nullptr},
    {Phase::PTX, "ptx", "PTX text", nullptr, toPtx},
    {Phase::Cubin, "cubin", "machine code, as ptxas makes it", nullptr,
     toCubin},
    {Phase::Stats, "stats", "registers, spills and instruction counts as JSON",
     nullptr, toStats},
};

ArrayRef<PhaseStep> attnc::phasesOf(Target target) {
  if (target == Target::CPU)
    return cpuPhases;
  return sm90aPhases;
}

const PhaseStep *attnc::findPhase(Target target, Phase phase) {
  for (const PhaseStep &step : phasesOf(target))
    if (step.phase == phase)
      return &step;
  return nullptr;
}

Expected<const PhaseStep *> attnc::findPhase(Target target, StringRef name) {
  SmallVector<StringRef> known;
  for (const PhaseStep &step : phasesOf(target)) {
    if (step.name == name)
      return &step;
    known.push_back(step.name);
  }
  return makeError("unknown phase '" + name + "' of target " +
                   targetName(target) + "; expected one of " +
                   join(known, " ") + didYouMean(name, known));
}
