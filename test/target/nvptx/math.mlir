// Generic math becomes the one instruction of the special function unit, with
// denormals flushed: without that each costs two more.

// RUN: attnc-ptx %s | FileCheck %s

// CHECK-LABEL: .entry math(
// CHECK: ex2.approx.ftz.f32
// CHECK: rcp.approx.ftz.f32
// CHECK: fma.rn.ftz.f32
// CHECK: tanh.approx.f32
// CHECK: cvt.rn.bf16x2.f32
llvm.func @math(%out: !llvm.ptr<1>, %x: f32, %y: f32) attributes {nvvm.kernel} {
  %one = llvm.mlir.constant(1.0 : f32) : f32
  %e = llvm.intr.exp2(%x) {fastmathFlags = #llvm.fastmath<afn>} : (f32) -> f32
  %r = llvm.fdiv %one, %e {fastmathFlags = #llvm.fastmath<arcp, afn>} : f32
  %f = llvm.intr.fma(%r, %x, %y) : (f32, f32, f32) -> f32
  %t = llvm.intr.tanh(%f) {fastmathFlags = #llvm.fastmath<afn>} : (f32) -> f32
  %v = llvm.mlir.undef : vector<2xf32>
  %c0 = llvm.mlir.constant(0 : i32) : i32
  %c1 = llvm.mlir.constant(1 : i32) : i32
  %v0 = llvm.insertelement %t, %v[%c0 : i32] : vector<2xf32>
  %v1 = llvm.insertelement %f, %v0[%c1 : i32] : vector<2xf32>
  %b = llvm.fptrunc %v1 : vector<2xf32> to vector<2xbf16>
  llvm.store %b, %out : vector<2xbf16>, !llvm.ptr<1>
  llvm.return
}

// LLVM compares bf16 where f32 were compared that came of it, which with
// denormals flushed is no instruction.
// CHECK-LABEL: .entry compare(
// CHECK: setp.{{[a-z]+}}.ftz.f32
// CHECK-NOT: setp.{{.*}}bf16
llvm.func @compare(%in: !llvm.ptr<1>, %out: !llvm.ptr<1>, %y: f32) attributes {nvvm.kernel} {
  %half = llvm.mlir.constant(0.5 : f32) : f32
  %b = llvm.load %in : !llvm.ptr<1> -> bf16
  %x = llvm.fpext %b : bf16 to f32
  %c = llvm.fcmp "ogt" %x, %half : f32
  %s = llvm.select %c, %y, %half : i1, f32
  llvm.store %s, %out : f32, !llvm.ptr<1>
  llvm.return
}
