"""What a wheel brings along: run where it is installed, with NumPy only."""

import hashlib
import json
import os
import pathlib
import subprocess
import sys

import attnc
import numpy as np
import pytest

package = pathlib.Path(attnc.__file__).parent
tool = package / "attnc"
pytestmark = pytest.mark.skipif(not tool.exists(), reason="not a wheel")

CALL = ("import attnc, numpy as np; q = np.ones((1, 1, 4, 8), 'f4'); "
        "print(attnc.softmax_attention(q, q, q).sum())")


def call(**environment):
    return subprocess.run([sys.executable, "-c", CALL], capture_output=True,
                          text=True, timeout=300, env=dict(
                              os.environ, ATTNC_CACHE="memory", **environment))


def test_is_imported_from_where_it_was_installed():
    assert "site-packages" in str(package)
    assert (package / "py.typed").exists()
    assert os.access(tool, os.X_OK)


def test_compiles_aside():
    """Of a process that is broken the interpreter hears, and lives on."""
    good = call()
    assert good.returncode == 0 and float(good.stdout) == 32, good.stderr
    kept = tool.with_name("kept")
    tool.rename(kept)
    try:
        tool.write_text("#!/bin/sh\ncat >/dev/null; kill -ABRT $$\n")
        tool.chmod(0o755)
        broken = call()
    finally:
        os.replace(kept, tool)
    assert broken.returncode == 1
    assert "CompileError" in broken.stderr and "signal 6" in broken.stderr


def command(*arguments, **environment):
    """What the command that pip made says."""
    program = pathlib.Path(sys.executable).with_name("attnc")
    return subprocess.run([program, *arguments], capture_output=True, text=True,
                          timeout=300, env=dict(os.environ, **environment))


def test_the_command_is_of_the_librarys_version():
    said = command("--version")
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith(f"attnc {attnc.__version__} ")
    module = subprocess.run([sys.executable, "-m", "attnc", "--version"],
                            capture_output=True, text=True)
    assert module.stdout == said.stdout, module.stderr
    assert command("cache", "nonsense").returncode == 1


def test_what_a_refused_compile_says_is_what_helps(tmp_path):
    """ATTNC_JIT=forbid names a command: as it stands, with the wheel alone."""
    events, cache = tmp_path / "misses.jsonl", tmp_path / "cache"

    def run(**environment):
        return subprocess.run(
            [sys.executable, "-c", CALL], capture_output=True, text=True,
            timeout=300, env=dict(os.environ, ATTNC_CACHE_DIR=str(cache),
                                  ATTNC_JIT="forbid", **environment))

    refused = run(ATTNC_EVENTS=str(events))
    assert refused.returncode == 1
    assert "JitForbiddenError" in refused.stderr
    line = f"attnc cache add --from-events='{events}'"
    assert line in refused.stderr, refused.stderr
    scripts = str(pathlib.Path(sys.executable).parent)
    added = subprocess.run(
        line, shell=True, capture_output=True, text=True, timeout=300,
        env=dict(os.environ, ATTNC_CACHE_DIR=str(cache),
                 PATH=f"{scripts}:{os.environ['PATH']}"))
    assert added.returncode == 0, added.stderr
    served = run()
    assert served.returncode == 0 and float(served.stdout) == 32, served.stderr
    package = tmp_path / "programs.attnc"
    packed = command("package", f"--from-events={events}", "-o", str(package),
                     ATTNC_CACHE_DIR=str(cache))
    assert packed.returncode == 0, packed.stderr
    cache = tmp_path / "other"
    assert run().returncode == 1
    served = run(ATTNC_PACKAGE=str(package))
    assert served.returncode == 0, served.stderr


def test_programs_of_a_run_are_tuned(tmp_path):
    events, table = tmp_path / "run.jsonl", tmp_path / "tuned.json"
    cache = str(tmp_path / "cache")
    environment = dict(os.environ, ATTNC_CACHE_DIR=cache)

    def run(**more):
        got = subprocess.run([sys.executable, "-c", CALL], timeout=300,
                             capture_output=True, text=True,
                             env=dict(environment, **more))
        assert got.returncode == 0, got.stderr

    run(ATTNC_EVENTS=str(events))
    tuned = command("tune", f"--from-events={events}", "--sizes=B=1,H=1,S=4",
                    "--most=2", "--budget=0.2", "-o", str(table),
                    ATTNC_CACHE_DIR=cache)
    assert tuned.returncode == 0, tuned.stderr
    assert "B=1,H=1,S=4, cpu, 2 candidates" in tuned.stdout
    # Which one wins is for the machine to say; that the row is used is not.
    ir = next(event["request"]["ir"] for event in map(
        json.loads, events.read_text().splitlines())
        if event["event"] == "miss")
    table.write_text(json.dumps([{
        "target": "cpu", "schedule": "block_m=16,block_n=32",
        "ir": hashlib.sha256(ir.encode()).hexdigest()[:32]}]))
    again = tmp_path / "again.jsonl"
    run(ATTNC_EVENTS=str(again), ATTNC_TUNED=str(table))
    assert "block_m%3D16,block_n%3D32" in again.read_text()


def test_finds_ptxas_among_the_packages_beside_it():
    """Whether the environment is activated or not."""
    folder = package.parent / "nvidia" / "attnc-test" / "bin"
    folder.mkdir(parents=True)
    ptxas = folder / "ptxas"
    try:
        ptxas.write_text("#!/bin/sh\n"
                         "echo Cuda compilation tools, release 13.0, V13.0.88\n")
        ptxas.chmod(0o755)
        environment = {name: value for name, value in os.environ.items()
                       if name not in ("VIRTUAL_ENV", "ATTNC_PTXAS")}
        said = subprocess.run([tool, "collect-env"], capture_output=True,
                              text=True, env=dict(environment, PATH="/nowhere"))
    finally:
        ptxas.unlink()
        folder.rmdir()
        folder.parent.rmdir()
    assert "attnc-test/bin/ptxas" in said.stdout, said.stdout + said.stderr


def test_needs_no_compiler():
    got = call(PATH="/nowhere")
    assert got.returncode == 0, got.stderr


def test_results_are_right():
    q = np.random.default_rng(0).standard_normal((2, 3, 20, 16)).astype("f4")
    want = attnc.reference.attention(q, q, q, causal=True)
    got = attnc.softmax_attention(q, q, q, causal=True)
    assert np.abs(got - want).max() < 1e-5
