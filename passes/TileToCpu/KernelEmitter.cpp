//===- KernelEmitter.cpp - Turns a tile.kernel into loops -----------------===//

#include "passes/TileToCpu/KernelEmitter.h"

#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::cpu;
using Predicate = arith::CmpIPredicate;

KernelEmitter::KernelEmitter(tile::KernelOp kernel, VectorUnit unit,
                             SymbolTable &symbols)
    : kernel(kernel), unit(unit), symbols(symbols) {}

//===----------------------------------------------------------------------===//
// The function
//===----------------------------------------------------------------------===//

/// Arguments are 64-bit slots: a view of rank r is a pointer, r sizes and r
/// strides, anything else one slot.
void KernelEmitter::unpackArguments(func::FuncOp function) {
  Code code(kernel.getLoc(),
            OpBuilder::atBlockEnd(&function.getBody().front()));
  Value slots = function.getArgument(0);
  int64_t next = 0;
  auto slot = [&](Type type) {
    Value pointer = code.at(code.getI64Type(), slots, code.i64(next++));
    return code.load(type, pointer, 8);
  };
  for (BlockArgument argument : kernel.getBody().getArguments()) {
    auto type = dyn_cast<tile::ViewType>(argument.getType());
    if (!type) {
      bool isIndex = argument.getType().isIndex();
      Value value = slot(isIndex ? code.getI64Type() : argument.getType());
      scalars.map(argument, isIndex ? code.toIndex(value) : value);
      continue;
    }
    View view;
    view.element = type.getElementType();
    view.pointer = slot(LLVM::LLVMPointerType::get(code.getContext()));
    for (int64_t size : type.getShape()) {
      Value runTime = slot(code.getI64Type());
      view.sizes.push_back(ShapedType::isDynamic(size) ? runTime
                                                       : code.i64(size));
    }
    for (int64_t dim = 0; dim < type.getRank(); ++dim)
      view.strides.push_back(slot(code.getI64Type()));
    views[argument] = std::move(view);
  }
}

/// The coordinates of an item; the last varies fastest.
Values KernelEmitter::delinearise(Value item, ValueRange counts) {
  Code code(kernel.getLoc(), OpBuilder::atBlockEnd(item.getParentBlock()));
  Values coordinates(counts.size());
  for (int64_t dim = counts.size() - 1; dim >= 0; --dim) {
    Value count = index(code, counts[dim]);
    coordinates[dim] =
        dim ? Value(arith::RemUIOp::create(code, item, count)) : item;
    if (dim)
      item = arith::DivUIOp::create(code, item, count);
  }
  return coordinates;
}

/// Tiles live in memory of the thread: refuses what no cache would hold,
/// before a size overflows.
LogicalResult KernelEmitter::checkTiles() {
  constexpr int64_t mostElements = int64_t(1) << 24;
  auto check = [&](Operation *op) -> WalkResult {
    for (Type type : op->getResultTypes()) {
      auto tile = dyn_cast<tile::TileType>(type);
      if (!tile || (tile.getRows() <= mostElements &&
                    tile.getCols() <= mostElements / tile.getRows()))
        continue;
      op->emitOpError() << "makes " << tile << ", but a tile on the CPU has "
                        << "at most " << mostElements
                        << " elements; choose a smaller block_m or block_n";
      return WalkResult::interrupt();
    }
    return WalkResult::advance();
  };
  return failure(kernel.walk(check).wasInterrupted());
}

FailureOr<func::FuncOp> KernelEmitter::emit() {
  OpBuilder builder(kernel);
  Type pointer = LLVM::LLVMPointerType::get(kernel.getContext());
  auto type =
      builder.getFunctionType({pointer, builder.getI64Type(), pointer}, {});
  auto function =
      func::FuncOp::create(builder, kernel.getLoc(), kernel.getSymName(), type);
  Block *entry = function.addEntryBlock();
  scratch = function.getArgument(2);
  unpackArguments(function);

  Code code(kernel.getLoc(), OpBuilder::atBlockEnd(entry));
  tile::ItemsOp items = kernel.getItems();
  for (Operation &op : kernel.getBody().front().without_terminator())
    if (&op != items && failed(emitOp(code, &op)))
      return failure();
  Values coordinates = delinearise(function.getArgument(1), items.getCounts());
  for (auto [argument, value] :
       llvm::zip_equal(items.getBody().getArguments(), coordinates))
    scalars.map(argument, code.toIndex(value));
  if (failed(checkTiles()) || failed(emitBlock(code, items.getBody().front())))
    return failure();
  func::ReturnOp::create(code);
  function->setAttr("attnc.scratch", builder.getI64IntegerAttr(scratchBytes));
  return function;
}

//===----------------------------------------------------------------------===//
// Ops
//===----------------------------------------------------------------------===//

