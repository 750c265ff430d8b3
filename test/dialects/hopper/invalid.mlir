// RUN: attnc-opt %s -split-input-file -verify-diagnostics

// expected-error@+1 {{a fragment of layout 'acc' has 64 rows, got 32x8x'f32'}}
func.func private @f(!hopper.frag<32x8xf32, acc>)

// -----

// expected-error@+1 {{a fragment of layout 'a' has 64 rows and a multiple of 16 columns of 16 bits, got 64x24x'bf16'}}
func.func private @f(!hopper.frag<64x24xbf16, a>)

// -----

// expected-error@+1 {{a fragment of layout 'row' is 64x1, got 64x2x'f32'}}
func.func private @f(!hopper.frag<64x2xf32, row>)

// -----

// expected-error@+1 {{a fragment of layout 'col' has one row, got 2x2x'f32'}}
func.func private @f(!hopper.frag<2x2xf32, col>)

// -----

// expected-error@+1 {{expected a layout acc, a, row or col, got 'b'}}
func.func private @f(!hopper.frag<64x8xf32, b>)

// -----

// expected-error@+1 {{expected 3 dims, got 2}}
func.func private @f(!hopper.ring<64x8xbf16>)

// -----

// expected-error@+1 {{a ring holds 16-bit elements, got 'f32'}}
func.func private @f(!hopper.ring<2x64x8xf32>)

// -----

// expected-error@+1 {{a ring needs a stage, rows a multiple of 8 up to 256, and a column, got 2x512x8}}
func.func private @f(!hopper.ring<2x512x8xbf16>)

// -----

// expected-error@+1 {{products accumulate in f32, got 'f16'}}
func.func private @f(!hopper.pending<64x8xf16>)

// -----

