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

using Pipeline = Expected<std::string>;

static Pipeline toAttn(const CompileOptions &) { return ""; }

static Pipeline toFused(const CompileOptions &) {
  return "attn-raise-idioms,canonicalize,cse,func.func(attn-fuse),canonicalize,"
         "cse";
}

/// What stands between the brackets of #tile.schedule, fit for a pass option.
static Expected<std::string> scheduleText(StringRef schedule) {
  for (char c : schedule)
    if (!isAlnum(c) && !StringRef("_=, ").contains(c))
      return makeError("--schedule: expected KEY=N,... such as "
                       "block_m=64,block_n=128, got '" +
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
  return pass + "},canonicalize,cse";
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

static constexpr PhaseStep cpuPhases[] = {
    attnPhase,
    fusedPhase,
    tilePhase,
};

static constexpr PhaseStep sm90aPhases[] = {
    attnPhase,
    fusedPhase,
    tilePhase,
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
