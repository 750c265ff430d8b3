"""The functions users call: arguments become a Spec and its operands.

A warm call takes the short way: the flags find the Spec, the extension finds
the kernel and runs it. Checks that need words are in _check.py, and run when
the short way does not know the operands.
"""

import json

from . import _backend
from ._check import (arguments_error, check_alignment, check_array,
                     check_numbers, refuse_dropout)
from ._trace import _unboxed
from . import _spec

# The lines of a region of %x for activations that have a name.
_SIGMOID = ("%p = attn.logistic %x : f32", "attn.yield %p : f32")

_texts: dict = {}
_ready = _backend.ready


class settings:
    """See attnc.config."""

    schedule = ""


@_spec.constant
def _text(flags):
    """The Spec text of `flags`, which are plain constants."""
    text = _texts.get(flags)
    if text is None:
        text = _texts[flags] = _make_text(*flags)
    return text



def _make_text(activation, normalize, causal, layout, lse, ordered, bias, names,
               kinds, extra):
    fields = json.loads(extra) if extra else {}
    return _spec.make(
        activation=activation, normalize=normalize, causal=causal,
        window="window_left" in names, bias=bias, layout=layout, lse=lse,
        ordered=ordered, operands=list(zip(names, kinds)), **fields)


def _plain_texts(activation, normalize, kind, names):
    """The texts of calls without further arguments, by (causal, layout)."""
    return {(causal, layout): _text((
        activation, normalize, {True: "bottom_right", False: ""}.get(
            causal, causal), layout, False, causal is True, kind, names,
        ("scalar",) * len(names), ""))
        for causal in (False, True, "bottom_right", "top_left")
        for layout in ("bhsd", "bshd")}


_plain_sigmoid = _plain_texts(_SIGMOID, "none", "value", ("bias",))
_plain_softmax = _plain_texts(None, "softmax", "", ())


def sigmoid_attention(q, k, v, *, bias, scale=None, causal=False, window=None,
                      alibi_slopes=None, attn_mask=None, kv_len=None,
                      layout="bhsd", deterministic=False, dropout_p=0.0):
    """sum_j sigmoid(scale q_i.k_j + bias) v_j, the weights not normalised.

    q is (B, Hq, Sq, D), k (B, Hkv, Sk, D), v (B, Hkv, Sk, Dv), or with S before
    H for layout="bshd"; Hkv divides Hq. `bias` is a number, a 0-d array, one of
    shape (H,), (B, H) or broadcastable to (B, H, Sq, Sk), or "per_sequence" for
    -ln of each sequence's key length; attnc.scores.init_bias(n) = -ln n is the
    value to start training from. `causal` is True, "bottom_right" or
    "top_left"; `window` is (left, right), -1 for unlimited; a boolean
    `attn_mask` is True where a query attends, a float one is added; `kv_len`
    has each sequence's number of keys. `scale` is 1 / sqrt(D) by default: a
    number, or an array of 0 dims, (H,) or (B, H).
    """
    if (scale is window is alibi_slopes is attn_mask is kv_len is None
            and bias.__class__ is float and deterministic is False
            and (causal.__class__ is bool or causal.__class__ is str)
            and not dropout_p and dropout_p is not None
            and not settings.schedule and _ready()):
        run = _backend.RUN.get(q.__class__)
        text = _plain_sigmoid.get((causal, layout))
        if run is not None and text is not None:
            return run(text, q, k, v, (bias,))
    return _run(q, k, v, _SIGMOID, "none", bias, scale, causal, window,
                alibi_slopes, attn_mask, kv_len, layout, False, deterministic,
                dropout_p, "sigmoid_attention")


def softmax_attention(q, k, v, *, bias=None, scale=None, causal=False,
                      window=None, alibi_slopes=None, attn_mask=None,
                      kv_len=None, layout="bhsd", return_lse=False,
                      deterministic=False, dropout_p=0.0):
    """Softmax attention with the arguments of sigmoid_attention.

    With return_lse=True gives (output, lse): lse is f32, (B, H, Sq), the
    natural logarithm of the sum of exp of the logits; -inf for a row without
    keys, whose output is 0.
    """
    if (scale is window is alibi_slopes is attn_mask is kv_len is bias is None
            and deterministic is return_lse is False
            and (causal.__class__ is bool or causal.__class__ is str)
            and not dropout_p and dropout_p is not None
            and not settings.schedule and _ready()):
        run = _backend.RUN.get(q.__class__)
        text = _plain_softmax.get((causal, layout))
        if run is not None and text is not None:
            return run(text, q, k, v, ())
    return _run(q, k, v, None, "softmax", bias, scale, causal, window,
                alibi_slopes, attn_mask, kv_len, layout, return_lse,
                deterministic, dropout_p, "softmax_attention")


