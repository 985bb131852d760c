"""Whose object code runs: a trusted file's at once, all others' never."""

from __future__ import annotations

import functools
import re
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from saved_functions import INPUT, Saved, bits, changed, compiled, plain, read, write

import tilewright as tw
from tilewright.artifact import program, rebuild, signing
from tilewright.backends.llvm import codegen, ffi, toolchain
from tilewright.backends.measure.runner import WorkerRunner
from tilewright.database.store import Database
from tilewright.driver import kernels, pipeline
from tilewright.passes import schedule


def forbid(monkeypatch: pytest.MonkeyPatch, place: Any, name: str) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError(f"{name} was called")

    monkeypatch.setattr(place, name, refuse)


@pytest.fixture
def no_foreign_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the exported program nor objects of the file may be looked at."""
    forbid(monkeypatch, program, "register_plan")
    forbid(monkeypatch, program.export, "deserialize")


@pytest.fixture
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a fresh process: no kernel was built, no plan registered."""
    monkeypatch.setattr(kernels, "_built", {})
    monkeypatch.setattr(ffi, "runtime_code", functools.cache(ffi.runtime_code.__wrapped__))


@pytest.mark.usefixtures("nothing_known")
def test_trusted_load_generates_and_measures_nothing(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ffi, "_registered", {})
    registered: list[str] = []
    monkeypatch.setattr(ffi.jax.ffi, "register_ffi_target", lambda name, *_, **__: registered.append(name))
    for place, name in [
        (codegen, "compile_kernel"),
        (kernels, "compile_kernel"),
        (schedule, "replay"),
        (kernels, "replay"),
        (toolchain, "object_code"),
        (codegen, "object_code"),
        (ffi, "object_code"),
        (WorkerRunner, "__init__"),
        (WorkerRunner, "measure"),
        (pipeline, "shared_runner"),
        (pipeline, "tune"),
        (pipeline, "partition"),
        (rebuild, "rebuilt_program"),
    ]:
        forbid(monkeypatch, place, name)
    loaded = tw.load(saved.path)
    assert loaded.status == "native"
    assert len(registered) == 2, "both native calls were linked and registered, not found from before"
    assert bits(loaded(INPUT)) == bits(saved.result)


REBUILT = [
    ("unsigned", {}, "the file is not signed"),
    ("machine", {"machine": {"fingerprint": "0123456789abcdef"}}, "made for another machine"),
    ("backend", {"backend": "llvm-0"}, "made by another code generator"),
    ("schedules", {"schedule_version": 0}, "made by another code generator"),
    ("jaxlib", {"versions": {"jaxlib": "0.1.0"}}, r"made with jaxlib 0\.1\.0 \(here "),
    ("library", {"versions": {"more": "1.0"}}, r"made with more 1\.0 \(here none\)"),
]


