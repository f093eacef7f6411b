#!/usr/bin/env python3
"""Draws what `bench/peers.py --json` measured: bytes and speed of every scheme, as SVG.

    bench/peers.py build/release/lockstep --synthetic 1GiB,0.02 --json | bench/plot.py docs/codec.svg \\
        --note "2 cores, 24 November 2026"

Of the dtype with the most weights, for the schemes of others and for the best implementation of ours. Wants
nothing but Python.
"""
import argparse
import html
import json
import pathlib
import sys

OURS, THEIRS, FAINT, TEXT = "#1f6f8b", "#a8a8a8", "#e4e4e4", "#333333"
WIDTH, ROW, BAR, LEFT, PANEL = 860, 24, 15, 110, 330


def rows_of(lines):
    """(dtype, density, memcpy GB/s, [(scheme, is ours, % of full, encode GB/s, apply GB/s)])"""
    records = [json.loads(line) for line in lines if line.strip()]
    ours = {(r["dtype"], r["encoding"]): r for r in records if "encoding" in r}  # the best comes last
    if not ours:
        raise SystemExit("plot.py: there is no line of lockstep bench codec in the input")
    dtype = max(ours.values(), key=lambda r: r["bytes"])["dtype"]
    rows = [(r["scheme"], False, r["percent_of_full"], r["encode_gb_s"], r["apply_gb_s"])
            for r in records if r.get("scheme") and r["dtype"] == dtype]
    rows += [(f"lockstep {e}", True, r["percent_of_full"], r["encode_gb_s"], r["apply_gb_s"])
             for (t, e), r in ours.items() if t == dtype and e in ("coded", "raw")]
    coded = ours[dtype, "coded"]
    return dtype, coded["density"], coded["memcpy_gb_s"], sorted(rows, key=lambda r: r[2])


class Drawing:
    def __init__(self):
        self.parts = []

    def text(self, x, y, words, anchor="start", size=12, weight="normal"):
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" '
                          f'text-anchor="{anchor}" fill="{TEXT}">{html.escape(words)}</text>')

    def bar(self, x, y, width, colour):
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{BAR}" '
                          f'fill="{colour}"/>')

    def svg(self, height):
        body = "\n".join(self.parts)
        return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
                f'font-family="sans-serif">\n<rect width="{WIDTH}" height="{height}" fill="white"/>\n'
                f'{body}\n</svg>\n')


def panel(drawing, x, y, title, bars, most, label):
    """`bars`: (name, colour, value); a name of None continues the row above."""
    drawing.text(x, y, title, size=13, weight="bold")
    for name, colour, value in bars:
        y += ROW
        if name:
            drawing.text(x + LEFT - 8, y + 12, name, "end")
        drawing.bar(x + LEFT, y, PANEL * 0.58, FAINT)
        drawing.bar(x + LEFT, y, PANEL * 0.58 * value / most, colour)
        drawing.text(x + LEFT + PANEL * 0.58 + 6, y + 12, label(value))
    return y + ROW


def draw(dtype, density, memcpy, rows, note):
    drawing = Drawing()
    drawing.text(20, 26, f"{dtype}, {100 * density:.2f} % of the elements changed", size=15, weight="bold")
    wire = [(name, OURS if ours else THEIRS, percent) for name, ours, percent, _, _ in rows]
    left = panel(drawing, 20, 56, "bytes on the wire, % of all weights", wire, max(r[2] for r in rows),
                 lambda v: f"{v:.2f} %")
    speed = [("memcpy", FAINT if not memcpy else TEXT, memcpy)]
    for name, ours, _, encode, apply in rows:
        colour = OURS if ours else THEIRS
        speed += [(name, colour, encode), (None, colour, apply)]
    right = panel(drawing, 20 + WIDTH / 2, 56, "GB/s of all weights, one thread: encode, then apply", speed,
                  max(v for _, _, v in speed), lambda v: f"{v:.2f}")
    height = max(left, right) + 24
    if note:
        drawing.text(20, height - 10, note, size=11)
    return drawing.svg(int(height))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--note", default="", help="machine, date and command, beneath the bars")
    arguments = parser.parse_args()
    arguments.out.write_text(draw(*rows_of(sys.stdin), arguments.note))
    return 0


if __name__ == "__main__":
    sys.exit(main())
