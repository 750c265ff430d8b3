"""attnc.nn."""

import pytest
import torch
from attnc import nn


@pytest.mark.parametrize("arguments", [
    dict(), dict(num_kv_heads=2, rope=nn.Rope(16), layer_scale=0.1),
    dict(alibi=True, bias="buffer", qk_norm=False, hybrid_norm=True),
    dict(window=(3, 0), bias=-2.0)], ids=lambda a: ",".join(a))
@torch.no_grad()
def test_token_by_token_equals_the_full_forward(arguments):
    torch.manual_seed(0)
    module = nn.SigmoidAttention(64, 4, max_seq_len=64, **arguments)
    x = torch.randn(2, 20, 64)
    full = module(x)
    cache = module.make_cache(2, 20)
    parts = [module(x[:, :7], cache=cache)] + [
        module(x[:, t:t + 1], cache=cache) for t in range(7, 20)]
    assert torch.allclose(torch.cat(parts, 1), full, atol=1e-5)
    with pytest.raises(ValueError, match="room for 20 rows"):
        module(x[:, :1], cache=cache)


@pytest.mark.parametrize("cast", [
    lambda module: module.bfloat16(), lambda module: module.half().float(),
    lambda module: module.to("meta", torch.half)],
    ids=["bf16", "and back", "meta"])
def test_a_cast_leaves_bias_slopes_and_frequencies(cast):
    module = nn.SigmoidAttention(96, 6, max_seq_len=777, alibi=True,
                                 rope=nn.Rope(16))

    def exact():
        return module.bias, module.slopes, module.rope.frequencies

    digits = [x.detach().clone() for x in exact()]
    cast(module)
    for x, old in zip(exact(), digits):
        assert x.dtype == torch.float32
        assert x.is_meta or torch.equal(x, old)


def test_bias_is_stored_and_f32():
    module = nn.SigmoidAttention(64, 4, max_seq_len=1000, dtype=torch.bfloat16)
    assert module.bias.dtype == torch.float32
    assert abs(module.bias[0].item() + 6.9077553) < 1e-6
    assert isinstance(module.bias, torch.nn.Parameter)
    module(torch.ones(1, 2, 64, dtype=torch.bfloat16)).sum().backward()
    assert module.half().bias.grad.dtype == torch.float32
    fixed = nn.SigmoidAttention(64, 4, max_seq_len=1000, bias="buffer")
    assert "bias" in dict(fixed.named_buffers())
    with pytest.raises(ValueError, match="'bias'"):
        nn.SigmoidAttention(64, 4, max_seq_len=8, bias="auto")
    with pytest.raises(ValueError, match="num_kv_heads"):
        nn.SigmoidAttention(64, 4, max_seq_len=8, num_kv_heads=3)
    with pytest.raises(ValueError, match="'num_heads'.*dim=64, got 3"):
        nn.SigmoidAttention(64, 3, max_seq_len=8)


def test_the_bias_is_f32_whatever_the_weights_are():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        module = nn.SigmoidAttention(64, 4, max_seq_len=1000)
    finally:
        torch.set_default_dtype(before)
    assert module.out.weight.dtype == torch.bfloat16
    assert module.bias.dtype == torch.float32


def test_rope_depends_on_distance_only():
    rope = nn.Rope(16)
    q, k = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)

    def score(i, j):
        return (rope(q, torch.tensor([i])) * rope(k, torch.tensor([j]))).sum()

    assert torch.allclose(score(9, 4), score(105, 100), atol=1e-4)
    assert not torch.allclose(score(9, 4), score(9, 5), atol=1e-4)


def test_sigma_reparam():
    torch.manual_seed(0)
    layer = nn.sigma_reparam(torch.nn.Linear(24, 16))
    norm = torch.linalg.matrix_norm(layer.weight, 2)
    assert torch.allclose(norm, torch.ones(()), atol=1e-5)
    # The gradient is that of W / |W|: none along W itself.
    original = layer.parametrizations.weight.original
    (layer.weight * original.detach()).sum().backward()
    slope = (original.grad * original).sum()
    assert abs(slope) < 1e-3 * original.grad.norm() * original.norm() + 1e-5
