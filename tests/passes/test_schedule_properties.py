"""The central property: any random legal trace, replayed and interpreted, equals the unscheduled program and JAX."""

from __future__ import annotations

import pytest
from traces import Traces
from workloads import CASES, Sample, dependent, guarded, run, sample, samples

from tilewright.ir.text import digest, parse_ir, print_ir
from tilewright.ir.verify import verify
from tilewright.passes.choices import ENUMERATORS, candidates, choices, factors
from tilewright.passes.schedule import (
    ScheduleError,
    apply_step,
    primitives,
    replay,
    trace_from_json,
    trace_to_json,
)

ROUNDS = 6
FULL_ROUNDS = 60
STEPS = 14
LEAST = 12
"""How often every primitive has to apply in the rounds of a normal run."""


@pytest.mark.parametrize("special", [False, True], ids=["numbers", "special"])
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_unscheduled_workload_is_what_jax_computes(case, special):
    if special and not case.special:
        pytest.skip("no special values")
    lowered = next(s for s in samples(special) if s.case is case)
    verify(lowered.func)
    lowered.check(run(lowered, lowered.func), "unscheduled")


def _check(lowered: Sample, traces: Traces, steps: int) -> None:
    trace, scheduled = traces.draw(lowered.func, steps)
    said = f"after {', '.join(map(str, trace))}"
    lowered.check(run(lowered, scheduled), said)
    # What was applied step by step is what a recorded trace gives, and the result survives being printed.
    again = replay(lowered.func, trace_from_json(trace_to_json(trace)))
    assert digest(again) == digest(scheduled), said
    assert print_ir(parse_ir(print_ir(scheduled))) == print_ir(scheduled), said


def test_any_random_legal_trace_keeps_the_result(request):
    traces = Traces(seed=1)
    rounds = FULL_ROUNDS if request.config.getoption("--full") else ROUNDS
    for number in range(rounds):
        found = samples(special=number % 2 == 1)
        # Padded workloads twice: there is most that can go wrong, and guards that `partition` needs.
        # So are reductions that depend on each other, for `stream` finds little else.
        again = (s for s in found for _ in range(4 * dependent(s.func) or guarded(s.func)))
        for lowered in (*found, *again):
            _check(lowered, traces, STEPS)
    counts = {name: traces.applied[name] for name in sorted(primitives())}
    assert min(counts.values()) >= LEAST, counts


def test_every_primitive_has_an_enumerator():
    assert set(ENUMERATORS) == set(primitives())


def test_choices_are_candidates_that_apply():
    func = sample(next(c for c in CASES if c.name == "matmul-bias-relu")).func
    func = apply_step(func, next(choices(func, "split")))
    for name in primitives():
        legal = list(choices(func, name))
        assert set(legal) <= set(candidates(func, name))
        for step in legal[:20]:
            apply_step(func, step)


def test_choices_of_an_unknown_primitive_are_refused():
    func = sample(CASES[0]).func
    with pytest.raises(ScheduleError, match="expected one of the primitives"):
        candidates(func, "skew")


def test_factors_are_small_sizes_divisors_and_powers_of_two():
    assert factors(12) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert factors(100) == [1, 2, 3, 4, 5, 6, 7, 8, 10, 16, 20, 25, 32, 50, 64]
    assert factors(1) == factors(0) == []
