#!/usr/bin/env python3
"""Checks the kernels of gradients on this machine's GPU against float64, and
times them against torch's cuDNN softmax backward.

    backward.py --attnc build/bin/attnc
                --harness build/lib/libattnc-gpu-harness.so
                [--only PATTERN...] [--json OUT] [--bench [SECONDS]]
                [--variant NAME SCHEDULE]...

A case: bf16 or f16 operands, keys beyond the length NaN, f32 gradients into
poisoned memory, error at most 1.15 of that of the model with P and dS each
rounded once (docs/semantics.md), rows beyond a length exactly 0. Of two runs dK
and dV are bit-identical, and with `attn.deterministic` dQ is. The last line is
`N passed, N failed`.

The benchmark also times each --variant: a schedule for the shapes whose name
(d64-full-n2048, ...) begins with what NAME has before a colon. `NAME/query` and
`NAME/key` ask for the gradient of the query, or of key and value, only. For a
SCHEDULE of @FILE, the file's IR runs instead.
"""

import argparse
import dataclasses
import fnmatch
import json
import math
import statistics
import subprocess
import sys
import traceback

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import harness
from cases import Attention

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16}


@dataclasses.dataclass
class Case(Attention):
    bias: str = ""
    #: The gradient of a softmax's LSE is given, too.
    lse: bool = False
    #: Gradients of bias, slopes and gate too.
    captured: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.score == "sigmoid":
            self.bias = self.bias or "scalar"

    @property
    def is_softmax(self):
        return self.score in ("softmax", "cosine")

    @property
    def has_epilogue(self):
        return self.gate or self.score == "rela"


def cases():
    result = []

    def add(name, **fields):
        result.append(Case(name, **fields))

    for d in (64, 128, 256):
        for score in ("sigmoid", "softmax"):
            for causal in (False, True):
                add(f"{score}-d{d}{'-causal' if causal else ''}", score=score,
                    d=d, rows=640, causal=causal)
            add(f"{score}-d{d}-200x333", score=score, d=d, rows=200, keys=333)
            add(f"{score}-d{d}-1x1", score="sigmoid", d=d, rows=1, keys=1)
            add(f"{score}-d{d}-f16", score=score, d=d, dtype="f16", rows=300)
            add(f"{score}-d{d}-gqa-bshd", score=score, d=d, heads=8,
                kv_heads=2, rows=260, batch=2, layout="bshd", causal=True)
            add(f"{score}-d{d}-lengths", score=score, d=d, batch=3, rows=200,
                keys=500, k_len=(0, 137, 500), q_len=(200, 77, 0))
        add(f"sigmoid-d{d}-window", d=d, rows=700, window=(100, 30))
        add(f"sigmoid-d{d}-std4", d=d, rows=1024, std=4.0)
        add(f"softplus-d{d}", d=d, rows=300, score="softplus")
    for d in (32, 59, 80, 96, 192):
        add(f"sigmoid-d{d}", d=d, rows=300, causal=True)
    add("sigmoid-dv", d=128, dv=64, rows=300)
    add("relu2-d128", score="relu2", rows=300)
    add("sigmoid-n8192", rows=8192, heads=1, causal=True)
    add("softmax-n8192", rows=8192, heads=1, score="softmax")
    for d in (64, 128, 256):
        for score in ("sigmoid", "softmax"):
            add(f"captured-{score}-alibi-d{d}", d=d, score=score, heads=16,
                batch=2, rows=333, alibi=True, causal=True, captured=True)
            for bias in ("key", "full"):
                add(f"captured-{score}-{bias}-d{d}", d=d, score=score,
                    bias=bias, batch=2, heads=4, kv_heads=2, rows=200,
                    keys=333, k_len=(333, 137), captured=True)
        add(f"captured-sigmoid-head-d{d}", d=d, bias="head", heads=4, batch=3,
            rows=260, captured=True)
    for d in (64, 128):
        add(f"captured-gate-sigmoid-d{d}", d=d, gate=True, heads=4, batch=2,
            kv_heads=2, rows=300, q_len=(300, 77), captured=True)
        add(f"captured-gate-softmax-d{d}", d=d, gate=True, score="softmax",
            rows=300, causal=True, layout="bshd", captured=True)
        # Norms of rows, statistics of rows, and gradients through the LSE.
        for name, fields in {
                "": dict(rows=300, causal=True),
                "-lengths": dict(batch=3, rows=200, keys=333, layout="bshd",
                                 k_len=(0, 137, 333), q_len=(200, 77, 0))
                }.items():
            add(f"cosine-d{d}{name}", d=d, score="cosine", **fields)
            add(f"rela-d{d}{name}", d=d, score="rela", **fields)
            add(f"softmax-lse-d{d}{name}", d=d, score="softmax", lse=True,
                **fields)
    add("rela-d256", d=256, score="rela", rows=300)
    add("cosine-d59", d=59, score="cosine", rows=300, keys=333)
    add("cosine-d80", d=80, score="cosine", lse=True, rows=300, dtype="f16")
    add("captured-sigmoid-n4096", rows=4096, batch=2, captured=True)
    add("captured-softplus-full", score="softplus", bias="full", rows=300,
        captured=True)
    add("captured-sigmoid-full-bshd", bias="full", rows=300, layout="bshd",
        causal=True, dtype="f16", captured=True)
    return result


