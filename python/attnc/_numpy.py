"""NumPy arrays, and arrays of other libraries through DLPack, on the host."""

import numpy

from . import _check, _prepare, _spec
from ._library import call

_PLAIN = (numpy.ndarray, float, int)
_DTYPES = {1: "float32", 2: "float16", 4: "int32", 5: "bool"}


def _new(shape, dtype):
    return numpy.empty(shape, _dtype(dtype))


def _dtype(code):
    if code == 3:
        import ml_dtypes  # whoever passes bfloat16 arrays has it
        return ml_dtypes.bfloat16
    return _DTYPES[code]


def check(text, q, k, v, rest):
    _prepared(_spec.of(text), (q, k, v) + rest)


def run(text, q, k, v, rest):
    spec = _spec.of(text)
    operands = (q, k, v) + rest
    # Of other classes more than their memory may matter.
    if all(type(x) in _PLAIN for x in operands):
        try:
            result = call(spec.table, operands, _new)
        except ValueError:
            _prepared(spec, operands)  # says of which argument
            raise
        if result is not NotImplemented:
            return result
    operands = _prepared(spec, operands)
    result = call(spec.table, operands, _new)
    if result is NotImplemented:
        _prepare.compile_for(spec, operands)
        result = call(spec.table, operands, _new)
    if result is NotImplemented:
        raise ValueError("the arrays do not fit together: "
                         + ", ".join(str(getattr(x, "shape", x))
                                     for x in operands))
    return result


def _prepared(spec, operands):
    operands = [_host_array(x) for x in operands]
    for name, x in zip(["q", "k", "v"] + spec.slots, operands):
        if isinstance(x, numpy.ndarray):
            _check.check_memory(_prepare._public(name), x)
    for at, (name, x) in enumerate(zip(spec.slots, operands[3:])):
        if not isinstance(x, (int, float)):
            if not hasattr(x, "dtype"):
                operands[3 + at] = x = numpy.asarray(x)
            wanted = _prepare.wanted_type(name, x)
            if wanted:
                if wanted == "int32" and x.dtype.itemsize > 4 and x.size:
                    _prepare.check_wide(name, x.min(), x.max())
                operands[3 + at] = x.astype(wanted)
    _prepare.check(spec, operands, lambda x: numpy.asarray(x).tolist())
    return tuple(operands)


def _host_array(x):
    if isinstance(x, numpy.generic):
        return numpy.asarray(x)
    if isinstance(x, (numpy.ndarray, int, float)):
        return x
    if hasattr(x, "__dlpack__"):
        return numpy.from_dlpack(x)
    return x
