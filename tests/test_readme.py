"""README and docs tell the truth: their Python runs, in order, prints what it says; make's commands exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import convbias.study

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = ["README.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str, page: str = "README.md") -> list[tuple[int, str]]:
    """(line of the first line of code, code) of each fenced block."""
    text = (ROOT / page).read_text("utf-8")
    return [
        (text.count("\n", 0, found.start(2)) + 1, found[2])
        for found in FENCED.finditer(text)
        if found[1] == language
    ]


def printed(code: str) -> str:
    """What the block says it prints: the comment lines under each ``print``."""
    comments = "".join(re.findall(r"^print\(.*\)\n((?:# .*\n)+)", code, re.MULTILINE))
    return comments.replace("# ", "")


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for line, code in blocks("python", page):
        # Empty lines before the code, so that a traceback gives the page's own line.
        exec(compile("\n" * (line - 1) + code, page, "exec"), names)
        assert capsys.readouterr().out == printed(code)


def test_pages_have_code_and_show_figures_that_are_there() -> None:
    assert sum(len(blocks("python", page)) for page in PAGES) >= 25
    for page in PAGES:
        text = (ROOT / page).read_text("utf-8")
        for target in re.findall(r"\]\(((?!https?:|#)[^)#]+)", text):
            assert ((ROOT / page).parent / target).exists(), (page, target)


def test_the_make_commands_of_readme_exist() -> None:
    named = {name for _, code in blocks("sh") for name in re.findall(r"^make ([\w-]+)", code, re.MULTILINE)}
    targets = re.findall(r"^([\w-]+):.*##", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert {"study", "test"} <= named <= set(targets)


def test_every_name_is_documented() -> None:
    page = (ROOT / "docs" / "names.md").read_text("utf-8")
    for module in (convbias, convbias.study):
        for name in module.__all__:
            assert f":: {module.__name__}.{name}\n" in page, name
