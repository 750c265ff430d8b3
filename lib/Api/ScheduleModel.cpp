//===- ScheduleModel.cpp - Which schedules are worth a try ----------------===//

#include "lib/Api/ScheduleModel.h"

#include <algorithm>
#include <cmath>

using namespace attnc;

ScheduleFeatures attnc::scheduleFeatures(const tile::ScheduleProblem &problem,
                                         tile::ScheduleAttr schedule) {
  double m = double(schedule.getBlockM()), n = double(schedule.getBlockN());
  double d = double(problem.headDim) / 128;
  double three = schedule.getConsumers() == 3;
  double reduces = problem.rowReductions > 0, uneven = problem.unevenKeys;
  double blocks = 1000 / n; // that 1000 keys are
  return {
      // Three consumers: more overlap, for tiles that hold fewer columns.
      three,
      three * reduces,
      three * d,
      three * reduces * d,
      double(schedule.getPingpong()),
      double(schedule.getPersistent()),
      // What is paid once a block.
      blocks,
      reduces * blocks,
      uneven * blocks,
      // Logits that are computed and masked, where a block meets the mask.
      uneven * (m + n) / 4096,
  };
}

ScheduleFeatures attnc::shippedScheduleWeights() {
  // Of benchmarks/results/2026-11-28-h100-tune, an H100 at n = 2k and 16k.
  return {-0.166711635,  0.0535849698, 0.0901467436,  -0.103299284,
          -0.0205430931, 0.0119138859, 0.00317897541, 0.0117063498,
          0.00509212531, 3.24455919};
}

double attnc::predictScheduleTime(const ScheduleFeatures &features,
                                  const ScheduleFeatures &weights) {
  double sum = 0;
  for (size_t k = 0; k < features.size(); ++k)
    sum += features[k] * weights[k];
  return std::exp(sum);
}

namespace {
using Matrix = std::array<ScheduleFeatures, scheduleFeatureCount>;

/// Adds the products of what a program's schedules differ by from its mean.
void accumulate(const ScheduleTimes &program, Matrix &squares,
                ScheduleFeatures &products, double &count) {
  // A schedule that takes a tenth longer counts a seventeenth.
  constexpr double emphasis = 30;
  double fastest =
      *std::min_element(program.times.begin(), program.times.end());
  std::vector<double> weights;
  ScheduleFeatures mean{};
  double meanTime = 0, sum = 0;
  for (size_t k = 0; k < program.times.size(); ++k) {
    double time = std::log(program.times[k] / fastest);
    weights.push_back(std::exp(-emphasis * time));
    sum += weights[k];
    meanTime += weights[k] * time;
    for (size_t i = 0; i < mean.size(); ++i)
      mean[i] += weights[k] * program.features[k][i];
  }
  for (size_t k = 0; k < program.times.size(); ++k) {
    double time = std::log(program.times[k] / fastest) - meanTime / sum;
    ScheduleFeatures x;
    for (size_t i = 0; i < x.size(); ++i)
      x[i] = program.features[k][i] - mean[i] / sum;
    for (size_t i = 0; i < x.size(); ++i) {
      products[i] += weights[k] * x[i] * time;
      for (size_t j = 0; j < x.size(); ++j)
        squares[i][j] += weights[k] * x[i] * x[j];
    }
  }
  count += double(program.times.size());
}

/// By elimination with the largest pivots.
ScheduleFeatures solve(Matrix matrix, ScheduleFeatures right) {
  constexpr size_t n = scheduleFeatureCount;
  for (size_t k = 0; k < n; ++k) {
    size_t pivot = k;
    for (size_t i = k + 1; i < n; ++i)
      if (std::fabs(matrix[i][k]) > std::fabs(matrix[pivot][k]))
        pivot = i;
    std::swap(matrix[k], matrix[pivot]);
    std::swap(right[k], right[pivot]);
    for (size_t i = k + 1; i < n; ++i) {
      double factor = matrix[i][k] / matrix[k][k];
      for (size_t j = k; j < n; ++j)
        matrix[i][j] -= factor * matrix[k][j];
      right[i] -= factor * right[k];
    }
  }
  for (size_t k = n; k-- > 0;) {
    for (size_t j = k + 1; j < n; ++j)
      right[k] -= matrix[k][j] * right[j];
    right[k] /= matrix[k][k];
  }
  return right;
}
} // namespace

ScheduleFeatures
attnc::fitScheduleWeights(const std::vector<ScheduleTimes> &programs) {
  // Least squares, held back a little where the measurements say nothing.
  constexpr double ridge = 0.3;
  Matrix squares{};
  ScheduleFeatures products{}, scale;
  double count = 0;
  for (const ScheduleTimes &program : programs)
    accumulate(program, squares, products, count);
  for (size_t i = 0; i < scale.size(); ++i)
    scale[i] = std::sqrt(squares[i][i] / std::max(count, 1.0)) + 1e-9;
  for (size_t i = 0; i < scale.size(); ++i) {
    products[i] /= scale[i];
    for (size_t j = 0; j < scale.size(); ++j)
      squares[i][j] /= scale[i] * scale[j];
    squares[i][i] += ridge;
  }
  ScheduleFeatures weights = solve(squares, products);
  for (size_t i = 0; i < scale.size(); ++i)
    weights[i] /= scale[i];
  return weights;
}
