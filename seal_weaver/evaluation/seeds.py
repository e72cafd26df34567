"""Evaluations of several seeds of one setting as one: means, and their spread in place of the statistical errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np

from .results import Estimate, Evaluation, Migration, RocCurve

__all__ = ["average", "combine"]


def average(estimates: Sequence[Estimate]) -> Estimate:
    """Mean and sample standard deviation; of one estimate itself; nothing if one of several is missing."""
    if len(estimates) == 1:
        return estimates[0]
    values = [estimate.value for estimate in estimates if estimate.value is not None]
    if len(values) < len(estimates):
        return Estimate(None)
    # relative to the first: equal values have no spread from rounding
    differences = np.array(values) - values[0]
    return Estimate(float(values[0] + np.mean(differences)), float(np.std(differences, ddof=1)))


def combine(evaluations: Sequence[Evaluation]) -> Evaluation:
    """One evaluation of several with the same probes in the same order, as ``comparable.restrict`` makes them.

    Each estimate becomes that of ``average``; ROC curves become the mean background efficiency at the same signal
    efficiency, migrations the sum of their counts. Numbers of jets are those of the first; settings are dropped, and
    what is said by pT where the ranges differ.
    """
    first = evaluations[0]
    if len(evaluations) == 1:
        return first
    if len({evaluation.pt_bins for evaluation in evaluations}) > 1:
        evaluations = [_without_ranges(evaluation) for evaluation in evaluations]
    spreads = {
        name: float(np.mean([getattr(evaluation, name) for evaluation in evaluations]))
        for name in ("spread_probability", "spread_logit")
    }
    combined: Evaluation = replace(
        _combine([replace(evaluation, settings=None) for evaluation in evaluations]), **spreads
    )
    return combined


def _without_ranges(evaluation: Evaluation) -> Evaluation:
    return replace(
        evaluation,
        pt_bins=(),
        samples=tuple(replace(sample, by_pt=None) for sample in evaluation.samples),
        derivatives=tuple(replace(derivative, by_pt=()) for derivative in evaluation.derivatives),
    )


def _combine(items: Sequence[Any]) -> Any:
    """The same place in all evaluations."""
    first = items[0]
    if any(item is None for item in items):
        return None
    if isinstance(first, Estimate):
        return average(items)
    if isinstance(first, RocCurve):
        return _mean_curve(items)
    if isinstance(first, Migration):
        counts = np.sum([item.counts for item in items], axis=0)
        return replace(first, counts=tuple(map(tuple, counts.tolist())))
    if is_dataclass(first) and not isinstance(first, type):
        return replace(first, **{f.name: _combine([getattr(item, f.name) for item in items]) for f in fields(first)})
    if isinstance(first, Mapping):
        return {key: _combine([item[key] for item in items]) for key in first if all(key in item for item in items)}
    if isinstance(first, tuple):
        return tuple(_combine(list(same)) for same in zip(*items, strict=False))
    return first


def _mean_curve(curves: Sequence[RocCurve]) -> RocCurve:
    """At the signal efficiencies of the first curve that lie within all."""
    low = max(min(curve.signal_efficiency) for curve in curves)
    high = min(max(curve.signal_efficiency) for curve in curves)
    signal = [x for x in curves[0].signal_efficiency if low <= x <= high]
    background = [np.interp(signal, curve.signal_efficiency, curve.background_efficiency) for curve in curves]
    return RocCurve(tuple(signal), tuple(np.mean(background, axis=0).tolist()))
