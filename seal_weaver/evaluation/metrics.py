"""How well a tagger separates classes, and how much its output changes: arrays in, numbers with errors out.

N jets, C classes. Scores are natural logarithms of the class probabilities, ``log_y`` (N, C), in float32 or float64;
everything is computed in float64 from the logarithms, because probabilities saturate at 1 and would tie. Labels are
the integers 0 to C-1, (N,). The scores of two classes that are compared, ``signal`` (S,) and ``background`` (B,), are
any numbers of which the larger one is more signal-like, such as ``discriminant``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from ..errors import EvaluationError
from .results import Estimate, RocCurve, Violation

__all__ = [
    "Changes",
    "Placements",
    "accuracy",
    "auc",
    "auc_change",
    "changes",
    "check_efficiency",
    "derivative",
    "discriminant",
    "logits",
    "migration",
    "placements",
    "probabilities",
    "rejection",
    "roc_curve",
    "root_mean",
    "spread",
    "violation",
]

ROC_POINTS = 200


def probabilities(log_y: np.ndarray) -> np.ndarray:
    """Class probabilities y (N, C), normalised again: in float32 the logarithm of the largest is rounded to zero."""
    log_y = np.asarray(log_y, dtype=np.float64)
    y = np.exp(log_y - log_y.max(axis=1, keepdims=True))
    return y / y.sum(axis=1, keepdims=True)


def logits(log_y: np.ndarray) -> np.ndarray:
    """``log y_c / (1 - y_c) = log y_c - log sum_{k != c} y_k``, (N, C); finite however close y_c is to 1."""
    log_y = np.asarray(log_y, dtype=np.float64)
    top = log_y.argmax(axis=1)[:, None]
    largest = np.take_along_axis(log_y, top, axis=1)
    result = log_y.copy()
    np.put_along_axis(result, top, -np.inf, axis=1)
    second = result.max(axis=1, keepdims=True)
    others = second + np.log(np.exp(result - second).sum(axis=1, keepdims=True))
    # classes other than the largest have y <= 1/2: nothing cancels in 1 - y
    result -= np.logaddexp(largest, others)
    result -= np.log1p(-np.exp(result))
    np.put_along_axis(result, top, largest - others, axis=1)
    return result


def discriminant(log_y: np.ndarray, signal: int, background: int) -> np.ndarray:
    """``log y_s - log y_b`` (N,), which rises with ``y_s / (y_s + y_b)`` and does not saturate."""
    return log_y[:, signal].astype(np.float64) - log_y[:, background].astype(np.float64)


def accuracy(log_y: np.ndarray, labels: np.ndarray) -> Estimate:
    """Share of jets whose most probable class is the true one, with the binomial error."""
    return _share(np.asarray(log_y).argmax(axis=1) == labels)


class Placements(NamedTuple):
    """For each signal jet (S,) the share of background jets below it; for each background jet (B,) of signal above.

    Ties count one half, so that the mean of either is the area under the ROC curve. Placement values of DeLong,
    DeLong, Clarke-Pearson, Biometrics 44 (1988) 837.
    """

    signal: np.ndarray
    background: np.ndarray

    def minus(self, before: Placements) -> Placements:
        """Change for the same jets in the same order."""
        return Placements(self.signal - before.signal, self.background - before.background)

    def area(self) -> Estimate:
        """Mean with DeLong's error; None with fewer than 2 jets of either class."""
        if min(len(part) for part in self) < 2:
            return Estimate(None)
        variance = sum(float(part.var(ddof=1)) / len(part) for part in self)
        return Estimate(float(self.signal.mean()), math.sqrt(variance))


def placements(signal: np.ndarray, background: np.ndarray) -> Placements:
    """In O(N log N), from sorted scores as in Sun, Xu, IEEE Signal Processing Letters 21 (2014) 1389."""
    return Placements(_below(signal, background), 1.0 - _below(background, signal))


def auc(signal: np.ndarray, background: np.ndarray) -> Estimate:
    """Area under the ROC curve, exact also with ties, with DeLong's error; None with fewer than 2 jets of either."""
    return placements(signal, background).area()


