// Split keys: each item sums over one range of keys of an online softmax and
// leaves maximum, sum and weighted values (f32) in the workspace; a second
// kernel combines the ranges.
//
// RUN: attnc-opt %s | attnc-opt | FileCheck %s
// RUN: attnc-opt %s --tile-plan-launches --tile-to-cpu | FileCheck %s --check-prefix=CPU

// CHECK-LABEL: tile.program @split(
// CHECK: tile.workspace(
// CHECK: tile.launch @partial(
// CHECK: tile.launch @combine(
// CPU: tile.launch @partial({{.*}}) items %
// CPU: tile.launch @combine({{.*}}) items %

#row = affine_map<(r, c)[b, h, i] -> (b, h, i + r, c)>
#partial = affine_map<(r, c)[s, b, h, i] -> (s, b, h, i + r, c)>
#column = affine_map<(r, c)[s, b, h, i] -> (s, b, h, i + r)>
!tensor = !tile.view<?x?x?x16xf32>
!sums = !tile.view<?x?x?x?x16xf32>
!rows = !tile.view<?x?x?x?xf32>

tile.program @split(
    %q: !tensor {tile.name = "query"}, %k: !tensor {tile.name = "key"},
    %v: !tensor {tile.name = "value"},
    %o: !tensor {tile.name = "output", tile.result},
    %scale: f32 {tile.name = "scale"}, %splits32: i32 {tile.name = "splits"}) {
  %one = arith.constant 1 : index
  %splits = arith.index_cast %splits32 : i32 to index
  %enough = arith.cmpi sge, %splits, %one : index
  tile.check %enough, "expected at least one split, got {0}"(%splits)
  %nb = tile.dim %q, 0 : !tensor
  %nh = tile.dim %q, 1 : !tensor
  %sq = tile.dim %q, 2 : !tensor
  %w = tile.workspace(%splits, %nb, %nh, %sq) : !sums
  %max = tile.workspace(%splits, %nb, %nh, %sq) : !rows
  %sum = tile.workspace(%splits, %nb, %nh, %sq) : !rows
  tile.launch @partial(%q, %k, %v, %w, %max, %sum, %scale)
      : !tensor, !tensor, !tensor, !sums, !rows, !rows, f32
  tile.launch @combine(%w, %max, %sum, %o) : !sums, !rows, !rows, !tensor
}

