"""The documents that are written from results: docs/evidence.md, and the figures of README.md."""

from __future__ import annotations

from pathlib import Path

from benchmarks.evidence.findings import all_findings
from benchmarks.evidence.page import page
from benchmarks.evidence.readme import with_figures
from benchmarks.evidence.runs import Runs
from benchmarks.evidence.systems import SYSTEMS

ROOT = Path(__file__).parent.parent.parent


def written() -> dict[Path, str]:
    """Each document's path, and what it should say."""
    findings = all_findings([Runs.read(system) for system in SYSTEMS.values()])
    readme = ROOT / "README.md"
    return {ROOT / "docs" / "evidence.md": page(findings), readme: with_figures(readme.read_text(), findings)}
