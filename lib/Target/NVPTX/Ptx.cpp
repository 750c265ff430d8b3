//===- Ptx.cpp - From LLVM IR to PTX text ---------------------------------===//

#include "lib/Target/NVPTX/Ptx.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "mlir/IR/Verifier.h"
#include "mlir/Target/LLVMIR/Dialect/Builtin/BuiltinToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/LLVMIR/LLVMToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/NVVM/NVVMToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Export.h"
#include "llvm/IR/IRBuilder.h"
#include "llvm/IR/InlineAsm.h"
#include "llvm/IR/InstIterator.h"
#include "llvm/IR/Instructions.h"
#include "llvm/IR/IntrinsicInst.h"
#include "llvm/IR/LegacyPassManager.h"
#include "llvm/IR/Verifier.h"
#include "llvm/MC/TargetRegistry.h"
#include "llvm/Passes/PassBuilder.h"
#include "llvm/Support/CrashRecoveryContext.h"
#include "llvm/Support/ErrorHandling.h"
#include "llvm/Target/TargetMachine.h"

#include <mutex>

extern "C" {
void LLVMInitializeNVPTXTargetInfo();
void LLVMInitializeNVPTXTarget();
void LLVMInitializeNVPTXTargetMC();
void LLVMInitializeNVPTXAsmPrinter();
}

using namespace mlir;

namespace attnc {
namespace {

llvm::Error failure(const llvm::Twine &message) {
  return llvm::createStringError(message);
}

const char *const tripleName = "nvptx64-nvidia-cuda";

llvm::Expected<std::unique_ptr<llvm::TargetMachine>>
makeTargetMachine(const PtxOptions &options) {
  static std::once_flag once;
  std::call_once(once, [] {
    LLVMInitializeNVPTXTargetInfo();
    LLVMInitializeNVPTXTarget();
    LLVMInitializeNVPTXTargetMC();
    LLVMInitializeNVPTXAsmPrinter();
  });
  llvm::Triple triple(tripleName);
  std::string message;
  const llvm::Target *target =
      llvm::TargetRegistry::lookupTarget(triple, message);
  if (!target)
    return failure("LLVM has no NVPTX target: " + message);
  std::unique_ptr<llvm::TargetMachine> machine(target->createTargetMachine(
      triple, options.chip, options.features, llvm::TargetOptions(),
      std::nullopt, std::nullopt, llvm::CodeGenOptLevel::Less));
  if (!machine)
    return failure("LLVM cannot generate code for " + options.chip);
  return machine;
}

/// A module with the device part of another, which gets it back in the end.
class DeviceModule {
public:
  explicit DeviceModule(ModuleOp whole)
      : whole(whole), device(ModuleOp::create(whole.getLoc())) {
    for (Operation &op : *whole.getBody())
      parts.push_back({&op, op.getDiscardableAttrDictionary()});
    for (const Part &part : parts) {
      if (!isa_and_nonnull<LLVM::LLVMDialect>(part.op->getDialect()))
        continue;
      part.op->remove();
      device->getBody()->push_back(part.op);
      // Ours speak to the runtime, not to LLVM.
      for (NamedAttribute attr : part.attributes)
        if (attr.getName().strref().starts_with("attnc."))
          part.op->removeDiscardableAttr(attr.getName());
    }
  }
  ~DeviceModule() {
    for (const Part &part : parts) {
      part.op->remove();
      whole.getBody()->push_back(part.op);
      part.op->setDiscardableAttrs(part.attributes);
    }
  }
  DeviceModule(const DeviceModule &) = delete;
  DeviceModule &operator=(const DeviceModule &) = delete;

