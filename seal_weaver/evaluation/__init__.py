"""Audit of taggers under Lorentz transformations: numbers, figures, comparisons.

``measure``   scores of the same jets under many transformations -> ``Evaluation``, as in ``metrics.json``
``metrics``   the single numbers, with their errors, from arrays
``Probe``     a kind of transformation; ``make_probes`` lists the usual ones

Nothing here needs torch, weaver or matplotlib.
"""

from __future__ import annotations

from . import metrics
from .measure import measure
from .probes import Probe, make_probes
from .results import (
    Derivative,
    Estimate,
    Evaluation,
    Migration,
    PairMetrics,
    PtBin,
    RocCurve,
    SampleMetrics,
    Settings,
    Violation,
    read,
    write,
)

__all__ = [
    "Derivative",
    "Estimate",
    "Evaluation",
    "Migration",
    "PairMetrics",
    "Probe",
    "PtBin",
    "RocCurve",
    "SampleMetrics",
    "Settings",
    "Violation",
    "make_probes",
    "measure",
    "metrics",
    "read",
    "write",
]
