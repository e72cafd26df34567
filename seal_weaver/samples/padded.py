"""Jets as data sets hold them: one row a jet, constituents side by side, empty places filled with zeros."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import awkward as ak
import numpy as np

from seal_weaver.errors import SampleError
from seal_weaver.samples.branches import Branch, compute_branches

__all__ = ["JET_INDEX", "PaddedJets", "Source", "Tally", "binary_labels", "massive_momenta", "tidy"]

JET_INDEX = Branch("jet_index", "int64", "row of the jet in its input file, from 0")

# A constituent counts as space-like below this ratio of energy to momentum: rounding to float32 stays above.
SPACE_LIKE = 1 - 1e-4

EMPTY = (np.inf, -np.inf)  # the range of no values


@dataclass(frozen=True)
class PaddedJets:
    """Consecutive rows of a data set, N jets with P places.

    Attributes
    ----------
    first_row: the row of the first jet in the file
    momenta: px, py, pz, energy in GeV, each (N, P); NaN where the file holds no possible momentum
    occupied: (N, P), False at zero padding
    label: (N,), 0 or 1
    jets: further values of each jet, (N,)
    constituents: further values of each constituent, (N, P)
    """

    first_row: int
    momenta: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
    occupied: np.ndarray
    label: np.ndarray
    jets: Mapping[str, np.ndarray] = field(default_factory=dict)
    constituents: Mapping[str, np.ndarray] = field(default_factory=dict)


class Source(Protocol):
    """An open file of a public data set.

    ``rows`` is the number of jets, ``extras`` the branches beside those of every sample, ``notes`` what else
    a reader of the summary should know.
    """

    @property
    def rows(self) -> int: ...

    @property
    def extras(self) -> tuple[Branch, ...]: ...

    @property
    def notes(self) -> dict[str, Any]: ...

    def read(self, start: int, stop: int, size: int) -> Iterator[PaddedJets]:
        """The rows from ``start`` up to ``stop``, in their order, at most ``size`` at a time."""


@dataclass
class Tally:
    """What was met on the way; counts of constituents unless the name says otherwise.

    ``ranges`` holds the smallest and largest finite value of each further number per jet.
    """

    jets: int = 0
    labels: Counter[int] = field(default_factory=Counter)
    constituents: int = 0
    removed: int = 0
    space_like: int = 0
    empty_jets: int = 0
    full_jets: int = 0
    largest_jet: int = 0
    non_finite: Counter[str] = field(default_factory=Counter)
    jet_pt: tuple[float, float] = EMPTY
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {
            "jets": self.jets,
            "labels": {str(label): count for label, count in sorted(self.labels.items())},
            "constituents": self.constituents,
            "constituents_removed": self.removed,
            "constituents_space_like": self.space_like,
            "jets_without_constituents": self.empty_jets,
            "jets_that_fill_all_places": self.full_jets,
            "largest_number_of_constituents": self.largest_jet,
            "jet_pt_gev": [round(x, 3) for x in self.jet_pt],
            "ranges": {name: list(limits) for name, limits in sorted(self.ranges.items())},
            "non_finite_values": dict(sorted(self.non_finite.items())),
        }


def massive_momenta(
    pt: np.ndarray, rapidity: np.ndarray, phi: np.ndarray, mass: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(px, py, pz, E) from the rapidity y, which is not the pseudorapidity: E = m_T cosh y, p_z = m_T sinh y."""
    transverse_mass = np.hypot(pt, mass)
    return pt * np.cos(phi), pt * np.sin(phi), transverse_mass * np.sinh(rapidity), transverse_mass * np.cosh(rapidity)


def binary_labels(values: np.ndarray, name: str, where: str) -> np.ndarray:
    """Labels as int32, shape (N,); raises SampleError unless all are 0 or 1."""
    wrong = values[(values != 0) & (values != 1)]
    if wrong.size:
        found = ", ".join(map(str, np.unique(wrong)[:5]))
        raise SampleError(f"{where}: {name}: expected 0 or 1, found {found} ({wrong.size} jets)")
    return values.astype(np.int32)


