// RUN: attnc-opt %s | attnc-opt | FileCheck %s

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>

// CHECK-LABEL: func.func @unfused
func.func @unfused(%q: !t, %k: !t, %v: !t, %bias: f32, %slopes: tensor<?xf32>,
                   %len: tensor<?xi32>, %w: i32) -> !t {
  // CHECK: attn.scores %{{.*}}, %{{.*}} k_len %{{.*}} : tensor<?xi32> :
  %s = attn.scores %q, %k k_len %len : tensor<?xi32> : !t, !t -> !s
  // CHECK: attn.bias
  %x = attn.bias %s, %bias map affine_map<(b, h, i, j) -> ()> : !s, f32
  // CHECK: attn.score_mod
  %y = attn.score_mod %x captures(%slopes : tensor<?xf32>)
      maps [affine_map<(b, h, i, j) -> (h)>] {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32, %c: f32):
    %z = arith.addf %e, %c : f32
    attn.yield %z : f32
  } : !s
  // CHECK: attn.causal_mask
  %m0 = attn.causal_mask
  %m1 = attn.window_mask %w, %w align top_left
  %ym = attn.mask %y by %m0, %m1 : !s
  // CHECK: attn.activation
  %p = attn.activation %ym {
  ^bb0(%e: f32):
    %z = attn.logistic %e : f32
    attn.yield %z : f32
  } : !s
  // CHECK: attn.apply
  %o = attn.apply %p, %v : !s, !t -> !t
  return %o : !t
}

// CHECK-LABEL: func.func @fused
func.func @fused(%q: !t, %k: !t, %v: !t, %bias: f32, %slopes: tensor<?xf32>) -> (!t, tensor<?x?x?xf32>) {
  %m0 = attn.causal_mask
  // CHECK: attn.fused
  %o, %lse = attn.fused %q, %k, %v masks(%m0) normalize softmax layout bshd
    score_captures(%slopes : tensor<?xf32>) maps [affine_map<(b, h, i, j) -> (h)>]
    score_mod {
    ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32, %c: f32):
      %z = arith.addf %e, %c : f32
      attn.yield %z : f32
    } stats [0 : i32]
    epilogue {
    ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %d: i32, %mean: f32):
      %z = arith.subf %e, %mean : f32
      attn.yield %z : f32
    } : !t, !t, !t -> !t, tensor<?x?x?xf32>
  return %o, %lse : !t, tensor<?x?x?xf32>
}

// CHECK-LABEL: func.func @masks(
func.func @masks(%s: !s, %qi: tensor<?x?xi32>, %ki: tensor<?x?xi32>,
                 %t: tensor<?x?xi8>, %u: tensor<?x?xi1>, %x: tensor<?xf32>,
                 %n: i32) -> !s {
  // CHECK: attn.causal_mask align top_left
  %m0 = attn.causal_mask align top_left
  // CHECK: attn.window_mask %{{.*}}, %{{.*}}
  %m1 = attn.window_mask %n, %n
  // CHECK: attn.document_mask %{{.*}}, %{{.*}} : tensor<?x?xi32>, tensor<?x?xi32>
  %m2 = attn.document_mask %qi, %ki : tensor<?x?xi32>, tensor<?x?xi32>
  // CHECK: attn.dilated_mask %{{.*}} align top_left
  %m3 = attn.dilated_mask %n align top_left
  // CHECK: attn.tensor_mask %{{.*}} map #{{.*}} : tensor<?x?xi8>
  %m4 = attn.tensor_mask %t map affine_map<(b, h, i, j) -> (i, j)> : tensor<?x?xi8>
  // CHECK: attn.tensor_mask %{{.*}} map #{{.*}} : tensor<?x?xi1>
  %m5 = attn.tensor_mask %u map affine_map<(b, h, i, j) -> (b, j)> : tensor<?x?xi1>
  // CHECK: attn.predicate_mask captures(%{{.*}} : tensor<?xf32>) maps [#{{.*}}] {
  // CHECK: attn.yield %{{.*}} : i1
  %m6 = attn.predicate_mask captures(%x : tensor<?xf32>)
      maps [affine_map<(b, h, i, j) -> (j)>] {
  ^bb0(%b: i32, %h: i32, %i: i32, %j: i32, %e: f32):
    %zero = arith.constant 0.0 : f32
    %keep = arith.cmpf olt, %e, %zero : f32
    attn.yield %keep : i1
  }
  // CHECK: attn.mask %{{.*}} by %{{.*}}, %{{.*}}, %{{.*}}, %{{.*}}, %{{.*}}, %{{.*}}, %{{.*}} :
  %r = attn.mask %s by %m0, %m1, %m2, %m3, %m4, %m5, %m6 : !s
  return %r : !s
}

