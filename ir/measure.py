"""What is said about measuring: the vocabulary shared by the search, the measuring backend and the database.

Pure data. The search asks for measurements with `MeasureRequest`s, a runner answers with `MeasureResult`s, and the
database keeps them under a `TaskKey`; none of the three knows the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Literal, Protocol, get_args

import numpy as np

Status = Literal[
    "ok",
    "rejected",  # a schedule step refused
    "compile_error",  # no code was generated, or it could not be loaded
    "timeout",  # ran longer than allowed
    "crash",  # died: illegal instruction, access outside its buffers, killed
    "oom",  # needs more memory than the worker may have
    "wrong_result",  # an output element differs from the reference by more than the tolerance
    "non_finite",  # an output element is NaN or infinite where the reference is finite
    "modified_input",  # stored to an input or constant
]
STATUSES: tuple[Status, ...] = get_args(Status)

# What must never be chosen again for the same key; the other failures may have been the machine's fault.
DISQUALIFYING: tuple[Status, ...] = ("crash", "wrong_result", "non_finite", "modified_input")

AllocatorMode = Literal["stock", "keep"]
CacheMode = Literal["warm", "rotate"]


@dataclass(frozen=True, slots=True)
class TaskKey:
    """What a measurement holds for: a record is found again only under the same key.

    Args:
        workload_digest: digest of the unscheduled program's canonical text.
        workload_text: that text.
        target: `Target.fingerprint` of the machine.
        backend: name of the backend that emitted the kernel.
        schedule_version: version of what schedule primitives mean.
        threads: number of threads the kernel ran on.
        allocator: whether the process keeps its pages (``keep``) or runs on the allocator as it comes (``stock``).
    """

    workload_digest: str
    workload_text: str
    target: str
    backend: str
    schedule_version: int
    threads: int
    allocator: AllocatorMode = "stock"


@dataclass(frozen=True, slots=True)
class TimingProtocol:
    """How kernels are timed.

    All candidates of one request are run in turn (first every one ``quick_repeats`` times, then those whose median is
    within ``close_ratio`` of the best until they have ``repeats`` samples), so that drifts of the machine
    hit all alike.

    Args:
        threads: how many pinned threads share the kernel's parallel range.
        cache: ``warm``: one untimed execution goes before each sample, on the same buffers; ``rotate``: each sample
            uses the next of several sets of buffers, together larger than the last-level cache.
        quick_repeats: samples of every candidate.
        repeats: samples of the close ones.
        close_ratio: what counts as close.
        sample_s: least duration of one sample in seconds; shorter kernels are executed several times per sample.
        budget_s: timing stops after about this many seconds per candidate, with at least one sample each.
        timeout_s: seconds that the untimed executions which check one candidate may take together.
    """

    threads: int = 1
    cache: CacheMode = "warm"
    quick_repeats: int = 5
    repeats: int = 25
    close_ratio: float = 1.15
    sample_s: float = 20e-6
    budget_s: float = 0.25
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        """Refuse what can't be carried out."""
        if self.threads < 1:
            raise ValueError(f"expected at least one thread, found {self.threads}")
        if self.cache not in get_args(CacheMode):
            raise ValueError(f"expected a cache mode of {get_args(CacheMode)}, found {self.cache!r}")
        if not 1 <= self.quick_repeats <= self.repeats:
            raise ValueError(f"expected 1 <= quick_repeats <= repeats, found {self.quick_repeats} and {self.repeats}")
        if self.close_ratio < 1:
            raise ValueError(f"expected close_ratio >= 1, found {self.close_ratio}")
        if min(self.sample_s, self.budget_s, self.timeout_s) <= 0:
            raise ValueError("expected positive sample_s, budget_s and timeout_s")

    @property
    def text(self) -> str:
        """Short name under which the database keeps it: latencies taken in different ways don't compare."""
        return f"race-1 {self.cache} {self.quick_repeats}..{self.repeats} min {self.sample_s * 1e6:g}us"


class KernelCode(Protocol):
    """The part of a compiled kernel that is needed to run it."""

    @property
    def symbol(self) -> str:
        """Name of the exported function (its arguments: data pointers, start and end of a range, scratch)."""
        ...

    @property
    def object_code(self) -> bytes:
        """Relocatable object file."""
        ...

    @property
    def extent(self) -> int:
        """Trip count of the parallel range."""
        ...

    @property
    def scratch_bytes(self) -> int:
        """Private memory per thread."""
        ...

    @property
    def in_place(self) -> tuple[int, ...]:
        """Positions of inputs that may begin where the one output begins."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class MeasureData:
    """Arguments of a workload and what must come out.

    Args:
        inputs: inputs and constants in the order of the kernel's parameters; dense row-major arrays.
        outputs: the reference results, in order.
        tolerances: per output the largest absolute error allowed; integers and booleans must be equal anyway.
        constants: positions of the inputs that are constants (they come 64-byte aligned, the others 16-byte aligned).
    """

    inputs: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, ...]
    tolerances: tuple[float, ...]
    constants: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        """Refuse data that does not fit together."""
        if len(self.tolerances) != len(self.outputs):
            raise ValueError(f"expected one tolerance per output, found {len(self.tolerances)} for {len(self.outputs)}")
        if not all(tolerance >= 0 for tolerance in self.tolerances):
            raise ValueError(f"expected tolerances >= 0, found {self.tolerances}")
        if not all(0 <= position < len(self.inputs) for position in self.constants):
            raise ValueError(f"expected constants to be positions of inputs, found {sorted(self.constants)}")


@dataclass(frozen=True, slots=True, eq=False)
class MeasureRequest:
    """One candidate to check and time.

    Args:
        kernel: its code.
        chunks: into how many ranges the parallel range is cut, dealt to the threads in turn; 0: one per thread.
        constants: by position, constants that this candidate wants laid out differently from `MeasureData.inputs`.
    """

    kernel: KernelCode
    chunks: int = 0
    constants: Mapping[int, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MeasureResult:
    """What became of a candidate.

    Args:
        status: ``ok``, or how it failed.
        latencies_s: raw samples in seconds per execution. Sample *k* of two candidates of one request were taken right
            after each other, so their ratios are paired; candidates that are clearly slower have fewer samples.
        error: what went wrong, for a reader.
        max_errors: per output the largest absolute error against the reference, where it was compared.
    """

    status: Status
    latencies_s: tuple[float, ...] = ()
    error: str = ""
    max_errors: tuple[float, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the candidate is correct and was timed."""
        return self.status == "ok"

    @property
    def median_s(self) -> float:
        """Median latency in seconds; infinite for a failure."""
        return median(self.latencies_s) if self.latencies_s else float("inf")
