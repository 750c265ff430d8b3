// RUN: attnc-opt %s | attnc-opt | FileCheck %s

#row = affine_map<(r, c)[b, i] -> (b, i + r, c)>
#sums = affine_map<(r, c) -> (r floordiv 16, c floordiv 8, ((r mod 8) * 4 + (c mod 8) floordiv 2) * 4 + ((r mod 16) floordiv 8) * 2 + c mod 2)>
#roles = #hopper.roles<consumers = 2, producer_registers = 24, consumer_registers = 240, persistent = true>

// CHECK-LABEL: hopper.kernel @k(
// CHECK-SAME: %{{.*}}: !tile.view<?x?x64xbf16> {tile.name = "query"}
// CHECK-SAME: roles(#hopper.roles<consumers = 2, producer_registers = 24, consumer_registers = 240, persistent = true>) {
hopper.kernel @k(%q: !tile.view<?x?x64xbf16> {tile.name = "query"},
    %k: !tile.view<?x?x64xbf16>, %o: !tile.view<?x?x64xbf16>, %s: f32)
    roles(#roles) {
  // CHECK: hopper.tensor_map %{{.*}} order [2, 1, 0] box [64, 128, 1] : <?x?x64xbf16>
  %qm = hopper.tensor_map %q order [2, 1, 0] box [64, 128, 1] : !tile.view<?x?x64xbf16>
  %km = hopper.tensor_map %k order [2, 1, 0] box [64, 64, 1] : !tile.view<?x?x64xbf16>
  // CHECK: hopper.ring "query" : <1x128x64xbf16>
  %qr = hopper.ring "query" : !hopper.ring<1x128x64xbf16>
  %kr = hopper.ring "key" : !hopper.ring<2x64x64xbf16>
  // CHECK: hopper.producer {
  hopper.producer {
    %zero = arith.constant 0 : index
    %b = hopper.block
    %c = hopper.start
    // CHECK: hopper.acquire %{{.*}}[%{{.*}}] : <1x128x64xbf16>
    hopper.acquire %qr[%c] : !hopper.ring<1x128x64xbf16>
    // CHECK: hopper.copy %{{.*}}[%{{.*}}, %{{.*}}, %{{.*}}] to %{{.*}}[%{{.*}}] : <1x128x64xbf16>
    hopper.copy %qm[%zero, %zero, %b] to %qr[%c] : !hopper.ring<1x128x64xbf16>
    hopper.acquire %kr[%c] : !hopper.ring<2x64x64xbf16>
    hopper.copy %km[%zero, %zero, %b] to %kr[%c] : !hopper.ring<2x64x64xbf16>
    // CHECK: hopper.next %{{.*}} in %{{.*}} : <2x64x64xbf16>
    %n = hopper.next %c in %kr : !hopper.ring<2x64x64xbf16>
  }
  // CHECK: hopper.consumers (%{{.*}}) {
  hopper.consumers (%wg) {
    %b = hopper.block
    %g = hopper.grid
    %c = hopper.start
    %five = arith.constant 5 : index
    // CHECK: hopper.turn_init
    hopper.turn_init %wg
    // CHECK: hopper.await %{{.*}}[%{{.*}}] : <1x128x64xbf16> -> <128x64xbf16>
    %qs = hopper.await %qr[%c] : !hopper.ring<1x128x64xbf16> -> !hopper.smem<128x64xbf16>
    %ks = hopper.await %kr[%c] : !hopper.ring<2x64x64xbf16> -> !hopper.smem<64x64xbf16>
    // CHECK: hopper.zero_rows %{{.*}} from %{{.*}} : <64x64xbf16>
    hopper.zero_rows %ks from %five : !hopper.smem<64x64xbf16>
    // CHECK: hopper.rows %{{.*}}[%{{.*}}] : <128x64xbf16> -> <64x64xbf16>
    %a = hopper.rows %qs[%wg] : !hopper.smem<128x64xbf16> -> !hopper.smem<64x64xbf16>
    // CHECK: hopper.turn_wait
    hopper.turn_wait %wg
    // CHECK: hopper.wgmma %{{.*}}, %{{.*}} transpose_b : !hopper.smem<64x64xbf16>, <64x64xbf16> -> <64x64xf32>
    %p = hopper.wgmma %a, %ks transpose_b : !hopper.smem<64x64xbf16>, !hopper.smem<64x64xbf16> -> !hopper.pending<64x64xf32>
    // CHECK: hopper.commit
    hopper.commit
    // CHECK: hopper.turn_pass
    hopper.turn_pass %wg
    // CHECK: hopper.wait %{{.*}} : !hopper.pending<64x64xf32> -> !hopper.frag<64x64xf32, acc>
    %x = hopper.wait %p : !hopper.pending<64x64xf32> -> !hopper.frag<64x64xf32, acc>
    // CHECK: hopper.reduce max %{{.*}} : <64x64xf32, acc> -> <64x1xf32, row>
    %m = hopper.reduce max %x : !hopper.frag<64x64xf32, acc> -> !hopper.frag<64x1xf32, row>
    // CHECK: hopper.map(%{{.*}}, %{{.*}} : !hopper.frag<64x64xf32, acc>, !hopper.frag<64x1xf32, row>) {
    %y = hopper.map(%x, %m : !hopper.frag<64x64xf32, acc>, !hopper.frag<64x1xf32, row>) {
    ^bb0(%e: f32, %f: f32, %r: i32, %col: i32):
      %d = arith.subf %e, %f : f32
      hopper.yield %d : f32
    } : !hopper.frag<64x64xf32, acc>
    // CHECK: hopper.speculate(%{{.*}} : !hopper.frag<64x64xf32, acc>) slice 16 limits [1.562500e-02, 6.250000e-02] common {
    %z = hopper.speculate(%y : !hopper.frag<64x64xf32, acc>) slice 16 limits [0.015625, 0.0625] common {
    ^bb0(%e: f32, %r: i32, %col: i32):
      hopper.yield %e, %e : f32, f32
    } fast {
    ^bb0(%e: f32, %r: i32, %col: i32):
      hopper.yield %e : f32
    }, {
    ^bb0(%e: f32, %r: i32, %col: i32):
      %t = arith.addf %e, %e : f32
      hopper.yield %t : f32
    } exact {
    ^bb0(%e: f32, %r: i32, %col: i32):
      %n = arith.negf %e : f32
      hopper.yield %n : f32
    } : !hopper.frag<64x64xf32, acc>
    // CHECK: hopper.mask %{{.*}} fill 0.000000e+00 {
    %w = hopper.mask %z fill 0.0 {
    ^bb0(%r: i32, %col: i32):
      %keep = arith.cmpi slt, %col, %r : i32
      hopper.yield %keep : i1
    } : !hopper.frag<64x64xf32, acc>
    // CHECK: hopper.pin %{{.*}} : <64x64xf32, acc>
    hopper.pin %w : !hopper.frag<64x64xf32, acc>
    // CHECK: hopper.convert %{{.*}} : <64x64xf32, acc> -> <64x64xbf16, a>
    %pa = hopper.convert %w : !hopper.frag<64x64xf32, acc> -> !hopper.frag<64x64xbf16, a>
    // CHECK: hopper.splat %{{.*}} : f32 -> <64x64xf32, acc>
    %acc = hopper.splat %s : f32 -> !hopper.frag<64x64xf32, acc>
    // CHECK: hopper.wgmma %{{.*}}, %{{.*}} acc %{{.*}} : !hopper.frag<64x64xf32, acc> : !hopper.frag<64x64xbf16, a>, <64x64xbf16> -> <64x64xf32>
    %po = hopper.wgmma %pa, %ks acc %acc : !hopper.frag<64x64xf32, acc> : !hopper.frag<64x64xbf16, a>, !hopper.smem<64x64xbf16> -> !hopper.pending<64x64xf32>
    // CHECK: hopper.wgmma %{{.*}}, %{{.*}} acc %{{.*}} : !hopper.pending<64x64xf32> : !hopper.frag<64x64xbf16, a>, <64x64xbf16> -> <64x64xf32>
    %pn = hopper.wgmma %pa, %ks acc %po : !hopper.pending<64x64xf32> : !hopper.frag<64x64xbf16, a>, !hopper.smem<64x64xbf16> -> !hopper.pending<64x64xf32>
    hopper.commit
    %ov = hopper.wait %pn : !hopper.pending<64x64xf32> -> !hopper.frag<64x64xf32, acc>
    // CHECK: hopper.release %{{.*}}[%{{.*}}] : <2x64x64xbf16>
    hopper.release %kr[%c] : !hopper.ring<2x64x64xbf16>
    // CHECK: hopper.load %{{.*}}[%{{.*}}, %{{.*}}] by #{{.*}} rows %{{.*}} : <?x?x64xbf16> -> <64x64xbf16, acc>
    %bias = hopper.load %k[%b, %g] by #row rows %five : !tile.view<?x?x64xbf16> -> !hopper.frag<64x64xbf16, acc>
    // CHECK: hopper.store %{{.*}}, %{{.*}}[%{{.*}}, %{{.*}}] by #{{.*}} : <64x64xbf16, acc>, <?x?x64xbf16>
    hopper.store %bias, %o[%b, %g] by #row : !hopper.frag<64x64xbf16, acc>, !tile.view<?x?x64xbf16>
    // CHECK: hopper.store %{{.*}} by #{{.*}} through %{{.*}} : {{.*}} : <64x64xbf16, acc>, <?x?x64xbf16>
    hopper.store %bias, %o[%b, %g] by #row through %a : !hopper.smem<64x64xbf16> : !hopper.frag<64x64xbf16, acc>, !tile.view<?x?x64xbf16>
  }
}

