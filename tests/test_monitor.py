"""Sums, records and the JSONL file."""

from __future__ import annotations

import json

import pytest
import torch

from seal_weaver.errors import SealError, SelfCheckError
from seal_weaver.monitor import EpochMonitor, append_record


class Helper:
    def __init__(self) -> None:
        self.global_step = 3
        self.written: list[tuple[str, float, int]] = []

    def write_scalars(self, info) -> None:
        self.written += info


def fill(monitor: EpochMonitor, excluded: int = 1) -> None:
    for task, penalty, weight in ((1.0, 0.5, 0.1), (3.0, 0.1, 0.2)):
        monitor.add(torch.tensor(task), torch.tensor(penalty), weight, 10, torch.tensor(excluded))


def test_an_epoch_is_averaged_over_its_steps(tmp_path) -> None:
    path = tmp_path / "new" / "net_seal.jsonl"
    monitor = EpochMonitor(2, "train", path, max_excluded=0.5)
    fill(monitor)
    record = monitor.finish()
    assert json.loads(path.read_text()) == record
    assert list(record) == ["epoch", "mode", "task_loss", "gseal", "weight", "total_loss", "jets", "excluded"]
    assert record["task_loss"] == pytest.approx(2.0)
    assert record["gseal"] == pytest.approx(0.3)
    assert record["weight"] == pytest.approx(0.15)
    assert record["total_loss"] == pytest.approx((1.05 + 3.02) / 2)
    assert (record["epoch"], record["mode"], record["jets"], record["excluded"]) == (2, "train", 20, 2)


def test_no_step_no_record(tmp_path) -> None:
    assert EpochMonitor(0, "val", tmp_path / "x.jsonl", 0.5).finish() is None
    assert not (tmp_path / "x.jsonl").exists()


def test_tensorboard_gets_steps_and_epochs() -> None:
    helper = Helper()
    monitor = EpochMonitor(1, "train", None, 0.5, helper)
    fill(monitor)
    monitor.finish()
    assert ("SEAL/GSEAL/train", 0.5, 3) in helper.written
    assert ("SEAL/TaskLoss/train (epoch)", 2.0, 1) in helper.written


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_penalty_that_is_not_finite_stops_the_training(value: float) -> None:
    monitor = EpochMonitor(1, "train", None, 0.5)
    with pytest.raises(SealError, match="the GSEAL penalty is not finite in epoch 1"):
        monitor.add(torch.tensor(1.0), torch.tensor(value), 1.0, 10, torch.tensor(0))


def test_too_many_excluded_jets_stop_the_training() -> None:
    monitor = EpochMonitor(1, "train", None, 0.1)
    with pytest.raises(
        SelfCheckError, match=r"10 of 10 jets cannot be transformed .* more than seal.max_excluded = 10.0%"
    ):
        fill(monitor, excluded=10)


def test_a_resumed_run_replaces_the_epochs_that_it_repeats(tmp_path) -> None:
    path = tmp_path / "net_seal.jsonl"
    for epoch in range(3):
        for mode in ("train", "val"):
            append_record(path, {"epoch": epoch, "mode": mode, "run": 1})
    append_record(path, {"epoch": 1, "mode": "train", "run": 2})
    append_record(path, {"epoch": 1, "mode": "val", "run": 2})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["epoch"], line["mode"], line["run"]) for line in lines] == [
        (0, "train", 1),
        (0, "val", 1),
        (1, "train", 2),
        (1, "val", 2),
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["net_seal.jsonl"]
