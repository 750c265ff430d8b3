//===- Attention.cpp - Problems of every kind -----------------------------===//

#include "test/unit/numerics/Attention.h"

#include "llvm/Support/ErrorHandling.h"

#include <cmath>

using namespace attnc;
using namespace attnc::numerics;

//===----------------------------------------------------------------------===//
// Score functions and masks
//===----------------------------------------------------------------------===//

static Score make(std::string name, std::string activation,
                  std::string normalize = "") {
  Score score;
  score.name = std::move(name);
  score.activation = std::move(activation);
  score.normalize = std::move(normalize);
  return score;
}

static std::vector<Score> makeScores() {
  std::vector<Score> scores;
  Score sigmoid = make("sigmoid", "%p = attn.logistic %x : f32\n");
  sigmoid.lengthBias = true;
  scores.push_back(sigmoid);

  scores.push_back(make("softmax", ""));

  const char *relu = "%zero = arith.constant 0.0 : f32\n"
                     "%p = arith.maximumf %x, %zero : f32\n";
  scores.push_back(make("relu", relu));

  Score relu2 = make("relu2", "%zero = arith.constant 0.0 : f32\n"
                              "%r = arith.maximumf %x, %zero : f32\n"
                              "%r2 = arith.mulf %r, %r : f32\n"
                              "%p = arith.mulf %r2, %weight : f32\n");
  relu2.scalar = "weight";
  relu2.value = 1;
  relu2.perKey = true;
  scores.push_back(relu2);

  Score rela = make("rela", relu);
  rela.rmsNorm = true;
  scores.push_back(rela);

  Score softcap = make("softcap", "");
  softcap.modifier = "%ratio = arith.divf %s, %cap : f32\n"
                     "%t = math.tanh %ratio : f32\n"
                     "%y = arith.mulf %t, %cap : f32\n";
  softcap.scalar = "cap";
  softcap.value = 5;
  scores.push_back(softcap);

  Score silu = make("silu", "%g = attn.logistic %x : f32\n"
                            "%xg = arith.mulf %x, %g : f32\n"
                            "%p = arith.mulf %xg, %weight : f32\n");
  silu.scalar = "weight";
  silu.value = 1;
  silu.perKey = true;
  scores.push_back(silu);

  scores.push_back(make("softplus",
                        "%zero = arith.constant 0.0 : f32\n"
                        "%a = math.absf %x : f32\n"
                        "%n = arith.negf %a : f32\n"
                        "%e = math.exp %n : f32\n"
                        "%l = math.log1p %e : f32\n"
                        "%m = arith.maximumf %x, %zero : f32\n"
                        "%p = arith.addf %m, %l : f32\n",
                        "l1"));

  Score polynomial = make("polynomial", "%x2 = arith.mulf %x, %x : f32\n"
                                        "%x3 = arith.mulf %x2, %x : f32\n"
                                        "%p = arith.mulf %x3, %weight : f32\n");
  polynomial.scalar = "weight";
  polynomial.value = 1;
  polynomial.perKey = true;
  scores.push_back(polynomial);

  Score linear = make("linear", "%p = arith.mulf %x, %weight : f32\n");
  linear.scalar = "weight";
  linear.value = 1;
  linear.perKey = true;
  scores.push_back(linear);

  Score cosine = make("cosine", "");
  cosine.modifier = "%c = arith.mulf %s, %qn : f32\n"
                    "%cc = arith.mulf %c, %kn : f32\n"
                    "%y = arith.mulf %cc, %temperature : f32\n";
  cosine.scalar = "temperature";
  cosine.value = 10;
  cosine.rowNorm = "inverse_l2";
  scores.push_back(cosine);

  Score gaussian = make("gaussian", "%p = math.exp %x : f32\n", "l1");
  gaussian.modifier = "%two = arith.constant 2.0 : f32\n"
                      "%norms = arith.addf %qn, %kn : f32\n"
                      "%cross = arith.mulf %s, %two : f32\n"
                      "%distance = arith.subf %norms, %cross : f32\n"
                      "%scaled = arith.mulf %distance, %gamma : f32\n"
                      "%y = arith.negf %scaled : f32\n";
  gaussian.scalar = "gamma";
  gaussian.value = 0.05;
  gaussian.rowNorm = "squared_l2";
  scores.push_back(gaussian);

  Score gate = sigmoid;
  gate.name = "gate";
  gate.gate = true;
  scores.push_back(gate);
  return scores;
}

