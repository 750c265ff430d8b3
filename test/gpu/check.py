#!/usr/bin/env python3
"""Checks compiled kernels on this machine's GPU against float64.

    check.py --attnc build/bin/attnc --harness build/lib/libattnc-gpu-harness.so
             [--only PATTERN] [--json OUT]

Every case: fresh random inputs inside memory filled with NaN, K and V beyond
the key length NaN, output poisoned, memory around the output intact, two runs
bit-identical, error at most 1.10 of the model's (rule A-half of
docs/semantics.md) with an f32 output, and one more rounding with a half one.
"""

import argparse
import dataclasses
import fnmatch
import json
import math
import os
import signal
import subprocess
import sys
import time
import traceback
import zlib

import torch

import coverage
import harness
import reference
from cases import Attention

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
SECONDS_A_CASE = 30
GUARD = 1 << 12  # elements around every tensor; keeps 16-byte alignment


@dataclasses.dataclass
class Case(Attention):
    flags: str = ""            # of attnc gen, beside what the others say
    out_dtype: str = "f32"
    bias: object = "-ln n"     # a number, "-ln n", or a kind of gen's --bias
    mask: bool = False
    masks: tuple = ()          # of "documents", "dilated" and "predicate"
    align: str = "bottom_right"
    packed: bool = False       # q, k, v are slices of one tensor
    mean: float = 0.0          # of V
    loud: int = 0              # keys in a row that are 0.1, 30 or 4 times K
    schedule: str = ""
    any_layout: bool = False
    views: str = "dense"       # how rows lie in memory, see place()
    sample: int = 0            # heads to compare; 0: all of them


