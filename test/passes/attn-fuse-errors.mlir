// RUN: attnc-opt %s --pass-pipeline='builtin.module(func.func(attn-fuse))' --split-input-file --verify-diagnostics

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @returned(%q: !t, %k: !t) -> !s {
  // expected-error @+1 {{'attn.scores' op makes an n x n intermediate that cannot be fused because 'func.return' uses it; only attn.apply makes weights into an output}}
  %s = attn.scores %q, %k : !t, !t -> !s
  return %s : !s
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @argument(%s: !s, %v: !t) -> !t {
  // expected-error @+1 {{'attn.apply' op makes an n x n intermediate that cannot be fused because its logits are an argument of the function; start from attn.scores}}
  %o = attn.apply %s, %v : !s, !t -> !t
  return %o : !t
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @two_functions(%q: !t, %k: !t, %v: !t) -> !t {
  %s = attn.scores %q, %k : !t, !t -> !s
  %p = attn.softmax %s : !s
  %r = attn.activation %p {
  ^bb0(%e: f32):
    attn.yield %e : f32
  } : !s
  // expected-error @+1 {{cannot be fused because its logits come from 'attn.softmax'; expected attn.scores, attn.bias, attn.score_mod or attn.mask}}
  %o = attn.apply %r, %v : !s, !t -> !t
  return %o : !t
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @mask_after_softmax(%q: !t, %k: !t, %v: !t) -> !t {
  %m = attn.causal_mask
  %s = attn.scores %q, %k : !t, !t -> !s
  // expected-error @+1 {{'attn.softmax' op makes an n x n intermediate that cannot be fused because attn.mask follows it; mask the logits before attn.softmax}}
  %p = attn.softmax %s : !s
  %r = attn.mask %p by %m : !s
  %o = attn.apply %r, %v : !s, !t -> !t
  return %o : !t
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @normalised_twice(%q: !t, %k: !t, %v: !t) -> !t {
  %s = attn.scores %q, %k : !t, !t -> !s
  %p = attn.softmax %s : !s
  // expected-error @+1 {{softmax weights are normalised already: drop 'normalize l1'}}
  %o = attn.apply %p, %v normalize l1 : !s, !t -> !t
  return %o : !t
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @layouts(%q: !t, %k: !t, %v: !t) -> !t {
  // expected-error @+1 {{'attn.scores' op makes an n x n intermediate that cannot be fused because its layout is bshd and that of attn.apply bhsd}}
  %s = attn.scores %q, %k layout bshd : !t, !t -> !s
  %o = attn.apply %s, %v : !s, !t -> !t
  return %o : !t
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @epilogue_layout(%q: !t, %k: !t, %v: !t) -> !t {
  %s = attn.scores %q, %k : !t, !t -> !s
  %o = attn.apply %s, %v : !s, !t -> !t
  // expected-error @+1 {{'attn.epilogue' op cannot be fused because its layout is bshd and that of attn.apply bhsd}}
  %r = attn.epilogue %o layout bshd {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %d: i32):
    attn.yield %e : f32
  } : !t -> !t
  return %r : !t
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @lone_epilogue(%o: !t) -> !t {
  // expected-error @+1 {{'attn.epilogue' op cannot be fused because its input is not the result of an attn.apply}}
  %r = attn.epilogue %o {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %d: i32):
    attn.yield %e : f32
  } : !t -> !t
  return %r : !t
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @lse_of_sigmoid(%q: !t, %k: !t, %v: !t) -> (!t, tensor<?x?x?xf32>) {
  %s = attn.scores %q, %k : !t, !t -> !s
  // expected-error @+1 {{'attn.lse' op makes an n x n intermediate that cannot be fused because no attn.softmax that an attn.apply uses has these logits}}
  %lse = attn.lse %s : !s -> tensor<?x?x?xf32>
  %p = attn.activation %s {
  ^bb0(%e: f32):
    %z = attn.logistic %e : f32
    attn.yield %z : f32
  } : !s
  %o = attn.apply %p, %v : !s, !t -> !t
  return %o, %lse : !t, tensor<?x?x?xf32>
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @lse_in_epilogue(%q: !t, %k: !t, %v: !t) -> !t {
  %s = attn.scores %q, %k : !t, !t -> !s
  // expected-error @+1 {{'attn.lse' op cannot be fused because 'attn.epilogue' uses it before the attention is complete}}
  %lse = attn.lse %s : !s -> tensor<?x?x?xf32>
  %p = attn.softmax %s : !s
  %o = attn.apply %p, %v : !s, !t -> !t
  %r = attn.epilogue %o captures(%lse : tensor<?x?x?xf32>)
      maps [affine_map<(b, h, i, d) -> (b, h, i)>] {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %d: i32, %l: f32):
    %z = arith.mulf %e, %l : f32
    attn.yield %z : f32
  } : !t -> !t
  return %r : !t
}
