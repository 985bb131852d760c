"""What the benchmark and its child processes say to each other: one JSON object per line.

A child answers every request with one reply; it ends when its input does.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

JIT = "jit"
"""The side that everything is compared with: `jax.jit`."""

# Errors may be infinite or no number, which JSON has no numbers for.
_STRICT = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class Prepare(BaseModel):
    """Make a side ready to be timed, and compare its results with the reference.

    Attributes:
        side: Its name.
        effort: For `tilewright.compile`; None for the sides that are not ours.
        budget: The same.
        database: The same.
        accuracy_inputs: On how many inputs to compare.
    """

    model_config = _STRICT
    kind: Literal["prepare"] = "prepare"
    side: str
    effort: int | None = None
    budget: str | None = None
    database: str | None = None
    accuracy_inputs: int = 0


class Export(BaseModel):
    """Write the row's arguments, weights and references for other processes into a folder."""

    model_config = _STRICT
    kind: Literal["export"] = "export"
    folder: str
    accuracy_inputs: int


class Describe(BaseModel):
    """Count the row's arithmetic and traffic."""

    model_config = _STRICT
    kind: Literal["describe"] = "describe"


class Time(BaseModel):
    """Time one sample of a side; equal rounds mean equal arguments."""

    model_config = _STRICT
    kind: Literal["time"] = "time"
    side: str
    round: int


class Error(BaseModel):
    """Largest errors of one output on one input.

    Attributes:
        candidate: Of the side.
        baseline: Of `jax.jit`.
        scale: Largest magnitude of the float64 result.
        epsilon: Spacing of the element type at 1; 0 where equality is demanded.
        limit: What the accuracy contract allows.
    """

    model_config = _STRICT
    candidate: float
    baseline: float
    scale: float
    epsilon: float
    limit: float

    @property
    def holds(self) -> bool:
        """Whether the contract holds; an error that is no number breaks it."""
        return self.candidate <= self.limit


class Prepared(BaseModel):
    """A side is ready.

    Attributes:
        version: Of the library.
        compile_s: Seconds until its first result, tuning included.
        errors: Per input and output.
        ran: How it runs, for ours `native` or `xla`; empty where there is nothing to say.
        explanation: What ours says about itself.
    """

    model_config = _STRICT
    kind: Literal["prepared"] = "prepared"
    version: str
    compile_s: float
    errors: list[Error] = []
    ran: str = ""
    explanation: str = ""


class Missing(BaseModel):
    """A side can't take part.

    Attributes:
        status: Its package is not installed, it has no form of this workload, or it failed.
        reason: In words, with the remedy if there is one.
    """

    model_config = _STRICT
    kind: Literal["missing"] = "missing"
    status: Literal["not installed", "not expressed", "failed"]
    reason: str


class Timed(BaseModel):
    """One sample.

    Attributes:
        milliseconds: Per call.
    """

    model_config = _STRICT
    kind: Literal["timed"] = "timed"
    milliseconds: float = Field(gt=0)


class Description(BaseModel):
    """What one call has to do at least.

    Attributes:
        flops: Arithmetic operations.
        bytes: Arguments, weights and results, each once.
        dtype: Element type of the first argument.
    """

    model_config = _STRICT
    kind: Literal["description"] = "description"
    flops: int = Field(ge=0)
    bytes: int = Field(ge=0)
    dtype: str


class Done(BaseModel):
    """Nothing to report."""

    model_config = _STRICT
    kind: Literal["done"] = "done"


AnyRequest = Prepare | Export | Describe | Time
Reply = Prepared | Missing | Timed | Description | Done
REQUEST: TypeAdapter[AnyRequest] = TypeAdapter(Annotated[AnyRequest, Field(discriminator="kind")])
REPLY: TypeAdapter[Reply] = TypeAdapter(Annotated[Reply, Field(discriminator="kind")])
