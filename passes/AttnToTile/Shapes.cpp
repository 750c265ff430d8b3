//===- Shapes.cpp - Sizes that a call must agree on -----------------------===//
//
// Sizes that the types leave open are checked when a program is called, in
// words that name the argument. Each op is checked before what it makes gets
// memory.
//
//===----------------------------------------------------------------------===//

#include "passes/AttnToTile/ProgramBuilder.h"

#include "mlir/Dialect/Affine/Utils.h"
#include "mlir/IR/Matchers.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::programs;

//===----------------------------------------------------------------------===//
// Sizes
//===----------------------------------------------------------------------===//

Value ProgramBuilder::dimOf(Value tensor, int64_t tensorDim) {
  auto type = cast<RankedTensorType>(tensor.getType());
  if (!type.isDynamicDim(tensorDim))
    return arith::ConstantIndexOp::create(b, type.getDimSize(tensorDim));
  SmallVector<int64_t> order = orders.get(tensor);
  return tile::DimOp::create(b, inProgram.lookup(tensor),
                             llvm::find(order, tensorDim) - order.begin());
}

/// "query has {0} rows": the number is filled in by checkEqual.
Extent ProgramBuilder::extent(Value tensor, int64_t tensorDim, StringRef unit) {
  std::string name = names.lookup(tensor);
  if (name.empty())
    name = "an intermediate";
  return {dimOf(tensor, tensorDim), (name + " has {} " + unit).str()};
}

/// The sizes of a tensor, as they are.
SmallVector<Extent> ProgramBuilder::sizesOf(Value tensor) {
  SmallVector<Extent> sizes;
  int64_t rank = cast<RankedTensorType>(tensor.getType()).getRank();
  for (int64_t dim = 0; dim < rank; ++dim)
    sizes.push_back(
        extent(tensor, dim, "elements in dim " + std::to_string(dim)));
  return sizes;
}

//===----------------------------------------------------------------------===//
// Checks
//===----------------------------------------------------------------------===//

/// Replaces the placeholder of Extent::what by the number of a value.
static std::string numbered(const std::string &what, unsigned number) {
  size_t at = what.find("{}");
  return what.substr(0, at) + "{" + std::to_string(number) + "}" +
         what.substr(at + 2);
}

/// Sizes that the types state agree already, by the ops' verifiers.
static bool isStatic(const Extent &extent) {
  return matchPattern(extent.size, m_Constant());
}

void ProgramBuilder::checkEqual(const Extent &a, const Extent &c) {
  if (a.size == c.size || (isStatic(a) && isStatic(c)))
    return;
  Value same =
      arith::CmpIOp::create(b, arith::CmpIPredicate::eq, a.size, c.size);
  tile::CheckOp::create(b, same,
                        numbered(a.what, 0) + " but " + numbered(c.what, 1),
                        ValueRange{a.size, c.size});
}

/// S-gqa: any integer ratio; no key heads only if there are no query heads.
void ProgramBuilder::checkGroups(const Extent &heads, const Extent &keyHeads) {
  if (isStatic(heads) && isStatic(keyHeads))
    return;
  Value zero = arith::ConstantIndexOp::create(b, 0);
  Value one = arith::ConstantIndexOp::create(b, 1);
  Value divisor = arith::MaxUIOp::create(b, keyHeads.size, one);
  Value rest = arith::RemUIOp::create(b, heads.size, divisor);
  Value divides =
      arith::CmpIOp::create(b, arith::CmpIPredicate::eq, rest, zero);
  Value some =
      arith::CmpIOp::create(b, arith::CmpIPredicate::ne, keyHeads.size, zero);
  Value none =
      arith::CmpIOp::create(b, arith::CmpIPredicate::eq, heads.size, zero);
  Value fits = arith::OrIOp::create(b, some, none);
  tile::CheckOp::create(b, arith::AndIOp::create(b, divides, fits),
                        numbered(heads.what, 0) +
                            ", which is not a multiple of the " +
                            "{1} key heads",
                        ValueRange{heads.size, keyHeads.size});
}

/// Whether the largest value of `expr` is at the largest of its dims.
static bool isMonotonic(AffineExpr expr) {
  if (isa<AffineDimExpr>(expr))
    return true;
  if (auto constant = dyn_cast<AffineConstantExpr>(expr))
    return constant.getValue() >= 0;
  auto binary = dyn_cast<AffineBinaryOpExpr>(expr);
  return binary && binary.getKind() != AffineExprKind::Mod &&
         isMonotonic(binary.getLHS()) && isMonotonic(binary.getRHS());
}

