"""Arena offsets: intermediates that are alive at once never share memory."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tilewright.ir.plan import ARENA_ALIGNMENT
from tilewright.passes.memory import Lifetime, assign_offsets


def _random(seed: int) -> dict[int, Lifetime]:
    rng = np.random.default_rng(seed)
    lives = {}
    for value in range(int(rng.integers(1, 40))):
        first = int(rng.integers(0, 20))
        size = int(rng.choice([0, 1, 4, 63, 64, 65, 1000, 4096]))
        lives[value] = Lifetime(size, first, first + int(rng.integers(0, 6)))
    return lives


@pytest.mark.parametrize("seed", range(60))
def test_values_alive_at_once_do_not_overlap(seed):
    lives = _random(seed)
    offsets, total = assign_offsets(lives)
    assert offsets.keys() == lives.keys()
    assert all(offset % ARENA_ALIGNMENT == 0 and offset + lives[v].size <= total for v, offset in offsets.items())
    for a, b in itertools.combinations(lives, 2):
        if max(lives[a].first, lives[b].first) <= min(lives[a].last, lives[b].last):
            first, second = sorted((a, b), key=offsets.__getitem__)
            assert (
                lives[first].size == 0
                or offsets[first] + lives[first].size <= offsets[second]
                or not lives[second].size
            )


def test_memory_is_used_again():
    lives = {n: Lifetime(1000, n, n + 1) for n in range(10)}
    _, total = assign_offsets(lives)
    assert total == 2 * 1024


def test_nothing_takes_no_memory():
    assert assign_offsets({}) == ({}, 0)


def test_equal_lifetimes_give_equal_plans():
    lives = _random(3)
    assert assign_offsets(lives) == assign_offsets(dict(reversed(lives.items())))


def _alive(lives: dict[int, Lifetime], stage: int) -> int:
    return sum(-(-x.size // ARENA_ALIGNMENT) * ARENA_ALIGNMENT for x in lives.values() if x.first <= stage <= x.last)


@pytest.mark.parametrize("seed", range(60))
def test_the_arena_is_no_smaller_than_what_is_alive_at_once(seed):
    lives = _random(seed)
    _, total = assign_offsets(lives)
    assert total >= max(_alive(lives, stage) for stage in range(30))


def test_other_orders_are_tried_where_the_largest_first_wastes_memory():
    # 3 and then 0 and 2 choose first; what is left below 1 is too small for it.
    lives = {0: Lifetime(192, 2, 3), 1: Lifetime(128, 3, 4), 2: Lifetime(192, 1, 3), 3: Lifetime(256, 0, 1)}
    assert assign_offsets(lives)[1] == 512 == max(_alive(lives, stage) for stage in range(5))
