// Norms of query, key and value, in the scores and in an epilogue, and statistics
// of the output: all hand their gradients on.

// RUN: attnc run %s --random H=2,S=40,Skv=40 --check | FileCheck %s
// RUN: sed '/^!q =\|^!v =/s/f32/f16/' %s > %t.mlir
// RUN: attnc run %t.mlir --random B=2,H=2,S=40,Skv=40 --check | FileCheck %s
// RUN: attnc %t.mlir --target=sm_90a --emit=hopper | FileCheck %s --check-prefix=HOPPER
// CHECK: dquery: {{.*}} x 2 x 40 x 32
// CHECK: dkey: {{.*}} x 2 x 40 x 32
// CHECK: dvalue: {{.*}} x 2 x 40 x 48
// CHECK: ok
// CHECK-NOT: FAILED
// HOPPER: hopper.kernel
// HOPPER-NOT: error

!q = tensor<?x?x?x32xf32>
!v = tensor<?x?x?x48xf32>
!s = tensor<?x?x?x?xf32>
!r = tensor<?x?x?xf32>

#query = affine_map<(b, h, i, j) -> (b, h, i)>
#key = affine_map<(b, h, i, j) -> (b, h, j)>

func.func @norms(%query: !q, %key: !q, %value: !v)
    -> (!v {attn.name = "before"}, !v) attributes {attn.differentiate} {
  %s = attn.scores %query, %key : !q, !q -> !s
  %mean = attn.row_norm mean %query : !q -> !r
  %largest = attn.row_norm abs_max %key : !q -> !r
  %x = attn.score_mod %s captures(%mean, %largest : !r, !r) maps [#query, #key] {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32, %m: f32,
       %l: f32):
    %c = arith.divf %e, %l : f32
    %y = arith.addf %c, %m : f32
    attn.yield %y : f32
  } : !s
  %p = attn.activation %x {
  ^bb0(%e: f32):
    %y = attn.logistic %e : f32
    attn.yield %y : f32
  } : !s
  %o = attn.apply %p, %value : !s, !v -> !v
  %square = attn.row_norm mean_square %query : !q -> !r
  %inverse = attn.row_norm inverse_l2 %value : !v -> !r
  %n = attn.epilogue %o captures(%square, %inverse : !r, !r)
      maps [#query, #query] stats [0 : i32, 1 : i32] {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %d: i32, %om: f32, %os: f32, %m: f32,
       %l: f32):
    %one = arith.constant 1.0 : f32
    %t = arith.addf %os, %one : f32
    %c = arith.subf %e, %om : f32
    %z = arith.divf %c, %t : f32
    %a = arith.mulf %z, %m : f32
    %y = arith.addf %a, %l : f32
    attn.yield %y : f32
  } : !v -> !v
  return %o, %n : !v, !v
}
