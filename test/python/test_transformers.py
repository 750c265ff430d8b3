"""A small model of transformers with attnc's attention."""

import types

import pytest
import torch

transformers = pytest.importorskip("transformers")

import attnc


@pytest.fixture(scope="module", autouse=True)
def registered():
    attnc.integrations.transformers.register()


def model(implementation, kind="Llama", **changes):
    torch.manual_seed(0)
    config = getattr(transformers, kind + "Config")(**dict(dict(
        vocab_size=99, hidden_size=64, intermediate_size=64,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=128, attn_implementation=implementation,
        pad_token_id=0, bos_token_id=1, eos_token_id=None), **changes))
    made = getattr(transformers, kind + "ForCausalLM")(config).eval()
    # Larger than at initialisation, so that the next token is no near tie.
    with torch.no_grad():
        for name, weight in made.named_parameters():
            weight.mul_(3.0 if weight.ndim == 2 else 1.0)
            if name.endswith("sinks"):  # all near 0 at initialisation
                weight.copy_(torch.linspace(-1, 2, len(weight)) + weight)
    return made


# Two layers: one with a window, one without.
GPT_OSS = dict(head_dim=16, num_local_experts=2, num_experts_per_tok=2,
               sliding_window=5, rope_parameters=dict(
                   rope_type="default", rope_theta=10000.0))


IDS = torch.randint(1, 99, (2, 12), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("kind,changes", [
    ("Llama", {}), ("Mistral", dict(sliding_window=5)), ("GptOss", GPT_OSS),
])
def test_logits_equal_eager(kind, changes):
    got = model("attnc", kind, **changes)(IDS).logits
    want = model("eager", kind, **changes)(IDS).logits
    assert torch.allclose(got, want, atol=1e-4, rtol=1e-4)


def generate(made, ids, **arguments):
    return made.generate(ids, max_new_tokens=6, do_sample=False, **arguments)


@pytest.mark.parametrize("implementation,kind,changes", [
    ("attnc", "Llama", {}), ("attnc_sigmoid", "Llama", {}),
    ("attnc", "Mistral", dict(sliding_window=5)),
    ("attnc_sigmoid", "Mistral", dict(sliding_window=5)),
    ("attnc", "GptOss", GPT_OSS)])
def test_generate_with_and_without_cache(implementation, kind, changes):
    made = model(implementation, kind, **changes)
    assert torch.equal(generate(made, IDS, use_cache=True),
                       generate(made, IDS, use_cache=False))


@pytest.mark.parametrize("implementation,kind,changes", [
    ("attnc", "Llama", {}), ("attnc_sigmoid", "Llama", {}),
    ("attnc", "GptOss", GPT_OSS)])
def test_left_padding(implementation, kind, changes):
    made = model(implementation, kind, **changes)
    padded = torch.cat([torch.zeros(1, 5, dtype=torch.long), IDS[:1, :7]], 1)
    both = torch.cat([padded, IDS[1:]])
    got = generate(made, both, attention_mask=(both != 0).long())
    assert torch.equal(got[0, 5:], generate(made, IDS[:1, :7])[0])
    assert torch.equal(got[1], generate(made, IDS[1:])[0])


@pytest.mark.parametrize("implementation", ["softmax", "sigmoid"])
def test_float_masks_say_no_by_the_smallest_number(implementation):
    module = torch.nn.Module()
    module.config = types.SimpleNamespace(attnc_bias=-2.0)
    forward = getattr(attnc.integrations.transformers,
                      implementation + "_forward")
    q, k, v, _ = sink_inputs()
    q.requires_grad_()
    found = []
    for mask in (PADDED, float_mask(torch.float32), float_mask(torch.bfloat16)):
        out, _ = forward(module, q, k, v, mask)
        found.append((out, *torch.autograd.grad(out.sum(), q)))
    for got in found[1:]:
        close(got[0], found[0][0], 1e-6)
        close(got[1], found[0][1], 1e-6)


def test_gradients_equal_eager():
    found = []
    for implementation in ("attnc", "eager"):
        made = model(implementation, "GptOss", **GPT_OSS)
        made(IDS, labels=IDS).loss.backward()
        found.append(dict(made.named_parameters()))
    for name, weight in found[0].items():
        close(weight.grad, found[1][name].grad, 1e-5)


# --- attention sinks, beside softmax with one more column ---------------------

def close(got, want, bound):
    error = (got.double() - want.double()).norm()
    assert got.shape == want.shape and got.isfinite().all()
    assert error <= bound * want.double().norm()


def softmax_with_a_column(q, k, v, sinks, allowed, softcap=None):
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    s = 0.3 * q @ k.transpose(2, 3)
    if softcap is not None:
        s = softcap * torch.tanh(s / softcap)
    s = s.masked_fill(~allowed, -torch.inf)
    column = sinks[:, None, None].expand(s.shape[:3] + (1,))
    weights = torch.cat([s, column], 3).softmax(3)[..., :-1]
    return (weights @ v).transpose(1, 2)


LENGTH = 21
ROWS, KEYS = torch.arange(LENGTH)[:, None], torch.arange(LENGTH)
CAUSAL = (KEYS <= ROWS).expand(2, 1, LENGTH, LENGTH)
# Of the second sequence 6 tokens are padding, whose rows have no keys.
PADDED = CAUSAL & (KEYS >= torch.tensor([0, 6])[:, None, None, None])


def float_mask(dtype):
    return torch.zeros(PADDED.shape, dtype=dtype).masked_fill(
        ~PADDED, torch.finfo(dtype).min)


def sink_inputs():
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(*shape, generator=generator) for shape in (
        (2, 4, LENGTH, 16), (2, 2, LENGTH, 16), (2, 2, LENGTH, 24), (4,))]


