"""The long way of a call: checks, conversions, and the kernel if it is new."""

from . import _check, _spec
from ._library import CompileError, Kernel, key
from ._trace import dtype_name

_FLOATS = ("f32", "f16", "bf16")


def check(spec, arrays, values_of=None):
    """Checks (q, k, v, *rest). `values_of` gives a host array's numbers."""
    q, k, v = arrays[:3]
    _, sizes = _check.check_query(q, k, v, spec.layout)
    batch, heads, rows, keys = sizes
    if spec.ordered:
        _check.check_ordered(rows, keys)
    for name, x in zip(spec.slots, arrays[3:]):
        shape = getattr(x, "shape", None)
        if isinstance(x, (int, float)):
            continue
        if shape is None:
            raise TypeError(f"argument '{_public(name)}': expected an array, "
                            f"got {type(x).__name__}")
        if name == "k_len":
            _check.check_lengths("kv_len", x, batch, keys,
                                 values_of(x) if values_of else None)
        elif name == "bias":
            small = len(shape) <= 2
            _check.check_broadcast("bias", shape, sizes[:2] if small else sizes,
                                   "(B, H)" if small else "(B, H, Sq, Sk)")
        elif name in ("slopes", "scale"):
            _check.check_broadcast(_public(name), shape, sizes[:2], "(B, H)")
        elif name == "mask":
            _check.check_broadcast("attn_mask", shape, sizes, "(B, H, Sq, Sk)")
        elif name in spec.maps:
            _check.check_captured(shape, spec.maps[name], dict(zip(
                "BHIJE", sizes + (v.shape[3],))))


def _public(name):
    return {"k_len": "kv_len", "slopes": "alibi_slopes",
            "mask": "attn_mask"}.get(name, name)


def wanted_type(name, array):
    """The element type to convert to, or None: lengths and whole numbers are
    32 bits wide, other floats than ours are f32."""
    found = dtype_name(array)
    if name == "mask" and found.startswith(("int", "uint")):
        raise TypeError(f"argument 'attn_mask': expected booleans (True = "
                        f"attend) or floats (added), got {found}; for one of "
                        "zeros and ones pass attn_mask != 0")
    if name == "k_len":
        if not found.startswith(("int", "uint")):
            raise TypeError(f"argument 'kv_len': expected integers, got "
                            f"{found}; convert it to int32")
        return None if found == "int32" else "int32"
    if found in ("float32", "float16", "bfloat16", "int32", "bool"):
        if name in ("bias", "scale", "slopes") and found in ("int32", "bool"):
            return "float32"
        return None
    if found == "float64":
        return "float32"
    if found in ("int64", "int16", "int8", "uint8", "uint16"):
        return "float32" if name in ("bias", "scale", "slopes") else "int32"
    raise TypeError(f"argument '{_public(name)}': expected numbers or booleans,"
                    f" got elements of {found}")


def check_wide(name, low, high):
    """Numbers of 64 bits must not become others in 32."""
    for number in (low, high):
        if not -2 ** 31 <= number < 2 ** 31:
            what = "a captured array" if name.startswith("captured") else (
                f"argument '{_public(name)}'")
            raise ValueError(
                f"{what}: expected whole numbers that 32 bits hold, got "
                f"{number}; count what they stand for from 0")


def operand_types(spec, arrays):
    """_spec.Operand for each of (q, k, v, *rest)."""
    types = []
    for x in arrays[:3 + len(spec.slots)]:
        if isinstance(x, (int, float)):
            types.append(_spec.Operand("f32", None))
        else:
            types.append(_spec.Operand(_check._TYPES[dtype_name(x)],
                                       tuple(x.shape)))
    return types


def compile_for(spec, arrays, target="cpu", device=0):
    """Adds the kernel for operands like these to the Spec's table."""
    ir, slots = _spec.write(spec, operand_types(spec, arrays))
    lengths = spec.slots.index("k_len") + 3 if "k_len" in spec.slots else -1
    where = key(tuple(arrays))
    try:
        kernel = Kernel(ir, slots, target=target, schedule=spec.schedule or None,
                        ordered=spec.ordered, lengths=lengths, device=device,
                        any_layout=where[0])
    except CompileError as error:
        _, found, why = str(error).partition("gradient of capture ")
        if not (spec.gradient and found):
            raise
        raise NotImplementedError(
            "a captured array wants a gradient that there is not: "
            f"{why.partition(': ')[2]}; read it at b, h, q_idx and kv_idx, or at "
            "q_idx - kv_idx + constant in one of its dims, or pass it detached "
            "(.detach()) where it is not learned") from None
    spec.table[where] = kernel
    return kernel


def gradient_shapes(spec, arrays):
    """(name, shape) of each gradient: an operand's, without dims of size 1
    where that broadcasts."""
    writer = _spec._Writer(spec, operand_types(spec, arrays))
    names = ["query", "key", "value"] + spec.slots
    return [(name, tuple(x.shape) if name in names[:3] else
             tuple(x.shape[k] for _, k in writer._kept(name, x.shape)))
            for name, x in zip(names, arrays) if name in spec.gradient]
