// RUN: attnc-opt %s --attn-to-tile --canonicalize --cse --split-input-file | FileCheck %s

// S-bias: a captured operand is read where its map changes and no more often.

// CHECK-DAG: #[[ROW:.*]] = affine_map<(d0, d1)[s0] -> (d0 + s0)>
// CHECK-DAG: #[[COL:.*]] = affine_map<(d0, d1)[s0, s1] -> (s0, d1 + s1)>
// CHECK-DAG: #[[FULL:.*]] = affine_map<(d0, d1)[s0, s1, s2] -> (s0, d0 + s1, d1 + s2)>
// CHECK-DAG: #[[DIFF:.*]] = affine_map<(d0, d1)[s0, s1] -> (d0 - d1 + s0 - s1 + 7)>

// CHECK-LABEL: tile.program @captures(
// CHECK-DAG: "arg4 has {0} elements in dim 0 but query has {1} rows"
// CHECK-DAG: "arg5 has {0} elements in dim 1 but key has {1} rows"
// CHECK-DAG: "arg6 has {0} elements in dim 0 but query has {1} heads"
// The positions of i - j are not known to fit: outside it reads 0.
// CHECK-NOT: "arg7
// CHECK: tile.launch

// CHECK-LABEL: tile.kernel @captures_attention(
// CHECK-SAME: %[[S:arg3]]: !tile.view<?xf32>
// CHECK: tile.items (%[[B:.*]], %[[H:.*]], %[[M:.*]]) in
// CHECK: %[[I0:.*]] = arith.muli %[[M]]
// CHECK: %[[SCALAR:.*]] = tile.load_scalar %arg3[%[[H]]]
// CHECK: tile.load %arg4[%[[I0]]] by #[[ROW]] : <?xf16> -> <128x1xf16>
// CHECK: tile.cast %{{.*}} : <128x1xf16> -> <128x1xf32>
// CHECK: tile.for_keys %[[J:.*]] in
// CHECK: tile.load %arg5[%[[B]], %[[J]]] by #[[COL]] : <?x?xf32> -> <1x64xf32>
// CHECK: tile.load %arg6[%[[H]], %[[I0]], %[[J]]] by #[[FULL]] : <?x?x?xf32> -> <128x64xf32>
// CHECK: tile.load %arg7[%[[I0]], %[[J]]] by #[[DIFF]] : <?xi8> -> <128x64xi8>
// CHECK: tile.map(
// CHECK: arith.mulf
// CHECK: arith.extsi %{{.*}} : i8 to i32
// CHECK: arith.addf %{{.*}}, %[[SCALAR]]
// CHECK: arith.sitofp
!t = tensor<?x?x?x64xf32>
func.func @captures(%q: !t, %k: !t, %v: !t, %a: tensor<?xf32>, %b: tensor<?xf16>,
    %c: tensor<?x?xf32>, %d: tensor<?x?x?xf32>, %e: tensor<?xi8>) -> !t {
  %o = attn.fused %q, %k, %v
    score_captures(%a, %b, %c, %d, %e : tensor<?xf32>, tensor<?xf16>, tensor<?x?xf32>, tensor<?x?x?xf32>, tensor<?xi8>)
    maps [affine_map<(b, h, i, j) -> (h)>, affine_map<(b, h, i, j) -> (i)>,
          affine_map<(b, h, i, j) -> (b, j)>, affine_map<(b, h, i, j) -> (h, i, j)>,
          affine_map<(b, h, i, j) -> (i - j + 7)>]
    score_mod {
    ^bb0(%s: f32, %b0: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32,
         %ea: f32, %eb: f32, %ec: f32, %ed: f32, %ee: i32):
      %x0 = arith.addf %s, %ea : f32
      %x1 = arith.addf %x0, %eb : f32
      %x2 = arith.addf %x1, %ec : f32
      %x3 = arith.addf %x2, %ed : f32
      %f = arith.sitofp %ee : i32 to f32
      %x4 = arith.addf %x3, %f : f32
      attn.yield %x4 : f32
    } : !t, !t, !t -> !t
  return %o : !t
}

// -----

// A captured tensor that is a query too has the query's order of dims. The
// epilogue reads it, the row's statistics and the column's weight.

// CHECK-DAG: #[[Q:.*]] = affine_map<(d0, d1)[s0, s1, s2] -> (s0, s1, d0 + s2, d1)>
// CHECK-DAG: #[[D:.*]] = affine_map<(d0, d1) -> (d1)>

