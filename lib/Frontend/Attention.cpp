//===- Attention.cpp - Attention as IR, from a description ----------------===//

#include "lib/Frontend/Attention.h"

#include "lib/Support/File.h"
#include "lib/Support/Suggest.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/raw_ostream.h"

using namespace attnc;
using namespace llvm;

//===----------------------------------------------------------------------===//
// The score functions
//===----------------------------------------------------------------------===//

namespace {
/// A run-time scalar and what `attnc run` passes when nothing is given.
struct ScalarArgument {
  StringLiteral name, initial, comment;
};

/// One row: how logits become weights. `modifier` and `activation` are the
/// bodies of regions, of %s and %x, that end in a value %y and %p.
struct ScoreFunction {
  StringLiteral name;
  StringLiteral formula;
  StringLiteral modifier = "";
  /// Empty: softmax.
  StringLiteral activation = "";
  StringLiteral normalize = "";
  ScalarArgument scalar = {"", "", ""};
  /// A kind of attn.row_norm that the modifier gets of q_i and k_j, as %qn
  /// and %kn; the dot product is not scaled then.
  StringLiteral rowNorm = "";
  /// Divides each output row by its root mean square.
  bool rmsNorm = false;
  StringLiteral bias = "none";
};
} // namespace

static constexpr ScalarArgument weightScale = {
    "weight_scale", "\"1/n\"", "n^-alpha, so that a row's weights add to O(1)"};

static constexpr ScoreFunction scoreFunctions[] = {
    {"sigmoid",
     "p = 1 / (1 + exp(-x)), with b = -ln n to start from",
     "",
     "%p = attn.logistic %x : f32\n",
     "",
     {"", "", ""},
     "",
     false,
     "scalar"},
    {"softmax", "p = exp(x - max x) / sum exp(x - max x)"},
    {"relu", "p = max(x, 0)", "",
     "%zero = arith.constant 0.0 : f32\n"
     "%p = arith.maximumf %x, %zero : f32\n"},
    {"relu2", "p = max(x, 0)^2 n^-alpha", "",
     "%zero = arith.constant 0.0 : f32\n"
     "%r = arith.maximumf %x, %zero : f32\n"
     "%r2 = arith.mulf %r, %r : f32\n"
     "%p = arith.mulf %r2, %weight_scale : f32\n",
     "", weightScale},
    {"rela",
     "p = max(x, 0), o = o / rms(o)",
     "",
     "%zero = arith.constant 0.0 : f32\n"
     "%p = arith.maximumf %x, %zero : f32\n",
     "",
     {"", "", ""},
     "",
     true},
    {"softcap",
     "softmax of cap tanh(s / cap)",
     "%ratio = arith.divf %s, %cap : f32\n"
     "%t = math.tanh %ratio : f32\n"
     "%y = arith.mulf %t, %cap : f32\n",
     "",
     "",
     {"cap", "50.0 : f32", "logits stay inside (-cap, cap)"}},
    {"silu", "p = x / (1 + exp(-x)) / n", "",
     "%g = attn.logistic %x : f32\n"
     "%xg = arith.mulf %x, %g : f32\n"
     "%p = arith.mulf %xg, %weight_scale : f32\n",
     "", weightScale},
    {"softplus", "p = ln(1 + exp(x)) / sum ln(1 + exp(x))", "",
     "// max(x, 0) + ln(1 + exp(-|x|)), which cannot overflow\n"
     "%zero = arith.constant 0.0 : f32\n"
     "%a = math.absf %x : f32\n"
     "%n = arith.negf %a : f32\n"
     "%e = math.exp %n : f32\n"
     "%l = math.log1p %e : f32\n"
     "%m = arith.maximumf %x, %zero : f32\n"
     "%p = arith.addf %m, %l : f32\n",
     "l1"},
    {"poly", "p = x^3 n^-alpha", "",
     "%x2 = arith.mulf %x, %x : f32\n"
     "%x3 = arith.mulf %x2, %x : f32\n"
     "%p = arith.mulf %x3, %weight_scale : f32\n",
     "", weightScale},
    {"linear", "p = x / n", "", "%p = arith.mulf %x, %weight_scale : f32\n", "",
     weightScale},
    {"cosine",
     "softmax of temperature q.k / (|q| |k|)",
     "%c = arith.mulf %s, %qn : f32\n"
     "%cos = arith.mulf %c, %kn : f32\n"
     "%y = arith.mulf %cos, %temperature : f32\n",
     "",
     "",
     {"temperature", "10.0 : f32", "what the cosine is multiplied by"},
     "inverse_l2"},
    {"gaussian",
     "p = exp(-gamma |q - k|^2) / sum exp(-gamma |q - k|^2)",
     "// |q - k|^2 = |q|^2 + |k|^2 - 2 q.k\n"
     "%two = arith.constant 2.0 : f32\n"
     "%norms = arith.addf %qn, %kn : f32\n"
     "%cross = arith.mulf %s, %two : f32\n"
     "%distance = arith.subf %norms, %cross : f32\n"
     "%scaled = arith.mulf %distance, %gamma : f32\n"
     "%y = arith.negf %scaled : f32\n",
     "%p = math.exp %x : f32\n",
     "l1",
     {"gamma", "\"0.5/sqrt(d)\"", "the kernel's inverse width"},
     "squared_l2"},
};

