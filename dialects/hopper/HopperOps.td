//===- HopperOps.td - The ops of the hopper dialect -----------------------===//

#ifndef ATTNC_HOPPER_OPS_TD
#define ATTNC_HOPPER_OPS_TD

include "dialects/hopper/HopperDialect.td"
include "dialects/tile/TileDialect.td"
include "mlir/IR/OpAsmInterface.td"
include "mlir/IR/SymbolInterfaces.td"
include "mlir/Interfaces/ControlFlowInterfaces.td"
include "mlir/Interfaces/FunctionInterfaces.td"
include "mlir/Interfaces/InferTypeOpInterface.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

class Hopper_Op<string opMnemonic, list<Trait> traits = []>
    : Op<Hopper_Dialect, opMnemonic, traits>;

// Ops that wait, signal or issue declare a read and a write of everything:
// generic passes then keep their order.
def Hopper_Ordered : MemoryEffects<[MemRead, MemWrite]>;

//===----------------------------------------------------------------------===//
// Kernels and roles
//===----------------------------------------------------------------------===//

def Hopper_KernelOp : Hopper_Op<"kernel",
    [FunctionOpInterface, IsolatedFromAbove, SingleBlock,
     NoTerminator, HasParent<"::mlir::ModuleOp">]> {
  let summary = "A kernel: what all threads know, and two roles";
  let description = [{
    The arguments are those of the `tile.kernel` it was scheduled from. The
    body is pure index arithmetic, tensor maps and rings, then one
    `hopper.producer` and one `hopper.consumers`.
  }];
  let arguments = (ins SymbolNameAttr:$sym_name,
    TypeAttrOf<FunctionType>:$function_type,
    OptionalAttr<DictArrayAttr>:$arg_attrs,
    OptionalAttr<DictArrayAttr>:$res_attrs,
    Hopper_RolesAttr:$roles);
  let regions = (region SizedRegion<1>:$body);
  let hasCustomAssemblyFormat = 1;
  let hasRegionVerifier = 1;
  let extraClassDeclaration = [{
    ::mlir::ArrayRef<::mlir::Type> getArgumentTypes() {
      return getFunctionType().getInputs();
    }
    ::mlir::ArrayRef<::mlir::Type> getResultTypes() {
      return getFunctionType().getResults();
    }
    ::mlir::Region *getCallableRegion() { return &getBody(); }
  }];
}

def Hopper_ProducerOp : Hopper_Op<"producer",
    [SingleBlock, NoTerminator, HasParent<"KernelOp">]> {
  let summary = "What the producer does";
  let description = [{
    One elected thread of the producer warpgroup runs the body; with
    `cooperative` all 128 threads do, and one of them starts bulk copies.
  }];
  let arguments = (ins UnitAttr:$cooperative);
  let regions = (region SizedRegion<1>:$body);
  let assemblyFormat = "(`cooperative` $cooperative^)? $body attr-dict";
}

def Hopper_ConsumersOp : Hopper_Op<"consumers",
    [SingleBlock, NoTerminator, HasParent<"KernelOp">]> {
  let summary = "What each consumer warpgroup does";
  let description = [{
    The argument is the number of the warpgroup among the consumers.
  }];
  let regions = (region SizedRegion<1>:$body);
  let hasCustomAssemblyFormat = 1;
  let hasRegionVerifier = 1;
}

def Hopper_BlockOp : Hopper_Op<"block", [Pure]> {
  let summary = "The number of this thread block in the grid";
  let results = (outs Index:$id);
  let assemblyFormat = "attr-dict";
}

def Hopper_RankOp : Hopper_Op<"rank", [Pure]> {
  let summary = "The number of this thread block in its cluster";
  let description = [{
    Blocks c * n to c * n + c - 1 of the grid are a cluster of c.
  }];
  let results = (outs Index:$rank);
  let assemblyFormat = "attr-dict";
  let hasVerifier = 1;
}

def Hopper_GridOp : Hopper_Op<"grid", [Pure]> {
  let summary = "How many thread blocks the grid has";
  let results = (outs Index:$size);
  let assemblyFormat = "attr-dict";
}

//===----------------------------------------------------------------------===//
// Rings and copies
//===----------------------------------------------------------------------===//

