//===- Program.cpp - Evaluates a launch plan for given arguments ----------===//

#include "lib/Program/Program.h"

#include "llvm/ADT/DenseMap.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/TypeSwitch.h"
#include "llvm/Support/MathExtras.h"

#include <cmath>
#include <optional>

using namespace mlir;
using namespace attnc;

template <typename... Ts> static llvm::Error fail(const Ts &...parts) {
  std::string text;
  llvm::raw_string_ostream os(text);
  (os << ... << parts);
  return llvm::createStringError(text);
}

static std::string typeName(Type type) {
  std::string text;
  llvm::raw_string_ostream(text) << type;
  return text;
}

std::string attnc::getArgumentName(tile::ProgramOp program, unsigned index) {
  if (auto name = program.getArgAttrOfType<StringAttr>(index, tile::kNameAttr))
    return name.str();
  return "arg" + std::to_string(index);
}

//===----------------------------------------------------------------------===//
// Arguments
//===----------------------------------------------------------------------===//

static llvm::Error checkView(const std::string &name, tile::ViewType type,
                             const Argument &argument) {
  auto *view = std::get_if<ViewArgument>(&argument);
  if (!view)
    return fail("argument '", name, "': expected a tensor of rank ",
                type.getRank(), ", got a scalar");
  if (view->sizes.size() != static_cast<size_t>(type.getRank()) ||
      view->strides.size() != view->sizes.size())
    return fail("argument '", name, "': expected a tensor of rank ",
                type.getRank(), ", got rank ", view->sizes.size(), " with ",
                view->strides.size(), " strides");
  bool empty = false;
  for (auto [dim, size] : llvm::enumerate(view->sizes)) {
    int64_t expected = type.getShape()[dim];
    empty |= size == 0;
    if (size < 0)
      return fail("argument '", name, "': dim ", dim, " has size ", size);
    if (!ShapedType::isDynamic(expected) && expected != size)
      return fail("argument '", name, "': dim ", dim, " must be ", expected,
                  ", got ", size,
                  "; compile for this size or pass a tensor of that size");
  }
  if (!empty && !view->data)
    return fail("argument '", name, "': the data pointer is null");
  return llvm::Error::success();
}

llvm::Error attnc::checkArguments(tile::ProgramOp program,
                                  ArrayRef<Argument> arguments) {
  ArrayRef<Type> types = program.getArgumentTypes();
  if (types.size() != arguments.size())
    return fail("program '", program.getSymName(), "' takes ", types.size(),
                " arguments, got ", arguments.size());
  for (auto [index, type] : llvm::enumerate(types)) {
    const Argument &argument = arguments[index];
    std::string name = getArgumentName(program, index);
    if (auto view = dyn_cast<tile::ViewType>(type)) {
      if (llvm::Error error = checkView(name, view, argument))
        return error;
    } else if (type.isF32() ? !std::holds_alternative<float>(argument)
                            : !std::holds_alternative<int32_t>(argument)) {
      return fail("argument '", name, "': expected a scalar of type ",
                  typeName(type), ", got ",
                  std::holds_alternative<ViewArgument>(argument) ? "a tensor"
                  : type.isF32()                                 ? "an i32"
                                                                 : "an f32");
    }
  }
  return llvm::Error::success();
}

//===----------------------------------------------------------------------===//
// Evaluation
//===----------------------------------------------------------------------===//

namespace {

/// Integers of every width are kept sign-extended.
using HostValue = std::variant<int64_t, float, PlannedView>;

class Evaluator {
public:
  explicit Evaluator(tile::ProgramOp program) : program(program) {}

  llvm::Expected<LaunchPlan> run(ArrayRef<Argument> arguments);

private:
  llvm::Error evaluate(Operation *op);
  llvm::Error evaluateCheck(tile::CheckOp op);
  llvm::Error evaluateWorkspace(tile::WorkspaceOp op);
  llvm::Error evaluateLaunch(tile::LaunchOp op);
  llvm::Error evaluateArithmetic(Operation *op);
  std::optional<int64_t> integerOp(Operation *op, int64_t a, int64_t b);
  std::optional<float> floatOp(Operation *op, float a, float b);

