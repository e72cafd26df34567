"""Sums, records and the JSONL file."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from seal_weaver.config import SealConfig
from seal_weaver.errors import SealError, SelfCheckError
from seal_weaver.monitor import EpochMonitor, Step, append_record

BOTH = SealConfig.from_dict({"gseal": {}, "delta_seal": {}, "max_excluded": 0.5})


class Helper:
    def __init__(self) -> None:
        self.global_step = 3
        self.written: list[tuple[str, float, int]] = []

    def write_scalars(self, info) -> None:
        self.written += info


def step(penalty: float, weight: float = 1.0, jets: int = 10, excluded: int = 1) -> Step:
    return Step(torch.tensor(penalty), weight, jets, torch.tensor(excluded))


def fill(monitor: EpochMonitor, excluded: int = 1, spread: float = 0.3) -> None:
    for task, penalty, weight in ((1.0, 0.5, 0.1), (3.0, 0.1, torch.tensor(0.2, dtype=torch.float64))):
        steps = {"gseal": step(penalty, weight, 10, excluded), "delta_seal": step(2 * penalty, 0.5, 4, 0)}
        total = torch.tensor(task + 0.1 * penalty)
        monitor.add(torch.tensor(task), total, steps, torch.tensor(10 * spread**2), 10)


def test_an_epoch_is_averaged_over_its_steps(tmp_path) -> None:
    path = tmp_path / "new" / "net_seal.jsonl"
    monitor = EpochMonitor(2, "train", path, BOTH)
    fill(monitor)
    record = monitor.finish()
    assert json.loads(path.read_text()) == record
    assert list(record) == ["epoch", "mode", "task_loss", "total_loss", "spread", "gseal", "delta_seal"]
    assert record["task_loss"] == pytest.approx(2.0)
    assert record["total_loss"] == pytest.approx((1.05 + 3.01) / 2)
    assert record["spread"] == pytest.approx(0.3)
    assert (record["epoch"], record["mode"]) == (2, "train")
    gseal = {"penalty": 0.3, "rms_change": 0.3**0.5, "weight": 0.15, "jets": 20, "excluded": 2}
    assert record["gseal"] == pytest.approx(gseal)
    delta = {"penalty": 0.6, "rms_change": 0.6**0.5, "weight": 0.5, "jets": 8, "excluded": 0}
    assert record["delta_seal"] == pytest.approx(delta)


def test_the_change_of_outputs_compared_as_they_are_is_a_length(tmp_path) -> None:
    monitor = EpochMonitor(0, "train", None, SealConfig.from_dict({"compare": "output"}))
    monitor.add(torch.tensor(1.0), torch.tensor(1.0), {"gseal": step(0.5)}, torch.tensor(1.0), 2)
    record = monitor.finish()
    assert (record["gseal"]["rms_change"], record["spread"]) == (1.0, 1.0)


def test_no_step_no_record(tmp_path) -> None:
    assert EpochMonitor(0, "val", tmp_path / "x.jsonl", BOTH).finish() is None
    assert not (tmp_path / "x.jsonl").exists()


def test_tensorboard_gets_steps_and_epochs() -> None:
    helper = Helper()
    monitor = EpochMonitor(1, "train", None, BOTH, helper)
    fill(monitor)
    monitor.finish()
    written = {(name, number): value for name, value, number in helper.written}
    assert written["SEAL/deltaSEAL/train (epoch)", 1] == pytest.approx(0.6)
    assert written["SEAL/TaskLoss/train (epoch)", 1] == 2.0
    assert written["SEAL/GSEALWeight/train", 3] == pytest.approx(0.2)
    assert ("SEAL/GSEAL/train", 0.5, 3) in helper.written


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("name", "label"), [("gseal", "GSEAL"), ("delta_seal", "deltaSEAL")])
def test_a_penalty_that_is_not_finite_stops_the_training(value: float, name: str, label: str) -> None:
    monitor = EpochMonitor(1, "train", None, BOTH)
    with pytest.raises(SealError, match=f"the {label} penalty is not finite in epoch 1"):
        monitor.add(torch.tensor(1.0), torch.tensor(1.0), {name: step(value)})


def test_too_many_excluded_jets_stop_the_training() -> None:
    monitor = EpochMonitor(1, "train", None, SealConfig())
    with pytest.raises(
        SelfCheckError, match=r"10 of 10 jets cannot be transformed .* more than seal.max_excluded = 10.0%"
    ):
        monitor.add(torch.tensor(1.0), torch.tensor(1.0), {"gseal": step(0.1, excluded=10)})


def collapse(tmp_path, caplog, spreads: list[float], changes: list[float], compare: str = "probability") -> list[str]:
    """Warnings about a constant output after epochs with these spreads and RMS changes."""
    settings = SealConfig.from_dict({"compare": compare})
    with caplog.at_level(logging.WARNING, logger="weaver"):
        for epoch, (spread, change) in enumerate(zip(spreads, changes, strict=True)):
            monitor = EpochMonitor(epoch, "val", tmp_path / "net_seal.jsonl", settings)
            variance = torch.tensor(10 * spread**2 / (2.0 if compare == "output" else 1.0))
            monitor.add(torch.tensor(1.0), torch.tensor(1.0), {"gseal": step(change**2)}, variance, 10)
            monitor.finish()
    return [r.getMessage() for r in caplog.records if "a constant network satisfies every symmetry" in r.getMessage()]


def test_a_collapsing_network_is_reported(tmp_path, caplog) -> None:
    (message,) = collapse(tmp_path, caplog, [0.3, 0.35, 0.05], [0.1, 0.1, 0.005])
    assert message.startswith("SEAL epoch #2 val: the output hardly depends on the jet any more (spread 0.05)")
    assert "Lower seal.gseal.weight" in message


def test_a_constant_network_is_reported_in_its_first_epoch(tmp_path, caplog) -> None:
    assert len(collapse(tmp_path, caplog, [0.004], [1e-4])) == 1


@pytest.mark.parametrize("compare", ["probability", "output"])
def test_a_symmetric_network_that_separates_is_not_reported(tmp_path, caplog, compare: str) -> None:
    assert collapse(tmp_path, caplog, [0.3, 0.35, 0.33], [0.1, 0.01, 1e-4], compare) == []


def test_a_confident_network_is_not_reported_for_its_violation_alone(tmp_path, caplog) -> None:
    assert collapse(tmp_path, caplog, [0.3, 0.05], [0.1, 0.1]) == []


def test_jets_that_are_not_augmented_are_recorded_and_limited(tmp_path, caplog) -> None:
    settings = SealConfig.from_dict({"augment": {}})
    monitor = EpochMonitor(0, "train", tmp_path / "net_seal.jsonl", settings)
    with caplog.at_level(logging.INFO, logger="weaver"):
        monitor.add(torch.tensor(1.0), torch.tensor(1.0), {"augment": step(0.0, 0.0, 100, 2)})
        record = monitor.finish()
    assert record["augment"] == {"jets": 100, "excluded": 2}
    assert record["spread"] is None
    assert "2 of 100 jets not augmented" in caplog.text
    with pytest.raises(SelfCheckError, match="40 of 50 jets cannot be transformed"):
        EpochMonitor(0, "train", None, settings).add(
            torch.tensor(1.0), torch.tensor(1.0), {"augment": step(0.0, 0.0, 50, 40)}
        )


def test_an_epoch_without_penalised_jets_is_no_collapse(tmp_path, caplog) -> None:
    """Weight 0: nothing is computed in training."""
    monitor = EpochMonitor(0, "train", tmp_path / "net_seal.jsonl", SealConfig())
    with caplog.at_level(logging.WARNING, logger="weaver"):
        monitor.add(torch.tensor(1.0), torch.tensor(1.0), {})
        monitor.finish()
    assert caplog.text == ""


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
