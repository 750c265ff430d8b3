//===- Elementwise.cpp - Maps, masks, casts, reductions -------------------===//
//
// The regions of these ops are scalar. They are cloned with vector types: L
// neighbouring rows of a column (Panels) or L neighbouring columns of a row
// (Rows) at a time, row and column numbers as i32 vectors, captured scalars
// broadcast. Inside a region a value of a narrow float type is an f32 vector
// rounded after each op.
//
//===----------------------------------------------------------------------===//

#include "passes/TileToCpu/KernelEmitter.h"

#include "mlir/Dialect/Math/IR/Math.h"
#include "llvm/ADT/TypeSwitch.h"
#include <numeric>

using namespace mlir;
using namespace attnc;
using namespace attnc::cpu;

//===----------------------------------------------------------------------===//
// Traversal
//===----------------------------------------------------------------------===//

/// How an elementwise op walks over a shape. In Panels the outer index is the
/// panel and the inner one the column, in Rows the row and the first column
/// of a vector.
struct KernelEmitter::Traversal {
  tile::TileType shape;
  Layout layout;
  /// Columns at a time (Panels only).
  int64_t width = 1;
  /// `inner` is the first of `width` columns; rows and columns are vectors.
  llvm::function_ref<void(Code &, Value outer, Value inner, Value rows,
                          ValueRange cols)>
      body;
};

void KernelEmitter::traverse(Code &code, const Traversal &traversal) {
  int64_t lanes = unit.lanes;
  bool inPanels = traversal.layout == Layout::Panels;
  Type vector = code.vectorOf(code.getI32Type(), lanes);
  tile::TileType shape = traversal.shape;
  auto splat = [&](Code &c, Value i) {
    return c.broadcast(vector, c.toI32(i));
  };
  auto ramp = [&](Code &c, Value first) {
    return arith::AddIOp::create(c, splat(c, first), c.lanesIota(lanes))
        .getResult();
  };
  int64_t outerCount = inPanels ? panels(shape) : shape.getRows();
  int64_t step = inPanels ? traversal.width : lanes;
  code.loop(outerCount, [&](Code &o, Value outer) {
    Value rows = inPanels ? ramp(o, o.mul(outer, lanes)) : splat(o, outer);
    o.loop(o.i64(0), o.i64(shape.getCols()), step, [&](Code &c, Value inner) {
      Values cols;
      if (inPanels)
        for (int64_t i = 0; i < traversal.width; ++i)
          cols.push_back(splat(c, c.add(inner, i)));
      else
        cols.push_back(ramp(c, inner));
      traversal.body(c, outer, inner, rows, cols);
    });
  });
}

/// The stored vector of `input` for one step, broadcast where it has one row
/// or column.
Value KernelEmitter::element(Code &code, const Buffer &input,
                             const Traversal &traversal, Value outer,
                             Value inner) {
  Type vector = vectorOf(code, input.type.getElementType());
  Type single = storageType(input.type.getElementType());
  int64_t cols = input.type.getCols();
  bool oneRow = input.type.getRows() == 1 && traversal.shape.getRows() != 1;
  bool oneCol = cols == 1 && traversal.shape.getCols() != 1;
  if (traversal.layout == Layout::Panels) {
    Value panel = oneRow ? code.i64(0) : outer;
    Value column = oneCol ? code.i64(0) : inner;
    Value at = code.mul(code.add(code.mul(panel, cols), column), unit.lanes);
    Value pointer = address(code, input, at);
    return oneRow ? code.broadcast(vector, code.load(single, pointer, 4))
                  : code.load(vector, pointer, alignment());
  }
  Value row = oneRow ? code.i64(0) : outer;
  Value column = oneCol ? code.i64(0) : inner;
  Value at = code.add(code.mul(row, paddedCols(input.type)), column);
  Value pointer = address(code, input, at);
  return oneCol ? code.broadcast(vector, code.load(single, pointer, 4))
                : code.load(vector, pointer, alignment());
}

//===----------------------------------------------------------------------===//
// Region bodies
//===----------------------------------------------------------------------===//

/// Storage to what a region computes with: only integers differ.
Value KernelEmitter::toRegion(Code &code, Value stored, Type element) {
  if (isa<FloatType>(element) || element.isInteger(32))
    return stored;
  Type type = code.withElement(stored.getType(), element);
  return arith::TruncIOp::create(code, type, stored);
}

