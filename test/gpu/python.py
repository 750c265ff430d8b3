#!/usr/bin/env python3
"""The Python package on this machine's GPU: torch tensors, graphs, overhead.

    PYTHONPATH=python python.py [--json OUT]

Ends with `N passed, N failed`. Accuracy is compared with
attnc.reference.attention in float64 on the GPU; the bounds are those of one
rounding of P and one of the output (A-half in docs/semantics.md).
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
import traceback

os.environ.setdefault("ATTNC_CACHE_DIR", os.path.join(
    tempfile.mkdtemp(prefix="attnc-gpu-"), "cache"))

import torch

import attnc
from attnc import reference

BOUNDS = {torch.bfloat16: 6e-3, torch.float16: 1e-3}
tests = []
figures = {}


def test(function):
    tests.append(function)
    return function


def tensors(B=2, H=4, S=300, D=128, Hkv=None, Sk=None, dtype=torch.bfloat16):
    generator = torch.Generator("cuda").manual_seed(0)
    return [torch.randn(shape, device="cuda", generator=generator).to(dtype)
            for shape in ((B, H, S, D), (B, Hkv or H, Sk or S, D),
                          (B, Hkv or H, Sk or S, D))]


def check(q, k, v, **arguments):
    got = attnc.attention(q, k, v, **arguments)
    want = reference.attention(q.double(), k.double(), v.double(), **arguments)
    error = ((got.double() - want).norm() / want.norm()).item()
    assert got.shape == want.shape and got.dtype == q.dtype
    assert error <= BOUNDS[q.dtype], error
    return error


@test
def dtypes_and_head_dims():
    for dtype in BOUNDS:
        for d in (64, 128, 256):
            q, k, v = tensors(D=d, dtype=dtype)
            check(q, k, v, activation="sigmoid", bias=-math.log(300))
            check(q, k, v, causal=True)


@test
def arguments():
    q, k, v = tensors(Hkv=2)
    bias = -math.log(300)
    check(q, k, v, activation="sigmoid", bias=torch.tensor(bias, device="cuda"))
    check(q, k, v, activation="sigmoid",
          bias=torch.full((4,), bias, device="cuda"))
    check(q, k, v, window=(64, 0), causal=True)
    check(q, k, v, alibi_slopes=torch.rand(4, device="cuda"))
    check(q, k, v, kv_len=torch.tensor([5, 300], device="cuda"))
    check(q, k, v, attn_mask=torch.rand(300, 300, device="cuda") < 0.7)
    check(q, k, v, bias="per_sequence", activation="sigmoid",
          kv_len=torch.tensor([50, 300], device="cuda", dtype=torch.int32))


@test
def layouts():
    packed = torch.randn(2, 300, 3, 4, 128, device="cuda").bfloat16()
    q, k, v = packed.unbind(2)
    check(q, k, v, layout="bshd")
    q, k, v = packed.permute(2, 0, 3, 1, 4)
    check(q, k, v, activation="sigmoid", bias=-5.0)
    q, k, v = tensors(D=80, S=130)
    check(q[..., 1:65], k[..., 1:65], v)  # rows that are not 16-byte aligned


@test
def callables():
    table = torch.randn(4, 600, device="cuda")
    check(*tensors(), score_mod=lambda s, b, h, i, j:
          torch.tanh(s / 20) * 20 + table[h, i - j + 300])
    check(*tensors(), activation=lambda x: torch.relu(x) ** 2,
          mask_mod=lambda b, h, i, j: (i >= j) & ((i - j) % 3 != 1))


@test
def no_synchronisation():
    q, k, v = tensors()
    lengths = torch.tensor([5, 300], device="cuda")
    attnc.softmax_attention(q, k, v, kv_len=lengths)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        attnc.softmax_attention(q, k, v, kv_len=lengths)
        attnc.sigmoid_attention(q, k, v, bias=-5.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@test
def side_stream():
    q, k, v = tensors()
    want = attnc.softmax_attention(q, k, v)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        late = q + 0  # ready only after the sleep
        got = attnc.softmax_attention(late, k, v)
    stream.synchronize()
    assert torch.equal(got, want)


@test
def cuda_graph():
    q, k, v = tensors()
    attnc.sigmoid_attention(q, k, v, bias=-5.0)  # warm
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = attnc.sigmoid_attention(q, k, v, bias=-5.0)
    q.copy_(torch.randn_like(q))
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, attnc.sigmoid_attention(q, k, v, bias=-5.0))


@test
def compiled():
    def block(q, k, v, bias):
        return attnc.sigmoid_attention(q, k, v, bias=bias, causal=True) * 2

    whole = torch.compile(block, fullgraph=True, dynamic=True)
    bias = torch.full((4,), -5.0, device="cuda")
    with torch.no_grad():
        whole(*tensors(S=200), bias)
        with torch._dynamo.config.patch(error_on_recompile=True):
            for n in range(201, 251):
                q, k, v = tensors(S=n)
                assert torch.equal(whole(q, k, v, bias), block(q, k, v, bias))


@test
def a_program_serves_all_lengths():
    attnc.softmax_attention(*tensors(S=40), causal=True)
    before = attnc.events.counters()["compiles"]
    for n in range(41, 91):
        attnc.softmax_attention(*tensors(S=n, B=1 + n % 3), causal=True)
    assert attnc.events.counters()["compiles"] == before


@test
def gradients():
    """Against torch's derivative of the reference, in float64."""
    q, k, v = (x.requires_grad_() for x in tensors(S=128, D=64))
    wide = [x.detach().double().requires_grad_() for x in (q, k, v)]
    for arguments in (dict(activation="sigmoid", bias=-5.0), dict(causal=True)):
        out = attnc.attention(q, k, v, **arguments)
        weight = torch.randn_like(out)
        got = torch.autograd.grad(out, (q, k, v), weight)
        want = torch.autograd.grad(reference.attention(*wide, **arguments),
                                   wide, weight.double())
        for a, b in zip(got, want):
            error = ((a.double() - b).norm() / b.norm()).item()
            assert error <= 1e-2, error


