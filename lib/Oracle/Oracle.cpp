//===- Oracle.cpp - What attention should have computed -------------------===//

#include "lib/Oracle/Evaluation.h"

#include "llvm/ADT/TypeSwitch.h"
#include "llvm/Support/FormatVariadic.h"

#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <thread>

using namespace mlir;
using namespace attnc;
using namespace attnc::oracle;

//===----------------------------------------------------------------------===//
// Tensors
//===----------------------------------------------------------------------===//

static double readFloat16(uint16_t bits) {
  int exponent = (bits >> 10) & 31, fraction = bits & 1023;
  double sign = bits >> 15 ? -1 : 1;
  if (exponent == 31)
    return fraction ? kNan : sign * kInf;
  if (exponent == 0)
    return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(1024 + fraction, exponent - 25);
}

template <typename T> static T readAs(const void *data, int64_t index) {
  T value;
  std::memcpy(&value, static_cast<const T *>(data) + index, sizeof value);
  return value;
}

static double readElement(const void *data, int64_t index, Type type) {
  if (type.isF32())
    return readAs<float>(data, index);
  if (type.isF16())
    return readFloat16(readAs<uint16_t>(data, index));
  if (type.isInteger(32))
    return readAs<int32_t>(data, index);
  if (type.isInteger(8))
    return readAs<int8_t>(data, index);
  if (type.isInteger(1))
    return readAs<uint8_t>(data, index) != 0;
  // bf16 is the upper half of an f32.
  uint32_t bits = uint32_t(readAs<uint16_t>(data, index)) << 16;
  return readAs<float>(&bits, 0);
}

static int64_t product(ArrayRef<int64_t> shape) {
  int64_t count = 1;
  for (int64_t size : shape)
    count *= size;
  return count;
}

Tensor oracle::makeTensor(ArrayRef<int64_t> shape, double value) {
  return {llvm::to_vector(shape), std::vector<double>(product(shape), value)};
}

Tensor oracle::readTensor(const ViewArgument &view, Type elementType) {
  Tensor tensor = makeTensor(view.sizes, 0);
  SmallVector<int64_t> index(view.sizes.size(), 0);
  for (double &element : tensor.data) {
    int64_t offset = 0;
    for (auto [i, stride] : llvm::zip_equal(index, view.strides))
      offset += i * stride;
    element = readElement(view.data, offset, elementType);
    for (size_t dim = index.size(); dim-- > 0;) {
      if (++index[dim] < view.sizes[dim])
        break;
      index[dim] = 0;
    }
  }
  return tensor;
}

double oracle::readOrZero(const Tensor &tensor, ArrayRef<int64_t> index) {
  int64_t offset = 0;
  for (auto [i, size] : llvm::zip_equal(index, tensor.shape)) {
    if (i < 0 || i >= size)
      return 0;
    offset = offset * size + i;
  }
  return tensor.data[offset];
}

//===----------------------------------------------------------------------===//
// Rows
//===----------------------------------------------------------------------===//

int64_t oracle::evaluateAffine(AffineExpr expr, ArrayRef<int64_t> dims) {
  if (auto dim = dyn_cast<AffineDimExpr>(expr))
    return dims[dim.getPosition()];
  if (auto constant = dyn_cast<AffineConstantExpr>(expr))
    return constant.getValue();
  auto binary = cast<AffineBinaryOpExpr>(expr);
  int64_t a = evaluateAffine(binary.getLHS(), dims);
  int64_t b = evaluateAffine(binary.getRHS(), dims);
  int64_t down = b ? a / b - (a % b != 0 && (a < 0) != (b < 0)) : 0;
  switch (expr.getKind()) {
  case AffineExprKind::Add:
    return a + b;
  case AffineExprKind::Mul:
    return a * b;
  case AffineExprKind::FloorDiv:
    return down;
  case AffineExprKind::CeilDiv:
    return down * b == a ? down : down + 1;
  case AffineExprKind::Mod:
    return a - down * b;
  default:
    return 0;
  }
}

