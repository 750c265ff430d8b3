"""Score functions by name, and the bias to start sigmoid attention from."""

import math as _math

from . import ops as _ops


def init_bias(n):
    """-ln n: with n keys, a row's weights then add to about 1.

    n is the key length of training; the bias stays what it is at other lengths
    (a parameter or a buffer), so that decoding equals the full forward.
    """
    if not n >= 1:
        raise ValueError(f"argument 'n': expected a number of keys of 1 or "
                         f"more, got {n!r}")
    return -_math.log(n)


def sigmoid(x):
    """1 / (1 + e^-x)"""
    return _ops.logistic(x)


def relu(x):
    """max(x, 0)"""
    return _ops.relu(x)


def relu2(x):
    """max(x, 0)^2"""
    return _ops.relu(x) * _ops.relu(x)


def silu(x):
    """x / (1 + e^-x)"""
    return _ops.silu(x)


def softplus(x):
    """ln(1 + e^x)"""
    return _ops.softplus(x)


def tanh(x):
    """tanh x"""
    return _ops.tanh(x)


def exp(x):
    """e^x"""
    return _ops.exp(x)


def identity(x):
    """x: linear attention without a feature map"""
    return x


NAMED = {function.__name__: function for function in (
    sigmoid, relu, relu2, silu, softplus, tanh, exp, identity)}
