"""torch on the CPU: numerics, the op, tracing, transforms."""

import functools
import gc
import json
import math
import os
import subprocess
import sys
import weakref

import attnc
import pytest
import torch
from attnc import _frontend, _spec, _torch, reference


@pytest.fixture(autouse=True)
def seed():
    """The same numbers, whichever tests ran before."""
    torch.manual_seed(0)


torch.manual_seed(0)  # for TABLE and the like


def tensors(B=2, H=4, S=33, D=32, dtype=torch.float32, Hkv=None):
    return [torch.randn(B, heads, S, D).to(dtype)
            for heads in (H, Hkv or H, Hkv or H)]


def close(got, expected, bound=1e-6):
    error = (got.double() - expected.double()).norm()
    assert got.shape == expected.shape
    assert error <= bound * expected.double().norm()


def check(q, k, v, bound=1e-6, **arguments):
    got = attnc.attention(q, k, v, **arguments)
    assert got.dtype == q.dtype
    close(got, reference.attention(q.double(), k.double(), v.double(),
                                   **arguments), bound)


# A-half: one rounding of P and one of the output.
@pytest.mark.parametrize("dtype,bound", [
    (torch.float32, 1e-6), (torch.bfloat16, 6e-3), (torch.float16, 1e-3)])
@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
def test_dtypes(dtype, bound, layout):
    q, k, v = tensors(dtype=dtype)
    if layout == "bshd":
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # not contiguous
    check(q, k, v, bound, activation="sigmoid", bias=-2.0, layout=layout)
    check(q, k, v, bound, causal=True, layout=layout)


def test_operands_of_every_kind():
    q, k, v = tensors(Hkv=2)
    check(q, k, v, bias=torch.randn(4), alibi_slopes=torch.rand(4),
          attn_mask=torch.rand(33, 33) < 0.7, kv_len=torch.tensor([5, 33]),
          window=(9, 9), scale=0.2, activation="sigmoid")
    check(q, k, v, bias=torch.randn(2, 1, 33, 33, dtype=torch.float64))
    check(q, k, v, attn_mask=torch.randn(33, 33).bfloat16())
    check(q, k, v, bias=torch.tensor(-1), activation="sigmoid")


def test_views_are_read_in_place():
    packed = torch.randn(2, 33, 3, 4, 32)
    q, k, v = packed.permute(2, 0, 3, 1, 4)
    check(q, k, v)
    check(q.flip(2)[:, :, ::2], k[:, :1].expand(2, 4, 33, 32), v)


TABLE = torch.randn(4, 80)
DOCUMENTS = torch.randint(0, 3, (2, 33))


def test_flex_attention_functions():
    def score_mod(score, b, h, q_idx, kv_idx):
        near = (q_idx - kv_idx).abs() < 9
        return torch.where(near, torch.tanh(score / 5) * 5, score) + TABLE[
            h, q_idx - kv_idx + 40]

    def mask_mod(b, h, q_idx, kv_idx):
        return (DOCUMENTS[b, q_idx] == DOCUMENTS[b, kv_idx]) & (
            q_idx >= kv_idx)

    check(*tensors(), score_mod=score_mod, mask_mod=mask_mod)
    check(*tensors(), score_mod=score_mod,
          activation=lambda x: torch.relu(x) ** 2)


@pytest.mark.parametrize("functions", [
    [torch.nn.ReLU(), torch.nn.SiLU(), torch.nn.GELU(), torch.nn.Softplus(2.0),
     torch.nn.ELU(0.5), torch.nn.LeakyReLU(0.1), torch.nn.GELU("tanh")],
    [torch.nn.functional.relu, torch.sigmoid, lambda x: x.pow(3),
     lambda x: torch.clamp(x, -1, 1), lambda x: x.clamp(max=0.5).tanh()],
], ids=["modules", "functions"])
def test_activations_of_torch(functions):
    """One kernel of all, with gradients, against torch itself in float64."""
    def activation(x):
        return sum(function(x) for function in functions)

    q, k, v = (torch.randn(1, 2, 7, 16, requires_grad=True) for _ in range(3))
    got = attnc.attention(q, k, v, activation=activation)
    weights = activation(q.double() @ k.double().mT / 4)
    want = weights @ v.double()
    close(got, want)
    for one, other in zip(*(torch.autograd.grad(o.sum(), (q, k, v))
                            for o in (got, want))):
        close(one, other, 2e-6)


