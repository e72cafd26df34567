"""The SEAL penalties as pure functions, one number per jet.

Hebbar, Madula, Mikuni, Nachman, Outmezguine, Savoray, "SEAL - A Symmetry EncourAging Loss for High
Energy Physics", arXiv:2511.01982 (2025). A penalty knows a callable, four-momenta (N jets, 4, P
particles), component order (px, py, pz, E) in GeV, and group elements or generators; nothing of weaver, files or
features. The callable maps momenta (M, 4, P) to y (M, C), each jet for itself. An output per particle is a y (M, C P).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import DerivativeError
from .lorentz import exponential, transform

__all__ = [
    "COMPARE",
    "Comparison",
    "Derivatives",
    "delta_seal",
    "delta_seal_autograd",
    "delta_seal_finite_difference",
    "derivatives",
    "difference_comparison",
    "directions",
    "gseal",
    "gseal_comparison",
    "half_squared_difference",
]

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


def directions(compare: str, outputs: int) -> Tensor:
    """Orthonormal rows (d, C) that span all changes of y: probabilities sum to one, two logits to zero."""
    if compare != "output" and outputs < 2:
        raise ValueError(f"compare: `{compare}` of a single output is constant; expected 'output'")
    if compare == "output" or (compare == "logit" and outputs > 2):
        return torch.eye(outputs, dtype=torch.float64)
    # the complement of (1, ..., 1) after a QR decomposition that starts with it
    columns = torch.cat([torch.ones(outputs, 1), torch.eye(outputs)[:, : outputs - 1]], dim=1).double()
    return torch.linalg.qr(columns).Q[:, 1:].T.contiguous()


def half_squared_difference(first: Tensor, second: Tensor) -> Tensor:
    """``1/2 sum_c (first_c - second_c)^2``, (N, C) and (N, C) -> (N,).

    For two classes' probabilities this is the squared difference of the signal probability.
    """
    return 0.5 * (first - second).square().flatten(1).sum(dim=1)


def _act(matrices: Tensor | None, y: Tensor) -> Tensor:
    """R y for matrices (N, C, C) and y (N, C), or (N, C P): each particle's for itself."""
    if matrices is None:
        return y
    per_particle = y.double().reshape(len(y), matrices.shape[-1], -1)
    return torch.einsum("ncd,ndp->ncp", matrices, per_particle).flatten(1).to(y.dtype)


class Comparison(NamedTuple):
    """Transformed jets, and what a penalty makes of the outputs for them.

    Attributes
    ----------
    moved: momenta L p, (N, 4, P)
    penalty: (y(L p), y(p)), both (N, C) -> the penalty of each jet (N,)
    """

    moved: Tensor
    penalty: Callable[[Tensor, Tensor], Tensor]


def gseal_comparison(momenta: Tensor, elements: Tensor, representation: Tensor | None = None) -> Comparison:
    """GSEAL without the function; arguments as for ``gseal``."""
    return Comparison(
        transform(elements, momenta), lambda y_moved, y: half_squared_difference(y_moved, _act(representation, y))
    )


def gseal(
    function: Function,
    momenta: Tensor,
    elements: Tensor,
    reference: Tensor | None = None,
    representation: Tensor | None = None,
) -> Tensor:
    """GSEAL: ``1/2 sum_c (y_c(L p) - y_c(p))^2`` for each jet, (N,).

    Parameters
    ----------
    function: momenta (N, 4, P) -> y (N, C). Both terms carry gradients.
    momenta: (N, 4, P), GeV
    elements: group elements L, (N, 4, 4), one per jet
    reference: y(p), (N, C), where it is already known
    representation: R(L), (N, C, C): compare ``y(L p)`` with ``R(L) y(p)``
    """
    if reference is None:
        reference = function(momenta.double())
    comparison = gseal_comparison(momenta, elements, representation)
    return comparison.penalty(function(comparison.moved), reference)


class Derivatives(NamedTuple):
    """``y`` (N, C) at the identity, and ``along`` (N, K, G): d/dt_a of K directions of y at t = 0."""

    y: Tensor
    along: Tensor


