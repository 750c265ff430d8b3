"""What a wheel brings along: run where it is installed, with NumPy only."""

import os
import pathlib
import subprocess
import sys

import attnc
import numpy as np
import pytest

package = pathlib.Path(attnc.__file__).parent
worker = package / "attnc-worker"
pytestmark = pytest.mark.skipif(not worker.exists(), reason="not a wheel")

CALL = ("import attnc, numpy as np; q = np.ones((1, 1, 4, 8), 'f4'); "
        "print(attnc.softmax_attention(q, q, q).sum())")


def call(**environment):
    return subprocess.run([sys.executable, "-c", CALL], capture_output=True,
                          text=True, timeout=300, env=dict(
                              os.environ, ATTNC_CACHE="memory", **environment))


def test_is_imported_from_where_it_was_installed():
    assert "site-packages" in str(package)
    assert (package / "py.typed").exists()
    assert os.access(worker, os.X_OK)


def test_compiles_aside():
    """Of a worker that is broken the interpreter hears, and lives on."""
    good = call()
    assert good.returncode == 0 and float(good.stdout) == 32, good.stderr
    kept = worker.with_name("kept")
    worker.rename(kept)
    try:
        worker.write_text("#!/bin/sh\ncat >/dev/null; kill -ABRT $$\n")
        worker.chmod(0o755)
        broken = call()
    finally:
        os.replace(kept, worker)
    assert broken.returncode == 1
    assert "CompileError" in broken.stderr and "signal 6" in broken.stderr


def test_worker_is_not_for_people():
    said = subprocess.run([worker], capture_output=True, text=True)
    assert said.returncode == 2 and "libattnc" in said.stderr


def test_needs_no_compiler_and_no_tool():
    got = call(PATH="/nowhere")
    assert got.returncode == 0, got.stderr


def test_results_are_right():
    q = np.random.default_rng(0).standard_normal((2, 3, 20, 16)).astype("f4")
    want = attnc.reference.attention(q, q, q, causal=True)
    got = attnc.softmax_attention(q, q, q, causal=True)
    assert np.abs(got - want).max() < 1e-5
