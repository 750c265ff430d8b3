//===- DiagonalKernels.cpp - Gradients of tables of distances -------------===//
//
// A captured operand that reads i - j gets sums over equal distances. Both
// blocks pass, at one distance; a second kernel adds up along diagonals.
//
//===----------------------------------------------------------------------===//

#include "passes/AttnBackwardKernels/Kernels.h"
#include "passes/AttnBackwardKernels/PairKernel.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::backward;

namespace {
/// The gradient of a captured operand that reads i - j. Blocks at one distance
/// are added element by element, since element (r, c) of each has the same
/// i - j: what is left is one block for each distance, which
/// `DiagonalSumKernel` sums up along its diagonals.
///
/// With blocks of M queries and N keys, and M a multiple of N, distances are
/// multiples of N: block p is that of i0 - j0 = (p + 1 - key blocks) N.
class DiagonalKernel : public PairKernel {
public:
  DiagonalKernel(ImplicitLocOpBuilder &builder, StringRef name,
                 attn::BackwardOp op, unsigned number, const ViewOrders &orders,
                 tile::ScheduleAttr schedule, Value sums)
      : PairKernel(builder, name, PairOperands(op), orders, schedule,
                   BlockRows::Queries),
        region(op.getCaptureGradients()[number]), sums(sums),
        map(cast<AffineMapAttr>(op.getMaps()[op.getOf()[number]]).getValue()) {
    bothBounded = true;
  }

  AttnKernel build() {
    frame.view(sums);
    Value one = constantIndex(b, 1), zero = constantIndex(b, 0);
    Value sequences = frame.dim(op.query, dims.b);
    Value heads = frame.dim(op.query, dims.h);
    group = groupSize();
    bool perSequence = map.isFunctionOfDim(0), perHead = map.isFunctionOfDim(1);
    SmallVector<Value> at =
        frame.openItems({perSequence ? sequences : one, perHead ? heads : one,
                         frame.dim(sums, 2)});
    placeBlocks(at[2]);
    // The blocks at this distance pass for each sequence and head.
    Value repeated = perHead ? one : heads;
    Value pairs =
        times(times(repeated, perSequence ? one : sequences), blocksHere);
    Value blocks = atLeastOne(blocksHere), others = atLeastOne(repeated);
    attn::KeyRange range = {zero, zero, zero, pairs};
    Value sum =
        loop(range, splat(b, scores, 0), 1,
             [&](Value number, ValueRange carried) -> SmallVector<Value> {
               Value rest = arith::DivUIOp::create(b, number, blocks);
               Value within = arith::RemUIOp::create(b, number, blocks);
               Value other = arith::DivUIOp::create(b, rest, others);
               Value head = arith::RemUIOp::create(b, rest, others);
               setSequence(perSequence ? at[0] : other);
               setHead(perHead ? at[1] : head);
               return {addTiles(b, carried[0], onePair(within))};
             })[0];
    AffineExpr r = b.getAffineDimExpr(0), c = b.getAffineDimExpr(1);
    SmallVector<AffineExpr> place;
    for (unsigned k = 0; k < 3; ++k)
      place.push_back(b.getAffineSymbolExpr(k));
    llvm::append_range(place, ArrayRef{r, c});
    tile::StoreOp::create(b, sum, frame.view(sums), at,
                          AffineMap::get(2, 3, place, b.getContext()), Value());
    return frame.finish();
  }

private:
  Value times(Value x, Value y) { return arith::MulIOp::create(b, x, y); }
  Value plus(Value x, Value y) { return arith::AddIOp::create(b, x, y); }
  Value minus(Value x, Value y) { return arith::SubIOp::create(b, x, y); }
  Value atLeastOne(Value x) {
    return arith::MaxUIOp::create(b, x, constantIndex(b, 1));
  }
  Value notNegative(Value x) {
    return arith::MaxSIOp::create(b, x, constantIndex(b, 0));
  }

