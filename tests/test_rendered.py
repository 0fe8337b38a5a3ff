"""Every report is short at a prompt, a page that needs no network, rows of a table, JSON, and a file that is whole."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import sys
import types
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from relaxify import RelaxConfig, diagnose, inspect, local_equivariance_error, plan, relaxify, summary
from relaxify.figures import MOST_ROWS
from relaxify.lconv import symmetries_of
from relaxify.output import TargetExistsError
from relaxify.rendered import LONGEST_REPR, Rendered

VOID = {"meta", "input", "br", "path", "rect", "circle", "line"}


def vectors(width: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Linear(1, width, bias=False), nn.Linear(width, 1, bias=False))


def cnn() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Conv2d(2, 1, 3))


def trained() -> nn.Module:
    model = relaxify(vectors(), "SO(3)", example_inputs=points(), config=RelaxConfig(theta=1.0, init="normal"))
    model(points())
    return model


def points() -> torch.Tensor:
    return torch.randn(8, 3, 1, generator=torch.Generator().manual_seed(0))


def images(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 1, 7, 7, generator=torch.Generator().manual_seed(0))


def gradient() -> Rendered:
    return diagnose(cnn(), lambda model, x: (model(x) - 1).square().mean(), list(images(4).split(1)), group="C4")


REPORTS: dict[str, tuple[Any, str]] = {
    "plan": (lambda: plan(vectors(), "SO(3)", example_inputs=points()), "2 layers would be relaxed"),
    "plan of nothing": (lambda: plan(vectors(), "SO(3)"), "No layer can be relaxed"),
    "broken plan": (
        lambda: plan(nn.Sequential(nn.Linear(1, 4), nn.Linear(4, 1)), "SO(3)", example_inputs=points()),
        "It breaks SO(3)",
    ),
    "summary": (lambda: summary(trained()), "What the terms do"),
    "report": (lambda: inspect(vectors(), "SO(3)", points()), "No operation breaks the symmetry"),
    "relaxed report": (lambda: inspect(trained(), "SO(3)", points()), "Terms by irrep and group element"),
    "images": (lambda: local_equivariance_error(cnn(), images(1)), "What each layer adds"),
    "diagnosis": (gradient, "Equivariant share of the gradient"),
    "symmetry": (lambda: symmetries_of(torch.randn(400, 2, generator=torch.Generator().manual_seed(0))), "Spectrum"),
}


@pytest.fixture(scope="module")
def made() -> dict[str, Rendered]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {name: make() for name, (make, _) in REPORTS.items()}


class Page(HTMLParser):
    """Whether every tag is closed in its order, and all text that is read."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.rows = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.rows += tag == "tr"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_is_one_line_at_a_prompt(name: str, made: dict[str, Rendered]) -> None:
    shown = repr(made[name])
    assert shown.startswith(f"<{type(made[name]).__name__}: ")
    assert "\n" not in shown
    assert len(shown) < LONGEST_REPR + 30


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_is_a_page_that_needs_no_network(name: str, made: dict[str, Rendered]) -> None:
    page = made[name].to_html()
    read = Page(page)
    assert read.open == []
    assert REPORTS[name][1] in read.text
    assert re.search(r"relaxify \S+ · torch \S+ · date \d{4}-\d\d-\d\d", read.text)
    assert not re.search(r"(?:src|href)=|@import|url\(", page)


@pytest.mark.parametrize("name", REPORTS)
def test_a_notebook_gets_the_page_in_a_frame_of_its_own(name: str, made: dict[str, Rendered]) -> None:
    frame = made[name]._repr_html_()
    assert frame.startswith("<iframe ")
    assert frame.count("<") == 2, "the page itself has to be escaped"


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_is_json(name: str, made: dict[str, Rendered]) -> None:
    assert json.loads(made[name].to_json())


@pytest.mark.parametrize(
    ("name", "rows"),
    [("plan", 2), ("plan of nothing", 2), ("summary", 2), ("report", 2), ("relaxed report", 2), ("diagnosis", 2)],
)
def test_rows_are_layers(name: str, rows: int, made: dict[str, Rendered]) -> None:
    found = made[name].rows()
    assert len(found) == rows
    assert all("path" in row for row in found)


def test_rows_of_images_are_steps_under_each_transformation(made: dict[str, Rendered]) -> None:
    report = made["images"]
    assert {row["transformation"] for row in report.rows()} >= {"rotation", "scale"}
    assert len(report.rows()) == 3 * len({row["transformation"] for row in report.rows()})


