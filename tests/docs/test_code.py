"""The code of the documentation: each page's Python blocks run from top to bottom in a fresh process.

What a block prints stands in a `text` block right behind it, in the page and in the test the same but for figures that
differ from run to run; a line `...` stands for any lines. A comment `<!-- slow -->` in front of a block keeps it for
`--full`.
"""

from __future__ import annotations

import doctest
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "docs/tutorial.md",
    ROOT / "docs/howto.md",
    ROOT / "docs/pallas.md",
    *sorted(ROOT.glob("docs/howto/*.md")),
]
SLOW = "<!-- slow -->"
TIMEOUT_S = 300
MEASURED = (
    (r"compiled in .*", "compiled in #"),
    (r"\d+ trials", "# trials"),
    (r"ended by: .*", "ended by: #"),
    (r"('records': |added=|present=)\d+", r"\1#"),
    (r"\b[0-9a-f]{12,}\b", "#"),
    (r"-?\d+\.\d+(e[-+]?\d+)?", "#"),
    (r"\b\d+%", "#%"),
    (r"(?m)^  plan: .*\n", ""),  # which regions are kernels of their own is chosen by time
    (r"(?m)(^ {4}\d+x .*\n {8}.*\n?)+", "    #\n"),  # and so are the regions in a report, with their schedules
    (r" +", " "),
)
"""What differs from run to run, and what stands for it."""


@dataclass(frozen=True)
class Block:
    """A Python block: where its first line stands, whether it is slow, and what the page says it prints."""

    line: int
    code: str
    slow: bool
    output: str


def blocks_of(text: str) -> list[Block]:
    tokens = MarkdownIt().parse(text)
    found = []
    for number, token in enumerate(tokens):
        if token.type != "fence" or token.info != "python":
            continue
        before, behind = tokens[number - 1 : number], tokens[number + 1 : number + 2]
        slow = any(t.type == "html_block" and t.content.strip() == SLOW for t in before)
        output = next((t.content for t in behind if t.type == "fence" and t.info == "text"), "")
        found.append(Block(token.map[0] + 1, token.content, slow, output))
    return found


def masked(text: str) -> str:
    for pattern, replacement in MEASURED:
        text = re.sub(pattern, replacement, text)
    return text


def matches(expected: str, printed: str) -> bool:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(masked(expected), masked(printed), flags)


def run(page: Path, blocks: list[Block], folder: Path) -> list[str]:
    """What each block prints, run in a folder of its own by a process that has nobody's caches."""
    results = folder / "printed.json"
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("run_blocks.py"), results],
        input=json.dumps([str(page), [[block.line, block.code] for block in blocks]]),
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "XDG_DATA_HOME": str(folder / "data")},
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(results.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_runs_and_prints_what_the_page_says(page, request, tmp_path):
    full = request.config.getoption("--full")
    blocks = [block for block in blocks_of(page.read_text()) if full or not block.slow]
    if not blocks:
        pytest.skip("no code to run")
    if page.name == "pallas.md" and jax.__version_info__ >= (0, 11) and jax.default_backend() != "gpu":
        pytest.skip("since JAX 0.11 kernels for Triton are lowered only where there is a GPU")
    for block, printed in zip(blocks, run(page, blocks, tmp_path), strict=True):
        assert matches(block.output, printed), f"{page}:{block.line} printed:\n{printed}\n{masked(printed)}"


def test_the_tutorial_has_code():
    assert len(blocks_of((ROOT / "docs/tutorial.md").read_text())) > 3


def test_a_wrong_output_is_noticed():
    page = "```python\nprint(1, 2.5)\n```\n\n```text\n1 3.5\n```\n"
    (block,) = blocks_of(page)
    assert (block.line, block.code, block.slow) == (1, "print(1, 2.5)\n", False)
    assert matches(block.output, "1 2.5\n")
    assert not matches(block.output, "2 2.5\n")
    assert not matches("", "1\n")


def test_a_comment_keeps_a_block_for_the_full_run():
    assert [block.slow for block in blocks_of(f"{SLOW}\n```python\n1\n```\n\n```python\n2\n```\n")] == [True, False]


def test_an_error_names_the_line_of_the_page(tmp_path):
    blocks = blocks_of("text\n\n```python\nx = 1\ny = z\n```\n")
    with pytest.raises(AssertionError, match=r'page.md", line 5(.|\n)*NameError'):
        run(Path("page.md"), blocks, tmp_path)