/// S-bias: a captured operand must have exactly the elements that the
/// positions ask for, as far as the map lets that be known.
void ProgramBuilder::checkCapture(const attn::Capture &capture,
                                  ArrayRef<Extent> extents) {
  if (!isa<RankedTensorType>(capture.value.getType()) ||
      inWorkspace.contains(capture.value))
    return;
  for (auto [dim, expr] : llvm::enumerate(capture.map.getResults())) {
    std::string unit = ("elements in dim " + Twine(dim)).str();
    Extent own = extent(capture.value, dim, unit);
    if (auto position = dyn_cast<AffineDimExpr>(expr)) {
      checkEqual(own, extents[position.getPosition()]);
      continue;
    }
    if (!isMonotonic(expr))
      continue;
    Value one = arith::ConstantIndexOp::create(b, 1);
    SmallVector<Value> last;
    for (const Extent &e : extents)
      last.push_back(arith::SubIOp::create(b, e.size, one));
    Value needed = affine::expandAffineExpr(b, b.getLoc(), expr, last, {});
    needed = arith::AddIOp::create(b, needed, one);
    Value enough =
        arith::CmpIOp::create(b, arith::CmpIPredicate::sge, own.size, needed);
    tile::CheckOp::create(
        b, enough, numbered(own.what, 0) + " but the positions reach {1}",
        ValueRange{own.size, needed});
  }
}

void ProgramBuilder::checkCaptures(ValueRange values, ArrayAttr maps,
                                   ArrayRef<Extent> extents) {
  for (auto [value, map] : llvm::zip_equal(values, maps))
    checkCapture({value, cast<AffineMapAttr>(map).getValue()}, extents);
}

void ProgramBuilder::checkMasks(ValueRange masks, ArrayRef<Extent> extents) {
  for (Value mask : masks)
    for (const attn::Capture &capture :
         cast<attn::MaskOpInterface>(mask.getDefiningOp()).getMaskCaptures())
      checkCapture(capture, extents);
}

/// Query, key, value, lengths and masks.
template <typename Op> ProblemSizes ProgramBuilder::checkOperands(Op op) {
  attn::LayoutDims d = attn::getLayoutDims(op.getLayout());
  ProblemSizes sizes = {extent(op.getQuery(), d.b, "sequences"),
                        extent(op.getQuery(), d.h, "heads"),
                        extent(op.getQuery(), d.s, "rows"),
                        extent(op.getKey(), d.h, "heads"),
                        extent(op.getKey(), d.s, "rows"),
                        extent(op.getQuery(), d.d, "columns"),
                        extent(op.getValue(), d.d, "columns")};
  checkEqual(sizes.sequences, extent(op.getKey(), d.b, "sequences"));
  checkEqual(sizes.sequences, extent(op.getValue(), d.b, "sequences"));
  checkEqual(sizes.keyHeads, extent(op.getValue(), d.h, "heads"));
  checkEqual(sizes.keys, extent(op.getValue(), d.s, "rows"));
  checkGroups(sizes.heads, sizes.keyHeads);
  for (Value lengths : {op.getQLen(), op.getKLen()})
    if (lengths)
      checkEqual(extent(lengths, 0, "lengths"), sizes.sequences);
  return sizes;
}

ProblemSizes ProgramBuilder::checkShapes(attn::FusedOp op) {
  ProblemSizes sizes = checkOperands(op);
  auto &[sequences, heads, rows, keyHeads, keys, columns, valueColumns] = sizes;
  checkCaptures(op.getScoreCaptures(), op.getScoreMaps(),
                {sequences, heads, rows, keys});
  checkCaptures(op.getEpilogueCaptures(), op.getEpilogueMaps(),
                {sequences, heads, rows, valueColumns});
  checkMasks(op.getMasks(), {sequences, heads, rows, keys});
  provideResult(op.getOutput(), ProblemSizes::order(op.getLayout(), sequences,
                                                    heads, rows, valueColumns));
  if (op.getLse())
    provideResult(op.getLse(), {sequences, heads, rows});
  return sizes;
}

