// RUN: attnc-opt %s -tile-to-hopper -split-input-file -verify-diagnostics

!q = !tile.view<?x64xbf16>

// expected-error@+1 {{schedule: each consumer warpgroup owns 64 rows, so block_m must be 64 * consumers with 1 to 4 consumers, got block_m = 100 and consumers = 2}}
tile.kernel @rows(%q: !q) schedule(#tile.schedule<block_m = 100, block_n = 64, consumers = 2>) {
  %one = arith.constant 1 : index
  tile.items (%i) in (%one) {
  }
}

// -----

// expected-error@+1 {{schedule: block_n must be a multiple of 16 up to 256, got 40}}
tile.kernel @columns(%q: !tile.view<?x64xbf16>) schedule(#tile.schedule<block_m = 64, block_n = 40, consumers = 1>) {
  %one = arith.constant 1 : index
  tile.items (%i) in (%one) {
  }
}

// -----

// expected-error@+1 {{has no schedule for a GPU}}
tile.kernel @cpu(%q: !tile.view<?x64xbf16>) schedule(#tile.schedule<block_m = 64, block_n = 64>) {
  %one = arith.constant 1 : index
  tile.items (%i) in (%one) {
  }
}

// -----

#row = affine_map<(r, c)[i] -> (i + r, c)>
// expected-error@+1 {{schedule: needs 393312 bytes of shared memory, a thread block has 232448; try fewer stages or a smaller block_n}}
tile.kernel @shared(%q: !tile.view<?x256xbf16>, %o: !tile.view<?x128xf32>) schedule(#tile.schedule<block_m = 128, block_n = 128, consumers = 2, stages = 5>) {
  %one = arith.constant 1 : index
  %zero = arith.constant 0 : index
  %f0 = arith.constant 0.0 : f32
  tile.items (%i) in (%one) {
    %t = tile.load %q[%i] by #row : !tile.view<?x256xbf16> -> !tile.tile<128x256xbf16>
    %a0 = tile.splat %f0 : f32 -> !tile.tile<128x128xf32>
    %n = tile.dim %q, 0 : !tile.view<?x256xbf16>
    %r = tile.for_keys %j in (%zero, %zero, %n, %n) step 128 iter_args(%a = %a0) -> (!tile.tile<128x128xf32>) {
      %k = tile.load %q[%j] by #row : !tile.view<?x256xbf16> -> !tile.tile<128x256xbf16>
      %s = tile.dot %t, %k acc %a : !tile.tile<128x128xf32> transpose_b : !tile.tile<128x256xbf16>, !tile.tile<128x256xbf16> -> !tile.tile<128x128xf32>
      tile.yield %s : !tile.tile<128x128xf32>
    }
    tile.store %r, %o[%i] by #row : !tile.tile<128x128xf32>, !tile.view<?x128xf32>
  }
}

// -----

#row = affine_map<(r, c)[i] -> (i + r, c)>
tile.kernel @f32(%q: !tile.view<?x64xf32>, %o: !tile.view<?x64xf32>) schedule(#tile.schedule<block_m = 64, block_n = 64, consumers = 1>) {
  %one = arith.constant 1 : index
  tile.items (%i) in (%one) {
    // expected-error@+1 {{products on Hopper take bf16 or f16 operands, got 'f32'}}
    %t = tile.load %q[%i] by #row : !tile.view<?x64xf32> -> !tile.tile<64x64xf32>
    %s = tile.dot %t, %t transpose_b : !tile.tile<64x64xf32>, !tile.tile<64x64xf32> -> !tile.tile<64x64xf32>
    tile.store %s, %o[%i] by #row : !tile.tile<64x64xf32>, !tile.view<?x64xf32>
  }
}

// -----