const std::vector<Score> &numerics::getScores() {
  static const std::vector<Score> scores = makeScores();
  return scores;
}

const Score &numerics::getScore(const std::string &name) {
  for (const Score &score : getScores())
    if (score.name == name)
      return score;
  llvm::report_fatal_error("no such score function");
}

const std::vector<Mask> &numerics::getMasks() {
  static const std::vector<Mask> masks = {
      Mask::None,   Mask::Causal,    Mask::CausalTopLeft,
      Mask::Window, Mask::Document,  Mask::Dilated,
      Mask::Tensor, Mask::Predicate, Mask::CausalAndWindow};
  return masks;
}

const char *numerics::getName(Mask mask) {
  static const char *names[] = {"none",   "causal",    "causal_top_left",
                                "window", "document",  "dilated",
                                "tensor", "predicate", "causal_and_window"};
  return names[int(mask)];
}

//===----------------------------------------------------------------------===//
// The problem
//===----------------------------------------------------------------------===//

namespace {

class Builder {
public:
  explicit Builder(const Attention &a) : a(a), random(a.seed) {}

  Problem build() {
    makeTypes();
    makeTensors();
    scores();
    capture();
    modify();
    mask();
    weigh();
    epilogue();
    return std::move(problem);
  }

private:
  using Shape = std::vector<int64_t>;

  double normal() { return std::normal_distribution<double>()(random); }
  int64_t below(int64_t bound) { return random() % bound; }

  Shape shapeOf(int64_t heads, int64_t rows, int64_t width) const {
    if (a.bshd)
      return {a.batch, rows, heads, width};
    return {a.batch, heads, rows, width};
  }

  std::string tensor(int64_t width, Dtype dtype) const {
    return "tensor<?x?x?x" + std::to_string(width) + "x" + getName(dtype) + ">";
  }

  Dtype outputType() const { return a.gradients ? a.dtype : Dtype::F32; }

  void makeTypes() {
    problem.head = "!q = " + tensor(a.dim, a.dtype) +
                   "\n!v = " + tensor(a.valueDim, a.dtype) +
                   "\n!o = " + tensor(a.valueDim, outputType()) +
                   "\n!s = tensor<?x?x?x?xf32>\n!r = tensor<?x?x?xf32>\n"
                   "!l = tensor<?xi32>";
    layout = a.bshd ? " layout bshd" : "";
    problem.results = {"!o"};
    problem.resultType = outputType();
    problem.wanted = a.wanted;
    problem.lseGradient = a.lseGradient;
    if (a.gradients && !a.queryLengths.empty())
      problem.beyond = [a = a](Buffer &rows) { plantNan(a, rows); };
  }

  void add(std::string name, ArgumentValue value) {
    problem.parameters.push_back({std::move(name), std::move(value)});
  }

  /// Rows at or beyond a sequence's length stay NaN.
  Buffer makeRows(int64_t heads, int64_t rows, int64_t width,
                  const std::vector<int32_t> &lengths, double std, double mean,
                  bool tails) {
    Buffer buffer = Buffer::make(a.dtype, shapeOf(heads, rows, width), a.gap);
    double factor = 1;
    for (int64_t k = 0; k < buffer.count(); ++k) {
      int64_t outer = k / width;
      int64_t b = outer / (heads * rows);
      int64_t row = a.bshd ? outer / heads % rows : outer % rows;
      // Heavy tails: rows of very different size, of the same variance. The
      // factor's second moment is e^2.
      if (k % width == 0)
        factor = tails ? std::exp(normal() - 1) : 1;
      double x = normal() * std * factor + mean;
      if (!lengths.empty() && row >= lengths[b])
        x = NAN;
      buffer.set(k, x);
    }
    return buffer;
  }

  /// In the rows of queries at or beyond each sequence's length.
  static void plantNan(const Attention &a, Buffer &buffer) {
    for (int64_t k = 0; k < buffer.count(); ++k) {
      int64_t outer = k / a.valueDim, b = outer / (a.heads * a.queries);
      int64_t row = a.bshd ? outer / a.heads % a.queries : outer % a.queries;
      if (row >= a.queryLengths[b])
        buffer.set(k, NAN);
    }
  }

