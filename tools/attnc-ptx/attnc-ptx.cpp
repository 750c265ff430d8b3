//===- attnc-ptx.cpp - The last steps of the way down, on their own -------===//
//
// Reads an LLVM-dialect module or LLVM IR and prints PTX, machine code or
// statistics of it.
//
//===----------------------------------------------------------------------===//

#include "dialects/tile/Tile.h"
#include "lib/Target/NVPTX/CubinStats.h"
#include "lib/Target/NVPTX/Ptx.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/Parser/Parser.h"
#include "llvm/IRReader/IRReader.h"
#include "llvm/Support/CommandLine.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/InitLLVM.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/SourceMgr.h"
#include "llvm/Support/ToolOutputFile.h"
#include "llvm/Support/WithColor.h"

using namespace attnc;
namespace cl = llvm::cl;

namespace {

enum class Stage { Ptx, Cubin, Stats };

cl::opt<std::string> inputName(cl::Positional, cl::init("-"),
                               cl::desc("<.mlir, .ll or .ptx file>"));
cl::opt<std::string> outputName("o", cl::init("-"), cl::desc("output file"));
cl::opt<Stage>
    stage("emit", cl::init(Stage::Ptx), cl::desc("what to print"),
          cl::values(clEnumValN(Stage::Ptx, "ptx", "PTX text"),
                     clEnumValN(Stage::Cubin, "cubin", "machine code"),
                     clEnumValN(Stage::Stats, "stats", "statistics as JSON")));
cl::opt<bool> requireClean("require-clean",
                           cl::desc("fail if the machine code spills, uses "
                                    "stack or serialises the matrix pipeline"));

llvm::Expected<std::string> ptxOfMlir(llvm::StringRef text) {
  mlir::DialectRegistry registry;
  registry.insert<mlir::LLVM::LLVMDialect, mlir::NVVM::NVVMDialect,
                  tile::TileDialect>();
  mlir::MLIRContext context(registry);
  context.allowUnregisteredDialects();
  auto module = mlir::parseSourceString<mlir::ModuleOp>(text, &context);
  if (!module)
    return llvm::createStringError("cannot parse " + inputName);
  return compileToPtx(*module);
}

llvm::Expected<std::string> ptxOfLlvmIr(llvm::MemoryBufferRef buffer) {
  llvm::LLVMContext context;
  llvm::SMDiagnostic diagnostic;
  auto module = llvm::parseIR(buffer, diagnostic, context);
  if (!module)
    return llvm::createStringError(inputName + ": " + diagnostic.getMessage());
  return compileToPtx(*module);
}

llvm::Expected<std::string> readPtx() {
  auto buffer = llvm::MemoryBuffer::getFileOrSTDIN(inputName);
  if (!buffer)
    return llvm::createStringError("cannot read " + inputName + ": " +
                                   buffer.getError().message());
  llvm::StringRef name = inputName, text = (*buffer)->getBuffer();
  if (name.ends_with(".ptx"))
    return text.str();
  if (name.ends_with(".ll"))
    return ptxOfLlvmIr(**buffer);
  return ptxOfMlir(text);
}

llvm::Error emit(llvm::raw_ostream &os) {
  auto ptx = readPtx();
  if (!ptx)
    return ptx.takeError();
  if (stage == Stage::Ptx) {
    os << *ptx;
    return llvm::Error::success();
  }
  auto cubin = assemble(*ptx);
  if (!cubin)
    return cubin.takeError();
  if (stage == Stage::Cubin) {
    os << cubin->image;
  } else {
    auto code = readCubin(cubin->image);
    if (!code)
      return code.takeError();
    printStatsJson(os, cubin->log, *code);
  }
  return requireClean ? checkClean(cubin->log) : llvm::Error::success();
}

} // namespace

int main(int argc, char **argv) {
  llvm::InitLLVM init(argc, argv);
  cl::ParseCommandLineOptions(argc, argv, "attnc: LLVM dialect to PTX\n");
  std::error_code code;
  llvm::ToolOutputFile output(outputName, code, llvm::sys::fs::OF_None);
  if (code) {
    llvm::WithColor::error()
        << "cannot write " << outputName << ": " << code.message() << "\n";
    return 1;
  }
  if (llvm::Error error = emit(output.os())) {
    llvm::WithColor::error() << llvm::toString(std::move(error)) << "\n";
    return 1;
  }
  output.keep();
  return 0;
}
