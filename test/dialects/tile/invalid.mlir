// RUN: attnc-opt %s -split-input-file -verify-diagnostics

// expected-error@+1 {{a tile has two dims, got 3}}
func.func private @f(!tile.tile<2x3x4xf32>)

// -----

// expected-error@+1 {{a tile needs at least one row and one column, got 0 x 4}}
func.func private @f(!tile.tile<0x4xf32>)

// -----

// expected-error@+1 {{a tile's elements are f32, f16, bf16, f8E4M3FN, f8E5M2, i1, i8 or i32, got 'f64'}}
func.func private @f(!tile.tile<4x4xf64>)

// -----

// expected-error@+1 {{a view's elements are f32, f16, bf16, f8E4M3FN, f8E5M2, i1, i8 or i32, got 'i64'}}
func.func private @f(!tile.view<?x4xi64>)

// -----

// expected-error@+1 {{schedule: block_m and block_n must be at least 1, got 0 and 64}}
#s = #tile.schedule<block_m = 0, block_n = 64>

// -----

// expected-error@+1 {{schedule: splits must be 0 to 64 and fill not negative, got 65 and 0}}
#s = #tile.schedule<block_m = 64, block_n = 64, splits = 65>

// -----

// expected-error@+1 {{schedule: resident must be 1 to 4, got 5}}
#s = #tile.schedule<block_m = 64, block_n = 64, resident = 5>

// -----

// expected-error@+1 {{schedule: consumers, stages and slice must not be negative and cluster at least 1}}
#s = #tile.schedule<block_m = 64, block_n = 64, cluster = 0>

// -----

// expected-error@+1 {{argument 0 must be a view, f32 or i32, got 'f64'}}
tile.program @p(%x: f64) {
}

// -----

// expected-error@+1 {{must end in one tile.items}}
tile.kernel @k(%x: f32) {
}

// -----

// expected-error@+1 {{argument 0 must be a view, f32, i32 or index, got 'i1'}}
tile.kernel @k(%x: i1) {
  tile.items () in () {
  }
}

// -----

tile.program @p(%x: f32) {
  // expected-error@+1 {{no kernel named @missing}}
  tile.launch @missing(%x) : f32
}

// -----

tile.kernel @k(%x: i32) {
  tile.items () in () {
  }
}
tile.program @p(%x: f32) {
  // expected-error@+1 {{operand types do not match '(i32) -> ()'}}
  tile.launch @k(%x) : f32
}

// -----

tile.program @p(%x: f32) {
  // expected-error@+1 {{needs one size for each dynamic dim: expected 1, got 0}}
  %w = tile.workspace() : !tile.view<?x4xf32>
}

// -----

tile.kernel @k(%v: !tile.view<?x4xf32>) {
  // expected-error@+1 {{dim 2 is not in a view of rank 2}}
  %n = tile.dim %v, 2 : !tile.view<?x4xf32>
  tile.items () in () {
  }
}

// -----

tile.kernel @k(%v: !tile.view<?x4xf32>) {
  tile.items () in () {
    %c0 = arith.constant 0 : index
    // expected-error@+1 {{needs a map from (row, column) and one symbol for each of the 1 coordinates to the 2 dims of the view}}
    %t = tile.load %v[%c0] by affine_map<(r, c) -> (r, c)> : !tile.view<?x4xf32> -> !tile.tile<4x4xf32>
  }
}

// -----

tile.kernel @k(%v: !tile.view<?x4xf32>) {
  tile.items () in () {
    // expected-error@+1 {{element types differ: 'bf16' and 'f32'}}
    %t = tile.load %v[] by affine_map<(r, c) -> (r, c)> : !tile.view<?x4xf32> -> !tile.tile<4x4xbf16>
  }
}

// -----

tile.kernel @k(%v: !tile.view<?x4xf32>, %table: !tile.view<?xi32>) {
  tile.items () in () {
    %c0 = arith.constant 0 : index
    // expected-error@+1 {{the page table must be a view of rank 2 of i32}}
    %t = tile.load %v[] by affine_map<(r, c) -> (r, c)> pages %table[%c0] size %c0 dims 0, 1 : !tile.view<?xi32> : !tile.view<?x4xf32> -> !tile.tile<4x4xf32>
  }
}

// -----

tile.kernel @k(%v: !tile.view<?x4xf32>, %table: !tile.view<?x?xi32>) {
  tile.items () in () {
    %c0 = arith.constant 0 : index
    // expected-error@+1 {{page and sequence dims must be two dims of the view, got 1 and 1}}
    %t = tile.load %v[] by affine_map<(r, c) -> (r, c)> pages %table[%c0] size %c0 dims 1, 1 : !tile.view<?x?xi32> : !tile.view<?x4xf32> -> !tile.tile<4x4xf32>
  }
}