SmallVector<StringRef> attnc::scoreNames() {
  SmallVector<StringRef> names;
  for (const ScoreFunction &score : scoreFunctions)
    names.push_back(score.name);
  return names;
}

//===----------------------------------------------------------------------===//
// What is asked for
//===----------------------------------------------------------------------===//

namespace {
/// A description with everything filled in.
struct Request : AttentionDescription {
  const ScoreFunction *function = nullptr;
  std::string align;
  /// A loss depends on the LSE, too.
  bool lseGradient = false;
  std::optional<int64_t> windowLeft, windowRight, dilation;
  std::string flags;
};

/// Fills in what follows from what was given, and refuses what cannot be.
class Completer {
public:
  Completer(Request &request, StringRef prefix)
      : request(request), prefix(prefix) {}
  Error run();

private:
  Error choose(StringRef name, StringRef value, ArrayRef<StringRef> choices);
  Error checkChoices();
  Error checkSizes();
  Error completeWindow();
  Error completeMasks();
  std::string named(StringRef name, StringRef value = "") const;

  Request &request;
  StringRef prefix;
};
} // namespace

/// "--kv-heads=3" or "attention.kv_heads = 3".
std::string Completer::named(StringRef name, StringRef value) const {
  std::string text = (prefix + name).str();
  bool option = prefix == "--";
  if (!option)
    std::replace(text.begin(), text.end(), '-', '_');
  return value.empty() ? text : text + (option ? "=" : " = ") + value.str();
}

Error Completer::choose(StringRef name, StringRef value,
                        ArrayRef<StringRef> choices) {
  if (is_contained(choices, value))
    return Error::success();
  return makeError(named(name) + ": expected one of " + join(choices, ", ") +
                   ", got '" + value + "'" + didYouMean(value, choices));
}

Error Completer::checkChoices() {
  const StringRef floats[] = {"f32", "f16", "bf16"};
  if (Error error = choose("score", request.score, scoreNames()))
    return error;
  request.function = find_if(scoreFunctions, [&](const ScoreFunction &row) {
    return row.name == request.score;
  });
  if (request.bias.empty())
    request.bias = request.function->bias.str();
  if (request.outDtype.empty())
    request.outDtype = request.dtype;
  if (Error error = choose("bias", request.bias,
                           {"none", "scalar", "head", "key", "full"}))
    return error;
  if (Error error = choose("dtype", request.dtype, floats))
    return error;
  if (Error error = choose("out-dtype", request.outDtype, floats))
    return error;
  if (Error error = choose("layout", request.layout, {"bhsd", "bshd"}))
    return error;
  if (!request.backward.empty())
    if (Error error = choose("backward", request.backward, {"operands", "all"}))
      return error;
  if (request.causal.empty())
    return Error::success();
  return choose("causal", request.causal, {"bottom_right", "top_left"});
}

