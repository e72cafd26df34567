"""The sections of `seal`: penalties, random elements, targets and augmentation, as frozen dataclasses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from . import parsing
from .algebra import MATRICES
from .errors import ConfigError
from .parsing import build, setting

__all__ = ["ESTIMATORS", "AugmentConfig", "DeltaSealConfig", "GSealConfig", "TargetConfig", "TransformationConfig"]

ESTIMATORS = ("auto", "autograd", "finite_difference")

_GSEAL_WEIGHT, _DELTA_WEIGHT = 1.0, 0.01
_DEFAULT_BETA2 = 0.95
_DEFAULT_RAPIDITY = 2.0  # beta^2 = 0.93, as far as the published protocol goes


@dataclass(frozen=True)
class TargetConfig:
    """A weight that follows a target, by dual ascent on ``log(weight)``.

    Attributes
    ----------
    target: RMS change of the compared output that is accepted, > 0: ``sqrt(mean penalty)``, which for the
        probabilities or logits of two classes is the RMS change of the signal's; for ``compare: output`` the RMS length
        of the change, ``sqrt(2 mean penalty)``
    initial: weight before the first update; None: the default of a fixed weight
    minimum, maximum: the weight stays between them
    rate: step of the ascent in ``log(weight)`` for a penalty e times its goal or more
    gain: how much the weight answers to the present violation, beside what the ascent has accumulated
    smoothing: steps over which the penalty is averaged
    """

    target: float = setting(math.nan, parsing.positive())
    initial: float | None = setting(None, parsing.optional(parsing.positive()))
    minimum: float = setting(1e-3, parsing.positive())
    maximum: float = setting(1e3, parsing.positive())
    rate: float = setting(0.02, parsing.positive(1.0))
    gain: float = setting(1.0, parsing.number(0.0))
    smoothing: float = setting(20.0, parsing.number(1.0))


def _weight(path: str, value: Any) -> float | TargetConfig:
    """A fixed number, or a target."""
    if not isinstance(value, Mapping):
        if isinstance(value, TargetConfig):
            return value
        return float(parsing.number(0.0)(path, value))
    config: TargetConfig = build(TargetConfig, path, value)
    if math.isnan(config.target):
        raise ConfigError(
            f"{path}.target", "expected a number > 0, found none; a fixed weight is written as `weight: 1.0`"
        )
    if config.minimum > config.maximum:
        raise ConfigError(f"{path}.minimum", f"expected at most maximum = {config.maximum:g}, got {config.minimum:g}")
    initial = config.initial
    if initial is not None and not config.minimum <= initial <= config.maximum:
        raise ConfigError(
            f"{path}.initial",
            f"expected a number between minimum = {config.minimum:g} and maximum = {config.maximum:g}, got {initial:g}",
        )
    return config


@dataclass(frozen=True)
class TransformationConfig:
    """Random elements: the published boosts, or those of a subgroup.

    Attributes
    ----------
    beta2_max: boosts have ``beta = sqrt(U(0, beta2_max))``, 0 <= beta2_max < 1
    rotations: a Haar-distributed rotation before each boost
    generators: instead of the two above, elements ``exp(sum_a t_a G_a)`` with ``t_a = U(-m_a, m_a)``: names of
        generators or groups, or a mapping from names to the maxima m_a
    max_rapidity, max_angle: the maxima of boosts and of rotations that have none of their own
    """

    beta2_max: float | None = setting(None, parsing.optional(parsing.number(0.0, below=1.0)))
    rotations: bool = setting(False, parsing.boolean)
    generators: Mapping[str, float | None] | None = setting(None, parsing.optional(parsing.generators))
    max_rapidity: float | None = setting(None, parsing.optional(parsing.positive()))
    max_angle: float | None = setting(None, parsing.optional(parsing.positive()))

    path: ClassVar[str] = "seal"

    def __post_init__(self) -> None:
        published = self.beta2_max is not None or self.rotations
        maxima = [key for key in ("max_rapidity", "max_angle") if getattr(self, key) is not None]
        if self.generators is None:
            if maxima:
                raise ConfigError(f"{self.path}.{maxima[0]}", "goes with `generators`, of which there are none")
            if self.beta2_max is None:
                object.__setattr__(self, "beta2_max", _DEFAULT_BETA2)
        elif published:
            key = "beta2_max" if self.beta2_max is not None else "rotations"
            raise ConfigError(
                f"{self.path}.{key}",
                "goes with the published boosts; elements of `generators` have max_rapidity, max_angle",
            )
        if self.beta2_max == 0 and not self.rotations:
            raise ConfigError(
                f"{self.path}.beta2_max",
                "expected a number > 0, got 0: without boosts and rotations nothing is transformed; write `rotations: "
                "true`, or `-o seal False` to train plain",
            )

    def maxima(self) -> dict[str, float]:
        """Largest |t_a| by generator; empty for the published boosts.

        Raises
        ------
        ConfigError: a generator of the user's own has no maximum, all maxima are zero, or they are too large together
        """
        defaults = {"K": self.max_rapidity or _DEFAULT_RAPIDITY, "J": self.max_angle or math.pi}
        result = {}
        for name, maximum in (self.generators or {}).items():
            if maximum is None and name not in MATRICES:
                raise ConfigError(
                    f"{self.path}.generators.{name}",
                    "a generator of your own needs a maximum; write `generators: {" + name + ": 0.5}`",
                )
            result[name] = defaults[name[0]] if maximum is None else maximum
        if self.generators is not None and not any(result.values()):
            raise ConfigError(f"{self.path}.generators", "expected a maximum > 0, found only zeros")
        return result


@dataclass(frozen=True)
class GSealConfig(TransformationConfig):
    """The finite penalty: ``weight * mean_i 1/2 sum_c (y_c(L p) - y_c(p))^2``.

    Attributes
    ----------
    weight: lambda_G, >= 0, or a target; at 0 nothing is computed in training
    fraction: share of each batch that is penalised; None: ``seal.fraction``
    """

    weight: float | TargetConfig = setting(_GSEAL_WEIGHT, _weight)
    fraction: float | None = setting(None, parsing.optional(parsing.positive_share_of_one))

    path: ClassVar[str] = "seal.gseal"
    initial: ClassVar[float] = _GSEAL_WEIGHT


@dataclass(frozen=True)
class DeltaSealConfig:
    """The infinitesimal penalty: ``weight * mean_i sum_a w_a 1/2 sum_c (d/dt y_c(exp(t G_a) p))^2``.

    Attributes
    ----------
    weight: lambda_d, >= 0, or a target; at 0 nothing is computed in training
    generators: names of generators or groups, or a mapping from names to the weights w_a
    estimator: ``autograd`` (exact), ``finite_difference`` (any network), or ``auto``
    step: h of the finite difference, in units of rapidity or radian
    projections: gradients per jet for the autograd estimator, exact from the number of independent outputs on
    fraction: share of each batch that is penalised; None: ``seal.fraction``
    """

    weight: float | TargetConfig = setting(_DELTA_WEIGHT, _weight)
    generators: Mapping[str, float | None] = setting(parsing.generators("", "lorentz"), parsing.generators)
    estimator: str = setting("auto", parsing.choice(*ESTIMATORS))
    step: float = setting(0.05, parsing.positive(1.0))
    projections: int = setting(1, parsing.whole_number(1))
    fraction: float | None = setting(None, parsing.optional(parsing.positive_share_of_one))

    path: ClassVar[str] = "seal.delta_seal"
    initial: ClassVar[float] = _DELTA_WEIGHT

    def __post_init__(self) -> None:
        if not self.weights():
            raise ConfigError(f"{self.path}.generators", "expected a weight > 0, found only zeros")

    def weights(self) -> dict[str, float]:
        """The weights w_a > 0 by generator."""
        weights = {name: 1.0 if weight is None else weight for name, weight in self.generators.items()}
        return {name: weight for name, weight in weights.items() if weight > 0}


@dataclass(frozen=True)
class AugmentConfig(TransformationConfig):
    """The baseline without a penalty: the task loss on transformed jets.

    Attributes
    ----------
    fraction: share of each batch that is transformed
    """

    fraction: float = setting(0.5, parsing.positive_share_of_one)

    path: ClassVar[str] = "seal.augment"
