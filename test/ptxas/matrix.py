#!/usr/bin/env python3
"""Compiles a matrix of attentions for sm_90a and judges the machine code.

    matrix.py --attnc build/bin/attnc [--only PATTERN...] [--update]

No kernel may spill, use stack, or make ptxas complain about wgmma or register
budgets, and its statistics must be those of golden.json, with the number of
schedules that were rejected on the way: what changes the code is committed on
purpose, with `--update`. The last line is `N passed, N failed`.
"""

import argparse
import concurrent.futures
import fnmatch
import itertools
import json
import os
import random
import re
import subprocess
import sys

FOLDER = os.path.dirname(os.path.abspath(__file__))
GOLDEN = os.path.join(FOLDER, "golden.json")
KEPT = ("instructions", "HGMMA", "MUFU", "MOV", "FFMA", "F2FP")

DIMS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256)
MASKS = {"full": "", "causal": "--causal", "window": "--window=512,0"}

# Beside the full matrix: every pair of choices stands in one of these.
FACTORS = {
    "score": ("sigmoid", "softmax", "relu2", "rela", "softcap", "silu",
              "softplus", "cosine", "gaussian"),
    "mask": ("", "--causal", "--window=512,0", "--mask documents",
             "--mask tensor"),
    "bias": ("", "--bias=scalar", "--bias=head", "--bias=key", "--bias=full"),
    "alibi": ("", "--alibi"),
    "lengths": ("", "--kv-len", "--kv-len --q-len"),
    "groups": ("", "--heads=8 --kv-heads=2"),
    "value": ("", "--value-head-dim=64"),
    "layout": ("", "--layout=bshd"),
    "gate": ("", "--gate"),
    "dtype": ("bf16", "f16"),
    "d": ("64", "128", "256"),
}


# Operands that the copy engine cannot read: other options of attnc after |.
COPIES = {
    "sigmoid-d64": "--score=sigmoid --head-dim=64 | --any-layout",
    "sigmoid-d128-causal":
        "--score=sigmoid --head-dim=128 --causal --kv-len | --any-layout",
    "sigmoid-d127": "--score=sigmoid --head-dim=127",
    "sigmoid-d127-documents":
        "--score=sigmoid --head-dim=127 --mask documents --bias=key",
    "gaussian-d127": "--score=gaussian --head-dim=127",
    "sigmoid-d256-window":
        "--score=sigmoid --head-dim=256 --window=512,0 | --any-layout",
    "softmax-d64": "--score=softmax --head-dim=64 --causal | --any-layout",
    "softmax-d128": "--score=softmax --head-dim=128 | --any-layout",
    "softmax-d192-dv128": "--score=softmax --head-dim=192 "
                          "--value-head-dim=128 --layout=bshd | --any-layout",
    "sigmoid-d1": "--score=sigmoid --head-dim=1",
    "sigmoid-d31": "--score=sigmoid --head-dim=31 --causal",
    "sigmoid-d59": "--score=sigmoid --head-dim=59 --mask tensor",
    "softmax-d111": "--score=softmax --head-dim=111 --heads=8 --kv-heads=2 "
                    "--causal",
    "softmax-d255": "--score=softmax --head-dim=255",
    "silu-d100": "--score=silu --head-dim=100 --bias=full --gate",
}


# Few queries and many keys: keys are split in ranges, which another kernel
# adds.
FEW = {
    **{f"{score}-d{d}{mask}": f"--score={score} --head-dim={d} {flag}"
       for d in (64, 128, 192, 256)
       for score, mask, flag in (("sigmoid", "", ""),
                                 ("softmax", "-causal", "--causal --lse"))},
    "sigmoid-d59-groups": "--score=sigmoid --head-dim=59 --heads=8 "
                          "--kv-heads=2",
    "softmax-d80-alibi": "--score=softmax --head-dim=80 --alibi --kv-len "
                         "--dtype=f16",
    "sigmoid-d128-full": "--score=sigmoid --bias=full --mask tensor",
    "softmax-d128-window": "--score=softmax --window=512,0 --q-len --kv-len "
                           "--layout=bshd",
    "softplus-gate": "--score=softplus --gate --bias=head",
}


