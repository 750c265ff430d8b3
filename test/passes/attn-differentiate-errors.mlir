// RUN: attnc-opt %s --pass-pipeline='builtin.module(func.func(attn-differentiate))' --split-input-file --verify-diagnostics

!t = tensor<?x?x?x64xf32>
func.func @no_rule(%q: !t, %k: !t, %v: !t) -> !t
    attributes {attn.differentiate} {
  %o = attn.fused %q, %k, %v activation {
  ^bb0(%x: f32):
    // expected-error @+1 {{'math.floor' op has no derivative rule in the op table (docs/semantics.md, The op table): its function cannot be differentiated; use ops of the table}}
    %y = math.floor %x : f32
    attn.yield %y : f32
  } : !t, !t, !t -> !t
  return %o : !t
}

// -----

// What does not depend on the logit needs no derivative.

!t = tensor<?x?x?x64xf32>
func.func @positions(%q: !t, %k: !t, %v: !t) -> !t
    attributes {attn.differentiate} {
  %o = attn.fused %q, %k, %v score_mod {
  ^bb0(%s: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32):
    %d = arith.subi %i, %j : i32
    %f = arith.sitofp %d : i32 to f32
    %g = math.floor %f : f32
    %y = arith.addf %s, %g : f32
    attn.yield %y : f32
  } : !t, !t, !t -> !t
  return %o : !t
}

// -----

!t = tensor<?x?x?x64xf32>
// expected-error @+1 {{'nothing' cannot be differentiated: expected one attn.fused, got 0}}
func.func @nothing(%q: !t) -> tensor<?x?x?xf32> attributes {attn.differentiate} {
  %o = attn.row_norm squared_l2 %q : !t -> tensor<?x?x?xf32>
  return %o : tensor<?x?x?xf32>
}

// -----

!t = tensor<?x?x?x64xf32>
// expected-error @+1 {{attn.differentiate = 'f64': gradients are f32, f16 or bf16}}
func.func @type(%q: !t, %k: !t, %v: !t) -> !t
    attributes {attn.differentiate = f64} {
  %o = attn.fused %q, %k, %v : !t, !t, !t -> !t
  return %o : !t
}

// -----

!t = tensor<?x?x?x64xf32>
func.func @same(%q: !t, %k: !t) -> !t attributes {attn.differentiate} {
  // expected-error @+1 {{'attn.fused' op takes one tensor twice as query, key or value: to differentiate, pass it in two arguments}}
  %o = attn.fused %q, %k, %k : !t, !t, !t -> !t
  return %o : !t
}

// -----

!t = tensor<?x?x?x64xf32>
// expected-error @+1 {{argument 'lengths' asks for its gradient, but it is of type 'tensor<?xi32>'}}
func.func @lengths(%q: !t, %k: !t, %v: !t,
    %len: tensor<?xi32> {attn.name = "lengths", attn.gradient}) -> !t
    attributes {attn.differentiate} {
  %o = attn.fused %q, %k, %v k_len %len : tensor<?xi32> : !t, !t, !t -> !t
  return %o : !t
}

// -----

!t = tensor<?x?x?x64xf32>
// expected-error @+1 {{argument 'arg3' asks for its gradient, but nothing depends on it}}
func.func @unused(%q: !t, %k: !t, %v: !t, %x: f32 {attn.gradient}) -> !t
    attributes {attn.differentiate} {
  %o = attn.fused %q, %k, %v : !t, !t, !t -> !t
  return %o : !t
}

// -----

!t = tensor<?x?x?x64xf32>
// expected-error @+1 {{argument 'arg3' asks for its gradient but is captured twice}}
func.func @twice(%q: !t, %k: !t, %v: !t, %x: tensor<?xf32> {attn.gradient}) -> !t
    attributes {attn.differentiate} {
  %o = attn.fused %q, %k, %v score_captures(%x, %x : tensor<?xf32>, tensor<?xf32>)
      maps [affine_map<(b, h, i, j) -> (i)>, affine_map<(b, h, i, j) -> (j)>]
      score_mod {
  ^bb0(%s: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32, %e: f32, %f: f32):
    %y = arith.addf %e, %f : f32
    %z = arith.addf %s, %y : f32
    attn.yield %z : f32
  } : !t, !t, !t -> !t
  return %o : !t
}