def with_sinks(q, k, v, sinks, mask=None, **arguments):
    out, weights = attnc.integrations.transformers.softmax_forward(
        torch.nn.Module(), q, k, v, mask, scaling=0.3, s_aux=sinks, **arguments)
    assert weights is None and out.dtype == q.dtype and out.is_contiguous()
    return out


@pytest.mark.parametrize("allowed,mask,arguments", [
    (CAUSAL, None, {}),
    (CAUSAL & (KEYS > ROWS - 5), None, dict(sliding_window=5, softcap=2.0)),
    (PADDED, PADDED, {}),
    (PADDED, float_mask(torch.float32), {}),
    (torch.zeros_like(CAUSAL), torch.zeros_like(CAUSAL), {}),
], ids=["causal", "window", "padding", "float mask", "nothing"])
def test_sinks(allowed, mask, arguments):
    inputs = [x.requires_grad_() for x in sink_inputs()]
    wide = [x.detach().double().requires_grad_() for x in inputs]
    got = with_sinks(*inputs, mask, **arguments)
    want = softmax_with_a_column(*wide, allowed, arguments.get("softcap"))
    close(got, want, 1e-6)
    weight = torch.randn(got.shape, generator=torch.Generator().manual_seed(3))
    for a, b in zip(torch.autograd.grad(got, inputs, weight),
                    torch.autograd.grad(want, wide, weight.double())):
        close(a, b, 3e-6)


def test_sinks_in_half_precision():
    inputs = [x.bfloat16() for x in sink_inputs()]
    want = softmax_with_a_column(*(x.double() for x in inputs), PADDED)
    close(with_sinks(*inputs, PADDED), want, 6e-3)


def test_sinks_that_are_off():
    """At -inf there is none, not even of rows without keys."""
    inputs = [x.requires_grad_() for x in sink_inputs()]
    with torch.no_grad():
        inputs[3].fill_(-torch.inf)
    got = with_sinks(*inputs, PADDED)
    want = with_sinks(*inputs[:3], None, PADDED)
    assert torch.equal(got, want)
    *gradients, dsinks = torch.autograd.grad(got.sum(), inputs)
    for a, b in zip(gradients, torch.autograd.grad(want.sum(), inputs[:3])):
        close(a, b, 1e-6)
    assert torch.equal(dsinks, torch.zeros(4))


def test_refusals():
    with pytest.raises(NotImplementedError, match="eager"):
        attnc.integrations.transformers.softmax_forward(
            torch.nn.Module(), IDS, IDS, IDS, None, output_attentions=True)
    q, k, v, sinks = sink_inputs()
    with pytest.raises(NotImplementedError, match="'s_aux'.*divides by none"):
        model("attnc_sigmoid", "GptOss", **GPT_OSS)(IDS)
    with pytest.raises(ValueError, match=r"'s_aux'.*\(4,\).*\(1, 4\)"):
        with_sinks(q, k, v, sinks[None])
