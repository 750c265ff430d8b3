"""Threads, forks, orders of import, the end of the process."""

import itertools
import os
import subprocess
import sys
import threading

import attnc
import numpy as np
import pytest


def inputs(d, n=50):
    rng = np.random.default_rng(d)
    return [rng.standard_normal((1, 2, n, d)).astype(np.float32)
            for _ in range(3)]


def test_threads():
    """Several threads meet programs that are there and that are not."""
    wanted = {d: attnc.softmax_attention(*inputs(d)) for d in (8, 16)}
    failures = []
    start = threading.Barrier(6)

    def work():
        start.wait()
        for d in (8, 16, 24, 40, 8, 48):
            got = attnc.softmax_attention(*inputs(d))
            if d in wanted and not np.array_equal(got, wanted[d]):
                failures.append(d)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_tracing_in_threads():
    def work(n, out):
        out[n] = attnc.attention(*inputs(8), score_mod=lambda s, b, h, i, j:
                                 s * n)

    outs = {}
    threads = [threading.Thread(target=work, args=(n, outs)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in range(8):
        assert np.allclose(outs[n], attnc.softmax_attention(
            *inputs(8), scale=n / 8 ** 0.5), atol=1e-6)


FORK = """
import os, sys, numpy as np, attnc
q = np.random.default_rng(0).standard_normal((1, 2, 50, 16)).astype('f4')
want = attnc.softmax_attention(q, q, q)
other = q[..., :12]
pid = os.fork()
if pid == 0:
    fine = np.array_equal(attnc.softmax_attention(q, q, q), want)
    attnc.softmax_attention(other, other, q)  # a new program in the child
    os._exit(0 if fine else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def run(text):
    environment = dict(os.environ, PYTHONWARNINGS="error::ResourceWarning")
    got = subprocess.run([sys.executable, "-c", text], capture_output=True,
                         text=True, timeout=120, env=environment)
    assert got.returncode == 0, got.stdout + got.stderr
    return got.stdout


def test_fork():
    run(FORK)


def test_data_loader_workers():
    run("""
import torch, attnc
class Rows(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, n):
        q = torch.full((1, 1, 5, 8), float(n))
        return attnc.softmax_attention(q, q, q)[0]
if __name__ == '__main__':
    q = torch.ones(1, 1, 5, 8); attnc.softmax_attention(q, q, q)
    here = [Rows()[n] for n in range(4)]
    rows = list(torch.utils.data.DataLoader(Rows(), num_workers=2))
    assert all(torch.equal(a[0], b) for a, b in zip(rows, here, strict=True))
    for n, row in enumerate(here):
        torch.testing.assert_close(row, torch.full_like(row, n), rtol=1e-6,
                                   atol=0)
""")


COMPILE = """
f = torch.compile(lambda x: attnc.softmax_attention(x, x, x), fullgraph=True,
                  backend='aot_eager')
with torch.no_grad():
    assert torch.equal(f(torch.from_numpy(q)), torch.from_numpy(q))
"""
COMPILED_FIRST = """
import attnc, torch
torch._dynamo.config.error_on_recompile = True
for call in (lambda x: attnc.sigmoid_attention(x, x, x, bias=-1.0),
             lambda x: attnc.softmax_attention(x, x, x, window=(2, 0))):
    f = torch.compile(call, fullgraph=True, backend='aot_eager')
    x = torch.ones(1, 1, 5, 8)
    for _ in range(2):
        assert torch.equal(f(x), call(x))
"""


def test_compiled_before_any_other_call():
    """Nor is it compiled again after one."""
    run(COMPILED_FIRST)


CALL = """
import numpy, torch, jax
q = numpy.ones((1, 1, 5, 8), 'f4')
for x in (q, torch.from_numpy(q), jax.numpy.asarray(q)):
    out = attnc.softmax_attention(x, x, x)
    assert isinstance(out, type(x)) and abs(numpy.asarray(out) - 1).max() < 1e-6
jax.jit(lambda x: attnc.softmax_attention(x, x, x))(q)
"""


@pytest.mark.parametrize("order", list(itertools.permutations(
    ["attnc", "torch", "jax"])), ids=",".join)
def test_import_orders(order):
    run("".join(f"import {name}\n" for name in order) + CALL
        + (COMPILE if order[0] == "attnc" else ""))


def test_import_is_lazy():
    out = run("import numpy, sys; import attnc\n"
              "print([m for m in ('torch', 'jax', 'transformers', 'inspect') "
              "if m in sys.modules and m != 'inspect'])")
    assert out.strip() == "[]"


def test_tracing_needs_no_library_of_arrays():
    out = run("import sys, attnc\n"
              "attnc.compile(activation=lambda x: x * 2.0)\n"
              "print('numpy' in sys.modules)")
    assert out.strip() == "False"


def test_events_at_exit_and_unraisable():
    run("import attnc, numpy as np\n"
        "attnc.events.subscribe(lambda event: None)\n"
        "q = np.ones((1, 1, 4, 8), 'f4'); attnc.softmax_attention(q, q, q)")


# --- a compiler that goes wrong -----------------------------------------------

BROKEN = """
import attnc, os, numpy as np
q = np.ones((1, 1, 4, 8), 'f4')
try:
    attnc.softmax_attention(q, q, q)
except attnc.CompileError as error:
    print(error)
del os.environ['ATTNC_WORKER']
os.environ.pop('ATTNC_COMPILE_TIMEOUT', None)
attnc.softmax_attention(q, q, q)
"""


@pytest.mark.parametrize("body,words", [
    ("cat >/dev/null; kill -ABRT $$", "signal 6"),
    ("while :; do :; done", "did not finish in 1 s"),
], ids=["abort", "endless"])
def test_a_broken_compiler_leaves_the_interpreter_alive(tmp_path, monkeypatch,
                                                        body, words):
    worker = tmp_path / "worker"
    worker.write_text(f"#!/bin/sh\n{body}\n")
    worker.chmod(0o755)
    monkeypatch.setenv("ATTNC_WORKER", str(worker))
    monkeypatch.setenv("ATTNC_CACHE", "memory")
    if "finish" in words:
        monkeypatch.setenv("ATTNC_COMPILE_TIMEOUT", "1")
    out = run(BROKEN)  # where the second call is served
    assert words in out and "report" in out