def Hopper_TensorMapOp : Hopper_Op<"tensor_map", [Pure]> {
  let summary = "The tensor map of a view, made by the launcher";
  let description = [{
    `order` lists the dims of the view, the fastest (of stride 1) first;
    `box` is what one copy moves, in the same order: 64 columns of 16 bits,
    then rows. The swizzle is 128B.
  }];
  let arguments = (ins Tile_ViewType:$view, DenseI64ArrayAttr:$order,
                       DenseI64ArrayAttr:$box);
  let results = (outs Hopper_TensorMapType:$map);
  let assemblyFormat = [{
    $view `order` $order `box` $box attr-dict `:` type($view)
  }];
  let hasVerifier = 1;
}

def Hopper_RingOp : Hopper_Op<"ring",
    [MemoryEffects<[MemAlloc]>, HasParent<"KernelOp">]> {
  let summary = "Shared memory for a ring";
  let description = [{
    `name` is for readers of the IR.

    A `multicast` ring holds the same in all thread blocks of a cluster of c:
    each block copies a part of c of the rows of a slot to all of them. A slot
    is empty when the consumers of all blocks have released it, and full, in
    each block, when all parts have come. All blocks therefore fill the same
    slots in the same order, and each consumer awaits and releases every one.
  }];
  let arguments = (ins StrAttr:$name, UnitAttr:$multicast);
  let results = (outs Hopper_RingType:$ring);
  let assemblyFormat = [{
    $name (`multicast` $multicast^)? attr-dict `:` type($ring)
  }];
  let hasVerifier = 1;
}

def Hopper_ScratchOp : Hopper_Op<"scratch",
    [MemoryEffects<[MemAlloc]>, HasParent<"KernelOp">]> {
  let summary = "Shared memory of each consumer's own, without barriers";
  let description = [{
    For what passes through on its way to or from global memory, in the order
    that who uses it likes: 64 rows of sums, or two rows for each of the four
    warps of what is prefetched. `name` is for readers of the IR.
  }];
  let arguments = (ins StrAttr:$name);
  let results = (outs Hopper_SmemType:$slot);
  let assemblyFormat = "$name attr-dict `:` type($slot)";
  let hasVerifier = 1;
}

def Hopper_StartOp : Hopper_Op<"start", [Pure]> {
  let summary = "The first slot of a ring, in its first phase";
  let results = (outs Hopper_CursorType:$cursor);
  let assemblyFormat = "attr-dict";
}

def Hopper_NextOp : Hopper_Op<"next", [Pure]> {
  let summary = "The next slot; the phase flips on wrap-around";
  let arguments = (ins Hopper_CursorType:$cursor, Hopper_RingType:$ring);
  let results = (outs Hopper_CursorType:$next);
  let assemblyFormat = "$cursor `in` $ring attr-dict `:` type($ring)";
}

def Hopper_AcquireOp : Hopper_Op<"acquire", [Hopper_Ordered]> {
  let summary = "Producer: waits until the consumers released the slot";
  let arguments = (ins Hopper_RingType:$ring, Hopper_CursorType:$cursor);
  let assemblyFormat = "$ring `[` $cursor `]` attr-dict `:` type($ring)";
}

def Hopper_CopyOp : Hopper_Op<"copy",
    [AttrSizedOperandSegments, Hopper_Ordered]> {
  let summary = "Producer: starts to fill a slot by TMA";
  let description = [{
    `coordinates` of the first element, in the order of the tensor map. What
    lies outside the tensor is 0. One copy for each panel of 64 columns; the
    slot is full when all have arrived.

    To a multicast ring goes `part` number r: the rows of the map's box, to
    those from r times as many on of the slot in each thread block. What is read
    `once`, if that is true, is the first to leave the second-level cache, and
    drives nothing else out.
  }];
  let arguments = (ins Hopper_TensorMapType:$map,
    Variadic<Index>:$coordinates, Hopper_RingType:$ring,
    Hopper_CursorType:$cursor, Optional<Index>:$part, Optional<I1>:$once);
  let assemblyFormat = [{
    $map `[` $coordinates `]` `to` $ring `[` $cursor `]` (`part` $part^)?
    (`once` $once^)?
    attr-dict `:` type($ring)
  }];
  let hasVerifier = 1;
}

