"""Programs as objects, events, counters, settings."""

import pathlib
import shutil
import subprocess
import sys

import attnc
import numpy as np
import pytest

Q = np.ones((1, 2, 9, 40), np.float32)


def program(**arguments):
    return attnc.compile(activation="relu", causal=True, **arguments)


def test_phases():
    made = program(score_mod=lambda s, b, h, i, j: s * 2)
    assert "attn.score_mod" in made.ir()
    assert "attn.fused" in made.ir("fused")
    assert "tile.for_keys" in made.ir("tile", bias=0.0, scale=1.0)
    assert ".entry" in made.ptx() and "wgmma" in made.ptx()
    assert "block_m" in made.schedule()
    assert "tile" in made.explain(target="sm_90a", dtype="bfloat16")
    assert "relu" not in repr(made) and "score_mod" in repr(made)
    with pytest.raises(ValueError, match="tiles"):
        made.ir("tiles")
    with pytest.raises(ValueError, match="'dtype'"):
        made.ir(dtype="float64")


def test_machine_code(monkeypatch):
    """As ptxas makes it: where setup.sh puts it, or on PATH."""
    ptxas = pathlib.Path(attnc.__file__).parents[2] / "bin/ptxas"
    if ptxas.exists():
        monkeypatch.setenv("ATTNC_PTXAS", str(ptxas))
    elif not shutil.which("ptxas"):
        pytest.skip("no ptxas")
    code = program().cubin()
    assert code.startswith(b"\x7fELF") and b"attention" in code
    with pytest.raises(ValueError, match=r"use \.cubin"):
        program().ir("cubin", target="sm_90a", dtype="bfloat16")


def test_schedule_is_taken():
    made = program(schedule="block_m=32,block_n=32")
    assert "block_m = 32, block_n = 32" in made.schedule()
    assert np.allclose(made(Q, Q, Q), program()(Q, Q, Q))
    with attnc.config.using(schedule="block_m=32,block_n=16"):
        with attnc.events.record() as seen:
            attnc.softmax_attention(Q, Q, Q)
    assert any("block_m=32,block_n=16" in str(event) for event in seen)
    with pytest.raises(attnc.CompileError, match="block_m"):
        program(schedule="block_m=33")(Q, Q, Q)


def test_events_and_counters():
    before = attnc.events.counters()
    with attnc.events.record() as seen:
        attnc.softmax_attention(Q[..., :23], Q[..., :23], Q)
        attnc.softmax_attention(Q[..., :23], Q[..., :23], Q)
    after = attnc.events.counters()
    assert after["compiles"] == before["compiles"] + 1
    assert [event["event"] for event in seen] == ["miss", "compile", "publish"]
    assert attnc.cache.info() == after


def test_forget_finds_the_program_again():
    attnc.softmax_attention(Q, Q, Q)
    before = attnc.events.counters()["compiles"]
    attnc.cache.forget()
    attnc.softmax_attention(Q, Q, Q)
    assert attnc.events.counters()["compiles"] == before


def test_is_supported():
    assert attnc.is_supported(Q, Q, Q) == (True, "")
    before = attnc.events.counters()
    fine, why = attnc.is_supported(Q, Q[:, :, :, :8], Q,
                                   function="softmax_attention")
    assert not fine and "'k'" in why
    fine, why = attnc.is_supported(Q, Q, Q, dropout_p=0.5)
    assert not fine and "dropout_p" in why
    with pytest.raises(ValueError, match="'function'.*softmax_attention.*foo"):
        attnc.is_supported(Q, Q, Q, function="foo")
    assert attnc.events.counters() == before


def test_warmup():
    calls = []
    attnc.warmup([lambda: calls.append(1), (calls.append, (2,)),
                  (attnc.softmax_attention, dict(q=Q, k=Q, v=Q))])
    assert calls == [1, 2]


def run(text, **environment):
    import os
    return subprocess.run([sys.executable, "-c", text], text=True,
                          capture_output=True, timeout=300,
                          env={**os.environ, **environment})


def test_forbidden_jit_names_the_command(tmp_path):
    got = run("import attnc, numpy as np; q = np.ones((1, 1, 4, 8), 'f4')\n"
              "try: attnc.softmax_attention(q, q, q)\n"
              "except attnc.JitForbiddenError as e: print(e)",
              ATTNC_JIT="forbid", ATTNC_CACHE_DIR=str(tmp_path / "c"))
    assert "attnc cache add" in got.stdout, got.stderr
