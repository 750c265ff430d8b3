// RUN: attnc-opt %s --tile-to-cpu="lanes=8 registers=16" | FileCheck %s

#row = affine_map<(r, c)[i] -> (i + r, c)>
!view = !tile.view<?x16xf32>

// CHECK-LABEL: func.func @product(
// CHECK-SAME: %[[ARGS:[a-z0-9]+]]: !llvm.ptr, %[[ITEM:[a-z0-9]+]]: i64, %[[SCRATCH:[a-z0-9]+]]: !llvm.ptr)
// CHECK-SAME: attnc.scratch =
tile.kernel @product(%a: !view, %b: !view, %o: !view) {
  %block = arith.constant 32 : index
  %zero = arith.constant 0 : index
  %f0 = arith.constant 0.0 : f32
  %rows = tile.dim %a, 0 : !view
  %keys = tile.dim %b, 0 : !view
  %m = arith.ceildivui %rows, %block : index
  tile.items (%x) in (%m) {
    %i = arith.muli %x, %block : index
    // The left operand is loaded row by row, then transposed to panels.
    // CHECK: call @attnc_read_row_f32
    // CHECK: vector.shuffle
    %at = tile.load %a[%i] by #row : !view -> !tile.tile<32x16xf32>
    %init = tile.splat %f0 : f32 -> !tile.tile<32x16xf32>
    // CHECK: scf.for
    %sum = tile.for_keys %j in (%zero, %zero, %keys, %keys) step 16
        iter_args(%acc = %init) -> (!tile.tile<32x16xf32>) {
      // The right operand stays as it was loaded.
      // CHECK: call @attnc_read_row_f32
      // CHECK-NOT: vector.shuffle
      %bt = tile.load %b[%j] by #row : !view -> !tile.tile<16x16xf32>
      // CHECK: vector.broadcast %{{.*}} : f32 to vector<8xf32>
      // CHECK: llvm.intr.fmuladd
      %s = tile.dot %at, %bt transpose_b : !tile.tile<32x16xf32>, !tile.tile<16x16xf32> -> !tile.tile<32x16xf32>
      // A mask is skipped in full blocks.
      // CHECK: scf.if
      // CHECK: arith.select
      %p = tile.mask %s fill 0.0 {
      ^bb0(%r: i32, %c: i32):
        %keep = arith.cmpi sle, %c, %r : i32
        tile.yield %keep : i1
      } : !tile.tile<32x16xf32>
      // CHECK: llvm.intr.fmuladd
      %next = tile.dot %p, %bt acc %acc : !tile.tile<32x16xf32> : !tile.tile<32x16xf32>, !tile.tile<16x16xf32> -> !tile.tile<32x16xf32>
      tile.yield %next : !tile.tile<32x16xf32>
    }
    // CHECK: vector.shuffle
    // CHECK: call @attnc_write_row_f32
    tile.store %sum, %o[%i] by #row : !tile.tile<32x16xf32>, !view
  }
}

// CHECK: func.func private @attnc_read_row_f32(
// CHECK-SAME: passthrough = ["noinline"]