def auc_change(after: tuple[np.ndarray, np.ndarray], before: tuple[np.ndarray, np.ndarray]) -> Estimate:
    """AUC after minus AUC before of the same jets: DeLong's error with the covariance.

    Parameters
    ----------
    after, before: scores (S,) of the signal and (B,) of the background, the jets in the same order

    Raises
    ------
    EvaluationError: different numbers of jets
    """
    if [len(scores) for scores in after] != [len(scores) for scores in before]:
        raise EvaluationError("auc_change: expected the same jets before and after, got different numbers")
    return placements(*after).minus(placements(*before)).area()


def check_efficiency(efficiency: float) -> None:
    """Raise EvaluationError unless it is between 0 and 1."""
    if not 0.0 < efficiency < 1.0:
        raise EvaluationError(f"rejection: expected 0 < efficiency < 1, got {efficiency:g}")


def rejection(signal: np.ndarray, background: np.ndarray, efficiency: float) -> Estimate:
    """``1 / eps_B`` where at least the share ``efficiency`` of the signal passes; None if no background jet does.

    The variance of eps_B is that of the background's counts and that of the threshold, which the signal sets:
    ``eps_B (1 - eps_B) / B + (d eps_B / d eps_S)^2 eps_S (1 - eps_S) / S``. The slope of the ROC curve is taken between
    two standard errors of eps_S below and above.

    Raises
    ------
    EvaluationError: the efficiency is not between 0 and 1
    """
    check_efficiency(efficiency)
    count = len(signal)
    if min(count, len(background)) < 2:
        return Estimate(None)
    # 0.07 * 100 is more than 7 in floating point
    passing = max(1, math.ceil(round(efficiency * count, 6)))
    window = max(1, round(2.0 * math.sqrt(count * efficiency * (1.0 - efficiency))))
    low, high = max(1, passing - window), min(count, passing + window)
    thresholds = np.sort(signal)[[-low, -passing, -high]]
    below, eps_b, above = (float(np.mean(background >= threshold)) for threshold in thresholds)
    if eps_b == 0.0:
        return Estimate(None)
    slope = (above - below) * count / (high - low)
    eps_s = passing / count
    variance = eps_b * (1.0 - eps_b) / len(background) + slope**2 * eps_s * (1.0 - eps_s) / count
    return Estimate(1.0 / eps_b, math.sqrt(variance) / eps_b**2)