# Thread blocks that copy keys for each other; no default has them.
TWO = "block_m=128,consumers=2,stages=2,order=overlap,pingpong=true,cluster=2"
THREE = "block_m=192,consumers=3,stages=3,order=overlap,staged=true,cluster=2"
CLUSTERS = {
    "sigmoid-d128": ("--score=sigmoid --head-dim=128",
                     f"{TWO},block_n=128,slice=32,staged=true"),
    "sigmoid-d128-causal": ("--score=sigmoid --head-dim=128 --causal",
                            f"{THREE},block_n=80,slice=40"),
    "softmax-d64-causal": ("--score=softmax --head-dim=64 --causal --lse",
                           f"{THREE},block_n=128,persistent=true"),
    "softmax-d256": ("--score=softmax --head-dim=256",
                     f"{TWO},block_n=80,staged=true"),
    "softmax-d256-window": ("--score=softmax --head-dim=256 --window=512,0 "
                            "--kv-len --q-len",
                            f"{TWO},block_n=64,persistent=true"),
    "sigmoid-bias": ("--score=sigmoid --head-dim=128 --bias=full --alibi",
                     "block_m=128,block_n=64,consumers=2,stages=3,cluster=4"),
}


# Few rows of queries in all: two thread blocks of 64 rows a multiprocessor.
ITEMS = {
    **{f"{score}-d{d}": f"--score={score} --head-dim={d} {flag}"
       for d in (64, 128, 192, 256)
       for score, flag in (("sigmoid", "--causal"), ("softmax", "--lse"))},
    "sigmoid-d59-lengths": "--score=sigmoid --head-dim=59 --kv-len --q-len",
    "softmax-d128-alibi": "--score=softmax --alibi --causal --heads=8 "
                          "--kv-heads=2",
    "sigmoid-d128-full": "--score=sigmoid --bias=full --gate",
}

# Two blocks of keys in turn: consumers x keys.
TWO_TILES = {
    64: "block_m=192,block_n=64,consumers=3,stages=4",
    128: "block_m=128,block_n=96,consumers=2,stages=3",
    256: "block_m=128,block_n=48,consumers=2,stages=3",
}


# Masks that stand in no pair.
MASKED = {
    "sigmoid-dilated": "--score=sigmoid --head-dim=128 --mask dilated:4",
    "softmax-dilated-causal":
        "--score=softmax --head-dim=64 --mask dilated:3 --causal",
    "sigmoid-top-left": "--score=sigmoid --head-dim=64 --causal=top_left",
    "softmax-top-left-lengths": "--score=softmax --head-dim=128 "
                                "--causal=top_left --kv-len --q-len",
    "sigmoid-documents-d59": "--score=sigmoid --head-dim=59 --mask documents",
}


# Gradients: what their kernels hold differs most from the forward's.
GRADIENTS = {
    **{f"{score}-d{d}{mask}": f"--score={score} --head-dim={d} {flag}"
       for score in ("sigmoid", "softmax") for d in (64, 128, 256)
       for mask, flag in (("", ""), ("-causal", "--causal"))},
    "sigmoid-d64-window": "--score=sigmoid --head-dim=64 --window=512,0",
    "sigmoid-d192-lengths": "--score=sigmoid --head-dim=192 --kv-len --q-len",
    "sigmoid-d59": "--score=sigmoid --head-dim=59",
    "softmax-alibi-groups": "--score=softmax --alibi --heads=8 --kv-heads=2 "
                            "--causal --layout=bshd",
    "sigmoid-bias": "--score=sigmoid --head-dim=128 --bias=full",
    "softplus": "--score=softplus --head-dim=128 --mask documents",
    "relu2-mask": "--score=relu2 --mask tensor --dtype=f16",
    "cosine": "--score=cosine --head-dim=64 --causal",
    "cosine-d59": "--score=cosine --head-dim=59",
    "cosine-d256": "--score=cosine --head-dim=256 --dtype=f16",
    "rela": "--score=rela --head-dim=128 --kv-len --q-len",
    "rela-d256": "--score=rela --head-dim=256",
    "softmax-lse": "--score=softmax --head-dim=128 --lse --causal",
}


