//===- Norms.cpp - Gradients that come through norms of rows --------------===//
//
// A norm of the query, the key, the value or the output that something captures
// hands its gradient on to the elements of its row.
//
//===----------------------------------------------------------------------===//

#include "passes/AttnDifferentiate/Differentiation.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::gradients;

/// Whether it is a norm through which query, key or value get gradients.
bool Differentiation::isNorm(Value value) {
  auto norm = value.getDefiningOp<attn::RowNormOp>();
  return norm && isWanted(norm.getInput()) &&
         norm.getLayout() == fused.getLayout() &&
         llvm::is_contained(
             {fused.getQuery(), fused.getKey(), fused.getValue()},
             norm.getInput());
}

/// Whether it is one of the output, which an epilogue reads.
bool Differentiation::isOutputNorm(Value value) {
  auto norm = value.getDefiningOp<attn::RowNormOp>();
  return norm &&
         (norm.getInput() == fused.getOutput() || norm.getInput() == output);
}

/// Whether its gradient also has a part that comes through a norm.
bool Differentiation::hasNorm(Value operand) {
  auto isOf = [&](Value value) {
    return isNorm(value) &&
           value.getDefiningOp<attn::RowNormOp>().getInput() == operand;
  };
  return llvm::any_of(captures,
                      [&](const Captured &c) { return isOf(c.value); }) ||
         llvm::any_of(norms, [&](const auto &n) { return isOf(n.first); });
}

/// (b, h, i) of (b, h, i, d).
AffineMap gradients::getRowsMap(MLIRContext *context) {
  return AffineMap::getMultiDimMapWithTargets(4, {0, 1, 2}, context);
}

/// The part of the gradient of an element x that comes through the norm n of
/// its row of `width`: |x|^2 has the gradient 2x, and n = 1 / |x| has -n^3 x.
/// `count` elements that are the largest share its gradient.
Value gradients::passThrough(OpBuilder &builder, Location loc,
                             attn::RowNorm norm, int64_t width, Value x,
                             Value n, Value gradient, Value count) {
  auto constant = [&](float value) { return constantF32(builder, loc, value); };
  auto times = [&](Value a, Value c) -> Value {
    return arith::MulFOp::create(builder, loc, a, c);
  };
  auto compare = [&](arith::CmpFPredicate how, Value a, Value c) -> Value {
    return arith::CmpFOp::create(builder, loc, how, a, c);
  };
  auto select = [&](Value which, Value a, Value c) -> Value {
    return arith::SelectOp::create(builder, loc, which, a, c);
  };
  switch (norm) {
  case attn::RowNorm::SquaredL2:
    return times(times(constant(2), gradient), x);
  case attn::RowNorm::InverseL2: {
    Value cube = times(n, times(n, n));
    return times(times(times(constant(-1), cube), gradient), x);
  }
  case attn::RowNorm::Mean:
    return times(constant(1.0f / width), gradient);
  case attn::RowNorm::MeanSquare:
    return times(times(constant(2.0f / width), gradient), x);
  case attn::RowNorm::AbsMax:
    break;
  }
  Value zero = constant(0);
  Value sign = select(compare(arith::CmpFPredicate::OLT, x, zero), constant(-1),
                      constant(1));
  sign = select(compare(arith::CmpFPredicate::OEQ, x, zero), zero, sign);
  Value size = math::AbsFOp::create(builder, loc, x);
  Value share =
      arith::DivFOp::create(builder, loc, times(gradient, sign), count);
  return select(compare(arith::CmpFPredicate::OEQ, size, n), share, zero);
}

