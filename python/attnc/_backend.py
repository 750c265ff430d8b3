"""Which library an array is of, without importing one that is not there."""

import sys

from . import _spec

RUN: dict = {}  # type of q -> run(text, q, k, v, rest)


def resolve(q):
    """The `run` for arrays like q."""
    root = type(q).__module__.partition(".")[0]
    if "torch" in sys.modules and _is_torch(q):
        from . import _torch
        # A trace must not change what the next one finds.
        if _torch.is_compiling():
            return _torch.run
        run = _torch.run
    elif root in ("jax", "jaxlib"):
        from . import _jax
        return _jax.run
    elif root == "numpy":
        from . import _numpy
        run = _numpy.run
    elif hasattr(q, "__dlpack__"):
        from . import _numpy
        return _numpy.run
    else:
        raise TypeError(
            "argument 'q': expected an array of NumPy, torch, JAX or another "
            f"library with DLPack, got {type(q).__name__}; convert it, for "
            "example with numpy.asarray(q, numpy.float32)")
    RUN[type(q)] = run
    return run


def check_only(q):
    """A `run` that makes the checks of a call and no more."""
    if "torch" in sys.modules and _is_torch(q):
        from . import _torch
        return _torch.check
    if type(q).__module__.partition(".")[0] in ("jax", "jaxlib"):
        from . import _jax
        return _jax.check
    from . import _numpy
    return _numpy.check


def is_traced():
    """Whether torch.compile traces this."""
    torch = sys.modules.get("torch")
    return (torch is not None and hasattr(torch, "compiler")
            and torch.compiler.is_dynamo_compiling())


def is_transformed(tensor):
    """Whether a transform of torch.func sees other numbers in it."""
    torch = sys.modules["torch"]
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def as_operand(q, number):
    """While torch.compile traces: a number that changes from call to call is a
    symbol, which an op takes for a constant, and a tensor does not."""
    if isinstance(number, (int, float)) and not (
            number.__class__ is float or number.__class__ is int
            or number.__class__ is bool) and is_traced():
        torch = sys.modules["torch"]
        return torch.ones((), dtype=torch.float32,
                          device=q.device) * number
    return number


def _is_torch(q):
    return isinstance(q, sys.modules["torch"].Tensor)


def register_torch():
    """Before the first call, so that a compiled one need not be redone."""
    from . import _torch
    torch = sys.modules["torch"]
    RUN[torch.Tensor] = RUN[torch.nn.Parameter] = _torch.run


@_spec.constant
def ready():
    """The same where torch was imported later. A trace runs this for what it
    does, and looks into RUN afterwards, where nothing changes any more."""
    torch = sys.modules.get("torch")
    if torch and hasattr(torch, "library") and torch.Tensor not in RUN:
        register_torch()
    return True
