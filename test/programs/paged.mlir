// Paged keys and values: a pool of pages of 16 positions, a block table that
// names the pages of each sequence, lengths by sequence.
//
// RUN: attnc-opt %s | attnc-opt | FileCheck %s
// RUN: attnc-opt %s --tile-plan-launches --tile-to-cpu | FileCheck %s --check-prefix=CPU

// CHECK-LABEL: tile.kernel @paged_kernel(
// CHECK: tile.load {{.*}} pages %{{.*}}[%{{.*}}] size %{{.*}} dims 0, 2
// CPU-LABEL: func.func @paged_kernel(

#query = affine_map<(r, c)[b, h, i] -> (b, h, i + r, c)>
#page = affine_map<(r, c)[h, j] -> (0, h, j + r, c)>
!tensor = !tile.view<?x?x?x32xf32>
!table = !tile.view<?x?xi32>
!lengths = !tile.view<?xi32>

tile.program @paged(
    %q: !tensor {tile.name = "query"}, %k: !tensor {tile.name = "key_pages"},
    %v: !tensor {tile.name = "value_pages"}, %table: !table {tile.name = "table"},
    %lengths: !lengths {tile.name = "lengths"},
    %o: !tensor {tile.name = "output", tile.result},
    %scale: f32 {tile.name = "scale"}) {
  tile.launch @paged_kernel(%q, %k, %v, %table, %lengths, %o, %scale)
      : !tensor, !tensor, !tensor, !table, !lengths, !tensor, f32
}

tile.kernel @paged_kernel(%q: !tensor, %k: !tensor, %v: !tensor,
                          %table: !table, %lengths: !lengths, %o: !tensor,
                          %scale: f32) {
  %zero = arith.constant 0 : index
  %size = arith.constant 16 : index
  %f0 = arith.constant 0.0 : f32
  %nb = tile.dim %q, 0 : !tensor
  %nh = tile.dim %q, 1 : !tensor
  tile.items (%b, %h) in (%nb, %nh) {
    %qt = tile.load %q[%b, %h, %zero] by #query
        : !tensor -> !tile.tile<4x32xf32>
    %length32 = tile.load_scalar %lengths[%b] : !lengths -> i32
    %length = arith.index_cast %length32 : i32 to index
    %acc0 = tile.splat %f0 : f32 -> !tile.tile<4x32xf32>
    %acc = tile.for_keys %j in (%zero, %zero, %length, %length) step 24
        iter_args(%a = %acc0) -> (!tile.tile<4x32xf32>) {
      %left = arith.subi %length, %j : index
      %left32 = arith.index_cast %left : index to i32
      // A block of 24 keys lies in up to three pages.
      %kt = tile.load %k[%h, %j] by #page rows %left
          pages %table[%b] size %size dims 0, 2 : !table
          : !tensor -> !tile.tile<24x32xf32>
      %st = tile.dot %qt, %kt transpose_b
          : !tile.tile<4x32xf32>, !tile.tile<24x32xf32> -> !tile.tile<4x24xf32>
      %p = tile.map(%st : !tile.tile<4x24xf32>) {
      ^bb0(%x: f32, %r: i32, %c: i32):
        %y = arith.mulf %x, %scale : f32
        %z = arith.mulf %y, %y : f32
        tile.yield %z : f32
      } : !tile.tile<4x24xf32>
      %pm = tile.mask %p fill 0.0 {
      ^bb0(%r: i32, %c: i32):
        %keep = arith.cmpi slt, %c, %left32 : i32
        tile.yield %keep : i1
      } : !tile.tile<4x24xf32>
      %vt = tile.load %v[%h, %j] by #page rows %left
          pages %table[%b] size %size dims 0, 2 : !table
          : !tensor -> !tile.tile<24x32xf32>
      %n = tile.dot %pm, %vt acc %a : !tile.tile<4x32xf32>
          : !tile.tile<4x24xf32>, !tile.tile<24x32xf32> -> !tile.tile<4x32xf32>
      tile.yield %n : !tile.tile<4x32xf32>
    }
    tile.store %acc, %o[%b, %h, %zero] by #query : !tile.tile<4x32xf32>, !tensor
  }
}