LogicalResult KernelEmitter::emitBlock(Code &code, Block &block) {
  findLastUses(block);
  for (Operation &op : block) {
    if (isa<tile::YieldOp, scf::YieldOp>(op))
      break;
    if (failed(emitOp(code, &op)))
      return failure();
    releaseDying(&op);
  }
  return success();
}

LogicalResult KernelEmitter::emitOp(Code &code, Operation *op) {
  code.setLoc(op->getLoc());
  return llvm::TypeSwitch<Operation *, LogicalResult>(op)
      .Case([&](tile::LoadOp o) { return emitLoad(code, o); })
      .Case([&](tile::StoreOp o) { return emitStore(code, o); })
      .Case([&](tile::LoadScalarOp o) { return emitLoadScalar(code, o); })
      .Case([&](tile::DotOp o) { return emitDot(code, o); })
      .Case([&](tile::MapOp o) { return emitMap(code, o); })
      .Case([&](tile::MaskOp o) { return emitMask(code, o); })
      .Case([&](tile::SpeculateOp o) { return emitSpeculate(code, o); })
      .Case([&](tile::CastOp o) { return emitCast(code, o); })
      .Case([&](tile::SplatOp o) { return emitSplat(code, o); })
      .Case([&](tile::ReduceOp o) { return emitReduce(code, o); })
      .Case([&](tile::ForKeysOp o) { return emitForKeys(code, o); })
      .Case([&](scf::ForOp o) { return emitFor(code, o); })
      .Case([&](scf::IfOp o) { return emitIf(code, o); })
      .Case([&](tile::DimOp o) {
        const View &view = views.at(o.getView());
        scalars.map(o.getSize(), code.toIndex(view.sizes[o.getDim()]));
        return success();
      })
      .Default([&](Operation *o) { return emitScalar(code, o); });
}

LogicalResult KernelEmitter::emitScalar(Code &code, Operation *op) {
  bool plain = op->getNumRegions() == 0 &&
               llvm::all_of(op->getOperands(), [&](Value operand) {
                 return scalars.contains(operand);
               });
  if (!plain || !isa<arith::ArithDialect, math::MathDialect>(op->getDialect()))
    return op->emitOpError(
        "is not supported by the CPU target; it takes tile ops after "
        "tile-online-softmax and tile-select-formula, scf.for, scf.if and "
        "scalar arith and math ops");
  code.clone(*op, scalars);
  return success();
}

//===----------------------------------------------------------------------===//
// Loops and branches
//===----------------------------------------------------------------------===//

/// Copies tiles all at once: no source is overwritten before it is read.
void KernelEmitter::moveTiles(Code &code, ValueRange from,
                              ArrayRef<Buffer> to) {
  SmallVector<Buffer> sources;
  bool overlap = false;
  for (auto [i, value] : llvm::enumerate(from)) {
    sources.push_back(get(value));
    for (auto [j, target] : llvm::enumerate(to))
      overlap |= i != j && sources.back().offset == target.offset;
  }
  if (overlap)
    for (Buffer &source : sources) {
      Buffer temporary = allocate(source.type, source.layout);
      copy(code, source, temporary);
      temporaries.push_back(temporary);
      source = temporary;
    }
  for (auto [source, target] : llvm::zip_equal(sources, to))
    if (source.offset != target.offset)
      copy(code, source, target);
}

/// Splits values into tiles and others.
static std::pair<Values, Values> splitTiles(ValueRange values) {
  Values tiles, others;
  for (Value value : values)
    (isa<tile::TileType>(value.getType()) ? tiles : others).push_back(value);
  return {tiles, others};
}

/// Views stay where they are: an access must know its view.
static LogicalResult checkCarried(Operation *op, ValueRange values) {
  for (Type type : values.getTypes())
    if (isa<tile::ViewType>(type))
      return op->emitOpError() << "cannot carry a view (" << type
                               << ") on the CPU; carry coordinates";
  return success();
}

