"""What a row of a suite runs: a function with inputs and weights, whichever suite it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from .models import ModelCase, load_model, model_names
from .workloads.base import Workload
from .workloads.draws import draw_name, drawn_workload
from .workloads.kernels import KERNELS

SuiteName = Literal["kernels", "models", "random"]
SUITES: tuple[SuiteName, ...] = get_args(SuiteName)
DRAWS = 100
"""How many rows the random suite has if nothing else is asked for."""


@dataclass(frozen=True, slots=True)
class Case:
    """One row, ready to compile.

    Attributes:
        model: The function, its inputs and weights.
        workload: What the kernel suite knows about it; None for whole models.
    """

    model: ModelCase
    workload: Workload | None = None

    @property
    def calls(self) -> int:
        """How many calls, each on the result of the one before, are timed as one."""
        return 1 if self.workload is None else self.workload.calls


def row_names(suite: SuiteName, seed: int = 0, draws: int = DRAWS) -> tuple[str, ...]:
    """Names of a suite's rows, in order.

    Args:
        suite: The suite.
        seed: Decides the rows of the random suite.
        draws: How many it has.
    """
    match suite:
        case "kernels":
            return tuple(KERNELS)
        case "models":
            return model_names()
        case "random":
            return tuple(draw_name(seed, number) for number in range(draws))


def find_workload(suite: SuiteName, name: str) -> Workload | None:
    """What is known about a row; None for whole models.

    Raises:
        ValueError: The suite has no such row.
    """
    match suite:
        case "kernels":
            if name not in KERNELS:
                raise ValueError(f"expected a row of the kernel suite, found {name!r}: there are {', '.join(KERNELS)}")
            return KERNELS[name]
        case "models":
            return None
        case "random":
            return drawn_workload(name)


def load_case(suite: SuiteName, name: str, seed: int = 0) -> Case:
    """Build a row with seeded weights.

    Raises:
        ValueError: The suite has no such row.
    """
    workload = find_workload(suite, name)
    return Case(load_model(name, seed)) if workload is None else workload_case(workload, seed)


def workload_case(workload: Workload, seed: int = 0) -> Case:
    """The JAX function of a workload with its weights closed over."""
    import jax
    import jax.numpy as jnp

    from .workloads.jax_functions import JAX_FUNCTIONS

    function = JAX_FUNCTIONS[workload.expression]
    weights = {name: jax.device_put(jnp.asarray(value)) for name, value in workload.draw_weights(seed).items()}

    def apply(weights: object, *args: object) -> object:
        return function(weights, *args, **workload.parameters)

    def fn(*args: object) -> object:
        return apply(weights, *args)

    return Case(ModelCase(workload.name, fn, workload.draw_inputs, apply, weights), workload)
