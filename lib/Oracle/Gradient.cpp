//===- Gradient.cpp - What the gradients should have been -----------------===//
//
// Row by row, as the forward: dual numbers through the elementwise regions,
// the calculus of sums for the rest.
//
//===----------------------------------------------------------------------===//

#include "lib/Oracle/Evaluation.h"

#include "llvm/ADT/MapVector.h"
#include "llvm/Support/FormatVariadic.h"

#include <atomic>
#include <thread>

using namespace mlir;
using namespace attnc;
using namespace attnc::oracle;

namespace {

/// One step from the scores to the logits.
struct LogitStep {
  /// attn.bias has none.
  Region *region = nullptr;
  SmallVector<Value> captures;
  SmallVector<AffineMap> maps;
};

/// An attention, however it was written.
struct Chain {
  /// attn.scores or attn.fused.
  Operation *scores = nullptr;
  SmallVector<LogitStep> steps;
  SmallVector<Value> masks;
  Region *activation = nullptr;
  attn::Normalize normalize = attn::Normalize::None;
  Value query, key, value, output, scale;
  attn::Layout layout = attn::Layout::BHSD;
  Region *epilogue = nullptr;
  SmallVector<Value> epilogueCaptures;
  SmallVector<AffineMap> epilogueMaps;
  SmallVector<attn::RowStat> stats;
};

SmallVector<AffineMap> mapsOf(ArrayAttr maps) {
  return llvm::to_vector(maps.getAsValueRange<AffineMapAttr>());
}

using Gradients = llvm::MapVector<Value, Tensor>;

class Differentiation : public Evaluation {
public:
  using Evaluation::Evaluation;
  llvm::Expected<std::vector<Tensor>> run(ArrayRef<Argument> arguments);

private:
  llvm::Error findChain();
  void followSteps(Value logits);
  bool asksForLse();
  llvm::Error readHandedOver(ArrayRef<Argument> arguments);
  void findWanted();
  bool wants(Value value) const { return value && gradients.count(value); }
  /// Whether every task owns the rows that it adds to.
  bool isOwned(Value value) const {
    return value == chain.query || value == chain.key || value == chain.value;
  }

  /// One row's work.
  struct RowState {
    Position p;
    Row row;
    /// The logits and weights, and what a change of the direction makes.
    Lanes weights;
    double inverse = 1;
    std::vector<double> doutput;
  };
  DualLanes logits(const Row &row, Position p, Value direction) const;
  DualLanes weigh(const DualLanes &logits, const Row &row,
                  Value direction) const;
  void differentiateRow(Position p, Gradients &sums) const;
  std::vector<double> differentiateEpilogue(Position p, ArrayRef<double> output,
                                            Gradients &sums) const;
  void addToCapture(Gradients &sums, Value capture, AffineMap map, Position p,
                    const Lanes &values) const;
  void addToRows(const RowState &state, const Lanes &dlogits) const;
  void differentiateNorms();
  void addThroughNorm(attn::RowNorm norm, ArrayRef<double> row, double value,
                      double change, MutableArrayRef<double> sum) const;
  void addThroughStat(attn::RowStat stat, ArrayRef<double> row, double value,
                      double change, MutableArrayRef<double> sum) const;