  int64_t integer(Value value) { return std::get<int64_t>(values.at(value)); }
  float real(Value value) { return std::get<float>(values.at(value)); }
  const PlannedView &view(Value value) {
    return std::get<PlannedView>(values.at(value));
  }

  tile::ProgramOp program;
  DenseMap<Value, HostValue> values;
  LaunchPlan plan;
};

} // namespace

llvm::Expected<LaunchPlan> Evaluator::run(ArrayRef<Argument> arguments) {
  for (auto [value, argument] :
       llvm::zip_equal(program.getBody().getArguments(), arguments)) {
    if (auto *view = std::get_if<ViewArgument>(&argument))
      values[value] =
          PlannedView{view->data, false, 0, view->sizes, view->strides};
    else if (auto *scalar = std::get_if<float>(&argument))
      values[value] = *scalar;
    else
      values[value] = static_cast<int64_t>(std::get<int32_t>(argument));
  }
  for (Operation &op : program.getBody().front())
    if (llvm::Error error = evaluate(&op))
      return std::move(error);
  return std::move(plan);
}

llvm::Error Evaluator::evaluate(Operation *op) {
  return llvm::TypeSwitch<Operation *, llvm::Error>(op)
      .Case([&](tile::CheckOp check) { return evaluateCheck(check); })
      .Case([&](tile::WorkspaceOp space) { return evaluateWorkspace(space); })
      .Case([&](tile::LaunchOp launch) { return evaluateLaunch(launch); })
      .Case([&](tile::DimOp dim) {
        // By value: the new entry may move the view it is read from.
        int64_t size = view(dim.getView()).sizes[dim.getDim()];
        values[dim.getSize()] = size;
        return llvm::Error::success();
      })
      .Default([&](Operation *other) { return evaluateArithmetic(other); });
}

llvm::Error Evaluator::evaluateCheck(tile::CheckOp op) {
  if (integer(op.getCondition()))
    return llvm::Error::success();
  std::string message = op.getMessage().str();
  for (auto [index, value] : llvm::enumerate(op.getValues())) {
    std::string hole = "{" + std::to_string(index) + "}";
    std::string text = std::to_string(integer(value));
    for (size_t at = message.find(hole); at != std::string::npos;
         at = message.find(hole, at + text.size()))
      message.replace(at, hole.size(), text);
  }
  return fail(message);
}

llvm::Error Evaluator::evaluateWorkspace(tile::WorkspaceOp op) {
  tile::ViewType type = op.getView().getType();
  PlannedView result;
  result.inWorkspace = true;
  result.offset = llvm::alignTo(plan.workspaceBytes, kWorkspaceAlignment);
  int64_t next = 0, count = 1;
  for (int64_t size : type.getShape()) {
    if (ShapedType::isDynamic(size))
      size = integer(op.getSizes()[next++]);
    if (size < 0)
      return fail("program '", program.getSymName(),
                  "' asks for a workspace dim of size ", size);
    result.sizes.push_back(size);
    if (llvm::MulOverflow(count, size, count))
      return fail("program '", program.getSymName(),
                  "' asks for a workspace larger than memory can be");
  }
  result.strides.assign(type.getRank(), 1);
  for (int64_t dim = type.getRank() - 1; dim > 0; --dim)
    result.strides[dim - 1] = result.strides[dim] * result.sizes[dim];
  int64_t width = (type.getElementType().getIntOrFloatBitWidth() + 7) / 8;
  int64_t bytes;
  if (llvm::MulOverflow(count, width, bytes) ||
      llvm::AddOverflow(result.offset, bytes, plan.workspaceBytes))
    return fail("program '", program.getSymName(),
                "' asks for a workspace larger than memory can be");
  values[op.getView()] = std::move(result);
  return llvm::Error::success();
}

llvm::Error Evaluator::evaluateLaunch(tile::LaunchOp op) {
  if (!op.getItems())
    return fail("launch of '", op.getKernel(),
                "' has no item count; run tile-plan-launches first");
  Launch launch;
  launch.kernel = op.getKernel().str();
  launch.items = integer(op.getItems());
  for (Value argument : op.getArgs()) {
    if (isa<tile::ViewType>(argument.getType()))
      launch.arguments.push_back(view(argument));
    else if (argument.getType().isF32())
      launch.arguments.push_back(real(argument));
    else if (argument.getType().isIndex())
      launch.arguments.push_back(integer(argument));
    else
      launch.arguments.push_back(static_cast<int32_t>(integer(argument)));
  }
  plan.launches.push_back(std::move(launch));
  return llvm::Error::success();
}