  void makeTensors() {
    add("q", makeRows(a.heads, a.queries, a.dim, a.queryLengths, a.std, 0,
                      a.heavyTails));
    add("k",
        makeRows(a.keyHeads, a.keys, a.dim, a.keyLengths, 1, 0, a.heavyTails));
    add("v", makeRows(a.keyHeads, a.keys, a.valueDim, a.keyLengths, 1,
                      a.valueMean, false));
    if (a.scale)
      add("scale", *a.scale);
    else if (!a.score.rowNorm.empty())
      add("scale", 1.0f);
    addLengths("q_len", a.queryLengths);
    addLengths("k_len", a.keyLengths);
    if (!a.score.scalar.empty())
      add(a.score.scalar,
          float(a.score.value /
                (a.score.perKey ? std::max<int64_t>(a.keys, 1) : 1)));
    double bias = a.bias ? *a.bias
                  : a.score.lengthBias
                      ? -std::log(double(std::max<int64_t>(a.keys, 1)))
                      : 0;
    if (a.bias || a.score.lengthBias)
      add("bias", float(bias));
  }

  void addLengths(const char *name, const std::vector<int32_t> &lengths) {
    if (lengths.empty())
      return;
    Buffer buffer = Buffer::make(Dtype::I32, {int64_t(lengths.size())});
    for (size_t k = 0; k < lengths.size(); ++k)
      buffer.set(k, lengths[k]);
    add(name, std::move(buffer));
  }

  /// The next name for logits, defined by `op` of the last.
  std::string next() {
    last = logits;
    logits = "%logits" + std::to_string(++count);
    return logits;
  }

  void line(const std::string &text) { problem.body += "  " + text + "\n"; }

  void scores() {
    if (!a.score.rowNorm.empty()) {
      line("%qnorm = attn.row_norm " + a.score.rowNorm + " %q" + layout +
           " : !q -> !r");
      line("%knorm = attn.row_norm " + a.score.rowNorm + " %k" + layout +
           " : !q -> !r");
    }
    std::string text = next() + " = attn.scores %q, %k";
    if (a.scale || !a.score.rowNorm.empty())
      text += " scale %scale";
    if (!a.queryLengths.empty())
      text += " q_len %q_len : !l";
    if (!a.keyLengths.empty())
      text += " k_len %k_len : !l";
    line(text + layout + " : !q, !q -> !s");
    if (a.bias || a.score.lengthBias)
      line(next() + " = attn.bias " + last +
           ", %bias map affine_map<(b, h, i, j) -> ()> : !s, f32");
  }

  static constexpr const char *kPosition =
      "%b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32";

  void addBias(const std::string &map, Shape shape) {
    Buffer table = Buffer::make(a.dtype, shape);
    for (int64_t k = 0; k < table.count(); ++k)
      table.set(k, normal());
    std::string type = "tensor<";
    for (size_t k = 0; k < shape.size(); ++k)
      type += k == 3 ? std::to_string(shape[k]) + "x" : "?x";
    add("table", std::move(table));
    line(next() + " = attn.bias " + last +
         ", %table map affine_map<(b, h, i, "
         "j) -> (" +
         map + ")> : !s, " + type + getName(a.dtype) + ">");
  }

  void capture() {
    switch (a.capture) {
    case Capture::None:
      return;
    case Capture::Scalar:
      add("extra", 0.25f);
      line(next() + " = attn.bias " + last +
           ", %extra map affine_map<(b, h, i, j) -> ()> : !s, f32");
      return;
    case Capture::H:
      return addBias("h", {a.heads});
    case Capture::BH:
      return addBias("b, h", {a.batch, a.heads});
    case Capture::I:
      return addBias("i", {a.queries});
    case Capture::J:
      return addBias("j", {a.keys});
    case Capture::Diagonal:
      // S-bias: relative positions from -31 to 32; 0 outside.
      return addBias("i - j + 31", {64});
    case Capture::DiagonalOfHead:
      return addBias("h, j - i + " + std::to_string(a.queries - 1),
                     {a.heads, a.queries + a.keys - 1});
    case Capture::DiagonalBuckets:
      return addBias("(i - j + " + std::to_string(a.keys - 1) +
                         ") floordiv 3, b",
                     {(a.queries + a.keys + 1) / 3, a.batch});
    case Capture::Pairs:
      return addBias("j, i", {a.keys, a.queries});
    case Capture::PairsOfGroups:
      // The last element is that of fewer heads, or of none.
      return addBias("h floordiv 3, i, j",
                     {a.heads / 3 + 1, a.queries, a.keys});
    case Capture::Full:
      return addBias("b, h, i, j", {a.batch, a.heads, a.queries, a.keys});
    case Capture::Alibi:
      return alibi();
    }
  }

