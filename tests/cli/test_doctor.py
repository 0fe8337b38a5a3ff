"""relaxify doctor names versions, adapters and what is missing, and does not fail where something is broken."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
import torch

from relaxify_cli import doctor as module
from relaxify_cli.main import run


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def shown(capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert run(["doctor"]) == 0
    text = capsys.readouterr().out
    return [" ".join("".join(c if c.isascii() else " " for c in line).split()) for line in text.splitlines()]


def test_versions_and_the_built_in_adapters(capsys: pytest.CaptureFixture[str]) -> None:
    lines, version = shown(capsys), importlib.metadata.version("relaxify")
    assert f"relaxify {version}" in lines
    assert f"torch {torch.__version__}" in lines
    assert f"e3nn relaxify {version} ready" in lines
    assert f"vector_neurons relaxify {version} ready" in lines


def test_a_missing_library_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed = module._version
    monkeypatch.setattr(module, "_version", lambda name: None if name == "e3nn" else installed(name))
    lines = shown(capsys)
    assert "e3nn not installed" in lines
    assert any(line.startswith("e3nn missing e3nn>=0.4.4: pip install 'relaxify[e3nn]'") for line in lines)
    assert "escnn complete" in lines or any(line.startswith("escnn missing") for line in lines)


def test_a_third_partys_adapter_that_does_not_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    info = tmp_path / "acme-3.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 3.1\n")
    (info / "entry_points.txt").write_text("[relaxify.adapters]\nacme = acme_adapter:adapter\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "acme acme 3.1 cannot be loaded (ModuleNotFoundError: No module named 'acme_adapter')" in shown(capsys)