@test
def learned_gradients():
    """Of biases and slopes, as a model that learns them asks for."""
    q, k, v = (x.requires_grad_() for x in tensors(S=300, D=64))
    heads = q.shape[1]
    slopes = torch.exp2(-torch.arange(1.0, heads + 1, device="cuda"))
    for bias in (torch.tensor(-5.0, device="cuda"),
                 torch.full((heads,), -5.0, device="cuda"),
                 torch.randn(1, heads, 300, 300, device="cuda") - 5):
        leaves = [q, k, v, bias.requires_grad_(), slopes.requires_grad_()]
        wide = [x.detach().double().requires_grad_() for x in leaves]

        def call(function, q, k, v, bias, slopes):
            return function(q, k, v, activation="sigmoid", bias=bias,
                            causal=True, alibi_slopes=slopes)

        out = call(attnc.attention, *leaves)
        weight = torch.randn_like(out)
        got = torch.autograd.grad(out, leaves, weight)
        want = torch.autograd.grad(call(reference.attention, *wide), wide,
                                   weight.double())
        for a, b in zip(got, want):
            error = ((a.double() - b).norm() / b.norm()).item()
            assert a.shape == b.shape and error <= 1e-2, error


@test
def captured_gradients():
    """Of biases, slopes, float masks and captured tables."""
    q, k, v = (x.requires_grad_() for x in tensors(S=128, D=64, Hkv=2))
    table = torch.randn(4, 128, device="cuda")
    lean = torch.randn(4, device="cuda")

    def gated(gate):
        return lambda o, b, h, i, d: o * torch.sigmoid(gate[b, h, i, d])

    def modified(table):
        return lambda s, b, h, i, j: s + table[h, j] * 0.5

    def relative(table):
        return lambda s, b, h, i, j: s + table[h, i - j + 127]

    for name, value, make in (
            ("score_mod", torch.randn(4, 256, device="cuda"), relative),
            ("bias", torch.tensor(-5.0, device="cuda"), None),
            ("bias", torch.full((4,), -5.0, device="cuda"), None),
            ("bias", torch.randn(2, 4, 128, 128, device="cuda"), None),
            ("scale", torch.tensor(0.2, device="cuda"), None),
            ("scale", torch.rand(4, device="cuda"), None),
            ("alibi_slopes", lean, None), ("attn_mask", torch.randn(
                128, 128, device="cuda"), None), ("score_mod", table, modified), (
                "epilogue", torch.randn(2, 4, 128, 64, device="cuda"), gated)):
        found = []
        for wide in (False, True):
            leaf = value.clone().double() if wide else value.clone()
            leaf.requires_grad_()
            rows = [x.double() if wide else x for x in (q, k, v)]
            arguments = dict(activation="sigmoid", bias=-5.0)
            arguments[name] = make(leaf) if make else leaf
            out = (reference if wide else attnc).attention(*rows, **arguments)
            weight = torch.randn(out.shape, device="cuda", dtype=torch.float64,
                                 generator=torch.Generator("cuda")
                                 .manual_seed(1))
            found.append(torch.autograd.grad(
                out, leaf, weight.to(out.dtype))[0])
        error = ((found[0].double() - found[1]).norm()
                 / found[1].norm()).item()
        print(f"   {name} {tuple(value.shape)}: {error:.2e}")
        assert error <= 2e-2, error


