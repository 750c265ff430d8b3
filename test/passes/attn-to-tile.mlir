// RUN: attnc-opt %s --split-input-file --attn-to-tile --canonicalize --cse | FileCheck %s

// The program checks what the arguments must agree on, then launches.

// CHECK-LABEL: tile.program @sigmoid(
// CHECK-SAME: {tile.dims = [0, 2, 1, 3], tile.name = "query"}
// CHECK-SAME: {tile.dims = [0, 2, 1, 3], tile.name = "key"}
// CHECK-SAME: {tile.dims = [0, 2, 1, 3], tile.name = "value"}
// CHECK-SAME: f32 {tile.name = "offset"}
// CHECK-SAME: {tile.dims = [0, 2, 1, 3], tile.name = "output", tile.result}
// CHECK: tile.check %{{.*}}, "query has {0} sequences but key has {1} sequences"
// CHECK: tile.check %{{.*}}, "query has {0} sequences but value has {1} sequences"
// CHECK: tile.check %{{.*}}, "key has {0} heads but value has {1} heads"
// CHECK: tile.check %{{.*}}, "key has {0} rows but value has {1} rows"
// S-gqa
// CHECK: tile.check %{{.*}}, "query has {0} heads, which is not a multiple of the {1} key heads"
// CHECK: tile.check %{{.*}}, "output has {0} elements in dim 1 but query has {1} rows"
// CHECK: tile.launch @sigmoid_attention(

// CHECK-LABEL: tile.kernel @sigmoid_attention(
// CHECK-SAME: %[[Q:[a-z0-9]+]]: !tile.view<?x?x?x64xbf16> {tile.name = "query"}, %[[K:[a-z0-9]+]]: !tile.view
// CHECK-SAME: %[[V:[a-z0-9]+]]: !tile.view<?x?x?x64xbf16> {tile.name = "value"}, %[[O:[a-z0-9]+]]: !tile.view<?x?x?x64xbf16> {tile.name = "output"}, %[[B:[a-z0-9]+]]: f32 {tile.name = "offset"})
// CHECK-SAME: schedule(#tile.schedule<block_m = 128, block_n = 64>)
// CHECK-DAG: %[[SCALE:.*]] = arith.constant 1.250000e-01 : f32
// CHECK-DAG: %[[C0:.*]] = arith.constant 0 : index
// S-empty: no sequence, head or row, no item.
// CHECK: tile.items (%[[IB:.*]], %[[IH:.*]], %[[IM:.*]]) in
// S-gqa
// CHECK: %[[HK:.*]] = arith.divui %[[IH]],
// CHECK: %[[I0:.*]] = arith.muli %[[IM]],
// CHECK: tile.load %[[Q]][%[[IB]], %[[IH]], %[[I0]]]
// S-causal: the key range ends at the diagonal of the last row, the full part
// at that of the first.
// CHECK: tile.for_keys %[[J:.*]] in (%[[C0]], %[[C0]], %[[FULLHI:.*]], %[[HI:.*]]) step 64
// S-beyond: no row at or beyond the length is read.
// CHECK: %[[LEFT:.*]] = arith.subi %{{.*}}, %[[J]] : index
// CHECK: tile.load %[[K]][%[[IB]], %[[HK]], %[[J]]] by #{{.*}} rows %[[LEFT]]
// CHECK: tile.dot %{{.*}}, %{{.*}} transpose_b
// CHECK: tile.map(
// CHECK: arith.mulf %{{.*}}, %[[SCALE]]
// CHECK-NEXT: arith.addf %{{.*}}, %[[B]]
// CHECK-NEXT: attn.logistic
// CHECK-NEXT: tile.yield
// S-mask-zero
// CHECK: tile.mask %{{.*}} fill 0.000000e+00 {
// CHECK: arith.cmpi slt
// CHECK: arith.cmpi sle
// CHECK: arith.andi
// S-round: once, to the type of V.
// CHECK: tile.cast %{{.*}} -> <128x64xbf16>
// CHECK: tile.load %[[V]][%[[IB]], %[[HK]], %[[J]]] by #{{.*}} rows %[[LEFT]]
// CHECK: tile.dot %{{.*}}, %{{.*}} acc
// S-bits: one item owns its rows, nothing is added to what is in memory.
// CHECK: tile.store %{{.*}}, %[[O]][%[[IB]], %[[IH]], %[[I0]]]
!t = tensor<?x?x?x64xbf16>
func.func @sigmoid(%q: !t, %k: !t, %v: !t, %bias: f32 {attn.name = "offset"}) -> !t {
  %m0 = attn.causal_mask
  %o = attn.fused %q, %k, %v masks(%m0) layout bshd
    score_mod {
    ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32):
      %z = arith.addf %e, %bias : f32
      attn.yield %z : f32
    } activation {
    ^bb0(%e: f32):
      %z = attn.logistic %e : f32
      attn.yield %z : f32
    } : !t, !t, !t -> !t
  return %o : !t
}

// -----

// CHECK-LABEL: tile.program @softmax(
// CHECK: tile.check %{{.*}}, "arg3 has {0} lengths but query has {1} sequences"
// CHECK-LABEL: tile.kernel @softmax_attention(
// CHECK-DAG: %[[INF:.*]] = arith.constant 0xFF800000 : f32
// CHECK: tile.load_scalar
// CHECK: tile.for_keys
// CHECK: tile.mask %{{.*}} fill 0xFF800000
// CHECK: %[[P:.*]], %[[ALPHA:.*]], %[[MAX:.*]], %[[SUM:.*]] = tile.softmax_step
// CHECK: tile.map(%{{.*}}, %[[ALPHA]]
// CHECK: tile.cast %[[P]]
// CHECK: tile.yield %{{.*}}, %[[SUM]], %[[MAX]]
// S-mask-zero: a row without weight is 0 / 0 nowhere.
// CHECK: arith.cmpf oeq
// CHECK: arith.divf
// CHECK: arith.select
// S-lse
// CHECK: math.log
// CHECK: arith.select %{{.*}}, %[[INF]]
// CHECK: tile.store
!t = tensor<?x?x?x64xbf16>
func.func @softmax(%q: !t, %k: !t, %v: !t, %kl: tensor<?xi32>) -> (!t, tensor<?x?x?xf32>) {
  %o, %lse = attn.fused %q, %k, %v k_len %kl : tensor<?xi32> normalize softmax
    : !t, !t, !t -> !t, tensor<?x?x?xf32>
  return %o, %lse : !t, tensor<?x?x?xf32>
}

// -----

// Static sizes that fill every block leave nothing to mask.

// CHECK-LABEL: tile.kernel @full_attention(
// CHECK: tile.for_keys
// CHECK-NOT: tile.mask
!t = tensor<2x4x128x64xf32>
func.func @full(%q: !t, %k: !t, %v: !t) -> !t {
  %o = attn.fused %q, %k, %v activation {
    ^bb0(%e: f32):
      %z = attn.logistic %e : f32
      attn.yield %z : f32
    } : !t, !t, !t -> !t
  return %o : !t
}
