// RUN: attnc-opt %s -hopper-to-llvm -attnc-verify-codegen | FileCheck %s

// One op of each kind on fragments, and the turns of ping-pong.

// CHECK-LABEL: llvm.func @k(
// CHECK-SAME: persistent = true
// The last consumer gives the first turn to the first.
// CHECK: llvm.nvvm.barrier.cta.arrive.aligned.count
// Rows from the fifth on are zeroed, and wgmma's proxy is told.
// CHECK: st.shared.v4.b32
// CHECK: fence.proxy.async.shared::cta
// CHECK: llvm.nvvm.barrier.cta.sync.aligned.count
// The turn begins, S starts, the turn ends.
// CHECK: llvm.nvvm.barrier.cta.sync.aligned.count
// CHECK: m64n64k16
// CHECK: llvm.nvvm.barrier.cta.arrive.aligned.count
// CHECK: wgmma.wait_group.sync.aligned 0;
// Row maxima: the columns of a thread, then the four lanes of a row.
// CHECK: llvm.intr.maxnum
// CHECK: llvm.nvvm.shfl.sync.bfly.f32
// CHECK: llvm.intr.maxnum
// CHECK: llvm.nvvm.shfl.sync.bfly.f32
// CHECK: llvm.fsub
// Four slices of 16 columns. The first formula is there before the vote of the
// warp; where it does not hold, a second vote leads to the next one. 1/64 and
// 1/16 as bits.
// CHECK-COUNT-7: llvm.intr.umax
// CHECK: llvm.mlir.constant(1015021568 : i32)
// CHECK: llvm.icmp "ugt"
// CHECK: llvm.nvvm.vote.any.sync
// CHECK-NEXT: llvm.cond_br %{{.*}} weights([1, 2000]), ^[[SELDOM:.*]], ^[[DONE:bb[0-9]+]](
// CHECK: ^[[SELDOM]]:
// CHECK: llvm.mlir.constant(1031798784 : i32)
// CHECK: llvm.nvvm.vote.any.sync
// CHECK-NEXT: llvm.cond_br
// CHECK: llvm.fadd
// CHECK: llvm.br ^[[DONE]](
// CHECK: llvm.fneg
// CHECK: llvm.br ^[[DONE]](
// CHECK-COUNT-6: llvm.nvvm.vote.any.sync
// The mask selects.
// CHECK: llvm.icmp "slt"
// CHECK: llvm.select
// The pin is a branch that is never taken.
// CHECK: llvm.store volatile
// P is packed by pairs and read from registers.
// CHECK: llvm.nvvm.ff2bf16x2.rn
// Sums are multiplied by their rows' factors where one of 8 rows' is not 1: the
// first rows of the lanes, then the second ones.
// CHECK: llvm.fcmp "une"
// CHECK: llvm.nvvm.vote.any.sync
// CHECK-NEXT: llvm.cond_br %{{.*}}, ^[[SCALE:.*]], ^[[GO:bb[0-9]+]](
// CHECK-NEXT: ^[[SCALE]]:
// CHECK-COUNT-16: llvm.fmul
// CHECK-NEXT: llvm.br ^[[GO]](
// CHECK: llvm.fcmp "une"
// CHECK: llvm.nvvm.vote.any.sync
// CHECK-NEXT: llvm.cond_br %{{.*}}, ^[[SCALE2:.*]], ^[[GO2:bb[0-9]+]](
// CHECK-NEXT: ^[[SCALE2]]:
// CHECK-COUNT-16: llvm.fmul
// CHECK-NEXT: llvm.br ^[[GO2]](
// CHECK: m64n64k16.f32.bf16.bf16
// CHECK-SAME: {$33,$34,$35,$36}, db, 1, 1, 1, 1;
// Loads that may be outside are under a predicate.
// CHECK: @p ld.global.b16
// The last store goes through shared memory: when all warps of the group are
// there, each writes its 16 rows, 16 columns at a time, and reads them by
// lines. The next bulk copy into the slot comes after that.
// CHECK: llvm.nvvm.barrier.cta.sync.aligned.count
// CHECK-COUNT-4: stmatrix.sync.aligned.m8n8.x4.shared.b16 [$0], {$1,$2,$3,$4};
// CHECK-NOT: stmatrix
// CHECK: llvm.nvvm.bar.warp.sync
// CHECK-COUNT-4: ld.shared.v4.b32
// CHECK-COUNT-4: @p st.global.v4.b32
// CHECK: fence.proxy.async

