//===- Ops.cpp - One op after the other -----------------------------------===//
//
// Dispatches ops to what lowers them, lowers structured control flow to
// branches and copies scalar ops, which Scalars.cpp converts at the end.
//
//===----------------------------------------------------------------------===//

#include "passes/HopperToLLVM/KernelLowering.h"

#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::hopper;
using namespace attnc::hopper::lowering;

//===----------------------------------------------------------------------===//
// Structured control flow
//===----------------------------------------------------------------------===//

SmallVector<Type> KernelLowering::convertTypes(TypeRange types) {
  SmallVector<Type> out;
  for (Type type : types) {
    if (auto frag = dyn_cast<FragType>(type))
      out.append(frag.getCount(),
                 frag.getLayout() == Layout::A ? i32 : frag.getElementType());
    else if (isa<CursorType>(type))
      out.push_back(i32);
    else
      out.push_back(convertType(type));
  }
  return out;
}

LogicalResult KernelLowering::lowerBlock(Block &block) {
  for (Operation &op : block) {
    if (isa<scf::YieldOp>(op))
      continue;
    if (failed(lower(&op)))
      return failure();
  }
  return success();
}

/// Tested at the end, so that the body is one block for ptxas where it can be.
void KernelLowering::setEach(ValueRange values, ValueRange lowered) {
  for (Value value : values) {
    size_t count = convertTypes(value.getType()).size();
    set(value, Values(lowered.take_front(count)));
    lowered = lowered.drop_front(count);
  }
}

LogicalResult KernelLowering::lowerFor(scf::ForOp op) {
  Values init = {get(op.getLowerBound())};
  for (Value value : op.getInitArgs())
    llvm::append_range(init, getAll(value));
  SmallVector<Type> types(ValueRange(init).getTypes());
  SmallVector<Type> resultTypes(llvm::drop_begin(types));
  Block *body = newBlock(types), *done = newBlock(resultTypes);
  Value end = get(op.getUpperBound()), step = get(op.getStep());
  auto rest = [](Values &values) { return ValueRange(values).drop_front(); };
  branchIf(compare(arith::CmpIPredicate::slt, init[0], end), body, done, init,
           rest(init));
  at(body);
  set(op.getInductionVar(), {body->getArgument(0)});
  setEach(op.getRegionIterArgs(), body->getArguments().drop_front());
  if (failed(lowerBlock(*op.getBody())))
    return failure();
  Values next = {add(body->getArgument(0), step)};
  for (Value value : op.getBody()->getTerminator()->getOperands())
    llvm::append_range(next, getAll(value));
  branchIf(compare(arith::CmpIPredicate::slt, next[0], end), body, done, next,
           rest(next));
  at(done);
  setEach(op.getResults(), done->getArguments());
  return success();
}

LogicalResult KernelLowering::lowerIf(scf::IfOp op) {
  SmallVector<Type> types = convertTypes(op.getResultTypes());
  Block *yes = newBlock(), *done = newBlock(types);
  Block *no = op.elseBlock() ? newBlock() : done;
  branchIf(get(op.getCondition()), yes, no);
  for (auto [block, from] :
       {std::pair(yes, op.thenBlock()), std::pair(no, op.elseBlock())}) {
    if (!from)
      continue;
    at(block);
    if (failed(lowerBlock(*from)))
      return failure();
    Values out;
    for (Value value : from->getTerminator()->getOperands())
      llvm::append_range(out, getAll(value));
    branch(done, out);
  }
  at(done);
  setEach(op.getResults(), done->getArguments());
  return success();
}

//===----------------------------------------------------------------------===//
// Scalars
//===----------------------------------------------------------------------===//

