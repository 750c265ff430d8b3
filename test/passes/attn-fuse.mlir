// RUN: attnc-opt %s --pass-pipeline='builtin.module(func.func(attn-fuse))' | FileCheck %s

!t = tensor<?x?x?x64xf32>
!h = tensor<?x?x?x64xbf16>
!s = tensor<?x?x?x?xf32>

// Every slot, in the order of the formula.

// CHECK-LABEL: func.func @everything(
// CHECK-SAME: %[[Q:.*]]: tensor<?x?x?x64xf32>, %[[K:.*]]: tensor<?x?x?x64xf32>, %[[V:.*]]: tensor<?x?x?x64xf32>, %[[SC:.*]]: f32, %[[B:.*]]: f32, %[[SL:.*]]: tensor<?xf32>, %[[G:.*]]: tensor<?x?x?x64xbf16>, %[[QL:.*]]: tensor<?xi32>, %[[KL:.*]]: tensor<?xi32>)
// CHECK: %[[M0:.*]] = attn.causal_mask
// CHECK: %[[M1:.*]] = attn.dilated_mask
// CHECK-NOT: attn.scores
// CHECK: attn.fused %[[Q]], %[[K]], %[[V]] scale %[[SC]] q_len %[[QL]]
// CHECK-SAME: k_len %[[KL]]
// CHECK-SAME: masks(%[[M1]], %[[M0]]) normalize l1 layout bshd
// CHECK-SAME: score_captures(%[[B]], %[[SL]]
// CHECK-SAME: score_mod {
// CHECK: %[[X:.*]] = arith.addf
// CHECK: %[[Y:.*]] = arith.mulf %[[X]],
// CHECK: attn.yield %[[Y]]
// CHECK: activation {
// CHECK: attn.logistic
// CHECK: stats [0 : i32] epilogue_captures(%[[G]]
// CHECK-SAME: epilogue {
// CHECK: arith.subf
// CHECK: -> tensor<?x?x?x64xbf16>
// CHECK-NOT: attn.apply
func.func @everything(%q: !t, %k: !t, %v: !t, %scale: f32, %bias: f32,
    %slopes: tensor<?xf32>, %gate: !h, %ql: tensor<?xi32>,
    %kl: tensor<?xi32>) -> !h {
  %two = arith.constant 2 : i32
  %m0 = attn.causal_mask
  %m1 = attn.dilated_mask %two
  %s = attn.scores %q, %k scale %scale q_len %ql : tensor<?xi32>
      k_len %kl : tensor<?xi32> layout bshd : !t, !t -> !s
  %s0 = attn.mask %s by %m0 : !s
  %s1 = attn.bias %s0, %bias map affine_map<(b, h, i, j) -> ()> : !s, f32
  %s2 = attn.score_mod %s1 captures(%slopes : tensor<?xf32>)
      maps [affine_map<(b, h, i, j) -> (h)>] {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %j: i32, %l: i32, %m: i32, %c: f32):
    %z = arith.mulf %e, %c : f32
    attn.yield %z : f32
  } : !s
  %s3 = attn.mask %s2 by %m1 : !s
  %p = attn.activation %s3 {
  ^bb0(%e: f32):
    %z = attn.logistic %e : f32
    attn.yield %z : f32
  } : !s
  %o = attn.apply %p, %v normalize l1 layout bshd : !s, !t -> !t
  %r = attn.epilogue %o captures(%gate : !h)
      maps [affine_map<(b, h, i, d) -> (b, i, h, d)>] stats [0 : i32] layout bshd {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %d: i32, %mean: f32, %g: f32):
    %y = arith.mulf %e, %g : f32
    %z = arith.subf %y, %mean : f32
    attn.yield %z : f32
  } : !t -> !h
  return %r : !h
}

// CHECK-LABEL: func.func @softmax(
// CHECK: %[[O:.*]], %[[LSE:.*]] = attn.fused
// CHECK-SAME: normalize softmax
// CHECK-NOT: activation
// CHECK: return %[[O]], %[[LSE]]
func.func @softmax(%q: !t, %k: !t, %v: !t) -> (!t, tensor<?x?x?xf32>) {
  %s = attn.scores %q, %k : !t, !t -> !s
  %lse = attn.lse %s : !s -> tensor<?x?x?xf32>
  %p = attn.softmax %s : !s
  %o = attn.apply %p, %v : !s, !t -> !t
  return %o, %lse : !t, tensor<?x?x?xf32>
}

// Without a function the weights are the logits.
// CHECK-LABEL: func.func @linear(
// CHECK: attn.fused
// CHECK-NOT: score_mod
// CHECK-NOT: activation
// CHECK: return
func.func @linear(%q: !t, %k: !t, %v: !t) -> !t {
  %s = attn.scores %q, %k : !t, !t -> !s
  %o = attn.apply %s, %v : !s, !t -> !t
  return %o : !t
}

