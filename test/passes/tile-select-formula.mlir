// RUN: attnc-opt %s --tile-select-formula --cse | FileCheck %s
// RUN: attnc-opt %s --tile-select-formula=target=sm_90a --cse \
// RUN:   | FileCheck %s --check-prefix=GPU
// RUN: attnc-opt %s --tile-select-formula="target=sm_90a formula=exact" --cse \
// RUN:   | FileCheck %s --check-prefix=EXACT
// RUN: not attnc-opt %s --tile-select-formula=target=sm_80 2>&1 \
// RUN:   | FileCheck %s --check-prefix=BAD
// BAD: unknown target 'sm_80': expected cpu or sm_90a

!t = !tile.tile<4x8xf32>
!v = !tile.view<?x8xf32>

// On a CPU e^x is arithmetic, with one fused product for scale and bias.
// CHECK-LABEL: tile.kernel @sigmoid
// CHECK-SAME: %[[SCALE:[^:]*]]: f32, %[[BIAS:[^:]*]]: f32
// CHECK: tile.map(
// CHECK: ^bb0(%[[X:[^:]*]]: f32
// CHECK: %[[M:.*]] = arith.mulf %[[X]], %[[SCALE]] fastmath<contract>
// CHECK: %[[A:.*]] = arith.addf %[[M]], %[[BIAS]] fastmath<contract>
// CHECK: arith.negf %[[A]]
// CHECK: arith.shli
// CHECK: arith.divf %{{.*}}, %{{.*}} : f32
// CHECK-NOT: math.exp
// CHECK-NOT: attn.logistic
// CHECK: tile.store

// On a GPU scale and bias take the factor of the exponent.
// GPU-LABEL: tile.kernel @sigmoid
// GPU: tile.speculate(%{{.*}} : !tile.tile<4x8xf32>) slice 4 limits [1.562500e-02, 6.250000e-02, 1.000000e+09]
// GPU-SAME: common {
// GPU: %[[M:.*]] = arith.mulf %{{.*}} fastmath<contract>
// GPU: %[[A:.*]] = arith.addf %[[M]], %{{.*}} fastmath<contract>
// GPU: %[[E:.*]] = math.exp2 %[[A]] fastmath<afn>
// GPU: tile.yield %[[E]], %[[E]]
// GPU: } fast {
// GPU: ^bb0(%[[P:[^:]*]]: f32
// GPU: %[[N:.*]] = arith.negf %[[P]]
// GPU: %[[M:.*]] = arith.mulf %[[N]], %[[P]] fastmath<contract>
// GPU: arith.addf %[[M]], %[[P]] fastmath<contract>
// GPU: }, {
// GPU: ^bb0(%[[P:[^:]*]]: f32
// GPU-COUNT-2: arith.addf
// One division for four elements.
// GPU: }, {
// GPU: ^bb0(%{{[^:]*}}: f32, %{{[^:]*}}: f32, %{{[^:]*}}: f32, %{{[^:]*}}: f32, %{{[^:]*}}: i32
// GPU-COUNT-1: arith.divf %{{.*}}, %{{.*}} fastmath<arcp,afn>
// GPU-NOT: arith.divf
// GPU: tile.yield %{{.*}} : f32, f32, f32, f32
// GPU: } exact {
// GPU: arith.divf %{{.*}}, %{{.*}} fastmath<arcp,afn>

// EXACT-LABEL: tile.kernel @sigmoid
// EXACT-SAME: %[[SCALE:[^:]*]]: f32, %[[BIAS:[^:]*]]: f32
// EXACT: %[[C:.*]] = arith.constant -1.44269502 : f32
// EXACT: %[[B2:.*]] = arith.mulf %[[BIAS]], %[[C]]
// EXACT: %[[S2:.*]] = arith.mulf %[[SCALE]], %[[C]]
// EXACT-NOT: tile.speculate
// EXACT: tile.map
// EXACT: ^bb0(%[[X:[^:]*]]: f32
// EXACT: %[[M:.*]] = arith.mulf %[[X]], %[[S2]] fastmath<contract>
// EXACT: %[[A:.*]] = arith.addf %[[M]], %[[B2]] fastmath<contract>
// EXACT: math.exp2 %[[A]] fastmath<afn>
// EXACT: arith.divf %{{.*}}, %{{.*}} fastmath<arcp,afn>
tile.kernel @sigmoid(%scale: f32, %bias: f32, %v: !v)
    schedule(#tile.schedule<block_m = 4, block_n = 8, slice = 4>) {
  %one = arith.constant 1 : index
  tile.items (%b) in (%one) {
    %s = tile.load %v[%b] by affine_map<(r, c)[b] -> (b + r, c)> : !v -> !t
    %p = tile.map(%s : !t) {
    ^bb0(%x: f32, %r: i32, %c: i32):
      %0 = arith.mulf %x, %scale : f32
      %1 = arith.addf %0, %bias : f32
      %2 = attn.logistic %1 : f32
      tile.yield %2 : f32
    } : !t
    tile.store %p, %v[%b] by affine_map<(r, c)[b] -> (b + r, c)> : !t, !v
  }
}