def cases():
    result = []

    def add(name, **fields):
        result.append(Case(name, **fields))

    for d in (64, 128, 256):
        add(f"sigmoid-d{d}", d=d)
        add(f"sigmoid-d{d}-b0", d=d, bias=0.0, std=2.0)
        add(f"sigmoid-d{d}-n2048", d=d, rows=2048, heads=4)
        add(f"sigmoid-d{d}-causal", d=d, rows=640, causal=True)
        add(f"softmax-d{d}", d=d, rows=512, score="softmax")
        add(f"softmax-d{d}-causal", d=d, rows=512, score="softmax",
            causal=True)
        for rows, keys in ((1, 1), (17, 17), (127, 1023), (200, 300)):
            add(f"sigmoid-d{d}-{rows}x{keys}", d=d, rows=rows, keys=keys)
            add(f"softmax-d{d}-{rows}x{keys}", d=d, rows=rows, keys=keys,
                score="softmax")
        add(f"sigmoid-d{d}-half-out", d=d, out_dtype="bf16", rows=300)
        add(f"sigmoid-d{d}-f16", d=d, dtype="f16", rows=300)
        add(f"sigmoid-d{d}-causal-more-keys", d=d, rows=130, keys=700,
            causal=True)
        add(f"sigmoid-d{d}-window", d=d, rows=700, window=(100, 0))
        add(f"sigmoid-d{d}-gqa-bshd", d=d, heads=8, kv_heads=2, rows=260,
            batch=2, layout="bshd")
        add(f"sigmoid-d{d}-k_len", d=d, batch=3, rows=200, keys=500,
            k_len=(0, 137, 500))
        add(f"softmax-d{d}-k_len", d=d, batch=3, rows=200, keys=500,
            k_len=(0, 137, 500), score="softmax")
    for d in (32, 80, 96, 112, 160, 192, 224):
        add(f"sigmoid-d{d}", d=d, rows=300)
        add(f"sigmoid-d{d}-causal", d=d, rows=300, causal=True)
        add(f"softmax-d{d}", d=d, rows=300, score="softmax")
    for d in (1, 7, 40, 65, 129, 255):
        add(f"sigmoid-d{d}", d=d, rows=130)
    # Outputs of 16 bits go through shared memory where rows are aligned.
    for d in (7, 32, 40, 80, 96, 192, 224):
        add(f"sigmoid-d{d}-half-out", d=d, out_dtype="bf16", rows=130)
    add("sigmoid-f16-half-out", dtype="f16", out_dtype="f16", rows=300)
    add("sigmoid-dv-half-out", d=128, dv=64, out_dtype="bf16", rows=300)
    add("sigmoid-dv-larger-half-out", d=64, dv=128, out_dtype="bf16", rows=300)
    add("sigmoid-bshd-half-out", out_dtype="bf16", rows=260, heads=6,
        batch=2, layout="bshd")
    add("softmax-causal-half-out", out_dtype="bf16", rows=333, heads=3,
        causal=True, score="softmax")
    # Two blocks of keys in turn: none, one, an odd number, masked ones.
    for d, block in ((64, "block_m=192,block_n=64,consumers=3,stages=4"),
                     (128, "block_m=128,block_n=96,consumers=2,stages=3"),
                     (256, "block_m=128,block_n=48,consumers=2,stages=3")):
        tiles = f"{block},order=two_tiles,slice=16,staged=true"
        for keys in (1, 64, 100, 192, 500, 960):
            add(f"two-tiles-d{d}-{keys}", d=d, rows=200, keys=keys,
                schedule=tiles)
        add(f"two-tiles-d{d}-causal", d=d, rows=900, causal=True, heads=3,
            schedule=tiles)
        add(f"two-tiles-d{d}-window", d=d, rows=700, window=(300, 0),
            schedule=tiles)
        add(f"two-tiles-d{d}-k_len", d=d, batch=3, rows=200, keys=500,
            k_len=(0, 137, 500), out_dtype="bf16", schedule=tiles)
    add("two-tiles-linear", score="linear", rows=300, keys=700, d=64,
        schedule="block_m=128,block_n=64,consumers=2,stages=3,"
                 "order=two_tiles,slice=16,persistent=true")
    # More items than multiprocessors, with and without a remainder.
    persistent = ("block_m=192,block_n=80,consumers=3,stages=4,order=overlap,"
                  "slice=16,persistent=true,staged=true")
    for causal in (False, True):
        for out in ("f32", "bf16"):
            add(f"sigmoid-persistent{'-causal' * causal}-{out}", d=128,
                rows=700, heads=40, batch=3, causal=causal, out_dtype=out,
                schedule=persistent)
    add("sigmoid-persistent-few", d=128, rows=400, heads=2, causal=True,
        schedule=persistent)
    add("sigmoid-no-keys", rows=100, keys=-1)
    add("sigmoid-dv", d=128, dv=64, rows=300)
    add("sigmoid-dv-larger", d=64, dv=128, rows=300)
    add("sigmoid-qkv-packed", rows=300, heads=4, layout="bshd", packed=True)
    add("sigmoid-alibi", rows=300, heads=4, alibi=True)
    add("softmax-alibi-causal", rows=300, heads=4, alibi=True, causal=True,
        score="softmax")
    add("sigmoid-mask", rows=300, mask=True, batch=2)
    add("sigmoid-gate", rows=300, gate=True)
    for kind in ("head", "key", "full"):
        add(f"sigmoid-bias-{kind}", rows=300, heads=4, bias=kind, batch=2)
    add("softmax-lse", rows=300, score="softmax", flags="--lse")
    for score in ("relu", "relu2", "silu", "softplus", "poly", "linear",
                  "softcap"):
        add(f"{score}-d128", score=score, rows=300)
    for std in (2.0, 4.0):
        add(f"sigmoid-std{std:.0f}", rows=1024, std=std)
    for d in (64, 128, 256):
        for run in (40, 64, 300):
            add(f"sigmoid-loud{run}-d{d}", d=d, rows=1024, loud=run)
        add(f"sigmoid-loud100-causal-d{d}", d=d, rows=1024, loud=100,
            causal=True)
    add("sigmoid-mean1", rows=1024, mean=1.0)
    add("sigmoid-n8192", rows=8192, heads=1)
    add("sigmoid-n65536-d64", rows=1024, keys=65536, heads=1, d=64)
    add("sigmoid-many-heads", batch=70, heads=1024, rows=16, d=64, sample=64)
    # Few queries and many keys: keys are split in ranges.
    for d in (64, 128, 192, 256):
        for score in ("sigmoid", "softmax"):
            add(f"split-{score}-d{d}", d=d, rows=3, keys=5000, score=score)
            add(f"split-{score}-d{d}-half-out", d=d, rows=16, keys=3001,
                heads=8, kv_heads=2, batch=3, causal=True, score=score,
                out_dtype="bf16", layout="bshd")
    for score in ("sigmoid", "softmax"):
        add(f"split-{score}-lengths", rows=5, keys=4096, batch=4, score=score,
            k_len=(0, 137, 4096, 1500), q_len=(5, 1, 0, 3))
        add(f"split-{score}-window", rows=2, keys=9000, score=score,
            window=(700, 0), heads=4)
        add(f"split-{score}-n65536", rows=1, keys=65536, score=score, d=64)
        add(f"split-{score}-odd-d59", d=59, rows=4, keys=2500, score=score)
        add(f"split-{score}-any-layout", rows=4, keys=2500, score=score,
            views="odd", any_layout=True)
    # Rows of all heads that share a key head in one block.
    for score in ("sigmoid", "softmax"):
        for heads, kv_heads, rows in ((8, 1, 1), (16, 2, 16), (6, 2, 7),
                                      (5, 1, 13), (14, 2, 3)):
            add(f"split-{score}-packed-{heads // kv_heads}x{rows}",
                heads=heads, kv_heads=kv_heads, rows=rows, keys=4500,
                batch=2, causal=True, score=score, d=64,
                layout="bshd" if rows == 7 else "bhsd")
    add("split-sigmoid-packed-lengths", heads=6, kv_heads=2, rows=9,
        keys=3000, batch=3, k_len=(3000, 0, 1700), q_len=(9, 4, 0))
    add("split-softmax-packed-any-layout", heads=6, kv_heads=2, rows=5,
        keys=2500, score="softmax", views="odd", any_layout=True)
    add("split-sigmoid-packed-mask", heads=6, kv_heads=2, rows=4, keys=4000,
        mask=True, batch=2, gate=True)
    for kind in ("head", "key", "full"):
        add(f"split-softmax-packed-bias-{kind}", rows=3, keys=4000, heads=6,
            kv_heads=2, bias=kind, batch=2, score="softmax")
    # Few items: less tall blocks, or keys split, whatever a call prefers.
    for d in (64, 128, 192, 256):
        for score in ("sigmoid", "softmax"):
            for causal in (False, True):
                add(f"split-short-{score}-d{d}{'-causal' * causal}", d=d,
                    rows=1100, heads=3, score=score, causal=causal,
                    out_dtype="bf16")
            add(f"split-items-{score}-d{d}", d=d, rows=700, keys=900, heads=3,
                score=score, causal=True, schedule="few_items")
    for score in ("sigmoid", "softmax"):
        add(f"split-items-{score}-lengths", rows=200, keys=500, batch=3,
            score=score, k_len=(0, 137, 500), schedule="few_items")
        add(f"split-items-{score}-window", rows=700, score=score, heads=2,
            window=(100, 0), schedule="few_items")
        add(f"split-items-{score}-odd-d59", d=59, rows=300, score=score,
            schedule="few_items", out_dtype="bf16")
        add(f"split-items-{score}-gqa-bshd", rows=260, heads=8, kv_heads=2,
            batch=2, layout="bshd", score=score, schedule="few_items")
    add("split-items-alibi-gate", rows=300, heads=4, alibi=True, gate=True,
        schedule="few_items")
    add("split-items-bias", rows=300, heads=4, bias="full", batch=2,
        schedule="few_items")
    # Consumers whose rows need fewer keys than their block, of each range.
    for score in ("sigmoid", "softmax"):
        for splits in (2, 3):
            add(f"split-{score}-causal-{splits}-of-three", d=128, rows=1000,
                heads=3, causal=True, score=score,
                schedule="block_m=192,block_n=80,consumers=3,stages=3,"
                         f"order=overlap,slice=40,splits={splits}")
    add("split-softmax-lse", rows=7, keys=6000, score="softmax", flags="--lse",
        heads=5, d=64)
    add("split-sigmoid-gate", rows=4, keys=4000, gate=True, heads=3)
    add("split-sigmoid-mask", rows=4, keys=4000, mask=True, batch=2)
    add("split-sigmoid-alibi", rows=4, keys=4000, alibi=True, heads=8,
        kv_heads=4)
    for kind in ("head", "key", "full"):
        add(f"split-sigmoid-bias-{kind}", rows=3, keys=4000, heads=4,
            bias=kind, batch=2)
    for score in ("relu2", "silu", "softplus", "softcap"):
        add(f"split-{score}", score=score, rows=3, keys=4000)
    coverage.add_cases(add)
    return result


