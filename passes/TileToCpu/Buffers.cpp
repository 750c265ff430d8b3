//===- Buffers.cpp - Tiles in scratch memory ------------------------------===//
//
// Who holds a tile, for how long, in which layout. Allocation follows the
// order of emission: a range is free again after the last op of the block
// that uses the tile in it, and an elementwise op or an accumulation takes
// over the buffer of an operand that dies there.
//
//===----------------------------------------------------------------------===//

#include "passes/TileToCpu/KernelEmitter.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::cpu;

static constexpr int64_t kCacheLine = 64;

int64_t KernelEmitter::bytes(tile::TileType type, Layout layout) const {
  int64_t rows = panels(type) * unit.lanes;
  int64_t cols = layout == Layout::Panels ? type.getCols() : paddedCols(type);
  return llvm::alignTo(rows * cols * 4, kCacheLine);
}

//===----------------------------------------------------------------------===//
// Allocation
//===----------------------------------------------------------------------===//

Buffer KernelEmitter::allocate(tile::TileType type, Layout layout) {
  int64_t size = bytes(type, layout);
  for (auto [offset, free] : freeRanges) {
    if (free < size)
      continue;
    freeRanges.erase(offset);
    if (free > size)
      freeRanges[offset + size] = free - size;
    return {type, layout, offset};
  }
  int64_t offset = scratchBytes;
  scratchBytes += size;
  return {type, layout, offset};
}

void KernelEmitter::release(const Buffer &buffer) {
  if (pins.lookup(buffer.offset))
    return;
  auto it =
      freeRanges.try_emplace(buffer.offset, bytes(buffer.type, buffer.layout))
          .first;
  auto next = std::next(it);
  if (next != freeRanges.end() && it->first + it->second == next->first) {
    it->second += next->second;
    freeRanges.erase(next);
  }
  if (it == freeRanges.begin())
    return;
  auto previous = std::prev(it);
  if (previous->first + previous->second == it->first) {
    previous->second += it->second;
    freeRanges.erase(it);
  }
}

void KernelEmitter::findLastUses(Block &block) {
  auto record = [&](Value value, Operation *definition) {
    if (!isa<tile::TileType>(value.getType()))
      return;
    Operation *last = definition;
    for (Operation *user : value.getUsers()) {
      Operation *ancestor = block.findAncestorOpInBlock(*user);
      if (!last || last->isBeforeInBlock(ancestor))
        last = ancestor;
    }
    if (last)
      dying[last].push_back(value);
  };
  for (BlockArgument argument : block.getArguments())
    record(argument, nullptr);
  for (Operation &op : block)
    for (Value result : op.getResults())
      record(result, &op);
}

bool KernelEmitter::diesAt(Value value, Operation *user) const {
  auto it = dying.find(user);
  if (it == dying.end() || !llvm::is_contained(it->second, value))
    return false;
  return llvm::count_if(value.getUses(), [&](OpOperand &use) {
           return user->isAncestor(use.getOwner());
         }) == 1;
}

void KernelEmitter::releaseDying(Operation *op) {
  for (const Buffer &buffer : temporaries)
    release(buffer);
  temporaries.clear();
  auto it = dying.find(op);
  if (it == dying.end())
    return;
  for (Value value : it->second) {
    auto tile = tiles.find(value);
    if (tile == tiles.end())
      continue;
    release(tile->second);
    tiles.erase(tile);
  }
}

Buffer KernelEmitter::get(Code &code, Value value, Layout layout) {
  const Buffer &buffer = get(value);
  if (buffer.layout == layout)
    return buffer;
  Buffer converted = allocate(buffer.type, layout);
  temporaries.push_back(converted);
  copy(code, get(value), converted);
  return converted;
}

Buffer KernelEmitter::consume(Code &code, Value value, Layout layout,
                              Operation *user) {
  Buffer buffer = get(value);
  if (buffer.layout == layout && diesAt(value, user)) {
    tiles.erase(value);
    return buffer;
  }
  Buffer own = allocate(buffer.type, layout);
  copy(code, buffer, own);
  return own;
}

Buffer KernelEmitter::reuse(ValueRange inputs, Operation *user,
                            tile::TileType type, Layout layout) {
  for (Value input : inputs) {
    Buffer buffer = get(input);
    if (buffer.layout != layout || !diesAt(input, user) ||
        buffer.type.getRows() != type.getRows() ||
        buffer.type.getCols() != type.getCols())
      continue;
    // The value stays readable until the op ends; its range is ours.
    llvm::erase(dying[user], input);
    buffer.type = type;
    return buffer;
  }
  return allocate(type, layout);
}

//===----------------------------------------------------------------------===//
// Layouts
//===----------------------------------------------------------------------===//

static bool followsUses(Operation *op) {
  if (auto map = dyn_cast_or_null<tile::MapOp>(op))
    return map.getWidth() == 1;
  return isa_and_nonnull<tile::LoadOp, tile::CastOp, tile::SplatOp>(op);
}

