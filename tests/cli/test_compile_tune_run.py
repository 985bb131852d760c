"""`tilewright tune`, `tilewright compile` and `tilewright run`, on real functions."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest

import tilewright
from tilewright.cli.arrays import read_arrays, write_arrays
from tilewright.cli.functions import find_function
from tilewright.cli.preparing import prepare
from tilewright.cli.replacing import MODEL, PAGE, check_target
from tilewright.search.strategies import STRATEGIES

Cli = Callable[..., Any]
COMMAND = Path(sys.executable).parent / "tilewright"
FOLDER = Path(__file__).parent
X = "f32[64,512]"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved dense layer, compiled in a process of its own from what another one tuned."""
    folder = tmp_path_factory.mktemp("saved")
    common = ["sample_models:layer", "-i", X, "-d", str(folder / "tuning.db"), "--budget", "4", "--json"]
    for words in (["tune", *common], ["compile", *common, "-o", str(folder / "layer.tw")]):
        done = subprocess.run([COMMAND, *words], capture_output=True, text=True, timeout=300, cwd=FOLDER)
        assert done.returncode == 0, done.stdout + done.stderr
        (folder / f"{words[0]}.json").write_text(done.stdout)
    return folder / "layer.tw"


@pytest.fixture(scope="module")
def inputs(saved: Path) -> Path:
    """Values for the saved layer."""
    path = saved.with_name("inputs.npz")
    np.savez(path, np.random.default_rng(3).standard_normal((64, 512)).astype(np.float32))
    return path


def expected(inputs: Path) -> np.ndarray:
    (x,) = read_arrays(inputs).values()
    return np.asarray(jax.jit(find_function("sample_models:layer"))(x))


def test_tuning_reports_and_fills_the_database(saved: Path, cli: Cli) -> None:
    found = json.loads(saved.with_name("tune.json").read_text())
    assert (found["function"], found["inputs"]) == ("sample_models:layer", [X])
    assert found["database"] == str(saved.with_name("tuning.db"))
    assert 1 <= found["trials"] <= 4 + 8 and found["stopped"] == "budget"
    assert found["report"]["basis"] == "measured"
    rows = cli("db", "ls", "-d", found["database"], "--json").data
    assert len(rows["records"]) >= 1 and rows["counts"]["plans"] == 1
    shown = cli("db", "show", rows["records"][0]["id"], "-d", found["database"])
    assert "scheduled:" in shown.stdout


def test_compiling_takes_what_was_tuned_and_saves_it(saved: Path) -> None:
    found = json.loads(saved.with_name("compile.json").read_text())
    assert (found["path"], found["bytes"]) == (str(saved), saved.stat().st_size)
    assert found["report"]["basis"] == "database"


@pytest.mark.parametrize("command", ["compile", "tune"])
def test_help_names_the_strategies(cli: Cli, command: str) -> None:
    shown = cli(command, "--help").stdout
    assert all(name in shown for name in STRATEGIES)


def test_other_files_are_not_written_over(cli: Cli, saved: Path, tmp_path: Path) -> None:
    source = tmp_path / "notes.txt"
    source.write_text("mine")
    page = tmp_path / "page.html"
    for words in (
        ("compile", "sample_models:layer", "-i", X, "-o", source),
        ("run", saved, "-o", source),
        ("bench", "--suite", "kernels", "--rows", "gelu", "-o", source),
        ("bench", "--suite", "kernels", "--rows", "gelu", "--html", source),
    ):
        result = cli(*words)
        assert (result.code, result.stdout) == (2, "")
        assert "nothing there, found another file; choose another path" in result.error
    assert source.read_text() == "mine"
    for path, kind in ((saved, MODEL), (page, PAGE)):
        check_target(path, kind)
    page.write_text("<!DOCTYPE html>\n<p>")
    check_target(page, PAGE)


