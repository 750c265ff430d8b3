"""Attention as the textbook has it: slow, exact in the dtype it computes in.

For tests and for what the kernels do not do: any device, differentiable to any
order, in chunks of queries so that long sequences fit. With torch tensors torch
computes (float64 stays float64, everything else is computed in float32); other
arrays are computed with NumPy in float64.
"""

import math as _math
from typing import Any


def attention(q: Any, k: Any, v: Any, *, activation: Any = None,
              score_mod: Any = None, mask_mod: Any = None,
              normalize: str | None = None, epilogue: Any = None,
              bias: Any = None, scale: Any = None, causal: bool | str = False,
              window: tuple[int, int] | None = None, alibi_slopes: Any = None,
              attn_mask: Any = None, kv_len: Any = None, layout: str = "bhsd",
              return_lse: bool = False, chunk: int = 1024) -> Any:
    """The arguments of attnc.attention; callables get arrays here.

    `activation` and the other functions are called with the library's arrays:
    scores of shape (B, H, rows, Sk) and positions that broadcast to it. A
    captured array is indexed with arrays of positions.
    """
    library = _library_of(q)
    x = library
    if layout == "bshd":
        q, k, v = (x.swap(a) for a in (q, k, v))
    q, k, v = (x.wide(a) for a in (q, k, v))
    B, H, Sq, D = q.shape
    group = H // k.shape[1] if k.shape[1] else 1
    k, v = x.repeat(k, group), x.repeat(v, group)
    problem = dict(
        x=x, activation=activation, score_mod=score_mod, mask_mod=mask_mod,
        normalize=normalize, bias=bias,
        scale=1 / _math.sqrt(D) if scale is None else scale, causal=causal,
        window=window, slopes=alibi_slopes, mask=attn_mask, kv_len=kv_len)
    outs, lses = [], []
    for start in range(0, max(Sq, 1), chunk):
        rows = min(chunk, Sq - start)
        o, lse = _rows(q[:, :, start:start + rows], k, v, start, Sq,
                       **problem)
        if epilogue is not None:
            o = _apply_epilogue(x, epilogue, o, start)
        outs.append(o)
        lses.append(lse)
    out = x.cat(outs)
    if layout == "bshd":
        out = x.swap(out)
    return (out, x.cat(lses)) if return_lse else out


def _rows(q, k, v, start, Sq, *, x, activation, score_mod, mask_mod, normalize,
          bias, scale, causal, window, slopes, mask, kv_len):
    B, H, rows, _ = q.shape
    Sk = k.shape[2]
    b, h, i, j = x.positions(q, B, H, start, rows, Sk)
    length = Sk if kv_len is None else x.column(kv_len, q)
    if not isinstance(scale, (int, float)):
        scale = x.trailing(scale, q)
    s = scale * (q @ x.transpose(k))
    if score_mod is not None:
        s = _call_score_mod(score_mod, s, b, h, i, j, Sq, length)
    if isinstance(bias, str):
        s = s - x.log(x.full(length, q))
    elif bias is not None:
        s = s + _bias(x, bias, q, start, rows)
    diagonal = i + (length - Sq)
    if slopes is not None:
        s = s - x.trailing(slopes, q) * abs(diagonal - j)
    allowed = (j < length) & (i >= 0) & (b >= 0) & (h >= 0)
    corner = i if causal == "top_left" else diagonal
    if causal:
        allowed = allowed & (j <= corner)
    if window is not None:
        left, right = window
        if left >= 0:
            allowed = allowed & (j >= corner - left)
        if right >= 0:
            allowed = allowed & (j <= corner + right)
    if mask is not None:
        part = _chunk(x.tensor(mask, q), start, rows)
        if x.is_bool(part):
            allowed = allowed & part
        else:
            s = s + part
    if mask_mod is not None:
        allowed = allowed & mask_mod(b, h, i, j)
    # What no one may see must not turn 0 into NaN.
    v = x.where(x.used(allowed), v, 0 * x.ones(v))
    return _weights_times(x, s, x.spread(allowed, s), v, activation, normalize)


def _weights_times(x, s, allowed, v, activation, normalize):
    if activation is None:
        s = x.where(allowed, s, -_math.inf * x.ones(s))
        top = x.max(s)
        top = x.where(top > -_math.inf, top, 0 * x.ones(top))
        p = x.where(allowed, x.exp(s - top), 0 * x.ones(s))
        total = x.sum(p)
        safe = x.where(total > 0, total, x.ones(total))
        lse = x.where(total > 0, top + x.log(safe), -_math.inf * x.ones(total))
        return (p / safe) @ v, lse[..., 0]
    if isinstance(activation, str):
        from . import scores
        activation = scores.NAMED[activation]
    p = activation(s)
    p = x.where(allowed, p, 0 * x.ones(s))
    o = p @ v
    if normalize == "l1":
        total = x.sum(p)
        o = x.where(total != 0, o / x.where(total != 0, total, x.ones(total)),
                    0 * x.ones(o))
    return o, s[..., 0]


