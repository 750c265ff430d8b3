"""JAX on the CPU: typed FFI, jit, vmap, two devices."""

import functools
import os

os.environ["XLA_FLAGS"] = (os.environ.get("XLA_FLAGS", "")
                           + " --xla_force_host_platform_device_count=2")

import attnc
import numpy as np
import pytest
from attnc import reference

jax = pytest.importorskip("jax")
jnp = jax.numpy
P = jax.sharding.PartitionSpec

q, k, v = (jax.random.normal(jax.random.key(n), (2, 4, 37, 32))
           for n in range(3))
table = jax.random.normal(jax.random.key(3), (4, 80))


def close(got, expected, bound=1e-6):
    got = np.asarray(got, np.float64)
    assert got.shape == expected.shape
    assert np.array_equal(np.isinf(got), np.isinf(expected))
    got, expected = (np.nan_to_num(x, posinf=0, neginf=0)
                     for x in (got, expected))
    assert np.linalg.norm(got - expected) <= bound * np.linalg.norm(expected)


def test_eager():
    got = attnc.sigmoid_attention(q, k, v, bias=-2.0, causal=True)
    assert isinstance(got, jax.Array)
    close(got, reference.attention(q, k, v, activation="sigmoid", bias=-2.0,
                                   causal=True))


def test_jit_with_traced_operands():
    function = jax.jit(lambda q, b, n: attnc.softmax_attention(
        q, k, v, bias=b, kv_len=n, window=(3, 1), return_lse=True))
    bias, lengths = np.arange(4.0), np.array([20, 37])
    out, lse = function(q, jnp.asarray(bias), jnp.asarray(lengths))
    want, want_lse = reference.attention(q, k, v, bias=bias, kv_len=lengths,
                                         window=(3, 1), return_lse=True)
    close(out, want)
    close(lse, want_lse)


def test_layout_groups_and_halves():
    rows = [x.swapaxes(1, 2) for x in (q, k[:, :2], v[:, :2])]
    close(attnc.softmax_attention(*rows, layout="bshd"),
          reference.attention(*rows, layout="bshd"))
    half = [x.astype(jnp.bfloat16) for x in (q, k, v)]
    got = attnc.softmax_attention(*half)
    assert got.dtype == jnp.bfloat16
    close(got, reference.attention(*half), 6e-3)


def test_callables():
    close(attnc.attention(q, k, v, activation="relu", score_mod=lambda s, b, h,
                          i, j: s + table[h, i - j + 40]),
          reference.attention(q, k, v, activation="relu", score_mod=lambda s, b,
                              h, i, j: s + np.asarray(table)[h, i - j + 40]))


@pytest.mark.parametrize("function", [jnp.tanh, lambda x: jnp.where(x, x, 0)])
def test_functions_of_jax_are_refused(function):
    x = np.ones((1, 1, 4, 8), np.float32)
    with pytest.raises(TypeError, match="activation: .* attnc.ops"):
        attnc.attention(x, x, x, activation=function)


def test_vmap():
    lengths = jnp.array([[4, 30], [37, 1]])
    bias = jnp.arange(8.0).reshape(2, 4)
    got = jax.jit(jax.vmap(lambda n, b: attnc.softmax_attention(
        q, k, v, kv_len=n, bias=b)))(lengths, bias)
    for n in range(2):
        close(got[n], reference.attention(
            q, k, v, kv_len=np.asarray(lengths[n]), bias=np.asarray(bias[n])))
    got = jax.vmap(jax.vmap(lambda a: attnc.softmax_attention(a, k, v)))(
        jnp.stack([jnp.stack([q, 2 * q])] * 2))
    close(got[1, 1], reference.attention(2 * q, k, v))


@pytest.mark.parametrize("spec", [P("x"), P(None, "x")],
                         ids=["batch", "heads"])
def test_two_devices(spec):
    assert len(jax.devices()) == 2
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
    function = jax.jit(jax.shard_map(
        lambda *a: attnc.softmax_attention(*a), mesh=mesh, in_specs=spec,
        out_specs=spec))
    close(function(q, k, v), reference.attention(q, k, v))


# --- sharded under jit: nothing is gathered -----------------------------------

mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))


def on_mesh(x, *spec):
    return jax.device_put(x, jax.sharding.NamedSharding(mesh, P(*spec)))


def run_sharded(function, *arguments):
    compiled = jax.jit(function).lower(*arguments).compile()
    text = compiled.as_text()
    assert "attnc_run" in text
    assert "all-gather" not in text and "all-to-all" not in text, text
    return compiled(*arguments)


def equal(got, expected):
    np.testing.assert_array_equal(np.asarray(got), np.asarray(expected))


