// A program for few queries and many keys: keys are split in ranges, one item
// each, and a second kernel adds what they gave.
//
// RUN: attnc-opt %s --attn-to-tile=target=sm_90a --canonicalize | FileCheck %s --check-prefix=PREFER
// RUN: attnc-opt %s --attn-to-tile="target=sm_90a schedule=few_queries" \
// RUN:   | FileCheck %s --check-prefix=FEW
// RUN: attnc-opt %s --attn-to-tile | FileCheck %s --check-prefix=CPU

#full = affine_map<(b, h, i, j) -> (b, h, i, j)>
!t = tensor<?x?x?x128xbf16>

// The program for all sizes says for which another is faster: keys split among
// items, or less tall blocks.
//
// PREFER-LABEL: tile.program @softmax(
// PREFER:       %[[SEVERAL:.*]] = arith.cmpi ugt, %{{.*}}, %c1{{.*}} : index
// PREFER:       %[[ROWS:.*]] = arith.cmpi ule, %{{.*}}, %key_dim2 : index
// PREFER:       %[[EITHER:.*]] = arith.ori %[[ROWS]], %{{.*}} : i1
// PREFER:       %[[BOTH:.*]] = arith.andi %[[EITHER]], %[[SEVERAL]]
// PREFER:       tile.prefer "few_queries" when %[[BOTH]]
// PREFER:       tile.prefer "few_items" when
// PREFER-NEXT:  tile.launch @softmax_attention(%query, %key, %value, %output)
// PREFER-LABEL: tile.kernel @softmax_attention(
// PREFER-NOT:   splits
// CPU-NOT:      tile.prefer

// That one splits for all sizes, in one range at least. What the ranges give for
// a row lies together.
//
// FEW-LABEL: tile.program @softmax(
// FEW-NOT:   tile.prefer
// FEW-COUNT-2: arith.minui
// FEW-NEXT:  %[[RANGES:.*]] = arith.maxui %{{.*}}, %c1{{.*}} : index
// FEW:       %[[SUMS:.*]] = tile.workspace(%query_dim0, %query_dim1, %query_dim2, %[[RANGES]]) : <?x?x?x?x128xf32>
// FEW:       %[[SUM:.*]] = tile.workspace({{.*}}, %[[RANGES]]) : <?x?x?x?xf32>
// FEW:       %[[MAX:.*]] = tile.workspace({{.*}}, %[[RANGES]]) : <?x?x?x?xf32>
// FEW:       tile.launch @softmax_attention_ranges(%query, %key, %value, %[[SUMS]], %[[SUM]], %[[MAX]])
// FEW-NEXT:  tile.launch @softmax_attention_combine(%[[SUMS]], %[[SUM]], %[[MAX]], %output)
// FEW-NEXT:  tile.launch @softmax_attention_combine_many(%[[SUMS]], %[[SUM]], %[[MAX]], %output)
// FEW-NOT:   tile.kernel @softmax_attention(
// FEW-LABEL: tile.kernel @softmax_attention_ranges(
// FEW-SAME:  splits = 64, fill = 264, resident = 2
// FEW:       tile.items (%item, %item_{{.*}}, %item_{{.*}}, %item_{{.*}}) in
// FEW:       tile.for_keys
// FEW-COUNT-3: tile.store {{.*}}f32>, <
//
// Up to 16 ranges: four rows an item, all loaded before any is stored. More: one.
//
// FEW-LABEL: tile.kernel @softmax_attention_combine(
// FEW-NOT:   tile.for_keys
// FEW:       %[[MORE:.*]] = arith.cmpi ugt, %[[R:.*]], %c0
// FEW:       %[[FITS:.*]] = arith.cmpi ule, %[[R]], %c16
// FEW:       arith.andi %[[MORE]], %[[FITS]]
// FEW:       arith.select
// FEW-COUNT-4: tile.load {{.*}} -> <64x16xf32>
// FEW:       tile.reduce max
// FEW-COUNT-8: tile.reduce add
// FEW-COUNT-4: tile.store {{.*}} <64x1xbf16>
// FEW-LABEL: tile.kernel @softmax_attention_combine_many(
// FEW:       arith.cmpi ugt, %{{.*}}, %c16
// FEW:       tile.load {{.*}} -> <64x64xf32>
// FEW:       tile.reduce max
// FEW-COUNT-2: tile.reduce add
// FEW:       tile.store {{.*}} <64x1xbf16>

