// RUN: attnc-opt %s --pass-pipeline='builtin.module(func.func(attn-differentiate),canonicalize,cse,attn-to-tile{target=sm_90a},canonicalize,cse)' -o %t
// RUN: FileCheck %s --check-prefix=TILE < %t
// RUN: attnc-opt %t --pass-pipeline='builtin.module(tile-online-softmax,tile-select-formula{target=sm_90a},canonicalize,cse,tile-to-hopper,canonicalize,cse)' | FileCheck %s

// Queries stay, keys pass: three products, the last of dS from registers and
// the keys that are there.

// TILE-LABEL: tile.kernel @f_query_gradient(
// TILE-SAME: schedule(#tile.schedule<block_m = 192, block_n = {{.*}}, consumers = 3, stages = {{.*}}, order = deferred
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
// TILE: tile.dot %{{.*}}, %[[DO]] acc
// TILE: tile.dot %{{.*}}, %[[Q]] acc

// Products start where they stand and are waited for where they are read: the
// weights are made beside the second product, the gradient beside the third.

// CHECK-LABEL: hopper.kernel @f_query_gradient
// CHECK-COUNT-3: hopper.wgmma
// CHECK-LABEL: hopper.kernel @f_key_gradient
// CHECK: scf.for
// CHECK: %[[S:.*]] = hopper.wgmma {{.*}} transpose_b
// CHECK-NEXT: hopper.commit
// CHECK: %[[DP:.*]] = hopper.wgmma {{.*}} transpose_b
// CHECK-NEXT: hopper.commit
// CHECK-NEXT: hopper.wait %[[S]] :
// CHECK: hopper.speculate
// CHECK: %[[DV:.*]] = hopper.wgmma {{.*}} acc
// CHECK-NEXT: hopper.commit
// CHECK-NEXT: hopper.wait %[[DP]] :
// CHECK: %[[DK:.*]] = hopper.wgmma {{.*}} acc
// CHECK-NEXT: hopper.commit
// CHECK-NEXT: hopper.wait %[[DV]], %[[DK]] :

