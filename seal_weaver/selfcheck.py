"""At ``L = 1`` the recomputed inputs must equal the loaded ones: checked on the first batch, and explained.

A feature map that disagrees with the file would train the network against the wrong symmetry without a
word. A few jets may disagree (truncated ones, missing values): they are left out of the penalty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice, product
from typing import Any

import torch
from torch import Tensor

from .config import SealConfig
from .conventions import ALTERNATIVES, CONVENTIONS
from .errors import SelfCheckError
from .features import FeatureMap

__all__ = ["CheckResult", "VariableCheck", "check_inputs", "require_consistency", "significantly_above"]

_SPACE_LIKE_TOLERANCE = 1e-3
_SIGNIFICANCE = 3.0
_MOST_COMBINATIONS = 200


@dataclass(frozen=True)
class VariableCheck:
    """How well one input variable is re-derived at the identity.

    Attributes
    ----------
    name, role: the variable and where its definition comes from
    largest: largest |recomputed - loaded| in network-input units
    share: share of jets above the tolerance
    """

    name: str
    role: str
    largest: float
    share: float


@dataclass(frozen=True)
class CheckResult:
    """The self-check of one batch: per variable, and the share of jets that cannot be transformed."""

    variables: tuple[VariableCheck, ...]
    jets: int
    excluded: float
    space_like: float

    def table(self) -> str:
        """The check as lines of text, worst variable first."""
        rows = sorted(self.variables, key=lambda v: (-v.share, -v.largest))
        width = max((len(v.name) for v in rows), default=0)
        return "\n".join(
            f"  {v.name:<{width}}  {v.role:<10}  largest difference {v.largest:9.2e}  jets off {v.share:7.2%}"
            for v in rows
        )


def significantly_above(bad: float, jets: int, limit: float) -> bool:
    """Whether a share of bad jets exceeds the limit by three binomial standard deviations."""
    return jets > 0 and bad - _SIGNIFICANCE * math.sqrt(bad * (1.0 - bad) / jets) > limit


@torch.no_grad()
def check_inputs(feature_map: FeatureMap, inputs: Sequence[Tensor], tolerance: float) -> CheckResult:
    """Compare recomputed and loaded inputs (N jets) at the identity."""
    deviations, finite = _deviations(feature_map, inputs)
    off = deviations > tolerance
    largest: dict[str, float] = {}
    share: dict[str, float] = {}
    # a variable may stand in several groups (points and features); one line in the table is enough
    for name, size, part in zip(
        feature_map.variables, deviations.amax(dim=0).tolist(), off.double().mean(dim=0).tolist(), strict=True
    ):
        largest[name], share[name] = max(size, largest.get(name, 0.0)), max(part, share.get(name, 0.0))
    variables = tuple(
        VariableCheck(name, feature_map.roles.get(name, "derived"), largest[name], share[name]) for name in largest
    )
    excluded = float((off.any(dim=1) | ~finite).double().mean())
    return CheckResult(variables, len(inputs[0]), excluded, _space_like_share(feature_map, inputs))


def require_consistency(
    feature_map: FeatureMap, inputs: Sequence[Tensor], settings: SealConfig, data_config: Any
) -> CheckResult:
    """The check of the first batch.

    Raises
    ------
    SelfCheckError: more than ``max_excluded`` of the jets cannot be transformed; names the variables, the
        size of the differences, the share of jets and the likely cause
    """
    result = check_inputs(feature_map, inputs, settings.tolerance)
    limit = settings.max_excluded
    if significantly_above(result.space_like, max(1, int(feature_map.mask(inputs).sum())), limit):
        raise SelfCheckError(
            f"inputs.{feature_map.layout.momenta}: {result.space_like:.1%} of the constituents are space-like "
            f"(E < |p|); expected the components (px, py, pz, E) in this order, in GeV, unscaled"
        )
    if significantly_above(result.excluded, result.jets, limit):
        cause = _likely_cause(feature_map, inputs, settings, data_config)
        raise SelfCheckError(
            f"the network inputs recomputed from the four-momenta `{feature_map.layout.momenta}` differ from the "
            f"loaded ones by more than seal.tolerance = {settings.tolerance:g} in {result.excluded:.1%} of "
            f"{result.jets} jets (seal.max_excluded = {limit:.1%}):\n{result.table()}\nLikely cause: {cause}"
        )
    return result


def _deviations(feature_map: FeatureMap, inputs: Sequence[Tensor], scale: float = 1.0) -> tuple[Tensor, Tensor]:
    recomputed, finite = feature_map(feature_map.momenta(inputs) * scale, inputs)
    return feature_map.deviations(recomputed, inputs), finite


def _space_like_share(feature_map: FeatureMap, inputs: Sequence[Tensor]) -> float:
    """Share of real constituents with E < |p| beyond rounding, as loaded."""
    momenta = inputs[feature_map.layout.momenta_index].double()
    real = feature_map.mask(inputs)
    momentum = momenta[:, :3].norm(dim=1)
    space_like = real & (momenta[:, 3] < (1.0 - _SPACE_LIKE_TOLERANCE) * momentum)
    return float(space_like.sum() / real.sum().clamp(min=1))


def _likely_cause(feature_map: FeatureMap, inputs: Sequence[Tensor], settings: SealConfig, data_config: Any) -> str:
    def excluded(candidate: FeatureMap, scale: float = 1.0) -> float:
        deviations, finite = _deviations(candidate, inputs, scale)
        return float(((deviations > settings.tolerance).any(dim=1) | ~finite).double().mean())

    with torch.no_grad():
        for formulas in _other_conventions(feature_map, settings):
            if (
                excluded(FeatureMap.compile(data_config, _with_observables(settings, formulas)))
                <= settings.max_excluded
            ):
                text = ", ".join(f"{name}: {formula}" for name, formula in formulas.items())
                return f"another convention; write under preprocess.seal of the data config: observables: {{{text}}}"
        for scale, unit in ((1e-3, "MeV"), (1e3, "TeV")):
            if excluded(feature_map, scale) <= settings.max_excluded:
                return (
                    f"units: `{feature_map.layout.momenta}` seems to be in {unit} while the other branches are in GeV; "
                    "convert the momenta in new_variables"
                )
        return _cause_from_pattern(feature_map, inputs, settings.tolerance)


def _with_observables(settings: SealConfig, formulas: dict[str, str]) -> SealConfig:
    return replace(settings, observables={**settings.observables, **formulas})


def _other_conventions(feature_map: FeatureMap, settings: SealConfig) -> list[dict[str, str]]:
    """Changes of convention that could explain the file, the smallest ones first."""
    used = {
        name: settings.observables.get(name, CONVENTIONS.get(name, ""))
        for name, role in feature_map.roles.items()
        if role == "convention"
    }
    choices = [[(name, f) for f in (formula, *ALTERNATIVES.get(formula, ()))] for name, formula in used.items()]
    combinations = [
        {name: formula for name, formula in combination if formula != used[name]}
        for combination in islice(product(*choices), _MOST_COMBINATIONS)
    ]
    return sorted((c for c in combinations if c), key=len)


def _cause_from_pattern(feature_map: FeatureMap, inputs: Sequence[Tensor], tolerance: float) -> str:
    """Which jets and which variables are off, when no single hypothesis repairs them."""
    deviations, finite = _deviations(feature_map, inputs)
    off = (deviations > tolerance).any(dim=1) | ~finite
    full = feature_map.mask(inputs).all(dim=1)
    layout = feature_map.layout
    if full.any() and float(off[~full].double().mean() if (~full).any() else 0.0) < 0.01:
        return (
            f"truncated jets: only jets with {layout.length} or more constituents are off, because the jet is the sum "
            f"of the constituents that are left. Give the jet's own four-momentum as an input group of length 1 "
            "(jet_px, jet_py, jet_pz, jet_energy) and name it in `seal.jet`, or raise the length"
        )
    if layout.jet is None and _only_jet_variables_off(feature_map, deviations, tolerance):
        return (
            "the file's jet is not the sum of these constituents (calibrated, groomed, or built from others); give its "
            "four-momentum as an input group of length 1 and name it in `seal.jet`"
        )
    return (
        "not recognised; compare the definitions of the variables above with the branches in the file (momenta in GeV "
        "in the order px, py, pz, E? NaN? formulas under `seal.observables`?). Variables that do not change under "
        "Lorentz transformations belong under `seal.invariants`"
    )


def _only_jet_variables_off(feature_map: FeatureMap, deviations: Tensor, tolerance: float) -> bool:
    """Only variables that read the jet are off, and not only angles, which have conventions of their own."""
    off = (deviations > tolerance).double().mean(dim=0) > 0.01
    read = [feature_map.ancestors(name) for name, bad in zip(feature_map.variables, off.tolist(), strict=True) if bad]
    angles = {f"@{name}" for name in ALTERNATIVES}
    return all(any(name.startswith("@jet_") for name in names) for names in read) and any(
        not names & angles for names in read
    )
