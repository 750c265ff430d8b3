//===- Access.cpp - tile.load, tile.store and tile.load_scalar ------------===//
//
// A tile moves row by row. For one row the affine map is evaluated at column
// 0; where it is linear in the column, the columns inside the view are an
// interval and the row is a strided run of memory, copied by one function an
// element type: whole vectors where the run is contiguous, never an element
// outside. Maps that are not linear in the column go element by element.
//
//===----------------------------------------------------------------------===//

#include "passes/TileToCpu/KernelEmitter.h"

using namespace mlir;
using namespace attnc;
using namespace attnc::cpu;
using Predicate = arith::CmpIPredicate;

/// A load or store without its tile. Page sizes, coordinates and the rest
/// are i64.
struct KernelEmitter::Access {
  View view;
  AffineMap map;
  Values coordinates;
  Value rows;
  /// Empty unless the view is paged.
  View table;
  Value pageRow, pageSize;
  unsigned pageDim = 0, sequenceDim = 0;
  /// The map's coefficient of the column for each dim; nothing if some dim
  /// is not linear in it.
  std::optional<SmallVector<int64_t>> perColumn;
};

//===----------------------------------------------------------------------===//
// Affine maps
//===----------------------------------------------------------------------===//

static std::optional<int64_t> columnCoefficient(AffineExpr expr) {
  if (!expr.isFunctionOfDim(1))
    return 0;
  if (isa<AffineDimExpr>(expr))
    return 1;
  auto binary = dyn_cast<AffineBinaryOpExpr>(expr);
  if (!binary)
    return std::nullopt;
  auto lhs = columnCoefficient(binary.getLHS());
  auto rhs = columnCoefficient(binary.getRHS());
  if (!lhs || !rhs)
    return std::nullopt;
  if (binary.getKind() == AffineExprKind::Add)
    return *lhs + *rhs;
  auto factor = dyn_cast<AffineConstantExpr>(binary.getRHS());
  if (binary.getKind() == AffineExprKind::Mul && factor)
    return *lhs * factor.getValue();
  return std::nullopt;
}

static Value floorDivide(Code &code, Value a, Value b) {
  return arith::FloorDivSIOp::create(code, a, b);
}

/// A null value where the expression is not one that affine maps allow.
static Value evaluate(Code &code, AffineExpr expr, ValueRange dims,
                      ValueRange symbols) {
  if (auto constant = dyn_cast<AffineConstantExpr>(expr))
    return code.i64(constant.getValue());
  if (auto dim = dyn_cast<AffineDimExpr>(expr))
    return dims[dim.getPosition()];
  if (auto symbol = dyn_cast<AffineSymbolExpr>(expr))
    return symbols[symbol.getPosition()];
  auto binary = cast<AffineBinaryOpExpr>(expr);
  Value a = evaluate(code, binary.getLHS(), dims, symbols);
  Value b = evaluate(code, binary.getRHS(), dims, symbols);
  switch (binary.getKind()) {
  case AffineExprKind::Add:
    return code.add(a, b);
  case AffineExprKind::Mul:
    return code.mul(a, b);
  case AffineExprKind::FloorDiv:
    return floorDivide(code, a, b);
  case AffineExprKind::CeilDiv:
    return arith::CeilDivSIOp::create(code, a, b);
  default: // Mod, which is never negative.
    return code.sub(a, code.mul(floorDivide(code, a, b), b));
  }
}

//===----------------------------------------------------------------------===//
// One row
//===----------------------------------------------------------------------===//

static Value inside(Code &code, Value index, Value size) {
  return code.both(code.compare(Predicate::sge, index, code.i64(0)),
                   code.compare(Predicate::slt, index, size));
}

static Value offsetOf(Code &code, ValueRange indices, ValueRange strides) {
  Value offset = code.i64(0);
  for (auto [index, stride] : llvm::zip_equal(indices, strides))
    offset = code.add(offset, code.mul(index, stride));
  return offset;
}

/// Replaces the position in the sequence by page and position in the page;
/// gives whether there is such a page.
Value KernelEmitter::lookUpPage(Code &code, const Access &access,
                                Values &indices) {
  const View &table = access.table;
  Value position = indices[access.sequenceDim];
  Value slot = floorDivide(code, position, access.pageSize);
  Value inTable = code.both(inside(code, access.pageRow, table.sizes[0]),
                            inside(code, slot, table.sizes[1]));
  Value page =
      code.choose(
              inTable, code.getI32Type(),
              [&](Code &then) {
                Value offset =
                    offsetOf(then, {access.pageRow, slot}, table.strides);
                return Values{then.load(
                    then.getI32Type(),
                    then.at(then.getI32Type(), table.pointer, offset), 4)};
              },
              [&](Code &otherwise) { return Values{otherwise.i32(-1)}; })
          .front();
  indices[access.pageDim] = code.toI64(page);
  indices[access.sequenceDim] =
      code.sub(position, code.mul(slot, access.pageSize));
  return code.compare(Predicate::sge, page, code.i32(0));
}

