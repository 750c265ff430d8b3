"""torch modules: sigmoid attention as models use it."""

import math
from typing import Any

import torch
from torch import nn

from . import scores
from ._frontend import sigmoid_attention


class _Exact(nn.Module):
    """Tensors of the names in `exact` keep their digits where a module becomes
    one of bf16 or f16."""

    exact: tuple[str, ...] = ()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        before = {name: x.detach() for name in self.exact
                  if (x := getattr(self, name)) is not None}
        gradients = {name: x.grad.detach() for name in before
                     if (x := getattr(self, name)).grad is not None}
        super()._apply(fn, recurse)
        for name, x in before.items():
            after = getattr(self, name)
            if after.dtype.itemsize < x.dtype.itemsize:
                after.grad = None
                after.data = x.to(after.device)
                if name in gradients:
                    after.grad = gradients[name].to(after.device)
        return self


class SigmoidAttention(_Exact):
    """Multi-head self-attention with sigmoid weights and a cache for decoding.

    x of shape (B, S, dim) goes to (B, S, dim). `max_seq_len` is the key length
    of training: the bias starts at -ln of it and does not follow the length
    afterwards, so that decoding token by token equals the full forward.

    bias: "parameter" (one a head, trained), "buffer" (fixed) or a number.
    qk_norm: RMS norm of queries and keys, head by head, with a gain.
    layer_scale: the initial value of a factor per channel at the output.
    hybrid_norm: an RMS norm of the output before the projection.
    rope: a function (x, positions) -> x for queries and keys of shape
        (B, S, H, D); `Rope` is one. alibi: one slope a head.

    The bias and the slopes stay f32 whatever type the module gets: a learning
    rate is less than a digit of -ln n in bf16.
    """

    exact = "bias", "slopes"

    def __init__(self, dim: int, num_heads: int, *, max_seq_len: int,
                 num_kv_heads: int | None = None, head_dim: int | None = None,
                 causal: bool = True, bias: float | str = "parameter",
                 qk_norm: bool = True, layer_scale: float | None = None,
                 hybrid_norm: bool = False, rope: Any = None,
                 alibi: bool = False, window: tuple[int, int] | None = None,
                 projection_bias: bool = False, device: Any = None,
                 dtype: Any = None) -> None:
        super().__init__()
        made = dict(device=device, dtype=dtype)
        num_kv_heads = num_kv_heads or num_heads
        if head_dim is None and dim % num_heads:
            raise ValueError(
                f"argument 'num_heads': expected a divisor of dim={dim}, got "
                f"{num_heads}; or state head_dim")
        head_dim = head_dim or dim // num_heads
        if num_heads % num_kv_heads:
            raise ValueError(
                f"argument 'num_kv_heads': expected a divisor of num_heads="
                f"{num_heads}, got {num_kv_heads}")
        self.heads = (num_heads, num_kv_heads, head_dim)
        self.causal, self.rope, self.window = causal, rope, window
        rows = (num_heads + 2 * num_kv_heads) * head_dim
        self.qkv = nn.Linear(dim, rows, bias=projection_bias, **made)
        self.out = nn.Linear(num_heads * head_dim, dim, bias=projection_bias,
                             **made)
        self._make_bias(bias, max_seq_len, num_heads, device)
        self.q_norm = nn.RMSNorm(head_dim, **made) if qk_norm else None
        self.k_norm = nn.RMSNorm(head_dim, **made) if qk_norm else None
        self.norm = nn.RMSNorm(num_heads * head_dim,
                               **made) if hybrid_norm else None
        self.layer_scale = None if layer_scale is None else nn.Parameter(
            torch.full((dim,), float(layer_scale), **made))
        self.register_buffer("slopes", alibi_slopes(num_heads).to(device)
                             if alibi else None)

    def _make_bias(self, bias, max_seq_len, num_heads, device):
        # In f32 whatever the weights are: bf16 has 3 digits of -ln n.
        start = torch.full((num_heads,), scores.init_bias(max_seq_len)
                           if isinstance(bias, str) else float(bias),
                           device=device, dtype=torch.float32)
        if bias == "parameter":
            self.bias = nn.Parameter(start)
        elif bias == "buffer" or not isinstance(bias, str):
            self.register_buffer("bias", start)
        else:
            raise ValueError("argument 'bias': expected 'parameter', 'buffer' "
                             f"or a number, got {bias!r}")

    def forward(self, x: Any, *, cache: "Cache | None" = None,
                attn_mask: Any = None, kv_len: Any = None) -> Any:
        """`cache` is a Cache that the rows of x are appended to."""
        heads, kv_heads, d = self.heads
        B, S, _ = x.shape
        q, k, v = self.qkv(x).unflatten(-1, (-1, d)).split(
            [heads, kv_heads, kv_heads], dim=2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        start = 0 if cache is None else cache.length
        if self.rope is not None:
            positions = torch.arange(start, start + S, device=x.device)
            q, k = self.rope(q, positions), self.rope(k, positions)
        if cache is not None:
            k, v = cache.append(k, v)
        causal = "bottom_right" if self.causal else False
        o = sigmoid_attention(
            q, k, v, bias=self.bias.float(), causal=causal, window=self.window,
            alibi_slopes=self.slopes, attn_mask=attn_mask, kv_len=kv_len,
            layout="bshd").flatten(2)
        if self.norm is not None:
            o = self.norm(o)
        o = self.out(o)
        return o if self.layer_scale is None else o * self.layer_scale

    def make_cache(self, batch: int, max_len: int, device: Any = None,
                   dtype: Any = None) -> "Cache":
        """Room for max_len keys and values of each sequence."""
        _, kv_heads, d = self.heads
        weight = self.qkv.weight
        return Cache(batch, max_len, kv_heads, d, device or weight.device,
                     dtype or weight.dtype)

    def extra_repr(self):
        heads, kv_heads, d = self.heads
        return (f"heads={heads}, kv_heads={kv_heads}, head_dim={d}, "
                f"causal={self.causal}")


class Cache:
    """Keys and values of the rows so far, (B, S, H, D), in place."""

    def __init__(self, batch, max_len, heads, head_dim, device, dtype):
        shape = (batch, max_len, heads, head_dim)
        self.k = torch.zeros(shape, device=device, dtype=dtype)
        self.v = torch.zeros(shape, device=device, dtype=dtype)
        self.length = 0

    def append(self, k, v):
        """All keys and values, the new ones included."""
        end = self.length + k.shape[1]
        if end > self.k.shape[1]:
            raise ValueError(
                f"the cache has room for {self.k.shape[1]} rows; expected at "
                f"most {self.k.shape[1] - self.length} more, got {k.shape[1]};"
                " make_cache(batch, max_len) with a larger max_len")
        self.k[:, self.length:end] = k
        self.v[:, self.length:end] = v
        self.length = end
        return self.k[:, :end], self.v[:, :end]


class Rope(_Exact):
    """Rotary positions: pairs (x_i, x_{i + D/2}) turn by position / base^(2i/D).

    The frequencies stay f32 whatever type the module gets: at position 1000 an
    angle of a bf16 frequency would be off by 2.
    """

    exact = "frequencies",

    def __init__(self, head_dim: int, base: float = 10000.0) -> None:
        super().__init__()
        if head_dim % 2:
            raise ValueError("argument 'head_dim': expected an even number, "
                             f"got {head_dim}")
        steps = torch.arange(0, head_dim, 2) / head_dim
        self.register_buffer("frequencies", base ** -steps, persistent=False)

    def forward(self, x: Any, positions: Any) -> Any:
        angles = positions[:, None].float() * self.frequencies
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        a, b = x.float().chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1).to(x.dtype)


