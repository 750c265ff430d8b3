#!/usr/bin/env python3
"""Few queries and many keys: K and V read a second, beside a copy on the same GPU.

    benchmarks/decode.py --attnc build/bin/attnc \\
        --harness build/lib/libattnc-gpu-harness.so [--json OUT]

Sigmoid and softmax attention of sq queries (1, 16) over sk = 32k keys, for
batch * key heads 8 and 32, groups of 1 and 8 query heads a key head, head dims
64 and 128, bf16. Bandwidth counts the bytes of K and V once. The copy is from
device memory to device memory and counts what it reads and writes. The other
peer is torch's SDPA with whatever backend it takes by itself. Readings as in
attention.py: medians of single launches with the L2 cache flushed between
them, in turns. Results are checked against float64 first.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "test",
                                "gpu"))
import harness  # noqa: E402
from attention import (command_line, commit, in_turn, median_ms,  # noqa: E402
                       run_twice)


class Problem:
    def __init__(self, d, kv_heads, group, rows, keys):
        self.d, self.kv_heads, self.group = d, kv_heads, group
        self.rows, self.keys = rows, keys
        torch.manual_seed(0)

        def random(heads, length):
            return torch.randn((1, heads, length, d), device="cuda").bfloat16()

        self.q = random(kv_heads * group, rows)
        self.k, self.v = random(kv_heads, keys), random(kv_heads, keys)
        self.bytes = 2 * self.k.numel() * 2

    @property
    def name(self):
        return (f"d{self.d} B*Hkv={self.kv_heads} group={self.group} "
                f"sq={self.rows}")

    def ours(self, program):
        output = torch.full_like(self.q, float("nan"))
        return program.bind_of(
            query=self.q, key=self.k, value=self.v, output=output,
            bias=-math.log(self.keys)), output

    def torch(self):
        def launch():
            F.scaled_dot_product_attention(self.q, self.k, self.v,
                                           enable_gqa=self.group > 1)
        return launch

    def error(self, output, score):
        """Relative, against float64; all heads of one key head."""
        worst = 0
        for kv in (0, self.kv_heads - 1):
            heads = slice(kv * self.group, (kv + 1) * self.group)
            s = self.q[0, heads].double() @ self.k[0, kv].double().T
            s = s * self.d ** -0.5
            p = (torch.sigmoid(s - math.log(self.keys)) if score == "sigmoid"
                 else torch.softmax(s, -1))
            want = p @ self.v[0, kv].double()
            off = (output[0, heads].double() - want).norm() / want.norm()
            worst = max(worst, off.item())
        return worst


def copy_of(numbers):
    source = torch.empty(numbers, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def build(args, library, score, d):
    text = subprocess.run(
        [args.attnc, "gen", f"--score={score}", f"--head-dim={d}",
         "--dtype=bf16"], check=True, capture_output=True, text=True).stdout
    return harness.Program(library, text, args.schedule)


def measure(args, programs, problem):
    """name -> gigabytes a second, and errors."""
    # As many bytes moved as K and V have.
    launches = {"copy": copy_of(problem.bytes // 2), "SDPA": problem.torch()}
    errors = {}
    for (score, d), program in programs.items():
        if d != problem.d:
            continue
        launch, output = problem.ours(program)
        run_twice(launch, output, problem.name)
        errors[score] = problem.error(output, score)
        launches[score] = launch
    readings = {name: [] for name in launches}
    for name in in_turn(launches, args.passes):
        readings[name].append(median_ms(launches[name], args.seconds)[0])
    rates = {name: problem.bytes / statistics.median(ms) * 1e-6
             for name, ms in readings.items()}
    return {"problem": problem.name, "gigabytes_a_second": rates,
            "milliseconds": readings, "errors": errors}


def line(result):
    rates = result["gigabytes_a_second"]
    text = f"{result['problem']:32} copy {rates['copy']:5.0f} GB/s"
    for name, rate in rates.items():
        if name != "copy":
            text += f"   {name} {rate:5.0f} {rate / rates['copy']:.2f}"
    worst = max(result["errors"].values())
    return text + f"   error {worst:.1e}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--attnc", required=True)
    parser.add_argument("--harness", required=True)
    parser.add_argument("--head-dims", type=int, nargs="*", default=[64, 128])
    parser.add_argument("--kv-heads", type=int, nargs="*", default=[8, 32])
    parser.add_argument("--groups", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 16])
    parser.add_argument("--keys", type=int, default=32768)
    parser.add_argument("--scores", nargs="*", default=["sigmoid", "softmax"])
    parser.add_argument("--schedule", default="")
    parser.add_argument("--passes", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=0.01)
    parser.add_argument("--budget", type=float, default=1e9)
    parser.add_argument("--json")
    args = parser.parse_args()
    start = time.time()
    library = harness.load_library(args.harness)
    programs = {(score, d): build(args, library, score, d)
                for score in args.scores for d in args.head_dims}
    results = []
    for d in args.head_dims:
        for kv_heads in args.kv_heads:
            for group in args.groups:
                for rows in args.rows:
                    if time.time() - start > args.budget:
                        continue
                    results.append(measure(args, programs, Problem(
                        d, kv_heads, group, rows, args.keys)))
                    print(line(results[-1]), flush=True)
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"command": command_line(), "commit": commit(),
                       "device": torch.cuda.get_device_name(),
                       "torch": torch.__version__, "keys": args.keys,
                       "results": results}, file, indent=1)
    bad = [r for r in results if max(r["errors"].values()) > 1e-2]
    if bad:
        sys.exit("wrong: " + ", ".join(r["problem"] for r in bad))


if __name__ == "__main__":
    main()