// What each consumer makes and all read.

// CHECK-LABEL: func.func @exchange
func.func @exchange(%a: !hopper.frag<64x128xbf16, a>, %r: !hopper.ring<2x128x128xbf16>,
    %k: !hopper.smem<128x64xbf16>, %wg: index, %v: !tile.view<?x64xf32>) {
  %c = hopper.start
  // CHECK: hopper.put %{{.*}} to %{{.*}}[%{{.*}}] rows %{{.*}} : <64x128xbf16, a>, <2x128x128xbf16>
  hopper.put %a to %r[%c] rows %wg : !hopper.frag<64x128xbf16, a>, !hopper.ring<2x128x128xbf16>
  %w = hopper.await %r[%c] : !hopper.ring<2x128x128xbf16> -> !hopper.smem<128x128xbf16>
  // CHECK: hopper.columns %{{.*}}[%{{.*}}] : <128x128xbf16> -> <128x64xbf16>
  %p = hopper.columns %w[%wg] : !hopper.smem<128x128xbf16> -> !hopper.smem<128x64xbf16>
  // CHECK: hopper.columns %{{.*}}[%{{.*}}] : <128x64xbf16> -> <128x32xbf16>
  %n = hopper.columns %k[%wg] : !hopper.smem<128x64xbf16> -> !hopper.smem<128x32xbf16>
  // CHECK: hopper.wgmma %{{.*}}, %{{.*}} transpose_a : !hopper.smem<128x64xbf16>, <128x32xbf16> -> <64x32xf32>
  %d = hopper.wgmma %p, %n transpose_a : !hopper.smem<128x64xbf16>, !hopper.smem<128x32xbf16> -> !hopper.pending<64x32xf32>
  hopper.commit
  %s = hopper.wait %d : !hopper.pending<64x32xf32> -> !hopper.frag<64x32xf32, acc>
  // CHECK: hopper.store add %{{.*}}, %{{.*}}[] by
  hopper.store add %s, %v[] by affine_map<(r, c) -> (r, c)> : !hopper.frag<64x32xf32, acc>, !tile.view<?x64xf32>
  return
}