@test
def import_orders():
    """With triton too: each of the four first, then last."""
    import subprocess
    names = ["attnc", "torch", "triton", "jax"]
    text = """
import torch
x = torch.ones(1, 1, 64, 64, device="cuda", dtype=torch.bfloat16)
f = torch.compile(lambda x: attnc.softmax_attention(x, x, x), fullgraph=True)
assert torch.equal(f(x), x)
y = jax.numpy.ones((1, 1, 64, 64), "bfloat16")
assert (attnc.softmax_attention(y, y, y) == y).all()
"""
    environment = dict(os.environ, XLA_PYTHON_CLIENT_PREALLOCATE="false")
    for n in range(4):
        order = names[n:] + names[:n]
        got = subprocess.run(
            [sys.executable, "-c", "".join(f"import {x}\n" for x in order)
             + text], capture_output=True, text=True, env=environment)
        assert got.returncode == 0, (order, got.stderr[-2000:])


@test
def bad_input():
    q, k, v = tensors()
    for change in (dict(k=k.cpu()), dict(q=q.double())):
        try:
            attnc.softmax_attention(**{**dict(q=q, k=k, v=v), **change})
        except (TypeError, ValueError) as error:
            assert "'k'" in str(error) or "'q'" in str(error)
        else:
            raise AssertionError("accepted")


# --- overhead -----------------------------------------------------------------

def host_us(function, calls=2000, rounds=7):
    """Median over rounds of the host's microseconds a call. The GPU's queue
    is emptied between rounds and holds all calls of one."""
    times = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls // 10):
            function()
        times.append((time.perf_counter() - start) / (calls // 10) * 1e6)
    return statistics.median(times)


@test
def overhead():
    q, k, v = tensors(B=1, H=1, S=64, D=64)
    spec = attnc._spec.of(attnc._frontend._text(
        (attnc._frontend._SIGMOID, "none", "", "bhsd", False, False, "value",
         ("bias",), ("scalar",), "")))
    operands = (q, k, v, -4.0)
    attnc.sigmoid_attention(q, k, v, bias=-4.0)

    class Empty(torch.autograd.Function):
        """What recording costs that computes nothing."""

        @staticmethod
        def forward(ctx, q, k, v):
            ctx.save_for_backward(q, k, v)
            return torch.empty((1, 1, 64, 64), device="cuda",
                               dtype=torch.bfloat16)

        @staticmethod
        def backward(ctx, gradient):
            return gradient, None, None

    def recorded():
        return Empty.apply(q.requires_grad_(), k, v)

    def graded():
        return attnc.sigmoid_attention(q.requires_grad_(), k, v, bias=-4.0)

    cases = {
        "torch.empty": lambda: torch.empty((1, 1, 64, 64), device="cuda",
                                           dtype=torch.bfloat16),
        "sigmoid_attention": lambda: attnc.sigmoid_attention(q, k, v,
                                                             bias=-4.0),
        "extension alone (launch and allocation)": lambda: attnc._attnc.call(
            spec.table, operands, None),
        "through torch.ops": lambda: torch.ops.attnc.forward.default(
            spec.text, q, k, v, [], [-4.0]),
        "SDPA": lambda: torch.nn.functional.scaled_dot_product_attention(
            q, k, v),
    }
    for name, function in cases.items():
        for _ in range(50):
            function()
        figures[name] = host_us(function)
    try:
        for _ in range(50):
            graded(), recorded()
        figures["sigmoid_attention with grad"] = host_us(graded)
        figures["torch.empty in a torch.autograd.Function"] = host_us(recorded)
    except (NotImplementedError, RuntimeError, ValueError) as error:
        print("  with grad:", str(error)[:200])
    for name, value in figures.items():
        print(f"  {name:42} {value:6.2f} us")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--json")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    print(attnc.__version__, "torch", torch.__version__,
          torch.cuda.get_device_name())
    passed = failed = 0
    for function in tests:
        if options.only and options.only != function.__name__:
            continue
        start = time.perf_counter()
        try:
            function()
            passed += 1
            word = "ok"
        except Exception:
            failed += 1
            word = "FAILED"
            traceback.print_exc(limit=6)
        print(f"{word:6} {function.__name__} "
              f"{time.perf_counter() - start:.1f} s", flush=True)
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"device": torch.cuda.get_device_name(),
                       "microseconds": figures, "passed": passed,
                       "failed": failed}, file, indent=1)
    print(f"{passed} passed, {failed} failed")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
