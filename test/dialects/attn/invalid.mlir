// RUN: attnc-opt %s -verify-diagnostics -split-input-file

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @rank(%q: tensor<?x?x64xf32>, %k: !t) {
  // expected-error @+1 {{operand #0 must be 4-D tensor of f32, f16 or bf16, but got 'tensor<?x?x64xf32>'}}
  %s = attn.scores %q, %k : tensor<?x?x64xf32>, !t -> !s
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @head_dim_dynamic(%q: tensor<?x?x?x?xf32>, %k: !t) {
  // expected-error @+1 {{'attn.scores' op needs a static head dim: the number of query columns is dynamic}}
  %s = attn.scores %q, %k : tensor<?x?x?x?xf32>, !t -> !s
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @head_dim_zero(%q: tensor<?x?x?x0xf32>, %k: tensor<?x?x?x0xf32>) {
  // expected-error @+1 {{'attn.scores' op needs a head dim of at least 1, got 0 query columns}}
  %s = attn.scores %q, %k : tensor<?x?x?x0xf32>, tensor<?x?x?x0xf32> -> !s
  return
}

// -----

!t = tensor<?x?x?x4294967296xf32>
!s = tensor<?x?x?x?xf32>
func.func @head_dim_huge(%q: !t, %k: !t) {
  // expected-error @+1 {{'attn.scores' op needs a head dim of at most 65536, got 4294967296 query columns}}
  %s = attn.scores %q, %k : !t, !t -> !s
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @head_dims(%q: !t, %k: tensor<?x?x?x32xf32>) {
  // expected-error @+1 {{'attn.scores' op sizes differ: 64 query columns but 32 key columns}}
  %s = attn.scores %q, %k : !t, tensor<?x?x?x32xf32> -> !s
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
// S-gqa
func.func @groups(%q: tensor<?x6x?x64xf32>, %k: tensor<?x4x?x64xf32>) {
  // expected-error @+1 {{'attn.scores' op 6 query heads are not a multiple of 4 key heads}}
  %s = attn.scores %q, %k : tensor<?x6x?x64xf32>, tensor<?x4x?x64xf32> -> !s
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
// S-gqa: heads are where the layout says.
func.func @groups_bshd(%q: tensor<?x?x6x64xf32>, %k: tensor<?x?x4x64xf32>) {
  // expected-error @+1 {{'attn.scores' op 6 query heads are not a multiple of 4 key heads}}
  %s = attn.scores %q, %k layout bshd : tensor<?x?x6x64xf32>, tensor<?x?x4x64xf32> -> !s
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @element_types(%q: !t, %k: tensor<?x?x?x64xbf16>) {
  // expected-error @+1 {{'attn.scores' op query and key differ in element type: 'f32' and 'bf16'}}
  %s = attn.scores %q, %k : !t, tensor<?x?x?x64xbf16> -> !s
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @sequences(%q: tensor<2x?x?x64xf32>, %k: tensor<3x?x?x64xf32>) {
  // expected-error @+1 {{'attn.scores' op sizes differ: 2 query sequences but 3 key sequences}}
  %s = attn.scores %q, %k : tensor<2x?x?x64xf32>, tensor<3x?x?x64xf32> -> !s
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @logits(%q: tensor<?x?x16x64xf32>, %k: !t) {
  // expected-error @+1 {{'attn.scores' op sizes differ: 17 logit rows but 16 query rows}}
  %s = attn.scores %q, %k : tensor<?x?x16x64xf32>, !t -> tensor<?x?x17x?xf32>
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @lengths(%q: tensor<2x?x?x64xf32>, %k: !t, %l: tensor<3xi32>) {
  // expected-error @+1 {{'attn.scores' op sizes differ: 3 k_len entries but 2 query sequences}}
  %s = attn.scores %q, %k k_len %l : tensor<3xi32> : tensor<2x?x?x64xf32>, !t -> !s
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
// S-bool
func.func @bias_of_booleans(%s: !s, %m: tensor<?x?xi1>) {
  // expected-error @+1 {{'attn.bias' op bias must be of floats, got 'tensor<?x?xi1>'; for booleans use attn.tensor_mask}}
  %x = attn.bias %s, %m map affine_map<(b, h, i, j) -> (i, j)> : !s, tensor<?x?xi1>
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
// S-bias
func.func @bias_map(%s: !s, %m: tensor<?x?xf32>) {
  // expected-error @+1 {{'attn.bias' op bias of type 'tensor<?x?xf32>' needs a map from (b, h, i, j) to its 2 dims, got affine_map<(d0, d1, d2, d3) -> (d1)>}}
  %x = attn.bias %s, %m map affine_map<(b, h, i, j) -> (h)> : !s, tensor<?x?xf32>
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
// S-bias
func.func @bias_extent(%s: tensor<?x8x?x?xf32>, %m: tensor<4x?xf32>) {
  // expected-error @+1 {{'attn.bias' op sizes differ: 4 bias elements in dim 0 but 8 logit heads}}
  %x = attn.bias %s, %m map affine_map<(b, h, i, j) -> (h, i - j)> : tensor<?x8x?x?xf32>, tensor<4x?xf32>
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @captures_and_maps(%s: !s, %m: tensor<?xf32>) {
  // expected-error @+1 {{'attn.score_mod' op has 1 captures but 0 maps}}
  %x = attn.score_mod %s captures(%m : tensor<?xf32>) maps [] {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32):
    attn.yield %e : f32
  } : !s
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @capture_extent(%s: tensor<?x?x?x16xf32>, %m: tensor<8xf32>) {
  // expected-error @+1 {{'attn.score_mod' op sizes differ: 8 capture 0 elements in dim 0 but 16 logit keys}}
  %x = attn.score_mod %s captures(%m : tensor<8xf32>) maps [affine_map<(b, h, i, j) -> (j)>] {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32, %c: f32):
    attn.yield %e : f32
  } : tensor<?x?x?x16xf32>
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @arguments(%s: !s) {
  // expected-error @+1 {{'attn.score_mod' op region 'score_mod' must have arguments of types ('f32', 'i32', 'i32', 'i32', 'i32', 'i32', 'i32'), got ('f32')}}
  %x = attn.score_mod %s {
  ^bb0(%e: f32):
    attn.yield %e : f32
  } : !s
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @yield_type(%s: !s) {
  // expected-error @+1 {{'attn.score_mod' op region 'score_mod' must end in an attn.yield of 'f32'}}
  %x = attn.score_mod %s {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32):
    %z = arith.cmpi slt, %i, %j : i32
    attn.yield %z : i1
  } : !s
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @call(%s: !s) {
  %x = attn.score_mod %s {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32):
    // expected-error @+1 {{'func.call' op is not allowed in 'score_mod': use the elementwise ops of the op table (docs/semantics.md)}}
    %z = func.call @f(%e) : (f32) -> f32
    attn.yield %z : f32
  } : !s
  return
}
func.func private @f(f32) -> f32

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @wide(%s: !s) {
  %x = attn.score_mod %s {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32):
    // expected-error @+1 {{'arith.extsi' op in 'score_mod' must give f32, i32 or i1, got 'i64'}}
    %w = arith.extsi %i : i32 to i64
    attn.yield %e : f32
  } : !s
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @captured_tensor(%s: !s, %t: tensor<4xf32>) {
  %x = attn.score_mod %s {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32):
    // expected-error @+1 {{'arith.addf' op in 'score_mod' must give f32, i32 or i1, got 'tensor<4xf32>'}}
    %w = arith.addf %t, %t : tensor<4xf32>
    attn.yield %e : f32
  } : !s
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @uses_half(%s: !s, %x: f16) {
  %r = attn.score_mod %s {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32):
    // expected-error @+1 {{'arith.cmpf' op in 'score_mod' uses a value of 'f16'; capture tensors with an affine map}}
    %c = arith.cmpf olt, %x, %x : f16
    %z = arith.select %c, %e, %e : f32
    attn.yield %z : f32
  } : !s
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
// S-slots
func.func @mask_by_score_mod(%s: !s) {
  // expected-error @+1 {{'attn.score_mod' op region 'score_mod' may return -inf, which is no mask for activations other than softmax: use the mask slot, for example attn.predicate_mask}}
  %x = attn.score_mod %s {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32):
    %inf = arith.constant 0xFF800000 : f32
    %c = arith.cmpi sle, %j, %i : i32
    %z = arith.select %c, %e, %inf : f32
    attn.yield %z : f32
  } : !s
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
// S-slots: a sum with -inf is -inf.
func.func @mask_by_sum(%s: !s) {
  %inf = arith.constant 0xFF800000 : f32
  %zero = arith.constant 0.0 : f32
  // expected-error @+1 {{'attn.score_mod' op region 'score_mod' may return -inf, which is no mask for activations other than softmax: use the mask slot, for example attn.predicate_mask}}
  %x = attn.score_mod %s {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32):
    %c = arith.cmpi sle, %j, %i : i32
    %y = arith.select %c, %zero, %inf : f32
    %z = arith.addf %e, %y : f32
    attn.yield %z : f32
  } : !s
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @activation(%s: !s) {
  // expected-error @+1 {{'attn.activation' op region 'activation' must have arguments of types ('f32'), got ('f32', 'i32')}}
  %x = attn.activation %s {
  ^bb0(%e: f32, %i: i32):
    attn.yield %e : f32
  } : !s
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
// S-lse
func.func @lse(%s: tensor<?x8x?x?xf32>) {
  // expected-error @+1 {{'attn.lse' op sizes differ: 4 lse heads but 8 logit heads}}
  %x = attn.lse %s : tensor<?x8x?x?xf32> -> tensor<?x4x?xf32>
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @apply_softmax(%s: !s, %v: !t) {
  // expected-error @+1 {{'attn.apply' op cannot normalise as softmax does: use attn.softmax for the weights}}
  %o = attn.apply %s, %v normalize softmax : !s, !t -> !t
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @apply_keys(%s: tensor<?x?x?x8xf32>, %v: tensor<?x?x9x64xf32>) {
  // expected-error @+1 {{'attn.apply' op sizes differ: 8 weight keys but 9 value rows}}
  %o = attn.apply %s, %v : tensor<?x?x?x8xf32>, tensor<?x?x9x64xf32> -> !t
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @apply_columns(%s: !s, %v: !t) {
  // expected-error @+1 {{'attn.apply' op sizes differ: 32 output columns but 64 value columns}}
  %o = attn.apply %s, %v : !s, !t -> tensor<?x?x?x32xf32>
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @apply_groups(%s: tensor<?x8x?x?xf32>, %v: tensor<?x3x?x64xf32>) {
  // expected-error @+1 {{'attn.apply' op 8 weight heads are not a multiple of 3 value heads}}
  %o = attn.apply %s, %v : tensor<?x8x?x?xf32>, tensor<?x3x?x64xf32> -> !t
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @epilogue_shape(%o: tensor<?x?x4x64xf32>) {
  // expected-error @+1 {{'attn.epilogue' op sizes differ: 4 input rows but 5 output rows}}
  %r = attn.epilogue %o {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %d: i32):
    attn.yield %e : f32
  } : tensor<?x?x4x64xf32> -> tensor<?x?x5x64xf32>
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @epilogue_statistics(%o: !t) {
  // expected-error @+1 {{'attn.epilogue' op region 'epilogue' must have arguments of types ('f32', 'i32', 'i32', 'i32', 'i32', 'f32', 'f32'), got ('f32', 'i32', 'i32', 'i32', 'i32', 'f32')}}
  %r = attn.epilogue %o stats [0 : i32, 1 : i32] {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %d: i32, %mean: f32):
    attn.yield %e : f32
  } : !t -> !t
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @row_norm(%x: tensor<2x?x?x64xf32>) {
  // expected-error @+1 {{'attn.row_norm' op sizes differ: 3 result sequences but 2 input sequences}}
  %r = attn.row_norm inverse_l2 %x : tensor<2x?x?x64xf32> -> tensor<3x?x?xf32>
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @documents(%q: tensor<2x?xi32>, %k: tensor<3x?xi32>) {
  // expected-error @+1 {{'attn.document_mask' op sizes differ: 2 q_ids sequences but 3 k_ids sequences}}
  %m = attn.document_mask %q, %k : tensor<2x?xi32>, tensor<3x?xi32>
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @stride() {
  %zero = arith.constant 0 : i32
  // expected-error @+1 {{'attn.dilated_mask' op needs a stride of at least 1, got 0}}
  %m = attn.dilated_mask %zero
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
// S-window
func.func @window() {
  %zero = arith.constant 0 : i32
  %two = arith.constant -2 : i32
  // expected-error @+1 {{'attn.window_mask' op needs widths of at least 0, or -1 for unlimited, got -2}}
  %m = attn.window_mask %zero, %two
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @tensor_map(%m: tensor<?x?xi1>) {
  // expected-error @+1 {{'attn.tensor_mask' op tensor of type 'tensor<?x?xi1>' needs a map from (b, h, i, j) to its 2 dims, got affine_map<(d0, d1) -> (d0, d1)>}}
  %x = attn.tensor_mask %m map affine_map<(i, j) -> (i, j)> : tensor<?x?xi1>
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @predicate() {
  // expected-error @+1 {{'attn.predicate_mask' op region 'predicate' must have arguments of types ('i32', 'i32', 'i32', 'i32'), got ('i32', 'i32')}}
  %x = attn.predicate_mask {
  ^bb0(%i: i32, %j: i32):
    %c = arith.cmpi sle, %j, %i : i32
    attn.yield %c : i1
  }
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @mask_argument(%s: !s, %m: !attn.mask) {
  // expected-error @+1 {{'attn.mask' op mask 0 is not the result of a mask op; masks cannot be passed to a function}}
  %x = attn.mask %s by %m : !s
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
// S-slots
func.func @two_functions(%q: !t, %k: !t, %v: !t) {
  // expected-error @+1 {{'attn.fused' op has an activation and normalize = softmax: the softmax is the activation}}
  %o = attn.fused %q, %k, %v normalize softmax activation {
  ^bb0(%e: f32):
    attn.yield %e : f32
  } : !t, !t, !t -> !t
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
// S-lse
func.func @fused_lse(%q: !t, %k: !t, %v: !t) {
  // expected-error @+1 {{'attn.fused' op has an lse, which needs normalize = softmax}}
  %o, %lse = attn.fused %q, %k, %v : !t, !t, !t -> !t, tensor<?x?x?xf32>
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
// S-lse: (B, H, Sq) in every layout.
func.func @fused_lse_layout(%q: tensor<2x16x8x64xf32>) {
  // expected-error @+1 {{'attn.fused' op sizes differ: 16 lse heads but 8 query heads}}
  %o, %lse = attn.fused %q, %q, %q normalize softmax layout bshd : tensor<2x16x8x64xf32>, tensor<2x16x8x64xf32>, tensor<2x16x8x64xf32> -> tensor<2x16x8x64xf32>, tensor<2x16x8xf32>
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @fused_value(%q: !t, %k: tensor<?x?x7x64xf32>, %v: tensor<?x?x8x64xf32>) {
  // expected-error @+1 {{'attn.fused' op sizes differ: 7 key rows but 8 value rows}}
  %o = attn.fused %q, %k, %v : !t, tensor<?x?x7x64xf32>, tensor<?x?x8x64xf32> -> !t
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @fused_captures(%q: !t, %k: !t, %v: !t, %c: f32) {
  // expected-error @+1 {{'attn.fused' op has score captures but no score_mod}}
  %o = attn.fused %q, %k, %v score_captures(%c : f32) maps [affine_map<(b, h, i, j) -> ()>] : !t, !t, !t -> !t
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @fused_statistics(%q: !t, %k: !t, %v: !t) {
  // expected-error @+1 {{'attn.fused' op has epilogue captures or statistics but no epilogue}}
  %o = attn.fused %q, %k, %v stats [0 : i32] : !t, !t, !t -> !t
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @fused_mask(%q: tensor<?x?x4x64xf32>, %k: !t, %v: !t, %m: tensor<5x?xi1>) {
  %mask = attn.tensor_mask %m map affine_map<(b, h, i, j) -> (i, j)> : tensor<5x?xi1>
  // expected-error @+1 {{'attn.fused' op sizes differ: 5 mask 0 elements in dim 0 but 4 query rows}}
  %o = attn.fused %q, %k, %v masks(%mask) : tensor<?x?x4x64xf32>, !t, !t -> tensor<?x?x4x64xf32>
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @fused_epilogue_capture(%q: !t, %k: !t, %v: !t, %g: tensor<32xf32>) {
  // expected-error @+1 {{'attn.fused' op sizes differ: 32 epilogue capture 0 elements in dim 0 but 64 value columns}}
  %o = attn.fused %q, %k, %v epilogue_captures(%g : tensor<32xf32>) maps [affine_map<(b, h, i, d) -> (d)>] epilogue {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %d: i32, %c: f32):
    attn.yield %e : f32
  } : !t, !t, !t -> !t
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!r = tensor<?x?x?xf32>
func.func @backward_doutput(%q: !t, %k: !t, %v: !t, %do: tensor<?x?x?x32xf32>) {
  // expected-error @+1 {{'attn.backward' op sizes differ: 32 doutput columns but 64 value columns}}
  %r:3 = attn.backward %q, %k, %v, %do  weight {
  ^bb0(%s: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32):
    attn.yield %s : f32
  } gradient {
  ^bb0(%s: f32, %p: f32, %dp: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32):
    attn.yield %p : f32
  }  : !t, !t, !t, tensor<?x?x?x32xf32> -> !t, !t, !t
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!r = tensor<?x?x?xf32>
func.func @backward_dkey(%q: !t, %k: !t, %v: !t, %do: !t) {
  // expected-error @+1 {{'attn.backward' op sizes differ: 32 dkey columns but 64 key columns}}
  %r:3 = attn.backward %q, %k, %v, %do  weight {
  ^bb0(%s: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32):
    attn.yield %s : f32
  } gradient {
  ^bb0(%s: f32, %p: f32, %dp: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32):
    attn.yield %p : f32
  }  : !t, !t, !t, !t -> !t, tensor<?x?x?x32xf32>, !t
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!r = tensor<?x?x?xf32>
func.func @backward_region(%q: !t, %k: !t, %v: !t, %do: !t) {
  // expected-error @+1 {{'attn.backward' op region 'gradient' must have arguments of types ('f32', 'f32', 'f32', 'i32', 'i32', 'i32', 'i32', 'i32', 'i32'), got ('f32')}}
  %r:3 = attn.backward %q, %k, %v, %do weight {
  ^bb0(%s: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32):
    attn.yield %s : f32
  } gradient {
  ^bb0(%s: f32):
    attn.yield %s : f32
  } : !t, !t, !t, !t -> !t, !t, !t
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!r = tensor<?x?x?xf32>
func.func @backward_of(%q: !t, %k: !t, %v: !t, %do: !t, %c: tensor<?xf32>) {
  // expected-error @+1 {{'attn.backward' op asks for the gradient of capture 1, but has 1 captures}}
  %r:4 = attn.backward %q, %k, %v, %do captures(%c : tensor<?xf32>) maps [affine_map<(b, h, i, j) -> (h)>] weight {
  ^bb0(%s: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32, %e: f32):
    attn.yield %s : f32
  } gradient {
  ^bb0(%s: f32, %p: f32, %dp: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32, %e: f32):
    attn.yield %p : f32
  } of [1] capture_gradients {
  ^bb0(%s: f32, %p: f32, %dp: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32, %e: f32):
    attn.yield %p : f32
  } : !t, !t, !t, !t -> !t, !t, !t, !r
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!r = tensor<?x?x?xf32>
func.func @backward_integer(%q: !t, %k: !t, %v: !t, %do: !t, %c: tensor<?xi32>) {
  // expected-error @+1 {{'attn.backward' op gradient of capture 0: an operand of 'i32' has no gradient}}
  %r:4 = attn.backward %q, %k, %v, %do captures(%c : tensor<?xi32>) maps [affine_map<(b, h, i, j) -> (h)>] weight {
  ^bb0(%s: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32, %e: i32):
    attn.yield %s : f32
  } gradient {
  ^bb0(%s: f32, %p: f32, %dp: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32, %e: i32):
    attn.yield %p : f32
  } of [0] capture_gradients {
  ^bb0(%s: f32, %p: f32, %dp: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32, %e: i32):
    attn.yield %p : f32
  } : !t, !t, !t, !t -> !t, !t, !t, !r
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!r = tensor<?x?x?xf32>
func.func @backward_antidiagonal(%q: !t, %k: !t, %v: !t, %do: !t, %c: tensor<?xf32>) {
  // expected-error @+1 {{'attn.backward' op gradient of capture 0: a map that reads i and j may only permute positions, h floordiv N for h, or read i - j in one dim, got affine_map<(d0, d1, d2, d3) -> (d2 + d3)>}}
  %r:4 = attn.backward %q, %k, %v, %do captures(%c : tensor<?xf32>) maps [affine_map<(b, h, i, j) -> (i + j)>] weight {
  ^bb0(%s: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32, %e: f32):
    attn.yield %s : f32
  } gradient {
  ^bb0(%s: f32, %p: f32, %dp: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32, %e: f32):
    attn.yield %p : f32
  } of [0] capture_gradients {
  ^bb0(%s: f32, %p: f32, %dp: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32, %e: f32):
    attn.yield %p : f32
  } : !t, !t, !t, !t -> !t, !t, !t, tensor<?xf32>
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!r = tensor<?x?x?xf32>
func.func @backward_partial(%q: !t, %k: !t, %v: !t, %do: !t, %c: tensor<?xf32>) {
  // expected-error @+1 {{'attn.backward' op gradient of capture 0 must be a 3-D f32 tensor, got 'tensor<?xf32>'}}
  %r:4 = attn.backward %q, %k, %v, %do captures(%c : tensor<?xf32>) maps [affine_map<(b, h, i, j) -> (h)>] weight {
  ^bb0(%s: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32, %e: f32):
    attn.yield %s : f32
  } gradient {
  ^bb0(%s: f32, %p: f32, %dp: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32, %e: f32):
    attn.yield %p : f32
  } of [0] capture_gradients {
  ^bb0(%s: f32, %p: f32, %dp: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32, %e: f32):
    attn.yield %p : f32
  } : !t, !t, !t, !t -> !t, !t, !t, tensor<?xf32>
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!r = tensor<?x?x?xf32>
func.func @backward_count(%q: !t, %k: !t, %v: !t, %do: !t) {
  // expected-error @+1 {{'attn.backward' op has 0 regions and 1 results for the gradients of 0 captures}}
  %r:4 = attn.backward %q, %k, %v, %do  weight {
  ^bb0(%s: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32):
    attn.yield %s : f32
  } gradient {
  ^bb0(%s: f32, %p: f32, %dp: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32):
    attn.yield %p : f32
  }  : !t, !t, !t, !t -> !t, !t, !t, !r
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!r = tensor<?x?x?xf32>
func.func @row_dot(%x: !t, %y: tensor<?x?x?x32xf32>) {
  // expected-error @+1 {{'attn.row_dot' op sizes differ: 64 lhs columns but 32 rhs columns}}
  %r = attn.row_dot %x, %y : !t, tensor<?x?x?x32xf32> -> !r
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!r = tensor<?x?x?xf32>
func.func @sum_map(%x: !r, %like: tensor<?xf32>) {
  // expected-error @+1 {{'attn.sum' op needs a map from the 3 dims of the input to the 1 dims of the result, got affine_map<(d0, d1) -> (d1)>}}
  %r = attn.sum %x map affine_map<(b, h) -> (h)> like %like : tensor<?xf32> : !r -> tensor<?xf32>
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!r = tensor<?x?x?xf32>
func.func @sum_function(%x: !r, %like: tensor<?xf32>) {
  // expected-error @+1 {{'attn.sum' op maps each dim of the result to a dim of the input or its quotient by a constant, got affine_map<(d0, d1, d2) -> (d1 + d2)>}}
  %r = attn.sum %x map affine_map<(b, h, x) -> (h + x)> like %like : tensor<?xf32> : !r -> tensor<?xf32>
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!r = tensor<?x?x?xf32>
func.func @sum_like(%x: !r) {
  // expected-error @+1 {{'attn.sum' op needs `like`: the sizes of the result are those of that tensor}}
  %r = attn.sum %x map affine_map<(b, h, x) -> (h floordiv 2)> : !r -> tensor<?xf32>
  return
}

// -----

!r = tensor<?x?x?xf32>
func.func @sum_size(%x: !r) {
  // expected-error @+1 {{'attn.sum' op dim 0 of the result must have the size of dim 1 of 'tensor<?x?x?xf32>', got 'tensor<4xf32>'}}
  %r = attn.sum %x map affine_map<(b, h, x) -> (h)> : !r -> tensor<4xf32>
  return
}

// -----

func.func @sum_rank(%x: tensor<f32>) {
  // expected-error @+1 {{'attn.sum' op sums tensors of 1 to 3 dims, got 'tensor<f32>'}}
  %r = attn.sum %x map affine_map<() -> ()> : tensor<f32> -> tensor<f32>
  return
}

// -----

!t = tensor<?x?x?x64xf32>
!r = tensor<?x?x?xf32>
func.func @sum_sizes(%x: !r, %like: tensor<4xf32>) {
  // expected-error @+1 {{'attn.sum' op the result must have the sizes of 'tensor<4xf32>', got 'tensor<?xf32>'}}
  %r = attn.sum %x map affine_map<(b, h, x) -> (h)> like %like : tensor<4xf32> : !r -> tensor<?xf32>
  return
}

// -----

!t = tensor<?x?x?x64xf32>
func.func @epilogue_gradient_sizes(%o: !t, %dy: tensor<?x?x?x32xf32>) {
  // expected-error @+1 {{'attn.epilogue_gradient' op sizes differ: 32 doutput columns but 64 input columns}}
  %r = attn.epilogue_gradient %o, %dy gradient {
  ^bb0(%x: f32, %y: f32, %b: i32, %h: i32, %i: i32, %d: i32):
    attn.yield %y : f32
  } : !t, tensor<?x?x?x32xf32> -> !t
  return
}

// -----

!t = tensor<?x?x?x64xf32>
func.func @epilogue_gradient_of(%o: !t, %dy: !t) {
  // expected-error @+1 {{'attn.epilogue_gradient' op has 0 regions and 0 results for the gradients of 1 captures}}
  %r = "attn.epilogue_gradient"(%o, %dy) <{of = array<i64: 0>, operandSegmentSizes = array<i32: 1, 1, 0, 0>}> ({
  ^bb0(%x: f32, %y: f32, %b: i32, %h: i32, %i: i32, %d: i32):
    attn.yield %y : f32
  }) : (!t, !t) -> !t
  return
}
