"""What seal_weaver knows of weaver's own layers: the sequence trimmer and the pair features.

Everything is reversible and applied only around the penalty's forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from weaver.nn.model.ParticleTransformer import PairEmbed

__all__ = ["double_precision_pairs", "has_trimmer", "mode_dependent", "preserve_trimmers"]


def _trimmers(module: nn.Module) -> list[nn.Module]:
    """weaver's sequence trimmers, each network's own class; they count their calls in `_counter`."""
    return [m for m in module.modules() if hasattr(m, "_counter") and hasattr(m, "enabled")]


def has_trimmer(module: nn.Module) -> bool:
    """Whether the network shortens batches to their real constituents."""
    return any(m.enabled for m in _trimmers(module))


def mode_dependent(module: nn.Module) -> bool:
    """Whether a known layer behaves differently in training: BatchNorm, dropout, an enabled trimmer."""
    return has_trimmer(module) or any(
        isinstance(m, nn.modules.batchnorm._NormBase)
        # torch's and weaver's names for probabilities of dropping something
        or any(_positive(getattr(m, name, 0)) for name in ("p", "dropout", "attn_drop", "drop_prob"))
        for m in module.modules()
    )


def _positive(probability: Any) -> bool:
    return isinstance(probability, (int, float)) and probability > 0


@contextmanager
def preserve_trimmers(module: nn.Module) -> Iterator[None]:
    """Restore the call counters of weaver's trimmers, which count evaluation passes, too."""
    trimmers: list[Any] = _trimmers(module)
    counters = [m._counter.clone() if isinstance(m._counter, Tensor) else m._counter for m in trimmers]
    try:
        yield
    finally:
        for trimmer, counter in zip(trimmers, counters, strict=True):
            if isinstance(counter, Tensor):
                trimmer._counter.copy_(counter)
            else:
                trimmer._counter = counter


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