// expected-error@+1 {{roles: one producer of 40 and 2 consumers of 240 registers need 520 a lane, more than the pool of 504}}
func.func private @f() attributes {a = #hopper.roles<consumers = 2, producer_registers = 40, consumer_registers = 240>}

// -----

// expected-error@+1 {{roles: registers must be a multiple of 8 from 24 to 240, got 20}}
func.func private @f() attributes {a = #hopper.roles<consumers = 2, producer_registers = 20, consumer_registers = 240>}

// -----

// expected-error@+1 {{roles: expected 1 to 4 resident thread blocks, got 5}}
func.func private @f() attributes {a = #hopper.roles<consumers = 1, producer_registers = 24, consumer_registers = 64, resident = 5>}

// -----

// expected-error@+1 {{roles: one producer of 24 and 1 consumers of 240 registers need 264 a lane, more than the pool of 256}}
func.func private @f() attributes {a = #hopper.roles<consumers = 1, producer_registers = 24, consumer_registers = 240, resident = 2>}

// -----

// expected-error@+1 {{roles: expected 1 to 4 consumers, got 5}}
func.func private @f() attributes {a = #hopper.roles<consumers = 5, producer_registers = 24, consumer_registers = 64>}

// -----

// expected-error@+1 {{must have one hopper.producer and one hopper.consumers}}
hopper.kernel @k() roles(#hopper.roles<consumers = 1, producer_registers = 24, consumer_registers = 240>) {
  %zero = arith.constant 0 : index
}

// -----

func.func @f(%v: !tile.view<?x64xbf16>) {
  // expected-error@+1 {{order must name each dim of the view once}}
  %m = hopper.tensor_map %v order [1, 1] box [64, 64] : !tile.view<?x64xbf16>
  return
}

// -----

func.func @f(%v: !tile.view<?x64xbf16>) {
  // expected-error@+1 {{a box row is one panel of 64 columns, got 32}}
  %m = hopper.tensor_map %v order [1, 0] box [32, 64] : !tile.view<?x64xbf16>
  return
}

// -----

func.func @f(%a: !hopper.smem<64x64xbf16>, %b: !hopper.smem<128x32xbf16>) {
  // expected-error@+1 {{inner sizes differ: 64 and 32}}
  %p = hopper.wgmma %a, %b transpose_b : !hopper.smem<64x64xbf16>, !hopper.smem<128x32xbf16> -> !hopper.pending<64x128xf32>
  hopper.commit
  %s = hopper.wait %p : !hopper.pending<64x128xf32> -> !hopper.frag<64x128xf32, acc>
  return
}

// -----

func.func @f(%a: !hopper.smem<64x64xbf16>, %b: !hopper.smem<128x64xf16>) {
  // expected-error@+1 {{operands must both be bf16 or both f16}}
  %p = hopper.wgmma %a, %b transpose_b : !hopper.smem<64x64xbf16>, !hopper.smem<128x64xf16> -> !hopper.pending<64x128xf32>
  hopper.commit
  %s = hopper.wait %p : !hopper.pending<64x128xf32> -> !hopper.frag<64x128xf32, acc>
  return
}

// -----

func.func @f(%a: !hopper.smem<64x64xbf16>, %b: !hopper.smem<128x64xbf16>) {
  %p = hopper.wgmma %a, %b transpose_b : !hopper.smem<64x64xbf16>, !hopper.smem<128x64xbf16> -> !hopper.pending<64x128xf32>
  // expected-error@+1 {{waits for a product that is not committed}}
  %s = hopper.wait %p : !hopper.pending<64x128xf32> -> !hopper.frag<64x128xf32, acc>
  return
}

// -----

func.func @f(%a: !hopper.smem<64x64xbf16>, %b: !hopper.smem<128x64xbf16>, %k: !hopper.smem<64x64xbf16>) {
  %p = hopper.wgmma %a, %k transpose_b : !hopper.smem<64x64xbf16>, !hopper.smem<64x64xbf16> -> !hopper.pending<64x64xf32>
  // expected-error@+1 {{acc must be 64x128xf32 of layout 'acc', or a pending one, got '!hopper.pending<64x64xf32>'}}
  %q = hopper.wgmma %a, %b acc %p : !hopper.pending<64x64xf32> transpose_b : !hopper.smem<64x64xbf16>, !hopper.smem<128x64xbf16> -> !hopper.pending<64x128xf32>
  hopper.commit
  %s = hopper.wait %q : !hopper.pending<64x128xf32> -> !hopper.frag<64x128xf32, acc>
  return
}

// -----

func.func @f(%a: !hopper.smem<64x64xbf16>, %b: !hopper.smem<128x64xbf16>) {
  // expected-error@+1 {{the pending result has one use}}
  %p = hopper.wgmma %a, %b transpose_b : !hopper.smem<64x64xbf16>, !hopper.smem<128x64xbf16> -> !hopper.pending<64x128xf32>
  hopper.commit
  %s:2 = hopper.wait %p, %p : !hopper.pending<64x128xf32>, !hopper.pending<64x128xf32> -> !hopper.frag<64x128xf32, acc>, !hopper.frag<64x128xf32, acc>
  return
}

// -----

func.func @f(%x: !hopper.frag<64x8xf32, acc>) {
  // expected-error@+1 {{a thread holds 1 or 2 neighbours}}
  %y = hopper.map(%x : !hopper.frag<64x8xf32, acc>) width 4 {
  ^bb0(%a: f32, %b: f32, %c: f32, %d: f32, %r: i32, %k: i32):
    hopper.yield %a, %b, %c, %d : f32, f32, f32, f32
  } : !hopper.frag<64x8xf32, acc>
  return
}

// -----

func.func @f(%x: !hopper.frag<64x8xf32, acc>) {
  // expected-error@+1 {{cannot convert}}
  %y = hopper.convert %x : !hopper.frag<64x8xf32, acc> -> !hopper.frag<64x16xbf16, a>
  return
}

// -----

func.func @f(%x: !hopper.frag<64x64xf32, acc>, %v: !tile.view<?x?xf32>, %s: !hopper.smem<128x64xbf16>, %i: index) {
  %r = hopper.rows %s[%i] : !hopper.smem<128x64xbf16> -> !hopper.smem<64x64xbf16>
  // expected-error@+1 {{goes through the hopper.rows of a slot at least as wide, as a fragment of layout 'acc' of 16-bit elements}}
  hopper.store %x, %v[] by affine_map<(r, c) -> (r, c)> through %r : !hopper.smem<64x64xbf16> : !hopper.frag<64x64xf32, acc>, !tile.view<?x?xf32>
  return
}

// -----

hopper.kernel @f(%v: !tile.view<?x64xbf16>) roles(#hopper.roles<consumers = 2, producer_registers = 56, consumer_registers = 224, persistent = false>) {
  %ring = hopper.ring "value" : !hopper.ring<2x64x64xbf16>
  hopper.producer {
    %c = hopper.start
    // expected-error@+1 {{needs a cooperative producer}}
    hopper.copy_elements %v[] by affine_map<(r, c) -> (r, c)> to %ring[%c] : !tile.view<?x64xbf16>, !hopper.ring<2x64x64xbf16>
  }
  hopper.consumers (%wg) {
  }
}

// -----

func.func @f(%a: !hopper.frag<64x64xbf16, a>, %r: !hopper.ring<2x128x128xbf16>, %i: index) {
  %c = hopper.start
  // expected-error@+1 {{puts a fragment of layout 'a' as wide as the ring}}
  hopper.put %a to %r[%c] rows %i : !hopper.frag<64x64xbf16, a>, !hopper.ring<2x128x128xbf16>
  return
}

// -----

func.func @f(%s: !hopper.smem<128x128xbf16>, %i: index) {
  // expected-error@+1 {{gives 64 columns of}}
  %r = hopper.columns %s[%i] : !hopper.smem<128x128xbf16> -> !hopper.smem<128x32xbf16>
  return
}

// -----

func.func @f(%a: !hopper.frag<64x64xbf16, a>, %b: !hopper.smem<64x64xbf16>) {
  // expected-error@+1 {{transposes a left operand in shared memory only}}
  %p = hopper.wgmma %a, %b transpose_a : !hopper.frag<64x64xbf16, a>, !hopper.smem<64x64xbf16> -> !hopper.pending<64x64xf32>
  hopper.commit
  %s = hopper.wait %p : !hopper.pending<64x64xf32> -> !hopper.frag<64x64xf32, acc>
  return
}

// -----

func.func @f(%x: !hopper.frag<64x64xbf16, acc>, %v: !tile.view<?x?xbf16>) {
  // expected-error@+1 {{adds f32 elements only}}
  hopper.store add %x, %v[] by affine_map<(r, c) -> (r, c)> : !hopper.frag<64x64xbf16, acc>, !tile.view<?x?xbf16>
  return
}

// -----

hopper.kernel @f(%v: !tile.view<?x64xf32>) roles(#hopper.roles<consumers = 2, producer_registers = 24, consumer_registers = 240>) {
  // expected-error@+1 {{has 64 rows of f32, or 8 of 32 bits, in a multiple of 8 columns}}
  %sums = hopper.scratch "sums" : !hopper.smem<64x64xbf16>
  hopper.producer {
  }
  hopper.consumers (%wg) {
  }
}

// -----

func.func @f(%x: !hopper.frag<64x64xf32, acc>, %v: !tile.view<?x64xf32>, %s: !hopper.smem<64x64xf32>) {
  // expected-error@+1 {{adds through a hopper.scratch as wide}}
  hopper.store add %x, %v[] by affine_map<(r, c) -> (r, c)> through %s : !hopper.smem<64x64xf32> : !hopper.frag<64x64xf32, acc>, !tile.view<?x64xf32>
  return
}

// -----

func.func @f(%v: !tile.view<?xbf16>, %s: !hopper.smem<8x64xf32>, %at: index) {
  // expected-error@+1 {{takes elements of 32 bits to 8 rows of a multiple of 32 columns}}
  hopper.prefetch %v[%at] by affine_map<(r, c)[at] -> (at + c)> to %s[%at] : !tile.view<?xbf16>, !hopper.smem<8x64xf32>
  return
}

// -----

func.func @f(%s: !hopper.smem<8x64xf32>, %at: index) {
  // expected-error@+1 {{gives at most the columns of the scratch}}
  %x = hopper.fetch %s[%at] : !hopper.smem<8x64xf32> -> !hopper.frag<1x80xf32, col>
  return
}

// -----

// expected-error@+1 {{roles: expected a cluster of 1, 2 or 4 thread blocks, got 3}}
func.func private @f() attributes {a = #hopper.roles<consumers = 1, producer_registers = 24, consumer_registers = 64, cluster = 3>}

// -----

hopper.kernel @k(%k: !tile.view<?x64xbf16>) roles(#hopper.roles<consumers = 1, producer_registers = 32, consumer_registers = 208>) {
  hopper.producer {
    // expected-error@+1 {{needs a kernel whose roles have a cluster}}
    %r = hopper.rank
  }
  hopper.consumers (%wg) {
  }
}

// -----

hopper.kernel @k(%k: !tile.view<?x64xbf16>) roles(#hopper.roles<consumers = 1, producer_registers = 32, consumer_registers = 208>) {
  // expected-error@+1 {{is multicast in a cluster only, and the kernel's roles have none}}
  %r = hopper.ring "key" multicast : !hopper.ring<2x64x64xbf16>
  hopper.producer {
  }
  hopper.consumers (%wg) {
  }
}

// -----

hopper.kernel @k(%k: !tile.view<?x64xbf16>) roles(#hopper.roles<consumers = 1, producer_registers = 32, consumer_registers = 208, cluster = 2>) {
  // expected-error@+1 {{is filled in 2 parts of a multiple of 8 rows, got 40}}
  %r = hopper.ring "key" multicast : !hopper.ring<2x40x64xbf16>
  hopper.producer {
  }
  hopper.consumers (%wg) {
  }
}

// -----

#row = affine_map<(r, c)[i] -> (i + r, c)>
hopper.kernel @k(%k: !tile.view<?x64xbf16>) roles(#hopper.roles<consumers = 1, producer_registers = 32, consumer_registers = 208, cluster = 2>) {
  // expected-error@+1 {{is filled by bulk copies only where it is multicast}}
  %r = hopper.ring "key" multicast : !hopper.ring<2x64x64xbf16>
  hopper.producer cooperative {
    %c = hopper.start
    %i = hopper.block
    hopper.copy_elements %k[%i] by #row to %r[%c] : !tile.view<?x64xbf16>, !hopper.ring<2x64x64xbf16>
  }
  hopper.consumers (%wg) {
  }
}

// -----

hopper.kernel @k(%k: !tile.view<?x64xbf16>) roles(#hopper.roles<consumers = 1, producer_registers = 32, consumer_registers = 208, cluster = 2>) {
  %m = hopper.tensor_map %k order [1, 0] box [64, 32] : !tile.view<?x64xbf16>
  %r = hopper.ring "key" multicast : !hopper.ring<2x64x64xbf16>
  hopper.producer {
    %c = hopper.start
    %i = hopper.block
    // expected-error@+1 {{to a multicast ring needs a part}}
    hopper.copy %m[%i, %i] to %r[%c] : !hopper.ring<2x64x64xbf16>
  }
  hopper.consumers (%wg) {
  }
}

// -----

hopper.kernel @k(%k: !tile.view<?x64xbf16>) roles(#hopper.roles<consumers = 1, producer_registers = 32, consumer_registers = 208, cluster = 2>) {
  %m = hopper.tensor_map %k order [1, 0] box [64, 64] : !tile.view<?x64xbf16>
  %r = hopper.ring "key" : !hopper.ring<2x64x64xbf16>
  hopper.producer {
    %c = hopper.start
    %i = hopper.block
    // expected-error@+1 {{has a part, and the ring is not multicast}}
    hopper.copy %m[%i, %i] to %r[%c] part %i : !hopper.ring<2x64x64xbf16>
  }
  hopper.consumers (%wg) {
  }
}

// -----

hopper.kernel @k(%k: !tile.view<?x64xbf16>) roles(#hopper.roles<consumers = 1, producer_registers = 32, consumer_registers = 208, cluster = 2>) {
  %m = hopper.tensor_map %k order [1, 0] box [64, 64] : !tile.view<?x64xbf16>
  %r = hopper.ring "key" multicast : !hopper.ring<2x64x64xbf16>
  hopper.producer {
    %c = hopper.start
    %i = hopper.block
    // expected-error@+1 {{fills 32 rows of the ring, got a box of 64}}
    hopper.copy %m[%i, %i] to %r[%c] part %i : !hopper.ring<2x64x64xbf16>
  }
  hopper.consumers (%wg) {
  }
}

// -----

hopper.kernel @k(%k: !tile.view<?x64xbf16>) roles(#hopper.roles<consumers = 1, producer_registers = 32, consumer_registers = 208, cluster = 2>) {
  %m = hopper.tensor_map %k order [1, 0] box [64, 32] : !tile.view<?x64xbf16>
  %r = hopper.ring "key" : !hopper.ring<2x64x64xbf16>
  hopper.producer {
    %c = hopper.start
    %i = hopper.block
    // expected-error@+1 {{fills 64 rows of the ring, got a box of 32}}
    hopper.copy %m[%i, %i] to %r[%c] : !hopper.ring<2x64x64xbf16>
  }
  hopper.consumers (%wg) {
  }
}
