// RUN: attnc-opt %s | attnc-opt | FileCheck %s

#row = affine_map<(r, c)[b, h, i] -> (b, h, i + r, c)>

// CHECK-LABEL: tile.program @sigmoid(
// CHECK-SAME: tile.dims = [0, 2, 1, 3]
tile.program @sigmoid(
    %q: !tile.view<?x?x?x64xbf16> {tile.name = "query", tile.dims = [0, 2, 1, 3]},
    %k: !tile.view<?x?x?x64xbf16> {tile.name = "key", tile.dims = [0, 2, 1, 3]},
    %v: !tile.view<?x?x?x64xbf16> {tile.name = "value", tile.dims = [0, 2, 1, 3]},
    %o: !tile.view<?x?x?x64xbf16> {tile.name = "output", tile.dims = [0, 2, 1, 3], tile.result},
    %scale: f32 {tile.name = "scale"}) {
  %b = tile.dim %q, 0 : !tile.view<?x?x?x64xbf16>
  %bk = tile.dim %k, 0 : !tile.view<?x?x?x64xbf16>
  %same = arith.cmpi eq, %b, %bk : index
  // CHECK: tile.check %{{.*}}, "query has {0} sequences but key {1}"(%{{.*}}, %{{.*}})
  tile.check %same, "query has {0} sequences but key {1}"(%b, %bk)
  // CHECK: tile.workspace(%{{.*}}) : <?x16xf32>
  %w = tile.workspace(%b) : !tile.view<?x16xf32>
  // CHECK: tile.launch @kernel(
  tile.launch @kernel(%q, %k, %v, %o, %scale) : !tile.view<?x?x?x64xbf16>, !tile.view<?x?x?x64xbf16>, !tile.view<?x?x?x64xbf16>, !tile.view<?x?x?x64xbf16>, f32
}

// CHECK-LABEL: tile.kernel @kernel(
// CHECK-SAME: schedule(#tile.schedule<block_m = 128, block_n = 64, order = overlap>)
tile.kernel @kernel(%q: !tile.view<?x?x?x64xbf16>, %k: !tile.view<?x?x?x64xbf16>,
    %v: !tile.view<?x?x?x64xbf16>, %o: !tile.view<?x?x?x64xbf16>, %scale: f32)
    schedule(#tile.schedule<block_m = 128, block_n = 64, order = overlap>) {
  %bm = arith.constant 128 : index
  %zero = arith.constant 0 : index
  %f0 = arith.constant 0.0 : f32
  %nb = tile.dim %q, 0 : !tile.view<?x?x?x64xbf16>
  %nh = tile.dim %q, 1 : !tile.view<?x?x?x64xbf16>
  %sq = tile.dim %q, 2 : !tile.view<?x?x?x64xbf16>
  %sk = tile.dim %k, 2 : !tile.view<?x?x?x64xbf16>
  %nm = arith.ceildivui %sq, %bm : index
  // CHECK: tile.items (%{{.*}}, %{{.*}}, %{{.*}}) in (
  tile.items (%b, %h, %m) in (%nb, %nh, %nm) {
    %i0 = arith.muli %m, %bm : index
    %qt = tile.load %q[%b, %h, %i0] by #row : !tile.view<?x?x?x64xbf16> -> !tile.tile<128x64xbf16>
    %acc0 = tile.splat %f0 : f32 -> !tile.tile<128x64xf32>
    // CHECK: tile.for_keys %{{.*}} in (%{{.*}}) step 64 iter_args(
    %acc = tile.for_keys %j in (%zero, %zero, %sk, %sk) step 64
        iter_args(%a = %acc0) -> (!tile.tile<128x64xf32>) {
      %left = arith.subi %sk, %j : index
      %kt = tile.load %k[%b, %h, %j] by #row rows %left : !tile.view<?x?x?x64xbf16> -> !tile.tile<64x64xbf16>
      // CHECK: tile.dot %{{.*}}, %{{.*}} transpose_b :
      %s = tile.dot %qt, %kt transpose_b : !tile.tile<128x64xbf16>, !tile.tile<64x64xbf16> -> !tile.tile<128x64xf32>
      // CHECK: tile.map(%{{.*}} : !tile.tile<128x64xf32>) {
      %p = tile.map(%s : !tile.tile<128x64xf32>) {
      ^bb0(%x: f32, %r: i32, %c: i32):
        %y = arith.mulf %x, %scale : f32
        %z = attn.logistic %y : f32
        tile.yield %z : f32
      } : !tile.tile<128x64xf32>
      %li = arith.index_cast %left : index to i32
      %pm = tile.mask %p fill 0.0 {
      ^bb0(%r: i32, %c: i32):
        %keep = arith.cmpi slt, %c, %li : i32
        tile.yield %keep : i1
      } : !tile.tile<128x64xf32>
      %pc = tile.cast %pm : !tile.tile<128x64xf32> -> !tile.tile<128x64xbf16>
      %vt = tile.load %v[%b, %h, %j] by #row rows %left : !tile.view<?x?x?x64xbf16> -> !tile.tile<64x64xbf16>
      %next = tile.dot %pc, %vt acc %a : !tile.tile<128x64xf32> : !tile.tile<128x64xbf16>, !tile.tile<64x64xbf16> -> !tile.tile<128x64xf32>
      tile.yield %next : !tile.tile<128x64xf32>
    // CHECK: } rows {
    // CHECK-NEXT: ^bb0(%[[FIRST:.*]]: index, %{{.*}}: index):
    // CHECK: tile.yield %{{.*}}, %{{.*}}, %{{.*}}, %[[FIRST]] : index, index, index, index
    } rows {
    ^bb0(%first: index, %count: index):
      tile.yield %zero, %zero, %sk, %first : index, index, index, index
    }
    %out = tile.cast %acc : !tile.tile<128x64xf32> -> !tile.tile<128x64xbf16>
    // CHECK: tile.store %{{.*}}, %{{.*}}[%{{.*}}] by
    tile.store %out, %o[%b, %h, %i0] by #row : !tile.tile<128x64xbf16>, !tile.view<?x?x?x64xbf16>
  }
}

