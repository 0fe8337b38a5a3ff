"""Sweeps of learning rates that go on until the best lies within."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.evidence.sweeping import larger, smaller, swept

RATES = [0.01, 0.03, 0.1]


@given(st.floats(-9, 5), st.booleans(), st.integers(0, 12))
def test_a_sweep_ends_where_the_best_lies_within_or_with_its_last_rate(valley: float, higher: bool, wider: int) -> None:
    tried = []

    def mean(rate: float) -> float:
        tried.append(rate)
        return (-1 if higher else 1) * abs(math.log10(rate) - valley)

    found = swept(RATES, mean, wider=wider, higher_is_better=higher)
    assert set(tried) == set(found.rates)
    assert found.rates == tuple(sorted(found.rates))
    assert len(found.rates) <= len(RATES) + wider
    if found.is_at_edge:
        assert len(found.rates) == len(RATES) + wider
    distances = {rate: abs(math.log10(rate) - valley) for rate in found.rates}
    assert distances[found.best] == min(distances.values())


def test_what_was_not_tried_yet_is_to_be_tried() -> None:
    assert swept(RATES, {0.01: 1.0, 0.1: 2.0}.get, wider=4).best is None
    known = {0.01: 1.0, 0.03: 2.0, 0.1: 3.0}
    assert swept(RATES, known.get, wider=4).rates == (0.003, *RATES)
    assert swept(RATES, {**known, 0.003: 1.5}.get, wider=4).best == 0.01
    assert swept(RATES, known.get).best == 0.01


def test_where_all_diverge_rates_become_smaller() -> None:
    found = swept(RATES, lambda rate: math.inf if rate > 2e-4 else rate, wider=9)
    assert found.rates[0] < 2e-4


@given(st.floats(1e-8, 1e3))
def test_steps_beyond_are_of_one_ladder_and_at_least_twofold(rate: float) -> None:
    for found, ratio in ((smaller(rate), rate / smaller(rate)), (larger(rate), larger(rate) / rate)):
        assert f"{found:.0e}"[0] in "13"
        assert 2 * (1 - 1e-6) <= ratio <= 7


@pytest.mark.parametrize("power", range(-6, 3))
def test_the_ladder_goes_up_as_it_goes_down(power: int) -> None:
    for rate in (float(f"1e{power}"), float(f"3e{power}")):
        assert smaller(larger(rate)) == rate == larger(smaller(rate))
