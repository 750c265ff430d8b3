"""Turns plain Python functions of scores and positions into regions of IR.

The function runs once, on Values. Each operation on one writes an op of the op
table (lib/OpTable). Arrays that the function refers to (closure, globals,
defaults) stand as Captured while it runs, so that `table[h, q_idx - kv_idx]`
becomes a captured operand with an affine map.
"""

import builtins
import math
import sys
import threading
import types
from typing import Any

# Name in the op table -> op, on f32. test/python/test_trace.py compares this
# with lib/OpTable.
FLOAT_OPS = {
    "add": "arith.addf", "sub": "arith.subf", "mul": "arith.mulf",
    "div": "arith.divf", "neg": "arith.negf", "min": "arith.minimumf",
    "max": "arith.maximumf", "abs": "math.absf", "exp": "math.exp",
    "exp2": "math.exp2", "log": "math.log", "log2": "math.log2",
    "log1p": "math.log1p", "expm1": "math.expm1", "tanh": "math.tanh",
    "logistic": "attn.logistic", "sqrt": "math.sqrt", "rsqrt": "math.rsqrt",
    "pow": "math.powf", "erf": "math.erf", "sin": "math.sin",
    "cos": "math.cos", "select": "arith.select", "compare": "arith.cmpf",
    "fma": "math.fma",
}
# Those that stay integers on integers.
INTEGER_OPS = {
    "add": "arith.addi", "sub": "arith.subi", "mul": "arith.muli",
    "min": "arith.minsi", "max": "arith.maxsi", "and": "arith.andi",
    "or": "arith.ori", "xor": "arith.xori", "shl": "arith.shli",
    "shr": "arith.shrsi",
}
# Operands of those that have not one.
_ARITIES = {**dict.fromkeys(("add", "sub", "mul", "div", "min", "max", "pow",
                             "compare", "and", "or", "xor", "shl", "shr"), 2),
            "select": 3, "fma": 3}
_RANKS = {"i1": 0, "i32": 1, "f32": 2}
_COMPARISONS = {"lt": ("olt", "slt"), "le": ("ole", "sle"),
                "gt": ("ogt", "sgt"), "ge": ("oge", "sge"),
                "eq": ("oeq", "eq"), "ne": ("une", "ne")}


class TraceError(TypeError):
    """A score function that cannot become a kernel."""


