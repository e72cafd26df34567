"""BatchNorm in evaluation mode whose running statistics follow the parameters, as they do in training.

The penalised function normalises with running statistics. Their values are constants of the step, but not of
the training: they are averages over the reference jets, and move when the parameters before them move. A
gradient that holds them fixed sees a way to lower the penalty that does not exist: shrink the weights before a
normalisation. The task loss, which normalises with batch statistics, does not feel that, so the weights
drift, the running statistics lag behind, and the network in evaluation mode falls apart (a small ParticleNet lost
five per cent of accuracy against itself in training mode).

Here the *values* stay those of evaluation mode, to the last bit. The *gradient* gets the missing term, with the
derivative of the statistics taken on the reference jets of the pass: with mean m and standard deviation s of a
channel over these jets, ``s_run * s / stop(s)`` stands for ``s_run``, and ``m_run + m - stop(m)`` for ``m_run``.
The penalty is then as blind to the scale of these weights as the task loss is.

Derivatives along generators, taken within the pass, are those of the deployed function: there a jet's momenta do not
move the statistics. Only the loss's gradient with respect to the parameters, taken after the pass, sees them move.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["Statistics", "following_statistics"]


class Statistics:
    """What the layers share during a pass: whether its jets are the reference, and whether gradients may enter."""

    def __init__(self) -> None:
        self.within_pass = True
        self.reference = True
        self.copies = 1
        self._layers: list[_Following] = []

    def take_from(self, reference: bool, copies: int = 1) -> None:
        """The next forward passes are of reference jets, which define the statistics, or of transformed ones.

        A layer's k-th call with transformed jets uses the statistics of its k-th call with reference jets. Both can
        come in one pass: of its ``copies`` of the batch the first one is of reference jets.
        """
        self.reference, self.copies = reference, copies
        for layer in self._layers:
            layer.calls = 0
            if reference:
                layer.records.clear()

    def moments(self) -> list[tuple[Tensor, Tensor]]:
        """Standard deviations and means of all layers' calls with reference jets, (channels,) each."""
        return [record for layer in self._layers for record in layer.records]

    def finish(self) -> None:
        """The pass is over. The graph refers to this object: with the records it would keep itself alive for ever."""
        self.within_pass = False
        for layer in self._layers:
            layer.records.clear()
        self._layers.clear()

    def follow(self, layer: _BatchNorm) -> None:
        """Give a layer the forward function that follows."""
        following = _Following(layer, self)
        self._layers.append(following)
        layer.__dict__["forward"] = following


@contextmanager
def following_statistics(modules: Iterable[nn.Module]) -> Iterator[Statistics]:
    """Let the BatchNorm layers among ``modules`` differentiate through their running statistics.

    Give only layers that are in training mode in the main pass: frozen ones do have constant statistics. Layers with a
    forward function of their own are left alone.
    """
    layers = [m for m in modules if isinstance(m, _BatchNorm) and m.running_mean is not None and _is_standard(m)]
    statistics = Statistics()
    try:
        for layer in layers:
            statistics.follow(layer)
        yield statistics
    finally:
        statistics.finish()
        for layer in layers:
            del layer.__dict__["forward"]


def _is_standard(layer: _BatchNorm) -> bool:
    return type(layer).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward) and "forward" not in layer.__dict__


class _Moments(torch.autograd.Function):
    """Standard deviation and mean of each channel; their gradient is let through only when the pass is over.

    torch.var_mean and its derivative say the same, but take eight times as long on a CPU, as long as the convolutions
    around them. Of float32 activations nothing is kept that the normalisation does not keep anyway.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, statistics: Statistics) -> tuple[Tensor, Tensor]:
        dims = [0, *range(2, x.dim())]
        number = max(1, x.numel() // x.shape[1])
        mean = x.sum(dims, keepdim=True) / number
        # of centred values: channels may be far from 0
        deviation = (torch.linalg.vector_norm(x - mean, dim=dims, keepdim=True).square() / number + eps).sqrt()
        ctx.save_for_backward(x, mean, deviation)
        ctx.statistics, ctx.number, ctx.eps = statistics, number, eps
        return deviation.flatten(), mean.flatten()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        if ctx.statistics.within_pass:
            return None, None, None
        x, mean, deviation = ctx.saved_tensors
        if torch.is_grad_enabled():  # a derivative of this one is asked for, in which they are no constants
            variance, mean = torch.var_mean(x, [0, *range(2, x.dim())], correction=0, keepdim=True)
            deviation = (variance + ctx.eps).sqrt()
        to_deviation, to_mean = (gradient.view_as(mean) / ctx.number for gradient in gradients)
        slope = to_deviation / deviation
        return torch.addcmul(to_mean - slope * mean, x, slope), None, None


class _Following:
    """The forward function of one layer in evaluation mode."""

    def __init__(self, layer: _BatchNorm, statistics: Statistics) -> None:
        self._layer = layer
        self._statistics = statistics
        self.records: list[tuple[Tensor, Tensor]] = []
        self.calls = 0

    def __call__(self, x: Tensor) -> Tensor:
        layer = self._layer
        mean, variance = layer.running_mean, layer.running_var
        assert mean is not None
        assert variance is not None
        scale, shift = self._record(x) if self._statistics.reference else self._recall()
        weight = scale if layer.weight is None else layer.weight * scale
        offset = weight * shift * (variance + layer.eps).rsqrt()
        bias = -offset if layer.bias is None else layer.bias - offset
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, layer.eps)

    def _record(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift of the reference jets, the first ones of x: 1 and 0, with gradients."""
        x = _first_copy(x, self._statistics.copies)
        # under autocast x has 16 bits, too few for the gradient of a variance
        x = x if x.dtype == torch.float64 else x.float()
        self.records.append(_Moments.apply(x, self._layer.eps, self._statistics))
        return _factors(*self.records[-1])

    def _recall(self) -> tuple[Tensor, Tensor]:
        if not self.records:
            mean = self._layer.running_mean
            assert mean is not None
            return torch.ones_like(mean), torch.zeros_like(mean)
        self.calls += 1
        return _factors(*self.records[(self.calls - 1) % len(self.records)])


def _first_copy(x: Tensor, copies: int) -> Tensor:
    """Rows of the first copy in (copies x jets, channels, ...), or in (1, channels, copies x pairs), weaver's pairs."""
    axis = x.dim() - 1 if len(x) == 1 and x.dim() > 2 else 0
    return x if copies == 1 else x.narrow(axis, 0, x.shape[axis] // copies)


def _factors(deviation: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    return deviation.detach() / deviation, mean - mean.detach()
