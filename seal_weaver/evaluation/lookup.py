"""What figures and tables take from evaluations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ..errors import EvaluationError
from .results import Estimate, Evaluation, Migration, PairMetrics, SampleMetrics

__all__ = [
    "Pair",
    "at_velocities",
    "changes",
    "find_pair",
    "find_pairs",
    "floor",
    "floor_of_derivatives",
    "migration_of",
    "migrations",
    "numbers",
]

Pair = tuple[str, str]
"""Signal and background: names of classes."""


def find_pairs(evaluations: Iterable[Evaluation]) -> tuple[Pair, ...]:
    """Pairs of classes for which an evaluation has numbers, in the order of the first one."""
    nominal = (evaluation.sample("nominal") for evaluation in evaluations)
    pairs = ((pair.signal, pair.background) for sample in nominal if sample is not None for pair in sample.pairs)
    return tuple(dict.fromkeys(pairs))


def numbers(estimates: Sequence[Estimate]) -> tuple[np.ndarray, np.ndarray]:
    """Values and errors, NaN where there are none: these are not drawn."""
    values = np.array([e.value for e in estimates], dtype=float)
    return values, np.array([e.error for e in estimates], dtype=float)


def find_pair(sample: SampleMetrics | None, pair: Pair) -> PairMetrics | None:
    pairs = sample.pairs if sample is not None else ()
    return next((found for found in pairs if (found.signal, found.background) == pair), None)


def at_velocities(evaluation: Evaluation, pair: Pair) -> Iterator[tuple[float, PairMetrics]]:
    """|beta| and the metrics there; the nominal sample is at rest."""
    moving = sorted((s for s in evaluation.samples if s.kind == "beta"), key=lambda s: s.value or 0.0)
    for sample in (evaluation.sample("nominal"), *moving):
        found = find_pair(sample, pair)
        if sample is not None and found is not None:
            yield sample.value or 0.0, found


def changes(evaluation: Evaluation, generator: str) -> tuple[list[float], np.ndarray, np.ndarray]:
    """Rapidities or angles, RMS changes of the probability, errors."""
    samples = sorted((s for s in evaluation.samples if s.generator == generator), key=lambda s: s.value or 0.0)
    changes = [s.violation.probability if s.violation is not None else Estimate(None) for s in samples]
    return [s.value or 0.0 for s in samples], *numbers(changes)


def floor(evaluation: Evaluation) -> float | None:
    identity = evaluation.sample("identity")
    return identity.violation.probability.value if identity is not None and identity.violation is not None else None


def floor_of_derivatives(evaluation: Evaluation) -> float | None:
    change, steps = floor(evaluation), [derivative.step for derivative in evaluation.derivatives]
    return change / (np.sqrt(2) * min(steps)) if change is not None and steps else None


def migrations(evaluation: Evaluation) -> tuple[Migration, ...]:
    boosted = evaluation.sample("boosts")
    return boosted.migration if boosted is not None else ()


def migration_of(evaluation: Evaluation, pair: Pair) -> Migration:
    for migration in migrations(evaluation):
        if (migration.signal, migration.background) == pair:
            return migration
    raise EvaluationError(f"nothing to draw: the evaluation has no migration of {pair[0]} against {pair[1]}")