def test_rows_of_a_spectrum(made: dict[str, Rendered]) -> None:
    rows = made["symmetry"].rows()
    assert [row["direction"] for row in rows] == list(range(1, 1 + len(rows)))
    assert rows
    assert sum(row["kept"] for row in rows) == made["symmetry"].dimension  # type: ignore[attr-defined]


def test_a_frame_is_made_of_the_rows(made: dict[str, Rendered], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=list))  # pandas is no requirement
    assert [row["path"] for row in made["summary"].to_frame()] == ["0", "1"]  # type: ignore[misc,index,call-overload]


def test_without_pandas(made: dict[str, Rendered], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        made["summary"].to_frame()


def test_a_report_is_saved_whole_by_what_its_file_is_named(made: dict[str, Rendered], tmp_path: Path) -> None:
    report = made["plan"]
    report.save(tmp_path / "plan.html")
    report.save(tmp_path / "plan.json")
    assert Page((tmp_path / "plan.html").read_text()).rows == 3
    assert json.loads((tmp_path / "plan.json").read_text())["format"] == "relaxify-plan/1"
    with pytest.raises(TargetExistsError):
        report.save(tmp_path / "plan.html")
    with pytest.raises(ValueError, match=r"plan\.txt is neither \.html nor \.json"):
        report.save(tmp_path / "plan.txt")
    assert not (tmp_path / "plan.txt").exists()


def test_the_errors_of_a_term_by_irrep_are_those_by_element_taken_together(made: dict[str, Rendered]) -> None:
    for layer in made["relaxed report"].layers:  # type: ignore[attr-defined]
        by_element = torch.tensor([error for _, error in layer.by_element])
        by_irrep = torch.tensor([error for _, error in layer.by_irrep])
        torch.testing.assert_close(by_irrep.square().sum(), by_element.square().mean())
        assert len(by_element) == layer.error.count
        assert float(by_element.mean()) == pytest.approx(layer.error.mean)
        assert by_element.min() > 0


# panels, and what is written on their axes
FIGURES = {
    "plan": (1, "parameters"),
    "plan of nothing": (1, "parameters"),
    "summary": (2, "|P W| / |W|"),
    "report": (1, "relative equivariance error under SO(3)"),
    "relaxed report": (3, "log10 of the error"),
    "symmetry": (2, "direction (blue: kept)"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_report_is_a_figure_that_pyplot_knows_nothing_of(name: str, made: dict[str, Rendered]) -> None:
    figure, (panels, label) = made[name].plot(), FIGURES[name]  # type: ignore[attr-defined]
    figure.savefig(io.BytesIO(), dpi=20)
    assert figure.canvas.manager is None
    assert len(figure.axes) == panels
    assert label in {text for axes in figure.axes for text in (axes.get_xlabel(), axes.get_ylabel())}


def test_without_matplotlib(made: dict[str, Rendered], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"relaxify\[plot\]"):
        made["plan"].plot()  # type: ignore[attr-defined]


def test_a_page_of_a_cnn_says_what_its_red_means() -> None:
    page = Page(inspect(cnn(), "C4", images(1)).to_html()).text
    assert "in an ordinary CNN all is red from the first convolution on" in page


def test_a_thousand_terms_are_a_page_and_a_figure_of_bounded_size(made: dict[str, Any]) -> None:
    one = made["relaxed report"]
    layers = tuple(dataclasses.replace(one.layers[0], path=f"layer{number}") for number in range(1000))
    many = dataclasses.replace(one, layers=layers)
    page, few = many.to_html(), one.to_html()
    assert Page(page).rows - Page(few).rows == 2 * 998
    assert len(page) - len(few) < 1_800_000
    figure = many.plot()
    bars, heatmap, _ = figure.axes
    assert len(bars.patches) == MOST_ROWS
    assert heatmap.images[0].get_array().shape == (MOST_ROWS, 17)
    assert bars.get_xlabel().endswith("(the 60 largest of 1,000)")
    assert figure.get_size_inches()[1] < 16


def test_a_thousand_layers_are_a_page_of_bounded_size() -> None:
    model = nn.Sequential(*(nn.Conv2d(1, 1, 1) for _ in range(1000)))
    page = plan(model, "C4").to_html()
    assert Page(page).text.count("torch.Conv2d") == 1000
    assert len(page) < 500_000