def derivatives(
    function: Function,
    momenta: Tensor,
    basis: Tensor,
    covectors: Tensor,
    representation: Tensor | None = None,
    create_graph: bool = False,
) -> Derivatives:
    """``d/dt_a v . y(exp(sum_b t_b G_b) p)`` at t = 0, all generators from one gradient for each covector.

    Parameters
    ----------
    function: momenta (N, 4, P) -> y (N, C), differentiable; twice if ``create_graph``
    momenta: (N, 4, P), GeV
    basis: generators (G, 4, 4)
    covectors: (N, K, C), or (K, C) for all jets
    representation: generators on the outputs (G, C, C): the derivative of ``y(exp(t G) p) - exp(t R) y(p)``

    Raises
    ------
    DerivativeError: the output does not depend on the momenta in a differentiable way
    """
    with torch.enable_grad():
        t = torch.zeros(len(momenta), len(basis), dtype=torch.float64, device=momenta.device, requires_grad=True)
        # to first order the exponential is the sum: the same derivative at t = 0, and exactly p there
        moved = momenta.double() + torch.einsum("na,aij->nij", t, basis) @ momenta.double()
        y = function(moved)
        projected = torch.einsum("nkc,nc->nk", covectors.expand(len(y), *covectors.shape[-2:]).to(y.dtype), y)
        along = [
            _gradient(projected[:, k].sum(), t, create_graph, last=k == projected.shape[1] - 1)
            for k in range(projected.shape[1])
        ]
    result = torch.stack(along, dim=1)
    if representation is not None:
        moved = torch.stack([_act(matrix.expand(len(y), -1, -1), y.double()) for matrix in representation], dim=1)
        result = result - torch.einsum("nkc,nac->nka", covectors.expand(len(y), *covectors.shape[-2:]).double(), moved)
    return Derivatives(y, result)


def _gradient(value: Tensor, t: Tensor, create_graph: bool, last: bool) -> Tensor:
    if not value.requires_grad:
        raise DerivativeError("the network cuts the gradient with respect to the four-momenta (`no_grad`, `detach`)")
    gradient = torch.autograd.grad(
        value, t, create_graph=create_graph, retain_graph=create_graph or not last, allow_unused=True
    )[0]
    if gradient is None:
        raise DerivativeError("the network's output does not depend on the four-momenta in a differentiable way")
    return gradient


def _random_covectors(number: int, frame: Tensor, projections: int, generator: torch.Generator) -> tuple[Tensor, float]:
    """Covectors v (N, K, C) and the factor f such that ``f sum_k (v_k . x)^2`` has the mean ``|x|^2``.

    For x in the frame: K orthonormal random directions of its d; all of them, and no chance, where ``projections``
    reaches d.
    """
    rows = len(frame)
    if projections >= rows:
        return frame, 1.0
    normal = torch.randn(number, rows, projections, dtype=torch.float64, device=generator.device, generator=generator)
    orthonormal = normal / normal.norm(dim=1, keepdim=True) if projections == 1 else torch.linalg.qr(normal).Q
    return orthonormal.transpose(1, 2) @ frame, rows / projections


def delta_seal_autograd(
    function: Function,
    momenta: Tensor,
    basis: Tensor,
    frame: Tensor,
    generator: torch.Generator,
    projections: int = 1,
    representation: Tensor | None = None,
    create_graph: bool = True,
) -> tuple[Tensor, Tensor]:
    """deltaSEAL, ``sum_a 1/2 sum_c (d/dt y_c(exp(t G_a) p))^2`` at t = 0 for each jet (N,), and y(p) (N, C).

    All generators come from one gradient with respect to the algebra's coordinates (N, G). Outputs beyond
    ``projections`` are covered by random directions, without bias (Hutchinson).

    Parameters
    ----------
    function, momenta, basis, representation, create_graph: as for ``derivatives``
    frame: the directions in which y can change, (d, C), see ``directions``
    generator: source of the random directions
    projections: gradients per jet; exact from d on

    Raises
    ------
    DerivativeError: as ``derivatives``
    """
    covectors, factor = _random_covectors(len(momenta), frame.to(momenta.device), projections, generator)
    y, along = derivatives(function, momenta, basis, covectors, representation, create_graph)
    return 0.5 * factor * along.square().sum(dim=(1, 2)), y


