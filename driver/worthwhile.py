"""Which kernels are worth it without measuring: predictions of ours against predictions of XLA's code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..costmodel.roofline import predict_native
from ..costmodel.xla import first_touch, predict_xla
from ..ir.graph_edit import subgraph
from ..ir.target import Target
from ..passes.fold import MergeEqual
from ..passes.regions import Region
from .loop_costs import native_loop_seconds, xla_loop_seconds
from .planning import Choice, Partition
from .verdicts import allocator_mode

CALL_SECONDS = 4e-6
"""What a native call costs beyond its kernels."""
_APART_SECONDS = 8e-6
"""What it costs beyond that beside operations of XLA's: what was one program of XLA's comes apart."""
_OF_KEYS = frozenset("random_wrap random_unwrap random_split random_fold_in random_seed".split())
"""Operations on a few words, which take next to nothing."""
_TOGETHER = 0.92
"""Share of the wanted speed-up that the regions of a function have to reach together, those left to XLA included."""


def worthwhile(parts: Partition, choices: Mapping[str, Choice], target: Target, speedup: float) -> dict[str, Choice]:
    """Choices that are predicted to gain: single ones that clearly lose go, and the rest has to win as a whole.

    A loop is native as a whole or not at all, so its kernels stay or go together. XLA fuses what are several regions
    here, so that its times for them one by one are too long: regions that depend on each other also have to win
    against its time for their graph, together with what of it is left to XLA.

    Args:
        parts: the function in regions.
        choices: kernels by task key.
        target: the CPU.
        speedup: how many times faster they have to be.
    """
    in_loops, ours, theirs = _loops(parts, choices, target, speedup)
    kept: dict[str, Choice] = {key: choices[key] for key in in_loops}
    seconds = _Seconds(parts, choices, target)
    for group in _dependent(parts):
        usual = {region: seconds.xla([region]) for region, key in group if key in choices}
        gains = [r for r, key in group if r in usual and seconds.native(r, key) <= usual[r] + CALL_SECONDS]
        left = [r for r, _ in group if r not in gains]
        native = sum(seconds.native(r, key) for r, key in group if r in gains)
        together = seconds.xla([r for r, _ in group], touched=gains)
        call = CALL_SECONDS + (_APART_SECONDS if _beside_xla(parts, group) else 0.0)
        wins = together >= speedup * _TOGETHER * (native + seconds.xla(left, touched=[]) + call)
        for region, key in group:
            if key in in_loops or (wins and region in gains):
                kept[key] = choices[key]
                ours += seconds.native(region, key)
                theirs += usual[region]
    return kept if kept and theirs >= speedup * (ours + CALL_SECONDS) else {}


@dataclass(slots=True)
class _Seconds:
    """Predictions for regions outside of loops."""

    parts: Partition
    choices: Mapping[str, Choice]
    target: Target
    _native: dict[str, float] = field(default_factory=dict)

    def native(self, region: Region, key: str) -> float:
        """Seconds of a region's kernel."""
        if key not in self._native:
            func, trace = self.parts.tasks[key].workload.func, self.choices[key].trace
            self._native[key] = float(predict_native(func, [trace], self.target)[0])
        return self._native[key] + first_touch(self._fresh([region]), huge_pages=True)

    def xla(self, regions: Sequence[Region], touched: Sequence[Region] | None = None) -> float:
        """Seconds of XLA's code for regions, with the pages of the results of all or of some of them."""
        members = [m for region in regions for m in region.members]
        if not members:
            return 0.0
        fresh = self._fresh(regions if touched is None else touched)
        graph = MergeEqual()(subgraph(self.parts.graph, members))  # copies for several readers are one value to XLA
        return predict_xla(graph, self.target) + first_touch(fresh, huge_pages=False)

    def _fresh(self, regions: Sequence[Region]) -> list[int]:
        """Sizes of results of the function, where the allocator does not keep their pages."""
        if allocator_mode() != "stock":
            return []
        graph = self.parts.graph
        made = {value for region in regions for m in region.members for value in graph.ops[m].results}
        return [graph.types[value].nbytes for value in made & set(graph.outputs)]


def _dependent(parts: Partition) -> list[list[tuple[Region, str]]]:
    """Regions outside of loops in groups that share no more than arguments and what other operations compute."""
    outside = [(region, key) for region, key in parts.regions if region.kind != "loop"]
    group_of: dict[int, list[tuple[Region, str]]] = {}
    producers, ops = parts.graph.producers, parts.graph.ops
    for region, key in outside:
        read = {producers.get(value) for m in region.members for value in ops[m].operands}
        joined = {id(g): g for at in read if at is not None and (g := group_of.get(at)) is not None}
        merged = [(region, key), *(item for group in joined.values() for item in group)]
        for member, _ in merged:
            group_of.update(dict.fromkeys(member.members, merged))
    return list({id(group): group for group in group_of.values()}.values())


def _beside_xla(parts: Partition, group: Sequence[tuple[Region, str]]) -> bool:
    """Whether operations outside of all regions compute what a group reads, or read what it computes."""
    graph = parts.graph
    members = {m for region, _ in group for m in region.members}
    read = {graph.producers.get(value) for m in members for value in graph.ops[m].operands}
    users = {user for m in members for value in graph.ops[m].results for user in graph.users[value]}
    outside = {at for at in read | users if at is not None} - {m for region, _ in parts.regions for m in region.members}
    return any(graph.ops[at].opcode not in _OF_KEYS for at in outside)


def _loops(
    parts: Partition, choices: Mapping[str, Choice], target: Target, speedup: float
) -> tuple[set[str], float, float]:
    """Keys of the tasks of loops that are predicted to gain, and what these take natively and as XLA's code."""
    kept: set[str] = set()
    ours = theirs = 0.0
    for loop in parts.loops.values():
        if not loop.parts.tasks.keys() <= choices.keys():
            continue
        native, usual = native_loop_seconds(loop, choices, target), xla_loop_seconds(loop, target)
        if usual >= speedup * native:
            kept |= loop.parts.tasks.keys()
            ours += native
            theirs += usual
    return kept, ours, theirs
