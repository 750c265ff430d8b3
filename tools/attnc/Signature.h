//===- Signature.h - What a program is called with --------------*- C++ -*-===//

#ifndef ATTNC_TOOLS_ATTNC_SIGNATURE_H
#define ATTNC_TOOLS_ATTNC_SIGNATURE_H

#include "dialects/tile/Tile.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/Support/Error.h"

#include <map>
#include <string>
#include <vector>

namespace attnc {

/// A size that several arguments share: B, H, Hkv, S, Skv, D, Dv; empty: one
/// of its own.
using SizeName = llvm::StringRef;

/// One argument or result.
struct Parameter {
  std::string name;
  /// The scalar's type, or a tensor's element type.
  mlir::Type type;
  bool isTensor = false;
  bool isResult = false;
  /// In the order of the tensor's dims; ShapedType::kDynamic for `?`.
  llvm::SmallVector<int64_t> shape;
  llvm::SmallVector<SizeName> sizeNames;
  /// Dim k of the program's view is dim order[k] of the tensor.
  llvm::SmallVector<int64_t> order;
  /// What to pass if nothing is given: attn.default.
  mlir::Attribute initial;
};

/// The arguments in order, then the results.
struct Signature {
  std::string function;
  std::vector<Parameter> parameters;

  const Parameter *find(llvm::StringRef name) const;
  /// The tensors it takes, for messages: "query, key, value".
  std::string inputs() const;
};

/// Of a function of attn ops: sizes get their names from how ops use them.
Signature readSignature(mlir::func::FuncOp function);

/// Of a program: sizes get names from the arguments called query, key, value.
Signature readSignature(tile::ProgramOp program);

/// Adds the views' orders of `program` to a signature read from a function.
void addOrders(Signature &signature, tile::ProgramOp program);

/// "tensor<?x8x64xf32>" or "f32".
std::string describe(const Parameter &parameter);

/// Values of the named sizes.
class Sizes {
public:
  /// Binds the sizes of a tensor; an error names who disagrees with whom.
  llvm::Error bind(const Parameter &parameter, llvm::ArrayRef<int64_t> sizes);
  /// Binds what the parameter's type alone says.
  llvm::Error bindStatic(const Parameter &parameter);
  /// Binds one name, as the user gave it.
  llvm::Error set(llvm::StringRef name, int64_t size);
  std::optional<int64_t> get(llvm::StringRef name) const;
  /// The shape of a parameter, or which size is not known.
  llvm::Expected<llvm::SmallVector<int64_t>>
  shapeOf(const Parameter &parameter) const;

private:
  llvm::Error bindOne(llvm::StringRef name, int64_t size, llvm::StringRef who);

  struct Bound {
    int64_t size;
    std::string who;
  };
  std::map<std::string, Bound> bound;
};

/// All size names, with what they mean.
struct SizeMeaning {
  llvm::StringLiteral name, meaning;
};
llvm::ArrayRef<SizeMeaning> sizeMeanings();

} // namespace attnc

#endif // ATTNC_TOOLS_ATTNC_SIGNATURE_H