/// What attn.backward and attn.row_sums have in common.
template <typename Op>
ProblemSizes ProgramBuilder::checkBackwardOperands(Op op) {
  ProblemSizes sizes = checkOperands(op);
  attn::LayoutDims d = attn::getLayoutDims(op.getLayout());
  checkEqual(sizes.sequences, extent(op.getDoutput(), d.b, "sequences"));
  checkEqual(sizes.heads, extent(op.getDoutput(), d.h, "heads"));
  checkEqual(sizes.rows, extent(op.getDoutput(), d.s, "rows"));
  SmallVector<Extent> positions = {sizes.sequences, sizes.heads, sizes.rows,
                                   sizes.keys};
  checkCaptures(op.getCaptures(), op.getMaps(), positions);
  checkMasks(op.getMasks(), positions);
  return sizes;
}

ProblemSizes ProgramBuilder::checkShapes(attn::BackwardOp op) {
  return checkBackwardOperands(op);
}

ProblemSizes ProgramBuilder::checkShapes(attn::RowSumsOp op) {
  return checkBackwardOperands(op);
}

/// What an epilogue and its gradients read: (b, h, i, d) of the input.
template <typename Op>
SmallVector<Extent> ProgramBuilder::checkEpilogueOperands(Op op) {
  attn::LayoutDims d = attn::getLayoutDims(op.getLayout());
  SmallVector<Extent> positions = {extent(op.getInput(), d.b, "sequences"),
                                   extent(op.getInput(), d.h, "heads"),
                                   extent(op.getInput(), d.s, "rows"),
                                   extent(op.getInput(), d.d, "columns")};
  checkCaptures(op.getCaptures(), op.getMaps(), positions);
  if (op.getQLen())
    checkEqual(extent(op.getQLen(), 0, "lengths"), positions[0]);
  return positions;
}

SmallVector<Extent> ProgramBuilder::checkShapes(attn::EpilogueOp op) {
  return checkEpilogueOperands(op);
}

SmallVector<Extent> ProgramBuilder::checkShapes(attn::EpilogueGradientOp op) {
  return checkEpilogueOperands(op);
}

//===----------------------------------------------------------------------===//
// Memory of results
//===----------------------------------------------------------------------===//

/// A returned result is the caller's memory, whose sizes are checked; another
/// one is workspace. `sizes` are of the tensor's dims.
void ProgramBuilder::provideResult(Value result, ArrayRef<Extent> sizes) {
  if (inProgram.contains(result)) {
    for (auto [dim, size] : llvm::enumerate(sizes))
      checkEqual(extent(result, dim, "elements in dim " + std::to_string(dim)),
                 size);
    return;
  }
  tile::ViewType type = orders.getViewType(result);
  SmallVector<Value> dynamic;
  SmallVector<int64_t> order = orders.get(result);
  for (auto [viewDim, tensorDim] : llvm::enumerate(order))
    if (ShapedType::isDynamic(type.getShape()[viewDim]))
      dynamic.push_back(sizes[tensorDim].size);
  inProgram[result] = tile::WorkspaceOp::create(b, type, dynamic);
  inWorkspace.insert(result);
  ++workspaces;
}

void ProgramBuilder::provideLike(Value result, Value like) {
  provideResult(result, sizesOf(like));
}

/// Sums over j or i have a shape of their own, other gradients that of what
/// they are the gradient of.
template <typename Op>
void ProgramBuilder::provideCaptureGradients(Op op,
                                             ArrayRef<Extent> positions) {
  for (auto [number, index] : llvm::enumerate(op.getOf())) {
    Value result = op.getDcaptures()[number];
    if (result.use_empty())
      continue;
    AffineMap map = cast<AffineMapAttr>(op.getMaps()[index]).getValue();
    switch (attn::getCaptureKind(map)) {
    case attn::CaptureKind::Queries:
      provideResult(result, {positions[0], positions[1], positions[2]});
      break;
    case attn::CaptureKind::Keys:
      provideResult(result, {positions[0], positions[1], positions[3]});
      break;
    case attn::CaptureKind::Positions:
      provideLike(result, op.getCaptures()[index]);
      break;
    }
  }
}

template void ProgramBuilder::provideCaptureGradients(attn::BackwardOp,
                                                      ArrayRef<Extent>);
template void ProgramBuilder::provideCaptureGradients(attn::EpilogueGradientOp,
                                                      ArrayRef<Extent>);
