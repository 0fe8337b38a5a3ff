"""A rotation learned from pairs (h, R h) of images, pixels in any order; and not from the labels of rotated digits.

python -m relaxify_examples.lconv.turning --out turning.png

R turns by 0.2 radians, and nothing says what it is: `Flow(Dense, steps="exp")` fits exp(L) by Adam. Whether L is the
rotation is seen when exp(t L) turns a digit half around. The angle must be below pi over the largest frequency of the
rotation, here 0.287: beyond it, other L have the same exp(L). And h must be images that span their space, as noise does and
digits do not.
"""

from __future__ import annotations

import argparse
import io
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn

from relaxify.lconv import Dense, Flow, ImageAlgebra, LConv, generators
from relaxify.output import write_whole
from relaxify_examples.lconv.data import Split, digits, split

SIDE = 8
ANGLE = 0.2
TURNS = (0, 45, 90, 135, 180)


@dataclass(frozen=True)
class Learned:
    """What was learned of the rotation: its generator, pixels in the order of images again, in units of one radian."""

    generator: Tensor
    cosine: float
    """Of the angle to the rotation's generator, as matrices."""
    cosine_on_images: float
    """The same of what the two do to digits."""
    loss: float
    """Of the last step."""


def rotation(side: int = SIDE) -> Tensor:
    """y d/dx - x d/dy as a matrix on side x side pixels."""
    return ImageAlgebra(("rotation",)).dense((side, side))[0].double()


def learn(
    seed: int, *, scrambled: bool = False, of_digits: bool = False, angle: float = ANGLE, updates: int = 400
) -> Learned:
    """Fit exp(L) to pairs, of noise or of digits, by Adam; L starts near 0."""
    random = torch.Generator().manual_seed(seed)
    order = torch.randperm(SIDE**2, generator=random) if scrambled else torch.arange(SIDE**2)
    turned = torch.linalg.matrix_exp(angle * rotation())[order][:, order].float()
    images = _digits()[:, order]
    flow = Flow(Dense(0.01 * torch.randn(1, SIDE**2, SIDE**2, generator=random)), steps="exp")
    flow.coefficients.requires_grad_(False)
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    for _ in range(updates):
        drawn = torch.randint(len(images), (64,), generator=random)
        h = images[drawn] if of_digits else torch.randn(64, SIDE**2, generator=random)
        loss = (flow(h[:, None])[:, 0] - h @ turned.mT).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return _read_out(flow, order, angle, float(loss.detach()))


def _read_out(flow: Flow, order: Tensor, angle: float, loss: float) -> Learned:
    back = torch.argsort(order)
    found = flow.generators.dense()[0].detach().double()[back][:, back]
    return Learned(found / angle, *cosines(found[None]), loss)


def classify(seed: int, *, count: int = 5, epochs: int = 40, learnable: bool = True) -> tuple[Learned, float]:
    """What L-conv's dense generators make of labels: of their span the nearest to the rotation; and the accuracy.

    Dense ones could be the rotation itself. With `learnable=False` they stay random: the level of chance.
    """
    data = split(digits(), "rotated", seed)
    torch.manual_seed(seed)
    hidden = LConv(Dense.random(count, (SIDE, SIDE), learnable=learnable), 1, 16, activation=torch.relu, gain=2**0.5)
    model = nn.Sequential(hidden, nn.Flatten(), nn.Linear(16 * SIDE**2, 10))
    loss = _train(model, data, epochs)
    span = generators(model)["0"].generators
    known = rotation()
    nearest = torch.einsum("nij,ij,nkl->kl", span, known, span)
    accuracy = float((model(data.test_x).argmax(1) == data.test_y).float().mean())
    return Learned(nearest, *cosines(span), loss), accuracy


def _train(model: nn.Module, data: Split, epochs: int) -> float:
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(data.train_x)).split(64):
            loss = F.cross_entropy(model(data.train_x[batch]), data.train_y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return float(loss.detach())


def cosines(span: Tensor) -> tuple[float, float]:
    """Of the angle between the rotation and the span of some generators: of matrices, and of what they do to digits."""
    known, images = rotation(), _digits().double()
    return cosine(span.flatten(1), known.flatten()), cosine((span @ images.mT).flatten(1), (known @ images.mT).flatten())


def cosine(span: Tensor, known: Tensor) -> float:
    """Of the angle between a vector and a span.

    >>> round(cosine(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([1.0, 1.0, 0.0])) ** 2, 6)
    0.5
    """
    basis = torch.linalg.svd(span, full_matrices=False)[2]
    return float((basis @ known).norm() / known.norm())


def _digits() -> Tensor:
    images = torch.from_numpy(digits()[0])[:, 0].flatten(1)
    return (images - images.mean()) / images.std()


def draw(rows: dict[str, Tensor], path: Path, digit: int = 13) -> None:
    """Each row's generator L, and exp(t L) of a digit."""
    figure = Figure(figsize=(1.6 * (len(TURNS) + 1) + 1, 1.7 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    image = torch.from_numpy(digits()[0][digit, 0]).double().flatten()
    panels = figure.subplots(len(rows), len(TURNS) + 1, squeeze=False)
    for line, (name, generator) in zip(panels, rows.items(), strict=True):
        limit = float(rotation().abs().max())
        line[0].imshow(generator, cmap="RdBu", vmin=-limit, vmax=limit)
        line[0].set_ylabel(name, fontsize="small")
        for axes, turn in zip(line[1:], TURNS, strict=True):
            moved = torch.linalg.matrix_exp(math.radians(turn) * generator) @ image
            axes.imshow(moved.reshape(SIDE, SIDE), cmap="gray_r", vmin=0, vmax=16)
    for axes, title in zip(panels[0], ("L", *(f"exp({turn}° L) h" for turn in TURNS)), strict=True):
        axes.set_title(title, fontsize="small")
    for axes in panels.flat:
        axes.set(xticks=[], yticks=[])
    content = io.BytesIO()
    figure.savefig(content, dpi=120)
    write_whole(path, content.getvalue(), force=True)


def _told(name: str, found: Learned) -> Tensor:
    print(f"{name:22} cosine {found.cosine:.4f}, on digits {found.cosine_on_images:.4f}, loss {found.loss:.1e}", flush=True)
    return found.generator


def main() -> None:
    parser = argparse.ArgumentParser(description="Learn a rotation from pairs of images.")
    parser.add_argument("--out", type=Path, default=Path("turning.png"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--updates", type=int, default=400)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = {"the rotation": rotation()}
    for name, way in {
        "pairs": {},
        "pairs, scrambled": {"scrambled": True},
        "pairs of digits only": {"of_digits": True},
    }.items():
        rows[name] = _told(name, learn(options.seed, updates=options.updates, **way))
    rows["trained on labels"] = _told("trained on labels", classify(options.seed)[0])
    draw(rows, options.out)


if __name__ == "__main__":
    main()
