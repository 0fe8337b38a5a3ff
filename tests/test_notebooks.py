"""Notebooks run from the first cell to the last, show what they print, and become pages of the site."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from notebooks import code_cells, run, texts
from shown_output import assert_shown

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "environments" / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_what_it_prints(path: Path) -> None:
    notebook = json.loads(path.read_text())
    for cell, outputs in zip(code_cells(notebook), run(notebook), strict=True):
        assert_shown(texts(cell["outputs"]), texts(outputs))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_says_nothing_of_where_it_was_run_and_has_its_page(path: Path) -> None:
    assert path.stat().st_size < 300_000
    assert "site-packages" not in path.read_text()
    assert str(ROOT) not in path.read_text()
    page = hooks().notebook_page(path)
    assert all("".join(cell["source"]) in page for cell in json.loads(path.read_text())["cells"])
    assert f"notebooks/{path.stem}.md" in (ROOT / "mkdocs.yml").read_text()


def test_a_paper_is_spelled_out_where_a_page_first_uses_its_abbreviation_unless_it_is_named() -> None:
    spelled_out = hooks().on_page_content
    used = '<p><abbr title="...">CR</abbr> eq. 5, <abbr title="...">CR</abbr> eq. 6</p>'
    once = used.replace("</abbr> eq. 5", "</abbr> (Pertigkiozoglou et al. 2024) eq. 5")
    assert spelled_out(used) == once
    assert spelled_out(used + "<p>Pertigkiozoglou</p>") == used + "<p>Pertigkiozoglou</p>"


def test_every_paper_s_abbreviation_is_known_to_the_site() -> None:
    known = (ROOT / "environments" / "docs" / "abbreviations.md").read_text()
    assert all(f"*[{short}]: {name.split()[0]}" in known for short, name in hooks().PAPERS.items())
