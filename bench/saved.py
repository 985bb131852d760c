"""Is a saved function as fast as the one that was saved, and does it give the same? `python -m tilewright.bench.saved`.

Compiles a network into a database of its own and saves it. Then processes alternate: one compiles the network from the
database and calls it, one types `tilewright run` on the saved file. Both call it on the same input, equally often.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import jax
import numpy as np

from ..compiler import compile
from .models import load_model, model_names
from .paired import paired_speedup

_MODEL, _INPUT, _DATABASE = "model.tw", "input.npz", "tuning.db"
_START_LIMIT_S = 3.0
_SLOWEST = 0.98


@dataclass(frozen=True, slots=True)
class Calls:
    """What one process measured.

    Attributes:
        median_ms: Of its calls.
        outputs: By name.
        first_result_s: From the start of the process to its first result; None where it was not looked at.
    """

    median_ms: float
    outputs: dict[str, np.ndarray]
    first_result_s: float | None = None


def _compiled(folder: Path, name: str, budget: str) -> tuple[Any, tuple[np.ndarray, ...]]:
    case = load_model(name)
    args = case.make_input(np.random.default_rng(0))
    return compile(case.fn, budget=budget, database=folder / _DATABASE, progress=False), args


def save(folder: Path, name: str, budget: str) -> None:
    """Tune the network, save it and an input."""
    fast, args = _compiled(folder, name, budget)
    jax.block_until_ready(fast(*args))
    fast.save(folder / _MODEL, *args)
    np.savez(folder / _INPUT, *args)


def call(folder: Path, name: str, budget: str, calls: int) -> None:
    """Compile the network from the database and call it; prints milliseconds, writes outputs."""
    fast, args = _compiled(folder, name, budget)
    placed = jax.device_put(args)
    outputs = jax.tree.leaves(jax.block_until_ready(fast(*placed)))
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        jax.block_until_ready(fast(*placed))
        seconds.append(time.perf_counter() - start)
    np.savez(folder / "compiled.npz", *outputs)
    print(json.dumps({"median_ms": 1e3 * median(seconds)}))


def _python(*arguments: object) -> Any:
    """The JSON that a Python process prints last."""
    done = subprocess.run([sys.executable, "-m", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"expected {arguments[0]} to end well, found exit code {done.returncode}: {done.stderr}")
    return json.loads(done.stdout) if done.stdout else None


def in_process(folder: Path, name: str, budget: str, calls: int) -> Calls:
    """A process that compiles."""
    found = _python(__spec__.name, "--step", "call", "--folder", folder, *_options(name, budget, calls))
    return Calls(found["median_ms"], _arrays(folder / "compiled.npz"))


def from_file(folder: Path, calls: int) -> Calls:
    """A process of `tilewright run`."""
    result = folder / "run.npz"
    options = ("--input", folder / _INPUT, "--output", result, "--repeat", calls, "--json")
    found = _python("tilewright.cli", "run", folder / _MODEL, *options)
    return Calls(1e3 * found["calls"]["median_s"], _arrays(result), found["first_result_s"])


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def _options(name: str, budget: str, calls: int) -> tuple[object, ...]:
    return ("--model", name, "--budget", budget, "--calls", calls)


def _same(left: Calls, right: Calls) -> bool:
    pairs = zip(left.outputs.values(), right.outputs.values(), strict=True)
    return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)


def compare(name: str, budget: str, processes: int, calls: int) -> int:
    """Run the comparison; 1 if the file is slower, differs or starts late."""
    with TemporaryDirectory(prefix="tilewright-saved-") as path:
        folder = Path(path)
        _python(__spec__.name, "--step", "save", "--folder", folder, *_options(name, budget, calls))
        pairs: list[tuple[Calls, Calls]] = []
        for number in range(processes):
            if number % 2:
                loaded = from_file(folder, calls)
                pairs.append((in_process(folder, name, budget, calls), loaded))
            else:
                pairs.append((in_process(folder, name, budget, calls), from_file(folder, calls)))
            compiled, loaded = pairs[-1]
            print(f"compiled {compiled.median_ms:.3f} ms, run {loaded.median_ms:.3f} ms", file=sys.stderr, flush=True)
        size = (folder / _MODEL).stat().st_size
    speed = paired_speedup(
        [[c.median_ms] for c, _ in pairs], [[r.median_ms] for _, r in pairs], np.random.default_rng(0)
    )
    same = all(_same(*pair) for pair in pairs)
    starts = [run.first_result_s for _, run in pairs if run.first_result_s is not None]
    print(f"{name}: file of {size / 1e6:.2f} MB, {processes} processes of each kind, {calls} calls in each")
    print(f"speed of `tilewright run` over in process: {speed.median:.3f} [{speed.low:.3f}, {speed.high:.3f}]")
    print(f"start to first result: median {median(starts):.2f} s, longest {max(starts):.2f} s" if starts else "")
    print(f"outputs: {'identical' if same else 'DIFFERENT'}")
    return 0 if same and speed.median >= _SLOWEST and max(starts, default=0.0) <= _START_LIMIT_S else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, or do one step of it in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m tilewright.bench.saved", description=__doc__)
    parser.add_argument("--model", choices=model_names(), default="mobilenetv2")
    parser.add_argument("--budget", default="30s", help="tuning time")
    parser.add_argument("--processes", type=int, default=8, help="of each kind")
    parser.add_argument("--calls", type=int, default=300, help="per process")
    parser.add_argument("--step", choices=("save", "call"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    found = parser.parse_args(arguments)
    if found.step == "save":
        save(found.folder, found.model, found.budget)
    elif found.step == "call":
        call(found.folder, found.model, found.budget, found.calls)
    else:
        return compare(found.model, found.budget, found.processes, found.calls)
    return 0


if __name__ == "__main__":
    sys.exit(main())