// A function that is not the last of a map has no checked form; a bias of
// each element keeps its product.
// GPU-LABEL: tile.kernel @silu
// GPU-NOT: tile.speculate
// GPU: arith.mulf %{{.*}}, %{{.*}} fastmath<contract>
// GPU: arith.addf
// GPU: %[[Y:.*]] = arith.mulf %{{.*}}, %{{.*}} : f32
// GPU: math.exp2 %[[Y]] fastmath<afn>
// GPU: tile.store
tile.kernel @silu(%scale: f32, %v: !v)
    schedule(#tile.schedule<block_m = 4, block_n = 8, slice = 4>) {
  %one = arith.constant 1 : index
  tile.items (%b) in (%one) {
    %s = tile.load %v[%b] by affine_map<(r, c)[b] -> (b + r, c)> : !v -> !t
    %p = tile.map(%s, %s : !t, !t) {
    ^bb0(%x: f32, %bias: f32, %r: i32, %c: i32):
      %0 = arith.mulf %x, %scale : f32
      %1 = arith.addf %0, %bias : f32
      %2 = attn.logistic %1 : f32
      %3 = arith.mulf %1, %2 : f32
      tile.yield %3 : f32
    } : !t
    tile.store %p, %v[%b] by affine_map<(r, c)[b] -> (b + r, c)> : !t, !v
  }
}

// Every function of the table goes; what stays selects on both targets. A row
// of eight columns or one, a scalar of the kernel: wherever it stands.
// CHECK-LABEL: tile.kernel @everything
// GPU-LABEL: tile.kernel @everything
// CHECK-NOT: math.{{(exp |log|expm1|tanh|rsqrt|powf|erf|sin|cos)}}
// GPU-NOT: math.{{(exp |log|expm1|tanh|rsqrt|powf|erf|sin|cos)}}
// CHECK: tile.store
// GPU: tile.store
tile.kernel @everything(%scale: f32, %v: !v) {
  %one = arith.constant 1 : index
  tile.items (%b) in (%one) {
    %out = math.log %scale : f32
    %s = tile.load %v[%b] by affine_map<(r, c)[b] -> (b + r, c)> : !v -> !t
    %p = tile.map(%s : !t) {
    ^bb0(%x: f32, %r: i32, %c: i32):
      %0 = math.exp %x : f32
      %1 = math.exp2 %0 : f32
      %2 = math.expm1 %1 : f32
      %3 = math.log %2 : f32
      %4 = math.log2 %3 : f32
      %5 = math.log1p %4 : f32
      %6 = math.tanh %5 : f32
      %7 = attn.logistic %6 : f32
      %8 = math.sqrt %7 : f32
      %9 = math.rsqrt %8 : f32
      %10 = math.powf %9, %out : f32
      %11 = math.erf %10 : f32
      %12 = math.sin %11 : f32
      %13 = math.cos %12 : f32
      tile.yield %13 : f32
    } : !t
    tile.store %p, %v[%b] by affine_map<(r, c)[b] -> (b + r, c)> : !t, !v
  }
}

// A constant integer power is products.
// CHECK-LABEL: tile.kernel @square
// CHECK: ^bb0(%[[X:[^:]*]]: f32
// CHECK-NEXT: %[[Y:.*]] = arith.mulf %[[X]], %[[X]] : f32
// CHECK-NEXT: %[[Z:.*]] = arith.mulf %[[X]], %[[Y]] : f32
// CHECK-NEXT: tile.yield %[[Z]]
tile.kernel @square(%v: !v) {
  %one = arith.constant 1 : index
  tile.items (%b) in (%one) {
    %s = tile.load %v[%b] by affine_map<(r, c)[b] -> (b + r, c)> : !v -> !t
    %p = tile.map(%s : !t) {
    ^bb0(%x: f32, %r: i32, %c: i32):
      %n = arith.constant 3.0 : f32
      %0 = math.powf %x, %n : f32
      tile.yield %0 : f32
    } : !t
    tile.store %p, %v[%b] by affine_map<(r, c)[b] -> (b + r, c)> : !t, !v
  }
}
