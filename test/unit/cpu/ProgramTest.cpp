//===- ProgramTest.cpp - Launch plans and how they are run ----------------===//

#include "test/unit/cpu/CpuTest.h"

#include "lib/Program/Program.h"

#include <cstdlib>
#include <thread>

using namespace attnc;
using namespace attnc::test;

namespace {

/// The plan of the only program of `body`, a program without kernels'
/// contents: `name` is @kernel, of one index argument.
struct Plan {
  mlir::OwningOpRef<mlir::ModuleOp> module;
  tile::ProgramOp program;

  explicit Plan(const std::string &body) {
    std::string text = R"(
      !view = !tile.view<?x?xf32>
      tile.program @program(%x: !view {tile.name = "x"}, %n: i32, %f: f32) {
    )" + body + R"(
      }
      tile.kernel @kernel(%i: index) {
        tile.items () in () {
        }
      }
      tile.kernel @views(%v: !tile.view<?x3xbf16>, %w: !tile.view<5xf32>) {
        tile.items () in () {
        }
      })";
    module = mlir::parseSourceString<mlir::ModuleOp>(text, &getContext());
    if (!module) {
      ADD_FAILURE() << text;
      return;
    }
    program = *module->getOps<tile::ProgramOp>().begin();
  }

  llvm::Expected<LaunchPlan> run(int32_t n = 0, float f = 0) {
    static Tensor<float> tensor({6, 4});
    return planProgram(program, {tensor.view(), n, f});
  }
};

/// The index that a program launches @kernel with.
int64_t value(const std::string &body, int32_t n = 0, float f = 0) {
  Plan plan(body + R"(
    %one = arith.constant 1 : index
    tile.launch @kernel(%r) items %one : index
  )");
  auto result = plan.run(n, f);
  if (!result) {
    ADD_FAILURE() << llvm::toString(result.takeError());
    return INT64_MIN;
  }
  return std::get<int64_t>(result->launches[0].arguments[0]);
}

TEST(Program, Arithmetic) {
  auto binary = [](const std::string &op, int32_t a, int32_t b) {
    return value("%b = arith.constant " + std::to_string(b) +
                     " : i32\n%s = arith." + op +
                     " %n, %b : i32\n%r = arith.index_cast %s : i32 to index",
                 a);
  };
  EXPECT_EQ(binary("addi", INT32_MAX, 1), INT32_MIN);
  EXPECT_EQ(binary("subi", 3, 5), -2);
  EXPECT_EQ(binary("muli", -3, 5), -15);
  EXPECT_EQ(binary("divsi", -7, 2), -3);
  EXPECT_EQ(binary("divui", -1, 2), INT32_MAX);
  EXPECT_EQ(binary("remsi", -7, 4), -3);
  EXPECT_EQ(binary("remui", 7, 4), 3);
  EXPECT_EQ(binary("ceildivsi", -7, 2), -3);
  EXPECT_EQ(binary("ceildivui", 7, 2), 4);
  EXPECT_EQ(binary("floordivsi", -7, 2), -4);
  EXPECT_EQ(binary("minsi", -1, 2), -1);
  EXPECT_EQ(binary("minui", -1, 2), 2);
  EXPECT_EQ(binary("maxsi", -1, 2), 2);
  EXPECT_EQ(binary("maxui", -1, 2), -1);
  EXPECT_EQ(binary("andi", 6, 3), 2);
  EXPECT_EQ(binary("ori", 6, 3), 7);
  EXPECT_EQ(binary("xori", 6, 3), 5);
  std::string choose = R"(
    %zero = arith.constant 0 : i32
    %a = arith.constant 10 : index
    %b = tile.dim %x, 1 : !view
    %c = arith.cmpi PREDICATE, %n, %zero : i32
    %r = arith.select %c, %a, %b : index)";
  auto compare = [&](const std::string &predicate, int32_t n) {
    std::string text = choose;
    text.replace(text.find("PREDICATE"), 9, predicate);
    return value(text, n) == 10;
  };
  EXPECT_TRUE(compare("slt", -1));
  EXPECT_FALSE(compare("ult", -1));
  EXPECT_TRUE(compare("ugt", -1));
  EXPECT_TRUE(compare("sge", 0));
  EXPECT_FALSE(compare("ne", 0));
}

