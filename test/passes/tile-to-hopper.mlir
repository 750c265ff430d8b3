// RUN: attnc-opt %s -tile-to-hopper | FileCheck %s

// The producer copies Q once and K and V in the loop; each consumer multiplies
// its 64 rows.

// CHECK-LABEL: hopper.kernel @kernel(
// CHECK-SAME: roles(#hopper.roles<consumers = 2, producer_registers = 24, consumer_registers = 240>)
// CHECK-DAG: %[[QM:.*]] = hopper.tensor_map %arg0 order [3, 2, 1, 0] box [64, 128, 1, 1]
// CHECK-DAG: %[[KM:.*]] = hopper.tensor_map %arg1 order [3, 2, 1, 0] box [64, 128, 1, 1]
// CHECK-DAG: %[[Q:.*]] = hopper.ring "query" : <1x128x64xbf16>
// CHECK-DAG: %[[K:.*]] = hopper.ring "key" : <2x128x64xbf16>
// CHECK-DAG: %[[V:.*]] = hopper.ring "value" : <2x128x64xbf16>
// CHECK: hopper.producer {
// CHECK: hopper.acquire %[[Q]]
// CHECK: hopper.copy %[[QM]][{{.*}}] to %[[Q]]
// CHECK: scf.for
// CHECK: hopper.acquire %[[K]]
// CHECK: hopper.copy %[[KM]][{{.*}}] to %[[K]]
// CHECK: hopper.next %{{.*}} in %[[K]]
// CHECK: hopper.acquire %[[V]]
// CHECK-NOT: hopper.map
// CHECK: hopper.consumers (%[[WG:.*]]) {
// CHECK: %[[QS:.*]] = hopper.await %[[Q]]
// CHECK: scf.for
// CHECK: %[[ROWS:.*]] = hopper.rows %[[QS]][%[[WG]]]
// CHECK: %[[KS:.*]] = hopper.await %[[K]]
// Rows beyond the end of the view are zero already.
// CHECK-NOT: hopper.zero_rows
// CHECK: %[[S:.*]] = hopper.wgmma %[[ROWS]], %[[KS]] transpose_b
// CHECK-NEXT: hopper.commit
// CHECK-NEXT: hopper.wait %[[S]]
// CHECK-NEXT: hopper.release %[[K]]
// CHECK: hopper.map
// Full blocks are not masked.
// CHECK: scf.if
// CHECK: else
// CHECK: hopper.mask
// CHECK: %[[P:.*]] = hopper.convert %{{.*}} : <64x128xf32, acc> -> <64x128xbf16, a>
// CHECK: %[[VS:.*]] = hopper.await %[[V]]
// CHECK: hopper.wgmma %[[P]], %[[VS]] acc
// CHECK: hopper.store
// CHECK: hopper.release %[[Q]]

#row = affine_map<(r, c)[b, h, i] -> (b, h, i + r, c)>
tile.kernel @kernel(%q: !tile.view<?x?x?x64xbf16> {tile.name = "query"}, %k: !tile.view<?x?x?x64xbf16> {tile.name = "key"},
    %v: !tile.view<?x?x?x64xbf16> {tile.name = "value"}, %o: !tile.view<?x?x?x64xbf16>, %scale: f32, %bias: f32)
    schedule(#tile.schedule<block_m = 128, block_n = 128, consumers = 2, stages = 2>) {
  %bm = arith.constant 128 : index
  %zero = arith.constant 0 : index
  %f0 = arith.constant 0.0 : f32
  %nb = tile.dim %q, 0 : !tile.view<?x?x?x64xbf16>
  %nh = tile.dim %q, 1 : !tile.view<?x?x?x64xbf16>
  %sq = tile.dim %q, 2 : !tile.view<?x?x?x64xbf16>
  %sk = tile.dim %k, 2 : !tile.view<?x?x?x64xbf16>
  %nm = arith.ceildivui %sq, %bm : index
  tile.items (%b, %h, %m) in (%nb, %nh, %nm) {
    %i0 = arith.muli %m, %bm : index
    %qt = tile.load %q[%b, %h, %i0] by #row : !tile.view<?x?x?x64xbf16> -> !tile.tile<128x64xbf16>
    %acc0 = tile.splat %f0 : f32 -> !tile.tile<128x64xf32>
    %acc = tile.for_keys %j in (%zero, %zero, %sk, %sk) step 128
        iter_args(%a = %acc0) -> (!tile.tile<128x64xf32>) {
      %left = arith.subi %sk, %j : index
      %kt = tile.load %k[%b, %h, %j] by #row rows %left : !tile.view<?x?x?x64xbf16> -> !tile.tile<128x64xbf16>
      %s = tile.dot %qt, %kt transpose_b : !tile.tile<128x64xbf16>, !tile.tile<128x64xbf16> -> !tile.tile<128x128xf32>
      %p = tile.map(%s : !tile.tile<128x128xf32>) {
      ^bb0(%x: f32, %r: i32, %c: i32):
        %l2e = arith.constant -1.44269504 : f32
        %one = arith.constant 1.0 : f32
        %f = arith.mulf %scale, %l2e : f32
        %g = arith.mulf %bias, %l2e : f32
        %y = math.fma %x, %f, %g : f32
        %e = math.exp2 %y fastmath<afn> : f32
        %e1 = arith.addf %e, %one : f32
        %z = arith.divf %one, %e1 fastmath<arcp,afn> : f32
        tile.yield %z : f32
      } : !tile.tile<128x128xf32>
      %li = arith.index_cast %left : index to i32
      %pm = tile.mask %p fill 0.0 {
      ^bb0(%r: i32, %c: i32):
        %keep = arith.cmpi slt, %c, %li : i32
        tile.yield %keep : i1
      } : !tile.tile<128x128xf32>
      %pc = tile.cast %pm : !tile.tile<128x128xf32> -> !tile.tile<128x128xbf16>
      %vt = tile.load %v[%b, %h, %j] by #row rows %left : !tile.view<?x?x?x64xbf16> -> !tile.tile<128x64xbf16>
      %next = tile.dot %pc, %vt acc %a : !tile.tile<128x64xf32> : !tile.tile<128x128xbf16>, !tile.tile<128x64xbf16> -> !tile.tile<128x64xf32>
      tile.yield %next : !tile.tile<128x64xf32>
    }
    %out = tile.cast %acc : !tile.tile<128x64xf32> -> !tile.tile<128x64xbf16>
    tile.store %out, %o[%b, %h, %i0] by #row : !tile.tile<128x64xbf16>, !tile.view<?x?x?x64xbf16>
  }
}
