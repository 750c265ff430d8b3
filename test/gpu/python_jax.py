#!/usr/bin/env python3
"""The Python package's JAX side on this machine's GPU.

    PYTHONPATH=python python3 python_jax.py

Ends with `N passed, N failed`; says so if this JAX sees no GPU. Compared with
attnc.reference.attention in float64 on the host.
"""

import math
import os
import sys
import tempfile
import time
import traceback

os.environ.setdefault("ATTNC_CACHE_DIR", os.path.join(
    tempfile.mkdtemp(prefix="attnc-gpu-"), "cache"))
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np

import attnc
from attnc import reference

BOUNDS = {"bfloat16": 6e-3, "float16": 1e-3}
tests = []


def test(function):
    tests.append(function)
    return function


def arrays(B=2, H=4, S=300, D=128, Hkv=None, dtype=jnp.bfloat16):
    return [jax.random.normal(jax.random.key(n), shape).astype(dtype)
            for n, shape in enumerate(((B, H, S, D), (B, Hkv or H, S, D),
                                       (B, Hkv or H, S, D)))]


def wide(x):
    return np.asarray(x).astype(np.float64)


def error(got, want):
    assert got.shape == want.shape
    return np.linalg.norm(wide(got) - want) / np.linalg.norm(want)


def check(q, k, v, function=attnc.attention, **arguments):
    got = function(q, k, v, **arguments)
    assert isinstance(got, jax.Array) and got.dtype == q.dtype
    assert {d.platform for d in got.devices()} == {"gpu"}
    want = reference.attention(wide(q), wide(k), wide(v), **{
        name: wide(x) if isinstance(x, jax.Array) and x.dtype != int else x
        for name, x in arguments.items()})
    found = error(got, want)
    assert found <= BOUNDS[str(q.dtype)], found


@test
def dtypes_and_head_dims():
    for dtype in (jnp.bfloat16, jnp.float16):
        for d in (64, 128):
            rows = arrays(D=d, dtype=dtype)
            check(*rows, activation="sigmoid", bias=-math.log(300))
            check(*rows, causal=True)


@test
def arguments():
    rows = arrays(Hkv=2)
    check(*rows, activation="sigmoid", bias=jnp.full((4,), -5.0))
    check(*rows, kv_len=np.array([5, 300], np.int32))
    check(*[x.swapaxes(1, 2) for x in rows], layout="bshd", window=(64, 0),
          causal=True)
    odd = arrays(D=68)  # rows that are no multiple of 16 bytes
    check(*odd, causal=True)


@test
def jit_and_vmap():
    q, k, v = arrays()
    want = attnc.softmax_attention(q, k, v, causal=True)
    whole = jax.jit(lambda q, k, v: attnc.softmax_attention(
        q + 0, k, v, causal=True) * 1)
    for _ in range(3):
        assert jnp.array_equal(whole(q, k, v), want)
    got = jax.vmap(lambda q: attnc.softmax_attention(q, k, v, causal=True))(
        jnp.stack([q, q]))
    assert jnp.array_equal(got[1], want)


@test
def in_a_loop():
    """Queued without waiting, between other work on the same stream."""
    q, k, v = arrays()

    @jax.jit
    def steps(q):
        return jax.lax.fori_loop(0, 20, lambda n, x: attnc.sigmoid_attention(
            x, k, v, bias=-5.0, causal=True) + q, q)

    @jax.jit
    def step(x):
        return attnc.sigmoid_attention(x, k, v, bias=-5.0, causal=True) + q

    want = q
    for _ in range(20):
        want = step(want)
    assert jnp.array_equal(steps(q), want)


