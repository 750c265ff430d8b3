// RUN: attnc-opt %s --attn-raise-idioms | FileCheck %s

// CHECK-LABEL: func.func @quotient(
// CHECK-SAME: %[[X:.*]]: f32)
// CHECK: %[[Y:.*]] = attn.logistic %[[X]]
// CHECK: return %[[Y]]
func.func @quotient(%x: f32) -> f32 {
  %one = arith.constant 1.0 : f32
  %n = arith.negf %x : f32
  %e = math.exp %n : f32
  %d = arith.addf %one, %e : f32
  %r = arith.divf %one, %d : f32
  return %r : f32
}

// CHECK-LABEL: func.func @quotient_of_product(
// CHECK-SAME: %[[X:.*]]: f32)
// CHECK: %[[Y:.*]] = attn.logistic %[[X]]
// CHECK: arith.mulf %[[X]], %[[Y]]
func.func @quotient_of_product(%x: f32) -> f32 {
  %one = arith.constant 1.0 : f32
  %zero = arith.constant 0.0 : f32
  %n = arith.subf %zero, %x : f32
  %e = math.exp %n : f32
  %d = arith.addf %e, %one : f32
  %r = arith.divf %x, %d : f32
  return %r : f32
}

// CHECK-LABEL: func.func @exponents(
// CHECK-SAME: %[[X:.*]]: f32)
// CHECK: attn.logistic %[[X]]
func.func @exponents(%x: f32) -> f32 {
  %one = arith.constant 1.0 : f32
  %e = math.exp %x : f32
  %d = arith.addf %e, %one : f32
  %r = arith.divf %e, %d : f32
  return %r : f32
}

// CHECK-LABEL: func.func @complement(
// CHECK-SAME: %[[X:.*]]: f32)
// CHECK: %[[N:.*]] = arith.negf %[[X]]
// CHECK: attn.logistic %[[N]]
func.func @complement(%x: f32) -> f32 {
  %one = arith.constant 1.0 : f32
  %s = attn.logistic %x : f32
  %r = arith.subf %one, %s : f32
  return %r : f32
}

// CHECK-LABEL: func.func @tanh_sum(
// CHECK-SAME: %[[X:.*]]: f32)
// CHECK: attn.logistic %[[X]]
func.func @tanh_sum(%x: f32) -> f32 {
  %half = arith.constant 0.5 : f32
  %h = arith.mulf %x, %half : f32
  %t = math.tanh %h : f32
  %p = arith.mulf %half, %t : f32
  %r = arith.addf %p, %half : f32
  return %r : f32
}

// The division by two is a product by then.
// CHECK-LABEL: func.func @tanh_product(
// CHECK-SAME: %[[X:.*]]: f32)
// CHECK: attn.logistic %[[X]]
func.func @tanh_product(%x: f32) -> f32 {
  %half = arith.constant 0.5 : f32
  %one = arith.constant 1.0 : f32
  %two = arith.constant 2.0 : f32
  %h = arith.divf %x, %two : f32
  %t = math.tanh %h : f32
  %p = arith.addf %one, %t : f32
  %r = arith.mulf %p, %half : f32
  return %r : f32
}

// CHECK-LABEL: func.func @softplus(
// CHECK-SAME: %[[X:.*]]: f32)
// CHECK-DAG: %[[POS:.*]] = arith.maximumf %[[X]]
// CHECK-DAG: %[[ABS:.*]] = math.absf %[[X]]
// CHECK: %[[NEG:.*]] = arith.negf %[[ABS]]
// CHECK: %[[EXP:.*]] = math.exp %[[NEG]]
// CHECK: %[[LOG:.*]] = math.log1p %[[EXP]]
// CHECK: arith.addf %[[POS]], %[[LOG]]
func.func @softplus(%x: f32) -> f32 {
  %one = arith.constant 1.0 : f32
  %e = math.exp %x : f32
  %d = arith.addf %one, %e : f32
  %r = math.log %d : f32
  return %r : f32
}

// CHECK-LABEL: func.func @softplus_log1p(
// CHECK: arith.maximumf
// CHECK: math.log1p
// CHECK: arith.addf
func.func @softplus_log1p(%x: f32) -> f32 {
  %e = math.exp %x : f32
  %r = math.log1p %e : f32
  return %r : f32
}

// CHECK-LABEL: func.func @log_logistic(
// CHECK: math.log1p
// CHECK: arith.addf
// CHECK: arith.negf
func.func @log_logistic(%x: f32) -> f32 {
  %s = attn.logistic %x : f32
  %r = math.log %s : f32
  return %r : f32
}

// CHECK-LABEL: func.func @division(
// CHECK: %[[C:.*]] = arith.constant 1.250000e-01
// CHECK: arith.mulf %{{.*}}, %[[C]]
func.func @division(%x: f32) -> f32 {
  %c = arith.constant 8.0 : f32
  %r = arith.divf %x, %c : f32
  return %r : f32
}

// The reciprocal of the smallest numbers overflows, that of zero is no number.
// CHECK-LABEL: func.func @no_reciprocal(
// CHECK-COUNT-2: arith.divf
func.func @no_reciprocal(%x: f32) -> (f32, f32) {
  %tiny = arith.constant 1.0e-45 : f32
  %zero = arith.constant 0.0 : f32
  %r = arith.divf %x, %tiny : f32
  %s = arith.divf %x, %zero : f32
  return %r, %s : f32, f32
}

// CHECK-LABEL: func.func @square(
// CHECK-SAME: %[[X:.*]]: f32)
// CHECK: arith.mulf %[[X]], %[[X]]
func.func @square(%x: f32) -> f32 {
  %two = arith.constant 2.0 : f32
  %r = math.powf %x, %two : f32
  return %r : f32
}

// Not idioms.
// CHECK-LABEL: func.func @others(
// CHECK: math.exp
// CHECK: arith.divf
// CHECK: math.tanh
// CHECK-NOT: attn.logistic
func.func @others(%x: f32, %y: f32) -> (f32, f32) {
  %one = arith.constant 1.0 : f32
  %half = arith.constant 0.5 : f32
  %two = arith.constant 2.0 : f32
  %e = math.exp %x : f32
  %d = arith.addf %two, %e : f32
  %r = arith.divf %one, %d : f32
  %t = math.tanh %y : f32
  %p = arith.mulf %half, %t : f32
  %s = arith.addf %p, %half : f32
  return %r, %s : f32, f32
}