# Gradients of captured operands too: the kernels that sum them.
CAPTURED = {
    **{f"{score}-d{d}-alibi-causal":
           f"--score={score} --head-dim={d} --alibi --causal"
       for score in ("sigmoid", "softmax") for d in (64, 128)},
    "sigmoid-d64": "--score=sigmoid --head-dim=64",
    "sigmoid-d128": "--score=sigmoid --head-dim=128",
    "sigmoid-d256": "--score=sigmoid --head-dim=256 --bias=head",
    "sigmoid-keys": "--score=sigmoid --head-dim=128 --bias=key --kv-len",
    "softmax-keys": "--score=softmax --head-dim=256 --bias=key --causal",
    "sigmoid-full": "--score=sigmoid --head-dim=128 --bias=full",
    "softmax-full": "--score=softmax --head-dim=64 --bias=full --heads=8 "
                    "--kv-heads=2 --causal --dtype=f16",
    "softplus-full": "--score=softplus --head-dim=256 --bias=full "
                     "--mask tensor",
    "sigmoid-gate": "--score=sigmoid --head-dim=64 --gate --scale --q-len",
    "softmax-gate": "--score=softmax --head-dim=256 --gate --causal "
                    "--layout=bshd",
    "softcap": "--score=softcap --head-dim=96 --alibi --window=512,0",
}


def full_matrix():
    for d, dtype, (mask, flag), score in itertools.product(
            DIMS, ("bf16", "f16"), MASKS.items(), ("sigmoid", "softmax")):
        yield (f"{score}-d{d}-{dtype}-{mask}",
               f"--score={score} --head-dim={d} --dtype={dtype} {flag}")


def all_pairs():
    """Rows of choices such that any two choices of two factors meet."""
    names = list(FACTORS)
    missing = {(a, x, b, y) for a, b in itertools.combinations(names, 2)
               for x in FACTORS[a] for y in FACTORS[b]}
    generator = random.Random(1)  # the same rows on every machine

    def gain(row):
        return sum((a, row[a], b, row[b]) in missing
                   for a, b in itertools.combinations(names, 2))

    while missing:
        candidates = []
        for _ in range(60):
            a, x, b, y = generator.choice(sorted(missing))
            row = {name: generator.choice(FACTORS[name]) for name in names}
            row.update({a: x, b: y})
            candidates.append(row)
        best = max(candidates, key=gain)
        missing -= {(a, best[a], b, best[b])
                    for a, b in itertools.combinations(names, 2)}
        yield best


def pair_cases():
    for index, row in enumerate(all_pairs()):
        flags = [f"--score={row['score']}", f"--head-dim={row['d']}",
                 f"--dtype={row['dtype']}"]
        flags += [row[k] for k in ("mask", "bias", "alibi", "lengths",
                                   "groups", "value", "layout", "gate")]
        yield f"pair-{index:02}", " ".join(f for f in flags if f)


def copy_cases():
    for name, flags in COPIES.items():
        yield f"copies-{name}", f"--dtype=bf16 {flags}"


def few_cases():
    for name, flags in FEW.items():
        dtype = "" if "--dtype" in flags else "--dtype=bf16"
        yield f"few-{name}", f"{dtype} {flags} | --schedule=few_queries"


def cluster_cases():
    for name, (flags, schedule) in CLUSTERS.items():
        yield (f"cluster-{name}",
               f"--dtype=bf16 {flags} | --schedule={schedule}")


def items_cases():
    for name, flags in ITEMS.items():
        yield f"items-{name}", f"--dtype=bf16 {flags} | --schedule=few_items"


def two_tiles_cases():
    for d, schedule in TWO_TILES.items():
        yield (f"two-tiles-d{d}",
               f"--dtype=bf16 --head-dim={d} --causal | --schedule={schedule},"
               "order=two_tiles,slice=16,staged=true")


def masked_cases():
    for name, flags in MASKED.items():
        yield f"masked-{name}", f"--dtype=bf16 {flags}"


def every_head_dim():
    """What golden.json samples; hours of one core."""
    for d, (mask, flag), score in itertools.product(
            range(1, 257), (("full", ""), ("causal", "--causal")),
            ("sigmoid", "softmax")):
        yield (f"every-{score}-d{d}-{mask}",
               f"--dtype=bf16 --score={score} --head-dim={d} {flag}")


def gradient_cases():
    for name, flags in GRADIENTS.items():
        dtype = "" if "--dtype" in flags else "--dtype=bf16"
        yield f"backward-{name}", f"--backward {dtype} {flags}"
    for name, flags in CAPTURED.items():
        dtype = "" if "--dtype" in flags else "--dtype=bf16"
        yield f"captured-{name}", f"--backward=all {dtype} {flags}"


