//===- CompilerTest.cpp - The compiler as a library -----------------------===//

#include "lib/Compiler/Compiler.h"

#include "mlir/IR/MLIRContext.h"
#include "gtest/gtest.h"

using namespace attnc;

namespace {

const char attention[] = R"mlir(
!t = tensor<?x?x?x16xf32>
!s = tensor<?x?x?x?xf32>
func.func @f(%q: !t, %k: !t, %v: !t) -> !t {
  %s = attn.scores %q, %k : !t, !t -> !s
  %p = attn.softmax %s : !s
  %o = attn.apply %p, %v : !s, !t -> !t
  return %o : !t
}
)mlir";

class Compiler : public testing::Test {
protected:
  Compiler() : context(makeContext()) { registerAllPasses(); }

  Artifact parse(llvm::StringRef text) {
    auto artifact = parseArtifact(text, "test", *context, options);
    if (!artifact) {
      ADD_FAILURE() << llvm::toString(artifact.takeError());
      return {};
    }
    return std::move(*artifact);
  }
  std::string errorOf(llvm::StringRef text) {
    auto artifact = parseArtifact(text, "test", *context, options);
    return artifact ? "" : llvm::toString(artifact.takeError());
  }

  std::unique_ptr<mlir::MLIRContext> context;
  CompileOptions options;
};

TEST_F(Compiler, ModuleSaysItsPhase) {
  Artifact artifact = parse(attention);
  EXPECT_EQ(artifact.phase, Phase::Attn);
  for (Phase phase : {Phase::Attn, Phase::Fused, Phase::Tile, Phase::Formula}) {
    // A caller's module, without an artifact around it.
    ASSERT_FALSE(bool(compile(*artifact.module, options, phase)));
    auto attr = (*artifact.module)->getAttrOfType<mlir::StringAttr>(kPhaseAttr);
    ASSERT_TRUE(attr);
    EXPECT_EQ(attr.getValue(), findPhase(Target::CPU, phase)->name);
  }
}

TEST_F(Compiler, TwiceIsOnce) {
  Artifact artifact = parse(attention);
  ASSERT_FALSE(bool(compile(artifact, options, Phase::Tile)));
  std::string once = artifact.print();
  ASSERT_FALSE(bool(compile(artifact, options, Phase::Tile)));
  EXPECT_EQ(artifact.print(), once);
  EXPECT_EQ(parse(once).phase, Phase::Tile);
  EXPECT_EQ(parse(once).print(), once);
}

TEST_F(Compiler, DoesNotGoBack) {
  Artifact artifact = parse(attention);
  ASSERT_FALSE(bool(compile(artifact, options, Phase::Tile)));
  EXPECT_EQ(llvm::toString(compile(artifact, options, Phase::Fused)),
            "the input is at phase tile already, expected fused or an earlier "
            "one; a compile cannot go back");
}

TEST_F(Compiler, TargetHasNoSuchPhase) {
  Artifact artifact = parse(attention);
  EXPECT_EQ(llvm::toString(compile(artifact, options, Phase::PTX)),
            "target cpu has no such phase; see 'attnc help phases'");
}

TEST_F(Compiler, ObserverSeesEveryPhaseAndCanStop) {
  Artifact artifact = parse(attention);
  std::vector<std::string> seen;
  auto observe = [&](const PhaseStep &step, const Artifact &,
                     double) -> llvm::Error {
    seen.push_back(step.name.str());
    return step.phase == Phase::Tile ? llvm::createStringError("enough")
                                     : llvm::Error::success();
  };
  EXPECT_EQ(llvm::toString(compile(artifact, options, Phase::LLVM, observe)),
            "enough");
  EXPECT_EQ(seen, (std::vector<std::string>{"attn", "fused", "tile"}));
}

TEST_F(Compiler, RefusesWhatItCannotRead) {
  EXPECT_EQ(errorOf("module attributes {attnc.phase = \"soup\"} {}"),
            "test: error: unknown phase 'soup' of target cpu; expected one of "
            "attn fused tile formula vector llvm asm");
  EXPECT_NE(errorOf(std::string(1000, '(')).find("test:1:1: error: brackets"),
            std::string::npos);
  // Brackets in comments and strings do not nest.
  EXPECT_EQ(errorOf("// " + std::string(1000, '(') + "\nmodule {}"), "");
  EXPECT_NE(errorOf("\x7f"
                    "ELF")
                .find("machine code"),
            std::string::npos);
  EXPECT_NE(errorOf("module {").find("test:1:"), std::string::npos);
}

TEST_F(Compiler, TextOfAnotherTarget) {
  EXPECT_NE(errorOf(textHeader("//", "ptx", Target::SM90a) + ".version 8.4\n")
                .find("made for target sm_90a, expected cpu"),
            std::string::npos);
  options.target = Target::SM90a;
  std::string text = textHeader("//", "ptx", Target::SM90a) + ".version 8.4\n";
  Artifact artifact = parse(text);
  EXPECT_EQ(artifact.phase, Phase::PTX);
  EXPECT_EQ(artifact.print(), text);
}

} // namespace
