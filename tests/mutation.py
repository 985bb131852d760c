"""Do the tests notice? Breaks one comparison at a time in a copy of the sources and runs the tests meant for it.

Run by hand: ``python tests/mutation.py [number ...]``. At least nine of ten mutants must turn a test red.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMIT_SECONDS = 120
PRIMITIVES = ("tests/passes/test_primitives.py",)
PROPERTIES = ("tests/passes/test_schedule_properties.py", "-k", "random")
CODEGEN = ("tests/backends/test_codegen.py", "-k", "not random and not sketches")
SKETCHES = ("tests/backends/test_codegen.py", "-k", "sketches")


@dataclass(frozen=True)
class Mutant:
    """One change of a source file, and the tests that should fail for it."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTANTS = (
    Mutant("passes/tiling.py", "trips = -(-it.extent // factor)", "trips = it.extent // factor", PRIMITIVES),
    Mutant("passes/tiling.py", "    if it.extent % factor:\n", "    if it.extent % factor > 1:\n", PROPERTIES),
    Mutant("passes/tiling.py", "abs(step) > hi - lo", "abs(step) > 0", PRIMITIVES),
    Mutant("passes/tiling.py", "both.mod(n)", "both.mod(m)", PRIMITIVES),
    Mutant("passes/tiling.py", "len(writers) > len(written)", "len(writers) < len(written)", PRIMITIVES),
    Mutant("passes/placement.py", "        if not above:\n", "        if above:\n", PRIMITIVES),
    Mutant("passes/placement.py", "order.index(writers[-1]) > order", "order.index(writers[-1]) < order", PRIMITIVES),
    Mutant("passes/placement.py", "stmt not in writers and stmt.write", "stmt in writers and stmt.write", PRIMITIVES),
    Mutant("passes/footprint.py", "max(high, t.high + shift.const)", "min(high, t.high + shift.const)", PRIMITIVES),
    Mutant("passes/footprint.py", "(scope.limits[name] - 1) * k", "(scope.limits[name] - 2) * k", PROPERTIES),
    Mutant("passes/caching.py", "shape=(-(-extent // factor), *rest", "shape=(extent // factor, *rest", PRIMITIVES),
    Mutant("passes/caching.py", "limit = extent.limit if below", "limit = extent.limit if not below", PROPERTIES),
    Mutant("passes/caching.py", "inside.index(writers[-1]) > inside", "inside.index(writers[-1]) < inside", PRIMITIVES),
    Mutant("passes/reduction.py", "    if it.extent % factor:\n", "    if it.extent % factor > 1:\n", PROPERTIES),
    Mutant("passes/legalize.py", "    if lo >= it.extent:\n", "    if hi >= it.extent:\n", SKETCHES),
    Mutant(
        "passes/legalize.py",
        "        if hi < 0:\n            return Const(",
        "        if lo < 0:\n            return Const(",
        CODEGEN,
    ),
    Mutant("passes/legalize.py", "read.otherwise == 0 and _is", "read.otherwise != 0 and _is", CODEGEN),
    Mutant("passes/legalize.py", "if not g.variables() & own)", "if g.variables() & own)", CODEGEN),
    Mutant(
        "backends/llvm/block_memory.py",
        "return min(self.lanes, self._wide",
        "return max(self.lanes, self._wide",
        CODEGEN,
    ),
    Mutant("backends/llvm/blocks.py", "elif resolved.const < 0:", "elif resolved.const <= 0:", CODEGEN),
    Mutant("backends/llvm/block_memory.py", "offset, t, mask, otherwise)\n", "offset, t, otherwise)\n", CODEGEN),
    Mutant("backends/llvm/memory.py", "if taken is not None:", "if taken is not None and taken == offset:", CODEGEN),
    Mutant(
        "backends/llvm/access.py", 'b.compare("lt", I64, value, back)', 'b.compare("le", I64, value, back)', CODEGEN
    ),
    Mutant("backends/llvm/codegen.py", '"lt", I64, following, upper', '"le", I64, following, upper', CODEGEN),
    Mutant("passes/collapse.py", "for e in (*guards, *_index", "for e in (*_index", ("tests/passes/test_collapse.py",)),
    Mutant(
        "passes/collapse.py",
        "guarded or len(where) != 2 or",
        "guarded or len(where) > 2 or",
        ("tests/passes/test_collapse.py",),
    ),
    Mutant("passes/regions.py", "return count == 1", "return count <= 2", ("tests/passes/test_fusion.py",)),
    Mutant("passes/regions.py", "if producers & reached:", "if producers > reached:", ("tests/passes/test_fusion.py",)),
    Mutant(
        "passes/segments.py",
        "if needs[n] <= done",
        "if needs[n] >= done",
        ("tests/passes/test_segments.py",),
    ),
    Mutant(
        "passes/memory.py",
        "self.first <= other.last and",
        "self.first < other.last and",
        ("tests/passes/test_memory.py",),
    ),
    Mutant(
        "passes/lower_blocks.py",
        "guard += [at, constant(extent - 1) - at]",
        "guard += [at, constant(extent) - at]",
        ("tests/passes/test_lower.py",),
    ),
    Mutant(
        "passes/lower_blocks.py",
        "next(gone) if axis in axes",
        "next(gone) if axis not in axes",
        ("tests/passes/test_lower.py",),
    ),
)


def copy_tree(target: Path) -> None:
    """A copy of the sources as a package that stands before the installed one."""
    skipped = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", "build", "dist", "shared")
    shutil.copytree(ROOT, target / "tilewright", ignore=skipped)


def survives(mutant: Mutant, folder: Path) -> str | None:
    """Run the tests with one change; what happened if none failed, else None."""
    path = folder / "tilewright" / mutant.file
    original = path.read_text()
    if original.count(mutant.old) < 1:
        return "the text to change does not occur"
    path.write_text(original.replace(mutant.old, mutant.new, 1))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *mutant.tests]
    env = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=folder / "tilewright", env=env, capture_output=True, timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        return None
    finally:
        path.write_text(original)
    if done.returncode in (3, 4, 5):
        return "the tests did not run"
    return None if done.returncode else "no test failed"


def main(numbers: list[int]) -> int:
    """Try mutants, all or those given; the exit status tells whether enough were noticed."""
    chosen = [MUTANTS[n] for n in numbers] or list(MUTANTS)
    alive = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_tree(folder)
        for mutant in chosen:
            start = time.monotonic()
            result = survives(mutant, folder)
            alive += result is not None
            text = mutant.new.strip().splitlines()[0]
            seconds = time.monotonic() - start
            print(
                f"{result or 'noticed':35} {MUTANTS.index(mutant):2} {mutant.file:26} {seconds:5.0f} s  {text}",
                flush=True,
            )
    print(f"{len(chosen) - alive} of {len(chosen)} noticed")
    return int(10 * alive > len(chosen))


if __name__ == "__main__":
    sys.exit(main([int(n) for n in sys.argv[1:]]))