TEST(Program, WidthsAndConversions) {
  EXPECT_EQ(value(R"(
    %zero = arith.constant 0 : i32
    %c = arith.cmpi slt, %n, %zero : i32
    %s = arith.extsi %c : i1 to i32
    %r = arith.index_cast %s : i32 to index)",
                  -1),
            -1);
  EXPECT_EQ(value(R"(
    %w = arith.extui %n : i32 to i64
    %r = arith.index_cast %w : i64 to index)",
                  -1),
            UINT32_MAX);
  EXPECT_EQ(value(R"(
    %b = arith.trunci %n : i32 to i8
    %r = arith.index_cast %b : i8 to index)",
                  0x181),
            -127);
}

TEST(Program, ScalarsAndViewsAreChosen) {
  Plan plan(R"(
    %zero = arith.constant 0 : i32
    %one = arith.constant 1 : index
    %c = arith.cmpi slt, %n, %zero : i32
    %a = tile.workspace(%one) : !tile.view<?x3xbf16>
    %rows = tile.dim %x, 0 : !view
    %b = tile.workspace(%rows) : !tile.view<?x3xbf16>
    %v = arith.select %c, %a, %b : !tile.view<?x3xbf16>
    %w = tile.workspace() : !tile.view<5xf32>
    %size = tile.dim %v, 0 : !tile.view<?x3xbf16>
    tile.launch @views(%v, %w) items %size
        : !tile.view<?x3xbf16>, !tile.view<5xf32>)");
  for (auto [n, rows, offset] : {std::tuple(-1, 1, 0), std::tuple(1, 6, 64)}) {
    auto result = plan.run(n);
    ASSERT_TRUE(bool(result)) << llvm::toString(result.takeError());
    auto &view = std::get<PlannedView>(result->launches[0].arguments[0]);
    EXPECT_EQ(view.offset, offset);
    EXPECT_EQ(view.sizes, (llvm::SmallVector<int64_t>{rows, 3}));
    EXPECT_EQ(result->launches[0].items, rows);
  }
}

/// A translated plan may be evaluated again with other arguments, and by
/// several callers at once.
TEST(Program, EvaluationsDoNotDisturbEachOther) {
  Plan plan(R"(
    %one = arith.constant 1 : index
    %rows = tile.dim %x, 0 : !view
    %k = arith.constant 7 : index
    %r = arith.muli %rows, %k : index
    tile.launch @kernel(%r) items %one : index)");
  auto code = PlanCode::translate(plan.program);
  ASSERT_TRUE(bool(code));
  Tensor<float> few({2, 4}), many({9, 4});
  PlanValues first, second;
  auto result = [&](const PlanValues &values) {
    return values.slots[code->launches()[0].arguments[0].slot];
  };
  ASSERT_FALSE(bool(code->evaluate({few.view(), 0, 0.0f}, first)));
  ASSERT_FALSE(bool(code->evaluate({many.view(), 0, 0.0f}, second)));
  EXPECT_EQ(result(first), 14);
  EXPECT_EQ(result(second), 63);
  ASSERT_FALSE(bool(code->evaluate({many.view(), 0, 0.0f}, first)));
  EXPECT_EQ(result(first), 63);
  llvm::Error error = code->evaluate({many.view(), 0.0f, 0.0f}, first);
  EXPECT_EQ(llvm::toString(std::move(error)),
            "argument 'arg1': expected a scalar of type i32, got an f32");
}

TEST(Program, Workspace) {
  Plan plan(R"(
    %rows = tile.dim %x, 0 : !view
    %one = arith.constant 1 : index
    %a = tile.workspace(%rows) : !tile.view<?x3xbf16>
    %b = tile.workspace() : !tile.view<5xf32>
    tile.launch @views(%a, %b) items %one
        : !tile.view<?x3xbf16>, !tile.view<5xf32>)");
  auto result = plan.run();
  ASSERT_TRUE(bool(result));
  auto &a = std::get<PlannedView>(result->launches[0].arguments[0]);
  auto &b = std::get<PlannedView>(result->launches[0].arguments[1]);
  EXPECT_TRUE(a.inWorkspace && b.inWorkspace);
  EXPECT_EQ(a.sizes, (llvm::SmallVector<int64_t>{6, 3}));
  EXPECT_EQ(a.strides, (llvm::SmallVector<int64_t>{3, 1}));
  EXPECT_EQ(a.offset, 0);
  EXPECT_EQ(b.offset, 64);
  EXPECT_EQ(result->workspaceBytes, 84);
}

