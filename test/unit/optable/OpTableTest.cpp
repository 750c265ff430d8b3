//===- OpTableTest.cpp - Every row of the op table, every column ----------===//
//
// Formulas are built as IR and run by the oracle's interpreter in f32, where
// 2^x and division are rounded correctly: what is measured is the formula.
//
//===----------------------------------------------------------------------===//

#include "lib/OpTable/OpTable.h"
#include "dialects/attn/Attn.h"
#include "lib/Oracle/Region.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Parser/Parser.h"

#include "gtest/gtest.h"

#include <cmath>
#include <random>
#include <set>

using namespace mlir;
using namespace attnc;
using attnc::oracle::Lanes;
using attnc::oracle::Precision;
using attnc::oracle::RegionProgram;

namespace {

constexpr FormulaTarget kTargets[] = {FormulaTarget::Cpu, FormulaTarget::Sm90a};

class OpTableTest : public testing::Test {
protected:
  OpTableTest() {
    context.loadDialect<attn::AttnDialect, arith::ArithDialect,
                        math::MathDialect>();
  }

  /// A block whose arguments are a row's operands.
  std::unique_ptr<Block> makeBlock(const OpTableRow &row) {
    auto block = std::make_unique<Block>();
    for (unsigned k = 0; k < row.arity; ++k)
      block->addArgument(isCondition(row, k) ? Type(builder.getI1Type())
                                             : builder.getF32Type(),
                         loc);
    builder.setInsertionPointToEnd(block.get());
    return block;
  }

  static bool isCondition(const OpTableRow &row, unsigned operand) {
    return row.op == "arith.select" && operand == 0;
  }

  Operation *makeOp(const OpTableRow &row, ValueRange operands) {
    OperationState state(loc, row.op);
    state.addOperands(operands);
    if (row.op == "arith.cmpf") {
      state.addTypes(builder.getI1Type());
      state.addAttribute("predicate", builder.getI64IntegerAttr(
                                          int64_t(arith::CmpFPredicate::OLT)));
    } else {
      state.addTypes(builder.getF32Type());
    }
    return builder.create(state);
  }

  /// Runs the block, which is to yield `value`.
  Lanes run(Block &block, Value value, std::vector<Lanes> arguments,
            Precision precision) {
    attn::YieldOp yield = attn::YieldOp::create(builder, loc, value);
    auto program = RegionProgram::compile(block, precision,
                                          llvm::DenseMap<Value, double>());
    EXPECT_TRUE(bool(program)) << llvm::toString(program.takeError());
    yield.erase();
    return program ? program->run(std::move(arguments)) : Lanes();
  }

  /// Arguments inside the contract's range: small, large, near 1.
  std::vector<Lanes> sample(const OpTableRow &row,
                            const ErrorContract &contract) {
    std::mt19937 generator(7);
    std::uniform_real_distribution<double> uniform(0, 1);
    auto inside = [&](double x) {
      return double(float(std::min(std::max(x, contract.lo), contract.hi)));
    };
    std::vector<Lanes> lanes(row.arity);
    for (int k = 0; k < 4000; ++k)
      for (auto [index, lane] : llvm::enumerate(lanes)) {
        double magnitude = std::exp(uniform(generator) * 12 - 8);
        double x = k % 4 == 0   ? 1 + (uniform(generator) - 0.5) * 0.5
                   : k % 4 == 1 ? magnitude
                   : k % 4 == 2 ? -magnitude
                                : uniform(generator) * 200 - 100;
        if (isCondition(row, index))
          x = x > 0;
        else if (row.op == "math.powf" && index == 1)
          x = float(uniform(generator) * 16 - 8);
        else
          x = inside(x);
        lane.push_back(x);
      }
    return lanes;
  }

  void checkAccuracy(const OpTableRow &row, const Lanes &result,
                     const std::vector<Lanes> &arguments,
                     const ErrorContract &contract) {
    double worst = 0;
    for (size_t k = 0; k < result.size(); ++k) {
      double operands[3] = {};
      for (unsigned i = 0; i < row.arity; ++i)
        operands[i] = arguments[i][k];
      double exact = row.oracle(operands);
      // Plain f32 is what an op without a formula promises.
      double allowed = std::max(contract.relative, 0x1p-23) * std::fabs(exact) +
                       contract.absolute + 1e-37;
      double error = std::fabs(result[k] - exact);
      ASSERT_LE(error, allowed)
          << row.name.str() << "(" << operands[0] << ", " << operands[1]
          << ") = " << result[k] << ", exactly " << exact;
      worst = std::max(worst, error / allowed);
    }
    // A contract that promises too little is wrong too.
    if (contract.relative > 0x1p-22 || contract.absolute > 0)
      EXPECT_GT(worst, 0.1) << row.name.str();
  }

