"""Tilewright: an autoscheduling compiler for JAX.

    import tilewright
    fast = tilewright.compile(fn)

Public names are loaded when they are first used, so that importing a part (the measuring worker, the IR) does not
import JAX. Where to read on: `compiler.py` drives, `ir/graph.py` is the first of the two IRs, `passes/pipeline.py`
lists the rewrites, `backends/jax_call.py` is where JAX meets the compiler.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .artifact.errors import ArtifactError as ArtifactError
    from .artifact.loaded import Loaded as Loaded
    from .artifact.reader import load as load
    from .compiler import Compiled as Compiled
    from .compiler import TuneResult as TuneResult
    from .compiler import compile as compile
    from .database.engine import DatabaseError as DatabaseError
    from .database.store import Database as Database
    from .driver.lowered import Lowered as Lowered
    from .driver.options import Budget as Budget
    from .driver.report import Report as Report
    from .frontends.avals import UnsupportedProgram as UnsupportedProgram

_HOME = {
    "ArtifactError": "artifact.errors",
    "Budget": "driver.options",
    "Compiled": "compiler",
    "Database": "database.store",
    "DatabaseError": "database.engine",
    "Loaded": "artifact.loaded",
    "Lowered": "driver.lowered",
    "Report": "driver.report",
    "TuneResult": "compiler",
    "compile": "compiler",
    "load": "artifact.reader",
    "UnsupportedProgram": "frontends.avals",
}

__version__ = "0.1.0"
__all__ = [
    "ArtifactError",
    "Budget",
    "Compiled",
    "Database",
    "DatabaseError",
    "Loaded",
    "Lowered",
    "Report",
    "TuneResult",
    "UnsupportedProgram",
    "__version__",
    "compile",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
