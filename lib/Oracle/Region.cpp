//===- Region.cpp - An interpreter of elementwise regions -----------------===//

#include "lib/Oracle/Region.h"

#include "dialects/attn/Attn.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/Matchers.h"
#include "llvm/ADT/StringMap.h"

#include <cmath>
#include <cstring>

using namespace mlir;
using namespace attnc::oracle;

double attnc::oracle::roundToType(double x, Type type) {
  if (type.isF32())
    return static_cast<float>(x);
  if (x == 0 || !std::isfinite(x) || !(type.isF16() || type.isBF16()))
    return x;
  int digits = type.isF16() ? 11 : 8;
  int smallest = type.isF16() ? -24 : -133;
  double largest = type.isF16() ? 65504 : std::ldexp(255, 120);
  int exponent;
  std::frexp(x, &exponent);
  int unit = std::max(exponent - digits, smallest);
  double rounded = std::ldexp(std::nearbyint(std::ldexp(x, -unit)), unit);
  return std::fabs(rounded) > largest ? std::copysign(HUGE_VAL, x) : rounded;
}

namespace {

int64_t toInt(double x) { return static_cast<int64_t>(x); }

double bitsToFloat(double bits) {
  int32_t i = static_cast<int32_t>(toInt(bits));
  float f;
  std::memcpy(&f, &i, sizeof f);
  return f;
}

double floatToBits(double x) {
  float f = static_cast<float>(x);
  int32_t i;
  std::memcpy(&i, &f, sizeof i);
  return i;
}

double floorDivide(double a, double b) { return std::floor(a / b); }

using Plain = double (*)(const double *);

/// Ops whose meaning needs no attribute and no type.
const llvm::StringMap<Plain> &getPlainFunctions() {
  static const llvm::StringMap<Plain> functions = {
      {"arith.addf", [](const double *a) { return a[0] + a[1]; }},
      {"arith.subf", [](const double *a) { return a[0] - a[1]; }},
      {"arith.mulf", [](const double *a) { return a[0] * a[1]; }},
      {"arith.divf", [](const double *a) { return a[0] / a[1]; }},
      {"arith.remf", [](const double *a) { return std::fmod(a[0], a[1]); }},
      {"arith.negf", [](const double *a) { return -a[0]; }},
      {"arith.minnumf", [](const double *a) { return std::fmin(a[0], a[1]); }},
      {"arith.maxnumf", [](const double *a) { return std::fmax(a[0], a[1]); }},
      {"arith.minimumf",
       [](const double *a) {
         return std::isunordered(a[0], a[1]) ? NAN : std::fmin(a[0], a[1]);
       }},
      {"arith.maximumf",
       [](const double *a) {
         return std::isunordered(a[0], a[1]) ? NAN : std::fmax(a[0], a[1]);
       }},
      {"arith.select", [](const double *a) { return a[0] ? a[1] : a[2]; }},
      {"arith.addi", [](const double *a) { return a[0] + a[1]; }},
      {"arith.subi", [](const double *a) { return a[0] - a[1]; }},
      {"arith.muli",
       [](const double *a) -> double {
         // Wraps exactly: the product may need more than float64's 53 bits.
         return static_cast<int32_t>(static_cast<uint64_t>(toInt(a[0])) *
                                     static_cast<uint64_t>(toInt(a[1])));
       }},
      // Division by zero gives 0 (docs/semantics.md, The op table).
      {"arith.divsi",
       [](const double *a) { return a[1] ? std::trunc(a[0] / a[1]) : 0; }},
      {"arith.remsi",
       [](const double *a) { return a[1] ? std::fmod(a[0], a[1]) : 0; }},
      {"arith.floordivsi",
       [](const double *a) { return floorDivide(a[0], a[1]); }},
      {"arith.ceildivsi",
       [](const double *a) { return std::ceil(a[0] / a[1]); }},
      {"arith.minsi", [](const double *a) { return std::fmin(a[0], a[1]); }},
      {"arith.maxsi", [](const double *a) { return std::fmax(a[0], a[1]); }},
      {"arith.andi",
       [](const double *a) -> double { return toInt(a[0]) & toInt(a[1]); }},
      {"arith.ori",
       [](const double *a) -> double { return toInt(a[0]) | toInt(a[1]); }},
      {"arith.xori",
       [](const double *a) -> double { return toInt(a[0]) ^ toInt(a[1]); }},
      {"arith.shli",
       [](const double *a) { return std::ldexp(a[0], int(a[1])); }},
      {"arith.shrsi",
       [](const double *a) {
         return std::floor(std::ldexp(a[0], -int(a[1])));
       }},
      {"arith.sitofp", [](const double *a) { return a[0]; }},
      {"arith.fptosi", [](const double *a) { return std::trunc(a[0]); }},
      {"arith.extf", [](const double *a) { return a[0]; }},
      {"arith.truncf", [](const double *a) { return a[0]; }},
      {"arith.trunci", [](const double *a) { return a[0]; }},
      {"arith.index_cast", [](const double *a) { return a[0]; }},
      {"math.absf", [](const double *a) { return std::fabs(a[0]); }},
      {"math.absi", [](const double *a) { return std::fabs(a[0]); }},
      {"math.exp", [](const double *a) { return std::exp(a[0]); }},
      {"math.exp2", [](const double *a) { return std::exp2(a[0]); }},
      {"math.expm1", [](const double *a) { return std::expm1(a[0]); }},
      {"math.log", [](const double *a) { return std::log(a[0]); }},
      {"math.log2", [](const double *a) { return std::log2(a[0]); }},
      {"math.log1p", [](const double *a) { return std::log1p(a[0]); }},
      {"math.tanh", [](const double *a) { return std::tanh(a[0]); }},
      {"math.sqrt", [](const double *a) { return std::sqrt(a[0]); }},
      {"math.rsqrt", [](const double *a) { return 1 / std::sqrt(a[0]); }},
      {"math.powf", [](const double *a) { return std::pow(a[0], a[1]); }},
      {"math.erf", [](const double *a) { return std::erf(a[0]); }},
      {"math.sin", [](const double *a) { return std::sin(a[0]); }},
      {"math.cos", [](const double *a) { return std::cos(a[0]); }},
      {"math.floor", [](const double *a) { return std::floor(a[0]); }},
      {"math.ceil", [](const double *a) { return std::ceil(a[0]); }},
      {"math.fma", [](const double *a) { return std::fma(a[0], a[1], a[2]); }},
      {"attn.logistic",
       [](const double *a) { return 1 / (1 + std::exp(-a[0])); }},
  };
  return functions;
}

bool compareFloats(arith::CmpFPredicate predicate, double a, double b) {
  bool unordered = std::isunordered(a, b);
  switch (predicate) {
  case arith::CmpFPredicate::AlwaysFalse:
    return false;
  case arith::CmpFPredicate::OEQ:
    return a == b;
  case arith::CmpFPredicate::OGT:
    return a > b;
  case arith::CmpFPredicate::OGE:
    return a >= b;
  case arith::CmpFPredicate::OLT:
    return a < b;
  case arith::CmpFPredicate::OLE:
    return a <= b;
  case arith::CmpFPredicate::ONE:
    return !unordered && a != b;
  case arith::CmpFPredicate::ORD:
    return !unordered;
  case arith::CmpFPredicate::UEQ:
    return unordered || a == b;
  case arith::CmpFPredicate::UGT:
    return unordered || a > b;
  case arith::CmpFPredicate::UGE:
    return unordered || a >= b;
  case arith::CmpFPredicate::ULT:
    return unordered || a < b;
  case arith::CmpFPredicate::ULE:
    return unordered || a <= b;
  case arith::CmpFPredicate::UNE:
    return a != b;
  case arith::CmpFPredicate::UNO:
    return unordered;
  case arith::CmpFPredicate::AlwaysTrue:
    return true;
  }
  return false;
}

/// A stored integer read as unsigned.
double asUnsigned(double x, Type type) {
  unsigned width = type.isIndex() ? 64 : type.getIntOrFloatBitWidth();
  return x < 0 ? x + std::ldexp(1, width) : x;
}

/// Ops on integers read as unsigned.
ScalarFunction getUnsignedFunction(Operation *op) {
  if (op->getNumOperands() == 0)
    return {};
  Type type = op->getOperand(0).getType();
  auto binary = [type](double (*f)(double, double)) -> ScalarFunction {
    return [=](const double *a) {
      return f(asUnsigned(a[0], type), asUnsigned(a[1], type));
    };
  };
  StringRef name = op->getName().getStringRef();
  if (name == "arith.divui")
    return binary([](double a, double b) { return b ? std::floor(a / b) : 0; });
  if (name == "arith.remui")
    return binary([](double a, double b) { return b ? std::fmod(a, b) : 0; });
  if (name == "arith.minui")
    return binary([](double a, double b) { return std::fmin(a, b); });
  if (name == "arith.maxui")
    return binary([](double a, double b) { return std::fmax(a, b); });
  if (name == "arith.shrui")
    return binary(
        [](double a, double b) { return std::floor(std::ldexp(a, -int(b))); });
  if (name == "arith.extui" || name == "arith.uitofp" ||
      name == "arith.index_castui")
    return [type](const double *a) { return asUnsigned(a[0], type); };
  return {};
}

/// Ops whose meaning needs an attribute or a type.
ScalarFunction getTypedFunction(Operation *op) {
  if (auto compare = dyn_cast<arith::CmpFOp>(op)) {
    arith::CmpFPredicate predicate = compare.getPredicate();
    return [=](const double *a) -> double {
      return compareFloats(predicate, a[0], a[1]);
    };
  }
  if (auto compare = dyn_cast<arith::CmpIOp>(op)) {
    arith::CmpIPredicate predicate = compare.getPredicate();
    Type type = compare.getLhs().getType();
    unsigned width = type.isIndex() ? 64 : type.getIntOrFloatBitWidth();
    auto toBits = [=](double x) {
      return llvm::APInt(width, uint64_t(toInt(x)), /*isSigned=*/false,
                         /*implicitTrunc=*/true);
    };
    return [=](const double *a) -> double {
      return arith::applyCmpPredicate(predicate, toBits(a[0]), toBits(a[1]));
    };
  }
  if (auto cast = dyn_cast<arith::BitcastOp>(op))
    return cast.getType().isF32()
               ? [](const double *a) { return bitsToFloat(a[0]); }
               : [](const double *a) { return floatToBits(a[0]); };
  if (auto extend = dyn_cast<arith::ExtSIOp>(op)) {
    // true is -1 when its sign is extended.
    double sign = extend.getIn().getType().isInteger(1) ? -1 : 1;
    return [=](const double *a) { return sign * a[0]; };
  }
  return getUnsignedFunction(op);
}

double wrapInteger(double x, unsigned width) {
  double modulus = std::ldexp(1, width);
  double low = x - std::floor(x / modulus) * modulus;
  return width > 1 && low >= modulus / 2 ? low - modulus : low;
}

/// The accuracy bound for f32 is about the formula with an exact exponential,
/// each of its operations rounded.
double plainLogistic(const double *x) {
  float power = float(std::exp(-x[0]));
  float sum = 1 + power;
  return 1 / sum;
}

/// Brings a computed value into the range and precision of its type.
ScalarFunction fitToType(ScalarFunction function, Type type,
                         Precision precision) {
  if (isa<IntegerType>(type) && type.getIntOrFloatBitWidth() < 64) {
    unsigned width = type.getIntOrFloatBitWidth();
    return [=](const double *a) { return wrapInteger(function(a), width); };
  }
  if (type.isF16() || type.isBF16() ||
      (type.isF32() && precision == Precision::PlainF32))
    return [=](const double *a) { return roundToType(function(a), type); };
  return function;
}

llvm::Error unsupported(Operation *op) {
  return llvm::createStringError("the reference cannot evaluate '" +
                                 op->getName().getStringRef() + "'");
}

std::optional<double> getConstant(Operation *op) {
  auto constant = dyn_cast<arith::ConstantOp>(op);
  if (!constant)
    return std::nullopt;
  if (auto value = dyn_cast<FloatAttr>(constant.getValue()))
    return value.getValueAsDouble();
  auto value = dyn_cast<IntegerAttr>(constant.getValue());
  if (!value)
    return std::nullopt;
  if (value.getType().isInteger(1))
    return value.getValue().getBoolValue();
  return value.getValue().getSExtValue();
}

} // namespace

