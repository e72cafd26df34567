"""Boost augmentation, the baseline of the penalties: the task loss on transformed jets.

A share of each training batch reaches the network under a random element each, with all inputs recomputed. Labels
stay what they were.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .config import SealConfig
from .features import FeatureMap
from .lorentz import transform
from .subgroups import RandomElements

__all__ = ["Augmenter"]

_STREAM = 2
"""Offset of this module's random stream to the step's seed; the penalties have 0 and 1."""


class Augmenter:
    """A forward pre-hook that replaces jets of training batches by their transforms.

    Parameters
    ----------
    feature_map, settings: what to transform and how; ``settings.augment`` is given
    seeds: index of the replica -> seed of the current step
    on_first_batch: called once with (feature map, inputs) before anything else, e.g. the self-check
    """

    def __init__(
        self,
        feature_map: FeatureMap,
        settings: SealConfig,
        seeds: Callable[[int], int],
        on_first_batch: Callable[[FeatureMap, Sequence[Tensor]], None],
    ) -> None:
        assert settings.augment is not None
        self._feature_map = feature_map
        self._tolerance = settings.tolerance
        self._fraction = settings.augment.fraction
        self._elements = RandomElements(settings, settings.augment)
        self._seeds = seeds
        self._on_first_batch = on_first_batch
        self._checked = False
        self._left_out: list[tuple[int, Tensor]] = []
        self._lock = threading.Lock()
        self._root: weakref.ref[nn.Module] = lambda: None  # type: ignore[assignment]

    def attach(self, module: nn.Module) -> RemovableHandle:
        """Register the hook; before it the inputs must be complete, with the jet group."""
        self._root = weakref.ref(module)
        return module.register_forward_pre_hook(torch.compiler.disable(self._hook), prepend=True)

    def take(self, device: torch.device) -> tuple[int, Tensor]:
        """Number of jets that were to be transformed since the last call, and of those that could not be."""
        with self._lock:
            counts, self._left_out = self._left_out, []
        excluded = [count.to(device) for _, count in counts]
        return sum(jets for jets, _ in counts), torch.stack([torch.zeros((), device=device), *excluded]).sum()

    def _hook(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        ours = module is self._root() or getattr(module, "_is_replica", False)
        if not (ours and module.training and torch.is_grad_enabled()):
            return None
        with self._lock:
            if not self._checked:
                self._on_first_batch(self._feature_map, args)
                self._checked = True
        with torch.no_grad(), torch.autocast(args[0].device.type, enabled=False):
            return self._transformed(args)

    def _transformed(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The batch with its first jets transformed; those that cannot be stay as they are."""
        few = [x[: math.ceil(self._fraction * len(inputs[0]))] for x in inputs]
        device = few[0].device
        seed = self._seeds(few[0].get_device() if few[0].is_cuda else 0)
        generator = torch.Generator(device=device).manual_seed(seed + _STREAM)
        momenta = self._feature_map.momenta(few)
        moved = transform(self._elements.draw(len(momenta), generator).momenta, momenta)
        at_rest, finite_at_rest = self._feature_map(momenta, few)
        recomputed, finite = self._feature_map(moved, few)
        close = (self._feature_map.deviations(at_rest, few) <= self._tolerance).all(dim=1)
        usable = close & finite & finite_at_rest
        with self._lock:
            self._left_out.append((len(usable), (~usable).sum().float()))
        for hidden in self._feature_map.layout.hidden:  # stripped by the next hook
            recomputed.insert(hidden, inputs[hidden][: len(usable)])
        return tuple(
            torch.cat(
                [torch.where(usable.view(-1, *(1,) * (x.dim() - 1)), new.to(x.dtype), x[: len(new)]), x[len(new) :]]
            )
            for new, x in zip(recomputed, inputs, strict=True)
        )
