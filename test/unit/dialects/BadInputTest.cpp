//===- BadInputTest.cpp - Malformed IR is a diagnostic, never a crash -----===//
//
// Cuts valid IR at every byte and drops each token once: what remains is
// nearly always malformed in a way nobody thought of. Reading it must give a
// module or an error diagnostic, and must come back.
//
//===----------------------------------------------------------------------===//

#include "dialects/attn/Attn.h"
#include "dialects/tile/Tile.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/Diagnostics.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/IR/OwningOpRef.h"
#include "mlir/Parser/Parser.h"

#include "gtest/gtest.h"

#include <string>

namespace {

const char attention[] = R"mlir(
func.func @f(%q: tensor<?x?x?x64xf32>, %len: tensor<?xi32>, %w: i32)
    -> tensor<?x?x?x64xf32> {
  %m0 = attn.causal_mask
  %m1 = attn.window_mask %w, %w align top_left
  %s = attn.scores %q, %q k_len %len : tensor<?xi32>
    : tensor<?x?x?x64xf32>, tensor<?x?x?x64xf32> -> tensor<?x?x?x?xf32>
  %x = attn.mask %s by %m0, %m1 : tensor<?x?x?x?xf32>
  %p = attn.activation %x {
  ^bb0(%e: f32):
    %z = attn.logistic %e : f32
    attn.yield %z : f32
  } : tensor<?x?x?x?xf32>
  %o = attn.apply %p, %q
    : tensor<?x?x?x?xf32>, tensor<?x?x?x64xf32> -> tensor<?x?x?x64xf32>
  return %o : tensor<?x?x?x64xf32>
}
)mlir";

class BadInput : public testing::Test {
protected:
  BadInput() {
    context.loadDialect<attnc::attn::AttnDialect, attnc::tile::TileDialect,
                        mlir::func::FuncDialect>();
    context.getDiagEngine().registerHandler(
        [this](mlir::Diagnostic &diagnostic) {
          errors += diagnostic.getSeverity() == mlir::DiagnosticSeverity::Error;
        });
  }

  /// Whether `text` is a module; when it is not, that was said.
  bool parses(const std::string &text) {
    errors = 0;
    bool ok(mlir::parseSourceString<mlir::ModuleOp>(text, &context));
    EXPECT_EQ(ok, errors == 0) << text;
    return ok;
  }

  mlir::MLIRContext context{mlir::MLIRContext::Threading::DISABLED};
  int errors = 0;
};

TEST_F(BadInput, WholeTextParses) { EXPECT_TRUE(parses(attention)); }

TEST_F(BadInput, CutAtEveryByte) {
  std::string text = attention;
  size_t end = text.rfind('}');
  int rejected = 0;
  for (size_t size = text.find('@'); size < end; ++size)
    rejected += !parses(text.substr(0, size));
  EXPECT_EQ(rejected, static_cast<int>(end - text.find('@')));
}

TEST_F(BadInput, EachTokenDroppedOnce) {
  std::string text = attention;
  int rejected = 0;
  for (size_t at = text.find_first_not_of(" \n"); at != std::string::npos;
       at = text.find_first_not_of(" \n", text.find_first_of(" \n", at))) {
    size_t end = text.find_first_of(" \n", at);
    std::string without = text;
    rejected += !parses(without.erase(at, end - at));
  }
  EXPECT_GT(rejected, 50);
}

} // namespace