def attention(q, k, v, *, activation=None, score_mod=None, mask_mod=None,
              normalize=None, epilogue=None, bias=None, scale=None,
              causal=False, window=None, alibi_slopes=None, attn_mask=None,
              kv_len=None, layout="bhsd", return_lse=False,
              deterministic=False, dropout_p=0.0):
    """Attention with your own functions, fused into one kernel.

        s = score_mod(scale q_i.k_j, b, h, q_idx, kv_idx)
        p = activation(s), or softmax over j;  0 where mask_mod is false
        o = epilogue(sum_j p v_j / norm, b, h, q_idx, d)

    The functions are plain Python: operators, attnc.ops, torch's or NumPy's
    functions of the same names, and elements of arrays that they refer to
    (`table[h, q_idx - kv_idx]`). score_mod and mask_mod are as FlexAttention's;
    a score_mod with two more parameters also gets q_len and kv_len, an epilogue
    with one more the mean square of its row. `activation` may be a name of
    attnc.scores. `normalize` is "softmax" without an activation; else "none" or
    "l1". Other arguments: see sigmoid_attention.
    """
    from . import _callables
    if score_mod is mask_mod is epilogue is None and (
            activation is None or isinstance(activation, str)):
        lines, normalize, extra, arrays = _callables.named(
            activation, normalize, return_lse)
    elif _backend.is_traced():
        raise NotImplementedError(
            "attnc.attention traces its functions anew at each call, which "
            "torch.compile cannot follow; make f = attnc.compile(score_mod=..., "
            "...) outside of the compiled function and call f(q, k, v) in it")
    else:
        lines, normalize, extra, arrays = _callables.prepare(
            activation, score_mod, mask_mod, normalize, epilogue, return_lse)
    return _run(q, k, v, lines, normalize, bias, scale, causal, window,
                alibi_slopes, attn_mask, kv_len, layout, return_lse,
                deterministic, dropout_p, "attention", extra,
                _callables.taken(arrays))


def _run(q, k, v, activation, normalize, bias, scale, causal, window, slopes,
         mask, kv_len, layout, lse, deterministic, dropout_p, function,
         extra="", arrays=()):
    if dropout_p:
        refuse_dropout(dropout_p)
    if scale is not None and scale.__class__ is not float:
        scale = _backend.as_operand(q, scale)
    if bias is not None and bias.__class__ is not float:
        bias = _backend.as_operand(q, bias)
    names = kinds = rest = ()
    kind = ""
    if scale is not None or bias is not None:
        scale, bias = check_numbers(function, scale, bias, sigmoid=activation
                                    is _SIGMOID)
    elif activation is _SIGMOID:
        check_numbers(function, scale, bias, sigmoid=True)
    if scale is not None:
        kinds = ("scalar" if isinstance(scale, float) else "tensor",)
        names, rest = ("scale",), (scale,)
    if kv_len is not None:
        check_array("kv_len", kv_len)
        names += ("k_len",)
        kinds += ("tensor",)
        rest += (kv_len,)
    if bias is not None:
        if isinstance(bias, float):
            kind = "value"
            names += ("bias",)
            kinds += ("scalar",)
            rest += (bias,)
        elif bias.__class__ is str:
            kind = bias
        else:
            kind = "value"
            names += ("bias",)
            kinds += ("tensor",)
            rest += (bias,)
    if slopes is not None:
        check_array("alibi_slopes", slopes)
        names += ("slopes",)
        kinds += ("tensor",)
        rest += (slopes,)
    if mask is not None:
        check_array("attn_mask", mask)
        names += ("mask",)
        kinds += ("tensor",)
        rest += (mask,)
    if window is not None:
        left, right = _window(window)
        names += ("window_left", "window_right")
        kinds += ("scalar", "scalar")
        rest += (left, right)
    if arrays:
        names += tuple(name for name, _ in arrays)
        kinds += ("tensor",) * len(arrays)
        rest += tuple(array for _, array in arrays)
    if causal is not True and causal is not False and (
            causal.__class__ is not str):
        causal = _flag(causal)
    # A diagonal without a stated corner needs at most as many queries as keys.
    ordered = causal is True or (window is not None and not causal)
    if causal is True:
        causal = "bottom_right"
    elif causal is False:
        causal = ""
    elif causal not in ("bottom_right", "top_left"):
        check_alignment(causal)
    if layout != "bhsd" and layout != "bshd":
        raise arguments_error("layout", "'bhsd' or 'bshd'", layout)
    if deterministic is not False and deterministic is not True:
        raise arguments_error("deterministic", "True or False", deterministic)
    if settings.schedule:
        extra = _with(extra, "schedule", settings.schedule)
    if deterministic:
        extra = _with(extra, "deterministic", True)
    flags = (activation, normalize, causal, layout, lse, ordered, kind, names,
             kinds, extra)
    run = _backend.RUN.get(q.__class__) if _ready() else None
    if run is None:
        run = _backend.resolve(q)
    if dropout_p is None:  # a dry run
        run = _backend.check_only(q)
    return run(_text(flags), q, k, v, rest)


@_spec.constant
def _with(extra, name, value):
    return json.dumps({name: value, **json.loads(extra or "{}")})


def dry_run(function, q, k, v, arguments):
    """All checks of a call, without the call."""
    if arguments.pop("dropout_p", 0.0):
        refuse_dropout(0.1)
    globals()[function](q, k, v, dropout_p=None, **arguments)


def _flag(value):
    """NumPy's booleans are as good as Python's."""
    value = _unboxed(value)
    if not isinstance(value, bool):
        check_alignment(value)
    return value


def _window(window):
    try:
        left, right = window
    except (TypeError, ValueError):
        raise arguments_error("window", "a pair (left, right)", window,
                              "for example window=(128, 0)") from None
    left, right = _unboxed(left), _unboxed(right)
    for value in (left, right):
        if not isinstance(value, int) or value < -1:
            raise arguments_error(
                "window", "two integers of -1 or more", window, "-1 stands for "
                "unlimited; under jax.jit they must be static")
    return left, right
