"""Every argument on NumPy arrays, against float64."""

import math

import attnc
import numpy as np
import pytest
from attnc import ops, reference

rng = np.random.default_rng(0)


def arrays(B=2, H=4, Sq=37, D=32, Hkv=None, Sk=None, Dv=None,
           dtype=np.float32):
    Hkv, Sk, Dv = Hkv or H, Sk or Sq, Dv or D
    return [rng.standard_normal(shape).astype(dtype) for shape in
            ((B, H, Sq, D), (B, Hkv, Sk, D), (B, Hkv, Sk, Dv))]


def close(got, expected, dtype=np.float32):
    error = np.linalg.norm(got.astype(np.float64) - expected)
    bound = {2: 2e-3, 4: 1e-6}[np.dtype(dtype).itemsize]
    assert got.shape == expected.shape
    assert got.dtype == dtype
    assert error <= bound * np.linalg.norm(expected) + 1e-30


def check(function="attention", q=None, k=None, v=None, **arguments):
    if q is None:
        q, k, v = arrays()
    got = getattr(attnc, function)(q, k, v, **arguments)
    if function == "sigmoid_attention":
        arguments["activation"] = "sigmoid"
    expected = reference.attention(q, k, v, **arguments)
    if arguments.get("return_lse"):
        close(got[1], expected[1])
        got, expected = got[0], expected[0]
    close(got, expected, q.dtype)


BIASES = {
    "int": -3, "float": -2.5, "numpy scalar": np.float32(-2),
    "numpy double": np.float64(-2), "0-d": np.full((), -2, np.float32),
    "heads": rng.standard_normal(4).astype(np.float32),
    "double": rng.standard_normal(4),
    "sequences and heads": rng.standard_normal((2, 4)),
    "sequences": rng.standard_normal((2, 1)),
    "keys": rng.standard_normal((2, 1, 1, 37)),
    "rows": rng.standard_normal((1, 4, 37, 1)),
    "matrix": rng.standard_normal((1, 37, 37)),
    "full": rng.standard_normal((2, 4, 37, 37)),
    "half": rng.standard_normal((2, 4)).astype(np.float16),
    "per_sequence": "per_sequence",
}


@pytest.mark.parametrize("bias", BIASES.values(), ids=BIASES.keys())
def test_bias(bias):
    check("sigmoid_attention", bias=bias)


def test_per_sequence_bias_follows_key_lengths():
    check("sigmoid_attention", bias="per_sequence",
          kv_len=np.array([5, 37], np.int32))


@pytest.mark.parametrize("function", ["sigmoid_attention",
                                      "softmax_attention"])
@pytest.mark.parametrize("arguments", [
    dict(scale=0.3), dict(causal=True), dict(causal="top_left"),
    dict(window=(5, 2)), dict(window=(-1, 0)), dict(window=(3, -1)),
    dict(causal=True, window=(4, 0)),
    dict(alibi_slopes=np.array([.5, .25, .1, .05], np.float32)),
    dict(alibi_slopes=np.ones((2, 4), np.float32), causal=True),
    dict(kv_len=np.array([11, 37], np.int32)),
    dict(kv_len=np.array([0, 30]), causal=True),
    dict(kv_len=[3, 4]),
    dict(attn_mask=rng.random((37, 37)) < .7),
    dict(attn_mask=rng.random((2, 1, 1, 37)) < .7),
    dict(attn_mask=rng.standard_normal((2, 4, 37, 37))),
], ids=lambda a: ",".join(a))
def test_arguments(function, arguments):
    if function == "sigmoid_attention":
        arguments = dict(arguments, bias=-math.log(37))
    if isinstance(arguments.get("kv_len"), list):
        arguments = dict(arguments, kv_len=np.array(arguments["kv_len"]))
    check(function, **arguments)


@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
@pytest.mark.parametrize("shape", [
    dict(Hkv=1), dict(Hkv=2, Sk=50), dict(Sq=1, Sk=70), dict(Dv=16),
    dict(D=64, Sq=130), dict(D=20), dict(D=1, Sq=3), dict(Sq=50, Sk=20)])
