"""The functions that score functions may call: the op table, one name each.

They take what a traced function gets (a score, a position), and also numbers
and arrays, so that the same function runs in attnc.reference.attention.
`torch` and NumPy functions of the same meaning may be traced, too:
`torch.tanh(score)`, `numpy.exp(score)`.
"""

import math as _math
import sys as _sys
from collections.abc import Callable as _Callable
from typing import Any as _Any

from ._trace import _Operators
from ._trace import emit as _emit
from ._trace import load as load


def _plain(name, x):
    """The function of this name for what is not traced."""
    torch = _sys.modules.get("torch")
    for operand in x:
        if torch and isinstance(operand, torch.Tensor):
            return _torch_function(torch, name)
    for operand in x:
        if hasattr(operand, "__array_interface__"):
            return _numpy_function(_sys.modules["numpy"], name)
    return _NUMBERS[name]


def _torch_function(torch, name):
    def binary(function):
        return lambda x, y: function(torch.as_tensor(x), torch.as_tensor(y))

    special = {
        "logistic": torch.sigmoid, "min": binary(torch.minimum),
        "max": binary(torch.maximum), "select": torch.where,
        "fma": lambda x, y, z: x * y + z, "pow": torch.pow,
    }
    return special.get(name) or getattr(torch, name)


def _numpy_function(numpy, name):
    special = {
        "logistic": lambda x: numpy.exp(-numpy.logaddexp(0, -x)),
        "min": numpy.minimum, "max": numpy.maximum, "select": numpy.where,
        "rsqrt": lambda x: 1 / numpy.sqrt(x), "div": numpy.divide,
        "sub": numpy.subtract, "mul": numpy.multiply, "neg": numpy.negative,
        "erf": numpy.vectorize(_math.erf), "pow": numpy.power,
        "fma": lambda x, y, z: x * y + z,
    }
    return special.get(name) or getattr(numpy, name)


def _logistic(x):
    return 1 / (1 + _math.exp(-x)) if x >= 0 else (
        _math.exp(x) / (1 + _math.exp(x)))


_NUMBERS = {
    "add": lambda x, y: x + y, "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y, "div": lambda x, y: x / y,
    "neg": lambda x: -x, "min": min, "max": max, "abs": abs,
    "exp": _math.exp, "exp2": lambda x: 2.0 ** x, "log": _math.log,
    "log2": _math.log2, "log1p": _math.log1p, "expm1": _math.expm1,
    "tanh": _math.tanh, "logistic": _logistic, "sqrt": _math.sqrt,
    "rsqrt": lambda x: 1 / _math.sqrt(x), "pow": pow, "erf": _math.erf,
    "sin": _math.sin, "cos": _math.cos, "floor": _math.floor,
    "ceil": _math.ceil, "select": lambda c, x, y: x if c else y,
    "fma": lambda x, y, z: x * y + z,
}


def _function(name: str, doc: str) -> _Callable[..., _Any]:
    def function(*x: _Any) -> _Any:
        if any(isinstance(operand, _Operators) for operand in x):
            return _emit(name, *x)
        return _plain(name, x)(*x)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return function


add = _function("add", "x + y")
sub = _function("sub", "x - y")
mul = _function("mul", "x y")
div = _function("div", "x / y, of floats")
neg = _function("neg", "-x")
minimum = min = _function("min", "The smaller; a tie's gradient goes to y.")
maximum = max = _function("max", "The larger; a tie's gradient goes to y.")
abs = _function("abs", "|x|, with derivative 0 at 0.")
exp = _function("exp", "e^x")
exp2 = _function("exp2", "2^x")
log = _function("log", "ln x")
log2 = _function("log2", "log2 x")
log1p = _function("log1p", "ln(1 + x)")
expm1 = _function("expm1", "e^x - 1")
tanh = _function("tanh", "tanh x")
logistic = sigmoid = _function("logistic", "1 / (1 + e^-x)")
sqrt = _function("sqrt", "The square root.")
rsqrt = _function("rsqrt", "1 / sqrt(x)")
pow = _function("pow", "x^y")
erf = _function("erf", "The error function.")
sin = _function("sin", "sin x")
cos = _function("cos", "cos x")
floor = _function("floor", "The largest integer <= x, as a float.")
ceil = _function("ceil", "The smallest integer >= x, as a float.")
fma = _function("fma", "x y + z, rounded once")
select = where = _function("select", "x where the condition holds, else y.")


def relu(x: _Any) -> _Any:
    """max(x, 0)"""
    return maximum(x, 0.0)


def softplus(x: _Any) -> _Any:
    """ln(1 + e^x), which overflows nowhere."""
    return maximum(x, 0.0) + log1p(exp(-abs(x)))


def silu(x: _Any) -> _Any:
    """x / (1 + e^-x)"""
    return x * logistic(x)


def gelu(x: _Any, approximate: str = "none") -> _Any:
    """x Phi(x), or its form with tanh: torch's approximate="tanh"."""
    if approximate == "none":
        return 0.5 * x * (1 + erf(x * 0.5 ** 0.5))
    if approximate == "tanh":
        inner = (2 / _math.pi) ** 0.5 * (x + 0.044715 * x * x * x)
        return 0.5 * x * (1 + tanh(inner))
    raise ValueError(f"argument 'approximate': expected 'none' or 'tanh', got "
                     f"{approximate!r}")


def elu(x: _Any, alpha: float = 1.0) -> _Any:
    """x where it is positive, else alpha (e^x - 1)."""
    return where(x > 0, x, alpha * expm1(minimum(x, 0.0)))


def leaky_relu(x: _Any, negative_slope: float = 0.01) -> _Any:
    """x where it is positive, else negative_slope x."""
    return where(x > 0, x, negative_slope * x)


def clamp(x: _Any, low: _Any = None, high: _Any = None) -> _Any:
    """x inside [low, high]."""
    if low is not None:
        x = maximum(x, low)
    return x if high is None else minimum(x, high)
