"""FoldedTerm: what of theta W the layer's own weights take, along the layer's paths or through how its weight is made."""

from __future__ import annotations

import abc
from collections.abc import Hashable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from relaxify.intertwiners import add_paths, fit_updates, fold_updates, project_to_intertwiners
from relaxify.modules.sharding import is_dtensor
from relaxify.relaxation.terms.attribute_range import scaled
from relaxify.relaxation.terms.derived_fold import CODE_NEEDED, Expansion, expansion, known_part
from relaxify.relaxation.terms.saved import SavedTerm
from relaxify.relaxation.terms.spanned import spans_of
from relaxify.sites import Path
from relaxify.spans import Span

Update = tuple[str, int, Shaped[Tensor, "_"]]
"""What is added to a slice of a layer's parameter: its name, the offset in the flat parameter, and the values."""


FOLDS = 1e-6
"""What rounding, and the fit of a representation, leave of a part that is folded whole, relative to its size."""


class FoldedTerm(SavedTerm):
    """The part of a term that `project(mode="fold")` and "fit" ask."""

    _known_spans: tuple[Hashable, tuple[Span, ...]] | None = None

    @property
    @abc.abstractmethod
    def layer(self) -> nn.Module: ...

    @abc.abstractmethod
    def _whole_layer(self) -> nn.Module: ...

    @property
    @abc.abstractmethod
    def matrix(self) -> Float[Tensor, "n_out n_in"]: ...

    def fold_paths(self) -> tuple[tuple[Path, ...], str | None]:
        """The paths that `fold` may use, with a measured constant attribute in their scale, and why there are none."""
        if self.map.attribute is None:
            return self.map.paths, self.map.unfoldable
        paths, reason = scaled(self.map.paths, *self.attribute_range.tolist())
        return paths, reason or self.map.unfoldable

    def why_not_foldable(self) -> str | None:
        """Why the layer's weights cannot take any of W; None if they can."""
        if self.map.derived:
            found = self._expansion()
            return found if isinstance(found, str) else None
        paths, reason = self.fold_paths()
        return reason if paths else reason or "its weights cannot express any of it"

    def record_paths(self) -> tuple[tuple[Path, ...], str | None]:
        """The paths that a checkpoint can be folded by, and why there are none."""
        return ((), None if self._spans() else CODE_NEEDED) if self.map.derived else self.fold_paths()

    def _spans(self) -> tuple[Span, ...]:
        """What a checkpoint says of a weight that is made of its parameters; found anew when what else it reads changes."""
        parameters = list(self.layer.parameters())
        if not self.map.derived or any(map(is_dtensor, parameters)) or any(map(torch.is_complex, parameters)):
            return ()
        read = [value for each in self.map.derived for value in each.derivation.attributes(self.layer).values()]
        key = tuple((id(value), None if isinstance(value, nn.Parameter) else value._version) for value in read)
        if self._known_spans is None or self._known_spans[0] != key:
            found = self._expansion()
            if isinstance(found, str):
                return ()
            if len(found.shapes) < sum(isinstance(value, nn.Parameter) for value in read):
                return spans_of(found, self.map)
            self._known_spans = key, spans_of(found, self.map)
        return self._known_spans[1]

    def _expansion(self) -> Expansion | str:
        return expansion(self.map, self._whole_layer())

    @torch.no_grad()
    def equivariant_part(self) -> Float[Tensor, "n_out n_in"]:
        """P_H W, in float64."""
        return project_to_intertwiners(self.matrix, self.map.rep_in, self.map.rep_out)

    @property
    def relaxation(self) -> Float[Tensor, "n_out n_in"]:
        """theta W, in float64."""
        return (self.theta * self.matrix).detach().double().cpu()

    @torch.no_grad()
    def equivariant_relaxation(self) -> Float[Tensor, "n_out n_in"]:
        """P_H (theta W), in float64."""
        return project_to_intertwiners(self.relaxation, self.map.rep_in, self.map.rep_out)

    @torch.no_grad()
    def folded(self) -> Float[Tensor, "n_out n_in"]:
        """The part of theta W that `updates` writes into the layer's own weights, as a matrix."""
        return self.theta.double().cpu() * self.foldable_weight()

    @torch.no_grad()
    def foldable_weight(self) -> Float[Tensor, "n_out n_in"]:
        """The part of W, in its own shape, that the layer's weights can take, in float64."""
        if self.map.derived:
            found = self._expansion()
            if isinstance(found, str):
                return torch.zeros(self.map.weight_shape, dtype=torch.float64)
            return found.matrix(found.nearest(self.matrix, self.map))
        weight, blocks = self.matrix.detach().double().cpu(), (self.map.rep_in.blocks, self.map.rep_out.blocks)
        paths, _ = self.fold_paths()
        return add_paths(torch.zeros_like(weight), *blocks, paths, fold_updates(weight, *blocks, paths))

    @torch.no_grad()
    def unexpressed(self, equivariant: Float[Tensor, "n_out n_in"] | None = None) -> float:
        """|P_H W - H| / |P_H W|, H being what the layer's weights can take, where it is known how features transform."""
        whole = self.equivariant_part() if equivariant is None else equivariant
        rest, all_ = (float(known_part(self.map, part).norm()) for part in (whole - self.foldable_weight(), whole))
        return rest / all_ if all_ else 0.0

    @torch.no_grad()
    def updates(self, moment: Float[Tensor, "n n"] | None = None) -> list[Update]:
        """What `fold` adds to the layer's parameters, or `fit` if the second moment of the inputs is given.

        ValueError if theta W has NaN or infinite entries.
        """
        relaxation = self.theta.double() * self.matrix.double()
        self._check_finite(relaxation)
        if self.map.derived:
            found = self._expansion()
            parts_of = [] if isinstance(found, str) else found.parts(found.nearest(relaxation, self.map, moment))
            return [(name, 0, part) for name, part in parts_of]
        (paths, _), blocks = self.fold_paths(), (self.map.rep_in.blocks, self.map.rep_out.blocks)
        if moment is None:
            parts = fold_updates(relaxation, *blocks, paths)
        else:
            parts = fit_updates(relaxation, *blocks, paths, moment)
        return [(path.parameter, path.offset, part) for path, part in zip(paths, parts, strict=True)]

    def _check_finite(self, relaxation: Tensor) -> None:
        if not relaxation.isfinite().all():
            raise ValueError(
                f"the relaxation of {self.path!r} has NaN or infinite values; project with mode='drop' instead."
            )
