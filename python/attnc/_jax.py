"""JAX arrays: one typed FFI handler of the extension, jit, vmap."""

import functools

import jax
import jax.numpy as jnp
import numpy

from . import _attnc, _fold, _prepare, _spec

_TARGET = "attnc_run"
jax.ffi.register_ffi_target(_TARGET, _attnc.xla_handler, platform="cpu")


def check(text, q, k, v, rest):
    _prepared(_spec.of(text), (q, k, v) + rest)


def run(text, q, k, v, rest):
    operands = _prepared(_spec.of(text), (q, k, v) + rest)
    scalars = tuple(float(x) for x in operands if isinstance(x, (int, float)))
    arrays = [x for x in operands if not isinstance(x, (int, float))]
    results = _function(text, scalars)(*arrays)
    return results[0] if len(results) == 1 else results


def _prepared(spec, given):
    operands = [_array(x) for x in given]
    for at, (name, x) in enumerate(zip(spec.slots, operands[3:])):
        if not isinstance(x, (int, float)):
            wanted = _prepare.wanted_type(name, x)
            if wanted:
                operands[3 + at] = x.astype(wanted)
    _prepare.check(spec, operands, _values)
    return operands


def _array(x):
    return x if isinstance(x, (int, float)) else jnp.asarray(x)


def _values(x):
    """The numbers of an array, where they are known."""
    return None if isinstance(x, jax.core.Tracer) else numpy.asarray(x).tolist()


@functools.lru_cache(maxsize=4096)
def _function(text, scalars):
    """(q, k, v, arrays) -> results, which jit and vmap know."""
    spec = _spec.of(text)

    @jax.custom_batching.custom_vmap
    def function(*arrays):
        return _call(spec, scalars, arrays)

    @function.def_vmap
    def _(n, mapped, *arrays):
        dims = [0 if is_mapped else None for is_mapped in mapped]
        results = function(*_fold.fold(spec, n, arrays, dims, jnp.moveaxis,
                                       jnp.broadcast_to, jnp.reshape))
        results = tuple(x.reshape((n, -1) + x.shape[1:]) for x in results)
        return results, tuple(True for _ in results)

    return jax.jit(function)


def _narrowed(spec, arrays):
    """Captured arrays may be larger than what is read of them."""
    q, k, v = arrays[:3]
    h, s = (1, 2) if spec.layout == "bhsd" else (2, 1)
    sizes = dict(B=q.shape[0], H=q.shape[h], I=q.shape[s], J=k.shape[s],
                 E=v.shape[3])
    names = [name for name, kind in spec.operands if kind == "tensor"]
    return tuple(
        x[tuple(slice(sizes.get(letter)) for letter in spec.maps[name])]
        if name in spec.maps else x for name, x in zip(names, arrays[3:]))


def _call(spec, scalars, arrays):
    tensors, numbers = iter(arrays[3:]), iter(scalars)
    operands = list(arrays[:3]) + [
        next(tensors if kind == "tensor" else numbers)
        for _, kind in spec.operands]
    arrays = arrays[:3] + _narrowed(spec, arrays)
    ir, slots = _spec.write(spec, _prepare.operand_types(spec, operands))
    dims = "".join("s," if slot is None else
                   "".join(str(source) for source, _ in slot) + ","
                   for slot in slots)
    q, v = arrays[0], arrays[2]
    shapes = [jax.ShapeDtypeStruct(q.shape[:3] + v.shape[3:], q.dtype)]
    if spec.lse:
        rows = q.shape[:3] if spec.layout == "bhsd" else (
            q.shape[0], q.shape[2], q.shape[1])
        shapes.append(jax.ShapeDtypeStruct(rows, jnp.float32))
    call = jax.ffi.ffi_call(_TARGET, tuple(shapes))
    return tuple(call(*arrays, ir=ir, dims=dims, scalars=numpy.array(
        scalars or (0.0,), numpy.float32)))
