"""Weights of jets, on their way from the input group that holds them to the loss.

weaver's loops hand the loss outputs and labels, nothing else. The weights come with the inputs, so that a hook sees
them, in every replica of DataParallel those of its own jets, before they are taken away from the network.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .errors import AttachmentError, SealError

__all__ = ["CHECK_EVERY", "JetWeights", "of_jets"]

CHECK_EVERY = 100
"""Steps between looks at what must not happen on a GPU, where a look waits for the device."""

_LARGEST = 1e30
"""weaver replaces infinite inputs by the largest float32, 3e38, and NaN by 0, of which it warns."""


def of_jets(inputs: Sequence[Tensor], index: int) -> Tensor:
    """The weights (N,) in input ``index``, of shape (N, 1, 1) or (N,)."""
    return inputs[index].detach().reshape(len(inputs[index]))


class JetWeights:
    """The weights of the current batch: a hook leaves them, the loss takes them.

    Parameters
    ----------
    name: the input group, for messages
    report: called once with the mean weight of the first batch and its number of jets

    Attributes
    ----------
    device_order: device indices in the order in which DataParallel shares out a batch; None: ascending
    mean: mean weight of the batch that was taken last, a scalar tensor
    """

    def __init__(self, name: str, report: Callable[[float, int], None]) -> None:
        self.name = name
        self.device_order: Sequence[int] | None = None
        self.mean = torch.ones(())
        self._report = report
        self._waiting: dict[int, Tensor] = {}
        self._lock = threading.Lock()
        self._steps = self._jets = 0
        self._wrong: Tensor | None = None
        self._root: weakref.ref[nn.Module] = lambda: None  # type: ignore[assignment]

    def attach(self, module: nn.Module, index: int) -> RemovableHandle:
        """Register the hook on a network whose input ``index`` the weights are; before it nothing may be stripped."""
        self._root = weakref.ref(module)

        def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            if module is not self._root() and not getattr(module, "_is_replica", False):
                return  # a copy, such as weaver's FLOP counter makes
            weights = of_jets(args, index)
            with self._lock:
                self._waiting[_device(weights)] = weights

        return module.register_forward_pre_hook(torch.compiler.disable(keep), prepend=True)

    def take(self, rows: int, device: torch.device) -> Tensor:
        """The weights (rows,) of the jets that the loss has before it; each batch's once.

        Raises
        ------
        AttachmentError: there are none, or not as many as jets in the loss
        SealError: weights are negative or not finite
        """
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        order = self.device_order or sorted(waiting)
        shares = [waiting[key].to(device) for key in sorted(waiting, key=lambda key: _position(order, key))]
        if not shares:
            raise AttachmentError(
                f"seal.jet_weights: the loss found no weights of `{self.name}`: expected one forward pass of the "
                "network before each call of the loss. Was the network copied or replaced after `get_model`, or the "
                "loss called twice for one forward pass?"
            )
        weights = _of_all_ranks(torch.cat(shares), rows)
        if len(weights) != rows:
            raise AttachmentError(
                f"seal.jet_weights: the loss was given {rows} rows for {len(weights)} jets: expected one row per jet. "
                "weaver's own loop makes rows of particles from per-particle outputs; there the loss of a jet is not "
                "known any more, and jets cannot have weights"
            )
        self._look_at(weights)
        return weights

    def _look_at(self, weights: Tensor) -> None:
        wrong = (~((weights >= 0) & (weights < _LARGEST))).sum()
        self.mean = weights.mean()
        self._wrong = wrong if self._wrong is None else self._wrong + wrong
        self._steps += 1
        self._jets += len(weights)
        if self._steps == 1:
            self.check()
            self._report(float(self.mean), len(weights))
        elif (self._wrong.device.type == "cpu" and self._wrong > 0) or self._steps % CHECK_EVERY == 0:
            self.check()

    def check(self) -> None:
        """Look at the weights since the last look; waits for the device.

        Raises
        ------
        SealError: some are negative or not finite
        """
        if self._wrong is None:
            return
        wrong, jets = int(self._wrong), self._jets
        self._wrong, self._jets = None, 0
        if wrong:
            raise SealError(
                f"seal.jet_weights: {wrong} of the last {jets} weights in `{self.name}` are negative or not finite; "
                "expected numbers >= 0. A negative weight would reward wrong answers and broken symmetries of its jet: "
                "leave such jets out with `selection:`, or define a weight >= 0 under `new_variables:`"
            )


def _device(weights: Tensor) -> int:
    return weights.get_device()


def _position(order: Sequence[int], key: int) -> int:
    return list(order).index(key) if key in order else len(order) + key


def _of_all_ranks(weights: Tensor, rows: int) -> Tensor:
    """In validation weaver gives the loss the jets of all processes, one after the other."""
    if torch.is_grad_enabled() or not (dist.is_available() and dist.is_initialized()):
        return weights
    ranks = dist.get_world_size()
    if rows != ranks * len(weights):
        return weights
    gathered = [torch.empty_like(weights) for _ in range(ranks)]
    dist.all_gather(gathered, weights.contiguous())
    return torch.cat(gathered)
