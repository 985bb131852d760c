"""How much searching an effort level allows."""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.measure import TimingProtocol


@dataclass(frozen=True, slots=True)
class Effort:
    """What a level allows for one model.

    Args:
        seconds: wall clock.
        batch: candidates per batch of a workload.
        repeats: samples of a candidate that is close to the best.
        timing_s: seconds of timing per candidate.
    """

    seconds: float
    batch: int
    repeats: int
    timing_s: float

    def timing(self, threads: int) -> TimingProtocol:
        """How candidates are timed at this level."""
        quick = min(5, self.repeats)
        return TimingProtocol(threads, quick_repeats=quick, repeats=self.repeats, budget_s=self.timing_s, timeout_s=5.0)


EFFORTS = (
    Effort(seconds=0.0, batch=8, repeats=9, timing_s=0.03),
    Effort(seconds=30.0, batch=8, repeats=9, timing_s=0.03),
    Effort(seconds=180.0, batch=12, repeats=15, timing_s=0.06),
    Effort(seconds=1200.0, batch=16, repeats=25, timing_s=0.12),
)
"""By level. Level 0 measures nothing: the database and the roofline decide."""