  /// Which blocks of queries have a block of keys at distance `p`.
  void placeBlocks(Value p) {
    Value m = constantIndex(b, blockRows), n = constantIndex(b, blockCols);
    Value keyBlocks = blocksOf(op.key, blockCols);
    Value before = minus(keyBlocks, constantIndex(b, 1));
    distance = times(minus(p, before), n);
    firstBlock = arith::CeilDivUIOp::create(b, notNegative(distance), m);
    Value end = notNegative(plus(frame.dim(op.key, dims.s), distance));
    end = arith::CeilDivUIOp::create(b, end, m);
    end = arith::MinUIOp::create(b, end, blocksOf(op.query, blockRows));
    blocksHere = notNegative(minus(end, firstBlock));
  }

  Value onePair(Value number) {
    Value first = times(plus(firstBlock, number), constantIndex(b, blockRows));
    setQueries(first);
    setKeys(minus(first, distance));
    return gradientOfBlocks(region, group);
  }

  Region &region;
  Value sums;
  AffineMap map;
  Value group, distance, firstBlock, blocksHere;
};

/// Sums up the blocks of `DiagonalKernel` along their diagonals.
class DiagonalSumKernel {
public:
  DiagonalSumKernel(ImplicitLocOpBuilder &builder, StringRef name,
                    attn::BackwardOp op, unsigned number,
                    const ViewOrders &orders, tile::ScheduleAttr schedule,
                    Value sums)
      : b(builder), frame(builder, name, orders, schedule), key(op.getKey()),
        keyDim(attn::getLayoutDims(op.getLayout()).s),
        result(op.getDcaptures()[number]), sums(sums),
        map(cast<AffineMapAttr>(op.getMaps()[op.getOf()[number]]).getValue()),
        table(*attn::getDiagonals(map)), rows(schedule.getBlockM()),
        m(cast<RankedTensorType>(sums.getType()).getDimSize(3)),
        n(cast<RankedTensorType>(sums.getType()).getDimSize(4)) {
    frame.view(sums);
    frame.view(key);
    frame.view(result);
  }

  AttnKernel build() {
    Value size = constantIndex(b, rows);
    Value blocks =
        arith::CeilDivUIOp::create(b, frame.dim(result, table.dim), size);
    SmallVector<Value> at =
        frame.openItems({frame.dim(sums, 0), frame.dim(sums, 1), blocks});
    at[2] = arith::MulIOp::create(b, at[2], size);
    tile::TileType column = tileType(rows, 1, b.getF32Type());
    Value sum =
        accumulate(b, constantIndex(b, 0), constantIndex(b, table.divisor), 1,
                   splat(b, column, 0), [&](Value within, Value sum) {
                     return sumElements(at, within, sum);
                   });
    store(at, sum);
    return frame.finish();
  }

private:
  static constexpr int64_t kColumns = 64;

  Value plus(Value x, int64_t y) {
    return arith::AddIOp::create(b, x, constantIndex(b, y));
  }
  Value times(Value x, int64_t y) {
    return arith::MulIOp::create(b, x, constantIndex(b, y));
  }
  Value minus(Value x, Value y) { return arith::SubIOp::create(b, x, y); }

  /// The blocks up to `x`, as a bound: floor(x / N) + 1, not negative.
  Value blocksUpTo(Value x) {
    x = arith::MaxSIOp::create(b, plus(x, n), constantIndex(b, 0));
    return arith::DivUIOp::create(b, x, constantIndex(b, n));
  }