def generate(attnc, case, gradients, deterministic=False):
    """The IR of the forward or of the gradients, which are f32."""
    flags = [f"--score={case.score}", f"--head-dim={case.d}",
             f"--value-head-dim={case.dv}", f"--dtype={case.dtype}",
             f"--layout={case.layout}"]
    flags += ["--causal"] * case.causal + ["--alibi"] * case.alibi
    flags += ["--gate"] * case.gate + ["--lse"] * case.lse
    if case.bias:
        flags.append(f"--bias={case.bias}")
    if case.window:
        flags.append("--window={},{}".format(*case.window))
    flags += ["--kv-len"] * (case.k_len is not None)
    flags += ["--q-len"] * (case.q_len is not None)
    # Of an epilogue, both give what is before it too.
    if gradients or case.has_epilogue:
        flags.append("--backward=all" if case.captured else "--backward")
    elif case.is_softmax and not case.lse:
        flags.append("--lse")
    text = subprocess.run([attnc, "gen", *flags], capture_output=True,
                          text=True, check=True).stdout
    if not gradients:
        text = text.replace(" attributes {attn.differentiate}", "")
        return text.replace(", attn.gradient", "")
    attributes = "attn.differentiate = f32"
    if deterministic:
        attributes += ", attn.deterministic"
    return text.replace("{attn.differentiate}", "{" + attributes + "}")


def make_operands(case, draw):
    torch.manual_seed(len(case.name) + case.rows + 1000 * draw)

    def normal(heads, rows, width, std=1.0):
        x = torch.randn(case.batch, heads, rows, width, device="cuda") * std
        return x.to(DTYPES[case.dtype])

    q = normal(case.heads, case.rows, case.d, case.std)
    k = normal(case.kv_heads, case.keys, case.d)
    v = normal(case.kv_heads, case.keys, case.dv)
    do = normal(case.heads, case.rows, case.dv)
    return q, k, v, do


def lengths(case):
    k_len = case.k_len or (case.keys,) * case.batch
    q_len = case.q_len or (case.rows,) * case.batch
    return (torch.tensor(x, device="cuda") for x in (q_len, k_len))


def attended(case):
    """(B, 1, Sq, Sk): which positions are neither masked nor beyond."""
    q_len, k_len = lengths(case)
    i = torch.arange(case.rows, device="cuda").view(1, 1, -1, 1)
    j = torch.arange(case.keys, device="cuda").view(1, 1, 1, -1)
    ql, kl = q_len.view(-1, 1, 1, 1), k_len.view(-1, 1, 1, 1)
    keep = (i < ql) & (j < kl)
    diagonal = i + kl - ql
    if case.causal:
        keep &= j <= diagonal
    if case.window:
        keep &= (diagonal - j <= case.window[0]) & (
            j - diagonal <= case.window[1])
    return keep


def make_captured(case):
    """bias and slopes, f32, by name."""
    def normal(*shape):
        return torch.randn(*shape, device="cuda") - math.log(case.keys)

    captured = {}
    if case.bias == "scalar":
        captured["bias"] = torch.tensor(-math.log(case.keys), device="cuda")
    elif case.bias == "head":
        captured["bias"] = normal(case.heads)
    elif case.bias == "key":
        captured["bias"] = normal(case.batch, case.keys)
    elif case.bias == "full":
        captured["bias"] = normal(case.batch, case.heads, case.rows, case.keys)
    if case.alibi:
        captured["slopes"] = torch.exp2(
            -8.0 * torch.arange(1, case.heads + 1, device="cuda") / case.heads)
    if case.gate:
        captured["gate"] = torch.randn(
            case.batch, case.heads, case.rows, case.dv,
            device="cuda").to(DTYPES[case.dtype])
    if case.lse:
        captured["dlse"] = torch.randn(case.batch, case.heads, case.rows,
                                       device="cuda")
    return captured