def roc_curve(signal: np.ndarray, background: np.ndarray) -> RocCurve:
    """At most ``ROC_POINTS`` vertices of the exact curve, from (0, 0) to (1, 1).

    Drawn as log eps_B against eps_S the curve is cut into equal lengths, horizontal plus vertical, as neither ever
    falls; the vertices around each cut are kept. So the first background jets keep their visible steps, and
    lines between the points cannot be told from the curve. Neither class may be empty.
    """
    signal, background = np.sort(signal), np.sort(background)
    thresholds = np.unique(np.concatenate([signal, background]))[::-1]
    passing = [(len(x) - np.searchsorted(x, thresholds)) / len(x) for x in (signal, background)]
    eps_s, eps_b = (np.concatenate([[0.0], shares]) for shares in passing)
    one = 1.0 / len(background)
    length = eps_s + np.log(np.maximum(eps_b, one) / one) / math.log(max(2, len(background)))
    start = int(np.searchsorted(eps_b, 0.0, "right"))
    ends = [0, start - 1, start, len(length) - 1]
    # two points a cut where steps are wide; the last choice is few enough in any case
    choices = (_vertices(length, cuts, ends) for cuts in (190, 160, 130, ROC_POINTS // 2 - len(ends) // 2))
    kept = next(choice for choice in choices if len(choice) <= ROC_POINTS)
    return RocCurve(tuple(eps_s[kept].tolist()), tuple(eps_b[kept].tolist()))


class Changes(NamedTuple):
    """How the output of each jet changes, all (N,).

    Attributes
    ----------
    probability, logit: ``1/2 sum_c (y_c' - y_c)^2`` of the probabilities, and of the logits
    flips: whether the most probable class changes
    """

    probability: np.ndarray
    logit: np.ndarray
    flips: np.ndarray

    def of(self, jets: np.ndarray) -> Changes:
        """Those of some jets: a mask (N,), or positions."""
        return Changes(self.probability[jets], self.logit[jets], self.flips[jets])

    def summary(self) -> Violation:
        """Root mean squares and the share of flips, with errors."""
        return Violation(len(self.flips), root_mean(self.probability), root_mean(self.logit), _share(self.flips))


def changes(before: np.ndarray, after: np.ndarray) -> Changes:
    """What changes for each jet between log-probabilities (N, C) and (N, C) of the same jets."""
    first, second = logits(before), logits(after)
    probability = _half_square(expit(second) - expit(first))
    return Changes(probability, _half_square(second - first), first.argmax(axis=1) != second.argmax(axis=1))


def violation(before: np.ndarray, after: np.ndarray) -> Violation:
    """How much log-probabilities (N, C) of the same jets change; None for the numbers of no jets."""
    return changes(before, after).summary()


def derivative(forward: np.ndarray, backward: np.ndarray, step: float) -> tuple[Estimate, Estimate]:
    """Root mean square of ``D_c = (y_c(forward) - y_c(backward)) / 2h``, ``sqrt(mean_i 1/2 sum_c D_ic^2)``.

    Log-probabilities (N, C) of the same jets at +-h -> of the probabilities, and of the logits.
    """
    change = changes(backward, forward)
    return root_mean(change.probability, 0.5 / step), root_mean(change.logit, 0.5 / step)


def root_mean(squares: np.ndarray, factor: float = 1.0) -> Estimate:
    """``factor sqrt(mean)`` of non-negative numbers (N,); its variance is ``var(mean) / (4 mean)``."""
    if len(squares) == 0:
        return Estimate(None)
    mean = float(squares.mean())
    if len(squares) == 1:
        return Estimate(factor * math.sqrt(mean))
    error = 0.5 * math.sqrt(float(squares.var(ddof=1)) / len(squares) / mean) if mean > 0.0 else 0.0
    return Estimate(factor * math.sqrt(mean), factor * error)


def spread(log_y: np.ndarray) -> tuple[float, float]:
    """``sqrt(1/2 sum_c var y_c)`` over the jets of (N, C), of the probabilities and of the logits."""
    return _spread(probabilities(log_y)), _spread(logits(log_y))


def migration(before: np.ndarray, after: np.ndarray, edges: Sequence[float]) -> tuple[tuple[int, ...], ...]:
    """Jets by the bin of ``y_s / (y_s + y_b)`` before (rows) and after (columns).

    Parameters
    ----------
    before, after: ``discriminant`` (N,) of the same jets
    edges: of the bins, from 0 to 1; bins contain their lower edge, the last one both
    """
    counts, _, _ = np.histogram2d(expit(before), expit(after), bins=[np.asarray(edges)] * 2)
    return tuple(tuple(int(count) for count in row) for row in counts)


def _share(hits: np.ndarray) -> Estimate:
    """Share of True with its binomial error; where all or none are, that of Laplace's share ``(k + 1) / (n + 2)``."""
    if len(hits) == 0:
        return Estimate(None)
    share = float(hits.mean())
    likely = share if 0.0 < share < 1.0 else (hits.sum() + 1.0) / (len(hits) + 2.0)
    return Estimate(share, math.sqrt(likely * (1.0 - likely) / len(hits)))


def _below(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Share of the others (M,) below each value (N,), those that are equal by half; 0 of none."""
    ordered = np.sort(others)
    twice = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return twice / max(1, 2 * len(ordered))


def _vertices(length: np.ndarray, cuts: int, ends: list[int]) -> np.ndarray:
    """Positions next to equidistant cuts of a rising length (V,): behind each, and before it if that is elsewhere."""
    behind = np.searchsorted(length, np.linspace(0.0, length[-1], cuts))
    before = np.maximum(behind - 1, 0)
    apart = length[behind] - length[before] > 0.25 * length[-1] / cuts
    return np.unique(np.concatenate([behind, before[apart], ends]))


def _half_square(difference: np.ndarray) -> np.ndarray:
    return 0.5 * np.square(difference).sum(axis=1)


def _spread(y: np.ndarray) -> float:
    return math.sqrt(0.5 * float(y.var(axis=0).sum()))
