// RUN: attnc-opt %s --tile-plan-launches --tile-to-cpu --cpu-expand-math --cpu-to-llvm | FileCheck %s

#whole = affine_map<(r, c) -> (r, c)>
!view = !tile.view<?x?xf32>

// The plan is not lowered: the host evaluates it.
// CHECK-LABEL: tile.program @program(
// CHECK: tile.launch @kernel(%{{.*}}) items %
tile.program @program(%a: !view) {
  tile.launch @kernel(%a) : !view
}

// CHECK-LABEL: llvm.func @kernel(
// CHECK-SAME: attnc.scratch =
// CHECK-NOT: {{scf|vector|arith|func}}.
// CHECK: llvm.return
tile.kernel @kernel(%a: !view) {
  tile.items () in () {
    %x = tile.load %a[] by #whole : !view -> !tile.tile<8x8xf32>
    %y = tile.map(%x : !tile.tile<8x8xf32>) {
    ^bb0(%v: f32, %r: i32, %c: i32):
      %z = math.exp2 %v : f32
      tile.yield %z : f32
    } : !tile.tile<8x8xf32>
    tile.store %y, %a[] by #whole : !tile.tile<8x8xf32>, !view
  }
}
