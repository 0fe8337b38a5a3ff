"""Wrong types and shapes that do not agree are seen in every test, whichever way a function is checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float, TypeCheckError
from networks import unchecked
from torch import Tensor
from type_checks import EVERY, FIRST, begin, checked, has_shapes

from relaxify.evidence.fitting import layouts
from relaxify.intertwiners import intertwiner_basis

Rows = Float[Tensor, "n d"]
Pairs = Sequence[tuple[Tensor, Mapping[str, Rows]]]


def plain(x: Tensor, names: Sequence[str], count: int = 1) -> dict[str, Any]:
    return {}


def plain_of_one(x: str) -> None: ...


def shaped(x: Float[Tensor, " n"], y: Float[Tensor, " n"]) -> None: ...


def aliased(x: Rows) -> None: ...


def nested(pairs: Pairs) -> None: ...


def of_a_later_class(x: Later) -> None: ...


class Later: ...


def test_signatures_with_shapes_are_told() -> None:
    del of_a_later_class.__globals__["Later"]
    shapes = [has_shapes(function) for function in (plain, shaped, aliased, nested, of_a_later_class)]
    assert shapes == [False, True, True, True, True]


def test_shapes_that_disagree_are_seen() -> None:
    function = checked(shaped, typechecker=beartype)
    function(torch.ones(3), torch.ones(3))
    with pytest.raises(TypeCheckError, match="n"):
        function(torch.ones(3), torch.ones(4))


def test_wrong_types_are_seen_without_shapes() -> None:
    function = checked(typechecker=beartype)(plain)
    function(torch.ones(3), ["x"])
    with pytest.raises(BeartypeCallHintViolation, match="names"):
        function(torch.ones(3), [1])


def test_checks_can_be_left_out() -> None:
    with unchecked():
        assert checked(plain, typechecker=beartype)(torch.ones(3), [1]) == {}


@pytest.mark.parametrize("function", [plain_of_one, aliased])
def test_the_first_calls_of_a_test_are_checked_and_then_one_in_many(function: Any) -> None:
    called = checked(function, typechecker=beartype)

    def is_seen() -> bool:
        try:
            called(1)
        except (BeartypeCallHintViolation, TypeCheckError):
            return True
        return False

    for _ in range(2):
        begin()
        seen = [is_seen() for _ in range(2 * EVERY)]
        assert [k for k, one in enumerate(seen, 1) if one] == [*range(1, FIRST + 1), EVERY, 2 * EVERY]


def test_relaxify_is_checked_both_ways() -> None:
    with pytest.raises(BeartypeCallHintViolation):
        layouts("two")  # type: ignore[arg-type]
    with pytest.raises(TypeCheckError):
        intertwiner_basis(torch.ones(1, 2, 3), torch.ones(1, 2, 2))  # type: ignore[arg-type]
