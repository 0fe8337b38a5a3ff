"""Models of images under quarter turns: the planted fault is named with its cause, and sound ones are left in peace."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from zoo.images import IMAGE_FAULTS, SOUND

from relaxify import inspect


def images(size: int) -> Tensor:
    return torch.randn(4, 1, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", IMAGE_FAULTS)
def test_the_planted_fault_is_named_and_so_is_its_cause(name: str) -> None:
    planted = IMAGE_FAULTS[name]
    fault = inspect(planted.make(), "C(4)", images(planted.size), training=planted.training).fault
    assert fault is not None
    assert (fault.module, fault.op, fault.kind) == (planted.where, planted.op, planted.kind)


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_model_has_no_fault(name: str) -> None:
    make, size = SOUND[name]
    report = inspect(make(), "C(4)", images(size))
    assert report.is_sound
    assert report.error.largest < 1e-12
    assert report.outputs[0].response > 1e-3
    assert report.forward_passes <= 60
