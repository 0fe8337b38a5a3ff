"""Site: one equivariant linear op found in a model, with all that relaxing, projecting and converting need of it."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relaxify.graph.contractions import ChannelOrder
from relaxify.graph.derived_weights import DerivedWeight
from relaxify.grids.kernels import Convolution
from relaxify.groups import Group
from relaxify.representations import Representation


@dataclass(frozen=True)
class Features:
    """Where a feature vector sits in a tensor: its axes, outermost first, the last varying fastest.

    An axis counted from the front leaves room for those listed after it, because Vector Neurons, which move channels to
    the end, keep the vector axis at 2 of 4 or 5 axes and at 1 of 3.

    >>> import torch
    >>> Features((2, -1)).rows(torch.zeros(8, 100, 3, 21)).shape
    torch.Size([8, 100, 63])
    """

    axes: tuple[int, ...] = (-1,)

    def positions(self, ndim: int) -> list[int]:
        """The axes of a tensor of so many, counted from the front.

        >>> Features((2, -1)).positions(3)
        [1, 2]
        """
        room = range(len(self.axes), 0, -1)
        return [axis % ndim if axis < 0 else min(axis, ndim - after) for axis, after in zip(self.axes, room, strict=True)]

    def size(self, shape: Sequence[int]) -> int:
        """How many entries the feature vectors of a tensor of this shape have."""
        return math.prod(shape[axis] for axis in self.positions(len(shape)))

    def rows(self, x: Float[Tensor, "..."]) -> Float[Tensor, "*rows n"]:
        """The feature vectors of x along the last axis."""
        if self.axes == (-1,):
            return x
        last = list(range(-len(self.axes), 0))
        return x.movedim(self.positions(x.ndim), last).flatten(-len(self.axes))

    def some_rows(self, x: Float[Tensor, "..."], most: int) -> Float[Tensor, "rows n"]:
        """The feature vectors of x; of more than `most`, as many drawn from all over x, always the same."""
        ahead = x.movedim(self.positions(x.ndim), list(range(-len(self.axes), 0)))
        free = ahead.shape[: -len(self.axes)]
        if math.prod(free) <= most:
            return ahead.reshape(-1, math.prod(ahead.shape[-len(self.axes) :]))
        chosen = torch.randint(math.prod(free), (most,), generator=torch.Generator().manual_seed(0))
        return ahead[torch.unravel_index(chosen, free)].flatten(1)

    def restore(self, rows: Float[Tensor, "*rows n"], like: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The inverse of `rows`: feature vectors back in the shape of `like`."""
        if self.axes == (-1,):
            return rows
        positions = self.positions(like.ndim)
        sizes = [like.shape[axis] for axis in positions]
        return rows.unflatten(-1, sizes).movedim(list(range(-len(sizes), 0)), positions)

    def apply(self, matrix: Float[Tensor, "m n"], x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Every feature vector v of x as matrix @ v: rho(g) x for a matrix rho(g).

        >>> import torch
        >>> quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
        >>> Features((1,)).apply(quarter, torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])).tolist()
        [[[-3.0, -4.0], [1.0, 2.0]]]
        """
        return self.restore(self.rows(x) @ matrix.mT, like=x)


@dataclass(frozen=True)
class Path:
    """One block of the equivariant map: W_e[block_out, block_in] = scale * w (x) identity.

    w is the slice of the flat parameter that starts at `offset`, of shape (channels_in, channels_out) if `order` is
    `in_out`, else (channels_out, channels_in).
    """

    parameter: str
    offset: int
    block_in: int
    block_out: int
    scale: float = 1.0
    order: ChannelOrder = "in_out"


@dataclass(frozen=True)
class Attribute:
    """One feature of another argument of a module: `name` at `position`, its last axis's entry `column`."""

    position: int
    name: str
    column: int


@dataclass(frozen=True)
class EquivariantMap:
    """What a site computes: a linear map from `rep_in` to `rep_out`, found at `features_in` of the argument `argument`.

    `paths` say how the layer's own parameters express intertwiners (what `fold` may use); `unfoldable` says why they
    cannot. `derived` says how else its weight is made of parameters, by each of its calls that does it in its own way.
    `reached` projects one copy of the features, in and out, onto what values have a part in, if they leave a rest, on which
    nobody knows how the group acts. `attribute` is the scalar in a second argument that scales every path: constant in most
    models, so its constant is measured in training. `is_complete` says that the paths, applied to the argument, are all
    that is computed.
    `intercepts` names the parameters of a functional op in the module's forward, `has_constants` says whether its weight is
    also made of tensors that the module does not hold.

    A `convolution` acts on patches, of which `rep_in` is the representation; `features_in` says then where the channels
    are. `interpolation` is the largest |L_A(K)| / |K| that its own equivariant kernels score, because the group does not
    map taps to taps; 0 where it does.
    """

    adapter: str
    op: str
    rep_in: Representation
    rep_out: Representation
    features_in: Features = Features()
    features_out: Features = Features()
    argument: str = "input"
    paths: tuple[Path, ...] = ()
    unfoldable: str | None = None
    derived: tuple[DerivedWeight, ...] = ()
    reached: tuple[Tensor, Tensor] | None = None
    attribute: Attribute | None = None
    is_complete: bool = False
    intercepts: tuple[str, ...] = ()
    has_constants: bool = False
    convolution: Convolution | None = None
    interpolation: float = 0.0

    @property
    def group(self) -> Group:
        return self.rep_in.group

    @property
    def weight_shape(self) -> tuple[int, int]:
        """(n_out, n_in) of a dense term; a convolution in groups joins each output to the inputs of its group."""
        groups = 1 if self.convolution is None else self.convolution.groups
        return self.rep_out.dim, self.rep_in.dim // groups