/// Functions with one instruction on the special function unit. The flags of
/// the op decide between that and the exact form where there is one.
LogicalResult KernelLowering::lowerMath(Operation *op, ValueRange operands,
                                        Value &result) {
  auto unary = [&](StringRef name) {
    result = intrinsic(name, f32, operands[0]);
    return success();
  };
  if (op->getNumResults() != 1 || !op->getResult(0).getType().isF32())
    return failure();
  if (isa<math::Exp2Op>(op))
    return unary("llvm.nvvm.ex2.approx.ftz.f32");
  if (isa<math::Log2Op>(op))
    return unary("llvm.nvvm.lg2.approx.ftz.f");
  if (isa<math::RsqrtOp>(op))
    return unary("llvm.nvvm.rsqrt.approx.ftz.f");
  if (isa<math::SqrtOp>(op))
    return unary("llvm.nvvm.sqrt.approx.ftz.f");
  if (auto divide = dyn_cast<arith::DivFOp>(op)) {
    auto flags = arith::FastMathFlags::afn;
    bool fast = arith::bitEnumContainsAll(divide.getFastmath(), flags);
    // Correct rounding would take a subroutine call; two units in the last
    // place do not.
    if (!fast) {
      result = assembly("div.full.f32 $0, $1, $2;", "=f,f,f", f32, operands,
                        /*effects=*/false)[0];
      return success();
    }
    Value inverse = intrinsic("llvm.nvvm.rcp.approx.ftz.f", f32, operands[1]);
    APFloat one(1.0f);
    bool isOne = matchPattern(divide.getLhs(), m_ConstantFloat(&one)) &&
                 one.isExactlyValue(1.0);
    result = isOne ? inverse
                   : Value(arith::MulFOp::create(b, loc, operands[0], inverse));
    return success();
  }
  return failure();
}

/// Copies an op on scalars; `index` has 32 bits.
LogicalResult KernelLowering::lowerScalar(Operation *op,
                                          DenseMap<Value, Value> *local) {
  auto lookup = [&](Value value) -> Value {
    if (local)
      if (auto found = local->find(value); found != local->end())
        return found->second;
    return get(value);
  };
  auto store = [&](Value value, Value lowered) {
    if (local)
      (*local)[value] = lowered;
    else
      set(value, {lowered});
  };
  if (auto constantOp = dyn_cast<arith::ConstantOp>(op)) {
    TypedAttr value = constantOp.getValue();
    if (constantOp.getType().isIndex())
      value = b.getIntegerAttr(i32, cast<IntegerAttr>(value).getInt());
    store(constantOp, arith::ConstantOp::create(b, loc, value));
    return success();
  }
  Values operands;
  for (Value operand : op->getOperands())
    operands.push_back(lookup(operand));
  if (isa<arith::IndexCastOp, arith::IndexCastUIOp>(op)) {
    auto from = cast<IntegerType>(operands[0].getType());
    auto to = cast<IntegerType>(convertType(op->getResult(0).getType()));
    Value result = operands[0];
    if (from.getWidth() > to.getWidth())
      result = arith::TruncIOp::create(b, loc, to, result);
    else if (from.getWidth() < to.getWidth())
      result = isa<arith::IndexCastOp>(op)
                   ? Value(arith::ExtSIOp::create(b, loc, to, result))
                   : Value(arith::ExtUIOp::create(b, loc, to, result));
    store(op->getResult(0), result);
    return success();
  }
  Value result;
  if (succeeded(lowerMath(op, operands, result))) {
    store(op->getResult(0), result);
    return success();
  }
  StringRef dialect = op->getName().getDialectNamespace();
  if (op->getNumRegions() || (dialect != "arith" && dialect != "math"))
    return op->emitError("has no lowering to a GPU thread; formulas are "
                         "chosen by tile-select-formula");
  OperationState state(loc, op->getName());
  state.addOperands(operands);
  state.addTypes(convertTypes(op->getResultTypes()));
  state.addAttributes(op->getAttrs());
  if (op->getPropertiesStorage())
    state.propertiesAttr = op->getPropertiesAsAttribute();
  Operation *made = b.create(state);
  for (auto [old, value] : llvm::zip(op->getResults(), made->getResults()))
    store(old, value);
  return success();
}

//===----------------------------------------------------------------------===//
// Dispatch
//===----------------------------------------------------------------------===//

/// Within a panel, the swizzle follows the address.
void KernelLowering::lowerColumns(ColumnsOp op) {
  SmemType type = op.getResult().getType();
  int64_t bytes = type.getCols() == kPanelColumns ? type.getRows() * kPanelBytes
                                                  : type.getCols() * 2;
  set(op, {add(get(op.getSlot()), mul(get(op.getIndex()), bytes))});
}