// CHECK-LABEL: func.func @steps(
func.func @steps(%q: !t, %k: !t, %v: !t, %scale: f32, %len: tensor<?xi32>,
                 %g: tensor<?x?xf16>) -> (!t, tensor<?x?x?xf32>, tensor<?x?x?xf32>) {
  // CHECK: attn.row_norm squared_l2 %{{.*}} layout bshd
  %n0 = attn.row_norm squared_l2 %q layout bshd : !t -> tensor<?x?x?xf32>
  // CHECK: attn.row_norm inverse_l2 %{{.*}} :
  %n1 = attn.row_norm inverse_l2 %k : !t -> tensor<?x?x?xf32>
  // CHECK: attn.row_norm mean %{{.*}} :
  %n2 = attn.row_norm mean %k : !t -> tensor<?x?x?xf32>
  // CHECK: attn.row_norm mean_square %{{.*}} :
  %n3 = attn.row_norm mean_square %k : !t -> tensor<?x?x?xf32>
  // CHECK: attn.row_norm abs_max %{{.*}} :
  %n4 = attn.row_norm abs_max %k : !t -> tensor<?x?x?xf32>
  // CHECK: attn.scores %{{.*}}, %{{.*}} scale %{{.*}} q_len %{{.*}} : tensor<?xi32> k_len %{{.*}} : tensor<?xi32> layout bshd
  %s = attn.scores %q, %k scale %scale q_len %len : tensor<?xi32>
      k_len %len : tensor<?xi32> layout bshd : !t, !t -> !s
  // CHECK: attn.lse
  %lse = attn.lse %s : !s -> tensor<?x?x?xf32>
  // CHECK: attn.softmax
  %p = attn.softmax %s : !s
  // CHECK: attn.apply %{{.*}}, %{{.*}} normalize l1 layout bshd
  %o = attn.apply %p, %v normalize l1 layout bshd : !s, !t -> !t
  // CHECK: attn.epilogue %{{.*}} captures(%{{.*}} : tensor<?x?xf16>) maps [#{{.*}}] stats [1 : i32] layout bshd {
  %r = attn.epilogue %o captures(%g : tensor<?x?xf16>)
      maps [affine_map<(b, h, i, d) -> (h, d)>] stats [1 : i32] layout bshd {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %d: i32, %square: f32, %c: f32):
    %y = arith.mulf %e, %c : f32
    %z = arith.mulf %y, %square : f32
    attn.yield %z : f32
  } : !t -> !t
  return %r, %lse, %n0 : !t, tensor<?x?x?xf32>, tensor<?x?x?xf32>
}

