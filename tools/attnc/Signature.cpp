//===- Signature.cpp - What a program is called with ----------------------===//

#include "tools/attnc/Signature.h"

#include "dialects/attn/Attn.h"
#include "lib/Support/File.h"
#include "lib/Support/HostTensor.h"

#include "llvm/ADT/TypeSwitch.h"
#include "llvm/Support/raw_ostream.h"

using namespace attnc;
using namespace mlir;
using llvm::Error;
using llvm::Expected;

static constexpr SizeMeaning meanings[] = {
    {"B", "sequences"},       {"H", "query heads"}, {"Hkv", "key/value heads"},
    {"S", "query rows"},      {"Skv", "key rows"},  {"D", "head dim"},
    {"Dv", "value head dim"},
};

llvm::ArrayRef<SizeMeaning> attnc::sizeMeanings() { return meanings; }

const Parameter *Signature::find(llvm::StringRef name) const {
  for (const Parameter &parameter : parameters)
    if (parameter.name == name)
      return &parameter;
  return nullptr;
}

std::string Signature::inputs() const {
  std::string text;
  for (const Parameter &parameter : parameters)
    if (parameter.isTensor && !parameter.isResult)
      text += (text.empty() ? "" : ", ") + parameter.name;
  return text;
}

//===----------------------------------------------------------------------===//
// Names of sizes
//===----------------------------------------------------------------------===//

namespace {
using Names = llvm::SmallVector<SizeName>;

/// Collects what the dims of each value are called: what the first op says of
/// it.
class SizeNamer {
public:
  void visit(Operation *op) {
    llvm::TypeSwitch<Operation *>(op)
        .Case([&](attn::ScoresOp op) {
          four(op.getQuery(), op.getLayout(), {"B", "H", "S", "D"});
          four(op.getKey(), op.getLayout(), {"B", "Hkv", "Skv", "D"});
          lengths(op.getQLen());
          lengths(op.getKLen());
        })
        .Case([&](attn::FusedOp op) {
          four(op.getQuery(), op.getLayout(), {"B", "H", "S", "D"});
          four(op.getKey(), op.getLayout(), {"B", "Hkv", "Skv", "D"});
          four(op.getValue(), op.getLayout(), {"B", "Hkv", "Skv", "Dv"});
          four(op.getOutput(), op.getLayout(), {"B", "H", "S", "Dv"});
          lengths(op.getQLen());
          lengths(op.getKLen());
          if (op.getLse())
            names[op.getLse()] = {"B", "H", "S"};
          captures(op.getScoreCaptures(), op.getScoreMaps(), "Skv");
          captures(op.getEpilogueCaptures(), op.getEpilogueMaps(), "Dv");
        })
        .Case([&](attn::BackwardOp op) {
          backward(op);
          four(op.getDquery(), op.getLayout(), {"B", "H", "S", "D"});
          four(op.getDkey(), op.getLayout(), {"B", "Hkv", "Skv", "D"});
          four(op.getDvalue(), op.getLayout(), {"B", "Hkv", "Skv", "Dv"});
          for (auto [number, index] : llvm::enumerate(op.getOf())) {
            AffineMap map = cast<AffineMapAttr>(op.getMaps()[index]).getValue();
            if (attn::getCaptureKind(map) == attn::CaptureKind::Positions)
              capture(op.getDcaptures()[number], map, "Skv");
          }
        })
        .Case([&](attn::RowSumsOp op) { backward(op); })
        .Case([&](attn::RowDotOp op) {
          four(op.getLhs(), op.getLayout(), {"B", "H", "S", "Dv"});
          four(op.getRhs(), op.getLayout(), {"B", "H", "S", "Dv"});
        })
        .Case([&](attn::EpilogueGradientOp op) {
          for (Value tensor : {op.getInput(), op.getDoutput(), op.getDinput()})
            four(tensor, op.getLayout(), {"B", "H", "S", "Dv"});
          lengths(op.getQLen());
          captures(op.getCaptures(), op.getMaps(), "Dv");
          for (auto [number, index] : llvm::enumerate(op.getOf())) {
            AffineMap map = cast<AffineMapAttr>(op.getMaps()[index]).getValue();
            if (attn::getCaptureKind(map) == attn::CaptureKind::Positions)
              capture(op.getDcaptures()[number], map, "Dv");
          }
        })
        .Case([&](attn::SumOp op) {
          if (op.getLike())
            names[op.getResult()] = get(op.getLike());
        })
        .Case([&](attn::ApplyOp op) {
          four(op.getValue(), op.getLayout(), {"B", "Hkv", "Skv", "Dv"});
          four(op.getOutput(), op.getLayout(), {"B", "H", "S", "Dv"});
        })
        .Case([&](attn::EpilogueOp op) {
          // That of a query or key where something is added to its gradient.
          if (names.count(op.getInput()))
            names.try_emplace(op.getOutput(), get(op.getInput()));
          four(op.getOutput(), op.getLayout(), {"B", "H", "S", "Dv"});
          lengths(op.getQLen());
          captures(op.getCaptures(), op.getMaps(), "Dv");
        })
        .Case(
            [&](attn::BiasOp op) { capture(op.getBias(), op.getMap(), "Skv"); })
        .Case([&](attn::ScoreModOp op) {
          captures(op.getCaptures(), op.getMaps(), "Skv");
        })
        .Case([&](attn::LseOp op) { names[op.getLse()] = {"B", "H", "S"}; })
        .Case([&](attn::MaskOpInterface op) {
          for (const attn::Capture &read : op.getMaskCaptures())
            capture(read.value, read.map, "Skv");
        });
  }

