//===- AttnOps.td - The ops of the attn dialect ---------------------------===//

#ifndef ATTNC_ATTN_OPS_TD
#define ATTNC_ATTN_OPS_TD

include "dialects/attn/AttnDialect.td"
include "dialects/attn/AttnInterfaces.td"
include "mlir/IR/OpAsmInterface.td"
include "mlir/IR/RegionKindInterface.td"
include "mlir/Interfaces/InferTypeOpInterface.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

class Attn_Op<string opMnemonic, list<Trait> traits = []>
    : Op<Attn_Dialect, opMnemonic, traits>;

/// A ranked tensor whose constraint reads well in an error message.
class Attn_RankedTensor<list<Type> elements, int rank, string summary>
    : Type<RankedTensorOf<elements, [HasAnyRankOfPred<[rank]>]>.predicate,
           summary, "::mlir::RankedTensorType">;

def Attn_Tensor4 : Attn_RankedTensor<[F32, F16, BF16], 4,
    "4-D tensor of f32, f16 or bf16">;
def Attn_Logits : Attn_RankedTensor<[F32], 4, "(B, Hq, Sq, Sk) f32 tensor">;
def Attn_Stat : Attn_RankedTensor<[F32], 3, "(B, Hq, Sq) f32 tensor">;
def Attn_Lengths : Attn_RankedTensor<[I32], 1, "(B) i32 tensor">;
def Attn_Ids : Attn_RankedTensor<[I32], 2, "(B, S) i32 tensor">;
def Attn_Captured : Type<
    Or<[RankedTensorOf<[F32, F16, BF16, I32, I8, I1]>.predicate,
        F32.predicate, I32.predicate]>,
    "ranked tensor or f32 or i32 scalar">;

//===----------------------------------------------------------------------===//
// Elementwise ops that arith and math do not have
//===----------------------------------------------------------------------===//

def Attn_LogisticOp : Attn_Op<"logistic",
    [Pure, SameOperandsAndResultType, Elementwise, Scalarizable, Vectorizable,
     Tensorizable]> {
  let summary = "1 / (1 + exp(-x))";
  let description = [{
    The logistic function, a row of the op table. Relative accuracy is kept
    for very negative x, where the result is close to exp(x).
  }];
  let arguments = (ins FloatLike:$x);
  let results = (outs FloatLike:$result);
  let assemblyFormat = "$x attr-dict `:` type($result)";
}

//===----------------------------------------------------------------------===//
// Masks
//===----------------------------------------------------------------------===//

class Attn_MaskOp<string opMnemonic, list<Trait> traits = []>
    : Attn_Op<opMnemonic, !listconcat(traits, [Pure])> {
  let results = (outs Attn_MaskType:$mask);
}

def Attn_CausalMaskOp : Attn_MaskOp<"causal_mask",
    [DeclareOpInterfaceMethods<MaskOpInterface,
     ["buildKeyRange", "buildQueryRange"]>]> {
  let summary = "j <= i + k_len - q_len";
  let description = [{
    S-causal. `bottom_right` (the default) aligns the diagonal by each
    sequence's own lengths: j <= i + k_len[b] - q_len[b]. `top_left` is
    j <= i.
  }];
  let arguments = (ins
    DefaultValuedAttr<Attn_Align, "Align::BottomRight">:$align);
  let assemblyFormat = "(`align` $align^)? attr-dict";
}

def Attn_WindowMaskOp : Attn_MaskOp<"window_mask",
    [DeclareOpInterfaceMethods<MaskOpInterface,
     ["buildKeyRange", "buildQueryRange"]>]> {
  let summary = "diagonal - left <= j <= diagonal + right";
  let description = [{
    S-window. With the diagonal c = i + k_len[b] - q_len[b] (`bottom_right`)
    or c = i (`top_left`): c - left <= j <= c + right, both inclusive; -1
    means unlimited. The sizes are run-time scalars.
  }];
  let arguments = (ins I32:$left, I32:$right,
    DefaultValuedAttr<Attn_Align, "Align::BottomRight">:$align);
  let assemblyFormat = "$left `,` $right (`align` $align^)? attr-dict";
  let hasVerifier = 1;
}