Error Completer::checkSizes() {
  constexpr int64_t most = int64_t(1) << 31, mostFeatures = 4096;
  struct Size {
    StringLiteral name;
    std::optional<int64_t> value;
    int64_t least, most;
  };
  for (const Size &size :
       {Size{"head-dim", request.headDim, 1, mostFeatures},
        Size{"value-head-dim", request.valueHeadDim, 1, mostFeatures},
        Size{"heads", request.heads, 1, most},
        Size{"kv-heads", request.kvHeads, 1, most},
        Size{"batch", request.batch, 0, most},
        Size{"seq", request.seq, 0, most},
        Size{"kv-seq", request.kvSeq, 0, most}})
    if (size.value && (*size.value < size.least || *size.value > size.most))
      return makeError(named(size.name) + ": expected a number from " +
                       Twine(size.least) + " to " + Twine(size.most) +
                       ", got " + Twine(*size.value));
  if (!request.headDim)
    request.headDim = 64;
  if (!request.valueHeadDim)
    request.valueHeadDim = request.headDim;
  if (!request.kvHeads)
    request.kvHeads = request.heads;
  if (!request.kvSeq)
    request.kvSeq = request.seq;
  if (request.heads && request.kvHeads &&
      *request.heads % *request.kvHeads != 0)
    return makeError(named("kv-heads") + ": expected a divisor of " +
                     named("heads", std::to_string(*request.heads)) + ", got " +
                     Twine(*request.kvHeads));
  return Error::success();
}

Error Completer::completeWindow() {
  if (request.window.empty())
    return Error::success();
  auto [left, right] = StringRef(request.window).split(',');
  int64_t l, r;
  if (left.getAsInteger(10, l) || right.getAsInteger(10, r) || l < -1 ||
      r < -1 || l > INT32_MAX || r > INT32_MAX)
    return makeError(named("window") +
                     ": expected L,R, each -1 or more, got '" + request.window +
                     "'; for example " + named("window", "128,0"));
  request.windowLeft = l;
  request.windowRight = r;
  return Error::success();
}

Error Completer::completeMasks() {
  for (const std::string &mask : request.masks) {
    auto [kind, stride] = StringRef(mask).split(':');
    if (kind == "dilated") {
      int64_t step = 2;
      if (!stride.empty() &&
          (stride.getAsInteger(10, step) || step < 1 || step > INT32_MAX))
        return makeError(named("mask", "dilated") +
                         ": expected a stride of 1 or more, got '" + stride +
                         "'; for example dilated:4");
      request.dilation = step;
    } else if (mask != "documents" && mask != "tensor") {
      return makeError(named("mask") +
                       ": expected documents, dilated[:STRIDE] or tensor, "
                       "got '" +
                       mask + "'" +
                       didYouMean(kind, {"documents", "dilated", "tensor"}));
    }
  }
  for (size_t k = 0; k < request.masks.size(); ++k)
    for (size_t other = 0; other < k; ++other)
      if (StringRef(request.masks[k]).split(':').first ==
          StringRef(request.masks[other]).split(':').first)
        return makeError(named("mask") + ": '" + request.masks[k] +
                         "' is given twice");
  return Error::success();
}

Error Completer::run() {
  if (Error error = checkChoices())
    return error;
  if (Error error = checkSizes())
    return error;
  const ScoreFunction &score = *request.function;
  // The gradients of a softmax need it.
  request.lseGradient = request.lse && !request.backward.empty();
  request.lse |= !request.backward.empty() && score.activation.empty();
  if (request.lse && !score.activation.empty())
    return makeError(named("lse") +
                     ": expected a softmax score (softmax, softcap or "
                     "cosine), got " +
                     named("score", request.score));
  if (request.scale && !score.rowNorm.empty())
    return makeError(named("scale") + ": " + named("score", request.score) +
                     " has its own scalar '" + score.scalar.name +
                     "' instead; leave " + named("scale") + " out");
  if (request.causal == "top_left")
    request.align = "top_left";
  if (Error error = completeWindow())
    return error;
  return completeMasks();
}

std::string attnc::flagsOf(const AttentionDescription &description) {
  AttentionDescription usual;
  std::string text;
  auto value = [&](StringRef name, const std::string &given,
                   const std::string &otherwise) {
    if (given != otherwise)
      text += (" --" + name + "=" + given).str();
  };
  auto flag = [&](StringRef name, bool given) {
    if (given)
      text += (" --" + name).str();
  };
  auto size = [&](StringRef name, std::optional<int64_t> given) {
    if (given)
      text += (" --" + name + "=" + Twine(*given)).str();
  };
  text += " --score=" + description.score;
  value("bias", description.bias, usual.bias);
  flag("alibi", description.alibi);
  flag("scale", description.scale);
  flag("gate", description.gate);
  flag("lse", description.lse);
  if (description.backward == "operands")
    text += " --backward";
  else
    value("backward", description.backward, usual.backward);
  if (description.causal == "bottom_right")
    text += " --causal";
  else
    value("causal", description.causal, usual.causal);
  value("window", description.window, usual.window);
  for (const std::string &mask : description.masks)
    text += " --mask=" + mask;
  flag("q-len", description.qLen);
  flag("kv-len", description.kvLen);
  size("head-dim", description.headDim);
  size("value-head-dim", description.valueHeadDim);
  size("heads", description.heads);
  size("kv-heads", description.kvHeads);
  size("batch", description.batch);
  size("seq", description.seq);
  size("kv-seq", description.kvSeq);
  value("dtype", description.dtype, usual.dtype);
  value("out-dtype", description.outDtype, usual.outDtype);
  value("layout", description.layout, usual.layout);
  return text;
}

