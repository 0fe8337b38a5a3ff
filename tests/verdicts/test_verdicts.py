"""What inspect, plan and assert_equivariant say of each model of the corpus is true, and where it breaks is named right.

The models are judged in a process of their own: the checks of annotations at run time, which the tests switch on,
would take four times as long as the judging.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from verdicts.corpus import DOMAINS, LIBRARIES

NAMED_RIGHT = 0.95


@pytest.mark.parametrize(
    "domains",
    [
        pytest.param([domain for domain in DOMAINS if domain not in LIBRARIES], id="plain torch"),
        pytest.param(LIBRARIES, id="libraries"),
    ],
)
def test_the_verdicts_are_true(domains: Sequence[str]) -> None:
    scores = judged(domains)
    assert [line for score in scores for line in score["wrong"]] == []
    misnamed = [f"{score['name']}: {score['misnamed']}" for score in scores if score["misnamed"]]
    assert len(misnamed) <= (1 - NAMED_RIGHT) * sum(score["faulty"] for score in scores), misnamed


def judged(domains: Sequence[str]) -> list[dict[str, Any]]:
    """What `python -m verdicts --json` measures of some domains."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "verdicts", "--json", *domains]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found: list[dict[str, Any]] = json.loads(run.stdout.splitlines()[-1])
    return found