class TestRun:
    def test_in_a_fresh_process(self, saved: Path, inputs: Path, tmp_path: Path) -> None:
        words = ["run", saved, "--input", inputs, "--output", tmp_path / "out.npz", "--repeat", "5", "--json"]
        done = subprocess.run([COMMAND, *words], capture_output=True, text=True, timeout=120, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        data = json.loads(done.stdout)
        assert data["calls"]["count"] == 5
        assert 0 < data["calls"]["min_s"] <= data["calls"]["median_s"]
        assert data["load_s"] < data["first_result_s"] < 60
        assert data["outputs"] == [{"name": "arr_0", "dtype": "float32", "shape": [64, 512]}]
        (result,) = read_arrays(tmp_path / "out.npz").values()
        np.testing.assert_allclose(result, expected(inputs), rtol=1e-4, atol=1e-4)

    def test_says_how_it_runs(self, cli: Cli, saved: Path) -> None:
        result = cli("run", saved, "--repeat", 3)
        status, times, calls, output = result.stdout.splitlines()
        assert status == f"status: {tilewright.load(saved).status}"
        assert times.startswith("first result ") and ", loaded in " in times
        assert calls.startswith("3 calls: median ")
        assert output == f"arr_0: {X}"

    def test_random_values_follow_the_seed(self, cli: Cli, saved: Path, tmp_path: Path) -> None:
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            assert cli("run", saved, "--seed", seed, "-o", tmp_path / f"{name}.npz").code == 0
        a, b, c = (read_arrays(tmp_path / f"{name}.npz")["arr_0"] for name in "abc")
        assert np.array_equal(a, b) and not np.array_equal(a, c)

    def test_a_single_array_goes_to_the_single_argument(self, cli: Cli, saved: Path, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", np.ones((64, 512)))  # float64, which JAX makes float32 of, as in a call
        assert cli("run", saved, "-i", tmp_path / "x.npy").code == 0
        np.savez(tmp_path / "x.npz", images=np.ones((64, 512), np.float32))
        assert cli("run", saved, "-i", tmp_path / "x.npz").code == 0

    @pytest.mark.parametrize(
        ("arrays", "said"),
        [
            ({"arr_0": np.ones((2, 512), np.float32)}, "expected arr_0 to be f32[64,512], found f32[2,512]"),
            ({"arr_0": np.ones((64, 512), np.int32)}, "expected arr_0 to be f32[64,512], found i32[64,512]"),
            ({"a": np.ones(1), "b": np.ones(1)}, "it lacks arr_0: f32[64,512] and the model takes no a, b"),
        ],
    )
    def test_values_that_do_not_fit(
        self, cli: Cli, saved: Path, tmp_path: Path, arrays: dict[str, np.ndarray], said: str
    ) -> None:
        write_arrays(tmp_path / "x.npz", arrays)
        result = cli("run", saved, "-i", tmp_path / "x.npz")
        assert (result.code, result.stdout) == (2, "")
        assert said in result.error

    def test_files_that_are_not_there(self, cli: Cli, saved: Path, tmp_path: Path) -> None:
        for words, said in (
            ((saved.with_name("layr.tw"),), "did you mean 'layer.tw'"),
            ((saved.parent,), "found a folder"),
            ((saved, "-i", tmp_path / "x.npz"), "expected a .npy or .npz file, found nothing"),
            ((saved, "-o", tmp_path / "no" / "x.npz"), "create it first"),
            ((saved, "-o", tmp_path / "x.npy"), "results are written as a .npz file"),
            ((saved, "-i", "@x.npz"), "leave out the @"),
            (
                (saved, "-i", FOLDER / "sample_models.py"),
                "can't be read as .npy or .npz (it is none, or holds Python objects)",
            ),
        ):
            result = cli("run", *words)
            assert (result.code, result.stdout) == (2, "")
            assert said in result.error

    def test_what_is_no_model(self, cli: Cli, saved: Path, tmp_path: Path) -> None:
        (tmp_path / "text.tw").write_text("Dear reader")
        (tmp_path / "cut.tw").write_bytes(saved.read_bytes()[:-100])
        for name in ("text.tw", "cut.tw"):
            result = cli("run", tmp_path / name, "--json")
            assert result.code == 1
            assert name in result.data["error"] and "Traceback" not in result.stderr


class TestTypes:
    """Arguments and results of all kinds, through a file and back."""

    def save(self, cli: Cli, tmp_path: Path, name: str, *inputs: str, code: int = 0) -> Any:
        words = [word for text in inputs for word in ("-i", text)]
        result = cli(
            "compile", f"sample_models:{name}", *words, "-o", tmp_path / "m.tw", "--effort", 0, "-d", ":memory:"
        )
        assert result.code == code, result.stderr
        return result

    def test_arguments_and_results_by_name(self, cli: Cli, tmp_path: Path) -> None:
        self.save(cli, tmp_path, "affine", "f32[2,3]", "f32[]", "shift=f32[3]")
        x, scale, shift = np.arange(6, dtype=np.float32).reshape(2, 3), np.float32(2), np.ones(3, np.float32)
        np.savez(tmp_path / "in.npz", x, scale, shift=shift)
        result = cli("run", tmp_path / "m.tw", "-i", tmp_path / "in.npz", "-o", tmp_path / "out.npz")
        assert result.code == 0, result.stderr
        found = read_arrays(tmp_path / "out.npz")
        assert sorted(found) == ["total", "value"]
        np.testing.assert_allclose(found["value"], x * scale + shift)
        assert found["total"] == 15
        np.savez(tmp_path / "in.npz", x, scale)
        lacking = cli("run", tmp_path / "m.tw", "-i", tmp_path / "in.npz")
        assert "it lacks shift: f32[3]" in lacking.error
        assert "the model takes arr_0: f32[2,3], arr_1: f32[], shift: f32[3]" in lacking.error

    def test_whole_numbers(self, cli: Cli, tmp_path: Path) -> None:
        self.save(cli, tmp_path, "pick", "f32[10,4]", "i32[7]")
        result = cli("run", tmp_path / "m.tw", "--json")
        assert result.data["outputs"] == [{"name": "arr_0", "dtype": "float32", "shape": [7, 4]}]

    def test_bfloat16_may_come_as_float32(self, cli: Cli, tmp_path: Path) -> None:
        self.save(cli, tmp_path, "widen", "bf16[3]")
        for dtype in (np.float32, ml_dtypes.bfloat16):
            np.save(tmp_path / "x.npy", np.array([1, 2, 3], dtype))
            assert cli("run", tmp_path / "m.tw", "-i", tmp_path / "x.npy", "-o", tmp_path / "y.npz").code == 0
            (found,) = read_arrays(tmp_path / "y.npz").values()
            assert (found.dtype, found.tolist()) == (ml_dtypes.bfloat16, [2, 3, 4])

    def test_what_has_effects_is_not_saved(self, cli: Cli, tmp_path: Path) -> None:
        result = self.save(cli, tmp_path, "printing", "f32[3]", code=1)
        assert "debug" in result.stderr
        assert not (tmp_path / "m.tw").exists()

    @pytest.mark.parametrize("name", ["compiled", "jitted", "net.forward"])
    def test_every_kind_of_function(self, cli: Cli, tmp_path: Path, name: str) -> None:
        self.save(cli, tmp_path, name, "f32[64,512]")
        assert cli("run", tmp_path / "m.tw").code == 0

    def test_a_factory(self, cli: Cli, tmp_path: Path) -> None:
        words = ("-i", "f32[64,512]", "-o", tmp_path / "m.tw", "--effort", 0, "-d", ":memory:")
        result = cli("compile", "sample_models:make_layer", "--call", *words)
        assert result.code == 0
        assert result.stdout.splitlines()[-1].startswith(f"saved to {tmp_path / 'm.tw'} (")


def test_a_compiled_function_keeps_its_own_options() -> None:
    """`compiled` was made with effort 0, seed 7 and a database in memory; what is typed wins."""
    subject = prepare("sample_models:compiled", ["f32[1,512]"], False, {"effort": 2, "seed": None})
    assert (subject.compiled.options.effort, subject.compiled.options.seed) == (2, 7)
    assert subject.compiled.options.open_database().name == "tuning database :memory:"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--budget", "soon"), '--budget: expected a time like "500ms"'),
        (("--strategy", "luck"), "luck"),
        (("--effort", "4"), "--effort"),
    ],
)
def test_options_that_are_not_allowed(cli: Cli, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    for command in (("tune",), ("compile", "-o", tmp_path / "m.tw")):
        result = cli(command[0], "sample_models:layer", "-i", X, *command[1:], *words)
        assert (result.code, result.stdout) == (2, "")
        assert said in result.error


def test_where_a_model_can_not_be_saved(cli: Cli, tmp_path: Path) -> None:
    for path, said in ((tmp_path, "found a folder"), (tmp_path / "no" / "m.tw", "create it first")):
        result = cli("compile", "sample_models:layer", "-i", X, "-o", path)
        assert (result.code, result.stdout) == (2, "")
        assert said in result.error
