"""The report as data, as JSON, and as a page that a browser opens."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from relaxify import Report, inspect, relaxify, set_theta
from relaxify.testing import assert_equivariant

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, *, bias: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(1, 4, bias=False), nn.Linear(4, 4, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        v = self.second(self.first((x - x.mean(0)).unsqueeze(-1)))
        return v * v.norm(dim=1, keepdim=True)


def report_of(model: nn.Module) -> Report:
    return inspect(model, "O(3)", X)


@pytest.fixture(scope="module")
def broken() -> Report:
    torch.manual_seed(0)
    return report_of(Net(bias=True))


class Nearest(nn.Module):
    """A relu of components of what the nearest others give; topk gives two values in one statement."""

    def forward(self, x: Tensor) -> Tensor:
        found = torch.cdist(x, x).topk(3, largest=False)
        y: Tensor = x - x[found.indices[:, 1]] - x[found.indices[:, 2]]
        return y.relu()


def test_a_place_that_is_undecided_is_listed_once() -> None:
    undecided = report_of(Nearest()).undecided
    assert undecided
    assert len(set(undecided)) == len(undecided)


def test_json_holds_the_whole_report(broken: Report) -> None:
    data = json.loads(broken.to_json())
    assert data["format"] == "relaxify-report/1"
    assert data["fault"]["module"] == "second"
    assert len(data["nodes"]) == len(broken.nodes)
    assert data["error"]["mean"] == broken.error.mean
    assert data["layers"][0]["share"] is None


def test_diff_names_what_changed() -> None:
    torch.manual_seed(0)
    model = Net()
    before = report_of(model)
    relaxify(model, "O(3)", example_inputs=X)
    set_theta(model, 1.0)
    nn.init.ones_(model.second.relaxation.weight)
    after = report_of(model)
    changes = {change.what: (change.before, change.after) for change in before.diff(after).changes}
    assert changes["second share"][0] is None
    assert changes["second share"][1] > 0.1
    assert "fault" not in changes
    assert str(after.diff(after)) == "no change"
    assert "second share: - -> " in str(before.diff(after))


def test_the_page_names_the_fault_and_needs_no_network(broken: Report) -> None:
    page = broken.to_html()
    assert "a constant (a bias) is added" in page
    assert "self.second(self.first(" in page
    assert not re.findall(r"(?:src|href)=|https?://|@import|url\(", page)


def test_names_in_the_page_are_text_not_markup() -> None:
    model = Net()
    model.__class__ = type("<script>alert(1)</script>", (Net,), {})
    page = report_of(model).to_html()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


CHROMIUM = shutil.which("chromium")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open the page with")
def test_a_browser_opens_the_page_and_runs_its_script(broken: Report, tmp_path: Path) -> None:
    look = "document.querySelector('th').click(); document.title = 'sorted ' + document.querySelectorAll('tr').length"
    path = tmp_path / "report.html"
    path.write_text(broken.to_html().replace("</body>", f"<script>{look}</script></body>"), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    result = subprocess.run([CHROMIUM, *options, path.as_uri()], capture_output=True, text=True, timeout=120, check=False)
    (output,) = broken.outputs
    heads = 4
    rows = heads + len(broken.nodes) + len(broken.layers) + len(broken.outputs) + len(output.by_element)
    assert f"<title>sorted {rows}</title>" in result.stdout


class Policy(nn.Module):
    """Its output is a distribution, in which no tensor is looked for."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(1, 4, bias=False)

    def forward(self, x: Tensor) -> torch.distributions.Normal:
        return torch.distributions.Normal(self.mix(x.unsqueeze(-1)).norm(dim=1), 1.0)


def test_an_output_without_tensors_is_reported_with_how_to_return_them_and_raised_by_what_asserts() -> None:
    x = torch.randn(9, 3)
    report = inspect(Policy(), "SO(3)", x)
    assert (report.is_sound, report.outputs, report.fault, report.undecided) == (False, (), None, ())
    for page in (str(report), str(report.verdict), report.to_html(), report.to_json()):
        assert "return tensors, in tuples, dicts or dataclasses" in page
    with pytest.raises(AssertionError, match=r"Policy cannot be judged under SO\(3\): undecided: no tensor is found"):
        assert_equivariant(Policy(), "SO(3)", x)
    with pytest.raises(ValueError, match=r"Policy cannot be told .*: no tensor is found, in output of type Normal; return"):
        relaxify(Policy(), "SO(3)", example_inputs=x)


def test_a_page_says_on_what_it_was_measured_and_in_what_precision() -> None:
    report = inspect(nn.Linear(4, 4, bias=False), "SO(3)", keywords={"input": torch.randn(9, 3, 4)})
    assert report.about() == {"measured in": "float64", "inputs": "input: float32 (9, 3, 4), vectors on axis 1"}
    assert "measured in float64 · inputs input: float32 (9, 3, 4), vectors on axis 1" in report.to_html()
    assert report.to_dict()["inputs"] == (("input", "float32 (9, 3, 4), vectors on axis 1"),)


def test_a_page_says_of_products_and_own_actions_what_is_known() -> None:
    x = torch.randn(5, 3)
    of_product = inspect(nn.Identity(), "O(3) x S(5)", x)
    assert dict(of_product.inputs) == {"0": "float32 (5, 3), O(3): vectors on axis 1; S(5): vectors on axis 0"}
    own = inspect(nn.Identity(), "SO(3)", x, input_action=lambda g, inputs: (inputs[0] @ g.mT.to(inputs[0]),))
    assert dict(own.inputs) == {"0": "float32 (5, 3)"}
