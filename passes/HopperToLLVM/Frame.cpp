//===- Frame.cpp - What every kernel begins and ends with -----------------===//
//
// Parameters, which the launcher fills as the attribute `attnc.kernel` says;
// what lies where in shared memory; and the entry, where barriers are made and
// threads part to become the producer and the consumers.
//
//===----------------------------------------------------------------------===//

#include "passes/HopperToLLVM/KernelLowering.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::hopper;
using namespace attnc::hopper::lowering;

//===----------------------------------------------------------------------===//
// Parameters
//===----------------------------------------------------------------------===//

unsigned lowering::argumentNumber(Value view) {
  return cast<BlockArgument>(view).getArgNumber();
}

Value KernelLowering::getParam(ParamKind kind, unsigned arg, int64_t dim) {
  Value &param = params[{kind, arg, dim}];
  if (param)
    return param;
  MLIRContext *context = b.getContext();
  auto recipe = [&](StringRef name, bool hasArg, bool hasDim) {
    NamedAttrList list;
    list.set("kind", b.getStringAttr(name));
    if (hasArg)
      list.set("arg", b.getI64IntegerAttr(arg));
    if (hasDim)
      list.set("dim", b.getI64IntegerAttr(dim));
    recipes.push_back(list.getDictionary(context));
    paramAttrs.push_back(b.getDictionaryAttr({}));
  };
  Type type = i64;
  switch (kind) {
  case ParamKind::Pointer:
    type = LLVM::LLVMPointerType::get(context, kGlobalSpace);
    recipe("pointer", true, false);
    break;
  case ParamKind::Size:
    recipe("size", true, true);
    break;
  case ParamKind::Stride:
    recipe("stride", true, true);
    break;
  case ParamKind::Items:
    recipe("items", false, false);
    break;
  case ParamKind::Scalar:
    type = kernel.getArgumentTypes()[arg];
    type = type.isIndex() ? i64 : type;
    recipe("scalar", true, false);
    break;
  case ParamKind::TensorMap:
    break; // Made where the recipe is known.
  }
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(entry);
  param = entry->addArgument(type, loc);
  // Sizes and indices are computed with 32 bits, strides with 64.
  if (kind == ParamKind::Size || (kind == ParamKind::Scalar && type == i64))
    param = arith::TruncIOp::create(b, loc, i32, param);
  return param;
}

/// What `value` was lowered to; scalar arguments become parameters when used.
ArrayRef<Value> KernelLowering::getAll(Value value) {
  Values &lowered = values[value.getAsOpaquePointer()];
  if (lowered.empty())
    lowered.push_back(
        getParam(ParamKind::Scalar, cast<BlockArgument>(value).getArgNumber()));
  return lowered;
}

Value KernelLowering::getSize(Value view, int64_t dim) {
  int64_t size = cast<tile::ViewType>(view.getType()).getShape()[dim];
  if (!ShapedType::isDynamic(size))
    return constant(size);
  return getParam(ParamKind::Size, argumentNumber(view), dim);
}

Value KernelLowering::getStride(Value view, int64_t dim) {
  return getParam(ParamKind::Stride, argumentNumber(view), dim);
}

/// The launcher encodes the map.
void KernelLowering::lowerTensorMap(TensorMapOp map) {
  NamedAttrList list;
  list.set("kind", b.getStringAttr("tensor_map"));
  list.set("arg", b.getI64IntegerAttr(argumentNumber(map.getView())));
  list.set("order", b.getI64ArrayAttr(map.getOrder()));
  list.set("box", b.getI64ArrayAttr(map.getBox()));
  list.set("swizzle", b.getStringAttr("128B"));
  MLIRContext *context = b.getContext();
  recipes.push_back(list.getDictionary(context));
  // Without grid_constant the map would be copied to local memory, where TMA
  // cannot read it.
  auto bytes = LLVM::LLVMArrayType::get(b.getI8Type(), 128);
  paramAttrs.push_back(b.getDictionaryAttr(
      {b.getNamedAttr("llvm.byval", TypeAttr::get(bytes)),
       b.getNamedAttr("llvm.align", b.getI64IntegerAttr(64)),
       b.getNamedAttr("nvvm.grid_constant", b.getUnitAttr())}));
  set(map, {entry->addArgument(LLVM::LLVMPointerType::get(context), loc)});
}

