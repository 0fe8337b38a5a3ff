"""What is measured of a trained model: its test error, its parameters, and how far it is from equivariant."""

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relaxify_examples.nbody.simulate import Trajectories

Batch = tuple[Float[Tensor, "graph n 3"], Float[Tensor, "graph n 3"], Float[Tensor, "graph n 1"], Float[Tensor, "graph n 3"]]


def tensors(data: Trajectories) -> Batch:
    """Positions, velocities, charges and targets in single precision."""
    arrays = (data.positions, data.velocities, data.charges, data.targets)
    x, v, q, y = (torch.from_numpy(array).float() for array in arrays)
    return x, v, q, y


def parameter_count(model: nn.Module) -> int:
    """Number of trained numbers."""
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def predict(model: nn.Module, data: Batch, rows: int = 250) -> Float[Tensor, "graph n 3"]:
    """The model's prediction in `eval()`, computed `rows` graphs at a time; the model's mode is put back."""
    training = model.training
    model.eval()
    try:
        return torch.cat([model(*part) for part in zip(*(a.split(rows) for a in data[:3]), strict=True)])
    finally:
        model.train(training)


def mean_square_error(model: nn.Module, data: Batch) -> float:
    """Mean over trajectories, particles and axes of the squared error, as SEGNN's and CR's N-body tables count it."""
    return float((predict(model, data) - data[3]).square().mean())


@torch.no_grad()
def equivariance_error(model: nn.Module, data: Batch, seed: int = 0) -> float:
    """rms of f(g x) - g f(x) over rms of f(x) - x, in float64, in the mode (train or eval) the model is in.

    Every graph is moved by its own random rotation or reflection and translation g. Dividing by the predicted
    displacement keeps a model that hardly moves anything from looking equivariant.
    """
    generator = torch.Generator().manual_seed(seed)
    x, v, q = (a.double() for a in data[:3])
    # The Q of a Gaussian matrix's QR decomposition, signs fixed by R, is uniform on O(3).
    orthogonal, triangular = torch.linalg.qr(torch.randn(len(x), 3, 3, generator=generator, dtype=x.dtype))
    g = orthogonal * triangular.diagonal(dim1=-2, dim2=-1).sign()[:, None, :]
    shift = torch.randn(len(x), 1, 3, generator=generator, dtype=x.dtype)
    twin = copy.deepcopy(model).double()
    prediction = twin(x, v, q)
    difference = twin(x @ g.mT + shift, v @ g.mT, q) - (prediction @ g.mT + shift)
    return float(difference.norm() / (prediction - x).norm())
