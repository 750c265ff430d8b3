// RUN: attnc-opt %s --pass-pipeline='builtin.module(attn-raise-idioms,canonicalize,cse,func.func(attn-fuse),func.func(attn-differentiate),canonicalize,cse)' | FileCheck %s

!t = tensor<?x?x?x64xbf16>
!s = tensor<?x?x?x?xf32>

// A sigmoid needs nothing of the forward: ds = dp p (1 - p), from the p that
// is there, and no n x n value. The scalar bias has the gradient of the logit.

// CHECK-DAG: #[[ROWS:.*]] = affine_map<(d0, d1, d2, d3) -> (d0, d1, d2)>
// CHECK-DAG: #[[ALL:.*]] = affine_map<(d0) -> ()>
// CHECK-LABEL: func.func @sigmoid(
// CHECK-SAME: %[[Q:.*]]: tensor<?x?x?x64xbf16> {attn.name = "q"}, %[[K:.*]]: tensor<?x?x?x64xbf16> {attn.name = "k"}, %[[V:.*]]: tensor<?x?x?x64xbf16> {attn.name = "v"}, %[[B:.*]]: f32 {attn.name = "bias"}, %[[DO:.*]]: tensor<?x?x?x64xbf16> {attn.name = "do"})
// CHECK-SAME: -> (tensor<?x?x?x64xbf16> {attn.name = "dq"}, tensor<?x?x?x64xbf16> {attn.name = "dk"}, tensor<?x?x?x64xbf16> {attn.name = "dv"}, tensor<f32> {attn.name = "dbias"})
// CHECK-NOT: attn.fused
// CHECK: %[[M:.*]] = attn.causal_mask
// CHECK: %[[DQ:.*]], %[[DK:.*]], %[[DV:.*]], %[[DB:.*]] = attn.backward %[[Q]], %[[K]], %[[V]], %[[DO]] masks(%[[M]]) captures(%[[B]] : f32)
// CHECK-SAME: weight {
// CHECK-NEXT: ^bb0(%[[S:[^:]*]]: f32, {{.*}}, %[[E:[^:]*]]: f32):
// CHECK-NEXT: %[[X:.*]] = arith.addf %[[S]], %[[E]]
// CHECK-NEXT: %[[P:.*]] = attn.logistic %[[X]]
// CHECK-NEXT: attn.yield %[[P]]
// CHECK-NEXT: } gradient {
// CHECK-NEXT: ^bb0(%{{.*}}: f32, %[[P:.*]]: f32, %[[DP:[^:]*]]: f32,
// CHECK-NEXT: %[[N:.*]] = arith.negf %[[P]]
// CHECK-NEXT: %[[NPP:.*]] = arith.mulf %[[N]], %[[P]]
// CHECK-NEXT: %[[PP:.*]] = arith.addf %[[NPP]], %[[P]]
// CHECK-NEXT: %[[DS:.*]] = arith.mulf %[[DP]], %[[PP]]
// CHECK-NEXT: attn.yield %[[DS]]
// CHECK-NEXT: } of [0] capture_gradients {
// CHECK: %[[SUM2:.*]] = attn.sum %[[DB]] map #{{.*}} : tensor<?x?x?xf32> -> tensor<?x?xf32>
// CHECK: %[[SUM1:.*]] = attn.sum %[[SUM2]] map #{{.*}} : tensor<?x?xf32> -> tensor<?xf32>
// CHECK: %[[SUM:.*]] = attn.sum %[[SUM1]] map #[[ALL]] : tensor<?xf32> -> tensor<f32>
// CHECK: return %[[DQ]], %[[DK]], %[[DV]], %[[SUM]]
func.func @sigmoid(%q: !t {attn.name = "q", attn.gradient},
    %k: !t {attn.name = "k", attn.gradient},
    %v: !t {attn.name = "v", attn.gradient},
    %bias: f32 {attn.name = "bias", attn.gradient})
    -> (!t {attn.name = "o"}) attributes {attn.differentiate} {
  %m = attn.causal_mask
  %s0 = attn.scores %q, %k : !t, !t -> !s
  %s1 = attn.bias %s0, %bias map affine_map<(b, h, i, j) -> ()> : !s, f32
  %s2 = attn.mask %s1 by %m : !s
  %p = attn.activation %s2 {
  ^bb0(%x: f32):
    %y = attn.logistic %x : f32
    attn.yield %y : f32
  } : !s
  %o = attn.apply %p, %v : !s, !t -> !t
  return %o : !t
}

