"""What holds for every command: how it starts, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import tilewright
from tilewright.cli import tune as tune_module
from tilewright.cli.errors import near, one_line
from tilewright.cli.output import duration, size

COMMAND = Path(sys.executable).parent / "tilewright"
COMMANDS = [
    ("compile",), ("run",), ("tune",), ("explain",), ("doctor",), ("bench",), ("db",),
    ("db", "ls"), ("db", "show"), ("db", "export"), ("db", "import"), ("db", "merge"),
]  # fmt: skip


def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([COMMAND, *arguments], text=True, **pipes)


def in_process(*arguments: str, **options: Any) -> tuple[int, str, str]:
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_version() -> None:
    assert in_process("--version") == (0, f"tilewright {tilewright.__version__}\n", "")
    assert tilewright.__version__ == version("tilewright")


def test_starting_loads_neither_jax_nor_the_compiler() -> None:
    source = (
        "import sys\n"
        "from tilewright.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "print(*sorted({'jax', 'sqlalchemy', 'llvmlite', 'lightgbm', 'tilewright.compiler'} & set(sys.modules)))\n"
    )
    process = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=True)
    assert process.stdout.splitlines()[-1] == ""


def test_the_module_is_the_command() -> None:
    process = subprocess.run([sys.executable, "-m", "tilewright.cli", "--version"], capture_output=True, text=True)
    assert process.stdout == f"tilewright {tilewright.__version__}\n"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help(cli: Callable[..., Any], words: tuple[str, ...]) -> None:
    result = cli(*words, "--help")
    assert (result.code, result.stderr) == (0, "")
    assert "Usage:" in result.stdout
    if words not in (("bench",), ("db",)):
        assert "Examples:" in result.stdout and f"tilewright {' '.join(words)}" in result.stdout
        assert words == ("doctor",) or "--json" in result.stdout


def test_without_a_command_help_is_shown(cli: Callable[..., Any]) -> None:
    result = cli()
    assert result.code == 0
    for name, *_ in COMMANDS:
        assert name in result.stdout


class TestWrongUsage:
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("docter",), "docter"),
            (("db",), "Missing command"),
            (("db", "shw"), "shw"),
            (("tune",), "MODULE:FUNCTION"),
            (("tune", "m:f", "--bugdet", "3"), "--budget"),
            (("tune", "m:f", "--effort", "9"), "--effort"),
            (("tune", "m:f", "--effort", "much"), "--effort"),
            (("tune", "m:f", "--seed", "-1"), "--seed"),
            (("compile", "m:f"), "--output"),
            (("run",), "MODEL"),
            (("run", "a", "b"), "b"),
            (("explain", "m:f", "--region", "-1"), "--region"),
            (("db", "merge", "a.db"), "--into"),
            (("--debgu", "doctor"), "--debug"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
    )
    def test_is_one_line_with_the_remedy(self, cli: Callable[..., Any], words: tuple[str, ...], said: str) -> None:
        result = cli(*words)
        assert (result.code, result.stdout) == (2, "")
        assert said in result.error
        assert "--help` shows how" in result.error

    def test_is_json_where_that_was_asked_for(self, cli: Callable[..., Any]) -> None:
        result = cli("tune", "m:f", "--json", "--effort", "9")
        assert result.code == 2
        assert set(result.data) == {"error", "remedy"}
        assert "--effort" in result.data["error"] and "--help" in result.data["remedy"]


class TestUnforeseen:
    @pytest.fixture(autouse=True)
    def broken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object, **__: object) -> None:
            raise RuntimeError("the first line\nthe second line")

        monkeypatch.setattr(tune_module, "printing", fail)

    def test_is_one_line(self, cli: Callable[..., Any]) -> None:
        result = cli("tune", "m:f", "-i", "f32[2,3]")
        assert result.code == 1
        assert result.error.startswith("RuntimeError: the first line the second line; ")
        assert "`tilewright --debug tune m:f -i 'f32[2,3]'`" in result.error

    def test_has_a_traceback_on_request(self, cli: Callable[..., Any]) -> None:
        result = cli("--debug", "tune", "m:f")
        assert result.code == 1
        assert "Traceback" in result.stderr and "in fail" in result.stderr
        assert result.stderr.splitlines()[-1].startswith("error: RuntimeError")

    def test_is_json_where_that_was_asked_for(self, cli: Callable[..., Any]) -> None:
        assert cli("tune", "m:f", "--json").data["error"] == "RuntimeError: the first line the second line"


def test_the_compilers_log_has_tracebacks_only_on_request(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import logging

    def log(*_: object, **__: object) -> None:
        logger = logging.getLogger("tilewright.driver.pipeline")
        logger.info("not so important")
        try:
            raise ValueError("odd")
        except ValueError:
            logger.exception("it did not work")
        raise KeyboardInterrupt

    monkeypatch.setattr(tune_module, "printing", log)
    assert cli("tune", "m:f").stderr.splitlines() == ["error: it did not work (ValueError: odd)", "interrupted"]
    loud = cli("--debug", "tune", "m:f").stderr
    assert "not so important" in loud and "Traceback" in loud


class TestInterrupted:
    def test_in_python(self, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(tune_module, "printing", interrupt)
        result = cli("tune", "m:f")
        assert (result.code, result.stdout, result.stderr) == (130, "", "interrupted\n")

    def test_by_a_signal(self, tmp_path: Path) -> None:
        source = "import sys, time\nprint('ready', flush=True)\ntime.sleep(60)\ndef f(x): return x\n"
        (tmp_path / "slow.py").write_text(source)
        process = start("tune", "slow:f", cwd=tmp_path)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (130, "interrupted\n")


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    rows = "".join(f"def function_{number}(x): return x\n" for number in range(3))
    (tmp_path / "many.py").write_text(f"import sys\n{rows}")
    reader, writer = os.pipe()
    os.close(reader)
    process = start("explain", "many:function_0", "-i", "f32[2]", cwd=tmp_path, stdout=writer)
    os.close(writer)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (141, "")


class TestCompletion:
    def complete(self, words: str) -> list[str]:
        typed = words.split(" ")
        environment = {
            **os.environ,
            "_TILEWRIGHT_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(typed) - 1),
        }
        return in_process(env=environment)[1].split()

    def test_commands_and_options(self) -> None:
        assert {"compile", "run", "tune", "explain", "bench", "db", "doctor"} <= set(self.complete("tilewright "))
        assert self.complete("tilewright db me") == ["merge"]
        assert self.complete("tilewright tune --bud") == ["--budget"]

    def test_the_script_for_bash(self) -> None:
        shown = subprocess.run(
            ["bash", "-c", f'"{COMMAND}" --show-completion bash; true'], capture_output=True, text=True, timeout=60
        )
        assert "complete -o default -F _tilewright_completion tilewright" in shown.stdout


def test_small_helpers() -> None:
    assert [duration(s) for s in (2.5, 1234.0, 0.0123, 4.5e-6)] == ["2.5 s", "1234 s", "12.3 ms", "4.5 us"]
    assert [size(n) for n in (12, 2048, 5 << 20)] == ["12 bytes", "2.0 KiB", "5.0 MiB"]
    assert one_line("a\n  b\tc") == "a b c"
    assert len(one_line("x" * 5000)) == 1000
    assert near("predct", ["predict", "other"]) == "did you mean 'predict'?"
    assert near("zzz", ["b", "a"]) == "there is a, b"
    assert near("zzz", []) == ""
