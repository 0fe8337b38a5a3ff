"""e3nn 0.4.4, which MACE pins: the essential e3nn tests again, in a process that imports the old version.

Its generated code is ScriptModules, which take no hooks, and some of its Clebsch-Gordan phases differ.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = Path(sys.prefix) / "e3nn-0.4.4"

ESSENTIAL = [
    "test_representations_are_those_of_e3nn",
    "test_generators_are_exact_in_every_default_dtype",
    "test_layers_made_in_float32_are_proved_too",
    "test_paths_are_the_linear_layer",
    "test_paths_are_the_tensor_product_with_a_scalar",
    "test_fold_of_an_intertwiner_is_the_relaxed_linear_layer",
    "test_fold_of_an_intertwiner_is_the_relaxed_tensor_product_where_the_scalar_is_constant",
    "test_relax_train_project",
    "test_convert_equals_project",
]

PROGRAM = """
import sys
import pytest
from e3nn import __file__, __version__, o3
assert __version__ == "0.4.4", f"e3nn {__version__} of {__file__} was imported"
print("tested e3nn", __version__)
sys.exit(pytest.main(sys.argv[1:]))
"""
"""e3nn is imported before pytest, which makes an error of the warning that loading its constants gives."""


def test_e3nn_044() -> None:
    assert FOLDER.is_dir(), f"e3nn 0.4.4 is not at {FOLDER}, where `make setup` installs it: run make setup."
    tests = [f"tests/adapters/test_e3nn.py::{name}" for name in ESSENTIAL]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(FOLDER), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
        "OMP_NUM_THREADS": "1",
    }
    # torch warns of how the old version, like every fx.GraphModule, annotates what it scripts
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore:The TorchScript type system:UserWarning"]
    command = [sys.executable, "-c", PROGRAM, *options, *tests]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "tested e3nn 0.4.4" in result.stdout
