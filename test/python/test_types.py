"""The stubs: as the package is, and as users would have them."""

import pathlib
import re
import subprocess
import sys

import pytest

pytest.importorskip("mypy")
folder = pathlib.Path(__file__).parent / "types"


def run(*arguments):
    return subprocess.run([sys.executable, "-m", *arguments], text=True,
                          capture_output=True, timeout=600)


def test_stubs_are_as_the_package():
    got = run("mypy.stubtest", "attnc", "--mypy-config-file",
              folder / "mypy.ini", "--allowlist", folder / "allowed.txt",
              "--ignore-unused-allowlist")
    assert got.returncode == 0, got.stdout + got.stderr


def test_uses(tmp_path):
    """mypy finds an error in each line that says so, and in no other."""
    got = run("mypy", "--strict", "--config-file", folder / "mypy.ini",
              "--cache-dir", tmp_path, folder / "uses.py")
    found = {int(line) for line in re.findall(
        r"uses\.py:(\d+): error", got.stdout)}
    lines = (folder / "uses.py").read_text().splitlines()
    wanted = {n for n, line in enumerate(lines, 1) if "# error" in line}
    assert found == wanted, got.stdout + got.stderr