// CHECK-LABEL: func.func @gradients(
func.func @gradients(%q: !t, %k: !t, %v: !t, %do: !t, %len: tensor<?xi32>,
    %scale: f32, %bias: tensor<?xf32>, %lse: tensor<?x?x?xf32>)
    -> (!t, !t, !t, tensor<?xf32>) {
  %m = attn.causal_mask
  // CHECK: attn.row_dot %{{.*}}, %{{.*}} layout bshd : tensor<?x?x?x64xf32>, tensor<?x?x?x64xf32> -> tensor<?x?x?xf32>
  %delta = attn.row_dot %do, %do layout bshd : !t, !t -> tensor<?x?x?xf32>
  // CHECK: %{{.*}}, %{{.*}} = attn.row_sums %{{.*}}, %{{.*}}, %{{.*}}, %{{.*}} scale %{{.*}} masks(%{{.*}}) layout bshd weight {
  %inverse, %d = attn.row_sums %q, %k, %v, %do scale %scale masks(%m)
      layout bshd weight {
  ^bb0(%s: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32):
    attn.yield %s : f32
  } : !t, !t, !t, !t -> tensor<?x?x?xf32>, tensor<?x?x?xf32>
  // CHECK: %{{.*}}, %{{.*}}, %{{.*}}, %[[C:.*]] = attn.backward %{{.*}}, %{{.*}}, %{{.*}}, %{{.*}} scale %{{.*}} q_len %{{.*}} : tensor<?xi32> k_len %{{.*}} : tensor<?xi32> masks(%{{.*}}) layout bshd captures(%{{.*}}, %{{.*}} : tensor<?xf32>, tensor<?x?x?xf32>) maps [#{{.*}}, #{{.*}}] weight {
  // CHECK: } gradient {
  // CHECK: } of [0] capture_gradients {
  // CHECK: } : tensor<?x?x?x64xf32>, tensor<?x?x?x64xf32>, tensor<?x?x?x64xf32>, tensor<?x?x?x64xf32> -> tensor<?x?x?x64xf32>, tensor<?x?x?x64xf32>, tensor<?x?x?x64xf32>, tensor<?x?x?xf32>
  %dq, %dk, %dv, %c = attn.backward %q, %k, %v, %do scale %scale
      q_len %len : tensor<?xi32> k_len %len : tensor<?xi32> masks(%m)
      layout bshd captures(%bias, %lse : tensor<?xf32>, tensor<?x?x?xf32>)
      maps [affine_map<(b, h, i, j) -> (h)>, affine_map<(b, h, i, j) -> (b, h, i)>]
      weight {
  ^bb0(%s: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32, %e: f32, %l: f32):
    %x = arith.addf %s, %e : f32
    %y = arith.subf %x, %l : f32
    %p = math.exp %y : f32
    attn.yield %p : f32
  } gradient {
  ^bb0(%s: f32, %p: f32, %dp: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32, %e: f32, %l: f32):
    %ds = arith.mulf %p, %dp : f32
    attn.yield %ds : f32
  } of [0] capture_gradients {
  ^bb0(%s: f32, %p: f32, %dp: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32, %e: f32, %l: f32):
    %ds = arith.mulf %p, %dp : f32
    attn.yield %ds : f32
  } : !t, !t, !t, !t -> !t, !t, !t, tensor<?x?x?xf32>
  // CHECK: attn.sum %[[C]] map #{{.*}} like %{{.*}} : tensor<?xf32> : tensor<?x?x?xf32> -> tensor<?xf32>
  %dbias = attn.sum %c map affine_map<(b, h, x) -> (h)> like %bias : tensor<?xf32>
      : tensor<?x?x?xf32> -> tensor<?xf32>
  // CHECK: attn.sum %[[C]] map #{{.*}} : tensor<?x?x?xf32> -> tensor<f32>
  %all = attn.sum %c map affine_map<(b, h, x) -> ()> : tensor<?x?x?xf32> -> tensor<f32>
  return %dq, %dk, %dv, %dbias : !t, !t, !t, tensor<?xf32>
}

// CHECK-LABEL: func.func @epilogue_gradients(
func.func @epilogue_gradients(%o: !t, %dy: !t, %g: tensor<?xf32>, %len: tensor<?xi32>) -> (!t, tensor<?x?x?xf32>) {
  // CHECK: %{{.*}}, %{{.*}} = attn.epilogue_gradient %{{.*}}, %{{.*}} q_len %{{.*}} : tensor<?xi32> layout bshd captures(%{{.*}} : tensor<?xf32>) maps [#{{.*}}] gradient {
  // CHECK: } of [0] capture_gradients {
  // CHECK: } : tensor<?x?x?x64xf32>, tensor<?x?x?x64xf32> -> tensor<?x?x?x64xf32>, tensor<?x?x?xf32>
  %do, %dg = attn.epilogue_gradient %o, %dy q_len %len : tensor<?xi32> layout bshd
      captures(%g : tensor<?xf32>) maps [affine_map<(b, h, i, d) -> (h)>] gradient {
  ^bb0(%x: f32, %y: f32, %b: i32, %h: i32, %i: i32, %d: i32, %c: f32):
    %r = arith.mulf %y, %c : f32
    attn.yield %r : f32
  } of [0] capture_gradients {
  ^bb0(%x: f32, %y: f32, %b: i32, %h: i32, %i: i32, %d: i32, %c: f32):
    %r = arith.mulf %y, %x : f32
    attn.yield %r : f32
  } : !t, !t -> !t, tensor<?x?x?xf32>
  return %do, %dg : !t, tensor<?x?x?xf32>
}
