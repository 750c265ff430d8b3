// RUN: attnc-opt %s -hopper-to-llvm -canonicalize -attnc-verify-codegen | FileCheck %s

// After the products, elementwise work runs in groups of 16 elements, so that
// what is loaded for it never fills the registers beside the output: a store
// pulls what it stores, a reduction what it adds up.

// CHECK-LABEL: llvm.func @epilogue(
// The mean of squares: a group is loaded, squared and added before the next.
// CHECK: llvm.br
// CHECK-COUNT-16: llvm.fmul
// CHECK-COUNT-15: llvm.fadd
// CHECK-COUNT-16: llvm.fmul
// CHECK-COUNT-15: llvm.fadd
// CHECK: llvm.nvvm.shfl.sync.bfly.f32
// CHECK: llvm.nvvm.shfl.sync.bfly.f32
// The first row: loads of a group, then its stores, by pairs or one by one.
// CHECK-COUNT-16: @p ld.global.b16
// CHECK-NOT: ld.global
// CHECK-COUNT-8: llvm.store
// CHECK-NOT: ld.global
// CHECK-COUNT-16: st.global.b16
// CHECK-COUNT-16: @p ld.global.b16
// CHECK-COUNT-8: llvm.store
// CHECK-COUNT-16: st.global.b16
// The other row.
// CHECK-COUNT-16: @p ld.global.b16
// CHECK-COUNT-8: llvm.store
// CHECK-COUNT-16: st.global.b16
// CHECK-COUNT-16: @p ld.global.b16
// CHECK-COUNT-8: llvm.store
// CHECK-COUNT-16: st.global.b16
// CHECK-NOT: ld.global
// CHECK-NOT: llvm.store

#row = affine_map<(r, c)[b, i] -> (b, i + r, c)>
#roles = #hopper.roles<consumers = 2, producer_registers = 24, consumer_registers = 240, persistent = false>

hopper.kernel @epilogue(%q: !tile.view<?x?x128xbf16>,
    %g: !tile.view<?x?x128xbf16>, %o: !tile.view<?x?x128xbf16>, %s: f32)
    roles(#roles) {
  hopper.producer {
  }
  hopper.consumers (%wg) {
    %b = hopper.block
    %x = hopper.splat %s : f32 -> !hopper.frag<64x128xf32, acc>
    %squares = hopper.map(%x : !hopper.frag<64x128xf32, acc>) {
    ^bb0(%e: f32, %r: i32, %col: i32):
      %c = arith.sitofp %col : i32 to f32
      %y = arith.mulf %e, %c : f32
      hopper.yield %y : f32
    } : !hopper.frag<64x128xf32, acc>
    %sum = hopper.reduce add %squares : !hopper.frag<64x128xf32, acc> -> !hopper.frag<64x1xf32, row>
    %gate = hopper.load %g[%b, %wg] by #row : !tile.view<?x?x128xbf16> -> !hopper.frag<64x128xbf16, acc>
    %wide = hopper.convert %gate : !hopper.frag<64x128xbf16, acc> -> !hopper.frag<64x128xf32, acc>
    %y = hopper.map(%x, %sum, %wide : !hopper.frag<64x128xf32, acc>, !hopper.frag<64x1xf32, row>, !hopper.frag<64x128xf32, acc>) {
    ^bb0(%e: f32, %f: f32, %h: f32, %r: i32, %col: i32):
      %u = arith.addf %e, %f : f32
      %v = arith.subf %u, %h : f32
      hopper.yield %v : f32
    } : !hopper.frag<64x128xf32, acc>
    %z = hopper.convert %y : !hopper.frag<64x128xf32, acc> -> !hopper.frag<64x128xbf16, acc>
    hopper.store %z, %o[%b, %wg] by #row : !hopper.frag<64x128xbf16, acc>, !tile.view<?x?x128xbf16>
  }
}
