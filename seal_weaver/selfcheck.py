"""The check of the first training batch: recomputed inputs equal the loaded ones, or training stops and says why.

A feature map that disagrees with the file would train the network against the wrong symmetry without a
word. A few jets may disagree (truncated ones, missing values): they are left out of the penalty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .agreement import Agreement, compare_inputs, significantly_above
from .config import SealConfig
from .diagnosis import diagnose
from .errors import SelfCheckError
from .features import FeatureMap

__all__ = ["CheckResult", "VariableCheck", "check_inputs", "require_consistency", "summarise"]


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
    """The self-check of some jets.

    Attributes
    ----------
    variables: one entry per recomputed variable
    jets: number of jets
    excluded: share of jets that cannot be transformed
    space_like: share of the constituents with E < |p| beyond rounding
    truncated: share of jets with as many constituents as there are places, or more
    """

    variables: tuple[VariableCheck, ...]
    jets: int
    excluded: float
    space_like: float
    truncated: float

    def table(self) -> str:
        """The check as lines of text, worst variable first."""
        rows = sorted(self.variables, key=lambda v: (-v.share, -v.largest))
        width = max((len(v.name) for v in rows), default=0)
        return "\n".join(
            f"  {v.name:<{width}}  {v.role:<10}  largest difference {v.largest:9.2e}  jets off {v.share:7.2%}"
            for v in rows
        )


def check_inputs(feature_map: FeatureMap, inputs: Sequence[Tensor], tolerance: float) -> CheckResult:
    """Compare recomputed and loaded inputs (N jets) at the identity."""
    return summarise(feature_map, compare_inputs(feature_map, inputs, tolerance))


def summarise(feature_map: FeatureMap, agreement: Agreement) -> CheckResult:
    """The shares of jets and the largest differences of a comparison."""
    shares, largest = agreement.shares_off(), agreement.largest()
    return CheckResult(
        variables=tuple(
            VariableCheck(name, feature_map.roles.get(name, "derived"), largest[name], shares[name]) for name in shares
        ),
        jets=len(agreement.finite),
        excluded=float(agreement.excluded.double().mean()),
        space_like=agreement.space_like,
        truncated=float(agreement.full.double().mean()),
    )


def require_consistency(
    feature_map: FeatureMap, inputs: Sequence[Tensor], settings: SealConfig, data_config: Any
) -> CheckResult:
    """The check of the first batch.

    Raises
    ------
    SelfCheckError: more than ``max_excluded`` of the jets cannot be transformed, or of the constituents are space-like;
        names the variables, the size of the differences, the share of jets, the likely cause and its remedy
    """
    agreement = compare_inputs(feature_map, inputs, settings.tolerance)
    result = summarise(feature_map, agreement)
    limit = settings.max_excluded
    space_like = significantly_above(result.space_like, agreement.constituents, limit)
    if not space_like and not significantly_above(result.excluded, result.jets, limit):
        return result
    faults = diagnose(feature_map, inputs, settings, data_config)
    causes = "\n".join(f"Likely cause: {fault}" for fault in faults)
    raise SelfCheckError(
        f"the network inputs recomputed from the four-momenta {feature_map.layout.names} differ from the "
        f"loaded ones by more than seal.tolerance = {settings.tolerance:g} in {result.excluded:.1%} of "
        f"{result.jets} jets (seal.max_excluded = {limit:.1%}):\n{result.table()}\n{causes}",
        faults,
    )