class _Operators:
    """Python's operators, as ops."""

    def __add__(self, y): return emit("add", self, y)
    def __radd__(self, y): return emit("add", y, self)
    def __sub__(self, y): return emit("sub", self, y)
    def __rsub__(self, y): return emit("sub", y, self)
    def __mul__(self, y): return emit("mul", self, y)
    def __rmul__(self, y): return emit("mul", y, self)
    def __truediv__(self, y): return emit("div", self, y)
    def __rtruediv__(self, y): return emit("div", y, self)
    def __floordiv__(self, y): return _floor_divide(self, y)
    def __rfloordiv__(self, y): return _floor_divide(y, self)
    def __mod__(self, y): return _modulo(self, y)
    def __rmod__(self, y): return _modulo(y, self)
    def __pow__(self, y): return _power(self, y)
    def __rpow__(self, y): return emit("pow", y, self)
    def __neg__(self): return emit("neg", self)
    def __pos__(self): return self
    def __abs__(self): return emit("abs", self)
    def __and__(self, y): return emit("and", self, y)
    def __rand__(self, y): return emit("and", y, self)
    def __or__(self, y): return emit("or", self, y)
    def __ror__(self, y): return emit("or", y, self)
    def __xor__(self, y): return emit("xor", self, y)
    def __rxor__(self, y): return emit("xor", y, self)
    def __lshift__(self, y): return emit("shl", self, y)
    def __rshift__(self, y): return emit("shr", self, y)
    def __invert__(self): return _invert(self)
    def __lt__(self, y): return _compare("lt", self, y)
    def __le__(self, y): return _compare("le", self, y)
    def __gt__(self, y): return _compare("gt", self, y)
    def __ge__(self, y): return _compare("ge", self, y)
    def __eq__(self, y): return _compare("eq", self, y)
    def __ne__(self, y): return _compare("ne", self, y)

    def __hash__(self):
        self._no("a look-up in a dict or set",
                 "make a captured array of it, which positions may index")

    def __format__(self, spec):
        if spec:
            self._no(f"the format '{spec}'", "print it without a format")
        return repr(self)

    # What tensors have as methods, where score functions use them.
    def square(self): return emit("mul", self, self)
    def float(self): return _convert(_value(self), "f32")
    def int(self): return _convert(_value(self), "i32")

    def __getattr__(self, name):
        if not _is_known(name):
            raise AttributeError(f"a value of a traced function has no "
                                 f"'{name}'; use Python's operators and the "
                                 "functions of attnc.ops")
        return lambda *arguments, **keywords: _foreign(
            name, (self, *arguments), keywords, "Tensor")

    def to(self, *_, **__):
        return self

    def _no(self, what, instead):
        region = getattr(_state, "region", None)
        slot = f"{region.slot}: " if region else ""
        raise TraceError(f"{slot}{what} needs the value of a score or position,"
                         f" which is known in the kernel only; {instead}")

    def __bool__(self):
        self._no("'if', 'and', 'or', 'not', min() or max()",
                 "use attnc.ops.where(condition, x, y), &, |, ~, "
                 "attnc.ops.minimum or maximum")

    def __float__(self):
        self._no("a conversion to float (as in math.exp)",
                 "use the functions of attnc.ops, or torch's")

    def __int__(self):
        self._no("a conversion to int", "positions are integers already")

    def __index__(self):
        self._no("this indexing",
                 "write attnc.ops.load(array, index...)")

    def __iter__(self):
        self._no("iteration", "a score function sees one element")

    def __len__(self):
        self._no("len()", "a score function sees one element")

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), keywords=None):
        return _foreign(getattr(function, "__name__", str(function)),
                        arguments, keywords or {}, "torch")

    def __array_ufunc__(self, ufunc, method, *arguments, **keywords):
        if method != "__call__" or keywords:
            return NotImplemented
        return _foreign(ufunc.__name__, arguments, {}, "numpy")

    def __array_function__(self, function, types, arguments, keywords):
        return _foreign(function.__name__, arguments, keywords, "numpy")


class Value(_Operators):
    """A scalar of the kernel: type f32, i32 or i1."""

    __slots__ = ("name", "type", "affine")

    def __init__(self, name, type, affine=None):
        self.name = name
        self.type = type
        # An affine expression of the positions, if it is one.
        self.affine = affine

    def __repr__(self):
        return f"<{self.type} in a traced function>"


class Captured(_Operators):
    """Stands for an array while a function is traced."""

    def __init__(self, array):
        self.array = array
        self.shape = tuple(array.shape)
        self.ndim = len(self.shape)
        self.dtype = array.dtype

    def __getitem__(self, index):
        return load(self.array, *(index if isinstance(index, tuple)
                                  else (index,)))

    def __len__(self):
        return self.shape[0]

    def __getattr__(self, name):
        if _is_known(name):
            return super().__getattr__(name)
        region = getattr(_state, "region", None)
        raise AttributeError(
            f"{region.slot + ': ' if region else ''}of a captured array only "
            f"elements are read, as array[h, q_idx - kv_idx], not '.{name}'; "
            "compute other arrays from it before the call")

    def __repr__(self):
        return f"<captured array of shape {self.shape}>"


def is_array(x):
    return (hasattr(x, "__dlpack__") or hasattr(x, "__array_interface__")
            ) and not _is_numpy_scalar(x)


def _is_numpy_scalar(x):
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(x, numpy.generic)