@test
def gradients():
    """Against JAX's derivative of a plain formula in f32 on the GPU."""
    q, k, v = arrays(S=128, D=64)
    weight = jax.random.normal(jax.random.key(7), q.shape)

    def plain(q, k, v, sigmoid):
        q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
        s = jnp.einsum("bhid,bhjd->bhij", q, k,
                       precision=jax.lax.Precision.HIGHEST) / 8
        p = jax.nn.sigmoid(s - 5.0) if sigmoid else jax.nn.softmax(s)
        return jnp.einsum("bhij,bhjd->bhid", p, v,
                          precision=jax.lax.Precision.HIGHEST)

    for sigmoid in (True, False):
        def loss(q, k, v):
            out = (attnc.sigmoid_attention(q, k, v, bias=-5.0) if sigmoid
                   else attnc.softmax_attention(q, k, v))
            return (out * weight).sum()

        got = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(q, k, v)
        want = jax.grad(lambda *a: (plain(*a, sigmoid) * weight).sum(),
                        argnums=(0, 1, 2))(*(x.astype(jnp.float32)
                                             for x in (q, k, v)))
        for a, b in zip(got, want):
            assert error(a, wide(b)) <= 1e-2, error(a, wide(b))


@test
def bias_gradient():
    q, k, v = arrays(S=128, D=64)
    bias = jnp.full((4,), -5.0)

    def loss(bias, q, k, v):
        return (attnc.sigmoid_attention(q, k, v, bias=bias).astype(
            jnp.float32) ** 2).sum()

    def plain(bias, q, k, v):
        s = jnp.einsum("bhid,bhjd->bhij", q, k,
                       precision=jax.lax.Precision.HIGHEST) / 8
        p = jax.nn.sigmoid(s + bias[:, None, None])
        return (jnp.einsum("bhij,bhjd->bhid", p, v, precision=jax.lax.Precision
                           .HIGHEST) ** 2).sum()

    want = jax.grad(plain)(bias, *(x.astype(jnp.float32) for x in (q, k, v)))
    found = error(jax.jit(jax.grad(loss))(bias, q, k, v), wide(want))
    assert found <= 1e-2, found


@test
def several_devices():
    count = len(jax.devices())
    if count < 2:
        return "only one GPU"
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("x",))
    q, k, v = arrays()
    for spec in (("x",), (None, "x")):
        sharding = jax.sharding.NamedSharding(
            mesh, jax.sharding.PartitionSpec(*spec))
        got = jax.jit(attnc.softmax_attention)(
            *(jax.device_put(x, sharding) for x in (q, k, v)))
        assert got.sharding == sharding
        assert np.array_equal(wide(got), wide(attnc.softmax_attention(q, k, v)))


@test
def bad_input():
    q, k, v = arrays()
    for change, kind in ((dict(q=q.astype(jnp.float32), k=k.astype(
            jnp.float32), v=v.astype(jnp.float32)), Exception),
                         (dict(v=v[:, :, :5]), ValueError)):
        try:
            attnc.softmax_attention(**{**dict(q=q, k=k, v=v), **change})
        except kind as error:
            print("  ", type(error).__name__, str(error)[:200])
        else:
            raise AssertionError("accepted")


def call_us():
    q, k, v = arrays(B=1, H=1, S=64, D=64)
    for name, function in {
            "sigmoid_attention, jitted": jax.jit(
                lambda *a: attnc.sigmoid_attention(*a, bias=-4.0)),
            "a sum, jitted": jax.jit(lambda q, k, v: q + k + v)}.items():
        function(q, k, v).block_until_ready()
        start = time.perf_counter()
        for _ in range(500):
            out = function(q, k, v)
        out.block_until_ready()
        print(f"  {name:42} "
              f"{(time.perf_counter() - start) / 500 * 1e6:6.2f} us")


def main():
    devices = jax.devices()
    print("jax", jax.__version__, devices)
    if devices[0].platform != "gpu":
        print("JAX sees no GPU here: is jax-cuda13-plugin installed?")
        print("0 passed, 1 failed")
        return 1
    passed = failed = 0
    for function in tests:
        start = time.perf_counter()
        try:
            word = function() or "ok"
            passed += 1
        except Exception:
            failed += 1
            word = "FAILED"
            traceback.print_exc(limit=6)
        print(f"{word:6} {function.__name__} "
              f"{time.perf_counter() - start:.1f} s", flush=True)
    if not failed:
        call_us()
    print(f"{passed} passed, {failed} failed")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
