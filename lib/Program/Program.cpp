//===- Program.cpp - A launch plan for given arguments --------------------===//

#include "lib/Program/Program.h"

#include <cstring>

using namespace attnc;

static LaunchArgument spell(const PlanPlace &place, const PlanValues &values) {
  const int64_t *slots = values.slots.data();
  switch (place.kind) {
  case PlanPlace::Kind::View: {
    PlannedView view;
    view.inWorkspace = slots[place.inWorkspace()];
    if (view.inWorkspace)
      view.offset = slots[place.slot];
    else
      view.data = reinterpret_cast<void *>(slots[place.slot]);
    view.sizes.assign(slots + place.size(0), slots + place.size(place.rank));
    view.strides.assign(slots + place.stride(0),
                        slots + place.stride(place.rank));
    return view;
  }
  case PlanPlace::Kind::F32: {
    float value;
    memcpy(&value, &slots[place.slot], sizeof(value));
    return value;
  }
  case PlanPlace::Kind::I32:
    return static_cast<int32_t>(slots[place.slot]);
  case PlanPlace::Kind::Index:
    break;
  }
  return slots[place.slot];
}

llvm::Expected<LaunchPlan>
attnc::planProgram(tile::ProgramOp program,
                   llvm::ArrayRef<Argument> arguments) {
  auto code = PlanCode::translate(program);
  if (!code)
    return code.takeError();
  PlanValues values;
  if (llvm::Error error = code->evaluate(arguments, values))
    return std::move(error);
  LaunchPlan plan;
  plan.workspaceBytes = values.workspaceBytes;
  for (const PlanLaunch &planned : code->launches()) {
    Launch launch;
    launch.kernel = planned.kernel;
    launch.items = values.slots[planned.items];
    for (const PlanPlace &place : planned.arguments)
      launch.arguments.push_back(spell(place, values));
    plan.launches.push_back(std::move(launch));
  }
  return plan;
}