Value KernelEmitter::fromRegion(Code &code, Value value, Type element) {
  if (isa<FloatType>(element) || element.isInteger(32))
    return value;
  Type type = code.withElement(value.getType(), code.getI32Type());
  if (element.isInteger(1))
    return arith::ExtUIOp::create(code, type, value);
  return arith::ExtSIOp::create(code, type, value);
}

/// The element type that values of type `type` have in a vectorised region.
static Type regionElement(Type type) {
  return isNarrowFloat(type) ? Float32Type::get(type.getContext()) : type;
}

FailureOr<Value> KernelEmitter::cloneElementOp(Code &code, Operation *op,
                                               IRMapping &map) {
  auto unsupported = [&] {
    op->emitOpError("is not supported in a region of tile ops on the CPU, "
                    "which takes elementwise ops of arith and math on "
                    "scalars; tile-select-formula makes them of others");
    return failure();
  };
  Type type = op->getResult(0).getType();
  if (!type.isIntOrIndexOrFloat())
    return unsupported();
  Type vector = code.vectorOf(regionElement(type), unit.lanes);
  if (auto constant = dyn_cast<arith::ConstantOp>(op)) {
    if (auto number = dyn_cast<FloatAttr>(constant.getValue()))
      return code.real(vector, number.getValueAsDouble());
    return code.integer(
        vector,
        cast<IntegerAttr>(constant.getValue()).getValue().getSExtValue());
  }
  if (!isa<arith::ArithDialect, math::MathDialect>(op->getDialect()) ||
      !OpTrait::hasElementwiseMappableTraits(op))
    return unsupported();
  bool narrows = isNarrowFloat(type);
  if (isa<arith::ExtFOp>(op) && type.isF32())
    return map.lookup(op->getOperand(0));
  if (isa<arith::TruncFOp>(op) && narrows) {
    if (op->getOperand(0).getType().isF64())
      return unsupported();
    return roundTo(code, map.lookup(op->getOperand(0)), type);
  }
  bool narrowOperand = llvm::any_of(op->getOperandTypes(), isNarrowFloat);
  if (isa<arith::BitcastOp>(op) && (narrows || narrowOperand)) {
    op->emitOpError("of a narrow float is not supported on the CPU");
    return failure();
  }
  Operation *clone = code.clone(*op, map);
  clone->getResult(0).setType(vector);
  Value result = clone->getResult(0);
  return narrows && !isa<arith::SelectOp>(op) ? roundTo(code, result, type)
                                              : result;
}

/// Clones the block for vectors of `arguments`; gives what it yields.
FailureOr<Values> KernelEmitter::cloneBody(Code &code, mlir::Block &block,
                                           ValueRange arguments) {
  IRMapping map;
  map.map(block.getArguments(), arguments);
  auto broadcastOutside = [&](Value operand) {
    if (map.contains(operand))
      return success();
    Value outside = scalars.lookupOrNull(operand);
    if (!outside)
      return failure();
    Type vector = code.vectorOf(outside.getType(), unit.lanes);
    map.map(operand, code.broadcast(vector, outside));
    return success();
  };
  for (Operation &op : block) {
    for (Value operand : op.getOperands())
      if (failed(broadcastOutside(operand))) {
        op.emitOpError("uses a value in a region of tile ops that is "
                       "neither an element nor a scalar");
        return failure();
      }
    if (isa<tile::YieldOp>(op))
      break;
    if (op.getNumResults() != 1) {
      op.emitOpError("is not supported in a region of tile ops");
      return failure();
    }
    FailureOr<Value> result = cloneElementOp(code, &op, map);
    if (failed(result))
      return failure();
    map.map(op.getResult(0), *result);
  }
  Values yielded;
  for (Value value : block.getTerminator()->getOperands())
    yielded.push_back(map.lookup(value));
  return yielded;
}

//===----------------------------------------------------------------------===//
// tile.map, tile.cast, tile.splat
//===----------------------------------------------------------------------===//