def Attn_DocumentMaskOp : Attn_MaskOp<"document_mask",
    [DeclareOpInterfaceMethods<MaskOpInterface>]> {
  let summary = "q_ids[b, i] == k_ids[b, j]";
  let description = [{
    Several documents packed in one row: a query attends keys of its own
    document only. Shapes (B, Sq) and (B, Sk), any i32 ids.
  }];
  let arguments = (ins Attn_Ids:$q_ids, Attn_Ids:$k_ids);
  let assemblyFormat = [{
    $q_ids `,` $k_ids attr-dict `:` type($q_ids) `,` type($k_ids)
  }];
  let hasVerifier = 1;
}

def Attn_DilatedMaskOp : Attn_MaskOp<"dilated_mask",
    [DeclareOpInterfaceMethods<MaskOpInterface>]> {
  let summary = "(i + k_len - q_len - j) mod stride == 0";
  let description = [{
    Every `stride`-th key, counted from the diagonal of S-causal in both
    directions. stride >= 1, a run-time scalar.
  }];
  let arguments = (ins I32:$stride,
    DefaultValuedAttr<Attn_Align, "Align::BottomRight">:$align);
  let assemblyFormat = "$stride (`align` $align^)? attr-dict";
  let hasVerifier = 1;
}

def Attn_TensorMaskOp : Attn_MaskOp<"tensor_mask",
    [DeclareOpInterfaceMethods<MaskOpInterface>]> {
  let summary = "A boolean tensor: True = attend";
  let description = [{
    S-bool. `map` leads from (b, h, i, j) to the tensor's dims, broadcast
    dims dropped (S-bias). Elements are i1 or i8 (nonzero = attend).
  }];
  let arguments = (ins RankedTensorOf<[I1, I8]>:$tensor, AffineMapAttr:$map);
  let assemblyFormat = "$tensor `map` $map attr-dict `:` type($tensor)";
  let hasVerifier = 1;
}

def Attn_PredicateMaskOp : Attn_MaskOp<"predicate_mask",
    [DeclareOpInterfaceMethods<MaskOpInterface>]> {
  let summary = "Any elementwise predicate of the positions";
  let description = [{
    The region has arguments b, h, i, j (i32) and one scalar for each
    captured tensor, and yields an i1: True = attend. It knows no key range,
    so every block is visited and tested.
  }];
  let arguments = (ins Variadic<Attn_Captured>:$captures,
    DefaultValuedAttr<AffineMapArrayAttr, "{}">:$maps);
  let regions = (region SizedRegion<1>:$body);
  let assemblyFormat = [{
    (`captures` `(` $captures^ `:` type($captures) `)` `maps` $maps)?
    $body attr-dict
  }];
  let hasVerifier = 1;
}

//===----------------------------------------------------------------------===//
// The steps of the textbook
//===----------------------------------------------------------------------===//

def Attn_ScoresOp : Attn_Op<"scores", [Pure, AttrSizedOperandSegments]> {
  let summary = "s = scale * q_i . k_j";
  let description = [{
    q is (B, Hq, Sq, D) and k (B, Hkv, Sk, D) in the order that `layout`
    names. Query head h uses key head h floordiv (Hq / Hkv) (S-gqa). `scale`
    is a run-time f32, by default 1/sqrt(D) (S-runtime). `q_len` and `k_len`
    (B) are each sequence's own lengths: rows at or beyond them never
    influence a result (S-beyond), and output rows at or beyond q_len are 0.
  }];
  let arguments = (ins Attn_Tensor4:$query, Attn_Tensor4:$key,
    Optional<F32>:$scale, Optional<Attn_Lengths>:$q_len,
    Optional<Attn_Lengths>:$k_len,
    DefaultValuedAttr<Attn_Layout, "Layout::BHSD">:$layout);
  let results = (outs Attn_Logits:$logits);
  let assemblyFormat = [{
    $query `,` $key (`scale` $scale^)?
    (`q_len` $q_len^ `:` type($q_len))? (`k_len` $k_len^ `:` type($k_len))?
    (`layout` $layout^)? attr-dict
    `:` type($query) `,` type($key) `->` type($logits)
  }];
  let hasVerifier = 1;
}