# Maps of captured operands that gen does not write: of (b, h, i, j), and the
# rank.
BIAS_MAPS = {"bh": ("b, h", 2), "row": ("i", 1), "column": ("j", 1),
             "diagonal": ("i - j + 31", 1)}
DIAGONALS = 64


def with_map(text, kind):
    """IR that adds a full bias, with another map for it."""
    dims, rank = BIAS_MAPS[kind]
    lines = []
    for line in text.splitlines():
        if "%bias" in line:
            line = line.replace("-> (b, h, i, j)", f"-> ({dims})")
            line = line.replace("tensor<?x?x?x?xf32>",
                                f"tensor<{'?x' * rank}f32>")
        lines.append(line)
    return "\n".join(lines) + "\n"


# Keys of the query's parity, but for key 5.
PREDICATE = """\
  %predicate = attn.predicate_mask {
  ^bb0(%pb: i32, %ph: i32, %pi: i32, %pj: i32):
    %two = arith.constant 2 : i32
    %five = arith.constant 5 : i32
    %r = arith.remsi %pi, %two : i32
    %c = arith.remsi %pj, %two : i32
    %same = arith.cmpi eq, %r, %c : i32
    %other = arith.cmpi ne, %pj, %five : i32
    %keep = arith.andi %same, %other : i1
    attn.yield %keep : i1
  }
"""