// -----

tile.kernel @k(%v: !tile.view<?x4xbf16>) {
  tile.items () in () {
    %c0 = arith.constant 0 : index
    // expected-error@+1 {{needs 2 coordinates, got 1}}
    %x = tile.load_scalar %v[%c0] : !tile.view<?x4xbf16> -> f32
  }
}

// -----

tile.kernel @k(%v: !tile.view<?xbf16>) {
  tile.items () in () {
    %c0 = arith.constant 0 : index
    // expected-error@+1 {{a view of 'bf16' gives f32, got 'i32'}}
    %x = tile.load_scalar %v[%c0] : !tile.view<?xbf16> -> i32
  }
}

// -----

func.func @f(%a: !tile.tile<8x16xf32>, %b: !tile.tile<8x16xf32>) {
  // expected-error@+1 {{inner sizes differ: 16 and 8}}
  %c = tile.dot %a, %b : !tile.tile<8x16xf32>, !tile.tile<8x16xf32> -> !tile.tile<8x16xf32>
  return
}

// -----

func.func @f(%a: !tile.tile<8x16xf32>, %b: !tile.tile<4x16xf32>) {
  // expected-error@+1 {{the result must be 8x4xf32, got '!tile.tile<4x8xf32>'}}
  %c = tile.dot %a, %b transpose_b : !tile.tile<8x16xf32>, !tile.tile<4x16xf32> -> !tile.tile<4x8xf32>
  return
}

// -----

func.func @f(%a: !tile.tile<8x16xf32>) {
  // expected-error@+1 {{width 3 does not divide the 16 columns}}
  %c = tile.map(%a : !tile.tile<8x16xf32>) width 3 {
  ^bb0(%x: f32, %y: f32, %z: f32, %r: i32, %k: i32):
    tile.yield %x, %y, %z : f32, f32, f32
  } : !tile.tile<8x16xf32>
  return
}

// -----

func.func @f(%a: !tile.tile<8x3xf32>) {
  // expected-error@+1 {{operand of type '!tile.tile<8x3xf32>' does not broadcast to '!tile.tile<8x16xf32>'}}
  %c = tile.map(%a : !tile.tile<8x3xf32>) {
  ^bb0(%x: f32, %r: i32, %k: i32):
    tile.yield %x : f32
  } : !tile.tile<8x16xf32>
  return
}

// -----

func.func @f(%a: !tile.tile<8x16xf32>) {
  // expected-error@+1 {{region 'map' must have arguments of types ('f32', 'i32', 'i32'), got ('f32')}}
  %c = tile.map(%a : !tile.tile<8x16xf32>) {
  ^bb0(%x: f32):
    tile.yield %x : f32
  } : !tile.tile<8x16xf32>
  return
}

// -----

func.func @f(%a: !tile.tile<8x16xf32>) {
  // expected-error@+1 {{region 'mask' must end in a tile.yield of ('i1')}}
  %c = tile.mask %a fill 0.0 {
  ^bb0(%r: i32, %k: i32):
    tile.yield %r : i32
  } : !tile.tile<8x16xf32>
  return
}

// -----

func.func @f(%a: !tile.tile<8x16xf32>) {
  // expected-error@+1 {{region 'common' must yield a guard (f32) and at least one shared value}}
  %c = tile.speculate(%a : !tile.tile<8x16xf32>) slice 8 limits [1.0] common {
  ^bb0(%x: f32, %r: i32, %k: i32):
    tile.yield %x : f32
  } fast {
  ^bb0(%x: f32, %r: i32, %k: i32):
    tile.yield %x : f32
  } exact {
  ^bb0(%x: f32, %r: i32, %k: i32):
    tile.yield %x : f32
  } : !tile.tile<8x16xf32>
  return
}

// -----

func.func @f(%a: !tile.tile<8x16xf32>) {
  // expected-error@+1 {{needs one limit for each 'fast' region and at least one, got 2 limits and 1 regions}}
  %c = tile.speculate(%a : !tile.tile<8x16xf32>) slice 8 limits [1.0, 2.0] common {
  ^bb0(%x: f32, %r: i32, %k: i32):
    tile.yield %x, %x : f32, f32
  } fast {
  ^bb0(%x: f32, %r: i32, %k: i32):
    tile.yield %x : f32
  } exact {
  ^bb0(%x: f32, %r: i32, %k: i32):
    tile.yield %x : f32
  } : !tile.tile<8x16xf32>
  return
}

// -----

