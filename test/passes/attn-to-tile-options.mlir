// RUN: attnc-opt %s --attn-to-tile='target=sm_90a' | FileCheck %s --check-prefix=HOPPER
// RUN: attnc-opt %s --attn-to-tile='schedule="block_m = 32, block_n = 16"' | FileCheck %s --check-prefix=OVERRIDE
// RUN: attnc-opt %s --attn-to-tile='schedule="#tile.schedule<block_m = 32, block_n = 16>"' | FileCheck %s --check-prefix=OVERRIDE
// RUN: attnc-opt %s --attn-to-tile | FileCheck %s --check-prefix=CPU
// RUN: not attnc-opt %s --attn-to-tile='target=vax' 2>&1 | FileCheck %s --check-prefix=TARGET
// RUN: not attnc-opt %s --attn-to-tile='schedule="fast"' 2>&1 | FileCheck %s --check-prefix=SCHEDULE

// TARGET: error: unknown target 'vax': expected cpu or sm_90a
// SCHEDULE: error: schedule 'fast' is not a #tile.schedule<...>: {{.*}}; try 'block_m = 128, block_n = 64'

// The head dim decides how wide and tall a block may be.

// HOPPER: tile.kernel @d64_attention
// HOPPER-SAME: schedule(#tile.schedule<block_m = 256, block_n = 64, consumers = 4, stages = 4, order = overlap, persistent = true, slice = 32, staged = true>)
// OVERRIDE: tile.kernel @d64_attention
// OVERRIDE-SAME: schedule(#tile.schedule<block_m = 32, block_n = 16>)
// CPU: tile.kernel @d64_attention
// CPU-SAME: schedule(#tile.schedule<block_m = 128, block_n = 64>)
func.func @d64(%q: tensor<?x?x?x64xbf16>) -> tensor<?x?x?x64xbf16> {
  %o = attn.fused %q, %q, %q : tensor<?x?x?x64xbf16>, tensor<?x?x?x64xbf16>, tensor<?x?x?x64xbf16> -> tensor<?x?x?x64xbf16>
  return %o : tensor<?x?x?x64xbf16>
}

// HOPPER: tile.kernel @d128_attention
// HOPPER-SAME: schedule(#tile.schedule<block_m = 192, block_n = 80, consumers = 3, stages = 3, order = overlap, persistent = true, slice = 40, staged = true>)
func.func @d128(%q: tensor<?x?x?x128xbf16>) -> tensor<?x?x?x128xbf16> {
  %o = attn.fused %q, %q, %q : tensor<?x?x?x128xbf16>, tensor<?x?x?x128xbf16>, tensor<?x?x?x128xbf16> -> tensor<?x?x?x128xbf16>
  return %o : tensor<?x?x?x128xbf16>
}

// Two slots for queries leave room for three stages. Consumers take turns where
// products take long enough.
// HOPPER: tile.kernel @softmax_attention
// HOPPER-SAME: schedule(#tile.schedule<block_m = 192, block_n = 80, consumers = 3, stages = 3, order = overlap, pingpong = true, persistent = true, slice = 40, staged = true>)
func.func @softmax(%q: tensor<?x?x?x128xbf16>) -> tensor<?x?x?x128xbf16> {
  %o = attn.fused %q, %q, %q normalize softmax : tensor<?x?x?x128xbf16>, tensor<?x?x?x128xbf16>, tensor<?x?x?x128xbf16> -> tensor<?x?x?x128xbf16>
  return %o : tensor<?x?x?x128xbf16>
}

// Rows that begin anywhere are copied by threads: more rows of queries share
// what they copy, in blocks that leave room for a third stage.
// HOPPER: tile.kernel @d127_attention
// HOPPER-SAME: schedule(#tile.schedule<block_m = 192, block_n = 80, consumers = 3, stages = 3, order = overlap, slice = 40, staged = true>)
func.func @d127(%q: tensor<?x?x?x127xbf16>) -> tensor<?x?x?x127xbf16> {
  %o = attn.fused %q, %q, %q : tensor<?x?x?x127xbf16>, tensor<?x?x?x127xbf16>, tensor<?x?x?x127xbf16> -> tensor<?x?x?x127xbf16>
  return %o : tensor<?x?x?x127xbf16>
}

