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
from weaver.nn.model import ParticleNeXt as particlenext
from weaver.nn.model.ParticleTransformer import PairEmbed, SequenceTrimmer, pairwise_lv_fts_pp

from .derivatives import safe_derivatives

__all__ = [
    "differentiable_trimmers",
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


_WARMUP_STEPS = 5
"""Calls before a trimmer trims, where it does not say so itself."""


def _trimmers(module: nn.Module) -> list[nn.Module]:
    """weaver's sequence trimmers, which count their calls in `_counter`; ParticleNeXt is its own."""
    return [m for m in module.modules() if _trims_itself(m) or (hasattr(m, "_counter") and hasattr(m, "enabled"))]


def has_trimmer(module: nn.Module) -> bool:
    """Whether the network shortens batches to their real constituents."""
    trimmers: list[Any] = _trimmers(module)
    return any(m.trim and not m.for_inference if _trims_itself(m) else m.enabled for m in trimmers)


def _trims_itself(module: nn.Module) -> bool:
    return isinstance(module, particlenext.ParticleNeXt)


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
    set_trimmer_calls(module, [getattr(trimmer, "warmup_steps", _WARMUP_STEPS) for trimmer in _trimmers(module)])


@contextmanager
def differentiable_trimmers(module: nn.Module) -> Iterator[None]:
    """Let gradients through weaver's trimmers, which only choose places.

    Its networks call them without gradients, some of them always (``ParticleNetTagger``). What is trimmed is then cut
    off, what is not is returned as it is: whether there is a derivative would depend on the longest jet of the batch.
    """
    trimmers = [m for m in module.modules() if isinstance(m, SequenceTrimmer)]
    own = [vars(trimmer).get("forward") for trimmer in trimmers]  # put there by users; None: that of the class
    try:
        for trimmer in trimmers:
            trimmer.forward = torch.enable_grad()(trimmer.forward)
        yield
    finally:
        for trimmer, forward in zip(trimmers, own, strict=True):
            if forward is None:
                del trimmer.forward
            else:
                trimmer.forward = forward


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
    pairs = [(m, "pairwise_lv_fts") for m in module.modules() if isinstance(m, PairEmbed)]
    graphs = [
        (m, "get_graph_feature")
        for m in module.modules()
        if isinstance(m, (particlenext.ParticleNeXt, particlenext.MultiScaleEdgeConv)) and m.get_graph_feature
    ]
    originals = [getattr(m, name) for m, name in (*pairs, *graphs)]
    try:
        for m, name in pairs:
            setattr(m, name, _in_double_precision(getattr(m, name), precision))
        for m, name in graphs:
            setattr(m, name, _edges_in_double_precision(getattr(m, name), precision))
        yield
    finally:
        for (m, name), original in zip((*pairs, *graphs), originals, strict=True):
            setattr(m, name, original)


def _in_double_precision(function: Callable[..., Tensor], precision: torch.dtype) -> Callable[..., Tensor]:
    def call(xi: Tensor, xj: Tensor, **keywords: Any) -> Tensor:
        with safe_derivatives() if xi.requires_grad else nullcontext():
            return function(xi.double(), xj.double(), **keywords).to(precision)

    return call


def _edges_in_double_precision(function: Callable[..., Any], precision: torch.dtype) -> Callable[..., Any]:
    """ParticleNeXt's: features of edges, distances, the neighbours' four-momenta, places without an edge."""

    def call(
        pts: Tensor | None = None, fts: Tensor | None = None, lvs: Tensor | None = None, *rest: Any, **keywords: Any
    ) -> Any:
        with safe_derivatives() if lvs is not None and lvs.requires_grad else nullcontext():
            doubles = None if lvs is None else lvs.double()
            results = function(pts, fts, doubles, *rest, **keywords)
        return tuple(x.to(precision) if isinstance(x, Tensor) and x.is_floating_point() else x for x in results)

    return call