def Attn_BiasOp : Attn_Op<"bias",
    [Pure, AllTypesMatch<["logits", "result"]>]> {
  let summary = "x = s + bias[map(b, h, i, j)]";
  let description = [{
    S-bias. `map` leads from (b, h, i, j) to the bias' dims, broadcast dims
    dropped; i - j is allowed. A scalar takes the map with no results. Where
    the map leads outside the operand, here and in every other captured
    operand, the element is 0.
  }];
  let arguments = (ins Attn_Logits:$logits, Attn_Captured:$bias,
                       AffineMapAttr:$map);
  let results = (outs Attn_Logits:$result);
  let assemblyFormat = [{
    $logits `,` $bias `map` $map attr-dict `:` type($logits) `,` type($bias)
  }];
  let hasVerifier = 1;
}

def Attn_ScoreModOp : Attn_Op<"score_mod",
    [Pure, AllTypesMatch<["logits", "result"]>]> {
  let summary = "x = score_mod(s, b, h, i, j, captured...)";
  let description = [{
    The region's arguments are s (f32), b, h, i, j, q_len, k_len (i32) and
    one scalar for each captured operand, read through its affine map from
    (b, h, i, j). It yields an f32. Ops: those of the op table. Scalars of
    the enclosing function may be used directly.
  }];
  let arguments = (ins Attn_Logits:$logits, Variadic<Attn_Captured>:$captures,
    DefaultValuedAttr<AffineMapArrayAttr, "{}">:$maps);
  let results = (outs Attn_Logits:$result);
  let regions = (region SizedRegion<1>:$body);
  let assemblyFormat = [{
    $logits (`captures` `(` $captures^ `:` type($captures) `)` `maps` $maps)?
    $body attr-dict `:` type($logits)
  }];
  let hasVerifier = 1;
  let hasFolder = 1;
  let hasCanonicalizer = 1;
}

def Attn_MaskLogitsOp : Attn_Op<"mask",
    [Pure, AllTypesMatch<["logits", "result"]>]> {
  let summary = "Weights of masked positions become exactly 0";
  let description = [{
    S-mask-zero: after the activation or softmax, a masked weight is exactly
    0, whatever the function. Several masks intersect.
  }];
  let arguments = (ins Attn_Logits:$logits, Variadic<Attn_MaskType>:$masks);
  let results = (outs Attn_Logits:$result);
  let assemblyFormat = "$logits `by` $masks attr-dict `:` type($logits)";
  let hasVerifier = 1;
  let hasFolder = 1;
  let hasCanonicalizer = 1;
}

def Attn_ActivationOp : Attn_Op<"activation",
    [Pure, AllTypesMatch<["logits", "weights"]>]> {
  let summary = "p = activation(x)";
  let description = [{
    The region has one f32 argument, the logit, and yields the weight.
    Scalars of the enclosing function may be used directly.
  }];
  let arguments = (ins Attn_Logits:$logits);
  let results = (outs Attn_Logits:$weights);
  let regions = (region SizedRegion<1>:$body);
  let assemblyFormat = "$logits $body attr-dict `:` type($logits)";
  let hasVerifier = 1;
  let hasFolder = 1;
}

def Attn_SoftmaxOp : Attn_Op<"softmax",
    [Pure, AllTypesMatch<["logits", "weights"]>]> {
  let summary = "p = exp(x - max_j x) / sum_j exp(x - max_j x)";
  let arguments = (ins Attn_Logits:$logits);
  let results = (outs Attn_Logits:$weights);
  let assemblyFormat = "$logits attr-dict `:` type($logits)";
}

def Attn_LseOp : Attn_Op<"lse", [Pure]> {
  let summary = "log sum_j exp(x)";
  let description = [{
    S-lse: f32, (B, Hq, Sq) in every layout, natural log, of the scaled,
    biased, masked logits; -inf for a fully masked row.
  }];
  let arguments = (ins Attn_Logits:$logits);
  let results = (outs Attn_Stat:$lse);
  let assemblyFormat = "$logits attr-dict `:` type($logits) `->` type($lse)";
  let hasVerifier = 1;
}