//===----------------------------------------------------------------------===//
// Arithmetic
//===----------------------------------------------------------------------===//

static int64_t wrap(int64_t value, Type type) {
  if (type.isInteger(1))
    return value & 1;
  if (type.isInteger(32))
    return static_cast<int32_t>(value);
  if (type.isInteger(8))
    return static_cast<int8_t>(value);
  return value;
}

/// The operand as an unsigned number of its width.
static uint64_t asUnsigned(int64_t value, Type type) {
  return type.isInteger(32) ? static_cast<uint32_t>(value) : value;
}

static bool compare(arith::CmpIPredicate predicate, int64_t a, int64_t b,
                    uint64_t ua, uint64_t ub) {
  switch (predicate) {
  case arith::CmpIPredicate::eq:
    return a == b;
  case arith::CmpIPredicate::ne:
    return a != b;
  case arith::CmpIPredicate::slt:
    return a < b;
  case arith::CmpIPredicate::sle:
    return a <= b;
  case arith::CmpIPredicate::sgt:
    return a > b;
  case arith::CmpIPredicate::sge:
    return a >= b;
  case arith::CmpIPredicate::ult:
    return ua < ub;
  case arith::CmpIPredicate::ule:
    return ua <= ub;
  case arith::CmpIPredicate::ugt:
    return ua > ub;
  case arith::CmpIPredicate::uge:
    return ua >= ub;
  }
  return false;
}

/// No value: the op is unknown, or divides by zero.
std::optional<int64_t> Evaluator::integerOp(Operation *op, int64_t a,
                                            int64_t b) {
  Type type = op->getOperand(0).getType();
  uint64_t ua = asUnsigned(a, type), ub = asUnsigned(b, type);
  using Result = std::optional<int64_t>;
  auto divide = [&](auto compute) -> Result {
    if (b == 0 || (a == INT64_MIN && b == -1))
      return std::nullopt;
    return static_cast<int64_t>(compute());
  };
  auto plain = [](auto value) -> Result { return static_cast<int64_t>(value); };
  return llvm::TypeSwitch<Operation *, Result>(op)
      .Case([&](arith::AddIOp) { return plain(uint64_t(a) + uint64_t(b)); })
      .Case([&](arith::SubIOp) { return plain(uint64_t(a) - uint64_t(b)); })
      .Case([&](arith::MulIOp) { return plain(uint64_t(a) * uint64_t(b)); })
      .Case([&](arith::DivSIOp) { return divide([&] { return a / b; }); })
      .Case([&](arith::RemSIOp) { return divide([&] { return a % b; }); })
      .Case([&](arith::DivUIOp) { return divide([&] { return ua / ub; }); })
      .Case([&](arith::RemUIOp) { return divide([&] { return ua % ub; }); })
      .Case([&](arith::CeilDivUIOp) {
        return divide([&] { return ua / ub + (ua % ub != 0); });
      })
      .Case([&](arith::CeilDivSIOp) {
        return divide([&] { return llvm::divideCeilSigned(a, b); });
      })
      .Case([&](arith::FloorDivSIOp) {
        return divide([&] { return llvm::divideFloorSigned(a, b); });
      })
      .Case([&](arith::MinSIOp) { return plain(std::min(a, b)); })
      .Case([&](arith::MaxSIOp) { return plain(std::max(a, b)); })
      .Case([&](arith::MinUIOp) { return plain(ua < ub ? a : b); })
      .Case([&](arith::MaxUIOp) { return plain(ua > ub ? a : b); })
      .Case([&](arith::AndIOp) { return plain(a & b); })
      .Case([&](arith::OrIOp) { return plain(a | b); })
      .Case([&](arith::XOrIOp) { return plain(a ^ b); })
      .Case([&](arith::CmpIOp compareOp) {
        return plain(compare(compareOp.getPredicate(), a, b, ua, ub));
      })
      .Case<arith::IndexCastOp, arith::ExtSIOp, arith::TruncIOp>(
          [&](Operation *) { return plain(a); })
      .Case<arith::IndexCastUIOp, arith::ExtUIOp>(
          [&](Operation *) { return plain(ua); })
      .Default([](Operation *) -> Result { return std::nullopt; });
}