def _unboxed(x):
    """NumPy's scalars (a size, an element) as the Python numbers they are."""
    if not _is_numpy_scalar(x):
        return x
    number = x.item()
    return builtins.float(x) if _is_numpy_scalar(number) else number


# --- the region being written -------------------------------------------------

class Region:
    """Lines of IR, and the arrays they read: (array, affine map)."""

    def __init__(self, slot, prefix):
        self.slot = slot
        self.prefix = prefix
        self.lines = []
        self.captures = []  # (array, tuple of affine expressions)
        self.constants = {}
        self.count = 0

    def fresh(self):
        self.count += 1
        return f"%{self.prefix}{self.count}"

    def add(self, text, type, affine=None):
        name = self.fresh()
        self.lines.append(f"{name} = {text}")
        return Value(name, type, affine)

    def constant(self, value, type):
        key = (repr(value), type)
        if key not in self.constants:
            self.constants[key] = self._constant(value, type)
        return self.constants[key]

    def _constant(self, value, type):
        if type == "i1":
            return self.add(f"arith.constant {str(bool(value)).lower()}", "i1")
        if type == "i32":
            if not -2 ** 31 <= value < 2 ** 31:
                raise TraceError(f"the integer {value} does not fit 32 bits")
            return self.add(f"arith.constant {value} : i32", "i32", str(value))
        if not math.isfinite(value):
            raise ValueError(
                f"{self.slot}: the constant {value} would mask by arithmetic; "
                "masks are exact: pass mask_mod=, attn_mask=, causal= or "
                "window= instead, which also skips the masked blocks")
        return self.add(f"arith.constant {value:.8e} : f32", "f32")


_state = threading.local()


def _region():
    region = getattr(_state, "region", None)
    if region is None:
        raise TraceError("a value of a traced function is used outside of it")
    return region


def _value(x):
    """A Value for anything that may stand in an expression."""
    region = _region()
    x = _unboxed(x)
    if isinstance(x, Value):
        return x
    if isinstance(x, Captured):
        return load(x.array)
    if isinstance(x, bool):
        return region.constant(x, "i1")
    if isinstance(x, builtins.int):
        return region.constant(x, "i32")
    if isinstance(x, builtins.float):
        return region.constant(x, "f32")
    if is_array(x):
        return load(x)
    raise TraceError(f"{region.slot}: expected a number, a score, a position "
                     f"or an array, got {type(x).__name__}")


def _convert(x, type):
    if x.type == type:
        return x
    region = _region()
    if (x.type, type) == ("i1", "i32"):
        return region.add(f"arith.extui {x.name} : i1 to i32", "i32")
    if type == "f32":
        x = _convert(x, "i32")
        return region.add(f"arith.sitofp {x.name} : i32 to f32", "f32")
    if (x.type, type) == ("f32", "i32"):
        return region.add(f"arith.fptosi {x.name} : f32 to i32", "i32")
    zero = region.constant(0 if x.type == "i32" else 0.0, x.type)
    return _compare("ne", x, zero)


def _promote(operands, least="i1"):
    operands = [_unboxed(x) for x in operands]
    # A plain number takes the other's type: 2 * score is a float.
    numbers = [x for x in operands
               if type(x) is builtins.int and not isinstance(x, bool)]
    typed = [_value(x) for x in operands if not any(x is n for n in numbers)]
    kind = max([x.type for x in typed] + [least] + ["i32"] * bool(numbers),
               key=_RANKS.get)
    out = []
    for x in operands:
        if any(x is n for n in numbers) and kind == "f32":
            x = builtins.float(x)
        out.append(_convert(_value(x), kind))
    return kind, out


def _affine(name, operands):
    a, b = (x.affine for x in operands)
    if a is None or b is None:
        return None
    if name in ("add", "sub"):
        return f"({a} {'+' if name == 'add' else '-'} {b})"
    if name == "mul" and (_is_number(a) or _is_number(b)):
        return f"({a} * {b})" if _is_number(b) else f"({b} * {a})"
    return None