  // S-alibi: in full, for a sigmoid does not forgive the row term.
  void alibi() {
    Buffer slopes = Buffer::make(Dtype::F32, {a.heads});
    for (int64_t h = 0; h < a.heads; ++h)
      slopes.set(h, std::exp2(-8.0 * (h + 1) / a.heads));
    add("slopes", std::move(slopes));
    line(next() + " = attn.score_mod " + last +
         " captures(%slopes : tensor<?xf32>) maps [affine_map<(b, h, i, j) -> "
         "(h)>] {\n  ^bb0(%s: f32, " +
         kPosition +
         ", %slope: f32):\n"
         "    %a0 = arith.addi %i, %kl : i32\n"
         "    %a1 = arith.subi %a0, %ql : i32\n"
         "    %a2 = arith.subi %a1, %j : i32\n"
         "    %a3 = math.absi %a2 : i32\n"
         "    %a4 = arith.sitofp %a3 : i32 to f32\n"
         "    %a5 = arith.mulf %a4, %slope : f32\n"
         "    %y = arith.subf %s, %a5 : f32\n"
         "    attn.yield %y : f32\n  } : !s");
  }

  void modify() {
    std::string body =
        a.randomModifier.empty() ? a.score.modifier : a.randomModifier;
    if (body.empty())
      return;
    bool norms = !a.score.rowNorm.empty();
    std::string group =
        std::to_string(a.heads / std::max<int64_t>(a.keyHeads, 1));
    std::string captures =
        norms ? " captures(%qnorm, %knorm : !r, !r) maps [affine_map<(b, h, i, "
                "j) -> (b, h, i)>, affine_map<(b, h, i, j) -> (b, h floordiv " +
                    group + ", j)>]"
              : "";
    line(next() + " = attn.score_mod " + last + captures +
         " {\n  ^bb0(%s: f32, " + kPosition +
         (norms ? ", %qn: f32, %kn: f32" : "") + "):\n" + body +
         "  attn.yield %y : f32\n  } : !s");
  }

  void mask() {
    std::string names;
    auto name = [&] {
      std::string made = "%m" + std::to_string(++count);
      names += (names.empty() ? "" : ", ") + made;
      return made;
    };
    switch (a.mask) {
    case Mask::None:
      return;
    case Mask::CausalAndWindow:
    case Mask::Causal:
      line(name() + " = attn.causal_mask");
      if (a.mask == Mask::CausalAndWindow)
        window(name());
      break;
    case Mask::CausalTopLeft:
      line(name() + " = attn.causal_mask align top_left");
      break;
    case Mask::Window:
      window(name());
      break;
    case Mask::Document:
      ids("q_ids", a.queries);
      ids("k_ids", a.keys);
      line(name() + " = attn.document_mask %q_ids, %k_ids : tensor<?x?xi32>, "
                    "tensor<?x?xi32>");
      break;
    case Mask::Dilated:
      add("stride", 3);
      line(name() + " = attn.dilated_mask %stride");
      break;
    case Mask::Tensor:
      flags();
      line(name() + " = attn.tensor_mask %flags map affine_map<(b, h, i, j) "
                    "-> (h, i, j)> : tensor<?x?x?xi1>");
      break;
    case Mask::Predicate:
      line(name() + " = attn.predicate_mask {\n"
                    "  ^bb0(%b: i32, %h: i32, %i: i32, %j: i32):\n"
                    "    %d = arith.addi %i, %j : i32\n"
                    "    %five = arith.constant 5 : i32\n"
                    "    %e = arith.remsi %d, %five : i32\n"
                    "    %c = arith.cmpi ne, %e, %h : i32\n"
                    "    attn.yield %c : i1\n  }");
      break;
    }
    line(next() + " = attn.mask " + last + " by " + names + " : !s");
  }

  void window(const std::string &name) {
    add("left", 20);
    add("right", 9);
    line(name + " = attn.window_mask %left, %right");
  }

  /// Documents of different sizes; the first queries have no key at all.
  void ids(const char *name, int64_t rows) {
    Buffer buffer = Buffer::make(Dtype::I32, {a.batch, rows});
    for (int64_t k = 0; k < buffer.count(); ++k)
      buffer.set(k, k % rows < 3 ? (name[0] == 'q' ? -1 : -2)
                                 : k % rows / 17 + 100 * (k / rows));
    add(name, std::move(buffer));
  }

