"""The callables of `attention`, traced into parts of a Spec."""

import json

from . import _spec, _trace
from ._check import arguments_error

_POSITIONS = [("%b", "i32", "b"), ("%h", "i32", "h"), ("%i", "i32", "i"),
              ("%j", "i32", "j")]
_LENGTHS = [("%ql", "i32"), ("%kl", "i32")]
_OUTPUT = [("%b", "i32", "b"), ("%h", "i32", "h"), ("%i", "i32", "i"),
           ("%d", "i32", "d")]


def prepare(activation, score_mod, mask_mod, normalize, epilogue, lse):
    """(activation's lines, normalize, more fields of the Spec as text, captured
    arrays: see `taken`)."""
    arrays = []
    fields = []
    lines, region = _activation(activation)
    if region is not None and region.captures:
        fields.append(("activation_part", _part(region, arrays)))
    if score_mod is not None:
        count = _count("score_mod", score_mod, (5, 7),
                       "(score, b, h, q_idx, kv_idx), or these and (q_len, "
                       "kv_len)")
        region = _trace.trace(
            score_mod, "score_mod", "m",
            [("%s", "f32")] + _POSITIONS + _LENGTHS[:count - 5], "f32")
        fields.append(("score_mod", _part(region, arrays)))
    if mask_mod is not None:
        _count("mask_mod", mask_mod, (4,), "(b, h, q_idx, kv_idx)")
        region = _trace.trace(mask_mod, "mask_mod", "k", _POSITIONS, "i1")
        fields.append(("mask_mod", _part(region, arrays)))
    if epilogue is not None:
        count = _count("epilogue", epilogue, (5, 6),
                       "(o, b, h, q_idx, d), or these and mean_square")
        region = _trace.trace(
            epilogue, "epilogue", "e", [("%o_d", "f32")] + _OUTPUT
            + [("%mean_square", "f32")][:count - 5], "f32")
        fields.append(("epilogue", _part(region, arrays, count == 6)))
    normalize = _normalize(normalize, lines, lse)
    return lines, normalize, json.dumps(dict(fields)), tuple(arrays)


@_spec.constant
def named(activation, normalize, lse):
    """The same for a name: constants, for a traced call too."""
    return prepare(activation, None, None, normalize, None, lse)


def _count(name, function, counts, expected):
    if not callable(function):
        raise arguments_error(name, "a function", function)
    count = _trace.count_arguments(function)
    if count is None:
        return counts[0]
    if count not in counts:
        raise TypeError(f"argument '{name}': expected a function of "
                        f"{expected}, got one of {count} arguments")
    return count


def _part(region, arrays, statistics=False):
    captures = []
    # One operand a use: the same array may be read by row and by key.
    for array, maps in region.captures:
        name = f"captured{len(arrays)}"
        fixed = tuple(_fixed(at, size) for at, size in zip(maps, array.shape))
        arrays.append((name, array, fixed))
        captures.append([name, [at for at, index in zip(maps, fixed)
                                if index == slice(None)]])
    return {"lines": region.lines, "captures": captures,
            "statistics": statistics}


def _fixed(at, size):
    """How an array is indexed before the call: a constant need not be a dim of
    what the kernel reads, and the gradient is put where it belongs."""
    if _trace._is_number(at) and 0 <= int(at) < size:
        return int(at)
    return slice(None)


def taken(arrays):
    """(name, array) of captured arrays, as kernels read them."""
    return tuple(
        (name, array if all(x == slice(None) for x in fixed)
         else array[fixed + (Ellipsis,)]) for name, array, fixed in arrays)


def _activation(activation):
    """(lines, the traced region if it is a function)."""
    if activation is None or activation == "softmax":
        return None, None
    if isinstance(activation, str):
        from . import scores
        named = scores.NAMED.get(activation)
        if named is None:
            raise arguments_error(
                "activation", "a function or one of "
                + ", ".join(["softmax"] + sorted(scores.NAMED)), activation)
        activation = named
    _count("activation", activation, (1,), "the score")
    region = _trace.trace(activation, "activation", "a", [("%x", "f32")],
                          "f32")
    return tuple(region.lines), region


def _normalize(normalize, lines, lse):
    known = ("none", "l1", "softmax")
    if normalize is None:
        normalize = "softmax" if lines is None else "none"
    if normalize not in known:
        raise arguments_error("normalize", "one of " + ", ".join(known),
                              normalize)
    if (normalize == "softmax") != (lines is None):
        raise arguments_error(
            "normalize", "'softmax' without an activation and 'none' or 'l1' "
            "with one", normalize,
            "pass activation=attnc.ops.exp for exponentials normalised "
            "otherwise")
    if lse and lines is not None:
        raise ValueError("argument 'return_lse': expected False with an "
                         "activation, got True; only softmax has one")
    return normalize