def _is_number(text):
    return text.lstrip("-").isdigit()


def emit(name, *operands):
    """One op of the op table."""
    region = _region()
    arity = _ARITIES.get(name, 1)
    if len(operands) != arity:
        raise TraceError(f"{region.slot}: '{name}' takes {arity} operand"
                         f"{'s' * (arity > 1)}, got {len(operands)}")
    if name in _ROUNDING:
        return _round(name, _convert(_value(operands[0]), "f32"))
    if name == "select":
        condition = _convert(_value(operands[0]), "i1")
        kind, (x, y) = _promote(operands[1:])
        return region.add(f"arith.select {condition.name}, {x.name}, {y.name} "
                          f": {kind}", kind)
    if name == "neg":
        x = _value(operands[0])
        if x.type != "f32":
            return emit("sub", 0, x)
    if name == "abs" and _value(operands[0]).type != "f32":
        return emit("max", operands[0], emit("sub", 0, operands[0]))
    if name == "add" and _are_conditions(operands):
        name = "or"  # as torch and NumPy add them
    integers = name in INTEGER_OPS
    bits = name in ("and", "or", "xor")
    kind, values = _promote(
        operands, "i1" if bits else "i32" if integers else "f32")
    if integers and kind != "f32":
        affine = _affine(name, values) if len(values) == 2 else None
        return _write(INTEGER_OPS[name], values, kind, affine)
    if name not in FLOAT_OPS:
        raise TraceError(f"{region.slot}: '{name}' is not defined for floats")
    return _write(FLOAT_OPS[name], values, "f32")


def _are_conditions(operands):
    return all(type(x) is not builtins.int and _value(x).type == "i1"
               for x in map(_unboxed, operands))


_ROUNDING = ("floor", "ceil")


def _round(name, x):
    """Through i32, an operation that every target has; what is too large for
    that is whole, infinite or no number."""
    whole = _convert(_convert(x, "i32"), "f32")
    if name == "floor":
        rounded = whole - _compare("gt", whole, x)
    else:
        rounded = whole + _compare("lt", whole, x)
    return emit("select", _compare("lt", emit("abs", x), 2.0 ** 23), rounded, x)


def _write(op, values, type, affine=None):
    names = ", ".join(x.name for x in values)
    return _region().add(f"{op} {names} : {type}", type, affine)


def _compare(name, x, y):
    kind, (x, y) = _promote((x, y))
    ordered, integer = _COMPARISONS[name]
    if kind == "f32":
        return _region().add(f"arith.cmpf {ordered}, {x.name}, {y.name} : f32",
                             "i1")
    if kind == "i1":
        x, y, kind = _convert(x, "i32"), _convert(y, "i32"), "i32"
    return _region().add(f"arith.cmpi {integer}, {x.name}, {y.name} : {kind}",
                         "i1")


def _invert(x):
    x = _value(x)
    if x.type == "f32":
        raise TraceError(f"{_region().slot}: ~ is not defined for floats")
    ones = _region().constant(True if x.type == "i1" else -1, x.type)
    return _write("arith.xori", (x, ones), x.type)


def _floor_divide(x, y):
    kind, (x, y) = _promote((x, y), "i32")
    if kind == "f32":
        return emit("floor", emit("div", x, y))
    quotient = _write("arith.divsi", (x, y), "i32")
    remainder = _write("arith.remsi", (x, y), "i32")
    adjust = _compare("ne", remainder, 0) & (
        _compare("lt", remainder, 0) ^ _compare("lt", y, 0))
    result = emit("select", adjust, emit("sub", quotient, 1), quotient)
    if x.affine and y.affine and _is_number(y.affine) and y.affine > "0":
        result.affine = f"({x.affine} floordiv {y.affine})"
    return result