  Chain chain;
  /// dO, or the gradient of what the epilogue makes.
  Tensor doutput;
  /// Of a softmax: what the forward handed over.
  Tensor storedOutput;
  /// Of a softmax's LSE, if the function asks for it; empty else.
  Tensor dlse;
  Gradients gradients;
  SmallVector<Value> wanted;
};

//===----------------------------------------------------------------------===//
// Reading the function
//===----------------------------------------------------------------------===//

void Differentiation::followSteps(Value logits) {
  while (Operation *op = logits.getDefiningOp()) {
    if (auto scores = dyn_cast<attn::ScoresOp>(op)) {
      chain.scores = scores;
      chain.query = scores.getQuery();
      chain.key = scores.getKey();
      break;
    }
    if (auto bias = dyn_cast<attn::BiasOp>(op))
      chain.steps.push_back({nullptr, {bias.getBias()}, {bias.getMap()}});
    else if (auto mod = dyn_cast<attn::ScoreModOp>(op))
      chain.steps.push_back({&mod.getBody(), llvm::to_vector(mod.getCaptures()),
                             mapsOf(mod.getMaps())});
    else if (auto mask = dyn_cast<attn::MaskLogitsOp>(op))
      llvm::append_range(chain.masks, mask.getMasks());
    else if (auto activation = dyn_cast<attn::ActivationOp>(op))
      chain.activation = &activation.getBody();
    else if (isa<attn::SoftmaxOp>(op))
      chain.normalize = attn::Normalize::Softmax;
    logits = op->getOperand(0);
  }
  std::reverse(chain.steps.begin(), chain.steps.end());
}

llvm::Error Differentiation::findChain() {
  Value result;
  // What an epilogue makes comes after what it is given.
  for (Value returned : function.front().getTerminator()->getOperands()) {
    Operation *op = returned.getDefiningOp();
    bool isLast = isa_and_nonnull<attn::EpilogueOp>(op);
    if (!isa_and_nonnull<attn::LseOp>(op) && (!result || isLast))
      result = returned;
  }
  chain.output = result;
  Operation *op = result ? result.getDefiningOp() : nullptr;
  if (auto epilogue = dyn_cast_or_null<attn::EpilogueOp>(op)) {
    chain.epilogue = &epilogue.getBody();
    chain.epilogueCaptures = llvm::to_vector(epilogue.getCaptures());
    chain.epilogueMaps = mapsOf(epilogue.getMaps());
    for (auto stat : epilogue.getStats().getAsRange<attn::RowStatAttr>())
      chain.stats.push_back(stat.getValue());
    op = epilogue.getInput().getDefiningOp();
  }
  if (auto apply = dyn_cast_or_null<attn::ApplyOp>(op)) {
    chain.normalize = apply.getNormalize();
    chain.value = apply.getValue();
    chain.layout = apply.getLayout();
    followSteps(apply.getWeights());
  } else if (auto fused = dyn_cast_or_null<attn::FusedOp>(op)) {
    chain.scores = fused;
    chain.query = fused.getQuery();
    chain.key = fused.getKey();
    chain.value = fused.getValue();
    chain.layout = fused.getLayout();
    chain.normalize = fused.getNormalize();
    chain.masks = llvm::to_vector(fused.getMasks());
    if (!fused.getScoreMod().empty())
      chain.steps.push_back({&fused.getScoreMod(),
                             llvm::to_vector(fused.getScoreCaptures()),
                             mapsOf(fused.getScoreMaps())});
    if (!fused.getActivation().empty())
      chain.activation = &fused.getActivation();
    if (!fused.getEpilogue().empty()) {
      chain.epilogue = &fused.getEpilogue();
      chain.epilogueCaptures = llvm::to_vector(fused.getEpilogueCaptures());
      chain.epilogueMaps = mapsOf(fused.getEpilogueMaps());
      for (auto stat : fused.getStats().getAsRange<attn::RowStatAttr>())
        chain.stats.push_back(stat.getValue());
    }
  }
  if (auto fused = dyn_cast_or_null<attn::FusedOp>(chain.scores))
    chain.scale = fused.getScale();
  else if (auto scores = dyn_cast_or_null<attn::ScoresOp>(chain.scores))
    chain.scale = scores.getScale();
  if (!chain.scores)
    return llvm::createStringError(
        "the reference differentiates a function that returns the output of "
        "one attention");
  return llvm::Error::success();
}

void Differentiation::findWanted() {
  for (BlockArgument argument : function.getArguments())
    if (function.getArgAttr(argument.getArgNumber(), attn::kGradientAttr))
      wanted.push_back(argument);
  if (wanted.empty())
    for (BlockArgument argument : function.getArguments())
      if (llvm::is_contained({chain.query, chain.key, chain.value}, argument))
        wanted.push_back(argument);
  auto want = [&](Value value) {
    auto tensor = tensors.find(value);
    gradients[value] = tensor == tensors.end()
                           ? makeTensor({}, 0)
                           : makeTensor(tensor->second.shape, 0);
  };
  for (Value value : wanted)
    want(value);
  // A norm's gradient goes on to what it is the norm of.
  for (auto norm : function.getOps<attn::RowNormOp>())
    if (wants(norm.getInput()))
      want(norm.getResult());
}

//===----------------------------------------------------------------------===//
// One row
//===----------------------------------------------------------------------===//

/// The logits, and their derivatives by the scores (no direction) or by a
/// captured value.
DualLanes Differentiation::logits(const Row &row, Position p,
                                  Value direction) const {
  DualLanes x = {row.x, Lanes(row.kLen, direction ? 0 : 1)};
  auto captured = [&](Value value, AffineMap map) {
    return DualLanes{getCapture(value, map, p, row.kLen),
                     {value == direction ? 1.0 : 0.0}};
  };
  for (const LogitStep &step : chain.steps) {
    if (!step.region) {
      DualLanes bias = captured(step.captures[0], step.maps[0]);
      Lanes values = spread(bias.x, row.kLen);
      for (int64_t j = 0; j < row.kLen; ++j) {
        x.x[j] = round(x.x[j] + values[j]);
        x.t[j] += bias.t[0];
      }
      continue;
    }
    std::vector<DualLanes> arguments = {x};
    for (Lanes position :
         {Lanes{double(p.b)}, Lanes{double(p.h)}, Lanes{double(p.i)},
          countUp(row.kLen), Lanes{double(row.qLen)}, Lanes{double(row.kLen)}})
      arguments.push_back({std::move(position), {0}});
    for (auto [value, map] : llvm::zip_equal(step.captures, step.maps))
      arguments.push_back(captured(value, map));
    x = programs.at(step.region).runDual(std::move(arguments), direction);
    x = {spread(x.x, row.kLen), spread(x.t, row.kLen)};
  }
  return x;
}

/// An activation and its derivative in the same direction.
DualLanes Differentiation::weigh(const DualLanes &logits, const Row &row,
                                 Value direction) const {
  if (!chain.activation)
    return logits;
  DualLanes w = programs.at(chain.activation).runDual({logits}, direction);
  return {spread(w.x, row.kLen), spread(w.t, row.kLen)};
}

/// Adds one value a key to the elements they belong to.
void Differentiation::addToCapture(Gradients &sums, Value capture,
                                   AffineMap map, Position p,
                                   const Lanes &values) const {
  Tensor &sum = sums[capture];
  for (auto [j, value] : llvm::enumerate(values)) {
    int64_t dims[] = {p.b, p.h, p.i, int64_t(j)}, offset = 0;
    bool inside = true;
    for (auto [expr, size] : llvm::zip_equal(map.getResults(), sum.shape)) {
      int64_t index = evaluateAffine(expr, dims);
      inside &= index >= 0 && index < size;
      offset = offset * size + index;
    }
    if (inside)
      sum.data[offset] = round(sum.data[offset] + value);
  }
}

/// dQ, dK and dV from the weights and dS of a row.
void Differentiation::addToRows(const RowState &state,
                                const Lanes &dlogits) const {
  Position p = state.p;
  const Row &row = state.row;
  Type valueType =
      cast<RankedTensorType>(chain.value.getType()).getElementType();
  bool exact = options.precision == Precision::Exact;
  Heads query(tensors.at(chain.query), chain.layout);
  Heads key(tensors.at(chain.key), chain.layout);
  double scale = chain.scale ? scalars.lookup(chain.scale)
                             : round(1 / std::sqrt(double(query.width)));
  // `add` a multiple of a row to a row of a gradient.
  auto add = [&](Value to, int64_t h, int64_t s, double factor,
                 const double *values) {
    auto sum = gradients.find(to);
    if (sum == gradients.end())
      return;
    // The rows of a task are in no other.
    Heads place(sum->second, chain.layout);
    auto *at = const_cast<double *>(place.row(p.b, h, s));
    for (int64_t d = 0; d < place.width; ++d)
      at[d] = round(at[d] + round(factor * values[d]));
  };
  for (int64_t j = 0; j < row.kLen; ++j) {
    if (!row.keep[j])
      continue;
    double weight = state.weights[j] * state.inverse, ds = dlogits[j];
    if (!exact)
      weight = roundToType(weight, valueType);
    add(chain.value, row.keyHead, j, weight, state.doutput.data());
    add(chain.query, p.h, p.i, round(scale * ds), key.row(p.b, row.keyHead, j));
    add(chain.key, row.keyHead, j, round(scale * ds), query.row(p.b, p.h, p.i));
  }
}

void Differentiation::differentiateRow(Position p, Gradients &sums) const {
  RowState state;
  state.p = p;
  state.row = isa<attn::FusedOp>(chain.scores)
                  ? getScores(cast<attn::FusedOp>(chain.scores), p)
                  : getScores(cast<attn::ScoresOp>(chain.scores), p);
  Row &row = state.row;
  if (!row.exists(p) || row.kLen == 0)
    return;
  mask(row, chain.masks, p);
  DualLanes x = logits(row, p, {});
  DualLanes w = weigh(x, row, {});
  bool isSoftmax = chain.normalize == attn::Normalize::Softmax;
  Row forward = row;
  forward.x = w.x;
  if (isSoftmax) {
    double lse = softmax(forward);
    w.x = forward.x;
    // Plain f32 has the formula of the gradients: the forward's LSE in f32.
    if (plain)
      for (int64_t j = 0; j < row.kLen; ++j)
        w.x[j] = row.keep[j] ? round(std::exp(round(x.x[j] - lse))) : 0;
  }
  std::vector<double> output =
      apply(forward, chain.value, chain.normalize, chain.layout, p);
  // An epilogue's gradients read the output as it is stored, and give dO in
  // the type of the products' operands.
  bool isStored =
      options.precision != Precision::Exact && !storedOutput.data.empty();
  if (chain.epilogue && isStored) {
    Heads stored(storedOutput, chain.layout);
    const double *o = stored.row(p.b, p.h, p.i);
    output.assign(o, o + output.size());
  }
  state.doutput = differentiateEpilogue(p, output, sums);
  if (chain.epilogue && isStored)
    for (double &d : state.doutput)
      d = roundToType(
          d, cast<RankedTensorType>(chain.value.getType()).getElementType());
  state.weights = w.x;

  // dp = dO . v
  Heads values(tensors.at(chain.value), chain.layout);
  Lanes dp(row.kLen, 0);
  double sum = 0, delta = 0;
  for (int64_t j = 0; j < row.kLen; ++j) {
    if (!row.keep[j])
      continue;
    const double *v = values.row(p.b, row.keyHead, j);
    dp[j] = plain ? dot<float>(state.doutput.data(), v, values.width)
                  : dot<double>(state.doutput.data(), v, values.width);
    sum = round(sum + w.x[j]);
    delta = round(delta + round(w.x[j] * dp[j]));
  }
  if (chain.normalize != attn::Normalize::None) {
    state.inverse = sum == 0 ? 0 : isSoftmax && plain ? 1 : round(1 / sum);
    delta = round(delta * state.inverse);
  }
  // The output of a softmax is an operand of its gradients, as it is stored.
  if (isSoftmax && options.precision != Precision::Exact) {
    Heads stored(storedOutput, chain.layout);
    const double *o = stored.row(p.b, p.h, p.i);
    delta = 0;
    for (auto [d, value] : llvm::enumerate(state.doutput))
      delta = round(delta + round(value * o[d]));
  }
  // An LSE changes with a logit by its weight.
  double drow = 0;
  if (!dlse.data.empty())
    drow = dlse.data[(p.b * dlse.shape[1] + p.h) * dlse.shape[2] + p.i];
  Type keyType = cast<RankedTensorType>(chain.key.getType()).getElementType();
  bool normalised = chain.normalize != attn::Normalize::None;
  // From dp to the gradient along a direction: that of the scores is null.
  auto along = [&](Value direction) {
    DualLanes x = logits(row, p, direction), change = x;
    if (!isSoftmax)
      change = weigh(x, row, direction);
    Lanes result(row.kLen, 0);
    for (int64_t j = 0; j < row.kLen; ++j) {
      if (!row.keep[j] || change.t[j] == 0)
        continue;
      double d = normalised
                     ? round(round(round(dp[j] - delta) + drow) * state.inverse)
                     : dp[j];
      if (isSoftmax)
        d = round(w.x[j] * d);
      result[j] = round(d * change.t[j]);
      if (options.precision != Precision::Exact)
        result[j] = roundToType(result[j], keyType);
    }
    return result;
  };
  Lanes dscores = along({});
  addToRows(state, dscores);
  llvm::DenseMap<Value, AffineMap> directions;
  for (const LogitStep &step : chain.steps)
    for (auto [value, map] : llvm::zip_equal(step.captures, step.maps))
      if (wants(value))
        directions[value] = map;
  AffineMap nowhere = AffineMap::get(4, 0, {}, chain.query.getContext());
  for (auto &[value, sum] : gradients)
    if (!isOwned(value) && (directions.count(value) || !tensors.count(value)))
      addToCapture(sums, value,
                   directions.count(value) ? directions[value] : nowhere, p,
                   along(value));
  if (!wants(chain.scale))
    return;
  Heads query(tensors.at(chain.query), chain.layout);
  Heads key(tensors.at(chain.key), chain.layout);
  for (int64_t j = 0; j < row.kLen; ++j)
    if (row.keep[j])
      dscores[j] =
          round(dscores[j] *
                round(dot<double>(query.row(p.b, p.h, p.i),
                                  key.row(p.b, row.keyHead, j), query.width)));
  addToCapture(sums, chain.scale, nowhere, p, dscores);
}

//===----------------------------------------------------------------------===//
// Epilogues
//===----------------------------------------------------------------------===//

/// dO of a row, from the gradient of what the epilogue makes of it.
std::vector<double>
Differentiation::differentiateEpilogue(Position p, ArrayRef<double> output,
                                       Gradients &sums) const {
  int64_t width = output.size();
  Heads place(doutput, chain.layout);
  const double *given = place.row(p.b, p.h, p.i);
  std::vector<double> dy(given, given + width);
  if (!chain.epilogue)
    return dy;
  std::vector<double> values;
  for (attn::RowStat stat : chain.stats)
    values.push_back(getStat(stat, output));
  // The derivative of every output by o (no direction and no statistic), by a
  // statistic or by a captured value.
  auto derive = [&](Value direction, int statistic) {
    bool byOutput = !direction && statistic < 0;
    std::vector<DualLanes> arguments = {
        {Lanes(output.begin(), output.end()), {byOutput ? 1.0 : 0.0}}};
    for (Lanes position : {Lanes{double(p.b)}, Lanes{double(p.h)},
                           Lanes{double(p.i)}, countUp(width)})
      arguments.push_back({std::move(position), {0}});
    for (auto [k, value] : llvm::enumerate(values))
      arguments.push_back({{value}, {int(k) == statistic ? 1.0 : 0.0}});
    for (auto [value, map] :
         llvm::zip_equal(chain.epilogueCaptures, chain.epilogueMaps))
      arguments.push_back(
          {getCapture(value, map, p, width), {value == direction ? 1.0 : 0.0}});
    DualLanes y =
        programs.at(chain.epilogue).runDual(std::move(arguments), direction);
    Lanes result = spread(y.t, width);
    for (int64_t d = 0; d < width; ++d)
      result[d] = round(result[d] * dy[d]);
    return result;
  };
  std::vector<double> d = derive({}, -1);
  for (auto [k, stat] : llvm::enumerate(chain.stats)) {
    double dstat = 0;
    for (double x : derive({}, int(k)))
      dstat = round(dstat + x);
    addThroughStat(stat, output, values[k], dstat, d);
  }
  for (auto [value, map] :
       llvm::zip_equal(chain.epilogueCaptures, chain.epilogueMaps))
    if (wants(value))
      addToCapture(sums, value, map, p, derive(value, -1));
  return d;
}

//===----------------------------------------------------------------------===//
// The whole
//===----------------------------------------------------------------------===//

/// |x|^2 has the gradient 2x, 1/|x| has -x / |x|^3.
void Differentiation::differentiateNorms() {
  for (auto norm : function.getOps<attn::RowNormOp>()) {
    if (!wants(norm.getInput()))
      continue;
    Heads input(tensors.at(norm.getInput()), norm.getLayout());
    Heads to(gradients[norm.getInput()], norm.getLayout());
    const Tensor &values = tensors.at(norm.getResult());
    const Tensor &changes = gradients[norm.getResult()];
    for (int64_t k = 0; k < int64_t(values.data.size()); ++k) {
      int64_t s = k % input.length, h = k / input.length % input.heads;
      int64_t b = k / input.length / input.heads;
      ArrayRef<double> x(input.row(b, h, s), input.width);
      MutableArrayRef<double> at(const_cast<double *>(to.row(b, h, s)),
                                 to.width);
      addThroughNorm(norm.getKind(), x, values.data[k], changes.data[k], at);
    }
  }
}

/// Adds to the gradient of a row what comes through a norm of it.
void Differentiation::addThroughNorm(attn::RowNorm norm, ArrayRef<double> row,
                                     double value, double change,
                                     MutableArrayRef<double> sum) const {
  if (std::optional<attn::RowStat> stat = attn::getRowStat(norm))
    return addThroughStat(*stat, row, value, change, sum);
  double factor = norm == attn::RowNorm::SquaredL2 ? 2 : -value * value * value;
  for (auto [d, x] : llvm::enumerate(row))
    sum[d] = round(sum[d] + round(round(factor * change) * x));
}

/// Several elements that are the largest share its gradient.
void Differentiation::addThroughStat(attn::RowStat stat, ArrayRef<double> row,
                                     double value, double change,
                                     MutableArrayRef<double> sum) const {
  double width = row.size(), largest = 0;
  for (double x : row)
    largest += std::fabs(x) == value;
  for (auto [d, x] : llvm::enumerate(row)) {
    double part = 0;
    if (stat == attn::RowStat::Mean)
      part = change / width;
    else if (stat == attn::RowStat::MeanSquare)
      part = round(change * 2 / width) * x;
    else if (std::fabs(x) == value && x != 0)
      part = (x < 0 ? -change : change) / largest;
    sum[d] = round(sum[d] + round(part));
  }
}

/// Whether the gradient of the LSE is an operand.
bool Differentiation::asksForLse() {
  auto returned = function.front().getTerminator()->getOperands();
  for (auto [index, value] : llvm::enumerate(returned))
    if (function.getResultAttr(index, attn::kGradientAttr) &&
        (isa<attn::LseOp>(value.getDefiningOp()) ||
         (isa<attn::FusedOp>(value.getDefiningOp()) &&
          cast<OpResult>(value).getResultNumber() == 1)))
      return true;
  return false;
}

/// What is handed over behind the forward's arguments: a softmax's output, the
/// gradient of its LSE and, as the last argument, that of the output.
llvm::Error Differentiation::readHandedOver(ArrayRef<Argument> arguments) {
  unsigned count = function.getNumArguments();
  const auto *given = arguments.size() > count
                          ? std::get_if<ViewArgument>(&arguments.back())
                          : nullptr;
  if (!given)
    return llvm::createStringError(
        "the last argument must be the gradient of the output");
  Type outputType =
      cast<RankedTensorType>(chain.output.getType()).getElementType();
  doutput = readTensor(*given, outputType);
  bool hands = arguments.size() > count + 1;
  if (chain.normalize == attn::Normalize::Softmax || hands) {
    const auto *stored =
        hands ? std::get_if<ViewArgument>(&arguments[count]) : nullptr;
    if (!stored)
      return llvm::createStringError(
          "a softmax's output must come before the gradient of the output");
    storedOutput = readTensor(*stored, outputType);
  }
  if (asksForLse()) {
    const auto *change = arguments.size() > count + 3
                             ? std::get_if<ViewArgument>(&arguments[count + 2])
                             : nullptr;
    if (!change)
      return llvm::createStringError(
          "the gradient of the LSE must come before that of the output");
    dlse = readTensor(*change, Float32Type::get(function.getContext()));
  }
  return llvm::Error::success();
}

llvm::Expected<std::vector<Tensor>>
Differentiation::run(ArrayRef<Argument> arguments) {
  if (llvm::Error error = findChain())
    return std::move(error);
  if (llvm::Error error = readHandedOver(arguments))
    return std::move(error);
  // The forward, for its norms and scalars; no row of it.
  options.rows.emplace();
  auto forward =
      Evaluation::run(arguments.take_front(function.getNumArguments()));
  if (!forward)
    return forward.takeError();
  findWanted();

  Heads query(tensors.at(chain.query), chain.layout);
  Heads key(tensors.at(chain.key), chain.layout);
  int64_t groups = query.batch * key.heads;
  int64_t group = key.heads ? query.heads / key.heads : 0;
  // A task has the rows of one key head, and sums of its own.
  Gradients shared;
  for (auto &[value, tensor] : gradients)
    if (!isOwned(value))
      shared[value] = tensor;
  std::vector<Gradients> sums(groups, shared);
  std::atomic<int64_t> next = 0;
  auto work = [&] {
    for (int64_t k = next++; k < groups; k = next++)
      for (int64_t g = 0; g < group; ++g)
        for (int64_t i = 0; i < query.length; ++i)
          differentiateRow({k / key.heads, k % key.heads * group + g, i},
                           sums[k]);
  };
  unsigned threads =
      options.threads ? options.threads : std::thread::hardware_concurrency();
  std::vector<std::thread> others;
  for (unsigned k = 1; k < threads && k < groups; ++k)
    others.emplace_back(work);
  work();
  for (std::thread &other : others)
    other.join();
  for (const Gradients &task : sums)
    for (auto &[value, tensor] : task)
      for (auto [sum, part] :
           llvm::zip_equal(gradients[value].data, tensor.data))
        sum = round(sum + part);
  differentiateNorms();
  std::vector<Tensor> results;
  for (Value value : wanted)
    results.push_back(gradients[value]);
  return results;
}

} // namespace

llvm::Expected<std::vector<Tensor>>
attnc::oracle::differentiate(func::FuncOp function,
                             ArrayRef<Argument> arguments,
                             const Options &options) {
  return Differentiation(function, options).run(arguments);
}