def Hopper_CopyElementsOp : Hopper_Op<"copy_elements",
    [AttrSizedOperandSegments, Hopper_Ordered]> {
  let summary = "Cooperative producer: fills a slot by ordinary loads";
  let description = [{
    For views that TMA cannot read: any strides, any alignment. Element (r, c)
    is the view's element at map(r, c)[coordinates...]; outside the view and in
    rows r >= `rows` it is 0 and not read. Where the columns are neighbours,
    reads are as wide as the alignment of base and strides allows. The warps of
    the producer take the slots of a ring in turn, or share the only one.
  }];
  let arguments = (ins Tile_ViewType:$view, Variadic<Index>:$coordinates,
    AffineMapAttr:$map, Optional<Index>:$rows, Hopper_RingType:$ring,
    Hopper_CursorType:$cursor);
  let assemblyFormat = [{
    $view `[` $coordinates `]` `by` $map (`rows` $rows^)? `to`
    $ring `[` $cursor `]` attr-dict `:` type($view) `,` type($ring)
  }];
  let hasVerifier = 1;
}

def Hopper_AwaitOp : Hopper_Op<"await", [Hopper_Ordered]> {
  let summary = "Consumer: waits until the slot is full";
  let arguments = (ins Hopper_RingType:$ring, Hopper_CursorType:$cursor);
  let results = (outs Hopper_SmemType:$slot);
  let assemblyFormat = [{
    $ring `[` $cursor `]` attr-dict `:` type($ring) `->` type($slot)
  }];
  let hasVerifier = 1;
}

def Hopper_ZeroRowsOp : Hopper_Op<"zero_rows", [Hopper_Ordered]> {
  let summary = "Consumer: zeroes the rows of a slot from `first` on";
  let description = [{
    Rows beyond a sequence's length hold whatever the tensor has there; a
    product would read them, and 0 times NaN is NaN. Each warpgroup zeroes
    all of them itself, so that it need not wait for the others.
  }];
  let arguments = (ins Hopper_SmemType:$slot, Index:$first);
  let assemblyFormat = "$slot `from` $first attr-dict `:` type($slot)";
}

def Hopper_ReleaseOp : Hopper_Op<"release", [Hopper_Ordered]> {
  let summary = "Consumer: this warpgroup will not read the slot again";
  let description = [{
    Comes after the wait that retired every wgmma that reads the slot. Of a
    multicast ring it tells the producers of all thread blocks.
  }];
  let arguments = (ins Hopper_RingType:$ring, Hopper_CursorType:$cursor);
  let assemblyFormat = "$ring `[` $cursor `]` attr-dict `:` type($ring)";
}

def Hopper_PutOp : Hopper_Op<"put", [Hopper_Ordered]> {
  let summary = "Consumer: writes 64 rows of a slot and tells all consumers";
  let description = [{
    For what each consumer makes and all read. Rows 64 * index and the next
    63; the slot is full when every consumer has put its rows. Who puts has
    acquired the slot.
  }];
  let arguments = (ins Hopper_FragType:$frag, Hopper_RingType:$ring,
    Hopper_CursorType:$cursor, Index:$index);
  let assemblyFormat = [{
    $frag `to` $ring `[` $cursor `]` `rows` $index attr-dict
    `:` type($frag) `,` type($ring)
  }];
  let hasVerifier = 1;
}

def Hopper_RowsOp : Hopper_Op<"rows", [Pure]> {
  let summary = "64 rows of a block in shared memory";
  let description = [{
    Rows 64 * index and the next 63.
  }];
  let arguments = (ins Hopper_SmemType:$slot, Index:$index);
  let results = (outs Hopper_SmemType:$result);
  let assemblyFormat = [{
    $slot `[` $index `]` attr-dict `:` type($slot) `->` type($result)
  }];
  let hasVerifier = 1;
}

def Hopper_ColumnsOp : Hopper_Op<"columns", [Pure]> {
  let summary = "Some columns of a block in shared memory";
  let description = [{
    All rows, columns w * index and the next: w = 64, a panel, or a multiple of
    16 that divides 64 of a block that has one panel. What a block of fewer
    columns has there is 0 if bulk copies filled it.
  }];
  let arguments = (ins Hopper_SmemType:$slot, Index:$index);
  let results = (outs Hopper_SmemType:$result);
  let assemblyFormat = [{
    $slot `[` $index `]` attr-dict `:` type($slot) `->` type($result)
  }];
  let hasVerifier = 1;
}

