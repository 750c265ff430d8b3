// RUN: attnc-opt %s --tile-to-cpu --split-input-file --verify-diagnostics
// RUN: not attnc-opt %s --tile-to-cpu=lanes=5 --split-input-file 2>&1 \
// RUN:   | FileCheck %s
// CHECK: tile-to-cpu: lanes must be 4, 8 or 16, got 5

tile.kernel @huge() {
  tile.items () in () {
    %f0 = arith.constant 0.0 : f32
    // expected-error @below {{makes '!tile.tile<100000x100000xf32>', but a tile on the CPU has at most 16777216 elements; choose a smaller block_m or block_n}}
    %x = tile.splat %f0 : f32 -> !tile.tile<100000x100000xf32>
  }
}

// -----

!view = !tile.view<?xf32>
tile.kernel @carried(%a: !view) {
  tile.items () in () {
    %zero = arith.constant 0 : index
    // expected-error @below {{cannot carry a view ('!tile.view<?xf32>') on the CPU; carry coordinates}}
    %x = tile.for_keys %j in (%zero, %zero, %zero, %zero) step 4
        iter_args(%b = %a) -> (!view) {
      tile.yield %b : !view
    }
  }
}

// -----

tile.kernel @vectors() {
  tile.items () in () {
    %x = tile.map() {
    ^bb0(%r: i32, %c: i32):
      // expected-error @below {{is not supported in a region of tile ops on the CPU}}
      %v = arith.constant dense<1.0> : vector<4xf32>
      %f = arith.constant 1.0 : f32
      tile.yield %f : f32
    } : !tile.tile<4x4xf32>
  }
}

// -----

tile.kernel @unexpanded(%s: f32) {
  tile.items () in () {
    %x = tile.splat %s : f32 -> !tile.tile<16x8xf32>
    %m = tile.splat %s : f32 -> !tile.tile<16x1xf32>
    // expected-error @below {{is not supported by the CPU target; it takes tile ops after tile-online-softmax}}
    %w, %a, %n, %l = tile.softmax_step %x, %m, %m : !tile.tile<16x8xf32>, !tile.tile<16x1xf32>
  }
}

// -----

tile.kernel @integers() {
  tile.items () in () {
    %i = arith.constant 1 : i32
    %x = tile.splat %i : i32 -> !tile.tile<4x4xi32>
    // expected-error @below {{on the CPU needs float operands; cast integers first}}
    %y = tile.dot %x, %x : !tile.tile<4x4xi32>, !tile.tile<4x4xi32> -> !tile.tile<4x4xf32>
  }
}

// -----

!view = !tile.view<?xf32>
tile.kernel @chosen(%a: !view, %b: !view, %n: i32) {
  tile.items () in () {
    %zero = arith.constant 0 : i32
    %first = arith.cmpi sgt, %n, %zero : i32
    // expected-error @below {{is not supported by the CPU target}}
    %c = arith.select %first, %a, %b : !view
  }
}