AttentionDescription
attnc::withoutSizes(const AttentionDescription &description) {
  AttentionDescription result = description;
  result.batch = result.seq = result.kvSeq = std::nullopt;
  // S-gqa: the row norms of key heads are found by a map, which wants numbers.
  auto row = find_if(scoreFunctions, [&](const ScoreFunction &row) {
    return row.name == description.score;
  });
  bool grouped =
      result.heads && result.kvHeads && *result.heads != *result.kvHeads;
  if (!grouped || row == std::end(scoreFunctions) || row->rowNorm.empty())
    result.heads = result.kvHeads = std::nullopt;
  return result;
}

//===----------------------------------------------------------------------===//
// Writing
//===----------------------------------------------------------------------===//

namespace {
/// Writes the function for a request, part by part.
class Writer {
public:
  explicit Writer(const Request &request)
      : request(request), score(*request.function), os(body) {}

  std::string write();

private:
  // Each appends to the body; `logits` and `output` name the last results.
  void writeScores();
  void writeModifier();
  void writeBias();
  void writeAlibi();
  void writeMasks();
  void writeWeights();
  void writeApply();
  void writeEpilogue();
  std::string head() const;

  void argument(StringRef name, StringRef type, StringRef comment,
                StringRef initial = "");
  void step(StringRef comment) { os << "\n  // " << comment << '\n'; }
  void region(StringRef arguments, StringRef text, StringRef result);
  std::string tensor(ArrayRef<std::string> sizes, StringRef element) const;
  std::string head4(const std::string &b, const std::string &h,
                    const std::string &s, const std::string &d,
                    StringRef element) const;
  std::string alignment() const {
    return request.align.empty() ? "" : " align " + request.align;
  }
  std::string layout() const {
    return request.layout == "bshd" ? " layout bshd" : "";
  }
  bool hasEpilogue() const { return request.gate || score.rmsNorm; }
  /// The gradient of an epilogue reads what it reads.
  bool returnsBoth() const {
    return hasEpilogue() && !request.backward.empty();
  }
  StringRef accumulated() const {
    return hasEpilogue() && !returnsBoth() ? "!acc" : "!o";
  }

  const Request &request;
  const ScoreFunction &score;
  std::string arguments, body, results;
  raw_string_ostream os;
  /// Sizes as text, `?` for a run-time one.
  std::string b, hq, hk, sq, sk, d, dv;
  std::string logits = "%scores", output;
};
} // namespace

static std::string sizeText(std::optional<int64_t> size) {
  return size ? std::to_string(*size) : "?";
}

std::string Writer::tensor(ArrayRef<std::string> sizes,
                           StringRef element) const {
  std::string text = "tensor<";
  for (const std::string &size : sizes)
    text += size + "x";
  return text + element.str() + ">";
}

std::string Writer::head4(const std::string &b, const std::string &h,
                          const std::string &s, const std::string &d,
                          StringRef element) const {
  if (request.layout == "bshd")
    return tensor({b, s, h, d}, element);
  return tensor({b, h, s, d}, element);
}

void Writer::argument(StringRef name, StringRef type, StringRef comment,
                      StringRef initial) {
  if (!arguments.empty())
    arguments += ",\n";
  if (!comment.empty())
    arguments += "    // " + comment.str() + "\n";
  arguments += "    %" + name.str() + ": " + type.str() + " {attn.name = \"" +
               name.str() + "\"";
  if (!initial.empty())
    arguments += ", attn.default = " + initial.str();
  bool isOperand = name == "query" || name == "key" || name == "value";
  bool isCaptured =
      name == "bias" || name == "slopes" || name == "gate" || name == "scale";
  if (isOperand ? !request.backward.empty()
                : isCaptured && request.backward == "all")
    arguments += ", attn.gradient";
  arguments += "}";
}

