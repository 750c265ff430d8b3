"""A tiny transformer learns to look back, with sigmoid and with softmax."""

import attnc
import pytest
import torch
from attnc import nn


class Softmax(nn.SigmoidAttention):
    """The same module with softmax."""

    def forward(self, x):
        heads, _, d = self.heads
        q, k, v = self.qkv(x).unflatten(-1, (-1, d)).split(heads, dim=2)
        q, k = self.q_norm(q), self.k_norm(k)
        return self.out(attnc.softmax_attention(
            q, k, v, causal=True, alibi_slopes=self.slopes,
            layout="bshd").flatten(2))


class Model(torch.nn.Module):
    def __init__(self, attention, dim=32, vocabulary=16, length=16):
        super().__init__()
        self.embed = torch.nn.Embedding(vocabulary, dim)
        self.position = torch.nn.Parameter(0.1 * torch.randn(length, dim))
        self.layers = torch.nn.ModuleList(
            attention(dim, 2, max_seq_len=length, alibi=True)
            for _ in range(2))
        self.head = torch.nn.Linear(dim, vocabulary)

    def forward(self, ids):
        x = self.embed(ids) + self.position
        for layer in self.layers:
            x = x + layer(torch.nn.functional.rms_norm(x, x.shape[-1:]))
        return self.head(x)


@pytest.fixture
def one_thread():
    # Tiny operators: on a busy machine two threads wait for each other.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("attention", [nn.SigmoidAttention, Softmax])
def test_loss_falls(attention, one_thread):
    torch.manual_seed(0)
    model = Model(attention)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(200):
        ids = torch.randint(0, 16, (4, 16))
        logits = model(ids)[:, 2:]  # the token two before, which only
        loss = torch.nn.functional.cross_entropy(  # attention can bring
            logits.flatten(0, 1), ids[:, :-2].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    first, last = sum(losses[:10]) / 10, sum(losses[-10:]) / 10
    assert first > 2.0
    assert last < 0.7 * first, (first, last)
    if attention is nn.SigmoidAttention:
        assert all(layer.bias.grad is not None for layer in model.layers)
