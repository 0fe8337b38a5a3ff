"""Term: the added non-equivariant map theta * W x of one site (CR eq. 2), a child module of the site's module.

What all kinds of terms have: theta, W, the sketch; and what each kind answers for itself: which sites it takes,
how it acts on their modules, what of it the layer's own weights can take, and what is left to do when it is gone.
"""

from __future__ import annotations

import abc
import copy
import functools
import hashlib
import zlib
from collections.abc import Hashable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from relaxify.graph.complex_values import on_parts
from relaxify.graph.storages import unwrapped
from relaxify.grids.convolution import Patches
from relaxify.interrupts import aside
from relaxify.modules.hanging import attach, copy_without, hung
from relaxify.modules.sharding import is_dtensor, whole
from relaxify.relaxation.callers import is_within
from relaxify.relaxation.config import RelaxConfig
from relaxify.relaxation.counted_passes import is_counted
from relaxify.relaxation.distributed import with_zero_gradients
from relaxify.relaxation.sketch import Sketch
from relaxify.relaxation.terms.added_product import added_rows
from relaxify.relaxation.terms.attribute_range import NOTHING_SEEN, widened
from relaxify.relaxation.terms.commutant import Commutant
from relaxify.relaxation.terms.copied import note_copy
from relaxify.relaxation.terms.folded import FoldedTerm
from relaxify.relaxation.terms.held import held
from relaxify.relaxation.transformed import bare, is_transformed
from relaxify.representations import Representation
from relaxify.sites import EquivariantMap, Site
from relaxify.subgroups import restricted, subgroup


class Observer(Protocol):
    """What is called in place of `Term.learn`."""

    def __call__(self, term: Term, rows: Tensor | Patches, output: Tensor | None, attribute: Tensor | None) -> None: ...