@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("split", ["batch", "heads"])
def test_sharded_jit_equals_unsharded(split, groups, layout):
    rows = [q, k[:, :groups], v[:, :groups]]
    bias, lengths = jnp.arange(8.0).reshape(2, 4), jnp.array([20, 37])
    head = 1 if layout == "bhsd" else 2
    if layout == "bshd":
        rows = [x.swapaxes(1, 2) for x in rows]
    spec = ("x",) if split == "batch" else (None,) * head + ("x",)
    specs = [spec, spec if groups > 1 or split == "batch" else ()] * 2
    specs[2] = specs[1]

    def function(q, k, v, bias, lengths):
        return attnc.softmax_attention(
            q, k, v, bias=bias, kv_len=lengths, layout=layout, causal=True,
            return_lse=True)

    sharded = [on_mesh(x, *s) for x, s in zip(rows, specs)]
    out, lse = run_sharded(function, *sharded, on_mesh(bias), on_mesh(lengths))
    want, want_lse = function(*rows, bias, lengths)
    equal(out, want)
    equal(lse, want_lse)
    assert out.sharding.spec == P(*spec)


@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("split", ["batch", "heads"])
def test_sharded_gradients(split, groups):
    """Those of what all shards read are summed over them."""
    spec = ("x",) if split == "batch" else (None, "x")
    shared = () if groups == 1 and split == "heads" else spec
    rows = [q, k[:, :groups], v[:, :groups]]
    bias = jnp.arange(4.0) - 3

    def gradients(*arguments):
        return jax.grad(lambda q, k, v, b: (attnc.sigmoid_attention(
            q, k, v, bias=b) ** 2).sum(), argnums=(0, 1, 2, 3))(*arguments)

    got = run_sharded(gradients, on_mesh(q, *spec), on_mesh(rows[1], *shared),
                      on_mesh(rows[2], *shared), on_mesh(bias))
    for a, b in zip(got, gradients(*rows, bias)):
        close(a, np.asarray(b, np.float64))
    assert got[0].sharding.spec == P(*spec)


def test_what_counts_heads_is_not_split_by_them():
    def function(q):
        return attnc.attention(q, k, v, score_mod=lambda s, b, h, i, j:
                               s - h * abs(i - j) / 8 + table[h, i])

    got = jax.jit(function)(on_mesh(q, None, "x"))
    equal(got, function(q))
    equal(run_sharded(function, on_mesh(q, "x")), function(q))


def test_vmap_refuses_what_counts_sequences():
    with pytest.raises(NotImplementedError, match="fold"):
        jax.vmap(lambda q: attnc.attention(
            q, k, v, score_mod=lambda s, b, h, i, j: s - b))(jnp.stack([q, q]))


def test_second_order_is_refused():
    def loss(q):
        return attnc.softmax_attention(q, k, v).sum()

    with pytest.raises(NotImplementedError, match="first-order.*reference"):
        jax.grad(lambda q: jax.grad(loss)(q).sum())(q)


def test_vmap_refuses_captured_arrays():
    tables = jnp.stack([jnp.zeros((4, 300))] * 2)
    with pytest.raises(NotImplementedError, match="captures an array.*fold"):
        jax.vmap(lambda table: attnc.attention(
            q, k, v, score_mod=lambda s, b, h, i, j: s + table[h, j]))(tables)


def test_errors():
    with pytest.raises(ValueError, match="'kv_len'.*300"):
        attnc.softmax_attention(q, k, v, kv_len=jnp.array([4, 300]))
    with pytest.raises(TypeError, match="'q'.*int32"):
        attnc.softmax_attention(q.astype(int), k, v)
    with pytest.raises(ValueError, match="'v'"):
        jax.jit(attnc.softmax_attention)(q, k, v[:, :, :5])
    with pytest.raises(TypeError, match="'causal'.*True"):
        jax.jit(lambda c: attnc.softmax_attention(q, k, v, causal=c))(True)
    with pytest.raises(ValueError, match="'window'.*static"):
        jax.jit(lambda w: attnc.softmax_attention(q, k, v, window=(w, 0)))(3)


# --- gradients ----------------------------------------------------------------

def torch_gradients(inputs, weight, **arguments):
    torch = pytest.importorskip("torch")
    wide = [torch.tensor(np.asarray(x, np.float64), requires_grad=True)
            for x in inputs]
    given = dict(zip(("bias",), wide[3:]))
    out = reference.attention(*wide[:3], **given, **arguments)
    return [x.numpy() for x in torch.autograd.grad(
        out, wide, torch.tensor(np.asarray(weight, np.float64)))]