// Sums that go through shared memory.

// CHECK-LABEL: hopper.kernel @sums
hopper.kernel @sums(%v: !tile.view<?x8x128xf32>) roles(#hopper.roles<consumers = 2, producer_registers = 24, consumer_registers = 240>) {
  // CHECK: hopper.scratch "sums" : <64x64xf32>
  %sums = hopper.scratch "sums" : !hopper.smem<64x64xf32>
  hopper.producer {
  }
  hopper.consumers (%wg) {
    %one = arith.constant 1.0 : f32
    %x = hopper.splat %one : f32 -> !hopper.frag<64x64xf32, acc>
    // CHECK: hopper.store add %{{.*}}, %{{.*}}[] by #{{.*}} through %{{.*}} : {{.*}} : <64x64xf32, acc>, <?x8x128xf32>
    hopper.store add %x, %v[] by #sums through %sums : !hopper.smem<64x64xf32> : !hopper.frag<64x64xf32, acc>, !tile.view<?x8x128xf32>
  }
}

// CHECK-LABEL: hopper.kernel @columns
hopper.kernel @columns(%v: !tile.view<?x?xi32>) roles(#hopper.roles<consumers = 2, producer_registers = 24, consumer_registers = 240>) {
  // CHECK: hopper.scratch "columns" : <8x96xi32>
  %columns = hopper.scratch "columns" : !hopper.smem<8x96xi32>
  hopper.producer {
  }
  hopper.consumers (%wg) {
    // CHECK: hopper.prefetch %{{.*}}[%{{.*}}, %{{.*}}] by #{{.*}} rows %{{.*}} to %{{.*}}[%{{.*}}] : <?x?xi32>, <8x96xi32>
    hopper.prefetch %v[%wg, %wg] by affine_map<(r, c)[h, at] -> (h, at + c)> rows %wg to %columns[%wg] : !tile.view<?x?xi32>, !hopper.smem<8x96xi32>
    // CHECK: hopper.prefetched
    hopper.prefetched
    // CHECK: hopper.fetch %{{.*}}[%{{.*}}] : <8x96xi32> -> <1x80xi32, col>
    %x = hopper.fetch %columns[%wg] : !hopper.smem<8x96xi32> -> !hopper.frag<1x80xi32, col>
  }
}