//===----------------------------------------------------------------------===//
// The function
//===----------------------------------------------------------------------===//

llvm::Error Evaluation::bind(ArrayRef<Argument> arguments) {
  if (arguments.size() != function.getNumArguments())
    return llvm::createStringError(llvm::formatv(
        "function '{0}' has {1} arguments, got {2}", function.getName(),
        function.getNumArguments(), arguments.size()));
  for (auto [formal, actual] :
       llvm::zip_equal(function.getArguments(), arguments)) {
    auto tensor = dyn_cast<RankedTensorType>(formal.getType());
    const auto *view = std::get_if<ViewArgument>(&actual);
    if (bool(tensor) != bool(view) ||
        (tensor && (size_t(tensor.getRank()) != view->sizes.size() ||
                    view->sizes.size() != view->strides.size())))
      return llvm::createStringError(llvm::formatv(
          "argument {0} must be {1}", formal.getArgNumber(), formal.getType()));
    if (view)
      tensors[formal] = readTensor(*view, tensor.getElementType());
    else if (const float *scalar = std::get_if<float>(&actual))
      scalars[formal] = *scalar;
    else
      scalars[formal] = std::get<int32_t>(actual);
  }
  return llvm::Error::success();
}

llvm::Error Evaluation::compileRegions() {
  for (Operation &op : function.getBody().front())
    for (Region &region : op.getRegions()) {
      if (region.empty())
        continue;
      llvm::Expected<RegionProgram> program =
          RegionProgram::compile(region.front(), options.precision, scalars);
      if (!program)
        return program.takeError();
      programs[&region] = std::move(*program);
    }
  return llvm::Error::success();
}

llvm::Expected<std::vector<Tensor>>
Evaluation::run(ArrayRef<Argument> arguments) {
  if (function.isExternal())
    return llvm::createStringError("function '" + function.getName() +
                                   "' has no body");
  if (llvm::Error error = bind(arguments))
    return error;
  // Scalars first: regions read them.
  Block &body = function.getBody().front();
  for (Operation &op : body)
    if (op.getNumResults() == 1 &&
        op.getResult(0).getType().isIntOrIndexOrFloat())
      if (llvm::Error error = evaluate(op))
        return error;
  if (llvm::Error error = compileRegions())
    return error;
  for (Operation &op : body.without_terminator())
    if (op.getNumResults() != 1 ||
        !op.getResult(0).getType().isIntOrIndexOrFloat())
      if (llvm::Error error = evaluate(op))
        return error;
  std::vector<Tensor> results;
  for (Value result : body.getTerminator()->getOperands()) {
    auto tensor = tensors.find(result);
    if (tensor == tensors.end())
      return llvm::createStringError(llvm::formatv(
          "the reference cannot return a value of type {0}: only results of "
          "attn.apply, attn.epilogue, attn.lse, attn.row_norm and attn.fused",
          result.getType()));
    results.push_back(tensor->second);
  }
  return results;
}

llvm::Error Evaluation::checkLogits(Value value) const {
  while (Operation *op = value.getDefiningOp()) {
    if (isa<attn::ScoresOp>(op))
      return llvm::Error::success();
    if (!isa<attn::BiasOp, attn::ScoreModOp, attn::MaskLogitsOp,
             attn::ActivationOp, attn::SoftmaxOp>(op))
      break;
    value = op->getOperand(0);
  }
  return llvm::createStringError("logits must come from attn.scores");
}