def Attn_ApplyOp : Attn_Op<"apply", [Pure]> {
  let summary = "o = sum_j round(p) * v_j / norm";
  let description = [{
    v is (B, Hkv, Sk, Dv). The weights are rounded once to v's type, the sum
    is f32 (S-round). `normalize l1` divides by sum_j p of the unrounded
    weights; a row whose sum is 0 gives 0.
  }];
  let arguments = (ins Attn_Logits:$weights, Attn_Tensor4:$value,
    DefaultValuedAttr<Attn_Normalize, "Normalize::None">:$normalize,
    DefaultValuedAttr<Attn_Layout, "Layout::BHSD">:$layout);
  let results = (outs Attn_Tensor4:$output);
  let assemblyFormat = [{
    $weights `,` $value (`normalize` $normalize^)? (`layout` $layout^)?
    attr-dict `:` type($weights) `,` type($value) `->` type($output)
  }];
  let hasVerifier = 1;
}

def Attn_EpilogueOp : Attn_Op<"epilogue", [Pure, AttrSizedOperandSegments]> {
  let summary = "o = epilogue(o, b, h, i, d, row statistics, captured...)";
  let description = [{
    The region's arguments are o (f32), b, h, i, d (i32), one f32 for each
    statistic that `stats` names (of the row's Dv outputs before the
    epilogue), and one scalar for each captured operand, read through its
    affine map from (b, h, i, d). Rows at or beyond `q_len` are 0.
  }];
  let arguments = (ins Attn_Tensor4:$input, Optional<Attn_Lengths>:$q_len,
    Variadic<Attn_Captured>:$captures,
    DefaultValuedAttr<AffineMapArrayAttr, "{}">:$maps,
    DefaultValuedAttr<TypedArrayAttrBase<Attn_RowStat, "row statistics">,
                      "{}">:$stats,
    DefaultValuedAttr<Attn_Layout, "Layout::BHSD">:$layout);
  let results = (outs Attn_Tensor4:$output);
  let regions = (region SizedRegion<1>:$body);
  let assemblyFormat = [{
    $input (`q_len` $q_len^ `:` type($q_len))?
    (`captures` `(` $captures^ `:` type($captures) `)` `maps` $maps)?
    (`stats` $stats^)? (`layout` $layout^)? $body attr-dict
    `:` type($input) `->` type($output)
  }];
  let hasVerifier = 1;
  let hasFolder = 1;
  let hasCanonicalizer = 1;
}

def Attn_RowNormOp : Attn_Op<"row_norm", [Pure]> {
  let summary = "|x_i|^2, 1/|x_i| or a statistic of every row";
  let description = [{
    x is (B, H, S, D) in the order `layout` names; the result is f32,
    (B, H, S) in every layout. Cosine and Gaussian-kernel scores capture it,
    and an epilogue on its own what it reads of a row. `inverse_l2` of a zero
    row is 0.
  }];
  let arguments = (ins Attn_Tensor4:$input, Attn_RowNorm:$kind,
    DefaultValuedAttr<Attn_Layout, "Layout::BHSD">:$layout);
  let results = (outs Attn_Stat:$result);
  let assemblyFormat = [{
    $kind $input (`layout` $layout^)? attr-dict
    `:` type($input) `->` type($result)
  }];
  let hasVerifier = 1;
}

//===----------------------------------------------------------------------===//
// The whole
//===----------------------------------------------------------------------===//

