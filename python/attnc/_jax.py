"""JAX arrays: one typed FFI handler of the extension, jit, vmap, gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy

from . import _attnc, _check, _fold, _prepare, _sharding, _spec
from ._library import Kernel

_TARGET = "attnc_run"
jax.ffi.register_ffi_target(_TARGET, _attnc.xla_handler, platform="cpu")
jax.ffi.register_ffi_target(_TARGET, _attnc.xla_gpu_handler, platform="CUDA")


def check(text, q, k, v, rest):
    _prepared(_spec.of(text), (q, k, v) + rest)


def run(text, q, k, v, rest):
    operands = _prepared(_spec.of(text), (q, k, v) + rest)
    device = _device(operands[0])
    if device is not None and device.platform == "gpu":
        _compile_ahead(text, device.local_hardware_id, tuple(
            (str(x.dtype), x.shape) if hasattr(x, "dtype") else None
            for x in operands))
    scalars = tuple(float(x) for x in operands if isinstance(x, (int, float)))
    arrays = [x for x in operands if not isinstance(x, (int, float))]
    results = _differentiable(text, scalars)(*arrays)
    return results[0] if len(results) == 1 else results


def _prepared(spec, given):
    operands = [_array(x) for x in given]
    for at, (name, x) in enumerate(zip(spec.slots, operands[3:])):
        if not isinstance(x, (int, float)):
            wanted = _prepare.wanted_type(name, x)
            if wanted:
                operands[3 + at] = x.astype(wanted)
    _prepare.check(spec, operands, _values)
    return _narrowed(spec, operands)


def _array(x):
    return x if isinstance(x, (int, float)) else jnp.asarray(x)


def _values(x):
    """The numbers of an array, where they are known without waiting."""
    device = _device(x)
    if device is None or device.platform != "cpu":
        return None
    return numpy.asarray(x).tolist()


def _device(x):
    """The first that has an array; None: not known yet."""
    if isinstance(x, jax.core.Tracer):
        return None
    return min(x.devices(), key=lambda device: device.id)


@functools.lru_cache(maxsize=4096)
def _compile_ahead(text, device, types):
    """So that what cannot be compiled is an exception of the call, and not of
    whoever waits for its result."""
    spec = _spec.of(text)
    operands = [_spec.Operand(*((_check._TYPES[x[0]], x[1]) if x else
                                ("f32", None))) for x in types]
    ir, slots = _spec.write(spec, operands)
    size = 4 if types[0][0] == "float32" else 2
    rows = [shape[-1] * size % 16 for _, shape in types[:3]]
    Kernel(ir, slots, target="cuda", device=device, any_layout=any(rows))


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


def _narrowed(spec, operands):
    """Captured arrays may be larger than what is read of them."""
    q, k, v = operands[:3]
    h, s = (1, 2) if spec.layout == "bhsd" else (2, 1)
    sizes = dict(B=q.shape[0], H=q.shape[h], I=q.shape[s], J=k.shape[s],
                 E=v.shape[3])
    return operands[:3] + [
        x[tuple(slice(sizes.get(letter)) for letter in spec.maps[name])]
        if name in spec.maps else x
        for name, x in zip(spec.slots, operands[3:])]


def _call(spec, scalars, arrays):
    rows = [arrays[0].dtype]
    types = rows + [jnp.float32] * spec.lse + rows * spec.before
    return _ffi_call(spec, scalars, arrays, types)


def _ffi_call(spec, scalars, arrays, types):
    """The results, of element types `types`, of the Spec's program."""
    operands = _operands(spec, arrays, scalars)
    ir, slots = _spec.write(spec, _prepare.operand_types(spec, operands))
    dims = [slot for slot in slots if slot is not None]
    attributes = dict(
        ir=ir, dims="".join(_digits(slot) + "," for slot in slots),
        scalars=numpy.array(scalars or (0.0,), numpy.float32))

    def call(*arrays):
        results = _result_shapes(arrays, types, dims)
        return tuple(jax.ffi.ffi_call(_TARGET, results)(*arrays, **attributes))

    return _sharding.partitioned(
        call, spec, arrays, _result_shapes(arrays, types, dims), dims)(*arrays)