// Two thread blocks copy half of each slot to both.
// CHECK-LABEL: hopper.kernel @cluster(
// CHECK-SAME: roles(#hopper.roles<consumers = 1, producer_registers = 32, consumer_registers = 240, cluster = 2>) {
hopper.kernel @cluster(%k: !tile.view<?x64xbf16>)
    roles(#hopper.roles<consumers = 1, producer_registers = 32, consumer_registers = 240, cluster = 2>) {
  %km = hopper.tensor_map %k order [1, 0] box [64, 32] : !tile.view<?x64xbf16>
  // CHECK: hopper.ring "key" multicast : <2x64x64xbf16>
  %kr = hopper.ring "key" multicast : !hopper.ring<2x64x64xbf16>
  hopper.producer {
    %zero = arith.constant 0 : index
    %c = hopper.start
    // CHECK: %[[RANK:.*]] = hopper.rank
    %r = hopper.rank
    // CHECK: hopper.copy %{{.*}}[%{{.*}}, %{{.*}}] to %{{.*}}[%{{.*}}] part %[[RANK]] : <2x64x64xbf16>
    hopper.copy %km[%zero, %zero] to %kr[%c] part %r : !hopper.ring<2x64x64xbf16>
  }
  hopper.consumers (%wg) {
  }
}