void KernelLowering::finishSignature() {
  auto type =
      LLVM::LLVMFunctionType::get(LLVM::LLVMVoidType::get(b.getContext()),
                                  llvm::to_vector(entry->getArgumentTypes()));
  func.setFunctionType(type);
  func.setAllArgAttrs(paramAttrs);
  RolesAttr roles = kernel.getRoles();
  NamedAttrList recipe;
  recipe.set("threads", b.getI64IntegerAttr(128 * (roles.getConsumers() + 1)));
  recipe.set("smem", b.getI64IntegerAttr(sharedBytes));
  recipe.set("cluster", b.getI64IntegerAttr(roles.getCluster()));
  recipe.set("persistent", b.getBoolAttr(roles.getPersistent()));
  if (order.follows)
    recipe.set("follows", b.getUnitAttr());
  recipe.set("params", b.getArrayAttr(recipes));
  func->setAttr("attnc.kernel", recipe.getDictionary(b.getContext()));
}

//===----------------------------------------------------------------------===//
// The frame
//===----------------------------------------------------------------------===//

/// Slots first, each aligned to a swizzle atom; then the barriers.
void KernelLowering::layOutSharedMemory() {
  int64_t offset = 0;
  kernel->walk([&](RingOp op) {
    RingType type = op.getRing().getType();
    int64_t slot = slotBytes(type.getRows(), type.getCols());
    // A warp waits for what it copied: with several slots, the others go on.
    Filler filler = Filler::Bulk;
    if (llvm::any_of(op.getRing().getUsers(), llvm::IsaPred<CopyElementsOp>))
      filler = type.getStages() > 1 ? Filler::OneWarp : Filler::AllWarps;
    else if (llvm::any_of(op.getRing().getUsers(), llvm::IsaPred<PutOp>))
      filler = Filler::Consumers;
    int64_t number = rings.size();
    rings[op.getRing()] =
        RingInfo{offset, slot, 0, 0, filler, number, type, op.getMulticast()};
    offset += slot * type.getStages();
  });
  kernel->walk([&](ScratchOp op) {
    SmemType type = op.getSlot().getType();
    scratches[op.getSlot()] = offset;
    offset +=
        4 * type.getRows() * type.getCols() * kernel.getRoles().getConsumers();
  });
  for (auto &[value, ring] : rings) {
    ring.full = offset;
    offset += 8 * ring.type.getStages();
    ring.empty = offset;
    offset += 8 * ring.type.getStages();
  }
  sharedBytes = offset;
}

void KernelLowering::emitEntry(Block *produce, Block *consume) {
  auto pointer = LLVM::LLVMPointerType::get(b.getContext(), kSharedSpace);
  Value shared = LLVM::AddressOfOp::create(b, loc, pointer, kSharedName);
  base = LLVM::PtrToIntOp::create(b, loc, i32, shared);
  tid = intrinsic("llvm.nvvm.read.ptx.sreg.tid.x", i32, {});
  // The same in all lanes, and ptxas can see it.
  Value number = arith::ShRUIOp::create(b, loc, tid, constant(5));
  warp = intrinsic("llvm.nvvm.shfl.sync.idx.i32", i32,
                   {constant(-1), number, constant(0), constant(31)});
  lane = andi(tid, constant(31));
  Value group = arith::ShRUIOp::create(b, loc, warp, constant(2));
  groupNumber = arith::SubIOp::create(b, loc, group, constant(1));
  Block *init = newBlock(), *ready = newBlock();
  branchIf(equals(tid, 0), init, ready);
  at(init);
  // A kernel that others follow is short: what its first copies need comes
  // while barriers are made.
  if (order.leads)
    for (TensorMapOp map : kernel.getBody().getOps<TensorMapOp>())
      assembly("prefetch.tensormap [$0];", "l", {}, {get(map)});
  int64_t arrivals = 4 * kernel.getRoles().getConsumers();
  int64_t cluster = kernel.getRoles().getCluster();
  for (auto &[value, ring] : rings)
    for (int64_t s = 0; s < ring.type.getStages(); ++s)
      for (auto [offset, count] :
           {std::pair(ring.full, ring.producers(arrivals / 4)),
            std::pair(ring.empty,
                      ring.multicast ? arrivals * cluster : arrivals)})
        intrinsic("llvm.nvvm.mbarrier.init.shared", {},
                  {sharedPointer(add(base, offset + 8 * s)), constant(count)});
  intrinsic("llvm.nvvm.fence.mbarrier_init.release.cluster", {}, {});
  branch(ready);
  at(ready);
  if (cluster == 1)
    intrinsic("llvm.nvvm.barrier.cta.sync.aligned.all", {}, {constant(0)});
  else // Nobody signals a barrier of another block before it is made.
    assembly("barrier.cluster.arrive.relaxed.aligned;\n"
             "barrier.cluster.wait.acquire.aligned;",
             "", {}, {});
  // What the kernels before this one wrote is there from here on. Barriers are
  // made beside their end; no load is in this block.
  if (order.follows)
    assembly("griddepcontrol.wait;", "", {}, {});
  branchIf(equals(group, 0), produce, consume);
}