#row = affine_map<(r, c)[i] -> (i + r, c)>
tile.kernel @transposed(%q: !tile.view<?x64xbf16>, %o: !tile.view<?x64xf32>) schedule(#tile.schedule<block_m = 128, block_n = 64, consumers = 2, stages = 2>) {
  %one = arith.constant 1 : index
  %zero = arith.constant 0 : index
  tile.items (%i) in (%one) {
    %t = tile.load %q[%i] by #row : !tile.view<?x64xbf16> -> !tile.tile<128x64xbf16>
    %n = tile.dim %q, 0 : !tile.view<?x64xbf16>
    tile.for_keys %j in (%zero, %zero, %n, %n) step 64 {
      %k = tile.load %q[%j] by #row : !tile.view<?x64xbf16> -> !tile.tile<64x64xbf16>
      %s = tile.dot %t, %k transpose_b : !tile.tile<128x64xbf16>, !tile.tile<64x64xbf16> -> !tile.tile<128x64xf32>
      %w = tile.cast %s : !tile.tile<128x64xf32> -> !tile.tile<128x64xbf16>
      // expected-error@+1 {{one product with transpose_a can be scheduled on Hopper, with order = deferred}}
      %d = tile.dot %w, %t transpose_a : !tile.tile<128x64xbf16>, !tile.tile<128x64xbf16> -> !tile.tile<64x64xf32>
      tile.store add %d, %o[%j] by #row : !tile.tile<64x64xf32>, !tile.view<?x64xf32>
      tile.yield
    }
  }
}

// -----

#row = affine_map<(r, c)[i] -> (i + r, c)>
tile.kernel @rows(%q: !tile.view<?x64xbf16>, %o: !tile.view<?x64xf32>) schedule(#tile.schedule<block_m = 128, block_n = 64, consumers = 2, stages = 2, order = deferred>) {
  %one = arith.constant 1 : index
  %zero = arith.constant 0 : index
  tile.items (%i) in (%one) {
    %t = tile.load %q[%i] by #row : !tile.view<?x64xbf16> -> !tile.tile<128x64xbf16>
    %n = tile.dim %q, 0 : !tile.view<?x64xbf16>
    tile.for_keys %j in (%zero, %zero, %n, %n) step 64 {
      %k = tile.load %q[%j] by #row : !tile.view<?x64xbf16> -> !tile.tile<64x64xbf16>
      %s = tile.dot %t, %k transpose_b : !tile.tile<128x64xbf16>, !tile.tile<64x64xbf16> -> !tile.tile<128x64xf32>
      %w = tile.cast %s : !tile.tile<128x64xf32> -> !tile.tile<128x64xbf16>
      // expected-error@+1 {{a product with transpose_a can only be stored, once and all its rows}}
      %d = tile.dot %w, %t transpose_a : !tile.tile<128x64xbf16>, !tile.tile<128x64xbf16> -> !tile.tile<64x64xf32>
      tile.store add %d, %o[%j] by #row rows %n : !tile.tile<64x64xf32>, !tile.view<?x64xf32>
      tile.yield
    }
  }
}

// -----

#row = affine_map<(r, c)[i] -> (i + r, c)>
// expected-error@+1 {{schedule: with resident = 2 a thread has 128 registers, a product of 256 columns needs 144; try resident = 1}}
tile.kernel @resident(%q: !tile.view<?x64xbf16>, %o: !tile.view<?x256xf32>) schedule(#tile.schedule<block_m = 64, block_n = 64, consumers = 1, resident = 2>) {
  %one = arith.constant 1 : index
  tile.items (%i) in (%one) {
    %t = tile.load %q[%i] by #row : !tile.view<?x64xbf16> -> !tile.tile<64x64xbf16>
    %k = tile.load %q[%i] by #row : !tile.view<?x64xbf16> -> !tile.tile<256x64xbf16>
    %s = tile.dot %t, %k transpose_b : !tile.tile<64x64xbf16>, !tile.tile<256x64xbf16> -> !tile.tile<64x256xf32>
    tile.store %s, %o[%i] by #row : !tile.tile<64x256xf32>, !tile.view<?x256xf32>
  }
}

// -----

