//===- TileOps.td - The ops of the tile dialect ---------------------------===//

#ifndef ATTNC_TILE_OPS_TD
#define ATTNC_TILE_OPS_TD

include "dialects/tile/TileDialect.td"
include "mlir/IR/OpAsmInterface.td"
include "mlir/IR/SymbolInterfaces.td"
include "mlir/Interfaces/ControlFlowInterfaces.td"
include "mlir/Interfaces/FunctionInterfaces.td"
include "mlir/Interfaces/InferTypeOpInterface.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

class Tile_Op<string opMnemonic, list<Trait> traits = []>
    : Op<Tile_Dialect, opMnemonic, traits>;

def Tile_Scalar : AnyTypeOf<[F32, I32, Index]>;

//===----------------------------------------------------------------------===//
// Programs and kernels
//===----------------------------------------------------------------------===//

def Tile_ProgramOp : Tile_Op<"program",
    [FunctionOpInterface, IsolatedFromAbove, SingleBlock,
     DeclareOpInterfaceMethods<OpAsmOpInterface,
         ["getAsmBlockArgumentNames"]>,
     NoTerminator, HasParent<"::mlir::ModuleOp">]> {
  let summary = "The unit of compilation: kernels and their launch plan";
  let description = [{
    The arguments are what a caller passes: views and scalars (f32, i32), each
    with attributes `tile.name` (a string), `tile.dims` for views (view dim k
    is tensor dim dims[k]) and the unit attribute `tile.result` for outputs.
    The body is evaluated on the host for each call: index arithmetic on
    `tile.dim`, `tile.check`, `tile.workspace` and `tile.launch`, in order.
    Launches run one after the other.
  }];
  let arguments = (ins SymbolNameAttr:$sym_name,
    TypeAttrOf<FunctionType>:$function_type,
    OptionalAttr<DictArrayAttr>:$arg_attrs,
    OptionalAttr<DictArrayAttr>:$res_attrs);
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

def Tile_KernelOp : Tile_Op<"kernel",
    [FunctionOpInterface, IsolatedFromAbove, SingleBlock,
     DeclareOpInterfaceMethods<OpAsmOpInterface,
         ["getAsmBlockArgumentNames"]>,
     NoTerminator, HasParent<"::mlir::ModuleOp">]> {
  let summary = "What every work item of one launch does";
  let description = [{
    The body is pure index arithmetic that ends in one `tile.items`.
    `schedule` holds every decision that tuning may change.
  }];
  let arguments = (ins SymbolNameAttr:$sym_name,
    TypeAttrOf<FunctionType>:$function_type,
    OptionalAttr<DictArrayAttr>:$arg_attrs,
    OptionalAttr<DictArrayAttr>:$res_attrs,
    OptionalAttr<Tile_ScheduleAttr>:$schedule);
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
    /// The one `tile.items` of the body.
    ::attnc::tile::ItemsOp getItems();
  }];
}

def Tile_LaunchOp : Tile_Op<"launch", [HasParent<"ProgramOp">,
    AttrSizedOperandSegments,
    DeclareOpInterfaceMethods<SymbolUserOpInterface>]> {
  let summary = "Runs a kernel on all its work items";
  let description = [{
    `items` is the number of work items, the product of the kernel's counts;
    `tile-plan-launches` computes it here, so that a lowered kernel need not
    be read to launch it.
  }];
  let arguments = (ins FlatSymbolRefAttr:$kernel, Variadic<AnyType>:$args,
                       Optional<Index>:$items);
  let assemblyFormat = [{
    $kernel `(` $args `)` (`items` $items^)? attr-dict `:` type($args)
  }];
}

def Tile_WorkspaceOp : Tile_Op<"workspace", [HasParent<"ProgramOp">]> {
  let summary = "Memory for this call, from the caller";
  let description = [{
    A dense row-major view, uninitialised, of the given sizes; one operand
    for each `?` of the type. It lives until the program ends.
  }];
  let arguments = (ins Variadic<Index>:$sizes);
  let results = (outs Tile_ViewType:$view);
  let assemblyFormat = "`(` $sizes `)` attr-dict `:` type($view)";
  let hasVerifier = 1;
}

