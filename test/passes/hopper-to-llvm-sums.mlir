// RUN: attnc-opt %s -hopper-to-llvm -attnc-verify-codegen | FileCheck %s

// Sums in the order of accumulators: a warp's 16 rows and 32 columns are 2 KB
// in one piece.

#sums = affine_map<(r, c)[at] -> (at + r floordiv 16, c floordiv 8,
    ((r mod 8) * 4 + (c mod 8) floordiv 2) * 4 + ((r mod 16) floordiv 8) * 2
    + c mod 2)>

// Through shared memory, one lane lets the copy engine add them. Before, its
// last piece must have been read; at the end, all must have been added.

// CHECK-LABEL: llvm.func @copied(
// CHECK: cp.async.bulk.wait_group.read 0;
// CHECK-SAME: bar.warp.sync
// CHECK-SAME: st.shared.v4.f32 [$2+0], {$5,$6,$7,$8};
// CHECK-SAME: st.shared.v4.f32 [$2+1536], {$17,$18,$19,$20};
// CHECK-SAME: fence.proxy.async.shared::cta;\0Abar.warp.sync
// CHECK-SAME: cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [$3], [$1], $4;
// CHECK-SAME: cp.async.bulk.commit_group;
// Where the pieces of a warp lie apart, element by element.
// CHECK: red.relaxed.gpu.global.add.f32 [a], $2;
// CHECK: cp.async.bulk.wait_group 0;

hopper.kernel @copied(%v: !tile.view<?x4x128xf32>) roles(#hopper.roles<consumers = 2, producer_registers = 24, consumer_registers = 240>) {
  %sums = hopper.scratch "sums" : !hopper.smem<64x32xf32>
  hopper.producer {
  }
  hopper.consumers (%wg) {
    %one = arith.constant 1.0 : f32
    %x = hopper.splat %one : f32 -> !hopper.frag<64x32xf32, acc>
    hopper.store add %x, %v[%wg] by #sums through %sums : !hopper.smem<64x32xf32> : !hopper.frag<64x32xf32, acc>, !tile.view<?x4x128xf32>
  }
}

// Without, straight from registers.

// CHECK-LABEL: llvm.func @direct(
// CHECK: red.relaxed.gpu.global.add.v4.f32 [$1], {$5,$6,$7,$8};
// CHECK-SAME: red.relaxed.gpu.global.add.v4.f32 [$4], {$17,$18,$19,$20};
// CHECK-NOT: cp.async.bulk

hopper.kernel @direct(%v: !tile.view<?x4x128xf32>) roles(#hopper.roles<consumers = 2, producer_registers = 24, consumer_registers = 240>) {
  hopper.producer {
  }
  hopper.consumers (%wg) {
    %one = arith.constant 1.0 : f32
    %x = hopper.splat %one : f32 -> !hopper.frag<64x32xf32, acc>
    hopper.store add %x, %v[%wg] by #sums : !hopper.frag<64x32xf32, acc>, !tile.view<?x4x128xf32>
  }
}
