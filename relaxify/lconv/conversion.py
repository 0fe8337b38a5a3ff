"""lconvify: swap a model's layers for L-convs, and free their generators."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import fx, nn

from relaxify.graph.exported import AnyModel, opened
from relaxify.interrupts import Before
from relaxify.lconv.graph_layers import AdjacencyLConv, GraphLConv
from relaxify.lconv.graphs import with_layers
from relaxify.lconv.layer import LConv, LinearLConv
from relaxify.lconv.observing import Observed, observe
from relaxify.lconv.operators import Grid, Shifts
from relaxify.lconv.swapping import Mode, NoLConvError, is_candidate, swap
from relaxify.modules.checks import check_is_module, check_model
from relaxify.modules.copies import copied
from relaxify.modules.normal_tensors import normal_tensors
from relaxify.modules.patterns import Pattern, check_patterns, patterns_of, select

LAYERS = (LConv, LinearLConv, GraphLConv, AdjacencyLConv)


@dataclass(frozen=True, eq=False)
class Swap:
    """One candidate layer: the L-conv that takes its place, or the reason why none does."""

    path: str
    module: nn.Module
    layer: nn.Module | None
    refusal: NoLConvError | None = None

    @property
    def reason(self) -> str | None:
        """Why no L-conv takes its place, in Python's words; None if one does."""
        return None if self.refusal is None else str(self.refusal)

    @property
    def before(self) -> str:
        """The original class."""
        return type(self.module).__name__

    @property
    def generators(self) -> str:
        """What the L_i are, in a few words."""
        if self.layer is None:
            return ""
        if isinstance(self.layer, GraphLConv | AdjacencyLConv):
            return "1 graph"
        family: Any = self.layer.generators
        identity = " + I" if getattr(self.layer, "identity_weight", None) is not None else ""
        words = {"Shifts": "shifts", "Points": "points", "LowRank": "low-rank", "Grid": "grid"}
        rank = f" (rank {family.rank})" if hasattr(family, "rank") else ""
        return f"{family.count} {words.get(type(family).__name__, type(family).__name__)}{rank}{identity}"

    @property
    def parameters(self) -> tuple[int, int]:
        """Numbers learned before and after."""
        after = self.module if self.layer is None else self.layer
        return sum(p.numel() for p in self.module.parameters()), sum(p.numel() for p in after.parameters())


def swaps(
    model: AnyModel,
    *,
    mode: Mode = "exact",
    include: Sequence[Pattern] = (),
    exclude: Sequence[Pattern] = (),
    example_inputs: Sequence[Any] | None = None,
    rank: int = 16,
) -> tuple[Swap, ...]:
    """What `lconvify` would swap, and what not and why; the model is not changed. ValueError as `lconvify`."""
    if mode not in get_args(Mode):
        raise ValueError(f"mode={mode!r} is unknown; pass 'exact', 'low_rank' or 'grid'.")
    if rank < 1:
        raise ValueError(f"rank={rank}: generators of no rank are zero; pass at least 1.")
    include, exclude = patterns_of("include", include), patterns_of("exclude", exclude)
    model, example_inputs = opened(model, example_inputs)
    check_model(model, "lconvify")
    found = list(_candidates(model))
    check_patterns({"include": include, "exclude": exclude}, found)
    observed = _observed(model, example_inputs)
    chosen = [entry for entry in found if _selected(entry, include, exclude)]
    return tuple(_swap(path, module, mode, observed, rank) for path, module in chosen)


def lconvify(
    model: AnyModel,
    *,
    mode: Mode = "exact",
    include: Sequence[Pattern] = (),
    exclude: Sequence[Pattern] = (),
    example_inputs: Sequence[Any] | None = None,
    rank: int = 16,
    inplace: bool = False,
) -> nn.Module:
    """A copy of the model with convolutions, linear layers and graph convolutions swapped for L-convs (LC Props. 3 to 5).

    An L-conv is sum_i L_i h W^i (LC eq. 6) on features h of shape (batch, channels, *space), as the layers that it replaces.

    - `mode="exact"`: the same function to rounding, with frozen generators: a convolution's shifts, the points that a linear
      layer reads, a graph's A_hat - I. Parameters keep their names and values, so checkpoints load both ways.
      `free(model)` makes the generators learnable from there, `unlconvify` undoes it.
    - `mode="low_rank"`: fresh learnable L_i = U_i V_i, as many as the kernel has taps (with L_0 = I among them where a layer
      keeps its space), and `rank` rank-one ones for a linear layer. The function is another, of the same shapes.
    - `mode="grid"`: fresh learnable weights on the kernel's stencil; each point has its own with `example_inputs`.
    - `include`, `exclude`: as for `relaxify`. A layer that has no L-conv of the mode stays, with its reason in `swaps(...)`.
    - `example_inputs`: arguments of the model's forward, by which sizes of images and the spaces behind flattened features
      are known.
    - `inplace`: change the given model instead of a copy, and return it (unless the model is itself a layer).

    ValueError for an unknown mode, a pattern that matches nothing, a compiled, wrapped or lazy model, inputs on which it
    does not run, or if no layer can be swapped.

    >>> cnn = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
    >>> model = lconvify(cnn)
    >>> type(model[0]).__name__, list(model.state_dict())
    ('LConv', ['0.weight', '0.bias'])
    >>> x = torch.randn(2, 1, 8, 8)
    >>> torch.allclose(model(x), cnn(x), atol=1e-6)
    True
    """
    model, example_inputs = opened(model, example_inputs)
    check_model(model, "lconvify")
    with normal_tensors():
        model = model if inplace else copied(model)
        if isinstance(model, fx.GraphModule):
            with_layers(model)
        entries = swaps(model, mode=mode, include=include, exclude=exclude, example_inputs=example_inputs, rank=rank)
    replacements = {id(entry.module): entry.layer for entry in entries if entry.layer is not None}
    if not replacements:
        raise ValueError(_nothing(model, entries))
    return replaced(model, replacements)


