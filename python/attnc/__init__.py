"""attnc: attention kernels for any score function.

    import attnc
    o = attnc.sigmoid_attention(q, k, v, bias=attnc.scores.init_bias(n))

See docs/python.md.
"""

import sys as _sys

from . import _backend, ops, scores
from ._frontend import attention, sigmoid_attention, softmax_attention
from ._library import FINGERPRINT, CompileError, JitForbiddenError
from ._library import VERSION as __version__
from ._trace import TraceError

if hasattr(_sys.modules.get("torch"), "library"):
    _backend.register_torch()

# Imported at first use: they import torch, JAX, transformers or NumPy.
_LAZY = ("nn", "reference", "integrations", "jit", "events", "cache", "config")

__all__ = ["attention", "sigmoid_attention", "softmax_attention", "ops",
           "scores", "nn", "reference", "integrations", "events", "cache",
           "config", "compile", "warmup", "is_supported", "CompileError",
           "JitForbiddenError", "TraceError", "FINGERPRINT"]


def __getattr__(name):
    import importlib
    if name in _LAZY:
        return importlib.import_module("." + name, __name__)
    if name in ("compile", "warmup", "is_supported"):
        value = getattr(importlib.import_module(".jit", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'attnc' has no attribute '{name}'")


def __dir__():
    return sorted(__all__ + ["__version__"])