def Tile_CheckOp : Tile_Op<"check", [HasParent<"ProgramOp">]> {
  let summary = "A condition on the arguments; its message goes to the caller";
  let description = [{
    If `condition` is false the call is refused with `message`, in which
    {0}, {1}, ... stand for the values of `values`.
  }];
  let arguments = (ins I1:$condition, StrAttr:$message,
                       Variadic<Index>:$values);
  let assemblyFormat = [{
    $condition `,` $message (`(` $values^ `)`)? attr-dict
  }];
}

def Tile_PreferOp : Tile_Op<"prefer", [HasParent<"ProgramOp">]> {
  let summary = "Sizes for which another schedule is made";
  let description = [{
    If `condition` is true, the same program compiled with `schedule` is faster
    for this call. It takes the same arguments and other workspace. A runtime
    that has it, or can compile it, runs it instead; another one goes on. Of
    several whose conditions are true the first one counts.
  }];
  let arguments = (ins StrAttr:$schedule, I1:$condition);
  let hasCanonicalizeMethod = 1;
  let assemblyFormat = "$schedule `when` $condition attr-dict";
}

def Tile_ItemsOp : Tile_Op<"items",
    [SingleBlock, NoTerminator, HasParent<"KernelOp">,
     DeclareOpInterfaceMethods<OpAsmOpInterface,
         ["getAsmBlockArgumentNames"]>]> {
  let summary = "The grid of work items";
  let description = [{
    `tile.items (%b, %h, %m) in (%nb, %nh, %nm) { ... }`: the body runs once
    for each coordinate, in any order, in parallel. The last coordinate varies
    fastest in the order that targets prefer. Items must not write the same
    element.
  }];
  let arguments = (ins Variadic<Index>:$counts);
  let regions = (region SizedRegion<1>:$body);
  let hasCustomAssemblyFormat = 1;
  let hasRegionVerifier = 1;
}

//===----------------------------------------------------------------------===//
// Loops
//===----------------------------------------------------------------------===//

def Tile_ForKeysOp : Tile_Op<"for_keys",
    [SingleBlockImplicitTerminator<"YieldOp">,
     DeclareOpInterfaceMethods<OpAsmOpInterface,
         ["getAsmBlockArgumentNames"]>]> {
  let summary = "The loop over blocks of keys";
  let description = [{
    `%r = tile.for_keys %j in (%lo, %fullLo, %fullHi, %hi) step 64
     iter_args(%a = %init) -> (type) { ... }`

    j takes the multiples of `step` from floor(lo / step) * step while j < hi
    (no iteration where lo >= hi). A block [j, j + step) inside
    [fullLo, fullHi) is full: in it `tile.mask` is the identity. Targets may
    peel; the body is written once. lo is at least 0.

    In the kernel of a key's gradients keys stay and queries pass: there the
    loop is over blocks of query rows, those of several heads one after the
    other, with the same four bounds.

    A second region may follow, `rows { ^bb0(%first, %count): ... }`. It yields
    four bounds of the same meaning for `count` rows of the item's tiles from
    row `first` on: a target that gives rows to several workers may run the
    body for each with its own bounds.
  }];
  let arguments = (ins Index:$lo, Index:$full_lo, Index:$full_hi, Index:$hi,
    ConfinedAttr<I64Attr, [IntPositive]>:$step, Variadic<AnyType>:$inits);
  let results = (outs Variadic<AnyType>:$results);
  let regions = (region SizedRegion<1>:$region,
                        VariadicRegion<SizedRegion<1>>:$rows);
  let hasCustomAssemblyFormat = 1;
  let hasRegionVerifier = 1;
  let extraClassDeclaration = [{
    ::mlir::BlockArgument getKey() { return getBody()->getArgument(0); }
    ::mlir::Block::BlockArgListType getIterArgs() {
      return getBody()->getArguments().drop_front();
    }
    ::mlir::ValueRange getYielded() {
      return getBody()->getTerminator()->getOperands();
    }
  }];
}

