"""The definition of docs/semantics.md in float64, on the GPU, in row blocks.

It shares no code with the compiler. `model` rounds P once to the type of V,
as kernels do; `exact` rounds nothing.
"""

import dataclasses

import torch


@dataclasses.dataclass
class Problem:
    """Everything that defines one result. Tensors are (B, H, S, D)."""
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    score: str = "sigmoid"
    scale: float = None
    bias: object = 0.0     # a number, or a tensor
    bias_kind: str = ""    # what a tensor's dims are, of BIASES
    weight_scale: float = 1.0
    cap: float = 0.0
    slopes: torch.Tensor = None     # (H,)
    causal: bool = False
    window: tuple = None
    mask: torch.Tensor = None       # (B, Sq, Sk)
    k_len: torch.Tensor = None      # (B,)
    q_len: torch.Tensor = None      # (B,)
    gate: torch.Tensor = None
    q_ids: torch.Tensor = None      # (B, Sq)
    k_ids: torch.Tensor = None      # (B, Sk)
    stride: int = 0                 # of a dilated mask
    parity: bool = False            # the predicate of check.py
    align: str = "bottom_right"


def of_diagonal(table, b, h, i, j):
    """Relative positions from -31 on; 0 outside the table."""
    at = i - j + 31
    inside = (at >= 0) & (at < len(table))
    return torch.where(inside, table[at.clamp(0, len(table) - 1)], 0)


# What a bias adds at rows i (a column) and keys j (a row) of head h.
BIASES = {
    "head": lambda t, b, h, i, j: t[h],
    "key": lambda t, b, h, i, j: t[b, j],
    "full": lambda t, b, h, i, j: t[b, h, i, j],
    "bh": lambda t, b, h, i, j: t[b, h],
    "row": lambda t, b, h, i, j: t[i],
    "column": lambda t, b, h, i, j: t[j],
    "diagonal": of_diagonal,
}


def logits(problem, b, h, rows, q_len, k_len):
    """x and the keep mask of some rows of one head."""
    q, k = problem.query[b, h, rows], problem.key
    group = problem.query.shape[1] // k.shape[1]
    s = q.double() @ k[b, h // group, :k_len].double().T
    scale = problem.scale if problem.scale is not None else q.shape[-1] ** -0.5
    x = s * scale
    i = torch.arange(rows.start, rows.stop, device=x.device)[:, None]
    j = torch.arange(k_len, device=x.device)[None]
    if problem.bias_kind:
        x = x + BIASES[problem.bias_kind](problem.bias, b, h, i, j).double()
    else:
        x = x + problem.bias
    diagonal = i + (k_len - q_len if problem.align == "bottom_right" else 0)
    if problem.slopes is not None:
        x = x - problem.slopes[h].double() * (diagonal - j).abs()
    if problem.cap:
        x = problem.cap * torch.tanh(x / problem.cap)
    keep = torch.ones_like(x, dtype=torch.bool)
    if problem.causal:
        keep &= j <= diagonal
    if problem.window is not None:
        left, right = problem.window
        if left >= 0:
            keep &= j >= diagonal - left
        if right >= 0:
            keep &= j <= diagonal + right
    if problem.q_ids is not None:
        keep &= (problem.q_ids[b, rows, None] == problem.k_ids[b, None, :k_len])
    if problem.stride:
        keep &= (diagonal - j) % problem.stride == 0
    if problem.parity:
        keep &= (i % 2 == j % 2) & (j != 5)
    if problem.mask is not None:
        keep &= problem.mask[b, rows, :k_len]
    return x, keep


def attend(problem, x, keep):
    """Weights and what each row is divided by, and the LSE."""
    if problem.score in ("softmax", "softcap"):
        x = x.masked_fill(~keep, float("-inf"))
        top = x.amax(1, keepdim=True) if x.shape[1] else x.new_zeros(len(x), 1)
        top = torch.where(top.isinf(), torch.zeros_like(top), top)
        p = torch.exp(x - top)
        total = p.sum(1, keepdim=True)
        lse = (top + total.log())[:, 0] if x.shape[1] else \
            x.new_full((len(x),), float("-inf"))
        return p, torch.where(total == 0, torch.ones_like(total), total), lse
    if problem.score == "sigmoid":
        p = torch.sigmoid(x)
    elif problem.score == "relu":
        p = x.clamp(min=0)
    elif problem.score == "relu2":
        p = x.clamp(min=0) ** 2 * problem.weight_scale
    elif problem.score == "silu":
        p = x * torch.sigmoid(x) * problem.weight_scale
    elif problem.score == "poly":
        p = x ** 3 * problem.weight_scale
    elif problem.score == "linear":
        p = x * problem.weight_scale
    elif problem.score == "softplus":
        p = torch.nn.functional.softplus(x, threshold=1e9)
        p = p.masked_fill(~keep, 0)
        total = p.sum(1, keepdim=True)
        return p, torch.where(total == 0, torch.ones_like(total), total), None
    else:
        raise ValueError(f"no reference of score function {problem.score}")
    return p.masked_fill(~keep, 0), 1.0, None


def length_of(lengths, b, size):
    return size if lengths is None else int(lengths[b])


def compute(problem, pairs, block=1024):
    """(exact, model, lse) of the heads (b, h): float64 tensors (N, Sq, Dv) and
    (N, Sq). Rows beyond a sequence's length are 0."""
    q, v = problem.query, problem.value
    size, group = q.shape[2], q.shape[1] // max(v.shape[1], 1)
    exact = torch.zeros(len(pairs), size, v.shape[3], dtype=torch.float64,
                        device=q.device)
    model = torch.zeros_like(exact)
    lse = torch.full((len(pairs), size), float("-inf"), dtype=torch.float64,
                     device=q.device)
    for n, (b, h) in enumerate(pairs):
        k_len = length_of(problem.k_len, b, v.shape[2])
        q_len = length_of(problem.q_len, b, size)
        values = v[b, h // group, :k_len].double()
        for start in range(0, q_len, block):
            rows = slice(start, min(start + block, q_len))
            x, keep = logits(problem, b, h, rows, q_len, k_len)
            p, total, row_lse = attend(problem, x, keep)
            exact[n, rows] = (p @ values) / total
            model[n, rows] = (p.to(v.dtype).double() @ values) / total
            if row_lse is not None:
                lse[n, rows] = row_lse
        if problem.gate is not None:
            gate = torch.sigmoid(problem.gate[b, h].double())
            exact[n] *= gate
            model[n] *= gate
    return exact, model, lse


def relative_error(got, want):
    norm = want.norm()
    difference = (got.double() - want).norm()
    return (difference / norm).item() if norm > 0 else difference.item()
