// RUN: attnc-opt %s -hopper-to-llvm -canonicalize -attnc-verify-codegen | FileCheck %s

// A cooperative copy chooses, when it runs, how wide it reads.

// CHECK-LABEL: llvm.func @odd(
// Columns that are apart go one by one: 8 loads of a chunk, then its store.
// CHECK: llvm.icmp "ne"
// CHECK-COUNT-8: @p ld.global.b16 $0, [$1];
// CHECK: st.shared.v4.b32
// Then the alignment of base and strides decides: 16 bytes at once. Of 59
// columns 56 are whole chunks; the others are copied one by one, and so are
// zeros up to the 64 that a product reads.
// CHECK: llvm.ptrtoint
// CHECK: cp.async.cg.shared.global [$0], [$1], 16, $2;
// CHECK-COUNT-8: @p ld.global.b16 $0, [$1];
// CHECK: cp.async.wait_all;
// CHECK-COUNT-2: cp.async.ca.shared.global [$0], [$1], 8, $2;
// CHECK-NOT: cp.async.ca
// CHECK: cp.async.wait_all;
// CHECK-COUNT-4: cp.async.ca.shared.global [$0], [$1], 4, $2;
// CHECK-NOT: cp.async.ca
// CHECK: cp.async.wait_all;
// At odd elements: words and half words of several chunks are loaded before
// the first is shifted and stored.
// CHECK-COUNT-4: @p ld.global.b32 $0, [$6];\0A@p ld.global.b32 $1, [$6+4];\0A@p ld.global.b32 $2, [$6+8];\0A@p ld.global.b16 l, [$7];\0A@p ld.global.b16 h, [$5+14];
// CHECK-COUNT-5: llvm.nvvm.prmt
// CHECK: st.shared.v4.b32
// CHECK-COUNT-5: llvm.nvvm.prmt
// CHECK: st.shared.v4.b32
// CHECK: fence.proxy.async.shared::cta
// CHECK: llvm.nvvm.bar.warp.sync

// All columns are whole parts: nothing is copied one by one but where columns
// are apart.
// CHECK-LABEL: llvm.func @even(
// CHECK-COUNT-8: @p ld.global.b16 $0, [$1];
// CHECK-NOT: ld.global.b16 $0, [$1];
// CHECK: cp.async.cg
// CHECK-NOT: ld.global.b16 $0, [$1];
// CHECK: fence.proxy.async.shared::cta

// Columns in two dims of the view are read one by one, always.
// CHECK-LABEL: llvm.func @split(
// CHECK-NOT: cp.async
// CHECK: llvm.return

#row = affine_map<(r, c)[b, i] -> (b, i + r, c)>
#split = affine_map<(r, c)[b] -> (b + r, c floordiv 8, c mod 8)>
#roles = #hopper.roles<consumers = 2, producer_registers = 72, consumer_registers = 216, persistent = false>

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

hopper.kernel @even(%v: !tile.view<?x?x64xbf16>) roles(#roles) {
  %ring = hopper.ring "value" : !hopper.ring<2x64x64xbf16>
  hopper.producer cooperative {
    %b = hopper.block
    %c = hopper.start
    hopper.acquire %ring[%c] : !hopper.ring<2x64x64xbf16>
    hopper.copy_elements %v[%b, %b] by #row to %ring[%c] : !tile.view<?x?x64xbf16>, !hopper.ring<2x64x64xbf16>
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