std::optional<float> Evaluator::floatOp(Operation *op, float a, float b) {
  using Result = std::optional<float>;
  return llvm::TypeSwitch<Operation *, Result>(op)
      .Case([&](arith::AddFOp) { return a + b; })
      .Case([&](arith::SubFOp) { return a - b; })
      .Case([&](arith::MulFOp) { return a * b; })
      .Case([&](arith::DivFOp) { return a / b; })
      .Case([&](arith::NegFOp) { return -a; })
      .Case([&](math::SqrtOp) { return std::sqrt(a); })
      .Case([&](math::RsqrtOp) { return 1.0f / std::sqrt(a); })
      .Case([&](math::ExpOp) { return std::exp(a); })
      .Case([&](math::Exp2Op) { return std::exp2(a); })
      .Case([&](math::LogOp) { return std::log(a); })
      .Case([&](math::Log2Op) { return std::log2(a); })
      .Default([](Operation *) -> Result { return std::nullopt; });
}

llvm::Error Evaluator::evaluateArithmetic(Operation *op) {
  auto unsupported = [&] {
    return fail("program '", program.getSymName(), "': the host cannot ",
                "evaluate '", op->getName().getStringRef(),
                "' on these operands");
  };
  if (auto constant = dyn_cast<arith::ConstantOp>(op)) {
    if (auto number = dyn_cast<IntegerAttr>(constant.getValue()))
      values[constant] =
          wrap(number.getType().isInteger(1) ? number.getValue().getZExtValue()
                                             : number.getValue().getSExtValue(),
               constant.getType());
    else if (constant.getType().isF32())
      values[constant] =
          cast<FloatAttr>(constant.getValue()).getValue().convertToFloat();
    else
      return unsupported();
    return llvm::Error::success();
  }
  if (op->getNumResults() != 1)
    return unsupported();
  Value result = op->getResult(0);
  if (auto select = dyn_cast<arith::SelectOp>(op)) {
    Value chosen = integer(select.getCondition()) ? select.getTrueValue()
                                                  : select.getFalseValue();
    HostValue value = values.at(chosen);
    values[result] = std::move(value);
    return llvm::Error::success();
  }
  auto isInteger = [](Type type) { return type.isIntOrIndex(); };
  auto isFloat = [](Type type) { return type.isF32(); };
  unsigned count = op->getNumOperands();
  if (count == 1 && isInteger(op->getOperand(0).getType()) &&
      isFloat(result.getType())) {
    int64_t a = integer(op->getOperand(0));
    if (!isa<arith::SIToFPOp, arith::UIToFPOp>(op))
      return unsupported();
    values[result] = static_cast<float>(a);
    return llvm::Error::success();
  }
  if (count < 1 || count > 2)
    return unsupported();
  if (llvm::all_of(op->getOperandTypes(), isInteger) &&
      isInteger(result.getType())) {
    int64_t a = integer(op->getOperand(0));
    int64_t b = count == 2 ? integer(op->getOperand(1)) : 0;
    std::optional<int64_t> value = integerOp(op, a, b);
    if (!value)
      return unsupported();
    values[result] = wrap(*value, result.getType());
    return llvm::Error::success();
  }
  if (llvm::all_of(op->getOperandTypes(), isFloat) &&
      isFloat(result.getType())) {
    float a = real(op->getOperand(0));
    float b = count == 2 ? real(op->getOperand(1)) : 0;
    std::optional<float> value = floatOp(op, a, b);
    if (!value)
      return unsupported();
    values[result] = *value;
    return llvm::Error::success();
  }
  return unsupported();
}

llvm::Expected<LaunchPlan> attnc::planProgram(tile::ProgramOp program,
                                              ArrayRef<Argument> arguments) {
  if (llvm::Error error = checkArguments(program, arguments))
    return std::move(error);
  return Evaluator(program).run(arguments);
}