// A softmax gets the forward's output and LSE; the LSE of an empty row becomes
// infinite, so that its weights are 0. Gradients may have a type of their own.

// CHECK-LABEL: func.func @softmax(
// CHECK-SAME: %[[O:[^:]*]]: tensor<?x?x?x64xbf16> {attn.name = "output"}, %[[L:.*]]: tensor<?x?x?xf32> {attn.name = "lse"}, %[[DO:.*]]: tensor<?x?x?x64xbf16> {attn.name = "doutput"})
// CHECK-SAME: -> (tensor<?x?x?x64xf32> {attn.name = "dquery"}, tensor<?x?x?x64xf32> {attn.name = "dkey"}, tensor<?x?x?x64xf32> {attn.name = "dvalue"})
// CHECK: %[[D:.*]] = attn.row_dot %[[DO]], %[[O]] layout bshd
// CHECK: attn.backward {{.*}}, %[[DO]] layout bshd captures(%[[L]], %[[D]] : {{.*}}) maps [#[[ROWS]], #[[ROWS]]] weight {
// CHECK-NEXT: ^bb0(%[[S:[^:]*]]: f32, {{.*}}, %[[LE:.*]]: f32, %{{.*}}: f32):
// CHECK-NEXT: %[[EMPTY:.*]] = arith.cmpf oeq, %[[LE]]
// CHECK-NEXT: %[[LL:.*]] = arith.select %[[EMPTY]]
// CHECK-NEXT: %[[X:.*]] = arith.subf %[[S]], %[[LL]]
// CHECK-NEXT: math.exp %[[X]]
// CHECK: gradient {
// CHECK-NEXT: ^bb0(%{{.*}}: f32, %[[P:.*]]: f32, %[[DP:[^:]*]]: f32, {{.*}}, %[[DE:.*]]: f32):
// CHECK-NEXT: %[[SHIFTED:.*]] = arith.subf %[[DP]], %[[DE]]
// CHECK-NEXT: %[[DS:.*]] = arith.mulf %[[P]], %[[SHIFTED]]
// CHECK-NEXT: attn.yield %[[DS]]
func.func @softmax(%q: !t, %k: !t, %v: !t) -> (!t, tensor<?x?x?xf32>)
    attributes {attn.differentiate = f32} {
  %s = attn.scores %q, %k layout bshd : !t, !t -> !s
  %lse = attn.lse %s : !s -> tensor<?x?x?xf32>
  %p = attn.softmax %s : !s
  %o = attn.apply %p, %v layout bshd : !s, !t -> !t
  return %o, %lse : !t, tensor<?x?x?xf32>
}

// An l1 norm needs the sums of each row, which a pass of its own computes.

// CHECK-LABEL: func.func @l1(
// CHECK: %[[I:.*]], %[[D:.*]] = attn.row_sums
// CHECK: attn.backward {{.*}} captures(%[[I]], %[[D]] : {{.*}}) {{.*}} weight {
// CHECK: arith.mulf
// CHECK: gradient {
// CHECK-NEXT: ^bb0(%[[S:[^:]*]]: f32, %{{.*}}: f32, %[[DP:[^:]*]]: f32, {{.*}}, %[[IE:.*]]: f32, %[[DE:.*]]: f32):
// CHECK-NEXT: %[[SHIFTED:.*]] = arith.subf %[[DP]], %[[DE]]
// CHECK-NEXT: %[[DW:.*]] = arith.mulf %[[SHIFTED]], %[[IE]]
// CHECK-NEXT: %[[ON:.*]] = arith.cmpf ogt, %[[S]]
// CHECK-NEXT: arith.select %[[ON]], %[[DW]]
func.func @l1(%q: !t, %k: !t, %v: !t) -> !t attributes {attn.differentiate} {
  %s = attn.scores %q, %k : !t, !t -> !s
  %p = attn.activation %s {
  ^bb0(%x: f32):
    %zero = arith.constant 0.0 : f32
    %y = arith.maximumf %x, %zero : f32
    attn.yield %y : f32
  } : !s
  %o = attn.apply %p, %v normalize l1 : !s, !t -> !t
  return %o : !t
}

// Captures: one for each key is summed over queries, one for each pair is not.
// A scalar that a region uses directly is captured for its gradient.