// CHECK-LABEL: tile.program @epilogue(
// CHECK: "arg2 has {0} lengths but query has {1} sequences"
// CHECK-LABEL: tile.kernel @epilogue_attention(
// CHECK: %[[LEFT:.*]] = arith.subi %{{.*}}, %{{.*}} : index
// CHECK: tile.load %query[{{.*}}] by #[[Q]] rows %[[LEFT]]
// A block beyond the sequence visits no key.
// CHECK: %[[ANY:.*]] = arith.cmpi slt
// CHECK: %[[HI:.*]] = arith.select %[[ANY]]
// CHECK: %[[R:.*]]:2 = tile.for_keys %{{.*}} in (%{{.*}}, %{{.*}}, %{{.*}}, %[[HI]])
// The unrounded weights are summed.
// CHECK: %[[P:.*]] = tile.mask
// CHECK: tile.reduce add %[[P]]
// CHECK: tile.cast %[[P]]
// l1: a row without weight gives 0.
// CHECK: arith.divf
// CHECK: %[[N:.*]] = tile.map(%[[R]]#0
// CHECK: %[[SQ:.*]] = tile.map(%[[N]] :
// CHECK: arith.mulf
// CHECK: tile.reduce add %[[SQ]]
// CHECK: arith.mulf %{{.*}}, %{{.*}}
// CHECK: %[[ABS:.*]] = tile.map(%[[N]] :
// CHECK: math.absf
// CHECK: tile.reduce max %[[ABS]]
// CHECK: tile.load %query[{{.*}}] by #[[Q]] :
// CHECK: tile.load %arg1[] by #[[D]] : <64xf32> -> <1x64xf32>
// CHECK: math.rsqrt
// Rows at or beyond q_len are 0 even after an epilogue.
// CHECK: tile.mask %{{.*}} fill 0.000000e+00
// CHECK: tile.store
!t = tensor<?x?x?x64xbf16>
func.func @epilogue(%q: !t, %w: tensor<64xf32>, %ql: tensor<?xi32>) -> tensor<?x?x?x64xf32> {
  %o = attn.fused %q, %q, %q q_len %ql : tensor<?xi32> normalize l1 layout bshd
    stats [1 : i32, 2 : i32]
    epilogue_captures(%q, %w : !t, tensor<64xf32>)
    maps [affine_map<(b, h, i, d) -> (b, i, h, d)>, affine_map<(b, h, i, d) -> (d)>]
    epilogue {
    ^bb0(%x: f32, %b: i32, %h: i32, %i: i32, %d: i32, %square: f32, %max: f32, %g: f32, %c: f32):
      %r = math.rsqrt %square : f32
      %y0 = arith.mulf %x, %r : f32
      %y1 = arith.mulf %y0, %g : f32
      %y2 = arith.mulf %y1, %c : f32
      %y3 = arith.divf %y2, %max : f32
      attn.yield %y3 : f32
    } : !t, !t, !t -> tensor<?x?x?x64xf32>
  return %o : tensor<?x?x?x64xf32>
}

// -----

// Masks: captured ids by row and by column, a boolean tensor in full. Bounds
// that no element changes are computed once.

// CHECK-LABEL: tile.kernel @masks_attention(
// CHECK: tile.load %arg3[{{.*}}] by #{{.*}} : <?x?xi32> -> <128x1xi32>
// CHECK: arith.maxsi %arg6
// CHECK: tile.for_keys
// CHECK: tile.load %arg4[{{.*}}] by #{{.*}} : <?x?xi32> -> <1x64xi32>
// CHECK: tile.load %arg5[{{.*}}] by #{{.*}} : <?x?xi1> -> <128x64xi1>
// CHECK: tile.mask %{{.*}} captured(%{{.*}}, %{{.*}}, %{{.*}} : !tile.tile<128x1xi32>, !tile.tile<1x64xi32>, !tile.tile<128x64xi1>)
// CHECK-NOT: arith.maxsi
// CHECK: arith.remsi
// S-bool: what is left of "not 0" is the boolean itself.
// CHECK-NOT: arith.xori
// CHECK: arith.andi %{{.*}}, %x
// CHECK: tile.yield
!t = tensor<?x?x?x64xf32>
func.func @masks(%q: !t, %k: !t, %v: !t, %qi: tensor<?x?xi32>, %ki: tensor<?x?xi32>,
    %m: tensor<?x?xi1>, %n: i32) -> !t {
  %m0 = attn.document_mask %qi, %ki : tensor<?x?xi32>, tensor<?x?xi32>
  %m1 = attn.dilated_mask %n
  %m2 = attn.tensor_mask %m map affine_map<(b, h, i, j) -> (i, j)> : tensor<?x?xi1>
  %o = attn.fused %q, %k, %v masks(%m0, %m1, %m2) : !t, !t, !t -> !t
  return %o : !t
}

// -----

// Norms that only the attention reads are workspace; a kernel computes each.

