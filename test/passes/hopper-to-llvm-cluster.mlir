// RUN: attnc-opt %s -hopper-to-llvm | FileCheck %s

// Two thread blocks with two consumers each.
// CHECK-LABEL: llvm.func @kernel(
// CHECK-SAME: attnc.kernel = {cluster = 2 : i64
// CHECK-SAME: nvvm.cluster_dim = array<i32: 2>

// Own warps release queries, those of both blocks keys.
// CHECK: %[[EIGHT:.*]] = llvm.mlir.constant(8 : i32)
// CHECK-NEXT: llvm.nvvm.mbarrier.init.shared"(%{{.*}}, %[[EIGHT]])
// CHECK: %[[SIXTEEN:.*]] = llvm.mlir.constant(16 : i32)
// CHECK-NEXT: llvm.nvvm.mbarrier.init.shared"(%{{.*}}, %[[SIXTEEN]])
// CHECK: fence.mbarrier_init.release.cluster
// CHECK: barrier.cluster.arrive.relaxed.aligned;
// CHECK-SAME: barrier.cluster.wait.acquire.aligned;
// CHECK-NOT: barrier.cta.sync
// CHECK: mov.u32 $0, %cluster_ctarank;

// The whole slot is expected; a part of 32 rows, 4096 bytes, goes to the same
// place in both.
// CHECK: %[[BYTES:.*]] = llvm.mlir.constant(8192 : i32)
// CHECK-NEXT: llvm.nvvm.mbarrier.arrive.expect.tx.scope.cta.space.cta"(%{{.*}}, %[[BYTES]])
// CHECK: llvm.mlir.constant(4096 : i32)
// CHECK: %[[MASK:.*]] = llvm.mlir.constant(3 : i16)
// CHECK: %[[YES:.*]] = llvm.mlir.constant(true)
// CHECK: llvm.nvvm.cp.async.bulk.tensor.g2s.tile.2d{{.*}} %[[MASK]], %{{.*}}, %[[YES]],

// Lane r has the address of block r, and tells it. A block's own addresses have
// its rank above what a descriptor of a product holds.
// CHECK: mapa.shared::cluster.u32 $0, $1, $2;
// CHECK: %[[MASK:.*]] = llvm.mlir.constant(16383 : i32)
// CHECK-NEXT: llvm.and %{{.*}}, %[[MASK]]
// CHECK: wgmma.mma_async
// CHECK: setp.lt.u32 p, $1, 2;
// CHECK-SAME: @p mbarrier.arrive.shared::cluster.b64 _, [$0];
// A ring of its own as ever.
// CHECK: mbarrier.arrive.shared::cta.b64

hopper.kernel @kernel(%k: !tile.view<?x64xbf16>)
    roles(#hopper.roles<consumers = 2, producer_registers = 32, consumer_registers = 232, cluster = 2>) {
  %qm = hopper.tensor_map %k order [1, 0] box [64, 64] : !tile.view<?x64xbf16>
  %qr = hopper.ring "query" : !hopper.ring<1x64x64xbf16>
  %km = hopper.tensor_map %k order [1, 0] box [64, 32] : !tile.view<?x64xbf16>
  %kr = hopper.ring "key" multicast : !hopper.ring<2x64x64xbf16>
  hopper.producer {
    %zero = arith.constant 0 : index
    %c = hopper.start
    %r = hopper.rank
    hopper.acquire %kr[%c] : !hopper.ring<2x64x64xbf16>
    hopper.copy %km[%zero, %zero] to %kr[%c] part %r : !hopper.ring<2x64x64xbf16>
    hopper.acquire %qr[%c] : !hopper.ring<1x64x64xbf16>
    hopper.copy %qm[%zero, %zero] to %qr[%c] : !hopper.ring<1x64x64xbf16>
  }
  hopper.consumers (%wg) {
    %c = hopper.start
    %s = hopper.await %kr[%c] : !hopper.ring<2x64x64xbf16> -> !hopper.smem<64x64xbf16>
    %p = hopper.wgmma %s, %s transpose_b : !hopper.smem<64x64xbf16>, !hopper.smem<64x64xbf16> -> !hopper.pending<64x64xf32>
    hopper.commit
    %x = hopper.wait %p : !hopper.pending<64x64xf32> -> !hopper.frag<64x64xf32, acc>
    hopper.release %kr[%c] : !hopper.ring<2x64x64xbf16>
    %q = hopper.await %qr[%c] : !hopper.ring<1x64x64xbf16> -> !hopper.smem<64x64xbf16>
    hopper.release %qr[%c] : !hopper.ring<1x64x64xbf16>
  }
}