// Where rows begin at any element, they are read by words that lie in two of
// shared memory, a row at a time; at the ends of a row, half of a word.
// CHECK-LABEL: llvm.func @odd_rows(
// CHECK-COUNT-5: stmatrix.sync.aligned.m8n8.x4.shared.b16
// CHECK: llvm.nvvm.bar.warp.sync
// CHECK: llvm.br ^[[ROW:.*]](%{{.*}} : i32)
// CHECK: ld.shared.b16 l, [$1+0];\0Ald.shared.b16 h, [$2+0];\0Amov.b32 $0, {l, h};
// CHECK: ld.shared.b16 l, [$1+8192];\0Ald.shared.b16 h, [$2+8192];
// CHECK: @both st.global.b32 [$0+0], $1;\0A@l st.global.b16 [$0+0], x;\0A@h st.global.b16 [$0+2], y;
// CHECK: @both st.global.b32 [$0+128], $1;\0A@l st.global.b16 [$0+128], x;\0A@h st.global.b16 [$0+130], y;
// CHECK: llvm.cond_br %{{.*}}, ^[[ROW]](
// Columns that are apart go one by one, each lane has two of them.
// CHECK: llvm.br ^[[ROW:.*]](%{{.*}} : i32)
// CHECK: ld.shared.b32 w, [$0+8192];\0Aadd.s64 t, $1, $2;
// CHECK-SAME: @both st.global.b32 [$1], w;\0A@both bra DONE;\0A@l st.global.b16 [$1], x;\0A@h st.global.b16 [t], y;
// CHECK: llvm.cond_br %{{.*}}, ^[[ROW]](
// CHECK: fence.proxy.async

#row = affine_map<(r, c)[b, i] -> (b, i + r, c)>
#roles = #hopper.roles<consumers = 2, producer_registers = 24, consumer_registers = 240, persistent = true>

