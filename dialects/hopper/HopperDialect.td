//===- HopperDialect.td - The hopper dialect, its types and attributes ----===//

#ifndef ATTNC_HOPPER_DIALECT_TD
#define ATTNC_HOPPER_DIALECT_TD

include "mlir/IR/AttrTypeBase.td"
include "mlir/IR/BuiltinAttributeInterfaces.td"
include "mlir/IR/EnumAttr.td"
include "mlir/IR/OpBase.td"

def Hopper_Dialect : Dialect {
  let name = "hopper";
  let cppNamespace = "::attnc::hopper";
  let summary = "The scheduled program: who does what, when";
  let description = [{
    A kernel has two roles: one elected thread of a producer warpgroup, which
    fills rings in shared memory by bulk tensor copies (TMA), and consumer
    warpgroups, which multiply (wgmma), compute elementwise on register
    fragments, and store. Full and empty barriers of each ring slot connect
    the roles. Layouts and asynchrony are explicit here and nowhere above.
  }];
  let useDefaultTypePrinterParser = 1;
  let useDefaultAttributePrinterParser = 1;
  let dependentDialects = ["::attnc::tile::TileDialect",
                           "::mlir::arith::ArithDialect",
                           "::mlir::math::MathDialect",
                           "::mlir::scf::SCFDialect"];
}

//===----------------------------------------------------------------------===//
// Attributes
//===----------------------------------------------------------------------===//

def Hopper_Layout : I32EnumAttr<"Layout",
    "how a warpgroup's 128 threads hold a fragment", [
    I32EnumAttrCase<"Acc", 0, "acc">,
    I32EnumAttrCase<"A", 1, "a">,
    I32EnumAttrCase<"Row", 2, "row">,
    I32EnumAttrCase<"Col", 3, "col">]> {
  let cppNamespace = "::attnc::hopper";
}

def Hopper_RolesAttr : AttrDef<Hopper_Dialect, "Roles"> {
  let mnemonic = "roles";
  let summary = "The warpgroups of a kernel and their registers";
  let description = [{
    One producer warpgroup and `consumers` consumer warpgroups. The registers
    a thread of each role has after `setmaxnreg` are multiples of 8; their
    sum over the warpgroups may not exceed what 64K registers give at entry,
    shared among `resident` thread blocks. A `persistent` kernel loops over
    work items. `cluster` thread blocks run together, on SMs that reach each
    other's shared memory: 1, 2 or 4.
  }];
  let parameters = (ins "int64_t":$consumers,
    "int64_t":$producer_registers, "int64_t":$consumer_registers,
    DefaultValuedParameter<"bool", "false">:$persistent,
    DefaultValuedParameter<"int64_t", "1">:$resident,
    DefaultValuedParameter<"int64_t", "1">:$cluster);
  let assemblyFormat = "`<` struct(params) `>`";
  let genVerifyDecl = 1;
}

//===----------------------------------------------------------------------===//
// Types
//===----------------------------------------------------------------------===//

class Hopper_Type<string name, string typeMnemonic>
    : TypeDef<Hopper_Dialect, name> {
  let mnemonic = typeMnemonic;
}

def Hopper_FragType : Hopper_Type<"Frag", "frag"> {
  let summary = "A block of values in the registers of one warpgroup";
  let description = [{
    `!hopper.frag<64x128xf32, acc>`. Layouts, for lane l of warp w, with
    g = l / 4 and q = l mod 4:

    - `acc`: rows 16 w + g and + 8, columns 8 i + 2 q and the next: what
      wgmma accumulates. 64 rows, columns a multiple of 8.
    - `a`: what wgmma reads as A from registers: pairs of 16-bit elements,
      the same columns and rows as `acc`, packed. Columns a multiple of 16.
    - `row`: 64 x 1, the values of the two rows of `acc`, the same in the
      four lanes of a row.
    - `col`: 1 x n, the values of the columns of `acc`, the same in every
      row. 1 x 1 is one value, the same everywhere.
  }];
  let parameters = (ins "int64_t":$rows, "int64_t":$cols,
                        "::mlir::Type":$elementType, "Layout":$layout);
  let hasCustomAssemblyFormat = 1;
  let genVerifyDecl = 1;
  let extraClassDeclaration = [{
    /// How many values (for `a`: registers) a thread holds.
    int64_t getCount() const;
  }];
}

def Hopper_PendingType : Hopper_Type<"Pending", "pending"> {
  let summary = "An accumulator that wgmma may still be writing";
  let description = [{
    `!hopper.pending<64x128xf32>`: becomes readable by `hopper.wait`, or a
    product started later adds to it. It has one use.
  }];
  let parameters = (ins "int64_t":$rows, "int64_t":$cols);
  let hasCustomAssemblyFormat = 1;
}

def Hopper_SmemType : Hopper_Type<"Smem", "smem"> {
  let summary = "A block in shared memory that may be read";
  let description = [{
    `!hopper.smem<128x64xbf16>`: panels of 128 bytes a row, 128B swizzle, one
    panel after the other.
  }];
  let parameters = (ins "int64_t":$rows, "int64_t":$cols,
                        "::mlir::Type":$elementType);
  let hasCustomAssemblyFormat = 1;
}

def Hopper_RingType : Hopper_Type<"Ring", "ring"> {
  let summary = "Slots in shared memory with full and empty barriers";
  let description = [{
    `!hopper.ring<2x128x64xbf16>`: two slots of 128 rows, 64 columns. The
    producer acquires a slot (waits until it is empty) and copies into it;
    consumers await it (wait until it is full), read and release it.
  }];
  let parameters = (ins "int64_t":$stages, "int64_t":$rows, "int64_t":$cols,
                        "::mlir::Type":$elementType);
  let hasCustomAssemblyFormat = 1;
  let genVerifyDecl = 1;
}

def Hopper_CursorType : Hopper_Type<"Cursor", "cursor"> {
  let summary = "A position in a ring: slot and phase";
  let description = [{
    Each role moves through a ring at its own pace, so a position is a value
    of the role, carried through its loops.
  }];
  let assemblyFormat = "";
}

def Hopper_TensorMapType : Hopper_Type<"TensorMap", "tensor_map"> {
  let summary = "What TMA needs to know about a tensor";
  let assemblyFormat = "";
}

#endif // ATTNC_HOPPER_DIALECT_TD