def with_predicate(text):
    """IR whose masks are joined by one that gen does not write."""
    lines = []
    for line in text.splitlines(keepends=True):
        if line.lstrip().startswith("%masked = "):
            lines.append(PREDICATE)
            line = line.replace(" by ", " by %predicate, ")
        lines.append(line)
    return "".join(lines)


def generate(attnc, case):
    """The IR of a case."""
    flags = [f"--score={case.score}", f"--head-dim={case.d}",
             f"--value-head-dim={case.dv}", f"--dtype={case.dtype}",
             f"--out-dtype={case.out_dtype}", f"--layout={case.layout}"]
    generic = case.bias in BIAS_MAPS
    if isinstance(case.bias, str) and case.bias != "-ln n":
        flags.append(f"--bias={'full' if generic else case.bias}")
    if case.causal:
        flags.append(f"--causal={case.align}")
    if case.window:
        flags.append("--window={},{}".format(*case.window))
    for kind in ("tensor",) * case.mask + case.masks:
        if kind != "predicate":
            flags += ["--mask", f"{kind}:3" if kind == "dilated" else kind]
    for name, wanted in (("--kv-len", case.k_len is not None),
                         ("--q-len", case.q_len is not None),
                         ("--alibi", case.alibi), ("--gate", case.gate)):
        if wanted:
            flags.append(name)
    done = subprocess.run([attnc, "gen", *flags, *case.flags.split()],
                          capture_output=True, text=True)
    if done.returncode:
        raise harness.CompileError(done.stderr)
    text = with_map(done.stdout, case.bias) if generic else done.stdout
    return with_predicate(text) if "predicate" in case.masks else text


