"""Choosing without measuring."""

from __future__ import annotations

import pytest
from search_fakes import TARGET, sketch, workload

from tilewright.passes.schedule import ScheduleError, replay
from tilewright.search import space as space_module
from tilewright.search.predict import predicted_choice, predicted_choices
from tilewright.search.sketch import Decisions, Sketch
from tilewright.search.space import SearchSpace


def use(monkeypatch: pytest.MonkeyPatch, own: Sketch) -> None:
    monkeypatch.setattr(space_module, "sketches", lambda func, target: (own,))


def test_a_bad_default_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    own = sketch()
    whole = Sketch("tiles", own.choices, {"outer": 1, "inner": 1}, own.build)
    use(monkeypatch, whole)
    choice = predicted_choice(workload(), TARGET)
    assert choice is not None and dict(choice.decisions) != {"outer": 1, "inner": 1}
    replay(workload(), choice.trace)


def test_equally_good_candidates_leave_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Sketch("same", {"name": tuple(range(5))}, {"name": 3}, lambda _: ()))
    choice = predicted_choice(workload(), TARGET)
    assert choice is not None and dict(choice.decisions) == {"name": 3}


def test_refusing_sketches(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Decisions) -> tuple[()]:
        raise ScheduleError("expected something else")

    use(monkeypatch, Sketch("never", {"a": (1, 2)}, {"a": 1}, refuse))
    assert predicted_choice(workload(), TARGET) is None


def test_large_spaces_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, sketch(tuple(range(1, 101))))
    assert not SearchSpace(workload(), TARGET).enumerable
    first, second = (predicted_choice(workload(), TARGET, seed=1) for _ in range(2))
    assert first == second and first is not None


def test_there_is_something_to_fall_back_on(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (
        sketch(),
        Sketch("other", {"name": (1, 2)}, {"name": 2}, lambda d: sketch().build({"outer": 1, "inner": 1})),
    )
    monkeypatch.setattr(space_module, "sketches", lambda func, target: (first, second))
    found = predicted_choices(workload(), TARGET)
    assert found[0] == predicted_choice(workload(), TARGET)
    assert len(found) == len({c.key for c in found}) > 2
    assert found[-1].sketch in ("other", "tiles") and {c.sketch for c in found} <= {"tiles", "other"}
    assert any(c.key == SearchSpace(workload(), TARGET).defaults()[1].key for c in found)
