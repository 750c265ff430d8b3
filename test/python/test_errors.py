"""Bad input: the error names the argument, expected, got, what to try."""

import pathlib

import attnc
import numpy as np
import pytest
from attnc import ops


def x(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


Q = x(2, 4, 8, 16)

CASES = [
    # (arguments in place of the right ones, error, words of the message)
    (dict(q=[1, 2]), TypeError, ["'q'", "array", "list"]),
    (dict(q=x(2, 4, 8)), ValueError, ["'q'", "4 dims", "(2, 4, 8)"]),
    (dict(q=x(2, 4, 8, 16, dtype=np.float64)), TypeError,
     ["'q'", "float32", "float64", "astype"]),
    (dict(q=x(2, 4, 8, 16, dtype=np.int32)), TypeError, ["'q'", "int32"]),
    (dict(k=x(2, 4, 8, 16, dtype=np.float16)), TypeError,
     ["'k'", "float32", "float16"]),
    (dict(v=x(2, 4, 8, 16, dtype=np.float16)), TypeError, ["'v'"]),
    (dict(k=x(3, 4, 8, 16)), ValueError, ["'k'", "2 sequences", "got 3"]),
    (dict(k=x(2, 4, 8, 32)), ValueError, ["'k'", "16 elements", "got 32"]),
    (dict(v=x(2, 4, 9, 16)), ValueError, ["'v'", "8 keys", "got 9"]),
    (dict(v=x(2, 2, 8, 16)), ValueError, ["'v'", "4 heads", "got 2"]),
    (dict(k=x(2, 3, 8, 16), v=x(2, 3, 8, 16)), ValueError,
     ["'k'", "divides", "4", "got 3", "layout"]),
    (dict(k=x(2, 4, 5, 16), v=x(2, 4, 5, 16), causal=True), ValueError,
     ["'causal'", "8", "5", "bottom_right", "top_left"]),
    (dict(k=x(2, 4, 5, 16), v=x(2, 4, 5, 16), window=(1, 1)), ValueError,
     ["corner"]),
    (dict(causal="left"), ValueError, ["'causal'", "bottom_right", "'left'"]),
    (dict(window=3), ValueError, ["'window'", "pair", "3"]),
    (dict(window=(-2, 0)), ValueError, ["'window'", "-1"]),
    (dict(window=(1.5, 0)), ValueError, ["'window'"]),
    (dict(layout="sbhd"), ValueError, ["'layout'", "bshd", "sbhd"]),
    (dict(dropout_p=0.1), NotImplementedError, ["'dropout_p'", "0.1"]),
    (dict(deterministic="yes"), ValueError, ["'deterministic'"]),
    (dict(scale="big"), ValueError, ["'scale'", "number", "big"]),
    (dict(bias="auto"), ValueError, ["'bias'", "per_sequence", "auto"]),
    (dict(bias=None), TypeError, ["'bias'", "init_bias"]),
    (dict(bias=x(3)), ValueError, ["'bias'", "(B, H)", "(3,)"]),
    (dict(bias=x(2, 4, 8, 7)), ValueError, ["'bias'", "(2, 4, 8, 7)"]),
    (dict(bias=x(1, 2, 4, 8, 8)), ValueError, ["'bias'", "4 dims"]),
    (dict(q=x(2, 4, 8, 0), k=x(2, 4, 8, 0)), ValueError,
     ["'q'", "head dim", "at least 1"]),
    (dict(v=x(2, 4, 8, 0)), ValueError, ["'v'", "head dim", "at least 1"]),
    (dict(k=x(2, 4, 8, 16, dtype=">f4")), TypeError, ["'k'", "byte order"]),
    (dict(k=x(2, 4, 8, 16, dtype="f4,i2")["f0"]), ValueError,
     ["'k'", "whole elements of 4 bytes", "6)"]),
    (dict(v=np.ma.masked_greater(x(2, 4, 8, 16), 0)), TypeError,
     ["'v'", "mask would be ignored"]),
    (dict(alibi_slopes=x(4, dtype=">f4")), TypeError,
     ["'alibi_slopes'", "byte order"]),
    (dict(attn_mask=x(8, 8, dtype=np.int64)), TypeError,
     ["'attn_mask'", "booleans", "int64", "!= 0"]),
    (dict(attn_mask=x(3, 1, 8, 8)), ValueError, ["'attn_mask'", "(3, 1, 8, 8)"]),
    (dict(alibi_slopes=x(5)), ValueError, ["'alibi_slopes'", "(5,)"]),
    (dict(kv_len=x(2)), TypeError, ["'kv_len'", "integers", "float32"]),
    (dict(kv_len=np.array([1])), ValueError, ["'kv_len'", "(2,)", "(1,)"]),
    (dict(kv_len=np.array([1, -1])), ValueError,
     ["'kv_len'", "0 to 8", "-1", "sequence 1"]),
    (dict(kv_len=np.array([9, 1], np.int32)), ValueError, ["'kv_len'", "9"]),
    (dict(kv_len=np.array([2 ** 40, 1])), ValueError, ["'kv_len'"]),
    (dict(kv_len=3), TypeError, ["'kv_len'", "(B,)", "got 3", "cut"]),
    (dict(alibi_slopes=0.5), TypeError, ["'alibi_slopes'", "(H,)", "0.5"]),
    (dict(attn_mask=True), TypeError, ["'attn_mask'", "array", "True"]),
    (dict(attn_mask="causal"), TypeError, ["'attn_mask'", "booleans"]),
    (dict(causal=1), ValueError, ["'causal'", "True", "got 1"]),
    (dict(causal=None), TypeError, ["'causal'", "NoneType"]),
    (dict(bias=[0.0] * 4), ValueError, ["'bias'", "array", "numpy.asarray"]),
    (dict(bias=x(2)), ValueError, ["'bias'", "got (2,)", "(B, 1)"]),
    (dict(bias=x(8, 8)), ValueError, ["'bias'", "(8, 8)", "(1, 1, Sq, Sk)"]),
    (dict(attn_mask=x(2, 8) > 0), ValueError,
     ["'attn_mask'", "(2, 8)", "[:, None, None, :]"]),
    (dict(attn_mask=x(2, 8, 8) > 0), ValueError, ["(2, 8, 8)", "(B, 1, Sq"]),
]


@pytest.mark.parametrize("changes,error,words", CASES,
                         ids=lambda c: str(c)[:40])
def test_arguments(changes, error, words):
    arguments = dict(dict(q=Q, k=Q, v=Q, bias=0.0), **changes)
    q, k, v = (arguments.pop(name) for name in "qkv")
    for _ in range(2):  # also when a kernel is there already
        with pytest.raises(error) as caught:
            attnc.sigmoid_attention(q, k, v, **arguments)
        for word in words:
            assert word in str(caught.value)
        attnc.sigmoid_attention(Q, Q, Q, bias=0.0)


def by_name(ids):
    attnc.attention(Q, Q, Q, mask_mod=lambda b, h, i, j: ids[b, i] == ids[b, j])


def through_a_helper():
    table = x(4, 8)
    helper = lambda s, h: s + table[h, 0]
    attnc.attention(Q, Q, Q, score_mod=lambda s, b, h, i, j: helper(s, h))


@pytest.mark.parametrize("call,error,words", [
    (lambda: by_name(np.full((2, 8), 2 ** 31)), ValueError,
     ["captured", "32 bits", "2147483648"]),
    (lambda: by_name(np.full((2, 8), -2 ** 31)), None, []),
    (through_a_helper, TypeError, ["attnc.ops.load(array, index...)"]),
])
def test_captured_arrays(call, error, words):
    if error is None:
        return call()
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value)