  Names get(Value value) const {
    auto found = names.find(value);
    auto type = dyn_cast<RankedTensorType>(value.getType());
    size_t rank = type ? type.getRank() : 0;
    if (found == names.end() || found->second.size() != rank)
      return Names(rank);
    return found->second;
  }

private:
  template <typename Op> void backward(Op op) {
    four(op.getQuery(), op.getLayout(), {"B", "H", "S", "D"});
    four(op.getKey(), op.getLayout(), {"B", "Hkv", "Skv", "D"});
    four(op.getValue(), op.getLayout(), {"B", "Hkv", "Skv", "Dv"});
    four(op.getDoutput(), op.getLayout(), {"B", "H", "S", "Dv"});
    lengths(op.getQLen());
    lengths(op.getKLen());
    captures(op.getCaptures(), op.getMaps(), "Skv");
  }
  void four(Value value, attn::Layout layout, Names logical) {
    attn::LayoutDims dims = attn::getLayoutDims(layout);
    Names tensor(4);
    tensor[dims.b] = logical[0];
    tensor[dims.h] = logical[1];
    tensor[dims.s] = logical[2];
    tensor[dims.d] = logical[3];
    names.try_emplace(value, tensor);
  }
  void lengths(Value value) {
    if (value)
      names[value] = {"B"};
  }
  void capture(Value value, AffineMap map, SizeName last) {
    SizeName position[] = {"B", "H", "S", last};
    Names tensor;
    for (AffineExpr expr : map.getResults()) {
      auto dim = dyn_cast<AffineDimExpr>(expr);
      tensor.push_back(dim ? position[dim.getPosition()] : SizeName());
    }
    names.try_emplace(value, tensor);
  }
  void captures(ValueRange values, ArrayAttr maps, SizeName last) {
    for (auto [value, map] :
         llvm::zip(values, maps.getAsValueRange<AffineMapAttr>()))
      capture(value, map, last);
  }

  llvm::DenseMap<Value, Names> names;
};
} // namespace

//===----------------------------------------------------------------------===//
// Reading
//===----------------------------------------------------------------------===//

