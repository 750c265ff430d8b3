// Rows of all query heads that share a key head in one block: row r of a block
// that begins at p is head (p + r) mod G of the group, at position
// (p + r) floordiv G.
//
// The parser of affine maps orders the terms of a sum anew, so that a map with a
// constant group is not the same object when it is read again.
// UNSUPPORTED: roundtrip
//
// RUN: attnc-opt %s --attn-to-tile="schedule=block_m=16,block_n=32,pack_groups=true" --canonicalize --cse \
// RUN:   | FileCheck %s
// RUN: attnc-opt %s --attn-to-tile="schedule=block_m=64,block_n=32,consumers=1,stages=2,pack_groups=true" \
// RUN:   --tile-online-softmax --tile-plan-launches --tile-to-hopper --canonicalize --cse \
// RUN:   | FileCheck %s --check-prefix=HOPPER

// CHECK-DAG: #[[ROWS:.*]] = affine_map<(d0, d1)[s0, s1, s2, s3] -> (s0, (d0 + s2) mod s3 + s1, (d0 + s2) floordiv s3, d1)>
// CHECK-DAG: #[[LSE:.*]] = affine_map<(d0, d1)[s0, s1, s2, s3] -> (s0, (d0 + s2) mod s3 + s1, (d0 + s2) floordiv s3)>
// CHECK-DAG: #[[SLOPES:.*]] = affine_map<(d0, d1)[s0, s1, s2] -> ((d0 + s1) mod s2 + s0)>
// CHECK-DAG: #[[THREE:.*]] = affine_map<(d0, d1)[s0, s1, s2] -> (s0, d0 + s1 + ((d0 + s2) floordiv 3) * -3 + s2, (d0 + s2) floordiv 3, d1)>

#slope = affine_map<(b, h, i, j) -> (h)>
!t = tensor<?x?x?x64xbf16>

// Any group: the number of heads in one is a value. A causal row ends at its
// own position, a slope is one of its head.
//
// CHECK-LABEL: tile.kernel @any_attention(
// CHECK:       %[[QUOTIENT:.*]] = arith.divui %query_dim1
// CHECK:       %[[G:.*]] = arith.maxui %[[QUOTIENT]], %c1
// CHECK:       %[[ALL:.*]] = arith.muli %query_dim2, %[[G]]
// CHECK:       %[[BLOCKS:.*]] = arith.ceildivui %[[ALL]], %c16
// CHECK:       tile.items (%[[B:.*]], %[[HK:.*]], %[[M:.*]]) in (%{{.*}}, %{{.*}}, %[[BLOCKS]])
// CHECK-DAG:   %[[H0:.*]] = arith.muli %[[HK]], %[[G]]
// CHECK-DAG:   %[[P:.*]] = arith.muli %[[M]], %c16
// CHECK:       tile.load %{{.*}}[%[[H0]], %[[P]], %[[G]]] by #[[SLOPES]] {{.*}}<16x1xf32>
// CHECK:       tile.load %{{.*}}[%[[B]], %[[H0]], %[[P]], %[[G]]] by #[[ROWS]] {{.*}}<16x64xbf16>
// CHECK:       arith.divui %[[P]], %[[G]] : index
// CHECK:       tile.for_keys
// CHECK:       tile.load %{{.*}}[%[[B]], %[[HK]], %{{.*}}]
// CHECK:       arith.divui %{{.*}}, %{{.*}} : i32
// CHECK:       tile.store %{{.*}}, %{{.*}}[%[[B]], %[[H0]], %[[P]], %[[G]]] by #[[ROWS]]
// CHECK:       tile.store %{{.*}}, %{{.*}}[%[[B]], %[[H0]], %[[P]], %[[G]]] by #[[LSE]]
//
// Rows that are no box of the tensor are copied by threads, keys in bulk.
//
// HOPPER-LABEL: hopper.kernel @any_attention(
// HOPPER:       hopper.copy_elements
// HOPPER:       hopper.copy %
// HOPPER:       hopper.copy %
func.func @any(%q: !t, %k: !t, %v: !t, %slopes: tensor<?xf32>)
    -> (!t, tensor<?x?x?xf32>) {
  %mask = attn.causal_mask
  %o, %lse = attn.fused %q, %k, %v masks(%mask) normalize softmax
      score_captures(%slopes : tensor<?xf32>) maps [#slope] score_mod {
  ^bb0(%s: f32, %b: i32, %h: i32, %i: i32, %j: i32, %sq: i32, %sk: i32, %slope: f32):
    %x = arith.mulf %s, %slope : f32
    attn.yield %x : f32
  } : !t, !t, !t -> !t, tensor<?x?x?xf32>
  return %o, %lse : !t, tensor<?x?x?xf32>
}

// A group that the types state is a number.
//
// CHECK-LABEL: tile.kernel @three_attention(
// CHECK:       tile.load {{.*}} by #[[THREE]]
func.func @three(%q: tensor<?x6x?x64xbf16>, %k: tensor<?x2x?x64xbf16>, %v: tensor<?x2x?x64xbf16>) -> tensor<?x6x?x64xbf16> {
  %o = attn.fused %q, %k, %v normalize softmax
      : tensor<?x6x?x64xbf16>, tensor<?x2x?x64xbf16>, tensor<?x2x?x64xbf16> -> tensor<?x6x?x64xbf16>
  return %o : tensor<?x6x?x64xbf16>
}
