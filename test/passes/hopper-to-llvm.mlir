// RUN: attnc-opt %s -tile-to-hopper -hopper-to-llvm | FileCheck %s

// CHECK: llvm.mlir.global external @attnc_shared() {addr_space = 3 : i32, alignment = 1024 : i64} : !llvm.array<0 x i8>
// CHECK-LABEL: llvm.func @kernel(
// CHECK-SAME: !llvm.ptr {llvm.align = 64 : i64, llvm.byval = !llvm.array<128 x i8>, nvvm.grid_constant}
// CHECK-SAME: attnc.kernel = {cluster = 1 : i64, params = [
// CHECK-SAME: {arg = 0 : i64, box = [64, 128, 1, 1], kind = "tensor_map", order = [3, 2, 1, 0], swizzle = "128B"}
// CHECK-SAME: {arg = 4 : i64, kind = "scalar"}
// CHECK-SAME: {arg = 3 : i64, kind = "pointer"}
// CHECK-SAME: persistent = false
// CHECK-SAME: threads = 384 : i64
// CHECK-SAME: nvvm.kernel, nvvm.minctasm = 1 : i32, nvvm.reqntid = array<i32: 384>

// CHECK: llvm.nvvm.mbarrier.init.shared
// CHECK: llvm.nvvm.barrier.cta.sync.aligned.all
// CHECK: llvm.nvvm.setmaxnreg.dec.sync.aligned.u32
// CHECK: llvm.nvvm.elect.sync
// CHECK: llvm.nvvm.mbarrier.arrive.expect.tx
// CHECK: llvm.nvvm.cp.async.bulk.tensor.g2s.tile.4d
// CHECK: llvm.nvvm.setmaxnreg.inc.sync.aligned.u32
// CHECK: llvm.nvvm.mbarrier.try.wait.parity
// S: both operands from shared memory, four steps of K, started from zero.
// CHECK: wgmma.fence.sync.aligned
// CHECK-SAME: m64n128k16.f32.bf16.bf16
// CHECK-SAME: da, db, 0, 1, 1, 0, 0;
// CHECK-SAME: da, db, 1, 1, 1, 0, 0;
// CHECK: wgmma.commit_group.sync.aligned
// CHECK: wgmma.wait_group.sync.aligned 0;
// CHECK: mbarrier.arrive.shared::cta
// CHECK: llvm.nvvm.ex2.approx.ftz.f32
// CHECK: llvm.nvvm.rcp.approx.ftz.f
// CHECK: llvm.nvvm.ff2bf16x2.rn
// O: P from registers, V down its rows, eight steps, added to what it was.
// CHECK: m64n64k16.f32.bf16.bf16
// CHECK-SAME: {$33,$34,$35,$36}, db, 1, 1, 1, 1;
// CHECK-NOT: hopper.
// CHECK-NOT: arith.

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
