"""Types of the package; arrays are those of any library with DLPack."""

from typing import Any, Callable, Literal, Sequence, TypeVar, overload

from . import cache as cache
from . import config as config
from . import events as events
from . import integrations as integrations
from . import nn as nn
from . import ops as ops
from . import reference as reference
from . import scores as scores
from .jit import Program as Program
from .jit import compile as compile
from .jit import is_supported as is_supported
from .jit import warmup as warmup

_Array = TypeVar("_Array")
_Layout = Literal["bhsd", "bshd"]
_Causal = bool | Literal["bottom_right", "top_left"]
_Number = int | float

__version__: str
FINGERPRINT: str

class CompileError(RuntimeError): ...
class JitForbiddenError(RuntimeError): ...
class TraceError(TypeError): ...

def sigmoid_attention(
    q: _Array, k: _Array, v: _Array, *,
    bias: _Number | Any | Literal["per_sequence"],
    scale: _Number | Any | None = None, causal: _Causal = False,
    window: tuple[int, int] | None = None, alibi_slopes: Any | None = None,
    attn_mask: Any | None = None, kv_len: Any | None = None,
    layout: _Layout = "bhsd", deterministic: bool = False,
    dropout_p: float = 0.0) -> _Array: ...

@overload
def softmax_attention(
    q: _Array, k: _Array, v: _Array, *,
    bias: _Number | Any | None = None, scale: _Number | Any | None = None,
    causal: _Causal = False, window: tuple[int, int] | None = None,
    alibi_slopes: Any | None = None, attn_mask: Any | None = None,
    kv_len: Any | None = None, layout: _Layout = "bhsd",
    return_lse: Literal[False] = False, deterministic: bool = False,
    dropout_p: float = 0.0) -> _Array: ...
@overload
def softmax_attention(
    q: _Array, k: _Array, v: _Array, *,
    bias: _Number | Any | None = None, scale: _Number | Any | None = None,
    causal: _Causal = False, window: tuple[int, int] | None = None,
    alibi_slopes: Any | None = None, attn_mask: Any | None = None,
    kv_len: Any | None = None, layout: _Layout = "bhsd",
    return_lse: Literal[True], deterministic: bool = False,
    dropout_p: float = 0.0) -> tuple[_Array, _Array]: ...

def attention(
    q: _Array, k: _Array, v: _Array, *,
    activation: str | Callable[[Any], Any] | None = None,
    score_mod: Callable[..., Any] | None = None,
    mask_mod: Callable[..., Any] | None = None,
    normalize: Literal["none", "l1", "softmax"] | None = None,
    epilogue: Callable[..., Any] | None = None,
    bias: _Number | Any | None = None, scale: _Number | Any | None = None,
    causal: _Causal = False, window: tuple[int, int] | None = None,
    alibi_slopes: Any | None = None, attn_mask: Any | None = None,
    kv_len: Any | None = None, layout: _Layout = "bhsd",
    return_lse: bool = False, deterministic: bool = False,
    dropout_p: float = 0.0) -> Any: ...
