"""relaxify doctor names versions, adapters and what is missing, and does not fail where something is broken."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from pathlib import Path

import pytest
import torch

from relaxify_cli import doctor, extras
from relaxify_cli.main import run


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def _imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it takes seconds to import."""
    monkeypatch.setattr(extras, "failures", lambda *modules: {})


def shown(capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert run(["doctor"]) == 0
    text = capsys.readouterr().out
    return [" ".join("".join(c if c.isascii() else " " for c in line).split()) for line in text.splitlines()]


def report(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, list[dict[str, str]]]]:
    assert run(["doctor", "--json"]) == 0
    found: dict[str, dict[str, list[dict[str, str]]]] = json.loads(capsys.readouterr().out)
    return found


def installed(monkeypatch: pytest.MonkeyPatch, name: str, version: str | None) -> None:
    before = extras._version
    for module in (extras, doctor):
        monkeypatch.setattr(module, "_version", lambda other: version if other == name else before(other))


def test_what_is_installed_here_works(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(extras, "MODULES", {"e3nn": "e3nn.o3", "matplotlib": "matplotlib.figure"})
    lines, version = shown(capsys), importlib.metadata.version("relaxify")
    assert f"relaxify {version}" in lines
    assert f"torch {torch.__version__}" in lines
    assert f"e3nn relaxify {version} found" in lines
    assert f"vector_neurons relaxify {version} found" in lines
    assert {"e3nn works", "plot works"} <= set(lines)


@pytest.mark.usefixtures("_imported")
def test_a_missing_library_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(monkeypatch, "e3nn", None)
    lines = shown(capsys)
    assert "e3nn not installed" in lines
    assert 'e3nn e3nn is not installed pip install "relaxify[e3nn]"' in lines


@pytest.mark.usefixtures("_imported")
@pytest.mark.skipif(sys.version_info >= (3, 13), reason="one of its packages has no release for this Python")
def test_escnn_comes_without_what_needs_a_compiler(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(monkeypatch, "escnn", None)
    assert [need["fix"] for need in report(capsys)["extras"]["escnn"]] == ['pip install --no-deps "escnn>=1.0.11"']


@pytest.mark.usefixtures("_imported")
def test_a_version_that_does_not_fit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    installed(monkeypatch, "numpy", "2.3.1")
    found = report(capsys)["extras"]
    assert [need["why"] for need in found["e2cnn"]] == ["numpy 2.3.1 is installed, and numpy<2.3 is needed"]
    assert [need["fix"] for need in found["e2cnn"]] == ['pip install "numpy<2.3"']
    assert not found["e3nn"]


@pytest.mark.usefixtures("_imported")
def test_a_python_that_is_too_new(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(extras, "TOO_NEW", {"e3nn": ((3, 0), "2.7")})
    assert [need["fix"] for need in report(capsys)["extras"]["e3nn"]] == ["use Python 2.7"]


def test_what_is_there_and_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """e3nn 0.4.4 loads a file in a way that torch has forbidden since."""
    monkeypatch.setenv("PYTHONPATH", str(Path(sys.prefix) / "e3nn-0.4.4"))
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", raising=False)
    assert extras.failures("e3nn.o3")["e3nn.o3"].startswith("UnpicklingError: ")


def test_what_crashes_prints_or_ends_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, code in {
        "crashing": "import os; os.abort()",
        "printing": 'print(\'["printing", "as we do"\')',
        "leaving": "raise SystemExit(3)",
        "fine": "",
    }.items():
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    found = extras.failures("fine", "crashing", "leaving", "printing")
    assert found == {"crashing": "Python crashes", "leaving": "SystemExit: 3"}


@pytest.mark.usefixtures("_imported")
def test_a_third_partys_adapter_that_does_not_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    info = tmp_path / "acme-3.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 3.1\n")
    (info / "entry_points.txt").write_text("[relaxify.adapters]\nacme = acme_adapter:adapter\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "acme acme 3.1 cannot be loaded (ModuleNotFoundError: No module named 'acme_adapter')" in shown(capsys)
