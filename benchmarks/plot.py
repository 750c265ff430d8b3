#!/usr/bin/env python3
"""Draws a run as SVG: plot.py bench.json -o speed.svg, or its accuracy with
plot.py checks.json -o accuracy.svg

One bar a kernel and configuration, TFLOP/s, medians of the run, with the ratio
to cuDNN's softmax of the same run above the bars; head dims 64, 128 and 256, or
those of --head-dims. Of checks a dot each: the error over what
docs/semantics.md allows. No dependencies.
"""
import argparse
import json
import statistics

PEER = "SDPA cuDNN (softmax)"
COLOURS = {PEER: "#9aa5b1", "attnc softmax": "#5b8dbe",
           "attnc sigmoid": "#d1663c"}
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 980, 360, 50, 40, 46


def read(run, head_dims):
    """where -> kernel -> (TFLOP/s, ratio), medians over the passes."""
    table = {}
    for result in run["results"]:
        if int(result["configuration"].split()[0][1:]) not in head_dims:
            continue
        middle = {kernel: statistics.median(r["teraflops"] for r in readings)
                  for kernel, readings in result["readings"].items()}
        table[result["configuration"]] = {
            kernel: (value, value / middle[PEER])
            for kernel, value in middle.items()}
    return table


def draw(device, table):
    top = 100 * (int(max(value for row in table.values()
                         for value, _ in row.values())) // 100 + 1)
    height = HEIGHT - TOP - BOTTOM
    group = (WIDTH - LEFT) / len(table)
    bar = group / (len(COLOURS) + 1)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" '
           f'height="{HEIGHT}" font-family="sans-serif" font-size="11">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
           f'<text x="{LEFT}" y="16" font-size="13">Attention forward on one '
           f'{device}, bf16, TFLOP/s; above: ratio to cuDNN softmax</text>']
    for level in range(0, top + 1, 200):
        y = TOP + height * (1 - level / top)
        out += [f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}" '
                'stroke="#e3e7eb"/>',
                f'<text x="{LEFT - 6}" y="{y + 4:.1f}" '
                f'text-anchor="end">{level}</text>']
    for i, (where, row) in enumerate(table.items()):
        left = LEFT + i * group + bar / 2
        for j, (kernel, colour) in enumerate(COLOURS.items()):
            if kernel not in row:
                continue
            value, ratio = row[kernel]
            x, size = left + j * bar, height * value / top
            y = TOP + height - size
            out.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{bar - 2:.1f}" '
                       f'height="{size:.1f}" fill="{colour}"/>')
            if j:
                out.append(f'<text x="{x + bar / 2 - 1:.1f}" y="{y - 3:.1f}" '
                           'text-anchor="middle" font-size="9">'
                           f'{ratio:.2f}</text>')
        dim, length, mask = where.split()
        middle = LEFT + (i + 0.5) * group
        out += [f'<text x="{middle:.1f}" y="{HEIGHT - BOTTOM + 14}" '
                f'text-anchor="middle">{dim} {mask}</text>',
                f'<text x="{middle:.1f}" y="{HEIGHT - BOTTOM + 27}" '
                f'text-anchor="middle" fill="#667">{length}</text>']
    for j, (kernel, colour) in enumerate(COLOURS.items()):
        x = WIDTH - 440 + 150 * j
        out += [f'<rect x="{x}" y="{TOP - 16}" width="10" height="10" '
                f'fill="{colour}"/>',
                f'<text x="{x + 14}" y="{TOP - 7}">{kernel}</text>']
    return "\n".join(out + ["</svg>"]) + "\n"


def draw_accuracy(checks, height=220):
    """Errors over bounds, sorted; both lines are of rule A-half."""
    ratios = sorted(check["error"] / check["bound"] for check in checks)
    room = height - TOP - 30

    def at(ratio):
        return TOP + room * (1 - ratio / 1.1)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" '
           f'height="{height}" font-family="sans-serif" font-size="11">',
           f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
           f'<text x="{LEFT}" y="16" font-size="13">Error of the output over '
           f'its bound: {len(checks)} checks against float64 on one H200, a dot '
           'each, sorted</text>']
    for ratio, colour, what in ((1, "#d1663c", "bound"),
                                (1 / 1.1, "#9aa5b1", "best possible"),
                                (0, "#333", "exact")):
        y = at(ratio)
        out += [f'<line x1="{LEFT}" x2="{WIDTH - 90}" y1="{y:.1f}" '
                f'y2="{y:.1f}" stroke="{colour}"/>',
                f'<text x="{WIDTH - 84}" y="{y + 4:.1f}">{what}</text>']
    step = (WIDTH - 90 - LEFT) / len(ratios)
    out += [f'<circle cx="{LEFT + (i + 0.5) * step:.1f}" cy="{at(ratio):.1f}" '
            'r="2" fill="#5b8dbe"/>' for i, ratio in enumerate(ratios)]
    return "\n".join(out + ["</svg>"]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run")
    parser.add_argument("-o", required=True)
    parser.add_argument("--head-dims", type=int, nargs="*",
                        default=[64, 128, 256])
    args = parser.parse_args()
    with open(args.run) as file:
        run = json.load(file)
    with open(args.o, "w") as file:
        file.write(draw_accuracy(run) if isinstance(run, list)
                   else draw(run["device"], read(run, args.head_dims)))


if __name__ == "__main__":
    main()
