"""What every test shares: one thread, fixed seeds, the same examples of hypothesis, and pages that show what they print."""

import sys

import jaxtyping
import numpy as np
import pytest
import shown_output  # noqa: F401
import torch
from hypothesis import HealthCheck, settings
from type_checks import begin, checked

torch.set_num_threads(1)
jaxtyping.jaxtyped = checked
settings.register_profile(
    "relaxify", deadline=None, derandomize=True, max_examples=40, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("relaxify")


@pytest.fixture(autouse=True)
def _seed() -> None:
    begin()
    # of the CPU's stream alone: torch.manual_seed writes down the stack for every kind of device
    torch.default_generator.manual_seed(0)
    # escnn's searches start anywhere
    np.random.seed(0)  # noqa: NPY002


def pytest_runtest_setup() -> None:
    """escnn shares sampled bases among all models of a process: `double()` of one is of those that are made later too."""
    module = sys.modules.get("escnn.nn.modules.basismanager.basisexpansion_singleblock")
    stored = {} if module is None else module._stored_filters
    for key in [key for key, block in stored.items() if block.sampled_basis.dtype != torch.float32]:
        del stored[key]
