"""The terms of the loss, per epoch in weaver's log and ``<model-prefix>_seal.jsonl``, per step in TensorBoard.

Sums stay on the device and are read at the end of an epoch; only TensorBoard needs numbers at every step.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from weaver.utils.logger import _logger

from .agreement import significantly_above
from .config import SealConfig
from .errors import SealError, SelfCheckError
from .jet_weights import CHECK_EVERY
from .weights import rms_change

__all__ = ["LABELS", "MODES", "EpochMonitor", "Step", "append_record"]

MODES = ("train", "val")
LABELS = {"gseal": "GSEAL", "delta_seal": "deltaSEAL", "augment": "Augmentation"}
"""How the terms are called in the log and in TensorBoard."""

_COLLAPSE = 0.2
"""A spread and a violation below this share of their largest values so far are suspicious together."""
_CONSTANT = {"probability": 0.02, "logit": 0.0, "output": 0.0}
"""A spread below this is that of a constant output, whatever it was before."""


@dataclass(frozen=True)
class Step:
    """One penalty at one step: its mean, its weight, and the jets in it."""

    penalty: Tensor
    weight: float | Tensor
    jets: int
    excluded: Tensor


class EpochMonitor:
    """Accumulates one epoch of training or validation and writes it out.

    Parameters
    ----------
    epoch, mode: the epoch's number, and ``train`` or ``val``
    path: the JSONL file, or None to write none (ranks other than 0)
    settings: which penalties there are, the compared space, and the largest share of jets that may be excluded
    tb_helper: weaver's TensorBoard helper or None
    """

    def __init__(self, epoch: int, mode: str, path: Path | None, settings: SealConfig, tb_helper: Any = None) -> None:
        self._epoch = epoch
        self._mode = mode
        self._path = path
        self._settings = settings
        self._names = tuple(settings.penalties)
        # augmentation has no penalty, but jets that may be left out
        self._counted = (*self._names, "augment") if settings.augment else self._names
        self._tb_helper = tb_helper
        # task, total, variance, jet weight; penalty, weight, excluded for each term
        self._on_device: Tensor | None = None
        self._steps = 0
        self._spread_jets = 0
        self._jets = dict.fromkeys(self._counted, 0)

    def add(
        self,
        task: Tensor,
        total: Tensor,
        steps: Mapping[str, Step],
        variance: Tensor | None = None,
        jets: int = 0,
        jet_weight: Tensor | None = None,
    ) -> None:
        """Add one step: task loss, total loss, the penalties, the summed variance of the output and its jets.

        ``jet_weight`` is the mean weight of the jets, where they have weights.

        Raises
        ------
        SealError: a penalty is not finite
        SelfCheckError: more jets are excluded than ``max_excluded`` allows
        """
        zero = task.new_zeros(())
        values: list[float | Tensor] = [task, total]
        values += [zero if value is None else value for value in (variance, jet_weight)]
        for name in self._counted:
            step = steps.get(name)
            values += [zero] * 3 if step is None else [step.penalty, step.weight, step.excluded]
            self._jets[name] += 0 if step is None else step.jets
        row = torch.stack([_scalar(value, task.device) for value in values])
        self._on_device = row if self._on_device is None else self._on_device + row
        self._steps += 1
        self._spread_jets += jets
        if self._tb_helper and self._mode == "train":
            record = self._record(row.tolist(), 1, jets, {n: s.jets for n, s in steps.items()})
            self._write_scalars("train", self._tb_helper.global_step, record)
        if not task.is_cuda or self._steps % CHECK_EVERY == 0:
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
        host = self._on_device.new_tensor([self._steps, self._spread_jets, *self._jets.values()])
        sums = torch.cat([self._on_device, host])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        values = sums.tolist()
        steps, spread_jets, *jets = (int(x) for x in values[len(self._on_device) :])
        record = self._record(
            values[: len(self._on_device)], steps, spread_jets, dict(zip(self._counted, jets, strict=True))
        )
        self._log(record)
        if self._path is not None:
            self._warn_of_collapse(record)
            append_record(self._path, record)
        return record

    def _record(self, sums: Sequence[float], steps: int, spread_jets: int, jets: Mapping[str, int]) -> dict[str, Any]:
        task, total, variance, jet_weight, *rest = sums
        record: dict[str, Any] = {
            "epoch": self._epoch,
            "mode": self._mode,
            "task_loss": task / steps,
            "total_loss": total / steps,
            "spread": rms_change(variance / spread_jets, self._settings.compare) if spread_jets else None,
        }
        if self._settings.jet_weights is not None:
            record["jet_weight"] = jet_weight / steps
        for i, name in enumerate(self._names):
            penalty, weight, excluded = rest[3 * i : 3 * i + 3]
            record[name] = {
                "penalty": penalty / steps,
                "rms_change": rms_change(max(0.0, penalty / steps), self._settings.compare),
                "weight": weight / steps,
                "jets": jets.get(name, 0),
                "excluded": int(excluded),
            }
        if "augment" in self._counted:
            record["augment"] = {"jets": jets.get("augment", 0), "excluded": int(rest[-1])}
        return record

    def _check(self, sums: list[float]) -> None:
        for i, name in enumerate(self._counted):
            penalty, _, excluded = sums[4 + 3 * i : 7 + 3 * i]
            jets, limit = self._jets[name], self._settings.max_excluded
            if not penalty < float("inf"):
                raise SealError(
                    f"the {LABELS[name]} penalty is not finite in epoch {self._epoch} ({self._mode}, within the last "
                    f"steps before step {self._steps}): the network returns NaN or inf for transformed jets. Look at "
                    "the task loss (has the training diverged?), lower the learning rate, or clip gradients with "
                    "`-p clip_grad_norm 1.0`. In the first steps: four-momenta that the network reads with angles "
                    "relative to the jet have energies of another frame, which far boosts leave below their momentum"
                )
            if significantly_above(excluded / max(1, jets), jets, limit):
                raise SelfCheckError(
                    f"{int(excluded)} of {jets} jets cannot be transformed (their inputs are not reproduced from the "
                    f"four-momenta, or are not finite), more than seal.max_excluded = {limit:.1%}; "
                    "the check of the first batch in this log says which variables differ"
                )

    def _log(self, record: dict[str, Any]) -> None:
        terms = "; ".join(
            f"{LABELS[name]} {record[name]['penalty']:.3e} (RMS change {record[name]['rms_change']:.3g}) "
            f"x weight {record[name]['weight']:.3g}, {record[name]['excluded']} of {record[name]['jets']} jets excluded"
            for name in self._names
        )
        if "augment" in record and self._mode == "train":
            terms += "{excluded} of {jets} jets not augmented".format(**record["augment"])
        if "jet_weight" in record:
            terms = f"mean jet weight {record['jet_weight']:.4g}; {terms}"
        if record["spread"] is not None:
            terms = f"spread of the output {record['spread']:.3g}; {terms}"
        _logger.info(
            "SEAL epoch #%d %s: task loss %.5f, total %.5f; %s",
            record["epoch"],
            record["mode"],
            record["task_loss"],
            record["total_loss"],
            terms or "no penalty",
        )
        if self._tb_helper:
            mode = "train" if self._mode == "train" else "eval"
            self._write_scalars(f"{mode} (epoch)", self._epoch, record)

    def _warn_of_collapse(self, record: dict[str, Any]) -> None:
        """A constant network satisfies every penalty: say so when spread and violation have fallen together."""
        assert self._path is not None
        earlier = [r for r in _read(self._path) if _order(r) < _order(record) and r["mode"] == self._mode]
        for name in self._names:
            changes = [r[name]["rms_change"] for r in earlier if isinstance(r.get(name), dict)]
            if record[name]["jets"] == 0 or record["spread"] is None:
                continue
            fallen = bool(changes) and (
                record["spread"] < _COLLAPSE * max(r.get("spread") or 0.0 for r in earlier)
                and record[name]["rms_change"] < _COLLAPSE * max(changes)
            )
            if fallen or record["spread"] < _CONSTANT[self._settings.compare]:
                _logger.warning(
                    "SEAL epoch #%d %s: the output hardly depends on the jet any more (spread %.2g), and the small %s "
                    "(RMS change %.2g) says nothing: a constant network satisfies every symmetry. Lower "
                    "seal.%s.weight, or let it grow later with warmup_epochs",
                    record["epoch"],
                    record["mode"],
                    record["spread"],
                    LABELS[name],
                    record[name]["rms_change"],
                    name,
                )

    def _write_scalars(self, tag: str, step: int, record: dict[str, Any]) -> None:
        scalars = [("TaskLoss", record["task_loss"]), ("TotalLoss", record["total_loss"])]
        if record["spread"] is not None:
            scalars.append(("Spread", record["spread"]))
        if "jet_weight" in record:
            scalars.append(("JetWeight", record["jet_weight"]))
        for name in self._names:
            label, term = LABELS[name], record[name]
            scalars += [
                (label, term["penalty"]),
                (f"{label}RmsChange", term["rms_change"]),
                (f"{label}Weight", term["weight"]),
                (f"{label}Excluded", term["excluded"]),
            ]
        self._tb_helper.write_scalars([(f"SEAL/{name}/{tag}", value, step) for name, value in scalars])


def _scalar(value: float | Tensor, device: torch.device) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().to(device, torch.float64)
    # `full` fills on the device; copying a number from the host would wait for it
    return torch.full((), value, dtype=torch.float64, device=device)


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