@pytest.mark.usefixtures("no_foreign_code", "nothing_known")
@pytest.mark.parametrize(("name", "edits", "why"), REBUILT, ids=[name for name, *_ in REBUILT])
def test_other_files_are_rebuilt_and_checked(
    name: str, edits: dict[str, Any], why: str, saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []
    measure = WorkerRunner.measure

    def counted(self: Any, data: Any, requests: Any, timing: Any) -> Any:
        checked.extend(request.kernel.symbol for request in requests)
        return measure(self, data, requests, timing)

    monkeypatch.setattr(WorkerRunner, "measure", counted)

    def edit(manifest: Any) -> None:
        for key, value in edits.items():
            manifest[key] = {**manifest[key], **value} if isinstance(value, dict) else value

    loaded = tw.load(changed(saved, tmp_path / "f.tw", sign=bool(edits), manifest=edit), database=":memory:")
    assert loaded.status.startswith("rebuilt from traces: "), loaded.status
    assert re.search(why, loaded.status), loaded.status
    assert loaded.status.endswith("3 of 3 kernels built and checked here")
    assert len(checked) == 3
    assert bits(loaded(INPUT)) == bits(saved.result)


@pytest.mark.usefixtures("other_key", "nothing_known")
def test_files_of_another_user(saved: Saved, no_foreign_code: None) -> None:
    loaded = tw.load(saved.path, database=":memory:")
    assert "rebuilt from traces: the file was not signed with this user's key" in loaded.status
    assert bits(loaded(INPUT)) == bits(saved.result)


@pytest.mark.usefixtures("other_key")
def test_trust_takes_another_users_objects(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid(monkeypatch, rebuild, "rebuilt_program")
    loaded = tw.load(saved.path, trust=True)
    assert loaded.status == "native"
    assert bits(loaded(INPUT)) == bits(saved.result)


def test_trust_does_not_extend_to_other_machines(saved: Saved, tmp_path: Path, no_foreign_code: None) -> None:
    path = changed(saved, tmp_path / "f.tw", manifest=lambda m: m["machine"].update(fingerprint="0" * 16))
    assert tw.load(path, trust=True, database=":memory:").status.startswith("rebuilt from traces: made for another")


def test_a_kernel_that_fails_its_check_stays_with_xla(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_known: None
) -> None:
    compile_kernel = kernels.compile_kernel
    made: list[str] = []

    def faulty(func: Any, target: Any) -> Any:
        kernel = compile_kernel(func, target)
        made.append(kernel.symbol)
        if len(made) > 1:
            return kernel
        text = f"define void @{kernel.symbol}(ptr %b, i64 %lo, i64 %hi, ptr %s) {{\n  ret void\n}}"
        code = toolchain.object_code(text, features=target.features)
        return codegen.Kernel(
            kernel.symbol, code, kernel.extent, kernel.scratch_bytes, kernel.params, kernel.num_outputs
        )

    monkeypatch.setattr(kernels, "compile_kernel", faulty)
    database = Database(":memory:")
    loaded = tw.load(changed(saved, tmp_path / "f.tw"), database=database)
    assert loaded.status.endswith("2 of 3 kernels built and checked here")
    assert [record.status for record in database.records()] == ["non_finite"]
    np.testing.assert_allclose(loaded(INPUT), saved.result, rtol=1e-4, atol=1e-4)


def test_schedules_that_are_refused_leave_plain_jax(saved: Saved, tmp_path: Path) -> None:
    traces = {name: b'[["split","nowhere",["i",4]]]' for name in saved.members if name.startswith("traces/")}
    members = {**saved.members, **traces}
    copy = Saved(saved.path, saved.argument, saved.result, members)
    loaded = tw.load(changed(copy, tmp_path / "f.tw"), database=":memory:")
    assert loaded.status == "plain JAX: the file is not signed; none of its kernels can be used here"
    np.testing.assert_allclose(loaded(INPUT), saved.result, rtol=1e-4, atol=1e-4)


def test_plain_functions_run_anywhere(tmp_path: Path, no_foreign_code: None) -> None:
    fast = compiled(plain)
    expected = fast(INPUT)
    members = read(fast.save(tmp_path / "f.tw", INPUT))
    members.pop("signature")
    loaded = tw.load(write(tmp_path / "g.tw", members))
    assert loaded.status == "plain JAX: no part of the function has kernels"
    assert bits(loaded(INPUT)) == bits(expected)


def test_key_is_made_once_and_private(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    first = signing.sign(b"data")
    assert first == signing.sign(b"data") and len(first) == 64
    assert signing.refusal(b"data", first) == "" and signing.refusal(b"other", first)
    path = signing.key_path()
    assert path.is_relative_to(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and len(path.read_bytes()) == 32
    assert list(path.parent.iterdir()) == [path]
    path.chmod(0o644)
    assert "chmod 600" in signing.refusal(b"data", first)
    assert signing.sign(b"data") == "", "a key that others can read signs nothing"
    path.chmod(0o600)
    path.write_bytes(b"short")
    assert "expected 32 bytes" in signing.refusal(b"data", first)


def test_no_place_for_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    path = compiled(plain).save(tmp_path / "f.tw", INPUT)
    assert "saved without a signature" in caplog.text
    assert "signature" not in read(path)
    assert tw.load(path).status.startswith("plain JAX")
