// A matrix product through inline assembly: what the assembler makes of a
// kernel that waits before it reads, and of one that does not.

// RUN: attnc-ptx %s | FileCheck %s --check-prefix=PTX
// REQUIRES: ptxas
// RUN: attnc-ptx %s --emit=stats | FileCheck %s --check-prefix=STATS
// RUN: not attnc-ptx %s --emit=stats --require-clean 2>&1 | FileCheck %s --check-prefix=CLEAN

// PTX: .version 8.4
// PTX: .target sm_90a

// CLEAN: error: the machine code is not clean:
// CLEAN-NEXT: C75{{[0-9]+}}: {{.*}} in function 'forgets'
// CLEAN-NOT: in function 'waits'

module {
  // What is not of the LLVM dialect is the host's.
  // PTX-NOT: host
  tile.program @host() {
    %n = arith.constant 1 : index
  }

  llvm.mlir.global external @smem() {addr_space = 3 : i32, alignment = 1024 : i64} : !llvm.array<0 x i8>

  // PTX-LABEL: .entry waits(
  // PTX: .reqntid 128
  // PTX: wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16
  // PTX: wgmma.wait_group.sync.aligned 0

  // STATS-LABEL: "forgets": {
  // STATS-LABEL: "waits": {
  // STATS: "registers": {{[1-9]}}
  // STATS: "stack": 0,
  // STATS: "spill_stores": 0,
  // STATS: "code": {
  // STATS: "HGMMA": 1,
  // STATS: "loop": {
  // STATS-NEXT: "instructions": 0
  // STATS: "remarks": [
  // STATS-NEXT: "C75
  llvm.func @waits(%out: !llvm.ptr<1>, %a: i64, %b: i64) attributes {attnc.kernel = {threads = 128 : i64}, nvvm.kernel, nvvm.reqntid = array<i32: 128>} {
    %s = llvm.inline_asm has_side_effects "{ wgmma.fence.sync.aligned; wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {$0,$1,$2,$3}, $4, $5, 0, 1, 1, 0, 0; wgmma.commit_group.sync.aligned; }", "=f,=f,=f,=f,l,l,~{memory}" %a, %b : (i64, i64) -> !llvm.struct<(f32, f32, f32, f32)>
    %s0 = llvm.extractvalue %s[0] : !llvm.struct<(f32, f32, f32, f32)>
    %s1 = llvm.extractvalue %s[1] : !llvm.struct<(f32, f32, f32, f32)>
    %s2 = llvm.extractvalue %s[2] : !llvm.struct<(f32, f32, f32, f32)>
    %s3 = llvm.extractvalue %s[3] : !llvm.struct<(f32, f32, f32, f32)>
    %w = llvm.inline_asm has_side_effects "wgmma.wait_group.sync.aligned 0;", "=f,=f,=f,=f,0,1,2,3,~{memory}" %s0, %s1, %s2, %s3 : (f32, f32, f32, f32) -> !llvm.struct<(f32, f32, f32, f32)>
    %x = llvm.extractvalue %w[0] : !llvm.struct<(f32, f32, f32, f32)>
    llvm.store %x, %out : f32, !llvm.ptr<1>
    llvm.return
  }

  // PTX-LABEL: .entry forgets(
  llvm.func @forgets(%out: !llvm.ptr<1>, %a: i64, %b: i64) attributes {nvvm.kernel, nvvm.reqntid = array<i32: 128>} {
    %s = llvm.inline_asm has_side_effects "{ wgmma.fence.sync.aligned; wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {$0,$1,$2,$3}, $4, $5, 0, 1, 1, 0, 0; wgmma.commit_group.sync.aligned; }", "=f,=f,=f,=f,l,l,~{memory}" %a, %b : (i64, i64) -> !llvm.struct<(f32, f32, f32, f32)>
    %x = llvm.extractvalue %s[0] : !llvm.struct<(f32, f32, f32, f32)>
    llvm.store %x, %out : f32, !llvm.ptr<1>
    llvm.return
  }
}
