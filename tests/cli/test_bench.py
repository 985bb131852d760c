"""`tilewright bench`; what it measures is tested with the suite itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import suite_samples as samples

from tilewright.bench import html, runner, search
from tilewright.bench.cases import row_names
from tilewright.bench.report import SuiteOptions, SuiteReport

Cli = Callable[..., Any]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[SuiteOptions]:
    """Suites give a report at once; what was asked for is kept."""
    seen: list[SuiteOptions] = []

    def run(options: SuiteOptions, output: Path | None, say: Callable[[str], None]) -> SuiteReport:
        seen.append(options)
        say("measuring")
        rows = [
            samples.failed(n) if n == "sort" else samples.row(n, samples.side("effort 1", 2.0)) for n in options.rows
        ]
        found = samples.report(*rows)
        if output is not None:
            found.save(output)
        return found

    monkeypatch.setattr(runner, "run_suite", run)
    return seen


class TestSuites:
    def test_options_reach_the_suite(self, cli: Cli, asked: list[SuiteOptions], tmp_path: Path) -> None:
        words = "--rows softmax,gelu --efforts 2,0 --budget 5s --peers torch --repeats 3 --timing 0.5 --seed 7".split()
        result = cli("bench", "--suite", "kernels", *words, "-o", tmp_path / "out.json")
        assert result.code == 0
        (found,) = asked
        assert (found.suite, found.rows, found.efforts, found.budget) == ("kernels", ("softmax", "gelu"), (0, 2), "5s")
        assert (found.peers, found.repeats, found.timing_s, found.seed) == (("torch",), 3, 0.5, 7)
        assert "softmax" in result.stdout and result.stderr == "measuring\n"
        assert SuiteReport.model_validate_json((tmp_path / "out.json").read_text()).row("gelu") is not None

    def test_left_out_options_are_the_suites_own(self, cli: Cli, asked: list[SuiteOptions]) -> None:
        cli("bench", "--suite", "models")
        assert asked == [runner.suite_options("models")]

    def test_as_json(self, cli: Cli, asked: list[SuiteOptions]) -> None:
        data = cli("bench", "--suite", "kernels", "--rows", "gelu", "--json").data
        assert SuiteReport.model_validate(data).passed

    def test_a_row_that_fails_is_a_failure(self, cli: Cli, asked: list[SuiteOptions]) -> None:
        result = cli("bench", "--suite", "kernels", "--rows", "gelu,sort")
        assert result.code == 1
        assert "FAILED sort" in result.stdout

    def test_a_page(self, cli: Cli, asked: list[SuiteOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(html, "write_html", lambda report, path: path.write_text(report.rows[0].name))
        monkeypatch.setattr(html, "find_spec", lambda name: object())
        assert cli("bench", "--suite", "kernels", "--rows", "gelu", "--html", tmp_path / "a.html").code == 0
        assert (tmp_path / "a.html").read_text() == "gelu"

    def test_libraries_of_the_page_are_missed_before_anything_is_measured(
        self, cli: Cli, asked: list[SuiteOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(html, "find_spec", lambda name: None if name == "jinja2" else object())
        result = cli("bench", "--suite", "kernels", "--html", tmp_path / "a.html")
        assert result.code == 1 and not asked
        assert "--html needs jinja2; pip install 'tilewright[bench]'" in result.error

    @pytest.mark.parametrize("suite", ["kernels", "models"])
    def test_rows_are_listed_with_their_time(self, cli: Cli, suite: str) -> None:
        result = cli("bench", "--suite", suite, "--list")
        assert result.stdout.split() == list(row_names(suite))
        assert "minutes" in result.stderr
        data = cli("bench", "--suite", suite, "--list", "--json").data
        assert data["rows"] == list(row_names(suite)) and data["minutes_at_most"] > 0

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ((), "--suite: expected one of kernels, models, random, search, found none"),
            (("--suite", "kernel"), "did you mean 'kernels'"),
            (("--suite", "kernels", "--rows", "softmacks"), "--rows: expected some of"),
            (("--suite", "kernels", "--efforts", "4"), "--efforts: expected some of 0, 1, 2, 3"),
            (("--suite", "kernels", "--budget", "soon"), "--budget: expected a time"),
            (("--suite", "kernels", "--peers", "abacus"), "--peers: expected some of"),
            (("--suite", "kernels", "--trials", "3"), "--trials holds for --suite search only"),
            (("--suite", "search", "--peers", "torch"), "--peers holds for --suite kernels, models and random only"),
            (("--suite", "search", "--rows", "softmacks"), "--rows: expected some of"),
            (("--suite", "kernels", "-o", "no/folder/out.json"), "create it first"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
    )
    def test_wrong_options(self, cli: Cli, asked: list[SuiteOptions], words: tuple[str, ...], said: str) -> None:
        result = cli("bench", *words)
        assert (result.code, result.stdout, asked) == (2, "", [])
        assert said in result.error


class TestSearch:
    @pytest.fixture
    def words(self, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
        seen: list[list[str]] = []

        def run(arguments: list[str]) -> int:
            seen.append(arguments)
            folder = search.parse_options(arguments).folder
            folder.mkdir(exist_ok=True)
            (folder / "report.json").write_text('{"trials": 3}')
            print("the table")
            return 1 if "--minutes" in arguments else 0

        monkeypatch.setattr(search, "main", run)
        return seen

    def test_options_reach_the_comparison(self, cli: Cli, words: list[list[str]], tmp_path: Path) -> None:
        typed = "--rows conv3x3,depthwise --trials 3 --seeds 2".split()
        result = cli("bench", "--suite", "search", *typed, "-o", tmp_path / "s")
        assert (result.code, result.stdout) == (0, "the table\n")
        found = search.parse_options(words[0])
        assert (found.trials, found.seeds, found.workloads) == (3, 2, ["conv3x3", "depthwise"])
        assert found.folder == tmp_path / "s"
        as_json = cli("bench", "--suite", "search", "-o", tmp_path / "s", "--json")
        assert as_json.data == {"trials": 3} and as_json.stderr == "the table\n"

    def test_an_unfinished_comparison(self, cli: Cli, words: list[list[str]], tmp_path: Path) -> None:
        result = cli("bench", "--suite", "search", "--minutes", "0.5", "-o", tmp_path / "s")
        assert result.code == 1
        assert "run the same command again" in result.stderr


class TestCompare:
    def saved(self, path: Path, speedup: float, suite: str = "kernels") -> Path:
        found = samples.report(samples.row("gelu", samples.side("effort 1", speedup)))
        found = found.model_copy(update={"options": found.options.model_copy(update={"suite": suite})})
        found.save(path)
        return path

    def test_faster_and_slower(self, cli: Cli, tmp_path: Path) -> None:
        slow, fast = self.saved(tmp_path / "a.json", 1.0), self.saved(tmp_path / "b.json", 2.0)
        better = cli("bench", "compare", slow, fast)
        assert better.code == 0 and "faster" in better.stdout and "no regression found" in better.stdout
        worse = cli("bench", "compare", fast, slow, "--json")
        assert worse.code == 1 and worse.data["regressed"] is True
        assert {change["verdict"] for change in worse.data["changes"]} == {"slower"}
        assert worse.data["changes"][0]["ratio"]["median"] == pytest.approx(0.5)
        assert cli("bench", "compare", fast, slow, "--margin", "3").code == 0

    def test_what_is_no_report(self, cli: Cli, tmp_path: Path) -> None:
        good = self.saved(tmp_path / "a.json", 1.0)
        assert cli("bench", "compare", good, tmp_path / "b.json").code == 2
        (tmp_path / "b.json").write_text(json.dumps({"rows": 3}))
        result = cli("bench", "compare", good, tmp_path / "b.json")
        assert result.code == 1 and "b.json: expected a report" in result.error
        other = self.saved(tmp_path / "c.json", 1.0, suite="models")
        assert cli("bench", "compare", good, other).code == 2