llvm::Error Evaluation::evaluate(Operation &op) {
  // Rows of logits and masks are computed when something asks for them.
  if (isa<attn::ScoresOp, attn::MaskOpInterface>(op))
    return llvm::Error::success();
  if (isa<attn::BiasOp, attn::ScoreModOp, attn::MaskLogitsOp,
          attn::ActivationOp, attn::SoftmaxOp, attn::LseOp, attn::ApplyOp>(op))
    if (llvm::Error error = checkLogits(op.getOperand(0)))
      return error;
  return llvm::TypeSwitch<Operation *, llvm::Error>(&op)
      .Case<attn::BiasOp, attn::ScoreModOp, attn::MaskLogitsOp,
            attn::ActivationOp, attn::SoftmaxOp>(
          [](auto) { return llvm::Error::success(); })
      .Case([&](attn::ApplyOp op) {
        evaluateApply(op);
        return llvm::Error::success();
      })
      .Case([&](attn::EpilogueOp op) {
        evaluateEpilogue(op);
        return llvm::Error::success();
      })
      .Case([&](attn::LseOp op) {
        evaluateLse(op);
        return llvm::Error::success();
      })
      .Case([&](attn::RowNormOp op) {
        evaluateRowNorm(op);
        return llvm::Error::success();
      })
      .Case([&](attn::FusedOp op) {
        evaluateFused(op);
        return llvm::Error::success();
      })
      .Default([&](Operation *op) -> llvm::Error {
        llvm::Expected<ScalarFunction> scalar =
            getScalarFunction(op, options.precision);
        if (!scalar)
          return scalar.takeError();
        SmallVector<double> operands;
        for (Value operand : op->getOperands())
          operands.push_back(scalars.lookup(operand));
        scalars[op->getResult(0)] = (*scalar)(operands.data());
        return llvm::Error::success();
      });
}

//===----------------------------------------------------------------------===//
// Ops that make tensors
//===----------------------------------------------------------------------===//

SmallVector<int64_t, 3> Evaluation::getRowShape(Value logits) const {
  while (!isa<attn::ScoresOp>(logits.getDefiningOp()))
    logits = logits.getDefiningOp()->getOperand(0);
  auto scores = cast<attn::ScoresOp>(logits.getDefiningOp());
  Heads query(tensors.at(scores.getQuery()), scores.getLayout());
  return {query.batch, query.heads, query.length};
}

void Evaluation::forRows(ArrayRef<int64_t> rowShape, bool all,
                         llvm::function_ref<void(Position)> body) const {
  int64_t numHeads = rowShape[1], length = rowShape[2];
  bool some = !all && options.rows;
  int64_t rows = some ? options.rows->size() : length;
  int64_t count = rowShape[0] * numHeads * rows;
  std::atomic<int64_t> next = 0;
  auto work = [&] {
    for (int64_t k = next++; k < count; k = next++) {
      int64_t i = some ? (*options.rows)[k % rows] : k % rows;
      if (i >= 0 && i < length)
        body({k / rows / numHeads, k / rows % numHeads, i});
    }
  };
  unsigned threads =
      options.threads ? options.threads : std::thread::hardware_concurrency();
  std::vector<std::thread> others;
  for (unsigned k = 1; k < threads && k < count; ++k)
    others.emplace_back(work);
  work();
  for (std::thread &other : others)
    other.join();
}

void Evaluation::evaluateApply(attn::ApplyOp op) {
  SmallVector<int64_t, 3> rows = getRowShape(op.getWeights());
  attn::Layout layout = op.getLayout();
  int64_t width = tensors.at(op.getValue()).shape[3];
  Tensor output =
      makeTensor(shapeOf(layout, rows[0], rows[1], rows[2], width), kNan);
  Heads place(output, layout);
  forRows(rows, /*all=*/false, [&](Position p) {
    Row row = getRow(op.getWeights(), p);
    std::vector<double> o =
        apply(row, op.getValue(), op.getNormalize(), layout, p);
    std::copy(o.begin(), o.end(),
              const_cast<double *>(place.row(p.b, p.h, p.i)));
  });
  tensors[op.getOutput()] = std::move(output);
}

/// The query length of the attention whose output an epilogue changes.
int64_t Evaluation::getQueryLength(attn::EpilogueOp op, int64_t b,
                                   int64_t all) const {
  Operation *source = op.getInput().getDefiningOp();
  while (source && !isa<attn::ScoresOp, attn::FusedOp>(source))
    source = source->getOperand(0).getDefiningOp();
  if (auto scores = dyn_cast_or_null<attn::ScoresOp>(source))
    return getLength(scores.getQLen(), b, all);
  if (auto fused = dyn_cast_or_null<attn::FusedOp>(source))
    return getLength(fused.getQLen(), b, all);
  return all;
}

