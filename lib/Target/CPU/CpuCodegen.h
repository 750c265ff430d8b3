//===- CpuCodegen.h - From MLIR to machine code -----------------*- C++ -*-===//
//
// The CPU's way down after the tile level: pass pipelines for the phases
// 'vector' and 'llvm', and LLVM's part of the work.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_LIB_TARGET_CPU_CPUCODEGEN_H
#define ATTNC_LIB_TARGET_CPU_CPUCODEGEN_H

#include "lib/Target/CPU/CpuFeatures.h"

#include "mlir/IR/BuiltinOps.h"
#include "llvm/IR/Module.h"
#include "llvm/Support/MemoryBuffer.h"

namespace mlir {
class DialectRegistry;
} // namespace mlir

namespace attnc {

/// The passes from tile kernels to phase 'vector', as a pipeline's text.
std::string getTileToCpuPipeline(const VectorFeatures &features);

/// The passes from phase 'vector' to phase 'llvm'.
std::string getCpuToLLVMPipeline();

/// What translation to LLVM IR needs in the context.
void registerCpuTranslations(mlir::DialectRegistry &registry);

/// The functions of a module at phase 'llvm', optimised for the machine.
llvm::Expected<std::unique_ptr<llvm::Module>>
translateCpuModule(mlir::ModuleOp module, llvm::LLVMContext &context,
                   llvm::TargetMachine &machine);

/// Text of what translateCpuModule makes: LLVM IR.
llvm::Expected<std::string> emitCpuLLVMIR(mlir::ModuleOp module,
                                          const CpuOptions &options);

/// Assembly text of a module at phase 'llvm'.
llvm::Expected<std::string> emitCpuAssembly(mlir::ModuleOp module,
                                            const CpuOptions &options);

/// An object file of a module at phase 'llvm'.
llvm::Expected<std::unique_ptr<llvm::MemoryBuffer>>
emitCpuObject(mlir::ModuleOp module, const CpuOptions &options);

} // namespace attnc

#endif // ATTNC_LIB_TARGET_CPU_CPUCODEGEN_H