LogicalResult KernelLowering::emitProducer(ProducerOp role) {
  intrinsic("llvm.nvvm.setmaxnreg.dec.sync.aligned.u32", {},
            {constant(kernel.getRoles().getProducerRegisters())});
  cooperative = role.getCooperative();
  if (!cooperative) {
    Block *one = newBlock(), *elected = newBlock();
    branchIf(equals(warp, 0), one, exit);
    at(one);
    auto pair =
        LLVM::LLVMStructType::getLiteral(b.getContext(), {i32, b.getI1Type()});
    Value result = intrinsic("llvm.nvvm.elect.sync", pair, {constant(-1)});
    branchIf(LLVM::ExtractValueOp::create(b, loc, result, 1), elected, exit);
    at(elected);
  }
  if (failed(lowerBlock(role.getBody().front())))
    return failure();
  branch(exit);
  return success();
}

LogicalResult KernelLowering::emitConsumers(ConsumersOp role) {
  intrinsic("llvm.nvvm.setmaxnreg.inc.sync.aligned.u32", {},
            {constant(kernel.getRoles().getConsumerRegisters())});
  set(role.getBody().getArgument(0), {groupNumber});
  // Lane r signals block r of the cluster; other lanes, which do not signal,
  // have an address that exists, too.
  if (int64_t cluster = kernel.getRoles().getCluster(); cluster > 1)
    peerBase = assembly("mapa.shared::cluster.u32 $0, $1, $2;", "=r,r,r", i32,
                        {base, andi(lane, constant(cluster - 1))},
                        /*effects=*/false)[0];
  // ptxas cannot know the size of dynamic shared memory.
  Value size = assembly("mov.u32 $0, %dynamic_smem_size;", "=r", i32, {},
                        /*effects=*/false)[0];
  never = equals(size, -1);
  // Of the four warps of a group, this one's first row; see accOffset.
  Value inGroup = andi(warp, constant(3));
  firstRow =
      add(mul(inGroup, 16), arith::ShRUIOp::create(b, loc, lane, constant(2)));
  firstCol = mul(andi(lane, constant(3)), 2);
  if (failed(lowerBlock(role.getBody().front())))
    return failure();
  // Copies read the shared memory of this thread block until they are done.
  if (!scratches.empty())
    assembly("cp.async.bulk.wait_group 0;", "", {}, {});
  branch(exit);
  return success();
}

LogicalResult KernelLowering::run() {
  b.setInsertionPoint(kernel);
  auto type =
      LLVM::LLVMFunctionType::get(LLVM::LLVMVoidType::get(b.getContext()), {});
  std::string name = kernel.getSymName().str();
  func = LLVM::LLVMFuncOp::create(b, loc, name, type);
  func->setAttr("nvvm.kernel", b.getUnitAttr());
  int32_t threads = 128 * (kernel.getRoles().getConsumers() + 1);
  func->setAttr("nvvm.reqntid", b.getDenseI32ArrayAttr({threads}));
  func->setAttr("nvvm.minctasm",
                b.getI32IntegerAttr(kernel.getRoles().getResident()));
  if (int32_t cluster = kernel.getRoles().getCluster(); cluster > 1)
    func->setAttr("nvvm.cluster_dim", b.getDenseI32ArrayAttr({cluster}));
  entry = newBlock();
  exit = newBlock();
  at(entry);
  if (order.leads)
    assembly("griddepcontrol.launch_dependents;", "", {}, {});
  layOutSharedMemory();
  Block *produce = newBlock(), *consume = newBlock();
  // All threads compute what the kernel's body computes.
  ProducerOp producer;
  ConsumersOp consumers;
  for (Operation &op : kernel.getBody().front()) {
    if (auto role = dyn_cast<ProducerOp>(op))
      producer = role;
    else if (auto role = dyn_cast<ConsumersOp>(op))
      consumers = role;
    else if (failed(lower(&op)))
      return failure();
  }
  emitEntry(produce, consume);
  at(produce);
  if (failed(emitProducer(producer)))
    return failure();
  at(consume);
  if (failed(emitConsumers(consumers)))
    return failure();
  at(exit);
  LLVM::ReturnOp::create(b, loc, ValueRange());
  finishSignature();
  return success();
}
