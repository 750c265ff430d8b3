//===- PlanCode.cpp - A launch plan, evaluated without IR -----------------===//

#include "lib/Program/PlanCode.h"

#include "llvm/ADT/DenseMap.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/TypeSwitch.h"
#include "llvm/Support/MathExtras.h"

#include <cmath>
#include <cstring>
#include <optional>

using namespace mlir;
using namespace attnc;

enum class PlanCode::Opcode : uint8_t {
  // Integers.
  Add,
  Sub,
  Mul,
  DivS,
  DivU,
  RemS,
  RemU,
  CeilDivS,
  CeilDivU,
  FloorDivS,
  MinS,
  MinU,
  MaxS,
  MaxU,
  And,
  Or,
  Xor,
  Compare,
  Signed,
  Unsigned,
  // Floating point.
  AddF,
  SubF,
  MulF,
  DivF,
  NegF,
  Sqrt,
  Rsqrt,
  Exp,
  Exp2,
  Log,
  Log2,
  SignedToFloat,
  UnsignedToFloat,
  // The rest.
  Select,
  Check,
  Workspace,
};

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

static int64_t bitsOf(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

static float floatOf(int64_t bits) {
  uint32_t low = static_cast<uint32_t>(bits);
  float value;
  memcpy(&value, &low, sizeof(value));
  return value;
}

/// A number in `bits` bits, as it is kept. A bit is 0 or 1.
static int64_t wrap(int64_t value, unsigned bits) {
  if (bits == 1)
    return value & 1;
  return bits < 64 ? llvm::SignExtend64(value, bits) : value;
}

//===----------------------------------------------------------------------===//
// Translation
//===----------------------------------------------------------------------===//

namespace attnc {
class PlanTranslator {
public:
  explicit PlanTranslator(tile::ProgramOp program) : program(program) {
    plan.name = program.getSymName().str();
  }
  llvm::Expected<PlanCode> run();

private:
  using Opcode = PlanCode::Opcode;
  using Instruction = PlanCode::Instruction;

  void addParameter(BlockArgument argument);
  llvm::Error translate(Operation *op);
  llvm::Error translateConstant(arith::ConstantOp op);
  llvm::Error translateArithmetic(Operation *op);
  void translateSelect(arith::SelectOp op);
  void translateCheck(tile::CheckOp op);
  void translateWorkspace(tile::WorkspaceOp op);
  llvm::Error translateLaunch(tile::LaunchOp op);
  static std::optional<Opcode> integerOpcode(Operation *op);
  static std::optional<Opcode> floatOpcode(Operation *op);

  llvm::Error unsupported(Operation *op) const {
    return fail("program '", plan.name, "': the host cannot evaluate '",
                op->getName().getStringRef(), "' on these operands");
  }

  /// A place for a new value.
  PlanPlace allocate(Value value) {
    PlanPlace place = describe(value.getType());
    place.slot = plan.initial.size();
    unsigned count =
        place.kind == PlanPlace::Kind::View ? 2 + 2 * place.rank : 1;
    plan.initial.resize(plan.initial.size() + count);
    places[value] = place;
    return place;
  }

  static PlanPlace describe(Type type) {
    PlanPlace place;
    if (auto view = dyn_cast<tile::ViewType>(type)) {
      place.kind = PlanPlace::Kind::View;
      place.rank = view.getRank();
      place.elementBits = view.getElementType().getIntOrFloatBitWidth();
    } else if (type.isF32()) {
      place.kind = PlanPlace::Kind::F32;
    } else if (!type.isIndex()) {
      place.kind = PlanPlace::Kind::I32;
    }
    return place;
  }

  unsigned slot(Value value) const { return places.at(value).slot; }
  unsigned addText(StringRef text) {
    plan.texts.push_back(text.str());
    return plan.texts.size() - 1;
  }

  tile::ProgramOp program;
  DenseMap<Value, PlanPlace> places;
  PlanCode plan;
};
} // namespace attnc

llvm::Expected<PlanCode> PlanTranslator::run() {
  for (BlockArgument argument : program.getBody().getArguments())
    addParameter(argument);
  for (Operation &op : program.getBody().front())
    if (llvm::Error error = translate(&op))
      return std::move(error);
  return std::move(plan);
}

void PlanTranslator::addParameter(BlockArgument argument) {
  PlanCode::Parameter parameter;
  parameter.name = getArgumentName(program, argument.getArgNumber());
  parameter.type = typeName(argument.getType());
  parameter.place = allocate(argument);
  if (auto view = dyn_cast<tile::ViewType>(argument.getType()))
    parameter.sizes.assign(view.getShape().begin(), view.getShape().end());
  plan.parameters.push_back(std::move(parameter));
}

llvm::Error PlanTranslator::translate(Operation *op) {
  auto done = [](auto &&) { return llvm::Error::success(); };
  return llvm::TypeSwitch<Operation *, llvm::Error>(op)
      .Case(
          [&](tile::CheckOp check) { return done((translateCheck(check), 0)); })
      .Case([&](tile::WorkspaceOp space) {
        return done((translateWorkspace(space), 0));
      })
      .Case([&](tile::LaunchOp launch) { return translateLaunch(launch); })
      .Case([&](tile::PreferOp prefer) {
        plan.preferences.emplace_back(slot(prefer.getCondition()),
                                      addText(prefer.getSchedule()));
        return llvm::Error::success();
      })
      .Case([&](tile::DimOp dim) {
        // A size has a slot of its own: nothing is to be done for it.
        PlanPlace view = places.at(dim.getView()), size;
        size.slot = view.size(dim.getDim());
        places[dim.getSize()] = size;
        return llvm::Error::success();
      })
      .Case([&](arith::ConstantOp op) { return translateConstant(op); })
      .Case([&](arith::SelectOp op) { return done((translateSelect(op), 0)); })
      .Default([&](Operation *other) { return translateArithmetic(other); });
}

llvm::Error PlanTranslator::translateConstant(arith::ConstantOp op) {
  int64_t value;
  if (auto number = dyn_cast<IntegerAttr>(op.getValue()))
    value = number.getType().isInteger(1) ? number.getValue().getZExtValue()
                                          : number.getValue().getSExtValue();
  else if (op.getType().isF32())
    value = bitsOf(cast<FloatAttr>(op.getValue()).getValue().convertToFloat());
  else
    return unsupported(op);
  plan.initial[allocate(op).slot] = value;
  return llvm::Error::success();
}

void PlanTranslator::translateSelect(arith::SelectOp op) {
  Instruction next{Opcode::Select};
  size_t before = plan.initial.size();
  next.result = allocate(op).slot;
  next.extra = plan.initial.size() - before;
  next.a = slot(op.getTrueValue());
  next.b = slot(op.getFalseValue());
  next.c = slot(op.getCondition());
  plan.code.push_back(next);
}

void PlanTranslator::translateCheck(tile::CheckOp op) {
  Instruction next{Opcode::Check};
  next.a = slot(op.getCondition());
  next.b = plan.shown.size();
  next.c = op.getValues().size();
  next.text = addText(op.getMessage());
  for (Value value : op.getValues())
    plan.shown.push_back(slot(value));
  plan.code.push_back(next);
}

void PlanTranslator::translateWorkspace(tile::WorkspaceOp op) {
  PlanCode::Workspace workspace;
  tile::ViewType type = op.getView().getType();
  workspace.view = allocate(op.getView());
  plan.initial[workspace.view.inWorkspace()] = 1;
  workspace.sizes.assign(type.getShape().begin(), type.getShape().end());
  for (Value size : op.getSizes())
    workspace.dynamic.push_back(slot(size));
  Instruction next{Opcode::Workspace};
  next.a = plan.workspaces.size();
  plan.workspaces.push_back(std::move(workspace));
  plan.code.push_back(next);
}

llvm::Error PlanTranslator::translateLaunch(tile::LaunchOp op) {
  if (!op.getItems())
    return fail("launch of '", op.getKernel(),
                "' has no item count; run tile-plan-launches first");
  PlanLaunch launch;
  launch.kernel = op.getKernel().str();
  launch.items = slot(op.getItems());
  for (Value argument : op.getArgs()) {
    PlanPlace place = places.at(argument);
    // A size that is passed on is an index, wherever it lies.
    place.kind = describe(argument.getType()).kind;
    launch.arguments.push_back(place);
  }
  plan.planned.push_back(std::move(launch));
  return llvm::Error::success();
}

std::optional<PlanCode::Opcode> PlanTranslator::integerOpcode(Operation *op) {
  using Result = std::optional<Opcode>;
  return llvm::TypeSwitch<Operation *, Result>(op)
      .Case([](arith::AddIOp) { return Opcode::Add; })
      .Case([](arith::SubIOp) { return Opcode::Sub; })
      .Case([](arith::MulIOp) { return Opcode::Mul; })
      .Case([](arith::DivSIOp) { return Opcode::DivS; })
      .Case([](arith::DivUIOp) { return Opcode::DivU; })
      .Case([](arith::RemSIOp) { return Opcode::RemS; })
      .Case([](arith::RemUIOp) { return Opcode::RemU; })
      .Case([](arith::CeilDivSIOp) { return Opcode::CeilDivS; })
      .Case([](arith::CeilDivUIOp) { return Opcode::CeilDivU; })
      .Case([](arith::FloorDivSIOp) { return Opcode::FloorDivS; })
      .Case([](arith::MinSIOp) { return Opcode::MinS; })
      .Case([](arith::MinUIOp) { return Opcode::MinU; })
      .Case([](arith::MaxSIOp) { return Opcode::MaxS; })
      .Case([](arith::MaxUIOp) { return Opcode::MaxU; })
      .Case([](arith::AndIOp) { return Opcode::And; })
      .Case([](arith::OrIOp) { return Opcode::Or; })
      .Case([](arith::XOrIOp) { return Opcode::Xor; })
      .Case([](arith::CmpIOp) { return Opcode::Compare; })
      .Case<arith::IndexCastOp, arith::ExtSIOp, arith::TruncIOp>(
          [](Operation *) { return Opcode::Signed; })
      .Case<arith::IndexCastUIOp, arith::ExtUIOp>(
          [](Operation *) { return Opcode::Unsigned; })
      .Default([](Operation *) -> Result { return std::nullopt; });
}

std::optional<PlanCode::Opcode> PlanTranslator::floatOpcode(Operation *op) {
  using Result = std::optional<Opcode>;
  return llvm::TypeSwitch<Operation *, Result>(op)
      .Case([](arith::AddFOp) { return Opcode::AddF; })
      .Case([](arith::SubFOp) { return Opcode::SubF; })
      .Case([](arith::MulFOp) { return Opcode::MulF; })
      .Case([](arith::DivFOp) { return Opcode::DivF; })
      .Case([](arith::NegFOp) { return Opcode::NegF; })
      .Case([](math::SqrtOp) { return Opcode::Sqrt; })
      .Case([](math::RsqrtOp) { return Opcode::Rsqrt; })
      .Case([](math::ExpOp) { return Opcode::Exp; })
      .Case([](math::Exp2Op) { return Opcode::Exp2; })
      .Case([](math::LogOp) { return Opcode::Log; })
      .Case([](math::Log2Op) { return Opcode::Log2; })
      .Default([](Operation *) -> Result { return std::nullopt; });
}

llvm::Error PlanTranslator::translateArithmetic(Operation *op) {
  auto isInteger = [](Type type) { return type.isIntOrIndex(); };
  auto isFloat = [](Type type) { return type.isF32(); };
  unsigned count = op->getNumOperands();
  if (op->getNumResults() != 1 || count < 1 || count > 2)
    return unsupported(op);
  Type operand = op->getOperand(0).getType(),
       result = op->getResult(0).getType();
  std::optional<Opcode> opcode;
  if (isInteger(operand) && isFloat(result))
    opcode = isa<arith::SIToFPOp>(op)   ? std::optional(Opcode::SignedToFloat)
             : isa<arith::UIToFPOp>(op) ? std::optional(Opcode::UnsignedToFloat)
                                        : std::nullopt;
  else if (llvm::all_of(op->getOperandTypes(), isInteger) && isInteger(result))
    opcode = integerOpcode(op);
  else if (llvm::all_of(op->getOperandTypes(), isFloat) && isFloat(result))
    opcode = floatOpcode(op);
  if (!opcode)
    return unsupported(op);
  auto bits = [](Type type) -> unsigned {
    return type.isIndex() ? 64 : type.getIntOrFloatBitWidth();
  };
  Instruction next{*opcode};
  next.operandBits = bits(operand);
  next.resultBits = bits(result);
  if (auto compare = dyn_cast<arith::CmpIOp>(op))
    next.extra = uint8_t(compare.getPredicate());
  next.a = slot(op->getOperand(0));
  next.b = count == 2 ? slot(op->getOperand(1)) : next.a;
  next.result = allocate(op->getResult(0)).slot;
  next.text = addText(op->getName().getStringRef());
  plan.code.push_back(next);
  return llvm::Error::success();
}

llvm::Expected<PlanCode> PlanCode::translate(tile::ProgramOp program) {
  return PlanTranslator(program).run();
}

//===----------------------------------------------------------------------===//
// Arguments
//===----------------------------------------------------------------------===//

llvm::Error PlanCode::checkView(const Parameter &parameter,
                                const Argument &argument) const {
  const std::string &name = parameter.name;
  size_t rank = parameter.sizes.size();
  auto *view = std::get_if<ViewArgument>(&argument);
  if (!view)
    return fail("argument '", name, "': expected a tensor of rank ", rank,
                ", got a scalar");
  if (view->sizes.size() != rank || view->strides.size() != rank)
    return fail("argument '", name, "': expected a tensor of rank ", rank,
                ", got rank ", view->sizes.size(), " with ",
                view->strides.size(), " strides");
  bool empty = false;
  int64_t count = 1;
  for (auto [dim, size] : llvm::enumerate(view->sizes)) {
    int64_t expected = parameter.sizes[dim];
    empty |= size == 0;
    if (size < 0)
      return fail("argument '", name, "': dim ", dim, " has size ", size);
    // Strides of 0 make such a tensor of little memory.
    if (size > std::numeric_limits<int32_t>::max() ||
        llvm::MulOverflow(count, std::max<int64_t>(size, 1), count))
      return fail("argument '", name, "': dim ", dim, " has size ", size,
                  "; positions are numbers of 32 bits, and those of elements "
                  "of 64: pass it in parts");
    if (!ShapedType::isDynamic(expected) && expected != size)
      return fail("argument '", name, "': dim ", dim, " must be ", expected,
                  ", got ", size,
                  "; compile for this size or pass a tensor of that size");
  }
  if (!empty && !view->data)
    return fail("argument '", name, "': the data pointer is null");
  return llvm::Error::success();
}

llvm::Error PlanCode::check(ArrayRef<Argument> arguments) const {
  if (parameters.size() != arguments.size())
    return fail("program '", name, "' takes ", parameters.size(),
                " arguments, got ", arguments.size());
  for (auto [parameter, argument] : llvm::zip_equal(parameters, arguments)) {
    bool isF32 = parameter.place.kind == PlanPlace::Kind::F32;
    if (parameter.place.kind == PlanPlace::Kind::View) {
      if (llvm::Error error = checkView(parameter, argument))
        return error;
    } else if (isF32 ? !std::holds_alternative<float>(argument)
                     : !std::holds_alternative<int32_t>(argument)) {
      return fail("argument '", parameter.name, "': expected a scalar of type ",
                  parameter.type, ", got ",
                  std::holds_alternative<ViewArgument>(argument) ? "a tensor"
                  : isF32                                        ? "an i32"
                                                                 : "an f32");
    }
  }
  return llvm::Error::success();
}

void PlanCode::fillIn(ArrayRef<Argument> arguments, PlanValues &values) const {
  values.slots.assign(initial.begin(), initial.end());
  values.workspaceBytes = 0;
  int64_t *slots = values.slots.data();
  for (auto [parameter, argument] : llvm::zip_equal(parameters, arguments)) {
    const PlanPlace &place = parameter.place;
    if (auto *view = std::get_if<ViewArgument>(&argument)) {
      slots[place.slot] = reinterpret_cast<intptr_t>(view->data);
      llvm::copy(view->sizes, slots + place.size(0));
      llvm::copy(view->strides, slots + place.stride(0));
    } else if (auto *real = std::get_if<float>(&argument)) {
      slots[place.slot] = bitsOf(*real);
    } else {
      slots[place.slot] = std::get<int32_t>(argument);
    }
  }
}

//===----------------------------------------------------------------------===//
// Evaluation
//===----------------------------------------------------------------------===//

/// False: it divides by zero, or the quotient does not fit.
bool PlanCode::computeInteger(const Instruction &instruction,
                              int64_t *slots) const {
  int64_t a = slots[instruction.a], b = slots[instruction.b], r = 0;
  uint64_t mask = llvm::maskTrailingOnes<uint64_t>(instruction.operandBits);
  uint64_t ua = uint64_t(a) & mask, ub = uint64_t(b) & mask;
  Opcode code = instruction.code;
  if (code >= Opcode::DivS && code <= Opcode::FloorDivS &&
      (b == 0 || (a == INT64_MIN && b == -1)))
    return false;
  switch (code) {
  case Opcode::Add:
    r = uint64_t(a) + uint64_t(b);
    break;
  case Opcode::Sub:
    r = uint64_t(a) - uint64_t(b);
    break;
  case Opcode::Mul:
    r = uint64_t(a) * uint64_t(b);
    break;
  case Opcode::DivS:
    r = a / b;
    break;
  case Opcode::DivU:
    r = ua / ub;
    break;
  case Opcode::RemS:
    r = a % b;
    break;
  case Opcode::RemU:
    r = ua % ub;
    break;
  case Opcode::CeilDivS:
    r = llvm::divideCeilSigned(a, b);
    break;
  case Opcode::CeilDivU:
    r = ua / ub + (ua % ub != 0);
    break;
  case Opcode::FloorDivS:
    r = llvm::divideFloorSigned(a, b);
    break;
  case Opcode::MinS:
    r = std::min(a, b);
    break;
  case Opcode::MinU:
    r = ua < ub ? a : b;
    break;
  case Opcode::MaxS:
    r = std::max(a, b);
    break;
  case Opcode::MaxU:
    r = ua > ub ? a : b;
    break;
  case Opcode::And:
    r = a & b;
    break;
  case Opcode::Or:
    r = a | b;
    break;
  case Opcode::Xor:
    r = a ^ b;
    break;
  case Opcode::Compare:
    r = arith::applyCmpPredicate(arith::CmpIPredicate(instruction.extra),
                                 llvm::APInt(instruction.operandBits, ua),
                                 llvm::APInt(instruction.operandBits, ub));
    break;
  case Opcode::Unsigned:
    r = ua;
    break;
  default: // Signed; a bit that is set is -1
    r = instruction.operandBits == 1 ? -a : a;
    break;
  }
  slots[instruction.result] = wrap(r, instruction.resultBits);
  return true;
}

void PlanCode::computeFloat(const Instruction &instruction,
                            int64_t *slots) const {
  float a = floatOf(slots[instruction.a]), b = floatOf(slots[instruction.b]);
  auto compute = [&]() -> float {
    switch (instruction.code) {
    case Opcode::AddF:
      return a + b;
    case Opcode::SubF:
      return a - b;
    case Opcode::MulF:
      return a * b;
    case Opcode::DivF:
      return a / b;
    case Opcode::NegF:
      return -a;
    case Opcode::Sqrt:
      return std::sqrt(a);
    case Opcode::Rsqrt:
      return 1.0f / std::sqrt(a);
    case Opcode::Exp:
      return std::exp(a);
    case Opcode::Exp2:
      return std::exp2(a);
    case Opcode::Log:
      return std::log(a);
    case Opcode::Log2:
      return std::log2(a);
    case Opcode::UnsignedToFloat:
      return float(uint64_t(slots[instruction.a]) &
                   llvm::maskTrailingOnes<uint64_t>(instruction.operandBits));
    default:
      return float(slots[instruction.a]);
    }
  };
  slots[instruction.result] = bitsOf(compute());
}

llvm::Error PlanCode::failCheck(const Instruction &check,
                                const int64_t *slots) const {
  std::string message = texts[check.text];
  for (unsigned index = 0; index < check.c; ++index) {
    std::string hole = "{" + std::to_string(index) + "}";
    std::string text = std::to_string(slots[shown[check.b + index]]);
    for (size_t at = message.find(hole); at != std::string::npos;
         at = message.find(hole, at + text.size()))
      message.replace(at, hole.size(), text);
  }
  return fail(message);
}

llvm::Error PlanCode::placeWorkspace(const Workspace &workspace,
                                     PlanValues &values) const {
  const PlanPlace &view = workspace.view;
  int64_t *slots = values.slots.data();
  int64_t offset = llvm::alignTo(values.workspaceBytes, kWorkspaceAlignment);
  slots[view.slot] = offset;
  int64_t count = 1, bytes;
  auto tooLarge = [&] {
    return fail("program '", name,
                "' asks for a workspace larger than memory can be");
  };
  auto dynamic = workspace.dynamic.begin();
  for (auto [dim, given] : llvm::enumerate(workspace.sizes)) {
    int64_t size = ShapedType::isDynamic(given) ? slots[*dynamic++] : given;
    if (size < 0)
      return fail("program '", name, "' asks for a workspace dim of size ",
                  size);
    slots[view.size(dim)] = size;
    if (llvm::MulOverflow(count, size, count))
      return tooLarge();
  }
  uint64_t stride = 1; // unsigned: beside a size of 0 it may be anything
  for (unsigned dim = view.rank; dim-- > 0;) {
    slots[view.stride(dim)] = stride;
    stride *= slots[view.size(dim)];
  }
  if (llvm::MulOverflow(count, int64_t(view.elementBits + 7) / 8, bytes) ||
      llvm::AddOverflow(offset, bytes, values.workspaceBytes))
    return tooLarge();
  return llvm::Error::success();
}

llvm::Error PlanCode::run(const Instruction &instruction,
                          PlanValues &values) const {
  int64_t *slots = values.slots.data();
  switch (instruction.code) {
  case Opcode::Select: {
    unsigned from = slots[instruction.c] ? instruction.a : instruction.b;
    std::copy_n(slots + from, instruction.extra, slots + instruction.result);
    return llvm::Error::success();
  }
  case Opcode::Check:
    return slots[instruction.a] ? llvm::Error::success()
                                : failCheck(instruction, slots);
  case Opcode::Workspace:
    return placeWorkspace(workspaces[instruction.a], values);
  default:
    break;
  }
  if (instruction.code >= Opcode::AddF)
    computeFloat(instruction, slots);
  else if (!computeInteger(instruction, slots))
    return fail("program '", name, "': the host cannot evaluate '",
                texts[instruction.text], "' on these operands");
  return llvm::Error::success();
}

llvm::Error PlanCode::evaluate(ArrayRef<Argument> arguments,
                               PlanValues &values) const {
  if (llvm::Error error = check(arguments))
    return error;
  fillIn(arguments, values);
  for (const Instruction &instruction : code)
    if (llvm::Error error = run(instruction, values))
      return error;
  return llvm::Error::success();
}

StringRef PlanCode::preferredSchedule(const PlanValues &values) const {
  for (auto [condition, text] : preferences)
    if (values.slots[condition])
      return texts[text];
  return {};
}
