"""What a row of a suite runs: a function with inputs and weights, whichever suite it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from .models import ModelCase, load_model, model_names
from .workloads.base import Workload
from .workloads.kernels import KERNELS

SuiteName = Literal["kernels", "models"]
SUITES: tuple[SuiteName, ...] = get_args(SuiteName)


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


def row_names(suite: SuiteName) -> tuple[str, ...]:
    """Names of a suite's rows, in order."""
    return tuple(KERNELS) if suite == "kernels" else model_names()


def load_case(suite: SuiteName, name: str, seed: int = 0) -> Case:
    """Build a row with seeded weights.

    Raises:
        ValueError: The suite has no such row.
    """
    if suite == "models":
        return Case(load_model(name, seed))
    if name not in KERNELS:
        raise ValueError(f"expected one of {', '.join(KERNELS)}, found {name!r}")
    return workload_case(KERNELS[name], seed)


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
