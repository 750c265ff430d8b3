"""What the cases of check.py and backward.py have in common."""

import dataclasses


@dataclasses.dataclass
class Attention:
    """An attention by name, and the sizes of its operands."""
    name: str
    score: str = "sigmoid"
    dtype: str = "bf16"
    batch: int = 1
    heads: int = 2
    kv_heads: int = 0          # 0: as heads
    rows: int = 256
    keys: int = 0              # 0: as rows
    d: int = 128
    dv: int = 0                # 0: as d
    causal: bool = False
    window: tuple = None
    k_len: tuple = None
    q_len: tuple = None
    alibi: bool = False
    gate: bool = False         # an epilogue: o * sigmoid(gate)
    layout: str = "bhsd"
    std: float = 1.0           # of the logits

    def __post_init__(self):
        self.kv_heads = self.kv_heads or self.heads
        self.keys = self.keys or self.rows
        self.dv = self.dv or self.d
