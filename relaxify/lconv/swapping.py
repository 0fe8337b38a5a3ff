"""Which L-conv stands for one layer: exactly (LC Props. 3 to 5), or fresh with low-rank or grid generators."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from relaxify.grids.convolution import CONVOLUTIONS, Geometry
from relaxify.lconv.graph_layers import AdjacencyLConv, GraphLConv, GraphSettings
from relaxify.lconv.layer import LConv, LinearLConv
from relaxify.lconv.operators import Grid, LowRank, Points, Shifts
from relaxify.lconv.operators.family import Space
from relaxify.modules.copies import copied

Mode = Literal["exact", "low_rank", "grid"]

TOLERANCE = 1e-10
TRIALS = 3


class NoLConvError(Exception):
    """Why a layer has no L-conv of the mode that was asked for; `needs_inputs` if it may have one with example inputs."""

    def __init__(self, why: str, *, needs_inputs: bool = False) -> None:
        super().__init__(f"{why}: pass example_inputs" if needs_inputs else why)
        self.why, self.needs_inputs = why, needs_inputs


@dataclass(frozen=True, eq=False)
class Origin:
    """The layer that an L-conv took the place of: its class, its settings, and the names of its parameters.

    It is not a child of the L-conv, so it adds nothing to the state dict; its Parameters are the L-conv's own.
    """

    module: nn.Module


def is_candidate(module: nn.Module) -> bool:
    """Whether `module` is of a kind that has an L-conv at all."""
    if isinstance(module, (*CONVOLUTIONS, nn.Linear)) or _is_gcn(module):
        return True
    parts = _plain_gcn_parts(module)
    if parts is None or not isinstance(getattr(module, parts[0]), nn.Linear):
        return parts is not None
    # many modules hold one linear layer and take two arguments: unless it is a GCN, that layer is the candidate
    try:
        _plain_gcn(module)
    except NoLConvError:
        return False
    return True


def swap(module: nn.Module, mode: Mode, *, space: Space | None, flattened: Space | None, rank: int) -> nn.Module:
    """The L-conv for `module`. NoLConvError, with the reason, if there is none.

    `space` is where a convolution acts, if known; `flattened` the space whose points are a linear layer's features.
    """
    if reason := _unswappable(module):
        raise NoLConvError(reason)
    # weights that are drawn and thrown away must not shift the caller's random numbers
    with torch.random.fork_rng(enabled=mode == "exact"):
        twin = _twin(module, mode, space, flattened, rank)
    if mode == "exact":
        # its Parameters are the layer's own, whose types and devices stay as they are
        twin.origin = Origin(module)  # type: ignore[assignment]
        return twin.train(module.training)
    like = next(module.parameters())
    return twin.to(like.device, like.dtype).train(module.training)


def _twin(module: nn.Module, mode: Mode, space: Space | None, flattened: Space | None, rank: int) -> nn.Module:
    if isinstance(module, nn.Linear):
        return _linear(module, mode, flattened, rank)
    if isinstance(module, tuple(CONVOLUTIONS)):
        return _convolution(module, mode, space, rank)
    if mode != "exact":
        raise NoLConvError("its generator is the graph's, which comes with every call and cannot be learned")
    return _gcn(module) if _is_gcn(module) else _plain_gcn(module)


def _unswappable(module: nn.Module) -> str | None:
    for child in module.modules():
        if derived := _derived(child):
            return f"its {derived} is computed from other tensors, and would no longer be"
        if any(getattr(child, hooks) for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")):
            return "it has hooks, which a swap would lose"
        if "forward" in vars(child):
            return "its forward was replaced"
    return None if _is_gcn(module) else _other_function(module)


def _derived(module: nn.Module) -> str | None:
    """The parameter that a parametrisation, weight norm or pruning makes anew, if there is one."""
    if isinstance(parametrised := getattr(module, "parametrizations", None), nn.ModuleDict):
        return next(iter(parametrised), None)
    return next((name for name in ("weight", "bias") if isinstance(vars(module).get(name), Tensor)), None)


def _other_function(module: nn.Module) -> str | None:
    """Why a subclass of a layer may compute something else than the layer; None of one that adds nothing to the function."""
    kind = type(module)
    base = next((each for each in kind.__mro__ if each in (*CONVOLUTIONS, nn.Linear)), kind)
    if kind is base:
        return None
    if kind.__module__.partition(".")[0] == "torch":
        return f"a {kind.__name__} is not called as a layer, its weight is read"
    methods = ("forward", "_conv_forward", "__call__")
    if changed := [name for name in methods if getattr(kind, name, None) is not getattr(base, name, None)]:
        return f"its class {kind.__name__} has its own {changed[0]}, and may compute something else than a {base.__name__}"
    own = sorted(dict(module.named_parameters()).keys() - {"weight", "bias"})
    return f"its class {kind.__name__} has parameters of its own ({', '.join(own)})" if own else None


def _convolution(module: nn.Module, mode: Mode, space: Space | None, rank: int) -> LConv:
    conv: Any = module
    shifts = Shifts.of(Geometry.of(module))
    channels = {"in_channels": conv.in_channels, "out_channels": conv.out_channels, "groups": conv.groups}
    if mode == "exact":
        layer = LConv(shifts, **channels, bias=False, identity=False)
        # the very same Parameters: optimisers that hold them go on, and keys stay
        layer.weight, layer.bias = conv.weight, conv.bias
        return layer
    if shifts.count == 1:
        raise NoLConvError("its kernel is one point, so there is no generator to learn")
    bias = conv.bias is not None
    if mode == "grid":
        return LConv(Grid.random(shifts.count, shifts, space=space), **channels, bias=bias, identity=False)
    if space is None:
        raise NoLConvError("low-rank generators fill the image, and its one size is not known", needs_inputs=True)
    out = shifts.space_out(space)
    same = out == space
    generators = LowRank.random(shifts.count - same, space, rank=rank, space_out=out)
    return LConv(generators, **channels, bias=bias, identity=same)


def _linear(module: nn.Linear, mode: Mode, flattened: Space | None, rank: int) -> LinearLConv:
    parameters = dict(module.named_parameters())
    inputs, outputs, bias = module.in_features, module.out_features, "bias" in parameters
    if mode == "exact":
        layer = LinearLConv(Points(flattened or (1,)), inputs, outputs, bias=False)
        layer.weight, layer.bias = parameters["weight"], parameters.get("bias")
        return layer
    if mode == "grid":
        raise NoLConvError("a linear layer maps to one point, where there is no local stencil")
    # features that do not come from an image are a space of their own
    space = flattened or (inputs,)
    return LinearLConv(LowRank.random(rank, space, rank=1, space_out=(1,)), inputs, outputs, bias=bias)


def _is_gcn(module: nn.Module) -> bool:
    """Whether it is torch_geometric's GCNConv, or of a class made of that; what such a class computes is proved."""
    kinds = type(module).__mro__
    return any(kind.__name__ == "GCNConv" and kind.__module__.partition(".")[0] == "torch_geometric" for kind in kinds)