void Evaluation::evaluateEpilogue(attn::EpilogueOp op) {
  const Tensor &input = tensors.at(op.getInput());
  Tensor output = makeTensor(input.shape, kNan);
  Heads from(input, op.getLayout()), to(output, op.getLayout());
  forRows({from.batch, from.heads, from.length}, /*all=*/false,
          [&](Position p) {
            const double *row = from.row(p.b, p.h, p.i);
            std::vector<double> o(row, row + from.width);
            if (p.i < getQueryLength(op, p.b, from.length))
              finish(o, op.getBody(), op.getCaptures(), op.getMaps(),
                     op.getStats(), p);
            std::copy(o.begin(), o.end(),
                      const_cast<double *>(to.row(p.b, p.h, p.i)));
          });
  tensors[op.getOutput()] = std::move(output);
}

void Evaluation::evaluateLse(attn::LseOp op) {
  SmallVector<int64_t, 3> rows = getRowShape(op.getLogits());
  Tensor lse = makeTensor(rows, kNan);
  forRows(rows, /*all=*/false, [&](Position p) {
    Row row = getRow(op.getLogits(), p);
    lse.data[(p.b * rows[1] + p.h) * rows[2] + p.i] =
        row.exists(p) ? softmax(row) : -kInf;
  });
  tensors[op.getLse()] = std::move(lse);
}

void Evaluation::evaluateRowNorm(attn::RowNormOp op) {
  Heads input(tensors.at(op.getInput()), op.getLayout());
  SmallVector<int64_t, 3> rows = {input.batch, input.heads, input.length};
  Tensor result = makeTensor(rows, 0);
  forRows(rows, /*all=*/true, [&](Position p) {
    ArrayRef<double> x(input.row(p.b, p.h, p.i), input.width);
    double norm = getNorm(op.getKind(), x);
    result.data[(p.b * rows[1] + p.h) * rows[2] + p.i] = norm;
  });
  tensors[op.getResult()] = std::move(result);
}

void Evaluation::evaluateFused(attn::FusedOp op) {
  attn::Layout layout = op.getLayout();
  Heads query(tensors.at(op.getQuery()), layout);
  SmallVector<int64_t, 3> rows = {query.batch, query.heads, query.length};
  int64_t width = tensors.at(op.getValue()).shape[3];
  Tensor output =
      makeTensor(shapeOf(layout, rows[0], rows[1], rows[2], width), kNan);
  Tensor lse = makeTensor(rows, kNan);
  Heads place(output, layout);
  forRows(rows, /*all=*/false, [&](Position p) {
    Row row = getScores(op, p);
    modify(row, op.getScoreMod(), op.getScoreCaptures(), op.getScoreMaps(), p);
    mask(row, op.getMasks(), p);
    double rowLse = -kInf;
    if (op.getNormalize() == attn::Normalize::Softmax)
      rowLse = softmax(row);
    else
      activate(row, op.getActivation());
    std::vector<double> o =
        apply(row, op.getValue(), op.getNormalize(), layout, p);
    if (row.exists(p))
      finish(o, op.getEpilogue(), op.getEpilogueCaptures(),
             op.getEpilogueMaps(), op.getStats(), p);
    std::copy(o.begin(), o.end(),
              const_cast<double *>(place.row(p.b, p.h, p.i)));
    lse.data[(p.b * rows[1] + p.h) * rows[2] + p.i] =
        row.exists(p) ? rowLse : -kInf;
  });
  tensors[op.getOutput()] = std::move(output);
  if (op.getLse())
    tensors[op.getLse()] = std::move(lse);
}

//===----------------------------------------------------------------------===//
// Steps of one row
//===----------------------------------------------------------------------===//

