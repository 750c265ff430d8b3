// RUN: attnc-opt %s | attnc-opt | FileCheck %s

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>

// CHECK-LABEL: func.func @unfused
func.func @unfused(%q: !t, %k: !t, %v: !t, %bias: f32, %slopes: tensor<?xf32>,
                   %len: tensor<?xi32>, %w: i32) -> !t {
  // CHECK: attn.scores %{{.*}}, %{{.*}} k_len %{{.*}} : tensor<?xi32> :
  %s = attn.scores %q, %k k_len %len : tensor<?xi32> : !t, !t -> !s
  // CHECK: attn.bias
  %x = attn.bias %s, %bias map affine_map<(b, h, i, j) -> ()> : !s, f32
  // CHECK: attn.score_mod
  %y = attn.score_mod %x captures(%slopes : tensor<?xf32>)
      maps [affine_map<(b, h, i, j) -> (h)>] {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32, %c: f32):
    %z = arith.addf %e, %c : f32
    attn.yield %z : f32
  } : !s
  // CHECK: attn.causal_mask
  %m0 = attn.causal_mask
  %m1 = attn.window_mask %w, %w align top_left
  %ym = attn.mask %y by %m0, %m1 : !s
  // CHECK: attn.activation
  %p = attn.activation %ym {
  ^bb0(%e: f32):
    %z = attn.logistic %e : f32
    attn.yield %z : f32
  } : !s
  // CHECK: attn.apply
  %o = attn.apply %p, %v : !s, !t -> !t
  return %o : !t
}

// CHECK-LABEL: func.func @fused
func.func @fused(%q: !t, %k: !t, %v: !t, %bias: f32, %slopes: tensor<?xf32>) -> (!t, tensor<?x?x?xf32>) {
  %m0 = attn.causal_mask
  // CHECK: attn.fused
  %o, %lse = attn.fused %q, %k, %v masks(%m0) normalize softmax layout bshd
    score_captures(%slopes : tensor<?xf32>) maps [affine_map<(b, h, i, j) -> (h)>]
    score_mod {
    ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32, %c: f32):
      %z = arith.addf %e, %c : f32
      attn.yield %z : f32
    } stats [0 : i32]
    epilogue {
    ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %d: i32, %mean: f32):
      %z = arith.subf %e, %mean : f32
      attn.yield %z : f32
    } : !t, !t, !t -> !t, tensor<?x?x?xf32>
  return %o, %lse : !t, tensor<?x?x?xf32>
}
