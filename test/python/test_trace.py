"""The tracer: what it writes, and that it knows the op table."""

import pathlib
import re

import numpy as np
from attnc import _callables, _trace, ops

ROOT = pathlib.Path(__file__).parents[2]


def trace(score_mod):
    return _trace.trace(
        score_mod, "score_mod", "m",
        [("%s", "f32")] + _callables._POSITIONS, "f32")


def test_knows_every_row_of_the_op_table():
    text = (ROOT / "lib/OpTable/OpTable.cpp").read_text()
    rows = re.findall(r'\{"(\w+)",\s+"(\w+\.\w+)",\s+(\d),', text)
    assert len(rows) >= 24
    assert {name: op for name, op, _ in rows} == _trace.FLOAT_OPS
    for name, _, arity in rows:
        assert _trace._ARITIES.get(name, 1) == int(arity)
        assert name == "compare" or hasattr(ops, name)


def test_writes_one_op_an_operation():
    region = trace(lambda s, b, h, i, j: s * 2 + 1)
    assert region.lines == [
        "%m1 = arith.constant 2.00000000e+00 : f32",
        "%m2 = arith.mulf %s, %m1 : f32",
        "%m3 = arith.constant 1.00000000e+00 : f32",
        "%m4 = arith.addf %m2, %m3 : f32",
        "attn.yield %m4 : f32"]


def test_positions_stay_integers():
    region = trace(lambda s, b, h, i, j: s + (i - j) * 3)
    assert "%m1 = arith.subi %i, %j : i32" in region.lines
    assert any("sitofp" in line for line in region.lines)


def test_same_array_twice_is_captured_once():
    table = np.zeros((4, 8), np.float32)
    region = trace(lambda s, b, h, i, j: s + table[h, i] + table[h, i])
    assert [maps for _, maps in region.captures] == [("h", "i")]
    region = trace(lambda s, b, h, i, j: s + table[h, i] + table[h, j])
    assert [maps for _, maps in region.captures] == [("h", "i"), ("h", "j")]


def test_affine_maps():
    table = np.zeros((4, 99), np.float32)
    region = trace(lambda s, b, h, i, j: s + table[h // 2, 2 * (i - j) + 7])
    assert region.captures[0][1] == ("(h floordiv 2)", "(((i - j) * 2) + 7)")


def test_arrays_are_found_where_functions_keep_them():
    table = np.zeros(4, np.float32)

    def default(s, b, h, i, j, t=table):
        return s + t[h]

    class Model:
        def __init__(self):
            self.slopes = table

        def bias(self, s, b, h, i, j):
            return s + ops.load(self.slopes, h)

    for function in (default, Model().bias, lambda s, b, h, i, j: s + table[h]):
        assert trace(function).captures[0][0] is table


def test_zero_dim_arrays_are_run_time_scalars():
    factor = np.array(2, np.float32)
    region = trace(lambda s, b, h, i, j: s * factor)
    assert region.captures[0][1] == ()


def test_numpy_functions():
    region = trace(lambda s, b, h, i, j: np.tanh(s) + np.maximum(s, 0))
    assert any("math.tanh" in line for line in region.lines)
    trace(lambda s, b, h, i, j: np.where(s > 0, np.clip(s, -1, None), 0))


def test_numpy_scalars_are_numbers():
    table = np.zeros((4, 8), np.float32)
    size, factor = np.int64(3), np.float32(0.5)
    region = trace(lambda s, b, h, i, j: factor * s + table[h, j // size])
    assert region.captures[0][1] == ("h", "(j floordiv 3)")
    assert any("constant 5.0" in line for line in region.lines)


def test_functions_run_on_numbers_too():
    assert ops.logistic(0.0) == 0.5
    assert ops.where(True, 1, 2) == 1
    assert abs(ops.softplus(0.0) - np.log(2)) < 1e-12
