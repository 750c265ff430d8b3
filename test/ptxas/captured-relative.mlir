// Gradients of a table of relative positions and of a mask that sequences and
// heads share: loops in which queries and keys pass.

!t = tensor<?x?x?x128xbf16>
!s = tensor<?x?x?x?xf32>
func.func @attention(
    %q: !t {attn.name = "q"},
    %k: !t {attn.name = "k"},
    %v: !t {attn.name = "v"},
    %table: tensor<?x?xf32> {attn.name = "table", attn.gradient},
    %added: tensor<?x?xf32> {attn.name = "added", attn.gradient})
    -> (!t {attn.name = "o"}) attributes {attn.differentiate} {
  %s = attn.scores %q, %k : !t, !t -> !s
  %x = attn.bias %s, %table map affine_map<(b, h, i, j) -> (h, i - j + 511)> : !s, tensor<?x?xf32>
  %y = attn.bias %x, %added map affine_map<(b, h, i, j) -> (i, j)> : !s, tensor<?x?xf32>
  %c = attn.causal_mask
  %m = attn.mask %y by %c : !s
  %p = attn.activation %m {
  ^bb0(%e: f32):
    %w = attn.logistic %e : f32
    attn.yield %w : f32
  } : !s
  %o = attn.apply %p, %v : !s, !t -> !t
  return %o : !t
}
