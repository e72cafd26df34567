"""Which estimator of deltaSEAL a network allows, and proof on the first batch that its derivatives are right.

Autograd through a network may be NaN, vanish, or be cut without a word. Before it is used its derivatives along each
generator are compared with finite differences of the same function in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .config import SealConfig
from .deployed import DeployedFunction, in_double_precision, traceless
from .errors import DerivativeError
from .features import FeatureMap
from .lorentz import GENERATORS, transform
from .patches import obstacle_to_gradients, wake_trimmers
from .penalties import derivatives, directions
from .subgroups import Basis

__all__ = [
    "Choice",
    "DerivativeCheck",
    "check_derivatives",
    "choose_estimator",
    "differentiable_attention",
    "require_small_rounding",
]

_JETS = 16
_STEP = 1e-5
"""Of the central differences in float64: truncation 1e-10, rounding 1e-11 of a probability."""
_RELATIVE, _ABSOLUTE = 1e-3, 1e-6
"""Agreement of one jet's derivative, relative and in units of the largest derivative of all."""
_FLOOR = 1e-9
_AGREEING_SHARE = 0.75
"""Of the jets: neighbours that change places within the step, clipped values and kinks disagree in single jets."""
_MOST_DIRECTIONS = 4

_NUDGE = 1e-7
_COARSE = 1e-2
"""Rounding in units of the spread of the outputs: 1e-5 or less in float32, 0.05 and more in bfloat16."""


@dataclass(frozen=True)
class Choice:
    """The estimator in use, and why."""

    estimator: str
    reason: str


@dataclass(frozen=True)
class DerivativeCheck:
    """Autograd against finite differences, by generator.

    Attributes
    ----------
    rms: RMS over jets of the derivative by finite differences
    agreeing: share of jets whose derivatives agree
    """

    rms: dict[str, float]
    agreeing: dict[str, float]

    @property
    def wrong(self) -> list[str]:
        """Generators along which the derivatives differ."""
        # NaN, where no jet could be compared, is wrong, too
        return [name for name, share in self.agreeing.items() if not share >= _AGREEING_SHARE]

    def table(self) -> str:
        """The check as lines of text."""
        return "\n".join(
            f"  {name:<12} RMS derivative {self.rms[name]:9.2e}  jets that agree {share:7.2%}"
            for name, share in self.agreeing.items()
        )


def differentiable_attention() -> AbstractContextManager[None]:
    """Attention kernels that can be differentiated twice; fused ones cannot."""
    return sdpa_kernel(SDPBackend.MATH)


def choose_estimator(
    wanted: str, module: nn.Module, check: Callable[[], DerivativeCheck]
) -> tuple[Choice, DerivativeCheck | None]:
    """The estimator for a network: what is ``wanted``, or with ``auto`` the exact one wherever it is right.

    Raises
    ------
    DerivativeError: ``autograd`` is wanted, but the derivatives are wrong or known to be useless
    """
    if wanted == "finite_difference":
        return Choice(wanted, "as configured"), None
    problem, result = obstacle_to_gradients(module), None
    if problem is None:
        try:
            result = check()
            if result.wrong:
                problem = (
                    f"autograd and finite differences in float64 disagree along {', '.join(result.wrong)}:\n"
                    f"{result.table()}"
                )
        except torch.OutOfMemoryError:
            raise
        except (DerivativeError, RuntimeError) as error:
            problem = f"{type(error).__name__}: {error}"
    if problem is None:
        reason = "as configured" if wanted == "autograd" else "its derivatives agree with finite differences in float64"
        return Choice("autograd", reason), result
    if wanted == "autograd":
        raise DerivativeError(
            f"seal.delta_seal.estimator: the gradients of this network are of no use: {problem}; "
            "write `estimator: finite_difference`"
        )
    return Choice("finite_difference", problem), result