def _gcn(module: nn.Module) -> GraphLConv:
    conv: Any = module
    generator = torch.Generator().manual_seed(0)
    if type(conv.aggr_module).__name__ != "SumAggregation" or conv.node_dim != -2 or conv.decomposed_layers != 1:
        raise NoLConvError("it does not aggregate by a sum over neighbours")
    settings = GraphSettings(conv.normalize, conv.add_self_loops, conv.improved, conv.flow == "source_to_target")
    layer = GraphLConv(conv.lin, conv.bias, settings)
    edges = torch.tensor([[0, 1, 1, 2, 3, 3, 4, 5], [1, 0, 2, 3, 3, 4, 0, 2]])
    # without weights, some versions of the library make loops differently
    for weights in (torch.linspace(0.5, 2, 8, dtype=torch.float64), None):
        # a layer that was lazy has -1 for its channels
        x = torch.randn(7, conv.lin.weight.shape[1], dtype=torch.float64, generator=generator)
        _prove(module, layer, generator, x, edges, weights)
    return layer


def _plain_gcn_parts(module: nn.Module) -> tuple[str, str | None] | None:
    """The names of Theta and of the bias, if the module has just these and takes (features, adjacency)."""
    if type(module).__module__.partition(".")[0] == "torch" or isinstance(
        module, GraphLConv | AdjacencyLConv | LConv | LinearLConv
    ):
        return None
    own = dict(module.named_parameters(recurse=False))
    matrices = [name for name, p in own.items() if p.dim() == 2]
    matrices += [name for name, child in module.named_children() if type(child) is nn.Linear]
    vectors = [name for name, p in own.items() if p.dim() == 1]
    others = [child for child in module.children() if type(child) is not nn.Linear and any(True for _ in child.parameters())]
    if len(matrices) != 1 or len(vectors) > 1 or len(own) != len(vectors) + (matrices[0] in own) or others:
        return None
    return (matrices[0], vectors[0] if vectors else None) if _takes_two(module) else None


def _takes_two(module: nn.Module) -> bool:
    try:
        signature = inspect.signature(module.forward)
    except (TypeError, ValueError):
        return False
    plain = [p for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty]
    return len(plain) == 2


def _plain_gcn(module: nn.Module) -> AdjacencyLConv:
    parts = _plain_gcn_parts(module)
    assert parts is not None
    theta, bias = parts
    held: Any = getattr(module, theta)
    layer = AdjacencyLConv(theta, held, bias, None if bias is None else module.get_parameter(bias))
    features = held.in_features if isinstance(held, nn.Linear) else held.shape[0]
    generator = torch.Generator().manual_seed(0)
    for _ in range(TRIALS):
        x, adjacency = (torch.randn(7, size, dtype=torch.float64, generator=generator) for size in (features, 7))
        _prove(module, layer, generator, x, (adjacency * (adjacency.abs() > 0.5)).to_sparse())
    return layer


def _prove(module: nn.Module, layer: nn.Module, generator: torch.Generator, *inputs: Tensor | None) -> None:
    """NoLConvError unless the L-conv computes what the layer does, in float64 on random inputs and weights."""
    ours, theirs = (copied(m).double().eval() for m in (layer, module))
    if [p.shape for p in ours.parameters()] != [p.shape for p in theirs.parameters()]:
        raise NoLConvError("it has parameters of its own")
    # a graph that it has kept is not the one that it is tried on
    for name in ("_cached_edge_index", "_cached_adj_t"):
        if hasattr(theirs, name):
            setattr(theirs, name, None)
    with torch.no_grad():
        for ours_parameter, theirs_parameter in zip(ours.parameters(), theirs.parameters(), strict=True):
            theirs_parameter.normal_(generator=generator)
            ours_parameter.copy_(theirs_parameter)
        try:
            expected, found = theirs(*inputs), ours(*inputs)
        # a user's forward may raise anything
        except Exception as error:
            raise NoLConvError(f"it does not run as a graph convolution ({type(error).__name__})") from error
    same = isinstance(expected, Tensor) and expected.shape == found.shape
    if not same or not bool(((expected - found).abs() <= TOLERANCE * found.abs().max()).all()):
        raise NoLConvError("it computes something other than A_hat x Theta + b")
