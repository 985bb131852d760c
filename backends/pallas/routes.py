"""Routes: which of Pallas' compilers a kernel is meant for, and what differs between them.

The emitter asks its route how memory is read and written, whether cells of the grid run one after another, and which
shapes of tiles there are. So a further route (Mosaic GPU) is a further class here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as pltriton

from ...ir import dtypes
from ...ir.loop import Buffer
from .elementwise import Array
from .errors import PallasError

_LANES = 128
_SUBLANES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Route(ABC):
    """One of Pallas' compilers.

    Args:
        name: for people.
        platform: what `jax.export` calls the platform.
        calls: names of custom calls of the compiler that `jax.export` does not know to be stable.
        powers_of_two: whether the extents of tiles have to be powers of two.
        masked_memory: whether loads and stores take masks, so that places outside of an array may be named.
        threads: whether many threads share the work on one cell, so that none sees what another stores; else cells
            see what those before them stored.
        least_product: smallest extent of a tile that the matrix unit multiplies.
        flat_products: whether it multiplies matrices only, not batches of them.
    """

    name: str
    platform: str
    calls: tuple[str, ...]
    powers_of_two: bool
    masked_memory: bool
    threads: bool
    least_product: int
    flat_products: bool

    @abstractmethod
    def load(self, ref: Any, index: Any, mask: Array | None) -> Array:
        """A tile of a buffer; what the mask excludes is undefined."""

    @abstractmethod
    def store(self, ref: Any, index: Any, tile: Array, mask: Array | None) -> None:
        """Write a tile where the mask allows it."""

    @abstractmethod
    def scratch(self, buffer: Buffer, shape: tuple[int, ...]) -> Any:
        """Memory that is kept from one cell of the grid to the next.

        Raises:
            PallasError: cells share no memory.
        """

    @abstractmethod
    def check_block(self, buffer: Buffer, block: tuple[int, ...], array: tuple[int, ...]) -> None:
        """Refuse blocks that the compiler can't move.

        Raises:
            PallasError: saying which sizes it can.
        """

    @abstractmethod
    def parameters(self, independent: Sequence[bool]) -> Any:
        """Compiler parameters.

        Args:
            independent: for each dimension of the grid, whether its cells may run in any order.

        Raises:
            PallasError: cells have to run one after another and can't.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Tpu(Route):
    """Mosaic, for TPUs: cells of the grid run in order, blocks are copied to and from vector memory."""

    name: str = "tpu"
    platform: str = "tpu"
    calls: tuple[str, ...] = ()
    powers_of_two: bool = False
    masked_memory: bool = False
    threads: bool = False
    least_product: int = 1
    flat_products: bool = False

    def load(self, ref: Any, index: Any, mask: Array | None) -> Array:
        """A tile of a block; parts outside of the array hold whatever lies there."""
        return ref[index]

    def store(self, ref: Any, index: Any, tile: Array, mask: Array | None) -> None:
        """Write a tile, old elements kept where the mask excludes new ones."""
        ref[index] = tile if mask is None else jnp.where(mask, tile, ref[index])

    def scratch(self, buffer: Buffer, shape: tuple[int, ...]) -> Any:
        """Vector memory."""
        return pltpu.VMEM(shape, dtypes.to_numpy(buffer.dtype))

    def check_block(self, buffer: Buffer, block: tuple[int, ...], array: tuple[int, ...]) -> None:
        """The last two extents of a block are multiples of 8 and 128, or the whole axis."""
        for axis, unit in ((-2, _SUBLANES), (-1, _LANES)):
            if block[axis] % unit and block[axis] != array[axis]:
                raise PallasError(
                    f"expected tiles of {buffer.name} whose last two axes are multiples of {_SUBLANES} and {_LANES}, "
                    f"or whole, found a block {block} of an array {array}; choose other tile sizes"
                )

    def parameters(self, independent: Sequence[bool]) -> Any:
        """Which dimensions may be shared among cores."""
        return pltpu.CompilerParams(dimension_semantics=tuple("parallel" if i else "arbitrary" for i in independent))


@dataclass(frozen=True, slots=True, kw_only=True)
class Triton(Route):
    """Triton, for CUDA: cells run in any order and share nothing, and memory is read and written with masks.

    Args:
        num_warps: warps of 32 threads that compute one cell.
        num_stages: how many tiles of a serial loop are in flight at once.
    """

    num_warps: int = 4
    num_stages: int = 2
    name: str = "triton"
    platform: str = "cuda"
    calls: tuple[str, ...] = ("__gpu$xla.gpu.triton",)
    powers_of_two: bool = True
    masked_memory: bool = True
    threads: bool = True
    least_product: int = 16
    flat_products: bool = True

    def load(self, ref: Any, index: Any, mask: Array | None) -> Array:
        """A tile of an array, zero where the mask excludes it."""
        shown = ref.at[_places(index, ref.shape)]
        if mask is None:
            return pltriton.load(shown)
        return pltriton.load(shown, mask=mask, other=jnp.zeros((), ref.dtype))

    def store(self, ref: Any, index: Any, tile: Array, mask: Array | None) -> None:
        """Write a tile with a mask."""
        pltriton.store(ref.at[index], tile, mask=mask)

    def scratch(self, buffer: Buffer, shape: tuple[int, ...]) -> Any:
        """Refused: cells run at the same time."""
        raise PallasError(
            f"expected no value kept from one cell of the grid to the next, found {buffer.name}; "
            "leave the loop that accumulates it serial"
        )

    def check_block(self, buffer: Buffer, block: tuple[int, ...], array: tuple[int, ...]) -> None:
        """Blocks are only addresses: any will do."""

    def parameters(self, independent: Sequence[bool]) -> Any:
        """Warps and stages."""
        if not all(independent):
            raise PallasError("expected cells of the grid that are surely independent, found some that may not be")
        return pltriton.CompilerParams(num_warps=self.num_warps, num_stages=self.num_stages)


def _places(index: Any, shape: tuple[int, ...]) -> Any:
    """The same index with arrays for slices if one has a step: the interpreter of masked loads knows no steps."""
    if index is ... or all(isinstance(part, slice) or part.stride == 1 for part in index):
        return index
    places: list[Array] = []
    for axis, (part, size) in enumerate(zip(index, shape, strict=True)):
        start, count, step = (0, size, 1) if isinstance(part, slice) else (part.start, part.size, part.stride)
        extents = tuple(count if n == axis else 1 for n in range(len(shape)))
        places.append(start + step * lax.broadcasted_iota(jnp.int32, extents, axis))
    return tuple(places)


TPU = Tpu()
TRITON = Triton()