LogicalResult KernelEmitter::emitMap(Code &code, tile::MapOp op) {
  tile::TileType type = op.getResult().getType();
  Layout layout = wantedLayout(op.getResult());
  SmallVector<Buffer> inputs;
  for (Value input : op.getInputs())
    inputs.push_back(get(code, input, layout));
  Buffer result = reuse(op.getInputs(), op, type, layout);
  LogicalResult status = success();

  Traversal traversal{type, layout, static_cast<int64_t>(op.getWidth()), {}};
  auto body = [&](Code &c, Value outer, Value inner, Value rows,
                  ValueRange cols) {
    Values arguments;
    for (const Buffer &input : inputs)
      for (int64_t i = 0; i < traversal.width; ++i)
        arguments.push_back(
            toRegion(c, element(c, input, traversal, outer, c.add(inner, i)),
                     input.type.getElementType()));
    arguments.append({rows, cols.front()});
    FailureOr<Values> yielded = cloneBody(c, op.getBody().front(), arguments);
    if (failed(yielded)) {
      status = failure();
      return;
    }
    Buffer whole = result;
    for (auto [i, value] : llvm::enumerate(*yielded)) {
      Value at =
          layout == Layout::Panels
              ? c.mul(c.add(c.mul(outer, type.getCols()), c.add(inner, i)),
                      unit.lanes)
              : c.add(c.mul(outer, paddedCols(type)), inner);
      c.store(fromRegion(c, value, type.getElementType()),
              address(c, whole, at), alignment());
    }
  };
  traversal.body = body;
  traverse(code, traversal);
  define(op.getResult(), result);
  return status;
}

/// From one element type to another, both as stored.
static FailureOr<Value> convert(Code &code, tile::CastOp op, Value stored,
                                Type from, Type to) {
  Type storage = code.withElement(stored.getType(), storageType(to));
  bool fromFloat = isa<FloatType>(from), toFloat = isa<FloatType>(to);
  if (fromFloat && toFloat) {
    bool narrows = isNarrowFloat(to) && from != to;
    return narrows ? roundTo(code, stored, to) : stored;
  }
  if (toFloat) {
    Value number = arith::SIToFPOp::create(code, storage, stored);
    return isNarrowFloat(to) ? roundTo(code, number, to) : number;
  }
  if (fromFloat) {
    op.emitOpError() << "from " << from << " to " << to
                     << " is not supported on the CPU";
    return failure();
  }
  if (to.isInteger(32) || from == to)
    return stored;
  Type narrow = code.withElement(stored.getType(), to);
  Value cut = arith::TruncIOp::create(code, narrow, stored);
  return to.isInteger(1) ? Value(arith::ExtUIOp::create(code, storage, cut))
                         : Value(arith::ExtSIOp::create(code, storage, cut));
}

LogicalResult KernelEmitter::emitCast(Code &code, tile::CastOp op) {
  tile::TileType type = op.getResult().getType();
  Type from = op.getInput().getType().getElementType();
  Type to = type.getElementType();
  Layout layout = wantedLayout(op.getResult());
  Buffer input = get(code, op.getInput(), layout);
  Buffer result = reuse(op.getInput(), op, type, layout);
  define(op.getResult(), result);
  // f32 holds every number of a narrower type: nothing to do in place.
  bool widens = isa<FloatType>(from) && to.isF32();
  if (widens && input.offset == result.offset)
    return success();
  LogicalResult status = success();
  Type vector = vectorOf(code, to);
  (void)vector;
  int64_t count = bytes(type, layout) / (unit.lanes * 4);
  code.loop(count, [&](Code &c, Value i) {
    Value at = c.mul(i, unit.lanes);
    Value stored =
        c.load(vectorOf(c, from), address(c, input, at), alignment());
    FailureOr<Value> value = convert(c, op, stored, from, to);
    if (failed(value))
      status = failure();
    else
      c.store(*value, address(c, result, at), alignment());
  });
  return status;
}

LogicalResult KernelEmitter::emitSplat(Code &code, tile::SplatOp op) {
  tile::TileType type = op.getTile().getType();
  Layout layout = wantedLayout(op.getTile());
  Buffer result = allocate(type, layout);
  Value value = scalar(op.getValue());
  if (value.getType().isIndex())
    value = arith::IndexCastOp::create(code, code.getI32Type(), value);
  Value vector =
      code.broadcast(code.vectorOf(value.getType(), unit.lanes), value);
  code.loop(bytes(type, layout) / (unit.lanes * 4), [&](Code &c, Value i) {
    c.store(vector, address(c, result, c.mul(i, unit.lanes)), alignment());
  });
  define(op.getTile(), result);
  return success();
}

//===----------------------------------------------------------------------===//
// tile.mask, tile.speculate
//===----------------------------------------------------------------------===//