def spread(case, bias):
    """A bias as it is added to the (B, H, Sq, Sk) logits."""
    return bias[:, None, None] if case.bias in ("key", "head") else bias


def distances(case):
    """|i + k_len - q_len - j|, (B, 1, Sq, Sk)."""
    q_len, k_len = lengths(case)
    i = torch.arange(case.rows, device="cuda").view(1, 1, -1, 1)
    j = torch.arange(case.keys, device="cuda").view(1, 1, 1, -1)
    return (i + (k_len - q_len).view(-1, 1, 1, 1) - j).abs().double()


def logits(case, s, captured):
    if case.bias:
        s = s + spread(case, captured["bias"].double())
    if case.alibi:
        s = s - captured["slopes"].double()[:, None, None] * distances(case)
    return s


def captured_gradients(case, ds):
    """Those of bias and slopes from those of the logits."""
    if case.bias:
        yield {"scalar": lambda: ds.sum(), "head": lambda: ds.sum((0, 2, 3)),
               "key": lambda: ds.sum((1, 2)), "full": lambda: ds}[case.bias]()
    if case.alibi:
        yield -(ds * distances(case)).sum((0, 2, 3))


def weights(case, s, keep):
    """Without a norm other than a softmax's."""
    if case.is_softmax:
        return torch.softmax(s.masked_fill(~keep, -math.inf), 3).nan_to_num(0)
    return torch.where(keep, s.clamp(min=0) if case.score == "rela"
                       else torch.sigmoid(s), 0.0)


#: What `attnc gen` multiplies a cosine by, and adds to a mean square.
TEMPERATURE, EPSILON = 10.0, 1e-6


def through_norm(x, n, dn):
    """What comes through n = 1 / |x|; of a row beyond a length nothing."""
    return -n ** 3 * dn * x


def before_rms(o, dy):
    """The gradient of o from that of o / rms(o)."""
    r = torch.rsqrt(o.square().mean(3, keepdim=True) + EPSILON)
    return r * (dy - o * (dy * o).mean(3, keepdim=True) * r ** 2)


def expected(case, q, k, v, do, captured, model, output=None, stored=False):
    """dq, dk, dv and those of bias and slopes in float64; `model`: P and dS
    rounded once, a softmax's output as stored; `stored`: only the gradient of
    what is before an epilogue is rounded, as it is when it is written."""
    group = case.heads // case.kv_heads
    dtype = DTYPES[case.dtype]
    grow = [x.double().repeat_interleave(group, 1) for x in (k, v)]
    q, do, (k, v) = q.double(), do.double(), grow
    scale, keep = 1 / math.sqrt(case.d), attended(case)
    if case.score == "cosine":
        qn, kn = (1 / x.norm(dim=3, keepdim=True) for x in (q, k))
        kn, scale = kn.transpose(2, 3), 1
    dots = q @ k.transpose(2, 3) * scale
    s = logits(case, dots, captured)
    if case.score == "cosine":
        s = s * qn * kn * TEMPERATURE
    dp = do @ v.transpose(2, 3)
    zero = torch.zeros((), dtype=torch.float64, device="cuda")
    gradients = []
    if case.has_epilogue:
        o = output.double() if model else weights(case, s, keep) @ v
        if case.gate:
            open_ = torch.sigmoid(captured["gate"].double())
            rows = torch.arange(case.rows, device="cuda")[None, None, :, None]
            inside = rows < next(iter(lengths(case))).view(-1, 1, 1, 1)
            gradients = [torch.where(inside, do * o * open_ * (1 - open_),
                                     zero)]
        do = do * open_ if case.gate else before_rms(o, do)
        if model or stored:
            do = do.to(dtype).double()
        dp = do @ v.transpose(2, 3)
    if case.is_softmax:
        p = torch.softmax(s.masked_fill(~keep, -math.inf), 3).nan_to_num(0)
        o = p @ v
        if model:
            o = output.double()
        change = dp - (do * o).sum(3, keepdim=True)
        if case.lse:
            change = change + captured["dlse"].double()[..., None]
        ds = p * change
    elif case.score == "softplus":
        w = torch.where(keep, F.softplus(s), zero)
        total = w.sum(3, keepdim=True)
        inverse = torch.where(total == 0, zero, 1 / total)
        p = w * inverse
        delta = (p * dp).sum(3, keepdim=True)
        ds = (dp - delta) * inverse * torch.sigmoid(s)
    elif case.score == "relu2":
        p = s.clamp(min=0) ** 2 / case.keys
        ds = dp * 2 * s.clamp(min=0) / case.keys
    elif case.score == "rela":
        p, ds = s.clamp(min=0), dp * (s > 0)
    else:
        p = torch.sigmoid(s)
        ds = dp * p * (1 - p)
    p, ds = torch.where(keep, p, zero), torch.where(keep, ds, zero)
    more = 0, 0
    if case.score == "cosine":
        ds = ds * TEMPERATURE
        more = (through_norm(q, qn, (ds * dots * kn).sum(3, keepdim=True)),
                through_norm(k, kn.transpose(2, 3),
                             (ds * dots * qn).sum(2)[..., None]))
        ds = ds * qn * kn
    if model:
        p, ds = p.to(dtype).double(), ds.to(dtype).double()
    dq = ds @ k * scale + more[0]
    dk = ds.transpose(2, 3) @ q * scale + more[1]
    dv = p.transpose(2, 3) @ do

    def shrink(x):
        return x.unflatten(1, (case.kv_heads, group)).sum(2)
    return dq, shrink(dk), shrink(dv), *captured_gradients(case, ds), *gradients