// CHECK-LABEL: func.func @add
func.func @add(%x: !tile.tile<4x4xf32>, %v: !tile.view<?x?xf32>)
    // CHECK: #tile.schedule<{{.*}}order = deferred{{.*}}one_kernel = true>
    attributes {s = #tile.schedule<block_m = 64, block_n = 64, order = deferred, one_kernel = true>} {
  // CHECK: tile.store add %{{.*}}, %{{.*}}[] by
  tile.store add %x, %v[] by affine_map<(r, c) -> (r, c)> : !tile.tile<4x4xf32>, !tile.view<?x?xf32>
  return
}

// Limits are read again as the same floats, whatever their digits.
// CHECK-LABEL: func.func @limits(
// CHECK: limits [0.00999999977, 1.562500e-02, 0x4B7FFFFF, 1.07374182E+9, 0x7F800000]
func.func @limits(%a: !tile.tile<8x16xf32>) -> !tile.tile<8x16xf32> {
  %c = tile.speculate(%a : !tile.tile<8x16xf32>) slice 8
      limits [0.01, 0.015625, 16777215.0, 1073741824.0, 0x7F800000] common {
  ^bb0(%x: f32, %r: i32, %k: i32):
    tile.yield %x, %x : f32, f32
  } fast {
  ^bb0(%x: f32, %r: i32, %k: i32):
    tile.yield %x : f32
  }, {
  ^bb0(%x: f32, %r: i32, %k: i32):
    tile.yield %x : f32
  }, {
  ^bb0(%x: f32, %r: i32, %k: i32):
    tile.yield %x : f32
  }, {
  ^bb0(%x: f32, %r: i32, %k: i32):
    tile.yield %x : f32
  }, {
  ^bb0(%x: f32, %r: i32, %k: i32):
    tile.yield %x : f32
  } exact {
  ^bb0(%x: f32, %r: i32, %k: i32):
    tile.yield %x : f32
  } : !tile.tile<8x16xf32>
  return %c : !tile.tile<8x16xf32>
}
