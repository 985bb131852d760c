"""Lowering of what puts arrays together: every mode, odd sizes and places out of bounds, interpreted, against JAX."""

from __future__ import annotations

import re

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from test_lower import check, ints

from tilewright.ir.text import digest, parse_ir, print_ir

I32 = np.int32
SPECIAL = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1.5, -2.0], np.float32)


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).choice(SPECIAL, shape)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_concatenation(data):
    rank = data.draw(st.integers(1, 3))
    axis = data.draw(st.integers(0, rank - 1))
    shape = data.draw(st.lists(st.integers(1, 4), min_size=rank, max_size=rank))
    parts = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    arrays = [values(*shape[:axis], n, *shape[axis + 1 :], seed=k) for k, n in enumerate(parts)]
    reverse = data.draw(st.booleans())

    def fn(*xs):
        whole = lax.concatenate([-x for x in xs], axis)
        return lax.rev(whole, (axis,)) if reverse else whole

    check(fn, *arrays)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_padding(data):
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    config = []
    for extent in shape:
        inside = data.draw(st.integers(0, 2))
        width = extent + inside * (extent - 1)
        low = data.draw(st.integers(-width + 1, 4))
        config.append((low, data.draw(st.integers(1 - width - low, 4)), inside))
    value = data.draw(st.sampled_from(SPECIAL.tolist()))
    check(lambda x: lax.pad(x, np.float32(value), config), values(*shape))


MODES = ("fill", "clip", "promise_in_bounds", "wrap")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_taking(data):
    rank = data.draw(st.integers(1, 3))
    axis = data.draw(st.integers(-rank, rank - 1))
    shape = data.draw(st.lists(st.integers(1, 5), min_size=rank, max_size=rank))
    mode = data.draw(st.sampled_from(MODES))
    extent = shape[axis]
    places = st.integers(0, extent - 1) if mode == "promise_in_bounds" else st.integers(-extent - 3, extent + 3)
    count = data.draw(st.integers(1, 6))
    index = np.array(data.draw(st.lists(places, min_size=count, max_size=count)), I32)
    index = index.reshape(data.draw(st.sampled_from([(count,), (count, 1), (1, count)])))
    if mode == "promise_in_bounds":
        check(lambda x, i: jnp.moveaxis(x, axis, 0).at[i].get(mode=mode), values(*shape), index)
    else:
        check(lambda x, i: jnp.take(x, i, axis=axis, mode=mode), values(*shape), index)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("extent", [3, 127, 128, 129, 255, 256, 257, 300])
def test_places_of_a_narrow_type(dtype, extent):
    places = np.array([0, 1, 126, 127, -128, -1, -2, extent - 1], np.int64).astype(dtype)
    numbers = lax.GatherDimensionNumbers(offset_dims=(), collapsed_slice_dims=(0,), start_index_map=(0,))

    def fn(x, i):
        return lax.gather(x, i[:, None], numbers, (1,), mode="fill")

    check(fn, values(extent, seed=extent), places)
    check(lambda x, i: lax.dynamic_slice(x, (i[3],), (2,)), values(extent), places)


def test_gathering_of_other_forms():
    x, i, j = values(4, 5, 6), np.array([3, 9, -1, 0], I32), np.array([[0], [-7], [4]], I32)
    check(lambda x, i, j: x[i, j], x, i, j)
    check(lambda x, i: x[:, i, 2:4], x, i)
    check(lambda x, i: x[..., i], x, i)
    check(lambda x, i: x.at[i].get(mode="fill", fill_value=7.0), x, i)
    check(lambda x, i: jnp.take_along_axis(x, i, axis=2), x, np.arange(40, dtype=I32).reshape(4, 5, 2) % 9 - 2)
    check(lambda x, i: x[i], np.arange(7, dtype=I32), i)
    check(lambda x, i: jnp.take(x, i), np.array([True, False, True]), i)
    numbers = lax.GatherDimensionNumbers(offset_dims=(0, 1), collapsed_slice_dims=(2,), start_index_map=(1, 2))
    starts = np.array([[0, 5], [3, 0], [-2, 9]], I32)
    for mode in ("clip", "fill"):
        check(lambda x, s, mode=mode: lax.gather(x, s, numbers, (4, 3, 1), mode=mode), x, starts)


def test_taking_with_unsigned_and_constant_indices():
    check(lambda x: x[jnp.array([0, 3, -1])], values(4, 5))
    check(lambda x: jnp.take(x, jnp.array([9]), axis=0), values(4, 5))
    check(lambda i: jnp.asarray(ints(9, 3))[i], np.array([4, 12, -1], I32))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_slices_at_run_time(data):
    shape = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    sizes = [data.draw(st.integers(1, n)) for n in shape]
    starts = [I32(data.draw(st.sampled_from([-(2**31), -n - 1, -1, 0, 1, n, 2**31 - 1]))) for n in shape]
    check(lambda x, *s: lax.dynamic_slice(x, s, sizes), values(*shape), *starts)
    check(lambda x, u, *s: lax.dynamic_update_slice(x, u * 2, s), values(*shape), values(*sizes, seed=1), *starts)


def test_nothing_is_put_together_from_empty_parts():
    check(lambda x, y: jnp.concatenate([x, y, x], 1), values(3, 2), values(3, 0))


def test_iota():
    check(lambda: lax.broadcasted_iota(I32, (3, 5), 1))
    check(lambda x: x + jnp.arange(4, dtype=jnp.float32)[:, None], values(4, 3))


def test_choices_and_bindings_have_a_text():
    work = check(lambda x, u, i: lax.dynamic_update_slice(x, u, (i, 0)), values(5, 4), values(2, 4), I32(1))
    text = print_ir(work.func)
    assert "let{" in text and "where{" in text
    assert print_ir(parse_ir(text)) == text
    assert digest(parse_ir(re.sub(r"\bat(\d)", r"place\1", text))) == digest(work.func)
