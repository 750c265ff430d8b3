#!/usr/bin/env python3
"""Our attention forward against torch's on the same GPU in the same run.

    benchmarks/attention.py --attnc build/bin/attnc \\
        --harness build/lib/libattnc-gpu-harness.so [--json OUT]

Q, K, V ~ N(0, 1), scale 1/sqrt(d), b = -ln n, batch * n = 16384 tokens,
heads * d = 2048. `--data` takes harder data besides: logits of standard
deviation 4, b = 0, or one key in 8 that every query attends, so that no cheap
formula ever holds; with how often each formula of ours was left. The peer is SDPA with its cuDNN backend forced, and the name
of the kernel it ran is asserted. Each reading is the median of single launches
with the L2 cache flushed between them; the card runs at its power limit, so it
is warmed up before the first reading, readings are short, and each pass takes
the kernels in another order: A-B-C, B-C-A, ... What counts are medians over the
passes.
"""

import argparse
import itertools
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "test",
                                "gpu"))
import harness  # noqa: E402
from fingerprint import fingerprint  # noqa: E402

TOKENS, CHANNELS = 16384, 2048
# name: standard deviation of logits, bias as a function of n, keys that every
# query attends (one in so many; 0: none).
DATA = {"init": (1, lambda n: -math.log(n), 0),
        "std4": (4, lambda n: -math.log(n), 0),
        "b0": (1, lambda n: 0.0, 0),
        "adversarial": (1, lambda n: -math.log(n), 8)}
PEER = "SDPA cuDNN (softmax)"


class Monitor:
    """Clock and power of the GPU while something runs."""

    QUERY = "clocks.sm,power.draw,temperature.gpu"

    def __init__(self):
        self.samples = []
        self.process = subprocess.Popen(
            ["nvidia-smi", f"--query-gpu={self.QUERY}",
             "--format=csv,noheader,nounits", "-lms", "50"],
            stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self.collect, daemon=True).start()

    def collect(self):
        for line in self.process.stdout:
            try:
                self.samples.append((time.time(),
                                     [float(x) for x in line.split(",")]))
            except ValueError:
                pass

    def between(self, start, stop):
        """Median clock (MHz), power (W), temperature (C)."""
        inside = [v for t, v in self.samples if start <= t <= stop]
        if not inside:
            return None
        return [statistics.median(column) for column in zip(*inside)]

    def stop(self):
        self.process.terminate()


