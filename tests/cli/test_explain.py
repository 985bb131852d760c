"""`tilewright explain`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tilewright.ir.target import detect_target
from tilewright.passes.pipeline import GRAPH_PASSES

Cli = Callable[..., Any]
PREDICT = ("explain", "sample_models:predict", "-i", "f32[1,32,32,3]", "--database", ":memory:")


@pytest.fixture(scope="module")
def whole() -> Any:
    """All stages of the sample, as data and as text."""
    from typer.testing import CliRunner

    from tilewright.cli import app

    path = Path(__file__).parent / "sample_models.py"
    words = ["explain", f"{path}:predict", "-i", "f32[1,32,32,3]", "--database", ":memory:"]
    return CliRunner().invoke(app, words).stdout


def stages_of(text: str) -> dict[str, str]:
    """Text of each stage by the name in its heading."""
    parts = re.split(r"^// ---- (.*)\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_every_stage_in_order(whole: str) -> None:
    stages = stages_of(whole)
    names = [name.removesuffix(": no change") for name in stages]
    passes = [step.name for step in GRAPH_PASSES]
    assert names == ["jaxpr", "traced", *passes, "regions", "workloads", "schedules", "scheduled", "plan"]
    assert "conv_general_dilated[" in stages["jaxpr"]
    assert stages["traced"].startswith("tilewright.graph 1\n%0 = input float32[1,32,32,3]")
    assert "opaque tilewright_plan(%0)" in stages["plan"]


def test_explaining_creates_no_database(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "missing.db"
    result = cli("explain", "sample_models:layer", "-i", "f32[64,512]", "-d", path)
    assert (result.code, result.stdout) == (2, "")
    assert f"{path}: there is no such database" in result.error and not path.exists()


def test_passes_show_what_they_changed(whole: str) -> None:
    stages = stages_of(whole)
    assert stages["remove-dead: no change"].strip() == ""
    folded = stages["fold-scales"]
    assert folded.startswith("--- fold-constants-again\n+++ fold-scales\n@@ ")
    assert re.search(r"^-%\d+ = mul\(%\d+, %\d+\)", folded, re.MULTILINE)
    assert not re.search(r"^\+%\d+ = mul\(", folded, re.MULTILINE)


def test_regions_name_their_workloads(whole: str) -> None:
    stages = stages_of(whole)
    regions = re.findall(r"^// region (\d+): (\w+) -> %\d+, workload (\w+)", stages["regions"], re.MULTILINE)
    assert [int(number) for number, _, _ in regions] == list(range(len(regions)))
    assert len(regions) > (2 if detect_target().threads > 1 else 1)  # one thread streams more of them together
    assert regions[0][1] == "contraction"
    for _, _, workload in regions:
        for stage in ("workloads", "schedules", "scheduled"):
            assert f"// workload {workload}, " in stages[stage]
    assert "split(max.y0, " in stages["schedules"]
    assert "sum= mul(" in stages["workloads"] and "parallel " in stages["scheduled"]


def test_the_whole_graph_after_a_pass(cli: Cli) -> None:
    result = cli(*PREDICT, "--stage", "fold-scales", "--full")
    assert result.stdout.startswith("tilewright.graph 1\n")
    assert result.stdout.count("return") == 1
    assert "mul(" not in result.stdout


@pytest.mark.parametrize(
    ("stage", "holds"),
    [
        ("jaxpr", "{ lambda "),
        ("remove-dead", "// ---- remove-dead: no change"),
        ("simplify", "+++ simplify"),
        ("schedules", "vectorize("),
        ("legalized", "tilewright loop ir 1"),
        ("llvm", "define void @"),
        ("asm", ".text"),
    ],
)
def test_one_stage(cli: Cli, stage: str, holds: str) -> None:
    result = cli(*PREDICT, "--stage", stage)
    assert (result.code, result.stderr) == (0, "")
    assert holds in result.stdout


def test_one_region(cli: Cli) -> None:
    result = cli(*PREDICT, "--region", "0", "--json")
    stages = {stage["name"]: stage["text"] for stage in result.data["stages"]}
    assert list(stages) == ["regions", "workloads", "schedules", "scheduled"]
    assert stages["regions"].startswith("// region 0: contraction")
    assert all(text.count("// workload ") == 1 for name, text in stages.items() if name != "regions")
    assembly = cli(*PREDICT, "--region", "0", "--stage", "asm")
    assert assembly.stdout.startswith("// workload ") and assembly.stdout.count(".globl") == 1


def test_stages_as_json(cli: Cli) -> None:
    data = cli(*PREDICT, "--json").data
    assert data["function"] == "sample_models:predict"
    changed = {stage["name"]: stage["changed"] for stage in data["stages"] if "changed" in stage}
    assert set(changed) == {step.name for step in GRAPH_PASSES}
    assert changed["fold-scales"] is True and changed["remove-dead"] is False


def test_what_stays_with_xla_says_so(cli: Cli) -> None:
    result = cli("explain", "jax.numpy:sin", "-i", "f32[7]", "--database", ":memory:", "--stage", "scheduled")
    assert "// stays XLA's: it has no schedule, or none that is predicted to gain" in result.stdout


def test_what_a_function_prints_does_not_spoil_json(cli: Cli) -> None:
    result = cli("explain", "sample_models:noisy", "-i", "f32[3]", "--database", ":memory:", "--json")
    assert result.data["function"] == "sample_models:noisy"
    assert "tracing noisy" in result.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--stage", "simplfy"), 2, "did you mean 'simplify'"),
        (("--stage", "traced", "--region", "0"), 2, "with --region there are fewer"),
        (("--region", "99"), 2, "there are regions 0 to "),
    ],
)
def test_what_there_is_not(cli: Cli, words: tuple[str, ...], code: int, said: str) -> None:
    result = cli(*PREDICT, *words)
    assert (result.code, result.stdout) == (code, "")
    assert said in result.error


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("sample_models:layer", "-i", "f32[2,3]"), 1, "can't be traced with (f32[2,3]): TypeError"),
        (("sample_models:layer",), 2, "takes (x: 'jax.Array') -> 'jax.Array', found no --input"),
        (("sample_models:layer", "-i", "f32[1,512]", "-i", "f32[]"), 2, "found 2 inputs: too many"),
        (("sample_models:layer", "-i", "y=f32[1,512]"), 2, "found 1 input"),
        (("sample_models:layer", "-i", "f64[1,512]"), 2, "JAX_ENABLE_X64=1"),
        (("sample_models:layer", "-i", "f32[1,512]", "-d", "no/folder/x.db"), 2, "there is no such database"),
        (("sample_models:make_number", "--call"), 2, "found int"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_functions_and_inputs_that_do_not_go_together(cli: Cli, words: tuple[str, ...], code: int, said: str) -> None:
    result = cli("explain", *words)
    assert (result.code, result.stdout) == (code, "")
    assert said in result.error


def test_files_and_names_give_shapes(cli: Cli, tmp_path: Path) -> None:
    import numpy as np

    np.savez(tmp_path / "a.npz", np.ones((2, 3), np.float32), shift=np.ones(3))
    words = ("-i", f"@{tmp_path / 'a.npz'}", "-i", "scale=f32[]")
    result = cli("explain", "sample_models:affine", *words, "--stage", "traced", "-d", ":memory:")
    inputs = re.findall(r"input (\S+)", result.stdout)
    assert sorted(inputs) == ["float32[2,3]", "float32[3]", "float32[]"]


def test_the_example_of_the_documentation(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    found = re.search(r"```python\n# model\.py\n(.*?)```", page, re.DOTALL)
    assert found is not None
    (tmp_path / "model.py").write_text(found[1])
    monkeypatch.chdir(tmp_path)
    result = cli("explain", "model.py:predict", "--input", "f32[1,64,64,3]", "--stage", "simplify", "-d", ":memory:")
    assert result.code == 0, result.stderr
    shown = re.search(r"--stage simplify \| cut -c 1-100\n(.*?)```", page, re.DOTALL)
    assert shown is not None
    assert [line[:100].rstrip() for line in result.stdout.splitlines()] == shown[1].splitlines()