/// Rows if every use reads rows, as far as elementwise ops can pass it on.
Layout KernelEmitter::wantedLayout(Value value) {
  if (auto it = layouts.find(value); it != layouts.end())
    return it->second;
  auto wantsRows = [&](OpOperand &use) {
    Operation *user = use.getOwner();
    if (auto dot = dyn_cast<tile::DotOp>(user)) {
      unsigned operand = use.getOperandNumber();
      return operand == 1 || (operand == 0 && dot.getTransposeA());
    }
    return (isa<tile::MapOp, tile::CastOp>(user)) && followsUses(user) &&
           wantedLayout(user->getResult(0)) == Layout::Rows;
  };
  bool rows = followsUses(value.getDefiningOp()) && !value.use_empty() &&
              llvm::all_of(value.getUses(), wantsRows);
  return layouts[value] = rows ? Layout::Rows : Layout::Panels;
}

Value KernelEmitter::address(Code &code, const Buffer &buffer, Value elements) {
  Value base = code.at(code.getI8Type(), scratch, code.i64(buffer.offset));
  return code.at(code.getF32Type(), base, elements);
}

void KernelEmitter::copy(Code &code, const Buffer &from, const Buffer &to) {
  if (from.layout != to.layout)
    return from.layout == Layout::Panels ? panelsToRows(code, from, to)
                                         : rowsToPanels(code, from, to);
  Type vector = vectorOf(code, from.type.getElementType());
  int64_t count = bytes(from.type, from.layout) / (unit.lanes * 4);
  code.loop(count, [&](Code &inner, Value i) {
    Value at = inner.mul(i, unit.lanes);
    inner.store(inner.load(vector, address(inner, from, at), alignment()),
                address(inner, to, at), alignment());
  });
}

/// Transposes lanes x lanes: exchanges blocks of 1, 2, 4, ... lanes.
Values KernelEmitter::transposeBlock(Code &code, Values rows) {
  int64_t lanes = unit.lanes;
  for (int64_t half = 1; half < lanes; half *= 2) {
    SmallVector<int64_t> low(lanes), high(lanes);
    for (int64_t lane = 0; lane < lanes; ++lane) {
      bool second = lane & half;
      low[lane] = second ? lanes + lane - half : lane;
      high[lane] = second ? lanes + lane : lane + half;
    }
    for (int64_t i = 0; i < lanes; ++i) {
      if (i & half)
        continue;
      Value a = rows[i], b = rows[i + half];
      rows[i] = vector::ShuffleOp::create(code, a, b, low);
      rows[i + half] = vector::ShuffleOp::create(code, a, b, high);
    }
  }
  return rows;
}

/// Calls `body` for each block of `lanes` columns with the first column and
/// the number of columns.
static void
forColumnBlocks(Code &code, int64_t cols, int64_t lanes,
                llvm::function_ref<void(Code &, Value, int64_t)> body) {
  int64_t full = cols / lanes * lanes;
  if (full)
    code.loop(code.i64(0), code.i64(full), lanes,
              [&](Code &inner, Value c) { body(inner, c, lanes); });
  if (cols > full)
    body(code, code.i64(full), cols - full);
}

void KernelEmitter::rowsToPanels(Code &code, const Buffer &from,
                                 const Buffer &to) {
  int64_t lanes = unit.lanes, cols = from.type.getCols();
  int64_t stride = paddedCols(from.type);
  Type vector = vectorOf(code, from.type.getElementType());
  code.loop(panels(from.type), [&](Code &inner, Value p) {
    forColumnBlocks(inner, cols, lanes, [&](Code &c, Value col, int64_t n) {
      Values rows;
      for (int64_t i = 0; i < lanes; ++i) {
        Value row = c.add(c.mul(p, lanes), i);
        Value at = c.add(c.mul(row, stride), col);
        rows.push_back(c.load(vector, address(c, from, at), alignment()));
      }
      rows = transposeBlock(c, rows);
      for (int64_t i = 0; i < n; ++i) {
        Value column = c.add(c.add(c.mul(p, cols), col), i);
        c.store(rows[i], address(c, to, c.mul(column, lanes)), alignment());
      }
    });
  });
}

void KernelEmitter::panelsToRows(Code &code, const Buffer &from,
                                 const Buffer &to) {
  int64_t lanes = unit.lanes, cols = from.type.getCols();
  int64_t stride = paddedCols(from.type);
  Type vector = vectorOf(code, from.type.getElementType());
  code.loop(panels(from.type), [&](Code &inner, Value p) {
    forColumnBlocks(inner, cols, lanes, [&](Code &c, Value col, int64_t n) {
      Values columns;
      for (int64_t i = 0; i < n; ++i) {
        Value column = c.add(c.add(c.mul(p, cols), col), i);
        columns.push_back(c.load(vector, address(c, from, c.mul(column, lanes)),
                                 alignment()));
      }
      while (static_cast<int64_t>(columns.size()) < lanes)
        columns.push_back(columns.back());
      columns = transposeBlock(c, columns);
      for (int64_t i = 0; i < lanes; ++i) {
        Value row = c.add(c.mul(p, lanes), i);
        Value at = c.add(c.mul(row, stride), col);
        c.store(columns[i], address(c, to, at), alignment());
      }
    });
  });
}
