// RUN: attnc-opt %s --tile-plan-launches | FileCheck %s

!view = !tile.view<?x?x64xf32>

// CHECK-LABEL: tile.program @program(
// CHECK-SAME: %[[Q:[a-z0-9]+]]: !tile.view
tile.program @program(%q: !view, %n: i32) {
  %rows = arith.index_cast %n : i32 to index
  // The counts of the first kernel are sizes of its view: only what they need
  // is repeated.
  // CHECK: %[[B:.*]] = tile.dim %[[Q]], 0
  // CHECK: %[[S:.*]] = tile.dim %[[Q]], 1
  // CHECK: %[[M:.*]] = arith.ceildivui %[[S]], %{{.*}}
  // CHECK-NOT: arith.addi
  // CHECK: %[[ITEMS:.*]] = arith.muli %[[B]], %[[M]]
  // CHECK: tile.launch @grid(%[[Q]]) items %[[ITEMS]]
  tile.launch @grid(%q) : !view
  // Here the count is an argument of the launch.
  // CHECK: tile.launch @list(%[[Q]], %[[ROWS:.*]]) items %[[ROWS]]
  tile.launch @list(%q, %rows) : !view, index
  // A grid without dims is one item.
  // CHECK: %[[ONE:.*]] = arith.constant 1 : index
  // CHECK: tile.launch @once(%[[Q]]) items %[[ONE]]
  tile.launch @once(%q) : !view
}

tile.kernel @grid(%q: !view) {
  %block = arith.constant 64 : index
  %b = tile.dim %q, 0 : !view
  %s = tile.dim %q, 1 : !view
  %m = arith.ceildivui %s, %block : index
  %unused = arith.addi %s, %block : index
  tile.items (%x, %y) in (%b, %m) {
  }
}

tile.kernel @list(%q: !view, %rows: index) {
  tile.items (%x) in (%rows) {
  }
}

tile.kernel @once(%q: !view) {
  tile.items () in () {
  }
}