static Parameter makeParameter(Type type, llvm::StringRef name) {
  Parameter parameter;
  parameter.name = name.str();
  parameter.type = type;
  if (auto tensor = dyn_cast<RankedTensorType>(type)) {
    parameter.isTensor = true;
    parameter.type = tensor.getElementType();
    parameter.shape = llvm::to_vector(tensor.getShape());
    parameter.order = llvm::to_vector(llvm::seq<int64_t>(tensor.getRank()));
  }
  return parameter;
}

Signature attnc::readSignature(func::FuncOp function) {
  SizeNamer namer;
  function.walk([&](Operation *op) { namer.visit(op); });
  Signature signature{function.getName().str(), {}};
  for (BlockArgument argument : function.getArguments()) {
    unsigned index = argument.getArgNumber();
    auto name = function.getArgAttrOfType<StringAttr>(index, "attn.name");
    Parameter parameter =
        makeParameter(argument.getType(), name ? name.getValue().str()
                                               : "arg" + std::to_string(index));
    parameter.sizeNames = namer.get(argument);
    parameter.initial = function.getArgAttr(index, "attn.default");
    signature.parameters.push_back(std::move(parameter));
  }
  Operation *terminator = function.getBody().back().getTerminator();
  for (OpOperand &returned : terminator->getOpOperands()) {
    unsigned index = returned.getOperandNumber();
    auto name = function.getResultAttrOfType<StringAttr>(index, "attn.name");
    Parameter parameter = makeParameter(
        returned.get().getType(),
        name ? name.getValue().str() : "result" + std::to_string(index));
    parameter.sizeNames = namer.get(returned.get());
    parameter.isResult = true;
    signature.parameters.push_back(std::move(parameter));
  }
  return signature;
}

/// The logical names of a view's dims by what the argument is called.
static Names namesOfArgument(llvm::StringRef name) {
  if (name == "query")
    return {"B", "H", "S", "D"};
  if (name == "key")
    return {"B", "Hkv", "Skv", "D"};
  if (name == "value")
    return {"B", "Hkv", "Skv", "Dv"};
  if (name == "output")
    return {"B", "H", "S", "Dv"};
  if (name == "lse")
    return {"B", "H", "S"};
  return {};
}

static llvm::SmallVector<int64_t> orderOf(tile::ProgramOp program,
                                          unsigned index, unsigned rank) {
  auto order = llvm::to_vector(llvm::seq<int64_t>(rank));
  auto dims = program.getArgAttrOfType<ArrayAttr>(index, tile::kDimsAttr);
  if (dims && dims.size() == rank)
    for (auto [k, dim] : llvm::enumerate(dims.getAsRange<IntegerAttr>()))
      order[k] = dim.getInt();
  else if (auto dense = program.getArgAttrOfType<DenseI64ArrayAttr>(
               index, tile::kDimsAttr))
    if (dense.size() == rank)
      order = llvm::to_vector(dense.asArrayRef());
  return order;
}

static std::string nameOf(tile::ProgramOp program, unsigned index) {
  auto name = program.getArgAttrOfType<StringAttr>(index, tile::kNameAttr);
  return name ? name.getValue().str() : "arg" + std::to_string(index);
}

Signature attnc::readSignature(tile::ProgramOp program) {
  Signature signature{program.getName().str(), {}};
  for (auto [index, type] : llvm::enumerate(program.getArgumentTypes())) {
    Parameter parameter = makeParameter(type, nameOf(program, index));
    parameter.isResult = bool(program.getArgAttr(index, tile::kResultAttr));
    if (auto view = dyn_cast<tile::ViewType>(type)) {
      unsigned rank = view.getRank();
      parameter.isTensor = true;
      parameter.type = view.getElementType();
      parameter.order = orderOf(program, index, rank);
      parameter.shape.assign(rank, 0);
      parameter.sizeNames.assign(rank, "");
      Names names = namesOfArgument(parameter.name);
      for (unsigned k = 0; k < rank; ++k) {
        parameter.shape[parameter.order[k]] = view.getShape()[k];
        if (names.size() == rank)
          parameter.sizeNames[parameter.order[k]] = names[k];
      }
    }
    signature.parameters.push_back(std::move(parameter));
  }
  return signature;
}

