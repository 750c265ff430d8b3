// RUN: attnc-opt %s -hopper-to-llvm -canonicalize -attnc-verify-codegen | FileCheck %s

// A cooperative copy chooses, when it runs, how wide it reads. Warps take the
// slots of a ring in turn, so only one of them waits for a slot and fills it.

// CHECK-LABEL: llvm.func @odd(
// CHECK: %[[ONE:.*]] = llvm.mlir.constant(1 : i32)
// CHECK: %[[TWO:.*]] = llvm.mlir.constant(2 : i32)
// CHECK: %[[WARP:.*]] = llvm.call_intrinsic "llvm.nvvm.shfl.sync.idx.i32"
// One arrival makes a slot full, two consumers of four warps empty.
// CHECK: mbarrier.init.shared"(%{{.*}}, %[[ONE]])
// Every second slot is the same warp's, also where it is the only ring: with
// every fourth of three, a warp would take a slot for empty a round too soon.
// CHECK: %[[TURN:.*]] = llvm.mul %{{.*}}, %[[TWO]] : i32
// CHECK-NEXT: %[[WHO:.*]] = llvm.and %[[TURN]],
// CHECK-NEXT: llvm.icmp "eq" %[[WHO]], %[[WARP]]
// CHECK: mbarrier.try.wait
// CHECK: llvm.icmp "eq" %{{.*}}, %[[WARP]]
// Columns that are apart go one by one: 8 loads of a chunk, then its store.
// CHECK: llvm.icmp "ne"
// CHECK-COUNT-8: @p ld.global.b16 $0, [$1];
// CHECK: st.shared.v4.b32
// Rows of 59 columns are no whole number of words: words of 16 rows, half a
// panel of two rows an instruction, then first and last elements of 32 rows.
// CHECK-COUNT-16: cp.async.ca.shared.global {{.*}}, 4, s;
// CHECK-NOT: cp.async.c
// CHECK-COUNT-2: @p ld.global.b16 f, [$1];\0A@p ld.global.b16 l, [$1+116];
// CHECK: cp.async.wait_all;
// CHECK: llvm.nvvm.bar.warp.sync
// If the even rows begin at odd elements, then the odd rows: chunks are read, and
// the word that follows comes from the lane with the next chunk. A lane writes
// only what it read.
// CHECK: llvm.icmp "ne"
// CHECK-COUNT-4: ld.shared.v4.b32
// CHECK-NOT: ld.shared
// CHECK: llvm.nvvm.shfl.sync.idx.i32
// CHECK-COUNT-4: llvm.nvvm.prmt
// CHECK: st.shared.v4.b32
// CHECK: llvm.icmp "ne"
// CHECK-COUNT-4: ld.shared.v4.b32
// CHECK-COUNT-4: llvm.nvvm.shfl.sync.idx.i32
// The ends come last, with a zero beside the last column.
// CHECK-COUNT-2: @p st.shared.b16 [$0], f;\0Acvt.u32.u16 w, l;\0A@p st.shared.b32 [$1], w;
// CHECK: fence.proxy.async.shared::cta
// CHECK: llvm.nvvm.bar.warp.sync
// CHECK: mbarrier.arrive

// Panels go from right to left: the first lane's chunk of the one to the right
// is what follows the last lane's; nothing follows the last chunk of all.
// CHECK-LABEL: llvm.func @wide(
// CHECK: %[[ZERO:.*]] = llvm.mlir.constant(0 : i32)
// CHECK: cp.async.wait_all;
// CHECK: ld.shared.v4.b32 {$0, $1, $2, $3}, [$4+2048];
// CHECK: %[[RIGHT:.*]] = llvm.extractvalue %{{.*}}[0]
// CHECK: %[[GIVEN:.*]] = llvm.select %{{.*}}, %[[ZERO]], %[[RIGHT]]
// CHECK: llvm.nvvm.shfl.sync.idx.i32"(%{{.*}}, %[[GIVEN]],
// CHECK: st.shared.v4.b32 [$0+2048]
// CHECK: ld.shared.v4.b32 {$0, $1, $2, $3}, [$4+0];
// CHECK: %[[OWN:.*]] = llvm.extractvalue %{{.*}}[0]
// CHECK: %[[GIVEN:.*]] = llvm.select %{{.*}}, %[[RIGHT]], %[[OWN]]
// CHECK: llvm.nvvm.shfl.sync.idx.i32"(%{{.*}}, %[[GIVEN]],
// CHECK: st.shared.v4.b32 [$0+0]
// CHECK: llvm.return

// Rows of three panels or four are copied a line at a time.
// CHECK-LABEL: llvm.func @lines(
// CHECK-NOT: [$1+64]
// CHECK: cp.async.ca.shared.global [$0+0], [$1+0], 4, s;
// CHECK: cp.async.ca.shared.global {{.*}}, [$1+128], 4, s;
// CHECK: cp.async.ca.shared.global {{.*}}, [$1+256], 4, s;
// CHECK: cp.async.ca.shared.global {{.*}}, [$1+0], 4, s;
// CHECK-NOT: [$1+64]
// CHECK: cp.async.wait_all;
// CHECK: llvm.return

