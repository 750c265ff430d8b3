//===- Epilogues.cpp - Gradients of what is made of the output ------------===//
//
// An epilogue's gradient makes dO of the gradient that is handed over, from the
// output before it.
//
//===----------------------------------------------------------------------===//

#include "passes/AttnDifferentiate/Differentiation.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::gradients;

/// The epilogue's captures, and scalars that it uses directly where their
/// gradient is asked for.
FailureOr<SmallVector<Captured>> Differentiation::gatherEpilogueCaptures() {
  SmallVector<Captured> all;
  for (auto [index, value, map] :
       llvm::enumerate(epilogue.getCaptures(),
                       epilogue.getMaps().getAsValueRange<AffineMapAttr>())) {
    if (isOutputNorm(value)) {
      // Of the output as it was handed over.
      auto norm = value.getDefiningOp<attn::RowNormOp>();
      auto again = attn::RowNormOp::create(builder, loc, norm.getType(), output,
                                           norm.getKind(), norm.getLayout());
      all.push_back({again, map, true});
      continue;
    }
    if (failed(checkNorm(value)))
      return failure();
    all.push_back({value, map, isWanted(value) || isNorm(value)});
    if ((isWanted(value) || isNorm(value)) &&
        failed(checkMap(epilogue, index, map, "d", /*mayDiffer=*/false)))
      return failure();
  }
  epilogue.getBody().walk([&](Operation *op) {
    for (Value operand : op->getOperands()) {
      bool known = llvm::any_of(
          all, [&](const Captured &c) { return c.value == operand; });
      if (isWanted(operand) && !known)
        all.push_back(
            {operand, AffineMap::get(4, 0, {}, function.getContext()), true});
    }
  });
  return all;
}

/// The gradient of o, or of the captured operand `of`, from o and that of what
/// the epilogue made of it; with what comes `through` norms of o, whose
/// gradients and counts are captured after the others.
LogicalResult
Differentiation::buildEpilogueGradient(Region &region,
                                       ArrayRef<Captured> captured, Value of,
                                       ArrayRef<Through> through) {
  SmallVector<Type> types(2, builder.getF32Type());
  types.append(4, builder.getI32Type());
  for (const Captured &c : captured)
    types.push_back(attn::getElementScalarType(c.value.getType()));
  for (const Through &norm : through)
    types.append(norm.count ? 2 : 1, builder.getF32Type());
  OpBuilder::InsertionGuard guard(builder);
  Block *block = builder.createBlock(&region, {}, types,
                                     SmallVector<Location>(types.size(), loc));
  Tape tape(block, loc);
  auto arguments = block->getArguments();
  Value input = of ? Value() : arguments[0];
  for (auto [c, argument] : llvm::zip(captured, arguments.drop_front(6))) {
    if (!isa<RankedTensorType>(c.value.getType()))
      tape.replace(c.value, argument);
    if (of == c.value)
      input = argument;
  }
  SmallVector<Value> read = {arguments[0]};
  llvm::append_range(read,
                     arguments.slice(2, 4 + epilogue.getCaptures().size()));
  tape.addGradient(tape.copy(epilogue.getBody(), read), arguments[1]);
  FailureOr<Value> gradient = tape.differentiate(input);
  if (failed(gradient))
    return failure();
  ValueRange rows = arguments.drop_front(6 + captured.size());
  for (const Through &norm : through) {
    const auto *place = llvm::find_if(
        captured, [&](const Captured &c) { return c.value == norm.norm; });
    auto op = norm.norm.getDefiningOp<attn::RowNormOp>();
    int64_t width = cast<RankedTensorType>(output.getType()).getShape().back();
    Value part =
        passThrough(tape.builder, loc, op.getKind(), width, arguments[0],
                    arguments[6 + (place - captured.begin())], rows[0],
                    norm.count ? rows[1] : Value());
    rows = rows.drop_front(norm.count ? 2 : 1);
    gradient =
        arith::AddFOp::create(tape.builder, loc, *gradient, part).getResult();
  }
  attn::YieldOp::create(tape.builder, loc, *gradient);
  eraseDead(block);
  return success();
}

/// What changes with a norm of o is known after a pass over the whole row: the
/// gradient of o is computed again, with that.
LogicalResult
Differentiation::addThroughOutputNorms(attn::EpilogueGradientOp first,
                                       ArrayRef<Captured> captured,
                                       ArrayRef<Through> through) {
  SmallVector<Value> values(first.getCaptures());
  SmallVector<Attribute> maps(first.getMaps().getValue());
  auto rows = AffineMapAttr::get(getRowsMap(builder.getContext()));
  for (const Through &norm : through)
    for (Value value : {norm.gradient, norm.count})
      if (value) {
        values.push_back(value);
        maps.push_back(rows);
      }
  auto last = attn::EpilogueGradientOp::create(
      builder, loc, first.getDinput().getType(), first.getInput(),
      first.getDoutput(), first.getQLen(), values, builder.getArrayAttr(maps),
      first.getLayout(), builder.getDenseI64ArrayAttr({}),
      /*capture_gradientsCount=*/0);
  doutput = last.getDinput();
  return buildEpilogueGradient(last.getGradient(), captured, Value(), through);
}

/// Makes dO of the gradient of what the epilogue makes, and the gradients of
/// what it captures.
LogicalResult Differentiation::differentiateEpilogue() {
  auto captured = gatherEpilogueCaptures();
  if (failed(captured))
    return failure();
  Value given = addArgument(epilogue.getOutput().getType(),
                            "d" + nameOf(epilogue.getOutput()));
  auto outputType = cast<RankedTensorType>(output.getType());
  auto valueType = cast<RankedTensorType>(fused.getValue().getType());
  // Rounded to what products take.
  SmallVector<Type> types = {outputType.clone(valueType.getElementType())};
  SmallVector<Value> values;
  SmallVector<AffineMap> maps;
  SmallVector<int64_t> of;
  for (auto [index, c] : llvm::enumerate(*captured)) {
    values.push_back(c.value);
    maps.push_back(c.map);
    if (!c.wanted)
      continue;
    of.push_back(index);
    types.push_back(stateGradientType(c, outputType.getShape().back()));
  }
  auto op = attn::EpilogueGradientOp::create(
      builder, loc, types, output, given, fused.getQLen(), values,
      builder.getAffineMapArrayAttr(maps), fused.getLayout(),
      builder.getDenseI64ArrayAttr(of), /*capture_gradientsCount=*/of.size());
  if (failed(buildEpilogueGradient(op.getGradient(), *captured, Value())))
    return failure();
  doutput = op.getDinput();
  SmallVector<Through> through;
  for (auto [number, index] : llvm::enumerate(of)) {
    const Captured &c = (*captured)[index];
    Region &region = op.getCaptureGradients()[number];
    if (failed(buildEpilogueGradient(region, *captured, c.value)))
      return failure();
    Value sum = sumCapture(c, op.getDcaptures()[number]);
    if (isOutputNorm(c.value))
      through.push_back({c.value, sum,
                         countLargest(c.value.getDefiningOp<attn::RowNormOp>(),
                                      fused.getQLen())});
    else if (isNorm(c.value))
      norms.emplace_back(c.value, sum);
    else if (failed(addResult(c.value, sum)))
      return failure();
  }
  if (through.empty())
    return success();
  return addThroughOutputNorms(op, *captured, through);
}
