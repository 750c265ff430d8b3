"""The cases of check.py beside its grid: one for each promise of
docs/hopper.md, named by what it is about.

    check.py --only 'dim-*' 'shape-*' 'mask-*' 'view-*' 'capture-*' 'large-*'
"""


def add_dims(add):
    """Head dims that are no multiple of anything, and unequal ones."""
    for d in (2, 31, 59, 100, 111, 250):
        add(f"dim-{d}", d=d, rows=200, keys=150)
        add(f"dim-{d}-softmax-causal", d=d, rows=200, keys=333, causal=True,
            score="softmax")
    add("dim-40-96", d=40, dv=96, rows=130)
    add("dim-96-31", d=96, dv=31, rows=130, keys=300)
    # Only one of keys and values is copied by threads, for many blocks.
    add("dim-192-191", d=192, dv=191, rows=300, keys=4000)
    add("dim-255-256", d=255, dv=256, rows=300, keys=4000)
    add("dim-31-96-softmax", d=31, dv=96, rows=130, score="softmax")
    add("dim-192-128-softmax", d=192, dv=128, rows=300, score="softmax",
        causal=True)
    add("dim-59-half-out", d=59, rows=130, out_dtype="bf16")
    add("dim-111-f16", d=111, rows=130, dtype="f16", out_dtype="f16")
    add("dim-256-f16-softmax", d=256, rows=300, dtype="f16", score="softmax",
        causal=True)


def add_shapes(add):
    """Lengths, groups, layouts, masks."""
    add("shape-no-rows", rows=0, keys=50)
    add("shape-no-sequences", batch=0, rows=50)
    add("shape-no-heads", heads=0, rows=50)
    add("shape-no-keys-softmax", rows=100, keys=-1, score="softmax",
        flags="--lse")
    add("shape-one-key", rows=129, keys=1)
    add("shape-more-rows-causal", rows=300, keys=77, causal=True)
    add("shape-more-rows-causal-softmax", rows=300, keys=77, causal=True,
        score="softmax", flags="--lse")
    add("shape-group-3", heads=6, kv_heads=2, rows=200, batch=2)
    add("shape-group-3-softmax-bshd", heads=9, kv_heads=3, rows=200, batch=2,
        layout="bshd", score="softmax", causal=True)
    add("shape-group-all-odd-dim", heads=5, kv_heads=1, rows=200, d=59)
    add("shape-window-both-sides", rows=500, window=(60, 30))
    add("shape-window-softmax", rows=500, window=(-1, 30), score="softmax",
        flags="--lse")
    add("shape-lengths", batch=4, rows=300, keys=300, k_len=(300, 0, 1, 129),
        q_len=(300, 300, 17, 0), causal=True)
    add("shape-lengths-softmax", batch=4, rows=300, keys=300, score="softmax",
        k_len=(300, 0, 1, 129), q_len=(300, 300, 17, 0), flags="--lse")
    add("shape-lengths-odd-dim", batch=3, rows=200, keys=300, d=59,
        k_len=(300, 0, 131))
    add("shape-lengths-window-odd-dim-softmax", batch=3, rows=200, keys=300,
        d=31, k_len=(300, 1, 131), window=(50, 10), score="softmax")
    add("shape-n65536-d128", rows=640, keys=65536, heads=1, d=128)
    add("shape-n65536-half-out", rows=640, keys=65536, heads=1, d=64,
        out_dtype="bf16")


def add_masks(add):
    """Masks beside causal, window and boolean tensors."""
    for score in ("sigmoid", "softmax"):
        add(f"mask-documents-{score}", rows=300, batch=2, d=64, score=score,
            masks=("documents",), causal=True)
        add(f"mask-dilated-{score}", rows=200, keys=333, d=64, score=score,
            masks=("dilated",))
        add(f"mask-predicate-{score}", rows=200, keys=150, d=64, score=score,
            masks=("predicate", "dilated"))
        add(f"mask-top-left-{score}", rows=200, keys=333, d=128, score=score,
            causal=True, align="top_left")
    add("mask-all", rows=300, keys=260, batch=2, d=59, causal=True, mask=True,
        masks=("documents", "dilated", "predicate"), align="top_left")


def add_views(add):
    """Strides and alignments that bulk copies cannot read."""
    for d in (64, 128):
        for views in ("dense", "odd", "four", "eight", "sixteen", "reversed",
                      "transposed"):
            add(f"view-{views}-d{d}", d=d, rows=333, keys=400, views=views,
                any_layout=True, causal=d == 64,
                score="sigmoid" if d == 64 else "softmax")
    # Three consumers where a softmax of the same width has two.
    for views in ("odd", "four", "eight", "sixteen", "reversed"):
        add(f"view-{views}-three", d=128, rows=333, keys=400, views=views,
            any_layout=True, causal=views == "odd")
    for d in (1, 7, 9, 59, 100, 127, 255):
        add(f"view-tight-d{d}", d=d, rows=77, keys=131, heads=1,
            views="tight")
    add("view-odd-d256", d=256, rows=200, views="odd", any_layout=True)
    add("view-odd-d31", d=31, rows=200, views="odd", any_layout=True)
    add("view-eight-d36", d=36, rows=200, views="eight", any_layout=True)
    add("view-sixteen-d100", d=100, rows=200, views="sixteen",
        any_layout=True)
    add("view-odd-bshd-half-out", d=64, rows=200, views="odd", layout="bshd",
        any_layout=True, out_dtype="bf16")
    add("view-odd-lengths", d=64, rows=200, keys=300, batch=3, views="odd",
        any_layout=True, k_len=(300, 0, 131))
    add("view-packed-odd-dim", d=59, rows=300, heads=3, layout="bshd",
        packed=True)
    add("view-packed-any", d=64, rows=300, heads=3, layout="bshd",
        packed=True, any_layout=True, score="softmax")


