"""Penalties on their way from the forward hook, which computes them, to the loss, which adds them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from .errors import AttachmentError

__all__ = ["Entry", "Ledger", "Term"]


@dataclass(frozen=True)
class Term:
    """One penalty of one forward pass; tensors stay on the device.

    Attributes
    ----------
    total: sum over jets of weight x penalty, a scalar with gradients (in training); excluded jets have the weight 0
    jets: number of jets in the penalty, including the excluded ones
    excluded: number of excluded jets, a scalar tensor
    """

    total: Tensor
    jets: int
    excluded: Tensor


@dataclass(frozen=True)
class Entry:
    """What one forward pass left for the loss.

    Attributes
    ----------
    terms: the penalties by name
    variance: sum over jets of ``1/2 sum_c (y_c - mean y_c)^2``, a scalar tensor
    jets: number of jets in it, less one where the mean is over them alone: the sum's degrees of freedom
    """

    terms: Mapping[str, Term]
    variance: Tensor
    jets: int


class Ledger:
    """Penalties on their way from the hook to the loss; safe under DataParallel's threads."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Entry, capacity: int = 1) -> None:
        """Leave a penalty for the loss.

        Raises
        ------
        AttachmentError: an earlier penalty was never consumed: the loss in use is not SEAL's, or one loss belongs to
            several forward passes
        """
        with self._lock:
            if len(self._entries) >= capacity:
                raise AttachmentError(
                    "the penalty of the last forward pass was never added to the loss: expected one call of the loss "
                    "function that `with_seal` returns after each forward pass that is trained on. Either another loss "
                    "is in use (weaver falls back to CrossEntropyLoss when `get_loss` is missing or raises "
                    "AttributeError: define `get_loss` in the network config from `with_seal`, and look for `Loss "
                    "function not defined` in the log; a training loop of your own must call the `loss_func` that it "
                    "is given), or the training loop calls the network more than once for one loss (put the other "
                    "calls under `torch.no_grad()`, or call the loss after each)"
                )
            self._entries.append(entry)

    def take(self) -> list[Entry]:
        """All waiting entries, at most one per replica; empties the ledger."""
        with self._lock:
            entries, self._entries = self._entries, []
        return entries