Row Evaluation::getRow(Value logits, Position p) const {
  Operation *op = logits.getDefiningOp();
  if (auto scores = dyn_cast<attn::ScoresOp>(op))
    return getScores(scores, p);
  Row row = getRow(op->getOperand(0), p);
  llvm::TypeSwitch<Operation *>(op)
      .Case([&](attn::BiasOp op) { addBias(row, op, p); })
      .Case([&](attn::ScoreModOp op) {
        modify(row, op.getBody(), op.getCaptures(), op.getMaps(), p);
      })
      .Case([&](attn::MaskLogitsOp op) { mask(row, op.getMasks(), p); })
      .Case([&](attn::ActivationOp op) { activate(row, op.getBody()); })
      .Case([&](attn::SoftmaxOp op) { softmax(row); });
  return row;
}

int64_t Evaluation::getLength(Value lengths, int64_t b, int64_t all) const {
  if (!lengths)
    return all;
  int64_t length = static_cast<int64_t>(tensors.at(lengths).data[b]);
  return std::clamp<int64_t>(length, 0, all);
}

template <typename Op> Row Evaluation::getScores(Op op, Position p) const {
  Heads query(tensors.at(op.getQuery()), op.getLayout());
  Heads key(tensors.at(op.getKey()), op.getLayout());
  Row row;
  row.qLen = getLength(op.getQLen(), p.b, query.length);
  row.kLen = getLength(op.getKLen(), p.b, key.length);
  row.x.resize(row.kLen);
  row.keep.assign(row.kLen, true);
  if (!row.exists(p))
    return row;
  double scale = op.getScale() ? scalars.lookup(op.getScale())
                               : round(1 / std::sqrt(double(query.width)));
  // S-gqa
  row.keyHead = p.h / (query.heads / key.heads);
  const double *q = query.row(p.b, p.h, p.i);
  for (int64_t j = 0; j < row.kLen; ++j) {
    const double *k = key.row(p.b, row.keyHead, j);
    row.x[j] = round(scale * (plain ? dot<float>(q, k, query.width)
                                    : dot<double>(q, k, query.width)));
  }
  return row;
}

template Row Evaluation::getScores(attn::ScoresOp op, Position p) const;
template Row Evaluation::getScores(attn::FusedOp op, Position p) const;

/// The elements at map(b, h, i, 0 .. count - 1).
Lanes Evaluation::getCapture(Value value, AffineMap map, Position p,
                             int64_t count) const {
  auto tensor = tensors.find(value);
  if (tensor == tensors.end())
    return {scalars.lookup(value)};
  bool uniform = !map.isFunctionOfDim(3);
  Lanes lanes(uniform ? 1 : count);
  SmallVector<int64_t> index(map.getNumResults());
  for (auto [j, lane] : llvm::enumerate(lanes)) {
    int64_t dims[] = {p.b, p.h, p.i, int64_t(j)};
    for (auto [k, expr] : llvm::enumerate(map.getResults()))
      index[k] = evaluateAffine(expr, dims);
    lane = readOrZero(tensor->second, index);
  }
  return lanes;
}

Lanes oracle::countUp(int64_t count) {
  Lanes lanes(count);
  for (int64_t j = 0; j < count; ++j)
    lanes[j] = j;
  return lanes;
}

Lanes oracle::spread(Lanes lanes, int64_t count) {
  if (lanes.size() == 1)
    lanes.resize(count, lanes[0]);
  return lanes;
}

void Evaluation::addBias(Row &row, attn::BiasOp op, Position p) const {
  Lanes bias =
      spread(getCapture(op.getBias(), op.getMap(), p, row.kLen), row.kLen);
  for (int64_t j = 0; j < row.kLen; ++j)
    row.x[j] = round(row.x[j] + bias[j]);
}

void Evaluation::modify(Row &row, Region &region, ValueRange captures,
                        ArrayAttr maps, Position p) const {
  if (region.empty() || row.kLen == 0)
    return;
  std::vector<Lanes> arguments = {row.x,
                                  {double(p.b)},
                                  {double(p.h)},
                                  {double(p.i)},
                                  countUp(row.kLen),
                                  {double(row.qLen)},
                                  {double(row.kLen)}};
  for (auto [capture, map] :
       llvm::zip_equal(captures, maps.getAsValueRange<AffineMapAttr>()))
    arguments.push_back(getCapture(capture, map, p, row.kLen));
  row.x = spread(programs.at(&region).run(std::move(arguments)), row.kLen);
}