#row = affine_map<(r, c)[i] -> (i + r, c)>
// expected-error@+1 {{schedule: cluster = 3 is none of the sizes 1, 2 and 4 that are built; try cluster = 1}}
tile.kernel @three(%q: !tile.view<?x64xbf16>, %o: !tile.view<?x64xf32>) schedule(#tile.schedule<block_m = 64, block_n = 64, consumers = 1, cluster = 3>) {
  %one = arith.constant 1 : index
  %zero = arith.constant 0 : index
  tile.items (%i) in (%one) {
    tile.for_keys %j in (%zero, %zero, %one, %one) step 64 {
      tile.yield
    }
  }
}

// -----

// expected-error@+1 {{schedule: cluster = 2 cannot be combined with order = deferred, whose consumers exchange weights; try cluster = 1}}
tile.kernel @deferred(%q: !tile.view<?x64xbf16>) schedule(#tile.schedule<block_m = 64, block_n = 64, consumers = 1, cluster = 2, order = deferred>) {
  %one = arith.constant 1 : index
  %zero = arith.constant 0 : index
  tile.items (%i) in (%one) {
    tile.for_keys %j in (%zero, %zero, %one, %one) step 64 {
      tile.yield
    }
  }
}

// -----

// expected-error@+1 {{schedule: cluster = 2 needs thread blocks with an SM each and rows of one head: resident = 1, splits = 0, pack_groups = false; try cluster = 1}}
tile.kernel @resident(%q: !tile.view<?x64xbf16>) schedule(#tile.schedule<block_m = 64, block_n = 64, consumers = 1, cluster = 2, resident = 2>) {
  %one = arith.constant 1 : index
  %zero = arith.constant 0 : index
  tile.items (%i) in (%one) {
    tile.for_keys %j in (%zero, %zero, %one, %one) step 64 {
      tile.yield
    }
  }
}

// -----

// expected-error@+1 {{schedule: cluster = 4 needs a block_n that is a multiple of 32, got 80; try cluster = 1}}
tile.kernel @parts(%q: !tile.view<?x64xbf16>) schedule(#tile.schedule<block_m = 64, block_n = 80, consumers = 1, cluster = 4>) {
  %one = arith.constant 1 : index
  %zero = arith.constant 0 : index
  tile.items (%i) in (%one) {
    tile.for_keys %j in (%zero, %zero, %one, %one) step 80 {
      tile.yield
    }
  }
}

// -----

tile.kernel @scalar(%n: !tile.view<?xi32>) schedule(#tile.schedule<block_m = 64, block_n = 64, consumers = 1, cluster = 2>) {
  %one = arith.constant 1 : index
  %zero = arith.constant 0 : index
  tile.items (%i) in (%one) {
    // expected-error@+1 {{schedule: cluster = 2 cannot share work that depends on a number read for each block of queries; try cluster = 1}}
    %x = tile.load_scalar %n[%i] : !tile.view<?xi32> -> i32
    %hi = arith.index_cast %x : i32 to index
    tile.for_keys %j in (%zero, %zero, %hi, %hi) step 64 {
      tile.yield
    }
  }
}

// -----

// What each block of queries reads is its own.
#row = affine_map<(r, c)[i] -> (i + r, c)>
// expected-error@+1 {{schedule: cluster = 2 has nothing to share: no operand of a product in the loop over keys is the same for neighbours; try cluster = 1}}
tile.kernel @own(%q: !tile.view<?x64xbf16>, %o: !tile.view<?x64xf32>) schedule(#tile.schedule<block_m = 64, block_n = 64, consumers = 1, cluster = 2>) {
  %one = arith.constant 1 : index
  %zero = arith.constant 0 : index
  %f0 = arith.constant 0.0 : f32
  tile.items (%i) in (%one) {
    %t = tile.load %q[%i] by #row : !tile.view<?x64xbf16> -> !tile.tile<64x64xbf16>
    %a0 = tile.splat %f0 : f32 -> !tile.tile<64x64xf32>
    %n = tile.dim %q, 0 : !tile.view<?x64xbf16>
    %r = tile.for_keys %j in (%zero, %zero, %n, %n) step 64 iter_args(%a = %a0) -> (!tile.tile<64x64xf32>) {
      %first = arith.addi %i, %j : index
      %k = tile.load %q[%first] by #row : !tile.view<?x64xbf16> -> !tile.tile<64x64xbf16>
      %s = tile.dot %t, %k acc %a : !tile.tile<64x64xf32> transpose_b : !tile.tile<64x64xbf16>, !tile.tile<64x64xbf16> -> !tile.tile<64x64xf32>
      tile.yield %s : !tile.tile<64x64xf32>
    }
    tile.store %r, %o[%i] by #row : !tile.tile<64x64xf32>, !tile.view<?x64xf32>
  }
}

