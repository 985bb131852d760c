"""Writing a result over a parameter: what is allowed, and that whatever is allowed reads nothing too late."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from traces import Traces
from workloads import executions, samples

from tilewright.ir.affine import linearize
from tilewright.ir.in_place import in_place
from tilewright.ir.loop import (
    Alloc,
    Block,
    For,
    If,
    Let,
    LoopFunc,
    Seq,
    Stmt,
    blocks,
    buffers,
    chosen_reads,
    subexpressions,
)
from tilewright.ir.text import parse_ir
from tilewright.ir.verify import verify

HEAD = "tilewright loop ir 1\nfunc f\n"


def program(inputs: str, output: str, body: str) -> LoopFunc:
    params = "".join(f"  input {x}\n" for x in inputs.split("; ")) + f"  output {output}\n"
    func = parse_ir(HEAD + params + body)
    verify(func)
    return func


ALLOWED = {
    "elementwise": (
        "x: float32[8, 6]",
        "y: float32[8, 6]",
        "  block b [i: 0..8, j: 0..6 vector]\n    y[i, j] = neg(x[i, j])\n",
    ),
    "another shape": (
        "x: float32[48]",
        "y: float32[8, 6]",
        "  block b [i: 0..8, j: 0..6]\n    y[i, j] = neg(x[6*i + j])\n",
    ),
    "tiles": (
        "x: float32[23]",
        "y: float32[23]",
        "  parallel o in 0..3\n    block b [i: 8*o..+8 < 23 vector]\n      y[i] = neg(x[i])\n",
    ),
    "cut tiles on two axes": (
        "x: float32[23, 19]",
        "y: float32[23, 19]",
        "  parallel o in 0..3\n    for p in 0..3\n"
        "      block b [i: 8*o..+8 < 23, j: 8*p..+8 < 19 vector]\n        y[i, j] = neg(x[i, j])\n",
    ),
    "a fused loop": (
        "x: float32[5, 7]",
        "y: float32[5, 7]",
        "  parallel o in 0..35\n    block b []\n      y[(o // 7), (o % 7)] = neg(x[(o // 7), (o % 7)])\n",
    ),
    "a row that is reduced and rescaled": (
        "x: float32[5, 7]",
        "y: float32[5, 7]",
        "  parallel o in 0..5\n    alloc s: float32[1] cache\n"
        "      block init []\n        s[0] = 0.0:float32\n"
        "      block sum [r: 0..7 reduce]\n        s[0] sum= x[o, r]\n"
        "      block scale [j: 0..7 vector]\n        y[o, j] = div(x[o, j], s[0])\n",
    ),
    "all is read before anything is written": (
        "x: float32[8]",
        "y: float32[8]",
        "  alloc t: float32[8] cache\n"
        "    block a [i: 0..8]\n      t[i] = x[7 - i]\n    block b [i: 0..8]\n      y[i] = t[i]\n",
    ),
    "a residual behind a sum": (
        "x: float32[5, 3]; r: float32[5, 4]",
        "y: float32[5, 4]",
        "  for i in 0..5\n    alloc s: float32[4] cache\n"
        "      block init [j: 0..4]\n        s[j] = 0.0:float32\n"
        "      block sum [j: 0..4, k: 0..3 reduce]\n        s[j] sum= x[i, k]\n"
        "      block out [j: 0..4]\n        y[i, j] = add(s[j], r[i, j])\n",
    ),
    "halves that lie apart": (
        "x: float32[8]",
        "y: float32[8]",
        "  block a [i: 0..4]\n    y[i] = x[i]\n  block b [i: 4..8]\n    y[i] = x[i]\n",
    ),
}

REFUSED = {
    "shifted": ("x: float32[8]", "y: float32[8]", "  block b [i: 0..8]\n    y[i] = x[i - 1]{i - 1 >= 0 else 0.0}\n"),
    "shifted and in tiles": (
        "x: float32[8]",
        "y: float32[8]",
        "  for o in 0..4\n    block b [i: 2*o..+2]\n      y[i] = x[i + 1]{-i + 6 >= 0 else 0.0}\n",
    ),
    "mirrored": ("x: float32[8]", "y: float32[8]", "  block b [i: 0..8]\n    y[i] = x[7 - i]\n"),
    "transposed": ("x: float32[4, 4]", "y: float32[4, 4]", "  block b [i: 0..4, j: 0..4]\n    y[i, j] = x[j, i]\n"),
    "broadcast": (
        "x: float32[4, 4]",
        "y: float32[4, 4]",
        "  block b [i: 0..4, j: 0..4]\n    y[i, j] = add(x[i, j], x[i, 0])\n",
    ),
    "a row that others read": (
        "x: float32[4, 4]",
        "y: float32[4, 4]",
        "  parallel o in 0..4\n    alloc s: float32[1] cache\n"
        "      block init []\n        s[0] = 0.0:float32\n"
        "      block sum [r: 0..4 reduce]\n        s[0] sum= x[0, r]\n"
        "      block out [j: 0..4]\n        y[o, j] = add(x[o, j], s[0])\n",
    ),
    "read after it is written": (
        "x: float32[8]",
        "y: float32[8]",
        "  block a [i: 0..8]\n    y[i] = 0.0:float32\n  block b [i: 0..8]\n    y[i] sum= x[i]\n",
    ),
    "read in every step of a reduction": (
        "x: float32[8, 2]",
        "y: float32[8, 2]",
        "  block a [i: 0..8, j: 0..2]\n    y[i, j] = 0.0:float32\n"
        "  block b [i: 0..8, j: 0..2, k: 0..2 reduce]\n    y[i, j] sum= x[i, k]\n",
    ),
    "written twice": (
        "x: float32[8]",
        "y: float32[8]",
        "  for o in 0..2\n    block b [i: 0..8]\n      y[i] = neg(x[i])\n",
    ),
    "halves that share an element": (
        "x: float32[8]",
        "y: float32[8]",
        "  block a [i: 0..5]\n    y[i] = x[i]\n  block b [i: 4..8]\n    y[i] = x[i]\n",
    ),
    "tiles that overlap": (
        "x: float32[8]",
        "y: float32[8]",
        "  for o in 0..3\n    block b [i: 2*o..+4]\n      y[i] = neg(x[i])\n",
    ),
    "read through indices": (
        "x: float32[8]; k: int32[8]",
        "y: float32[8]",
        "  block b [i: 0..8]\n    y[i] = let{n < 8 = k[i]}(x[n])\n",
    ),
    "another element type": (
        "x: int32[8]",
        "y: float32[8]",
        "  block b [i: 0..8]\n    y[i] = convert_element_type(x[i]):float32\n",
    ),
    "another size": ("x: float32[9]", "y: float32[8]", "  block b [i: 0..8]\n    y[i] = x[i]\n"),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_allowed(name):
    func = program(*ALLOWED[name])
    assert in_place(func) == (len(func.inputs) - 1,)
    assert not late_reads(func, len(func.inputs) - 1)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    assert in_place(program(*REFUSED[name])) == ()


def test_what_is_stored_past_the_caches_has_memory_of_its_own():
    func = parse_ir(
        HEAD + "  input x: float32[8]\n  output y: float32[8] stream\n  block b [i: 0..8]\n    y[i] = x[i]\n"
    )
    verify(func)
    assert in_place(func) == ()


def test_two_results_have_memory_of_their_own():
    body = "  block a [i: 0..8]\n    y[i] = x[i]\n  block b [i: 0..8]\n    z[i] = neg(x[i])\n"
    func = parse_ir(HEAD + "  input x: float32[8]\n  output y: float32[8]\n  output z: float32[8]\n" + body)
    assert in_place(func) == ()


# ---- against every access of a run


@dataclass(frozen=True)
class Access:
    """One access to a place: when, at which point of a box, and in which iteration of the parallel loop."""

    time: int
    point: int
    thread: int | None
    place: int


def late_reads(func: LoopFunc, position: int) -> list[tuple[Access, Access]]:
    """Reads of a parameter that may come after the write of their place, each with the write."""
    run = _Run(func, func.params[position].name)
    list(run.statement(func.body, {}, None))
    written: dict[int, list[Access]] = {}
    for write in run.writes:
        written.setdefault(write.place, []).append(write)
    return [(r, w) for r in run.reads for w in written.get(r.place, ()) if _late(r, w)]


def _late(read: Access, write: Access) -> bool:
    if read.thread != write.thread:
        return True
    return read.time > write.time or (read.time == write.time and read.point != write.point)


class _Run:
    """Notes which places are read and written, in program order; points of one box have one time."""

    def __init__(self, func: LoopFunc, source: str) -> None:
        self.shapes = {name: buffer.shape for name, buffer in buffers(func).items()}
        self.source, self.result = source, func.params[-1].name
        self.reads: list[Access] = []
        self.writes: list[Access] = []
        self.time = 0

    def statement(self, stmt: Stmt, env: dict[str, int], thread: int | None) -> Iterator[None]:
        match stmt:
            case Seq():
                for inner in stmt.body:
                    yield from self.statement(inner, env, thread)
            case Alloc():
                yield from self.statement(stmt.body, env, thread)
            case If():
                holds = all(c.evaluate(env) >= 0 for c in stmt.conditions)
                chosen = stmt.then if holds else stmt.orelse
                if chosen is not None:
                    yield from self.statement(chosen, env, thread)
            case For():
                low, high = max(e.evaluate(env) for e in stmt.lower), min(e.evaluate(env) for e in stmt.upper)
                for value in range(low, high):
                    own = value if stmt.kind == "parallel" else thread
                    yield from self.statement(stmt.body, {**env, stmt.name: value}, own)
            case Block():
                self.time += 1
                self.block(stmt, env, thread)

    def block(self, block: Block, env: dict[str, int], thread: int | None) -> None:
        spans = []
        for it in block.iters:
            low = it.lower.evaluate(env)
            high = low + it.extent if it.limit is None else min(low + it.extent, it.limit.evaluate(env))
            spans.append(range(low, high))
        for number, values in enumerate(itertools.product(*spans)):
            at = {**env, **dict(zip((i.name for i in block.iters), values, strict=True))}
            holds = all(g.evaluate(at) >= 0 for g in block.guard)
            if block.write.buffer == self.result and (holds or block.guard_mode == "zero"):
                self.note(self.writes, block.write.index, self.result, at, number, thread)
            for read, conditions in chosen_reads(block.value) if holds else ():
                if read.buffer == self.source and all(c.evaluate(at) >= 0 for c in (*conditions, *read.guard)):
                    self.note(self.reads, read.index, self.source, at, number, thread)

    def note(
        self, found: list[Access], index: tuple, name: str, at: dict[str, int], point: int, thread: int | None
    ) -> None:
        found.append(Access(self.time, point, thread, linearize(index, self.shapes[name]).evaluate(at)))


def test_the_oracle_sees_what_is_late():
    refused = {"another element type", "another size", "read through indices"}
    for name in REFUSED.keys() - refused:
        assert late_reads(program(*REFUSED[name]), 0), name


def test_nothing_is_read_too_late_under_random_traces():
    traces, outcome = Traces(seed=5), Counter[str]()
    for lowered in samples():
        bound = any(isinstance(e, Let) for b in blocks(lowered.func.body) for e in subexpressions(b.value))
        if bound or lowered.func.num_outputs != 1:
            continue
        for _ in range(2):
            _, scheduled = traces.draw(lowered.func, 10)
            if executions(scheduled.body) > 3000:
                continue
            allowed = in_place(scheduled)
            for position in allowed:
                assert not late_reads(scheduled, position), f"{lowered.case.name}, parameter {position}"
            outcome["allowed" if allowed else "refused"] += 1
    assert outcome["allowed"] > 10, outcome
