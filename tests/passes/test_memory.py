"""Arena offsets: intermediates that are alive at once never share memory."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tilewright.ir.plan import ARENA_ALIGNMENT
from tilewright.passes.memory import Lifetime, Spot, assign_spots


def assign_offsets(lives: dict[int, Lifetime], heirs: dict[int, int] | None = None) -> tuple[dict[int, int], int]:
    """Offsets where there is nothing but the arena."""
    spots, size = assign_spots(lives, heirs or {})
    assert all(spot.room is None for spot in spots.values())
    return {value: spot.offset for value, spot in spots.items()}, size


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


# ---- heirs


def _with_heirs(seed: int) -> tuple[dict[int, Lifetime], dict[int, int]]:
    """Random lifetimes, and values that can take the place of one that dies where they begin."""
    rng = np.random.default_rng(seed)
    lives, heirs = _random(seed), {}
    for value, life in lives.items():
        dying = [v for v, other in lives.items() if other.last == life.first > other.first and other.size == life.size]
        free = [v for v in dying if v not in heirs.values() and v != value]
        if free and rng.random() < 0.8:
            heirs[value] = int(rng.choice(free))
    return lives, heirs


@pytest.mark.parametrize("seed", range(60))
def test_only_heirs_share_memory_with_what_is_alive(seed):
    lives, heirs = _with_heirs(seed)
    offsets, total = assign_offsets(lives, heirs)
    assert offsets.keys() == lives.keys()
    assert total <= assign_offsets(lives)[1]
    for a, b in itertools.combinations(lives, 2):
        if not lives[a].overlaps(lives[b]) or not lives[a].size or not lives[b].size:
            continue
        first, second = sorted((a, b), key=offsets.__getitem__)
        apart = offsets[first] + lives[first].size <= offsets[second]
        inherited = offsets[a] == offsets[b] and (heirs.get(a) == b or heirs.get(b) == a)
        assert apart or inherited


def test_a_chain_of_heirs_has_one_place():
    lives = {n: Lifetime(1000, n, n + 1) for n in range(10)}
    assert assign_offsets(lives, {n: n - 1 for n in range(1, 10)}) == (dict.fromkeys(lives, 0), 1024)


def test_heirs_take_nothing_over_where_the_arena_would_grow():
    # As one value, 0 and 2 would be in the way of both 1 and 4.
    lives = {
        0: Lifetime(128, 3, 3),
        1: Lifetime(192, 2, 2),
        2: Lifetime(128, 1, 3),
        3: Lifetime(128, 3, 5),
        4: Lifetime(192, 4, 4),
    }
    assert assign_offsets(lives, {0: 2}) == assign_offsets(lives)


# ---- rooms


def _with_rooms(seed: int) -> tuple[dict[int, Lifetime], dict[int, int], dict[int, Lifetime]]:
    """Random lifetimes and heirs, and results, some of which are heirs."""
    rng = np.random.default_rng([seed, 1])
    lives, heirs = _with_heirs(seed)
    rooms = {n: Lifetime(int(rng.choice([0, 64, 1000, 4096, 9000])), int(rng.integers(1, 25)), 99) for n in (100, 101)}
    for room, own in rooms.items():
        dying = [v for v, life in lives.items() if life.last == own.first and life.size == own.size]
        free = [v for v in dying if v not in heirs.values()]
        if free:
            heirs[room] = free[0]
    return lives, heirs, rooms


@pytest.mark.parametrize("seed", range(80))
def test_nothing_lives_in_a_result_once_it_is_written(seed):
    lives, heirs, rooms = _with_rooms(seed)
    stays = [v for v in lives if v % 5 == 0]
    spots, total = assign_spots(lives, heirs, rooms, stays)
    assert spots.keys() == lives.keys()
    assert total <= assign_spots(lives, homebound=stays)[1]
    assert all(spots[v].room is None for v in stays)
    for value, spot in spots.items():
        space = total if spot.room is None else rooms[spot.room].size
        assert spot.offset % ARENA_ALIGNMENT == 0 and spot.offset + lives[value].size <= space
        if spot.room is not None and lives[value].last >= rooms[spot.room].first:
            assert heirs[spot.room] == value and spot.offset == 0 and lives[value].last == rooms[spot.room].first
    for a, b in itertools.combinations(lives, 2):
        same = spots[a].room == spots[b].room and lives[a].size and lives[b].size
        if same and lives[a].overlaps(lives[b]) and heirs.get(a) != b and heirs.get(b) != a:
            first, second = sorted((a, b), key=lambda v: spots[v].offset)
            assert spots[first].offset + lives[first].size <= spots[second].offset


def test_intermediates_live_in_results_until_these_are_written():
    lives = {0: Lifetime(1000, 0, 1), 1: Lifetime(900, 1, 2), 2: Lifetime(100, 1, 3)}
    spots, size = assign_spots(lives, {9: 1}, {9: Lifetime(900, 2, 9), 8: Lifetime(1100, 3, 9)})
    assert spots == {0: Spot(8, 0), 1: Spot(9, 0), 2: Spot(None, 0)}
    assert size == 128