def check_derivatives(
    module: nn.Module, feature_map: FeatureMap, loaded: Sequence[Tensor], settings: SealConfig, basis: Basis
) -> DerivativeCheck:
    """Compare both ways to differentiate the deployed function, in float64, along each generator, on up to 16 jets.

    Raises
    ------
    DerivativeError, RuntimeError: there is no gradient, or the network cannot be evaluated in float64
    """
    assert settings.delta_seal is not None
    few = [x[:_JETS].double() if x.is_floating_point() else x[:_JETS] for x in loaded]
    momenta = feature_map.momenta(few)
    with torch.enable_grad(), traceless(module, momenta.device, torch.float64) as statistics:
        wake_trimmers(module)
        forward = in_double_precision(module)
        function = DeployedFunction(module, feature_map, few, settings, torch.float64, statistics, forward)
        with differentiable_attention():
            with torch.no_grad():
                outputs = function.reference(momenta).shape[1]
            frame = directions(settings.compare, outputs)[:_MOST_DIRECTIONS].to(momenta.device)
            by_autograd = derivatives(function.reference, momenta, basis.momenta, frame).along
            usable = function.usable
        with torch.no_grad():
            by_difference = torch.stack(
                [_central_difference(function, momenta, generator, frame) for generator in basis.momenta], dim=2
            )
    return _compare(by_autograd[usable], by_difference[usable], list(settings.delta_seal.weights()))


def _central_difference(function: DeployedFunction, momenta: Tensor, generator: Tensor, frame: Tensor) -> Tensor:
    """(N, K): derivatives of K directions of the output along one generator."""
    forward, backward = (
        function(transform(torch.linalg.matrix_exp(sign * _STEP * generator).expand(len(momenta), 4, 4), momenta))
        for sign in (1, -1)
    )
    return torch.einsum("kc,nc->nk", frame, (forward - backward).double()) / (2 * _STEP)


def _compare(by_autograd: Tensor, by_difference: Tensor, names: list[str]) -> DerivativeCheck:
    scale = by_difference.abs().max() if by_difference.numel() else by_difference.new_zeros(())
    tolerance = _RELATIVE * by_difference.abs() + _ABSOLUTE * scale + _FLOOR
    # NaN compares as "not within"
    agree = ((by_autograd - by_difference).abs() <= tolerance).all(dim=1).double().mean(dim=0)
    rms = by_difference.square().sum(dim=1).mean(dim=0).sqrt()
    return DerivativeCheck(dict(zip(names, rms.tolist(), strict=True)), dict(zip(names, agree.tolist(), strict=True)))


def require_small_rounding(
    module: nn.Module, feature_map: FeatureMap, loaded: Sequence[Tensor], settings: SealConfig, vectors: torch.dtype
) -> None:
    """A finite difference divides the rounding of y by the step: refuse networks that compute in bfloat16.

    The penalty's pass leaves an outer autocast, but not one that the network itself enters.

    Raises
    ------
    DerivativeError: the outputs of half of the jets jump under a transformation by 1e-7
    """
    few = [x[:_JETS] for x in loaded]
    momenta = feature_map.momenta(few)
    nudge = torch.linalg.matrix_exp(_NUDGE * sum(GENERATORS.values(), torch.zeros(4, 4)))
    with torch.no_grad(), traceless(module, momenta.device) as statistics:
        function = DeployedFunction(module, feature_map, few, settings, vectors, statistics)
        y = function.reference(momenta)
        jump = (function(transform(nudge.to(momenta.device).expand(len(momenta), 4, 4), momenta)) - y).abs()
    noise, spread = float(jump.amax(dim=1).median()), float(y.std(dim=0).max())
    if noise > _COARSE * spread + _COARSE**2:
        raise DerivativeError(
            f"seal.delta_seal.estimator: finite differences need float32, but the outputs of this network jump by "
            f"{noise:.1e} (spread {spread:.1e}) under a transformation by {_NUDGE:g}, as in bfloat16: switch off the "
            "autocast inside the network"
        )
