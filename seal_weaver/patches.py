"""What seal_weaver knows of weaver's own layers: the sequence trimmer and the pair features.

Everything is reversible and applied only around the penalty's forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from weaver.nn.model.ParticleTransformer import PairEmbed, SequenceTrimmer

__all__ = ["double_precision_pairs", "has_trimmer", "mode_dependent", "preserve_trimmers"]


def has_trimmer(module: nn.Module) -> bool:
    """Whether the network shortens batches to their real constituents."""
    return any(isinstance(m, SequenceTrimmer) and m.enabled for m in module.modules())


def mode_dependent(module: nn.Module) -> bool:
    """Whether a known layer behaves differently in training: BatchNorm, dropout, an enabled trimmer."""
    return any(
        isinstance(m, nn.modules.batchnorm._NormBase)
        or (isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0)
        or (isinstance(m, SequenceTrimmer) and m.enabled)
        or (isinstance(m, nn.MultiheadAttention) and m.dropout > 0)
        for m in module.modules()
    )


@contextmanager
def preserve_trimmers(module: nn.Module) -> Iterator[None]:
    """Restore the call counters of weaver's trimmers, which count evaluation passes, too."""
    trimmers = [m for m in module.modules() if isinstance(m, SequenceTrimmer)]
    counters = [m._counter.clone() for m in trimmers]
    try:
        yield
    finally:
        for trimmer, counter in zip(trimmers, counters, strict=True):
            trimmer._counter.copy_(counter)


@contextmanager
def double_precision_pairs(module: nn.Module) -> Iterator[None]:
    """Evaluate pair features in float64 and hand them on in the precision of the network.

    In float32 the mass of a pair of nearly collinear particles is rounding noise, whose logarithm jumps by
    ten units under an exact symmetry, and the logits with it by 0.1.
    """
    pairs = [m for m in module.modules() if isinstance(m, PairEmbed)]
    originals = [m.pairwise_lv_fts for m in pairs]
    try:
        for pair, original in zip(pairs, originals, strict=True):
            pair.pairwise_lv_fts = _in_double_precision(original)
        yield
    finally:
        for pair, original in zip(pairs, originals, strict=True):
            pair.pairwise_lv_fts = original


def _in_double_precision(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def call(xi: Tensor, xj: Tensor, **keywords: Any) -> Tensor:
        return function(xi.double(), xj.double(), **keywords).to(torch.float32)

    return call
