"""Hugging Face transformers: attention implementations of a model.

    attnc.integrations.transformers.register()
    model = AutoModelForCausalLM.from_pretrained(..., attn_implementation="attnc")

"attnc" is softmax attention. "attnc_sigmoid" is sigmoid attention with the bias
`config.attnc_bias`, by default -ln of config.max_position_embeddings; it is for
models trained with it.
"""

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
        raise NotImplementedError("attention sinks (s_aux) are not supported; "
                                  "use attn_implementation='eager'")
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    arguments = dict(activation=activation, bias=bias, scale=scaling,
                     dropout_p=dropout if module.training else 0.0)
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
    out = attention(query, key, value, **arguments)
    return out.transpose(1, 2).contiguous(), None


_known: dict = {}


def _softcaps(cap):
    """One function for each value: a function is traced once."""
    def score_mod(s, b, h, q_idx, kv_idx):
        from .. import ops
        return cap * ops.tanh(s / cap)

    return _known.setdefault(cap, score_mod)