def add_captures(add):
    """Operands of every broadcast kind, and epilogues."""
    for kind in ("bh", "row", "column", "diagonal", "full"):
        add(f"capture-{kind}", rows=150, keys=200, heads=4, batch=2,
            bias=kind)
    add("capture-diagonal-softmax-causal", rows=150, heads=4, bias="diagonal",
        causal=True, score="softmax")
    add("capture-row-odd-dim", rows=150, heads=4, d=59, bias="row")
    add("capture-gate-d256", d=256, rows=200, gate=True)
    add("capture-gate-d64-softmax", d=64, rows=200, gate=True,
        score="softmax", out_dtype="bf16")
    add("capture-gate-odd-dim", d=59, rows=200, gate=True)
    add("capture-everything", d=64, rows=200, keys=260, heads=6, kv_heads=2,
        batch=2, bias="full", alibi=True, mask=True, gate=True, causal=True,
        k_len=(260, 100))


def add_large(add):
    """More than 2^31 elements, more than 65535 heads."""
    add("large-keys", heads=640, rows=32, keys=65552, d=64, sample=3)
    add("large-keys-any", heads=640, rows=32, keys=65552, d=64, sample=3,
        any_layout=True, score="softmax")
    add("large-output", heads=640, rows=65552, keys=40, d=64, sample=3,
        out_dtype="bf16")
    add("large-heads-softmax", batch=70, heads=1024, rows=16, d=64, sample=64,
        score="softmax")


def cluster_schedule(d, score, persistent, cluster=2):
    """Two or three consumers, in turns or not."""
    m, n, stages = {64: (192, 96, 4), 128: (192, 80, 4),
                    256: (128, 80, 2)}[d]
    if persistent and d == 128:
        m, n, stages = 128, 128, 2
    if persistent and d == 256:
        n = 64
    if cluster == 4:
        n = n // 32 * 32
    turns = "true" if m == 128 else "false"
    slice = 0 if score == "softmax" else 32 if n % 32 == 0 else 40
    return (f"block_m={m},block_n={n},consumers={m // 64},stages={stages},"
            f"order=overlap,slice={slice},staged=true,pingpong={turns},"
            f"persistent={'true' if persistent else 'false'},"
            f"cluster={cluster}")


def add_clusters(add):
    """Thread blocks that copy keys and values for each other. 700 queries are
    4 or 6 blocks, 500 are 3 or 4, 333 are 2 or 3, 100 are 1."""
    def add_both(name, d=128, score="sigmoid", cluster=2, **fields):
        for persistent in (False, True):
            add(f"cluster-{name}{'-persistent' * persistent}", d=d,
                score=score,
                schedule=cluster_schedule(d, score, persistent, cluster),
                **fields)

    for d in (64, 128, 256):
        for score in ("sigmoid", "softmax"):
            for causal in (False, True):
                add_both(f"{score}-d{d}{'-causal' * causal}", d=d,
                         score=score, rows=500, keys=700, heads=3, batch=2,
                         causal=causal)
    # More items than multiprocessors, with a remainder.
    for causal in (False, True):
        add_both(f"many{'-causal' * causal}", rows=700, heads=40, batch=3,
                 causal=causal, out_dtype="bf16", sample=9)
        add_both(f"many-softmax-d64{'-causal' * causal}", d=64,
                 score="softmax", rows=1000, heads=40, batch=3, causal=causal,
                 out_dtype="bf16", sample=9)
    for rows, keys in ((1, 1), (100, 700), (333, 100), (385, 1)):
        add_both(f"{rows}x{keys}", rows=rows, keys=keys)
        add_both(f"{rows}x{keys}-causal-softmax", score="softmax", rows=rows,
                 keys=keys, causal=True)
    add_both("no-keys", rows=333, keys=-1)
    add_both("long", rows=640, keys=16384, heads=1)
    add_both("window", d=64, rows=1000, window=(100, 0))
    add_both("window-softmax", rows=1000, window=(150, 40), score="softmax")
    add_both("lengths", batch=4, rows=500, keys=500, k_len=(500, 0, 1, 129),
             q_len=(500, 500, 17, 0), causal=True)
    add_both("lengths-softmax", batch=4, rows=500, keys=500, score="softmax",
             k_len=(500, 0, 1, 129), q_len=(500, 200, 17, 0), flags="--lse")
    add_both("gqa-bshd", heads=8, kv_heads=2, rows=500, batch=2,
             layout="bshd", out_dtype="bf16")
    add_both("four", cluster=4, rows=700, heads=3, causal=True)
    add_both("four-d64-softmax", d=64, cluster=4, rows=1500, heads=3,
             score="softmax")
    serial = "block_m=128,block_n=64,consumers=2,stages=2,cluster=2"
    one = "block_m=64,block_n=32,consumers=1,stages=3,cluster=2"
    for name, schedule in (("serial", serial), ("one", one)):
        add(f"cluster-{name}-documents", d=64, rows=500, batch=2,
            masks=("documents",), causal=True, schedule=schedule)
        add(f"cluster-{name}-mask-alibi", d=64, rows=500, batch=2, mask=True,
            alibi=True, score="softmax", schedule=schedule)
        add(f"cluster-{name}-bias-gate", d=64, rows=333, keys=500, heads=4,
            batch=2, bias="full", gate=True, schedule=schedule)


def add_cases(add):
    for family in (add_dims, add_shapes, add_masks, add_views, add_captures,
                   add_large, add_clusters):
        family(add)