def _call_score_mod(score_mod, s, b, h, i, j, Sq, length):
    from ._trace import count_arguments
    more = (Sq, length) if count_arguments(score_mod) == 7 else ()
    return score_mod(s, b, h, i, j, *more)


def _bias(x, bias, q, start, rows):
    if isinstance(bias, (int, float)):
        return bias
    if len(getattr(bias, "shape", ())) <= 2:
        return x.trailing(bias, q)
    return _chunk(x.tensor(bias, q), start, rows)


def _chunk(array, start, rows):
    if array.ndim >= 2 and array.shape[-2] != 1:
        return array[..., start:start + rows, :]
    return array


def _apply_epilogue(x, epilogue, o, start):
    from ._trace import count_arguments
    b, h, i, d = x.positions(o, o.shape[0], o.shape[1], start, o.shape[2],
                             o.shape[3])
    more = (x.sum(o * o) / o.shape[3],) if count_arguments(
        epilogue) == 6 else ()
    return epilogue(o, b, h, i, d, *more)


# --- the two libraries --------------------------------------------------------

def _library_of(q):
    if type(q).__module__.partition(".")[0] == "torch" or hasattr(
            q, "requires_grad"):
        return _Torch()
    return _NumPy()


class _Torch:
    def __init__(self):
        import torch
        self.t = torch
        self.exp, self.log, self.where = torch.exp, torch.log, torch.where

    def swap(self, a): return a.transpose(1, 2)
    def transpose(self, a): return a.transpose(-1, -2)
    def wide(self, a):
        return a if a.dtype == self.t.float64 else a.float()
    def repeat(self, a, n): return a.repeat_interleave(n, 1)
    def ones(self, a): return self.t.ones_like(a)
    def cat(self, parts): return self.t.cat(parts, 2)
    def max(self, a):
        if a.shape[-1] == 0:
            return a.new_full(a.shape[:-1] + (1,), -_math.inf)
        return a.amax(-1, keepdim=True)
    def sum(self, a): return a.sum(-1, keepdim=True)
    def used(self, m): return m.any(2, keepdim=True).transpose(2, 3)
    def is_bool(self, a): return a.dtype == self.t.bool
    def spread(self, m, s): return m.expand(s.shape)

    def tensor(self, a, like):
        a = self.t.as_tensor(a, device=like.device)
        return a.to(like.dtype) if a.is_floating_point() else a

    def trailing(self, a, like):
        a = self.tensor(a, like)
        return a[..., None, None] if a.ndim else a

    def column(self, a, like):
        return self.t.as_tensor(a, device=like.device).long()[
            :, None, None, None]

    def full(self, a, like):
        return self.t.as_tensor(a, device=like.device, dtype=like.dtype)

    def positions(self, like, B, H, start, rows, keys):
        def at(n, dim, first=0):
            shape = [1] * 4
            shape[dim] = n
            return self.t.arange(first, first + n,
                                 device=like.device).reshape(shape)
        return at(B, 0), at(H, 1), at(rows, 2, start), at(keys, 3)


class _NumPy:
    def __init__(self):
        import numpy
        self.t = numpy
        self.exp, self.log, self.where = numpy.exp, numpy.log, numpy.where

    def swap(self, a): return self.t.swapaxes(self.t.asarray(a), 1, 2)
    def transpose(self, a): return self.t.swapaxes(a, -1, -2)
    def wide(self, a): return self.t.asarray(a).astype(self.t.float64)
    def repeat(self, a, n): return self.t.repeat(a, n, 1)
    def ones(self, a): return self.t.ones_like(a)
    def cat(self, parts): return self.t.concatenate(parts, 2)
    def max(self, a):
        return a.max(-1, keepdims=True, initial=-_math.inf)
    def sum(self, a): return a.sum(-1, keepdims=True)
    def used(self, m): return self.t.swapaxes(m.any(2, keepdims=True), 2, 3)
    def is_bool(self, a): return a.dtype == bool
    def spread(self, m, s): return self.t.broadcast_to(m, s.shape)
    def tensor(self, a, like): return self.t.asarray(a)

    def trailing(self, a, like):
        a = self.t.asarray(a)
        return a[..., None, None] if a.ndim else a

    def column(self, a, like):
        return self.t.asarray(a).astype(self.t.int64)[:, None, None, None]

    def full(self, a, like): return self.t.asarray(a, self.t.float64)

    def positions(self, like, B, H, start, rows, keys):
        def at(n, dim, first=0):
            shape = [1] * 4
            shape[dim] = n
            return self.t.arange(first, first + n).reshape(shape)
        return at(B, 0), at(H, 1), at(rows, 2, start), at(keys, 3)
