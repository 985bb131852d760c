"""Contests: sessions with real and scripted children, sides that fail, whose turn it is."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tilewright.bench import contest, rows
from tilewright.bench.contest import Contest, hold
from tilewright.bench.messages import (
    AnyRequest,
    Done,
    Error,
    Export,
    Missing,
    Prepare,
    Prepared,
    Reply,
    Time,
    Timed,
)
from tilewright.bench.report import SuiteOptions
from tilewright.bench.rows import run_row
from tilewright.bench.runner import suite_options
from tilewright.bench.sessions import Session, SessionError


class Memory:
    """A machine whose memory is always in the same state."""

    def copy_gbs(self) -> float:
        return 50.0


def make(requests: Sequence[Prepare], peers: Sequence[str] = (), rounds: int = 6, **changes: Any) -> Contest:
    values: dict[str, Any] = {
        "suite": "kernels",
        "row": "gelu",
        "allocator": "stock",
        "requests": requests,
        "peers": peers,
        "rounds": rounds,
        "timing_s": 60.0,
        "deadline": time.monotonic() + 60.0,
        "accuracy_inputs": 1,
        "seed": 0,
    }
    return Contest(**{**values, **changes})


JIT, OURS = Prepare(side="jit"), Prepare(side="effort 1", effort=1)


class Script:
    """Stands in for `Session`: which process does what, and who is awake when."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.awake: set[str] = set()
        self.dies_at: dict[str, list[str]] = {}  # request -> processes that die of it
        self.replies: dict[str, Reply] = {}
        self.limits: dict[str, float] = {}  # request -> how long it may take

    def session(self, module: str, arguments: Sequence[str], environment: Any) -> Scripted:
        name = arguments[arguments.index("--peer") + 1] if module.startswith("peers") else "main"
        self.awake.add(name)
        return Scripted(self, name)


class Scripted:
    def __init__(self, script: Script, name: str) -> None:
        self._script = script
        self._name = name

    def ask(self, request: AnyRequest, timeout_s: float) -> Reply:
        script = self._script
        what = f"{request.kind} {getattr(request, 'side', '')}".strip()
        script.log.append(what)
        script.limits.setdefault(what, timeout_s)
        assert script.awake == {self._name}, f"{what} while {script.awake} are awake"
        if script.dies_at.get(what):
            raise SessionError(script.dies_at[what].pop())
        if what in script.replies:
            return script.replies[what]
        match request:
            case Time():
                return Timed(milliseconds=1.0 + request.round)
            case Prepare():
                return Prepared(version="1", compile_s=0.5)
        assert isinstance(request, Export)
        return Done()

    def sleep(self) -> None:
        self._script.awake.discard(self._name)

    def wake(self) -> None:
        self._script.awake.add(self._name)

    def close(self) -> None:
        self.sleep()

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    found = Script()
    monkeypatch.setattr(contest, "Session", found.session)
    monkeypatch.setattr(contest.PEERS["torch"].__class__, "missing", lambda kind: [])
    return found


def test_only_one_process_is_awake_and_times_line_up(script: Script) -> None:
    found = hold(make([JIT, OURS], peers=["torch", "openvino"]))
    assert list(found.sides) == ["jit", "effort 1", "torch", "openvino"]
    # Two untimed rounds; round n of every side took 1 + n.
    assert all(times == [3.0, 4.0, 5.0, 6.0, 7.0, 8.0] for times in found.times_ms.values())
    assert len(found.times_ms) == 4 and found.alone_ms == []


def test_jit_is_timed_alone_first_if_asked(script: Script) -> None:
    found = hold(make([JIT, OURS], alone=3))
    assert len(found.alone_ms) == 3
    assert script.log[:6] == ["prepare jit", *["time jit"] * 5]
    assert script.log[6] == "prepare effort 1"


def test_side_that_kills_the_process_is_left_out(script: Script) -> None:
    script.dies_at["prepare effort 1"] = ["segmentation fault"]
    found = hold(make([JIT, Prepare(side="effort 0", effort=0), OURS]))
    assert found.sides["effort 1"] == Missing(status="failed", reason="segmentation fault")
    assert set(found.times_ms) == {"jit", "effort 0"}


