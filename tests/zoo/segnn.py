"""SEGNN (Brandstetter et al. 2021, arXiv 2110.02905), the repository's example model, with vectors and with degree 2."""

from functools import partial

import torch
from torch import Tensor

from relaxify_examples.models.segnn import SEGNN
from zoo.entry import Entry, along, paths


def particles() -> tuple[Tensor, ...]:
    return torch.randn(6, 5, 3), torch.randn(6, 5, 3), torch.randn(6, 5, 1)


def entry(name: str, width: int, lmax: int) -> Entry:
    return Entry(
        name=name,
        source="Brandstetter et al. 2021, arXiv 2110.02905",
        group="O(3)",
        make=partial(SEGNN, width, num_layers=2, lmax=lmax),
        inputs=particles,
        expected=paths(
            "embedding.tensor_product",
            "layers.{i}.{gated}.linear.tensor_product",
            "layers.{i}.update_2.tensor_product",
            "head_1.linear.tensor_product",
            "head_2.tensor_product",
            i=range(2),
            gated=("message_1", "message_2", "update_1"),
        ),
        output=along(-1),
        notes="FullyConnectedTensorProducts of features with geometric attributes; SteerableLinear adds biases to scalars.",
    )


ENTRIES = (entry("SEGNN", 4, 1), entry("SEGNN degree 2", 3, 2))