llvm::Expected<ScalarFunction>
attnc::oracle::getScalarFunction(Operation *op, Precision precision) {
  if (op->getNumResults() != 1 || op->getNumRegions() != 0)
    return unsupported(op);
  if (std::optional<double> value = getConstant(op))
    return ScalarFunction([v = *value](const double *) { return v; });
  const llvm::StringMap<Plain> &plain = getPlainFunctions();
  ScalarFunction function;
  auto entry = plain.find(op->getName().getStringRef());
  if (precision == Precision::PlainF32 && isa<attnc::attn::LogisticOp>(op))
    function = plainLogistic;
  else if (entry != plain.end())
    function = entry->second;
  else
    function = getTypedFunction(op);
  if (!function)
    return unsupported(op);
  return fitToType(function, op->getResult(0).getType(), precision);
}

llvm::Expected<RegionProgram>
RegionProgram::compile(Block &block, Precision precision,
                       const llvm::DenseMap<Value, double> &scalars) {
  RegionProgram program;
  program.numArguments = block.getNumArguments();
  program.plain = precision == Precision::PlainF32;
  llvm::DenseMap<Value, unsigned> slots;
  for (BlockArgument argument : block.getArguments())
    slots[argument] = argument.getArgNumber();
  // Captured scalars come before the steps in the numbering.
  for (Operation &op : block)
    for (Value operand : op.getOperands())
      if (operand.getParentBlock() != &block && !slots.count(operand)) {
        auto known = scalars.find(operand);
        if (known == scalars.end())
          return llvm::createStringError(
              "a region reads a value that is not a scalar of the function");
        slots[operand] = program.numArguments + program.captured.size();
        program.captured.push_back(known->second);
        program.capturedValues.push_back(operand);
      }
  unsigned next = program.numArguments + program.captured.size();
  for (Operation &op : block.without_terminator()) {
    llvm::Expected<ScalarFunction> function = getScalarFunction(&op, precision);
    if (!function)
      return function.takeError();
    Step step{*function, getScalarPartials(&op), {}};
    for (Value operand : op.getOperands())
      step.operands.push_back(slots.lookup(operand));
    program.steps.push_back(std::move(step));
    slots[op.getResult(0)] = next++;
  }
  program.yielded = slots.lookup(block.getTerminator()->getOperand(0));
  return program;
}

