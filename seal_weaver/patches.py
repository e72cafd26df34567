"""What seal_weaver knows of weaver's own layers: the sequence trimmer and the pair features.

Everything is reversible and applied only around the penalty's forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from weaver.nn.model.ParticleTransformer import PairEmbed, pairwise_lv_fts_pp

from .derivatives import safe_derivatives

__all__ = [
    "double_precision_pairs",
    "has_trimmer",
    "mode_dependent",
    "obstacle_to_gradients",
    "preserve_trimmers",
    "set_trimmer_calls",
    "trimmer_calls",
    "wake_trimmers",
]

_ROUGH_PAIR_FEATURES = 6
"""From this number of `pp` features on, one is an angle in the rest frame of a pair: for nearly massless pairs its
derivatives reach 1e8 and more, and a squared derivative is all noise."""


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
    # tensors stay on the device: reading them would wait for it
    counters = [m._counter.clone() if isinstance(m._counter, Tensor) else m._counter for m in trimmers]
    try:
        yield
    finally:
        for trimmer, counter in zip(trimmers, counters, strict=True):
            if isinstance(counter, Tensor):
                trimmer._counter.copy_(counter)
            else:
                trimmer._counter = counter


def trimmer_calls(module: nn.Module) -> list[int]:
    """How often each trimmer was called, up to the number from which on it trims."""
    trimmers: list[Any] = _trimmers(module)
    return [int(trimmer._counter) for trimmer in trimmers]


def set_trimmer_calls(module: nn.Module, calls: Sequence[int]) -> None:
    """The opposite of ``trimmer_calls``; networks with another number of trimmers are left alone."""
    trimmers: list[Any] = _trimmers(module)
    if len(calls) != len(trimmers):
        return
    for trimmer, count in zip(trimmers, calls, strict=True):
        if isinstance(trimmer._counter, Tensor):
            trimmer._counter.fill_(count)
        else:
            trimmer._counter = count


def wake_trimmers(module: nn.Module) -> None:
    """Let trimmers behave as they do after their first calls; within ``preserve_trimmers``."""
    set_trimmer_calls(module, [getattr(trimmer, "warmup_steps", 0) for trimmer in _trimmers(module)])


def obstacle_to_gradients(module: nn.Module) -> str | None:
    """Why derivatives of this network with respect to the four-momenta are known to be useless, or None."""
    for m in module.modules():
        function = getattr(m, "pairwise_lv_fts", None)
        outputs = getattr(m, "pairwise_lv_dim", 0)
        is_pp = isinstance(function, partial) and function.func is pairwise_lv_fts_pp
        if isinstance(m, PairEmbed) and is_pp and outputs >= _ROUGH_PAIR_FEATURES:
            return f"{outputs} `pp` pair features, whose derivatives reach 1e8 for nearly massless pairs"
        compiled = isinstance(m, torch._dynamo.eval_frame.OptimizedModule)
        if compiled or (m is not module and getattr(m, "_compiled_call_impl", None) is not None):
            return "a part of the network is compiled, and compiled code cannot be differentiated twice"
    if getattr(module, "_is_replica", False):
        return "under DataParallel the choice of attention kernels would be shared by threads"
    return None


@contextmanager
def double_precision_pairs(module: nn.Module, precision: torch.dtype = torch.float32) -> Iterator[None]:
    """Evaluate pair features in float64 and hand them on in the network's ``precision``.

    In float32 the mass of a pair of nearly collinear particles is rounding noise, whose logarithm jumps by
    ten units under an exact symmetry, and the logits with it by 0.1. Where gradients are asked for they are finite:
    weaver's own are not, for a particle paired with itself or with its copy.
    """
    pairs = [m for m in module.modules() if isinstance(m, PairEmbed)]
    originals = [m.pairwise_lv_fts for m in pairs]
    try:
        for pair, original in zip(pairs, originals, strict=True):
            pair.pairwise_lv_fts = _in_double_precision(original, precision)
        yield
    finally:
        for pair, original in zip(pairs, originals, strict=True):
            pair.pairwise_lv_fts = original


def _in_double_precision(function: Callable[..., Tensor], precision: torch.dtype) -> Callable[..., Tensor]:
    def call(xi: Tensor, xj: Tensor, **keywords: Any) -> Tensor:
        with safe_derivatives() if xi.requires_grad else nullcontext():
            return function(xi.double(), xj.double(), **keywords).to(precision)

    return call
