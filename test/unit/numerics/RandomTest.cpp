//===- RandomTest.cpp - Generated regions, masks and sizes ----------------===//

#include "test/unit/numerics/Attention.h"
#include "test/unit/numerics/RegionGenerator.h"

#include "gtest/gtest.h"

#include <cstdio>

using namespace attnc;
using namespace attnc::numerics;

namespace {

TEST(Generated, FiftyRandomRegionsMasksAndHeadDims) {
  const unsigned seed = 20240917;
  std::printf("  seed %u\n", seed);
  std::mt19937 random(seed);
  RegionGenerator regions(random);
  for (int k = 0; k < 50; ++k) {
    Attention a;
    const char *scores[] = {"sigmoid", "softmax", "linear", "softplus"};
    a.score = getScore(scores[random() % 4]);
    a.randomModifier = regions.generate();
    a.mask = getMasks()[random() % getMasks().size()];
    a.dim = 1 + random() % 256;
    a.valueDim = random() % 2 ? a.dim : 1 + random() % 256;
    a.batch = 1 + random() % 2;
    a.keyHeads = 1 + random() % 2;
    a.heads = a.keyHeads * (1 + random() % 3);
    a.queries = 1 + random() % 90;
    a.keys = 1 + random() % 90;
    a.bshd = random() % 2;
    Dtype dtypes[] = {Dtype::F32, Dtype::F16, Dtype::BF16};
    a.dtype = dtypes[random() % 3];
    a.seed = random();
    SCOPED_TRACE(testing::Message() << "problem " << k);
    // check prints the IR of what fails.
    Problem problem = a.build();
    check(problem);
    RunOptions gpu;
    gpu.target = Target::SM90a;
    check(problem, gpu);
  }
}

} // namespace