tile.kernel @partial(%q: !tensor, %k: !tensor, %v: !tensor, %w: !sums,
                     %max: !rows, %sum: !rows, %scale: f32) {
  %zero = arith.constant 0 : index
  %bm = arith.constant 16 : index
  %f0 = arith.constant 0.0 : f32
  %low = arith.constant 0xFF800000 : f32
  %log2e = arith.constant 1.44269504 : f32
  %factor = arith.mulf %scale, %log2e : f32
  %ns = tile.dim %w, 0 : !sums
  %nb = tile.dim %q, 0 : !tensor
  %nh = tile.dim %q, 1 : !tensor
  %sq = tile.dim %q, 2 : !tensor
  %sk = tile.dim %k, 2 : !tensor
  %nm = arith.ceildivui %sq, %bm : index
  %range = arith.ceildivui %sk, %ns : index
  tile.items (%s, %b, %h, %m) in (%ns, %nb, %nh, %nm) {
    %i0 = arith.muli %m, %bm : index
    %lo = arith.muli %s, %range : index
    %hi0 = arith.addi %lo, %range : index
    %hi = arith.minsi %hi0, %sk : index
    %lo32 = arith.index_cast %lo : index to i32
    %hi32 = arith.index_cast %hi : index to i32
    %qt = tile.load %q[%b, %h, %i0] by #row : !tensor -> !tile.tile<16x16xf32>
    %a0 = tile.splat %f0 : f32 -> !tile.tile<16x16xf32>
    %m0 = tile.splat %low : f32 -> !tile.tile<16x1xf32>
    %l0 = tile.splat %f0 : f32 -> !tile.tile<16x1xf32>
    %a, %mx, %l = tile.for_keys %j in (%lo, %lo, %hi, %hi) step 8
        iter_args(%acc = %a0, %mOld = %m0, %lOld = %l0)
        -> (!tile.tile<16x16xf32>, !tile.tile<16x1xf32>, !tile.tile<16x1xf32>) {
      %left = arith.subi %hi, %j : index
      %j32 = arith.index_cast %j : index to i32
      %kt = tile.load %k[%b, %h, %j] by #row rows %left
          : !tensor -> !tile.tile<8x16xf32>
      %st = tile.dot %qt, %kt transpose_b
          : !tile.tile<16x16xf32>, !tile.tile<8x16xf32> -> !tile.tile<16x8xf32>
      %x = tile.map(%st : !tile.tile<16x8xf32>) {
      ^bb0(%y: f32, %r: i32, %c: i32):
        %z = arith.mulf %y, %factor : f32
        tile.yield %z : f32
      } : !tile.tile<16x8xf32>
      %xm = tile.mask %x fill 0xFF800000 {
      ^bb0(%r: i32, %c: i32):
        %key = arith.addi %c, %j32 : i32
        %above = arith.cmpi sge, %key, %lo32 : i32
        %below = arith.cmpi slt, %key, %hi32 : i32
        %keep = arith.andi %above, %below : i1
        tile.yield %keep : i1
      } : !tile.tile<16x8xf32>
      %mBlock = tile.reduce max %xm : !tile.tile<16x8xf32> -> !tile.tile<16x1xf32>
      %mNew = tile.map(%mOld, %mBlock : !tile.tile<16x1xf32>, !tile.tile<16x1xf32>) {
      ^bb0(%y: f32, %z: f32, %r: i32, %c: i32):
        %n = arith.maximumf %y, %z : f32
        tile.yield %n : f32
      } : !tile.tile<16x1xf32>
      %p = tile.map(%xm, %mNew : !tile.tile<16x8xf32>, !tile.tile<16x1xf32>) {
      ^bb0(%y: f32, %n: f32, %r: i32, %c: i32):
        %d = arith.subf %y, %n : f32
        %e = math.exp2 %d : f32
        %none = arith.cmpf oeq, %y, %low : f32
        %f = arith.select %none, %f0, %e : f32
        tile.yield %f : f32
      } : !tile.tile<16x8xf32>
      %alpha = tile.map(%mOld, %mNew : !tile.tile<16x1xf32>, !tile.tile<16x1xf32>) {
      ^bb0(%y: f32, %n: f32, %r: i32, %c: i32):
        %d = arith.subf %y, %n : f32
        %e = math.exp2 %d : f32
        %none = arith.cmpf oeq, %y, %low : f32
        %f = arith.select %none, %f0, %e : f32
        tile.yield %f : f32
      } : !tile.tile<16x1xf32>
      %lBlock = tile.reduce add %p : !tile.tile<16x8xf32> -> !tile.tile<16x1xf32>
      %lNew = tile.map(%lOld, %alpha, %lBlock
          : !tile.tile<16x1xf32>, !tile.tile<16x1xf32>, !tile.tile<16x1xf32>) {
      ^bb0(%y: f32, %z: f32, %u: f32, %r: i32, %c: i32):
        %t = arith.mulf %y, %z : f32
        %n = arith.addf %t, %u : f32
        tile.yield %n : f32
      } : !tile.tile<16x1xf32>
      %scaled = tile.map(%acc, %alpha : !tile.tile<16x16xf32>, !tile.tile<16x1xf32>) {
      ^bb0(%y: f32, %z: f32, %r: i32, %c: i32):
        %t = arith.mulf %y, %z : f32
        tile.yield %t : f32
      } : !tile.tile<16x16xf32>
      %vt = tile.load %v[%b, %h, %j] by #row rows %left
          : !tensor -> !tile.tile<8x16xf32>
      %next = tile.dot %p, %vt acc %scaled : !tile.tile<16x16xf32>
          : !tile.tile<16x8xf32>, !tile.tile<8x16xf32> -> !tile.tile<16x16xf32>
      tile.yield %next, %mNew, %lNew
          : !tile.tile<16x16xf32>, !tile.tile<16x1xf32>, !tile.tile<16x1xf32>
    }
    tile.store %a, %w[%s, %b, %h, %i0] by #partial : !tile.tile<16x16xf32>, !sums
    tile.store %mx, %max[%s, %b, %h, %i0] by #column : !tile.tile<16x1xf32>, !rows
    tile.store %l, %sum[%s, %b, %h, %i0] by #column : !tile.tile<16x1xf32>, !rows
  }
}

