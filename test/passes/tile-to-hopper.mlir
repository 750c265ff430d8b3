// RUN: attnc-opt %s -tile-to-hopper | FileCheck %s
// RUN: sed 's/stages = 2/stages = 2, order = overlap, pingpong = true, pin = true/' %s \
// RUN:   | attnc-opt -tile-to-hopper | FileCheck %s --check-prefix=OVERLAP
// RUN: sed 's/stages = 2/stages = 2, persistent = true/' %s \
// RUN:   | attnc-opt -tile-to-hopper | FileCheck %s --check-prefix=PERSISTENT
// RUN: sed 's/stages = 2/stages = 2, persistent = true, staged = true/' %s \
// RUN:   | attnc-opt -tile-to-hopper | FileCheck %s --check-prefix=STAGED
// RUN: attnc-opt %s -tile-to-hopper=any-layout | FileCheck %s --check-prefix=ANY
// RUN: attnc-opt %s -tile-to-hopper=any-layout -hopper-to-llvm -attnc-verify-codegen \
// RUN:   | FileCheck %s --check-prefix=ANY-LLVM

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
// The full blocks.
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
// CHECK-NOT: hopper.mask
// CHECK: %[[P:.*]] = hopper.convert %{{.*}} : <64x128xf32, acc> -> <64x128xbf16, a>
// CHECK: %[[VS:.*]] = hopper.await %[[V]]
// Another view's size says nothing about this one, unless a program checks it.
// CHECK: hopper.zero_rows %[[VS]]
// CHECK: hopper.wgmma %[[P]], %[[VS]] acc
// The blocks after them.
// CHECK: scf.for
// CHECK: hopper.map
// CHECK: hopper.mask
// CHECK: hopper.convert
// CHECK: hopper.store
// CHECK: hopper.release %[[Q]]

// S of the next block starts before P V of this block is waited for, and P is
// packed when that no longer reads the registers of the last P. The last block,
// which may need a mask, goes first: then key - 128 is copied, or the last one.

// OVERLAP: hopper.producer
// OVERLAP: hopper.copy
// OVERLAP: %[[BLOCKS:.*]] = arith.divui
// OVERLAP: %[[OFFSET:.*]] = arith.muli %[[BLOCKS]],
// OVERLAP: %[[LAST:.*]] = arith.addi %{{.*}}, %[[OFFSET]]
// OVERLAP: scf.for %[[KEY:.*]] = %[[BEGIN:.*]] to
// OVERLAP: %[[FIRST:.*]] = arith.cmpi eq, %[[KEY]], %[[BEGIN]]
// OVERLAP: %[[EARLIER:.*]] = arith.subi %[[KEY]],
// OVERLAP: arith.select %[[FIRST]], %[[LAST]], %[[EARLIER]]
// OVERLAP: hopper.copy
// OVERLAP: hopper.consumers (%[[WG:.*]]) {
// OVERLAP: hopper.turn_init %[[WG]]
// OVERLAP: scf.if
// OVERLAP: hopper.turn_wait %[[WG]]
// OVERLAP: hopper.wgmma {{.*}} transpose_b
// OVERLAP: hopper.turn_pass %[[WG]]
// OVERLAP: hopper.wait
// OVERLAP: hopper.map
// OVERLAP: hopper.mask
// OVERLAP: %[[P0:.*]] = hopper.convert {{.*}} -> <64x128xbf16, a>
// OVERLAP: scf.for {{.*}} iter_args(%[[O:[a-z0-9]+]] = %{{.*}}, %[[P:[a-z0-9]+]] = %[[P0]],
// OVERLAP: hopper.turn_wait
// OVERLAP: %[[S:.*]] = hopper.wgmma {{.*}} transpose_b
// OVERLAP: hopper.commit
// OVERLAP: %[[PV:.*]] = hopper.wgmma %[[P]], %{{.*}} acc %[[O]]
// OVERLAP: hopper.commit
// OVERLAP: hopper.turn_pass
// OVERLAP: hopper.wait %[[S]]
// OVERLAP: hopper.release
// OVERLAP: hopper.map
// OVERLAP-NOT: hopper.mask
// OVERLAP: hopper.pin
// OVERLAP: hopper.wait %[[PV]]
// OVERLAP: hopper.release
// OVERLAP: hopper.convert
// OVERLAP: scf.yield
// OVERLAP-NOT: hopper.mask
// The last P V.
// OVERLAP: hopper.wgmma {{.*}} acc
// OVERLAP: hopper.wait
// OVERLAP: hopper.store

