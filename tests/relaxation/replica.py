"""One of two processes that train together: `python replica.py RANK RENDEZVOUS OUT` saves what its half of a batch gave."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from networks import e3nn_net, randomise_terms
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard

from relaxify import ACE, RECM, Controller, RelaxConfig, Triangle, penalty, project, relaxify, thetas
from relaxify.relaxation.terms.term import terms_of
from relaxify_examples.models.vector_neurons import VNLinear

WORLD = 2


class VNLinears(nn.Module):
    """Vector Neurons without batch norms, whose statistics would be those of half a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.product = VNLinear(3, 6), VNLinear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.product(self.first(x))


def vn_linears() -> tuple[nn.Module, str, tuple[Tensor, ...]]:
    return VNLinears(), "SO(3)", (torch.randn(4, 3, 3, 10),)


class Convolutions(nn.Module):
    """Ordinary ones, whose terms stand in for their forward."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.product = nn.Conv2d(2, 4, 3, groups=2), nn.Conv2d(4, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.product(self.first(x).relu())


def convolutions() -> tuple[nn.Module, str, tuple[Tensor, ...]]:
    return Convolutions(), "C(4)", (torch.randn(4, 2, 9, 9),)


CASES = {
    "rms": (e3nn_net, RelaxConfig(rows=None)),
    "norm": (e3nn_net, RelaxConfig(rows=None, reduction="norm")),
    "weights": (e3nn_net, RelaxConfig(reduction="weights")),
    "rank": (e3nn_net, RelaxConfig(rows=None, rank=2)),
    "merged": (vn_linears, RelaxConfig(rows=None)),
    "convolutions": (convolutions, RelaxConfig(rows=None)),
}


STEPS = 6
CONTROLLERS: dict[str, Callable[[nn.Module], Controller]] = {
    "ACE": lambda model: ACE(model, STEPS, until=0.7),
    "ACE, partial": lambda model: ACE(model, STEPS, form="partial", until=None),
    "RECM": lambda model: RECM(model, STEPS, every=2, until=0.7),
    "refolding Triangle": lambda model: Triangle(model, STEPS, until=0.7, refold_every=2),
}


def relaxed_net(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Always the same."""
    torch.manual_seed(0)
    make, config = CASES[name]
    model, group, batch = make()
    randomise_terms(relaxify(model, group, config=config))
    return model, batch


def step(model: nn.Module, batch: tuple[Tensor, ...], inner: nn.Module) -> dict[str, Any]:
    """The penalty, every gradient, and theta after a controller's step."""
    theta = Triangle(inner, 10)
    output = model(*batch)
    value = penalty(model)
    (output.square().mean() + value).backward()
    theta.step()
    gradients = {name: whole(p.grad) for name, p in inner.named_parameters() if p.grad is not None}
    thetas = [float(term.theta) for term in terms_of(inner).values()]
    return {"penalty": value.detach(), "gradients": gradients, "thetas": thetas}


def trained(model: nn.Module, batch: tuple[Tensor, ...], inner: nn.Module, name: str) -> dict[str, Any]:
    """theta after each step of a training, and the weights at the end; `model` is what the controller is handed too."""
    for term in terms_of(inner).values():
        term.weight.data.mul_(0.01)
    theta = CONTROLLERS[name](model)
    optimizer = torch.optim.SGD(inner.parameters(), 1e-3)
    seen = []
    for _ in range(STEPS):
        loss = model(*batch).square().mean()
        (loss + penalty(model, relative_to=loss)).backward()
        optimizer.step()
        optimizer.zero_grad()
        theta.step()
        seen.append(list(thetas(inner).values()))
    updates = [term.sketch.updates for term in terms_of(inner).values()]
    return {"thetas": seen, "weights": {key: p.detach() for key, p in inner.named_parameters()}, "updates": updates}


def whole(gradient: Tensor) -> Tensor:
    return gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient


def replicated(model: nn.Module, batch: tuple[Tensor, ...]) -> dict[str, Any]:
    return step(nn.parallel.DistributedDataParallel(model), batch, model)


def sharded(model: nn.Module, batch: tuple[Tensor, ...], *, layers: bool) -> dict[str, Any]:
    """With every layer a unit of its own, or with the whole model as one."""
    for layer in (model.first, model.product) if layers else ():
        fully_shard(layer)
    fully_shard(model)
    result = step(model, batch, model)
    result["state"] = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    result["projected"] = {}
    for mode in ("drop", "fold", "fit"):
        clean = project(model, mode=mode)
        assert type(clean).__name__ in ("E3nnNet", "VNLinears", "Convolutions")
        assert not any("forward" in vars(m) for m in clean.modules())
        assert not any(m._forward_hooks or m._forward_pre_hooks or m._state_dict_hooks for m in clean.modules())
        result["projected"][mode] = clean.state_dict()
        copy.deepcopy(clean)(*batch)
    return result


def main(rank: int, rendezvous: str, out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=WORLD)
    results = {}
    for name in CASES:
        model, batch = relaxed_net(name)
        half = tuple(x.chunk(WORLD)[rank] for x in batch)
        results[name] = {
            "ddp": replicated(copy.deepcopy(model), half),
            "fsdp": sharded(copy.deepcopy(model), half, layers=False),
            "fsdp by layers": sharded(copy.deepcopy(model), half, layers=True),
        }
    for name in CONTROLLERS:
        model, batch = relaxed_net("rms")
        half = tuple(x.chunk(WORLD)[rank] for x in batch)
        results[name] = trained(nn.parallel.DistributedDataParallel(model), half, model, name)
    torch.save(results, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
