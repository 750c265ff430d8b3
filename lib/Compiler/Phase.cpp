//===- Phase.cpp - The stations on the way down ---------------------------===//

#include "lib/Compiler/Phase.h"

#include "lib/Compiler/Compiler.h"
#include "lib/Support/File.h"

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

static std::string toAttn(const CompileOptions &) { return ""; }

static std::string toFused(const CompileOptions &) {
  return "canonicalize,cse";
}

//===----------------------------------------------------------------------===//
// The table
//===----------------------------------------------------------------------===//

static constexpr PhaseStep cpuPhases[] = {
    {Phase::Attn, "attn", "what to compute: the steps of the textbook, as read",
     toAttn, nullptr},
    {Phase::Fused, "fused", "one attn.fused op; no n x n value exists", toFused,
     nullptr},
};

static constexpr PhaseStep sm90aPhases[] = {
    cpuPhases[0],
    cpuPhases[1],
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
  std::string known;
  raw_string_ostream stream(known);
  for (const PhaseStep &step : phasesOf(target)) {
    if (step.name == name)
      return &step;
    stream << ' ' << step.name;
  }
  return makeError("unknown phase '" + name + "' of target " +
                   targetName(target) + "; expected one of" + known);
}