LogicalResult
KernelEmitter::emitLoop(Code &code, Operation *op, Value lower, Value upper,
                        Value step, ValueRange inits,
                        llvm::function_ref<void(Code &, Value)> bindIndex) {
  if (failed(checkCarried(op, inits)))
    return failure();
  Block &block = op->getRegion(0).front();
  auto [tileInits, scalarInits] = splitTiles(inits);
  auto [tileArguments, scalarArguments] =
      splitTiles(block.getArguments().drop_front());
  auto [tileResults, scalarResults] = splitTiles(op->getResults());
  auto [tileYields, scalarYields] =
      splitTiles(block.getTerminator()->getOperands());

  // Carried tiles stay in one place for the whole loop.
  SmallVector<Buffer> carried;
  for (auto [init, argument] : llvm::zip_equal(tileInits, tileArguments)) {
    carried.push_back(consume(code, init, Layout::Panels, op));
    ++pins[carried.back().offset];
    define(argument, carried.back());
  }
  Values starts;
  for (Value init : scalarInits)
    starts.push_back(scalar(init));

  auto loop = scf::ForOp::create(code, lower, upper, step, starts);
  Code inner(op->getLoc(), OpBuilder::atBlockBegin(loop.getBody()));
  for (auto [argument, value] :
       llvm::zip_equal(scalarArguments, loop.getRegionIterArgs()))
    scalars.map(argument, value);
  bindIndex(inner, loop.getInductionVar());
  if (failed(emitBlock(inner, block)))
    return failure();
  moveTiles(inner, tileYields, carried);
  releaseDying(block.getTerminator());
  if (!scalarYields.empty() || loop.getBody()->empty() ||
      !loop.getBody()->back().hasTrait<OpTrait::IsTerminator>()) {
    Values next;
    for (Value value : scalarYields)
      next.push_back(scalar(value));
    scf::YieldOp::create(inner, next);
  }

  for (auto [result, value] : llvm::zip_equal(scalarResults, loop.getResults()))
    scalars.map(result, value);
  for (auto [result, argument, buffer] :
       llvm::zip_equal(tileResults, tileArguments, carried)) {
    if (--pins[buffer.offset] == 0)
      pins.erase(buffer.offset);
    tiles.erase(argument);
    define(result, buffer);
  }
  return success();
}

LogicalResult KernelEmitter::emitForKeys(Code &code, tile::ForKeysOp op) {
  Value lo = index(code, op.getLo()), hi = index(code, op.getHi());
  Value fullLo = index(code, op.getFullLo());
  Value fullHi = index(code, op.getFullHi());
  int64_t step = op.getStep();
  Value begin = code.mul(code.floorDiv(lo, step), step);
  Value some = code.compare(Predicate::slt, lo, hi);
  Value end = code.select(some, hi, begin);
  // One body: in a full block a branch skips each mask, which costs nothing
  // beside a product and keeps the code a third of what peeling makes.
  Value outer = isFull;
  LogicalResult status = emitLoop(
      code, op, begin, end, code.i64(step), op.getInits(),
      [&](Code &inner, Value key) {
        scalars.map(op.getKey(), inner.toIndex(key));
        isFull = inner.both(
            inner.compare(Predicate::sge, key, fullLo),
            inner.compare(Predicate::sle, inner.add(key, step), fullHi));
      });
  isFull = outer;
  return status;
}

LogicalResult KernelEmitter::emitFor(Code &code, scf::ForOp op) {
  bool isIndex = op.getInductionVar().getType().isIndex();
  auto bound = [&](Value value) {
    return isIndex ? index(code, value) : scalar(value);
  };
  return emitLoop(code, op, bound(op.getLowerBound()),
                  bound(op.getUpperBound()), bound(op.getStep()),
                  op.getInitArgs(), [&](Code &inner, Value value) {
                    scalars.map(op.getInductionVar(),
                                isIndex ? inner.toIndex(value) : value);
                  });
}

LogicalResult KernelEmitter::emitIf(Code &code, scf::IfOp op) {
  if (failed(checkCarried(op, op.getResults())))
    return failure();
  auto [tileResults, scalarResults] = splitTiles(op.getResults());
  SmallVector<Buffer> results;
  for (Value result : tileResults)
    results.push_back(
        allocate(cast<tile::TileType>(result.getType()), Layout::Panels));
  auto branch =
      scf::IfOp::create(code, ValueRange(scalarResults).getTypes(),
                        scalar(op.getCondition()), /*addThenBlock=*/true,
                        /*addElseBlock=*/!op.getElseRegion().empty());
  auto emitBranch = [&](Region &from, Region &to) {
    Code inner(op.getLoc(), OpBuilder::atBlockBegin(&to.front()));
    if (failed(emitBlock(inner, from.front())))
      return failure();
    Operation *yield = from.front().getTerminator();
    auto [tileYields, scalarYields] = splitTiles(yield->getOperands());
    moveTiles(inner, tileYields, results);
    releaseDying(yield);
    Values values;
    for (Value value : scalarYields)
      values.push_back(scalar(value));
    if (to.front().empty() ||
        !to.front().back().hasTrait<OpTrait::IsTerminator>())
      scf::YieldOp::create(inner, values);
    return success();
  };
  if (failed(emitBranch(op.getThenRegion(), branch.getThenRegion())))
    return failure();
  if (!op.getElseRegion().empty() &&
      failed(emitBranch(op.getElseRegion(), branch.getElseRegion())))
    return failure();
  for (auto [result, value] :
       llvm::zip_equal(scalarResults, branch.getResults()))
    scalars.map(result, value);
  for (auto [result, buffer] : llvm::zip_equal(tileResults, results))
    define(result, buffer);
  return success();
}
