//===- TuneSizes.cpp - Sizes to measure a program at ----------------------===//

#include "tools/attnc/TuneSizes.h"

#include "dialects/attn/Attn.h"
#include "lib/Compiler/Compiler.h"
#include "lib/Support/File.h"
#include "tools/attnc/Signature.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringMap.h"

using namespace attnc;
using namespace llvm;

using SizeMap = StringMap<int64_t>;

static Expected<SizeMap> readSizes(StringRef text) {
  SizeMap sizes;
  SmallVector<StringRef> parts, known;
  for (const SizeMeaning &meaning : sizeMeanings())
    known.push_back(meaning.name);
  text.split(parts, ',', -1, /*KeepEmpty=*/false);
  for (StringRef part : parts) {
    auto [name, number] = part.split('=');
    int64_t size;
    if (!is_contained(known, name) && !name.contains('.'))
      return makeError("--sizes: expected " + join(known, ", ") +
                       " or ARGUMENT.DIM, got '" + part +
                       "'; for example --sizes=B=1,H=8,S=1024");
    if (number.getAsInteger(10, size) || size < 0)
      return makeError("--sizes: expected " + name +
                       "=N with N of 0 or more, got '" + part + "'");
    sizes[name] = size;
  }
  // What is not given follows the usual case.
  for (auto [name, other] :
       {std::pair("Hkv", "H"), std::pair("Skv", "S"), std::pair("Dv", "D")})
    if (auto found = sizes.find(other); found != sizes.end())
      sizes.try_emplace(name, found->second);
  return sizes;
}

/// In the order of the program's view, which is the logical one.
static Expected<ArgumentShape> shapeOf(const Parameter &parameter,
                                       const SizeMap &sizes) {
  std::vector<int64_t> own;
  for (auto [k, size] : enumerate(parameter.shape)) {
    if (!mlir::ShapedType::isDynamic(size)) {
      own.push_back(size);
      continue;
    }
    std::string name = parameter.sizeNames[k].str();
    if (name.empty())
      name = (parameter.name + "." + Twine(k)).str();
    auto found = sizes.find(name);
    if (found == sizes.end())
      return makeError("--sizes: expected " + name + "=N, for dim " + Twine(k) +
                       " of '" + parameter.name + "', got none");
    own.push_back(found->second);
  }
  ArgumentShape shape{parameter.name, own};
  for (auto [k, dim] : enumerate(parameter.order))
    shape.sizes[k] = own[size_t(dim)];
  return shape;
}

/// The arguments and results of the one function of an artifact, which is then
/// compiled to where its views are known.
static Expected<Signature> signatureOf(Artifact &artifact,
                                       const CompileOptions &options) {
  SmallVector<mlir::func::FuncOp> functions;
  if (artifact.module && artifact.phase <= Phase::Fused)
    for (auto function : artifact.module->getOps<mlir::func::FuncOp>())
      if (!function.isExternal())
        functions.push_back(function);
  if (functions.size() != 1)
    return makeError("<ir>: error: expected one function of phase attn or "
                     "fused, got " +
                     Twine(functions.size()));
  std::string name = functions[0].getName().str();
  // Gradients are arguments that differentiation adds.
  if (functions[0]->hasAttr(attn::kDifferentiateAttr))
    if (Error error = compile(artifact, options, Phase::Fused))
      return std::move(error);
  Signature signature =
      readSignature(artifact.module->lookupSymbol<mlir::func::FuncOp>(name));
  if (Error error = compile(artifact, options, Phase::Tile))
    return std::move(error);
  for (auto program : artifact.module->getOps<tile::ProgramOp>())
    if (program.getName() == name)
      addOrders(signature, program);
  return signature;
}

Expected<std::vector<ArgumentShape>>
attnc::shapesOfIr(const ProgramRequest &request, StringRef text) {
  registerAllPasses();
  auto sizes = readSizes(text);
  if (!sizes)
    return sizes.takeError();
  auto target = parseTarget(request.target);
  if (!target)
    return makeError("expected target cpu or sm_90a, got '" + request.target +
                     "'");
  CompileOptions options;
  options.target = *target;
  options.anyLayout = request.anyLayout;
  auto context = makeContext();
  auto artifact = parseArtifact(request.ir, "<ir>", *context, options);
  if (!artifact)
    return artifact.takeError();
  auto signature = signatureOf(*artifact, options);
  if (!signature)
    return signature.takeError();
  std::vector<ArgumentShape> shapes;
  for (const Parameter &parameter : signature->parameters) {
    auto shape = shapeOf(parameter, *sizes);
    if (!shape)
      return shape.takeError();
    shapes.push_back(std::move(*shape));
  }
  return shapes;
}