// -----

// Columns that are apart: no bulk copy.
#col = affine_map<(r, c)[i] -> (c, 2 * r + i)>
#row = affine_map<(r, c)[i] -> (i + r, c)>
tile.kernel @threads(%q: !tile.view<?x64xbf16>, %o: !tile.view<?x64xf32>) schedule(#tile.schedule<block_m = 64, block_n = 64, consumers = 1, cluster = 2>) {
  %one = arith.constant 1 : index
  %zero = arith.constant 0 : index
  %f0 = arith.constant 0.0 : f32
  tile.items (%i) in (%one) {
    %t = tile.load %q[%i] by #row : !tile.view<?x64xbf16> -> !tile.tile<64x64xbf16>
    %a0 = tile.splat %f0 : f32 -> !tile.tile<64x64xf32>
    %n = tile.dim %q, 0 : !tile.view<?x64xbf16>
    %r = tile.for_keys %j in (%zero, %zero, %n, %n) step 64 iter_args(%a = %a0) -> (!tile.tile<64x64xf32>) {
      // expected-error@+1 {{schedule: cluster = 2 shares bulk copies, and this operand is copied by threads; try cluster = 1}}
      %k = tile.load %q[%j] by #col : !tile.view<?x64xbf16> -> !tile.tile<64x64xbf16>
      %s = tile.dot %t, %k acc %a : !tile.tile<64x64xf32> transpose_b : !tile.tile<64x64xbf16>, !tile.tile<64x64xbf16> -> !tile.tile<64x64xf32>
      tile.yield %s : !tile.tile<64x64xf32>
    }
    tile.store %r, %o[%i] by #row : !tile.tile<64x64xf32>, !tile.view<?x64xf32>
  }
}

// -----

// expected-error@+1 {{schedule: cluster = 2 cannot be combined with order = two_tiles; try cluster = 1}}
tile.kernel @two(%q: !tile.view<?x64xbf16>) schedule(#tile.schedule<block_m = 64, block_n = 64, consumers = 1, stages = 2, order = two_tiles, cluster = 2>) {
  %one = arith.constant 1 : index
  %zero = arith.constant 0 : index
  tile.items (%i) in (%one) {
    tile.for_keys %j in (%zero, %zero, %one, %one) step 64 {
      tile.yield
    }
  }
}

// -----

#row = affine_map<(r, c)[i] -> (i + r, c)>
// expected-error@+1 {{schedule: cluster = 2 cannot be combined with sums that other items add to, too; try cluster = 1}}
tile.kernel @adds(%o: !tile.view<?x64xf32>) schedule(#tile.schedule<block_m = 64, block_n = 64, consumers = 1, cluster = 2>) {
  %one = arith.constant 1 : index
  %zero = arith.constant 0 : index
  %f0 = arith.constant 0.0 : f32
  tile.items (%i) in (%one) {
    %a = tile.splat %f0 : f32 -> !tile.tile<64x64xf32>
    tile.for_keys %j in (%zero, %zero, %one, %one) step 64 {
      tile.yield
    }
    tile.store add %a, %o[%i] by #row : !tile.tile<64x64xf32>, !tile.view<?x64xf32>
  }
}
