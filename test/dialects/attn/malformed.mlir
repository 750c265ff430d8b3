// RUN: not attnc-opt %s -split-input-file 2>&1 | FileCheck %s

// Verifiers see regions whose ops are not verified yet. Malformed ones are
// diagnostics, not crashes.

// CHECK: region 'activation' must end in an attn.yield of 'f32'
func.func @yield_nothing(%s: tensor<?x?x?x?xf32>) {
  %0 = "attn.activation"(%s) ({
  ^bb0(%e: f32):
    "attn.yield"() : () -> ()
  }) : (tensor<?x?x?x?xf32>) -> tensor<?x?x?x?xf32>
  return
}

// -----

// CHECK: 'arith.constant' op requires attribute 'value'
func.func @constant_of_nothing(%s: tensor<?x?x?x?xf32>) {
  %0 = "attn.score_mod"(%s) ({
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32):
    %x = "arith.constant"() : () -> f32
    %y = "arith.select"() : () -> f32
    "attn.yield"(%x) : (f32) -> ()
  }) : (tensor<?x?x?x?xf32>) -> tensor<?x?x?x?xf32>
  return
}

// -----

// CHECK: operand #0 does not dominate this use
func.func @cycle(%s: tensor<?x?x?x?xf32>) {
  %0 = attn.score_mod %s {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32):
    %x = arith.addf %y, %e : f32
    %y = arith.addf %x, %x : f32
    attn.yield %y : f32
  } : tensor<?x?x?x?xf32>
  return
}

// -----

// CHECK: mask 0 is not the result of a mask op
func.func @mask_after_use(%s: tensor<?x?x?x?xf32>) {
  %0 = "attn.mask"(%s, %m) : (tensor<?x?x?x?xf32>, !attn.mask) -> tensor<?x?x?x?xf32>
  %m = "attn.document_mask"() : () -> !attn.mask
  return
}
