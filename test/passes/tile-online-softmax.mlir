// RUN: attnc-opt %s --tile-online-softmax | FileCheck %s

!s = !tile.tile<4x8xf32>
!r = !tile.tile<4x1xf32>
!v = !tile.view<?x8xf32>
!w = !tile.view<?x1xf32>

// CHECK-LABEL: tile.kernel @step
// CHECK: %[[X:.*]] = tile.load
// CHECK: %[[M:.*]] = tile.load
// CHECK: %[[L:.*]] = tile.load
// CHECK: %[[BLOCK:.*]] = tile.reduce max %[[X]]
// CHECK: %[[MAX:.*]] = tile.map(%[[M]], %[[BLOCK]] :
// CHECK:   arith.maximumf
// No key yet: the shift is 0, not -inf.
// CHECK: %[[SHIFT:.*]] = tile.map(%[[MAX]] :
// CHECK:   %[[T:.*]] = arith.mulf %{{.*}}, %{{.*}} : f32
// CHECK:   %[[EMPTY:.*]] = arith.cmpf oeq, %{{.*}}, %{{.*}} : f32
// CHECK:   arith.select %[[EMPTY]], %{{.*}}, %[[T]]
// A product, a difference, an exp2. Rounded like the shift, the product of the
// maximum leaves 0.
// CHECK: %[[P:.*]] = tile.map(%[[X]], %[[SHIFT]] :
// CHECK:   %[[Y:.*]] = arith.mulf %{{.*}}, %{{.*}} : f32
// CHECK:   %[[A:.*]] = arith.subf %[[Y]], %{{.*}} : f32
// CHECK:   math.exp2 %[[A]] fastmath<afn>
// CHECK: %[[BEFORE:.*]] = tile.map(%[[M]] :
// CHECK: %[[ALPHA:.*]] = tile.map(%[[M]], %[[MAX]], %[[BEFORE]], %[[SHIFT]] :
// CHECK:   %[[D:.*]] = arith.subf %{{.*}} : f32
// CHECK:   %[[E:.*]] = math.exp2 %[[D]] fastmath<afn>
// CHECK:   %[[STAYS:.*]] = arith.cmpf oeq
// CHECK:   arith.select %[[STAYS]], %{{.*}}, %[[E]]
// CHECK: %[[SUM:.*]] = tile.reduce add %[[P]]
// CHECK: %[[NEW:.*]] = tile.map(%[[L]], %[[ALPHA]], %[[SUM]] :
// CHECK: tile.store %[[P]]
// CHECK: tile.store %[[ALPHA]]
// CHECK: tile.store %[[MAX]]
// CHECK: tile.store %[[NEW]]
// CHECK-NOT: tile.softmax_step
tile.kernel @step(%x: !v, %m: !w, %l: !w, %a: !w) {
  %one = arith.constant 1 : index
  tile.items (%b) in (%one) {
    %xt = tile.load %x[%b] by affine_map<(r, c)[b] -> (b + r, c)> : !v -> !s
    %mt = tile.load %m[%b] by affine_map<(r, c)[b] -> (b + r, c)> : !w -> !r
    %lt = tile.load %l[%b] by affine_map<(r, c)[b] -> (b + r, c)> : !w -> !r
    %p, %alpha, %m2, %l2 = tile.softmax_step %xt, %mt, %lt : !s, !r
    tile.store %p, %x[%b] by affine_map<(r, c)[b] -> (b + r, c)> : !s, !v
    tile.store %alpha, %a[%b] by affine_map<(r, c)[b] -> (b + r, c)> : !r, !w
    tile.store %m2, %m[%b] by affine_map<(r, c)[b] -> (b + r, c)> : !r, !w
    tile.store %l2, %l[%b] by affine_map<(r, c)[b] -> (b + r, c)> : !r, !w
  }
}

// A constant factor > 0 of masked logits: maxima are of what it multiplies, the
// exponent takes it along.
// CHECK-LABEL: tile.kernel @scaled
// CHECK: %[[X:.*]] = tile.load
// CHECK-NOT: tile.map
// CHECK: %[[MASKED:.*]] = tile.mask %[[X]] fill 0xFF800000
// CHECK: tile.reduce max %[[MASKED]]
// CHECK: tile.map(
// CHECK:   ^bb0(%[[OLD:.*]]: f32, %[[TOP:.*]]: f32,
// CHECK:   %[[F:.*]] = arith.constant 5.000000e-01 : f32
// CHECK:   %[[T:.*]] = arith.mulf %[[TOP]], %[[F]]
// CHECK:   arith.maximumf %[[OLD]], %[[T]]
// CHECK: tile.map(%[[MASKED]],
// CHECK:   arith.constant 0.72134751 : f32

// Not a factor below 0, which turns the order round.
// CHECK-LABEL: tile.kernel @negative
// CHECK: %[[X:.*]] = tile.load
// CHECK: %[[Y:.*]] = tile.map(%[[X]]
// CHECK: tile.reduce max %[[Y]]
tile.kernel @scaled(%x: !v, %m: !w) {
  %one = arith.constant 1 : index
  %half = arith.constant 0.5 : f32
  tile.items (%b) in (%one) {
    %xt = tile.load %x[%b] by affine_map<(r, c)[b] -> (b + r, c)> : !v -> !s
    %mt = tile.load %m[%b] by affine_map<(r, c)[b] -> (b + r, c)> : !w -> !r
    %y = tile.map(%xt : !s) {
    ^bb0(%e: f32, %r: i32, %c: i32):
      %z = arith.mulf %e, %half : f32
      tile.yield %z : f32
    } : !s
    %k = tile.mask %y fill 0xFF800000 {
    ^bb0(%r: i32, %c: i32):
      %in = arith.cmpi sle, %c, %r : i32
      tile.yield %in : i1
    } : !s
    %p, %alpha, %m2, %l2 = tile.softmax_step %k, %mt, %mt : !s, !r
    tile.store %p, %x[%b] by affine_map<(r, c)[b] -> (b + r, c)> : !s, !v
  }
}

tile.kernel @negative(%x: !v, %m: !w) {
  %one = arith.constant 1 : index
  %minus = arith.constant -0.5 : f32
  tile.items (%b) in (%one) {
    %xt = tile.load %x[%b] by affine_map<(r, c)[b] -> (b + r, c)> : !v -> !s
    %mt = tile.load %m[%b] by affine_map<(r, c)[b] -> (b + r, c)> : !w -> !r
    %y = tile.map(%xt : !s) {
    ^bb0(%e: f32, %r: i32, %c: i32):
      %z = arith.mulf %e, %minus : f32
      tile.yield %z : f32
    } : !s
    %p, %alpha, %m2, %l2 = tile.softmax_step %y, %mt, %mt : !s, !r
    tile.store %p, %x[%b] by affine_map<(r, c)[b] -> (b + r, c)> : !s, !v
  }
}
