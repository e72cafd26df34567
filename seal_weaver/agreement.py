"""At ``L = 1`` the recomputed inputs must equal the loaded ones: how well they do, jet by jet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .features import FeatureMap

__all__ = ["Agreement", "compare_inputs", "significantly_above"]

_SPACE_LIKE_TOLERANCE = 1e-3
_SIGNIFICANCE = 3.0


@dataclass(frozen=True)
class Agreement:
    """N jets, V recomputed variables.

    Attributes
    ----------
    variables: names of the V variables; one that stands in two input groups stands here twice
    deviations: (N, V), largest |recomputed - loaded| of each jet, in network-input units
    off: (N, V) bool, deviations above the tolerance
    finite: (N,) bool, whether all recomputed values are
    full: (N,) bool, jets with as many constituents as there are places, or more
    space_like: share of the constituents with E < |p| beyond rounding, as loaded
    constituents: number of real constituents
    """

    variables: tuple[str, ...]
    deviations: Tensor
    off: Tensor
    finite: Tensor
    full: Tensor
    space_like: float
    constituents: int

    @property
    def excluded(self) -> Tensor:
        """(N,) bool, jets that cannot be transformed."""
        return self.off.any(dim=1) | ~self.finite

    def shares_off(self, jets: Tensor | None = None) -> dict[str, float]:
        """Variable -> share of the jets, or of those selected by (N,) bool, that are off."""
        off = self.off if jets is None else self.off[jets]
        shares: dict[str, float] = {}
        for name, share in zip(self.variables, _mean(off), strict=True):
            shares[name] = max(share, shares.get(name, 0.0))
        return shares

    def largest(self) -> dict[str, float]:
        """Variable -> largest deviation."""
        sizes: dict[str, float] = {}
        maxima = self.deviations.amax(dim=0).tolist() if len(self.deviations) else [0.0] * len(self.variables)
        for name, size in zip(self.variables, maxima, strict=True):
            sizes[name] = max(size, sizes.get(name, 0.0))
        return sizes


@torch.no_grad()
def compare_inputs(feature_map: FeatureMap, inputs: Sequence[Tensor], tolerance: float) -> Agreement:
    """Compare recomputed and loaded inputs (N jets) at the identity."""
    recomputed, finite = feature_map(feature_map.momenta(inputs), inputs)
    deviations = feature_map.deviations(recomputed, inputs)
    real = feature_map.mask(inputs)
    momenta = feature_map.loaded_momenta(inputs)
    space_like = real & (momenta[:, 3] < (1.0 - _SPACE_LIKE_TOLERANCE) * momenta[:, :3].norm(dim=1))
    constituents = int(real.sum())
    return Agreement(
        variables=feature_map.variables,
        deviations=deviations,
        off=deviations > tolerance,
        finite=finite,
        full=feature_map.constituents(inputs).all(dim=1),
        space_like=float(space_like.sum()) / max(1, constituents),
        constituents=constituents,
    )


def significantly_above(bad: float, jets: int, limit: float) -> bool:
    """Whether a share of bad jets exceeds the limit by three binomial standard deviations."""
    return jets > 0 and bad - _SIGNIFICANCE * math.sqrt(bad * (1.0 - bad) / jets) > limit


def _mean(off: Tensor) -> list[float]:
    return off.double().mean(dim=0).tolist() if len(off) else [0.0] * off.shape[1]