void Evaluation::activate(Row &row, Region &region) const {
  if (region.empty() || row.kLen == 0)
    return;
  row.x = spread(programs.at(&region).run({row.x}), row.kLen);
}

/// Where the diagonal of query i meets the keys (S-causal).
static int64_t getDiagonal(attn::Align align, const Row &row, Position p) {
  return align == attn::Align::TopLeft ? p.i : p.i + row.kLen - row.qLen;
}

Lanes Evaluation::getMask(Operation *mask, const Row &row, Position p) const {
  auto everyKey = [&](auto attend) {
    Lanes lanes(row.kLen);
    for (int64_t j = 0; j < row.kLen; ++j)
      lanes[j] = attend(j);
    return lanes;
  };
  return llvm::TypeSwitch<Operation *, Lanes>(mask)
      .Case([&](attn::CausalMaskOp op) {
        int64_t diagonal = getDiagonal(op.getAlign(), row, p);
        return everyKey([&](int64_t j) { return j <= diagonal; });
      })
      .Case([&](attn::WindowMaskOp op) {
        // S-window: inclusive, a negative size is no limit.
        int64_t diagonal = getDiagonal(op.getAlign(), row, p);
        double left = scalars.lookup(op.getLeft());
        double right = scalars.lookup(op.getRight());
        return everyKey([&](int64_t j) {
          return (left < 0 || diagonal - j <= left) &&
                 (right < 0 || j - diagonal <= right);
        });
      })
      .Case([&](attn::DocumentMaskOp op) {
        const Tensor &qIds = tensors.at(op.getQIds());
        const Tensor &kIds = tensors.at(op.getKIds());
        double mine = readOrZero(qIds, {p.b, p.i});
        return everyKey(
            [&](int64_t j) { return readOrZero(kIds, {p.b, j}) == mine; });
      })
      .Case([&](attn::DilatedMaskOp op) {
        int64_t diagonal = getDiagonal(op.getAlign(), row, p);
        int64_t stride = scalars.lookup(op.getStride());
        return everyKey(
            [&](int64_t j) { return (diagonal - j) % stride == 0; });
      })
      .Case([&](attn::TensorMaskOp op) {
        // S-bool: true, or not zero, attends.
        return spread(getCapture(op.getTensor(), op.getMap(), p, row.kLen),
                      row.kLen);
      })
      .Case([&](attn::PredicateMaskOp op) {
        std::vector<Lanes> arguments = {
            {double(p.b)}, {double(p.h)}, {double(p.i)}, countUp(row.kLen)};
        for (auto [capture, map] :
             llvm::zip_equal(op.getCaptures(),
                             op.getMaps().getAsValueRange<AffineMapAttr>()))
          arguments.push_back(getCapture(capture, map, p, row.kLen));
        return spread(programs.at(&op.getBody()).run(std::move(arguments)),
                      row.kLen);
      });
}

void Evaluation::mask(Row &row, ValueRange masks, Position p) const {
  if (row.kLen == 0)
    return;
  for (Value value : masks) {
    Lanes attend = getMask(value.getDefiningOp(), row, p);
    for (int64_t j = 0; j < row.kLen; ++j)
      row.keep[j] = row.keep[j] && attend[j] != 0;
  }
}

/// Makes exp(x - max) with its sum as divisor of the logits; gives the LSE.
double Evaluation::softmax(Row &row) const {
  double max = -kInf;
  for (int64_t j = 0; j < row.kLen; ++j)
    if (row.keep[j])
      max = std::fmax(max, row.x[j]);
  // S-mask-zero: smallest numbers of f32 stand for -inf in users' masks.
  if (max / std::log(2.0) < std::numeric_limits<float>::lowest())
    max = -kInf;
  double sum = 0;
  for (int64_t j = 0; j < row.kLen; ++j) {
    // S-mask-zero: a row without any key has weights 0, not NaN.
    bool counts = row.keep[j] && max != -kInf;
    row.x[j] = counts ? round(std::exp(round(row.x[j] - max))) : 0;
    sum = round(sum + row.x[j]);
  }
  row.divisor = sum;
  return sum == 0 ? -kInf : round(max + round(std::log(sum)));
}