def _digits(slot):
    return "s" if slot is None else "".join(str(source) for source, _ in slot)


def _result_shapes(arrays, types, dims):
    """As the sizes of the arrays' dims make them, whole or of shards."""
    sizes = {letter.lower(): x.shape[source]
             for x, own in zip(arrays, dims) for source, letter in own}
    shapes = []
    for dtype, own in zip(types, dims[len(arrays):]):
        at = {source: sizes[letter] for source, letter in own}
        shapes.append(jax.ShapeDtypeStruct(
            tuple(at[k] for k in range(len(at))), dtype))
    return tuple(shapes)


def _operands(spec, arrays, scalars):
    tensors, numbers = iter(arrays[3:]), iter(scalars)
    return list(arrays[:3]) + [
        next(tensors if kind == "tensor" else numbers)
        for _, kind in spec.operands]


# --- gradients ----------------------------------------------------------------

def _without_gradient(function):
    """A part of a gradient, which says so when it is differentiated itself."""
    @jax.custom_jvp
    def part(*arrays):
        return function(*arrays)

    @part.defjvp
    def _(primals, tangents):
        raise NotImplementedError(
            "attnc has first-order gradients only; use "
            "attnc.reference.attention for the second")

    return part


@functools.lru_cache(maxsize=4096)
def _differentiable(text, scalars):
    spec = _spec.of(text)
    names = ["query", "key", "value"] + [
        name for name, kind in spec.operands if kind == "tensor"]

    @jax.custom_vjp
    def function(*arrays):
        return _function(text, scalars)(*arrays)

    def forward(*primals):
        arrays = tuple(primal.value for primal in primals)
        results = _without_gradient(
            _function(_spec.for_training(text), scalars))(*arrays)
        wanted = {name: None for name, primal in zip(names, primals)
                  if primal.perturbed
                  and jnp.issubdtype(primal.value.dtype, jnp.floating)}
        training = _spec.of(_spec.for_training(text))
        saved = ()
        if training.before:
            saved, results = results[:-1], results[-1:] + results[1:-1]
        elif spec.activation is None:
            saved = results
        return results[:1 + spec.lse], (arrays, saved, wanted)

    def backward(residuals, cotangents):
        arrays, saved, wanted = residuals
        wanted = tuple(name for name in names if name in wanted)
        given = [not isinstance(x, jax.custom_derivatives.SymbolicZero)
                 for x in cotangents]
        if not wanted or not any(given):
            return (None,) * len(arrays)
        through_lse = any(given[1:])
        doutput, *dlse = (
            x if exists else jnp.zeros(x.shape, x.dtype)
            for x, exists in zip(cotangents[:1 + through_lse], given))
        found = iter(_gradients(text, wanted, scalars, through_lse)(
            *arrays, *saved, *dlse, doutput))
        return tuple(next(found).reshape(x.shape) if name in wanted else None
                     for name, x in zip(names, arrays))

    function.defvjp(forward, backward, symbolic_zeros=True)
    return function


@functools.lru_cache(maxsize=4096)
def _gradients(text, wanted, scalars, through_lse):
    """(arrays, saved, the LSE's gradient if there is one, doutput) -> the
    gradients of the wanted operands."""
    spec = _spec.of(_spec.backward(text, wanted, through_lse))
    count = 3 + sum(kind == "tensor" for _, kind in spec.operands)

    @jax.custom_batching.sequential_vmap
    def gradients(*arrays):
        operands = _operands(spec, arrays[:count], scalars)
        types = [x.dtype for name, x in zip(
            ["query", "key", "value"] + spec.slots, operands)
            if name in spec.gradient]
        return _ffi_call(spec, scalars, arrays, types)

    return _without_gradient(gradients)
