"""What each extra of relaxify needs: that it is there, in a version that fits, and can be imported."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# what relaxify imports of a distribution, by its canonical name; of others, nothing is known
MODULES = {
    "ase": "ase.md.langevin",
    "cuequivariance-torch": "cuequivariance_torch",
    "e2cnn": "e2cnn.nn",
    "e3nn": "e3nn.o3",
    "escnn": "escnn.nn",
    "lightning": "lightning.pytorch",
    "mace-torch": "mace.cli.run_train",
    "matplotlib": "matplotlib.figure",
    "phiflow": "phi.flow",
    "tblite": "tblite.ase",
    "torch-geometric": "torch_geometric.nn",
}

# escnn requires py3nj, which needs a Fortran compiler to install and is never imported: it comes second and alone
ALONE = {"escnn": Requirement("escnn>=1.0.11")}

# what an extra's packages have no release for, and the Python to use instead
TOO_NEW = {"escnn": ((3, 13), "3.12")}

# for developers, who have `make setup`
INTERNAL = {"dev"}

# one line of JSON for each module; the last line before a crash says which was being imported
_IMPORT = """
import importlib, json, os, sys
# what is imported may print
told = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for name in sys.argv[1:]:
    print(json.dumps([name, None]), file=told, flush=True)
    try:
        importlib.import_module(name)
        why = ""
    except BaseException as error:
        why = f"{type(error).__name__}: {error}".splitlines()[0]
    print(json.dumps([name, why]), file=told, flush=True)
"""


@dataclass(frozen=True)
class Need:
    """What an extra lacks, why in words, and the command that brings it."""

    requirement: str
    why: str
    fix: str

    def to_dict(self) -> dict[str, str]:
        """As plain data."""
        return asdict(self)


def extras() -> dict[str, tuple[Need, ...]]:
    """What each extra lacks; nothing of one that works. Imports what is there, in a process of its own."""
    required = _requirements()
    there = {r.name for needs in required.values() for r in needs if _version(r.name) is not None}
    broken = failures(*sorted(module for name in there if (module := _module(name))))
    return {extra: tuple(_needs(extra, needs, broken)) for extra, needs in sorted(required.items())}


def _requirements() -> dict[str, list[Requirement]]:
    """By extra, what it requires on this Python."""
    found: dict[str, list[Requirement]] = {}
    metadata = importlib.metadata.metadata("relaxify")
    parsed = [Requirement(line) for line in importlib.metadata.requires("relaxify") or ()]
    for extra in set(metadata.get_all("Provides-Extra") or ()) - INTERNAL:
        optional = [r for r in parsed if r.marker is not None and not r.marker.evaluate({"extra": ""})]
        found[extra] = [r for r in optional if r.marker is not None and r.marker.evaluate({"extra": extra})]
        found[extra] += [ALONE[extra]] if extra in ALONE else []
    return found


def _needs(extra: str, required: list[Requirement], broken: Mapping[str, str]) -> Iterator[Need]:
    limit, older = TOO_NEW.get(extra, (None, ""))
    if limit is not None and sys.version_info >= limit:
        here = f"{sys.version_info.major}.{sys.version_info.minor}"
        yield Need(extra, f"a package that it needs has no release for Python {here}", f"use Python {older}")
        return
    for requirement in required:
        text = f"{requirement.name}{requirement.specifier}"
        version = _version(requirement.name)
        if version is None:
            yield Need(text, f"{requirement.name} is not installed", _installing(extra, requirement, text))
        elif not requirement.specifier.contains(version, prereleases=True):
            yield Need(text, f"{requirement.name} {version} is installed, and {text} is needed", f'pip install "{text}"')
        elif why := broken.get(_module(requirement.name)):
            name, again = f"{requirement.name} {version}", f'pip install --upgrade "{requirement.name}"'
            yield Need(text, f"{name} cannot be imported ({why})", again)


def _module(distribution: str) -> str:
    return MODULES.get(canonicalize_name(distribution), "")


def _installing(extra: str, requirement: Requirement, text: str) -> str:
    if requirement.name in ALONE:
        return f'pip install --no-deps "{text}"'
    return f'pip install "relaxify[{extra}]"'


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def failures(*modules: str) -> dict[str, str]:
    """Why each module that cannot be imported cannot, as one sentence's end.

    >>> failures("json", "no_such_module")
    {'no_such_module': "ModuleNotFoundError: No module named 'no_such_module'"}
    """
    found: dict[str, str] = {}
    left = list(modules)
    while left:
        command = [sys.executable, "-W", "ignore", "-c", _IMPORT, *left]
        result = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        begun = ""
        for name, why in map(json.loads, result.stdout.splitlines()):
            begun = name
            if why is not None:
                left.remove(name)
                begun = ""
                found |= {name: why} if why else {}
        if result.returncode and begun:
            left.remove(begun)
            found[begun] = "Python crashes"
        elif result.returncode or left:
            return found | dict.fromkeys(left, "it was not tried: Python ended before")
    return found