  /// S-bool: True attends. Row 1 has no key.
  void flags() {
    Buffer buffer = Buffer::make(Dtype::I1, {a.heads, a.queries, a.keys});
    for (int64_t k = 0; k < buffer.count(); ++k)
      buffer.set(k, k / a.keys % a.queries != 1 && below(3) != 0);
    add("flags", std::move(buffer));
  }

  void weigh() {
    std::string weights = "%p";
    if (a.score.activation.empty()) {
      line("%p = attn.softmax " + logits + " : !s");
      if (a.lse || a.gradients) {
        line("%lse = attn.lse " + logits + " : !s -> !r");
        problem.results.push_back("!r");
      }
    } else {
      line("%p = attn.activation " + logits + " {\n  ^bb0(%x: f32):\n" +
           rename(a.score.activation) + "    attn.yield %w : f32\n  } : !s");
    }
    std::string normalize =
        a.score.normalize.empty() ? "" : " normalize " + a.score.normalize;
    line("%o = attn.apply %p, %v" + normalize + layout + " : !s, !v -> !o");
  }

  /// Inside the region %p would shadow the op's own name.
  static std::string rename(std::string body) {
    size_t at = body.find("%p = ");
    return body.replace(at, 2, "%w");
  }

  void epilogue() {
    std::string output = "%o";
    if (a.score.rmsNorm) {
      // Other statistics may be negative, and are small.
      std::string sum = "    %eps = arith.constant 1.0e-6 : f32\n"
                        "    %me = arith.addf %ms, %eps : f32\n";
      if (a.score.statistic != 1)
        sum = "    %one = arith.constant 1.0 : f32\n"
              "    %mm = arith.mulf %ms, %ms : f32\n"
              "    %me = arith.addf %mm, %one : f32\n";
      line("%n = attn.epilogue %o stats [" + std::to_string(a.score.statistic) +
           " : i32]" + layout +
           " {\n  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %d: i32, %ms: "
           "f32):\n" +
           sum +
           "    %rs = math.rsqrt %me : f32\n"
           "    %y = arith.mulf %e, %rs : f32\n"
           "    attn.yield %y : f32\n  } : !o -> !o");
      output = "%n";
    }
    if (a.score.gate) {
      auto [map, type] = addGate();
      line("%n = attn.epilogue %o captures(%gate : " + type +
           ") maps [affine_map<(b, h, i, d) -> (" + map + ")>]" + layout +
           " {\n  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %d: i32, %g: f32):\n"
           "    %sg = attn.logistic %g : f32\n"
           "    %y = arith.mulf %e, %sg : f32\n"
           "    attn.yield %y : f32\n  } : !o -> !o");
      output = "%n";
    }
    // A gradient of an epilogue reads what comes before it.
    bool both = a.gradients && a.score.hasEpilogue();
    if (both)
      problem.results.push_back("!o");
    bool lse = problem.results.size() > (both ? 2u : 1u);
    line("return " + (both ? "%o" : output) + (lse ? ", %lse" : "") +
         (both ? ", " + output : "") + " : !o" + (lse ? ", !r" : "") +
         (both ? ", !o" : ""));
  }

  /// The map and the type of the gate.
  std::pair<std::string, std::string> addGate() {
    std::string element = getName(a.dtype);
    Shape shape;
    std::pair<std::string, std::string> result;
    switch (a.gate) {
    case Gate::Full:
      shape = shapeOf(a.heads, a.queries, a.valueDim);
      result = {a.bshd ? "b, i, h, d" : "b, h, i, d", "!v"};
      break;
    case Gate::Rows:
      shape = {a.queries, a.heads};
      result = {"i, h", "tensor<?x?x" + element + ">"};
      break;
    case Gate::Columns:
      shape = {a.heads, a.valueDim};
      result = {"h, d", "tensor<?x?x" + element + ">"};
      break;
    case Gate::Shared:
      shape = {a.valueDim, a.queries};
      result = {"d, i", "tensor<?x?x" + element + ">"};
      break;
    case Gate::Scalar:
      add("gate", 0.4f);
      return {"", "f32"};
    }
    Buffer gate = Buffer::make(a.dtype, shape);
    for (int64_t k = 0; k < gate.count(); ++k)
      gate.set(k, normal());
    add("gate", std::move(gate));
    return result;
  }

  const Attention &a;
  std::mt19937 random;
  Problem problem;
  std::string layout, logits, last;
  int count = 0;
};

} // namespace

Problem Attention::build() const { return Builder(*this).build(); }
