"""Which kernels are worth it without measuring: predictions of ours against predictions of XLA's code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from ..costmodel.roofline import predict_native
from ..costmodel.xla import first_touch, predict_xla
from ..ir.graph import Graph
from ..ir.graph_edit import subgraph
from ..ir.target import Target
from .loop_costs import native_loop_seconds, xla_loop_seconds
from .planning import Choice, Partition, result_bytes
from .verdicts import allocator_mode

CALL_SECONDS = 4e-6
"""What a native call costs beyond its kernels."""
_TOGETHER = 0.92
"""Share of the wanted speed-up that the regions of a function have to reach together, those left to XLA included."""


def worthwhile(parts: Partition, choices: Mapping[str, Choice], target: Target, speedup: float) -> dict[str, Choice]:
    """Choices that are predicted to gain: single ones that clearly lose go, and the rest has to win as a whole.

    A loop is native as a whole or not at all, so its kernels stay or go together. What XLA takes for regions one by one
    is too much where it fuses them; regions outside of loops have to win against their graph as a whole, too.

    Args:
        parts: the function in regions.
        choices: kernels by task key.
        target: the CPU.
        speedup: how many times faster they have to be.
    """
    in_loops, ours, theirs = _loops(parts, choices, target, speedup)
    kept: dict[str, Choice] = {key: choices[key] for key in in_loops}
    fresh = result_bytes(parts) if allocator_mode() == "stock" else {}
    apart = Counter(key for _, key in parts.regions if key)
    own, usual_own, left, touching = 0.0, 0.0, 0.0, 0.0
    found: dict[str, Choice] = {}
    for key, count in apart.items():
        task, results = parts.tasks[key], fresh.get(key, ())
        alone = count * predict_xla(task.region, target)
        if key not in choices:
            left += alone
            continue
        native = float(predict_native(task.workload.func, [choices[key].trace], target)[0])
        native = count * native + first_touch(results, huge_pages=True)
        usual = alone + first_touch(results, huge_pages=False)
        if native > usual + count * CALL_SECONDS and key not in in_loops:
            left += alone + count * CALL_SECONDS
            continue
        found[key] = choices[key]
        own += native
        usual_own += usual
        touching += first_touch(results, huge_pages=False)
    together = predict_xla(_outside_of_loops(parts), target) + touching
    if together >= speedup * _TOGETHER * (own + left + CALL_SECONDS):
        kept |= found
        ours += own
        theirs += usual_own
    return kept if kept and theirs >= speedup * (ours + CALL_SECONDS) else {}


def _outside_of_loops(parts: Partition) -> Graph:
    """All regions outside of loops as one graph."""
    return subgraph(parts.graph, [m for region, _ in parts.regions if region.kind != "loop" for m in region.members])


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