def tidy(
    padded: PaddedJets, extras: Sequence[Branch], tally: Tally, *, where: str, remove_bad: bool
) -> dict[str, ak.Array]:
    """All branches of the jets, without padding, hardest constituents first; what was met is added to the tally.

    Raises
    ------
    SampleError: a constituent is not finite or has no positive energy, and ``remove_bad`` is false
    """
    with np.errstate(over="ignore"):
        momenta = [x.astype(np.float32) for x in padded.momenta]
    good = _good_places(padded, momenta, where, remove_bad, tally)
    counts = good.sum(axis=1)
    pt2 = np.where(good, momenta[0].astype(np.float64) ** 2 + momenta[1].astype(np.float64) ** 2, -1.0)
    order = np.argsort(-pt2, axis=1, kind="stable")
    first = np.arange(good.shape[1]) < counts[:, None]

    def jagged(values: np.ndarray) -> ak.Array:
        return ak.unflatten(np.take_along_axis(values, order, axis=1)[first], counts)

    px, py, pz, energy = map(jagged, momenta)
    branches = compute_branches(px, py, pz, energy, padded.label, order_by_pt=False)
    values = {JET_INDEX.name: padded.first_row + np.arange(len(counts)), **padded.jets}
    for branch in extras:
        column = jagged(padded.constituents[branch.name]) if branch.per_constituent else values[branch.name]
        branches[branch.name] = ak.values_astype(ak.Array(column), np.dtype(branch.dtype))
    _count(branches, counts, good.shape[1], extras, tally)
    return branches


def _good_places(
    padded: PaddedJets, momenta: Sequence[np.ndarray], where: str, remove_bad: bool, tally: Tally
) -> np.ndarray:
    """True where a constituent of a possible momentum stands, (N, P)."""
    possible = np.isfinite(momenta[0]) & np.isfinite(momenta[1]) & np.isfinite(momenta[2]) & np.isfinite(momenta[3])
    transverse = (momenta[0] != 0) | (momenta[1] != 0)  # without it there is neither pseudorapidity nor azimuth
    good = padded.occupied & possible & transverse & (momenta[3] > 0)
    bad = padded.occupied & ~good
    if bad.any():
        rows = padded.first_row + np.flatnonzero(bad.any(axis=1))
        if not remove_bad:
            raise SampleError(
                f"{where}: {bad.sum()} constituents of {len(rows)} jets, the first in row {rows[0]}, are NaN or "
                "infinite or have no positive pT or energy; --remove-bad leaves them out and counts them"
            )
        tally.removed += int(bad.sum())
    return good


def _count(
    branches: Mapping[str, ak.Array], counts: np.ndarray, places: int, extras: Sequence[Branch], tally: Tally
) -> None:
    tally.jets += len(counts)
    tally.labels.update(ak.to_numpy(branches["label"]).tolist())
    tally.constituents += int(counts.sum())
    tally.empty_jets += int((counts == 0).sum())
    tally.full_jets += int((counts == places).sum())
    tally.largest_jet = max(tally.largest_jet, int(counts.max()))
    px, py, pz, energy = (
        ak.to_numpy(ak.flatten(branches[f"part_{x}"])).astype(np.float64) for x in ("px", "py", "pz", "energy")
    )
    tally.space_like += int((energy < SPACE_LIKE * np.sqrt(px**2 + py**2 + pz**2)).sum())
    for branch in extras:
        if np.dtype(branch.dtype).kind == "f" and not branch.per_constituent:
            values = ak.to_numpy(branches[branch.name])
            finite = values[np.isfinite(values)]
            if len(finite) < len(values):
                tally.non_finite[branch.name] += len(values) - len(finite)
            if len(finite):
                tally.ranges[branch.name] = _wider(tally.ranges.get(branch.name, EMPTY), finite)
    tally.jet_pt = _wider(tally.jet_pt, ak.to_numpy(branches["jet_pt"]))


def _wider(limits: tuple[float, float], values: np.ndarray) -> tuple[float, float]:
    return min(limits[0], float(values.min())), max(limits[1], float(values.max()))
