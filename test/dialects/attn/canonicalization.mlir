// RUN: attnc-opt %s --canonicalize | FileCheck %s

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>

// CHECK-LABEL: func.func @identity_steps(
// CHECK-SAME: %[[S:.*]]: tensor<?x?x?x?xf32>
// CHECK-NEXT: attn.apply %[[S]],
// CHECK-NEXT: return
func.func @identity_steps(%s: !s, %v: !t) -> !t {
  %x = attn.score_mod %s {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32):
    attn.yield %e : f32
  } : !s
  %p = attn.activation %x {
  ^bb0(%e: f32):
    attn.yield %e : f32
  } : !s
  %o = attn.apply %p, %v : !s, !t -> !t
  %r = attn.epilogue %o {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %d: i32):
    attn.yield %e : f32
  } : !t -> !t
  return %r : !t
}

// An epilogue that changes the type is not the identity.
// CHECK-LABEL: func.func @rounding_epilogue(
// CHECK: attn.epilogue
func.func @rounding_epilogue(%o: !t) -> tensor<?x?x?x64xbf16> {
  %r = attn.epilogue %o {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %d: i32):
    attn.yield %e : f32
  } : !t -> tensor<?x?x?x64xbf16>
  return %r : tensor<?x?x?x64xbf16>
}

// CHECK-LABEL: func.func @captures(
// CHECK-SAME: %[[A:[a-z0-9]+]]: tensor<?xf32>, %[[B:[a-z0-9]+]]: tensor<?xf32>)
// CHECK: attn.score_mod %{{.*}} captures(%[[B]], %[[A]] : tensor<?xf32>, tensor<?xf32>) maps [#{{.*}}, #{{.*}}]
// CHECK-NEXT: ^bb0(%[[E:[a-z0-9]+]]: f32, {{.*}}, %[[CB:[a-z0-9]+]]: f32, %[[CA:[a-z0-9]+]]: f32):
// CHECK-NEXT: %[[X:.*]] = arith.addf %[[E]], %[[CB]]
// CHECK-NEXT: %[[Y:.*]] = arith.addf %[[X]], %[[CB]]
// CHECK-NEXT: arith.addf %[[Y]], %[[CA]]
func.func @captures(%s: !s, %a: tensor<?xf32>, %b: tensor<?xf32>) -> !s {
  %x = attn.score_mod %s captures(%a, %b, %b, %a : tensor<?xf32>, tensor<?xf32>, tensor<?xf32>, tensor<?xf32>)
      maps [affine_map<(b, h, i, j) -> (i)>, affine_map<(b, h, i, j) -> (h)>,
            affine_map<(b, h, i, j) -> (h)>, affine_map<(b, h, i, j) -> (h)>] {
  ^bb0(%e: f32, %bb: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32, %c0: f32, %c1: f32, %c2: f32, %c3: f32):
    %y = arith.addf %e, %c1 : f32
    %z = arith.addf %y, %c2 : f32
    %w = arith.addf %z, %c3 : f32
    attn.yield %w : f32
  } : !s
  return %x : !s
}

// CHECK-LABEL: func.func @masks(
// CHECK: %[[M:.*]] = attn.causal_mask
// CHECK: attn.mask %{{.*}} by %[[M]] :
func.func @masks(%s: !s) -> !s {
  %m0 = attn.causal_mask
  %m1 = attn.causal_mask
  %x = attn.mask %s by %m0, %m1, %m0 : !s
  return %x : !s
}

// CHECK-LABEL: func.func @different_masks(
// CHECK: attn.mask %{{.*}} by %{{.*}}, %{{.*}} :
func.func @different_masks(%s: !s) -> !s {
  %m0 = attn.causal_mask
  %m1 = attn.causal_mask align top_left
  %x = attn.mask %s by %m0, %m1 : !s
  return %x : !s
}

// CHECK-LABEL: func.func @fused(
// CHECK-SAME: %[[Q:.*]]: tensor<?x?x?x64xf32>, %[[A:.*]]: tensor<?xf32>)
// CHECK: %[[M:.*]] = attn.causal_mask
// CHECK: %[[O:.*]] = attn.fused %[[Q]], %[[Q]], %[[Q]] masks(%[[M]]) normalize softmax
// CHECK-NOT: score_captures
// CHECK-NOT: score_mod
// CHECK-SAME: stats [1 : i32] epilogue {
// CHECK-NEXT: ^bb0(%[[E:[a-z0-9]+]]: f32, %{{[a-z0-9]+}}: i32, %{{[a-z0-9]+}}: i32, %{{[a-z0-9]+}}: i32, %{{[a-z0-9]+}}: i32, %[[STAT:[a-z0-9]+]]: f32):
// CHECK-NEXT: arith.mulf %[[E]], %[[STAT]]
// CHECK: -> tensor<?x?x?x64xf32>
// CHECK-NEXT: return %[[O]]
func.func @fused(%q: !t, %a: tensor<?xf32>) -> !t {
  %m0 = attn.causal_mask
  %o, %lse = attn.fused %q, %q, %q masks(%m0, %m0) normalize softmax
    score_captures(%a : tensor<?xf32>) maps [affine_map<(b, h, i, j) -> (h)>]
    score_mod {
    ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32, %c: f32):
      attn.yield %e : f32
    } stats [0 : i32, 1 : i32]
    epilogue_captures(%a : tensor<?xf32>) maps [affine_map<(b, h, i, d) -> (h)>]
    epilogue {
    ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %d: i32, %mean: f32, %square: f32, %c: f32):
      %z = arith.mulf %e, %square : f32
      attn.yield %z : f32
    } : !t, !t, !t -> !t, tensor<?x?x?xf32>
  return %o : !t
}