def Hopper_PrefetchOp : Hopper_Op<"prefetch",
    [AttrSizedOperandSegments, Hopper_Ordered]> {
  let summary = "Consumer: starts to copy one value a column";
  let description = [{
    For a block that is to come: the row of 32-bit elements at
    map(0, c)[coordinates...], any strides and alignment; outside the view, or
    where `rows` is not positive, 0. Each warp copies to a part of the scratch
    of its own, whose two slots (0 and 1) take turns.
  }];
  let arguments = (ins Tile_ViewType:$view, Variadic<Index>:$coordinates,
    AffineMapAttr:$map, Optional<Index>:$rows, Hopper_SmemType:$scratch,
    Index:$slot);
  let assemblyFormat = [{
    $view `[` $coordinates `]` `by` $map (`rows` $rows^)? `to`
    $scratch `[` $slot `]` attr-dict `:` type($view) `,` type($scratch)
  }];
  let hasVerifier = 1;
}

def Hopper_PrefetchedOp : Hopper_Op<"prefetched", [Hopper_Ordered]> {
  let summary = "Consumer: waits for all that this warp prefetches";
  let description = [{
    What was fetched of other slots before may be written again after it.
  }];
  let assemblyFormat = "attr-dict";
}

def Hopper_FetchOp : Hopper_Op<"fetch", [Hopper_Ordered]> {
  let summary = "Consumer: a `col` fragment that was prefetched";
  let arguments = (ins Hopper_SmemType:$scratch, Index:$slot);
  let results = (outs Hopper_FragType:$frag);
  let assemblyFormat = [{
    $scratch `[` $slot `]` attr-dict `:` type($scratch) `->` type($frag)
  }];
  let hasVerifier = 1;
}

//===----------------------------------------------------------------------===//
// Products
//===----------------------------------------------------------------------===//

def Hopper_WgmmaOp : Hopper_Op<"wgmma", [Hopper_Ordered]> {
  let summary = "Starts acc + a * b on the tensor core";
  let description = [{
    a is 64 x K, in shared memory or a fragment of layout `a`, or with
    `transpose_a` K x 64 in shared memory; b is K x N in shared memory, or
    N x K with `transpose_b`. Without `acc` the sum starts
    at 0. K counts up to the next multiple of 16 and N to the next of 8: what
    copies leave there is 0.

    `acc` is consumed: the pending value takes over its registers. It may be
    pending itself: the tensor core adds in the order in which products were
    started. Until the wait, nothing may write the registers of a register
    operand.
  }];
  let arguments = (ins AnyTypeOf<[Hopper_SmemType, Hopper_FragType]>:$lhs,
    Hopper_SmemType:$rhs,
    Optional<AnyTypeOf<[Hopper_FragType, Hopper_PendingType]>>:$acc,
    UnitAttr:$transpose_a, UnitAttr:$transpose_b);
  let results = (outs Hopper_PendingType:$result);
  let assemblyFormat = [{
    $lhs `,` $rhs (`acc` $acc^ `:` type($acc))? (`transpose_a` $transpose_a^)?
    (`transpose_b` $transpose_b^)? attr-dict `:` type($lhs) `,` type($rhs) `->` type($result)
  }];
  let hasVerifier = 1;
  let extraClassDeclaration = [{
    int64_t getK();
    int64_t getN();
    ::mlir::Type getOperandElementType() {
      return getRhs().getType().getElementType();
    }
  }];
}

def Hopper_CommitOp : Hopper_Op<"commit", [Hopper_Ordered]> {
  let summary = "Makes one group of the products started since the last";
  let assemblyFormat = "attr-dict";
}

def Hopper_WaitOp : Hopper_Op<"wait", [Hopper_Ordered]> {
  let summary = "Waits for products and gives their readable fragments";
  let description = [{
    The products must have been started and committed in the same block. How
    many younger groups may stay in flight follows from the IR: those
    committed after the youngest group waited for.
  }];
  let arguments = (ins Variadic<Hopper_PendingType>:$pendings);
  let results = (outs Variadic<Hopper_FragType>:$results);
  let assemblyFormat = [{
    $pendings attr-dict `:` type($pendings) `->` type($results)
  }];
  let hasVerifier = 1;
  let extraClassDeclaration = [{
    /// Groups that may stay in flight.
    int64_t getInFlight();
  }];
}

//===----------------------------------------------------------------------===//
// Turns
//===----------------------------------------------------------------------===//