def to_layout(case, x):
    return x.transpose(1, 2).contiguous() if case.layout == "bshd" else x


def plant(case, x, own):
    """A copy with NaN in the rows at or beyond each length."""
    x = x.clone()
    for b, length in enumerate(own.tolist()):
        x[b, :, length:] = float("nan")
    return x


def launch_values(case, q, k, v, do, captured):
    q_len, k_len = lengths(case)
    tensors = {"query": plant(case, q, q_len), "key": plant(case, k, k_len),
               "value": plant(case, v, k_len), "doutput": plant(case, do, q_len)}
    values = {name: to_layout(case, x) for name, x in tensors.items()}
    values.update(captured)
    if case.gate:
        values["gate"] = to_layout(case, captured["gate"])
    if case.bias == "scalar":
        values["bias"] = captured["bias"].item()
    values.update(weight_scale=1 / case.keys, temperature=TEMPERATURE,
                  q_len=q_len.int(), k_len=k_len.int())
    if case.window:
        values.update(window_left=case.window[0], window_right=case.window[1])
    return values


def call(program, values):
    names = [a["name"] for a in program.arguments]
    program.bind(**{name: values[name] for name in names})()
    torch.cuda.synchronize()


def needs_forward(case):
    """Whether the gradients read what the forward hands over."""
    return case.is_softmax or case.has_epilogue


def build(args, library, case):
    """The gradients' programs by `deterministic`, and the forward's."""
    programs = {deterministic: harness.Program(
        library, generate(args.attnc, case, True, deterministic))
        for deterministic in (False, True)}
    if needs_forward(case):
        programs["forward"] = harness.Program(
            library, generate(args.attnc, case, False))
    return programs


def one_number(case):
    """Whether the first captured operand's gradient is a single number."""
    return case.captured and case.bias == "scalar"


def draws(case):
    """How many inputs make a case: of a gradient that is one number, one error
    says little about its rounding, so that the errors of several are taken."""
    return 12 if one_number(case) else 1


def check(case, programs):
    """The largest error as a share of its bound."""
    worst = 0
    for deterministic in (False, True):
        results = [check_draw(programs, case, draw, deterministic)
                   for draw in range(draws(case))]
        for name in results[0]:
            norm, error, model = (
                math.hypot(*(result[name][n] for result in results))
                for n in range(3))
            norm = norm or 1.0
            error, bound = error / norm, 1.15 * model / norm + 2.0 ** -20
            worst = max(worst, error / bound)
            if not error <= bound:
                raise AssertionError(
                    f"{name}{' deterministic' * deterministic}: "
                    f"error {error:.3g}, bound {bound:.3g}")
    return worst