LogicalResult KernelEmitter::emitMask(Code &code, tile::MaskOp op) {
  tile::TileType type = op.getResult().getType();
  Type elementType = type.getElementType();
  SmallVector<Buffer> captured;
  for (Value value : op.getCaptured())
    captured.push_back(get(code, value, Layout::Panels));
  Buffer result = consume(code, op.getInput(), Layout::Panels, op);
  LogicalResult status = success();

  Traversal traversal{type, Layout::Panels, 1, {}};
  auto body = [&](Code &c, Value outer, Value inner, Value rows,
                  ValueRange cols) {
    Values arguments{rows, cols.front()};
    for (const Buffer &buffer : captured)
      arguments.push_back(toRegion(c,
                                   element(c, buffer, traversal, outer, inner),
                                   buffer.type.getElementType()));
    FailureOr<Values> keep = cloneBody(c, op.getBody().front(), arguments);
    if (failed(keep)) {
      status = failure();
      return;
    }
    Type vector = vectorOf(c, elementType);
    double fill = op.getFill().convertToDouble();
    Value filled = isa<FloatType>(elementType)
                       ? c.real(vector, fill)
                       : c.integer(vector, static_cast<int64_t>(fill));
    Value at = c.mul(c.add(c.mul(outer, type.getCols()), inner), unit.lanes);
    Value pointer = address(c, result, at);
    Value input = c.load(vector, pointer, alignment());
    c.store(arith::SelectOp::create(c, keep->front(), input, filled), pointer,
            alignment());
  };
  traversal.body = body;
  if (isFull)
    code.onlyIf(
        code.compare(arith::CmpIPredicate::eq, isFull, code.flag(false)),
        [&](Code &c) { traverse(c, traversal); });
  else
    traverse(code, traversal);
  define(op.getResult(), result);
  return status;
}

/// Columns decided on at once: what stays in registers, and as many as each
/// formula computes.
static int64_t cpuSlice(tile::SpeculateOp op) {
  int64_t slice = op.getSlice(), widest = 1;
  for (Region &formula : op.getFast())
    widest = std::lcm(widest, tile::getFormulaWidth(formula));
  for (int64_t width : {4, 3, 2})
    if (slice % width == 0 && width % widest == 0)
      return width;
  return widest;
}

/// What elements share between the formulas, and for each limit the lanes that
/// keep it.
struct KernelEmitter::Guarded {
  SmallVector<Values> shared;
  Values holds;
};

/// The common part of one element; `arguments` end with row and column.
LogicalResult KernelEmitter::emitCommon(Code &code, tile::SpeculateOp op,
                                        const Values &arguments, Guarded &out) {
  FailureOr<Values> common = cloneBody(code, op.getCommon().front(), arguments);
  if (failed(common))
    return failure();
  Value guard = common->front();
  for (auto [limit, all] : llvm::zip_equal(op.getLimits(), out.holds)) {
    Value bound = code.real(guard.getType(), limit);
    Value low =
        arith::CmpFOp::create(code, arith::CmpFPredicate::OLE, guard, bound);
    all = all ? code.both(all, low) : low;
  }
  Values rest(llvm::drop_begin(*common));
  rest.append(arguments.end() - 2, arguments.end());
  out.shared.push_back(std::move(rest));
  return success();
}

LogicalResult KernelEmitter::applyFormula(Code &code, Region &formula,
                                          ArrayRef<Values> shared, Type element,
                                          Values &results) {
  size_t width = tile::getFormulaWidth(formula);
  for (; !shared.empty(); shared = shared.drop_front(width)) {
    Values arguments;
    for (size_t i = 0; i + 2 < shared.front().size(); ++i)
      for (const Values &values : shared.take_front(width))
        arguments.push_back(values[i]);
    arguments.append(shared.front().end() - 2, shared.front().end());
    FailureOr<Values> made = cloneBody(code, formula.front(), arguments);
    if (failed(made))
      return failure();
    for (Value value : *made)
      results.push_back(fromRegion(code, value, element));
  }
  return success();
}

