"""What is measured of which jets: labels, pairs of classes, ranges of pT and probes, checked.

N jets, C classes; pT in GeV.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from itertools import pairwise

import numpy as np

from ..errors import EvaluationError
from .probes import Probe
from .results import PtBin

__all__ = [
    "BACKGROUND",
    "SAMPLES",
    "SIDES",
    "check_labels",
    "check_mask",
    "check_probes",
    "check_scores",
    "choose_pairs",
    "choose_pt_bins",
    "opposite_sides",
]

BACKGROUND = "qcd"
"""Part of the name of the class that is everyone's background, in lower case."""

SAMPLES = ("nominal", "identity", "boosts", "beta", "generator")
SIDES = ("forward", "backward")


def check_labels(labels: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Labels (N,) as integers from 0 to C-1.

    Raises
    ------
    EvaluationError: fewer than two classes, a name twice, no jets, other types or numbers
    """
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise EvaluationError(f"classes: expected two or more different names, got {', '.join(classes) or 'none'}")
    labels = np.asarray(labels)
    if labels.ndim != 1 or len(labels) == 0 or not np.issubdtype(labels.dtype, np.integer):
        raise EvaluationError(f"labels: expected integers (N,) of one jet or more, got {_shape(labels)}")
    outside = labels[(labels < 0) | (labels >= len(classes))]
    if len(outside):
        found = f"{outside[0]} in {_count(len(outside), 'jet')}"
        raise EvaluationError(f"labels: expected 0 to {len(classes) - 1}, found {found}")
    return labels


def check_mask(usable: np.ndarray | None, jets: int) -> np.ndarray:
    """The mask (N,) of the jets that can be transformed; None: all of them.

    Raises
    ------
    EvaluationError: no mask, of another length, or without any jet
    """
    if usable is None:
        return np.ones(jets, dtype=bool)
    usable = np.asarray(usable)
    if usable.shape != (jets,) or usable.dtype != bool:
        raise EvaluationError(f"usable: expected booleans ({jets},), one for each label, got {_shape(usable)}")
    if not usable.any():
        raise EvaluationError(f"usable: none of {_count(jets, 'jet')} can be transformed")
    return usable


def check_scores(name: str, scores: np.ndarray, shape: tuple[int, int], jets: np.ndarray | None = None) -> np.ndarray:
    """The log-probabilities (N, C) of a probe in memory, of the chosen jets (mask (N,)) or of all.

    Raises
    ------
    EvaluationError: another shape, no floating point, or numbers that are not finite
    """
    scores = np.asarray(scores)  # a map of a file stays one
    if scores.shape != shape or not np.issubdtype(scores.dtype, np.floating):
        raise EvaluationError(f"scores of {name}: expected log-probabilities {shape}, got {_shape(scores)}")
    scores = scores if jets is None else scores[jets]
    wrong = int((~np.isfinite(scores)).any(axis=1).sum())
    if wrong:
        raise EvaluationError(
            f"scores of {name}: {wrong} of {_count(len(scores), 'jet')} have values that are not finite; expected "
            "log-probabilities as of `log_softmax`, which does not overflow"
        )
    return scores


def check_probes(probes: Iterable[Probe]) -> list[Probe]:
    """The probes that make samples: the nominal one first, the others in their order.

    Raises
    ------
    EvaluationError: an unknown kind, a name twice, not exactly one nominal probe, more than one identity
    """
    probes = list(probes)
    for probe in probes:
        if probe.kind not in SAMPLES + SIDES:
            known = ", ".join(SAMPLES + SIDES)
            raise EvaluationError(f"probe {probe.name}: unknown kind {probe.kind!r}; known: {known}")
    twice = [name for name, count in Counter(probe.name for probe in probes).items() if count > 1]
    if twice:
        raise EvaluationError(f"probes: expected different names, found {twice[0]!r} more than once")
    kinds = Counter(probe.kind for probe in probes)
    if kinds["nominal"] != 1:
        raise EvaluationError(f"probes: expected one of the kind 'nominal', found {kinds['nominal']}")
    if kinds["identity"] > 1:
        raise EvaluationError(f"probes: expected at most one of the kind 'identity', found {kinds['identity']}")
    return sorted((probe for probe in probes if probe.kind in SAMPLES), key=lambda probe: probe.kind != "nominal")


def opposite_sides(probes: Iterable[Probe]) -> list[tuple[Probe, Probe]]:
    """(forward, backward) of every derivative.

    Raises
    ------
    EvaluationError: a side without the other one of the same generator and step, or without either
    """
    found: dict[tuple[str | None, float | None], dict[str, list[Probe]]] = {}
    for probe in probes:
        if probe.kind in SIDES:
            found.setdefault((probe.generator, probe.value), {side: [] for side in SIDES})[probe.kind].append(probe)
    for (generator, step), sides in found.items():
        name = (sides["forward"] + sides["backward"])[0].name
        if generator is None or step is None or step <= 0.0:
            raise EvaluationError(f"probe {name}: expected a generator and a step > 0")
        if any(len(sides[side]) != 1 for side in SIDES):
            counts = " and ".join(f"{len(sides[side])} {side}" for side in SIDES)
            raise EvaluationError(
                f"probe {name}: expected one forward and one backward probe of {generator} with step {step:g}, "
                f"found {counts}"
            )
    return [(sides["forward"][0], sides["backward"][0]) for sides in found.values()]


def choose_pairs(
    pairs: Sequence[tuple[str, str]] | None, classes: Sequence[str], present: Sequence[int]
) -> list[tuple[int, int]]:
    """(signal, background) as positions in ``classes``.

    Parameters
    ----------
    pairs: names; None: all against the one with QCD in its name, if there is exactly one, else of two classes the first
        against the second; as far as there are jets
    present: positions of the classes with jets

    Raises
    ------
    EvaluationError: an unknown class, one that has no jets, or one against itself
    """
    if pairs is not None:
        return [(_position(s, (s, b), classes, present), _position(b, (s, b), classes, present)) for s, b in pairs]
    background = [index for index, name in enumerate(classes) if BACKGROUND in name.lower()]
    if len(background) != 1:
        background = [1] if len(classes) == 2 else []
    candidates = [(s, b) for b in background for s in range(len(classes)) if s != b]
    return [(s, b) for s, b in candidates if s in present and b in present]


def choose_pt_bins(pt: np.ndarray | None, bins: Sequence[float] | int, jets: int) -> tuple[PtBin, ...]:
    """Ranges of pT from edges, or a number of ranges with about as many jets each; none without pT (N,).

    Raises
    ------
    EvaluationError: pT of another shape or not finite, edges that do not rise, edges without pT
    """
    if pt is not None and pt.shape != (jets,):
        raise EvaluationError(f"pt: expected numbers ({jets},), one for each label, got {_shape(pt)}")
    if pt is not None and not np.isfinite(pt).all():
        wrong = int((~np.isfinite(pt)).sum())
        raise EvaluationError(f"pt: {wrong} of {_count(jets, 'jet')} have values that are not finite")
    if isinstance(bins, (int, np.integer)):
        edges = [] if pt is None else _quantiles(pt, int(bins))
    else:
        edges = [float(edge) for edge in bins]
        if pt is None:
            raise EvaluationError("pt_bins: edges need the jets' pT, got pt = None")
        if len(edges) < 2 or not all(low < high for low, high in pairwise(edges)) or not np.isfinite(edges).all():
            raise EvaluationError(f"pt_bins: expected two or more finite edges that rise, got {edges}")
    return tuple(PtBin(low, high) for low, high in pairwise(edges))


def _quantiles(pt: np.ndarray, number: int) -> list[float]:
    """Edges at quantiles, rounded to 1, 2 or 5 times a power of ten below a quarter of the narrowest range."""
    if number < 1:
        raise EvaluationError(f"pt_bins: expected edges or a number >= 1, got {number}")
    exact = np.unique(np.quantile(pt.astype(np.float64), np.linspace(0.0, 1.0, number + 1)))
    narrowest = float(np.diff(exact).min()) if len(exact) > 1 else 4.0
    power = 10.0 ** math.floor(math.log10(narrowest / 4.0))
    unit = max(factor * power for factor in (1, 2, 5) if factor * power <= narrowest / 4.0 or factor == 1)
    steps = [
        math.floor(exact[0] / unit),
        *(round(edge / unit) for edge in exact[1:-1]),
        math.floor(exact[-1] / unit) + 1,
    ]
    # a multiple of 0.1 is written with its neighbours' last digit otherwise
    return [float(f"{step * unit:.12g}") for step in sorted(set(steps))]


def _position(name: str, pair: tuple[str, str], classes: Sequence[str], present: Sequence[int]) -> int:
    where = f"pairs: {pair[0]} against {pair[1]}"
    if name not in classes:
        close = get_close_matches(name, classes, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise EvaluationError(f"{where}: unknown class {name!r}{hint}; known: {', '.join(classes)}")
    if list(classes).index(name) not in present:
        raise EvaluationError(f"{where}: no jet has the class {name!r}")
    if pair[0] == pair[1]:
        raise EvaluationError(f"{where}: expected two different classes")
    return list(classes).index(name)


def _shape(array: np.ndarray) -> str:
    return f"{array.dtype} {array.shape}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
