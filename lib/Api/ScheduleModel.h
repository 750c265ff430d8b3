//===- ScheduleModel.h - Which schedules are worth a try --------*- C++ -*-===//
//
// Ranks schedules of one program on sm_90a without running them: the relative
// time is e to a sum of a few properties of problem and schedule. The weights
// are fitted to measurements that are checked in; a test fits them anew,
// leaving each head dim out in turn, and wants the winners of that head dim
// among the first five.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_LIB_API_SCHEDULEMODEL_H
#define ATTNC_LIB_API_SCHEDULEMODEL_H

#include "passes/ScheduleChoice.h"

#include <array>
#include <vector>

namespace attnc {

constexpr size_t scheduleFeatureCount = 10;
using ScheduleFeatures = std::array<double, scheduleFeatureCount>;

ScheduleFeatures scheduleFeatures(const tile::ScheduleProblem &problem,
                                  tile::ScheduleAttr schedule);

/// What schedules of one program took, in any unit.
struct ScheduleTimes {
  std::vector<ScheduleFeatures> features;
  std::vector<double> times;
};

/// The weights that explain the ratios of times within programs best, the fast
/// ones counting most: where schedules are slow does not matter.
ScheduleFeatures fitScheduleWeights(const std::vector<ScheduleTimes> &programs);

/// Those of the checked-in measurements.
ScheduleFeatures shippedScheduleWeights();

/// Time of a schedule relative to others of the same problem.
double predictScheduleTime(const ScheduleFeatures &features,
                           const ScheduleFeatures &weights);

} // namespace attnc

#endif // ATTNC_LIB_API_SCHEDULEMODEL_H
