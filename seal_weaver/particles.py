"""Outputs per particle as one vector per jet, so that every penalty is a number per jet.

The output of a jet with n real particles becomes the vector of all ``y_cp / sqrt(n)``, with zeros at padded places.
Half the squared length of its change then is the mean over the particles of ``1/2 sum_c (dy_cp)^2``: as large as the
penalty of a network with one such output per jet. Outputs (N, C) stay as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .penalties import COMPARE, directions

__all__ = ["compared", "deviations", "frame"]


def compared(output: Tensor, mask: Tensor, compare: str) -> Tensor:
    """Network output (N, C), or (N, C, up to P), -> the y (N, K) that are compared, with K = C or K = C P.

    mask: (N, P) bool, True for real particles. An output with fewer places lacks padded ones, which trimming took away.
    """
    if output.dim() == 2:
        return COMPARE[compare](output)
    real = mask[:, None]
    # padded places may hold anything, also NaN; they take part neither in values nor in gradients
    output = F.pad(output, (0, mask.shape[1] - output.shape[2])).masked_fill(~real, 0.0)
    return (COMPARE[compare](output) * _shares(mask).to(output.dtype)[:, None]).flatten(1)


def deviations(y: Tensor, mask: Tensor | None) -> Tensor:
    """y (N, K) minus the mean over the jets; for outputs per particle, with their ``mask``, minus that over particles.

    Like y itself, half its squared length is the mean over a jet's particles.
    """
    if mask is None:
        return y - y.mean(dim=0)
    shares = _shares(mask).to(y.dtype)[:, None]
    per_particle = y.reshape(len(y), -1, mask.shape[1])
    mean = (per_particle * shares).sum(dim=2).mean(dim=0)
    return (per_particle - mean[:, None] * shares).flatten(1)


def frame(compare: str, outputs: int, particles: int | None) -> Tensor:
    """Orthonormal rows (d, K) that span all changes of y: ``penalties.directions`` for each of the particles."""
    rows = directions(compare, outputs)
    return rows if particles is None else torch.kron(rows, torch.eye(particles, dtype=rows.dtype))


def _shares(mask: Tensor) -> Tensor:
    """``1 / sqrt(n)`` at the n real particles of a jet, 0 elsewhere; (N, P), float64."""
    number = mask.sum(dim=1, keepdim=True).clamp(min=1)
    return mask.double() / number.double().sqrt()
