#!/usr/bin/env python3
"""Decides whether the program is built as it must be, and its bill of materials names what is in it.

    program_test.py PROGRAM (hardening | sbom)
"""
import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def said(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def hardening(program):
    """What an attacker would have to get past, as the linker wrote it down."""
    header, segments = said("readelf", "-h", program), said("readelf", "-lW", program)
    dynamic, symbols = said("readelf", "-dW", program), said("readelf", "--dyn-syms", "-W", program)
    assert re.search(r"Type:\s+DYN", header), "loaded at one address: no PIE"
    assert "GNU_RELRO" in segments, "no read-only relocations"
    assert re.search(r"GNU_STACK\s+(0x\w+\s+){5}RW ", segments), "the stack is executable"
    assert re.search(r"\bBIND_NOW\b|\bNOW\b", dynamic), "bound lazily: what calls go through can be written"
    assert "__stack_chk_fail" in symbols, "no stack protector"
    assert re.search(r"__mem(cpy|move|set)_chk", symbols), "not fortified"


def sbom(program):
    bill = json.loads(said(ROOT / "scripts" / "sbom", program))
    assert bill["spdxVersion"] == "SPDX-2.3", bill
    packages = {p["SPDXID"]: p for p in bill["packages"]}
    assert len(packages) == len(bill["packages"]), "an id stands twice"
    for relation in bill["relationships"]:
        for end in ("spdxElementId", "relatedSpdxElement"):
            assert relation[end] in packages or relation[end] == "SPDXRef-DOCUMENT", relation
    assert all(p["versionInfo"] for p in packages.values()), packages
    linked = {packages[r["relatedSpdxElement"]]["name"] for r in bill["relationships"]
              if r["relationshipType"] == "DYNAMIC_LINK"}
    # Each library that the program names itself is a file of one of those packages.
    files = "\n".join(said("dpkg-query", "-L", name) for name in linked)
    for library in re.findall(r"NEEDED.*\[(.+)\]", said("readelf", "-dW", program)):
        assert f"/{library}\n" in files, f"{library} is not in the bill"
    for name in ("libboost-dev", "nlohmann-json3-dev", "libcli11-dev", "g++"):
        assert any(p["name"] == name for p in packages.values()), f"{name} is not in the bill"


if __name__ == "__main__":
    {"hardening": hardening, "sbom": sbom}[sys.argv[2]](sys.argv[1])