class EvidenceKind(enum.StrEnum):
    """What a site is known by."""

    type = "type"
    """The exact type of its module."""
    name_and_structure = "name_and_structure"
    """The name of its module's class, which lives in users' own files, and the layers in it."""
    function = "function"
    """The function that runs in its module's forward."""
    symmetrised = "symmetrised"
    """An ordinary layer, whose weights are to be made equivariant."""
    data_flow = "data_flow"
    """How the values before and after it transform on example inputs."""


@dataclass(frozen=True)
class Site:
    """One equivariant linear op in a model.

    `error` runs the numeric proof that the op commutes with its representations and returns the relative error in
    float64, which a plan keeps as `proof`; of sites with equal `structure`, if it is not None, only the first is proved.
    `location` is the statement (file:line) that runs it, where the evidence is a run. `aliases` are other modules that
    share this site's weight and so its term. `idle` says why it has no effect as it is initialised, if it has none.
    Under a product of groups, `acting` says on which axes of its input each factor acts; those `kept` move whole rows, which
    the term treats alike, so that it cannot break them.
    """

    path: str
    module: nn.Module = field(repr=False)
    map: EquivariantMap
    error: Callable[[], float] = field(repr=False)
    evidence: EvidenceKind = EvidenceKind.type
    location: str = ""
    proof: float | None = None
    aliases: tuple[tuple[str, nn.Module], ...] = field(default=(), repr=False)
    structure: Hashable = field(default=None, repr=False)
    idle: str = ""
    acting: tuple[tuple[str, tuple[int, ...]], ...] = ()
    kept: tuple[str, ...] = ()

    @property
    def factors(self) -> str:
        """On which axes of its input each factor of a product of groups acts, and which of them its term keeps, in words.

        >>> import torch
        >>> from relaxify import plan
        >>> (site,) = plan(nn.Linear(2, 2, bias=False), "SO(3) x S(5)", example_inputs=torch.randn(20, 5, 3, 2)).sites
        >>> site.factors
        'SO(3) on axis -2, S(5) on axis -3'
        """
        where = ((name, " and ".join(map(str, axes))) for name, axes in self.acting if axes)
        return ", ".join(f"{name} on axis {axes}{', kept' * (name in self.kept)}" for name, axes in where)

    @property
    def parameters(self) -> int:
        """Size of the op's own weights."""
        if self.map.intercepts:
            return sum(self.module.get_parameter(name).numel() for name in self.map.intercepts)
        return sum(parameter.numel() for parameter in self.module.parameters(recurse=False))

    @property
    def added_parameters(self) -> int:
        """Size of a dense term W."""
        return math.prod(self.map.weight_shape)


class RejectionKind(enum.StrEnum):
    """Why a candidate is not relaxed."""

    unsupported = "unsupported"
    """It may be equivariant, but in no way that is relaxed."""
    excluded = "excluded"
    """A pattern of `exclude` selects it."""
    not_included = "not_included"
    """No pattern of `include` selects it."""
    trivial = "trivial"
    """It maps invariants to invariants, or nothing: it cannot break the symmetry."""
    unsound = "unsound"
    """It should be equivariant and is not."""
    spoilt = "spoilt"
    """It is downstream of what is not equivariant."""
    undecided = "undecided"
    """The example inputs do not tell how its values transform."""
    unrecognised = "unrecognised"
    """Its adapter cannot say; example inputs may."""
    unjudged = "unjudged"
    """Its type proves nothing, and there are no example inputs."""
    harmless = "harmless"
    """It looks odd in a model that is equivariant all the same: two cancel, or the basis is another."""


_REASONS = {
    RejectionKind.excluded: "excluded",
    RejectionKind.not_included: "not included",
    RejectionKind.unjudged: "its type proves nothing; pass example_inputs=(...) so that it is judged by its values",
    RejectionKind.harmless: "{why}; the model as a whole is equivariant",
}


@dataclass(frozen=True)
class Rejected:
    """A candidate that is not relaxed, and why.

    Programs read the `kind` and the fields: `location` is the statement (file:line) that was judged, `error` the relative
    error of a proof that failed. `why` is what is known beyond these, in words: an adapter's of its library, say.

    >>> rejected = Rejected("head", "Linear", "its bias breaks equivariance", RejectionKind.unsound)
    >>> rejected.unsound, f"{rejected.kind}: {rejected.reason}"
    (True, 'unsound: its bias breaks equivariance')
    """

    path: str
    op: str
    why: str = ""
    kind: RejectionKind = RejectionKind.unsupported
    location: str = ""
    error: float | None = None

    @property
    def reason(self) -> str:
        """All of this in a sentence, for people."""
        why = self.why if self.error is None else f"{self.why}: relative error {self.error:.1e} in float64"
        return _REASONS.get(self.kind, "{why}").format(why=why)

    @property
    def unsound(self) -> bool:
        """Whether it should be equivariant and is not."""
        return self.kind is RejectionKind.unsound

    @property
    def spoilt(self) -> bool:
        """Whether it is downstream of what is not equivariant."""
        return self.kind is RejectionKind.spoilt

    @property
    def unknown(self) -> bool:
        """Whether nothing is known of it, so that example inputs may tell."""
        return self.kind in (RejectionKind.unrecognised, RejectionKind.unjudged)
