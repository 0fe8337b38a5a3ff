"""What is published works in an environment of its own: the wheel, the source distribution, and what they say."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from email import message_from_bytes
from importlib.metadata import Distribution, PackageNotFoundError, distribution, requires
from pathlib import Path

import pytest
import readme
from packaging.requirements import Requirement

import relaxify

ROOT = Path(__file__).parents[1]


def build(source: Path, target: Path, kind: str) -> Path:
    """The one file that the build backend makes of a folder of sources."""
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(target), "--target", kind]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (made,) = target.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_source_distribution_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    """And holds what the checks need: tests, documentation and pins."""
    with tarfile.open(build(ROOT, tmp_path / "sdist", "sdist")) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    assert contents(build(source, tmp_path / "again", "wheel")) == contents(wheel)
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=False, capture_output=True, text=True).stdout.split()
    assert [name for name in tracked if not (source / name).is_file()] == []


def test_the_wheel_holds_the_packages_and_a_readme_whose_links_lead_somewhere(wheel: Path) -> None:
    files = contents(wheel)
    assert {name.partition("/")[0] for name in files} == {
        "relaxify", "relaxify_adapters", "relaxify_cli", "relaxify_examples", f"relaxify-{relaxify.__version__}.dist-info",
    }  # fmt: skip
    metadata = message_from_bytes(next(files[name] for name in files if name.endswith(".dist-info/METADATA")))
    links = re.findall(r"\]\(([^)]+)\)", str(metadata.get_payload()))
    assert [link for link in links if not link.startswith("https://")] == []
    assert metadata["Version"] == relaxify.__version__


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command `relaxify` of a new environment, which has the wheel, and what the wheel and its extra e3nn ask for."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", str(python),
                    "install", "--no-deps", "--no-index", "--no-compile", str(wheel)], check=True)  # fmt: skip
    (site,) = folder.glob("lib/python3*/site-packages")
    for name in required("relaxify", "e3nn"):
        link(distribution(name), site)
    return folder / "bin" / "relaxify"


def required(name: str, extra: str) -> set[str]:
    """The installed distributions that one needs with an extra, and those that these need."""
    found: set[str] = set()
    asked = [Requirement(text) for text in requires(name) or ()]
    while asked:
        requirement = asked.pop()
        if requirement.name in found or not (requirement.marker is None or requirement.marker.evaluate({"extra": extra})):
            continue
        with contextlib.suppress(PackageNotFoundError):
            asked += [Requirement(text) for text in requires(requirement.name) or ()]
            found.add(requirement.name)
    return found


def link(package: Distribution, site: Path) -> None:
    """Make what a distribution has in this environment importable from another one's folder."""
    for name in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
        if not (site / name).exists():
            (site / name).symlink_to(package.locate_file(name))


EVERY_COMMAND = """
import functools, json, sys
from relaxify_cli.main import run
from relaxify_examples.nbody import experiment
experiment.Settings = functools.partial(experiment.Settings, validation_size=20, test_size=20)
print(json.dumps([command for command in json.load(sys.stdin) if run(command)]))
"""


def test_the_wheel_does_what_the_readme_says(installed: Path, tmp_path: Path) -> None:
    """In an environment of its own and another folder; all in one process, but the first."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    start = functools.partial(subprocess.run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert start([installed, "--version"]).stdout == f"relaxify {relaxify.__version__}\n"
    readme.write_files(tmp_path)
    commands = [*(command for command, _ in readme.shown()), *readme.commands(), ["doctor"]]
    program = [installed.with_name("python"), "-c", EVERY_COMMAND]
    result = start(program, input=json.dumps(commands))
    assert result.returncode == 0, result.stderr
    assert "torch-geometric is not installed" in result.stdout
    assert "\\n" not in result.stdout
    assert json.loads(result.stdout.splitlines()[-1]) == [], result.stderr