def median_ms(launch, seconds):
    """Median and quartiles of single launches, L2 flushed between them."""
    flush = torch.empty(1 << 28, dtype=torch.int8, device="cuda")
    launch()
    torch.cuda.synchronize()
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(5):
        launch()
    stop.record()
    torch.cuda.synchronize()
    count = max(10, int(seconds * 1e3 / (start.elapsed_time(stop) / 5)))
    events = []
    for _ in range(count):
        flush.zero_()
        pair = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        pair[0].record()
        launch()
        pair[1].record()
        events.append(pair)
    torch.cuda.synchronize()
    times = sorted(a.elapsed_time(b) for a, b in events)
    return (statistics.median(times), times[len(times) // 4],
            times[3 * len(times) // 4])


def kernel_names(launch):
    launch()
    torch.cuda.synchronize()
    with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        launch()
        torch.cuda.synchronize()
    return [e.key for e in profile.key_averages()
            if e.self_device_time_total > 0]


class Configuration:
    def __init__(self, d, n, causal, dtype, data="init"):
        self.d, self.n, self.causal, self.dtype = d, n, causal, dtype
        self.data = data
        std, bias, loud = DATA[data]
        self.bias = bias(n)
        self.batch = max(1, TOKENS // n)
        self.heads = CHANNELS // d
        torch.manual_seed(0)
        shape = (self.batch, self.heads, n, d)
        self.q, self.k, self.v = (
            torch.randn(shape, device="cuda").to(dtype) for _ in range(3))
        self.q *= std
        if loud:  # logits of sqrt(d) + N(0, 1) + ln n
            self.q[..., 0] = d ** 0.5
            self.k[..., 0] = 0
            self.k[..., ::loud, 0] = d ** 0.5 + math.log(n)

    @property
    def name(self):
        return (f"d{self.d} n={self.n // 1024}k "
                f"{'causal' if self.causal else 'full'}" +
                ("" if self.data == "init" else f" {self.data}"))

    def teraflops(self, ms):
        flops = 4 * self.batch * self.heads * self.n ** 2 * self.d
        return flops / (2 if self.causal else 1) / ms * 1e-9

    def peer(self):
        def launch():
            with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                F.scaled_dot_product_attention(self.q, self.k, self.v,
                                               is_causal=self.causal)
        names = kernel_names(launch)
        assert any("cudnn" in x.lower() for x in names), names
        return launch, names

    def ours(self, program):
        output = torch.empty_like(self.q)
        return program.bind_of(
            query=self.q, key=self.k, value=self.v, output=output,
            bias=self.bias, weight_scale=1 / self.n), output


def sanity(output, configuration, score):
    """A wrong kernel has no speed: a few rows against float64."""
    c = configuration
    rows = slice(c.n - 64, c.n)
    s = (c.q[0, 0, rows].double() @ c.k[0, 0].double().T) * c.d ** -0.5
    keep = torch.ones_like(s, dtype=torch.bool)
    if c.causal:
        keep = keep.tril(c.n - 64)
    if score == "sigmoid":
        p = torch.sigmoid(s + c.bias) * keep
    else:
        p = torch.softmax(s.masked_fill(~keep, float("-inf")), 1)
    want = p @ c.v[0, 0].double()
    return ((output[0, 0, rows].double() - want).norm() / want.norm()).item()


def speculation(args, score, d, causal, schedule):
    """Columns of a slice and the limits of its formulas, or none."""
    text = generate(args, score, d, causal)
    flags = ["--target=sm_90a", "--emit=formula"]
    if schedule:
        flags.append(f"--schedule={schedule}")
    out = subprocess.run([args.attnc, "-", *flags], input=text, check=True,
                         capture_output=True, text=True).stdout
    found = re.search(r"slice (\d+) limits \[([^]]*)\]", out)
    return found and (int(found[1]), [float(x) for x in found[2].split(",")])


def left_formulas(configuration, rule):
    """Of the slices of a warp (16 rows), the share that had to leave each
    formula, by the kernel's own rule on the exponentials of the logits; of one
    head, up to the last key that some row of a warpgroup attends."""
    c, (columns, limits) = configuration, rule
    count, left = 0, [0] * len(limits)
    for first in range(0, c.n, 2048):
        s = (c.q[0, 0, first:first + 2048].float() @ c.k[0, 0].float().T)
        e = torch.exp(s * c.d ** -0.5 + c.bias)
        width = c.n // columns * columns
        top = e[:, :width].reshape(e.shape[0] // 16, 16, -1, columns)
        top = top.amax(dim=(1, 3))
        if c.causal:
            group = (first // 64 + torch.arange(top.shape[0], device="cuda")
                     // 4)
            end = (group + 1) * 64
            start = torch.arange(top.shape[1], device="cuda") * columns
            top = top[start[None] < end[:, None]]
        count += top.numel()
        left = [n + (top > limit).sum().item()
                for n, limit in zip(left, limits)]
    return [n / count for n in left]


PROGRAMS = {}


def compile_ours(args, library, score, d, causal, schedule):
    """Compiled once: lengths are run-time values."""
    key = (score, d, causal, schedule)
    if key not in PROGRAMS:
        PROGRAMS[key] = build_ours(args, library, *key)
    return PROGRAMS[key]


def generate(args, score, d, causal):
    flags = [f"--score={score}", f"--head-dim={d}", f"--dtype={args.dtype}"]
    if causal:
        flags.append("--causal")
    return subprocess.run([args.attnc, "gen", *flags], check=True,
                          capture_output=True, text=True).stdout


def build_ours(args, library, score, d, causal, schedule):
    return harness.Program(library, generate(args, score, d, causal), schedule)


def read(monitor, launch, configuration, seconds):
    start = time.time()
    ms, low, high = median_ms(launch, seconds)
    return {"ms": ms, "quartiles": [low, high],
            "teraflops": configuration.teraflops(ms),
            "clock_power_temperature": monitor.between(start, time.time())}


def variants(args, configuration):
    """(name, score, schedule): the defaults, then what the options add."""
    for score in args.scores:
        yield f"attnc {score}", score, ""
    for text in args.variant:
        score, schedule = text.split(":", 1)
        yield f"attnc {score} [{schedule}]", score, schedule
    for entry in args.planned.get(str(configuration.d), []):
        score = entry.get("score", "sigmoid")
        yield f"attnc {score} [{entry['label']}]", score, entry["schedule"]


def contenders(args, library, configuration):
    """name -> launch, and facts about each."""
    launches, facts = {}, {}
    launch, names = configuration.peer()
    launches[PEER] = launch
    facts[PEER] = {"kernels": names}
    for name, score, schedule in variants(args, configuration):
        try:
            program = compile_ours(args, library, score, configuration.d,
                                   configuration.causal, schedule)
            launch, output = configuration.ours(program)
            launch()
            torch.cuda.synchronize()
        except (harness.CompileError, RuntimeError) as error:
            facts[name] = {"failed": str(error)[:400]}
            print(f"{configuration.name:20} {name}: {error}", flush=True)
            continue
        launches[name] = launch
        facts[name] = {"error": sanity(output, configuration, score),
                       "schedule": schedule,
                       "fingerprint": fingerprint(program.description["ptx"]),
                       "stats": program.description["stats"],
                       "milliseconds": program.description["milliseconds"]}
        rule = speculation(args, score, configuration.d, configuration.causal,
                           schedule)
        if rule:
            facts[name]["left"] = left_formulas(configuration, rule)
    return launches, facts


def warm_up(launch, seconds):
    """Until the clock is what the power limit leaves."""
    end = time.time() + seconds
    while time.time() < end:
        for _ in range(10):
            launch()
        torch.cuda.synchronize()


def run_twice(launch, output, label):
    """Both times the same bits."""
    launch()
    torch.cuda.synchronize()
    first = output.clone()
    launch()
    torch.cuda.synchronize()
    assert torch.equal(first, output), f"two runs of {label} differ"


def in_turn(names, passes):
    """All names once a pass, each pass beginning with another."""
    names = list(names)
    for turn in range(passes):
        first = turn % len(names)
        yield from names[first:] + names[:first]


def measure(args, library, monitor, configuration):
    launches, facts = contenders(args, library, configuration)
    readings = {name: [] for name in launches}
    warm_up(launches[PEER], args.warm_up)
    for name in in_turn(launches, args.passes):
        readings[name].append(read(monitor, launches[name], configuration,
                                   args.seconds))
    return {"configuration": configuration.name, "facts": facts,
            "readings": readings}


def summarise(result):
    """TFLOP/s, the quartiles over passes, the ratio of medians to the peer's."""
    lines, peer = [], None
    for name, readings in result["readings"].items():
        values = [r["teraflops"] for r in readings]
        middle = statistics.median(values)
        low, _, high = statistics.quantiles(values, n=4)
        peer = peer or middle
        error = result["facts"][name].get("error")
        left = result["facts"][name].get("left")
        state = [r["clock_power_temperature"] for r in readings
                 if r["clock_power_temperature"]]
        lines.append("{:18} {:42} {:6.1f} ({:.0f}-{:.0f}) ratio {:.3f}{}{}{}"
                     .format(
            result["configuration"], name, middle, low, high, middle / peer,
            "" if error is None else f" error {error:.1e}",
            "" if left is None else " left " + " ".join(
                f"{100 * share:.1f}%" for share in left),
            " {:.0f} MHz {:.0f} W".format(*state[-1]) if state else ""))
    return lines


def brief(results):
    """A table a head dim: a row a kernel, TFLOP/s and ratio to the peer."""
    lines = []
    for d in sorted({r["configuration"].split()[0] for r in results}):
        mine = [r for r in results if r["configuration"].split()[0] == d
                and len(r["configuration"].split()) == 3]
        heads = [r["configuration"].split(" ", 1)[1] for r in mine]
        lines.append(f"{d:31}" + "".join(f"{h:>14}" for h in heads))
        names = {name: None for r in mine for name in r["readings"]}
        for name in names:
            row = f"  {name:29}"
            for r in mine:
                readings = r["readings"]
                if name not in readings:
                    row += f"{'-':>14}"
                    continue
                ours, peer = middle(readings[name]), middle(readings[PEER])
                row += f"{ours:9.0f} {ours / peer:.2f}"
            lines.append(row)
    return lines


def middle(readings):
    return statistics.median(r["teraflops"] for r in readings)


def commit():
    """What test/gpu/pack.sh wrote beside this folder."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..",
                        "commit")
    if not os.path.exists(path):
        return None
    with open(path) as file:
        return file.read().strip()


def command_line():
    """The command, without the folders of the machine it ran on."""
    return [os.path.basename(word) if os.path.isabs(word) else word
            for word in sys.argv]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--attnc", required=True)
    parser.add_argument("--harness", required=True)
    parser.add_argument("--head-dims", type=int, nargs="*",
                        default=[64, 128, 256])
    parser.add_argument("--lengths", type=int, nargs="*",
                        default=[16384, 2048])
    parser.add_argument("--causal", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--data", nargs="*", default=["init"], choices=DATA)
    parser.add_argument("--scores", nargs="*", default=["sigmoid", "softmax"])
    parser.add_argument("--variant", nargs="*", default=[],
                        help="score:schedule, timed beside the defaults")
    parser.add_argument("--plan", help="JSON with variants for each head dim")
    parser.add_argument("--budget", type=float, default=1e9,
                        help="seconds after which no other configuration "
                        "begins")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--passes", type=int, default=6,
                        help="at least 2")
    parser.add_argument("--seconds", type=float, default=0.03,
                        help="of each reading")
    parser.add_argument("--warm-up", type=float, default=0.5,
                        help="seconds before the readings of a configuration")
    parser.add_argument("--json")
    args = parser.parse_args()
    args.planned = {}
    if args.plan:
        with open(args.plan) as file:
            args.planned = json.load(file)
    begin = time.time()
    library = harness.load_library(args.harness)
    dtype = {"bf16": torch.bfloat16, "f16": torch.float16}[args.dtype]
    monitor = Monitor()
    results, lines = [], []
    # What is left out when the time is up are the short lengths.
    for n, data, d, causal in itertools.product(
            args.lengths, args.data, args.head_dims, args.causal):
        if time.time() - begin > args.budget:
            print(f"no time for d{d} n={n} causal={causal} {data}")
            continue
        signal.alarm(120)  # a kernel that never ends
        result = measure(args, library, monitor,
                         Configuration(d, n, bool(causal), dtype, data))
        results.append(result)
        new = summarise(result)
        lines += new
        print("\n".join(new), flush=True)
    if args.plan:
        print("\n".join(brief(results)))
    monitor.stop()
    if args.json:
        device = torch.cuda.get_device_properties(0)
        with open(args.json, "w") as file:
            json.dump({"command": command_line(), "commit": commit(),
                       "device": device.name,
                       "torch": torch.__version__,
                       "cudnn": torch.backends.cudnn.version(),
                       "cuda": torch.version.cuda, "table": lines,
                       "results": results}, file, indent=1)


if __name__ == "__main__":
    main()
