"""The loss that weaver's loops call: the task loss plus the weighted penalties that the hook has left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .errors import AttachmentError
from .ledger import Entry
from .monitor import Step
from .run import Run

__all__ = ["SealLoss"]


class SealLoss:
    """The task loss plus ``weight * penalty`` for each penalty.

    In validation it is the task loss alone, and the penalties are logged: weaver chooses the best epoch and
    reports the validation loss as it would without SEAL.
    """

    def __init__(self, task_loss: Callable[..., Tensor], run: Run) -> None:
        self._task_loss = task_loss
        self._run = run

    def __repr__(self) -> str:
        return f"SealLoss({self._task_loss!r})"

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        run = self._run
        run.require_ready()
        task = self._task_loss(*args, **kwargs)
        entries = run.ledger.take()
        if not entries:
            if run.expects_penalty() and torch.is_grad_enabled():
                raise AttachmentError(
                    "a training step reached the loss without a penalty: expected SEAL's forward hook on the network "
                    "to have run once before each call of the loss. Was the network copied or replaced after "
                    "`get_model`, or the loss called twice for one forward pass?"
                )
            self._log_without_penalty(task)
            return task
        total, steps = self._add_penalties(task, entries)
        steps |= run.augmented(task)
        variance = torch.stack([entry.variance.to(task.device) for entry in entries]).sum()
        if run.monitor is not None:
            jets = sum(entry.jets for entry in entries)
            run.monitor.add(task, total, steps, variance, jets, run.mean_jet_weight())
        run.next_step()
        return task if run.validating else total

    def _add_penalties(self, task: Tensor, entries: Sequence[Entry]) -> tuple[Tensor, dict[str, Step]]:
        """The total loss, and what to record of each penalty."""
        run, total, steps = self._run, task, {}
        for name in entries[0].terms:
            terms = [entry.terms[name] for entry in entries]
            jets = sum(term.jets for term in terms)
            penalty = torch.stack([term.total.to(task.device) for term in terms]).sum() / jets
            excluded = torch.stack([term.excluded.to(task.device) for term in terms]).sum()
            weight = run.weight(name, task.device)
            total = total + (weight.to(penalty) if isinstance(weight, Tensor) else weight) * penalty
            run.update_weight(name, penalty)
            steps[name] = Step(penalty, weight, jets, excluded)
        return total, steps

    def _log_without_penalty(self, task: Tensor) -> None:
        """Weight 0: nothing is computed, the record says so."""
        run = self._run
        if run.monitor is not None:
            run.monitor.add(task, task, run.augmented(task), jet_weight=run.mean_jet_weight())
        run.next_step()
