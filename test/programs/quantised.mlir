// Quantised operands: i8 keys and f8E4M3FN values, each with a factor for
// every (head, key) that turns stored numbers into true ones. The factor of a
// key multiplies the scores, that of a value the weights, so neither product
// needs a widened copy of its operand in memory.
//
// RUN: attnc-opt %s | attnc-opt | FileCheck %s
// RUN: attnc-opt %s --tile-plan-launches --tile-to-cpu | FileCheck %s --check-prefix=CPU

// CHECK-LABEL: tile.kernel @quantised_kernel(
// CHECK: tile.cast %{{.*}} : <8x24xi8> -> <8x24xf32>
// CPU: call @attnc_read_row_i8
// CPU: call @attnc_read_row_f8E4M3FN

#row = affine_map<(r, c)[h, i] -> (h, i + r, c)>
#factor = affine_map<(r, c)[h, j] -> (h, j + c)>
!query = !tile.view<?x?x24xf32>
!key = !tile.view<?x?x24xi8>
!value = !tile.view<?x?x24xf8E4M3FN>
!factors = !tile.view<?x?xf32>

tile.program @quantised(
    %q: !query {tile.name = "query"}, %k: !key {tile.name = "key"},
    %v: !value {tile.name = "value"},
    %fk: !factors {tile.name = "key_factor"},
    %fv: !factors {tile.name = "value_factor"},
    %o: !query {tile.name = "output", tile.result}) {
  tile.launch @quantised_kernel(%q, %k, %v, %fk, %fv, %o)
      : !query, !key, !value, !factors, !factors, !query
}

tile.kernel @quantised_kernel(%q: !query, %k: !key, %v: !value,
                              %fk: !factors, %fv: !factors, %o: !query) {
  %zero = arith.constant 0 : index
  %bm = arith.constant 32 : index
  %f0 = arith.constant 0.0 : f32
  %nh = tile.dim %q, 0 : !query
  %sq = tile.dim %q, 1 : !query
  %sk = tile.dim %k, 1 : !key
  %nm = arith.ceildivui %sq, %bm : index
  tile.items (%h, %m) in (%nh, %nm) {
    %i0 = arith.muli %m, %bm : index
    %qt = tile.load %q[%h, %i0] by #row : !query -> !tile.tile<32x24xf32>
    %acc0 = tile.splat %f0 : f32 -> !tile.tile<32x24xf32>
    %acc = tile.for_keys %j in (%zero, %zero, %sk, %sk) step 8
        iter_args(%a = %acc0) -> (!tile.tile<32x24xf32>) {
      %left = arith.subi %sk, %j : index
      %ki = tile.load %k[%h, %j] by #row rows %left : !key -> !tile.tile<8x24xi8>
      %kt = tile.cast %ki : !tile.tile<8x24xi8> -> !tile.tile<8x24xf32>
      %s = tile.dot %qt, %kt transpose_b
          : !tile.tile<32x24xf32>, !tile.tile<8x24xf32> -> !tile.tile<32x8xf32>
      %fkt = tile.load %fk[%h, %j] by #factor : !factors -> !tile.tile<1x8xf32>
      %fvt = tile.load %fv[%h, %j] by #factor : !factors -> !tile.tile<1x8xf32>
      // tanh attention; keys beyond the length have a factor of 0.
      %p = tile.map(%s, %fkt, %fvt
          : !tile.tile<32x8xf32>, !tile.tile<1x8xf32>, !tile.tile<1x8xf32>) {
      ^bb0(%x: f32, %y: f32, %z: f32, %r: i32, %c: i32):
        %t = arith.mulf %x, %y : f32
        %u = math.tanh %t : f32
        %w = arith.mulf %u, %z : f32
        tile.yield %w : f32
      } : !tile.tile<32x8xf32>
      %vq = tile.load %v[%h, %j] by #row rows %left
          : !value -> !tile.tile<8x24xf8E4M3FN>
      %vt = tile.cast %vq : !tile.tile<8x24xf8E4M3FN> -> !tile.tile<8x24xf32>
      %n = tile.dot %p, %vt acc %a : !tile.tile<32x24xf32>
          : !tile.tile<32x8xf32>, !tile.tile<8x24xf32> -> !tile.tile<32x24xf32>
      tile.yield %n : !tile.tile<32x24xf32>
    }
    tile.store %acc, %o[%h, %i0] by #row : !tile.tile<32x24xf32>, !query
  }
}
