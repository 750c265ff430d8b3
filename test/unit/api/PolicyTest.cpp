//===- PolicyTest.cpp - One program for all sizes, or one for these -------===//

#include "lib/Api/Policy.h"

#include "gtest/gtest.h"

#include <cstdlib>
#include <filesystem>

using namespace attnc;

namespace {
class PolicyTest : public ::testing::Test {
protected:
  static void SetUpTestSuite() {
    char name[] = "/tmp/attnc-policy-XXXXXX";
    directory = mkdtemp(name);
    setenv("ATTNC_CACHE_DIR", directory.c_str(), 1);
    setenv("ATTNC_LOG", "off", 1);
  }
  static void TearDownTestSuite() {
    std::error_code ignored;
    std::filesystem::remove_all(directory, ignored);
  }

  /// The choice for so many rows, given what measuring would say.
  Result<const RunnableProgram *> choose(int64_t rows, double general,
                                         double exact,
                                         const char *backward = "") {
    AttentionDescription description;
    description.backward = backward;
    description.score = "relu";
    description.headDim = 16;
    description.batch = 1;
    description.heads = 2;
    if (rows)
      description.seq = rows;
    ProgramRequest request;
    AttentionDescription dynamic = withoutSizes(description);
    request.genFlags = flagsOf(dynamic);
    request.ir = llvm::cantFail(writeAttention(dynamic, request.genFlags));
    return chooseExact(Session::instance(), request, description, 0,
                       [&](const RunnableProgram &first,
                           const RunnableProgram &second,
                           const AttentionDescription &,
                           int) -> llvm::Expected<std::pair<double, double>> {
                         ++measured;
                         EXPECT_EQ(first.parameters()[0].sizes[2], -1);
                         EXPECT_EQ(second.parameters()[0].sizes[2], rows);
                         return std::pair(general, exact);
                       });
  }

  static std::string directory;
  int measured = 0;
};
std::string PolicyTest::directory;
} // namespace

TEST_F(PolicyTest, KeptOnlyWhereItIsFaster) {
  auto slower = choose(8, 1.0, 1.0);
  ASSERT_TRUE(slower) << slower.failure().message;
  EXPECT_EQ(*slower, nullptr);
  auto little = choose(9, 1.02, 1.0);
  ASSERT_TRUE(little);
  EXPECT_EQ(*little, nullptr);
  auto faster = choose(10, 1.04, 1.0);
  ASSERT_TRUE(faster);
  ASSERT_NE(*faster, nullptr);
  EXPECT_EQ((*faster)->parameters()[0].sizes[2], 10);
  EXPECT_EQ(measured, 3);
}

TEST_F(PolicyTest, GradientsAreDecidedOnToo) {
  auto slower = choose(8, 1.0, 1.0, "operands");
  ASSERT_TRUE(slower) << slower.failure().message;
  EXPECT_EQ(*slower, nullptr);
  auto faster = choose(9, 2.0, 1.0, "operands");
  ASSERT_TRUE(faster) << faster.failure().message;
  ASSERT_NE(*faster, nullptr);
  EXPECT_EQ((*faster)->parameters().back().name, "dvalue");
  EXPECT_EQ(measured, 2);
}

TEST_F(PolicyTest, ADecisionIsMadeOnce) {
  ASSERT_TRUE(choose(12, 2.0, 1.0));
  ASSERT_TRUE(choose(13, 1.0, 2.0));
  EXPECT_EQ(measured, 2);
  auto again = choose(12, 1.0, 2.0), other = choose(13, 2.0, 1.0);
  ASSERT_TRUE(again && other);
  EXPECT_NE(*again, nullptr);
  EXPECT_EQ(*other, nullptr);
  EXPECT_EQ(measured, 2);
}

TEST_F(PolicyTest, SizesMustBeKnown) {
  auto unknown = choose(0, 1.0, 1.0);
  ASSERT_FALSE(unknown);
  EXPECT_EQ(unknown.failure().status, Status::InvalidArgument);
  EXPECT_NE(unknown.failure().message.find("expected batch, heads and seq"),
            std::string::npos)
      << unknown.failure().message;
  EXPECT_EQ(measured, 0);
}

/// The real comparison runs both; what it finds is not for a test to say.
static void measureOnItself(const AttentionDescription &description) {
  ProgramRequest request;
  AttentionDescription dynamic = withoutSizes(description);
  request.ir = llvm::cantFail(writeAttention(dynamic, ""));
  RequestKey key;
  auto program = Session::instance().get(request, key);
  ASSERT_TRUE(program) << program.failure().message;
  auto seconds = comparePrograms(**program, **program, description, 0);
  ASSERT_TRUE(bool(seconds)) << llvm::toString(seconds.takeError());
  EXPECT_GT(seconds->first, 0);
  EXPECT_GT(seconds->second, 0);
}

TEST_F(PolicyTest, MeasuringRunsEveryKindOfArgument) {
  AttentionDescription description;
  description.score = "softcap";
  description.headDim = 16;
  description.batch = 2;
  description.heads = 2;
  description.seq = 5;
  description.bias = "head";
  description.window = "-1,-1";
  description.masks = {"documents", "dilated:2", "tensor"};
  description.dtype = "bf16";
  description.alibi = description.kvLen = description.gate = description.scale =
      true;
  measureOnItself(description);
  // Of its gradients, with what they add.
  description.backward = "all";
  measureOnItself(description);
}

TEST_F(PolicyTest, Statistics) {
  EXPECT_EQ(medianOf({3, 1, 2}), 2);
  EXPECT_EQ(medianOf({}), 0);
  EXPECT_EQ(spreadOf({1, 1, 1, 1, 1, 1, 1, 9}), 0);
  EXPECT_NEAR(spreadOf({1, 2, 3, 4, 5, 6, 7, 8}), 3 / 2.0 / 5, 1e-9);
}