LogicalResult KernelLowering::lower(Operation *op) {
  return TypeSwitch<Operation *, LogicalResult>(op)
      .Case<RingOp, ScratchOp>([&](auto) { return success(); })
      .Case<TensorMapOp>(
          [&](TensorMapOp map) { return lowerTensorMap(map), success(); })
      .Case<BlockOp>([&](BlockOp block) {
        set(block, {intrinsic("llvm.nvvm.read.ptx.sreg.ctaid.x", i32, {})});
        return success();
      })
      .Case<RankOp>([&](RankOp rank) {
        // Read where it is needed: it would be kept in a register.
        set(rank, assembly("mov.u32 $0, %cluster_ctarank;", "=r", i32, {}));
        return success();
      })
      .Case<GridOp>([&](GridOp grid) {
        set(grid, {intrinsic("llvm.nvvm.read.ptx.sreg.nctaid.x", i32, {})});
        return success();
      })
      .Case<StartOp>([&](StartOp start) {
        set(start, {constant(0)});
        return success();
      })
      .Case<AcquireOp>(
          [&](AcquireOp acquire) { return lowerAcquire(acquire), success(); })
      .Case<RowsOp>([&](RowsOp rows) {
        set(rows, {add(get(rows.getSlot()),
                       mul(get(rows.getIndex()), kWgmmaRows * kPanelBytes))});
        return success();
      })
      .Case<CommitOp>([&](CommitOp) {
        assembly("wgmma.commit_group.sync.aligned;", "", {}, {});
        return success();
      })
      .Case<SplatOp>([&](SplatOp splat) {
        set(splat, Values(splat.getFrag().getType().getCount(),
                          get(splat.getValue())));
        return success();
      })
      .Case<tile::DimOp>([&](tile::DimOp dim) {
        set(dim, {getSize(dim.getView(), dim.getDim())});
        return success();
      })
      .Case<tile::LoadScalarOp>([&](tile::LoadScalarOp load) {
        return lowerLoadScalar(load), success();
      })
      .Case<scf::ForOp>([&](scf::ForOp loop) { return lowerFor(loop); })
      .Case<scf::IfOp>([&](scf::IfOp choice) { return lowerIf(choice); })
      .Case<NextOp>([&](NextOp next) { return lowerNext(next), success(); })
      .Case<CopyOp>([&](CopyOp copy) { return lowerCopy(copy), success(); })
      .Case<CopyElementsOp>([&](CopyElementsOp copy) {
        return lowerCopyElements(copy), success();
      })
      .Case<AwaitOp>(
          [&](AwaitOp await) { return lowerAwait(await), success(); })
      .Case<ZeroRowsOp>(
          [&](ZeroRowsOp zero) { return lowerZeroRows(zero), success(); })
      .Case<PutOp>([&](PutOp put) { return lowerPut(put), success(); })
      .Case<PrefetchOp>([&](PrefetchOp prefetch) {
        return lowerPrefetch(prefetch), success();
      })
      .Case<PrefetchedOp>([&](PrefetchedOp) {
        assembly("cp.async.wait_all;\nbar.warp.sync 0xffffffff;", "", {}, {});
        return success();
      })
      .Case<FetchOp>(
          [&](FetchOp fetch) { return lowerFetch(fetch), success(); })
      .Case<ColumnsOp>(
          [&](ColumnsOp columns) { return lowerColumns(columns), success(); })
      .Case<ReleaseOp>(
          [&](ReleaseOp release) { return lowerRelease(release), success(); })
      .Case<WgmmaOp>(
          [&](WgmmaOp wgmma) { return lowerWgmma(wgmma), success(); })
      .Case<WaitOp>([&](WaitOp wait) { return lowerWait(wait), success(); })
      .Case<TurnInitOp, TurnWaitOp, TurnPassOp>([&](auto turn) {
        return lowerTurn(turn, turn.getConsumer()), success();
      })
      .Case<PinOp>([&](PinOp pin) { return lowerPin(pin), success(); })
      .Case<StoreOp>([&](StoreOp store) { return lowerStore(store); })
      .Case<LoadOp, MapOp, MaskOp, ConvertOp>(
          [&](auto each) { return lowerElements(each); })
      .Case<SpeculateOp>(
          [&](SpeculateOp guess) { return lowerSpeculate(guess); })
      .Case<ReduceOp>([&](ReduceOp reduce) { return lowerReduce(reduce); })
      .Default([&](Operation *other) { return lowerScalar(other); });
}
