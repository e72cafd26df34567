"""Which estimator of deltaSEAL a network allows, and proof on the first batch that its derivatives are right.

Autograd through a network may be NaN, vanish, or be cut without a word. Before it is used its derivatives along each
generator are compared with finite differences of the same function in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .config import SealConfig
from .deployed import DeployedFunction, in_double_precision, traceless
from .errors import DerivativeError, SealError
from .features import FeatureMap
from .lorentz import transform
from .patches import obstacle_to_gradients, wake_trimmers
from .penalties import derivatives
from .subgroups import Basis

__all__ = [
    "Choice",
    "DerivativeCheck",
    "check_derivatives",
    "choose_estimator",
    "differentiable_attention",
    "require_small_rounding",
    "shake",
]

_JETS = 16
_STEPS = (1e-5, 1e-3)
"""Of the central differences in float64: truncation 1e-10, rounding 1e-11 of a probability with the first. The second
is for networks that round to float32 somewhere inside; agreement with either will do."""
_RELATIVE, _ABSOLUTE = 1e-3, 1e-6
"""Agreement of one jet's derivative, relative and in units of the largest derivative of all."""
_FLOOR = 1e-9
_AGREEING_SHARE = 0.75
"""Of the jets: neighbours that change places within the step, clipped values and kinks disagree in single jets."""
_MOST_DIRECTIONS = 4
_SHAKE = 0.02
"""Relative, and absolute for parameters that are all equal."""
_CLOSED, _OPENING = 0.1, 0.3
"""Factors of whole channels below the first number, of which many begin at 1e-5, are moved by about the second."""
_SECOND_JETS = 2
_PARAMETER_DIRECTIONS, _PARAMETER_STEPS = 3, (1e-9, 1e-7, 1e-3)
_SECOND_RELATIVE = 0.03


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
        except DerivativeError as error:
            problem = str(error)
        except (SealError, torch.OutOfMemoryError):
            raise
        except (RuntimeError, TypeError, ValueError, AssertionError) as error:
            if "CUDA error" in str(error):  # nothing after it can be trusted
                raise
            problem = f"in float64 the network fails with {type(error).__name__}: {error}"
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
        forward, parameters = in_double_precision(module)
        shake(parameters)
        function = DeployedFunction(module, feature_map, few, settings, torch.float64, statistics, forward)
        with differentiable_attention():
            with torch.no_grad():
                function.reference(momenta)
            frame = function.frame()[:_MOST_DIRECTIONS].to(momenta.device)
            by_autograd = derivatives(function.reference, momenta, basis.momenta, frame).along
            usable = function.usable
            chosen = usable.nonzero()[:_SECOND_JETS, 0]
            if not len(chosen):
                raise DerivativeError("none of the first jets can be transformed: `seal-weaver check` says why")
            one = [x[chosen] for x in few]
            single = DeployedFunction(module, feature_map, one, settings, torch.float64, statistics, forward)
            _require_second_derivatives(
                lambda create_graph: (
                    derivatives(
                        single.reference, momenta[chosen], basis.momenta, frame, create_graph=create_graph
                    ).along
                ),
                parameters,
            )
        with torch.no_grad():
            by_difference = [
                torch.stack(
                    [_difference(function, momenta, step * generator, frame) / step for generator in basis.momenta], 2
                )
                for step in _STEPS
            ]
    return _compare(by_autograd[usable], [d[usable] for d in by_difference], list(settings.delta_seal.weights()))


def shake(parameters: Sequence[Tensor]) -> None:
    """Move the copied parameters: with a head of zeros all derivatives are zero, and every check succeeds.

    Channels that are closed are opened. What comes through them, and its derivatives, will matter once the training has
    opened them, and then nobody checks again.
    """
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in parameters:
            noise = torch.randn(parameter.shape, dtype=torch.float64, generator=generator).to(parameter.device)
            per_channel = parameter.numel() == max(parameter.shape, default=1)
            closed = per_channel and parameter.numel() > 0 and float(parameter.abs().max()) < _CLOSED
            parameter.add_((_OPENING if closed else _SHAKE * (parameter.std(correction=0) + _SHAKE)) * noise)