def _modulo(x, y):
    kind, (x, y) = _promote((x, y), "i32")
    if kind == "f32":
        return emit("sub", x, emit("mul", y, _floor_divide(x, y)))
    remainder = _write("arith.remsi", (x, y), "i32")
    adjust = _compare("ne", remainder, 0) & (
        _compare("lt", remainder, 0) ^ _compare("lt", y, 0))
    result = emit("select", adjust, emit("add", remainder, y), remainder)
    if x.affine and y.affine and _is_number(y.affine) and y.affine > "0":
        result.affine = f"({x.affine} mod {y.affine})"
    return result


def _power(x, y):
    if isinstance(y, (builtins.int, builtins.float)) and y in (1, 2, 3, 4):
        result = x
        for _ in range(builtins.int(y) - 1):
            result = emit("mul", result, x)
        return result
    return emit("pow", x, y)


# --- captured arrays ----------------------------------------------------------

ELEMENT_TYPES = {
    "float32": "f32", "float64": "f32", "float16": "f32", "bfloat16": "f32",
    "int32": "i32", "int64": "i32", "bool": "i1", "int16": "i32",
    "int8": "i32", "uint8": "i32",
}


def dtype_name(array):
    """"float32" and the like, for the arrays of every library."""
    dtype = getattr(array, "dtype", None)
    return getattr(dtype, "name", None) or str(dtype).rsplit(".", 1)[-1]


def load(array: Any, *index: Any) -> Any:
    """The element of an array; each index affine in the positions."""
    region = _region()
    if isinstance(array, Captured):
        array = array.array
    shape = tuple(array.shape)
    if len(index) != len(shape):
        raise TraceError(
            f"{region.slot}: a captured array of shape {shape} takes "
            f"{len(shape)} indices, got {len(index)}; slices, partial indexing "
            "and operations on whole arrays are not possible: compute other "
            "arrays before the call")
    affine = []
    for x in index:
        x = _value(x)
        if x.type != "i32" or x.affine is None:
            raise NotImplementedError(
                f"{region.slot}: an index of a captured array must be affine "
                "in the positions (b, h, q_idx, kv_idx: sums, differences, "
                "products with constants, // and % by constants); for another "
                "function f of q_idx - kv_idx make a table of all distances "
                "before the call, t = array[..., f(arange(1 - n, n))], and read "
                "t[..., q_idx - kv_idx + n - 1]")
        if x.affine.startswith("-") and _is_number(x.affine):
            raise TraceError(
                f"{region.slot}: the index {x.affine} of a captured array of "
                f"shape {shape} would count from its end; indices count from "
                "the start, and outside of the array it reads 0")
        affine.append(x.affine)
    if dtype_name(array) not in ELEMENT_TYPES:
        raise TypeError(f"{region.slot}: a captured array has dtype "
                        f"{dtype_name(array)}; expected one of "
                        f"{', '.join(ELEMENT_TYPES)}")
    maps = tuple(affine)
    for at, (known, known_maps) in enumerate(region.captures):
        if known is array and known_maps == maps:
            break
    else:
        at = len(region.captures)
        region.captures.append((array, maps))
    if dtype_name(array) == "bool":  # which kernels load as whole numbers
        return _compare("ne", Value(f"%c{at}", "i32"), 0)
    return Value(f"%c{at}", ELEMENT_TYPES[dtype_name(array)])


# --- functions of other libraries ---------------------------------------------