!t = tensor<?x?x?x64xbf16>
func.func @f(%q: !t, %k: !t, %v: !t, %bias: f32) -> !t
    attributes {attn.differentiate, attn.deterministic} {
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

// Captured operands. A sum over keys is a value a row of the queries' kernel;
// what is left to sum takes a loop without products, of a row of 256 elements.
// Sums over queries have a kernel for each query head. Where both positions
// are kept, the sequences and heads that are not pass by.

// TILE-LABEL: tile.kernel @captured_query_gradient(
// TILE: tile.for_keys
// TILE: tile.reduce add %{{.*}} : <192x{{.*}}xf32> -> <192x1xf32>
// TILE: tile.store %{{.*}} : <192x1xf32>, <?x?x?xf32>
// TILE-LABEL: tile.kernel @captured_key_sums(
// TILE: tile.for_keys
// TILE-COUNT-2: tile.dot
// TILE-NOT: tile.dot
// TILE-LABEL: tile.kernel @captured_position_gradient(
// TILE: tile.for_keys {{.*}} step 1 iter_args
// TILE-COUNT-2: tile.dot
// TILE-LABEL: tile.kernel @captured_sum(
// TILE: scf.for
// TILE: tile.load {{.*}} -> <1x256xf32>
// TILE: tile.reduce add %{{.*}} : <1x256xf32> -> <1x1xf32>

// CHECK-LABEL: hopper.kernel @captured_key_sums
// CHECK-COUNT-2: hopper.wgmma
// CHECK-LABEL: hopper.kernel @captured_position_gradient
// CHECK-COUNT-2: hopper.wgmma
// CHECK: hopper.store %{{.*}} : <64x{{.*}}xbf16, acc>
// CHECK-LABEL: hopper.kernel @captured_sum
// CHECK: hopper.consumers
// CHECK: scf.for
// CHECK: hopper.load {{.*}} -> <1x256xf32, col>
// CHECK: hopper.reduce add %{{.*}} : <1x256xf32, col> -> <1x1xf32, col>

func.func @captured(%q: !t, %k: !t, %v: !t, %head: tensor<?xf32> {attn.gradient},
    %keys: tensor<?xf32> {attn.gradient},
    %pairs: tensor<?x?xbf16> {attn.gradient}) -> !t
    attributes {attn.differentiate} {
  %o = attn.fused %q, %k, %v
      score_captures(%head, %keys, %pairs : tensor<?xf32>, tensor<?xf32>, tensor<?x?xbf16>)
      maps [affine_map<(b, h, i, j) -> (h)>, affine_map<(b, h, i, j) -> (j)>,
            affine_map<(b, h, i, j) -> (i, j)>] score_mod {
  ^bb0(%s: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32,
       %e: f32, %f: f32, %g: f32):
    %y0 = arith.addf %s, %e : f32
    %y1 = arith.addf %y0, %f : f32
    %y = arith.addf %y1, %g : f32
    attn.yield %y : f32
  } activation {
  ^bb0(%x: f32):
    %y = attn.logistic %x : f32
    attn.yield %y : f32
  } : !t, !t, !t -> !t
  return %o : !t
}

// One kernel for all gradients, unless they shall be deterministic: each block
// of keys adds its share of dQ to sums in workspace, one block of queries late.

// TILE-LABEL: tile.program @one(
// TILE: tile.workspace(%{{.*}}) : <?x?x?x8x128xf32>
// TILE: tile.launch @one_clear
// TILE: tile.launch @one_gradients
// TILE: tile.launch @one_query_gradient
// TILE-LABEL: tile.kernel @one_clear(
// TILE-LABEL: tile.kernel @one_gradients(
// TILE-SAME: one_kernel = true
// TILE: %[[DS:.*]] = tile.cast
// TILE: %[[DQ:.*]] = tile.dot %[[DS]], %key_tile transpose_a
// TILE: tile.dot {{.*}} acc
// TILE: tile.dot {{.*}} acc
// TILE: tile.store add %[[DQ]]
// TILE-LABEL: tile.kernel @one_query_gradient(

// dS is put before the product of the block before starts.

// CHECK-LABEL: hopper.kernel @one_gradients(
// CHECK: %[[W:[0-9]+]] = hopper.ring "weights" : <2x128x128xbf16>
// CHECK-NOT: hopper.scratch
// CHECK: hopper.consumers
// CHECK: hopper.acquire %[[W]][
// CHECK-NEXT: hopper.put {{.*}} to %[[W]]
// CHECK: scf.for
// CHECK: hopper.acquire %[[W]]
// CHECK-NEXT: hopper.put {{.*}} to %[[W]]
// CHECK: %[[WS:[0-9]+]] = hopper.await %[[W]]
// CHECK: hopper.columns %[[WS]]
// CHECK: %[[DQ:.*]] = hopper.wgmma {{.*}} transpose_a
// CHECK-COUNT-2: hopper.wgmma {{.*}} acc
// CHECK: hopper.wait %[[DQ]] :
// CHECK: hopper.release %[[W]]
// CHECK: scf.if
// CHECK-NEXT: hopper.store add
func.func @one(%q: !t, %k: !t, %v: !t) -> !t attributes {attn.differentiate} {
  %o = attn.fused %q, %k, %v activation {
  ^bb0(%x: f32):
    %y = attn.logistic %x : f32
    attn.yield %y : f32
  } : !t, !t, !t -> !t
  return %o : !t
}

// 64 queries a block: each consumer has 64 columns of the product, and adds
// them through shared memory of its own.

// CHECK-LABEL: hopper.kernel @by_columns_gradients(
// CHECK: hopper.ring "weights" : <2x128x64xbf16>
// CHECK: %[[SUMS:[0-9]+]] = hopper.scratch "sums" : <64x64xf32>
// CHECK: hopper.consumers
// CHECK: hopper.store add {{.*}} through %[[SUMS]]
!t128 = tensor<?x?x?x128xbf16>
func.func @by_columns(%q: !t128, %k: !t128, %v: !t128) -> !t128
    attributes {attn.differentiate} {
  %o = attn.fused %q, %k, %v activation {
  ^bb0(%x: f32):
    %y = attn.logistic %x : f32
    attn.yield %y : f32
  } : !t128, !t128, !t128 -> !t128
  return %o : !t128
}

// A table of relative positions: blocks at one distance pass, both, and are
// added in registers; one block for each distance is left to sum up along its
// diagonals.

// TILE-LABEL: tile.program @relative(
// TILE: %[[SUMS:.*]] = tile.workspace{{.*}}1x?x?x128x64xf32
// TILE: tile.launch @relative_diagonal_gradient{{.*}} %[[SUMS]]
// TILE: tile.launch @relative_diagonal_sum(%[[SUMS]]
// TILE-LABEL: tile.kernel @relative_diagonal_gradient(
// TILE: tile.for_keys {{.*}} step 1 iter_args
// TILE-COUNT-2: tile.dot
// TILE: tile.store %{{.*}} : <128x64xf32>, <1x?x?x128x64xf32>
// TILE-LABEL: tile.kernel @relative_diagonal_sum(
// TILE: tile.load {{.*}} : <1x?x?x128x64xf32> -> <{{.*}}x64xf32>
// TILE: tile.reduce add
// TILE: tile.store %{{.*}}, <?x?xf32>

// CHECK-LABEL: hopper.kernel @relative_diagonal_gradient
// CHECK-COUNT-2: hopper.wgmma

func.func @relative(%q: !t, %k: !t, %v: !t,
    %table: tensor<?x?xf32> {attn.gradient}) -> !t
    attributes {attn.differentiate} {
  %o = attn.fused %q, %k, %v score_captures(%table : tensor<?x?xf32>)
      maps [affine_map<(b, h, i, j) -> (h, i - j + 255)>] score_mod {
  ^bb0(%s: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32, %e: f32):
    %z = arith.addf %s, %e : f32
    attn.yield %z : f32
  } activation {
  ^bb0(%x: f32):
    %y = arith.mulf %x, %x : f32
    attn.yield %y : f32
  } : !t, !t, !t -> !t
  return %o : !t
}

// What a block of queries needs in each column, here LSE and delta, is copied
// to shared memory while the block before is worked on, and read where it is
// used. The weights stay beside the product that was started before.

// CHECK-LABEL: hopper.kernel @columns_gradients(
// CHECK: %[[LSE:.*]] = hopper.scratch "columns" : <8x128xf32>
// CHECK: %[[DELTA:.*]] = hopper.scratch "columns" : <8x128xf32>
// CHECK: hopper.consumers
// CHECK: hopper.prefetch {{.*}} to %[[LSE]][
// CHECK-NEXT: hopper.prefetch {{.*}} to %[[DELTA]][
// CHECK: scf.for
// CHECK: %[[S:.*]] = hopper.wgmma
// CHECK: %[[DP:.*]] = hopper.wgmma
// CHECK: hopper.prefetched
// CHECK: hopper.prefetch {{.*}} to %[[LSE]][
// CHECK-NEXT: hopper.prefetch {{.*}} to %[[DELTA]][
// CHECK-NEXT: hopper.wait %[[S]] :
// CHECK: hopper.fetch %[[LSE]][
// CHECK: %[[P:.*]] = hopper.map
// CHECK: hopper.pin %[[P]]
// CHECK-NEXT: hopper.wait %[[DP]] :
// CHECK-NEXT: hopper.fetch %[[DELTA]][
// CHECK-LABEL: hopper.kernel @columns_query_gradient(
func.func @columns(%q: !t, %k: !t, %v: !t) -> (!t, tensor<?x?x?xf32>)
    attributes {attn.differentiate} {
  %o, %lse = attn.fused %q, %k, %v normalize softmax
      : !t, !t, !t -> !t, tensor<?x?x?xf32>
  return %o, %lse : !t, tensor<?x?x?xf32>
}
