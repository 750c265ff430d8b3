//===- CpuCodegen.cpp - From MLIR to machine code -------------------------===//

#include "lib/Target/CPU/CpuCodegen.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/IR/OwningOpRef.h"
#include "mlir/Target/LLVMIR/Dialect/Builtin/BuiltinToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/LLVMIR/LLVMToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Export.h"
#include "llvm/IR/LegacyPassManager.h"
#include "llvm/IR/Verifier.h"
#include "llvm/Passes/PassBuilder.h"
#include "llvm/Support/SmallVectorMemoryBuffer.h"
#include "llvm/Target/TargetMachine.h"

using namespace attnc;
using namespace mlir;

std::string attnc::getTileToCpuPipeline(const VectorFeatures &features) {
  return "tile-plan-launches,tile-to-cpu{lanes=" +
         std::to_string(features.lanes) +
         " registers=" + std::to_string(features.registers) +
         "},cpu-expand-math,cse";
}

std::string attnc::getCpuToLLVMPipeline() { return "cpu-to-llvm,cse"; }

void attnc::registerCpuTranslations(DialectRegistry &registry) {
  registerBuiltinDialectTranslation(registry);
  registerLLVMDialectTranslation(registry);
}

//===----------------------------------------------------------------------===//
// LLVM IR
//===----------------------------------------------------------------------===//

/// The functions alone: the launch plan has no place in LLVM IR.
static OwningOpRef<ModuleOp> extractFunctions(ModuleOp module) {
  OwningOpRef<ModuleOp> functions = ModuleOp::create(module.getLoc());
  OpBuilder builder(functions->getBodyRegion());
  for (auto function : module.getOps<LLVM::LLVMFuncOp>())
    builder.clone(*function);
  return functions;
}

/// Some processors are tuned to split vectors of 512 bits; the blocking of
/// products was chosen for whole ones.
static void keepVectorsWhole(llvm::Module &module,
                             const llvm::TargetMachine &machine) {
  for (llvm::Function &function : module) {
    if (function.isDeclaration())
      continue;
    function.addFnAttr("target-cpu", machine.getTargetCPU());
    function.addFnAttr("target-features", machine.getTargetFeatureString());
    function.addFnAttr("prefer-vector-width", "512");
    function.addFnAttr("min-legal-vector-width", "512");
  }
}

static void optimize(llvm::Module &module, llvm::TargetMachine &machine) {
  llvm::PassBuilder builder(&machine);
  llvm::LoopAnalysisManager loops;
  llvm::FunctionAnalysisManager functions;
  llvm::CGSCCAnalysisManager components;
  llvm::ModuleAnalysisManager modules;
  builder.registerModuleAnalyses(modules);
  builder.registerCGSCCAnalyses(components);
  builder.registerFunctionAnalyses(functions);
  builder.registerLoopAnalyses(loops);
  builder.crossRegisterProxies(loops, functions, components, modules);
  // What is left to do: one copy of each address, loop invariants hoisted.
  // The default pipeline takes twice as long to compile, and its code is no
  // faster (docs/cpu.md).
  llvm::ModulePassManager passes;
  llvm::cantFail(builder.parsePassPipeline(
      passes, "function(early-cse,simplifycfg,loop-mssa(licm))"));
  passes.run(module, modules);
}

llvm::Expected<std::unique_ptr<llvm::Module>>
attnc::translateCpuModule(ModuleOp module, llvm::LLVMContext &context,
                          llvm::TargetMachine &machine) {
  OwningOpRef<ModuleOp> functions = extractFunctions(module);
  std::unique_ptr<llvm::Module> result =
      translateModuleToLLVMIR(*functions, context, "attnc");
  if (!result)
    return llvm::createStringError(
        "the module does not translate to LLVM IR; it must be at phase "
        "'llvm'");
  result->setTargetTriple(machine.getTargetTriple());
  result->setDataLayout(machine.createDataLayout());
  keepVectorsWhole(*result, machine);
  // A broken module would abort in code generation.
  std::string message;
  llvm::raw_string_ostream stream(message);
  if (llvm::verifyModule(*result, &stream))
    return llvm::createStringError("invalid LLVM IR: " + message);
  optimize(*result, machine);
  return std::move(result);
}

//===----------------------------------------------------------------------===//
// Machine code
//===----------------------------------------------------------------------===//

static llvm::Expected<llvm::SmallVector<char, 0>>
emit(ModuleOp module, const CpuOptions &options,
     llvm::CodeGenFileType fileType) {
  auto machine = createCpuTargetMachine(options);
  if (!machine)
    return machine.takeError();
  llvm::LLVMContext context;
  auto translated = translateCpuModule(module, context, **machine);
  if (!translated)
    return translated.takeError();
  llvm::SmallVector<char, 0> bytes;
  llvm::raw_svector_ostream stream(bytes);
  llvm::legacy::PassManager passes;
  if ((*machine)->addPassesToEmitFile(passes, stream, nullptr, fileType))
    return llvm::createStringError("x86 cannot emit this kind of file");
  passes.run(**translated);
  return std::move(bytes);
}

llvm::Expected<std::string> attnc::emitCpuLLVMIR(ModuleOp module,
                                                 const CpuOptions &options) {
  auto machine = createCpuTargetMachine(options);
  if (!machine)
    return machine.takeError();
  llvm::LLVMContext context;
  auto translated = translateCpuModule(module, context, **machine);
  if (!translated)
    return translated.takeError();
  std::string text;
  llvm::raw_string_ostream stream(text);
  (*translated)->print(stream, nullptr);
  return text;
}

llvm::Expected<std::string> attnc::emitCpuAssembly(ModuleOp module,
                                                   const CpuOptions &options) {
  auto bytes = emit(module, options, llvm::CodeGenFileType::AssemblyFile);
  if (!bytes)
    return bytes.takeError();
  return std::string(bytes->begin(), bytes->end());
}

llvm::Expected<std::unique_ptr<llvm::MemoryBuffer>>
attnc::emitCpuObject(ModuleOp module, const CpuOptions &options) {
  auto bytes = emit(module, options, llvm::CodeGenFileType::ObjectFile);
  if (!bytes)
    return bytes.takeError();
  return std::make_unique<llvm::SmallVectorMemoryBuffer>(
      std::move(*bytes), "attnc", /*RequiresNullTerminator=*/false);
}