def alibi_slopes(num_heads: int) -> Any:
    """2^(-8 k / n) for head k = 1 ... n."""
    steps = torch.arange(1, num_heads + 1, dtype=torch.float32)
    return 2.0 ** (-8.0 * steps / num_heads)


class _SigmaReparam(nn.Module):
    """W -> gamma W / |W|_2, the norm by power iteration."""

    def __init__(self, weight, eps=1e-12):
        super().__init__()
        self.eps = eps
        self.gamma = nn.Parameter(torch.ones((), device=weight.device,
                                             dtype=weight.dtype))
        rows = weight.flatten(1)
        # From the exact vectors, so that nothing is random.
        u, _, vh = torch.linalg.svd(rows.detach().float(), full_matrices=False)
        self.register_buffer("u", u[:, 0].contiguous())
        self.register_buffer("v", vh[0].contiguous())

    def forward(self, weight):
        rows = weight.flatten(1)
        if self.training:
            with torch.no_grad():
                self.v = nn.functional.normalize(
                    rows.float().mT @ self.u, dim=0, eps=self.eps)
                self.u = nn.functional.normalize(
                    rows.float() @ self.v, dim=0, eps=self.eps)
        # The vectors are constants; the norm is differentiated.
        norm = self.u.to(rows.dtype) @ (rows @ self.v.to(rows.dtype))
        return self.gamma * weight / norm


def sigma_reparam(module: Any, name: str = "weight") -> Any:
    """Keeps the spectral norm of a weight at a trained factor, 1 to begin with,
    which keeps attention logits from growing. Gives the module back.

    `torch.nn.utils.parametrize.remove_parametrizations` bakes it in.
    """
    nn.utils.parametrize.register_parametrization(
        module, name, _SigmaReparam(getattr(module, name)), unsafe=True)
    return module
