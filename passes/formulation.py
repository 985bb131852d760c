"""Formulations: other ways to compute what a region computes, equal up to rounding.

A region's own workload is one kernel. A formulation is a sequence of kernels with intermediate values of its own, for
instance a convolution as a transformation of its input, a batched matrix product and a transformation back. Where it
is not valid for all inputs it says which ones it is valid for: a boolean that its first kernels compute. The region's
own kernel then runs where it is false.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..ir.graph import Graph, TensorType
from ..ir.loop import LoopFunc

Value = int | str
"""A value of the region's graph by its number, or one of the formulation by its name."""


@dataclass(frozen=True, slots=True)
class Part:
    """A kernel of a formulation.

    Args:
        func: its workload.
        args: what it is called with, in the order of the workload's parameters.
        guarded: whether it may only run where the formulation is valid.
        graph: what it computes, for a formulation without ``values``.
        graph_args: what the graph's inputs are.
    """

    func: LoopFunc
    args: tuple[Value, ...]
    guarded: bool
    graph: Graph | None = None
    graph_args: tuple[Value, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Formulation:
    """A sequence of kernels that computes a region.

    Args:
        name: says which, the same in every process.
        parts: in order; the last one writes the region's output.
        temporaries: types of the values between them.
        constants: types of the arrays that are computed from the region's constants.
        arrays: computes them, which may take a while.
        valid: the temporary, one boolean, that says whether the guarded parts may run; None: it is valid always.
        values: computes its values with NumPy from the region's arguments in a given element type: the temporaries,
            and ``middle`` from the last ones of them. What kernels are checked against, and how accurate it is. None
            if the parts have graphs that say so.
        rest: what is left of the region once ``middle`` is known.
        middle: the value of ``rest`` that the formulation computes instead.
        evens: whether it gives equal shares to threads where the region's own kernel has few tasks.
    """

    name: str
    parts: tuple[Part, ...]
    temporaries: Mapping[str, TensorType]
    constants: Mapping[str, TensorType]
    arrays: Callable[[], Mapping[str, np.ndarray]]
    valid: str | None
    values: Callable[[Mapping[Value, np.ndarray], type], dict[str, np.ndarray]] | None
    rest: Graph
    middle: int
    evens: bool = False
