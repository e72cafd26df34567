"""Which transformations an evaluation applies to the jets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..algebra import GROUPS
from ..errors import EvaluationError

__all__ = ["ANGLES", "BETA2_MAX", "BETAS", "RAPIDITIES", "STEP", "Probe", "make_probes"]

BETA2_MAX = 0.95
BETAS = (0.2, 0.4, 0.6, 0.8, 0.9, 0.95)
RAPIDITIES = (0.5, 1.0, 2.0)
ANGLES = (0.5, 1.0, 2.0)
STEP = 0.02


@dataclass(frozen=True)
class Probe:
    """One kind of transformation of all jets.

    Attributes
    ----------
    name: ends the names of columns
    kind: ``nominal``, ``identity``, ``boosts``, ``beta`` or ``generator`` as in ``results.SampleMetrics``; ``forward``
        and ``backward`` are the two sides ``exp(+-value G)`` of a derivative
    value: beta^2 at most, |beta|, rapidity or angle, step
    generator: name of G
    """

    name: str
    kind: str
    value: float | None = None
    generator: str | None = None


def make_probes(
    beta2_max: float | None = BETA2_MAX,
    betas: Sequence[float] = BETAS,
    generators: Sequence[str] = GROUPS["lorentz"],
    rapidities: Sequence[float] = RAPIDITIES,
    angles: Sequence[float] = ANGLES,
    step: float | None = STEP,
) -> tuple[Probe, ...]:
    """The nominal sample, the identity and what is asked for; own generators take the grid of angles.

    Raises
    ------
    EvaluationError: a velocity of 1 or more, a step or grid value that is not positive
    """
    if beta2_max is not None and not 0.0 < beta2_max < 1.0:
        raise EvaluationError(f"beta2_max: expected 0 < beta2_max < 1, got {beta2_max:g}")
    for name, grid, limit in (("beta", betas, 1.0), ("rapidity", rapidities, 10.0), ("angle", angles, 10.0)):
        for value in grid:
            if not 0.0 < value < limit:
                raise EvaluationError(f"{name}: expected values between 0 and {limit:g}, got {value:g}")
    if step is not None and not 0.0 < step <= 1.0:
        raise EvaluationError(f"step: expected 0 < step <= 1, got {step:g}")
    probes = [Probe("nominal", "nominal"), Probe("identity", "identity")]
    if beta2_max is not None:
        probes.append(Probe("boosted", "boosts", beta2_max))
    probes += [Probe(f"beta{_digits(beta)}", "beta", beta) for beta in betas]
    for generator in generators:
        grid = rapidities if generator in GROUPS["boosts"] else angles
        probes += [Probe(f"{generator}{_digits(value)}", "generator", value, generator) for value in grid]
    if step is not None:
        for generator in generators:
            probes += [Probe(f"{generator}_{side}", side, step, generator) for side in ("forward", "backward")]
    return tuple(probes)


def _digits(value: float) -> str:
    """Branch names of ROOT have no dots."""
    return f"_{value:g}".replace(".", "p")
