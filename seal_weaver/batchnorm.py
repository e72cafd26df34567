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
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["following_statistics"]


@contextmanager
def following_statistics(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Let the BatchNorm layers among ``modules`` differentiate through their running statistics.

    The first half of a batch must be the reference jets and the second half their transforms; a network that brings
    jets into another order before a normalisation gets the derivative of the statistics of both. Give only layers that
    are in training mode in the main pass: frozen ones do have constant statistics. Layers with a forward function
    of their own are left alone.
    """
    layers = [m for m in modules if isinstance(m, _BatchNorm) and m.running_mean is not None and _is_standard(m)]
    try:
        for layer in layers:
            layer.__dict__["forward"] = _Following(layer)
        yield
    finally:
        for layer in layers:
            del layer.__dict__["forward"]


def _is_standard(layer: _BatchNorm) -> bool:
    return type(layer).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward) and "forward" not in layer.__dict__


class _Following:
    """The forward function of one layer in evaluation mode."""

    def __init__(self, layer: _BatchNorm) -> None:
        self._layer = layer

    def __call__(self, x: Tensor) -> Tensor:
        layer = self._layer
        mean, variance = layer.running_mean, layer.running_var
        assert mean is not None
        assert variance is not None
        half = _reference(x)
        batch_variance, batch_mean = torch.var_mean(half, [0, *range(2, x.dim())], correction=0)
        deviation = (batch_variance + layer.eps).sqrt()
        scale = deviation.detach() / deviation  # 1, with a gradient
        shift = batch_mean - batch_mean.detach()  # 0, with a gradient
        weight = scale if layer.weight is None else layer.weight * scale
        offset = weight * shift * (variance + layer.eps).rsqrt()
        bias = -offset if layer.bias is None else layer.bias - offset
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, layer.eps)


def _reference(x: Tensor) -> Tensor:
    """The part of a layer's input that belongs to the reference jets.

    weaver's sparse pair features come as one row with all pairs of all jets in order; reference and transformed
    jets have the same constituents, hence the same number of pairs. Elsewhere jets are rows.
    """
    if len(x) == 1:
        return x[..., : x.shape[-1] // 2]
    return x[: len(x) // 2]
