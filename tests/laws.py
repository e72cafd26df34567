"""Laws with closed forms, and jets to try them on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from seal_weaver.algebra import MATRICES
from seal_weaver.lorentz import (
    exponential,
    generators,
    minkowski,
)
from seal_weaver.penalties import (
    derivatives,
    directions,
)

N, P, C = 30, 6, 5
LORENTZ = tuple(MATRICES)
ESTIMATORS = ("autograd", "finite_difference")

ROUNDING = 1e-12  # float64, relative to the scale of the terms that cancel
ZERO = 1e-20  # of a penalty relative to y^2: (1e-15 of rounding x 100 for large boosts and 1/h)^2, with a margin
SIGMAS = 4.0  # seeds are fixed, and a wrong factor is tens of standard errors off
DRAWS = 20_000

Function = Callable[[Tensor], Tensor]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def jets(number: int = N, particles: int = P, seed: int = 1) -> Tensor:
    """Massive particles in all directions, so that the mass of a jet is of the order of its energy."""
    three = torch.randn(number, 3, particles, dtype=torch.float64, generator=seeded(seed)) * 30
    mass = 1.0 + torch.rand(number, 1, particles, dtype=torch.float64, generator=seeded(seed + 1))
    return torch.cat([three, (three.square().sum(1, keepdim=True) + mass.square()).sqrt()], dim=1)


def copies(number: int = DRAWS) -> Tensor:
    """One jet many times: the mean over these is the mean over the penalty's random directions."""
    return jets(1).expand(number, 4, P)


def energy(p: Tensor) -> Tensor:
    return p[:, 3].sum(dim=1, keepdim=True)


def total(p: Tensor) -> Tensor:
    return p.sum(dim=2)


def mass_squared(p: Tensor) -> Tensor:
    jet = p.sum(dim=2, keepdim=True)
    return minkowski(jet, jet)


def logits(p: Tensor, outputs: int = C) -> Tensor:
    """A smooth function without any symmetry."""
    weights = torch.randn(outputs, 4, P, dtype=torch.float64, generator=seeded(7)) / 60
    return torch.tanh(torch.einsum("cip,nip->nc", weights, p)) + torch.einsum("cip,nip->nc", weights.flip(0), p) / 5


def probabilities(p: Tensor) -> Tensor:
    return logits(p).softmax(dim=1)


def exact(function: Function, p: Tensor, basis: Tensor) -> Tensor:
    """deltaSEAL of one jet from the full Jacobian of ``t -> y(exp(t G) p)``, by PyTorch's own function."""

    def along_the_group(t: Tensor) -> Tensor:
        return function(exponential(t, basis) @ p)

    at_rest = torch.zeros(1, len(basis), dtype=torch.float64)
    return 0.5 * torch.autograd.functional.jacobian(along_the_group, at_rest).square().sum()


def check_mean(draws: Tensor, expected: Tensor | float, sharpness: float = 0.02) -> None:
    """The mean is the expected one within its error, and the error is small enough to tell."""
    error = draws.std().item() / math.sqrt(len(draws))
    assert error < sharpness * float(expected)
    assert abs(draws.mean().item() - float(expected)) < SIGMAS * error


def by_name(function: Function, p: Tensor, names: Sequence[str] = LORENTZ) -> dict[str, Tensor]:
    """The derivatives of a function with one output along each generator, (N,)."""
    along = derivatives(function, p, generators(names), directions("output", 1)).along
    return dict(zip(names, along[:, 0].T, strict=True))
