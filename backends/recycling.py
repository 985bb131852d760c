"""Large results of compiled functions in the memory of earlier ones that nobody refers to any more.

XLA allocates results anew on each call. Large ones come as fresh pages from the system, which clears them first; that
can take longer than the computation.

**What the caller gets** is a view: an array of its own on the memory of the result, which stays private. JAX holds the
view's source as long as anything refers to that memory: the array, another array that shares its buffer (a shard,
`jax.device_put`), a NumPy or DLPack view, a computation that was started and still reads it. Only when the source is
gone is the private result donated to a later call, which then writes into its memory. And were it donated too early,
XLA would notice the source's reference to it, and copy.

Donating what the caller has would not do: it deletes every other array that shares the buffer, and Python sees only
how many refer to the object.

**What it costs**: some tens of microseconds a call, and memory: `MOST_BYTES` at most in a process. XLA copies a view
that is donated, so the first donation that is noticed ends it for that function. Nobody waits for results because of
it: where they are not there when the call returns, they are not recycled.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import numpy as np
from jax._src.config import trace_context  # what `jax.jit` looks at beside the arguments; public nowhere
from jax._src.core import trace_state_clean  # the same
from jax._src.lib import _jax  # pyright: ignore[reportPrivateImportUsage]  # below `jax.device_put`, and JAX's garbage
from jax.extend.core import jaxpr_as_fun

from ..ir.graph import Graph
from .xla import PLAN, emit

#: Smaller results mostly come from memory that glibc keeps, and what recycling costs would count. Above, glibc gives
#: memory back as soon as a few results go together, and from twice this size on always.
LEAST_BYTES = 16 << 20
#: How much the results that are kept may take together; beyond it the oldest go.
MOST_BYTES = 256 << 20
#: How many results of a function are kept: one that the caller still has, one that JAX is about to release, one to use.
_MOST_KEPT = 3
#: Element types of which NumPy takes DLPack views.
_VIEWED = frozenset("float32 float64 float16 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool".split())


def worth_recycling(graph: Graph) -> tuple[int, ...]:
    """Numbers of the results of a program that are worth recycling; none where XLA computes anything but views.

    Args:
        graph: with native calls.
    """
    alone = [device.platform for device in jax.devices()] == ["cpu"]
    if not alone or any(op.opcode not in (PLAN, "reshape") for op in graph.ops):
        return ()
    return tuple(number for number, value in enumerate(graph.outputs) if _large(graph, value))


def _large(graph: Graph, value: int) -> bool:
    type_ = graph.types[value]
    own = graph.producer(value) is not None and graph.outputs.count(value) == 1
    return own and type_.dtype in _VIEWED and not type_.weak_type and LEAST_BYTES <= type_.nbytes <= MOST_BYTES


class Recycling:
    """The programs of one function that recycle their large results."""

    def __init__(self) -> None:
        self._programs: dict[Hashable, Recycler] = {}

    def add(self, args: Any, kwargs: Any, program: Recycler) -> None:
        """Use a program for calls like this one."""
        leaves, structure = jax.tree.flatten((args, kwargs))
        self._programs[_signature(structure, leaves)] = program

    def find(self, args: Any, kwargs: Any) -> Recycler | None:
        """The program for a call, if it is one that can recycle."""
        if not _ordinary():
            return None
        leaves, structure = jax.tree.flatten((args, kwargs))
        try:
            return self._programs.get(_signature(structure, leaves))
        except TypeError:  # an argument is no array; the call itself will say so
            return None


def _ordinary() -> bool:
    """Whether a call made here and now is neither traced nor one that JAX looks into."""
    config: Any = jax.config
    inspected = config.jax_disable_jit or config.jax_debug_nans or config.jax_debug_infs
    return trace_state_clean() and not inspected


def _signature(structure: Any, leaves: Sequence[Any]) -> Hashable:
    """What decides which program a call runs."""
    return (structure, trace_context(), *map(jax.typeof, leaves))


class Recycler:
    """Calls a program, its large results in recycled memory where there is some.

    Args:
        graph: the program, for which `worth_recycling` has found something.
        inputs: for each of its inputs the number of the argument it is.
    """

    def __init__(self, graph: Graph, inputs: Sequence[int]) -> None:
        program = jaxpr_as_fun(emit(graph))
        self._run = jax.jit(lambda _, *values: program(*values), donate_argnums=0, keep_unused=True)
        self._inputs = tuple(inputs)
        self._numbers = worth_recycling(graph)
        self._structure: Any = None
        self.ended = False

    def __call__(self, args: Any, kwargs: Any, usual: Callable[..., Any]) -> Any:
        """The function's results.

        Args:
            args: of a call for which this is the program.
            kwargs: the same by name.
            usual: the function without recycling.
        """
        memory = _shelf.take(self)
        if memory is None:
            arrays, self._structure = jax.tree.flatten(usual(*args, **kwargs))
        else:
            leaves = jax.tree.leaves((args, kwargs))
            arrays = self._run(memory, *(leaves[number] for number in self._inputs))
        return jax.tree.unflatten(self._structure, self._with_views(arrays))

    def _with_views(self, arrays: list[Any]) -> list[Any]:
        """The results as the caller gets them: views of those that are kept."""
        results = tuple(arrays[number] for number in self._numbers)
        if self.ended or not all(array.is_ready() for array in results):
            return arrays
        kept = _Kept(self, results)
        for number, view in zip(self._numbers, kept.views, strict=True):
            arrays[number] = view
        if kept.free:  # JAX has copied them
            self.ended = True
        else:
            _shelf.put(kept)
        return arrays


class _Kept:
    """Results that are kept, and views of them.

    Args:
        owner: whose results they are.
        results: arrays that nobody else knows.
    """

    def __init__(self, owner: Recycler, results: tuple[Any, ...]) -> None:
        sources = [np.from_dlpack(array) for array in results]
        self.owner = owner
        self.results = results
        self.bytes = sum(array.nbytes for array in results)
        self.views = tuple(map(_view, results, sources))
        self._sources = [weakref.ref(source) for source in sources]

    def let_go(self) -> bool:
        """Leave the views to the caller alone; whether the caller has donated one so far."""
        views, self.views = self.views, ()
        return any(view.is_deleted() for view in views)

    @property
    def free(self) -> bool:
        """Whether nothing refers to the memory but `results`."""
        return all(source() is None for source in self._sources)


def _view(array: Any, source: np.ndarray) -> Any:
    """An array like another one on its memory; what `jax.device_put` does, without its search for what to do."""
    return _jax.batched_device_put(array.aval, array.sharding, [source], list(array.devices()), array.committed)


class _Shelf:
    """What all functions of the process keep, in the order in which it came.

    When an array goes, or garbage is collected, anybody's code may run and call a function that recycles. So nothing
    goes under the lock, and what is done under it holds also where the same thread comes again in between.
    """

    def __init__(self) -> None:
        self._kept: list[_Kept] = []
        self._lock = threading.RLock()

    def take(self, owner: Recycler) -> tuple[jax.Array, ...] | None:
        """Results of a function that nobody refers to any more, if there are some."""
        own = self._of(owner)
        donated = [kept.let_go() for kept in own]
        owner.ended |= any(donated)
        if not any(kept.free for kept in own):
            _jax.collect_garbage()  # all of the process's: it may have much to give back, so not on every call
        for kept in reversed(own):  # of the last one most is in the caches
            if (kept.free or owner.ended) and self._remove(kept) and not owner.ended:
                return kept.results
        return None

    def put(self, new: _Kept) -> None:
        """Keep results; the function's own first ones go, and the oldest ones, where that is too many or too much."""
        own = self._of(new.owner)
        with self._lock:
            self._kept.append(new)
            known = list(self._kept)
        excess = sum(kept.bytes for kept in known) - MOST_BYTES
        for kept in known:
            if excess > 0 or (len(own) >= _MOST_KEPT and kept is own[0]):
                self._remove(kept)
                excess -= kept.bytes

    def _of(self, owner: Recycler) -> list[_Kept]:
        with self._lock:
            return [kept for kept in self._kept if kept.owner is owner]

    def _remove(self, kept: _Kept) -> bool:
        """Whether it was there until now."""
        with self._lock:
            try:
                self._kept.remove(kept)
            except ValueError:
                return False
            return True

    @property
    def bytes(self) -> int:
        """How much is kept."""
        with self._lock:
            return sum(kept.bytes for kept in self._kept)


_shelf = _Shelf()