def _require_second_derivatives(along: Callable[[bool], Tensor], parameters: Sequence[Tensor]) -> None:
    """The penalty is a square of derivatives, and the training differentiates it once more, by the parameters.

    That gradient is compared with differences along some random directions, on few jets and with tiny steps: the
    derivatives of a network with kinks (ReLU) jump where a unit switches, which no gradient sees. One direction in
    which they agree will do: a wrong gradient has none.
    """
    # `backward`, not `grad`: kernels without a second derivative complain only where all paths are followed
    along(True).square().sum().backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    if not all(bool(torch.isfinite(g).all()) for g in gradients):
        raise DerivativeError("the gradient of the squared derivatives is not finite")
    generator = torch.Generator().manual_seed(2)
    pairs = []
    for _ in range(_PARAMETER_DIRECTIONS):
        noise = [torch.randn(p.shape, dtype=torch.float64, generator=generator).to(p.device) for p in parameters]
        direction = [n * (p.detach().std(correction=0) + _SHAKE) for n, p in zip(noise, parameters, strict=True)]
        found = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
        for step in _PARAMETER_STEPS:
            expected = _parameter_difference(parameters, direction, step, along)
            if abs(found - expected) <= _SECOND_RELATIVE * abs(expected) + _FLOOR:
                return
        pairs.append(f"{found:.3g} and {expected:.3g}")
    raise DerivativeError(
        f"the gradient of the squared derivatives by the parameters is wrong: autograd and differences give "
        f"{', '.join(pairs)}"
    )


def _parameter_difference(
    parameters: Sequence[Tensor], direction: Sequence[Tensor], step: float, along: Callable[[bool], Tensor]
) -> float:
    values = []
    for sign in (1.0, -2.0):  # there, and back to the other side
        with torch.no_grad():
            for parameter, d in zip(parameters, direction, strict=True):
                parameter.add_(sign * step * d)
        values.append(float(along(False).square().sum()))
    with torch.no_grad():
        for parameter, d in zip(parameters, direction, strict=True):
            parameter.add_(step * d)
    return (values[0] - values[1]) / (2 * step)


def _difference(function: DeployedFunction, momenta: Tensor, algebra: Tensor, frame: Tensor) -> Tensor:
    """(N, K): half the difference of K directions of the output under exp(A) and exp(-A)."""
    forward, backward = (
        function(transform(torch.linalg.matrix_exp(sign * algebra).expand(len(momenta), 4, 4), momenta))
        for sign in (1, -1)
    )
    return torch.einsum("kc,nc->nk", frame, (forward - backward).double()) / 2


def _compare(by_autograd: Tensor, by_difference: Sequence[Tensor], names: list[str]) -> DerivativeCheck:
    """Derivatives (N, K, G) by autograd, and by differences with several steps."""
    agree = torch.zeros_like(by_autograd[:, 0], dtype=torch.bool)
    for expected in by_difference:
        scale = expected.abs().max() if expected.numel() else expected.new_zeros(())
        tolerance = _RELATIVE * expected.abs() + _ABSOLUTE * scale + _FLOOR
        # NaN compares as "not within"
        agree |= ((by_autograd - expected).abs() <= tolerance).all(dim=1)
    rms, agreeing = by_difference[0].square().sum(dim=1).mean(dim=0).sqrt(), agree.double().mean(dim=0)
    return DerivativeCheck(
        dict(zip(names, rms.tolist(), strict=True)), dict(zip(names, agreeing.tolist(), strict=True))
    )


class _Precisions(TorchDispatchMode):
    """Collects the types of all tensors that are computed in its context."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.seen |= {x.dtype for x in tree_leaves(result) if isinstance(x, Tensor)}
        return result


def require_small_rounding(
    module: nn.Module, feature_map: FeatureMap, loaded: Sequence[Tensor], settings: SealConfig, vectors: torch.dtype
) -> None:
    """A finite difference divides the rounding of y by the step: refuse networks that compute in 16 bits.

    The penalty's pass leaves an outer autocast, but not one that the network itself enters.

    Raises
    ------
    DerivativeError: something in the network is computed in bfloat16 or float16
    """
    few = [x[:_JETS] for x in loaded]
    momenta = feature_map.momenta(few)
    with torch.no_grad(), traceless(module, momenta.device) as statistics, _Precisions() as precisions:
        DeployedFunction(module, feature_map, few, settings, vectors, statistics).reference(momenta)
    coarse = precisions.seen & {torch.bfloat16, torch.float16}
    if coarse:
        raise DerivativeError(
            "seal.delta_seal.estimator: finite differences need float32, but this network computes in "
            f"{', '.join(str(dtype).removeprefix('torch.') for dtype in coarse)} also outside of weaver's autocast: "
            "its rounding, divided by the step, would be the penalty. Switch off the autocast inside the network"
        )
