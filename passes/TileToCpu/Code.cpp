//===- Code.cpp - Short names for the code that tile-to-cpu emits ---------===//

#include "passes/TileToCpu/Code.h"

using namespace mlir;
using namespace attnc::cpu;

//===----------------------------------------------------------------------===//
// Constants and types
//===----------------------------------------------------------------------===//

Value Code::i64(int64_t value) { return integer(getI64Type(), value); }
Value Code::i32(int32_t value) { return integer(getI32Type(), value); }
Value Code::flag(bool value) { return integer(getI1Type(), value); }

Value Code::real(Type type, double value) {
  TypedAttr attr = FloatAttr::get(getElementTypeOrSelf(type), value);
  if (auto vector = dyn_cast<VectorType>(type))
    attr = DenseElementsAttr::get(vector, Attribute(attr));
  return arith::ConstantOp::create(*this, attr);
}

Value Code::integer(Type type, int64_t value) {
  Type element = getElementTypeOrSelf(type);
  APInt bits(element.isIndex() ? 64 : element.getIntOrFloatBitWidth(), value,
             /*isSigned=*/true, /*implicitTrunc=*/true);
  TypedAttr attr = IntegerAttr::get(element, bits);
  if (auto vector = dyn_cast<VectorType>(type))
    attr = DenseElementsAttr::get(vector, Attribute(attr));
  return arith::ConstantOp::create(*this, attr);
}

Type Code::vectorOf(Type element, int64_t lanes) {
  return VectorType::get({lanes}, element);
}

Type Code::withElement(Type type, Type element) {
  if (auto vector = dyn_cast<VectorType>(type))
    return VectorType::get(vector.getShape(), element);
  return element;
}

//===----------------------------------------------------------------------===//
// Arithmetic
//===----------------------------------------------------------------------===//

Value Code::add(Value a, Value b) { return createOrFold<arith::AddIOp>(a, b); }
Value Code::sub(Value a, Value b) { return createOrFold<arith::SubIOp>(a, b); }
Value Code::mul(Value a, Value b) { return createOrFold<arith::MulIOp>(a, b); }
Value Code::min(Value a, Value b) { return createOrFold<arith::MinSIOp>(a, b); }
Value Code::max(Value a, Value b) { return createOrFold<arith::MaxSIOp>(a, b); }

Value Code::floorDiv(Value a, int64_t b) {
  if (b == 1)
    return a;
  Value divisor = i64(b);
  Value quotient = createOrFold<arith::DivSIOp>(a, divisor);
  Value rest = createOrFold<arith::RemSIOp>(a, divisor);
  Value negative = compare(arith::CmpIPredicate::slt, rest, i64(0));
  return select(negative, add(quotient, -1), quotient);
}

Value Code::compare(arith::CmpIPredicate predicate, Value a, Value b) {
  return createOrFold<arith::CmpIOp>(predicate, a, b);
}
Value Code::both(Value a, Value b) { return createOrFold<arith::AndIOp>(a, b); }
Value Code::either(Value a, Value b) {
  return createOrFold<arith::OrIOp>(a, b);
}
Value Code::select(Value condition, Value a, Value b) {
  return createOrFold<arith::SelectOp>(condition, a, b);
}

Value Code::toI64(Value value) {
  if (value.getType().isInteger(64))
    return value;
  if (value.getType().isIndex())
    return createOrFold<arith::IndexCastOp>(getI64Type(), value);
  return createOrFold<arith::ExtSIOp>(getI64Type(), value);
}
Value Code::toIndex(Value value) {
  return createOrFold<arith::IndexCastOp>(getIndexType(), value);
}
Value Code::toI32(Value value) {
  return createOrFold<arith::TruncIOp>(getI32Type(), value);
}

//===----------------------------------------------------------------------===//
// Memory and vectors
//===----------------------------------------------------------------------===//

Value Code::at(Type element, Value pointer, Value index) {
  return LLVM::GEPOp::create(*this, pointer.getType(), element, pointer,
                             ArrayRef<LLVM::GEPArg>{index});
}

Value Code::load(Type type, Value pointer, unsigned alignment) {
  return LLVM::LoadOp::create(*this, type, pointer, alignment);
}
void Code::store(Value value, Value pointer, unsigned alignment) {
  LLVM::StoreOp::create(*this, value, pointer, alignment);
}

Value Code::broadcast(Type vectorType, Value scalar) {
  return createOrFold<vector::BroadcastOp>(vectorType, scalar);
}

Value Code::lanesIota(int64_t lanes) {
  SmallVector<int32_t> lane(lanes);
  for (int64_t i = 0; i < lanes; ++i)
    lane[i] = i;
  auto type = VectorType::get({lanes}, getI32Type());
  return arith::ConstantOp::create(
      *this, DenseElementsAttr::get(type, ArrayRef<int32_t>(lane)));
}

//===----------------------------------------------------------------------===//
// Control flow
//===----------------------------------------------------------------------===//

Values Code::loop(Value lower, Value upper, int64_t step, ValueRange inits,
                  LoopBody body) {
  auto build = [&](OpBuilder &builder, Location loc, Value index,
                   ValueRange carried) {
    Code inner(loc, builder);
    scf::YieldOp::create(inner, body(inner, index, carried));
  };
  auto loop = scf::ForOp::create(*this, lower, upper, i64(step), inits, build);
  return Values(loop.getResults());
}

void Code::loop(Value lower, Value upper, int64_t step,
                llvm::function_ref<void(Code &, Value)> body) {
  loop(lower, upper, step, ValueRange(),
       [&](Code &inner, Value index, ValueRange) {
         body(inner, index);
         return Values();
       });
}

void Code::onlyIf(Value condition, llvm::function_ref<void(Code &)> then) {
  scf::IfOp::create(*this, condition, [&](OpBuilder &builder, Location loc) {
    Code inner(loc, builder);
    then(inner);
    scf::YieldOp::create(inner);
  });
}

Values Code::choose(Value condition, TypeRange types,
                    llvm::function_ref<Values(Code &)> then,
                    llvm::function_ref<Values(Code &)> otherwise) {
  auto op = scf::IfOp::create(*this, types, condition, /*addThenBlock=*/true,
                              /*addElseBlock=*/true);
  Code first(getLoc(), op.getThenBodyBuilder());
  scf::YieldOp::create(first, then(first));
  Code second(getLoc(), op.getElseBodyBuilder());
  scf::YieldOp::create(second, otherwise(second));
  return Values(op.getResults());
}