tile.kernel @combine(%w: !sums, %max: !rows, %sum: !rows, %o: !tensor) {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %bm = arith.constant 16 : index
  %f0 = arith.constant 0.0 : f32
  %f1 = arith.constant 1.0 : f32
  %low = arith.constant 0xFF800000 : f32
  %ns = tile.dim %w, 0 : !sums
  %nb = tile.dim %o, 0 : !tensor
  %nh = tile.dim %o, 1 : !tensor
  %sq = tile.dim %o, 2 : !tensor
  %nm = arith.ceildivui %sq, %bm : index
  tile.items (%b, %h, %m) in (%nb, %nh, %nm) {
    %i0 = arith.muli %m, %bm : index
    %m0 = tile.splat %low : f32 -> !tile.tile<16x1xf32>
    %mAll = scf.for %s = %zero to %ns step %one iter_args(%mOld = %m0)
        -> (!tile.tile<16x1xf32>) {
      %ms = tile.load %max[%s, %b, %h, %i0] by #column : !rows -> !tile.tile<16x1xf32>
      %mNew = tile.map(%mOld, %ms : !tile.tile<16x1xf32>, !tile.tile<16x1xf32>) {
      ^bb0(%y: f32, %z: f32, %r: i32, %c: i32):
        %n = arith.maximumf %y, %z : f32
        tile.yield %n : f32
      } : !tile.tile<16x1xf32>
      scf.yield %mNew : !tile.tile<16x1xf32>
    }
    %a0 = tile.splat %f0 : f32 -> !tile.tile<16x16xf32>
    %l0 = tile.splat %f0 : f32 -> !tile.tile<16x1xf32>
    %a, %l = scf.for %s = %zero to %ns step %one iter_args(%acc = %a0, %lOld = %l0)
        -> (!tile.tile<16x16xf32>, !tile.tile<16x1xf32>) {
      %ms = tile.load %max[%s, %b, %h, %i0] by #column : !rows -> !tile.tile<16x1xf32>
      %ls = tile.load %sum[%s, %b, %h, %i0] by #column : !rows -> !tile.tile<16x1xf32>
      %ws = tile.load %w[%s, %b, %h, %i0] by #partial : !sums -> !tile.tile<16x16xf32>
      %alpha = tile.map(%ms, %mAll : !tile.tile<16x1xf32>, !tile.tile<16x1xf32>) {
      ^bb0(%y: f32, %n: f32, %r: i32, %c: i32):
        %d = arith.subf %y, %n : f32
        %e = math.exp2 %d : f32
        %none = arith.cmpf oeq, %y, %low : f32
        %f = arith.select %none, %f0, %e : f32
        tile.yield %f : f32
      } : !tile.tile<16x1xf32>
      %lNew = tile.map(%lOld, %ls, %alpha
          : !tile.tile<16x1xf32>, !tile.tile<16x1xf32>, !tile.tile<16x1xf32>) {
      ^bb0(%y: f32, %z: f32, %u: f32, %r: i32, %c: i32):
        %t = arith.mulf %z, %u : f32
        %n = arith.addf %y, %t : f32
        tile.yield %n : f32
      } : !tile.tile<16x1xf32>
      %next = tile.map(%acc, %ws, %alpha
          : !tile.tile<16x16xf32>, !tile.tile<16x16xf32>, !tile.tile<16x1xf32>) {
      ^bb0(%y: f32, %z: f32, %u: f32, %r: i32, %c: i32):
        %t = arith.mulf %z, %u : f32
        %n = arith.addf %y, %t : f32
        tile.yield %n : f32
      } : !tile.tile<16x16xf32>
      scf.yield %next, %lNew : !tile.tile<16x16xf32>, !tile.tile<16x1xf32>
    }
    %out = tile.map(%a, %l : !tile.tile<16x16xf32>, !tile.tile<16x1xf32>) {
    ^bb0(%y: f32, %z: f32, %r: i32, %c: i32):
      %t = arith.divf %y, %z : f32
      %none = arith.cmpf oeq, %z, %f0 : f32
      %n = arith.select %none, %f0, %t : f32
      tile.yield %n : f32
    } : !tile.tile<16x16xf32>
    tile.store %out, %o[%b, %h, %i0] by #row : !tile.tile<16x16xf32>, !tensor
  }
}