def test_side_that_fails_politely_costs_no_process(script: Script) -> None:
    script.replies["prepare effort 1"] = Missing(status="failed", reason="ValueError: no")
    found = hold(make([JIT, OURS]))
    assert set(found.times_ms) == {"jit"} and script.log.count("prepare jit") == 1


def test_peer_that_dies_while_timed_is_left_out(script: Script) -> None:
    script.dies_at["time torch"] = ["gone"]
    found = hold(make([JIT, OURS], peers=["torch", "openvino"]))
    assert found.sides["torch"] == Missing(status="failed", reason="gone")
    assert set(found.times_ms) == {"jit", "effort 1", "openvino"} and script.log.count("time torch") == 1


@pytest.mark.parametrize("request_", ["prepare jit", "time jit", "time effort 1"])
def test_without_jit_there_is_no_contest(script: Script, request_: str) -> None:
    script.dies_at[request_] = ["gone"]
    with pytest.raises(SessionError, match="gone"):
        hold(make([JIT, OURS]))


def test_jit_that_fails_politely_ends_the_contest(script: Script) -> None:
    script.replies["prepare jit"] = Missing(status="failed", reason="no such row")
    with pytest.raises(SessionError, match="no such row"):
        hold(make([JIT, OURS]))


def test_row_without_export_has_no_peers(script: Script) -> None:
    script.replies["export"] = Missing(status="failed", reason="a whole model")
    found = hold(make([JIT], peers=["torch"]))
    assert found.sides["torch"] == Missing(status="not expressed", reason="a whole model")


def test_peer_that_was_left_out_is_not_asked_again(script: Script) -> None:
    known = Missing(status="failed", reason="no reply within 300 s")
    found = hold(make([JIT], peers=["torch", "openvino"], left_out={"torch": known}))
    assert list(found.sides) == ["jit", "torch", "openvino"] and found.sides["torch"] == known
    assert "prepare torch" not in script.log and set(found.times_ms) == {"jit", "openvino"}


def test_peer_has_half_of_the_time_that_is_left(script: Script) -> None:
    hold(make([JIT], peers=["torch"], deadline=time.monotonic() + 100.0))
    assert script.limits["prepare jit"] == pytest.approx(100.0, abs=5.0)
    assert script.limits["prepare torch"] == pytest.approx(50.0, abs=5.0)
    assert script.limits["time jit"] == pytest.approx(100.0, abs=5.0)


