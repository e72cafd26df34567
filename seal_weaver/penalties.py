"""The SEAL penalties as pure functions, one number per jet.

Hebbar, Madula, Mikuni, Nachman, Outmezguine, Savoray, "SEAL - A Symmetry EncourAging Loss for High
Energy Physics", arXiv:2511.01982 (2025). A penalty knows a callable, four-momenta (N jets, 4, P
particles), component order (px, py, pz, E), and group elements; nothing of weaver, files or features.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .lorentz import transform

__all__ = ["COMPARE", "gseal", "half_squared_difference"]

Function = Callable[[Tensor], Tensor]


def _probability(output: Tensor) -> Tensor:
    return output.softmax(dim=1)


def _logit(output: Tensor) -> Tensor:
    """``log p_c / (1 - p_c)`` of the softmax probabilities: ``z_c - logsumexp_{k != c} z_k``."""
    classes = output.shape[1]
    itself = torch.eye(classes, dtype=torch.bool, device=output.device)
    itself = itself.reshape(1, classes, classes, *(1,) * (output.dim() - 2))
    others = output.unsqueeze(1).masked_fill(itself, -torch.inf)
    return output - others.logsumexp(dim=2)


def _output(output: Tensor) -> Tensor:
    return output


COMPARE: dict[str, Function] = {"probability": _probability, "logit": _logit, "output": _output}
"""Network output (N, C) -> the y (N, C) that is compared; float32 or better expected."""


def half_squared_difference(first: Tensor, second: Tensor) -> Tensor:
    """``1/2 sum_c (first_c - second_c)^2``, (N, C) and (N, C) -> (N,).

    For two classes' probabilities this is the squared difference of the signal probability.
    """
    return 0.5 * (first - second).square().flatten(1).sum(dim=1)


def gseal(function: Function, momenta: Tensor, elements: Tensor, reference: Tensor | None = None) -> Tensor:
    """GSEAL: ``1/2 sum_c (y_c(L p) - y_c(p))^2`` for each jet, (N,).

    Parameters
    ----------
    function: momenta (M, 4, P) -> y (M, C); called once, with the 2 N jets of both terms, or with the N
        transformed ones if ``reference`` is given. Both terms carry gradients.
    momenta: (N, 4, P), GeV
    elements: group elements L, (N, 4, 4), one per jet
    reference: y(p), (N, C), where it is already known
    """
    moved = transform(elements, momenta)
    if reference is None:
        reference, transformed = function(torch.cat([momenta.double(), moved])).chunk(2)
    else:
        transformed = function(moved)
    return half_squared_difference(transformed, reference)