def check_draw(programs, case, draw, deterministic):
    q, k, v, do = make_operands(case, draw)
    captured = make_captured(case)
    values = launch_values(case, q, k, v, do, captured)
    # What is handed over: the output, or what is before an epilogue.
    name = "ungated" if case.has_epilogue else "output"
    if needs_forward(case):
        given = {name: torch.empty_like(values["doutput"]),
                 "lse": torch.empty(case.batch, case.heads, case.rows,
                                    device="cuda")}
        gated = torch.empty_like(values["doutput"])
        call(programs["forward"], {"output": gated, **values, **given})
        values.update(given)
    return check_gradients(programs[deterministic], case, (q, k, v, do),
                           captured, values, deterministic)


def check_gradients(program, case, operands, captured, values, deterministic):
    """Of each gradient, in float64: its norm, the error's, the model's error's.
    What must hold exactly is checked here."""
    q, k, v, do = operands
    runs = []
    tensors = {name: values[name] for name in ("query", "key", "value")}
    if case.captured:
        tensors.update({name: to_layout(case, x) if x.dim() == 4 and
                        name == "gate" else x for name, x in captured.items()})
    for poison in (float("nan"), 7.0):
        values.update({"d" + name: torch.full_like(x, poison,
                                                   dtype=torch.float32)
                       for name, x in tensors.items()})
        call(program, values)
        runs.append([values["d" + name].clone() for name in tensors])
    exact = expected(case, q, k, v, do, captured, model=False)
    name = "ungated" if case.has_epilogue else "output"
    output = (to_layout(case, values[name]).nan_to_num(0)
              if name in values else None)
    model = expected(case, q, k, v, do, captured, True, output)
    if one_number(case):
        # Two sums of independent errors may differ by any factor: what is
        # rounded first is taken as given, and only the sum itself is judged.
        given = expected(case, q, k, v, do, captured, False, stored=True)
        exact = (*exact[:3], given[3], *exact[4:])
    q_len, k_len = lengths(case)
    result = {}
    for index, name in enumerate("d" + name for name in tensors):
        one, two = (run[index] for run in runs)
        exactly = index or deterministic
        if exactly and not torch.equal(one, two):
            raise AssertionError(f"{name}: two runs differ")
        if index < 3 or name == "dgate":
            one = to_layout(case, one)
        if index < 3:
            for b, length in enumerate((k_len if index else q_len).tolist()):
                if one[b, :, length:].count_nonzero():
                    raise AssertionError(f"{name}: not 0 beyond the length")
        elif one[(exact[index] == 0)].count_nonzero():
            raise AssertionError(f"{name}: not 0 where nothing attends")
        result[name] = [x.norm().item() for x in (
            exact[index], one.double() - exact[index],
            model[index] - exact[index])]
    return result


def median_ms(launches, seconds, rounds=4):
    """Milliseconds of each. In turns, every other round backwards: a card that
    gets warm is slower."""
    flush = torch.empty(1 << 28, dtype=torch.int8, device="cuda")
    times = {name: [] for name in launches}
    for _ in range(3):
        for launch in launches.values():
            launch()
    for k in range(rounds):
        for name in list(launches)[::-1 if k % 2 else 1]:
            mine = []
            while sum(mine) < seconds / rounds * 1e3 or len(mine) < 3:
                flush.zero_()
                pair = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
                pair[0].record()
                launches[name]()
                pair[1].record()
                torch.cuda.synchronize()
                mine.append(pair[0].elapsed_time(pair[1]))
            times[name] += mine
    return {name: statistics.median(x) for name, x in times.items()}


def bench(args, library):
    """bf16, 16k tokens, hidden 2048; 2.5 times the forward's operations."""
    results = []
    for d in args.bench_dims:
        for n in (2048, 16384):
            for causal in (False, True):
                results.append(bench_one(args, library, d, n, causal))
    return results


def bind(library, case, operands, text, schedule):
    q, k, v, do = operands
    program = harness.Program(library, text, schedule)
    values = launch_values(case, q, k, v, do, make_captured(case))
    values.update({"d" + x: torch.empty_like(values[x])
                   for x in ("query", "key", "value")})
    values.update(output=torch.empty_like(do), lse=torch.zeros(
        case.batch, case.heads, case.rows, device="cuda"))
    names = [a["name"] for a in program.arguments]
    return program.bind(**{x: values[x] for x in names})