def file_cases():
    for name in sorted(os.listdir(FOLDER)):
        if name.endswith(".mlir"):
            yield name[:-5], os.path.join(FOLDER, name)


def cases():
    return [*full_matrix(), *pair_cases(), *copy_cases(), *masked_cases(),
            *few_cases(), *items_cases(), *two_tiles_cases(),
            *cluster_cases(),
            *gradient_cases(), *file_cases()]


def statistics(attnc, flags):
    """What `--emit=stats` says, or raises RuntimeError."""
    flags, _, extra = flags.partition(" | ")
    if os.path.exists(flags):
        with open(flags) as file:
            text = file.read()
    else:
        text, _ = run([attnc, "gen", *flags.split()], "")
    stats, said = run([attnc, "-", "--target=sm_90a", "--emit=stats",
                       *extra.split()], text)
    stats = json.loads(stats)
    for name, kernel in stats["kernels"].items():
        kernel["rejected"] = len(re.findall(
            rf"kernel '{name}': .* is rejected", said))
    return stats


def run(command, text):
    """What a command writes to standard output and to standard error."""
    done = subprocess.run(command, input=text, capture_output=True, text=True,
                          timeout=300)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return done.stdout, done.stderr


def condense(stats):
    """The part of the statistics that is kept."""
    return {name: {"registers": kernel["registers"],
                   "stack": kernel["stack"],
                   "rejected": kernel["rejected"],
                   **{f"{part} {key}": kernel[part].get(key, 0)
                      for part in ("code", "loop") for key in KEPT}}
            for name, kernel in stats["kernels"].items()}


def complaints(stats):
    for name, kernel in stats["kernels"].items():
        for key in ("stack", "spill_stores", "spill_loads"):
            if kernel[key]:
                yield f"{name}: {kernel[key]} bytes of {key}"
    yield from stats["remarks"]


def differences(got, want):
    if want is None:
        yield "not in golden.json"
        return
    for name in sorted({*got, *want}):
        new, old = got.get(name, {}), want.get(name, {})
        for key in new if new else old:
            if new.get(key) != old.get(key):
                yield f"{name}: {key} is {new.get(key)}, was {old.get(key)}"


def judge(attnc, flags, golden):
    """(statistics to keep, what is wrong)."""
    try:
        stats = statistics(attnc, flags)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        return None, [str(error)[:400]]
    got = condense(stats)
    if golden is False:
        return got, list(complaints(stats))
    return got, [*complaints(stats), *differences(got, golden)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--attnc", required=True)
    parser.add_argument("--only", nargs="*", default=["*"])
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--update", action="store_true",
                        help="write golden.json instead of comparing with it")
    parser.add_argument("--every-head-dim", action="store_true",
                        help="instead: each integer head dim, judged only, "
                             "with what it was rejected for")
    args = parser.parse_args()
    if args.every_head_dim and args.update:
        parser.error("--every-head-dim: golden.json holds the matrix only")
    golden = {}
    if os.path.exists(GOLDEN):
        with open(GOLDEN) as file:
            golden = json.load(file)
    known = every_head_dim() if args.every_head_dim else cases()
    chosen = [(name, flags) for name, flags in known
              if any(fnmatch.fnmatch(name, p) for p in args.only)]
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        judged_only = args.update or args.every_head_dim
        futures = [pool.submit(judge, args.attnc, flags,
                               False if judged_only else golden.get(name))
                   for name, flags in chosen]
        for (name, flags), future in zip(chosen, futures):
            got, wrong = future.result()
            if judged_only and got:
                golden[name] = got
            if wrong:
                failed += 1
                print(f"FAIL {name}: {flags}")
                for line in wrong[:6]:
                    print(f"  {line}", flush=True)
    if args.update:
        known = {name for name, _ in cases()}
        with open(GOLDEN, "w") as file:
            json.dump({k: golden[k] for k in sorted(golden) if k in known},
                      file, indent=0)
            file.write("\n")
    plainer = [name for name, _ in chosen if name in golden and
               any(k["rejected"] for k in golden[name].values())]
    print(f"with a plainer schedule: {len(plainer)} {' '.join(plainer)}")
    print(f"{len(chosen) - failed} passed, {failed} failed")
    sys.exit(1 if failed or not chosen else 0)


if __name__ == "__main__":
    main()
