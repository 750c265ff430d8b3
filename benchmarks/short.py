#!/usr/bin/env python3
"""Few work items: one sequence, few heads, as many queries as keys.

    benchmarks/short.py --attnc build/bin/attnc \\
        --harness build/lib/libattnc-gpu-harness.so [--plan PLAN.json] [--json OUT]

Attention forward for B = 1 with row blocks too few to keep all multiprocessors
busy. In turns, A-B-A-B: what a call gets; `plain`, the schedule for any sizes; and
what it would get as one with few items or few queries. PLAN.json names other
schedules to time, `{"64": {"label": "SCHEDULE"}}` by head dim. Readings as in
attention.py: medians of single launches with the L2 cache flushed between them.
Results are checked against float64 and two runs must have the same bits. The peer
is torch's SDPA with its cuDNN backend.
"""

import argparse
import itertools
import json
import math
import os
import re
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "test",
                                "gpu"))
import harness  # noqa: E402
from attention import (command_line, commit, in_turn, median_ms,  # noqa: E402
                       run_twice, warm_up)

PEER = "SDPA cuDNN (softmax)"


class Problem:
    def __init__(self, d, heads, n, causal):
        self.d, self.heads, self.n, self.causal = d, heads, n, causal
        torch.manual_seed(0)
        self.q, self.k, self.v = (
            torch.randn((1, heads, n, d), device="cuda").bfloat16()
            for _ in range(3))

    @property
    def name(self):
        return (f"d{self.d} H={self.heads} n={self.n} "
                f"{'causal' if self.causal else 'full'}")

    def peer(self):
        def launch():
            with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                F.scaled_dot_product_attention(self.q, self.k, self.v,
                                               is_causal=self.causal)
        return launch

    def ours(self, program):
        output = torch.full_like(self.q, float("nan"))
        return program.bind_of(
            query=self.q, key=self.k, value=self.v, output=output,
            bias=-math.log(self.n)), output

    def error(self, output, score):
        """Relative, of the last 512 rows of the last head."""
        rows = slice(max(self.n - 512, 0), self.n)
        s = self.q[0, -1, rows].double() @ self.k[0, -1].double().T
        s *= self.d ** -0.5
        keep = torch.ones_like(s, dtype=torch.bool)
        if self.causal:
            keep = keep.tril(rows.start)
        if score == "sigmoid":
            p = torch.sigmoid(s - math.log(self.n)) * keep
        else:
            p = torch.softmax(s.masked_fill(~keep, float("-inf")), -1)
        want = p @ self.v[0, -1].double()
        off = output[0, -1, rows].double() - want
        return (off.norm() / want.norm()).item()


def run(*command, text=""):
    return subprocess.run(command, input=text, check=True,
                          capture_output=True, text=True).stdout


def plain_schedule(args, text):
    """As --schedule takes it."""
    tile = run(args.attnc, "-", "--target=sm_90a", "--emit=tile", text=text)
    found = re.search(r"#tile\.schedule<([^>]*)>", tile)[1]
    return found.replace(" ", "")


def build(args, library, score, d, causal, schedule):
    flags = [f"--score={score}", f"--head-dim={d}", "--dtype=bf16"]
    text = run(args.attnc, "gen", *flags, *["--causal"] * causal)
    if schedule == "plain":
        schedule = plain_schedule(args, text)
    return harness.Program(library, text, schedule)


def prepare(problem, programs):
    """label -> launch, checked; and errors."""
    launches, errors = {PEER: problem.peer()}, {}
    for label, (score, program) in programs.items():
        launch, output = problem.ours(program)
        run_twice(launch, output, label)
        errors[label] = problem.error(output, score)
        launches[label] = launch
    return launches, errors


def measure(args, problem, programs):
    launches, errors = prepare(problem, programs)
    readings = {name: [] for name in launches}
    warm_up(launches[PEER], args.warm_up)
    for name in in_turn(launches, args.passes):
        ms = median_ms(launches[name], args.seconds)[0]
        readings[name].append(round(ms * 1e3, 2))
    return {"problem": problem.name, "microseconds": readings,
            "errors": errors}


def lines(result):
    middle = {name: statistics.median(times)
              for name, times in result["microseconds"].items()}
    text = f"{result['problem']:26} cuDNN {middle.pop(PEER):6.1f}"
    for name, time_us in middle.items():
        times = result["microseconds"][name]
        text += (f" | {name} {time_us:.1f}"
                 f"±{(max(times) - min(times)) / 2:.1f}")
        if result["errors"][name] > 1e-2:
            text += f" WRONG {result['errors'][name]:.1e}"
    return text


def jobs(args, plan):
    """(score, d, causal, label, schedule) of what is compiled."""
    for d, score, causal in itertools.product(args.head_dims, args.scores,
                                              args.causal):
        yield score, d, causal, f"{score}", ""
        for schedule in args.schedules:
            yield score, d, causal, f"{score} {schedule}", schedule
        for label, schedule in plan.get(f"{d} {score}",
                                        plan.get(str(d), {})).items():
            yield score, d, causal, f"{score} {label}", schedule


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--attnc", required=True)
    parser.add_argument("--harness", required=True)
    parser.add_argument("--head-dims", type=int, nargs="*",
                        default=[64, 128, 256])
    parser.add_argument("--heads", type=int, nargs="*", default=[2, 8, 16])
    parser.add_argument("--lengths", type=int, nargs="*",
                        default=[1024, 2048, 4096, 8192])
    parser.add_argument("--causal", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--scores", nargs="*", default=["sigmoid"])
    parser.add_argument("--schedules", nargs="*",
                        default=["plain", "few_items", "few_queries"])
    parser.add_argument("--plan")
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.002)
    parser.add_argument("--warm-up", type=float, default=0.02)
    parser.add_argument("--budget", type=float, default=1e9)
    parser.add_argument("--json")
    args = parser.parse_args()
    start = time.time()
    plan = json.load(open(args.plan)) if args.plan else {}
    library = harness.load_library(args.harness)
    programs = {}
    for job, future in harness.built_ahead(
            jobs(args, plan),
            lambda j: build(args, library, j[0], j[1], j[2], j[4])):
        score, d, causal, label, _ = job
        try:
            programs.setdefault((d, causal), {})[label] = (score,
                                                           future.result())
        except harness.CompileError as error:
            print(f"d{d} {label}: {str(error)[:300]}", flush=True)
    print(f"compiled in {time.time() - start:.0f} s", flush=True)
    results = []
    for d, heads, causal, n in itertools.product(
            args.head_dims, args.heads, args.causal, args.lengths):
        if time.time() - start > args.budget:
            print("no time for", d, heads, causal, n)
            continue
        results.append(measure(args, Problem(d, heads, n, bool(causal)),
                               programs[d, causal]))
        print(lines(results[-1]), flush=True)
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"command": command_line(), "commit": commit(),
                       "device": torch.cuda.get_device_name(),
                       "torch": torch.__version__, "plan": plan,
                       "results": results}, file, indent=1)
    wrong = [r["problem"] for r in results
             if max(r["errors"].values()) > 1e-2]
    if wrong:
        sys.exit("wrong: " + ", ".join(wrong))


if __name__ == "__main__":
    main()
