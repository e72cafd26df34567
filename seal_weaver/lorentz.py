"""The Lorentz group acting on four-momenta.

Conventions: component order (px, py, pz, E) in GeV, momenta of shape (N jets, 4, P particles),
metric ``diag(-1, -1, -1, +1)``. A boost by rapidity ``eta`` along +z maps ``E -> E cosh eta +
pz sinh eta``: it is the *active* boost that gives a particle at rest the velocity
``+tanh eta``. Everything here is float64 and stays so under an outer autocast.

Generators ``G`` obey ``G^T eta + eta G = 0``; Weinberg, "The Quantum Theory of Fields" I,
section 2.4, up to the factor i that makes them real here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from .algebra import MATRICES
from .errors import ConfigError

__all__ = [
    "GENERATORS",
    "boost_from_rapidity",
    "boost_from_velocity",
    "exponential",
    "generators",
    "metric",
    "minkowski",
    "random_boosts",
    "random_lorentz",
    "random_rotations",
    "rotation_from_quaternion",
    "transform",
    "unit_vectors",
]

_ENERGY = 3
_TAYLOR_RADIUS, _TAYLOR_ORDER = 0.5, 13  # remainder 0.5^14 / 14! = 7e-16

GENERATORS: dict[str, Tensor] = {name: torch.tensor(matrix, dtype=torch.float64) for name, matrix in MATRICES.items()}
"""Boosts Kx, Ky, Kz and rotations Jx, Jy, Jz by name, each a real (4, 4) float64 matrix."""


def metric(device: torch.device | None = None) -> Tensor:
    """The Minkowski metric ``diag(-1, -1, -1, +1)``, (4, 4) float64."""
    return torch.diag(torch.tensor([-1.0, -1.0, -1.0, 1.0], dtype=torch.float64, device=device))


def generators(names: Iterable[str], path: str = "generators") -> Tensor:
    """Stack the named generators into (G, 4, 4) float64.

    Raises
    ------
    ConfigError: a name is not one of Kx, Ky, Kz, Jx, Jy, Jz; ``path`` says where it stood
    """
    names = list(names)
    for name in names:
        if name not in GENERATORS:
            raise ConfigError(path, f"unknown generator {name!r}; known: {', '.join(GENERATORS)}")
    if not names:
        raise ConfigError(path, f"expected at least one generator of {', '.join(GENERATORS)}, got none")
    return torch.stack([GENERATORS[name] for name in names])


def minkowski(p: Tensor, q: Tensor) -> Tensor:
    """Minkowski product ``E E' - px px' - py py' - pz pz'`` over the component axis 1, (N, P), GeV^2."""
    return p[:, _ENERGY] * q[:, _ENERGY] - (p[:, :_ENERGY] * q[:, :_ENERGY]).sum(dim=1)


def exponential(coordinates: Tensor, basis: Tensor, bound: float | None = None) -> Tensor:
    """Group elements ``exp(sum_a t_a G_a)`` of coordinates t (N, G) and generators (G, C, C): (N, C, C) float64.

    With ``bound``, an upper limit of the norms of the sums, the number of terms is known beforehand and a GPU need not
    be asked for the norms: scaling and squaring of a Taylor series (Moler, Van Loan, SIAM Review 45, 2003).
    """
    with torch.autocast(coordinates.device.type, enabled=False):
        algebra = torch.einsum("na,aij->nij", coordinates.double(), basis.to(coordinates.device).double())
        return torch.linalg.matrix_exp(algebra) if bound is None else _exponential_within(algebra, bound)


def _exponential_within(algebra: Tensor, bound: float) -> Tensor:
    squarings = max(0, math.ceil(math.log2(bound / _TAYLOR_RADIUS))) if bound > 0 else 0
    algebra = algebra / 2.0**squarings
    identity = torch.eye(algebra.shape[-1], dtype=algebra.dtype, device=algebra.device)
    result = identity.expand_as(algebra)
    for order in range(_TAYLOR_ORDER, 0, -1):
        result = identity + algebra @ result / order
    for _ in range(squarings):
        result = result @ result
    return result


def boost_from_velocity(velocity: Tensor) -> Tensor:
    """Active boosts (N, 4, 4) float64 with velocities (N, 3), ``|beta| < 1``, in units of c.

    Closed form of Jackson, "Classical Electrodynamics", eq. 11.98, with the sign of an active boost.
    """
    beta = velocity.double()
    beta2 = beta.square().sum(dim=1)
    gamma = (1.0 - beta2).rsqrt()
    # (gamma - 1) / beta^2 written without the 0/0 at rest
    longitudinal = gamma.square() / (1.0 + gamma)
    boost = torch.eye(4, dtype=torch.float64, device=beta.device).repeat(len(beta), 1, 1)
    boost[:, :3, :3] += longitudinal[:, None, None] * beta[:, :, None] * beta[:, None, :]
    boost[:, :3, _ENERGY] = boost[:, _ENERGY, :3] = gamma[:, None] * beta
    boost[:, _ENERGY, _ENERGY] = gamma
    return boost


def boost_from_rapidity(rapidity: Tensor) -> Tensor:
    """Active boosts (N, 4, 4) float64 with rapidity vectors (N, 3): direction, and length artanh(beta)."""
    rapidity = rapidity.double()
    length = rapidity.norm(dim=1, keepdim=True)
    # tanh(r)/r is 1 at r = 0; the clamp only avoids 0/0 there
    return boost_from_velocity(rapidity * (length.tanh() / length.clamp(min=1e-300)).masked_fill(length == 0, 1.0))


def unit_vectors(first: Tensor, second: Tensor) -> Tensor:
    """Unit vectors (N, 3) from numbers (N,) in [0, 1): uniform on the sphere if they are (Archimedes)."""
    cosine, phi = 2.0 * first - 1.0, 2.0 * math.pi * second
    sine = (1.0 - cosine.square()).clamp(min=0.0).sqrt()
    return torch.stack([sine * phi.cos(), sine * phi.sin(), cosine], dim=1)


def random_boosts(number: int, beta2_max: float, generator: torch.Generator) -> Tensor:
    """Boosts (N, 4, 4) float64, isotropic, ``beta = sqrt(U(0, beta2_max))``, on the generator's device.

    The published protocol of arXiv:2511.01982 (Hebbar et al., 2025) has ``beta2_max = 0.95``.
    """
    if not 0.0 <= beta2_max < 1.0:
        raise ValueError(f"beta2_max: expected 0 <= beta2_max < 1, got {beta2_max}")
    beta2, first, second = (
        torch.rand(number, dtype=torch.float64, device=generator.device, generator=generator) for _ in range(3)
    )
    return boost_from_velocity((beta2_max * beta2).sqrt()[:, None] * unit_vectors(first, second))


def rotation_from_quaternion(quaternion: Tensor) -> Tensor:
    """Rotations (N, 4, 4) float64 of quaternions (N, 4), (w, x, y, z), of any non-zero length."""
    w, x, y, z = (quaternion.double() / quaternion.double().norm(dim=1, keepdim=True)).unbind(dim=1)
    zero, one = torch.zeros_like(w), torch.ones_like(w)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y), zero],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x), zero],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y), zero],
        [zero, zero, zero, one],
    ]
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def random_rotations(number: int, generator: torch.Generator) -> Tensor:
    """Rotations (N, 4, 4) float64 uniform in the Haar measure of SO(3).

    A normalised quaternion of four normal numbers is uniform on S^3 (Shoemake, Graphics Gems III, 1992).
    """
    quaternion = torch.randn(number, 4, dtype=torch.float64, device=generator.device, generator=generator)
    return rotation_from_quaternion(quaternion)


def random_lorentz(number: int, beta2_max: float, rotations: bool, generator: torch.Generator) -> Tensor:
    """Random proper orthochronous elements (N, 4, 4): a boost, after a Haar rotation if ``rotations``."""
    boosts = random_boosts(number, beta2_max, generator)
    return boosts @ random_rotations(number, generator) if rotations else boosts


def transform(elements: Tensor, momenta: Tensor) -> Tensor:
    """Act with (N, 4, 4) elements, one per jet, on momenta (N, 4, P): (N, 4, P) float64."""
    with torch.autocast(momenta.device.type, enabled=False):
        return elements.double() @ momenta.double()