def Hopper_TurnInitOp : Hopper_Op<"turn_init", [Hopper_Ordered]> {
  let summary = "Gives the first turn to the first consumer";
  let arguments = (ins Index:$consumer);
  let assemblyFormat = "$consumer attr-dict";
}

def Hopper_TurnWaitOp : Hopper_Op<"turn_wait", [Hopper_Ordered]> {
  let summary = "Waits for this warpgroup's turn to start products";
  let description = [{
    Ping-pong: while one warpgroup starts its products, the others are kept
    at their elementwise work.
  }];
  let arguments = (ins Index:$consumer);
  let assemblyFormat = "$consumer attr-dict";
}

def Hopper_TurnPassOp : Hopper_Op<"turn_pass", [Hopper_Ordered]> {
  let summary = "Passes the turn to the next consumer";
  let arguments = (ins Index:$consumer);
  let assemblyFormat = "$consumer attr-dict";
}

//===----------------------------------------------------------------------===//
// Fragments
//===----------------------------------------------------------------------===//

def Hopper_YieldOp : Hopper_Op<"yield", [Pure, Terminator, ReturnLike]> {
  let summary = "Values that a region gives";
  let arguments = (ins Variadic<AnyType>:$values);
  let assemblyFormat = "($values^ `:` type($values))? attr-dict";
  let builders = [OpBuilder<(ins), [{ }]>];
}

def Hopper_SplatOp : Hopper_Op<"splat", [Pure]> {
  let summary = "A fragment with one value everywhere";
  let arguments = (ins AnyTypeOf<[F32, I32]>:$value);
  let results = (outs Hopper_FragType:$frag);
  let assemblyFormat = [{
    $value attr-dict `:` type($value) `->` type($frag)
  }];
}

def Hopper_LoadOp : Hopper_Op<"load",
    [AttrSizedOperandSegments, MemoryEffects<[MemRead]>]> {
  let summary = "A fragment straight from global memory";
  let description = [{
    As `tile.load`, with rows and columns counted in the fragment.
  }];
  let arguments = (ins Arg<Tile_ViewType, "source", [MemRead]>:$view,
    Variadic<Index>:$coordinates, AffineMapAttr:$map, Optional<Index>:$rows);
  let results = (outs Hopper_FragType:$frag);
  let assemblyFormat = [{
    $view `[` $coordinates `]` `by` $map (`rows` $rows^)?
    attr-dict `:` type($view) `->` type($frag)
  }];
}

def Hopper_StoreOp : Hopper_Op<"store",
    [AttrSizedOperandSegments, MemoryEffects<[MemWrite]>]> {
  let summary = "Writes a fragment to global memory";
  let description = [{
    As `tile.store`, with rows and columns counted in the fragment.

    With `through`, 64 rows of shared memory that no product reads any more,
    the elements change hands there, so that each thread writes 16 bytes and
    eight of them a line of 128. A number of columns that is no multiple of 8
    has rows that begin anywhere: they are written by words, a row at a time.
    Where sizes, strides or the address do not allow that, elements go straight
    to global memory as without it.

    An `add` goes through a `hopper.scratch`, from where the copy engine adds
    it: what each warp holds is one piece of memory. It is done when the role
    ends.
  }];
  let arguments = (ins Hopper_FragType:$frag,
    Arg<Tile_ViewType, "destination", [MemWrite]>:$view,
    Variadic<Index>:$coordinates, AffineMapAttr:$map, Optional<Index>:$rows,
    Optional<Hopper_SmemType>:$through, UnitAttr:$add);
  let assemblyFormat = [{
    (`add` $add^)? $frag `,` $view `[` $coordinates `]` `by` $map (`rows` $rows^)?
    (`through` $through^ `:` type($through))?
    attr-dict `:` type($frag) `,` type($view)
  }];
  let hasVerifier = 1;
}

def Hopper_MapOp : Hopper_Op<"map", [Pure, SingleBlock]> {
  let summary = "An elementwise function of fragments";
  let description = [{
    As `tile.map`: `width` neighbours of a row at once, then row and column
    (i32) in the fragment. `row` and `col` operands are broadcast. In `acc`
    one thread holds two neighbours, so the width is 1 or 2.
  }];
  let arguments = (ins Variadic<Hopper_FragType>:$inputs,
    DefaultValuedAttr<ConfinedAttr<I64Attr, [IntPositive]>, "1">:$width);
  let results = (outs Hopper_FragType:$result);
  let regions = (region SizedRegion<1>:$body);
  let assemblyFormat = [{
    `(` ($inputs^ `:` type($inputs))? `)` (`width` $width^)? $body attr-dict
    `:` type($result)
  }];
  let hasRegionVerifier = 1;
}

