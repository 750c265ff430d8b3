//===- VerifyCode.cpp - What the CPU's code generator can take ------------===//

#include "lib/Compiler/VerifyCode.h"

#include "dialects/tile/Tile.h"
#include "lib/Compiler/Diagnostics.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "llvm/ADT/StringSet.h"

using namespace attnc;
using namespace mlir;
/// Ops of the LLVM dialect that x86 has instructions or short sequences for,
/// whatever their types below.
static bool isKnownOp(Operation *op) {
  static const llvm::StringSet<> known = {"add",          "addressof",
                                          "alloca",       "and",
                                          "ashr",         "atomicrmw",
                                          "bitcast",      "br",
                                          "call",         "cond_br",
                                          "constant",     "extractelement",
                                          "extractvalue", "fadd",
                                          "fcmp",         "fdiv",
                                          "fmul",         "fneg",
                                          "fpext",        "fptosi",
                                          "fptoui",       "fptrunc",
                                          "freeze",       "fsub",
                                          "func",         "getelementptr",
                                          "icmp",         "insertelement",
                                          "insertvalue",  "inttoptr",
                                          "load",         "lshr",
                                          "mul",          "or",
                                          "poison",       "ptrtoint",
                                          "return",       "sdiv",
                                          "select",       "sext",
                                          "shl",          "shufflevector",
                                          "sitofp",       "srem",
                                          "store",        "sub",
                                          "switch",       "trunc",
                                          "udiv",         "uitofp",
                                          "undef",        "unreachable",
                                          "urem",         "xor",
                                          "zero",         "zext",
                                          "global"};
  // Functions such as exp become calls of a library that is not there.
  static const llvm::StringSet<> knownIntrinsics = {"abs",
                                                    "assume",
                                                    "copysign",
                                                    "ctlz",
                                                    "cttz",
                                                    "fabs",
                                                    "floor",
                                                    "ceil",
                                                    "fma",
                                                    "fmuladd",
                                                    "masked.load",
                                                    "masked.store",
                                                    "maximum",
                                                    "maxnum",
                                                    "memcpy",
                                                    "memmove",
                                                    "memset",
                                                    "minimum",
                                                    "minnum",
                                                    "rint",
                                                    "nearbyint",
                                                    "roundeven",
                                                    "smax",
                                                    "smin",
                                                    "sqrt",
                                                    "trunc",
                                                    "umax",
                                                    "umin",
                                                    "vector.reduce.add",
                                                    "vector.reduce.fadd",
                                                    "vector.reduce.fmax",
                                                    "vector.reduce.fmaximum"};
  llvm::StringRef name = op->getName().getStringRef();
  if (!name.consume_front("llvm."))
    return false;
  if (name.consume_front("intr."))
    return knownIntrinsics.contains(name);
  name.consume_front("mlir.");
  return known.contains(name);
}

/// Scalars of registers' sizes, vectors and structs of them.
static bool isKnownType(Type type) {
  if (auto vector = dyn_cast<VectorType>(type))
    return vector.getRank() == 1 && !vector.isScalable() &&
           vector.getNumElements() <= 4096 &&
           isKnownType(vector.getElementType());
  if (auto structure = dyn_cast<LLVM::LLVMStructType>(type))
    return llvm::all_of(structure.getBody(), isKnownType);
  if (auto array = dyn_cast<LLVM::LLVMArrayType>(type))
    return isKnownType(array.getElementType());
  if (auto pointer = dyn_cast<LLVM::LLVMPointerType>(type))
    return pointer.getAddressSpace() == 0;
  if (auto integer = dyn_cast<IntegerType>(type))
    return integer.getWidth() <= 64;
  return type.isF16() || type.isBF16() || type.isF32() || type.isF64() ||
         isa<LLVM::LLVMVoidType>(type);
}

/// Calls reach functions of this module and what the JIT provides.
static bool isKnownCall(Operation *op, ModuleOp module) {
  auto call = dyn_cast<LLVM::CallOp>(op);
  if (!call)
    return true;
  auto callee = call.getCallee();
  if (!callee)
    return false;
  auto function = module.lookupSymbol<LLVM::LLVMFuncOp>(*callee);
  return function && (!function.isExternal() || *callee == "memcpy" ||
                      *callee == "memset" || *callee == "memmove");
}

llvm::Error attnc::verifyCpuCode(ModuleOp module) {
  DiagnosticCapture capture(*module.getContext(), "module");
  for (auto function : module.getOps<LLVM::LLVMFuncOp>()) {
    auto result = function.walk([&](Operation *op) {
      auto types =
          llvm::concat<const Type>(llvm::to_vector(op->getResultTypes()),
                                   llvm::to_vector(op->getOperandTypes()));
      if (isKnownOp(op) && llvm::all_of(types, isKnownType) &&
          isKnownCall(op, module))
        return WalkResult::advance();
      op->emitError("the code generator of the CPU is not known to take '")
          << op->getName()
          << "' with these types or callee; expected phase 'llvm' as attnc "
             "makes it; start from phase 'vector' or earlier";
      return WalkResult::interrupt();
    });
    if (result.wasInterrupted())
      return capture.takeError("not code for the CPU");
  }
  return llvm::Error::success();
}
