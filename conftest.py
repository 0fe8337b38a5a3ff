"""What every test shares: one thread, fixed seeds, the same examples of hypothesis, and pages that show what they print."""

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
