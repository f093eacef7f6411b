"""What scripts/break-guards and scripts/break-actors share: lists of texts in the sources that are
broken one at a time. Such a list is a part of a document. Below `### FILE`,

    * `old` -> `new` (note)             with the arrow that stands there; without a `new`: removed
    * after `text`: `old` -> `new`      the first `old` after the only `text`
    * in `function`: `old` -> `new`     the first `old` in the body of that function

A run of blanks in a text is any run of blanks, also none after an opening bracket. A text without a
place before it stands once in its file.
"""
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENTRY = re.compile(
    r"\* (?:(?P<how>in|after) `(?P<where>[^`]+)`: )?`(?P<old>[^`]+)`(?: → `(?P<new>[^`]*)`)?"
    r"(?: \((?P<note>.+)\))?$"
)


class Bad(Exception):
    """What stands in the list is not so."""


@dataclass
class Broken:
    file: str  # below the root
    number: int  # in its file, from 1
    line: int  # of the document
    how: str
    where: str
    old: str
    new: str
    note: str

    def __str__(self):
        place = f"{self.how} `{self.where}`: " if self.how else ""
        return f"{self.file}:{self.number} {place}`{self.old}` → `{self.new}`"

    def span(self, source):
        """Where the text to be replaced begins and ends."""
        if not self.how:
            return only(self.old, source, "it")
        if self.how == "in":
            begin, end = body_of(self.where, source)
        else:
            begin, end = only(self.where, source, "the place before it")[1], len(source)
        match = pattern(self.old).search(source, begin, end)
        if not match:
            raise Bad("does not stand there")
        return match.span()

    def broken(self, source):
        """The source with this text broken."""
        begin, end = self.span(source)
        return source[:begin] + self.new + source[end:]


def pattern(text):
    """Finds the text whatever its blanks are."""
    words = r"\s+".join(re.escape(word) for word in text.split())
    return re.compile(re.sub(r"(\\[(\[])(?!$|\\s)", r"\1\\s*", words))


def only(text, source, what):
    spans = [m.span() for m in pattern(text).finditer(source)]
    if len(spans) != 1:
        raise Bad(f"{what} stands {len(spans)} times in its file")
    return spans[0]


def body_of(function, source):
    """Where the body of the only definition of a function is."""
    named = rf"(?:::|[\w>&*]\s)(?<!return\s){re.escape(function)}"
    heads = list(re.finditer(rf"{named}\([^;{{}}]*\)[^;{{}}()]*\{{", source))
    if len(heads) != 1:
        raise Bad(f"`{function}` is defined {len(heads)} times in its file")
    depth = 0
    for i in range(heads[0].end() - 1, len(source)):
        depth += {"{": 1, "}": -1}.get(source[i], 0)
        if depth == 0:
            return heads[0].end(), i
    raise Bad(f"`{function}` does not end")


class List:
    """All entries below a heading of a document, in the order of its text."""

    def __init__(self, document, heading, folder="", kind=Broken):
        self.document = document
        self.folder = folder
        self.entries = []
        self.others = []  # the lines that are no entries
        file = None
        text = (ROOT / document).read_text()
        first = text.count("\n", 0, text.index(heading)) + 1
        for number, line in enumerate(text.splitlines()[first:], first + 1):
            if line.startswith("## "):
                break
            if line.startswith("### "):
                file = folder + line[4:].strip()
                count = 0
            elif line.startswith("* ") and file:
                count += 1
                match = ENTRY.match(line)
                if not match:
                    raise Bad(f"{document}:{number}: cannot be read: {line}")
                found = {k: v or "" for k, v in match.groupdict().items()}
                self.entries.append(kind(file, count, number, **found))
            else:
                self.others.append(line)

    def stale(self, also=lambda entry: None):
        """What is wrong with each entry: its text does not stand, or it is there twice, or what
        `also` raises as Bad."""
        sources, seen = {}, {}
        for e in self.entries:
            try:
                if e.file not in sources:
                    if not (ROOT / e.file).is_file():
                        raise Bad("there is no such file")
                    sources[e.file] = (ROOT / e.file).read_text()
                key = (e.file, e.broken(sources[e.file]))
                if key in seen:
                    raise Bad(f"does the same as line {seen[key]}")
                seen[key] = e.line
                also(e)
            except Bad as why:
                yield f"{self.document}:{e.line}: {e}: {why}"

    def chosen(self, names):
        """Those that are named FILE or FILE:N, all if none is; raises Bad where one is not there."""
        out = []
        for name in names or dict.fromkeys(e.file for e in self.entries):
            file, _, number = name.partition(":")
            some = [e for e in self.entries if e.file in (file, self.folder + file)
                    and (not number or str(e.number) == number)]
            if not some:
                raise Bad(f"{self.document} has no {name}")
            out += some
        return out


def run(argv, **more):
    """A process that has ended, and what it said."""
    return subprocess.run(argv, capture_output=True, text=True, errors="replace", **more)