  ModuleOp get() { return *device; }

private:
  struct Part {
    Operation *op;
    DictionaryAttr attributes;
  };
  ModuleOp whole;
  OwningOpRef<ModuleOp> device;
  SmallVector<Part> parts;
};

/// What the instruction selector would stop the process for.
llvm::Error checkSelectable(const llvm::Module &module) {
  using namespace llvm;
  for (const Function &function : module) {
    if (!function.isDeclaration() || function.use_empty())
      continue;
    if (!function.isIntrinsic())
      return failure("the device code calls '" + function.getName() +
                     "', which is defined nowhere: there are no libraries on "
                     "the device");
    switch (function.getIntrinsicID()) {
    case Intrinsic::exp:
    case Intrinsic::exp10:
    case Intrinsic::log:
    case Intrinsic::log10:
    case Intrinsic::pow:
    case Intrinsic::powi:
    case Intrinsic::tan:
    case Intrinsic::asin:
    case Intrinsic::acos:
    case Intrinsic::atan:
    case Intrinsic::atan2:
    case Intrinsic::sinh:
    case Intrinsic::cosh:
      return failure("the device code uses '" + function.getName() +
                     "', which no instruction does: it should have been "
                     "expanded before this phase");
    case Intrinsic::tanh:
    case Intrinsic::sin:
    case Intrinsic::cos:
    case Intrinsic::log2:
      for (const User *user : function.users())
        if (auto *call = dyn_cast<CallInst>(user);
            call && !call->hasApproxFunc())
          return failure("the device code uses '" + function.getName() +
                         "' without the fast-math flag 'afn': the GPU only "
                         "has an approximate instruction for it");
      break;
    default:
      break;
    }
  }
  return llvm::Error::success();
}

/// What holds for all our device code and cannot be said in the LLVM dialect.
void annotate(llvm::Module &module) {
  for (llvm::Function &function : module) {
    if (function.isDeclaration())
      continue;
    // The special function unit flushes; anything else costs instructions.
    if (!function.hasFnAttribute("denormal-fp-math-f32"))
      function.addFnAttr("denormal-fp-math-f32", "preserve-sign,preserve-sign");
    function.addFnAttr(llvm::Attribute::NoUnwind);
    // Warp-wide instructions must not move into or out of branches.
    for (llvm::BasicBlock &block : function)
      for (llvm::Instruction &instruction : block)
        if (auto *call = llvm::dyn_cast<llvm::CallInst>(&instruction))
          if (call->isInlineAsm())
            call->setConvergent();
  }
}

/// The passes of LLVM's -O3 without which sigmoid or softmax attention gets a
/// longer loop or a plainer schedule, in its order. The rest took two thirds of
/// the time and would unroll or vectorise.
constexpr const char *passPipeline =
    "function<eager-inv>(early-cse<>,"
    "instcombine<max-iterations=1;no-verify-fixpoint>,"
    "simplifycfg<bonus-inst-threshold=1;"
    "no-forward-switch-cond;switch-range-to-icmp;no-switch-to-arithmetic;"
    "no-switch-to-lookup;keep-loops;no-hoist-common-insts;"
    "no-hoist-loads-stores-with-cond-faulting;no-sink-common-insts;"
    "speculate-blocks;simplify-cond-branch;no-speculate-unpredictables>,"
    "reassociate,loop-mssa(licm<no-allowspeculation>,licm<allowspeculation>),"
    "loop(indvars),early-cse<>,"
    "instcombine<max-iterations=1;no-verify-fixpoint>,"
    "simplifycfg<bonus-inst-threshold=1;"
    "forward-switch-cond;switch-range-to-icmp;switch-to-lookup;no-keep-loops;"
    "hoist-common-insts;sink-common-insts;speculate-blocks;"
    "simplify-cond-branch>,div-rem-pairs)";

void optimize(llvm::Module &module, llvm::TargetMachine &machine) {
  llvm::PipelineTuningOptions tuning;
  tuning.LoopUnrolling = false;
  llvm::PassBuilder builder(&machine, tuning);
  llvm::LoopAnalysisManager loops;
  llvm::FunctionAnalysisManager functions;
  llvm::CGSCCAnalysisManager sccs;
  llvm::ModuleAnalysisManager modules;
  builder.registerModuleAnalyses(modules);
  builder.registerCGSCCAnalyses(sccs);
  builder.registerFunctionAnalyses(functions);
  builder.registerLoopAnalyses(loops);
  builder.crossRegisterProxies(loops, functions, sccs, modules);
  llvm::ModulePassManager passes;
  llvm::cantFail(builder.parsePassPipeline(passes, passPipeline));
  passes.run(module, modules);
}

/// Has f32 compared where LLVM compares the bf16 that it was: what NVPTX prints
/// then, with denormals flushed, is no instruction.
void widenCompares(llvm::Module &module) {
  for (llvm::Function &function : module)
    for (llvm::Instruction &instruction : llvm::instructions(function)) {
      auto *compare = llvm::dyn_cast<llvm::FCmpInst>(&instruction);
      if (!compare ||
          !compare->getOperand(0)->getType()->getScalarType()->isBFloatTy())
        continue;
      llvm::IRBuilder<> builder(compare);
      for (llvm::Use &operand : compare->operands())
        operand = builder.CreateFPExt(
            operand, operand->getType()->getWithNewType(builder.getFloatTy()));
    }
}

/// Leaves out what the passes of code generation do thrice and ours have done,
/// and what changes no kernel's loop: an eighth of their time.
class CodegenPasses : public llvm::legacy::PassManagerBase {
public:
  void add(llvm::Pass *pass) override {
    llvm::StringRef name = pass->getPassName();
    if (name == "Early CSE" || name == "Nary reassociation")
      delete pass;
    else
      passes.add(pass);
  }
  void run(llvm::Module &module) { passes.run(module); }

private:
  llvm::legacy::PassManager passes;
};

/// Runs `body`; a fatal error of LLVM or a crash inside it becomes an Error.
llvm::Error runGuarded(llvm::function_ref<void()> body) {
  static std::mutex oneAtATime; // LLVM has one fatal error handler
  std::lock_guard<std::mutex> lock(oneAtATime);
  std::string message;
  llvm::ScopedFatalErrorHandler handler(
      [](void *data, const char *reason, bool) {
        *static_cast<std::string *>(data) = reason;
        if (auto *context = llvm::CrashRecoveryContext::GetCurrent())
          context->HandleExit(1);
      },
      &message);
  llvm::CrashRecoveryContext::Enable();
  llvm::CrashRecoveryContext context;
  bool ok = context.RunSafely(body);
  llvm::CrashRecoveryContext::Disable();
  if (ok)
    return llvm::Error::success();
  if (message.empty())
    message = "a crash";
  return failure("LLVM's NVPTX backend failed: " + message);
}

} // namespace

llvm::Expected<std::string> compileToPtx(llvm::Module &module,
                                         const PtxOptions &options) {
  auto machine = makeTargetMachine(options);
  if (!machine)
    return machine.takeError();
  module.setTargetTriple(llvm::Triple(tripleName));
  module.setDataLayout((*machine)->createDataLayout());
  annotate(module);
  std::string broken;
  llvm::raw_string_ostream brokenStream(broken);
  if (llvm::verifyModule(module, &brokenStream))
    return failure("the LLVM IR is not valid: " + broken);
  if (llvm::Error error = checkSelectable(module))
    return std::move(error);

  llvm::SmallVector<char, 0> text;
  llvm::raw_svector_ostream stream(text);
  bool canEmit = true;
  llvm::Error error = runGuarded([&] {
    optimize(module, **machine);
    widenCompares(module);
    CodegenPasses passes;
    canEmit = !(*machine)->addPassesToEmitFile(
        passes, stream, nullptr, llvm::CodeGenFileType::AssemblyFile,
        /*DisableVerify=*/true);
    if (canEmit)
      passes.run(module);
  });
  if (error)
    return std::move(error);
  if (!canEmit)
    return failure("LLVM cannot print PTX for " + options.chip);
  return std::string(text.begin(), text.end());
}

llvm::Expected<std::string> compileToPtx(ModuleOp module,
                                         const PtxOptions &options) {
  MLIRContext &context = *module.getContext();
  registerBuiltinDialectTranslation(context);
  registerLLVMDialectTranslation(context);
  registerNVVMDialectTranslation(context);
  // Attributes such as nvvm.kernel mean nothing while their dialect is absent.
  context.loadDialect<LLVM::LLVMDialect, NVVM::NVVMDialect>();
  DeviceModule device(module);
  llvm::LLVMContext llvmContext;
  std::unique_ptr<llvm::Module> translated =
      translateModuleToLLVMIR(device.get(), llvmContext, "attnc",
                              /*disableVerification=*/true); // below
  if (!translated)
    return failure("the device code cannot be translated to LLVM IR; the "
                   "diagnostics above say why");
  return compileToPtx(*translated, options);
}

} // namespace attnc