// CHECK-LABEL: tile.program @cosine(
// CHECK: %[[W:.*]] = tile.workspace(
// CHECK: tile.launch @cosine_row_norm(%query, %[[W]])
// CHECK: tile.launch @cosine_row_norm1(%key, %norm)
// CHECK: tile.launch @cosine_attention(%query, %key, %value, %output, %[[W]], %norm)
// CHECK-LABEL: tile.kernel @cosine_row_norm(
// CHECK: tile.reduce add
// CHECK: math.rsqrt
// CHECK: arith.select
// CHECK-LABEL: tile.kernel @cosine_row_norm1(
// CHECK: tile.cast %{{.*}} -> <128x64xf32>
// CHECK: %[[SUM:.*]] = tile.reduce add
// CHECK: tile.store %[[SUM]]
// CHECK-NOT: rsqrt
// CHECK-LABEL: tile.kernel @cosine_attention(
// CHECK: tile.load %{{.*}} : <?x?x?xf32> -> <128x1xf32>
// CHECK: tile.load %norm[{{.*}}] by #{{.*}} : <?x?x?xf32> -> <1x64xf32>
!t = tensor<?x?x?x64xf16>
!n = tensor<?x?x?xf32>
func.func @cosine(%q: !t, %k: !t, %v: !t) -> (!t, !n) {
  %qn = attn.row_norm inverse_l2 %q layout bshd : !t -> !n
  %kn = attn.row_norm squared_l2 %k layout bshd : !t -> !n
  %o = attn.fused %q, %k, %v layout bshd score_captures(%qn, %kn : !n, !n)
    maps [affine_map<(b, h, i, j) -> (b, h, i)>, affine_map<(b, h, i, j) -> (b, h, j)>]
    score_mod {
    ^bb0(%s: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32, %a: f32, %c: f32):
      %x0 = arith.mulf %s, %a : f32
      %x1 = arith.mulf %x0, %c : f32
      attn.yield %x1 : f32
    } : !t, !t, !t -> !t
  return %o, %kn : !t, !n
}

// -----

// Two layers: the first output is workspace, and the second one's query.

// CHECK-LABEL: tile.program @layers(
// CHECK: %[[W:.*]] = tile.workspace(
// CHECK: tile.launch @layers_attention(%query, %[[W]])
// CHECK: tile.launch @layers_attention1(%[[W]], %query, %output)
// A scalar that the function computes is computed in the kernel.
// CHECK-LABEL: tile.kernel @layers_attention1(
// CHECK: tile.map(
// CHECK: arith.mulf %{{.*}}, %{{.*}}
!t = tensor<?x?x?x64xf32>
func.func @layers(%q: !t, %x: f32) -> !t {
  %o = attn.fused %q, %q, %q : !t, !t, !t -> !t
  %r = attn.fused %o, %q, %q : !t, !t, !t -> !t
  return %r : !t
}

// -----

// S-runtime: a scalar is an argument of the kernel, its value no part of it.

// CHECK-LABEL: tile.kernel @scalars_attention(
// CHECK-SAME: %n: f32 {tile.name = "n"})
// CHECK: %[[Y:.*]] = math.log %n
// CHECK: tile.items
// CHECK: tile.map(
// CHECK: arith.subf %{{.*}}, %[[Y]]
!t = tensor<?x?x?x64xf32>
func.func @scalars(%q: !t, %n: f32 {attn.name = "n"}) -> !t {
  %l = math.log %n : f32
  %o = attn.fused %q, %q, %q score_mod {
    ^bb0(%s: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32):
      %x = arith.subf %s, %l : f32
      attn.yield %x : f32
    } : !t, !t, !t -> !t
  return %o : !t
}

// -----

// No divisor can trap: 0 and -1 are replaced, a constant needs nothing.

// CHECK-LABEL: tile.kernel @division_attention(
// CHECK-DAG: %[[C0:.*]] = arith.constant 0 : i32
// CHECK-DAG: %[[C1:.*]] = arith.constant 1 : i32
// CHECK-DAG: %[[CM1:.*]] = arith.constant -1 : i32
// CHECK-DAG: %[[C7:.*]] = arith.constant 7 : i32
// CHECK-DAG: %[[ZERO:.*]] = arith.cmpi eq, %n, %[[C0]]
// CHECK-DAG: %[[MINUS:.*]] = arith.cmpi eq, %n, %[[CM1]]
// CHECK: %[[UNSAFE:.*]] = arith.ori %[[ZERO]], %[[MINUS]]
// CHECK: %[[SAFE:.*]] = arith.select %[[UNSAFE]], %[[C1]], %n
// CHECK: tile.map(
// CHECK: %[[Q:.*]] = arith.divsi %[[J:.*]], %[[SAFE]]
// CHECK: %[[Q0:.*]] = arith.select %[[ZERO]], %[[C0]], %[[Q]]
// CHECK: %[[NEG:.*]] = arith.subi %[[C0]], %[[J]]
// CHECK: %[[R:.*]] = arith.select %[[MINUS]], %[[NEG]], %[[Q0]]
// CHECK: arith.remui %[[R]], %[[C7]]
!t = tensor<?x?x?x64xf32>
func.func @division(%q: !t, %n: i32 {attn.name = "n"}) -> !t {
  %seven = arith.constant 7 : i32
  %o = attn.fused %q, %q, %q score_mod {
    ^bb0(%s: f32, %b: i32, %h: i32, %i: i32, %j: i32, %ql: i32, %kl: i32):
      %d = arith.divsi %j, %n : i32
      %r = arith.remui %d, %seven : i32
      %f = arith.sitofp %r : i32 to f32
      %x = arith.addf %s, %f : f32
      attn.yield %x : f32
    } : !t, !t, !t -> !t
  return %o : !t
}
