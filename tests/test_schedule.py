"""Weights and seeds are functions of (epoch, batch) alone."""

from __future__ import annotations

import pytest

from seal_weaver.schedule import SETTLING_STEPS, random_seed, settling_factor, warmup_factor


@pytest.mark.parametrize(
    ("epoch", "batch", "warmup", "steps", "expected"),
    [
        (0, 0, 0, None, 1.0),
        (1, 0, 0, None, 1.0),
        (None, 0, 5, 100, 1.0),
        (0, 99, 2, 100, 0.5),
        (1, 49, 2, 100, 0.75),
        (1, 99, 2, 100, 1.0),
        (7, 0, 2, 100, 1.0),
        (0, 99, 2, None, 1 / 3),
        (1, 0, 2, None, 2 / 3),
        (2, 0, 2, None, 1.0),
        (0, 4, 1, 10, 0.5),
    ],
)
def test_warm_up(epoch, batch, warmup, steps, expected: float) -> None:
    assert warmup_factor(epoch, batch, warmup, steps) == pytest.approx(expected)


def test_the_first_steps_of_a_training_settle() -> None:
    assert settling_factor(0, 0) == 1 / SETTLING_STEPS
    assert settling_factor(0, SETTLING_STEPS - 1) == settling_factor(0, 10 * SETTLING_STEPS) == 1.0
    assert settling_factor(1, 0) == settling_factor(None, 0) == 1.0


@pytest.mark.parametrize("steps", [None, 10])
def test_the_weight_is_never_zero_and_never_falls(steps) -> None:
    factors = [warmup_factor(e, b, 1.5, steps) for e in range(4) for b in range(10)]
    assert factors == sorted(factors)
    assert factors[0] > 0
    assert factors[-1] == 1.0


def test_seeds_differ_for_every_step_rank_and_replica_and_repeat() -> None:
    arguments = [
        (seed, epoch, batch, rank, replica, validation)
        for seed in (0, 1)
        for epoch in (None, 0, 1)
        for batch in (0, 1)
        for rank in (0, 1)
        for replica in (0, 1)
        for validation in (False, True)
    ]
    seeds = [random_seed(*a) for a in arguments]
    assert len(set(seeds)) == len(seeds)
    assert seeds == [random_seed(*a) for a in arguments]
    assert all(0 <= seed < 2**63 for seed in seeds)