// Whole words: 16 bytes at once, 4 rows an instruction, in groups of 16 rows;
// or 8 bytes and 2 rows, or 4 bytes and 1. One slot is shared by all warps.
// CHECK-LABEL: llvm.func @even(
// CHECK: %[[FOUR:.*]] = llvm.mlir.constant(4 : i32)
// CHECK: mbarrier.init.shared"(%{{.*}}, %[[FOUR]])
// CHECK-COUNT-8: @p ld.global.b16 $0, [$1];
// CHECK-NOT: ld.global.b16 $0, [$1];
// CHECK: llvm.ptrtoint
// CHECK-COUNT-4: cp.async.cg.shared.global {{.*}}, 16, s;
// CHECK-NOT: cp.async.c
// CHECK: cp.async.wait_all;
// CHECK-COUNT-8: cp.async.ca.shared.global {{.*}}, 8, s;
// CHECK-NOT: cp.async.c
// CHECK: cp.async.wait_all;
// CHECK-COUNT-16: cp.async.ca.shared.global {{.*}}, 4, s;
// CHECK-NOT: cp.async.c
// CHECK: cp.async.wait_all;
// CHECK-COUNT-16: cp.async.ca.shared.global {{.*}}, 4, s;
// CHECK-NOT: cp.async.c
// CHECK: @p ld.global.b16 l, [$1+126];
// CHECK-NOT: ld.global.b16 $0, [$1];
// CHECK: @p st.shared.b16 [$0], f;\0A@p st.shared.b16 [$1], l;
// CHECK: fence.proxy.async.shared::cta

// Rows of a query block that come from several heads are not evenly apart: each
// address is computed.
// CHECK-LABEL: llvm.func @packed(
// CHECK: cp.async.cg
// CHECK: llvm.sdiv
// CHECK: cp.async.cg
// CHECK: llvm.return

// Columns in two dims of the view are read one by one, always.
// CHECK-LABEL: llvm.func @split(
// CHECK-NOT: cp.async
// CHECK: llvm.return

#row = affine_map<(r, c)[b, i] -> (b, i + r, c)>
#packed = affine_map<(r, c)[b] -> (b, r mod 4, r floordiv 4, c)>
#split = affine_map<(r, c)[b] -> (b + r, c floordiv 8, c mod 8)>
#roles = #hopper.roles<consumers = 2, producer_registers = 56, consumer_registers = 224, persistent = false>

hopper.kernel @odd(%v: !tile.view<?x?x59xbf16>) roles(#roles) {
  %ring = hopper.ring "value" : !hopper.ring<2x64x59xbf16>
  hopper.producer cooperative {
    %b = hopper.block
    %c = hopper.start
    %five = arith.constant 5 : index
    hopper.acquire %ring[%c] : !hopper.ring<2x64x59xbf16>
    hopper.copy_elements %v[%b, %b] by #row rows %five to %ring[%c] : !tile.view<?x?x59xbf16>, !hopper.ring<2x64x59xbf16>
  }
  hopper.consumers (%wg) {
  }
}

hopper.kernel @wide(%v: !tile.view<?x?x101xbf16>) roles(#roles) {
  %ring = hopper.ring "value" : !hopper.ring<2x16x101xbf16>
  hopper.producer cooperative {
    %b = hopper.block
    %c = hopper.start
    hopper.acquire %ring[%c] : !hopper.ring<2x16x101xbf16>
    hopper.copy_elements %v[%b, %b] by #row to %ring[%c] : !tile.view<?x?x101xbf16>, !hopper.ring<2x16x101xbf16>
  }
  hopper.consumers (%wg) {
  }
}

hopper.kernel @lines(%v: !tile.view<?x?x191xbf16>) roles(#roles) {
  %ring = hopper.ring "value" : !hopper.ring<2x16x191xbf16>
  hopper.producer cooperative {
    %b = hopper.block
    %c = hopper.start
    hopper.acquire %ring[%c] : !hopper.ring<2x16x191xbf16>
    hopper.copy_elements %v[%b, %b] by #row to %ring[%c] : !tile.view<?x?x191xbf16>, !hopper.ring<2x16x191xbf16>
  }
  hopper.consumers (%wg) {
  }
}

hopper.kernel @even(%v: !tile.view<?x?x64xbf16>) roles(#roles) {
  %ring = hopper.ring "value" : !hopper.ring<1x64x64xbf16>
  hopper.producer cooperative {
    %b = hopper.block
    %c = hopper.start
    hopper.acquire %ring[%c] : !hopper.ring<1x64x64xbf16>
    hopper.copy_elements %v[%b, %b] by #row to %ring[%c] : !tile.view<?x?x64xbf16>, !hopper.ring<1x64x64xbf16>
  }
  hopper.consumers (%wg) {
  }
}

hopper.kernel @packed(%v: !tile.view<?x?x?x64xbf16>) roles(#roles) {
  %ring = hopper.ring "value" : !hopper.ring<1x64x64xbf16>
  hopper.producer cooperative {
    %b = hopper.block
    %c = hopper.start
    hopper.acquire %ring[%c] : !hopper.ring<1x64x64xbf16>
    hopper.copy_elements %v[%b] by #packed to %ring[%c] : !tile.view<?x?x?x64xbf16>, !hopper.ring<1x64x64xbf16>
  }
  hopper.consumers (%wg) {
  }
}

hopper.kernel @split(%v: !tile.view<?x8x8xbf16>) roles(#roles) {
  %ring = hopper.ring "value" : !hopper.ring<2x64x64xbf16>
  hopper.producer cooperative {
    %b = hopper.block
    %c = hopper.start
    hopper.acquire %ring[%c] : !hopper.ring<2x64x64xbf16>
    hopper.copy_elements %v[%b] by #split to %ring[%c] : !tile.view<?x8x8xbf16>, !hopper.ring<2x64x64xbf16>
  }
  hopper.consumers (%wg) {
  }
}