/// How many elements of each row have the absolute value that is its norm, or
/// none for other norms.
Value Differentiation::countLargest(attn::RowNormOp norm, Value lengths) {
  if (norm.getKind() != attn::RowNorm::AbsMax)
    return {};
  Value x = norm.getInput();
  auto rows = AffineMapAttr::get(getRowsMap(builder.getContext()));
  auto op = attn::EpilogueGradientOp::create(
      builder, loc, TypeRange{x.getType(), norm.getType()}, x, x, lengths,
      ValueRange{norm}, builder.getArrayAttr({rows}), norm.getLayout(),
      builder.getDenseI64ArrayAttr({0}), /*capture_gradientsCount=*/1);
  Type f32 = builder.getF32Type(), i32 = builder.getI32Type();
  SmallVector<Type> types = {f32, f32, i32, i32, i32, i32, f32};
  SmallVector<Location> locs(types.size(), loc);
  OpBuilder::InsertionGuard guard(builder);
  Block *unused = builder.createBlock(&op.getGradient(), {}, types, locs);
  attn::YieldOp::create(builder, loc, unused->getArgument(0));
  Block *block =
      builder.createBlock(&op.getCaptureGradients()[0], {}, types, locs);
  Value size = math::AbsFOp::create(builder, loc, block->getArgument(0));
  Value isLargest = arith::CmpFOp::create(
      builder, loc, arith::CmpFPredicate::OEQ, size, block->getArgument(6));
  attn::YieldOp::create(builder, loc,
                        arith::SelectOp::create(builder, loc, isLargest,
                                                constantF32(builder, loc, 1),
                                                constantF32(builder, loc, 0)));
  return op.getDcaptures()[0];
}

/// Adds to the gradient of x the part that comes through a norm of x. Rounded
/// at last; exactly 0 beyond a length (S-beyond).
void Differentiation::addThroughNorm(const Through &through, bool isLast) {
  auto norm = through.norm.getDefiningOp<attn::RowNormOp>();
  Value x = norm.getInput();
  Value &sum = results[x];
  auto type = cast<RankedTensorType>(gradientType(x));
  if (!isLast)
    type = type.clone(builder.getF32Type());
  attn::LayoutDims dims = attn::getLayoutDims(norm.getLayout());
  SmallVector<unsigned> order(4);
  order[dims.b] = 0;
  order[dims.h] = 1;
  order[dims.s] = 2;
  order[dims.d] = 3;
  AffineMap rows = getRowsMap(builder.getContext());
  auto elements =
      AffineMap::getMultiDimMapWithTargets(4, order, builder.getContext());
  Value lengths = x == fused.getQuery() ? fused.getQLen() : fused.getKLen();
  SmallVector<Value> captured = {x, norm, through.gradient};
  SmallVector<AffineMap> maps = {elements, rows, rows};
  if (Value count = countLargest(norm, lengths)) {
    captured.push_back(count);
    maps.push_back(rows);
  }
  auto add =
      attn::EpilogueOp::create(builder, loc, type, sum, lengths, captured,
                               builder.getAffineMapArrayAttr(maps),
                               builder.getArrayAttr({}), norm.getLayout());
  Type f32 = builder.getF32Type(), i32 = builder.getI32Type();
  SmallVector<Type> types = {f32, i32, i32, i32, i32};
  types.append(captured.size(), f32);
  OpBuilder::InsertionGuard guard(builder);
  Block *block = builder.createBlock(&add.getBody(), {}, types,
                                     SmallVector<Location>(types.size(), loc));
  auto arguments = block->getArguments().drop_front(5);
  Value part = passThrough(
      builder, loc, norm.getKind(), type.getDimSize(dims.d), arguments[0],
      arguments[1], arguments[2], captured.size() > 3 ? arguments[3] : Value());
  attn::YieldOp::create(
      builder, loc,
      arith::AddFOp::create(builder, loc, block->getArgument(0), part));
  sum = add.getOutput();
}

void Differentiation::addThroughNorms() {
  auto inputOf = [](const auto &norm) {
    return norm.first.template getDefiningOp<attn::RowNormOp>().getInput();
  };
  for (auto [number, norm] : llvm::enumerate(norms)) {
    Value input = inputOf(norm);
    bool isLast = llvm::none_of(
        ArrayRef(norms).drop_front(number + 1),
        [&](const auto &later) { return inputOf(later) == input; });
    addThroughNorm({norm.first, norm.second, {}}, isLast);
  }
}