hopper.kernel @k(%q: !tile.view<?x?x64xbf16> {tile.name = "query"},
    %k: !tile.view<?x?x64xbf16>, %o: !tile.view<?x?x64xbf16>, %s: f32)
    roles(#roles) {
  %qm = hopper.tensor_map %q order [2, 1, 0] box [64, 128, 1] : !tile.view<?x?x64xbf16>
  %km = hopper.tensor_map %k order [2, 1, 0] box [64, 64, 1] : !tile.view<?x?x64xbf16>
  %qr = hopper.ring "query" : !hopper.ring<1x128x64xbf16>
  %kr = hopper.ring "key" : !hopper.ring<2x64x64xbf16>
  hopper.producer {
    %zero = arith.constant 0 : index
    %b = hopper.block
    %c = hopper.start
    hopper.acquire %qr[%c] : !hopper.ring<1x128x64xbf16>
    hopper.copy %qm[%zero, %zero, %b] to %qr[%c] : !hopper.ring<1x128x64xbf16>
    hopper.acquire %kr[%c] : !hopper.ring<2x64x64xbf16>
    hopper.copy %km[%zero, %zero, %b] to %kr[%c] : !hopper.ring<2x64x64xbf16>
    %n = hopper.next %c in %kr : !hopper.ring<2x64x64xbf16>
  }
  hopper.consumers (%wg) {
    %b = hopper.block
    %g = hopper.grid
    %c = hopper.start
    %five = arith.constant 5 : index
    hopper.turn_init %wg
    %qs = hopper.await %qr[%c] : !hopper.ring<1x128x64xbf16> -> !hopper.smem<128x64xbf16>
    %ks = hopper.await %kr[%c] : !hopper.ring<2x64x64xbf16> -> !hopper.smem<64x64xbf16>
    hopper.zero_rows %ks from %five : !hopper.smem<64x64xbf16>
    %a = hopper.rows %qs[%wg] : !hopper.smem<128x64xbf16> -> !hopper.smem<64x64xbf16>
    hopper.turn_wait %wg
    %p = hopper.wgmma %a, %ks transpose_b : !hopper.smem<64x64xbf16>, !hopper.smem<64x64xbf16> -> !hopper.pending<64x64xf32>
    hopper.commit
    hopper.turn_pass %wg
    %x = hopper.wait %p : !hopper.pending<64x64xf32> -> !hopper.frag<64x64xf32, acc>
    %m = hopper.reduce max %x : !hopper.frag<64x64xf32, acc> -> !hopper.frag<64x1xf32, row>
    %y = hopper.map(%x, %m : !hopper.frag<64x64xf32, acc>, !hopper.frag<64x1xf32, row>) {
    ^bb0(%e: f32, %f: f32, %r: i32, %col: i32):
      %d = arith.subf %e, %f : f32
      hopper.yield %d : f32
    } : !hopper.frag<64x64xf32, acc>
    %z = hopper.speculate(%y : !hopper.frag<64x64xf32, acc>) slice 16 limits [0.015625, 0.0625] common {
    ^bb0(%e: f32, %r: i32, %col: i32):
      hopper.yield %e, %e : f32, f32
    } fast {
    ^bb0(%e: f32, %r: i32, %col: i32):
      hopper.yield %e : f32
    }, {
    ^bb0(%e: f32, %r: i32, %col: i32):
      %t = arith.addf %e, %e : f32
      hopper.yield %t : f32
    } exact {
    ^bb0(%e: f32, %r: i32, %col: i32):
      %n = arith.negf %e : f32
      hopper.yield %n : f32
    } : !hopper.frag<64x64xf32, acc>
    %w = hopper.mask %z fill 0.0 {
    ^bb0(%r: i32, %col: i32):
      %keep = arith.cmpi slt, %col, %r : i32
      hopper.yield %keep : i1
    } : !hopper.frag<64x64xf32, acc>
    hopper.pin %w : !hopper.frag<64x64xf32, acc>
    %pa = hopper.convert %w : !hopper.frag<64x64xf32, acc> -> !hopper.frag<64x64xbf16, a>
    %acc = hopper.splat %s : f32 -> !hopper.frag<64x64xf32, acc>
    %scaled = hopper.map(%acc, %m : !hopper.frag<64x64xf32, acc>, !hopper.frag<64x1xf32, row>) {
    ^bb0(%e: f32, %f: f32, %r: i32, %col: i32):
      %d = arith.mulf %e, %f : f32
      hopper.yield %d : f32
    } : !hopper.frag<64x64xf32, acc>
    %po = hopper.wgmma %pa, %ks acc %scaled : !hopper.frag<64x64xf32, acc> : !hopper.frag<64x64xbf16, a>, !hopper.smem<64x64xbf16> -> !hopper.pending<64x64xf32>
    hopper.commit
    %ov = hopper.wait %po : !hopper.pending<64x64xf32> -> !hopper.frag<64x64xf32, acc>
    hopper.release %kr[%c] : !hopper.ring<2x64x64xbf16>
    %bias = hopper.load %k[%b, %g] by #row rows %five : !tile.view<?x?x64xbf16> -> !hopper.frag<64x64xbf16, acc>
    hopper.store %bias, %o[%b, %g] by #row : !hopper.frag<64x64xbf16, acc>, !tile.view<?x?x64xbf16>
    hopper.store %bias, %o[%b, %g] by #row through %a : !hopper.smem<64x64xbf16> : !hopper.frag<64x64xbf16, acc>, !tile.view<?x?x64xbf16>
  }
}

hopper.kernel @odd_rows(%q: !tile.view<?x?x75xbf16>, %o: !tile.view<?x?x75xbf16>,
    %s: f32) roles(#hopper.roles<consumers = 1, producer_registers = 56, consumer_registers = 240, persistent = false>) {
  %qr = hopper.ring "query" : !hopper.ring<1x64x75xbf16>
  hopper.producer cooperative {
    %b = hopper.block
    %c = hopper.start
    hopper.acquire %qr[%c] : !hopper.ring<1x64x75xbf16>
    hopper.copy_elements %q[%b, %b] by #row to %qr[%c] : !tile.view<?x?x75xbf16>, !hopper.ring<1x64x75xbf16>
  }
  hopper.consumers (%wg) {
    %b = hopper.block
    %c = hopper.start
    %qs = hopper.await %qr[%c] : !hopper.ring<1x64x75xbf16> -> !hopper.smem<64x75xbf16>
    %rows = hopper.rows %qs[%wg] : !hopper.smem<64x75xbf16> -> !hopper.smem<64x75xbf16>
    %x = hopper.splat %s : f32 -> !hopper.frag<64x75xf32, acc>
    %y = hopper.convert %x : !hopper.frag<64x75xf32, acc> -> !hopper.frag<64x75xbf16, acc>
    hopper.store %y, %o[%b, %b] by #row through %rows : !hopper.smem<64x75xbf16> : !hopper.frag<64x75xbf16, acc>, !tile.view<?x?x75xbf16>
  }
}