def guarded(tensor, fill):
    """The tensor inside memory filled with `fill`; (view, whole)."""
    whole = torch.full((tensor.numel() + 2 * GUARD,), fill,
                       dtype=tensor.dtype, device=tensor.device)
    view = whole[GUARD:GUARD + tensor.numel()].view(tensor.shape)
    view.copy_(tensor)
    return view, whole


def random(shape, dtype):
    return torch.randn(shape, device="cuda").to(dtype)


class Reversed:
    """A tensor whose dim 2 runs backwards in memory; torch has no such."""

    def __init__(self, stored):
        self.stored, self.shape = stored, stored.shape

    def dim(self):
        return 4

    def stride(self, dim):
        return -self.stored.stride(2) if dim == 2 else self.stored.stride(dim)

    def data_ptr(self):
        rows = max(self.shape[2] - 1, 0)
        return (self.stored.data_ptr() +
                rows * self.stored.stride(2) * self.stored.element_size())


# Elements before each row, and so the alignment of rows.
PADDING = {"odd": 1, "four": 2, "eight": 4, "sixteen": 8}


def place(x, case, fill=float("nan")):
    """(B, H, S, D) elements as the case has them in memory filled with `fill`:
    a view of the same dims and the whole memory."""
    rows = x.transpose(1, 2) if case.layout == "bshd" else x
    if case.views == "transposed":
        rows = rows.transpose(2, 3)
    padding = PADDING.get(case.views, 0)
    shape = (*rows.shape[:-1], rows.shape[-1] + padding)
    # Nothing around it: a memory checker sees every byte beyond.
    guard = 0 if case.views == "tight" else GUARD
    whole = torch.full((math.prod(shape) + 2 * guard,), fill, dtype=x.dtype,
                       device=x.device)
    view = whole[guard:guard + math.prod(shape)].view(shape)[..., padding:]
    view.copy_(rows)
    if case.views == "transposed":
        view = view.transpose(2, 3)
    return (view.transpose(1, 2) if case.layout == "bshd" else view), whole


def make_tensors(case):
    """q, k, v as (B, H, S, D) views of the layout's storage."""
    keys = max(case.keys, 0)
    dtype = DTYPES[case.dtype]
    if case.packed:
        shape = (case.batch, case.rows, 3, case.heads, case.d)
        whole, _ = guarded(random(shape, dtype), float("nan"))
        return [whole[:, :, i].transpose(1, 2) for i in range(3)]
    # s / sqrt(d) has the wanted deviation if q has.
    q = random((case.batch, case.heads, case.rows, case.d), torch.float32)
    q, _ = place((q * case.std).to(dtype), case)
    k = random((case.batch, case.kv_heads, keys, case.d), torch.float32)
    if case.loud:
        factors = torch.tensor([1, 0.1, 30, 4], device=k.device)
        run = torch.arange(keys, device=k.device) // case.loud % 4
        k *= factors[run][:, None]
    k, _ = place(k.to(dtype), case)
    v = random((case.batch, case.kv_heads, keys, case.dv), torch.float32)
    v, _ = place((v + case.mean).to(dtype), case)
    for b, length in enumerate(case.k_len or ()):
        k[b, :, length:] = float("nan")
        v[b, :, length:] = float("nan")
    for b, length in enumerate(case.q_len or ()):
        q[b, :, length:] = float("nan")
    return [q, k, v]