def test_shapes(layout, shape):
    q, k, v = arrays(**shape)
    if layout == "bshd":
        q, k, v = (np.ascontiguousarray(x.swapaxes(1, 2)) for x in (q, k, v))
    check("sigmoid_attention", q, k, v, bias=-1.0, layout=layout)
    check("softmax_attention", q, k, v, layout=layout, return_lse=True)


def test_half():
    q, k, v = arrays(dtype=np.float16)
    check("sigmoid_attention", q, k, v, bias=-2.0)


def test_bfloat16_of_ml_dtypes():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    q, k, v = (x.astype(ml_dtypes.bfloat16) for x in arrays())
    got = attnc.softmax_attention(q, k, v)
    assert got.dtype == ml_dtypes.bfloat16
    expected = reference.attention(q, k, v)
    error = np.linalg.norm(got.astype(np.float64) - expected)
    assert error < 1e-2 * np.linalg.norm(expected)


def test_strides_are_not_copied_away():
    q, k, v = arrays(Sq=40)
    flipped = q[:, ::-1, ::2]
    check("softmax_attention", flipped, k[:, :, ::2], v[:, :, ::2])
    packed = rng.standard_normal((2, 40, 3, 4, 32)).astype(np.float32)
    check("softmax_attention", *(packed[:, :, n] for n in range(3)),
          layout="bshd")
    check("softmax_attention", q, np.broadcast_to(k[:1], k.shape), v)


def test_rows_beyond_a_length_do_not_matter():
    q, k, v = arrays()
    kv_len = np.array([10, 20], np.int32)
    first = attnc.sigmoid_attention(q, k, v, bias=-1.0, kv_len=kv_len)
    for b, n in enumerate(kv_len):
        k[b, :, n:] = np.nan
        v[b, :, n:] = np.inf
    second = attnc.sigmoid_attention(q, k, v, bias=-1.0, kv_len=kv_len)
    assert np.array_equal(first, second)


@pytest.mark.parametrize("shape", [dict(B=0), dict(Sq=0, Sk=0)])
def test_empty(shape):
    q, k, v = (np.zeros((shape.get("B", 2), 4, shape.get("Sq", 9), 32),
                        np.float32) for _ in range(3))
    out, lse = attnc.softmax_attention(q, k, v, return_lse=True)
    assert out.shape == q.shape and lse.shape == q.shape[:3]


def test_no_keys_give_zeros():
    q = np.ones((1, 2, 3, 8), np.float32)
    k = np.ones((1, 2, 0, 8), np.float32)
    out, lse = attnc.softmax_attention(q, k, k, return_lse=True)
    assert (out == 0).all() and (lse == -np.inf).all()


# --- callables ----------------------------------------------------------------

TABLE = rng.standard_normal((4, 80)).astype(np.float32)
DOCUMENTS = rng.integers(0, 3, (2, 37))


def relative(s, b, h, q_idx, kv_idx):
    return s + TABLE[h, q_idx - kv_idx + 40]


def softcap(s, b, h, q_idx, kv_idx):
    return 20 * ops.tanh(s / 20)


def distance(s, b, h, q_idx, kv_idx, q_len, kv_len):
    return s - 0.1 * ops.abs(q_idx + kv_len - q_len - kv_idx) * (h + 1)


def chained(s, b, h, q_idx, kv_idx):
    near = ops.abs(q_idx - kv_idx) < 5
    return ops.where(near, s * 2, ops.minimum(s, 1.0)) + (b - h) / 4


@pytest.mark.parametrize("score_mod", [relative, softcap, distance, chained])
@pytest.mark.parametrize("activation", [None, "sigmoid", "relu2"])
def test_score_mod(score_mod, activation):
    check(score_mod=score_mod, activation=activation)


def same_document(b, h, q_idx, kv_idx):
    return DOCUMENTS[b, q_idx] == DOCUMENTS[b, kv_idx]


