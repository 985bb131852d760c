"""A demonstration in one command: compile, tune and time MobileNetV2, and say what was gained and why.

python -m tilewright.bench.demo
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from ..backends.measure.machine import MachineLimits, measure_limits
from ..ir.target import detect_target
from .ab import AbOptions, AbReport, AbRow, print_report, run_ab
from .models import model_names

_PURPOSE = "Compile, tune and time a network."
_MODEL = "mobilenetv2"
_BUDGET = "45s"  # once per allocator mode
_ROUNDS = 30


def _limits_text(limits: MachineLimits) -> str:
    return (
        f"{limits.threads} threads with {limits.vector_bits}-bit vectors: {limits.fma_gflops_all:.0f} GFLOP/s "
        f"multiply-add, memory {limits.read_gbs_all:.0f} GB/s, last-level cache {limits.l3_gbs_all:.0f} GB/s"
    )


def _gain_text(row: AbRow) -> str:
    speedup = row.speedup
    if speedup.low > 1:
        verdict = f"[green]{speedup.median:.2f} times faster[/green]"
    elif speedup.high < 1:
        verdict = f"[red]{1 / speedup.median:.2f} times slower[/red]"
    else:
        verdict = "no difference that can be told from noise"
    where = "as it comes" if row.allocator == "stock" else "with an allocator that keeps its pages"
    bounds = f"speed-up {speedup.low:.2f} to {speedup.high:.2f} with 95% confidence"
    kept = "kept" if row.accurate else "[red]broken[/red]"
    return (
        f"Against jax.jit {where}: {row.baseline_ms:.2f} ms -> {row.candidate_ms:.2f} ms, {verdict} ({bounds}, "
        f"{row.pairs} pairs).\n  Compiled and tuned in {row.candidate_compile_s[0]:.0f} s; accuracy contract {kept}."
    )


def show(report: AbReport, console: Console) -> None:
    """Print the numbers, what they mean, and the compiler's own explanation."""
    print_report(report)
    for row in report.rows:
        console.print(_gain_text(row), highlight=False)
    explained = next((row.explanation for row in report.rows if row.explanation), "")
    if explained:
        console.print(Panel(escape(explained), title="why"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration; 1 if a process failed or the result was not accurate."""
    parser = argparse.ArgumentParser(prog="python -m tilewright.bench.demo", description=_PURPOSE)
    parser.add_argument("--model", choices=model_names(), default=_MODEL)
    parser.add_argument("--budget", default=_BUDGET, help="tuning time for each of the two allocator modes")
    found = parser.parse_args(arguments)
    console = Console()
    console.print(f"This machine: {detect_target().name}")
    console.print(_limits_text(measure_limits()), highlight=False)
    console.print(f"Compiling and tuning {found.model}, up to {found.budget} for each of two allocator modes ...")
    options = AbOptions(found.model, budget=found.budget, rounds=_ROUNDS)
    report = run_ab([found.model], [1], options, repeats=1, say=console.print)
    show(report, console)
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
