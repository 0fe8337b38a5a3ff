"""What a model must be before its layers are changed; every refusal says what is wrong, why, and how to fix it."""

from __future__ import annotations

import re

import torch
from torch import fx, nn
from torch.nn.parameter import is_lazy

from relaxify.sites import Site

_WRAPPERS = {
    "OptimizedModule": "torch.compile",
    "DistributedDataParallel": "DistributedDataParallel",
    "DataParallel": "DataParallel",
    "FullyShardedDataParallel": "FullyShardedDataParallel",
}
_CHANGES = {"relaxify": "hooks added", "lconvify": "layers swapped"}
_ON_SCRIPTS = {"relaxify": "takes no hooks", "lconvify": "has no layers to swap"}
_ON_GRAPHS = {"relaxify": "relax", "lconvify": "swap"}
_HELD_AS = {"OptimizedModule": "_orig_mod", "DistributedDataParallel": "module", "DataParallel": "module"}


def check_model(model: nn.Module, caller: str = "relaxify") -> None:
    """ValueError if the model is compiled, wrapped for parallel training, scripted, lazy, or on the meta device."""
    check_is_module(model, caller)
    for path, module in model.named_modules():
        kind = next((_WRAPPERS[base.__name__] for base in type(module).__mro__ if base.__name__ in _WRAPPERS), None)
        if kind is None and module._compiled_call_impl is not None:
            kind = "compile()"
        if kind is not None:
            raise ValueError(
                f"{_where(path)} is already wrapped by {kind}, which would ignore {_CHANGES[caller]} now; "
                f"call {caller}(model, ...) on the bare model first and {kind} after it."
            )
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(
            f"the model is a TorchScript module, which {_ON_SCRIPTS[caller]}; {caller} the Python model instead."
        )
    check_has_values(model, caller)


def check_is_module(model: object, caller: str = "relaxify") -> None:
    """ValueError for what is no module."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"{caller} takes an nn.Module, not {type(model).__name__}; pass the model itself.")


def check_has_values(model: nn.Module, caller: str = "relaxify") -> None:
    """ValueError if a parameter is lazy, on the meta device, of inference mode, or an input of its graph."""
    if isinstance(model, fx.GraphModule) and (lifted := _lifted(model)):
        raise ValueError(
            f"the graph takes its parameters as inputs ({lifted[0]} and {len(lifted) - 1} more), and has none to "
            f"{_ON_GRAPHS[caller]}; "
            "pass the model that it was made of, or torch.export.export(model, inputs), whose module has them."
        )
    for path, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ValueError(f"parameter {path!r} is lazy: it has no shape yet; run one forward pass before {caller}.")
        if parameter.is_meta:
            raise ValueError(f"parameter {path!r} is on the meta device: it has no values; load or initialise it first.")
        if parameter.is_inference() and caller == "relaxify":
            raise ValueError(
                f"parameter {path!r} was made in torch.inference_mode and cannot be trained; make the model outside it."
            )


def _lifted(graph: fx.GraphModule) -> list[str]:
    """The inputs of a graph that are parameters, as torch.compile's backends and a program's own graph have them."""
    names = [node.name for node in graph.graph.nodes if node.op == "placeholder"]
    lifted = [name for name in names if _LIFTED.match(name.lower())]
    return [] if any(True for _ in graph.parameters()) else lifted


_LIFTED = re.compile(r"l_self_.*(parameters|_weight|_bias)|p_")
"""How torch.compile and torch.export name such inputs."""


def unwrapped(model: nn.Module) -> nn.Module:
    """The model that torch.compile or data parallelism wraps, which computes the same; other models as they are.

    >>> unwrapped(nn.DataParallel(nn.Linear(2, 2)))
    Linear(in_features=2, out_features=2, bias=True)
    """
    held = _HELD_AS.get(type(model).__name__)
    return model if held is None else unwrapped(getattr(model, held))


def check_site(site: Site) -> None:
    """ValueError if a site's own weights are in half precision or not finite."""
    modules = [(site.path, site.module), *site.aliases]
    own = [(path, *entry) for path, module in modules for entry in module.named_parameters(recurse=False)]
    for path, name, parameter in own:
        full = f"{path}.{name}" if path else name
        if parameter.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(
                f"parameter {full!r} is {str(parameter.dtype).removeprefix('torch.')}, too coarse for a relaxation that "
                "starts at 0; keep the model in float32 and train under torch.autocast."
            )
        if not parameter.isfinite().all():
            raise ValueError(f"parameter {full!r} has NaN or infinite values; restore the weights before relaxify.")


def _where(path: str) -> str:
    return f"module {path!r}" if path else "the model"