class Term(FoldedTerm):
    """theta * W x, with W zero at the start: dense (n_out x n_in), or up @ down of rank r.

    Active in `train()`; in `eval()` the model computes its equivariant part alone (CR sec. 3.3) unless `keep_relaxed`.
    `forced` overrides both.
    """

    theta: Tensor
    largest_theta: Tensor
    # theta is 0 for good: whoever sets it says so
    finished = False
    # added to theta in the forward pass: a zero whose gradient is that of the loss by theta, for controllers that learn
    nudge: Tensor | None = None
    # takes what the forward pass shows of the data, where that is traced, and `learn` has to wait until it is run
    observer: Observer | None = None
    # how often theta has been set, now and when the last forward pass began
    moves = 0
    _moves_of_pass = 0

    def __init__(self, site: Site, config: RelaxConfig, *, keep_relaxed: bool, like: Tensor) -> None:
        super().__init__()
        self.map: EquivariantMap = site.map
        # in a list, or it would be a child of its own child
        self._layers = [site.module]
        self.path = site.path
        self.aliases = tuple(path for path, _ in site.aliases)
        self.config = config
        self.keep_relaxed = keep_relaxed
        self.forced: bool | None = None
        self.moves = 0
        self._moves_of_pass = 0
        self.sketch = Sketch(config)
        # nothing seen yet: every value is below inf and above -inf
        self.attribute_range = like.new_tensor(NOTHING_SEEN)
        own = dict(site.module.named_parameters(recurse=False))
        used = {path.parameter: site.module.get_parameter(path.parameter) for path in site.map.paths}
        for derived in site.map.derived:
            used |= derived.derivation.parameters(site.module)
        self.base_shapes = {name: tuple(p.shape) for name, p in (own | used).items()}
        self.structure = (_structure(site.map.rep_in), _structure(site.map.rep_out))
        self.commutant = self._commutant(like)
        self._make_weights(like)
        self.register_buffer("theta", torch.tensor(config.theta, dtype=like.dtype, device=like.device))
        self.register_buffer("largest_theta", torch.zeros_like(self.theta), persistent=False)

    def _make_weights(self, like: Tensor) -> None:
        (n_out, n_in), rank = self.map.weight_shape, self.config.rank
        # seeded by the path, so that runs repeat
        generator = torch.Generator().manual_seed(zlib.crc32(self.path.encode()))

        def noise(rows: int, columns: int) -> Tensor:
            drawn = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
            return (drawn / max(columns, 1) ** 0.5).to(like)

        starts_at_zero = self.config.init == "zeros"
        if rank is None:
            self.weight = nn.Parameter(
                like.new_zeros(n_out, n_in) if starts_at_zero else self.config.std * noise(n_out, n_in)
            )
            return
        # up = 0 makes W zero; down needs values for up to have a gradient
        down = noise(rank, n_in)
        self.up = nn.Parameter(like.new_zeros(n_out, rank) if starts_at_zero else self.config.std * noise(n_out, rank))
        self.down = nn.Parameter(down)

    def _commutant(self, like: Tensor) -> Commutant | None:
        """What keeps W among the maps that commute with the subgroup, if there is one."""
        if self.config.to is None:
            return None
        if self.map.convolution is not None:
            raise ValueError(
                f"{self.path!r} is a convolution, whose term keeps no subgroup; exclude it, or leave `to` out of its config."
            )
        sub = subgroup(self.config.to, self.map.group)
        reps = (restricted(rep, sub) for rep in (self.map.rep_in, self.map.rep_out))
        return Commutant(*reps).to(like.device, like.dtype)

    @classmethod
    @abc.abstractmethod
    def takes(cls, site: Site, config: RelaxConfig) -> bool:
        """Whether a term of this kind can relax a site."""

    @property
    def layer(self) -> nn.Module:
        """The module whose op it relaxes."""
        return self._layers[0]

    def _whole_layer(self) -> nn.Module:
        """The layer, or a copy gathered from all processes if it is sharded."""
        is_sharded = any(map(is_dtensor, self.layer.parameters()))
        return copy_without(self.layer, [self]) if is_sharded else self.layer

    @property
    def operand(self) -> str | None:
        """The parameter of the functional op that it relaxes, by which the term is called; None for the op of a module."""
        return None

    def hang(self, site: Site) -> None:
        """Make the term a child of its site's module, and let it act on all modules that the site has."""
        attach(site.module, self, self.operand)
        for module in (site.module, *(alias for _, alias in site.aliases)):
            self.act_on(module)

    @abc.abstractmethod
    def act_on(self, module: nn.Module) -> None:
        """Register hooks on a module, or stand in for its forward, by bound methods: so `take_off` recognises them."""

    def settle(self, layer: nn.Module) -> None:
        """Make this term's layer, or a copy of it, compute its equivariant part without the term."""

    @property
    def settled_parameters(self) -> tuple[str, ...]:
        """The parameters of its layer that `settle` writes to."""
        return ()

    @property
    def weight_keys(self) -> tuple[str, ...]:
        return ("weight",) if self.config.rank is None else ("up", "down")

    @property
    def size(self) -> int:
        """How many entries W has, or its factors."""
        return sum(getattr(self, key).numel() for key in self.weight_keys)

    @property
    def whole_weights(self) -> tuple[Tensor, ...]:
        """W, or up and down, gathered from all processes if they are sharded."""
        return tuple(self._kept(whole(getattr(self, key))) for key in self.weight_keys)

    @property
    def dense(self) -> Float[Tensor, "n_out n_in"]:
        """W of a term that is not of low rank, as it acts."""
        return self._kept(self.weight)

    def _kept(self, weight: Tensor) -> Tensor:
        """What of a weight commutes with the subgroup, if one is kept."""
        return weight if self.commutant is None else self.commutant(weight)

    @property
    def matrix(self) -> Float[Tensor, "n_out n_in"]:
        """W, dense, gathered from all processes if it is sharded."""
        first, *rest = self.whole_weights
        return first @ rest[0] if rest else first

    def forward(self, x: Float[Tensor, "*rows n_in"]) -> Float[Tensor, "*rows n_out"]:
        """W x on the last axis, without theta."""
        return F.linear(x, self.dense) if self.config.rank is None else F.linear(F.linear(x, self.down), self.up)

    @property
    def active(self) -> bool:
        """Whether the model's forward pass adds this term now; asked by the pass itself."""
        if not torch.compiler.is_compiling():
            self._check_second_pass()
        wanted = self.forced if self.forced is not None else self.training or self.keep_relaxed
        return wanted and not (self._is_over and not self._has_replicas)

    @property
    def _is_over(self) -> bool:
        """`finished`; in compiled code as it was when that was compiled: a term that ends is worth no new compilation."""
        if torch.compiler.is_compiling():
            # reading the attribute is what makes compiled code watch it: code that leaves the term out must see it return
            return self._was_finished() and self.finished
        return self.finished

    @torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
    def _was_finished(self) -> bool:
        return self.finished

    @property
    def _has_replicas(self) -> bool:
        """Whether other processes may wait for gradients of this term's weights, as DistributedDataParallel does."""
        return self.training and dist.is_available() and dist.is_initialized()

    def added_to(
        self, output: Tensor, x: Tensor, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] = MappingProxyType({})
    ) -> Tensor:
        """output + theta * W x for an op that made `output` of x (and of the further arguments of its module)."""
        if self._is_over:
            return with_zero_gradients(output, *self.parameters())
        return on_parts(functools.partial(self._added, args=args, kwargs=kwargs), output, x)

    def _added(self, output: Tensor, x: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        rows = self.map.features_in.rows(x)
        if self.training and is_counted():
            self._observe(rows, output, args, kwargs)
        return added_rows(output, *self._factors(rows), self.map.features_out)

    def _factors(self, rows: Float[Tensor, "*rows n_in"]) -> tuple[Float[Tensor, "*rows r"], Float[Tensor, "n_out r"]]:
        """Two matrices whose product is theta * W x, with theta on the smaller."""
        left, right = (rows, self.dense) if self.config.rank is None else (F.linear(rows, self.down), self.up)
        # a trace is of one way, whatever the sizes
        is_smaller = self.observer is None and left.numel() < right.numel()
        return (self.factor * left, right) if is_smaller else (left, self.factor * right)

    @property
    def factor(self) -> Float[Tensor, ""]:
        """theta as this forward pass has it: a copy, for the backward pass, wherever theta has gone since."""
        return held(self.theta) if self.nudge is None else self.theta + self.nudge

    def _check_second_pass(self) -> None:
        """RuntimeError in the second pass of activation checkpointing, if theta is not what it was in the first."""
        if torch._C._current_graph_task_id() == -1:
            self._moves_of_pass = self.moves
        elif self.moves != self._moves_of_pass:
            raise RuntimeError(
                f"theta of {self.path!r} was set between a forward pass and its backward pass, for which activation "
                "checkpointing runs the forward pass again: call the controller's step() after backward()."
            )

    def _observe(
        self, rows: Tensor | Patches, output: Tensor | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        """Keep what the penalty and the folding need to know of the data."""
        observer = Term.learn if self.observer is None else self.observer
        observer(self, rows, output, self._attribute(args, kwargs))

    def learn(self, rows: Tensor | Patches, output: Tensor | None, attribute: Tensor | None) -> None:
        """Keep what an observer was shown, once it has values."""
        if not is_transformed():
            aside(rows.device.type, self._learn_aside, rows, output, attribute)
            return
        with torch._C._DisableFuncTorch():
            values = (None if each is None else unwrapped(each) for each in (output, attribute))
            aside(rows.device.type, self._learn_aside, bare(rows), *values)

    def _learn_aside(self, rows: Tensor | Patches, output: Tensor | None, attribute: Tensor | None) -> None:
        self.sketch.update(rows, output)
        if attribute is not None and attribute.numel():
            self.attribute_range = widened(self.attribute_range, attribute)
        self.largest_theta.copy_(torch.maximum(self.theta.abs(), self.largest_theta))

    def _attribute(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
        """The values of the one scalar that a layer's paths go through, if it has such an argument."""
        if self.map.attribute is None:
            return None
        values = argument_of(args, kwargs, self.map.attribute.position, self.map.attribute.name)
        return values.detach()[..., self.map.attribute.column]

    def output_square(self) -> Float[Tensor, ""] | None:
        """E|f_e(x)|^2 over the last sketch, or None before training."""
        return self.sketch.output_square

    def __deepcopy__(self, memo: dict[int, Any]) -> Term:
        """A copy. One that is to be an average of weights has the very theta of this term, so that theta is not averaged."""
        if is_within(AveragedModel.__init__):
            memo[id(self.theta)] = self.theta
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        vars(twin).update(copy.deepcopy(vars(self), memo))
        if twin.theta is not self.theta:
            note_copy(twin, self, memo)
        return twin

    def extra_repr(self) -> str:
        rank = "" if self.config.rank is None else f", rank={self.config.rank}"
        return f"{self.map.rep_in} -> {self.map.rep_out}, {self.map.group.name}{rank}"


def _structure(rep: Representation) -> Hashable:
    """Equal for representations that are the same, however they were made."""
    digests = {id(action): hashlib.sha256(action.numpy().tobytes()).digest() for action in rep.actions}
    return (rep.group, rep.blocks, tuple(digests[id(action)] for action in rep.actions))


def argument_of(args: tuple[Any, ...], kwargs: Mapping[str, Any], position: int, name: str) -> Tensor:
    """A tensor among the arguments of a call, given by position or by name."""
    value = args[position] if len(args) > position else kwargs[name]
    assert isinstance(value, Tensor)
    return value


def terms_of(model: nn.Module) -> dict[str, Term]:
    """Every term of a model by its site's path, each once.

    Modules are told apart by identity: some libraries' modules compare equal though they are distinct.
    """
    return {".".join(filter(None, (owner, term.operand))): term for owner, term in owned_terms(model)}


def owned_terms(model: nn.Module) -> Iterator[tuple[str, Term]]:
    """Every term with the path of the module whose op it relaxes. ValueError for what is no module."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"a {type(model).__name__} is no model; pass the nn.Module that was relaxed.")
    seen: set[int] = set()
    for owner, term in hung(model):
        if isinstance(term, Term) and id(term) not in seen:
            seen.add(id(term))
            yield owner, term
