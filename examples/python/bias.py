#!/usr/bin/env python3
"""Why sigmoid attention starts at the bias -ln n: a plot, with no GPU.

    PYTHONPATH=build/python python examples/python/bias.py [OUT.svg]

For random q, k and v the size of an output row, |o| / |v|, against the number
of keys: with the bias -ln n it falls as softmax's does, with bias 0 it grows.
Writes docs/sigmoid-bias.svg by default and prints the numbers.
"""

import pathlib
import sys

import attnc
import numpy as np

LENGTHS = [16, 32, 64, 128, 256, 512, 1024, 2048]


def size(function, n):
    rng = np.random.default_rng(n)
    q, k, v = (rng.standard_normal((1, 2, n, 32)).astype(np.float32)
               for _ in range(3))
    return np.sqrt((function(q, k, v, n) ** 2).mean() / (v ** 2).mean())


CURVES = {
    "sigmoid, bias 0": (
        "#c44", lambda q, k, v, n: attnc.sigmoid_attention(q, k, v, bias=0.0)),
    "sigmoid, bias -ln n": (
        "#26a", lambda q, k, v, n: attnc.sigmoid_attention(
            q, k, v, bias=attnc.scores.init_bias(n))),
    "softmax": (
        "#393", lambda q, k, v, n: attnc.softmax_attention(q, k, v)),
}


def plot(curves, width=560, height=300):
    """An SVG with logarithmic axes."""
    left, right, top, bottom = 60, 150, 20, 40
    ys = [np.log10(y) for _, values in curves.values() for y in values]
    low, high = np.floor(min(ys)), np.ceil(max(ys))

    def x_at(n):
        part = np.log2(n / LENGTHS[0]) / np.log2(LENGTHS[-1] / LENGTHS[0])
        return left + part * (width - left - right)

    def y_at(y):
        return top + (high - np.log10(y)) / (high - low) * (
            height - top - bottom)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" '
           f'height="{height}" font-family="sans-serif" font-size="12">',
           f'<rect width="{width}" height="{height}" fill="white"/>']
    for n in LENGTHS:
        out.append(f'<text x="{x_at(n):.1f}" y="{height - 22}" '
                   f'text-anchor="middle">{n}</text>')
    for power in range(int(low), int(high) + 1):
        y = y_at(10.0 ** power)
        out.append(f'<path d="M{left} {y:.1f}H{width - right}" '
                   'stroke="#ddd"/>')
        out.append(f'<text x="{left - 6}" y="{y + 4:.1f}" '
                   f'text-anchor="end">{10.0 ** power:g}</text>')
    out.append(f'<text x="{(left + width - right) / 2}" y="{height - 5}" '
               'text-anchor="middle">keys n</text>')
    out.append('<text x="6" y="14">|o| / |v|</text>')
    for name, (color, values) in curves.items():
        points = " ".join(f"{x_at(n):.1f},{y_at(y):.1f}"
                          for n, y in zip(LENGTHS, values))
        out.append(f'<polyline points="{points}" fill="none" '
                   f'stroke="{color}" stroke-width="2"/>')
        # Two curves end close together.
        shift = {"softmax": 14}.get(name, 0)
        out.append(f'<text x="{width - right + 8}" '
                   f'y="{y_at(values[-1]) + 4 + shift:.1f}" fill="{color}">'
                   f'{name}</text>')
    return "\n".join(out + ["</svg>", ""])


def main():
    curves = {name: (color, [size(function, n) for n in LENGTHS])
              for name, (color, function) in CURVES.items()}
    print(f"{'n':>22}", *(f"{n:>7}" for n in LENGTHS))
    for name, (_, values) in curves.items():
        print(f"{name:>22}", *(f"{y:7.3f}" for y in values))
    default = pathlib.Path(__file__).parents[2] / "docs/sigmoid-bias.svg"
    target = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default
    target.write_text(plot(curves))


if __name__ == "__main__":
    main()