void Writer::region(StringRef arguments, StringRef text, StringRef result) {
  os << " {\n  ^bb0(" << arguments << "):\n";
  SmallVector<StringRef> lines;
  text.split(lines, '\n', -1, false);
  for (StringRef line : lines)
    os << "    " << line << '\n';
  os << "    attn.yield " << result << " : f32\n  }";
}

static constexpr StringLiteral scorePosition =
    "%s: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32";

void Writer::writeScores() {
  bool scaled = score.rowNorm.empty();
  step(scaled ? "s = scale * q_i . k_j, by default scale = 1 / sqrt(d)"
              : "s = q_i . k_j");
  if (!scaled)
    os << "  %one = arith.constant 1.0 : f32\n";
  os << "  %scores = attn.scores %query, %key";
  if (!scaled)
    os << " scale %one";
  else if (request.scale)
    os << " scale %scale";
  if (request.qLen)
    os << " q_len %q_len : !len";
  if (request.kvLen)
    os << " k_len %k_len : !len";
  os << layout() << " : !q, !k -> !s\n";
}

void Writer::writeModifier() {
  if (score.modifier.empty())
    return;
  bool norms = !score.rowNorm.empty();
  if (norms) {
    step("a function of each row's norm, once per row");
    os << "  %q_norm = attn.row_norm " << score.rowNorm << " %query" << layout()
       << " : !q -> !qn\n"
       << "  %k_norm = attn.row_norm " << score.rowNorm << " %key" << layout()
       << " : !k -> !kn\n";
  }
  step("the score function's own part");
  os << "  %modified = attn.score_mod %scores";
  if (norms) {
    // S-gqa: query head h reads the norms of its key head.
    std::string keyHead = "h";
    if (request.heads && request.kvHeads && *request.heads != *request.kvHeads)
      keyHead +=
          " floordiv " + std::to_string(*request.heads / *request.kvHeads);
    os << " captures(%q_norm, %k_norm : !qn, !kn)\n      maps "
          "[affine_map<(b, h, i, j) -> (b, h, i)>, "
          "affine_map<(b, h, i, j) -> (b, "
       << keyHead << ", j)>]";
  }
  region((scorePosition + (norms ? ", %qn: f32, %kn: f32" : "")).str(),
         score.modifier, "%y");
  os << " : !s\n";
  logits = "%modified";
}

void Writer::writeBias() {
  if (request.bias == "none")
    return;
  struct Kind {
    StringLiteral name, map, comment;
    SmallVector<std::string> sizes;
  };
  Kind kinds[] = {
      {"scalar", "()", "x = s + bias", {}},
      {"head", "(h)", "x = s + bias[h]", {hq}},
      {"key", "(b, j)", "x = s + bias[b, j]", {b, sk}},
      {"full", "(b, h, i, j)", "x = s + bias[b, h, i, j]", {b, hq, sq, sk}},
  };
  const Kind &kind = *find_if(
      kinds, [&](const Kind &kind) { return kind.name == request.bias; });
  std::string type = kind.sizes.empty() ? "f32" : tensor(kind.sizes, "f32");
  bool logLength = score.bias == "scalar" && kind.name == "scalar";
  argument("bias", type,
           logLength ? "-ln n keeps a row's mass near 1 at initialisation" : "",
           kind.name != "scalar" ? ""
           : logLength           ? "\"-ln(n)\""
                                 : "0.0 : f32");
  step(kind.comment);
  os << "  %biased = attn.bias " << logits << ", %bias map affine_map<(b, h, "
     << "i, j) -> " << kind.map << "> : !s, " << type << '\n';
  logits = "%biased";
}

/// S-alibi: the whole term; sigmoid is not shift-invariant, so nothing that is
/// constant along a row may be dropped.
void Writer::writeAlibi() {
  if (!request.alibi)
    return;
  argument("slopes", tensor({hq}, "f32"), "one slope a head", "\"alibi\"");
  step("x = s - slope[h] * |i + k_len - q_len - j|");
  os << "  %leaning = attn.score_mod " << logits
     << " captures(%slopes : " << tensor({hq}, "f32") << ")\n"
     << "      maps [affine_map<(b, h, i, j) -> (h)>]";
  region((scorePosition + ", %slope: f32").str(),
         "%shift = arith.subi %kl, %ql : i32\n"
         "%diagonal = arith.addi %i, %shift : i32\n"
         "%before = arith.subi %diagonal, %j : i32\n"
         "%after = arith.subi %j, %diagonal : i32\n"
         "%steps = arith.maxsi %before, %after : i32\n"
         "%distance = arith.sitofp %steps : i32 to f32\n"
         "%penalty = arith.mulf %slope, %distance : f32\n"
         "%y = arith.subf %s, %penalty : f32\n",
         "%y");
  os << " : !s\n";
  logits = "%leaning";
}