RowAccess KernelEmitter::accessRow(Code &code, const Access &access, Value row,
                                   Value column) {
  const View &view = access.view;
  Values indices;
  for (AffineExpr expr : access.map.getResults())
    indices.push_back(evaluate(code, expr, {row, column}, access.coordinates));
  Value valid = code.flag(true);
  if (access.rows)
    valid = code.compare(Predicate::slt, row, access.rows);
  if (access.table.pointer)
    valid = code.both(valid, lookUpPage(code, access, indices));

  Value begin = code.i64(0), end = code.i64(INT32_MAX);
  Value columnStride = code.i64(0);
  for (auto [dim, index] : llvm::enumerate(indices)) {
    int64_t step = access.perColumn ? (*access.perColumn)[dim] : 0;
    Value size = view.sizes[dim];
    if (step == 0) {
      valid = code.both(valid, inside(code, index, size));
      continue;
    }
    columnStride = code.add(columnStride, code.mul(view.strides[dim], step));
    // 0 <= index + step * c < size, for c.
    int64_t by = std::abs(step);
    Value below = code.sub(code.i64(0), index), left = code.sub(size, index);
    auto ceilDiv = [&](Value a) {
      return code.floorDiv(code.add(a, by - 1), by);
    };
    Value first = step > 0 ? ceilDiv(below)
                           : code.add(code.floorDiv(code.mul(left, -1), by), 1);
    Value last =
        step > 0 ? ceilDiv(left) : code.add(code.floorDiv(index, by), 1);
    begin = code.max(begin, first);
    end = code.min(end, last);
  }
  end = code.select(valid, end, code.i64(0));
  Value offset = offsetOf(code, indices, view.strides);
  return {code.at(memoryType(view.element), view.pointer, offset), columnStride,
          begin, end};
}

//===----------------------------------------------------------------------===//
// Copy functions
//===----------------------------------------------------------------------===//

namespace {
/// The parameters of a copy function: `memory` is column 0 of the row, `tile`
/// its place in scratch memory, [begin, end) the columns to copy; a read
/// zeroes the others up to `width`.
struct RowCopy {
  Value memory, stride, tile, begin, end, width;

  explicit RowCopy(Block &entry)
      : memory(entry.getArgument(0)), stride(entry.getArgument(1)),
        tile(entry.getArgument(2)), begin(entry.getArgument(3)),
        end(entry.getArgument(4)), width(entry.getArgument(5)) {}
};
} // namespace

static Value maskBelow(Code &code, Value count, int64_t lanes) {
  Type vector = code.vectorOf(code.getI32Type(), lanes);
  Value limit = code.broadcast(vector, code.toI32(count));
  return arith::CmpIOp::create(code, Predicate::slt, code.lanesIota(lanes),
                               limit);
}

func::FuncOp KernelEmitter::copyFunction(Type element, bool isStore) {
  std::string name = isStore ? "attnc_write_row_" : "attnc_read_row_";
  llvm::raw_string_ostream(name) << element;
  auto module = kernel->getParentOfType<ModuleOp>();
  if (auto existing = symbols.lookup<func::FuncOp>(name))
    return existing;
  OpBuilder builder(module.getBodyRegion());
  builder.setInsertionPointToEnd(module.getBody());
  Type pointer = LLVM::LLVMPointerType::get(module.getContext());
  Type i64 = builder.getI64Type();
  auto type =
      builder.getFunctionType({pointer, i64, pointer, i64, i64, i64}, {});
  auto function = func::FuncOp::create(builder, kernel.getLoc(), name, type);
  function.setPrivate();
  // Called for each row of each load: one copy of its code is enough.
  function->setAttr("passthrough", builder.getStrArrayAttr({"noinline"}));
  symbols.insert(function);
  function.addEntryBlock();
  isStore ? buildWriteRow(function, element) : buildReadRow(function, element);
  return function;
}

