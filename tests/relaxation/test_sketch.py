"""The sketch samples uniformly over everything seen, repeats itself, and starts anew after it was read."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from relaxify import RelaxConfig
from relaxify.relaxation.sketch import Sketch, hashed_integers

CPU = torch.device("cpu")


def numbered(start: int, count: int) -> torch.Tensor:
    return torch.arange(start, start + count, dtype=torch.float64)[:, None]


@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(1, 8))
def test_kept_rows_are_rows_that_were_seen(batches: list[int], k: int) -> None:
    sketch, start = Sketch(RelaxConfig(rows=k)), 0
    for count in batches:
        sketch.update(numbered(start, count), numbered(start, count))
        start += count
    assert sketch.rows is not None
    kept = sketch.rows[:, 0].tolist()
    assert sketch.seen == start
    assert len(kept) == min(k, start)
    assert set(kept) <= set(range(start))
    if start <= k:
        assert kept == list(range(start))


def test_every_row_is_kept_equally_often() -> None:
    """4 of 30 rows in batches of 2, 1, 15, 12, over 900 runs: each row 120 times, within five standard deviations."""
    hits = torch.zeros(30)
    for run in range(900):
        sketch, start = Sketch(RelaxConfig(rows=4)), 0
        sketch.updates = 4 * run
        for count in (2, 1, 15, 12):
            sketch.update(numbered(start, count), numbered(start, count))
            start += count
        assert sketch.rows is not None
        hits += torch.bincount(sketch.rows[:, 0].long(), minlength=30)
    assert ((hits - 120).abs() < 5 * 120**0.5).all()


def test_hashed_integers_are_uniform_and_repeatable() -> None:
    draws = torch.stack([hashed_integers(counter, 64, 10, CPU) for counter in range(500)])
    counts = torch.bincount(draws.flatten(), minlength=10).double()
    assert len(counts) == 10
    assert ((counts - 3200).abs() < 5 * 3200**0.5).all()
    assert torch.equal(draws[7], hashed_integers(7, 64, 10, CPU))
    assert not torch.equal(draws[7], draws[8])


def test_the_users_random_stream_is_not_touched() -> None:
    before = torch.get_rng_state()
    Sketch(RelaxConfig(rows=2)).update(numbered(0, 50), numbered(0, 50))
    assert torch.equal(before, torch.get_rng_state())


def test_reading_keeps_the_summary_until_the_next_batch() -> None:
    for config in (RelaxConfig(rows=None), RelaxConfig(rows=3), RelaxConfig(rows=None, reduction="norm")):
        sketch = Sketch(config)
        sketch.update(numbered(1, 3), numbered(1, 3))
        sketch.read()
        first = sketch.moment
        assert first is not None
        torch.testing.assert_close(first, torch.tensor([[14 / 3]], dtype=torch.float64))
        sketch.update(numbered(10, 1), numbered(10, 1))
        assert sketch.seen == 1
        torch.testing.assert_close(sketch.moment, torch.tensor([[100.0]], dtype=torch.float64))


def test_memory_does_not_grow_when_nobody_reads() -> None:
    sketch = Sketch(RelaxConfig(rows=16))
    for _ in range(50):
        sketch.update(torch.ones(100, 3), torch.ones(100, 3))
    assert sketch.rows is not None
    assert sketch.rows.shape == (16, 3)


def test_kept_rows_do_not_alias_the_input() -> None:
    x = torch.ones(2, 3)
    sketch = Sketch(RelaxConfig(rows=16))
    sketch.update(x, x)
    x.zero_()
    assert sketch.rows is not None
    assert sketch.rows.sum() == 6


def test_empty_batches_are_nothing() -> None:
    sketch = Sketch(RelaxConfig())
    sketch.update(torch.zeros(0, 3), torch.zeros(0, 3))
    assert sketch.seen == 0
    assert sketch.moment is None
