"""The search strategies by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from .base import SearchStrategy
from .evolutionary import EvolutionarySearch
from .mcts import MctsSearch
from .ranking import Rank
from .space import SearchSpace

StrategyFactory = Callable[[SearchSpace, Rank, np.random.Generator], SearchStrategy]
"""Makes the strategy of one workload from its space, the cost model's scores and the only source of randomness."""


STRATEGIES: Mapping[str, StrategyFactory] = MappingProxyType({"evolutionary": EvolutionarySearch, "mcts": MctsSearch})
DEFAULT_STRATEGY = "mcts"
"""First in the comparison of `docs/strategies.md`."""


def strategy_named(name: str) -> StrategyFactory:
    """Look a strategy up.

    Raises:
        ValueError: there is none of that name; the message says which there are.
    """
    if name not in STRATEGIES:
        raise ValueError(f"strategy: expected one of {', '.join(map(repr, STRATEGIES))}, found {name!r}")
    return STRATEGIES[name]
