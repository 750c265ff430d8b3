//===- Code.cpp - Short names for what hopper-to-llvm emits ---------------===//
//
// Blocks are made before they are filled, and lie in the order in which they
// are filled.
//
//===----------------------------------------------------------------------===//

#include "passes/HopperToLLVM/Code.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::hopper;
using namespace attnc::hopper::lowering;

std::string lowering::operandList(int64_t first, int64_t count) {
  std::string text;
  for (int64_t i = 0; i < count; ++i)
    text += (i ? ",$" : "$") + std::to_string(first + i);
  return text;
}

void lowering::repeat(std::string &text, StringRef what, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    text += (text.empty() ? "" : ",") + what.str();
}

Code::Code(Operation *at) : b(at), loc(at->getLoc()) {
  i32 = b.getI32Type();
  i64 = b.getI64Type();
  f32 = b.getF32Type();
}

Value Code::constant(int64_t value, Type type) {
  type = type ? type : i32;
  return arith::ConstantOp::create(
      b, loc, cast<TypedAttr>(b.getIntegerAttr(type, value)));
}

Value Code::add(Value x, Value y) {
  return arith::AddIOp::create(b, loc, x, y);
}

Value Code::add(Value x, int64_t y) {
  return y ? add(x, constant(y, x.getType())) : x;
}

Value Code::mul(Value x, Value y) {
  return arith::MulIOp::create(b, loc, x, y);
}

Value Code::mul(Value x, int64_t y) { return mul(x, constant(y, x.getType())); }

Value Code::andi(Value x, Value y) {
  return arith::AndIOp::create(b, loc, x, y);
}

Value Code::compare(arith::CmpIPredicate predicate, Value x, Value y) {
  return arith::CmpIOp::create(b, loc, predicate, x, y);
}

Value Code::equals(Value x, int64_t y) {
  return compare(arith::CmpIPredicate::eq, x, constant(y, x.getType()));
}

Value Code::extend(Value x) { return arith::ExtSIOp::create(b, loc, i64, x); }

Value Code::intrinsic(StringRef name, Type result, ValueRange args) {
  StringAttr id = b.getStringAttr(name);
  if (!result) {
    LLVM::CallIntrinsicOp::create(b, loc, id, args);
    return {};
  }
  return LLVM::CallIntrinsicOp::create(b, loc, result, id, args)->getResult(0);
}

Values Code::assembly(StringRef text, StringRef constraints, TypeRange results,
                      ValueRange operands, bool effects) {
  Type type;
  if (results.size() == 1)
    type = results[0];
  else if (results.size() > 1)
    type = LLVM::LLVMStructType::getLiteral(b.getContext(),
                                            llvm::to_vector(results));
  std::string all = constraints.str();
  if (effects)
    all += all.empty() ? "~{memory}" : ",~{memory}";
  auto op = LLVM::InlineAsmOp::create(
      b, loc, type ? TypeRange(type) : TypeRange(), operands, text, all,
      effects, /*is_align_stack=*/false, LLVM::tailcallkind::TailCallKind::None,
      /*asm_dialect=*/LLVM::AsmDialectAttr(), /*operand_attrs=*/ArrayAttr());
  Values out;
  if (results.size() == 1)
    out.push_back(op.getRes());
  else
    for (size_t i = 0; i < results.size(); ++i)
      out.push_back(LLVM::ExtractValueOp::create(b, loc, op.getRes(),
                                                 static_cast<int64_t>(i)));
  return out;
}

/// The same value, but no invariant of loops.
Value Code::refreshed(Value value) {
  return assembly("mov.b32 $0, $1;", "=r,r", i32, value)[0];
}

Value Code::sharedPointer(Value address) {
  return LLVM::IntToPtrOp::create(
      b, loc, LLVM::LLVMPointerType::get(b.getContext(), kSharedSpace),
      address);
}

Block *Code::newBlock(TypeRange arguments) {
  Block *block = new Block();
  func.getBody().push_back(block);
  for (Type type : arguments)
    block->addArgument(type, loc);
  return block;
}

void Code::at(Block *block) {
  if (block != entry)
    block->moveBefore(&func.getBody(), func.getBody().end());
  b.setInsertionPointToEnd(block);
}

void Code::branch(Block *to, ValueRange args) {
  LLVM::BrOp::create(b, loc, args, to);
}

void Code::branchIf(Value condition, Block *yes, Block *no, ValueRange yesArgs,
                    ValueRange noArgs) {
  LLVM::CondBrOp::create(b, loc, condition, yes, yesArgs, no, noArgs);
}

void Code::branchSeldom(Value condition, Block *seldom, Block *often,
                        ValueRange oftenArgs) {
  LLVM::CondBrOp::create(b, loc, condition, seldom, ValueRange(), often,
                         oftenArgs, std::pair<uint32_t, uint32_t>(1, 2000));
}
