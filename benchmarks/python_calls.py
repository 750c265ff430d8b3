#!/usr/bin/env python3
"""What a call from Python costs on the host, in microseconds.

    PYTHONPATH=build/python build/python-venv/bin/python \
        benchmarks/python_calls.py

Compares ways to hand tensors to C (with apache-tvm-ffi too, where it is
installed), and times the parts of a warm call. The fastest of many short
rounds, so that it can be read on a busy machine. There are no queries, so that
no kernel runs.
"""

import ctypes
import statistics
import subprocess
import sys
import time

import torch

import attnc
from attnc import _attnc, _frontend, _spec, _torch


def us(function, calls=200, rounds=300):
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(calls):
            function()
        times.append((time.perf_counter() - start) / calls * 1e6)
    return min(times)


class Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("dtype", ctypes.c_int),
                ("rank", ctypes.c_int32),
                ("sizes", ctypes.POINTER(ctypes.c_int64)),
                ("strides", ctypes.POINTER(ctypes.c_int64))]


Sizes = ctypes.c_int64 * 4


def with_ctypes(tensors):
    """The C API's structures for three tensors, filled in Python."""
    return [Tensor(x.data_ptr(), 1, 4, Sizes(*x.shape), Sizes(*x.stride()))
            for x in tensors]


class Empty(torch.autograd.Function):
    """What recording costs that computes nothing."""

    @staticmethod
    def forward(ctx, q, k, v):
        ctx.save_for_backward(q, k, v)
        return torch.empty((1, 1, 0, 8))

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None, None


def through_tvm_ffi(operands):
    """A C function that does nothing, with the same operands; None: not
    installed."""
    try:
        import tvm_ffi
    except ImportError:
        return None
    nothing = tvm_ffi.get_global_func("testing.nop")
    return lambda: nothing(*operands)


def import_ms(module):
    """Of a process of its own, over that of numpy."""
    text = (f"import time, numpy; t = time.perf_counter(); import {module}; "
            "print((time.perf_counter() - t) * 1e3)")
    return statistics.median(float(subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True,
        check=True).stdout) for _ in range(5))


def main():
    q, k, v = (torch.zeros(1, 1, 0, 8) for _ in range(3))
    graded = q.clone().requires_grad_()
    rest = (-3.0,)
    attnc.sigmoid_attention(q, k, v, bias=-3.0)
    text = _frontend._text((_frontend._SIGMOID, "none", "", "bhsd", False,
                            False, "value", ("bias",), ("scalar",), ""))
    table = _spec.of(text).table
    operands = (q, k, v) + rest
    arrays = tuple(x.numpy() for x in (q, k, v)) + rest
    rows = {
        "three tensors through the extension": lambda: _attnc.key(operands),
        "three NumPy arrays through the extension": lambda: _attnc.key(arrays),
        "three tensors through ctypes": lambda: with_ctypes((q, k, v)),
        "three tensors through apache-tvm-ffi": through_tvm_ffi(operands),
        "torch.empty": lambda: torch.empty((1, 1, 0, 8)),
        "extension: look up, allocate, run": lambda: _attnc.call(
            table, operands, None),
        "torch's front end and the above": lambda: _torch.run(
            text, q, k, v, rest),
        "sigmoid_attention": lambda: attnc.sigmoid_attention(q, k, v,
                                                             bias=-3.0),
        "sigmoid_attention with gradients": lambda: attnc.sigmoid_attention(
            graded, k, v, bias=-3.0),
        "torch.empty in a torch.autograd.Function": lambda: Empty.apply(
            graded, k, v),
        "through torch.ops": lambda: torch.ops.attnc.forward.default(
            text, q, k, v, [], [-3.0]),
        "SDPA": lambda: torch.nn.functional.scaled_dot_product_attention(
            q, k, v),
    }
    for name, function in rows.items():
        if function is None:
            continue
        function()
        print(f"{name:42} {us(function):8.2f} us")
    print(f"{'import attnc, over import numpy':42} {import_ms('attnc'):8.2f} ms")


if __name__ == "__main__":
    main()