void Writer::writeMasks() {
  std::vector<std::string> masks;
  std::string text;
  raw_string_ostream mask(text);
  if (!request.causal.empty()) {
    mask << "  %causal = attn.causal_mask" << alignment() << '\n';
    masks.push_back("%causal");
  }
  if (!request.window.empty()) {
    argument("window_left", "i32", "keys before the diagonal, -1: all",
             std::to_string(*request.windowLeft) + " : i32");
    argument("window_right", "i32", "keys after the diagonal, -1: all",
             std::to_string(*request.windowRight) + " : i32");
    mask << "  %window = attn.window_mask %window_left, %window_right"
         << alignment() << '\n';
    masks.push_back("%window");
  }
  for (const std::string &kind : request.masks) {
    if (kind == "documents") {
      std::string q = tensor({b, sq}, "i32"), k = tensor({b, sk}, "i32");
      argument("q_ids", q, "the document of each query", "\"documents\"");
      argument("k_ids", k, "the document of each key", "\"documents\"");
      mask << "  %documents = attn.document_mask %q_ids, %k_ids : " << q << ", "
           << k << '\n';
      masks.push_back("%documents");
    } else if (kind == "tensor") {
      std::string type = tensor({b, sq, sk}, "i1");
      argument("mask", type, "true = attend");
      mask << "  %tensor = attn.tensor_mask %mask map affine_map<(b, h, i, "
              "j) -> (b, i, j)> : "
           << type << '\n';
      masks.push_back("%tensor");
    } else {
      argument("stride", "i32", "every stride-th key from the diagonal",
               std::to_string(*request.dilation) + " : i32");
      mask << "  %dilated = attn.dilated_mask %stride" << alignment() << '\n';
      masks.push_back("%dilated");
    }
  }
  if (masks.empty())
    return;
  step("which keys a query may attend; all masks must agree");
  os << text << "  %masked = attn.mask " << logits << " by "
     << join(masks, ", ") << " : !s\n";
  logits = "%masked";
}

void Writer::writeWeights() {
  step(score.formula);
  if (score.activation.empty()) {
    os << "  %weights = attn.softmax " << logits << " : !s\n";
    return;
  }
  os << "  %weights = attn.activation " << logits;
  region("%x: f32", score.activation, "%p");
  os << " : !s\n";
}

void Writer::writeApply() {
  step(score.normalize.empty() ? "o = sum_j p_ij v_j"
                               : "o = sum_j p_ij v_j / sum_j p_ij");
  os << "  %o = attn.apply %weights, %value";
  if (!score.normalize.empty())
    os << " normalize " << score.normalize;
  os << layout() << " : !s, !v -> " << accumulated() << '\n';
  output = "%o";
}

static constexpr StringLiteral outputPosition =
    "%o_d: f32, %b: i32, %h: i32, %i: i32, %d: i32";

void Writer::writeEpilogue() {
  if (!hasEpilogue())
    return;
  std::string arguments = outputPosition.str(), text, value = "%o_d";
  if (score.rmsNorm) {
    step("o / sqrt(mean_d o^2 + 1e-6)");
    arguments += ", %mean_square: f32";
    text += "%epsilon = arith.constant 1.0e-6 : f32\n"
            "%ms = arith.addf %mean_square, %epsilon : f32\n"
            "%r = math.rsqrt %ms : f32\n"
            "%normed = arith.mulf %o_d, %r : f32\n";
    value = "%normed";
  }
  if (request.gate) {
    step("o * sigmoid(gate)");
    argument("gate", "!o", "");
    arguments += ", %gate_d: f32";
    text += "%g = attn.logistic %gate_d : f32\n"
            "%gated = arith.mulf " +
            value + ", %g : f32\n";
    value = "%gated";
  }
  os << "  %result = attn.epilogue %o";
  if (request.gate)
    os << " captures(%gate : !o)\n      maps [affine_map<(b, h, i, d) -> "
       << (request.layout == "bshd" ? "(b, i, h, d)" : "(b, h, i, d)") << ">]";
  if (score.rmsNorm)
    os << " stats [1 : i32]";
  os << layout();
  region(arguments, text, value);
  os << " : " << accumulated() << " -> !o\n";
  output = "%result";
}