def make_problem(case):
    q, k, v = make_tensors(case)
    problem = reference.Problem(q, k, v, score=case.score, causal=case.causal,
                                window=case.window)
    shapes = {"head": (case.heads,), "key": (case.batch, case.keys),
              "bh": (case.batch, case.heads), "row": (case.rows,),
              "column": (case.keys,), "diagonal": (DIAGONALS,),
              "full": (case.batch, case.heads, case.rows, case.keys)}
    if case.bias in shapes:
        problem.bias = random(shapes[case.bias], torch.float32) - 3
        problem.bias_kind = case.bias
    elif case.score == "sigmoid":
        problem.bias = (-math.log(max(case.keys, 1)) if case.bias == "-ln n"
                        else case.bias)
    if case.score in ("relu2", "silu", "poly", "linear"):
        problem.weight_scale = 1 / max(case.keys, 1)
    if case.score == "softcap":
        problem.cap = 50.0
    if case.alibi:
        problem.slopes = torch.tensor(
            [2 ** (-8 * (h + 1) / case.heads) for h in range(case.heads)],
            device="cuda")
    for name in ("k_len", "q_len"):
        if getattr(case, name) is not None:
            setattr(problem, name, torch.tensor(
                getattr(case, name), dtype=torch.int32, device="cuda"))
    if case.mask:
        problem.mask = torch.rand(case.batch, case.rows, case.keys,
                                  device="cuda") < 0.7
    if "documents" in case.masks:
        problem.q_ids, problem.k_ids = (
            (torch.arange(n, device="cuda") // 70).int().repeat(case.batch, 1)
            for n in (case.rows, case.keys))
    if "dilated" in case.masks:
        problem.stride = 3
    problem.parity = "predicate" in case.masks
    problem.align = case.align
    if case.gate:
        problem.gate = random((case.batch, case.heads, case.rows, case.dv),
                              DTYPES[case.out_dtype])
    return problem


def to_layout(case, x):
    """A (B, H, S, D) tensor as the program takes it."""
    return x.transpose(1, 2) if case.layout == "bshd" else x


def operand(case, x):
    """The same for a query, key or value."""
    if case.views == "reversed":
        return Reversed(x.flip(2))
    return to_layout(case, x)


def values_for(program, case, problem, output, lse):
    """The program's arguments by name."""
    known = {"query": operand(case, problem.query),
             "key": operand(case, problem.key),
             "value": operand(case, problem.value), "output": output,
             "lse": lse, "bias": problem.bias, "slopes": problem.slopes,
             "k_len": problem.k_len, "q_len": problem.q_len,
             "mask": problem.mask, "q_ids": problem.q_ids,
             "k_ids": problem.k_ids, "stride": problem.stride,
             "gate": problem.gate is not None and
             to_layout(case, problem.gate), "weight_scale": problem.weight_scale,
             "cap": problem.cap,
             "window_left": problem.window and problem.window[0],
             "window_right": problem.window and problem.window[1]}
    return {a["name"]: known[a["name"]] for a in program.arguments}


def run_once(program, case, problem, poison):
    """One launch into poisoned memory: output (B, H, S, D), lse, untouched."""
    shape = (case.batch, case.heads, case.rows, case.dv)
    output, whole = place(torch.full(shape, poison, device="cuda",
                                     dtype=DTYPES[case.out_dtype]), case, 7.0)
    lse, _ = guarded(torch.full((case.batch, case.heads, case.rows), poison,
                                device="cuda"), 7.0)
    program.bind(**values_for(program, case, problem,
                              to_layout(case, output), lse))()
    torch.cuda.synchronize()
    result = output.clone()
    output.fill_(7.0)
    return result, lse, bool((whole == 7).all())


def compared_heads(case):
    """(b, h) of the heads to compare, the first and the last among them."""
    pairs = [(b, h) for b in range(case.batch) for h in range(case.heads)]
    if not case.sample:
        return pairs
    count = case.sample - 1
    return [pairs[k * (len(pairs) - 1) // count] for k in range(count + 1)]


def bits(x):
    return x.contiguous().view(torch.int8)


def check(case, program):
    torch.manual_seed(zlib.crc32(case.name.encode()))
    record = {"name": case.name}
    record["milliseconds"] = program.description["milliseconds"]
    record["clean"] = program.description["clean"]
    record["warnings"] = program.description["warnings"]
    problem = make_problem(case)
    first, lse, intact = run_once(program, case, problem, float("nan"))
    second, lse2, _ = run_once(program, case, problem, 3.0)
    heads = compared_heads(case)
    exact, model, want_lse = reference.compute(problem, heads)
    got = torch.zeros_like(exact)
    for n, (b, h) in enumerate(heads):
        got[n] = first[b, h]
    bound = 1.10 * reference.relative_error(model, exact) + 2 ** -20
    if case.out_dtype != "f32":
        rounded = model.to(DTYPES[case.out_dtype])
        bound = 1.10 * reference.relative_error(rounded, exact) + 2 ** -20
    record["error"] = reference.relative_error(got, exact)
    record["bound"] = bound
    complaints = []
    if not record["error"] <= bound:
        complaints.append("error")
    if first.isnan().any():
        complaints.append("NaN")
    if not (torch.equal(bits(first), bits(second)) and
            (case.score != "softmax" or "--lse" not in case.flags or
             torch.equal(bits(lse), bits(lse2)))):
        complaints.append("two runs differ")
    if not intact:
        complaints.append("wrote outside the output")
    if not record["clean"]:
        complaints.append("machine code not clean")
    if "--lse" in case.flags:
        got = torch.stack([lse[b, h] for b, h in heads]).double()
        same = got == want_lse  # both -inf where a row has no key
        record["lse_error"] = torch.where(
            same, 0, got - want_lse).abs().max().item()
        if not record["lse_error"] <= 1e-4:
            complaints.append("lse")
    record["ok"] = not complaints
    record["message"] = ", ".join(complaints)
    return record


def build(case, attnc, library):
    return harness.Program(library, generate(attnc, case), case.schedule,
                           any_layout=case.any_layout)


def run(case, future):
    start = time.time()
    try:
        record = check(case, future.result())
    except harness.CompileError as error:
        record = {"name": case.name, "ok": False,
                  "message": "not compiled: " + str(error).strip()[:300]}
    except Exception as error:  # a launch that fails takes the context along
        record = {"name": case.name, "ok": False,
                  "message": f"{type(error).__name__}: {error}"[:300],
                  "trace": traceback.format_exc()[-1500:]}
    record["seconds"] = round(time.time() - start, 3)
    if case.name.startswith("large"):
        torch.cuda.empty_cache()
    return record


def is_context_lost(record):
    return any(word in record["message"] for word in ("CUDA error", "CUDA:"))


def save(path, records):
    with open(path, "w") as file:
        json.dump(records, file, indent=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--attnc", required=True)
    parser.add_argument("--harness", required=True)
    parser.add_argument("--only", nargs="*", default=["*"])
    parser.add_argument("--json", default="gpu-checks.json")
    parser.add_argument("--resume", action="store_true",
                        help="keep the records of --json, run what is not "
                             "in them")
    args = parser.parse_args()
    records = []
    if args.resume and os.path.exists(args.json):
        with open(args.json) as file:
            records = json.load(file)
    done = {record["name"] for record in records}
    library = harness.load_library(args.harness)
    chosen = [case for case in cases() if case.name not in done and
              any(fnmatch.fnmatch(case.name, p) for p in args.only)]
    for case, future in harness.built_ahead(
            chosen, lambda case: build(case, args.attnc, library)):
        # A kernel that never ends ends this process, and the record stays.
        save(args.json, records + [{"name": case.name, "ok": False,
                                    "message": "did not finish"}])
        signal.alarm(SECONDS_A_CASE)
        record = run(case, future)
        signal.alarm(0)
        records.append(record)
        print("{:4} {:32} {}".format(
            "ok" if record["ok"] else "FAIL", record["name"],
            "error {error:.2e} bound {bound:.2e} ".format(**record)
            if "error" in record else "") + record["message"], flush=True)
        save(args.json, records)
        if is_context_lost(record):  # only another process gets a new one
            os.execv(sys.executable, [sys.executable, *sys.argv] +
                     ["--resume"] * (not args.resume))
    failed = sum(not r["ok"] for r in records)
    print(f"GPU checks: {len(records) - failed} passed, {failed} failed")
    sys.exit(1 if failed or not records else 0)


if __name__ == "__main__":
    main()