def free(model: nn.Module, *, example_inputs: Sequence[Any] | None = None) -> nn.Module:
    """Make the generators of exact L-convs learnable, in place, from where they are: the function does not change yet.

    Shifts become a grid on their stencil: the same at every point, or of each point's own where `example_inputs` tell the
    space. A graph's L-conv gets a W^1 of its own. Linear layers already hold every linear map. Build the optimiser after it.
    ValueError if there is nothing to free.
    """
    freed = 0
    check_is_module(model, "free")
    observed = _observed(model, example_inputs)
    for path, layer in lconvs_of(model):
        if isinstance(layer, GraphLConv):
            layer.free()
            freed += 1
        elif isinstance(layer, LConv) and type(layer.generators) is Shifts:
            _free_shifts(layer, observed.shapes.get(path))
            freed += 1
    if not freed:
        raise ValueError(f"this {type(model).__name__} has no L-conv with generators to free; call lconvify first.")
    return model


def _observed(model: nn.Module, example_inputs: Any) -> Observed:
    if example_inputs is None:
        return Observed()
    if not isinstance(example_inputs, Sequence):
        raise ValueError(
            f"example_inputs is a {type(example_inputs).__name__}; pass forward's arguments in a sequence, such as (x,)."
        )
    return observe(model, tuple(example_inputs))


@torch.no_grad()
def _free_shifts(layer: LConv, shape: tuple[int, ...] | None) -> None:
    shifts: Any = layer.generators
    space = None if shape is None else shape[len(shape) - shifts.ndim :]
    layer.generators = Grid.of_shifts(shifts, space=space).to(layer.weight)
    weight = shifts.per_generator(layer.weight, layer.groups).contiguous()
    layer.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)


def _candidates(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every layer of a known kind, outermost first; what is inside one (a GCN's own linear map) does not count."""
    seen: set[int] = set()
    inside: list[str] = []
    for path, module in model.named_modules(remove_duplicate=False):
        if any(path.startswith(f"{outer}.") or not outer for outer in inside if outer != path):
            continue
        if isinstance(module, LAYERS):
            inside.append(path)
        elif is_candidate(module):
            inside.append(path)
            if id(module) not in seen:
                seen.add(id(module))
                yield path, module


def _selected(entry: tuple[str, nn.Module], include: Sequence[Pattern], exclude: Sequence[Pattern]) -> bool:
    return (not include or select(include, [entry])) and not select(exclude, [entry])


def _swap(path: str, module: nn.Module, mode: Mode, observed: Observed, rank: int) -> Swap:
    shape = observed.shapes.get(path)
    ndim = len(getattr(module, "kernel_size", ()))
    space = shape[-ndim:] if shape is not None and ndim else None
    try:
        layer = swap(module, mode, space=space, flattened=observed.flattened.get(path), rank=rank)
    except NoLConvError as error:
        return Swap(path, module, None, error)
    return Swap(path, module, layer)


def lconvs_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every L-conv of a model, with its path."""
    return ((path, module) for path, module in model.named_modules() if isinstance(module, LAYERS))


def replaced(model: nn.Module, replacements: dict[int, Any]) -> nn.Module:
    """Put each replacement wherever its module is held, under all of its names."""
    if id(model) in replacements:
        return replacements[id(model)]
    Before(model.modules()).or_done(lambda: _replace(model, replacements))
    return model


def _replace(model: nn.Module, replacements: dict[int, Any]) -> None:
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if id(child) in replacements:
                parent._modules[name] = replacements[id(child)]


def _nothing(model: nn.Module, entries: Sequence[Swap]) -> str:
    if not entries:
        return (
            f"this {type(model).__name__} has no layer that is an L-conv; known are Conv1d to 3d, ConvTranspose1d to 3d, "
            "Linear, torch_geometric's GCNConv and GCN layers of (features, adjacency)."
        )
    reasons = "; ".join(f"{entry.path or 'the model'}: {entry.reason}" for entry in entries[:5])
    return f"no layer of this {type(model).__name__} can be swapped ({reasons}); choose another mode or other layers."