// Without TMA, all threads of the producer copy, and more registers are theirs.

// ANY: roles(#hopper.roles<consumers = 2, producer_registers = 56, consumer_registers = 224>)
// ANY-NOT: hopper.tensor_map
// ANY: hopper.producer cooperative {
// ANY: hopper.copy_elements %arg0[{{.*}}] by #{{.*}} to
// ANY: scf.for
// ANY: hopper.copy_elements %arg1[{{.*}}] by #{{.*}} rows %{{.*}} to
// ANY: hopper.copy_elements %arg2[{{.*}}] by #{{.*}} rows %{{.*}} to
// ANY: hopper.consumers
// ANY-NOT: hopper.zero_rows

// ANY-LLVM-NOT: cp.async.bulk
// ANY-LLVM: ld.global.b16
// ANY-LLVM: st.shared.v4.b32
// ANY-LLVM: fence.proxy.async
// ANY-LLVM: mbarrier.arrive

// Rings go on from item to item.

// PERSISTENT: roles({{.*}} persistent = true>)
// PERSISTENT: hopper.producer
// PERSISTENT: %[[BLOCK:.*]] = hopper.block
// PERSISTENT: %[[GRID:.*]] = hopper.grid
// PERSISTENT: %[[ROUNDS:.*]] = arith.divui %{{.*}}, %[[GRID]]
// PERSISTENT: %[[COUNT:.*]] = arith.addi %[[ROUNDS]],
// PERSISTENT: scf.for %[[ROUND:.*]] = %{{.*}} to %[[COUNT]] step %{{.*}} iter_args(
// Each round begins one block further on.
// PERSISTENT: %[[TURNED:.*]] = arith.addi %[[BLOCK]], %[[ROUND]]
// PERSISTENT: %[[PLACE:.*]] = arith.remui %[[TURNED]], %[[GRID]]
// PERSISTENT: %[[BASE:.*]] = arith.muli %[[ROUND]], %[[GRID]]
// PERSISTENT: arith.addi %[[BASE]], %[[PLACE]]
// PERSISTENT: hopper.consumers
// PERSISTENT: scf.for %{{.*}} step %{{.*}} iter_args(
// PERSISTENT: %[[Q:.*]] = hopper.await %[[RING:[a-z0-9]+]][
// PERSISTENT: hopper.mask
// Q is free before the results are stored.
// PERSISTENT: hopper.release %[[RING]]
// PERSISTENT: hopper.next {{.*}} in %[[RING]]
// PERSISTENT: hopper.store
// PERSISTENT: scf.yield

// The output goes through the rows of Q, which is free after that.

// STAGED: hopper.consumers (%[[WG:.*]]) {
// STAGED: %[[QS:.*]] = hopper.await %[[RING:[a-z0-9]+]][
// STAGED: hopper.mask
// STAGED-NOT: hopper.release %[[RING]]
// STAGED: %[[OUT:.*]] = hopper.rows %[[QS]][%[[WG]]]
// STAGED: hopper.store {{.*}} through %[[OUT]] :
// STAGED: hopper.release %[[RING]]

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

// A kernel without copies loops over its items too.

// PERSISTENT: hopper.kernel @rows
// PERSISTENT: hopper.consumers
// PERSISTENT: scf.for
// PERSISTENT: hopper.load
// PERSISTENT: hopper.store

tile.kernel @rows(%x: !tile.view<?x64xf32>, %o: !tile.view<?x64xf32>)
    schedule(#tile.schedule<block_m = 128, block_n = 128, consumers = 2, stages = 2>) {
  %bm = arith.constant 128 : index
  %n = tile.dim %x, 0 : !tile.view<?x64xf32>
  %nm = arith.ceildivui %n, %bm : index
  tile.items (%m) in (%nm) {
    %i = arith.muli %m, %bm : index
    %t = tile.load %x[%i] by affine_map<(r, c)[i] -> (i + r, c)> : !tile.view<?x64xf32> -> !tile.tile<128x64xf32>
    tile.store %t, %o[%i] by affine_map<(r, c)[i] -> (i + r, c)> : !tile.tile<128x64xf32>, !tile.view<?x64xf32>
  }
}
