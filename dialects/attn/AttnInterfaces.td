//===- AttnInterfaces.td - What a mask must be able to say ----------------===//

#ifndef ATTNC_ATTN_INTERFACES_TD
#define ATTNC_ATTN_INTERFACES_TD

include "mlir/IR/OpBase.td"

def MaskOpInterface : OpInterface<"MaskOpInterface"> {
  let cppNamespace = "::attnc::attn";
  let description = [{
    A mask says which keys a query may attend. It speaks in two ways: an
    element predicate, always exact, and a key range of a whole query block,
    which may be conservative. Adding a mask is adding an op with this
    interface; no pass knows any mask by name.
  }];
  let methods = [
    InterfaceMethod<[{
        The tensors whose elements the predicate reads, each with the affine
        map from (b, h, i, j) to its dims (S-bias). The predicate gets one
        scalar for each, floats widened to f32 and integers to i32.
      }],
      "::llvm::SmallVector<::attnc::attn::Capture>", "getMaskCaptures">,
    InterfaceMethod<[{
        Emits `keep`, an i1: whether query `pos.i` may attend key `pos.j`.
        All of `pos` are i32; `captured` are the elements that getMaskCaptures
        asked for, in that order.
      }],
      "::mlir::Value", "buildPredicate",
      (ins "::mlir::OpBuilder &":$builder, "::mlir::Location":$loc,
           "const ::attnc::attn::MaskPosition &":$pos,
           "::mlir::ValueRange":$captured)>,
    InterfaceMethod<[{
        Emits the key range of the queries [rows.i0, rows.i0 + rows.count) of
        one sequence, as index values: no key outside [lo, hi) is attended by
        any of them; every key inside [fullLo, fullHi) by all of them. The
        default knows nothing: lo = 0, hi = k_len, no full part.
      }],
      "::attnc::attn::KeyRange", "buildKeyRange",
      (ins "::mlir::OpBuilder &":$builder, "::mlir::Location":$loc,
           "const ::attnc::attn::QueryRows &":$rows), "",
      [{ return ::attnc::attn::unknownKeyRange(builder, loc, rows); }]>,
    InterfaceMethod<[{
        The same the other way round, for gradients of keys: the range of
        queries that attend the keys [keys.j0, keys.j0 + keys.count). No query
        outside [lo, hi) attends any of them; every query inside [fullLo,
        fullHi) attends all of those inside the sequence. The default knows
        nothing: lo = 0, hi = q_len, no full part.
      }],
      "::attnc::attn::QueryRange", "buildQueryRange",
      (ins "::mlir::OpBuilder &":$builder, "::mlir::Location":$loc,
           "const ::attnc::attn::KeyRows &":$keys), "",
      [{ return ::attnc::attn::unknownQueryRange(builder, loc, keys); }]>
  ];
}

#endif // ATTNC_ATTN_INTERFACES_TD
