#!/usr/bin/env python3
"""Prints what `bench/peers.py --json` measured as a table of Markdown: a line for each FILE, of the dtype with the
most weights. Wants nothing but Python.

    bench/peers.py build/release/lockstep --synthetic 2GiB,0.01 --json > 0.01.json
    bench/peers.py build/release/lockstep --trace DIR --json > run.json
    bench/table.py 0.01.json run.json
"""
import argparse
import json
import pathlib
import sys

HEAD = ["changed", "bytes a change", "× bound", "xor + zstd-1 takes", "gap + xor + zstd-1", "index + value",
        "coded encode", "× memcpy", "× xor + zstd-1", "coded apply", "× memcpy", "× xor + zstd-1",
        "raw encode, apply × memcpy"]


def line_of(file):
    records = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
    ours = {(r["dtype"], r["encoding"]): r for r in records if "encoding" in r}  # the best comes last
    theirs = {(r["dtype"], r["scheme"]): r for r in records if "scheme" in r}
    if not ours or not theirs:
        raise SystemExit(f"table.py: {file} is not what bench/peers.py --json prints")
    dtype = max(ours.values(), key=lambda r: r["bytes"])["dtype"]
    coded, raw, slime = ours[dtype, "coded"], ours[dtype, "raw"], theirs[dtype, "xor+zstd"]
    more = [f"{theirs[dtype, scheme]['bytes_x_coded']:.2f} ×" for scheme in ("xor+zstd", "gap+zstd", "index")]
    return [f"{100 * coded['density']:.1f} %", f"{coded['bytes_per_changed']:.3f}", f"{coded['ratio_to_bound']:.3f}", *more,
            f"{coded['encode_gb_s']:.1f} GB/s", f"{coded['encode_x_memcpy']:.2f}", f"{slime['coded_encodes_x']:.1f}",
            f"{coded['apply_gb_s']:.1f} GB/s", f"{coded['apply_x_memcpy']:.2f}", f"{slime['coded_applies_x']:.1f}",
            f"{raw['encode_x_memcpy']:.2f}, {raw['apply_x_memcpy']:.2f}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=pathlib.Path, metavar="FILE")
    rows = [HEAD, ["---"] * len(HEAD), *map(line_of, parser.parse_args().files)]
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