func.func @f(%a: !tile.tile<8x16xf32>) {
  // expected-error@+1 {{limits must not be negative}}
  %c = tile.speculate(%a : !tile.tile<8x16xf32>) slice 8 limits [-1.0] common {
  ^bb0(%x: f32, %r: i32, %k: i32):
    tile.yield %x, %x : f32, f32
  } fast {
  ^bb0(%x: f32, %r: i32, %k: i32):
    tile.yield %x : f32
  } exact {
  ^bb0(%x: f32, %r: i32, %k: i32):
    tile.yield %x : f32
  } : !tile.tile<8x16xf32>
  return
}

// -----

func.func @f(%a: !tile.tile<8x16xf32>) {
  // expected-error@+1 {{limits must rise}}
  %c = tile.speculate(%a : !tile.tile<8x16xf32>) slice 8 limits [2.0, 1.0] common {
  ^bb0(%x: f32, %r: i32, %k: i32):
    tile.yield %x, %x : f32, f32
  } fast {
  ^bb0(%x: f32, %r: i32, %k: i32):
    tile.yield %x : f32
  }, {
  ^bb0(%x: f32, %r: i32, %k: i32):
    tile.yield %x : f32
  } exact {
  ^bb0(%x: f32, %r: i32, %k: i32):
    tile.yield %x : f32
  } : !tile.tile<8x16xf32>
  return
}

// -----

func.func @f(%a: !tile.tile<8x16xf32>) {
  // expected-error@+1 {{a formula of 3 elements does not divide a slice of 8 columns}}
  %c = tile.speculate(%a : !tile.tile<8x16xf32>) slice 8 limits [1.0] common {
  ^bb0(%x: f32, %r: i32, %k: i32):
    tile.yield %x, %x : f32, f32
  } fast {
  ^bb0(%x: f32, %y: f32, %z: f32, %r: i32, %k: i32):
    tile.yield %x, %y, %z : f32, f32, f32
  } exact {
  ^bb0(%x: f32, %r: i32, %k: i32):
    tile.yield %x : f32
  } : !tile.tile<8x16xf32>
  return
}

// -----

func.func @f(%a: !tile.tile<8x16xf32>) {
  // expected-error@+1 {{region 'fast' must have arguments of types ('f32', 'f32', 'i32', 'i32'), got ('f32', 'i32', 'i32')}}
  %c = tile.speculate(%a : !tile.tile<8x16xf32>) slice 8 limits [1.0] common {
  ^bb0(%x: f32, %r: i32, %k: i32):
    tile.yield %x, %x : f32, f32
  } fast {
  ^bb0(%x: f32, %r: i32, %k: i32):
    tile.yield %x, %x : f32, f32
  } exact {
  ^bb0(%x: f32, %r: i32, %k: i32):
    tile.yield %x : f32
  } : !tile.tile<8x16xf32>
  return
}

// -----

func.func @f(%a: !tile.tile<8x16xf32>) {
  // expected-error@+1 {{the result must be 8x1x'f32', got '!tile.tile<1x16xf32>'}}
  %c = tile.reduce add %a : !tile.tile<8x16xf32> -> !tile.tile<1x16xf32>
  return
}

// -----

func.func @f(%a: !tile.tile<8x16xf32>) {
  // expected-error@+1 {{shapes differ: '!tile.tile<8x16xf32>' and '!tile.tile<16x8xbf16>'}}
  %c = tile.cast %a : !tile.tile<8x16xf32> -> !tile.tile<16x8xbf16>
  return
}

// -----

func.func @f(%x: !tile.tile<8x16xf32>, %m: !tile.tile<4x1xf32>) {
  // expected-error@+1 {{the running maximum must be 8x1, got '!tile.tile<4x1xf32>'}}
  %p, %a, %m1, %l1 = tile.softmax_step %x, %m, %m : !tile.tile<8x16xf32>, !tile.tile<4x1xf32>
  return
}

// -----

func.func @f(%x: f32) {
  // expected-error@+1 {{value and tile differ: 'f32' and '!tile.tile<4x1xi32>'}}
  %t = tile.splat %x : f32 -> !tile.tile<4x1xi32>
  return
}

// -----

func.func @f(%x: !tile.tile<4x4xbf16>, %v: !tile.view<?x?xbf16>) {
  // expected-error@+1 {{adds f32 elements only}}
  tile.store add %x, %v[] by affine_map<(r, c) -> (r, c)> : !tile.tile<4x4xbf16>, !tile.view<?x?xbf16>
  return
}

// -----

tile.kernel @rows() {
  %one = arith.constant 1 : index
  tile.items (%b) in (%one) {
    // expected-error@+1 {{rows must be one region that takes the first row and the count and yields lo, fullLo, fullHi and hi, all of type index}}
    tile.for_keys %j in (%one, %one, %one, %one) step 16 {
    } rows {
    ^bb0(%first: index, %count: index):
      tile.yield %first, %count : index, index
    }
  }
}