void KernelEmitter::buildReadRow(func::FuncOp function, Type element) {
  Code code(function.getLoc(),
            OpBuilder::atBlockEnd(&function.getBody().front()));
  RowCopy row(function.getBody().front());
  int64_t lanes = unit.lanes;
  Type stored = storageType(element), memory = memoryType(element);
  Type storedVector = code.vectorOf(stored, lanes);
  Type memoryVector = code.vectorOf(memory, lanes);
  Value zero = stored.isF32() ? code.real(storedVector, 0)
                              : code.integer(storedVector, 0);
  Value partial =
      code.either(code.compare(Predicate::sgt, row.begin, code.i64(0)),
                  code.compare(Predicate::slt, row.end, row.width));
  code.onlyIf(partial, [&](Code &then) {
    then.loop(then.i64(0), row.width, lanes, [&](Code &c, Value i) {
      c.store(zero, c.at(stored, row.tile, i), 4);
    });
  });
  Value end = code.min(row.end, row.width);
  auto contiguous = [&](Code &c) {
    Value count = c.max(c.sub(end, row.begin), c.i64(0));
    Value whole = c.sub(count, arith::RemSIOp::create(c, count, c.i64(lanes)));
    Value middle = c.add(row.begin, whole);
    c.loop(row.begin, middle, lanes, [&](Code &b, Value i) {
      Value bits = b.load(memoryVector, b.at(memory, row.memory, i),
                          memoryBytes(element));
      b.store(decode(b, bits, element), b.at(stored, row.tile, i), 4);
    });
    c.onlyIf(c.compare(Predicate::slt, middle, end), [&](Code &b) {
      Value mask = maskBelow(b, b.sub(end, middle), lanes);
      Value none =
          memory.isF32() ? b.real(memoryVector, 0) : b.integer(memoryVector, 0);
      Value bits = LLVM::MaskedLoadOp::create(
          b, memoryVector, b.at(memory, row.memory, middle), mask, none,
          static_cast<unsigned>(memoryBytes(element)));
      LLVM::MaskedStoreOp::create(b, decode(b, bits, element),
                                  b.at(stored, row.tile, middle), mask, 4u);
    });
    return Values();
  };
  auto strided = [&](Code &c) {
    c.loop(row.begin, end, 1, [&](Code &b, Value i) {
      Value at = b.at(memory, row.memory, b.mul(i, row.stride));
      Value bits = b.load(memory, at, memoryBytes(element));
      b.store(decode(b, bits, element), b.at(stored, row.tile, i), 4);
    });
    return Values();
  };
  code.choose(code.compare(Predicate::eq, row.stride, code.i64(1)), {},
              contiguous, strided);
  func::ReturnOp::create(code);
}

void KernelEmitter::buildWriteRow(func::FuncOp function, Type element) {
  Code code(function.getLoc(),
            OpBuilder::atBlockEnd(&function.getBody().front()));
  RowCopy row(function.getBody().front());
  int64_t lanes = unit.lanes;
  Type stored = storageType(element), memory = memoryType(element);
  Type storedVector = code.vectorOf(stored, lanes);
  Value end = code.min(row.end, row.width);
  auto contiguous = [&](Code &c) {
    Value count = c.max(c.sub(end, row.begin), c.i64(0));
    Value whole = c.sub(count, arith::RemSIOp::create(c, count, c.i64(lanes)));
    Value middle = c.add(row.begin, whole);
    c.loop(row.begin, middle, lanes, [&](Code &b, Value i) {
      Value number = b.load(storedVector, b.at(stored, row.tile, i), 4);
      b.store(encode(b, number, element), b.at(memory, row.memory, i),
              memoryBytes(element));
    });
    c.loop(middle, end, 1, [&](Code &b, Value i) {
      Value number = b.load(stored, b.at(stored, row.tile, i), 4);
      b.store(encode(b, number, element), b.at(memory, row.memory, i),
              memoryBytes(element));
    });
    return Values();
  };
  auto strided = [&](Code &c) {
    c.loop(row.begin, end, 1, [&](Code &b, Value i) {
      Value number = b.load(stored, b.at(stored, row.tile, i), 4);
      b.store(encode(b, number, element),
              b.at(memory, row.memory, b.mul(i, row.stride)),
              memoryBytes(element));
    });
    return Values();
  };
  code.choose(code.compare(Predicate::eq, row.stride, code.i64(1)), {},
              contiguous, strided);
  func::ReturnOp::create(code);
}

//===----------------------------------------------------------------------===//
// The ops
//===----------------------------------------------------------------------===//

static std::optional<SmallVector<int64_t>> perColumn(AffineMap map) {
  SmallVector<int64_t> coefficients;
  for (AffineExpr expr : map.getResults()) {
    auto coefficient = columnCoefficient(expr);
    if (!coefficient)
      return std::nullopt;
    coefficients.push_back(*coefficient);
  }
  return coefficients;
}

static Value readElement(Code &code, Value valid, Value pointer, Type element) {
  Type stored = storageType(element);
  auto read = [&](Code &c) {
    Value bits = c.load(memoryType(element), pointer, memoryBytes(element));
    return Values{decode(c, bits, element)};
  };
  auto zero = [&](Code &c) {
    return Values{stored.isF32() ? c.real(stored, 0) : c.integer(stored, 0)};
  };
  return code.choose(valid, stored, read, zero).front();
}

