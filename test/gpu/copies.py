#!/usr/bin/env python3
"""Cooperative copies against bulk copies (TMA), on one GPU in one run.

    test/gpu/copies.py --attnc build/bin/attnc \\
        --harness build/lib/libattnc-gpu-harness.so [--json OUT]

The same attention on the same numbers, whose rows begin at multiples of 16,
4 or 2 bytes: bulk copies, then `--any-layout` for each. The ratio is to bulk
copies; it should be 0.5 or more.
"""

import argparse
import json
import math
import os
import subprocess
import sys

import torch

import harness

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..",
                                "benchmarks"))
import attention  # noqa: E402

# Name, elements before each row, any layout.
WAYS = (("bulk copies", 0, False), ("16 bytes", 8, True),
        ("4 bytes", 2, True), ("2 bytes", 1, True))


def padded(x, padding):
    """The same numbers with rows `padding` elements apart."""
    whole = torch.empty((*x.shape[:-1], x.shape[-1] + padding), dtype=x.dtype,
                        device=x.device)
    whole[..., padding:] = x
    return whole[..., padding:]


def build(args, library, score, d, any_layout):
    text = subprocess.run(
        [args.attnc, "gen", f"--score={score}", f"--head-dim={d}",
         "--dtype=bf16"], check=True, capture_output=True, text=True).stdout
    return harness.Program(library, text, any_layout=any_layout)


def launcher(program, tensors, padding, n):
    q, k, v = (padded(x, padding) for x in tensors)
    output = torch.empty_like(tensors[0])
    return program.bind_of(query=q, key=k, value=v, output=output,
                           bias=-math.log(n)), output


def measure(args, library, score, d, n):
    heads, batch = attention.CHANNELS // d, max(1, attention.TOKENS // n)
    torch.manual_seed(0)
    tensors = [torch.randn(batch, heads, n, d, device="cuda").bfloat16()
               for _ in range(3)]
    rows, want, bulk = [], None, None
    for name, padding, any_layout in WAYS:
        program = build(args, library, score, d, any_layout)
        launch, output = launcher(program, tensors, padding, n)
        launch()
        torch.cuda.synchronize()
        want = output.double() if want is None else want
        error = ((output.double() - want).norm() / want.norm()).item()
        ms = attention.median_ms(launch, args.seconds)[0]
        bulk = bulk or ms
        flops = 4 * batch * heads * n * n * d
        rows.append({"score": score, "d": d, "n": n, "copies": name,
                     "teraflops": flops / ms * 1e-9, "ratio": bulk / ms,
                     "difference": error})
        print("{score} d{d} n={n} {copies:12} {teraflops:6.1f} TFLOP/s ratio "
              "{ratio:.2f} difference {difference:.1e}".format(**rows[-1]),
              flush=True)
    # An odd head dim leaves nothing but words that are shifted.
    tensors = [x[..., :d - 1].contiguous() for x in tensors]
    program = build(args, library, score, d - 1, False)
    launch, _ = launcher(program, tensors, 0, n)
    ms = attention.median_ms(launch, args.seconds)[0]
    rows.append({"score": score, "d": d - 1, "n": n, "copies": "odd head dim",
                 "teraflops": flops / ms * 1e-9, "ratio": bulk / ms})
    print(f"{score} d{d - 1} n={n} odd head dim: ratio {bulk / ms:.2f}",
          flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--attnc", required=True)
    parser.add_argument("--harness", required=True)
    parser.add_argument("--head-dims", type=int, nargs="*",
                        default=[64, 128, 256])
    parser.add_argument("--lengths", type=int, nargs="*",
                        default=[16384, 2048])
    parser.add_argument("--scores", nargs="*", default=["sigmoid"])
    parser.add_argument("--seconds", type=float, default=0.06)
    parser.add_argument("--json")
    args = parser.parse_args()
    library = harness.load_library(args.harness)
    rows = []
    for score in args.scores:
        for d in args.head_dims:
            for n in args.lengths:
                rows += measure(args, library, score, d, n)
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"device": torch.cuda.get_device_properties(0).name,
                       "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
