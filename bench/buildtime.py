"""What it costs to build a candidate, and where the time goes.

    python -m tilewright.bench.buildtime --candidates 8
    python -m tilewright.bench.buildtime --suite models --rows mobilenetv2,resnet50 --candidates 1

Builds the default schedule and seeded random ones of every task of the rows, one after the other, with a clock between
the steps; then all of them again on as many threads as the machine has, as a search does. Nothing is run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import numpy as np

from ..backends.llvm.codegen import legal_ir
from ..backends.llvm.toolchain import object_code
from ..driver.kernels import BuildError
from ..ir.lanes import vector_lanes
from ..ir.loop import LoopFunc
from ..ir.target import Target, detect_target
from ..passes.legalize import legalize
from ..passes.schedule import Trace, replay
from .cases import SUITES, SuiteName, row_names
from .row_tasks import drawn_candidates, row_tasks

STEPS = ("replay", "legalise", "emit", "LLVM")
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)

Item = tuple[LoopFunc, Trace]


def build_times(func: LoopFunc, trace: Trace, target: Target) -> tuple[float, ...] | None:
    """Seconds that each of `STEPS` takes for a candidate; None if it is refused."""
    marks = [time.perf_counter()]
    try:
        scheduled = replay(func, trace)
        marks.append(time.perf_counter())
        lanes = vector_lanes(scheduled, target)
        legal = legalize(scheduled, lanes)
        marks.append(time.perf_counter())
        text, _, _ = legal_ir(legal, lanes, target)
        marks.append(time.perf_counter())
        object_code(text, features=target.features)
        marks.append(time.perf_counter())
    except BuildError:
        return None
    return tuple(np.diff(marks))


def items_of(
    suite: SuiteName, rows: Sequence[str], candidates: int, seed: int, target: Target
) -> dict[str, list[Item]]:
    """What is built, by row; a task that several rows have belongs to the first of them."""
    known: set[str] = set()
    found: dict[str, list[Item]] = {}
    for row in rows:
        found[row] = []
        for task in row_tasks(suite, row, target):
            if task.key in known:
                continue
            known.add(task.key)
            drawn = drawn_candidates(task, target, candidates, np.random.default_rng(seed))
            found[row] += [(task.workload.func, candidate.trace) for candidate in drawn]
    return found


def summary(times: np.ndarray) -> list[str]:
    """Lines of text.

    Args:
        times: seconds, a row per candidate and a column per step.
    """
    totals = 1e3 * times.sum(1)
    quantiles = "  ".join(f"{q:.0%} {v:.1f}" for q, v in zip(_QUANTILES, np.quantile(totals, _QUANTILES), strict=True))
    lines = [f"{len(totals)} candidates, ms each: mean {totals.mean():.1f}  {quantiles}"]
    for name, column in zip(STEPS, 1e3 * times.T, strict=True):
        share = column.sum() / totals.sum()
        lines.append(f"{name:10} median {np.median(column):6.2f} ms  mean {column.mean():6.2f} ms  {share:4.0%}")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the times of each row and of all candidates."""
    parser = argparse.ArgumentParser(
        prog="python -m tilewright.bench.buildtime", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--suite", choices=get_args(SuiteName), default=SUITES[0])
    parser.add_argument("--rows", type=lambda text: text.split(","), help="by name; all rows if left out")
    parser.add_argument("--candidates", type=int, default=8, help="per task, the default schedule included")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    target = detect_target()
    items = items_of(options.suite, options.rows or row_names(options.suite), options.candidates, options.seed, target)
    everything: list[tuple[float, ...]] = []
    for row, own in items.items():
        times = [t for item in own if (t := build_times(*item, target)) is not None]
        everything += times
        if times:
            print(f"{row:24} {len(times):4} candidates, median {1e3 * np.median(np.sum(times, 1)):7.1f} ms", flush=True)
    print("\n".join(summary(np.array(everything))))
    began = time.perf_counter()
    with ThreadPoolExecutor(target.threads) as pool:
        again = [pool.submit(build_times, func, trace, target) for own in items.values() for func, trace in own]
        built = sum(future.result() is not None for future in again)
    print(f"on {target.threads} threads: mean {1e3 * (time.perf_counter() - began) / max(built, 1):.1f} ms a candidate")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
