//===- attnc-fuzz.cpp - Fuzzes the parser and the pipeline ----------------===//
//
// A libFuzzer target. The input is IR as text; whatever it is, reading it and
// running each pipeline on it must come back, with or without a diagnostic.
//
//===----------------------------------------------------------------------===//

#include "dialects/attn/Attn.h"
#include "dialects/tile/Tile.h"
#include "passes/Passes.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/IR/OwningOpRef.h"
#include "mlir/Parser/Parser.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"
#include "mlir/Transforms/Passes.h"

#include <cstdio>
#include <cstdlib>
#include <string>

using namespace mlir;

/// Each runs on a fresh copy of the input. One that is not known ends the
/// fuzzer at once, so that a renamed pass does not silently go untested.
static const char *const pipelines[] = {
    "builtin.module(canonicalize,cse)",
};

static DialectRegistry &registry() {
  static DialectRegistry dialects = [] {
    registerTransformsPasses();
    attnc::registerPasses();
    DialectRegistry result;
    result.insert<attnc::attn::AttnDialect, attnc::tile::TileDialect,
                  func::FuncDialect>();
    return result;
  }();
  return dialects;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  MLIRContext context(registry(), MLIRContext::Threading::DISABLED);
  ScopedDiagnosticHandler silent(&context,
                                 [](Diagnostic &) { return success(); });
  StringRef text(reinterpret_cast<const char *>(data), size);
  OwningOpRef<ModuleOp> module = parseSourceString<ModuleOp>(text, &context);
  if (!module)
    return 0;
  for (const char *pipeline : pipelines) {
    PassManager passes(&context, "any");
    if (failed(parsePassPipeline(pipeline, passes))) {
      std::fprintf(stderr, "no such pipeline: %s\n", pipeline);
      std::abort();
    }
    OwningOpRef<ModuleOp> copy = module->clone();
    (void)passes.run(*copy);
  }
  return 0;
}