Lanes RegionProgram::run(std::vector<Lanes> values) const {
  for (double scalar : captured)
    values.push_back({scalar});
  for (const Step &step : steps) {
    size_t count = 1;
    for (unsigned operand : step.operands)
      if (values[operand].size() != 1)
        count = values[operand].size();
    Lanes result(count);
    double operands[3] = {};
    for (size_t lane = 0; lane < count; ++lane) {
      for (auto [k, operand] : llvm::enumerate(step.operands))
        operands[k] = values[operand].size() == 1 ? values[operand][0]
                                                  : values[operand][lane];
      result[lane] = step.function(operands);
    }
    values.push_back(std::move(result));
  }
  return values[yielded];
}

//===----------------------------------------------------------------------===//
// Dual numbers
//===----------------------------------------------------------------------===//

/// What the textbook says; where there is no derivative, as the op table's
/// column `kinks` does.
static const llvm::StringMap<void (*)(const double *, double *)> &
getPlainPartials() {
  using Partials = void (*)(const double *, double *);
  static const llvm::StringMap<Partials> partials = {
      {"arith.addf", [](const double *, double *d) { d[0] = d[1] = 1; }},
      {"arith.subf",
       [](const double *, double *d) {
         d[0] = 1;
         d[1] = -1;
       }},
      {"arith.mulf",
       [](const double *a, double *d) {
         d[0] = a[1];
         d[1] = a[0];
       }},
      {"arith.divf",
       [](const double *a, double *d) {
         d[0] = 1 / a[1];
         d[1] = -a[0] / (a[1] * a[1]);
       }},
      {"arith.negf", [](const double *, double *d) { d[0] = -1; }},
      {"arith.minimumf",
       [](const double *a, double *d) {
         d[0] = a[0] < a[1];
         d[1] = 1 - d[0];
       }},
      {"arith.maximumf",
       [](const double *a, double *d) {
         d[0] = a[0] > a[1];
         d[1] = 1 - d[0];
       }},
      {"arith.select",
       [](const double *a, double *d) {
         d[1] = a[0] != 0;
         d[2] = a[0] == 0;
       }},
      {"math.absf",
       [](const double *a, double *d) { d[0] = (a[0] > 0) - (a[0] < 0); }},
      {"math.exp", [](const double *a, double *d) { d[0] = std::exp(a[0]); }},
      {"math.exp2", [](const double *a,
                       double *d) { d[0] = std::exp2(a[0]) * std::log(2.0); }},
      {"math.expm1", [](const double *a, double *d) { d[0] = std::exp(a[0]); }},
      {"math.log", [](const double *a, double *d) { d[0] = 1 / a[0]; }},
      {"math.log2",
       [](const double *a, double *d) { d[0] = 1 / (a[0] * std::log(2.0)); }},
      {"math.log1p", [](const double *a, double *d) { d[0] = 1 / (1 + a[0]); }},
      {"math.tanh",
       [](const double *a, double *d) {
         d[0] = 1 / (std::cosh(a[0]) * std::cosh(a[0]));
       }},
      {"math.sqrt",
       [](const double *a, double *d) { d[0] = 0.5 / std::sqrt(a[0]); }},
      {"math.rsqrt",
       [](const double *a, double *d) { d[0] = -0.5 * std::pow(a[0], -1.5); }},
      {"math.powf",
       [](const double *a, double *d) {
         d[0] = a[1] * std::pow(a[0], a[1] - 1);
         d[1] = a[0] > 0 ? std::pow(a[0], a[1]) * std::log(a[0]) : 0;
       }},
      {"math.erf",
       [](const double *a, double *d) {
         d[0] = 2 / std::sqrt(std::acos(-1.0)) * std::exp(-a[0] * a[0]);
       }},
      {"math.sin", [](const double *a, double *d) { d[0] = std::cos(a[0]); }},
      {"math.cos", [](const double *a, double *d) { d[0] = -std::sin(a[0]); }},
      {"math.fma",
       [](const double *a, double *d) {
         d[0] = a[1];
         d[1] = a[0];
         d[2] = 1;
       }},
      // e^-|x| / (1 + e^-|x|)^2 overflows nowhere.
      {"attn.logistic",
       [](const double *a, double *d) {
         double e = std::exp(-std::fabs(a[0]));
         d[0] = e / ((1 + e) * (1 + e));
       }},
  };
  return partials;
}

