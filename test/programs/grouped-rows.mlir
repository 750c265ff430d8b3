// Grouped queries packed into rows: the 4 query heads that share a key head
// and 8 positions make one tile of 32 rows, row r being head r mod 4 at
// position r floordiv 4. The causal mask reads positions.
//
// RUN: attnc-opt %s | attnc-opt | FileCheck %s
// RUN: attnc-opt %s --tile-plan-launches --tile-to-cpu | FileCheck %s --check-prefix=CPU

// CHECK: affine_map<{{.*}} mod 4{{.*}} floordiv 4
// CHECK-LABEL: tile.kernel @grouped_kernel(
// CPU-LABEL: func.func @grouped_kernel(

#query = affine_map<(r, c)[b, h, i] -> (b, h * 4 + r mod 4, i + r floordiv 4, c)>
#row = affine_map<(r, c)[b, h, j] -> (b, h, j + r, c)>
!tensor = !tile.view<?x?x?x40xf32>

tile.program @grouped(
    %q: !tensor {tile.name = "query"}, %k: !tensor {tile.name = "key"},
    %v: !tensor {tile.name = "value"},
    %o: !tensor {tile.name = "output", tile.result},
    %scale: f32 {tile.name = "scale"}) {
  %four = arith.constant 4 : index
  %hq = tile.dim %q, 1 : !tensor
  %hk = tile.dim %k, 1 : !tensor
  %expected = arith.muli %hk, %four : index
  %grouped = arith.cmpi eq, %hq, %expected : index
  tile.check %grouped, "{0} query heads are not four times {1} key heads"(%hq, %hk)
  tile.launch @grouped_kernel(%q, %k, %v, %o, %scale)
      : !tensor, !tensor, !tensor, !tensor, f32
}

tile.kernel @grouped_kernel(%q: !tensor, %k: !tensor, %v: !tensor,
                            %o: !tensor, %scale: f32) {
  %zero = arith.constant 0 : index
  %bm = arith.constant 8 : index
  %four = arith.constant 4 : i32
  %f0 = arith.constant 0.0 : f32
  %f1 = arith.constant 1.0 : f32
  %nb = tile.dim %q, 0 : !tensor
  %nh = tile.dim %k, 1 : !tensor
  %sq = tile.dim %q, 2 : !tensor
  %sk = tile.dim %k, 2 : !tensor
  %nm = arith.ceildivui %sq, %bm : index
  tile.items (%b, %h, %m) in (%nb, %nh, %nm) {
    %i0 = arith.muli %m, %bm : index
    %i32 = arith.index_cast %i0 : index to i32
    %end = arith.addi %i0, %bm : index
    %hi = arith.minsi %end, %sk : index
    %full = arith.minsi %i0, %sk : index
    %qt = tile.load %q[%b, %h, %i0] by #query : !tensor -> !tile.tile<32x40xf32>
    %acc0 = tile.splat %f0 : f32 -> !tile.tile<32x40xf32>
    %acc = tile.for_keys %j in (%zero, %zero, %full, %hi) step 16
        iter_args(%a = %acc0) -> (!tile.tile<32x40xf32>) {
      %left = arith.subi %sk, %j : index
      %j32 = arith.index_cast %j : index to i32
      %kt = tile.load %k[%b, %h, %j] by #row rows %left
          : !tensor -> !tile.tile<16x40xf32>
      %s = tile.dot %qt, %kt transpose_b
          : !tile.tile<32x40xf32>, !tile.tile<16x40xf32> -> !tile.tile<32x16xf32>
      %p = tile.map(%s : !tile.tile<32x16xf32>) {
      ^bb0(%x: f32, %r: i32, %c: i32):
        %y = arith.mulf %x, %scale : f32
        %n = arith.negf %y : f32
        %e = math.exp %n : f32
        %d = arith.addf %e, %f1 : f32
        %z = arith.divf %f1, %d : f32
        tile.yield %z : f32
      } : !tile.tile<32x16xf32>
      %pm = tile.mask %p fill 0.0 {
      ^bb0(%r: i32, %c: i32):
        %position = arith.divsi %r, %four : i32
        %i = arith.addi %i32, %position : i32
        %key = arith.addi %j32, %c : i32
        %keep = arith.cmpi sle, %key, %i : i32
        tile.yield %keep : i1
      } : !tile.tile<32x16xf32>
      %vt = tile.load %v[%b, %h, %j] by #row rows %left
          : !tensor -> !tile.tile<16x40xf32>
      %next = tile.dot %pm, %vt acc %a : !tile.tile<32x40xf32>
          : !tile.tile<32x16xf32>, !tile.tile<16x40xf32> -> !tile.tile<32x40xf32>
      tile.yield %next : !tile.tile<32x40xf32>
    }
    tile.store %acc, %o[%b, %h, %i0] by #query : !tile.tile<32x40xf32>, !tensor
  }
}
