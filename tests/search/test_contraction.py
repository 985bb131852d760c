"""The default decisions of products: what the outermost loop goes over, and which tiles join rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
from products import built, product, sketch_of

from tilewright.ir.loop import blocks
from tilewright.ir.target import detect_target
from tilewright.passes.schedule import replay
from tilewright.search.tiles import Box, joined_tiles, register_tiles

TARGET = replace(
    detect_target(), threads=2, vector_bits=512, features="+avx2,+fma,+avx512f", l1_bytes=48 << 10, l2_bytes=1 << 20
)


@pytest.mark.parametrize(
    ("rows", "steps", "columns", "order"),
    [
        (12_544, 16, 96, "rows"),  # panels outermost would write each row of a large result in pieces
        (3_136, 64, 256, "rows"),
        (196, 256, 1_024, "panels"),  # panels are larger than the second-level cache, the result is not
        (49, 960, 320, "panels"),
    ],
)
def test_large_results_are_written_row_by_row_and_large_panels_read_once(rows, steps, columns, order):
    assert sketch_of(product(rows, steps, columns), TARGET).default["order"] == order


@pytest.mark.parametrize(
    ("rows", "columns", "joined"),
    [
        (3_136, 24, True),  # a vector and a half a row
        (784, 40, True),
        (784, 20, True),
        (784, 32, False),  # rows fill vectors
        (784, 12, False),  # less than a vector: more splats than multiply-adds
        (784, 160, False),
        (1, 24, False),
    ],
)
def test_rows_that_waste_a_part_of_a_vector_are_joined(rows, columns, joined):
    tile = str(sketch_of(product(rows, 96, columns), TARGET).default["tile"])
    assert tile.endswith("j") == joined


def test_a_joined_tile_is_one_range_of_whole_rows():
    func = product(50, 30, 24)
    scheduled = replay(func, built(func, TARGET, tile="8x2j"))
    for block in blocks(scheduled.body):
        (joined,) = (i for i in block.iters if i.vectorized)
        assert joined.extent == 8 * 24 and joined.kind == "data"


@pytest.mark.parametrize("lanes", [8, 16])
@pytest.mark.parametrize("values", [*range(8, 70, 3), 12, 24])
def test_joined_tiles_fit_into_registers_and_are_priced_by_full_vectors(lanes, values):
    target = replace(TARGET, vector_bits=32 * lanes, features="+avx2,+fma" + ",+avx512f" * (lanes == 16))
    count = 32 if lanes == 16 else 16
    box = Box(640, values, 64)
    found = joined_tiles(box, target)
    assert not found or (values % lanes != 0 and values >= lanes)
    for (_, cycles, _), (rows, _) in found:
        assert -(-rows * values // lanes) < count
        assert cycles >= 640 * values / lanes / 2 * 64, "no faster than two full vectors a cycle"
    if values == 3 * lanes / 2:
        assert found[0][0] < register_tiles(box, target)[0][0]
