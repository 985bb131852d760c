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
from pathlib import Path

from mutants import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parent.parent
LIMIT_SECONDS = 300


def copy_tree(target: Path) -> None:
    """A copy of the sources as a package that stands before the installed one."""
    skipped = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", "build", "dist", "shared")
    shutil.copytree(ROOT, target / "tilewright", ignore=skipped)


NOTICED = ("noticed", "noticed: it hangs")


def verdict(mutant: Mutant, folder: Path) -> str:
    """Run the tests with one change; one of `NOTICED`, or why it was not."""
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
        return NOTICED[1]
    finally:
        path.write_text(original)
    if done.returncode in (2, 3, 4, 5):
        return "the tests did not run"
    return NOTICED[0] if done.returncode else "no test failed"


def main(numbers: list[int]) -> int:
    """Try mutants, all or those given; the exit status tells whether enough were noticed."""
    chosen = [MUTANTS[n] for n in numbers] or list(MUTANTS)
    alive = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_tree(folder)
        for mutant in chosen:
            start = time.monotonic()
            result = verdict(mutant, folder)
            alive += result not in NOTICED
            text = (mutant.new.strip() or "(nothing)").splitlines()[0]
            seconds = time.monotonic() - start
            print(
                f"{result:35} {MUTANTS.index(mutant):2} {mutant.file:26} {seconds:5.0f} s  {text}",
                flush=True,
            )
    print(f"{len(chosen) - alive} of {len(chosen)} noticed")
    return int(10 * alive > len(chosen))


if __name__ == "__main__":
    sys.exit(main([int(n) for n in sys.argv[1:]]))
