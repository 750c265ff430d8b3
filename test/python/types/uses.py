"""What users write: every line is as its comment says for mypy --strict."""

import attnc
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
q = k = v = np.zeros((1, 1, 4, 8), np.float32)

out: Array = attnc.sigmoid_attention(q, k, v, bias=-3.0, causal=True)
out = attnc.softmax_attention(q, k, v, window=(3, 0), layout="bshd")
both: tuple[Array, Array] = attnc.softmax_attention(q, k, v, return_lse=True)
attnc.attention(q, k, v, activation=lambda x: attnc.ops.relu(x),
                score_mod=lambda s, b, h, i, j: s - h * (i - j))
program: attnc.Program = attnc.compile(causal=True)
text: str = program.ir("tile") + program.ptx() + program.explain()
code: bytes = program.cubin()
fine, why = attnc.is_supported(q, k, v, function="softmax_attention")
bias: float = attnc.scores.init_bias(4)

attnc.sigmoid_attention(q, k, v)  # error: bias is missing
attnc.softmax_attention(q, k, v, layout="hbsd")  # error: no such layout
attnc.softmax_attention(q, k, v, causal="left")  # error: no such corner
attnc.softmax_attention(q, k, v, windows=(1, 1))  # error: no such argument
wrong: int = attnc.softmax_attention(q, k, v)  # error: an array
