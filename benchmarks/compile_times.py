#!/usr/bin/env python3
"""How long a kernel takes from attn to PTX and on to machine code.

    benchmarks/compile_times.py --attnc build/bin/attnc [--json OUT]

Every compile is a process of its own, so nothing is warm but the file cache;
the first of all, which has not even that, is printed apart. Times are what
`attnc --timing` says of the phases, and of the whole process; the median of
`--repeat` of them.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time

PHASE = re.compile(r"^ *([0-9.]+) ms +(\w+)$", re.MULTILINE)


def generate(attnc, score, d, mask):
    flags = [f"--score={score}", f"--head-dim={d}", "--dtype=bf16"]
    flags += ["--causal"] if mask == "causal" else []
    return subprocess.run([attnc, "gen", *flags], check=True,
                          capture_output=True, text=True).stdout


def compile_once(attnc, path):
    """Milliseconds to PTX, of ptxas, and of the process."""
    start = time.perf_counter()
    done = subprocess.run([attnc, path, "--target=sm_90a", "--emit=cubin",
                           "--timing", "-o", "/dev/null"],
                          capture_output=True, text=True)
    whole = 1e3 * (time.perf_counter() - start)
    if done.returncode:
        sys.exit(done.stderr)
    phases = [(name, float(ms)) for ms, name in PHASE.findall(done.stderr)]
    assembled = [ms for name, ms in phases if name == "cubin"]
    others = sum(ms for name, ms in phases if name != "cubin")
    # More than one where a schedule was rejected.
    return {"ptx": others, "ptxas": sum(assembled), "process": whole,
            "attempts": len(assembled)}


def describe(times):
    return ("{ptx:6.0f} ms to PTX, {ptxas:6.0f} ms ptxas, {total:6.0f} ms; "
            "process {process:6.0f} ms, {attempts:.0f} attempt(s)").format(
                **times, total=times["ptx"] + times["ptxas"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--attnc", required=True)
    parser.add_argument("--scores", nargs="*", default=["sigmoid", "softmax"])
    parser.add_argument("--head-dims", type=int, nargs="*",
                        default=[64, 128, 256])
    parser.add_argument("--masks", nargs="*", default=["full", "causal"])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json")
    args = parser.parse_args()
    rows, first = [], None
    for score in args.scores:
        for mask in args.masks:
            for d in args.head_dims:
                with tempfile.NamedTemporaryFile("w", suffix=".mlir") as file:
                    file.write(generate(args.attnc, score, d, mask))
                    file.flush()
                    if not first:
                        first = compile_once(args.attnc, file.name)
                        print(f"the first of all: {describe(first)}")
                    runs = [compile_once(args.attnc, file.name)
                            for _ in range(args.repeat)]
                middle = {key: statistics.median(run[key] for run in runs)
                          for key in runs[0]}
                print(f"{score} d{d} {mask}: {describe(middle)}", flush=True)
                rows.append({"score": score, "d": d, "mask": mask,
                             "milliseconds": middle, "runs": runs})
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"first": first, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
