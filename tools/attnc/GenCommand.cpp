//===- GenCommand.cpp - attnc gen: attention from flags -------------------===//

#include "tools/attnc/Commands.h"

#include "lib/Compiler/Compiler.h"
#include "lib/Frontend/Attention.h"
#include "lib/Support/File.h"

#include "mlir/IR/MLIRContext.h"

using namespace attnc;
using namespace llvm;

namespace {
class GenCommand : public Command {
public:
  GenCommand();
  OptionTable &table() override { return options; }
  Expected<int> run() override;

private:
  AttentionDescription request;
  std::string output = "-";
  OptionTable options{
      "gen [options] [-o OUT.mlir]",
      "Writes attention as IR: the unfused steps, commented, to read, edit "
      "and\n"
      "compile. Sizes that are not given are run-time sizes (?), except the\n"
      "head dim, which is 64.",
      "  attnc gen --score=sigmoid --causal\n"
      "  attnc gen --score=softmax --window=128,0 --heads=8 --kv-heads=2 "
      "--lse\n"
      "  attnc gen --score=softcap --dtype=bf16 --layout=bshd -o a.mlir"};
};
} // namespace

void attnc::addAttentionOptions(OptionTable &options,
                                AttentionDescription &request) {
  options.section("function");
  options.choice("score", scoreNames(), request.score,
                 "How logits become weights; sigmoid by default.");
  options.choice("bias", {"none", "scalar", "head", "key", "full"},
                 request.bias,
                 "What is added to the logits: a number, one a head, one a "
                 "(b, key), or a whole (b, h, i, j) tensor. Scalar by default "
                 "for sigmoid, else none.");
  options.flag("alibi", request.alibi,
               "Subtracts slope[h] * distance from the logits.");
  options.flag("scale", request.scale,
               "Takes the scale as an argument instead of 1/sqrt(d).");
  options.flag("gate", request.gate, "Multiplies the output by sigmoid(gate).");
  options.flag("lse", request.lse,
               "Also returns log sum exp of the logits (softmax only); with "
               "--backward, takes its gradient too.");
  options.choice("backward", {"operands", "all"}, request.backward,
                 "The function of the gradients of query, key and value, or of "
                 "bias, slopes, gate and scale too (docs/backward.md).",
                 "operands");
  options.section("mask");
  options.choice("causal", {"bottom_right", "top_left"}, request.causal,
                 "No key after the query; the diagonal ends in the bottom "
                 "right corner by default.",
                 "bottom_right");
  options.text("window", "L,R", request.window,
               "Only L keys before the diagonal and R after it; -1: all.");
  options.list("mask", "documents|dilated[:STRIDE]|tensor", request.masks,
               "Keys of the query's own document, every STRIDE-th key, or "
               "what a boolean tensor says.");
  options.flag("q-len", request.qLen,
               "Each sequence has its own query length.");
  options.flag("kv-len", request.kvLen,
               "Each sequence has its own key length.");
  options.section("sizes and types");
  constexpr int64_t most = int64_t(1) << 31;
  options.integer("head-dim", request.headDim, 1, 4096,
                  "Elements of a query and key row; 64 by default.");
  options.integer("value-head-dim", request.valueHeadDim, 1, 4096,
                  "Elements of a value row; the head dim by default.");
  options.integer("heads", request.heads, 1, most, "Query heads.");
  options.integer("kv-heads", request.kvHeads, 1, most,
                  "Key and value heads, a divisor of the query heads.");
  options.integer("batch", request.batch, 0, most, "Sequences.");
  options.integer("seq", request.seq, 0, most, "Query rows.");
  options.integer("kv-seq", request.kvSeq, 0, most,
                  "Key rows; as many as query rows by default.");
  options.choice("dtype", {"f32", "f16", "bf16"}, request.dtype,
                 "Element type of query, key and value; f32 by default.");
  options.choice("out-dtype", {"f32", "f16", "bf16"}, request.outDtype,
                 "Element type of the output; that of the operands by "
                 "default.");
  options.choice("layout", {"bhsd", "bshd"}, request.layout,
                 "Order of the dims; bhsd by default.");
}

Expected<AttentionDescription> attnc::parseAttention(StringRef flags) {
  AttentionDescription description;
  OptionTable options("gen", "");
  addAttentionOptions(options, description);
  SmallVector<StringRef> words;
  flags.split(words, ' ', -1, /*KeepEmpty=*/false);
  if (Error error = options.parse(words))
    return std::move(error);
  return description;
}

GenCommand::GenCommand() {
  addAttentionOptions(options, request);
  options.section("output");
  options.text("o", "OUT.mlir", output,
               "Where the IR goes; standard output by default.");
}

Expected<int> GenCommand::run() {
  std::string flags;
  for (const std::string &argument : options.given())
    if (!StringRef(argument).starts_with("-o"))
      flags += " " + argument;
  auto text = writeAttention(request, flags);
  if (!text)
    return text.takeError();

  // What cannot be read back is not handed out.
  auto context = makeContext();
  CompileOptions compileOptions;
  auto parsed = parseArtifact(*text, "generated", *context, compileOptions);
  if (!parsed)
    return parsed.takeError();
  if (Error error = writeOutput(output, *text))
    return std::move(error);
  return 0;
}

std::unique_ptr<Command> attnc::makeGenCommand() {
  return std::make_unique<GenCommand>();
}