def Hopper_SpeculateOp : Hopper_Op<"speculate",
    [Pure, AttrSizedOperandSegments]> {
  let summary = "A cheap formula where it holds, the exact one elsewhere";
  let description = [{
    As `tile.speculate`. One decision for the 16 rows of a warp and `slice`
    columns, by a vote of the warp.

    `missed` and `misses` are for a loop over blocks, which carries them.
    `misses` says that in the last slice some guard exceeded every limit but the
    last; with `missed` the formula of the last limit goes first, in all slices.
    So data that needs it does not pay for the cheaper ones, and a warp is back
    at these one block after they hold again. Both are the same for all threads
    of a warp.
  }];
  let arguments = (ins Variadic<Hopper_FragType>:$inputs, Optional<I1>:$missed,
    ConfinedAttr<I64Attr, [IntPositive]>:$slice, DenseF32ArrayAttr:$limits);
  let results = (outs Hopper_FragType:$result, Optional<I1>:$misses);
  let regions = (region SizedRegion<1>:$common, SizedRegion<1>:$exact,
                        VariadicRegion<SizedRegion<1>>:$fast);
  let assemblyFormat = [{
    `(` $inputs `:` type($inputs) `)` (`after` $missed^)?
    `slice` $slice `limits` custom<Limits>($limits)
    `common` $common `fast` $fast `exact` $exact attr-dict
    `:` type($result) (`,` type($misses)^)?
  }];
  let hasRegionVerifier = 1;
}

def Hopper_MaskOp : Hopper_Op<"mask",
    [Pure, SingleBlock, AllTypesMatch<["input", "result"]>]> {
  let summary = "x where the predicate holds, else fill";
  let description = [{
    As `tile.mask`, with row and column in the fragment.
  }];
  let arguments = (ins Hopper_FragType:$input,
                       Variadic<Hopper_FragType>:$captured, F32Attr:$fill);
  let results = (outs Hopper_FragType:$result);
  let regions = (region SizedRegion<1>:$body);
  let assemblyFormat = [{
    $input (`captured` `(` $captured^ `:` type($captured) `)`)?
    `fill` $fill $body attr-dict `:` type($result)
  }];
  let hasRegionVerifier = 1;
}

def Hopper_ReduceOp : Hopper_Op<"reduce", [Pure]> {
  let summary = "Combines the columns of each row";
  let description = [{
    First the columns a thread holds, in order, then the four lanes of a row
    by two exchanges. `acc` gives `row`; a single row, `col`, one value. With
    `partial` only the first: each lane then has its own part. A `row` fragment
    of such parts as input makes only the exchanges.
  }];
  let arguments = (ins Tile_Reduction:$kind, Hopper_FragType:$input,
                       UnitAttr:$partial);
  let results = (outs Hopper_FragType:$result);
  let assemblyFormat = [{
    $kind (`partial` $partial^)? $input attr-dict `:` type($input) `->` type($result)
  }];
  let hasVerifier = 1;
}

def Hopper_ConvertOp : Hopper_Op<"convert", [Pure]> {
  let summary = "Rounds or widens the elements; packs `acc` into `a`";
  let description = [{
    `acc` of f32 to `a` of a 16-bit type packs neighbours: registers are
    renamed, nothing moves between threads.
  }];
  let arguments = (ins Hopper_FragType:$input);
  let results = (outs Hopper_FragType:$result);
  let assemblyFormat = "$input attr-dict `:` type($input) `->` type($result)";
  let hasVerifier = 1;
}

def Hopper_PinOp : Hopper_Op<"pin", [Hopper_Ordered]> {
  let summary = "Holds elementwise work before what follows";
  let description = [{
    ptxas moves arithmetic below a later wait, which undoes the overlap that
    the schedule asks for. A branch that is never taken, and would store the
    values, keeps them where they are.
  }];
  let arguments = (ins Hopper_FragType:$frag);
  let assemblyFormat = "$frag attr-dict `:` type($frag)";
}

#endif // ATTNC_HOPPER_OPS_TD
