"""MODULE:FUNCTION."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tilewright.cli.errors import CommandError, UsageError
from tilewright.cli.functions import find_function

SAMPLES = "sample_models"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (f"{SAMPLES}:layer", "layer"),
        (f"{SAMPLES}.py:layer", "layer"),
        (f"./{SAMPLES}.py:layer", "layer"),
        (f"{Path(__file__).parent / SAMPLES}.py:layer", "layer"),
        (f"{SAMPLES}:Net.forward", "forward"),
        (f"{SAMPLES}:net.forward", "forward"),
        (f"{SAMPLES}:jitted", "layer"),
        (f"{SAMPLES}:compiled", "layer"),
        ("jax.nn:relu", "relu"),
    ],
)
def test_what_can_be_named(text: str, name: str) -> None:
    assert find_function(text).__name__ == name


def test_a_factory_is_called() -> None:
    assert find_function(f"{SAMPLES}:make_layer", call=True).__name__ == "layer"
    assert find_function(f"{SAMPLES}:make_layer").__name__ == "make_layer"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("layer", "expected MODULE:FUNCTION"),
        (":layer", "expected MODULE:FUNCTION"),
        (f"{SAMPLES}:", "expected MODULE:FUNCTION"),
        ("sample-models:layer", "expected MODULE:FUNCTION"),
        ("sample_model:layer", "did you mean 'sample_models'"),
        ("jax.nump:add", "did you mean 'numpy'"),
        ("sample_model.py:layer", "did you mean 'sample_models.py'"),
        ("no/such/place.py:layer", "expected a Python file, found nothing"),
        (f"{Path(__file__).parent}/:layer", "found a folder"),
        (f"{SAMPLES}:layr", "did you mean 'layer'"),
        (f"{SAMPLES}:net.fordward", "did you mean 'forward'"),
        (f"{SAMPLES}:not_a_function", "expected a function, found int"),
        (f"{SAMPLES}:Net", "name a method, or a factory with --call"),
    ],
)
def test_what_is_not_there(text: str, said: str) -> None:
    with pytest.raises(UsageError) as refusal:
        find_function(text)
    assert said in f"{refusal.value.message}; {refusal.value.remedy}"


def test_names_are_listed_where_none_is_near() -> None:
    with pytest.raises(UsageError) as refusal:
        find_function(f"{SAMPLES}:xyzzy")
    assert refusal.value.remedy.startswith("there is ") and "layer" in refusal.value.remedy


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("make_number", "expected it to return a function, found int"),
        ("failing_factory", "RuntimeError: no weights here"),
        ("layer", "TypeError"),
    ],
)
def test_a_factory_that_gives_no_function(factory: str, said: str) -> None:
    with pytest.raises(CommandError) as refusal:
        find_function(f"{SAMPLES}:{factory}", call=True)
    assert said in refusal.value.message


@pytest.mark.parametrize(
    ("name", "source", "said"),
    [
        ("broken", "1 / 0", "ZeroDivisionError: division by zero"),
        ("broken", "def f(:", "SyntaxError"),
        ("incomplete", "import no_such_library_anywhere", "install 'no_such_library_anywhere'"),
        ("script", "import sys; sys.exit(3)", "__main__"),
    ],
)
def test_modules_that_do_not_import(
    name: str, source: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    for text in (f"{name}:f", f"{name}.py:f"):
        with pytest.raises(CommandError) as refusal:
            find_function(text)
        assert not isinstance(refusal.value, UsageError)
        assert said in f"{refusal.value.message}; {refusal.value.remedy}"
        assert name not in sys.modules


def test_a_file_may_import_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_script.py").write_text("def double(x): return 2 * x")
    (tmp_path / "script.py").write_text("from neighbour_of_script import double")
    assert find_function(f"{tmp_path / 'script.py'}:double")(4) == 8
