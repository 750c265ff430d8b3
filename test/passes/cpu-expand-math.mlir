// RUN: attnc-opt %s --cpu-expand-math --split-input-file --verify-diagnostics | FileCheck %s

// CHECK-LABEL: func.func @functions(
// CHECK-NOT: math.{{exp|log|sin|cos|tanh|erf|powf|rsqrt|fma}}
// CHECK: math.sqrt
// CHECK: math.absf
// CHECK-NOT: math.{{exp|log|sin|cos|tanh|erf|powf|rsqrt|fma}}
// CHECK: return
func.func @functions(%x: vector<8xf32>, %y: f32) -> (vector<8xf32>, f32) {
  %0 = math.exp2 %x fastmath<afn> : vector<8xf32>
  %1 = math.exp %0 : vector<8xf32>
  %2 = math.log1p %1 : vector<8xf32>
  %3 = math.expm1 %2 : vector<8xf32>
  %4 = math.tanh %3 : vector<8xf32>
  %5 = math.erf %4 : vector<8xf32>
  %6 = math.sin %5 : vector<8xf32>
  %7 = math.cos %6 : vector<8xf32>
  %8 = math.powf %7, %x : vector<8xf32>
  %9 = math.rsqrt %8 : vector<8xf32>
  %10 = math.fma %9, %x, %x : vector<8xf32>
  %11 = math.absf %10 : vector<8xf32>
  %12 = math.log %11 : vector<8xf32>
  %13 = math.log2 %12 : vector<8xf32>
  // Scalars, too.
  %14 = math.exp2 %y : f32
  return %13, %14 : vector<8xf32>, f32
}

// -----

// An estimate of 1 / x would give NaN where x is infinite.
// CHECK-LABEL: func.func @divide(
// CHECK: arith.divf %{{.*}}, %{{.*}} fastmath<contract> : vector<4xf32>
func.func @divide(%x: vector<4xf32>, %y: vector<4xf32>) -> vector<4xf32> {
  %0 = arith.divf %x, %y fastmath<arcp,afn,contract> : vector<4xf32>
  return %0 : vector<4xf32>
}

// -----

func.func @library(%x: f32) -> f32 {
  // expected-error @below {{has no expansion on the CPU and would call a math library}}
  %0 = math.atan %x : f32
  return %0 : f32
}