def sparse(b, h, q_idx, kv_idx):
    return (q_idx >= kv_idx) & ((q_idx // 4 - kv_idx // 4) % 3 != 1) | (
        kv_idx == 0)


def negative_floor(b, h, q_idx, kv_idx):
    return ((kv_idx - q_idx) // 3 + (kv_idx - q_idx) % 5) % 2 == 0


def test_captured_arrays_may_be_larger():
    q, k, v = arrays(Sq=20, Sk=30)
    check(q=q, k=k, v=v, mask_mod=same_document, score_mod=lambda s, b, h, i, j:
          s + TABLE[h, i] + TABLE[h, j])


FLAGS = rng.random((2, 37)) < 0.5
SMALL = DOCUMENTS.astype(np.uint8)


def flagged(b, h, q_idx, kv_idx):
    return FLAGS[b, kv_idx] | (FLAGS[b, q_idx] == (h < 2))


def small_documents(b, h, q_idx, kv_idx):
    return SMALL[b, q_idx] == SMALL[b, kv_idx]


def counted_flags(s, b, h, q_idx, kv_idx):
    """Conditions add up to a condition, as NumPy adds them."""
    return s * ((q_idx > kv_idx) + (kv_idx < 9)) + FLAGS[b, kv_idx] * 2.0


def test_flags_in_a_score_mod():
    check(score_mod=counted_flags)


@pytest.mark.parametrize("mask_mod", [
    same_document, sparse, negative_floor, flagged, small_documents])
def test_mask_mod(mask_mod):
    check(mask_mod=mask_mod)
    check(mask_mod=mask_mod, activation="sigmoid", bias=-2, causal=True)


def cubic(x):
    return x ** 3 / 37


@pytest.mark.parametrize("activation", [
    "sigmoid", "relu", "relu2", "silu", "softplus", "tanh", "exp", "identity",
    cubic, lambda x: 1 / (1 + ops.exp(-x)), lambda x: ops.erf(x) + 1.0])
def test_activation(activation):
    check(activation=activation)


def test_l1():
    check(activation="softplus", normalize="l1")


GATE = rng.standard_normal((2, 4, 37, 32)).astype(np.float32)


def gate(o, b, h, q_idx, d):
    return o * ops.sigmoid(GATE[b, h, q_idx, d])


def rms_norm(o, b, h, q_idx, d, mean_square):
    return o * ops.rsqrt(mean_square + 1e-6)


@pytest.mark.parametrize("epilogue", [gate, rms_norm])
def test_epilogue(epilogue):
    check(epilogue=epilogue, activation="relu")


@pytest.mark.parametrize("name", sorted(
    n for n in ops._NUMBERS if n not in ("compare",)))
def test_every_op(name):
    """One function of the op table inside a kernel, against its own array
    version."""
    arity = {"select": 3, "fma": 3}.get(name) or (
        2 if name in ("add", "sub", "mul", "div", "min", "max", "pow") else 1)
    function = getattr(ops, name)

    def score_mod(s, b, h, q_idx, kv_idx):
        x = ops.minimum(ops.abs(s), 1.5) + 0.5
        if name == "select":
            return ops.select(s > 0, s, 2 * s)
        return function(*[x, 1.25, -0.5][:arity])

    check(score_mod=score_mod)


@pytest.mark.parametrize("function", [np.floor, np.ceil])
def test_rounding_of_what_no_integer_holds(function):
    check(score_mod=lambda s, b, h, i, j: function(s * 2.0 ** 40) * 2.0 ** -40)


def test_a_program_serves_all_sizes():
    q, k, v = arrays(Sq=4, D=24)
    attnc.softmax_attention(q, k, v, scale=0.1)
    before = attnc._attnc.counters()["compiles"]
    for n in range(5, 55):
        q, k, v = arrays(B=1 + n % 2, H=2 + n % 3, Sq=n, D=24)
        check("softmax_attention", q, k, v, scale=1 / n)
    assert attnc._attnc.counters()["compiles"] == before