std::string failure(const std::string &body, int32_t n = 0) {
  Plan plan(body);
  auto result = plan.run(n);
  return result ? "no error" : llvm::toString(result.takeError());
}

TEST(Program, Failures) {
  EXPECT_EQ(failure("%r = arith.divsi %n, %n : i32"),
            "program 'program': the host cannot evaluate 'arith.divsi' on "
            "these operands");
  EXPECT_EQ(failure("%r = arith.bitcast %f : f32 to i32"),
            "program 'program': the host cannot evaluate 'arith.bitcast' on "
            "these operands");
  EXPECT_EQ(failure("%i = arith.constant 3 : index\n"
                    "tile.launch @kernel(%i) : index"),
            "launch of 'kernel' has no item count; run tile-plan-launches "
            "first");
  EXPECT_EQ(failure("%c = arith.constant false\n"
                    "%i = arith.constant 3 : index\n"
                    "tile.check %c, \"{0} and {1}, {0}\"(%i, %i)"),
            "3 and 3, 3");
  std::string workspace = R"(
    %i = arith.index_cast %n : i32 to index
    %w = tile.workspace(%i) : !tile.view<?x4611686018427387904xf32>)";
  EXPECT_EQ(failure(workspace, -1),
            "program 'program' asks for a workspace dim of size -1");
  EXPECT_EQ(failure(workspace, 4),
            "program 'program' asks for a workspace larger than memory can "
            "be");
}

TEST(Threads, FollowTheEnvironment) {
  int all = getAvailableThreads();
  EXPECT_GE(all, 1);
  setenv("ATTNC_NUM_THREADS", "1", 1);
  EXPECT_EQ(getAvailableThreads(), 1);
  setenv("ATTNC_NUM_THREADS", "1000000", 1);
  EXPECT_EQ(getAvailableThreads(), all);
  setenv("ATTNC_NUM_THREADS", "many", 1);
  EXPECT_EQ(getAvailableThreads(), all);
  unsetenv("ATTNC_NUM_THREADS");
}

/// Each item adds 1 to its own element: 1000 items, several callers at once,
/// every item exactly once a call.
TEST(Threads, EveryItemOnce) {
  auto program = compileText(R"(
    #one = affine_map<(r, c)[i] -> (i + r)>
    !view = !tile.view<?xf32>
    tile.program @program(%x: !view) {
      tile.launch @kernel(%x) : !view
      tile.launch @kernel(%x) : !view
    }
    tile.kernel @kernel(%x: !view) {
      %n = tile.dim %x, 0 : !view
      tile.items (%i) in (%n) {
        %t = tile.load %x[%i] by #one : !view -> !tile.tile<1x1xf32>
        %u = tile.map(%t : !tile.tile<1x1xf32>) {
        ^bb0(%v: f32, %r: i32, %c: i32):
          %f1 = arith.constant 1.0 : f32
          %w = arith.addf %v, %f1 : f32
          tile.yield %w : f32
        } : !tile.tile<1x1xf32>
        tile.store %u, %x[%i] by #one : !tile.tile<1x1xf32>, !view
      }
    })");
  ASSERT_TRUE(program);
  std::vector<Tensor<float>> tensors(4, Tensor<float>({1000}));
  std::vector<std::thread> callers;
  for (Tensor<float> &tensor : tensors)
    callers.emplace_back([&] {
      for (int i = 0; i < 10; ++i)
        if (llvm::Error error = program->run({tensor.view()})) {
          llvm::consumeError(std::move(error));
          tensor.data[0] = NAN;
        }
    });
  for (std::thread &caller : callers)
    caller.join();
  for (Tensor<float> &tensor : tensors)
    for (float value : tensor.data)
      ASSERT_EQ(value, 20.0f);
}

} // namespace
