"""Hugging Face transformers: attention implementations of a model.

    attnc.integrations.transformers.register()
    model = AutoModelForCausalLM.from_pretrained(..., attn_implementation="attnc")

"attnc" is softmax attention. "attnc_sigmoid" is sigmoid attention with the bias
`config.attnc_bias`, by default -ln of config.max_position_embeddings; it is for
models trained with it.

Attention sinks (GPT-OSS' `s_aux`, a logit a head that takes part in the
softmax and has no value) are "attnc"'s: trained with the rest of the model.
"""

import torch

from .. import scores
from .._frontend import attention


def register() -> None:
    """Makes both known to transformers. Calling it again changes nothing."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask
    AttentionInterface.register("attnc", softmax_forward)
    AttentionInterface.register("attnc_sigmoid", sigmoid_forward)
    # Boolean masks, or none where causality says all.
    AttentionMaskInterface.register("attnc", sdpa_mask)
    AttentionMaskInterface.register("attnc_sigmoid", sdpa_mask)


def softmax_forward(module, query, key, value, attention_mask, **arguments):
    return _forward(module, query, key, value, attention_mask, None, None,
                    **arguments)


def sigmoid_forward(module, query, key, value, attention_mask, **arguments):
    config = module.config
    bias = getattr(config, "attnc_bias", None)
    if bias is None:
        bias = scores.init_bias(config.max_position_embeddings)
    return _forward(module, query, key, value, attention_mask, "sigmoid", bias,
                    **arguments)


def _forward(module, query, key, value, mask, activation, bias, *,
             scaling=None, dropout=0.0, sliding_window=None, softcap=None,
             is_causal=None, position_bias=None, s_aux=None,
             output_attentions=False, **unused):
    if output_attentions:
        raise NotImplementedError(
            "output_attentions=True: the weights are never in memory; use "
            "attn_implementation='eager' to look at them")
    if s_aux is not None:
        _check_sinks(s_aux, query.shape[1], activation)
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    arguments = dict(activation=activation, bias=bias, scale=scaling,
                     dropout_p=dropout if module.training else 0.0)
    if mask is not None and mask.is_floating_point():
        # The smallest number is transformers' way to say no. As -inf it says
        # so beside any score, and a row without keys is 0.
        smallest = torch.finfo(mask.dtype).min
        mask = mask.masked_fill(mask <= smallest, -torch.inf)
    if position_bias is not None:
        arguments["bias"] = position_bias if bias is None else (
            position_bias + bias)
    if softcap is not None:
        arguments["score_mod"] = _softcaps(softcap)
    # A mask says all; without one, the diagonal and the window do.
    if mask is not None:
        arguments["attn_mask"] = mask
    elif is_causal:
        # One query sees every key that there is.
        arguments["causal"] = "bottom_right"
        if sliding_window is not None:
            # transformers counts the query itself.
            arguments["window"] = (sliding_window - 1, -1)
    if s_aux is None:
        out = attention(query, key, value, **arguments)
    else:
        out = _with_sinks(*attention(query, key, value, return_lse=True,
                                     **arguments), s_aux)
    return out.transpose(1, 2).contiguous(), None


def _check_sinks(sinks, heads, activation):
    if activation is not None:
        raise NotImplementedError(
            "argument 's_aux': expected None with 'attnc_sigmoid', got "
            "attention sinks; a sink adds to the sum that softmax divides by, "
            "and sigmoid attention divides by none; use "
            "attn_implementation='attnc', or a model without sinks")
    if tuple(sinks.shape) != (heads,):
        raise ValueError(
            f"argument 's_aux': expected shape ({heads},), a logit for each "
            f"head of queries, got {tuple(sinks.shape)}; try s_aux.flatten() "
            "if it has these elements")


def _with_sinks(out, lse, sinks):
    """exp(lse) / (exp(lse) + exp(sink)) of a row is what the sink leaves."""
    # A row without keys stays 0 beside a sink that is off, at -inf: not NaN.
    lse = lse.clamp(min=-3e38)
    rest = (lse - sinks.to(lse.dtype)[:, None]).sigmoid()
    return (out * rest[..., None]).to(out.dtype)


_known: dict = {}


def _softcaps(cap):
    """One function for each value: a function is traced once."""
    def score_mod(s, b, h, q_idx, kv_idx):
        from .. import ops
        return cap * ops.tanh(s / cap)

    return _known.setdefault(cap, score_mod)