def test_tensors_on_an_object():
    class Relative(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("table", TABLE)

        def score_mod(self, score, b, h, q_idx, kv_idx):
            return score + self.table[h, q_idx]

    check(*tensors(), score_mod=Relative().score_mod)


# --- the op -------------------------------------------------------------------

def spec_text(**arguments):
    q, k, v = tensors(S=9)
    before = set(_frontend._texts.values())
    attnc.softmax_attention(q, k, v, **arguments)
    return next(iter(set(_frontend._texts.values()) - before), None)


def test_opcheck():
    q, k, v = tensors(S=9)
    text = spec_text(bias=torch.randn(4), scale=0.37, return_lse=True,
                     causal="top_left")
    assert _spec.of(text).slots == ["scale", "bias"]
    torch.library.opcheck(torch.ops.attnc.forward.default,
                          (text, q, k, v, [torch.randn(4)], [0.37]))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile_without_breaks_and_recompiles(backend):
    # Nothing here for inductor to make C++ of, which would take long.
    def block(q, k, v, bias):
        out = attnc.sigmoid_attention(q, k, v, bias=bias, causal=True)
        return attnc.softmax_attention(out, k, v, window=(5, 0))

    torch._dynamo.reset()
    compiled = torch.compile(block, fullgraph=True, backend=backend,
                             dynamic=True)
    bias = torch.randn(4)
    with torch.no_grad():
        compiled(*tensors(S=5), bias)
        with torch._dynamo.config.patch(error_on_recompile=True):
            for n in range(6, 56):
                q, k, v = tensors(S=n)
                close(compiled(q, k, v, bias), block(q, k, v, bias), 1e-5)


def test_compile_with_score_functions():
    q, k, v = tensors()
    program = attnc.compile(score_mod=lambda s, b, h, i, j: s + TABLE[h, i],
                            activation="relu")
    compiled = torch.compile(lambda q, k, v: program(q, k, v),
                             fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        close(compiled(q, k, v), program(q, k, v))


@pytest.mark.parametrize("graded", [False, True])
def test_compiled_numbers_that_change(graded):
    """A scale or bias that is another number at each call: two graphs, the
    first for a constant."""
    q, k, v = tensors(S=9)
    q.requires_grad_(graded)

    def block(q, scale, bias):
        return attnc.sigmoid_attention(q, k, v, scale=scale, bias=bias)

    def outcome(function, *numbers):
        out = function(q, *numbers)
        return torch.autograd.grad(out.sum(), q)[0] if graded else out

    torch._dynamo.reset()
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    outcome(compiled, 0.5, -1.0)
    outcome(compiled, 0.25, -2.0)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for n in range(3, 9):
            close(outcome(compiled, 1 / n, -1.0 * n),
                  outcome(block, 1 / n, -1.0 * n))


def test_compile_of_named_functions_and_of_callables():
    q, k, v = tensors(S=9)
    torch._dynamo.reset()
    compiled = torch.compile(lambda q: attnc.attention(q, k, v,
                                                       activation="relu"),
                             fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        close(compiled(q), attnc.attention(q, k, v, activation="relu"))

    def own(q):
        return attnc.attention(q, k, v,
                               score_mod=lambda s, b, h, i, j: s * 2)

    with pytest.raises(torch._dynamo.exc.Unsupported,
                       match="attnc.compile.*outside"):
        torch.compile(own, fullgraph=True, backend="aot_eager")(q)
    close(torch.compile(own, backend="aot_eager")(q), own(q))


def test_vmap():
    q, k, v = tensors()
    many = torch.stack([q, 2 * q, 3 * q])
    bias = torch.randn(3, 4)
    lengths = torch.tensor([[3, 4], [33, 1], [9, 9]])
    got = torch.vmap(lambda a, b, n: attnc.sigmoid_attention(
        a, k, v, bias=b, kv_len=n))(many, bias, lengths)
    for n in range(3):
        close(got[n], attnc.sigmoid_attention(
            many[n], k, v, bias=bias[n], kv_len=lengths[n]))
    scales = torch.tensor([0.1, 0.2])
    got = torch.vmap(lambda s: attnc.softmax_attention(q, k, v, scale=s))(scales)
    close(got[1], attnc.softmax_attention(q, k, v, scale=0.2))


def test_vmap_has_gradients():
    q, k, v = [x.requires_grad_() for x in tensors()]
    bias = torch.zeros(4, requires_grad=True)
    many = torch.stack([q, 2 * q]).detach().requires_grad_()
    operands = many, k, v, bias

    def attend(q, k, v, bias):
        return attnc.sigmoid_attention(q, k, v, bias=bias)

    def loss(*operands):
        return attend(*operands).square().sum()

    def apart(function):
        return [function(one, k, v, bias) for one in many]

    mapped = (0, None, None, None)
    wanted = torch.autograd.grad(sum(apart(loss)), operands)
    got = torch.autograd.grad(
        torch.vmap(attend, mapped)(*operands).square().sum(), operands)
    func = torch.func.grad(lambda *x: torch.vmap(attend, mapped)(
        *x).square().sum(), (0, 1, 2, 3))(*operands)
    for x, y, z in zip(wanted, got, func):
        close(y, x)
        close(z, x)
    each = torch.vmap(torch.func.grad(loss, (0, 1, 2, 3)), mapped)(*operands)
    for at, one in enumerate(apart(lambda *x: torch.autograd.grad(loss(*x), x))):
        for x, y in zip(one, each):
            close(y[at], x)


@pytest.mark.parametrize("at", range(3))
def test_func_grad_of_one_beside_parameters(at):
    """The others want gradients too, but not of this transform."""
    operands = [x.requires_grad_() for x in tensors()]

    def loss(x):
        return attnc.softmax_attention(
            *operands[:at], x, *operands[at + 1:]).square().sum()

    wanted, = torch.autograd.grad(loss(operands[at]), operands[at])
    close(torch.func.grad(loss)(operands[at].detach()), wanted)


def test_compiled_func_grad_is_not_zeros():
    """Where a trace does not see what wants a gradient it breaks."""
    q, k, v = tensors()
    gradient = torch.func.grad(
        lambda q: attnc.softmax_attention(q, k, v).square().sum())
    wanted = gradient(q)
    close(torch.compile(gradient, backend="aot_eager")(q), wanted)
    torch.compiler.reset()
    with pytest.raises(Exception, match="torch.compile does not see"):
        torch.compile(gradient, backend="aot_eager", fullgraph=True)(q)


@pytest.mark.parametrize("wants_gradient", [False, True])
def test_whole_numbers_of_any_width(wants_gradient):
    q, k, v = tensors()
    q.requires_grad_(wants_gradient)
    for dtype in (torch.uint8, torch.int16, torch.int64):
        lengths = torch.tensor([3, 33], dtype=dtype)
        close(attnc.softmax_attention(q, k, v, kv_len=lengths),
              attnc.softmax_attention(q, k, v, kv_len=lengths.int()))
    with pytest.raises(ValueError, match="'kv_len'.*4294967299"):
        attnc.softmax_attention(q, k, v, kv_len=torch.tensor([2 ** 32 + 3, 1]))


def test_autocast_casts_rows_and_nothing_else():
    q, k, v = tensors()
    bias = torch.tensor(-math.log(33) + 1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        got = attnc.sigmoid_attention(q, k, v, bias=bias)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, attnc.sigmoid_attention(
        q.bfloat16(), k.bfloat16(), v.bfloat16(), bias=bias))


def test_meta_and_fake_tensors():
    from torch._subclasses.fake_tensor import FakeTensorMode
    with FakeTensorMode():
        q = torch.empty(2, 4, 7, 16)
        out, lse = attnc.softmax_attention(q, q, q, return_lse=True)
        assert out.shape == q.shape and lse.shape == (2, 4, 7)
        with pytest.raises(ValueError, match="'v'"):
            attnc.softmax_attention(q, q, torch.empty(2, 4, 8, 16))
    q = torch.empty(2, 4, 7, 16, device="meta")
    assert attnc.softmax_attention(q, q, q).device.type == "meta"


# --- errors -------------------------------------------------------------------

@pytest.mark.parametrize("change,error,words", [
    (lambda q: q.double(), TypeError, ["'q'", "float64", "torch.float32"]),
    (lambda q: q.to_sparse(), TypeError, ["'q'", "dense"]),
    (lambda q: torch.nested.nested_tensor(list(q)), TypeError,
     ["'q'", "nested", "to_padded_tensor"]),
    (lambda q: q[0], ValueError, ["'q'", "4 dims"]),
])
def test_errors(change, error, words):
    q, k, v = tensors()
    q = change(q)
    if q.dtype == torch.float64:
        k, v = k.double(), v.double()
    with pytest.raises(error) as caught:
        attnc.softmax_attention(q, k, v)
    for word in words:
        assert word in str(caught.value)


def test_mixed_libraries():
    q, k, v = tensors()
    with pytest.raises(TypeError, match="'k'.*torch tensor.*ndarray"):
        attnc.softmax_attention(q, k.numpy(), v)


# --- gradients: the kernels' against torch's of the reference, in float64 -----

def gradients(function, inputs):
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    out = function(*inputs)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(out.shape, generator=generator).to(out.dtype)
    return torch.autograd.grad(out, inputs, weight)


def check_gradients(inputs, bound=2e-6, **arguments):
    """`inputs` are q, k, v and perhaps a bias."""
    def call(module):
        def function(q, k, v, *bias):
            given = dict(zip(("bias",), bias), **arguments)
            return module.attention(q, k, v, **given)
        return function

    got = gradients(call(attnc), inputs)
    want = gradients(call(reference), [x.double() for x in inputs])
    for a, b, x in zip(got, want, inputs):
        assert a.dtype == x.dtype
        close(a, b, bound)


@pytest.mark.parametrize("activation", ["sigmoid", None, "relu2", "silu"])
@pytest.mark.parametrize("arguments", [
    dict(), dict(causal=True), dict(window=(4, 2)),
    dict(kv_len=torch.tensor([7, 33])), dict(attn_mask=torch.rand(33, 33) < 0.7),
    dict(alibi_slopes=torch.rand(4))], ids=lambda a: ",".join(a))
def test_gradients(activation, arguments):
    # A softmax does not depend on a head's bias: one for each key.
    bias = torch.randn(1, 1, 1, 33) if activation is None else torch.randn(4)
    check_gradients(tensors(Hkv=2) + [bias], activation=activation,
                    **arguments)


@pytest.mark.parametrize("shape", [(), (4,), (2, 4), (2, 1), (2, 1, 1, 33),
                                   (1, 4, 33, 1), (33, 33), (2, 4, 33, 33)])
def test_bias_gradients(shape):
    if len(shape) == 2 and shape[0] == 33:
        shape = (1,) + shape
    check_gradients(tensors() + [torch.randn(shape)], activation="sigmoid")


@pytest.mark.parametrize("dtype,bound", [(torch.bfloat16, 1.5e-2),
                                         (torch.float16, 2e-3)])
def test_half_gradients(dtype, bound):
    check_gradients(tensors(dtype=dtype), bound, activation="sigmoid",
                    bias=-2.0)
    check_gradients(tensors(dtype=dtype), bound, causal=True)


def test_layout_and_l1_gradients():
    check_gradients([x.transpose(1, 2) for x in tensors()], layout="bshd")
    check_gradients(tensors(), activation="softplus", normalize="l1")


def test_a_captured_gradient_that_there_is_not():
    q, k, v = tensors(S=5)
    table = torch.randn(4, 9, requires_grad=True)
    out = attnc.attention(q, k, v,
                          score_mod=lambda s, b, h, i, j: s + table[h, i + j])
    with pytest.raises(NotImplementedError,
                       match=r"gradient.*q_idx - kv_idx.*detach"):
        out.sum().backward()


def test_devices_and_libraries_do_not_mix():
    q, k, v = tensors(S=5)
    lengths = torch.tensor([3, 4], device="meta")
    for call, error, words in (
            (lambda: attnc.softmax_attention(q, k, v, kv_len=lengths),
             ValueError, "'kv_len'.*on cpu as q.*on meta.*to"),
            (lambda: attnc.softmax_attention(q, k.to("meta"), v), ValueError,
             "'k'.*on meta"),
            (lambda: attnc.softmax_attention(q.to("meta"), k, v), ValueError,
             "'k'.*on meta as q.*on cpu"),
            (lambda: attnc.softmax_attention(q, k.numpy(), v), TypeError,
             "'k'.*torch tensor.*ndarray.*as_tensor"),
            (lambda: attnc.softmax_attention(q, k, v, attn_mask=object()),
             TypeError, "'attn_mask'.*tensor.*object"),
            (lambda: attnc.attention(q, k, v, activation=torch.softmax),
             TypeError, "activation.*elementwise.*softmax"),
            (lambda: attnc.attention(q, k, v, activation=torch.nn.Softmax(-1)),
             NotImplementedError, "without an activation")):
        with pytest.raises(error, match=words):
            call()


def test_captured_gradients():
    """Also of an array that is larger than what is read, and of one that is
    converted on the way."""
    def call(module):
        return lambda q, k, v, t, w: module.attention(
            q, k, v, activation="sigmoid", score_mod=lambda s, b, h, i, j:
            torch.tanh(s) * w + t[h, i] * t[h, j])

    inputs = tensors() + [torch.randn(4, 40), torch.randn((),
                                                          dtype=torch.float64)]
    want = gradients(call(reference), [x.double() for x in inputs])
    got = gradients(call(attnc), inputs)
    for a, b in zip(got[:-1], want):
        close(a, b, 2e-6)
    # A number's gradient is a sum that may cancel: its terms bound the error.
    wide = [x.double() for x in inputs[:-1]] + [
        inputs[-1].double().expand(2, 4, 33, 33)]
    terms = gradients(lambda q, k, v, t, w: reference.attention(
        q, k, v, activation="sigmoid", score_mod=lambda s, b, h, i, j:
        torch.tanh(s) * w[b, h, i, j] + t[h, i] * t[h, j]), wide)[-1]
    torch.testing.assert_close(terms.sum(), want[-1])
    assert (got[-1] - want[-1]).abs() <= 2e-6 * terms.abs().sum()


def test_only_what_is_asked_for():
    q, k, v = tensors()
    bias = torch.randn(4, requires_grad=True)
    out = attnc.sigmoid_attention(q, k, v, bias=bias)
    out.sum().backward()
    assert q.grad is None and bias.grad.shape == (4,)


def test_second_order_is_refused():
    q, k, v = tensors()
    q.requires_grad_()
    out = attnc.softmax_attention(q, k, v)
    first, = torch.autograd.grad((out ** 2).sum(), q, create_graph=True)
    with pytest.raises(NotImplementedError, match="first-order"):
        first.sum().backward()


def test_func_grad():
    q, k, v = tensors()
    got = torch.func.grad(lambda q: attnc.softmax_attention(q, k, v).sum())(q)
    q.requires_grad_()
    want, = torch.autograd.grad(attnc.softmax_attention(q, k, v).sum(), q)
    close(got, want)


def test_compiled_gradients():
    def block(q, k, v, bias):
        out = attnc.sigmoid_attention(q * 2, k, v, bias=bias, causal=True)
        return attnc.softmax_attention(out, k, v)

    torch._dynamo.reset()
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager",
                             dynamic=True)
    bias = torch.randn(4)
    gradients(compiled, tensors(S=5) + [bias])
    with torch._dynamo.config.patch(error_on_recompile=True):
        for n in range(6, 56):
            inputs = tensors(S=n) + [bias]
            for a, b in zip(gradients(compiled, inputs),
                            gradients(block, inputs)):
                close(a, b, 1e-5)


def test_checkpoint():
    from torch.utils.checkpoint import checkpoint
    inputs = tensors()
    got = gradients(lambda *a: checkpoint(attnc.softmax_attention, *a,
                                          use_reentrant=False), inputs)
    for a, b in zip(got, gradients(attnc.softmax_attention, inputs)):
        assert torch.equal(a, b)


def test_backward_opcheck():
    q, k, v = tensors(S=9)
    text = spec_text(bias=torch.randn(4), scale=0.31)
    training = _spec.for_training(text)
    bias = torch.randn(4)
    out, lse = torch.ops.attnc.forward(training, q, k, v, [bias], [0.31])
    torch.library.opcheck(
        torch.ops.attnc.backward.default,
        (_spec.backward(text, ("query", "value", "bias")), q, k, v, [bias],
         [0.31], [out, lse], torch.randn_like(out)))


# --- what a tensor's memory does not show -------------------------------------

def test_negated_views_are_read_as_they_are_seen():
    pairs = torch.view_as_complex(torch.randn(1, 2, 5, 8, 2))
    q = pairs.conj().imag
    assert q.is_neg()
    k, v = torch.randn(1, 2, 6, 8), torch.randn(1, 2, 6, 8)
    want = attnc.softmax_attention(q.resolve_neg(), k, v)
    for _ in range(2):  # cold and warm
        assert torch.equal(attnc.softmax_attention(q, k, v), want)


@pytest.mark.parametrize("grad", [False, True])
def test_forward_mode_is_refused(grad):
    q, k, v = (torch.randn(1, 2, 5, 8, requires_grad=grad) for _ in range(3))
    attnc.softmax_attention(q, k, v)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(q, torch.ones_like(q))
        with pytest.raises(NotImplementedError, match="forward-mode"):
            attnc.softmax_attention(dual, k, v)
        attnc.softmax_attention(q, k, v)  # no tangent, no error
    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(lambda q: attnc.softmax_attention(q, k, v), (q,), (q,))


def test_short_and_long_ways_of_gradients_agree():
    """Operands that are converted or narrowed take the long one."""
    q, k, v = (torch.randn(2, 4, 9, 8, requires_grad=True) for _ in range(3))
    bias = torch.randn(4, requires_grad=True)
    lengths = torch.tensor([3, 9])

    def gradients(bias, lengths):
        out = attnc.sigmoid_attention(q, k, v, bias=bias, kv_len=lengths)
        return torch.autograd.grad(out.square().sum(), (q, k, v, bias))

    want = gradients(bias, lengths.int())
    for given in ((bias, lengths), (bias.detach().double().requires_grad_(),
                                    lengths)):
        got = gradients(*given)
        assert got[3].dtype == given[0].dtype
        for a, b in zip(got, want):
            assert torch.allclose(a.to(b.dtype), b, atol=1e-6)


@pytest.mark.parametrize("lse", [False, True])
def test_a_warm_call_with_gradients(lse, monkeypatch):
    """Recorded by the extension alone: what autograd promises still holds."""
    attention = functools.partial(
        attnc.softmax_attention, return_lse=True) if lse else (
        functools.partial(attnc.sigmoid_attention, bias=-2.0))
    q, k, v = tensors(S=9)
    q.requires_grad_()
    found = [attention(q, k, v, scale=0.25) for _ in range(2)]
    with monkeypatch.context() as patched:
        patched.setattr(_torch, "_recorded", None)
        found.append(attention(q, k, v, scale=0.25))
    if lse:
        assert all(found[k][1].requires_grad for k in range(3))
        assert torch.equal(found[0][1], found[2][1])
        found = [output for output, _ in found]
    weight = torch.randn_like(v)
    cold, _, warm = (torch.autograd.grad((x * weight).sum(), q,
                                         retain_graph=True)[0] for x in found)
    assert torch.equal(cold, warm) and torch.equal(found[0], found[2])

    out = attention(q, k, v, scale=0.25)
    out = out[0] if lse else out
    kept = weakref.ref(out.grad_fn)
    out.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        out.sum().backward()
    del out
    gc.collect()
    assert kept() is None
    k.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace"):
        found[2].sum().backward()
    with torch.autograd.graph.save_on_cpu():
        again = attention(q, k, v, scale=0.25)
    again = again[0] if lse else again
    plain = attention(q, k, v, scale=0.25)
    plain = plain[0] if lse else plain
    got, want = (torch.autograd.grad(x.sum(), q)[0] for x in (again, plain))
    assert torch.equal(got, want)


def test_a_staging_run_records_gradients(tmp_path):
    """What `attnc package --from-events` makes programs of, backward too."""
    events = tmp_path / "events"
    text = ("import torch, attnc\n"
            "q = torch.randn(1, 2, 5, 8, requires_grad=True)\n"
            "attnc.attention(q, q, q, score_mod=lambda s, b, h, i, j: s / 2)"
            ".sum().backward()\n")
    subprocess.run([sys.executable, "-c", text], check=True, env=dict(
        os.environ, ATTNC_EVENTS=str(events), ATTNC_CACHE="memory"))
    missed = [json.loads(line) for line in events.read_text().splitlines()]
    missed = [x["request"]["ir"] for x in missed if x["event"] == "miss"]
    assert len(missed) == 2 and "gradient" in missed[1], missed


@pytest.mark.parametrize("activation", ["sigmoid", None])
@pytest.mark.parametrize("shape", [(), (4,), (2, 4), (2, 1)])
def test_scale_gradients(activation, shape):
    """One for all, or learned by each head."""
    def function(attention):
        return lambda q, k, v, scale: attention(
            q, k, v, activation=activation, scale=scale, bias=-1.0,
            causal=True)

    inputs = [*tensors(Hkv=2), 0.1 + torch.rand(shape)]
    wide = [x.double() for x in inputs]
    for a, b in zip(gradients(function(attnc.attention), inputs),
                    gradients(function(reference.attention), wide)):
        close(a, b, 1e-5)  # along a row of a softmax most of it cancels
    check(*inputs[:3], activation=activation, scale=inputs[3])


@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
def test_gradients_of_arrays_read_at_constants_and_by_groups(layout):
    """table[1, h // 2, i, j], and of an epilogue."""
    def call(module):
        return lambda q, k, v, full, heads, gate: module.attention(
            q, k, v, activation="sigmoid", layout=layout, causal=True,
            score_mod=lambda s, b, h, i, j:
            s * heads[2, h] + full[1, h // 2, i, j],
            epilogue=lambda o, b, h, i, d: o * gate[0, i, h // 3, d])

    inputs = [x if layout == "bhsd" else x.transpose(1, 2)
              for x in tensors()]
    n = inputs[0].shape[1 if layout == "bshd" else 2]
    width = inputs[2].shape[-1]
    inputs += [torch.randn(3, 2, n, n), torch.randn(3, 4),
               torch.randn(1, n, 2, width)]
    want = gradients(call(reference), [x.double() for x in inputs])
    for _ in range(2):
        for a, b in zip(gradients(call(attnc), inputs), want):
            close(a, b, 3e-6)


def test_gradients_of_what_an_activation_captures():
    def call(module):
        return lambda q, k, v, beta, shift: module.attention(
            q, k, v, causal=True, normalize="l1",
            activation=lambda x: torch.relu(x - shift[1]) + torch.exp(
                beta * torch.tanh(x)))

    inputs = tensors() + [torch.tensor(0.7), torch.tensor([0.2, -0.1])]
    want = gradients(call(reference), [x.double() for x in inputs])
    got = gradients(call(attnc), inputs)
    for a, b in zip(got[:3], want):
        close(a, b, 3e-6)
    for a, b in zip(got[3:], want[3:]):
        assert torch.allclose(a.double(), b, rtol=1e-4)


@pytest.mark.parametrize("sizes", [(1, 1), (7, 300), (200, 33)])
def test_gradients_of_relative_positions(sizes):
    """Of tables read at a difference, as T5, Swin and ALiBi's successors do."""
    rows, keys = sizes

    def function(attention):
        def call(q, k, v, table, buckets):
            def score_mod(score, b, h, i, j):
                return score * buckets[(i - j + keys) // 7] + table[
                    h, j - i + rows]

            return attention(q, k, v, score_mod=score_mod, kv_len=lengths)
        return call

    lengths = torch.tensor([keys // 2, keys])
    q, _, _ = tensors(S=rows)
    _, k, v = tensors(S=keys, Hkv=2)
    inputs = [q, k, v, torch.randn(4, rows + keys),
              torch.rand((rows + keys) // 7 + 1)]
    wide = [x.double() for x in inputs]
    for a, b in zip(gradients(function(attnc.attention), inputs),
                    gradients(function(reference.attention), wide)):
        assert a.shape == b.shape
        assert (a - b).norm() <= 1e-5 * b.norm() + 1e-5


# --- epilogues ----------------------------------------------------------------

def gated(gate, channel):
    return lambda o, b, h, i, d: (o * torch.sigmoid(gate[b, h, i, d])
                                  * channel[h, d])


@pytest.mark.parametrize("activation", ["sigmoid", None])
@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
def test_epilogue_gradients(activation, layout):
    """Of q, k, v, and of what the epilogue captures."""
    def function(attention):
        def call(q, k, v, gate, channel):
            return attention(q, k, v, activation=activation, causal=True,
                             epilogue=gated(gate, channel), layout=layout)
        return call

    q, k, v = tensors()
    if layout == "bshd":
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    B, H, S, D = tensors()[0].shape
    inputs = [q, k, v, torch.randn(B, H, S, v.shape[-1]),
              torch.randn(H, v.shape[-1])]
    wide = [x.double() for x in inputs]
    for a, b in zip(gradients(function(attnc.attention), inputs),
                    gradients(function(reference.attention), wide)):
        close(a, b, 2e-6)


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_epilogue_statistic_gradients(activation):
    """Through the mean square of a row, and of a gain a channel."""
    def function(attention):
        def call(q, k, v, gain):
            return attention(
                q, k, v, activation=activation, kv_len=torch.tensor([0, 20]),
                epilogue=lambda o, b, h, i, d, mean_square:
                o * torch.rsqrt(mean_square + 1e-2) * gain[d])
        return call

    inputs = [*tensors(Hkv=2), torch.randn(32)]
    wide = [x.double() for x in inputs]
    for a, b in zip(gradients(function(attnc.attention), inputs),
                    gradients(function(reference.attention), wide)):
        close(a, b, 1e-5)


def test_epilogue_with_lse():
    q, k, v = (x.requires_grad_() for x in tensors())
    scale = torch.tensor(2.0)

    def call(q):
        return attnc.attention(q, k, v, return_lse=True,
                               epilogue=lambda o, b, h, i, d: o * scale)

    out, lse = call(q)
    with torch.no_grad():
        want, want_lse = call(q)
    close(out, want)
    assert torch.equal(lse, want_lse)
    got, = torch.autograd.grad(out.sum(), q, retain_graph=True)
    want, = torch.autograd.grad(2 * attnc.softmax_attention(q, k, v).sum(), q)
    close(got, want, 1e-5)
    got, = torch.autograd.grad((out + lse[..., None]).sum(), q)
    plain, lse = attnc.softmax_attention(q, k, v, return_lse=True)
    want, = torch.autograd.grad((2 * plain + lse[..., None]).sum(), q)
    close(got, want, 1e-5)


@pytest.mark.parametrize("rows", [5, 200])
def test_a_mask_of_the_smallest_number(rows):
    """S-mask-zero: a row of it is a row without keys, as one of -inf."""
    q, k, v = (torch.randn(2, 2, n, 32).requires_grad_()
               for n in (rows, 300, 300))
    smallest = torch.zeros(2, 1, rows, 300)
    smallest[0, :, 3] = smallest[1, ..., 200:] = torch.finfo(torch.float32).min
    infinite = smallest.masked_fill(smallest < 0, -math.inf)
    results = []
    for mask in (smallest, infinite):
        out, lse = attnc.softmax_attention(q, k, v, attn_mask=mask,
                                           return_lse=True)
        results.append((out, lse, *torch.autograd.grad(out.sum(), (q, k, v))))
    assert not results[0][0][0, :, 3].any()
    for got, want in zip(*results):
        assert not got.isnan().any()
        assert torch.equal(got, want)


def sink(attention, **arguments):
    """Softmax with one more logit whose value is 0."""
    def call(q, k, v, bias, sink):
        out, lse = attention(q, k, v, bias=bias, return_lse=True, **arguments)
        return out * torch.sigmoid(lse - sink)[..., None].to(out.dtype)
    return call


@pytest.mark.parametrize("arguments", [
    dict(), dict(causal=True), dict(kv_len=torch.tensor([0, 33]))],
    ids=lambda a: ",".join(a))
def test_gradients_through_the_lse(arguments):
    inputs = [*tensors(), torch.randn(1, 1, 1, 33), torch.randn(4, 1)]
    want = gradients(sink(reference.attention, **arguments),
                     [x.double() for x in inputs])
    function = sink(attnc.softmax_attention, **arguments)
    ways = [function, function]  # cold and warm
    if arguments.get("causal"):
        ways += [torch.compile(function, fullgraph=True, backend="aot_eager")]
    for way in ways:
        *got, dsink = gradients(way, inputs)
        for a, b in zip(got, want):
            close(a, b, 2e-6)
        # torch's sum of the output, in which much cancels.
        assert torch.allclose(dsink.double(), want[-1], atol=1e-4)


def test_gradients_through_the_lse_alone():
    def alone(attention):
        return lambda q, k: attention(q, k, k.detach(), return_lse=True)[1]

    inputs = tensors()[:2]
    want = gradients(alone(reference.attention), [x.double() for x in inputs])
    for _ in range(2):
        for a, b in zip(gradients(alone(attnc.softmax_attention), inputs), want):
            close(a, b, 2e-6)
    function = alone(attnc.softmax_attention)
    got = torch.func.grad(lambda q: function(q, inputs[1]).sum())(inputs[0])
    want, = torch.autograd.grad(function(
        inputs[0].requires_grad_(), inputs[1]).sum(), inputs[0])
    close(got, want, 1e-6)


def test_compiled_epilogue_gradients():
    gate = torch.randn(2, 4, 9, 32)
    program = attnc.compile(activation="sigmoid", epilogue=gated(
        gate, torch.randn(4, 32)))
    compiled = torch.compile(lambda q, k, v: program(q, k, v), fullgraph=True,
                             backend="aot_eager")
    inputs = tensors(S=9)
    for a, b in zip(gradients(compiled, inputs), gradients(program, inputs)):
        close(a, b, 1e-5)
    scale = torch.tensor(0.3)
    for a, b in zip(
            gradients(lambda *x: compiled_scale(program, *x), [*inputs, scale]),
            gradients(lambda q, k, v, s: program(q, k, v, scale=s),
                      [*inputs, scale])):
        close(a, b, 1e-5)


def compiled_scale(program, *operands):
    return torch.compile(lambda q, k, v, s: program(q, k, v, scale=s),
                         fullgraph=True, backend="aot_eager")(*operands)
