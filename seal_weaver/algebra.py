"""Matrix Lie algebras on four-momenta: names, matrices and named subgroups, as plain numbers.

Component order (px, py, pz, E). ``K*`` are the boosts and ``J*`` the rotations of the Lorentz algebra, real matrices
with ``G^T eta + eta G = 0`` (Weinberg, "The Quantum Theory of Fields" I, section 2.4, without the factor i).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["GROUPS", "MATRICES", "Matrix", "expand"]

Matrix = tuple[tuple[float, ...], ...]

_ENERGY = 3


def _matrix(entries: Mapping[tuple[int, int], float]) -> Matrix:
    return tuple(tuple(entries.get((row, column), 0.0) for column in range(4)) for row in range(4))


def _boost(axis: int) -> Matrix:
    return _matrix({(axis, _ENERGY): 1.0, (_ENERGY, axis): 1.0})


def _rotation(axis: int) -> Matrix:
    first, second = (axis + 1) % 3, (axis + 2) % 3
    return _matrix({(second, first): 1.0, (first, second): -1.0})


MATRICES: Mapping[str, Matrix] = MappingProxyType(
    {f"K{axis}": _boost(i) for i, axis in enumerate("xyz")} | {f"J{axis}": _rotation(i) for i, axis in enumerate("xyz")}
)
"""The generators of the Lorentz group by name."""

GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "lorentz": ("Kx", "Ky", "Kz", "Jx", "Jy", "Jz"),
        "boosts": ("Kx", "Ky", "Kz"),
        "rotations": ("Jx", "Jy", "Jz"),
        "beam": ("Kz", "Jz"),
        "transverse_boosts": ("Kx", "Ky"),
    }
)
"""Named sets of generators. ``beam``: what a collider's geometry leaves."""


def expand(name: str) -> tuple[str, ...]:
    """The generators that a name stands for: those of a group, or the name itself."""
    return GROUPS.get(name, (name,))