// -----

!t = tensor<?x?x?x64xf32>
func.func @antidiagonal(%q: !t, %k: !t, %v: !t, %x: tensor<?xf32> {attn.gradient}) -> !t
    attributes {attn.differentiate} {
  // expected-error @+1 {{'attn.fused' op gradient of capture 0: a map that reads i and j may only permute positions, h floordiv N for h, or read i - j in one dim, got affine_map<(d0, d1, d2, d3) -> (d2 + d3)>}}
  %o = attn.fused %q, %k, %v score_captures(%x : tensor<?xf32>)
      maps [affine_map<(b, h, i, j) -> (i + j)>] score_mod {
  ^bb0(%s: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32, %e: f32):
    %z = arith.addf %s, %e : f32
    attn.yield %z : f32
  } : !t, !t, !t -> !t
  return %o : !t
}

// -----

!t = tensor<?x?x?x64xf32>
func.func @epilogue(%q: !t, %k: !t, %v: !t) -> !t attributes {attn.differentiate} {
  // expected-error @+1 {{'attn.fused' op has an epilogue, whose gradient reads what is before it: return the result of the attn.apply, then that of the attn.epilogue}}
  %o = attn.fused %q, %k, %v epilogue {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %d: i32):
    %y = arith.negf %e : f32
    attn.yield %y : f32
  } : !t, !t, !t -> !t
  return %o : !t
}

// -----

!t = tensor<?x?x?x64xf32>
!r = tensor<?x?x?xf32>
func.func @norm(%q: !t, %k: !t, %v: !t) -> !t attributes {attn.differentiate} {
  // expected-error @+1 {{'attn.row_norm' op is captured, and its gradient is not supported: expected the norm of the query, the key or the value, in their layout}}
  %n = attn.row_norm inverse_l2 %q layout bshd : !t -> !r
  %o = attn.fused %q, %k, %v score_captures(%n : !r)
      maps [affine_map<(b, h, i, j) -> (b, h, i)>] score_mod {
  ^bb0(%s: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32, %e: f32):
    %z = arith.mulf %s, %e : f32
    attn.yield %z : f32
  } : !t, !t, !t -> !t
  return %o : !t
}

// -----

!t = tensor<?x?x?x64xf32>
func.func @statistic(%q: !t, %k: !t, %v: !t) -> (!t, !t)
    attributes {attn.differentiate} {
  %o = attn.fused %q, %k, %v : !t, !t, !t -> !t
  // expected-error @+1 {{'attn.epilogue' op reads row statistics, which attn-fuse makes attn.row_norm: run it before}}
  %r = attn.epilogue %o stats [1 : i32] {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %d: i32, %m: f32):
    %y = arith.mulf %e, %m : f32
    attn.yield %y : f32
  } : !t -> !t
  return %o, %r : !t, !t
}

// -----

!t = tensor<?x?x?x64xf32>
!r = tensor<?x?x?xf32>
func.func @norm_in_epilogue(%q: !t, %k: !t, %v: !t, %w: !t {attn.gradient})
    -> (!t, !t) attributes {attn.differentiate} {
  // expected-error @+1 {{'attn.row_norm' op is captured, and its gradient is not supported: expected the norm of the query, the key or the value, in their layout}}
  %n = attn.row_norm inverse_l2 %w : !t -> !r
  %o = attn.fused %q, %k, %v : !t, !t, !t -> !t
  %r = attn.epilogue %o captures(%n : !r)
      maps [affine_map<(b, h, i, d) -> (b, h, i)>] {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %d: i32, %x: f32):
    %y = arith.mulf %e, %x : f32
    attn.yield %y : f32
  } : !t -> !t
  return %o, %r : !t, !t
}

// -----

