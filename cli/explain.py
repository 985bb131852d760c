"""`tilewright explain`: what becomes of a function, stage by stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .errors import UsageError, guess
from .options import AsJson, Call, DatabasePath, FunctionName, InputTexts
from .output import printing

if TYPE_CHECKING:
    from ..driver.lowered import Lowered

JAXPR = "jaxpr"
_ON_REQUEST = ("legalized", "llvm", "asm")
_CONTEXT_LINES = 1


@dataclass(frozen=True, slots=True)
class _Stage:
    """A stage's text, and for graph passes whether they changed something."""

    name: str
    text: str
    changed: bool | None = None

    def __str__(self) -> str:
        note = ": no change" if self.changed is False else ""
        return f"// ---- {self.name}{note}\n{self.text}"

    def to_dict(self) -> dict[str, Any]:
        changed = {} if self.changed is None else {"changed": self.changed}
        return {"name": self.name, **changed, "text": self.text}


def explain(
    function: FunctionName,
    inputs: InputTexts = None,
    call: Call = False,
    stage: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Only this stage: jaxpr, traced, a graph pass, regions, workloads, schedules, scheduled, plan; or "
            "legalized, llvm, asm, which are shown only so.",
            show_default=False,
        ),
    ] = None,
    region: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Only this region and its workload.", show_default=False)
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="The whole graph after each pass instead of the difference.")
    ] = False,
    database: DatabasePath = None,
    as_json: AsJson = False,
) -> None:
    """Show every stage of a function on its way to kernels; nothing is run or measured.

    What JAX traced, the graph before and after each pass, regions, the loops of each workload, the schedule that would
    be used now (the database's best, else the default), the scheduled loops, and the plan.

    Examples:
        tilewright explain model:predict --input 'f32[1,32,32,3]' | less
        tilewright explain model:predict -i 'f32[1,32,32,3]' --stage simplify
        tilewright explain model:predict -i 'f32[1,32,32,3]' --stage asm --region 0
    """
    from .database import check_exists
    from .preparing import prepare

    check_exists(database)
    with printing(as_json) as out:
        subject = prepare(function, inputs, call, {"database": database})
        args, kwargs = subject.shapes()
        lowered = subject.compiled.lower(*args, **kwargs)
        table = _table(lowered, lambda: _jaxpr(subject.function, args, kwargs), region, full)
        stages = [table[name]() for name in _chosen(list(table), stage, region)]
        data = {"function": function, "stages": [item.to_dict() for item in stages]}
        out.result(data, "\n".join(map(str, stages)) if stage is None else stages[0].text or str(stages[0]))


def _chosen(names: list[str], stage: str | None, region: int | None) -> list[str]:
    """Names of the stages to show."""
    if stage is None:
        return [name for name in names if name not in _ON_REQUEST]
    if stage not in names:
        few = "; with --region there are fewer" if region is not None else ""
        raise UsageError(f"no stage {stage!r}: expected one of {', '.join(names)}{few}", guess(stage, names))
    return [stage]


def _table(
    lowered: Lowered, jaxpr: Callable[[], str], region: int | None, full: bool
) -> dict[str, Callable[[], _Stage]]:
    """What makes each stage, by name and in order."""
    from ..driver.lowered import WORKLOAD_STAGES

    if region is not None:
        return _table_of_region(lowered, region)
    first = lowered.stages[0][0]
    table = {JAXPR: lambda: _Stage(JAXPR, jaxpr()), first: lambda: _Stage(first, lowered.as_text(first))}
    for number in range(1, len(lowered.stages)):
        table[lowered.stages[number][0]] = lambda n=number: _pass(lowered, n, full)
    for name in ("regions", *WORKLOAD_STAGES, "plan"):
        table[name] = lambda n=name: _Stage(n, lowered.as_text(n))
    return table


def _table_of_region(lowered: Lowered, region: int) -> dict[str, Callable[[], _Stage]]:
    from ..driver.lowered import WORKLOAD_STAGES

    count = len(lowered.regions)
    if region >= count:
        found = f"regions 0 to {count - 1}" if count else "no region: all of it stays XLA's"
        raise UsageError(f"--region {region}: there {'are' if count else 'is'} {found}")
    table = {"regions": lambda: _Stage("regions", lowered.region_text(region))}
    for workload in lowered.workloads:
        if workload.key == lowered.regions[region].workload:
            for name in WORKLOAD_STAGES:
                table[name] = lambda n=name, w=workload: _Stage(n, lowered.workload_text(n, w))
    return table


def _pass(lowered: Lowered, number: int, full: bool) -> _Stage:
    """A graph pass: what it changed, or the whole graph after it."""
    from difflib import unified_diff

    before, name = lowered.stages[number - 1][0], lowered.stages[number][0]
    texts = lowered.as_text(before), lowered.as_text(name)
    if texts[0] == texts[1]:
        return _Stage(name, "", changed=False)
    if full:
        return _Stage(name, texts[1], changed=True)
    old, new = (text.splitlines(keepends=True) for text in texts)
    return _Stage(name, "".join(unified_diff(old, new, before, name, n=_CONTEXT_LINES)), changed=True)


def _jaxpr(function: Callable[..., Any], args: Any, kwargs: Any) -> str:
    import jax

    return f"{jax.make_jaxpr(function)(*args, **kwargs)}\n"