def difference_comparison(
    momenta: Tensor,
    basis: Tensor,
    step: float,
    generator: torch.Generator,
    representation: Tensor | None = None,
    norm: float | None = None,
    smooth: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Comparison:
    """deltaSEAL by finite differences without the function; arguments as for ``delta_seal_finite_difference``."""
    bound = None if norm is None else step * norm
    count = len(basis)
    normal = torch.randn(len(momenta), count, dtype=torch.float64, device=generator.device, generator=generator)
    coordinates = step * normal / normal.norm(dim=1, keepdim=True)
    moved = transform(exponential(coordinates, basis, bound), momenta)
    if smooth is not None:
        coordinates = torch.where(smooth(moved, momenta)[:, None], coordinates, -coordinates)
        moved = transform(exponential(coordinates, basis, bound), momenta)
    matrices = None if representation is None else exponential(coordinates, representation, bound)
    factor = count / step**2
    return Comparison(moved, lambda y_moved, y: factor * half_squared_difference(y_moved, _act(matrices, y)))


def delta_seal_finite_difference(
    function: Function,
    momenta: Tensor,
    basis: Tensor,
    step: float,
    generator: torch.Generator,
    reference: Tensor | None = None,
    representation: Tensor | None = None,
    norm: float | None = None,
    smooth: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """deltaSEAL from a difference along one random direction of the algebra per jet, (N,).

    ``G 1/2 sum_c ((y_c(exp(h xi) p) - y_c(p)) / h)^2`` with ``xi`` uniform on the unit sphere of the span of the G
    generators. As xi and -xi are equally likely the bias is of order h^2; rounding contributes ``(noise of y / h)^2``.

    Parameters
    ----------
    function, momenta, basis, representation: as for ``derivatives``; needs no derivative of the function
    step: h, in units of the generators' coordinates (rapidity, radian); with weights, of the scaled ones
    generator: source of the directions
    reference: y(p), (N, C), where it is already known
    norm: upper limit of the norm of ``sum_a xi_a G_a``, on momenta and outputs; None: read from the tensors
    smooth: moved and original momenta -> (N,) bool: False where y jumps in between. There the opposite direction, as
        likely and with the same squared derivative, is taken: a jump would count with ``1 / h^2``
    """
    if reference is None:
        reference = function(momenta.double())
    comparison = difference_comparison(momenta, basis, step, generator, representation, norm, smooth)
    return comparison.penalty(function(comparison.moved), reference)


def delta_seal(
    function: Function,
    momenta: Tensor,
    basis: Tensor,
    generator: torch.Generator,
    estimator: str = "autograd",
    compare: str = "probability",
    step: float = 0.05,
    projections: int = 1,
    representation: Tensor | None = None,
) -> Tensor:
    """deltaSEAL, ``sum_a 1/2 sum_c (d/dt y_c(exp(t G_a) p))^2`` at t = 0 for each jet, (N,), by either estimator.

    Parameters
    ----------
    function: momenta (N, 4, P) -> y (N, C), in the space ``compare``
    momenta: (N, 4, P), GeV
    basis: generators (G, 4, 4); a weight w_a is a factor ``sqrt(w_a)``
    generator: source of random directions, on the momenta's device
    estimator: ``autograd`` or ``finite_difference``
    step, projections, representation: see ``delta_seal_finite_difference`` and ``delta_seal_autograd``
    """
    if estimator == "finite_difference":
        return delta_seal_finite_difference(function, momenta, basis, step, generator, representation=representation)
    if estimator != "autograd":
        raise ValueError(f"estimator: expected 'autograd' or 'finite_difference', got {estimator!r}")
    with torch.no_grad():
        outputs = function(momenta[:1].double()).shape[1]
    frame = directions(compare, outputs)
    return delta_seal_autograd(function, momenta, basis, frame, generator, projections, representation)[0]