def Attn_FusedOp : Attn_Op<"fused",
    [Pure, AttrSizedOperandSegments]> {
  let summary = "o_i = epilogue(sum_j round(f(score_mod(scale q_i.k_j))) v_j)";
  let description = [{
    The whole chain in one op; no n x n value exists.

        s = scale * q_i . k_j
        x = score_mod(s, b, h, i, j, q_len, k_len, captured...)
        p = activation(x), or exp(x - max) with normalize = softmax
        p = 0 where any mask says no, or j >= k_len[b]
        o = epilogue(sum_j round(p) v_j / norm, b, h, i, d, stats, captured...)

    Regions `score_mod`, `activation` and `epilogue` have the arguments of
    the unfused ops of these names; an empty region is the identity.
    `normalize` says what the sum is divided by; `softmax` excludes an
    activation. The second result, if present, is the LSE (S-lse) and needs
    `normalize = softmax`.
  }];
  let arguments = (ins
    Attn_Tensor4:$query, Attn_Tensor4:$key, Attn_Tensor4:$value,
    Optional<F32>:$scale, Optional<Attn_Lengths>:$q_len,
    Optional<Attn_Lengths>:$k_len,
    Variadic<Attn_Captured>:$score_captures,
    Variadic<Attn_MaskType>:$masks,
    Variadic<Attn_Captured>:$epilogue_captures,
    DefaultValuedAttr<AffineMapArrayAttr, "{}">:$score_maps,
    DefaultValuedAttr<AffineMapArrayAttr, "{}">:$epilogue_maps,
    DefaultValuedAttr<TypedArrayAttrBase<Attn_RowStat, "row statistics">,
                      "{}">:$stats,
    DefaultValuedAttr<Attn_Normalize, "Normalize::None">:$normalize,
    DefaultValuedAttr<Attn_Layout, "Layout::BHSD">:$layout);
  let results = (outs Attn_Tensor4:$output, Optional<Attn_Stat>:$lse);
  let regions = (region AnyRegion:$score_mod, AnyRegion:$activation,
                        AnyRegion:$epilogue);
  let assemblyFormat = [{
    $query `,` $key `,` $value (`scale` $scale^)?
    (`q_len` $q_len^ `:` type($q_len))? (`k_len` $k_len^ `:` type($k_len))?
    (`masks` `(` $masks^ `)`)?
    (`normalize` $normalize^)? (`layout` $layout^)?
    (`score_captures` `(` $score_captures^ `:` type($score_captures) `)`
     `maps` $score_maps)?
    (`score_mod` $score_mod^)?
    (`activation` $activation^)?
    (`stats` $stats^)?
    (`epilogue_captures` `(` $epilogue_captures^ `:`
     type($epilogue_captures) `)` `maps` $epilogue_maps)?
    (`epilogue` $epilogue^)?
    attr-dict `:` type($query) `,` type($key) `,` type($value)
    `->` type($output) (`,` type($lse)^)?
  }];
  let hasVerifier = 1;
  let hasCanonicalizer = 1;
}

//===----------------------------------------------------------------------===//
// Gradients
//===----------------------------------------------------------------------===//

def Attn_Gradient : RankedTensorOf<[F32, F16, BF16]>;

