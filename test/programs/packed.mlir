// Packed sequences: queries and keys of all sequences lie behind each other,
// a work list (sequence, first query row) says what each item does.
//
// RUN: attnc-opt %s | attnc-opt | FileCheck %s
// RUN: attnc-opt %s --tile-plan-launches --tile-to-cpu | FileCheck %s --check-prefix=CPU

// CHECK-LABEL: tile.kernel @packed_kernel(
// CHECK: tile.load_scalar %{{.*}}[
// CHECK: tile.store %{{.*}} rows %
// CPU-LABEL: func.func @packed_kernel(

#row = affine_map<(r, c)[h, i] -> (h, i + r, c)>
!tensor = !tile.view<?x?x32xf32>
!list = !tile.view<?x2xi32>
!offsets = !tile.view<?xi32>

tile.program @packed(
    %q: !tensor {tile.name = "query"}, %k: !tensor {tile.name = "key"},
    %v: !tensor {tile.name = "value"},
    %work: !list {tile.name = "work"},
    %starts: !offsets {tile.name = "starts"},
    %o: !tensor {tile.name = "output", tile.result},
    %scale: f32 {tile.name = "scale"}) {
  tile.launch @packed_kernel(%q, %k, %v, %work, %starts, %o, %scale)
      : !tensor, !tensor, !tensor, !list, !offsets, !tensor, f32
}

tile.kernel @packed_kernel(%q: !tensor, %k: !tensor, %v: !tensor, %work: !list,
                           %starts: !offsets, %o: !tensor, %scale: f32) {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %f0 = arith.constant 0.0 : f32
  %nh = tile.dim %q, 0 : !tensor
  %items = tile.dim %work, 0 : !list
  tile.items (%h, %w) in (%nh, %items) {
    %s32 = tile.load_scalar %work[%w, %zero] : !list -> i32
    %i32 = tile.load_scalar %work[%w, %one] : !list -> i32
    %s = arith.index_cast %s32 : i32 to index
    %next = arith.addi %s, %one : index
    %begin32 = tile.load_scalar %starts[%s] : !offsets -> i32
    %end32 = tile.load_scalar %starts[%next] : !offsets -> i32
    %begin = arith.index_cast %begin32 : i32 to index
    %end = arith.index_cast %end32 : i32 to index
    %length = arith.subi %end, %begin : index
    %i = arith.index_cast %i32 : i32 to index
    %row = arith.addi %begin, %i : index
    %rows = arith.subi %length, %i : index
    %qt = tile.load %q[%h, %row] by #row rows %rows
        : !tensor -> !tile.tile<16x32xf32>
    %acc0 = tile.splat %f0 : f32 -> !tile.tile<16x32xf32>
    %acc = tile.for_keys %j in (%zero, %zero, %length, %length) step 8
        iter_args(%a = %acc0) -> (!tile.tile<16x32xf32>) {
      %key = arith.addi %begin, %j : index
      %left = arith.subi %length, %j : index
      %left32 = arith.index_cast %left : index to i32
      %kt = tile.load %k[%h, %key] by #row rows %left
          : !tensor -> !tile.tile<8x32xf32>
      %st = tile.dot %qt, %kt transpose_b
          : !tile.tile<16x32xf32>, !tile.tile<8x32xf32> -> !tile.tile<16x8xf32>
      // ReLU attention.
      %p = tile.map(%st : !tile.tile<16x8xf32>) {
      ^bb0(%x: f32, %r: i32, %c: i32):
        %y = arith.mulf %x, %scale : f32
        %z = arith.maximumf %y, %f0 : f32
        tile.yield %z : f32
      } : !tile.tile<16x8xf32>
      %pm = tile.mask %p fill 0.0 {
      ^bb0(%r: i32, %c: i32):
        %keep = arith.cmpi slt, %c, %left32 : i32
        tile.yield %keep : i1
      } : !tile.tile<16x8xf32>
      %vt = tile.load %v[%h, %key] by #row rows %left
          : !tensor -> !tile.tile<8x32xf32>
      %n = tile.dot %pm, %vt acc %a : !tile.tile<16x32xf32>
          : !tile.tile<16x8xf32>, !tile.tile<8x32xf32>
          -> !tile.tile<16x32xf32>
      tile.yield %n : !tile.tile<16x32xf32>
    }
    tile.store %acc, %o[%h, %row] by #row rows %rows
        : !tile.tile<16x32xf32>, !tensor
  }
}
