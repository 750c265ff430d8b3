"""What is wrong with a call, in words: argument, expected, got, what to try."""

from . import _backend
from ._trace import dtype_name

_TYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16",
          "int32": "i32", "bool": "i1"}


def arguments_error(name, expected, got, hint="", kind=None):
    shown = repr(got) if isinstance(got, (str, int, float, tuple, list)) else (
        type(got).__name__)
    text = f"argument '{name}': expected {expected}, got {shown}"
    if kind is None:
        kind = ValueError if isinstance(
            got, (str, int, float, tuple, list)) else TypeError
    return kind(text + (f"; {hint}" if hint else ""))


def refuse_dropout(dropout_p):
    raise NotImplementedError(
        f"argument 'dropout_p': expected 0.0, got {dropout_p}; attention "
        "dropout is not implemented (it is never ignored); drop rows of the "
        "output instead")


def check_alignment(causal):
    raise arguments_error("causal", "True, False, 'bottom_right' or "
                          "'top_left'", causal)


def check_numbers(function, scale, bias, sigmoid):
    """scale and bias as floats where they are numbers."""
    # Numbers first: torch.compile has symbols for those that change.
    if isinstance(scale, float):
        pass
    elif scale is not None and (not hasattr(scale, "shape")
                                or _is_host_number(scale)):
        scale = as_float("scale", scale, "a number or an array")
    if bias is None:
        if sigmoid:
            raise TypeError(
                f"argument 'bias' of {function}: expected a number or an "
                "array, got None; attnc.scores.init_bias(n) = -ln n is the "
                "value to start from, with n the key length of training")
    elif bias.__class__ is str:
        if bias != "per_sequence":
            raise arguments_error("bias", "a number, an array or "
                                  "'per_sequence'", bias)
    elif not isinstance(bias, float) and not hasattr(bias, "shape"):
        bias = as_float("bias", bias, "a number or an array")
    return scale, bias


def _is_host_number(array):
    """Of 0 dims, here, and of no gradient: as good as a Python number."""
    library = type(array).__module__.partition(".")[0]
    return array.shape == () and (library == "numpy" or (
        library == "torch" and array.device.type == "cpu"
        and not array.requires_grad and not _backend.is_traced()
        and not _backend.is_transformed(array)))


def as_float(name, value, expected):
    if isinstance(value, bool) or isinstance(value, str):
        raise arguments_error(name, expected, value)
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise arguments_error(
            name, expected, value, "make it an array, for example with "
            "numpy.asarray(...)" if isinstance(value, (list, tuple)) else ""
        ) from None


# What is an array, whatever the caller's library, and what it means.
_ARRAYS = {
    "kv_len": "integers of shape (B,), one length a sequence",
    "alibi_slopes": "numbers of shape (H,) or (B, H), one slope a head",
    "attn_mask": "booleans (True = attend) or floats (added) that broadcast "
                 "to (B, H, Sq, Sk)",
}


def check_array(name, value):
    if isinstance(value, (bool, int, float, str)):
        raise arguments_error(
            name, "an array of " + _ARRAYS[name], value,
            "for one length of all sequences cut k and v there"
            if name == "kv_len" else "", TypeError)


# --- operands against each other ----------------------------------------------

def type_of(name, array, allowed):
    """The IR's name of the element type, one of `allowed`."""
    found = _TYPES.get(dtype_name(array))
    if found not in allowed:
        names = [n for n, t in _TYPES.items() if t in allowed]
        raise TypeError(
            f"argument '{name}': expected elements of {' or '.join(names)}, "
            f"got {dtype_name(array)}; convert it, for example "
            f"{_conversion(array, names[0])}")
    return found


def check_memory(name, array):
    """What a NumPy array may be, and one of others not."""
    if hasattr(array, "mask"):
        raise TypeError(
            f"argument '{name}': expected an array without a mask, got a "
            "masked array, whose mask would be ignored; pass .filled(0), and "
            "what shall not be attended as attn_mask or kv_len")
    if any(stride % array.itemsize for stride in array.strides):
        raise ValueError(
            f"argument '{name}': expected strides that are whole elements of "
            f"{array.itemsize} bytes, got {array.strides}; pass a copy")
    if not array.dtype.isnative:
        raise TypeError(
            f"argument '{name}': expected elements in this machine's byte "
            f"order, got dtype {array.dtype.str!r}; convert it, for example "
            f"{_conversion(array, dtype_name(array))}")


def _conversion(array, dtype):
    if hasattr(array, "requires_grad"):
        return f"with .to(torch.{dtype})"
    return f"with .astype('{dtype}')"