def Attn_BackwardOp : Attn_Op<"backward", [Pure, AttrSizedOperandSegments]> {
  let summary = "The gradients of an attention";
  let description = [{
    With dO, the gradient of the sums o_i = sum_j p_ij v_j (before an
    epilogue):

        s = scale * q_i . k_j          dp = dO_i . v_j
        p = weight(s, b, h, i, j, q_len, k_len, captured...)
        ds = gradient(s, p, dp, b, h, i, j, q_len, k_len, captured...)
        p = ds = 0 where any mask says no, or i >= q_len or j >= k_len
        dV_j = sum_i round(p) dO_i
        dQ_i = scale * sum_j round(ds) k_j
        dK_j = scale * sum_i round(ds) q_i

    p and ds are rounded once, to the types of value and key; the sums are f32
    and those of dK and dV always in the same order; those of dQ too if
    `deterministic` (S-bits). Query heads of a group add to the gradient of
    their key head (S-gqa). Rows at or beyond a length get exactly
    0 (S-beyond, S-mask-zero).

    What a normalisation needs of a row (LSE, dO . o) is a captured operand,
    so this op knows none. `attn-differentiate` makes it.

    `capture_gradients` has one region for each capture that `of` numbers,
    with the arguments of `gradient`; its values are summed (S-bias). Where
    the capture's map reads j but not i, the result is the sum over i, a
    (B, Hq, Sk) f32 tensor, and where it does not read j the sum over j, a
    (B, Hq, Sq) one; `attn.sum` does the rest. Where it reads both, the result
    is of the captured operand's shape, and the map may only permute
    positions, h floordiv N for h, or read b, h and in one dim
    (i - j + constant) floordiv constant or the same of j - i: a table of
    relative positions.
  }];
  let arguments = (ins
    Attn_Tensor4:$query, Attn_Tensor4:$key, Attn_Tensor4:$value,
    Attn_Tensor4:$doutput,
    Optional<F32>:$scale, Optional<Attn_Lengths>:$q_len,
    Optional<Attn_Lengths>:$k_len,
    Variadic<Attn_Captured>:$captures,
    Variadic<Attn_MaskType>:$masks,
    DefaultValuedAttr<AffineMapArrayAttr, "{}">:$maps,
    DefaultValuedAttr<Attn_Layout, "Layout::BHSD">:$layout,
    DefaultValuedAttr<DenseI64ArrayAttr, "{}">:$of,
    UnitAttr:$deterministic);
  let results = (outs Attn_Tensor4:$dquery, Attn_Tensor4:$dkey,
    Attn_Tensor4:$dvalue, Variadic<Attn_Gradient>:$dcaptures);
  let regions = (region SizedRegion<1>:$weight, SizedRegion<1>:$gradient,
                        VariadicRegion<SizedRegion<1>>:$capture_gradients);
  let assemblyFormat = [{
    $query `,` $key `,` $value `,` $doutput (`scale` $scale^)?
    (`q_len` $q_len^ `:` type($q_len))? (`k_len` $k_len^ `:` type($k_len))?
    (`masks` `(` $masks^ `)`)? (`layout` $layout^)?
    (`captures` `(` $captures^ `:` type($captures) `)` `maps` $maps)?
    (`deterministic` $deterministic^)? `weight` $weight `gradient` $gradient
    (`of` $of^ `capture_gradients` $capture_gradients)?
    attr-dict `:` type($query) `,` type($key) `,` type($value) `,`
    type($doutput) `->` type($dquery) `,` type($dkey) `,` type($dvalue)
    (`,` type($dcaptures)^)?
  }];
  let hasVerifier = 1;
}

def Attn_RowSumsOp : Attn_Op<"row_sums", [Pure, AttrSizedOperandSegments]> {
  let summary = "What the gradient of an l1 normalisation needs of each row";
  let description = [{
    With p and dp of `attn.backward`:

        inverse_i = 1 / sum_j p_ij
        delta_i = inverse_i * sum_j p_ij dp_ij

    Both are 0 where the sum of p is 0, f32 and (B, Hq, Sq) in every layout.
  }];
  let arguments = (ins
    Attn_Tensor4:$query, Attn_Tensor4:$key, Attn_Tensor4:$value,
    Attn_Tensor4:$doutput,
    Optional<F32>:$scale, Optional<Attn_Lengths>:$q_len,
    Optional<Attn_Lengths>:$k_len,
    Variadic<Attn_Captured>:$captures,
    Variadic<Attn_MaskType>:$masks,
    DefaultValuedAttr<AffineMapArrayAttr, "{}">:$maps,
    DefaultValuedAttr<Attn_Layout, "Layout::BHSD">:$layout);
  let results = (outs Attn_Stat:$inverse, Attn_Stat:$delta);
  let regions = (region SizedRegion<1>:$weight);
  let assemblyFormat = [{
    $query `,` $key `,` $value `,` $doutput (`scale` $scale^)?
    (`q_len` $q_len^ `:` type($q_len))? (`k_len` $k_len^ `:` type($k_len))?
    (`masks` `(` $masks^ `)`)? (`layout` $layout^)?
    (`captures` `(` $captures^ `:` type($captures) `)` `maps` $maps)?
    `weight` $weight attr-dict
    `:` type($query) `,` type($key) `,` type($value) `,` type($doutput)
    `->` type($inverse) `,` type($delta)
  }];
  let hasVerifier = 1;
}

