#!/usr/bin/env python3
"""Keeps the IR in a document true.

    check-snippets.py [--update] DOCUMENT.md

Runs the document's commands (lines that begin with `$ ` in sh blocks) in an
empty folder, one after the other. After a comment

    <!-- snippet: FIRST .. LAST -->

the next fenced block must be what the last command printed, from the first
line that matches the regular expression FIRST to the next that matches LAST,
without common indentation and cut at 100 columns. Numbers of values may
differ, and the operands of assembly. With --update the blocks are rewritten
instead. build/bin must be on PATH.
"""

import re
import subprocess
import sys
import tempfile
import textwrap

COLUMNS = 100
SNIPPET = re.compile(r"<!-- snippet: (.*?) \.\. (.*?) -->")


def extract(output, first, last):
    lines = output.splitlines()
    start = next((i for i, l in enumerate(lines) if re.search(first, l)), None)
    if start is None:
        raise SystemExit(f"no line matches {first!r}")
    for end in range(start, len(lines)):
        if re.search(last, lines[end]):
            break
    else:
        raise SystemExit(f"no line after {first!r} matches {last!r}")
    text = textwrap.dedent("\n".join(lines[start : end + 1])).splitlines()
    return [l if len(l) <= COLUMNS else l[: COLUMNS - 4] + " ..." for l in text]


def run(command, folder):
    done = subprocess.run(
        ["sh", "-c", command], cwd=folder, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise SystemExit(f"{command!r} failed: {done.stderr.strip()}")
    return done.stdout


def normalize(line, language):
    """What of a line must agree."""
    if language == "asm":
        return line.split()[0]
    line = line.removesuffix(" ...")
    return re.sub(r"%(\w+?)_\d+\b", r"%\1", re.sub(r"%(arg)?\d+\b", "%0", line))


def compare(old, new, language):
    if len(old) != len(new):
        return f"expected {len(new)} lines, got {len(old)}"
    for was, now in zip(old, new):
        a, b = normalize(was, language), normalize(now, language)
        if a != b and not (now.endswith(" ...") and a[:80] == b[:80]):
            return f"expected '{now}', got '{was}'"
    return None


def process(lines, folder, update):
    """The document with true snippets, and what was wrong with it."""
    result, problems = [], []
    output, language, wanted, block = "", None, None, []
    for number, line in enumerate(lines, 1):
        if language is None and line.startswith("```"):
            language, block = line[3:], []
        elif language is not None and line == "```":
            if wanted is not None:
                problem = compare(block, wanted, language)
                if problem:
                    problems.append(f"line {number}: {problem}")
                result += wanted if update or problem else block
            language, wanted = None, None
        elif language is not None and wanted is not None:
            block.append(line)
            continue
        elif language == "sh" and line.startswith("$ "):
            output = run(line[2:], folder)
        elif language is None and SNIPPET.search(line):
            wanted = extract(output, *SNIPPET.search(line).groups())
        result.append(line)
    return result, problems


def main():
    update = "--update" in sys.argv
    (document,) = [a for a in sys.argv[1:] if a != "--update"]
    with open(document, encoding="utf-8") as file:
        lines = file.read().splitlines()
    with tempfile.TemporaryDirectory() as folder:
        result, problems = process(lines, folder, update)
    if update:
        with open(document, "w", encoding="utf-8") as file:
            file.write("\n".join(result) + "\n")
    elif problems:
        print("\n".join(f"{document}: {problem}" for problem in problems))
        raise SystemExit("run scripts/check-snippets.py --update on it")
    else:
        print(f"{document}: as the tools print it")


main()
