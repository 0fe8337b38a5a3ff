"""What hangs on a model's modules: a child that acts on its owner through hooks, or in place of the owner's forward.

Only this file knows how such a child is attached, found and taken off again, and how a model is copied without any.
Hooks and forwards are bound methods of the child, so that deepcopy and pickle carry them, and so that they can be told from
all others.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import fx, nn

from relaxify.modules.copies import copied
from relaxify.modules.sharding import gather, is_dtensor

CHILD = "relaxation"
"""The name under which a term is a child of its site's module; checkpoint keys read `path.relaxation.weight`."""

HOLDER = "functional_"
"""A term of a functional op on the parameter `weight` hangs under `functional_weight` of the module that runs the op."""

# still leads to the stand-in when another's forward has been put around it
_STAND_IN = "_relaxed_forward"

Model = TypeVar("Model", bound=nn.Module)


class Holder(nn.Module):
    """What hangs for one functional op of a module, which may have several."""


@runtime_checkable
class Hung(Protocol):
    """What can hang on a module."""

    def settle(self, layer: nn.Module) -> None:
        """Make its layer, or a copy of that, compute by itself what it computes while this does not act."""
        ...


class StandIn:
    """A bound method in place of a module's forward, which it is given as its first argument.

    The method calls `own` for what the module computes without it; several on one module nest.
    """

    def __init__(self, module: nn.Module, method: Callable[..., Any]) -> None:
        self.module = module
        self.method = method
        self.before = vars(module).get("forward")

    @property
    def __self__(self) -> object:
        return _bound_to(self.method)

    @property
    def __func__(self) -> Callable[..., Any]:
        """The function of the forward, which Accelerate binds to the module anew for mixed precision."""
        return _stand_in

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.before or type(self.module).forward.__get__(self.module))

    def own(self, *args: Any, **kwargs: Any) -> Any:
        """The forward that this stands in for."""
        if self.before is not None:
            return self.before(*args, **kwargs)
        return type(self.module).forward(self.module, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.method(self, *args, **kwargs)


def _stand_in(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    forward = vars(module).get(_STAND_IN) or type(module).forward.__get__(module)
    return forward(*args, **kwargs)


def stand_in(module: nn.Module, method: Callable[..., Any]) -> None:
    """Let a bound method of what hangs on a module stand in for its forward."""
    module.forward = vars(module)[_STAND_IN] = StandIn(module, method)


def child_name(operand: str | None) -> str:
    """The name of a module's child that acts on the module, or on its functional op with the parameter `operand`."""
    return CHILD if operand is None else HOLDER + operand.replace(".", "_")


def attach(module: nn.Module, child: nn.Module, operand: str | None = None) -> None:
    """Make `child` a child of a module, by the name that `child_name` gives, or below it."""
    place = module
    if operand is not None:
        place = Holder()
        module.add_module(child_name(operand), place)
    place.add_module(CHILD, child)
    if operand is None:
        _put_first(module, CHILD)


def _put_first(module: nn.Module, name: str) -> None:
    """Make a child the first one.

    e3nn's layers make some of their children anew when they are copied, which then come last: a copy should list its buffers
    in the order of the original, by which averages of weights match them.
    """
    for other in [other for other in module._modules if other != name]:
        module._modules[other] = module._modules.pop(other)


def key_of(prefix: str, name: str) -> str:
    """The key, in a state dict, of the tensor `name` of what hangs at a prefix."""
    return f"{prefix}{CHILD}.{name}"


def modules_at(prefix: str, *, functional: bool) -> set[str]:
    """The paths of what hangs at a prefix, and of its holder if it is a functional op's."""
    return {f"{prefix}{CHILD}"} | ({prefix.removesuffix(".")} if functional else set())


def owner_prefix(prefix: str, *, functional: bool) -> str:
    """The prefix of the module that what hangs at a prefix acts on: a functional op's hangs one module deeper."""
    return "".join(f"{part}." for part in prefix.split(".")[:-2]) if functional else prefix


def hung(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every child called `relaxation`, with the path of the module that it acts on; a shared one as often as it occurs."""
    yield from _walk(model, (), 0)


def _walk(module: nn.Module, path: tuple[str, ...], deeper: int) -> Iterator[tuple[str, Any]]:
    # named_modules would join a name for each of the hundreds of modules that have no term, in every training step
    for name, child in module._modules.items():
        if child is None:
            continue
        if name == CHILD:
            yield ".".join(path[: len(path) - deeper]), child
        yield from _walk(child, (*path, name), int(type(child) is Holder))


def take_off(model: nn.Module, children: Collection[int]) -> None:
    """Remove the children with these ids, and every hook and forward bound to one."""
    for _, module in list(model.named_modules(remove_duplicate=False)):
        for name, child in list(module._modules.items()):
            held = child._modules[CHILD] if type(child) is Holder else child
            if (name == CHILD or held is not child) and id(held) in children:
                del module._modules[name]
        _remove_hooks(module, children)
        if _STAND_IN in vars(module):
            _remove_stand_ins(module, children)


def _remove_hooks(module: nn.Module, children: Collection[int]) -> None:
    flags = (module._forward_hooks_with_kwargs, module._forward_pre_hooks_with_kwargs, module._forward_hooks_always_called)
    for hooks in (module._forward_hooks, module._forward_pre_hooks):
        for number in [number for number, hook in hooks.items() if id(_bound_to(hook)) in children]:
            for table in (hooks, *flags):
                table.pop(number, None)
    if isinstance(module, fx.GraphModule):
        module._deepcopy_hooks = [hook for hook in module._deepcopy_hooks if id(_bound_to(hook)) not in children]


def _remove_stand_ins(module: nn.Module, children: Collection[int]) -> None:
    own = vars(module)
    left = _without(own.pop(_STAND_IN), children)
    # another's forward around ours stays, and calls what is left
    is_outermost = getattr(own.get("forward"), "__func__", None) is _stand_in
    if is_outermost:
        del own["forward"]
        if left is not None:
            own["forward"] = left
    if left is not None and (isinstance(left, StandIn) or not is_outermost):
        own[_STAND_IN] = left


def _without(forward: Any, children: Collection[int]) -> Any:
    """A forward, or what it stands in for if it is bound to one of these, and so on."""
    if not isinstance(forward, StandIn):
        return forward
    forward.before = _without(forward.before, children)
    if id(forward.__self__) not in children:
        return forward
    # whoever kept it gets what it stood in for
    forward.method = StandIn.own
    return forward.before


def structure(model: nn.Module) -> Iterator[object]:
    """All that hanging something on a model, and taking it off, changes the attributes of."""
    for module in model.modules():
        yield module
        forward = vars(module).get(_STAND_IN)
        while isinstance(forward, StandIn):
            yield forward
            forward = forward.before


def copy_without(model: Model, children: Sequence[nn.Module]) -> Model:
    """A copy of a model without these children, gathered from all processes if it is sharded."""
    # the copy's hooks are bound to an empty module in the place of each
    empty = {id(child): nn.Identity() for child in children}
    clean = _gathered(model, empty) if any(map(is_dtensor, model.parameters())) else copied(model, empty)
    take_off(clean, {id(child) for child in empty.values()})
    return clean


def _gathered(model: Model, empty: Mapping[int, nn.Module]) -> Model:
    """A whole copy of a sharded model. What FSDP2 keeps must not be walked through: its storage comes and goes."""
    memo: dict[int, Any] = {**empty}
    gather(model, memo)
    return copy.deepcopy(model, memo)


def probe(module: nn.Module, dtype: torch.dtype | None = torch.float64) -> nn.Module:
    """A copy to run numeric proofs on: in float64 (None: as it is), eval, without hooks and without what hangs on it."""
    twin = copied(module).to("cpu", dtype).eval()
    take_off_all(twin)
    for part in twin.modules():
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
    return twin


def restore_forward(module: nn.Module) -> None:
    """Give a module the forward back that it had before anything stood in for it."""
    own = vars(module)
    own.pop(_STAND_IN, None)
    forward = own.pop("forward", None)
    while isinstance(forward, StandIn):
        forward = forward.before
    if forward is not None:
        own["forward"] = forward


def take_off_all(model: nn.Module) -> None:
    """Remove all that hangs on a model, which computes then what it computes while none of that acts."""
    acting = {id(child) for part in model.modules() for child in _acting_on(part)}
    # a module of the model's own may be called `relaxation` too
    for path, child in [(path, child) for path, child in hung(model) if id(child) in acting]:
        child.settle(model.get_submodule(path))
    take_off(model, acting)


def _acting_on(module: nn.Module) -> Iterator[Hung]:
    """What the hooks and the stand-ins of a module are bound to, of what can hang."""
    callbacks: list[Any] = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    forward = vars(module).get(_STAND_IN)
    while isinstance(forward, StandIn):
        callbacks.append(forward)
        forward = forward.before
    yield from (child for child in map(_bound_to, callbacks) if isinstance(child, Hung))


def _bound_to(callback: object) -> object:
    return getattr(callback, "__self__", None)
