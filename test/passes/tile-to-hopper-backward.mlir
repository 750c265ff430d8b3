// RUN: attnc-opt %s --pass-pipeline='builtin.module(func.func(attn-differentiate),canonicalize,cse,attn-to-tile{target=sm_90a},canonicalize,cse)' -o %t
// RUN: FileCheck %s --check-prefix=TILE < %t
// RUN: attnc-opt %t --pass-pipeline='builtin.module(tile-online-softmax,tile-select-formula{target=sm_90a},canonicalize,cse,tile-to-hopper,canonicalize,cse)' | FileCheck %s

// Queries stay, keys pass: three products, the last of dS from registers and
// the keys that are there.

// TILE-LABEL: tile.kernel @f_query_gradient(
// TILE-SAME: schedule(#tile.schedule<block_m = 128, block_n = 64, consumers = 2, stages = 3
// TILE: tile.for_keys
// TILE: %[[K:.*]] = tile.load %key
// TILE: tile.dot %{{.*}}, %[[K]] transpose_b
// TILE: tile.dot %{{.*}}, %{{.*}} transpose_b
// TILE: tile.dot %{{.*}}, %[[K]] acc

// Keys stay, the queries of all heads of a group pass in one loop: four
// products.

// TILE-LABEL: tile.kernel @f_key_gradient(
// TILE: tile.for_keys
// TILE-NOT: scf.for
// TILE: tile.dot %key_tile, %[[Q:.*]] transpose_b
// TILE: tile.dot %value_tile, %[[DO:.*]] transpose_b
// TILE: tile.dot %{{.*}}, %[[Q]] acc
// TILE: tile.dot %{{.*}}, %[[DO]] acc

// CHECK-LABEL: hopper.kernel @f_query_gradient
// CHECK-COUNT-3: hopper.wgmma
// CHECK-LABEL: hopper.kernel @f_key_gradient
// CHECK-COUNT-4: hopper.wgmma

!t = tensor<?x?x?x64xbf16>
func.func @f(%q: !t, %k: !t, %v: !t, %bias: f32) -> !t
    attributes {attn.differentiate} {
  %m = attn.causal_mask
  %o = attn.fused %q, %k, %v masks(%m) score_captures(%bias : f32)
      maps [affine_map<(b, h, i, j) -> ()>] score_mod {
  ^bb0(%s: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32, %e: f32):
    %y = arith.addf %s, %e : f32
    attn.yield %y : f32
  } activation {
  ^bb0(%x: f32):
    %y = attn.logistic %x : f32
    attn.yield %y : f32
  } : !t, !t, !t -> !t
  return %o : !t
}

// The sums of wide heads do not fit in registers together.

// TILE-LABEL: tile.kernel @wide_key_gradient(
// TILE-COUNT-3: tile.dot
// TILE-NOT: tile.dot
// TILE-LABEL: tile.kernel @wide_value_gradient(
// TILE-COUNT-2: tile.dot
// TILE-NOT: tile.dot
!w = tensor<?x?x?x256xbf16>
func.func @wide(%q: !w, %k: !w, %v: !w) -> !w attributes {attn.differentiate} {
  %o = attn.fused %q, %k, %v activation {
  ^bb0(%x: f32):
    %y = attn.logistic %x : f32
    attn.yield %y : f32
  } : !w, !w, !w -> !w
  return %o : !w
}
