#!/usr/bin/env python3
"""decoder_lines.py LIST [LEAST] < LCOV: which share of the lines of each decoder in LIST ran.

LIST: a decoder a line, its file and, after a "-", those of its functions that decode nothing and are
not counted (with what stands in them); `type::` is all of a type's. LCOV: what
`llvm-cov export -format=lcov` says. Ends with 1 if the share is below LEAST percent of any.
"""
import re
import subprocess
import sys


def read_list(path):
    decoders = {}
    with open(path) as lines:
        for line in lines:
            words = line.split("#")[0].split()
            if words:
                if len(words) > 1 and words[1] != "-":
                    sys.exit(f"{path}: no list of functions after {words[0]}")
                decoders[words[0]] = words[2:]
    return decoders


def read_lcov(lines, wanted):
    """Of each file that ends like one of `wanted`: the runs of each line, and where functions begin."""
    files, now = {}, None
    for line in lines:
        kind, _, rest = line.rstrip("\n").partition(":")
        if kind == "SF":
            now = next((files.setdefault(name, ({}, [])) for name in wanted if rest.endswith("/" + name)), None)
        elif now and kind == "DA":
            number, runs = map(int, rest.split(",")[:2])
            now[0][number] = runs
        elif now and kind == "FN":
            number, name = rest.split(",", 1)
            now[1].append((int(number), name.rpartition(":")[2]))  # what a file has for itself is `file:name`
    return files


def plain_names(mangled):
    out = subprocess.run(["c++filt", "-p"], input="\n".join(mangled), capture_output=True, text=True, check=True)
    return out.stdout.splitlines()


def lines_of(functions, skipped, file):
    """The ranges of lines of the functions that are named in `skipped`."""
    names = plain_names([name for _, name in functions])
    # A lambda is part of the function that it stands in.
    starts = sorted({(line, re.sub(r"<.*>|\[abi:\w+\]", "", name)) for (line, _), name in zip(functions, names)
                     if not re.search(r"\$_\d+|\{lambda|'lambda", name)})
    ranges = []
    for wanted in skipped:
        end = "" if wanted.endswith("::") else "$"
        found = [line for line, name in starts if re.search(rf"(^|::|\s){re.escape(wanted)}{end}", name)]
        if not found:
            sys.exit(f"{file} has no function {wanted}")
        for begin in found:
            ranges.append((begin, min((line for line, _ in starts if line > begin), default=10**9)))
    return ranges


def in_words(numbers):
    """1 2 3 7 -> 1-3 7"""
    out = []
    for n in numbers:
        if out and out[-1][1] == n - 1:
            out[-1][1] = n
        else:
            out.append([n, n])
    return " ".join(str(a) if a == b else f"{a}-{b}" for a, b in out)


def main():
    decoders = read_list(sys.argv[1])
    least = float(sys.argv[2]) if len(sys.argv) > 2 else 0
    files = read_lcov(sys.stdin, decoders)
    failed = False
    for file, skipped in decoders.items():
        if file not in files:
            print(f"{file:<32} no line of it is in any target")
            failed = True
            continue
        runs, functions = files[file]
        ranges = lines_of(functions, skipped, file)
        counted = {line: n for line, n in runs.items() if not any(a <= line < b for a, b in ranges)}
        missed = sorted(line for line, n in counted.items() if n == 0)
        share = 100 * (1 - len(missed) / len(counted))
        failed |= share < least
        print(f"{file:<32} {share:5.1f} % of {len(counted):4} lines{'  BELOW' if share < least else ''}"
              f"{'; not: ' + in_words(missed) if missed else ''}")
    sys.exit(1 if failed and least else 0)


main()