  /// Row r of the item's is y = at[2] + r, of i - j = sign * (y * divisor +
  /// within - offset). In block p, with i - j = (p + 1 - key blocks) * N + row
  /// - column, it lies where column - row = p * N - origin - step * r.
  Value sumElements(ArrayRef<Value> at, Value within, Value sum) {
    Value keyBlocks = arith::CeilDivUIOp::create(b, frame.dim(key, keyDim),
                                                 constantIndex(b, n));
    Value place = arith::AddIOp::create(b, times(at[2], table.divisor), within);
    int64_t step = table.sign * table.divisor;
    Value origin = times(plus(place, -table.offset), table.sign);
    origin = arith::AddIOp::create(b, origin, plus(times(keyBlocks, n), -n));
    int64_t reach = step * (rows - 1);
    Value lowest = plus(origin, std::min<int64_t>(reach, 0) - (m - 1));
    Value highest = plus(origin, std::max<int64_t>(reach, 0) + n - 1);
    Value first = blocksUpTo(plus(lowest, -n));
    Value end =
        arith::MinUIOp::create(b, blocksUpTo(highest), frame.dim(sums, 2));
    return accumulate(b, first, end, 1, sum, [&](Value p, Value sum) {
      Value shift = minus(times(p, n), origin);
      return accumulate(b, constantIndex(b, 0), constantIndex(b, m), kColumns,
                        sum, [&](Value row, Value sum) {
                          return sumBlock({at[0], at[1], p, row, shift}, step,
                                          sum);
                        });
    });
  }

  /// What lies outside of the block is 0 (S-beyond).
  Value sumBlock(ArrayRef<Value> at, int64_t step, Value sum) {
    AffineExpr r = b.getAffineDimExpr(0), c = b.getAffineDimExpr(1);
    SmallVector<AffineExpr> s;
    for (unsigned k = 0; k < 5; ++k)
      s.push_back(b.getAffineSymbolExpr(k));
    AffineMap from = AffineMap::get(
        2, 5, {s[0], s[1], s[2], s[3] + c, s[3] + c + s[4] - r * step},
        b.getContext());
    Value values = loadTile(b, tileType(rows, kColumns, b.getF32Type()),
                            frame.view(sums), at, from);
    return addTiles(b, sum,
                    tile::ReduceOp::create(b,
                                           cast<tile::TileType>(sum.getType()),
                                           tile::Reduction::Add, values));
  }

  void store(ArrayRef<Value> at, Value sum) {
    SmallVector<Value> coordinates;
    SmallVector<AffineExpr> exprs;
    for (auto [dim, expr] : llvm::enumerate(map.getResults())) {
      AffineExpr place = b.getAffineSymbolExpr(coordinates.size());
      auto position = dyn_cast<AffineDimExpr>(expr);
      if (dim == table.dim)
        place = place + b.getAffineDimExpr(0);
      coordinates.push_back(at[dim == table.dim ? 2 : position.getPosition()]);
      exprs.push_back(place);
    }
    Type type = cast<RankedTensorType>(result.getType()).getElementType();
    tile::StoreOp::create(
        b, castTile(b, sum, type), frame.view(result), coordinates,
        AffineMap::get(2, coordinates.size(), exprs, b.getContext()), Value());
  }

  ImplicitLocOpBuilder &b;
  KernelFrame frame;
  Value key;
  int64_t keyDim;
  Value result, sums;
  AffineMap map;
  attn::Diagonals table;
  /// Elements of the result for each item; rows and columns of a block.
  int64_t rows, m, n;
};
} // namespace

AttnKernel backward::buildDiagonalGradient(ImplicitLocOpBuilder &builder,
                                           StringRef name, attn::BackwardOp op,
                                           unsigned number,
                                           const ViewOrders &orders,
                                           tile::ScheduleAttr schedule,
                                           Value sums) {
  return DiagonalKernel(builder, name, op, number, orders, schedule, sums)
      .build();
}

AttnKernel backward::buildDiagonalSum(ImplicitLocOpBuilder &builder,
                                      StringRef name, attn::BackwardOp op,
                                      unsigned number, const ViewOrders &orders,
                                      tile::ScheduleAttr schedule, Value sums) {
  return DiagonalSumKernel(builder, name, op, number, orders, schedule, sums)
      .build();
}
