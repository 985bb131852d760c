"""Peers: a row as files, and each installed peer's forms against float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_rows import TINY

from tilewright.bench.cases import workload_case
from tilewright.bench.child import Child
from tilewright.bench.messages import Done, Export, Missing, Prepare, Prepared, Time, Timed
from tilewright.bench.peers.base import PEERS
from tilewright.bench.peers.child import PeerChild
from tilewright.bench.problem import Problem, read_problem
from tilewright.bench.sessions import Session

_PACKAGES = sorted({package for kind in PEERS.values() for package in kind.packages})
# Bfloat16 and Fourier transforms have no form in ONNX or in its runtimes.
_NOT_IN_ONNX = {"matmul-1024-bf16", "fft-convolution"}


def export(name: str, folder: Path) -> Problem:
    child = Child(workload_case(TINY[name]), seed=0, pool=2)
    child.answer(Prepare(side="jit"))
    assert child.answer(Export(folder=str(folder), accuracy_inputs=1)) == Done()
    return read_problem(str(folder))


def no_tuning(folder: Path) -> None:
    """Leaves what TVM's peer takes for the records of an earlier process of the row."""
    (folder / "tvm").mkdir()
    (folder / "tvm" / "tuned").touch()


@pytest.mark.parametrize("name", ["depthwise-3x3", "matmul-1024-bf16", "top-10"])
def test_row_survives_the_files(name: str, tmp_path: Path) -> None:
    problem, workload = export(name, tmp_path), TINY[name]
    assert (problem.expression, problem.calls) == (workload.expression, workload.calls)
    assert dict(problem.parameters) == dict(workload.parameters)
    assert {n: v.tobytes() for n, v in problem.weights.items()} == {
        n: v.tobytes() for n, v in workload.draw_weights(0).items()
    }
    assert [(v.shape, v.dtype.name) for v in problem.inputs[0]] == [(a.shape, a.dtype) for a in workload.inputs]
    assert len(problem.inputs) == 2 and len(problem.references) == len(problem.allowed) == 1
    assert len(problem.references[0]) == len(problem.allowed[0]) == len(workload.outputs)
    exact = [value.astype(array.dtype) for value, array in zip(problem.references[0], workload.outputs, strict=True)]
    assert all(error.holds for error in problem.errors(0, exact)) or workload.dtype == "bfloat16"
    wrong = [value + 1 for value in exact]
    assert not any(error.holds for error in problem.errors(0, wrong))


def test_results_of_other_shapes_are_refused(tmp_path: Path) -> None:
    problem = export("gelu", tmp_path)
    with pytest.raises(ValueError, match=r"expected a result of shape \(5, 19\), found \(95,\)"):
        problem.errors(0, [np.zeros(95)])


@pytest.mark.parametrize("package", _PACKAGES)
def test_missing_package_is_noticed(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilewright.bench.peers.base.find_spec", lambda name: None if name == package else object())
    for kind in PEERS.values():
        assert kind.missing() == ([package] if package in kind.packages else [])


@pytest.mark.parametrize("peer", ["torch", "onnxruntime", "openvino", "tvm"])
@pytest.mark.parametrize("name", TINY)
def test_installed_peer_computes_the_same(peer: str, name: str, tmp_path: Path) -> None:
    for package in PEERS[peer].packages:
        pytest.importorskip(package)
    no_tuning(tmp_path)
    child = PeerChild(PEERS[peer], export(name, tmp_path), str(tmp_path))
    found = child.answer(Prepare(side=peer, accuracy_inputs=1))
    if peer != "torch" and name in _NOT_IN_ONNX:
        assert isinstance(found, Missing) and found.status == "not expressed" and found.reason
        return
    assert isinstance(found, Prepared), found
    assert found.errors and all(error.holds for error in found.errors), found.errors
    timed = child.answer(Time(side=peer, round=3))
    assert isinstance(timed, Timed) and timed.milliseconds > 0


def test_tvm_tunes_in_the_first_process_of_a_row_only(tmp_path: Path) -> None:
    for package in PEERS["tvm"].packages:
        pytest.importorskip(package)
    export("depthwise-3x3", tmp_path)
    records = tmp_path / "records"
    records.mkdir()
    kept = []
    for _ in range(2):
        given = ["--peer", "tvm", "--folder", str(tmp_path), "--records", str(records)]
        with Session("peers.child", given, {}) as session:
            found = session.ask(Prepare(side="tvm", accuracy_inputs=1), 300.0)
            assert isinstance(found, Prepared), found
            assert found.errors and all(error.holds for error in found.errors)
            timed = session.ask(Time(side="tvm", round=0), 30.0)
            assert isinstance(timed, Timed) and timed.milliseconds > 0
        kept.append((records / "tvm" / "database_tuning_record.json").read_text())
    assert kept[0] and kept[0] == kept[1]


def test_row_that_tvm_can_not_read_is_not_expressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in PEERS["tvm"].packages:
        pytest.importorskip(package)

    def unknown(*_: object, **options: object) -> None:
        raise RuntimeError("no converter for Softmax\nand a long story")

    monkeypatch.setattr("tilewright.bench.peers.tvm_peer.from_onnx", unknown)
    found = PeerChild(PEERS["tvm"], export("softmax", tmp_path), str(tmp_path)).answer(Prepare(side="tvm"))
    reason = "TVM can't read the ONNX form: RuntimeError: no converter for Softmax"
    assert found == Missing(status="not expressed", reason=reason)
