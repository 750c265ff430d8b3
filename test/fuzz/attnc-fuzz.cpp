//===- attnc-fuzz.cpp - Fuzzes the parser and the pipeline ----------------===//
//
// A libFuzzer target. The input is IR as text, at any phase; whatever it is,
// reading it and compiling it for each target must come back: with a result
// that verifies, or with an error that says something.
//
//===----------------------------------------------------------------------===//

#include "lib/Compiler/Compiler.h"

#include "mlir/IR/MLIRContext.h"
#include "mlir/IR/Verifier.h"
#include "llvm/Support/Error.h"
#include "llvm/Support/xxhash.h"

#include <cstdio>
#include <cstdlib>

using namespace attnc;
using llvm::Error;
using llvm::Expected;
using llvm::StringRef;

[[noreturn]] static void complain(const char *what) {
  std::fprintf(stderr, "attnc-fuzz: %s\n", what);
  std::abort();
}

static void mustSaySomething(Error error) {
  if (llvm::toString(std::move(error)).empty())
    complain("an error without a message");
}

/// The last phase to go to. Code generation is slow and takes whatever
/// verifies as IR: one input in sixteen goes there. Assembling GPU code is a
/// process of its own, and never ours to fuzz.
static Phase lastPhase(Target target, StringRef text) {
  bool generate = llvm::xxh3_64bits(text) % 16 == 0;
  Phase last = Phase::Attn;
  for (const PhaseStep &step : phasesOf(target)) {
    bool isCode = step.translate != nullptr;
    if (step.phase == Phase::Cubin || (isCode && !generate))
      break;
    last = step.phase;
  }
  return last;
}

static void compileFor(Target target, StringRef text) {
  std::unique_ptr<mlir::MLIRContext> context = makeContext();
  mlir::ScopedDiagnosticHandler silent(
      context.get(), [](mlir::Diagnostic &) { return mlir::success(); });
  CompileOptions options;
  options.target = target;
  // The same code on every machine.
  options.cpu = "x86-64-v3";
  Expected<Artifact> artifact = parseArtifact(text, "input", *context, options);
  if (!artifact)
    return mustSaySomething(artifact.takeError());
  if (!artifact->module)
    return;
  Phase last = lastPhase(target, text);
  if (artifact->phase >= last)
    return;
  if (Error error = compile(*artifact, options, last))
    return mustSaySomething(std::move(error));
  if (artifact->module && failed(mlir::verify(*artifact->module)))
    complain("the result does not verify");
}

extern "C" int LLVMFuzzerInitialize(int *, char ***) {
  registerAllPasses();
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  StringRef text(reinterpret_cast<const char *>(data), size);
  compileFor(Target::CPU, text);
  compileFor(Target::SM90a, text);
  return 0;
}
