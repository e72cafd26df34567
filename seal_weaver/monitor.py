"""The terms of the loss, per epoch in weaver's log and ``<model-prefix>_seal.jsonl``, per step in TensorBoard.

Sums stay on the device and are read at the end of an epoch; only TensorBoard needs numbers at every step.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from weaver.utils.logger import _logger

from .errors import SealError, SelfCheckError
from .selfcheck import significantly_above

__all__ = ["MODES", "EpochMonitor", "append_record"]

MODES = ("train", "val")

_CHECK_EVERY = 100
"""Steps between looks at non-finite penalties and excluded jets on a GPU, where a look waits for the device."""


class EpochMonitor:
    """Accumulates one epoch of training or validation and writes it out.

    Parameters
    ----------
    epoch, mode: the epoch's number, and ``train`` or ``val``
    path: the JSONL file, or None to write none (ranks other than 0)
    max_excluded: largest share of jets that may be excluded
    tb_helper: weaver's TensorBoard helper or None
    """

    def __init__(self, epoch: int, mode: str, path: Path | None, max_excluded: float, tb_helper: Any = None) -> None:
        self._epoch = epoch
        self._mode = mode
        self._path = path
        self._max_excluded = max_excluded
        self._tb_helper = tb_helper
        self._on_device: Tensor | None = None  # task loss, penalty, total loss, excluded jets
        self._weight = 0.0
        self._jets = 0
        self._steps = 0

    def add(self, task: Tensor, penalty: Tensor, weight: float, jets: int, excluded: Tensor) -> None:
        """Add one step: task loss, mean penalty, its weight, numbers of penalised and of excluded jets.

        Raises
        ------
        SealError: a penalty is not finite
        SelfCheckError: more jets are excluded than ``max_excluded`` allows
        """
        task, penalty = task.detach().double(), penalty.detach().double()
        step = torch.stack([task, penalty, task + weight * penalty, excluded.double()])
        self._on_device = step if self._on_device is None else self._on_device + step
        self._weight += weight
        self._jets += jets
        self._steps += 1
        if self._tb_helper and self._mode == "train":
            task_loss, gseal, total, left_out = step.tolist()
            self._write_scalars("train", self._tb_helper.global_step, task_loss, gseal, weight, total, jets, left_out)
        if not task.is_cuda or self._steps % _CHECK_EVERY == 0:
            self._check(self._on_device.tolist())

    def finish(self) -> dict[str, Any] | None:
        """Average over steps and ranks, check, log and write; None if there was no step.

        Raises
        ------
        SealError, SelfCheckError: as ``add``
        """
        if self._on_device is None:
            return None
        self._check(self._on_device.tolist())
        host = self._on_device.new_tensor([self._weight, self._jets, self._steps])
        sums = torch.cat([self._on_device, host])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        task, penalty, total, excluded, weight, jets, steps = sums.tolist()
        record = {
            "epoch": self._epoch,
            "mode": self._mode,
            "task_loss": task / steps,
            "gseal": penalty / steps,
            "weight": weight / steps,
            "total_loss": total / steps,
            "jets": int(jets),
            "excluded": int(excluded),
        }
        self._log(record)
        if self._path is not None:
            append_record(self._path, record)
        return record

    def _check(self, sums: list[float]) -> None:
        _, penalty, _, excluded = sums
        if not penalty < float("inf"):
            raise SealError(
                f"the GSEAL penalty is not finite in epoch {self._epoch} ({self._mode}, within the last steps before "
                f"step {self._steps}): the network returns NaN or inf for transformed jets. Look at the task loss (has "
                "the training diverged?), lower the learning rate, or clip gradients with `-p clip_grad_norm 1.0`"
            )
        if significantly_above(excluded / max(1, self._jets), self._jets, self._max_excluded):
            raise SelfCheckError(
                f"{int(excluded)} of {self._jets} jets cannot be transformed (their inputs are not reproduced from the "
                f"four-momenta, or are not finite), more than seal.max_excluded = {self._max_excluded:.1%}; "
                "the check of the first batch in this log says which variables differ"
            )

    def _log(self, record: dict[str, Any]) -> None:
        _logger.info(
            "SEAL epoch #%d %s: task loss %.5f, GSEAL %.3e x weight %.3g, total %.5f; %d of %d jets excluded (%.2f%%)",
            record["epoch"],
            record["mode"],
            record["task_loss"],
            record["gseal"],
            record["weight"],
            record["total_loss"],
            record["excluded"],
            record["jets"],
            100.0 * record["excluded"] / max(1, record["jets"]),
        )
        if self._tb_helper:
            mode = "train" if self._mode == "train" else "eval"
            values = (record[key] for key in ("task_loss", "gseal", "weight", "total_loss", "jets", "excluded"))
            self._write_scalars(f"{mode} (epoch)", self._epoch, *values)

    def _write_scalars(self, tag: str, step: int, *values: float) -> None:
        names = ("TaskLoss", "GSEAL", "Weight", "TotalLoss", "Jets", "Excluded")
        scalars = [(f"SEAL/{name}/{tag}", value, step) for name, value in zip(names, values, strict=True)]
        self._tb_helper.write_scalars(scalars)


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Write one line, dropping lines of the same or later epochs that an interrupted or earlier run left."""
    kept = [line for line in _read(path) if _order(line) < _order(record)]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in [*kept, record]))
    os.replace(temporary, path)


def _order(record: dict[str, Any]) -> tuple[int, int]:
    return record["epoch"], MODES.index(record["mode"])


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
