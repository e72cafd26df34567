"""Weights and seeds as functions of (epoch, batch): nothing to save, so a resumed run continues as it was."""

from __future__ import annotations

import numpy as np

__all__ = ["SETTLING_STEPS", "random_seed", "settling_factor", "warmup_factor"]

SETTLING_STEPS = 50
"""The weight grows over this many first steps of a training: BatchNorm's running statistics, with which the
penalised function is evaluated, follow the batch statistics only after some tens of steps."""


def settling_factor(epoch: int | None, batch: int) -> float:
    """Share of the weights at step ``batch`` (from 0) of ``epoch`` (from 0) while running statistics settle.

    ``epoch`` is None outside training epochs (learning-rate finder): full weight.
    """
    return min(1.0, (batch + 1) / SETTLING_STEPS) if epoch == 0 else 1.0


def warmup_factor(epoch: int | None, batch: int, warmup_epochs: float, steps_per_epoch: int | None) -> float:
    """Share of a fixed weight at step ``batch`` (from 0) of ``epoch`` (from 0), apart from the settling.

    Linear over ``warmup_epochs``; per step where the number of steps is known, else in a staircase of one
    step per epoch, ``(epoch + 1) / (warmup_epochs + 1)``, which is never zero.
    """
    if epoch is None or warmup_epochs == 0:
        return 1.0
    if steps_per_epoch:
        return min(1.0, (epoch + (batch + 1) / steps_per_epoch) / warmup_epochs)
    return min(1.0, (epoch + 1) / (warmup_epochs + 1))


def random_seed(seed: int, epoch: int | None, batch: int, rank: int, replica: int, validation: bool) -> int:
    """An independent 63-bit seed for every step, process and replica (NumPy's ``SeedSequence``)."""
    # epochs are shifted by one so that "no epoch" has a number of its own
    words = (seed % 2**63, 0 if epoch is None else epoch + 1, batch, rank, replica, int(validation))
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)