@pytest.mark.parametrize("activation", ["sigmoid", None])
@pytest.mark.parametrize("jit", [jax.jit, lambda f: f], ids=["jit", "eager"])
def test_gradients(activation, jit):
    # A softmax does not depend on a head's bias: one for each key.
    bias = jnp.arange(4.0) - 3 if activation else jnp.arange(37.0).reshape(
        1, 1, 1, 37) / 10
    weight = jax.random.normal(jax.random.key(7), q.shape)

    def loss(q, k, v, bias):
        out = attnc.attention(q, k, v, activation=activation, bias=bias,
                              causal=True)
        return (out * weight).sum()

    got = jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(q, k, v, bias)
    want = torch_gradients([q, k, v, bias], weight, activation=activation,
                           causal=True)
    for a, b in zip(got, want):
        close(a, b, 2e-6)


def test_gradients_of_some_and_under_vmap():
    lengths = jnp.array([9, 37])

    def loss(q, bias):
        return attnc.sigmoid_attention(q, k, v, bias=bias, kv_len=lengths).sum()

    many = jnp.stack([q, 2 * q])
    biases = jnp.stack([jnp.arange(4.0), jnp.ones(4)])
    got = jax.vmap(jax.grad(loss, argnums=(0, 1)))(many, biases)
    for n in range(2):
        want = jax.grad(loss, argnums=(0, 1))(many[n], biases[n])
        for a, b in zip(got, want):
            close(a[n], np.asarray(b, np.float64))


def test_gradients_through_the_lse():
    sinks = jnp.arange(4.0)[:, None]
    weight = jax.random.normal(jax.random.key(7), q.shape)

    def loss(q, k, v, sinks):
        out, lse = attnc.softmax_attention(q, k, v, causal=True,
                                           return_lse=True)
        return (out * weight * jax.nn.sigmoid(lse - sinks)[..., None]).sum()

    # The sink is one more key, of which nothing is added.
    def apart(q, k, v, sinks):
        s = jnp.einsum("bhid,bhjd->bhij", q, k) / q.shape[-1] ** 0.5
        s = jnp.where(jnp.tril(jnp.ones(s.shape[2:], bool),
                               s.shape[3] - s.shape[2]), s, -jnp.inf)
        p = jax.nn.softmax(jnp.concatenate([s, jnp.broadcast_to(
            sinks[..., None], s.shape[:3] + (1,))], -1))[..., :-1]
        return (jnp.einsum("bhij,bhjd->bhid", p, v) * weight).sum()

    for a, b in zip(jax.jit(jax.grad(loss, (0, 1, 2, 3)))(q, k, v, sinks),
                    jax.grad(apart, (0, 1, 2, 3))(q, k, v, sinks)):
        close(a, np.asarray(b, np.float64), 1e-5)

    def alone(q):
        return attnc.softmax_attention(q, k, v, return_lse=True)[1].sum()

    got = jax.grad(alone)(q)
    want = jax.grad(lambda q: jax.nn.logsumexp(jnp.einsum(
        "bhid,bhjd->bhij", q, k) / q.shape[-1] ** 0.5, -1).sum())(q)
    close(got, np.asarray(want, np.float64), 1e-5)


def test_epilogue_statistic_gradients():
    gain = jnp.linspace(0.5, 2, v.shape[-1])

    def fused(q, k, v, gain):
        return attnc.attention(
            q, k, v, activation="sigmoid", epilogue=lambda o, b, h, i, d, square:
            o * attnc.ops.rsqrt(square + 1e-2) * gain[d])

    def apart(q, k, v, gain):
        out = attnc.attention(q, k, v, activation="sigmoid")
        return out * jax.lax.rsqrt((out ** 2).mean(-1, keepdims=True) + 1e-2
                                   ) * gain

    def loss(*inputs, attention):
        return (attention(*inputs) ** 3).sum()

    for a, b in zip(
            jax.jit(jax.grad(functools.partial(loss, attention=fused),
                             (0, 1, 2, 3)))(q, k, v, gain),
            jax.grad(functools.partial(loss, attention=apart),
                     (0, 1, 2, 3))(q, k, v, gain)):
        close(a, np.asarray(b, np.float64), 1e-5)


def test_epilogue_gradients():
    gate = jax.random.normal(jax.random.key(5), q.shape)

    def loss(q, gate, attention):
        return (attention(q, gate) ** 2).sum()

    def fused(q, gate):
        return attnc.attention(q, k, v, causal=True, epilogue=lambda o, b, h, i,
                               d: o * attnc.ops.sigmoid(gate[b, h, i, d]))

    def apart(q, gate):
        return attnc.softmax_attention(q, k, v, causal=True) * jax.nn.sigmoid(
            gate)

    for a, b in zip(jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)(
            q, gate, fused), jax.grad(loss, (0, 1))(q, gate, apart)):
        close(a, np.asarray(b, np.float64), 2e-6)