ScalarPartials attnc::oracle::getScalarPartials(Operation *op) {
  auto entry = getPlainPartials().find(op->getName().getStringRef());
  return entry == getPlainPartials().end() ? ScalarPartials() : entry->second;
}

DualLanes RegionProgram::runDual(std::vector<DualLanes> values,
                                 Value direction) const {
  for (auto [scalar, value] : llvm::zip_equal(captured, capturedValues))
    values.push_back({{scalar}, {value == direction ? 1.0 : 0.0}});
  auto at = [](const Lanes &lanes, size_t lane) {
    return lanes.size() == 1 ? lanes[0] : lanes[lane];
  };
  for (const Step &step : steps) {
    size_t count = 1;
    for (unsigned operand : step.operands)
      count =
          std::max({count, values[operand].x.size(), values[operand].t.size()});
    DualLanes result{Lanes(count), Lanes(count)};
    for (size_t lane = 0; lane < count; ++lane) {
      double operands[3] = {}, partials[3] = {}, sum = 0;
      for (auto [k, operand] : llvm::enumerate(step.operands))
        operands[k] = at(values[operand].x, lane);
      if (step.partials)
        step.partials(operands, partials);
      for (auto [k, operand] : llvm::enumerate(step.operands))
        // Nothing flows through 0, even if the partial is infinite.
        if (double t = at(values[operand].t, lane))
          sum += plain ? float(float(partials[k]) * t) : partials[k] * t;
      result.x[lane] = step.function(operands);
      result.t[lane] = plain ? float(sum) : sum;
    }
    values.push_back(std::move(result));
  }
  return values[yielded];
}