func.func @softmax(%q: !t {attn.name = "query"}, %k: !t {attn.name = "key"},
                   %v: !t {attn.name = "value"}) -> !t {
  %o = attn.fused %q, %k, %v normalize softmax : !t, !t, !t -> !t
  return %o : !t
}

// More queries than another schedule is good for, by the types, and fewer.
//
// PREFER-LABEL: tile.program @long(
// PREFER-NOT:   tile.prefer
// PREFER-LABEL: tile.kernel
!l = tensor<8x16x2048x64xbf16>
func.func @long(%q: !l, %k: !l, %v: !l) -> !l {
  %o = attn.fused %q, %k, %v normalize softmax : !l, !l, !l -> !l
  return %o : !l
}

// PREFER-LABEL: tile.program @short(
// PREFER-NOT:   few_queries
// PREFER:       tile.prefer "few_items" when %true
// PREFER-LABEL: tile.kernel
!u = tensor<1x8x2048x64xbf16>
func.func @short(%q: !u, %k: !u, %v: !u) -> !u {
  %o = attn.fused %q, %k, %v normalize softmax : !u, !u, !u -> !u
  return %o : !u
}

// A schedule of the op's own stays; what the ladder came to is the cost
// model's.
//
// PREFER-LABEL: tile.program @own(
// PREFER-NOT:   tile.prefer
// PREFER-LABEL: tile.program @stepped(
// PREFER:       tile.prefer "few_queries"
// FEW-LABEL:    tile.kernel @own_attention(
// FEW-SAME:     block_m = 64, block_n = 32
//
// FEW-LABEL:    tile.program @given(
// FEW:          %[[RANGES:.*]] = arith.maxui %c5
// FEW:          tile.workspace({{.*}}, %[[RANGES]])
// FEW:          tile.launch @given_attention_ranges(
// FEW:          tile.launch @given_attention_combine(
// FEW-NOT:      tile.launch
// FEW-NOT:      tile.kernel @given_attention(
// FEW-LABEL:    tile.kernel @given_attention_ranges(
// FEW-SAME:     splits = 5
func.func @own(%q: !t, %k: !t, %v: !t) -> !t {
  %o = attn.fused %q, %k, %v {tile.schedule = #tile.schedule<block_m = 64, block_n = 32, consumers = 1, stages = 2>} : !t, !t, !t -> !t
  return %o : !t
}
func.func @stepped(%q: !t, %k: !t, %v: !t) -> !t {
  %o = attn.fused %q, %k, %v {tile.stepped, tile.schedule = #tile.schedule<block_m = 64, block_n = 32, consumers = 1, stages = 2>} : !t, !t, !t -> !t
  return %o : !t
}

func.func @given(%q: !t, %k: !t, %v: !t) -> !t {
  %o = attn.fused %q, %k, %v {tile.schedule = #tile.schedule<block_m = 64, block_n = 32, consumers = 1, stages = 2, splits = 5>} : !t, !t, !t -> !t
  return %o : !t
}

// Statistics of rows need all keys: they are not split.
//
// PREFER-LABEL: tile.program @statistic(
// PREFER-NOT:   few_queries
// PREFER:       tile.prefer "few_items"
// PREFER-NOT:   few_queries
// FEW-LABEL:    tile.kernel @statistic_attention(
func.func @statistic(%q: !t, %k: !t, %v: !t) -> !t {
  %o = attn.fused %q, %k, %v stats [1 : i32] epilogue {
  ^bb0(%x: f32, %b: i32, %h: i32, %i: i32, %d: i32, %square: f32):
    %y = arith.mulf %x, %square : f32
    attn.yield %y : f32
  } : !t, !t, !t -> !t
  return %o : !t
}

// What 64 rows of a block need of a range: the loop is cut as the whole block
// needs it, or keys between the parts of both would be in none.
//
// PREFER-LABEL: tile.kernel @causal_attention_ranges(
// PREFER:       tile.for_keys
// PREFER:       } rows {
// PREFER-NOT:   div
// PREFER:       tile.store
func.func @causal(%q: !t, %k: !t, %v: !t) -> !t {
  %m = attn.causal_mask
  %o = attn.fused %q, %k, %v masks(%m) normalize softmax {tile.schedule = #tile.schedule<block_m = 128, block_n = 64, consumers = 2, stages = 2, splits = 2>} : !t, !t, !t -> !t
  return %o : !t
}
