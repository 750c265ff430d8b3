//===- TileDialect.td - The tile dialect, its types and attributes --------===//

#ifndef ATTNC_TILE_DIALECT_TD
#define ATTNC_TILE_DIALECT_TD

include "mlir/IR/AttrTypeBase.td"
include "mlir/IR/BuiltinAttributeInterfaces.td"
include "mlir/IR/EnumAttr.td"
include "mlir/IR/OpBase.td"

def Tile_Dialect : Dialect {
  let name = "tile";
  let cppNamespace = "::attnc::tile";
  let summary = "The blocked program: what one block of queries does";
  let description = [{
    A kernel is a grid of work items; an item loads tiles from views, loops
    over blocks of keys, multiplies, maps, reduces and stores. Nothing here
    knows threads or memory spaces: the CPU target lowers any valid program,
    the Hopper target schedules it.

    A `tile` is a value: two-dimensional, of static shape, without layout. A
    `view` is a window on memory with run-time sizes and strides.
  }];
  let useDefaultTypePrinterParser = 1;
  let useDefaultAttributePrinterParser = 1;
  let dependentDialects = ["::mlir::arith::ArithDialect",
                           "::mlir::math::MathDialect",
                           "::mlir::scf::SCFDialect"];
}

class Tile_Type<string name, string typeMnemonic, list<Trait> traits = []>
    : TypeDef<Tile_Dialect, name, traits> {
  let mnemonic = typeMnemonic;
}

def Tile_TileType : Tile_Type<"Tile", "tile"> {
  let summary = "A block of values, rows x cols";
  let description = [{
    `!tile.tile<64x128xbf16>`: 64 rows, 128 columns. Static shape, both at
    least 1. A row vector has one column (`64x1`), a column vector one row.
  }];
  let parameters = (ins "int64_t":$rows, "int64_t":$cols,
                        "::mlir::Type":$elementType);
  let hasCustomAssemblyFormat = 1;
  let genVerifyDecl = 1;
}

def Tile_ViewType : Tile_Type<"View", "view"> {
  let summary = "A strided window on memory";
  let description = [{
    `!tile.view<?x?x?x64xbf16>`: dims in logical order, `?` for a run-time
    size. Every stride is a run-time 64-bit number of elements. Reading
    outside the sizes gives 0, writing there does nothing.
  }];
  let parameters = (ins ArrayRefParameter<"int64_t">:$shape,
                        "::mlir::Type":$elementType);
  let hasCustomAssemblyFormat = 1;
  let genVerifyDecl = 1;
  let extraClassDeclaration = [{
    int64_t getRank() const { return getShape().size(); }
  }];
}

def Tile_Order : I32EnumAttr<"Order",
    "how the products of one key block overlap", [
    I32EnumAttrCase<"Serial", 0, "serial">,
    I32EnumAttrCase<"Overlap", 1, "overlap">,
    I32EnumAttrCase<"TwoTiles", 2, "two_tiles">,
    I32EnumAttrCase<"Deferred", 3, "deferred">]> {
  let cppNamespace = "::attnc::tile";
  let genSpecializedAttr = 0;
}

def Tile_ScheduleAttr : AttrDef<Tile_Dialect, "Schedule"> {
  let mnemonic = "schedule";
  let summary = "Every decision that tuning may change";
  let description = [{
    `block_m` query rows and `block_n` keys a block. The rest concerns GPU
    targets: `consumers` warpgroups that compute, `stages` of the key and
    value rings, `order` of the products, `pingpong` turns between
    warpgroups, `pin` (elementwise work is held before the wait on the second
    product), `persistent` grid, `cluster` size for multicast. `slice` is the
    number of columns that one speculation decides on (0: no speculation).
    `staged` stores of the output go through shared memory. With `one_kernel`
    the kernel of the keys' gradients adds up those of the queries, in no fixed
    order; else these have a kernel of their own.

    Orders: `serial` waits for each product at once. `overlap` starts the next
    block's first product beside this block's second. `two_tiles` does so for
    two blocks in turn, so that both products of one are in flight beside the
    elementwise work of the other; not where that work reads the sums, as in a
    softmax. `deferred` starts each
    product where it stands and waits for it where its result is first read;
    a product of transposed weights, which all consumers need, comes one block
    later.

    `splits` (0: none) makes two kernels of an attention: in the first an item
    takes one of up to `splits` ranges of the keys that its queries attend, the
    second adds what the ranges gave. As many ranges are made as give `fill`
    items (0: always `splits`). `resident` is how many thread blocks a
    multiprocessor is to hold at once. With `pack_groups` the rows of an item
    are those of all query heads that share a key head, position by position, so
    that keys and values are read once for them.
  }];
  let parameters = (ins "int64_t":$block_m, "int64_t":$block_n,
    DefaultValuedParameter<"int64_t", "0">:$consumers,
    DefaultValuedParameter<"int64_t", "0">:$stages,
    DefaultValuedParameter<"::attnc::tile::Order",
                           "::attnc::tile::Order::Serial">:$order,
    DefaultValuedParameter<"bool", "false">:$pingpong,
    DefaultValuedParameter<"bool", "false">:$pin,
    DefaultValuedParameter<"bool", "false">:$persistent,
    DefaultValuedParameter<"int64_t", "1">:$cluster,
    DefaultValuedParameter<"int64_t", "0">:$slice,
    DefaultValuedParameter<"bool", "false">:$staged,
    DefaultValuedParameter<"bool", "false">:$one_kernel,
    DefaultValuedParameter<"int64_t", "0">:$splits,
    DefaultValuedParameter<"int64_t", "0">:$fill,
    DefaultValuedParameter<"int64_t", "1">:$resident,
    DefaultValuedParameter<"bool", "false">:$pack_groups);
  let builders = [
    // Without a split of keys.
    AttrBuilder<(ins "int64_t":$blockM, "int64_t":$blockN,
                     "int64_t":$consumers, "int64_t":$stages,
                     "::attnc::tile::Order":$order, "bool":$pingpong,
                     "bool":$pin, "bool":$persistent, "int64_t":$cluster,
                     "int64_t":$slice, "bool":$staged), [{
      return $_get($_ctxt, blockM, blockN, consumers, stages, order, pingpong,
                   pin, persistent, cluster, slice, staged, false, 0, 0, 1, false);
    }]>
  ];
  let extraClassDeclaration = [{
    /// This schedule with another split of the keys.
    ScheduleAttr withSplit(int64_t splits, int64_t fill,
                           int64_t resident, bool packGroups) const {
      return get(getContext(), getBlockM(), getBlockN(), getConsumers(),
                 getStages(), getOrder(), getPingpong(), getPin(),
                 getPersistent(), getCluster(), getSlice(), getStaged(),
                 getOneKernel(), splits, fill, resident, packGroups);
    }
    /// This schedule with the split of `other`.
    ScheduleAttr withSplitOf(ScheduleAttr other) const {
      return withSplit(other.getSplits(), other.getFill(),
                       other.getResident(), other.getPackGroups());
    }
  }];
  let assemblyFormat = "`<` struct(params) `>`";
  let genVerifyDecl = 1;
}

def Tile_Reduction : I32EnumAttr<"Reduction", "how columns are combined", [
    I32EnumAttrCase<"Add", 0, "add">,
    I32EnumAttrCase<"Max", 1, "max">]> {
  let cppNamespace = "::attnc::tile";
}

#endif // ATTNC_TILE_DIALECT_TD