// CHECK-LABEL: func.func @captures(
// CHECK-SAME: {attn.name = "doutput"}) -> (tensor<?xf32> {attn.name = "darg3"}, tensor<?x?xbf16> {attn.name = "darg4"}, tensor<f32> {attn.name = "darg5"})
// CHECK: %{{.*}}, %{{.*}}, %{{.*}}, %[[C:.*]]:3 = attn.backward
// CHECK-SAME: captures(%{{.*}}, %{{.*}}, %{{.*}} : tensor<?xf32>, tensor<?x?xbf16>, f32)
// CHECK: of [0, 1, 2] capture_gradients
// CHECK: %[[J:.*]] = attn.sum %[[C]]#0 map #{{.*}} like %{{.*}} : tensor<?xf32> : tensor<?x?x?xf32> -> tensor<?xf32>
// CHECK: %[[W2:.*]] = attn.sum %[[C]]#2 map #{{.*}} : tensor<?x?x?xf32> -> tensor<?x?xf32>
// CHECK: %[[W1:.*]] = attn.sum %[[W2]] map #{{.*}} : tensor<?x?xf32> -> tensor<?xf32>
// CHECK: %[[W:.*]] = attn.sum %[[W1]] map #[[ALL]] : tensor<?xf32> -> tensor<f32>
// CHECK: return %[[J]], %[[C]]#1, %[[W]]
func.func @captures(%q: !t, %k: !t, %v: !t, %keys: tensor<?xf32> {attn.gradient},
    %pairs: tensor<?x?xbf16> {attn.gradient}, %w: f32 {attn.gradient}) -> !t
    attributes {attn.differentiate} {
  %s0 = attn.scores %q, %k : !t, !t -> !s
  %s1 = attn.bias %s0, %keys map affine_map<(b, h, i, j) -> (j)> : !s, tensor<?xf32>
  %s2 = attn.bias %s1, %pairs map affine_map<(b, h, i, j) -> (i, j)> : !s, tensor<?x?xbf16>
  %p = attn.activation %s2 {
  ^bb0(%x: f32):
    %y = arith.mulf %x, %w : f32
    attn.yield %y : f32
  } : !s
  %o = attn.apply %p, %v : !s, !t -> !t
  return %o : !t
}

// Other functions stay.

// CHECK-LABEL: func.func @forward(
// CHECK: attn.fused
func.func @forward(%q: !t, %k: !t, %v: !t) -> !t {
  %s = attn.scores %q, %k : !t, !t -> !s
  %o = attn.apply %s, %v : !s, !t -> !t
  return %o : !t
}

// An epilogue: dO first, by an elementwise op that reads what it read. A scale
// whose gradient is asked for is a factor that the scores capture.

// CHECK-LABEL: func.func @epilogue(
// CHECK-SAME: %[[SCALE:[a-z0-9]*]]: f32, %[[G:[a-z0-9]*]]: tensor<?x?x?x64xbf16>, %[[O:.*]]: tensor<{{.*}}> {attn.name = "ungated"}, %[[DY:.*]]: tensor<{{.*}}> {attn.name = "doutput"}) -> (tensor<f32> {attn.name = "darg3"}, tensor<?x?x?x64xbf16> {attn.name = "darg4"})
// CHECK: %[[DO:.*]], %[[DG:.*]] = attn.epilogue_gradient %[[O]], %[[DY]] captures(%[[G]] :
// CHECK: ^bb0(%{{.*}}: f32, %[[DYE:.*]]: f32, %{{.*}}: i32, %{{.*}}: i32, %{{.*}}: i32, %{{.*}}: i32, %[[GE:.*]]: f32):
// CHECK-NEXT: %[[D:.*]] = arith.mulf %[[DYE]], %[[GE]]
// CHECK-NEXT: attn.yield %[[D]]
// CHECK: } of [0] capture_gradients {
// CHECK: attn.backward %{{.*}}, %{{.*}}, %{{.*}}, %[[DO]] scale %cst
// CHECK-SAME: captures(%[[SCALE]] : f32)
func.func @epilogue(%q: !t, %k: !t, %v: !t, %scale: f32 {attn.gradient},
    %g: !t {attn.gradient}) -> (!t, !t) attributes {attn.differentiate} {
  %s = attn.scores %q, %k scale %scale : !t, !t -> !s
  %p = attn.activation %s {
  ^bb0(%x: f32):
    %y = attn.logistic %x : f32
    attn.yield %y : f32
  } : !s
  %o = attn.apply %p, %v : !s, !t -> !t
  %r = attn.epilogue %o captures(%g : !t) maps [affine_map<(b, h, i, d) -> (b, h, i, d)>] {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %d: i32, %x: f32):
    %y = arith.mulf %e, %x : f32
    attn.yield %y : f32
  } : !t -> !t
  return %o, %r : !t, !t
}
