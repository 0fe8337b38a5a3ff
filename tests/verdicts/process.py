"""Programs of the corpus in a process of their own, without the checks of annotations that the tests switch on.

These take four times as long as what they check, and speak before relaxify does where an argument is of a wrong type.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any


def output_of(module: str, *arguments: str) -> Any:
    """The JSON that a module prints in its last line."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", module, *arguments]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])
