"""The examples run, and docs show what they make."""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def test_bias_example(tmp_path):
    target = tmp_path / "bias.svg"
    got = subprocess.run(
        [sys.executable, ROOT / "examples/python/bias.py", target],
        capture_output=True, text=True, timeout=300)
    assert got.returncode == 0, got.stderr
    rows = {line.rsplit(maxsplit=8)[0].strip(): [float(x) for x in
            line.split()[-8:]] for line in got.stdout.splitlines()[1:]}
    assert rows["sigmoid, bias 0"][-1] > 10 * rows["sigmoid, bias 0"][0] / 4
    assert rows["sigmoid, bias -ln n"][-1] < 0.2
    shown = (ROOT / "docs/sigmoid-bias.svg").read_text()
    assert re.findall("<text[^>]*>([^<]*)", shown) == re.findall(
        "<text[^>]*>([^<]*)", target.read_text())


def test_quickstart_of_the_readme():
    text = (ROOT / "README.md").read_text()
    section = text[text.index("## From Python"):]
    code = [line[4:] for line in section[:section.index("\n## ", 5)].split(
        "\n") if line.startswith("    ") and "pip install" not in line]
    exec("\n".join(code), {})
