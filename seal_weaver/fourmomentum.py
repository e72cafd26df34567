"""Four-momenta inside weaver's formulas: what its functions `_p4_from_...` give, on torch tensors.

weaver makes them with the `vector` library, whose conventions these follow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["ATTRIBUTES", "CONSTRUCTORS", "FourMomentum", "safe_hypot", "safe_sqrt"]


def safe_sqrt(x: Tensor) -> Tensor:
    """Square root with gradient 0 instead of inf at exactly 0.

    Below it is NaN, as NumPy's, but with gradient 0: in `np.where(x > 0, np.sqrt(x), 0)` a NaN would reach the
    gradient from the branch that is not taken.
    """
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, torch.ones_like(x)).sqrt(), x.detach().sqrt())


def safe_hypot(x: Tensor, y: Tensor) -> Tensor:
    """Hypotenuse with gradient 0 instead of NaN at the origin (a constituent along the jet axis)."""
    return safe_sqrt(x.square() + y.square())


class FourMomentum(NamedTuple):
    """Components of the constituents (N, P) or jets (N, 1), in GeV; angles where it was made from them, which may be
    beyond [-pi, pi].
    """

    px: Tensor
    py: Tensor
    pz: Tensor
    energy: Tensor
    eta: Tensor | None = None
    phi: Tensor | None = None


def _from_pt_eta_phi_e(pt: Tensor, eta: Tensor, phi: Tensor, energy: Tensor) -> FourMomentum:
    return FourMomentum(*torch.broadcast_tensors(pt * phi.cos(), pt * phi.sin(), pt * eta.sinh(), energy, eta, phi))


def _from_pt_eta_phi_m(pt: Tensor, eta: Tensor, phi: Tensor, mass: Tensor) -> FourMomentum:
    energy = safe_sqrt(((pt * eta.cosh()).square() + mass * mass.abs()).clamp(min=0.0))
    return _from_pt_eta_phi_e(pt, eta, phi, energy)


def _pt(p: FourMomentum) -> Tensor:
    return safe_hypot(p.px, p.py)


def _mass(p: FourMomentum) -> Tensor:
    """Negative where the momentum is space-like."""
    square = p.energy.square() - p.px.square() - p.py.square() - p.pz.square()
    return safe_sqrt(square.abs()) * square.sign()


CONSTRUCTORS: dict[str, Callable[..., FourMomentum]] = {
    "_p4_from_pxpypze": FourMomentum,
    "_p4_from_ptetaphie": _from_pt_eta_phi_e,
    "_p4_from_ptetaphim": _from_pt_eta_phi_m,
}
"""weaver's function -> torch form."""

ATTRIBUTES: dict[str, Callable[[FourMomentum], Tensor]] = {
    **dict.fromkeys(("px", "x"), lambda p: p.px),
    **dict.fromkeys(("py", "y"), lambda p: p.py),
    **dict.fromkeys(("pz", "z"), lambda p: p.pz),
    **dict.fromkeys(("energy", "E", "e", "t"), lambda p: p.energy),
    **dict.fromkeys(("pt", "rho"), _pt),
    **dict.fromkeys(("mass", "M", "m", "tau"), _mass),
    "eta": lambda p: torch.asinh(p.pz / _pt(p)) if p.eta is None else p.eta,
    "phi": lambda p: torch.atan2(p.py, p.px) if p.phi is None else p.phi,
    "rapidity": lambda p: torch.atanh(p.pz / p.energy),
}
"""Attribute of a four-momentum -> torch form."""