def Tile_YieldOp : Tile_Op<"yield", [Pure, Terminator, ReturnLike]> {
  let summary = "Values that a region gives";
  let arguments = (ins Variadic<AnyType>:$values);
  let assemblyFormat = "($values^ `:` type($values))? attr-dict";
  let builders = [OpBuilder<(ins), [{ }]>];
}

//===----------------------------------------------------------------------===//
// Memory
//===----------------------------------------------------------------------===//

def Tile_DimOp : Tile_Op<"dim", [Pure,
    DeclareOpInterfaceMethods<OpAsmOpInterface, ["getAsmResultNames"]>]> {
  let summary = "The size of one dim of a view";
  let arguments = (ins Tile_ViewType:$view, I64Attr:$dim);
  let results = (outs Index:$size);
  let assemblyFormat = "$view `,` $dim attr-dict `:` type($view)";
  let hasVerifier = 1;
  let hasFolder = 1;
}

def Tile_LoadOp : Tile_Op<"load",
    [AttrSizedOperandSegments, MemoryEffects<[MemRead]>,
     DeclareOpInterfaceMethods<OpAsmOpInterface, ["getAsmResultNames"]>]> {
  let summary = "A tile from a view";
  let description = [{
    Element (r, c) of the tile is the view's element at
    map(r, c)[coordinates...]. An element outside the view's sizes, or in a
    row r >= `rows`, is 0 and never read (S-beyond).

    With `pages`, the view is a pool of pages and `page_dim` and `seq_dim` are
    dims of it. The map gives the position x in the sequence at seq_dim and
    anything at page_dim; the element read is at
    page = table[page_row, x floordiv size] and x mod size. A negative page
    reads as 0.
  }];
  let arguments = (ins Arg<Tile_ViewType, "source", [MemRead]>:$view,
    Variadic<Index>:$coordinates, AffineMapAttr:$map, Optional<Index>:$rows,
    Optional<Tile_ViewType>:$page_table, Optional<Index>:$page_row,
    Optional<Index>:$page_size, OptionalAttr<I64Attr>:$page_dim,
    OptionalAttr<I64Attr>:$seq_dim);
  let results = (outs Tile_TileType:$tile);
  let assemblyFormat = [{
    $view `[` $coordinates `]` `by` $map (`rows` $rows^)?
    (`pages` $page_table^ `[` $page_row `]` `size` $page_size
     `dims` $page_dim `,` $seq_dim `:` type($page_table))?
    attr-dict `:` type($view) `->` type($tile)
  }];
  let hasVerifier = 1;
}

def Tile_StoreOp : Tile_Op<"store",
    [AttrSizedOperandSegments, MemoryEffects<[MemWrite]>]> {
  let summary = "Writes a tile to a view";
  let description = [{
    The counterpart of `tile.load`: what lies outside the view's sizes or in
    a row r >= `rows` is not written. Element types must agree.

    With `add`, f32 elements are added to what is there, each at once; several
    items may add to one element, in no fixed order.
  }];
  let arguments = (ins Tile_TileType:$tile,
    Arg<Tile_ViewType, "destination", [MemWrite]>:$view,
    Variadic<Index>:$coordinates, AffineMapAttr:$map, Optional<Index>:$rows,
    UnitAttr:$add);
  let assemblyFormat = [{
    (`add` $add^)? $tile `,` $view `[` $coordinates `]` `by` $map
    (`rows` $rows^)? attr-dict `:` type($tile) `,` type($view)
  }];
  let hasVerifier = 1;
}

def Tile_LoadScalarOp : Tile_Op<"load_scalar", [MemoryEffects<[MemRead]>]> {
  let summary = "One element of a view";
  let description = [{
    f16 and bf16 elements are widened to f32, i8 (signed) and i1 (0 or 1) to
    i32. A coordinate outside the view gives 0.
  }];
  let arguments = (ins Arg<Tile_ViewType, "source", [MemRead]>:$view,
                       Variadic<Index>:$coordinates);
  let results = (outs AnyTypeOf<[F32, I32]>:$value);
  let assemblyFormat = [{
    $view `[` $coordinates `]` attr-dict `:` type($view) `->` type($value)
  }];
  let hasVerifier = 1;
}

