"""What a user may ask `compile` for, checked."""

from __future__ import annotations

import functools
import logging
import os
import re
from dataclasses import dataclass

from ..database.engine import DatabaseError
from ..database.store import Database
from ..search.strategies import DEFAULT_STRATEGY, strategy_named

_LOG = logging.getLogger(__name__)

TARGETS = ("cpu",)
EFFORTS = (0, 1, 2, 3)
_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Budget:
    """How much tuning is allowed, of all work for one compiled function and set of shapes.

    Attributes:
        seconds: Wall-clock limit, or None.
        trials: Limit on measured candidates, or None.
    """

    seconds: float | None = None
    trials: int | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked `compile` for; see there."""

    budget: Budget | None
    effort: int
    database: Database | None
    target: str
    seed: int
    progress: bool
    strategy: str

    def open_database(self) -> Database:
        """The database that was asked for, or the user's own one, opened once per process."""
        return self.database or _default_database()


@functools.cache
def _default_database() -> Database:
    try:
        return Database()
    except DatabaseError as error:
        _LOG.warning("tuning results are not kept: %s", error)
        return Database(":memory:")


def make_options(
    budget: object,
    effort: object,
    database: object,
    target: object,
    seed: object,
    progress: object,
    strategy: object = DEFAULT_STRATEGY,
) -> Options:
    """Check the arguments of `compile`.

    Raises:
        TypeError: an option has the wrong type.
        ValueError: an option has a value that is not allowed; the message says which are.
        DatabaseError: the database can't be opened.
    """
    return Options(
        _budget(budget),
        _effort(effort),
        _database(database),
        _target(target),
        _seed(seed),
        bool(progress),
        _strategy(strategy),
    )


def _budget(budget: object) -> Budget | None:
    if budget is None:
        return None
    if isinstance(budget, int) and not isinstance(budget, bool):
        if budget < 0:
            raise ValueError(f"budget: expected a number of trials >= 0, found {budget}")
        return Budget(trials=budget)
    if isinstance(budget, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h)\s*", budget)
        if match:
            return Budget(seconds=float(match[1]) * _SECONDS[match[2]])
        raise ValueError(f'budget: expected a time like "500ms", "60s", "2m" or "1h", found {budget!r}')
    raise TypeError(f'budget: expected a time like "60s" or a whole number of trials, found {budget!r}')


def _effort(effort: object) -> int:
    if isinstance(effort, bool) or effort not in EFFORTS or not isinstance(effort, int):
        raise ValueError(f"effort: expected one of {', '.join(map(str, EFFORTS))}, found {effort!r}")
    return effort


def _target(target: object) -> str:
    if target not in TARGETS or not isinstance(target, str):
        raise ValueError(f"target: expected one of {', '.join(map(repr, TARGETS))}, found {target!r}")
    return target


def _database(database: object) -> Database | None:
    if database is None or isinstance(database, Database):
        return database
    if isinstance(database, str | os.PathLike) and os.fspath(database):
        return Database(database)
    raise TypeError(f"database: expected a path, a URL, a tilewright.Database or None, found {database!r}")


def _seed(seed: object) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed: expected a whole number >= 0, found {seed!r}")
    return seed


def _strategy(strategy: object) -> str:
    if not isinstance(strategy, str):
        raise TypeError(f"strategy: expected the name of a search strategy, found {strategy!r}")
    strategy_named(strategy)
    return strategy