LogicalResult KernelEmitter::emitSpeculate(Code &code, tile::SpeculateOp op) {
  tile::TileType type = op.getResult().getType();
  SmallVector<Buffer> inputs;
  for (Value input : op.getInputs())
    inputs.push_back(get(code, input, Layout::Panels));
  Buffer result = reuse(op.getInputs(), op, type, Layout::Panels);
  LogicalResult status = success();

  Traversal traversal{type, Layout::Panels, cpuSlice(op), {}};
  auto body = [&](Code &c, Value outer, Value inner, Value rows,
                  ValueRange cols) {
    Guarded guarded;
    guarded.holds.resize(op.getLimits().size());
    for (auto [i, col] : llvm::enumerate(cols)) {
      Values arguments;
      for (const Buffer &input : inputs)
        arguments.push_back(
            toRegion(c, element(c, input, traversal, outer, c.add(inner, i)),
                     input.type.getElementType()));
      arguments.append({rows, col});
      if (failed(emitCommon(c, op, arguments, guarded))) {
        status = failure();
        return;
      }
    }
    auto apply = [&](Code &branch, Region &formula) {
      Values results;
      if (failed(applyFormula(branch, formula, guarded.shared,
                              type.getElementType(), results)))
        status = failure();
      return results;
    };
    SmallVector<Type> types(cols.size(), vectorOf(c, type.getElementType()));
    std::function<Values(Code &, size_t)> select = [&](Code &branch, size_t k) {
      if (k == guarded.holds.size())
        return apply(branch, op.getExact());
      Value all = vector::ReductionOp::create(
          branch, vector::CombiningKind::AND, guarded.holds[k]);
      return branch.choose(
          all, types, [&](Code &then) { return apply(then, op.getFast()[k]); },
          [&](Code &otherwise) { return select(otherwise, k + 1); });
    };
    Values elements = select(c, 0);
    for (auto [i, value] : llvm::enumerate(elements)) {
      Value column = c.add(c.mul(outer, type.getCols()), c.add(inner, i));
      c.store(value, address(c, result, c.mul(column, unit.lanes)),
              alignment());
    }
  };
  traversal.body = body;
  traverse(code, traversal);
  define(op.getResult(), result);
  return status;
}

//===----------------------------------------------------------------------===//
// tile.reduce
//===----------------------------------------------------------------------===//

static Value combine(Code &code, tile::Reduction kind, Value a, Value b) {
  bool isFloat = isa<FloatType>(getElementTypeOrSelf(a.getType()));
  if (kind == tile::Reduction::Add)
    return isFloat ? Value(arith::AddFOp::create(code, a, b))
                   : Value(arith::AddIOp::create(code, a, b));
  // One instruction, which gives b where either is NaN.
  Value greater =
      isFloat
          ? Value(arith::CmpFOp::create(code, arith::CmpFPredicate::OGT, a, b))
          : Value(arith::CmpIOp::create(code, arith::CmpIPredicate::sgt, a, b));
  return arith::SelectOp::create(code, greater, a, b);
}

LogicalResult KernelEmitter::emitReduce(Code &code, tile::ReduceOp op) {
  tile::TileType type = op.getInput().getType();
  Type elementType = type.getElementType();
  Buffer input = get(code, op.getInput(), Layout::Panels);
  Buffer result = allocate(op.getResult().getType(), Layout::Panels);
  Type vector = vectorOf(code, elementType);
  int64_t cols = type.getCols();
  // Several sums hide the latency of one.
  int64_t sums = std::min<int64_t>(4, cols);
  code.loop(panels(type), [&](Code &c, Value panel) {
    auto column = [&](Code &inner, Value col) {
      Value at = inner.add(inner.mul(panel, cols), col);
      return inner.load(vector,
                        address(inner, input, inner.mul(at, unit.lanes)),
                        alignment());
    };
    Values partial;
    for (int64_t i = 0; i < sums; ++i)
      partial.push_back(column(c, c.i64(i)));
    int64_t whole = cols / sums * sums;
    partial =
        c.loop(c.i64(sums), c.i64(whole), sums, partial,
               [&](Code &inner, Value col, ValueRange carried) {
                 Values next;
                 for (int64_t i = 0; i < sums; ++i)
                   next.push_back(combine(inner, op.getKind(), carried[i],
                                          column(inner, inner.add(col, i))));
                 return next;
               });
    Value total = partial.front();
    for (Value value : llvm::drop_begin(partial))
      total = combine(c, op.getKind(), total, value);
    for (int64_t i = whole; i < cols; ++i)
      total = combine(c, op.getKind(), total, column(c, c.i64(i)));
    if (isNarrowFloat(elementType))
      total = roundTo(c, total, elementType);
    c.store(total, address(c, result, c.mul(panel, unit.lanes)), alignment());
  });
  define(op.getResult(), result);
  return success();
}