//===----------------------------------------------------------------------===//
// Arithmetic on tiles
//===----------------------------------------------------------------------===//

def Tile_SplatOp : Tile_Op<"splat", [Pure,
    DeclareOpInterfaceMethods<OpAsmOpInterface, ["getAsmResultNames"]>]> {
  let summary = "A tile with one value everywhere";
  let arguments = (ins Tile_Scalar:$value);
  let results = (outs Tile_TileType:$tile);
  let assemblyFormat = [{
    $value attr-dict `:` type($value) `->` type($tile)
  }];
  let hasVerifier = 1;
}

def Tile_DotOp : Tile_Op<"dot", [Pure,
    DeclareOpInterfaceMethods<OpAsmOpInterface, ["getAsmResultNames"]>]> {
  let summary = "acc + a * b";
  let description = [{
    a is M x K (K x M with `transpose_a`), b is K x N (N x K with
    `transpose_b`), the result M x N in f32. Operands are read as stored, the
    sum is f32; without `acc` it starts at 0.
  }];
  let arguments = (ins Tile_TileType:$lhs, Tile_TileType:$rhs,
    Optional<Tile_TileType>:$acc, UnitAttr:$transpose_a,
    UnitAttr:$transpose_b);
  let results = (outs Tile_TileType:$result);
  let assemblyFormat = [{
    $lhs `,` $rhs (`acc` $acc^ `:` type($acc))? (`transpose_a` $transpose_a^)?
    (`transpose_b` $transpose_b^)? attr-dict
    `:` type($lhs) `,` type($rhs) `->` type($result)
  }];
  let hasVerifier = 1;
  let extraClassDeclaration = [{
    int64_t getM() { return getResult().getType().getRows(); }
    int64_t getN() { return getResult().getType().getCols(); }
    int64_t getK() {
      return getTransposeA() ? getLhs().getType().getRows()
                             : getLhs().getType().getCols();
    }
  }];
}

def Tile_MapOp : Tile_Op<"map", [Pure, SingleBlock,
    DeclareOpInterfaceMethods<OpAsmOpInterface,
     ["getAsmResultNames", "getAsmBlockArgumentNames"]>]> {
  let summary = "An elementwise function of tiles";
  let description = [{
    The region computes `width` neighbouring elements of a row at once: its
    arguments are `width` scalars for each operand, then the row r and the
    column c of the first one (i32). It yields `width` scalars. An operand
    with one row or one column is broadcast. Scalars defined outside may be
    used. `width` divides the number of columns.
  }];
  let arguments = (ins Variadic<Tile_TileType>:$inputs,
    DefaultValuedAttr<ConfinedAttr<I64Attr, [IntPositive]>, "1">:$width);
  let results = (outs Tile_TileType:$result);
  let regions = (region SizedRegion<1>:$body);
  let assemblyFormat = [{
    `(` ($inputs^ `:` type($inputs))? `)` (`width` $width^)? $body attr-dict
    `:` type($result)
  }];
  let hasRegionVerifier = 1;
}

def Tile_SpeculateOp : Tile_Op<"speculate", [Pure,
    DeclareOpInterfaceMethods<OpAsmOpInterface,
     ["getAsmResultNames", "getAsmBlockArgumentNames"]>]> {
  let summary = "A cheap formula where it holds, the exact one elsewhere";
  let description = [{
    Per element, `common` (arguments as `tile.map` of width 1) yields a guard
    and shared values. Each `fast` region has a limit, in rising order. A slice
    (of `slice` columns, and as many rows as the target decides on at once)
    takes one whose limit no guard of the slice exceeds, as a rule the first,
    and where there is none, `exact`. All get (shared..., r, c). A region that
    yields several results computes as many elements at once, whichever of a
    slice the target puts together: it gets each shared value of all of them in
    turn, and the position of the first. The guard is never negative; a NaN
    guard chooses `exact`, which computes one element. The results agree to the
    accuracy that the formulas promise, so targets may slice differently.
  }];
  let arguments = (ins Variadic<Tile_TileType>:$inputs,
    ConfinedAttr<I64Attr, [IntPositive]>:$slice, DenseF32ArrayAttr:$limits);
  let results = (outs Tile_TileType:$result);
  let regions = (region SizedRegion<1>:$common, SizedRegion<1>:$exact,
                        VariadicRegion<SizedRegion<1>>:$fast);
  let assemblyFormat = [{
    `(` $inputs `:` type($inputs) `)` `slice` $slice `limits` custom<Limits>($limits)
    `common` $common `fast` $fast `exact` $exact attr-dict `:` type($result)
  }];
  let hasRegionVerifier = 1;
}