_FOREIGN = {
    "sigmoid": "logistic", "special_expit": "logistic", "expit": "logistic",
    "subtract": "sub", "multiply": "mul", "divide": "div",
    "true_divide": "div", "negative": "neg", "minimum": "min",
    "maximum": "max", "absolute": "abs", "bitwise_and": "and",
    "logical_and": "and", "bitwise_or": "or", "logical_or": "or",
    "bitwise_xor": "xor", "logical_xor": "xor", "power": "pow",
    "where": "select", "special_erf": "erf", "special_log1p": "log1p",
    "special_expm1": "expm1", "special_exp2": "exp2",
}
_METHODS = {
    "__add__": "__add__", "__radd__": "__radd__", "__sub__": "__sub__",
    "__rsub__": "__rsub__", "__mul__": "__mul__", "__rmul__": "__rmul__",
    "__truediv__": "__truediv__", "__div__": "__truediv__",
    "__rtruediv__": "__rtruediv__", "__rdiv__": "__rtruediv__",
    "__and__": "__and__", "__rand__": "__rand__", "__or__": "__or__",
    "__ror__": "__ror__", "__xor__": "__xor__", "__rxor__": "__rxor__",
    "__eq__": "__eq__", "__ne__": "__ne__", "__lt__": "__lt__",
    "__le__": "__le__", "__gt__": "__gt__", "__ge__": "__ge__",
    "__pow__": "__pow__", "__rpow__": "__rpow__", "__mod__": "__mod__",
    "__rmod__": "__rmod__", "__floordiv__": "__floordiv__",
    "__rfloordiv__": "__rfloordiv__", "eq": "__eq__", "ne": "__ne__",
    "lt": "__lt__", "le": "__le__", "gt": "__gt__", "ge": "__ge__",
    "less": "__lt__", "less_equal": "__le__", "greater": "__gt__",
    "greater_equal": "__ge__", "equal": "__eq__", "not_equal": "__ne__",
    "remainder": "__mod__", "floor_divide": "__floordiv__", "pow": "__pow__",
    "logical_not": "__invert__", "bitwise_not": "__invert__",
    "invert": "__invert__", "square": "square",
}


def _composed():
    """What the op table does not name, with the parameters that torch and NumPy
    give it."""
    def clamp(x, min=None, max=None, *, a_min=None, a_max=None):
        return of("clamp")(x, a_min if min is None else min,
                           a_max if max is None else max)

    # ops imports this module: only when called.
    def of(name):
        def function(x, *arguments, inplace=False, **keywords):
            from . import ops
            return getattr(ops, name)(x, *arguments, **keywords)
        return function

    def softplus(x, beta=1, threshold=20):
        return of("softplus")(x * beta) / beta

    return {"clamp": clamp, "clip": clamp, "softplus": softplus,
            **{name: of(name) for name in (
                "relu", "silu", "gelu", "elu", "leaky_relu")}}


_COMPOSED = _composed()


def _is_known(name):
    op = _FOREIGN.get(name, name)
    return op != "compare" and any(op in names for names in (
        FLOAT_OPS, INTEGER_OPS, _METHODS, _COMPOSED, _ROUNDING))


def _foreign(name, arguments, keywords, library):
    """A function of torch or NumPy, applied to Values."""
    if name == "__getitem__":
        array, index = arguments
        return load(array, *(index if isinstance(index, tuple) else (index,)))
    arguments = tuple(_unboxed(x) for x in arguments)
    if name in _COMPOSED:
        first, *rest = arguments
        try:
            return _COMPOSED[name](_value(first), *rest, **keywords)
        except TypeError as error:
            if isinstance(error, TraceError):
                raise
            raise TypeError(f"{_region().slot}: {library}.{name}: {error}"
                            ) from None
    if name in _METHODS and not keywords:
        first, *rest = (_value(x) if is_array(x) or isinstance(
            x, (builtins.int, builtins.float)) else x for x in arguments)
        return getattr(first, _METHODS[name])(*rest)
    op = _FOREIGN.get(name, name)
    if not _is_known(name):
        raise NotImplementedError(
            f"{_region().slot}: {library}.{name} is not in the op table"
            + (" (softmax over the keys is attention without an activation)"
               if "softmax" in name else "") + "; "
            f"there are {', '.join(sorted({*FLOAT_OPS, *_COMPOSED, *_ROUNDING}))} "
            "(attnc.ops)")
    if keywords:
        raise NotImplementedError(
            f"{_region().slot}: {library}.{name} with {', '.join(keywords)} "
            "is not supported; leave these arguments out")
    return emit(op, *arguments)