def Attn_RowDotOp : Attn_Op<"row_dot", [Pure]> {
  let summary = "x_i . y_i of every row";
  let description = [{
    x and y are (B, H, S, D) in the order `layout` names; the result is f32,
    (B, H, S) in every layout. The gradient of a softmax needs dO_i . o_i.
  }];
  let arguments = (ins Attn_Tensor4:$lhs, Attn_Tensor4:$rhs,
    DefaultValuedAttr<Attn_Layout, "Layout::BHSD">:$layout);
  let results = (outs Attn_Stat:$result);
  let assemblyFormat = [{
    $lhs `,` $rhs (`layout` $layout^)? attr-dict
    `:` type($lhs) `,` type($rhs) `->` type($result)
  }];
  let hasVerifier = 1;
}

def Attn_EpilogueGradientOp : Attn_Op<"epilogue_gradient",
    [Pure, AttrSizedOperandSegments]> {
  let summary = "The gradients of an epilogue";
  let description = [{
    With o, what the epilogue was given, and dy, the gradient of what it made
    of it:

        do = gradient(o, dy, b, h, i, d, captured...)

    rounded once, to the type of the result. Rows at or beyond `q_len` are 0.
    `capture_gradients` has one region for each capture that `of` numbers, with
    the same arguments. Where the capture's map reads d but not i, the result
    is the sum over i, a (B, H, D) f32 tensor, and where it does not read d the
    sum over d, a (B, H, S) one; `attn.sum` does the rest. Where it reads both,
    the result is of the captured operand's shape, and the map may only permute
    positions, h floordiv N for h.
  }];
  let arguments = (ins Attn_Tensor4:$input, Attn_Tensor4:$doutput,
    Optional<Attn_Lengths>:$q_len, Variadic<Attn_Captured>:$captures,
    DefaultValuedAttr<AffineMapArrayAttr, "{}">:$maps,
    DefaultValuedAttr<Attn_Layout, "Layout::BHSD">:$layout,
    DefaultValuedAttr<DenseI64ArrayAttr, "{}">:$of);
  let results = (outs Attn_Tensor4:$dinput, Variadic<Attn_Gradient>:$dcaptures);
  let regions = (region SizedRegion<1>:$gradient,
                        VariadicRegion<SizedRegion<1>>:$capture_gradients);
  let assemblyFormat = [{
    $input `,` $doutput (`q_len` $q_len^ `:` type($q_len))?
    (`layout` $layout^)?
    (`captures` `(` $captures^ `:` type($captures) `)` `maps` $maps)?
    `gradient` $gradient (`of` $of^ `capture_gradients` $capture_gradients)?
    attr-dict `:` type($input) `,` type($doutput) `->` type($dinput)
    (`,` type($dcaptures)^)?
  }];
  let hasVerifier = 1;
}

def Attn_SumOp : Attn_Op<"sum", [Pure]> {
  let summary = "The sum over the dims that a map drops";
  let description = [{
    The input has one to three dims, such as (b, h, x). `map` leads from them
    to the dims of the result, each of them one of them or its quotient
    (floordiv) by a constant; element y is the sum of the inputs that lead to
    y, in f32 and in one fixed order (S-bits). `like` is a tensor whose sizes
    the result has; without one its dims must be dims of the input.
  }];
  let arguments = (ins RankedTensorOf<[F32]>:$input,
    Optional<RankedTensorOf<[F32, F16, BF16]>>:$like, AffineMapAttr:$map);
  let results = (outs Attn_Gradient:$result);
  let assemblyFormat = [{
    $input `map` $map (`like` $like^ `:` type($like))? attr-dict
    `:` type($input) `->` type($result)
  }];
  let hasVerifier = 1;
}

def Attn_YieldOp : Attn_Op<"yield", [Pure, Terminator,
    ParentOneOf<["FusedOp", "ScoreModOp", "ActivationOp", "EpilogueOp",
                 "PredicateMaskOp", "BackwardOp", "RowSumsOp",
                 "EpilogueGradientOp"]>]> {
  let summary = "The value a region computes";
  let arguments = (ins AnyTypeOf<[F32, I1]>:$value);
  let assemblyFormat = "$value attr-dict `:` type($value)";
}

#endif // ATTNC_ATTN_OPS_TD
