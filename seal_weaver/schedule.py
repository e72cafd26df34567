"""Weights and seeds as functions of (epoch, batch): nothing to save, so a resumed run continues as it was."""

from __future__ import annotations

import numpy as np

__all__ = ["SETTLING_STEPS", "random_seed", "warmup_factor"]

SETTLING_STEPS = 50
"""The weight grows over this many first steps of a training: BatchNorm's running statistics, with which the
penalised function is evaluated, follow the batch statistics only after some tens of steps."""


def warmup_factor(epoch: int | None, batch: int, warmup_epochs: float, steps_per_epoch: int | None) -> float:
    """Share of the full weight at step ``batch`` (from 0) of ``epoch`` (from 0).

    Linear over ``warmup_epochs``; per step where the number of steps is known, else in a staircase of one
    step per epoch, ``(epoch + 1) / (warmup_epochs + 1)``, which is never zero. ``epoch`` is None outside
    training epochs (learning-rate finder): full weight.
    """
    if epoch is None:
        return 1.0
    settling = min(1.0, (batch + 1) / SETTLING_STEPS) if epoch == 0 else 1.0
    if warmup_epochs == 0:
        return settling
    if steps_per_epoch:
        ramp = (epoch + (batch + 1) / steps_per_epoch) / warmup_epochs
    else:
        ramp = (epoch + 1) / (warmup_epochs + 1)
    return settling * min(1.0, ramp)


def random_seed(seed: int, epoch: int | None, batch: int, rank: int, replica: int, validation: bool) -> int:
    """An independent 63-bit seed for every step, process and replica (NumPy's ``SeedSequence``)."""
    # epochs are shifted by one so that "no epoch" has a number of its own
    words = (seed % 2**63, 0 if epoch is None else epoch + 1, batch, rank, replica, int(validation))
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)