# --- running the function -----------------------------------------------------

def _substituted(function):
    """The function with Captured in place of the arrays it refers to."""
    if not isinstance(function, types.FunctionType):
        return function
    names = function.__code__.co_names
    replaced = {k: Captured(function.__globals__[k]) for k in names
                if is_array(function.__globals__.get(k))}
    cells = function.__closure__ or ()
    contents = [_contents(cell) for cell in cells]
    defaults = function.__defaults__
    if not replaced and not any(map(is_array, contents)) and not any(
            map(is_array, defaults or ())):
        return function
    closure = tuple(types.CellType(Captured(x)) if is_array(x) else cell
                    for cell, x in zip(cells, contents))
    copy = types.FunctionType(
        function.__code__, {**function.__globals__, **replaced},
        function.__name__,
        tuple(Captured(x) if is_array(x) else x for x in defaults)
        if defaults else None, closure)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _contents(cell):
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


class _nothing:
    def __enter__(self): return self
    def __exit__(self, *_): return False


def _torch_mode():
    """Sees torch's functions also where only tensors are their operands."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "overrides"):
        return _nothing()

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, arguments=(),
                               keywords=None):
            name = getattr(function, "__name__", "")
            flat = list(arguments)
            for x in arguments:
                flat.extend(x if isinstance(x, tuple) else ())
            if any(isinstance(x, (Value, Captured)) for x in flat):
                return _foreign(name, arguments, keywords or {}, "torch")
            return function(*arguments, **(keywords or {}))

    return Mode()


def count_arguments(function):
    """The number of positional parameters without a default, or None."""
    import inspect
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return None
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
               and p.default is p.empty for p in parameters)


def _checked(slot, value, result):
    """A result that is a condition in place of a number, or the other way
    around, is the result of another kind of function."""
    if slot == "score_mod" and value.type == "i1":
        raise TraceError(
            f"{slot}: the function returns a condition; expected the new score: "
            "pass it as mask_mod=, or use attnc.ops.where(condition, x, y)")
    if result == "i1" and value.type == "f32":
        raise TraceError(
            f"{slot}: the function returns a float; expected a condition (True "
            "= attend): compare it, for example table[...] > 0, or add it in "
            "score_mod")
    return value


def trace(function, slot, prefix, arguments, result):
    """The region of `function` on `arguments`: (name, type, affine) each."""
    region = Region(slot, prefix)
    outer = getattr(_state, "region", None)
    _state.region = region
    try:
        with _torch_mode():
            got = _substituted(function)(
                *(Value(*argument) for argument in arguments))
        if got is None:
            raise TraceError(f"{slot}: the function returns None; return the "
                             "new value")
        value = _convert(_checked(slot, _value(got), result), result)
    except TypeError as error:
        if isinstance(error, TraceError):
            raise
        # A function that is not Python's, of arguments that it does not take.
        if not isinstance(function, (types.FunctionType, types.MethodType)) and (
                __name__ not in str(error)):
            raise TraceError(
                f"{slot}: expected an elementwise function of "
                f"{len(arguments)} argument{'s' * (len(arguments) > 1)}, got "
                f"{getattr(function, '__name__', function)}, which says: "
                f"{error}") from None
        # What a library says that does not let others define its functions.
        if __name__ not in str(error):
            raise
        raise TraceError(
            f"{slot}: a library refuses to see the function symbolically "
            f"({str(error).splitlines()[0]}); use Python's operators and the "
            "functions of attnc.ops") from None
    except IndexError as error:
        if "indices" not in str(error):
            raise
        raise TraceError(
            f"{slot}: a function that this one calls indexes an array of "
            f"another library with positions ({error}); write attnc.ops.load("
            "array, index...) there") from None
    finally:
        _state.region = outer
    region.lines.append(f"attn.yield {value.name} : {result}")
    return region
