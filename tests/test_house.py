"""The map is true: every room has a README, every link and path in prose leads somewhere, and there is one version."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

import relaxify

ROOT = Path(__file__).parents[1]
ROOMS = sorted(
    {path.parent.relative_to(ROOT) for path in (ROOT / "relaxify").rglob("*.py")}
    | {Path(name) for name in ("adapters", "cli", "examples", "benchmarks", "tests", "tests/zoo")}
)
PAGES = sorted(
    page.relative_to(ROOT)
    for pattern in ("*.md", "docs/**/*.md", *(f"{room}/README.md" for room in ROOMS))
    for page in ROOT.glob(pattern)
)


@pytest.mark.parametrize("room", ROOMS, ids=str)
def test_a_room_says_what_lives_there_and_where_to_start(room: Path) -> None:
    readme = ROOT / room / "README.md"
    assert readme.is_file()
    assert "Start with" in " ".join(readme.read_text().split())


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / page).read_text())
    assert [link for link in links if not (ROOT / page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_paths_in_prose_exist(page: Path) -> None:
    """From the repository's root, from the engine's, or from the page's own folder."""
    paths = re.findall(r"`([\w.-]+(?:/[\w.-]+)*(?:\.py|\.md|\.toml|/))[`:]", (ROOT / page).read_text())
    bases = (ROOT, ROOT / "relaxify", ROOT / page.parent)
    assert [path for path in paths if not any((base / path).exists() for base in bases)] == []


def test_every_package_of_the_wheel_has_a_room_on_the_map() -> None:
    architecture = (ROOT / "docs" / "architecture.md").read_text()
    rooms = [room for room in ROOMS if len(room.parts) <= 2 and room != Path("tests/zoo")]
    assert [str(room) for room in rooms if f"`{room}/`" not in architecture] == []


def test_every_file_names_the_same_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    released = re.findall(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert relaxify.__version__ == version("relaxify") == project["version"] == citation["version"] == released[0]
    assert {reference["url"] for reference in citation["references"]} == set(project["urls"].values())
