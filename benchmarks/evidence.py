#!/usr/bin/env python3
"""Whether the README's speeds are those of the kernels this compiler emits.

    benchmarks/evidence.py --attnc build/bin/attnc

The rows of README.md's table of ratios come from one run, which evidence.json
names. Each figure must be what that run read, and each kernel must have the
fingerprint that was timed; a row with another kernel must say so:

    | sigmoid, n=16k full (not re-measured since 2026-11-22) | 1.05 | ...

`--table` prints the rows as they should be, to paste into the README after a
new run. The last line is `N passed, N failed`.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path.insert(0, os.path.join(ROOT, "benchmarks"))
from fingerprint import fingerprint  # noqa: E402

PEER = "SDPA cuDNN (softmax)"
MARK = r"(?: \(not re-measured since (?P<since>\d{4}-\d\d-\d\d)\))?"
ROW = re.compile(r"\| (?P<score>\w+), n=(?P<n>\d+k) (?P<mask>full|causal)" +
                 MARK + r" \|(?P<cells>.*)\|$")
HEAD = re.compile(r"\| forward \|(?P<cells>.*)\|$")


def cells(text):
    return [cell.strip() for cell in text.split("|")]


def read_table(lines):
    """(score, n, mask, date or None, {"d64": "1.05"}) of each row."""
    columns = []
    for line in lines:
        line = line.strip()
        if head := HEAD.match(line):
            columns = cells(head["cells"])
        elif row := ROW.match(line):
            yield (row["score"], row["n"], row["mask"], row["since"],
                   dict(zip(columns, cells(row["cells"]))))


class Run:
    """A run of attention.py."""

    def __init__(self, path):
        with open(os.path.join(ROOT, path)) as file:
            self.results = {r["configuration"]: r
                            for r in json.load(file)["results"]}
        self.date = re.search(r"\d{4}-\d\d-\d\d", path)[0]

    def ratio(self, where, kernel):
        """As in the README, or None if it was not timed."""
        readings = self.results.get(where, {}).get("readings", {})
        if kernel not in readings:
            return None
        middle = [statistics.median(r["teraflops"] for r in readings[name])
                  for name in (kernel, PEER)]
        return f"{middle[0] / middle[1]:.2f}"

    def timed(self, where, kernel):
        """The fingerprint of the kernel that was timed."""
        return self.results[where]["facts"][kernel].get("fingerprint")


class Compiler:
    def __init__(self, attnc):
        self.attnc, self.known = attnc, {}

    def emitted(self, score, d, mask):
        """The fingerprint of what the compiler makes now."""
        key = score, d, mask
        if key not in self.known:
            flags = [f"--score={score}", f"--head-dim={d[1:]}", "--dtype=bf16"]
            flags += ["--causal"] if mask == "causal" else []
            text = self.run(["gen", *flags], "")
            self.known[key] = fingerprint(
                self.run(["-", "--target=sm_90a", "--emit=ptx"], text))
        return self.known[key]

    def run(self, words, text):
        return subprocess.run([self.attnc, *words], input=text, check=True,
                              capture_output=True, text=True).stdout


def judge(row, run, compiler):
    """What is wrong with a row."""
    score, n, mask, since, figures = row
    stale = []
    for column, figure in figures.items():
        where, kernel = f"{column} n={n} {mask}", f"attnc {score}"
        ratio = run.ratio(where, kernel)
        if ratio is None:
            yield f"{column}: the run did not time it"
            continue
        if figure != ratio:
            yield f"{column}: says {figure}, the run read {ratio}"
        if compiler.emitted(score, column, mask) != run.timed(where, kernel):
            stale.append(column)
    if stale and since != run.date:
        yield (f"{', '.join(stale)}: the compiler makes another kernel than "
               f"the run timed; mark the row '(not re-measured since "
               f"{run.date})' or measure again")
    if since and not stale:
        yield "marked, but its kernels are those that the run timed"


def changed(row, run):
    """The row with a wrong figure, and with the other mark."""
    score, n, mask, since, figures = row
    yield score, n, mask, since, {column: "9.99" for column in figures}
    yield score, n, mask, None if since else run.date, figures


def print_table(run, compiler, columns, rows):
    for score, n, mask, _, _ in rows:
        names = [(f"{c} n={n} {mask}", f"attnc {score}") for c in columns]
        stale = any(run.ratio(*name) and
                    compiler.emitted(score, c, mask) != run.timed(*name)
                    for c, name in zip(columns, names))
        mark = f" (not re-measured since {run.date})" if stale else ""
        figures = " | ".join(run.ratio(*name) or "-" for name in names)
        print(f"| {score}, n={n} {mask}{mark} | {figures} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--attnc", required=True)
    parser.add_argument("--readme", default=os.path.join(ROOT, "README.md"))
    parser.add_argument("--run", help="instead of the one in evidence.json")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if not args.run:
        with open(os.path.join(ROOT, "benchmarks", "evidence.json")) as file:
            args.run = json.load(file)["run"]
    run, compiler = Run(args.run), Compiler(args.attnc)
    with open(args.readme) as file:
        rows = list(read_table(file))
    if args.table:
        print_table(run, compiler, list(rows[0][4]), rows)
        return
    failed = 0
    for row in rows:
        wrong = list(judge(row, run, compiler))
        failed += bool(wrong)
        for line in wrong:
            print(f"FAIL README.md, {row[0]}, n={row[1]} {row[2]}: {line}")
        for change in changed(row, run):
            if not list(judge(change, run, compiler)):
                failed += 1
                print(f"FAIL not noticed: {change}")
    print(f"{3 * len(rows) - failed} passed, {failed} failed")
    sys.exit(1 if failed or not rows else 0)


if __name__ == "__main__":
    main()