def test_row_leaves_a_failed_peer_out_and_shares_its_records(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[contest.Contest] = []

    def fake(asked: contest.Contest, say: object) -> contest.ContestResult:
        seen.append(asked)
        assert Path(asked.records).is_dir()
        prepared = Prepared(version="1", compile_s=0.5)
        gone = asked.left_out.get("torch", Missing(status="failed", reason="gone"))
        return contest.ContestResult({"jit": prepared, "torch": gone, "tvm": prepared}, {"jit": [1.0], "tvm": [2.0]})

    monkeypatch.setattr(rows, "hold", fake)
    options = suite_options("kernels", rows=["gelu"], efforts=[], peers=["torch", "tvm"], repeats=2)
    row = run_row("gelu", options, Memory(), lambda text: None)  # pyright: ignore[reportArgumentType]
    assert [list(asked.left_out) for asked in seen] == [[], ["torch"], ["torch"], ["torch"]]
    assert len({asked.records for asked in seen}) == 1
    for mode in row.modes:
        torch, tvm = mode.side("torch"), mode.side("tvm")
        assert torch is not None and (torch.status, torch.reason) == ("failed", "gone")
        assert tvm is not None and tvm.status == "measured"


def test_sampling_stops_when_its_time_is_over(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    found = hold(make([JIT], rounds=1000, timing_s=1e-9))
    assert len(found.times_ms["jit"]) == 6


def test_peer_that_is_not_installed_says_how_to_get_it() -> None:
    kind = contest.PEERS["tvm"]
    if not kind.missing():
        pytest.skip("TVM is installed here")
    options = suite_options("kernels", rows=["matmul-512"], efforts=[0], peers=["tvm"], repeats=1, rounds=2)
    row = run_row("matmul-512", options, Memory(), lambda text: None)  # pyright: ignore[reportArgumentType]
    assert row.failure == "" and [mode.allocator for mode in row.modes] == ["stock", "page-keeping"]
    for mode in row.modes:
        jit, ours, tvm = mode.sides
        assert (jit.name, ours.name, tvm.name) == ("jit", "effort 0", "tvm")
        assert jit.status == ours.status == "measured" and ours.accurate and mode.copy_gbs == [50.0, 50.0]
        assert len(ours.times_ms[0]) == len(jit.times_ms[0]) == 2 and jit.speedup is not None
        assert jit.speedup.median == 1.0
        assert tvm.status == "not installed" and "pip install 'tilewright[tvm]'" in tvm.reason
    assert row.flops == 2 * 512**3 and row.calls == 1


def test_failing_row_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise SessionError("no reply within 3 s")

    monkeypatch.setattr(rows, "hold", broken)
    options: SuiteOptions = suite_options("kernels", rows=["gelu"])
    row = run_row("gelu", options, Memory(), lambda text: None)  # pyright: ignore[reportArgumentType]
    assert row.failure == "no reply within 3 s" and row.modes == []


def test_databases_are_per_mode_and_effort() -> None:
    options = suite_options("kernels", rows=["gelu"], efforts=[0, 2], budget="7s")
    requests = [
        *rows._requests(options, "stock", Path("/t"), 1),
        *rows._requests(options, "page-keeping", Path("/t"), 1),
    ]
    databases = [request.database for request in requests if request.effort is not None]
    assert len(set(databases)) == 4
    assert [(r.side, r.effort, r.budget) for r in requests[:3]] == [
        ("jit", None, None),
        ("effort 0", 0, None),
        ("effort 2", 2, "7s"),
    ]


def state(session: Session) -> str:
    return Path(f"/proc/{session._process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def test_session_sleeps_wakes_and_ends() -> None:
    with Session("child", ["--suite", "kernels", "--row", "no-such-row"], {}) as session:
        reply = session.ask(Prepare(side="jit"), 60.0)
        assert isinstance(reply, Missing) and "no-such-row" in reply.reason
        session.sleep()
        time.sleep(0.05)
        assert state(session) == "T"
        with pytest.raises(SessionError, match="no reply within 0 s"):
            session.ask(Prepare(side="jit"), 0.2)
    assert session._process.returncode == -signal.SIGKILL


def test_session_whose_child_refuses_to_start_says_why() -> None:
    with Session("child", ["--row"], {}) as session, pytest.raises(SessionError, match=r"(?s)exit status 2.*usage"):
        session.ask(Prepare(side="jit"), 60.0)


def test_unreadable_reply_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with Session("child", ["--suite", "kernels", "--row", "gelu"], {}) as session:
        session._unread = b'{"kind": "timed", "milliseconds": -1}\n'
        with pytest.raises(SessionError, match="unreadable reply"):
            session.ask(Time(side="jit", round=0), 5.0)


def test_allocator_mode_is_in_the_environment_and_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []

    class Stop(Exception):
        pass

    def popen(command: list[str], env: dict[str, str], **options: Any) -> None:
        seen.append({key: value for key, value in env.items() if key.startswith("MALLOC_")})
        raise Stop

    monkeypatch.setenv("MALLOC_TOP_PAD_", "7")
    monkeypatch.setattr("subprocess.Popen", popen)
    for allocator in ("stock", "page-keeping"):
        with pytest.raises(Stop):
            hold(make([JIT], allocator=allocator))
    assert seen[0] == {} and seen[1]["MALLOC_TOP_PAD_"] == "268435456" and len(seen[1]) == 4


def test_process_group_is_not_ours() -> None:
    with Session("child", ["--row"], {}) as session:
        assert os.getpgid(session._process.pid) != os.getpgid(0)


def test_errors_that_are_no_numbers_break_the_contract() -> None:
    assert not Error(candidate=float("nan"), baseline=1, scale=1, epsilon=0, limit=1).holds
