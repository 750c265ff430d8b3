// RUN: attnc-opt %s -hopper-to-llvm -attnc-verify-codegen | FileCheck %s

// What a block reads in each column, copied by each warp for itself: an element
// a lane, any strides, nothing where there is none. Reads are neighbours.

// CHECK-LABEL: llvm.func @columns(
// CHECK: selp.b32 s, 4, 0, $2;
// CHECK-SAME: cp.async.ca.shared.global [$0+0], [$1], 4, s;
// CHECK: cp.async.ca.shared.global [$0+128], [$1], 4, s;
// CHECK-NOT: cp.async.ca.shared.global
// CHECK: cp.async.wait_all;
// CHECK-SAME: bar.warp.sync 0xffffffff;
// CHECK: ld.shared.v2.b32 {$0,$1}, [$12+0];
// CHECK-SAME: ld.shared.v2.b32 {$2,$3}, [$12+32];
// CHECK-SAME: ld.shared.v2.b32 {$10,$11}, [$12+160];
// CHECK-SAME: "=f,=f,=f,=f,=f,=f,=f,=f,=f,=f,=f,=f,r,~{memory}"

hopper.kernel @columns(%v: !tile.view<?x?xf32>, %out: !tile.view<?x?xf32>) roles(#hopper.roles<consumers = 2, producer_registers = 24, consumer_registers = 240>) {
  %columns = hopper.scratch "columns" : !hopper.smem<8x64xf32>
  hopper.producer {
  }
  hopper.consumers (%wg) {
    hopper.prefetch %v[%wg, %wg] by affine_map<(r, c)[h, at] -> (h, at + c)> rows %wg to %columns[%wg] : !tile.view<?x?xf32>, !hopper.smem<8x64xf32>
    hopper.prefetched
    %x = hopper.fetch %columns[%wg] : !hopper.smem<8x64xf32> -> !hopper.frag<1x48xf32, col>
    hopper.store %x, %out[%wg, %wg] by affine_map<(r, c)[h, at] -> (h, at + c)> : !hopper.frag<1x48xf32, col>, !tile.view<?x?xf32>
  }
}