  MLIRContext context;
  OpBuilder builder{&context};
  Location loc = UnknownLoc::get(&context);
};

TEST_F(OpTableTest, RowsAreCompleteAndUnique) {
  std::set<StringRef> names, ops;
  for (const OpTableRow &row : getOpTable()) {
    EXPECT_TRUE(names.insert(row.name).second) << row.name.str();
    EXPECT_TRUE(ops.insert(row.op).second) << row.op.str();
    EXPECT_EQ(lookupOpTable(row.op), &row);
    EXPECT_TRUE(row.oracle) << row.name.str();
    EXPECT_TRUE(RegisteredOperationName::lookup(row.op, &context))
        << row.op.str();
    for (FormulaTarget target : kTargets)
      if (row.get(target).build)
        EXPECT_GT(
            row.get(target).error.relative + row.get(target).error.absolute, 0)
            << row.name.str();
    Slots slots = row.sm90a.slots;
    EXPECT_GT(slots.mufu + slots.fma + slots.alu, 0) << row.name.str();
  }
  for (const char *name :
       {"add",   "sub",  "mul", "div",   "neg",   "min",    "max",      "abs",
        "exp",   "exp2", "log", "log1p", "expm1", "tanh",   "logistic", "sqrt",
        "rsqrt", "pow",  "erf", "sin",   "cos",   "select", "compare"})
    EXPECT_TRUE(names.count(name)) << name;
  EXPECT_EQ(lookupOpTable("arith.addi"), nullptr);
}

// The attn dialect keeps its own list of what a region may hold, since dialects
// know nothing of the table: the list must not fall behind it.
TEST_F(OpTableTest, EveryRowIsAllowedInRegions) {
  context.loadDialect<func::FuncDialect>();
  for (const OpTableRow &row : getOpTable()) {
    bool compares = row.op == "arith.cmpf";
    std::string operands, types;
    for (unsigned k = 0; k < row.arity; ++k) {
      operands += std::string(k ? ", " : "") +
                  (isCondition(row, k) ? "%condition" : "%x");
      types +=
          std::string(k ? ", " : "") + (isCondition(row, k) ? "i1" : "f32");
    }
    std::string text =
        "func.func @f(%s: tensor<1x1x4x4xf32>) -> tensor<1x1x4x4xf32> {\n"
        "  %p = attn.activation %s {\n"
        "  ^bb0(%x: f32):\n"
        "    %condition = arith.cmpf olt, %x, %x : f32\n"
        "    %y = \"" +
        row.op.str() + "\"(" + operands + ") " +
        (compares ? "{predicate = 4 : i64} " : "") + ": (" + types + ") -> " +
        (compares ? "i1" : "f32") + "\n    attn.yield " +
        (compares ? "%x" : "%y") +
        " : f32\n  } : tensor<1x1x4x4xf32>\n"
        "  return %p : tensor<1x1x4x4xf32>\n}\n";
    EXPECT_TRUE(bool(parseSourceString<ModuleOp>(text, &context))) << text;
  }
}

TEST_F(OpTableTest, OracleAndInterpreterAgree) {
  for (const OpTableRow &row : getOpTable()) {
    auto block = makeBlock(row);
    Operation *op = makeOp(row, block->getArguments());
    ErrorContract contract = row.cpu.error;
    std::vector<Lanes> arguments = sample(row, contract);
    Lanes result = run(*block, op->getResult(0), arguments, Precision::Exact);
    for (size_t k = 0; k < result.size(); ++k) {
      double operands[3] = {};
      for (unsigned i = 0; i < row.arity; ++i)
        operands[i] = arguments[i][k];
      double exact = row.oracle(operands);
      if (!std::isnan(exact))
        ASSERT_NEAR(result[k], exact, 1e-12 * std::fabs(exact))
            << row.name.str() << "(" << operands[0] << ")";
    }
  }
}

TEST_F(OpTableTest, FormulasKeepTheirContracts) {
  for (const OpTableRow &row : getOpTable())
    for (FormulaTarget target : kTargets) {
      const Expansion &expansion = row.get(target);
      if (!expansion.build)
        continue;
      auto block = makeBlock(row);
      Operation *op = makeOp(row, block->getArguments());
      Operation *yield = attn::YieldOp::create(builder, loc, op->getResult(0));
      IRRewriter rewriter(&context);
      EXPECT_TRUE(needsExpansion(op, target)) << row.name.str();
      ASSERT_TRUE(expandByOpTable(rewriter, op, target)) << row.name.str();
      Value result = yield->getOperand(0);
      yield->erase();
      // What it is made of is final.
      for (Operation &made : *block)
        EXPECT_FALSE(needsExpansion(&made, target))
            << row.name.str() << " leaves "
            << made.getName().getStringRef().str();
      std::vector<Lanes> arguments = sample(row, expansion.error);
      Lanes values = run(*block, result, arguments, Precision::PlainF32);
      checkAccuracy(row, values, arguments, expansion.error);
    }
}

TEST_F(OpTableTest, LimitsAreRight) {
  double inf = HUGE_VAL;
  auto value = [&](const char *op, std::vector<double> at) {
    const OpTableRow &row = *lookupOpTable(op);
    auto block = makeBlock(row);
    FormulaBuilder formula{builder, loc, FormulaTarget::Sm90a};
    Value result = row.sm90a.build(formula, block->getArguments());
    std::vector<Lanes> arguments;
    for (double x : at)
      arguments.push_back({x});
    return run(*block, result, arguments, Precision::PlainF32)[0];
  };
  EXPECT_EQ(value("math.exp", {-inf}), 0);
  EXPECT_EQ(value("math.exp", {inf}), inf);
  EXPECT_EQ(value("attn.logistic", {-inf}), 0);
  EXPECT_EQ(value("attn.logistic", {inf}), 1);
  EXPECT_EQ(value("math.log", {0}), -inf);
  EXPECT_EQ(value("math.log", {inf}), inf);
  EXPECT_TRUE(std::isnan(value("math.log", {-1})));
  EXPECT_EQ(value("math.log1p", {-1}), -inf);
  EXPECT_EQ(value("math.log1p", {inf}), inf);
  EXPECT_EQ(value("math.log1p", {0}), 0);
  EXPECT_EQ(value("math.expm1", {-inf}), -1);
  EXPECT_EQ(value("math.expm1", {inf}), inf);
  EXPECT_EQ(value("math.expm1", {0}), 0);
  EXPECT_EQ(value("math.tanh", {inf}), 1);
  EXPECT_EQ(value("math.tanh", {-inf}), -1);
  EXPECT_EQ(value("math.erf", {-inf}), -1);
  EXPECT_EQ(value("math.rsqrt", {inf}), 0);
  EXPECT_EQ(value("math.powf", {0, 2}), 0);
  EXPECT_EQ(value("math.powf", {0, -2}), inf);
  EXPECT_EQ(value("math.powf", {-2, 3}), -8);
  EXPECT_EQ(value("math.powf", {-2, 2}), 4);
  EXPECT_EQ(value("math.powf", {5, 0}), 1);
  EXPECT_TRUE(std::isnan(value("math.powf", {-2, 0.5})));
  for (const char *op : {"math.exp", "attn.logistic", "math.log", "math.log1p",
                         "math.expm1", "math.tanh", "math.erf", "math.sin"})
    EXPECT_TRUE(std::isnan(value(op, {NAN}))) << op;
}

TEST_F(OpTableTest, CheckedFormsAgreeAtTheirLimit) {
  int forms = 0;
  for (const OpTableRow &row : getOpTable()) {
    const CheckedForm &form = row.checked;
    if (form.getFormulas().empty())
      continue;
    ++forms;
    ASSERT_TRUE(form.guard && form.exact) << row.name.str();
    auto block = makeBlock(row);
    FormulaBuilder at{builder, loc, FormulaTarget::Sm90a};
    Value guard = form.guard(at, block->getArgument(0));
    Value exact = form.exact(at, guard);
    std::vector<Lanes> all = sample(row, {0, 0, -60, 200});
    Lanes guards = run(*block, guard, all, Precision::PlainF32);
    Lanes exacts = run(*block, exact, all, Precision::PlainF32);
    checkAccuracy(row, exacts, all, {64 * 0x1p-24, 0, -60, 200});
    float last = 0;
    for (const CheckedForm::Formula &formula : form.getFormulas()) {
      ASSERT_GT(formula.limit, last) << "limits rise";
      last = formula.limit;
      SmallVector<Value> alike(formula.width, guard);
      SmallVector<Value> fast = formula.build(at, alike);
      ASSERT_EQ(fast.size(), size_t(formula.width));
      std::vector<Lanes> inside = sample(row, formula.error);
      for (double g : run(*block, guard, inside, Precision::PlainF32))
        ASSERT_LE(g, formula.limit) << row.name.str();
      for (Value result : fast)
        checkAccuracy(row, run(*block, result, inside, Precision::PlainF32),
                      inside, formula.error);
      // Where the function is not small the guard says so.
      for (auto [x, g] : llvm::zip_equal(all[0], guards)) {
        ASSERT_GE(g, 0);
        if (x > formula.error.hi + 0.01)
          ASSERT_GT(g, formula.limit) << x;
      }
    }
  }
  EXPECT_GE(forms, 1);
}

TEST_F(OpTableTest, DerivativesAreFiniteDifferences) {
  for (const OpTableRow &row : getOpTable()) {
    if (!row.derive) {
      EXPECT_EQ(row.name, "compare");
      continue;
    }
    for (double base : {0.35, 0.8, 1.7})
      for (double sign : {1., -1.}) {
        double at[3] = {sign * base, 1.3 * base + 0.1, -0.4 + base};
        if (isCondition(row, 0))
          at[0] = sign > 0;
        if (std::isnan(row.oracle(at)))
          continue;
        auto block = makeBlock(row);
        Operation *op = makeOp(row, block->getArguments());
        Value g =
            arith::ConstantOp::create(builder, loc, builder.getF32FloatAttr(2));
        FormulaBuilder formula{builder, loc, FormulaTarget::Cpu};
        SmallVector<Value> gradients =
            row.derive(formula, block->getArguments(), op->getResult(0), g);
        ASSERT_EQ(gradients.size(), row.arity) << row.name.str();
        std::vector<Lanes> arguments;
        for (unsigned k = 0; k < row.arity; ++k)
          arguments.push_back({at[k]});
        for (unsigned k = 0; k < row.arity; ++k) {
          if (isCondition(row, k)) {
            EXPECT_FALSE(gradients[k]);
            continue;
          }
          double h = 1e-5, up[3], down[3];
          std::copy(at, at + 3, up);
          std::copy(at, at + 3, down);
          up[k] += h;
          down[k] -= h;
          double expected = 2 * (row.oracle(up) - row.oracle(down)) / (2 * h);
          if (std::isnan(expected))
            continue;
          double value =
              run(*block, gradients[k], arguments, Precision::Exact)[0];
          EXPECT_NEAR(value, expected, 1e-6 * (1 + std::fabs(expected)))
              << row.name.str() << " operand " << k << " at " << at[0];
        }
      }
  }
}

TEST_F(OpTableTest, KinksFollowTheirConvention) {
  auto gradient = [&](const char *op, std::vector<double> at, unsigned k) {
    const OpTableRow &row = *lookupOpTable(op);
    EXPECT_NE(row.kinks, "") << op;
    auto block = makeBlock(row);
    Operation *made = makeOp(row, block->getArguments());
    Value g =
        arith::ConstantOp::create(builder, loc, builder.getF32FloatAttr(1));
    FormulaBuilder formula{builder, loc, FormulaTarget::Cpu};
    SmallVector<Value> gradients =
        row.derive(formula, block->getArguments(), made->getResult(0), g);
    std::vector<Lanes> arguments;
    for (double x : at)
      arguments.push_back({x});
    return run(*block, gradients[k], arguments, Precision::Exact)[0];
  };
  EXPECT_EQ(gradient("math.absf", {0}, 0), 0);
  // ReLU as max(x, 0).
  EXPECT_EQ(gradient("arith.maximumf", {0, 0}, 0), 0);
  EXPECT_EQ(gradient("arith.maximumf", {0, 0}, 1), 1);
  EXPECT_EQ(gradient("arith.minimumf", {0, 0}, 1), 1);
  EXPECT_EQ(gradient("math.powf", {-2, 2}, 1), 0);
  EXPECT_EQ(gradient("math.sqrt", {0}, 0), HUGE_VAL);
}

TEST_F(OpTableTest, ConstantIntegerPowersAreProducts) {
  const OpTableRow &row = *lookupOpTable("math.powf");
  for (int n : {0, 1, 2, 3, 7, -2}) {
    Block block;
    Value x = block.addArgument(builder.getF32Type(), loc);
    builder.setInsertionPointToEnd(&block);
    Value y =
        arith::ConstantOp::create(builder, loc, builder.getF32FloatAttr(n));
    FormulaBuilder at{builder, loc, FormulaTarget::Cpu};
    Value result = row.cpu.build(at, {x, y});
    for (Operation &op : block)
      EXPECT_FALSE(isa<math::Exp2Op>(op));
    double value = run(block, result, {{-1.5}}, Precision::PlainF32)[0];
    EXPECT_NEAR(value, std::pow(-1.5, n), 1e-6 * std::fabs(std::pow(1.5, n)));
  }
}

} // namespace