!t = tensor<?x?x?x64xf32>
func.func @other_epilogue(%q: !t, %k: !t, %v: !t) -> (!t, !t)
    attributes {attn.differentiate} {
  %o = attn.fused %q, %k, %v : !t, !t, !t -> !t
  // expected-error @+1 {{'attn.epilogue' op cannot be differentiated: expected the output of the attn.fused, in its layout}}
  %r = attn.epilogue %q {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %d: i32):
    %y = arith.negf %e : f32
    attn.yield %y : f32
  } : !t -> !t
  return %o, %r : !t, !t
}

// -----

!t = tensor<?x?x?x64xf32>
// expected-error @+1 {{'epilogue_unreturned' cannot be differentiated: it does not return what its epilogue makes}}
func.func @epilogue_unreturned(%q: !t, %k: !t, %v: !t) -> !t
    attributes {attn.differentiate} {
  %o = attn.fused %q, %k, %v : !t, !t, !t -> !t
  %r = attn.epilogue %o {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %d: i32):
    %y = arith.negf %e : f32
    attn.yield %y : f32
  } : !t -> !t
  return %o : !t
}

// -----

!t = tensor<?x?x?x64xf32>
func.func @two_epilogues(%q: !t, %k: !t, %v: !t) -> (!t, !t, !t)
    attributes {attn.differentiate} {
  %o = attn.fused %q, %k, %v : !t, !t, !t -> !t
  %r = attn.epilogue %o {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %d: i32):
    %y = arith.negf %e : f32
    attn.yield %y : f32
  } : !t -> !t
  // expected-error @+1 {{'attn.epilogue' op cannot be differentiated: expected one epilogue}}
  %u = attn.epilogue %o {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %d: i32):
    %y = math.absf %e : f32
    attn.yield %y : f32
  } : !t -> !t
  return %o, %r, %u : !t, !t, !t
}

// -----

!t = tensor<?x?x?x64xf32>
func.func @gate_function(%q: !t, %k: !t, %v: !t,
    %g: tensor<?x?xf32> {attn.gradient}) -> (!t, !t)
    attributes {attn.differentiate} {
  %o = attn.fused %q, %k, %v : !t, !t, !t -> !t
  // expected-error @+1 {{'attn.epilogue' op gradient of capture 0: a map that reads i and d may only permute positions, h floordiv N for h, got affine_map<(d0, d1, d2, d3) -> (d2 - d3, d0)>}}
  %r = attn.epilogue %o captures(%g : tensor<?x?xf32>) maps [affine_map<(b, h, i, d) -> (i - d, b)>] {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %d: i32, %x: f32):
    %y = arith.mulf %e, %x : f32
    attn.yield %y : f32
  } : !t -> !t
  return %o, %r : !t, !t
}

// -----

!t = tensor<?x?x?x64xf32>
// expected-error @+1 {{'of_output' cannot be differentiated: attn.gradient on result 0, expected it on an LSE only; the gradient of the output is always handed over}}
func.func @of_output(%q: !t, %k: !t, %v: !t) -> (!t {attn.gradient})
    attributes {attn.differentiate} {
  %o = attn.fused %q, %k, %v : !t, !t, !t -> !t
  return %o : !t
}

// -----

!t = tensor<?x?x?x64xf32>
func.func @shifted(%q: !t, %k: !t, %v: !t, %c: tensor<?xf32> {attn.gradient})
    -> !t attributes {attn.differentiate} {
  // expected-error @+1 {{'attn.fused' op gradient of capture 0: each dim of a map may be a position or its quotient by a constant, each position once, got affine_map<(d0, d1, d2, d3) -> (d2 + 1)>; gather the operand's elements before}}
  %o = attn.fused %q, %k, %v score_captures(%c : tensor<?xf32>)
      maps [affine_map<(b, h, i, j) -> (i + 1)>] score_mod {
  ^bb0(%s: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32, %e: f32):
    %z = arith.addf %s, %e : f32
    attn.yield %z : f32
  } : !t, !t, !t -> !t
  return %o : !t
}