def Tile_MaskOp : Tile_Op<"mask",
    [Pure, SingleBlock, AllTypesMatch<["input", "result"]>,
     DeclareOpInterfaceMethods<OpAsmOpInterface,
     ["getAsmResultNames", "getAsmBlockArgumentNames"]>]> {
  let summary = "x where the predicate holds, else fill";
  let description = [{
    The region gets the row r and column c (i32) and one element of each
    captured tile (broadcast as in `tile.map`), and yields an i1: keep. Inside
    `tile.for_keys` the op is the identity in full blocks. A masked element is
    exactly `fill`, whatever x was (S-mask-zero).
  }];
  let arguments = (ins Tile_TileType:$input, Variadic<Tile_TileType>:$captured,
                       F32Attr:$fill);
  let results = (outs Tile_TileType:$result);
  let regions = (region SizedRegion<1>:$body);
  let assemblyFormat = [{
    $input (`captured` `(` $captured^ `:` type($captured) `)`)?
    `fill` $fill $body attr-dict `:` type($result)
  }];
  let hasRegionVerifier = 1;
}

def Tile_ReduceOp : Tile_Op<"reduce", [Pure,
    DeclareOpInterfaceMethods<OpAsmOpInterface, ["getAsmResultNames"]>]> {
  let summary = "Combines the columns of each row";
  let arguments = (ins Tile_Reduction:$kind, Tile_TileType:$input);
  let results = (outs Tile_TileType:$result);
  let assemblyFormat = [{
    $kind $input attr-dict `:` type($input) `->` type($result)
  }];
  let hasVerifier = 1;
}

def Tile_CastOp : Tile_Op<"cast", [Pure,
    DeclareOpInterfaceMethods<OpAsmOpInterface, ["getAsmResultNames"]>]> {
  let summary = "Rounds or widens the elements";
  let description = [{
    Float to a narrower float rounds to nearest even (S-round); widening and
    i8 to float are exact.
  }];
  let arguments = (ins Tile_TileType:$input);
  let results = (outs Tile_TileType:$result);
  let assemblyFormat = "$input attr-dict `:` type($input) `->` type($result)";
  let hasVerifier = 1;
}

def Tile_SoftmaxStepOp : Tile_Op<"softmax_step", [Pure,
    AllTypesMatch<["input", "weights"]>,
    AllTypesMatch<["max", "sum", "alpha", "new_max", "new_sum"]>,
    DeclareOpInterfaceMethods<OpAsmOpInterface, ["getAsmResultNames"]>]> {
  let summary = "One key block of the online softmax";
  let description = [{
    With the running row maximum m and row sum l:

        m' = max(m, max_j x)          p = exp(x - m')  (0 where x = -inf)
        alpha = exp(m - m')           l' = alpha * l + sum_j p

    alpha is what accumulators of earlier blocks are to be multiplied by; it
    is 1 where m = m' = -inf. `tile-online-softmax` expands this op.
    (Milakov and Gimelshein, "Online normalizer calculation for softmax",
    arXiv 1805.02867.)
  }];
  let arguments = (ins Tile_TileType:$input, Tile_TileType:$max,
                       Tile_TileType:$sum);
  let results = (outs Tile_TileType:$weights, Tile_TileType:$alpha,
                      Tile_TileType:$new_max, Tile_TileType:$new_sum);
  let assemblyFormat = [{
    $input `,` $max `,` $sum attr-dict `:` type($input) `,` type($max)
  }];
  let hasVerifier = 1;
}

#endif // ATTNC_TILE_OPS_TD