LogicalResult KernelEmitter::emitLoad(Code &code, tile::LoadOp op) {
  Access access;
  access.view = views.at(op.getView());
  access.map = op.getMap();
  for (Value coordinate : op.getCoordinates())
    access.coordinates.push_back(index(code, coordinate));
  if (op.getRows())
    access.rows = index(code, op.getRows());
  access.perColumn = perColumn(op.getMap());
  if (op.getPageTable()) {
    access.table = views.at(op.getPageTable());
    access.pageRow = index(code, op.getPageRow());
    access.pageSize = index(code, op.getPageSize());
    access.pageDim = *op.getPageDim();
    access.sequenceDim = *op.getSeqDim();
    // The page is looked up for each row, so it may not vary along one.
    if (access.perColumn && ((*access.perColumn)[access.sequenceDim] ||
                             (*access.perColumn)[access.pageDim]))
      access.perColumn = std::nullopt;
  }
  tile::TileType type = op.getTile().getType();
  Type element = type.getElementType();
  Layout layout = wantedLayout(op.getTile());
  Buffer rows = allocate(type, Layout::Rows);
  int64_t width = paddedCols(type);

  func::FuncOp function = copyFunction(element, /*isStore=*/false);
  code.loop(type.getRows(), [&](Code &c, Value r) {
    Value begin = c.mul(r, width);
    if (access.perColumn) {
      RowAccess row = accessRow(c, access, r, c.i64(0));
      Value end = c.min(row.end, c.i64(type.getCols()));
      func::CallOp::create(c, function,
                           ValueRange{row.pointer, row.columnStride,
                                      address(c, rows, begin), row.begin, end,
                                      c.i64(width)});
      return;
    }
    c.loop(type.getCols(), [&](Code &b, Value column) {
      RowAccess at = accessRow(b, access, r, column);
      Value valid = b.compare(Predicate::sgt, at.end, b.i64(0));
      b.store(readElement(b, valid, at.pointer, element),
              address(b, rows, b.add(begin, column)), 4);
    });
  });
  if (layout == Layout::Rows) {
    define(op.getTile(), rows);
    return success();
  }
  Buffer result = allocate(type, Layout::Panels);
  copy(code, rows, result);
  release(rows);
  define(op.getTile(), result);
  return success();
}

LogicalResult KernelEmitter::emitStore(Code &code, tile::StoreOp op) {
  Access access;
  access.view = views.at(op.getView());
  access.map = op.getMap();
  for (Value coordinate : op.getCoordinates())
    access.coordinates.push_back(index(code, coordinate));
  if (op.getRows())
    access.rows = index(code, op.getRows());
  access.perColumn = perColumn(op.getMap());
  tile::TileType type = op.getTile().getType();
  Type element = type.getElementType(), stored = storageType(element);
  Buffer rows = get(code, op.getTile(), Layout::Rows);
  int64_t width = paddedCols(type);

  func::FuncOp function = copyFunction(element, /*isStore=*/true);
  code.loop(type.getRows(), [&](Code &c, Value r) {
    Value begin = c.mul(r, width);
    if (access.perColumn && !op.getAdd()) {
      RowAccess row = accessRow(c, access, r, c.i64(0));
      func::CallOp::create(c, function,
                           ValueRange{row.pointer, row.columnStride,
                                      address(c, rows, begin), row.begin,
                                      row.end, c.i64(type.getCols())});
      return;
    }
    c.loop(type.getCols(), [&](Code &b, Value column) {
      RowAccess at = accessRow(b, access, r, column);
      b.onlyIf(b.compare(Predicate::sgt, at.end, b.i64(0)), [&](Code &then) {
        Value number =
            then.load(stored, address(then, rows, then.add(begin, column)), 4);
        // Other items may add to the element at the same time.
        if (op.getAdd())
          LLVM::AtomicRMWOp::create(then, LLVM::AtomicBinOp::fadd, at.pointer,
                                    number, LLVM::AtomicOrdering::monotonic);
        else
          then.store(encode(then, number, element), at.pointer,
                     memoryBytes(element));
      });
    });
  });
  return success();
}

LogicalResult KernelEmitter::emitLoadScalar(Code &code, tile::LoadScalarOp op) {
  const View &view = views.at(op.getView());
  Values indices;
  Value valid = code.flag(true);
  for (auto [coordinate, size] :
       llvm::zip_equal(op.getCoordinates(), view.sizes)) {
    indices.push_back(index(code, coordinate));
    valid = code.both(valid, inside(code, indices.back(), size));
  }
  Value pointer = code.at(memoryType(view.element), view.pointer,
                          offsetOf(code, indices, view.strides));
  scalars.map(op.getValue(), readElement(code, valid, pointer, view.element));
  return success();
}