// HOPPER: tile.kernel @softmax_d127_attention
// HOPPER-SAME: block_m = 192, block_n = 80, consumers = 3, stages = 3
func.func @softmax_d127(%q: tensor<?x?x?x127xbf16>) -> tensor<?x?x?x127xbf16> {
  %o = attn.fused %q, %q, %q normalize softmax : tensor<?x?x?x127xbf16>, tensor<?x?x?x127xbf16>, tensor<?x?x?x127xbf16> -> tensor<?x?x?x127xbf16>
  return %o : tensor<?x?x?x127xbf16>
}

// HOPPER: tile.kernel @softmax_d255_attention
// HOPPER-SAME: block_m = 128, block_n = 48, consumers = 2, stages = 3
func.func @softmax_d255(%q: tensor<?x?x?x255xbf16>) -> tensor<?x?x?x255xbf16> {
  %o = attn.fused %q, %q, %q normalize softmax : tensor<?x?x?x255xbf16>, tensor<?x?x?x255xbf16>, tensor<?x?x?x255xbf16> -> tensor<?x?x?x255xbf16>
  return %o : tensor<?x?x?x255xbf16>
}

// HOPPER: tile.kernel @d255_attention
// HOPPER-SAME: block_m = 128, block_n = 48, consumers = 2, stages = 3
func.func @d255(%q: tensor<?x?x?x255xbf16>) -> tensor<?x?x?x255xbf16> {
  %o = attn.fused %q, %q, %q : tensor<?x?x?x255xbf16>, tensor<?x?x?x255xbf16>, tensor<?x?x?x255xbf16> -> tensor<?x?x?x255xbf16>
  return %o : tensor<?x?x?x255xbf16>
}

// HOPPER: tile.kernel @d192_attention
// HOPPER-SAME: block_m = 128, block_n = 112, consumers = 2, stages = 2
func.func @d192(%q: tensor<?x?x?x192xbf16>) -> tensor<?x?x?x192xbf16> {
  %o = attn.fused %q, %q, %q : tensor<?x?x?x192xbf16>, tensor<?x?x?x192xbf16>, tensor<?x?x?x192xbf16> -> tensor<?x?x?x192xbf16>
  return %o : tensor<?x?x?x192xbf16>
}

// HOPPER: tile.kernel @d256_attention
// HOPPER-SAME: block_m = 128, block_n = 80, consumers = 2, stages = 2
// CPU: tile.kernel @d256_attention
// CPU-SAME: schedule(#tile.schedule<block_m = 128, block_n = 32>)
func.func @d256(%q: tensor<?x?x?x256xbf16>) -> tensor<?x?x?x256xbf16> {
  %o = attn.fused %q, %q, %q : tensor<?x?x?x256xbf16>, tensor<?x?x?x256xbf16>, tensor<?x?x?x256xbf16> -> tensor<?x?x?x256xbf16>
  return %o : tensor<?x?x?x256xbf16>
}

// An op's own schedule comes before the cost model, not before the option.
// HOPPER: tile.kernel @own_attention
// HOPPER-SAME: schedule(#tile.schedule<block_m = 64, block_n = 32>)
// OVERRIDE: tile.kernel @own_attention
// OVERRIDE-SAME: schedule(#tile.schedule<block_m = 32, block_n = 16>)
func.func @own(%q: tensor<?x?x?x64xbf16>) -> tensor<?x?x?x64xbf16> {
  %o = attn.fused %q, %q, %q {tile.schedule = #tile.schedule<block_m = 64, block_n = 32>} : tensor<?x?x?x64xbf16>, tensor<?x?x?x64xbf16>, tensor<?x?x?x64xbf16> -> tensor<?x?x?x64xbf16>
  return %o : tensor<?x?x?x64xbf16>
}