// A mask after the activation is a mask.
// CHECK-LABEL: func.func @mask_of_weights(
// CHECK: attn.fused {{.*}} masks(
func.func @mask_of_weights(%q: !t, %k: !t, %v: !t) -> !t {
  %m0 = attn.causal_mask
  %s = attn.scores %q, %k : !t, !t -> !s
  %p = attn.activation %s {
  ^bb0(%e: f32):
    %z = attn.logistic %e : f32
    attn.yield %z : f32
  } : !s
  %pm = attn.mask %p by %m0 : !s
  %o = attn.apply %pm, %v : !s, !t -> !t
  return %o : !t
}

// Weights applied twice are computed twice; that is cheaper than keeping them.
// CHECK-LABEL: func.func @two_values(
// CHECK-COUNT-2: attn.fused
// CHECK-NOT: attn.scores
func.func @two_values(%q: !t, %k: !t, %v: !t, %w: !t) -> (!t, !t) {
  %s = attn.scores %q, %k : !t, !t -> !s
  %p = attn.softmax %s : !s
  %o0 = attn.apply %p, %v : !s, !t -> !t
  %o1 = attn.apply %p, %w : !s, !t -> !t
  return %o0, %o1 : !t, !t
}

// The output of one is the query of the next.
// CHECK-LABEL: func.func @two_layers(
// CHECK: %[[FIRST:.*]] = attn.fused
// CHECK: attn.fused %[[FIRST]],
func.func @two_layers(%q: !t, %k: !t, %v: !t) -> !t {
  %s0 = attn.scores %q, %k : !t, !t -> !s
  %o0 = attn.apply %s0, %v {tile.schedule = #tile.schedule<block_m = 16, block_n = 16>} : !s, !t -> !t
  %s1 = attn.scores %o0, %k : !t, !t -> !s
  %o1 = attn.apply %s1, %v : !s, !t -> !t
  return %o1 : !t
}

// Who returns what an epilogue reads too asks for gradients: it stays.

// CHECK-LABEL: func.func @both(
// CHECK: %[[O:.*]] = attn.fused
// CHECK-NOT: epilogue
// CHECK: %[[R:.*]] = attn.epilogue %[[O]] q_len %{{.*}} : tensor<?xi32> {
// CHECK: return %[[O]], %[[R]]
func.func @both(%q: tensor<?x?x?x64xf32>, %k: tensor<?x?x?x64xf32>,
    %v: tensor<?x?x?x64xf32>, %len: tensor<?xi32>)
    -> (tensor<?x?x?x64xf32>, tensor<?x?x?x64xf32>) {
  %s = attn.scores %q, %k q_len %len : tensor<?xi32> : tensor<?x?x?x64xf32>, tensor<?x?x?x64xf32> -> tensor<?x?x?x?xf32>
  %o = attn.apply %s, %v : tensor<?x?x?x?xf32>, tensor<?x?x?x64xf32> -> tensor<?x?x?x64xf32>
  %r = attn.epilogue %o {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %d: i32):
    %y = math.exp %e : f32
    attn.yield %y : f32
  } : tensor<?x?x?x64xf32> -> tensor<?x?x?x64xf32>
  return %o, %r : tensor<?x?x?x64xf32>, tensor<?x?x?x64xf32>
}

// What it reads of a row is captured then, before the others.

// CHECK-LABEL: func.func @both_with_statistics(
// CHECK: %[[O:.*]] = attn.fused
// CHECK-DAG: %[[M:.*]] = attn.row_norm abs_max %[[O]]
// CHECK-DAG: %[[S:.*]] = attn.row_norm mean_square %[[O]]
// CHECK: attn.epilogue %[[O]] captures(%[[M]], %[[S]], %{{.*}} : {{.*}}) maps [#[[R:.*]], #[[R]], #{{.*}}] {
// CHECK-NEXT: ^bb0(%[[E:[^:]*]]: f32, {{.*}}, %[[A:[^:]*]]: f32, %{{.*}}: f32, %{{[^:]*}}: f32):
// CHECK-NEXT: arith.divf %[[E]], %[[A]]
func.func @both_with_statistics(%q: tensor<?x?x?x64xf32>,
    %k: tensor<?x?x?x64xf32>, %v: tensor<?x?x?x64xf32>, %gain: tensor<64xf32>)
    -> (tensor<?x?x?x64xf32>, tensor<?x?x?x64xf32>) {
  %s = attn.scores %q, %k : tensor<?x?x?x64xf32>, tensor<?x?x?x64xf32> -> tensor<?x?x?x?xf32>
  %o = attn.apply %s, %v : tensor<?x?x?x?xf32>, tensor<?x?x?x64xf32> -> tensor<?x?x?x64xf32>
  %r = attn.epilogue %o captures(%gain : tensor<64xf32>)
      maps [affine_map<(b, h, i, d) -> (d)>] stats [2 : i32, 1 : i32] {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %d: i32, %a: f32, %m: f32, %g: f32):
    %x = arith.divf %e, %a : f32
    %y = arith.mulf %x, %m : f32
    %z = arith.mulf %y, %g : f32
    attn.yield %z : f32
  } : tensor<?x?x?x64xf32> -> tensor<?x?x?x64xf32>
  return %o, %r : tensor<?x?x?x64xf32>, tensor<?x?x?x64xf32>
}
