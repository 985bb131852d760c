"""Links between the pages of the documentation and the README: their files and headings exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def inline(text: str) -> Iterator[Token]:
    for token in MarkdownIt().enable("table").parse(text):
        yield from token.children or ()


def links(text: str) -> Iterator[str]:
    for token in inline(text):
        target = token.attrGet("href" if token.type == "link_open" else "src")
        if target is not None:
            yield str(target)


def anchors(text: str) -> set[str]:
    """Names of the headings as GitHub and the site make them, and names that a page gives itself."""
    tokens = MarkdownIt().parse(text)
    headings = [
        "".join(child.content for child in behind.children or ())
        for token, behind in pairwise(tokens)
        if token.type == "heading_open"
    ]
    slugs = {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r"^\(([\w.-]+)\)=$", text, re.MULTILINE))


def problem(page: Path, target: str) -> str | None:
    """Why a link leads nowhere, or None."""
    parts = urlsplit(target)
    if parts.scheme or parts.netloc:
        return None
    file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not file.exists():
        return f"there is no {file}"
    if parts.fragment and parts.fragment not in anchors(file.read_text()):
        return f"{file} has no heading #{parts.fragment}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    found = {target: problem(page, target) for target in links(page.read_text())}
    assert {target: why for target, why in found.items() if why} == {}


def test_a_broken_link_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# The `first` one\n\n[a](page.md#the-first-one) [b](other.md) [c](#second) ![d](no.png)\n")
    found = [problem(page, target) for target in links(page.read_text())]
    assert [why is None for why in found] == [True, False, False, False]


def test_every_page_is_in_the_navigation():
    text = (ROOT / "docs/index.md").read_text()
    listed = set(re.findall(r"^([\w/-]+)$", text, re.MULTILINE))
    pages = {str(page.relative_to(ROOT / "docs").with_suffix("")) for page in ROOT.glob("docs/**/*.md")}
    assert pages - {"index"} == listed
