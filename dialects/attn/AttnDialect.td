//===- AttnDialect.td - The attn dialect, its types and enums -------------===//

#ifndef ATTNC_ATTN_DIALECT_TD
#define ATTNC_ATTN_DIALECT_TD

include "mlir/IR/AttrTypeBase.td"
include "mlir/IR/EnumAttr.td"
include "mlir/IR/OpBase.td"

def Attn_Dialect : Dialect {
  let name = "attn";
  let cppNamespace = "::attnc::attn";
  let summary = "What an attention computes, without saying how";
  let description = [{
    For query i, key j, head h, sequence b (f32 arithmetic, operands as
    stored):

        s = scale * q_i . k_j
        x = score_mod(s, b, h, i, j)
        p = activation(x)  or  softmax over j
        p = 0 where the mask says no
        o = epilogue(sum_j round(p) * v_j / norm)

    The unfused ops are the steps of the textbook, one op each; `attn-fuse`
    turns a chain of them into one `attn.fused`. A chain that cannot be fused
    is an error: an n x n intermediate never exists.

    Sizes are written B (sequences), Hq and Hkv (query and key/value heads),
    Sq and Sk (rows), D (query head dim), Dv (value head dim). Semantics carry
    labels (S-...) that `docs/semantics.md` defines.
  }];
  let useDefaultTypePrinterParser = 1;
  let dependentDialects = ["::mlir::arith::ArithDialect",
                           "::mlir::math::MathDialect"];
}

class Attn_Type<string name, string typeMnemonic>
    : TypeDef<Attn_Dialect, name> {
  let mnemonic = typeMnemonic;
}

def Attn_MaskType : Attn_Type<"Mask", "mask"> {
  let summary = "Which (b, h, i, j) may attend";
  let description = [{
    A predicate over positions, not a tensor. Made by an op that implements
    `MaskOpInterface`; several masks compose by intersection.
  }];
}

def Attn_Layout : I32EnumAttr<"Layout", "order of a tensor's four dims", [
    I32EnumAttrCase<"BHSD", 0, "bhsd">,
    I32EnumAttrCase<"BSHD", 1, "bshd">]> {
  let cppNamespace = "::attnc::attn";
}

def Attn_Normalize : I32EnumAttr<"Normalize", "what divides the sum", [
    I32EnumAttrCase<"None", 0, "none">,
    I32EnumAttrCase<"L1", 1, "l1">,
    I32EnumAttrCase<"Softmax", 2, "softmax">]> {
  let cppNamespace = "::attnc::attn";
}

def Attn_Align : I32EnumAttr<"Align", "which corner a diagonal starts from", [
    I32EnumAttrCase<"BottomRight", 0, "bottom_right">,
    I32EnumAttrCase<"TopLeft", 1, "top_left">]> {
  let cppNamespace = "::attnc::attn";
}

def Attn_RowStat : I32EnumAttr<"RowStat", "a statistic of one output row", [
    I32EnumAttrCase<"Mean", 0, "mean">,
    I32EnumAttrCase<"MeanSquare", 1, "mean_square">,
    I32EnumAttrCase<"AbsMax", 2, "abs_max">]> {
  let cppNamespace = "::attnc::attn";
}

def Attn_RowNorm : I32EnumAttr<"RowNorm", "a norm or statistic of one row", [
    I32EnumAttrCase<"SquaredL2", 0, "squared_l2">,
    I32EnumAttrCase<"InverseL2", 1, "inverse_l2">,
    I32EnumAttrCase<"Mean", 2, "mean">,
    I32EnumAttrCase<"MeanSquare", 3, "mean_square">,
    I32EnumAttrCase<"AbsMax", 4, "abs_max">]> {
  let cppNamespace = "::attnc::attn";
}

#endif // ATTNC_ATTN_DIALECT_TD
