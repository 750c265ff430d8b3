// RUN: attnc-opt %s --attn-to-tile --split-input-file --verify-diagnostics

!t = tensor<?x?x?x64xf32>
// expected-error @+1 {{argument 1 of 'argument_type' is 'f64'; a program takes ranked tensors, f32 and i32}}
func.func @argument_type(%q: !t, %x: f64) -> !t {
  %o = attn.fused %q, %q, %q : !t, !t, !t -> !t
  return %o : !t
}

// -----

!t = tensor<?x?x?x64xf32>
!s = tensor<?x?x?x?xf32>
func.func @unfused(%q: !t) -> !t {
  // expected-error @+1 {{'attn.scores' op is not fused: run attn-fuse before attn-to-tile}}
  %s = attn.scores %q, %q : !t, !t -> !s
  %o = attn.apply %s, %q : !s, !t -> !t
  return %o : !t
}

// -----

!t = tensor<?x?x?x64xf32>
func.func @other_op(%q: !t) -> !t {
  // expected-error @+1 {{'arith.addf' op is not allowed here: a function of attn ops may hold attn ops and scalar arithmetic only}}
  %x = arith.addf %q, %q : !t
  %o = attn.fused %x, %q, %q : !t, !t, !t -> !t
  return %o : !t
}

// -----

!t = tensor<?x?x?x64xf32>
func.func @region(%q: !t, %n: i32) -> !t {
  %zero = arith.constant 0 : i32
  %c = arith.cmpi eq, %n, %zero : i32
  // expected-error @+1 {{'scf.if' op is not allowed here: a function of attn ops may hold attn ops and scalar arithmetic only}}
  scf.if %c {
    scf.yield
  }
  %o = attn.fused %q, %q, %q : !t, !t, !t -> !t
  return %o : !t
}

// -----

!t = tensor<?x?x?x64xf32>
// expected-error @+1 {{'nothing' returns nothing}}
func.func @nothing(%q: !t) {
  %o = attn.fused %q, %q, %q : !t, !t, !t -> !t
  return
}

// -----

!t = tensor<?x?x?x64xf32>
// expected-error @+1 {{result 1 of 'passed_through' is not the result of an attn.fused or attn.row_norm}}
func.func @passed_through(%q: !t) -> (!t, !t) {
  %o = attn.fused %q, %q, %q : !t, !t, !t -> !t
  return %o, %q : !t, !t
}

// -----

!t = tensor<?x?x?x64xf32>
// expected-error @+1 {{result 1 of 'twice' is returned twice}}
func.func @twice(%q: !t) -> (!t, !t) {
  %o = attn.fused %q, %q, %q : !t, !t, !t -> !t
  return %o, %o : !t, !t
}

// -----

!t = tensor<?x?x?x64xf32>
func.func @statistic(%q: !t, %k: !t, %v: !t) -> (!t, !t) {
  %o = attn.fused %q, %k, %v : !t, !t, !t -> !t
  // expected-error @+1 {{'attn.epilogue' op reads row statistics, which only a fused epilogue does: run attn-fuse before attn-to-tile}}
  %r = attn.epilogue %o stats [1 : i32] {
  ^bb0(%e: f32, %b: i32, %h: i32, %i: i32, %d: i32, %m: f32):
    %y = arith.mulf %e, %m : f32
    attn.yield %y : f32
  } : !t -> !t
  return %o, %r : !t, !t
}

// -----

!t = tensor<?x?x?x64xf32>
func.func @schedules(%q: !t) -> !t {
  // expected-error @+1 {{'tile.schedule' must be a #tile.schedule, got "fast"}}
  %o = attn.fused %q, %q, %q {tile.schedule = "fast"} : !t, !t, !t -> !t
  return %o : !t
}

// -----

!t = tensor<?x?x?x64xf32>
func.func @row_statistics(%q: !t) -> !t {
  // expected-error @+1 {{has an epilogue of row statistics, which are not known before all ranges of keys are added; try a schedule with splits = 0}}
  %o = attn.fused %q, %q, %q stats [1 : i32] epilogue {
  ^bb0(%x: f32, %b: i32, %h: i32, %i: i32, %d: i32, %square: f32):
    %y = arith.mulf %x, %square : f32
    attn.yield %y : f32
  } {tile.schedule = #tile.schedule<block_m = 16, block_n = 16, splits = 2>} : !t, !t, !t -> !t
  return %o : !t
}