void attnc::addOrders(Signature &signature, tile::ProgramOp program) {
  for (auto [index, type] : llvm::enumerate(program.getArgumentTypes()))
    if (auto view = dyn_cast<tile::ViewType>(type))
      if (index < signature.parameters.size())
        signature.parameters[index].order =
            orderOf(program, index, view.getRank());
}

std::string attnc::describe(const Parameter &parameter) {
  std::string text;
  llvm::raw_string_ostream stream(text);
  if (!parameter.isTensor) {
    stream << parameter.type;
    return text;
  }
  stream << RankedTensorType::get(parameter.shape, parameter.type);
  return text;
}

//===----------------------------------------------------------------------===//
// Binding
//===----------------------------------------------------------------------===//

static llvm::StringRef meaningOf(llvm::StringRef name) {
  for (const SizeMeaning &known : meanings)
    if (known.name == name)
      return known.meaning;
  return name;
}

Error Sizes::bind(const Parameter &parameter, ArrayRef<int64_t> sizes) {
  bool fits = sizes.size() == parameter.shape.size();
  for (size_t k = 0; fits && k < sizes.size(); ++k)
    fits = ShapedType::isDynamic(parameter.shape[k]) ||
           parameter.shape[k] == sizes[k];
  if (!fits)
    return makeError("'" + parameter.name + "': expected " +
                     describe(parameter) + ", got " + formatSizes(sizes));
  for (auto [name, size] : llvm::zip(parameter.sizeNames, sizes))
    if (Error error = bindOne(name, size, parameter.name))
      return error;
  return Error::success();
}

Error Sizes::bindStatic(const Parameter &parameter) {
  for (auto [name, size] : llvm::zip(parameter.sizeNames, parameter.shape))
    if (!ShapedType::isDynamic(size))
      if (Error error = bindOne(name, size, parameter.name))
        return error;
  return Error::success();
}

Error Sizes::bindOne(llvm::StringRef name, int64_t size, llvm::StringRef who) {
  if (name.empty())
    return Error::success();
  auto [entry, isNew] = bound.try_emplace(name.str(), Bound{size, who.str()});
  if (!isNew && entry->second.size != size)
    return makeError("'" + who + "' has " + llvm::Twine(size) + " " +
                     meaningOf(name) + ", expected " +
                     llvm::Twine(entry->second.size) + " as '" +
                     entry->second.who + "' has");
  return Error::success();
}

Error Sizes::set(llvm::StringRef name, int64_t size) {
  auto [entry, isNew] = bound.try_emplace(name.str(), Bound{size, "--random"});
  if (!isNew && entry->second.size != size)
    return makeError("--random: " + name + "=" + llvm::Twine(size) + ", but '" +
                     entry->second.who + "' has " +
                     llvm::Twine(entry->second.size) + " " + meaningOf(name));
  return Error::success();
}

std::optional<int64_t> Sizes::get(llvm::StringRef name) const {
  auto entry = bound.find(name.str());
  if (entry == bound.end())
    return std::nullopt;
  return entry->second.size;
}

Expected<llvm::SmallVector<int64_t>>
Sizes::shapeOf(const Parameter &parameter) const {
  llvm::SmallVector<int64_t> shape = parameter.shape;
  for (auto [k, size] : llvm::enumerate(shape)) {
    if (!ShapedType::isDynamic(size))
      continue;
    llvm::StringRef name = parameter.sizeNames[k];
    auto known = name.empty() ? std::nullopt : get(name);
    if (!known)
      return makeError(
          "'" + parameter.name + "': the size of dim " + llvm::Twine(k) +
          (name.empty() ? llvm::Twine(" does not follow from the others; "
                                      "pass the tensor with --input ") +
                              parameter.name + "=FILE.npy"
                        : llvm::Twine(" (") + meaningOf(name) +
                              ") is not known; pass --random " + name + "=N"));
    size = *known;
  }
  return shape;
}