def test_bias_is_required():
    with pytest.raises(TypeError, match="bias"):
        attnc.sigmoid_attention(Q, Q, Q)


def masking(s, b, h, q_idx, kv_idx):
    return ops.where(q_idx >= kv_idx, s, -float("inf"))


def branching(s, b, h, q_idx, kv_idx):
    return s if q_idx > kv_idx else 0.0


def builtin(s, b, h, q_idx, kv_idx):
    return max(s, 0.0)


def plain_math(s, b, h, q_idx, kv_idx):
    import math
    return math.exp(s)


def partial_index(s, b, h, q_idx, kv_idx):
    return s + TABLE[h]


def data_dependent(s, b, h, q_idx, kv_idx):
    return s + TABLE[h, INDICES[q_idx]]


def quadratic(s, b, h, q_idx, kv_idx):
    return s + TABLE[h, q_idx * kv_idx]


def unsupported(s, b, h, q_idx, kv_idx):
    return np.arctan(s)


TABLE = np.zeros((4, 8), np.float32)
INDICES = np.zeros(8, np.int32)


@pytest.mark.parametrize("function,error,words", [
    (masking, ValueError, ["score_mod", "-inf", "mask_mod"]),
    (branching, TypeError, ["where"]),
    (builtin, TypeError, ["maximum"]),
    (plain_math, TypeError, ["attnc.ops"]),
    (partial_index, TypeError, ["score_mod", "2 indices", "got 1"]),
    (data_dependent, NotImplementedError, ["affine"]),
    (quadratic, NotImplementedError, ["affine"]),
    (unsupported, NotImplementedError, ["arctan", "op table", "tanh"]),
    (lambda s, b, h, i, j: np.max(s), TypeError, ["'max'", "2 operands"]),
    (lambda s, b, h, i, j: s.mean(), AttributeError, ["'mean'", "attnc.ops"]),
    (lambda s, b, h, i, j: s + TABLE[h, -1], TypeError,
     ["index -1", "(4, 8)", "start"]),
    (lambda s, b, h, i, j: None, TypeError, ["None"]),
    (lambda s, b, h, i, j: "s", TypeError, ["str"]),
    (lambda s: s, TypeError, ["score_mod", "q_idx", "1"]),
    (lambda s, b, h, i, j: s + 2 ** 40 * i, TypeError, ["32 bits"]),
    (lambda s, b, h, i, j: ~s, TypeError, ["~"]),
    ("softcap", ValueError, ["score_mod", "function", "softcap"]),
    (lambda s, b, h, i, j: i >= j, TypeError,
     ["score_mod", "condition", "mask_mod"]),
    (lambda s, b, h, i, j: s + [1.0, 2.0][h], TypeError,
     ["score_mod", "indexing", "load"]),
    (lambda s, b, h, i, j: s + {0: 1.0}[h], TypeError, ["dict", "captured"]),
    (lambda s, b, h, i, j: s + float(f"{s:.3f}"), TypeError,
     ["score_mod", "'.3f'"]),
    (lambda s, b, h, i, j: s + TABLE.T[i, h], AttributeError,
     ["score_mod", "captured array", ".T", "before the call"]),
    (lambda s, b, h, i, j: s + (TABLE * 2)[h, i], TypeError,
     ["(4, 8)", "before the call"]),
    (lambda s, b, h, i, j: s + TABLE[h, abs(i - j)], NotImplementedError,
     ["affine", "arange(1 - n, n)", "q_idx - kv_idx + n - 1"]),
])
def test_untraceable(function, error, words):
    with pytest.raises(error) as caught:
        attnc.attention(Q, Q, Q, score_mod=function)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("function,words", [
    (lambda b, h, i, j: i >= j and i - j < 4, ["mask_mod", "'and'", "&"]),
    (lambda b, h, i, j: 0 <= i - j < 4, ["mask_mod", "&"]),
    (lambda b, h, i, j: TABLE[h, j], ["mask_mod", "float", "> 0"]),
    (lambda s, b, h, i, j: s, ["mask_mod", "(b, h, q_idx, kv_idx)", "5"]),
])
def test_masks_that_are_none(function, words):
    with pytest.raises(TypeError) as caught:
        attnc.attention(Q, Q, Q, mask_mod=function)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("arguments,error,words", [
    (dict(activation="gelu"), ValueError, ["'activation'", "sigmoid", "gelu"]),
    (dict(activation="relu", normalize="softmax"), ValueError, ["l1"]),
    (dict(normalize="l2"), ValueError, ["'normalize'", "l1", "l2"]),
    (dict(normalize="l1"), ValueError, ["'normalize'"]),
    (dict(activation="relu", return_lse=True), ValueError, ["'return_lse'"]),
    (dict(activation=lambda x, y: x), TypeError, ["activation"]),
])
def test_slots(arguments, error, words):
    with pytest.raises(error) as caught:
        attnc.attention(Q, Q, Q, **arguments)
    for word in words:
        assert word in str(caught.value)


def test_a_captured_array_that_is_too_small():
    with pytest.raises(ValueError, match="at least 8 in dim 0.*q_idx.*got 7"):
        small = x(7)
        attnc.attention(Q, Q, Q, score_mod=lambda s, b, h, i, j: s + small[i])


def test_a_traced_value_that_escapes_is_refused():
    kept = []

    def score_mod(s, b, h, q_idx, kv_idx):
        kept.append(s)
        return s

    attnc.attention(Q, Q, Q, score_mod=score_mod)
    with pytest.raises(TypeError, match="outside"):
        kept[0] + 1


def test_no_gpu_here():
    """What a CUDA tensor meets where there is no driver for its GPU."""
    from attnc import _frontend, _prepare, _spec
    if pathlib.Path("/proc/driver/nvidia").exists():
        pytest.skip("there is a driver")
    q = np.ones((1, 1, 4, 64), np.float16)
    spec = _spec.of(_frontend._plain_sigmoid[False, "bhsd"])
    with pytest.raises(NotImplementedError, match="Hopper.*cpu"):
        _prepare.compile_for(spec, (q, q, q, -1.0), "cuda")
