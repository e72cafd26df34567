"""The task loss with weights of jets: ``mean_i w_i l_i`` from a loss that knows the mean of ``l_i`` alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .errors import AttachmentError
from .jet_weights import JetWeights

__all__ = ["WeightedTaskLoss"]

_WHAT_TO_PROVIDE = (
    "expected a loss with an attribute `reduction`, 'mean', that gives one value per jet once it is set to 'none', "
    "such as torch.nn.CrossEntropyLoss() or torch.nn.MSELoss()"
)
_AGREEMENT = 0.02
"""Of the loss's own mean and the mean of its values; bfloat16 rounds to 0.8 %, a wrong reduction is a factor off."""


class WeightedTaskLoss:
    """``sum_i w_i l_i / sum_i n_i`` over the jets i: with all weights 1 the loss that it wraps.

    ``l_i`` is the sum of the wrapped loss's values for jet i, ``n_i`` their number; for CrossEntropyLoss and NLLLoss
    the sum of their class weights, 0 for targets that are ignored, by which PyTorch divides, too. For one value per
    jet, without class weights, this is ``mean_i w_i l_i``.

    Raises
    ------
    AttachmentError: the wrapped loss cannot give one value per jet
    """

    def __init__(self, loss: Callable[..., Tensor], weights: JetWeights) -> None:
        reduction = getattr(loss, "reduction", None)
        if reduction != "mean":
            found = "no `reduction`" if reduction is None else f"the reduction {reduction!r}"
            raise AttachmentError(f"seal.jet_weights: {_WHAT_TO_PROVIDE}; found {found} in {loss!r}")
        self._loss = loss
        self._weights = weights
        self._checked = False

    def __repr__(self) -> str:
        return f"WeightedTaskLoss({self._loss!r})"

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        with _unreduced(self._loss):
            values = self._loss(*args, **kwargs)
        if not isinstance(values, Tensor) or values.dim() == 0:
            found = "a single number" if isinstance(values, Tensor) else type(values).__name__
            raise AttachmentError(f"seal.jet_weights: {_WHAT_TO_PROVIDE}; found {found} from {self._loss!r}")
        weights = self._weights.take(len(values), values.device)
        norms = _norms(self._loss, values, args, kwargs)
        if not self._checked:
            self._check(_rows(values).sum() / norms, args, kwargs)
        return (weights * _rows(values)).sum() / norms

    def _check(self, mean: Tensor, args: Any, kwargs: Any) -> None:
        """Once: with weights of 1 it must be the loss that it wraps, whatever that one's ``reduction`` means."""
        self._checked = True
        with torch.no_grad():
            expected, found = float(self._loss(*args, **kwargs)), float(mean)
        if abs(found - expected) > _AGREEMENT * abs(expected):
            raise AttachmentError(
                f"seal.jet_weights: {_WHAT_TO_PROVIDE}; the values of {self._loss!r} have the mean {found:.6g}, but it "
                f"gives {expected:.6g}"
            )


@contextmanager
def _unreduced(loss: Any) -> Iterator[None]:
    own = "reduction" in vars(loss)
    before = loss.reduction
    loss.reduction = "none"
    try:
        yield
    finally:
        if own:
            loss.reduction = before
        else:
            del loss.reduction


def _rows(values: Tensor) -> Tensor:
    """Sums over everything but the jets, in float32 or better: (N, ...) -> (N,)."""
    return values.reshape(len(values), -1).to(torch.promote_types(values.dtype, torch.float32)).sum(dim=1)


def _norms(loss: Any, values: Tensor, args: Any, kwargs: Any) -> Tensor:
    """By what the loss divides its sum over all values."""
    if not isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss)):
        return values.new_full((), values.numel(), dtype=torch.float32)
    target = kwargs["target"] if "target" in kwargs else args[1]
    if target.is_floating_point():  # probabilities: PyTorch divides by the number of jets
        return values.new_full((), values.numel(), dtype=torch.float32)
    counted = target != loss.ignore_index
    if loss.weight is None:
        return counted.sum().float()
    # `where` with a number would copy it to the device, and the host would wait
    return (loss.weight[target.masked_fill(~counted, 0)] * counted).sum()
