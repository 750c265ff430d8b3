"""A small model of transformers with attnc's attention."""

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
        for weight in made.parameters():
            weight.mul_(3.0 if weight.ndim == 2 else 1.0)
    return made


IDS = torch.randint(1, 99, (2, 12), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("kind,changes", [
    ("Llama", {}), ("Mistral", dict(sliding_window=5)),
])
def test_logits_equal_eager(kind, changes):
    got = model("attnc", kind, **changes)(IDS).logits
    want = model("eager", kind, **changes)(IDS).logits
    assert torch.allclose(got, want, atol=1e-4, rtol=1e-4)


def generate(made, ids, **arguments):
    return made.generate(ids, max_new_tokens=6, do_sample=False, **arguments)


@pytest.mark.parametrize("implementation", ["attnc", "attnc_sigmoid"])
@pytest.mark.parametrize("changes", [{}, dict(sliding_window=5)])
def test_generate_with_and_without_cache(implementation, changes):
    made = model(implementation, "Mistral" if changes else "Llama", **changes)
    assert torch.equal(generate(made, IDS, use_cache=True),
                       generate(made, IDS, use_cache=False))


@pytest.mark.parametrize("implementation", ["attnc", "attnc_sigmoid"])
def test_left_padding(implementation):
    made = model(implementation)
    padded = torch.cat([torch.zeros(1, 5, dtype=torch.long), IDS[:1, :7]], 1)
    both = torch.cat([padded, IDS[1:]])
    got = generate(made, both, attention_mask=(both != 0).long())
    assert torch.equal(got[0, 5:], generate(made, IDS[:1, :7])[0])
    assert torch.equal(got[1], generate(made, IDS[1:])[0])


def test_refusals():
    with pytest.raises(NotImplementedError, match="eager"):
        attnc.integrations.transformers.softmax_forward(
            torch.nn.Module(), IDS, IDS, IDS, None, output_attentions=True)
