"""From a scheduled program to a JAX function of Pallas kernels.

Loops of kind ``grid`` become the grid of a `pallas_call`; what one cell touches of each buffer becomes its `BlockSpec`;
Blocks become operations on tiles. Nothing is decided here: what is tiled, and how large tiles are, is the schedule's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import export
from jax.experimental import pallas as pl

from ...ir import dtypes
from ...ir.affine import constant
from ...ir.loop import Buffer, For, LoopFunc, buffers
from .box import evaluate
from .cell import Cell, loop_value
from .elementwise import Array
from .errors import PallasError
from .nest import Kernel, kernels
from .prepare import prepare
from .races import check_exchange, check_revisits, independent
from .routes import TPU, Route
from .storage import Memory, Storage
from .windows import Ends, Window, arrange_shape, dims_of, private_ends, window


def emit(func: LoopFunc, route: Route = TPU, *, interpret: bool = False) -> Callable[..., tuple[Any, ...]]:
    """Make Pallas kernels of a scheduled program.

    Args:
        func: the program. Its loops of kind ``grid`` become grids; without any, each buffer is one block.
        route: the compiler that the kernels are meant for: `TPU` (Mosaic) or `TRITON`.
        interpret: whether to run them as ordinary JAX operations, on any device.

    Returns:
        A JAX function of arrays for the program's inputs and constants, in their order; each may have any shape with
        the elements of its buffer in row-major order. It returns the outputs, in the shapes of their buffers, and can
        be compiled with `jax.jit`, exported and called inside other JAX functions.

    Raises:
        PallasError: the program can't be emitted; says what was expected and what was found.
        VerifyError: the program is not valid.
    """
    prepared = prepare(func, powers_of_two=route.powers_of_two)
    launches = [_Launch(kernel, prepared, route, interpret) for kernel in kernels(prepared)]
    name = re.sub(r"\W", "_", func.name)

    def run(*arrays: Any) -> tuple[Any, ...]:
        memory = _inputs(func, arrays)
        for launch in launches:
            memory.update(launch(memory, name))
        return tuple(memory[b.name] if b.name in memory else _empty(b) for b in func.outputs)

    run.__name__ = run.__qualname__ = name
    # What can't be emitted is refused now, not by the first call.
    if interpret:
        jax.eval_shape(run, *_types(func))
    else:
        lowered(run, func, route)
    return run


def lowered(run: Callable[..., Any], func: LoopFunc, route: Route) -> export.Exported:
    """Lower emitted kernels for the platform of their route, which needs no such device.

    Args:
        run: what `emit` made of ``func``, not to be interpreted.
        func: the program.
        route: the same route.

    Returns:
        The module with the kernels inside.

    Raises:
        PallasError: the program can't be emitted, or Pallas has no code for one of its operations.
    """
    checks = [export.DisabledSafetyCheck.custom_call(name) for name in route.calls]
    try:
        return export.export(jax.jit(run), platforms=[route.platform], disabled_checks=checks)(*_types(func))
    except PallasError:
        raise
    except Exception as error:  # each of Pallas' compilers refuses in its own ways
        reason = str(error).partition("\n")[0]
        raise PallasError(
            f"expected operations that Pallas compiles for {route.name}, found: {reason}; try another schedule or route"
        ) from error


def _types(func: LoopFunc) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(b.shape, dtypes.to_numpy(b.dtype)) for b in func.inputs]


def _inputs(func: LoopFunc, arrays: tuple[Any, ...]) -> dict[str, Array]:
    if len(arrays) != len(func.inputs):
        raise PallasError(f"expected {len(func.inputs)} arrays, found {len(arrays)}")
    memory: dict[str, Array] = {}
    for buffer, given in zip(func.inputs, arrays, strict=True):
        array = jnp.asarray(given)
        wanted = f"{buffer.dtype}{list(buffer.shape)}"
        size = 1
        for extent in buffer.shape:
            size *= extent
        if array.dtype != dtypes.to_numpy(buffer.dtype) or array.size != size:
            raise PallasError(f"expected {wanted} for {buffer.name}, found {array.dtype}{list(array.shape)}")
        memory[buffer.name] = array.reshape(buffer.shape)
    return memory


def _empty(buffer: Buffer) -> Array:
    return jnp.zeros(buffer.shape, dtypes.to_numpy(buffer.dtype))


class _Launch:
    """One `pallas_call`."""

    def __init__(self, kernel: Kernel, func: LoopFunc, route: Route, interpret: bool) -> None:
        found = buffers(func)
        self._kernel = kernel
        self._route = route
        self._interpret = interpret
        self._inputs = [found[name] for name in kernel.inputs]
        self._outputs = [found[name] for name in kernel.outputs]
        pad = not route.masked_memory
        self._windows = {b.name: window(kernel, b, pad_after=pad) for b in (*self._inputs, *self._outputs)}
        self._kept = {b.name: dims_of(b, kernel.root) for b in kernel.kept}
        self._scratch = [route.scratch(b, arrange_shape(b.shape, self._kept[b.name])) for b in kernel.kept]
        written = [self._windows[b.name] for b in self._outputs]
        self._parameters = route.parameters(independent(kernel, func, written, route.masked_memory))
        if route.threads:
            check_exchange(kernel)
        else:
            check_revisits(kernel, self._outputs, self._windows)
        if not interpret:
            for buffer in (*self._inputs, *self._outputs):
                shown = self._windows[buffer.name]
                route.check_block(buffer, shown.block, shown.array(buffer.shape))

    def __call__(self, memory: Mapping[str, Array], name: str) -> dict[str, Array]:
        call = pl.pallas_call(
            self._body,
            grid=self._kernel.trips,
            in_specs=[self._spec(b) for b in self._inputs],
            out_specs=[self._spec(b) for b in self._outputs],
            out_shape=[self._type(b) for b in self._outputs],
            scratch_shapes=self._scratch,
            compiler_params=self._parameters,
            interpret=self._interpret,
            name=name,
        )
        results = call(*(self._padded(b, memory[b.name]) for b in self._inputs))
        return {b.name: self._cut(b, array) for b, array in zip(self._outputs, results, strict=True)}

    def _body(self, *refs: Any) -> None:
        outside = [*self._inputs, *self._outputs]
        memory: dict[str, Storage] = {}
        for buffer, ref in zip((*outside, *self._kernel.kept), refs, strict=True):
            shown = self._windows.get(buffer.name)
            dims = shown.dims if shown is not None else self._kept[buffer.name]
            memory[buffer.name] = Memory(ref, buffer, dims, shown, self._ends(buffer), self._route)
        Cell(self._kernel, memory, self._route).run()

    def _ends(self, buffer: Buffer) -> Ends:
        """What may be written although the program does not: behind the end of an array nothing is kept."""
        if buffer.name not in self._windows:
            return private_ends(self._kernel.root, buffer)
        if self._route.masked_memory:
            return {}
        return {axis: constant(n - 1) for axis, n in enumerate(buffer.shape)}

    def _spec(self, buffer: Buffer) -> pl.BlockSpec:
        shown = self._windows[buffer.name]
        return pl.BlockSpec(shown.block, partial(_block_index, shown, self._kernel.grid))

    def _type(self, buffer: Buffer) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self._windows[buffer.name].array(buffer.shape), dtypes.to_numpy(buffer.dtype))

    def _padded(self, buffer: Buffer, array: Array) -> Array:
        shown = self._windows[buffer.name]
        array = array.reshape(arrange_shape(buffer.shape, shown.dims))
        return jnp.pad(array, shown.padding) if any(map(any, shown.padding)) else array

    def _cut(self, buffer: Buffer, array: Array) -> Array:
        shape = arrange_shape(buffer.shape, self._windows[buffer.name].dims)
        if array.shape != shape:
            array = array[tuple(slice(n) for n in shape)]
        return array.reshape(buffer.shape)


def _block_index(shown: Window, grid: tuple[For, ...], *numbers: Any) -> tuple[Any, ...]:
    """Which block a cell sees, from its number along each dimension of the grid."""
    loops = {loop.name: loop_value(loop, n) for loop, n in zip(grid, numbers, strict=True)}
    return tuple(0 if axis is None else evaluate(shown.axes[axis].index, loops) for axis in shown.dims)
