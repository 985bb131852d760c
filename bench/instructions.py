"""What a kernel's loops consist of: the instructions of its innermost loops, counted by kind."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_LABEL = re.compile(r"^(\.L\w+):")
_JUMP = re.compile(r"^\tj\w+\t(\.L\w+)")
_MEMORY = re.compile(r"\(%?r\w+|\[r\w+|\(,")
_KINDS = (
    ("fma", re.compile(r"vfn?m(add|sub)")),
    ("shuffle", re.compile(r"vperm|vshuf|vunpck|vinsert|vextract|vbroadcast|vblend|vpblend|valign|vcompress|vexpand")),
    ("move", re.compile(r"vmov|vpmov")),
    ("divide", re.compile(r"vdiv|vsqrt|vrcp|vrsqrt")),
    ("vector", re.compile(r"v")),
    ("prefetch", re.compile(r"prefetch")),
)


@dataclass(frozen=True, slots=True)
class LoopMix:
    """An innermost loop of a kernel.

    Attributes:
        label: Where it begins in the assembly.
        kinds: Instructions of one iteration by kind; ``scalar`` is what is none of the others.
        loads: How many of them read memory, as an operand or by themselves.
        stores: How many write memory.
    """

    label: str
    kinds: Counter[str]
    loads: int
    stores: int

    @property
    def instructions(self) -> int:
        """All instructions of an iteration."""
        return sum(self.kinds.values())

    def __str__(self) -> str:
        kinds = ", ".join(f"{n} {kind}" for kind, n in self.kinds.most_common())
        return f"{self.instructions} instructions ({kinds}), {self.loads} loads, {self.stores} stores"


def innermost_loops(assembly: str) -> list[LoopMix]:
    """The innermost loops of x86 assembly in AT&T syntax, those with the most multiply-adds or vectors first."""
    lines = assembly.splitlines()
    found = [_mix(lines, begin, end) for begin, end in _loops(lines)]
    return sorted(found, key=lambda m: (-m.kinds["fma"], -m.kinds["vector"], -m.instructions))


def _loops(lines: Sequence[str]) -> Iterator[tuple[int, int]]:
    """First and last line of each loop that has no other inside."""
    labels: dict[str, int] = {}
    spans: list[tuple[int, int]] = []
    for number, line in enumerate(lines):
        if label := _LABEL.match(line):
            labels[label[1]] = number
        elif (jump := _JUMP.match(line)) and jump[1] in labels:
            spans.append((labels[jump[1]], number))
    for begin, end in spans:
        if not any((begin, end) != (b, e) and begin <= b and e <= end for b, e in spans):
            yield begin, end


def _mix(lines: Sequence[str], begin: int, end: int) -> LoopMix:
    kinds: Counter[str] = Counter()
    loads = stores = 0
    for line in lines[begin : end + 1]:
        text = line.split("#")[0].strip()
        if not line.startswith("\t") or text.startswith("."):
            continue
        kinds[_kind(text)] += 1
        if _MEMORY.search(text) and not text.startswith(("prefetch", "lea")):
            writes = bool(_MEMORY.search(text.rsplit(", ", 1)[-1])) and text.endswith(")")
            stores += writes
            loads += not writes
    return LoopMix(lines[begin].split(":")[0], kinds, loads, stores)


def _kind(text: str) -> str:
    return next((kind for kind, pattern in _KINDS if pattern.match(text)), "scalar")