def check_query(q, k, v, layout):
    """Ranks, types and sizes of q, k and v; gives (B, Hq, Sq, Sk)."""
    order = "(B, H, S, D)" if layout == "bhsd" else "(B, S, H, D)"
    for name, array in (("q", q), ("k", k), ("v", v)):
        if not hasattr(array, "shape") or not hasattr(array, "dtype"):
            raise TypeError(f"argument '{name}': expected an array, got "
                            f"{type(array).__name__}")
        if len(array.shape) != 4:
            raise ValueError(
                f"argument '{name}': expected 4 dims {order}, got shape "
                f"{tuple(array.shape)}; add a dim of size 1 for what is "
                "missing")
    h, s = (1, 2) if layout == "bhsd" else (2, 1)
    found = type_of("q", q, ("f32", "f16", "bf16"))
    for name, array in (("k", k), ("v", v)):
        if dtype_name(array) != dtype_name(q):
            raise TypeError(
                f"argument '{name}': expected elements of {dtype_name(q)} as "
                f"in q, got {dtype_name(array)}; convert one of them")
        _same(name, array, 0, q.shape[0], "sequences (dim 0) as in q")
    if q.shape[3] == 0:
        raise ValueError(f"argument 'q': expected a head dim (dim 3) of at "
                         f"least 1, got shape {tuple(q.shape)}")
    if v.shape[3] == 0:
        raise ValueError(f"argument 'v': expected a head dim (dim 3) of at "
                         f"least 1, got shape {tuple(v.shape)}")
    _same("k", k, 3, q.shape[3], "elements (dim 3) as in q")
    _same("v", v, s, k.shape[s], f"keys (dim {s}) as in k")
    _same("v", v, h, k.shape[h], f"heads (dim {h}) as in k")
    heads, kv_heads = q.shape[h], k.shape[h]
    if (heads % kv_heads if kv_heads else heads) != 0:
        raise ValueError(
            f"argument 'k': expected a number of heads (dim {h}) that divides "
            f"the {heads} of q, got {kv_heads}; "
            f"is the layout {layout} right? its order is {order}")
    return found, (q.shape[0], heads, q.shape[s], k.shape[s])


def _same(name, array, dim, expected, what):
    if array.shape[dim] != expected:
        raise ValueError(f"argument '{name}': expected {expected} {what}, got "
                         f"{array.shape[dim]} (shape {tuple(array.shape)})")


def check_ordered(rows, keys):
    if rows > keys:
        raise ValueError(
            f"argument 'causal': with more queries ({rows}) than keys ({keys}) "
            "the diagonal's corner must be stated; pass causal='bottom_right' "
            "(the last query sees all keys) or 'top_left' (as torch's "
            "is_causal)")


def check_broadcast(name, shape, sizes, letters):
    """That a shape broadcasts to `sizes`, which `letters` name."""
    if len(shape) > len(sizes):
        raise ValueError(
            f"argument '{name}': expected at most {len(sizes)} dims {letters}, "
            f"got shape {tuple(shape)}")
    for got, size in zip(shape, sizes[len(sizes) - len(shape):]):
        if got != 1 and got != size:
            hint = _broadcast_hint(name, tuple(shape), tuple(sizes))
            raise ValueError(
                f"argument '{name}': expected a shape that broadcasts to "
                f"{letters} = {tuple(sizes)}, got {tuple(shape)}"
                + (f"; {hint}" if hint else ""))


def _broadcast_hint(name, shape, sizes):
    """What a shape that does not fit was probably meant to be."""
    if len(shape) == 1 and len(sizes) == 2 and shape[0] == sizes[0]:
        return "for one a sequence add a dim: shape (B, 1)"
    if len(shape) == 2 and len(sizes) == 2 and name == "bias":
        return ("two dims are (B, H); add dims for positions: shape (1, 1, Sq, "
                "Sk)")
    if len(shape) == 2 and len(sizes) == 4 and shape == (sizes[0], sizes[3]):
        return ("for keys of each sequence add dims: shape (B, 1, 1, Sk), as "
                f"{name}[:, None, None, :]")
    if len(shape) == 3 and len(sizes) == 4 and shape[0] == sizes[0]:
        return "for one of each sequence add a dim of heads: shape (B, 1, Sq, Sk)"
    return ""


def check_lengths(name, lengths, batch, limit, values=None):
    if tuple(lengths.shape) != (batch,):
        raise ValueError(
            f"argument '{name}': expected shape ({batch},), one length a "
            f"sequence, got {tuple(lengths.shape)}")
    if values is not None:
        for b, value in enumerate(values):
            if not 0 <= value <= limit:
                raise ValueError(
                    f"argument '{name}': expected lengths from 0 to {limit}, "
                    f"the number of keys, got {value} for sequence {b}")


_MEANINGS = {"B": "b", "H": "h", "I": "q_idx", "J": "kv_idx", "E": "d"}


def check_captured(shape, letters, sizes):
    for dim, (got, letter) in enumerate(zip(shape, letters)):
        if letter and got < sizes[letter]:
            raise ValueError(
                f"a captured array of shape {tuple(shape)}: expected at least "
                f"{sizes[letter]} in dim {dim}, which {_MEANINGS[letter]} "
                f"indexes, got {got}")
