"""Score functions by name, and the bias to start sigmoid attention from."""

import math as _math
from typing import Any as _Any

from . import ops as _ops


def init_bias(n: float) -> float:
    """-ln n: with n keys, a row's weights then add to about 1.

    n is the key length of training; the bias stays what it is at other lengths
    (a parameter or a buffer), so that decoding equals the full forward.
    """
    if not n >= 1:
        raise ValueError(f"argument 'n': expected a number of keys of 1 or "
                         f"more, got {n!r}")
    return -_math.log(n)


def sigmoid(x: _Any) -> _Any:
    """1 / (1 + e^-x)"""
    return _ops.logistic(x)


def relu(x: _Any) -> _Any:
    """max(x, 0)"""
    return _ops.relu(x)


def relu2(x: _Any) -> _Any:
    """max(x, 0)^2"""
    return _ops.relu(x) * _ops.relu(x)


def silu(x: _Any) -> _Any:
    """x / (1 + e^-x)"""
    return _ops.silu(x)


def softplus(x: _Any) -> _Any:
    """ln(1 + e^x)"""
    return _ops.softplus(x)


def tanh(x: _Any) -> _Any:
    """tanh x"""
    return _ops.tanh(x)


def exp(x: _Any) -> _Any:
    """e^x"""
    return _ops.exp(x)


def identity(x: _Any) -> _Any:
    """x: linear attention without a feature map"""
    return x


NAMED = {function.__name__: function for function in (
    sigmoid, relu, relu2, silu, softplus, tanh, exp, identity)}