def peers(operands, do, causal):
    """cuDNN's softmax: its backward and its forward."""
    leaves = [x.detach().requires_grad_() for x in operands]

    def attend():
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return F.scaled_dot_product_attention(*leaves, is_causal=causal)

    out = attend()
    return {"cudnn": lambda: torch.autograd.grad(out, leaves, do,
                                                 retain_graph=True),
            "cudnn-forward": attend}


def own(args, library, case, operands, shape):
    """Backwards of both scores, the sigmoid's forward, and --variants."""
    launches = {}
    for score in ("sigmoid", "softmax"):
        case.score, case.bias = score, "scalar" * (score == "sigmoid")
        for deterministic in (False, True):
            name = score + "-deterministic" * deterministic
            text = generate(args.attnc, case, True, deterministic).replace(
                "attn.differentiate = f32", "attn.differentiate")
            launches[name] = bind(library, case, operands, text, "")
    case.score, case.bias = "sigmoid", "scalar"
    launches["sigmoid-forward"] = bind(
        library, case, operands, generate(args.attnc, case, False), "")
    for name, schedule in args.variant:
        if not shape.startswith(name.partition(":")[0]):
            continue
        text = generate(args.attnc, case, True, "one_kernel" not in schedule)
        text = text.replace("attn.differentiate = f32", "attn.differentiate")
        kept = {"query": ("query",), "key": ("key", "value")}.get(
            name.partition("/")[2], ("query", "key", "value"))
        for x in ("query", "key", "value"):
            if x not in kept:
                text = text.replace(f'"{x}", attn.gradient', f'"{x}"')
        if schedule.startswith("@"):
            with open(schedule[1:]) as file:
                text, schedule = file.read(), ""
        launches[name] = bind(library, case, operands, text, schedule)
    return launches


def bench_one(args, library, d, n, causal):
    case = Case("bench", d=d, rows=n, batch=16384 // n, heads=2048 // d,
                causal=causal)
    operands = make_operands(case, 0)
    flops = 10 * case.batch * case.heads * n * n * d / (2 if causal else 1)
    shape = f"d{d}-{'causal' if causal else 'full'}-n{n}"
    launches = {}
    if d <= 128:  # cuDNN's backward takes no wider heads
        launches = peers(operands[:3], operands[3], causal)
    launches.update(own(args, library, case, operands, shape))
    ms = median_ms(launches, args.bench)
    line = {"d": d, "n": n, "causal": causal,
            "TFLOP/s": {name: flops / time * 1e-9 for name, time in ms.items()
                        if "forward" not in name}}
    text = " ".join(f"{x} {y:.0f}" for x, y in line["TFLOP/s"].items())
    if "cudnn" in ms:
        line["ratio"] = ms["cudnn"] / ms["sigmoid"]
        line["ratio_with_forward"] = (
            (ms["cudnn-forward"] + ms["cudnn"]) /
            (ms["sigmoid-forward"] + ms["sigmoid"]))
        text += (f", sigmoid / cudnn {line['ratio']:.2f}, with the forward "
                 f"{line['ratio_with_forward']:.2f}")
    print(f"bench {shape}: {text}", flush=True)
    return line


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--attnc", required=True)
    parser.add_argument("--harness", required=True)
    parser.add_argument("--only", nargs="*", default=["*"])
    parser.add_argument("--json")
    parser.add_argument("--bench", nargs="?", type=float, const=0.3)
    parser.add_argument("--bench-dims", type=int, nargs="*",
                        default=[64, 128, 256])
    parser.add_argument("--variant", nargs=2, action="append", default=[],
                        metavar=("NAME", "SCHEDULE"))
    args = parser.parse_args()
    library = harness.load_library(args.harness)
    report, failed = {"cases": {}}, 0
    wanted = [case for case in cases()
              if any(fnmatch.fnmatch(case.name, p) for p in args.only)]
    for case, programs in harness.built_ahead(
            wanted, lambda case: build(args, library, case)):
        try:
            worst = check(case, programs.result())
            print(f"ok   {case.name}: {worst:.2f} of the bound", flush=True)
            report["cases"][case.name] = worst
        except Exception as error:  # one case must not take the others along
            failed += 1
            print(f"FAIL {case.name}: {error}", flush=True)
            if not isinstance(error, AssertionError):
                traceback.print_exc()
            report["cases"][case.name] = str(error)
    if args.bench:
        report["bench"] = bench(args, library)
    if args.json:
        with open(args.json, "w") as file:
            json.dump(report, file, indent=1)
    print(f"{len(wanted) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