std::vector<double> Evaluation::apply(const Row &row, Value value,
                                      attn::Normalize normalize,
                                      attn::Layout layout, Position p) const {
  Heads values(tensors.at(value), layout);
  std::vector<double> output(values.width, 0);
  if (!row.exists(p))
    return output;
  Type type = cast<RankedTensorType>(value.getType()).getElementType();
  double sum = 0;
  for (int64_t j = 0; j < row.kLen; ++j) {
    if (!row.keep[j])
      continue;
    sum = round(sum + row.x[j]);
    // S-round: once, to the type of V.
    double weight = options.precision == Precision::Exact
                        ? row.x[j]
                        : roundToType(row.x[j], type);
    const double *v = values.row(p.b, row.keyHead, j);
    plain ? accumulate<float>(output, weight, v)
          : accumulate<double>(output, weight, v);
  }
  double divisor = normalize == attn::Normalize::L1 ? sum : row.divisor;
  for (double &o : output)
    o = divisor == 0 ? 0 : round(o / divisor);
  return output;
}

double Evaluation::getNorm(attn::RowNorm norm, ArrayRef<double> row) const {
  if (std::optional<attn::RowStat> stat = attn::getRowStat(norm))
    return getStat(*stat, row);
  int64_t width = row.size();
  double square = plain ? dot<float>(row.data(), row.data(), width)
                        : dot<double>(row.data(), row.data(), width);
  if (norm == attn::RowNorm::SquaredL2)
    return square;
  return square == 0 ? 0 : round(1 / round(std::sqrt(square)));
}

double Evaluation::getStat(attn::RowStat stat, ArrayRef<double> row) const {
  double sum = 0;
  for (double x : row)
    switch (stat) {
    case attn::RowStat::Mean:
      sum = round(sum + x);
      break;
    case attn::RowStat::MeanSquare:
      sum = round(sum + round(x * x));
      break;
    case attn::RowStat::AbsMax:
      sum = std::fmax(sum, std::fabs(x));
      break;
    }
  return stat == attn::RowStat::AbsMax ? sum : round(sum / row.size());
}

void Evaluation::finish(std::vector<double> &output, Region &region,
                        ValueRange captures, ArrayAttr maps, ArrayAttr stats,
                        Position p) const {
  if (region.empty())
    return;
  int64_t width = output.size();
  std::vector<Lanes> arguments = {
      output, {double(p.b)}, {double(p.h)}, {double(p.i)}, countUp(width)};
  for (auto stat : stats.getAsRange<attn::RowStatAttr>())
    arguments.push_back({getStat(stat.getValue(), output)});
  for (auto [capture, map] :
       llvm::zip_equal(captures, maps.getAsValueRange<AffineMapAttr>()))
    arguments.push_back(getCapture(capture, map, p, width));
  output = spread(programs.at(&region).run(std::move(arguments)), width);
}

llvm::Expected<std::vector<Tensor>>
attnc::oracle::evaluate(func::FuncOp function, ArrayRef<Argument> arguments,
                        const Options &options) {
  return Evaluation(function, options).run(arguments);
}

double attnc::oracle::relativeError(ArrayRef<double> a, ArrayRef<double> b) {
  double difference = 0, norm = 0;
  for (auto [x, y] : llvm::zip_equal(a, b)) {
    if (std::isnan(y))
      continue;
    // Equal infinities (the LSE of an empty row) agree.
    if (x != y)
      difference += (x - y) * (x - y);
    if (std::isfinite(y))
      norm += y * y;
  }
  return std::sqrt(norm == 0 ? difference : difference / norm);
}
