"""What the comparison of search strategies compares: those of the product, and yardsticks for them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from ..search.base import SearchStrategy
from ..search.ranking import Rank
from ..search.space import SearchSpace
from ..search.strategies import STRATEGIES, StrategyFactory
from .beam_search import BeamSearch
from .random_search import RandomSearch


def _random(space: SearchSpace, rank: Rank, rng: np.random.Generator) -> SearchStrategy:
    return RandomSearch(space, rng)


CONTESTANTS: Mapping[str, StrategyFactory] = MappingProxyType({**STRATEGIES, "beam": BeamSearch, "random": _random})
"""By name. The yardsticks are no part of the product: the comparison showed them no better than what is."""
