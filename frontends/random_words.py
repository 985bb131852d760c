"""Random words as elementwise work: what `jax.random` draws from Threefry keys, as a function of each element's place.

JAX draws an array of words by a primitive on a key, which hides how. The words of its default generator are a function
of the key and of the element's number alone, so they can be made where they are used, and never be stored.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.extend.random
import numpy as np
from jax.extend.core import JaxprEqn

from ..ir.graph import GraphBuilder, TensorType

RANDOM_BITS = "random_bits"
THREEFRY = "threefry"
_MOST = 1 << 31
"""Elements that counters of 32 bits are used for."""
_OPENS = frozenset(("slice", "squeeze", "unstack"))
_DRAWS = ["iota_2x32_shape", "threefry2x32", "xor"]
"""How JAX draws words from the two of a key; where it does it otherwise (by an option, or a later JAX), the primitive
stays as it is."""


def is_plain_draw(eqn: JaxprEqn) -> bool:
    """Whether an equation draws 32-bit words from a single Threefry key, by counting elements."""
    if eqn.primitive.name != RANDOM_BITS or set(eqn.params) != {"bit_width", "shape"} or eqn.params["bit_width"] != 32:
        return False
    shape = eqn.params["shape"]
    key: Any = eqn.invars[0].aval
    if key.shape != () or key.dtype != _key_dtype() or not all(isinstance(n, int) for n in shape):
        return False
    option: Any = jax.config
    return bool(shape) and math.prod(shape) < _MOST and _counts_elements(option.jax_threefry_partitionable)


def add_words(builder: GraphBuilder, data: int, shape: Sequence[int]) -> int:
    """Append the words of a draw.

    Args:
        builder: gets the operations.
        data: the key's two words, uint32[2].
        shape: of the draw.

    Returns:
        The value of the words, uint32 of that shape.
    """
    key = [_word(builder, data, place) for place in (0, 1)]
    return builder.add(THREEFRY, [*key, _numbers(builder, tuple(shape))], {}, [TensorType(tuple(shape), "uint32")])[0]


def _word(builder: GraphBuilder, data: int, place: int) -> int:
    cut = {"start_indices": (place,), "limit_indices": (place + 1,), "strides": (1,)}
    part = builder.add("slice", [data], cut, [TensorType((1,), "uint32")])[0]
    return builder.add("squeeze", [part], {"dimensions": (0,)}, [TensorType((), "uint32")])[0]


def _numbers(builder: GraphBuilder, shape: tuple[int, ...]) -> int:
    """The number of each element in row-major order."""
    type_ = TensorType(shape, "uint32")
    total: int | None = None
    for axis, extent in enumerate(shape):
        if extent == 1 and (total is not None or axis < len(shape) - 1):
            continue
        step = math.prod(shape[axis + 1 :])
        params = {"dtype": "uint32", "shape": shape, "dimension": axis}
        part = builder.add("iota", [], params, [type_])[0]
        if step != 1:
            factor = builder.constant(np.array(step, np.uint32), TensorType((), "uint32"))
            part = builder.add("mul", [part, factor], {}, [type_])[0]
        total = part if total is None else builder.add("add", [total, part], {}, [type_])[0]
    assert total is not None
    return total


@functools.cache
def _key_dtype() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32")).dtype


@functools.cache
def _counts_elements(partitionable: bool) -> bool:
    """Whether JAX, with its option of that name as it is, draws element i from counter i."""
    generator = jax.extend.random.threefry_prng_impl
    drawn = jax.make_jaxpr(lambda key: generator.random_bits(key, 32, (3, 2)))(np.zeros(2, np.uint32))
    names = [eqn.primitive.name for eqn in drawn.eqns]
    return names[-len(_DRAWS) :] == _DRAWS and _OPENS.issuperset(names[: -len(_DRAWS)])
