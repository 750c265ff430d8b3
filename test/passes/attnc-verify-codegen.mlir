// RUN: attnc-opt %s -attnc-verify-codegen -split-input-file -verify-diagnostics

llvm.func @good(%x: f32, %p: !llvm.ptr<1>) {
  %y = llvm.intr.fma(%x, %x, %x) : (f32, f32, f32) -> f32
  %z = llvm.call_intrinsic "llvm.nvvm.ex2.approx.ftz.f32"(%y) : (f32) -> f32
  %a = llvm.inline_asm "mov.b32 $0, $1;", "=f,f" %z : (f32) -> f32
  llvm.store %a, %p : f32, !llvm.ptr<1>
  llvm.return
}

// -----

llvm.func @libcall(%x: f32) -> f32 {
  // expected-error@+1 {{llvm.exp has no instruction on a GPU}}
  %y = llvm.intr.exp(%x) : (f32) -> f32
  llvm.return %y : f32
}

// -----

llvm.func @unknown(%x: f32) {
  // expected-error@+1 {{there is no intrinsic llvm.nvvm.no.such.thing}}
  llvm.call_intrinsic "llvm.nvvm.no.such.thing"(%x) : (f32) -> ()
  llvm.return
}

// -----

llvm.func @wide(%x: i64) {
  // expected-error@+1 {{no register holds 'f64'}}
  %y = llvm.sitofp %x : i64 to f64
  llvm.return
}

// -----

llvm.func @callee()
llvm.func @call() {
  // expected-error@+1 {{a kernel calls nothing and has no stack}}
  llvm.call @callee() : () -> ()
  llvm.return
}

// -----

llvm.func @higher(%x: f32) {
  // expected-error@+1 {{is not lowered}}
  %y = arith.addf %x, %x : f32
  llvm.return
}