std::string Writer::head() const {
  StringRef element = request.dtype, outElement = request.outDtype;
  std::string text;
  raw_string_ostream head(text);
  head << "// Attention: " << score.formula << ".\n"
       << "// attnc gen" << request.flags << "\n\n"
       << "!q = " << head4(b, hq, sq, d, element) << '\n'
       << "!k = " << head4(b, hk, sk, d, element) << '\n'
       << "!v = " << head4(b, hk, sk, dv, element) << '\n'
       << "!s = " << tensor({b, hq, sq, sk}, "f32") << '\n'
       << "!o = " << head4(b, hq, sq, dv, outElement) << '\n';
  if (accumulated() == "!acc")
    head << "!acc = " << head4(b, hq, sq, dv, "f32") << '\n';
  if (!score.rowNorm.empty())
    head << "!qn = " << tensor({b, hq, sq}, "f32") << '\n'
         << "!kn = " << tensor({b, hk, sk}, "f32") << '\n';
  if (request.lse)
    head << "!lse = " << tensor({b, hq, sq}, "f32") << '\n';
  if (request.qLen || request.kvLen)
    head << "!len = " << tensor({b}, "i32") << '\n';
  return text;
}

std::string Writer::write() {
  d = sizeText(request.headDim);
  dv = sizeText(request.valueHeadDim);
  b = sizeText(request.batch);
  hq = sizeText(request.heads);
  hk = sizeText(request.kvHeads);
  sq = sizeText(request.seq);
  sk = sizeText(request.kvSeq);

  bool bshd = request.layout == "bshd";
  argument("query", "!q", bshd ? "(B, S, H, D)" : "(B, H, S, D)");
  // An affine map cannot say h floordiv (Hq / Hkv) of run-time heads.
  bool sameHeads = !score.rowNorm.empty() && !request.heads;
  argument("key", "!k",
           sameHeads ? "with fewer heads than query, state both numbers: "
                       "--heads, --kv-heads"
                     : "");
  argument("value", "!v", "");
  if (request.scale)
    argument("scale", "f32", "", "\"1/sqrt(d)\"");
  if (!score.scalar.name.empty())
    argument(score.scalar.name, "f32", score.scalar.comment,
             score.scalar.initial);
  if (request.qLen)
    argument("q_len", "!len", "each sequence's own length", "\"lengths\"");
  if (request.kvLen)
    argument("k_len", "!len", "each sequence's own length", "\"lengths\"");

  writeScores();
  writeModifier();
  writeBias();
  writeAlibi();
  writeMasks();
  if (request.lse) {
    step("log sum_j exp(x)");
    os << "  %lse = attn.lse " << logits << " : !s -> !lse\n";
  }
  writeWeights();
  writeApply();
  writeEpilogue();

  std::string results, returned, types;
  auto give = [&](StringRef value, StringRef type, StringRef name,
                  StringRef more = "") {
    StringRef comma = returned.empty() ? "" : ", ";
    returned += (comma + value).str();
    types += (comma + type).str();
    results +=
        (comma + type + " {attn.name = \"" + name + "\"" + more + "}").str();
  };
  give(returnsBoth() ? StringRef("%o") : output, "!o",
       returnsBoth() ? "ungated" : "output");
  if (request.lse)
    give("%lse", "!lse", "lse", request.lseGradient ? ", attn.gradient" : "");
  if (returnsBoth())
    give(output, "!o", "output");
  // The pass attn-differentiate makes such a function its own gradient.
  std::string attributes =
      request.backward.empty() ? "" : " attributes {attn.differentiate}";
  return head() + "\nfunc.func @attention(\n" + arguments + ")\n    -> (" +
         results + ")" + attributes + " {" + body + "\n  return " + returned +
         " : " + types + "\n}\n";
}

Expected<std::string> attnc::writeAttention(AttentionDescription description,
                                            StringRef flags, StringRef prefix) {
  Request request;
  static_cast<AttentionDescription &>(request) = std::move(description);
  request.flags = flags.str();
  if (Error error = Completer(request, prefix).run())
    return std::move(error);
  return Writer(request).write();
}
